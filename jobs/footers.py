"""Parquet footers of many objects, in parallel: one suffix request each (two for a footer beyond 64 KiB), never a data page.

The tail alone is a valid Parquet file to a metadata parser: it looks for the footer from the end and the footer's offsets
into the data are not followed. This file does not know which column is wanted for what; jobs/schema.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.listing import RowGroup, SourceObject
from workers.checked_read import checked, fetch_s3
from workers.config import CorpusConfig
from workers.storage_client import filesystem, patiently, redact

FOOTER_THREADS = 48  # requests in flight: a footer is one round trip, and round trips are all that planning waits for
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
    names: _Names = {}
    with ThreadPoolExecutor(max_workers=min(FOOTER_THREADS, len(objects))) as pool:
        return list(pool.map(lambda source: _read_footer(source, config, names), objects))


def read_range(uri: str, start: int, stop: int, options: Mapping[str, Any]) -> bytes:
    """Bytes `start` to `stop` of an object in one request; on S3 compared with its checksum where they are all of it.

    Raises:
        FileNotFoundError, UsageError, TransientError.
    """
    fs, path = filesystem(uri, options)
    if "s3" in fs.protocol:
        return patiently(lambda: checked(lambda: fetch_s3(fs, path, (start, stop)), redact(uri)).data, uri)
    return bytes(patiently(lambda: fs.cat_file(path, start=start, end=stop), uri))


def _read_footer(source: SourceObject, config: CorpusConfig, names: _Names) -> Footer:
    """A problem is believed when it is met twice: bytes of a part of an object cannot be checked on their way."""
    footer = _look_at_footer(source, config, names)
    return footer if footer.problem is None else _look_at_footer(source, config, names)


def _look_at_footer(source: SourceObject, config: CorpusConfig, names: _Names) -> Footer:
    uri, size = source.info.uri, source.info.size
    if size < _TRAILER + 4:
        return _broken("too small for a Parquet file" if size else "zero bytes, not a Parquet file")
    try:
        tail = read_range(uri, max(0, size - TAIL_BYTES), size, config.storage_options)
        if tail[-4:] != b"PAR1":
            what = "its footer is encrypted" if tail[-4:] == b"PARE" else "it does not end as a Parquet file does (cut off?)"
            return _broken(what)
        needed = int.from_bytes(tail[-_TRAILER:-4], "little") + _TRAILER
        if needed > min(size, MAX_FOOTER_BYTES):
            return _broken(f"its footer claims {needed} bytes of {size}")
        if needed > len(tail):
            tail = read_range(uri, size - needed, size, config.storage_options)
    except FileNotFoundError:
        return _broken(f"{redact(uri)} was deleted while it was listed")
    try:
        return _parse(pq.read_metadata(pa.BufferReader(tail[-needed:])), config, names)
    except (pa.ArrowException, OSError, ValueError) as error:
        return _broken(f"its footer cannot be parsed: {' '.join(str(error).split())[:200]}")


def _parse(metadata: Any, config: CorpusConfig, names: _Names) -> Footer:
    text = set(config.text)
    leaves = [at for at in range(metadata.num_columns) if metadata.schema.column(at).path.partition(".")[0] in text]
    groups = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups.append(RowGroup(group.num_rows, sum(group.column(at).total_uncompressed_size for at in leaves)))
    schema = metadata.schema.to_arrow_schema()
    wanted = text | set(config.keep) | {config.id}
    here = tuple(schema.names)
    types = {field.name: field.type for field in schema if field.name in wanted}
    return Footer(tuple(groups), types, names.setdefault(here, here))


def _broken(problem: str) -> Footer:
    return Footer(None, {}, problem=problem)
