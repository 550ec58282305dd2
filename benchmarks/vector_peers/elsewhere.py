"""Peers of an environment of their own: MTEB's classifier, BERTopic, SemHash. Imports nothing of this project's jobs.

Each function takes the material, and returns figures of quality and what the work cost. Imports of the peer, reading, and
compilation at the first call (UMAP's) are not counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.vector_peers.material import Material
from benchmarks.vector_peers.stopwatch import measured

Found = tuple[dict[str, Any], dict[str, float]]


def mteb(material: Material) -> Found:
    """AbsTaskClassification as MTEB runs it: ten logistic regressions of 8 rows a class. Its encoder looks vectors up."""
    import torch
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class Task(AbsTaskClassification):
        metadata = TaskMetadata(
            name="Stored",
            description="Vectors of a snapshot and the values of a column.",
            dataset={"path": "none/none", "revision": "0"},
            type="Classification",
            eval_langs=["eng-Latn"],
            main_score="f1",
        )

    class Stored:
        """A text is the number of its row."""

        mteb_model_meta = None

        def encode(self, inputs: Any, **_: Any) -> np.ndarray:
            return np.asarray(vectors[[int(text) for batch in inputs for text in batch["text"]]])

        def similarity(self, one: Any, other: Any) -> Any:
            return torch.as_tensor(one) @ torch.as_tensor(other).T

        def similarity_pairwise(self, one: Any, other: Any) -> Any:
            return (torch.as_tensor(one) * torch.as_tensor(other)).sum(dim=1)

    vectors, training = material.vectors, material.column("training")
    _, codes = np.unique(material.column("label"), return_inverse=True)
    task = Task()
    task.dataset = DatasetDict(
        {
            name: Dataset.from_dict({"text": list(map(str, np.flatnonzero(rows))), "label": codes[rows].tolist()})
            for name, rows in (("train", training), ("test", ~training))
        }
    )
    task.data_loaded = True
    scores, spent = measured(lambda: task.evaluate(Stored(), "test", encode_kwargs={"batch_size": 1024})["default"])
    return {"macro_f1": float(scores["f1"]), "accuracy": float(scores["accuracy"])}, spent


def bertopic(material: Material) -> Found:
    """Its own defaults (UMAP to 5 dimensions, HDBSCAN, words by class-based TF-IDF), over the sample's texts and vectors."""
    from bertopic import BERTopic
    from sklearn.metrics import v_measure_score

    rows, texts = material.column("sample"), material.sample_texts
    vectors, labels = material.vectors[rows], material.column("label")[rows]
    BERTopic().fit_transform(texts[:500], vectors[:500])  # compiles
    topics, spent = measured(lambda: np.array(BERTopic().fit_transform(texts, vectors)[0]))
    return {
        "v_measure": float(v_measure_score(labels, topics)),
        "clusters": int(topics.max()) + 1,
        "left_out": float((topics < 0).mean()),
    }, spent


def semhash(material: Material) -> Found:
    """Share of the pairs of distinct texts at or above the threshold that its index finds."""
    pairs, text, threshold = material.column("pairs"), material.column("text"), material.settings["threshold"]
    found, spent = by_semhash(material.vectors, text, pairs, threshold)
    return {"pairs_found": found["found"], "kept": found["kept"]}, spent


def by_semhash(
    unit: np.ndarray, text: np.ndarray, pairs: np.ndarray, threshold: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """
    Args:
        unit: [N, D] of length 1. text: [N] number of the distinct text. pairs: [P, 2] of rows, as brute force has them.
    """
    from semhash import SemHash

    def search() -> tuple[Any, Any]:
        job = SemHash.from_embeddings(unit, [str(number) for number in text], model=None)
        return job, job.self_deduplicate(threshold=threshold)

    (job, result), spent = measured(search)
    neighbours = job.index.query_threshold(job.index.vectors, threshold=threshold)
    _, first = np.unique(text, return_index=True)
    order = text[np.sort(first)]  # SemHash keeps the first row of each text
    distinct = set()
    for row, (near, _) in enumerate(neighbours):
        for other in near:
            distinct.add((min(order[row], order[int(other)]), max(order[row], order[int(other)])))
    texts = np.unique(np.sort(text[pairs], axis=1), axis=0)
    wanted = {tuple(pair) for pair in texts[texts[:, 0] != texts[:, 1]].tolist()}
    share = len(distinct & wanted) / max(1, len(wanted))
    return {"text_pairs": len(distinct & wanted), "found": round(share, 5), "kept": len(result.selected)}, spent
