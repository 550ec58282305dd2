"""Damaged bytes are fetched again; objects whose ETag is not an MD5 are accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import S3Server
from tests.faults.proxy import FaultyProxy, Wire
from workers.errors import TransientError
from workers.storage.checksums import WHOLE_BYTES, Fetched, checked
from workers.storage.objects import open_object, stat_object
from workers.storage.store import Store

GOOD = b"all of the bytes"
MD5 = hashlib.md5(GOOD).hexdigest()


def answers(*given: Fetched) -> Iterator[Fetched]:
    yield from given
    pytest.fail("fetched more often than was needed")


@pytest.mark.parametrize(
    ("given", "data"),
    [
        ([Fetched(GOOD, MD5)], GOOD),
        ([Fetched(b"bad", MD5), Fetched(GOOD, MD5)], GOOD),
        ([Fetched(GOOD, "0" * 32), Fetched(GOOD, "0" * 32)], GOOD),  # two that agree: the ETag is no MD5
        ([Fetched(GOOD, f"{MD5}-3")], GOOD),  # of a multipart upload
        ([Fetched(GOOD, "0" * 32, plain=False)], GOOD),
        ([Fetched(GOOD, "")], GOOD),
    ],
)
def test_believed(given: list[Fetched], data: bytes) -> None:
    fetches = answers(*given)
    assert checked(lambda: next(fetches), "s3://b/k").data == data


def test_never_the_same_twice() -> None:
    fetches = answers(Fetched(b"one", MD5), Fetched(b"other", MD5))
    with pytest.raises(TransientError, match=r"s3://b/k: its bytes arrive damaged"):
        checked(lambda: next(fetches), "s3://b/k")


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.endpoint, "checked") as proxy:
        yield proxy


@pytest.mark.s3
@pytest.mark.parametrize("fault", [Wire.FLIPPED, Wire.TRUNCATED])
def test_on_the_way_from_a_real_store(fault: Wire, proxy: FaultyProxy, s3_bucket: str, tmp_path: Path) -> None:
    """Two fifths of the answers are damaged, and not one read is."""
    options = {"endpoint_url": proxy.endpoint}
    store = Store(f"s3://{s3_bucket}/{fault}", options)
    pq.write_table(pa.table({"text": [f"text {number} " * 9 for number in range(400)]}), tmp_path / "one.parquet")
    data = (tmp_path / "one.parquet").read_bytes()
    store.put("one.parquet", data)
    store.put("large", bytes(WHOLE_BYTES + 1))
    source = stat_object(f"s3://{s3_bucket}/{fault}/one.parquet", options)
    large = stat_object(f"s3://{s3_bucket}/{fault}/large", options)
    proxy.rates = {fault: 0.4}
    for _ in range(20):
        assert store.read("one.parquet") == data
        with open_object(source.uri, source.size, source.etag, options) as stream:
            assert stream.read() == data
        with store.open("one.parquet") as stream:
            assert pq.read_table(stream).num_rows == 400
    assert proxy.injected[fault] >= 8
    proxy.calm()
    before = proxy.requests["GET"]
    with open_object(large.uri, large.size, large.etag, options) as stream:
        stream.seek(large.size - 1)
        assert stream.read(1) == b"\0"
    assert proxy.requests["GET"] == before + 1, "a large object is not fetched whole"
