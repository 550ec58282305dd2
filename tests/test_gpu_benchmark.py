"""benchmarks/gpu: every section at the smallest size on a CPU, what outlives an early end, and the kit that travels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gpu.__main__ import SECTIONS
from benchmarks.gpu.prepare import half_model, pinned, without_jar
from benchmarks.gpu.session import Session

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["a short text", "another one, which is a little longer than that", "word " * 300]


def write_corpus(path: Path) -> Path:
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts, "section": ["x"] * len(texts)}), path)
    return path


@pytest.mark.slow
@pytest.mark.ray
def test_every_section_runs_on_a_cpu(tmp_path: Path, small_model: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.parquet")
    command = [sys.executable, "-m", "benchmarks.gpu", str(corpus), "--model", str(small_model), "--models", "given"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--smoke", "--out", str(tmp_path / "out"), "--commit", "abc"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert set(SECTIONS) <= found.keys()
    name = f"{small_model.parent.name}/{small_model.name}"
    one: dict[str, dict[str, Any]] = {section: found[section].get(name, found[section].get("all")) for section in SECTIONS}
    # 8 times: 4 and 11 tokens, the third cut where the model's positions end; [CLS] and [SEP] count
    positions = json.loads((small_model / "config.json").read_text())["max_position_embeddings"]
    assert one["load"]["tokens"] == 8 * (4 + 2 + 11 + 2 + positions)
    assert one["load"]["longest"] == positions
    assert one["correctness"]["lengths"]["cosine_min"] > 0.999
    assert one["correctness"]["varlen, 32 components a head"]["worst_relative_error"] < 1e-5
    assert any(way.startswith("Packed ") for way in one["ways"])
    for way in (way for way in one["ways"].values() if isinstance(way, dict)):
        speed = way["256"]
        assert 0 < speed["host_ms"] <= speed["whole_ms"]
        assert sum(kernel["share"] for kernel in way["kernels"]) == pytest.approx(1.0, abs=0.35)
    assert one["end_to_end"]["1 replica"]["tokens"] == one["load"]["tokens"]
    assert one["tokenizer"]["1 cores"]["documents"] == 24
    assert one["peers"]["sentence-transformers float32, sdpa"]["cosine_min_to_ours"] > 0.999
    assert "Packed" in (tmp_path / "out" / f"kernels_{name.replace('/', '_')}.txt").read_text()


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "none.parquet", "--model", "none", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 2
    assert "--smoke" in done.stderr


def stored(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "gpu.json").read_text()))


def test_figures_outlive_a_section_that_fails(tmp_path: Path) -> None:
    def section() -> Iterator[tuple[str, Any]]:
        yield "first", 1.5
        assert stored(tmp_path)["ways"]["m"] == {"first": 1.5}, "it is written as it comes"
        raise ValueError("no kernel image")

    session = Session({"rows": 3}, tmp_path, 60.0)
    assert not session.run("ways", "m", 1.0, section())
    assert session.run("whole", "m", 1.0, iter([("rate", 2)]))
    session.close()
    found = stored(tmp_path)
    assert (found["rows"], found["ways"]["m"]["first"], found["whole"]["m"]["rate"]) == (3, 1.5, 2)
    assert session.failures == ["ways: m: ValueError: no kernel image"]


def test_the_budget_holds(tmp_path: Path) -> None:
    session = Session({}, tmp_path, 60.0)
    assert not session.run("ceilings", "", 61.0, iter([("copy", 1)]))
    assert stored(tmp_path)["ceilings"]["all"] == {"skipped": "needs some 61 s, 60 are left"}
    session._began -= 59.5

    def section() -> Iterator[tuple[str, Any]]:
        yield "in time", 1
        session._began -= 1.0
        yield "over it", 2
        raise AssertionError("it goes on after the budget")

    assert not session.run("ways", "m", 0.1, section())
    session.close()
    place = stored(tmp_path)["ways"]["m"]
    assert (place["in time"], place["over it"], "ended_early" in place) == (1, 2, True)
    assert session.failures == []


def test_a_failed_check_is_a_failure(tmp_path: Path) -> None:
    session = Session({}, tmp_path, 60.0)
    session.run("correctness", "m", 1.0, iter([("lengths", {"failed_checks": ["least 0.2"]}), ("varlen", {"failed": "x"})]))
    session.close()
    assert session.failures == ["correctness: m: lengths: least 0.2", "correctness: m: varlen: x"]


def test_the_kit_has_the_model_in_half_precision(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    weight = torch.linspace(-2, 2, 7)
    save_file({"w": weight, "ids": torch.arange(3)}, source / "model.safetensors")
    half_model(source, tmp_path / "kit")
    found = load_file(tmp_path / "kit" / "model.safetensors")
    assert (found["w"].dtype, found["ids"].dtype) == (torch.float16, torch.int64)
    assert np.array_equal(found["w"].numpy(), weight.numpy().astype(np.float16))
    assert (tmp_path / "kit" / "config.json").exists()
    assert load_file(source / "model.safetensors")["w"].dtype == torch.float32


def test_rays_jar_stays_at_home(tmp_path: Path) -> None:
    wheel = tmp_path / "ray-1-cp312-none-any.whl"
    record = "ray/__init__.py,sha256=a,1\nray/jars/ray_dist.jar,sha256=b,2\nray-1.dist-info/RECORD,,\n"
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in {"ray/__init__.py": "x", "ray/jars/ray_dist.jar": "y", "ray-1.dist-info/RECORD": record}.items():
            file.writestr(name, text)
    without_jar(wheel)
    with zipfile.ZipFile(wheel) as file:
        assert file.namelist() == ["ray/__init__.py", "ray-1.dist-info/RECORD"]
        assert file.read("ray-1.dist-info/RECORD").decode().splitlines() == [
            "ray/__init__.py,sha256=a,1",
            "ray-1.dist-info/RECORD,,",
        ]


def test_the_kits_wheels_are_those_of_the_project() -> None:
    versions = pinned()
    assert {"ray", "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "tenacity"} <= versions.keys()
