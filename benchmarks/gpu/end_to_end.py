"""`reembed embed` on a local Ray, files in and files out: with one replica on the GPU, and with four that share it.

Each process has an interpreter, a writing thread and a CUDA context of its own, so four may feed what one cannot. All cores
are shared out among the replicas. A run that takes too long is ended with everything that it started.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.contestants.roster import surroundings
from benchmarks.contestants.stopwatch import run_timed
from benchmarks.gpu.device import CUDA, cores
from benchmarks.gpu.subject import Subject, expected_rate, rate_of
from benchmarks.machine import ROOT

REPLICAS, SMOKE_REPLICAS = (1, 4), (1,)
FILE_ROWS = 100_000
_KEPT = (
    "documents", "tokens", "seconds", "tokens_per_second", "stage_seconds", "replica_busy_fraction", "shards", "attempts",
)  # fmt: skip


def end_to_end(subject: Subject, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    """Section, of a model, whose encoder is given up: the device is the replicas' now."""
    if importlib.util.find_spec("ray") is None:
        yield "skipped", "ray is not installed here"
        return
    subject.rate = subject.rate or rate_of(subject.loaded, subject.windows(0.5, expected_rate(subject.flop)))
    subject.release()
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
    corpus = _write_corpus(subject, options.work_seconds, folder)
    for replicas in SMOKE_REPLICAS if subject.smoke else REPLICAS:
        yield f"{replicas} {'replica' if replicas == 1 else 'replicas'}", _run(subject, corpus, replicas, options, folder)


def _write_corpus(subject: Subject, seconds: float, folder: Path) -> Path:
    """The corpus as often as takes about so long at the encoder's rate, every copy with ids of its own."""
    copies = max(1, round(seconds * subject.rate / len(subject.tokens.input_ids)))
    corpus = folder / "corpus"
    corpus.mkdir()
    texts, rows = subject.table.column("text"), len(subject.table)
    for number, start in enumerate(range(0, copies * rows, FILE_ROWS)):
        ids = np.arange(start, min(start + FILE_ROWS, copies * rows))
        pq.write_table(
            pa.table({"id": ids, "text": texts.take(ids % rows)}), corpus / f"{number:04d}.parquet", row_group_size=2000
        )
    return corpus


def _run(subject: Subject, corpus: Path, replicas: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = folder / f"embed_{replicas}.yaml"
    cluster: dict[str, Any] = {"address": "local"}
    if CUDA:
        share = {"gpus_per_replica": 1.0 / replicas, "cpus_per_replica": max(1, cores() // replicas)}
        cluster |= share | {"replicas": replicas}
    raw = {
        "corpus": {"uri": f"{corpus}/", "id": "id", "text": "text"}, "model": {"name": str(subject.bench.folder)},
        "output": {"uri": str(folder / f"output_{replicas}")}, "cluster": cluster,
    }  # fmt: skip
    config.write_text(yaml.safe_dump(raw))
    environment = surroundings() | {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
    command = [sys.executable, "-m", "jobs.cli", "embed", str(config), "--json"]
    said, log = folder / f"said_{replicas}", folder / f"log_{replicas}"
    timing = run_timed(command, environment, ROOT, said, log, options.limit_seconds)
    wall = timing.seconds
    if timing.exit_code:
        raise RuntimeError(f"ended with {timing.exit_code} after {wall:.0f} s: {log.read_text(errors='replace')[-1500:]}")
    summary = json.loads(said.read_text())
    encoding = summary["stage_seconds"].get("encode", 0.0) / replicas
    return {
        "precision": summary["model"]["precision"], "wall_seconds": round(wall, 2),
        "cpu_seconds": round(timing.cpu_seconds, 1),
        "cpu_us_a_document": round(1e6 * timing.cpu_seconds / summary["documents"], 1),
        "Mtok_s": round(summary["tokens_per_second"] / 1e6, 4), "Mtok_s_wall": round(summary["tokens"] / wall / 1e6, 4),
        "Mtok_s_while_encoding": round(summary["tokens"] / encoding / 1e6, 4) if encoding else None,
        "encoder_alone_Mtok_s": round(subject.rate / 1e6, 4),
        "share_of_encoder": round(summary["tokens_per_second"] / subject.rate, 4),
    } | {key: summary[key] for key in _KEPT if key in summary}  # fmt: skip
