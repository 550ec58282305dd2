"""Which ways without padding a model seems to support. Whether it really does is measured by self_check.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.ways.by_runs import ByRuns
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_modern import FusedModern, fits
from workers.engine.ways.interface import takes
from workers.engine.ways.packed import Packed

Unpadded = type[Fused] | type[FusedModern] | type[Packed] | type[ByRuns]


def unpadded_ways(checkpoint: Checkpoint, *, cuda: bool, precision: Precision) -> Iterator[Unpadded]:
    """Ways without padding that the model seems to support, fastest first. Lazy: transformers is loaded where needed."""
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and _fuses_bfloat16())
    weights = checkpoint.bert()
    if not cuda and fusible and weights is not None:
        yield Fused
    if precision is not Precision.INT8 and weights is not None and weights.bias is not None:
        yield ByRuns
    elif precision is not Precision.INT8 and not (cuda and precision is Precision.FLOAT32):
        model = checkpoint.transformer()
        if not cuda and fusible and fits(model):
            yield FusedModern
        if _goes_through_interface(model) and takes(model, "position_ids"):
            yield Packed


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


def _fuses_bfloat16() -> bool:
    """Whether oneDNN's bfloat16 products run on this processor at all, even if emulated."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
