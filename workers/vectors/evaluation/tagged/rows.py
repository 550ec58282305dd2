"""A shard of token vectors seen as its tagged words: the steps of classification work on them as on rows.

    WordTags      which columns hold words and tags, and the tokenizer; rows(shard) -> TaggedRows
    TaggedRows    one row a word: the vector of its first token, the word's tag, its document's hash
    OfWords       a step of rows, done over words
    Alignment     a pass: how many documents and words could be used

A word's later tokens have no row: the tag is the word's, and its first token stands for it (Devlin et al. 2019, 5.3).
M words of a shard that have a token, N documents.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from workers.table.schema import ID, TEXT_HASH, TOKENS
from workers.table.vectors import Floats
from workers.vectors.evaluation.classes.gathered import SumsAndRows, text_column
from workers.vectors.evaluation.tagged.words import first_tokens
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Partial, Step
from workers.vectors.workplace import Workplace

EXAMPLES = 3  # documents of a shard that are named as unusable


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a shard's documents."""

    at: NDArray[np.int64]  # [M] number of the vector within the shard, ascending
    document: NDArray[np.int64]  # [M]
    word: NDArray[np.int64]  # [M] number within the document
    tags: tuple[tuple[str, ...], ...]  # [N] of all words up to the last that has a token; none of an unusable document
    unusable: NDArray[np.int64]  # documents whose words are not their tokens, or have not one tag each


@dataclass(frozen=True)
class WordTags:
    """The same in every step of an evaluation."""

    words: str  # a column: lists of strings
    tags: str  # likewise, one a word
    separator: str
    prompt: str
    tokenizer: bytes  # of the `tokenizers` library: its JSON, compressed by zlib
    special: bool  # special tokens stand around every text
    split_special: bool  # special tokens written in a text are ordinary characters
    also: tuple[str, ...] = ()  # further columns of documents, which each word gets

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the snapshot."""
        return (ID, TEXT_HASH, TOKENS, self.words, self.tags, *self.also)

    def rows(self, shard: ShardRows) -> TaggedRows:
        return TaggedRows(shard, self)

    def found_in(self, shard: ShardRows) -> Words:
        """Once in an actor."""
        return shard.remember("words", lambda: self._found(shard))  # type: ignore[no-any-return]

    def _found(self, shard: ShardRows) -> Words:
        tokenizer = Tokenizer.from_str(zlib.decompress(self.tokenizer).decode())
        tokenizer.encode_special_tokens = self.split_special
        counts = [part.counts for part in shard.parts if part.counts is not None]
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
        at, owner, number = [], [], []
        tags: list[tuple[str, ...]] = []
        unusable: list[int] = []
        columns = (shard.column(name).to_pylist() for name in (self.words, self.tags, TOKENS))
        for document, (words, given, stored) in enumerate(zip(*columns, strict=True)):
            places = self._places(tokenizer, words, given, stored)
            if places is None:
                unusable.append(document)
                tags.append(())
                continue
            there = np.flatnonzero(places >= 0)
            tags.append(tuple(given[: int(there[-1]) + 1]) if len(there) else ())
            at.append(ends[document] + places[there])
            owner.append(np.full(len(there), document))
            number.append(there)
        nothing = np.empty(0, np.int64)
        places, owners, numbers = (np.concatenate([nothing, *pieces]) for pieces in (at, owner, number))
        return Words(places, owners, numbers, tuple(tags), np.array(unusable, np.int64))

    def _places(
        self, tokenizer: Tokenizer, words: list[str] | None, tags: list[str] | None, stored: list[str] | None
    ) -> NDArray[np.int64] | None:
        if words is None or tags is None or stored is None or len(words) != len(tags) or None in words or None in tags:
            return None
        return first_tokens(tokenizer, words, stored, separator=self.separator, prompt=self.prompt, special=self.special)


class TaggedRows(ShardRows):
    """Rows in the order of documents and words. A view: the vectors stay the shard's."""

    def __init__(self, shard: ShardRows, settings: WordTags) -> None:
        self._shard, self.words = shard, settings.found_in(shard)
        self.number, self.first_row, self.parts = shard.number, shard.first_row, ()
        self.columns = self.remember("columns of words", lambda: self._columns(settings))

    def __len__(self) -> int:
        return len(self.words.at)

    @property
    def workplace(self) -> Workplace:
        return self._shard.workplace

    @property
    def stored_bytes(self) -> int:
        return self._shard.stored_bytes

    def blocks(self, *, unit: bool) -> Iterator[tuple[int, Floats]]:
        at = self.words.at
        for first, vectors in self._shard.blocks(unit=unit):
            low, high = (int(place) for place in np.searchsorted(at, [first, first + len(vectors)]))
            if low < high:
                yield low, vectors[at[low:high] - first]

    def take(self, rows: NDArray[np.int64], *, unit: bool) -> Floats:
        return self._shard.take(self.words.at[rows], unit=unit)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        return self._shard.remember(f"words: {name}", make)

    def _columns(self, settings: WordTags) -> pa.Table:
        words = self.words
        owner = pa.array(words.document)
        ids = self._shard.column(ID).to_pylist()
        names = [f"{ids[document]}#{word}" for document, word in zip(words.document, words.word, strict=True)]
        tags = [words.tags[document][word] for document, word in zip(words.document, words.word, strict=True)]
        also = {name: self._shard.column(name).take(owner) for name in (TEXT_HASH, *settings.also)}
        return pa.table({ID: pa.array(names, pa.string()), settings.tags: pa.array(tags, pa.string()), **also})


@dataclass(frozen=True)
class OfWords(Step):
    """The step over the words of a shard."""

    step: Step
    tags: WordTags

    @property
    def pass_name(self) -> str:
        return self.step.pass_name

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.tags.columns

    def of_shard(self, rows: ShardRows) -> Partial:
        return self.step.of_shard(self.tags.rows(rows))

    def combiner(self) -> Combiner:
        return self.step.combiner()


@dataclass(frozen=True)
class Alignment(Step):
    """Partial: `documents`, `unusable`, `words` (that have a token) and `tokenless` words [1]; `examples`: ids."""

    tags: WordTags

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.tags.columns

    def of_shard(self, rows: ShardRows) -> Partial:
        words = self.tags.found_in(rows)
        given = rows.column(self.tags.words).to_pylist()
        usable = np.setdiff1d(np.arange(len(given)), words.unusable)
        ids = rows.column(ID).take(pa.array(words.unusable[:EXAMPLES])).combine_chunks()
        return {
            "documents": np.array([len(given)]),
            "unusable": np.array([len(words.unusable)]),
            "words": np.array([len(words.at)]),
            "tokenless": np.array([sum(len(given[document]) for document in usable) - len(words.at)]),
            **text_column("examples.id", pa.array(ids.to_pylist(), pa.string())),
        }

    def combiner(self) -> Combiner:
        return SumsAndRows()
