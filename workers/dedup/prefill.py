"""Fills the vector cache of a shard from parts of an earlier snapshot. Each part is read once, and only some of its columns.

    part -> was it made as this run makes its parts? -> batches of text_hash and the text's columns, page checksums verified
         -> whole texts (a text with chunks has several neighbouring rows, perhaps in two parts) -> those not cached yet

Where the part has other columns of vectors than this run, but one that holds the model's own float32 numbers, this run's are
made of those: the same bits as if the texts were embedded again. A part that is gone, damaged or made in another way is left
out with one log line; its texts are embedded. A text whose rows are not all there, or hold a vector that must not be
written, is left out likewise. A store that does not answer fails the attempt: every attempt must fill the cache with the
same rows. Memory holds one batch and one text's rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.config import VectorType
from workers.dedup.deduplicator import Deduplicator
from workers.dedup.hash_index import from_column
from workers.dedup.vector_cache import VectorCache
from workers.errors import ObjectError
from workers.host.spill_file import Positions
from workers.records.documents import WINDOW_ROWS
from workers.records.tokens import ranges
from workers.storage.store import Store
from workers.table.part_file import PartDamaged, PartName, PartReader, decoding, open_part
from workers.table.representations import derived, of_footer, whole
from workers.table.schema import CHUNK, OF_STORED_FORMS, OF_THE_VECTORS, PREFIX, TEXT_HASH, OutputSchema, same_columns
from workers.table.sparse import INDICES, WEIGHTS, flaws
from workers.table.vectors import (
    VectorFormat,
    as_float32,
    bad_rows,
    column_type,
    list_of,
    to_arrow,
    to_arrow_lists,
    vectors_per_row,
)

BATCH_BYTES = 8 << 20  # of all columns, before compression
BUFFER_BYTES = 4 << 20  # one range request inside a large column chunk

log = logging.getLogger("reembed")


class EarlierPart(NamedTuple):
    """One part by its path. Parts sort by partition and shard, and where those have several pieces, by piece."""

    first: str  # path without the piece: equal for all pieces
    piece: int  # -1: there is only one
    path: str

    @classmethod
    def of(cls, path: str) -> EarlierPart:
        name = PartName.parse(path)
        if name is None or name.piece is None:
            return cls(path, -1, path)
        return cls(path.removesuffix(str(name)) + str(PartName(name.shard)), name.piece, path)

    def follows(self, other: EarlierPart | None) -> bool:
        """Whether rows of one text may begin in `other` and go on here."""
        return other is not None and self.first == other.first and other.piece >= 0 and self.piece == other.piece + 1


def prefill_cache(
    store: Store, paths: Sequence[str], schema: OutputSchema, deduplicator: Deduplicator, cache: VectorCache
) -> None:
    """Read the parts at `paths`, sorted, and put each of their texts in the cache once.

    Raises:
        TransientError: the store did not answer, or the local disk is full. UsageError: the store refused.
    """
    texts = _WholeTexts(schema)
    before: EarlierPart | None = None  # read to its end
    for part in sorted(map(EarlierPart.of, set(paths))):
        if not part.follows(before):
            texts.forget()
        before = None
        try:
            for rows in _batches(store, part.path, schema):
                _admit(texts.add(rows), schema, deduplicator, cache)
            before = part
        except FileNotFoundError:
            log.warning("%s: gone, so its texts are embedded again", store.uri_of(part.path))
        except ObjectError as error:
            log.warning("%s, so its texts are embedded again", error)
        if before is not None and part.piece < 0:  # else the last text may go on in the next piece
            _admit(texts.end(), schema, deduplicator, cache)


def _batches(store: Store, path: str, schema: OutputSchema) -> Iterator[pa.Table]:
    """Rows of a part: text_hash, and the columns that the text decides.

    Raises:
        ObjectError: damaged, or made in another way. FileNotFoundError, TransientError, UsageError: the store.
    """
    with open_part(store, path, buffer_bytes=BUFFER_BYTES) as part:
        source = _source_of(part, schema)
        names = list(schema.of_text) if source is None else [n for n in schema.of_text if n not in schema.vectors]
        fields = [schema.part.field(name) for name in (TEXT_HASH, *names)]
        if source is not None:
            fields.append(_stored_field(source, schema))
        expected = pa.schema(fields)
        _check_columns(part, expected)
        size = max(1, min(WINDOW_ROWS, BATCH_BYTES // max(1, part.row_bytes())))
        for batch in part.batches(size, expected.names):
            if any(column.null_count for column in batch.columns):
                raise PartDamaged(part.uri, "null where the writer leaves none")
            with decoding(part.uri):
                rows = pa.Table.from_batches([batch]).cast(expected)
            yield rows if source is None else _with_columns(rows, source, schema)


def _source_of(part: PartReader, schema: OutputSchema) -> VectorFormat | None:
    """The part's column that this run's columns are made of; None: the part has the same columns.

    Raises: ObjectError: the part's vectors are not what this run would make of the same texts.
    """
    ours = schema.stamp.footer()
    differing = [key for key in OF_THE_VECTORS if part.footer.get(key, "") != ours.get(key, "")]
    if not differing:
        return None
    several = any(PREFIX + "vectors" in footer for footer in (ours, part.footer))
    if several and set(differing) <= OF_STORED_FORMS:
        with decoding(part.uri):
            source = whole(of_footer(part.footer, PREFIX))
        if source is not None and source.dim == (schema.stamp.formats[0].of or schema.stamp.dim):
            return source
    key = differing[0]
    theirs, expected = part.footer.get(key, "")[:80], ours.get(key, "")[:80]
    raise ObjectError(part.uri, f"made with {key}={theirs!r} where this run has {expected!r}")


def _check_columns(part: PartReader, columns: pa.Schema) -> None:
    """Raises: ObjectError: a column that is missing or of another type."""
    for field in columns:
        name, times = field.name, part.schema.names.count(field.name)
        there = part.schema.field(name).type if times == 1 else "there twice" if times else "missing"
        if times != 1 or not same_columns(pa.schema([field.with_type(there)]), pa.schema([field])):
            raise ObjectError(part.uri, f"column {name} is {there} where this run has {field.type}")


def _stored_field(form: VectorFormat, schema: OutputSchema) -> pa.Field:
    stored = column_type(form.dim, form.vector)
    return pa.field(form.column, list_of(stored) if schema.lists else stored, nullable=False)


def _with_columns(rows: pa.Table, source: VectorFormat, schema: OutputSchema) -> pa.Table:
    """This run's columns of vectors in place of the part's `source`. Texts that it would quarantine are left out."""
    column = rows[source.column]
    vectors, counts = as_float32(column, source.vector), vectors_per_row(column)
    row_V = np.repeat(np.arange(rows.num_rows), counts)
    spoilt_R = np.zeros(rows.num_rows, np.bool_)
    made = {name: rows[name] for name in rows.column_names}
    for form in schema.stamp.formats:
        cut = derived(vectors, form, normalize=schema.stamp.normalize)
        if bad := list(bad_rows(cut, form.vector)):
            spoilt_R[row_V[bad]] = True
            cut = cut.copy()
            cut[bad] = 0
        if schema.lists:
            made[form.column] = to_arrow_lists(cut, counts, form.vector, form.int8_scale)[0]
        else:
            made[form.column] = to_arrow(cut, form.vector, form.int8_scale)[0]
    if spoilt_R.any() and schema.chunked:
        made[CHUNK] = pa.array(np.where(spoilt_R, np.int32(-1), rows[CHUNK].to_numpy()))  # no chunk of any text
    expected = pa.schema([schema.part.field(name) for name in (TEXT_HASH, *schema.of_text)])
    table = pa.table([made[name] for name in expected.names], names=expected.names).cast(expected)
    return table.filter(pa.array(~spoilt_R)) if spoilt_R.any() and not schema.chunked else table


class _Whole(NamedTuple):
    """Rows, and the whole texts among them: the n-th has counts[n] rows and begins at starts[n]."""

    rows: pa.Table
    starts: Positions
    counts: Positions


class _WholeTexts:
    """Cuts a stream of rows into whole texts. With chunks a text has several rows and may go on in the next batch."""

    def __init__(self, schema: OutputSchema) -> None:
        self._schema = schema
        self._open: pa.Table | None = None  # rows of the last text, which may not be all

    def add(self, rows: pa.Table) -> _Whole:
        """The texts that are known to be whole now; the last one waits for what follows."""
        if not self._schema.chunked:
            return self._whole(rows)
        if self._open is not None:
            rows = pa.concat_tables([self._open, rows])
        begins = np.flatnonzero(rows[CHUNK].to_numpy() == 0)
        last = int(begins[-1]) if len(begins) else rows.num_rows
        self._open = rows.slice(last) if len(begins) else None
        return self._whole(rows.slice(0, last))

    def end(self) -> _Whole:
        """The last text: nothing follows it."""
        rows, self._open = self._open, None
        return self._whole(self._schema.cache.empty_table() if rows is None else rows)

    def forget(self) -> None:
        """What follows the last text is not known."""
        self._open = None

    def _whole(self, rows: pa.Table) -> _Whole:
        """Texts whose chunks count up from 0 under one hash and whose vectors may be written."""
        chunk_R = rows[CHUNK].to_numpy() if self._schema.chunked else np.zeros(rows.num_rows, np.int32)
        starts = np.flatnonzero(chunk_R == 0)
        if not len(starts):
            return _Whole(rows, starts, starts)
        counts = np.diff(starts, append=len(chunk_R))
        start_R = np.repeat(starts, counts)  # rows before the first start belong to a text that began elsewhere
        own_R = np.arange(starts[0], len(chunk_R))
        hashes_R = from_column(rows[TEXT_HASH])
        good_R = (chunk_R[own_R] == own_R - start_R) & (hashes_R[own_R] == hashes_R[start_R]) & ~self._bad(rows)[own_R]
        good = np.logical_and.reduceat(good_R, starts - starts[0])
        return _Whole(rows, starts[good], counts[good])

    def _bad(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """[rows] whether a row holds a vector that no writer leaves; parts of early versions carry no checksums."""
        bad_R = np.zeros(rows.num_rows, np.bool_)
        if self._schema.sparse:
            bad_R[list(flaws(rows[INDICES], rows[WEIGHTS], self._schema.stamp.dim))] = True
            return bad_R
        for form in self._schema.stamp.formats:
            if form.vector is not VectorType.BINARY:
                column = rows[form.column]
                row_V = np.repeat(np.arange(rows.num_rows), vectors_per_row(column))
                bad_R[row_V[list(bad_rows(as_float32(column, form.vector, form.int8_scale)))]] = True
        return bad_R


def _admit(texts: _Whole, schema: OutputSchema, deduplicator: Deduplicator, cache: VectorCache) -> None:
    """Put those in the cache that are not there yet."""
    if not len(texts.starts):
        return
    new = deduplicator.admit(from_column(texts.rows[TEXT_HASH])[texts.starts], texts.counts)
    chosen = ranges(texts.starts[new], texts.counts[new])
    rows = texts.rows if len(chosen) == texts.rows.num_rows else texts.rows.take(pa.array(chosen))
    columns = [rows[name] if name in rows.column_names else pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows)
               for name in schema.cache.names]  # fmt: skip
    cache.prefill(pa.Table.from_arrays(columns, schema=schema.cache))
