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
import functools
import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.forward import Forward, Fused, Packed, Padded, structures
from workers.engine.kernels.packing import pack
from workers.engine.precision import candidates, strays
from workers.errors import PrecisionRefused, ReembedError, ReplicaError, UsageError
from workers.model.golden import cosines
from workers.records.tokens import TokenizedTexts

SAME = 1e-4  # largest difference of two float32 vectors, relative to the largest component
_log = logging.getLogger(__name__)
Embed = Callable[[Forward, TokenizedTexts, torch.device], NDArray[np.float32]]
_CPU = torch.device("cpu")


class SelfCheck:
    """`checkpoint` in `wanted` precision, or auto, on `device`; `embed` gives a way's vectors of the golden texts.

    `reference` gives the `reference_vectors` that somebody else computes, or None; it is asked as late as possible.
    """

    def __init__(
        self, checkpoint: Checkpoint, golden: TokenizedTexts, wanted: Precision, device: torch.device, embed: Embed,
        reference: Callable[[], NDArray[np.float32] | None] | None = None,
    ) -> None:  # fmt: skip
        self._checkpoint, self._golden, self._wanted, self._device = checkpoint, golden, wanted, device
        self._embed, self._awaited = embed, reference

    def choose_precision(self) -> tuple[Precision, Forward]:
        """The precision and the way that hold.

        Where none does it may be the reference's fault, if somebody else made it: then once more with our own.

        Raises:
            ReplicaError: none holds (PrecisionRefused: the one asked for does not).
            UsageError: int8 and nothing of this model can be quantised.
        """
        try:
            return self._choose()
        except (ReplicaError, UsageError) as error:
            if self._awaited is None or self.__dict__.get("_reference") is None:
                raise
            _log.warning("%s; the reference was made elsewhere, so once more with one made here", error)
            self._awaited = None
            del self.__dict__["_reference"]
            return self._choose()

    def _choose(self) -> tuple[Precision, Forward]:
        reasons: list[str] = []
        cuda = self._device.type == "cuda"
        for precision in candidates(self._wanted, cuda=cuda, bfloat16_cpu=_multiplies_bfloat16()):
            way = self._fitting_way(precision)
            if way is None and precision is Precision.INT8:
                raise UsageError(
                    "model.precision=int8: only BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA and DistilBERT models have 8-bit "
                    "products, on x86 processors with AVX512, without pooling=pooler; use bfloat16"
                )
            forward = self._build(way, precision)
            reason = strays(precision, cosines(self._embed(forward, self._golden, self._device), self._reference))
            if reason is None:
                for what in reasons:
                    _log.warning("%s; working in %s", what, precision.value)
                return precision, forward
            reasons.append(f"{self._device}, {forward.name}: {reason}")
        hint = "; this device computes wrongly, or the model needs model.precision=float32"
        raise (ReplicaError if self._wanted is Precision.AUTO else PrecisionRefused)("; ".join(reasons) + hint)

    @functools.cached_property
    def _reference(self) -> NDArray[np.float32]:
        awaited = self._awaited() if self._awaited else None
        return awaited if awaited is not None else reference_vectors(self._checkpoint, self._golden, self._embed)

    def _fitting_way(self, precision: Precision) -> type[Fused] | type[Packed] | None:
        """The fastest way without padding that gives the reference again, computed in float32 on the CPU."""
        if self._checkpoint.with_pooler:  # a packed batch has one first token for the model's own head to look at
            return None
        for way in structures(self._checkpoint, cuda=self._device.type == "cuda", precision=precision):
            what = f"{self._checkpoint.family} run {way.__name__.lower()}"
            try:
                found = self._embed(self._forward(way, Precision.FLOAT32, _CPU), self._golden, _CPU)
            except ReembedError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a family's code says to packed input, it does not fit
                _log.info("%s fails: %s", what, error)
                continue
            usable = np.isfinite(self._reference)  # an empty sequence has no vector, here and there
            reach = max(np.abs(self._reference[usable]).max(initial=0.0), 1e-9)
            difference = np.abs(found - self._reference)[usable].max(initial=0.0) / reach
            if difference <= SAME:
                return way
            _log.info("%s differs by %.1e", what, difference)
        return None

    def _build(self, way: type[Fused] | type[Packed] | None, precision: Precision) -> Forward:
        return self._forward(way, precision, self._device)

    def _forward(self, way: type[Fused] | type[Packed] | None, precision: Precision, device: torch.device) -> Forward:
        weights = self._checkpoint.bert() if way is Fused else None
        if weights is not None:
            batch = pack(self._golden, np.flatnonzero(self._golden.lengths), _CPU)
            with torch.inference_mode():
                return Fused(weights, precision, [batch])
        model = copy.deepcopy(self._checkpoint.transformer()).to(device, getattr(torch, precision.value))
        return Packed(model) if way is Packed else Padded(model)


def reference_vectors(checkpoint: Checkpoint, golden: TokenizedTexts, embed: Embed) -> NDArray[np.float32]:
    """Vectors of the golden texts as transformers computes them: float32, padded, on the CPU."""
    return embed(Padded(checkpoint.transformer()), golden, _CPU)


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; elsewhere it is emulated."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asked if ask is not None)
