"""The tokenizer that transformers' AutoTokenizer makes of a model's files, taken out of transformers.

    convert_alone  the same of tokenizer.json alone, as the libraries of static models read it
    convert     folder -> Conversion: the tokenizer as JSON of the `tokenizers` library, its settings, and tokens of proof

AutoTokenizer reads a dozen files and classes of its own; nothing here imitates it. `convert` runs in a process of its own
(tokenizer_files.py): importing transformers takes a second and more, and damaged files can end the process. torch is not
imported there. A tokenizer in Python, or one that does more than its `tokenizers` part, is refused: the proof shows it.

If the files cannot be used, the odd one is found by leaving out one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from workers.errors import UsageError, one_line
from workers.model.golden import GOLDEN_TEXTS
from workers.model.module_list import read_json

PROOF_TOKENS = 24  # to which the long text of the proof is truncated
ADDED_TOKENS = 100  # that have a text of their own in the proof
LONG_TEXT = " ".join(f"{text}{gap}" for text, gap in zip(GOLDEN_TEXTS, ("\n", "  ", "\t", "\n\n ", " ") * 6, strict=False))
PROOF_TEXTS = (
    *GOLDEN_TEXTS,
    LONG_TEXT,
    "", " ", "a", "Z", ".", "  two  spaces\tand a tab\r\nand lines\n\n", "ÀÉÎÕÜ àéîõü ÇŁØ ß İ \u0131 ŒUVRE",
    "E\u0301te\u0301 a\u0308 o\u0308", "[CLS] a [SEP]b[PAD] [MASK] [UNK]", "<s> a </s>b<pad> <mask> <unk> <|endoftext|>",
    "\x00\x01 control \x7f \ufffd \u00ad \u200b", "don't can't I'm we'll o'clock", "1234567890 12,345.67 1e-9",
    "▁under▁score Ġbyte ##piece </w> @@ ", "\uff26\uff35\uff2c \uff57ide ﬁ ½ ²", "中文字 かな 한국어 ไทย हिन्दी",
    "🙂🙂 👩🏽\u200d🚀 🇩🇪", "x" * 150,
)  # fmt: skip
_ODD_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "config.json")


@dataclass(frozen=True, slots=True)
class Conversion:
    """A tokenizer, complete: nothing else is needed to use it."""

    tokenizer: str  # JSON of the `tokenizers` library, without truncation and padding
    kind: str  # class of transformers
    truncation_side: str  # the side on which tokens are cut off: right | left
    split_special_tokens: bool  # special tokens written in a text are ordinary characters
    max_tokens: int | None  # model_max_length; None: no limit
    special_tokens: int  # put around every text
    unlike: str  # "": version 0.1 of reembed made the same tokens of these files; else a digest of this tokenizer
    texts: tuple[str, ...]  # of the proof
    tokens: tuple[tuple[int, ...], ...]  # that transformers makes of each, special tokens included
    truncated: tuple[int, ...]  # and of LONG_TEXT, truncated to PROOF_TOKENS


def convert(
    folder: Path, options: Mapping[str, Any], lower_case: bool, special: bool, markers: tuple[str, ...] = ()
) -> Conversion:
    """Load and prove the tokenizer in `folder`.

    Args:
        options: arguments of AutoTokenizer.from_pretrained, from the model's files.
        lower_case: convert texts to lower case first, if the tokenizer does not (sentence-transformers' do_lower_case).
        special: put special tokens around texts.
        markers: tokens of the vocabulary that are read as one token wherever they stand in a text.

    Raises:
        UsageError: the files cannot be used; names the odd one.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # seconds of import; tokenizers do not need it
    if (folder / "tokenizer.json").is_file():
        _read(folder / "tokenizer.json")
    try:
        return _convert(folder, options, lower_case, special, markers)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the two libraries raise on odd files
        reason = f"{type(error).__name__}: {one_line(error)}"
    if options and _loads(folder, {}, lower_case, special):
        raise UsageError(
            f"{folder}: sentence_bert_config.json: processor_kwargs {dict(options)!r} cannot be used ({reason})"
        )
    odd = _odd_file(folder, options, lower_case, special)
    if odd is not None:
        raise UsageError(f"{folder / odd}: the tokenizer cannot be loaded with it ({reason}); fetch the model again")
    there = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model")))
    raise UsageError(
        f"{folder}: its tokenizer cannot be used ({reason}); its files are {there}. A tokenizer that transformers runs in "
        "Python is not supported: save the model with a fast one (AutoTokenizer.save_pretrained)"
    )


def convert_alone(folder: Path) -> Conversion:
    """tokenizer.json by the `tokenizers` library, without special tokens; its truncation is told, not done.

    Raises: UsageError: the file cannot be used.
    """
    made = _read(folder / "tokenizer.json")
    limit: dict[str, Any] = made.truncation or {}
    side = str(limit.get("direction", "right"))
    made.no_padding()
    made.enable_truncation(PROOF_TOKENS, direction=side)
    plain = made.encode(LONG_TEXT, add_special_tokens=False).ids
    made.no_truncation()
    texts, text = (*PROOF_TEXTS, *_texts_with_added(made)), made.to_str()
    tokens = tuple(tuple(encoding.ids) for encoding in made.encode_batch(list(texts), add_special_tokens=False))
    return Conversion(
        tokenizer=text,
        kind="tokenizer.json",
        truncation_side=side,
        split_special_tokens=False,
        max_tokens=limit.get("max_length"),
        special_tokens=0,
        unlike=hashlib.sha256(f"{text}\0{tokens}\0{side}".encode()).hexdigest()[:32],
        texts=texts,
        tokens=tokens,
        truncated=tuple(plain),
    )


def _convert(
    folder: Path, options: Mapping[str, Any], lower_case: bool, special: bool, markers: tuple[str, ...] = ()
) -> Conversion:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    backend = getattr(made, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(f"{type(made).__name__} runs in Python")
    _register(made, markers)
    if lower_case:
        _lower(backend)
    limit = _limit(made.model_max_length)
    texts = (*PROOF_TEXTS, *_texts_with_added(backend))
    tokens = tuple(tuple(made(text, add_special_tokens=special)["input_ids"]) for text in texts)
    plain = made(LONG_TEXT, add_special_tokens=special, truncation=True, max_length=PROOF_TOKENS)["input_ids"]
    backend.no_truncation()
    backend.no_padding()
    text, side = backend.to_str(), str(made.truncation_side)
    _check_kind(folder, text, type(made).__name__)
    mine = Tokenizer.from_str(text)
    mine.encode_special_tokens = bool(made.split_special_tokens)
    for number, encoding in enumerate(mine.encode_batch_fast(list(texts), add_special_tokens=special)):
        if tuple(encoding.ids) != tokens[number]:
            raise ValueError(f"{type(made).__name__} makes other tokens of {texts[number][:40]!r} than its fast part")
    digest = hashlib.sha256(f"{text}\0{tokens}\0{side}".encode()).hexdigest()[:32]
    return Conversion(
        tokenizer=text,
        kind=type(made).__name__,
        truncation_side=side,
        split_special_tokens=bool(made.split_special_tokens),
        max_tokens=limit,
        special_tokens=mine.num_special_tokens_to_add(False) if special else 0,
        unlike="" if special and _earlier_tokens(folder, lower_case, texts) == tokens and side == "right" else digest,
        texts=texts,
        tokens=tokens,
        truncated=tuple(plain),
    )


def _register(made: Any, markers: tuple[str, ...]) -> None:
    """As sentence-transformers' MultiVectorEncoder does, so that a marker before a text is the token it was trained with.

    A marker is taken with the space behind it where the vocabulary has it so; one that it has not at all is left as text.
    """
    from transformers import AddedToken

    added, vocabulary = set(made.added_tokens_encoder), made.get_vocab()
    unread = []
    for marker in markers:
        known = (name for name in (marker, marker.split(None, 1)[0]) if name in added or name in vocabulary)
        name = next(known, None)
        if name is not None and made.tokenize(name) != [name]:
            unread.append(AddedToken(name, normalized=False, special=True))
    if unread:
        made.add_special_tokens({"additional_special_tokens": unread})


def _limit(stored: Any) -> int | None:
    """Tokenizers without a limit have 1e30 in their files."""
    if not isinstance(stored, int | float) or isinstance(stored, bool) or not stored >= 1:
        raise ValueError(f"model_max_length must be a number of tokens, not {stored!r}")
    return int(stored) if stored < 1_000_000 else None


def _lower(tokenizer: Tokenizer) -> None:
    """As sentence-transformers does: unless the normaliser has a Lowercase of its own."""
    old: Any = tokenizer.normalizer
    parts = list(cast("Any", old)) if isinstance(old, NormalizerSequence) else [old] if old is not None else []
    if not any(isinstance(part, Lowercase) for part in parts):
        tokenizer.normalizer = NormalizerSequence([Lowercase(), *parts])


def _texts_with_added(tokenizer: Tokenizer) -> Iterator[str]:
    added = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    for content in (*added[:ADDED_TOKENS], *added[ADDED_TOKENS:][-ADDED_TOKENS:]):
        yield f"{content} a {content}b {content.upper()}"


def _check_kind(folder: Path, made: str, name: str) -> None:
    """The class must be of the kind of tokenizer.json: BertTokenizer makes WordPiece of any vocabulary."""
    if not (folder / "tokenizer.json").is_file():
        return
    stored = read_json(folder / "tokenizer.json").get("model", {}).get("type")
    kind = json.loads(made)["model"].get("type")
    if stored is not None and stored != kind:
        raise UsageError(
            f"{folder / 'tokenizer_config.json'}: tokenizer_class: transformers makes {name} ({kind}) of tokenizer.json "
            f"({stored}); name the class that it belongs to, or PreTrainedTokenizerFast"
        )


def _earlier_tokens(folder: Path, lower_case: bool, texts: tuple[str, ...]) -> tuple[tuple[int, ...], ...] | None:
    """What reembed 0.1 made of the texts: tokenizer.json, and tokenizer_config.json as if it were always BERT's.

    None where it could not. It decides whether vectors of that version are still those of this tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = _read(folder / "tokenizer.json")
        else:
            made = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
            tokenizer = Tokenizer.from_str(made.backend_tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        normalizer, path = tokenizer.normalizer, folder / "tokenizer_config.json"
        if path.is_file() and isinstance(normalizer, BertNormalizer):
            config = read_json(path)
            for key, attribute in (("do_lower_case", "lowercase"), ("strip_accents", "strip_accents"),
                                   ("tokenize_chinese_chars", "handle_chinese_chars")):  # fmt: skip
                if key in config:
                    setattr(normalizer, attribute, config[key])
        if lower_case:
            tokenizer.normalizer = NormalizerSequence([Lowercase()] if normalizer is None else [Lowercase(), normalizer])
        return tuple(tuple(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts)))
    except Exception:  # noqa: BLE001 - it has no vectors of such a model
        return None


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the Rust library raises bare Exception
        raise UsageError(
            f"{path}: not a tokenizer this version of `tokenizers` can read ({error}); fetch the model again"
        ) from None


def _loads(folder: Path, options: Mapping[str, Any], lower_case: bool, special: bool) -> bool:
    try:
        _convert(folder, options, lower_case, special)
    except Exception:  # noqa: BLE001 - see convert()
        return False
    return True


def _odd_file(folder: Path, options: Mapping[str, Any], lower_case: bool, special: bool) -> str | None:
    """The file without which the tokenizer can be loaded."""
    for odd in _ODD_FILES:
        if (folder / odd).is_file():
            with tempfile.TemporaryDirectory(prefix="reembed-tokenizer-") as copy:
                for path in folder.iterdir():
                    if path.is_file() and path.name != odd and path.suffix != ".safetensors":
                        (Path(copy) / path.name).symlink_to(path.resolve())
                if _loads(Path(copy), options, lower_case, special):
                    return odd
    return None
