"""The golden texts' reference from a process beside: what it is, and what happens when it does not come."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.workers.models import layout
from workers import reference
from workers.config import ModelConfig
from workers.engine.encoder import Encoder
from workers.engine.golden import GOLDEN_TEXTS
from workers.reference import ReferenceFile, await_reference, computed_beside
from workers.tokenization import TextTokenizer


def test_the_same_as_computed_here(minilm: Path) -> None:
    files, recipe = layout(minilm)
    expected = Encoder.golden_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS))
    with computed_beside(ModelConfig(name=str(minilm)), files.weights_digest) as file:
        found = await_reference(file, files.weights_digest)
        assert await_reference(file, "another model") is None
    assert found is not None
    assert found.shape == expected.shape == (len(GOLDEN_TEXTS), 384)
    assert np.abs(found - expected).max() <= 1e-6
    assert not Path(file.path).exists()


def test_a_process_that_fails_is_noticed_at_once() -> None:
    with computed_beside(ModelConfig(name="/no/such/model"), "digest") as file:
        began = time.monotonic()
        assert await_reference(file, "digest") is None
        assert time.monotonic() - began < reference.PATIENCE_SECONDS / 2
    assert not psutil.pid_exists(file.pid)


def test_a_process_of_another_machine_is_not_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert await_reference(ReferenceFile(str(tmp_path / "golden.npy"), gone.pid, "digest"), "digest") is None


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PATIENCE_SECONDS", 0.1)
    assert await_reference(ReferenceFile(str(tmp_path / "golden.npy"), psutil.Process().pid, "digest"), "digest") is None
    assert await_reference(None, "digest") is None


def test_the_process_ends_with_the_block() -> None:
    with computed_beside(ModelConfig(name="/no/such/model"), "digest") as file:
        assert psutil.pid_exists(file.pid)
    assert not psutil.pid_exists(file.pid)
