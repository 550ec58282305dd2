"""Source objects, shards and receipts of a base run, as records alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from jobs.corpus.discovery import Corpus
from jobs.corpus.listing import RowGroup, SourceObject
from jobs.planning.matching import Reuse, match
from jobs.planning.sharding import cut
from tests.jobs.ledger_samples import receipt
from workers.config import CorpusConfig, SourceFormat
from workers.records.documents import ReadPlan
from workers.records.shard import OutputFile, Receipt, Shard
from workers.storage.objects import ObjectInfo
from workers.table.partitions import Partitions

S3, LOCAL = "s3://bucket/corpus/", "file:///corpus/"
BASE = "base"


def reader() -> ReadPlan:
    return ReadPlan(CorpusConfig(uri=[S3]), pa.string(), pa.schema([]))


def source(
    name: str, root: str = S3, *, groups: int = 3, text: int = 1000, etag: str | None = None, partitions: Partitions = ()
) -> SourceObject:
    """A Parquet object of so many row groups of ten rows and `text` bytes; its etag follows from its name."""
    etag = etag if etag is not None else hashlib.md5(name.encode()).hexdigest()
    info = ObjectInfo(f"{root}{name}.parquet", 100 + groups, etag)
    return SourceObject(info, SourceFormat.PARQUET, None, partitions, tuple(RowGroup(10, text) for _ in range(groups)))


def base_shards(objects: Sequence[SourceObject], shard_bytes: int = 1000) -> list[Shard]:
    return cut(Corpus(tuple(objects), reader()), shard_bytes, id_given=True)


def receipts_of(shards: Sequence[Shard]) -> dict[int, Receipt]:
    return {
        shard.number: replace(
            receipt(shard.number, shard.rows or 0),
            files=(OutputFile(f"data/{BASE}/part-{shard.number:07d}.parquet", shard.rows or 0, 1, "", ""),),
        )
        for shard in shards
    }


def made(
    shards: Sequence[Shard], now: Sequence[SourceObject], receipts: Mapping[int, Receipt] | None = None, **flags: Any
) -> Reuse:
    """Matched with a new corpus; rows and ids allow everything unless `flags` say otherwise."""
    return match(
        BASE,
        shards,
        receipts_of(shards) if receipts is None else receipts,
        now,
        **({"same_rows": True, "ids_from_column": True} | flags),
    )
