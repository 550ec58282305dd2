"""Shards kept as columns are the very shards, in whatever way they are looked at."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.state import stored_shards
from jobs.state.stored_shards import StoredShards, columns_of, pending, text_bytes_of, total_text_bytes
from workers.records.shard import ObjectSlice, Shard

PARTITIONS = ((), (("lang", "de"),), (("lang", None), ("day", "1=2")))


@st.composite
def some_shards(draw: st.DrawFn) -> list[Shard]:
    made, number = [], -1
    for _ in range(draw(st.integers(0, 12))):
        number += draw(st.integers(1, 3))  # a manifest of a later version may leave numbers out
        slices = tuple(
            ObjectSlice(f"s3://b/{number}-{at}", 9, "e", at, at + 1, draw(st.none() | st.integers(0, 9)), None, partitions)
            for at, partitions in enumerate(draw(st.lists(st.sampled_from(PARTITIONS), min_size=1, max_size=3)))
        )
        carried = draw(st.none() | st.integers(0, 5))
        made.append(Shard(number, slices, draw(st.integers(0, 1 << 40)), carried, draw(st.sampled_from([(), ("a", "b")]))))
    return made


@pytest.mark.slow
@settings(deadline=None)
@given(some_shards(), st.integers(1, 5), st.sets(st.integers(0, 40)))
def test_they_are_the_shards(shards: list[Shard], block: int, done: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_shards, "_READ_BLOCK", block)
        patch.setattr(stored_shards, "_WRITE_BLOCK", block)
        stored = StoredShards(columns_of(shards))
        assert stored == shards
        assert shards == stored
        assert list(stored) == shards
        assert [stored[at] for at in range(len(shards))] == shards
        assert [stored[at] for at in range(-len(shards), 0)] == shards
        assert stored[::2] == shards[::2]
        assert stored[1:3] == shards[1:3]
        left = pending(stored, done)
        assert list(left) == [shard for shard in shards if shard.number not in done] == list(pending(shards, done))
        assert len(left) == len(list(left))
        assert list(left[::3]) == list(left)[::3]
    for same in (stored, shards):
        size = text_bytes_of(same)
        assert [size(shard.number) for shard in shards] == [shard.text_bytes for shard in shards]
        assert total_text_bytes(same) == sum(shard.text_bytes for shard in shards)


def test_other_shards_are_not_equal() -> None:
    one, other = Shard(0, (_slice("a"),), 1), Shard(0, (_slice("b"),), 1)
    stored: Sequence[Shard] = StoredShards(columns_of([one]))
    assert stored != [other]
    assert stored != [one, one]
    assert stored != "x"
    with pytest.raises(IndexError):
        stored[1]


def test_a_table_that_no_cut_makes_is_refused() -> None:
    table = columns_of([Shard(number, (_slice("a"),), 1) for number in range(3)])
    with pytest.raises(ValueError, match="not in order"):
        StoredShards(table.take([0, 2, 1]))
    with pytest.raises(ValueError, match="column uri has nulls"):
        StoredShards(table.set_column(table.schema.get_field_index("uri"), "uri", pa.nulls(3, pa.string())))
    with pytest.raises(ValueError, match="Expecting"):
        StoredShards(table.set_column(table.schema.get_field_index("partitions"), "partitions", pa.array(["[", "[", "["])))
    with pytest.raises(KeyError):
        StoredShards(table.drop_columns(["etag"]))


def _slice(name: str) -> ObjectSlice:
    return ObjectSlice(f"s3://b/{name}", 9, "e", 0, 9)
