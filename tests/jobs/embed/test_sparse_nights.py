"""Sparse vectors from one night to the next, by the real command: columns, footers, gate, reuse, verify, changes, search.

The reference is sentence-transformers' SparseEncoder on the same folder; dot products are NumPy's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray

from jobs.commands.search import Columns, search_snapshot
from jobs.commands.verify import verify_snapshot
from tests.jobs.embed.command_nights import BEFORE, Nights
from tests.jobs.publish.tables.folders_and_tables import delta_rows, folder_rows
from tests.local_replicas import local_embed, local_run
from tests.workers.sparse_models import masked_lm, sparse_encoder
from workers.errors import UsageError

pytestmark = [pytest.mark.slow]
TOP, WORDS = 300, 30522
AFTER = [*BEFORE[:20], "a letter about flour", *BEFORE[21:], "the pilot's clock"]  # one changed, one added


def _write(folder: Path, texts: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    ids = [f"d{row}" for row in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts, "half": ["a" if row < 12 else "b" for row in range(len(texts))]}),
                   folder / "0.parquet")  # fmt: skip


@pytest.fixture(scope="module")
def nights(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    model = sparse_encoder(masked_lm(minilm, folder / "mlm"), folder / "model")
    raw = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id", "keep": ["half"]},
        "model": {"name": str(model), "precision": "float32", "sparse_top": TOP},
        "output": {"uri": f"{folder}/out", "table": "delta"},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
    }
    (folder / "sparse.yaml").write_text(yaml.safe_dump(raw))
    summaries = []
    for texts in (BEFORE, AFTER):
        _write(folder / "corpus", texts)
        ended = local_embed(folder / "sparse.yaml")
        assert ended.rc == 0, ended.log
        summaries.append(ended.summary)
    return Nights(folder / "out", model, folder / "sparse.yaml", *summaries)


def _table(summary: Any) -> pa.Table:
    return ds.dataset(summary["data"]).to_table()


def _dense(table: pa.Table) -> NDArray[np.float64]:
    found = np.zeros((table.num_rows, WORDS))
    for row, (indices, weights) in enumerate(zip(table["indices"].to_pylist(), table["weights"].to_pylist(), strict=True)):
        found[row, indices] = weights
    return found


def _expected(nights: Nights, texts: list[str]) -> NDArray[np.float64]:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(nights.model), device="cpu")
    found = model.encode_document(texts, convert_to_sparse_tensor=False, max_active_dims=TOP)
    return np.asarray(found.numpy(), np.float64)


def test_columns_and_footer(nights: Nights) -> None:
    table = _table(nights.second)
    assert table.schema.names == ["id", "indices", "weights", "num_tokens", "truncated", "text_hash", "half"]
    assert table.schema.field("indices").type == pa.list_(pa.field("element", pa.int32(), nullable=False))
    assert table.schema.field("weights").type == pa.list_(pa.field("element", pa.float32(), nullable=False))
    assert table["id"].to_pylist() == [f"d{row}" for row in range(len(AFTER))]
    for indices in table["indices"].to_pylist():
        assert indices == sorted(set(indices))
        assert 0 < len(indices) <= TOP
    footer = pq.read_metadata(ds.dataset(nights.second["data"]).files[0]).metadata
    told = {key.decode(): value.decode() for key, value in footer.items()}
    assert told["reembed.pooling"] == "sparse"
    assert (told["reembed.dim"], told["reembed.vector"], told["reembed.normalize"]) == ("30522", "float32", "false")


def test_weights_are_those_of_sentence_transformers(nights: Nights) -> None:
    for summary, texts in ((nights.first, BEFORE), (nights.second, AFTER)):
        assert np.abs(_dense(_table(summary)) - _expected(nights, texts)).max() <= 1e-5


def test_the_second_night_embeds_what_is_new(nights: Nights) -> None:
    assert nights.second["reused_rows"] == len(AFTER) - 2
    before, after = _table(nights.first), _table(nights.second)
    same = [row for row in range(len(BEFORE)) if row != 20]
    for name in ("indices", "weights"):
        assert after[name].take(same).equals(before[name].take(same)), "reused: bit for bit"


def test_the_gate_looks_at_them(nights: Nights) -> None:
    checks = {check["name"]: check for check in nights.second["gate"]}
    assert all(check["ok"] for check in checks.values())
    assert checks["golden"]["skipped"]
    assert "sparse" in checks["golden"]["note"]
    assert not checks["sample"]["skipped"]
    assert checks["sample"]["measured"] == pytest.approx(1, abs=1e-6)
    for name in ("norms", "spread", "mean_vector"):
        assert not checks[name]["skipped"], checks[name]


def test_verify(nights: Nights) -> None:
    report = verify_snapshot(str(nights.output), 8)
    assert report["findings"] == []
    assert report["ok"]
    assert report["sampled"] == 8
    assert report["min_cosine"] == pytest.approx(1, abs=1e-5)


def test_search_is_the_dot_product(nights: Nights) -> None:
    from sentence_transformers import SparseEncoder

    query = "lamp in the harbour at night"
    model = SparseEncoder(str(nights.model), device="cpu")
    encoded = model.encode_query([query], convert_to_sparse_tensor=False, max_active_dims=TOP).numpy()[0]
    table = _table(nights.second)
    scores = _dense(table) @ encoded.astype(np.float64)
    ids = table["id"].to_pylist()
    hits = search_snapshot(str(nights.output), query, 5)["hits"]
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-3, rel=1e-5)
    for hit in hits:
        assert hit["score"] == pytest.approx(scores[ids.index(hit["id"])], rel=1e-5)
        assert set(hit) == {"score", "id", "num_tokens", "truncated", "half"}
    of_b = search_snapshot(str(nights.output), query, 3, where="half = 'b'")["hits"]
    late = np.sort(scores[12:])[::-1][:3]
    assert [hit["score"] for hit in of_b] == pytest.approx(late, rel=1e-5)


def test_changes_are_the_rows_whose_vectors_differ(nights: Nights, tmp_path: Path) -> None:
    found = json.loads(local_run("changes", nights.output, "--into", tmp_path / "set", "--json").stdout)
    assert [found[name] for name in ("added", "changed", "patched", "deleted")] == [1, 1, 0, 0]
    table = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "set").rglob("upserts*.parquet"))])
    rows = {row["id"]: row for row in table.to_pylist()}
    after = {row["id"]: row for row in _table(nights.second).to_pylist()}
    assert set(rows) == {"d20", "d24"}
    for key, row in rows.items():
        assert (row["indices"], row["weights"]) == (after[key]["indices"], after[key]["weights"])


def test_the_delta_table_has_the_same_rows(nights: Nights) -> None:
    from deltalake import DeltaTable

    assert DeltaTable(str(nights.output / "data")).version() == 1
    assert delta_rows(nights.output) == folder_rows(nights.output)


def test_what_is_for_dense_vectors_is_refused(nights: Nights, tmp_path: Path) -> None:
    target = str(nights.output)
    with pytest.raises(UsageError, match=r"^--first: is for dense vectors"):
        search_snapshot(target, "lamp", 3, columns=Columns(first="weights"))
    with pytest.raises(UsageError, match=r"^--index: is for dense vectors"):
        search_snapshot(target, "lamp", 3, index=str(tmp_path))
    job = {"cluster": {"snapshot": target, "clusters": 2}, "output": {"uri": str(tmp_path / "clusters")}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(job))
    ended = local_run("cluster", tmp_path / "cluster.yaml")
    assert ended.rc == 2
    assert "holds sparse vectors" in ended.log + ended.stdout
    ended = local_run("load", "lancedb", nights.output, tmp_path / "lance")
    assert ended.rc == 2
    assert "sparse vectors" in ended.log + ended.stdout
    for setting in ("output.vector=int8", "model.normalize=true"):
        ended = local_embed(nights.config, setting)
        assert ended.rc == 2, setting
        assert setting.partition("=")[0] in ended.log
