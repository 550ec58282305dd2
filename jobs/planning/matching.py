"""Matches a new corpus with its base: shards to carry over, slices left to embed, and parts that may hold their texts.

1. classify    every object of the new corpus as unchanged (also under another name), changed or new; missing ones as deleted
2. carry       a shard of the base whose objects are all unchanged is carried over whole
3. give        the other slices of a partly carried object: exactly these are left to embed
4. earlier     for each slice to embed: the parts of the base that hold the object's earlier texts, by position

Pure: works on manifest and receipts of the base and the listing of the new corpus; no storage. jobs/planning/reuse.py
decides beforehand whether vectors and rows of the base may be used. Memory and time grow with objects and shards, not with
rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobs.corpus.listing import Content, SourceObject, content_of
from workers.records.deleted_rows import deleted_count, rows_between
from workers.records.shard import ObjectSlice, Receipt, Shard

UNCHANGED, CHANGED, NEW, DELETED = "unchanged", "changed", "new", "deleted"
KINDS = (UNCHANGED, CHANGED, NEW, DELETED)
MOST_SHARDS = 3  # for an object in at most so many shards of the base, all their parts are searched; else those nearby


@dataclass(frozen=True, slots=True)
class _Former:
    """A slice of a base object, the shard that embedded it, and its range as shares of the object (0 to 1)."""

    slice: ObjectSlice
    shard: int
    start: float
    stop: float


@dataclass(frozen=True, slots=True)
class Reuse:
    """What is reused. `given`: object URI -> its slices left to embed; other objects are split anew."""

    base: str  # run id
    objects: Mapping[str, int]  # number of each kind
    carried: tuple[Shard, ...] = ()  # slices of the new corpus; shard numbers are not assigned yet
    given: Mapping[str, tuple[ObjectSlice, ...]] = field(default_factory=dict)
    formers: Mapping[str, tuple[_Former, ...]] = field(default_factory=dict)  # new object's URI -> its earlier version
    extents: Mapping[str, int] = field(default_factory=dict)  # new object's URI -> its row groups, or bytes
    parts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # shard of the base -> paths of its parts

    @property
    def serves(self) -> bool:
        """Whether anything of the base is used."""
        return bool(self.carried) or any(self.parts[former.shard] for found in self.formers.values() for former in found)

    def earlier(self, piece: ObjectSlice) -> tuple[str, ...]:
        """Parts of the base that may hold texts of this slice, in the order of the earlier object."""
        formers, extent = self.formers.get(piece.uri, ()), max(1, self.extents.get(piece.uri, 1))
        numbers = list(dict.fromkeys(former.shard for former in formers))
        if len(numbers) > MOST_SHARDS:
            start, stop = piece.start / extent, piece.stop / extent
            met = [at for at, former in enumerate(formers) if former.start < stop and former.stop > start]
            near = formers[max(0, met[0] - 1) : met[-1] + 2] if met else formers[-1:]
            numbers = list(dict.fromkeys(former.shard for former in near))
        return tuple(path for number in numbers for path in self.parts[number])


@dataclass(frozen=True, slots=True)
class _Counterpart:
    """The base object that corresponds to a new one. `same`: it has the same bytes."""

    uri: str
    same: bool


def match(
    base: str,
    shards: Iterable[Shard],
    receipts: Mapping[int, Receipt],
    objects: Sequence[SourceObject],
    *,
    same_rows: bool,
    same_vectors: bool = True,
    ids_from_column: bool,
) -> Reuse:
    """Match a new corpus with the base run `base`.

    Args:
        shards, receipts: of the base.
        objects: of the new corpus, in URI order.
        same_rows: rows are read and grouped as in the base, so that whole parts may be carried.
        same_vectors: False: objects are only classified, for information; nothing is reused.
        ids_from_column: False: ids contain the object's key, so another name makes other rows.
    """
    shards = list(shards)
    before = _by_object(shards)
    stand_for, kinds = _classify(objects, before)
    if not same_vectors:
        return Reuse(base, kinds)
    carried = _carry(shards, receipts, objects, before, stand_for, ids_from_column) if same_rows else []
    return Reuse(
        base,
        kinds,
        tuple(carried),
        _give(objects, before, stand_for, carried),
        {uri: tuple(before[found.uri]) for uri, found in stand_for.items()},
        {source.info.uri: _extent(source) for source in objects},
        {shard.number: _paths(receipts.get(shard.number)) for shard in shards},
    )


def _by_object(shards: Iterable[Shard]) -> dict[str, list[_Former]]:
    slices: dict[str, list[tuple[ObjectSlice, int]]] = defaultdict(list)
    for shard in shards:
        for piece in shard.slices:
            slices[piece.uri].append((piece, shard.number))
    found = {}
    for uri, pieces in slices.items():
        pieces.sort(key=lambda item: item[0].start)
        extent = max(1, pieces[-1][0].stop)
        found[uri] = [_Former(piece, number, piece.start / extent, piece.stop / extent) for piece, number in pieces]
    return found


def _classify(
    objects: Sequence[SourceObject], before: Mapping[str, list[_Former]]
) -> tuple[dict[str, _Counterpart], dict[str, int]]:
    """New object's URI -> its counterpart in the base; and the number of objects of each kind.

    An object without rows is in no manifest. It counts as unchanged, unless it had rows before.
    """
    twins: dict[Content, str] = {}
    for uri in sorted(before):
        if (content := content_of(before[uri][0].slice)) is not None:
            twins.setdefault(content, uri)
    counts: Counter[str] = Counter()
    found: dict[str, _Counterpart] = {}
    added: list[SourceObject] = []
    for source in objects:
        info, former = source.info, before.get(source.info.uri)
        content = content_of(info)
        twin = twins.get(content) if content else None
        if former and (former[0].slice.size, former[0].slice.etag) == (info.size, info.etag):
            found[info.uri], kind = _Counterpart(info.uri, same=True), UNCHANGED if _same_rows(former, source) else CHANGED
        elif twin is not None:
            found[info.uri], kind = _Counterpart(twin, same=True), UNCHANGED
        elif former:
            found[info.uri], kind = _Counterpart(info.uri, same=False), CHANGED
        elif source.rows == 0:
            kind = UNCHANGED
        else:
            kind = NEW
            added.append(source)
        counts[kind] += 1
    present = {source.info.uri for source in objects} | {counterpart.uri for counterpart in found.values()}
    gone = [uri for uri in sorted(before) if uri not in present]
    by_size: dict[int, list[str]] = defaultdict(list)
    for uri in gone:
        by_size[before[uri][0].slice.size].append(uri)
    for source in added:
        # a renamed or copied local file: its texts may be those of the missing object of the same size
        if same_size := by_size.get(source.info.size):
            best = next((uri for uri in same_size if before[uri][0].slice.etag == source.info.etag), same_size[0])
            found[source.info.uri] = _Counterpart(best, same=False)
    return found, {kind: counts[kind] for kind in KINDS[:-1]} | {DELETED: len(gone)}


def _carry(
    shards: Sequence[Shard],
    receipts: Mapping[int, Receipt],
    objects: Sequence[SourceObject],
    before: Mapping[str, list[_Former]],
    stand_for: Mapping[str, _Counterpart],
    ids_from_column: bool,
) -> list[Shard]:
    """Shards of the base whose objects all exist again; once for each complete set of copies."""
    copies: dict[str, list[SourceObject]] = defaultdict(list)  # base object -> objects of the same bytes in the new corpus
    for source in sorted(objects, key=lambda item: _renamed(item, stand_for)):  # the object of the same name first
        counterpart = stand_for.get(source.info.uri)
        if counterpart is None or not counterpart.same:
            continue
        in_place = counterpart.uri == source.info.uri
        if source.partitions == before[counterpart.uri][0].slice.partitions and (in_place or ids_from_column):
            copies[counterpart.uri].append(source)
    carried = []
    for shard in shards:
        receipt = receipts.get(shard.number)
        if receipt is None or receipt.excluded or receipt.lost_objects:  # not embedded completely: tried again
            continue
        uris = dict.fromkeys(piece.uri for piece in shard.slices)
        for turn in range(min(len(copies[uri]) for uri in uris)):
            sources = {uri: copies[uri][turn] for uri in uris}
            if receipt.quarantined_rows and any(uri != source.info.uri for uri, source in sources.items()):
                continue  # its quarantine file names the object by its old name
            slices = tuple(_moved(piece, sources[piece.uri]) for piece in shard.slices)
            if any(now.deleted != then.deleted for now, then in zip(slices, shard.slices, strict=True)):
                continue  # the same bytes, but their table has deleted other rows of them
            carried.append(replace(shard, slices=slices, carried=shard.number, earlier=()))
    return carried


def _renamed(source: SourceObject, stand_for: Mapping[str, _Counterpart]) -> bool:
    counterpart = stand_for.get(source.info.uri)
    return counterpart is not None and counterpart.uri != source.info.uri


def _give(
    objects: Sequence[SourceObject],
    before: Mapping[str, list[_Former]],
    stand_for: Mapping[str, _Counterpart],
    carried: Sequence[Shard],
) -> dict[str, tuple[ObjectSlice, ...]]:
    """The slices that are not carried, of each partly carried object."""
    covered: dict[str, set[int]] = defaultdict(set)
    for shard in carried:
        for piece in shard.slices:
            covered[piece.uri].add(piece.start)
    return {
        source.info.uri: tuple(
            _moved(former.slice, source)
            for former in before[stand_for[source.info.uri].uri]
            if former.slice.start not in covered[source.info.uri]
        )
        for source in objects
        if source.info.uri in covered
    }


def without_deleted(piece: ObjectSlice, deleted: str) -> ObjectSlice:
    """The slice, whose `rows` are all that lie there, without those that its table has deleted."""
    if not deleted:
        return piece
    if piece.rows is None or piece.first_row is None:  # its footer was not readable: the whole object
        return replace(piece, deleted=deleted)
    within = rows_between(deleted, piece.first_row, piece.first_row + piece.rows)
    return replace(piece, rows=piece.rows - deleted_count(within), deleted=within)


def _same_rows(former: Sequence[_Former], source: SourceObject) -> bool:
    """Of an object whose bytes are the same: whether its table has deleted the same rows of it."""
    if not source.deleted and not any(piece.slice.deleted for piece in former):
        return True
    return all(_moved(piece.slice, source).deleted == piece.slice.deleted for piece in former)


def _moved(piece: ObjectSlice, source: SourceObject) -> ObjectSlice:
    """The slice in the new corpus: the same rows of bytes, possibly under another name, less those that are deleted now."""
    moved = replace(piece, uri=source.info.uri, etag=source.info.etag, partitions=source.partitions)
    if not piece.deleted and not source.deleted:
        return moved
    return without_deleted(replace(moved, rows=piece.stored_rows, deleted=""), source.deleted)


def _extent(source: SourceObject) -> int:
    return len(source.row_groups) if source.row_groups is not None else source.info.size


def _paths(receipt: Receipt | None) -> tuple[str, ...]:
    return tuple(file.path for file in receipt.files) if receipt else ()
