"""Tokens equal those of transformers; truncation, chunks and offsets are exact; huge texts cost little time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.workers.models import PASSAGE, TEXTS, copy_model, edit_json, layout
from workers.errors import UsageError
from workers.model import tokenizer as tokenizer_module
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import TokenizedTexts

CORPUS = [
    PASSAGE,
    *TEXTS,
    "Ünïcödé tokens, 12,345.67 numbers\tand\n\nblank  lines.",
    "print('hello')  # comment\n    return x",
] * 3
LONG = (
    "".join(f"{PASSAGE}\n\n  {text}\t{text.upper()}   " for text in TEXTS) * 4
)  # runs of every kind of white space, scripts side by side


def make(folder: Path, **settings: Any) -> TextTokenizer:
    files, recipe = layout(folder, **settings)
    return TextTokenizer(files.folder, recipe)


def sequences(tokens: TokenizedTexts) -> list[list[int]]:
    return [
        tokens.input_ids[start:stop].tolist() for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]


def bpe(*, trim: bool) -> Tokenizer:
    """As RoBERTa: byte-level BPE."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False, trim_offsets=trim
    )
    return tokenizer


def unigram() -> Tokenizer:
    """As XLM-R and ALBERT: unigram over text whose spaces became ▁."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=500, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


@pytest.fixture(scope="module")
def folders(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """MiniLM, and MiniLM with other tokenizers (its weights are not touched here)."""
    made = {"wordpiece": minilm}
    for name, tokenizer in {"bpe": bpe(trim=False), "bpe_trim": bpe(trim=True), "unigram": unigram()}.items():
        folder = copy_model(minilm, tmp_path_factory.mktemp(name) / "model")
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.txt").unlink()
        stored = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
        (folder / "tokenizer_config.json").write_text(json.dumps(stored))
        made[name] = folder
    return made


def theirs(folder: Path) -> Any:
    """transformers' tokenizer of the same files."""
    if (folder / "vocab.txt").exists():
        return AutoTokenizer.from_pretrained(folder)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


FAMILIES = ["wordpiece", "bpe", "bpe_trim", "unigram"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_truncation_as_in_transformers(folders: dict[str, Path], family: str, prompt: str) -> None:
    sparse = "a" + " " * 100  # a clip of these holds fewer tokens than there is room for
    texts = [*TEXTS, LONG, LONG[::-1], " " * 9000 + "end", sparse * 20, sparse * 60]
    tokens = make(folders[family], max_tokens=40, prompt=prompt).tokenize(texts)
    reference = theirs(folders[family])
    assert sequences(tokens) == [reference(prompt + text, truncation=True, max_length=40)["input_ids"] for text in texts]
    assert tokens.truncated.tolist() == [len(reference(prompt + text)["input_ids"]) > 40 for text in texts]
    assert tokens.num_tokens.tolist() == tokens.lengths.tolist()
    assert 0 < tokens.truncated.sum() < len(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_of_a_giant_text_join_without_a_seam(
    folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "PIECE_CHARACTERS", 37)
    monkeypatch.setattr(tokenizer_module, "GROUP_CHARACTERS", 5000)
    texts = [LONG, *TEXTS, LONG[7:]]
    tokens = make(folders[family], max_tokens=50, long_text="chunks", chunk_overlap=0).tokenize(texts)
    assert tokens.chunk_start is not None
    assert tokens.chunk_end is not None
    reference = theirs(folders[family])
    for row, text in enumerate(texts):
        whole = reference(text, add_special_tokens=False, return_offsets_mapping=True)
        mine = tokens.document == row
        joined = [token for number, ids in enumerate(sequences(tokens)) if mine[number] for token in ids[1:-1]]
        assert joined == whole["input_ids"]
        spans = whole["offset_mapping"] or [(0, 0)]
        assert tokens.chunk_start[mine].tolist() == [spans[index][0] for index in range(0, len(spans), 48)]
        ends = []  # each chunk reaches over the accents and control characters behind it, which are no tokens
        for index in range(0, len(spans), 48):
            last, after = spans[index : index + 48][-1][1], spans[index + 48 : index + 49]
            ends.append(last + len(text[last : after[0][0] if after else len(text)].rstrip()))
        assert tokens.chunk_end[mine].tolist() == ends


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_overlap_and_cover(folders: dict[str, Path], family: str) -> None:
    tokens = make(folders[family], max_tokens=32, long_text="chunks", chunk_overlap=10).tokenize(TEXTS)
    reference = theirs(folders[family])
    assert not tokens.truncated.any()
    for row, text in enumerate(TEXTS):
        content = reference(text, add_special_tokens=False)["input_ids"]
        chunks = [ids for number, ids in enumerate(sequences(tokens)) if tokens.document[number] == row]
        assert all(len(ids) <= 32 for ids in chunks)
        rebuilt = chunks[0][1:-1]
        for before, after in pairwise(chunks):
            assert before[-11:-1] == after[1:11]
            assert len(after) > 12, "a chunk that adds nothing"
            rebuilt += after[11:-1]
        assert rebuilt == content
        assert tokens.num_tokens[row] == sum(map(len, chunks))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["", "passage: "])
@pytest.mark.parametrize("long_text", ["chunks", "late_chunks"])
def test_chunks_are_whole_sentences(folders: dict[str, Path], family: str, prompt: str, long_text: str) -> None:
    """Of any tokenizer: `text[chunk_start:chunk_end]` is as many whole sentences as fit, without white space around them."""
    wanted = ["It froze in Jan.\nNothing moved!", "Für elf Tage\u00a0nicht.", "Why? 👩🏽\u200d🚀 Nobody knew.", "  Ende"]
    text = " \n".join(f"{sentence}\n" for sentence in wanted)
    settings = {"max_tokens": 100, "long_text": long_text, "chunk_by": "sentences", "chunk_overlap": 0, "prompt": prompt}
    whole = theirs(folders[family])
    size = max(len(whole(sentence, add_special_tokens=False)["input_ids"]) for sentence in wanted) + 1
    tokens = make(folders[family], chunk_tokens=size, **settings).tokenize([text, "short"])
    assert tokens.chunk_start is not None
    assert tokens.chunk_end is not None
    spans = zip(tokens.row_document, tokens.chunk_start, tokens.chunk_end, strict=True)
    found = [text[start:end] for document, start, end in spans if document == 0]
    assert "".join("".join(chunk.split()) for chunk in found) == "".join(text.split())
    borders = {"".join(sentence.split())[-4:] for sentence in wanted} | {"Why?"}
    for chunk in found:
        assert chunk == chunk.strip()
        assert "".join(chunk.split())[-4:] in borders, "a chunk that ends within a sentence"
        assert len(whole(chunk, add_special_tokens=False)["input_ids"]) <= size
    assert len(found) >= 3


def test_exactly_full_is_one_chunk_and_not_truncated(minilm: Path) -> None:
    for long_text in ("truncate", "chunks"):
        tokens = make(minilm, max_tokens=12, long_text=long_text, chunk_overlap=4).tokenize(["snow " * 10, "snow " * 11])
        assert tokens.truncated.tolist() == [False, long_text == "truncate"]
        assert tokens.lengths.tolist() == ([12, 12] if long_text == "truncate" else [12, 12, 7])


def test_offsets_leave_the_prompt_out(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        tokens = make(folder, max_tokens=32, long_text="chunks", chunk_overlap=4, prompt="passage: ").tokenize(
            [PASSAGE, "x"]
        )
        assert tokens.chunk_start is not None
        assert tokens.chunk_end is not None
        assert tokens.chunk_start[0] == 0
        ends = tokens.chunk_end[tokens.document == 0]
        assert ends[-1] in (len(PASSAGE), len(PASSAGE.rstrip()))
        assert (np.diff(ends) > 0).all()
        assert (tokens.chunk_start[-1], tokens.chunk_end[-1]) == (0, 1)
        assert tokens.lengths.max() <= 32


def test_prompt_tokens_as_in_sentence_transformers(minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    prompt = "Represent the passage for retrieval: "
    counted = SentenceTransformer(str(minilm), device="cpu")[0].preprocess(["text"], prompt=prompt)["prompt_length"]
    assert make(minilm, prompt=prompt).tokenize(["text"]).prompt_tokens == counted
    assert make(minilm).tokenize(["text"]).prompt_tokens == 0


def test_a_text_without_tokens(minilm: Path) -> None:
    for settings in ({}, {"long_text": "chunks"}, {"long_text": "mean_of_chunks", "prompt": "p: "}):
        tokens = make(minilm, **settings).tokenize(["\x00\x01", "word"])
        assert len(tokens.document) == 2
        assert sequences(tokens)[0] == ([101, 102] if "prompt" not in settings else [101, 1052, 1024, 102])


def test_without_the_compiled_wordpiece_the_same_tokens(minilm: Path) -> None:
    files, recipe = layout(minilm, max_tokens=64)
    compiled, plain = (TextTokenizer(files.folder, recipe, threads) for threads in (1, 0))
    assert (compiled.compiled, plain.compiled) == (True, False)
    texts = ["word", PASSAGE, PASSAGE * 9, "\x00", "naïve 日本語"]
    assert sequences(plain.tokenize(texts)) == sequences(compiled.tokenize(texts))


def test_only_the_beginning_of_a_giant_text_is_read(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 MB truncated to 64 tokens: what reaches `tokenizers` is a page. The compiled WordPiece stops by itself."""
    tokenizer = make(minilm, max_tokens=64)
    monkeypatch.setattr(tokenizer, "_compiled", None)
    seen: list[int] = []

    class Watched:
        def __init__(self, inner: Tokenizer) -> None:
            self.inner = inner

        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
            seen.extend(map(len, texts))
            return self.inner.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(tokenizer, "_tokenizer", Watched(tokenizer._tokenizer))
    tokens = tokenizer.tokenize([PASSAGE * 24_000])
    assert tokens.truncated.tolist() == [True]
    assert tokens.lengths.tolist() == [64]
    assert sum(seen) < 2000


def test_strings(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        tokenizer = make(folder)
        ids = tokenizer.tokenize([TEXTS[2]]).input_ids
        assert tokenizer.strings(ids) == theirs(folder).convert_ids_to_tokens(ids.tolist())


def test_lower_case_of_the_layout(minilm: Path, tmp_path: Path) -> None:
    """sentence_bert_config.json asks for lower case, whatever the tokenizer does itself."""
    folder = copy_model(minilm, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    cased = make(folder).tokenize(["Snow SNOW"])
    assert 100 in cased.input_ids, "tokenizer_config.json did not reach the normaliser"
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    assert np.array_equal(make(folder).tokenize(["Snow SNOW"]).input_ids, make(minilm).tokenize(["snow snow"]).input_ids)


def test_without_tokenizer_json(minilm: Path, tmp_path: Path) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    assert np.array_equal(make(folder).tokenize(TEXTS).input_ids, make(minilm).tokenize(TEXTS).input_ids)


def test_damaged_tokenizer(minilm: Path, tmp_path: Path) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(UsageError, match=r"tokenizer.json: not a tokenizer.*fetch the model again"):
        make(folder)


def test_no_room_for_text(minilm: Path) -> None:
    with pytest.raises(UsageError, match=r"chunk_overlap=30: must be less than the 30 tokens"):
        make(minilm, max_tokens=32, long_text="chunks", chunk_overlap=30)
    make(minilm, max_tokens=32, long_text="chunks", chunk_overlap=29)
    make(minilm, max_tokens=32, chunk_overlap=64)  # truncating: overlap has no meaning
    with pytest.raises(UsageError, match=r"max_tokens=8: no room.*prompt of 7"):
        make(minilm, max_tokens=8, prompt="one two three four five six seven")


def test_one_recipe_serves_documents_and_queries(minilm: Path) -> None:
    files, recipe = layout(minilm, prompt="passage: ")
    query = TextTokenizer(files.folder, replace(recipe, prompt="query: "))
    assert query.strings(query.tokenize(["x"]).input_ids) == ["[CLS]", "query", ":", "x", "[SEP]"]


def test_no_torch(minilm: Path) -> None:
    """Tokenising costs no import of torch or transformers."""
    code = (
        "import sys; "
        "from workers.config import ModelConfig; from workers.model.files import resolve_model; "
        "from workers.model.recipes.read import read_recipe; from workers.model.tokenizer import TextTokenizer; "
        f"config = ModelConfig(name={str(minilm)!r}); files = resolve_model(config); "
        "TextTokenizer(files.folder, read_recipe(files, config)).tokenize(['x']); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
