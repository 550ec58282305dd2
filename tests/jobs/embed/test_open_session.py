"""What is decided before ray is imported: Ray's uv hook, which it reads then, is off for a Ray of this machine."""

from __future__ import annotations

import contextlib
import os
import sys
import types
from typing import Any

import pytest

import jobs.embed.job
from jobs.config import ClusterConfig

HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"


def _hook_when_ray_is_imported(address: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    seen: list[str | None] = []
    session = types.ModuleType("jobs.embed.session")
    session.Session = lambda *_: seen.append(os.environ.get(HOOK))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobs.embed.session", session)
    monkeypatch.setattr(jobs.embed.job, "golden_reference_file", lambda *_: contextlib.nullcontext())
    run: Any = types.SimpleNamespace(
        config=types.SimpleNamespace(cluster=ClusterConfig(address=address), model=None),
        request=types.SimpleNamespace(model=None, recipe=None),
    )
    driver: Any = types.SimpleNamespace(resources=contextlib.ExitStack())
    jobs.embed.job._open_session(driver, run)
    return seen[0]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, "")  # restored afterwards
    monkeypatch.delenv(HOOK)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(("address", "hook"), [("local", "0"), ("auto", "0"), ("127.0.0.1:1", None), ("ray://h:1", None)])
def test_off_for_a_ray_of_this_machine(address: str, hook: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _hook_when_ray_is_imported(address, monkeypatch) == hook


def test_somebodys_own_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, "1")
    assert _hook_when_ray_is_imported("local", monkeypatch) == "1"
