"""Loads a model's tokenizer, with the settings that transformers would apply.

From tokenizer.json by the `tokenizers` library. For a model without that file transformers converts its
vocabulary, which is a slow import that brings torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from workers.errors import UsageError
from workers.model.files import read_json


def load_tokenizer(folder: Path, lower_case: bool) -> Tokenizer:
    """The tokenizer in `folder`, without truncation and padding. `lower_case`: convert texts to lower case first.

    Raises:
        UsageError: the files cannot be read or converted.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _convert(folder)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - the Rust library raises bare Exception
        raise UsageError(
            f"{path}: not a tokenizer this version of `tokenizers` can read ({error}); fetch the model again"
        ) from None
    tokenizer.no_truncation()  # tokenizer.json contains the settings with which it was saved
    tokenizer.no_padding()
    if (folder / "tokenizer_config.json").is_file() and isinstance(tokenizer.normalizer, BertNormalizer):
        _apply_bert_settings(tokenizer, read_json(folder / "tokenizer_config.json"))
    if lower_case:
        old = tokenizer.normalizer
        tokenizer.normalizer = NormalizerSequence([Lowercase()] if old is None else [Lowercase(), old])
    return tokenizer


def _apply_bert_settings(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """tokenizer_config.json overrides tokenizer.json, as in transformers."""
    normalizer = tokenizer.normalizer
    for key, attribute in (("do_lower_case", "lowercase"), ("strip_accents", "strip_accents"),
                           ("tokenize_chinese_chars", "handle_chinese_chars")):  # fmt: skip
        if key in config:
            setattr(normalizer, attribute, config[key])


def _convert(folder: Path) -> Tokenizer:
    """For a model without tokenizer.json: transformers converts vocab.txt or a sentencepiece model."""
    from transformers import AutoTokenizer  # a slow import, with torch; needed for few models

    try:
        converted = AutoTokenizer.from_pretrained(str(folder), use_fast=True, trust_remote_code=False, local_files_only=True)
        return Tokenizer.from_str(converted.backend_tokenizer.to_str())
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{folder}: no tokenizer.json, and its tokenizer cannot be converted ({reason}); "
            "save the model with AutoTokenizer.save_pretrained"
        ) from None
