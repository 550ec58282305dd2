"""Put on PYTHONPATH: a shard takes $REEMBED_SLOW_PASSES seconds longer in every pass, so that something can happen."""

from __future__ import annotations

import os
import time
from types import ModuleType
from typing import Any

from tests.after_import import after_import


def _slow(module: ModuleType) -> None:
    work = module.VectorWorker.work

    def slowly(worker: object, step: object, assignment: object) -> Any:
        time.sleep(float(os.environ["REEMBED_SLOW_PASSES"]))
        return work(worker, step, assignment)

    module.VectorWorker.work = slowly  # type: ignore[attr-defined]


if os.environ.get("REEMBED_SLOW_PASSES"):
    after_import("workers.vectors.worker", _slow)
