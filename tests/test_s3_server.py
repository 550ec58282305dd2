"""The S3 server that the other tests rest on does what they assume: durable, and conditional puts are atomic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import s3fs

from tests.conftest import S3Server


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
