"""Real runs of the real command, for tests that watch, kill and compare them.

docstrings_corpus   real texts as JSONL objects, the same on every call
configure           a configuration file
Driver              `reembed embed` in a process group of its own: wait for something, kill it, let it end
receipts            paths of the receipts on storage; to be asked many times
committed           the same, with their bytes
leftovers           fixture: takes drivers that have ended, and asks at the module's end whether all of their Ray has, too
Snapshot            what a reader of the published data gets: ids and vectors, by id
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest
import yaml
from filelock import FileLock
from fsspec.core import url_to_fs

from jobs.demo.docstrings import Docstring, gather
from tests.sessions import Session, name_of

PATIENCE = 400.0  # seconds for one run; several times what it takes, for machines that do other things as well
# A stopped driver tidies up in a second, and a busy machine needs longer; that it ends in any case: test_signals.py.
TIME_TO_TIDY = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
# Ray tries for a minute to reach a GCS that is gone. Its node's agents do so whenever their raylet was killed (to publish
# that, process_watcher.py): no test waits for them. A worker does so (as `ray::IDLE`) when it was just starting.
RAYS_MINUTE = 90.0  # 61 s were measured
NODE_AGENTS = frozenset({"ray::DashboardAgent", "ray::RuntimeEnvAgent"})
IDLE_WORKER = "ray::IDLE"
_T = TypeVar("_T")


@functools.cache
def gathered(least: int) -> list[Docstring]:
    """Docstrings of the installed packages. They are looked for once a test session: all workers have the same HOME."""
    kept = Path.home() / ".cache" / f"docstrings-{least}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if not kept.exists():
            kept.write_text(json.dumps([asdict(document) for document in gather(least)]))
        return [Docstring(**document) for document in json.loads(kept.read_text())]


def docstrings_corpus(folder: Path, documents: int, objects: int = 3) -> list[str]:
    """Write the corpus into a new folder; returns the ids. Neighbours differ in length and package."""
    folder.mkdir(parents=True)
    chosen = gathered(max(320, documents))[:documents]
    for number in range(objects):
        lines = [json.dumps(asdict(document)) + "\n" for document in chosen[number::objects]]
        (folder / f"part-{number}.jsonl").write_text("".join(lines))
    return [document.id for document in chosen]


def configure(
    path: Path,
    corpus: str | Path,
    output: str | Path,
    model: Path,
    *,
    address: str = "local",
    replicas: int = 1,
    **run: Any,
) -> Path:
    """Replicas have one CPU each. A test has two where it is about more than one. `run` goes into the run section."""
    sections = {
        "corpus": {"uri": f"{corpus}/", "id": "id", "keep": ["package", "kind"]},
        "model": {"name": str(model), "precision": "float32"},
        "output": {"uri": str(output)},
        "cluster": {"address": address, "replicas": replicas, "cpus_per_replica": 1, "gpus_per_replica": 0},
        "run": run,
    }
    path.write_text(yaml.safe_dump(sections))
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended; `seconds` since the call that waited for it."""

    rc: int
    stdout: str
    log: str
    seconds: float

    @property
    def summary(self) -> dict[str, Any]:
        """stdout as the one JSON object that --json promises."""
        assert self.stdout, f"ended with {self.rc} after {self.seconds:.1f} s and without a summary:\n{self.log}"
        answer = json.loads(self.stdout)
        assert isinstance(answer, dict), self.stdout
        return answer

    @property
    def before_our_first_line(self) -> bool:
        """Python itself was interrupted while it started, and says so with exit status 1."""
        starting = self.log.startswith("Fatal Python error: init_import_site")
        return self.rc == 1 and starting and self.log.endswith("KeyboardInterrupt\n")


class Driver:
    """`reembed embed CONFIG key=value … --json`, as a user or a scheduler starts it. Leaves no process behind."""

    def __init__(self, config: Path, *overrides: str, env: Mapping[str, str] | None = None) -> None:
        name = uuid.uuid4().hex
        self._stdout = config.with_name(f"{name}.json")
        self._stderr = config.with_name(f"{name}.log")
        command = [sys.executable, "-m", "jobs.cli", "embed", str(config), *overrides, "--json"]
        self._session = Session(command, {**os.environ, **(env or {})}, self._stdout, self._stderr)
        self._process = self._session.process
        self._left_to: Leftovers | None = None

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self._left_to is None:
            self._session.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._stderr.read_text(errors="replace")

    def until(self, what: Callable[[], _T], seconds: float = PATIENCE) -> _T:
        """The first true answer of `what`, asked many times a second while the driver runs.

        What takes long (a listing of S3) is asked less often: it takes the time of the driver that is waited for.
        """
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            ended = not self.running
            if answer := what():
                return answer
            asked = time.monotonic() - began
            if ended:
                pytest.fail(f"the driver ended with {self._process.returncode} before it happened:\n{self.log[-3000:]}")
            time.sleep(max(0.05, 3 * asked))
        pytest.fail(f"did not happen within {seconds} s:\n{self.log[-3000:]}")

    def until_logged(self, pattern: str) -> re.Match[str]:
        found = self.until(lambda: re.search(pattern, self.log))
        assert found is not None
        return found

    def replica(self, number: int) -> int:
        """pid of a replica, once it is ready."""
        return int(self.until_logged(rf"replica {number} ready: .*\bpid (\d+)")[1])

    def freeze_as_they_come(self, replicas: int) -> dict[int, int]:
        """SIGSTOP to each replica when it is ready: in its first shard however fast the machine. number -> pid."""
        pids: dict[int, int] = {}

        def another() -> tuple[str, str] | None:
            ready: list[tuple[str, str]] = re.findall(r"replica (\d+) ready: .*\bpid (\d+)", self.log)
            return next((found for found in ready if int(found[0]) not in pids), None)

        while len(pids) < replicas:
            number, pid = map(int, self.until(another) or ())
            os.kill(pid, signal.SIGSTOP)
            pids[number] = pid
        return pids

    def kill(self) -> None:
        """SIGKILL to the whole process group, as an out-of-memory killer or a lost container does."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def send(self, number: int, *, group: bool = False) -> Ended:
        """Send the driver alone a signal, or its whole process group as a terminal does; waits for its end."""
        (os.killpg if group else os.kill)(self.pid, number)
        return self.end()

    def end(self, seconds: float = PATIENCE) -> Ended:
        """Wait for its end."""
        began = time.monotonic()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not over after {seconds} s:\n{self.log[-3000:]}")
        return Ended(self._process.returncode, self._stdout.read_text(), self.log, time.monotonic() - began)

    def family(self) -> list[psutil.Process]:
        """Everything that it started and that still runs, whoever is its parent now."""
        return [process for process in self._session.processes() if process.pid != self.pid]

    def family_gone(self, seconds: float = RAYS_MINUTE, besides: Container[str] = NODE_AGENTS) -> list[str]:
        """Names of what still runs after so long; [] when all have ended, but for those named."""
        end = time.monotonic() + seconds
        while left := [name for name in map(name_of, self.family()) if name and name not in besides]:
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        return left


class Leftovers:
    """Drivers that have ended while an idle worker of their Ray still waits for its GCS. Their minutes pass side by side."""

    def __init__(self) -> None:
        self._drivers: list[tuple[Driver, float]] = []

    def take(self, driver: Driver) -> list[str]:
        """Waits for the end of everything but idle workers; names of what still runs after RAYS_MINUTE, [] as a rule."""
        left = driver.family_gone(besides=NODE_AGENTS | {IDLE_WORKER})
        driver._left_to = self
        self._drivers.append((driver, time.monotonic() + RAYS_MINUTE))
        return left

    def end(self) -> list[str]:
        """Names of what still runs when its minute is over; [] when all have ended. They are killed then."""
        left: list[str] = []
        for driver, until in self._drivers:
            left += driver.family_gone(max(0.0, until - time.monotonic()))
            driver._session.kill()
        self._drivers.clear()
        return left


@pytest.fixture(scope="module")
def leftovers() -> Iterator[Leftovers]:
    """Takes drivers that have ended; at the module's end nothing of their Rays may run."""
    taken = Leftovers()
    yield taken
    assert taken.end() == [], "processes of a Ray whose driver has ended"


def embed(config: Path, *overrides: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run it to its end."""
    with Driver(config, *overrides, env=env) as driver:
        return driver.end()


def receipts(output: str | Path) -> list[str]:
    """Paths of the receipts on storage."""
    fs, root = url_to_fs(str(output))
    fs.invalidate_cache()
    return [path for path in fs.find(f"{root}/runs") if "/receipts/" in path and path.endswith(".json")]


def committed(output: str | Path) -> dict[str, bytes]:
    """Receipts on storage, path -> bytes."""
    fs, _ = url_to_fs(str(output))
    return {path: fs.cat_file(path) for path in receipts(output)}


@dataclass(frozen=True)
class Snapshot:
    """Rows sorted by id. vectors: [N, dim]."""

    ids: list[str]
    vectors: np.ndarray[Any, np.dtype[Any]]

    @classmethod
    def read(cls, data: str) -> Snapshot:
        """`data` is the summary's: the folder that any Parquet reader is pointed at."""
        fs, root = url_to_fs(data)
        fs.invalidate_cache()
        table = ds.dataset(root, filesystem=fs, format="parquet").to_table(columns=["id", "embedding"]).sort_by("id")
        column = table.column("embedding").combine_chunks()
        return cls(table.column("id").to_pylist(), column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1))

    def same_bits(self, other: Snapshot) -> bool:
        return self.ids == other.ids and np.array_equal(self.vectors.view(np.uint32), other.vectors.view(np.uint32))


@dataclass(frozen=True)
class Made:
    """A finished run: where everything is."""

    source: Path
    config: Path
    output: Path
    ended: Ended
    snapshot: Snapshot
    ids: list[str]

    def copy(self, folder: Path) -> Path:
        """The output moved elsewhere, to be damaged there."""
        return shutil.copytree(self.output, folder / "copy")

    def parts(self, output: Path) -> list[Path]:
        return sorted((output / "data" / self.ended.summary["run_id"]).rglob("*.parquet"))
