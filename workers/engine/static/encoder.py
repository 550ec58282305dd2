"""The encoder of a static model: means of stored vectors. It is called as encoder.py's Encoder is.

    ids -> those that count -> sums of rows / their number -> (modules on vectors) -> truncate_dim -> normalise

There are no batches: a call is one pass over its ids, which takes about as long as tokenising. It works on the CPU in
float32, on any machine. A sequence of which no token counts has no vector; the caller quarantines it.

Shapes: N sequences, T tokens, D components of an output vector.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from workers.config import LongText, Precision
from workers.engine.cells import Cell
from workers.engine.device.in_flight import Pending
from workers.engine.encoder import EncoderOptions
from workers.engine.heads import Heads
from workers.engine.pooling import finished, mean_of_chunks
from workers.engine.precision import difference
from workers.engine.static.table import TokenTable
from workers.errors import ReplicaError, UsageError
from workers.model.files import ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe, output_dim
from workers.records.tokens import EncodedTexts, TokenizedTexts, unknown_ids

WAY = "table"
BATCH_TOKENS = 1 << 20  # told where a run wants a number; it changes nothing
SAME = 1e-5  # largest accepted difference of golden means, relative to the largest component
NOTHING_COUNTS = "none of its tokens has a vector in the model's table"
_log = logging.getLogger(__name__)


class StaticEncoder:
    """One static model. One thread at a time may use it."""

    way, precision, reproducing, layers = WAY, Precision.FLOAT32, (), None

    def __init__(
        self, files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, options: EncoderOptions | None = None
    ) -> None:
        """Load the table and compare the golden texts' means with NumPy's. `golden`: as of Encoder.

        Raises:
            UsageError: the files cannot be used. ReplicaError: this machine computes other means.
        """
        options = options or EncoderOptions()
        if recipe.static is None:
            raise UsageError(f"model.name={files.name}: is no static model")
        if options.precision not in (Precision.AUTO, Precision.FLOAT32):
            raise UsageError(f"model.precision={options.precision}: static models work in float32; use auto")
        torch.set_num_threads(options.threads or torch.get_num_threads())
        self._recipe, self._layout = recipe, recipe.static
        self.device = torch.device("cpu")
        self.dim = output_dim(recipe, recipe.static.dim)
        self.batch_tokens = BATCH_TOKENS if options.batch_tokens == "auto" else options.batch_tokens
        self.tokens_done, self.documents_done, self.batches_done = 0, 0.0, 0
        self._table = TokenTable(files.folder / recipe.transformer, files.name, recipe.static)
        self._heads = Heads(files.folder, recipe.vector_modules, self.device)
        self._check(golden)
        if torch.cuda.is_available():
            _log.warning("a static model works on the CPU: set cluster.gpus_per_replica: 0, and more replicas fit")

    def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
        """Vectors of the documents; of the chunks with long_text=chunks."""
        return self.submit(tokens).result()

    def encode_cells(self, _tokens: TokenizedTexts, cells: Sequence[Cell]) -> list[EncodedTexts]:
        """Raises: UsageError: always; there are no layers."""
        raise UsageError(f"candidates: a static model has no layers and no other poolings ({len(cells)} are asked for)")

    @torch.inference_mode()
    def submit(self, tokens: TokenizedTexts) -> Pending:
        """The same, as Encoder.submit: computed here."""
        refused = unknown_ids(tokens, self._layout.vocabulary)
        ids_T, lengths_N = self._counted(tokens, refused)
        vectors_ND = self._heads.on_vectors(self._table.means(ids_T, lengths_N))
        refused = {int(row): NOTHING_COUNTS for row in np.flatnonzero(lengths_N == 0)} | refused
        if self._recipe.long_text is LongText.MEAN_OF_CHUNKS:
            vectors_ND = mean_of_chunks(vectors_ND, tokens)
        self.tokens_done += int(tokens.offsets[-1])
        self.documents_done += len(tokens.num_tokens)
        self.batches_done += 1
        vectors_ND = finished(vectors_ND, self.dim, normalize=self._recipe.normalize)
        found = EncodedTexts(vectors_ND.numpy(), None, len(ids_T), refused)
        return Pending(lambda: True, lambda: found)

    def _counted(self, tokens: TokenizedTexts, refused: dict[int, str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(ids, their number in each sequence), without the unknown token and without sequences that are refused."""
        ids_T, lengths_N = tokens.input_ids, tokens.lengths
        if self._layout.unknown is None and not refused:
            return ids_T, lengths_N
        counts_T = np.ones(len(ids_T), np.bool_) if self._layout.unknown is None else ids_T != self._layout.unknown
        for row in refused:
            counts_T[tokens.offsets[row] : tokens.offsets[row + 1]] = False
        if counts_T.all():
            return ids_T, lengths_N
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_T)])
        return ids_T[counts_T], np.diff(before[tokens.offsets])

    @torch.inference_mode()
    def _check(self, golden: TokenizedTexts) -> None:
        refused = unknown_ids(golden, self._layout.vocabulary)
        if refused:
            raise UsageError(next(iter(refused.values())))
        counted = self._counted(golden, {})
        apart = difference(self._table.means(*counted).numpy(), self._table.expected(*counted))
        if apart > SAME:
            raise ReplicaError(
                f"{self.device}: means of the golden texts differ by {apart:.1e} from NumPy's; this machine, or torch "
                f"{torch.__version__} on it, computes wrongly"
            )
