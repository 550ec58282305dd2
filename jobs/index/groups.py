"""Groups: the shards of an index run. Each is some shards of the snapshot, and has files of its own.

A search asks every file, so there should be few: shards are put together, in their order, until a file is full.

The next night a group stays while at least half of its rows are in the snapshot; a search passes the others over. New shards
make new groups. Groups that are no larger than what is new are built again with it (the logarithmic method; Bentley and
Saxe, "Decomposable searching problems", 1980): a row is built a few times in its life, and the files of many nights are few.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.passes.kind import Kept
from jobs.passes.source import SourceSnapshot
from workers.records.shard import ObjectSlice, Shard

GROUP_BYTES = 1 << 30  # of parts: an actor holds a group's vectors, and their graph
_LIVING = 0.5  # of a group's rows: with fewer it is divided again
_HALVINGS = 10  # sizes differ by a thousandth of a file at most


@dataclass(frozen=True, slots=True)
class _Standing:
    """A group of last night. `living`: the shards of the snapshot that it stands for."""

    group: Shard
    living: tuple[Shard, ...]


def divided(source: SourceSnapshot, kept: Kept | None, vectors_per_file: int) -> list[Shard]:
    """The groups, numbered from 0: those that stay (`carried`), then the new ones."""
    standing = [] if kept is None else _standing(source, kept)
    new = _others(source, standing)
    size = source.vectors_in(new)
    if new:
        for old in sorted(standing, key=lambda old: (source.vectors_in(old.living), old.group.number)):
            living = source.vectors_in(old.living)
            if living > size or 2 * living > vectors_per_file:
                break
            standing.remove(old)
            size += living
        new = _others(source, standing)
    groups = [_renewed(old) for old in standing]
    groups += [_joined(shards) for shards in _cut(source, new, vectors_per_file)]
    return [dataclasses.replace(group, number=number) for number, group in enumerate(groups)]


def _others(source: SourceSnapshot, standing: Sequence[_Standing]) -> list[Shard]:
    """The shards that no group stands for."""
    inside = {shard.number for old in standing for shard in old.living}
    return [shard for shard in source.shards if shard.number not in inside]


def _standing(source: SourceSnapshot, kept: Kept) -> list[_Standing]:
    """Groups of last night that may stay, in order of their numbers."""
    group_of = {piece.etag: group.number for group in kept.shards for piece in group.slices}
    living: dict[int, list[Shard]] = defaultdict(list)
    torn: set[int | None] = set()  # groups of which a shard holds some parts, and others beside them
    for shard in source.shards:
        first, *others = (group_of.get(piece.etag) for piece in shard.slices)
        if first is not None and all(other == first for other in others):
            living[first].append(shard)
        else:
            torn |= {first, *others}
    found = [_Standing(group, tuple(living[group.number])) for group in kept.shards if group.number not in torn]
    whole = kept.whole() if any(_rows(old.living) < _rows([old.group]) for old in found) else frozenset()
    return [old for old in found if _may_stay(old, whole)]


def _may_stay(old: _Standing, whole: frozenset[int]) -> bool:
    """A group whose rows are all there can be built again where a file is lost; one that has lost rows cannot."""
    living, rows = _rows(old.living), _rows([old.group])
    return living > 0 and (living == rows or (living >= _LIVING * rows and old.group.number in whole))


def _rows(shards: Sequence[Shard]) -> int:
    return sum(shard.rows or 0 for shard in shards)


def _renewed(old: _Standing) -> Shard:
    """The group, with the present paths of its parts."""
    present = {piece.etag: piece for shard in old.living for piece in shard.slices}
    slices = tuple(present.get(piece.etag, piece) for piece in old.group.slices)
    return dataclasses.replace(old.group, slices=slices, carried=old.group.number)


def _joined(shards: Sequence[Shard]) -> Shard:
    slices: tuple[ObjectSlice, ...] = tuple(piece for shard in shards for piece in shard.slices)
    return Shard(0, slices, sum(shard.text_bytes for shard in shards))


def _cut(source: SourceSnapshot, shards: Sequence[Shard], vectors_per_file: int) -> list[list[Shard]]:
    """Few groups of nearly equal size, of which none is too large unless it is a single shard."""
    sizes = [max(source.vectors_in([shard]) / vectors_per_file, shard.text_bytes / GROUP_BYTES) for shard in shards]
    starts = _filled(sizes, 1.0)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):  # the least limit that makes no more groups than the largest
        limit = (low + high) / 2
        tried = _filled(sizes, limit)
        if len(tried) > len(starts):
            low = limit
        else:
            starts, high = tried, limit
    return [list(shards[first:end]) for first, end in itertools.pairwise([*starts, len(shards)])]


def _filled(sizes: Sequence[float], limit: float) -> list[int]:
    """The first place of each group, when each takes what follows until it is full."""
    starts: list[int] = []
    filled = 0.0
    for place, size in enumerate(sizes):
        if not starts or filled + size > limit:
            starts.append(place)
            filled = 0.0
        filled += size
    return starts
