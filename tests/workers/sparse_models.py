"""Tiny random sparse encoders with MiniLM's tokenizer, written by sentence-transformers' own SparseEncoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

SMALL: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 130,
}
FAMILIES: dict[str, Any] = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL, pad_token_id=0, type_vocab_size=1),
    "mpnet": transformers.MPNetConfig(**SMALL, pad_token_id=0),
    "electra": transformers.ElectraConfig(**SMALL, embedding_size=24),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=30522, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=130
    ),
    "modernbert": transformers.ModernBertConfig(**SMALL, pad_token_id=0, local_attention=16, global_attn_every_n_layers=2),
}


def masked_lm(minilm: Path, target: Path, family: str = "bert") -> Path:
    """A masked language model as transformers saves it. Its logits are mostly below zero, as those of a trained one are."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    model = transformers.AutoModelForMaskedLM.from_config(FAMILIES[family]).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        bias = model.get_output_embeddings().bias
        if bias is not None:
            bias.sub_(0.8)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((minilm / name).read_bytes())
    return target


def sparse_encoder(folder: Path, target: Path, strategy: str = "max", activation: str = "relu", **settings: Any) -> Path:
    """The layout that sentence-transformers writes of a masked language model. `settings`: of SparseEncoder."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    words = Transformer(str(folder), transformer_task="fill-mask", max_seq_length=64)
    model = SparseEncoder(modules=[words, SpladePooling(strategy, activation)], device="cpu", **settings)
    model.save(str(target))
    return target


def routed(folder: Path, target: Path, weights: torch.Tensor) -> Path:
    """Documents through the masked language model in `folder`, queries through a weight for each token."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    words = Transformer(str(folder), transformer_task="fill-mask", max_seq_length=64)
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(words.tokenizer, weights)], document_modules=[words, SpladePooling("max")]
    )
    SparseEncoder(modules=[router], device="cpu").save(str(target))
    return target
