"""Texts as a column: what pa.array makes of them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from workers.model.wordpiece.text_column import text_column


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "zwölf 十二 \U0001f600", "x\0y"]])
def test_it_is_what_arrow_makes(texts: list[str]) -> None:
    column = text_column(texts)
    column.validate(full=True)
    assert column.equals(pa.array(texts, pa.large_string()))


def test_half_a_pair_is_refused_as_by_arrow() -> None:
    for make in (text_column, lambda texts: pa.array(texts, pa.large_string())):
        with pytest.raises(UnicodeEncodeError):
            make(["\ud800"])
