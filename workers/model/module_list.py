"""modules.json: which modules a sentence-transformers model has, in order, and the routes of a Router.

modules.py reads the modules' own files. A type that is not sentence-transformers' own is custom code, which is never run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from workers.errors import UsageError

_OWN_MODULES = ("Transformer", "Pooling", "Dense", "LSTM", "Normalize", "Dropout", "Router")
ROUTER = "Router"
STATIC = "StaticEmbedding"
_ALIASES = {"pylate.models.Dense.Dense": "sentence_transformers.base.modules.dense.Dense"}
_OWN_PACKAGES = r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)"
_SPARSE_PACKAGES = r"sentence_transformers\.sparse_encoder\.(models|modules)"
_STATIC_TYPE = r"sentence_transformers\.(models|sentence_transformer\.modules)(\.(StaticEmbedding|static_embedding))?"
_SPARSE_MODULES = {"MLMTransformer": "mlm_transformer", "SpladePooling": "splade_pooling"}  # and their files, since 5.4


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """An entry of modules.json. `kind`: the class name in `type`. `path`: the module's folder, relative to the model's."""

    kind: str
    path: str
    type: str


def read_modules(folder: Path) -> list[ModuleEntry]:
    """The entries of a sentence-transformers model's modules.json, in order; [] if it has none.

    In place of a Router stand the modules of its route for documents.

    Raises:
        UsageError: malformed, a path outside the model's folder, or a type that is not sentence-transformers' own.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    entries: list[ModuleEntry] = []
    names: set[str] = set()
    for item in read_json(path, list):
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("name", "path", "type")):
            raise UsageError(f"{path}: must list modules with name, path and type, not {item!r}; fetch the model again")
        if item["name"] in names:
            raise UsageError(f"{path}: two modules have the name {item['name']!r}; correct it")
        names.add(item["name"])
        entry = _entry(path, item["type"], item["path"])
        entries += [entry] if entry.kind != ROUTER else read_route(folder, entry, "document")
    if not entries:
        raise UsageError(f"{path}: lists no modules; fetch the model again")
    if entries[0].kind not in ("Transformer", "MLMTransformer", STATIC):
        raise UsageError(
            f"{path}: the first module is {entries[0].kind}; only Transformer and {STATIC} are supported: use another model"
        )
    return entries


def read_route(folder: Path, router: ModuleEntry, task: str) -> list[ModuleEntry]:
    """The modules that a Router sends texts of a task (`document`, `query`) through, as sentence-transformers chooses.

    Raises: UsageError: there is no such route, or the file is damaged.
    """
    path = folder / router.path / "router_config.json"
    config = read_json(path if path.is_file() else path.with_name("config.json"))
    types, structure, parameters = (config.get(key) for key in ("types", "structure", "parameters"))
    mappings = (parameters or {}).get("route_mappings") or {}
    if not all(isinstance(value, dict) for value in (types, structure, mappings)):
        raise UsageError(f"{path}: types, structure and route_mappings must be JSON objects; fetch the model again")
    keys = [str(key) for key in ((task, "text"), (task, None), (None, "text"), (None, None))]
    named = [mappings[key] for key in keys if key in mappings] + [name for name in (task, "text") if name in structure]
    route = named[0] if named else None
    if route not in structure:
        raise UsageError(f"{path}: has no route for task {task!r} (routes: {', '.join(structure)}); use a model with one")
    found = []
    for name in structure[route]:
        if not isinstance(types.get(name), str):
            raise UsageError(f"{path}: names no type for module {name!r}; fetch the model again")
        found.append(_entry(path, types[name], PurePosixPath(router.path, name).as_posix()))
    return found


def _entry(path: Path, kind: str, place: str) -> ModuleEntry:
    """`path`: of the file that lists it. Raises: UsageError: a place or a type that is refused."""
    kind = _ALIASES.get(kind, kind)
    if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts or "\\" in place:
        raise UsageError(f"{path}: module path {place!r} leaves the model's folder; correct it")
    if not kind.startswith("sentence_transformers."):
        raise UsageError(f"{path}: module type {kind!r} is custom code, which is never run; use a model without it")
    name = kind.rpartition(".")[2]
    if name in _OWN_MODULES and not re.fullmatch(rf"{_OWN_PACKAGES}(\.{name.lower()})?\.{name}", kind):
        raise UsageError(f"{path}: sentence-transformers has no module type {kind!r}; correct it")
    if name == STATIC and not re.fullmatch(rf"{_STATIC_TYPE}\.{STATIC}", kind):
        raise UsageError(f"{path}: sentence-transformers has no module type {kind!r}; correct it")
    file = _SPARSE_MODULES.get(name)
    if file and not re.fullmatch(rf"{_SPARSE_PACKAGES}(\.({name}|{file}))?\.{name}", kind):
        raise UsageError(f"{path}: sentence-transformers has no module type {kind!r}; correct it")
    return ModuleEntry(name, place, kind)


def query_route(folder: Path) -> list[ModuleEntry] | None:
    """The modules that queries go through, where they are others than those of documents; None: they are the same.

    Raises: UsageError: as read_modules.
    """
    path = folder / "modules.json"
    if not path.is_file() or not any(ROUTER in str(item) for item in read_json(path, list)):
        return None
    listed = [_entry(path, item["type"], item["path"]) for item in read_json(path, list)]
    found: list[ModuleEntry] = []
    for entry in listed:
        found += [entry] if entry.kind != ROUTER else read_route(folder, entry, "query")
    return None if found == read_modules(folder) else found


def transformer_folder(folder: Path) -> Path:
    """The folder of config.json, weights and tokenizer: the model's own, or `0_Transformer` in old layouts."""
    modules = read_modules(folder)
    return folder / modules[0].path if modules else folder


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file. Raises: UsageError: the file is missing, not JSON, or its value is not a `kind`."""
    try:
        value = json.loads(path.read_bytes().decode())  # UTF-8 alone, as Hugging Face's libraries read them
    except FileNotFoundError:
        raise UsageError(f"{path}: missing; the model's folder is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error}); fetch the model again") from None
    if not isinstance(value, kind):
        raise UsageError(f"{path}: must hold a JSON {kind.__name__}, not {type(value).__name__}; fetch the model again")
    return value
