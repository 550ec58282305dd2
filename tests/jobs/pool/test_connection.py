"""How the pool meets Ray: the token mode is decided before ray is imported, and no private part of Ray is used."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.config import ClusterConfig
from jobs.driver.signals import StopFlag, Stopped
from tests.conftest import ROOT
from workers.errors import RunAborted, UsageError

AT_IMPORT = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            print(os.environ.get("RAY_AUTH_MODE"))
            raise SystemExit

sys.meta_path.insert(0, Watch())
import jobs.pool.{module}
"""


def _mode_at_import(home: Path, module: str, **env: str) -> str:
    """RAY_AUTH_MODE at the moment when a module of the pool first imports ray."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-c", AT_IMPORT.format(module=module)],
        env=clean | {"HOME": str(home)} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


@pytest.mark.parametrize("module", ["connection", "replica_pool", "replica_actor", "actor_deaths"])
def test_a_token_at_hand_is_presented_whichever_module_comes_first(tmp_path: Path, module: str) -> None:
    assert _mode_at_import(tmp_path, module, RAY_AUTH_TOKEN="secret") == "token"


def test_a_token_in_the_home_folder_is_presented(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert _mode_at_import(tmp_path, "connection") == "token"


def test_without_a_token_and_against_an_explicit_mode_nothing_is_set(tmp_path: Path) -> None:
    assert _mode_at_import(tmp_path, "connection") == "None"
    assert _mode_at_import(tmp_path, "connection", RAY_AUTH_TOKEN="secret", RAY_AUTH_MODE="disabled") == "disabled"


def test_no_private_part_of_ray_is_used() -> None:
    """Neither an import of an underscored module or name, nor an underscored attribute of `ray` or of what is below it."""
    used = []
    for path in sorted([*(ROOT / "jobs").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    places = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), names=names):
                    places = [f"{module}.{alias.name}" for alias in names]
                case ast.Attribute():
                    places = [ast.unparse(node)]
                case ast.Constant(value=str(text)):  # a logger's or a patched name
                    places = [text]
                case _:
                    continue
            used += [f"{path.name}: {place}" for place in places if place.startswith("ray.") and "._" in place]
    assert used == []


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """ray.init that retries for ever and swallows what is raised in it. Its last arguments."""
    import jobs.pool.connection as connection

    given: dict[str, Any] = {}
    released = threading.Event()

    def init(**arguments: Any) -> None:
        given.update(arguments)
        while not released.is_set():
            try:
                released.wait(0.05)
            except Exception:  # noqa: BLE001 - as Ray does
                continue

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(connection, "START_SECONDS", 0.3)
    monkeypatch.setattr(connection, "LAST_SECONDS", 0.1)
    yield given
    released.set()


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("where", ["setting", "environment", "file"])
def test_the_deadline_holds_whatever_ray_retries(
    where: str, stubborn: dict[str, Any], listening: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something listens there and is no Ray."""
    from jobs.pool.connection import connected

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if where == "environment":
        monkeypatch.setenv("RAY_ADDRESS", listening)
    if where == "file":
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(listening)
    named = {"setting": f"cluster.address={listening}", "environment": f"RAY_ADDRESS={listening}"}.get(
        where, "cluster.address=auto"
    )
    began = time.monotonic()
    config = ClusterConfig(address=listening if where == "setting" else "auto")
    with pytest.raises(UsageError, match=rf"^{named}.*no Ray cluster answers there.*no answer for 0 s"), connected(config):
        pass
    assert time.monotonic() - began < 30, "Ray alone would try for minutes"
    assert stubborn["address"] == listening


def test_a_local_ray_that_misses_its_start_is_not_called_a_missing_cluster(stubborn: dict[str, Any]) -> None:
    from jobs.pool.connection import connected

    told = r"the local Ray did not start: no answer .* overloaded.*; run the same command again"
    with pytest.raises(RunAborted, match=told), connected(ClusterConfig(address="local")):
        pass
    assert stubborn["address"] == "local"


@pytest.mark.parametrize("failures", [1, 2])
def test_a_local_ray_that_fails_is_started_once_more(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import jobs.pool.connection as connection

    attempts = []

    def init(**arguments: Any) -> None:
        attempts.append((arguments["address"], os.environ[connection.IDLE_WORKERS]))
        if len(attempts) <= failures:
            raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.delenv(connection.IDLE_WORKERS, raising=False)
    if failures == 1:
        with connection.connected(ClusterConfig(address="local")) as joined:
            assert not joined
    else:
        with (
            pytest.raises(RunAborted, match=r"timed out during startup\.; this machine may be overloaded"),
            connection.connected(ClusterConfig(address="local")),
        ):
            pass
    assert attempts == [("local", "0")] * 2, "and no process for each core of which one or two are used"
    assert caplog.text.count("tried once more") == 1


def test_a_signal_ends_the_attempt_at_once(stubborn: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import jobs.pool.connection as connection

    monkeypatch.setattr(connection, "START_SECONDS", 60.0)
    stop = StopFlag()
    threading.Timer(0.2, lambda: setattr(stop, "number", signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(Stopped), connection.connected(ClusterConfig(address="local"), stop.check):
        pass
    assert time.monotonic() - began < 30


def test_after_a_signal_nobody_waits_for_the_end_of_a_local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the block ends when Ray has."""
    import jobs.pool.connection as connection

    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def shutdown() -> None:
        begun.set()
        may_end.wait(60)
        ended.set()

    monkeypatch.setattr(connection.ray, "init", lambda **_: None)
    monkeypatch.setattr(connection.ray, "shutdown", shutdown)
    stop = StopFlag()
    with connection.connected(ClusterConfig(address="local"), stop.check):
        stop.number = signal.SIGTERM
    assert begun.wait(60)
    assert not ended.is_set()
    may_end.set()
    assert ended.wait(60)
    ended.clear()
    with connection.connected(ClusterConfig(address="local"), StopFlag().check):
        pass
    assert ended.is_set()


def test_what_ray_says_is_told_whole_and_on_one_line(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    import jobs.pool.connection as connection

    def init(**_: Any) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.1\nThis process on node x has\n    Ray: 2.2"
        )

    monkeypatch.setattr(connection.ray, "init", init)
    told = r"Version mismatch: .* Ray: 2\.1 This process .* Ray: 2\.2"
    with pytest.raises(UsageError, match=told) as caught, connection.connected(ClusterConfig(address=listening)):
        pass
    assert "\n" not in str(caught.value)
