"""Tiny random models of more than sixty families, each with a tokenizer that gives what the family's own gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.workers.families import of_config
from workers.model.golden import GOLDEN_TEXTS

ENCODER: dict[str, Any] = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                           "intermediate_size": 48, "max_position_embeddings": 130}  # fmt: skip
DECODER: dict[str, Any] = ENCODER | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 101,
                                     "eos_token_id": 102}  # fmt: skip
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
GPT: dict[str, Any] = {"vocab_size": 30522, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 130, **IDS}
XLM: dict[str, Any] = {"vocab_size": 30522, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 130,
                       "pad_index": 0, **IDS}  # fmt: skip
PADDED_BY_ID: dict[str, Any] = ENCODER | {"type_vocab_size": 1, "pad_token_id": 1}
MOE: dict[str, Any] = DECODER | {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "albert": ENCODER | {"embedding_size": 16},
    "bert": ENCODER,
    "bert-generation": ENCODER | {"pad_token_id": 0},
    "big_bird": ENCODER,
    "camembert": PADDED_BY_ID,
    "clip_text_model": ENCODER | IDS,
    "convbert": ENCODER | {"embedding_size": 32},
    "data2vec-text": PADDED_BY_ID,
    "deberta": ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "deberta-v2": ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "distilbert": {"vocab_size": 30522, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4,
                   "max_position_embeddings": 130},
    "electra": ENCODER | {"embedding_size": 16},
    "ernie": ENCODER,
    "esm": ENCODER | {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 103},
    "eurobert": DECODER,
    "flaubert": XLM,
    "fnet": {key: value for key, value in ENCODER.items() if key != "num_attention_heads"},
    "funnel": {"vocab_size": 30522, "block_sizes": [1, 1], "block_repeats": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8,
               "d_inner": 48, "num_decoder_layers": 1, "architectures": ["FunnelModel"]},
    "gte": ENCODER,
    "ibert": PADDED_BY_ID,
    "jina_embeddings_v3": PADDED_BY_ID,
    "layoutlm": ENCODER,
    "lilt": PADDED_BY_ID | {"channel_shrink_ratio": 2, "hidden_size": 48},
    "longformer": PADDED_BY_ID | {"attention_window": [8, 8]},
    "luke": PADDED_BY_ID | {"entity_vocab_size": 10, "entity_emb_size": 8},
    "markuplm": PADDED_BY_ID,
    "megatron-bert": ENCODER,
    "mobilebert": ENCODER | {"embedding_size": 16, "intra_bottleneck_size": 32},
    "modernbert": ENCODER | {"local_attention": 16, "global_attn_every_n_layers": 2, **IDS},
    "mpnet": ENCODER | {"pad_token_id": 1},
    "mra": ENCODER,
    "nomic_bert": ENCODER,
    "rembert": ENCODER | {"input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": PADDED_BY_ID,
    "roberta-prelayernorm": PADDED_BY_ID,
    "roc_bert": ENCODER | {"pronunciation_vocab_size": 40, "shape_vocab_size": 40},
    "roformer": ENCODER | {"embedding_size": 16},
    "splinter": ENCODER,
    "squeezebert": ENCODER | {"embedding_size": 32},
    "visual_bert": ENCODER,
    "xlm": XLM,
    "xlm-roberta": PADDED_BY_ID,
    "xlm-roberta-xl": PADDED_BY_ID,
    "xlnet": {"vocab_size": 30522, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, **IDS},
    "xmod": PADDED_BY_ID | {"languages": ["en_XX"], "default_language": "en_XX"},
    "yoso": ENCODER,
    "t5": {"vocab_size": 30522, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "umt5": {"vocab_size": 30522, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "biogpt": ENCODER | IDS,
    "bloom": {"vocab_size": 30522, "hidden_size": 32, "n_layer": 2, "n_head": 4, **IDS},
    "codegen": GPT | {"rotary_dim": 4},
    "cohere": DECODER,
    "ctrl": GPT | {"dff": 48},
    "falcon": {name: value for name, value in DECODER.items() if name != "head_dim"},
    "gemma": DECODER,
    "gemma2": DECODER | {"query_pre_attn_scalar": 8},
    "gemma3_text": DECODER | {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text both ways": DECODER | {"query_pre_attn_scalar": 24, "sliding_window": 16,
                                        "use_bidirectional_attention": True,
                                        "layer_types": ["sliding_attention", "full_attention"]},  # EmbeddingGemma
    "glm": DECODER,
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {"vocab_size": 30522, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 130,
                "attention_types": [[["global", "local"], 1]], "window_size": 16, **IDS},
    "gpt_neox": ENCODER | IDS,
    "gptj": GPT | {"rotary_dim": 4},
    "granite": DECODER,
    "llama": DECODER,
    "mamba": {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, **IDS},
    "mistral": DECODER,
    "mixtral": DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "modernbert-decoder": ENCODER | {"local_attention": 16, "global_attn_every_n_layers": 2, **IDS},
    "mpt": {"vocab_size": 30522, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 130, **IDS},
    "nemotron": DECODER,
    "olmo": DECODER,
    "olmo2": DECODER,
    "openai-gpt": GPT,
    "opt": ENCODER | {"ffn_dim": 48, "word_embed_proj_dim": 16, **IDS},
    "persimmon": DECODER,
    "phi": DECODER,
    "phi3": DECODER,
    "qwen2": DECODER,
    "qwen2_moe": MOE | {"shared_expert_intermediate_size": 24},
    "qwen3": DECODER,
    "qwen3 windows": DECODER | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3_moe": MOE,
    "smollm3": DECODER,
    "stablelm": DECODER,
    "starcoder2": DECODER,
    "xglm": {"vocab_size": 30522, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48,
             "max_position_embeddings": 130, **IDS},
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "bart": {"vocab_size": 30522, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 130},
    "bros": ENCODER,
    "canine": {key: value for key, value in ENCODER.items() if key != "vocab_size"},
    "dpr": ENCODER,
    "layoutlmv3": ENCODER | {"pad_token_id": 1, "visual_embed": False, "coordinate_size": 6, "shape_size": 4},
    "nystromformer": ENCODER | {"num_landmarks": 8, "segment_means_seq_len": 128},
    "reformer": {"vocab_size": 30522, "hidden_size": 32, "attention_head_size": 8, "axial_pos_embds": False,
                 "attn_layers": ["local", "lsh"], "num_attention_heads": 4, "feed_forward_size": 48,
                 "max_position_embeddings": 512, "is_decoder": False},
    "tapas": ENCODER,
}  # fmt: skip
TYPED = frozenset({
    "albert", "bert", "big_bird", "convbert", "deberta", "deberta-v2", "electra", "ernie", "fnet", "funnel", "layoutlm",
    "megatron-bert", "mobilebert", "nomic_bert", "nystromformer", "rembert", "roc_bert", "roformer", "splinter",
    "visual_bert", "xlnet",
})  # fmt: skip  # families whose tokenizers give token types


def random_folder(family: str, minilm: Path, target: Path) -> Path:
    """A random model of the family with MiniLM's vocabulary; no weight is 0 or 1, so that none can be left out unseen."""
    settings = FAMILIES.get(family) or REFUSED[family]
    kind = family.partition(" ")[0]  # what follows is a variant
    of_config(transformers.AutoConfig.for_model(kind, **settings)).save_pretrained(target)
    if kind == "qwen2":  # transformers 5.23 makes a Qwen2Tokenizer, which is BPE, of every such folder
        byte_pairs().save(str(target / "tokenizer.json"))
    else:
        (target / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    names = ["input_ids", *(["token_type_ids"] if family in TYPED else []), "attention_mask"]
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, "pad_token": "[PAD]",
             "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
             "model_max_length": 120}  # fmt: skip
    (target / "tokenizer_config.json").write_text(json.dumps(facts))
    return target


def byte_pairs() -> Tokenizer:
    """A small tokenizer of bytes and pairs of them, as Qwen's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(GOLDEN_TEXTS, trainer)
    return tokenizer
