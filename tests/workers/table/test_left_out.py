"""Rows left out by corpus.exclude: keys of (id, text), looked up exactly, and windows without them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.output_samples import plan
from workers.errors import UsageError
from workers.records.digests import hash_texts
from workers.records.documents import DocumentWindow, Exclusion, text_hash
from workers.storage.store import Store
from workers.table.left_out import KEY, LeftOut, keys_of, load_left_out, without


def _keys(ids: list[str], texts: list[str]) -> np.ndarray:
    return keys_of(pa.array(ids), hash_texts(pa.array(texts, pa.large_string())))


def test_a_key_is_of_the_id_and_the_text() -> None:
    keys = _keys(["a", "a", "b", "b", "c", "d"], ["x", "y", "x", "y", "c", "d"])
    assert len(np.unique(keys)) == 6, "also where ids equal their texts"
    hashed = np.array([text_hash(text) for text in ("x", "y")], "S16")
    assert keys_of(pa.array([7, 8]), hashed).tolist() == _keys(["7", "8"], ["x", "y"]).tolist()


def test_lookup_is_exact_also_for_keys_of_equal_upper_halves() -> None:
    random = np.random.default_rng(1)
    keys = np.empty(4000, KEY)
    keys["high"], keys["low"] = random.integers(0, 50, 4000), random.integers(0, 200, 4000)
    listed, asked = keys[:2000], keys[2000:]
    known = set(map(tuple, listed.tolist()))
    left_out = LeftOut(listed)
    assert len(left_out) == len(known)
    assert left_out.contains(asked).tolist() == [tuple(key) in known for key in asked.tolist()]
    rest = left_out.minus(asked)
    assert set(map(tuple, np.frombuffer(rest.to_bytes(), KEY).tolist())) == known - set(map(tuple, asked.tolist()))
    assert not LeftOut(keys[:0]).contains(asked).any()


def test_windows_lose_the_rows_and_count_them() -> None:
    read_plan = plan({"lang": pa.string()})
    columns = [["1", "2", "3"], ["x", "y", "z"], pa.array(["o"] * 3).dictionary_encode(), [0, 1, 2], ["de", "fr", "en"]]
    arrays = [pa.array(cells, field.type) for cells, field in zip(columns, read_plan.schema, strict=True)]
    window = DocumentWindow(0, pa.Table.from_arrays(arrays, schema=read_plan.schema), 5)
    left_out = LeftOut(_keys(["2", "1", "9"], ["y", "another text", "z"]))
    (found,) = without(iter([window]), left_out)
    assert found.table.column("id").to_pylist() == ["1", "3"]
    assert found.table.column("keep.lang").to_pylist() == ["de", "en"]
    assert (found.excluded_rows, found.rows_read) == (1, 5)
    (same,) = without(iter([window]), None)
    assert same is window


def test_the_stored_list_is_checked(tmp_path: Path) -> None:
    store, left_out = Store(str(tmp_path), {}), LeftOut(_keys(["1", "2"], ["x", "y"]))
    data = left_out.to_bytes()
    pinned = Exclusion("dd", "run", 2, hashlib.sha256(data).hexdigest())
    assert load_left_out(store, "list", None) is None
    with pytest.raises(UsageError, match="the list of rows to leave out is gone"):
        load_left_out(store, "list", pinned)
    store.put("list", data)
    loaded = load_left_out(store, "list", pinned)
    assert loaded is not None
    assert loaded.to_bytes() == data
    store.put("other", data[16:])
    with pytest.raises(UsageError, match="was altered"):
        load_left_out(store, "other", pinned)
