"""Which ways without padding a model seems to support. Whether it really does is measured by self_check.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.ways.fused import Fused
from workers.engine.ways.interface import takes
from workers.engine.ways.packed import Packed


def unpadded_ways(checkpoint: Checkpoint, *, cuda: bool, precision: Precision) -> Iterator[type[Fused] | type[Packed]]:
    """Ways without padding that the model seems to support, fastest first. Lazy: transformers is loaded only for Packed."""
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and fuses_bfloat16())
    if not cuda and fusible and checkpoint.bert() is not None:
        yield Fused
    if precision is not Precision.INT8 and not (cuda and precision is Precision.FLOAT32):
        model = checkpoint.transformer()
        if _goes_through_interface(model) and takes(model, "position_ids"):
            yield Packed


def _goes_through_interface(model: Any) -> bool:
    """Whether this family takes its attention function from transformers' AttentionInterface."""
    can_set = getattr(model, "_can_set_attn_implementation", None)
    return bool(can_set is not None and can_set())


def fuses_bfloat16() -> bool:
    """Whether oneDNN's bfloat16 products run on this processor at all, even if emulated."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
