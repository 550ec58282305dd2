"""`evaluate.candidates`: which model, layer and pooling suits these texts? All are embedded on one sample of the corpus.

    sample      documents with their texts                                  (sample.py)
    embedding   every layer and pooling of a model from one forward pass, in the driver's process
    figures     the task itself, over each candidate's vectors in memory     (memory.py)

The figures of a model are kept in the journal: a driver that starts again computes only the models that are left.
"""

from __future__ import annotations

import functools
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.evaluate.candidates.memory import passes_in_memory
from jobs.evaluate.candidates.sample import Documents, require_corpus, sampled_documents
from jobs.evaluate.config import CandidateSection, EvaluateSection, Task
from jobs.evaluate.task import TaskModule
from jobs.passes.kind import Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.config import ModelConfig, Pooling
from workers.errors import UsageError
from workers.table.vectors import bad_rows
from workers.vectors.step import Partial

if TYPE_CHECKING:
    from workers.engine.cells import Cell
    from workers.replica.candidate import CandidateModel

TASKS = (Task.CLASSIFY, Task.CLUSTER)
OWN = -1  # layer of a candidate that is used as its model says
MOST_BYTES = 4 << 30  # of one model's vectors in the driver's memory


def check(source: SourceSnapshot, section: EvaluateSection) -> None:
    """Raises: UsageError."""
    if section.task not in TASKS:
        raise UsageError(
            f"evaluate.candidates: compared by task={' or '.join(TASKS)}, which need labels alone, not by {section.task}"
        )
    if section.against is not None:
        raise UsageError("evaluate.candidates: compared with each other; leave evaluate.against out")
    require_corpus(source)


def evaluate(passes: Passes, section: EvaluateSection, task: TaskModule) -> Outcome:
    """The task's figures of every candidate; the facts are those of the best by the task's main figure."""
    source = passes.source
    columns = task.check(source, section)
    documents = sampled_documents(source, columns, section.sample)
    texts = hashlib.sha256("\0".join(documents.texts).encode(errors="surrogatepass")).hexdigest()
    rows: list[dict[str, Any]] = []
    for number, candidate in enumerate(section.candidates):
        settings = section.model_dump(mode="json", exclude={"candidates", "snapshot", "storage_options"})
        asked = json.dumps([candidate.model_dump(mode="json"), settings, source.run_id, texts], sort_keys=True)
        name = f"candidate {number} {hashlib.sha256(asked.encode()).hexdigest()}"
        found = passes.once(name, functools.partial(_figures, source, section, task, candidate, documents))
        rows += _rows(found, task.METRICS)
    best = max(rows, key=lambda row: -np.inf if row[task.METRICS[0]] is None else row[task.METRICS[0]])
    facts = {
        "task": str(section.task),
        "rows": len(documents.texts),
        "candidates": len(rows),
        "best": {name: best[name] for name in ("model", "layer", "pooling")},
        **{name: best[name] for name in task.METRICS},
    }
    table = pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]})
    return Outcome(facts=facts, tables={"candidates": table}, report=[_section(rows, task.METRICS, facts)])


def text(facts: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """The best one, and its figures."""
    best = facts["best"]
    figures = ", ".join(f"{name} {facts[name]:.4f}" for name in metrics if facts[name] is not None)
    return [f"best of {facts['candidates']} candidates over {facts['rows']:,} texts: {_shown(best)}: {figures}"]


def _figures(
    source: SourceSnapshot, section: EvaluateSection, task: TaskModule, candidate: CandidateSection, documents: Documents
) -> Partial:
    """Of all cells of one model."""
    from workers.replica.candidate import CandidateModel  # imports torch

    config = source.run.config.model if candidate.model is None else ModelConfig(name=candidate.model)
    model = CandidateModel(config)
    cells = _cells(model, candidate)
    needed = 4 * model.dim * len(documents.texts) * max(len(cells), 1)
    if needed > MOST_BYTES:
        raise UsageError(
            f"evaluate.candidates: vectors of {model.name} would take {needed >> 30} GiB of the driver's memory; "
            "lower evaluate.sample, or name fewer layers"
        )
    embedded = model.embed(documents.texts, cells)
    bad = sorted({row for vectors in embedded for row in bad_rows(vectors)})
    good = np.setdiff1d(np.arange(len(documents.texts)), np.array(bad, np.int64))
    rows = documents.take(good.tolist())
    found = [task.evaluate(passes_in_memory(source, rows, vectors[good]), section, None).facts for vectors in embedded]
    count = len(found)
    figures = {name: np.array([_number(facts.get(name)) for facts in found], np.float64) for name in task.METRICS}
    return {
        "model": np.array([model.name] * count, dtype=np.str_),
        "layer": np.array([cell.layer for cell in cells] or [OWN], np.int64),
        "pooling": np.array([cell.pooling.value for cell in cells] or [model.own], dtype=np.str_),
        "dim": np.array([vectors.shape[1] for vectors in embedded], np.int64),
        "left_out": np.array([len(bad)] * count, np.int64),
        **figures,
    }


def _cells(model: CandidateModel, candidate: CandidateSection) -> list[Cell]:
    """None: the model as it says itself. With layers=all those are left out that a pooling does not have."""
    from workers.engine.cells import Cell, exists

    if candidate.layers is None and candidate.pooling is None:
        return []
    everything = candidate.layers == "all"
    layers = list(range(model.layers + 1)) if everything else candidate.layers or [model.layers]
    poolings = candidate.pooling or [Pooling(model.own)]
    cells = [Cell(int(layer), pooling) for layer in layers for pooling in poolings]
    return [cell for cell in cells if exists(cell)] if everything else cells


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _rows(found: Partial, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """JSON values; the layer of a model that is used as it says itself is null."""
    rows = []
    for at in range(len(found["model"])):
        layer = int(found["layer"][at])
        row: dict[str, Any] = {
            "model": str(found["model"][at]),
            "layer": None if layer == OWN else layer,
            "pooling": str(found["pooling"][at]),
            "dim": int(found["dim"][at]),
            "left_out": int(found["left_out"][at]),
        }
        figures = {name: float(found[name][at]) for name in metrics}
        rows.append(row | {name: None if np.isnan(value) else value for name, value in figures.items()})
    return rows


def _shown(row: Mapping[str, Any]) -> str:
    layer = "its own layer" if row["layer"] is None else f"layer {row['layer']}"
    return f"{row['model']}, {layer}, {row['pooling']}"


def _section(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], facts: Mapping[str, Any]) -> tuple[str, str]:
    main = metrics[0]
    ordered = sorted(rows, key=lambda row: np.inf if row[main] is None else -row[main])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in metrics)
    lines = "".join(
        f"<tr><td>{html.escape(_shown(row))}</td>"
        + "".join(f"<td>{'' if row[name] is None else format(row[name], '.4f')}</td>" for name in metrics)
        + "</tr>"
        for row in ordered
    )
    return "Candidates", (
        f"<p>{html.escape(text(facts, metrics)[0])}.</p><table><tr><th>candidate</th>{head}</tr>{lines}</table>"
    )
