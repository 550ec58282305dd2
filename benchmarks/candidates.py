"""A grid of layers and poolings from one forward pass, against one embedding run of the same texts and transformers.

    python -m benchmarks.candidates CORPUS.parquet --model FOLDER|package:NAME/folder
                                    [--texts 1000] [--rounds 5] [--precision auto float32] [--threads 1] [--out FILE]

Rounds are interleaved: the model's own vectors, then all layers by cls, mean and max; CPU seconds of the process, medians.
Promised: at most 1.3 times the time. `largest_difference`: of any component of any cell to transformers' hidden_states in
float32, one text at a time, pooled in float64, unit length (promised for float32: 1e-5). One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.peers import sample
from workers.config import ModelConfig, Pooling, Precision
from workers.engine.cells import Cell
from workers.engine.encoder import Encoder, EncoderOptions
from workers.model.files import ModelFiles, resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer

POOLINGS = (Pooling.CLS, Pooling.MEAN, Pooling.MAX)
COMPARED = 50  # texts that are compared with transformers


def reference(files: ModelFiles, texts: list[str], cells: list[Cell], max_tokens: int) -> list[np.ndarray]:
    """[N, H] of each cell."""
    tokenizer, model = AutoTokenizer.from_pretrained(files.folder), AutoModel.from_pretrained(files.folder).eval()
    found: list[list[np.ndarray]] = [[] for _ in cells]
    how = {Pooling.CLS: lambda x: x[0], Pooling.MEAN: lambda x: x.mean(axis=0), Pooling.MAX: lambda x: x.max(axis=0)}
    for text in texts:
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]])
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        layers = [state[0].double().numpy() for state in states]
        for vectors, cell in zip(found, cells, strict=True):
            vector = how[cell.pooling](layers[cell.layer])
            vectors.append(vector / np.linalg.norm(vector))
    return [np.stack(vectors) for vectors in found]


def measured(config: ModelConfig, texts: list[str], rounds: int, precision: str, threads: int) -> dict[str, Any]:
    files = resolve_model(config)
    recipe = read_recipe(files, config)
    tokenizer = TextTokenizer(files.folder, recipe)
    encoder = Encoder(files, recipe, tokenizer.tokenize(GOLDEN_TEXTS), EncoderOptions(Precision(precision), threads=threads))
    cells = [Cell(layer, pooling) for layer in range((encoder.layers or 0) + 1) for pooling in POOLINGS]
    tokens = tokenizer.tokenize(texts)
    own, grid = [], []
    for _ in range(rounds):
        began = time.process_time()
        encoder.encode(tokens)
        own.append(time.process_time() - began)
        began = time.process_time()
        encoder.encode_cells(tokens, cells)
        grid.append(time.process_time() - began)
    few = texts[:COMPARED]
    expected = reference(files, few, cells, recipe.max_tokens)
    found = encoder.encode_cells(tokenizer.tokenize(few), cells)
    worst = max(float(np.abs(one.vectors - other).max()) for one, other in zip(found, expected, strict=True))
    return {
        "way": encoder.way,
        "cells": len(cells),
        "own_seconds": round(statistics.median(own), 3),
        "grid_seconds": round(statistics.median(grid), 3),
        "ratio": round(statistics.median(grid) / statistics.median(own), 3),
        "largest_difference": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["auto", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = sample(options.corpus, options.texts, 0)["text"].to_pylist()
    config = ModelConfig(name=options.model)
    report: dict[str, Any] = {"texts": len(texts), "threads": options.threads, "load_before": os.getloadavg()[0]}
    for precision in options.precision:
        report[precision] = measured(config, texts, options.rounds, precision, options.threads)
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
