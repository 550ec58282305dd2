"""How far apart the vectors of different texts are, for real and for random weights: the ground of `gate.min_spread`.

    python -m benchmarks.spread CORPUS.parquet --model FOLDER|package:NAME/folder [--rows 64] [--out FILE]

1. a seeded sample of the corpus (columns id, text, section), at most MAX_TOKENS tokens each, by the model's own tokenizer
2. the model, and random weights of many families (config classes of transformers, 12 layers, hidden size 256), in float32:
   the last hidden states, reduced by each pooling
3. the mean cosine distance of pairs (jobs/publish/gate/figures.py), also after a rounding to bfloat16; and that of a
   collapsed model: one and the same vector with the noise of bfloat16's rounding

Random weights are the hardest sane case: untrained layers hardly tell texts apart. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import facts, say, store
from benchmarks.peers import find_model, sample
from jobs.publish.gate.figures import VectorFigures

MAX_TOKENS = 128
BATCH = 32
LAYERS, HIDDEN, HEADS = 12, 256, 4
FAMILIES = (
    "BertConfig", "RobertaConfig", "DistilBertConfig", "ElectraConfig", "MPNetConfig", "AlbertConfig",
    "ModernBertConfig", "DebertaV2Config", "GPT2Config", "Qwen2Config", "LlamaConfig",
)  # fmt: skip
SIZES = {  # the same sizes under the names that the families have for them
    "num_hidden_layers": LAYERS, "n_layers": LAYERS, "n_layer": LAYERS, "hidden_size": HIDDEN, "dim": HIDDEN,
    "n_embd": HIDDEN, "embedding_size": HIDDEN, "num_attention_heads": HEADS, "n_heads": HEADS, "n_head": HEADS,
    "num_key_value_heads": HEADS,
    "intermediate_size": 4 * HIDDEN, "hidden_dim": 4 * HIDDEN, "max_position_embeddings": 512, "n_positions": 512,
}  # fmt: skip


def models(folder: Path) -> dict[str, Any]:
    """Name -> a model in float32, in evaluation mode."""
    import torch
    import transformers

    words = json.loads((folder / "config.json").read_text())["vocab_size"]
    made = {folder.parent.name: transformers.AutoModel.from_pretrained(folder)}
    for name in FAMILIES:
        torch.manual_seed(0)
        config = getattr(transformers, name)(vocab_size=words, pad_token_id=0)
        for key, size in SIZES.items():
            if hasattr(config, key):
                setattr(config, key, size)
        made[f"{name.removesuffix('Config')}, random"] = transformers.AutoModel.from_config(config)
    return {name: model.float().eval() for name, model in made.items()}


def pooled(model: Any, tokens: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Pooling -> vectors [N, D] of the texts."""
    import torch

    found: dict[str, list[Any]] = {"cls": [], "mean": [], "max": [], "last_token": []}
    count = len(tokens["input_ids"])
    with torch.no_grad():
        for start in range(0, count, BATCH):
            ids, mask = (tokens[name][start : start + BATCH] for name in ("input_ids", "attention_mask"))
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            kept = mask.unsqueeze(-1).float()
            found["cls"].append(states[:, 0])
            found["mean"].append((states * kept).sum(1) / kept.sum(1))
            found["max"].append(states.masked_fill(kept == 0, -torch.inf).amax(1))
            found["last_token"].append(states[torch.arange(len(ids)), mask.sum(1) - 1])
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def distance(vectors_ND: np.ndarray[Any, Any]) -> float:
    made = VectorFigures.of(vectors_ND.astype(np.float32))
    if made is None or made.pair_distance is None:
        raise ValueError("fewer than two vectors")
    return float(f"{made.pair_distance:.4g}")


def rounded(vectors_ND: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """To bfloat16 and back."""
    import torch

    widened: np.ndarray[Any, Any] = torch.from_numpy(vectors_ND).bfloat16().float().numpy()
    return widened


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import transformers

    folder = find_model(options.model)
    texts = sample(options.corpus, options.rows, 1)["text"].to_pylist()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    results = []
    for name, model in models(folder).items():
        for pooling, vectors_ND in pooled(model, tokens).items():
            result = {"model": name, "pooling": pooling, "distance": distance(vectors_ND)}
            results.append(result | {"distance_bfloat16": distance(rounded(vectors_ND))})
            say(str(results[-1]))
    once = np.random.default_rng(0).standard_normal(HIDDEN).astype(np.float32)
    noise = 1 + np.random.default_rng(1).uniform(-(2**-9), 2**-9, (len(texts), HIDDEN))
    return facts("spread") | {
        "texts": len(set(texts)),
        "max_tokens": MAX_TOKENS,
        "random": {"layers": LAYERS, "hidden": HIDDEN},
        "collapsed": {"same": distance(np.tile(once, (len(texts), 1))), "bfloat16_noise": distance(once * noise)},
        "results": sorted(results, key=lambda item: item["distance"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure(options)
    store(result, options.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
