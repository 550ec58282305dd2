"""Stripes of an ORC object -> SourceRows.

    footer -> which columns (id, text, keep; others are never fetched) -> are their types usable?
    -> stripes one by one -> pieces of about one window -> converted columns

Memory is one stripe of the wanted columns, decoded: its writer decides (pyarrow: 64 MiB, Hive and Spark: up to 256 MiB
compressed). There are no checksums.
"""

from __future__ import annotations

from collections.abc import Iterator

from workers.config import SourceFormat
from workers.errors import ObjectError
from workers.reading.columnar import ColumnLayout, pieces
from workers.reading.footers.facts import FooterReader
from workers.reading.footers.orc import fetch_footer, parse_footers, stripe_rows
from workers.reading.formats.traits import FormatTraits, Split, always
from workers.reading.source_rows import SourceRows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream


def read_orc(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, _compression: str | None) -> Iterator[SourceRows]:
    """Rows of stripes piece.start to piece.stop.

    Raises:
        ObjectError: not ORC, corrupt, a column is missing or of a type that cannot be used, fewer rows than planned.
        TransientError, ObjectMissing: the store failed.
    """
    import pyarrow.orc as orc

    with stream.decoding("ORC", 0):
        file = orc.ORCFile(stream)
        schema, counts = file.schema, stripe_rows(file)
        _ = schema.names  # names that are not UTF-8 are damage
    layout = ColumnLayout(stream.uri, schema, dict(piece.partitions), plan)
    if piece.stop > len(counts):
        raise ObjectError(stream.uri, f"has {len(counts)} stripes where {piece.stop} were planned; start a new run")
    first, done = piece.first_row, 0
    if first is None:
        first = sum(counts[: piece.start])
    for number in range(piece.start, piece.stop):
        with stream.decoding("ORC", done):
            batch = file.read_stripe(number, columns=layout.fetched)
            batch.validate(full=False)
        if batch.num_rows != counts[number]:
            reason = (
                f"stripe {number} holds {batch.num_rows} rows where the footer promised {counts[number]}; upload it again"
            )
            raise ObjectError(stream.uri, reason, done)
        for part in pieces(batch):
            yield layout.rows(part, first + done)
            done += part.num_rows


TRAITS = FormatTraits(
    format=SourceFormat.ORC,
    title="ORC",
    suffixes=(".orc",),
    read=read_orc,
    random_access=True,
    split=always(Split.GROUPS),
    group="stripe",
    compresses="stripes",
    typed_ids=True,
    empty_has_no_rows=False,
    signature=b"ORC",
    footer=FooterReader(fetch_footer, parse_footers),
)
