"""corpus.table: hf, against datasets' own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.corpus.discovery import discover
from tests.jobs.corpus.tables.table_rows import read_rows, same, settings
from workers.errors import UsageError

datasets = pytest.importorskip("datasets")


def documents(begin: int, end: int, **more: list[Any]) -> dict[str, list[Any]]:
    rows = range(begin, end)
    return {"id": list(rows), "text": [f"text {row}" for row in rows], "tags": [[f"t{row % 3}"] for row in rows], **more}


def library(path: Path) -> pa.Table:
    return datasets.load_from_disk(str(path)).with_format("arrow")[:]


def test_the_rows_are_those_of_the_library_and_not_those_of_its_caches(tmp_path: Path) -> None:
    """Several files; a cache of `map` beside them, which a listing of the folder would read as well."""
    where = tmp_path / "t"
    datasets.Dataset.from_dict(documents(0, 50)).save_to_disk(str(where), num_shards=3)
    datasets.load_from_disk(str(where)).map(lambda row: {"text": row["text"].upper()}, load_from_cache_file=False)
    assert [path for path in where.iterdir() if path.name.startswith("cache-")]
    ours, corpus = read_rows(settings(where, "hf", keep=["tags"]))
    assert len(corpus.objects) == 3
    assert ours.num_rows == 50
    same(ours, library(where))
    assert corpus.read_plan.table is not None
    assert corpus.read_plan.table.version == json.loads((where / "state.json").read_text())["_fingerprint"]


def test_selected_rows_are_saved_as_they_are(tmp_path: Path) -> None:
    chosen = datasets.Dataset.from_dict(documents(0, 50)).filter(lambda row: row["id"] % 2 == 0).shuffle(seed=1)
    chosen.save_to_disk(str(tmp_path / "t"))
    ours, _ = read_rows(settings(tmp_path / "t", "hf"))
    same(ours, library(tmp_path / "t"))
    assert ours.column("id").to_pylist() == list(range(0, 50, 2))


def test_splits_are_read_together_and_are_a_column(tmp_path: Path) -> None:
    where = tmp_path / "t"
    train, test = (datasets.Dataset.from_dict(documents(*rows)) for rows in ((0, 10), (10, 14)))
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(where))
    ours, _ = read_rows(settings(where, "hf", keep=["split"]), ["split"])
    assert ours.column("split").to_pylist() == ["train"] * 10 + ["test"] * 4
    one, _ = read_rows(settings(where / "test", "hf"))
    same(one, library(where / "test"))


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    where = tmp_path / "t"
    datasets.Dataset.from_dict(documents(0, 5)).save_to_disk(str(where))

    def refusal(**more: Any) -> str:
        with pytest.raises(UsageError) as caught:
            discover(settings(more.pop("uri", where), "hf", **more))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has no state.json" in refusal(uri=tmp_path)
    assert "has no versions" in refusal(table_version="main")
    assert "corpus.text: no object has a column txt; did you mean text?" in refusal(text="txt")
    state = json.loads((where / "state.json").read_text())
    (where / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    assert "chosen by an index file" in refusal()
    (where / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../x.arrow"}]}))
    assert "no file of its folder" in refusal()
    (where / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "data-9.arrow"}]}))
    assert "which is gone" in refusal()
    (where / "state.json").write_text("[]")
    assert "is not JSON as save_to_disk writes it" in refusal()
