"""Digests of columns are hashlib's BLAKE2b of each text and row, by the compiled way and without it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from workers.records import digests
from workers.records.digests import hash_texts, sum_rows
from workers.records.documents import RowsDigest

LENGTHS = [*range(300), 511, 512, 513, 4096, 100_000]
TEXTS = ["", "aé", "語", "\0", *("xyz é 語"[n % 7] * n for n in LENGTHS)]


@pytest.fixture(params=["compiled", "hashlib"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "hashlib":
        monkeypatch.setattr(digests, "_library", lambda: None)
    elif digests._library() is None:
        pytest.skip("the extension is not built")
    return request.param


def blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def row_sum(rows: Sequence[Sequence[bytes]]) -> int:
    """By the definition in docs/output_format.md: the sum of BLAKE2b-128 over length and bytes of each cell."""
    hashes = [blake2b(b"".join(len(cell).to_bytes(8, "little") + cell for cell in row)) for row in rows]
    return sum(int.from_bytes(each, "little") for each in hashes) % (1 << 128)


@pytest.mark.usefixtures("way")
def test_texts_have_the_hashes_of_hashlib_whole_and_as_slices() -> None:
    column = pa.array(TEXTS, pa.large_string())
    expected = np.array([blake2b(text.encode()) for text in TEXTS], "S16")
    np.testing.assert_array_equal(hash_texts(column), expected)
    np.testing.assert_array_equal(hash_texts(column.slice(3, 40)), expected[3:43])
    assert len(hash_texts(pa.array([], pa.large_string()))) == 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_rows_are_summed_as_defined(kind: pa.DataType) -> None:
    names = [text.encode() for text in TEXTS]
    hashes = [blake2b(name) for name in names]
    ids = pa.array(names, pa.binary()).cast(kind)
    column = pa.array(hashes, pa.binary(16))
    rows = [(name, text_hash, b"0") for name, text_hash in zip(names, hashes, strict=True)]
    assert sum_rows(len(rows), [ids, column, 0]) == row_sum(rows)
    assert sum_rows(20, [ids.slice(5, 20), column.slice(5, 20), 0]) == row_sum(rows[5:25])
    assert sum_rows(0, [ids.slice(0, 0), column.slice(0, 0)]) == 0


@pytest.mark.usefixtures("way")
def test_integers_count_as_their_decimal_digits() -> None:
    ids = [0, 7, -1, 2**63 - 1, -(2**63)]
    chunks = pa.array([0, 1, 2, 3, 12], pa.int32())
    expected = row_sum(
        [(str(one).encode(), str(chunk).encode()) for one, chunk in zip(ids, chunks.to_pylist(), strict=True)]
    )
    assert sum_rows(5, [pa.array(ids, pa.int64()), chunks]) == expected


@pytest.mark.usefixtures("way")
def test_many_rows_are_the_same_as_one_by_one() -> None:
    ids = pa.array([f"document-{number}" for number in range(20_000)])
    one_by_one, together = RowsDigest(), RowsDigest()
    for name in ids.to_pylist():
        one_by_one.add(name, 0)
    together.add_rows(len(ids), [ids, 0])
    assert str(together) == str(one_by_one)


@pytest.mark.usefixtures("way")
def test_nulls_are_refused() -> None:
    with pytest.raises(ValueError, match="nulls"):
        sum_rows(2, [pa.array(["a", None])])


def test_offsets_outside_the_bytes_are_refused() -> None:
    library = digests._library()
    if library is None:
        pytest.skip("the extension is not built")
    for borders in ([0, 9, 3], [0, -3, 3]):  # pyarrow itself looks at the first and the last one
        column = pa.Array.from_buffers(
            pa.large_string(), 2, [None, pa.py_buffer(np.array(borders, np.int64)), pa.py_buffer(b"abcd")]
        )
        with pytest.raises(ValueError, match="outside"):
            digests._hash_texts_by_c(library, column)
        with pytest.raises(ValueError, match="outside"):
            digests._sum_rows_by_c(library, 2, [column])


def test_an_extension_with_other_values_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if digests._library() is None:
        pytest.skip("the extension is not built")
    right: Any = digests._hash_texts_by_c
    monkeypatch.setattr(digests, "_hash_texts_by_c", lambda *given: right(*given)[::-1])
    with caplog.at_level(logging.WARNING, "workers.records.digests"):
        assert digests._library.__wrapped__() is None
    assert "gives other values on this processor" in caplog.text
