"""The section `corpus`: which objects or table, their format, their columns."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from workers.config.section import Auto, ByteCount, Names, Section, StorageOptions

Character = Annotated[str, Field(max_length=1)]


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
