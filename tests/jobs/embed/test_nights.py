"""Nights in a row, without Ray: what is carried over, what is embedded, and that every snapshot is whole by itself."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jobs.embed.job
import jobs.planning.run
from jobs.commands.plan import plan_run, plan_text
from jobs.commands.verify import verify_snapshot
from jobs.config import RunConfig
from jobs.driver.signals import Stopped
from jobs.embed.job import embed_corpus
from jobs.report.summary import summary_text
from jobs.state.current import read_current
from jobs.state.records import list_runs, read_status, write_status
from jobs.state.stored_run import StoredRun
from tests.jobs.nights import NIGHT_1, HandSession, by_hand, corpus_of, days_apart, rows, rows_of, settings
from tests.jobs.snapshot_samples import Killed
from workers.errors import RunAborted, TransientError, UsageError
from workers.storage.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on whoever starts replicas fails."""
    return lambda: monkeypatch.setitem(sys.modules, "jobs.embed.session", None)


def delete(folder: str, name: str) -> None:
    Store(folder, {}).delete(f"corpus/{name}.parquet")


def sound(config: RunConfig, summary: dict[str, Any]) -> None:
    """The audit passes, and the rows and vectors are those of a run that reused nothing."""
    report = verify_snapshot(config.output.uri, 0)
    assert report["findings"] == []
    raw = config.model_copy(
        update={
            "output": config.output.model_copy(update={"uri": f"{config.output.uri}-afresh-{summary['run_id']}"}),
            "run": config.run.model_copy(update={"reuse": "off"}),
        }
    )
    afresh = embed_corpus(raw)
    assert afresh["reused_rows"] == 0
    assert rows_of(summary["data"]).equals(rows_of(afresh["data"]))


def test_three_nights(folder: str, small_model: Path, no_ray: Callable[[], None]) -> None:
    config = settings(folder, small_model)
    corpus_of(f"{folder}/corpus", NIGHT_1)
    first = embed_corpus(config)
    assert first["reuse"] == {
        "base": None, "objects": {"unchanged": 0, "changed": 0, "new": 4, "deleted": 0}, "carried_shards": 0,
    }  # fmt: skip
    assert "reuse " not in summary_text(first)

    corpus_of(f"{folder}/corpus", {"b": rows("b", 21, changed=2), "e": rows("e", 10)})
    delete(folder, "c")
    planned = plan_run(config)
    assert planned["reuse"]["objects"] == {"unchanged": 2, "changed": 1, "new": 1, "deleted": 1}
    assert (planned["rows"], planned["reuse"]["carried_rows"], planned["rows_to_embed"]) == (71, 40, 12)
    assert "objects 2 unchanged, 1 changed, 1 new, 1 deleted" in plan_text(planned)
    second = embed_corpus(config)
    assert second["reuse"]["base"] == first["run_id"]
    assert second["reuse"]["objects"] == planned["reuse"]["objects"]
    assert second["reuse"]["carried_shards"] == planned["reuse"]["carried_shards"] == 4
    assert (second["documents"], second["reused_rows"], second["reembedded_rows"]) == (71, 59, 0)
    assert second["tokens"] < first["tokens"] / 2, "twelve new texts, and what is embedded again to compare"
    assert f"carried over from {first['run_id']}" in summary_text(second)
    sound(config, second)

    delete(folder, "e")
    no_ray()
    planned = plan_run(config)
    assert (planned["rows_to_embed"], planned["estimated_tokens"], planned["reuse"]["carried_rows"]) == (0, 0, 61)
    third = embed_corpus(config)
    assert (third["documents"], third["reused_rows"], third["tokens"]) == (61, 61, 0)
    assert third["published"]
    assert verify_snapshot(config.output.uri, 0)["findings"] == []
    again = embed_corpus(config)
    assert again["unchanged"]
    assert "(nothing to do)" in summary_text(again)


@pytest.mark.s3
def test_renamed_on_s3(s3_bucket: str, small_model: Path, no_ray: Callable[[], None]) -> None:
    folder = f"s3://{s3_bucket}/{uuid.uuid4().hex[:8]}"
    config = settings(folder, small_model)
    corpus_of(f"{folder}/corpus", NIGHT_1)
    first = embed_corpus(config)
    corpus_of(f"{folder}/corpus", {"z": NIGHT_1["b"]})
    delete(folder, "b")
    no_ray()
    second = embed_corpus(config)
    assert second["reuse"]["objects"] == {"unchanged": 4, "changed": 0, "new": 0, "deleted": 0}
    assert rows_of(second["data"]).equals(rows_of(first["data"]))
    assert verify_snapshot(config.output.uri, 0)["findings"] == []


def test_partitions_kept_columns_and_quarantine_come_along(tmp_path: Path, small_model: Path) -> None:
    sections = {"corpus": {"keep": ["lang"]}, "output": {"partition_by": ["lang"]}}
    config = settings(tmp_path, small_model, **sections)
    objects = {f"lang={lang}/{name}": rows(f"{lang}{name}", 20) for lang in ("de", "fr") for name in "ab"}
    bad = [*objects["lang=de/a"][:19], ("nothing", None)]
    corpus_of(tmp_path / "corpus", {**objects, "lang=de/a": bad})
    first = embed_corpus(config)
    assert (first["documents"], first["quarantined_rows"]) == (79, 1)
    corpus_of(tmp_path / "corpus", {"lang=fr/b": rows("frb", 20, changed=1)})
    second = embed_corpus(config)
    assert (second["documents"], second["reused_rows"], second["quarantined_rows"]) == (79, 78, 1)
    assert second["reuse"]["carried_shards"] == 6
    assert len(list((tmp_path / "out/runs" / second["run_id"] / "quarantine").iterdir())) == 1
    sound(config, second)
    third = embed_corpus(settings(tmp_path, small_model, **(sections | {"output": {"partition_by": []}})))
    assert third["reuse"]["carried_shards"] == 0, "rows lie elsewhere now: they are read again"
    assert (third["documents"], third["reused_rows"]) == (79, 79), "their vectors are not"


def test_local_parts_are_links_and_outlive_the_snapshot_they_came_from(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})
    second = embed_corpus(config)
    parts = [path for path in Path(second["data"]).iterdir() if path.stat().st_nlink > 1]
    assert len(parts) == second["reuse"]["carried_shards"]
    for path in Path(first["data"]).iterdir():
        path.unlink()
    sound(config, second)


def test_a_run_that_was_planned_with_a_base_goes_on_with_it(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})

    def dies(*_: Any) -> Any:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HandSession, "embed", dies)
        with pytest.raises(Killed):
            embed_corpus(config)
    begun = list_runs(Store(config.output.uri, {}))[-1]
    assert plan_run(config)["action"] == "resume"
    corpus_of(tmp_path / "corpus", {"f": rows("f", 10)})  # the next run's affair
    second = embed_corpus(config)
    assert (second["run_id"], second["documents"], second["reuse"]["base"]) == (begun, 90, first["run_id"])
    assert embed_corpus(config)["documents"] == 100


@pytest.mark.parametrize("survive", [0, 1, 4, 9, 15, 20, 22, 23, 26])
def test_killed_at_any_change_of_storage_it_ends_the_same(tmp_path: Path, small_model: Path, survive: int) -> None:
    """Copies, receipts, run.json, CURRENT.json: the process dies before one of them, and is started again."""
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"b": rows("b", 20, changed=1)})
    left, one_by_one = [survive], threading.Lock()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "put_if_absent", "copy"):
            whole = getattr(Store, name)

            def frail(self: Store, path: str, *rest: Any, whole: Any = whole) -> Any:
                if "/lock/" in path or "probe" in path:
                    return whole(self, path, *rest)
                with one_by_one:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return whole(self, path, *rest)

            patch.setattr(Store, name, frail)
        try:
            embed_corpus(config)
        except Killed:
            published = read_current(Store(config.output.uri, {}))
            assert published is not None
            assert published.rows == 80, "one snapshot or the other, each of them whole"
    second = embed_corpus(config)
    assert second["published"]
    assert (second["documents"], second["reuse"]["base"]) == (80, first["run_id"])
    assert verify_snapshot(config.output.uri, 0)["findings"] == []


def test_a_damaged_base_costs_its_reuse_and_not_the_run(
    tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    (tmp_path / "out/runs" / first["run_id"] / "objects.parquet").write_bytes(b"damaged")
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})
    second = embed_corpus(config)
    assert (second["documents"], second["reused_rows"]) == (90, 80)
    assert "objects are looked into again" in caplog.text
    root = tmp_path / "out/runs" / second["run_id"]
    corpus_of(tmp_path / "corpus", {"f": rows("f", 10)})
    next((root / "receipts").rglob("*.json")).write_bytes(b"{")
    planned = plan_run(config)
    assert (planned["rows_to_embed"], planned["reuse"]["base"]) == (100, None)
    assert "not a receipt" in caplog.text
    (root / "manifest.parquet").write_bytes(b"damaged")
    planned = plan_run(config)
    assert (planned["rows_to_embed"], planned["reuse"]["base"]) == (100, None)
    assert f"nothing of the published snapshot {second['run_id']} is reused: manifest" in caplog.text


def test_parts_damaged_while_they_are_published_are_embedded(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})
    whole, cut_off = Store.copy, []

    def damaging(self: Store, source: str, target: str) -> None:
        whole(self, source, target)
        if not cut_off:
            cut_off.append(target)
            self.put(target, b"cut off")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "copy", damaging)
        second = embed_corpus(config)
    assert (second["documents"], second["reuse"]["carried_shards"], second["reused_rows"]) == (90, 7, 70)
    assert verify_snapshot(config.output.uri, 0)["findings"] == []


def test_an_error_after_the_run_was_begun_can_be_resumed(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(config)
    corpus_of(tmp_path / "corpus", {"e": rows("e", 10)})

    def refused(*_: Any) -> Any:
        raise UsageError("cluster.address=auto: no cluster")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HandSession, "embed", refused)
        with pytest.raises(RunAborted, match="can be resumed by the same command"):
            embed_corpus(config)
    assert embed_corpus(config)["documents"] == 90


@pytest.mark.parametrize("away", [False, True])
def test_stopped_while_it_is_judged(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away: bool
) -> None:
    """Its status says so, the signal decides the exit status, and the same command publishes."""

    def judged(run: StoredRun, *_: Any) -> None:
        write_status(run.store, run.run_id, {"state": "running", "tokens": 7})
        if away:
            patch.setattr(jobs.planning.run, "read_status", no_answer)
        raise Stopped(signal.SIGTERM)

    def no_answer(*_: Any) -> None:
        raise TransientError("no answer")

    config = settings(tmp_path, small_model)
    corpus_of(tmp_path / "corpus", NIGHT_1)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "reembed"):
        patch.setattr(jobs.embed.job, "judge", judged)
        with pytest.raises(Stopped) as stopped:
            embed_corpus(config)
    assert stopped.value.exit_status == 143
    store = Store(str(tmp_path / "out"), {})
    (run_id,) = list_runs(store)
    told = read_status(store, run_id)
    assert told is not None
    if away:
        assert "status.json not written: no answer" in caplog.text
        assert told["state"] == "running"
    else:
        assert (told["state"], told["reason"], told["tokens"]) == ("stopped", str(stopped.value), 7)
    assert embed_corpus(config)["published"]
