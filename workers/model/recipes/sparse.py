"""Sparse encoders (`pooling: sparse`): how logits become weights, and the settings that a sparse vector has not."""

from __future__ import annotations

from dataclasses import replace

from workers.config import LongText, ModelConfig, Pooling
from workers.errors import UsageError
from workers.model.architecture import why_no_masked_lm
from workers.model.files import weight_names
from workers.model.modules import SparsePooling
from workers.model.prompts import SPARSE
from workers.model.recipes.sources import Sources

_NOT_SPARSE = (LongText.MEAN_OF_CHUNKS, LongText.LATE_CHUNKS)


def sparse_pooling(sources: Sources, config: ModelConfig) -> SparsePooling | None:
    """How sparse vectors are made, by the model's files and the user's settings; None: the model gives dense ones.

    A masked language model without modules.json is a sparse encoder if it is asked for: max over log1p(relu(logits)), as
    sentence-transformers' SparseEncoder takes it.
    """
    head, retrieval, settings, shown = sources.head, sources.retrieval, sources.settings, sources.shown
    modules, transformer, model = sources.modules, sources.transformer, sources.model
    masked_lm = settings.masked_lm or (bool(modules) and modules[0].kind == "MLMTransformer")
    of_files = head.sparse is not None or masked_lm or retrieval.kind == SPARSE
    if not of_files and config.pooling is not Pooling.SPARSE:
        if config.sparse_top != "auto":
            raise UsageError(
                f"model.sparse_top={config.sparse_top}: {shown} gives dense vectors; set model.pooling: sparse, or remove it"
            )
        return None
    if modules and (head.sparse is None or not masked_lm):
        told = f"{settings.path or transformer}: transformer_task"
        if retrieval.kind == SPARSE:
            told = f"{retrieval.path}: model_type {SPARSE!r}"
        raise UsageError(
            f"{told}: sparse vectors need a masked "
            "language model and a SpladePooling module in modules.json; name such a model"
        )
    if config.pooling not in (Pooling.AUTO, Pooling.SPARSE):
        raise UsageError(f"model.pooling={config.pooling}: {shown} is a sparse encoder; use auto")
    if head.token_modules or head.vector_modules:
        extra = (*head.token_modules, *head.vector_modules)[0]
        raise UsageError(f"{shown}: {extra.kind} beside SpladePooling is not supported; use a model without it")
    for name, value, usual, mend in (
        ("normalize", config.normalize is True, False, "weights are compared as they are; remove it"),
        ("truncate_dim", config.truncate_dim, None, "a sparse vector has no first components; set model.sparse_top"),
        ("long_text", config.long_text in _NOT_SPARSE, False, "is for dense vectors; use truncate or chunks"),
    ):
        if value != usual:
            raise UsageError(f"model.{name}={getattr(config, name)}: {shown} gives sparse vectors: {mend}")
    if (why := why_no_masked_lm(model, weight_names(transformer))) is not None:
        raise UsageError(f"model.pooling=sparse: {shown}: {why}; name a masked language model (…ForMaskedLM)")
    vocabulary = model.get("vocab_size")
    if not isinstance(vocabulary, int):
        raise UsageError(f"model.pooling=sparse: {transformer / 'config.json'}: no vocab_size; fetch the model again")
    top = retrieval.most_weights if config.sparse_top == "auto" else config.sparse_top
    return replace(head.sparse or SparsePooling(0), vocabulary=vocabulary, top=top)
