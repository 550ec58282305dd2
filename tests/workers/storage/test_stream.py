"""How a source object is fetched: exact bytes, few requests, failures that are remembered."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from tests.workers.corpus_files import plan_of, put_parquet, read
from workers.errors import ObjectError, TransientError
from workers.storage import stream as stream_module
from workers.storage.stream import LEAST_BYTES, SourceStream


class Requests(io.BytesIO):
    """A store's stream that writes down what is asked of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sizes: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        self.sizes.append(size or 0)
        return super().read(size)


def test_reads_are_exact_whatever_is_shared() -> None:
    rng = random.Random(3)
    data = rng.randbytes(5000)
    for least in (0, 100, 900, 5000, 9000):
        requests = Requests(data)
        stream = SourceStream(requests, "s3://b/k", len(data), least)
        for _ in range(500):
            start, count = rng.randrange(5100), rng.randrange(300)
            assert stream.seek(start) == start
            assert stream.read(count) == data[start : start + count]
            assert stream.tell() == start + len(data[start : start + count])
        assert len(requests.sizes) == 1 if least >= len(data) else len(requests.sizes) > 1
        stream.seek(-10, 2)
        assert stream.read() == data[-10:]


def test_many_small_row_groups_cost_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    table = {"id": range(20_000), "text": [rng.randbytes(100).hex() for _ in range(20_000)], "k": ["k"] * 20_000}
    path = put_parquet(tmp_path / "a.parquet", table, row_group_size=200, compression="none")
    requests = Requests(path.read_bytes())
    monkeypatch.setattr(stream_module, "open_object", lambda *_, **__: requests)
    assert len(read(path, plan_of(id="id")).texts) == 20_000
    assert len(requests.sizes) <= 2 * (1 + path.stat().st_size // LEAST_BYTES)  # 100 row groups of two columns each


def test_a_decoders_error_is_the_stores_when_the_store_failed() -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError("reset")

    stream = SourceStream(Broken(), "https://u:pw@h/k?sig=1", 10)
    with pytest.raises(TransientError, match=r"^https://h/k: "):
        stream.read(1)
    with pytest.raises(TransientError), stream.decoding("Parquet", 3):
        raise ValueError("wrapped by a decoder")
    whole = SourceStream(io.BytesIO(b"x"), "s3://b/k", 1)
    with pytest.raises(ObjectError, match="corrupt Parquet after 3 rows") as error, whole.decoding("Parquet", 3):
        raise ValueError("bad page")
    assert error.value.rows_read == 3
