"""What these tests share: one Ray cluster, as an operator starts it, and small real corpora to run over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers import Made, Snapshot, configure, docstrings_corpus, embed
from tests.ray_nodes import RayNode

Corpus = tuple[Path, list[str]]  # folder, ids


@pytest.fixture(scope="session")
def ray_head(isolated_home: Path) -> Iterator[RayNode]:
    """`ray start --head` with four logical CPUs, so that four replicas fit however small the machine is."""
    with RayNode(4) as head:
        head.wait_for_dashboard()
        yield head


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """60 docstrings in three objects; the folder and the ids."""
    folder = tmp_path_factory.mktemp("small") / "corpus"
    return folder, docstrings_corpus(folder, 60)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """320 docstrings in three objects: long enough to be disturbed."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    return folder, docstrings_corpus(folder, 320)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus, minilm: Path, ray_head: RayNode) -> Made:
    """The small corpus, embedded with the default settings in small shards. To be looked at only."""
    folder = tmp_path_factory.mktemp("made")
    source, ids = small_corpus
    config = configure(folder / "run.yaml", source, folder / "out", minilm, address=ray_head.address, shard_bytes="4KiB")
    ended = embed(config)
    assert ended.rc == 0, ended.log
    return Made(source, config, folder / "out", ended, Snapshot.read(ended.summary["data"]), ids)
