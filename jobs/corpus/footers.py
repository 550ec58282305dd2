"""Footers of many objects, in parallel: a request or two each, never the data.

    fetch in threads -> parse in an isolated process, many at once -> Footer

Some corrupt footers end the process that parses them in C++, hence the isolated one. How a footer is fetched and parsed is
the format's affair (workers/reading/footers/); which column is wanted for what is jobs/corpus/schema.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from jobs.corpus.listing import RowGroup, SourceObject
from workers.config import CorpusConfig
from workers.errors import AccessDenied, ObjectArchived, ObjectError
from workers.host.isolated_process import IsolatedProcess
from workers.reading.first_look import parse_footers
from workers.reading.footers.facts import FooterBytes, FooterReader
from workers.records.pinned_table import TableColumn
from workers.storage.checksums import fetch_range
from workers.storage.client import filesystem, patiently
from workers.storage.uris import redact

FOOTER_THREADS = 48  # requests in flight: a footer is one round trip, and round trips are most of planning's time
BATCH = 16  # footers parsed by one call: a call each would cost the driver more than the parsing


@dataclass(frozen=True, slots=True)
class Footer:
    """What one footer says: row groups, names of the top-level columns, types of the wanted ones; or the problem.

    `row_groups` is also None where the footer is good and does not list any.
    """

    row_groups: tuple[RowGroup, ...] | None
    columns: dict[str, pa.DataType]
    names: tuple[str, ...] = ()
    problem: str | None = None
    denied: bool = False


_Names = dict[tuple[str, ...], tuple[str, ...]]  # one tuple of names for all objects that share it: wide schemas cost once
_Batch = list[int]  # positions of objects of one format


class _Denied(str):
    """A problem: the store refuses the object, or keeps it in an archive."""

    __slots__ = ()


def read_footers(objects: Sequence[SourceObject], config: CorpusConfig, columns: Sequence[TableColumn] = ()) -> list[Footer]:
    """One Footer per object, in order; all of formats that have one. A footer that cannot be parsed is reported as a
    problem, it never raises. `columns`: of the objects' table, where they may have other names for them.

    Raises:
        TransientError, UsageError: the store did not answer, or refused.
    """
    if not objects:
        return []
    batches = list(_batches(objects))
    names: _Names = {}
    footers: dict[int, Footer] = {}
    with IsolatedProcess() as isolated, ThreadPoolExecutor(max_workers=min(FOOTER_THREADS, len(batches))) as pool:
        read = pool.map(lambda batch: _read_batch([objects[at] for at in batch], config, columns, names, isolated), batches)
        for batch, of_batch in zip(batches, read, strict=True):
            footers.update(zip(batch, of_batch, strict=True))
    return [footers[at] for at in range(len(objects))]


def read_range(uri: str, start: int, stop: int, options: Mapping[str, Any]) -> bytes:
    """Bytes `start` to `stop` of an object in one request; on S3 compared with its checksum where they are all of it.

    Raises:
        FileNotFoundError, AccessDenied, ObjectError (archived), UsageError, TransientError.
    """
    fs, path = filesystem(uri, options)
    return patiently(lambda: fetch_range(fs, path, redact(uri), start, stop), uri)


def _batches(objects: Sequence[SourceObject]) -> Iterator[_Batch]:
    by_format: dict[str, _Batch] = {}
    for at, source in enumerate(objects):
        by_format.setdefault(source.format, []).append(at)
    size = max(1, min(BATCH, len(objects) // FOOTER_THREADS))
    for positions in by_format.values():
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def _read_batch(
    objects: Sequence[SourceObject],
    config: CorpusConfig,
    columns: Sequence[TableColumn],
    names: _Names,
    isolated: IsolatedProcess,
) -> list[Footer]:
    """A problem is believed when it is met twice: bytes of a part of an object cannot be checked on their way."""
    return [
        footer if footer.problem is None else _read_once([source], config, columns, names, isolated)[0]
        for source, footer in zip(objects, _read_once(objects, config, columns, names, isolated), strict=True)
    ]


def _read_once(
    objects: Sequence[SourceObject],
    config: CorpusConfig,
    columns: Sequence[TableColumn],
    names: _Names,
    isolated: IsolatedProcess,
) -> list[Footer]:
    """Fetched one by one, parsed in one call."""
    reader = objects[0].traits.footer
    if reader is None:
        raise ValueError(f"{objects[0].format} has no footers")
    if columns:
        reader = reader._replace(parse=partial(reader.parse, columns=tuple(columns)))
    fetched = [_fetch(source, reader, config) for source in objects]
    to_parse = [(data, source.info.size) for data, source in zip(fetched, objects, strict=True) if not isinstance(data, str)]
    others = [*config.keep, *([config.id] if config.id else [])]
    parsed = iter(parse_footers(reader, to_parse, config.text, others, isolated))
    footers = []
    for data in fetched:
        facts = data if isinstance(data, str) else next(parsed)
        if isinstance(facts, str):
            footers.append(Footer(None, {}, problem=facts, denied=isinstance(facts, _Denied)))
        else:
            groups = None if facts.groups is None else tuple(RowGroup(rows, size) for rows, size in facts.groups)
            footers.append(Footer(groups, facts.types, names.setdefault(facts.names, facts.names)))
    return footers


def _fetch(source: SourceObject, reader: FooterReader, config: CorpusConfig) -> FooterBytes | str:
    """The footer's bytes, or the problem with it."""
    uri = source.info.uri
    try:
        return reader.fetch(lambda start, stop: read_range(uri, start, stop, config.storage_options), source.info.size)
    except FileNotFoundError:
        return "deleted while it was listed"
    except AccessDenied as error:
        return _Denied(str(error).removeprefix(f"{redact(uri)}: "))
    except ObjectError as error:
        return _Denied(error.reason) if isinstance(error, ObjectArchived) else error.reason
