"""`reembed evaluate`, task classify, against scikit-learn in memory on the same training and test rows.

    python -m benchmarks.evaluate_classify OUTPUT --label section [--split-column split] [--c 10]
                                           [--folder evaluate-work] [--peers] [--issues] [--out FILE]

1. the job's program over the snapshot OUTPUT, in this process with one thread: passes, CPU seconds, figures
2. the same scores: the AUC of each class as the job tells it, with its bound, against roc_auc_score of exactly the log-odds
   that were counted; beside it binned AUC as others compute it (benchmarks/binned_auc.py)
3. scikit-learn's LogisticRegression at its default tolerance and near its optimum, float32 vectors in memory: difference of
   macro-F1, share of equal predictions, AUC class by class: two fits are compared here, and the AUC's own error is in it
4. --peers: MTEB's classifier (8 rows a label, 10 times), SGDClassifier.partial_fit in 5 epochs, nearest neighbours of
   scikit-learn
5. --issues: 5% of the labels are changed at random in the 30 largest classes; how many lead the ranking

One JSON object on stdout. Peak memory is the process' after each stage, so it only grows.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from benchmarks.binned_auc import same_scores
from benchmarks.machine import commit, hardware
from jobs.evaluate import classify
from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Outcome
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import passes_over, publish_vectors
from workers.vectors.evaluation.classes.scoring import LogOddsSample


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    began, cpu = time.perf_counter(), time.process_time()
    found = work()
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return found, spent | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


@dataclass(frozen=True)
class Evaluated:
    """The job's answer, its passes over the data, and the log-odds [N, K] of all counted test rows with their truth."""

    outcome: Outcome
    passes: int
    classes: tuple[str, ...]
    odds: np.ndarray
    truth: np.ndarray
    spent: dict[str, float]


def evaluated(section: EvaluateSection, folder: Path) -> Evaluated:
    source = SourceSnapshot.open(section.snapshot, {}, "snapshot")
    columns = classify.check(source, section)
    with passes_over(section.snapshot, columns, work=folder / "work") as passes:
        kind = source.schema.rows.field(str(section.label)).type
        (found, weights), spent = timed(lambda: classify.measured(passes, section, columns, kind))
        outcome = classify.outcome_of(found)
        number = sum(name != "geometry" for name, _ in passes.done)
        everything = np.ones(len(found.division.classes))  # the share of each class that is drawn
        scores = passes.run(LogOddsSample(found.division, weights, everything, columns))
    counted = (scores["truth"][:, found.moments["counts"][0] > 0] > 0).any(axis=1)  # as Scores counts
    truth = scores["truth"][counted] > 0
    return Evaluated(outcome, number, found.division.classes, scores["odds"][counted], truth, spent)


def in_memory(uri: str, columns: list[str]) -> pa.Table:
    """id, embedding and columns of a snapshot, in its order."""
    source = SourceSnapshot.open(uri, {}, "snapshot")
    files = [file.path for receipt in source.receipts.values() for file in receipt.files]
    parts = [
        pq.read_table(pa.BufferReader(source.store.read(path)), columns=["id", "embedding", *columns]) for path in files
    ]
    return pa.concat_tables(parts)


def against_scikit_learn(section: EvaluateSection, outcome: Outcome, peers: bool) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.metrics import f1_score, roc_auc_score
    from sklearn.neighbors import KNeighborsClassifier

    label, column = str(section.label), section.split.column
    table = in_memory(section.snapshot, [label, *([column] if column else [])])
    vectors = _floats(table)
    labels, ids = np.array(table.column(label).to_pylist()), table.column("id").to_pylist()
    told = {row["id"]: row["likely"] for row in outcome.tables["predictions"].to_pylist()}
    tested = np.array([name in told for name in ids])
    training = ~tested if column is None else np.array(table.column(column)) == "train"
    x, y, xt, yt = vectors[training], labels[training], vectors[tested], labels[tested]
    mine = np.array([told[name] for name, here in zip(ids, tested, strict=True) if here])
    report: dict[str, Any] = {"training_rows": len(y), "test_rows": len(yt), "classes": len(set(y))}

    def compared(said: np.ndarray) -> dict[str, float]:
        f1 = f1_score(yt, said, average="macro")
        return {
            "macro_f1": f1,
            "accuracy": float((said == yt).mean()),
            "macro_f1_difference": outcome.facts["macro_f1"] - f1,
            "same_predictions": float((said == mine).mean()),
        }

    c = outcome.facts["probe"]["c"]
    for name, tolerance in (("scikit-learn, default tolerance", 1e-4), ("scikit-learn, tolerance 1e-7", 1e-7)):
        probe, spent = timed(lambda t=tolerance: LogisticRegression(C=c, tol=t, max_iter=5000).fit(x, y))
        report[name] = compared(probe.predict(xt)) | spent | {"iterations": int(probe.n_iter_[0])}
    odds = _log_odds(probe.decision_function(xt).astype(np.float64))
    exact = {
        name: roc_auc_score(yt == name, odds[:, at])
        for at, name in enumerate(probe.classes_)
        if 0 < (yt == name).sum() < len(yt)
    }
    found = outcome.facts["classes"]
    errors = [abs(found[name]["auc"] - value) for name, value in exact.items()]
    report["auc against scikit-learn's probe"] = {
        "classes": len(errors),
        "worst": max(errors),
        "mean": float(np.mean(errors)),
    }
    report["auc bound"] = max(found[name]["auc_bound"] for name in exact)
    if peers:
        near, spent = timed(lambda: KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(x, y).predict(xt))
        report["scikit-learn, nearest neighbours"] = {"macro_f1": f1_score(yt, near, average="macro")} | spent

        def few() -> list[float]:
            scores = []
            for seed in range(10):
                order = np.random.default_rng(seed).permutation(len(y))
                chosen = np.concatenate([order[y[order] == name][:8] for name in set(y)])
                fitted = LogisticRegression(max_iter=100).fit(x[chosen], y[chosen])
                scores.append(f1_score(yt, fitted.predict(xt), average="macro"))
            return scores

        scores, spent = timed(few)
        report["MTEB's classifier (8 rows a label, 10 times)"] = {"macro_f1": float(np.mean(scores))} | spent

        def stochastic() -> np.ndarray:
            fitted = SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0)
            for epoch in range(5):
                order = np.random.default_rng(epoch).permutation(len(y))
                for first in range(0, len(y), 4096):
                    here = order[first : first + 4096]
                    fitted.partial_fit(x[here], y[here], classes=probe.classes_)
            return np.asarray(fitted.predict(xt))

        said, spent = timed(stochastic)
        report["SGDClassifier.partial_fit, 5 epochs"] = compared(said) | spent
    return report


def _floats(table: pa.Table) -> np.ndarray:
    cells = table.column("embedding").combine_chunks()
    return np.asarray(cells.flatten(), np.float32).reshape(len(cells), -1)


def _log_odds(logits: np.ndarray) -> np.ndarray:
    """Exact, in float64: log(p / (1 - p)) of a softmax."""
    highest = logits.max(axis=1, keepdims=True)
    powers = np.exp(logits - highest)
    others = np.stack([np.delete(powers, at, axis=1).sum(axis=1) for at in range(logits.shape[1])], axis=1)
    return logits - highest - np.log(others)


def planted_issues(section: EvaluateSection, folder: Path) -> dict[str, float]:
    """5% of the labels of the 30 largest classes, changed at random."""
    label = str(section.label)
    table = in_memory(section.snapshot, [label, "text_hash"])
    names, counts = np.unique(np.array(table.column(label).to_pylist()), return_counts=True)
    large = set(names[np.argsort(-counts)[:30]])
    rows = np.array([at for at, name in enumerate(table.column(label).to_pylist()) if name in large])[:9000]
    labels = np.array(table.column(label).to_pylist())[rows]
    draw = np.random.default_rng(0)
    wrong = draw.permutation(len(rows))[: len(rows) // 20]
    for at in wrong:
        labels[at] = draw.choice([name for name in large if name != labels[at]])
    texts = [table.column("text_hash")[int(at)].as_py().hex() for at in rows]
    publish_vectors(folder / "planted", _floats(table)[rows], texts=texts, keep={label: pa.array(labels.tolist())})
    planted = EvaluateSection.model_validate({"snapshot": str(folder / "planted"), "label": label, "c": list(section.c)})
    outcome = evaluated(planted, folder).outcome
    first = outcome.tables["label_issues"].column("id").to_pylist()[: len(wrong)]
    hit = len({int(name) for name in first} & set(wrong.tolist()))
    return {
        "rows": len(rows),
        "planted": len(wrong),
        "precision_of_the_first_5%": hit / len(wrong),
        "accuracy": outcome.facts["accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--label", required=True)
    parser.add_argument("--split-column")
    parser.add_argument("--c", type=float, nargs="+", default=[10.0])
    parser.add_argument("--folder", type=Path, default=Path("evaluate-work"))
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--issues", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    raw: dict[str, Any] = {"snapshot": args.output, "label": args.label, "c": args.c, "sample": 0}
    if args.split_column:
        raw["split"] = {"column": args.split_column}
    section = EvaluateSection.model_validate(raw)
    with threadpool_limits(limits=1):
        found = evaluated(section, args.folder)
        facts = {name: value for name, value in found.outcome.facts.items() if name not in ("classes", "mteb")}
        report: dict[str, Any] = {"benchmark": "evaluate_classify", "hardware": hardware(), **commit()}
        report |= {"evaluate": found.spent | {"passes": found.passes}, "facts": facts}
        told = [found.outcome.facts["classes"].get(name) for name in found.classes]
        report["same scores"] = same_scores(found.odds, found.truth, told, args.folder)
        _store(report, args.out)  # what follows takes minutes
        report["in memory"] = against_scikit_learn(section, found.outcome, args.peers)
        if args.issues:
            report["label issues"] = planted_issues(section, args.folder)
    sys.stdout.write(_store(report, args.out))


def _store(report: dict[str, Any], out: Path | None) -> str:
    text = json.dumps(report, indent=1) + "\n"
    if out:
        out.write_text(text)
    return text


if __name__ == "__main__":
    main()
