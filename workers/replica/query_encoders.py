"""Encoders for queries: they wait for nothing but this, so what an earlier process has found out is kept on this machine.

    load_query_encoder   NumPy's for a process that embeds one query, where it is proved; else the one of documents

NumPy (workers/engine/query) is there at once, where importing torch takes seconds. It is held to what every way of torch is
held to: the reference of the golden texts, in float32. Without a kept reference torch embeds the query, and keeps one. All
golden texts are compared once on a machine, the shortest one at every start.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from workers.config import Auto, Precision
from workers.engine.precision import SAME, difference
from workers.engine.query.encoder import QueryEncoder
from workers.errors import UsageError
from workers.model.files import ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.tokens import TokenizedTexts, of_documents
from workers.replica.golden_reference import cached_reference, keep_ways, kept_reference, known_ways

if TYPE_CHECKING:
    from workers.replica.encoders import AnyEncoder

    AnyQueryEncoder = AnyEncoder | QueryEncoder
_log = logging.getLogger(__name__)


def load_query_encoder(
    files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, precision: Precision, batch_tokens: int | Auto, *,
    single: bool,
) -> AnyQueryEncoder:  # fmt: skip
    """The encoder of queries, loaded.

    Args:
        recipe: of queries. golden: model.golden.GOLDEN_TEXTS, tokenised so.
        precision: of the snapshot. Where this device does not have it, queries are embedded more exactly.
        single: one query alone will be embedded: in float32 where the model is BERT-like, by NumPy or torch.

    Raises: UsageError, ReplicaError: as load_encoder().
    """
    found = QueryEncoder.of(files, recipe) if single else ""
    if isinstance(found, QueryEncoder):
        if _proved(found, files, recipe, golden):
            return found
        precision = Precision.FLOAT32
    elif found:
        _log.info("the query is embedded by torch: %s", found)
    return _by_torch(files, recipe, golden, precision, batch_tokens)


def _proved(encoder: QueryEncoder, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts) -> bool:
    """Whether the encoder gives the kept reference of the golden texts."""
    reference = cached_reference(files, recipe)
    if reference is None:
        _log.info("the query is embedded by torch: no reference of the golden texts is kept on this machine")
        return False
    known = encoder.way in known_ways(files, recipe, encoder.way)
    try:
        if known:
            shortest = np.argmin(golden.lengths, keepdims=True)
            golden, reference = of_documents(golden, shortest), reference[shortest]
        apart = difference(encoder.encode(golden).vectors, reference)
    except (KeyError, ValueError, IndexError) as error:
        _log.info("the query is embedded by torch: its weights are not read by NumPy (%s: %s)", type(error).__name__, error)
        return False
    if apart > SAME:
        _log.info("the query is embedded by torch: %s differs by %.1e from the reference", encoder.way, apart)
        return False
    if not known:
        keep_ways(files, recipe, [encoder.way], encoder.way)
    return True


def _by_torch(
    files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, precision: Precision, batch_tokens: int | Auto
) -> AnyEncoder:
    from workers.engine.encoder import EncoderOptions
    from workers.replica.encoders import load_encoder

    known = known_ways(files, recipe)
    try:
        options = EncoderOptions(
            precision, batch_tokens, reference=lambda: kept_reference(files, recipe, golden), known=known
        )
        encoder = load_encoder(files, recipe, golden, options)
    except UsageError as error:
        if precision not in (Precision.INT8, Precision.FLOAT8):
            raise
        _log.warning("queries are embedded in this device's own precision: %s", error)
        return _by_torch(files, recipe, golden, Precision.AUTO, batch_tokens)
    if recipe.static is None and encoder.reproducing != known:
        keep_ways(files, recipe, encoder.reproducing)
    return encoder
