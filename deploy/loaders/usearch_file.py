"""Keeps one usearch index file and a SQLite table in step with the snapshots of an OUTPUT, change set by change set.

    python usearch_file.py OUTPUT FOLDER [--consumer usearch]

1. ask      reembed changes OUTPUT --consumer NAME --into FOLDER/changes: the set from what this loader has acknowledged
2. apply    one SQLite transaction: rows deleted, inserted, patched; the index with their vectors is saved under a new
            name; the transaction's last row names that file and the snapshot
3. check    as many rows as the snapshot has
4. tell     reembed changes OUTPUT --consumer NAME --ack RUN_ID

Killed anywhere, the same command goes on: until the transaction is committed, table and index are those of the snapshot
before, and 1 gives the same set again; after it, the set is known to be applied, and 3 and 4 are repeated. A reader opens
FOLDER/rows.db and the index file that its table `state` names: `search` shows how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from usearch.index import Index

WHOLE = -1  # in place of a chunk: the row is a whole document
TABLES = """
CREATE TABLE IF NOT EXISTS rows (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id, chunk INTEGER NOT NULL, cells TEXT NOT NULL, UNIQUE (id, chunk));
CREATE TABLE IF NOT EXISTS state (run_id TEXT NOT NULL, file TEXT NOT NULL);
"""


class Loaded:
    """What FOLDER holds."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.table = sqlite3.connect(folder / "rows.db", isolation_level=None)
        self.table.executescript(TABLES)
        found = self.table.execute("SELECT run_id, file FROM state").fetchone()
        self.run_id, self.file = found or (None, None)

    def apply(self, report: dict[str, Any]) -> None:
        """Bring table and index to the set's snapshot. Does nothing if they are there already."""
        if self.run_id == report["to"]:
            return
        if self.run_id != report["from"]:
            mend = "remove the folder, and `reembed changes --consumer NAME --forget`"
            sys.exit(f"{self.folder} holds {self.run_id}, the change set begins at {report['from']}: {mend}")
        index = Index.restore(self.folder / self.file) if self.file else None
        self.table.execute("BEGIN IMMEDIATE")
        for file in report["files"]:
            for batch in pq.ParquetFile(file).iter_batches(10_000):
                if "embedding" in batch.schema.names:
                    index = self._upsert(batch, index)
                elif "text_hash" in batch.schema.names:
                    patched = [(cells, *key) for key, cells in zip(_keys(batch), _cells(batch), strict=True)]
                    self.table.executemany("UPDATE rows SET cells = ? WHERE id = ? AND chunk = ?", patched)
                else:
                    self._delete(batch, index)
        name = f"{report['to']}.usearch"
        if index is not None:
            index.save(self.folder / "saving")
            with (self.folder / "saving").open("rb") as stream:
                os.fsync(stream.fileno())
            (self.folder / "saving").replace(self.folder / name)
        self.table.execute("DELETE FROM state")
        self.table.execute("INSERT INTO state VALUES (?, ?)", (report["to"], name if index is not None else ""))
        self.table.execute("COMMIT")
        self.run_id, self.file = report["to"], name if index is not None else ""

    def close(self) -> None:
        """What was not committed is undone."""
        self.table.close()

    def rows(self) -> int:
        return int(self.table.execute("SELECT count(*) FROM rows").fetchone()[0])

    def tidy(self) -> None:
        """Removes index files of earlier snapshots, and the change sets."""
        for path in self.folder.glob("*.usearch"):
            if path.name != self.file:
                path.unlink()
        shutil.rmtree(self.folder / "changes", ignore_errors=True)

    def search(self, vector: np.ndarray, count: int) -> list[tuple[Any, int, float]]:
        """(id, chunk, cosine distance), the nearest first."""
        found = Index.restore(self.folder / self.file).search(vector, count)
        keys = [int(key) for key in found.keys]
        named = [self.table.execute("SELECT id, chunk FROM rows WHERE key = ?", (key,)).fetchone() for key in keys]
        return [(*name, float(distance)) for name, distance in zip(named, found.distances, strict=True)]

    def _upsert(self, batch: pa.RecordBatch, index: Index | None) -> Index:
        """A row that is replaced gets a new key, so that no key ever means two vectors."""
        column = batch.column("embedding")
        if not pa.types.is_fixed_size_list(column.type) or not pa.types.is_floating(column.type.value_type):
            sys.exit(f"embedding is {column.type}: this loader takes float32 and float16, one vector a row")
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        if index is None or index.ndim != vectors.shape[1]:  # of another dimension, every row is among the upserts
            index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
        self._delete(batch, index)
        rows = [(*key, cells) for key, cells in zip(_keys(batch), _cells(batch), strict=True)]
        added = [self.table.execute("INSERT INTO rows (id, chunk, cells) VALUES (?, ?, ?)", row).lastrowid for row in rows]
        index.add(np.array(added, np.uint64), vectors.astype(np.float32))
        return index

    def _delete(self, batch: pa.RecordBatch, index: Index | None) -> None:
        for key in _keys(batch):
            for (number,) in self.table.execute("SELECT key FROM rows WHERE id = ? AND chunk = ?", key).fetchall():
                if index is not None:
                    index.remove(number)
                self.table.execute("DELETE FROM rows WHERE key = ?", (number,))


def _keys(batch: pa.RecordBatch) -> Iterator[tuple[Any, int]]:
    chunks = batch.column("chunk").to_pylist() if "chunk" in batch.schema.names else [None] * len(batch)
    for id_, chunk in zip(batch.column("id").to_pylist(), chunks, strict=True):
        yield id_, WHOLE if chunk is None else chunk


def _cells(batch: pa.RecordBatch) -> Iterator[str]:
    names = [name for name in batch.schema.names if name not in ("op", "id", "chunk", "old_text_hash", "embedding")]
    for row in batch.select(names).to_pylist():
        yield json.dumps(row | {"text_hash": row["text_hash"].hex()}, default=str)


def changes(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "reembed", "changes", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return dict(json.loads(done.stdout))


def load(output: str, folder: Path, consumer: str) -> dict[str, Any]:
    """One change set; returns its report."""
    with contextlib.closing(Loaded(folder)) as loaded:
        report = changes(output, "--consumer", consumer, "--into", str(folder / "changes"))
        loaded.apply(report)
        if (rows := loaded.rows()) != report["rows"]:
            sys.exit(f"{folder} holds {rows} rows, snapshot {report['to']} has {report['rows']}: an id occurs twice there")
        changes(output, "--consumer", consumer, "--ack", report["to"])
        loaded.tidy()
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--consumer", default="usearch")
    given = parser.parse_args()
    told = load(given.output, given.folder, given.consumer)
    print({name: told[name] for name in ("from", "to", "added", "changed", "patched", "deleted", "rows")})
