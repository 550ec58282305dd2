"""Columns of formats without a schema, guessed from records of a few objects spread over the listing.

    head      the first 256 KiB; more until whole records were seen, however long the first one is
    places    of JSON lines also pieces spread over the object, its end among them; an object of up to 1 MiB is read whole

At most SAMPLE_OBJECTS objects of a format are opened, never all: planning ten thousand small objects stays one listing. A
sample of JSON records proves that a column exists, not that it is missing; a header proves both, and so does an object of
which every record was seen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from jobs.corpus.footers import read_range
from jobs.corpus.json_types import NoOneType, agree, infer
from jobs.corpus.listing import SourceObject
from jobs.corpus.schema import Columns
from workers.config import CorpusConfig
from workers.errors import ObjectError
from workers.reading.first_look import decompressed_head
from workers.reading.formats.registry import FORMATS
from workers.reading.formats.traits import HeadSample
from workers.reading.lines import LINE_OVERHEAD
from workers.reading.typed.type_names import JSON

SAMPLE_OBJECTS = 16
MORE_OBJECTS = 256  # of each format, where a wanted column was not met in the first ones
SAMPLE_BYTES = 256 << 10  # of compressed bytes fetched, and of decompressed records parsed, for each sampled object
WHOLE_BYTES = 1 << 20  # an object of so many bytes is read whole, and so is the head of one that is read from its start only
ENOUGH_RECORDS, ENOUGH_BYTES = 8, 4 << 20  # the head grows up to one of them; and until one whole record was seen
PLACES, PLACE_BYTES = 6, 128 << 10  # pieces of a large object, spread between its head and its end
MOST_NAMES = 1000  # of columns that nobody asked for, to suggest one of them
_LARGE = threading.Lock()  # one long head at a time: a record may have corpus.max_text_bytes


@dataclass(slots=True)
class _Sampled:
    """What the samples of one object say; `problem`: why none of its rows can be read."""

    names: list[str] = field(default_factory=list)  # one that a header has twice is there twice
    exact: bool = False
    whole: bool = False  # every record was seen
    records: list[dict[str, Any]] = field(default_factory=list)  # wanted keys alone
    problem: str | None = None

    def add(self, sample: HeadSample, wanted: Sequence[str]) -> None:
        """Take what one piece of the object says."""
        if self.names:
            self.names = list(dict.fromkeys([*self.names, *sample.names]))
        else:
            self.names = list(sample.names)
        self.exact = self.exact or sample.exact
        self.records += [{name: record[name] for name in wanted if name in record} for record in sample.records]


def sample_columns(
    objects: Sequence[SourceObject], config: CorpusConfig, most: int = SAMPLE_OBJECTS
) -> tuple[dict[int, Columns], dict[int, str], list[str]]:
    """Columns of the sampled objects, by position in `objects`; why none of an object's rows can be read; and remarks.
    Objects of formats with a footer are left out.

    `most`: objects of each format.

    An object whose start cannot be decompressed or parsed says nothing here; its replica will say what is wrong with it.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    columns: dict[int, Columns] = {}
    chosen: list[int] = []
    for traits in FORMATS.values():
        of_format = [at for at, source in enumerate(objects) if source.format is traits.format]
        if traits.columns is not None:
            known = Columns(dict.fromkeys(traits.columns, pa.string()), traits.columns, exact=True)
            columns.update(dict.fromkeys(of_format, known))
        if traits.sample is not None:
            filled = [at for at in of_format if objects[at].info.size > 0]
            step = max(1, len(filled) / most)
            chosen += [filled[int(turn * step)] for turn in range(min(most, len(filled)))]
    if not chosen:
        return columns, {}, []
    with ThreadPoolExecutor(max_workers=SAMPLE_OBJECTS) as pool:
        samples = dict(zip(chosen, pool.map(lambda at: _sample(objects[at], config), chosen), strict=True))
    types, remarks = _pooled_types([record for sample in samples.values() for record in sample.records], config)
    for at, sample in samples.items():
        if sample.names and sample.problem is None:
            columns[at] = _columns(sample, config, {} if sample.exact else types)
    problems = {at: sample.problem for at, sample in samples.items() if sample.problem is not None}
    return columns, problems, remarks


def look_further(objects: list[SourceObject], columns: list[Columns | None], config: CorpusConfig) -> list[str]:
    """Where a wanted column was met nowhere, sample more objects and add to `columns`: either one has it, or it is known in
    more cases that none has. Problems are noted in `objects`; remarks are returned.

    Raises: UsageError, TransientError.
    """
    met = {name for known in columns if known is not None for name in known.types}
    met |= {key for source in objects for key, _ in source.partitions} | set(config.types)
    if met.issuperset(_wanted(config)):
        return []
    rest = [at for at, source in enumerate(objects) if columns[at] is None and source.problem is None and source.rows != 0]
    found, problems, remarks = sample_columns([objects[at] for at in rest], config, MORE_OBJECTS)
    for place, known in found.items():
        columns[rest[place]] = known
    for place, problem in problems.items():
        objects[rest[place]] = replace(objects[rest[place]], problem=problem)
    return remarks


def agreed_columns(columns: Sequence[Columns | None]) -> tuple[list[Columns | None], list[str]]:
    """The same columns, with one type for each JSON column: samples of this night and of earlier ones are guesses, and where
    they differ no object drifts. Remarks beside them."""
    sampled = [known for known in columns if known is not None and not known.exact]
    names = dict.fromkeys(name for known in sampled for name in known.types)
    types = {name: agree(known.types[name] for known in sampled if name in known.types) for name in names}
    remarks = [
        f"corpus.keep: JSON values of {name} have other types than in earlier samples; taken as JSON text: "
        f"corpus.schema: {{{name}: ...}} states one"
        for name, kind in types.items()
        if kind == JSON and not any(known.types.get(name) == JSON for known in sampled)
    ]
    return [
        known if known is None or known.exact else replace(known, types={name: types[name] for name in known.types})
        for known in columns
    ], remarks


def _columns(sample: _Sampled, config: CorpusConfig, types: dict[str, pa.DataType]) -> Columns:
    wanted = _wanted(config)
    found = [name for name in sample.names if name in wanted]
    others = [name for name in sample.names if name not in wanted][:MOST_NAMES]
    return Columns(
        {name: types.get(name, pa.string()) for name in found}, (*found, *others), sample.exact, whole=sample.whole
    )


def _wanted(config: CorpusConfig) -> list[str]:
    return list(dict.fromkeys([*([config.id] if config.id else []), *config.text, *config.keep]))


def _sample(source: SourceObject, config: CorpusConfig) -> _Sampled:
    """What the object's head says, and where lines can be found anywhere in it, what pieces of its rest say."""
    found = _Sampled()
    if source.traits.sample is None:
        raise ValueError(f"{source.format} is not sampled")
    try:
        sample, at = _sample_head(source, config)
    except ObjectError as error:
        found.problem = error.reason
        return found
    if sample is not None:
        found.add(sample, config.keep)
    found.whole = at is None
    if at is not None and not found.exact and _has_places(source):
        for piece, complete in _places(source, config, at):
            more = source.traits.sample(piece, complete, source.info.uri, config)
            if more is not None:
                found.add(more, config.keep)
    return found


def _sample_head(source: SourceObject, config: CorpusConfig) -> tuple[HeadSample | None, int | None]:
    """The head's sample, and how many bytes it has; None: it is the whole object. Raises: ObjectError."""
    size, longest = SAMPLE_BYTES, config.max_text_bytes + LINE_OVERHEAD
    while True:
        with _LARGE if size > ENOUGH_BYTES else contextlib.nullcontext():
            head, complete = read_head(source, config, size)
            sample = source.traits.sample(head, complete, source.info.uri, config) if source.traits.sample else None
        if complete or not _goes_on(source, sample, size, longest):
            return sample, None if complete else len(head)
        size *= 4


def _goes_on(source: SourceObject, sample: HeadSample | None, size: int, longest: int) -> bool:
    """Whether more of the head is worth reading."""
    if sample is None:
        return size < longest
    if sample.exact:
        return False
    if size < WHOLE_BYTES and (source.info.size <= WHOLE_BYTES or not _has_places(source)):
        return True
    return len(sample.records) < ENOUGH_RECORDS and size < ENOUGH_BYTES


def _has_places(source: SourceObject) -> bool:
    return source.traits.enter_anywhere and source.compression is None


def _places(source: SourceObject, config: CorpusConfig, at: int) -> Iterator[tuple[bytes, bool]]:
    """Pieces behind byte `at`, each from the start of a line on, and whether the object ends with it."""
    size = source.info.size
    for turn in range(1, PLACES + 1):
        start = max(at, at + (size - PLACE_BYTES - at) * turn // PLACES)
        try:
            piece = read_range(source.info.uri, start, min(size, start + PLACE_BYTES), config.storage_options)
        except FileNotFoundError:
            return
        yield piece.partition(b"\n")[2], turn == PLACES


def read_head(source: SourceObject, config: CorpusConfig, limit: int) -> tuple[bytes, bool]:
    """At most `limit` of the object's first decompressed bytes, and whether they are all of it.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    fetched = min(source.info.size, limit)
    try:
        data = read_range(source.info.uri, 0, fetched, config.storage_options)
    except FileNotFoundError:
        return b"", True
    if source.compression is None:
        return data, fetched == source.info.size
    head = decompressed_head(data, source.compression, limit)
    return head, fetched == source.info.size and len(head) < limit


def _pooled_types(records: Sequence[dict[str, Any]], config: CorpusConfig) -> tuple[dict[str, pa.DataType], list[str]]:
    """One type a kept column over all samples. Columns that corpus.schema states are left out."""
    types: dict[str, pa.DataType] = {}
    remarks: list[str] = []
    for name in config.keep:
        if name in config.types:
            continue
        try:
            types[name] = infer(record.get(name) for record in records)
        except NoOneType as why:
            types[name] = JSON
            remarks.append(
                f"corpus.keep: JSON values of {name} are {why}; taken as JSON text: corpus.schema: {{{name}: ...}} states a "
                "type, and rows that do not fit are then quarantined"
            )
    return types, remarks
