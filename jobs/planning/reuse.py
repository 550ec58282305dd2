"""Decides what a new run may reuse of its base, the published snapshot.

    vector_key    all settings that decide the vector of a text; if equal, vectors may be reused
    row_key       all settings that decide how rows are read and grouped; if equal as well, whole parts may be carried over
    open_base     the run that CURRENT.json names; its shards and receipts are read on access
    find_reuse    compares the keys, then matches objects with those of the base (matching.py)
    scales_on_base    the scales of int8 columns in a run on a base

If the columns of vectors alone differ, and the base has one that holds the model's own float32 numbers, the new columns are
made of it, text by text: the same bits as if the texts were embedded again. Whole parts are not carried over then.

Both keys of both runs are made from the facts stored in run.json, so the next run compares exactly what this one stores. If
the base is not readable, the run embeds everything. Nothing is written here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from jobs.config import RunConfig
from jobs.corpus.discovery import Corpus
from jobs.corpus.metadata_cache import MetadataCache, load_metadata
from jobs.planning.matching import Reuse, match
from jobs.planning.run import ReuseRefused
from jobs.state.current import read_current
from jobs.state.records import EXCLUDE, ROW_RULES, TABLE, config_snapshot, plan_to_json
from jobs.state.stored_run import StoredRun
from workers.config import LongText, Precision, VectorType
from workers.errors import RunAborted, UsageError
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.reading.formats.traits import strip_compression
from workers.records.shard import Receipt
from workers.snapshot.sample import PartUnreadable, sample_part
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.representations import derived, whole
from workers.table.vector_identity import FACTS_BESIDE_RECIPE, LATER_STAMP, OF_CHUNKS, deciding
from workers.table.vectors import Floats, VectorFormat, calibrate_scale

RECIPE = "recipe"  # name in RunRecord.extra
CALIBRATION_PARTS = 8
CALIBRATION_VECTORS = 256  # of each: as many as a replica takes of a shard
_WHICH = ("uri", "exclude", "table_version", "where")  # settings that say which rows there are, not how they are read
_UNUSABLE = "nothing of the published snapshot %s is reused: %s"
log = logging.getLogger("reembed")


def recipe_facts(recipe: EmbeddingRecipe) -> dict[str, Any]:
    """The recipe in the form of run.json: the values that `auto` and the model's own files resolved to. JSON values."""
    facts: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return facts


def vector_key(model: Mapping[str, Any], recipe: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All settings that decide the vector of a text. None: run.json does not hold them (from an earlier version).

    Args:
        model: RunRecord.model. The model's location and name are not part of the key.
        recipe: recipe_facts(), in RunRecord.extra.
    """
    known = {**LATER_STAMP, **model}
    if recipe is None or any(name not in known for name in FACTS_BESIDE_RECIPE):
        return None
    used = deciding(recipe)
    if used.get("long_text") == LongText.TRUNCATE:
        used = {name: value for name, value in used.items() if name not in OF_CHUNKS}
    return {name: known[name] for name in FACTS_BESIDE_RECIPE} | used


def row_key(config: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide how rows are read and grouped, from config_snapshot() and plan_to_json(); no URIs."""
    corpus = {name: value for name, value in config["corpus"].items() if name not in _WHICH}
    left_out = plan.get(EXCLUDE, {}).get("run_id")  # a shard's rows are the same only if the same dedup run speaks of them
    columns = {"columns": plan["columns"], "partition_by": config["output"]["partition_by"]}
    named = plan.get(TABLE, {}).get("columns")  # of a table: the files' columns that have been renamed hold other values
    return {"corpus": corpus, "left_out": left_out, "named": named} | columns


def known_objects(base: StoredRun, config: RunConfig) -> MetadataCache | None:
    """The base's metadata of its objects, if it was read with the same settings. Raises: UsageError, TransientError."""
    open_ended: dict[str, Any] = dict.fromkeys(_WHICH)
    same = base.record.config["corpus"] | open_ended == config_snapshot(config)["corpus"] | open_ended
    table = base.record.read_plan(config.corpus).table
    return load_metadata(base.store, base.paths.objects, table.columns if table else ()) if same else None


def open_base(store: Store) -> StoredRun | None:
    """The published run; None before the first, or if its documents are missing or damaged (which is logged).

    Raises:
        RunAborted: CURRENT.json is damaged. UsageError, TransientError: the store refused or did not answer.
    """
    current = read_current(store)
    if current is None:
        return None
    try:
        base = StoredRun.open(store, current.run_id)
        if base is None:
            raise FileNotFoundError(store.uri_of(RunPaths(current.run_id).record))
        _ = base.shards  # read now: a base without its manifest is of no use
    except (FileNotFoundError, RunAborted) as error:
        log.warning(_UNUSABLE, current.run_id, error)
        return None
    return base


def find_reuse(
    base: StoredRun, config: RunConfig, model: Mapping[str, Any], recipe: EmbeddingRecipe, corpus: Corpus
) -> Reuse:
    """Match a new run with the base.

    `model` are the facts of the new run as in RunRecord.model, its precision as configured: `auto` takes the base's.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    precision = base.record.model.get("precision") if model["precision"] == Precision.AUTO else model["precision"]
    key = vector_key({**model, "precision": precision}, recipe_facts(recipe))
    of_base = vector_key(base.record.model, base.record.extra.get(RECIPE))
    differing = ["the version that made it"] if of_base is None else _differing(key or {}, of_base)
    receipts: Mapping[int, Receipt] = {}
    made_anew = _made_of_whole(base, differing)
    usable = not differing or made_anew
    if usable:
        try:
            receipts = base.receipts
        except RunAborted as error:
            log.warning(_UNUSABLE, base.run_id, error)
            usable = False
    else:
        log.info(_UNUSABLE, base.run_id, "other " + ", ".join(differing))
    plan = plan_to_json(corpus.read_plan)
    rows = row_key(config_snapshot(config), plan)
    same_values = not corpus.mixed or base.record.plan.get("rules") == plan["rules"]
    same_values = same_values and not reads_tsv_anew(base, corpus) and not made_anew
    return match(
        base.run_id,
        base.shards,
        receipts,
        corpus.objects,
        same_rows=same_values and rows == row_key(base.record.config, base.record.plan),
        same_vectors=usable,
        ids_from_column=config.corpus.id is not None,
    )


def reads_tsv_anew(base: StoredRun, corpus: Corpus) -> bool:
    """Whether the corpus holds .tsv objects whose quotes the base took for a writer's, by the first rules (ReadPlan)."""
    if base.record.plan.get(ROW_RULES) or corpus.read_plan.corpus.csv.quote != "auto":
        return False
    return any(strip_compression(source.info.uri)[0].endswith(".tsv") for source in corpus.objects)


def scales_on_base(base: StoredRun, formats: Sequence[VectorFormat]) -> dict[str, float]:
    """By int8 column: the base's scale of the same column, else one that is calibrated on the base's own vectors.

    Raises: ReuseRefused: there are no such vectors to read. UsageError, TransientError.
    """
    if not any(form.vector is VectorType.INT8 for form in formats):
        return {}
    known = {replace(form, int8_scale=None): form.int8_scale for form in base.stamp.formats}
    scales: dict[str, float] = {}
    sample: Floats | None = None
    for form in formats:
        if form.vector is not VectorType.INT8:
            continue
        scale = known.get(form)
        if scale is None:
            sample = _sample(base) if sample is None else sample
            try:
                scale = calibrate_scale(derived(sample, form, normalize=base.stamp.normalize))
            except UsageError:
                raise ReuseRefused(f"no vectors can be read to calibrate the int8 column {form.column}") from None
            log.info("int8 scale %.6g of %s, calibrated on %d vectors of the base", scale, form.column, len(sample))
        scales[form.column] = scale
    return scales


def _sample(base: StoredRun) -> Floats:
    """[N, M] the model's own vectors of the first rows of a few parts, spread over the base."""
    source = whole(base.stamp.formats)
    if source is None:
        return np.empty((0, base.stamp.dim), np.float32)
    step = max(1, sum(file.rows > 0 for file in base.files) // CALIBRATION_PARTS)
    filled = (file for file in base.files if file.rows)
    drawn = [np.empty((0, source.dim), np.float32)]
    for file in islice(filled, 0, step * CALIBRATION_PARTS, step):
        try:
            sample = sample_part(base.store, file, source, CALIBRATION_VECTORS)
        except PartUnreadable as error:
            log.info("%s; not used to calibrate int8 vectors", error)
            continue
        drawn += sample.vectors if sample is not None else []
    return np.concatenate(drawn)


def _made_of_whole(base: StoredRun, differing: Sequence[str]) -> bool:
    """Whether the base differs in its columns of vectors alone, and the new ones can be made of one of them."""
    return "vectors" in differing and set(differing) <= {"vector", "vectors"} and whole(base.stamp.formats) is not None


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
