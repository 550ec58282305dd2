"""The compiled WordPiece gives the ids of `tokenizers`: languages, every code point, random strings, cased and uncased.

By default a sample. `REEMBED_WORDPIECE_STRINGS=1000000` tries as many random strings, and every code point;
`REEMBED_WORDPIECE_TEXTS=A.parquet:B.parquet` tries the column `text` of these files too, also with the packaged MiniLM's
vocabulary and with a cased one of 20,000 words made of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.workers.model.wordpiece.tokenizers_of_kinds import (
    CORPUS,
    KINDS,
    LOWERED_FIRST,
    SENTENCES,
    assert_same,
    needs_library,
    train,
    trained,
)
from workers.model.wordpiece.make_tables import POINTS

pytestmark = needs_library
STRINGS = int(os.environ.get("REEMBED_WORDPIECE_STRINGS", "0"))
FILES = [path for path in os.environ.get("REEMBED_WORDPIECE_TEXTS", "").split(":") if path]
STEP = 1 if STRINGS else 499  # of the code points that are tried
GROUP = 20_000
ALL_KINDS = [*KINDS, LOWERED_FIRST]
# where lower case, accents, spaces, marks and their order are
PECULIAR = [
    *range(0x370), *range(0x1E00, 0x2100), *range(0x1B00, 0x1B50), *range(0x1D150, 0x1D180), 0xFFFD, 0x3000, 0x4E2D, 0xAC01,
    0xF900, 0x302E, 0x302F, 0x16FF0, 0x10A0F, 0x9CB, 0xF73, 0x10FFFF, *range(0x300, 0x350),
]  # fmt: skip


def minilm_tokenizer(minilm: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_texts_of_many_languages(kind: str) -> None:
    texts = [*CORPUS, *(" ".join(SENTENCES[number:]) for number in range(len(SENTENCES))), "".join(CORPUS)]
    for room in (None, 1, 12, 64):
        assert_same(trained(kind), texts, room)
    assert_same(trained(kind), texts, spans=True)


def test_a_model_of_30_000_words(minilm: Path) -> None:
    texts = [*CORPUS, *(text.upper() for text in CORPUS)]
    assert_same(minilm_tokenizer(minilm), texts)
    assert_same(minilm_tokenizer(minilm), texts, 20, spans=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_code_points_alone_and_between_letters(kind: str) -> None:
    points = [chr(point) for point in sorted({*POINTS[::STEP], *PECULIAR})]
    for start in range(0, len(points), GROUP):
        group = points[start : start + GROUP]
        assert_same(trained(kind), group)
        assert_same(trained(kind), group, spans=True, most_odd=len(group) // 50)
        assert_same(trained(kind), [f"a{char}b" for char in group])
        assert_same(trained(kind), [f"a{char}b {char}{char}." for char in group], 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_random_strings(kind: str) -> None:
    """Of peculiar code points, any code points, and letters; in the ids few are left to `tokenizers`, in spans more."""
    drawn = random.Random(f"{kind} 1")
    alphabets = ([chr(point) for point in PECULIAR], list("abc déF .,[#"), [chr(drawn.choice(POINTS)) for _ in range(500)],
                 list("".join(SENTENCES)))  # fmt: skip
    left = max(STRINGS // len(ALL_KINDS), 800)
    while left > 0:
        count = min(left, GROUP)
        alphabets[2][:] = [chr(drawn.choice(POINTS)) for _ in range(500)]
        texts = ["".join(drawn.choice(drawn.choice(alphabets)) for _ in range(drawn.randrange(40))) for _ in range(count)]
        assert_same(trained(kind), texts, most_odd=count // 5)
        assert_same(trained(kind), texts, drawn.randrange(1, 12), spans=True, most_odd=count // 2)
        left -= count


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FILES, reason="REEMBED_WORDPIECE_TEXTS names no files")
@pytest.mark.parametrize("kind", [*ALL_KINDS, "MiniLM"])
def test_texts_of_files(minilm: Path, kind: str) -> None:
    texts = [text for path in FILES for text in pq.read_table(path)["text"].to_pylist()]
    tokenizer = minilm_tokenizer(minilm) if kind == "MiniLM" else train(kind, texts[::9], 20_000)
    for start in range(0, len(texts), GROUP):
        for room in (None, 254, 30):
            assert_same(tokenizer, texts[start : start + GROUP], room)
