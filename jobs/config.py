"""RunConfig: one strict YAML file plus key=value overrides, composed of the workers' sections and the driver's own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from workers.config import Auto, ByteCount, CorpusConfig, ModelConfig, OutputConfig, Section
from workers.errors import UsageError
from workers.storage.uris import hide_users

MOST_CLAUSES = 20  # of what is wrong, in one message
MAX_VALUES = 20_000  # names and values in it: a list of that many URIs is still read within a second
MAX_DIGITS = 100
MAX_CONFIG_BYTES = 1 << 20  # a configuration is a page of text; anything larger is a mistake or an attack


Count = Annotated[int, Field(ge=1)]


class ClusterConfig(Section):
    """What to run on."""

    address: str = "auto"
    """auto: this process's cluster (RAY_ADDRESS, one started here), else a local Ray | local | ray://host | host:port."""
    replicas: Count | Auto = "auto"
    """Model replicas. auto: as many as the cluster's GPUs (or CPUs) can hold, re-read as the cluster grows."""
    gpus_per_replica: Annotated[float, Field(ge=0)] | Auto = "auto"
    """1, a fraction, or 0 for CPU. auto: 1 where the cluster has GPUs, else 0."""
    cpus_per_replica: Count | Auto = "auto"
    """Cores (torch threads) of one replica. auto: an even share, at most 4."""
    replica_ready_seconds: float = Field(900.0, gt=0)
    """A replica that has not loaded its model by then is given up."""


def _off(value: object) -> object:
    """To YAML a bare `off` is false."""
    return "off" if value is False else value


class RunSection(Section):
    """How the work is cut and how much failure is tolerated."""

    shard_bytes: ByteCount = Field(64 << 20, ge=1024)
    """Most source text of one shard. A small corpus is cut finer, so that every replica gets work."""
    max_attempts: int = Field(3, ge=1, le=100)
    """Attempts charged to a shard before it is quarantined; preemptions are not charged."""
    max_quarantined_rows: int = Field(0, ge=-1)
    """More than this and the run is not published (exit 3). -1: any number."""
    shard_seconds: float = Field(7200.0, gt=0)
    """A shard that takes longer is taken from its replica, which is replaced."""
    stall_seconds: float = Field(1800.0, gt=0)
    """No document embedded anywhere for this long aborts the run (exit 4)."""
    reuse: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    """auto: what the published snapshot holds already is carried over; only texts that are new are embedded."""


Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=0)]  # relative: a corpus may become several times as large
Cosine = Annotated[float, Field(ge=-1, le=1)]


class GateConfig(Section):
    """What must hold before a finished run is published; else exit 3, and the snapshot that readers see stays.

    None of these changes what is embedded: the same command with other limits judges the same run again. docs/gate.md.
    """

    allow_model_change: bool = False
    """Publish although the model, or how it is used (pooling, prompt, precision, ...), is not the last snapshot's."""
    max_row_change: Change = 0.3
    """Documents more or fewer than in the last snapshot, as a share of those. 1: up to twice as many, or none left."""
    max_truncated: Share = 0.95
    """Share of documents that lost tokens."""
    max_truncated_increase: Share = 0.1
    """By how much that share may exceed the last snapshot's. 1: by any amount."""
    max_empty: Share = 0.5
    """Share of rows whose text is empty or white space; for runs that may be published with quarantined rows."""
    min_golden_cosine: Cosine = 0.998
    """Of each golden text, between each replica's vector after its work and the one kept with the last snapshot."""
    min_sample_cosine: Cosine = 0.998
    """Of each sampled unchanged text, embedded again, to its vector in the last snapshot."""
    max_norm_change: Change = 0.05
    """Of the mean length of vectors, against the last snapshot's (where vectors are normalised: against 1), as a share."""
    min_mean_cosine: Cosine = 0.9
    """Between the mean vectors of up to 4,096 vectors of each snapshot."""


class CostConfig(Section):
    """For `plan` and the summary."""

    gpu_hour_usd: float | None = Field(None, ge=0)
    """Price of one replica-hour."""


class RunConfig(Section):
    """Everything `reembed embed` needs to know."""

    corpus: CorpusConfig
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    output: OutputConfig
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig())
    run: RunSection = Field(default_factory=lambda: RunSection())
    gate: GateConfig = Field(default_factory=lambda: GateConfig())
    cost: CostConfig = Field(default_factory=lambda: CostConfig())


_TYPES = ("bool", "int", "float", "str")  # how pydantic names the branches of a setting that takes several types


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (no bombs), without duplicate keys (no silent last-one-wins), and of a bounded size."""

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
        if len(node.value) > MAX_DIGITS:  # 59:59:… is a number to YAML, and takes quadratic time
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


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file, apply `dotted.key=value` overrides (values are YAML), validate.

    Raises:
        UsageError: one line that names the file, the setting and the mend.
    """
    raw = _read(Path(path))
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], origin: str) -> RunConfig:
    """Validate a mapping; `origin` names it in errors."""
    try:
        return RunConfig.model_validate(dict(raw))
    except ValidationError as error:
        clauses = _explain(error.errors())
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
        raise UsageError(f"configuration {path}: must be a mapping with corpus: and output:, not {type(raw).__name__}")
    return raw


def _parse(data: bytes | str, origin: str) -> Any:
    """YAML to values. Errors give the place, never the text there: it may be a secret."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"{error.problem or error.context}" + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # 2026-02-31 and keys that are lists, too
        reason = " ".join(str(error).split())
    raise UsageError(f"{origin}: not valid YAML: {reason[:300]}; correct it there, or quote the value")


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        shown = override.partition(":")[0]
        raise UsageError(f"override {_cut(shown, 60)!r}{'' if shown == override else '…'}: write it as section.key=value")
    shown = f"override {_cut(key, 200)}=…"  # the value may be a secret
    node = raw
    *parents, leaf = key.split(".")
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UsageError(f"{shown}: {_cut(name, 60)} is not a section")
        node = child
    node[leaf] = _parse(text, shown) if text else ""


def _explain(errors: Iterable[Any]) -> list[str]:
    """One clause a setting; what its several types say of one value is put together."""
    clauses: list[str] = []
    wrong: dict[str, tuple[list[str], str]] = {}
    for error in errors:
        path = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "function-", "constrained"))]
        if path[-1] in _TYPES:
            path.pop()
        name = _cut(".".join(path), 200)
        if error["type"] == "extra_forbidden":
            known = _fields_at(path[:-1])
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


def _fields_at(path: list[str]) -> list[str]:
    model: Any = RunConfig
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not hasattr(field.annotation, "model_fields"):
            return []
        model = field.annotation
    return list(model.model_fields)


def _shorten(value: object) -> str:
    """What was given, where that tells no secret: a section may hold storage_options, a URI a password."""
    if isinstance(value, Mapping | list):
        return f"a {'section' if isinstance(value, Mapping) else 'list'}"
    if isinstance(value, int) and value.bit_length() > 200:  # too long for Python to write as text, or for us to read
        return "a huge number"
    return _cut(hide_users(repr(value)), 60)


def _cut(text: str, most: int) -> str:
    """On one line, and not longer than that: names in a file may be anything."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
