"""One turn of benchmarks/host.py: a replica with an encoder that answers at once, in this process, on one corpus.

    python benchmarks/host_turn.py '{"corpus": ..., "model": ..., "folder": ..., "dim": 384, "vector": "float32", ...}'

The product is that of the checkout in PYTHONPATH: this tree, or commit 8645ff9, whose modules had other names. All that
differs is in `Product`. Everything but the model is real: Replica, its pipeline, tokenizer, spill files, parts and store.

CPU seconds by stage are exclusive: time.thread_time around the functions of STAGES, less what nested ones took. By thread
they come from /proc/self/task. The trace says when parts were put and when windows were encoded. Messages on stdout are
lines of JSON: {"lock": ...} where the parent may sample who holds the interpreter lock, {"begin": ...} and {"end": ...}
around what is measured, and {"turn": ...} at the end.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import itertools
import json
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

IN_FLIGHT = 3  # shards at a time; commit 8645ff9 kept two, and gains nothing by more
TRACED = ("pack", "put")  # a window encoded, a part put
BYTES_A_TOKEN = 4.4  # as MiniLM's vocabulary has it on the texts of this benchmark
POOL_ROWS = 3 * 8192  # vectors that the encoder answers with, in turn: more than the caches hold

# stage -> where its function is in this tree, and in commit 8645ff9. A class attribute is written Class.name.
STAGES: dict[str, tuple[str, ...]] = {
    "hash texts": ("workers.dedup.deduplicator:hash_texts", "workers.placement:hash_texts"),
    "find repeated texts": ("workers.dedup.deduplicator:Deduplicator.deduplicate", "workers.placement:TextPlacer.place"),
    "tokenise": ("workers.model.tokenizer:TextTokenizer.tokenize", "workers.tokenization:TextTokenizer.tokenize"),
    "texts as Python strings": (
        "workers.dedup.deduplicator:DedupedWindow.texts", "workers.placement:Placement.texts",
    ),
    "rows of texts": ("workers.replica.shard_job:text_rows", "workers.shard_job:text_rows"),
    "rows of documents": ("workers.replica.shard_job:document_rows", "workers.shard_job:document_rows"),
    "spill": ("workers.host.spill_file:SpillFile.append", "workers.spool:Spool.append"),
    "totals": ("workers.writing.writer:count_documents", "workers.writer:count_documents"),
    "assemble": ("workers.writing.writer:assemble", "workers.writer:join"),
    "digest of rows": ("workers.writing.writer:_add_rows", "workers.writer:_add_rows"),
    "Parquet": ("workers.writing.writer:write_part", "workers.writer:write_part"),
    "SHA-256": ("workers.writing.writer:_local_file", "workers.writer:_local_file"),
    "put": ("workers.writing.writer:put_or_adopt", "workers.writer:settle"),
}  # fmt: skip


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class Stopwatch:
    """CPU seconds by stage, exclusive, over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.spans: dict[str, list[tuple[float, float]]] = defaultdict(list)  # wall time of each call of a traced stage
        self._nested = threading.local()
        self._lock = threading.Lock()

    def around(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._nested, "seconds", 0.0)
            self._nested.seconds = 0.0
            began, at = time.thread_time(), time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent = time.thread_time() - began
                with self._lock:
                    self.seconds[stage] += spent - self._nested.seconds
                    if stage in TRACED:
                        self.spans[stage].append((at, time.perf_counter()))
                self._nested.seconds = outer + spent

        return timed

    def watch(self) -> None:
        """Wrap every function of STAGES that this checkout has."""
        for stage, places in STAGES.items():
            for place in places:
                module, _, path = place.partition(":")
                try:
                    owner: Any = importlib.import_module(module)
                    *classes, name = path.split(".")
                    for one in classes:
                        owner = getattr(owner, one)
                    setattr(owner, name, self.around(stage, getattr(owner, name)))
                except (ImportError, AttributeError):
                    continue
                break


class Product:
    """The names of this tree, or of commit 8645ff9."""

    def __init__(self) -> None:
        stages = importlib.import_module("benchmarks.stages")  # of the checkout: imports what is needed here
        self.stages, self.replica_type = stages, stages.Replica
        self.parse, self.request, self.plan = stages.parse_config, stages.Request, stages.plan_or_reopen
        self.settings, self.assignment, self.failure = stages.replica_settings, stages.Assignment, stages.Failure
        now = hasattr(stages, "ResolvedSettings")
        self.batches = importlib.import_module("workers.engine.batches.plan" if now else "workers.engine.batching")
        self.tokens = importlib.import_module("workers.records.tokens" if now else "workers.token_records")
        self.packing = importlib.import_module("workers.engine.kernels.packing" if now else "workers.engine.packing")
        self._now = now

    def begin(self, replica: Any, stamp: Any, batch_tokens: int) -> None:
        resolved = self.stages.ResolvedSettings if self._now else self.stages.Settled
        (replica.configure if self._now else replica.settle)(resolved(stamp, batch_tokens))

    def stamp(self, run: Any, precision: str) -> Any:
        return (run.stamp_with if self._now else run.stamped)(precision, None)

    def plan_batches(self, lengths: Any, budget: int) -> Any:
        if self._now:
            return self.batches.plan_batches(lengths, budget, self.batches.Layout.PACKED)
        return self.batches.plan_batches(lengths, budget, packed=True)


class NullEncoder:
    """Plans and packs batches as an encoder does, and answers with vectors that were drawn before."""

    way, batch_tokens, device = "none", 131_072, "none"

    def __init__(self, product: Product, dim: int, watch: Stopwatch, rate: float | None = None) -> None:
        """`rate`: answer as late as a device of so many tokens a second; None: at once."""
        import torch

        torch.set_num_threads(1)  # others would spin beside the stages that are measured
        self._product, self._torch, self.dim, self._rate = product, torch, dim, rate
        self.precision = product.stages.Precision("float32")
        self.documents_done = self.tokens_done = self.batches_done = 0
        drawn = np.random.default_rng(1).standard_normal((POOL_ROWS, dim), np.float32)
        self._pool = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        self._at = 0
        self.encode = watch.around("pack", self._encode)

    def submit(self, tokens: Any) -> Any:
        encoded = self.encode(tokens)
        return SimpleNamespace(done=lambda: True, result=lambda: encoded)

    def _encode(self, tokens: Any) -> Any:
        cpu = self._torch.device("cpu")
        for rows in self._product.plan_batches(tokens.lengths, self.batch_tokens):
            self._product.packing.pack(tokens, rows, cpu)
            self.batches_done += 1
        if self._rate is not None:
            time.sleep(len(tokens.input_ids) / self._rate)
        count = len(tokens.num_tokens)
        if self._at + count > len(self._pool):
            self._at = 0
        vectors = self._pool[self._at : self._at + count]
        self._at += count
        self.documents_done += count
        self.tokens_done += len(tokens.input_ids)
        return self._product.tokens.EncodedTexts(vectors, None, len(tokens.input_ids))


class NullTokenizer:
    """Answers at once as well, with ids that mean nothing: a token for each BYTES_A_TOKEN of text, up to 256."""

    def __init__(self, product: Product) -> None:
        self._texts = product.tokens.TokenizedTexts
        self._ids = np.zeros(256 * 8192, np.int32)

    def tokenize(self, texts: list[str]) -> Any:
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        lengths = np.clip((lengths / BYTES_A_TOKEN).astype(np.int64) + 2, 3, 256)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        owner, cut = np.arange(len(texts), dtype=np.int32), lengths == 256
        return self._texts(self._ids[: offsets[-1]], offsets, owner, None, None, cut, lengths.astype(np.int32), 0)

    def strings(self, _ids: Any) -> list[str]:
        raise NotImplementedError


def thread_seconds() -> dict[int, float]:
    """CPU seconds of each thread of this process that is alive."""
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            seconds[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except OSError:  # it has just ended
            continue
    return seconds


class Threads:
    """CPU seconds by name of thread. Threads that end are remembered as they were at the last look."""

    def __init__(self) -> None:
        self._before, self._last, self._names = thread_seconds(), {}, {}  # type: ignore[var-annotated]
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look, name="benchmark", daemon=True)
        self._looking.start()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            self._sample()

    def _sample(self) -> None:
        self._names |= {thread.native_id: thread.name for thread in threading.enumerate()}
        self._last |= thread_seconds()

    def stop(self) -> dict[str, list[float]]:
        """Name (without its number) -> seconds of each thread of that name, the busiest first."""
        self._stop.set()
        self._looking.join()
        self._sample()
        by_name: dict[str, list[float]] = defaultdict(list)
        for task, seconds in self._last.items():
            name = self._names.get(task, "native (tokenizers, Arrow)")
            by_name[name.rstrip("0123456789_-")].append(seconds - self._before.get(task, 0.0))
        return {name: sorted(each, reverse=True) for name, each in by_name.items()}


def even_shards(planned: Sequence[Any], count: int) -> list[Any]:
    """The corpus, one Parquet object, as so many shards: a run would cut a small one into 64."""
    pieces = [piece for shard in planned for piece in shard.slices]
    borders = [len(pieces) * number // count for number in range(count + 1)]
    return [
        replace(
            planned[0], number=number, slices=(replace(few[0], stop=few[-1].stop, rows=sum(piece.rows for piece in few)),)
        )
        for number, few in enumerate(pieces[start:stop] for start, stop in itertools.pairwise(borders))
    ]


def lock_word() -> tuple[int, Callable[[], int]] | None:
    """The address of the pointer to the thread that holds the interpreter lock (0: nobody), and a reader of it.

    CPython 3.11 has it in _PyRuntime; its place is found by the value, which is another one in another thread. None where
    there is no such word (3.12 has it elsewhere).
    """
    try:
        base = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
        current = ctypes.pythonapi._PyThreadState_UncheckedGet
    except (ValueError, AttributeError):
        return None
    current.restype = ctypes.c_void_p
    words = (ctypes.c_uint64 * 256).from_address(base)

    def places() -> set[int]:
        me = current()
        return {index for index in range(256) if words[index] == me}

    with ThreadPoolExecutor(1) as other:
        both = places() & other.submit(places).result()
    return (base + 8 * max(both), current) if both else None  # before it lies that of the last holder, which stays


def turn(order: dict[str, Any]) -> None:
    product, watch = Product(), Stopwatch()
    watch.watch()
    folder, dim = Path(order["folder"]), int(order["dim"])
    raw = {
        "corpus": {"uri": order["corpus"], "id": "id", "text": "text"},
        "model": {"name": order["model"]},
        "output": {"uri": order["output"], "vector": order["vector"]},
    }
    run = product.plan(product.request.resolve(product.parse(raw, "host")))
    replica_type = product.replica_type
    replica_type._asked = None  # what the way was that a replica asked for when it loaded its encoder
    replica_type._load = lambda _self, _precision, _way=None: NullEncoder(product, dim, watch, order["rate"])
    replica = replica_type(replace(product.settings(run, 1), dim=dim), "host")
    if order["null_tokenizer"]:
        replica._tokenizer = NullTokenizer(product)
    product.begin(replica, replace(product.stamp(run, "float32"), dim=dim), NullEncoder.batch_tokens)
    word = lock_word()
    holders = _watch_pipeline(replica, watch, word and word[1])
    if word is not None:
        tell(lock=word[0])
    assignments = [product.assignment(shard, 1, 1) for shard in even_shards(run.shards, order["shards"])]
    warm = replica.embed_shard(replace(assignments[0], epoch=1))
    if isinstance(warm, product.failure):
        raise SystemExit(f"shard {warm.shard}: {warm.reason}")
    gc.collect()
    watch.seconds.clear()
    watch.spans.clear()
    threads, cpu, began = Threads(), time.process_time(), time.perf_counter()
    before = dict(replica.stats().stage_seconds)
    tell(begin=True)
    with ThreadPoolExecutor(order.get("in_flight", IN_FLIGHT)) as pool:
        receipts = list(pool.map(replica.embed_shard, assignments[1:]))
    tell(end=True)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    after = replica.stats().stage_seconds
    for receipt in receipts:
        if isinstance(receipt, product.failure):
            raise SystemExit(f"shard {receipt.shard}: {receipt.reason}")
    tell(
        turn={
            "documents": sum(receipt.documents for receipt in receipts),
            "tokens": sum(receipt.tokens for receipt in receipts),
            "bytes": sum(file.bytes for receipt in receipts for file in receipt.files),
            "digest": [receipt.source_digest for receipt in receipts],
            "rows_digest": [file.rows_digest for receipt in receipts for file in receipt.files],
            "seconds": wall,
            "cpu_seconds": cpu,
            "stages": dict(watch.seconds),
            "threads": threads.stop(),
            "trace": {
                stage: [(start - began, stop - began) for start, stop in spans] for stage, spans in watch.spans.items()
            },
            "pipeline": {name: after[name] - before[name] for name in after},
            "holders": {str(state): name for state, name in holders.items()},
        }
    )
    sys.stdout.flush()
    shutil.rmtree(folder / "spool", ignore_errors=True)
    os._exit(0)  # threads of the pipeline wait for more


def _watch_pipeline(replica: Any, watch: Stopwatch, holder: Callable[[], int] | None) -> dict[int, str]:
    """Charge what no stage covers to its thread, and learn which thread state is which thread's: each says so itself."""
    pipeline, holders = type(replica._pipeline), {}
    timed = pipeline._timed

    def watched(self: Any, stage: str, ticket: Any, call: Callable[..., Any], *args: Any) -> Any:
        if holder is not None:
            holders[holder()] = threading.current_thread().name.rstrip("0123456789_-")
        name = "read" if stage == "read" else f"{stage}: the rest"
        return timed(self, stage, ticket, watch.around(name, call), *args)

    pipeline._timed = watched
    return holders


if __name__ == "__main__":
    turn(json.loads(sys.argv[1]))
