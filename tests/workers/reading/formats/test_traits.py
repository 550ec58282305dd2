"""What a file name says."""

from __future__ import annotations

import pytest

from workers.config import SourceFormat
from workers.errors import UsageError
from workers.reading.formats.traits import delimiter_of, format_of


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/a.parquet", (SourceFormat.PARQUET, None)),
        ("s3://b/part-0.gz.parquet", (SourceFormat.PARQUET, None)),
        ("s3://b/a.PQ", (SourceFormat.PARQUET, None)),
        ("/data/a.jsonl", (SourceFormat.JSONL, None)),
        ("/data/a.NDJSON.GZ", (SourceFormat.JSONL, "gzip")),
        ("a.json.zst", (SourceFormat.JSONL, "zstd")),
        ("a.csv.bz2", (SourceFormat.CSV, "bz2")),
        ("a.tsv", (SourceFormat.CSV, None)),
        ("a.txt", (SourceFormat.TEXT, None)),
        ("https://user:pw@host/x.jsonl.gz?signature=abc", (SourceFormat.JSONL, "gzip")),
    ],
)
def test_auto_goes_by_the_name(uri: str, expected: tuple[SourceFormat, str | None]) -> None:
    assert format_of(uri, SourceFormat.AUTO) == expected


def test_configured_format_wins_and_compression_stays_with_the_suffix() -> None:
    assert format_of("s3://b/log.gz", SourceFormat.TEXT) == (SourceFormat.TEXT, "gzip")
    assert format_of("s3://b/a.csv", SourceFormat.JSONL) == (SourceFormat.JSONL, None)
    assert format_of("s3://b/noname", SourceFormat.PARQUET) == (SourceFormat.PARQUET, None)


@pytest.mark.parametrize("uri", ["s3://b/a.docx", "s3://b/a", "s3://b/x.parquet/a", "a.gz", "https://h/a?x=b.csv"])
def test_unknown_suffix_names_the_setting(uri: str) -> None:
    with pytest.raises(UsageError, match=r"corpus\.format"):
        format_of(uri, SourceFormat.AUTO)


def test_secrets_of_a_url_are_not_in_the_message() -> None:
    with pytest.raises(UsageError) as error:
        format_of("https://user:pw@host/a.docx?signature=abc", SourceFormat.AUTO)
    assert "pw" not in str(error.value)
    assert "abc" not in str(error.value)


def test_compressed_parquet_is_refused() -> None:
    with pytest.raises(UsageError, match="unpack"):
        format_of("a.parquet.gz", SourceFormat.AUTO)


def test_delimiter() -> None:
    assert delimiter_of("s3://b/a.tsv.gz") == "\t"
    assert delimiter_of("s3://b/a.csv") == ","
