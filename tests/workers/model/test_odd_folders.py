"""Fifty folders with one odd file each: refused by the file's name, or the vectors are sentence-transformers' own.

Whatever else sentence-transformers refuses is refused here too, so that no folder gets vectors that nobody else makes of it.
COUNT may be raised: the fuzzer goes on.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.model_folders import WORDS
from tests.workers.models import build
from tests.workers.odd_folders import EDITS, FILES, odd_folder
from workers.errors import UsageError

pytestmark = pytest.mark.slow
COUNT = 50
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def sound(whole_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the fuzzer changes is there, with the keys that newer versions write."""
    folder = shutil.copytree(whole_folder, tmp_path_factory.mktemp("sound") / "model")
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    (folder / "sentence_bert_config.json").write_text(json.dumps({
        "max_seq_length": 40, "do_lower_case": False, "transformer_task": "feature-extraction",
        "modality_config": {"text": forward}, "module_output_name": "token_embeddings",
        "processing_kwargs": {"text": {"max_length": 40}}, "tokenizer_args": {"padding_side": "right"},
    }))  # fmt: skip
    (folder / "config_sentence_transformers.json").write_text(json.dumps({
        "__version__": {"sentence_transformers": "5.1.0"}, "model_type": "SentenceTransformer",
        "prompts": {"query": "query: ", "document": "text: "}, "default_prompt_name": None, "similarity_fn_name": "cosine",
    }))  # fmt: skip
    (folder / "2_Normalize").mkdir()
    (folder / "2_Normalize/config.json").write_text(json.dumps({"module_input_name": "sentence_embedding"}))
    specials = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "PAD", "UNK", "MASK")}
    stored = {"tokenizer_class": "BertTokenizer", "model_max_length": 128, "do_lower_case": True, "strip_accents": None,
              "tokenize_chinese_chars": True, "padding_side": "right", "truncation_side": "right"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(stored | specials))
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "added_tokens.json").write_text(json.dumps({"[WORLD]": 600}))
    return folder


def theirs(folder: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | Exception:
    """sentence-transformers' vectors of documents, one text at a time; or what it refuses the folder with."""
    from sentence_transformers import SentenceTransformer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
            )
            return np.concatenate([np.asarray(model.encode_document([text], show_progress_bar=False)) for text in WORDS])
    except Exception as error:  # noqa: BLE001 - it raises whatever it happens upon
        return error


def ours(folder: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | str:
    """The vectors, or the message with which the folder is refused. Any other exception would be a traceback."""
    try:
        tokenizer, encoder = build(folder)
        return encoder.encode(tokenizer.tokenize(WORDS)).vectors
    except UsageError as refused:
        return str(refused)


@pytest.mark.parametrize("number", range(COUNT))
def test_an_odd_folder(sound: Path, tmp_path: Path, number: int) -> None:
    name = odd_folder(sound, tmp_path / "model", number)
    reference = theirs(tmp_path / "model")
    changed = json_difference(sound / name, tmp_path / "model" / name)
    vectors = ours(tmp_path / "model")
    if isinstance(vectors, str):
        assert name in vectors, f"{changed}: the file is not named"
        assert "\n" not in vectors
        return
    assert not isinstance(reference, Exception), f"{changed}: accepted, but sentence-transformers: {reference!r}"
    assert vectors.shape == reference.shape, changed
    assert np.abs(vectors - reference).max() <= TOLERANCE, changed


def json_difference(before: Path, after: Path) -> str:
    """A few characters around the first that differs."""
    old, new = (json.dumps(json.loads(before.read_text()))), after.read_text(errors="replace")
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return f"{after.name}: …{old[max(0, at - 40) : at + 40]}… -> …{new[max(0, at - 40) : at + 40]}…"


def test_every_file_is_among_them() -> None:
    assert {FILES[number % len(FILES)] for number in range(len(EDITS), COUNT)} == set(FILES)
