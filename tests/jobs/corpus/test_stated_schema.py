"""corpus.schema: the user's word wins over samples; what it cannot mean is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.config import RunConfig
from jobs.corpus.discovery import discover
from jobs.state.records import config_snapshot, settings_fingerprint
from tests.jobs.source_files import config, jsonl, parquet
from tests.workers.planned_files import read_corpus
from workers.errors import UsageError


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"n": "int46"}, r"corpus\.schema: n: int46 is no type: int46; did you mean int64\?"),
        ({"n": "list<sting>"}, r"corpus\.schema: n: list<sting> is no type: sting; did you mean string\?"),
        ({"m": "int64"}, r"corpus\.schema: m is not kept"),
        ({"nn": "int64"}, r"corpus\.schema: nn is not kept; did you mean n\?"),
        ({"text": "string"}, r"corpus\.schema: text is corpus\.text"),
        ({"id": "int64"}, r"corpus\.schema: id is corpus\.id"),
    ],
)
def test_refused(tmp_path: Path, schema: dict[str, str], words: str) -> None:
    jsonl(tmp_path / "a.jsonl", [{"id": 1, "text": "x", "n": 1}])
    with pytest.raises(UsageError, match=words):
        discover(config(tmp_path, id="id", keep=["n"], schema=schema))


def test_csv_and_folders_and_json_are_read_as_stated(tmp_path: Path) -> None:
    (tmp_path / "year=2024").mkdir()
    (tmp_path / "year=2024/a.csv").write_text('text,n,tags,flag\nx,7,"[""a""]",true\ny,,,\nz,7.5,a,1\n')
    jsonl(tmp_path / "year=2024/b.jsonl", [{"text": "x", "n": 8, "tags": ["b"], "flag": False}, {"text": "y", "n": "8"}])
    parquet(tmp_path / "year=2023/c.parquet", {"text": ["x"], "n": [9]})
    (tmp_path / "year=now").mkdir()
    (tmp_path / "year=now/d.txt").write_text("x\n")
    schema = {"n": "int64", "tags": "list<string>", "flag": "bool", "year": "int32"}
    planned = read_corpus(tmp_path, keep=["n", "tags", "flag", "year"], schema=schema)
    assert not planned.corpus.drifted
    assert not planned.lost
    expected: dict[str, list[tuple[Any, ...]]] = {
        "a.csv": [(7, ["a"], True, 2024), (None, None, None, 2024)],
        "b.jsonl": [(8, ["b"], False, 2024)],
        "c.parquet": [(9, None, None, 2023)],
        "d.txt": [],
    }
    for name, rows in expected.items():
        assert [tuple(row[f"keep.{column}"] for column in schema) for row in planned.rows_of(name)] == rows, name
    assert planned.reasons("a.csv")[2].startswith("kept column n: a value of type string does not fit int64")
    assert planned.reasons("b.jsonl") == {
        1: "kept column n: a value of type string does not fit int64, its type in corpus.schema"
    }
    assert "kept column year: a value of type string does not fit int32" in planned.reasons("d.txt")[0]


def test_a_partition_column_may_be_stated(tmp_path: Path) -> None:
    parquet(tmp_path / "year=2023/c.parquet", {"text": ["x"]})
    settings = config(tmp_path, schema={"year": "int32"})
    assert discover(settings, ["year"]).read_plan.keep.field("year").type == pa.int32()
    with pytest.raises(UsageError, match="year is not kept"):
        discover(settings)


def test_columns_with_a_type_of_their_own_must_fit(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"text": ["x"], "n": pa.array([1], pa.int32())})
    assert discover(config(tmp_path, keep=["n"], schema={"n": "int64"})).read_plan.keep.field("n").type == pa.int64()
    with pytest.raises(UsageError, match=r"corpus\.schema: n is int32 in .*a\.parquet, which cannot become"):
        discover(config(tmp_path, keep=["n"], schema={"n": "list<int64>"}))
    parquet(tmp_path / "b.parquet", {"text": ["x"], "n": [[1]]})
    corpus = discover(config(tmp_path, keep=["n"], schema={"n": "int64"}))
    assert [uri[-9:] for uri in corpus.drifted] == ["b.parquet"]


def test_a_stated_column_may_be_nowhere(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    planned = read_corpus(tmp_path, keep=["licence"], schema={"licence": "string"})
    assert [row["keep.licence"] for row in planned.rows_of("a.jsonl")] == [None]
    assert any("no object has a column licence, which corpus.schema states" in item for item in planned.corpus.warnings)


def test_without_the_setting_a_run_is_the_run_of_earlier_versions() -> None:
    def run(**corpus: Any) -> RunConfig:
        return RunConfig.model_validate(
            {"corpus": {"uri": "s3://b/c/", "keep": ["n"]} | corpus, "output": {"uri": "s3://b/o"}}
        )

    assert config_snapshot(run())["corpus"].keys() == {
        "uri", "format", "id", "text", "separator", "keep", "text_unit", "max_text_bytes",
    }  # fmt: skip
    assert config_snapshot(run(schema={"n": "int64"}))["corpus"]["schema"] == {"n": "int64"}
    assert settings_fingerprint(run(), "w", "t") != settings_fingerprint(run(schema={"n": "int64"}), "w", "t")
