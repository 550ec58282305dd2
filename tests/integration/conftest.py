"""What these tests share: one Ray cluster, as an operator starts it, and small real corpora to run over it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import Ended, Made, Snapshot, configure, docstrings_corpus, embed
from tests.drivers import leftovers as leftovers
from tests.ray_nodes import RayCluster, RayNode
from tests.shared import KEPT, Shared

Corpus = tuple[Path, list[str]]  # folder, ids
HEAD_CPUS = 16  # logical: two replicas for each run that the workers of pytest-xdist have at the same time


@pytest.fixture(scope="session")
def ray_head(shared: Shared, isolated_home: Path) -> RayCluster:
    """`ray start --head`, one for all workers."""

    def start(_: Path) -> dict[str, Any]:
        head = RayNode(HEAD_CPUS, owner=shared.owner)
        KEPT.append(head)
        head.cluster.wait_for_dashboard()
        return head.cluster.to_json()

    def stop(made: dict[str, Any]) -> list[str]:
        return ["-m", "tests.sessions", str(made["session"]), "--now"]

    return RayCluster.from_json(shared.once("ray-head", start, stop))


def _corpus(shared: Shared, name: str, documents: int) -> Corpus:
    def write(folder: Path) -> dict[str, Any]:
        return {"ids": docstrings_corpus(folder / "corpus", documents), "folder": str(folder / "corpus")}

    made = shared.once(name, write)
    return Path(made["folder"]), made["ids"]


@pytest.fixture(scope="session")
def small_corpus(shared: Shared) -> Corpus:
    """60 docstrings in three objects; the folder and the ids."""
    return _corpus(shared, "small-corpus", 60)


@pytest.fixture(scope="session")
def corpus(shared: Shared) -> Corpus:
    """320 docstrings in three objects: long enough to be disturbed."""
    return _corpus(shared, "corpus", 320)


@pytest.fixture(scope="session")
def made(shared: Shared, small_corpus: Corpus, minilm: Path, ray_head: RayCluster) -> Made:
    """The small corpus, embedded with the default settings in small shards. Tests may read it and copy it."""
    source, ids = small_corpus

    def run(folder: Path) -> dict[str, Any]:
        address = ray_head.address
        config = configure(folder / "run.yaml", source, folder / "out", minilm, address=address, shard_bytes="4KiB")
        ended = embed(config)
        assert ended.rc == 0, ended.log
        return {"folder": str(folder), "ended": asdict(ended)}

    told = shared.once("made", run)
    folder, ended = Path(told["folder"]), Ended(**told["ended"])
    return Made(source, folder / "run.yaml", folder / "out", ended, Snapshot.read(ended.summary["data"]), ids)
