"""Parquet footers of many objects, in parallel: one suffix request each (two for a footer beyond 64 KiB), never a data page.

The tail alone is a valid Parquet file to a metadata parser: it looks for the footer from the end and the footer's offsets
into the data are not followed. Some corrupt footers end the process that parses them, so
that is an isolated one (workers/inspection/parquet_footer.py). This file does not know which
column is wanted for what; jobs/corpus/schema.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from jobs.corpus.listing import RowGroup, SourceObject
from workers.config import CorpusConfig
from workers.host.isolated_process import Aside, ProcessEnded
from workers.inspection.parquet_footer import FooterTold, parse_footers
from workers.storage.checksums import fetch_checked
from workers.storage.client import filesystem, patiently
from workers.storage.uris import redact

FOOTER_THREADS = 48  # requests in flight: a footer is one round trip, and round trips are all that planning waits for
BATCH = 16  # footers parsed by one call: a call each would cost the driver more than the parsing
TAIL_BYTES = 64 << 10
MAX_FOOTER_BYTES = 512 << 20  # beyond this it is no footer but damage
_TRAILER = 8  # four bytes of length, then PAR1


@dataclass(frozen=True, slots=True)
class Footer:
    """What one footer says: row groups, names of the top-level columns, types of the wanted ones; or the problem."""

    row_groups: tuple[RowGroup, ...] | None
    columns: dict[str, pa.DataType]
    names: tuple[str, ...] = ()
    problem: str | None = None


_Names = dict[tuple[str, ...], tuple[str, ...]]  # one tuple of names for all objects that share it: wide schemas cost once


def read_footers(objects: Sequence[SourceObject], config: CorpusConfig) -> list[Footer]:
    """One Footer per object, in order. A footer that cannot be parsed is told as a problem, it never raises.

    Raises:
        TransientError, UsageError: the store did not answer, or refused.
    """
    if not objects:
        return []
    batch = max(1, min(BATCH, len(objects) // FOOTER_THREADS))
    batches = [objects[start : start + batch] for start in range(0, len(objects), batch)]
    names: _Names = {}
    with Aside() as aside, ThreadPoolExecutor(max_workers=min(FOOTER_THREADS, len(batches))) as pool:
        return list(chain.from_iterable(pool.map(lambda some: _read_batch(some, config, names, aside), batches)))


def read_range(uri: str, start: int, stop: int, options: Mapping[str, Any]) -> bytes:
    """Bytes `start` to `stop` of an object in one request; on S3 compared with its checksum where they are all of it.

    Raises:
        FileNotFoundError, UsageError, TransientError.
    """
    fs, path = filesystem(uri, options)
    if "s3" in fs.protocol:
        return patiently(lambda: fetch_checked(fs, path, redact(uri), (start, stop)).data, uri)
    return bytes(patiently(lambda: fs.cat_file(path, start=start, end=stop), uri))


def _read_batch(objects: Sequence[SourceObject], config: CorpusConfig, names: _Names, aside: Aside) -> list[Footer]:
    """A problem is believed when it is met twice: bytes of a part of an object cannot be checked on their way."""
    return [
        footer if footer.problem is None else _look([source], config, names, aside)[0]
        for source, footer in zip(objects, _look(objects, config, names, aside), strict=True)
    ]


def _look(objects: Sequence[SourceObject], config: CorpusConfig, names: _Names, aside: Aside) -> list[Footer]:
    """Fetched one by one, parsed in one call."""
    tails = [_fetch(source, config) for source in objects]
    others = [*config.keep, *([config.id] if config.id else [])]
    fetched = [(tail, source.info.size) for tail, source in zip(tails, objects, strict=True) if isinstance(tail, bytes)]
    parsed = iter(_parse(fetched, config.text, others, aside))
    found = []
    for tail in tails:
        told = tail if isinstance(tail, str) else next(parsed)
        if isinstance(told, str):
            found.append(Footer(None, {}, problem=told))
        else:
            groups = tuple(RowGroup(rows, text_bytes) for rows, text_bytes in told.groups)
            found.append(Footer(groups, told.types, names.setdefault(told.names, told.names)))
    return found


def _fetch(source: SourceObject, config: CorpusConfig) -> bytes | str:
    """The object from its footer's first byte on, or the problem with it."""
    uri, size = source.info.uri, source.info.size
    if size < _TRAILER + 4:
        return "too small for a Parquet file" if size else "zero bytes, not a Parquet file"
    try:
        tail = read_range(uri, max(0, size - TAIL_BYTES), size, config.storage_options)
        if tail[-4:] != b"PAR1":
            return "its footer is encrypted" if tail[-4:] == b"PARE" else "it does not end as a Parquet file does (cut off?)"
        needed = int.from_bytes(tail[-_TRAILER:-4], "little") + _TRAILER
        if needed > min(size, MAX_FOOTER_BYTES):
            return f"its footer claims {needed} bytes of {size}"
        if needed > len(tail):
            tail = read_range(uri, size - needed, size, config.storage_options)
    except FileNotFoundError:
        return f"{redact(uri)} was deleted while it was listed"
    return tail[-needed:]


def _parse(
    footers: Sequence[tuple[bytes, int]], text: Sequence[str], others: Sequence[str], aside: Aside
) -> list[FooterTold | str]:
    """One by one when the process aside does not survive them together: so the one that ends it is found."""
    try:
        return aside.call(parse_footers, footers, text, others) if footers else []
    except ProcessEnded as error:
        if len(footers) == 1:
            return [f"its footer is corrupt: parsing it {error}"]
        return [told for footer in footers for told in _parse([footer], text, others, aside)]
