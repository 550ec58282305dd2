"""`cost.max_tokens` and `cost.max_usd` in real runs: refused when planning, stopped in time, resumed to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml

from jobs.config import parse_config
from tests.local_replicas import local_embed, local_run
from workers.errors import UsageError

OBJECTS, ROWS = 24, 48  # an object is some five shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("budget")
    (folder / "corpus").mkdir()
    for number in range(OBJECTS):
        lines = [
            json.dumps(
                {"id": f"{number}-{row}", "text": f"letter {row} of harbour {number}: " + f"snow on lamp {row} " * (row % 5)}
            )
            for row in range(ROWS)
        ]
        (folder / "corpus" / f"{number:02}.jsonl").write_text("\n".join(lines) + "\n")
    raw = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id"},
        "model": {"name": str(small_model), "precision": "float32"},
        "output": {"uri": f"{folder}/out"},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
        "run": {"shard_bytes": "1KiB", "reuse": "off"},
    }
    (folder / "q.yaml").write_text(yaml.safe_dump(raw))
    return folder / "q.yaml"


def rows(data: str) -> pa.Table:
    return ds.dataset(data).to_table().sort_by("id")


def test_stopped_below_the_limit_and_resumed_to_the_same_bits(config: Path) -> None:
    whole = local_embed(config, f"output.uri={config.parent}/undisturbed").summary
    total = whole["tokens"]
    limit = total * 8 // 10
    limited = f"cost.max_tokens={limit}"
    refused = local_run("plan", config, limited, "--must-fit")
    assert (refused.rc, refused.stdout) == (2, "")
    assert f"cost.max_tokens={limit}: about " in refused.log
    assert not (config.parent / "out").exists()

    stopped = local_embed(config, limited)
    assert stopped.rc == 4, stopped.log
    told = stopped.summary["error"]
    spent = int(told.partition("the budget allows no more: ")[2].partition(" tokens of")[0].replace(",", ""))
    assert f"of cost.max_tokens={limit} spent, and no further shard fits; raise that limit" in told
    assert "run the same command again to resume" in told
    assert 0.98 * limit <= spent <= limit
    assert "the run is expected to need more than its budget, and to end before it is done: about " in stopped.log
    assert not (config.parent / "out" / "CURRENT.json").exists()
    assert json.loads(local_run("status", config, "--json").stdout)["state"] == "aborted"
    planned = json.loads(local_run("plan", config, limited, "--json").stdout)
    wanted = {"max_tokens": limit, "spent_tokens": spent, "max_usd": None, "spent_usd": None, "fits": False}
    assert planned["budget"] == wanted

    again = local_embed(config, limited)
    assert again.rc == 4
    assert "replica 0 ready" not in again.log, "nothing fits, so nothing is started"
    assert f"{spent:,} tokens of" in again.summary["error"]

    resumed = local_embed(config, f"cost.max_tokens={2 * total}", "cost.gpu_hour_usd=3600", "cost.max_usd=900")
    assert resumed.rc == 0, resumed.log
    summary = resumed.summary
    assert (summary["documents"], summary["tokens"], summary["reembedded_rows"]) == (OBJECTS * ROWS, total, 0)
    budget = summary["budget"]
    assert (budget["max_tokens"], budget["spent_tokens"], budget["max_usd"]) == (2 * total, total, 900)
    assert 0 < budget["spent_usd"] == pytest.approx(summary["cost_usd"], abs=0.4)  # hours are rounded to 0.36 s
    assert rows(summary["data"]).equals(rows(whole["data"])), "bit for bit"
    assert local_embed(config, limited).summary["unchanged"], "limits are no part of a run's settings"


def test_a_limit_in_dollars_of_which_nobody_knows_whether_it_will_do(config: Path) -> None:
    """At a dollar a second it is less than stopping takes: the first shard is not begun."""
    limits = [f"output.uri={config.parent}/dollars", "cost.gpu_hour_usd=3600", "cost.max_usd=0.9"]
    unknown = local_run("plan", config, *limits, "--must-fit")
    assert unknown.rc == 2
    assert "is not known before a run on this output has measured a rate" in unknown.log
    ended = local_embed(config, *limits)
    assert ended.rc == 4
    assert "USD of cost.max_usd=0.9 spent, and no further shard fits" in ended.summary["error"]


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        ({"max_usd": 5}, "cost: max_usd=5 needs gpu_hour_usd above 0, the price of a replica-hour; set it too"),
        ({"max_usd": 5, "gpu_hour_usd": 0}, "needs gpu_hour_usd above 0"),
        ({"max_usd": -1, "gpu_hour_usd": 2}, "cost.max_usd: should be greater than 0 (got -1)"),
        ({"max_tokens": 0}, "cost.max_tokens: should be greater than or equal to 1 (got 0)"),
        ({"max_tokens": "many"}, "cost.max_tokens: should be a valid integer (got 'many')"),
    ],
)
def test_what_no_limit_can_be_is_refused(cost: dict[str, Any], told: str) -> None:
    raw = {"corpus": {"uri": "corpus/"}, "output": {"uri": "out"}, "cost": cost}
    with pytest.raises(UsageError) as refused:
        parse_config(raw, "q.yaml")
    assert told in str(refused.value)
