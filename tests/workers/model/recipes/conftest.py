"""The packaged MiniLM, to change its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workers.models import copy_model


@pytest.fixture
def model(minilm: Path, tmp_path: Path) -> Path:
    return copy_model(minilm, tmp_path / "model")


@pytest.fixture
def plain(model: Path) -> Path:
    """A transformers model that sentence-transformers never touched."""
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (model / name).unlink()
    shutil.rmtree(model / "1_Pooling")
    return model
