"""Tokenises texts: truncated to the model's longest input, or cut into overlapping chunks.

    1. clip      if truncating: keep only as many characters as can matter (a 5 MB text takes no longer than a page), of the
                 text's beginning, or of its end where the model's files say truncation_side: left
    2. encode    content tokens without special tokens, in groups that bound memory; long texts in pieces cut at white space
    3. window    one sequence per document (truncate), or several overlapping ones: the chunks, or the windows from which
                 late chunks are pooled (chunking/)
    4. assemble  special tokens + prompt + window + special tokens, concatenated in one flat array

The prompt is prepended to the text and tokenised with it, as in sentence-transformers; later chunks repeat the prompt's
tokens. The tokenizer is the one that transformers makes of the model's files (tokenizer_files.py), run by the `tokenizers`
library; at load its tokens of the texts of proof are compared with transformers'. Where the compiled WordPiece (wordpiece/)
is proved to make the same tokens, it encodes, and truncated documents are its output as it is: no clip, no assembly. Knows
nothing of batches, models or vectors.

Shapes: D documents, N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer

from workers.config import ROW_A_CHUNK, ChunkBy, LongText
from workers.errors import UsageError
from workers.model.auto_tokenizer import LONG_TEXT, PROOF_TOKENS, Conversion
from workers.model.chunking.borders import cuts_of, strip
from workers.model.chunking.characters import leading_tokens, piece_characters, row_characters
from workers.model.chunking.room import check_room
from workers.model.chunking.spans import Spans, by_cuts, by_tokens, joined, pooled_tokens, windows
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.model.text_pieces import beginnings_of, groups, pieces, tail
from workers.model.tokenizer_files import backend, read_conversion
from workers.model.transformer_settings import TOKENIZER_ALONE, read_transformer_settings
from workers.model.wordpiece.library import Vocabulary
from workers.model.wordpiece.proof import proven_vocabulary
from workers.model.wordpiece.text_column import text_column
from workers.records.tokens import PooledTokens, TokenizedTexts, ranges

CLIP_CHARACTERS_A_TOKEN = 16  # a clip of this length nearly always has enough tokens; otherwise the whole text is encoded
SEAM_CHARACTERS = 40  # of a piece, to see whether a tokenizer's tokens may be joined from pieces
PIECE_CHARACTERS = 1 << 17  # longer texts are encoded in pieces: an Encoding takes some 100 bytes per token
GROUP_CHARACTERS = 1 << 20  # of the texts encoded by one call
_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class _Windows:
    """The content tokens of each of N sequences."""

    document: NDArray[np.int32]  # [N] index of the document
    prompt_N: NDArray[np.int64]  # leading tokens of the document that are the prompt, and precede every window
    start_N: NDArray[np.int64]  # first token of the window, counted after the prompt
    length_N: NDArray[np.int64]  # tokens of the window
    first_R: NDArray[np.int64] | None = None  # characters of each row in the text, where a row is a chunk: start
    last_R: NDArray[np.int64] | None = None  # end, exclusive
    pooled: PooledTokens | None = None  # rows that are pooled from parts of a sequence


class TextTokenizer:
    """The model's tokenizer under one recipe. Not thread-safe."""

    def __init__(self, folder: Path, recipe: EmbeddingRecipe, threads: int = 1) -> None:
        """`folder` is the model's (ModelFiles.folder); `threads`: that the compiled WordPiece divides texts among; 0:
        `tokenizers` encodes, for a text or two, since compiling and proving take as long as thousands of texts.

        Raises:
            UsageError: unusable tokenizer files, or max_tokens too small for prompt, special tokens, chunk_tokens and
                chunk_overlap.
        """
        self._recipe = recipe
        static = recipe.static
        settings = TOKENIZER_ALONE if static is not None else read_transformer_settings(folder / recipe.transformer)
        if recipe.late_interaction is not None:
            settings = replace(settings, markers=recipe.late_interaction.markers)
        conversion = read_conversion(folder / recipe.transformer, settings)
        self._tokenizer = backend(conversion)
        self._from_end = conversion.truncation_side == "left"
        self._characters = static.characters if static is not None else None  # a token of the longest input
        self._prefix, self._suffix = np.empty(0, np.int32), np.empty(0, np.int32)
        if settings.add_special_tokens:
            self._prefix, self._suffix = _special_tokens(self._tokenizer)
        self._prove(conversion, folder / recipe.transformer)
        late = recipe.late_interaction
        skip = late.skip if late is not None and late.skip_documents else ()
        ids = (self._tokenizer.token_to_id(word) for word in skip)
        self._skipped = np.array([token for token in ids if token is not None], np.int32)
        self._joins = self._joins_pieces()
        self._compiled = None
        if threads:
            self._compiled = proven_vocabulary(conversion.tokenizer, self._tokenizer, conversion.texts, threads)
        specials = len(self._prefix) + len(self._suffix)
        self._room = recipe.max_tokens - specials  # for prompt and content
        prompt = len(self._tokenizer.encode(recipe.prompt, add_special_tokens=False).ids) if recipe.prompt else 0
        # as in sentence-transformers: the tokens of the prompt tokenised alone, without its last special token
        self._prompt_tokens = len(self._prefix) + prompt + max(len(self._suffix) - 1, 0) if prompt else 0
        room = self._room - prompt
        if room < 1:
            raise UsageError(
                f"model.max_tokens={recipe.max_tokens}: no room for text beside {specials} special tokens "
                f"and a prompt of {prompt}; raise max_tokens or shorten model.prompt"
            )
        check_room(recipe, room)

    @property
    def largest_id(self) -> int:
        """The largest id of the vocabulary, added tokens included."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def compiled(self) -> bool:
        """Whether the compiled WordPiece encodes, not `tokenizers`."""
        return self._compiled is not None

    def tokenize(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> TokenizedTexts:
        """Tokenise documents. Raises for no text: one without tokens becomes its special tokens.

        `texts`: strings, or an Arrow column of them without nulls, of which the compiled WordPiece makes no Python objects.
        """
        found = self._tokenize(texts)
        return replace(found, skipped=np.isin(found.input_ids, self._skipped)) if len(self._skipped) else found

    def token_id(self, token: str) -> int | None:
        """Of the vocabulary; None: it has no such token."""
        return self._tokenizer.token_to_id(token)

    def _tokenize(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> TokenizedTexts:
        if self._characters is None or self._recipe.long_text is not LongText.TRUNCATE:
            return self._tokenize_whole(texts)
        room = max(self._recipe.max_tokens * self._characters - len(self._recipe.prompt), 0)
        beginnings, cut = beginnings_of(texts, room)
        found = self._tokenize_whole(beginnings)
        return replace(found, truncated=found.truncated | cut) if cut is not None else found

    def _tokenize_whole(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> TokenizedTexts:
        prompt, truncate = self._recipe.prompt, self._recipe.long_text is LongText.TRUNCATE
        if self._compiled is not None and truncate and not self._from_end:
            return self._truncate(self._compiled, texts)
        listed = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else texts
        prompted = [prompt + text for text in listed] if prompt else listed
        if truncate:
            contents = self._encode_clipped(prompted)
            lengths = np.fromiter((len(ids) for ids in contents), np.int64, len(contents))
            kept = np.minimum(lengths, self._room)
            zeros = np.zeros(len(texts), np.int64)
            starts = lengths - kept if self._from_end else zeros
            return self._assemble(
                contents, _Windows(np.arange(len(texts), dtype=np.int32), zeros, starts, kept), lengths > kept
            )
        return self._chunks(prompted)

    def strings(self, ids: NDArray[np.int32] | Sequence[int]) -> list[str]:
        """The tokens' strings in the vocabulary (##ing, ▁the, Ġof)."""
        return [self._tokenizer.id_to_token(int(token)) or "" for token in ids]

    def _truncate(self, compiled: Vocabulary, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> TokenizedTexts:
        """Documents without windows, by the compiled WordPiece; texts that it leaves to `tokenizers` are put in between."""
        column = _column(texts)
        if self._recipe.prompt:
            prompt, nothing = (pa.scalar(text, column.type) for text in (self._recipe.prompt, ""))
            column = pc.binary_join_element_wise(prompt, column, nothing)
        encoded = compiled.encode(column, self._room, before=self._prefix, after=self._suffix)
        ids, truncated = encoded.ids, encoded.truncated
        lengths = np.diff(encoded.ends, prepend=0)
        if len(encoded.odd):
            contents = self._encode_clipped(column.take(pa.array(encoded.odd)).to_pylist(), library=True)
            parts, start = [], 0
            for position, content in zip(encoded.odd, contents, strict=True):
                end = encoded.ends[position]
                parts += [ids[start:end], self._prefix, content[: self._room], self._suffix]
                lengths[position] = sum(map(len, parts[-3:]))
                truncated[position], start = len(content) > self._room, end
            ids = np.concatenate([*parts, ids[start:]])
        return TokenizedTexts(
            input_ids=ids,
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            document=np.arange(len(lengths), dtype=np.int32),
            chunk_start=None,
            chunk_end=None,
            truncated=truncated,
            num_tokens=lengths.astype(np.int32),
            prompt_tokens=self._prompt_tokens,
        )

    def _chunks(self, texts: Sequence[str]) -> TokenizedTexts:
        """Chunks of each text, or the windows that late chunks are pooled from. `texts` begin with the prompt."""
        recipe, prompt = self._recipe, len(self._recipe.prompt)
        late, spans = recipe.long_text is LongText.LATE_CHUNKS, recipe.long_text in ROW_A_CHUNK
        encoded = list(self._encode(texts, offsets=spans or prompt > 0 or recipe.chunk_by is not ChunkBy.TOKENS))
        contents, places = [ids for ids, _ in encoded], [places_TX for _, places_TX in encoded]
        # tokens that end within the prompt belong to it; a token across its end belongs to the text
        leading = [leading_tokens(places_TX[:, 1], prompt) if prompt else 0 for places_TX in places]
        prompt_D = np.array(leading, np.int64).reshape(-1)
        length_D = np.fromiter((len(ids) for ids in contents), np.int64, len(contents)) - prompt_D
        room_D = np.maximum(self._room - prompt_D, recipe.chunk_overlap + 1)
        size_D = room_D if recipe.chunk_tokens is None else np.minimum(room_D, recipe.chunk_tokens)
        overlap = 0 if late else recipe.chunk_overlap
        if recipe.chunk_by is ChunkBy.TOKENS:
            chunks = by_tokens(length_D, size_D, size_D - overlap)
        else:
            chunks = self._cut(texts, places, prompt_D, size_D, overlap)
        first = last = None
        if spans:
            start_C = chunks.start + prompt_D[chunks.document]
            first, last = row_characters(
                texts, places, chunks.document, start_C, chunks.length, prompt, leads=chunks.start == 0
            )
            if late or recipe.chunk_by is not ChunkBy.TOKENS:  # chunks by tokens are what they have been
                strip(texts, chunks.document, first, last, prompt)
        inputs, pooled = chunks, None
        if late:
            inputs, sequence_C = windows(chunks, length_D, room_D, np.minimum(recipe.chunk_overlap, room_D - size_D))
            before, behind = len(self._prefix), len(self._suffix)
            pooled = pooled_tokens(chunks, inputs, sequence_C, prompt_D, before=before, behind=behind)
        document = inputs.document.astype(np.int32)
        found = _Windows(document, prompt_D[inputs.document], inputs.start, inputs.length, first, last, pooled)
        return self._assemble(contents, found, np.zeros(len(texts), np.bool_))

    def _cut(
        self, texts: Sequence[str], places: Sequence[NDArray[np.int64]], prompt_D: NDArray[np.int64],
        size_D: NDArray[np.int64], overlap: int,
    ) -> Spans:  # fmt: skip
        """Chunks that end where the texts may be cut. A text that is one chunk of sentences in any case is not looked at."""
        recipe, prompt = self._recipe, len(self._recipe.prompt)
        found = []
        for text, places_TX, leading, size in zip(texts, places, prompt_D.tolist(), size_D.tolist(), strict=True):
            ends_T = places_TX[leading:, 1]
            if recipe.chunk_by is ChunkBy.SENTENCES and len(ends_T) <= size:
                found.append([(0, len(ends_T))])
            else:
                cuts = cuts_of(text[prompt:], recipe.chunk_by, recipe.chunk_language)
                found.append(by_cuts(ends_T, cuts, prompt, size, overlap))
        return joined(found)

    def _assemble(self, contents: list[NDArray[np.int32]], inputs: _Windows, truncated: NDArray[np.bool_]) -> TokenizedTexts:
        """Gather (prefix, prompt, window, suffix) of every sequence from one flat array. `truncated`: [D]."""
        document, prompt_N, start_N, length_N = inputs.document, inputs.prompt_N, inputs.start_N, inputs.length_N
        flat = np.concatenate([self._prefix, self._suffix, *contents]).astype(np.int32, copy=False)
        specials = len(self._prefix) + len(self._suffix)
        sizes = np.fromiter((len(ids) for ids in contents), np.int64, len(contents))
        content_N = (specials + np.cumsum(sizes) - sizes)[document]
        zeros = np.zeros(len(document), np.int64)
        starts = np.stack([zeros, content_N, content_N + prompt_N + start_N, zeros + len(self._prefix)], axis=1)
        lengths = np.stack([zeros + len(self._prefix), prompt_N, length_N, zeros + len(self._suffix)], axis=1)
        sequence_N = lengths.sum(axis=1)
        return TokenizedTexts(
            input_ids=flat[ranges(starts.ravel(), lengths.ravel())],
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(sequence_N)]),
            document=document,
            chunk_start=inputs.first_R,
            chunk_end=inputs.last_R,
            truncated=truncated,
            num_tokens=np.bincount(document, weights=sequence_N, minlength=len(contents)).astype(np.int32),
            prompt_tokens=self._prompt_tokens,
            pooled=inputs.pooled,
        )

    def _encode_clipped(self, texts: Sequence[str], *, library: bool = False) -> list[NDArray[np.int32]]:
        """Content tokens [T] of each text: all, or at least one more than there is room for, which marks it as truncated.

        `library`: by `tokenizers` in any case.
        """
        limit = CLIP_CHARACTERS_A_TOKEN * self._recipe.max_tokens
        encode = self._encode_by_library if library else self._encode
        if not self._joins:
            return [ids for ids, _ in encode(texts, offsets=False)]
        clips = [tail(text, limit) if self._from_end else next(pieces(text, limit)) for text in texts]
        contents = [ids for ids, _ in encode(clips, offsets=False)]
        for index, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            if len(clip) < len(text) and len(contents[index]) <= self._room:  # too few tokens in so many characters
                contents[index] = next(iter(encode([text], offsets=False)))[0]
        return contents

    def _encode(self, texts: Sequence[str], *, offsets: bool) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Content tokens [T] of each text, in order, and their spans of characters [T, 2] (empty unless asked for)."""
        if self._compiled is None:
            yield from self._encode_by_library(texts, offsets=offsets)
            return
        for group in groups(texts, GROUP_CHARACTERS):
            if len(group) == 1:
                yield self._encode_long(self._compiled, group[0], offsets=offsets)
                continue
            encoded = self._compiled.encode(_column(group), before=_NOTHING, after=_NOTHING, spans=offsets)
            odd, start = set(encoded.odd.tolist()), 0
            for number, end in enumerate(encoded.ends.tolist()):
                if number in odd:
                    yield from self._encode_by_library([group[number]], offsets=offsets)
                else:
                    yield encoded.ids[start:end], encoded.spans[start:end]
                start = end

    def _encode_long(self, compiled: Vocabulary, text: str, *, offsets: bool) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Of one text, in pieces: the compiled WordPiece takes room for the worst case, an id a byte."""
        ids, spans, shift = [], [], 0
        for part in pieces(text, GROUP_CHARACTERS):
            encoded = compiled.encode(_column([part]), before=_NOTHING, after=_NOTHING, spans=offsets)
            if len(encoded.odd):
                return next(iter(self._encode_by_library([text], offsets=offsets)))
            ids.append(encoded.ids)
            spans.append(encoded.spans + shift)
            shift += len(part)
        return np.concatenate(ids), np.concatenate(spans)

    def _encode_by_library(
        self, texts: Sequence[str], *, offsets: bool
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """The same, by `tokenizers`."""
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        for group in groups(texts, GROUP_CHARACTERS):
            cut = [list(pieces(text, PIECE_CHARACTERS)) if self._joins else [text] for text in group]
            encodings = iter(encode(list(chain.from_iterable(cut)), add_special_tokens=False))
            for parts in cut:
                encoded = [(next(encodings), part) for part in parts]
                ids = np.concatenate([np.array(encoding.ids, np.int32) for encoding, _ in encoded])
                yield ids, piece_characters(encoded) if offsets else np.empty((0, 2), np.int64)

    def _prove(self, conversion: Conversion, folder: Path) -> None:
        """Compare with the tokens that transformers made. Raises: UsageError: they differ."""
        encode = self._tokenizer.encode_batch_fast
        bare = [encoding.ids for encoding in encode([*conversion.texts, LONG_TEXT], add_special_tokens=False)]
        room = PROOF_TOKENS - len(self._prefix) - len(self._suffix)
        bare[-1] = bare[-1][-room:] if self._from_end else bare[-1][:room]
        for ids, theirs in zip(bare, (*conversion.tokens, conversion.truncated), strict=True):
            if [*self._prefix, *ids, *self._suffix] != list(theirs):
                raise UsageError(
                    f"{folder}: tokenizer_config.json, tokenizer.json: {conversion.kind} does more than its fast part; "
                    "save the model with a tokenizer that is fast as a whole"
                )

    def _joins_pieces(self) -> bool:
        """Whether the tokens of a text are those of its pieces. Not so for one that puts something before each piece."""
        cut = list(pieces(LONG_TEXT, SEAM_CHARACTERS))
        whole, *parts = self._tokenizer.encode_batch_fast([LONG_TEXT, *cut], add_special_tokens=False)
        return list(whole.ids) == [token for part in parts for token in part.ids]


def _column(texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    """The texts as one Arrow array of strings."""
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        return text_column(texts)
    if isinstance(texts, pa.Array):
        return texts
    return texts.chunk(0) if texts.num_chunks == 1 else pa.concat_arrays([pa.array([], texts.type), *texts.chunks])


def _special_tokens(tokenizer: Tokenizer) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The ids that the tokenizer's post-processor puts before and after every text."""
    probe = tokenizer.encode("a")
    inside = [index for index, special in enumerate(probe.special_tokens_mask) if not special]
    first, last = (inside[0], inside[-1] + 1) if inside else (len(probe.ids), len(probe.ids))
    return np.array(probe.ids[:first], np.int32), np.array(probe.ids[last:], np.int32)
