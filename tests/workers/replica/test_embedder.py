"""Queries of a snapshot whose precision this machine does not have."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.models import build, layout
from workers.config import LongText, ModelConfig, VectorType
from workers.engine.encoder import Encoder
from workers.errors import UsageError
from workers.model.tokenizer import TextTokenizer
from workers.replica.embedder import Embedder
from workers.table.schema import SnapshotStamp
from workers.table.vectors import cosines


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may have 8-bit floating-point products")
def test_a_query_of_a_float8_snapshot_on_a_cpu(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the CPU's own precision, with a log line; documents, which are compared with stored vectors, are refused."""
    files, _ = layout(minilm)
    stamp = SnapshotStamp(
        model="m", revision=None, weights_digest=files.weights_digest, tokenizer_digest=files.tokenizer_digest,
        pooling="mean", normalize=True, precision="float8", prompt="", dim=384, max_tokens=256,
        long_text=LongText.TRUNCATE, vector=VectorType.FLOAT32, int8_scale=None, run_id="r", code_version="0",
    )  # fmt: skip
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
def test_a_second_query_loads_no_transformers(minilm: Path, tmp_path: Path) -> None:
    """The golden texts' vectors by transformers are kept: a damaged file costs time alone."""
    files, recipe = layout(minilm)
    program = (
        "import sys, numpy as np\n"
        "from tests.workers.replica.test_embedder import minilm_stamp\n"
        "from workers.config import ModelConfig\n"
        "from workers.replica.embedder import Embedder\n"
        f"made = Embedder(ModelConfig(name={str(minilm)!r}), minilm_stamp({str(minilm)!r}), query=True)\n"
        "np.save(sys.argv[1], made.embed(['the harbour froze'])[0])\n"
        "print('transformers' in sys.modules, 'pandas' in sys.modules, 'ray' in sys.modules)\n"
    )
    told, vectors = [], []
    for name in ("first", "second", "damaged"):
        if name == "damaged":
            (kept,) = (tmp_path / "cache" / "golden").iterdir()
            np.save(kept, np.load(kept)[::-1])
        command = [sys.executable, "-c", program, str(tmp_path / f"{name}.npy")]
        environment = os.environ | {"REEMBED_CACHE": str(tmp_path / "cache"), "PYTHONPATH": "."}
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())
        vectors.append(np.load(tmp_path / f"{name}.npy"))
    assert [words[0] for words in told] == ["True", "False", "True"]
    assert told[1] == ["False", "False", "False"]
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[2])
    exact = Encoder.golden_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize(["the harbour froze"]))
    assert cosines(vectors[1], exact).min() >= 0.999


def minilm_stamp(folder: str) -> SnapshotStamp:
    files, _ = layout(Path(folder))
    return SnapshotStamp(
        model="m", revision=None, weights_digest=files.weights_digest, tokenizer_digest=files.tokenizer_digest,
        pooling="mean", normalize=True, precision="auto", prompt="", dim=384, max_tokens=256,
        long_text=LongText.TRUNCATE, vector=VectorType.FLOAT32, int8_scale=None, run_id="r", code_version="0",
    )  # fmt: skip
