"""`reembed snapshots`: what is kept, what readers have, what became of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands.publish import publish_run
from jobs.commands.rollback import roll_back
from jobs.commands.snapshots import list_snapshots, snapshots_text
from jobs.commands.status import run_status
from jobs.publish.consumers import Consumers
from tests.jobs.snapshot_samples import everything, make_run, run_id
from workers.errors import UsageError
from workers.storage.store import Store
from workers.table.paths import RunPaths


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"), {})


def test_published_refused_and_forced_ones_are_told_apart(store: Store) -> None:
    make_run(store, 1, "old model", shards=3)
    make_run(store, 2)
    make_run(store, 3, state="refused", lost=[1], reasons=["golden texts: 0.1 < 0.998"])
    make_run(store, 4, state="refused", reasons=["rows: 1 instead of 9"])
    make_run(store, 5, state="running", done=1)
    roll_back(store.uri, run_id(1))
    before = everything(store)
    report = list_snapshots(store.uri)
    assert everything(store) == before
    assert report["current"] == run_id(1)
    items = {item["run_id"]: item for item in report["snapshots"]}
    assert list(items) == [run_id(4), run_id(3), run_id(2), run_id(1)], "newest first; what is not finished is no snapshot"
    first, second, third = items[run_id(1)], items[run_id(2)], items[run_id(3)]
    assert (first["current"], first["published"], first["taken_back"], first["rows"]) == (True, True, False, 30)
    assert (second["current"], second["published"], second["taken_back"], second["rows"]) == (False, True, True, 20)
    assert first["published_at"] >= second["published_at"] > "2026"
    assert (third["published"], third["published_at"], third["state"]) == (False, None, "refused")
    assert (third["rows"], third["quarantined_rows"]) == (10, 10)
    assert first["model"]["name"] == "old model"
    assert first["bytes"] == sum(store.list(RunPaths(run_id(1)).data).values())
    text = snapshots_text(report)
    assert f"* {run_id(1)}" in text
    assert "taken back" in text
    assert "not published: golden texts: 0.1 < 0.998" in text

    publish_run(store.uri, run_id(4), force=True)
    forced = list_snapshots(store.uri)["snapshots"][0]
    assert forced["forced"]["reasons"] == ["rows: 1 instead of 9"]
    assert (forced["current"], forced["state"], forced["reasons"]) == (True, "complete", [])
    assert "by force of" in snapshots_text(list_snapshots(store.uri))
    roll_back(store.uri, run_id(2))
    assert list_snapshots(store.uri)["snapshots"][0]["forced"] == forced["forced"], "history stays"


def test_a_driver_killed_right_after_it_published(store: Store) -> None:
    """The summary is not written yet; CURRENT.json tells all that counts."""
    make_run(store, 1)
    store.delete(RunPaths(run_id(1)).summary)
    (item,) = list_snapshots(store.uri)["snapshots"]
    assert (item["current"], item["published"], item["rows"], item["state"]) == (True, True, 20, "complete")
    assert item["bytes"] > 0
    assert snapshots_text(list_snapshots(store.uri))


def test_a_lost_current_leaves_what_the_summaries_tell(store: Store) -> None:
    make_run(store, 1)
    make_run(store, 2, state="refused")
    store.delete("CURRENT.json")
    report = list_snapshots(store.uri)
    assert report["current"] is None
    assert [item["published"] for item in report["snapshots"]] == [False, True]
    assert "published once" in snapshots_text(report)


def test_the_requests_do_not_grow_with_the_receipts(tmp_path: Path) -> None:
    class Counting(Store):
        calls: list[str] = []  # noqa: RUF012

        def read(self, path: str) -> bytes:
            self.calls.append(path)
            return super().read(path)

        def list(self, prefix: str) -> dict[str, int]:
            self.calls.append(prefix)
            return super().list(prefix)

    store = Store(str(tmp_path), {})
    for day in (1, 2, 3):
        make_run(store, day, shards=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.commands.snapshots.open_store", lambda target: (Counting(target, {}), None))
        list_snapshots(str(tmp_path))
    assert len(Counting.calls) == 1 + 2 * 3


def test_nothing_there_is_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no run was ever begun there"):
        list_snapshots(store.uri)
    with pytest.raises(SystemExit) as stopped:
        main(["snapshots", store.uri, "--json"])
    assert stopped.value.code == 2
    assert json.loads(capsys.readouterr().out)["exit_status"] == 2
    assert not Path(store.uri).exists()


def test_the_command_prints_one_object(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(store, 1)
    main_ends_well(["snapshots", store.uri, "--json"])
    assert json.loads(capsys.readouterr().out)["current"] == run_id(1)
    assert run_status(store.uri)["published_run"] == run_id(1)


def main_ends_well(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


def test_what_is_kept_for_consumers(store: Store) -> None:
    for day in (1, 2):
        make_run(store, day)
    consumers = Consumers(store)
    consumers.acknowledge("pg", run_id(1))
    consumers.hand("pg", run_id(2))
    consumers.acknowledge("cache", run_id(1))
    report = list_snapshots(store.uri)
    assert [item["consumers"] for item in report["snapshots"]] == [["pg"], ["cache", "pg"]]
    assert "kept for cache, pg" in snapshots_text(report)
