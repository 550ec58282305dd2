"""Groups of shards: how they are cut, which of last night's stay, and that the files of many nights stay few."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.index.groups import divided
from jobs.passes.kind import Kept
from jobs.passes.source import SourceSnapshot
from workers.records.shard import ObjectSlice, Shard


def _source(*rows: int | tuple[int, str], night: int = 0) -> SourceSnapshot:
    """Shards of so many rows; with a name one that the nights before had as well, under another path."""
    shards = []
    for number, given in enumerate(rows):
        count, name = given if isinstance(given, tuple) else (given, f"night {night} shard {number}")
        shards.append(Shard(number, (ObjectSlice(f"{night}/{number}", 10, name, 0, 10, count),), 10 * count))
    run = SimpleNamespace(schema=SimpleNamespace(view=lambda _: SimpleNamespace(lists=False)))
    return SourceSnapshot(cast("Any", run), {}).divided(shards)


def _kept(groups: list[Shard], *, lost: frozenset[int] = frozenset()) -> Kept:
    return Kept("r", {}, {}, groups, lambda: frozenset(group.number for group in groups) - lost)


def _etags(groups: list[Shard]) -> list[list[str]]:
    return [[piece.etag for piece in group.slices] for group in groups]


def test_few_groups_of_nearly_equal_size_in_order() -> None:
    source = _source(*[100] * 12)
    groups = divided(source, None, 500)
    assert [group.rows for group in groups] == [400, 400, 400]
    assert [group.number for group in groups] == [0, 1, 2]
    assert [piece for group in groups for piece in group.slices] == [piece for s in source.shards for piece in s.slices]
    assert [group.text_bytes for group in groups] == [4000, 4000, 4000]
    assert all(group.carried is None for group in groups)
    assert [group.rows for group in divided(source, None, 10_000)] == [1200]


@pytest.mark.parametrize("rows", [(10, 990, 10, 10), (3000, 10, 10), (10, 10, 3000), (600,) * 5, (0, 5), (0,), ()])
def test_no_group_of_several_shards_is_larger_than_a_file(rows: tuple[int, ...]) -> None:
    groups = divided(_source(*rows), None, 1000)
    assert sum(group.rows or 0 for group in groups) == sum(rows)
    assert all((group.rows or 0) <= 1000 for group in groups if len(group.slices) > 1)


def test_no_group_has_more_bytes_than_an_actor_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.index.groups.GROUP_BYTES", 3000)  # 300 rows
    assert [group.rows for group in divided(_source(*[100] * 12), None, 500)] == [300] * 4


def test_a_group_stays_while_half_of_its_rows_are_there() -> None:
    first = divided(_source((100, "a"), (100, "b"), (100, "c"), (100, "d")), None, 400)
    tonight = _source((100, "a"), 90, (100, "c"), (100, "d"), night=1)
    groups = divided(tonight, _kept(first), 400)
    assert _etags(groups) == [["a", "b", "c", "d"], ["night 1 shard 1"]]
    assert [group.carried for group in groups] == [0, None]
    assert [piece.uri for piece in groups[0].slices] == ["1/0", "0/1", "1/2", "1/3"], "paths of tonight, where there are any"
    later = _source((100, "a"), night=2)
    assert _etags(divided(later, _kept(groups), 400)) == [["a"]], "a quarter is left, and is built again"
    assert divided(later, _kept(groups), 400)[0].carried is None


def test_a_group_with_rows_gone_is_built_again_where_its_files_are_lost() -> None:
    first = divided(_source((100, "a"), (100, "b"), (100, "c")), None, 400)
    tonight = _source((100, "a"), (100, "b"), night=1)
    assert divided(tonight, _kept(first), 400)[0].carried == 0
    (again,) = divided(tonight, _kept(first, lost=frozenset({0})), 400)
    assert (again.rows, again.carried) == (200, None)
    whole = _source((100, "a"), (100, "b"), (100, "c"), night=1)
    (same,) = divided(whole, _kept(first, lost=frozenset({0})), 400)
    assert same.carried == 0, "every row is there: what is lost can be built with the same bits"


def test_a_part_that_now_stands_beside_new_ones_is_in_one_group_alone() -> None:
    first = divided(_source((100, "a"), (100, "b"), (50, "c")), None, 400)
    (shard, *_) = _source((100, "a"), night=1).shards
    mixed = dataclasses.replace(shard, slices=(*shard.slices, ObjectSlice("1/x", 10, "new", 0, 10, 5)))
    (other,) = _source((100, "b"), night=1).shards
    tonight = _source(1, night=1).divided([mixed, dataclasses.replace(other, number=1)])
    assert _etags(divided(tonight, _kept(first), 400)) == [["a", "new", "b"]]


def test_the_files_of_many_nights_stay_few_and_a_row_is_built_a_few_times() -> None:
    nights, rows, per_file = 200, 10, 1000
    names: list[tuple[int, str]] = [(500, "first")]
    groups, built = divided(_source(*names), None, per_file), 0
    for night in range(1, nights + 1):
        names.append((rows, f"of {night}"))
        groups = divided(_source(*names, night=night), _kept(groups), per_file)
        assert sorted(etag for group in _etags(groups) for etag in group) == sorted(name for _, name in names)
        built += sum(group.rows or 0 for group in groups if group.carried is None)
        assert len(groups) <= 4 + math.log2(nights)
    assert built <= nights * rows * (1 + math.log2(nights))
