"""Arrow columns as an Iceberg schema, and the metadata of a table that has them.

Field ids are numbered in the order of columns, so equal columns have equal ids on every night. What Iceberg has no type for
is refused by name. pyiceberg is imported when it is needed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from jobs.publish.tables.iceberg_files import require_pyiceberg
from workers.errors import UsageError

_MEND = "leave output.table out, or that column"
_ZONE = "UTC"


def iceberg_schema(schema: pa.Schema, partition_by: Sequence[str]) -> tuple[Any, Any]:
    """pyiceberg's Schema and PartitionSpec (identity, in the order given).

    Raises:
        UsageError: a column of a type that Iceberg has not; pyiceberg is not installed.
    """
    require_pyiceberg()
    from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
    from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
    from pyiceberg.schema import assign_fresh_schema_ids
    from pyiceberg.transforms import IdentityTransform

    for field in schema:
        if not _has_type(field.type):
            raise UsageError(f"output.table: iceberg has no type for column {field.name} ({field.type}); {_MEND}")
    columns = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(pa.schema([_in_utc(field) for field in schema])))
    fields = []
    for at, name in enumerate(partition_by):
        source = columns.find_field(name).field_id
        fields.append(PartitionField(source, PARTITION_FIELD_ID_START + at, IdentityTransform(), name))
    return columns, PartitionSpec(*fields, spec_id=0)


def new_metadata(columns: Any, spec: Any, location: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata to add a snapshot to: `before` where its columns and partitions are these, else without snapshots."""
    from pyiceberg.table.metadata import new_table_metadata
    from pyiceberg.table.name_mapping import create_mapping_from_schema
    from pyiceberg.table.sorting import UNSORTED_SORT_ORDER

    mapping = create_mapping_from_schema(columns).model_dump_json()
    fresh = new_table_metadata(
        columns,
        spec,
        UNSORTED_SORT_ORDER,
        location,
        {"schema.name-mapping.default": mapping},
        _uuid_of(before),
    )
    made: dict[str, Any] = json.loads(fresh.model_dump_json())
    same = ("schemas", "current-schema-id", "partition-specs", "default-spec-id", "location", "properties")
    if before is not None and all(before.get(name) == made.get(name) for name in same):
        return dict(before)
    return made


def _uuid_of(metadata: Mapping[str, Any] | None) -> Any:
    """Of a table whose metadata begins anew: it stays the same table. None: a new one."""
    return None if metadata is None else uuid.UUID(str(metadata["table-uuid"]))


def _has_type(kind: pa.DataType) -> bool:
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _has_type(kind.value_type)
    if pt.is_map(kind):
        return _has_type(kind.key_type) and _has_type(kind.item_type)
    if pt.is_struct(kind):
        return all(_has_type(kind.field(number).type) for number in range(kind.num_fields))
    if pt.is_timestamp(kind):
        return kind.unit in ("ms", "us")
    tests = (
        pt.is_boolean, pt.is_signed_integer, pt.is_float32, pt.is_float64, pt.is_string, pt.is_large_string, pt.is_binary,
        pt.is_large_binary, pt.is_fixed_size_binary, pt.is_date32, pt.is_decimal128,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _in_utc(field: pa.Field) -> pa.Field:
    """Iceberg has instants without a zone of their own; only whole columns are looked at, inner ones keep theirs."""
    if pt.is_timestamp(field.type) and field.type.tz is not None:
        return field.with_type(pa.timestamp(field.type.unit, _ZONE))
    return field
