"""Layers of our own for BERT-like models on CUDA, without padding.

    FusedCuda           the activation as the model defines it
    FusedCudaEpilogue   GELU in its tanh form, within the product: faster, and offered only for models with the erf form

Both are proved as every way is: in float32 on the CPU against transformers (there without Triton, and GELU in its erf form),
then on the device, in the precision of the run, by the golden texts. The second must pass the tolerance with its own GELU.
"""

from __future__ import annotations

from types import ModuleType

import torch

from workers.config import Precision
from workers.engine.batches.plan import Layout
from workers.engine.bert.cuda_layers import IN_EPILOGUE, CudaEmbeddings, CudaLayer, Float8Layer, HalfLayer
from workers.engine.bert.weights import BertWeights
from workers.engine.kernels import torch_rows
from workers.engine.kernels.float8 import CAPABILITY, MULTIPLE
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import States


class FusedCuda:
    """BERT-like layers of our own (bert/cuda_layers.py)."""

    layout = Layout.PACKED
    epilogue = False

    def __init__(
        self, weights: BertWeights, precision: Precision, device: torch.device, rows: ModuleType | None = None
    ) -> None:
        """`rows`: the row kernels; None: Triton's on CUDA, torch's elsewhere.

        Raises:
            ValueError: float8, and a layer's sizes are no multiples of 16. ImportError: a CUDA device without Triton.
        """
        rows = rows or _rows_for(device)
        self.name = f"fused {precision.value}{', tanh GELU' if self.epilogue else ''}"
        layers: list[CudaLayer]
        if precision is Precision.FLOAT8:
            dtype = torch.bfloat16
            layers = [Float8Layer(layer, device, rows) for layer in weights.layers]
        else:
            dtype = getattr(torch, precision.value)
            layers = [HalfLayer(layer, dtype, device, rows, epilogue=self.epilogue) for layer in weights.layers]
        self._embeddings, self._layers = CudaEmbeddings(weights.embeddings, dtype, device, rows), layers

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        x = self._embeddings(batch)
        kept = [x.states_TI]
        for layer in self._layers:
            x = layer(x, batch)
            if layers:
                kept = [*kept, x.states_TI][-layers:]
        return States(x.states_TI, tuple(kept) if layers else ())


class FusedCudaEpilogue(FusedCuda):
    """The same, with GELU in its tanh form."""

    epilogue = True
    on_cpu = FusedCuda  # where it computes the erf form as well


def fused_cuda_ways(weights: BertWeights, precision: Precision) -> tuple[type[FusedCuda], ...]:
    """The variants that differ for this model in this precision, the one that should be faster first."""
    erf = any(layer.activation not in IN_EPILOGUE for layer in weights.layers)
    return (FusedCudaEpilogue, FusedCuda) if erf and precision is not Precision.FLOAT8 else (FusedCuda,)


def why_not_fused() -> str | None:
    """Why these layers cannot be used on this replica's GPU; None: they can."""
    from workers.engine.kernels import triton_rows  # imports Triton, if there is one

    return triton_rows.why_unusable(torch.device("cuda"))


def why_not_float8(weights: BertWeights | None, capability: tuple[int, int] | None) -> str | None:
    """Why a model has no 8-bit floating-point products on a GPU of this compute capability (None: no GPU); None: it has."""
    if capability is None:
        return "this replica has no GPU"
    if capability < CAPABILITY:
        return f"this GPU has compute capability {capability[0]}.{capability[1]}, {CAPABILITY[0]}.{CAPABILITY[1]} is needed"
    if weights is None:
        return (
            "only BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA and DistilBERT models have such products, without pooling=pooler"
        )
    sizes = {
        size
        for layer in weights.layers
        for weight, _ in (layer.qkv, layer.out, layer.up, layer.down)
        for size in weight.shape
    }
    if odd := sorted(size for size in sizes if size % MULTIPLE):
        return f"the model has layers of {odd[0]} channels, which is no multiple of {MULTIPLE}"
    return why_not_fused()


def _rows_for(device: torch.device) -> ModuleType:
    if device.type != "cuda":
        return torch_rows
    from workers.engine.kernels import triton_rows

    if triton_rows.why_absent is not None:
        raise ImportError(triton_rows.why_absent)
    return triton_rows
