"""What these tests share: a corpus long enough to be disturbed, and what comes of it when nothing disturbs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.drivers import Snapshot, configure, docstrings_corpus, embed


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


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, isolated_home: Path, minilm: Path) -> Calm:
    """320 docstrings in some thirty shards, by two replicas of a local Ray."""
    folder = tmp_path_factory.mktemp("calm")
    ids = docstrings_corpus(folder / "corpus", 320)
    run: dict[str, str | int] = {"shard_bytes": "4KiB"}
    ended = embed(configure(folder / "run.yaml", folder / "corpus", folder / "out", minilm, **run))
    assert ended.rc == 0, ended.log
    snapshot = Snapshot.read(ended.summary["data"])
    assert snapshot.ids == sorted(ids)
    return Calm(folder / "corpus", minilm, run, ended.summary["shards"]["planned"], snapshot)
