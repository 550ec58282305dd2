"""Queries that are not embedded as documents are: the models whose files say so, and what embeds them.

special_queries   a Router's own route for queries (static_query.py), or expansion with mask tokens
                  (engine/retrieval/expanded_query.py); None: queries are embedded by the encoder, as documents are

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from workers.errors import UsageError
from workers.model.files import ModelFiles
from workers.model.layouts.late_interaction import LateInteraction
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.model.tokenizer import TextTokenizer
from workers.replica.static_query import StaticQueries
from workers.table.vectors import Floats

_MASKS = ("[MASK]", "<mask>")


class Queries(Protocol):
    """What embeds queries."""

    def embed(self, texts: Sequence[str]) -> list[Floats]: ...


def special_queries(files: ModelFiles, recipe: EmbeddingRecipe) -> Queries | None:
    """`recipe`: of queries, prompt and longest query included. Raises: UsageError: they cannot be embedded here."""
    static = StaticQueries.of_model(files.folder, recipe)
    late = recipe.late_interaction
    if static is not None or late is None or late.expansion is None:
        return static
    return _Expanded(files, recipe, late)


def of_queries(recipe: EmbeddingRecipe) -> EmbeddingRecipe:
    """A recipe of documents as it is for queries: their prompt, their length, their tokens without a vector."""
    late = recipe.late_interaction
    longest = recipe.query_tokens or recipe.max_tokens
    if late is not None:
        late = replace(late, skip_documents=late.skip_queries)
        if late.expansion is not None:
            longest = late.expansion.length if late.expansion.fixed else max(longest, late.expansion.length)
    return replace(recipe, prompt=recipe.query_prompt, max_tokens=longest, late_interaction=late)


class _Expanded:
    """Tokenises queries and fills them up."""

    def __init__(self, files: ModelFiles, recipe: EmbeddingRecipe, late: LateInteraction) -> None:
        from workers.engine.retrieval.expanded_query import ExpandedQueries  # imports torch

        self._tokenizer = TextTokenizer(files.folder, recipe)
        tokens = _MASKS if late.expansion is None or late.expansion.token is None else (late.expansion.token,)
        known = (self._tokenizer.token_id(token) for token in tokens)
        filling = next((token for token in known if token is not None), None)
        if filling is None:
            raise UsageError(
                f"model.name={files.name}: queries are filled up with {' or '.join(tokens)}, which its tokenizer has not; "
                "name the token in query_expansion of sentence_bert_config.json"
            )
        skip = [self._tokenizer.token_id(word) for word in late.skip] if late.skip_documents else []
        ids = np.array([token for token in skip if token is not None], np.int32)
        self._encoder = ExpandedQueries(files, recipe, filling, ids)

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        """[Q, D] of each text."""
        tokens = self._tokenizer.tokenize(texts)
        return [self._encoder.encode(ids) for ids in np.split(tokens.input_ids, tokens.offsets[1:-1])]
