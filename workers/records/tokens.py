"""Tokenised and encoded texts: flat NumPy arrays from the tokenizer to the encoder, and from the encoder to the writer.

A sequence is one input of the model: a document, one chunk of it, or with late chunks a window over it, from which several
chunks are pooled. A document's sequences are adjacent and in order, and so are its rows.
Imports neither torch nor tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PooledTokens:
    """The tokens that each of R rows is pooled from, where a sequence has several rows (long_text=late_chunks)."""

    sequence: NDArray[np.int64]  # [R] the row's sequence, ascending; each sequence has at least one row
    first: NDArray[np.int64]  # [R] its first token, counted within the sequence; rows of a sequence do not overlap
    end: NDArray[np.int64]  # [R] behind its last one

    def counts(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of rows of each of these sequences."""
        behind: NDArray[np.int64] = np.searchsorted(self.sequence, sequences, side="right")
        return behind - np.searchsorted(self.sequence, sequences)

    def of(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these sequences, in the order of the sequences."""
        return ranges(np.searchsorted(self.sequence, sequences), self.counts(sequences))


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """D documents as N sequences of T tokens in all, special tokens and prompt included, which become R rows."""

    input_ids: NDArray[np.int32]  # [T] all sequences concatenated, without padding
    offsets: NDArray[np.int64]  # [N + 1] sequence n is input_ids[offsets[n]:offsets[n + 1]]
    document: NDArray[np.int32]  # [N] index of the sequence's document, ascending
    chunk_start: NDArray[np.int64] | None  # [R] offset in characters (prompt not counted); None if a row is a document
    chunk_end: NDArray[np.int64] | None  # [R] end of the last token, exclusive
    truncated: NDArray[np.bool_]  # [D] tokens were cut off
    num_tokens: NDArray[np.int32]  # [D] tokens fed to the model, summed over the document's chunks
    prompt_tokens: int  # leading tokens of every sequence that pooling skips if the model excludes its prompt
    pooled: PooledTokens | None = None  # long_text=late_chunks; else R is N, and a row is pooled from its whole sequence
    skipped: NDArray[np.bool_] | None = None  # [T] tokens that have no vector (pooling=multi_vector); None: all have one

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each sequence."""
        lengths: NDArray[np.int64] = np.diff(self.offsets)
        return lengths

    @property
    def counted_offsets(self) -> NDArray[np.int64]:
        """[N + 1] as offsets, of the tokens that have a vector."""
        if self.skipped is None:
            return self.offsets
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(~self.skipped)])[self.offsets]

    @property
    def row_document(self) -> NDArray[np.int32]:
        """[R] index of each row's document, where a row is a chunk."""
        return self.document if self.pooled is None else self.document[self.pooled.sequence]

    @property
    def row_tokens(self) -> NDArray[np.int64]:
        """[R] tokens of each row, likewise."""
        return self.lengths if self.pooled is None else self.pooled.end - self.pooled.first

    def rows_of(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of these sequences, likewise, in the order of the sequences."""
        return sequences if self.pooled is None else self.pooled.of(sequences)


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Vectors, one per document, or per chunk where a row is a chunk. A row that could not be computed is NaN.

    pooling=sparse: the entries that are not zero, one per row of `vectors`; a row that could not be computed has one, NaN.
    """

    vectors: NDArray[np.float32]  # [rows, dim]; of tokens: [T, dim], of input_ids that are not skipped; sparse: [V, 1]
    offsets: NDArray[np.int64] | None  # [rows + 1], of lists: row r has vectors[offsets[r]:offsets[r + 1]]; else None
    padded_tokens: int  # positions the device computed, including padding
    refused: Mapping[int, str] = field(default_factory=dict)  # sequence -> why it has no vector; its row is NaN
    overflowed: int = 0  # documents beyond float16's range, embedded once more in float32
    indices: NDArray[np.int32] | None = None  # pooling=sparse: [V] token id of each entry, ascending within a row


def text_of_rows(tokens: TokenizedTexts, chunked: bool) -> NDArray[np.integer]:
    """[rows] index of the text of each output row, ascending. `chunked`: a row is a chunk; else a text."""
    return tokens.row_document if chunked else np.arange(len(tokens.num_tokens))


def text_of_vectors(tokens: TokenizedTexts, encoded: EncodedTexts, chunked: bool) -> NDArray[np.integer]:
    """[vectors] index of the text of each vector, ascending."""
    owner = text_of_rows(tokens, chunked)
    return owner if encoded.offsets is None else np.repeat(owner, np.diff(encoded.offsets))


def rows_of_texts(tokens: TokenizedTexts, chunked: bool) -> NDArray[np.int64]:
    """[D] number of output rows of each text."""
    return np.bincount(text_of_rows(tokens, chunked), minlength=len(tokens.num_tokens)).astype(np.int64)


def of_documents(tokens: TokenizedTexts, documents: NDArray[np.int64]) -> TokenizedTexts:
    """These documents alone, ascending, with all their sequences."""
    sequences = np.flatnonzero(np.isin(tokens.document, documents))
    lengths, owners = tokens.lengths[sequences], tokens.document[sequences]
    rows, pooled = sequences, tokens.pooled
    if pooled is not None:
        rows = pooled.of(sequences)
        pooled = PooledTokens(np.searchsorted(sequences, pooled.sequence[rows]), pooled.first[rows], pooled.end[rows])
    chosen = ranges(tokens.offsets[sequences], lengths)
    return TokenizedTexts(
        input_ids=tokens.input_ids[chosen],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        document=np.searchsorted(documents, owners).astype(np.int32),
        chunk_start=None if tokens.chunk_start is None else tokens.chunk_start[rows],
        chunk_end=None if tokens.chunk_end is None else tokens.chunk_end[rows],
        truncated=tokens.truncated[documents],
        num_tokens=tokens.num_tokens[documents],
        prompt_tokens=tokens.prompt_tokens,
        pooled=pooled,
        skipped=None if tokens.skipped is None else tokens.skipped[chosen],
    )


def unknown_ids(tokens: TokenizedTexts, vocabulary: int) -> dict[int, str]:
    """Sequence -> reason, of those with a token id beyond the `vocabulary` ids that the model knows."""
    if not len(tokens.input_ids) or int(tokens.input_ids.max()) < vocabulary:
        return {}
    places = np.flatnonzero(tokens.input_ids >= vocabulary)
    owners = np.searchsorted(tokens.offsets, places, side="right") - 1
    owners, first = np.unique(owners, return_index=True)
    return {
        owner: f"the tokenizer gives id {tokens.input_ids[place]}, the model knows {vocabulary} tokens; "
        "model.name mixes the tokenizer of one model with the weights of another"
        for owner, place in zip(owners.tolist(), places[first].tolist(), strict=True)
    }


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … for each (start, length), concatenated: an index that gathers slices of a flat array."""
    ends: NDArray[np.int64] = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    index: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return index
