"""Texts to vectors in this process, by the tokenizer and the encoder of a replica: for `verify` and `search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workers.config import LongText, ModelConfig, Precision
from workers.errors import UsageError
from workers.model.files import resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer
from workers.replica.queries import of_queries, special_queries
from workers.replica.query_encoders import load_query_encoder
from workers.table.schema import SnapshotStamp
from workers.table.sparse import dense_of
from workers.table.vectors import Floats

if TYPE_CHECKING:
    from workers.replica.query_encoders import AnyQueryEncoder


class Embedder:
    """The model of a snapshot, loaded in this process.

    Args:
        stamp: of the snapshot; says with which model, precision and prompt its vectors were computed.
        query: texts are queries: the query prompt and the longest query, instead of the documents'. Where this device has no
            8-bit products of the snapshot's kind, queries are embedded more exactly.
        single: the process embeds one query, in float32 where the model is BERT-like (query_encoders.py).
        long_text: instead of the configured value.
        projection: [N, dim of the model] -> [N, dim of the snapshot], where the snapshot has fewer components.

    Raises:
        UsageError: the model cannot be loaded, or is not the one the snapshot was made with.
        ReplicaError: the device fails, or computes wrong vectors.
    """

    def __init__(
        self,
        config: ModelConfig,
        stamp: SnapshotStamp,
        *,
        query: bool = False,
        single: bool = False,
        long_text: LongText | None = None,
        projection: Callable[[Floats], Floats] | None = None,
    ) -> None:
        self._project = projection
        files = resolve_model(config)
        if (files.weights_digest, files.tokenizer_digest) != (stamp.weights_digest, stamp.tokenizer_digest):
            raise UsageError(
                f"model {config.name}: not the one the snapshot was made with (weights {files.weights_digest[:12]}, "
                f"snapshot {stamp.weights_digest[:12]}); set model.name and model.revision to the snapshot's"
            )
        recipe = read_recipe(files, config.truncating() if long_text is LongText.TRUNCATE else config)
        recipe = replace(recipe, prompt=stamp.prompt, long_text=long_text or recipe.long_text)
        if query:
            recipe = of_queries(recipe)
        self._queries = special_queries(files, recipe) if query else None
        if self._queries is not None:
            return
        self._tokenizer = TextTokenizer(files.folder, recipe, threads=0 if single else 1)
        golden = self._tokenizer.tokenize(GOLDEN_TEXTS)
        precision = Precision(stamp.precision)
        self._encoder: AnyQueryEncoder
        if query:
            self._encoder = load_query_encoder(files, recipe, golden, precision, config.batch_tokens, single=single)
            return
        from workers.engine.encoder import EncoderOptions  # imports torch
        from workers.replica.encoders import load_encoder

        # `verify` embeds for minutes, and checks against a reference made now
        self._encoder = load_encoder(files, recipe, golden, EncoderOptions(precision, config.batch_tokens))

    def embed(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Vectors [n, dim] of each text: one, or one per chunk, or one per token; sparse ones with their zeros.

        Raises:
            UsageError: the model refuses a text. ReplicaError: the device failed.
        """
        if self._queries is not None:
            return self._queries.embed(texts)
        tokens = self._tokenizer.tokenize(texts)
        encoded = self._encoder.encode(tokens)
        for sequence, reason in encoded.refused.items():
            raise UsageError(f"text {int(tokens.document[sequence]) + 1} of {len(texts)} cannot be embedded: {reason}")
        owner: npt.NDArray[np.integer[Any]]
        if encoded.offsets is not None:
            owner = np.repeat(tokens.document, np.diff(encoded.offsets))
        else:
            owner = tokens.row_document if len(encoded.vectors) == len(tokens.row_document) else np.arange(len(texts))
        if encoded.offsets is not None and encoded.indices is not None:
            counts = np.diff(encoded.offsets)
            dense = dense_of(encoded.vectors[:, 0], encoded.indices, counts, self._encoder.dim)
            return [dense[tokens.row_document == index] for index in range(len(texts))]
        vectors = encoded.vectors if self._project is None else self._project(encoded.vectors)
        return [vectors[owner == index] for index in range(len(texts))]
