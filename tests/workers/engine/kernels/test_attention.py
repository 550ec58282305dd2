"""Packed attention against softmax attention written out in float64, one sequence at a time.

`stand_in` takes the place of torch's varlen kernel, which only CUDA has: what `varlen` hands over must mean the same to it.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.families import of_lengths, random_model
from workers.engine.kernels import attention
from workers.engine.kernels.attention import SCORE_UNIT, by_runs, fused_attention, softmax_free, varlen
from workers.engine.kernels.packing import PackedBatch, pack
from workers.engine.kernels.relative import RelativeBias
from workers.engine.ways.packed import Packed
from workers.engine.ways.padded import Padded

MIXED = [61, 40, 40, 40, 33, 17, 16, 16, 9, 8, 2, 1, 1]
HEADS, SIZE = 3, 16


def packed_of(lengths: list[int]) -> PackedBatch:
    return pack(of_lengths(np.array(lengths)), np.arange(len(lengths)), torch.device("cpu"))


def random_states(rows: int, dtype: torch.dtype = torch.float32, reach: float = 1.0) -> Tensor:
    """[rows, 3, H, d] queries, keys and values."""
    states = torch.randn(rows, 3, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    return (states * reach).to(dtype)


def naive(
    qkv_T3Hd: Tensor | tuple[Tensor, Tensor, Tensor], offsets: list[int], scale: float, sees: Any = None, bias: Any = None
) -> Tensor:
    """[T, H, d] in float64; `sees(i, j)` says which positions see each other, `bias(i, j)` [H, L, L] is added to scores."""
    states = qkv_T3Hd.unbind(1) if isinstance(qkv_T3Hd, Tensor) else qkv_T3Hd
    heads = states[0].shape[1]  # of queries; adjacent ones share a head of keys and values
    query, key, value = (part.double().repeat_interleave(heads // part.shape[1], dim=1) for part in states)
    out = torch.zeros_like(query)
    for start, stop in pairwise(offsets):
        scores = torch.einsum("ihd,jhd->hij", query[start:stop], key[start:stop]) * scale
        places = torch.arange(stop - start)
        if bias is not None:
            scores = scores + bias(places[:, None], places)
        if sees is not None:
            scores = scores.masked_fill(~sees(places[:, None], places), float("-inf"))
        out[start:stop] = torch.einsum("hij,jhd->ihd", scores.softmax(-1), value[start:stop])
    return out


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative, in L2."""
    return float((found.double() - expected).norm() / expected.norm())


class StandIn:
    """aten::_flash_attention_forward written out: its arguments, and what FlashAttention-2's interface says of them."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, int]] = []

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, cum_seq_q: Tensor, cum_seq_k: Tensor, max_q: int, max_k: int,
        dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float, window_size_left: int,
        window_size_right: int,
    ) -> tuple[Tensor]:  # fmt: skip
        """Position i sees i - left .. i + right; -1: no bound on that side. Query heads share the heads of keys in order."""
        assert cum_seq_q.dtype == cum_seq_k.dtype == torch.int32
        assert cum_seq_q.tolist() == cum_seq_k.tolist()
        lengths = cum_seq_q.diff()
        assert max_q == max_k == int(lengths.max())
        assert cum_seq_q[0] == 0
        assert cum_seq_q[-1] == len(query) == len(key) == len(value)
        assert (dropout_p, is_causal, return_debug_mask) == (0.0, False, False)
        assert query.shape[1] % key.shape[1] == 0
        self.windows.append((window_size_left, window_size_right))
        left, right = (side if side >= 0 else 1 << 30 for side in self.windows[-1])
        attended = naive((query, key, value), cum_seq_q.tolist(), scale, lambda i, j: (j >= i - left) & (j <= i + right))
        return (attended.to(query.dtype),)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    kernel = StandIn()
    monkeypatch.setattr(attention, "_FLASH", kernel)
    return kernel


BIAS = 2 * torch.randn(HEADS, 2 * 20 + 1, generator=torch.Generator().manual_seed(4))


def by_distance(query: Tensor, key: Tensor) -> Tensor:
    return BIAS.double()[:, (key - query).clamp(-20, 20) + 20]


ON_CPUS = pytest.mark.parametrize(
    ("attend", "dtype", "most"),
    [(fused_attention, torch.float32, 1e-6), (fused_attention, torch.bfloat16, 2e-2), (softmax_free, torch.bfloat16, 2e-2)],
    ids=["fused float32", "fused bfloat16", "softmax free"],
)


@ON_CPUS
def test_a_bias_by_distance(attend: Any, dtype: torch.dtype, most: float) -> None:
    batch = packed_of(MIXED)
    states = random_states(batch.tokens, dtype)
    expected = naive(states, batch.offsets_B1.tolist(), SCORE_UNIT, bias=by_distance)
    found = attend(states, batch, RelativeBias(BIAS))
    assert distance(found.view_as(expected), expected) <= most
    assert distance(attend(states, batch).view_as(expected), expected) > 0.1


@ON_CPUS
def test_a_window_of_fused_layers(attend: Any, dtype: torch.dtype, most: float) -> None:
    batch = packed_of(MIXED)
    states = random_states(batch.tokens, dtype)
    expected = naive(states, batch.offsets_B1.tolist(), SCORE_UNIT, lambda i, j: (i - j).abs() < 5)
    found = attend(states, batch, RelativeBias.of_window(HEADS, 5))
    assert distance(found.view_as(expected), expected) <= most


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize(("window", "sides"), [(None, (-1, -1)), (1, (0, 0)), (9, (8, 8)), (100, (99, 99))])
@pytest.mark.parametrize("groups", [1, 3])
def test_grouped_heads_windows_and_causality(
    stand_in: StandIn, groups: int, window: int | None, sides: tuple[int, int], causal: bool
) -> None:
    batch = packed_of([61, 17, 17, 5, 1])
    query = torch.randn(batch.tokens, 2 * groups, SIZE, generator=torch.Generator().manual_seed(1))
    key, value = torch.randn(2, batch.tokens, 2, SIZE, generator=torch.Generator().manual_seed(2))

    def sees(i: Tensor, j: Tensor) -> Tensor:
        return ((i - j).abs() < (window or 1000)) & ((j <= i) if causal else (j < 1000))

    expected = naive((query, key, value), batch.offsets_B1.tolist(), 0.3, sees)
    assert (by_runs(query, key, value, batch, 0.3, window, causal=causal).view_as(expected) - expected).abs().max() <= 1e-5
    assert (varlen(query, key, value, batch, 0.3, window, causal=causal) - expected).abs().max() <= 1e-5
    assert stand_in.windows == [(sides[0], 0 if causal else sides[1])]


@pytest.mark.parametrize("window", [None, 1, 9, 16, 17, 100])
def test_by_runs_is_softmax_attention_of_each_sequence(window: int | None) -> None:
    batch = packed_of(MIXED)
    states = random_states(batch.tokens)
    found = by_runs(*states.unbind(1), batch, 0.3, window)  # type: ignore[misc]
    sees = None if window is None else lambda i, j: (i - j).abs() < window
    expected = naive(states, batch.offsets_B1.tolist(), 0.3, sees)
    assert (found.view_as(expected).double() - expected).abs().max() <= 1e-6


def test_by_runs_into_rows_given() -> None:
    batch = packed_of(MIXED)
    states = random_states(batch.tokens)
    out = torch.full((batch.tokens + 5, HEADS * SIZE), 7.0)
    attention._write_by_runs(out, states.unbind(1), batch, 1.0)  # type: ignore[arg-type]
    assert torch.equal(out[: batch.tokens], by_runs(*states.unbind(1), batch, 1.0).view(batch.tokens, -1))  # type: ignore[misc]
    assert (out[batch.tokens :] == 7).all()


@pytest.mark.parametrize("lengths", [MIXED, [24] * 40, [7, 90, 1, 30, 31, 30], [500, 300, 299]], ids=str)
def test_softmax_free_is_softmax_attention(lengths: list[int]) -> None:
    batch = packed_of(lengths)
    states = random_states(batch.tokens + 11, torch.bfloat16, 1.5)
    states[batch.tokens :] = float("nan")  # rows behind the last sequence hold anything
    found = softmax_free(states, batch)
    expected = naive(states[: batch.tokens], batch.offsets_B1.tolist(), SCORE_UNIT)
    assert found.shape == (batch.tokens + 11, HEADS * SIZE)
    assert distance(found[: batch.tokens].view_as(expected), expected) <= 2e-2
    assert (found[batch.tokens :] == 0).all()


def lifted(batch: PackedBatch, rise: float, reach: float) -> Tensor:
    """States whose scores are all lifted by the same amount: softmax does not see it, exp does. Values `reach` far."""
    states = random_states(batch.tokens, torch.bfloat16)
    states[:, 2] *= reach
    states[:, 0, :, 0], states[:, 1, :, 0] = rise / SCORE_UNIT, 1.0
    states[:, 0, :, 1:] *= 0.5
    return states


@pytest.mark.parametrize("rise", [-300.0, -150.0, -100.0, 100.0, 150.0, 300.0])
@pytest.mark.parametrize("reach", [1.0, 30.0])
def test_scores_out_of_reach_go_the_other_way(rise: float, reach: float) -> None:
    batch = packed_of(MIXED)
    states = lifted(batch, rise, reach)
    found = softmax_free(states, batch)
    expected = naive(states, batch.offsets_B1.tolist(), SCORE_UNIT)
    assert torch.isfinite(found).all()
    assert distance(found.view_as(expected), expected) <= 2e-2


@pytest.mark.parametrize("rise", [-92.0, -90.0, -88.0, -86.0, -84.0, -40.0, 40.0, 78.0, 80.0, 82.0, 84.0, 86.0, 88.0])
@pytest.mark.parametrize("reach", [1.0, 100.0])
@pytest.mark.parametrize("lengths", [[8] * 4, [40, 38, 16, 3, 1]], ids=str)
def test_scores_at_the_border(rise: float, reach: float, lengths: list[int]) -> None:
    """Just about what exp can hold: right, by whichever way. A score itself has the precision of bfloat16, no more."""
    batch = packed_of(lengths)
    states = lifted(batch, rise, reach)
    found = softmax_free(states, batch)
    expected = naive(states, batch.offsets_B1.tolist(), SCORE_UNIT)
    assert torch.isfinite(found).all()
    assert distance(found.view_as(expected), expected) <= abs(rise) / 2**9


def test_one_wild_sequence_harms_no_other() -> None:
    batch = packed_of([40, 40, 12, 12])
    states = random_states(batch.tokens, torch.bfloat16)
    states[80:92, :2] *= 30
    found = softmax_free(states, batch)
    expected = naive(states, batch.offsets_B1.tolist(), SCORE_UNIT)
    assert distance(found[:80].view_as(expected[:80]), expected[:80]) <= 2e-2
    assert distance(found.view_as(expected), expected) <= 2e-2


def test_fused_attention_in_float32_is_exact() -> None:
    batch = packed_of(MIXED)
    states = random_states(batch.tokens + 3)
    found = fused_attention(states, batch)
    expected = naive(states[: batch.tokens], batch.offsets_B1.tolist(), SCORE_UNIT)
    assert (found[: batch.tokens].view_as(expected).double() - expected).abs().max() <= 1e-5
    assert (found[batch.tokens :] == 0).all()


@pytest.mark.parametrize(("window", "sides"), [(None, (-1, -1)), (1, (0, 0)), (9, (8, 8)), (100, (99, 99))])
def test_varlen_tells_the_kernel_what_by_runs_does(stand_in: StandIn, window: int | None, sides: tuple[int, int]) -> None:
    batch = packed_of([5, 61, 1, 17, 17])  # in no order: the longest is not the first
    states = random_states(batch.tokens)
    found = varlen(*states.unbind(1), batch, 0.3, window)  # type: ignore[misc]
    expected = by_runs(*states.unbind(1), batch, 0.3, window)  # type: ignore[misc]
    assert stand_in.windows == [sides]
    assert (found - expected.view_as(found)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("family", "windows"), [("Bert", {(-1, -1)}), ("Albert", {(-1, -1)}), ("ModernBert", {(-1, -1), (8, 8)})]
)
@torch.inference_mode()
def test_a_model_on_varlen_is_the_padded_one(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, family: str, windows: set[tuple[int, int]]
) -> None:
    model, batch = random_model(family), packed_of(MIXED)
    expected = Padded(copy.deepcopy(model))(batch, layers=0).last_TH
    monkeypatch.setattr(attention, "by_runs", varlen)
    found = Packed(model)(batch, layers=0).last_TH
    assert set(stand_in.windows) == windows
    assert len(stand_in.windows) == model.config.num_hidden_layers
    assert (found - expected).abs().max() <= 1e-5
