"""Queries: of a precision that this machine does not have, by NumPy, and what is kept for the next process."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vector_snapshots import publish_vectors
from tests.workers.models import PASSAGE, build, layout
from workers.config import LongText, ModelConfig, VectorType
from workers.engine.encoder import Encoder
from workers.engine.self_check import SelfCheck
from workers.errors import UsageError
from workers.model.golden import GOLDEN_TEXTS
from workers.model.tokenizer import TextTokenizer
from workers.replica.embedder import Embedder
from workers.table.schema import SnapshotStamp
from workers.table.vectors import cosines


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may have 8-bit floating-point products")
def test_a_query_of_a_float8_snapshot_on_a_cpu(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the CPU's own precision, with a log line; documents, which are compared with stored vectors, are refused."""
    stamp = replace(stamp_of(minilm), precision="float8")
    config = ModelConfig(name=str(minilm))
    with pytest.raises(UsageError, match="float8 is for replicas on GPUs"):
        Embedder(config, stamp)
    with caplog.at_level(logging.WARNING):
        found = Embedder(config, stamp, query=True).embed(["the harbour froze"])
    assert "float8 is for replicas on GPUs" in caplog.text
    tokenizer, encoder = build(minilm)
    exact = encoder.encode(tokenizer.tokenize(["the harbour froze"])).vectors
    assert cosines(np.concatenate(found), exact).min() >= 0.999


@pytest.mark.slow
def test_a_second_search_imports_no_torch(minilm: Path, tmp_path: Path) -> None:
    """By the command itself. The golden texts' vectors are kept by the first one."""
    files, recipe = layout(minilm)
    known = {"model": str(minilm), "weights_digest": files.weights_digest, "tokenizer_digest": files.tokenizer_digest}
    publish_vectors(tmp_path / "out", np.eye(4, 384, dtype=np.float32), **known)
    program = (
        "import sys, numpy as np\n"
        "from jobs.cli import main\n"
        "from workers.engine.query.encoder import QueryEncoder\n"
        "from workers.replica.embedder import Embedder\n"
        "encode, encoded, embed = QueryEncoder.encode, [], Embedder.embed\n"
        "QueryEncoder.encode = lambda self, tokens: encoded.append(len(tokens.lengths)) or encode(self, tokens)\n"
        "def embed_and_save(self, texts):\n"
        "    found = embed(self, texts)\n"
        "    np.save(sys.argv[1], found[0])\n"
        "    return found\n"
        "Embedder.embed = embed_and_save\n"
        "try:\n"
        "    main(['search', sys.argv[2], sys.argv[3], '-k', '1'])\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'ray', 'scipy', 'sklearn', 's3fs'}\n"
        "print(','.join(sorted(heavy & set(sys.modules))) or 'light', *encoded)\n"
    )
    told, vectors = {}, {}
    for name in ("first", "second", "third"):
        command = [sys.executable, "-c", program, str(tmp_path / f"{name}.npy"), str(tmp_path / "out"), PASSAGE * 9]
        environment = os.environ | {"REEMBED_CACHE": str(tmp_path / "cache"), "PYTHONPATH": "."}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        told[name], vectors[name] = done.stdout.splitlines()[-1].split(), np.load(tmp_path / f"{name}.npy")
    assert {"torch", "transformers"} <= set(told["first"][0].split(","))
    assert told["second"] == ["light", str(len(GOLDEN_TEXTS)), "1"]
    assert told["third"] == ["light", "1", "1"], "all golden texts are compared once, one of them at every start"
    exact = Encoder.golden_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize([PASSAGE * 9]))
    for name, found in vectors.items():
        assert np.abs(found - exact).max() <= 1e-5, name


@pytest.mark.slow
def test_many_queries_by_torch_measure_no_way_twice(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a second process loads no transformers: the reference is kept."""
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path))
    measure, measured = SelfCheck._measure, []
    monkeypatch.setattr(SelfCheck, "_measure", lambda self, way: measured.append(way) or measure(self, way))
    config, stamp = ModelConfig(name=str(small_model)), stamp_of(small_model)
    first = Embedder(config, stamp, query=True).embed(["the harbour froze"])
    assert measured
    measured.clear()
    monkeypatch.setattr("workers.engine.checkpoint.load_transformer", None)
    second = Embedder(config, stamp, query=True).embed(["the harbour froze"])
    assert not measured
    assert np.array_equal(first[0], second[0])


@pytest.mark.slow
def test_a_wrong_reference_leaves_a_query_to_torch(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path))
    config, stamp = ModelConfig(name=str(small_model)), stamp_of(small_model)
    with caplog.at_level(logging.INFO):
        by_torch = Embedder(config, stamp, query=True, single=True).embed(["the harbour froze"])
        assert "no reference of the golden texts is kept" in caplog.text
        (kept,) = (tmp_path / "golden").glob("*.npy")
        right = np.load(kept)
        np.save(kept, right + np.float32(0.01))
        again = Embedder(config, stamp, query=True, single=True).embed(["the harbour froze"])
    assert re.search(r"the query is embedded by torch: numpy \S+ differs by \S+ from the reference", caplog.text)
    assert np.array_equal(by_torch[0], again[0])
    np.save(kept, right)
    by_numpy = Embedder(config, stamp, query=True, single=True).embed(["the harbour froze"])
    assert 0 < np.abs(by_numpy[0] - by_torch[0]).max() <= 1e-5


def stamp_of(folder: Path) -> SnapshotStamp:
    files, recipe = layout(folder)
    return SnapshotStamp(
        model="m", revision=None, weights_digest=files.weights_digest, tokenizer_digest=files.tokenizer_digest,
        pooling="mean", normalize=True, precision="auto", prompt="", dim=recipe.dim, max_tokens=recipe.max_tokens,
        long_text=LongText.TRUNCATE, vector=VectorType.FLOAT32, int8_scale=None, run_id="r", code_version="0",
    )  # fmt: skip
