"""The host path: everything of a replica but the model, measured with an encoder that answers at once.

    python -m benchmarks.host CORPUS.parquet --model FOLDER|package:NAME/FOLDER [--earlier CHECKOUT] [--dims 384 768 1024]
                              [--vectors float32 float16] [--documents 240000] [--shards 4] [--rounds 3] [--out FILE]

1. corpus: the texts of CORPUS, and copies of them with their words rotated, so that none is found twice
2. rounds: for each number of components and vector type one turn, this tree and CHECKOUT (by its own .venv) interleaved;
   each turn is a process (benchmarks/host_turn.py): read -> tokenise -> pack -> (null encoder) -> rows -> spill files ->
   Parquet -> SHA-256 -> local store. The first shard warms, the others are measured, three in flight
3. table: tokens a second by the clock and of a core's CPU time; CPU microseconds a document by stage and by thread; the
   share of the time in which the interpreter lock was held, and by whom
4. beside it, in the same rounds: `tokenizers.encode_batch_fast` on one core, by which machines can be compared

Held lock: this process reads the word of CPython 3.11 that points to the thread which holds the lock, from the turn's
memory, about every millisecond; the turn itself is not disturbed. On a loaded machine a thread that holds the lock may be
waiting for a core, so that the share is too high there. CPU times hardly depend on the load.

With --output on an object store and --rate, `while_parts_were_put` shows whether sending parts holds the encoder up: windows
that were encoded in those seconds, and in all. One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.models import facts, say, spread, store
from benchmarks.peers import find_model

ROOT = Path(__file__).resolve().parents[1]
ROW_GROUP = 2000
TOKENIZED = 4000  # texts of one measurement of encode_batch_fast


def rotated(table: pa.Table, documents: int) -> pa.Table:
    """At least so many different documents (id, text): the table's, then copies with their words rotated by 1, 2, ..."""
    ids, texts = table.column("id").to_pylist(), table.column("text").to_pylist()
    copies = []
    for turn in range(-(-documents // len(texts))):
        words = [text.split(" ") for text in texts] if turn else []
        turned = [" ".join(each[turn % len(each) :] + each[: turn % len(each)]) for each in words] or texts
        copies.append(pa.table({"id": [f"{turn}-{name}" for name in ids], "text": turned}))
    return pa.concat_tables(copies).slice(0, documents)


class LockWatch:
    """Samples who holds the interpreter lock of another process."""

    def __init__(self, pid: int, address: int) -> None:
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        self._address = address
        self._stop = threading.Event()
        self.samples: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            try:
                word = os.pread(self._memory, 8, self._address)
            except OSError:  # the process has ended
                return
            self.samples[int.from_bytes(word, "little")] += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._memory)


def run_turn(checkout: Path, order: dict[str, Any]) -> dict[str, Any]:
    """One process of host_turn.py with that checkout's product."""
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python if python.exists() else sys.executable), str(ROOT / "benchmarks" / "host_turn.py")]
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [*command, json.dumps(order)], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
    )
    address, lock, turn = None, None, None
    for line in process.stdout or ():
        message = json.loads(line) if line.startswith("{") else {}
        address = message.get("lock", address)
        if message.get("begin") and address is not None:
            lock = LockWatch(process.pid, address)
        if message.get("end") and lock is not None:
            lock.stop()
        turn = message.get("turn", turn)
    if process.wait() or turn is None:
        raise SystemExit(f"{checkout}: the turn failed")
    turn["lock"] = None
    if lock is not None and (total := lock.samples.total()):
        held: Counter[str] = Counter()
        for state, count in lock.samples.items():
            if state:
                held[turn["holders"].get(str(state), "other threads")] += count
        turn["lock"] = {name: count / total for name, count in held.most_common()}
    return turn


def tokenizer_rate(model: Path, texts: list[str]) -> float:
    """Tokens a CPU second of `tokenizers.encode_batch_fast`, truncated as the model says, in a process of one thread."""
    script = (
        "import json, sys, time\n"
        "from tokenizers import Tokenizer\n"
        "order = json.load(sys.stdin)\n"
        "tokenizer = Tokenizer.from_file(order['file'])\n"
        "tokenizer.no_padding(); tokenizer.enable_truncation(order['longest'])\n"
        "tokenizer.encode_batch_fast(order['texts'][:500])\n"
        "began = time.process_time()\n"
        "tokens = sum(len(each) for each in tokenizer.encode_batch_fast(order['texts']))\n"
        "print(tokens / (time.process_time() - began))\n"
    )
    settings = model / "sentence_bert_config.json"
    longest = json.loads(settings.read_text())["max_seq_length"] if settings.exists() else 512
    order = json.dumps({"file": str(model / "tokenizer.json"), "longest": longest, "texts": texts})
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", script], input=order, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def told(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one checkout, dimension and vector type over all rounds."""
    documents = turns[0]["documents"]

    def micros(each: list[float]) -> float:
        return round(statistics.median(each) / documents * 1e6, 2)

    stages = {name for turn in turns for name in turn["stages"]}
    threads = {name for turn in turns for name in turn["threads"]}
    busiest = max(
        turns[0]["threads"], key=lambda name: statistics.median(turn["threads"].get(name, [0.0])[0] for turn in turns)
    )
    slowest = statistics.median(turn["threads"].get(busiest, [0.0])[0] for turn in turns)
    held = [sum(turn["lock"].values()) for turn in turns if turn["lock"]]
    return {
        "documents": documents,
        "tokens": turns[0]["tokens"],
        "bytes": turns[0]["bytes"],
        "tokens_per_second": spread(turn["tokens"] / turn["seconds"] for turn in turns),
        "tokens_per_cpu_second": spread(turn["tokens"] / turn["cpu_seconds"] for turn in turns),
        "cpu_micros_a_document": micros([turn["cpu_seconds"] for turn in turns]),
        "stage_cpu_micros_a_document": {
            name: micros([turn["stages"].get(name, 0.0) for turn in turns]) for name in sorted(stages)
        },
        "thread_cpu_micros_a_document": {
            name: micros([sum(turn["threads"].get(name, [])) for turn in turns]) for name in sorted(threads)
        },
        "slowest_thread": busiest,
        "slowest_thread_tokens_per_cpu_second": round(turns[0]["tokens"] / slowest, 1),
        "while_parts_were_put": while_parts_were_put(turns),
        "lock_held_share": spread(held, 3) if held else None,
        "lock_held_by": turns[-1]["lock"],
        "lock_held_micros_a_document": micros(
            [sum(turn["lock"].values()) * turn["seconds"] for turn in turns if turn["lock"]] or [0.0]
        ),
    }


def while_parts_were_put(turns: list[dict[str, Any]]) -> dict[str, float]:
    """How the encoder fared while at least one part was on its way to the store, up to the last window."""
    seconds = windows = total = 0.0
    for turn in turns:
        spans = sorted(turn["trace"].get("put", []))
        merged: list[list[float]] = []
        for start, stop in spans:
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], stop)
            else:
                merged.append([start, stop])
        ends = [stop for _, stop in turn["trace"].get("pack", [])]
        last = max(ends, default=0.0)  # after the last window there is nothing to wait for
        inside = [(start, min(stop, last)) for start, stop in merged if start < last]
        seconds += sum(stop - start for start, stop in inside)
        windows += sum(any(start <= end <= stop for start, stop in inside) for end in ends)
        total += len(ends)
    return {
        "seconds": round(seconds, 2),
        "windows_encoded_meanwhile": windows,
        "windows": total,
        "windows_a_second_meanwhile": round(windows / seconds, 2) if seconds else 0.0,
        "windows_a_second_in_all": round(total / sum(_encoding_seconds(turn) for turn in turns), 2),
        "encoder_busy_share": round(sum(map(_busy_seconds, turns)) / sum(map(_encoding_seconds, turns)), 3),
    }


def _encoding_seconds(turn: dict[str, Any]) -> float:
    """From the first window's start to the last one's end."""
    spans = turn["trace"]["pack"]
    return float(max(stop for _, stop in spans) - min(start for start, _ in spans))


def _busy_seconds(turn: dict[str, Any]) -> float:
    return float(sum(stop - start for start, stop in turn["trace"]["pack"]))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = find_model(options.model)
    table = pq.read_table(options.corpus, columns=["id", "text"])
    wanted = options.documents + options.documents // options.shards  # the first shard warms
    corpus = rotated(table, wanted)
    source = folder / "corpus.parquet"
    pq.write_table(corpus, source, row_group_size=ROW_GROUP)
    texts = table.column("text").to_pylist()[:TOKENIZED]
    sides = {"now": ROOT} | ({"earlier": options.earlier.resolve()} if options.earlier else {})
    cases = [(dim, vector) for dim in options.dims for vector in options.vectors]
    turns: dict[tuple[str, int, str], list[dict[str, Any]]] = {(side, *case): [] for side in sides for case in cases}
    rates, loads, numbers = [], [], itertools.count()
    for number in range(options.rounds):
        rates.append(tokenizer_rate(model, texts))
        for dim, vector in cases:
            for side, checkout in sides.items():
                loads.append(os.getloadavg()[0])
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    order = {
                        "corpus": str(source), "model": str(model), "folder": place, "dim": dim, "vector": vector,
                        "output": f"{options.output.rstrip('/')}/{next(numbers)}" if options.output else f"{place}/out",
                        "shards": options.shards + 1, "null_tokenizer": options.null_tokenizer, "rate": options.rate,
                    }  # fmt: skip
                    last = run_turn(checkout, order)
                turns[side, dim, vector].append(last)
                say(
                    f"round {number + 1}  {side:8} {dim:5} {vector:8} {last['tokens'] / last['seconds'] / 1e6:6.2f} Mtok/s, "
                    f"{last['cpu_seconds'] / last['documents'] * 1e6:6.1f} us CPU a document, load {loads[-1]:.1f}"
                )
    result: dict[str, Any] = {
        **facts("host"),
        "corpus": options.corpus.name,
        "model": f"{model.parent.name}/{model.name}",
        "rounds": options.rounds,
        "shards": options.shards,
        "rate_of_encoder": options.rate,
        "tokenizer": "null" if options.null_tokenizer else "the model's",
        "output": options.output.partition(":")[0] if options.output else "local",
        "load": spread(loads),
        "encode_batch_fast_tokens_per_cpu_second": spread(rates),
        "cases": [],
    }
    for dim, vector in cases:
        case: dict[str, Any] = {"dim": dim, "vector": vector}
        case |= {side: told(turns[side, dim, vector]) for side in sides}
        rate = statistics.median(rates)
        case["slowest_thread_of_encode_batch_fast"] = round(case["now"]["slowest_thread_tokens_per_cpu_second"] / rate, 2)
        if "earlier" in sides:
            pairs = list(zip(turns["now", dim, vector], turns["earlier", dim, vector], strict=True))
            case["same_digests"] = all(one["digest"] == other["digest"] for one, other in pairs)
            case["times_earlier"] = spread((other["seconds"] / one["seconds"] for one, other in pairs), 2)
            case["times_earlier_cpu"] = spread((other["cpu_seconds"] / one["cpu_seconds"] for one, other in pairs), 2)
        result["cases"].append(case)
    store(result, options.out)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--earlier", type=Path, help="a checkout with its own .venv to compare with")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768, 1024])
    parser.add_argument(
        "--vectors", nargs="+", default=["float32", "float16"], choices=["float32", "float16", "int8", "binary"]
    )
    parser.add_argument("--documents", type=int, default=240_000, help="measured ones")
    parser.add_argument("--shards", type=int, default=4, help="measured ones; and one to warm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rate", type=float, help="the encoder answers like a device of so many tokens a second; else at once"
    )
    parser.add_argument("--null-tokenizer", action="store_true", help="ids at once too: all other stages are the same")
    parser.add_argument("--output", help="empty folder of the parts, s3://bucket/folder for instance; else a local one")
    parser.add_argument("--folder", type=Path, help="of the local disk to write to; else the temporary folder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="host-", dir=options.folder) as place:
        began = time.perf_counter()
        result = measure(Path(place), options)
        say(f"{time.perf_counter() - began:.0f} s")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
