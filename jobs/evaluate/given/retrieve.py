"""The task `retrieve`: does a query find its documents? Exact search over the whole snapshot, measured as trec_eval does.

    queries + qrels      files: (id, text) and (query, document, relevance)
    query_column         a kept column: each row is the one relevant document of the text in this column (a title, say)

Queries are embedded with the snapshot's model and query prompt. What is ranked is a distinct text: copies of a document, and
the chunks of one, stand in one place, so a copy of a relevant document is no wrong hit (mteb#4626).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.given.embedding import embedded
from jobs.evaluate.given.known_ids import refuse_unknown, require_ids
from jobs.evaluate.given.tables import first_of, read_table, require_distinct
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.records.documents import text_hash
from workers.table.schema import ID, TEXT_HASH
from workers.table.vectors import unit_rows
from workers.vectors.evaluation.classes.scoring import poisson_weights
from workers.vectors.evaluation.classes.strings import is_text
from workers.vectors.evaluation.figures import interval
from workers.vectors.retrieval.named import SampledRows, TextsOfIds, found_ids
from workers.vectors.retrieval.nearest import MARGIN, MOST_QUERIES, NearestTexts, pairs_to_score, rank_in_group
from workers.vectors.retrieval.ranking import CUT, DEPTH, MEASURES, ranking_measures
from workers.vectors.retrieval.texts import Keys

METRICS: tuple[str, ...] = MEASURES
DOCUMENTS = "documents with judgements"
EXAMPLES = 20  # queries without a hit that the report shows


@dataclass(frozen=True)
class _Queries:
    """Sorted by id. `query`, `key`, `relevance`: of each judgement, the query's place, the text's hash, the relevance."""

    ids: list[str]
    texts: list[str]
    query: NDArray[np.int64]
    key: Keys
    relevance: NDArray[np.int64]
    left_out: int = 0  # without a relevant document


def check(source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
    """Raises: UsageError."""
    source.require_rows_of_text("evaluate.task=retrieve")
    if section.query_column is not None:
        if section.queries or section.qrels:
            raise UsageError("evaluate: query_column replaces queries and qrels; give one or the other")
        source.require_columns([section.query_column], "evaluate.query_column")
        kind = source.column_type(section.query_column)
        if not is_text(kind):
            raise UsageError(f"evaluate.query_column: {section.query_column} is {kind}, not text; name a column of texts")
        return (ID, TEXT_HASH, section.query_column)
    if not section.queries or not section.qrels:
        raise UsageError(
            "evaluate.task=retrieve needs evaluate.queries (id, text) and evaluate.qrels (query, document, relevance), "
            "or evaluate.query_column, a kept column of texts that should find their rows"
        )
    require_ids(source, _files(section)[1]["document"].to_pylist(), "evaluate.qrels", DOCUMENTS)
    return (ID, TEXT_HASH)


def evaluate(passes: Passes, section: EvaluateSection, kept: Kept | None) -> Outcome:  # noqa: ARG001 - as every task
    """The measures' means over queries, and a table of them by query."""
    asked = _of_column(passes, section) if section.query_column else _of_files(passes, section)
    vectors = embedded(passes, asked.texts, query=True)
    pieces: list[dict[str, NDArray[Any]]] = []
    for first in range(0, len(asked.ids), MOST_QUERIES):
        step = pairs_to_score(block := vectors[first : first + MOST_QUERIES], _nearest(passes, block))
        texts, scores, ids = step.chosen(passes.run(step), DEPTH)
        gain = _gain(asked, first, texts, step.keys)
        hit = gain > 0
        relevant, ideal = _judged(asked, first, len(block))
        piece: dict[str, NDArray[Any]] = dict(ranking_measures(gain, relevant, ideal))
        piece["rank"] = np.where(hit.any(axis=1), np.argmax(hit, axis=1) + 1, 0)
        piece["best"], piece["score"] = ids[texts[:, 0]], scores[:, 0]
        pieces.append(piece)
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    facts = {
        "task": "retrieve",
        "rows": passes.source.rows,
        "queries": len(asked.ids),
        "queries_left_out": asked.left_out,
        **{name: float(found[name].mean()) for name in MEASURES},
        "intervals": {name: _interval(asked.ids, found[name]) for name in MEASURES},
    }
    return Outcome(facts=facts, tables={"queries": _table(asked, found)}, report=[_section(asked, found, facts)])


def text(facts: Mapping[str, Any]) -> list[str]:
    """The measures on one line."""
    low, high = facts["intervals"][MEASURES[0]]
    first = f"{MEASURES[0]} {facts[MEASURES[0]]:.4f} (95%: {low:.4f} to {high:.4f})"
    measures = ", ".join([first, *(f"{name} {facts[name]:.4f}" for name in MEASURES[1:])])
    left_out = f" ({facts['queries_left_out']:,} without a relevant document left out)" if facts["queries_left_out"] else ""
    return [f"{facts['queries']:,} queries{left_out} over {facts['rows']:,} rows: {measures}"]


def _interval(ids: Sequence[str], values: NDArray[np.float64]) -> list[float]:
    """95% of the mean, by a Poisson bootstrap whose weights depend on the queries' ids: the same in every evaluation."""
    keys = np.array([int.from_bytes(text_hash(id_)[:8], "big") for id_ in ids], dtype=np.uint64)
    weights = poisson_weights(keys)
    return list(interval(values @ weights / np.maximum(weights.sum(axis=0), 1)))


def _nearest(passes: Passes, queries: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return passes.run(NearestTexts(unit_rows(queries), DEPTH + MARGIN))


def _files(section: EvaluateSection) -> tuple[pa.Table, pa.Table]:
    """Queries and judgements, checked against each other."""
    queries = read_table(section, "queries", {"id": pa.string(), "text": pa.string()})
    require_distinct(queries["id"], "evaluate.queries")
    qrels = read_table(section, "qrels", {"query": pa.string(), "document": pa.string(), "relevance": pa.int64()})
    unknown = pc.unique(qrels["query"].filter(pc.invert(pc.is_in(qrels["query"], value_set=queries["id"])))).to_pylist()
    if unknown:
        raise UsageError(
            f"evaluate.qrels: {len(unknown):,} queries are not in evaluate.queries ({first_of(unknown)}); "
            "add them there, or remove their judgements"
        )
    return queries, qrels


def _of_files(passes: Passes, section: EvaluateSection) -> _Queries:
    queries, qrels = _files(section)
    documents = np.array(sorted(set(qrels["document"].to_pylist())), dtype=np.str_)
    known = found_ids(documents, TextsOfIds, passes.run)
    place = known.get("place", np.zeros(0, np.int64))
    absent = np.setdiff1d(np.arange(len(documents)), place)
    refuse_unknown(documents[absent].tolist(), passes.source, "evaluate.qrels", DOCUMENTS)
    judged = set(qrels.filter(pc.greater(qrels["relevance"], 0))["query"].to_pylist())
    asked = [row for row in zip(queries["id"].to_pylist(), queries["text"].to_pylist(), strict=True) if row[0] in judged]
    if not asked:
        raise UsageError("evaluate.qrels: no query has a document of relevance 1 or more")
    left_out = len(queries) - len(asked)
    if section.sample:
        asked = sorted(asked, key=lambda row: text_hash(row[0]))[: section.sample]
    asked.sort()
    place_of_query = {id_: at for at, (id_, _) in enumerate(asked)}
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(documents) + 1))
    document = np.searchsorted(documents, np.array(qrels["document"].to_pylist(), dtype=np.str_))
    query, key, relevance = [], [], []
    for id_, at, value in zip(qrels["query"].to_pylist(), document, qrels["relevance"].to_pylist(), strict=True):
        if id_ in place_of_query:
            for row in order[starts[at] : starts[at + 1]]:
                query.append(place_of_query[id_])
                key.append(known["key"][row])
                relevance.append(value)
    return _distinct(asked, np.array(query), np.array(key, dtype="S16"), np.array(relevance), left_out)


def _of_column(passes: Passes, section: EvaluateSection) -> _Queries:
    column = str(section.query_column)
    found = passes.run(SampledRows(column, section.sample or passes.source.rows))
    if not len(found.get("id", ())):
        raise UsageError(f"evaluate.query_column: {column} holds no text in any row")
    order = np.argsort(found["id"], kind="stable")
    asked = list(zip(found["id"][order].tolist(), found["text"][order].tolist(), strict=True))
    return _distinct(asked, np.arange(len(order)), found["key"][order], np.ones(len(order), np.int64), 0)


def _distinct(
    asked: list[tuple[str, str]], query: NDArray[np.int64], key: Keys, relevance: NDArray[np.int64], left_out: int
) -> _Queries:
    """One judgement for each query and text: the highest where there are several."""
    order = np.lexsort((-relevance, key, query))
    query, key, relevance = query[order], key[order], relevance[order]
    first = np.concatenate([[True], (query[1:] != query[:-1]) | (key[1:] != key[:-1])])
    ids, texts = [id_ for id_, _ in asked], [words for _, words in asked]
    return _Queries(ids, texts, query[first], key[first], relevance[first], left_out)


def _judged(asked: _Queries, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the queries from `first` on: relevant texts [count], and the CUT largest relevances [count, CUT]."""
    here = (asked.query >= first) & (asked.query < first + count) & (asked.relevance > 0)
    query, relevance = asked.query[here] - first, asked.relevance[here]
    order = np.lexsort((-relevance, query))
    query, relevance = query[order], relevance[order]
    rank = rank_in_group(query)
    ideal = np.zeros((count, CUT), np.int64)
    ideal[query[rank < CUT], rank[rank < CUT]] = relevance[rank < CUT]
    return np.bincount(query, minlength=count), ideal


def _gain(asked: _Queries, first: int, texts: NDArray[np.int64], keys: Keys) -> NDArray[np.int64]:
    """[Q, K] relevance of the texts found; `texts`: places in `keys`, -1 for none."""
    gain = np.zeros(texts.shape, np.int64)
    here = np.flatnonzero((asked.query >= first) & (asked.query < first + len(texts)))
    at = np.minimum(np.searchsorted(keys, asked.key[here]), len(keys) - 1)
    found = keys[at] == asked.key[here]
    wanted = (asked.query[here] - first)[found] * len(keys) + at[found]  # ascending: judgements are in order of query, key
    value = asked.relevance[here][found]
    if len(wanted):
        code = np.arange(len(texts))[:, None] * len(keys) + texts
        slot = np.minimum(np.searchsorted(wanted, code), len(wanted) - 1)
        gain = np.where((wanted[slot] == code) & (texts >= 0), value[slot], 0)
    return gain


def _table(asked: _Queries, found: Mapping[str, NDArray[Any]]) -> pa.Table:
    rank = found["rank"]
    columns = {
        "id": pa.array(asked.ids),
        "text": pa.array(asked.texts),
        "first_relevant_rank": pa.array(rank, pa.int32(), mask=rank == 0),
        "best": pa.array(found["best"].tolist(), pa.string()),
        "best_score": pa.array(found["score"], pa.float32()),
        **{name: pa.array(found[name]) for name in MEASURES},
    }
    return pa.table(columns)


def _section(asked: _Queries, found: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> tuple[str, str]:
    """The measures, and the queries that fail while their best text scores highest."""
    head = "".join(f"<th>{name}</th>" for name in MEASURES)
    means = "".join(f"<td>{facts[name]:.4f}</td>" for name in MEASURES)
    failed = np.flatnonzero(found["rank"] == 0)
    failed = failed[np.argsort(-found["score"][failed], kind="stable")][:EXAMPLES]
    rows = "".join(
        f"<tr><td>{html.escape(asked.texts[at][:200])}</td><td>{html.escape(str(found['best'][at]))}</td>"
        f"<td>{found['score'][at]:.3f}</td></tr>"
        for at in failed
    )
    examples = (
        f"<p>Queries without a relevant text among the first {DEPTH}, the most similar first.</p>"
        f"<table><tr><th>query</th><th>nearest</th><th>cosine</th></tr>{rows}</table>"
    )
    return "Retrieval", f"<table><tr>{head}</tr><tr>{means}</tr></table>" + (examples if rows else "")
