"""Static models by their files: a table with a vector for each token, and a tokenizer. A text has the mean of those vectors.

    model2vec                config.json: normalize, max_length; model.safetensors: embeddings, and where the vocabulary is
                             quantised mapping (token -> row) and weights (of each token); tokenizer.json
    sentence-transformers    modules.json: StaticEmbedding; embedding.weight beside tokenizer.json, which may say where texts
                             are truncated

Each folder is read by the rules of the library that wrote it, which the name of the table tells. They differ: model2vec
drops the unknown token, reads no more than max_length times the median length of its tokens' strings of a text's
characters, and truncates to 512 tokens if its file does not say. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from workers.errors import UsageError
from workers.model.auto_tokenizer import Conversion
from workers.model.files import MODEL2VEC_TABLE, tensor_shapes
from workers.model.module_list import STATIC, read_json
from workers.model.tokenizer_files import backend

ST_TABLE = "embedding.weight"
MAPPING, WEIGHTS = "mapping", "weights"
NO_LIMIT = (1 << 31) - 1  # tokens of a text that is not truncated
_USUAL_TOKENS = 512  # model2vec's DEFAULT_MAX_LENGTH


@dataclass(frozen=True, slots=True)
class StaticLayout:
    """What the files say. Written to run.json: numbers and texts alone."""

    table: str  # name of the tensor
    vocabulary: int  # ids that have a vector
    dim: int
    unknown: int | None = None  # id of a token that does not count; None: all count
    characters: int | None = None  # a token: so many times max_tokens characters of a text are read; None: all

    @property
    def own(self) -> bool:
        """Whether model2vec wrote it."""
        return self.table == MODEL2VEC_TABLE


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What the user's settings may replace."""

    max_tokens: int
    normalize: bool | None  # None: modules.json says


def read_static(folder: Path, conversion: Conversion) -> tuple[StaticLayout, StaticSettings]:
    """Of the folder that holds table and tokenizer.

    Raises: UsageError: a file is damaged, or holds no such table.
    """
    path = folder / "model.safetensors"
    shapes = tensor_shapes(path)
    own = MODEL2VEC_TABLE in shapes
    name = MODEL2VEC_TABLE if own else ST_TABLE
    shape = shapes.get(name, ())
    if len(shape) != 2 or 0 in shape:
        raise UsageError(
            f"{path}: holds no table of token vectors ({MODEL2VEC_TABLE} or {ST_TABLE}); a {STATIC} needs one: fetch the "
            "model again"
        )
    if not own:
        return StaticLayout(name, *shape), StaticSettings(conversion.max_tokens or NO_LIMIT, None)
    for key in (MAPPING, WEIGHTS):
        if key in shapes and len(shapes[key]) != 1:
            raise UsageError(f"{path}: {key} has {len(shapes[key])} dimensions, and must be a list; fetch the model again")
    tokenizer = backend(conversion)
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    known = shapes[MAPPING][0] if MAPPING in shapes else shape[0]
    for key, size in ((name if MAPPING not in shapes else MAPPING, known), (WEIGHTS, shapes.get(WEIGHTS, (known,))[0])):
        if size != len(tokens):
            raise UsageError(
                f"{path}: {key} is for {size} tokens, tokenizer.json has {len(tokens)}; save the model with the tokenizer "
                "it was made with"
            )
    median = int(np.median([len(token) for token in tokens]))
    layout = StaticLayout(name, known, shape[1], _unknown(tokenizer), median)
    return layout, _settings(folder / "config.json")


def _settings(path: Path) -> StaticSettings:
    config: Mapping[str, Any] = read_json(path)
    normalize = config.get("normalize", False)
    if not isinstance(normalize, bool):
        raise UsageError(f"{path}: normalize must be true or false, not {normalize!r}; correct it")
    length = config.get("max_length", _USUAL_TOKENS)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise UsageError(f"{path}: max_length must be a number of tokens or null, not {length!r}; correct it")
    return StaticSettings(NO_LIMIT if length is None else length, normalize)


def _unknown(tokenizer: Tokenizer) -> int | None:
    """As model2vec finds it: by name, in a Unigram model by id."""
    model = json.loads(tokenizer.to_str())["model"]
    if "unk_id" in model:
        found: int | None = model["unk_id"]
        return found
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)
