"""Encoder layers of BERT-like models on CUDA, over packed tokens: seven kernels a layer.

    x -> qkv (one product) -> attention -> out -> LayerNorm(out + bias + x)
      -> up, with the activation -> down -> LayerNorm(down + bias + x)

    HalfLayer        float16 or bfloat16; on a CPU also float32, where the self-check proves the layers
    Float8Layer      the four products in 8 bits (kernels/float8.py); attention, residuals and LayerNorm in bfloat16
    CudaEmbeddings   token ids and positions to the first hidden states

On CUDA, cuBLAS computes the activation within the product (`epilogue`): relu, or the tanh form of GELU (arXiv:1606.08415,
section 2), which differs from the erf form by up to 5e-4. transformers' modules launch thirteen kernels a layer. What lies
beside the products moves a third of their bytes here. Others with such layers: Apex' FusedDense, text-embeddings-inference's
flash_bert.rs.

Shapes: T tokens, I hidden size, H heads, d size of a head, E size of an embedding.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from workers.engine.bert.weights import EmbeddingWeights, LayerWeights, Norm
from workers.engine.kernels import attention
from workers.engine.kernels.attention import SCORE_UNIT
from workers.engine.kernels.float8 import Codes, Float8Linear
from workers.engine.kernels.packing import PackedBatch

IN_EPILOGUE = ("gelu_tanh", "relu")  # activations that cuBLAS computes as the model defines them


class Stream(NamedTuple):
    """Hidden states between two layers."""

    states_TI: Tensor
    codes: Codes | None = None  # the same in 8 bits, for the next product


class CudaLayer(Protocol):
    """One encoder layer."""

    def __call__(self, x: Stream, batch: PackedBatch) -> Stream: ...


class HalfLayer:
    """One layer, computed in `dtype`.

    Args:
        rows: kernels.triton_rows, or kernels.torch_rows.
        epilogue: compute GELU in its tanh form, within the product. Relu is computed there in any case.
    """

    def __init__(
        self, weights: LayerWeights, dtype: torch.dtype, device: torch.device, rows: ModuleType, *, epilogue: bool
    ) -> None:
        def put(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype).contiguous()

        self._heads, self._activation, self._rows = weights.heads, weights.activation, rows
        self._epilogue = epilogue or weights.activation in IN_EPILOGUE
        (self._qkv, self._qkv_bias), (self._out, self._out_bias) = (
            _product(*pair, put) for pair in (weights.qkv, weights.out)
        )
        (self._up, self._up_bias), (self._down, self._down_bias) = (
            _product(*pair, put) for pair in (weights.up, weights.down)
        )
        self._attention_norm, self._output_norm = (_put(norm, put) for norm in (weights.attention_norm, weights.output_norm))

    def __call__(self, x: Stream, batch: PackedBatch) -> Stream:
        """Raises: as PyTorch."""
        x_TI = x.states_TI
        attended = _attend(torch.addmm(self._qkv_bias, x_TI, self._qkv), self._heads, batch)
        middle = self._rows.add_norm(torch.mm(attended, self._out), self._out_bias, x_TI, self._attention_norm)
        return Stream(
            self._rows.add_norm(torch.mm(self._wide(middle), self._down), self._down_bias, middle, self._output_norm)
        )

    def _wide(self, middle_TI: Tensor) -> Tensor:
        """The feed-forward network's inner states. A CPU's epilogue is the erf form, so there it is used for relu alone."""
        if self._epilogue and (middle_TI.is_cuda or self._activation == "relu"):
            run: Any = torch._addmm_activation
            return run(self._up_bias, middle_TI, self._up, use_gelu=self._activation != "relu")  # type: ignore[no-any-return]
        wide = torch.addmm(self._up_bias, middle_TI, self._up)
        in_place: Any = torch.ops.aten.gelu_
        return in_place(wide, approximate="tanh" if self._activation == "gelu_tanh" else "none")  # type: ignore[no-any-return]


class Float8Layer:
    """One layer with 8-bit products. Raises: ValueError: as Float8Linear."""

    def __init__(self, weights: LayerWeights, device: torch.device, rows: ModuleType) -> None:
        def put(tensor: Tensor) -> Tensor:
            return tensor.to(device, torch.bfloat16).contiguous()

        self._heads, self._activation, self._rows = weights.heads, weights.activation, rows
        self._qkv, self._up = Float8Linear(*weights.qkv, device), Float8Linear(*weights.up, device)
        self._out, self._down = (Float8Linear(weight, None, device) for weight, _ in (weights.out, weights.down))
        self._out_bias, self._down_bias = put(weights.out[1]), put(weights.down[1])
        self._attention_norm, self._output_norm = (_put(norm, put) for norm in (weights.attention_norm, weights.output_norm))

    def __call__(self, x: Stream, batch: PackedBatch) -> Stream:
        """Raises: as PyTorch."""
        rows, codes = self._rows, x.codes or self._rows.codes(x.states_TI)
        attended = rows.codes(_attend(self._qkv(codes), self._heads, batch))
        middle, codes = rows.add_norm_codes(self._out(attended), self._out_bias, x.states_TI, self._attention_norm)
        wide = rows.codes(self._up(codes), self._activation)
        return Stream(*rows.add_norm_codes(self._down(wide), self._down_bias, middle, self._output_norm))


class CudaEmbeddings:
    """Token ids and positions -> [T, I]."""

    def __init__(self, weights: EmbeddingWeights, dtype: torch.dtype, device: torch.device, rows: ModuleType) -> None:
        def put(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype).contiguous()

        self._words, self._positions, self._rows = put(weights.words), put(weights.positions), rows
        self._norm, self._uncounted = _put(weights.norm, put), weights.uncounted
        self._project = _product(*weights.project, put) if weights.project else None

    def __call__(self, batch: PackedBatch) -> Stream:
        places_T = batch.positions_T if self._uncounted is None else batch.positions_without(self._uncounted) + 1
        x_TE = self._rows.embed_norm(batch.ids_T, places_T, self._words, self._positions, self._norm)
        if self._project is None:
            return Stream(x_TE)
        weight, bias = self._project
        return Stream(torch.addmm(bias, x_TE, weight))


def _attend(qkv: Tensor, heads: int, batch: PackedBatch) -> Tensor:
    """[T, H d] from the fused projection [T, 3 H d]. The scale is part of the weights, in SCORE_UNITs."""
    query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    attend = attention.varlen if attention.takes_varlen(query, value) else attention.by_runs
    return attend(query, key, value, batch, SCORE_UNIT).reshape(len(qkv), -1)


def _product(weight: Tensor, bias: Tensor, put: Any) -> tuple[Tensor, Tensor]:
    """Weight [I, O] (a view, so that cuBLAS reads rows of [O, I]) and bias [O]."""
    return put(weight).t(), put(bias)


def _put(norm: Norm, put: Any) -> Norm:
    return Norm(put(norm.weight), put(norm.bias), norm.eps)
