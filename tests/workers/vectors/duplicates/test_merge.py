"""Merged files: every receiver sees the records that it would have seen, in the same order; checked against lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workers.errors import ReembedError, RunAborted
from workers.storage.store import Store
from workers.vectors.duplicates.merge import FileSizes, Merge, plan_merge
from workers.vectors.duplicates.shuffle import Sent, Shuffle
from workers.vectors.workplace import Workplace

KIND = np.dtype([("row", "<i8"), ("cosine", "<f4")])
DESTINATIONS, SENDERS = 7, (3, 4, 9, 20, 21)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    store = Store(str(tmp_path), {})
    return Workplace(store, store, "runs/r/scratch", tmp_path / "local")


def _sent(workplace: Workplace) -> tuple[Sent, list[list[int]]]:
    """Files of records, and the rows that each destination is to see in this order."""
    random = np.random.default_rng(5)
    shuffle, expected = Shuffle("near", DESTINATIONS, KIND), [[] for _ in range(DESTINATIONS)]  # type: ignore[var-annotated]
    for sender in SENDERS:
        records = np.zeros(0 if sender == 9 else 40, KIND)
        records["row"] = random.permutation(1000)[: len(records)]
        to = random.choice([0, 1, 2, 3, 6], len(records))  # nobody sends to 4 and 5
        shuffle.write(workplace, sender, to, records)
        for destination, row in zip(to.tolist(), records["row"].tolist(), strict=True):
            expected[destination].append(row)
    return shuffle.sent_by(SENDERS), expected


def _merged(workplace: Workplace, sent: Sent, most: int) -> Sent:
    sizes = dict(zip(sent.files, FileSizes(sent).of_unit(0, workplace)["bytes"].tolist(), strict=True))
    groups = plan_merge(sent.files, sizes, most)
    merged = Shuffle("merged", sent.shuffle.destinations, sent.shuffle.dtype)
    for unit in range(len(groups)):
        Merge(sent.shuffle, groups, merged).of_unit(unit, workplace)
    return merged.sent_by(range(len(groups)))


@pytest.mark.parametrize(("most", "files"), [(1, 5), (700, 4), (1 << 20, 1)])
def test_a_receiver_sees_the_same_records_in_the_same_order(workplace: Workplace, most: int, files: int) -> None:
    sent, expected = _sent(workplace)
    for seen in (sent, _merged(workplace, sent, most)):
        assert [seen.read(workplace, at, at + 1)["row"].tolist() for at in range(DESTINATIONS)] == expected
        assert sorted(seen.read(workplace, 1, 4)["row"].tolist()) == sorted(row for rows in expected[1:4] for row in rows)
    assert len(seen.files) == files


def test_bytes_are_joined_in_order_of_the_senders(workplace: Workplace) -> None:
    shuffle = Shuffle("ids", 3, np.dtype("u1"))
    for sender in (0, 1):
        shuffle.write_bytes(workplace, sender, [b"a%d" % sender, b"", b"c%d" % sender])
    merged = _merged(workplace, shuffle.sent_by([0, 1]), 1 << 20)
    assert [merged.read(workplace, at, at + 1).tobytes() for at in range(3)] == [b"a0a1", b"", b"c0c1"]


def test_groups_follow_each_other_and_are_bounded() -> None:
    assert plan_merge((2, 3, 5, 8, 9), {2: 4, 3: 4, 5: 9, 8: 1, 9: 7}, 8) == ((2, 3), (5,), (8, 9))
    assert plan_merge((), {}, 8) == ()


def test_a_file_that_is_gone_or_cut_short_is_named(workplace: Workplace) -> None:
    sent, _ = _sent(workplace)
    lost = Path(workplace.output.uri_of(sent.shuffle.path(workplace, 4)))
    whole = lost.read_bytes()
    lost.unlink()
    readings = (lambda: sent.whole(workplace), lambda: sent.read(workplace, 0, DESTINATIONS))
    for read in (lambda: FileSizes(sent).of_unit(0, workplace), *readings):
        with pytest.raises(RunAborted, match=r"gone; .*scratch was deleted while the job ran"):
            read()
    for size in (0, 11, len(whole) - 1):
        lost.write_bytes(whole[:size])
        for read in readings:
            with pytest.raises(ReembedError, match=rf"{lost.name}: .* bytes at .*: it was cut short"):
                read()
