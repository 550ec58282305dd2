"""Where records begin in a large object: one streaming pass for exact split points and their row numbers.

The pass uses the readers' own splitters, so a split point is where a replica would begin and a row number is what it would
count, malformed records and quoted line breaks included. Memory is one batch, whatever the object's size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from workers.config import CorpusConfig
from workers.errors import ObjectError
from workers.reading.formats.traits import FormatTraits
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

log = logging.getLogger("reembed")


class RecordOffset(NamedTuple):
    """Byte offset at which a record begins, and its row number (None: not known, or the object's end)."""

    offset: int
    row: int | None


def record_offsets(
    piece: ObjectSlice, traits: FormatTraits, wanted: Sequence[int], config: CorpusConfig
) -> list[RecordOffset]:
    """The start of `piece` (a whole object), then the first record at or after each wanted offset, with its row number.

    For an object that cannot be scanned (changed, no usable header) the start alone: its replica meets the same error and
    reports it.

    Raises:
        TransientError, UsageError: the store failed. ValueError: the format has no byte offsets of records.
    """
    if traits.record_starts is None:
        raise ValueError(f"{traits.title} is not split by records")
    offsets = [RecordOffset(0, 0)]
    try:
        with SourceStream.open(piece, config.storage_options, exact=False) as stream:
            remaining = iter(wanted)
            target = next(remaining, None)
            for row, offset in enumerate(traits.record_starts(stream, piece, config)):
                if target is None:
                    break
                if offset >= target:
                    offsets.append(RecordOffset(offset, row))
                    while target is not None and target <= offset:
                        target = next(remaining, None)
    except ObjectError as error:
        log.warning("%s: it is not split", error)
        return [RecordOffset(0, 0)]
    return offsets
