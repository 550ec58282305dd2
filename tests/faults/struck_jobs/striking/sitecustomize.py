"""On the path of drivers (REEMBED_STRIKES) and of a cluster whose actors are struck (REEMBED_TARGET): ../strikes.py."""

from __future__ import annotations

import os
from pathlib import Path

if os.environ.get("REEMBED_STRIKES") or os.environ.get("REEMBED_TARGET"):
    from tests.after_import import after_import
    from tests.faults.struck_jobs.strikes import strike_actor, strike_driver

    if os.environ.get("REEMBED_STRIKES"):
        strike_driver(Path(os.environ["REEMBED_STRIKES"]))
    else:
        after_import("workers.vectors.worker", strike_actor)
