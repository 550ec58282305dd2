"""Runs without Ray: shards embedded by hand into real parts, to test what the driver plans, copies and publishes.

corpus_of      Parquet objects from rows; only those given are written
settings       a configuration over them
HandSession    stands for jobs.embed.session.Session: a text's vector is drawn from its hash
by_hand        puts it there; no reference of the golden texts is computed, and reports have no charts
days_apart     each night is a day later than the one before
rows_of        what a reader of the published folder gets
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.core import url_to_fs

import jobs.embed.job
import jobs.embed.session
import jobs.planning.choose_run
import jobs.report.charts
from jobs.config import RunConfig, parse_config
from jobs.embed.context import DriverContext
from jobs.planning.planned_run import PlannedRun
from jobs.planning.run import Run
from jobs.state.accounting import Work
from jobs.state.records import new_run_id
from jobs.state.stored_shards import pending
from workers.records.documents import text_hash
from workers.records.shard import Assignment, Receipt, Shard
from workers.records.tokens import EncodedTexts, TokenizedTexts, rows_of_texts
from workers.replica.shard_job import ShardContext, ShardJob
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


class HandSession:
    """In place of jobs.embed.session.Session."""

    def __init__(self, driver: DriverContext, *_: Any) -> None:
        self._driver = driver

    def begin(self, planned: PlannedRun, predicted: Callable[[], Mapping[str, Any]]) -> Run:
        scales = {form.column: 0.01 for form in planned.request.formats if form.vector == "int8"}
        own = scales.pop("embedding", None)
        return planned.begin("float32", own, 1000, None, scales, predicted={})  # `predicted` loads a tokenizer in a process

    def embed(self, run: Run, receipts: Mapping[int, Receipt], work: Work) -> tuple[Mapping[int, str], Work]:
        for shard in pending(run.shards, receipts):
            self._driver.stop.check()
            self._driver.ledger.record(embed_shard(run, shard, self._driver.lock.generation << 32))
        return {}, work.plus(0, 0.5, ())


def by_hand(patch: pytest.MonkeyPatch) -> None:
    """Runs get their vectors from HandSession.

    A process that computes a reference for replicas, and matplotlib, would take longer than such a run.
    """
    patch.setattr(jobs.embed.session, "Session", HandSession)
    patch.setattr(jobs.report.charts, "charts", lambda facts: {})
    patch.setattr(jobs.embed.job, "golden_reference_file", lambda *_: contextlib.nullcontext())


def days_apart(patch: pytest.MonkeyPatch) -> None:
    """Ids of runs sort by seconds, and these runs take less."""
    days = itertools.count()
    patch.setattr(
        jobs.planning.choose_run, "new_run_id", lambda print_, now: new_run_id(print_, now + timedelta(days=next(days)))
    )


def embed_shard(run: Run, shard: Shard, epoch: int = 1) -> Receipt:
    """All stages of a replica but its model."""
    schema, task = output_schema(run.plan, run.stamp, run.config.output.partition_by), Assignment(shard, epoch, 1)
    context = ShardContext(run.plan, schema, run.store, Path(os.environ["HOME"]) / "spool", "hand", lambda ids: [])
    job = ShardJob(task, context)
    for window, deduplicator in job.items():
        deduped = deduplicator.deduplicate(window)
        texts = deduped.texts()
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
        deduplicator.assign_rows(deduped, rows_of_texts(tokens, chunked=False))
        dim = schema.stamp.formats[0].of or schema.stamp.dim  # of the model
        job.append((deduped, tokens, EncodedTexts(_vectors(texts, dim), None, int(lengths.sum()))))
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
