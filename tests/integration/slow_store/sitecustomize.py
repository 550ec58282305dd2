"""Put on PYTHONPATH: one kind of storage call takes long, so that a test can send signals while it lasts.

$REEMBED_SLOW is `method:text in the path:seconds`, of workers.storage.store.Store; $REEMBED_SLOW_MARK a file made when the
first such call begins. Python imports this file at start; it acts only where workers.storage.store is imported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.after_import import after_import


def _slow(module: ModuleType) -> None:
    name, part, seconds = os.environ["REEMBED_SLOW"].split(":")
    call = getattr(module.Store, name)

    def slow(store: Any, path: str, *arguments: Any) -> Any:
        if part in path:
            Path(os.environ["REEMBED_SLOW_MARK"]).touch()
            time.sleep(float(seconds))
        return call(store, path, *arguments)

    setattr(module.Store, name, slow)


if os.environ.get("REEMBED_SLOW"):
    after_import("workers.storage.store", _slow)
