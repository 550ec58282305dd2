"""Every job over a snapshot, struck in all the ways of tests/faults/struck_jobs: on the local disk and on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import LONG
from tests.faults.struck_jobs.__main__ import bucket, stand, struck, told
from tests.faults.struck_jobs.command import Stand
from tests.faults.struck_jobs.snapshot import JOBS, Size, first_night
from tests.faults.struck_jobs.table import table, too_many_read
from tests.faults.struck_jobs.ways import Stage, night
from tests.s3_server.fixture import S3Server

SIZE, KILLS = Size(), 10

pytestmark = [pytest.mark.slow, pytest.mark.spread]
ALL_WAYS = (pytest.mark.ray, pytest.mark.timeout(3600), LONG)


@pytest.fixture(scope="module")
def local_stand(isolated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("stand"), SIZE.rows) as made:
        yield made


@pytest.fixture(scope="module")
def s3_stand(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Its actors and drivers have the server's keys."""
    with stand(tmp_path_factory.mktemp("stand"), SIZE.rows) as made:
        yield made


def _with(*marks: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(job, marks=marks) for job in JOBS]


def _all_ways(stage: Stage) -> None:
    records = []
    for record in struck(stage, SIZE):
        print(told(record))
        records.append(record)
    print(table(records))
    assert [told(record) for record in records if not record["ok"]] == []
    assert too_many_read(records, SIZE.parts) == []


@pytest.mark.parametrize("job", _with(*ALL_WAYS))
def test_on_the_local_disk(job: str, local_stand: Stand, tmp_path: Path) -> None:
    _all_ways(Stage(job, "local", str(tmp_path / "outputs"), tmp_path / "ours", local_stand, KILLS))


@pytest.mark.parametrize("job", _with(*ALL_WAYS, pytest.mark.s3))
def test_on_s3(job: str, s3_stand: Stand, tmp_path: Path) -> None:
    _all_ways(Stage(job, "s3", f"{bucket()}/{job}", tmp_path / "ours", s3_stand, KILLS))


def test_a_driver_killed_after_every_pass(isolated_home: Path, tmp_path: Path) -> None:
    """What the suite has time for: one job, without Ray, one night."""
    with stand(tmp_path, SIZE.rows, on_ray=False) as made:
        stage = Stage("dedup", "local", str(tmp_path / "outputs"), tmp_path / "ours", made, kills=0, actors=())
        first_night(f"{stage.root}/in", Size(rows=400, parts=8))
        calm, killed = night(stage, 1)
    assert (calm["ok"], killed["ok"]) == (True, True), (told(calm), told(killed))
    assert killed["starts"] >= 12
