"""The receipts of a run in memory: a mapping by shard, in order of number, in about a tenth of the objects' memory.

    add(), add_json()   keep a receipt as its stored bytes
    receipts[number]    parses it on access; reading in order of number decompresses once for a thousand

Receipts are grouped by a thousand neighbours. A group is compressed (zstd) once it is complete, or once many bytes are held.
A million receipts take about 100 MB; as Receipt objects they would take well over a gigabyte. Knows nothing of storage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from workers.records.shard import OutputFile, Receipt

NEIGHBOURS = 1000  # receipts that are compressed together
LOOSE_BYTES = 32 << 20  # held uncompressed before all groups are compressed, complete or not
_CODEC = "zstd"
_Lines = dict[int, bytes]  # shard -> its receipt as JSON


class Files:
    """The data files of receipts, in order of shards; can be iterated repeatedly."""

    def __init__(self, receipts: Mapping[int, Receipt]) -> None:
        self._receipts = receipts

    def __iter__(self) -> Iterator[OutputFile]:
        for receipt in self._receipts.values():
            yield from receipt.files

    def __len__(self) -> int:
        return sum(len(receipt.files) for receipt in self._receipts.values())


class Receipts(Mapping[int, Receipt]):
    """Shard number -> Receipt. Receipts are only added; adding a number again replaces its receipt."""

    def __init__(self, receipts: Iterable[Receipt] = ()) -> None:
        self._known: dict[int, int] = {}  # group -> bits, one for each number
        self._count = 0
        self._loose: dict[int, _Lines] = {}  # by group
        self._loose_bytes = 0
        self._packed: dict[int, list[tuple[int, bytes]]] = {}  # group -> (bytes unpacked, packed lines), the oldest first
        self._unpacked: tuple[int, _Lines] = (-1, {})  # the group that was read last
        for receipt in receipts:
            self.add(receipt)

    def add(self, receipt: Receipt) -> None:
        self.add_json(receipt.shard, receipt.to_json())

    def add_json(self, number: int, data: bytes) -> None:
        """`data`: the receipt as stored. It is not parsed here; invalid data raises on access."""
        group, place = divmod(number, NEIGHBOURS)
        known = self._known.get(group, 0)
        if not known >> place & 1:
            self._known[group] = known | 1 << place
            self._count += 1
        lines = self._loose.setdefault(group, {})
        data = data if b"\n" not in data else json.dumps(json.loads(data)).encode()
        self._loose_bytes += len(data) - len(lines.get(number, b""))
        lines[number] = data
        if self._unpacked[0] == group:
            self._unpacked = (-1, {})
        if len(lines) == NEIGHBOURS:
            self._pack([group])
        elif self._loose_bytes > LOOSE_BYTES:
            self._pack(list(self._loose))

    def __getitem__(self, number: int) -> Receipt:
        if number not in self:
            raise KeyError(number)
        return Receipt.from_json(self._group(number // NEIGHBOURS)[number])

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int) or number < 0:
            return False
        group, place = divmod(number, NEIGHBOURS)
        return bool(self._known.get(group, 0) >> place & 1)

    def __iter__(self) -> Iterator[int]:
        for group in sorted(self._known):
            known = self._known[group]
            yield from (group * NEIGHBOURS + place for place in range(NEIGHBOURS) if known >> place & 1)

    def __len__(self) -> int:
        return self._count

    def _group(self, group: int) -> _Lines:
        if self._unpacked[0] != group:
            lines: _Lines = {}
            for size, packed in self._packed.get(group, ()):
                lines |= from_lines(pa.decompress(packed, size, _CODEC, asbytes=True))
            self._unpacked = (group, lines | self._loose.get(group, {}))
        return self._unpacked[1]

    def _pack(self, groups: Iterable[int]) -> None:
        for group in groups:
            lines = self._loose.pop(group)
            self._loose_bytes -= sum(map(len, lines.values()))
            data = to_lines(lines)
            self._packed.setdefault(group, []).append((len(data), pa.compress(data, _CODEC, asbytes=True)))


def to_lines(receipts: Mapping[int, bytes]) -> bytes:
    """`number TAB receipt LINEFEED` for each shard; a receipt holds no line feed."""
    return b"".join(b"%d\t%b\n" % item for item in receipts.items())


def from_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The inverse of to_lines(). Raises: ValueError: not such lines."""
    pairs = (line.split(b"\t", 1) for line in data.split(b"\n")[:-1])
    return ((int(number), receipt) for number, receipt in pairs)
