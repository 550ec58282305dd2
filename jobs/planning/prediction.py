"""Predicts the cost of a run that is about to begin, so that its report can compare it with the actual cost.

The estimate is that of `reembed plan`. It takes about a second, while the first replica loads its model. Writes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from jobs.planning.estimate import measured, sample_shards, to_embed
from jobs.planning.planned_run import PlannedRun
from workers.errors import ReembedError

log = logging.getLogger("reembed")

PREDICTION_SECONDS = 1.0  # no further shard is sampled after this time


def predict(run: PlannedRun) -> dict[str, Any]:
    """`tokens` of `text_bytes`, `replica_hours`, `cost_usd`, each None if not known; {} if the estimate failed.

    Only shards that will be embedded are sampled; carried shards are not opened.
    """
    shards = [shard for shard in run.shards if shard.carried is None]
    try:
        sample = sample_shards(run, shards, PREDICTION_SECONDS)
        rate, _ = measured(run.store)
    except ReembedError as error:  # the run itself will fail with the same error and its advice
        log.warning("nothing predicted: %s", error)
        return {}
    work = to_embed(shards, sample, run.request.kept_share)
    hours = work.tokens / rate / 3600 if rate else None
    price = run.config.cost.gpu_hour_usd
    return {
        "tokens": work.tokens,
        "text_bytes": work.text_bytes,
        "replica_hours": round(hours, 4) if hours is not None else None,
        "cost_usd": round(hours * price, 4) if hours is not None and price is not None else None,
        "tokens_per_second_per_replica": round(rate, 1) if rate else None,
        "sampled_documents": sample.documents,
    }
