"""A shard through all stages of a replica without threads or a model: words are tokens, and their ids alone make vectors.

`Line.run` embeds rows as one shard and gives back the receipt, `Line.rows` reads its parts, `Line.shown` are the texts that
the model was given. The word `nan` makes a vector of NaN, `zero` one of zeros.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.workers.corpus_files import plan_of, slice_of
from tests.workers.output_samples import DIM, INT8_SCALE, stamp
from workers.config import LongText, Pooling, VectorType
from workers.dedup.deduplicator import DedupedWindow
from workers.records.shard import Assignment, Receipt, Shard
from workers.records.tokens import EncodedTexts, TokenizedTexts, rows_of_texts
from workers.replica.shard_job import ShardContext, ShardJob
from workers.storage.store import Store
from workers.table.schema import OutputSchema, output_schema

MAX_TOKENS = 5  # of a text, or of a chunk
Document = dict[str, Any]


def documents(texts: Sequence[str], first: int = 0, **kept: Sequence[Any]) -> list[Document]:
    """Rows of a corpus: ids doc-<first>..., these texts, further columns."""
    rows = [{"id": f"doc-{first + place}", "text": text} for place, text in enumerate(texts)]
    return [row | {name: cells[place] for name, cells in kept.items()} for place, row in enumerate(rows)]


@dataclass
class Line:
    """One output and the settings of its runs; `changes` are those of the stamp."""

    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    partition_by: Sequence[str] = ()
    noise: bool = False
    part_bytes: int | None = None
    shown: list[str] = field(default_factory=list)  # texts that the model saw in the last run, probes last in each window
    shapes: list[int] = field(default_factory=list)  # texts of each call
    _epochs: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "out"), {})

    @property
    def chunked(self) -> bool:
        return self.changes.get("long_text") is LongText.CHUNKS

    def schema(self, run_id: str, keep: dict[str, pa.DataType] | None = None) -> OutputSchema:
        scale = INT8_SCALE if self.changes.get("vector") is VectorType.INT8 else None
        settings = {"prompt": "", "int8_scale": scale} | self.changes
        return output_schema(plan_of(keep), stamp(run_id=run_id, **settings), list(self.partition_by))

    def run(
        self,
        run_id: str,
        rows: Sequence[Document],
        earlier: Sequence[str] = (),
        *,
        shard: int = 0,
        window_bytes: int = 1 << 20,
    ) -> Receipt:
        """Embed these rows as one shard, with parts of earlier runs to take vectors from."""
        source = self.folder / f"{run_id}-{shard}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        keep = {name: pa.string() for name in rows[0] if name not in ("id", "text")} if rows else {}
        plan = replace(plan_of(keep, id="id"), window_bytes=window_bytes)
        schema = self.schema(run_id, keep)
        work = Shard(shard, (slice_of(source, first_row=0),), 0, earlier=tuple(earlier))
        context = ShardContext(plan, schema, self.store, self.folder / "spool", "line", _strings)
        job = ShardJob(Assignment(work, next(self._epochs), 1), context)
        if self.part_bytes is not None:
            job._writer._vectors_per_part = self.part_bytes // (DIM * 4)
        self.shown, self.shapes = [], []
        for window, deduplicator in job.items():
            deduped: DedupedWindow = deduplicator.deduplicate(window)
            tokens = self._tokenize(deduped.texts(), schema)
            deduplicator.assign_rows(deduped, rows_of_texts(tokens, schema.chunked))
            job.append((deduped, tokens, self._encode(tokens, schema)))
        return job.finish({})

    def rows(self, receipt: Receipt) -> list[dict[str, Any]]:
        """All rows of a run, part by part; a text_hash as hexadecimals, a vector as a NumPy array."""
        tables = [pq.read_table(self.store.uri_of(file.path), partitioning=None).to_pylist() for file in receipt.files]
        return [
            row | {"text_hash": row["text_hash"].hex(), "embedding": np.array(row["embedding"])}
            for rows in tables
            for row in rows
        ]

    def _tokenize(self, texts: Sequence[str], schema: OutputSchema) -> TokenizedTexts:
        self.shown += texts
        self.shapes.append(len(texts))
        sequences, spans, owner = [], [], []
        for number, text in enumerate(texts):
            ids = [zlib.crc32(word.encode()) % 30000 for word in text.split()]
            marks = {"nan": -1, "zero": -2}
            ids = [marks.get(word, token) for word, token in zip(text.split(), ids, strict=True)]
            starts = range(0, len(ids), MAX_TOKENS) if schema.chunked else [0]
            for start in starts:
                sequences.append(ids[start : start + MAX_TOKENS])
                spans.append((start, start + len(sequences[-1])))
                owner.append(number)
        lengths = np.array([len(ids) for ids in sequences], np.int64)
        cut = [not schema.chunked and len(text.split()) > MAX_TOKENS for text in texts]
        return TokenizedTexts(
            input_ids=np.array(list(itertools.chain.from_iterable(sequences)), np.int32),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            document=np.array(owner, np.int32),
            chunk_start=np.array([start for start, _ in spans], np.int64) if schema.chunked else None,
            chunk_end=np.array([stop for _, stop in spans], np.int64) if schema.chunked else None,
            truncated=np.array(cut, np.bool_),
            num_tokens=np.bincount(owner, lengths, minlength=len(texts)).astype(np.int32),
            prompt_tokens=0,
        )

    def _encode(self, tokens: TokenizedTexts, schema: OutputSchema) -> EncodedTexts:
        by_token = schema.stamp.pooling == Pooling.TOKENS
        borders = np.arange(len(tokens.input_ids) + 1) if by_token else tokens.offsets
        vectors = [self._vector(tokens.input_ids[a:b].tolist()) for a, b in itertools.pairwise(borders.tolist())]
        stacked = np.array(vectors, np.float32).reshape(-1, DIM)
        return EncodedTexts(stacked, tokens.offsets if by_token else None, int(tokens.offsets[-1]))

    def _vector(self, ids: list[int]) -> np.ndarray:
        if -1 in ids or -2 in ids:
            return np.full(DIM, np.nan if -1 in ids else 0.0)
        seed = zlib.crc32(repr(ids).encode()) + (1 if self.noise else 0)
        vector = np.random.default_rng(seed).standard_normal(DIM)
        return vector / np.linalg.norm(vector)


def _strings(ids: Sequence[int]) -> list[str]:
    return [f"t{number}" for number in ids]


SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"vector": VectorType.FLOAT16},
    "int8": {"vector": VectorType.INT8},
    "binary": {"vector": VectorType.BINARY},
    "chunks": {"long_text": LongText.CHUNKS},
    "tokens": {"pooling": Pooling.TOKENS},
    "chunks int8": {"long_text": LongText.CHUNKS, "vector": VectorType.INT8},
    "tokens binary": {"pooling": Pooling.TOKENS, "vector": VectorType.BINARY},
}
