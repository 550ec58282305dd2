"""Tiny random late-interaction models, in the layouts of sentence-transformers 6, PyLate and Stanford."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.workers.families import FAMILIES, save_family

EXPANSION = {"strategy": "fixed", "attend": False, "length": 24}
DIM = 16


def backbone(minilm: Path, target: Path) -> Path:
    return save_family(minilm, target, FAMILIES["Bert"])


def modern(folder: Path, target: Path, **settings: Any) -> Path:
    """As MultiVectorEncoder saves it. `settings`: of its Transformer."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(7)
    knobs = {"document_length": 40, "query_length": 24, "query_expansion": EXPANSION, **settings}
    words = Transformer(str(folder), **knobs)
    hidden = words.get_embedding_dimension()
    modules = [
        words,
        Dense(hidden, DIM, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=list(string.punctuation)),
        Normalize(module_input_name="token_embeddings"),
    ]
    model = MultiVectorEncoder(modules=modules, device="cpu", prompts={"query": "[unused0] ", "document": "[unused1] "})
    model.save(str(target))
    return target


def pylate(folder: Path, target: Path, **settings: Any) -> Path:
    """As PyLate 1 saves it: two modules, all else beside them. `settings`: of config_sentence_transformers.json."""
    dense = target / "1_Dense"
    dense.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    listed = [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in enumerate(kinds)]
    (target / "modules.json").write_text(json.dumps(listed))
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 60, "do_lower_case": False}))
    hidden = json.loads((folder / "config.json").read_text())["hidden_size"]
    told = {
        "in_features": hidden,
        "out_features": DIM,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (dense / "config.json").write_text(json.dumps(told))
    weight = torch.randn(DIM, hidden, generator=torch.Generator().manual_seed(8))
    save_file({"linear.weight": weight}, dense / "model.safetensors")
    beside = {
        "model_type": "ColBERT",
        "prompts": {},
        "query_prefix": "[unused0] ",
        "document_prefix": "[unused1] ",
        "query_length": 24,
        "document_length": 40,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
    }
    (target / "config_sentence_transformers.json").write_text(json.dumps(beside | settings))
    return target


def stanford(folder: Path, target: Path, **metadata: Any) -> Path:
    """As Stanford's ColBERT saves it, in safetensors: the encoder under `bert.`, the projection beside it."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (target / "config.json").write_text(json.dumps(config))
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["linear.weight"] = torch.randn(DIM, config["hidden_size"], generator=torch.Generator().manual_seed(9))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    told = {"doc_maxlen": 40, "query_maxlen": 24, "mask_punctuation": True, "attend_to_mask_tokens": False}
    (target / "artifact.metadata").write_text(json.dumps(told | metadata))
    return target
