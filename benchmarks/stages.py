"""Measures the stages of a replica, each alone and then all together, to find the one that keeps the encoder waiting.

    python -m benchmarks.stages CORPUS.parquet --model FOLDER|package:NAME/folder [--rows 8000] [--rounds 3] [--shards 4]
                                [--precision auto] [--threads N] [--out FILE]

1. cut a sample, drawn with a seed, of the corpus into shards, as a run would; load one replica in this process, no Ray
2. rounds: every stage alone over the same windows (read, tokenize, plan of batches, encode, rows and write), then
   Replica.embed_shard over all shards, two in flight
3. busy share in steady state: seconds inside the encoder, of the time between its first start and its last end; and what
   the whole job reaches there of the rate that the encoder has alone. On a CPU the stages share cores, so that the second
   figure counts what they take from each other; the first does not

The starving stage is the slowest beside the encoder. One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.models import facts, say, spread, store
from benchmarks.peers import find_model, sample
from jobs.config import parse_config
from jobs.planning.choose_run import plan_or_reopen
from jobs.planning.planned_run import PlannedRun
from jobs.planning.request import Request
from workers.config import Precision
from workers.dedup.deduplicator import DedupedWindow, Deduplicator
from workers.engine.batches.plan import plan_batches
from workers.reading.reader import read_windows
from workers.records.shard import Assignment, Failure
from workers.records.tokens import TokenizedTexts
from workers.replica.replica import Replica
from workers.replica.settings import ReplicaSettings, ResolvedSettings
from workers.replica.shard_job import EncodedWindow, ShardContext, ShardJob
from workers.storage.store import Store
from workers.table.schema import output_schema

IN_FLIGHT = 2  # shards at a time, as a run keeps them
ROW_GROUP = 500
ENCODE = "encode"


class Watched(Replica):
    """A replica that remembers when its encoder worked."""

    def __init__(self, settings: ReplicaSettings, name: str) -> None:
        self.spans: list[tuple[float, float]] = []
        super().__init__(settings, name)

    def _encode(self, item: tuple[DedupedWindow, TokenizedTexts]) -> EncodedWindow:
        began = time.perf_counter()
        try:
            return super()._encode(item)
        finally:
            self.spans.append((began, time.perf_counter()))


class Stages:
    """One replica and the shards that it is measured on."""

    def __init__(self, folder: Path, corpus: Path, model: Path, options: argparse.Namespace) -> None:
        bytes_a_shard = max(corpus_bytes(corpus) // options.shards, 1024)
        raw = {
            "corpus": {"uri": str(corpus), "id": "id", "text": "text"},
            "model": {"name": str(model), "precision": options.precision},
            "output": {"uri": str(folder / "together")},
            "run": {"shard_bytes": bytes_a_shard},
        }
        run = plan_or_reopen(Request.resolve(parse_config(raw, "stages")))
        self._folder, self.run = folder, run
        self.replica = Watched(replica_settings(run, options.threads), "bench")
        facts = self.replica.facts()
        self._stamp = run.stamp_with(facts["precision"], None)
        self.replica.configure(ResolvedSettings(self._stamp, facts["batch_tokens"]))
        self._turns = itertools.count()

    def alone(self) -> dict[str, float]:
        """Seconds of each stage over all shards."""
        replica, encoder = self.replica, self.replica._encoder
        seconds: dict[str, float] = {}

        def timed(name: str, call: Any, *args: Any) -> Any:
            began = time.perf_counter()
            value = call(*args)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
            return value

        def plan(tokens: TokenizedTexts) -> None:
            plan_batches(tokens.lengths, encoder.batch_tokens, encoder._forward.layout)

        schema = output_schema(self.run.plan, self._stamp, [])
        place = self._folder / f"alone-{next(self._turns)}"
        target = Store(str(place), {})
        target.atomic_create = self.run.store.atomic_create
        context = ShardContext(self.run.plan, schema, target, self._folder / "spool", "bench", replica._tokenizer.strings)
        for shard in self.run.shards:
            assignment = Assignment(shard, 1, 1)
            windows = timed("read", list, read_windows(shard, self.run.plan, {}))
            job = ShardJob(assignment, context)
            deduplicator = Deduplicator()
            for window in windows:
                deduped, tokens = timed("tokenize", replica._tokenize, (window, deduplicator))
                timed("plan batches", plan, tokens)
                encoded = timed(ENCODE, encoder.encode, tokens)
                timed("rows and write", job.append, (deduped, tokens, encoded))
            timed("rows and write", job.finish, {})
        shutil.rmtree(place, ignore_errors=True)
        return seconds

    def together(self) -> dict[str, Any]:
        """All shards through the replica: wall seconds, from the encoder's first start to its last end, and inside it."""
        self.replica.spans.clear()
        before = dict(self.replica.stats().stage_seconds)
        epoch, tokens = next(self._turns) + 1, 0
        began = time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            assignments = [Assignment(shard, epoch, 1) for shard in self.run.shards]
            for receipt in pool.map(self.replica.embed_shard, assignments):
                if isinstance(receipt, Failure):
                    raise SystemExit(f"shard {receipt.shard}: {receipt.reason}")
                tokens += receipt.tokens
        wall = time.perf_counter() - began
        spans, after = self.replica.spans, self.replica.stats().stage_seconds
        for path in (self._folder / "together").iterdir():  # else the next round would adopt what is there
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return {
            "tokens": tokens,
            "seconds": wall,
            "steady": spans[-1][1] - spans[0][0],
            "encoding": sum(stop - start for start, stop in spans),
            "stage_seconds": {
                name: after[name] - before[name] for name in after if name != "wait"
            },  # it waited between rounds
        }


def corpus_bytes(corpus: Path) -> int:
    """UTF-8 bytes of its texts."""
    return int(pq.read_table(corpus, columns=["text"]).column("text").nbytes)


def replica_settings(run: PlannedRun, threads: int) -> ReplicaSettings:
    """As jobs/embed/session.py tells a replica."""
    model = run.request.model
    return ReplicaSettings(
        plan=run.plan,
        model=run.config.model,
        output=run.config.output,
        weights_digest=model.weights_digest,
        tokenizer_digest=model.tokenizer_digest,
        dim=run.stamp.dim,
        precision=Precision(run.config.model.precision),
        batch_tokens=run.config.model.batch_tokens,
        threads=threads,
        atomic_create=run.store.atomic_create,
    )


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model, corpus = find_model(options.model), folder / "corpus.parquet"
    table = sample(options.corpus, options.rows, options.seed)
    pq.write_table(table, corpus, row_group_size=max(1, min(ROW_GROUP, len(table) // (4 * options.shards))))
    stages = Stages(folder, corpus, model, options)
    say(f"{len(table):,} texts in {len(stages.run.shards)} shards, {stages.replica.facts()}; warming")
    stages.alone()  # kernels are made, the disk cache is warm
    alone: list[dict[str, float]] = []
    whole: list[dict[str, Any]] = []
    for number in range(options.rounds):
        alone.append(stages.alone())
        whole.append(stages.together())
        last = whole[-1]
        say(f"round {number + 1}  together {last['seconds']:.1f} s, busy {last['encoding'] / last['steady']:.1%}")
    tokens = whole[0]["tokens"]
    rates = {name: spread(tokens / max(turn[name], 1e-9) for turn in alone) for name in alone[0]}
    others = sorted((name for name in rates if name != ENCODE), key=lambda name: rates[name]["median"])
    slowest = others[0]
    starved = rates[slowest]["median"] < rates[ENCODE]["median"]
    busy = [turn["encoding"] / turn["steady"] for turn in whole]
    waits = f"the encoder waits {1 - statistics.median(busy):.1%} of its time"
    verdict = f"{slowest} is {'slower than' if starved else 'the slowest beside'} the encoder; {waits}"
    result = {
        **facts("stages"),
        "corpus": options.corpus.name,
        "model": f"{model.parent.name}/{model.name}",
        "rows": len(table),
        "tokens": tokens,
        "shards": len(stages.run.shards),
        "seed": options.seed,
        "rounds": options.rounds,
        "replica": {key: value for key, value in stages.replica.facts().items() if key not in ("node", "pid")},
        "threads": options.threads,
        "alone_tokens_per_second": rates,
        "together_tokens_per_second": spread(tokens / turn["seconds"] for turn in whole),
        "steady_tokens_per_second": spread(tokens / turn["steady"] for turn in whole),
        "busy_share": spread(busy, 4),
        "steady_share_of_encoder_alone": spread(
            (statistics.median(one[ENCODE] for one in alone) / turn["steady"] for turn in whole), 4
        ),
        "stage_seconds_together": {
            name: spread((turn["stage_seconds"][name] for turn in whole), 3) for name in whole[0]["stage_seconds"]
        },
        "slowest_beside_encoder": slowest,
        "verdict": verdict,
    }
    store(result, options.out)
    say(verdict)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4, help="about so many")
    parser.add_argument("--precision", default="auto", choices=[name.value for name in Precision])
    parser.add_argument("--threads", type=int, default=min(len(os.sched_getaffinity(0)), 4), help="torch's, of the replica")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 1 or options.shards < 1:
        parser.error("--rounds and --shards: at least one")
    with tempfile.TemporaryDirectory(prefix="stages-") as place:
        result = measure(Path(place), options)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
