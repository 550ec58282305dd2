"""The self-check at start: chooses how and in which precision the model is run, by comparison with golden vectors.

    1. reference   vectors of the golden texts by transformers' own model, one text at a time: float32, no padding, on the
                   CPU, token types only if the tokenizer gives them
    2. way         the first way that gives the same vectors in float32: without padding; padded; batches of one length, for
                   families in which padding changes the other tokens; one sequence at a time
    3. device      on its device and in its precision the model must stay within the precision's tolerance; else the next
                   precision if `auto` leaves a choice, else the replica refuses to work
    4. trial       where several ways, or on a CPU several precisions, are left, the fastest (trial.py)

This detects families that ignore packed positions or let padding leak, kernels that mix sequences, and GPUs that compute
wrongly, before anything is written.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import Precision
from workers.engine.batches.plan import Layout
from workers.engine.checkpoint import Checkpoint
from workers.engine.inputs import TokenTypes
from workers.engine.kernels.packing import pack
from workers.engine.precision import SAME, candidates, difference, out_of_tolerance
from workers.engine.trial import Candidate, Choice, fastest
from workers.engine.ways.by_runs import ByRuns
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_cuda import FusedCuda, why_not_float8
from workers.engine.ways.fused_modern import FusedModern
from workers.engine.ways.interface import TOKEN_TYPES, Forward, takes
from workers.engine.ways.padded import Padded
from workers.engine.ways.pooler import OwnPooler
from workers.engine.ways.supported import Unpadded, fuses_bfloat16, unpadded_ways
from workers.errors import PrecisionRefused, ReembedError, ReplicaError, UsageError, one_line
from workers.records.tokens import TokenizedTexts
from workers.table.vectors import cosines

# As SAME, with padding beside a text: only the order of sums differs, so what is larger is padding that leaks. A model whose
# rounding errors are larger gets batches of one length, which are slower and not wrong.
LEAK = 2e-5
NO_INT8 = (
    "model.precision=int8: only BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT and MPNet models have 8-bit products, "
    "on processors for which oneDNN has them (x86 with AVX512); use auto"
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
        preferred: the choice of the run, or of an earlier trial: if it passes, nothing else is tried.
        known: names of ways that gave the reference in float32 on this machine, in an earlier process: it is not asked
            again. What they give on the device, in its precision, is.
        sparse: vectors may be all zeros, which then is right where the reference is so too.
    """

    def __init__(
        self, checkpoint: Checkpoint, golden: TokenizedTexts, wanted: Precision, device: torch.device, embed: Embed,
        reference: Callable[[], NDArray[np.float32] | None] | None = None, preferred: Choice | None = None,
        known: Collection[str] = (), sparse: bool = False,
    ) -> None:  # fmt: skip
        self._checkpoint, self._golden, self._wanted, self._device = checkpoint, golden, wanted, device
        self._embed, self._await_reference = embed, reference
        self._measured: dict[Way, bool] = {}
        self._known = frozenset(known)
        self._sparse = sparse
        self._exact: dict[Way, Forward] = {}  # measured on the CPU, in float32; where a replica may work so
        self._given: dict[Forward, NDArray[np.float32]] = {}  # the golden vectors of those
        self._preferred = preferred
        self.tried = False  # whether a trial decided

    def choose_precision(self) -> tuple[Precision, Forward]:
        """The first precision that is within its tolerance, and the way to run the model in it.

        If none is and the reference came from another process, the reference may be wrong: it is computed here, and the
        check repeated.

        Raises:
            ReplicaError: no precision is within its tolerance (PrecisionRefused: the configured one is not).
            UsageError: the model does not embed texts in float32; or int8 or float8, and the model cannot be quantised here.
        """
        if self._wanted is Precision.INT8 and self._device.type != "cuda" and Fused not in self._unpadded(self._wanted):
            raise UsageError(NO_INT8)
        if self._wanted is Precision.FLOAT8 and (reason := self._why_not_float8()):
            raise UsageError(f"model.precision=float8: {reason}; use float16")
        try:
            return self._choose()
        except (ReplicaError, UsageError) as error:
            if self._await_reference is None or self.__dict__.get("_reference") is None:
                raise
            _log.warning("%s; the reference was made elsewhere, so once more with one made here", error)
            self._await_reference = None
            self._measured.clear()
            self._known = frozenset()
            del self.__dict__["_reference"]
            return self._choose()

    @property
    def reference(self) -> NDArray[np.float32]:
        """The vectors of the golden texts by transformers in float32."""
        return self._reference

    def _choose(self) -> tuple[Precision, Forward]:
        reference = self._reference  # first: it may be computed here, which takes the modules around the model to the CPU
        reasons: list[str] = []
        proved: list[Candidate] = []
        cuda = self._device.type == "cuda"
        wanted = candidates(self._wanted, cuda=cuda, bfloat16_cpu=_computes_bfloat16())
        if self._preferred is not None and self._preferred.precision in wanted:
            found = self._of_name(self._preferred, reference)
            if found is not None:
                return found.precision, found.forward
        for precision in wanted:
            for way in self._fitting_ways(precision):
                forward = self._build(way, precision)
                reason = self._flaw(forward, precision, reference)
                if reason is None:
                    proved.append(Candidate(precision, forward))
                else:
                    reasons.append(f"{self._device}, {forward.name}: {reason}")
            if proved and (cuda or precision is not Precision.BFLOAT16):  # on a CPU float32 may be faster than bfloat16
                break
        if proved:
            self.tried = len(proved) > 1
            chosen = fastest(proved, self._golden, self._device)
            for earlier in reasons:
                _log.warning("%s; working in %s", earlier, chosen.precision.value)
            return chosen.precision, chosen.forward
        hint = "; this device computes wrongly, or the model needs model.precision=float32"
        raise (ReplicaError if self._wanted is Precision.AUTO else PrecisionRefused)("; ".join(reasons) + hint)

    def _of_name(self, choice: Choice, reference: NDArray[np.float32]) -> Candidate | None:
        """The way of that name, if the model has it here and it passes."""
        for way in self._fitting_ways(choice.precision):
            forward = self._build(way, choice.precision)
            if forward.name == choice.way:
                reason = self._flaw(forward, choice.precision, reference)
                if reason is None:
                    return Candidate(choice.precision, forward)
                _log.info("%s, %s: %s", self._device, forward.name, reason)
                return None
        return None

    @functools.cached_property
    def _reference(self) -> NDArray[np.float32]:
        received = self._await_reference() if self._await_reference else None
        return received if received is not None else reference_vectors(self._checkpoint, self._golden, self._embed)

    def _fitting_ways(self, precision: Precision) -> Iterator[Way]:
        """The ways that reproduce the reference in float32 on the CPU: those without padding, in their order, or else the
        first layout in which transformers' model does.

        On a CPU only the first without padding: the next ones are slower, and loading transformers takes seconds.

        Raises:
            UsageError: none does.
        """
        found = False
        for way in self._unpadded(precision):
            if self._reproduces(way):
                found = True
                yield way
                if self._device.type != "cuda":
                    return
        if found:
            return
        if precision is Precision.INT8:
            raise UsageError(NO_INT8)
        if precision is Precision.FLOAT8:
            raise UsageError("model.precision=float8: our own layers do not reproduce this model; use float16")
        for layout in (Layout.PADDED, Layout.EQUAL, Layout.SINGLE):
            if self._reproduces(layout):
                yield layout
                return
        raise UsageError(
            f"model.name={self._checkpoint.name}: transformers' {self._checkpoint.family} gives the same text another "
            "vector when it is asked again; name a model that is deterministic"
        )

    def _why_not_float8(self) -> str | None:
        """Why this model has no 8-bit floating-point products on this device, which is named; None: it has, or is a CPU."""
        if self._device.type != "cuda":
            return None  # `candidates` refuses it
        capability, name = torch.cuda.get_device_capability(self._device), torch.cuda.get_device_name(self._device)
        reason = why_not_float8(None if self._checkpoint.with_pooler else self._checkpoint.bert(), capability)
        return reason and f"{reason} ({name})"

    def _unpadded(self, precision: Precision) -> Iterator[Unpadded]:
        return unpadded_ways(self._checkpoint, cuda=self._device.type == "cuda", precision=precision)

    def _reproduces(self, way: Way) -> bool:
        """Whether a way gives the reference in float32 on the CPU; measured once, also for ways that are the same there."""
        way = getattr(way, "on_cpu", way)
        if way not in self._measured:
            self._measured[way] = _name(way) in self._known or self._measure(way)
        return self._measured[way]

    @property
    def reproducing(self) -> list[str]:
        """Names of the ways that give the reference in float32."""
        return sorted(_name(way) for way, same in self._measured.items() if same)

    def _measure(self, way: Way) -> bool:
        what = f"{self._checkpoint.family} run {_name(way)}"
        try:
            forward = self._forward(way, Precision.FLOAT32, _CPU)
            vectors = self._embed(forward, self._golden, _CPU)
        except ReembedError:
            raise
        except Exception as error:  # noqa: BLE001 - a family's code may raise anything on input that it does not expect
            _log.info("%s fails: %s", what, error)
            return False
        apart = difference(vectors, self._reference)
        if apart <= (LEAK if way is Layout.PADDED else SAME):
            if self._device == _CPU and self._wanted in (Precision.AUTO, Precision.FLOAT32):
                self._exact[way], self._given[forward] = forward, vectors
            return True
        _log.info("%s differs by %.1e", what, apart)
        return False

    def _flaw(self, forward: Forward, precision: Precision, reference: NDArray[np.float32]) -> str | None:
        """What is wrong with the golden vectors on the device; None: they are within the precision's tolerance."""
        try:
            vectors = self._given.get(forward)
            if vectors is None:
                vectors = self._embed(forward, self._golden, self._device)
        except ReembedError:
            raise
        except Exception as error:  # an operation that the device lacks in this precision, a kernel that cannot be built
            if self._device.type == "cuda" and "CUDA error" in str(error):
                raise
            return f"cannot be computed in {precision.value}: {one_line(error)}"
        found = cosines(vectors, reference)
        if self._sparse:
            found[~vectors.any(axis=1) & ~reference.any(axis=1)] = 1.0
        return out_of_tolerance(precision, found)

    def _build(self, way: Way, precision: Precision) -> Forward:
        exact = self._exact.pop(way, None) if precision is Precision.FLOAT32 else None
        return self._forward(way, precision, self._device) if exact is None else exact

    def _forward(self, way: Way, precision: Precision, device: torch.device) -> Forward:
        weights, with_pooler = self._checkpoint.bert(), self._checkpoint.with_pooler
        if not isinstance(way, Layout) and issubclass(way, Fused | FusedCuda):
            if weights is None:
                raise ValueError("unpadded_ways offers layers of our own for BERT-like models alone")
            if issubclass(way, FusedCuda):
                return way(weights, precision, device)
            pooler = OwnPooler(self._checkpoint.transformer()) if with_pooler else None
            batch = pack(self._golden, np.flatnonzero(self._golden.lengths), _CPU)
            with torch.inference_mode():
                return way(weights, precision, [batch], pooler)
        if not isinstance(way, Layout) and issubclass(way, FusedModern):
            return FusedModern(self._checkpoint.transformer(), precision)
        model = copy.deepcopy(self._checkpoint.transformer()).to(device, getattr(torch, precision.value))
        types = _token_types(self._checkpoint)
        if isinstance(way, Layout):
            return Padded(model, types, way)
        pooler = OwnPooler(model) if with_pooler else None
        if issubclass(way, ByRuns):
            if weights is None or weights.bias is None:
                raise ValueError("unpadded_ways offers attention by runs for models with a bias by distance alone")
            return way(model, weights.bias, pooler)
        return way(model, types, pooler)


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
        reason = one_line(error)
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


def _name(way: Way) -> str:
    return way.value if isinstance(way, Layout) else way.__name__.lower()


def _token_types(checkpoint: Checkpoint) -> TokenTypes | None:
    """Asked of the tokenizer only for a model that takes them: loading it takes time."""
    return checkpoint.token_types if takes(checkpoint.transformer(), TOKEN_TYPES) else None


def _computes_bfloat16() -> bool:
    """Whether bfloat16 is worth a try: the processor multiplies it, or oneDNN has products that emulate it."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return fuses_bfloat16() or any(bool(ask()) for ask in asked if ask is not None)
