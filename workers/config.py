"""The sections of the configuration that workers use. Each setting is documented where it is declared.

Imports neither torch nor ray, and does no I/O: parsing a configuration takes milliseconds. `jobs/config.py` composes these
sections into RunConfig.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    field_validator,
    model_serializer,
    model_validator,
)

StorageOptions = dict[str, Any]
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_BYTE_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def _byte_count(value: object) -> object:
    return int(_BYTE_SIZE.validate_python(value)) if isinstance(value, str) else value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


ByteCount = Annotated[int, BeforeValidator(_byte_count)]
"""Bytes, or text with a unit: 64MiB, 1GB."""
Names = Annotated[list[str], BeforeValidator(_one_or_many)]


class Section(BaseModel):
    """Base of all sections. Strict and frozen: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class SourceFormat(StrEnum):
    AUTO = "auto"
    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"
    ARROW = "arrow"
    ORC = "orc"
    JSON = "json"


class TableFormat(StrEnum):
    """Tables: their own records say which data files, and which rows of them, are valid."""

    DELTA = "delta"
    ICEBERG = "iceberg"
    LANCE = "lance"
    HF = "hf"


class Pooling(StrEnum):
    """How hidden states become one vector; formulas in workers/engine/pooling.py."""

    AUTO = "auto"
    CLS = "cls"
    MEAN = "mean"
    MAX = "max"
    MEAN_SQRT_LEN = "mean_sqrt_len"
    WEIGHTED_MEAN = "weighted_mean"
    LAST_TOKEN = "last_token"  # noqa: S105 - a pooling, no password
    POOLER = "pooler"
    LAST4_MEAN = "last4_mean"
    LAST4_CONCAT = "last4_concat"
    MEAN_LSTM = "mean_lstm"
    TOKENS = "tokens"


class LongText(StrEnum):
    """What becomes of a text longer than max_tokens."""

    TRUNCATE = "truncate"
    CHUNKS = "chunks"
    MEAN_OF_CHUNKS = "mean_of_chunks"
    LATE_CHUNKS = "late_chunks"


ROW_A_CHUNK = frozenset({LongText.CHUNKS, LongText.LATE_CHUNKS})
"""A document has a row for each of its chunks."""


class ChunkBy(StrEnum):
    """Where one chunk ends and the next begins; see workers/model/chunking."""

    TOKENS = "tokens"
    SENTENCES = "sentences"
    MARKDOWN = "markdown"


class Precision(StrEnum):
    """The number format in which the model is computed."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    FLOAT8 = "float8"


class VectorType(StrEnum):
    """The number format in which vectors are stored; see workers/table/vectors.py."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"


class VectorEncoding(StrEnum):
    """How Parquet encodes the stored vectors; see workers/table/part_file.py."""

    AUTO = "auto"
    PLAIN = "plain"
    BYTE_STREAM_SPLIT = "byte_stream_split"


Auto = Literal["auto"]
LOCALE = r"^[a-z]{2,3}([_-][A-Za-z0-9]{2,8})*$"

MAIN_VECTORS = "embedding"
"""The column of vectors that searches and jobs read unless they are told another."""


Character = Annotated[str, Field(max_length=1)]


class CsvConfig(Section):
    """How CSV and TSV objects are written. The same for all of the corpus; other formats do not look at it."""

    delimiter: Annotated[str, BeforeValidator(lambda value: "\t" if value == "\\t" else value)] = "auto"
    """One character between fields. auto: a tab for .tsv; else a comma, or what a first line `sep=;` says."""
    quote: Character | Auto = "auto"
    """The character around fields that hold delimiters or line ends, doubled within them. "": none, every quote is text.
    auto: `"`; none for .tsv."""
    escape: Character = ""
    """A character that makes the next one text, as MySQL writes `\\"`; a field `\\N` is null. "": none."""
    header: bool = True
    """Whether the first record names the columns. Otherwise `columns` does."""
    columns: list[str] = Field(default_factory=list)
    """Names of the columns, in order: where there is no header, or in place of it."""
    encoding: str = "utf-8"
    """Any of Python's in which ASCII is ASCII: utf-8, latin-1, cp1252, shift_jis, gb18030, ... not utf-16."""
    skip_rows: int = Field(0, ge=0)
    """Lines before the header (a title, a remark) that are no rows."""
    skip_blanks: bool = False
    """Blanks behind a delimiter are no part of the field."""

    @field_validator("delimiter")
    @classmethod
    def _one(cls, value: str) -> str:
        if value != "auto" and (len(value) != 1 or value in "\r\n"):
            raise ValueError("must be one character, or auto")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        ascii_bytes = bytes(range(128))
        try:
            same = ascii_bytes.decode(value).encode(value) == ascii_bytes == ascii_bytes.decode().encode(value)
        except (LookupError, UnicodeError):
            same = False
        if not same:
            raise ValueError("must be a text encoding of Python in which ASCII is ASCII; convert others (iconv) to utf-8")
        return value

    @model_validator(mode="after")
    def _agree(self) -> CsvConfig:
        if not self.header and not self.columns:
            raise ValueError("header: false needs columns: the names, in order")
        special = [name for name in (self.delimiter, self.quote, self.escape) if name not in ("", "auto")]
        if len(set(special)) < len(special) or any(name in "\r\n" for name in special):
            raise ValueError("delimiter, quote and escape must be different characters, and no line ends")
        return self


class CorpusConfig(Section):
    """The corpus: its objects, their format and columns."""

    model_config = ConfigDict(serialize_by_alias=True)

    uri: Names = Field(min_length=1)
    """Object, prefix (ends with /), glob, or a list of them; any fsspec scheme or local path."""
    format: SourceFormat = Field(SourceFormat.AUTO, strict=False)
    """auto goes by the name: .parquet .pq | .arrow .feather .ipc | .orc | .jsonl .ndjson | .json | .csv .tsv | .txt;
    those without a compression of their own also .gz .zst .bz2."""
    id: str | None = None
    """Column of the document id. Omitted: "<object key>#<row number>"."""
    text: Names = Field(default_factory=lambda: ["text"], min_length=1)
    """Column of the text, or several joined by `separator`. Plain-text corpora have the single column `text`."""
    separator: str = "\n"
    keep: list[str] = Field(default_factory=list)
    """Columns carried to the output as they are, nested ones included."""
    types: dict[str, str] = Field(default_factory=dict, alias="schema")
    """`schema` in the file: column -> its type, where objects have none of their own (JSON, CSV, folders): int64, double,
    bool, string, date32, timestamp[us, UTC], list<string>, map<string, int64>, struct<a: int64, b: string>, json."""
    text_unit: Literal["line", "file"] = "line"
    """Plain text only: a document is a line, or the whole file."""
    max_text_bytes: ByteCount = Field(64 << 20, ge=1)
    """A longer document (or line) is quarantined, which bounds memory."""
    csv: CsvConfig = Field(default_factory=CsvConfig)
    """The dialect of CSV and TSV objects."""
    table: TableFormat | None = Field(None, strict=False)
    """delta | iceberg | lance | hf: `uri` names one table, whose snapshot is pinned when the run is planned. null: files."""
    table_version: int | Annotated[str, Field(min_length=1)] | None = None
    """Delta: a number. Iceberg: a snapshot id, a branch or a tag. Lance: a number or a tag. hf://: a branch, tag or commit.
    null: the newest."""
    table_options: StorageOptions = Field(default_factory=dict, repr=False)
    """To the table's library. Iceberg: the catalogue's properties, as pyiceberg has them: {type: rest, uri: ...}."""
    where: str | None = Field(None, min_length=1)
    """Objects to read, by the values of their key=value folders or their table's partitions: lang = 'en' and year >= 2020,
    as `search --where` has it."""
    exclude: str | None = Field(None, min_length=1)
    """OUTPUT of `reembed dedup`: rows that it says not to keep are counted, and not embedded. A row is known by its id and
    its text. Read with output.storage_options."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that came later are written only where they are set: runs begun before are known by their settings."""
        written: dict[str, Any] = serialize(self)
        if self.csv == CsvConfig():
            written.pop("csv", None)
        if not self.types:
            written.pop("schema", None)
        if self.exclude is None:
            written.pop("exclude", None)
        for name in ("table", "table_version", "where"):
            if getattr(self, name) is None:
                written.pop(name, None)
        if not self.table_options:
            written.pop("table_options", None)
        return written

    @property
    def source_format(self) -> SourceFormat:
        """Of the objects: `format`, or what every data file of such a table is."""
        if self.table is TableFormat.LANCE:
            return SourceFormat.ARROW  # record batches, as Lance hands them out
        return SourceFormat.PARQUET if self.table in (TableFormat.DELTA, TableFormat.ICEBERG) else self.format

    @model_validator(mode="after")
    def _one_table(self) -> CorpusConfig:
        if self.table is None:
            given = [name for name in ("table_version", "table_options") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]} is for a table; say which by table: delta | iceberg | lance | hf")
        elif len(self.uri) > 1:
            raise ValueError(
                f"table: {self.table} needs one uri, the table's; embed several tables into outputs of their own"
            )
        elif self.format is not SourceFormat.AUTO:
            raise ValueError(f"table: {self.table} says which files there are, and their format; leave format out")
        return self


class ModelConfig(Section):
    """The model, and how hidden states become one vector."""

    name: str = "bert-base-uncased"
    """Hub name, local folder, package:NAME/folder, or object-store URI of a folder. safetensors only, no remote code."""
    revision: str | None = None
    """Hub branch, tag or commit."""
    pooling: Pooling = Field(Pooling.AUTO, strict=False)
    """auto follows the model's modules.json and 1_Pooling/config.json, else mean."""
    normalize: bool | Auto = "auto"
    """Unit length (L2). auto: as modules.json says; true where there is no modules.json."""
    max_tokens: int | Auto = Field("auto")
    """Longest input in tokens, special tokens included. auto: sentence_bert_config.json, else the model's maximum."""
    long_text: LongText = Field(LongText.TRUNCATE, strict=False)
    """truncate | chunks (one row a chunk) | late_chunks (one row a chunk, pooled from the states that its tokens have in the
    whole document) | mean_of_chunks (one row a document, chunks weighted by tokens)."""
    chunk_by: ChunkBy = Field(ChunkBy.TOKENS, strict=False)
    """Where chunks end: tokens (as many as fit) | sentences (whole ones, as many as fit) | markdown (sections, each from its
    heading on; longer ones at their blocks). The last two need reembed[chunking]."""
    chunk_tokens: int | Auto = "auto"
    """Longest chunk, in tokens of text: special tokens and prompt are not counted. auto: what max_tokens leaves; with
    late_chunks a quarter of max_tokens, at most 256."""
    chunk_language: str = Field("en", pattern=LOCALE)
    """Language of the texts for chunk_by: its abbreviations end no sentence (en, de, fr, pt_BR, ...)."""
    chunk_overlap: int = Field(64, ge=0)
    """Tokens shared by neighbouring inputs of the model: the chunks; with late_chunks the windows over a document of more
    than max_tokens."""
    prompt: str | None = None
    """Put before every document. null: the model's own for documents, by its config_sentence_transformers.json. "": none."""
    query_prompt: str | None = None
    """Put before a search query. null: the model's own for queries, else that of documents. "": none."""
    truncate_dim: int | None = Field(None, ge=1)
    """Keep the first components only (Matryoshka models), before normalising."""
    precision: Precision = Field(Precision.AUTO, strict=False)
    """auto: float16 on CUDA (bfloat16 where that overflows), bfloat16 on CPUs that multiply it, else float32.
    int8: BERT-like models on CPUs; float8: on GPUs from compute capability 8.9. Whichever it is must reproduce golden
    texts within its tolerance of float32."""
    batch_tokens: int | Auto = "auto"
    """Token budget of one batch. auto: 2,048 on a CPU; on CUDA the first replica of a run tries several, from 65,536."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """For a model on object storage."""

    @field_validator("max_tokens", "batch_tokens", "chunk_tokens")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 4:
            raise ValueError("must be at least 4 tokens")
        return value

    def truncating(self) -> ModelConfig:
        """The same for texts that are not cut into chunks, such as queries."""
        whole = {"long_text": LongText.TRUNCATE, "chunk_by": ChunkBy.TOKENS, "chunk_tokens": "auto"}
        return self.model_copy(update=whole)


class ParquetConfig(Section):
    """How part files are encoded. It changes neither rows nor vectors, so parts with other settings mix in a snapshot."""

    vector_encoding: VectorEncoding = Field(VectorEncoding.AUTO, strict=False)
    """auto (what every tested reader opens: plain for float32 and float16, dictionary for int8 and binary) | plain |
    byte_stream_split (float vectors 9% smaller; Spark before 4.3 cannot read it). For parts that are written from now on."""


class VectorColumn(Section):
    """One representation of the vectors: a column of the output."""

    name: str
    """Of the column. One is called `embedding`: searches and jobs read it unless they are told another."""
    type: VectorType = Field(VectorType.FLOAT32, strict=False)
    """float32 | float16 | int8 (one scale for the column) | binary (packed bits)."""
    dim: int | None = Field(None, ge=1)
    """The first so many components (Matryoshka), of unit length again where the model normalises. null: all."""

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not _COLUMN_NAME.fullmatch(value):
            raise ValueError("must be letters, digits and _, no digit first, at most 64 of them")
        return value


class OutputConfig(Section):
    """The output: where vectors are stored, and in which form."""

    uri: str = Field(min_length=1)
    """Folder of the embeddings; data/, runs/ and CURRENT.json are made under it."""
    partition_by: Names = Field(default_factory=list)
    """Hive partitions, from kept columns or from key=value folders of the source."""
    vector: VectorType = Field(VectorType.FLOAT32, strict=False)
    """float32 | float16 | int8 (one scale for the whole snapshot) | binary (packed bits)."""
    vectors: list[VectorColumn] = Field(default_factory=list)
    """Several representations from one pass: [{name: embedding, type: float32}, {name: bits, type: binary}]. Each is a
    column of its own; one is called `embedding`. Empty: that one alone, of type `vector`."""
    parquet: ParquetConfig = Field(default_factory=lambda: ParquetConfig())
    """How part files are encoded."""
    keep_snapshots: int = Field(3, ge=1)
    """Published snapshots that are kept, including the current one; older ones are deleted after publishing. With 1, files
    are deleted that readers of the previous snapshot may still have open."""
    changes: bool = False
    """Write what differs from the snapshot before, for loaders of other stores, before readers get the new one."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)

    @field_validator("vectors")
    @classmethod
    def _distinct(cls, value: list[VectorColumn]) -> list[VectorColumn]:
        names = [column.name for column in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two are called {name}; give each column a name of its own")
        if names and MAIN_VECTORS not in names:
            raise ValueError(f"none is called {MAIN_VECTORS}, which searches and jobs read; give the main one that name")
        return value

    @model_validator(mode="after")
    def _one_form(self) -> OutputConfig:
        if self.vectors and "vector" in self.model_fields_set:
            raise ValueError(
                f"vector={self.vector} and vectors: the one is the short form of the other; leave vector out, and give its "
                f"type to the entry {MAIN_VECTORS} of vectors"
            )
        return self

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The representations, `embedding` first."""
        if not self.vectors:
            return (VectorColumn(name=MAIN_VECTORS, type=self.vector),)
        return tuple(sorted(self.vectors, key=lambda column: column.name != MAIN_VECTORS))

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As of the corpus: settings that came later are written only where they are set; of vectors, one of two forms."""
        written: dict[str, Any] = serialize(self)
        written.pop("vector" if self.vectors else "vectors", None)
        if not self.changes:
            written.pop("changes", None)
        return written
