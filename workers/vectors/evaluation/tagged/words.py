"""The words of a document and the tokens that a model's tokenizer made of them.

    first_tokens    number of each word's first token among the stored ones

The document is its words, joined by a separator, after the prompt. It is tokenised once more here, because a token's string
(##ing, [UNK]) does not tell where it stood. The stored tokens must be the same ones, or a part of them where the text was
truncated: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


def first_tokens(
    tokenizer: Tokenizer, words: Sequence[str], stored: Sequence[str], *, separator: str, prompt: str, special: bool
) -> NDArray[np.int64] | None:
    """[W] places in `stored`; -1: the word was cut off, or has no token that ends in it before any other word's.

    None: the text that these words make has other tokens.
    """
    whole = tokenizer.encode(prompt + separator.join(words), add_special_tokens=special)
    marks: list[int] = whole.special_tokens_mask
    before = next((place for place, mark in enumerate(marks) if not mark), len(marks))
    after = next((place for place, mark in enumerate(reversed(marks)) if not mark), 0)
    content = whole.tokens[before : len(marks) - after]
    kept = list(stored[before : len(stored) - after])
    cut = 0  # tokens before the first stored one: a tokenizer may truncate from the left
    if kept != content[: len(kept)]:
        cut = len(content) - len(kept)
        if cut < 0 or kept != content[cut:]:
            return None
    ends = np.cumsum([len(word) + len(separator) for word in words]) - len(separator) + len(prompt)
    starts = ends - np.array([len(word) for word in words], np.int64)
    # By a token's last character: the first one may be the space before the word.
    places = np.array(whole.offsets[before : len(marks) - after], np.int64).reshape(-1, 2)[cut : cut + len(kept)]
    last = places[:, 1] - 1
    owner = np.searchsorted(starts, last, side="right") - 1
    inside = (places[:, 1] > places[:, 0]) & (owner >= 0)
    inside[inside] = last[inside] < ends[owner[inside]]
    found = np.full(len(words), -1, np.int64)
    owners, first = np.unique(owner[inside], return_index=True)
    found[owners] = np.flatnonzero(inside)[first] + before
    return found
