"""What the jobs work on: made-up vectors in classes with near-duplicates among them, in a hundred parts, for two nights.

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
CLASSES, PARTS = 12, 100
NEAR_SHARE = 0.1  # of the rows stand close to another one
EQUAL_EVERY = 50  # rows: one of so many has the text of another one


@dataclass(frozen=True)
class Job:
    """`command`: of the command line. `section`: its settings, but for the snapshot."""

    command: str
    section: dict[str, Any] = field(default_factory=dict)
    scored: bool = False  # it needs a file of scored pairs (evaluate.pairs)
    keeps: bool = False  # a state for the next night, which then reads new parts alone


JOBS = {
    "reduce": Job("reduce", {"dim": 12, "vector": "int8"}, keeps=True),
    "cluster": Job("cluster", {"clusters": CLASSES}, keeps=True),
    "dedup": Job("dedup", {"threshold": 0.9}),
    "index": Job("index", keeps=True),
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


def first_night(uri: str, rows: int, dim: int) -> None:
    made, classes = vectors(rows, dim)
    texts = [f"text {row - 1 if row % EQUAL_EVERY == 1 else row}" for row in range(rows)]
    labels = pa.array([f"class {number}" for number in classes])
    publish_vectors(uri, made, texts=texts, keep={"label": labels}, shards=PARTS)


def second_night(uri: str, rows: int, dim: int) -> None:
    """One part has new vectors of the same classes: the first night's in the same directions, a little off."""
    made, _ = vectors(rows, dim)
    ends = np.linspace(0, rows, PARTS + 1).astype(int)
    changed = {}
    for number in range(0, PARTS, 100):
        old = made[ends[number] : ends[number + 1]]
        changed[number] = old + np.float32(0.05) * np.random.default_rng(number).standard_normal(old.shape, np.float32)
    publish_next(uri, changed)


def scored_pairs(path: Path, rows: int) -> Path:
    """A file of pairs (id_1, id_2, score)."""
    random = np.random.default_rng(SEED)
    one, other = random.integers(0, rows, 400), random.integers(0, rows, 400)
    columns = {"id_1": map(str, one), "id_2": map(str, other)}
    table = {name: pa.array(list(values)) for name, values in columns.items()}
    pq.write_table(pa.table({**table, "score": pa.array(random.random(400))}), path)
    return path
