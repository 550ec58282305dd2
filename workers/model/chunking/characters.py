"""Where tokens and chunks lie in their text: spans of characters, as the tokenizer tells them.

Shapes: D documents, N windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding


def row_characters(
    texts: Sequence[str], places: Sequence[NDArray[np.int64]], document: NDArray[np.int64], start_N: NDArray[np.int64],
    length_N: NDArray[np.int64], prompt: int, *, leads: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """First and last character, exclusive, of N windows, without the `prompt` characters before each text.

    A window reaches from its first token to the next window.
    Characters that the tokenizer drops (accents, control characters) belong to the window before them, those before the
    text's first token to the first window (`leads`); white space around them is left out.
    """
    size_D = np.fromiter(map(len, places), np.int64, len(places))
    end_D = np.fromiter(map(len, texts), np.int64, len(texts))
    flat = np.concatenate([*places, np.zeros((1, 2), np.int64)])  # a row behind the last: windows may end there
    at_N, some = (np.cumsum(size_D) - size_D)[document] + start_N, length_N > 0
    first = np.where(some, flat[at_N, 0], prompt)
    last = np.where(some, flat[at_N + length_N - 1, 1], prompt)
    follows = start_N + length_N < size_D[document]
    following = np.where(follows, flat[at_N + length_N, 0], end_D[document])
    for row in np.flatnonzero((following > last) | (leads & ((first > prompt) | ~some))).tolist():
        text, begin = texts[document[row]], int(first[row])
        if leads[row] and some[row]:
            first[row] = begin - len(text[prompt:begin].lstrip())
        elif leads[row] and text[prompt:].strip():
            first[row] = len(text) - len(text[prompt:].lstrip())
        last[row] += len(text[last[row] : following[row]].rstrip())
    return np.maximum(first - prompt, 0), np.maximum(last - prompt, 0)


def piece_characters(encoded: list[tuple[Encoding, str]]) -> NDArray[np.int64]:
    """Spans of characters [T, 2] of a text's tokens, from its encoded pieces."""
    spans, shift = [], 0
    for encoding, part in encoded:
        spans.append(np.array(encoding.offsets, np.int64).reshape(-1, 2) + shift)
        shift += len(part)
    return np.concatenate(spans)


def leading_tokens(ends: NDArray[np.int64], border: int) -> int:
    """How many leading tokens end at or before the character `border`."""
    beyond = np.flatnonzero(ends > border)
    return int(beyond[0]) if len(beyond) else len(ends)
