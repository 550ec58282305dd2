"""Published outputs of `reembed dedup`, made in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.dedup.config import DedupConfig
from jobs.dedup.job import DedupJob
from jobs.passes.job import run_job


def publish_dedup(snapshot: str | Path, output: str | Path, **settings: Any) -> dict[str, Any]:
    """Its summary."""
    raw = {"dedup": {"snapshot": str(snapshot), **settings}, "output": {"uri": str(output)}}
    summary = run_job(DedupJob(DedupConfig.model_validate(raw)))
    assert summary["published"]
    return summary
