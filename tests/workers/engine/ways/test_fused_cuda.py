"""Layers of our own for CUDA: against transformers in float32 on the CPU, and their calls on a CUDA device without a GPU.

The cases named triton run the real kernels in Triton's interpreter (see kernels/test_rows.py).
"""

from __future__ import annotations

import collections
import dataclasses
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.workers.engine.fake_cuda import load_guard
from tests.workers.families import FAMILIES, TINY, of_config, of_lengths
from workers.config import Precision
from workers.engine.bert.weights import BertWeights, Norm
from workers.engine.checkpoint import Checkpoint
from workers.engine.kernels import torch_rows, triton_rows
from workers.engine.kernels.packing import PackedBatch, pack
from workers.engine.ways.fused_cuda import (
    FusedCuda,
    FusedCudaEpilogue,
    fused_cuda_ways,
    why_not_float8,
)
from workers.engine.ways.interface import States
from workers.engine.ways.padded import Padded
from workers.model.architecture import OFFSET_POSITIONS

CPU = torch.device("cpu")
CONFIGS: dict[str, Any] = {
    **{name: FAMILIES[name] for name in ("Bert", "Roberta", "XLMRoberta", "DistilBert", "Electra")},
    "Camembert": transformers.CamembertConfig(**TINY, type_vocab_size=1),
    "tanh GELU": transformers.BertConfig(**TINY, hidden_act="gelu_new"),
    "relu": transformers.BertConfig(**TINY, hidden_act="relu"),
}
INTERPRETS = triton_rows.why_absent is None and os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETS, reason="run by kernels/test_rows.py, in a process of its own")
ROWS = [pytest.param(torch_rows, id="torch"), pytest.param(triton_rows, id="triton", marks=interpreted)]


def model_of(name: str) -> Any:
    config = CONFIGS[name]
    return of_config(type(config)(**config.to_dict()))


def weights_of(model: Any) -> BertWeights:
    weights = Checkpoint.of(model).bert()
    assert weights is not None
    return weights


def batch_of(*lengths: int, padding: int | None = None) -> PackedBatch:
    tokens = of_lengths(np.array(lengths))
    if padding is not None:
        tokens.input_ids[3] = padding  # which has no position of its own in these families
    return pack(tokens, np.arange(len(lengths)), CPU)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_states_as_transformers(name: str, rows: ModuleType) -> None:
    model = model_of(name)
    kind = model.config.model_type
    batch = batch_of(9, 3, 7, 1, padding=model.config.pad_token_id if kind in OFFSET_POSITIONS else None)
    with torch.inference_mode():
        expected = Padded(model)(batch, layers=99)
        way = fused_cuda_ways(weights_of(model), Precision.FLOAT32)[0]
        found = way(weights_of(model), Precision.FLOAT32, CPU, rows)(batch, layers=99)
    assert found.last_TH.shape == expected.last_TH.shape
    assert expected.last_TH.abs().max() > 0.1
    assert (found.last_TH - expected.last_TH).abs().max() <= 1e-5
    assert len(found.layers) == len(expected.layers) >= 4
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5


def test_the_tanh_form_is_offered_where_it_differs() -> None:
    """For a model with the erf form only, and not with 8-bit products, whose GELU is a kernel of its own."""
    erf, tanh, relu = (weights_of(model_of(name)) for name in ("Bert", "tanh GELU", "relu"))
    assert fused_cuda_ways(erf, Precision.FLOAT16) == (FusedCudaEpilogue, FusedCuda)
    assert fused_cuda_ways(erf, Precision.FLOAT8) == (FusedCuda,)
    assert fused_cuda_ways(tanh, Precision.FLOAT16) == fused_cuda_ways(relu, Precision.BFLOAT16) == (FusedCuda,)


def test_what_float8_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_rows, "why_unusable", lambda _: None)
    weights = weights_of(model_of("Bert"))
    assert why_not_float8(weights, (9, 0)) is None
    assert why_not_float8(weights, (8, 9)) is None
    assert why_not_float8(weights, (8, 6)) == "this GPU has compute capability 8.6, 8.9 is needed"
    assert "only BERT" in (why_not_float8(None, (9, 0)) or "")
    config = transformers.BertConfig(**{**TINY, "intermediate_size": 40})
    assert "40 channels" in (why_not_float8(weights_of(of_config(config)), (9, 0)) or "")
    monkeypatch.setattr(triton_rows, "why_unusable", lambda _: "Triton cannot be imported (No module named 'triton')")
    assert "Triton" in (why_not_float8(weights, (9, 0)) or "")


@pytest.fixture(scope="module")
def cuda_guard() -> None:
    load_guard()


class Calls(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.name().removeprefix("aten::").split(".")[0]] += 1
        return function(*args, **(kwargs or {}))


def faked(mode: FakeTensorMode, value: Any) -> Any:
    """A record of weights with fake tensors in it."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, tuple):
        return tuple(faked(mode, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return type(value)(**{name: faked(mode, getattr(value, name)) for name in names})
    return value


def on_cuda(way: type[FusedCuda], weights: BertWeights, precision: Precision) -> tuple[States, collections.Counter[str]]:
    """The states of 20 tokens, and how often each operator was called for them."""
    device, lengths = torch.device("cuda"), np.array([9, 3, 7, 1])
    offsets = np.concatenate([[0], lengths.cumsum()])
    with FakeTensorMode() as mode:
        forward = way(faked(mode, weights), precision, device, torch_rows)
        ids, places = (torch.zeros(20, dtype=torch.int64, device=device) for _ in range(2))
        batch = PackedBatch(ids, places, lengths, offsets, torch.zeros(5, dtype=torch.int32, device=device))
        with torch.inference_mode(), Calls() as calls:
            return forward(batch, layers=4), calls.counts


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, Precision.FLOAT16) for name in ("Bert", "Roberta", "DistilBert", "Electra", "relu")),
        *((name, Precision.FLOAT8) for name in ("Bert", "Roberta", "Electra")),
        ("Bert", Precision.BFLOAT16),
    ],
)
@pytest.mark.usefixtures("cuda_guard")
def test_the_calls_on_cuda(name: str, precision: Precision) -> None:
    """Four products and one attention a layer, the activation within the product; nothing waits for the device."""
    weights = weights_of(model_of(name))
    states, counts = on_cuda(fused_cuda_ways(weights, precision)[0], weights, precision)
    expected = torch.float16 if precision is Precision.FLOAT16 else torch.bfloat16
    for state in (states.last_TH, *states.layers):
        assert (state.shape, state.dtype, state.device.type) == ((20, 32), expected, "cuda")
    assert counts["_flash_attention_forward"] == 4
    assert counts["_local_scalar_dense"] == counts["nonzero"] == 0
    if precision is Precision.FLOAT8:
        assert counts["_scaled_mm"] == 16
    else:
        assert (counts["_addmm_activation"], counts["mm"]) == (4, 8)
        assert counts["addmm"] == 4 + (name == "Electra")  # its embeddings are projected
        assert counts["gelu"] == counts["gelu_"] == 0


@pytest.mark.usefixtures("cuda_guard")
def test_erf_gelu_on_cuda_is_a_kernel_of_its_own() -> None:
    _, counts = on_cuda(FusedCuda, weights_of(model_of("Bert")), Precision.FLOAT16)
    assert (counts["gelu_"], counts["_addmm_activation"], counts["addmm"]) == (4, 0, 8)


@pytest.mark.slow
def test_float8_keeps_the_vectors_of_a_trained_model(minilm: Path) -> None:
    """The 8-bit products emulated on the CPU, with MiniLM's own weights: cosines of mean-pooled vectors to transformers."""
    from tests.workers.models import TEXTS, layout
    from workers.model.golden import GOLDEN_TEXTS
    from workers.model.tokenizer import TextTokenizer

    files, recipe = layout(minilm)
    tokens = TextTokenizer(files.folder, recipe).tokenize([*GOLDEN_TEXTS, *TEXTS])
    batch = pack(tokens, np.flatnonzero(tokens.lengths), CPU)
    checkpoint = Checkpoint(files.folder, files.name, with_pooler=False)
    weights = checkpoint.bert()
    assert weights is not None
    with torch.inference_mode():
        exact = pooled(Padded(checkpoint.transformer())(batch, layers=0).last_TH, batch)
        found = pooled(FusedCuda(weights, Precision.FLOAT8, CPU)(batch, layers=0).last_TH, batch)
    cosines = torch.cosine_similarity(exact, found)
    print(cosines.mean(), cosines.min())
    assert cosines.mean() >= 0.99
    assert cosines.min() >= 0.97


def pooled(states_TH: Tensor, batch: PackedBatch) -> Tensor:
    borders = batch.cumulative_B1.to(torch.int64)
    return torch_rows.segment_mean(states_TH, borders[:-1], borders[1:]).double()


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT8])
def test_on_a_gpu_the_states_are_those_of_transformers(name: str, precision: Precision) -> None:
    """Both forms of GELU, against float32 on the CPU; a text's states do not depend on the other texts of its batch."""
    device = torch.device("cuda")
    model, weights = model_of(name), weights_of(model_of(name))
    if precision is Precision.FLOAT8 and (reason := why_not_float8(weights, torch.cuda.get_device_capability())):
        pytest.skip(reason)
    tokens = of_lengths(np.array([60, 33, 16, 9, 1]))
    batch = pack(tokens, np.arange(5), device)
    with torch.inference_mode():
        expected = Padded(model)(pack(tokens, np.arange(5), CPU), layers=0).last_TH
        for way in fused_cuda_ways(weights, precision):
            forward = way(weights, precision, device)
            found = forward(batch, layers=4)
            assert len(found.layers) == 4
            cosines = torch.cosine_similarity(found.last_TH.float().cpu(), expected)
            assert cosines.mean() >= (0.99 if precision is Precision.FLOAT8 else 0.999), way
            alone = forward(pack(tokens, np.array([2]), device), layers=0).last_TH
            assert torch.cosine_similarity(alone.float(), found.last_TH[93:109].float()).min() >= 0.9999


@pytest.mark.gpu
def test_on_a_gpu_the_row_kernels_are_those_of_torch() -> None:
    """At the sizes of real models, more rows than a wave of the GPU has programs."""
    device = torch.device("cuda")
    triton_rows.why_unusable.cache_clear()  # fake tensors, of other tests, cannot be computed with
    assert triton_rows.why_unusable(device) is None
    generator = torch.Generator(device).manual_seed(3)
    for width in (384, 768, 1024, 4096):
        x, residual = (torch.randn(20000, width, generator=generator, device=device).bfloat16() for _ in range(2))
        bias, weight, shift = (torch.randn(width, generator=generator, device=device).bfloat16() for _ in range(3))
        norm = Norm(weight, shift, 1e-12)
        (found, codes), (expected, exact) = (
            rows.add_norm_codes(x, bias, residual, norm) for rows in (triton_rows, torch_rows)
        )
        assert torch.equal(found, triton_rows.add_norm(x, bias, residual, norm))
        assert (found.float() - expected.float()).abs().max() <= 0.02 * expected.float().abs().max()
        assert torch.allclose(codes.scales_T1, exact.scales_T1, rtol=1e-5)
        assert (codes.values_TH.float() != exact.values_TH.float()).float().mean() <= 1e-3
        for activation in ("none", "gelu", "gelu_tanh", "relu"):
            codes, exact = (rows.codes(x, activation) for rows in (triton_rows, torch_rows))
            assert torch.allclose(codes.scales_T1, exact.scales_T1, rtol=1e-5)
            assert (codes.values_TH.float() != exact.values_TH.float()).float().mean() <= 1e-3
        ends = torch.arange(50, 20001, 50, device=device)
        means, exact_means = (rows.segment_mean(x, ends - 50, ends) for rows in (triton_rows, torch_rows))
        assert torch.allclose(means, exact_means, rtol=1e-5, atol=1e-5)
