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
from workers.records.tokens import EncodedTexts, TokenizedTexts, of_documents, text_of_vectors

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
        vectors, mended = encoded.vectors.copy(), np.isin(owner_V, documents)
        vectors[mended] = again.vectors
        left = np.unique(owner_V[~np.isfinite(vectors).all(axis=1)])
        count = len(np.setdiff1d(documents, left))
        self.documents += count
        return replace(encoded, vectors=vectors, padded_tokens=encoded.padded_tokens + again.padded_tokens, overflowed=count)

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


def _is_about_float32(error: ReembedError) -> bool:
    """Whether the device still works, and has no memory for float32 or does not reproduce the golden vectors in it."""
    return isinstance(error, PrecisionRefused | UsageError) or isinstance(error.__cause__, torch.OutOfMemoryError)
