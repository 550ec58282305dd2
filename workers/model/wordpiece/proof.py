"""Proves the compiled WordPiece against `tokenizers` when a model is loaded: golden texts, odd texts, code points.

    proven_vocabulary     -> the vocabulary, compiled; None: the texts are left to `tokenizers`, and the log says why

The Unicode tables are those of one version of `tokenizers`. With that version a sample of the code points is tried, since
the tests try all of them; with another version every code point is tried here, which takes two seconds. What is compared
are the ids of this very vocabulary, alone and between letters: what no id shows makes no difference.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np
from tokenizers import Tokenizer

from workers.model.golden import GOLDEN_TEXTS
from workers.model.wordpiece.definition import definition_of
from workers.model.wordpiece.library import Encoded, Vocabulary, tables_version
from workers.model.wordpiece.text_column import text_column

ROOM = 7  # ids to which texts of the proof are truncated as well
SAMPLED = 101  # every so many code points are tried where the tables are of this version of `tokenizers`
_TEXT_POINTS = 64  # code points in a text of the proof
_log = logging.getLogger(__name__)
_NOTHING = np.empty(0, np.int32)
ODD_TEXTS = (
    "", " ", "\t\r\n", "a", "A", ".", "...", "\x00", "\x00a\x00", "\ufffd\ufeff\u200b\u00ad",
    "a\x1cb\x85c\x0bd\u2028e\u3000f", "e\u0301e\u0323\u0302\u0301", "\u226e \u2260 \u1fef \u037e \u2000\u2002",
    "\u0130stanbul I\u0307 \u0131 \u00df \u1e9e \u01c5 \ufb01 \u212a \u212b \u03a3\u03a3\u03c2 \u00c5ngstr\u00f6m",
    "\u1b05\u1b35\u0301 \u1b44\u1b34 \u302e\u0323\u302f \U0001d15e\U0001d165\u0334 \u0f73\u0344",
    "\u4e2d\u6587\u5b57 a\u4e2db \u3400 \uf900 \ufa0e \U00020000 \U0002f800 \u3007",
    "\uac00\uac01\ud55c\uad6d\uc5b4 \u1100\u1161\u11a8", "x" * 100, "x" * 101, "\u00e9" * 100, "\u00e9" * 101,
    "\ud55c" * 34, "snow" * 20, "supercalifragilisticexpialidocious" * 3, "a" * 31 + " " + "b" * 32 + "-" + "C" * 33,
    "UPPER lower MiXeD 0123456789 a1b2", "word\x01word wo\u200brd", "don't [x] <y> ##z #", "[CLS] [CLS [SEP]",
    "\U0001f642\U0001f469\U0001f3fd\u200d\U0001f680 \U000e0001\U0010fffd",
)  # fmt: skip


def proven_vocabulary(text: str, tokenizer: Tokenizer, texts: Sequence[str], threads: int = 1) -> Vocabulary | None:
    """The tokenizer, compiled, if it can be and makes the same tokens here.

    Args:
        text: the tokenizer as JSON.
        tokenizer: the same, by `tokenizers`; without truncation and padding.
        texts: further texts of the proof.
        threads: that its texts are divided among.
    """
    definition = definition_of(text)
    if isinstance(definition, str):
        _log.info("texts are tokenised by the tokenizers library: %s", definition)
        return None
    try:
        vocabulary = Vocabulary(definition, threads)
    except (OSError, MemoryError) as error:
        _log.info("texts are tokenised by the tokenizers library: the compiled WordPiece is %s", error)
        return None
    every = version("tokenizers") != tables_version()
    for group in ([*GOLDEN_TEXTS, *ODD_TEXTS, *texts], list(code_points(1 if every else SAMPLED))):
        if (unlike := first_difference(vocabulary, tokenizer, group)) is not None:
            _log.warning(
                "texts are tokenised by the tokenizers library: the compiled WordPiece makes other tokens of %r", unlike[:60]
            )
            return None
    _log.info("texts are tokenised by the compiled WordPiece, %d at once", threads)
    return vocabulary


def code_points(step: int) -> Iterator[str]:
    """Texts that hold every `step`th code point between letters and alone; private and unused planes are left out."""
    points = [*range(0, 0xD800, step), *range(0xF900, 0x32000, step), *range(0xE0000, 0xE0200, step)]
    for start in range(0, len(points), _TEXT_POINTS):
        yield "".join(f"a{chr(point)}b {chr(point)} " for point in points[start : start + _TEXT_POINTS])


def first_difference(vocabulary: Vocabulary, tokenizer: Tokenizer, texts: Sequence[str]) -> str | None:
    """The first of these of which the two make other tokens, or see them elsewhere in the text."""
    theirs = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    column = text_column(texts)
    for room in (None, ROOM):
        for spans in (False, True):
            mine = vocabulary.encode(column, room, before=_NOTHING, after=_NOTHING, spans=spans)
            for number, (ids, places) in enumerate(each(mine, spans=spans)):
                if number in mine.odd:
                    continue
                whole = theirs[number].ids
                same = ids == whole[:room] and bool(mine.truncated[number]) == (room is not None and len(whole) > room)
                if not same or (spans and places != theirs[number].offsets[:room]):
                    return texts[number]
    return None


def each(encoded: Encoded, *, spans: bool = False) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """The ids of each text and, where they were asked for, their spans."""
    ids, places = encoded.ids.tolist(), list(map(tuple, encoded.spans.tolist()))
    start = 0
    for end in encoded.ends.tolist():
        yield ids[start:end], places[start:end] if spans else []
        start = end
