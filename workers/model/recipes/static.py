"""Static models: their recipe, and the settings that a mean of stored vectors has not."""

from __future__ import annotations

from dataclasses import replace

from workers.config import ChunkBy, LongText, ModelConfig, Pooling, Precision
from workers.errors import UsageError
from workers.model.chunking.borders import splitter_version
from workers.model.files import ModelFiles
from workers.model.layouts.static import StaticSettings, read_static
from workers.model.module_list import STATIC, read_modules, transformer_folder
from workers.model.modules import ModuleSpecs, read_module_specs
from workers.model.prompts import RetrievalSettings
from workers.model.recipes.chunks import check_chunking, chunk_tokens
from workers.model.recipes.recipe import EmbeddingRecipe, output_dim
from workers.model.tokenizer_files import read_conversion
from workers.model.transformer_settings import TOKENIZER_ALONE


def static_recipe(files: ModelFiles, config: ModelConfig, retrieval: RetrievalSettings) -> EmbeddingRecipe:
    """The recipe of a model that files.is_static. Raises: UsageError: a file or a setting that is not supported."""
    shown, folder = f"model.name={files.name}", transformer_folder(files.folder)
    modules, head = read_modules(files.folder), read_module_specs(files.folder)
    _check_settings(config, shown)
    conversion = read_conversion(folder, TOKENIZER_ALONE)
    layout, stored = read_static(folder, conversion)
    _check_modules(head, stored, shown)
    after = head.vector_modules
    normalizes = bool(after) and after[-1].kind == "Normalize"
    max_tokens = stored.max_tokens if config.max_tokens == "auto" else config.max_tokens
    recipe = EmbeddingRecipe(
        transformer=modules[0].path if modules else "",
        pooling=(Pooling.MEAN,),
        include_prompt=True,
        normalize=_normalizes(config, stored, normalizes=normalizes),
        max_tokens=max_tokens,
        long_text=config.long_text,
        chunk_overlap=config.chunk_overlap,
        prompt=retrieval.prompt,
        query_prompt=retrieval.query_prompt,
        truncate_dim=config.truncate_dim,
        do_lower_case=False,
        vector_modules=after[:-1] if normalizes else after,
        tokenizer=conversion.unlike,
        chunk_by=config.chunk_by,
        chunk_tokens=chunk_tokens(config, max_tokens),
        chunk_language="" if config.chunk_by is ChunkBy.TOKENS else config.chunk_language,
        splitter=splitter_version(config.chunk_by, config.chunk_language),
        static=layout,
    )
    return replace(recipe, dim=output_dim(recipe, layout.dim))


def _normalizes(config: ModelConfig, stored: StaticSettings, *, normalizes: bool) -> bool:
    """model2vec goes by its config.json, not by modules.json."""
    if config.normalize != "auto":
        return config.normalize
    return normalizes if stored.normalize is None else stored.normalize


def _check_settings(config: ModelConfig, shown: str) -> None:
    for name, fits, mend in (
        ("pooling", config.pooling in (Pooling.AUTO, Pooling.MEAN), "its tokens' vectors are averaged; use auto"),
        ("precision", config.precision in (Precision.AUTO, Precision.FLOAT32),
         "it multiplies no matrices, sums are taken in float32; use auto"),
        ("long_text", config.long_text is not LongText.LATE_CHUNKS,
         "its tokens do not see each other, so late chunks are chunks; use chunks"),
        ("sparse_top", config.sparse_top == "auto", "it gives dense vectors; remove it"),
    ):  # fmt: skip
        if not fits:
            raise UsageError(f"model.{name}={getattr(config, name)}: {shown} is a static model: {mend}")
    check_chunking((Pooling.MEAN,), config)


def _check_modules(head: ModuleSpecs, stored: StaticSettings, shown: str) -> None:
    """A table has no hidden states of tokens; and model2vec runs no modules."""
    if head.pooling or head.token_modules or head.sparse is not None or head.mask is not None:
        raise UsageError(f"{shown}: modules.json: {STATIC} is followed by a module on tokens; use a model without it")
    if stored.normalize is not None and (other := [module for module in head.vector_modules if module.kind != "Normalize"]):
        raise UsageError(
            f"{shown}: modules.json: {other[0].kind} behind a table of model2vec, which runs no such module; save the model "
            "by sentence-transformers"
        )
