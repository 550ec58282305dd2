"""Airflow 3: the nightly run as a DAG of one task. Put it into the DAG folder of workers that have `reembed` on their PATH.

0              done; run id, rows and reused rows are the task's XCom
2, 3           failed at once: trying again does not mend a configuration, and does not make a refused snapshot better
4, 130, 143    failed, tried again: the same command resumes what is there
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

CONFIG = os.environ.get("REEMBED_CONFIG", "/srv/reembed/configs/nightly-s3.yaml")
FOR_GOOD = {2: "the request cannot be carried out", 3: "not published: readers keep the snapshot before"}


class EmbedOperator(BaseOperator):
    """`reembed embed CONFIG --json`; a task that is killed stops it by SIGTERM, resumable."""

    def __init__(self, config: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.config = config
        self.hook = SubprocessHook()

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        ended = self.hook.run_command(["reembed", "embed", self.config, "--json"])
        if ended.exit_code in FOR_GOOD:
            raise AirflowFailException(f"{FOR_GOOD[ended.exit_code]}: {ended.output}")
        if ended.exit_code != 0:
            raise AirflowException(f"status {ended.exit_code}, to be resumed: {ended.output}")
        summary = json.loads(ended.output)  # the last line is the one JSON object
        return {key: summary[key] for key in ("run_id", "rows", "reused_rows", "data")}

    def on_kill(self) -> None:
        self.hook.send_sigterm()


with DAG("reembed_nightly", schedule="15 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1) as dag:
    EmbedOperator(task_id="embed", config=CONFIG, retries=3, retry_delay=timedelta(minutes=5))
