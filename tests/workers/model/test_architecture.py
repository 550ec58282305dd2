"""What is refused by config.json and the names of the weights alone; and that common names are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.workers.models import copy_model, edit_json, layout
from workers.config import Precision
from workers.errors import UsageError
from workers.model.architecture import check_config, check_longest, common_names, engine_revision, has_pooler, refuse_unused


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["gpt2", "gpt-sw3", "gptj", "codegen", "openai-gpt", "ctrl", "gpt_bigcode", "xlm", "flaubert", "distilbert", "xlnet",
     "funnel", "gpt_neo", "bloom", "xglm", "mpt", "bert", "roberta", "modernbert", "llama"],
)  # fmt: skip
def test_common_names_are_those_of_transformers(family: str) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(family)
    found = common_names(json.loads(config.to_json_string(use_diff=False)) | {"model_type": family})
    for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings", "vocab_size"):
        expected = getattr(config, name, None)
        expected = None if expected == -1 else expected  # XLNet: positions without end
        assert (name == "num_hidden_layers" and family == "funnel") or found.get(name) == expected, name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "dpr"}, "dpr models cannot embed a text: it gives no vectors of tokens"),
        ({"model_type": "tapas"}, "tapas models cannot embed a text: it reads the cells of a table"),
        ({"model_type": "bart"}, r"an encoder-decoder \(bart\); only encoders"),
        ({"model_type": "bert", "is_encoder_decoder": True}, r"an encoder-decoder \(bert\)"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
    ],
)
def test_families_that_do_not_embed_a_text(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"^model\.name=m: .*{message}"):
        check_config(config, "model.name=m")


def test_a_family_whose_vectors_depend_on_the_texts_before() -> None:
    big_bird: dict[str, Any] = {"model_type": "big_bird", "num_random_blocks": 3, "block_size": 64}
    check_longest(big_bird, 704, "model.name=m")
    check_longest(big_bird | {"attention_type": "original_full"}, 4096, "model.name=m")
    with pytest.raises(UsageError, match=r"^model\.max_tokens=705: model\.name=m .*set model\.max_tokens=704 or less"):
        check_longest(big_bird, 705, "model.name=m")


HARMLESS = [
    "bert.embeddings.position_ids", "pooler.dense.weight", "bert.pooler.dense.bias", "cls.predictions.decoder.weight",
    "lm_head.dense.weight", "classifier.weight", "h.0.attn.masked_bias", "discriminator_predictions.dense.weight",
    "vocab_projector.bias", "predictions.LayerNorm.weight", "qa_outputs.bias",
    "deberta.embeddings.word_embeddings._weight", "embeddings.position_embeddings._weight",
]  # fmt: skip


def test_weights_that_do_not_matter_are_passed_over() -> None:
    refuse_unused(HARMLESS, "model.name=m")


def test_weights_that_nobody_uses_are_named() -> None:
    with pytest.raises(UsageError, match=r"^model\.name=m: the checkpoint has weights that .* \(linear\.weight\)"):
        refuse_unused([*HARMLESS, "linear.weight"], "model.name=m")


@pytest.mark.parametrize(
    ("family", "names", "expected"),
    [
        ("bert", ["embeddings.word_embeddings.weight", "pooler.dense.weight"], True),
        ("bert", ["bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight"], True),
        ("bert", ["embeddings.word_embeddings.weight"], False),
        ("new", ["new.embeddings.word_embeddings.weight", "pooler.dense.weight"], False),  # the classifier's
        ("deberta-v2", ["embeddings.word_embeddings.weight", "pooler.dense.weight"], False),  # AutoModel has none
    ],
)
def test_whose_pooler_it_is(family: str, names: list[str], expected: bool) -> None:
    assert has_pooler({"model_type": family}, names) is expected


def with_weight(minilm: Path, target: Path, name: str) -> Path:
    folder = copy_model(minilm, target)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights[name] = weights["embeddings.LayerNorm.bias"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["linear.weight", "encoder.layer.0.attention.self.distance_embedding.weight"])
def test_a_lost_head_is_refused_at_plan(minilm: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        layout(with_weight(minilm, tmp_path / "model", name))


def test_the_pooler_of_a_classifier_at_plan(minilm: Path, tmp_path: Path) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    edit_json(folder / "config.json", model_type="deberta-v2")
    with pytest.raises(UsageError, match="no pooler weights"):
        layout(folder, pooling="pooler")


def test_families_whose_vectors_version_0_1_made_otherwise_have_a_revision() -> None:
    """Commit 8645ff9 was run over the models of tests/workers/many_families.py: these were off by 0.04 to 0.5."""
    for family in ("gpt2", "gpt_neo", "gptj", "gpt_bigcode", "openai-gpt", "codegen", "ctrl", "xlm", "flaubert", "xlnet",
                   "fnet", "funnel", "yoso", "convbert", "mobilebert", "of_next_year"):  # fmt: skip
        assert engine_revision({"model_type": family}, Precision.AUTO) == "alone"
    for family in ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "qwen3", "gemma3_text"):
        assert engine_revision({"model_type": family}, Precision.BFLOAT16) == ""
        assert engine_revision({"model_type": family}, Precision.INT8) == "columns"
