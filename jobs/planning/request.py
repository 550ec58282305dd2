"""Request: a configuration, resolved as far as possible without Ray, the source and an earlier run.

    Request.resolve    configuration -> model on this machine, recipe, settings fingerprint          (writes nothing)

Invalid requests are refused here if possible, before anything is listed or started.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jobs.config import RunConfig
from jobs.driver.layout import require_apart, require_lasting
from jobs.driver.preflight import require_endpoint, require_output
from jobs.planning.exclusion import DedupOutput
from jobs.state.records import settings_fingerprint
from workers.config import VectorType
from workers.errors import UsageError
from workers.model.files import ModelFiles, resolve_model
from workers.model.recipes.read import check_inputs, read_recipe
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.model.tokenizer import TextTokenizer
from workers.storage.store import Store
from workers.table.representations import told, vector_formats
from workers.table.sparse import sparse_format
from workers.table.vectors import VectorFormat


@dataclass(frozen=True, slots=True)
class Request:
    """A configuration, resolved as far as possible without Ray and without reading the source."""

    config: RunConfig
    store: Store
    model: ModelFiles
    recipe: EmbeddingRecipe
    settings: str  # fingerprint of everything that changes rows or vectors
    excluded: DedupOutput | None = None  # what corpus.exclude names, as it is published now

    @property
    def vector_facts(self) -> dict[str, Any]:
        """As in RunRecord.model, before a replica has resolved `precision: auto`."""
        return {
            "weights_digest": self.model.weights_digest,
            "tokenizer_digest": self.model.tokenizer_digest,
            "precision": self.config.model.precision.value,
            "vector": self.formats[0].vector.value,
        } | ({"vectors": vectors} if (vectors := told(self.formats)[0]) else {})

    @property
    def stored_facts(self) -> dict[str, Any]:
        """Of RunRecord.model, in which form vectors are stored: what decides the size of a row."""
        main = self.formats[0]
        return {"dim": main.dim, "vector": main.vector.value, "vectors": told(self.formats)[0]}

    @property
    def formats(self) -> tuple[VectorFormat, ...]:
        """The columns of vectors, the main one first, without scales. Raises: UsageError: the model has not got them."""
        return _formats(self.config, self.recipe, self.recipe.dim or 0)

    @property
    def kept_share(self) -> float:
        """Of the rows, those that corpus.exclude does not leave out: an estimate."""
        return self.excluded.kept_share if self.excluded else 1.0

    @classmethod
    def resolve(cls, config: RunConfig) -> Request:
        """Raises: UsageError: the model cannot be used, or the output cannot be reached. TransientError."""
        require_lasting(config.output.uri)
        require_apart(config.corpus, config.output)
        store = Store(config.output.uri, config.output.storage_options)
        require_output(config.output, store)
        require_endpoint(config.model.name, config.model.storage_options, "model.name")
        model = resolve_model(config.model)
        recipe = read_recipe(model, config.model)
        if recipe.dim is None:
            raise UsageError(f"model.name={model.name}: its config.json does not tell the hidden size; use another model")
        _formats(config, recipe, recipe.dim)
        tokenizer = TextTokenizer(model.folder, recipe)  # refuses settings that leave no room for text
        check_inputs(model, recipe, tokenizer.largest_id)
        excluded = DedupOutput.open(config)
        pinned = excluded.run.run_id if excluded else None
        used = dataclasses.asdict(recipe)
        settings = settings_fingerprint(config, model.weights_digest, model.tokenizer_digest, used, pinned)
        return cls(config, store, model, recipe, settings, excluded)


def _formats(config: RunConfig, recipe: EmbeddingRecipe, dim: int) -> tuple[VectorFormat, ...]:
    """Raises: UsageError: a column that the model's vectors cannot be stored in."""
    if recipe.sparse is None:
        return vector_formats(config.output.columns, dim)
    for setting, value in (("vectors", config.output.vectors), ("vector", config.output.vector)):
        if value and value != VectorType.FLOAT32:
            raise UsageError(
                f"output.{setting}: sparse vectors (model.pooling: sparse) are stored as indices and float32 weights; "
                "remove it"
            )
    return (sparse_format(dim),)
