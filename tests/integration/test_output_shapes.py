"""Vectors of other types and shapes, from the command to the reader: against the float32 snapshot that Ray replicas made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs.commands.verify import verify_snapshot
from tests.drivers import Made, Snapshot
from tests.local_replicas import local_embed, local_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]


def _made(made: Made, folder: Path, *overrides: str) -> dict[str, Any]:
    """The same configuration with some settings changed, into another output; the summary."""
    config = folder / "run.yaml"
    shutil.copy(made.config, config)
    ended = local_embed(config, f"output.uri={folder / 'out'}", "cluster.replicas=1", *overrides)
    assert ended.rc == 0, ended.log
    assert ended.summary["documents"] == len(made.ids)
    return ended.summary


def _verify(folder: Path) -> None:
    report = verify_snapshot(str(folder / "out"), 4)
    assert report["findings"] == []
    assert report["sampled"] >= 4


def _cosines(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    one, other = one.astype(np.float64), other.astype(np.float64)
    cosines: np.ndarray[Any, Any] = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return cosines


def test_float16(made: Made, tmp_path: Path) -> None:
    got = Snapshot.read(_made(made, tmp_path, "output.vector=float16")["data"])
    assert got.vectors.dtype == np.float16
    assert got.ids == made.snapshot.ids
    assert np.array_equal(got.vectors, made.snapshot.vectors.astype(np.float16)), "rounded once, at the end"
    _verify(tmp_path)


def test_int8(made: Made, tmp_path: Path) -> None:
    """One scale for the whole snapshot, in the footer of every part."""
    summary = _made(made, tmp_path, "output.vector=int8")
    got = Snapshot.read(summary["data"])
    assert got.vectors.dtype == np.int8
    assert got.ids == made.snapshot.ids
    scale = summary["int8_scale"]
    expected = np.clip(np.rint(made.snapshot.vectors / scale), -127, 127)
    assert np.abs(got.vectors - expected).max() <= 1
    assert _cosines(got.vectors, made.snapshot.vectors).min() > 0.995
    parts = list(Path(summary["data"]).rglob("*.parquet"))
    assert len(parts) > 1
    for part in parts:
        metadata = pq.read_metadata(part).metadata
        assert float(metadata[b"reembed.int8_scale"]) == pytest.approx(scale)
    _verify(tmp_path)


def test_binary(made: Made, tmp_path: Path) -> None:
    got = Snapshot.read(_made(made, tmp_path, "output.vector=binary")["data"])
    assert (got.vectors.dtype, got.vectors.shape) == (np.uint8, (60, 48))
    assert got.ids == made.snapshot.ids
    assert np.array_equal(np.unpackbits(got.vectors, axis=1).astype(bool), made.snapshot.vectors > 0)
    _verify(tmp_path)


def test_three_columns_of_one_pass(made: Made, tmp_path: Path) -> None:
    """Against the float32 snapshot of the same texts; audited, and searched in two passes."""
    columns = "[{name: bits, type: binary}, {name: embedding}, {name: cut, dim: 256, type: int8}]"
    summary = _made(made, tmp_path, f"output.vectors={columns}")
    got = Snapshot.read(summary["data"])
    assert got.ids == made.snapshot.ids
    assert np.array_equal(got.vectors, made.snapshot.vectors)
    table = ds.dataset(summary["data"], format="parquet", partitioning="hive").to_table().sort_by("id")
    cells = {
        name: table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for name in ("embedding", "cut", "bits")
    }
    vectors, scale = cells["embedding"], summary["int8_scales"]["cut"]
    assert np.array_equal(cells["bits"], np.packbits(vectors > 0, axis=1))
    head = vectors[:, :256].astype(np.float64)
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    assert np.abs(cells["cut"] - np.clip(np.rint(head / scale), -127, 127)).max() <= 1
    assert _cosines(cells["cut"], head).min() > 0.995
    for part in Path(summary["data"]).rglob("*.parquet"):
        metadata = pq.read_metadata(part).metadata
        assert [one["name"] for one in json.loads(metadata[b"reembed.vectors"])] == ["embedding", "bits", "cut"]
        assert json.loads(metadata[b"reembed.int8_scales"]) == {"cut": scale}
    _verify(tmp_path)
    asked = ("search", str(tmp_path / "out"), "snow in the harbour", "-k", "5", "--json")
    exact, rough = (local_run(*asked, *more).summary for more in ((), ("--first", "bits", "--oversample", "12")))
    assert rough["hits"] == exact["hits"], "all 60 rows are candidates"


def test_chunks(made: Made, tmp_path: Path) -> None:
    """Every character of a long text but white space is in some chunk, and each chunk is found in its text."""
    summary = _made(made, tmp_path, "model.long_text=chunks", "model.max_tokens=24", "model.chunk_overlap=4")
    rows = ds.dataset(summary["data"], format="parquet").to_table().to_pylist()
    texts = {
        document["id"]: document["text"]
        for path in made.source.iterdir()
        for document in map(json.loads, path.read_text().splitlines())
    }
    assert summary["rows"] == len(rows) > len(texts)
    assert {row["id"] for row in rows} == set(texts)
    assert not any(row["truncated"] for row in rows)
    for name, text in texts.items():
        chunks = sorted((row for row in rows if row["id"] == name), key=lambda row: row["chunk"])
        assert [chunk["chunk"] for chunk in chunks] == list(range(len(chunks)))
        covered = set().union(*(range(chunk["chunk_start"], chunk["chunk_end"]) for chunk in chunks))
        assert all(position in covered for position, letter in enumerate(text) if not letter.isspace()), name
    _verify(tmp_path)


def test_one_vector_a_token(made: Made, tmp_path: Path) -> None:
    summary = _made(made, tmp_path, "model.pooling=tokens", "model.normalize=false", "model.max_tokens=24")
    table = ds.dataset(summary["data"], format="parquet").to_table().sort_by("id")
    assert table.column("id").to_pylist() == made.snapshot.ids
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type.value_type)
    for row in table.slice(0, 10).to_pylist():
        assert len(row["embedding"]) == len(row["tokens"]) == row["num_tokens"] <= 24
        assert (row["tokens"][0], row["tokens"][-1]) == ("[CLS]", "[SEP]")
        assert np.isfinite(row["embedding"]).all()
    _verify(tmp_path)
