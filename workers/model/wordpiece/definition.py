"""Decides whether a tokenizer is one that the compiled WordPiece can do, and takes out of it what that needs.

    definition_of     tokenizer as JSON -> Definition, or words that say what it has that is not supported

Supported: WordPiece behind BertNormalizer (also with a Lowercase before it, as sentence-transformers puts it) and
BertPreTokenizer, as in BERT, MPNet, DistilBERT, ELECTRA. The post-processor is not looked at: special tokens are put around
the ids by tokenizer.py. An added token in a text is not imitated: such a text is left to `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

LONGEST_WORD = 1000  # largest supported max_input_chars_per_word; it bounds buffers
CLEAN, CHINESE_CHARS, STRIP, LOWERCASE, LOWERCASE_FIRST = 1, 2, 4, 8, 16  # flags, as in wordpiece.c


@dataclass(frozen=True, slots=True)
class Definition:
    """A WordPiece tokenizer without its post-processor."""

    vocabulary: Mapping[str, int]  # without added tokens that are no words of it
    unknown: int  # id of a word that cannot be put together
    prefix: str  # of a piece that continues a word
    longest: int  # code points of a word that is looked at; a longer one is unknown
    flags: int  # what is done to texts
    added: Sequence[str]  # byte sequences in a text that may be added tokens
    runs: Sequence[Sequence[int]]  # ids of added tokens that are looked for in the normalised text, where taken for words


def definition_of(text: str) -> Definition | str:
    """`text`: JSON of the `tokenizers` library. A string: why not."""
    parts = json.loads(text)
    model, flags = parts["model"], _flags(parts.get("normalizer"))
    if model.get("type") != "WordPiece":
        return f"the model is {model.get('type')}, not WordPiece"
    if flags is None:
        return "the normaliser is not BertNormalizer"
    if (parts.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        return "the pre-tokenizer is not BertPreTokenizer"
    if parts.get("truncation") or parts.get("padding"):
        return "it truncates or pads"
    vocabulary, longest = model["vocab"], model["max_input_chars_per_word"]
    if model["unk_token"] not in vocabulary:
        return f"unk_token {model['unk_token']!r} is not in the vocabulary"
    if not 1 <= longest <= LONGEST_WORD:
        return f"max_input_chars_per_word={longest} is not from 1 to {LONGEST_WORD}"
    added = [token for token in parts.get("added_tokens", ()) if token["content"]]
    runs = _runs(parts, [token["content"] for token in added if token["normalized"]])
    if isinstance(runs, str):
        return runs
    return Definition(
        vocabulary=vocabulary,
        unknown=vocabulary[model["unk_token"]],
        prefix=model["continuing_subword_prefix"],
        longest=longest,
        flags=flags,
        added=[token["content"] for token in added if not token["normalized"]],
        runs=runs,
    )


def _flags(normalizer: Mapping[str, Any] | None) -> int | None:
    if normalizer is None:
        return None
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    kinds = [step["type"] for step in steps]
    if kinds not in (["BertNormalizer"], ["Lowercase", "BertNormalizer"]):
        return None
    bert = steps[-1]
    strip = bert["lowercase"] if bert["strip_accents"] is None else bert["strip_accents"]
    chosen = (
        (CLEAN, bert["clean_text"]), (CHINESE_CHARS, bert["handle_chinese_chars"]), (STRIP, strip),
        (LOWERCASE, bert["lowercase"]), (LOWERCASE_FIRST, len(steps) > 1),
    )  # fmt: skip
    return sum(flag for flag, wanted in chosen if wanted)


def _runs(parts: Mapping[str, Any], contents: Sequence[str]) -> list[list[int]] | str:
    """The ids that each of these would have if it were text. Where it stands in a text, the text has them side by side.

    That holds if it begins and ends with punctuation: then it begins and ends with words of its own, in any text.
    """
    if not contents:
        return []
    plain = Tokenizer.from_str(json.dumps({**parts, "added_tokens": [], "post_processor": None}))
    runs = []
    for content in contents:
        normal = plain.normalizer.normalize_str(content)
        ends = [
            len(plain.pre_tokenizer.pre_tokenize_str(f"a{normal[place : place + 1]}a")) for place in (0, len(normal) - 1)
        ]
        if not normal or ends != [3, 3]:
            return (
                f"the added token {content!r} is looked for in normalised text and does not begin and end with punctuation"
            )
        runs.append(list(plain.encode(content, add_special_tokens=False).ids))
    return runs
