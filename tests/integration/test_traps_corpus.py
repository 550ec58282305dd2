"""Corpora of traps, one for each format, through the real command: every row ends where input.md says.

JSONL is planned and embedded on Ray, the others by replicas of this process.

Once a format: plan, stop -> an object deleted, one replaced -> resume, refused -> both restored -> limit raised, published

Expectations are those that trap_files wrote beside the bytes; sums are made here, from them and from the files themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml

import jobs.embed.session
from jobs.commands.verify import verify_snapshot
from jobs.driver.signals import Stopped
from tests.drivers import Driver, Ended, committed, embed, receipts
from tests.integration.trap_csv import csv_traps
from tests.integration.trap_files import LONG, Bad, Traps
from tests.integration.trap_jsonl import jsonl_traps
from tests.integration.trap_parquet import parquet_traps
from tests.integration.trap_text import text_traps
from tests.local_replicas import local_embed
from tests.ray_nodes import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FORMATS = {"parquet": parquet_traps, "jsonl": jsonl_traps, "csv": csv_traps, "text": text_traps}
NO_CLUSTER = "cluster.address=127.0.0.1:1"  # for what must not need one


@dataclass(frozen=True)
class Sprung:
    """What became of a corpus of traps."""

    traps: Traps
    config: Path
    output: Path
    planned: Ended  # stopped right after planning
    refused: Ended
    published: Ended

    @property
    def run(self) -> Path:
        return self.output / "runs" / str(self.refused.summary["run_id"])

    def rows(self, columns: list[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = ds.dataset(self.published.summary["data"]).to_table(columns).to_pylist()
        return rows

    def quarantine(self) -> pa.Table:
        return ds.dataset(self.run / "quarantine", format="parquet").to_table()


def _stopped(*_: object) -> NoReturn:
    raise Stopped(signal.SIGTERM)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(f"traps-{name}")) for name in FORMATS]
)
def sprung(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, minilm: Path, ray_head: RayCluster
) -> Sprung:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "corpus").mkdir()
    traps = FORMATS[request.param](folder / "corpus")
    config, output = folder / "run.yaml", folder / "out"
    sections = {
        "corpus": {"uri": f"{traps.folder}/", "id": traps.id, "keep": list(traps.keep)},
        "model": {"name": str(minilm)},
        "output": {"uri": str(output)},
        "cluster": {"address": ray_head.address, "replicas": 2, "cpus_per_replica": 1, "gpus_per_replica": 0},
    }
    config.write_text(yaml.safe_dump(sections))
    if on_ray := request.param == "jsonl":
        with Driver(config, "cluster.replicas=1") as driver:
            driver.until(lambda: list(output.glob("runs/*/run.json")))
            planned = driver.send(signal.SIGTERM)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs.embed.session, "dispatch", _stopped)
            planned = local_embed(config)
    assert planned.rc == 143, planned.log
    assert not receipts(output), "stopped before the first shard"
    traps.spoil()
    refused = (embed if on_ray else local_embed)(config)
    assert refused.rc == 3, refused.log
    assert not (output / "CURRENT.json").exists()
    traps.restore()
    published = local_embed(config, "run.max_quarantined_rows=-1", NO_CLUSTER)
    assert published.rc == 0, published.log
    return Sprung(traps, config, output, planned, refused, published)


def test_exactly_the_good_rows_are_in_the_output(sprung: Sprung) -> None:
    """Each under its id, with the hash of its own text, and the long one cut and flagged."""
    expected = Counter(
        (identity, hashlib.blake2b(text.encode(), digest_size=16).digest())
        for fate in sprung.traps.objects.values()
        for identity, text in fate.good
    )
    rows = sprung.rows(["id", "text_hash", "truncated", "embedding"])
    assert Counter((row["id"], row["text_hash"]) for row in rows) == expected
    assert all(abs(sum(value * value for value in row["embedding"]) - 1) < 1e-3 for row in rows)
    longest = {identity for fate in sprung.traps.objects.values() for identity, text in fate.good if text == LONG}
    assert {row["id"] for row in rows if row["truncated"]} == longest
    assert len(longest) == sprung.published.summary["truncated"] == 1


def test_every_quarantined_row_is_named_with_its_reason(sprung: Sprung) -> None:
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in sprung.quarantine().to_pylist():
        entries.setdefault(str(entry["object"]), []).append(entry)
    folder = sprung.traps.folder
    for name, fate in sprung.traps.objects.items():
        found = entries.pop(f"file://{folder / name}", [])
        expected = [Bad(None, fate.lost)] if fate.lost else fate.bad
        assert len(found) == len(expected), (name, found)
        for entry, bad in zip(sorted(found, key=lambda entry: entry["row"] or 0), expected, strict=True):
            assert re.search(bad.reason, entry["reason"]), (name, entry)
            assert entry["row"] == bad.row, (name, entry)
            assert entry["rows"] == (fate.rows if fate.lost else bad.rows), (name, entry)
            assert bad.id in (None, entry["id"]), (name, entry)
    assert entries == {}, "nothing else is quarantined"


def test_rows_in_are_rows_out_and_rows_quarantined(sprung: Sprung) -> None:
    fates = sprung.traps.objects
    good = sum(len(fate.good) for fate in fates.values())
    bad = sum(bad.rows for fate in fates.values() for bad in fate.bad) + sum(fate.rows or 0 for fate in fates.values())
    unknown = sorted(
        f"file://{sprung.traps.folder / name}" for name, fate in fates.items() if fate.lost and fate.rows is None
    )
    assert unknown, "there are objects whose rows nobody can count"
    for summary in (sprung.refused.summary, sprung.published.summary):
        assert (summary["documents"], summary["rows"]) == (good, good)
        assert (summary["quarantined_rows"], summary["quarantined_rows_is_minimum"]) == (bad, True)
        assert summary["lost_objects"] == unknown
        assert summary["shards"]["quarantined"] == 0, "objects and rows were at fault, never a whole shard"
        assert summary["shards"]["done"] == summary["shards"]["planned"]
    reports = [json.loads(data) for data in committed(sprung.output).values()]
    assert sum(receipt["rows_read"] for receipt in reports) == good + bad
    assert sum(entry["rows"] or 0 for entry in sprung.quarantine().to_pylist()) == bad
    assert len(sprung.rows(["id"])) == good


def test_refused_until_the_limit_is_raised(sprung: Sprung) -> None:
    refused, published = sprung.refused.summary, sprung.published.summary
    assert (refused["published"], refused["state"]) == (False, "refused")
    pattern = r", see \S+/quarantine \(run\.max_quarantined_rows=0\); mend the source, which makes a new run, or raise"
    assert re.search(pattern, refused["reasons"][0])
    assert refused["reasons"][0] in sprung.refused.log
    assert (published["published"], published["reasons"], published["run_id"]) == (True, [], refused["run_id"])
    assert published["attempts"] == refused["attempts"], "nothing was embedded again"
    stored = json.loads((sprung.run / "summary.json").read_text())
    assert stored == published


def test_no_finite_limit_publishes_what_nobody_could_count(sprung: Sprung, tmp_path: Path) -> None:
    (sprung.output / "CURRENT.json").rename(tmp_path / "CURRENT.json")
    again = local_embed(sprung.config, "run.max_quarantined_rows=1000000", NO_CLUSTER)
    (tmp_path / "CURRENT.json").rename(sprung.output / "CURRENT.json")
    assert again.rc == 3, again.log
    assert "an unknown number of rows" in again.summary["reasons"][0]


def test_the_log_names_what_is_lost(sprung: Sprung) -> None:
    """Drift that footers show already when the run is planned; every lost object, with its reason, when it is met."""
    before, started, _ = sprung.planned.log.partition("shards to embed")
    assert started
    for name, fate in sprung.traps.objects.items():
        if fate.drift:
            assert any(f"/{name}: " in line and "will be quarantined: " in line for line in before.splitlines()), name
        if fate.lost:
            met = [line for line in sprung.refused.log.splitlines() if f"/{name}: " in line and re.search(fate.lost, line)]
            assert len(met) == 2, (name, "two replicas must agree", met)
    assert "Traceback" not in sprung.planned.log + sprung.refused.log + sprung.published.log


def test_the_audit_agrees(sprung: Sprung) -> None:
    report = verify_snapshot(str(sprung.output), 4)
    assert report["findings"] == []
    assert report["rows"] == len(sprung.rows(["id"]))
    assert report["sampled"] >= 4
    assert report["min_cosine"] > 0.9999
