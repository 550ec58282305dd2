"""Snapshots of documents that are described in memory, written as a replica writes them, for comparisons of two.

Doc, Corpus      documents, by shard
write_snapshot   a run's parts, those of unchanged shards copied -> Snapshot: its files, and what must be in them
edited, made     random edits, random documents
expected         what has become of each key, from the documents alone
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.workers.output_samples import plan, stamp, write
from workers.records.documents import text_hash
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.schema import OutputSchema, output_schema
from workers.table.vectors import to_arrow

SHARDS = 5
Key = tuple[str, int | None]


@dataclass
class Doc:
    """A document: its text is `words`; one row a chunk where there are chunks."""

    id: str
    words: list[str]
    lang: str | None = "de"
    tags: list[str] | None = field(default_factory=list)
    made: int = 0  # the same text embedded in another batch: other bits


Corpus = dict[int, list[Doc]]  # by shard


@dataclass
class Snapshot:
    """A written snapshot, and what must be in it."""

    run_id: str
    schema: OutputSchema
    files: list[OutputFile]
    corpus: Corpus

    @property
    def facts(self) -> tuple[str, OutputSchema, list[OutputFile]]:
        return self.run_id, self.schema, self.files

    def rows(self) -> list[tuple[Key, bytes, bytes, tuple[Any, ...]]]:
        """Key, text hash, vector and the other columns of every row, from the documents."""
        found = []
        for doc in itertools.chain(*self.corpus.values()):
            for chunk, vector in enumerate(vectors_of(doc, self.schema)):
                key = (doc.id, chunk if self.schema.chunked else None)
                found.append((key, text_hash(" ".join(doc.words)), vector.tobytes(), (doc.lang, doc.tags, len(doc.words))))
        return found

    def table(self, store: Store) -> pa.Table:
        """What a reader gets."""
        pieces = []
        for file in self.files:
            table = pq.read_table(pa.BufferReader(store.read(file.path)))
            for name in self.schema.partition_by:
                value = re.search(rf"/{name}=([^/]*)/", file.path)
                assert value is not None
                cell = None if value[1].startswith("__HIVE") else value[1]
                table = table.append_column(name, pa.array([cell] * len(table), pa.string()))
            pieces.append(table.select(self.schema.rows.names).replace_schema_metadata(None))
        return pa.concat_tables(pieces) if pieces else self.schema.rows.empty_table()


def vectors_of(doc: Doc, schema: OutputSchema) -> np.ndarray:
    """[rows, dim], drawn from the words of each chunk of three (or of all) and the run that embedded it."""
    size = 3 if schema.chunked else max(1, len(doc.words))
    pieces = [doc.words[at : at + size] for at in range(0, max(1, len(doc.words)), size)]
    seeds = [hashlib.sha256(f"{piece} {doc.made} {schema.stamp.weights_digest}".encode()).digest()[:8] for piece in pieces]
    drawn = [np.random.default_rng(int.from_bytes(seed)).standard_normal(schema.stamp.dim) for seed in seeds]
    return np.array(drawn, np.float32)


def table_of(docs: Sequence[Doc], schema: OutputSchema) -> pa.Table:
    owners = [(doc, vector, chunk) for doc in docs for chunk, vector in enumerate(vectors_of(doc, schema))]
    vectors = np.array([vector for _, vector, _ in owners], np.float32).reshape(len(owners), schema.stamp.dim)
    cells: dict[str, Any] = {
        "id": [doc.id for doc, _, _ in owners],
        "chunk": [chunk for _, _, chunk in owners],
        "chunk_start": [chunk * 10 for _, _, chunk in owners],
        "chunk_end": [chunk * 10 + 9 for _, _, chunk in owners],
        "num_tokens": [len(doc.words) for doc, _, _ in owners],
        "truncated": [False] * len(owners),
        "text_hash": [text_hash(" ".join(doc.words)) for doc, _, _ in owners],
        "lang": [doc.lang for doc, _, _ in owners],
        "tags": [doc.tags for doc, _, _ in owners],
    }
    columns = {name: pa.array(cells[name], schema.rows.field(name).type) for name in schema.rows.names if name in cells}
    columns["embedding"] = to_arrow(vectors, schema.stamp.vector, schema.stamp.int8_scale)[0]
    return pa.Table.from_arrays([columns[name] for name in schema.rows.names], schema=schema.rows)


def schema_of(run_id: str, partition_by: Sequence[str] = (), **stamped: Any) -> OutputSchema:
    keep = {"lang": pa.string(), "tags": pa.list_(pa.string())}
    return output_schema(plan(keep), stamp(run_id=run_id, **({"dim": 8} | stamped)), partition_by)


def write_snapshot(
    store: Store, spool: Path, schema: OutputSchema, corpus: Corpus, before: Snapshot | None = None, part_rows: int = 1000
) -> Snapshot:
    """Shards whose documents are those of `before` are carried over: copied under the run's own name."""
    run, files = schema.stamp.run_id, list[OutputFile]()
    for number, docs in corpus.items():
        if before is not None and before.corpus.get(number) == docs:
            for file in before.files:
                if f"part-{number:07d}" in file.path:
                    path = file.path.replace(RunPaths(before.run_id).data, RunPaths(run).data)
                    store.copy(file.path, path)
                    files.append(dataclasses.replace(file, path=path))
        else:
            tables = [table_of(docs, schema)]
            files += write(store, schema, tables, spool, shard=number, part_bytes=part_rows * schema.stamp.dim * 4).files
    return Snapshot(run, schema, files, corpus)


def edited(corpus: Corpus, rng: np.random.Generator, fresh: Iterator[int], unique: bool = True) -> Corpus:
    """Random edits of some shards; the others stay as they are."""
    found = {number: [dataclasses.replace(doc) for doc in docs] for number, docs in corpus.items()}
    touched = rng.permutation(SHARDS)[: rng.integers(0, 4)]
    for number in touched.tolist():
        docs = found[number]
        for doc in list(docs):
            match rng.integers(0, 12):
                case 0:
                    docs.remove(doc)
                case 1:
                    doc.words = [f"w{rng.integers(0, 9)}" for _ in range(rng.integers(0, 9))]
                case 2:
                    doc.tags = [None, [], ["a"], ["a", "b"]][rng.integers(0, 4)]
                case 3:
                    doc.lang = [None, "de", "fr"][rng.integers(0, 3)]
                case 4:
                    doc.made += 1
                case 5 if len(touched) > 1:
                    docs.remove(doc)
                    found[int(rng.choice(touched))].append(doc)
                case 6 if not unique:
                    docs.append(dataclasses.replace(doc, words=doc.words[: rng.integers(0, 9)]))
        docs += made(rng, fresh, int(rng.integers(0, 4)))
        rng.shuffle(docs)  # type: ignore[arg-type]
    return found


def made(rng: np.random.Generator, fresh: Iterator[int], count: int) -> list[Doc]:
    words = [[f"w{rng.integers(0, 9)}" for _ in range(rng.integers(0, 9))] for _ in range(count)]
    return [
        Doc(f"d{next(fresh)}", text, ["de", "fr", None][rng.integers(0, 3)], [["x"], None][rng.integers(0, 2)])
        for text in words
    ]


def expected(old: Snapshot, new: Snapshot) -> dict[str, list[Key]]:
    """Ops by keys, each key once in each snapshot."""
    before = {key: rest for key, *rest in old.rows()}
    after = {key: rest for key, *rest in new.rows()}
    both = [key for key in after if key in before]
    changed = [key for key in both if before[key][:2] != after[key][:2]]
    patched = [key for key in both if key not in set(changed) and before[key] != after[key]]
    return {
        "added": [key for key in after if key not in before],
        "changed": changed,
        "patched": patched,
        "deleted": [key for key in before if key not in after],
    }
