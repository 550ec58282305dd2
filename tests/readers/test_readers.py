"""Readers that are installed here open every form of the vectors; the others are tried by `python -m tests.readers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.readers.__main__ import difference, table
from tests.readers.catalogue import PAGE, READERS, Reader, example
from tests.readers.samples import VARIANTS, encodings, expected, make

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "readers_2core-epyc.json"
HERE = [reader for reader in READERS if reader.here]
CANNOT = {("DuckDB", "float16 byte_stream_split")}
STORED = {
    "float32": {"PLAIN"},
    "float32 byte_stream_split": {"BYTE_STREAM_SPLIT"},
    "float16": {"PLAIN"},
    "float16 byte_stream_split": {"BYTE_STREAM_SPLIT"},
    "int8": {"PLAIN", "RLE_DICTIONARY"},  # the dictionary itself is plain
    "binary": {"PLAIN", "RLE_DICTIONARY"},
    "mixed": {"PLAIN", "BYTE_STREAM_SPLIT"},
    "empty section": {"PLAIN"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("snapshot"), name) for name in VARIANTS}


def run(reader: Reader, folder: Path) -> list[Any]:
    names: dict[str, Any] = {"folder": str(folder)}
    exec(compile(example(reader.section), str(PAGE), "exec"), names)
    exec(compile(reader.rows, "catalogue", "exec"), names)
    rows: list[Any] = names["rows"]
    return rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_stored_as_the_variant_says(folders: dict[str, Path], variant: str) -> None:
    parts = sorted(folders[variant].rglob("*.parquet"))
    assert len(parts) == 8
    assert set().union(*map(encodings, parts)) == STORED[variant]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reader", HERE, ids=lambda reader: reader.section)
def test_examples_find_every_row(folders: dict[str, Path], reader: Reader, variant: str) -> None:
    if (reader.section, variant) in CANNOT:
        with pytest.raises(Exception, match="BYTE_STREAM_SPLIT"):
            run(reader, folders[variant])
        return
    assert difference(run(reader, folders[variant]), expected(variant)) == ""


@pytest.mark.ray
@pytest.mark.slow
def test_ray_data_finds_every_row(folders: dict[str, Path]) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        (reader,) = (reader for reader in READERS if reader.section == "Ray Data")
        for variant in ("mixed", "empty section"):
            assert difference(run(reader, folders[variant]), expected(variant)) == ""
    finally:
        ray.shutdown()


def test_the_table_is_what_the_results_say() -> None:
    assert table(json.loads(RESULTS.read_text())) in PAGE.read_text(), "print tests.readers.__main__.table of the results"


def test_every_section_has_an_example() -> None:
    assert all(example(reader.section) for reader in READERS)
