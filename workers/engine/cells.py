"""Several poolings of several layers from one forward pass: a grid of candidates, each a cell of (layer, pooling).

Layer 0 is what the embeddings give, layer L what the last of L layers gives, as transformers counts its hidden_states. A
cell equals what a model whose layers end there gives with that pooling. last4_mean takes the layer and the three below it.

Shapes: B sequences, T tokens of a batch, H hidden size, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from workers.config import BY_TOKEN, LongText, Pooling
from workers.engine.pooling import KEPT_LAYERS, HiddenStates, needs_layers, pool
from workers.errors import UsageError
from workers.model.recipes.recipe import EmbeddingRecipe

NOT_OF_A_LAYER = BY_TOKEN | {Pooling.SPARSE, Pooling.POOLER, Pooling.MEAN_LSTM, Pooling.LAST4_CONCAT}


class Cell(NamedTuple):
    """Hidden states after `layer` layers, pooled by `pooling`."""

    layer: int
    pooling: Pooling

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.pooling.value}"


def require_cells(cells: Sequence[Cell], recipe: EmbeddingRecipe, layers: int | None) -> None:
    """`layers`: of the model. Raises: UsageError: a cell that the model does not have, or a model that has none."""
    if layers is None:
        raise UsageError("candidates.layers: the model's configuration does not say how many layers it has; leave it out")
    if recipe.token_modules or recipe.vector_modules:
        raise UsageError("candidates.layers: the model has modules that were trained behind its last layer; leave it out")
    if recipe.long_text is not LongText.TRUNCATE:
        raise UsageError("candidates.layers: layers are compared with model.long_text: truncate")
    for cell in cells:
        if not 0 <= cell.layer <= layers:
            raise UsageError(f"candidates.layers: {cell.layer}, and the model has layers 0 (its embeddings) to {layers}")
        if cell.pooling in NOT_OF_A_LAYER:
            raise UsageError(
                f"candidates.pooling: {cell.pooling.value} is not a pooling of every layer; use mean, cls or max"
            )
        if not exists(cell):
            raise UsageError(
                f"candidates.pooling: {cell.pooling.value} of layer {cell.layer}: four layers are needed; use mean"
            )


def exists(cell: Cell) -> bool:
    """Whether there are as many layers below it as its pooling takes."""
    return not needs_layers((cell.pooling,)) or cell.layer + 1 >= KEPT_LAYERS


def pooled_cells(
    states: Sequence[Tensor], last: HiddenStates, cells: Sequence[Cell], finish: Callable[[Tensor], Tensor]
) -> Tensor:
    """[B, sum of the cells' sizes]: each cell's vectors, finished (truncated, unit length), side by side.

    `states`: of the embeddings and of every layer, [T, H]. `last`: says where sequences begin and end.
    """
    wide = {at: states[at].float() for at in sorted({below for cell in cells for below in _layers_of(cell)})}
    found = []
    for cell in cells:
        layers = tuple(wide[at] for at in _layers_of(cell)) if needs_layers((cell.pooling,)) else ()
        found.append(finish(pool(replace(last, last_TH=wide[cell.layer], layers=layers), (cell.pooling,))))
    return torch.cat(found, dim=-1)


def _layers_of(cell: Cell) -> range:
    below = KEPT_LAYERS if needs_layers((cell.pooling,)) else 1
    return range(cell.layer + 1 - below, cell.layer + 1)
