"""Who takes part: how each contestant is started, where it lives, what it may be tuned with. Starts nothing itself.

A contestant is given a Parquet file, an empty place and a model, and writes Parquet with id and embedding below that place.
`NAME@setting=value,setting=value` is the same contestant with another setting: how the settings below were chosen, and how
to choose again on another machine. reembed takes its own dotted settings there (`reembed@model.batch_tokens=4096`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.contestants.environments import ROOT, python_of

REFERENCE = "st-float32"
_TORCH = ("torch", "transformers", "sentence-transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class Contestant:
    """`module` runs in `environment` ("": this one); `export`: the kind of export it reads in place of the model."""

    name: str
    title: str
    module: str
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    export: str = ""  # of peers.Race.export: openvino, onnx
    packages: tuple[str, ...] = _TORCH
    checkout: Path = ROOT  # of reembed: the tree whose code runs, with the environment that `make` put into it

    @property
    def ours(self) -> bool:
        return self.module == "jobs.cli"


def earlier(checkout: Path) -> Contestant:
    """reembed as another checkout has it, so that two commits are measured in one run.

    Raises:
        SystemExit: no checkout with an environment of its own there.
    """
    if not (checkout / ".venv" / "bin" / "python").is_file():
        raise SystemExit(f"--earlier {checkout}: no .venv there; run `make demo` in that checkout first")
    head = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    )
    name = head.stdout.strip()
    return replace(ROSTER["reembed"], name=f"reembed-{name}", title=f"reembed at {name}", checkout=checkout)


_BF16 = {"dtype": "bfloat16"}
_SMALL = {"batch-size": "16"}  # see st_openvino
_OPENVINO: dict[str, Any] = {
    "environment": "openvino",
    "export": "openvino",
    "packages": (*_TORCH, "openvino", "optimum-intel", "nncf"),
}
_ONNX = ("onnxruntime", "tokenizers")
_RAY = (*_TORCH, "ray", "pyarrow")
_OURS = (*_TORCH, "ray", "pyarrow", "openvino", "nncf", "zentorch")
ROSTER = {
    item.name: item
    for item in (
        Contestant("reembed", "reembed", "jobs.cli", packages=_OURS),
        Contestant("reembed-float32", "reembed, float32", "jobs.cli", {"model.precision": "float32"}, packages=_OURS),
        Contestant("reembed-int8", "reembed, int8", "jobs.cli", {"model.precision": "int8"}, packages=_OURS),
        Contestant("st-float32", "sentence-transformers", "st_torch"),
        Contestant("st-bfloat16", "sentence-transformers, bf16", "st_torch", _BF16),
        Contestant("st-openvino", "sentence-transformers, OpenVINO", "st_openvino", _SMALL, **_OPENVINO),
        Contestant(
            "st-openvino-float32",
            "sentence-transformers, OpenVINO f32",
            "st_openvino",
            {"precision": "f32", **_SMALL},
            **_OPENVINO,
        ),
        Contestant(
            "st-openvino-int8",
            "sentence-transformers, OpenVINO int8",
            "st_openvino",
            {"weights": "int8", **_SMALL},
            **_OPENVINO,
        ),
        Contestant("ray-data-float32", "Ray Data + sentence-transformers", "ray_data", packages=_RAY),
        Contestant("ray-data-bfloat16", "Ray Data + sentence-transformers, bf16", "ray_data", _BF16, packages=_RAY),
        Contestant(
            "fastembed",
            "fastembed, ONNX Runtime",
            "fastembed_onnx",
            _SMALL,
            environment="fastembed",
            export="onnx",
            packages=("fastembed", *_ONNX),
        ),
        Contestant(
            "embed-anything",
            "EmbedAnything, ONNX Runtime",
            "embed_anything",
            {"backend": "onnx", **_SMALL},
            environment="embed-anything",
            export="onnx",
            packages=("embed_anything", "onnxruntime"),
        ),
        Contestant("daft", "Daft embed_text", "daft_embed", environment="daft", packages=(*_TORCH, "daft", "pyarrow")),
    )
}
STANDARD = tuple(name for name in ROSTER if name != "reembed-int8")
"""Who runs when nobody is named: an 8-bit model of ours is an explicit opt-in here as everywhere."""


def find(name: str) -> Contestant:
    """`NAME` or `NAME@setting=value,...`.

    Raises:
        SystemExit: no such contestant, or a setting without a value.
    """
    plain, _, settings = name.partition("@")
    if plain not in ROSTER:
        raise SystemExit(f"no contestant {plain!r}; there are: {', '.join(ROSTER)}")
    pairs = [pair.partition("=") for pair in settings.split(",") if pair]
    if any(not equals for _, equals, _ in pairs):
        raise SystemExit(f"{name}: write NAME@setting=value,setting=value")
    found = ROSTER[plain]
    extra = {key: value for key, _, value in pairs}
    title = f"{found.title} ({settings})" if settings else found.title
    return replace(found, name=name, title=title, settings={**found.settings, **extra})


def command(contestant: Contestant, corpus: Path, output: Path, model: Path) -> list[str]:
    """The process to start; `output` is not there yet. Writes reembed's configuration beside it, before any clock runs."""
    if contestant.ours:
        config = output.with_suffix(".yaml")
        config.write_text(
            yaml.safe_dump(
                {
                    "corpus": {"uri": str(corpus), "id": "id", "text": "text"},
                    "model": {"name": str(model)},
                    "output": {"uri": str(output)},
                    "cluster": {"address": "local"},
                }
            )
        )
        overrides = [f"{key}={value}" for key, value in contestant.settings.items()]
        python = sys.executable if contestant.checkout == ROOT else str(contestant.checkout / ".venv" / "bin" / "python")
        return [python, "-m", "jobs.cli", "embed", str(config), *overrides, "--json"]
    settings = [part for key, value in contestant.settings.items() for part in (f"--{key}", value)]
    module = f"benchmarks.contestants.{contestant.module}"
    python = str(python_of(contestant.environment))
    return [python, "-m", module, str(corpus), str(output), "--model", str(model), *settings]


def surroundings() -> dict[str, str]:
    """What every contestant finds: no network, no telemetry, nothing that limits threads or points to another cluster."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_ADDRESS", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in limits}
    silent = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "true"}
    return kept | silent


__all__ = ["REFERENCE", "ROOT", "ROSTER", "STANDARD", "Contestant", "command", "earlier", "find", "surroundings"]
