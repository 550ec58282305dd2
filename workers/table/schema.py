"""What a part file looks like: its columns and the stamp in its footer. docs/output_format.md is the reader's view of this.

    SnapshotStamp   what all parts of a run have in common: model, digests, settings
    OutputSchema    `rows`, all columns of a run; `part`, the same without the partition columns, as files have them;
                    `documents` and `cache`, the two halves of a row while it is on the local disk

It knows nothing of how rows are made, grouped or stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from workers import __version__
from workers.config import BY_TOKEN, MAIN_VECTORS, ROW_A_CHUNK, LongText, Pooling, VectorType
from workers.errors import UsageError
from workers.records.documents import TEXT_HASH_BYTES, ReadPlan, empty_table
from workers.table.partitions import can_name_folder
from workers.table.representations import parsed
from workers.table.small_table import encode_table
from workers.table.sparse import INDICES, SPARSE_COLUMNS, WEIGHTS, sparse_format
from workers.table.vector_identity import FOOTER_FACTS, LATER_STAMP, as_first_stored
from workers.table.vectors import VectorFormat, column_type, list_of

PREFIX = "reembed."
PARTITION_VALUES = PREFIX + "partition_values"
ID, EMBEDDING, TEXT_HASH = "id", MAIN_VECTORS, "text_hash"
NUM_TOKENS, TRUNCATED = "num_tokens", "truncated"
CHUNK, CHUNK_START, CHUNK_END = "chunk", "chunk_start", "chunk_end"  # with long_text: chunks, late_chunks
TOKENS = "tokens"  # with pooling: tokens and multi_vector, their strings
OUTPUT_COLUMNS = frozenset((ID, EMBEDDING, TEXT_HASH, NUM_TOKENS, TRUNCATED, CHUNK, CHUNK_START, CHUNK_END, TOKENS))
CLIPPED = "clipped"  # in the vector cache, for int8: components that had to be clipped
CACHE_RANGE = pa.struct([pa.field("row", pa.int64(), nullable=False), pa.field("rows", pa.int32(), nullable=False)])
# An attempt may be finished by a later one, or by newer code; everything else in a footer must agree.
OF_THE_ATTEMPT = frozenset({PREFIX + "epoch", PREFIX + "code_version"})
# In these all parts of a snapshot agree; the rest (run, shard, attempt, the model's name, code version) may differ.
OF_THE_VECTORS = tuple(PREFIX + name for name in FOOTER_FACTS)
# The form in which vectors are stored. Another one can be made of a column that holds the model's own numbers.
OF_STORED_FORMS = frozenset(PREFIX + name for name in ("dim", "vector", "int8_scale", "vectors", "int8_scales"))


@dataclass(frozen=True, slots=True)
class SnapshotStamp:
    """What every part of a run says of its origin. Values are the resolved ones: never `auto`."""

    run_id: str
    model: str
    revision: str | None
    weights_digest: str
    tokenizer_digest: str
    pooling: str  # names of Pooling, joined by + where a model concatenates several
    normalize: bool
    precision: str
    prompt: str
    dim: int  # of the main column, as are vector and int8_scale
    vector: VectorType
    int8_scale: float | None
    max_tokens: int
    long_text: LongText
    code_version: str = __version__
    vectors: str = ""  # all columns of vectors and their scales (workers/table/representations.py); '': the main one alone
    int8_scales: str = ""

    @property
    def formats(self) -> tuple[VectorFormat, ...]:
        """The columns of vectors, the main one first."""
        if self.pooling == Pooling.SPARSE:
            return (sparse_format(self.dim),)
        return parsed(VectorFormat(self.vector, self.int8_scale, EMBEDDING, self.dim), self.vectors, self.int8_scales)

    def of_one(self, dim: int, vector: VectorType, int8_scale: float | None) -> SnapshotStamp:
        """The same with one column of vectors, of these facts."""
        return replace(self, dim=dim, vector=vector, int8_scale=int8_scale, vectors="", int8_scales="")

    def footer(self) -> dict[str, str]:
        """Footer entries; None is '', a flag is true or false, the scale is written so that it reads back exactly."""
        facts = as_first_stored(asdict(self), LATER_STAMP)
        return {PREFIX + name: _text(value) for name, value in facts.items()}


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The columns of a run. `rows` has the partition columns, `part` (what is in a file) has not.

    `vectors`: all columns of vectors. `column`: the one that readers take; the stamp tells of that one.
    """

    stamp: SnapshotStamp
    rows: pa.Schema
    part: pa.Schema
    partition_by: tuple[str, ...]
    vectors: tuple[str, ...] = (EMBEDDING,)
    column: str = EMBEDDING

    def view(self, column: str) -> OutputSchema:
        """The same parts for readers of another column of vectors. Nothing is written by a view.

        Raises: UsageError: there is no such column of vectors.
        """
        if column == self.column:
            return self
        for form in self.stamp.formats:
            if form.column == column:
                return replace(self, stamp=self.stamp.of_one(form.dim, form.vector, form.int8_scale), column=column)
        raise UsageError(f"the snapshot has no column of vectors {column!r}; it has {', '.join(self.vectors)}")

    @property
    def vector_type(self) -> pa.DataType:
        """Type of one stored vector, also where a row holds a list of them."""
        return self.type_of(self.column)

    def type_of(self, column: str) -> pa.DataType:
        """Type of one stored vector of a column of vectors."""
        stored = self.part.field(column).type
        return stored.value_type if pa.types.is_list(stored) else stored

    @property
    def vector_format(self) -> VectorFormat:
        """Of the column that readers take."""
        if self.sparse:
            return sparse_format(self.stamp.dim)
        return VectorFormat(self.stamp.vector, self.stamp.int8_scale, self.column, self.stamp.dim)

    @property
    def lists(self) -> bool:
        """Whether a row holds a list: of vectors (pooling: tokens, multi_vector), or of a sparse one's entries (sparse)."""
        return bool(pa.types.is_list(self.part.field(self.column).type))

    @property
    def sparse(self) -> bool:
        """Whether a row holds a sparse vector, in two columns (workers/table/sparse.py)."""
        return self.stamp.pooling == Pooling.SPARSE

    @property
    def plain(self) -> pa.Schema:
        """All columns but those of vectors, and partition columns."""
        return pa.schema([field for field in self.rows if field.name not in self.vectors])

    @property
    def chunked(self) -> bool:
        """Whether a document has a row for each of its chunks."""
        return self.stamp.long_text in ROW_A_CHUNK

    @property
    def of_text(self) -> tuple[str, ...]:
        """Columns that the text alone decides, under one stamp: its vectors and what goes with them."""
        return tuple(self.rows.names[1 : self.rows.names.index(TEXT_HASH)])

    @property
    def cache(self) -> pa.Schema:
        """What a replica keeps of a distinct text: `of_text`, and for int8 the components that had to be clipped."""
        fields = [self.rows.field(name) for name in self.of_text]
        int8 = any(form.vector == VectorType.INT8 for form in self.stamp.formats)
        return pa.schema(fields + [pa.field(CLIPPED, pa.int32(), nullable=False)] * int8)

    @property
    def documents(self) -> pa.Schema:
        """What a replica keeps of a document: all other columns, and instead of `embedding` the range of its cache rows."""
        fields = [field for field in self.rows if field.name not in self.of_text]
        return pa.schema([*fields, pa.field(EMBEDDING, CACHE_RANGE, nullable=False)])

    def fingerprint(self) -> str:
        """Equal for attempts whose parts may stand side by side: columns, partitions and stamp, code version left out."""
        stamped = {name: value for name, value in self.stamp.footer().items() if name not in OF_THE_ATTEMPT}
        shape = [self.rows.to_string(), list(self.partition_by), stamped]
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def output_schema(
    plan: ReadPlan, stamp: SnapshotStamp, partition_by: Sequence[str], *, nullable_elements: bool = False
) -> OutputSchema:
    """The columns a run writes.

    `nullable_elements`: the lists `embedding` and `tokens` declare their elements as nullable, which they never are. So did
    version 0.1.0; a run goes on with it beside such parts, so that all parts of a snapshot have one Arrow schema.

    Raises:
        UsageError: a partition column that is not kept or has no text form, a kept column that collides with an output
            column or that Parquet cannot hold, a dimension that `vector: binary` cannot pack, a column of vectors whose name
            is taken.
    """
    formats = stamp.formats
    fields = [pa.field(ID, plan.id_type, nullable=False)]
    if stamp.long_text in ROW_A_CHUNK:
        fields += [
            pa.field(CHUNK, pa.int32(), nullable=False),
            pa.field(CHUNK_START, pa.int64(), nullable=False),
            pa.field(CHUNK_END, pa.int64(), nullable=False),
        ]
    tokens = stamp.pooling in BY_TOKEN
    if stamp.pooling == Pooling.SPARSE:
        fields += [
            pa.field(INDICES, list_of(pa.int32(), nullable=nullable_elements), nullable=False),
            pa.field(WEIGHTS, list_of(pa.float32(), nullable=nullable_elements), nullable=False),
        ]
    for form in formats if stamp.pooling != Pooling.SPARSE else ():
        if form.column != EMBEDDING and form.column in OUTPUT_COLUMNS | {CLIPPED}:
            raise UsageError(f"output.vectors: {form.column}: is the name of another output column; choose another name")
        vector = column_type(form.dim, form.vector, nullable=nullable_elements)
        stored = list_of(vector, nullable=nullable_elements) if tokens else vector
        fields.append(pa.field(form.column, stored, nullable=False))
    if tokens:
        fields.append(pa.field(TOKENS, list_of(pa.string(), nullable=nullable_elements), nullable=False))
    fields += [
        pa.field(NUM_TOKENS, pa.int32(), nullable=False),
        pa.field(TRUNCATED, pa.bool_(), nullable=False),
        pa.field(TEXT_HASH, pa.binary(TEXT_HASH_BYTES), nullable=False),
    ]
    _check_kept(plan.keep, [field.name for field in fields])
    for column in partition_by:
        _check_partition(column, plan.keep)
    kept = list(plan.keep)
    files = [field for field in kept if field.name not in partition_by]
    rows, part = pa.schema(fields + kept), pa.schema(fields + files)
    if stamp.pooling == Pooling.SPARSE:
        return OutputSchema(stamp, rows, part, tuple(partition_by), SPARSE_COLUMNS, WEIGHTS)
    return OutputSchema(stamp, rows, part, tuple(partition_by), tuple(form.column for form in formats))


def same_columns(one: pa.Schema, other: pa.Schema) -> bool:
    """Whether two schemas of parts are the same, but for what output_schema's `nullable_elements` changes."""
    return bool(_nullable_elements(one.remove_metadata()).equals(_nullable_elements(other.remove_metadata())))


def _nullable_elements(schema: pa.Schema) -> pa.Schema:
    """A kept column may be null, and so is not concerned."""
    of_the_run = [field.name in (EMBEDDING, TOKENS) or not field.nullable for field in schema]
    return pa.schema(
        [field.with_type(_nullable(field.type)) if ours else field for field, ours in zip(schema, of_the_run, strict=True)]
    )


def _nullable(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_nullable(kind.value_type), kind.list_size)
    return pa.list_(_nullable(kind.value_type)) if pa.types.is_list(kind) else kind


def part_footer(
    stamp: SnapshotStamp, shard: int, epoch: int, rows_digest: str, values: Mapping[str, str | None]
) -> dict[str, str]:
    """All footer entries of one part. `values` are the partition values in full."""
    return stamp.footer() | {
        PREFIX + "shard": str(shard),
        PREFIX + "epoch": str(epoch),
        PREFIX + "rows_digest": rows_digest,
        PARTITION_VALUES: json.dumps(dict(values), ensure_ascii=False),
    }


def _check_kept(keep: pa.Schema, taken: Sequence[str]) -> None:
    for column in keep:
        if column.name in taken:
            raise UsageError(
                f"corpus.keep: column {column.name!r} has the name of an output column ({', '.join(taken)}); "
                "rename it in the source, or leave it out of keep"
            )
        try:
            encode_table(empty_table(pa.schema([column])))
        except pa.ArrowException as error:
            raise UsageError(
                f"corpus.keep: column {column.name!r} of type {column.type} cannot be written: {error}"
            ) from None


def _check_partition(column: str, keep: pa.Schema) -> None:
    if column not in keep.names:
        raise UsageError(
            f"output.partition_by: {column!r} is not kept ({', '.join(keep.names) or 'nothing is'}); add it to corpus.keep"
        )
    kind = keep.field(column).type
    if not can_name_folder(kind):
        raise UsageError(
            f"output.partition_by: {column!r} is {kind}; only text, integers, decimals, booleans and dates can name a folder"
        )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
