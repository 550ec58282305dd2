"""Which ways without padding a model seems to support. Whether it really does is measured by self_check.py."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.ways.by_runs import ByRuns
from workers.engine.ways.compiled import Compiled
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_cuda import FusedCuda, fused_cuda_ways, why_not_fused
from workers.engine.ways.fused_modern import FusedModern, fits
from workers.engine.ways.interface import takes
from workers.engine.ways.packed import Packed

Unpadded = type[Fused] | type[FusedModern] | type[FusedCuda] | type[Packed] | type[Compiled] | type[ByRuns]
_log = logging.getLogger(__name__)


def unpadded_ways(checkpoint: Checkpoint, *, cuda: bool, precision: Precision, compiled: bool = False) -> Iterator[Unpadded]:
    """Ways without padding that the model seems to support, the one that should be the fastest first.

    Lazy: transformers is loaded only for the ways that use it. float8 has no way but FusedCuda, int8 none but Fused.

    Args:
        compiled: also those that are slow to start, at the end: for callers that time them.
    """
    if cuda:
        yield from _on_cuda(checkpoint, precision, compiled=compiled)
        return
    if precision is Precision.FLOAT8:
        return
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and fuses_bfloat16())
    weights = checkpoint.bert()
    if fusible and weights is not None:
        yield Fused
    elif fusible and precision is not Precision.INT8 and fits(checkpoint.transformer()):
        yield FusedModern
    if precision is not Precision.INT8:
        yield from _of_transformers(checkpoint)


def _on_cuda(checkpoint: Checkpoint, precision: Precision, *, compiled: bool) -> Iterator[Unpadded]:
    """In float32 there is no kernel for attention over packed tokens: only what needs none is left."""
    if precision is Precision.INT8:
        return
    weights = checkpoint.bert()
    if precision is not Precision.FLOAT32 and weights is not None and weights.bias is None and not checkpoint.with_pooler:
        reason = why_not_fused()
        if reason is None:
            yield from fused_cuda_ways(weights, precision)
        else:
            _warn_once(reason)
    if precision is Precision.FLOAT8:
        return
    for way in _of_transformers(checkpoint):
        if way is ByRuns or precision is not Precision.FLOAT32:
            yield way
        if compiled and way is Packed and precision is not Precision.FLOAT32:
            yield Compiled


def _of_transformers(checkpoint: Checkpoint) -> Iterator[type[Packed] | type[ByRuns]]:
    weights = checkpoint.bert()
    if weights is not None and weights.bias is not None:
        yield ByRuns
    elif _packs(checkpoint.transformer()):
        yield Packed


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("without layers of our own on CUDA: %s", reason)


def _packs(model: Any) -> bool:
    return _goes_through_interface(model) and takes(model, "position_ids")


def _goes_through_interface(model: Any) -> bool:
    """Whether this family takes its attention function from transformers' AttentionInterface, and tells it all it needs.

    It tells all where it supports flash attention, which gets no mask either; and plain encoders have nothing to tell. Of
    others a part of the mask might be lost that matters for long texts alone, and golden texts are short.
    """
    can_set = getattr(model, "_can_set_attn_implementation", None)
    if can_set is None or not can_set():
        return False
    flash = bool(getattr(model, "_supports_flash_attn", False))
    return flash or not any(hasattr(part, "is_causal") for part in model.modules())


def fuses_bfloat16() -> bool:
    """Whether oneDNN's bfloat16 products run on this processor at all, even if emulated."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
