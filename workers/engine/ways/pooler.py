"""A model's own head (its pooler) on the first hidden state of each sequence, where the model saw packed tokens.

transformers would apply it to the first token of the batch alone. Whether a model's head reads more than a sequence's first
state is measured by the self-check, as everything is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workers.engine.kernels.packing import PackedBatch


class OwnPooler:
    """BERT: tanh(W h + b); ALBERT: the same, with its activation outside of the module."""

    def __init__(self, model: Any) -> None:
        """Raises: AttributeError: the model has no pooler."""
        self._pooler, self._after = model.pooler, getattr(model, "pooler_activation", None)
        self._dtype = next(self._pooler.parameters()).dtype

    def __call__(self, last_TH: Tensor, batch: PackedBatch) -> Tensor:
        """[B, H] from the last hidden states [T, H]."""
        first_BH = last_TH.index_select(0, batch.cumulative_B1[:-1]).to(self._dtype)
        if self._after is not None:
            return self._after(self._pooler(first_BH))  # type: ignore[no-any-return]
        return self._pooler(first_BH.unsqueeze(1))  # type: ignore[no-any-return]
