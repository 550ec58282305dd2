"""The longest input of a model, in tokens, special tokens and prompt included."""

from __future__ import annotations

from workers.config import ModelConfig
from workers.errors import UsageError
from workers.model.architecture import first_position
from workers.model.recipes.sources import Sources


def longest_inputs(sources: Sources, config: ModelConfig) -> tuple[int, int | None]:
    """The longest sequence of a document, and of a query if that is another.

    Raises: UsageError: no file tells, the model takes less than is asked for, or there is no room for text.
    """
    model, settings, conversion, shown = sources.model, sources.settings, sources.conversion, sources.shown
    positions = model.get("max_position_embeddings")
    limit = positions if isinstance(positions, int) and positions > 0 else None
    if limit is not None:
        limit -= first_position(model)
    if config.max_tokens != "auto":
        if limit is not None and config.max_tokens > limit:
            raise UsageError(f"model.max_tokens={config.max_tokens}: {shown} takes at most {limit} tokens; lower it")
        return config.max_tokens, None
    usual = settings.max_tokens or conversion.max_tokens
    wanted = settings.document_tokens or usual
    known = [value for value in (wanted, limit) if value is not None]
    if not known:
        raise UsageError(f"model.max_tokens=auto: the files of {shown} name no longest input; set model.max_tokens")
    longest = min(known)
    if longest <= conversion.special_tokens:
        where = (
            settings.path
            if settings.document_tokens or settings.max_tokens
            else sources.transformer / "tokenizer_config.json"
        )
        raise UsageError(
            f"{where if wanted == longest else sources.transformer / 'config.json'}: allows {longest} tokens, of which "
            f"{conversion.special_tokens} are special tokens; correct it, or set model.max_tokens"
        )
    query = min((value for value in (settings.query_tokens or usual, limit) if value is not None), default=longest)
    return longest, None if query == longest else query
