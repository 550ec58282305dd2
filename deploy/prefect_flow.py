"""Prefect 3: the nightly run as a flow of one task. `python deploy/prefect_flow.py CONFIG [key=value ...]` runs it once.

    0              completed; the summary is the flow's result
    2, 3           failed at once: trying again does not mend a configuration, and does not make a refused snapshot better
    4, 130, 143    tried again: the same command resumes what is there

For every night: `reembed_nightly.serve(cron="15 2 * * *", parameters={"config": "configs/nightly-s3.yaml"})`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from prefect import flow, get_run_logger, task

FOR_GOOD = {2: "the request cannot be carried out", 3: "not published: readers keep the snapshot before"}


class Resumable(RuntimeError):
    """Aborted or stopped."""


def is_resumable(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), Resumable)


@task(retries=3, retry_delay_seconds=300, retry_condition_fn=is_resumable)
def embed(config: str, *overrides: str) -> dict[str, Any]:
    ended = subprocess.run(  # its log goes to this process's stderr
        ["reembed", "embed", config, *overrides, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode in FOR_GOOD:
        raise RuntimeError(f"{FOR_GOOD[ended.returncode]}: {ended.stdout.strip()}")
    if ended.returncode != 0:
        raise Resumable(f"status {ended.returncode}: {ended.stdout.strip()}")
    return dict(json.loads(ended.stdout))


@flow
def reembed_nightly(config: str, *overrides: str) -> dict[str, Any]:
    summary = embed(config, *overrides)
    get_run_logger().info("published %s, %d rows, %d reused", summary["run_id"], summary["rows"], summary["reused_rows"])
    return summary


if __name__ == "__main__":
    reembed_nightly(*sys.argv[1:])
