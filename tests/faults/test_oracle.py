"""The oracle finds what it is there for: every damage that a run could do is done by hand to a good one's output.

Also: a script is a function of seed and number, and the proxy spoils what it says it spoils.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import EndpointConnectionError

from tests.drivers import Driver
from tests.faults.oracle import ORPHAN_BYTES, Verdict, Watch, judge
from tests.faults.scene import Place
from tests.faults.script import ALL_KINDS, ENDING, Kind, draw

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Damage = Callable[[Path, Path], None]  # the output's folder, and its first part


def _remove(output: Path, part: Path) -> None:
    part.unlink()


def _double(output: Path, part: Path) -> None:
    shutil.copy(part, part.with_name("part-0000999.parquet"))


def _turn_a_bit(output: Path, part: Path) -> None:
    table = pq.read_table(part, partitioning=None)
    column = table.column("embedding").combine_chunks()
    values = column.flatten().to_numpy().copy()
    values.view(np.uint32)[0] ^= 1
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), type=column.type)
    at = table.schema.get_field_index("embedding")
    pq.write_table(table.set_column(at, table.schema.field(at), vectors), part)


def _change_a_count(output: Path, part: Path) -> None:
    receipt = next(iter(sorted(output.rglob("receipts/*/*.json"))))
    told = json.loads(receipt.read_bytes())
    receipt.write_text(json.dumps(told | {"rows_read": told["rows_read"] + 1}))


def _begin_another_run(output: Path, part: Path) -> None:
    (output / "runs" / "20990101T000000Z-00000000").mkdir()
    (output / "runs" / "20990101T000000Z-00000000" / "run.json").write_text("{}")


def _leave_much(output: Path, part: Path) -> None:
    (output / "runs" / ".part.tmp").write_bytes(bytes(ORPHAN_BYTES + 1))


def copied(place: Place, run: str) -> tuple[Path, Path, dict[str, Any]]:
    """The undisturbed run's output under another name: its folder, a configuration, its summary."""
    place.calm(1)
    output = Path(place.output(run))
    shutil.copytree(place.output("calm-1"), output)
    current = json.loads((output / "CURRENT.json").read_bytes())
    summary = json.loads((output / "runs" / current["run_id"] / "summary.json").read_bytes())
    return output, place.configure(run), summary | {"data": str(output / current["data_path"])}


def verdict_on(place: Place, run: str, damage: Damage | None) -> Verdict:
    output, config, summary = copied(place, run)
    if damage:
        damage(output, sorted((output / "data").rglob("*.parquet"))[0])
    try:
        return judge(place, run, 1, config, summary, kills=1)
    finally:
        shutil.rmtree(output)


def test_nothing_is_found_where_nothing_is_wrong(local_place: Place) -> None:
    assert verdict_on(local_place, "whole", None) == Verdict()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove, "rows lost"),
        (_double, "doubled"),
        (_turn_a_bit, "column embedding differs"),
        (_change_a_count, "rows out or quarantined"),
        (_begin_another_run, "2 runs were begun where 1 should be"),
        (_leave_much, "leftovers of 1 kills"),
    ],
)
def test_a_damage_is_found(damage: Damage, words: str, local_place: Place) -> None:
    verdict = verdict_on(local_place, f"damaged{damage.__name__}", damage)
    assert any(words in finding for finding in verdict.findings), verdict
    assert (verdict.losses > 0) == (damage in (_remove, _turn_a_bit))
    assert (verdict.duplicates > 0) == (damage is _double)


def test_a_reader_sees_a_current_that_is_not_whole(local_place: Place) -> None:
    output, _, summary = copied(local_place, "watched")
    good = (output / "CURRENT.json").read_bytes()
    watch = Watch(local_place, "watched")
    watch.look()
    assert (watch.invalid, watch.seen) == ([], [summary["run_id"]])
    (output / "CURRENT.json").write_bytes(good[: len(good) // 2])
    watch.look()
    assert len(watch.invalid) == 1, "half a file"
    (output / "CURRENT.json").write_bytes(good + b" ")
    sorted((output / "data").rglob("*.parquet"))[0].unlink()
    watch.look()
    assert "rows are there, CURRENT.json says" in watch.invalid[1]
    (output / "CURRENT.json").unlink()
    watch.look()
    assert watch.invalid[2] == "CURRENT.json was there and is gone"
    shutil.rmtree(output)


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [(EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), True), (RuntimeError("a bug"), False)],
)
def test_a_reader_looks_on_while_the_store_is_away_and_says_when_it_does_not(
    error: Exception, goes_on: bool, local_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Semaphore(0)

    def away(_: str) -> bytes:
        asked.release()
        raise error

    watch = Watch(local_place, "away")
    monkeypatch.setattr(watch, "_fs", SimpleNamespace(cat_file=away))
    with watch:
        assert asked.acquire(timeout=10)
        assert asked.acquire(timeout=10 if goes_on else 0.2) is goes_on
    assert watch.broken == ([] if goes_on else ["RuntimeError('a bug')"])


def test_a_seed_says_the_same_again_and_everything_comes_up() -> None:
    scripts = [draw(7, number, 12, ["local", "s3"], ALL_KINDS) for number in range(300)]
    assert scripts == [draw(7, number, 12, ["local", "s3"], ALL_KINDS) for number in range(300)]
    assert scripts != [draw(8, number, 12, ["local", "s3"], ALL_KINDS) for number in range(300)]
    starts = [start for script in scripts for start in script.starts]
    kinds = {strike.kind for start in starts for strike in start.strikes}
    kinds |= {fault for start in starts for fault in start.wire or {}} | {Kind.CLOCK_OFF for start in starts if start.shift}
    assert kinds == set(ALL_KINDS)
    for start in starts:
        ending = [strike.kind in ENDING for strike in start.strikes]
        assert not any(ending[:-1]), "nothing can be done to a driver that has ended"
    for script in scripts:
        assert script.place == "s3" or not any(start.wire for start in script.starts)


@pytest.mark.parametrize(("at_start", "excused"), [("os.kill(os.getpid(), signal.SIGINT)", True), ("sys.exit(1)", False)])
def test_only_what_python_says_of_its_own_start_is_excused(at_start: str, excused: bool, tmp_path: Path) -> None:
    # a process started in the background by a shell ignores SIGINT, and so do its children
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal, sys\n{heard}\n{at_start}\n")
    with Driver(tmp_path / "none.yaml", env={"PYTHONPATH": str(tmp_path)}) as driver:
        ended = driver.end(30)
    assert ended.rc == 1
    assert ended.before_our_first_line is excused
