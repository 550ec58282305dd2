"""Snapshots in every form of the vectors, written by the real writer, and the rows that a reader must find in them.

    VARIANTS       name -> stored type and encoding; `mixed` also holds parts as version 0.1.0 wrote them
    make           a snapshot folder of one variant: two shards, in folders of the partition column `section`
    expected       its rows, by numpy alone
    as_earlier     rewrites a part as version 0.1.0 wrote it: vectors byte-stream-split, their elements nullable

Knows no reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.workers.output_samples import INT8_SCALE, RUN, plan, rows, stamp, unit_vectors, write
from workers.config import VectorEncoding, VectorType
from workers.storage.store import Store
from workers.table.schema import output_schema

ROWS = 40  # of each shard
SHARDS = 2
SECTIONS: tuple[str | None, ...] = ("a", "007", "ü/x", None)
WITH_EMPTY = ("a", "007", "", None)
Rows = dict[str, tuple[str | None, list[float]]]
"""id -> section, components of the vector."""


class Variant(NamedTuple):
    """How the vectors of a sample are stored. `earlier`: the first shard's parts are those of version 0.1.0."""

    vector: VectorType
    encoding: VectorEncoding = VectorEncoding.AUTO
    earlier: bool = False
    sections: tuple[str | None, ...] = SECTIONS


VARIANTS = {
    "float32": Variant(VectorType.FLOAT32),
    "float32 byte_stream_split": Variant(VectorType.FLOAT32, VectorEncoding.BYTE_STREAM_SPLIT),
    "float16": Variant(VectorType.FLOAT16),
    "float16 byte_stream_split": Variant(VectorType.FLOAT16, VectorEncoding.BYTE_STREAM_SPLIT),
    "int8": Variant(VectorType.INT8),
    "binary": Variant(VectorType.BINARY),
    "mixed": Variant(VectorType.FLOAT32, earlier=True),
    "empty section": Variant(VectorType.FLOAT32, sections=WITH_EMPTY),
}


def make(folder: Path, name: str) -> Path:
    """The data folder of a snapshot below `folder`."""
    variant = VARIANTS[name]
    made = stamp(vector=variant.vector, int8_scale=_scale(variant.vector))
    section = {"section": pa.string()}
    shape = output_schema(plan(section), made, ["section"], nullable_elements=variant.earlier)
    store = Store(str(folder), {})
    for shard in range(SHARDS):
        sections = [variant.sections[number % len(variant.sections)] for number in range(ROWS)]
        table = rows(shape, ROWS, seed=shard, start=shard * ROWS, section=sections)
        receipt = write(store, shape, [table], folder / "spool", shard=shard, encoding=variant.encoding)
        for file in receipt.files if variant.earlier and shard == 0 else ():
            as_earlier(folder / file.path)
    return folder / "data" / RUN


def expected(name: str) -> Rows:
    """Of the folder that `make` makes."""
    variant = VARIANTS[name]
    found: Rows = {}
    for shard in range(SHARDS):
        cells = _stored(unit_vectors(ROWS, seed=shard), variant.vector)
        for number in range(ROWS):
            section = variant.sections[number % len(variant.sections)]
            found[f"doc-{shard * ROWS + number}"] = section, cells[number].tolist()
    return found


def as_earlier(part: Path) -> None:
    """Rewrite a part of float32 vectors."""
    with pq.ParquetFile(part) as file:
        table, groups = file.read(), [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    at = table.schema.get_field_index("embedding")
    field = table.schema.field(at)
    earlier = field.with_type(pa.list_(field.type.value_type, field.type.list_size))
    table = table.cast(table.schema.set(at, earlier))
    names = [name for name in table.column_names if name not in ("id", "embedding", "text_hash")]
    pq.write_table(
        table,
        part,
        row_group_size=max(groups),
        compression="zstd",
        use_dictionary=names,
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
        write_statistics=["id", *names],
        write_page_checksum=True,
    )


def encodings(part: Path) -> set[str]:
    """Of the vectors of a part, without that of the levels."""
    metadata = pq.read_metadata(part)
    columns = [metadata.row_group(0).column(number) for number in range(metadata.num_columns)]
    of_vectors = next(column for column in columns if column.path_in_schema.startswith("embedding."))
    return set(of_vectors.encodings) - {"RLE"}


def _scale(vector: VectorType) -> float | None:
    return INT8_SCALE if vector is VectorType.INT8 else None


def _stored(vectors_ND: np.ndarray[Any, np.dtype[np.float32]], vector: VectorType) -> np.ndarray[Any, Any]:
    match vector:
        case VectorType.FLOAT16:
            return vectors_ND.astype(np.float16)
        case VectorType.INT8:
            return np.clip(np.rint(vectors_ND / np.float32(INT8_SCALE)), -127, 127).astype(np.int8)
        case VectorType.BINARY:
            return np.packbits(vectors_ND > 0, axis=1)
        case _:
            return vectors_ND
