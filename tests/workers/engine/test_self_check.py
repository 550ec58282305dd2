"""The self-check: ways that mix sequences and devices that compute wrongly are detected before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.families import FAMILIES, random_model, save_family, sequences
from tests.workers.models import TEXTS, build
from workers.config import Precision
from workers.engine import self_check, trial
from workers.engine.batches.plan import Layout, plan_batches
from workers.engine.bert import layers
from workers.engine.checkpoint import Checkpoint
from workers.engine.encoder import Encoder
from workers.engine.kernels import attention
from workers.engine.kernels.attention import by_runs
from workers.engine.kernels.packing import EqualRun, PackedBatch, pack
from workers.engine.self_check import SelfCheck
from workers.engine.trial import Choice
from workers.engine.ways.interface import Forward, States
from workers.engine.ways.supported import fuses_bfloat16
from workers.errors import PrecisionRefused, ReplicaError, UsageError
from workers.records.tokens import TokenizedTexts
from workers.table.vectors import cosines

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
GOLDEN = sequences(16, 40)


@torch.inference_mode()
def mean_vectors(forward: Forward, golden: TokenizedTexts, device: torch.device) -> np.ndarray:
    """All in one batch where the way's layout allows it."""
    vectors = np.empty((len(golden.lengths), 32), np.float32)
    together = forward.layout if forward.layout in (Layout.EQUAL, Layout.SINGLE) else Layout.PACKED
    for rows in plan_batches(golden.lengths, len(golden.input_ids), together):
        batch = pack(golden, rows, device)
        states_TH = forward(batch, layers=0).last_TH.float()
        pooled = torch.segment_reduce(states_TH, "mean", lengths=torch.from_numpy(batch.lengths_B), axis=0)
        vectors[rows] = pooled.numpy()
    return vectors


def choose(
    model: Any, wanted: Precision, *, with_pooler: bool = False, known: tuple[str, ...] = ()
) -> tuple[Precision, Forward]:
    checkpoint = Checkpoint.of(model)
    checkpoint.with_pooler = with_pooler
    return SelfCheck(checkpoint, GOLDEN, wanted, CPU, mean_vectors, known=known).choose_precision()


class Wrong:
    """A device that is a little off: `harm` is done to its hidden states."""

    def __init__(self, forward: Forward, harm: Callable[[Tensor], Tensor]) -> None:
        self._forward, self._harm = forward, harm
        self.name, self.layout = forward.name, forward.layout

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        return States(self._harm(self._forward(batch, layers=layers).last_TH))


def noise(states_TH: Tensor) -> Tensor:
    return states_TH + 0.3 * torch.randn(states_TH.shape, generator=torch.Generator().manual_seed(2))


def stuck_bit(states_TH: Tensor) -> Tensor:
    """One component of every token with the wrong sign."""
    return torch.cat([-states_TH[:, :1], states_TH[:, 1:]], 1)


def break_device(
    monkeypatch: pytest.MonkeyPatch, harm: Callable[[Tensor], Tensor], only: tuple[Precision, ...] = tuple(Precision)
) -> None:
    """From the check of the structure on, which is computed on the CPU in float32."""
    whole = SelfCheck._build

    def built(self: SelfCheck, way: Any, precision: Precision) -> Any:
        forward = whole(self, way, precision)
        return Wrong(forward, harm) if precision in only else forward

    monkeypatch.setattr(SelfCheck, "_build", built)


def all_see_all(*states: Any, **named: Any) -> Tensor:
    """by_runs over the batch as if it were one sequence."""
    query, key, value, packed, *rest = states
    one = PackedBatch(packed.ids_T, packed.positions_T, np.array([len(query)]), np.array([0, len(query)]), packed.ids_T)
    assert one.runs == (EqualRun(0, len(query), 1, len(query)),)
    return by_runs(query, key, value, one, *rest, **named)


def all_see_all_fused(qkv_T3Hd: Tensor, packed: PackedBatch, _bias: None) -> Tensor:
    out = qkv_T3Hd.new_zeros(len(qkv_T3Hd), qkv_T3Hd[0, 0].numel())
    out[: packed.tokens] = all_see_all(*qkv_T3Hd[: packed.tokens].unbind(1), packed, 1.0).view(packed.tokens, -1)
    return out


@pytest.mark.parametrize(
    ("family", "broken", "way"),
    [
        ("Bert", (), "fused float32"),
        ("Bert", ("fused",), "packed"),
        ("Bert", ("fused", "packed"), "padded"),
        ("ModernBert", (), "fused float32"),
        ("Albert", (), "packed"),
        ("Albert", ("packed",), "padded"),
    ],
)
def test_sequences_that_see_each_other_are_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, family: str, broken: tuple[str, ...], way: str
) -> None:
    if "fused" in broken:
        monkeypatch.setattr(layers, "fused_attention", all_see_all_fused)
    if "packed" in broken:
        monkeypatch.setattr(attention, "by_runs", all_see_all)
    with caplog.at_level(logging.INFO, "workers.engine.self_check"):
        precision, forward = choose(random_model(family), Precision.FLOAT32)
    assert (precision, forward.name) == (Precision.FLOAT32, way)
    assert sum("differs by" in record.message for record in caplog.records) == len(broken)


def test_a_way_that_raises_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(layers, "fused_attention", broken)
    assert choose(random_model("Bert"), Precision.FLOAT32)[1].name == "packed"


class Leaks(torch.nn.Module):
    """A model in which the tokens of a row see its padding: the mean over all positions is added to each."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any) -> Any:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **settings)
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(dim=1, keepdim=True)
        return output

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()


def test_padding_that_leaks_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "workers.engine.self_check"):
        _, forward = choose(Leaks(random_model("DebertaV2")), Precision.FLOAT32)
    assert (forward.name, forward.layout) == ("equal lengths", Layout.EQUAL)
    assert "Leaks run padded differs by" in caplog.text


class Random(Leaks):
    """A model that gives the same text another vector every time."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any) -> Any:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **settings)
        output.last_hidden_state = output.last_hidden_state * torch.rand(output.last_hidden_state.shape[-1])
        return output


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Random gives the same text another vector when it is asked again"):
        choose(Random(random_model("DebertaV2")), Precision.FLOAT32)


class NeedsMore(Leaks):
    def forward(self, input_ids: Tensor, bbox: Tensor | None = None, **settings: Any) -> Any:
        raise ValueError("You have to specify bbox")


def test_a_model_that_needs_more_than_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"NeedsMore does not embed a text by itself \(ValueError: You have to"):
        choose(NeedsMore(random_model("DebertaV2")), Precision.AUTO)


@pytest.mark.parametrize(("family", "way"), [("Bert", "fused float32"), ("Albert", "packed"), ("DistilBert", "padded")])
def test_the_models_own_head_needs_no_padding(family: str, way: str) -> None:
    """DistilBERT has none; such a model is refused before, and here no way without padding is built."""
    assert choose(random_model(family), Precision.FLOAT32, with_pooler=True)[1].name == way


@pytest.mark.parametrize("harm", [noise, stuck_bit])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16, Precision.FLOAT16])
def test_a_device_that_computes_wrongly_is_refused(
    monkeypatch: pytest.MonkeyPatch, harm: Callable[[Tensor], Tensor], precision: Precision
) -> None:
    break_device(monkeypatch, harm)
    with pytest.raises(ReplicaError, match=rf"^cpu, .*golden texts in {precision.value} have cosines of .*computes wrongly"):
        choose(random_model("Bert"), precision)


def test_one_flipped_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the structure is known from an earlier process."""
    whole = SelfCheck._build

    def built(self: SelfCheck, way: Any, precision: Precision) -> Any:
        forward = whole(self, way, precision)
        weight = forward._model.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight  # type: ignore[union-attr]
        weight.data[3, 5] = weight.data[3, 5] * 2**8  # one bit of the exponent
        return forward

    assert choose(random_model("Albert"), Precision.FLOAT32)[1].name == "packed"
    monkeypatch.setattr(SelfCheck, "_build", built)
    with pytest.raises(ReplicaError, match=r"^cpu, packed: golden texts in float32"):
        choose(random_model("Albert"), Precision.FLOAT32, known=("packed",))


def test_auto_takes_the_next_precision_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(self_check, "_computes_bfloat16", lambda: True)
    monkeypatch.setattr(self_check, "fastest", lambda proved, *_: proved[0])  # of so small a model no way is faster
    assert choose(random_model("Bert"), Precision.AUTO)[0] is Precision.BFLOAT16
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    break_device(monkeypatch, noise, (Precision.BFLOAT16,))
    precision, forward = choose(random_model("Bert"), Precision.AUTO)
    assert (precision, forward.name) == (Precision.FLOAT32, "fused float32")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("cpu, fused bfloat16: golden texts in bfloat16 have cosines of")
    assert warnings[0].endswith("; working in float32")


class NoHalf(Leaks):
    """As FNet on a CPU, whose Fourier transforms have no bfloat16."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any) -> Any:
        if next(self.parameters()).dtype is torch.bfloat16:
            raise RuntimeError("Unsupported dtype BFloat16")
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **settings)


def test_auto_takes_the_next_precision_where_one_cannot_be_computed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(self_check, "_computes_bfloat16", lambda: True)
    assert choose(NoHalf(random_model("DebertaV2")), Precision.AUTO)[0] is Precision.FLOAT32
    assert "cpu, padded: cannot be computed in bfloat16: Unsupported dtype BFloat16; working in float32" in caplog.text
    with pytest.raises(PrecisionRefused, match="cannot be computed in bfloat16"):
        choose(NoHalf(random_model("DebertaV2")), Precision.BFLOAT16)


def test_the_device_is_the_last_that_is_used() -> None:
    """The modules around the model follow each call of `embed`: the reference, made here on the CPU, must not come last."""
    devices = []

    def embed(forward: Forward, golden: TokenizedTexts, device: torch.device) -> np.ndarray:
        devices.append(device.type)
        return np.ones((len(golden.lengths), 4), np.float32)

    checkpoint = Checkpoint.of(random_model("DebertaV2"))
    SelfCheck(checkpoint, GOLDEN, Precision.FLOAT32, torch.device("meta"), embed).choose_precision()
    assert devices[0] == "cpu"
    assert devices[-1] == "meta"


def test_auto_refuses_where_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "_computes_bfloat16", lambda: True)
    break_device(monkeypatch, noise)
    with pytest.raises(ReplicaError, match=r"golden texts in bfloat16 .*; cpu, fused float32: golden texts in float32"):
        choose(random_model("Bert"), Precision.AUTO)


def test_overflow_in_float16_falls_to_bfloat16(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What a GPU would try, here: inside the feed-forward network numbers go beyond 65504, and come back."""
    as_on_cuda = (Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT32)
    monkeypatch.setattr(self_check, "candidates", lambda *_, **__: as_on_cuda)
    monkeypatch.setattr(self_check, "fastest", lambda proved, *_: proved[0])
    assert choose(random_model("Bert"), Precision.AUTO)[0] is Precision.FLOAT16
    model = random_model("Bert")
    with torch.no_grad():
        model.encoder.layer[1].intermediate.dense.weight *= 2.0**18
        model.encoder.layer[1].output.dense.weight *= 2.0**-18
    precision, forward = choose(model, Precision.AUTO)
    assert (precision, forward.name) == (Precision.BFLOAT16, "fused bfloat16")
    assert "gave no finite vector in float16; working in bfloat16" in caplog.text


def test_int8_of_a_family_without_8_bit_products(minilm: Path, tmp_path: Path) -> None:
    folder = save_family(minilm, tmp_path / "albert", FAMILIES["Albert"])
    with pytest.raises(UsageError, match=r"model\.precision=int8: only BERT.*use auto"):
        build(folder, precision="int8")


@pytest.fixture(scope="module")
def exact(minilm: Path) -> tuple[Encoder, TokenizedTexts]:
    tokenizer, encoder = build(minilm, max_tokens=64)
    return encoder, tokenizer.tokenize(TEXTS)


def test_int8_vectors(minilm: Path, exact: tuple[Encoder, TokenizedTexts]) -> None:
    reference, tokens = exact
    _, encoder = build(minilm, precision="int8", max_tokens=64)
    assert (encoder.precision, encoder.way) == (Precision.INT8, "fused int8")
    vectors = encoder.encode(tokens).vectors
    cosine = cosines(vectors, reference.encode(tokens).vectors)
    assert cosine.mean() >= 0.99
    assert cosine.max() < 1 - 1e-6, "as exact as float32: nothing was rounded"
    assert encoder.encode(tokens).vectors.tobytes() == vectors.tobytes()
    _, again = build(minilm, precision="int8", max_tokens=64)
    assert again.encode(tokens).vectors.tobytes() == vectors.tobytes()
    assert threads_matter(again, tokens) <= 1e-6


def threads_matter(encoder: Encoder, tokens: TokenizedTexts) -> float:
    """Largest difference of a component between one thread and two."""
    before, vectors = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            vectors.append(encoder.encode(tokens).vectors)
    finally:
        torch.set_num_threads(before)
    return float(np.abs(vectors[0] - vectors[1]).max())


def test_the_number_of_threads_does_not_matter(minilm: Path, exact: tuple[Encoder, TokenizedTexts]) -> None:
    reference, tokens = exact
    assert threads_matter(reference, tokens) <= 1e-6
    assert threads_matter(build(minilm, precision="bfloat16", max_tokens=64)[1], tokens) <= 1e-6


def choose_between(
    monkeypatch: pytest.MonkeyPatch, preferred: Choice | None, *, slow: Precision | None = None
) -> tuple[Precision, Forward, list[str], bool]:
    """(precision, way, ways built for the device, whether a trial decided), with bfloat16 and float32 both possible."""
    built: list[str] = []
    whole = SelfCheck._build

    def build(check: SelfCheck, way: Any, precision: Precision) -> Forward:
        forward = whole(check, way, precision)
        built.append(forward.name)
        return forward

    def timed(forward: Forward, batch: PackedBatch, _device: torch.device) -> float:
        forward(batch, layers=0)
        return 2.0 if slow is not None and forward.name.endswith(slow.value) else 1.0  # whatever this machine takes

    monkeypatch.setattr(SelfCheck, "_build", build)
    monkeypatch.setattr(trial, "_timed", timed)
    check = SelfCheck(Checkpoint.of(random_model("Bert")), GOLDEN, Precision.AUTO, CPU, mean_vectors, preferred=preferred)
    return *check.choose_precision(), built, check.tried


needs_bfloat16 = pytest.mark.skipif(not fuses_bfloat16(), reason="oneDNN has no bfloat16 products here")


@needs_bfloat16
@pytest.mark.parametrize(
    ("slow", "found"), [(Precision.BFLOAT16, Precision.FLOAT32), (Precision.FLOAT32, Precision.BFLOAT16)]
)
def test_the_faster_precision_is_taken(monkeypatch: pytest.MonkeyPatch, slow: Precision, found: Precision) -> None:
    precision, forward, built, tried = choose_between(monkeypatch, None, slow=slow)
    assert (precision, forward.name) == (found, f"fused {found.value}")
    assert built == ["fused bfloat16", "fused float32"]
    assert tried


@needs_bfloat16
@pytest.mark.parametrize("settled", [Precision.BFLOAT16, Precision.FLOAT32])
def test_a_settled_way_is_taken_without_a_trial(monkeypatch: pytest.MonkeyPatch, settled: Precision) -> None:
    name = f"fused {settled.value}"
    assert choose_between(monkeypatch, Choice(settled, name), slow=settled)[0] is settled
    _, forward, built, tried = choose_between(monkeypatch, Choice(settled, name))
    assert (forward.name, tried) == (name, False)
    assert set(built) == {name}


@needs_bfloat16
def test_a_settled_way_that_is_not_possible_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    precision, forward, _, tried = choose_between(
        monkeypatch, Choice(Precision.FLOAT16, "fused cuda"), slow=Precision.FLOAT32
    )
    assert (precision, forward.name, tried) == (Precision.BFLOAT16, "fused bfloat16", True)
