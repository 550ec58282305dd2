"""The table of a static model: token id -> vector, with a weight where the files have one.

Formula, with e the rows, m the mapping of ids to rows, w the weights and t_1 ... t_n the tokens that count:

    v = (w[t_1] e[m[t_1]] + ... + w[t_n] e[m[t_n]]) / n      (without weights w = 1, without a mapping m[t] = t)

as model2vec's StaticModel.encode and sentence-transformers' StaticEmbedding take it. A table in another number format is
read as float32: float16 and int8 values stay what they are, and sums are taken in float32.

Shapes: N sequences, T tokens of all sequences concatenated, V ids, R rows of the table, D components.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import embedding_bag

from workers.errors import UsageError
from workers.model.layouts.static import MAPPING, WEIGHTS, StaticLayout


class TokenTable:
    """One model's table, on the CPU: a GPU would wait for its ids longer than the sums take."""

    def __init__(self, folder: Path, name: str, layout: StaticLayout) -> None:
        """`folder`: of the table. `name`: the model's, for messages.

        Raises: UsageError: the file is damaged, or holds what cannot be averaged.
        """
        path = folder / "model.safetensors"
        try:
            with safe_open(path, framework="pt", device="cpu") as tensors:
                there = set(tensors.keys())
                self._rows_RD = tensors.get_tensor(layout.table).to(torch.float32).contiguous()
                weights = tensors.get_tensor(WEIGHTS).to(torch.float32) if WEIGHTS in there and layout.own else None
                mapping = tensors.get_tensor(MAPPING).numpy() if MAPPING in there and layout.own else None
        except (OSError, SafetensorError) as error:
            raise UsageError(f"model.name={name}: {path} is damaged ({error}); fetch the model again") from None
        for found in (self._rows_RD, weights):
            if found is not None and not torch.isfinite(found).all():
                raise UsageError(
                    f"model.name={name}: {path} holds NaN or Inf, so vectors would too; fetch the model again, or name "
                    "another"
                )
        if mapping is not None and (mapping.min() < 0 or mapping.max() >= len(self._rows_RD)):
            raise UsageError(f"model.name={name}: {path}: {MAPPING} names rows that are not there; fetch the model again")
        self._weights_V = weights
        self._mapping_V = None if mapping is None else mapping.astype(np.int32)

    def means(self, ids_T: NDArray[np.int32], lengths_N: NDArray[np.int64]) -> Tensor:
        """[N, D] of sequences of `lengths_N` tokens; one without tokens gives NaN. A mean depends on its tokens alone."""
        offsets_N = np.cumsum(lengths_N) - lengths_N
        rows_T = ids_T if self._mapping_V is None else self._mapping_V[ids_T]
        weights_T = None if self._weights_V is None else self._weights_V[torch.from_numpy(ids_T)]
        rows, offsets = torch.from_numpy(rows_T), torch.from_numpy(offsets_N.astype(np.int32))
        sums_ND = embedding_bag(rows, self._rows_RD, offsets, mode="sum", per_sample_weights=weights_T)
        return sums_ND / torch.from_numpy(lengths_N).to(torch.float32)[:, None]

    def expected(self, ids_T: NDArray[np.int32], lengths_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same by NumPy in float64, text by text: what `means` is compared with when the model is loaded."""
        rows_RD = self._rows_RD.numpy()
        weights_V = None if self._weights_V is None else self._weights_V.numpy().astype(np.float64)
        found = np.full((len(lengths_N), rows_RD.shape[1]), np.nan)
        for number, own in enumerate(np.split(ids_T, np.cumsum(lengths_N)[:-1])):
            if len(own):
                picked = rows_RD[own if self._mapping_V is None else self._mapping_V[own]].astype(np.float64)
                found[number] = (picked if weights_V is None else picked * weights_V[own][:, None]).mean(axis=0)
        return found
