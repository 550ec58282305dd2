"""Late chunks against a reference that shares no code with the product: transformers one input at a time, pooled by NumPy.

The reference plans its windows by a loop, float32 states widened to float64. Rules: chunks of `size` tokens follow each
other; a document that fits is one input; of a longer one the first input holds what fits, each further one begins `overlap`
tokens before the first chunk that was not yet whole in an input. The first chunk has [CLS] and the prompt, the last [SEP].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from tests.workers.families import FAMILIES, of_lengths, save_family
from tests.workers.models import PASSAGE, TEXTS, build, copy_model, edit_json, layout
from workers.config import ROW_A_CHUNK, LongText
from workers.engine.encoder import Encoder
from workers.engine.kernels.packing import pack, rows_of
from workers.errors import UsageError
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import PooledTokens, of_documents, rows_of_texts, text_of_rows

LATE: dict[str, Any] = {"long_text": "late_chunks", "max_tokens": 48, "chunk_tokens": 12, "chunk_overlap": 9}
TOLERANCE = 1e-5
Vector = NDArray[np.float64]


@dataclass
class Reference:
    """Naive on purpose."""

    folder: Path
    longest: int = 48
    size: int = 12
    overlap: int = 9
    prompt: str = ""

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModel.from_pretrained(self.folder, attn_implementation="eager").eval()

    def states(self, ids: list[int]) -> Vector:
        with torch.no_grad():
            found: Vector = self.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        return found

    def chunks(self, text: str) -> list[Vector]:
        leading = len(self.tokenizer(self.prompt, add_special_tokens=False)["input_ids"])
        ids = self.tokenizer(self.prompt + text, add_special_tokens=False)["input_ids"]
        before, content = [self.tokenizer.cls_token_id, *ids[:leading]], ids[leading:]
        room = self.longest - len(before) - 1
        left = [(start, min(start + self.size, len(content))) for start in range(0, max(len(content), 1), self.size)]
        found: list[Vector] = []
        begin = 0
        while left:
            window = content[begin : begin + room]
            states = self.states([*before, *window, self.tokenizer.sep_token_id])
            while left and left[0][1] <= begin + len(window):
                start, end = (place - begin + len(before) for place in left.pop(0))
                start = start if found else 0
                if not left:
                    end += 1
                found.append(np.sum(states[start:end], axis=0) / (end - start))
            if left:
                begin = max(left[0][0] - self.overlap, 0)
        return found


def unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def largest_difference(found: NDArray[np.float32], expected: list[Vector]) -> float:
    assert found.shape == (len(expected), len(expected[0]))
    return float(np.abs(found - np.stack(expected)).max())


@pytest.fixture(scope="module")
def tiny(small_model: Path) -> tuple[TextTokenizer, Encoder]:
    return build(small_model, normalize=False, **LATE)


@pytest.mark.slow
def test_minilm(minilm: Path) -> None:
    """From two special tokens to ten windows; in small batches, and in one."""
    reference = Reference(minilm)
    expected = [[unit(vector) for vector in reference.chunks(text)] for text in TEXTS]
    tokenizer, encoder = build(minilm, **LATE)
    tokens = tokenizer.tokenize(TEXTS)
    assert rows_of_texts(tokens, chunked=True).tolist() == [len(chunks) for chunks in expected]
    assert len(tokens.document) > len(TEXTS), "no document is longer than a window"
    for limit in (48, 8192):
        encoder.batch_tokens = limit
        found = encoder.encode(tokens).vectors
        assert largest_difference(found, [vector for chunks in expected for vector in chunks]) <= TOLERANCE, limit


@pytest.mark.slow
@pytest.mark.parametrize("family", ["MPNet", "ModernBert", "DebertaV2", "equal lengths"])
def test_every_way_to_run_a_model(minilm: Path, tmp_path: Path, family: str) -> None:
    """Fused with a bias, fused with windows, padded, batches of one length."""
    small = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    config = FAMILIES.get(family) or transformers.FNetConfig(**small, max_position_embeddings=130)
    folder = save_family(minilm, tmp_path / "model", config)
    reference = Reference(folder)
    tokenizer, encoder = build(folder, normalize=False, **LATE)
    texts = TEXTS[4:8]
    expected = [vector for text in texts for vector in reference.chunks(text)]
    found = encoder.encode(tokenizer.tokenize(texts)).vectors
    assert largest_difference(found, expected) <= TOLERANCE, encoder.way


@pytest.mark.slow
def test_a_prompt_stands_before_each_window_and_belongs_to_the_first_chunk(small_model: Path) -> None:
    """Components that are left out, and unit length, are each chunk's own."""
    prompt = "Represent the passage: "
    reference = Reference(small_model, prompt=prompt)
    tokenizer, encoder = build(small_model, prompt=prompt, truncate_dim=20, **LATE)
    expected = [unit(vector[:20]) for vector in reference.chunks(PASSAGE * 3)]
    assert largest_difference(encoder.encode(tokenizer.tokenize([PASSAGE * 3])).vectors, expected) <= TOLERANCE


def test_a_prompt_that_does_not_count() -> None:
    """Of two windows: the first chunk loses [CLS] and the prompt, no other loses anything."""
    pooled = PooledTokens(np.array([0, 0, 1, 2]), np.array([0, 6, 5, 0]), np.array([6, 9, 9, 3]))
    batch = pack(of_lengths(np.array([9, 10, 4])), np.array([1, 2, 0]), torch.device("cpu"))
    starts, ends = rows_of(pooled, np.array([1, 2, 0]), batch, skip=4)
    assert starts.tolist() == [5, 10 + 3, 14 + 4, 14 + 6]
    assert ends.tolist() == [9, 10 + 3, 14 + 6, 14 + 9]
    assert rows_of(pooled, np.array([1, 2, 0]), batch, skip=0)[0].tolist() == [5, 10, 14, 20]


@pytest.mark.slow
def test_a_call_repeats_its_bits_and_some_documents_are_as_before(tiny: tuple[TextTokenizer, Encoder]) -> None:
    tokenizer, encoder = tiny
    tokens = tokenizer.tokenize(TEXTS)
    once = encoder.encode(tokens).vectors
    assert np.array_equal(once, encoder.encode(tokens).vectors)
    some = np.array([5, 6, 9])
    mine = np.isin(text_of_rows(tokens, chunked=True), some)
    assert np.abs(encoder.encode(of_documents(tokens, some)).vectors - once[mine]).max() <= TOLERANCE


@pytest.mark.slow
def test_a_document_of_one_chunk_is_as_by_itself(tiny: tuple[TextTokenizer, Encoder], small_model: Path) -> None:
    texts = ["snow", "The quick brown fox.", "\x00"]
    tokenizer, encoder = tiny
    alone = tokenizer_of(small_model, max_tokens=48).tokenize(texts)
    assert alone.pooled is None
    assert np.array_equal(encoder.encode(tokenizer.tokenize(texts)).vectors, encoder.encode(alone).vectors)


@pytest.mark.slow
def test_refused_sequences_leave_their_rows_empty(tiny: tuple[TextTokenizer, Encoder]) -> None:
    """An id that the model does not know: all chunks of that window are NaN, and it is told which."""
    tokenizer, encoder = tiny
    tokens = tokenizer.tokenize([PASSAGE, "snow"])
    tokens.input_ids[3] = 40_000
    encoded = encoder.encode(tokens)
    assert list(encoded.refused) == [0]
    assert tokens.pooled is not None
    spoilt = ~np.isfinite(encoded.vectors).all(axis=1)
    assert np.array_equal(spoilt, tokens.pooled.sequence == 0)
    assert spoilt.any()
    assert not spoilt.all()


def test_a_document_of_8192_tokens_is_one_input(small_model: Path, tmp_path: Path) -> None:
    folder = copy_model(small_model, tmp_path / "model")
    edit_json(folder / "config.json", max_position_embeddings=8192)
    tokenizer = tokenizer_of(folder, long_text="late_chunks", max_tokens=8192)
    one, more = (tokenizer.tokenize(["snow " * words]) for words in (8190, 8191))
    assert one.lengths.tolist() == [8192]
    assert len(one.row_document) == -(-8190 // 256)
    assert more.lengths.tolist() == [8192, 2 + 64 + 8191 - 31 * 256]


def tokenizer_of(folder: Path, **settings: Any) -> TextTokenizer:
    files, recipe = layout(folder, **settings)
    return TextTokenizer(files.folder, recipe)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "cls"}, r"model\.long_text=late_chunks: .*cls.*model\.pooling: mean"),
        ({"pooling": "last_token"}, r"model\.long_text=late_chunks: .*last_token"),
        ({"pooling": "pooler"}, r"model\.long_text=late_chunks: .*pooler"),
        ({"pooling": "tokens"}, r"model\.long_text=late_chunks: .*tokens"),
        ({"chunk_tokens": 300}, r"model\.chunk_tokens=300: .*254 tokens.*max_tokens=256.*lower"),
        ({"chunk_tokens": 200}, r"model\.chunk_overlap=64: .*254 tokens.*200.*at most 54"),
        ({"long_text": "chunks", "chunk_tokens": 64}, r"model\.chunk_overlap=64: .*less than the 64 tokens.*chunk_tokens"),
        ({"long_text": "truncate", "chunk_by": "sentences"}, r"model\.chunk_by=sentences: .*long_text.*late_chunks"),
        ({"long_text": "truncate", "chunk_tokens": 9}, r"model\.chunk_tokens=9: .*long_text.*late_chunks"),
    ],
)
def test_what_makes_no_sense_is_refused(minilm: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tokenizer_of(minilm, **{"long_text": "late_chunks"} | settings)


def test_the_size_of_a_late_chunk_follows_from_the_model(minilm: Path) -> None:
    """A quarter of the longest input, at most 256."""
    assert layout(minilm, long_text="late_chunks")[1].chunk_tokens == 64
    assert layout(minilm, long_text="late_chunks", max_tokens=512)[1].chunk_tokens == 128
    assert layout(minilm, long_text="chunks")[1].chunk_tokens is None
    assert {LongText.CHUNKS, LongText.LATE_CHUNKS} == ROW_A_CHUNK
