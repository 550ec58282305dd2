"""Words that say what clusters are about.

    words_of(text)         the distinct words of a text's beginning
    characteristic(...)    the words of each cluster by class-based TF-IDF

Class-based TF-IDF (Grootendorst, "BERTopic", 2022) takes a cluster for one document: a word's share in the cluster, times
log(1 + mean words a cluster / occurrences of the word). Here a word counts once a text, so that one long list of words does
not name a cluster; and a word is left out that is not twice as frequent in the cluster as elsewhere, so no list of stop
words of any language is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT_CHARACTERS = 2000  # of a text, that are read
LONGEST = 40  # characters of a word; longer ones are data: keys, URLs, base64
LEAST_TEXTS = 2  # of a cluster, that hold a word, where the sample has more than a few
_FEW = 5
LEAST_LIFT = 2.0  # a word's share in the cluster, against its share in all others
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: written without spaces, so pairs of characters stand for words."""
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}](?:[\w'’.+#-]*[^\W_{_UNSPACED}+#]|[+#]+)?")  # noqa: RUF001
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def words_of(text: str) -> set[str]:
    """Lower case; of at least two characters, one of them a letter."""
    found: set[str] = set()
    if len(text) > TEXT_CHARACTERS:
        text = text[:TEXT_CHARACTERS].rpartition(" ")[0] or text[:TEXT_CHARACTERS]  # not half a word
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        if _IS_UNSPACED.match(word):
            found.update(word[at : at + 2] for at in range(len(word) - 1))
        elif 2 <= len(word) <= LONGEST and any(letter.isalpha() for letter in word):
            found.add(word)
    return found


def characteristic(
    vocabulary: Sequence[str],
    word: NDArray[Any],
    place: NDArray[Any],
    count: NDArray[Any],
    texts: NDArray[np.int64],
    most: int,
) -> list[list[str]]:
    """The words of each cluster, best first, at most `most`; equal scores in alphabetical order.

    Args:
        word, place, count: [M] entries: texts of the cluster that hold the word; `word` is its place in `vocabulary`.
        texts: [K] texts read of each cluster.
    """
    clusters = len(texts)
    chosen: list[list[str]] = [[] for _ in range(clusters)]
    if not len(word):
        return chosen
    of_cluster = np.bincount(place, count, minlength=clusters)
    of_word = np.bincount(word, count, minlength=len(vocabulary))
    total = of_cluster.sum()
    share = count / of_cluster[place]
    score = share * np.log1p(total / np.count_nonzero(of_cluster) / of_word[word])
    least = np.where(texts[place] > _FEW, LEAST_TEXTS, 1)
    elsewhere = (of_word[word] - count) / np.maximum(total - of_cluster[place], 1)
    fits = (count >= least) & (share >= LEAST_LIFT * elsewhere)
    alphabetical = np.argsort(np.argsort(np.array(vocabulary)))
    order = np.lexsort((alphabetical[word], -score, place))
    for entry in order[fits[order]]:
        words = chosen[place[entry]]
        if len(words) < most:
            words.append(vocabulary[word[entry]])
    return chosen
