"""Damage, drawn from a seed: which original, where in it, and how. The same seed gives the same mutant.

flip     one or a few bits          byte     one byte to a special value     number   four bytes to an extreme
cut      the end is missing         hole     zeroes                          doubled  a stretch stands twice
swapped  two stretches change places        foreign  a stretch of another original
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fuzz.originals import Original, originals

KINDS = ("flip", "flip", "flip", "flip", "byte", "byte", "number", "cut", "hole", "doubled", "swapped", "foreign")
_SPECIAL = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_EXTREME = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE)


@dataclass(frozen=True)
class Mutant:
    seed: int
    original: str
    kind: str
    where: str  # footer | pages | stream
    data: bytes

    @property
    def changed(self) -> bool:
        return self.data != originals()[self.original].data


def mutant(seed: int, names: Sequence[str] | None = None) -> Mutant:
    """The mutant of a seed, of one of the originals named (all of them)."""
    draw = random.Random(seed)
    name = draw.choice(sorted(names) if names else sorted(originals()))
    source, kind = originals()[name], draw.choice(KINDS)
    start, stop, where = _place(source, draw)
    return Mutant(seed, name, kind, where, _damaged(bytearray(source.data), kind, start, stop, draw))


def _place(source: Original, draw: random.Random) -> tuple[int, int, str]:
    """A footer is as likely as all the rest: most of what can be misunderstood stands there."""
    if source.footer_at == len(source.data):
        return 0, len(source.data), "stream"
    if draw.random() < 0.5:
        return source.footer_at, len(source.data), "footer"
    return 0, source.footer_at, "pages"


def _damaged(data: bytearray, kind: str, start: int, stop: int, draw: random.Random) -> bytes:
    at = draw.randrange(start, stop)
    length = min(draw.choice((1, 2, 4, 8, 16, 64)), stop - at)
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            data[draw.randrange(start, stop)] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        data[at] = draw.choice(_SPECIAL)
    elif kind == "number":
        data[at : at + 4] = draw.choice(_EXTREME).to_bytes(4, draw.choice(("little", "big")))[: stop - at]
    elif kind == "cut":
        del data[at:]
    elif kind == "hole":
        data[at : at + length] = bytes(length)
    elif kind == "doubled":
        data[at:at] = data[at : at + length]
    elif kind == "swapped":
        other = draw.randrange(start, stop)
        length = min(length, stop - other)
        data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    else:
        donor = originals()[draw.choice(sorted(originals()))].data
        begin = draw.randrange(len(donor))
        data[at : at + length] = donor[begin : begin + length]
    return bytes(data)
