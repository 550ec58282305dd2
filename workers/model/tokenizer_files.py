"""Loads a model's tokenizer: the one that transformers' AutoTokenizer makes of its files, by the `tokenizers` library alone.

    digest of the files -> the cache of this machine, else convert (auto_tokenizer.py) in an isolated process -> the cache

The conversion takes a second or two, once for a model on a machine; a cached one some milliseconds, and imports neither
transformers nor torch. A cache that cannot be written costs time only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import uuid
from pathlib import Path

import filelock
from tokenizers import Tokenizer

from workers.errors import UsageError
from workers.host.isolated_process import IsolatedProcess, ProcessEnded
from workers.model.auto_tokenizer import Conversion, convert, convert_alone
from workers.model.fetch import cache_folder
from workers.model.module_list import read_json
from workers.model.transformer_settings import TransformerSettings

VERSION = 1  # of the cached form; raised when `convert` gives something else for the same files
LOCK_SECONDS = 180.0  # a node's replicas start together, and wait for one conversion
_OBJECTS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".codes")  # all that a tokenizer may be read from
_unkept: dict[str, Conversion] = {}  # the last one that could not be written to the cache, by its key
log = logging.getLogger("reembed")


def read_conversion(folder: Path, settings: TransformerSettings) -> Conversion:
    """The tokenizer in `folder` (the transformer's), from the cache if it is there.

    Raises:
        UsageError: the files cannot be used; names the odd one.
    """
    for name in _OBJECTS:
        if (folder / name).is_file():
            read_json(folder / name)
    key = _key(folder, settings)
    cached = cache_folder() / "tokenizers" / key
    if (known := _unkept.get(key) or _load(cached)) is not None:
        return known
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{cached}.lock", timeout=LOCK_SECONDS):
            if (known := _load(cached)) is None:
                known = _convert(folder, settings)
                part = cached.with_name(f"{cached.name}.{uuid.uuid4().hex}")
                part.write_bytes(_stored(known))
                part.replace(cached)
            return known
    except (OSError, filelock.Timeout) as error:
        log.info("the tokenizer of %s is not kept for the next start: %s", folder, error)
    known = known or _convert(folder, settings)
    _unkept.clear()
    _unkept[key] = known
    return known


def backend(conversion: Conversion) -> Tokenizer:
    """The tokenizer, without truncation and padding."""
    tokenizer = Tokenizer.from_str(conversion.tokenizer)
    tokenizer.encode_special_tokens = conversion.split_special_tokens
    return tokenizer


def _convert(folder: Path, settings: TransformerSettings) -> Conversion:
    with IsolatedProcess() as isolated:
        try:
            if settings.tokenizer_alone:
                return isolated.call(convert_alone, folder)
            return isolated.call(
                convert,
                folder,
                dict(settings.tokenizer),
                settings.do_lower_case,
                settings.add_special_tokens,
                settings.markers,
            )
        except ProcessEnded as ended:
            raise UsageError(f"{folder}: loading its tokenizer (tokenizer.json) {ended}; fetch the model again") from None


def _stored(conversion: Conversion) -> bytes:
    """A line of JSON, then the tokenizer, which may be tens of MB."""
    head = dataclasses.asdict(conversion)
    body: bytes = head.pop("tokenizer").encode()
    return json.dumps(head | {"bytes": len(body)}).encode() + b"\n" + body


def _load(path: Path) -> Conversion | None:
    """None: not there, or damaged, which costs a conversion."""
    try:
        line, _, body = path.read_bytes().partition(b"\n")
        value = json.loads(line)
        if value.pop("bytes") != len(body):
            raise ValueError("cut off")
        value["texts"], value["truncated"] = tuple(value["texts"]), tuple(value["truncated"])
        value["tokens"] = tuple(map(tuple, value["tokens"]))
        return Conversion(tokenizer=body.decode(), **value)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.info("%s: not used (%s)", path, error)
        return None


def _key(folder: Path, settings: TransformerSettings) -> str:
    """A digest of everything that decides the conversion."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if settings.tokenizer_alone:
        files = [path for path in files if path.name == "tokenizer.json"]
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    versions = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    options = [dict(settings.tokenizer), settings.do_lower_case, settings.add_special_tokens, *settings.markers]
    if settings.tokenizer_alone:
        options.append("alone")
    return hashlib.sha256(json.dumps([VERSION, digests, versions, options], sort_keys=True).encode()).hexdigest()
