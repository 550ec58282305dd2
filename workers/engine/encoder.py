"""Loads the model once, proves itself, then turns tokenised texts into vectors on one device.

    batch -> forward pass -> (modules on tokens) -> pool in float32 -> (modules on vectors)      per batch
          -> (mean of chunks) -> truncate_dim -> normalise                                       per call

How the model is run and in which precision is settled by workers/engine/self_check.py before the first shard. Batches are a
function of the call's sequences alone, so the same call gives the same bits on the same kind of device. When the device
runs out of memory the batch is halved and the budget lowered for good; a sequence that does not even fit alone becomes
NaN, which the caller quarantines. `encode` is called from one thread. Knows nothing of texts, files or shards.

Shapes: N sequences, B sequences of a batch, T tokens of it, H hidden size, D components of the output.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.config import Auto, LongText, Pooling, Precision
from workers.engine.batching import plan_batches, positions
from workers.engine.budget import choose_batch_tokens
from workers.engine.checkpoint import Checkpoint
from workers.engine.forward import Forward
from workers.engine.heads import Heads
from workers.engine.kernels.packing import pack
from workers.engine.pooling import HiddenStates, mean_of_chunks, needs_layers, needs_pooler, pool
from workers.engine.self_check import SelfCheck, reference_vectors
from workers.errors import ReplicaError, UsageError
from workers.model.files import ModelFiles
from workers.model.recipe import EmbeddingRecipe, output_dim
from workers.records.tokens import EncodedTexts, TokenizedTexts, ranges

# Batches a CPU works on side by side. Each by threads of its own: nobody waits for a thread that another process has
# pushed aside, and the interpreter's share of one batch is hidden behind the products of the next.
MOST_AT_ONCE = 4
_log = logging.getLogger(__name__)


class Encoder:
    """One model replica on one device: the first visible CUDA device, else the CPU."""

    def __init__(
        self, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, precision: Precision = Precision.AUTO,
        batch_tokens: int | Auto = "auto", threads: int | None = None,
        reference: Callable[[], NDArray[np.float32] | None] | None = None,
    ) -> None:  # fmt: skip
        """`golden` are golden.GOLDEN_TEXTS tokenised; `batch_tokens` bounds a batch; `threads` sets torch's CPU threads;
        `reference` gives the vectors of `golden_reference`, where somebody else computes them, or None.

        Raises:
            UsageError: the weights are incomplete or do not fit the recipe. ReplicaError: the device fails, or does not
            reproduce the golden texts.
        """
        self._open(files, recipe, golden, threads)
        check = SelfCheck(self._checkpoint, golden, precision, self.device, self._golden_vectors, reference)
        self._forward: Forward
        try:
            self.precision, self._forward = check.choose_precision()
            if batch_tokens == "auto":
                batch_tokens = choose_batch_tokens(self._forward, golden, self.device)
            self.batch_tokens = batch_tokens
        except RuntimeError as error:
            raise ReplicaError(f"{self.device}: the model could not be run there: {_first_line(error)}") from error
        del self._checkpoint  # the way chosen has copies of its own
        _log.info("%s: %s, %d tokens a batch", self.device, self._forward.name, self.batch_tokens)

    @classmethod
    def golden_reference(
        cls, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, threads: int | None = None
    ) -> NDArray[np.float32]:
        """What every replica must reproduce: the golden texts' vectors by transformers itself, in float32 on the CPU.

        Raises: UsageError.
        """
        encoder = cls.__new__(cls)  # opened, and never asked for anything else: nothing needs to be proved
        encoder._open(files, recipe, golden, threads)
        return reference_vectors(encoder._checkpoint, golden, encoder._golden_vectors)

    def _open(self, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, threads: int | None) -> None:
        threads = threads or torch.get_num_threads()
        torch.set_float32_matmul_precision("highest")  # no TF32: float32 means float32
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._recipe, self._lowered = recipe, False
        at_once = min(threads, MOST_AT_ONCE) if self.device.type == "cpu" else 1
        torch.set_num_threads(threads)  # of this thread; those below have their own share
        self._workers: ThreadPoolExecutor | None = None
        if at_once > 1:
            self._workers = ThreadPoolExecutor(
                at_once, "encode", initializer=torch.set_num_threads, initargs=(max(threads // at_once, 1),)
            )
        self.tokens_done = 0  # running totals for progress, counted batch by batch
        self.documents_done = 0.0
        self.batches_done = 0
        folder, with_pooler = files.folder / recipe.transformer, needs_pooler(recipe.pooling)
        self._checkpoint = checkpoint = Checkpoint(folder, files.name, with_pooler=with_pooler)
        if needs_layers(recipe.pooling) and checkpoint.layers is not None and checkpoint.layers < 4:
            raise UsageError(
                f"model.pooling={recipe.pooling_name}: the model has {checkpoint.layers} layers, four are needed; use mean"
            )
        self.dim, self._vocabulary = output_dim(recipe, checkpoint.hidden), checkpoint.vocabulary
        self._check_ids(golden)
        self._token_heads = Heads(files.folder, recipe.token_modules, torch.device("cpu"))
        self._vector_heads = Heads(files.folder, recipe.vector_modules, torch.device("cpu"))

    @property
    def way(self) -> str:
        """How the model is run: fused, packed or padded."""
        return self._forward.name

    @torch.inference_mode()
    def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
        """Vectors of the documents (of the sequences with long_text=chunks, of the tokens with pooling=tokens).

        Raises:
            UsageError: token ids that the model does not know. ReplicaError: the device failed.
        """
        self._check_ids(tokens)
        lengths_N, packed = tokens.lengths, self._forward.packed
        by_token = self._recipe.pooling == (Pooling.TOKENS,)
        out = np.full((len(tokens.input_ids) if by_token else 0, self.dim), np.nan, np.float32)
        done: list[tuple[NDArray[np.int64], Tensor]] = []
        computed = 0
        rows = np.flatnonzero(lengths_N)  # a tokenizer without special tokens can leave a sequence empty
        batches = [rows[batch] for batch in plan_batches(lengths_N[rows], self.batch_tokens, packed=packed)]
        for batch, vectors in self._embedded(tokens, batches):
            computed += positions(lengths_N[batch], packed=packed)
            self.tokens_done += int(lengths_N[batch].sum())
            self.batches_done += 1
            self.documents_done += len(batch) * len(tokens.num_tokens) / len(rows)
            if by_token:
                out[ranges(tokens.offsets[batch], lengths_N[batch])] = self._finish(vectors).cpu().numpy()
            else:
                done.append((batch, vectors))
        if by_token:
            return EncodedTexts(out, tokens.offsets, computed)
        vectors_ND = self._scatter(done, len(lengths_N))
        if self._recipe.long_text is LongText.MEAN_OF_CHUNKS:
            vectors_ND = mean_of_chunks(vectors_ND.cpu(), tokens)
        return EncodedTexts(self._finish(vectors_ND).cpu().numpy(), None, computed)

    def _embedded(
        self, tokens: TokenizedTexts, batches: list[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Each batch with its vectors; on a CPU several at a time, each by one thread.

        One after the other on CUDA: what does not fit is halved, and what does not fit alone is left out.
        """
        if self._workers is not None:
            yield from zip(batches, self._workers.map(functools.partial(self._embed_apart, tokens), batches), strict=True)
            return
        todo = batches[::-1]
        while todo:
            batch = todo.pop()
            size = positions(tokens.lengths[batch], packed=self._forward.packed)
            vectors = self._attempt(tokens, batch) if size <= self.batch_tokens or len(batch) == 1 else None
            if vectors is None:
                todo += self._halves(batch, size)
            else:
                yield batch, vectors

    @torch.inference_mode()  # which is a thread's own matter
    def _embed_apart(self, tokens: TokenizedTexts, batch: NDArray[np.int64]) -> Tensor:
        return self._embed(tokens, batch)

    def _golden_vectors(self, forward: Forward, golden: TokenizedTexts, device: torch.device) -> NDArray[np.float32]:
        """Vectors of all golden sequences (or tokens), by the path every text takes later."""
        self._forward = forward
        # a packed batch of all, since they must not see each other; rectangles of few, or most would be padding
        self.batch_tokens = len(golden.input_ids) if forward.packed else 2 * int(golden.lengths.max(initial=1))
        here, self.device = self.device, device
        for heads in (self._token_heads, self._vector_heads):
            heads.to(device)
        try:
            return self.encode(golden).vectors
        finally:
            self.device, self.tokens_done, self.documents_done, self.batches_done = here, 0, 0.0, 0

    def _check_ids(self, tokens: TokenizedTexts) -> None:
        if len(tokens.input_ids) and int(tokens.input_ids.max()) >= self._vocabulary:
            raise UsageError(
                f"the tokenizer gives id {int(tokens.input_ids.max())}, the model knows {self._vocabulary} tokens; "
                "model.name mixes the tokenizer of one model with the weights of another"
            )

    def _halves(self, batch: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """What to do instead of a batch that is too large; the first half is taken first."""
        if size <= self.batch_tokens or len(batch) == 1:  # it was tried, so the device is full: remember
            if not self._lowered:
                _log.warning("%s: out of memory on %d positions; lowering the token budget", self.device, size)
                self._lowered = True
            if len(batch) == 1:
                return []  # not even alone: its row stays NaN
            self.batch_tokens = max(size // 2, 1)
        middle = (len(batch) + 1) // 2
        return [batch[middle:], batch[:middle]]

    def _attempt(self, tokens: TokenizedTexts, batch: NDArray[np.int64]) -> Tensor | None:
        """Vectors of a batch, or None when the device has no memory for it."""
        try:
            return self._embed(tokens, batch)
        except torch.OutOfMemoryError:
            pass  # what the failed pass holds is released only once the exception is gone
        except RuntimeError as error:
            if self.device.type == "cuda":
                raise ReplicaError(f"{self.device}: {_first_line(error)}") from error
            raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _embed(self, tokens: TokenizedTexts, rows: NDArray[np.int64]) -> Tensor:
        """[B, D'] pooled float32 vectors, before mean of chunks and truncate_dim; pooling=tokens: [T, D']."""
        recipe = self._recipe
        batch = pack(tokens, rows, self.device)
        states = self._forward(batch, layers=needs_layers(recipe.pooling))
        last_TH = self._token_heads.on_tokens(states.last_TH.float(), batch.lengths_B)
        if recipe.pooling == (Pooling.TOKENS,):
            return last_TH
        ends_B = batch.cumulative_B1[1:].to(torch.int64)
        starts_B = batch.cumulative_B1[:-1].to(torch.int64)
        skip = 0 if recipe.include_prompt else tokens.prompt_tokens
        hidden = HiddenStates(
            last_TH,
            torch.minimum(starts_B + skip, ends_B) if skip else starts_B,
            ends_B,
            skip,
            tuple(layer.float() for layer in states.layers),
            states.pooler_BH.float() if needs_pooler(recipe.pooling) and states.pooler_BH is not None else None,
        )
        return self._vector_heads.on_vectors(pool(hidden, recipe.pooling))

    def _scatter(self, done: list[tuple[NDArray[np.int64], Tensor]], rows: int) -> Tensor:
        """[N, D'] in the order of the sequences, NaN where nothing was computed; stays on the device."""
        width = done[0][1].shape[-1] if done else self.dim
        vectors_ND = torch.full((rows, width), float("nan"), dtype=torch.float32, device=self.device)
        for batch, vectors in done:
            vectors_ND[torch.from_numpy(batch).to(self.device)] = vectors
        return vectors_ND

    def _finish(self, vectors: Tensor) -> Tensor:
        """[..., D'] -> [..., D]: truncate_dim, then unit length."""
        vectors = vectors[..., : self.dim]
        return torch.nn.functional.normalize(vectors, dim=-1) if self._recipe.normalize else vectors


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
