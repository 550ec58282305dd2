"""What a model's files say of how it embeds, each file read once. recipe's other modules decide by it.

modules.json and the modules' folders                 pooling and the modules around it (modules.py)
sentence_bert_config.json                             longest input, what is done to texts (transformer_settings.py)
config_sentence_transformers.json                     prompts, truncate_dim (prompts.py)
the tokenizer's files, config.json                    the tokenizer (tokenizer_files.py), the longest input
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.config import ModelConfig
from workers.errors import UsageError
from workers.model.architecture import common_names
from workers.model.auto_tokenizer import Conversion
from workers.model.files import ModelFiles
from workers.model.layouts.late_interaction import LATE, PYLATE, LateInteraction, read_late_interaction
from workers.model.module_list import ModuleEntry, read_json, read_modules, transformer_folder
from workers.model.modules import ModuleSpecs, read_module_specs
from workers.model.prompts import RetrievalSettings, read_retrieval_settings
from workers.model.tokenizer_files import read_conversion
from workers.model.transformer_settings import TransformerSettings, read_transformer_settings


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of one model."""

    folder: Path
    shown: str  # names the model in messages
    modules: list[ModuleEntry]  # of modules.json; []: it has none
    transformer: Path  # the transformer's folder
    model: Mapping[str, Any]  # config.json, under common names
    settings: TransformerSettings  # with what a late-interaction model's other files say
    retrieval: RetrievalSettings  # resolved by the user's prompts
    head: ModuleSpecs  # the modules after the transformer
    late: LateInteraction | None  # of a late-interaction model
    conversion: Conversion  # the tokenizer


def read_sources(files: ModelFiles, config: ModelConfig) -> Sources:
    """Raises: UsageError: a file is damaged, or asks for something that is not supported; names file and key."""
    folder = files.folder
    modules = read_modules(folder)
    transformer = transformer_folder(folder)
    model = common_names(read_json(transformer / "config.json"))
    settings = read_transformer_settings(transformer)
    if modules:
        _check_processor(transformer)
    retrieval = read_retrieval_settings(folder, config)
    head = read_module_specs(folder, late=retrieval.kind in (LATE, PYLATE))
    late = read_late_interaction(folder, model, settings.query_expansion, head.mask)
    settings = _with_late(settings, late)
    conversion = read_conversion(transformer, settings)
    shown = f"model.name={files.name}"
    return Sources(folder, shown, modules, transformer, model, settings, retrieval, head, late, conversion)


def _check_processor(transformer: Path) -> None:
    """sentence-transformers puts texts through a processor for several kinds of input, if the files name one."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        path = transformer / name
        if path.is_file() and (kind := read_json(path).get("processor_class")) is not None:
            raise UsageError(
                f"{path}: processor_class {kind!r}: only text encoders are supported; use a model for texts alone"
            )


def _with_late(settings: TransformerSettings, late: LateInteraction | None) -> TransformerSettings:
    """The settings with what a late-interaction model's other files say of lengths and of markers."""
    if late is None:
        if settings.query_expansion is not None:
            raise UsageError(f"{settings.path}: query_expansion: is for late-interaction models; remove it")
        return settings
    return replace(
        settings,
        document_tokens=settings.document_tokens or late.document_tokens,
        query_tokens=settings.query_tokens or late.query_tokens,
        markers=late.markers,
    )
