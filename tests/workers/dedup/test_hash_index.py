"""The index of texts says what a dict would, whatever the hashes; Arrow's buffers hash as Python's strings do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.dedup import hash_index
from workers.dedup.hash_index import Hashes, HashIndex, first_positions, from_column, hash_texts, to_column
from workers.records.documents import text_hash

TEXTS = ["alpha", "", "naïve café", "日本語", "\x00\x00", "x" * 5000, "alpha"]


def hashes_of(keys: list[bytes]) -> Hashes:
    return from_column(pa.array(keys, pa.binary(16)))


# Few values of few bytes, zeros among them: equal heads, equal tails, bytes that NumPy strips when an element is looked at
keys = st.lists(st.sampled_from([b"\x00", b"\x01", b"\xff"]), min_size=3, max_size=3).map(
    lambda parts: parts[0] * 7 + parts[1] + b"\x00" * 7 + parts[2]
)
batches = st.lists(st.lists(st.tuples(st.one_of(keys, st.binary(min_size=16, max_size=16)), st.integers(1, 5))), max_size=12)


@pytest.mark.slow
@given(batches)
@settings(deadline=None, max_examples=200)
def test_it_is_a_dict(added: list[list[tuple[bytes, int]]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "RUN_TEXTS", 8)  # runs that are merged, and runs that are too long for it
        index, known, row = HashIndex(), dict[bytes, tuple[int, int]](), 0
        for batch in added:
            fresh = {key: count for key, count in batch if key not in known}
            places = {}
            for key, count in fresh.items():
                places[key], row = (row, count), row + count
            values = np.array(list(places.values()), np.int64).reshape(-1, 2)
            index.add(hashes_of(list(places)), values[:, 0], values[:, 1])
            known |= places
            asked = [key for batch in added for key, _ in batch]
            rows, counts = index.find(hashes_of(asked))
            assert [(int(a), int(b)) for a, b in zip(rows, counts, strict=True)] == [
                known.get(key, (-1, 0)) for key in asked
            ]
        assert len(index) == len(known)


def test_a_million_texts_cost_twenty_bytes_each() -> None:
    index, generator = HashIndex(), np.random.default_rng(0)
    for start in range(0, 1_000_000, 8192):
        index.add(from_column(pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), 8192, [None, pa.py_buffer(generator.bytes(16 * 8192))])),
            np.arange(start, start + 8192), np.ones(8192, np.int64))  # fmt: skip
    held = sum(run.hashes.nbytes + run.rows.nbytes + (0 if run.counts is None else 1) for run in index._runs)
    assert held == 20 * len(index)
    assert len(index._runs) < 12


@given(st.lists(keys, max_size=40))
@settings(deadline=None)
def test_first_positions_are_in_the_order_of_the_source(found: list[bytes]) -> None:
    first, own = first_positions(hashes_of(found))
    assert first.tolist() == [place for place, key in enumerate(found) if key not in found[:place]]
    assert [found[first[number]] for number in own] == found


@pytest.mark.parametrize("start", [0, 2])
def test_hashes_straight_from_the_buffer(start: int) -> None:
    whole = pa.array(TEXTS, pa.large_string())
    column = pa.chunked_array([whole.slice(start, 3), whole.slice(5), whole.slice(0, 0)], pa.large_string())
    assert to_column(hash_texts(column)).to_pylist() == [text_hash(text) for text in column.to_pylist()]
    assert len(hash_texts(pa.chunked_array([], pa.large_string()))) == 0


def test_columns_of_hashes_keep_their_zeros() -> None:
    column = pa.array([b"\x00" * 16, b"a" + b"\x00" * 15, b"\x00" * 15 + b"b"], pa.binary(16))
    chunked = pa.chunked_array([column, column.slice(1, 1), column.slice(0, 0)])
    assert to_column(from_column(chunked)).to_pylist() == chunked.to_pylist()
    assert to_column(from_column(column)[[2, 0]]).to_pylist() == [column[2].as_py(), column[0].as_py()]
