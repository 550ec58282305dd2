"""The self-check at start: chooses how and in which precision the model is run, by comparison with golden vectors.

    1. reference   vectors of the golden texts by transformers' own model: float32, padded, on the CPU
    2. way         a way to run without padding must give the same vectors in float32; else the next way, at last the padded
    3. device      on its device and in its precision the model must stay within the precision's tolerance; else the next
                   precision if `auto` leaves a choice, else the replica refuses to work

This detects families that ignore packed positions, kernels that mix sequences, and GPUs that compute wrongly, before
anything is written.
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
from workers.engine.forward import Forward, Fused, Packed, Padded, unpadded_ways
from workers.engine.kernels.packing import pack
from workers.engine.precision import candidates, out_of_tolerance
from workers.errors import PrecisionRefused, ReembedError, ReplicaError, UsageError
from workers.records.tokens import TokenizedTexts
from workers.table.vectors import cosines

SAME = 1e-4  # largest accepted difference of float32 vectors, relative to the largest component
_log = logging.getLogger(__name__)
Embed = Callable[[Forward, TokenizedTexts, torch.device], NDArray[np.float32]]
_CPU = torch.device("cpu")


class SelfCheck:
    """The choice for one model on one device.

    Args:
        golden: the golden texts, tokenised.
        wanted: the precision, or auto.
        embed: (way, texts, device) -> their vectors.
        reference: waits for `reference_vectors` that another process computes and returns them, or None. Called as late as
            possible.
    """

    def __init__(
        self, checkpoint: Checkpoint, golden: TokenizedTexts, wanted: Precision, device: torch.device, embed: Embed,
        reference: Callable[[], NDArray[np.float32] | None] | None = None,
    ) -> None:  # fmt: skip
        self._checkpoint, self._golden, self._wanted, self._device = checkpoint, golden, wanted, device
        self._embed, self._await_reference = embed, reference

    def choose_precision(self) -> tuple[Precision, Forward]:
        """The first precision that is within its tolerance, and the way to run the model in it.

        If none is and the reference came from another process, the reference may be wrong: it is computed here, and the
        check repeated.

        Raises:
            ReplicaError: no precision is within its tolerance (PrecisionRefused: the configured one is not).
            UsageError: int8, and the model cannot be quantised here.
        """
        try:
            return self._choose()
        except (ReplicaError, UsageError) as error:
            if self._await_reference is None or self.__dict__.get("_reference") is None:
                raise
            _log.warning("%s; the reference was made elsewhere, so once more with one made here", error)
            self._await_reference = None
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
            reason = out_of_tolerance(precision, cosines(self._embed(forward, self._golden, self._device), self._reference))
            if reason is None:
                for earlier in reasons:
                    _log.warning("%s; working in %s", earlier, precision.value)
                return precision, forward
            reasons.append(f"{self._device}, {forward.name}: {reason}")
        hint = "; this device computes wrongly, or the model needs model.precision=float32"
        raise (ReplicaError if self._wanted is Precision.AUTO else PrecisionRefused)("; ".join(reasons) + hint)

    @functools.cached_property
    def _reference(self) -> NDArray[np.float32]:
        received = self._await_reference() if self._await_reference else None
        return received if received is not None else reference_vectors(self._checkpoint, self._golden, self._embed)

    def _fitting_way(self, precision: Precision) -> type[Fused] | type[Packed] | None:
        """The fastest way without padding that reproduces the reference in float32 on the CPU; None: none does."""
        if self._checkpoint.with_pooler:  # the model's own head would read the first token of the batch only
            return None
        for way in unpadded_ways(self._checkpoint, cuda=self._device.type == "cuda", precision=precision):
            what = f"{self._checkpoint.family} run {way.__name__.lower()}"
            try:
                vectors = self._embed(self._forward(way, Precision.FLOAT32, _CPU), self._golden, _CPU)
            except ReembedError:
                raise
            except Exception as error:  # noqa: BLE001 - a family's code may raise anything on packed input
                _log.info("%s fails: %s", what, error)
                continue
            usable = np.isfinite(self._reference)  # an empty sequence has no vector in either
            reach = max(np.abs(self._reference[usable]).max(initial=0.0), 1e-9)
            difference = np.abs(vectors - self._reference)[usable].max(initial=0.0) / reach
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
    """Vectors [sequences, dim] of the golden texts by transformers' own model: float32, padded, on the CPU."""
    return embed(Padded(checkpoint.transformer()), golden, _CPU)


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, so that it is not emulated."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asked if ask is not None)
