"""Words of clusters: against class-based TF-IDF computed by scikit-learn's counts, and what is a word."""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from workers.vectors.clustering.words import LONGEST, characteristic, words_of

TEXTS = [
    "the cat sleeps and the cat eats fish", "the cat hunts mice", "a cat and a fish",
    "the train to Paris", "the train is late", "a late train to the city",
    "the sonata and the cello", "a cello concert", "the concert of the cello",
]  # fmt: skip
PLACES = [0, 0, 0, 1, 1, 1, 3, 3, 3]


def test_scores_are_class_based_tf_idf() -> None:
    counter = CountVectorizer(tokenizer=words_of, token_pattern=None, lowercase=False, binary=True)
    counts = counter.fit_transform(TEXTS).toarray()
    vocabulary = counter.get_feature_names_out().tolist()
    of_cluster = np.stack([counts[[place == number for place in PLACES]].sum(axis=0) for number in range(4)])
    # Grootendorst (2022): tf of the class, log(1 + mean words a class / frequency of the word)
    tf = of_cluster / np.maximum(of_cluster.sum(axis=1, keepdims=True), 1)
    scores = tf * np.log(1 + of_cluster.sum() / 3 / of_cluster.sum(axis=0))
    place, word = np.nonzero(of_cluster)
    found = characteristic(vocabulary, word, place, of_cluster[place, word], np.bincount(PLACES, minlength=4), 3)
    assert found[2] == [], "a cluster without texts"
    assert [words[0] for words in (found[0], found[1], found[3])] == ["cat", "train", "cello"]
    assert "the" not in {each for words in found for each in words}, "as frequent elsewhere"
    for number, words in enumerate(found):
        ranks = [scores[number, vocabulary.index(each)] for each in words]
        assert ranks == sorted(ranks, reverse=True)


def test_what_is_a_word() -> None:
    assert words_of("Der TCP/IP-Stack, don't C++ g++-12 3.14 x 42 node.js a.") >= {
        "tcp",
        "ip-stack",
        "don't",
        "c++",
        "node.js",
    }
    assert not words_of("3.14 42 x ... ---")
    assert words_of("Größe café Ελλάδα") == {"größe", "café", "ελλάδα"}
    assert words_of("北京大学 text") == {"北京", "京大", "大学", "text"}
    assert words_of("a" * (LONGEST + 1)) == set()
    assert words_of("x" * 1990 + " behind the limit is not read") == {"behind"}
