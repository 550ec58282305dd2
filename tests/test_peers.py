"""benchmarks/peers.py: environments of peers, made or named with the reason; who is left out of a run."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contestants import environments, files
from benchmarks.contestants.roster import ROSTER
from benchmarks.peers import Race, _unfit
from benchmarks.tables import RESULTS, peers, read_results

CONTESTANTS = Path(environments.__file__).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "HOME", tmp_path)
    return tmp_path


def test_an_environment_that_pip_cannot_make_is_named_with_pips_reason(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: Any) -> None:
        if "install" in command:
            said = "WARNING: slow\nERROR: No matching distribution found for fastembed==9"
            raise subprocess.CalledProcessError(1, command, stderr=said)
        (home / "fastembed").mkdir()

    assert "--install" in (environments.missing("fastembed") or "")
    monkeypatch.setattr(environments.subprocess, "run", refuse)
    assert environments.install(["fastembed"]) == ["fastembed: ERROR: No matching distribution found for fastembed==9"]
    assert "No matching distribution" in (environments.missing("fastembed") or "")
    race = Race(home, home, 1.0)
    reason = _unfit(ROSTER["fastembed"], race, home, argparse.Namespace(corpus=home, seed=1))
    assert reason == "fastembed: fastembed could not be installed: ERROR: No matching distribution found for fastembed==9"
    with pytest.raises(SystemExit, match="could not be installed"):
        environments.python_of("fastembed")


def test_an_environment_that_was_made_is_not_missing(home: Path) -> None:
    (home / "fastembed").mkdir()
    (home / "fastembed" / ".complete").write_text("")
    assert environments.missing("fastembed") is None
    assert environments.missing("") is None, "this environment"


def test_a_peer_whose_exporter_is_missing_is_left_out(home: Path) -> None:
    (home / "fastembed").mkdir()
    (home / "fastembed" / ".complete").write_text("")
    reason = _unfit(ROSTER["fastembed"], Race(home, home, 1.0), home, argparse.Namespace(corpus=home, seed=1))
    assert reason is not None
    assert re.match(r"fastembed: its model is exported there, and .*openvino is not there", reason)


@pytest.mark.parametrize("name", environments.NAMES)
def test_requirements_are_pinned(name: str) -> None:
    lines = (CONTESTANTS / f"requirements-{name}.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert len(packages) > 5
    assert [line for line in packages if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_every_contestant_can_be_found() -> None:
    for who in ROSTER.values():
        assert who.environment in ("", *environments.NAMES)
        assert who.ours or (CONTESTANTS / f"{who.module}.py").is_file()
        assert who.export in ("", "openvino", "onnx")


def test_the_longest_text_comes_first() -> None:
    assert files.by_length(["bb", "a", "dddd", "cc"]).tolist() == [2, 0, 3, 1]


def test_the_table_names_who_was_left_out_and_why() -> None:
    [(result, source), *_] = read_results(RESULTS, "peers")
    assert "Left out" not in peers(result, source)
    text = peers({**result, "left_out": {"daft": "daft: exit 1\nafter 3 s"}}, source)
    assert text.endswith("\n\nLeft out: daft: exit 1 after 3 s.")
