"""`reembed rollback`: back and forth in one step; a reader in a loop sees one snapshot or the other, whole."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands.rollback import roll_back, rollback_text
from jobs.driver.lock import DriverLock
from jobs.state.current import read_current, why_not_again
from jobs.state.records import read_summary, write_summary
from tests.jobs.snapshot_samples import Killed, Mortal, current, everything, make_run, read_rows, run_id
from workers.errors import LockHeld, UsageError
from workers.storage.store import Store
from workers.table.paths import RunPaths

READS = {True: 1000, False: 200}  # local; a request to the S3 server of the tests takes ten times as long


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}", {})
    return Store(str(tmp_path / "out"), {})


@pytest.mark.slow
def test_back_and_forth(store: Store) -> None:
    make_run(store, 1, "one", shards=3)
    first = current(store)
    make_run(store, 2, "two")
    second = current(store)
    assert [item["run_id"] for item in second["history"]] == [run_id(1)]

    back = roll_back(store.uri, run_id(1))
    assert (back["run_id"], back["left"], back["changed"], back["rows"]) == (run_id(1), run_id(2), True, 30)
    now = current(store)
    assert now["taken_back"] == [run_id(2)] == back["taken_back"]
    assert now["forced"] is None
    changing = ("published_at", "history", "taken_back", "reembed")
    assert {key: now[key] for key in now if key not in changing} == {key: first[key] for key in first if key not in changing}
    assert read_rows(store)[:2] == (run_id(1), {"one"})
    assert why_not_again(store, run_id(1)) is None
    assert f"rollback {store.uri} {run_id(2)}" in (why_not_again(store, run_id(2)) or "")
    assert f"{run_id(2)} is kept" in rollback_text(back)

    before = everything(store)
    again = roll_back(store.uri, run_id(1))
    assert again["changed"] is False
    assert "nothing was changed" in rollback_text(again)
    assert everything(store) == before

    forth = roll_back(store.uri, run_id(2))
    assert (forth["left"], forth["taken_back"]) == (run_id(1), []), "the later one is back: nothing is taken back any more"
    times = ("published_at", "history")
    now = current(store)
    assert {key: now[key] for key in now if key not in times} == {key: second[key] for key in second if key not in times}
    assert [item["run_id"] for item in now["history"]] == [run_id(1)]


def test_what_is_left_by_hand_stays_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    for day in (1, 2, 3):
        make_run(store, day)
    moves = [
        (2, [3]), (1, [3, 2]), (3, [2]), (2, [3]), (3, []), (1, [3]), (2, [3, 1]),
    ]  # fmt: skip
    for day, taken in moves:
        assert roll_back(store.uri, run_id(day))["taken_back"] == [run_id(number) for number in taken], (day, taken)
    make_run(store, 4)
    assert current(store)["taken_back"] == [run_id(3), run_id(1)], "a new snapshot forgives nothing"


def test_the_facts_are_those_of_the_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1, "one")
    make_run(store, 2, "two", shards=4)
    roll_back(store.uri, run_id(1))
    told = read_current(store)
    assert told is not None
    assert told.facts["model"]["name"] == "one"
    assert (told.facts["fingerprint"], told.facts["source_fingerprint"]) == ("f-one", "source 1")
    assert (told.facts["documents"], told.facts["int8_scale"], told.facts["code_version"]) == (20, 0.01, "0.1")
    assert told.data_path == f"data/{run_id(1)}"


def test_a_summary_that_embed_had_refused_again_is_mended(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1)
    make_run(store, 2)
    roll_back(store.uri, run_id(1))
    summary = read_summary(store, run_id(2)) or {}
    write_summary(store, run_id(2), summary | {"state": "refused", "published": False, "reasons": ["taken back"]})
    roll_back(store.uri, run_id(2))
    assert read_summary(store, run_id(2)) == summary


@pytest.mark.parametrize("case", ["unknown", "refused", "unfinished", "deleted", "receipt", "part", "size", "manifest"])
def test_refused_without_a_change(tmp_path: Path, case: str) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1)
    make_run(store, 2)
    target, named = run_id(1), run_id(1)
    paths = RunPaths(target)
    part = f"data/{target}/lang=de/part-0000001.parquet"
    if case == "unknown":
        target, named = "20200101T000000Z-00000000", f"known: {run_id(2)}, {run_id(1)}"
    elif case in ("refused", "unfinished"):
        target = make_run(store, 3, state="refused" if case == "refused" else "running", done=1)
        named = "publish --force"
    elif case == "deleted":
        store.delete(paths.record)
        named = f"known: {run_id(2)};"
    elif case == "receipt":
        store.delete(f"{paths.receipts}/00000/0000001.json")
        named = "shard 1 has neither receipt nor quarantine"
    elif case == "manifest":
        store.delete(paths.manifest)
        named = "its manifest is gone"
    else:
        store.delete(part)
        if case == "size":
            store.put(part, b"short")
        named = "part-0000001.parquet: missing or altered"
    before = everything(store)
    with pytest.raises(UsageError, match=named.replace(".", r"\.")) as refused:
        roll_back(store.uri, target)
    assert "\n" not in str(refused.value)
    assert everything(store) == before


def test_quarantined_shards_do_not_hinder(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1, shards=3, lost=[1])
    make_run(store, 2)
    assert roll_back(store.uri, run_id(1))["rows"] == 20


def test_a_lost_current_is_restored(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1)
    make_run(store, 2)
    store.delete("CURRENT.json")
    assert roll_back(store.uri, run_id(2))["left"] is None
    assert read_rows(store)[0] == run_id(2)


def test_while_a_driver_works_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1)
    make_run(store, 2)
    with DriverLock(store):
        before = everything(store)
        with pytest.raises(LockHeld, match="works on this output"):
            roll_back(store.uri, run_id(1))
        with pytest.raises(SystemExit) as stopped:
            main(["rollback", store.uri, run_id(1), "--json"])
        assert stopped.value.code == 4
        assert everything(store) == before
    assert json.loads(capsys.readouterr().out)["exit_status"] == 4


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_current_is_one_or_the_other(tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1)
    make_run(store, 2)
    roll_back(store.uri, run_id(1))
    write_summary(store, run_id(2), (read_summary(store, run_id(2)) or {}) | {"state": "refused", "published": False})
    store.put(f"data/{run_id(2)}/orphan.parquet", b"left behind")
    expected = None
    for survive in range(20):
        mortal = Mortal(tmp_path, survive, after=after)
        mortal.armed = True
        monkeypatch.setattr("jobs.commands.rollback.open_store", lambda _, mortal=mortal: (mortal, None))
        try:
            roll_back(store.uri, run_id(2))
        except Killed:
            assert current(store)["run_id"] in (run_id(1), run_id(2))
            continue
        expected = current(store)
        break
    assert expected is not None, "never got through"
    assert survive >= 2
    assert (expected["run_id"], expected["taken_back"]) == (run_id(2), [])
    summary = read_summary(store, run_id(2)) or {}
    assert (summary["state"], summary["published"]) == ("complete", True)


@pytest.mark.slow
def test_a_reader_in_a_loop_sees_neither_mixture_nor_hole(store: Store) -> None:
    make_run(store, 1, "one", shards=2)
    make_run(store, 2, "two", shards=3)
    whole = {run_id(1): {f"{shard}-{row}" for shard in range(2) for row in range(10)},
             run_id(2): {f"{shard}-{row}" for shard in range(3) for row in range(10)}}  # fmt: skip
    over, flips, seen, wrong = threading.Event(), 0, set[str](), list[object]()
    reads = READS["://" not in store.uri]

    def read() -> None:
        try:
            for _ in range(reads):
                run, models, ids = read_rows(store)
                seen.add(run)
                if models != {"one" if run == run_id(1) else "two"} or len(ids) != len(whole[run]) or set(ids) != whole[run]:
                    wrong.append((run, models, len(ids)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the reader met it
            wrong.append(error)
        finally:
            over.set()

    reader = threading.Thread(target=read)
    reader.start()
    while not over.is_set():
        roll_back(store.uri, run_id(1 + flips % 2))
        flips += 1
    reader.join()
    print(f"{reads} reads, {flips} flips")
    assert wrong == []
    assert seen == {run_id(1), run_id(2)}
    assert flips >= 3
