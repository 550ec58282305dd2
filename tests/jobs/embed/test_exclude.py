"""`corpus.exclude`: rows that a dedup output says not to keep are counted, not embedded; reuse, verify and plan know it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.dedup_outputs import publish_dedup
from tests.local_replicas import local_embed, local_run

ROWS = 30


def _write(folder: Path, number: int, texts: list[str], *, ids: bool) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"text": text} | ({"id": f"{number}-{row}"} if ids else {}) for row, text in enumerate(texts)]
    (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _texts(number: int) -> list[str]:
    """Ten texts that all objects hold, ten of which a word is another in each object, ten of the object alone."""
    same = [f"the keeper of lamp {row} climbs the stairs" for row in range(10)]
    near = [f"boats of harbour {row} leave in the morning for the long voyage north, number {number}" for row in range(10)]
    return same + near + [f"only object {number} knows of letter {row * 37 + number}" for row in range(10)]


def _config(folder: Path, model: Path, output: str, *, ids: bool, **corpus: Any) -> Path:
    path = folder / f"{output}.yaml"
    raw = {
        "corpus": {"uri": f"{folder}/corpus/", **({"id": "id"} if ids else {}), **corpus},
        "model": {"name": str(model), "precision": "float32"},
        "output": {"uri": f"{folder}/{output}"},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
        "run": {"shard_bytes": 1024},
        "gate": {"max_row_change": 1.0},
    }
    path.write_text(yaml.safe_dump(raw))
    return path


def _rows(folder: Path, data: str) -> dict[str, list[float]]:
    table = pq.read_table(data)
    return dict(zip(table.column("id").to_pylist(), table.column("embedding").to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("ids", [True, False])
def test_rows_not_to_keep_are_left_out_and_counted(tmp_path: Path, small_model: Path, ids: bool) -> None:
    for number in range(3):
        _write(tmp_path / "corpus", number, _texts(number), ids=ids)
    everything = local_embed(_config(tmp_path, small_model, "all", ids=ids)).summary
    found = publish_dedup(tmp_path / "all", tmp_path / "dd", threshold=0.98)
    assert found["duplicates"] >= 20
    of_all = _rows(tmp_path, everything["data"])
    wanted = {row["id"] for row in pq.read_table(tmp_path / "dd" / "data" / found["run_id"]).to_pylist() if row["keep"]}

    config = _config(tmp_path, small_model, "kept", ids=ids, exclude=str(tmp_path / "dd"))
    planned = json.loads(local_run("plan", config, "--json").stdout)
    assert planned["exclude"]["run_id"] == found["run_id"]
    assert planned["exclude"]["rows"] == found["duplicates"]
    assert planned["rows"] == pytest.approx(3 * ROWS, rel=0.1), "of lines they are estimated"
    assert planned["rows_to_embed"] == pytest.approx(found["kept"], rel=0.1)
    first = local_embed(config).summary
    assert first["excluded_rows"] == found["duplicates"] == 3 * ROWS - first["documents"]
    assert first["exclude"] | {"sha256": ""} == {
        "uri": str(tmp_path / "dd"), "run_id": found["run_id"], "rows": found["duplicates"], "sha256": "",
    }  # fmt: skip
    kept = _rows(tmp_path, first["data"])
    assert kept.keys() == wanted
    accounting = next(check for check in first["gate"] if check["name"] == "accounting")
    assert f"{found['duplicates']} rows left out by corpus.exclude" in accounting["note"]
    assert f"excluded    {found['duplicates']} rows" in local_run("embed", config, "cluster.address=local").stdout

    audit = json.loads(local_run("verify", config, "--sample", "5", "--json").stdout)
    assert (audit["ok"], audit["excluded_rows"], audit["documents_in_source"]) == (True, found["duplicates"], found["kept"])
    assert local_embed(config).summary["run_id"] == first["run_id"], "the same command does nothing"

    # the second night: one object is new, and a listed row of another has got a new text, of which dedup says nothing
    changed = [*_texts(1)[:5], "a new text in place of a copy", *_texts(1)[6:]]
    _write(tmp_path / "corpus", 1, changed, ids=ids)
    _write(tmp_path / "corpus", 3, ["something new"], ids=ids)
    second = local_embed(config).summary
    assert second["excluded_rows"] == found["duplicates"] - 1
    assert second["documents"] == 3 * ROWS + 1 - second["excluded_rows"]
    assert second["reuse"]["carried_shards"] >= 2
    assert json.loads(local_run("verify", config, "--json").stdout)["ok"]
    again = _rows(tmp_path, second["data"])
    assert {id_: again[id_] for id_ in kept} == kept
    assert all(of_all[id_] == pytest.approx(kept[id_], abs=1e-5) for id_ in kept)

    # another dedup run is another set of rows: no part is carried over, vectors are reused
    later = publish_dedup(tmp_path / "all", tmp_path / "dd", threshold=1.0)
    third = local_embed(config).summary
    assert third["exclude"]["run_id"] == later["run_id"]
    assert third["reuse"]["carried_shards"] == 0
    assert third["reused_rows"] > 0
    assert third["documents"] + third["excluded_rows"] == 3 * ROWS + 1
    assert json.loads(local_run("verify", config, "--json").stdout)["ok"]


@pytest.mark.slow
def test_a_lost_or_altered_list_is_named(tmp_path: Path, small_model: Path) -> None:
    _write(tmp_path / "corpus", 0, _texts(0) + _texts(0), ids=True)
    local_embed(_config(tmp_path, small_model, "all", ids=True))
    publish_dedup(tmp_path / "all", tmp_path / "dd")
    config = _config(tmp_path, small_model, "kept", ids=True, exclude=str(tmp_path / "dd"))
    first = local_embed(config).summary
    run = first["run_id"]

    # a run that has lost all its work resumes with its own list, although the dedup output has lost its parts
    rows = _rows(tmp_path, first["data"])
    kept = tmp_path / "kept"
    for gone in (
        kept / "data",
        kept / "runs" / run / "ledger",
        kept / "runs" / run / "receipts",
        kept / "runs" / run / "staged",
    ):
        shutil.rmtree(gone, ignore_errors=True)
    for document in ("CURRENT.json", f"runs/{run}/summary.json"):
        (kept / document).unlink()
    shutil.rmtree(tmp_path / "dd" / "data")
    again = local_embed(config).summary
    assert (again["run_id"], again["excluded_rows"]) == (run, first["excluded_rows"])
    assert _rows(tmp_path, again["data"]) == rows
    listed = tmp_path / "kept" / "runs" / run / "left_out.keys"
    listed.write_bytes(listed.read_bytes()[:-16])
    report = json.loads(local_run("verify", config, "--sample", "0", "--json").stdout)
    assert "the list of rows to leave out was altered" in report["findings"][0]


@pytest.mark.slow
def test_what_is_no_dedup_output_is_refused(tmp_path: Path, small_model: Path) -> None:
    _write(tmp_path / "corpus", 0, _texts(0), ids=True)
    missing = _config(tmp_path, small_model, "kept", ids=True, exclude=str(tmp_path / "nothing"))
    ended = local_embed(missing)
    assert ended.rc == 2
    assert "nothing: nothing is published there; run `reembed dedup` first, or correct the uri" in ended.log
    local_embed(_config(tmp_path, small_model, "all", ids=True))
    run = publish_dedup(tmp_path / "all", tmp_path / "dd")["run_id"]
    of_duplicates = _config(tmp_path, small_model, "kept", ids=True, exclude=str(tmp_path / "dd"))
    part = next((tmp_path / "dd" / "data" / run).iterdir())
    table = pq.read_table(part)
    pq.write_table(table.append_column("chunk", pa.array([0] * len(table), pa.int32())), part)
    ended = local_embed(of_duplicates)
    assert ended.rc == 2
    assert "it speaks of chunks, and documents are excluded; run dedup over a snapshot of whole documents" in ended.log
    part.unlink()
    ended = local_embed(of_duplicates)
    assert ended.rc == 2
    assert "run `reembed dedup` again" in ended.log
    ended = local_embed(_config(tmp_path, small_model, "kept", ids=True, exclude=str(tmp_path / "all")))
    assert ended.rc == 2
    assert "the output of `reembed embed`; give that of a `reembed dedup` over a snapshot" in ended.log
    assert not (tmp_path / "kept").exists()
