"""Chunks: the length of one, and the settings that do not go together with `model.long_text`."""

from __future__ import annotations

from workers.config import BY_TOKEN, ChunkBy, LongText, ModelConfig, Pooling
from workers.errors import UsageError

LATE_CHUNK_TOKENS = 256  # of a late chunk, as in the paper's experiments (arXiv:2409.04701); shorter inputs have four
_OF_ONE_TOKEN = (Pooling.CLS, Pooling.LAST_TOKEN, Pooling.POOLER)


def check_chunking(modes: tuple[Pooling, ...], config: ModelConfig) -> None:
    """Raises: UsageError: texts are not cut, or not with these poolings."""
    if config.long_text is LongText.TRUNCATE:
        settings = (("chunk_by", config.chunk_by, ChunkBy.TOKENS), ("chunk_tokens", config.chunk_tokens, "auto"))
        for name, value, usual in settings:
            if value != usual:
                raise UsageError(
                    f"model.{name}={value}: nothing is cut with long_text: truncate; "
                    "set model.long_text: chunks or late_chunks"
                )
    if config.long_text is LongText.LATE_CHUNKS:
        for pooling in modes:
            if pooling in _OF_ONE_TOKEN or pooling in BY_TOKEN:
                raise UsageError(
                    f"model.long_text=late_chunks: a late chunk is pooled from all of its tokens, which pooling "
                    f"{pooling} does not do; set model.pooling: mean, or long_text: chunks"
                )


def chunk_tokens(config: ModelConfig, max_tokens: int) -> int | None:
    """Tokens of the longest chunk; None: what `max_tokens` leaves."""
    if config.chunk_tokens != "auto":
        return config.chunk_tokens
    return max(min(LATE_CHUNK_TOKENS, max_tokens // 4), 1) if config.long_text is LongText.LATE_CHUNKS else None
