"""report.html as a browser parses it: whole, self-contained, all facts in it, hostile names harmless, legible on a phone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jobs.report.charts import NARROW, charts
from jobs.report.page import render_page
from jobs.report.svg import FONT_PIXELS
from tests.jobs.ledger_samples import RUN
from tests.jobs.report_samples import HOSTILE, facts_of, steady, summary_of

VOID = {"meta", "img", "br", "hr", "link", "input"}
GATE = [
    {"name": "row_change", "ok": True, "measured": 0.0123, "allowed": 0.3, "note": ""},
    {"name": "golden_texts", "ok": False, "measured": 0.31, "allowed": 0.998, "note": f"text 3 {HOSTILE}"},
    {"name": "mean_vector", "ok": True, "measured": None, "allowed": 0.9, "note": "another model", "skipped": True},
]
REASON = "golden_texts: cosine 0.31 is less than 0.998; look at the model, or set gate.min_golden_cosine"


@dataclass
class Page(HTMLParser):
    """Elements and text; fails on a tag that is never closed."""

    html: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += f" {data}"

    def tags(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def _page(**changes: Any) -> Page:
    receipts = steady(40, 2)
    receipts[3] = replace(receipts[3], reused_rows=25, rows_read=103, quarantined_rows=3)
    summary = summary_of(receipts, **changes)
    return Page(render_page(facts_of(receipts, summary), summary))


def test_one_file_that_asks_nobody_for_anything() -> None:
    page = _page()
    (policy,) = [meta["content"] for meta in page.tags("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert page.html.startswith("<!doctype html>")
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "image", "b"), tag
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")], attributes
        assert not attributes.get("href", "#").removeprefix("#").startswith(("http", "//", "data:")), attributes
        assert "url(" not in attributes.get("style", "").replace("url(#", "")
    assert "@import" not in page.html
    assert "url(" not in page.html.partition("</style>")[0]
    assert "DejaVu Sans', " not in page.html, "matplotlib's fonts"


def test_hostile_names_are_text() -> None:
    page = _page(gate=GATE, state="refused", published=False, reasons=[f"{REASON} {HOSTILE}"])
    assert "<script" not in page.html
    assert "<img" not in page.html
    for where in ("s3://models/", "text is null ", "s3://corpus/", "text 3 "):
        assert f"{where}{HOSTILE}" in page.words


def test_ids_are_unique_and_all_that_is_referred_to_is_there() -> None:
    page = _page()
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    found = re.findall(r"url\(#([^)]+)\)", page.html)
    used = {attributes["href"][1:] for _, attributes in page.elements if "href" in attributes} | set(found)
    assert used
    assert used <= set(ids)


@pytest.mark.slow
def test_charts_tell_their_figures_and_are_legible_on_a_phone() -> None:
    page = _page()
    pictures = page.tags("svg")
    assert len(pictures) == 2 * len(charts(facts_of(steady(40, 2) | {3: replace(steady(4, 2)[3], reused_rows=25)})))
    assert all(picture["role"] == "img" and len(picture["aria-label"]) > 30 for picture in pictures)
    widths = {picture["viewbox"].split()[2] for picture in pictures}
    assert str(NARROW) in widths
    assert 360 > NARROW > 300, "drawn for the width that a phone of 390 pixels leaves"
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px; ", page.html.partition("</style>")[2])]
    sizes += [float(size) for size in re.findall(r"font: ([\d.]+)px", page.html.partition("</style>")[2])]
    assert min(sizes) >= FONT_PIXELS >= 13
    assert "#0" not in "".join(re.findall(r'style="([^"]*)"', page.html)), "an ink that no style sheet can change"


def test_every_fact_of_the_summary_is_there() -> None:
    page = _page()
    receipts = steady(40, 2)
    receipts[3] = replace(receipts[3], reused_rows=25, rows_read=103, quarantined_rows=3)
    for name, value in summary_of(receipts).items():
        figures = value.values() if isinstance(value, dict) else [value]
        for figure in figures:
            if isinstance(figure, (int, float)) and not isinstance(figure, bool):
                text = f"{figure:,}" if isinstance(figure, int) else f"{figure:,.6g}"
                assert text in page.words, (name, figure)
    for words in (
        "Published.", "4,003 = 4,000 + 3", "1 h 1 min", "2 replica-hours, busy 83%", "5.00 USD", "28,000 tokens embedded",
        "12,345", "2.27", "Padding was 12.5%", "40 documents (1.0%) were longer than the 256 tokens", "nothing starves it",
        "3 rows have no vector", "reused 25", "embedded 3,975", "planned 4,003", "41 and an unknown number",
    ):  # fmt: skip
        assert words in page.words, words


def test_a_refusal_says_why_what_to_do_and_which_check() -> None:
    page = _page(gate=GATE, state="refused", published=False, reasons=[REASON])
    heading = page.words.partition("What to do next")[0]
    assert "Refused. Not published: golden_texts: cosine 0.31 is less than 0.998 Run" in heading
    assert REASON in page.words
    assert f"reembed publish s3://bucket/out {RUN} --force" in page.words
    assert page.words.index("golden texts failed") < page.words.index("row change passed 0.0123 0.3")
    assert "golden texts failed 0.31 0.998" in page.words
    assert "mean vector skipped 0.9 another model" in page.words


@pytest.mark.slow
def test_other_endings() -> None:
    forced = _page(forced={"by": "ann@host", "at": "2026-11-20", "failed": ["golden_texts"]})
    assert "Published by force. ann@host overrode the checks" in forced.words
    aborted = _page(state="aborted", published=False, reasons=["no replica was ready; look at ray status"])
    assert "Aborted. Not published: no replica was ready Run" in aborted.words
    assert "Run the same command again: 40 of 40 shards are done" in aborted.words
    unpriced = _page(cost_usd=None)
    assert "set cost.gpu_hour_usd to know" in unpriced.words


def test_a_run_in_which_nothing_was_embedded() -> None:
    """All carried over: no replica, no times, no lengths."""
    receipts = {n: replace(item, carried_from="x", reused_rows=100, stage_seconds={}) for n, item in steady(5, 1).items()}
    summary = summary_of(receipts)
    page = Page(render_page(facts_of(receipts, summary), summary))
    assert "No replica embedded a shard." in page.words
    assert "carried over 500" in page.words
    empty = Page(render_page(facts_of({}), summary_of({})))
    assert "0 = 0 + 0" in empty.words


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.mark.slow
def test_no_request_leaves_the_file_in_a_real_browser(tmp_path: Path) -> None:
    """And the browser's log would show one: a copy that asks for a picture, without our policy, is caught."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here; install one of {', '.join(BROWSERS)}")
    html = _page(gate=GATE).html
    asking = re.sub(r"<meta http-equiv[^>]*>", "", html).replace("<main>", '<img src="http://leak.example/x.png"><main>')
    assert _requests(browser, tmp_path / "report", html) == set()
    assert _requests(browser, tmp_path / "asking", asking) == {"http://leak.example/x.png"}


def _requests(browser: str, folder: Path, html: str) -> set[str]:
    """URLs that the page asked for, files apart; the browser's own are not the page's. Nothing is resolved, all the same."""
    folder.mkdir()
    page, log, picture = folder / "report.html", folder / "net.json", folder / "page.png"
    page.write_text(html)
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
        "--window-size=390,844", "--virtual-time-budget=2000", f"--screenshot={picture}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=400, env=os.environ | {"HOME": str(folder)})
    assert picture.stat().st_size > 10_000
    recorded = json.loads(log.read_text())
    kinds = {number: name for name, number in recorded["constants"]["logEventTypes"].items()}
    started = [event.get("params", {}) for event in recorded["events"] if kinds[event["type"]] == "URL_REQUEST_START_JOB"]
    return {asked["url"] for asked in started if "url" in asked and asked.get("initiator") != "not an origin"}
