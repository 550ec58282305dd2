"""The self-check at start: chooses how and in which precision the model is run, by comparison with golden vectors.

    1. reference   vectors of the golden texts by transformers' own model, one text at a time: float32, no padding, on the
                   CPU, token types only if the tokenizer gives them
    2. way         the first way that gives the same vectors in float32: without padding; padded; batches of one length, for
                   families in which padding changes the other tokens; one sequence at a time
    3. device      on its device and in its precision the model must stay within the precision's tolerance; else the next
                   precision if `auto` leaves a choice, else the replica refuses to work

This detects families that ignore packed positions or let padding leak, kernels that mix sequences, and GPUs that compute
wrongly, before anything is written.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import Precision
from workers.engine.batching import Layout
from workers.engine.checkpoint import Checkpoint
from workers.engine.inputs import TokenTypes
from workers.engine.kernels.packing import pack
from workers.engine.precision import candidates, out_of_tolerance
from workers.engine.ways.by_runs import ByRuns
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_modern import FusedModern
from workers.engine.ways.interface import TOKEN_TYPES, Forward, takes
from workers.engine.ways.packed import Packed
from workers.engine.ways.padded import Padded
from workers.engine.ways.pooler import OwnPooler
from workers.engine.ways.supported import Unpadded, unpadded_ways
from workers.errors import PrecisionRefused, ReembedError, ReplicaError, UsageError
from workers.records.tokens import TokenizedTexts
from workers.table.vectors import cosines

SAME = 1e-4  # largest accepted difference of float32 vectors, relative to the largest component
# The same with padding beside a text: only the order of sums differs, so what is larger is padding that leaks. A model whose
# rounding errors are larger gets batches of one length, which are slower and not wrong.
LEAK = 2e-5
NO_INT8 = (
    "model.precision=int8: only BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT and MPNet models have 8-bit products, "
    "on x86 processors with AVX512; use bfloat16"
)
_log = logging.getLogger(__name__)
Embed = Callable[[Forward, TokenizedTexts, torch.device], NDArray[np.float32]]
Way = Unpadded | Layout  # a layout: transformers' model unchanged, in such batches
_CPU = torch.device("cpu")


class SelfCheck:
    """The choice for one model on one device.

    Args:
        golden: the golden texts, tokenised.
        wanted: the precision, or auto.
        embed: (way, texts, device) -> their vectors, from batches as mixed as the way's layout allows.
        reference: waits for `reference_vectors` that another process computes and returns them, or None. Called as late as
            possible.
    """

    def __init__(
        self, checkpoint: Checkpoint, golden: TokenizedTexts, wanted: Precision, device: torch.device, embed: Embed,
        reference: Callable[[], NDArray[np.float32] | None] | None = None,
    ) -> None:  # fmt: skip
        self._checkpoint, self._golden, self._wanted, self._device = checkpoint, golden, wanted, device
        self._embed, self._await_reference = embed, reference
        self._measured: dict[Way, bool] = {}

    def choose_precision(self) -> tuple[Precision, Forward]:
        """The first precision that is within its tolerance, and the way to run the model in it.

        If none is and the reference came from another process, the reference may be wrong: it is computed here, and the
        check repeated.

        Raises:
            ReplicaError: no precision is within its tolerance (PrecisionRefused: the configured one is not).
            UsageError: the model does not embed texts in float32; or int8, and the model cannot be quantised here.
        """
        if self._wanted is Precision.INT8 and self._device.type != "cuda" and Fused not in self._unpadded(self._wanted):
            raise UsageError(NO_INT8)
        try:
            return self._choose()
        except (ReplicaError, UsageError) as error:
            if self._await_reference is None or self.__dict__.get("_reference") is None:
                raise
            _log.warning("%s; the reference was made elsewhere, so once more with one made here", error)
            self._await_reference = None
            self._measured.clear()
            del self.__dict__["_reference"]
            return self._choose()

    def _choose(self) -> tuple[Precision, Forward]:
        reasons: list[str] = []
        reference = (
            self._reference
        )  # first: it may be computed here, on the CPU, and take the modules around the model along
        cuda = self._device.type == "cuda"
        for precision in candidates(self._wanted, cuda=cuda, bfloat16_cpu=_multiplies_bfloat16()):
            way = self._fitting_way(precision)
            forward = self._build(way, precision)
            reason = self._flaw(forward, precision, reference)
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

    def _fitting_way(self, precision: Precision) -> Way:
        """The fastest way that reproduces the reference in float32 on the CPU.

        Raises:
            UsageError: none does.
        """
        for way in self._unpadded(precision):
            if self._reproduces(way):
                return way
        if precision is Precision.INT8:
            raise UsageError(NO_INT8)
        for layout in (Layout.PADDED, Layout.EQUAL, Layout.SINGLE):
            if self._reproduces(layout):
                return layout
        raise UsageError(
            f"model.name={self._checkpoint.name}: transformers' {self._checkpoint.family} gives the same text another "
            "vector when it is asked again; name a model that is deterministic"
        )

    def _unpadded(self, precision: Precision) -> Iterator[Unpadded]:
        return unpadded_ways(self._checkpoint, cuda=self._device.type == "cuda", precision=precision)

    def _reproduces(self, way: Way) -> bool:
        """Whether a way gives the reference in float32 on the CPU; measured once."""
        if way not in self._measured:
            self._measured[way] = self._measure(way)
        return self._measured[way]

    def _measure(self, way: Way) -> bool:
        what = f"{self._checkpoint.family} run {way.value if isinstance(way, Layout) else way.__name__.lower()}"
        try:
            vectors = self._embed(self._forward(way, Precision.FLOAT32, _CPU), self._golden, _CPU)
        except ReembedError:
            raise
        except Exception as error:  # noqa: BLE001 - a family's code may raise anything on input that it does not expect
            _log.info("%s fails: %s", what, error)
            return False
        usable = np.isfinite(self._reference)  # an empty sequence has no vector in either
        reach = max(np.abs(self._reference[usable]).max(initial=0.0), 1e-9)
        difference = np.nan_to_num(np.abs(vectors - self._reference)[usable], nan=np.inf).max(initial=0.0) / reach
        if difference <= (LEAK if way is Layout.PADDED else SAME):
            return True
        _log.info("%s differs by %.1e", what, difference)
        return False

    def _flaw(self, forward: Forward, precision: Precision, reference: NDArray[np.float32]) -> str | None:
        """What is wrong with the golden vectors on the device; None: they are within the precision's tolerance."""
        try:
            vectors = self._embed(forward, self._golden, self._device)
        except RuntimeError as error:  # an operation that the device does not have in this precision
            if self._device.type == "cuda" and "CUDA error" in str(error):
                raise
            return f"cannot be computed in {precision.value}: {' '.join(str(error).split())[:200]}"
        return out_of_tolerance(precision, cosines(vectors, reference))

    def _build(self, way: Way, precision: Precision) -> Forward:
        return self._forward(way, precision, self._device)

    def _forward(self, way: Way, precision: Precision, device: torch.device) -> Forward:
        weights, with_pooler = self._checkpoint.bert(), self._checkpoint.with_pooler
        if way is Fused and weights is not None:
            pooler = OwnPooler(self._checkpoint.transformer()) if with_pooler else None
            batch = pack(self._golden, np.flatnonzero(self._golden.lengths), _CPU)
            with torch.inference_mode():
                return Fused(weights, precision, [batch], pooler)
        if way is FusedModern:
            return FusedModern(self._checkpoint.transformer(), precision)
        model = copy.deepcopy(self._checkpoint.transformer()).to(device, getattr(torch, precision.value))
        types = _token_types(self._checkpoint)
        if isinstance(way, Layout):
            return Padded(model, types, way)
        pooler = OwnPooler(model) if with_pooler else None
        if way is ByRuns and weights is not None and weights.bias is not None:
            return ByRuns(model, weights.bias, pooler)
        return Packed(model, types, pooler)


def reference_vectors(checkpoint: Checkpoint, golden: TokenizedTexts, embed: Embed) -> NDArray[np.float32]:
    """Vectors [sequences, dim] of the golden texts by transformers' own model, as it is loaded: float32, one text at a time.

    Raises:
        UsageError: the model does not run on text alone, or gives vectors that are not finite.
    """
    shown = f"model.name={checkpoint.name}: transformers' {type(checkpoint.transformer()).__name__}"
    try:
        vectors = embed(Padded(checkpoint.transformer(), _token_types(checkpoint), Layout.SINGLE), golden, _CPU)
    except ReembedError:
        raise
    except Exception as error:  # a family's code may raise anything when it is not given what it needs
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{shown} does not embed a text by itself ({type(error).__name__}: {reason}); name a text encoder"
        ) from error
    spoilt = int((~np.isfinite(vectors).all(axis=1)).sum())
    if spoilt > int((golden.lengths == 0).sum()):
        raise UsageError(
            f"{shown} gives {spoilt} of {len(vectors)} golden texts a vector with NaN or Inf, in float32 on the CPU; "
            "fetch the model again, or name another"
        )
    return vectors


def _token_types(checkpoint: Checkpoint) -> TokenTypes | None:
    """Asked of the tokenizer only for a model that takes them: loading it takes time."""
    return checkpoint.token_types if takes(checkpoint.transformer(), TOKEN_TYPES) else None


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, so that it is not emulated."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asked if ask is not None)
