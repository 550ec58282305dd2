"""Split points are where records begin, by an independent reading of the whole object."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from workers.config import CorpusConfig, SourceFormat
from workers.inspection.record_offsets import RecordOffset, record_offsets
from workers.reading.formats.registry import traits_of
from workers.records.shard import ObjectSlice
from workers.storage.objects import list_objects

WORDS = 'a "quoted\nline" and, a comma'


def _slice(path: Path) -> ObjectSlice:
    status = path.stat()
    (info,) = list_objects(str(path), {})
    return ObjectSlice(info.uri, status.st_size, info.etag, 0, status.st_size, first_row=0)


def _found(path: Path, kind: SourceFormat, wanted: list[int]) -> list[RecordOffset]:
    return record_offsets(_slice(path), traits_of(kind), wanted, CorpusConfig(uri=[str(path)]))


def _expected(starts: list[int], wanted: list[int]) -> list[RecordOffset]:
    """The first start at or after each wanted offset, once, with its place among the records."""
    chosen = {next((at for at, start in enumerate(starts) if start >= offset), None) for offset in wanted}
    return [RecordOffset(0, 0), *(RecordOffset(starts[at], at) for at in sorted(at for at in chosen if at is not None))]


def test_json_lines_blank_ones_left_out(tmp_path: Path) -> None:
    path, starts, data = tmp_path / "a.jsonl", [], b""
    for number in range(200):
        if number % 7 == 0:
            data += b"\n"
        starts.append(len(data))
        data += json.dumps({"text": "word " * (number % 13)}).encode() + b"\n"
    path.write_bytes(data)
    wanted = [1, len(data) // 3, len(data) // 2, len(data) - 2]
    assert _found(path, SourceFormat.JSONL, wanted) == _expected(starts, wanted)


def test_csv_records_whose_fields_hold_line_ends(tmp_path: Path) -> None:
    """By the bytes that Python's own writer wrote for each record."""
    path, starts, data = tmp_path / "a.csv", [], b"id,text\r\n"
    for number in range(100):
        starts.append(len(data))
        line = io.StringIO(newline="")
        csv.writer(line).writerow([number, WORDS if number % 3 else "plain"])
        data += line.getvalue().encode()
    path.write_bytes(data)
    wanted = [len(data) * share // 10 for share in range(1, 10)]
    assert _found(path, SourceFormat.CSV, wanted) == _expected(starts, wanted)


def test_an_object_that_changed_is_not_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' * 50)
    before = _slice(path)
    path.write_text('{"text": "other"}\n' * 60)
    found = record_offsets(before, traits_of(SourceFormat.JSONL), [100], CorpusConfig(uri=[str(path)]))
    assert found == [RecordOffset(0, 0)]
    assert "it is not split" in caplog.text


def test_a_format_without_byte_offsets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not split by records"):
        _found(path, SourceFormat.PARQUET, [1])
