"""Model folders with one odd file each: a fuzzer over their JSON. The same number is always the same folder.

Half are edits that people make (a setting left over, added, of another type); half are drawn: any value of any file becomes
another one, a key is lost, doubled or renamed, the file is cut off.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from tests.workers.model_folders import ADDED

FILES = (
    "config.json", "modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.json",
)  # fmt: skip
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_SENTENCE, _TOKENIZER, _RETRIEVAL, _MODEL, _POOLING = FILES[4], FILES[6], FILES[5], FILES[0], FILES[2]
EDITS: tuple[tuple[str, dict[str, Any]], ...] = (
    (_TOKENIZER, {"truncation_side": "left"}),
    (_TOKENIZER, {"do_lower_case": False}),
    (_TOKENIZER, {"strip_accents": False, "tokenize_chinese_chars": False}),
    (_TOKENIZER, {"split_special_tokens": True}),
    (_TOKENIZER, {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}),
    (_TOKENIZER, {"tokenizer_class": "RobertaTokenizer"}),
    (_TOKENIZER, {"tokenizer_class": "NoSuchTokenizer"}),
    (_TOKENIZER, {"additional_special_tokens": ["harbour"]}),
    (_TOKENIZER, {"model_max_length": 9}),
    (_TOKENIZER, {"added_tokens_decoder": {"601": ADDED}}),
    (_TOKENIZER, {"processor_class": "CLIPProcessor"}),
    (_SENTENCE, {"max_seq_length": 7}),
    (_SENTENCE, {"max_seq_length": True}),
    (_SENTENCE, {"document_length": 8}),
    (_SENTENCE, {"do_lower_case": True}),
    (_SENTENCE, {"processing_kwargs": {"text": {"add_special_tokens": False}}}),
    (_SENTENCE, {"processor_kwargs": {"truncation_side": "left"}}),
    (_SENTENCE, {"modality_config": {"text": FORWARD, "message": {**FORWARD, "format": "flat"}}}),
    (_SENTENCE, {"config_kwargs": {"hidden_act": "relu"}}),
    (_RETRIEVAL, {"prompts": {"document": "Passage: ", "query": "Query: "}}),
    (_RETRIEVAL, {"truncate_dim": 8}),
    (_MODEL, {"hidden_act": "relu"}),
    (_MODEL, {"is_decoder": True}),
    (_POOLING, {"pooling_mode_cls_token": True}),
    (_POOLING, {"include_prompt": False}),
)


def odd_folder(sound: Path, target: Path, number: int) -> str:
    """A copy of the sound folder with one odd file; its name."""
    shutil.copytree(sound, target)
    if number < len(EDITS):
        name, changes = EDITS[number]
        value = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps(value | changes))
        return name
    draw = random.Random(number)
    name = FILES[number % len(FILES)]
    path = target / name
    if draw.random() < 0.1:
        path.write_bytes(path.read_bytes()[: -draw.randint(1, 20)])
        return name
    value = json.loads(path.read_text())
    places = list(_places(value, 0))
    holder, key = draw.choice(places)
    draw.choice((_replace, _replace, _replace, _lose, _rename, _add))(holder, key, draw)
    path.write_text(json.dumps(value))
    return name


Holder = dict[str, Any] | list[Any]


def _places(value: Any, depth: int) -> list[tuple[Holder, Any]]:
    """(object or list, key) of every value; of a vocabulary only a few."""
    found: list[tuple[Holder, Any]] = []
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys if len(keys) < 60 else keys[::97]:
            found += [(value, key)] * (3 if depth == 0 else 1)
            found += _places(value[key], depth + 1)
    return found


def _replace(holder: Any, key: Any, draw: random.Random) -> None:
    old = holder[key]
    others: list[Any] = [None, True, False, 0, -1, 3, 10**12, 0.5, "", "x", "mean", [], {}, ["x"], {"x": 1}]
    if isinstance(old, bool):
        others += [not old] * 8
    elif isinstance(old, int):
        others += [old + 1, old - 1, old * 2, str(old)] * 3
    elif isinstance(old, str):
        others += [old + "x", old.upper(), old[1:], old.swapcase()] * 3
    holder[key] = draw.choice([other for other in others if other != old or type(other) is not type(old)])


def _lose(holder: Any, key: Any, draw: random.Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, draw: random.Random) -> None:
    if isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
    else:
        holder.reverse()


def _add(holder: Any, key: Any, draw: random.Random) -> None:
    if isinstance(holder, dict):
        holder["a_new_key"] = holder[key]
    else:
        holder.append(holder[key])
