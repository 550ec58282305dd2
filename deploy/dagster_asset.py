"""Dagster: the nightly run as an asset, materialised at 02:15. `dagster dev -f deploy/dagster_asset.py` serves it.

0              materialised; rows, reused rows and the data folder are its metadata
2, 3           failed at once: trying again does not mend a configuration, and does not make a refused snapshot better
4, 130, 143    tried again: the same command resumes what is there
"""

from __future__ import annotations

import json
import os
import subprocess

import dagster as dg

CONFIG = os.environ.get("REEMBED_CONFIG", "/srv/reembed/configs/nightly-s3.yaml")
FOR_GOOD = {2: "the request cannot be carried out", 3: "not published: readers keep the snapshot before"}
PAUSE_SECONDS = float(os.environ.get("PAUSE", "300"))


@dg.asset
def embeddings() -> dg.MaterializeResult:
    """The published snapshot: one embedding for every document."""
    ended = subprocess.run(  # its log goes to this process's stderr
        ["reembed", "embed", CONFIG, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode in FOR_GOOD:
        raise dg.Failure(f"{FOR_GOOD[ended.returncode]}: {ended.stdout.strip()}", allow_retries=False)
    if ended.returncode != 0:
        raise dg.RetryRequested(max_retries=3, seconds_to_wait=PAUSE_SECONDS)
    summary = json.loads(ended.stdout)
    return dg.MaterializeResult(metadata={key: summary[key] for key in ("run_id", "rows", "reused_rows", "data")})


nightly = dg.ScheduleDefinition(
    job=dg.define_asset_job("reembed_nightly", [embeddings], tags={"dagster/concurrency_key": "reembed"}),
    cron_schedule="15 2 * * *",
)
definitions = dg.Definitions(assets=[embeddings], schedules=[nightly])
