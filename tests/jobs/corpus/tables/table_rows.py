"""What the product reads of a table, without Ray or a model: planned, stored as a run stores it, read shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.corpus.discovery import Corpus, discover
from jobs.planning.sharding import cut
from jobs.state.records import plan_from_json, plan_to_json
from jobs.state.stored_shards import StoredShards, columns_of
from workers.config import CorpusConfig
from workers.reading.reader import read_windows
from workers.records.documents import KEEP

SHARD_BYTES = 1024  # a row group is a shard


def settings(uri: str | Path, table: str, **more: Any) -> CorpusConfig:
    return CorpusConfig(**{"uri": [str(uri)], "table": table, "id": "id", "keep": []} | more)


def read_rows(config: CorpusConfig, partition_by: Sequence[str] = ()) -> tuple[pa.Table, Corpus]:
    """Documents sorted by id: id, text, kept columns; and the corpus that was planned."""
    corpus = discover(config, partition_by)
    plan = plan_from_json(plan_to_json(corpus.read_plan), config)
    assert plan == corpus.read_plan
    shards = StoredShards(columns_of(cut(corpus, SHARD_BYTES, id_given=config.id is not None)))
    windows = [window for shard in shards for window in read_windows(shard, plan, {})]
    assert [row for window in windows for row in window.quarantined] == []
    assert sum(window.rows_read for window in windows) == sum(window.table.num_rows for window in windows)
    assert corpus.rows in (None, sum(window.rows_read for window in windows))
    found = pa.concat_tables([window.table for window in windows])
    found = found.drop_columns(["object", "row"])
    return found.rename_columns([name.removeprefix(KEEP) for name in found.column_names]).sort_by("id"), corpus


def same(ours: pa.Table, theirs: Any) -> None:
    """Equal in columns, rows, values and types; strings of 32 and of 64 bits are one type."""
    reference = pa.table(theirs).select(ours.column_names)
    plain = pa.schema(
        [field.with_type(_plain(field.type)).remove_metadata() for field in reference.schema]
    ).remove_metadata()
    reference = reference.cast(plain).sort_by("id")
    assert [(field.name, _plain(field.type)) for field in ours.schema] == [(field.name, field.type) for field in plain]
    assert ours.to_pylist() == reference.to_pylist()


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind
