"""What these tests share: a corpus long enough to be disturbed, and what comes of it when nothing disturbs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import Snapshot, configure, docstrings_corpus
from tests.drivers import leftovers as leftovers
from tests.faults.campaign import Ray, under_fire
from tests.faults.scene import Place, scene
from tests.faults.script import Script
from tests.local_replicas import local_embed
from tests.s3_server.fixture import HARMED_S3, S3Server, s3_in_environment
from tests.shared import Shared

Fire = Callable[[Script], dict[str, Any]]
LONG = pytest.mark.skipif(
    os.environ.get("REEMBED_FAULTS") != "all", reason="faults: minutes in all; `make faults` runs them"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that harm the S3 server run on one worker, one after the other; so do those that share a small disk."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            names: list[str] = getattr(item, "fixturenames", [])
            if item.get_closest_marker("s3") or "s3_server" in names:
                item.add_marker(pytest.mark.xdist_group(HARMED_S3))
            elif "local_place" in names:
                item.add_marker(pytest.mark.xdist_group("faults-local"))


@dataclass(frozen=True)
class Calm:
    """The undisturbed run. Others are made with the same `corpus`, `model` and `run` settings."""

    corpus: Path
    model: Path
    run: dict[str, str | int]
    shards: int
    data: str  # the snapshot's folder
    snapshot: Snapshot

    def configure(
        self, folder: Path, *, output: str | Path | None = None, corpus: str | Path | None = None, replicas: int = 2
    ) -> Path:
        place = corpus or self.corpus, output or folder / "out", self.model
        return configure(folder / "run.yaml", *place, replicas=replicas, **self.run)


def undisturbed(folder: Path, minilm: Path, documents: int) -> Calm:
    """About ten docstrings a shard."""
    ids = docstrings_corpus(folder / "corpus", documents)
    run: dict[str, str | int] = {"shard_bytes": "4KiB"}
    ended = local_embed(configure(folder / "run.yaml", folder / "corpus", folder / "out", minilm, **run))
    assert ended.rc == 0, ended.log
    data = ended.summary["data"]
    snapshot = Snapshot.read(data)
    assert snapshot.ids == sorted(ids)
    return Calm(folder / "corpus", minilm, run, ended.summary["shards"]["planned"], data, snapshot)


@pytest.fixture(scope="session")
def calm(shared: Shared, minilm: Path) -> Calm:
    """320 docstrings in some thirty shards; all workers compare with the same run."""

    def make(folder: Path) -> dict[str, Any]:
        made = undisturbed(folder, minilm, 320)
        return {"corpus": str(made.corpus), "run": made.run, "shards": made.shards, "data": made.data}

    told = shared.once("calm", make)
    return Calm(Path(told["corpus"]), minilm, told["run"], told["shards"], told["data"], Snapshot.read(told["data"]))


@pytest.fixture(scope="package")
def local_place(tmp_path_factory: pytest.TempPathFactory, isolated_home: Path, minilm: Path) -> Iterator[Place]:
    """A folder on a small disk, for runs under fire."""
    with scene(tmp_path_factory.mktemp("fire"), minilm, None) as places:
        yield places["local"]


@pytest.fixture(scope="package")
def s3_server(shared: Shared) -> Iterator[S3Server]:
    """In this folder: a second server, which may be crashed, frozen and misconfigured."""
    with s3_in_environment(shared, HARMED_S3) as server:
        yield server


@pytest.fixture(scope="package")
def s3_place(
    tmp_path_factory: pytest.TempPathFactory, isolated_home: Path, minilm: Path, s3_server: S3Server
) -> Iterator[Place]:
    """A real S3 server of our own behind a faulty proxy."""
    if s3_server.ceph is None:
        pytest.skip("the endpoint came from outside; it is not ours to crash, and its users not ours to suspend")
    with scene(tmp_path_factory.mktemp("fire"), minilm, s3_server.ceph) as places:
        yield places["s3"]


@pytest.fixture(scope="package")
def ray(isolated_home: Path) -> Iterator[Ray]:
    """For the scripts that lose a node; nothing is started before one does."""
    with ExitStack() as stack:
        yield Ray(stack)


@pytest.fixture
def fire(local_place: Place, ray: Ray, request: pytest.FixtureRequest) -> Fire:
    """Carry a script out at its place: one record, in which the oracle has found nothing."""

    def carry_out(script: Script) -> dict[str, Any]:
        place = local_place if script.place == "local" else request.getfixturevalue("s3_place")
        record = under_fire(place, script, ray)
        print(json.dumps(record))
        assert record["findings"] == []
        return record

    return carry_out
