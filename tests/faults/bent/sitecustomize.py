"""Put on PYTHONPATH: processes whose clock is off, or whose patience with storage is short.

$REEMBED_CLOCK_SHIFT   seconds that `time.time()` and `datetime.now()` are off by; monotonic clocks are not
$REEMBED_HASTE         what the budgets for an absent store are multiplied by: retries of a call, the lock's give-up

Python imports this file at start; without these variables it does nothing.
"""

from __future__ import annotations

import datetime
import os
import time
from types import ModuleType

from tests.after_import import after_import


def _shift(seconds: float) -> None:
    now, plain = time.time, datetime.datetime

    class Shifted(plain):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return plain.now(tz) + datetime.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return plain.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=seconds)

    Shifted.__name__, Shifted.__qualname__ = plain.__name__, plain.__qualname__
    Shifted.__module__ = plain.__module__
    time.time = lambda: now() + seconds
    datetime.datetime = Shifted  # type: ignore[misc]


def _hurry(factor: float) -> None:
    def client(module: ModuleType) -> None:
        module.RETRY_SECONDS *= factor
        module.patiently.__defaults__ = module.filesystem.__defaults__ = (module.RETRY_SECONDS,)

    def lock(module: ModuleType) -> None:
        module.DriverLock.__init__.__kwdefaults__["give_up_seconds"] *= factor

    after_import("workers.storage_client", client)
    after_import("jobs.lock", lock)


if os.environ.get("REEMBED_CLOCK_SHIFT"):
    _shift(float(os.environ["REEMBED_CLOCK_SHIFT"]))
if os.environ.get("REEMBED_HASTE"):
    _hurry(float(os.environ["REEMBED_HASTE"]))
