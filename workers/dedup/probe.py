"""Does this device still give the vectors that an earlier snapshot holds? A few reused texts are embedded again to see.

    tokens + vectors of the probes, as computed now     against     their rows on the shelf     -> the smallest cosine

Where nearly everything is reused, little else would tell of a device that computes wrongly. Only the comparison is kept:
what is written stays what was stored. int8 is compared times its scale, binary by the signs, float16 widened; of chunks
and tokens the worst vector counts. Pure.
"""

from __future__ import annotations

import numpy as np

from workers.dedup.deduplicator import Placement
from workers.dedup.vector_cache import ShelfRows
from workers.records.tokens import EncodedTexts, TokenizedTexts, ranges, text_of_vectors
from workers.table.schema import EMBEDDING, OutputSchema
from workers.table.vectors import as_float32, cosines_to_stored, vectors_per_row


def probe_cosine(
    placement: Placement, tokens: TokenizedTexts, encoded: EncodedTexts, stored: ShelfRows, schema: OutputSchema
) -> float:
    """The smallest cosine between the stored and the fresh vectors of placement.probes, of which there is at least one.

    -1 where a text has another number of vectors than it had, or a fresh one is not finite.
    """
    stamp, probes = schema.stamp, placement.probes
    counts_P = placement.count_D[probes]
    column = stored.take(ranges(placement.row_D[probes], counts_P)).column(EMBEDDING)
    stored_VD = as_float32(column, stamp.vector, stamp.int8_scale)
    probe_V = np.repeat(np.repeat(np.arange(len(probes)), counts_P), vectors_per_row(column))
    text_V = text_of_vectors(tokens, encoded, schema.chunked)
    worst = 1.0
    for number in range(len(probes)):
        before, now = stored_VD[probe_V == number], encoded.vectors[text_V == len(placement.new) + number]
        same = before.shape == now.shape
        worst = min(worst, float(cosines_to_stored(before, now, stamp.vector).min(initial=1.0)) if same else -1.0)
    return worst
