"""The compiled way: one graph for batches of all sizes, and the states of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.families import of_lengths, random_model
from workers.engine.kernels import attention
from workers.engine.kernels.packing import pack
from workers.engine.ways.compiled import Compiled
from workers.engine.ways.packed import Packed
from workers.engine.ways.padded import Padded

CPU = torch.device("cpu")


def dense(
    query_THd: Tensor, key_THd: Tensor, value_THd: Tensor, cumulative_B1: Tensor, _: int, scale: float, window: int | None,
    *, causal: bool,
) -> Tensor:  # fmt: skip
    """What torch's kernel computes on CUDA, with a mask over all pairs of tokens."""
    assert not causal
    places = torch.arange(query_THd.shape[0])
    owner = torch.bucketize(places, cumulative_B1[1:], right=True)
    mask = owner[:, None] == owner
    if window is not None:
        mask = mask & ((places[:, None] - places).abs() < window)
    states = (item.transpose(0, 1) for item in (query_THd, key_THd, value_THd))
    return torch.nn.functional.scaled_dot_product_attention(*states, mask, scale=scale).transpose(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Bert", "ModernBert"])
def test_the_same_states_as_transformers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, not compiled: the compiler's own back end needs CUDA here."""
    monkeypatch.setattr(attention, "flash", dense)
    torch._dynamo.reset()
    graphs = []

    def eager(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    forward = Compiled(random_model(family), backend=eager)
    with torch.inference_mode():
        for lengths in ((9, 5, 1), (40, 3), (17, 17, 16, 2)):
            tokens = of_lengths(np.array(lengths))
            batch = pack(tokens, np.arange(len(lengths)), CPU)
            expected = Padded(random_model(family))(batch, layers=0).last_TH
            assert (forward(batch, layers=0).last_TH - expected).abs().max() <= 1e-5
    assert len(graphs) == 1, "compiled again for another batch"


def test_on_a_cpu_it_is_packed() -> None:
    batch = pack(of_lengths(np.array([9, 4])), np.arange(2), CPU)
    with torch.inference_mode():
        found, expected = (way(random_model("Bert"))(batch, layers=4) for way in (Compiled, Packed))
    assert torch.equal(found.last_TH, expected.last_TH)
    assert len(found.layers) == 4
