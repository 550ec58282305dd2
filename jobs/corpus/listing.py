"""The URIs of a corpus become a sorted list of source objects.

1. reachable   the endpoints answer at all (jobs/driver/preflight.py)
2. list        every URI in its own thread; an object named twice is taken once
3. refuse      folders that are tables, of which some files and rows are deleted ones
4. describe    format and compression by name; columns of the key=value folders of its path (Hive)

Nothing is opened here: no footer, no record, no text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from jobs.driver.preflight import bucket_of, require_endpoint
from workers.config import CorpusConfig, SourceFormat, TableFormat
from workers.errors import TransientError, UsageError
from workers.reading.formats.registry import format_of, traits_of
from workers.reading.formats.traits import FormatTraits
from workers.records.deleted_rows import deleted_count
from workers.records.shard import ObjectSlice
from workers.storage.objects import ObjectInfo, explore
from workers.storage.table_folders import ICEBERG, ICEBERG_FOLDER, LANCE
from workers.storage.uris import redact
from workers.table.partitions import Partitions, hive_partitions

LISTING_THREADS = 16
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_S3 = ("s3://", "s3a://")
_HUB = "hf://"
_BLOB_ID = re.compile(r"[0-9a-f]{40}")  # git's SHA-1 of a file, or of the pointer to a large one, which holds its SHA-256
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
    problem: str | None = None  # why it cannot be read; the object ends quarantined
    denied: bool = False  # that is because the store refuses it, or keeps it in an archive: it may be readable later
    deleted: str = ""  # rows that its table has deleted (workers/records/deleted_rows.py)

    @property
    def traits(self) -> FormatTraits:
        return traits_of(self.format)

    @property
    def rows(self) -> int | None:
        """Rows where known without reading: by footer, or 0 for an empty object (no compressor writes those)."""
        if self.row_groups is not None:
            return sum(group.rows for group in self.row_groups) - deleted_count(self.deleted)
        empty = self.info.size == 0 and self.compression is None and self.traits.empty_has_no_rows
        return 0 if empty else None


def content_of(info: ObjectInfo | ObjectSlice) -> Content | None:
    """What two objects of the same bytes have in common, where the store tells it; None: the etag is no content hash."""
    known = (info.uri.startswith(_S3) and _CONTENT_HASH.fullmatch(info.etag)) or (
        info.uri.startswith(_HUB) and _BLOB_ID.fullmatch(info.etag)
    )
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
    by_uri = {source.info.uri: source for listing in listings for source in listing}
    return [by_uri[uri] for uri in sorted(by_uri)]


def _list_one(uri: str, config: CorpusConfig) -> list[SourceObject]:
    name = f"corpus.uri {redact(uri)}"
    try:
        listing = explore(uri, config.storage_options)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{name}: no objects there; correct the uri, or put the corpus there first") from None
    except UsageError as error:
        hint = " (setting corpus.storage_options)" if "storage_options" in str(error) else ""
        raise UsageError(f"corpus.uri {error}{hint}") from None
    except TransientError as error:
        raise UsageError(f"{name}: cannot be listed: {error}; check corpus.storage_options and the network") from None
    _refuse_tables(listing.tables, config)
    metadata = tuple(f"{folder}/{ICEBERG_FOLDER}/" for folder, kind in listing.tables.items() if kind == ICEBERG)
    infos = [info for info in listing.objects if not info.uri.startswith(metadata)]
    kept = [info for info in infos if config.format is not SourceFormat.AUTO or not _describes_data(info.uri, infos)]
    if not kept:
        raise UsageError(f"{name}: no data there, only records about data; correct the uri")
    return [_describe(info, config) for info in kept]


def _refuse_tables(tables: Mapping[str, str], config: CorpusConfig) -> None:
    """Raises: UsageError: a folder that is a table, unless corpus.format says that its files are meant."""
    for folder, kind in tables.items():
        if kind == LANCE:
            raise UsageError(
                f"corpus.uri {redact(folder)}: is a Lance table; set corpus.table: lance, or export it to Parquet"
            )
        if config.format is SourceFormat.AUTO:
            article = "an" if kind == ICEBERG else "a"
            mend = "export it" if kind.lower() not in set(TableFormat) else f"set corpus.table: {kind.lower()}"
            raise UsageError(
                f"corpus.uri {redact(folder)}: is {article} {kind} table: its files also hold rows that were deleted or "
                f"replaced; {mend}, or set corpus.format: parquet to read all of its data files as they are"
            )


def is_description(uri: str) -> bool:
    """Whether a file's name is one by which Hugging Face's `datasets` describes data."""
    return uri.rpartition("/")[2] in _DESCRIPTIONS


def _describes_data(uri: str, infos: Sequence[ObjectInfo]) -> bool:
    """Whether this is one of the files in which Hugging Face's `datasets` describes the data beside them."""
    folder, _, name = uri.rpartition("/")
    if name not in _DESCRIPTIONS or len(infos) == 1:
        return False
    return name != "state.json" or any(info.uri == f"{folder}/dataset_info.json" for info in infos)


def _describe(info: ObjectInfo, config: CorpusConfig) -> SourceObject:
    source_format, compression = format_of(info.uri, config.format)
    folders = redact(info.uri).partition("://")[2].split("/")[1:-1]
    return SourceObject(info, source_format, compression, hive_partitions(folders))
