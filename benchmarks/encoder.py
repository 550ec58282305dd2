"""The encoder alone, token ids to vectors: tokens a second, and the share of the machine's peak of matrix products.

    python -m benchmarks.encoder CORPUS.parquet --model FOLDER|package:NAME/folder [--random bert-base|bert-large]
        [--rows 4000] [--precisions float32 bfloat16 int8] [--rounds 5] [--compile] [--out FILE]

1. tokenise a seeded sample of the corpus; load the model once a precision (random weights with --random)
2. each contestant once, untimed: kernels are compiled, and vectors are compared with transformers' in float32
3. rounds, another order every round: matrix products, encoder, matrix products again. The share of a round is the encoder's
   FLOP (models.Shape: products alone, real tokens alone) against the mean of the two peaks around it
4. the same for plain transformers, padded, on length-sorted batches of the same budget, eager or (--compile) torch.compile

One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gemm import Peak
from benchmarks.models import RANDOM, Bench, facts, random_model, running, say, spread, store
from benchmarks.peers import find_model, sample
from workers.engine.encoder import Encoder
from workers.engine.ways.padded import Padded
from workers.records.tokens import TokenizedTexts
from workers.table.vectors import cosines

PLAIN = "transformers"


class Contender:
    """One encoder, what it is called, and what it did so far."""

    def __init__(self, name: str, precision: str, way: str, encoder: Encoder) -> None:
        self.name, self.precision, self.way, self.encoder = name, precision, way, encoder
        self.vectors = np.empty((0, 0), np.float32)
        self.rates: list[float] = []
        self.shares: list[float] = []
        self.warm_seconds = 0.0

    def warm(self, tokens: TokenizedTexts) -> None:
        began = time.perf_counter()
        self.vectors = self.encoder.encode(tokens).vectors
        self.warm_seconds = time.perf_counter() - began

    def turn(self, tokens: TokenizedTexts, flop: float, peak: Peak) -> None:
        before = peak.measure()
        began = time.perf_counter()
        self.encoder.encode(tokens)
        rate = len(tokens.input_ids) / (time.perf_counter() - began)
        self.rates.append(rate)
        self.shares.append(rate * flop / ((before + peak.measure()) / 2))

    def row(self, flop: float, peak: Peak, reference: np.ndarray) -> dict[str, Any]:
        found = cosines(self.vectors, reference)
        rates = spread(self.rates)
        return {
            "precision": self.precision,
            "way": self.way,
            "batch_tokens": self.encoder.batch_tokens,
            "tokens_per_second": rates,
            "gflops": round(rates["median"] * flop / 1e9, 1),
            "share_of_peak": spread(self.shares, 4),
            "share_of_best_peak": round(rates["median"] * flop / max(peak.seen), 4),
            "cosine_min": round(float(np.nanmin(found)), 6),
            "cosine_mean": round(float(np.nanmean(found)), 6),
            "not_finite": int((~np.isfinite(found)).sum()),
            "warm_up_seconds": round(self.warm_seconds, 2),
        }


def contenders(bench: Bench, options: argparse.Namespace) -> tuple[list[Contender], list[str]]:
    """Ours in every precision, plain transformers in those that it has; and why some do not take part."""
    found, notes = [], []
    encoder: Encoder | None = None
    for precision in options.precisions:
        say(f"loading {precision}")
        encoder = bench.encoder(precision, options.batch_tokens or "auto", options.threads)
        found.append(Contender(f"reembed {precision}", precision, encoder.way, encoder))
    if encoder is None:
        raise SystemExit("--precisions: name at least one")
    plain = dict.fromkeys(["float32", *(name for name in options.precisions if name != "int8")])
    for precision in plain:
        padded = Padded(bench.transformer(encoder, precision))
        found.append(Contender(f"{PLAIN} {precision}", precision, "eager, padded", running(encoder, padded)))
        if options.compile:
            compiled = Padded(bench.transformer(encoder, precision))
            torch._inductor.config.freezing = encoder.device.type == "cpu"
            compiled._model = torch.compile(compiled._model, dynamic=True)
            name = f"torch.compile {precision}"
            found.append(Contender(name, precision, "compiled, padded", running(encoder, compiled)))
    return found, notes


def attempt(name: str, notes: list[str], run: Callable[[], None]) -> bool:
    """Opponents may fail (compilers do); we may not."""
    try:
        run()
    except Exception as error:
        if name.startswith("reembed"):
            raise
        notes.append(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        say(notes[-1])
        return False
    return True


def measure(bench: Bench, title: str, options: argparse.Namespace) -> dict[str, Any]:
    tokens = bench.tokenizer.tokenize(sample(options.corpus, options.rows, options.seed).column("text").to_pylist())
    flop = bench.shape.flop_per_token(tokens.lengths)
    everybody, notes = contenders(bench, options)
    device = everybody[0].encoder.device
    peaks = {who.precision: Peak(bench.shape, who.precision, device, square=not options.no_square) for who in everybody}
    say(f"{title}: {len(tokens.lengths):,} texts, {len(tokens.input_ids):,} tokens, {flop / 1e6:.1f} MFLOP a token; warming")
    everybody = [who for who in everybody if attempt(who.name, notes, lambda who=who: who.warm(tokens))]
    reference = next(who for who in everybody if who.name == f"{PLAIN} float32").vectors
    result: dict[str, Any] = {}
    for number in range(options.rounds):
        turn = number % len(everybody)
        for who in everybody[turn:] + everybody[:turn]:
            who.turn(tokens, flop, peaks[who.precision])
            say(f"round {number + 1}  {who.name:<24} {who.rates[-1]:>12,.0f} tokens/s  {who.shares[-1]:6.1%} of peak")
        result = {
            **facts("encoder"),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "corpus": options.corpus.name,
            "model": title,
            "rows": len(tokens.lengths),
            "tokens": len(tokens.input_ids),
            "longest": int(tokens.lengths.max()),
            "flop_per_token": round(flop),
            "rounds": number + 1,
            "seed": options.seed,
            "peaks_gflops": {
                name: {**spread((rate / 1e9 for rate in peak.seen), 1), "best_shape": peak.shape_of_best}
                for name, peak in peaks.items()
            },
            "contenders": {who.name: who.row(flop, peaks[who.precision], reference) for who in everybody},
            "notes": notes,
        }
        store(result, options.out)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--random", choices=tuple(RANDOM), help="random weights of that size, tokenizer of --model")
    parser.add_argument("--rows", type=int, default=4000)
    default = ("float32", "float16", "bfloat16") if torch.cuda.is_available() else ("float32", "bfloat16", "int8")
    parser.add_argument("--precisions", nargs="+", default=default, choices=("float32", "float16", "bfloat16", "int8"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, help="the product's choice when absent")
    parser.add_argument("--threads", type=int, help="torch's; all cores when absent")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile of the padded model as well")
    parser.add_argument("--no-square", action="store_true", help="leave the large square product out of the peak")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    folder = find_model(options.model)
    title = f"{options.random}, random weights" if options.random else f"{folder.parent.name}/{folder.name}"
    with tempfile.TemporaryDirectory(prefix="encoder-") as place:
        if options.random:
            folder = random_model(options.random, folder, Path(place))
        result = measure(Bench(folder), title, options)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
