"""corpus.where: which objects are listed, by their folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.corpus.discovery import discover
from tests.jobs.source_files import TEXTS, config, parquet
from workers.errors import UsageError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for lang in ("en", "de", "__HIVE_DEFAULT_PARTITION__"):
        for year in (2019, 2020, 2021):
            parquet(tmp_path / f"c/lang={lang}/year={year}/a.parquet", {"text": TEXTS})
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("lang = 'en'", {("en", "2019"), ("en", "2020"), ("en", "2021")}),
        ("lang = 'de' and not year = '2020'", {("de", "2019"), ("de", "2021")}),
        ("lang is null and year in ('2019', '2021')", {(None, "2019"), (None, "2021")}),
        ("lang != 'en' and year = '2020'", {("de", "2020")}),
    ],
)
def test_objects_are_chosen_by_their_folders(corpus: Path, where: str, expected: set[tuple[str | None, str]]) -> None:
    found = discover(config(corpus, where=where))
    assert {tuple(value for _, value in source.partitions) for source in found.objects} == expected
    assert found.rows == 3 * len(expected)


def test_what_cannot_be_decided_is_refused(corpus: Path, tmp_path: Path) -> None:
    def refusal(where: str, uri: Path | list[str] = corpus) -> str:
        with pytest.raises(UsageError) as caught:
            discover(config(uri, where=where))
        return str(caught.value)

    assert refusal("text = 'one'") == ("corpus.where \"text = 'one'\": the corpus is not divided by text, but by lang, year")
    assert "is true of none of 9 objects" in refusal("lang = 'fr'")
    assert "corpus.where \"lang ~ 'x'\"" in refusal("lang ~ 'x'")
    assert "column year is string, with which 2020 cannot be compared" in refusal("year >= 2020")
    other = parquet(tmp_path / "d/b.parquet", {"text": TEXTS})
    assert "not divided by lang" in refusal("lang = 'en'", [str(corpus), str(other)])
    assert "is not divided by columns" in refusal("lang = 'en'", tmp_path / "d")
