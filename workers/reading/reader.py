"""A shard -> windows of documents: the first stage of a replica.

    slices -> SourceStream -> the format's reader -> SourceRows -> validate_rows -> RowChunk -> windows

Windows run across slices and objects. Each ends with the row that fills it, so its border is a function of the shard's
content alone: after WINDOW_ROWS documents or plan.window_bytes of text (and, to bound memory, after KEPT_BYTES of kept
columns or WINDOW_ROWS quarantined rows). Every source row is in exactly one window, as a document or quarantined.
Knows nothing of tokens and models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.config import TableFormat
from workers.errors import ObjectError
from workers.host.isolated_process import IsolatedProcess
from workers.reading.first_look import HEAD_BYTES, first_look, footer_problem, parse_footers
from workers.reading.footers.facts import FooterReader
from workers.reading.formats.registry import format_of, traits_of
from workers.reading.signatures import SIGNATURE_BYTES
from workers.reading.source_rows import RowChunk, SourceRows, kept_bytes, text_bytes, validate_rows
from workers.reading.tables.lance import read_fragment
from workers.records.deleted_rows import decode_rows
from workers.records.documents import WINDOW_BYTES, WINDOW_ROWS, DocumentWindow, QuarantinedRow, ReadPlan, empty_table
from workers.records.shard import ObjectSlice, Shard
from workers.storage.stream import SourceStream
from workers.storage.uris import redact

KEPT_BYTES = 4 * WINDOW_BYTES  # kept columns of one window, in Arrow's memory


def read_windows(shard: Shard, plan: ReadPlan, exclude: Mapping[str, str]) -> Iterator[DocumentWindow]:
    """The documents of a shard, window by window, in the order of the source.

    exclude: object URI -> reason; such an object is not opened, and each of its slices is one QuarantinedRow with the
    slice's number of rows (None: not known, and then not in rows_read). A window may hold no documents, only quarantined
    rows; a shard without rows has no windows.

    Raises:
        ObjectError: one object is corrupt, gone, replaced, or lacks a column. TransientError: the store failed.
        UsageError: the object's name does not tell its format; access denied.
        ValueError: ids are made from row numbers and a slice has no first_row.
    """
    cutter = _WindowCutter(plan)
    for piece in shard.slices:
        reason = exclude.get(piece.uri, exclude.get(redact(piece.uri)))
        if reason is not None:
            cutter.add_lost(QuarantinedRow(redact(piece.uri), None, None, reason, rows=piece.rows))
            continue
        deleted = decode_rows(piece.deleted)
        for rows in _source_rows(piece, plan):
            yield from cutter.add(validate_rows(rows, piece.uri, plan, _deleted_places(rows, deleted)))
    yield from cutter.finish()


def _deleted_places(rows: SourceRows, deleted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the rows that a table has deleted. `deleted`: their numbers within the object."""
    if not len(deleted):
        return deleted
    if rows.first_row is None:
        raise ValueError("rows of a table have numbers")
    begin, end = np.searchsorted(deleted, [rows.first_row, rows.first_row + len(rows.texts[0])])
    return deleted[begin:end] - rows.first_row


def _source_rows(piece: ObjectSlice, plan: ReadPlan) -> Iterator[SourceRows]:
    if plan.table is not None and plan.table.format == TableFormat.LANCE:
        yield from read_fragment(piece, plan.table, plan)
        return
    source_format, compression = format_of(piece.uri, plan.corpus.source_format)
    traits = traits_of(source_format)
    with SourceStream.open(piece, plan.corpus.storage_options, exact=traits.random_access) as stream:
        if traits.footer is None and piece.start == 0 and plan.row_rules > 1:
            problem = first_look(stream.head(HEAD_BYTES), piece.size, compression, traits, piece.uri, plan.corpus)
            if isinstance(problem, str):
                raise ObjectError(stream.uri, problem)
        try:
            yield from traits.read(stream, piece, plan, compression)
        except ObjectError as error:
            if traits.footer is None or error.rows_read or stream.failure is not None:
                raise
            other = footer_problem(stream.head(SIGNATURE_BYTES), traits)
            if other is None and piece.rows is None and piece.stop == piece.size:  # as planned where its footer is not good
                planned = _as_planned(stream, traits.footer, plan)
                other = planned and _with_mend(planned)
            raise ObjectError(stream.uri, other or error.reason) from None


def _as_planned(stream: SourceStream, reader: FooterReader, plan: ReadPlan) -> str | None:
    """The problem with an object's footer, in the words of planning; None: its footer is good.

    Raises: what reading from the stream raises.
    """

    def read(start: int, stop: int) -> bytes:
        stream.seek(start)
        return stream.read(stop - start)

    footer = reader.fetch(read, stream.size)
    if isinstance(footer, str):
        return footer
    others = [*plan.keep.names, *([plan.corpus.id] if plan.corpus.id else [])]
    with IsolatedProcess() as isolated:
        (facts,) = parse_footers(reader, [(footer, stream.size)], plan.corpus.text, others, isolated)
    return facts if isinstance(facts, str) else None


def _with_mend(problem: str) -> str:
    """As every reason in the quarantine; planning has one mend for all objects that it names."""
    if "decrypt it" in problem:
        return problem
    return f"{problem}; {'decrypt it' if 'encrypted' in problem else 'upload it again'}"


class _WindowCutter:
    """Gathers validated rows and hands out full windows."""

    def __init__(self, plan: ReadPlan) -> None:
        self._schema, self._window_bytes = plan.schema, plan.window_bytes
        self._index = 0
        self._start_window()

    def _start_window(self) -> None:
        self._tables: list[pa.Table] = []
        self._rows_read = 0
        self._quarantined: list[QuarantinedRow] = []
        self._seen: frozenset[str] = frozenset()
        # The rest of the window's limits: documents, text bytes, kept bytes, quarantined rows
        self._room = np.array([WINDOW_ROWS, self._window_bytes, KEPT_BYTES, WINDOW_ROWS], dtype=np.int64)

    def add_lost(self, row: QuarantinedRow) -> None:
        """A whole slice that is not read."""
        self._quarantined.append(row)
        self._rows_read += row.rows or 0

    def add(self, chunk: RowChunk) -> Iterator[DocumentWindow]:
        used = _running_totals(chunk)  # [4, size + 1]: what the rows before each place cost
        bad_places = np.array([place for place, _ in chunk.quarantined], dtype=np.int64)
        self._seen |= chunk.seen
        begin = 0
        while begin < chunk.size:
            ends = [np.searchsorted(row, row[begin] + room) for row, room in zip(used, self._room, strict=True)]
            end = min(chunk.size, *map(int, ends))  # the row that uses up the first of the limits is the window's last
            documents, bad = used[0, [begin, end]], np.searchsorted(bad_places, [begin, end])
            if documents[1] > documents[0]:
                self._tables.append(chunk.table.slice(documents[0], documents[1] - documents[0]))
            lost = [row for _, row in chunk.quarantined[bad[0] : bad[1]]]
            self._quarantined += lost
            self._rows_read += int(documents[1] - documents[0]) + sum(row.rows or 0 for row in lost)
            self._room -= used[:, end] - used[:, begin]
            begin = end
            if (self._room <= 0).any():
                yield self._window()

    def finish(self) -> Iterator[DocumentWindow]:
        if self._rows_read or self._quarantined:
            yield self._window()

    def _window(self) -> DocumentWindow:
        # One contiguous table: slices would keep the larger batches alive that they were cut from
        table = pa.concat_tables(self._tables).combine_chunks() if self._tables else empty_table(self._schema)
        window = DocumentWindow(self._index, table, self._rows_read, self._quarantined, self._seen)
        self._index += 1
        self._start_window()
        return window


def _running_totals(chunk: RowChunk) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    cost = np.zeros((4, chunk.size + 1), dtype=np.int64)
    after = chunk.places + 1
    cost[0, after] = 1
    cost[1, after] = text_bytes(chunk.table)
    # An even share of the kept columns: exact sizes of nested rows are expensive to find
    cost[2, after] = kept_bytes(chunk.table) // max(1, len(chunk.places))
    cost[3, [place + 1 for place, _ in chunk.quarantined]] = 1
    return np.cumsum(cost, axis=1)
