"""A request that only the data could refuse leaves nothing; a store that refuses access leaves what can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cluster.config import ClusterJobConfig
from jobs.cluster.job import ClusterJob
from jobs.passes.job import run_job
from jobs.passes.passes import Passes
from tests.vector_snapshots import publish_vectors
from workers.errors import StoreRefused, UsageError
from workers.table.paths import is_run_id


def _cluster(folder: Path, clusters: int) -> dict[str, Any]:
    raw = {
        "output": {"uri": str(folder / "clusters")},
        "cluster": {"snapshot": str(folder / "vectors"), "clusters": clusters, "words": 0, "map": 0},
    }
    return run_job(ClusterJob(ClusterJobConfig.model_validate(raw)))


def _runs(folder: Path) -> list[str]:
    left = folder / "clusters"
    return [str(path) for path in left.rglob("*") if is_run_id(path.name)]


def test_more_clusters_than_distinct_vectors(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "vectors", np.repeat(np.eye(8, 16, dtype=np.float32), 25, axis=0))
    with pytest.raises(UsageError, match="8 distinct vectors; give at most 8"):
        _cluster(tmp_path, 9)
    assert _runs(tmp_path) == []
    assert _cluster(tmp_path, 8)["published"]
    with pytest.raises(UsageError, match="8 distinct vectors"):
        _cluster(tmp_path, 9)
    assert len(_runs(tmp_path)) == 2  # data/ and runs/ of what is published


def test_a_store_that_refuses_access_leaves_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_vectors(tmp_path / "vectors", np.repeat(np.eye(8, 16, dtype=np.float32), 25, axis=0))

    def refused(*_: object) -> None:
        raise StoreRefused("the token has expired; log in again")

    monkeypatch.setattr(Passes, "run", refused)
    with pytest.raises(StoreRefused):
        _cluster(tmp_path, 8)
    assert len(_runs(tmp_path)) == 1
    monkeypatch.undo()
    assert _cluster(tmp_path, 8)["run_id"] in _runs(tmp_path)[0]
