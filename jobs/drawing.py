"""A few texts of one place of the source, for the estimate (jobs/estimate.py).

Pages of Parquet are decoded by C++ that trusts them more than it should: they are drawn in a process aside, so that a
corrupt object costs the estimate one sample, and the driver nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from workers.aside import Aside, ProcessEnded
from workers.config import SourceFormat
from workers.documents import TEXT, ReadPlan
from workers.errors import ObjectError
from workers.formats import format_of
from workers.reader import read_windows
from workers.shard import ObjectSlice, Shard
from workers.storage import open_object

HEAD_BYTES = 256 << 10  # read of a line object to see how long its records are

Drawn = tuple[list[str], int]
"""Texts, and the source bytes behind them."""


def draw(spot: Shard, plan: ReadPlan, count: int, aside: Aside) -> Drawn:
    """Up to `count` texts of the spot's first window, spread over it; none where the object cannot be read.

    Raises: UsageError, TransientError.
    """
    kind, _ = format_of(spot.slices[0].uri, plan.corpus.format)
    try:
        return aside.call(_draw, spot, plan, count) if kind is SourceFormat.PARQUET else _draw(spot, plan, count)
    except ProcessEnded:  # its replicas will find out, and name it
        return [], 0


def _draw(spot: Shard, plan: ReadPlan, count: int) -> Drawn:
    try:
        texts = _texts(spot, plan, count)
        return texts, round(len(texts) * _record_bytes(spot.slices[0], plan, texts)) if texts else 0
    except ObjectError:  # it will be quarantined, or mended before the run; the other samples tell enough
        return [], 0


def _texts(spot: Shard, plan: ReadPlan, count: int) -> list[str]:
    window = next(iter(read_windows(spot, plan, {})), None)
    if window is None or not window.table.num_rows:
        return []
    column, rows = window.table.column(TEXT), window.table.num_rows
    count = min(count, rows)
    texts: list[str] = column.take(pa.array([at * rows // count for at in range(count)])).to_pylist()
    return texts


def _record_bytes(piece: ObjectSlice, plan: ReadPlan, texts: Sequence[str]) -> float:
    """Source bytes behind one document: of a line format the record's, keys and other columns included, else the text's.

    Compressed lines count as the text's: their size is itself an estimate.
    """
    corpus = plan.corpus
    kind, compression = format_of(piece.uri, corpus.format)
    if kind is SourceFormat.PARQUET or compression or corpus.text_unit == "file":
        return sum(len(text.encode()) for text in texts) / len(texts)
    with open_object(piece.uri, piece.size, piece.etag, corpus.storage_options, block=HEAD_BYTES) as stream:
        stream.seek(piece.start)
        head = stream.read(HEAD_BYTES)
    return len(head) / max(1, head.count(b"\n"))
