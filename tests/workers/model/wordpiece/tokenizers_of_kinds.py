"""WordPiece tokenizers of several kinds, by `tokenizers`, and the comparison of the compiled one with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.workers.models import PASSAGE, TEXTS
from workers.model.golden import GOLDEN_TEXTS
from workers.model.wordpiece.definition import Definition, definition_of
from workers.model.wordpiece.library import Vocabulary, library

try:
    library()
    built = True
except OSError:
    built = False
needs_library = pytest.mark.skipif(not built, reason="this checkout was installed without a C compiler")

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = (
    "Müßiggang ist aller Laster Anfang, sagte der Großvater und öffnete die Tür zum Übungsraum.",
    "Die Bibliothek stellt Funktionen bereit, mit denen Anwendungen komprimierte Archive lesen können.",
    "L'élève a reçu où naïf forêt çà et là; cœur, sœur, œuvre. Déjà-vu à l'hôtel.",
    "Эта библиотека содержит функции для чтения сжатых файлов; ёлка, Йод, объём.",
    "これはアーカイブを読み書きするためのライブラリです。ガギグゲゴ、ﾊﾟﾋﾟﾌﾟ。",
    "这个软件包提供读取和写入压缩文件的函数库。繁體中文也可以使用。",
    "이 라이브러리는 압축 파일을 읽고 쓰기 위한 함수를 제공합니다.",
    "यह पुस्तकालय संपीड़ित फ़ाइलें पढ़ता है। ไทยภาษาไม่มีช่องว่าง",
    "Tiếng Việt có nhiều dấu thanh: ắ ằ ẳ ẵ ặ ấ ầ ẩ ẫ ậ. İstanbul \u0131ş\u0131k ŞĞÇ",
    "שָׁלוֹם עוֹלָם، مَرْحَبًا بِالعَالَم.",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5, \u039f\u0394\u039f\u03a3 \u1f40\u03b4\u03cc\u03c2",
)  # fmt: skip
CORPUS = (*SENTENCES, *TEXTS, *GOLDEN_TEXTS, PASSAGE.upper(), PASSAGE.title())
KINDS: dict[str, dict[str, Any]] = {
    "uncased": {"lowercase": True},
    "cased": {"lowercase": False},
    "cased, accents stripped": {"lowercase": False, "strip_accents": True},
    "uncased, accents kept": {"lowercase": True, "strip_accents": False},
    "neither cleaned nor Chinese": {"lowercase": True, "clean_text": False, "handle_chinese_chars": False},
    "cased, as it is": {"lowercase": False, "clean_text": False, "handle_chinese_chars": False},
}
LOWERED_FIRST = "lowered first"  # as sentence-transformers' do_lower_case


@cache
def trained(kind: str, size: int = 1500) -> Tokenizer:
    """A small vocabulary of many languages, with the letters of all."""
    return train(kind, CORPUS, size)


def train(kind: str, corpus: Sequence[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    if kind == LOWERED_FIRST:
        bert = normalizers.BertNormalizer(lowercase=False, strip_accents=True)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), bert])
    else:
        tokenizer.normalizer = normalizers.BertNormalizer(**KINDS[kind])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    """The same with parts of its JSON replaced; `model` is merged."""
    value = json.loads(tokenizer.to_str())
    model = value["model"] | parts.pop("model", {})
    return Tokenizer.from_str(json.dumps(value | parts | {"model": model}))


def compiled(tokenizer: Tokenizer, threads: int = 1) -> Vocabulary:
    definition = definition_of(tokenizer.to_str())
    assert isinstance(definition, Definition), definition
    return Vocabulary(definition, threads)


def assert_same(
    tokenizer: Tokenizer, texts: Sequence[str], room: int | None = None, *, spans: bool = False, most_odd: int = 0
) -> None:
    """Ids, truncation and places in the text are those of `tokenizers`, in every text but `most_odd` at most."""
    vocabulary, nothing = compiled(tokenizer), np.empty(0, np.int32)
    mine = vocabulary.encode(pa.array(texts, pa.large_string()), room, before=nothing, after=nothing, spans=spans)
    encode = tokenizer.encode_batch if spans else tokenizer.encode_batch_fast
    assert len(mine.odd) <= most_odd
    odd, start, unlike = set(mine.odd.tolist()), 0, []
    for number, (theirs, end) in enumerate(
        zip(encode(list(texts), add_special_tokens=False), mine.ends.tolist(), strict=True)
    ):
        same = mine.ids[start:end].tolist() == theirs.ids[:room]
        same = same and bool(mine.truncated[number]) == (room is not None and len(theirs.ids) > room)
        if spans:
            same = same and list(map(tuple, mine.spans[start:end].tolist())) == theirs.offsets[:room]
        if not same and number not in odd:
            unlike.append(texts[number])
        start = end
    assert unlike == []
