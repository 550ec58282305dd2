"""Servers with the REST API of OpenSearch and of Elasticsearch, on a port of 127.0.0.1; or real ones that are named.

    opensearch       osmem-server, or the server that REEMBED_TEST_OPENSEARCH names
    elasticsearch    noida-db, or the server that REEMBED_TEST_ELASTICSEARCH names

Neither is the real server, which no package registry has. Both are other people's programs, made after the published API and
its tests: they check fields, dimensions and bodies, and answer errors item by item. Each is a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 200
PACKAGES = {"opensearch": ("osmem_server", "bin/osmem-server"), "elasticsearch": ("noida_db", "noida-db")}
CLIENTS = {"opensearch": "opensearchpy", "elasticsearch": "elasticsearch"}


def given(kind: str) -> str:
    """The variable of the environment that names a real server."""
    return f"REEMBED_TEST_{kind.upper()}"


@contextmanager
def search_server(kind: str) -> Iterator[str]:
    """Its address. Raises: FileNotFoundError: there is none to start, or no client to read it."""
    if importlib.util.find_spec(CLIENTS[kind]) is None:
        raise FileNotFoundError(f"{CLIENTS[kind]}, by which tests read the store, is not installed")
    if os.environ.get(given(kind)):
        yield os.environ[given(kind)]
        return
    program = _program(kind)
    folder = Path(tempfile.mkdtemp(prefix=f"reembed-{kind}-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "opensearch": ["--addr", f"127.0.0.1:{port}", "--no-ja", "--no-stdin-watch", "--parent-pid", str(os.getpid())],
        "elasticsearch": ["start", "--only", "elasticsearch", "--elasticsearch-port", str(port), "--data-dir", str(folder)],
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, *options[kind]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        where = f"http://127.0.0.1:{port}"
        _wait(where, server, folder / "log")
        yield where
    finally:
        server.kill()
        server.wait(SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _program(kind: str) -> Path:
    package, inside = PACKAGES[kind]
    found = importlib.util.find_spec(package)
    places = [Path(place) / inside for place in (found.submodule_search_locations or [])] if found else []
    program = next((place for place in places if place.exists()), None)
    if program is None:
        raise FileNotFoundError(f"no server: {given(kind)} is not set, and {package.replace('_', '-')} is not installed")
    program.chmod(program.stat().st_mode | 0o111)
    return program


def _wait(where: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(where, timeout=1):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(log.read_text()) from None
            time.sleep(0.02)
