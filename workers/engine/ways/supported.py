"""Which ways without padding a model seems to support. Whether it really does is measured by self_check.py."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.ways.compiled import Compiled
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_cuda import FusedCuda, fused_cuda_ways, why_not_fused
from workers.engine.ways.interface import takes
from workers.engine.ways.packed import Packed

Unpadded = type[Fused] | type[FusedCuda] | type[Packed] | type[Compiled]
_log = logging.getLogger(__name__)


def unpadded_ways(checkpoint: Checkpoint, *, cuda: bool, precision: Precision, compiled: bool = False) -> Iterator[Unpadded]:
    """Ways without padding that the model seems to support, the one that should be the fastest first.

    Lazy: transformers is loaded only for Packed and Compiled. float8 has no way but FusedCuda, int8 none but Fused.

    Args:
        compiled: also those that are slow to start, at the end: for callers that time them.
    """
    if cuda:
        yield from _on_cuda(checkpoint, precision, compiled=compiled)
        return
    if precision is Precision.FLOAT8:
        return
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and _fuses_bfloat16())
    if fusible and checkpoint.bert() is not None:
        yield Fused
    if precision is not Precision.INT8 and _packs(checkpoint.transformer()):
        yield Packed


def _on_cuda(checkpoint: Checkpoint, precision: Precision, *, compiled: bool) -> Iterator[Unpadded]:
    """In float32 there is no kernel for attention over packed tokens, so there are none."""
    if precision in (Precision.FLOAT32, Precision.INT8):
        return
    if (weights := checkpoint.bert()) is not None:
        reason = why_not_fused()
        if reason is None:
            yield from fused_cuda_ways(weights, precision)
        else:
            _warn_once(reason)
    if precision is not Precision.FLOAT8 and _packs(checkpoint.transformer()):
        yield Packed
        if compiled:
            yield Compiled


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("without layers of our own on CUDA: %s", reason)


def _packs(model: Any) -> bool:
    return _goes_through_interface(model) and takes(model, "position_ids")


def _goes_through_interface(model: Any) -> bool:
    """Whether this family takes its attention function from transformers' AttentionInterface."""
    can_set = getattr(model, "_can_set_attn_implementation", None)
    return bool(can_set is not None and can_set())


def _fuses_bfloat16() -> bool:
    """Whether oneDNN's bfloat16 products run on this processor at all, even if emulated."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
