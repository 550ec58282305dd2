"""DriverContext: the objects that all steps of one driver share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.monitoring.metrics import RunMetrics
from jobs.state.ledger import Ledger


@dataclass(frozen=True, slots=True)
class DriverContext:
    """One driver working on one run. `resources` are released at its end: a joined cluster, the golden reference."""

    lock: DriverLock
    ledger: Ledger
    stop: StopFlag
    metrics: RunMetrics
    resources: ExitStack
