"""Modules before and after pooling in sentence-transformers models: LSTM, Dense, Normalize.

And the projection of a checkpoint of Stanford's ColBERT.
LSTM and Dense are sentence-transformers' own classes. The library is imported only if a model has such a module, since the
import takes seconds. Their weights are safetensors (model/files.py has checked that), and they run in float32. Knows
nothing of batches or pooling modes.

Shapes: B sequences, T tokens of the batch concatenated, D components.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from workers.errors import UsageError, one_line
from workers.model.files import PROJECTION
from workers.model.modules import ModuleSpec
from workers.records.tokens import ranges

_TOKENS, _VECTOR = "token_embeddings", "sentence_embedding"  # keys of sentence-transformers' dictionary of features


class Heads:
    """A chain of modules on one device, for token vectors or for pooled vectors."""

    def __init__(self, folder: Path, specs: tuple[ModuleSpec, ...], device: torch.device, *, by_token: bool = False) -> None:
        """Load the modules. `folder`: the model's. `by_token`: they are for token vectors.

        Raises: UsageError: a module's files do not fit its configuration.
        """
        self._modules = [
            _load(folder, spec, by_token=by_token).to(device).eval() if spec.kind != "Normalize" else None for spec in specs
        ]

    def to(self, device: torch.device) -> None:
        """Move the modules to a device."""
        for module in self._modules:
            if module is not None:
                module.to(device)

    def on_tokens(self, tokens_TD: Tensor, lengths_B: NDArray[np.int64]) -> Tensor:
        """[T, D] -> [T, D'], for concatenated sequences of `lengths_B` tokens. Padded in between: the modules require it."""
        if not self._modules:
            return tokens_TD
        lengths, ends = torch.from_numpy(lengths_B), tuple(np.cumsum(lengths_B)[:-1].tolist())
        states = pad_sequence([*tokens_TD.tensor_split(ends)], batch_first=True)
        for module in self._modules:
            if module is None:
                states = normalize(states, dim=-1)
            else:
                states = module({_TOKENS: states, "sentence_lengths": lengths})[_TOKENS]
        longest = states.shape[1]  # of the states: an LSTM gives no more positions than the longest sequence has
        places = ranges(np.arange(len(lengths_B)) * longest, lengths_B)  # a mask would make the host wait for the device
        places_T = torch.from_numpy(places).to(states.device, non_blocking=True)
        return states.flatten(0, 1).index_select(0, places_T)

    def on_vectors(self, vectors_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D'] pooled vectors."""
        for module in self._modules:
            vectors_BD = normalize(vectors_BD, dim=-1) if module is None else module({_VECTOR: vectors_BD})[_VECTOR]
        return vectors_BD


def _load(folder: Path, spec: ModuleSpec, *, by_token: bool = False) -> Any:
    if spec.kind == PROJECTION:
        return _Projection(folder, spec)
    library = _library()
    try:
        module = getattr(library, spec.kind).load(str(folder / spec.path)).to(torch.float32)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        reason = one_line(error)
        raise UsageError(
            f"{folder / spec.path}: this {spec.kind} module cannot be loaded ({reason}); fetch the model again"
        ) from None
    if by_token and spec.kind == "Dense":  # PyLate's files do not say so
        module.module_input_name = module.module_output_name = _TOKENS
    return module


class _Projection(torch.nn.Module):
    """The projection in a checkpoint of Stanford's ColBERT, beside the encoder's weights."""

    def __init__(self, folder: Path, spec: ModuleSpec) -> None:
        super().__init__()
        path = folder / spec.path / "model.safetensors"
        try:
            with safe_open(path, framework="pt", device="cpu") as tensors:
                self.weight = torch.nn.Parameter(tensors.get_tensor(PROJECTION).to(torch.float32), requires_grad=False)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{path}: {PROJECTION} cannot be read ({error}); fetch the model again") from None

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {_TOKENS: torch.nn.functional.linear(features[_TOKENS], self.weight)}


def _library() -> Any:
    """The package of modules in the installed sentence-transformers (moved in 5.4)."""
    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        from sentence_transformers import models as modules
    return modules
