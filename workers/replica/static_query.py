"""Queries of sparse encoders without a model: a weight for each token, whatever stands beside it (inference-free SPLADE).

A Router of sentence-transformers may send documents through a masked language model and queries through a
SparseStaticEmbedding: w_v is the stored weight of token v where the query has it, else 0. Special tokens are not added.
Only such routes of queries are supported beside those that are the documents' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from workers.errors import UsageError
from workers.model.module_list import query_route, read_json
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.table.sparse import dense_of
from workers.table.vectors import Floats

_KIND = "SparseStaticEmbedding"
_KNOWN = {"frozen"}


class StaticQueries:
    """Weights and tokenizer of the queries' route, below the model's folder."""

    def __init__(self, folder: Path, prompt: str, top: int | None) -> None:
        """Raises: UsageError: files are missing or damaged."""
        from transformers import AutoTokenizer  # slow to import, and needed for few models

        self._prompt, self._top = prompt, top
        if unknown := sorted(set(read_json(folder / "config.json")) - _KNOWN):
            raise UsageError(f"{folder / 'config.json'}: {unknown[0]}: is not supported; save the model's weights with it")
        try:
            self._weights = load_file(folder / "model.safetensors")["weight"].astype(np.float32)
        except (OSError, KeyError, SafetensorError) as error:
            raise UsageError(f"{folder / 'model.safetensors'}: holds no weight of tokens ({error}); fetch again") from None
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    @classmethod
    def of_model(cls, folder: Path, recipe: EmbeddingRecipe) -> StaticQueries | None:
        """Of the model in `folder`; None: its queries go through what its documents go through.

        `recipe`: of queries, with their prompt.

        Raises: UsageError: queries have modules of their own that are not supported.
        """
        route = query_route(folder)
        if route is None:
            return None
        if [module.kind for module in route] != [_KIND]:
            kinds = ", ".join(module.kind for module in route)
            raise UsageError(
                f"{folder}: its queries go through other modules than its documents ({kinds}), which search does not "
                f"support (supported: {_KIND}); search the snapshot with query vectors of your own"
            )
        if recipe.sparse is None:
            raise UsageError(f"{folder}: a {_KIND} for queries of dense vectors; use another model")
        found, dim = cls(folder / route[0].path, recipe.prompt, recipe.sparse.top), recipe.sparse.vocabulary
        if len(found._weights) != dim:
            raise UsageError(f"{folder}: {len(found._weights)} weights for queries, {dim} for documents; fetch it again")
        return found

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        """[1, dim] of each text."""
        from workers.engine.retrieval.sparse_head import kept  # imports torch

        found = []
        for text in texts:
            ids = self._tokenizer(self._prompt + text, truncation=True, add_special_tokens=False)["input_ids"]
            vector = np.zeros((1, len(self._weights)), np.float32)
            vector[0, ids] = self._weights[ids]
            most = kept(vector, self._top)
            found.append(dense_of(most.weights, most.indices, most.counts, vector.shape[1]))
        return found
