"""Queries of late-interaction models that are filled up with mask tokens, whose vectors count as the others do.

In ColBERT (arXiv:2004.12832) a query of fewer tokens than the model's query length is padded with [MASK]. The masks see the
query's tokens; these see the masks only if the model was trained so (`attend`). No packed batch can tell such tokens apart,
so a query goes through transformers' own model, in float32 on the CPU, as sentence-transformers runs it.

Shapes: Q tokens of the expanded query, D components.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from workers.engine.checkpoint import load_transformer
from workers.engine.heads import Heads
from workers.errors import UsageError
from workers.model.files import PROJECTION, ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe


class ExpandedQueries:
    """One model.

    Args:
        filling: the token that queries are filled up with.
        skip: tokens whose vectors are dropped.
    """

    def __init__(self, files: ModelFiles, recipe: EmbeddingRecipe, filling: int, skip: NDArray[np.int32]) -> None:
        """Raises: UsageError: the weights cannot be loaded, or the recipe expands no queries."""
        if recipe.late_interaction is None or recipe.late_interaction.expansion is None:
            raise UsageError(f"model.name={files.name}: expands no queries")
        self._expansion, self._filling, self._skip = recipe.late_interaction.expansion, filling, skip
        self._normalize, self._dim = recipe.normalize, recipe.truncate_dim
        self._model = load_transformer(
            files.folder / recipe.transformer, files.name, dtype="float32", with_pooler=False, beside=(PROJECTION,)
        )
        self._heads = Heads(files.folder, recipe.token_modules, torch.device("cpu"), by_token=True)

    @torch.inference_mode()
    def encode(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """[Q, D] of a tokenised query, special tokens included."""
        length = max(len(ids), self._expansion.length)
        filled = np.full(length, self._filling, np.int64)
        filled[: len(ids)] = ids
        seen = torch.ones(1, length, dtype=torch.int64)
        if not self._expansion.attend:
            seen[0, len(ids) :] = 0
        states = self._model(input_ids=torch.from_numpy(filled)[None], attention_mask=seen).last_hidden_state[0]
        vectors = self._heads.on_tokens(states, np.array([length]))[~torch.from_numpy(np.isin(filled, self._skip))]
        vectors = vectors[:, : self._dim] if self._dim is not None else vectors
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        found: NDArray[np.float32] = vectors.contiguous().numpy()
        return found
