"""`reembed publish`: what the gate refused, a person may publish, and it is on record who did."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands.publish import publish_run, publish_text
from jobs.commands.rollback import roll_back
from jobs.state.current import published_by_hand, why_not_again
from jobs.state.records import read_summary
from tests.jobs.snapshot_samples import Killed, Mortal, current, everything, make_run, read_rows, run_id
from workers.errors import UsageError
from workers.storage.store import Store
from workers.table.paths import RunPaths

REASONS = ["golden texts: least cosine 0.11, allowed 0.998", "rows: 20 instead of 200"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "out"), {})
    make_run(store, 1, "one")
    make_run(store, 2, "two", state="refused", reasons=REASONS)
    return store


def test_without_force_it_lists_what_failed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(store)
    report = publish_run(store.uri, run_id(2), force=False)
    assert (report["published"], report["reasons"]) == (False, REASONS)
    assert all(reason in publish_text(report) for reason in REASONS)
    with pytest.raises(SystemExit) as ended:
        main(["publish", store.uri, run_id(2), "--json"])
    assert ended.value.code == 3
    assert json.loads(capsys.readouterr().out)["reasons"] == REASONS
    assert everything(store) == before


def test_with_force_it_publishes_and_says_who(store: Store) -> None:
    store.put(f"data/{run_id(2)}/lang=de/part-0000001.parquet.tmp", b"left by an attempt that died")
    report = publish_run(store.uri, run_id(2), force=True)
    assert report["published"]
    assert report["changed"]
    told = current(store)
    assert told["run_id"] == run_id(2)
    assert told["forced"]["by"] == f"{getpass.getuser()}@{socket.gethostname()}"
    assert told["forced"]["reasons"] == REASONS
    assert told["forced"]["at"] >= told["history"][0]["published_at"]
    assert told["model"]["name"] == "two"
    assert told["taken_back"] == [], "the snapshot before it was good"
    assert read_rows(store)[1] == {"two"}
    assert len(read_rows(store)[2]) == 20
    summary = read_summary(store, run_id(2)) or {}
    assert (summary["state"], summary["published"], summary["reasons"]) == ("complete", True, [])
    assert summary["forced"] == told["forced"]

    before = everything(store)
    again = publish_run(store.uri, run_id(2), force=True)
    assert (again["published"], again["changed"]) == (True, False)
    assert publish_run(store.uri, run_id(2), force=False)["published"]
    assert everything(store) == before

    roll_back(store.uri, run_id(1))
    assert current(store)["forced"] is None
    assert current(store)["taken_back"] == [run_id(2)]
    roll_back(store.uri, run_id(2))
    assert current(store)["forced"] == told["forced"], "what was forced stays on record"


def test_a_run_that_was_taken_back(store: Store) -> None:
    make_run(store, 3, "three")
    roll_back(store.uri, run_id(1))
    assert publish_run(store.uri, run_id(3), force=False)["reasons"] == ["taken back by `reembed rollback`"]
    publish_run(store.uri, run_id(3), force=True)
    told = current(store)
    assert (told["run_id"], told["taken_back"]) == (run_id(3), [])
    assert told["forced"]["reasons"] == ["taken back by `reembed rollback`"]
    assert why_not_again(store, run_id(3)) is None


def test_forcing_an_older_run_takes_the_present_one_back(store: Store) -> None:
    make_run(store, 3)
    publish_run(store.uri, run_id(2), force=True)
    assert current(store)["taken_back"] == [run_id(3)]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", ["unknown", "unfinished", "half", "published before", "rows", "receipts"])
def test_what_cannot_be_published_even_by_force(store: Store, force: bool, case: str) -> None:
    target = run_id(3)
    if case == "unknown":
        target, named = run_id(4), f"known: {run_id(1)}, {run_id(2)}"
    elif case == "unfinished":
        make_run(store, 3, state="running")
        named = "was not finished"
    elif case == "half":
        make_run(store, 3, state="refused", done=1, reasons=REASONS)
        named = "shard 1 has neither receipt nor quarantine"
    elif case == "published before":
        target, named = run_id(1), "use `reembed rollback`"
        make_run(store, 3)
    else:
        make_run(store, 3, state="refused", reasons=REASONS)
        path = f"{RunPaths(target).receipts}/00000/0000001.json"
        receipt = json.loads(store.read(path))
        if case == "rows":
            store.put(path, json.dumps(receipt | {"rows_read": 9}).encode())
            named = "the manifest has 10 rows, 9 were read"
        else:
            store.put(f"{RunPaths(target).receipts}/00000/0000007.json", json.dumps(receipt | {"shard": 7}).encode())
            named = r"receipts of shards \[7\] are not of this manifest"
    before = everything(store)
    with pytest.raises(UsageError, match=named) as refused:
        publish_run(store.uri, target, force=force)
    assert "\n" not in str(refused.value)
    assert everything(store) == before


def test_shards_given_up_are_accounted_for(store: Store) -> None:
    make_run(store, 3, shards=3, lost=[1], state="refused", reasons=["10 rows are quarantined"])
    assert publish_run(store.uri, run_id(3), force=True)["published"]
    assert current(store)["rows"] == 20


def test_a_missing_part_is_named_and_nothing_is_changed(store: Store) -> None:
    store.delete(f"data/{run_id(2)}/lang=de/part-0000001.parquet")
    before = everything(store)
    with pytest.raises(UsageError, match=r"part-0000001\.parquet: missing or altered .* nothing was changed"):
        publish_run(store.uri, run_id(2), force=True)
    assert everything(store) == before


def test_killed_between_the_flip_and_the_summary(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """CURRENT.json tells; the same command again lets the summary say so as well."""
    for survive in range(20):
        mortal = Mortal(store.uri, survive, after=True)
        mortal.armed = True
        monkeypatch.setattr("jobs.commands.publish.open_store", lambda _, mortal=mortal: (mortal, None))
        with pytest.raises(Killed):
            publish_run(store.uri, run_id(2), force=True)
        if current(store)["run_id"] == run_id(2):
            break
    summary = read_summary(store, run_id(2)) or {}
    assert summary["published"] is False
    monkeypatch.undo()
    assert publish_run(store.uri, run_id(2), force=True)["published"]
    assert read_summary(store, run_id(2)) == summary | published_by_hand(current(store)["forced"])
