"""Every way to run a family against the padded one: the same hidden states in float32, of all layers."""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from tests.workers.families import FAMILIES, of_config, random_model, sequences
from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.kernels.packing import PackedBatch, pack
from workers.engine.self_check import SAME
from workers.engine.ways.by_runs import ByRuns
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_modern import FusedModern, fits
from workers.engine.ways.interface import States
from workers.engine.ways.packed import Packed
from workers.engine.ways.padded import Padded
from workers.engine.ways.pooler import OwnPooler
from workers.engine.ways.supported import unpadded_ways

FUSED = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "Electra", "MPNet")
IN_VAIN = ("MPNet", "DebertaV2")  # take packed positions, and let sequences see each other all the same
OFFERS = [(family, Fused) for family in FUSED] + [(family, Packed) for family in FAMILIES if family not in IN_VAIN]
OFFERS += [("MPNet", ByRuns), ("ModernBert", FusedModern)]
Way = type[Fused] | type[FusedModern] | type[Packed] | type[ByRuns] | type[Padded]


def mixed_batch(*, descending: bool) -> PackedBatch:
    tokens = sequences(20, 60)
    rows = np.argsort(-tokens.lengths, kind="stable") if descending else np.arange(20)
    return pack(tokens, rows, torch.device("cpu"))


EVERY = 99  # more hidden states than there are: all, those of the embeddings included


def run(way: Way, family: str, batch: PackedBatch, *, layers: int, with_pooler: bool = False) -> States:
    model = random_model(family)
    pooler = OwnPooler(model) if with_pooler else None
    with torch.inference_mode():
        if way is Fused:
            weights = Checkpoint.of(model).bert()
            assert weights is not None
            return Fused(weights, Precision.FLOAT32, (), pooler)(batch, layers=layers)
        if way is FusedModern:
            return FusedModern(model, Precision.FLOAT32)(batch, layers=layers)
        if way is ByRuns:
            bias = Checkpoint.of(model).bert().bias  # type: ignore[union-attr]
            assert bias is not None
            return ByRuns(model, bias, pooler)(batch, layers=layers)
        if way is Packed:
            return Packed(model, pooler=pooler)(batch, layers=layers)
        return Padded(model)(batch, layers=layers)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "way"), OFFERS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("descending", [True, False], ids=["sorted", "unsorted"])
def test_the_same_states_as_padded(family: str, way: Way, descending: bool) -> None:
    batch = mixed_batch(descending=descending)
    expected, found = (run(each, family, batch, layers=EVERY) for each in (Padded, way))
    assert expected.last_TH.shape == found.last_TH.shape == (batch.tokens, 32)
    assert expected.last_TH.abs().max() > 0.1
    assert (found.last_TH - expected.last_TH).abs().max() <= 1e-5
    assert len(found.layers) == len(expected.layers) >= 4
    assert torch.equal(found.layers[-1], found.last_TH)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5
    assert all((one - other).abs().max() > 1e-2 for one, other in pairwise(found.layers)), "the same layer twice"


@pytest.mark.parametrize(
    ("family", "way"), [("Bert", Fused), ("Bert", Packed), ("Albert", Packed), ("MPNet", Fused), ("MPNet", ByRuns)],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
@torch.inference_mode()
def test_the_models_own_head_reads_each_sequence(family: str, way: Way) -> None:
    model, tokens = random_model(family), sequences(6, 30)
    batch = pack(tokens, np.arange(6), torch.device("cpu"))
    ids = torch.from_numpy(tokens.input_ids.astype(np.int64))
    alone = [model(input_ids=ids[start:stop][None]).pooler_output[0] for start, stop in pairwise(tokens.offsets)]
    found = run(way, family, batch, layers=0, with_pooler=True).pooler_BH
    assert found is not None
    assert (found - torch.stack(alone)).abs().max() <= 1e-5


@pytest.mark.parametrize("way", [Padded, Packed, Fused])
def test_layers_only_where_asked(way: Way) -> None:
    batch = mixed_batch(descending=True)
    assert run(way, "Bert", batch, layers=0).layers == ()


def test_ways_offered() -> None:
    """What needs no padding is offered to the families that take it."""
    for family in FAMILIES:
        model = random_model(family)
        offered = {
            (cuda, precision): list(unpadded_ways(Checkpoint.of(model), cuda=cuda, precision=precision))
            for cuda in (False, True)
            for precision in (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8)
        }
        packed = offered[True, Precision.FLOAT16]
        assert packed == offered[True, Precision.BFLOAT16] == offered[False, Precision.FLOAT16]
        assert packed == {"MPNet": [ByRuns], "DebertaV2": []}.get(family, [Packed]), family
        assert offered[True, Precision.FLOAT32] == ([ByRuns] if family == "MPNet" else []), "no varlen kernel in float32"
        fused = [Fused] if family in FUSED else []
        assert offered[False, Precision.INT8] == fused
        modern = [FusedModern] if family == "ModernBert" else []
        assert offered[False, Precision.FLOAT32] == offered[False, Precision.BFLOAT16] == fused + modern + packed


@pytest.mark.parametrize("family", IN_VAIN)
def test_families_that_cannot_pack_show_it(family: str) -> None:
    """An error or plainly other states: what the proof needs to see."""
    batch = mixed_batch(descending=True)
    expected = run(Padded, family, batch, layers=0).last_TH
    try:
        found = run(Packed, family, batch, layers=0).last_TH
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return
    assert (found - expected).abs().max() > 100 * SAME


def test_other_builds_are_not_fused() -> None:
    model = random_model("Bert")
    model.config.is_decoder = True
    assert Fused not in unpadded_ways(Checkpoint.of(model), cuda=False, precision=Precision.FLOAT32)
    model.config.is_decoder, model.config.hidden_act = False, "silu"
    assert Fused not in unpadded_ways(Checkpoint.of(model), cuda=False, precision=Precision.FLOAT32)
    assert Checkpoint.of(model).bert() is None


@torch.inference_mode()
def test_modernbert_with_biases_and_other_builds() -> None:
    settings = FAMILIES["ModernBert"].to_dict() | {"attention_bias": True, "mlp_bias": True, "norm_bias": True}
    model, batch = of_config(transformers.ModernBertConfig(**settings)), mixed_batch(descending=True)
    expected = Padded(copy.deepcopy(model))(batch, layers=0).last_TH
    found = FusedModern(model, Precision.FLOAT32)(batch, layers=0).last_TH
    assert (found - expected).abs().max() <= 1e-5
    rounded = FusedModern(model, Precision.BFLOAT16)(batch, layers=0).last_TH.float()
    assert 1e-4 < (rounded - expected).norm() / expected.norm() < 2e-2
    model.config.hidden_activation = "silu"
    assert not fits(model)


class Ops(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Shows(torch.nn.Module):
    """A model whose hidden states are its inputs."""

    config = SimpleNamespace(pad_token_id=7)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        assert attention_mask is not None
        return SimpleNamespace(last_hidden_state=torch.stack([input_ids, attention_mask], -1))


def test_padding_is_placed_without_asking_the_device() -> None:
    """No operator whose result's size depends on data, or that brings a number to the host: on CUDA each would wait."""
    tokens, shown = sequences(5, 9), Shows()
    batch = pack(tokens, np.arange(5), torch.device("cpu"))
    given: list[torch.Tensor] = []
    shown.register_forward_hook(lambda _module, _args, output: given.append(output.last_hidden_state))
    with Ops() as ops:
        found = Padded(shown)(batch, layers=0).last_TH
    assert not ops.names & {"nonzero", "masked_select", "index", "index_put", "index_put_", "_local_scalar_dense", "item"}
    assert torch.equal(found[:, 0], batch.ids_T)
    assert found[:, 1].all()
    for row, (start, stop) in zip(given[0], pairwise(tokens.offsets), strict=True):
        assert row[: stop - start, 0].tolist() == tokens.input_ids[start:stop].tolist()
        assert (row[stop - start :] == torch.tensor([7, 0])).all()
