"""sentence_bert_config.json: how sentence-transformers treats a text before the transformer, and how it loads both.

Each key is honoured, has no effect on vectors, or is refused by name. Keys that sentence-transformers does not know are
refused, as it does. No torch.

    honoured     max_seq_length, document_length, query_length, do_lower_case, tokenizer_args | processor_kwargs,
                 processing_kwargs (max_length, add_special_tokens, split_special_tokens), query_expansion
    no effect    unpad_inputs, and what concerns padding, number formats and kinds of attention
    refused      other tasks, outputs and methods, chat templates (modality message), arguments that change
                 the network (config_args | config_kwargs, model_args | model_kwargs), another folder's tokenizer
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from workers.errors import UsageError
from workers.model.files import TRANSFORMER_CONFIGS
from workers.model.module_list import read_json

_KNOWN = frozenset({
    "max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name", "processing_kwargs",
    "unpad_inputs", "query_length", "document_length", "query_expansion", "model_args", "model_kwargs", "tokenizer_args",
    "processor_kwargs", "config_args", "config_kwargs", "tokenizer_name_or_path",
})  # fmt: skip
# Where files come from: sentence-transformers replaces these by its own arguments.
_PLACES = frozenset({"subfolder", "token", "cache_dir", "revision", "local_files_only", "trust_remote_code"})
_SAME_MODEL = frozenset({
    "dtype", "torch_dtype", "attn_implementation", "low_cpu_mem_usage", "device_map", "use_safetensors", "add_pooling_layer",
})  # fmt: skip  # of model_kwargs: the same function in another number format, or by other instructions
_PADDING = frozenset({"padding", "padding_side", "return_tensors"})  # texts are never padded in a way that counts
_TRUNCATES = (True, "longest_first", "only_first")
_TOKEN_OUTPUTS = ("last_hidden_state", ["last_hidden_state"])
_LOGITS = ("logits", ["logits"])
MASKED_LM = "fill-mask"


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """The settings of a model's first module. Lengths in tokens; None: not given."""

    path: Path | None = None  # of the file; None: the model has none
    max_tokens: int | None = None  # of every text, unless its kind has a length of its own
    document_tokens: int | None = None
    query_tokens: int | None = None
    do_lower_case: bool = False
    add_special_tokens: bool = True
    tokenizer: Mapping[str, Any] = field(default_factory=dict)  # arguments of AutoTokenizer.from_pretrained
    masked_lm: bool = False  # the states go through the head of a masked language model (task fill-mask)
    query_expansion: Mapping[str, Any] | None = None  # of late-interaction models
    markers: tuple[str, ...] = ()  # not of this file: tokens that stand before texts (layouts/late_interaction.py)
    tokenizer_alone: bool = False  # likewise: tokenizer.json by the `tokenizers` library, without transformers' classes


TOKENIZER_ALONE = TransformerSettings(add_special_tokens=False, tokenizer_alone=True)
"""Of a static model, which has no such file."""


def read_transformer_settings(transformer: Path) -> TransformerSettings:
    """The settings in the transformer's folder.

    Raises:
        UsageError: the file is damaged, or asks for something that is not supported; names file and key.
    """
    for name in TRANSFORMER_CONFIGS:
        path = transformer / name
        if path.is_file() and (settings := read_json(path)):
            return _Reader(path, settings).read()
    return TransformerSettings()


class _Reader:
    """One file's keys, checked one after the other."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, settings

    def read(self) -> TransformerSettings:
        if unknown := sorted(set(self._settings) - _KNOWN):
            self._refuse(unknown[0], "sentence-transformers does not know this key; correct or remove it")
        self._check_outputs()
        self._check_model()
        tokenizer = self._tokenizer_arguments()
        length, call = self._call_arguments()
        if "split_special_tokens" in call:
            tokenizer["split_special_tokens"] = call["split_special_tokens"]
        longest = self._length("max_seq_length")
        if "model_max_length" in tokenizer:
            longest = self._count("processor_kwargs.model_max_length", tokenizer.pop("model_max_length"))
        return TransformerSettings(
            path=self._path,
            max_tokens=longest,
            document_tokens=self._length("document_length") if length is None else length,
            query_tokens=self._length("query_length") if length is None else length,
            do_lower_case=bool(self._settings.get("do_lower_case", False)),
            add_special_tokens=bool(call.get("add_special_tokens", True)),
            tokenizer=tokenizer,
            masked_lm=self._settings.get("transformer_task") == MASKED_LM,
            query_expansion=self._dict("query_expansion") if self._settings.get("query_expansion") is not None else None,
        )

    def _check_outputs(self) -> None:
        """Only text, through the transformer's own forward pass, to its last hidden states."""
        task = self._settings.get("transformer_task", "feature-extraction")
        output = self._settings.get("module_output_name", "token_embeddings")
        if task not in ("feature-extraction", MASKED_LM) or output != "token_embeddings":
            self._refuse("transformer_task", f"wants task {task!r} giving {output!r}; only text encoders are supported")
        if "modality_config" not in self._settings:
            return
        modalities = self._dict("modality_config")
        if "module_output_name" not in self._settings:
            self._refuse("module_output_name", "must be given beside modality_config")
        if "message" in modalities:
            self._refuse(
                "modality_config.message",
                "puts texts through the tokenizer's chat template, which is not supported; use a model for plain texts",
            )
        for name, params in modalities.items():
            if not isinstance(params, dict) or not {"method", "method_output_name"} <= params.keys():
                self._refuse(f"modality_config.{name}", "must name method and method_output_name")
        text = modalities.get("text")
        if text is None:
            self._refuse("modality_config", "has no entry for text; only text encoders are supported")
        expected = _LOGITS if task == MASKED_LM else _TOKEN_OUTPUTS
        if text["method"] != "forward" or text["method_output_name"] not in expected:
            self._refuse(
                "modality_config.text",
                f"uses {text['method']!r} giving {text['method_output_name']!r}; only forward giving {expected[0]} "
                "is supported",
            )

    def _check_model(self) -> None:
        """Arguments for loading the network must not change it."""
        for new, old in (("config_kwargs", "config_args"), ("model_kwargs", "model_args")):
            kept = _PLACES | (_SAME_MODEL if new == "model_kwargs" else frozenset())
            section = old if old in self._settings else new
            if changing := sorted(set(self._dict(section)) - kept):
                self._refuse(
                    f"{section}.{changing[0]}",
                    "changes the network when it is loaded, which is not supported; write it into config.json, "
                    "or save the model as it is used",
                )
        if self._settings.get("tokenizer_name_or_path") is not None:
            self._refuse(
                "tokenizer_name_or_path", "names another folder's tokenizer; copy its files into the model's folder"
            )

    def _tokenizer_arguments(self) -> dict[str, Any]:
        section = "tokenizer_args" if "tokenizer_args" in self._settings else "processor_kwargs"
        arguments = {key: value for key, value in self._dict(section).items() if key not in _PLACES}
        for key in arguments:
            if key.endswith(("_file", "_path")) or key in ("config", "code_revision", "tokenizer_object"):
                self._refuse(f"{section}.{key}", "names another file; put it into the model's folder and remove the key")
        return arguments

    def _call_arguments(self) -> tuple[int | None, dict[str, Any]]:
        """(max_length, the other arguments) with which the tokenizer is called on every text."""
        sections = self._dict("processing_kwargs")
        self._only(sections, ("text", "common", "audio", "image", "video", "chat_template"), "processing_kwargs")
        call: dict[str, Any] = {}
        for section in ("text", "common"):  # in this order: `common` wins
            arguments = sections.get(section, {})
            if not isinstance(arguments, dict):
                self._refuse(f"processing_kwargs.{section}", f"must hold a JSON object, not {arguments!r}")
            known = ("max_length", "truncation", "add_special_tokens", "split_special_tokens", *_PADDING)
            self._only(arguments, known, f"processing_kwargs.{section}")
            call |= arguments
        if call.get("truncation", True) not in _TRUNCATES:
            self._refuse("processing_kwargs: truncation", f"{call['truncation']!r} is not supported; use true")
        if call.get("padding", True) not in (True, "longest") or call.get("return_tensors", "pt") != "pt":
            self._refuse("processing_kwargs: padding, return_tensors", 'only true and "pt" are supported; remove them')
        for key in ("add_special_tokens", "split_special_tokens"):
            if not isinstance(call.get(key, True), bool):
                self._refuse(f"processing_kwargs: {key}", f"must be true or false, not {call[key]!r}")
        return self._count("processing_kwargs: max_length", call.get("max_length")), call

    def _only(self, section: Mapping[str, Any], known: Collection[str], name: str) -> None:
        if unknown := sorted(set(section) - set(known)):
            self._refuse(f"{name}.{unknown[0]}", "is not supported; remove it, or use another model")

    def _dict(self, key: str) -> dict[str, Any]:
        value = self._settings.get(key, {})
        if not isinstance(value, dict):
            self._refuse(key, f"must hold a JSON object, not {value!r}")
        return value

    def _length(self, key: str) -> int | None:
        return self._count(key, self._settings.get(key))

    def _count(self, key: str, value: Any) -> int | None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            self._refuse(key, f"must be a number of tokens, not {value!r}")
        return value

    def _refuse(self, key: str, why: str) -> NoReturn:
        raise UsageError(f"{self._path}: {key}: {why}")
