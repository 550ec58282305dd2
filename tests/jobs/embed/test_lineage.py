"""`lineage.endpoint` in real runs: one START and one end for each driver, whatever becomes of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import yaml

from tests.jobs.monitoring.test_lineage import validate
from tests.local_replicas import local_embed

pytest.importorskip("openlineage.client")


@pytest.mark.slow
def test_the_events_of_a_run_that_is_refused_stopped_and_resumed(tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "corpus").mkdir()
    lines = [json.dumps({"id": number, "text": f"letter {number} of the harbour", "lang": "de"}) for number in range(300)]
    (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(lines) + "\n")
    raw = {
        "corpus": {"uri": f"{tmp_path}/corpus/", "id": "id", "keep": ["lang"]},
        "model": {"name": str(small_model), "precision": "float32"},
        "output": {"uri": f"{tmp_path}/out", "partition_by": ["lang"]},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
        "run": {"shard_bytes": "1KiB"},
        "lineage": {"endpoint": f"{tmp_path}/events.jsonl", "namespace": "nights"},
    }
    config = tmp_path / "q.yaml"
    config.write_text(yaml.safe_dump(raw))

    def events() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        for event in found:
            validate(event)
        return found

    stopped = local_embed(config, "cost.max_tokens=1500")
    assert stopped.rc == 4
    refused = local_embed(config, "gate.min_spread=1.9")
    assert refused.rc == 3, refused.log
    done = local_embed(config).summary
    assert local_embed(config).summary["unchanged"]
    told = events()
    assert [event["eventType"] for event in told] == ["START", "FAIL", "START", "FAIL", "START", "COMPLETE"]
    reasons = [event["run"]["facets"]["errorMessage"]["message"] for event in told if event["eventType"] == "FAIL"]
    assert "of cost.max_tokens=1500 spent" in reasons[0]
    assert "not published: " in reasons[1]
    assert {event["run"]["facets"]["reembed_run"]["run_id"] for event in told} == {done["run_id"]}
    ids = [event["run"]["runId"] for event in told]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 3
    last = told[-1]
    assert last["job"]["namespace"] == "nights"
    (source,), (output,) = last["inputs"], last["outputs"]
    assert (source["namespace"], source["name"]) == ("file", f"{tmp_path}/corpus")
    assert {each["name"]: each["type"] for each in source["facets"]["schema"]["fields"]} == {
        "id": "string", "text": "string", "lang": "string",
    }  # fmt: skip
    assert (output["namespace"], output["name"]) == ("file", f"{tmp_path}/out")
    table = ds.dataset(done["data"], partitioning="hive").to_table()
    fields = {each["name"]: each["type"] for each in output["facets"]["schema"]["fields"]}
    assert fields.keys() == set(table.column_names)
    assert fields["embedding"] == str(table.schema.field("embedding").type)
    assert output["facets"]["version"]["datasetVersion"] == done["run_id"]
    assert output["facets"]["reembed_model"]["weights_digest"] == done["model"]["weights_digest"]
    parts = list((tmp_path / "out" / "data" / done["run_id"]).rglob("*.parquet"))
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == table.num_rows == 300
    assert output["outputFacets"]["outputStatistics"]["size"] == sum(part.stat().st_size for part in parts)
    assert "lineage" not in json.loads((tmp_path / "out" / "runs" / done["run_id"] / "run.json").read_text())["config"]
