"""Merging: files of a shuffle are merged where that saves requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count, islice

from jobs.passes.passes import Passes
from workers.vectors.duplicates.merge import MERGE_BYTES, FileSizes, Merge, plan_merge
from workers.vectors.duplicates.shuffle import Sent

DIRECT = 512  # ranges that are read without a merge: some seconds of one actor on an object store


def merged(passes: Passes, sent: Sent, receivers: int) -> Sent:
    """The same records, in fewer files if that pays. `receivers`: times that every file is read."""
    return merged_pieces(passes, (sent,), receivers)[0]


def merged_pieces(passes: Passes, pieces: Sequence[Sent], receivers: int) -> tuple[Sent, ...]:
    """The same for pieces of one shuffle, each merged by itself. `receivers`: in all, each of one piece."""
    shuffle = pieces[0].shuffle
    files = tuple(chain.from_iterable(piece.files for piece in pieces))
    if 2 * receivers * len(files) <= DIRECT * len(pieces):
        return tuple(pieces)
    sizes = dict(zip(files, passes.units(FileSizes(shuffle.sent_by(files)), 1)["bytes"].tolist(), strict=True))
    plans = [plan_merge(piece.files, sizes, MERGE_BYTES) for piece in pieces]
    groups = tuple(chain.from_iterable(plans))
    if 2 * len(groups) > len(files):  # every byte is read and written once more, for less than half the requests saved
        return tuple(pieces)
    target = replace(shuffle, name=f"{shuffle.name}-merged")
    passes.units(Merge(shuffle, groups, target), len(groups))
    units = count()
    return tuple(target.sent_by(islice(units, len(plan))) for plan in plans)
