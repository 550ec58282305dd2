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

from tests.conftest import S3Server
from tests.drivers import Snapshot, configure, docstrings_corpus, embed
from tests.faults.campaign import Ray, under_fire
from tests.faults.scene import Place, scene
from tests.faults.script import Script

Fire = Callable[[Script], dict[str, Any]]
LONG = pytest.mark.skipif(
    os.environ.get("REEMBED_FAULTS") != "all", reason="faults: minutes in all; `make faults` runs them"
)


@dataclass(frozen=True)
class Calm:
    """The undisturbed run. Others are made with the same `corpus`, `model` and `run` settings."""

    corpus: Path
    model: Path
    run: dict[str, str | int]
    shards: int
    snapshot: Snapshot

    def configure(self, folder: Path, *, output: str | Path | None = None, corpus: str | Path | None = None) -> Path:
        return configure(folder / "run.yaml", corpus or self.corpus, output or folder / "out", self.model, **self.run)


def undisturbed(folder: Path, minilm: Path, documents: int) -> Calm:
    """About ten docstrings a shard, by two replicas of a local Ray."""
    ids = docstrings_corpus(folder / "corpus", documents)
    run: dict[str, str | int] = {"shard_bytes": "4KiB"}
    ended = embed(configure(folder / "run.yaml", folder / "corpus", folder / "out", minilm, **run))
    assert ended.rc == 0, ended.log
    snapshot = Snapshot.read(ended.summary["data"])
    assert snapshot.ids == sorted(ids)
    return Calm(folder / "corpus", minilm, run, ended.summary["shards"]["planned"], snapshot)


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, isolated_home: Path, minilm: Path) -> Calm:
    """320 docstrings in some thirty shards."""
    return undisturbed(tmp_path_factory.mktemp("calm"), minilm, 320)


@pytest.fixture(scope="session")
def local_place(tmp_path_factory: pytest.TempPathFactory, isolated_home: Path, minilm: Path) -> Iterator[Place]:
    """A folder on a small disk, for runs under fire."""
    with scene(tmp_path_factory.mktemp("fire"), minilm, None) as places:
        yield places["local"]


@pytest.fixture(scope="session")
def s3_place(
    tmp_path_factory: pytest.TempPathFactory, isolated_home: Path, minilm: Path, s3_server: S3Server
) -> Iterator[Place]:
    """A real S3 server of our own behind a faulty proxy."""
    if s3_server.ceph is None:
        pytest.skip("the endpoint came from outside; it is not ours to crash, and its users not ours to suspend")
    with scene(tmp_path_factory.mktemp("fire"), minilm, s3_server.ceph) as places:
        yield places["s3"]


@pytest.fixture(scope="session")
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
