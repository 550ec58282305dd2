"""A replica: the composition root of a worker process. It holds one model and embeds one shard after another.

    embed_shard(assignment) -> Receipt | Failure
        adopt the parts of an earlier attempt if they are complete, else
        read -> tokenise -> encode -> (rows to the local disk) -> (write and put parts)   (threads, joined by short queues)

Several calls may be in flight: a shard is read while the one before it is embedded and the parts of an earlier one are sent.
The replica does not choose shards and does not retry. Errors become a Failure that says what is at fault.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.config import Precision, VectorType
from workers.dedup.deduplicator import DedupedWindow
from workers.engine.encoder import EncoderOptions
from workers.errors import ReplicaError, UsageError
from workers.host.memory import Trimmer, peak_memory_bytes
from workers.host.spill_file import own_spill_folder
from workers.model.files import resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer
from workers.reading.reader import read_windows
from workers.records.documents import TEXT
from workers.records.shard import Assignment, Failure, Receipt, ReplicaStats, Shard
from workers.records.tokens import TokenizedTexts, rows_of_texts
from workers.replica.encoders import AnyEncoder, load_encoder
from workers.replica.golden_reference import await_golden_reference
from workers.replica.pipeline import Later, Pipeline
from workers.replica.settings import ReplicaSettings, ResolvedSettings
from workers.replica.shard_job import EncodedWindow, ReadWindow, ShardContext, ShardJob
from workers.storage.client import retries
from workers.storage.store import Store
from workers.table.representations import derived, vector_formats
from workers.table.schema import output_schema
from workers.table.vectors import calibrate_scale
from workers.writing.commit import adopt
from workers.writing.failure import failure_of

CALIBRATION_DOCUMENTS = 256  # of each sampled shard, to calibrate the scale of int8 vectors


class Replica:
    """One model on one device. `configure` must be called before the first shard.

    Raises (constructor):
        UsageError: the model or the settings cannot be used.
        ReplicaError: the model on this node is not the one the run was planned with, or it computes wrong vectors here.
    """

    def __init__(self, settings: ReplicaSettings, name: str) -> None:
        began = time.monotonic()
        self.name, self._settings = name, settings
        self._context: ShardContext | None = None  # None: not configured yet
        self._files = files = resolve_model(settings.model)
        if (files.weights_digest, files.tokenizer_digest) != (settings.weights_digest, settings.tokenizer_digest):
            raise ReplicaError(
                f"model {files.name} on {socket.gethostname()} has weights {files.weights_digest[:12]}, the run was "
                f"planned with {settings.weights_digest[:12]}; make the same model available on every node"
            )
        self._recipe = read_recipe(files, settings.model)
        self._store = Store(settings.output.uri, settings.output.storage_options)
        self._store.atomic_create = settings.atomic_create
        self._tokenizer = TextTokenizer(files.folder, self._recipe, settings.threads)
        self._encoder = self._load(settings.precision, settings.way)
        if self._encoder.dim != settings.dim:
            raise UsageError(
                f"model.name={files.name}: gives vectors of {self._encoder.dim} components, and its config.json says "
                f"{settings.dim}; name another model"
            )
        self._pipeline: Pipeline[Receipt] = Pipeline(
            [("tokenize", self._tokenize), ("encode", self._encode)], waiting="encode"
        )
        self._spill_folder = own_spill_folder()
        self._in_flight: dict[int, int] = {}
        self._trimmer = Trimmer()
        self._documents_spared = 0  # not encoded, because their texts are reused or repeated
        self._lock = threading.Lock()
        self._encoding_since: float | None = None
        self._loaded_seconds = time.monotonic() - began
        self._ready_at = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """Node, device and settings in use, for logs and the report."""
        return {
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "device": str(self._encoder.device),
            "precision": self._encoder.precision.value,
            "way": self._encoder.way,
            "tokenizer": "compiled" if self._tokenizer.compiled else "tokenizers",
            "batch_tokens": self._encoder.batch_tokens,
            "loaded_seconds": round(self._loaded_seconds, 2),
        }

    def configure(self, resolved: ResolvedSettings) -> None:
        """Use the run's settings. If another precision or way was chosen here, the model is loaded again.

        Raises:
            ReplicaError: the run's precision is out of tolerance on this device.
        """
        precision = Precision(resolved.stamp.precision)
        wanted = (precision, resolved.way or self._encoder.way)
        if wanted not in ((self._encoder.precision, self._encoder.way), self._asked):
            self._encoder = self._load(precision, resolved.way)
        self._encoder.batch_tokens = resolved.batch_tokens
        output = self._settings.output
        schema = output_schema(
            self._settings.plan, resolved.stamp, output.partition_by, nullable_elements=resolved.nullable_elements
        )
        self._context = ShardContext(
            plan=self._settings.plan,
            schema=schema,
            store=self._store,
            spill_folder=self._spill_folder,
            replica=self.name,
            token_strings=self._tokenizer.strings,
            vector_encoding=output.parquet.vector_encoding,
        )

    def embed_shard(self, assignment: Assignment) -> Receipt | Failure:
        """One attempt at a shard. Never raises: errors are returned as a Failure."""
        shard = assignment.shard
        with self._lock:
            self._in_flight[shard.number] = assignment.epoch
        try:
            context = self._configured()
            schema = context.schema
            adopted = adopt(self._store, schema.stamp.run_id, shard, schema.fingerprint())
            if adopted is not None:
                return adopted
            return self._pipeline.submit(ShardJob(assignment, context)).result()
        except Exception as error:  # noqa: BLE001 - every error is returned as a Failure that says what is at fault
            return failure_of(assignment, error)
        finally:
            with self._lock:
                self._in_flight.pop(shard.number, None)
            self._trimmer.trim_if_due()

    def calibrate(self, shards: Sequence[Shard]) -> dict[str, float]:
        """The scale of each int8 column for the whole snapshot, from the first documents of each of these shards.

        Raises:
            ObjectError, UsageError, TransientError: as reading. ReplicaError: as encoding.
        """
        samples = []
        for shard in shards:
            window = next(iter(read_windows(shard, self._settings.plan, {})), None)
            if window is not None and window.table.num_rows:
                texts = window.table[TEXT].slice(0, CALIBRATION_DOCUMENTS).to_pylist()
                samples.append(self._encoder.encode(self._tokenizer.tokenize(texts)).vectors)
        sample = np.concatenate(samples) if samples else np.empty((0, self._encoder.dim), np.float32)
        return {
            form.column: calibrate_scale(derived(sample, form, normalize=self._recipe.normalize))
            for form in vector_formats(self._settings.output.columns, self._encoder.dim)
            if form.vector is VectorType.INT8
        }

    def golden(self) -> NDArray[np.float32] | None:
        """Vectors [sequences, dim] of the golden texts, computed as those of documents are; None for pooling=tokens.

        Only for an idle replica, since one thread at a time may encode.
        """
        encoded = self._encoder.encode(self._tokenizer.tokenize(GOLDEN_TEXTS))
        return encoded.vectors if encoded.offsets is None else None

    def stats(self) -> ReplicaStats:
        """Totals since the model was loaded."""
        totals, since, now = dict(self._pipeline.totals), self._encoding_since, time.monotonic()
        return ReplicaStats(
            documents=int(self._encoder.documents_done) + self._documents_spared,
            tokens=self._encoder.tokens_done,
            busy_seconds=totals["encode"] + (now - since if since is not None else 0.0),
            uptime_seconds=now - self._ready_at,
            peak_memory_bytes=peak_memory_bytes(),
            shards=tuple(self._in_flight),
            stage_seconds=totals,
            batches=self._encoder.batches_done,
            storage_retries=retries(),
        )

    def _tokenize(self, item: ReadWindow) -> tuple[DedupedWindow, TokenizedTexts]:
        """Tokenise the texts whose vectors are not in the shard's cache."""
        window, deduplicator = item
        deduped = deduplicator.deduplicate(window)
        tokens = self._tokenizer.tokenize(deduped.column())
        deduplicator.assign_rows(deduped, rows_of_texts(tokens, self._configured().schema.chunked))
        # probes are reused texts that are encoded again
        self._documents_spared += window.table.num_rows - len(deduped.new) - len(deduped.probes)
        return deduped, tokens

    def _encode(self, item: tuple[DedupedWindow, TokenizedTexts]) -> EncodedWindow | Later:
        """Only the encoder's own work: a GPU must not wait for Arrow, nor for the host between two windows."""
        deduped, tokens = item

        def result() -> EncodedWindow:
            with self._encoding():
                return deduped, tokens, pending.result()

        with self._encoding():
            pending = self._encoder.submit(tokens)
        return result() if pending.done() else Later(pending.done, result)

    @contextlib.contextmanager
    def _encoding(self) -> Iterator[None]:
        self._encoding_since = time.monotonic()
        try:
            yield
        finally:
            self._encoding_since = None

    def _load(self, precision: Precision, way: str | None) -> AnyEncoder:
        self._asked = (precision, way)  # a way that is not possible here is not asked for twice
        golden, settings = self._tokenizer.tokenize(GOLDEN_TEXTS), self._settings
        reference = functools.partial(await_golden_reference, settings.reference, self._files.weights_digest)
        options = EncoderOptions(precision, settings.batch_tokens, settings.threads, reference, way)
        return load_encoder(self._files, self._recipe, golden, options)

    def _configured(self) -> ShardContext:
        if self._context is None:
            raise ReplicaError(f"{self.name} was given a shard before it was configured")
        return self._context
