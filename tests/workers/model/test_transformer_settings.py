"""sentence_bert_config.json, config_sentence_transformers.json, odd files: vectors as theirs, or the file is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workers.model_folders import STAGED, assert_vectors, refused, settings, settings_of
from tests.workers.models import edit_json, layout, write_modules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "how"),
    [
        ({"tokenizer_args": {"do_lower_case": False}}, "encode"),
        ({"processor_kwargs": {"do_lower_case": False}}, "encode"),
        ({"processor_kwargs": {"model_max_length": 20}}, "encode"),
        ({"processor_kwargs": {"truncation_side": "left"}, "max_seq_length": 20}, "encode"),
        ({"processing_kwargs": {"text": {"max_length": 16}}}, "encode"),
        ({"processing_kwargs": {"text": {"max_length": 16}, "common": {"max_length": 12}}}, "encode"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "encode"),
        ({"processing_kwargs": {"common": {"split_special_tokens": True}}}, "encode"),
        ({"processing_kwargs": {"text": {"padding": "longest", "padding_side": "left"}}}, "encode"),
        ({"document_length": 16, "query_length": 12}, "encode_document"),
        ({"document_length": 16, "processing_kwargs": {"text": {"max_length": 12}}}, "encode_document"),
        ({"do_lower_case": True, "tokenizer_args": {"do_lower_case": False}}, "encode"),
        ({"model_args": {"dtype": "float32", "trust_remote_code": True}}, "encode"),
        ({"config_args": {"trust_remote_code": True}}, "encode"),
        ({"unpad_inputs": True}, "encode"),
        ({"max_seq_length": None}, "encode"),
    ],
)  # fmt: skip
def test_sentence_bert_config(folder: Path, values: dict[str, Any], how: str) -> None:
    stored = settings_of(folder) | values
    (folder / "sentence_bert_config.json").write_text(json.dumps(stored))
    assert_vectors(folder, how)


FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
OUTPUT = {"module_output_name": "token_embeddings"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"modality_config": {"text": FORWARD, "message": {**FORWARD, "format": "flat"}}, **OUTPUT},
         "modality_config.message"),
        ({"modality_config": {"text": {**FORWARD, "method_output_name": "pooler_output"}}, **OUTPUT},
         "pooler_output"),
        ({"modality_config": {"text": {**FORWARD, "method": "get_text_features"}}, **OUTPUT},
         "get_text_features"),
        ({"modality_config": {"image": FORWARD}, **OUTPUT}, "no entry for text"),
        ({"modality_config": {"text": FORWARD}}, "module_output_name"),
        ({"modality_config": {"text": "forward"}, **OUTPUT}, "modality_config.text"),
        ({"modality_config": []}, "modality_config"),
        ({"transformer_task": "fill-mask"}, "transformer_task"),
        ({"query_expansion": {"strategy": "fixed", "length": 32}}, "query_expansion"),
        ({"config_args": {"hidden_act": "relu"}}, "config_args.hidden_act"),
        ({"config_kwargs": {"hidden_act": "relu"}}, "config_kwargs.hidden_act"),
        ({"model_kwargs": {"num_hidden_layers": 1}}, "model_kwargs.num_hidden_layers"),
        ({"model_args": None}, "model_args"),
        ({"tokenizer_name_or_path": "bert-base-cased"}, "tokenizer_name_or_path"),
        ({"tokenizer_args": {"vocab_file": "/etc/passwd"}}, "tokenizer_args.vocab_file"),
        ({"tokenizer_args": {"truncation_side": "middle"}}, "processor_kwargs"),
        ({"processing_kwargs": {"text": {"truncation": False}}}, "truncation"),
        ({"processing_kwargs": {"text": {"return_token_type_ids": False}}}, "processing_kwargs.text.return_token_type_ids"),
        ({"processing_kwargs": {"chat": {}}}, "processing_kwargs.chat"),
        ({"processing_kwargs": {"text": {"padding": "max_length"}}}, "padding"),
        ({"processing_kwargs": {"text": []}}, "processing_kwargs.text"),
        ({"max_seq_length": "64"}, "max_seq_length"),
        ({"max_seq_length": 2}, "allows 2 tokens"),
        ({"document_length": 0}, "document_length"),
        ({"max_sequence_length": 64}, "max_sequence_length"),
    ],
)  # fmt: skip
def test_what_sentence_bert_config_may_not_ask_for(folder: Path, values: dict[str, Any], named: str) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings_of(folder) | values))
    refused(folder, "sentence_bert_config.json", named)


PROMPTS = {"query": "task: search | query: ", "document": "title: none | text: "}


@pytest.mark.parametrize(
    ("stored", "settings", "document", "query"),
    [
        ({"prompts": PROMPTS}, {}, PROMPTS["document"], PROMPTS["query"]),
        ({"prompts": {"query": "q: ", "passage": "p: ", "corpus": "c: "}}, {}, "p: ", "q: "),
        ({"prompts": {"query": "q: ", "corpus": "c: "}}, {}, "c: ", "q: "),
        ({"prompts": PROMPTS, "default_prompt_name": "query"}, {}, PROMPTS["document"], PROMPTS["query"]),
        ({"prompts": {"clustering": "k: "}, "default_prompt_name": "clustering"}, {}, "k: ", "k: "),
        ({"prompts": {"document": "d: "}}, {}, "d: ", ""),
        ({"prompts": PROMPTS}, {"prompt": ""}, "", PROMPTS["query"]),
        ({"prompts": PROMPTS}, {"prompt": "mine: "}, "mine: ", PROMPTS["query"]),
        ({"prompts": PROMPTS}, {"query_prompt": ""}, PROMPTS["document"], ""),
        ({"prompts": PROMPTS}, {"query_prompt": "find: "}, PROMPTS["document"], "find: "),
        ({"prompts": PROMPTS, "default_prompt_name": "document"}, {"prompt": "mine: "}, "mine: ", PROMPTS["query"]),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, {"prompt": "p: "}, "p: ", "p: "),
        ({}, {"prompt": "p: "}, "p: ", "p: "),
        ({}, {}, "", ""),
        ({"prompts": {"query": None, "document": None}}, {}, "", ""),
    ],
)
def test_prompts(folder: Path, stored: dict[str, Any], settings: dict[str, Any], document: str, query: str) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(stored))
    recipe = layout(folder, **settings)[1]
    assert (recipe.prompt, recipe.query_prompt) == (document, query)


@pytest.mark.slow
@pytest.mark.parametrize("include", [True, False])
def test_prompts_of_documents_and_queries_agree_with_sentence_transformers(folder: Path, include: bool) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS, "default_prompt_name": None}))
    edit_json(folder / "1_Pooling/config.json", include_prompt=include)
    settings(folder, max_seq_length=32)
    assert_vectors(folder, "encode_document")
    assert_vectors(folder, "encode_query", prompt=PROMPTS["query"])


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ({"prompts": ["query"]}, "prompts"),
        ({"prompts": {"document": 7}}, "prompts.document"),
        ({"prompts": {}, "default_prompt_name": "doc"}, "default prompt 'doc'"),
        ({"prompts": {}, "default_prompt_name": ["doc"]}, "default prompt"),
        ({"model_type": "SparseEncoder"}, "model_type 'SparseEncoder'"),
        ({"__version__": {"sentence_transformers": 5}}, "__version__"),
        ({"truncate_dim": 16}, "truncate_dim=16"),
        ({"truncate_dim": "16"}, "truncate_dim"),
        ({"requirements": {"transformers": ">=99"}}, "transformers >=99"),
        ({"requirements": {"a-package-that-is-not-there": {"specifier": ">=1"}}}, "none is installed"),
    ],
)
def test_what_config_sentence_transformers_may_not_ask_for(folder: Path, stored: dict[str, Any], named: str) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(stored))
    refused(folder, "config_sentence_transformers.json", named)


@pytest.mark.slow
def test_stored_truncate_dim(folder: Path) -> None:
    write_modules(folder, (f"{STAGED}.Transformer", ""), (f"{STAGED}.Pooling", "1_Pooling"))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"truncate_dim": 12, "prompts": {}}))
    assert layout(folder)[1].dim == 12
    assert layout(folder, truncate_dim=7)[1].dim == 7
    assert_vectors(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"\xef\xbb\xbf{}"),
        ("tokenizer_config.json", json.dumps({"truncation_side": "up"}).encode()),
        ("tokenizer_config.json", json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": "many"}).encode()),
        ("tokenizer_config.json", json.dumps({"added_tokens_decoder": {"600": "x"}}).encode()),
        ("tokenizer_config.json", json.dumps({"tokenizer_class": "BertJapaneseTokenizer"}).encode()),
        ("special_tokens_map.json", json.dumps({"cls_token": 4}).encode()),
        ("special_tokens_map.json", b"[]"),
        ("added_tokens.json", json.dumps({"[WORLD]": "x"}).encode()),
        ("tokenizer.json", b'{"version": "1.0"}'),
        ("config.json", "{}".encode("utf-16")),
        (
            "modules.json",
            json.dumps([{"name": "0", "path": "", "type": "sentence_transformers.modelz.Transformer"}]).encode(),
        ),
        ("modules.json", json.dumps([{"path": "", "type": f"{STAGED}.Transformer"}]).encode()),
        ("modules.json", b"[]"),
        ("1_Pooling/config.json", json.dumps({"embedding_dimension": 32, "pooling_mode": None}).encode()),
        ("1_Pooling/config.json", json.dumps({"embedding_dimension": 32, "pooling_mod": "cls"}).encode()),
        ("1_Pooling/config.json", json.dumps({"pooling_mode": "cls"}).encode()),
        ("2_Normalize/config.json", b'{"module_input_name": ""}'),
        ("preprocessor_config.json", json.dumps({"processor_class": "CLIPProcessor"}).encode()),
        ("sentence_bert_config.json", b"[" * 100_000),
    ],
)
def test_an_odd_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / "2_Normalize").mkdir()
    (folder / name).write_bytes(content)
    refused(folder, name)
