"""Exports a model for fastembed and EmbedAnything, once and not counted: an ONNX graph, laid out as a hub client's cache.

    python -m benchmarks.contestants.onnx_export OUTPUT --model FOLDER

EmbedAnything loads by a hub's names alone; with a cache laid out as its client does, and a commit as the revision, it reads
the files and asks no network. Both peers take the longest input from other places than sentence-transformers does, so it is
written into every one of them: the tokenizer's truncation, its configuration, and the number of positions (the rows beyond
it are cut off the table; no shorter input reads them). The weights are otherwise unchanged, in float32.

torch.onnx.export of transformers' module with eager attention, whose products ONNX Runtime fuses when it loads the graph.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

REPOSITORY, COMMIT = "local/model", "0" * 40
GRAPH = "onnx/model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_POSITIONS = "embeddings.position_embeddings.weight"


def snapshot(export: Path) -> Path:
    """The folder of the files, below what `main` wrote."""
    return export / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _write_graph(model: Path, longest: int, path: Path) -> None:
    import torch
    from transformers import AutoModel

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(model, attn_implementation="eager").eval()

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            ids, mask, types = inputs
            # already as scores: transformers then makes none of its own, in operators that no runtime fuses
            bias = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
            return self.model(input_ids=ids, attention_mask=bias, token_type_ids=types).last_hidden_state

    ids = torch.ones(2, min(7, longest), dtype=torch.int64)
    names = (*INPUTS, "last_hidden_state")
    path.parent.mkdir()
    torch.onnx.export(
        LastHiddenState(), (ids, ids, torch.zeros_like(ids)), str(path), input_names=list(INPUTS), output_names=[names[-1]],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in names}, opset_version=17, dynamo=False,
    )  # fmt: skip


def main() -> None:
    from safetensors.torch import load_file, save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    longest = int(json.loads((options.model / "sentence_bert_config.json").read_text())["max_seq_length"])
    place = snapshot(options.output)
    refs = place.parents[1] / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    shutil.copytree(options.model, place, ignore=shutil.ignore_patterns("README.md", "model.safetensors"))
    weights = load_file(options.model / "model.safetensors")
    positions = next(name for name in weights if name.endswith(_POSITIONS))
    weights[positions] = weights[positions][:longest].contiguous()
    weights = {name: values for name, values in weights.items() if not name.endswith("position_ids")}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    _edit(place / "config.json", max_position_embeddings=longest)
    _edit(place / "tokenizer_config.json", model_max_length=longest)
    cut = {"direction": "Right", "max_length": longest, "strategy": "LongestFirst", "stride": 0}
    _edit(place / "tokenizer.json", truncation=cut, padding=None)
    _write_graph(place, longest, place / GRAPH)


if __name__ == "__main__":
    main()
