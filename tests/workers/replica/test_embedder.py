"""Queries of a snapshot whose precision this machine does not have."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.models import build, layout
from workers.config import LongText, ModelConfig, VectorType
from workers.errors import UsageError
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
