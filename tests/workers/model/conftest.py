"""A model's folder to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.model_folders import save_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small random BERT in sentence-transformers' layout."""
    return save_folder(tmp_path / "model")
