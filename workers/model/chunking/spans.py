"""Which tokens of each document form a chunk, and which windows of a long document go through the model.

    by_tokens    chunks of equal size, each beginning `step` tokens behind the one before it
    by_cuts      chunks that end where the text may be cut (borders.py), as long as they may be
    windows      late chunks: the inputs of the model, each as long as it may be, and the chunks that are pooled from it
    pooled_tokens    late chunks: the tokens of each within its window

Positions are content tokens: without special tokens and prompt. Every document has a chunk, also one without tokens. Pure
functions of numbers.

Shapes: D documents, C chunks, N windows, T tokens of one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.model.chunking.borders import Cuts
from workers.records.tokens import PooledTokens, ranges

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spans:
    """Runs of tokens: chunks or windows, a document's in order and next to each other."""

    document: Positions  # [C] index of the document, ascending
    start: Positions  # [C] first token
    length: Positions  # [C] number of tokens


def by_tokens(length_D: Positions, size_D: Positions, step_D: Positions) -> Spans:
    """Chunks of `size` tokens, the last one shorter; `step` from one to the next."""
    count_D = np.where(length_D <= size_D, 1, 1 + -(-(length_D - size_D) // step_D))
    document = np.repeat(np.arange(len(length_D)), count_D)
    start = ranges(np.zeros(len(length_D), np.int64), count_D) * step_D[document]
    return Spans(document, start, np.minimum(size_D[document], length_D[document] - start))


def joined(spans: Sequence[list[tuple[int, int]]]) -> Spans:
    """(first, end) of each document's chunks -> Spans."""
    flat = np.array([pair for of_one in spans for pair in of_one], np.int64).reshape(-1, 2)
    document = np.repeat(np.arange(len(spans)), [len(of_one) for of_one in spans]).astype(np.int64)
    return Spans(document, flat[:, 0], flat[:, 1] - flat[:, 0])


def by_cuts(ends_T: Positions, cuts: Cuts, shift: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """(first, end) of the chunks of one document: as long as `size` allows, ending at the best kind of border in reach.

    Where none is in reach, a chunk ends after `size` tokens. With `overlap` a chunk begins at the first border among the
    last `overlap` tokens of the one before it, unless the next border would then be out of reach.

    Args:
        ends_T: the character behind each token; the `shift` characters of the prompt are counted.
        shift: characters before the text that `cuts` speaks of.
    """
    length = len(ends_T)
    rising = np.maximum.accumulate(ends_T) if length else ends_T
    sections, *levels = (_tokens_at(rising, borders + shift) for borders in (cuts.sections, *cuts.levels))
    chunks: list[tuple[int, int]] = []
    for begin, stop in zip([0, *sections.tolist()], [*sections.tolist(), length], strict=True):
        chunks += _packed(begin, stop, [_between(level, begin, stop) for level in levels], size, overlap)
    return chunks


def windows(chunks: Spans, length_D: Positions, room_D: Positions, overlap_D: Positions) -> tuple[Spans, Positions]:
    """The windows of documents whose chunks follow each other without a gap; [C] the window that each chunk is pooled from.

    A document that has room is one window. A longer one has several: each begins `overlap` tokens before its first chunk and
    holds as many tokens as there is room for. A chunk is pooled from the first window that holds it whole: with all that
    precedes it in that window, and what fits behind it.
    """
    first_C = np.searchsorted(chunks.document, np.arange(len(length_D) + 1))
    found: list[tuple[int, int, int, int]] = []  # document, start, length, chunks
    for document, length in enumerate(length_D.tolist()):
        chunk, behind = int(first_C[document]), int(first_C[document + 1])
        if length <= room_D[document]:
            found.append((document, 0, length, behind - chunk))
            continue
        end_C = (chunks.start + chunks.length)[chunk:behind]
        done = 0
        while done < len(end_C):
            start = max(int(chunks.start[chunk + done]) - int(overlap_D[document]), 0)
            stop = min(start + int(room_D[document]), length)
            held = int(np.searchsorted(end_C, stop, side="right"))
            if held <= done:
                raise ValueError(f"a chunk of {chunks.length[chunk + done]} tokens is longer than a window has room for")
            found.append((document, start, stop - start, held - done))
            done = held
    table = np.array(found, np.int64).reshape(-1, 4)
    return Spans(table[:, 0], table[:, 1], table[:, 2]), np.repeat(np.arange(len(table)), table[:, 3])


def _tokens_at(rising_T: Positions, borders: Positions) -> Positions:
    """The token that each border falls before: the first that reaches beyond it. Only borders between two tokens."""
    places = np.unique(np.searchsorted(rising_T, borders, side="right"))
    return places[(places > 0) & (places < len(rising_T))].astype(np.int64)


def _between(level: Positions, begin: int, stop: int) -> Positions:
    """The borders behind `begin` and before `stop`."""
    return level[np.searchsorted(level, begin, side="right") : np.searchsorted(level, stop)]


def _packed(begin: int, stop: int, levels: Sequence[Positions], size: int, overlap: int) -> list[tuple[int, int]]:
    """Chunks of the tokens `begin` to `stop`, of one section."""
    chunks: list[tuple[int, int]] = []
    start, done = begin, begin  # of the next chunk; tokens before `done` are in a chunk
    while True:
        end = _end(start, stop, levels, size)
        if end <= done < stop:  # what is repeated leaves no room for anything new
            start = done
            end = _end(start, stop, levels, size)
        chunks.append((start, end))
        if end >= stop:
            return chunks
        done, start = end, _back(start, end, levels, overlap)


def _end(start: int, stop: int, levels: Sequence[Positions], size: int) -> int:
    """Where a chunk that begins at `start` ends."""
    if stop - start <= size:
        return stop
    for level in levels:
        within = _between(level, start, start + size + 1)
        if len(within):
            return int(within[-1])
    return start + size


def _back(start: int, end: int, levels: Sequence[Positions], overlap: int) -> int:
    """Where the chunk behind one from `start` to `end` begins."""
    if not overlap:
        return end
    least = max(end - overlap, start + 1)
    within = np.concatenate([_between(level, least - 1, end + 1) for level in levels])
    return int(within.min(initial=end)) if len(within) else least


def pooled_tokens(
    chunks: Spans, windows_N: Spans, sequence_C: Positions, prompt_D: Positions, *, before: int, behind: int
) -> PooledTokens:
    """The tokens of each late chunk within its window, as an input of the model.

    The document's first chunk also has what precedes the text in its window (special tokens, the prompt), its last chunk
    what follows the text. So it is in the reference implementation of late chunking, and a document of one chunk has the
    vector that it has by itself. The special tokens of other windows belong to no chunk.

    Args:
        prompt_D: [D] tokens of the prompt.
        before: special tokens at the beginning of an input. behind: at its end.
    """
    prompt_C = prompt_D[chunks.document]
    first = before + prompt_C + chunks.start - windows_N.start[sequence_C]
    end = first + chunks.length
    first[np.flatnonzero(np.diff(chunks.document, prepend=-1))] = 0
    end[np.flatnonzero(np.diff(chunks.document, append=len(prompt_D)))] += behind
    return PooledTokens(sequence_C, first, end)
