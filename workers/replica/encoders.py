"""Which encoder a model has: the one that runs a transformer, or the one that averages stored vectors."""

from __future__ import annotations

from workers.engine.encoder import Encoder, EncoderOptions
from workers.engine.static.encoder import StaticEncoder
from workers.model.files import ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.tokens import TokenizedTexts

AnyEncoder = Encoder | StaticEncoder


def load_encoder(files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts, options: EncoderOptions) -> AnyEncoder:
    """The encoder of this recipe, loaded. `golden`: model.golden.GOLDEN_TEXTS, tokenised.

    Raises: UsageError, ReplicaError: as the constructors.
    """
    kind = Encoder if recipe.static is None else StaticEncoder
    return kind(files, recipe, golden, options)
