"""An object that ends whatever process reads it, among others in one shard: it is left out, its neighbours are embedded."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from tests.drivers import embed
from tests.sessions import ROOT
from tests.workers.corpus_files import put_parquet

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLY = ROOT / "tests" / "fuzz" / "deadly"


def test_the_object_is_found_and_left_out(tmp_path: Path, minilm: Path) -> None:
    """As pyarrow's C++ might do on bytes that nobody has found yet: SIGABRT while the rows are read."""
    (tmp_path / "corpus").mkdir()
    for name in ("a", "b", "c"):
        rows = {
            "id": [f"{name}{number}" for number in range(5)],
            "text": [f"text {number} of {name}" for number in range(5)],
        }
        put_parquet(tmp_path / "corpus" / f"{name}.parquet", rows)
    config = tmp_path / "run.yaml"
    sections = {
        "corpus": {"uri": f"{tmp_path}/corpus/", "id": "id"},
        "model": {"name": str(minilm), "precision": "float32"},
        "output": {"uri": str(tmp_path / "out")},
        "cluster": {"address": "local", "replicas": 2, "cpus_per_replica": 1, "gpus_per_replica": 0},
    }
    config.write_text(yaml.safe_dump(sections))
    env = {"REEMBED_DEADLY": "b.parquet", "PYTHONPATH": f"{DEADLY}:{ROOT}"}
    ended = embed(config, "run.max_quarantined_rows=5", env=env)
    assert ended.rc == 0, ended.log
    summary = ended.summary
    assert (summary["documents"], summary["quarantined_rows"], summary["shards"]["quarantined"]) == (10, 5, 0)
    ids = ds.dataset(summary["data"]).to_table(["id"]).column("id").to_pylist()
    assert sorted(ids) == [f"{name}{number}" for name in "ac" for number in range(5)]
    quarantine = tmp_path / "out" / "runs" / summary["run_id"] / "quarantine"
    (entry,) = ds.dataset(quarantine, format="parquet").to_table().to_pylist()
    assert (Path(entry["object"]).name, entry["rows"]) == ("b.parquet", 5)
    assert "reading it ended the process by SIGABRT" in entry["reason"]
    assert len(re.findall(r"replica \d+ lost: ", ended.log)) == 1, (
        "one replica dies of it, the next ones check each object first"
    )
