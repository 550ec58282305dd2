"""The S3 server that the other tests rest on does what they assume: durable, and conditional puts are atomic."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import s3fs

from tests.s3_server.fixture import HARMED_S3, S3Server, s3_in_environment
from tests.shared import Shared

pytestmark = pytest.mark.xdist_group(HARMED_S3)


@pytest.fixture(scope="module")
def s3_server(shared: Shared) -> Iterator[S3Server]:
    """Not the one that other workers use: it is crashed here."""
    with s3_in_environment(shared, HARMED_S3) as server:
        yield server


def test_of_racing_conditional_puts_one_wins(s3_server: S3Server, s3_bucket: str) -> None:
    fs = s3fs.S3FileSystem()

    def put(writer: int) -> bool:
        try:
            fs.call_s3("put_object", Bucket=s3_bucket, Key="commit", Body=str(writer).encode(), IfNoneMatch="*")
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = [writer for writer, created in enumerate(pool.map(put, range(16))) if created]
    assert len(won) == 1
    assert fs.cat_file(f"{s3_bucket}/commit") == str(won[0]).encode()


def test_data_survives_a_crash(s3_server: S3Server, s3_bucket: str) -> None:
    if s3_server.ceph is None:
        pytest.skip("the endpoint came from outside; it is not ours to crash")
    fs = s3fs.S3FileSystem()
    fs.pipe_file(f"{s3_bucket}/kept", b"x" * 100_000)
    s3_server.ceph.crash()
    assert not s3_server.ceph.answers()
    s3_server.ceph.start()
    assert fs.cat_file(f"{s3_bucket}/kept") == b"x" * 100_000
