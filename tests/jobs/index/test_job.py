"""The job `index` over real snapshots, in this process: files, recall against brute force, the next night, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from usearch.index import Index

from jobs.config import parse_section
from jobs.index.config import IndexConfig
from jobs.index.job import IndexJob
from jobs.passes.kind import Kept, Outcome
from tests.jobs.index.index_samples import COUNT, DIM, RUN, config, index_of, mixture, write_files
from tests.vector_snapshots import passes_over, publish_vectors
from workers.errors import UsageError
from workers.vectors.derived import Desk, Made
from workers.vectors.index.build_files import BuildFiles, recall
from workers.vectors.index.held_out import HeldOut, Questions
from workers.vectors.index.index_file import IndexShape
from workers.vectors.index.write_files import WriteFiles
from workers.vectors.shard_rows import ShardRows


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return mixture(COUNT)


@pytest.fixture(scope="module")
def output(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "out"
    publish_vectors(folder, vectors, shards=3, part_bytes=120_000)
    return folder


@pytest.mark.slow
def test_files_are_those_of_usearch_and_the_same_whatever_the_threads(
    output: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    digests = []
    for threads in (1, 2, 3):
        outcome, files = write_files(output, tmp_path / str(threads), config(output), threads=threads)
        digests.append([file.sha256 for file in files])
    assert digests[0] == digests[1] == digests[2]
    assert len(files) == 3
    assert sum(file.rows for file in files) == COUNT
    catalog = outcome.tables["files"].to_pylist()
    assert {row["file"] for row in catalog} == {Path(file.path).name for file in files}
    assert sum(row["rows"] for row in catalog) == COUNT
    first = catalog[0]
    index = Index.restore(tmp_path / "3" / files[0].path, view=True)
    assert (len(index), index.ndim, str(index.dtype)) == (first["vectors"], DIM, "ScalarKind.BF16")
    for row in (0, 1, 500):  # shards are cut evenly: the first holds the first rows
        assert index.search(vectors[row], 1).keys[0] == row


def test_recall_is_that_of_brute_force(output: Path, vectors: np.ndarray) -> None:
    with passes_over(output, ["text_hash"]) as passes:
        questions = Questions.of(passes.run(HeldOut(50)))
        answer = passes.run(BuildFiles(IndexShape(DIM, "bf16", 16, 128, False), 700, questions))
        starts = np.array(passes.source.first_rows)
    asked = starts[questions.shards] + questions.places
    np.testing.assert_allclose(questions.vectors, vectors[asked], atol=1e-6)
    rest = np.setdiff1d(np.arange(COUNT), asked)
    cosines = vectors[asked].astype(np.float64) @ vectors[rest].T.astype(np.float64)
    best = np.argsort(-cosines, axis=1)[:, :10]
    np.testing.assert_allclose(answer["true"], np.take_along_axis(cosines, best, axis=1), atol=1e-5)
    ids = starts[answer["true_ids"] >> 36] + (answer["true_ids"] & ((1 << 36) - 1))
    assert (np.sort(ids, axis=1) == np.sort(rest[best], axis=1)).mean() > 0.999
    found = starts[answer["ids"][0] >> 36] + (answer["ids"][0] & ((1 << 36) - 1))
    order = np.argsort(-answer["exact"][0], axis=1)[:, :10]
    expected = np.mean(
        [len(set(row) & set(rest[true])) / 10 for row, true in zip(np.take_along_axis(found, order, 1), best, strict=True)]
    )
    assert recall(answer)[32] == pytest.approx(expected, abs=0.003)
    assert len(answer["file_bytes"]) == 6, "1,000 rows a shard and 700 a file"


def test_a_shard_of_many_rows_gets_several_files(output: Path, tmp_path: Path) -> None:
    outcome, files = write_files(output, tmp_path / "index", config(output, rows_per_file=999))
    assert len(files) == 6
    rows = outcome.tables["files"].to_pylist()
    covered = sorted((row["part"], row["first"] + at) for row in rows for at in range(row["rows"]))
    assert len(set(covered)) == len(covered) == COUNT


def test_another_attempt_finds_its_files_there(output: Path, tmp_path: Path) -> None:
    target = tmp_path / "index"
    _, first = write_files(output, target, config(output))
    for record in (target / "runs" / RUN / "staged").iterdir():
        record.unlink()  # so that nothing is adopted by its record
    for scratch in (target / "runs" / RUN / "scratch" / "index").iterdir():
        scratch.unlink()  # and everything is built again
    assert write_files(output, target, config(output), threads=2)[1] == first
    assert len(list((target / "data" / RUN).glob("*.usearch"))) == 3


@pytest.mark.slow
def test_a_shard_is_written_by_an_actor_that_did_not_build_it(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = write_files(output, tmp_path / "one", config(output, rows_per_file=700))
    real = WriteFiles.files

    def elsewhere(self: WriteFiles, rows: ShardRows, desk: Desk) -> Iterator[Made]:
        assert rows.workplace is not None
        for file in rows.workplace.folder.glob(f"index-{rows.number:07d}-*.usearch"):
            file.unlink()
        if rows.number == 1:
            rows.workplace.output.delete(f"{rows.workplace.scratch}/index/0000001-0.usearch")
        yield from real(self, rows, desk)

    monkeypatch.setattr(WriteFiles, "files", elsewhere)
    assert write_files(output, tmp_path / "two", config(output, rows_per_file=700))[1] == first


@pytest.mark.slow
def test_the_next_night_builds_the_new_shard_alone(output: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    first = index_of(output, config(output))
    changed = vectors.copy()
    changed[-1] = -changed[-1]  # in the last shard
    publish_vectors(tmp_path / "out", changed, shards=3, part_bytes=120_000)
    kept = _kept_of(output, first)
    again = index_of(tmp_path / "out", config(tmp_path / "out"), kept=kept)
    assert (again.facts["files"], again.facts["files_built"]) == (3, 3), "other run, other stamps: other digests"
    same = index_of(output, config(output), kept=kept)
    assert (same.facts["files"], same.facts["files_built"]) == (3, 0)
    assert same.carry
    assert same.tables["files"] == first.tables["files"]
    assert same.facts["recall_at_10"] == first.facts["recall_at_10"]
    with passes_over(output, ["text_hash"]) as passes:
        shards = passes.source.shards
    partly = Kept("r", first.state, first.facts, shards[:2])
    one = index_of(output, config(output), kept=partly)
    assert (one.facts["files"], one.facts["files_built"]) == (3, 1)
    assert [row["file"][:12] for row in one.tables["files"].to_pylist()] == [
        row["file"][:12] for row in first.tables["files"].to_pylist()
    ]


def _kept_of(output: Path, outcome: Outcome) -> Kept:
    with passes_over(output, ["text_hash"]) as passes:
        return Kept("r", outcome.state, outcome.facts, passes.source.shards)


def test_what_is_built_is_not_built_again(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with passes_over(output, ["text_hash"], work=work) as passes:
        first = IndexJob(config(output)).program(passes, None)

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("workers.vectors.index.build_files.build", refuse)
    with passes_over(output, ["text_hash"], work=work) as passes:  # another driver, its journal lost
        again = IndexJob(config(output)).program(passes, None)
    assert again.facts == first.facts
    assert again.tables == first.tables


def test_low_recall_is_refused(output: Path) -> None:
    outcome = index_of(output, config(output, connectivity=2, expansion=1, min_recall=1.0, precision="i8"))
    (check,) = outcome.checks
    assert not check.ok
    assert "index.min_recall=1.0" in check.reason


def test_nothing_to_index(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "out", np.empty((0, DIM), np.float32), shards=1)
    with passes_over(tmp_path / "out", ["text_hash"]) as passes, pytest.raises(UsageError, match="holds no rows"):
        IndexJob(config(tmp_path / "out")).check(passes.source)


def test_bad_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"index\.precision: should be 'f32'"):
        parse_section({"index": {"snapshot": "x", "precision": "f8"}, "output": {"uri": "y"}}, "index.yaml", IndexConfig)
