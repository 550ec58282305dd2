"""Poolings that a model cannot have: those that its files, its layers or its long texts do not allow."""

from __future__ import annotations

from workers.config import BY_TOKEN, LongText, ModelConfig, Pooling
from workers.errors import UsageError
from workers.model.architecture import has_pooler
from workers.model.files import weight_names
from workers.model.modules import ModuleSpec
from workers.model.recipes.sources import Sources

_LAYER_POOLINGS = (Pooling.POOLER, Pooling.LAST4_MEAN, Pooling.LAST4_CONCAT)  # of the transformer's own layers or head


def check_pooling(modes: tuple[Pooling, ...], before: tuple[ModuleSpec, ...], sources: Sources, config: ModelConfig) -> None:
    """`before`: modules on tokens. Raises: UsageError: a pooling that this model, or its long texts, cannot have."""
    pooling, shown, model, transformer = modes[0], sources.shown, sources.model, sources.transformer
    if pooling is Pooling.MEAN_LSTM and not any(module.kind == "LSTM" for module in before):
        raise UsageError(
            f"model.pooling=mean_lstm: {shown} has no LSTM module; name a sentence-transformers model whose modules.json "
            "has a trained LSTM, or use pooling=mean"
        )
    if pooling in _LAYER_POOLINGS and before:
        raise UsageError(
            f"model.pooling={pooling}: reads the transformer's own layers, "
            f"but {shown} has a {before[0].kind} on its tokens; use auto"
        )
    if pooling is Pooling.POOLER and not has_pooler(model, weight_names(transformer)):
        raise UsageError(f"model.pooling=pooler: {shown} has no pooler weights (they would be random); use cls or mean")
    layers = model.get("num_hidden_layers")
    if pooling in (Pooling.LAST4_MEAN, Pooling.LAST4_CONCAT) and isinstance(layers, int) and layers < 4:
        raise UsageError(f"model.pooling={pooling}: {shown} has {layers} layers, four are needed; use mean")
    if pooling in BY_TOKEN and config.long_text is LongText.MEAN_OF_CHUNKS:
        raise UsageError(
            "model.long_text=mean_of_chunks: token vectors cannot be averaged over chunks; use truncate or chunks"
        )
