"""Options in place of YAML: they mean the same settings, win over both other ways, and are text whatever YAML would read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jobs.commands.plan
from jobs.cli import main
from jobs.config import RunConfig, parse_config


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that `plan` was called with."""
    seen: list[RunConfig] = []

    def plan_run(config: RunConfig) -> dict[str, Any]:
        seen.append(config)
        return {}

    monkeypatch.setattr(jobs.commands.plan, "plan_run", plan_run)
    monkeypatch.setattr(jobs.commands.plan, "plan_text", lambda _: "")
    return seen


def run(*arguments: str | Path) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_flags_alone(planned: list[RunConfig]) -> None:
    flags = ["--corpus", "texts/", "--output", "s3://bucket/vectors", "--model", "m", "--text", "body", "--id", "key"]
    assert run("plan", *flags, "--keep", "lang,url", "model.pooling=cls") == 0
    written = {
        "corpus": {"uri": "texts/", "text": "body", "id": "key", "keep": ["lang", "url"]},
        "model": {"name": "m", "pooling": "cls"},
        "output": {"uri": "s3://bucket/vectors"},
    }
    assert planned == [parse_config(written, "by hand")]
    assert run("plan", "run.reuse=off", "--corpus", "a", "--corpus", "b/", "--output", "out", "run.max_attempts=2") == 0
    assert planned[1].corpus.uri == ["a", "b/"]
    assert (planned[1].run.reuse, planned[1].run.max_attempts) == ("off", 2)


def test_flags_win_over_the_file_and_over_overrides(planned: list[RunConfig], tmp_path: Path) -> None:
    config = tmp_path / "a=b.yaml"  # no override, though it looks like one
    config.write_text("corpus: {uri: there, keep: [x]}\noutput: {uri: out}\nmodel: {name: mine}\n")
    assert run("plan", config, "corpus.uri=elsewhere", "--corpus", "here", "--output", "other") == 0
    assert (planned[0].corpus.uri, planned[0].output.uri) == (["here"], "other")
    assert (planned[0].corpus.keep, planned[0].model.name) == (["x"], "mine")


def test_values_are_text(planned: list[RunConfig]) -> None:
    assert run("plan", "--corpus", "2026", "--output", "yes", "--text", "a: b", "--id", "null", "--keep", "1,true") == 0
    corpus = planned[0].corpus
    assert (corpus.uri, corpus.text, corpus.id, corpus.keep) == (["2026"], ["a: b"], "null", ["1", "true"])
    assert planned[0].output.uri == "yes"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give CONFIG, a YAML file, or both --corpus and --output"),
        (["--corpus", "x"], "both --corpus and --output"),
        (
            ["--corpus", "x", "--output", "y", "model.poolin=cls"],
            "the command line: unknown key model.poolin; did you mean pooling?",
        ),
        (["--corpus", "x", "--output", "y", "corpus=z"], "option for corpus.uri: corpus is not a section"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    planned: list[RunConfig], arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("plan", "embed"):
        assert run(command, *arguments) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert planned == []
