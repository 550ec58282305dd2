"""Put on PYTHONPATH: processes whose clock is off, or whose patience with storage is short.

$REEMBED_CLOCK_SHIFT   seconds that the wall clock of this program and of its S3 client is off by; monotonic clocks are not
$REEMBED_HASTE         what the budgets for an absent store are multiplied by: retries of a call, the lock's give-up

Python imports this file at start; without these variables it does nothing.
"""

from __future__ import annotations

import datetime
import os
import time
from types import ModuleType

from tests.after_import import after_import, replace


def _shift(seconds: float) -> None:
    """Not the class `datetime` itself: compiled modules rest on its size."""
    off, now = datetime.timedelta(seconds=seconds), time.time

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.now(tz) + off

    def program(module: ModuleType) -> None:
        replace(module, "datetime", Shifted)

    def signatures(module: ModuleType) -> None:
        plain = module.get_current_datetime
        replace(module, "get_current_datetime", lambda *given, **named: plain(*given, **named) + off)

    time.time = lambda: now() + seconds
    for name in (
        "jobs.driver.lock",
        "jobs.planning.run",
        "jobs.planning.planned_run",
        "jobs.planning.choose_run",
        "jobs.publish.publish",
        "jobs.commands.publish",
    ):
        after_import(name, program)
    after_import("botocore.compat", signatures)


def _hurry(factor: float) -> None:
    def client(module: ModuleType) -> None:
        module.RETRY_SECONDS *= factor
        module.patiently.__defaults__ = module.filesystem.__defaults__ = (module.RETRY_SECONDS,)

    def lock(module: ModuleType) -> None:
        module.DriverLock.__init__.__kwdefaults__["give_up_seconds"] *= factor

    after_import("workers.storage.client", client)
    after_import("jobs.driver.lock", lock)


if os.environ.get("REEMBED_CLOCK_SHIFT"):
    _shift(float(os.environ["REEMBED_CLOCK_SHIFT"]))
if os.environ.get("REEMBED_HASTE"):
    _hurry(float(os.environ["REEMBED_HASTE"]))
