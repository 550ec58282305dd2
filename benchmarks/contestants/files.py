"""What every contestant shares: its arguments, the corpus in, vectors out, and a note of what was in effect.

Imports pyarrow and NumPy alone, so that it runs in every environment. Knows no contestant.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NOTE = "note.json"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows the three things every contestant is given; contestants add their own settings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="Parquet file with columns id and text")
    parser.add_argument("output", type=Path, help="folder that is not there yet")
    parser.add_argument("--model", required=True, help="sentence-transformers layout")
    return parser


def read_corpus(path: Path) -> tuple[pa.ChunkedArray, list[str]]:
    table = pq.read_table(path, columns=["id", "text"])
    return table.column("id"), table.column("text").to_pylist()


def by_length(texts: list[str]) -> np.ndarray:
    """Rows, the longest text first: for peers that make batches in the order they are given."""
    return np.argsort([-len(text) for text in texts], kind="stable")


def vector_column(vectors: np.ndarray) -> pa.Array:
    """(rows, dimension) float32 -> a column of lists, without a copy of the numbers."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def write_vectors(folder: Path, ids: pa.ChunkedArray, vectors: np.ndarray) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": ids, "embedding": vector_column(vectors)}), folder / "vectors.parquet")


def write_note(folder: Path, **facts: Any) -> None:
    """What was in effect in this run (precision, threads, seconds of a step): goes into the result as it is."""
    (folder / NOTE).write_text(json.dumps(facts))
