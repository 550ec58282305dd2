"""A replica before and after it is configured: what it reports, what it refuses, what it loads again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.workers.corpus_files import slice_of
from tests.workers.families import FAMILIES, save_family
from tests.workers.output_samples import plan, stamp
from workers.config import CorpusConfig, ModelConfig, OutputConfig, Precision
from workers.engine import self_check
from workers.engine.device.in_flight import Pending
from workers.errors import ReplicaError
from workers.model.files import resolve_model
from workers.records.shard import Assignment, Blame, Failure, Receipt, Shard
from workers.records.tokens import TokenizedTexts
from workers.replica.replica import Replica
from workers.replica.settings import ReplicaSettings, ResolvedSettings
from workers.storage.store import Store

WORDS = ["snow", "the quick brown fox", "a harbour in January"]


@pytest.fixture(scope="module")
def model(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(minilm, tmp_path_factory.mktemp("model") / "tiny", FAMILIES["Bert"])


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> ReplicaSettings:
    config = ModelConfig(name=str(model))
    files = resolve_model(config)
    corpus = CorpusConfig(uri=[f"{tmp_path}/in/"])
    return ReplicaSettings(
        plan=dataclasses.replace(plan(), corpus=corpus),
        model=config,
        output=OutputConfig(uri=f"{tmp_path}/out"),
        weights_digest=files.weights_digest,
        tokenizer_digest=files.tokenizer_digest,
        dim=32,
        precision=Precision.FLOAT32,
        batch_tokens=300,
        threads=torch.get_num_threads(),
        atomic_create=True,
    )


@pytest.fixture
def replica(settings: ReplicaSettings) -> Iterator[Replica]:
    made = Replica(settings, "replica-0")
    yield made
    made._pipeline.close()


@pytest.fixture
def task(settings: ReplicaSettings, tmp_path: Path) -> Assignment:
    source = tmp_path / "in" / "a.jsonl"
    source.parent.mkdir()
    source.write_text("".join(f'{{"text": "{words}"}}\n' for words in WORDS))
    piece = slice_of(source, first_row=0)
    return Assignment(Shard(0, (piece,), piece.size), 1, 1)


def resolved(settings: ReplicaSettings, precision: str, batch_tokens: int = 200, run_id: str = "run-1") -> ResolvedSettings:
    digests = {"weights_digest": settings.weights_digest, "tokenizer_digest": settings.tokenizer_digest}
    return ResolvedSettings(stamp(run_id=run_id, dim=32, precision=precision, prompt="", **digests), batch_tokens)


def embed(replica: Replica, settings: ReplicaSettings, run_id: str, texts: list[str], *earlier: str) -> Receipt:
    """These texts as the one shard of a run."""
    replica.configure(resolved(settings, "float32", run_id=run_id))
    source = Path(settings.plan.corpus.uri[0]) / f"{run_id}.jsonl"
    source.parent.mkdir(exist_ok=True)
    source.write_text("".join(f'{{"text": "{words}"}}\n' for words in texts))
    answer = replica.embed_shard(Assignment(Shard(0, (slice_of(source, first_row=0),), 0, earlier=earlier), 1, 1))
    assert isinstance(answer, Receipt), answer
    return answer


def vectors(settings: ReplicaSettings, receipt: Receipt) -> np.ndarray:
    table = pq.read_table(f"{settings.output.uri}/{receipt.files[0].path}", partitioning=None)
    return np.stack(table["embedding"].to_numpy())


def test_facts_tell_the_run_what_to_settle(replica: Replica) -> None:
    facts = replica.facts()
    assert (facts["precision"], facts["batch_tokens"], facts["way"]) == ("float32", 300, "fused float32")
    assert facts["loaded_seconds"] > 0


def test_a_shard_before_the_run_is_settled_is_refused(replica: Replica, task: Assignment, tmp_path: Path) -> None:
    answer = replica.embed_shard(task)
    assert isinstance(answer, Failure)
    assert answer.blame is Blame.REPLICA
    assert "replica-0 was given a shard before it was configured" in answer.reason
    assert Store(f"{tmp_path}/out", {}).list("") == {}
    assert replica.stats().shards == ()


def test_a_run_in_another_precision_loads_the_model_again(
    replica: Replica, settings: ReplicaSettings, task: Assignment
) -> None:
    before = replica._encoder
    replica.configure(resolved(settings, "float32"))
    assert replica._encoder is before
    assert replica.facts()["batch_tokens"] == 200
    replica.configure(resolved(settings, "bfloat16", 150))
    assert replica._encoder is not before
    facts = replica.facts()
    assert (facts["precision"], facts["batch_tokens"], facts["way"]) == ("bfloat16", 150, "fused bfloat16")
    answer = replica.embed_shard(task)
    assert isinstance(answer, Receipt), answer
    assert (answer.documents, answer.rows_read) == (3, 3)
    written = pq.read_table(f"{settings.output.uri}/{answer.files[0].path}")
    assert written.num_rows == 3
    assert replica.stats().documents == 3


def test_the_runs_way_is_taken_and_an_impossible_one_is_told_once(
    replica: Replica, settings: ReplicaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    before = replica._encoder
    replica.configure(dataclasses.replace(resolved(settings, "float32"), way="fused float32"))
    assert replica._encoder is before
    elsewhere = dataclasses.replace(resolved(settings, "float32"), way="fused cuda")
    replica.configure(elsewhere)
    after = replica._encoder
    assert after is not before
    assert replica.facts()["way"] == "fused float32"
    assert "the run's way fused cuda is not possible here; working by fused float32" in caplog.text
    replica.configure(elsewhere)
    assert replica._encoder is after
    tokens = replica._tokenizer.tokenize(["one text", "and another, which is longer", "a"])
    assert np.array_equal(before.encode(tokens).vectors, after.encode(tokens).vectors)  # one way, the same bits


def test_a_precision_that_does_not_hold_here(
    replica: Replica, settings: ReplicaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "out_of_tolerance", lambda precision, _: f"golden texts in {precision.value} stray")
    with pytest.raises(ReplicaError, match=r"cpu, fused bfloat16: golden texts in bfloat16 stray"):
        replica.configure(resolved(settings, "bfloat16"))
    assert replica.facts()["precision"] == "float32"


def test_calibration_comes_before_the_run_is_settled(replica: Replica, task: Assignment) -> None:
    """A scale for each int8 column, of the components that it has: unit vectors of fewer components have larger ones."""
    columns = [{"name": "embedding", "type": "int8"}, {"name": "cut", "type": "int8", "dim": 8}, {"name": "plain"}]
    replica._settings = dataclasses.replace(
        replica._settings, output=OutputConfig.model_validate({"uri": "out", "vectors": columns})
    )
    scales = replica.calibrate([task.shard])
    vectors = replica._encoder.encode(replica._tokenizer.tokenize(WORDS)).vectors
    cut = vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True)
    expected = {"embedding": np.abs(vectors).max() * 1.05 / 127, "cut": np.abs(cut).max() * 1.05 / 127}
    assert scales == pytest.approx(expected, rel=1e-6)


def test_another_model_than_planned(settings: ReplicaSettings) -> None:
    other = dataclasses.replace(settings, weights_digest="0" * 64)
    with pytest.raises(ReplicaError, match=r"was planned with 000000000000; make the same model available"):
        Replica(other, "replica-1")


def test_a_text_is_tokenised_and_encoded_once(replica: Replica, settings: ReplicaSettings) -> None:
    once = embed(replica, settings, "once", WORDS)
    often = embed(replica, settings, "often", [WORDS[number % 3] for number in range(50)])
    assert (often.rows, often.repeated_rows, often.tokens, often.padded_tokens) == (50, 47, once.tokens, once.padded_tokens)
    assert np.array_equal(vectors(settings, often), vectors(settings, once)[[number % 3 for number in range(50)]])
    assert replica.stats().documents == 53
    assert replica.stats().tokens == 2 * once.tokens


def test_vectors_of_an_earlier_run_are_kept_to_the_bit_and_probed(replica: Replica, settings: ReplicaSettings) -> None:
    base = embed(replica, settings, "base", [f"{words} {number}" for words in WORDS for number in range(20)])
    texts = ["one that is new", *(f"{words} {number}" for number in range(20) for words in WORDS)]
    alone = embed(replica, settings, "alone", texts[:1])
    receipt = embed(replica, settings, "next", texts, base.files[0].path)
    assert (receipt.reused_rows, receipt.repeated_rows, receipt.rows, receipt.probed) == (60, 0, 61, 16)
    assert np.array_equal(
        vectors(settings, receipt)[1:], vectors(settings, base).reshape(3, 20, 32).swapaxes(0, 1).reshape(60, 32)
    )
    np.testing.assert_allclose(vectors(settings, receipt)[0], vectors(settings, alone)[0], atol=1e-5)
    assert receipt.probe_cosine == pytest.approx(1, abs=1e-5)
    assert alone.tokens < receipt.tokens < base.tokens


def test_a_device_gone_bad_shows_although_all_is_reused(
    replica: Replica, settings: ReplicaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = embed(replica, settings, "base", WORDS)
    submit, generator = replica._encoder.submit, np.random.default_rng(0)

    def noise(tokens: TokenizedTexts) -> Pending:
        encoded = submit(tokens).result()
        noisy = dataclasses.replace(encoded, vectors=generator.standard_normal(encoded.vectors.shape).astype(np.float32))
        return Pending(lambda: True, lambda: noisy)

    monkeypatch.setattr(replica._encoder, "submit", noise)
    receipt = embed(replica, settings, "next", WORDS, base.files[0].path)
    assert (receipt.reused_rows, receipt.probed) == (3, 3)
    assert receipt.probe_cosine is not None
    assert receipt.probe_cosine < 0.6
    assert np.array_equal(vectors(settings, receipt), vectors(settings, base))


def test_a_cuda_error_that_is_told_late_is_the_replicas(
    replica: Replica, settings: ReplicaSettings, task: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It surfaces where the vectors are waited for. Charged to shards, a broken device would quarantine many."""

    class Broken:
        asked = 0

        def send(self, *_: object) -> int:
            return 1

        def landed(self, _: int) -> bool:
            self.asked += 1
            return self.asked > 3  # under way for a while, as an event is

        def land(self, _: int) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand a long explanation")

    replica.configure(resolved(settings, "float32"))
    monkeypatch.setattr(replica._encoder, "device", torch.device("cuda"))
    monkeypatch.setattr(replica._encoder, "_embed", lambda tokens, rows: torch.zeros(len(rows), 32))
    monkeypatch.setattr(replica._encoder, "_landing", Broken)
    answer = replica.embed_shard(task)
    assert isinstance(answer, Failure)
    assert (answer.blame, answer.reason) == (Blame.REPLICA, "cuda: CUDA error: an illegal memory access was encountered")
    with pytest.raises(ReplicaError, match="illegal memory access"):
        replica.golden()
    with pytest.raises(ReplicaError, match="illegal memory access"):
        replica.calibrate([task.shard])
