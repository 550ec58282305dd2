"""The encoder of a query: token ids in, vectors out, in NumPy and float32. It is called as encoder.py's Encoder is.

    hidden states of one sequence (forward.py) -> pool -> (Normalize) -> truncate_dim -> normalise

For BERT-like models whose sentence vectors need no trained module behind the transformer; `QueryEncoder.of` says why not for
others. Sequences are computed one by one, so it is for one query, not for many. It proves nothing of itself: the caller
compares it with the reference of the golden texts.

Shapes: N sequences, T tokens of one, I hidden size, D components of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from workers.config import LongText, Pooling
from workers.engine.bert.facts import FAMILIES, BertFacts, facts_of
from workers.engine.query.forward import WORDS, NumpyBert
from workers.engine.query.mapped import Floats, MappedTensors
from workers.model.files import ModelFiles
from workers.model.module_list import read_json
from workers.model.recipes.recipe import EmbeddingRecipe, output_dim
from workers.records.tokens import EncodedTexts, TokenizedTexts, unknown_ids

WAY = f"numpy {np.__version__}"
_LEAST_NORM = np.float32(1e-12)  # as torch's normalize


class QueryEncoder:
    """One model."""

    way = WAY

    def __init__(self, files: ModelFiles, recipe: EmbeddingRecipe, facts: BertFacts) -> None:
        """Map the weights. Raises: OSError, UsageError, KeyError, ValueError: they cannot be read here."""
        tensors = MappedTensors(files.folder / recipe.transformer, FAMILIES[facts.family][2])
        self._recipe, self._model, self._vocabulary = recipe, NumpyBert(tensors, facts), tensors.length(WORDS)
        last = f"{FAMILIES[facts.family][0]}.{facts.layers - 1}.{FAMILIES[facts.family][1]['output_norm']}.bias"
        self.dim = output_dim(recipe, len(tensors[last]))

    @staticmethod
    def of(files: ModelFiles, recipe: EmbeddingRecipe) -> QueryEncoder | str:
        """The encoder of this recipe; or why there is none."""
        facts = facts_of(read_json(files.folder / recipe.transformer / "config.json")) if recipe.static is None else None
        if facts is None:
            return "the model is not BERT-like"
        if recipe.long_text is not LongText.TRUNCATE or not set(recipe.pooling) <= _POOLINGS.keys():
            return f"pooling {recipe.pooling_name}, long_text {recipe.long_text}"
        if recipe.token_modules or any(module.kind != "Normalize" for module in recipe.vector_modules):
            return "it has trained modules behind the transformer"
        try:
            return QueryEncoder(files, recipe, facts)
        except (OSError, KeyError, ValueError) as error:
            return f"its weights are not read by NumPy ({type(error).__name__}: {error})"

    def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
        """Vectors [N, D]; NaN of a sequence that is empty or refused.

        Raises:
            KeyError, ValueError, IndexError: the checkpoint is not as its config.json says.
        """
        refused = unknown_ids(tokens, self._vocabulary)
        vectors_ND = np.full((len(tokens.lengths), self.dim), np.nan, np.float32)
        skip = 0 if self._recipe.include_prompt else tokens.prompt_tokens
        with threadpool_limits(1, "blas"):  # on products this small its threads wait for each other
            for row, ids_T in enumerate(np.split(tokens.input_ids, tokens.offsets[1:-1])):
                if len(ids_T) and row not in refused:
                    vectors_ND[row] = self._vector(self._model(ids_T, kept=4), min(skip, len(ids_T) - 1))
        return EncodedTexts(vectors_ND, None, len(tokens.input_ids), refused)

    def _vector(self, layers: list[Floats], first: int) -> Floats:
        """[D]. `first`: the first token that counts."""
        vector = np.concatenate([_POOLINGS[mode](layers, first) for mode in self._recipe.pooling])
        for _ in self._recipe.vector_modules:
            vector = _unit(vector)
        vector = vector[: self.dim]
        return _unit(vector) if self._recipe.normalize else vector


def _unit(vector: Floats) -> Floats:
    return vector / max(np.linalg.norm(vector), _LEAST_NORM)


def _root(tokens: int) -> np.float32:
    return np.float32(math.sqrt(tokens))


def _weighted_mean(layers: list[Floats], first: int) -> Floats:
    weights_T = np.arange(first + 1, len(layers[-1]) + 1, dtype=np.float32)
    return weights_T @ layers[-1][first:] / weights_T.sum()  # type: ignore[no-any-return]


# As in pooling.py, whose formulas these are; of the last layers' states [T, I], and the first token that counts.
_POOLINGS: dict[Pooling, Callable[[list[Floats], int], Floats]] = {
    Pooling.CLS: lambda layers, first: layers[-1][first],
    Pooling.MEAN: lambda layers, first: layers[-1][first:].mean(axis=0),
    Pooling.MAX: lambda layers, first: layers[-1][first:].max(axis=0),
    Pooling.MEAN_SQRT_LEN: lambda layers, first: layers[-1][first:].mean(axis=0) * _root(len(layers[-1]) - first),
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.LAST_TOKEN: lambda layers, _: layers[-1][-1],
    Pooling.LAST4_MEAN: lambda layers, first: np.mean([layer[first:].mean(axis=0) for layer in layers], axis=0),
    Pooling.LAST4_CONCAT: lambda layers, first: np.concatenate([layer[first:].mean(axis=0) for layer in reversed(layers)]),
}
