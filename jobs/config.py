"""RunConfig: the configuration of a run, from one strict YAML file and key=value overrides.

It is composed of the sections of workers/config and the driver's own.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from workers.config import Auto, ByteCount, CorpusConfig, ModelConfig, OutputConfig, Section, StorageOptions
from workers.errors import UsageError, one_line
from workers.storage.uris import hide_users

MOST_CLAUSES = 20  # errors listed in one message
MAX_VALUES = 20_000  # names and values in a file: a list of that many URIs is still read within a second
MAX_DIGITS = 100
MAX_CONFIG_BYTES = 1 << 20  # a configuration is about a page of text; a larger file is a mistake or an attack


Count = Annotated[int, Field(ge=1)]
_Kind = TypeVar("_Kind", bound=Section)


class ClusterConfig(Section):
    """The cluster to run on."""

    address: str = "auto"
    """auto (the cluster of RAY_ADDRESS or of this machine, else a local Ray) | local | ray://host | host:port."""
    replicas: Count | Auto = "auto"
    """Model replicas. auto: as many as fit on the cluster's GPUs (or CPUs), updated as the cluster grows."""
    gpus_per_replica: Annotated[float, Field(ge=0)] | Auto = "auto"
    """1, a fraction, or 0 for CPU. auto: 1 if the cluster has GPUs, else 0."""
    cpus_per_replica: Count | Auto = "auto"
    """Cores of one replica: threads of torch and of the tokenizer. auto: an even share, at most 4."""
    replica_ready_seconds: float = Field(900.0, gt=0)
    """Seconds in which a replica must load its model; after them it is replaced."""


def _off(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class RunSection(Section):
    """Shard size, retry limits and timeouts."""

    shard_bytes: ByteCount = Field(64 << 20, ge=1024)
    """Upper bound on the source text of one shard. A small corpus gets smaller shards, so that every replica has work."""
    max_attempts: int = Field(3, ge=1, le=100)
    """Failed attempts before a shard is quarantined; preemptions do not count."""
    max_quarantined_rows: int = Field(0, ge=-1)
    """With more quarantined rows than this the run is not published (exit 3). -1: no limit."""
    shard_seconds: float = Field(7200.0, gt=0)
    """Seconds one shard may take; after them its replica is replaced, and the shard is retried."""
    stall_seconds: float = Field(1800.0, gt=0)
    """The run is aborted (exit 4) if no document was embedded anywhere for this many seconds."""
    reuse: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    """auto: vectors of the published snapshot are carried over, and only new texts are embedded. off: all are embedded."""


Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=0)]  # relative; it may exceed 1: a corpus may become several times as large
Cosine = Annotated[float, Field(ge=-1, le=1)]


class GateConfig(Section):
    """Limits that a finished run must meet to be published. If it does not: exit 3, and readers keep the last snapshot.

    None of them changes what is embedded: the same command with other limits checks the same run again. See docs/gate.md.
    """

    allow_model_change: bool = False
    """Publish although the model, or its use (pooling, prompt, precision, ...), differs from the last snapshot's."""
    max_row_change: Change = 0.3
    """Largest change in the number of documents, as a share of the last snapshot's. 1: up to twice as many, or none left."""
    max_truncated: Share = 0.95
    """Largest share of documents that were truncated."""
    max_truncated_increase: Share = 0.1
    """Largest increase of that share over the last snapshot's. 1: no limit."""
    max_empty: Share = 0.5
    """Largest share of rows with empty or blank text. Matters only if quarantined rows are allowed."""
    min_golden_cosine: Cosine = 0.998
    """Least cosine of each golden text: each replica's vector after its work against the last snapshot's."""
    min_sample_cosine: Cosine = 0.998
    """Least cosine of each sampled unchanged text, embedded again, to its vector in the last snapshot."""
    max_norm_change: Change = 0.05
    """Largest relative change of the mean vector norm, against the last snapshot's (normalised vectors: against 1)."""
    min_spread: Annotated[float, Field(ge=0, le=2)] = 0.00001
    """Least mean cosine distance (1 - cosine) between pairs of up to 4,096 vectors of this snapshot. 0: no limit."""
    min_mean_cosine: Cosine = 0.9
    """Least cosine between the mean vectors of this and the last snapshot, each over up to 4,096 vectors."""
    evaluate: dict[str, Any] | None = None
    """What the vectors must be worth: the section of `reembed evaluate` without its snapshot, {task: classify, label: lang}.
    A main figure that is lower than the last snapshot's by more than `max_drop` (0.01) refuses the run."""


class CostConfig(Section):
    """Prices for `plan` and the summary, and limits on what a run may spend. None of them changes what is embedded.

    A run ends before it exceeds a limit (exit 4): no shard is begun that would, nothing is published, and the same command
    with a higher limit goes on. All drivers of a run count together. See docs/budget.md.
    """

    gpu_hour_usd: float | None = Field(None, ge=0)
    """Price of one replica-hour, in USD."""
    max_usd: float | None = Field(None, gt=0)
    """Most that the replica-hours of one run may cost, in USD; needs gpu_hour_usd. null: no limit."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens that one run may embed, those of failed attempts included. null: no limit."""

    @model_validator(mode="after")
    def _priced(self) -> CostConfig:
        if self.max_usd is not None and not self.gpu_hour_usd:
            raise ValueError(f"max_usd={self.max_usd:g} needs gpu_hour_usd above 0, the price of a replica-hour; set it too")
        return self


class SearchSection(Section):
    """`reembed search CONFIG`. Runs do not depend on it."""

    index: str | None = Field(None, min_length=1)
    """OUTPUT of `reembed index`, whose files a search uses. null: every vector is compared. --index counts before it."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """To fsspec, for the index."""


class LineageConfig(Section):
    """OpenLineage events: what a run reads and makes, and how it ended. They never fail a run. See docs/lineage.md."""

    endpoint: str | None = Field(None, min_length=1)
    """http(s) URL of a service (events are posted to its path, else to /api/v1/lineage; its key is OPENLINEAGE_API_KEY), or
    path of a file that gets a line for each event, or `environment`: what OpenLineage's own variables and openlineage.yml
    name. null: no events. Needs the extra `lineage`."""
    namespace: str = Field("reembed", min_length=1)
    """Namespace of the job in the events, mostly the name of the scheduler."""


class RunConfig(Section):
    """The whole configuration of `reembed embed`."""

    corpus: CorpusConfig
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    output: OutputConfig
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig())
    run: RunSection = Field(default_factory=lambda: RunSection())
    gate: GateConfig = Field(default_factory=lambda: GateConfig())
    cost: CostConfig = Field(default_factory=lambda: CostConfig())
    lineage: LineageConfig = Field(default_factory=lambda: LineageConfig())
    search: SearchSection = Field(default_factory=lambda: SearchSection())


_TYPES = ("bool", "int", "float", "str")  # pydantic's names for the branches of a union type


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML of bounded size, without aliases (no exponential expansion) and without duplicate keys."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} names and values; this is no configuration")
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:  # YAML reads 59:59:… as a number, in quadratic time
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def load_config(path: str | Path | None, overrides: Iterable[str] = (), flags: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of `reembed embed`. `flags`: dotted name -> value, which win over the overrides; they need no file.

    Raises: as load_section().
    """
    raw = _read(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(raw, override)
    for name, value in (flags or {}).items():
        _set(raw, name, value, f"option for {name}")
    return parse_section(raw, str(path) if path is not None else "the command line", RunConfig)


def load_section(path: str | Path, overrides: Iterable[str], kind: type[_Kind]) -> _Kind:
    """Read a YAML file, apply `dotted.key=value` overrides (values are YAML), validate as the job's own configuration.

    Raises:
        UsageError: one line that names the file, the setting and the remedy.
    """
    return with_overrides(_read(Path(path)), overrides, str(path), kind)


def with_overrides(raw: dict[str, Any], overrides: Iterable[str], origin: str, kind: type[_Kind]) -> _Kind:
    """As load_section, of a mapping that no file holds; it is changed. Raises: UsageError."""
    for override in overrides:
        _apply(raw, override)
    return parse_section(raw, origin, kind)


def parse_config(raw: Mapping[str, Any], origin: str) -> RunConfig:
    """Validate a mapping; `origin` names it in errors."""
    return parse_section(raw, origin, RunConfig)


def parse_section(raw: Mapping[str, Any], origin: str, kind: type[_Kind]) -> _Kind:
    """As parse_config, for the configuration of another job."""
    odd = _odd_text(raw)
    if odd is not None:
        raise UsageError(f"{origin}: {odd}: holds a character that no name or text can have (NUL or half a surrogate pair)")
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        clauses = _explain(error.errors(), kind)
        more = f"; and {len(clauses) - MOST_CLAUSES} more" if len(clauses) > MOST_CLAUSES else ""
        raise UsageError(f"{origin}: " + "; ".join(clauses[:MOST_CLAUSES]) + more) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise UsageError(f"configuration {path}: {error.strerror or error}; give the path of a YAML file") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(f"configuration {path}: larger than {MAX_CONFIG_BYTES} bytes; this is no configuration")
    raw = _parse(data, f"configuration {path}")
    if not isinstance(raw, dict):
        raise UsageError(f"configuration {path}: must be a mapping of sections (output: …), not {type(raw).__name__}")
    return raw


def _parse(data: bytes | str, origin: str) -> Any:
    """YAML to values. Errors give the position, never the text, which may be a secret."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"{error.problem or error.context}" + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # also 2026-02-31 and keys that are lists
        reason = one_line(error)
    raise UsageError(f"{origin}: not valid YAML: {reason}; correct it there, or quote the value")


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        shown = override.partition(":")[0]
        raise UsageError(f"override {_cut(shown, 60)!r}{'' if shown == override else '…'}: write it as section.key=value")
    shown = f"override {_cut(key, 200)}=…"  # the value may be a secret
    _set(raw, key, _parse(text, shown) if text else "", shown)


def _set(raw: dict[str, Any], key: str, value: Any, shown: str) -> None:
    """Put a value at its dotted name."""
    node = raw
    *parents, leaf = key.split(".")
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UsageError(f"{shown}: {_cut(name, 60)} is not a section")
        node = child
    node[leaf] = value


def _odd_text(value: object, name: str = "") -> str | None:
    """The first setting, or its key, whose text no file, column or message could hold. Escaped bytes of file names can."""
    if isinstance(value, str):
        try:
            return name if "\0" in value or not isinstance(os.fsencode(value), bytes) else None
        except UnicodeError:
            return name
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        at = _cut(f"{name}.{key}".lstrip("."), 200)
        found = (_odd_text(key, ascii(at)) if isinstance(key, str) else None) or _odd_text(inner, at)
        if found is not None:
            return found
    return None


def _explain(errors: Iterable[Any], kind: type[Section]) -> list[str]:
    """One clause for each setting; the messages of a union type's branches are joined."""
    clauses: list[str] = []
    wrong: dict[str, tuple[list[str], str]] = {}
    for error in errors:
        path = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "function-", "constrained"))]
        if path[-1] in _TYPES:
            path.pop()
        name = _cut(".".join(path), 200)
        if error["type"] == "extra_forbidden":
            known = _fields_at(path[:-1], kind)
            near = difflib.get_close_matches(path[-1], known, n=1)
            clauses.append(
                f"unknown key {name}; " + (f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}")
            )
        elif error["type"] == "missing":
            clauses.append(f"{name} is required")
        else:
            value = "" if "storage_options" in path else f" (got {_shorten(error.get('input'))})"
            message = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
            wrong.setdefault(name, ([], value))[0].append(message)
    for name, (messages, value) in wrong.items():
        clauses.append(f"{name}: {' or '.join(messages).replace(' or should be ', ' or ')}{value}")
    return clauses


def _fields_at(path: list[str], kind: type[Section]) -> list[str]:
    model: Any = kind
    for part in path:
        if part.isdigit():  # of an entry of a list
            continue
        field = model.model_fields.get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        model = next((inner for inner in kinds if hasattr(inner, "model_fields")), None)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _shorten(value: object) -> str:
    """The given value, without secrets: sections (which may hold storage_options) are left out, passwords in URIs masked."""
    if isinstance(value, Mapping | list):
        return f"a {'section' if isinstance(value, Mapping) else 'list'}"
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print longer ones
        return "a huge number"
    return _cut(hide_users(repr(value)), 60)


def _cut(text: str, most: int) -> str:
    """The text on one line, at most `most` characters long: names in a file are untrusted."""
    text = one_line(text, None)
    return text if len(text) <= most else text[: most - 3] + "..."
