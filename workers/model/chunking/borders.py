"""Where a text may be cut: ends of sentences, by ICU; sections and blocks of Markdown, by markdown-it-py.

    sentences    Unicode's rules (UAX #29) as ICU carries them out, with CLDR's list of the language's abbreviations
    markdown     CommonMark with tables: sections begin at headings, blocks at the lines where the parser says

Borders are characters of the text: a piece begins at each. A line break alone ends no sentence, since texts are wrapped at
any place; an empty line does. Both libraries come with reembed[chunking] and are imported when they are first needed. Knows
nothing of tokens.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.config import ChunkBy
from workers.errors import UsageError

Borders = NDArray[np.int64]

_WRAPPED = re.compile(r"\r?\n(?=[^\S\r\n]*[^\s])")  # a line break before a line that is not empty
_LINE = re.compile(r"\r\n?|\n")  # as markdown-it counts lines
_INK = re.compile(r"\S")
_HEADING = "heading_open"
_BY_LINES = frozenset({"fence", "code_block", "html_block", "table_open"})  # blocks whose lines are no prose


@dataclass(frozen=True, slots=True)
class Cuts:
    """Borders of one text, each kind ascending.

    `sections`: chunks never reach across them. `levels`: places to cut at, the best kind first.
    """

    sections: Borders
    levels: tuple[Borders, ...]


def splitter_version(chunk_by: ChunkBy, language: str) -> str:
    """What decides borders, for the identity of vectors: library, its version, language; "" for tokens.

    Raises:
        UsageError: a library is missing.
    """
    if chunk_by is ChunkBy.TOKENS:
        return ""
    _breaker(chunk_by)
    import icu4py

    sentences = f"icu {icu4py.icu_version.split('.')[0]} {language}"  # rules and lists change with the major version
    if chunk_by is ChunkBy.SENTENCES:
        return sentences
    _markdown()
    return f"markdown-it {'.'.join(importlib.metadata.version('markdown-it-py').split('.')[:2])}, {sentences}"


def cuts_of(text: str, chunk_by: ChunkBy, language: str) -> Cuts:
    """Where `text` may be cut. `chunk_by`: sentences or markdown. Raises: UsageError: a library is missing."""
    if chunk_by is ChunkBy.SENTENCES:
        return Cuts(np.empty(0, np.int64), (_array(sentence_starts(text, language)),))
    return _markdown_cuts(text, language)


def sentence_starts(text: str, language: str) -> list[int]:
    """The first character of each sentence that is not white space. Raises: UsageError: icu4py is missing."""
    return _starts(_joined(text), language)


def _joined(text: str) -> str:
    """The text with blanks for line breaks that end nothing. Every character keeps its place."""
    return _WRAPPED.sub(lambda found: " " * len(found.group()), text)


def _starts(text: str, language: str) -> list[int]:
    starts, place = [], 0
    for sentence in _breaker(ChunkBy.SENTENCES)(text, f"{language.replace('-', '_')}@ss=standard"):
        ink = _INK.search(sentence)
        if ink is not None:
            starts.append(place + ink.start())
        place += len(sentence)
    if place != len(text):
        raise ValueError(f"icu4py gives {place} characters of {len(text)}")
    return starts


def strip(texts: Sequence[str], document: Borders, first: Borders, last: Borders, shift: int) -> None:
    """Take white space off both ends of chunks: some tokenizers have it in their tokens. `first` and `last` are changed.

    Args:
        document: [C] the chunk's text. first: [C] its first character, counted behind `shift`. last: [C] its end, likewise.
        shift: characters at the beginning of every text that are the prompt.
    """
    for chunk, text in enumerate(document.tolist()):
        piece = texts[text][shift + int(first[chunk]) : shift + int(last[chunk])]
        inked = piece.lstrip()
        first[chunk] += len(piece) - len(inked)
        last[chunk] = first[chunk] + len(inked.rstrip())


def _markdown_cuts(text: str, language: str) -> Cuts:
    lines = [0, *(found.end() for found in _LINE.finditer(text)), len(text)]
    sections: list[int] = []
    blocks: list[int] = []
    lined: list[int] = []
    prose: list[tuple[int, int]] = []
    headed: list[int] = []  # what stands right below a heading is not cut from it
    before = ""  # type of the last block at the top
    for token in _markdown().parse(text):
        if token.map is None or token.type == "inline":
            continue
        first, last = token.map
        start, end = lines[first], lines[last]
        if token.level == 0:
            if before == _HEADING:
                headed.append(start)
            elif token.type == _HEADING:
                sections.append(start)
            before = token.type
        blocks.append(start)
        if token.type in _BY_LINES:
            lined += lines[first + 1 : last]
        elif token.type == "paragraph_open":
            prose.append((start, end))
    borders = np.setdiff1d(_array(blocks), headed)
    finer = np.concatenate([borders, _array(lined), _within(text, prose, language)])
    return Cuts(_array(sections), (borders, np.setdiff1d(finer, headed)))


def _within(text: str, paragraphs: list[tuple[int, int]], language: str) -> Borders:
    """Where sentences begin within paragraphs, but for each one's first. One pass of ICU: to begin one takes it 0.15 ms."""
    pieces, done = [], 0
    for start, end in paragraphs:
        pieces += [text[done:start], _joined(text[start:end])]  # line breaks outside of paragraphs stay, and end sentences
        done = end
    starts = _array(_starts("".join([*pieces, text[done:]]), language)) if paragraphs else _array([])
    bounds_P2 = np.array(paragraphs, np.int64).reshape(-1, 2)
    owner = np.searchsorted(bounds_P2[:, 0], starts, side="right") - 1
    inside = (owner >= 0) & (starts < bounds_P2[owner, 1])
    found: Borders = starts[inside][np.diff(owner[inside], prepend=-1) == 0]
    return found


def _array(places: list[int]) -> Borders:
    return np.unique(np.array(places, np.int64))


@functools.cache
def _markdown() -> Any:
    """A parser that stops at blocks: what is inside a paragraph is not looked at."""
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise _missing(ChunkBy.MARKDOWN, "markdown-it-py") from None
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


@functools.cache
def _breaker(chunk_by: ChunkBy) -> Any:
    try:
        from icu4py.breakers import SentenceBreaker
    except ImportError:
        raise _missing(chunk_by, "icu4py") from None
    return SentenceBreaker


def _missing(chunk_by: ChunkBy, package: str) -> UsageError:
    return UsageError(f"model.chunk_by={chunk_by}: needs the package {package}; pip install 'reembed[chunking]'")
