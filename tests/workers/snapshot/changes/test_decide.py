"""What becomes of a row, against dictionaries: every combination of old and new rows of one key."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from workers.snapshot.changes.decide import Op, decide, undecided

Row = tuple[int, int, int]  # text, columns, vector


def _table(rows: list[tuple[int, Row]]) -> tuple[np.ndarray, np.ndarray]:
    """[N, 7] and [N, 2] of (key, row)s."""
    found, vectors = np.zeros((len(rows), 7), np.uint64), np.zeros((len(rows), 2), np.uint64)
    for place, (key, (text, columns, vector)) in enumerate(rows):
        found[place] = [key << 40, 7, text, 0, 0, columns, place]
        vectors[place] = [0, vector]
    return found, vectors


def _expected(old: list[Row], new: list[Row]) -> tuple[list[Op], int]:
    """Ops of the new rows in order, and how many old ones are deleted."""
    if len(old) > 1 or len(new) > 1:
        return ([], 0) if Counter(old) == Counter(new) else ([Op.ADDED] * len(new), len(old))
    if not old:
        return [Op.ADDED], 0
    if not new:
        return [], 1
    (before,), (after,) = old, new
    if (before[0], before[2]) != (after[0], after[2]):
        return [Op.CHANGED], 0
    return ([Op.PATCHED] if before != after else []), 0


ROWS: list[Row] = list(itertools.product((1, 2), (1, 2), (1, 2)))
SOME = [list(rows) for count in range(3) for rows in itertools.product(ROWS[:1] + ROWS[3:6], repeat=count)]
CASES = [pair for pair in itertools.product(SOME, SOME) if any(pair)]


@pytest.mark.parametrize("seed", range(3))
def test_every_combination(seed: int) -> None:
    """All cases at once, each under a key of its own, in any order."""
    rng = np.random.default_rng(seed)
    olds = [(key, row) for key, (old, _) in enumerate(CASES) for row in old]
    news = [(key, row) for key, (_, new) in enumerate(CASES) for row in new]
    olds, news = [olds[at] for at in rng.permutation(len(olds))], [news[at] for at in rng.permutation(len(news))]
    (old, old_vectors), (new, new_vectors) = _table(olds), _table(news)
    found = decide(old, new, old_vectors, new_vectors)
    told: dict[int, list[Op]] = {}
    for place, op, *text in found.new.tolist():
        key = news[place][0]
        told.setdefault(key, []).append(Op(op))
        before = CASES[key][0]
        assert text == ([before[0][0], 0] if op != Op.ADDED else [0, 0])
    deleted = Counter(olds[int(place)][0] for place in found.deleted[:, 0])
    for key, (before, after) in enumerate(CASES):
        assert (told.get(key, []), deleted[key]) == _expected(before, after), (before, after)
    assert found.shared_keys == sum(len(before) > 1 or len(after) > 1 for before, after in CASES)
    assert (found.deleted[:, 1] == Op.DELETED).all()

    asked = undecided(old, new)
    pairs = {news[at][0]: olds[other][0] for at, other in zip(asked.new.tolist(), asked.old.tolist(), strict=True)}
    same = [
        key for key, (before, after) in enumerate(CASES) if len(before) == len(after) == 1 and before[0][0] == after[0][0]
    ]
    assert pairs == {key: key for key in same}
    for shared, rows in ((asked.shared_old, olds), (asked.shared_new, news)):
        for chosen, (key, _) in zip(shared, rows, strict=True):
            before, after = CASES[key]
            assert chosen == (bool(before and after) and (len(before) > 1 or len(after) > 1))


def test_nothing_at_all() -> None:
    empty, none = np.empty((0, 7), np.uint64), np.empty((0, 2), np.uint64)
    found = decide(empty, empty, none, none)
    assert (len(found.new), len(found.deleted), found.shared_keys) == (0, 0, 0)
    assert [len(rows) for rows in undecided(empty, empty)] == [0] * 4


def test_sums_do_not_take_one_set_for_another() -> None:
    """Sets of the same size whose rows differ by a swap of columns between rows."""
    old, old_vectors = _table([(1, (1, 1, 1)), (1, (2, 2, 2))])
    new, new_vectors = _table([(1, (1, 2, 1)), (1, (2, 1, 2))])
    assert len(decide(old, new, old_vectors, new_vectors).new) == 2
