"""Are the vectors right? Rows, ids, cosine to a float32 reference, and whether neighbours stay neighbours.

Also counts real tokens: what the model's own tokenizer gives after truncation, special tokens included, padding never.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

NEIGHBOURS = 10
NEIGHBOUR_TEXTS = 2000  # both the queries and what is searched


def read_vectors(folder: Path) -> tuple[list[Any], np.ndarray]:
    """All Parquet files below a folder -> ids, (rows, dimension) float32.

    Raises:
        ValueError: no file, a missing vector, or vectors of different lengths.
    """
    tables = [pq.ParquetFile(path).read(["id", "embedding"]) for path in sorted(folder.rglob("*.parquet"))]
    if not tables:
        raise ValueError("wrote no Parquet file")
    ids = [name for table in tables for name in table.column("id").to_pylist()]
    columns = [chunk for table in tables for chunk in table.column("embedding").chunks if len(chunk)]
    if any(chunk.null_count for chunk in columns):
        raise ValueError("left rows without a vector")
    flat = np.concatenate([_numbers(chunk) for chunk in columns])
    return ids, flat.reshape(len(ids), -1)


def _numbers(chunk: pa.Array) -> np.ndarray:
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    values: np.ndarray = chunk.flatten().to_numpy(zero_copy_only=False)
    return values.astype(np.float32, copy=False)


class Judge:
    """Holds the reference vectors; scores others against them."""

    def __init__(self, ids: Sequence[Any], vectors: np.ndarray, seed: int) -> None:
        self._row = {name: row for row, name in enumerate(ids)}
        self._unit = _unit(vectors)
        chosen = np.random.default_rng(seed).choice(len(ids), min(NEIGHBOUR_TEXTS, len(ids)), replace=False)
        self._sample = np.sort(chosen)
        self._neighbours = _nearest(self._unit[self._sample])

    def score(self, ids: Sequence[Any], vectors: np.ndarray) -> dict[str, Any]:
        """Rows, distinct and missing ids; cosine over rows whose id is known; overlap of neighbours if none is missing."""
        known = [row for row, name in enumerate(ids) if name in self._row]
        at = np.array([self._row[ids[row]] for row in known], dtype=np.int64)
        unit = _unit(vectors[known])
        cosine = np.einsum("ij,ij->i", unit, self._unit[at], dtype=np.float64)
        found = {
            "rows": len(ids),
            "distinct_ids": len(set(ids)),
            "missing_ids": len(self._row) - len(set(at.tolist())),
            "cosine_min": round(float(cosine.min()), 7) if len(cosine) else None,
            "cosine_mean": round(float(cosine.mean()), 7) if len(cosine) else None,
            "top10_overlap": None,
        }
        if not found["missing_ids"]:
            order = np.empty_like(self._unit)
            order[at] = unit
            near = _nearest(order[self._sample])
            pairs = zip(self._neighbours, near, strict=True)
            shared = [len(np.intersect1d(one, other)) / len(one) for one, other in pairs if len(one)]
            found["top10_overlap"] = round(float(np.mean(shared)), 4) if shared else None
        return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays one, and its cosine is 0."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def _nearest(unit: np.ndarray) -> np.ndarray:
    """(texts, NEIGHBOURS) rows of the most similar other texts, in no order."""
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    count = min(NEIGHBOURS, len(unit) - 1)
    return np.argpartition(-similarity, count - 1, axis=1)[:, :count] if count else np.empty((len(unit), 0), dtype=int)


def count_tokens(model: Path, texts: Sequence[str]) -> tuple[int, int, int]:
    """Real tokens of all texts, texts that were cut, and the limit in tokens."""
    limit = int(json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"])
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    encodings = tokenizer.encode_batch_fast(list(texts))
    return sum(len(item.ids) for item in encodings), sum(bool(item.overflowing) for item in encodings), limit
