"""Arrow columns as Delta's types: what deltalake makes of the schema, and what is refused by name."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from deltalake import Schema

from jobs.publish.tables.delta_schema import delta_schema, needs_timestamp_ntz, refuse_partitions
from workers.errors import UsageError

VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False), 4)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("embedding", VECTOR, nullable=False),
        pa.field("bytes", pa.list_(pa.field("element", pa.int8(), nullable=False), 4), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
        ("small", pa.int16()), ("int", pa.int32()), ("long", pa.int64()), ("flag", pa.bool_()), ("real", pa.float64()),
        ("day", pa.date32()), ("price", pa.decimal128(9, 2)), ("instant", pa.timestamp("us", "Europe/Paris")),
        ("local", pa.timestamp("ms")), ("tags", pa.list_(pa.string())), ("by", pa.map_(pa.string(), pa.int32())),
        ("nested", pa.struct([("a", pa.string()), ("b", pa.list_(pa.int64()))])),
    ]
)  # fmt: skip


def test_deltalake_reads_the_schema_as_the_columns_are() -> None:
    text = delta_schema(SCHEMA)
    fields = {field["name"]: field for field in json.loads(text)["fields"]}
    assert list(fields) == SCHEMA.names
    assert fields["embedding"]["type"] == {"type": "array", "elementType": "float", "containsNull": False}
    assert (fields["id"]["nullable"], fields["tags"]["nullable"]) == (False, True)
    named = {name: fields[name]["type"] for name in ("bytes", "text_hash", "small", "price", "instant", "local", "day")}
    assert named == {
        "bytes": {"type": "array", "elementType": "byte", "containsNull": False},
        "text_hash": "binary", "small": "short", "price": "decimal(9,2)", "instant": "timestamp", "local": "timestamp_ntz",
        "day": "date",
    }  # fmt: skip
    read = pa.schema(Schema.from_json(text).to_arrow())
    assert read.names == SCHEMA.names
    assert (read.field("nested").type.field("b").type.value_type, read.field("by").type.item_type) == (
        pa.int64(),
        pa.int32(),
    )
    assert needs_timestamp_ntz(SCHEMA)
    assert not needs_timestamp_ntz(SCHEMA.remove(SCHEMA.get_field_index("local")))


@pytest.mark.parametrize(
    "kind",
    [
        pa.uint8(), pa.uint64(), pa.float16(), pa.time64("us"), pa.duration("s"), pa.timestamp("ns"), pa.decimal256(50, 2),
        pa.null(), pa.list_(pa.uint16()), pa.struct([("a", pa.float16())]),
    ],
    ids=str,
)  # fmt: skip
def test_a_type_that_delta_lacks_is_refused_with_its_column(kind: pa.DataType) -> None:
    with pytest.raises(UsageError, match="delta has no type for column odd"):
        delta_schema(pa.schema([("id", pa.string()), ("odd", kind)]))


def test_names_that_delta_does_not_allow() -> None:
    with pytest.raises(UsageError, match="'my column'"):
        delta_schema(pa.schema([("my column", pa.string())]))
    with pytest.raises(UsageError, match="lang and Lang differ in the case of letters alone"):
        delta_schema(pa.schema([("lang", pa.string()), ("Lang", pa.string())]))


def test_partitions_of_other_types() -> None:
    schema = pa.schema([("lang", pa.string()), ("at", pa.timestamp("us"))])
    refuse_partitions(schema, ["lang"])
    with pytest.raises(UsageError, match="partition_by at is timestamp"):
        refuse_partitions(schema, ["at"])
