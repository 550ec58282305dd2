"""An embedder whose vectors are drawn from the text, for evaluations without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

DIM = 16


def vector_of(text: str) -> np.ndarray[Any, Any]:
    """[DIM] float32, the same for equal texts."""
    seed = int.from_bytes(text.encode()[:16].ljust(16, b"."), "big")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


class DrawnEmbedder:
    """Stands in for workers.replica.embedder.Embedder. `prefix`: of every text, as a prompt is."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix

    def embed(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        return [vector_of(self._prefix + text)[None] for text in texts]


def use_drawn_embedder(patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every load is noted in what is returned."""
    loads: list[dict[str, Any]] = []

    def load(_: object, **settings: Any) -> DrawnEmbedder:
        loads.append(settings)
        return DrawnEmbedder("query: " if settings["query"] else "")

    patch.setattr("jobs.evaluate.given.embedding.load_embedder", load)
    return loads
