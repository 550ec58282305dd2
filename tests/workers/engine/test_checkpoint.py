"""Weights read from the files equal those that transformers loads; unusual checkpoints go through transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.families import FAMILIES, random_model, sequences
from workers.config import Precision
from workers.engine.bert.facts import facts_of
from workers.engine.bert.weights import BertWeights
from workers.engine.checkpoint import Checkpoint
from workers.engine.kernels.packing import pack
from workers.engine.ways.fused import Fused
from workers.engine.ways.padded import Padded
from workers.errors import UsageError

FUSED = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "Electra")


def saved(tmp_path: Path, family: str) -> tuple[Path, Any]:
    model = random_model(family)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def from_files(folder: Path) -> tuple[BertWeights | None, bool]:
    """The weights, and whether transformers had to be asked."""
    checkpoint = Checkpoint(folder, "m", with_pooler=False)
    return checkpoint.bert(), checkpoint._model is not None


def rewrite(folder: Path, change: Any) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})


@torch.inference_mode()
def states(weights: BertWeights | None) -> torch.Tensor:
    assert weights is not None
    batch = pack(sequences(6, 20), np.arange(6), torch.device("cpu"))
    return Fused(weights, Precision.FLOAT32, ())(batch, layers=0).last_TH


@torch.inference_mode()
def expected(model: Any) -> torch.Tensor:
    batch = pack(sequences(6, 20), np.arange(6), torch.device("cpu"))
    return Padded(model)(batch, layers=0).last_TH


@pytest.mark.parametrize("family", FUSED)
def test_from_files_alone(tmp_path: Path, family: str) -> None:
    folder, model = saved(tmp_path, family)
    weights, asked = from_files(folder)
    assert (states(weights) - expected(model)).abs().max() <= 1e-5
    assert not asked


@pytest.mark.parametrize("family", FUSED)
def test_checkpoints_with_a_head_and_old_names(tmp_path: Path, family: str) -> None:
    """As BertForMaskedLM saves them, and as TensorFlow's first ones were called."""
    folder, model = saved(tmp_path, family)
    prefix = {"XLMRoberta": "roberta"}.get(family, family.lower())

    def old(name: str) -> str:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return f"{prefix}.{name}"

    rewrite(folder, lambda state: {old(name): tensor for name, tensor in state.items()})
    weights, asked = from_files(folder)
    assert (states(weights) - expected(model)).abs().max() <= 1e-5
    assert not asked


def test_half_precision_and_several_files(tmp_path: Path) -> None:
    folder, model = saved(tmp_path, "Bert")
    state = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names, halves = sorted(state), {}
    for number in (0, 1):
        part = {name: state[name] for name in names[number::2]}
        halves |= dict.fromkeys(part, f"model-{number}.safetensors")
        save_file(part, folder / f"model-{number}.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": halves}))
    weights, asked = from_files(folder)
    assert not asked
    assert (states(weights) - expected(model.half().float())).abs().max() <= 1e-5


def test_what_config_json_leaves_open_is_left_to_transformers(tmp_path: Path) -> None:
    folder, model = saved(tmp_path, "Bert")
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    weights, asked = from_files(folder)
    assert asked
    assert (states(weights) - expected(model)).abs().max() <= 1e-5


def test_a_missing_weight_is_named_as_before(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "Bert")
    lost = "encoder.layer.1.output.dense.weight"
    rewrite(folder, lambda state: {name: tensor for name, tensor in state.items() if name != lost})
    with pytest.raises(UsageError, match=rf"model\.name=m: the checkpoint lacks 1 weights of the model \({lost}\)"):
        Checkpoint(folder, "m", with_pooler=False).bert()


def test_other_families_are_not_taken_apart(tmp_path: Path) -> None:
    for family in FAMILIES.keys() - {*FUSED, "MPNet"}:
        assert facts_of(FAMILIES[family].to_dict() | {"model_type": FAMILIES[family].model_type}) is None
    folder, _ = saved(tmp_path, "DebertaV2")
    assert from_files(folder) == (None, True)


@pytest.mark.slow
def test_transformers_is_not_even_imported(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "Bert")
    code = (
        "import sys, pathlib; from workers.engine.checkpoint import Checkpoint; import workers.replica.replica;"
        f"c = Checkpoint(pathlib.Path({str(folder)!r}), 'm', with_pooler=False);"
        "print(c.hidden, c.layers, c.vocabulary, 'transformers.modeling_utils' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=400)
    assert done.stdout.split() == ["32", "4", "30522", "False"]


@pytest.mark.parametrize("family", ["Bert", "MPNet"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, family: str, value: float) -> None:
    folder, _ = saved(tmp_path, family)
    spoilt = next(name for name in load_file(folder / "model.safetensors") if "layer.1.output.dense.weight" in name)

    def spoil(state: Any) -> Any:
        state[spoilt][3, 5] = value
        return state

    rewrite(folder, spoil)
    with pytest.raises(UsageError, match=r"m: 1 weights hold NaN or Inf \(encoder\.layer\.1\.output\.dense\.weight\)"):
        Checkpoint(folder, "m", with_pooler=False).bert() or Checkpoint(folder, "m", with_pooler=False).transformer()


@pytest.mark.parametrize("family", ["Bert", "Albert", "ModernBert"])
def test_a_weight_that_nobody_uses_is_named(tmp_path: Path, family: str) -> None:
    folder, _ = saved(tmp_path, family)
    rewrite(folder, lambda state: state | {"linear.weight": torch.ones(2, 2)})
    with pytest.raises(UsageError, match=r"weights that the encoder does not use \(linear\.weight\)"):
        Checkpoint(folder, "m", with_pooler=False).vocabulary  # noqa: B018 - reads the weights


def test_heads_for_pretraining_are_passed_over(tmp_path: Path) -> None:
    folder, model = saved(tmp_path, "Bert")
    unused = {"cls.predictions.bias": torch.ones(2), "embeddings.position_ids": torch.ones(1, 2)}
    rewrite(folder, lambda state: state | unused)
    weights, asked = from_files(folder)
    assert not asked
    assert (states(weights) - expected(model)).abs().max() <= 1e-5
