"""What deltalake reads and does not write: commits of a Delta log, written by hand after the protocol's own text.

    commit             one more version of a table
    inline, stored     deletion vectors: inside the log, and in a file of their own; roaring: the bitmap in them
    mapped             a table whose columns have other names in its files

https://github.com/delta-io/delta/blob/master/PROTOCOL.md (Deletion Vectors, Column Mapping), and
https://github.com/RoaringBitmap/RoaringFormatSpec.
"""

from __future__ import annotations

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = 1681511377
_NO_RUNS = 12346
_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def commit(folder: Path, *actions: Mapping[str, Any]) -> int:
    """The next version of the table. Returns its number."""
    log = folder / "_delta_log"
    log.mkdir(parents=True, exist_ok=True)
    version = len(list(log.glob("*.json")))
    lines = [json.dumps(action) for action in [{"commitInfo": {"timestamp": 1700000000000, "operation": "TEST"}}, *actions]]
    (log / f"{version:020d}.json").write_text("\n".join(lines) + "\n")
    return version


def protocol(*features: str) -> dict[str, Any]:
    return {
        "protocol": {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": list(features),
            "writerFeatures": list(features),
        }
    }


def replaced(folder: Path, path: str, vector: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A live file with another deletion vector: removed and added in one commit."""
    added = _added(folder, path)
    remove = {"path": path, "dataChange": True, "deletionTimestamp": 1700000000000}
    if "deletionVector" in added:
        remove["deletionVector"] = added["deletionVector"]
    return [{"remove": remove}, {"add": {**added, "deletionVector": dict(vector), "dataChange": True}}]


def live_paths(folder: Path) -> list[str]:
    paths: dict[str, None] = {}
    for action in _actions(folder):
        if "remove" in action:
            paths.pop(action["remove"]["path"], None)
        if "add" in action:
            paths[action["add"]["path"]] = None
    return list(paths)


def inline(rows: Iterable[int]) -> dict[str, Any]:
    data = _bitmap(rows)
    return {"storageType": "i", "pathOrInlineDv": _z85(data), "sizeInBytes": len(data), "cardinality": len(set(rows))}


def stored(folder: Path, rows: Iterable[int]) -> dict[str, Any]:
    """In a file beside the data, named by a UUID."""
    data, name = _bitmap(rows), uuid.uuid4()
    content = b"\x01" + struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data))
    (folder / f"deletion_vector_{name}.bin").write_bytes(content)
    return {
        "storageType": "u",
        "pathOrInlineDv": _z85(name.bytes),
        "offset": 1,
        "sizeInBytes": len(data),
        "cardinality": len(set(rows)),
    }


def mapped(folder: Path, names: Mapping[str, str], files: Sequence[pa.Table], mode: str = "name") -> None:
    """A table of string columns: its name -> the files' name. With mode `id` the files are told by field ids, 1 and up."""
    folder.mkdir(parents=True)
    commit(folder, protocol("columnMapping"), metadata(names, mode))
    for number, table in enumerate(files):
        fields = [
            pa.field(names[field.name], field.type, metadata={"PARQUET:field_id": str(list(names).index(field.name) + 1)})
            for field in table.schema
        ]
        path = folder / f"part-{number}.parquet"
        pq.write_table(pa.Table.from_arrays(table.columns, schema=pa.schema(fields)), path)
        commit(folder, added(path))


def metadata(names: Mapping[str, str], mode: str) -> dict[str, Any]:
    fields = [
        {
            "name": name,
            "type": "string",
            "nullable": True,
            "metadata": {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": stored_as},
        }
        for number, (name, stored_as) in enumerate(names.items(), start=1)
    ]
    return {
        "metaData": {
            "id": "6e9ad1f4-9a0c-4a43-8f8c-3f3a3d1b6a55",
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "partitionColumns": [],
            "configuration": {"delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": str(len(names))},
            "createdTime": 1700000000000,
        }
    }


def added(path: Path) -> dict[str, Any]:
    rows = pq.read_metadata(path).num_rows
    return {
        "add": {
            "path": path.name,
            "partitionValues": {},
            "size": path.stat().st_size,
            "modificationTime": 1700000000000,
            "dataChange": True,
            "stats": json.dumps({"numRecords": rows}),
        }
    }


def _actions(folder: Path) -> list[dict[str, Any]]:
    logs = sorted((folder / "_delta_log").glob("*.json"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def _added(folder: Path, path: str) -> dict[str, Any]:
    return next(action["add"] for action in reversed(_actions(folder)) if action.get("add", {}).get("path") == path)


def _bitmap(rows: Iterable[int]) -> bytes:
    """A RoaringBitmapArray as Delta stores it."""
    return struct.pack("<I", _MAGIC) + roaring(rows)


def roaring(rows: Iterable[int]) -> bytes:
    """The portable 64-bit form of numbers below 2^32, with array containers only (at most 4,096 values in each)."""
    groups: dict[int, list[int]] = {}
    for row in sorted(set(rows)):
        groups.setdefault(row >> 16, []).append(row & 0xFFFF)
    head = struct.pack("<II", _NO_RUNS, len(groups))
    head += b"".join(struct.pack("<HH", key, len(low) - 1) for key, low in groups.items())
    offset, offsets, values = len(head) + 4 * len(groups), b"", b""
    for low in groups.values():
        offsets += struct.pack("<I", offset + len(values))
        values += struct.pack(f"<{len(low)}H", *low)
    return struct.pack("<QI", 1, 0) + head + offsets + values


def _z85(data: bytes) -> str:
    """ZeroMQ's base 85 (https://rfc.zeromq.org/spec/32/): four bytes big-endian to five characters."""
    padded = data + b"\0" * (-len(data) % 4)
    return base64.b85encode(padded).decode().translate(str.maketrans(_B85, _Z85))
