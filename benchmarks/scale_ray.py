"""The cost of Ray itself for the driver, which the simulation leaves out: polling many calls in flight, and short calls.

A few actors on a real local Ray hold as many calls as a large pool of replicas; then some of them end, one after another.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

ACTORS = 4
ENDED = 200


def waiting(counts: list[int]) -> dict[str, Any]:
    """For each number of calls in flight: CPU and wall time of one poll of all of them, and of one short call."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=ACTORS, include_dashboard=False, log_to_driver=False, logging_level=40)
    try:
        return {str(count): _measured(ray, count) for count in counts}
    finally:
        ray.shutdown()


def _measured(ray: Any, count: int) -> dict[str, Any]:
    @ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=count)
    class Holder:
        """An actor that holds calls until it is released."""

        def __init__(self) -> None:
            self.held = asyncio.Event()

        async def hold(self) -> None:
            await self.held.wait()

        async def tell(self) -> int:
            return 1

    actors = [Holder.remote() for _ in range(ACTORS)]
    ray.get([actor.tell.remote() for actor in actors])
    held = [actors[number % ACTORS].hold.remote() for number in range(count)]
    time.sleep(0.5)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(ENDED):
        refs = [*held, actors[0].tell.remote()]
        done, _ = ray.wait(refs, num_returns=1, timeout=10, fetch_local=True)
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        ray.get(done)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    short = time.process_time()
    ray.get([actors[number % ACTORS].tell.remote() for number in range(10 * ENDED)])
    short = time.process_time() - short
    for actor in actors:
        ray.kill(actor, no_restart=True)
    return {
        "looks": ENDED,
        "cpu_ms_a_look": round(cpu / ENDED * 1e3, 3),
        "wall_ms_a_look": round(wall / ENDED * 1e3, 3),
        "cpu_us_a_call": round(short / (10 * ENDED) * 1e6, 1),
    }
