"""A model that could have made a snapshot: loaded in this process, it embeds a sample by several layers and poolings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workers.config import BY_TOKEN, ModelConfig, Pooling
from workers.engine.cells import Cell
from workers.engine.encoder import EncoderOptions
from workers.errors import UsageError
from workers.model.files import resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer
from workers.replica.encoders import load_encoder
from workers.table.vectors import Floats

TEXTS = 2048  # tokenised and embedded at a time


class CandidateModel:
    """Long texts are truncated. `own`: the names of the model's own poolings, joined by +.

    Raises:
        UsageError: the model cannot be loaded, or is used with a vector for each token, or a sparse one.
        ReplicaError: the device fails, or computes wrong vectors.
    """

    def __init__(self, config: ModelConfig) -> None:
        files = resolve_model(config)
        recipe = read_recipe(files, config.truncating())
        if recipe.pooling[0] in BY_TOKEN | {Pooling.SPARSE}:
            raise UsageError(
                f"candidates: {files.name} with pooling {recipe.pooling_name} has no single dense vector for a text; "
                "use mean or cls"
            )
        self.name, self.own, self.weights_digest = files.name, recipe.pooling_name, files.weights_digest
        self._tokenizer = TextTokenizer(files.folder, recipe)
        golden = self._tokenizer.tokenize(GOLDEN_TEXTS)
        self._encoder = load_encoder(files, recipe, golden, EncoderOptions(config.precision, config.batch_tokens))

    @property
    def layers(self) -> int:
        """Of the model. Raises: UsageError: its configuration does not say."""
        if self._encoder.layers is None:
            raise UsageError(f"candidates.layers: {self.name}: its configuration does not say how many it has; leave it out")
        return self._encoder.layers

    @property
    def dim(self) -> int:
        """Components of the model's own vectors; those of a cell have at most as many."""
        return self._encoder.dim

    def embed(self, texts: Sequence[str], cells: Sequence[Cell]) -> list[Floats]:
        """[len(texts), D] for each cell, from one forward pass; without cells the model's own vectors alone.

        A text that the model refuses has NaN. Raises: UsageError: a cell that the model does not have. ReplicaError.
        """
        pieces: list[list[Floats]] = [[] for _ in range(max(len(cells), 1))]
        for at in range(0, len(texts), TEXTS):
            tokens = self._tokenizer.tokenize(list(texts[at : at + TEXTS]))
            found = self._encoder.encode_cells(tokens, cells) if cells else [self._encoder.encode(tokens)]
            for piece, encoded in zip(pieces, found, strict=True):
                piece.append(encoded.vectors)
        return [np.concatenate(piece) for piece in pieces]
