"""Two nights by the real command over the same small corpus: the texts of the first, and what a test gets of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

BEFORE = [f"boats of harbour {row} leave in the {('morning', 'night')[row % 2]} with lamp {row * 7}" for row in range(24)]
"""The first night's texts. The second night changes row 20, and adds some."""


class Nights(NamedTuple):
    """`first`, `second`: the summaries."""

    output: Path
    model: Path
    config: Path
    first: Any
    second: Any
