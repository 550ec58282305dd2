"""What the jobs work on: made-up vectors in classes with near-duplicates among them, in many parts, for two nights.

first_night    publishes the snapshot
second_night   the same with one part in a hundred anew
JOBS           every job, with the settings that it is struck with
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.vector_snapshots import publish_next, publish_vectors

SEED = 20261129
CLASSES = 12
NEAR_SHARE = 0.1  # of the rows stand close to another one
EQUAL_EVERY = 50  # rows: one of so many has the text of another one


@dataclass(frozen=True)
class Job:
    """`command`: of the command line. `section`: its settings, but for the snapshot."""

    command: str
    section: dict[str, Any] = field(default_factory=dict)
    scored: bool = False  # it needs a file of scored pairs (evaluate.pairs)
    keeps: bool = False  # a state for the next night, which then reads new parts alone


@dataclass(frozen=True)
class Size:
    """Of the snapshot. With a hundred parts the second night has one part in a hundred anew."""

    rows: int = 3000
    dim: int = 32
    parts: int = 100


JOBS = {
    "reduce": Job("reduce", {"dim": 12, "vector": "int8"}, keeps=True),
    "cluster": Job("cluster", {"clusters": CLASSES}, keeps=True),
    "dedup": Job("dedup", {"threshold": 0.9}),
    "index": Job("index", {"rows_per_file": 100}, keeps=True),
    "classify": Job("evaluate", {"label": "label", "c": [10.0]}),
    "v-measure": Job("evaluate", {"task": "cluster", "label": "label"}),
    "pairs": Job("evaluate", {"task": "pairs"}, scored=True),
}


def vectors(rows: int, dim: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """[rows, dim] float32, and the class of each."""
    random = np.random.default_rng(SEED)
    centres, classes = random.standard_normal((CLASSES, dim)), random.integers(0, CLASSES, rows)
    made = centres[classes] + 0.6 * random.standard_normal((rows, dim))
    near = random.random(rows) < NEAR_SHARE
    others = random.integers(0, rows, rows)
    made[near] = made[others[near]] + 0.01 * random.standard_normal((int(near.sum()), dim))
    return made.astype(np.float32), classes


def first_night(uri: str, size: Size) -> None:
    made, classes = vectors(size.rows, size.dim)
    texts = [f"text {row - 1 if row % EQUAL_EVERY == 1 else row}" for row in range(size.rows)]
    labels = pa.array([f"class {number}" for number in classes])
    publish_vectors(uri, made, texts=texts, keep={"label": labels}, shards=size.parts)


def second_night(uri: str, size: Size) -> None:
    """The first part's vectors are of the same classes, a little off."""
    made, _ = vectors(size.rows, size.dim)
    old = made[: int(np.linspace(0, size.rows, size.parts + 1)[1])]
    publish_next(uri, {0: old + np.float32(0.05) * np.random.default_rng(1).standard_normal(old.shape, np.float32)})


def scored_pairs(path: Path, rows: int) -> Path:
    """A file of pairs (id_1, id_2, score)."""
    random = np.random.default_rng(SEED)
    one, other = random.integers(0, rows, 400), random.integers(0, rows, 400)
    columns = {"id_1": map(str, one), "id_2": map(str, other)}
    table = {name: pa.array(list(values)) for name, values in columns.items()}
    pq.write_table(pa.table({**table, "score": pa.array(random.random(400))}), path)
    return path
