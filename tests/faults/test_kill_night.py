"""The second night killed at random moments, copying and publishing among them: the same snapshot in the end (C5).

Every moment starts from the first night's output. `REEMBED_NIGHT_KILLS=20` for as many as the acceptance asks for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.commands.verify import verify_snapshot
from tests.drivers import Driver, Leftovers, embed, receipts
from tests.local_replicas import local_embed
from tests.nights import first_night, to_second, write

SEED = 20261120
KILLS = int(os.environ.get("REEMBED_NIGHT_KILLS", "4"))

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900 + 60 * KILLS)]


@dataclass(frozen=True)
class Nights:
    """The second night's corpus, the output before it (`first`), and what an undisturbed second night makes of it."""

    config: Path
    output: Path
    first: Path
    first_run: str
    shards: int
    seconds: float
    rows: pa.Table


def everything(data: str) -> pa.Table:
    """All columns of all rows, by id."""
    return ds.dataset(data.removeprefix("file://")).to_table().sort_by("id")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    output, first = folder / "out", folder / "first"
    sections = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id", "keep": ["place"]},
        "model": {"name": str(small_model)},
        "output": {"uri": str(output), "keep_snapshots": 1},  # so that deleting is killed as well
        "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1, "gpus_per_replica": 0},
        "run": {"shard_bytes": 8192},
    }
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(sections))
    write(folder / "corpus", first_night())
    before = local_embed(config)
    assert before.rc == 0, before.log
    shutil.copytree(output, first)
    to_second(folder / "corpus")
    began = time.monotonic()
    ended = embed(config)
    seconds = time.monotonic() - began
    assert ended.rc == 0, ended.log
    assert ended.summary["reuse"]["carried_shards"] == 8
    rows, shards = everything(ended.summary["data"]), ended.summary["shards"]["planned"]
    return Nights(config, output, first, before.summary["run_id"], shards, seconds, rows)


def new_receipts(nights: Nights) -> int:
    return sum(f"/{nights.first_run}/" not in path for path in receipts(nights.output))


def moments(nights: Nights) -> list[tuple[str, Callable[[Driver], None]]]:
    """While it starts, at so many receipts (the first eight are copied), and once all are there: publishing, deleting."""
    chance = random.Random(SEED)

    def after(seconds: float) -> Callable[[Driver], None]:
        return lambda driver: time.sleep(seconds)

    def at(receipts: int, pause: float) -> Callable[[Driver], None]:
        def wait(driver: Driver) -> None:
            end = time.monotonic() + 60
            while driver.running and len(list((nights.output / "runs").iterdir())) < 2 and time.monotonic() < end:
                time.sleep(0.02)  # it starts
            while driver.running and new_receipts(nights) < receipts and time.monotonic() < end:
                time.sleep(0.002)
            time.sleep(pause)

        return wait

    found: list[tuple[str, Callable[[Driver], None]]] = []
    for turn in range(KILLS):
        kind = turn % 4
        if kind == 0:
            number, pause = chance.randint(1, 7), chance.uniform(0, 0.01)
            found.append((f"copying, {number} receipts", at(number, pause)))
        elif kind == 1:
            pause = chance.uniform(0, 0.5)
            found.append((f"all receipts and {pause:.2f} s", at(nights.shards, pause)))
        elif kind == 2:
            number = chance.randint(8, nights.shards - 1)
            found.append((f"embedding, {number} receipts", at(number, chance.uniform(0, 0.3))))
        else:
            pause = chance.uniform(0.2, nights.seconds)
            found.append((f"after {pause:.1f} s", after(pause)))
    return found


def current_is_whole(nights: Nights) -> str:
    """The run that readers see; all its rows are there."""
    current = json.loads((nights.output / "CURRENT.json").read_bytes())
    data = nights.output / current["data_path"]
    assert sum(pq.read_metadata(path).num_rows for path in data.rglob("*.parquet")) >= current["rows"]
    assert ds.dataset(data).to_table(columns=["id", "embedding"]).num_rows == current["rows"]
    return str(current["run_id"])


def test_a_night_killed_anywhere(nights: Nights, leftovers: Leftovers) -> None:
    seen: dict[str, int] = {"before": 0, "after": 0}
    for what, wait in moments(nights):
        shutil.rmtree(nights.output)
        shutil.copytree(nights.first, nights.output)
        with Driver(nights.config) as driver:
            wait(driver)
            late = not driver.running
            driver.kill()
            visible = current_is_whole(nights)
            assert leftovers.take(driver) == [], "a killed driver's Ray ends with it"
        seen["before" if visible == nights.first_run else "after"] += 1
        ended = local_embed(nights.config)
        print(f"seed {SEED}: {what}{' (it was over)' if late else ''}; readers had {visible}; then rc {ended.rc}")
        assert ended.rc == 0, ended.log
        assert everything(ended.summary["data"]).equals(nights.rows), what
        assert current_is_whole(nights) == ended.summary["run_id"] != nights.first_run
        assert verify_snapshot(str(nights.config), 0)["findings"] == []
    print(f"{KILLS} kills, readers had the first night's snapshot {seen['before']} times, the second's {seen['after']}")
    assert seen["before"] > 0
