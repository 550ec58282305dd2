"""Makes unicode_tables.h: what the `tokenizers` library does to every code point, asked of the library itself.

    python -m workers.model.wordpiece.make_tables        writes the header beside this file

Nothing is taken from Python's own Unicode data but representatives of the combining classes, whose order the library
confirms. `classify` and the two maps are also what the tests compare the C code with.

    unmarked    canonical decomposition without nonspacing marks (BertNormalizer, strip_accents)
    lower       lower case (BertNormalizer, lowercase)
    classes     dropped and white space (clean_text), Chinese (handle_chinese_chars), white space and punctuation of the
                BertPreTokenizer, nonspacing marks, combining classes
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

HEADER = Path(__file__).with_name("unicode_tables.h")
POINTS = tuple(point for point in range(0x110000) if not 0xD800 <= point < 0xE000)
_GROUP = 1 << 15  # code points asked for at once
_GUARD = "|"  # between them: no mapping touches it, none gives it
_LINE = 118  # characters
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic in wordpiece.c


def _groups(points: Sequence[int]) -> Iterable[Sequence[int]]:
    return (points[start : start + _GROUP] for start in range(0, len(points), _GROUP))


def _mapped(normalize: Callable[[str], str]) -> dict[int, tuple[int, ...]]:
    """Every code point that becomes something else -> what it becomes."""
    changed = {}
    for group in _groups([point for point in POINTS if chr(point) != _GUARD]):
        made = normalize(_GUARD.join(map(chr, group))).split(_GUARD)
        for point, text in zip(group, made, strict=True):
            if text != chr(point):
                changed[point] = tuple(map(ord, text))
    return changed


def bert(
    *, clean: bool = False, chinese: bool = False, strip: bool = False, lower: bool = False
) -> dict[int, tuple[int, ...]]:
    """What BertNormalizer makes of every code point that it changes, alone."""
    return _mapped(BertNormalizer(clean, chinese, strip, lower).normalize_str)


def pre_tokenized() -> tuple[set[int], set[int]]:
    """White space and punctuation of BertPreTokenizer: where `a?b` is cut, and what is a piece of its own."""
    space, isolated = set(), set()
    for group in _groups(POINTS):
        pieces = iter(BertPreTokenizer().pre_tokenize_str("".join(f"a{chr(point)}b\n" for point in group)))
        for point in group:
            if next(pieces)[0] == "a":
                if next(pieces)[0] == "b":
                    space.add(point)
                else:
                    isolated.add(point)
                    next(pieces)
    return space, isolated


def combining() -> dict[int, int]:
    """The rank of every code point's combining class among all classes, from 1; those of class 0 are left out."""
    normalize = NFD().normalize_str
    representatives: dict[int, int] = {}
    for point in POINTS:
        rank, text = (
            unicodedata.combining(chr(point)),
            f"a{chr(point)}\u0334",
        )  # of class 1: every other known mark moves back
        if rank and not unicodedata.decomposition(chr(point)) and (rank == 1 or normalize(text) != text):
            representatives.setdefault(rank, point)
    ladder = [chr(representatives[key]) for key in sorted(representatives)]
    if not all(normalize(f"a{later}{earlier}") == f"a{earlier}{later}" for earlier, later in pairwise(ladder)):
        raise ValueError("the classes' representatives are in another order")

    def moved(pattern: str) -> set[int]:
        found = set()
        for group in _groups([point for point in POINTS if point not in HANGUL and chr(point) != _GUARD]):
            made = normalize(_GUARD.join(pattern.replace("?", chr(point)) for point in group)).split(_GUARD)
            found |= {
                point for point, text in zip(group, made, strict=True)
                if text != pattern.replace("?", chr(point)) and normalize(chr(point)) == chr(point)
            }  # fmt: skip
        return found

    ranked = moved(f"a?{ladder[0]}") | moved(f"a{ladder[-1]}?") | {ord(ladder[0]), ord(ladder[-1])}
    return {
        point: sum(normalize(f"a{mark}{chr(point)}") == f"a{mark}{chr(point)}" for mark in ladder)
        for point in sorted(ranked)
    }


def _runs(points: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for point in sorted(points):
        if runs and runs[-1][1] == point - 1:
            runs[-1] = (runs[-1][0], point)
        else:
            runs.append((point, point))
    return runs


def _steps(singles: Mapping[int, int]) -> list[tuple[int, int, int, int]]:
    """(first, last, step, target of the first): sources and targets in equal steps, or one target for all (step 0)."""
    rows: list[tuple[int, int, int, int]] = []
    for source, target in sorted(singles.items()):
        if rows:
            first, last, step, begin = rows[-1]
            gap = source - last
            moves = target == begin + source - first and (last == first or step == gap) and gap <= 2
            stays = target == begin and gap == 1 and (last == first or step == 0)
            if moves or stays:
                rows[-1] = (first, source, 0 if stays else gap, begin)
                continue
        rows.append((source, source, 1, target))
    return rows


def _array(name: str, kind: str, rows: Sequence[Sequence[int]], columns: int, what: str) -> str:
    lines, line = [], "   "
    for row in rows:
        cell = " {" + ", ".join(f"{value:#x}" if value > 9 else str(value) for value in row) + "},"
        if len(line) + len(cell) > _LINE:
            lines.append(line)
            line = "   "
        line += cell
    return f"/* {what} */\nstatic const {kind} {name}[][{columns}] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def header() -> str:
    """The text of unicode_tables.h.

    Raises:
        ValueError: the library does something that the C code does not provide for.
    """
    cleaned, unmarked, lower = bert(clean=True), bert(strip=True), bert(lower=True)
    space, isolated = pre_tokenized()
    chinese, ranks = set(bert(chinese=True)), combining()
    dropped = {point for point, text in cleaned.items() if not text}
    blanks = {point for point, text in cleaned.items() if text == (32,)} | {32}
    marks = {point for point, text in unmarked.items() if not text}
    _check(cleaned, unmarked, lower, ranks, space, blanks)
    singles = {
        name: {p: t[0] for p, t in made.items() if len(t) == 1} for name, made in (("unmarked", unmarked), ("lower", lower))
    }
    longer = [
        (kind, point, *text, *[0] * (4 - len(text)))
        for kind, made in enumerate((unmarked, lower))
        for point, text in made.items()
        if len(text) > 1 and point not in HANGUL
    ]
    if any(len(row) > 6 for row in longer):
        raise ValueError("a code point becomes more than four")
    orders = [(*run, rank) for rank in sorted(set(ranks.values())) for run in _runs(p for p in ranks if ranks[p] == rank)]
    tables = (
        _array("DROPPED", "uint32_t", _runs(dropped), 2, "clean_text leaves these out: first and last of each run"),
        _array("BLANK", "uint32_t", _runs(blanks), 2, "clean_text makes spaces of these"),
        _array("WHITE", "uint32_t", _runs(space), 2, "at these the pre-tokenizer cuts"),
        _array("PUNCTUATION", "uint32_t", _runs(isolated), 2, "of these it makes pieces of their own"),
        _array("CHINESE", "uint32_t", _runs(chinese), 2, "handle_chinese_chars puts spaces around these"),
        _array("MARK_ALONE", "uint32_t", _runs(marks), 2, "strip_accents leaves these out"),
        _array("ORDER", "uint32_t", sorted(orders), 3, "combining classes: first, last, rank"),
        _array("UNMARKED", "uint32_t", _steps(singles["unmarked"]), 4,
               "strip_accents: first, last, step (0: all have one target), target of the first"),
        _array("LOWER", "uint32_t", _steps(singles["lower"]), 4, "lowercase, likewise"),
        _array("LONGER", "uint32_t", longer, 6,
               "0 strip_accents or 1 lowercase, code point, what it becomes (0: nothing more)"),
    )  # fmt: skip
    opening = (
        "/* What `tokenizers` does to every code point. Made by make_tables.py; do not edit. */\n\n"
        f'#define TABLES_OF "{version("tokenizers")}" /* the version of `tokenizers` that was asked */\n\n'
    )
    return opening + "\n".join(tables)


def _check(
    cleaned: Mapping[int, tuple[int, ...]], unmarked: Mapping[int, tuple[int, ...]], lower: Mapping[int, tuple[int, ...]],
    ranks: Mapping[int, int], space: set[int], blanks: set[int],
) -> None:  # fmt: skip
    """What wordpiece.c relies on."""
    decomposed = _mapped(NFD().normalize_str)
    longest = max((len("".join(map(chr, text)).encode()) - len(chr(point).encode()), point) for made in (unmarked, lower)
                  for point, text in made.items() if point not in HANGUL)  # fmt: skip
    conditions = {
        "clean_text drops or makes spaces": all(text in ((), (32,)) for text in cleaned.values()),
        "white space is cleaned to spaces": space - {p for p, t in cleaned.items() if not t} <= blanks,
        "Hangul is decomposed by arithmetic": all(
            unmarked[p] == tuple(x for x in (0x1100 + i // 588, 0x1161 + i % 588 // 28, 0x11A7 + i % 28) if x != 0x11A7)
            for i, p in enumerate(HANGUL)
        ),
        "no decomposition begins with an ordered mark": not any(
            len(text) > 1 and text[0] in ranks for text in unmarked.values()
        ),
        "what is a mark alone is one in a decomposition": all(
            unmarked.get(p, (p,)) == tuple(x for x in text if unmarked.get(x, (x,)) != ()) for p, text in decomposed.items()
        ),
        "nothing becomes more code points than it has bytes": all(
            len(text) <= len(chr(p).encode()) for made in (unmarked, lower) for p, text in made.items()
        ),
        "lower case is of single code points, after the decomposition": all(len(text) for text in lower.values()),
    }
    if wrong := [what for what, holds in conditions.items() if not holds]:
        raise ValueError(f"tokenizers {version('tokenizers')} is not as wordpiece.c expects: {wrong}, {longest}")


if __name__ == "__main__":
    HEADER.write_text(header())
