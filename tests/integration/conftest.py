"""What these tests share: one Ray cluster, as an operator starts it, and small real corpora to run over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers import docstrings_corpus
from tests.ray_nodes import RayNode


@pytest.fixture(scope="session")
def ray_head(isolated_home: Path) -> Iterator[RayNode]:
    """`ray start --head` with four logical CPUs, so that four replicas fit however small the machine is."""
    with RayNode(4) as head:
        head.wait_for_dashboard()
        yield head


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """60 docstrings in three objects; the folder and the ids."""
    folder = tmp_path_factory.mktemp("small") / "corpus"
    return folder, docstrings_corpus(folder, 60)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """640 docstrings in three objects: long enough to be disturbed."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    return folder, docstrings_corpus(folder, 640)
