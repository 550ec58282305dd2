"""What these tests share: one Ray cluster, as an operator starts it, and small real corpora to run over it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import Ended, Made, Snapshot, configure, docstrings_corpus, embed
from tests.drivers import leftovers as leftovers
from tests.ray_nodes import RayCluster
from tests.shared import Shared

Corpus = tuple[Path, list[str]]  # folder, ids


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
        settings: dict[str, Any] = {"address": ray_head.address, "replicas": 2, "shard_bytes": "4KiB"}
        config = configure(folder / "run.yaml", source, folder / "out", minilm, **settings)
        ended = embed(config)
        assert ended.rc == 0, ended.log
        return {"folder": str(folder), "ended": asdict(ended)}

    told = shared.once("made", run)
    folder, ended = Path(told["folder"]), Ended(**told["ended"])
    return Made(source, folder / "run.yaml", folder / "out", ended, Snapshot.read(ended.summary["data"]), ids)
