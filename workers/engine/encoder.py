"""The encoder: one model on one device, from tokenised texts to vectors.

    batch -> forward pass -> (modules on tokens) -> pool in float32 -> (modules on vectors)
          -> truncate_dim -> normalise                                      with long_text=mean_of_chunks behind the mean
          -> copy to the host -> place in the order of the sequences

At start, self_check.py chooses how the model is run and in which precision. Batches depend on the call's sequences alone,
so the same call gives the same bits on the same kind of device. If the device runs out of memory, the batch is halved and
`batch_tokens` lowered permanently. A sequence that does not fit alone, or that the model refuses, becomes NaN with a reason,
and the caller quarantines it. On CUDA a call is submitted before the one before it has ended (device/in_flight.py).
One thread at a time may use an encoder. Knows nothing of texts, files or shards.

Shapes: N sequences, B sequences of a batch, T tokens of a batch, H hidden size, D components of an output vector, D' of a
vector before truncate_dim.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.config import BY_TOKEN, ROW_A_CHUNK, Auto, LongText, Precision
from workers.engine.attempts import Failed, attempt, first_line, halves, unknown_ids
from workers.engine.batching import Layout, mixed_batches, plan_batches, positions
from workers.engine.budget import choose_batch_tokens
from workers.engine.cells import Cell, pooled_cells, require_cells
from workers.engine.checkpoint import Checkpoint
from workers.engine.device.in_flight import Arrivals, Arrived, CudaLane, Landing, Pending, Ring
from workers.engine.device.overflow import Overflow
from workers.engine.heads import Heads
from workers.engine.kernels.packing import borders, inputs_of, pack
from workers.engine.pooling import KEPT_LAYERS, HiddenStates, mean_of_chunks, needs_layers, needs_pooler, pool, pools_half
from workers.engine.retrieval.sparse_head import SparseHead, SparseRows
from workers.engine.self_check import SelfCheck, reference_vectors
from workers.engine.trial import Choice, recall, remember
from workers.engine.ways.interface import Forward
from workers.errors import ReembedError, ReplicaError, UsageError
from workers.model.files import PROJECTION, ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe, output_dim
from workers.records.tokens import EncodedTexts, TokenizedTexts, ranges

# Batches computed concurrently on a CPU, each by its own share of the threads. A thread that the system has suspended then
# delays one batch only, and the Python code of one batch overlaps with the matrix products of others.
MOST_AT_ONCE = 4
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
            self._move_heads()  # whichever device the last of the golden vectors were computed on
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
        self._recipe, self._lowered, self._by_token = recipe, False, recipe.pooling[0] in BY_TOKEN
        self._cells: tuple[Cell, ...] = ()
        self._ring: Ring | None = None
        self._overflow = None
        at_once = min(threads, MOST_AT_ONCE) if self.device.type == "cpu" else 1
        torch.set_num_threads(threads)  # of this thread; the threads below get their own share
        self._workers: ThreadPoolExecutor | None = None
        if at_once > 1:
            self._workers = ThreadPoolExecutor(
                at_once, "encode", initializer=torch.set_num_threads, initargs=(max(threads // at_once, 1),)
            )
        self.tokens_done = 0  # totals for progress, updated after each batch
        self.documents_done = 0.0
        self.batches_done = 0
        folder, with_pooler = files.folder / recipe.transformer, needs_pooler(recipe.pooling)
        beside = {module.kind for module in recipe.token_modules} & {PROJECTION}
        self._checkpoint = checkpoint = Checkpoint(folder, files.name, with_pooler=with_pooler, beside=beside)
        if needs_layers(recipe.pooling) and checkpoint.layers is not None and checkpoint.layers < 4:
            raise UsageError(
                f"model.pooling={recipe.pooling_name}: the model has {checkpoint.layers} layers, four are needed; use mean"
            )
        self.dim, self._vocabulary = output_dim(recipe, checkpoint.hidden), checkpoint.vocabulary
        self.layers, self._hidden, self._golden = checkpoint.layers, checkpoint.hidden, golden
        if unknown := unknown_ids(golden, self._vocabulary):
            raise UsageError(next(iter(unknown.values())))
        self._token_heads = Heads(files.folder, recipe.token_modules, torch.device("cpu"), by_token=True)
        self._vector_heads = Heads(files.folder, recipe.vector_modules, torch.device("cpu"))
        self._sparse = SparseHead(folder, files.name, recipe.sparse) if recipe.sparse is not None else None

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
        lengths_N, layout = tokens.lengths, self._forward.layout
        settings = None if strict else self._recipe.sparse
        sparse = None if settings is None else SparseRows(len(tokens.row_document), settings.top)
        width = min(self.dim, self._hidden) * len(self._cells) if self._cells else self.dim
        arrivals = Arrivals(self._landing(), len(tokens.input_ids) if self._by_token else len(tokens.row_document), width)
        sink: Arrivals | SparseRows = arrivals if sparse is None else sparse
        computed, sequences = 0, sum(map(len, batches))
        for batch, vectors in self._embedded(tokens, batches, refused, strict=strict):
            computed += positions(lengths_N[batch], layout)
            self.tokens_done += int(lengths_N[batch].sum())
            self.batches_done += 1
            self.documents_done += len(batch) * len(tokens.num_tokens) / sequences
            own = ranges(tokens.offsets[batch], lengths_N[batch]) if self._by_token else tokens.rows_of(batch)
            sink.add(vectors, own)
        if sparse is not None:
            return Pending(lambda: True, lambda: self._mended(tokens, sparse.encoded(computed, refused)))
        finish = functools.partial(self._complete, tokens, arrivals, computed, refused)
        return Pending(arrivals.complete, finish)

    @torch.inference_mode()
    def _complete(self, tokens: TokenizedTexts, arrivals: Arrivals, computed: int, refused: dict[int, str]) -> EncodedTexts:
        """What was submitted, with all its vectors on the host."""
        with self._blaming_the_device():
            vectors = arrivals.all()
        if self._averages_chunks:
            vectors = self._finish(mean_of_chunks(torch.from_numpy(vectors), tokens)).numpy()
        if self._by_token and tokens.skipped is not None:
            vectors = vectors[~tokens.skipped]
        offsets = tokens.counted_offsets if self._by_token else None
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

    @property
    def _averages_chunks(self) -> bool:
        return self._recipe.long_text is LongText.MEAN_OF_CHUNKS and not self._by_token

    def _embedded(
        self, tokens: TokenizedTexts, batches: list[NDArray[np.int64]], refused: dict[int, str], *, strict: bool
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Each batch with its vectors, concurrently if there are several threads.

        A batch that fails is halved, one after the other; a sequence that fails alone is left out, and `refused` says why.
        """
        todo = batches[::-1]
        if self._workers is not None:
            todo = []
            attempts = self._workers.map(functools.partial(self._attempt_in_thread, tokens, strict=strict), batches)
            for batch, found in zip(batches, attempts, strict=True):
                if isinstance(found, Tensor):
                    yield batch, found
                else:
                    todo.append(batch)
        while todo:
            batch = todo.pop()
            size = positions(tokens.lengths[batch], self._forward.layout)
            if size > self.batch_tokens and len(batch) > 1:  # planned before the budget was lowered
                todo += halves(batch)
                continue
            found = self._attempt(tokens, batch, strict=strict)
            if isinstance(found, Tensor):
                yield batch, found
                continue
            if found.memory:
                self._lower(size, halve=len(batch) > 1)
            if len(batch) > 1:
                todo += halves(batch)
            else:
                refused[int(batch[0])] = self._blame(found)

    @torch.inference_mode()  # which is set per thread
    def _attempt_in_thread(self, tokens: TokenizedTexts, batch: NDArray[np.int64], *, strict: bool) -> Tensor | Failed:
        return self._attempt(tokens, batch, strict=strict)

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
        self._move_heads()
        try:
            return self._submit(golden, [rows[batch] for batch in batches], {}, strict=True).result().vectors
        finally:
            self.device, self.tokens_done, self.documents_done, self.batches_done = own_device, 0, 0.0, 0

    def _move_heads(self) -> None:
        """The modules around the model, to the device in use."""
        for heads in (self._token_heads, self._vector_heads):
            heads.to(self.device)
        if self._sparse is not None:
            self._sparse.to(self.device)

    def _lower(self, size: int, *, halve: bool) -> None:
        """The device has no memory for a batch of `size` positions."""
        if not self._lowered:
            _log.warning("%s: out of memory on %d positions; lowering the token budget", self.device, size)
            self._lowered = True
        if halve:
            self.batch_tokens = max(size // 2, 1)

    def _blame(self, failed: Failed) -> str:
        """Why a sequence that failed alone has no vector. Raises: ReplicaError: a golden text fails as well."""
        if failed.memory:
            return failed.reason
        golden = self._golden
        rows = np.flatnonzero(golden.lengths)
        again = self._attempt(golden, rows[[int(np.argmin(golden.lengths[rows]))]])
        if not isinstance(again, Tensor):
            raise ReplicaError(f"{self.device}: {again.reason}; texts that it embedded before fail as well")
        return f"the model refuses it: {failed.reason}"

    def _attempt(self, tokens: TokenizedTexts, batch: NDArray[np.int64], *, strict: bool = False) -> Tensor | Failed:
        return attempt(lambda: self._embed(tokens, batch), self.device, strict=strict)

    def _embed(self, tokens: TokenizedTexts, rows: NDArray[np.int64]) -> Tensor:
        """Float32 vectors [B, D], of tokens [T, D]; [B, D'] if the mean of chunks comes before `_finish`."""
        recipe = self._recipe
        batch = pack(tokens, rows, self.device)
        kept = (self.layers or 0) + 1 if self._cells else KEPT_LAYERS if needs_layers(recipe.pooling) else 0
        states = self._forward(batch, layers=kept)
        half = not recipe.token_modules and pools_half(recipe.pooling, self.device)
        last_TH = self._token_heads.on_tokens(states.last_TH if half else states.last_TH.float(), batch.lengths_B)
        if self._by_token:
            return self._finish(last_TH)
        if self._sparse is not None:
            return self._sparse.pooled(last_TH, batch.lengths_B)
        skip = 0 if recipe.include_prompt else tokens.prompt_tokens
        pooler_BH = states.pooler_BH.float() if needs_pooler(recipe.pooling) and states.pooler_BH is not None else None
        layers = tuple(layer.float() for layer in states.layers)
        hidden = HiddenStates(last_TH, *borders(tokens, rows, batch, skip), layers, pooler_BH, inputs_of(tokens, batch))
        if self._cells:
            return pooled_cells(states.layers, hidden, self._cells, self._finish)
        vectors = self._vector_heads.on_vectors(pool(hidden, recipe.pooling))
        return vectors if self._averages_chunks else self._finish(vectors)

    def _finish(self, vectors: Tensor) -> Tensor:
        """[..., D'] -> [..., D]: truncate_dim, then unit length."""
        vectors = vectors[..., : self.dim]
        return torch.nn.functional.normalize(vectors, dim=-1) if self._recipe.normalize else vectors.contiguous()
