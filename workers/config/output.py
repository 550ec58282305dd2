"""The section `output`: where vectors are stored, and in which form."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from workers.config.section import Names, Section, StorageOptions

MAIN_VECTORS = "embedding"
"""The column of vectors that searches and jobs read unless they are told another."""
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class VectorType(StrEnum):
    """The number format in which vectors are stored; see workers/table/vectors.py."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"


_NO_TABLE_TYPE = (VectorType.FLOAT16, VectorType.BINARY)  # half floats, and bits in unsigned bytes


class VectorEncoding(StrEnum):
    """How Parquet encodes the stored vectors; see workers/table/part_file.py."""

    AUTO = "auto"
    PLAIN = "plain"
    BYTE_STREAM_SPLIT = "byte_stream_split"


class OutputTable(StrEnum):
    """A table format in which the published snapshot is registered; see jobs/publish/tables/."""

    DELTA = "delta"
    ICEBERG = "iceberg"


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
    table: OutputTable | None = Field(None, strict=False)
    """delta | iceberg: OUTPUT/data is such a table of the published snapshot, of the same files. null: none."""
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

    @model_validator(mode="after")
    def _has_types(self) -> OutputConfig:
        for column in self.columns if self.table is not None else ():
            if column.type in _NO_TABLE_TYPE:
                raise ValueError(
                    f"table={self.table}: has no type for {column.type}, which column {column.name} is; store float32 or "
                    "int8, or leave table out"
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
        if self.table is None:
            written.pop("table", None)
        return written
