"""The same corpus embedded by reembed and by its peers, file to file, start-up included: seconds, CPU seconds, cosines.

    python -m benchmarks.peers --install                        # once: environments of peers, into .venv-peers/
    python -m benchmarks.peers CORPUS.parquet --model FOLDER|package:NAME/folder [--rows 8000] [--rounds 3] [--only NAME ...]
                               [--seed 1] [--earlier CHECKOUT] [--out benchmarks/results/peers_8000_2core-epyc.json]

1. a seeded sample of the corpus (columns id, text, section) in one Parquet file; exports for OpenVINO and ONNX Runtime, kept
   and not counted
2. each contestant once on a few rows, untimed, to warm the disk cache and to find those that cannot run: peers that cannot,
   or that could not be installed, are left out, and named with the reason; one that --only names ends the run
3. rounds: each contestant once, alone in a fresh process group, in another order every round; then rows, ids and cosine of
   its output against sentence-transformers in float32
4. medians, spread, and the slowdown of each peer against each reembed; written after every round

contestants/roster.py lists the contestants and their settings; `NAME@setting=value` tries another setting. One JSON object
on stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contestants import environments, report
from benchmarks.contestants.files import NOTE
from benchmarks.contestants.judge import Judge, count_tokens, read_vectors
from benchmarks.contestants.roster import REFERENCE, ROOT, ROSTER, STANDARD, Contestant, command, earlier, find, surroundings
from benchmarks.contestants.stopwatch import run_timed
from benchmarks.machine import commit, hardware
from workers.config import ModelConfig
from workers.errors import UsageError
from workers.model.files import resolve_model

WARM_ROWS = 64
ROW_GROUP = 2000
EXPORTS = environments.HOME / "exports"


class Race:
    """The folders and models of one measurement; runs contestants."""

    def __init__(self, folder: Path, model: Path, limit_seconds: float) -> None:
        self._folder, self._model, self._limit = folder, model, limit_seconds
        self._exports: dict[str, Path] = {}

    def export(self, kind: str, corpus: Path, seed: int) -> None:
        """The files of this model that a runtime reads; made once, found by what they were made of.

        openvino: int8 is calibrated on this corpus. onnx: see onnx_export.

        Raises:
            subprocess.CalledProcessError: the exporter failed; it has said why.
        """
        made_of = hashlib.sha256((self._model / "model.safetensors").read_bytes())
        if kind == "openvino":
            made_of.update(corpus.read_bytes() + str(seed).encode())
        suffix = "" if kind == "openvino" else f"-{kind}"
        target = self._exports[kind] = EXPORTS / f"{made_of.hexdigest()[:16]}{suffix}"
        if target.exists():
            return
        _say(f"exporting the model for {kind} (once)")
        unfinished = target.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        module = [str(environments.python_of("openvino")), "-m", f"benchmarks.contestants.{kind}_export"]
        where = [str(corpus), str(unfinished), "--seed", str(seed)] if kind == "openvino" else [str(unfinished)]
        command = [*module, *where, "--model", str(self._model)]
        subprocess.run(command, cwd=ROOT, env=surroundings(), stdout=sys.stderr, check=True)
        unfinished.rename(target)

    def run(self, who: Contestant, corpus: Path, keep: bool) -> dict[str, Any]:
        """One run in a fresh folder. `keep`: the vectors too, as (ids, vectors) under "vectors"."""
        output = Path(tempfile.mkdtemp(dir=self._folder)) / "output"
        model = self._exports[who.export] if who.export else self._model
        said, log = output.with_suffix(".out"), output.with_suffix(".err")
        timing = run_timed(command(who, corpus, output, model), surroundings(), who.checkout, said, log, self._limit)
        result: dict[str, Any] = {"seconds": round(timing.seconds, 2), "cpu_seconds": round(timing.cpu_seconds, 1)}
        try:
            if timing.exit_code:
                _say(f"{who.name} failed; the end of its log:\n" + log.read_text(errors="replace")[-4000:])
                raise ValueError(f"exit {timing.exit_code} after {timing.seconds:.1f} s")
            result["note"] = _note(who, output, said)
            vectors = read_vectors(output / "data" if who.ours else output)
        except (ValueError, OSError, pa.ArrowInvalid) as error:
            return {"failed": f"{who.name}: {error}"}
        finally:
            shutil.rmtree(output.parent)
        return result | ({"vectors": vectors} if keep else {"rows": len(vectors[0])})


def _note(who: Contestant, output: Path, stdout: Path) -> dict[str, Any]:
    """The settings in effect, as the contestant reports them; for reembed its summary."""
    if not who.ours:
        note: dict[str, Any] = json.loads((output / NOTE).read_text())
        return note
    summary = json.loads(stdout.read_text())
    kept = ("seconds", "stage_seconds", "replica_busy_fraction", "tokens", "padded_tokens", "shards")
    return {"precision": summary["model"]["precision"]} | {key: summary[key] for key in kept}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def find_model(name: str) -> Path:
    """A folder, or `package:NAME/folder` as in reembed's own configuration.

    Raises:
        SystemExit: nothing there.
    """
    try:
        return resolve_model(ModelConfig(name=name)).folder.resolve()
    except UsageError as error:
        raise SystemExit(f"--model {name}: {error}") from None


def sample(corpus: Path, rows: int | None, seed: int) -> pa.Table:
    """Rows drawn without replacement, in the corpus's order; all of them where `rows` is absent or not smaller."""
    table = pq.read_table(corpus, columns=["id", "text", "section"])
    if rows is None or rows >= len(table):
        return table
    return table.take(np.sort(np.random.default_rng(seed).choice(len(table), rows, replace=False)))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    contestants = [find(name) for name in dict.fromkeys(options.only or STANDARD)]
    contestants += [earlier(checkout.resolve()) for checkout in options.earlier]
    table, model = sample(options.corpus, options.rows, options.seed), find_model(options.model)
    corpus, warm = folder / "corpus.parquet", folder / "warm.parquet"
    pq.write_table(table, corpus, row_group_size=ROW_GROUP)
    pq.write_table(table.slice(0, WARM_ROWS), warm)
    tokens, cut, limit = count_tokens(model, table.column("text").to_pylist())
    facts: dict[str, Any] = {
        "benchmark": "earlier" if options.earlier else "peers",  # with itself: not for the tables of peers
        "hardware": hardware(),
        **commit(),
        "corpus": options.corpus.name,
        "model": PurePosixPath(options.model).parent.name + "/" + PurePosixPath(options.model).name,
        "rows": len(table),
        "tokens": tokens,
        "truncated_texts": cut,
        "max_tokens": limit,
        "seed": options.seed,
    }
    race = Race(folder, model, options.limit_seconds)
    left_out: dict[str, str] = {}
    for who in list(contestants):
        _say(f"warming {who.name}")
        if reason := _unfit(who, race, warm, options):
            if who.ours or options.only:
                raise SystemExit(reason)
            _say(f"left out: {reason}")
            left_out[who.name] = reason
            contestants.remove(who)
    facts["left_out"] = left_out
    packages = {who.name: environments.versions(who.environment, who.packages) for who in contestants}
    judge = None
    if REFERENCE not in {who.name for who in contestants}:
        _say(f"making reference vectors with {REFERENCE}, not timed")
        judge = _judge(race.run(ROSTER[REFERENCE], corpus, keep=True), options.seed)
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        turn = number * max(1, len(contestants) // options.rounds) % len(contestants)
        runs = {}
        for who in contestants[turn:] + contestants[:turn]:
            runs[who.name] = race.run(who, corpus, keep=True)
            _say(f"round {number + 1}  {who.name:<28} " + report.line(runs[who.name]))
        judge = judge or _judge(runs[REFERENCE], options.seed)
        for result in runs.values():
            if "vectors" in result:
                result |= judge.score(*result.pop("vectors"))
        rounds.append(runs)
        result = facts | report.summarise(contestants, rounds, packages, tokens)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    _say(report.table(result))
    return result


def _unfit(who: Contestant, race: Race, warm: Path, options: argparse.Namespace) -> str | None:
    """Why a contestant cannot take part; None: it ran on a few rows."""
    if reason := environments.missing(who.environment):
        return f"{who.name}: {reason}"
    if who.export:
        if reason := environments.missing("openvino"):
            return f"{who.name}: its model is exported there, and {reason}"
        try:
            race.export(who.export, options.corpus, options.seed)
        except subprocess.CalledProcessError as error:
            return f"{who.name}: the export of its model ended with {error.returncode}"
    failed: str | None = race.run(who, warm, keep=False).get("failed")
    return failed


def _judge(run: dict[str, Any], seed: int) -> Judge:
    if "failed" in run:
        raise SystemExit(f"no reference vectors: {run['failed']}")
    return Judge(*run["vectors"], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, help="all when absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {', '.join(ROSTER)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--earlier",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKOUT",
        help="another checkout of reembed, made ready",
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="a run that takes longer is killed")
    parser.add_argument("--install", action="store_true", help="make the environments of peers, and do nothing else")
    options = parser.parse_args()
    if options.install:
        if failures := environments.install():
            raise SystemExit("\n".join(failures))
        return
    if options.corpus is None or options.model is None or options.rounds < 1:
        parser.error("give CORPUS.parquet, --model and at least one round, or --install")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a contestant in progress is ended with this
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        result = measure(options, Path(folder))
    print(json.dumps(result, indent=1))
    if result["failures"]:
        raise SystemExit("\n".join(result["failures"]))


if __name__ == "__main__":
    main()
