"""The golden reference computed by another process: its vectors, the cache, and what happens if it never arrives."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.workers.models import layout
from workers.config import ModelConfig, Precision
from workers.engine.encoder import Encoder, EncoderOptions
from workers.model.golden import GOLDEN_TEXTS
from workers.model.tokenizer import TextTokenizer
from workers.replica import golden_reference
from workers.replica.golden_reference import GoldenReferenceFile, await_golden_reference, cache_path, golden_reference_file


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and time enough for a process beside those of other tests."""
    monkeypatch.setattr(golden_reference, "PATIENCE_SECONDS", 150.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_the_same_as_computed_here_and_kept(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, recipe = layout(minilm)
    expected = Encoder.golden_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS))
    with golden_reference_file(ModelConfig(name=str(minilm)), files, recipe) as file:
        assert file.pid != psutil.Process().pid
        found = await_golden_reference(file, files.weights_digest)
        assert await_golden_reference(file, "another model") is None
    assert found is not None
    assert found.shape == expected.shape == (len(GOLDEN_TEXTS), 384)
    assert np.abs(found - expected).max() <= 1e-6
    assert not Path(file.path).exists()
    with golden_reference_file(ModelConfig(name=str(minilm)), files, recipe) as file:
        assert (Path(file.path), file.pid) == (cache_path(files, recipe), psutil.Process().pid), (
            "no process is started for it"
        )
        again = await_golden_reference(file, files.weights_digest)
    assert again is not None
    assert np.array_equal(again, found)
    assert cache_path(files, dataclasses.replace(recipe, prompt="query: ")) != cache_path(files, recipe)
    known = cache_path(files, recipe)
    monkeypatch.setattr(golden_reference, "GOLDEN_TEXTS", (*GOLDEN_TEXTS, "another"))
    assert cache_path(files, recipe) != known


@pytest.mark.slow
def test_a_file_that_lies_costs_seconds_and_nothing_else(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, recipe = layout(minilm)
    golden = TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS)
    wrong = np.random.default_rng(1).normal(size=(len(GOLDEN_TEXTS), 384)).astype(np.float32)
    options = EncoderOptions(Precision.FLOAT32, threads=1, reference=lambda: wrong)
    encoder = Encoder(files, recipe, golden, options)
    assert encoder.way == "fused float32"
    assert "once more with one made here" in caplog.text


def test_a_home_that_cannot_be_written(
    minilm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "reembed")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    files, recipe = layout(minilm)
    vectors = np.ones((2, 3), np.float32)
    with golden_reference_file(ModelConfig(name="/no/such/model"), files, recipe) as file:
        np.save(Path(file.path), vectors)  # as its process would
        found = await_golden_reference(file, files.weights_digest)
    assert found is not None
    assert np.array_equal(found, vectors)
    assert "is not kept" in caplog.text


@pytest.mark.slow
def test_a_process_that_fails_is_not_waited_for(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reembed")
    files, recipe = layout(minilm)
    with golden_reference_file(ModelConfig(name="/no/such/model"), files, recipe) as file:
        assert await_golden_reference(file, files.weights_digest) is None
        assert f"from process {file.pid} (ended without)" in caplog.text
    assert not psutil.pid_exists(file.pid)
    assert not cache_path(files, recipe).exists()


def test_a_process_that_ends_between_two_looks_has_left_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = GoldenReferenceFile(str(tmp_path / "golden.npy"), 1, "weights")
    vectors = np.ones((2, 3), np.float32)

    def writes_and_ends(pid: int) -> bool:
        np.save(file.path, vectors)
        return False

    monkeypatch.setattr(golden_reference, "_alive", writes_and_ends)
    found = await_golden_reference(file, "weights")
    assert found is not None
    assert np.array_equal(found, vectors)


def test_a_process_of_another_machine_is_not_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert await_golden_reference(GoldenReferenceFile(str(tmp_path / "golden.npy"), gone.pid, "digest"), "digest") is None


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_reference, "PATIENCE_SECONDS", 0.1)
    assert (
        await_golden_reference(GoldenReferenceFile(str(tmp_path / "golden.npy"), psutil.Process().pid, "digest"), "digest")
        is None
    )
    assert await_golden_reference(None, "digest") is None


def test_the_process_ends_with_the_block(minilm: Path) -> None:
    with golden_reference_file(ModelConfig(name="/no/such/model"), *layout(minilm)) as file:
        assert psutil.pid_exists(file.pid)
    assert not psutil.pid_exists(file.pid)
