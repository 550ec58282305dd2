"""Before the first shard: which way may this model be run here, and does this device compute right?

    reference    golden texts in float32 on the CPU, transformers' own model, padded
    structure    a way without padding must give the same in float32 (else the next way; at last the padded one)
    device       as it will work, on its device and in its precision, within the precision's tolerance: else the next
                 precision where `auto` leaves a choice, else the replica refuses to work

A family that ignores packed positions, a kernel that lets sequences see each other, a GPU with a broken multiplier: all
end here, and write nothing.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import Precision
from workers.engine.forward import Forward, Fused, Packed, Padded, structures
from workers.engine.golden import cosines
from workers.engine.packing import pack
from workers.engine.precision import candidates, strays
from workers.errors import PrecisionRefused, ReembedError, ReplicaError, UsageError
from workers.token_records import TokenizedTexts

SAME = 1e-4  # largest difference of two float32 vectors, relative to the largest component
_log = logging.getLogger(__name__)
Embed = Callable[[Forward, TokenizedTexts, torch.device], NDArray[np.float32]]
_CPU = torch.device("cpu")


class Proof:
    """`model` in float32 on the CPU; `wanted` precision, or auto."""

    def __init__(
        self, model: Any, golden: TokenizedTexts, wanted: Precision, device: torch.device, *, with_pooler: bool
    ) -> None:
        self._model, self._golden, self._wanted, self._device = model, golden, wanted, device
        self._padded_only = with_pooler  # a packed batch has one first token for the model's own head to look at

    def settle(self, embed: Embed) -> tuple[Precision, Forward]:
        """The precision and the way that hold; `embed` gives a way's vectors of the golden texts on a device.

        Raises:
            ReplicaError: none holds (PrecisionRefused: the one asked for does not).
            UsageError: int8 and nothing of this model can be quantised.
        """
        reference = embed(Padded(self._model), self._golden, _CPU)
        reasons: list[str] = []
        cuda = self._device.type == "cuda"
        for precision in candidates(self._wanted, cuda=cuda, bfloat16_cpu=_multiplies_bfloat16()):
            way = self._fitting_way(precision, reference, embed)
            if way is None and precision is Precision.INT8:
                raise UsageError(
                    "model.precision=int8: only BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA and DistilBERT models have 8-bit "
                    "products, on x86 processors with AVX512, without pooling=pooler; use bfloat16"
                )
            forward = self._build(way, precision)
            reason = strays(precision, cosines(embed(forward, self._golden, self._device), reference))
            if reason is None:
                for what in reasons:
                    _log.warning("%s; working in %s", what, precision.value)
                return precision, forward
            reasons.append(f"{self._device}, {forward.name}: {reason}")
        hint = "; this device computes wrongly, or the model needs model.precision=float32"
        raise (ReplicaError if self._wanted is Precision.AUTO else PrecisionRefused)("; ".join(reasons) + hint)

    def _fitting_way(
        self, precision: Precision, reference: NDArray[np.float32], embed: Embed
    ) -> type[Fused] | type[Packed] | None:
        """The fastest way without padding that gives the reference again, computed in float32 on the CPU."""
        if self._padded_only:
            return None
        for way in structures(self._model, cuda=self._device.type == "cuda", precision=precision):
            model = copy.deepcopy(self._model)
            try:
                forward = Fused(model, Precision.FLOAT32, ()) if way is Fused else Packed(model)
                found = embed(forward, self._golden, _CPU)
            except ReembedError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a family's code says to packed input, it does not fit
                _log.info("%s does not run %s: %s", type(model).__name__, way.__name__.lower(), error)
                continue
            usable = np.isfinite(reference)  # an empty sequence has no vector, here and there
            reach = max(np.abs(reference[usable]).max(initial=0.0), 1e-9)
            difference = np.abs(found - reference)[usable].max(initial=0.0) / reach
            if difference <= SAME:
                return way
            _log.info("%s run %s differs by %.1e", type(model).__name__, way.__name__.lower(), difference)
        return None

    def _build(self, way: type[Fused] | type[Packed] | None, precision: Precision) -> Forward:
        model = copy.deepcopy(self._model)
        if way is Fused:
            batch = pack(self._golden, np.flatnonzero(self._golden.lengths), _CPU)
            with torch.inference_mode():
                return Fused(model, precision, [batch])
        model = model.to(self._device, getattr(torch, precision.value))
        return Packed(model) if way is Packed else Padded(model)


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; elsewhere it is emulated."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asked if ask is not None)
