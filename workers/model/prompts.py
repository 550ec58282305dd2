"""config_sentence_transformers.json: prompts, truncate_dim, requirements. Its other keys have no effect on vectors.

    documents    model.prompt, else the file's prompt `document`, `passage` or `corpus` (the first that is there, as in
                 sentence-transformers' encode_document), else its default prompt
    queries      model.query_prompt, else the file's prompt `query`, else the documents' prompt if that is configured or
                 the file's default

An empty prompt in the configuration means none. An empty one in the file is a placeholder, which a default prompt replaces.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from workers.config import ModelConfig
from workers.errors import UsageError
from workers.model.layouts.late_interaction import LATE, PYLATE, prompts_of
from workers.model.module_list import read_json

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
QUERY_PROMPT = "query"
DENSE, SPARSE = "SentenceTransformer", "SparseEncoder"  # kinds of models, by the name of their class
_DISTRIBUTIONS = {"pytorch": "torch"}  # as sentence-transformers names it in such files


@dataclass(frozen=True, slots=True)
class RetrievalSettings:
    """Prompts, resolved by the user's settings, and how many components the model's vectors are cut to."""

    prompt: str = ""
    query_prompt: str = ""
    truncate_dim: int | None = None  # of the file alone
    path: Path | None = None  # of the file; None: the model has none
    kind: str = ""  # "": the file does not say
    most_weights: int | None = None  # of a sparse vector


def read_retrieval_settings(folder: Path, config: ModelConfig) -> RetrievalSettings:
    """The settings in the model's folder, under the user's.

    Raises:
        UsageError: the file is damaged, is for another kind of model, or requires other packages than are installed.
    """
    path = folder / "config_sentence_transformers.json"
    stored: dict[str, Any] = prompts_of(folder, read_json(path) if path.is_file() else {})
    kind = stored.get("model_type", DENSE)
    if kind not in (DENSE, SPARSE, LATE, PYLATE):
        raise UsageError(f"{path}: model_type {kind!r}: only {DENSE}, {SPARSE} and {LATE} models are supported")
    _check_version(path, stored)
    _check_requirements(path, stored.get("requirements"))
    prompts = _prompts(path, stored)
    default = _default_prompt(path, stored, prompts)
    own = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), "") or default
    prompt = own if config.prompt is None else config.prompt
    query = config.query_prompt
    if query is None:
        query = prompts.get(QUERY_PROMPT) or config.prompt or (default if config.prompt is None else "")
    dim = stored.get("truncate_dim")
    if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool) or dim < 1):
        raise UsageError(f"{path}: truncate_dim must be a number of components, not {dim!r}; correct it")
    most = stored.get("max_active_dims") if kind == SPARSE else None
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise UsageError(f"{path}: max_active_dims must be a number of weights, not {most!r}; correct it")
    return RetrievalSettings(prompt, query, dim, path if path.is_file() else None, stored.get("model_type", ""), most)


def _prompts(path: Path, stored: Mapping[str, Any]) -> dict[str, str]:
    prompts = stored.get("prompts", {})
    if not isinstance(prompts, dict):
        raise UsageError(f"{path}: prompts must be a JSON object of texts, not {prompts!r}; correct it")
    for name, prompt in prompts.items():
        if prompt is not None and not isinstance(prompt, str):
            raise UsageError(f"{path}: prompts.{name} must be a text, not {prompt!r}; correct it")
    return {name: prompt or "" for name, prompt in prompts.items()}


def _default_prompt(path: Path, stored: Mapping[str, Any], prompts: Mapping[str, str]) -> str:
    name = stored.get("default_prompt_name")
    if name is None:
        return ""
    if not isinstance(name, str) or name not in {*prompts, QUERY_PROMPT, DOCUMENT_PROMPTS[0]}:
        raise UsageError(f"{path}: default prompt {name!r} is not among its prompts; set model.prompt and correct the file")
    return prompts.get(name, "")


def _check_version(path: Path, stored: Mapping[str, Any]) -> None:
    """A later version than the installed one is no error, but sentence-transformers must be able to read it."""
    versions = stored.get("__version__", {})
    try:
        Version(versions.get("sentence_transformers", "0"))
    except (InvalidVersion, TypeError, AttributeError):
        raise UsageError(f"{path}: __version__ must hold versions, not {versions!r}; correct or remove it") from None


def _check_requirements(path: Path, requirements: Any) -> None:
    """The packages that the model's author requires. What is no requirement is passed over, as in sentence-transformers."""
    if not isinstance(requirements, dict):
        return
    for name, required in requirements.items():
        specifier = required.get("specifier") if isinstance(required, dict) else required
        try:
            wanted = SpecifierSet(specifier if isinstance(specifier, str) else "", prereleases=True)
        except InvalidSpecifier:
            continue
        found = _installed(_DISTRIBUTIONS.get(name) or str(name))
        if found is None or not wanted.contains(found):
            raise UsageError(
                f"{path}: the model requires {name} {wanted}, and {found or 'none'} is installed; install it, "
                "or use another model"
            )


def _installed(name: str) -> str | None:
    try:
        return platform.python_version() if name == "python" else importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
