"""A vector is known without reading it only where counts leave no other way for it to have come about."""

from __future__ import annotations

import numpy as np
import pytest

from workers.snapshot.changes.decide import undecided
from workers.snapshot.changes.reuse import KnownVectors, Remade

OLD, NEW = ["a0", "a1", "b0", "c0"], ["n0", "n1", "m0"]
SHARDS = [Remade(frozenset({"n0", "n1"}), frozenset({"a0", "a1"}), 0), Remade(frozenset({"m0"}), frozenset({"b0"}), 0)]
Row = tuple[int, int, int]  # key, text, part


def _table(rows: list[Row]) -> np.ndarray:
    found = np.zeros((len(rows), 7), np.uint64)
    for place, (key, text, part) in enumerate(rows):
        found[place] = [key, 0, text % 3, text, 0, 0, part << 32 | place]  # first words of texts collide
    return found


def _proved(old: list[Row], new: list[Row], reused: list[int], buckets: int = 3) -> list[bool]:
    shards = [Remade(shard.parts, shard.earlier, count) for shard, count in zip(SHARDS, reused, strict=True)]
    known = KnownVectors(shards, OLD, NEW)
    dealt = [
        tuple(_table([row for row in rows if row[0] % buckets == number]) for rows in (old, new))
        for number in range(buckets)
    ]
    for olds, news in dealt:
        found = undecided(olds, news)
        own = known.own(olds[found.old], news[found.new])
        others = np.ones(len(news), np.bool_)
        others[found.new[own >= 0]] = False
        known.count(own, news[others])
    for olds, _ in dealt:
        known.look(olds)
    return [bool(proved) for proved in known.proved()]


@pytest.mark.parametrize("seed", range(40))
def test_against_counting_by_hand(seed: int) -> None:
    """S is every row of the shard whose text stands anywhere in its earlier parts, whatever its key."""
    rng = np.random.default_rng(seed)
    old = [(key, int(rng.integers(0, 12)), int(rng.integers(0, len(OLD)))) for key in rng.permutation(30).tolist()[:20]]
    new = [(key, int(rng.integers(0, 12)), int(rng.integers(0, len(NEW)))) for key in rng.integers(0, 30, 20).tolist()]
    earlier = [{text for _, text, part in old if part in (0, 1)}, {text for _, text, part in old if part == 2}]
    sizes = [
        sum(text in earlier[0] for _, text, part in new if part in (0, 1)),
        sum(text in earlier[1] for _, text, part in new if part == 2),
    ]
    assert _proved(old, new, sizes) == [True, True]
    assert _proved(old, new, [sizes[0] - 1, sizes[1]]) == [False, True]
    assert _proved(old, new, [sizes[0], sizes[1] + 1]) == [True, False]


def test_earlier_parts_that_are_not_read_prove_nothing() -> None:
    """Both snapshots have a1: its texts are not known, so S is not."""
    assert len(KnownVectors(SHARDS, ["a0", "b0"], NEW)) == 1
    assert len(KnownVectors([Remade(frozenset({"n0"}), frozenset(), 0)], OLD, NEW)) == 0


def test_an_old_row_elsewhere_is_not_an_own_one() -> None:
    known = KnownVectors(SHARDS, OLD, NEW)
    old, new = _table([(1, 5, 0), (2, 5, 2), (3, 5, 3)]), _table([(1, 5, 1), (2, 5, 1), (3, 5, 2)])
    assert known.own(old, new).tolist() == [0, -1, -1]


def test_too_many_texts_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import workers.snapshot.changes.reuse as reuse

    new = [(key, key, 0) for key in range(5)]
    assert _proved([], new, [0, 0]) == [True, True]
    monkeypatch.setattr(reuse, "MOST_TEXTS", 4)
    assert _proved([], new, [0, 0]) == [False, False]
