"""Documents that the precision cannot hold, embedded once more in float32.

float16 ends at 65,504. It is chosen by the golden texts. A later text may still exceed it inside the model; its vector
is then NaN or infinite. Such a document is embedded again before it is given up. In float32 rather than in bfloat16:
the run promises vectors as near to float32 as its precision's tolerance says, and bfloat16 does not hold that.

The way in float32 is loaded and proved by the golden vectors when it is first needed. The documents that need it depend on
the call alone, and so do the bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from workers.errors import PrecisionRefused, ReembedError, UsageError
from workers.records.tokens import EncodedTexts, TokenizedTexts, of_documents, text_of_rows, text_of_vectors

_log = logging.getLogger(__name__)


class Exact(Protocol):
    """An encoder in float32."""

    def encode(self, tokens: TokenizedTexts) -> EncodedTexts: ...


class Overflow:
    """Mends the vectors of an encoder in float16.

    Args:
        load: makes the encoder in float32, on the same device.
        device: its name, for the log.
        chunked: a row of the vectors is a sequence; else a document.
    """

    def __init__(self, load: Callable[[], Exact], device: str, *, chunked: bool) -> None:
        self._load, self._device, self._chunked = load, device, chunked
        self._exact: Exact | None = None
        self._lost = False  # there is no way in float32
        self.documents = 0  # mended so far

    def mended(self, tokens: TokenizedTexts, encoded: EncodedTexts) -> EncodedTexts:
        """The same with finite vectors for the documents that have one in float32.

        Raises:
            ReplicaError: the device failed; another replica may mend them.
        """
        if np.isfinite(encoded.vectors.sum(dtype=np.float32)):  # not finite if a summand is not
            return encoded
        owner_V = text_of_vectors(tokens, encoded, self._chunked)
        documents = self._spoilt(tokens, encoded, owner_V)
        exact = self._loaded() if len(documents) else None
        if exact is None:
            return encoded
        again = exact.encode(of_documents(tokens, documents))
        if encoded.indices is None:
            vectors, mended = encoded.vectors.copy(), np.isin(owner_V, documents)
            vectors[mended] = again.vectors
            found = replace(encoded, vectors=vectors)
        else:
            found = spliced(encoded, again, np.isin(text_of_rows(tokens, self._chunked), documents))
            owner_V = text_of_vectors(tokens, found, self._chunked)
        left = np.unique(owner_V[~np.isfinite(found.vectors).all(axis=1)])
        count = len(np.setdiff1d(documents, left))
        self.documents += count
        return replace(found, padded_tokens=encoded.padded_tokens + again.padded_tokens, overflowed=count)

    def _spoilt(self, tokens: TokenizedTexts, encoded: EncodedTexts, owner_V: NDArray[np.integer]) -> NDArray[np.int64]:
        """Documents with a vector that is not finite although the model took all of their sequences."""
        spoilt = np.unique(owner_V[~np.isfinite(encoded.vectors).all(axis=1)])
        never = np.flatnonzero(tokens.lengths == 0)
        hopeless = tokens.document[np.concatenate([never, np.fromiter(encoded.refused, np.int64, len(encoded.refused))])]
        return np.setdiff1d(spoilt, hopeless).astype(np.int64)

    def _loaded(self) -> Exact | None:
        if self._exact is None and not self._lost:
            _log.warning("%s: texts overflow float16; they are embedded once more in float32", self._device)
            try:
                self._exact = self._load()
            except ReembedError as error:
                if not _is_about_float32(error):
                    raise
                self._lost = True
                _log.warning(
                    "%s: texts that overflow float16 are quarantined, float32 is not possible: %s", self._device, error
                )
        return self._exact


def spliced(encoded: EncodedTexts, again: EncodedTexts, mine_R: NDArray[np.bool_]) -> EncodedTexts:
    """`encoded`, sparse vectors, with the rows `mine_R` [rows] replaced by those of `again`, in their order."""
    if encoded.offsets is None or again.offsets is None or encoded.indices is None or again.indices is None:
        raise ValueError("sparse vectors have offsets and indices")
    before_R = np.diff(encoded.offsets)
    counts_R = before_R.copy()
    counts_R[mine_R] = np.diff(again.offsets)
    kept_V, stays_V = np.repeat(~mine_R, before_R), np.repeat(~mine_R, counts_R)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_R)])
    vectors, indices = np.empty((offsets[-1], 1), np.float32), np.empty(offsets[-1], np.int32)
    vectors[stays_V], indices[stays_V] = encoded.vectors[kept_V], encoded.indices[kept_V]
    vectors[~stays_V], indices[~stays_V] = again.vectors, again.indices
    return replace(encoded, vectors=vectors, offsets=offsets, indices=indices)


def _is_about_float32(error: ReembedError) -> bool:
    """Whether the device still works, and has no memory for float32 or does not reproduce the golden vectors in it."""
    return isinstance(error, PrecisionRefused | UsageError) or isinstance(error.__cause__, torch.OutOfMemoryError)
