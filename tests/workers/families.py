"""Tiny random models of every family, and token ids to run them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from workers.records.tokens import TokenizedTexts

TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
                        "vocab_size": 30522, "max_position_embeddings": 130}  # fmt: skip
SMALL = {name: TINY[name] for name in ("vocab_size", "max_position_embeddings")}
RELATIVE: dict[str, Any] = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
FAMILIES: dict[str, Any] = {
    "Bert": transformers.BertConfig(**TINY),
    "Roberta": transformers.RobertaConfig(**TINY, type_vocab_size=1),
    "XLMRoberta": transformers.XLMRobertaConfig(**TINY, type_vocab_size=1),
    "DistilBert": transformers.DistilBertConfig(**SMALL, dim=32, hidden_dim=48, n_layers=4, n_heads=4),
    "MPNet": transformers.MPNetConfig(**TINY),
    "Electra": transformers.ElectraConfig(**TINY, embedding_size=16),
    "Albert": transformers.AlbertConfig(**TINY, embedding_size=16),
    "ModernBert": transformers.ModernBertConfig(**TINY, pad_token_id=0, local_attention=16, global_attn_every_n_layers=2),
    "DebertaV2": transformers.DebertaV2Config(**TINY, **RELATIVE),
}  # fmt: skip


def save_family(minilm: Path, target: Path, config: Any) -> Path:
    """A random model of a family with MiniLM's tokenizer."""
    torch.manual_seed(3)
    transformers.AutoModel.from_config(config).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((minilm / name).read_bytes())
    return target


def sequences(count: int, longest: int) -> TokenizedTexts:
    """Random ids, lengths from 2 to `longest` in no order."""
    generator = np.random.default_rng(11)
    lengths = generator.integers(2, longest + 1, count)
    lengths[:2] = longest, 2
    return of_lengths(lengths)


def of_lengths(lengths: np.ndarray) -> TokenizedTexts:
    """Random ids in sequences of these lengths."""
    count, offsets = len(lengths), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return TokenizedTexts(
        input_ids=np.random.default_rng(12).integers(1000, 30000, offsets[-1]).astype(np.int32),
        offsets=offsets,
        document=np.arange(count, dtype=np.int32),
        chunk_start=None,
        chunk_end=None,
        truncated=np.zeros(count, np.bool_),
        num_tokens=np.asarray(lengths, np.int32),
        prompt_tokens=0,
    )


def random_model(family: str) -> Any:
    """On the CPU in float32; no weight is 0 or 1, as fresh biases and norms are, so that none can be left out unseen."""
    return of_config(type(FAMILIES[family])(**FAMILIES[family].to_dict()))


def of_config(config: Any) -> Any:
    """A random model of this configuration, as random_model makes it."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model
