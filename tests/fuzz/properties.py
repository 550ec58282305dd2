"""What must hold for any bytes at all: the properties that hypothesis, the guided fuzzer and the replayed corpus share.

    jsonl, csv, text    every row is a document or refused with a reason, none twice; ranges that tile the object tile its
                        rows; and the texts are those that an independent few lines of Python find
    config              a RunConfig, or a UsageError of one line

Each takes bytes and raises AssertionError when it does not hold. Any error that is not this project's own is a defect too.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.config import MAX_CONFIG_BYTES, RunConfig, load_config
from workers.config import CorpusConfig, SourceFormat
from workers.errors import ObjectError, UsageError
from workers.reading.formats.registry import traits_of
from workers.reading.source_rows import validate_rows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

BOM = b"\xef\xbb\xbf"
LONGEST_TEXT = 4096  # of these readers: so that inputs of some KB reach what happens beyond it
CONFIG_SECONDS = 10.0


@dataclass
class Outcome:
    """What became of an object's rows."""

    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of every row's first byte

    @property
    def rows(self) -> int:
        return len(self.texts) + self.refused


def plan_of(kind: str) -> ReadPlan:
    named = {"id": "id", "keep": ["n", "tags", "word"]} if kind != "text" else {}
    config = CorpusConfig(uri=["unused"], format=SourceFormat(kind), max_text_bytes=LONGEST_TEXT, **named)  # type: ignore[arg-type]
    tags = pa.list_(pa.string()) if kind == "jsonl" else pa.string()
    keep = [("n", pa.int64()), ("tags", tags), ("word", pa.string())] if named else []
    return ReadPlan(config, pa.string(), pa.schema(keep))


def read(kind: str, data: bytes, start: int = 0, stop: int | None = None) -> Outcome:
    """Rows of a byte range. Raises: ObjectError."""
    plan, uri = plan_of(kind), f"memory://x/a.{kind}"
    piece = ObjectSlice(
        uri, len(data), "etag", start, len(data) if stop is None else stop, first_row=0 if kind == "text" else None
    )
    found = Outcome()
    with SourceStream(io.BytesIO(data), uri, len(data)) as stream:
        for rows in traits_of(SourceFormat(kind)).read(stream, piece, plan, None):
            assert rows.offsets is not None
            found.offsets += rows.offsets
            chunk = validate_rows(rows, uri, plan)
            chunk.table.validate(full=True)
            assert chunk.size == len(rows.offsets)
            assert len(chunk.places) + len(chunk.quarantined) == chunk.size, "a row that is neither document nor refused"
            assert not {place for place, _ in chunk.quarantined} & set(chunk.places.tolist())
            assert all(row.reason for _, row in chunk.quarantined)
            found.texts += chunk.table.column("text").to_pylist()
            found.ids += chunk.table.column("id").to_pylist()
            found.refused += len(chunk.quarantined)
            found.reasons += [row.reason for _, row in chunk.quarantined]
    assert found.offsets == sorted(set(found.offsets)), "rows in order, none twice"
    return found


def check_jsonl(data: bytes) -> None:
    whole = read("jsonl", data)
    lines = [line for line in _lines(data) if line.strip()]
    assert whole.rows == len(lines)
    expected = [record["text"] for record in map(_record, lines) if record is not None]
    assert whole.texts == expected
    _tiles("jsonl", data, whole)


def check_text(data: bytes) -> None:
    whole = read("text", data)
    lines = [line for line in _lines(data) if line.strip()]
    assert whole.rows == len(lines)
    decoded = [_decoded(line.removesuffix(b"\n").removesuffix(b"\r")) for line in lines]
    assert whole.texts == [text for text in decoded if text is not None and _usable(text)]
    _tiles("text", data, whole)


def check_csv(data: bytes) -> None:
    try:
        whole = read("csv", data)
    except ObjectError:  # its header cannot be read, or lacks a column: the object is named
        return
    # where Python's own reader finds nothing wrong with it, there are no other texts than it finds
    try:
        rows = list(csv.reader(io.StringIO(data.removeprefix(BOM).decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return
    full = [row for row in rows if row]
    if full and all(len(row) == len(full[0]) for row in full) and b"\r" not in data.replace(b"\r\n", b""):
        header, records = full[0], full[1:]
        assert whole.rows == len(records)
        places = [header.index(name) for name in ("id", "text")]
        pairs = [(row[places[0]], row[places[1]]) for row in records]
        wanted = Counter(text for identity, text in pairs if identity and _usable(text))
        assert not Counter(whole.texts) - wanted
        if set(header) <= {"id", "text", "word"}:  # other kept columns may refuse a row
            assert Counter(whole.texts) == wanted
    for border in whole.offsets[1:4]:
        before, after = read("csv", data, 0, border), read("csv", data, border)
        assert before.texts + after.texts == whole.texts
        assert before.refused + after.refused == whole.refused


def check_config(data: bytes) -> None:
    """The file, and behind a NUL byte overrides."""
    text, *overrides = data.split(b"\0")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(text)
        began = time.process_time()
        found, said = None, ""
        try:
            found = load_config(path, [item.decode("utf-8", "replace") for item in overrides])
        except UsageError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 20_000
        assert found is None or isinstance(found, RunConfig)
        assert time.process_time() - began < CONFIG_SECONDS
        assert len(text) <= MAX_CONFIG_BYTES or found is None


CHECKS: dict[str, Callable[[bytes], None]] = {
    "jsonl": check_jsonl, "csv": check_csv, "text": check_text, "config": check_config,
}  # fmt: skip


def _tiles(kind: str, data: bytes, whole: Outcome) -> None:
    """Cut anywhere: every record belongs to exactly one of the pieces."""
    size = len(data)
    cuts = sorted({0, size, size // 2, size // 3, *(offset + 1 for offset in whole.offsets[:3]), *whole.offsets[-2:]})
    pieces = [read(kind, data, start, stop) for start, stop in pairwise(cuts) if start < stop]
    assert [text for piece in pieces for text in piece.texts] == whole.texts
    assert [offset for piece in pieces for offset in piece.offsets] == whole.offsets
    assert sum(piece.refused for piece in pieces) == whole.refused


def _lines(data: bytes) -> list[bytes]:
    body = data.removeprefix(BOM)
    return [line + b"\n" for line in body.split(b"\n")[:-1]] + ([last] if (last := body.rpartition(b"\n")[2]) else [])


def _record(line: bytes) -> dict[str, Any] | None:
    """The record, if it can be a document: by Python's json and a few rules of docs/input.md."""
    try:
        record = json.loads(line.rstrip(b"\r\n").decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not _usable(record["text"]):
        return None
    identity, number, tags, word = (record.get(name) for name in ("id", "n", "tags", "word"))
    if identity is None or isinstance(identity, dict | list) or not _encodes(identity):
        return None
    whole = number is None or _is_whole(number)
    listed = tags is None or (isinstance(tags, list) and all(map(_is_text, tags)))
    return record if whole and listed and _is_text(word) else None


def _is_text(value: Any) -> bool:
    """A column of strings takes strings and null alone."""
    return value is None or (isinstance(value, str) and _encodes(value))


def _is_whole(number: Any) -> bool:
    if isinstance(number, float):
        return number.is_integer() and abs(number) <= 2.0**53
    return isinstance(number, int) and not isinstance(number, bool) and -(2**63) <= number < 2**63


def _encodes(value: Any) -> bool:
    return _decoded(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) is not None


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _usable(text: str) -> bool:
    return _encodes(text) and not (text == "" or text.isspace()) and len(text.encode()) <= LONGEST_TEXT
