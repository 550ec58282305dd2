"""The encoder on real and tiny models: families, precision, independence of batches, full devices, wrong checkpoints."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.workers.families import FAMILIES, TINY, save_family, sequences
from tests.workers.models import TEXTS, build, copy_model, edit_json, layout
from workers.config import BY_TOKEN, Pooling, Precision
from workers.engine.device.in_flight import Arrived
from workers.engine.encoder import Encoder, EncoderOptions
from workers.engine.heads import Heads
from workers.engine.self_check import SelfCheck
from workers.errors import ReplicaError, UsageError
from workers.model.golden import GOLDEN_TEXTS
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import TokenizedTexts

BERT_LIKE = dict.fromkeys(("Bert", "Roberta", "XLMRoberta", "DistilBert", "Electra", "MPNet"), "fused float32")
WAYS = BERT_LIKE | {"ModernBert": "fused float32", "DebertaV2": "padded"}


@pytest.fixture(scope="module")
def tiny(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(minilm, tmp_path_factory.mktemp("tiny") / "model", FAMILIES["Bert"])


@pytest.mark.parametrize(
    "family", ["Bert", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "Bert")]
)
def test_a_batch_changes_nothing(minilm: Path, tmp_path: Path, family: str) -> None:
    """Batched, whichever way a family is run, equals one unpadded sequence at a time through plain transformers."""
    folder = save_family(minilm, tmp_path / family, FAMILIES[family])
    _, encoder = build(folder, batch_tokens=600, normalize=False)
    tokens = sequences(24, 100)
    encoded = encoder.encode(tokens)
    assert encoder.way == WAYS.get(family, "packed")
    assert (encoded.padded_tokens > len(tokens.input_ids)) == (encoder.way == "padded")
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    expected = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.from_numpy(tokens.input_ids[start:stop].astype(np.int64))[None]).last_hidden_state
        expected.append(states[0].double().mean(dim=0).numpy())
    assert np.abs(expected[0]).max() > 0.01
    assert np.abs(encoded.vectors - np.stack(expected)).max() <= 1e-5


def test_layer_poolings_of_a_family_without_pooler(minilm: Path, tmp_path: Path) -> None:
    folder = save_family(minilm, tmp_path / "model", FAMILIES["DistilBert"])
    tokenizer, encoder = build(folder, pooling="last4_concat", normalize=False)
    tokens = tokenizer.tokenize(["one text"])
    states = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        layers = states(
            input_ids=torch.from_numpy(tokens.input_ids.astype(np.int64))[None], output_hidden_states=True
        ).hidden_states
    expected = torch.cat([layer[0].mean(dim=0) for layer in layers[:0:-1]]).numpy()
    assert encoder.dim == 128
    assert np.abs(encoder.encode(tokens).vectors[0] - expected).max() <= 1e-5
    with pytest.raises(UsageError, match="no pooler weights"):
        layout(folder, pooling="pooler")


def test_few_layers(minilm: Path, tmp_path: Path) -> None:
    folder = save_family(minilm, tmp_path / "model", transformers.BertConfig(**TINY | {"num_hidden_layers": 3}))
    with pytest.raises(UsageError, match="3 layers, four are needed"):
        layout(folder, pooling="last4_mean")


@pytest.mark.slow
def test_the_same_call_gives_the_same_bits(minilm: Path) -> None:
    tokenizer, encoder = build(minilm, max_tokens=64)
    tokens = tokenizer.tokenize(TEXTS * 4)
    first = encoder.encode(tokens).vectors
    assert encoder.encode(tokens).vectors.tobytes() == first.tobytes()
    _, again = build(minilm, max_tokens=64)
    assert again.encode(tokens).vectors.tobytes() == first.tobytes()


@pytest.mark.slow
def test_no_texts(tiny: Path) -> None:
    for settings in ({}, {"long_text": "mean_of_chunks"}, {"long_text": "chunks"}, {"pooling": "tokens"}):
        tokenizer, encoder = build(tiny, **settings)
        encoded = encoder.encode(tokenizer.tokenize([]))
        assert encoded.vectors.shape == (0, 32)
        assert encoded.padded_tokens == 0


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [(Precision.FLOAT16, 0.9999), (Precision.BFLOAT16, 0.998)])
def test_half_precision(minilm: Path, precision: Precision, least: float) -> None:
    tokenizer, exact = build(minilm, max_tokens=64)
    tokens = tokenizer.tokenize(TEXTS)
    _, half = build(minilm, max_tokens=64, precision=precision)
    assert half.precision is precision
    vectors = half.encode(tokens).vectors
    cosine = (vectors * exact.encode(tokens).vectors).sum(axis=1)
    assert least <= cosine.min() < 1 - 1e-9, "as exact as float32: the precision was not taken"
    assert vectors.dtype == np.float32


class FullDevice:
    """Stands between the encoder and its forward pass: no memory above `limit` tokens."""

    def __init__(self, encoder: Encoder, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[int] = []
        self._embed, self._limit = encoder._embed, limit
        monkeypatch.setattr(encoder, "_embed", self)

    def __call__(self, tokens: TokenizedTexts, batch: np.ndarray) -> torch.Tensor:
        size = int(tokens.lengths[batch].sum())
        self.tried.append(size)
        if size > self._limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._embed(tokens, batch)


def test_out_of_memory_lowers_the_budget(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, encoder = build(tiny, batch_tokens=2000)
    tokens = sequences(120, 50)
    expected = encoder.encode(tokens).vectors
    device = FullDevice(encoder, 300, monkeypatch)
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode(tokens).vectors
    assert np.abs(vectors - expected).max() <= 1e-5
    assert sum(size > 300 for size in device.tried) <= 3, "every batch was tried at full size again"
    assert sum("out of memory" in record.message for record in caplog.records) == 1
    device.tried.clear()
    encoder.encode(tokens)
    assert max(device.tried) <= 300, "the lower budget was forgotten"


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_a_sequence_that_never_fits_is_nan(tiny: Path, monkeypatch: pytest.MonkeyPatch, pooling: str) -> None:
    _, encoder = build(tiny, batch_tokens=100, pooling=pooling)
    tokens = sequences(10, 50)  # the first has 50 tokens
    FullDevice(encoder, 49, monkeypatch)
    encoded = encoder.encode(tokens)
    rows = [encoded.vectors[0]] if pooling == "mean" else encoded.vectors[:50]
    lengths = tokens.lengths
    assert np.isnan(rows).all()
    finite = np.isfinite(encoded.vectors).all(axis=1)
    assert finite.sum() == ((lengths < 50).sum() if pooling == "mean" else lengths[lengths < 50].sum())


def test_other_device_errors_condemn_the_replica(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, encoder = build(tiny)

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand a long explanation")

    monkeypatch.setattr(encoder, "_embed", broken)
    monkeypatch.setattr(encoder, "_landing", Arrived)
    monkeypatch.setattr(encoder, "device", torch.device("cuda"))
    with pytest.raises(ReplicaError, match=r"^cuda: CUDA error: an illegal memory access was encountered$"):
        encoder.encode(sequences(3, 10))


class Landing:
    """A landing whose copies fail when they are waited for."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def send(self, *_: object) -> int:
        return 1

    def landed(self, _: int) -> bool:
        return False

    def land(self, _: int) -> None:
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert triggered"), torch.OutOfMemoryError("full")])
def test_an_error_that_cuda_tells_later_condemns_the_replica_as_well(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """CUDA is asynchronous: the error of a kernel surfaces at the next wait, which is behind the batch that caused it."""
    _, encoder = build(tiny)
    monkeypatch.setattr(encoder, "_landing", lambda: Landing(error))
    with pytest.raises(type(error)):
        encoder.encode(sequences(3, 10))
    monkeypatch.setattr(encoder, "device", torch.device("cuda"))
    monkeypatch.setattr(encoder, "_embed", lambda tokens, rows: torch.zeros(len(rows), 32))
    pending = encoder.submit(sequences(3, 10))
    assert not pending.done()
    with pytest.raises(ReplicaError, match=f"^cuda: {error}$"):
        pending.result()


@pytest.mark.parametrize("error", [TypeError("varlen_attn() got an unexpected keyword argument 'scale'"),
                                   AttributeError("module 'torch.nn.attention' has no attribute 'varlen'"),
                                   RuntimeError("no kernel image is available")])  # fmt: skip
def test_another_torch_is_told_in_words(tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def lacks(*_: object) -> None:
        raise error

    monkeypatch.setattr(SelfCheck, "choose_precision", lacks)
    with pytest.raises(ReplicaError) as told:
        build(tiny)
    assert str(told.value) == (
        f"cpu: the model could not be run there with torch {torch.__version__}: {type(error).__name__}: {error}"
    )


@pytest.mark.slow
def test_the_modules_around_the_model_end_on_the_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check computes on the CPU and on the device in turns, and the modules go along."""
    moves: dict[int, list[str]] = {}
    monkeypatch.setattr(Heads, "to", lambda self, device: moves.setdefault(id(self), []).append(device.type))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(SelfCheck, "_flaw", lambda *_: None)
    monkeypatch.setattr(SelfCheck, "_build", lambda self, way, precision: self._forward(way, precision, torch.device("cpu")))
    monkeypatch.setattr("workers.engine.encoder.recall", lambda *_: None)  # asks the device for its name
    for precision in ("float32", "float16"):
        _, encoder = build(tiny, precision=precision)
        assert encoder.device.type == "cuda"
        assert moves
        assert {places[-1] for places in moves.values()} == {"cuda"}
        moves.clear()


class Refuses:
    """A model that raises on every batch with one of these sequences of `tokens`."""

    def __init__(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tokens: TokenizedTexts, rows: set[int]) -> None:
        self._embed, self._tokens, self._rows = encoder._embed, tokens, rows
        monkeypatch.setattr(encoder, "_embed", self)

    def __call__(self, tokens: TokenizedTexts, batch: np.ndarray) -> torch.Tensor:
        if tokens is self._tokens and self._rows & set(batch.tolist()):
            raise IndexError("index out of range in self")
        return self._embed(tokens, batch)


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_a_sequence_that_the_model_refuses_is_nan_and_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, pooling: str, threads: int
) -> None:
    files, recipe = layout(tiny, pooling=pooling)
    options = EncoderOptions(Precision.FLOAT32, 200, threads=threads)
    encoder = Encoder(files, recipe, TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS), options)
    tokens = sequences(40, 50)
    expected = encoder.encode(tokens).vectors
    Refuses(encoder, monkeypatch, tokens, {7, 23})
    encoded = encoder.encode(tokens)
    assert dict(encoded.refused) == dict.fromkeys((7, 23), "the model refuses it: IndexError: index out of range in self")
    refused = np.isin(np.arange(40), (7, 23))
    lost = np.repeat(refused, tokens.lengths) if pooling == "tokens" else refused
    assert np.isnan(encoded.vectors[lost]).all()
    assert np.abs(encoded.vectors[~lost] - expected[~lost]).max() <= 1e-6


def test_a_model_that_refuses_everything_condemns_the_replica(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, encoder = build(tiny)

    def broken(*_: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(encoder, "_embed", broken)
    with pytest.raises(ReplicaError, match=r"^cpu: RuntimeError: could not create a primitive; texts .* fail as well$"):
        encoder.encode(sequences(3, 10))


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_an_id_that_the_model_does_not_know(tiny: Path, pooling: str) -> None:
    _, encoder = build(tiny, pooling=pooling)
    tokens = sequences(6, 20)
    expected = encoder.encode(tokens).vectors
    tokens.input_ids[tokens.offsets[2] + 1] = 30522
    encoded = encoder.encode(tokens)
    assert list(encoded.refused) == [2]
    assert encoded.refused[2].startswith("the tokenizer gives id 30522, the model knows 30522 tokens")
    lost = np.repeat(np.arange(6) == 2, tokens.lengths) if pooling == "tokens" else np.arange(6) == 2
    assert np.isnan(encoded.vectors[lost]).all()
    assert np.abs(encoded.vectors[~lost] - expected[~lost]).max() <= 1e-6


def test_a_sequence_without_tokens_is_nan(tiny: Path) -> None:
    _, encoder = build(tiny)
    tokens = sequences(3, 10)
    offsets = np.insert(tokens.offsets, 1, tokens.offsets[1])
    empty = replace(tokens, offsets=offsets, document=np.arange(4, dtype=np.int32), truncated=np.zeros(4, np.bool_))
    assert np.isnan(encoder.encode(empty).vectors).all(axis=1).tolist() == [False, True, False, False]


def test_tokenizer_of_another_model(minilm: Path, tmp_path: Path) -> None:
    folder = save_family(minilm, tmp_path / "model", transformers.BertConfig(**TINY | {"vocab_size": 2000}))
    with pytest.raises(UsageError, match="the model knows 2000 tokens"):
        build(folder)


def change_weights(minilm: Path, target: Path, drop: str) -> Path:
    folder = copy_model(minilm, target)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(
        {name: weight for name, weight in weights.items() if drop not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def test_missing_weights_are_never_random(minilm: Path, tmp_path: Path) -> None:
    folder = change_weights(minilm, tmp_path / "model", "layer.3.output.dense.weight")
    with pytest.raises(UsageError, match=r"lacks 1 weights.*layer\.3\.output\.dense\.weight"):
        build(folder)


@pytest.mark.slow
def test_a_missing_pooler_matters_only_to_pooler(minilm: Path, tmp_path: Path) -> None:
    folder = change_weights(minilm, tmp_path / "model", "pooler")
    tokenizer, encoder = build(folder)
    _, whole = build(minilm)
    tokens = tokenizer.tokenize(TEXTS[:2])
    assert np.array_equal(encoder.encode(tokens).vectors, whole.encode(tokens).vectors)
    with pytest.raises(UsageError, match="no pooler weights"):
        layout(folder, pooling="pooler")


def test_weights_of_another_shape(minilm: Path, tmp_path: Path) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    edit_json(folder / "config.json", intermediate_size=1000)
    with pytest.raises(UsageError, match="transformers cannot load it"):
        build(folder)


def test_damaged_weights(minilm: Path, tmp_path: Path) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(data[:-1000])
    with pytest.raises(UsageError, match="fetch the model again"):
        build(folder)


def test_unknown_architecture(minilm: Path, tmp_path: Path) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    edit_json(folder / "config.json", model_type="brontosaurus")
    with pytest.raises(UsageError, match="brontosaurus"):
        build(folder)


@pytest.mark.slow
def test_loading_is_silent(minilm: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar, no load report, no warning: a job's log is for the job."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(minilm)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_threads(tiny: Path) -> None:
    before = torch.get_num_threads()
    try:
        build(tiny)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.FLOAT32])
def test_cuda_agrees_with_cpu(minilm: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    tokenizer, cuda = build(minilm, precision=precision)
    tokens = tokenizer.tokenize(TEXTS)
    assert cuda.device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, exact = build(minilm)
    cosine = (cuda.encode(tokens).vectors * exact.encode(tokens).vectors).sum(axis=1)
    assert cosine.min() >= (0.9999 if precision is Precision.AUTO else 0.999999)
    assert cuda.precision is (Precision.FLOAT16 if precision is Precision.AUTO else Precision.FLOAT32)
    assert cuda.way == ("packed" if precision is Precision.AUTO else "padded")


def test_every_pooling_has_an_implementation() -> None:
    from workers.engine.pooling import _POOLINGS

    assert set(_POOLINGS) == set(Pooling) - {Pooling.AUTO, Pooling.SPARSE} - BY_TOKEN
