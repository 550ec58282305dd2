"""The section `evaluate`: what the vectors of a snapshot are measured by. Each task reads the settings that name it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from jobs.passes.config import JobConfig, SnapshotSection
from workers.config import Pooling, Section, StorageOptions


class Task(StrEnum):
    CLASSIFY = "classify"
    RETRIEVE = "retrieve"
    PAIRS = "pairs"
    CLUSTER = "cluster"
    TOKENS = "tokens"


class SplitBy(StrEnum):
    """What stays together in one part of a split."""

    TEXT = "text"
    NEAR = "near"
    RANDOM = "random"


class SplitSection(Section):
    """How labelled rows are divided into training rows and test rows. The division depends on the rows alone."""

    test: float = Field(0.2, gt=0, lt=1)
    """Share of the rows that are tested."""
    folds: int = Field(3, ge=2, le=10)
    """Parts of the training rows: the penalty is chosen by them, and every training row is scored by a probe without it."""
    by: SplitBy = Field(SplitBy.TEXT, strict=False)
    """text: equal texts stay together. near: so do the groups of `groups`. random: every row alone; it leaks."""
    groups: str | None = None
    """OUTPUT of `reembed dedup` over the same snapshot, for by=near."""
    column: str | None = None
    """A kept column that says `train` or `test` of every row; rows of another value are left out. Replaces `by`."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """To fsspec, for `groups`."""

    @model_validator(mode="after")
    def _groups_for_near(self) -> SplitSection:
        if (self.by is SplitBy.NEAR) != (self.groups is not None):
            raise ValueError("split.by=near needs split.groups, the output of `reembed dedup`, and nothing else does")
        return self


class CandidateSection(Section):
    """A model that could make the snapshot, and ways to use it. Alone: as the model says itself."""

    model: str | None = Field(None, min_length=1)
    """As model.name. None: the snapshot's own model, with the settings it was embedded with."""
    layers: Literal["all"] | list[int] | None = None
    """Hidden states that are pooled: 0, those of the embeddings, to the number of layers. None: the last."""
    pooling: list[Annotated[Pooling, Field(strict=False)]] | None = Field(None, min_length=1)
    """Ways to pool them. None: the model's own."""


class EvaluateSection(SnapshotSection):
    """Settings of `reembed evaluate`."""

    task: Task = Field(Task.CLASSIFY, strict=False)
    """What the vectors are for."""
    label: str | None = None
    """classify, cluster: the kept column that holds the classes. A list column: a row may have several. tokens: the kept
    column of tags, a list with one for each word (B-x, I-x, O)."""
    words: str | None = None
    """tokens: the kept column of words, a list. Joined by `separator` they are the text that was embedded."""
    separator: str = " "
    """tokens: what stood between two words."""
    split: SplitSection = Field(default_factory=lambda: SplitSection())
    sample: int = Field(100_000, ge=0)
    """Labelled rows that are used, about; of a rare class as many as there are. 0: all."""
    c: list[PositiveFloat] = Field([1.0, 10.0, 100.0], min_length=1, max_length=10)
    """classify: candidates of the probe's inverse penalty (C of scikit-learn, for vectors of length 1)."""
    queries: str | None = None
    """retrieve: a file of queries (id, text), Parquet or JSON lines. Files are opened with `storage_options`."""
    qrels: str | None = None
    """retrieve: a file of relevant documents (query, document, relevance)."""
    pairs: str | None = None
    """pairs: a file with a score of two ids (id_1, id_2, score) or of two texts (text_1, text_2, score)."""
    clusters: int | None = Field(None, ge=2)
    """cluster: clusters that are compared with the classes; as many as classes by default. All labelled rows take part."""
    query_column: str | None = None
    """retrieve, instead of the two files: a kept column of texts, each of which should find its row."""
    candidates: list[CandidateSection] = Field(default_factory=list, max_length=50)
    """classify, cluster: models, layers and poolings that are embedded on a sample of the snapshot's corpus, in the driver's
    process, and evaluated instead of the snapshot's vectors. `sample`: documents of it."""
    min: dict[str, float] = Field(default_factory=dict)
    """Lower bounds of figures, e.g. {macro_f1: 0.65}: below one the evaluation is not published (exit 3)."""
    max_drop: float | None = Field(None, ge=0)
    """Loss of the task's main figure against the last published evaluation that is still published; beyond: exit 3."""
    against: str | None = None
    """classify: OUTPUT of another evaluation, of other vectors of the same rows: compared row by row."""


class EvaluateConfig(JobConfig):
    """A configuration of `reembed evaluate`."""

    evaluate: EvaluateSection
