"""Source files through planning and reading: discovered, cut into small shards, every shard read as a replica reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.corpus.discovery import Corpus, discover
from jobs.planning.sharding import cut
from workers.config import CorpusConfig
from workers.errors import ObjectError
from workers.reading.reader import read_windows
from workers.records.documents import QuarantinedRow
from workers.records.shard import Shard


@dataclass
class Planned:
    """What came of a corpus. `lost` are objects that could not be read.

    Documents are by object name and row number, a high one of the test's own where the row has none.
    """

    corpus: Corpus
    shards: list[Shard]
    documents: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    quarantined: list[QuarantinedRow] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    rows_read: int = 0

    def rows_of(self, name: str) -> list[dict[str, Any]]:
        """The documents of one object, by row number."""
        return [row for (of, _), row in sorted(self.documents.items()) if of == name]

    def reasons(self, name: str) -> dict[int | None, str]:
        return {row.row: row.reason for row in self.quarantined if row.object.endswith(f"/{name}")}

    def slices_of(self, name: str) -> int:
        return sum(piece.uri.endswith(f"/{name}") for shard in self.shards for piece in shard.slices)


def read_corpus(root: Path, shard_bytes: int = 64 << 20, **settings: Any) -> Planned:
    """Plan and read everything below `root`; an object that cannot be read is excluded, as after two replicas agree."""
    corpus = discover(CorpusConfig.model_validate({"uri": str(root)} | settings))
    shards = cut(corpus, shard_bytes, id_given=settings.get("id") is not None)
    planned = Planned(corpus, shards)
    for shard in shards:
        while True:
            try:
                windows = list(
                    read_windows(shard, corpus.read_plan, {f"file://{root}/{k}": v for k, v in planned.lost.items()})
                )
                break
            except ObjectError as error:
                planned.lost[error.object_uri.rpartition("/")[2]] = error.reason
        for window in windows:
            planned.rows_read += window.rows_read
            planned.quarantined += window.quarantined
            for row in window.table.to_pylist():
                number = len(planned.documents) + (1 << 40) if row["row"] is None else row["row"]
                key = (row["object"].rpartition("/")[2], number)
                assert key not in planned.documents, "a row is read twice"
                planned.documents[key] = row
    assert planned.rows_read == len(planned.documents) + sum(row.rows or 0 for row in planned.quarantined)
    return planned
