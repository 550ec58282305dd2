"""The memory growth of a bare Ray driver under the load of benchmarks/long_haul.py: the control for that driver's slope.

    python -m benchmarks.bare_ray [--minutes 40] [--kill-every 60] [--task-seconds 8] [--warm 600] [--out FILE]

The driver uses Ray Core and nothing of reembed. It has two actors, each with one task at a time that sleeps and returns as
many bytes as a receipt has. About once a minute one actor gets SIGKILL and another is started. The driver keeps no result,
so its growth is Ray's own, which reembed's driver shares.

Prints one JSON object. It needs almost no CPU time, and its memory does not depend on other load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.long_haul import REPLICAS
from benchmarks.machine import commit, hardware
from benchmarks.slopes import Life, pooled_slope
from benchmarks.under_fire import FIGURES, SAMPLE_SECONDS, measured, moments, say

ANSWER_BYTES = 920  # of a receipt as JSON
BLOCK_SECONDS = 60.0


class Sleeper:
    """An actor that reports its pid, and sleeps."""

    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> bytes:
        time.sleep(seconds)
        return b"x" * ANSWER_BYTES


def measure(minutes: float, kill_every: float, task_seconds: float, warm: float) -> dict[str, Any]:
    lives = {name: Life() for name in FIGURES}
    kills = tasks = 0
    plan = moments(random.Random(1), minutes, kill_every, 0)
    sleeper = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=1)(Sleeper)
    at_work: dict[Any, tuple[Any, int]] = {}  # the task -> its actor and that one's pid

    def start() -> None:
        actor = sleeper.remote()
        pid = ray.get(actor.pid.remote())
        at_work[actor.work.remote(task_seconds)] = actor, pid

    for _ in range(REPLICAS):
        start()
    began, sampled = time.monotonic(), -SAMPLE_SECONDS
    due, _ = next(plan)
    while (now := time.monotonic() - began) < minutes * 60:
        if now >= due:
            os.kill(list(at_work.values())[-1][1], signal.SIGKILL)
            kills += 1
            due, _ = next(plan)
        if now - sampled >= SAMPLE_SECONDS:
            sampled = now
            for name, value in (measured(os.getpid()) or {}).items():
                lives[name].add(now, value)
        done, _ = ray.wait(list(at_work), timeout=0.2)
        for task in done:
            actor, pid = at_work.pop(task)
            try:
                ray.get(task)
            except ray.exceptions.RayActorError:
                start()
            else:
                tasks += 1
                at_work[actor.work.remote(task_seconds)] = actor, pid
    return {
        "benchmark": "bare_ray", "hardware": hardware(), **commit(), "ray": ray.__version__, "minutes": minutes,
        "kills": kills, "tasks": tasks, "warm_seconds": warm, "block_seconds": BLOCK_SECONDS,
        "slopes_an_hour": {name: pooled_slope([life], BLOCK_SECONDS, warm).to_json() for name, life in lives.items()},
        "series": {name: life.blocks(BLOCK_SECONDS, 0.0)[1].round().tolist() for name, life in lives.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--kill-every", type=float, default=60, help="seconds between two kills, on average")
    parser.add_argument("--task-seconds", type=float, default=8, help="of one task: as long as a shard of the long haul")
    parser.add_argument("--warm", type=float, default=600, help="seconds that are left out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=REPLICAS, include_dashboard=False, log_to_driver=False)
    try:
        result = measure(options.minutes, options.kill_every, options.task_seconds, options.warm)
    finally:
        ray.shutdown()
    text = json.dumps(result, indent=1)
    print(text)
    say(json.dumps(result["slopes_an_hour"]["anonymous_bytes"]))
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
