"""All measurements on a GPU machine in one command with a time budget. README.md in this folder: what to run in which order.

    python -m benchmarks.gpu CORPUS.parquet --model FOLDER|package:NAME/folder --out FOLDER
        [--seconds 540] [--sections ceilings ways ...] [--models given bert-base bert-large] [--commit HASH] [--smoke]

Sections run in this order, each for every model before the next one begins:

    facts         device, driver, versions
    ceilings      copies and bare matrix products, in every shape of the models
    load          the product's own encoder, proved on its golden texts
    correctness   half precision against float32 over all lengths, attention against float64
    ways          every way to run the model: tokens/s, host beside device time, kernels
    whole         calls of the encoder, alone and beside a busy interpreter
    tokenizer     by threads
    end_to_end    `reembed embed`, one replica and four (needs Ray)
    peers         sentence-transformers in half precision

FOLDER/gpu.json is rewritten after every figure, FOLDER/kernels_*.txt are the profiler's tables, FOLDER/power.csv is what the
device drew. `given` is --model; the others are BERTs of known size with random weights and its tokenizer. --smoke runs every
section at the smallest size, on a CPU too. Without a GPU and without --smoke: exit 2. A failed section or check: exit 1.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.ceilings import ceilings
from benchmarks.gpu.correctness import correctness
from benchmarks.gpu.device import CUDA
from benchmarks.gpu.device import facts as device_facts
from benchmarks.gpu.end_to_end import end_to_end
from benchmarks.gpu.host import tokenizer, whole
from benchmarks.gpu.opponents import peers
from benchmarks.gpu.session import Pairs, Session
from benchmarks.gpu.subject import Subject
from benchmarks.gpu.ways import ways
from benchmarks.models import RANDOM, facts, random_model, say
from benchmarks.peers import find_model, sample

ESTIMATES = {  # seconds on an H100, about: of all models together for the first two, of one model for the others
    "facts": 2.0, "ceilings": 30.0, "load": 8.0, "correctness": 20.0, "ways": 75.0, "whole": 17.0, "tokenizer": 30.0,
    "end_to_end": 75.0, "peers": 20.0,
}  # fmt: skip
SECTIONS = tuple(ESTIMATES)
ALWAYS = ("facts", "load")
MODELS = ("given", "bert-base", "bert-large")
SMOKE_ROWS, SMOKE_MODELS = 40, ("given", "bert-tiny")


class Program:
    """The sections of one command, over the models that could be loaded."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._given = find_model(options.model)
        self._table = sample(options.corpus, SMOKE_ROWS if options.smoke else options.rows, options.seed)
        head = facts("gpu")
        self.session = Session(
            {**head, "commit": head["commit"] or options.commit, "corpus": options.corpus.name, "rows": len(self._table),
             "seed": options.seed, "smoke": options.smoke, "budget_seconds": options.seconds},
            options.out, options.seconds,
        )  # fmt: skip

    def run(self) -> None:
        wanted = [name for name in SECTIONS if name in self._options.sections or name in ALWAYS]
        subjects: list[Subject] = []
        for section in wanted:
            if section == "facts":
                self._run(section, "", device_facts())
            elif section == "ceilings":
                self._run(section, "", ceilings(smoke=self._options.smoke))
            elif section == "load":
                for kind in self._options.models:
                    self._run(section, self._title(kind), self._load(kind, subjects))
            elif section == "tokenizer":
                for subject in subjects[:1]:
                    self._run(section, subject.title, tokenizer(subject, self._options.corpus))
            else:
                for subject in subjects:
                    self._run(section, subject.title, self._pairs(section)(subject))

    def _run(self, section: str, model: str, pairs: Pairs) -> None:
        self.session.run(section, model, 0.0 if self._options.smoke else ESTIMATES[section], pairs)

    def _title(self, kind: str) -> str:
        return f"{self._given.parent.name}/{self._given.name}" if kind == "given" else f"{kind}, random weights"

    def _load(self, kind: str, subjects: list[Subject]) -> Pairs:
        place = self._given if kind == "given" else random_model(kind, self._given, self._folder)
        subject = Subject(self._title(kind), place, self._table, smoke=self._options.smoke)
        yield from subject.load().items()
        subjects.append(subject)

    def _pairs(self, section: str) -> Callable[[Subject], Pairs]:
        options = self._options
        found: dict[str, Callable[[Subject], Any]] = {
            "correctness": correctness,
            "ways": functools.partial(ways, out=options.out, compiled=not options.no_compile),
            "whole": whole,
            "end_to_end": self._end_to_end,
            "peers": peers,
        }
        return found[section]

    def _end_to_end(self, subject: Subject) -> Pairs:
        options = argparse.Namespace(**vars(self._options))
        options.limit_seconds = min(options.limit_seconds, max(self.session.left, 1.0))
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            yield from end_to_end(subject, options, Path(place))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", choices=("given", *RANDOM), help=f"{' '.join(MODELS)} when absent")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--seconds", type=float, default=540.0, help="budget of the whole command")
    parser.add_argument("--rows", type=int, help="of the corpus, drawn once; all when absent")
    parser.add_argument("--work-seconds", type=float, default=8.0, help="of work in an end-to-end run, about")
    parser.add_argument("--limit-seconds", type=float, default=120.0, help="of one end-to-end run")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: a minute a model")
    parser.add_argument("--commit", help="of this tree, where .git did not travel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if not options.smoke and not CUDA:
        print("benchmarks.gpu: torch finds no GPU here; use --smoke to try it on a CPU", file=sys.stderr)
        raise SystemExit(2)
    if options.smoke:
        options.work_seconds, options.seconds = 0.01, float("inf")
        torch.set_num_threads(1)  # threads that wait for each other are slow where the cores are busy
    options.models = options.models or (SMOKE_MODELS if options.smoke else MODELS)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run in progress is ended with this
    torch.manual_seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        program = Program(options, Path(folder))
        try:
            program.run()
        finally:
            program.session.close()
    say(f"{program.session.spent:6.1f} s  all in {options.out / 'gpu.json'}")
    if program.session.failures:
        raise SystemExit("\n".join(program.session.failures))


if __name__ == "__main__":
    main()
