"""A night of a late-interaction model by the real command, against sentence-transformers' vectors and MaxSim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.commands.search import search_snapshot
from jobs.commands.verify import verify_snapshot
from tests.local_replicas import local_embed
from tests.workers.late_models import DIM, backbone, pylate

pytestmark = [pytest.mark.slow]
TEXTS = [f"boats of harbour {row}, leave in the {('morning', 'night')[row % 2]}: lamp {row * 7}." for row in range(16)]
QUERY = "which lamp leaves at night?"


@pytest.fixture(scope="module")
def night(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    folder = tmp_path_factory.mktemp("late")
    model = pylate(backbone(minilm, folder / "bert"), folder / "model")
    (folder / "corpus").mkdir()
    rows = {"id": [f"d{row}" for row in range(len(TEXTS))], "text": TEXTS}
    pq.write_table(pa.table(rows), folder / "corpus" / "0.parquet")
    raw = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id"},
        "model": {"name": str(model), "precision": "float32"},
        "output": {"uri": f"{folder}/out"},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
    }
    (folder / "late.yaml").write_text(yaml.safe_dump(raw))
    ended = local_embed(folder / "late.yaml")
    assert ended.rc == 0, ended.log
    return folder / "out", model, ended.summary


def test_rows_are_what_sentence_transformers_gives(night: tuple[Path, Path, Any]) -> None:
    from sentence_transformers import MultiVectorEncoder

    _, model, summary = night
    table = ds.dataset(summary["data"]).to_table()
    assert table.schema.names == ["id", "embedding", "tokens", "num_tokens", "truncated", "text_hash"]
    expected = MultiVectorEncoder(str(model), device="cpu").encode_document(TEXTS, batch_size=1)
    for stored, strings, vectors in zip(table["embedding"].to_pylist(), table["tokens"].to_pylist(), expected, strict=True):
        assert np.shape(stored) == (len(strings), DIM)
        assert np.abs(np.asarray(stored) - np.asarray(vectors)).max() <= 1e-5
        assert not {",", ":", "."} & set(strings)
        assert strings[:2] == ["[CLS]", "[unused1]"]
    checks = {check["name"]: check for check in summary["gate"]}
    assert all(check["ok"] for check in checks.values())
    assert checks["golden"]["skipped"]


def test_search_is_max_sim(night: tuple[Path, Path, Any]) -> None:
    from sentence_transformers import MultiVectorEncoder

    output, folder, _ = night
    model = MultiVectorEncoder(str(folder), device="cpu")
    query = model.encode_query([QUERY], batch_size=1)
    scores = np.asarray(model.similarity(query, model.encode_document(TEXTS, batch_size=1)))[0] / len(query[0])
    hits = search_snapshot(str(output), QUERY, 5)["hits"]
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-5)
    for hit in hits:
        assert hit["score"] == pytest.approx(scores[int(hit["id"][1:])], abs=1e-5)


def test_verify(night: tuple[Path, Path, Any]) -> None:
    report = verify_snapshot(str(night[0]), 6)
    assert report["findings"] == []
    assert (report["ok"], report["sampled"]) == (True, 6)
    assert report["min_cosine"] == pytest.approx(1, abs=1e-5)
