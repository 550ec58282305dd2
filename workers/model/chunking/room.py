"""Whether chunks, and windows over late chunks, fit into an input of the model with the settings as they are."""

from __future__ import annotations

from workers.config import LongText
from workers.errors import UsageError
from workers.model.recipes.recipe import EmbeddingRecipe


def check_room(recipe: EmbeddingRecipe, room: int) -> None:
    """`room`: tokens of text in an input of the model. Raises: UsageError: chunk_tokens or chunk_overlap are too many."""
    if recipe.long_text is LongText.TRUNCATE:
        return
    size = room if recipe.chunk_tokens is None else recipe.chunk_tokens
    given = f"max_tokens={recipe.max_tokens} less special tokens and prompt"
    if size > room:
        raise UsageError(f"model.chunk_tokens={size}: must be at most the {room} tokens that fit ({given}); lower it")
    overlap, left = recipe.chunk_overlap, room - size
    if recipe.long_text is LongText.LATE_CHUNKS:
        if overlap > left:
            raise UsageError(
                f"model.chunk_overlap={overlap}: a window over a long document has {room} tokens ({given}), of which a "
                f"chunk takes {size} (model.chunk_tokens); at most {left} are left for the overlap: lower one of the two"
            )
    elif overlap >= size:
        raise UsageError(
            f"model.chunk_overlap={overlap}: must be less than the {size} tokens of text in a chunk "
            f"({given if recipe.chunk_tokens is None else 'model.chunk_tokens'}); lower it"
        )
