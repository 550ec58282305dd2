"""Cuts texts: into pieces at white space, a text's end, and a sequence of texts into groups. Sizes are characters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

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
