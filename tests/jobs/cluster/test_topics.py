"""Words and texts of clusters, of a snapshot of a small corpus: against the texts by id, and without the corpus."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from jobs.cluster.config import ClusterJobConfig
from jobs.cluster.job import ClusterJob
from jobs.cluster.topics import text_shards
from jobs.config import parse_section
from jobs.embed.job import embed_corpus
from jobs.passes.kind import Outcome
from jobs.passes.source import SourceSnapshot
from tests.jobs.nights import by_hand, settings
from tests.vector_snapshots import passes_over
from workers.vectors.clustering.words import words_of

TOPICS = ("cat mouse fish bird dog", "train bus tram ship plane", "violin cello flute drum horn")
TEXTS = {
    f"doc-{row}": " ".join([TOPICS[row % 3].split()[(row + at) % 5] for at in range(3)] + [f"<b>and</b> the number{row}"])
    for row in range(90)
}


def _embedded(folder: Path, model: Path) -> str:
    """An OUTPUT whose vectors are drawn from the texts."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    rows = [json.dumps({"id": id_, "text": text}) for id_, text in TEXTS.items()]
    for number in range(3):
        (corpus / f"{number}.jsonl").write_text("\n".join(rows[number::3]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        by_hand(patch)
        summary = embed_corpus(settings(folder, model, run={"shard_bytes": 1500}))
    assert summary["published"]
    return f"{folder}/out"


def _clustered(source: str) -> Outcome:
    section = {"snapshot": source, "clusters": 6, "words": 5, "examples": 3}
    job = ClusterJob(parse_section({"cluster": section, "output": {"uri": f"{source}.c"}}, "test", ClusterJobConfig))
    columns = job.check(SourceSnapshot.open(source, {}, "snapshot"))
    with passes_over(source, columns, work=f"{source}.c") as passes:
        return job.program(passes, None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> str:
    return _embedded(tmp_path_factory.mktemp("topics") / "plain", small_model)


@pytest.mark.slow
def test_words_are_those_of_the_clusters_texts_and_examples_have_their_own(source: str) -> None:
    outcome = _clustered(source)
    clusters = outcome.tables["clusters"].to_pylist()
    members: dict[int, list[str]] = {cluster["cluster"]: [] for cluster in clusters}
    centroids = {cluster["cluster"]: cluster["centroid"] for cluster in clusters}
    table = ds.dataset(f"{source}/data", format="parquet").to_table(columns=["id", "embedding"])
    for id_, vector in zip(table.column("id").to_pylist(), table.column("embedding").to_pylist(), strict=True):
        scores = {number: sum(a * b for a, b in zip(vector, centroids[number], strict=True)) for number in centroids}
        members[max(scores, key=lambda number: scores[number])].append(id_)
    assert sum(len(ids) for ids in members.values()) == 90
    for cluster in clusters:
        assert cluster["rows"] == len(members[cluster["cluster"]])
        counts = Counter(word for id_ in members[cluster["cluster"]] for word in words_of(TEXTS[id_]))
        assert set(cluster["words"]) <= {
            word for word, count in counts.items() if count >= (2 if cluster["rows"] > 5 else 1)
        }
        assert "the" not in cluster["words"]
        for example in cluster["examples"]:
            assert example["id"] in members[cluster["cluster"]]
            assert example["text"] == TEXTS[example["id"]]
    (_, picture), (_, page) = outcome.report
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "counted in 90 texts" in page
    assert picture.count("<svg") == 2


@pytest.mark.slow
def test_a_corpus_that_is_no_longer_there_costs_the_words_alone(
    tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = _embedded(tmp_path / "corpus", small_model)
    corpus = sorted((tmp_path / "corpus" / "corpus").glob("*.jsonl"))
    for harm in ("changed", "gone"):
        for path in corpus:
            if harm == "gone":
                path.unlink()
            else:
                path.write_text(path.read_text().replace("the number", "another number"))
        caplog.clear()
        outcome = _clustered(source)
        assert outcome.facts["rows"] == 90
        clusters = outcome.tables["clusters"].to_pylist()
        assert all(cluster["words"] == [] for cluster in clusters)
        assert all(example["text"] is None and example["id"] for cluster in clusters for example in cluster["examples"])
        assert "shards of the corpus cannot be read again" in outcome.report[-1][1]
        missing = [record for record in caplog.records if "words and texts of clusters are missing" in record.message]
        assert [record.levelname for record in missing] == ["WARNING"]


@pytest.mark.slow
def test_a_part_of_a_large_corpus_is_read(source: str) -> None:
    opened = SourceSnapshot.open(source, {}, "snapshot")
    sizes = {shard.number: shard.text_bytes for shard in opened.run.shards}
    assert text_shards(opened, 1 << 30).tolist() == sorted(sizes)
    some = text_shards(opened, sum(sizes.values()) // 2).tolist()
    assert 0 < sum(sizes[number] for number in some) <= sum(sizes.values()) // 2
    assert len(text_shards(opened, 1)) == 1
