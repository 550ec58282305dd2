"""Modules of a sentence-transformers layout around pooling: LSTM and Dense by that library's own classes, Normalize here.

The library is imported only when a layout has such a module (the import takes seconds). Weights are safetensors, which
model_files has checked; everything runs in float32. Knows nothing of batches or pooling modes.

Shapes: B sequences, T positions (padded), D components.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from workers.errors import UsageError
from workers.model_head import ModuleSpec

_TOKENS, _VECTOR = "token_embeddings", "sentence_embedding"  # keys of sentence-transformers' feature dictionary


class Heads:
    """A chain of modules on one device, applied to tokens or to pooled vectors."""

    def __init__(self, folder: Path, specs: tuple[ModuleSpec, ...], device: torch.device) -> None:
        """Raises: UsageError when a module's files do not fit its configuration."""
        self._modules = [_load(folder, spec).to(device).eval() if spec.kind != "Normalize" else None for spec in specs]

    def on_tokens(self, tokens_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D']; positions beyond a sequence's length hold no meaning afterwards either."""
        for module in self._modules:
            if module is None:
                tokens_BTD = normalize(tokens_BTD, dim=-1)
            else:
                tokens_BTD = module({_TOKENS: tokens_BTD, "sentence_lengths": lengths_B})[_TOKENS]
        return tokens_BTD

    def on_vectors(self, vectors_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D']."""
        for module in self._modules:
            vectors_BD = normalize(vectors_BD, dim=-1) if module is None else module({_VECTOR: vectors_BD})[_VECTOR]
        return vectors_BD


def _load(folder: Path, spec: ModuleSpec) -> Any:
    library = _library()
    try:
        return getattr(library, spec.kind).load(str(folder / spec.path)).to(torch.float32)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{folder / spec.path}: this {spec.kind} module cannot be loaded ({reason}); fetch the model again"
        ) from None


def _library() -> Any:
    """Where the installed sentence-transformers keeps its modules (moved in 5.4)."""
    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        from sentence_transformers import models as modules
    return modules
