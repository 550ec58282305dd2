"""A few hundred damaged objects: no crash, no hang, no row lost without a word. More: python -m tests.fuzz.mutants."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.state.manifest import load_manifest, save_manifest
from tests.fuzz.mutations import Mutant, mutant
from tests.fuzz.originals import ROWS, originals
from tests.fuzz.trial import BAD, Outcome, judge, rows_of
from tests.fuzz.tried import try_seeds
from workers.errors import ReembedError
from workers.reading.footers.parquet import parse_footers
from workers.records.shard import ObjectSlice, Shard
from workers.storage.store import Store

SEED, COUNT = 20_261, 300
DEADLINE = 60.0


@pytest.mark.slow
def test_mutants_are_read_exactly_or_named() -> None:
    told = try_seeds(range(SEED, SEED + COUNT), sorted(originals()), DEADLINE)
    bad = [item for item in told if item.verdict.outcome in BAD]
    assert bad == [], f"python -m tests.fuzz.mutants --count 1 --seed {bad[0].seed}"
    assert len(told) == COUNT
    counts = Counter(item.verdict.outcome for item in told)
    assert counts[Outcome.REFUSED] > COUNT / 2, "the damage is real"
    assert counts[Outcome.EXACT] > COUNT / 20, "and does not always matter"


@pytest.mark.parametrize("name", sorted(originals()))
def test_originals_are_read_exactly(name: str, tmp_path: Path) -> None:
    original = originals()[name]
    assert rows_of(original).total() == ROWS
    assert judge(Mutant(0, name, "none", "pages", original.data), tmp_path).outcome is Outcome.EXACT


@pytest.mark.parametrize("name", ["arrow-none", "gz-members", "zst-jsonl"])
def test_a_row_that_vanishes_would_be_noticed(name: str, tmp_path: Path) -> None:
    """What the table is worth: objects that are whole and hold one row less, or another text, are told apart."""
    if name == "gz-members":  # a stream cut between two members is whole to every reader
        data = originals()[name].data
        cut = Mutant(0, name, "cut", "stream", data[: data.index(b"\x1f\x8b\x08", 10)])
        assert judge(cut, tmp_path).outcome is Outcome.LOST
    else:
        other = Mutant(0, name, "flip", "pages", _with_other_text(name))
        assert judge(other, tmp_path).outcome is Outcome.UNSEALED


def _with_other_text(name: str) -> bytes:
    """One letter of one text, where nothing is compressed; for zstd the text compressed anew."""
    data = originals()[name].data
    if name == "arrow-none":
        return data.replace(b"A long text. A long", b"A lang text. A long", 1)
    plain = bytes(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())
    return bytes(pa.compress(plain.replace(b"A long text.", b"A lang text.", 1), codec="zstd", asbytes=True))


def test_replays_from_its_seed() -> None:
    assert [mutant(seed) for seed in range(50)] == [mutant(seed) for seed in range(50)]
    assert len({mutant(seed).data for seed in range(50)}) > 40


def test_random_footers_are_told_as_problems() -> None:
    """Lengths and types of a Parquet file around nothing but noise."""
    draw = random.Random(SEED)
    for _ in range(300):
        noise = draw.randbytes(draw.randrange(1, 200))
        (told,) = parse_footers([((noise + len(noise).to_bytes(4, "little") + b"PAR1",), 10_000)], ["text"], ["id"])
        assert isinstance(told, str)


def test_a_damaged_manifest_is_refused_or_is_what_it_was(tmp_path: Path) -> None:
    """It is ours, but lies for a night on somebody's disk."""
    store = Store(str(tmp_path), {})
    pieces = [
        ObjectSlice(f"s3://bucket/corpus/{number:03d}.parquet", 100 + number, f"{number:032x}", 0, 3, 7, 0)
        for number in range(40)
    ]
    shards = [Shard(number, tuple(pieces[number * 4 : number * 4 + 4]), 1000 + number) for number in range(10)]
    save_manifest(store, "manifest.parquet", shards, "f" * 64)
    data = (tmp_path / "manifest.parquet").read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    draw, refused = random.Random(SEED), 0
    for _ in range(300):
        spoilt = bytearray(data)
        spoilt[draw.randrange(4, footer)] ^= 1 << draw.randrange(8)
        (tmp_path / "spoilt.parquet").write_bytes(spoilt)
        try:
            assert load_manifest(store, "spoilt.parquet", "f" * 64)[0] == shards
        except ReembedError:
            refused += 1
    assert refused > 150
