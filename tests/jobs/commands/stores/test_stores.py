"""Every store: what it holds is the snapshot, by id, vector, text hash and kept columns, wherever a loader was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import jobs.commands.load as load_module
from jobs.commands.load import STORES, load_snapshot
from jobs.commands.stores.store import Shape, State
from jobs.publish.consumers import Consumers
from tests.jobs.commands.stores.conftest import ROWS, STEPWISE, Nights, Place
from tests.jobs.snapshot_samples import Killed
from tests.loaded_stores import counts_of, differences, publish_night, rows_of, two_nights
from tests.vector_snapshots import publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.config import VectorType
from workers.errors import RunAborted, UsageError
from workers.storage.store import Store

pytestmark = pytest.mark.spread
stepwise = pytest.mark.parametrize("place", STEPWISE, indirect=True)
STEPS = ("begin", "delete", "upsert", "patch", "count", "commit")


def _load(nights: Nights | Path, place: Place, **more: Any) -> dict[str, Any]:
    output = nights if isinstance(nights, Path) else nights.output
    return load_snapshot(place.kind, str(output), place.where, place.table, **more)


def _rows(place: Place) -> Any:
    return rows_of[place.kind](place.where, place.table)


def test_two_nights(nights: Nights, place: Place) -> None:
    report = _load(nights, place)
    assert (report["from"], report["added"], report["rows_in_store"]) == (None, ROWS, ROWS)
    assert differences(nights.first, _rows(place)) == []
    nights.next_night()
    report = _load(nights, place)
    assert {name: report[name] for name in counts_of(ROWS)} == counts_of(ROWS)
    assert differences(nights.second, _rows(place)) == []
    again = _load(nights, place)
    assert (again["from"], again["changed"], again["rows_in_store"]) == (again["to"], 0, ROWS)
    assert differences(nights.second, _rows(place)) == []
    known = Consumers(Store(str(nights.output), {})).read(f"{place.kind}-{place.table}")
    assert known is not None
    assert (known.acknowledged, known.handed) == (report["to"], None)


def _dying(real: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def die(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise Killed

    return die


def _killed(nights: Nights, place: Place, step: str, *, after: bool) -> None:
    target: Any = load_module if step == "acknowledge" else STORES[place.kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, step, _dying(getattr(target, step), after=after))
        with pytest.raises(Killed):
            _load(nights, place)


@stepwise
@pytest.mark.slow
def test_killed_at_each_step(nights: Nights, place: Place) -> None:
    """Before and after each step of the first load and of the second; each time the same command goes on."""
    for after in (False, True):
        _killed(nights, place, "upsert", after=after)
    _killed(nights, place, "commit", after=False)
    _load(nights, place)
    assert differences(nights.first, _rows(place)) == []
    nights.next_night()
    for step in STEPS:
        for after in (False, True)[: 1 if step == "commit" else 2]:
            _killed(nights, place, step, after=after)
    if place.kind in ("pgvector", "lancedb"):
        assert differences(nights.first, _rows(place)) == [], "readers have the snapshot before until it is whole"
    _killed(nights, place, "commit", after=True)
    assert differences(nights.second, _rows(place)) == []
    _killed(nights, place, "acknowledge", after=False)
    _load(nights, place)
    assert differences(nights.second, _rows(place)) == []


@stepwise
def test_the_set_that_was_begun_is_finished_first(nights: Nights, place: Place) -> None:
    _killed(nights, place, "commit", after=False)
    nights.next_night()
    report = _load(nights, place)
    assert (report["from"], report["added"]) == (None, ROWS)
    assert differences(nights.first, _rows(place)) == []
    _load(nights, place)
    assert differences(nights.second, _rows(place)) == []


@stepwise
def test_a_table_of_another_snapshot_is_refused(nights: Nights, place: Place) -> None:
    _load(nights, place)
    nights.next_night()
    with pytest.raises(UsageError, match=r"holds 20\w+-\w+, and consumer other has nothing"):
        _load(nights, place, consumer="other")
    assert Consumers(Store(str(nights.output), {})).read("other") is None
    assert differences(nights.first, _rows(place)) == []


def test_vectors_of_another_dimension_are_refused(nights: Nights, place: Place, tmp_path: Path) -> None:
    _load(nights, place)
    publish_night(nights.output, two_nights(20, dim=8)[0])
    with pytest.raises(UsageError, match="another --table"):
        _load(nights, place)
    assert differences(nights.first, _rows(place)) == []


def test_vectors_that_the_store_cannot_hold_are_refused(place: Place, tmp_path: Path) -> None:
    publish_vectors(tmp_path / "small", unit_vectors(8), vector=VectorType.INT8)
    if place.kind == "lancedb":
        assert _load(tmp_path / "small", place)["rows_in_store"] == 8
        return
    with pytest.raises(UsageError, match="embedding is int8"):
        _load(tmp_path / "small", place)
    assert Consumers(Store(str(tmp_path / "small"), {})).all() == []


def test_half_precision_keeps_its_bits(place: Place, tmp_path: Path) -> None:
    vectors = unit_vectors(8).astype("float16").astype("float32")
    publish_vectors(tmp_path / "half", vectors, vector=VectorType.FLOAT16, keep=_kept(8))
    _load(tmp_path / "half", place)
    wanted = {str(at): row.tobytes() for at, row in enumerate(vectors)}
    assert {key: row.vector for key, row in _rows(place).items()} == wanted


def test_an_id_that_occurs_twice_is_refused(place: Place, tmp_path: Path) -> None:
    publish_vectors(tmp_path / "twice", unit_vectors(3), ids=["a", "a", "b"], texts=["a", "a2", "b"])
    with pytest.raises(RunAborted, match="1 ids occur more than once"):
        _load(tmp_path / "twice", place)


def _kept(rows: int) -> dict[str, pa.Array]:
    at = pa.array([0] * rows, pa.timestamp("us", "UTC"))
    return {"lang": pa.array(["de"] * rows), "at": at, "tags": pa.array([["x"]] * rows)}


def _pieces(keys: list[tuple[int, int | None]], lang: str, seed: int) -> pa.Table:
    """Rows of chunks as a change set has them, with ids that are numbers."""
    ids, chunks = zip(*keys, strict=True)
    vectors = unit_vectors(len(keys), 4, seed)
    rows = {
        "op": pa.array(["added"] * len(keys)),
        "id": pa.array(ids, pa.int64()),
        "chunk": pa.array(chunks, pa.int32()),
        "old_text_hash": pa.nulls(len(keys), pa.binary(16)),
        "text_hash": pa.array([bytes(16)] * len(keys), pa.binary(16)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4),
        "num_tokens": pa.array([1] * len(keys), pa.int32()),
        "truncated": pa.array([False] * len(keys)),
    }
    return pa.table(rows | _kept(len(keys)) | {"lang": pa.array([lang] * len(keys))})


def test_chunks_and_ids_that_are_numbers(place: Place) -> None:
    """Two sets by hand: a document is shortened, a chunk patched, another replaced; applied twice it is the same."""
    first = _pieces([(7, 0), (7, 1), (1 << 40, 0)], "de", seed=0)
    columns = pa.schema([field for field in first.schema if field.name not in ("op", "old_text_hash")])
    shape = Shape(4, VectorType.FLOAT32, True, columns)
    with contextlib.closing(STORES[place.kind](place.where, place.table)) as store:
        assert store.state() == State()
        store.check(shape)
        store.begin("r1", shape)
        store.upsert(first)
        store.commit("r1")
    deleted = first.slice(1, 1).select(["op", "id", "chunk", "old_text_hash"])
    replaced, patched = _pieces([(1 << 40, 0), (9, 3)], "fr", seed=1), _pieces([(7, 0)], "it", seed=2)
    for _ in range(2):
        with contextlib.closing(STORES[place.kind](place.where, place.table)) as store:
            assert store.state().run_id in ("r1", "r2")
            store.check(shape)
            store.begin("r2", shape)
            store.delete(deleted)
            store.upsert(replaced)
            store.patch(patched.drop_columns(["embedding"]))
            assert store.count() == 3
            store.commit("r2")
            assert store.state() == State("r2")
    old, new = unit_vectors(3, 4, 0), unit_vectors(2, 4, 1)
    found = {key: (row.vector, row.cells["lang"]) for key, row in _rows(place).items()}
    assert found == {
        "7#0": (old[0].tobytes(), "it"),
        f"{1 << 40}#0": (new[0].tobytes(), "fr"),
        "9#3": (new[1].tobytes(), "fr"),
    }
