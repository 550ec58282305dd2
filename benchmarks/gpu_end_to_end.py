"""`reembed embed` on a local Ray, file to file: the rate as a share of the encoder's own, and the encoder's busy share."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.contestants.roster import ROOT, surroundings
from benchmarks.gpu_sections import Subject, rate_of
from benchmarks.models import say

DATASET_ROWS = 100_000  # written at a time


def end_to_end(subject: Subject, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The corpus as often as takes about --seconds at the encoder's rate, every copy with ids of its own."""
    rate = subject.rate or rate_of(subject.encoder, subject.work(1.0, subject.peak.measure() / 4))
    copies = max(1, round(options.seconds * rate / len(subject.tokens.input_ids)))
    corpus, config = folder / "corpus", folder / "embed.yaml"
    corpus.mkdir()
    for number, start in enumerate(range(0, copies * len(subject.table), DATASET_ROWS)):
        rows = np.arange(start, min(start + DATASET_ROWS, copies * len(subject.table)))
        table = pa.table({"id": rows, "text": subject.table.column("text").take(rows % len(subject.table))})
        pq.write_table(table, corpus / f"{number:04d}.parquet", row_group_size=2000)
    raw = {
        "corpus": {"uri": f"{corpus}/", "id": "id", "text": "text"}, "model": {"name": str(subject.bench.folder)},
        "output": {"uri": str(folder / "output")}, "cluster": {"address": "local"},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(raw))
    subject._encoder = subject._peak = None  # the device is the replica's now
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    began = time.perf_counter()
    command = [sys.executable, "-m", "jobs.cli", "embed", str(config), "--json"]
    environment = surroundings() | {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=options.limit_seconds)
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"reembed ended with {done.returncode}: {done.stderr[-1500:]}")
    summary = json.loads(done.stdout)
    encoding = summary["stage_seconds"].get("encode", 0.0)
    kept = (
        "documents",
        "tokens",
        "seconds",
        "tokens_per_second",
        "stage_seconds",
        "replica_busy_fraction",
        "shards",
        "attempts",
    )
    say(f"{subject.title}: {summary['tokens_per_second']:,.0f} tokens/s end to end")
    return {
        "precision": summary["model"]["precision"], "copies": copies, "wall_seconds": round(wall, 2),
        "tokens_per_second_wall": round(summary["tokens"] / wall, 1),
        "tokens_per_second_encoding": round(summary["tokens"] / encoding, 1) if encoding else None,
        "encoder_alone_tokens_per_second": round(rate),
    } | {key: summary[key] for key in kept}  # fmt: skip
