"""Published rates of failures in clusters, and the scenarios of benchmarks/scale.py that use them.

A replica is one GPU. Rates are an hour and replica; shares are of attempts.

    preemption   AWS Spot Instance Advisor sorts instance types into classes from under 5% to over 20% interrupted a month:
                 0.007% to 0.03% an hour. Google Compute Engine ends every preemptible VM within 24 hours: 4.2% an hour at
                 least, which is what the storm's 5% stands for.
    failure      Llama 3 (Dubey et al. 2024, table 5): 419 unexpected interruptions of 16,384 H100 in 54 days: 0.002%.
    stragglers   Dolly (Ananthanarayanan et al., NSDI 2013): stragglers take eight times as long as the median task of their
                 job, on average over Facebook's and Bing's clusters. Their share, one attempt in fifty, is a
                 pessimistic assumption. (Dean and Barroso, The Tail at Scale, 2013, show that it decides when a job ends.)
    hiccups      storage errors that outlived the replica's own retries: one attempt in 2,000, an assumption.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SPREAD = 0.15  # of the logarithm of a shard's time: shards are of about the same size, texts are not
STRAGGLING = 8.0  # times as long, on average; exponentially distributed
HOURS_A_MONTH = 365 * 24 / 12


@dataclass(frozen=True, slots=True)
class Weather:
    """The rates of a scenario, and the seconds from a replica's start to its first shard."""

    preempted: float = 0.0  # an hour and replica
    failed: float = 0.0  # likewise
    stragglers: float = 0.0  # share of attempts
    hiccups: float = 0.0  # likewise
    start_seconds: tuple[float, float] = (60.0, 180.0)  # a node, its image and the model

    def seconds(self, median: float, draw: random.Random) -> float:
        """The seconds of one attempt."""
        seconds = median * draw.lognormvariate(0.0, SPREAD)
        return seconds * (1 + draw.expovariate(1 / (STRAGGLING - 1))) if draw.random() < self.stragglers else seconds


_FAILED = 419 / (16_384 * 54 * 24)
SCENARIOS = {
    "quiet": Weather(),
    "published": Weather(preempted=0.2 / HOURS_A_MONTH, failed=_FAILED, stragglers=0.02, hiccups=0.0005),
    "storm": Weather(preempted=0.05, failed=_FAILED, stragglers=0.02, hiccups=0.0005),
}
