"""The configuration of `reembed reduce`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jobs.passes.config import JobConfig, SnapshotSection
from workers.config import Auto


class ReduceSection(SnapshotSection):
    """Fewer components by principal directions."""

    dim: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Components to keep: a number, or the least number with this share of the energy."""
    method: Literal["pca"] = "pca"
    """pca: the principal directions, from exact second moments of all vectors."""
    centre: bool | Auto = "auto"
    """Subtract the mean first. auto: no, because it changes cosines."""
    whiten: bool = False
    """Divide each component by its standard deviation: all count alike. Changes which neighbours are nearest."""
    vector: Literal["auto", "float32", "float16", "int8", "binary"] = "auto"
    """float32 | float16 | int8 | binary. auto: as the snapshot."""
    state: Literal["keep", "refit"] = "keep"
    """keep: the next night uses the same directions, and only new parts are projected. refit: new ones each time."""
    max_drift: Annotated[float, Field(ge=0, le=1)] = 0.02
    """With `keep`: if new parts lose so much more of their energy than the first ones did, the directions are found anew."""


class ReduceConfig(JobConfig):
    """The whole configuration of `reembed reduce`."""

    reduce: ReduceSection
