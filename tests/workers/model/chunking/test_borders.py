"""Borders of sentences and Markdown blocks: exact characters of the text, by rules that are written down here."""

from __future__ import annotations

import builtins
from itertools import pairwise
from typing import Any

import pytest

from workers.config import ChunkBy
from workers.errors import UsageError
from workers.model.chunking import borders
from workers.model.chunking.borders import Cuts, cuts_of, sentence_starts, splitter_version


def sentences(text: str, language: str = "en") -> list[str]:
    starts = sentence_starts(text, language)
    return [text[start:end].rstrip() for start, end in pairwise([*starts, len(text)])]


def pieces(text: str, places: Any) -> list[str]:
    """The text between borders."""
    inner = [int(place) for place in places if 0 < place < len(text)]
    return [text[start:end] for start, end in zip([0, *inner], [*inner, len(text)], strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It froze. Nothing moved! Why? Nobody knew.", ["It froze.", "Nothing moved!", "Why?", "Nobody knew."]),
        ("Prof. Hale and Mrs. Orme left. She paid 3.5 pounds.", ["Prof. Hale and Mrs. Orme left.", "She paid 3.5 pounds."]),
        ("  A line\nthat goes on. Next.\n", ["A line\nthat goes on.", "Next."]),
        ("A heading\n\nIts text", ["A heading", "Its text"]),
        ("A heading\r\n \r\nIts\r\ntext", ["A heading", "Its\r\ntext"]),
        ("🇩🇪 flags 👩🏽\u200d🚀. Zero\u200bwidth.", ["🇩🇪 flags 👩🏽\u200d🚀.", "Zero\u200bwidth."]),
        ("今日は。明日は?そう。", ["今日は。", "明日は?", "そう。"]),
        ("ما هذا؟ هذا كتاب.", ["ما هذا؟", "هذا كتاب."]),
        ("a \x00 b. \x00C d.", ["a \x00 b.", "\x00C d."]),
        (" \n\n ", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_abbreviations_are_those_of_the_language() -> None:
    text = "Die Läden schließen, z.B. Am Montag. Danach nicht."
    assert sentences(text, "de") == ["Die Läden schließen, z.B. Am Montag.", "Danach nicht."]
    assert sentences(text, "en") == ["Die Läden schließen, z.B.", "Am Montag.", "Danach nicht."]


def test_all_characters_of_a_large_text_are_seen() -> None:
    text = "The harbour froze. Ünïcödé 👩🏽\u200d🚀 moved! " * 20_000
    starts = sentence_starts(text, "en")
    assert len(starts) == 40_000
    assert {text[start] for start in starts} == {"T", "Ü"}


GUIDE = """Before all headings.

# Guide
## Setup

First paragraph. It has
two sentences.

- one item
- another
  - nested

```python
# no heading
print(1)
```

Underlined
==========
| a | b |
|---|---|
| 1 | 2 |

> # quoted
> text
"""


def test_markdown_sections_begin_at_headings() -> None:
    """One right below another belongs to it; those in code and quotations are none."""
    found = cuts_of(GUIDE, ChunkBy.MARKDOWN, "en")
    starts = [piece.split("\n")[0] for piece in pieces(GUIDE, found.sections)]
    assert starts == ["Before all headings.", "# Guide", "Underlined"]


def test_markdown_blocks_and_what_is_finer() -> None:
    """A block begins a line. What stands right below a heading is not cut off. Paragraphs have sentences, code has lines."""
    blocks, finer = cuts_of(GUIDE, ChunkBy.MARKDOWN, "en").levels
    assert [piece.split("\n")[0] for piece in pieces(GUIDE, blocks)] == [
        "Before all headings.", "# Guide", "- one item", "- another", "  - nested", "```python", "Underlined", "| 1 | 2 |",
        "> # quoted", "> text",
    ]  # fmt: skip
    assert [piece.split("\n")[0] for piece in pieces(GUIDE, finer)] == [
        "Before all headings.", "# Guide", "It has", "- one item", "- another", "  - nested", "```python", "# no heading",
        "print(1)", "```", "Underlined", "|---|---|", "| 1 | 2 |", "> # quoted", "> text",
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_markdown_lines_end_as_they_end(end: str) -> None:
    text = end.join(["# One", "", "text \x00 here", "", "# Two", "end"])
    found = cuts_of(text, ChunkBy.MARKDOWN, "en")
    assert pieces(text, found.sections) == [end.join(["# One", "", "text \x00 here", "", ""]), end.join(["# Two", "end"])]


def test_a_text_without_anything() -> None:
    for text in ("", "\n", "   "):
        found = cuts_of(text, ChunkBy.MARKDOWN, "en")
        assert isinstance(found, Cuts)
        assert pieces(text, found.sections) == [text]


def test_what_decides_borders_is_named() -> None:
    assert splitter_version(ChunkBy.TOKENS, "en") == ""
    assert splitter_version(ChunkBy.SENTENCES, "de").startswith("icu ")
    assert splitter_version(ChunkBy.SENTENCES, "de").endswith(" de")
    assert splitter_version(ChunkBy.MARKDOWN, "en").startswith("markdown-it ")


@pytest.mark.parametrize(
    ("chunk_by", "package", "module"),
    [(ChunkBy.SENTENCES, "icu4py", "icu4py"), (ChunkBy.MARKDOWN, "markdown-it-py", "markdown_it")],
)
def test_a_missing_package_is_named(chunk_by: ChunkBy, package: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    borders._breaker.cache_clear()
    borders._markdown.cache_clear()
    with pytest.raises(UsageError, match=rf"model\.chunk_by={chunk_by}: .*{package}.*reembed\[chunking\]"):
        splitter_version(chunk_by, "en")
    monkeypatch.undo()
    borders._breaker.cache_clear()
    borders._markdown.cache_clear()
