"""What is known of BERT-like models without their weights: facts of config.json, and the names of tensors. No torch.

facts_of(config)   facts from config.json; None for other models, or if a fact is missing
FAMILIES           model_type -> where a checkpoint has the layers, and how it names their modules
stored_name        the name under which a checkpoint holds a tensor
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from workers.model.architecture import OFFSET_POSITIONS, first_position, uncounted

_BERT = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "output_norm": "output.LayerNorm",
}  # fmt: skip
_DISTILBERT = {
    "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin", "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "output_norm": "output_layer_norm",
}  # fmt: skip
_MPNET = _BERT | {
    "query": "attention.attn.q", "key": "attention.attn.k", "value": "attention.attn.v", "out": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}  # fmt: skip
FAMILIES = {  # model_type -> path of the layers, names of their modules, prefix in checkpoints with a head
    "bert": ("encoder.layer", _BERT, "bert."), "roberta": ("encoder.layer", _BERT, "roberta."),
    "xlm-roberta": ("encoder.layer", _BERT, "roberta."), "camembert": ("encoder.layer", _BERT, "roberta."),
    "electra": ("encoder.layer", _BERT, "electra."), "distilbert": ("transformer.layer", _DISTILBERT, "distilbert."),
    "mpnet": ("encoder.layer", _MPNET, "mpnet."),
}  # fmt: skip
_ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
UNTYPED = ("distilbert", "mpnet")  # without token types
_DISTILBERT_EPS = 1e-12  # DistilBERT's config.json has no setting for it


@dataclass(frozen=True, slots=True)
class BertFacts:
    """What is needed beside the weights."""

    family: str
    layers: int
    heads: int
    activation: str
    eps: float
    first_position: int
    uncounted: int | None


def facts_of(config: Mapping[str, Any]) -> BertFacts | None:
    """The facts in config.json; None for other families, variants (decoder, relative positions) and missing facts."""
    family = str(config.get("model_type"))
    distil = family == "distilbert"
    names = ("n_layers", "n_heads", "activation") if distil else ("num_hidden_layers", "num_attention_heads", "hidden_act")
    values = [config.get(name) for name in names]
    eps = _DISTILBERT_EPS if distil else config.get("layer_norm_eps")
    plain = config.get("position_embedding_type") in (None, "absolute") and not config.get("is_decoder")
    if family not in FAMILIES or not plain or None in (*values, eps) or str(values[2]) not in _ACTIVATIONS:
        return None
    if family in OFFSET_POSITIONS and not isinstance(config.get("pad_token_id"), int):
        return None
    if family == "mpnet" and config["pad_token_id"] != 1:  # fixed by transformers, whatever config.json says
        return None
    activation, first, padding = _ACTIVATIONS[str(values[2])], first_position(config), uncounted(config)
    return BertFacts(family, int(str(values[0])), int(str(values[1])), activation, float(str(eps)), first, padding)


def stored_name(name: str, prefix: str, there: Container[str]) -> str:
    """The name of a bare model's tensor in a checkpoint, which may have the family's prefix, and LayerNorm's old names.

    Raises: KeyError: it is not there.
    """
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    for known in (name, prefix + name, old, prefix + old):
        if known in there:
            return known
    raise KeyError(name)
