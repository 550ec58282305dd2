"""Token types are those that transformers' own tokenizer gives, and none where it gives none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.workers.families import of_lengths
from tests.workers.many_families import random_folder
from workers.engine.inputs import TokenTypes, read_token_types
from workers.engine.kernels.packing import pack
from workers.errors import UsageError


def typed(minilm: Path, target: Path, template: str, names: list[str]) -> Path:
    """MiniLM's vocabulary with another template, for example XLNet's."""
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(target / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    (target / "tokenizer_config.json").write_text(json.dumps(facts))
    return target


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("[CLS]:0 $A:0 [SEP]:0", TokenTypes((0,), 0, (0,))),
        ("$A:0 [SEP]:0 [CLS]:2", TokenTypes((), 0, (0, 2))),
        ("[CLS]:2 $A:0 [SEP]:0", TokenTypes((2,), 0, (0,))),
    ],
    ids=["bert", "xlnet", "funnel"],
)
def test_types_of_a_text(minilm: Path, tmp_path: Path, template: str, expected: TokenTypes) -> None:
    folder = typed(minilm, tmp_path, template, ["input_ids", "token_type_ids", "attention_mask"])
    found = read_token_types(folder, "m")
    assert found == expected
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["snow", "the harbour froze in January"]
    given = [reference(text)["token_type_ids"] for text in texts]
    batch = pack(of_lengths(np.array([len(types) for types in given])), np.arange(2), torch.device("cpu"))
    assert found.of(batch).tolist() == [*given[0], *given[1]]


def test_a_tokenizer_that_gives_none(minilm: Path, tmp_path: Path) -> None:
    folder = typed(minilm, tmp_path, "[CLS]:0 $A:0 [SEP]:0", ["input_ids", "attention_mask"])
    assert read_token_types(folder, "m") is None


def test_a_tokenizer_that_transformers_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"^model\.name=m: transformers cannot load its tokenizer"):
        read_token_types(tmp_path, "m")


@pytest.mark.slow
def test_types_decide_vectors_of_xlnet(minilm: Path, tmp_path: Path) -> None:
    """<cls> has a type of its own there: relative to it, every other token is of another segment."""
    from tests.workers.models import build

    folder = random_folder("xlnet", minilm, tmp_path / "model")
    typed(minilm, folder, "$A:0 [SEP]:0 [CLS]:2", ["input_ids", "token_type_ids", "attention_mask"])
    tokenizer, encoder = build(folder, max_tokens=100, normalize=False)
    texts = ["snow", "the harbour froze in January, and for eleven days nothing moved but the gulls"]
    found = encoder.encode(tokenizer.tokenize(texts)).vectors
    theirs, model = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModel.from_pretrained(folder).eval()
    for row, text in enumerate(texts):
        given = theirs(text, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**given).last_hidden_state[0].mean(dim=0).numpy()
            untyped = model(input_ids=given["input_ids"]).last_hidden_state[0].mean(dim=0).numpy()
        assert np.abs(found[row] - expected).max() <= 1e-5
        assert np.abs(found[row] - untyped).max() > 1e-3
