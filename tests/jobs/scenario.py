"""What goes wrong in one run of the virtual cluster, and how to draw such runs at random."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

POISON, BROKEN, HUNG, CORRUPT, FLAKY, HEALTHY = "kills", "broken", "hung", "corrupt", "flaky", "healthy"
LOST_CAUSES = (POISON, BROKEN, HUNG)  # shards that can never be done


@dataclass
class Scenario:
    """What goes wrong; rates are probabilities, seconds are virtual."""

    seed: int = 0
    shards: int = 100
    replicas: int = 10
    bad_shards: float = 0.0  # share of shards with a trait other than HEALTHY
    failed_starts: float = 0.0  # per start
    never_ready: float = 0.0  # per start
    preempted: float = 0.0  # per start: the node goes away at some time
    device_faults: float = 0.0  # per attempt: the replica blames itself
    zombies: float = 0.0  # per stop: the process goes on and reports
    resizes: int = 0


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    rate = st.sampled_from([0.0, 0.0, 0.05, 0.3])
    return Scenario(
        seed=draw(st.integers(0, 1 << 32)),
        shards=draw(st.integers(0, 80)),
        replicas=draw(st.integers(1, 30)),
        bad_shards=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        failed_starts=draw(rate),
        never_ready=draw(rate),
        preempted=draw(rate),
        device_faults=draw(st.sampled_from([0.0, 0.0, 0.02])),
        zombies=draw(st.sampled_from([0.0, 0.5, 1.0])),
        resizes=draw(st.integers(0, 3)),
    )
