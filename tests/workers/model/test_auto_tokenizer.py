"""Tokens are those that AutoTokenizer makes of the folder, whatever its files say; chunks cover their text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from tests.workers.model_folders import (
    ADDED,
    assert_tokens,
    assert_vectors,
    make,
    refused,
    sequences,
    settings,
    settings_of,
    tokenizer_settings,
)  # fmt: skip
from tests.workers.models import PASSAGE, TEXTS, layout
from workers.model import tokenizer as tokenizer_module
from workers.model.tokenizer import TextTokenizer


def test_the_folder_as_it_is(folder: Path) -> None:
    assert_tokens(folder)
    assert_vectors(folder)
    assert layout(folder)[1].tokenizer == "", "vectors of version 0.1 may be reused"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "added_tokens.json").write_text(json.dumps({"[WORLD]": 600})),
        lambda folder: tokenizer_settings(folder, added_tokens_decoder={"600": ADDED}),
        lambda folder: tokenizer_settings(folder, additional_special_tokens=["[WORLD]"]),
        lambda folder: tokenizer_settings(folder, extra_special_tokens={"world_token": "[WORLD]"}),
        lambda folder: (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": ["[WORLD]"]}'),
        lambda folder: settings(folder, tokenizer_args={"additional_special_tokens": ["[WORLD]"]}),
    ],
)  # fmt: skip
def test_added_tokens_beside_tokenizer_json(folder: Path, change: Callable[[Path], Any]) -> None:
    change(folder)
    options = {"additional_special_tokens": ["[WORLD]"]} if "tokenizer_args" in str(settings_of(folder)) else {}
    assert_tokens(folder, **options)
    tokenizer = make(folder)
    assert "[world]" in map(str.lower, tokenizer.strings(tokenizer.tokenize(["hello [WORLD]"]).input_ids))
    assert layout(folder)[1].tokenizer != "", "version 0.1 made other tokens: its vectors are not reused"


@pytest.mark.parametrize(
    "changes",
    [
        {"do_lower_case": False},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
        {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True},
        {"split_special_tokens": True},
        {"cls_token": "[MASK]"},
        {"unk_token": "[PAD]"},
        {"clean_up_tokenization_spaces": True},
        {"padding_side": "left"},
        {"a_key_of_its_own": {"x": 1}},
    ],
)  # fmt: skip
def test_tokenizer_config(folder: Path, changes: dict[str, Any]) -> None:
    tokenizer_settings(folder, **changes)
    assert_tokens(folder)


def test_lower_case_of_another_class_is_not_used(folder: Path) -> None:
    tokenizer_settings(folder, tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False)
    tokenizer = make(folder)
    assert "harbour" in "".join(tokenizer.strings(tokenizer.tokenize(["The HARBOUR"]).input_ids)).replace("##", "")


@pytest.mark.parametrize("prefix", [False, True])
def test_add_prefix_space(folder: Path, prefix: bool) -> None:
    """The word at the beginning of a text is another token with and without it; tokenizer.json says the opposite."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=not prefix), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, not prefix)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), specials, strict=True))
    stored = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": prefix, "cls_token": "<s>", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stored | named))
    assert_tokens(folder)


@pytest.mark.slow
def test_the_end_of_a_long_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer_settings(folder, truncation_side="left")
    settings(folder, max_seq_length=16)
    assert_tokens(folder, longest=16)
    tokenizer = make(folder)
    long = [f"{PASSAGE * 3000}the last words decide", "a" * 9000 + " b", "short", PASSAGE.replace(" ", "") * 40]
    seen: list[int] = []
    encode = TextTokenizer._encode
    monkeypatch.setattr(
        TextTokenizer, "_encode", lambda self, texts, **more: seen.extend(map(len, texts)) or encode(self, texts, **more)
    )
    tokens = tokenizer.tokenize(long)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert sequences(tokens) == [theirs(text, truncation=True, max_length=16)["input_ids"] for text in long]
    assert tokens.truncated.tolist() == [True, False, False, True]
    assert max(seen[:1]) < 1000, "a page of 600 KB was read"


def test_a_tokenizer_whose_pieces_do_not_join(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that puts something before each text: a long text is tokenised whole."""
    from tokenizers.normalizers import Prepend, Sequence

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = Sequence([tokenizer.normalizer, Prepend("x")])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_settings(folder, tokenizer_class="PreTrainedTokenizerFast")
    monkeypatch.setattr(tokenizer_module, "PIECE_CHARACTERS", 37)
    mine = sequences(make(folder, max_tokens=20, long_text="chunks", chunk_overlap=0).tokenize([PASSAGE * 3]))
    whole = AutoTokenizer.from_pretrained(folder)(PASSAGE * 3, add_special_tokens=False)["input_ids"]
    assert [token for ids in mine for token in ids[1:-1]] == whole


def test_a_class_that_does_not_fit_tokenizer_json(folder: Path) -> None:
    """transformers makes WordPiece of a byte-level vocabulary for model_type bert: nearly every word is unknown."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "[PAD]": 1, "[UNK]": 2, "[CLS]": 3, "[SEP]": 4}, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_settings(folder, tokenizer_class=None)
    refused(folder, "tokenizer_config.json", "tokenizer_class", "WordPiece", "BPE")


@pytest.mark.parametrize("overlap", [0, 6])
@pytest.mark.parametrize("prompt", ["", "passage: "])
def test_chunks_cover_every_character(folder: Path, overlap: int, prompt: str) -> None:
    """Accents and control characters are no tokens; their chunk is that of the letter before them."""
    texts = [
        unicodedata.normalize("NFD", "é ä ö ü " * 20), "\u0301\u0302 e\u0301", "\x01\u200b" * 3, " \u200ba\u0301  ", "   ",
        "", f"\u200b\x01 {PASSAGE}\x02\u200b ", *(unicodedata.normalize("NFD", text) for text in TEXTS),
    ]  # fmt: skip
    make_chunks = {"max_tokens": 16, "long_text": "chunks", "chunk_overlap": overlap, "prompt": prompt}
    tokens = make(folder, **make_chunks).tokenize(texts)
    assert tokens.chunk_start is not None
    assert tokens.chunk_end is not None
    for row, text in enumerate(texts):
        mine = tokens.document == row
        covered = np.zeros(len(text), bool)
        for start, end in zip(tokens.chunk_start[mine], tokens.chunk_end[mine], strict=True):
            assert 0 <= start <= end <= len(text)
            covered[start:end] = True
        assert [char for char, seen in zip(text, covered, strict=True) if not seen and not char.isspace()] == []
        assert text == text.strip() or not covered[[0, -1]].all(), "white space around a text belongs to no chunk"


@pytest.mark.slow
def test_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.model import tokenizer_files

    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path / "cache"))
    asked: list[object] = []
    call = tokenizer_files.IsolatedProcess.call
    monkeypatch.setattr(
        tokenizer_files.IsolatedProcess, "call", lambda self, *given: asked.append(given) or call(self, *given)
    )
    first = make(folder).tokenize(TEXTS).input_ids
    assert len(asked) == 1
    assert np.array_equal(make(folder).tokenize(TEXTS).input_ids, first)
    assert len(asked) == 1, "the second time it is cached"
    (kept,) = [path for path in (tmp_path / "cache/tokenizers").iterdir() if path.suffix != ".lock"]
    kept.write_bytes(kept.read_bytes()[:-9])
    assert np.array_equal(make(folder).tokenize(TEXTS).input_ids, first)
    assert len(asked) == 2, "a damaged one is made again"
    tokenizer_settings(folder, split_special_tokens=True)
    make(folder)
    assert len(asked) == 3, "another file, another tokenizer"
    monkeypatch.setenv("REEMBED_CACHE", str(kept))
    make(folder)
    assert len(asked) == 4, "no folder can be made there: the tokenizer is made, and not kept"
