"""Late chunks from the command to the reader: rows, borders, vectors by transformers, reuse by whole documents, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
import yaml
from transformers import AutoModel, AutoTokenizer

from jobs.commands.verify import verify_snapshot
from tests.local_replicas import local_embed

pytestmark = pytest.mark.slow

NEWS = "It froze in January. Nothing moved but the gulls! The first boat carried flour."
TEXTS = {
    "bergen": f"# Bergen\n\nBergen is a harbour town. {NEWS}\n\n## Trade\n\nThe town sells fish.",
    "riga": f"# Riga\n\nRiga is a harbour town. {NEWS}\n\n## Trade\n\nThe town sells timber.",
    "short": "Snow.",
}
BORDERS = [
    "# Riga\n\nRiga is a harbour town.", "It froze in January. Nothing moved but the gulls!",
    "The first boat carried flour.\n\n## Trade", "The town sells timber.",
]  # fmt: skip


def run(folder: Path, model: Path, texts: dict[str, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    source = folder / "corpus"
    source.mkdir(exist_ok=True)
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (source / "part.jsonl").write_text("\n".join(lines) + "\n")
    config = folder / "run.yaml"
    sections = {
        "corpus": {"uri": f"{source}/", "id": "id"},
        "model": {"name": str(model), "precision": "float32", "max_tokens": 64, "chunk_tokens": 12, "chunk_overlap": 8},
        "output": {"uri": str(folder / "out")},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
    }
    sections["model"] |= {"long_text": "late_chunks", "chunk_by": "sentences"}
    config.write_text(yaml.safe_dump(sections))
    ended = local_embed(config)
    assert ended.rc == 0, ended.log
    rows = ds.dataset(ended.summary["data"], format="parquet").to_table().to_pylist()
    return ended.summary, sorted(rows, key=lambda row: (row["id"], row["chunk"]))


def test_two_nights(tmp_path: Path, small_model: Path) -> None:
    """Then a sentence changes: all chunks of its document are new, those with the same words too; others keep their bits."""
    summary, rows = run(tmp_path, small_model, TEXTS)
    assert summary["documents"] == len(TEXTS)
    assert summary["rows"] == len(rows)
    tokenizer, model = AutoTokenizer.from_pretrained(small_model), AutoModel.from_pretrained(small_model).eval()
    of = {name: [row for row in rows if row["id"] == name] for name in TEXTS}
    for name, text in TEXTS.items():
        spans = [(row["chunk_start"], row["chunk_end"]) for row in of[name]]
        assert [row["chunk"] for row in of[name]] == list(range(len(spans)))
        assert len({row["text_hash"] for row in of[name]}) == 1
        assert name != "riga" or [text[start:end] for start, end in spans] == BORDERS
        found = tokenizer(text, return_offsets_mapping=True)
        with torch.no_grad():
            states = model(input_ids=torch.tensor([found["input_ids"]])).last_hidden_state[0].double().numpy()
        owner = [sum(start >= first for first, _ in spans[1:]) for start, _ in found["offset_mapping"][1:-1]]
        owners = np.array([0, *owner, len(spans) - 1])  # [CLS] is the first chunk's, [SEP] the last one's
        for number, row in enumerate(of[name]):
            expected = states[owners == number].mean(axis=0)
            assert row["num_tokens"] == (owners == number).sum()
            assert np.abs(np.array(row["embedding"]) - expected / np.linalg.norm(expected)).max() <= 1e-5
    assert of["riga"][1]["embedding"] != of["bergen"][1]["embedding"], "the same words in another document"
    report = verify_snapshot(str(tmp_path / "out"), 3)
    assert report["findings"] == []
    assert report["sampled"] == 3

    changed, after = run(tmp_path, small_model, TEXTS | {"riga": TEXTS["riga"].replace("timber", "amber")})
    assert changed["reused_rows"] == len(of["bergen"]) + len(of["short"])
    for name in ("bergen", "short"):
        assert [row for row in after if row["id"] == name] == of[name]
    news = [row for row in after if row["id"] == "riga"]
    assert [row["chunk_start"] for row in news] == [row["chunk_start"] for row in of["riga"]]
    assert all(one["embedding"] != other["embedding"] for one, other in zip(news, of["riga"], strict=True))
