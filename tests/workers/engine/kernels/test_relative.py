"""MPNet's bias by distance against transformers' own, for every length."""

from __future__ import annotations

import pytest
import torch

from tests.workers.families import random_model
from workers.engine.bert.facts import facts_of
from workers.engine.bert.weights import read_weights
from workers.engine.checkpoint import Checkpoint
from workers.engine.kernels.relative import RelativeBias


@torch.inference_mode()
def test_mpnet_adds_what_transformers_adds() -> None:
    model = random_model("MPNet")
    weights = Checkpoint.of(model).bert()
    assert weights is not None
    assert weights.bias is not None
    assert all(layer.bias is weights.bias for layer in weights.layers)
    for length in (1, 8, 130, 700, 5):  # distances are ranges from 8 on, and one range from 128 on
        expected = model.encoder.compute_position_bias(torch.empty(1, length, 32))[0]
        assert torch.equal(weights.bias.square(length, expected), expected)


def test_a_square_in_any_type_and_unit() -> None:
    bias = RelativeBias(torch.tensor([[1.0, 2.0, 4.0]]))
    assert bias.square(3, torch.empty(0)).tolist() == [[[2.0, 4.0, 4.0], [1.0, 2.0, 4.0], [1.0, 1.0, 2.0]]]
    halves = bias.square(2, torch.empty(0, dtype=torch.bfloat16), 0.5)
    assert (halves.dtype, halves.tolist()) == (torch.bfloat16, [[[4.0, 8.0], [2.0, 4.0]]])


def test_other_mpnets_are_not_read() -> None:
    model = random_model("MPNet")
    config = model.config.to_dict() | {"model_type": "mpnet"}
    facts = facts_of(config)
    assert facts is not None
    assert facts_of(config | {"pad_token_id": 0}) is None, "transformers numbers positions by 1, whatever is configured"
    state = dict(model.state_dict())
    state["encoder.relative_attention_bias.weight"] = torch.zeros(16, 4)
    with pytest.raises(ValueError, match="16 buckets"):
        read_weights(state, facts)


def test_a_window_is_a_bias() -> None:
    square = RelativeBias.of_window(3, 2).square(4, torch.empty(0))
    far = -torch.inf
    assert square.tolist() == [[[0, 0, far, far], [0, 0, 0, far], [far, 0, 0, 0], [far, far, 0, 0]]]
