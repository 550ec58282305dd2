"""Cuts texts: into pieces at white space, to their beginning or end; puts texts into groups. Sizes are characters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_BOUNDARY = re.compile(r"(?<=[^\s])(?=[ \n])")  # no tokenizer family has tokens that cross the start of white space


def pieces(text: str, size: int) -> Iterator[str]:
    """The text in pieces of at least `size` characters; all but the last end before white space."""
    start = 0
    while len(text) - start > size:
        boundary = _BOUNDARY.search(text, start + size)
        if boundary is None:
            break
        yield text[start : boundary.start()]
        start = boundary.start()
    yield text[start:]


def tail(text: str, size: int) -> str:
    """The end of the text, at least `size` characters, from the last white space before them that follows a word."""
    end, reach = len(text) - size, 64
    while end > 0:
        start = max(end - reach, 0)
        if borders := [found.start() for found in _BOUNDARY.finditer(text, start, end + 1)]:
            return text[borders[-1] :]
        if start == 0:
            break
        reach *= 8
    return text


def beginnings_of(
    texts: Sequence[str] | pa.Array | pa.ChunkedArray, size: int
) -> tuple[Sequence[str] | pa.Array | pa.ChunkedArray, NDArray[np.bool_] | None]:
    """(at most `size` characters of each text, [D] which are cut); the texts themselves and None if none is longer."""
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        cut = np.fromiter((len(text) > size for text in texts), np.bool_, len(texts))
        return ([text[:size] for text in texts], cut) if cut.any() else (texts, None)
    if not len(texts) or pc.max(pc.binary_length(texts)).as_py() <= size:  # bytes: at least as many as characters
        return texts, None
    cut = pc.greater(pc.utf8_length(texts), size).to_numpy(zero_copy_only=False)
    return (pc.utf8_slice_codeunits(texts, 0, size), cut) if cut.any() else (texts, None)


def groups(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """The texts in groups of at most `size` characters; a longer text is a group of its own."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and characters + len(text) > size:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group
