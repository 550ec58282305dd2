"""`reduce`: second moments in one pass, principal directions in the driver, projected parts in the last pass.

The output is an embedding snapshot: search, cluster, evaluate and every Parquet reader take it as one. The projection stands
in its state, so that a query is projected as the rows were.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from jobs.passes.kind import JobKind, Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from jobs.reduce.config import ReduceConfig, ReduceSection
from workers.config import VectorType
from workers.errors import UsageError
from workers.table.schema import OutputSchema, output_schema
from workers.table.vectors import CALIBRATION_MARGIN, INT8_LEVELS
from workers.vectors.reduction.moments import Captured, Directions, Moments, directions
from workers.vectors.reduction.projection import Largest, Projected, Projection
from workers.vectors.step import Partial

log = logging.getLogger("reembed")


class Reduce(JobKind):
    """Fewer components."""

    name = "reduce"

    def __init__(self, config: ReduceConfig) -> None:
        super().__init__(config)
        self._section = config.reduce

    @property
    def section(self) -> ReduceSection:
        return self._section

    def check(self, source: SourceSnapshot) -> tuple[str, ...]:
        """Raises: UsageError: more components than there are, a snapshot that is reduced already, an impossible type."""
        dim = self._section.dim
        if source.run.job == self.name:
            raise UsageError(
                f"reduce.snapshot={source.uri}: is the output of `reembed reduce`; reduce the snapshot that it was made from"
            )
        if isinstance(dim, int) and dim > source.dim:
            raise UsageError(
                f"reduce.dim={dim}: the snapshot's vectors have {source.dim} components; set at most {source.dim}"
            )
        if self._vector(source) is VectorType.BINARY and isinstance(dim, int) and dim % 8:
            raise UsageError(f"reduce.dim={dim}: reduce.vector=binary packs 8 components into a byte; use a multiple of 8")
        if not source.rows:
            raise UsageError(f"reduce.snapshot={source.uri}: has no rows; embed a corpus first")
        return ()

    def program(self, passes: Passes, kept: Kept | None) -> Outcome:
        source = passes.source
        state, drift = self._last_nights(passes, kept)
        carry = state is not None
        if state is None:
            total = passes.run(Moments(unit=not self._section.whiten))
            state = passes.once("directions", lambda: self._found(source, total))
        projection = Projection.of(state)
        made = self._made(passes, projection, state)
        energy, dim = float(state["energy"]), len(projection.components)
        one_column = {"vectors": ""} if source.run.stamp.vectors else {}  # in place of the source's several
        facts = {
            "dim": dim,
            "energy": round(energy, 9),
            "source_dim": source.dim,
            "projection": projection.digest,
            "drift": drift,
        }
        values = state["values"]
        table = "".join(
            f"<tr><td class=number>{count}</td><td class=number>{float(values[:count].sum() / values.sum()):.4f}</td></tr>"
            for count in _steps(len(values))
        )
        head = "<tr><th class=number>components</th><th class=number>share of the energy</th></tr>"
        return Outcome(
            step=Projected(projection, made),
            facts=facts,
            state=state | {"scale": np.array(made.stamp.int8_scale or 0.0)},
            carry=carry,
            model={"dim": dim, "vector": made.stamp.vector.value, "int8_scale": made.stamp.int8_scale, **one_column},
            report=[("Energy by components", f"<table><thead>{head}</thead>{table}</table>")],
        )

    def text(self, summary: Mapping[str, Any]) -> list[str]:
        return [f"components  {summary['source_dim']} -> {summary['dim']}, {summary['energy']:.2%} of the energy"]

    def _vector(self, source: SourceSnapshot) -> VectorType:
        chosen = self._section.vector
        return source.schema.stamp.vector if chosen == "auto" else VectorType(chosen)

    def _last_nights(self, passes: Passes, kept: Kept | None) -> tuple[Partial | None, float | None]:
        """The kept directions, if they still serve, and how much more energy new parts lose by them."""
        if kept is None or self._section.state == "refit" or "components" not in kept.state:
            return None, None
        new = [shard for shard in passes.source.shards if kept.is_new(shard)]
        if not new:
            return kept.state, 0.0
        projection = Projection.of(kept.state)
        plain = kept.state["plain"]
        total = passes.run(Captured(plain, projection.offset, projection.unit), new)
        share = float(total["kept"] / total["energy"]) if total["energy"] else 1.0
        drift = max(0.0, float(kept.state["energy"]) - share)
        if drift > self._section.max_drift:
            log.warning(
                "new parts keep %.4f of their energy, the first ones kept %.4f: new directions", share, kept.state["energy"]
            )
            return None, drift
        return kept.state, round(drift, 9)

    def _found(self, source: SourceSnapshot, total: Partial) -> Partial:
        section = self._section
        found: Directions = directions(total, centre=section.centre is True)
        dim = section.dim if isinstance(section.dim, int) else found.enough(section.dim)
        if self._vector(source) is VectorType.BINARY:
            dim = min(-(-dim // 8) * 8, source.dim // 8 * 8)  # whole bytes
        plain = found.vectors[:dim]
        scale = 1 / np.sqrt(np.maximum(found.values[:dim], np.finfo(np.float64).tiny)) if section.whiten else np.ones(dim)
        offset = found.mean if section.centre is True else np.zeros(source.dim)
        return {
            "components": (plain * scale[:, None]).astype(np.float32),
            "plain": plain.astype(np.float32),
            "offset": offset.astype(np.float32),
            "unit": np.array(not section.whiten),
            "values": found.values,
            "energy": np.array(found.energy(dim)),
        }

    def _made(self, passes: Passes, projection: Projection, state: Partial) -> OutputSchema:
        """The schema of the reduced snapshot. int8 has its scale from all vectors, once."""
        run = passes.source.run
        vector, scale = self._vector(passes.source), None
        if vector is VectorType.INT8:
            scale = float(state["scale"]) if "scale" in state else 0.0
            if not scale:
                scale = float(passes.run(Largest(projection))["largest"]) * CALIBRATION_MARGIN / INT8_LEVELS
        stamp = run.stamp.of_one(len(projection.components), vector, scale)
        nullable = run.record.nullable_elements
        return output_schema(run.plan, stamp, run.config.output.partition_by, nullable_elements=nullable)


def _steps(dim: int) -> list[int]:
    """A few numbers of components: powers of two, and all."""
    return [count for count in (2**power for power in range(3, 13)) if count < dim] + [dim]
