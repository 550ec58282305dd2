"""Runs without Ray: shards embedded by hand into real parts, to test what the driver plans, copies and publishes.

corpus_of      Parquet objects from rows; only those given are written
settings       a configuration over them
by_hand        stands for jobs.embedding.embed_pending: a text's vector is drawn from its hash
rows_of        what a reader of the published folder gets
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from jobs.config import RunConfig, parse_config
from jobs.ledger import Ledger
from jobs.lock import DriverLock
from jobs.report import Work
from jobs.run import Run
from jobs.signals import StopFlag
from workers.documents import ID, KEEP, TEXT, QuarantinedRow, RowsDigest, text_hash
from workers.output_schema import output_schema
from workers.reader import read_windows
from workers.shard import Assignment, OutputFile, Receipt, Shard
from workers.vectors import to_arrow
from workers.writer import ShardWriter

Rows = Sequence[tuple[str, str | None]]  # id, text
FILLER = " and some words to give it length" * 8


def rows(name: str, count: int, changed: int = 0) -> list[tuple[str, str]]:
    """`count` documents, the last `changed` of them with another text."""
    return [
        (f"{name}-{at}", f"{'new' if at >= count - changed else 'old'} text {at} of {name}{FILLER}") for at in range(count)
    ]


def corpus_of(uri: str | Path, objects: Mapping[str, Rows]) -> None:
    fs, root = url_to_fs(str(uri))
    fs.makedirs(root, exist_ok=True)
    for name, found in objects.items():
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        columns = {"id": [key for key, _ in found], "text": [text for _, text in found]}
        schema = pa.schema({"id": pa.string(), "text": pa.string()})
        with fs.open(f"{root}/{name}.parquet", "wb") as stream:
            pq.write_table(pa.table(columns, schema), stream, row_group_size=10, use_dictionary=False)


def settings(folder: str | Path, name: Path, **sections: Mapping[str, Any]) -> RunConfig:
    """One Parquet row group of such rows is more than a quarter of the shard size: every object stands alone."""
    raw: dict[str, dict[str, Any]] = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id"},
        "model": {"name": str(name)},
        "output": {"uri": f"{folder}/out"},
        "run": {"shard_bytes": 4096, "max_quarantined_rows": -1},
        "cluster": {"address": "local"},
    }
    return parse_config({name: raw.get(name, {}) | dict(sections.get(name, {})) for name in (*raw, *sections)}, "test")


def by_hand(
    run: Run, lock: DriverLock, ledger: Ledger, receipts: Mapping[int, Receipt], work: Work, stop: StopFlag
) -> tuple[Mapping[int, str], Work]:
    if run.record is None:
        run.begin("float32", 0.01 if run.config.output.vector == "int8" else None, 1000)
    for shard in ledger.pending(run.shards, receipts):
        stop.check()
        ledger.record(embed_shard(run, shard, lock.generation << 32))
    return {}, work.plus(0, 0.5, ())


def embed_shard(run: Run, shard: Shard, epoch: int = 1) -> Receipt:
    schema, task = output_schema(run.plan, run.stamp, run.config.output.partition_by), Assignment(shard, epoch, 1)
    folder = Path(os.environ["HOME"]) / "spool"
    writer, digest = ShardWriter(run.store, task, schema, folder), RowsDigest()
    counts = dict.fromkeys(("read", "documents", "quarantined"), 0)
    lost: list[QuarantinedRow] = []
    for window in read_windows(shard, run.plan, {}):
        texts, ids = window.table.column(TEXT).to_pylist(), window.table.column(ID).to_pylist()
        hashes = [text_hash(text) for text in texts]
        columns: dict[str, Any] = {
            "id": window.table.column(ID),
            "num_tokens": pa.array([len(text.split()) for text in texts], pa.int32()),
            "truncated": pa.array([False] * len(texts)),
            "text_hash": pa.array(hashes, pa.binary(16)),
            "embedding": to_arrow(_vectors(hashes, schema.stamp.dim), schema.stamp.vector, schema.stamp.int8_scale)[0],
        }
        columns |= {field.name: window.table.column(KEEP + field.name) for field in run.plan.keep}
        writer.append(pa.table([columns[name] for name in schema.rows.names], schema=schema.rows))
        writer.quarantine(window.quarantined)
        lost += window.quarantined
        for id_, hash_ in zip(ids, hashes, strict=True):
            digest.add(id_, hash_)
        counts["read"] += window.rows_read
        counts["documents"] += len(texts)
    writer.distinct_ids()

    def draft(files: tuple[OutputFile, ...], quarantine: OutputFile | None) -> Receipt:
        return Receipt(
            shard=shard.number, epoch=epoch, rows_read=counts["read"], documents=counts["documents"],
            rows=counts["documents"], quarantined_rows=len(lost), lost_objects=(), tokens=7 * counts["documents"],
            padded_tokens=8 * counts["documents"], truncated=1, duplicate_ids=0, files=files, quarantine=quarantine,
            stage_seconds={"encode": 1.0}, seconds=1.0, replica="hand", source_digest=str(digest),
        )  # fmt: skip

    return writer.finish(draft)


def _vectors(hashes: Sequence[bytes], dim: int) -> np.ndarray:
    drawn = [np.random.default_rng(int.from_bytes(key)).standard_normal(dim) for key in hashes]
    vectors = np.array(drawn, np.float32).reshape(len(hashes), dim)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def rows_of(data: str) -> pa.Table:
    fs, root = url_to_fs(data)
    fs.invalidate_cache()
    found = ds.dataset(root, filesystem=fs, format="parquet", partitioning="hive").to_table()
    return found.sort_by("id").select(sorted(found.column_names))
