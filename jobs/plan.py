"""`reembed plan`: what a run would do and cost, from a listing, the footers and a small sample. Starts and writes nothing.

objects, shards, rows        as the run itself would cut them
tokens                       text bytes x tokens a byte, measured on the first documents of a few shards
GPU-hours, cost              tokens / the rate of the newest finished run here; unknown before the first
output bytes                 rows x bytes of a row, of the newest finished run here, else of the plain vector
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from jobs.config import RunConfig
from jobs.run import Request, Run, find_resumable, plan_or_reopen
from jobs.run_store import list_runs, read_summary
from workers.config import LongText, Pooling, SourceFormat
from workers.documents import TEXT
from workers.errors import ObjectError
from workers.formats import format_of
from workers.output_schema import output_schema
from workers.part_file import vector_bytes
from workers.reader import read_windows
from workers.shard import ObjectSlice, Shard
from workers.storage import Store, open_object
from workers.tokenization import TextTokenizer

SAMPLED_SHARDS = 8
SAMPLED_DOCUMENTS = 256  # of each sampled shard
HEAD_BYTES = 256 << 10  # read of a line object to see how long its records are
ROW_OVERHEAD_BYTES = 48  # id, hash and counts of a row, compressed: measured on the Parquet files of short ids


def plan_run(config: RunConfig) -> dict[str, Any]:
    """Raises: UsageError: the run could not start."""
    request = Request.resolve(config)
    resumed = find_resumable(request)
    run = resumed or plan_or_reopen(request)
    sample = sample_shards(run, run.shards)
    text_bytes = sum(shard.text_bytes for shard in run.shards)
    counts = [shard.rows for shard in run.shards]
    exact = None not in counts
    rows = sum(count or 0 for count in counts) if exact else scaled(sample["documents"], sample["bytes"], text_bytes)
    tokens = scaled(sample["tokens"], sample["bytes"], text_bytes)
    rate, row_bytes = measured(request.store)
    hours = tokens / rate / 3600 if rate else None
    price = config.cost.gpu_hour_usd
    return {
        "run_id": run.run_id if run.record else None,
        "action": "resume" if resumed else "nothing to do" if run.current else "publish again" if run.record else "new run",
        "objects": len({piece.uri for shard in run.shards for piece in shard.slices}),
        "shards": len(run.shards),
        "rows": rows,
        "rows_estimated": not exact,
        "text_bytes": text_bytes,
        "estimated_tokens": tokens,
        "tokens_per_second_per_replica": round(rate, 1) if rate else None,
        "replica_hours": round(hours, 4) if hours is not None else None,
        "cost_usd": round(hours * price, 4) if hours is not None and price is not None else None,
        "output_bytes": round(rows * (row_bytes or _row_bytes(run, sample))),
        "id_type": str(run.plan.id_type),
        "keep": {column.name: str(column.type) for column in run.plan.keep},
        "model": {"name": request.model.name, "dim": request.recipe.dim, "pooling": request.recipe.pooling_name,
                  "max_tokens": request.recipe.max_tokens, "normalize": request.recipe.normalize},
    }  # fmt: skip


def plan_text(report: dict[str, Any]) -> str:
    def known(value: object, unit: str) -> str:
        return f"{value} {unit}" if value is not None else "unknown before a first run has measured it"

    cost = report["cost_usd"]
    rows = f"{'about ' if report['rows_estimated'] else ''}{report['rows']:,} rows"
    return "\n".join([
        f"plan: {report['action']}" + (f" {report['run_id']}" if report["run_id"] else ""),
        f"  source      {report['objects']:,} objects, {rows}, {report['text_bytes']:,} bytes of text",
        f"  shards      {report['shards']:,}",
        f"  tokens      about {report['estimated_tokens']:,}",
        f"  time        {known(report['replica_hours'], 'replica-hours')}",
        f"  cost        {f'{cost} USD' if cost is not None else 'unknown: needs the time, and cost.gpu_hour_usd'}",
        f"  output      about {report['output_bytes']:,} bytes",
        f"  model       {report['model']['name']} {report['model']['pooling']} {report['model']['dim']}",
    ])  # fmt: skip


def sample_shards(run: Run, shards: Sequence[Shard], seconds: float = math.inf) -> dict[str, int]:
    """Documents, their bytes and tokens, chunks among them counted, from the first window of a few shards.

    No further shard is looked at once so many seconds have passed.
    """
    tokenizer = TextTokenizer(run.request.model.folder, run.request.recipe)
    found = {"documents": 0, "bytes": 0, "tokens": 0, "rows": 0}
    step = max(1, len(shards) // SAMPLED_SHARDS)
    began = time.monotonic()
    for shard in islice(shards[::step], SAMPLED_SHARDS):
        if found["documents"] and time.monotonic() - began > seconds:
            break
        try:
            window = next(iter(read_windows(shard, run.plan, {})), None)
        except ObjectError:  # it will be quarantined, or mended before the run; the other samples tell enough
            continue
        texts = window.table[TEXT].slice(0, SAMPLED_DOCUMENTS).to_pylist() if window else []
        if texts:
            tokens = tokenizer.tokenize(texts)
            found["documents"] += len(texts)
            found["bytes"] += round(len(texts) * _record_bytes(shard.slices[0], run, texts))
            found["tokens"] += int(tokens.offsets[-1])
            found["rows"] += len(tokens.document)
    return found


def _record_bytes(piece: ObjectSlice, run: Run, texts: list[str]) -> float:
    """Source bytes behind one document: of a line format the record's, keys and other columns included, else the text's.

    Compressed lines count as the text's: their size is itself an estimate.
    """
    corpus = run.config.corpus
    kind, compression = format_of(piece.uri, corpus.format)
    if kind is SourceFormat.PARQUET or compression or corpus.text_unit == "file":
        return sum(len(text.encode()) for text in texts) / len(texts)
    with open_object(piece.uri, piece.size, piece.etag, corpus.storage_options, block=HEAD_BYTES) as stream:
        stream.seek(piece.start)
        head = stream.read(HEAD_BYTES)
    return len(head) / max(1, head.count(b"\n"))


def scaled(part: int, sampled_bytes: int, text_bytes: int) -> int:
    return round(part / sampled_bytes * text_bytes) if sampled_bytes else 0


def measured(store: Store) -> tuple[float | None, float | None]:
    """Tokens a second of one replica, and output bytes a row, of the newest run that tells."""
    for run_id in reversed(list_runs(store)):
        summary = read_summary(store, run_id) or {}
        seconds, rows = summary.get("replica_hours", 0) * 3600, summary.get("rows", 0)
        if seconds and rows:
            embedded = summary.get("report", {}).get("embedded_tokens", summary["tokens"])  # without those of copied parts
            return embedded / seconds, summary["output_bytes"] / rows
    return None, None


def _row_bytes(run: Run, sample: dict[str, int]) -> float:
    schema = output_schema(run.plan, run.stamp, run.config.output.partition_by)
    recipe = run.request.recipe
    per_document = 1.0
    if sample["documents"]:
        if recipe.pooling == (Pooling.TOKENS,):
            per_document = sample["tokens"] / sample["documents"]
        elif recipe.long_text is LongText.CHUNKS:
            per_document = sample["rows"] / sample["documents"]
    return per_document * vector_bytes(schema) + ROW_OVERHEAD_BYTES
