"""What a run that is about to begin will take: kept with the run, for its report to compare with what it took.

As `reembed plan` estimates it, in the second that the first replica takes longer to load anyway. Writes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from jobs.planning.estimate import measured, sample_shards, to_embed
from jobs.planning.planned_run import PlannedRun
from workers.errors import ReembedError

log = logging.getLogger("reembed")

PREDICTION_SECONDS = 1.0  # no further shard is sampled after so long


def predict(run: PlannedRun) -> dict[str, Any]:
    """`tokens`, `replica_hours`, `cost_usd`, None where not known; {} when nothing can be told.

    From shards that will be read anyway: of one that is carried over nothing is opened.
    """
    shards = [shard for shard in run.shards if shard.carried is None]
    try:
        sample = sample_shards(run, shards, PREDICTION_SECONDS)
        rate, _ = measured(run.store)
    except ReembedError as error:  # the run itself will meet it, and say what to do
        log.warning("nothing predicted: %s", error)
        return {}
    tokens = to_embed(shards, sample).tokens
    hours = tokens / rate / 3600 if rate else None
    price = run.config.cost.gpu_hour_usd
    return {
        "tokens": tokens,
        "replica_hours": round(hours, 4) if hours is not None else None,
        "cost_usd": round(hours * price, 4) if hours is not None and price is not None else None,
        "tokens_per_second_per_replica": round(rate, 1) if rate else None,
        "sampled_documents": sample.documents,
    }
