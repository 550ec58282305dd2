"""What a file name says, and what is said of every format."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jobs
from workers.config import CorpusConfig, SourceFormat
from workers.errors import UsageError
from workers.reading.formats.csv_dialect import delimiter_of
from workers.reading.formats.registry import FORMATS, format_of, traits_of
from workers.reading.formats.traits import Split


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/a.parquet", (SourceFormat.PARQUET, None)),
        ("s3://b/part-0.gz.parquet", (SourceFormat.PARQUET, None)),
        ("s3://b/a.PQ", (SourceFormat.PARQUET, None)),
        ("/data/a.jsonl", (SourceFormat.JSONL, None)),
        ("/data/a.NDJSON.GZ", (SourceFormat.JSONL, "gzip")),
        ("a.json.zst", (SourceFormat.JSON, "zstd")),
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


def test_every_format_has_one_row_of_traits_that_says_how_it_is_described_and_split() -> None:
    assert set(FORMATS) == set(SourceFormat) - {SourceFormat.AUTO}
    suffixes = [suffix for traits in FORMATS.values() for suffix in traits.suffixes]
    assert len(suffixes) == len(set(suffixes)), "a name tells one format"
    for traits in FORMATS.values():
        assert sum(way is not None for way in (traits.footer, traits.sample, traits.columns)) == 1, traits.title
        for unit in ("line", "file"):
            split = traits.split(CorpusConfig(uri=["unused"], text_unit=unit))  # type: ignore[arg-type]
            assert (split is Split.GROUPS) == (traits.footer is not None), traits.title
            assert split is not Split.RECORDS or traits.record_starts is not None, traits.title
    with pytest.raises(ValueError, match="auto"):
        traits_of(SourceFormat.AUTO)


def test_jobs_names_no_format() -> None:
    """What a format can do is asked of its traits: a new one must not need a line in jobs/."""
    named = re.compile(r"SourceFormat\.(?!AUTO\b)[A-Z]+|formats\.(?!registry\b|traits\b)\w+")
    folder = Path(jobs.__file__).parent
    assert [(path, match.group()) for path in folder.rglob("*.py") for match in named.finditer(path.read_text())] == []


def test_footer_parsers_import_pyarrow_the_standard_library_and_a_record() -> None:
    """They run in an isolated process that some footers end, and that is started anew then."""
    script = (
        "import sys, workers.reading.footers.arrow, workers.reading.footers.orc, workers.reading.footers.parquet\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('workers.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(jobs.__file__).parents[1]
    )
    packages, ours = done.stdout.splitlines()
    assert {"pyarrow", "workers"} <= set(packages.split())
    assert not {"fsspec", "pydantic", "torch", "ray", "jobs"} & set(packages.split())
    others = {"workers.reading", "workers.records", "workers.records.pinned_table"}
    assert all(name.startswith("workers.reading.footers") for name in ours.split() if name not in others)
