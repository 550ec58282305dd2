"""What an object is by its first bytes: told from what real writers write, and never from text that only looks like it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import sqlite3
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.reading.signatures import (
    SIGNATURE_BYTES,
    ZSTD_WINDOW_LIMIT,
    compression_error,
    content_error,
    what_is,
    zstd_window,
)

TEXT = b'{"text": "plain text, long enough to be worth it"}\n' * 40
TABLE = pa.table({"text": ["a", "b"]})


def written(kind: str, folder: Path) -> bytes:
    sink = io.BytesIO()
    match kind:
        case "zip":
            with zipfile.ZipFile(sink, "w") as archive:
                archive.writestr("a.txt", TEXT)
        case "tar":
            with tarfile.open(fileobj=sink, mode="w") as tar:
                info = tarfile.TarInfo("a.txt")
                info.size = len(TEXT)
                tar.addfile(info, io.BytesIO(TEXT))
        case "parquet":
            pq.write_table(TABLE, sink)
        case "orc":
            orc.write_table(TABLE, sink)
        case "arrow":
            with pa.ipc.new_file(sink, TABLE.schema) as writer:
                writer.write_table(TABLE)
        case "feather 1":
            with warnings.catch_warnings(action="ignore"):  # pyarrow no longer likes it; it is still met
                feather.write_feather(TABLE, sink, version=1)
        case "sqlite":
            with sqlite3.connect(folder / "x.db") as database:
                database.execute("create table t (text)")
            database.close()
            return (folder / "x.db").read_bytes()
        case "lz4" | "zstd":
            return bytes(pa.compress(TEXT, codec="lz4" if kind == "lz4" else "zstd", asbytes=True))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("kind", "words", "mend"),
    [
        ("zip", "a zip archive", "unpack it"),
        ("tar", "a tar archive", "unpack it"),
        ("parquet", "Parquet", "corpus.format: parquet"),
        ("orc", "ORC", "corpus.format: orc"),
        ("arrow", "Arrow", "corpus.format: arrow"),
        ("feather 1", "Feather version 1", "export it"),
        ("sqlite", "an SQLite database", "export it"),
        ("lz4", "lz4-compressed", "not read"),
        ("zstd", "zstd-compressed", "name it .zst"),
    ],
)
def test_files_under_other_names(tmp_path: Path, kind: str, words: str, mend: str) -> None:
    error = content_error(written(kind, tmp_path)[:SIGNATURE_BYTES]) or ""
    assert error.startswith(f"is {words}, although its name says otherwise; ")
    assert mend in error


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(TEXT, mtime=0), "gzip-compressed"),
        (bz2.compress(TEXT), "bzip2-compressed"),
        (lzma.compress(TEXT), "xz-compressed"),
        (TEXT.decode().encode("utf-16"), "text in UTF-16"),
        (TEXT.decode().encode("utf-16-le"), "text in UTF-16LE"),
        (TEXT.decode().encode("utf-16-be"), "text in UTF-16BE"),
        (TEXT.decode().encode("utf-32"), "text in UTF-32"),
        (TEXT.decode().encode("utf-32-be"), "text in UTF-32BE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a Git LFS pointer, not the file itself"),
    ],
    ids=lambda value: "bytes" if isinstance(value, bytes) else value,
)
def test_compressed_and_encoded_text_under_other_names(data: bytes, words: str) -> None:
    assert (content_error(data[:SIGNATURE_BYTES]) or "").startswith(f"is {words}, ")


@given(st.text(max_size=200))
def test_text_is_never_taken_for_something_else(text: str) -> None:
    if "\0" not in text:
        for beginning in ("", "PK\x03\x04", "PAR1", "ORC", "Obj\x01", "BZh9", "FEA1", "%PDF-", "\ufeff"):
            assert what_is((beginning + text).encode()[:SIGNATURE_BYTES]) is None


@pytest.mark.parametrize(
    ("codec", "data"),
    [("gzip", gzip.compress(TEXT, mtime=0)), ("bz2", bz2.compress(TEXT)), ("zstd", written("zstd", Path()))],
    ids=["gzip", "bz2", "zstd"],
)
def test_names_that_promise_a_compression(codec: str, data: bytes) -> None:
    assert compression_error(data[:SIGNATURE_BYTES], codec) is None
    assert compression_error(data[:2], codec) is None, "cut off: the decoder says so"
    assert "is not compressed, although its name ends" in (compression_error(TEXT[:SIGNATURE_BYTES], codec) or "")
    other = lzma.compress(TEXT)
    assert "is xz-compressed, although its name ends" in (compression_error(other[:SIGNATURE_BYTES], codec) or "")


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd command")
@pytest.mark.parametrize("log", [24, 27, 28, 31])
def test_the_window_is_what_the_zstd_command_was_told(log: int) -> None:
    command = ["zstd", "-1", f"--long={log}", "-q", "-c"]
    data = subprocess.run(command, input=TEXT, stdout=subprocess.PIPE, check=True).stdout
    assert zstd_window(data) == 1 << log
    error = compression_error(data[:SIGNATURE_BYTES], "zstd")
    assert (error is not None) == (1 << log > ZSTD_WINDOW_LIMIT)
    if error:
        assert f"zstd -d --long={log} -c OLD" in error
        with pytest.raises(OSError, match="too much memory"):
            pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    else:
        assert pa.CompressedInputStream(pa.BufferReader(data), "zstd").read() == TEXT
