"""The encoder: one model on one device, from tokenised texts to vectors.

    batches (batches/plan.py) -> each through the model, in one of its ways (ways/) -> readout to vectors (readout.py)
    -> copy to the host (device/in_flight.py) -> place in the order of the sequences

At start, self_check.py chooses how the model is run and in which precision. Batches depend on the call's sequences alone,
so the same call gives the same bits on the same kind of device. A sequence that does not fit the device alone, or that the
model refuses, becomes NaN with a reason, and the caller quarantines it (batches/runner.py). On CUDA a call is submitted
before the one before it has ended. One thread at a time may use an encoder. Knows nothing of texts, files or shards.

Shapes: N sequences, B sequences of a batch, D components of a vector.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.config import ROW_A_CHUNK, Auto, Precision
from workers.engine.batches.attempts import Failed, blame, first_line
from workers.engine.batches.budget import choose_batch_tokens
from workers.engine.batches.plan import Layout, mixed_batches, plan_batches, positions
from workers.engine.batches.runner import BatchRunner, Call
from workers.engine.cells import Cell, require_cells
from workers.engine.checkpoint import Checkpoint
from workers.engine.device.in_flight import Arrivals, Arrived, CudaLane, Landing, Pending, Ring
from workers.engine.device.overflow import Overflow
from workers.engine.kernels.packing import pack
from workers.engine.pooling import KEPT_LAYERS, needs_layers, needs_pooler
from workers.engine.readout import Readout
from workers.engine.retrieval.sparse_head import SparseRows
from workers.engine.self_check import SelfCheck, reference_vectors
from workers.engine.trial import Choice, recall, remember
from workers.engine.ways.interface import Forward
from workers.errors import ReembedError, ReplicaError, UsageError
from workers.model.files import PROJECTION, ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.tokens import EncodedTexts, TokenizedTexts, ranges, unknown_ids

MIXED = 4  # golden sequences in a padded batch: a short one beside one that is several times as long
OVERFLOWS = (Precision.FLOAT16,)  # ends at 65,504; the others reach as far as float32
EXACT_TOKENS = 8192  # of a batch in float32 of what overflows. Fixed: the same bits on every attempt
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """How the encoder computes, apart from the model."""

    precision: Precision = Precision.AUTO
    batch_tokens: int | Auto = "auto"  # limit of a batch
    threads: int | None = None  # torch's CPU threads; None: as torch is set
    reference: Callable[[], NDArray[np.float32] | None] | None = None  # see SelfCheck; None: computed here
    way: str | None = None  # the run's settled way in `precision`; None: the fastest that passes
    known: Collection[str] = ()  # see SelfCheck


class Encoder:
    """One model on one device: the first visible CUDA device, else the CPU."""

    _checkpoint: Checkpoint  # until a way to run the model is chosen
    _overflow: Overflow | None

    def __init__(
        self, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, options: EncoderOptions | None = None
    ) -> None:
        """Load the model and run the self-check. `golden`: model.golden.GOLDEN_TEXTS, tokenised.

        Raises:
            UsageError: the weights are incomplete or do not fit the recipe.
            ReplicaError: the device fails, or does not reproduce the golden vectors.
        """
        options = options or EncoderOptions()
        self._open(files, recipe, golden, options.threads)
        digest, wanted = files.weights_digest, options.precision
        self._forward: Forward
        try:
            preferred = Choice(wanted, options.way) if options.way else recall(digest, wanted, self.device)
            check = SelfCheck(
                self._checkpoint,
                golden,
                wanted,
                self.device,
                self._golden_vectors,
                options.reference,
                preferred,
                options.known,
                sparse=recipe.sparse is not None,
            )
            self.precision, self._forward = check.choose_precision()
            self.reproducing = check.reproducing
            if options.way not in (None, self.way):
                _log.warning("%s: the run's way %s is not possible here; working by %s", self.device, options.way, self.way)
            elif check.tried:
                remember(Choice(self.precision, self.way), digest, wanted, self.device)
            limit = options.batch_tokens
            self.batch_tokens = choose_batch_tokens(self._forward, golden, self.device) if limit == "auto" else limit
            if self.precision in OVERFLOWS:
                self._overflow = self._mender(files, recipe, golden, options, check.reference)
            self._readout.to(self.device)  # whichever device the last of the golden vectors were computed on
        except ReembedError:
            raise
        except Exception as error:  # another version of torch lacks a function or an argument
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ReplicaError(
                f"{self.device}: the model could not be run there with torch {torch.__version__}: {reason}"
            ) from error
        del self._checkpoint  # self._forward has copies of its own
        _log.info("%s: %s, %d tokens a batch", self.device, self._forward.name, self.batch_tokens)

    @classmethod
    def golden_reference(
        cls, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, threads: int | None = None
    ) -> NDArray[np.float32]:
        """Vectors [sequences, dim] of the golden texts by transformers, in float32 on the CPU.

        Raises:
            UsageError: the weights are incomplete or do not fit the recipe.
        """
        encoder = cls.__new__(cls)  # opened only: the reference needs no self-check
        encoder._open(files, recipe, golden, threads)
        return reference_vectors(encoder._checkpoint, golden, encoder._golden_vectors)

    def _open(self, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, threads: int | None) -> None:
        threads = threads or torch.get_num_threads()
        torch.set_float32_matmul_precision("highest")  # no TF32: float32 means float32
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._recipe, self._golden = recipe, golden
        self._cells: tuple[Cell, ...] = ()
        self._ring: Ring | None = None
        self._overflow = None
        torch.set_num_threads(threads)  # of this thread; the runner's get their own share
        self._runner = BatchRunner(threads, self.device)
        self.tokens_done = 0  # totals for progress, updated after each batch
        self.documents_done = 0.0
        self.batches_done = 0
        folder, with_pooler = files.folder / recipe.transformer, needs_pooler(recipe.pooling)
        beside = {module.kind for module in recipe.token_modules} & {PROJECTION}
        self._checkpoint = checkpoint = Checkpoint(folder, files.name, with_pooler=with_pooler, beside=beside)
        if needs_layers(recipe.pooling) and checkpoint.layers is not None and checkpoint.layers < KEPT_LAYERS:
            raise UsageError(
                f"model.pooling={recipe.pooling_name}: the model has {checkpoint.layers} layers, four are needed; use mean"
            )
        self.layers, self._vocabulary = checkpoint.layers, checkpoint.vocabulary
        if unknown := unknown_ids(golden, self._vocabulary):
            raise UsageError(next(iter(unknown.values())))
        self._readout = Readout(files, recipe, checkpoint.hidden, checkpoint.layers)

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self._readout.dim

    @property
    def batch_tokens(self) -> int:
        """The limit of a batch, in tokens; lowered when the device runs out of memory."""
        return self._runner.batch_tokens

    @batch_tokens.setter
    def batch_tokens(self, limit: int) -> None:
        self._runner.batch_tokens = limit

    @property
    def way(self) -> str:
        """How the model is run: fused (and its precision), packed or padded."""
        return self._forward.name

    def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
        """Vectors of the documents; of the chunks with long_text=chunks and late_chunks; of tokens (BY_TOKEN).

        Raises:
            ReplicaError: the device failed.
        """
        return self.submit(tokens).result()

    def encode_cells(self, tokens: TokenizedTexts, cells: Sequence[Cell]) -> list[EncodedTexts]:
        """Vectors of every cell (cells.py), from one forward pass of each batch; the recipe's own pooling has no part in it.

        Raises:
            UsageError: a cell that this model does not have. ReplicaError: the device failed.
        """
        require_cells(cells, self._recipe, self.layers)
        if self._overflow is not None:
            raise UsageError("candidates.layers: not in float16, in which a layer may overflow; use bfloat16 or float32")
        self._cells = tuple(cells)
        try:
            found = self.encode(tokens)
        finally:
            self._cells = ()
        pieces = np.split(found.vectors, len(cells), axis=1)
        return [replace(found, vectors=vectors) for vectors in pieces]

    def submit(self, tokens: TokenizedTexts) -> Pending:
        """The same, submitted: on CUDA its result is waited for later, so that the device need not wait for the host.

        On a CPU everything is computed here.

        Raises:
            ReplicaError: the device failed. It may say so as late as `result`, or at a later call.
        """
        refused = unknown_ids(tokens, self._vocabulary)
        usable_N = tokens.lengths > 0  # without special tokens a sequence may be empty
        usable_N[list(refused)] = False
        rows = np.flatnonzero(usable_N)
        planned = plan_batches(tokens.lengths[rows], self.batch_tokens, self._forward.layout)
        with self._blaming_the_device():
            return self._submit(tokens, [rows[batch] for batch in planned], refused)

    @torch.inference_mode()
    def _submit(
        self, tokens: TokenizedTexts, batches: list[NDArray[np.int64]], refused: dict[int, str], *, strict: bool = False
    ) -> Pending:
        """`refused`: sequences that are in no batch; others are added. `strict`: golden: errors raised, zeros given."""
        call = self._call(tokens, strict=strict)
        readout, by_token = self._readout, self._readout.by_token
        settings = None if strict else self._recipe.sparse
        sparse = None if settings is None else SparseRows(len(tokens.row_document), settings.top)
        rows = len(tokens.input_ids) if by_token else len(tokens.row_document)
        arrivals = Arrivals(self._landing(), rows, readout.width(self._cells))
        sink: Arrivals | SparseRows = arrivals if sparse is None else sparse
        computed, sequences = 0, sum(map(len, batches))
        for batch, vectors in self._runner.run(call, batches, refused):
            lengths_B = call.lengths_N[batch]
            computed += positions(lengths_B, call.layout)
            self.tokens_done += int(lengths_B.sum())
            self.batches_done += 1
            self.documents_done += len(batch) * len(tokens.num_tokens) / sequences
            sink.add(vectors, ranges(tokens.offsets[batch], lengths_B) if by_token else tokens.rows_of(batch))
        if sparse is not None:
            return Pending(lambda: True, lambda: self._mended(tokens, sparse.encoded(computed, refused)))
        finish = functools.partial(self._complete, tokens, arrivals, computed, refused)
        return Pending(arrivals.complete, finish)

    @torch.inference_mode()
    def _complete(self, tokens: TokenizedTexts, arrivals: Arrivals, computed: int, refused: dict[int, str]) -> EncodedTexts:
        """What was submitted, with all its vectors on the host."""
        with self._blaming_the_device():
            vectors = arrivals.all()
        by_token = self._readout.by_token
        if self._readout.averages_chunks:
            vectors = self._readout.mean_of_chunks(vectors, tokens)
        if by_token and tokens.skipped is not None:
            vectors = vectors[~tokens.skipped]
        offsets = tokens.counted_offsets if by_token else None
        return self._mended(tokens, EncodedTexts(vectors, offsets, computed, refused))

    def _mended(self, tokens: TokenizedTexts, encoded: EncodedTexts) -> EncodedTexts:
        return self._overflow.mended(tokens, encoded) if self._overflow is not None else encoded

    def _mender(
        self,
        files: ModelFiles,
        recipe: EmbeddingRecipe,
        golden: TokenizedTexts,
        options: EncoderOptions,
        reference: NDArray[np.float32],
    ) -> Overflow:
        """Embeds what overflows this precision by an encoder like this one in float32, which is loaded when needed."""
        exact = EncoderOptions(Precision.FLOAT32, EXACT_TOKENS, options.threads, lambda: reference)
        load = functools.partial(Encoder, files, recipe, golden, exact)
        return Overflow(load, str(self.device), chunked=recipe.long_text in ROW_A_CHUNK)

    @contextlib.contextmanager
    def _blaming_the_device(self) -> Iterator[None]:
        """CUDA reports an error at a later call than the one that caused it: whatever it is, the replica is at fault."""
        try:
            yield
        except RuntimeError as error:
            if self.device.type != "cuda":
                raise
            raise ReplicaError(f"{self.device}: {first_line(error)}") from error

    def _landing(self) -> Landing:
        """Where vectors arrive on the host."""
        if self.device.type != "cuda":
            return Arrived()
        self._ring = self._ring or Ring(CudaLane(self.device))
        return self._ring

    def _call(self, tokens: TokenizedTexts, *, strict: bool) -> Call:
        embed = functools.partial(self._embed, tokens)
        return Call(embed, tokens.lengths, self._forward.layout, self.device, self._blame, strict)

    def _blame(self, failed: Failed) -> str:
        rows = np.flatnonzero(self._golden.lengths)
        shortest = rows[[int(np.argmin(self._golden.lengths[rows]))]]
        return blame(failed, lambda: self._embed(self._golden, shortest), self.device)

    def _embed(self, tokens: TokenizedTexts, rows: NDArray[np.int64]) -> Tensor:
        """The vectors of the sequences `rows` of the call's tokens, as one batch; see Readout.vectors."""
        batch = pack(tokens, rows, self.device)
        states = self._forward(batch, layers=self._readout.kept_layers(self._cells))
        return self._readout.vectors(states, tokens, rows, batch, self._cells)

    def _golden_vectors(self, forward: Forward, golden: TokenizedTexts, device: torch.device) -> NDArray[np.float32]:
        """Vectors of all golden sequences (or tokens), computed as those of documents are, and in the most mixed batches.

        Packed, all are one batch, to detect sequences that influence each other; padded, long ones are beside short ones, to
        detect padding that does.
        """
        self._forward = forward
        rows = np.flatnonzero(golden.lengths)
        lengths, layout = golden.lengths[rows], forward.layout
        self.batch_tokens = max(len(golden.input_ids), MIXED * int(lengths.max(initial=1)))
        mixed = layout is Layout.PADDED
        batches = mixed_batches(lengths, MIXED) if mixed else plan_batches(lengths, self.batch_tokens, layout)
        own_device, self.device = self.device, device
        self._readout.to(device)
        try:
            return self._submit(golden, [rows[batch] for batch in batches], {}, strict=True).result().vectors
        finally:
            self.device, self.tokens_done, self.documents_done, self.batches_done = own_device, 0, 0.0, 0
