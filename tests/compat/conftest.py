"""What the tests over an earlier version's outputs share: copies, each with its source and a configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.compat.source_server import BUCKET, PREFIX, SourceServer, serve

FIXTURE = Path(__file__).parent / "fixture"

NIGHTS = tuple(FIXTURE / "corpus" / f"night-{number}" for number in (1, 2, 3))

Copied = Callable[[str, int], "Copy"]  # name of an output in the fixture, number of the night that its source is at


@dataclass(frozen=True)
class Copy:
    """A copy of an output of the fixture, and a configuration of today over it; `source` may move on to another night."""

    config: Path
    output: Path
    source: SourceServer

    def at_night(self, number: int) -> None:
        self.source.folder = NIGHTS[number - 1]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    """Settings that decide rows and vectors are those of `make_fixture.py`. Tests that need a cluster name its address."""
    with ExitStack() as servers:

        def copy(output: str, night: int) -> Copy:
            folder = tmp_path_factory.mktemp(output)
            shutil.copytree(FIXTURE / output, folder / "out")
            source = servers.enter_context(serve(NIGHTS[night - 1]))
            corpus = {"uri": f"s3://{BUCKET}/{PREFIX}", "id": "id", "keep": ["place", "year"]}
            sections = {
                "corpus": corpus | {"storage_options": source.options},
                "model": {"name": str(FIXTURE / "model"), "precision": "float32"},
                "output": {"uri": str(folder / "out")},
                "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1, "gpus_per_replica": 0},
                "run": {"shard_bytes": 1024, "max_quarantined_rows": 2},
            }
            (folder / "run.yaml").write_text(yaml.safe_dump(sections))
            return Copy(folder / "run.yaml", folder / "out", source)

        yield copy
