"""Task tokens: how well token vectors tell the tags of words, as F1 of the spans that a linear probe finds.

    1. words are found among the tokens      1 pass
    2. classify (classify.py) over words     its passes
    3. spans of the test documents           1

Of a snapshot with pooling=tokens. A document's words are all trained or all tested, so no sentence leaks.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import pyarrow as pa

from jobs.evaluate import classify
from jobs.evaluate.classes.facts import lines
from jobs.evaluate.classes.inputs import require_split_column
from jobs.evaluate.config import EvaluateSection, SplitBy, Task
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.model.files import resolve_model
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer_files import read_conversion
from workers.model.transformer_settings import read_transformer_settings
from workers.records.shard import Shard
from workers.table.schema import ID, TEXT_HASH, TOKENS
from workers.vectors.agreement.spans import SpanCounts, f1
from workers.vectors.evaluation.classes.gathered import table_of
from workers.vectors.evaluation.classes.labels import has_several
from workers.vectors.evaluation.classes.strings import is_text
from workers.vectors.evaluation.tagged.rows import Alignment, OfWords, WordTags
from workers.vectors.evaluation.tagged.span_scores import SpanScores, span_types
from workers.vectors.step import Partial, Step, UnitStep

METRICS: tuple[str, ...] = ("span_f1", "span_macro_f1", *classify.METRICS)
MOST_UNUSABLE = 0.05  # of the documents: words that are not the text would be noticed in no figure


def check(source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
    """As JobKind.check()."""
    if not source.schema.lists:
        raise UsageError(
            f"evaluate.task=tokens: the snapshot {source.uri} holds one vector a text; embed with model.pooling=tokens, or "
            "use task=classify"
        )
    for setting, column in (("label", section.label), ("words", section.words)):
        if column is None:
            raise UsageError(
                f"evaluate.{setting}: needed for task=tokens: a kept column, a list with an entry for each word"
            )
        source.require_columns([column], f"evaluate.{setting}")
        kind = source.column_type(column)
        if not (has_several(kind) and is_text(kind.value_type)):
            raise UsageError(f"evaluate.{setting}: {column} is of type {kind}; task=tokens needs a list of strings")
    if section.split.by is SplitBy.NEAR or section.against is not None:
        setting = "against" if section.against is not None else "split.by=near"
        raise UsageError(f"evaluate.{setting}: not for task=tokens; leave it out")
    require_split_column(source, section.split)
    return tuple(dict.fromkeys([ID, TEXT_HASH, TOKENS, str(section.words), str(section.label), *_also(section)]))


def evaluate(passes: Passes, section: EvaluateSection, kept: Kept | None) -> Outcome:  # noqa: ARG001 - of no use here
    """As JobKind.program()."""
    tags = word_tags(passes.source, section)
    aligned = passes.run(Alignment(tags))
    _require_aligned(aligned, section)
    words = _OverWords(passes, tags)
    found, probe = classify.measured(words, section, (ID, TEXT_HASH, str(section.label), *_also(section)), pa.string())
    types = span_types(found.division.classes)
    if not types:
        shown = ", ".join(found.division.classes[:5])
        raise UsageError(f"evaluate.label: {section.label} has no tags of spans (B-x, I-x) but {shown}; write them as IOB2")
    scored = words.run(SpanScores(found.division, probe, types))
    outcome = classify.outcome_of(found)
    spans = f1(_counts(scored, types))
    facts = dict(outcome.facts) | {
        "task": Task.TOKENS.value,
        "span_f1": spans["micro"]["f1"],
        "span_precision": spans["micro"]["precision"],
        "span_recall": spans["micro"]["recall"],
        "span_macro_f1": spans["macro"]["f1"],
        "span_weighted_f1": spans["weighted"]["f1"],
        "spans": {
            kind: spans.get(kind, _NO_SPAN) | {"spans": int(scored["given"][at]), "found": int(scored["predicted"][at])}
            for at, kind in enumerate(types)
        },
        "test_documents": int(scored["documents"][0]),
        "test_words": int(scored["words"][0]),
        "words_without_token": int(aligned["tokenless"][0]),
        "unusable_documents": int(aligned["unusable"][0]),
    }
    report = [("Spans", _section(facts["spans"])), *outcome.report]
    return dataclasses.replace(outcome, facts=facts, report=report)


def text(facts: Mapping[str, Any]) -> list[str]:
    """As JobKind.text()."""
    return [
        f"spans in {facts['test_documents']:,} test documents: F1 {facts['span_f1']:.4f} (precision "
        f"{facts['span_precision']:.4f}, recall {facts['span_recall']:.4f}), macro-F1 {facts['span_macro_f1']:.4f}",
        *(f"  {kind}: F1 {each['f1']:.4f} of {each['spans']:,} spans" for kind, each in facts["spans"].items()),
        *lines(facts),
    ]


def word_tags(source: SourceSnapshot, section: EvaluateSection) -> WordTags:
    """Raises: UsageError: the model's files cannot be read, or make other tokens than the snapshot's."""
    stamp, config = source.run.stamp, source.run.config.model
    files = resolve_model(config)
    if files.tokenizer_digest != stamp.tokenizer_digest:
        raise UsageError(
            f"model {config.name}: its tokenizer is not the one the snapshot was made with; set model.name and "
            "model.revision to the snapshot's"
        )
    folder = files.folder / read_recipe(files, config).transformer
    settings = read_transformer_settings(folder)
    made = read_conversion(folder, settings)
    return WordTags(
        words=str(section.words),
        tags=str(section.label),
        separator=section.separator,
        prompt=stamp.prompt,
        tokenizer=zlib.compress(made.tokenizer.encode()),
        special=settings.add_special_tokens,
        split_special=made.split_special_tokens,
        also=_also(section),
    )


class _OverWords(Passes):
    """Passes whose steps see words for rows."""

    def __init__(self, passes: Passes, tags: WordTags) -> None:
        self.source = passes.source
        self._passes, self._tags = passes, tags

    def run(self, step: Step, shards: Sequence[Shard] | None = None) -> Partial:
        return self._passes.run(OfWords(step, self._tags), shards)

    def units(self, step: UnitStep, count: int) -> Partial:
        return self._passes.units(step, count)

    def once(self, name: str, make: Callable[[], Partial]) -> Partial:
        return self._passes.once(name, make)


_NO_SPAN = {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def _also(section: EvaluateSection) -> tuple[str, ...]:
    return (section.split.column,) if section.split.column is not None else ()


def _require_aligned(aligned: Partial, section: EvaluateSection) -> None:
    documents, unusable = int(aligned["documents"][0]), int(aligned["unusable"][0])
    if unusable > MOST_UNUSABLE * documents or not int(aligned["words"][0]):
        first = ", ".join(table_of(aligned, "examples").column("id").to_pylist()[:3])
        raise UsageError(
            f"evaluate.words: in {unusable:,} of {documents:,} documents (first: {first or 'none'}) the words joined by "
            f"{section.separator!r} do not make the stored tokens, or {section.label} has not one tag for each word; "
            "correct the columns or evaluate.separator"
        )


def _counts(scored: Partial, types: Sequence[str]) -> SpanCounts:
    counts = SpanCounts()
    for name in ("right", "predicted", "given"):
        getattr(counts, name).update(dict(zip(types, scored[name].tolist(), strict=True)))
    return counts


def _section(spans: Mapping[str, Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(kind)}</td>"
        + "".join(f"<td>{each[name]:.4f}</td>" for name in ("precision", "recall", "f1"))
        + f"<td>{each['spans']:,}</td><td>{each['found']:,}</td></tr>"
        for kind, each in spans.items()
    )
    head = "".join(f"<th>{name}</th>" for name in ("type", "precision", "recall", "F1", "spans", "found"))
    return f"<table><tr>{head}</tr>{rows}</table>"
