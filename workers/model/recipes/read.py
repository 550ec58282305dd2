"""Reads the recipe of a model: its files under the user's settings, with every `auto` resolved.

An explicit setting overrides the model's files. `model.pooling` replaces the Pooling module only: modules on tokens (LSTM)
still precede it, and modules on vectors (Dense) follow it. Whatever can be refused without loading the weights is refused
here. No torch.
"""

from __future__ import annotations

from dataclasses import replace

from workers.config import ChunkBy, ModelConfig, Pooling
from workers.errors import UsageError
from workers.model.architecture import check_longest, common_names, engine_revision
from workers.model.chunking.borders import splitter_version
from workers.model.files import ModelFiles, is_static
from workers.model.layouts.late_interaction import LateInteraction
from workers.model.module_list import read_json
from workers.model.modules import ModuleSpec, SparsePooling
from workers.model.prompts import RetrievalSettings, read_retrieval_settings
from workers.model.recipes.chunks import check_chunking, chunk_tokens
from workers.model.recipes.late_interaction import token_modules
from workers.model.recipes.lengths import longest_inputs
from workers.model.recipes.pooling import check_pooling
from workers.model.recipes.recipe import EmbeddingRecipe, output_dim
from workers.model.recipes.sources import Sources, read_sources
from workers.model.recipes.sparse import sparse_pooling
from workers.model.recipes.static import static_recipe


def read_recipe(files: ModelFiles, config: ModelConfig) -> EmbeddingRecipe:
    """The recipe of a model under the user's settings, with every `auto` resolved.

    Raises:
        UsageError: a module or setting is not supported; with what to do about it.
    """
    if is_static(files.folder):
        retrieval = read_retrieval_settings(files.folder, config)
        return _truncated(static_recipe(files, config, retrieval), retrieval, config)
    sources = read_sources(files, config)
    sparse = sparse_pooling(sources, config)
    modes, before, after = _modules(sources, sparse, config)
    check_pooling(modes, before, sources, config)
    check_chunking(modes, config)
    if sources.late is not None:
        before, after = _split_normalize(before)
    if modes == (Pooling.TOKENS,):
        after = _split_normalize(after)[1]  # Dense modules apply to pooled vectors only
    vector_modules, normalizes = _split_normalize(after)
    max_tokens, query_tokens = longest_inputs(sources, config)
    recipe = EmbeddingRecipe(
        transformer=sources.modules[0].path if sources.modules else "",
        pooling=modes,
        include_prompt=sources.head.include_prompt,
        normalize=_normalizes(config, sources.late, bool(normalizes), any_files=bool(sources.modules) or sparse is not None),
        max_tokens=max_tokens,
        long_text=config.long_text,
        chunk_overlap=config.chunk_overlap,
        prompt=sources.retrieval.prompt,
        query_prompt=sources.retrieval.query_prompt,
        truncate_dim=config.truncate_dim,
        do_lower_case=sources.settings.do_lower_case,
        token_modules=before,
        vector_modules=vector_modules,
        query_tokens=query_tokens,
        engine=engine_revision(sources.model, config.precision),
        tokenizer=sources.conversion.unlike,
        chunk_by=config.chunk_by,
        chunk_tokens=chunk_tokens(config, max_tokens),
        chunk_language="" if config.chunk_by is ChunkBy.TOKENS else config.chunk_language,
        splitter=splitter_version(config.chunk_by, config.chunk_language),
        sparse=sparse,
        late_interaction=sources.late,
    )
    model = sources.model
    hidden = next((model[key] for key in ("hidden_size", "d_model") if isinstance(model.get(key), int)), None)
    recipe = recipe if hidden is None else replace(recipe, dim=output_dim(recipe, hidden))
    return _truncated(recipe, sources.retrieval, config)


def check_inputs(files: ModelFiles, recipe: EmbeddingRecipe, largest_id: int) -> None:
    """Refuse a model that cannot take what its tokenizer gives. `largest_id`: of the tokenizer's vocabulary.

    Raises:
        UsageError: ids that the model does not know, or inputs of a length for which its vectors depend on other texts.
    """
    if recipe.static is not None:
        if largest_id >= recipe.static.vocabulary:
            raise UsageError(
                f"model.name={files.name}: its tokenizer gives ids up to {largest_id}, its table has vectors for "
                f"{recipe.static.vocabulary}; save the model with the tokenizer it was made with"
            )
        return
    model, shown = common_names(read_json(files.folder / recipe.transformer / "config.json")), f"model.name={files.name}"
    known = model.get("vocab_size")
    if isinstance(known, int) and largest_id >= known:
        raise UsageError(
            f"{shown}: its tokenizer gives ids up to {largest_id}, the model knows {known} (vocab_size in config.json); "
            "resize the model (resize_token_embeddings) and save both, or remove the tokens that were added to the tokenizer"
        )
    check_longest(model, recipe.max_tokens, shown)


def _modules(
    sources: Sources, sparse: SparsePooling | None, config: ModelConfig
) -> tuple[tuple[Pooling, ...], tuple[ModuleSpec, ...], tuple[ModuleSpec, ...]]:
    """(poolings, modules on tokens, modules on vectors), as the files say and the settings want."""
    head = sources.head
    modes, before, after = head.pooling, head.token_modules, head.vector_modules
    if sparse is not None:
        modes = (Pooling.SPARSE,)
    elif sources.late is not None:
        modes, before, after = (Pooling.MULTI_VECTOR,), token_modules(sources, config), ()
    elif config.pooling is Pooling.MULTI_VECTOR:
        raise UsageError(f"model.pooling=multi_vector: {sources.shown} has no projection of its tokens; use pooling tokens")
    elif config.pooling is not Pooling.AUTO:
        modes = (config.pooling,)
    elif not modes:
        modes = (Pooling.MEAN,)
    if modes == (Pooling.MEAN,) and any(module.kind == "LSTM" for module in before):
        modes = (Pooling.MEAN_LSTM,)  # the name by which a user may also ask for it
    return modes, before, after


def _split_normalize(modules: tuple[ModuleSpec, ...]) -> tuple[tuple[ModuleSpec, ...], tuple[ModuleSpec, ...]]:
    """(the others, the last one if it is Normalize)."""
    at = len(modules) - int(bool(modules) and modules[-1].kind == "Normalize")
    return modules[:at], modules[at:]


def _normalizes(config: ModelConfig, late: LateInteraction | None, normalizes: bool, *, any_files: bool) -> bool:
    """Whether vectors get length 1. `normalizes`: the model's last module does so. `any_files`: it has files that say."""
    if config.normalize != "auto":
        return config.normalize
    if late is not None:
        return normalizes or late.normalize
    return normalizes if any_files else True


def _truncated(recipe: EmbeddingRecipe, retrieval: RetrievalSettings, config: ModelConfig) -> EmbeddingRecipe:
    """With the model's own truncate_dim, unless the configuration has one. sentence-transformers cuts after normalising."""
    wanted = retrieval.truncate_dim
    if wanted is None or config.truncate_dim is not None or (recipe.dim is not None and wanted >= recipe.dim):
        return recipe
    if recipe.normalize and config.normalize == "auto":
        raise UsageError(
            f"{retrieval.path}: truncate_dim={wanted}: cuts vectors after they are normalised, which is not supported; "
            f"set model.truncate_dim={wanted} for vectors of unit length"
        )
    return replace(recipe, truncate_dim=wanted, dim=None if recipe.dim is None else wanted)
