"""The arithmetic behind benchmarks/long_haul.py: slopes whose intervals are honest, kills that a seed replays."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.long_haul import PAGE, block, machine_speed, speeds, with_slopes, write_corpus
from benchmarks.slopes import Life, pooled_slope, slope
from benchmarks.tables import RESULTS
from benchmarks.under_fire import measured, moments


def _life(rate: float, level: float, length: float, noise: float, chance: np.random.Generator, warming: float = 0.0) -> Life:
    """Samples every five seconds: `rate` an hour, noise that lasts for some of them, `warming` more after a minute."""
    life, drift = Life(), 0.0
    for second in np.arange(0.0, length, 5.0):
        drift = 0.8 * drift + chance.normal(0, noise)
        life.add(float(second), level + rate * second / 3600 + drift + warming * min(second, 60.0) / 60)
    return life


def test_a_slope_is_found_whatever_the_levels_and_the_warming() -> None:
    chance = np.random.default_rng(5)
    lives = [_life(12.0, level, length, 0.05, chance, 300.0) for level, length in ((900, 900), (100, 1500), (5000, 700))]
    found = pooled_slope(lives, 60.0, 120.0)
    assert found.low < 12.0 < found.high
    assert found.an_hour == pytest.approx(12.0, abs=1.5)
    assert (found.grows, found.lives) == (True, 3)
    warm = pooled_slope(lives, 60.0, 0.0)
    assert warm.an_hour > 100, "what a process does until it is warm would look like growth"


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Noise that lasts for some samples is why they are averaged over blocks first."""
    chance = np.random.default_rng(7)
    held = 0
    for _ in range(200):
        found = pooled_slope([_life(0.0, 500.0, 900.0, 1.0, chance) for _ in range(3)], 60.0, 120.0)
        held += found.low <= 0.0 <= found.high
    assert 170 <= held <= 200, held


def test_constant_figures_have_no_slope_and_short_lives_no_say() -> None:
    flat = Life([0.0, 60.0, 120.0, 180.0], [87.0] * 4)
    assert slope(flat.seconds, flat.values, 60.0).an_hour == 0
    assert not slope(flat.seconds, flat.values, 60.0).grows
    nothing = pooled_slope([Life([0.0], [1.0])], 60.0, 0.0)
    assert math.isnan(nothing.an_hour)
    assert nothing.to_json()["an_hour"] is None
    assert pooled_slope([flat, Life([0.0], [1e9])], 60.0, 0.0).lives == 1


def _within_the_hour(seed: int) -> list[tuple[float, str]]:
    return list(itertools.takewhile(lambda kill: kill[0] < 3600, moments(random.Random(seed), 60, 60, 3)))


def test_the_seed_replays_the_kills() -> None:
    one, other, unlike = (_within_the_hour(seed) for seed in (3, 3, 4))
    assert one == other != unlike
    assert [what for _, what in one].count("driver") == 3
    assert 45 <= len(one) <= 75
    assert all(before < after for (before, _), (after, _) in itertools.pairwise(one))


def test_a_process_is_measured() -> None:
    mine = measured(os.getpid())
    assert mine is not None
    assert mine["rss_bytes"] >= mine["pss_bytes"] > mine["anonymous_bytes"] / 2 > 1 << 20
    with Path("/dev/null").open() as _one, Path("/dev/null").open() as _other:
        more = measured(os.getpid())
    assert more is not None
    assert more["descriptors"] == mine["descriptors"] + 2
    assert measured(2**22 + 1) is None


def test_speeds_come_from_the_receipts(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r" / "receipts" / "0"
    folder.mkdir(parents=True)
    for second in range(601):
        tokens = 200 if second > 500 else 100
        (folder / f"{second:07d}.json").write_text(json.dumps({"ended": 1000.0 + second, "tokens": tokens}))
    found = speeds(tmp_path, 100.0)
    assert (found["first"], found["last"], found["last_over_first"]) == (100.0, 200.0, 2.0)
    assert found["by_minute"][0] == 100.0
    assert found["shards"] == 601


def test_the_machine_itself_may_have_changed() -> None:
    seconds = [5.0 * number for number in range(61)]
    found = machine_speed(Life(seconds, [2000.0 if second < 150 else 1500.0 for second in seconds]), 60.0)
    assert (found["first"], found["last"], found["last_over_first"]) == (2000.0, 1500.0, 0.75)
    assert found["by_minute"] == [2000.0, 2000.0, 1750.0, 1500.0, 1500.0, 1500.0]


def test_every_text_of_the_corpus_is_its_own(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", ["a", "b", "a"], 50, objects=4)
    lines = [json.loads(line) for path in sorted((tmp_path / "corpus").iterdir()) for line in path.read_text().splitlines()]
    assert len({line["text"] for line in lines}) == len({line["id"] for line in lines}) == 50


def test_the_page_says_what_was_recorded() -> None:
    [path] = RESULTS.glob("long_haul_*.json")
    result = json.loads(path.read_text())
    assert block(result, path.name) in PAGE.read_text()
    assert (result["lost_rows"], result["summary"]["quarantined_rows"]) == (0, 0)
    assert result["minutes"] >= 60
    [control] = RESULTS.glob("bare_ray_*.json")
    alone = json.loads(control.read_text())["slopes_an_hour"]["anonymous_bytes"]
    bare = {key: value / 2**20 for key, value in alone.items()}
    assert f"{bare['an_hour']:.1f} MiB an hour [{bare['low']:.1f}, {bare['high']:.1f}]" in PAGE.read_text()
    assert f"by {result['slopes_an_hour']['driver_anonymous_bytes']['an_hour'] / 2**20:.1f} MiB an hour" in PAGE.read_text()
    assert not any(found["grows"] for name, found in result["slopes_an_hour"].items() if "replica" in name)


def test_slopes_are_made_again_from_the_series() -> None:
    [path] = RESULTS.glob("long_haul_*.json")
    result = json.loads(path.read_text())
    assert with_slopes(result, result["warm_seconds"])["slopes_an_hour"] == result["slopes_an_hour"]
    sooner = with_slopes(result, 600.0)["slopes_an_hour"]
    assert sooner["replica_anonymous_bytes"]["blocks"] > result["slopes_an_hour"]["replica_anonymous_bytes"]["blocks"]
