"""What a model's config.json and the names of its weights tell before anything is loaded. No torch, no transformers.

    common_names      config.json under the names that most families use, as transformers maps them
    check_config      refuses families that do not embed a text by themselves
    check_weights     refuses weights that nobody would use: a lost head, relative positions
    check_longest     refuses inputs for which a family's vectors depend on the texts before
    engine_revision   whether version 0.1 gave the family's texts other vectors than transformers does
    first_position    the number of a sequence's first position; `uncounted`: a token that has none of its own
    has_pooler        whether the model's class has the pooler whose weights the checkpoint holds
    why_no_masked_lm  whether it has the head that sparse vectors are made by

The replica knows more: it refuses what transformers leaves unused (engine/checkpoint.py), and runs the golden texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from workers.config import Precision
from workers.errors import UsageError

OFFSET_POSITIONS = frozenset({
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "ibert", "longformer",
    "luke", "markuplm", "mpnet", "xmod", "lilt",
})  # fmt: skip  # families whose first position is padding_idx + 1; the table of positions is that much shorter
ENCODER_HALVES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""model_type -> transformers' class of the encoder alone, which sentence-transformers runs as well."""
_GPT = {"n_embd": "hidden_size", "n_positions": "max_position_embeddings", "n_layer": "num_hidden_layers"}
_T5 = {"d_model": "hidden_size", "num_layers": "num_hidden_layers"}
_XLM = {"emb_dim": "hidden_size", "n_layers": "num_hidden_layers", "n_words": "vocab_size"}
_ALIASES: dict[str, dict[str, str]] = {  # model_type -> name in config.json -> common name
    **dict.fromkeys(("gpt2", "gpt-sw3", "gptj", "codegen", "openai-gpt", "ctrl", "gpt_bigcode"), _GPT),
    **dict.fromkeys(("xlm", "flaubert"), _XLM),
    "distilbert": {"dim": "hidden_size", "n_layers": "num_hidden_layers"},
    "xlnet": {"d_model": "hidden_size", "n_layer": "num_hidden_layers", "n_token": "vocab_size"},
    "funnel": {"d_model": "hidden_size"},
    "gpt_neo": {"num_layers": "num_hidden_layers"},
    "bloom": {"n_layer": "num_hidden_layers", "n_embed": "hidden_size"},
    "xglm": {"d_model": "hidden_size", "num_layers": "num_hidden_layers"},
    "mpt": {"d_model": "hidden_size", "n_layers": "num_hidden_layers"},
    "dbrx": {"d_model": "hidden_size", "n_layers": "num_hidden_layers", "max_seq_len": "max_position_embeddings"},
    "opt": {"word_embed_proj_dim": "hidden_size"},  # the last layer is projected to it
    **dict.fromkeys(ENCODER_HALVES, _T5),
    "rwkv": {"context_length": "max_position_embeddings"},
}
_UNFIT = {  # model_type -> why it does not embed a text by itself
    "dpr": "it gives no vectors of tokens, and transformers loads its question encoder for questions and passages alike",
    "tapas": "it reads the cells of a table",
    "bros": "it needs the place of every word on a page",
    "layoutlmv2": "it needs the image of a page",
    "layoutlmv3": "it needs the place of every word on a page",
    "layoutxlm": "it needs the image of a page",
    "udop": "it needs the image of a page",
    "canine": "it reads characters, for which there is no tokenizer.json",
    "reformer": "it hashes at random, so that a text has another vector every time",
    "lxmert": "it needs the regions of an image",
    "clip": "it needs an image beside the text",
    "blip": "it needs an image beside the text",
    "vilt": "it needs an image beside the text",
    "flava": "it needs an image beside the text",
    "perceiver": "it reads bytes, for which there is no tokenizer.json",
    "rag": "it retrieves documents",
}
EARLIER_ENGINE_HELD = frozenset({
    "albert", "bert", "bert-generation", "big_bird", "biogpt", "bloom", "camembert", "clip_text_model", "cohere",
    "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "falcon", "gemma",
    "gemma2", "gemma3_text", "glm", "gpt_neox", "granite", "gte", "jina_embeddings_v3", "layoutlm", "lilt", "llama",
    "longformer", "luke", "mamba", "markuplm", "megatron-bert", "mistral", "mixtral", "modernbert",
    "modernbert-decoder", "mpnet", "mpt", "mra", "nemotron", "nomic_bert", "olmo", "olmo2", "opt", "persimmon", "phi",
    "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "rembert", "roberta", "roberta-prelayernorm", "roc_bert",
    "roformer", "smollm3", "splinter", "squeezebert", "stablelm", "starcoder2", "visual_bert", "xglm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
})  # fmt: skip
"""Families whose vectors by version 0.1 equal those of transformers on one text at a time: measured for each with a random
model and 20 texts of 3 to 100 tokens, largest difference 2.4e-7. It gave GPT-2 and its kin, XLM and FlauBERT token types
that nobody had given, and let padding leak into texts of FNet, Funnel, YOSO, ConvBERT and MobileBERT (0.04 to 0.5).
XLNet's <cls> had another type than its tokenizer gives. What was not measured counts as changed."""
_ENCODER_DECODERS = frozenset({
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "encoder-decoder", "fsmt", "led", "longt5", "m2m_100",
    "marian", "mbart", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers", "t5gemma",
    "t5gemma2", "xlm-prophetnet",
})  # fmt: skip
_WITHOUT_POOLER = frozenset({
    "convbert", "deberta", "deberta-v2", "distilbert", "electra", "eurobert", "flaubert", "funnel", "gpt2", "modernbert",
    "nomic_bert", "xlm", "xlnet",
})  # fmt: skip
_BASES = {  # model_type -> prefix of the encoder's weights in a checkpoint with a head
    "bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta", "electra": "electra",
    "distilbert": "distilbert", "albert": "albert", "mpnet": "mpnet", "deberta": "deberta", "deberta-v2": "deberta",
}  # fmt: skip
_PARTS = frozenset({"embeddings", "encoder", "transformer", "pooler", "embeddings_project"})  # of these encoders
_HARMLESS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|num_batches_tracked)$"
    # what DeBERTa's generator and discriminator shared in pretraining; transformers has never loaded it
    r"|(^|\.)(word|position)_embeddings\._weight$"
    r"|(^|\.)pooler\."  # read only by pooling=pooler, whose weights must be there
    # heads of transformers' classes for pretraining and tasks, which embedding does not run
    r"|^(cls|lm_head|mlm_head|mlm_layer|predictions|sop_classifier|classifier|pre_classifier|qa_outputs|score|logits_proj"
    r"|generator_predictions|generator_lm_head|discriminator_predictions|lm_predictions|mask_predictions"
    r"|vocab_transform|vocab_layer_norm|vocab_projector|head\.dense|head\.norm|decoder|lm_loss|pred_layer"
    r"|sequence_summary|start_logits|end_logits|answer_class|multiple_choice_head|entity_predictions)(\.|$)"
)
_RELATIVE = re.compile(r"(^|\.)distance_embedding\.")
_MOST_NAMED = 3
_MASKED_LM_HEADS = {  # model_type -> prefix of the weights of its masked language model's head
    "bert": "cls.predictions.", "roberta": "lm_head.", "xlm-roberta": "lm_head.", "camembert": "lm_head.",
    "mpnet": "lm_head.",
    "distilbert": "vocab_transform.", "electra": "generator_predictions.", "modernbert": "head.",
}  # fmt: skip


def common_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those with an older or shorter name also under transformers' common name."""
    aliases = _ALIASES.get(str(config.get("model_type")), {})
    named = {common: config[alias] for alias, common in aliases.items() if config.get(alias) is not None}
    return {**config, **named}


def check_config(config: Mapping[str, Any], shown: str) -> None:
    """Raises: UsageError: the family does not embed a text by itself, or not as it was trained. `shown`: names the model."""
    family = str(config.get("model_type", ""))
    if family not in ENCODER_HALVES and (config.get("is_encoder_decoder") or family in _ENCODER_DECODERS):
        raise UsageError(f"{shown}: config.json: an encoder-decoder ({family}); only encoders are supported")
    if family in _UNFIT:
        raise UsageError(f"{shown}: {family} models cannot embed a text: {_UNFIT[family]}; name a text encoder")
    landmarks = config.get("num_landmarks", 64)
    if family == "nystromformer" and landmarks != config.get("segment_means_seq_len", 64):
        raise UsageError(
            f"{shown}: nystromformer models with {landmarks} landmarks take inputs of one length only; name a text encoder"
        )
    positions = str(config.get("position_embedding_type", "absolute"))
    if positions.startswith("relative_key"):
        raise UsageError(
            f"{shown}: config.json has position_embedding_type={positions}, which this version of transformers does not "
            "compute any more; name a model with absolute or rotary positions"
        )


def check_weights(config: Mapping[str, Any], names: Iterable[str], shown: str) -> None:
    """Raises: UsageError: the checkpoint has weights that would be left out. Only for families whose names are known."""
    base = _BASES.get(str(config.get("model_type")))
    if base is not None:
        bare = ((name, name.removeprefix(f"{base}.")) for name in names)
        refuse_unused((name for name, part in bare if part.partition(".")[0] not in _PARTS or _RELATIVE.search(part)), shown)


def refuse_unused(names: Iterable[str], shown: str) -> None:
    """Raises: UsageError: one of these weights, which the encoder does not use, is not known to be harmless."""
    lost = sorted(name for name in names if not harmless(name))
    if lost:
        more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
        raise UsageError(
            f"{shown}: the checkpoint has weights that the encoder does not use ({', '.join(lost[:_MOST_NAMED])}{more}), so "
            "its vectors would not be those it was trained for; if they do not matter, save the encoder alone "
            "(AutoModel.from_pretrained(…).save_pretrained(…)) and name that folder"
        )


def harmless(name: str) -> bool:
    """Whether a weight may be left unused: a buffer, a pooler, a head for pretraining or a task."""
    return _HARMLESS.search(name) is not None


def check_longest(config: Mapping[str, Any], max_tokens: int, shown: str) -> None:
    """Raises: UsageError: with inputs of `max_tokens` a text's vector would depend on those embedded before it."""
    if config.get("model_type") != "big_bird" or config.get("attention_type", "block_sparse") != "block_sparse":
        return
    full = (5 + 2 * int(config.get("num_random_blocks", 3))) * int(config.get("block_size", 64))
    if max_tokens > full:
        raise UsageError(
            f"model.max_tokens={max_tokens}: {shown} attends sparsely beyond {full} tokens, and not any more once it has "
            f"seen a shorter text, so a text's vector would depend on the others; set model.max_tokens={full} or less"
        )


def engine_revision(model: Mapping[str, Any], precision: Precision) -> str:
    """Since which revision of the engine the family's vectors are what they are; empty: since version 0.1, but for rounding.

    A part of the recipe, so that no run and no snapshot holds vectors of both.

        alone     each text as if it were alone (self_check.py)
        columns   8-bit products with loud channels split into columns (engine/kernels/linear.py)
    """
    revisions = {
        "alone": str(model.get("model_type")) not in EARLIER_ENGINE_HELD,
        "columns": precision is Precision.INT8,
    }
    return ", ".join(name for name, holds in revisions.items() if holds)


def has_pooler(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether the encoder has a pooler with trained weights; a classifier's own pooler is none of the encoder."""
    if config.get("model_type") in _WITHOUT_POOLER:
        return False
    base = next((name[: name.index("embeddings.")] for name in names if "embeddings." in name), "")
    return any(name.startswith(f"{base}pooler.") for name in names)


def why_no_masked_lm(config: Mapping[str, Any], names: Collection[str]) -> str | None:
    """Why the checkpoint has no head of a masked language model that is supported; None: it has. `names`: of its weights."""
    family = str(config.get("model_type"))
    prefix = _MASKED_LM_HEADS.get(family)
    if prefix is None:
        return f"heads of {family} models are not supported (supported: {', '.join(_MASKED_LM_HEADS)})"
    if not any(name.startswith(prefix) for name in names):
        return f"the checkpoint has no weights {prefix}*, which would be random"
    return None


def first_position(model: Mapping[str, Any]) -> int:
    """The number of a sequence's first position, by config.json: 0, or in some families the padding token's id + 1."""
    if str(model.get("model_type")) not in OFFSET_POSITIONS:
        return 0
    padding = model.get("pad_token_id")
    return (padding if isinstance(padding, int) else 1) + 1


def uncounted(model: Mapping[str, Any]) -> int | None:
    """The id of the padding token where positions are numbered without it, wherever it stands; None: all tokens count."""
    return first_position(model) - 1 if model.get("model_type") in OFFSET_POSITIONS else None
