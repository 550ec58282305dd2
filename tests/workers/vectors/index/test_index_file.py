"""Keys, searches and files of one index, against brute force."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from workers.errors import UsageError
from workers.vectors.index.index_file import IndexShape, add, build, keys_of, nearest, open_mapped, row_of_key, usearch_index


def test_keys_name_rows_and_tokens() -> None:
    rows, places = np.array([0, 0, 7, 2**40]), np.array([0, 1, 65535, 3])
    assert keys_of(rows, None).tolist() == rows.tolist()
    keys = keys_of(rows, places)
    assert row_of_key(keys, tokens=True).tolist() == rows.tolist()
    assert (keys & np.uint64(65535)).tolist() == places.tolist()


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "i8"])
def test_a_mapped_file_finds_what_brute_force_finds(precision: str, tmp_path: Path) -> None:
    shape = IndexShape(24, precision, 16, 128, tokens=False)  # type: ignore[arg-type]
    vectors = np.random.default_rng(0).standard_normal((400, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = build(shape, [(keys_of(np.arange(0, 300), None), vectors[:300])])
    add(index, keys_of(np.arange(300, 400), None), vectors[300:])
    index.save(str(tmp_path / "file"))
    mapped = open_mapped(tmp_path / "file", shape)
    cosines = vectors[:20] @ vectors.T
    for queries in (vectors[:20], vectors[:1]):
        keys, told = nearest(mapped, queries, 10, 256)
        best = np.argsort(-cosines[: len(queries)], axis=1)[:, :10]
        found = np.mean([len(set(mine) & set(true)) / 10 for mine, true in zip(keys.tolist(), best.tolist(), strict=True)])
        assert found >= (0.9 if precision == "i8" else 0.99)
        there = np.take_along_axis(cosines[: len(queries)], keys.astype(np.int64), axis=1)
        assert np.abs(told - there).max() < (0.03 if precision == "i8" else 0.01)


def test_fewer_vectors_than_asked_for() -> None:
    shape = IndexShape(8, "bf16", 16, 128, tokens=False)
    vectors = np.eye(8, dtype=np.float32)[:3]
    keys, told = nearest(build(shape, [(keys_of(np.arange(3), None), vectors)]), vectors, 10, 64)
    assert keys.shape == told.shape == (3, 3)
    assert nearest(build(shape, []), vectors, 10, 64)[0].shape == (3, 0)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(UsageError, match=r"pip install 'reembed\[vectors\]'"):
        usearch_index()
