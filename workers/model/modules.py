"""The modules after the transformer in sentence-transformers models, from their files: Pooling, Dense, LSTM, Normalize.

Both formats are supported: `sentence_transformers.models.Pooling` with pooling_mode_* booleans, and
`sentence_transformers.sentence_transformer.modules.pooling.Pooling` with one pooling_mode. Only the model's files are read
here; recipes/ applies the user's settings, engine/heads.py loads the weights. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.config import Pooling
from workers.errors import UsageError
from workers.model.layouts.late_interaction import TokenMask
from workers.model.module_list import ModuleEntry, read_json, read_modules

_SPLADE_KEYS = {"pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension", "chunk_size"}
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # in the order in which sentence-transformers concatenates the vectors
_POOLING_KEYS = {*_LEGACY_MODES, "pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}
_MODES = {
    "cls": Pooling.CLS,
    "max": Pooling.MAX,
    "mean": Pooling.MEAN,
    "mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "lasttoken": Pooling.LAST_TOKEN,
}


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """A module after the transformer, on token vectors or on pooled vectors. `path`: its folder, relative to the model's."""

    kind: str  # Dense | LSTM | Normalize
    path: str
    in_dim: int | None = None  # None: any number (Normalize)
    out_dim: int | None = None


@dataclass(frozen=True, slots=True)
class SparsePooling:
    """How logits of a masked language model become a weight for each token of the vocabulary (engine/retrieval)."""

    vocabulary: int  # weights of a vector, most of them zero
    strategy: str = "max"  # | sum, over the tokens of the text
    activation: str = "relu"  # | log1p_relu
    top: int | None = None  # the largest weights that are kept; None: all that are not zero


@dataclass(frozen=True, slots=True)
class ModuleSpecs:
    """All modules after the transformer."""

    pooling: tuple[Pooling, ...]  # empty: no Pooling module
    include_prompt: bool
    token_modules: tuple[ModuleSpec, ...]  # before pooling
    vector_modules: tuple[ModuleSpec, ...]  # after pooling
    sparse: SparsePooling | None = None  # a SpladePooling module
    mask: TokenMask | None = None  # a MultiVectorMask module


def read_module_specs(folder: Path, *, late: bool = False) -> ModuleSpecs:
    """The modules that modules.json lists after the transformer.

    `late`: of a late-interaction model, whose Dense modules apply to tokens unless they say otherwise.

    Raises:
        UsageError: a module is not supported, or the order is invalid.
    """
    modes: tuple[Pooling, ...] = ()
    include_prompt, pooled = True, False
    sparse: SparsePooling | None = None
    mask: TokenMask | None = None
    before: list[ModuleSpec] = []
    after: list[ModuleSpec] = []
    for module in read_modules(folder)[1:]:
        where = folder / module.path
        if module.kind == "Pooling":
            if pooled:
                raise UsageError(f"{folder / 'modules.json'}: two Pooling modules; only one is supported")
            pooled = True
            modes, include_prompt = _pooling_config(where / "config.json")
        elif module.kind == "SpladePooling":
            if pooled:
                raise UsageError(f"{folder / 'modules.json'}: two pooling modules; only one is supported")
            pooled, sparse = True, _splade_config(where / "config.json")
        elif module.kind == "MultiVectorMask":
            mask = _mask_config(where / "config.json")
        elif module.kind == "LSTM":
            if pooled:
                raise UsageError(
                    f"{folder / 'modules.json'}: {module.path} works on tokens but comes after Pooling; correct the order"
                )
            before.append(_lstm(where / "lstm_config.json", module.path))
        elif module.kind in ("Dense", "Normalize"):
            spec, on_tokens = _dense_or_normalize(where / "config.json", module, by_token=late)
            if pooled and on_tokens:
                raise UsageError(
                    f"{folder / 'modules.json'}: {module.path} works on tokens but comes after Pooling; correct the order"
                )
            (before if on_tokens else after).append(spec)
        elif module.kind == "Dropout":  # it has no effect outside training
            if (where / "config.json").is_file():
                read_json(where / "config.json")
        else:
            raise UsageError(
                f"{folder / 'modules.json'}: module {module.type} is not supported "
                "(supported: Transformer, Pooling, SpladePooling, MultiVectorMask, Dense, LSTM, Normalize); "
                "use a model without it"
            )
    return ModuleSpecs(modes, include_prompt, tuple(before), tuple(after), sparse, mask)


def _pooling_config(path: Path) -> tuple[tuple[Pooling, ...], bool]:
    config = read_json(path)
    if unknown := sorted(set(config) - _POOLING_KEYS):
        raise UsageError(f"{path}: sentence-transformers' Pooling has no setting {unknown[0]!r}; correct it")
    if not any(isinstance(config.get(key), int) for key in ("embedding_dimension", "word_embedding_dimension")):
        raise UsageError(f"{path}: no embedding_dimension; fetch the model again")
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        names = list(named) if isinstance(named, list) and named else [named]
    else:
        names = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"]
    for name in names:
        if not isinstance(name, str) or name not in _MODES:
            raise UsageError(f"{path}: pooling mode {name!r} is not known; set model.pooling explicitly")
    return tuple(_MODES[name] for name in names), bool(config.get("include_prompt", True))


def _splade_config(path: Path) -> SparsePooling:
    """The settings of a SpladePooling module; the size of the vocabulary is config.json's."""
    config = read_json(path)
    if unknown := sorted(set(config) - _SPLADE_KEYS):
        raise UsageError(f"{path}: sentence-transformers' SpladePooling has no setting {unknown[0]!r}; correct it")
    settings = SparsePooling(0, config.get("pooling_strategy", "max"), config.get("activation_function", "relu"))
    for key, value, known in (
        ("pooling_strategy", settings.strategy, ("max", "sum")),
        ("activation_function", settings.activation, ("relu", "log1p_relu")),
    ):
        if value not in known:
            raise UsageError(f"{path}: {key} {value!r} is not known (known: {', '.join(known)}); correct it")
    return settings


def _mask_config(path: Path) -> TokenMask:
    """The settings of a MultiVectorMask module."""
    config = read_json(path)
    if unknown := sorted(set(config) - {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"}):
        raise UsageError(f"{path}: sentence-transformers' MultiVectorMask has no setting {unknown[0]!r}; correct it")
    if config.get("keep_only_token_ids"):
        raise UsageError(f"{path}: keep_only_token_ids is for images, which are not supported; use a model for texts")
    words, tasks = config.get("skiplist_words") or [], config.get("skiplist_tasks")
    tasks = ["document"] if tasks is None else tasks
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not all(isinstance(value, list) for value in (words, tasks)):
        raise UsageError(f"{path}: skiplist_words and skiplist_tasks must be lists; correct it")
    return TokenMask(tuple(map(str, words)), "document" in tasks, "query" in tasks)


def _lstm(path: Path, place: str) -> ModuleSpec:
    config = read_json(path)
    in_dim = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    hidden = config.get("hidden_dim")
    if not isinstance(hidden, int) or not isinstance(in_dim, int):
        raise UsageError(f"{path}: no hidden_dim or embedding_dimension; fetch the model again")
    return ModuleSpec("LSTM", place, in_dim, hidden * (2 if config.get("bidirectional", True) else 1))


def _dense_or_normalize(path: Path, module: ModuleEntry, *, by_token: bool) -> tuple[ModuleSpec, bool]:
    """The module, and whether it applies to token vectors (as in some late-interaction models) instead of pooled ones."""
    config = read_json(path) if module.kind == "Dense" or path.is_file() else {}
    usual = "token_embeddings" if by_token and module.kind == "Dense" else "sentence_embedding"
    source = config.get("module_input_name", usual)
    known = source in ("sentence_embedding", "token_embeddings")
    if not known or config.get("module_output_name") not in (None, source):
        raise UsageError(f"{path}: reads {source} and writes {config.get('module_output_name')}, which is not supported")
    if module.kind == "Normalize":
        return ModuleSpec("Normalize", module.path), source == "token_embeddings"
    activation = str(config.get("activation_function", "torch."))
    if not activation.startswith("torch."):
        raise UsageError(f"{path}: activation {activation!r} is custom code, which is never run; use a model without it")
    for key in ("in_features", "out_features"):
        if not isinstance(config.get(key), int):
            raise UsageError(f"{path}: {key} must be a number, not {config.get(key)!r}; fetch the model again")
    return ModuleSpec(
        "Dense", module.path, config.get("in_features"), config.get("out_features")
    ), source == "token_embeddings"
