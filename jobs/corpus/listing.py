"""The URIs of a corpus become a sorted list of source objects.

1. reachable   the endpoints answer at all (jobs/driver/preflight.py)
2. list        every URI in its own thread; an object named twice is taken once
3. describe    format and compression by name; Hive key=value folders below the listed root

Nothing is opened here: no footer, no record, no text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobs.driver.preflight import bucket_of, require_endpoint
from workers.config import CorpusConfig, SourceFormat
from workers.errors import TransientError, UsageError
from workers.reading.formats.registry import format_of, traits_of
from workers.reading.formats.traits import FormatTraits
from workers.records.shard import ObjectSlice
from workers.storage.client import filesystem
from workers.storage.objects import ObjectInfo, list_objects
from workers.storage.uris import redact
from workers.table.partitions import Partitions, hive_partitions

LISTING_THREADS = 16
_GLOB = "*?["
_S3 = ("s3://", "s3a://")
_CONTENT_HASH = re.compile(r"[0-9a-f]{32}(-\d+)?")  # MD5, or MD5 of the parts' MD5s

Content = tuple[int, str]  # size, etag


class RowGroup(NamedTuple):
    """One row group (Arrow: record batch, ORC: stripe): rows, and uncompressed bytes of its text columns."""

    rows: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object of the corpus. `row_groups` is None where the rows are known only after reading."""

    info: ObjectInfo
    format: SourceFormat
    compression: str | None
    partitions: Partitions = ()
    row_groups: tuple[RowGroup, ...] | None = None
    problem: str | None = None  # why its footer cannot be read; the object ends quarantined

    @property
    def traits(self) -> FormatTraits:
        return traits_of(self.format)

    @property
    def rows(self) -> int | None:
        """Rows where known without reading: by footer, or 0 for an empty object (no compressor writes those)."""
        if self.row_groups is not None:
            return sum(group.rows for group in self.row_groups)
        empty = self.info.size == 0 and self.compression is None and self.traits.empty_has_no_rows
        return 0 if empty else None


def content_of(info: ObjectInfo | ObjectSlice) -> Content | None:
    """What two objects of the same bytes have in common, where the store tells it; None: the etag is no content hash."""
    known = info.uri.startswith(_S3) and _CONTENT_HASH.fullmatch(info.etag)
    return (info.size, info.etag) if known else None


def list_sources(config: CorpusConfig) -> list[SourceObject]:
    """List every URI of the corpus, in parallel; sorted by URI, each object once.

    Raises:
        UsageError: nothing there, bucket or credentials refused, endpoint unreachable, or a name of unknown format.
    """
    for uri in dict.fromkeys(map(bucket_of, config.uri)):
        require_endpoint(uri, config.storage_options, "corpus.uri")
    with ThreadPoolExecutor(max_workers=min(LISTING_THREADS, len(config.uri))) as pool:
        listings = list(pool.map(lambda uri: _list_one(uri, config), config.uri))
    by_uri: dict[str, SourceObject] = {}
    for source in (source for listing in listings for source in listing):
        known = by_uri.get(source.info.uri)
        if known is None or len(source.partitions) > len(known.partitions):  # named twice: the wider root tells more
            by_uri[source.info.uri] = source
    return [by_uri[uri] for uri in sorted(by_uri)]


def _list_one(uri: str, config: CorpusConfig) -> list[SourceObject]:
    name = f"corpus.uri {redact(uri)}"
    try:
        infos = list_objects(uri, config.storage_options)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{name}: no objects there; correct the uri, or put the corpus there first") from None
    except UsageError as error:
        raise UsageError(f"corpus.uri {error} (setting corpus.storage_options)") from None
    except TransientError as error:
        raise UsageError(f"{name}: cannot be listed: {error}; check corpus.storage_options and the network") from None
    root = _root_of(uri, config.storage_options)
    return [_describe(info, root, config) for info in infos]


def _root_of(uri: str, options: Mapping[str, Any]) -> str:
    """The listed folder as a full URI: a glob's folders before its first wildcard; an object's own name."""
    fs, path = filesystem(uri, options)
    wild = next((at for at, char in enumerate(path) if char in _GLOB), None)
    folder = path if wild is None else path[:wild].rpartition("/")[0]
    return str(fs.unstrip_protocol(folder)).rstrip("/")


def _describe(info: ObjectInfo, root: str, config: CorpusConfig) -> SourceObject:
    source_format, compression = format_of(info.uri, config.format)
    below = info.uri[len(root) :] if info.uri.startswith(root) else ""
    return SourceObject(info, source_format, compression, hive_partitions(below.split("/")[:-1]))
