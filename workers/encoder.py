"""Loads the model once, then turns tokenised texts into vectors on one device.

    batch -> forward pass -> (modules on tokens) -> pool in float32 -> (modules on vectors)      per batch
          -> (mean of chunks) -> truncate_dim -> normalise                                       per call

Batches are a function of the call's sequences alone, so the same call gives the same bits on the same device. When the
device runs out of memory the batch is halved and the budget lowered for good; a sequence that does not even fit alone
becomes NaN, which the caller quarantines. `encode` is called from one thread. Knows nothing of texts, files or shards.

Shapes: N sequences, B sequences of a batch, T positions, H hidden size, D components of the output.
"""

from __future__ import annotations

import inspect
import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.batching import plan_batches
from workers.config import Auto, LongText, Pooling, Precision
from workers.errors import ReplicaError, UsageError
from workers.heads import Heads
from workers.model_files import ModelFiles
from workers.model_layout import EmbeddingRecipe, output_dim
from workers.model_weights import load_transformer
from workers.pooling import HiddenStates, needs_layers, needs_pooler, pool
from workers.token_records import EncodedTexts, TokenizedTexts, ranges

CPU_BATCH_TOKENS = 4096  # larger batches leave the caches
CUDA_BATCH_TOKENS = 65536
_log = logging.getLogger(__name__)


class Encoder:
    """One model replica on one device: the first visible CUDA device, else the CPU."""

    def __init__(
        self,
        files: ModelFiles,
        recipe: EmbeddingRecipe,
        precision: Precision = Precision.AUTO,
        batch_tokens: int | Auto = "auto",
        threads: int | None = None,
    ) -> None:
        """`batch_tokens` bounds a batch, padding included; `threads` sets torch's CPU threads (None: leave them).

        Raises:
            UsageError: the weights are incomplete or do not fit the recipe. ReplicaError: the device fails.
        """
        if precision is Precision.INT8:
            raise UsageError("model.precision=int8 is not available yet; use bfloat16")
        if threads is not None:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")  # no TF32: float32 means float32
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cuda = self.device.type == "cuda"
        self.precision = precision if precision is not Precision.AUTO else Precision.FLOAT16 if cuda else Precision.FLOAT32
        self._recipe = recipe
        self._budget = batch_tokens if batch_tokens != "auto" else CUDA_BATCH_TOKENS if cuda else CPU_BATCH_TOKENS
        self._lowered = False
        self.tokens_done = 0  # running totals for progress, counted batch by batch
        self.documents_done = 0.0
        self._model = load_transformer(
            files.folder / recipe.transformer,
            files.name,
            dtype=self.precision.value,
            with_pooler=needs_pooler(recipe.pooling),
        )
        config = self._model.config
        layers = getattr(config, "num_hidden_layers", None)
        if needs_layers(recipe.pooling) and layers is not None and layers < 4:
            raise UsageError(
                f"model.pooling={recipe.pooling_name}: the model has {layers} layers, four are needed; use mean"
            )
        self.dim = output_dim(recipe, int(config.hidden_size))
        self._vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        padding = getattr(config, "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and padding >= 0 else 0
        self._segments = "token_type_ids" in inspect.signature(self._model.forward).parameters
        try:
            self._model.to(self.device)
            self._token_heads = Heads(files.folder, recipe.token_modules, self.device)
            self._vector_heads = Heads(files.folder, recipe.vector_modules, self.device)
        except RuntimeError as error:
            raise ReplicaError(f"{self.device}: the model could not be placed there: {_first_line(error)}") from error

    @torch.inference_mode()
    def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
        """Vectors of the documents (of the sequences with long_text=chunks, of the tokens with pooling=tokens).

        Raises:
            UsageError: token ids that the model does not know. ReplicaError: the device failed.
        """
        lengths_N = tokens.lengths
        if len(tokens.input_ids) and int(tokens.input_ids.max()) >= self._vocabulary:
            raise UsageError(
                f"the tokenizer gives id {int(tokens.input_ids.max())}, the model knows {self._vocabulary} tokens; "
                "model.name mixes the tokenizer of one model with the weights of another"
            )
        by_token = self._recipe.pooling == (Pooling.TOKENS,)
        out = np.full((len(tokens.input_ids) if by_token else 0, self.dim), np.nan, np.float32)
        done: list[tuple[NDArray[np.int64], Tensor]] = []
        padded = 0
        rows = np.flatnonzero(lengths_N)  # a tokenizer without special tokens can leave a sequence empty
        todo = [rows[batch] for batch in plan_batches(lengths_N[rows], self._budget)][::-1]
        while todo:
            batch = todo.pop()
            size = int(lengths_N[batch].max()) * len(batch)
            vectors = self._attempt(tokens, batch) if size <= self._budget or len(batch) == 1 else None
            if vectors is None:
                todo += self._halves(batch, size)
                continue
            padded += size
            self.tokens_done += int(lengths_N[batch].sum())
            self.documents_done += len(batch) * len(tokens.num_tokens) / len(rows)
            if by_token:
                out[ranges(tokens.offsets[batch], lengths_N[batch])] = self._finish(vectors).cpu().numpy()
            else:
                done.append((batch, vectors))
        if by_token:
            return EncodedTexts(out, tokens.offsets, padded)
        vectors_ND = self._scatter(done, len(lengths_N))
        if self._recipe.long_text is LongText.MEAN_OF_CHUNKS:
            vectors_ND = _mean_of_chunks(vectors_ND.cpu(), tokens)
        return EncodedTexts(self._finish(vectors_ND).cpu().numpy(), None, padded)

    def _halves(self, batch: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """What to do instead of a batch that is too large; the first half is taken first."""
        if size <= self._budget or len(batch) == 1:  # it was tried, so the device is full: remember
            if not self._lowered:
                _log.warning("%s: out of memory on %d padded tokens; lowering the token budget", self.device, size)
                self._lowered = True
            if len(batch) == 1:
                return []  # not even alone: its row stays NaN
            self._budget = max(size // 2, 1)
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

    def _embed(self, tokens: TokenizedTexts, batch: NDArray[np.int64]) -> Tensor:
        """[B, D'] pooled float32 vectors, before mean of chunks and truncate_dim; pooling=tokens: [sum of lengths, D']."""
        recipe = self._recipe
        lengths_B = tokens.lengths[batch]
        attention_BT, ids_BT = self._padded(tokens, batch, lengths_B)
        inputs = {"input_ids": ids_BT, "attention_mask": attention_BT}
        if self._segments:
            inputs["token_type_ids"] = torch.zeros_like(ids_BT)
        layers = needs_layers(recipe.pooling)
        output = self._model(**inputs, output_hidden_states=layers, return_dict=True)
        last_BTH = output.last_hidden_state.float()
        last_BTH = self._token_heads.on_tokens(last_BTH, attention_BT.sum(dim=1))
        mask_BT = attention_BT.bool()
        if recipe.pooling == (Pooling.TOKENS,):
            return last_BTH[mask_BT]
        if not recipe.include_prompt and tokens.prompt_tokens:
            mask_BT[:, : tokens.prompt_tokens] = False
        hidden = HiddenStates(
            last_BTH,
            mask_BT,
            tuple(layer.float() for layer in output.hidden_states[-4:]) if layers else (),
            output.pooler_output.float() if needs_pooler(recipe.pooling) else None,
        )
        return self._vector_heads.on_vectors(pool(hidden, recipe.pooling))

    def _padded(
        self, tokens: TokenizedTexts, batch: NDArray[np.int64], lengths_B: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Attention mask and ids [B, T] on the device, padded on the right."""
        real_BT = np.arange(int(lengths_B.max())) < lengths_B[:, None]
        padded_BT = np.full(real_BT.shape, self._padding, np.int64)
        padded_BT[real_BT] = tokens.input_ids[ranges(tokens.offsets[batch], lengths_B)]
        mask_BT, ids_BT = torch.from_numpy(real_BT.astype(np.int64)), torch.from_numpy(padded_BT)
        return mask_BT.to(self.device, non_blocking=True), ids_BT.to(self.device, non_blocking=True)

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


def _mean_of_chunks(vectors_ND: Tensor, tokens: TokenizedTexts) -> Tensor:
    """One vector a document: the mean of its chunks' vectors weighted by their tokens, summed in float64."""
    if not len(tokens.document):
        return vectors_ND
    weights_N1 = tokens.lengths.astype(np.float64)[:, None]
    starts = np.flatnonzero(np.diff(tokens.document, prepend=-1))  # every document has at least one sequence
    sums = np.add.reduceat(vectors_ND.numpy() * weights_N1, starts, axis=0)
    totals = np.add.reduceat(weights_N1, starts, axis=0)
    with np.errstate(invalid="ignore"):  # a document of empty sequences: 0 / 0, NaN, quarantined
        return torch.from_numpy((sums / totals).astype(np.float32))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
