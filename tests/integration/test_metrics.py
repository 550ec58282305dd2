"""A real scrape: `ray start --head --metrics-export-port`, a job that joins it by address, Prometheus' own parser."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.monitoring.metrics import METRICS, Kind, Stage
from tests.drivers import PATIENCE, Driver, Snapshot, configure, docstrings_corpus, receipts
from tests.ray_nodes import RayCluster, RayNode

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Corpus = tuple[Path, list[str]]
_KINDS = {Kind.COUNTER: "counter", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
EXPORTED_BY_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "le"}
# what a run without a fault has nothing to say of
SILENT = {"reembed_shard_failures", "reembed_storage_retries", "reembed_eta_seconds"}


class Scrape:
    """One answer of a node's /metrics: what this job exported, by name and tags."""

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.tags: dict[str, set[str]] = {}
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            if family.name.startswith("ray_reembed_"):
                self.kinds[family.name] = family.type
                for sample in family.samples:
                    own = {key: value for key, value in sample.labels.items() if not _rays_own(key)}
                    self.tags.setdefault(family.name, set()).update(own)
                    key = (sample.name, frozenset(own.items()))
                    self._samples[key] = self._samples.get(key, 0.0) + sample.value

    def __call__(self, name: str, **tags: str) -> float:
        return self._samples.get((f"ray_{name}", frozenset(tags.items())), 0.0)


def _rays_own(label: str) -> bool:
    return label in EXPORTED_BY_RAY or label.startswith("otel_scope_")


DOCUMENTS = 2000  # a dozen seconds of work: replicas tell their totals every two, and must not be through by then


@pytest.fixture(scope="module")
def head(isolated_home: Path) -> Iterator[RayCluster]:
    """A cluster of its own, on which no other driver exports anything, and that sends every half second, not every ten."""
    with RayNode(2, env={"RAY_metrics_report_interval_ms": "500"}) as node:
        yield node.cluster


def _until(head: RayCluster, what: Callable[[Scrape], bool]) -> Scrape:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        scrape = Scrape(head.metrics())
        if what(scrape):
            return scrape
        time.sleep(0.5)
    pytest.fail(f"not seen:\n{head.metrics()}")


def test_a_running_job_and_its_end(tmp_path: Path, minilm: Path, head: RayCluster) -> None:
    output = tmp_path / "out"
    ids = docstrings_corpus(tmp_path / "corpus", DOCUMENTS)
    run: dict[str, Any] = {"address": head.address, "replicas": 2, "shard_bytes": "4KiB"}
    config = configure(tmp_path / "run.yaml", tmp_path / "corpus", output, minilm, **run)
    with Driver(config) as driver:
        driver.until(lambda: len(receipts(output)) >= 2)
        replicas = [driver.replica(number) for number in (0, 1)]
        _until(head, lambda scrape: "ray_reembed_replica_busy_share" in scrape.tags)  # told once in two seconds
        for pid in replicas:
            os.kill(pid, signal.SIGSTOP)  # so that the job runs for as long as the scrape takes
        # not every gauge changes at the same moment
        running = _until(
            head,
            lambda scrape: (
                (scrape("reembed_replicas", state="ready"), scrape("reembed_stage", stage=Stage.EMBEDDING)) == (2, 1)
                and scrape("reembed_shards", state="done") >= 2
            ),
        )
        planned = running("reembed_shards", state="planned")
        assert planned == sum(running("reembed_shards", state=state) for state in ("done", "running", "waiting")) > 10
        assert 0 < running("reembed_done_share") < 1
        assert running("reembed_replicas", state="wanted") == 2
        os.kill(replicas[0], signal.SIGKILL)
        os.kill(replicas[1], signal.SIGCONT)
        ended = driver.end()
    assert ended.rc == 0, ended.log
    summary = ended.summary

    # counters stay when the driver has left Ray
    told = _until(head, lambda scrape: scrape("reembed_drivers_ended_total", outcome="published") == 1)
    assert told("reembed_rows_total", outcome="embedded") == summary["rows"] - summary["repeated_rows"]
    assert told("reembed_rows_total", outcome="repeated") == summary["repeated_rows"]
    assert told("reembed_rows_total", outcome="embedded") + summary["repeated_rows"] == len(ids)
    assert told("reembed_committed_tokens_total", kind="real") == summary["tokens"]
    assert told("reembed_committed_tokens_total", kind="padded") == summary["padded_tokens"]
    shards = sum(told("reembed_shards_done_total", how=how) for how in ("embedded", "adopted"))
    assert shards == summary["shards"]["done"] == planned
    assert told("reembed_shard_seconds_count") == told("reembed_shards_done_total", how="embedded")
    assert told("reembed_replicas_lost_total", cause="died") == 1
    assert 0 < told("reembed_busy_seconds_total") < told("reembed_replica_seconds_total")
    assert told("reembed_stage_seconds_total", stage="encode") > 0
    assert told("reembed_batches_total") > 0
    # nearly all: what the killed replica did in its last seconds nobody knows
    assert 0.5 < told("reembed_tokens_total") / summary["tokens"] < 1.5
    assert Snapshot.read(summary["data"]).ids == sorted(ids)

    for metric in METRICS:
        family = f"ray_{metric.name}"
        seen = [scrape for scrape in (running, told) if family in scrape.kinds]
        assert seen or metric.name in SILENT, f"{family} was never exported"
        for scrape in seen:
            assert scrape.kinds[family] == _KINDS[metric.kind]
            assert scrape.tags[family] == set(metric.tags)
