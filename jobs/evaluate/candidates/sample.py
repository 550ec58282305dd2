"""Documents of the corpus that a snapshot was made from, with their texts: read again, as a snapshot does not store texts.

As many of the corpus' shards are read as hold enough documents, chosen by a hash of their numbers; of what was read the
documents with the smallest text hashes are taken, so that copies of a text are there together or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.passes.source import SourceSnapshot
from workers.errors import ObjectChanged, ObjectMissing, UsageError
from workers.reading.reader import read_windows
from workers.records.documents import KEEP, TEXT, TEXT_HASH_BYTES, text_hash
from workers.records.shard import Shard
from workers.table.schema import ID, TEXT_HASH


@dataclass(frozen=True, slots=True)
class Documents:
    """`rows`: the asked columns as the snapshot has them. `texts`: one a row."""

    rows: pa.Table
    texts: list[str]

    def take(self, places: Sequence[int]) -> pa.Table:
        return self.rows.take(pa.array(places, pa.int64()))


def require_corpus(source: SourceSnapshot) -> None:
    """Raises: UsageError: texts cannot be had, or are not one vector each."""
    if source.run.job is not None:
        raise UsageError(
            f"evaluate.candidates: the snapshot {source.uri} was made by `reembed {source.run.job}`, not from texts; "
            "give the snapshot that it was made from"
        )
    if source.schema.chunked:
        raise UsageError(
            "evaluate.candidates: the snapshot has a row for each chunk (model.long_text), and candidates are "
            "compared by one vector a text; embed with long_text: truncate"
        )


def sampled_documents(source: SourceSnapshot, columns: Sequence[str], most: int) -> Documents:
    """At most `most` documents (0: all), in order of text hash, then id.

    Raises: UsageError: the corpus has changed since.
    """
    schema = pa.schema([source.schema.rows.field(name) for name in columns])
    tables, texts, hashes, documents = [], [], [], 0
    for shard in sorted(source.run.shards, key=lambda shard: text_hash(str(shard.number))):
        receipt = source.run.receipts.get(shard.number)
        if receipt is None or (most and documents >= most):
            continue
        for table in _windows(shard, source, dict.fromkeys(receipt.excluded, "excluded")):
            own = [text_hash(text) for text in table[TEXT].to_pylist()]
            cells = {name: table[name] if name == ID else table[KEEP + name] for name in columns if name != TEXT_HASH}
            cells[TEXT_HASH] = pa.array(own, pa.binary(TEXT_HASH_BYTES))
            tables.append(pa.table({name: cells[name] for name in columns}).cast(schema))
            texts += table[TEXT].to_pylist()
            hashes += own
            documents += len(own)
    if not documents:
        raise UsageError(f"evaluate.candidates: the corpus of the snapshot {source.uri} has no documents to embed")
    together = pa.concat_tables(tables).combine_chunks()
    ids = [str(cell) for cell in together[ID].to_pylist()] if ID in columns else [""] * documents
    order = sorted(range(documents), key=lambda row: (hashes[row], ids[row]))[: most or documents]
    return Documents(together.take(pa.array(np.array(order, np.int64))), [texts[row] for row in order])


def _windows(shard: Shard, source: SourceSnapshot, excluded: dict[str, str]) -> list[pa.Table]:
    try:
        return [window.table for window in read_windows(shard, source.run.plan, excluded)]
    except (ObjectMissing, ObjectChanged) as error:
        raise UsageError(
            f"evaluate.candidates: the corpus of the snapshot has changed since ({error}); embed it again, then evaluate"
        ) from None
