"""Resolves model.name to a local folder of files that may be loaded, and to two digests that identify the model.

    1. locate   a local folder | package:NAME/folder | a hub name | an object-store URI (contains ://); see fetch.py
    2. check    config.json, safetensors, tokenizer; pickled weights and remote code are refused
    3. digest   SHA-256 over names and contents: one of weights and configuration, one of the tokenizer

The same files give the same digests, wherever they are from. recipes/ and modules.py interpret the files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from workers.config import ModelConfig
from workers.errors import UsageError
from workers.model.architecture import check_config, check_weights
from workers.model.fetch import fetch_hub, fetch_store
from workers.model.module_list import STATIC, read_json, read_modules, transformer_folder
from workers.storage.uris import redact

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)  # all names under which sentence-transformers has stored its Transformer module's settings
PACKAGE = "package:"
WEIGHTED_MODULES = ("Dense", "LSTM")
MODEL2VEC_TABLE = "embeddings"  # the tensor of a static model that model2vec wrote
STANFORD = "HF_ColBERT"  # among the architectures of config.json: the checkpoint has a projection beside the encoder
PROJECTION = "linear.weight"
_MODEL_FILES = ("modules.json", "config_sentence_transformers.json", "router_config.json", "artifact.metadata")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                    "vocab.txt", "vocab.json", "merges.txt", "*.model")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine. `revision`: the hub commit, None for folders and URIs. Digests are hexadecimal."""

    folder: Path
    name: str
    revision: str | None
    weights_digest: str
    tokenizer_digest: str


def resolve_model(config: ModelConfig) -> ModelFiles:
    """Download the model if necessary, check and digest it. Reads the weights once.

    Raises:
        UsageError: not found, not allowed (pickle, remote code) or incomplete. TransientError: the store failed.
    """
    folder, revision = _locate(config)
    name = redact(config.name)
    check_model(folder, name)
    weights, tokenizer = _digested_files(folder)
    return ModelFiles(folder, name, revision, _digest(folder, weights), _digest(folder, tokenizer))


def is_static(folder: Path) -> bool:
    """Whether the model is a table of token vectors, not a transformer. Raises: UsageError: as read_modules."""
    modules = read_modules(folder)
    if modules:
        return modules[0].kind == STATIC
    weights = folder / "model.safetensors"
    of_transformers = "model_type" in (read_json(folder / "config.json") if (folder / "config.json").is_file() else {})
    return not of_transformers and weights.is_file() and MODEL2VEC_TABLE in weight_names(folder)


def weight_map(index: Path) -> dict[str, Any]:
    """Names of tensors and of the files that hold them, from model.safetensors.index.json. Raises: UsageError."""
    names = read_json(index).get("weight_map", {})
    if not isinstance(names, dict):
        raise UsageError(f"{index}: weight_map must be a JSON object; fetch the model again")
    return names


def check_model(folder: Path, name: str) -> None:
    """Refuse a model that cannot or must not be loaded, without loading it. `name` is shown in errors.

    Raises:
        UsageError: with what to do about it.
    """
    shown = f"model.name={name}"
    transformer = transformer_folder(folder)
    if is_static(folder):
        _check_static(transformer, shown)
        _check_modules(folder, shown)
        return
    if (transformer / "adapter_config.json").is_file():
        raise UsageError(f"{shown}: this is a PEFT adapter; merge it into its base model and name the merged folder")
    if not (transformer / "config.json").is_file():
        raise UsageError(f"{shown}: no config.json in {transformer}; name the folder of a transformers model")
    model = read_json(transformer / "config.json")
    if model.get("auto_map") and not _built_in(str(model.get("model_type", ""))):
        raise UsageError(
            f"{shown}: needs remote code (auto_map in config.json), which is never run; "
            "choose a model that transformers has built in"
        )
    check_config(model, shown)
    _check_weights(transformer, shown)
    of_stanford = STANFORD in (model.get("architectures") or [])
    check_weights(model, (name for name in weight_names(transformer) if not of_stanford or name != PROJECTION), shown)
    _check_modules(folder, shown)
    if not ((transformer / "tokenizer.json").is_file() or _matching(transformer, ("vocab.txt", "merges.txt", "*.model"))):
        raise UsageError(f"{shown}: no tokenizer files (tokenizer.json, vocab.txt, *.model) in {transformer}; add them")


def weight_names(folder: Path) -> list[str]:
    """Names of the tensors in a checkpoint, from its index or the file's header. Reads no tensor.

    Raises:
        UsageError: the file is not safetensors, or incomplete.
    """
    if not (folder / "model.safetensors").is_file():
        return list(weight_map(folder / "model.safetensors.index.json"))
    return [name for name in safetensors_header(folder / "model.safetensors") if name != "__metadata__"]


def checkpoint_files(folder: Path) -> list[str]:
    """Names of the safetensors files with a transformer's weights: of the index, if there is one. Raises: UsageError."""
    index = folder / "model.safetensors.index.json"
    return sorted(set(weight_map(index).values())) if index.is_file() else ["model.safetensors"]


def projection_shape(folder: Path) -> tuple[int, int]:
    """(components given, components taken) of the projection in a checkpoint of Stanford's.

    Raises: UsageError: it is not there, or the checkpoint is not one file.
    """
    path = folder / "model.safetensors"
    shape = tensor_shapes(path).get(PROJECTION, ()) if path.is_file() else ()
    if len(shape) != 2:
        raise UsageError(f"{path}: holds no matrix {PROJECTION}, the projection of a {STANFORD}; fetch the model again")
    return shape[0], shape[1]


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of a safetensors file, by name. Raises: UsageError: it is none, or cut off."""
    entries = {
        name: entry for name, entry in safetensors_header(path).items() if isinstance(entry, dict) and "shape" in entry
    }
    return {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}


def safetensors_header(path: Path) -> dict[str, Any]:
    """Of a safetensors file, by tensor: dtype, shape, data_offsets. Raises: UsageError: it is none, or cut off."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > path.stat().st_size:
            raise UsageError(f"{path}: not a safetensors file (cut off?); fetch the model again")
        try:
            found: dict[str, Any] = json.loads(stream.read(size))
        except ValueError:
            raise UsageError(f"{path}: not a safetensors file; fetch the model again") from None
    return found


def _locate(config: ModelConfig) -> tuple[Path, str | None]:
    try:
        return _find(config)
    except (OSError, RuntimeError) as error:  # a name that no path can be, or another user's home that is unknown
        raise UsageError(f"model.name={redact(config.name)[:200]}: {str(error)[:200]}; correct the name") from None


def _find(config: ModelConfig) -> tuple[Path, str | None]:
    name = config.name
    path = _package_folder(name) if name.startswith(PACKAGE) else Path(name).expanduser()
    remote = "://" in name
    folder_like = name.startswith((".", "/", "~", PACKAGE)) or name.count("/") > 1 or "\\" in name
    local = not remote and (path.exists() or folder_like)
    if config.revision is not None and (remote or local):
        raise UsageError(
            f"model.revision={config.revision}: only hub models have revisions, and {redact(name)} is none; remove it"
        )
    if remote:
        return fetch_store(name, config.storage_options), None
    if not local:
        return fetch_hub(name, config.revision)
    if not path.is_dir():
        raise UsageError(f"model.name={name}: no such folder; correct the path, or write a hub name as organisation/name")
    return path.resolve(), None


def _package_folder(name: str) -> Path:
    """`package:NAME/folder`: a model inside an installed Python package, which is located without importing it."""
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"model.name={name}: no Python package {package!r} is installed here; pip install it on every node")
    if ".." in PurePosixPath(inside).parts:
        raise UsageError(f"model.name={name}: leaves the package's folder; correct it")
    return Path(next(iter(spec.submodule_search_locations)), inside)


def _built_in(model_type: str) -> bool:
    """Whether transformers has the architecture itself, so that auto_map is an alternative that is not used."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # a slow import, needed for few models

    return model_type in CONFIG_MAPPING_NAMES


def _check_static(folder: Path, shown: str) -> None:
    """By what both libraries read: weights in one file, and tokenizer.json."""
    if not (folder / "model.safetensors").is_file():
        _check_weights(folder, shown)
        raise UsageError(f"{shown}: a {STATIC} has its table in one file, and {folder} has several; fetch the model again")
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"{shown}: no tokenizer.json in {folder}; a {STATIC} needs it: fetch the model again")


def _check_modules(folder: Path, shown: str) -> None:
    for module in read_modules(folder):
        if module.kind in WEIGHTED_MODULES:
            _check_weights(folder / module.path, f"{shown}: module {module.path}")


def _check_weights(folder: Path, shown: str) -> None:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = {str(shard) for shard in weight_map(index).values()}
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing or not shards:
            raise UsageError(
                f"{shown}: {index.name} names weights that are not there ({', '.join(missing[:3])}); fetch the model again"
            )
        return
    raise UsageError(
        f"{shown}: no model.safetensors in {folder}; pickled weights (pytorch_model.bin) are never loaded: "
        "convert the model with save_pretrained, or name a model or revision that has safetensors"
    )


def _digested_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files that decide vectors, and those that decide tokens."""
    transformer = transformer_folder(folder)
    weights = _matching(folder, _MODEL_FILES)
    weights += _matching(transformer, ("*.safetensors", "model.safetensors.index.json", "config.json", *TRANSFORMER_CONFIGS))
    for module in read_modules(folder)[1:]:
        if module.path:
            weights += _matching(folder / module.path, ("*.safetensors", "config.json", "lstm_config.json"))
    return weights, _matching(transformer, _TOKENIZER_FILES)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def _digest(folder: Path, paths: list[Path]) -> str:
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in set(paths)):
        with path.open("rb") as stream:
            total.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
