"""The embedding recipe: how a text becomes a vector, from the model's own files and the user's settings.

    modules.json and the modules' folders                 pooling and the modules around it (modules.py)
    sentence_bert_config.json                             longest input, what is done to texts (transformer_settings.py)
    config_sentence_transformers.json                     prompts, truncate_dim (prompts.py)
    the tokenizer's files, config.json                    the tokenizer (tokenizer_files.py), the longest input

An explicit setting overrides the model's files. `model.pooling` replaces the Pooling module only: modules on tokens (LSTM)
still precede it, and modules on vectors (Dense) follow it. Whatever can be refused without loading the weights is refused
here. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.config import BY_TOKEN, ChunkBy, LongText, ModelConfig, Pooling
from workers.errors import UsageError
from workers.model.architecture import check_longest, common_names, engine_revision, has_pooler, why_no_masked_lm
from workers.model.auto_tokenizer import Conversion
from workers.model.chunking.borders import splitter_version
from workers.model.files import (
    PROJECTION,
    ModelFiles,
    ModuleEntry,
    projection_shape,
    read_json,
    read_modules,
    transformer_folder,
    weight_names,
)
from workers.model.layouts.late_interaction import LATE, PYLATE, LateInteraction, read_late_interaction
from workers.model.modules import ModuleSpec, ModuleSpecs, SparsePooling, read_module_specs
from workers.model.prompts import SPARSE, RetrievalSettings, read_retrieval_settings
from workers.model.tokenizer_files import read_conversion
from workers.model.transformer_settings import TransformerSettings, read_transformer_settings

_LAYER_POOLINGS = (Pooling.POOLER, Pooling.LAST4_MEAN, Pooling.LAST4_CONCAT)  # of the transformer's own layers or head
_OF_ONE_TOKEN = (Pooling.CLS, Pooling.LAST_TOKEN, Pooling.POOLER)
_NOT_SPARSE = (LongText.MEAN_OF_CHUNKS, LongText.LATE_CHUNKS)
LATE_CHUNK_TOKENS = 256  # of a late chunk, as in the paper's experiments (arXiv:2409.04701); shorter inputs have four
OFFSET_POSITIONS = frozenset({
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "ibert", "longformer",
    "luke", "markuplm", "mpnet", "xmod", "lilt",
})  # fmt: skip  # families whose first position is padding_idx + 1; the table of positions is that much shorter


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """Token modules -> pooling -> vector modules -> (mean of chunks) -> truncate_dim -> normalisation."""

    transformer: str  # folder of the transformer, relative to the model's; "": the same
    pooling: tuple[Pooling, ...]  # several: their vectors are concatenated in this order
    include_prompt: bool  # False: pooling skips the prompt's tokens
    normalize: bool
    max_tokens: int  # longest sequence, special tokens and prompt included
    long_text: LongText
    chunk_overlap: int
    prompt: str  # prepended to every document
    query_prompt: str  # prepended to a search query
    truncate_dim: int | None
    do_lower_case: bool  # convert to lower case before the tokenizer's own normaliser
    token_modules: tuple[ModuleSpec, ...] = ()
    vector_modules: tuple[ModuleSpec, ...] = ()
    dim: int | None = None  # of output vectors; None if config.json does not give the hidden size (the encoder knows it)
    query_tokens: int | None = None  # longest sequence of a search query; None: max_tokens
    engine: str = ""  # architecture.engine_revision: since when the family's vectors are what they are; "": version 0.1
    tokenizer: str = ""  # a digest of the tokenizer; "": it makes the tokens that version 0.1 made of the same files
    chunk_by: ChunkBy = ChunkBy.TOKENS
    chunk_tokens: int | None = None  # longest chunk, without special tokens and prompt; None: what max_tokens leaves
    chunk_language: str = ""  # of the texts; "" where nothing is cut at sentences
    splitter: str = ""  # borders.splitter_version, likewise
    sparse: SparsePooling | None = None  # pooling sparse: how weights are made of logits
    late_interaction: LateInteraction | None = None  # pooling multi_vector: what the model's files say beside its modules

    @property
    def pooling_name(self) -> str:
        """As written to footers and summaries."""
        return "+".join(self.pooling)


def read_recipe(files: ModelFiles, config: ModelConfig) -> EmbeddingRecipe:
    """The recipe of a model under the user's settings, with every `auto` resolved.

    Raises:
        UsageError: a module or setting is not supported; with what to do about it.
    """
    folder, shown = files.folder, f"model.name={files.name}"
    modules = read_modules(folder)
    transformer = transformer_folder(folder)
    model = common_names(read_json(transformer / "config.json"))
    settings = read_transformer_settings(transformer)
    if modules:
        _check_processor(transformer)
    retrieval = read_retrieval_settings(folder, config)
    head = read_module_specs(folder, late=retrieval.kind in (LATE, PYLATE))
    late = read_late_interaction(folder, model, settings.query_expansion, head.mask)
    settings = _with_late(settings, late)
    conversion = read_conversion(transformer, settings)
    modes, before, after = head.pooling, head.token_modules, head.vector_modules
    sparse = _sparse(head, retrieval, settings, modules, transformer, model, config, shown)
    if sparse is not None:
        modes = (Pooling.SPARSE,)
    elif late is not None:
        modes = (Pooling.MULTI_VECTOR,)
        before, after = _of_tokens(folder, head, config, shown), ()
    elif config.pooling is Pooling.MULTI_VECTOR:
        raise UsageError(f"model.pooling=multi_vector: {shown} has no projection of its tokens; use pooling tokens")
    elif config.pooling is not Pooling.AUTO:
        modes = (config.pooling,)
    elif not modes:
        modes = (Pooling.MEAN,)
    if modes == (Pooling.MEAN,) and any(module.kind == "LSTM" for module in before):
        modes = (Pooling.MEAN_LSTM,)  # the name by which a user may also ask for it
    _check_pooling(modes, before, transformer, model, config, shown)
    _check_chunking(modes, config)
    if late is not None:
        before, after = (before[:-1], before[-1:]) if before and before[-1].kind == "Normalize" else (before, ())
    if modes == (Pooling.TOKENS,):
        after = after[-1:] if after and after[-1].kind == "Normalize" else ()  # Dense modules apply to pooled vectors only
    normalizes = bool(after) and after[-1].kind == "Normalize"
    vector_modules = after[:-1] if normalizes else after
    max_tokens, query_tokens = _max_tokens(transformer, model, settings, conversion, config, shown)
    recipe = EmbeddingRecipe(
        transformer=modules[0].path if modules else "",
        pooling=modes,
        include_prompt=head.include_prompt,
        normalize=_normalizes(config, late, normalizes, any_files=bool(modules) or sparse is not None),
        max_tokens=max_tokens,
        long_text=config.long_text,
        chunk_overlap=config.chunk_overlap,
        prompt=retrieval.prompt,
        query_prompt=retrieval.query_prompt,
        truncate_dim=config.truncate_dim,
        do_lower_case=settings.do_lower_case,
        token_modules=before,
        vector_modules=vector_modules,
        dim=None,
        query_tokens=query_tokens,
        engine=engine_revision(model, config.precision),
        tokenizer=conversion.unlike,
        chunk_by=config.chunk_by,
        chunk_tokens=_chunk_tokens(config, max_tokens),
        chunk_language="" if config.chunk_by is ChunkBy.TOKENS else config.chunk_language,
        splitter=splitter_version(config.chunk_by, config.chunk_language),
        sparse=sparse,
        late_interaction=late,
    )
    hidden = next((model[key] for key in ("hidden_size", "d_model") if isinstance(model.get(key), int)), None)
    recipe = recipe if hidden is None else replace(recipe, dim=output_dim(recipe, hidden))
    return _truncated(recipe, retrieval, config)


def check_inputs(files: ModelFiles, recipe: EmbeddingRecipe, largest_id: int) -> None:
    """Refuse a model that cannot take what its tokenizer gives. `largest_id`: of the tokenizer's vocabulary.

    Raises:
        UsageError: ids that the model does not know, or inputs of a length for which its vectors depend on other texts.
    """
    model, shown = common_names(read_json(files.folder / recipe.transformer / "config.json")), f"model.name={files.name}"
    known = model.get("vocab_size")
    if isinstance(known, int) and largest_id >= known:
        raise UsageError(
            f"{shown}: its tokenizer gives ids up to {largest_id}, the model knows {known} (vocab_size in config.json); "
            "resize the model (resize_token_embeddings) and save both, or remove the tokens that were added to the tokenizer"
        )
    check_longest(model, recipe.max_tokens, shown)


def output_dim(recipe: EmbeddingRecipe, hidden_size: int) -> int:
    """Number of components of an output vector, for a transformer with this hidden size.

    Raises:
        UsageError: a module expects another number, or truncate_dim is larger than the number of components.
    """
    if recipe.sparse is not None:
        return recipe.sparse.vocabulary
    dim = _through(recipe.token_modules, hidden_size, recipe)
    dim = sum(4 * dim if mode is Pooling.LAST4_CONCAT else dim for mode in recipe.pooling)
    dim = _through(recipe.vector_modules, dim, recipe)
    if recipe.truncate_dim is not None and recipe.truncate_dim > dim:
        raise UsageError(
            f"model.truncate_dim={recipe.truncate_dim}: the model's vectors have {dim} components; at most that"
        )
    return recipe.truncate_dim or dim


def first_position(model: Mapping[str, Any]) -> int:
    """The number of a sequence's first position, by config.json: 0, or in some families the padding token's id + 1."""
    if str(model.get("model_type")) not in OFFSET_POSITIONS:
        return 0
    padding = model.get("pad_token_id")
    return (padding if isinstance(padding, int) else 1) + 1


def uncounted(model: Mapping[str, Any]) -> int | None:
    """The id of the padding token where positions are numbered without it, wherever it stands; None: all tokens count."""
    return first_position(model) - 1 if model.get("model_type") in OFFSET_POSITIONS else None


def _through(modules: tuple[ModuleSpec, ...], dim: int, recipe: EmbeddingRecipe) -> int:
    for module in modules:
        if module.in_dim is not None and module.in_dim != dim:
            raise UsageError(
                f"model.pooling={recipe.pooling_name}: gives {dim} components, but the model's module {module.path} "
                f"takes {module.in_dim}; use the pooling it was trained with (auto)"
            )
        dim = module.out_dim or dim
    return dim


def _sparse(
    head: ModuleSpecs, retrieval: RetrievalSettings, settings: TransformerSettings, modules: Sequence[ModuleEntry],
    transformer: Path, model: Mapping[str, Any], config: ModelConfig, shown: str,
) -> SparsePooling | None:  # fmt: skip
    """How sparse vectors are made, by the model's files and the user's settings; None: the model gives dense ones.

    A masked language model without modules.json is a sparse encoder if it is asked for: max over log1p(relu(logits)), as
    sentence-transformers' SparseEncoder takes it.
    """
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


def _with_late(settings: TransformerSettings, late: LateInteraction | None) -> TransformerSettings:
    """The settings with what a late-interaction model's other files say of lengths and of markers."""
    if late is None:
        if settings.query_expansion is not None:
            raise UsageError(f"{settings.path}: query_expansion: is for late-interaction models; remove it")
        return settings
    return replace(
        settings,
        document_tokens=settings.document_tokens or late.document_tokens,
        query_tokens=settings.query_tokens or late.query_tokens,
        markers=late.markers,
    )


def _of_tokens(folder: Path, head: ModuleSpecs, config: ModelConfig, shown: str) -> tuple[ModuleSpec, ...]:
    """The modules on tokens of a late-interaction model. Raises: UsageError: it has others, or another pooling is wanted."""
    if config.pooling not in (Pooling.AUTO, Pooling.MULTI_VECTOR):
        raise UsageError(f"model.pooling={config.pooling}: {shown} is a late-interaction model; use auto")
    if head.pooling or head.vector_modules:
        kind = "Pooling" if head.pooling else head.vector_modules[0].kind
        raise UsageError(f"{shown}: {kind} works on one vector a text, in a late-interaction model; use a model without it")
    if not (folder / "modules.json").is_file():
        given, taken = projection_shape(folder)
        return (ModuleSpec(PROJECTION, "", taken, given),)
    return head.token_modules


def _normalizes(config: ModelConfig, late: LateInteraction | None, normalizes: bool, *, any_files: bool) -> bool:
    """Whether vectors get length 1. `normalizes`: the model's last module does so. `any_files`: it has files that say."""
    if config.normalize != "auto":
        return config.normalize
    if late is not None:
        return normalizes or late.normalize
    return normalizes if any_files else True


def _check_pooling(
    modes: tuple[Pooling, ...], before: tuple[ModuleSpec, ...], transformer: Path, model: dict[str, Any],
    config: ModelConfig, shown: str,
) -> None:  # fmt: skip
    pooling = modes[0]
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


def _check_chunking(modes: tuple[Pooling, ...], config: ModelConfig) -> None:
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


def _chunk_tokens(config: ModelConfig, max_tokens: int) -> int | None:
    if config.chunk_tokens != "auto":
        return config.chunk_tokens
    return max(min(LATE_CHUNK_TOKENS, max_tokens // 4), 1) if config.long_text is LongText.LATE_CHUNKS else None


def _check_processor(transformer: Path) -> None:
    """sentence-transformers puts texts through a processor for several kinds of input, if the files name one."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        path = transformer / name
        if path.is_file() and (kind := read_json(path).get("processor_class")) is not None:
            raise UsageError(
                f"{path}: processor_class {kind!r}: only text encoders are supported; use a model for texts alone"
            )


def _max_tokens(
    transformer: Path, model: dict[str, Any], settings: TransformerSettings, conversion: Conversion, config: ModelConfig,
    shown: str,
) -> tuple[int, int | None]:  # fmt: skip
    """The longest sequence of a document, and of a query if that is another."""
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
        where = settings.path if settings.document_tokens or settings.max_tokens else transformer / "tokenizer_config.json"
        raise UsageError(
            f"{where if wanted == longest else transformer / 'config.json'}: allows {longest} tokens, of which "
            f"{conversion.special_tokens} are special tokens; correct it, or set model.max_tokens"
        )
    query = min((value for value in (settings.query_tokens or usual, limit) if value is not None), default=longest)
    return longest, None if query == longest else query


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
