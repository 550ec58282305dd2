"""PlannedRun: a run that has not begun. Its shards are known, and nothing of it is on storage.

begin             stores the manifest, then run.json; with it the run exists
begin_on_base     the same with the precision, scale and token budget of the base, so that no replica must be asked first
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.corpus.discovery import Corpus
from jobs.corpus.metadata_cache import save_metadata
from jobs.planning.matching import KINDS, NEW, Reuse
from jobs.planning.reuse import RECIPE, recipe_facts, scales_on_base
from jobs.planning.run import Run, RunOutline
from jobs.state.manifest import save_manifest
from jobs.state.records import INT8_SCALES, NULLABLE_ELEMENTS, WAY, RunRecord, config_snapshot, create_run, plan_to_json
from jobs.state.stored_run import StoredRun
from workers import __version__
from workers.config import Auto, Precision
from workers.table.schema import EMBEDDING, SnapshotStamp
from workers.table.vector_identity import LATER_STAMP, VECTOR_FACTS, as_first_stored


@dataclass(frozen=True, slots=True)
class PlannedRun(RunOutline):
    """A run before it begins. `base`: the published run, if any; `matched`: the corpus compared with it."""

    corpus: Corpus
    base: StoredRun | None = None
    matched: Reuse | None = None

    @property
    def reuse(self) -> Reuse | None:
        """What it takes from its base; None if that is nothing."""
        return self.matched if self.matched is not None and self.matched.serves else None

    @property
    def objects(self) -> dict[str, int]:
        """The number of objects of each kind; without a base all are new."""
        return dict(self.matched.objects if self.matched else dict.fromkeys(KINDS, 0) | {NEW: len(self.corpus.objects)})

    @property
    def precision(self) -> Precision:
        """As configured: `auto` until a replica reports its precision."""
        return self.config.model.precision

    @property
    def batch_tokens(self) -> int | Auto:
        """As configured: `auto` until a replica has measured it."""
        return self.config.model.batch_tokens

    @property
    def way(self) -> None:
        """Not known until a replica has tried."""
        return None

    @property
    def stamp(self) -> SnapshotStamp:
        """The stamp of its parts, except for precision and scale, which are not known yet."""
        return self.stamp_with("float32", None)

    def begin_on_base(self, predicted: Mapping[str, Any]) -> Run:
        """Begin with the base's precision, way, scale and token budget. Raises: as begin()."""
        if self.base is None:
            raise RuntimeError("the run has no base to begin on")
        base, budget = self.base.record, self.config.model.batch_tokens
        tokens = base.batch_tokens if budget == "auto" else budget
        scales = scales_on_base(self.base, self.request.formats)
        own = scales.pop(EMBEDDING, None)
        return self.begin(base.model["precision"], own, tokens, base.way, scales, predicted=predicted)

    def begin(
        self, precision: str, int8_scale: float | None, batch_tokens: int | None, way: str | None = None,
        int8_scales: Mapping[str, float] | None = None, *, predicted: Mapping[str, Any] | None = None,
    ) -> Run:  # fmt: skip
        """Store the manifest, then run.json. The settings of the first driver apply to all later ones.

        `int8_scales`: of the int8 columns beside the main one.
        `predicted`: the expected cost of the run (prediction.py), for its report.

        Raises:
            RunAborted: the id is taken, or the existing manifest is damaged. UsageError, TransientError.
        """
        stamp = dataclasses.asdict(self.stamp_with(precision, int8_scale, int8_scales))
        shards = save_manifest(self.store, self.paths.manifest, self.shards, self.request.settings)
        save_metadata(self.store, self.paths.objects, self.corpus.objects, self.corpus.columns)
        if self.request.excluded is not None:
            self.store.put(self.paths.left_out, self.request.excluded.rows.to_bytes())
        rows = [shard.rows for shard in shards]
        facts = as_first_stored({name: stamp[name] for name in VECTOR_FACTS}, LATER_STAMP)
        facts |= {"name": stamp["model"], "revision": stamp["revision"]}
        earlier = self.base.record if self.base is not None and self.reuse else None  # whose parts stand beside this run's
        extra: dict[str, Any] = {
            RECIPE: recipe_facts(self.request.recipe),
            "objects": self.objects,
            NULLABLE_ELEMENTS: earlier is not None and earlier.nullable_elements,
        }
        if int8_scales:
            extra[INT8_SCALES] = dict(int8_scales)
        record = RunRecord(
            run_id=self.run_id,
            fingerprint=self.request.settings,
            source_fingerprint=self.corpus.source_fingerprint,
            config=config_snapshot(self.config),
            plan=plan_to_json(self.plan),
            model=facts | {"vector": str(stamp["vector"])},
            shards=len(shards),
            rows=None if None in rows else sum(count or 0 for count in rows),
            code_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            int8_scale=int8_scale,
            batch_tokens=batch_tokens,
            base=self.reuse.base if self.reuse else None,
            extra=extra | ({"predicted": dict(predicted)} if predicted else {}) | ({WAY: way} if way else {}),
        )
        create_run(self.store, record)
        return Run(self.request, self.run_id, shards, self.plan, record)
