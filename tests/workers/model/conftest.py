"""A model's folder to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.shared import Shared
from tests.workers.model_folders import save_folder


@pytest.fixture(scope="session")
def whole_folder(shared: Shared) -> Path:
    """A small random BERT in sentence-transformers' layout, made once for all workers: to be looked at only."""
    return Path(shared.once("model-folder", lambda folder: {"folder": str(save_folder(folder / "model"))})["folder"])


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(whole_folder, tmp_path / "model")
