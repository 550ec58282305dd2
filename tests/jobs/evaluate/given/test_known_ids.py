"""Ids that are not in the snapshot are named before anything is written, and by the first pass of a very large one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.evaluate.given import known_ids
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import publish_vectors
from workers.errors import UsageError


def test_ids_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_vectors(tmp_path / "out", np.eye(20, dtype=np.float32), shards=3)
    source = SourceSnapshot.open(str(tmp_path / "out"), {}, "snapshot")
    known_ids.require_ids(source, ["0", "19", "7", "7"], "evaluate.qrels", "documents with judgements")
    message = r"^evaluate\.qrels: 2 documents are not in the snapshot .* \(20, x\); remove their judgements, or embed"
    with pytest.raises(UsageError, match=message):
        known_ids.require_ids(source, ["x", "3", "20", "x"], "evaluate.qrels", "documents with judgements")
    monkeypatch.setattr(known_ids, "MOST_ROWS", 10)
    known_ids.require_ids(source, ["x"], "evaluate.qrels", "documents with judgements")
