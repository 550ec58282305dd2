"""What all workers of one test session use together: made once, by the worker that needs it first.

    Shared.once     the recorded result of a call that only one process makes (under a file lock)
    Shared.end      runs the recorded stop commands and removes the folder; called by the process that owns the session

The owner is the pytest process that the user started: the controller under pytest-xdist, else the only one. Servers outlive
the worker that started them; their guards (tests/sessions.py) watch the owner, so that they end however it ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
# Servers that this process started for all. Python warns of a process object that goes while its process runs.
KEPT: list[object] = []
MAKE_SECONDS = 600.0  # longest wait for another worker that makes it; less than a test's timeout


@dataclass(frozen=True)
class Shared:
    """A folder of this session, and the pid of the process that owns the session."""

    folder: Path
    owner: int

    @classmethod
    def create(cls, owner: int) -> Shared:
        """A fresh folder below /tmp, because sockets lie below it and their paths must be short."""
        shared = cls(Path(tempfile.mkdtemp(prefix="reembed-tests-", dir="/tmp")), owner)
        (shared.home / ".ray").mkdir(parents=True)
        (shared.home / ".ray" / "auth_token").write_text(uuid.uuid4().hex)
        return shared

    @property
    def home(self) -> Path:
        """HOME of every test. The authentication token in it is that of every Ray which these tests start."""
        return self.folder / "home"

    def once(
        self, name: str, make: Callable[[Path], dict[str, Any]], stop: Callable[[dict[str, Any]], list[str]] | None = None
    ) -> dict[str, Any]:
        """What `make` returned, here or in another worker; it must be JSON. `make` gets a new folder's path.

        `stop` names the command that ends what was made: arguments of `python`. An exception of `make` is raised here, and
        the next worker that asks tries again.
        """
        record = self.folder / f"{name}.json"
        with FileLock(self.folder / f"{name}.lock", timeout=MAKE_SECONDS):
            if not record.exists():
                folder = self.folder / name
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                value = make(folder)
                record.write_text(json.dumps({"value": value, "stop": stop(value) if stop else None}))
            value = json.loads(record.read_text())["value"]
        return dict(value)

    def end(self) -> None:
        """Stop what was started, then remove everything."""
        for record in self.folder.glob("*.json"):
            if stop := json.loads(record.read_text())["stop"]:
                subprocess.run([sys.executable, *stop], cwd=ROOT, stdin=subprocess.DEVNULL, check=False, timeout=400)
        shutil.rmtree(self.folder, ignore_errors=True)
