"""Rows as a replica would hand them to the writer, and the records around them, for the tests of the output side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workers.config import CorpusConfig, LongText, Pooling, VectorEncoding, VectorType
from workers.records.documents import ReadPlan, text_hash
from workers.records.shard import Assignment, OutputFile, Receipt, Shard
from workers.storage.store import Store
from workers.table.schema import OutputSchema, SnapshotStamp, output_schema
from workers.table.vectors import to_arrow, to_arrow_lists
from workers.writing.writer import PART_BYTES, Draft, ShardWriter

RUN = "run-1"
DIM = 16
INT8_SCALE = 0.01


def list_of(kind: pa.DataType, size: int = -1) -> pa.DataType:
    """A list whose elements are never null, and say so."""
    return pa.list_(pa.field("element", kind, nullable=False), size)


def stamp(**changes: Any) -> SnapshotStamp:
    values: dict[str, Any] = {
        "run_id": RUN,
        "model": "minilm",
        "revision": None,
        "weights_digest": "w",
        "tokenizer_digest": "t",
        "pooling": Pooling.MEAN,
        "normalize": True,
        "precision": "float32",
        "prompt": "query: ",
        "dim": DIM,
        "vector": VectorType.FLOAT32,
        "int8_scale": None,
        "max_tokens": 256,
        "long_text": LongText.TRUNCATE,
    }
    return SnapshotStamp(**(values | changes))


def plan(keep: dict[str, pa.DataType] | None = None, id_type: pa.DataType | None = None) -> ReadPlan:
    corpus = CorpusConfig(uri=["corpus/"])
    return ReadPlan(corpus, id_type or pa.string(), pa.schema(keep or {}))


def schema(keep: dict[str, pa.DataType] | None = None, partition_by: Sequence[str] = (), **changes: Any) -> OutputSchema:
    return output_schema(plan(keep), stamp(**changes), partition_by)


def unit_vectors(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows(shape: OutputSchema, count: int, seed: int = 0, start: int = 0, **kept: Sequence[Any]) -> pa.Table:
    """`count` finished rows with ids doc-<start>..., unit vectors and the given kept columns."""
    numbers = range(start, start + count)
    columns: dict[str, Any] = {
        "id": pa.array([f"doc-{number}" for number in numbers]),
        "num_tokens": pa.array([number % 7 + 1 for number in numbers], pa.int32()),
        "truncated": pa.array([number % 2 == 0 for number in numbers]),
        "text_hash": pa.array([text_hash(f"text {number}") for number in numbers], pa.binary(16)),
        "chunk": pa.array([0] * count, pa.int32()),
        "chunk_start": pa.array([0] * count, pa.int64()),
        "chunk_end": pa.array([9] * count, pa.int64()),
    }
    if shape.lists:
        lengths = np.array([number % 7 + 1 for number in numbers])
        vectors = unit_vectors(int(lengths.sum()), shape.stamp.dim, seed)
        columns["embedding"], _ = to_arrow_lists(vectors, lengths, shape.stamp.vector, INT8_SCALE)
        columns["tokens"] = pa.array([["tok"] * int(length) for length in lengths])
    else:
        columns["embedding"], _ = to_arrow(unit_vectors(count, shape.stamp.dim, seed), shape.stamp.vector, INT8_SCALE)
    columns |= {name: pa.array(cells, shape.rows.field(name).type) for name, cells in kept.items()}
    return pa.Table.from_arrays([columns[name] for name in shape.rows.names], schema=shape.rows)


def append(writer: ShardWriter, shape: OutputSchema, table: pa.Table) -> None:
    """Finished rows as one window of documents, each with a text of its own."""
    first, count = writer.cache.rows, table.num_rows
    places = [pa.array(range(first, first + count), pa.int64()), pa.array([1] * count, pa.int32())]
    documents = table.select([name for name in shape.documents.names if name != "embedding"])
    documents = documents.append_column("embedding", pa.StructArray.from_arrays(places, ["row", "rows"]))
    vectors = table.select([name for name in shape.of_text if name in table.column_names])
    if "clipped" in shape.cache.names:
        vectors = vectors.append_column("clipped", pa.array([0] * count, pa.int32()))
    writer.append(documents.cast(shape.documents), vectors)


def assignment(epoch: int = 1, shard: int = 3) -> Assignment:
    return Assignment(Shard(shard, (), 0), epoch, 1)


def draft_for(task: Assignment, count: int) -> Draft:
    """A receipt that counts `count` rows; what else it says does not matter here."""

    def draft(files: tuple[OutputFile, ...], quarantine: OutputFile | None) -> Receipt:
        bad = quarantine.rows if quarantine else 0
        return Receipt(
            shard=task.shard.number,
            epoch=task.epoch,
            rows_read=count + bad,
            documents=count,
            rows=count,
            quarantined_rows=bad,
            lost_objects=(),
            tokens=1,
            padded_tokens=1,
            truncated=0,
            duplicate_ids=0,
            files=files,
            quarantine=quarantine,
            stage_seconds={},
            seconds=0.0,
            replica="test",
        )

    return draft


def write(
    store: Store,
    shape: OutputSchema,
    tables: Sequence[pa.Table],
    spool: Path,
    *,
    epoch: int = 1,
    shard: int = 3,
    part_bytes: int = PART_BYTES,
    encoding: VectorEncoding = VectorEncoding.AUTO,
) -> Receipt:
    """One attempt at a shard, from the first window to the receipt."""
    task = assignment(epoch, shard)
    writer = ShardWriter(store, task, shape, spool, part_bytes=part_bytes, vector_encoding=encoding)
    for table in tables:
        append(writer, shape, table)
    return writer.finish(draft_for(task, sum(table.num_rows for table in tables)))
