"""The task `retrieve` against pytrec_eval on a ranking by brute force; copies, columns as queries, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.given import retrieve
from jobs.passes.kind import Outcome
from tests.jobs.evaluate.given_texts import DIM, use_drawn_embedder, vector_of
from tests.vector_snapshots import MemoryJournal, passes_over, publish_vectors
from workers.errors import UsageError

ROWS, QUERIES = 400, 30
TEXTS = [f"text {row if row % 4 else row // 8}" for row in range(ROWS)]  # every fourth is a copy of another, or of itself


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrieve")
    titles = pa.array([None if row % 10 == 0 else f"title {row}" for row in range(ROWS)])
    keep = {"title": titles, "size": pa.array(range(ROWS))}
    publish_vectors(folder / "out", np.stack([vector_of(text) for text in TEXTS]), texts=TEXTS, keep=keep, shards=5)
    draw = np.random.default_rng(3)
    pq.write_table(
        pa.table({"id": [f"q{at}" for at in range(QUERIES)], "text": [f"ask {at}" for at in range(QUERIES)]}),
        folder / "queries.parquet",
    )
    with (folder / "qrels.jsonl").open("w") as stream:
        for query in range(QUERIES - 1):  # the last has none
            for row in {7 * query + 1, 4 * query, *draw.integers(0, ROWS, query % 5)}:
                judged = {"query": f"q{query}", "document": str(row), "relevance": int(1 + row % 3)}
                stream.write(json.dumps(judged) + "\n")
    return folder


def _section(folder: Path, **settings: Any) -> EvaluateSection:
    files = {"queries": str(folder / "queries.parquet"), "qrels": str(folder / "qrels.jsonl")}
    if "query_column" in settings:
        files = {}
    return EvaluateSection.model_validate({"snapshot": str(folder / "out"), "task": "retrieve", **files, **settings})


def _evaluate(section: EvaluateSection, threads: int = 1, journal: MemoryJournal | None = None) -> Outcome:
    with passes_over(section.snapshot, threads=threads, columns=["id", "text_hash"]) as passes:
        columns = retrieve.check(passes.source, section)
    with passes_over(section.snapshot, columns, threads=threads, journal=journal) as passes:
        return retrieve.evaluate(passes, section, None)


def _by_trec_eval(folder: Path) -> dict[str, dict[str, float]]:
    """Each text is one document, named by the smallest id of its copies."""
    name: dict[str, str] = {}
    for row, text in enumerate(TEXTS):
        name[text] = min(name.get(text, str(row)), str(row))
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.jsonl").read_text().splitlines():
        judged = json.loads(line)
        documents = qrels.setdefault(judged["query"], {})
        document = name[TEXTS[int(judged["document"])]]
        documents[document] = max(documents.get(document, 0), judged["relevance"])
    run = {}
    for query in range(QUERIES):
        asked = vector_of(f"query: ask {query}").astype(np.float64)
        scores = {}
        for text, id_ in name.items():
            vector = vector_of(text).astype(np.float64)
            scores[id_] = float(asked @ vector / np.linalg.norm(asked) / np.linalg.norm(vector))
        run[f"q{query}"] = scores
    measures = {"ndcg_cut.10", "recip_rank", "map_cut.100", "recall.1,10,100"}
    found: dict[str, dict[str, float]] = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    return found


def test_equal_to_pytrec_eval_over_distinct_texts(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = use_drawn_embedder(monkeypatch)
    journal = MemoryJournal()
    outcome = _evaluate(_section(snapshot), journal=journal)
    expected = _by_trec_eval(snapshot)

    table = outcome.tables["queries"].to_pylist()
    assert [row["id"] for row in table] == sorted(expected)
    for row in table:
        theirs = expected[row["id"]]
        assert row["ndcg@10"] == pytest.approx(theirs["ndcg_cut_10"], abs=1e-9)
        assert row["map@100"] == pytest.approx(theirs["map_cut_100"], abs=1e-9)
        assert row["recall@100"] == pytest.approx(theirs["recall_100"], abs=1e-9)
        in_ten = theirs["recip_rank"] if theirs["recip_rank"] >= 0.1 else 0
        assert row["mrr@10"] == pytest.approx(in_ten, abs=1e-9)
    for ours, their_name in (("ndcg@10", "ndcg_cut_10"), ("map@100", "map_cut_100"), ("recall@10", "recall_10")):
        assert outcome.facts[ours] == pytest.approx(np.mean([row[their_name] for row in expected.values()]), abs=1e-9)
    assert (outcome.facts["queries"], outcome.facts["queries_left_out"]) == (QUERIES - 1, 1)
    values = np.array([row["ndcg_cut_10"] for row in expected.values()])
    half = 1.96 * values.std() / len(values) ** 0.5  # the normal interval, which 100 replicates follow roughly
    for bound, expected_bound in zip(outcome.facts["intervals"]["ndcg@10"], (-half, half), strict=True):
        assert bound - values.mean() == pytest.approx(expected_bound, rel=0.4, abs=1e-3)
    assert "ask" in outcome.report[0][1]
    assert "29 queries (1 without a relevant document left out) over 400 rows" in retrieve.text(outcome.facts)[0]

    assert len(loads) == 1
    for threads in (2, 3):
        again = _evaluate(_section(snapshot), threads)
        assert again.facts == outcome.facts
        assert again.tables["queries"].equals(outcome.tables["queries"])
    _evaluate(_section(snapshot), journal=journal)
    assert len(loads) == 3, "vectors of queries are in the journal"


def test_a_column_of_texts_that_should_find_their_rows(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_drawn_embedder(monkeypatch)
    monkeypatch.setattr("jobs.evaluate.given.embedding.load_embedder", lambda *_, **__: _Knows())
    outcome = _evaluate(_section(snapshot, query_column="title"))
    assert (outcome.facts["queries"], outcome.facts["recall@1"], outcome.facts["map@100"]) == (360, 1.0, 1.0)
    sampled = _evaluate(_section(snapshot, query_column="title", sample=50)).tables["queries"]
    assert len(sampled) == 50
    assert set(sampled["id"].to_pylist()) < set(outcome.tables["queries"]["id"].to_pylist())


class _Knows:
    """Embeds the title of a row as the row's text."""

    def embed(self, texts: list[str]) -> list[np.ndarray]:
        return [vector_of(TEXTS[int(text.removeprefix("title "))])[None] for text in texts]


def test_judgements_of_what_is_not_there(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_drawn_embedder(monkeypatch)
    qrels = {"query": ["q1"] * 8, "document": ["3", *(f"x{at}" for at in range(7))], "relevance": [1] * 8}
    pq.write_table(pa.table(qrels), tmp_path / "qrels.parquet")
    with pytest.raises(UsageError, match=r"qrels: 7 documents are not in the snapshot .* \(x0, x1, x2, x3, x4, …\)"):
        _evaluate(_section(snapshot, qrels=str(tmp_path / "qrels.parquet")))
    monkeypatch.setattr("jobs.evaluate.given.known_ids.MOST_ROWS", 1)  # the first pass finds them
    with pytest.raises(UsageError, match=r"7 documents are not in the snapshot"):
        _evaluate(_section(snapshot, qrels=str(tmp_path / "qrels.parquet")))
    pq.write_table(pa.table(qrels | {"query": ["q1"] * 6 + ["who", "what"]}), tmp_path / "qrels.parquet")
    with pytest.raises(UsageError, match=r"qrels: 2 queries are not in evaluate.queries \(what, who\)"):
        _evaluate(_section(snapshot, qrels=str(tmp_path / "qrels.parquet")))
    pq.write_table(pa.table({"query": ["q1"], "document": ["3"], "relevance": [0]}), tmp_path / "qrels.parquet")
    with pytest.raises(UsageError, match="no query has a document of relevance 1 or more"):
        _evaluate(_section(snapshot, qrels=str(tmp_path / "qrels.parquet")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qrels": None}, r"needs evaluate.queries \(id, text\) and evaluate.qrels"),
        ({"queries": "/nowhere/queries.parquet"}, "evaluate.queries=/nowhere/queries.parquet: there is no such file"),
        ({"query_column": "title", "queries": "a.jsonl"}, "query_column replaces queries and qrels"),
        ({"query_column": "name"}, "evaluate.query_column: name is not in the snapshot"),
        ({"query_column": "size"}, "size is int64, not text"),
    ],
)
def test_refusals(snapshot: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _evaluate(_section(snapshot, **settings))


def test_vectors_of_another_width(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.evaluate.given.embedding.load_embedder", lambda *_, **__: _Wide())
    with pytest.raises(UsageError, match=f"its vectors have {DIM} components, those of its model minilm 3"):
        _evaluate(_section(snapshot))


class _Wide:
    def embed(self, texts: list[str]) -> list[np.ndarray]:
        return [np.ones((1, 3), np.float32) for _ in texts]
