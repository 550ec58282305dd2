"""The command from end to end on a real Ray: what it prints and publishes, what the other commands say of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.conftest import Cli
from tests.drivers import Made, Snapshot, configure
from tests.local_replicas import local_embed, local_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

Corpus = tuple[Path, list[str]]


def test_summary_and_rows(made: Made) -> None:
    summary = made.ended.summary
    assert {
        "run_id", "state", "documents", "rows", "quarantined_rows", "reused_rows", "tokens", "padded_tokens", "shards",
        "seconds", "tokens_per_second", "stage_seconds", "replica_busy_fraction", "attempts", "peak_memory_bytes", "model",
        "fingerprint", "published", "data",
    } <= set(summary)  # fmt: skip
    assert made.ended.stdout.count("\n") == 1, "one JSON object, alone"
    assert (summary["state"], summary["published"]) == ("complete", True)
    assert (summary["documents"], summary["rows"], summary["quarantined_rows"], summary["reused_rows"]) == (60, 60, 0, 0)
    assert set(summary["stage_seconds"]) == {"read", "tokenize", "encode", "write", "wait"}
    planned = summary["shards"]["planned"]
    assert summary["shards"] == {"planned": planned, "done": planned, "quarantined": 0}
    assert planned >= 4
    assert 60 * 4 < summary["tokens"] <= summary["padded_tokens"]
    assert 0 < summary["replica_busy_fraction"] <= 1
    assert summary["peak_memory_bytes"] > 50e6

    assert made.snapshot.ids == sorted(made.ids)
    assert made.snapshot.vectors.shape == (60, 384)
    assert np.allclose(np.linalg.norm(made.snapshot.vectors, axis=1), 1, atol=1e-5)


def test_current_and_summary_on_storage(made: Made) -> None:
    summary = made.ended.summary
    current = json.loads((made.output / "CURRENT.json").read_text())
    assert (current["run_id"], current["data"], current["rows"]) == (summary["run_id"], summary["data"], 60)
    stored = json.loads((made.output / "runs" / summary["run_id"] / "summary.json").read_text())
    assert stored == summary
    assert summary["report"]["rows"]["embedded"] == 60
    assert summary["report"]["timeline"]["shards"] == summary["shards"]["done"]
    assert summary["report"]["forecasts"]["tokens"]["predicted"] > 0
    assert "Readers see this run&#39;s 60 rows." in (made.output / summary["report"]["page"]).read_text()


def test_the_other_commands(made: Made, cli: Cli) -> None:
    plan = cli("plan", made.config, "--json").json()
    assert (plan["shards"], plan["objects"]) == (made.ended.summary["shards"]["planned"], 3)
    status = cli("status", made.output, "--json").json()
    assert (status["state"], status["run_id"]) == ("complete", made.ended.summary["run_id"])
    assert (status["documents"], status["shards"]["done"]) == (60, plan["shards"])
    listed = cli("files", made.output)
    assert listed.rc == 0
    assert [Path(line) for line in listed.stdout.splitlines()] == made.parts(made.output)
    assert ds.dataset(listed.stdout.splitlines()).count_rows() == 60
    documents = map(json.loads, (made.source / "part-1.jsonl").read_text().splitlines())
    wanted = next(document for document in documents if document["id"] == made.ids[7])
    found = cli("search", made.output, wanted["text"], "-k", "3", "--json").json()
    assert len(found["hits"]) == 3
    assert found["hits"][0]["id"] == wanted["id"]
    verified = cli("verify", made.config, "--sample", "12", "--json")
    assert verified.rc == 0, verified.stdout + verified.stderr
    report = verified.json()
    assert (report["ok"], report["rows"], report["documents_in_source"]) == (True, 60, 60)
    assert report["sampled"] >= 12
    assert report["min_cosine"] > 0.9999


def test_the_same_again_is_a_no_op(made: Made, cli: Cli) -> None:
    """No Ray is asked: the configured cluster need not even be there."""
    before = {path: path.stat().st_mtime_ns for path in made.output.rglob("*")}
    again = cli("embed", made.config, "cluster.address=127.0.0.1:1", "--json")
    assert again.rc == 0
    assert again.json() == made.ended.summary | {"unchanged": True}
    assert f"nothing to do: snapshot {made.ended.summary['run_id']}" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in made.output.rglob("*")} == before
    told = cli("embed", made.config)
    assert "(nothing to do)" in told.stdout


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _add_rows(path: Path) -> None:
    shutil.copy(path, path.with_name("part-9999999.parquet"))


def _add_a_row(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(ds.dataset(path).to_table().take([*range(table.num_rows), 0]), path)


@pytest.mark.parametrize(
    ("damage", "named", "words"),
    [
        (_flip, None, "altered"),
        (Path.unlink, None, "missing"),
        (_add_rows, "part-9999999.parquet", "no receipt"),
        (_add_a_row, None, "altered"),
    ],
)
def test_verify_names_the_damaged_part(made: Made, cli: Cli, tmp_path: Path, damage, named, words) -> None:  # type: ignore[no-untyped-def]
    output = made.copy(tmp_path)
    part = made.parts(output)[1]
    damage(part)
    verified = cli("verify", output, "--sample", "0", "--json")
    assert verified.rc == 3
    report = verified.json()
    assert not report["ok"]
    assert len(report["findings"]) == 1, report["findings"]
    assert str(part.with_name(named or part.name)) in report["findings"][0]
    assert words in report["findings"][0]


def test_a_damaged_part_is_embedded_again(made: Made, tmp_path: Path) -> None:
    """A part that is gone before publishing: found when the run is published again, and only its shard is embedded."""
    output = made.copy(tmp_path)
    victim = made.parts(output)[1]
    victim.unlink()
    (output / "CURRENT.json").unlink()
    config = tmp_path / "run.yaml"
    shutil.copy(made.config, config)
    ended = local_embed(config, f"output.uri={output}")
    assert ended.rc == 0, ended.log
    assert victim.name in ended.log
    assert "1 shards to embed" in ended.log
    assert Snapshot.read(ended.summary["data"]).same_bits(made.snapshot)


def test_other_settings_make_another_run(made: Made, tmp_path: Path) -> None:
    output = made.copy(tmp_path)
    config = tmp_path / "run.yaml"
    shutil.copy(made.config, config)
    refused = local_embed(config, f"output.uri={output}", "model.pooling=cls")
    assert refused.rc == 3, refused.log
    (reason,) = refused.summary["reasons"]
    assert reason.startswith("model_change: pooling: mean -> cls (gate.allow_model_change=false); ")
    assert json.loads((output / "CURRENT.json").read_text())["run_id"] == made.ended.summary["run_id"]
    allowed, no_cluster = "gate.allow_model_change=true", "cluster.address=127.0.0.1:1"
    ended = local_embed(config, f"output.uri={output}", "model.pooling=cls", allowed, no_cluster)
    assert ended.rc == 0, ended.log
    summary = ended.summary
    assert summary["run_id"] == refused.summary["run_id"]
    assert summary["attempts"] == refused.summary["attempts"], "judged again, nothing was embedded"
    assert summary["run_id"] != made.ended.summary["run_id"]
    assert summary["model"]["pooling"] == "cls"
    assert summary["fingerprint"] != made.ended.summary["fingerprint"]
    other = Snapshot.read(summary["data"])
    assert other.ids == made.snapshot.ids
    assert (np.abs(other.vectors - made.snapshot.vectors).max(axis=1) > 1e-3).all(), "every vector by the other pooling"
    first = output / "data" / made.ended.summary["run_id"]
    assert Snapshot.read(str(first)).same_bits(made.snapshot), "the earlier snapshot stands as it was"
    assert local_run("verify", output, "--sample", "4").rc == 0

    assert local_run("embed", config, f"output.uri={output}", no_cluster).rc == 3, "the way back is a change as well"
    back = local_run("embed", config, f"output.uri={output}", allowed, no_cluster, "--json")
    assert back.rc == 0, back.log
    assert back.summary["run_id"] == made.ended.summary["run_id"], "published again from its receipts, nothing embedded"
    assert json.loads((output / "CURRENT.json").read_text())["run_id"] == made.ended.summary["run_id"]


def test_a_raised_limit_publishes_what_is_there(tmp_path: Path, small_corpus: Corpus, minilm: Path) -> None:
    source = shutil.copytree(small_corpus[0], tmp_path / "corpus")
    with (source / "part-1.jsonl").open("a") as stream:
        stream.write('{"id": "no text", "text": null, "package": "p", "kind": "k"}\n{"id": "cut off", "te\n')
    config = configure(tmp_path / "run.yaml", source, tmp_path / "out", minilm, shard_bytes="4KiB")
    refused = local_embed(config)
    assert refused.rc == 3, refused.log
    assert (refused.summary["published"], refused.summary["quarantined_rows"]) == (False, 2)
    assert "run.max_quarantined_rows=0" in refused.summary["reasons"][0]
    assert not (tmp_path / "out" / "CURRENT.json").exists()
    run = tmp_path / "out" / "runs" / refused.summary["run_id"]
    entries = ds.dataset(run / "quarantine").to_table().to_pylist()
    assert len(entries) == 2
    assert {Path(entry["object"]).name for entry in entries} == {"part-1.jsonl"}
    assert {entry["id"] for entry in entries} >= {"no text"}

    again = local_run("embed", config, "cluster.address=127.0.0.1:1", "--json")
    assert (again.rc, again.summary["run_id"]) == (3, refused.summary["run_id"]), again.log
    raised = local_run("embed", config, "run.max_quarantined_rows=2", "cluster.address=127.0.0.1:1", "--json")
    assert raised.rc == 0, raised.log
    assert raised.summary["run_id"] == refused.summary["run_id"]
    assert raised.summary["attempts"] == refused.summary["attempts"], "nothing was embedded again"
    assert Snapshot.read(raised.summary["data"]).ids == sorted(small_corpus[1])
