"""Streams and exit statuses of the command, where no work is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cli import main
from tests.conftest import Cli


def test_json_stays_one_object_when_the_request_is_refused(cli: Cli, tmp_path: Path) -> None:
    refused = cli("embed", tmp_path / "missing.yaml", "--json")
    assert refused.rc == 2
    assert refused.json()["exit_status"] == 2
    assert "missing.yaml" in refused.json()["error"]
    assert refused.stderr.count("\n") == 1


def test_without_json_stdout_stays_empty(cli: Cli, tmp_path: Path) -> None:
    refused = cli("plan", tmp_path / "missing.yaml")
    assert (refused.rc, refused.stdout) == (2, "")


@pytest.mark.parametrize("arguments", [["embed"], ["nonsense"], ["search", "x"], ["verify", "x", "--sample", "-1"]])
def test_wrong_words_are_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_nothing_published_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["status"], ["verify"], ["files"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, str(tmp_path / "empty"), "--json"])
        assert stopped.value.code == 2
        assert json.loads(capsys.readouterr().out)["exit_status"] == 2
    assert list(tmp_path.iterdir()) == []
