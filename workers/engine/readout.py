"""The readout: from the hidden states of a batch to its vectors, as the recipe says.

    (modules on tokens) -> pool in float32 -> (modules on vectors) -> truncate_dim -> normalise

With long_text=mean_of_chunks the last two come behind the mean. Sparse vectors have a head of their own in place of pooling.
Knows nothing of the device's memory or of how the model is run.

Shapes: B sequences of a batch, T tokens of a batch, H hidden size, D components of an output vector, D' of a vector before
truncate_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.config import BY_TOKEN, LongText
from workers.engine.cells import Cell, pooled_cells
from workers.engine.heads import Heads
from workers.engine.kernels.packing import PackedBatch, borders, inputs_of
from workers.engine.pooling import (
    KEPT_LAYERS,
    HiddenStates,
    finished,
    mean_of_chunks,
    needs_layers,
    needs_pooler,
    pool,
    pools_half,
)
from workers.engine.retrieval.sparse_head import SparseHead
from workers.engine.ways.interface import States
from workers.model.files import ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe, output_dim
from workers.records.tokens import TokenizedTexts


class Readout:
    """A recipe's readout, on one device.

    Args:
        hidden: the model's hidden size. layers: how many it has, if it says so.
    """

    def __init__(self, files: ModelFiles, recipe: EmbeddingRecipe, hidden: int, layers: int | None) -> None:
        """Load the modules around the model, to the CPU. Raises: UsageError: their files do not fit."""
        self._recipe, self._hidden, self._layers = recipe, hidden, layers
        self.dim = output_dim(recipe, hidden)
        self.by_token = recipe.pooling[0] in BY_TOKEN
        cpu = torch.device("cpu")
        self._token_heads = Heads(files.folder, recipe.token_modules, cpu, by_token=True)
        self._vector_heads = Heads(files.folder, recipe.vector_modules, cpu)
        sparse = recipe.sparse
        self._sparse = SparseHead(files.folder / recipe.transformer, files.name, sparse) if sparse is not None else None

    def to(self, device: torch.device) -> None:
        """Move the modules around the model to a device."""
        for heads in (self._token_heads, self._vector_heads):
            heads.to(device)
        if self._sparse is not None:
            self._sparse.to(device)

    @property
    def averages_chunks(self) -> bool:
        """Whether a document's vector is the mean of its sequences'."""
        return self._recipe.long_text is LongText.MEAN_OF_CHUNKS and not self.by_token

    def kept_layers(self, cells: Sequence[Cell]) -> int:
        """How many of the last layers' states are needed beside the last."""
        return (self._layers or 0) + 1 if cells else KEPT_LAYERS if needs_layers(self._recipe.pooling) else 0

    def width(self, cells: Sequence[Cell]) -> int:
        """Components that `vectors` has."""
        return min(self.dim, self._hidden) * len(cells) if cells else self.dim

    def vectors(
        self, states: States, tokens: TokenizedTexts, rows: NDArray[np.int64], batch: PackedBatch, cells: Sequence[Cell]
    ) -> Tensor:
        """Float32 vectors [B, D], of tokens [T, D], of cells side by side; [B, D'] if the mean of chunks comes before.

        `rows`: the sequences of `tokens` that the batch holds.
        """
        recipe = self._recipe
        half = not recipe.token_modules and pools_half(recipe.pooling, batch.device)
        last_TH = self._token_heads.on_tokens(states.last_TH if half else states.last_TH.float(), batch.lengths_B)
        if self.by_token:
            return self.finish(last_TH)
        if self._sparse is not None:
            return self._sparse.pooled(last_TH, batch.lengths_B)
        skip = 0 if recipe.include_prompt else tokens.prompt_tokens
        pooler_BH = states.pooler_BH.float() if needs_pooler(recipe.pooling) and states.pooler_BH is not None else None
        layers = tuple(layer.float() for layer in states.layers)
        hidden = HiddenStates(last_TH, *borders(tokens, rows, batch, skip), layers, pooler_BH, inputs_of(tokens, batch))
        if cells:
            return pooled_cells(states.layers, hidden, cells, self.finish)
        vectors = self._vector_heads.on_vectors(pool(hidden, recipe.pooling))
        return vectors if self.averages_chunks else self.finish(vectors)

    def mean_of_chunks(self, vectors_ND: NDArray[np.float32], tokens: TokenizedTexts) -> NDArray[np.float32]:
        """[documents, D] of the vectors [sequences, D'] of all chunks; where chunks are averaged."""
        return self.finish(mean_of_chunks(torch.from_numpy(vectors_ND), tokens)).numpy()

    def finish(self, vectors: Tensor) -> Tensor:
        """[..., D'] -> [..., D]: see pooling.finished."""
        return finished(vectors, self.dim, normalize=self._recipe.normalize)
