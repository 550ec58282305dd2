"""What all contestants read: arrays in a folder, made once from a snapshot and its corpus.

    Material      the arrays, opened when they are asked for; imports nothing of this project

`python -m benchmarks.vector_peers.prepare` writes it. Axes: N rows in the order of the snapshot, D components, S rows of the
sample.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Material:
    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """snapshot, sample_snapshot, label, clusters, threshold."""
        found: dict[str, Any] = json.loads((self.folder / "settings.json").read_text())
        return found

    @cached_property
    def vectors(self) -> np.ndarray:
        """[N, D] float32 of length 1, in memory."""
        return np.asarray(np.load(self.folder / "vectors.npy"))

    def column(self, name: str) -> np.ndarray:
        """[N] label: str; training: bool; text: number of the distinct text; or [S] sample: row numbers; [P, 2] pairs."""
        return np.asarray(np.load(self.folder / f"{name}.npy"))

    @cached_property
    def sample_texts(self) -> list[str]:
        """[S]"""
        found: list[str] = json.loads((self.folder / "sample_texts.json").read_text())
        return found
