"""Streams and exit statuses of the command, where no work is done."""

from __future__ import annotations

import json
import logging
import re
import stat
from pathlib import Path
from typing import Any

import pytest

import jobs.commands.status
from jobs.cli import main
from jobs.driver.log_lines import FORMAT, OneLine
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


def _ended(arguments: list[str], error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """How a command ends whose work raises."""

    def fail(_: str) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(jobs.commands.status, "run_status", fail)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_what_nobody_expected_is_one_line_and_its_stack_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _ended(["status", "x", "--json"], ZeroDivisionError("by\nzero, password=hunter2"), monkeypatch) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    named = re.search(r"reembed: a defect of reembed: ZeroDivisionError: by zero.*its stack, which is in (\S+)$", told.err)
    assert named, told.err
    assert json.loads(told.out) == {"error": told.err.removeprefix("reembed: ").rstrip(), "exit_status": 1}
    stored = Path(named[1])
    assert stored.parent == tmp_path
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert "Traceback" in stored.read_text()
    assert "hunter2" not in stored.read_text() + told.err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "too little memory"),
        (OSError(28, "No space left on device"), "free space on the disk"),
        (OSError(24, "Too many open files"), "ulimit -n"),
    ],
)
def test_a_machine_that_lacks_something_is_no_defect(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ended(["status", "x"], error, monkeypatch) == 4
    assert told in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`reembed status … | head -1`."""

    class Closed:
        def write(self, _: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(jobs.commands.status, "run_status", lambda _: {})
    monkeypatch.setattr(jobs.commands.status, "status_text", lambda _: "text")
    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(SystemExit) as stopped:
        main(["status", "x"])
    assert stopped.value.code in (0, None)


def test_a_wrong_level_of_the_log_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REEMBED_LOG", "loud")
    with pytest.raises(SystemExit) as stopped:
        main(["status", "x"])
    assert stopped.value.code == 2
    assert "REEMBED_LOG=LOUD: write one of DEBUG, INFO" in capsys.readouterr().err


def test_libraries_log_on_one_line_and_without_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore logs a stack when credentials cannot be refreshed, asyncio when a task's error is not looked at."""
    monkeypatch.setattr(logging.getLogger("reembed"), "level", logging.INFO)
    logging.getLogger("reembed").manager._clear_cache()  # type: ignore[attr-defined]
    try:
        raise ValueError("expired\nyesterday")
    except ValueError as error:
        given = {"msg": "Refreshing\ncredentials failed", "levelname": "WARNING", "exc_info": (ValueError, error, None)}
    line = OneLine(FORMAT).format(logging.makeLogRecord(given))
    assert line.endswith("W Refreshing credentials failed (ValueError: expired yesterday)")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('model: {prompt: "a\\0b"}', "model.prompt: holds"),
        ('corpus: {keep: [x, "\\ud800"]}', "corpus.keep.1: holds"),
        ('output: {storage_options: {key: "\\0"}}', "output.storage_options.key: holds"),
    ],
)
def test_text_that_nothing_can_hold_is_named_by_its_setting(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(tmp_path / "x.yaml")])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
