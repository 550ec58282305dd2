"""The configuration of `reembed cluster`. Its section `cluster` holds the job's settings and those of the Ray cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jobs.config import ClusterConfig
from jobs.passes.config import JobConfig, SnapshotSection
from workers.config import Auto, ByteCount, StorageOptions


class ClusterSection(SnapshotSection, ClusterConfig):
    """What is clustered, and how; `address`, `replicas`, … are those of Ray, as in every job."""

    clusters: Annotated[int, Field(ge=2)] | Auto = "auto"
    """Clusters. auto: the square root of the number of rows. More than 4,096 have two levels."""
    metric: Literal["cosine", "l2"] = "cosine"
    """cosine: spherical k-means, vectors and centroids have length 1. l2: Euclidean distances."""
    sample: int = Field(128, ge=16, le=1024)
    """Rows for each cluster, in the sample from which the start is computed."""
    sample_bytes: ByteCount = Field(1 << 30, ge=1 << 20)
    """Most bytes of that sample, which the driver holds in memory."""
    passes: int = Field(7, ge=1, le=100)
    """Most exact passes over all rows after the start."""
    tolerance: float = Field(1.5e-3, ge=0, lt=1)
    """They end earlier when a pass lowers the inertia by less than this share of it."""
    keep_state: bool = True
    """The next run uses the same centroids and touches new parts alone. false: each run computes them anew."""
    max_drift: float = Field(0.1, ge=0)
    """Largest increase of the mean distance, of new rows against that of the run that computed the centroids, as a share."""
    on_drift: Literal["refit", "refuse"] = "refit"
    """Beyond max_drift: `refit` computes the centroids anew, and clusters keep their numbers; `refuse`: exit 3."""
    words: int = Field(10, ge=0, le=100)
    """Words that say what a cluster is about, from the corpus. 0: the corpus is not opened."""
    examples: int = Field(5, ge=0, le=100)
    """Rows nearest to the centroid of each cluster, in the report and in clusters.parquet."""
    text_bytes: ByteCount = Field(1 << 30, ge=1 << 20)
    """Most bytes of source text that are read for words and examples."""
    corpus_options: StorageOptions = Field(default_factory=dict, repr=False)
    """To fsspec, for the corpus that the snapshot was embedded from: storage options are not stored with a run."""
    map: int = Field(20_000, ge=0, le=200_000)
    """About so many rows are points of the report's map. 0: no map."""


class ClusterJobConfig(JobConfig):
    """The whole configuration of `reembed cluster`."""

    cluster: ClusterSection
