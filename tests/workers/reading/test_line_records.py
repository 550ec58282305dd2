"""Plain text, and the line splitter below all line formats."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.corpus_files import plan_of, put, read, slice_of
from workers.errors import ObjectError
from workers.reading import lines as lines_module
from workers.reading.lines import LINE_OVERHEAD, LongLine, split_lines


def test_a_document_a_line(tmp_path: Path) -> None:
    data = "\ufefffirst\r\n\r\n   \n漢字 🎉\n  indented\t\n\u3000\nlast".encode() + b"\n\xfe\n"
    path = put(tmp_path / "a.txt", data)
    found = read(path, plan_of(id="ignored"))
    assert found.texts == ["first", "漢字 🎉", "  indented\t", "last"]
    assert found.ids == [f"{path}#{row}" for row in (0, 1, 2, 4)]
    assert found.reasons == {3: "text is empty", 5: "text is not valid UTF-8 (byte 0)"}


def test_a_document_a_file(tmp_path: Path) -> None:
    plan = plan_of({"lang": pa.string()}, text_unit="file", max_text_bytes=100)
    paths = [
        put(tmp_path / name, data)
        for name, data in {
            "a.txt": "\ufeffline\n\nline 🎉\r\n".encode(),
            "b.txt.gz": b"x" * 100,
            "c.txt.zst": b"x" * 101,
            "d.txt": b"ab\xffc",
            "e.txt": b" \n",
            "f.txt": b"",
            "g.txt": b"x" * 104,
        }.items()
    ]
    found = read([slice_of(path, partitions=(("lang", "de"),)) for path in paths], plan)
    assert found.texts == ["line\n\nline 🎉\r\n", "x" * 100]
    assert found.ids == [f"{paths[0]}#0", f"{paths[1]}#0"]
    assert found.kept("lang") == ["de", "de"]
    assert [row.reason for row in found.quarantined] == [
        "text is too long (101 bytes, corpus.max_text_bytes is 100)",
        "text is not valid UTF-8 (byte 2)",
        "text is empty",
        "file is too long (104 bytes, corpus.max_text_bytes is 100)",
    ]


def test_other_columns_come_from_the_path_only(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"body\n")
    piece = slice_of(path, partitions=(("title", "T"), ("year", "2024")))
    found = read(piece, plan_of({"year": pa.int64(), "text": pa.string(), "none": pa.string()}, text=["title", "text"]))
    assert found.texts == ["T\nbody"]
    assert (found.kept("year"), found.kept("text"), found.kept("none")) == ([2024], ["body"], [None])
    with pytest.raises(ObjectError, match=r"no column 'body', only 'text'; correct corpus\.text"):
        read(path, plan_of(text="body"))


def test_long_lines_are_skipped_and_measured(tmp_path: Path) -> None:
    long = b"z" * (3 * LINE_OVERHEAD)
    path = put(tmp_path / "a.txt", b"a\n" + long + b"\nb\n" + long)
    found = read(path, plan_of(max_text_bytes=10))
    assert found.texts == ["a", "b"]
    assert found.reasons == {
        1: f"line is too long ({len(long) + 1} bytes, corpus.max_text_bytes is 10)",
        3: f"line is too long ({len(long)} bytes, corpus.max_text_bytes is 10)",
    }


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b'"', b"\n", b"\r\n", b"longer than"]), max_size=30),
    st.integers(1, 9),
    st.integers(1, 12),
)
def test_splitting_does_not_depend_on_blocks(parts: list[bytes], block: int, limit: int) -> None:
    data = b"".join(parts)
    stream = io.BytesIO(data)
    found = list(split_lines(lambda _: stream.read(block), 0, None, limit))
    lines = data.splitlines(keepends=True) if b"\r" not in data.replace(b"\r\n", b"") else []
    offsets = [0, *itertools.accumulate(map(len, lines))][:-1]
    assert found == [
        (offset, line if len(line) <= limit else LongLine(len(line), line.count(b'"')))
        for offset, line in zip(offsets, lines, strict=True)
    ]


def test_ranges_of_text_tile_the_object_at_every_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 7)
    path = put(tmp_path / "a.txt", "\ufeffeins\n\nzwei 漢\r\n\r\n🎉\ndrei".encode())
    size = path.stat().st_size
    starts = [0, 9, 21, 26]  # the lines that are not blank
    whole = read(path, plan_of(id=None))
    for cut in range(1, size):
        first_row = sum(start < cut for start in starts)
        halves = read([slice_of(path, 0, cut), slice_of(path, cut, size, first_row=first_row)], plan_of())
        assert halves.texts == whole.texts
        assert halves.ids == whole.ids
