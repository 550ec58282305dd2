"""The compiled WordPiece: forms of texts, threads, bytes that are no text, added tokens, and when it is not used."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from tests.sessions import ROOT
from tests.workers.model.test_tokenizer import sequences
from tests.workers.model.wordpiece.tokenizers_of_kinds import (
    CORPUS,
    SENTENCES,
    assert_same,
    changed,
    compiled,
    needs_library,
    trained,
)
from tests.workers.model_folders import ADDED, make, tokenizer_settings
from workers.model import tokenizer as tokenizer_module
from workers.model.wordpiece import library, proof
from workers.model.wordpiece.definition import Definition, definition_of
from workers.model.wordpiece.make_tables import HEADER, header
from workers.model.wordpiece.proof import proven_vocabulary

BEFORE, AFTER = np.array([2], np.int32), np.array([3, 3], np.int32)


def expected(tokenizer: Tokenizer, texts: list[str], room: int) -> list[list[int]]:
    found = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [[2, *encoding.ids[:room], 3, 3] for encoding in found]


def lists(encoded: library.Encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.ends[:-1])]


@needs_library
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("threads", [1, 3])
def test_columns_slices_and_threads(kind: pa.DataType, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_SHARE_BYTES", 100)
    tokenizer, texts = trained("uncased"), [*CORPUS, "", *CORPUS[::-1]]
    vocabulary, column = compiled(tokenizer, threads), pa.array(texts, kind)
    for part in (slice(0, None), slice(5, 40), slice(7, 8), slice(3, 3)):
        mine = vocabulary.encode(column[part], 9, before=BEFORE, after=AFTER)
        assert (lists(mine) if len(column[part]) else []) == expected(tokenizer, texts[part], 9)
        assert mine.ids.dtype == np.int32
    spans = vocabulary.encode(column, before=BEFORE[:0], after=BEFORE[:0], spans=True).spans
    theirs = [place for encoding in tokenizer.encode_batch(texts, add_special_tokens=False) for place in encoding.offsets]
    assert list(map(tuple, spans.tolist())) == theirs


@needs_library
def test_bytes_that_are_not_utf8_are_left_alone() -> None:
    """Cut off, overlong, surrogates, too large: Python's decoder says which are text."""
    drawn = random.Random(3)
    heads = [
        b"",
        b"a",
        b"\xc3",
        b"\xe4\xb8",
        b"\xf0\x9f\x99",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
    ]
    raw = [head + tail for head in heads for tail in (b"", b" b", b"\x80", "é".encode())]
    alphabet = b"a \x80\xbf\xc3\xa9\xe4\xb8\xad\xf0\x9f\x99\x82\xcc\x81["
    raw += [bytes(drawn.choice(alphabet) for _ in range(drawn.randrange(12))) for _ in range(3000)]
    column = pa.array(raw, pa.large_binary()).view(pa.large_string())
    mine = compiled(trained("uncased")).encode(column, before=BEFORE[:0], after=BEFORE[:0])
    texts: list[str | None] = []
    for data in raw:
        try:
            texts.append(data.decode())
        except UnicodeDecodeError:
            texts.append(None)
    assert set(mine.odd.tolist()) >= {number for number, text in enumerate(texts) if text is None}
    assert len(mine.odd) - texts.count(None) < 10
    for number, ids in enumerate(lists(mine)):
        if number not in mine.odd:
            assert ids == trained("uncased").encode(texts[number], add_special_tokens=False).ids


@needs_library
def test_offsets_out_of_bounds_are_an_error() -> None:
    offsets = np.array([0, 2, 4], np.int64)
    column = pa.Array.from_buffers(pa.large_string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"snow")])
    offsets[2] = 900  # Arrow would refuse it at once
    with pytest.raises(ValueError, match="out of bounds"):
        compiled(trained("cased")).encode(column, before=BEFORE, after=AFTER)


@needs_library
@pytest.mark.parametrize(("longest", "prefix"), [(1, "##"), (5, ""), (100, "@"), (999, "##")])
def test_longest_word_and_prefix(longest: int, prefix: str) -> None:
    vocabulary = {word.replace("##", prefix): number for number, word in enumerate(trained("cased").get_vocab())}
    model = {"max_input_chars_per_word": longest, "continuing_subword_prefix": prefix, "vocab": vocabulary}
    tokenizer = changed(trained("cased"), model=model)
    words = [letter * size for letter in "aéд한" for size in (1, 4, 5, 6, 31, 32, 100, 101, 999, 1000, 4100)]
    assert_same(tokenizer, [*words, *SENTENCES])


@needs_library
def test_added_tokens_in_a_text_are_left_to_tokenizers() -> None:
    tokenizer = changed(trained("uncased"))
    tokenizer.add_tokens([AddedToken("<Tag>", normalized=True), AddedToken("[W]", normalized=False, lstrip=True)])
    vocabulary = compiled(tokenizer)
    texts = ["a [CLS] b", "a[SEP]", "x <tag>", "x <TÁG> y", "b [W]", "b [w]", "[CL S]", "< tag >", "no [CLS", "tag <ta"]
    mine = vocabulary.encode(pa.array(texts), 5, before=BEFORE[:0], after=BEFORE[:0])
    assert {0, 1, 2, 3, 4} <= set(mine.odd.tolist()) <= {0, 1, 2, 3, 4, 7}
    late = ["a " * 4 + "<tag> more", "a " * 40 + "<tag>"]
    mine = vocabulary.encode(pa.array(late), 5, before=BEFORE[:0], after=BEFORE[:0])
    assert mine.odd.tolist() == [0], "the token lies across the end of what is kept"


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({}, "right"),
        ({"prompt": "query: "}, "left"),
        ({"prompt": "[MASK] "}, "right"),
        ({"long_text": "chunks", "chunk_overlap": 3}, "left"),
        ({"long_text": "mean_of_chunks", "chunk_overlap": 2}, "right"),
    ],
)
def test_texts_with_added_tokens_among_others(
    folder: Path, settings: dict[str, Any], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers makes of each text, whichever of the two encodes it."""
    tokenizer_settings(folder, added_tokens_decoder={"600": ADDED}, truncation_side=side)
    texts = ["hello [WORLD]", *SENTENCES, "[WORLD]" * 30, "[CLS] a", "", "a\u1b44\u0334b", *CORPUS, "end [SEP]"]
    monkeypatch.setattr(tokenizer_module, "GROUP_CHARACTERS", 60)  # longer ones are encoded in pieces
    tokenizer = make(folder, max_tokens=16, **settings)
    assert tokenizer.compiled
    reference, prompt = AutoTokenizer.from_pretrained(folder), settings.get("prompt", "")
    mine = tokenizer.tokenize(texts)
    column = tokenizer.tokenize(pa.chunked_array([texts[:5], texts[5:]], pa.large_string()))
    assert np.array_equal(mine.input_ids, column.input_ids)
    assert np.array_equal(mine.offsets, column.offsets)
    if "long_text" not in settings:
        assert sequences(mine) == [reference(prompt + text, truncation=True, max_length=16)["input_ids"] for text in texts]
        assert mine.truncated.tolist() == [len(reference(prompt + text)["input_ids"]) > 16 for text in texts]
    else:
        for number, text in enumerate(texts):
            chunks = [ids[1:-1] for owner, ids in zip(mine.document, sequences(mine), strict=True) if owner == number]
            joined = [*chunks[0], *(token for ids in chunks[1:] for token in ids[settings["chunk_overlap"] :])]
            assert joined == reference(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"normalizer": None}, "normaliser"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}, "normaliser"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer"),
        ({"model": {"unk_token": "<none>"}}, "unk_token '<none>' is not in the vocabulary"),
        ({"model": {"max_input_chars_per_word": 5000}}, "max_input_chars_per_word=5000 is not from 1 to 1000"),
    ],
)  # fmt: skip
def test_other_tokenizers_are_left_to_tokenizers(parts: dict[str, Any], why: str) -> None:
    value = json.loads(trained("uncased").to_str())
    value |= parts | {"model": value["model"] | parts.get("model", {})}
    found = definition_of(json.dumps(value))
    assert isinstance(found, str)
    assert why in found


def test_an_added_token_of_letters_is_left_to_tokenizers() -> None:
    tokenizer = changed(trained("uncased"))
    tokenizer.add_tokens([AddedToken("harbour", normalized=True)])
    assert "'harbour' is looked for in normalised text" in str(definition_of(tokenizer.to_str()))
    assert isinstance(definition_of(trained("uncased").to_str()), Definition)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, proof.__name__)
    return caplog


def test_without_the_library(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_EXTENSION", "workers.model.wordpiece._not_there")
    library.library.cache_clear()
    try:
        assert proven_vocabulary(trained("cased").to_str(), trained("cased"), ()) is None
    finally:
        library.library.cache_clear()
    assert "the compiled WordPiece is not built; install with a C compiler at hand" in log.text


@needs_library
def test_one_that_differs_is_not_used(log: pytest.LogCaptureFixture) -> None:
    """A tokenizer of another vocabulary; one that agrees; one that differs in a single code point of another version."""
    assert proven_vocabulary(trained("cased").to_str(), trained("uncased"), ()) is None
    assert "makes other tokens of" in log.text
    log.clear()
    assert proven_vocabulary(trained("cased").to_str(), trained("cased"), (), threads=2) is not None
    assert [record.getMessage() for record in log.records] == ["texts are tokenised by the compiled WordPiece, 2 at once"]


@needs_library
@pytest.mark.slow
def test_another_version_of_tokenizers_is_tried_with_every_code_point(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(proof, "first_difference", lambda vocabulary, tokenizer, texts: seen.append(len("".join(texts))))
    for tables in (version("tokenizers"), "0.1"):
        monkeypatch.setattr(proof, "tables_version", lambda tables=tables: tables)
        assert proven_vocabulary(trained("cased").to_str(), trained("cased"), ()) is not None
    assert seen[1] * 50 < seen[3]
    assert set("".join(proof.code_points(1))) >= {chr(0x1E9E), chr(0xFFFD), chr(0x2FA1D), chr(0xE0001)}


@needs_library
@pytest.mark.slow
@pytest.mark.skipif("REEMBED_WORDPIECE_STRINGS" not in os.environ, reason="REEMBED_WORDPIECE_STRINGS is not set")
def test_the_tables_are_what_tokenizers_does() -> None:
    if library.tables_version() != version("tokenizers"):
        pytest.skip("they are of another version; the proof at load tries every code point")
    assert HEADER.read_text() == header()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_no_access_out_of_bounds(tmp_path: Path) -> None:
    """Random bytes, rooms and capacities under the address and undefined-behaviour sanitizers."""
    source = ROOT / "workers" / "model" / "wordpiece"
    main = Path(__file__).with_name("hostile.c")
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{source}"]
    built = subprocess.run(
        ["gcc", *flags, str(main), "-o", str(tmp_path / "hostile")], capture_output=True, text=True, check=False
    )
    if "cannot find" in built.stderr:
        pytest.skip("gcc without sanitizers")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "hostile", "6000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sys.byteorder == "big" or "texts" in done.stdout
