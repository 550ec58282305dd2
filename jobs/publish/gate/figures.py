"""The figures of a snapshot that the gate stores, so that the next run need not read it again. Two small files of a run:

    runs/<run_id>/golden.npz    vectors of the golden texts, by each replica at the end of its work
    runs/<run_id>/gate.npz      counts, and norm and mean of a sample of the snapshot's vectors

They are in numpy's own format, read without pickle; texts in them are JSON. Both can be made again (gate.npz from the parts,
golden.npz by embedding), so a damaged file counts as absent. Knows no limits.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from workers.model.golden import GOLDEN_TEXTS
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.vectors import Floats, cosines

log = logging.getLogger("reembed")
_SHOWN_CHARACTERS = 24  # of a digest or a prompt, in messages
_WORDS = "words"
_BESIDE_COUNTS = ("run_id", "parts", "breaches")
_AGREEMENT = "agreement"
BESIDE = "vectors."  # in a snapshot's `model`: before the name of a column of vectors beside the main one
_OF_VECTORS = ("count", "not_finite", "mean_length", "spread", "pair_distance", "texts")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class VectorFigures:
    """Figures of a sample of a snapshot's vectors [N, D], as they are stored."""

    count: int  # N
    not_finite: int  # rows with NaN or Inf; the fields below are of the others
    mean_length: float
    spread: float  # mean squared distance from the mean vector
    mean_D: npt.NDArray[np.float64]
    pair_distance: float | None = None  # mean cosine distance (1 - cosine) of pairs of rows; None: fewer than two rows
    texts: int | None = None  # different texts that the rows were made from; None: not known, as in earlier versions

    @classmethod
    def of(cls, vectors_ND: Floats, texts: int | None = None) -> VectorFigures | None:
        """None for no vectors."""
        if not len(vectors_ND):
            return None
        usable = vectors_ND[np.isfinite(vectors_ND).all(axis=1)].astype(np.float64)
        mean_D = usable.mean(axis=0) if len(usable) else np.zeros(vectors_ND.shape[1])
        length = float(np.linalg.norm(usable, axis=1).mean()) if len(usable) else 0.0
        spread = float(((usable - mean_D) ** 2).sum(axis=1).mean()) if len(usable) else 0.0
        bad = len(vectors_ND) - len(usable)
        return cls(len(vectors_ND), bad, length, spread, mean_D, _pair_distance(usable), texts)

    def mean_cosine(self, last: VectorFigures) -> float | None:
        """Cosine between the mean vectors, corrected for the length that sampling noise adds to them.

        The mean of n vectors is longer than that of the distribution they come from, |m|^2 = |true|^2 + spread / n. Means of
        60 vectors of all-MiniLM-L6-v2 (package descriptions) have cosines down to 0.88 to each other; corrected, 0.97.

        Returns:
            None if the last mean is not longer than sampling noise alone would make it.
        """
        chance, last_chance = self.spread / self.count, last.spread / last.count
        square, last_square = float(self.mean_D @ self.mean_D), float(last.mean_D @ last.mean_D)
        if last_square <= 2 * last_chance:
            return None
        true_square = max(square - chance, square / 2)  # at least half: pure noise would make it zero, a divisor
        product = max(true_square * (last_square - last_chance), np.finfo(float).tiny)
        return float(np.clip(self.mean_D @ last.mean_D / np.sqrt(product), -1, 1))


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one snapshot."""

    run_id: str
    model: Mapping[str, Any]  # what decides the vector of a text
    counts: Mapping[str, int]  # sums over its receipts, by field; absent where an earlier version had none
    vectors: VectorFigures | None = None  # None: no vector was read
    parts: str = ""  # digest of the parts that the figures were made from
    breaches: tuple[str, ...] = ()  # parts read that differ from their receipts
    agreement: Mapping[str, float] = field(default_factory=dict)  # column -> least cosine to what it is made of; no main one

    def changes(self, last: Figures) -> list[str]:
        """The differences of the model, e.g. `pooling: mean -> cls`. Facts that one of the two lacks are left out, but for
        columns of vectors that are gone: a new column changes nothing for the readers of the others."""
        now, before = self.model, last.model
        differing = [
            f"{name}: {_shown(before[name])} -> {_shown(now[name])}"
            for name in now
            if name in before and now[name] != before[name]
        ]
        gone = [name for name in before if name.startswith(BESIDE) and name not in now]
        return differing + [f"{name}: {_shown(before[name])} -> none" for name in gone]

    @property
    def documents(self) -> int:
        return self.counts["documents"]

    @property
    def rows_read(self) -> int:
        """Of the source: documents and quarantined rows."""
        return self.counts["rows_read"]

    @property
    def truncated_share(self) -> float | None:
        """Of the documents; None: not known, the snapshot's receipts are missing."""
        truncated = self.counts.get("truncated")
        return None if truncated is None else truncated / max(1, self.documents)

    @property
    def empty_share(self) -> float:
        """Rows with empty or blank text among the rows read; they are quarantined."""
        return self.counts.get("empty", 0) / max(1, self.rows_read)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cosines between vectors of the same texts, now and in the last snapshot. `least` None: none, because of `note`."""

    count: int = 0
    least: float | None = None
    note: str = ""

    @classmethod
    def of(cls, each: Sequence[float], note: str) -> Comparison:
        """A cosine that is not finite counts as -1. `note` says why there are none."""
        if not len(each):
            return cls(note=note)
        return cls(len(each), float(np.nan_to_num(np.asarray(each), nan=-1.0, posinf=-1.0, neginf=-1.0).min()))


@dataclass(frozen=True, slots=True)
class Golden:
    """Vectors of the golden texts. `texts` is the digest of the texts, which another version of this program may change."""

    run_id: str  # of the run whose replicas made them; a run that embeds nothing keeps those of its base
    texts: str
    vectors_RSD: Floats  # [replicas, sequences, D]

    @classmethod
    def made_by(cls, run_id: str, vectors: Sequence[Floats]) -> Golden:
        """From `vectors`: [S, D] of each replica."""
        return cls(run_id, golden_digest(), np.stack(vectors))

    def compare(self, last: Golden) -> Comparison:
        """Compare each replica's vectors with those of the first replica of the last snapshot."""
        if self.texts != last.texts or self.vectors_RSD.shape[1:] != last.vectors_RSD.shape[1:]:
            return Comparison(note="the last snapshot's golden texts are those of another version")
        expected_SD = last.vectors_RSD[0]
        known = np.isfinite(expected_SD).all(axis=1)  # an empty sequence has no vector in either
        each = [cosines(found_SD[known], expected_SD[known]) for found_SD in self.vectors_RSD]
        return Comparison.of([float(cosine) for found in each for cosine in found], "golden texts have no vectors")


def _pair_distance(vectors_ND: npt.NDArray[np.float64]) -> float | None:
    """Mean of 1 - cosine over all pairs of different rows; None: fewer than two rows that are not zero.

    Between unit vectors 1 - cosine is half the squared distance, and the mean squared distance of n points from each other
    is 2n / (n - 1) times that from their mean. So no pair is computed, and nearly equal vectors lose no digits.
    """
    lengths_N = np.linalg.norm(vectors_ND, axis=1)
    unit_ND = vectors_ND[lengths_N > 0] / lengths_N[lengths_N > 0, None]
    count = len(unit_ND)
    if count < 2:
        return None
    return float(((unit_ND - unit_ND.mean(axis=0)) ** 2).sum(axis=1).mean() * count / (count - 1))


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, str) and value else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def golden_digest() -> str:
    return hashlib.sha256("\0".join(GOLDEN_TEXTS).encode()).hexdigest()


def save_golden(store: Store, run_id: str, golden: Golden) -> None:
    """Store them in the folder of `run_id`. Raises: UsageError, TransientError."""
    words = {"run_id": golden.run_id, "texts": golden.texts}
    store.put(RunPaths(run_id).golden, _packed(words, vectors=golden.vectors_RSD))


def load_golden(store: Store, run_id: str) -> Golden | None:
    """The stored ones; None when there are none. Raises: UsageError, TransientError."""
    return _loaded(
        store, RunPaths(run_id).golden, lambda words, arrays: Golden(words["run_id"], words["texts"], arrays["vectors"])
    )


def save_figures(store: Store, figures: Figures) -> None:
    """Raises: UsageError, TransientError."""
    words: dict[str, Any] = {**figures.counts, **{name: getattr(figures, name) for name in _BESIDE_COUNTS}}
    words["model"] = dict(figures.model)
    if figures.agreement:
        words[_AGREEMENT] = dict(figures.agreement)
    vectors = figures.vectors
    if vectors is not None:
        words |= {name: getattr(vectors, name) for name in _OF_VECTORS}
    store.put(RunPaths(figures.run_id).figures, _packed(words, mean=vectors.mean_D if vectors else np.empty(0)))


def load_figures(store: Store, run_id: str) -> Figures | None:
    """The stored ones; None when there are none. Raises: UsageError, TransientError."""

    def made(words: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Figures:
        of_vectors = {name: words.pop(name) for name in _OF_VECTORS if name in words}
        beside = {name: words.pop(name) for name in ("model", *_BESIDE_COUNTS)} | {_AGREEMENT: words.pop(_AGREEMENT, {})}
        counts = {name: int(value) for name, value in words.items()}
        vectors = VectorFigures(**of_vectors, mean_D=arrays["mean"]) if of_vectors else None
        return Figures(**beside | {"breaches": tuple(beside["breaches"])}, counts=counts, vectors=vectors)

    return _loaded(store, RunPaths(run_id).figures, made)


def _packed(words: Mapping[str, Any], **arrays: npt.NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    named: dict[str, Any] = {_WORDS: np.frombuffer(json.dumps(words).encode(), np.uint8), **arrays}
    np.savez(sink, **named)
    return sink.getvalue()


def _loaded(store: Store, path: str, make: Callable[[dict[str, Any], dict[str, npt.NDArray[Any]]], _T]) -> _T | None:
    try:
        with np.load(io.BytesIO(store.read(path))) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return make(json.loads(arrays.pop(_WORDS).tobytes()), arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        log.warning("%s: not readable, so what it held is made again or not compared (%s)", store.uri_of(path), error)
        return None
