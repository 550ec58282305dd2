"""Runs without Ray: shards embedded by hand into real parts, to test what the driver plans, copies and publishes.

corpus_of      Parquet objects from rows; only those given are written
settings       a configuration over them
by_hand        stands for jobs.embed.session.embed_pending: a text's vector is drawn from its hash
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
from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.planning.run import Run
from jobs.report.summary import Work
from jobs.state.ledger import Ledger
from workers.records.documents import text_hash
from workers.records.shard import Assignment, Receipt, Shard
from workers.records.tokens import EncodedTexts, TokenizedTexts, rows_of_texts
from workers.replica.shard_job import ShardJob
from workers.table.schema import output_schema

Rows = Sequence[tuple[str, str | None]]  # id, text
FILLER = " and some words to give it length" * 8


def rows(name: str, count: int, changed: int = 0) -> list[tuple[str, str]]:
    """`count` documents, the last `changed` of them with another text."""
    return [
        (f"{name}-{at}", f"{'new' if at >= count - changed else 'old'} text {at} of {name}{FILLER}") for at in range(count)
    ]


NIGHT_1: dict[str, Rows] = {name: rows(name, 20) for name in ("a", "b", "c", "d")}


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
    run: Run, lock: DriverLock, ledger: Ledger, receipts: Mapping[int, Receipt], work: Work, stop: StopFlag, *_: Any
) -> tuple[Mapping[int, str], Work]:
    if run.record is None:
        run.begin("float32", 0.01 if run.config.output.vector == "int8" else None, 1000)
    for shard in ledger.pending(run.shards, receipts):
        stop.check()
        ledger.record(embed_shard(run, shard, lock.generation << 32))
    return {}, work.plus(0, 0.5, ())


def embed_shard(run: Run, shard: Shard, epoch: int = 1) -> Receipt:
    """All stages of a replica but its model."""
    schema, task = output_schema(run.plan, run.stamp, run.config.output.partition_by), Assignment(shard, epoch, 1)
    job = ShardJob(task, run.plan, schema, run.store, Path(os.environ["HOME"]) / "spool", "hand", lambda ids: [])
    for window, placer in job.items():
        placement = placer.place(window)
        texts = placement.texts()
        lengths = np.array([len(text.split()) for text in texts], np.int64)
        tokens = TokenizedTexts(
            input_ids=np.zeros(int(lengths.sum()), np.int32),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            document=np.arange(len(texts), dtype=np.int32),
            chunk_start=None,
            chunk_end=None,
            truncated=np.zeros(len(texts), np.bool_),
            num_tokens=lengths.astype(np.int32),
            prompt_tokens=0,
        )
        placer.settle(placement, rows_of_texts(tokens, chunked=False))
        job.append((placement, tokens, EncodedTexts(_vectors(texts, schema.stamp.dim), None, int(lengths.sum()))))
    return job.finish({"encode": 1.0})


def _vectors(texts: Sequence[str], dim: int) -> np.ndarray:
    drawn = [np.random.default_rng(int.from_bytes(text_hash(text))).standard_normal(dim) for text in texts]
    vectors = np.array(drawn, np.float32).reshape(len(texts), dim)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def rows_of(data: str) -> pa.Table:
    fs, root = url_to_fs(data)
    fs.invalidate_cache()
    found = ds.dataset(root, filesystem=fs, format="parquet", partitioning="hive").to_table()
    return found.sort_by("id").select(sorted(found.column_names))
