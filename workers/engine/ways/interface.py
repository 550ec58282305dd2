"""What all ways to run a model have in common: the call, its result, and how transformers' models are asked."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from workers.engine.batches.plan import Layout
from workers.engine.kernels.packing import PackedBatch

TOKEN_TYPES = "token_type_ids"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states of a batch, in the precision of the model."""

    last_TH: Tensor
    layers: tuple[Tensor, ...] = ()  # as many of the last ones [T, H] as asked for, deepest last
    pooler_BH: Tensor | None = None


class Forward(Protocol):
    """A way to run a model. `layers`: return so many of the last hidden states too; those of the embeddings come first."""

    name: str
    layout: Layout  # which sequences may share a batch

    def __call__(self, batch: PackedBatch, *, layers: int) -> States: ...


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward pass has this argument."""
    return argument in inspect.signature(model.forward).parameters


def settings(model: Any) -> dict[str, bool]:
    """Decoders would otherwise keep keys and values for tokens that never follow."""
    return {"use_cache": False} if takes(model, "use_cache") else {}
