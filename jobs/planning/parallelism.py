"""How many replicas a cut keeps busy, and what in it leaves the others idle. Pure.

A replica embeds whole shards, so a run takes at least as long as its largest one: of W bytes of text in all and L in the
largest shard, more than W / L replicas do not end it sooner. A shard is that large where an object is not split: one row
group, an object compressed as a whole, a format that is read as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from jobs.planning.sharding import MIN_SHARD_BYTES
from workers.config import CorpusConfig
from workers.reading.formats.registry import format_of, traits_of
from workers.reading.formats.traits import Split
from workers.records.shard import ObjectSlice, Shard
from workers.storage.uris import redact

SHARDS_PER_REPLICA = 4  # in the advice: with so many, replicas end at about the same time
WORTH_CUTTING = 2 * MIN_SHARD_BYTES  # bytes of text; less makes one shard by default
LEAST_SHARD_BYTES = 1024  # that run.shard_bytes allows


@dataclass(frozen=True, slots=True)
class IdleReplicas:
    """Only `busy` replicas have work until the end. `cause` names the object or the cut, `mend` what to do."""

    busy: int
    cause: str
    mend: str


def idle_replicas(
    shards: Iterable[Shard], replicas: int, corpus: CorpusConfig, *, least_bytes: int = 0
) -> IdleReplicas | None:
    """What leaves some of that many replicas idle; None: nothing does.

    Args:
        shards: those to embed. They are passed over once.
        least_bytes: the largest shard must have so much text; a small corpus ends soon with any number of replicas.
    """
    count = total = 0
    largest: Shard | None = None
    for shard in shards:
        count, total = count + 1, total + shard.text_bytes
        if largest is None or shard.text_bytes > largest.text_bytes:
            largest = shard
    if largest is None or largest.text_bytes < least_bytes:
        return None
    busy = min(count, math.ceil(total / largest.text_bytes)) if largest.text_bytes else count
    if busy >= replicas:
        return None
    wanted = SHARDS_PER_REPLICA * replicas
    fewer = f"or set cluster.replicas={busy}"
    unsplit = _unsplit(largest.slices[0], corpus, wanted) if len(largest.slices) == 1 else None
    if unsplit is not None:
        what, mend = unsplit
        share = f"{largest.text_bytes / total:.0%} of the text to embed" if total else "all that is to embed"
        return IdleReplicas(busy, f"{redact(largest.slices[0].uri)}: {what} ({share})", f"{mend}, {fewer}")
    cause = f"the {total:,} bytes of text to embed are cut into {count:,} shards"
    smaller = max(LEAST_SHARD_BYTES, total // wanted)
    return IdleReplicas(busy, cause, f"set run.shard_bytes={smaller} for smaller ones, {fewer}")


def _unsplit(piece: ObjectSlice, corpus: CorpusConfig, wanted: int) -> tuple[str, str] | None:
    """Why this slice is not cut further, and what would change that; None: smaller shards would cut it.

    `wanted`: number of pieces, for the advice.
    """
    source_format, compression = format_of(piece.uri, corpus.source_format)
    traits = traits_of(source_format)
    split = traits.split(corpus)
    if split is Split.GROUPS:
        if piece.stop - piece.start > 1 or piece.rows is None:
            return None
        rows = max(1, piece.rows // wanted)
        return (
            f"{traits.group} {piece.start} has {piece.rows:,} rows, and a {traits.group} is not split",
            f"write it again with smaller ones, e.g. of {rows:,} rows",
        )
    if compression is not None:
        return f"is compressed as a whole ({compression}), and so is not split", "unpack it, or write several objects"
    if split is Split.NONE:
        return f"a {traits.title} object is not split", "write several objects"
    return None
