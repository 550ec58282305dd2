"""report.html: the facts of a run as one HTML page, readable on a desktop, on a phone and in print.

    headline -> four figures -> what to do next -> checks, rows, predictions, charts, quarantine, and all of summary.json

The page is one file without scripts, and its content security policy forbids network requests. Names and reasons come from
corpora and are untrusted: the template escapes every value except our own charts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.report.facts import Forecast, ReportFacts
from jobs.report.template import PAGE, POLICY, STYLE
from workers.table.paths import RunPaths

_UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class _Headline:
    word: str
    mood: str  # good | bad
    sentence: str


@dataclass(frozen=True, slots=True)
class _Card:
    name: str
    value: str
    note: str


def render_page(facts: ReportFacts, summary: Mapping[str, Any]) -> str:
    """HTML of one run. `summary` is its summary.json; `gate` in it holds the checks of the gate, if they ran."""
    import jinja2

    from jobs.report.charts import charts

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE).render(
        policy=POLICY,
        style=STYLE,
        summary=summary,
        model=dict.fromkeys(("name", "pooling", "dim", "vector"), "") | summary["model"],
        facts=facts,
        charts=charts(facts),
        headline=_headline(summary),
        cards=_cards(facts, summary),
        steps=_steps(facts, summary),
        gate=_gate(summary.get("gate") or ()),
        origins=_origins(facts, summary),
        forecasts=[_forecast(item) for item in facts.forecasts],
        pauses=[f"no replica worked for {_duration(pause.seconds)}" for pause in facts.pauses],
        untimed=f"{facts.untimed_shards:,} shards without an end time" if facts.untimed_shards else "",
        timeline_note=facts.timeline.note,
        truncation=_truncation(facts, summary),
        padding=f"Padding was {facts.padding_share:.1%} of the computed positions.",
        reasons=_reasons(facts),
        reasons_note=_reasons_note(facts),
        everything=list(_flat({name: value for name, value in summary.items() if name not in ("report", "gate")})),
    )


def _headline(summary: Mapping[str, Any]) -> _Headline:
    rows = f"{summary['rows']:,} rows"
    reasons = "; ".join(
        reason.partition("; ")[0] for reason in summary["reasons"]
    )  # the advice after it is shown under the next steps
    forced = summary.get("forced")
    if summary["published"] and forced:
        who = forced.get("by", "somebody") if isinstance(forced, Mapping) else "somebody"
        return _Headline("Published by force", "bad", f"{who} overrode the checks; readers see this run's {rows}.")
    if summary["published"]:
        return _Headline("Published", "good", f"Readers see this run's {rows}.")
    if summary["state"] == "refused":
        return _Headline("Refused", "bad", f"Not published: {reasons}")
    return _Headline(str(summary["state"]).capitalize(), "bad", f"Not published: {reasons or 'it did not reach its end'}")


def _cards(facts: ReportFacts, summary: Mapping[str, Any]) -> list[_Card]:
    documents, lost = summary["documents"], summary["quarantined_rows"]
    least = "at least " if summary["quarantined_rows_is_minimum"] else ""
    cost = summary["cost_usd"]
    return [
        _Card(
            "rows in = out + quarantined",
            f"{least}{documents + lost:,} = {documents:,} + {lost:,}",
            f"{summary['shards']['done']:,} of {summary['shards']['planned']:,} shards done"
            + (f"; {summary['rows']:,} output rows" if summary["rows"] != documents else ""),
        ),
        _Card("speed", f"{facts.tokens_per_second:,.0f} tokens/s", f"{facts.embedded_tokens:,} tokens embedded"),
        _Card(
            "time",
            _duration(summary["seconds"]),
            f"{summary['replica_hours']:,.4g} replica-hours, busy {summary['replica_busy_fraction']:.0%}",
        ),
        _Card(
            "cost",
            _UNKNOWN if cost is None else f"{cost:,.2f} USD" if cost >= 1 or cost == 0 else f"{cost:.2g} USD",
            "set cost.gpu_hour_usd to know" if cost is None else "replica-hours at cost.gpu_hour_usd",
        ),
    ]


def _steps(facts: ReportFacts, summary: Mapping[str, Any]) -> list[str]:
    output, _, _ = summary["data"].partition(f"/{RunPaths(summary['run_id']).data}")
    steps = []
    if not summary["published"]:
        steps = list(summary["reasons"])
        if summary["state"] == "refused":
            steps.append("Until then readers keep the previous snapshot, which was not changed.")
            if any(_result(check)[0] == "failed" for check in summary.get("gate") or ()):
                steps.append(
                    "If the data is right although a check failed, you can publish the run: "
                    f"reembed publish {output} {summary['run_id']} --force"
                )
        else:
            shards = summary["shards"]
            steps.append(
                f"Run the same command again: {shards['done']:,} of {shards['planned']:,} shards are done and will not be "
                "embedded again."
            )
    if summary["quarantined_rows"] and summary["published"]:
        steps.append(
            f"{summary['quarantined_rows']:,} rows have no vector, which run.max_quarantined_rows allows. The reasons are "
            "below; correct them at the source, and the next run embeds them."
        )
    if summary["quarantined_shards"]:
        steps.append(
            "Whole shards are quarantined: read the replicas' logs, then check the objects named in the quarantine."
        )
    if summary["published"] and not steps:
        steps.append("Nothing.")
    if facts.stages.starving in ("read", "tokenize"):
        steps.append(
            "Next time: give each replica more cores (cluster.cpus_per_replica); the encoder waits for text."
            if facts.stages.starving == "tokenize"
            else "Next time: run the replicas closer to the corpus, or use fewer; the encoder waits for storage."
        )
    return steps


def _gate(checks: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The failed checks first, so that they are seen at once."""
    return sorted(map(_check, checks), key=lambda check: check["result"] != "failed")


def _check(check: Mapping[str, Any]) -> dict[str, str]:
    result, mood = _result(check)
    return {
        "name": str(check.get("name", "")).replace("_", " "),
        "result": result,
        "mood": mood,
        "measured": _figure(check.get("measured"), digits=4),
        "allowed": _figure(check.get("allowed"), digits=4),
        "note": str(check.get("note") or ""),
    }


def _result(check: Mapping[str, Any]) -> tuple[str, str]:
    return ("skipped", "quiet") if check.get("skipped") else ("passed", "good") if check.get("ok") else ("failed", "bad")


def _origins(facts: ReportFacts, summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = facts.origins
    return [
        ("planned", _UNKNOWN if rows.planned is None else f"{rows.planned:,}", "source rows, by the manifest"),
        ("carried over", f"{rows.carried:,}", "in whole parts copied from the previous snapshot"),
        ("reused", f"{rows.reused:,}", "single vectors of the previous snapshot"),
        ("repeated", f"{rows.repeated:,}", "text that occurs earlier in the same shard, embedded once"),
        ("embedded", f"{rows.embedded:,}", "by a replica, in this run"),
        ("quarantined", f"{rows.quarantined:,}", "without a vector"),
        *([("left out", f"{rows.excluded:,}", "near-duplicates, by corpus.exclude")] if rows.excluded else []),
        ("embedded again", f"{summary['reembedded_rows']:,}", "documents of failed or interrupted attempts"),
    ]


def _forecast(item: Forecast) -> tuple[str, str, str, str]:
    unit = {"tokens": ",.0f", "replica_hours": ",.4g", "cost_usd": ",.4g"}[item.name]
    name = {"tokens": "tokens", "replica_hours": "replica-hours", "cost_usd": "cost, USD"}[item.name]
    known = [_UNKNOWN if value is None else format(value, unit) for value in (item.predicted, item.actual)]
    return name, known[0], known[1], "" if item.ratio is None else f"{item.ratio:.2f}"


def _truncation(facts: ReportFacts, summary: Mapping[str, Any]) -> str:
    limit = summary["model"].get("max_tokens")
    longer = f"longer than the {limit:,} tokens that the model takes" if isinstance(limit, int) else "too long"
    return (
        f"{summary['truncated']:,} documents ({facts.truncated_share:.1%}) were {longer}: their ends are not in the vectors."
    )


def _reasons(facts: ReportFacts) -> list[dict[str, str]]:
    def rows(known: int, unknown: int) -> str:
        more = f"an unknown number ({unknown:,} lines)" if unknown else ""
        return " and ".join(filter(None, [f"{known:,}" if known or not unknown else "", more]))

    return [
        {"text": item.text, "rows": rows(item.rows, item.unknown), "example": item.example} for item in facts.reasons.top
    ]


def _reasons_note(facts: ReportFacts) -> str:
    notes = []
    if facts.reasons.kinds > len(facts.reasons.top):
        left = facts.reasons.kinds - len(facts.reasons.top)
        notes.append(f"{left:,} rarer kinds of reason with {facts.reasons.others:,} rows are not shown.")
    if not facts.reasons.complete:
        notes.append("Counted from a part of the quarantine files; there are more rows in all.")
    return " ".join(notes)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as dotted names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value and name != "reasons":
        yield name, ", ".join(map(str, value[:100])) + (f", … ({len(value):,} in all)" if len(value) > 100 else "")
    else:
        yield name, "; ".join(value) if isinstance(value, list) else _figure(value)


def _figure(value: Any, digits: int = 6) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.{digits}g}"
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
