"""What task classify reads beside the snapshot, and the requests that it refuses."""

from __future__ import annotations

import pyarrow as pa

from jobs.evaluate.config import EvaluateSection, SplitBy, SplitSection
from jobs.passes.source import SourceSnapshot
from jobs.publish.open_snapshot import open_published
from jobs.state.stored_run import StoredRun
from workers.config import StorageOptions
from workers.errors import UsageError
from workers.storage.uris import redact
from workers.table.schema import CHUNK, ID, TEXT_HASH
from workers.table.small_table import decode_table
from workers.vectors.evaluation.classes.division import NearGroups
from workers.vectors.evaluation.classes.labels import has_several, require_label
from workers.vectors.evaluation.classes.strings import is_text


def columns_of(source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
    """Columns that the steps read. Raises: UsageError: what cannot be evaluated."""
    source.require_rows_of_text("evaluate.task=classify")
    if section.label is None:
        kept = ", ".join(source.run.plan.keep.names) or "none"
        raise UsageError(f"evaluate.label: needed for task=classify: a kept column that holds the classes (kept: {kept})")
    source.require_columns([section.label], "evaluate.label")
    require_label(source.column_type(section.label), section.label)
    split = section.split
    require_split_column(source, split)
    if section.against is not None and has_several(source.column_type(section.label)):
        raise UsageError("evaluate.against: rows with several labels are not compared one by one; leave it out")
    if split.by is SplitBy.NEAR:
        division_groups(source, section)
    if section.against is not None:
        _output_of("evaluate", section.against, section.storage_options, "evaluate.against")
    chunk = [CHUNK] if CHUNK in source.schema.rows.names else []
    named = dict.fromkeys([ID, *chunk, TEXT_HASH, section.label, *([split.column] if split.column else [])])
    return tuple(named)


def require_split_column(source: SourceSnapshot, split: SplitSection) -> None:
    """Raises: UsageError: `split.column` is there, and no kept column of texts."""
    if split.column is None:
        return
    source.require_columns([split.column], "evaluate.split.column")
    kind = source.column_type(split.column)
    if not is_text(kind):
        raise UsageError(f"evaluate.split.column: {split.column} is of type {kind}; it must say `train` or `test`")


def division_groups(source: SourceSnapshot, section: EvaluateSection) -> NearGroups | None:
    """Raises: UsageError: no output of `reembed dedup` stands there."""
    split = section.split
    if split.groups is None:
        return None
    run = _output_of("dedup", split.groups, split.storage_options, "evaluate.split.groups")
    return NearGroups(split.groups, run.run_id, source.run_id, split.storage_options)


def named_outputs(section: EvaluateSection) -> dict[str, str]:
    """The published runs of the outputs that the section names. Raises: UsageError: as columns_of()."""
    split, found = section.split, {}
    if split.groups is not None:
        found["groups"] = _output_of("dedup", split.groups, split.storage_options, "evaluate.split.groups").run_id
    if section.against is not None:
        found["against"] = _output_of("evaluate", section.against, section.storage_options, "evaluate.against").run_id
    return found


def other_predictions(section: EvaluateSection) -> tuple[str, pa.Table]:
    """Run id and predictions of the evaluation `against`. Raises: UsageError."""
    run = _output_of("evaluate", str(section.against), section.storage_options, "evaluate.against")
    path = run.paths.data_table("predictions")
    try:
        return run.run_id, decode_table(run.store.read(path))
    except FileNotFoundError:
        raise UsageError(
            f"evaluate.against={redact(str(section.against))}: {path} is missing; it is no evaluation of task=classify"
        ) from None


def _output_of(job: str, uri: str, options: StorageOptions, setting: str) -> StoredRun:
    run = open_published(uri, options)
    if run.job != job:
        raise UsageError(f"{setting}={redact(uri)}: no output of `reembed {job}` (it is of `reembed {run.job or 'embed'}`)")
    return run
