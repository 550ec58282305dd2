"""What a row is in an index of OpenSearch or Elasticsearch: the fields of the mapping, and the document.

    id, chunk       keyword or long; integer, not of whole documents
    text_hash       keyword, hexadecimal
    attributes      an object: the other columns
    embedding       knn_vector (OpenSearch) or dense_vector (Elasticsearch), float32

Every column has a field of a fixed type: what the servers would guess from the first value may not fit the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.commands.stores.store import Shape
from workers.config import VectorType
from workers.table.schema import CHUNK, EMBEDDING, ID, TEXT_HASH

ATTRIBUTES = "attributes"
LONGEST_KEYWORD = 8_191  # characters of UTF-8 that are indexed; Lucene takes 32,766 bytes. Longer ones are stored alone
INNER_PRODUCT = ("innerproduct", "dot_product", "max_inner_product")  # what the servers call it


def fields_of(shape: Shape, vector: dict[str, Any]) -> dict[str, Any]:
    """The properties of a mapping. `vector`: the field of the embeddings."""
    columns = {name: _field(shape.rows.field(name).type) for name in shape.attributes}
    return {
        ID: {"type": "long" if shape.id_is_number else "keyword"},
        CHUNK: {"type": "integer"},
        TEXT_HASH: {"type": "keyword"},
        ATTRIBUTES: {"type": "object", "dynamic": False, "properties": columns},
        EMBEDDING: vector,
    }


def absent_fields(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a mapping lacks: those of columns that are new. Fields that are there stay as they are."""
    lacking = {name: field for name, field in wanted.items() if name not in found}
    columns = found.get(ATTRIBUTES, {}).get("properties", {})
    new = {name: field for name, field in wanted[ATTRIBUTES]["properties"].items() if name not in columns}
    return lacking | ({ATTRIBUTES: {"properties": new}} if new and ATTRIBUTES in found else {})


def merges(shape: Shape, found: Mapping[str, Any]) -> bool:
    """Whether a partial document would leave something old: in nested attributes, or of a column that is kept no more.

    `found`: the properties of the mapping.
    """
    kinds = [shape.rows.field(name).type for name in shape.attributes]
    gone = found.get(ATTRIBUTES, {}).get("properties", {}).keys() - set(shape.attributes)
    return bool(gone) or any(pa.types.is_struct(kind) for kind in kinds)  # maps are lists of pairs in JSON


def vector_field(store: str, shape: Shape) -> dict[str, Any]:
    """Inner product for vectors that the model has normalised, else cosine. The graph's parameters are the server's own."""
    if store == "elasticsearch":
        # dot_product refuses a square of the length that is more than 1e-4 off 1; float16 may be 6e-4 off
        inner = "max_inner_product" if shape.vector is VectorType.FLOAT16 else "dot_product"
        by = inner if shape.normalized else "cosine"
        return {"type": "dense_vector", "dims": shape.dim, "index": True, "similarity": by}
    # faiss takes inner products in every version, and cosines from 2.19 on; Lucene takes cosines in every version
    engine, by = ("faiss", "innerproduct") if shape.normalized else ("lucene", "cosinesimil")
    return {"type": "knn_vector", "dimension": shape.dim, "method": {"name": "hnsw", "engine": engine, "space_type": by}}


def vector_told(field: Mapping[str, Any]) -> tuple[str, int, str]:
    """Type, components and similarity of a field that a server describes."""
    by = field.get("similarity") or field.get("space_type") or field.get("method", {}).get("space_type") or ""
    return str(field.get("type", "object")), int(field.get("dims") or field.get("dimension") or 0), by


def vector_texts(rows: pa.Table, dim: int) -> list[str]:
    """[N] the components as JSON has them, with commas: of each float32 the shortest decimal that rounds to it."""
    texts = pa.concat_arrays(rows[EMBEDDING].chunks).flatten().cast(pa.float32()).cast(pa.string())
    texts = pc.if_else(pc.equal(texts, "-0"), "-0.0", texts)  # which parsers take for an integer, and so for 0
    borders = pa.array(range(0, len(rows) * dim + 1, dim), pa.int32())
    joined: list[str] = pc.binary_join(pa.ListArray.from_arrays(borders, texts), ",").to_pylist()
    return joined


def _field(kind: pa.DataType) -> dict[str, Any]:
    """A list has the field of its elements. Times, bytes and decimals are text in JSON."""
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _field(kind.value_type)
    if pa.types.is_boolean(kind):
        return {"type": "boolean"}
    if pa.types.is_integer(kind):
        return {"type": "unsigned_long" if kind == pa.uint64() else "long"}
    if pa.types.is_floating(kind):
        return {"type": "double", "ignore_malformed": True}  # of floats, NaN is text
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return {"type": "date", "ignore_malformed": True}
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return {"type": "object", "enabled": False}  # stored, not indexed
    return {"type": "keyword", "ignore_above": LONGEST_KEYWORD}


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
