"""Task tokens over shards: words found among tokens, a probe like scikit-learn's, spans as seqeval counts them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from seqeval.metrics import classification_report
from sklearn.linear_model import LogisticRegression

from jobs.evaluate import classify, tokens
from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Outcome
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import passes_over, publish_vectors
from tests.workers.vectors.evaluation.tagged.test_words import small_tokenizer
from workers.errors import UsageError
from workers.vectors.evaluation.tagged.rows import WordTags

DIM, DOCUMENTS = 12, 160
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


class _Tagged:
    """Documents whose vectors tell the tags more or less."""

    def __init__(self, documents: int = DOCUMENTS, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        centres = draw.standard_normal((len(TAGS), DIM))
        self.words: list[list[str]] = []
        self.tags: list[list[str]] = []
        self.tokens: list[list[str]] = []
        self.vectors: list[np.ndarray] = []
        self.first: list[list[int]] = []
        for _ in range(documents):
            words = ["".join(draw.choice(list("abcefg"), draw.integers(1, 4))) for _ in range(draw.integers(2, 9))]
            codes = [0]
            for _ in words[1:]:
                codes.append(int(draw.choice([0, 1, 3, *([codes[-1] + 1 - (codes[-1] % 2 == 0)] * 2 if codes[-1] else [])])))
            pieces = [[word[0], *(f"##{letter}" for letter in word[1:])] for word in words]
            stored = ["[CLS]", *(piece for word in pieces for piece in word), "[SEP]"]
            vectors = draw.standard_normal((len(stored), DIM)).astype(np.float32)
            first = (1 + np.cumsum([0, *map(len, pieces[:-1])])).tolist()
            vectors[first] = centres[codes] + 0.9 * vectors[first]
            self.words.append(words)
            self.tags.append([TAGS[code] for code in codes])
            self.tokens.append(stored)
            self.vectors.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
            self.first.append(first)

    def publish(self, output: Path, shards: int = 3) -> None:
        parts = pa.array(["test" if at % 4 == 0 else "train" for at in range(len(self.words))])
        keep = {"words": pa.array(self.words), "tags": pa.array(self.tags), "part": parts}
        publish_vectors(
            output,
            np.concatenate(self.vectors),
            keep=keep,
            shards=shards,
            counts=list(map(len, self.tokens)),
            tokens=self.tokens,
        )


@pytest.fixture(scope="module")
def tagged() -> _Tagged:
    return _Tagged()


@pytest.fixture(scope="module")
def output(tagged: _Tagged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged") / "out"
    tagged.publish(folder)
    return folder


def _section(output: Path, **settings: Any) -> EvaluateSection:
    plain = {"snapshot": str(output), "task": "tokens", "label": "tags", "words": "words", "c": [10.0]}
    return EvaluateSection.model_validate(plain | {"split": {"column": "part"}} | settings)


def _evaluated(section: EvaluateSection, threads: int = 1) -> Outcome:
    """With the tokenizer of this file: the snapshot is made without a model."""
    source = SourceSnapshot.open(section.snapshot, {}, "evaluate.snapshot")
    columns = tokens.check(source, section)

    def own(_: SourceSnapshot, section: EvaluateSection) -> WordTags:
        made = zlib.compress(small_tokenizer().to_str().encode())
        also = (section.split.column,) if section.split.column else ()
        return WordTags(str(section.words), str(section.label), section.separator, "", made, True, False, also)

    with pytest.MonkeyPatch.context() as patch, passes_over(section.snapshot, columns, threads=threads) as passes:
        patch.setattr(tokens, "word_tags", own)
        patch.setattr(classify, "sections", lambda *_: [])
        return tokens.evaluate(passes, section, None)


def test_spans_are_seqevals_of_scikit_learns_probe(tagged: _Tagged, output: Path) -> None:
    facts = _evaluated(_section(output)).facts
    rows = [vectors[first] for vectors, first in zip(tagged.vectors, tagged.first, strict=True)]
    tested = [at for at in range(DOCUMENTS) if at % 4 == 0]
    trained = [at for at in range(DOCUMENTS) if at % 4]
    probe = LogisticRegression(C=10.0, tol=1e-9, max_iter=10_000)
    probe.fit(np.concatenate([rows[at] for at in trained]), np.concatenate([tagged.tags[at] for at in trained]))
    said = [probe.predict(rows[at]).tolist() for at in tested]
    report = classification_report([tagged.tags[at] for at in tested], said, output_dict=True, zero_division=0)
    assert 0.3 < facts["span_f1"] < 0.95, "neither trivial nor hopeless"
    assert facts["span_f1"] == pytest.approx(report["micro avg"]["f1-score"], abs=0.01)
    assert facts["span_macro_f1"] == pytest.approx(report["macro avg"]["f1-score"], abs=0.01)
    for kind in ("PER", "LOC"):
        assert facts["spans"][kind]["spans"] == report[kind]["support"]
    assert facts["test_documents"] == len(tested)
    assert facts["test_words"] == facts["rows"] == sum(len(tagged.words[at]) for at in tested)
    assert (facts["unusable_documents"], facts["words_without_token"]) == (0, 0)


def test_same_figures_whatever_the_threads_and_shards(tagged: _Tagged, output: Path, tmp_path: Path) -> None:
    section = _section(output, split={})
    expected = _evaluated(section).facts
    assert _evaluated(section, threads=3).facts == expected
    tagged.publish(tmp_path / "out", shards=1)
    other = _evaluated(_section(tmp_path / "out", split={})).facts
    assert other["test_documents"] == expected["test_documents"]
    assert other["span_f1"] == pytest.approx(expected["span_f1"], abs=0.02)


def test_a_sample_of_words_tests_whole_documents(output: Path) -> None:
    facts = _evaluated(_section(output, sample=300)).facts
    assert facts["training_rows"] < 400
    assert facts["test_documents"] == DOCUMENTS // 4


def test_documents_whose_words_are_not_their_tokens(tmp_path: Path) -> None:
    few = _Tagged(60, seed=1)
    few.words[7] = ["other"] * len(few.words[7])
    few.tags[8] = few.tags[8][:-1]
    few.publish(tmp_path / "few")
    assert _evaluated(_section(tmp_path / "few")).facts["unusable_documents"] == 2
    few.words[9:20] = [["other"] * len(words) for words in few.words[9:20]]
    few.publish(tmp_path / "many")
    with pytest.raises(
        UsageError, match=r"evaluate\.words: in 13 of 60 documents \(first: 7, 8, 9\) the words joined by ' '"
    ):
        _evaluated(_section(tmp_path / "many"))


def test_bad_input(output: Path, tmp_path: Path) -> None:
    publish_vectors(tmp_path / "out", np.eye(4, dtype=np.float32), keep={"lang": pa.array(["a"] * 4)})
    for section, message in (
        (_section(tmp_path / "out"), "holds one vector a text; embed with model.pooling=tokens"),
        (_section(output, words=None), r"evaluate\.words: needed for task=tokens"),
        (_section(output, label="part"), r"evaluate\.label: part is of type string; task=tokens needs a list of strings"),
        (_section(output, words="missing"), r"evaluate\.words: missing is not in the snapshot"),
        (_section(output, against="elsewhere"), r"evaluate\.against: not for task=tokens"),
        (_section(output, split={"column": "tags"}), r"evaluate\.split\.column: tags is of type"),
        (_section(output, label="words"), r"evaluate\.label: words has no tags of spans"),
    ):
        with pytest.raises(UsageError, match=message):
            _evaluated(section)
