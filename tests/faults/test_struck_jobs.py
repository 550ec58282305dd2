"""Every job over a snapshot, struck in all the ways of tests/faults/struck_jobs: on the local disk and on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import LONG
from tests.faults.struck_jobs.__main__ import bucket, stand, struck, told
from tests.faults.struck_jobs.command import Stand
from tests.faults.struck_jobs.snapshot import JOBS
from tests.faults.struck_jobs.table import table, too_many_read
from tests.faults.struck_jobs.ways import Stage
from tests.s3_server.fixture import S3Server

ROWS, DIM, KILLS = 3000, 32, 10

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread, pytest.mark.timeout(1800), LONG]


@pytest.fixture(scope="module")
def local_stand(isolated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("stand"), ROWS) as made:
        yield made


@pytest.fixture(scope="module")
def s3_stand(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Its actors and drivers have the server's keys."""
    with stand(tmp_path_factory.mktemp("stand"), ROWS) as made:
        yield made


def _all_ways(job: str, place: str, root: str, folder: Path, made: Stand) -> None:
    records = []
    for record in struck(Stage(job, place, root, folder / "ours", made, KILLS), ROWS, DIM):
        print(told(record))
        records.append(record)
    print(table(records))
    assert [told(record) for record in records if not record["ok"]] == []
    assert too_many_read(records) == []


@pytest.mark.parametrize("job", JOBS)
def test_on_the_local_disk(job: str, local_stand: Stand, tmp_path: Path) -> None:
    _all_ways(job, "local", str(tmp_path / "outputs"), tmp_path, local_stand)


@pytest.mark.s3
@pytest.mark.parametrize("job", JOBS)
def test_on_s3(job: str, s3_stand: Stand, tmp_path: Path) -> None:
    _all_ways(job, "s3", f"{bucket()}/{job}", tmp_path, s3_stand)
