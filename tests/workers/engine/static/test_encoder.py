"""Means of stored vectors against the libraries that wrote the folders: model2vec and sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.workers.models import TEXTS, copy_model, edit_json, layout, write_modules
from tests.workers.static_models import (
    DIM,
    build_static,
    model2vec_folder,
    random_table,
    small_tokenizer,
    static_embedding_folder,
)
from workers.config import ModelConfig
from workers.engine.cells import Cell
from workers.engine.static.encoder import NOTHING_COUNTS, StaticEncoder
from workers.engine.static.table import TokenTable
from workers.errors import ReplicaError, UsageError
from workers.model.recipes.read import check_inputs

TOLERANCE = 1e-5
MORE = [*TEXTS, "", " ", "[UNK] [CLS] snow [SEP]", "snow " * 700, "x" * 3000 + " boats in the harbour", "a  b\t\n" * 40]


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    return small_tokenizer(minilm)


def by_model2vec(folder: Path, texts: list[str], **options: Any) -> NDArray[np.float32]:
    from model2vec import StaticModel

    found: NDArray[np.float32] = StaticModel.from_pretrained(folder).encode(texts, **options)
    return found


def by_sentence_transformers(folder: Path, texts: list[str], call: str = "encode", **options: Any) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer

    found: NDArray[np.float32] = getattr(SentenceTransformer(str(folder), device="cpu", **options), call)(texts)
    return found


def agree(folder: Path, expected: NDArray[np.float32], texts: list[str] = MORE, **settings: Any) -> None:
    """Ours equal theirs; where ours is refused, theirs is zeros, which the product quarantines."""
    read, encoder = build_static(folder, **settings)
    encoded = encoder.encode(read.tokenize(texts))
    refused = list(encoded.refused)
    assert len(refused) < len(texts) - 5
    assert np.isnan(encoded.vectors[refused]).all()
    assert not expected[refused].any()
    rest = np.delete(np.arange(len(texts)), refused)
    assert np.abs(encoded.vectors[rest] - expected[rest]).max() <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": True}, {"max_length": 5}, {"max_length": None}, {"normalize": True, "weights": True}],
    ids=["plain", "unit length", "truncated", "unlimited", "weights"],
)
def test_equal_to_model2vec(tokenizer: Tokenizer, tmp_path: Path, options: dict[str, Any]) -> None:
    if "weights" in options:
        options |= {"weights": np.random.default_rng(1).random(tokenizer.get_vocab_size())}  # float64, as it may be
    folder = model2vec_folder(tokenizer, tmp_path / "model", **options)
    expected = by_model2vec(folder, MORE)
    agree(folder, expected)
    assert not expected[MORE.index("")].any(), "no text: zeros, there"


@pytest.mark.slow
def test_a_quantised_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Fewer rows than tokens: mapping and weights, as quantize_vocabulary stores them."""
    from model2vec.vocabulary_quantization import quantize_vocabulary

    rows, mapping, weights = quantize_vocabulary(64, None, random_table(tokenizer.get_vocab_size()))
    assert len(rows) == 64
    folder = model2vec_folder(tokenizer, tmp_path / "model", rows, weights=weights, token_mapping=mapping, normalize=True)
    agree(folder, by_model2vec(folder, MORE))


@pytest.mark.parametrize(("kind", "tolerance"), [("float16", 2e-3), ("float64", 1e-6), ("int8", 1e-4)])
def test_tables_of_other_number_formats(tokenizer: Tokenizer, tmp_path: Path, kind: str, tolerance: float) -> None:
    """model2vec rounds the vector to float16 where the table is so; the product keeps float32."""
    from model2vec.quantization import quantize_and_reduce_dim

    table = quantize_and_reduce_dim(random_table(tokenizer.get_vocab_size()), kind, None)
    folder = model2vec_folder(tokenizer, tmp_path / "model", table)
    expected = by_model2vec(folder, TEXTS[1:7])
    read, encoder = build_static(folder)
    assert np.abs(encoder.encode(read.tokenize(TEXTS[1:7])).vectors - expected).max() <= tolerance


@pytest.mark.slow
def test_tokenizers_of_other_kinds(tmp_path: Path) -> None:
    """Words with an unknown token; Unigram, whose unknown token has a number; BPE without one."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "snow": 1, "boats": 2, "harbour": 3}, unk_token="[UNK]"))
    unigram = Tokenizer(models.Unigram([("snow", -1.0), ("<unk>", -2.0), ("boats", -1.0), ("h", -4.0)], unk_id=1))
    letters = Tokenizer(models.BPE({letter: number for number, letter in enumerate("snowbat")}, []))
    texts = ["snow boats", "boats moor in harbour snow", "snow snow snow", "snow boats", "harbour snow", "zzz", "snow"]
    for name, tokenizer in (("words", words), ("unigram", unigram), ("letters", letters)):
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        folder = model2vec_folder(tokenizer, tmp_path / name)
        agree(folder, by_model2vec(folder, texts), texts)


@pytest.mark.slow
def test_equal_to_sentence_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The unknown token counts there; nothing is truncated unless tokenizer.json says so."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    texts = [text for text in MORE if text.strip() and text != "\x00\x01\x02"]
    for name, after in (("alone", ()), ("unit", (Normalize(),)), ("dense", (Dense(DIM, 7), Normalize()))):
        folder = static_embedding_folder(tokenizer, tmp_path / name, *after)
        agree(folder, by_sentence_transformers(folder, texts), texts)
    for side in ("right", "left"):
        short = Tokenizer.from_str(tokenizer.to_str())
        short.enable_truncation(6, direction=side)
        folder = static_embedding_folder(short, tmp_path / side, Normalize())
        agree(folder, by_sentence_transformers(folder, texts), texts)
        assert layout(folder)[1].max_tokens == 6


@pytest.mark.slow
def test_folders_of_earlier_versions(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """0_StaticEmbedding, as sentence-transformers 3 to 5 wrote it; model2vec without max_length and modules.json."""
    folder = static_embedding_folder(tokenizer, tmp_path / "new")
    (folder / "0_StaticEmbedding").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_StaticEmbedding" / name)
    write_modules(folder, ("sentence_transformers.models.StaticEmbedding", "0_StaticEmbedding"))
    agree(folder, by_sentence_transformers(folder, TEXTS[:7]), TEXTS[:7])
    old = model2vec_folder(tokenizer, tmp_path / "old")
    edit_json(old / "config.json", max_length=None)  # the key is removed
    (old / "modules.json").unlink()
    texts = [*MORE, "the boats in the harbour " * 200]
    agree(old, by_model2vec(old, texts), texts)
    assert layout(old)[1].max_tokens == 512


@pytest.mark.slow
def test_settings_and_prompts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Fewer components as model2vec's `dimensionality`, another longest input as its max_length; prompts."""
    from model2vec import StaticModel

    folder = model2vec_folder(tokenizer, tmp_path / "model", normalize=True)
    agree(folder, StaticModel.from_pretrained(folder, dimensionality=9).encode(MORE), truncate_dim=9)
    agree(folder, by_model2vec(folder, MORE, max_length=7), max_tokens=7)
    agree(folder, by_model2vec(folder, MORE, normalize=False), normalize=False)
    agree(folder, by_model2vec(folder, ["find: " + text for text in MORE]), prompt="find: ")
    prompts = {"document": "text: ", "query": "find: "}
    named = static_embedding_folder(tokenizer, tmp_path / "prompts", prompts=prompts, truncate_dim=8)
    texts = TEXTS[:7]
    agree(named, by_sentence_transformers(named, texts, "encode_document"), texts)
    agree(named, by_sentence_transformers(named, texts, "encode_query"), texts, prompt="find: ")


@pytest.mark.slow
def test_a_router_whose_documents_go_to_a_table(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding

    first = StaticEmbedding(Tokenizer.from_str(tokenizer.to_str()), random_table(tokenizer.get_vocab_size()))
    router = Router.for_query_document(query_modules=[first], document_modules=[first])
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(tmp_path / "model"))
    agree(tmp_path / "model", by_sentence_transformers(tmp_path / "model", TEXTS[:7], "encode_document"), TEXTS[:7])


def test_chunks_and_their_means(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A chunk has the mean of its tokens; the mean of chunks is weighted by tokens."""
    from model2vec import StaticModel

    folder = model2vec_folder(tokenizer, tmp_path / "model")
    text = TEXTS[6]
    settings = {"max_tokens": 40, "chunk_overlap": 0}
    read, encoder = build_static(folder, long_text="chunks", **settings)
    tokens = read.tokenize([text])
    vectors = encoder.encode(tokens).vectors
    table, unknown = StaticModel.from_pretrained(folder).embedding, tokenizer.token_to_id("[UNK]")
    assert len(vectors) > 5
    for ids, vector in zip(np.split(tokens.input_ids, tokens.offsets[1:-1]), vectors, strict=True):
        assert np.abs(vector - table[ids[ids != unknown]].mean(axis=0)).max() <= TOLERANCE
    read, encoder = build_static(folder, long_text="mean_of_chunks", **settings)
    whole = encoder.encode(read.tokenize([text])).vectors[0]
    mean = np.average(vectors, axis=0, weights=tokens.lengths)
    assert np.abs(whole - mean).max() <= TOLERANCE


def test_a_vector_depends_on_its_text_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Bit for bit, beside other texts, in another order, and behind a text that is refused."""
    read, encoder = build_static(model2vec_folder(tokenizer, tmp_path / "model", normalize=True))
    once = encoder.encode(read.tokenize(MORE)).vectors
    back = encoder.encode(read.tokenize(MORE[::-1])).vectors[::-1]
    alone = np.concatenate([encoder.encode(read.tokenize([text])).vectors for text in MORE])
    for other in (back, alone):
        assert np.array_equal(once.view(np.int32), np.ascontiguousarray(other).view(np.int32))


def test_sequences_without_a_vector(tokenizer: Tokenizer, tmp_path: Path) -> None:
    read, encoder = build_static(model2vec_folder(tokenizer, tmp_path / "model"))
    tokens = read.tokenize(["snow", "", TEXTS[8], "the boats", "the snow"])
    tokens.input_ids[tokens.offsets[3]] = 60_000
    encoded = encoder.encode(tokens)
    assert encoded.refused[1] == NOTHING_COUNTS
    assert encoded.refused[2] == NOTHING_COUNTS
    assert "gives id 60000" in encoded.refused[3]
    assert set(encoded.refused) - {0} == {1, 2, 3}
    assert np.isnan(encoded.vectors[[1, 2, 3]]).all()
    assert np.isfinite(encoded.vectors[4]).all()
    assert encoder.encode(read.tokenize([])).vectors.shape == (0, DIM)


def test_damaged_tables_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    table = random_table(tokenizer.get_vocab_size())
    table[3, 1] = np.nan
    with pytest.raises(UsageError, match=r"model\.safetensors holds NaN or Inf"):
        build_static(model2vec_folder(tokenizer, tmp_path / "nan", table))
    far = np.full(tokenizer.get_vocab_size(), 99)
    with pytest.raises(UsageError, match=r"mapping names rows that are not there"):
        build_static(model2vec_folder(tokenizer, tmp_path / "far", np.zeros((9, DIM), np.float32), token_mapping=far))
    short = copy_model(static_embedding_folder(tokenizer, tmp_path / "whole"), tmp_path / "short")
    bigger = json.loads((short / "tokenizer.json").read_text())
    bigger["model"]["vocab"]["onemoreword"] = len(bigger["model"]["vocab"])
    (short / "tokenizer.json").write_text(json.dumps(bigger))
    files, recipe = layout(short)
    with pytest.raises(UsageError, match=r"its tokenizer gives ids up to \d+, its table has vectors for"):
        check_inputs(files, recipe, len(bigger["model"]["vocab"]) - 1)


def test_a_machine_that_computes_wrongly_is_noticed(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model2vec_folder(tokenizer, tmp_path / "model")
    means = TokenTable.means
    monkeypatch.setattr(TokenTable, "means", lambda self, ids, lengths: means(self, ids, lengths) * 1.0001)
    with pytest.raises(ReplicaError, match=r"means of the golden texts differ by 1\.\de-04"):
        build_static(folder)


def test_a_static_model_has_no_layers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    read, encoder = build_static(model2vec_folder(tokenizer, tmp_path / "model"))
    assert encoder.layers is None
    with pytest.raises(UsageError, match=r"a static model has no layers"):
        encoder.encode_cells(read.tokenize(["snow"]), [Cell(1, ModelConfig().pooling)])
    assert isinstance(encoder, StaticEncoder)
