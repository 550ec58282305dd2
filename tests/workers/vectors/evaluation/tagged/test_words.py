"""Where words stand among a tokenizer's tokens: a small WordPiece, results written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from workers.vectors.evaluation.tagged.words import first_tokens

PIECES = ["[UNK]", "[CLS]", "[SEP]", *"abcdefg", *(f"##{letter}" for letter in "abcdefg"), ".", "bad", "##face"]


def small_tokenizer() -> Tokenizer:
    made = Tokenizer(WordPiece({piece: at for at, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return made


def _first(words: Sequence[str], stored: Sequence[str], **given: Any) -> list[int] | None:
    found = first_tokens(small_tokenizer(), words, stored, **({"separator": " ", "prompt": "", "special": True} | given))
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("words", "stored", "given", "expected"),
    [
        (["bad", "badface", "a"], ["[CLS]", "bad", "bad", "##face", "a", "[SEP]"], {}, [1, 2, 4]),
        (["a.b", "xyz", "É"], ["[CLS]", "a", ".", "b", "[UNK]", "e", "[SEP]"], {}, [1, 4, 5]),
        (["bad", "face"], ["[CLS]", "bad", "##face", "[SEP]"], {"separator": ""}, [1, 2]),
        (["b", "a", "d"], ["[CLS]", "bad", "[SEP]"], {"separator": ""}, [-1, -1, 1]),
        (["a", "b", "c"], ["[CLS]", "a", "[SEP]"], {}, [1, -1, -1]),
        (["a", "b", "c"], ["[CLS]", "c", "[SEP]"], {}, [-1, -1, 1]),
        (["a", "b"], ["[CLS]", "bad", ".", "a", "b", "[SEP]"], {"prompt": "bad. "}, [3, 4]),
        (["a", "b"], ["a", "b"], {"special": False}, [0, 1]),
        (["a", "", "b"], ["[CLS]", "a", "b", "[SEP]"], {}, [1, -1, 2]),
        (["a", "b"], ["[CLS]", "a", "c", "[SEP]"], {}, None),
        (["a"], ["[CLS]", "a", "b", "[SEP]"], {}, None),
        ([], ["[CLS]", "[SEP]"], {}, []),
    ],
)
def test_the_first_token_of_each_word(
    words: list[str], stored: list[str], given: dict[str, Any], expected: list[int] | None
) -> None:
    assert _first(words, stored, **given) == expected
