"""The two snapshots of a comparison, and which of their parts must be read.

    Side         one snapshot: its columns, and the parts that the other one has not got
    sides_of     two lists of parts -> two Sides
    why_not      why two snapshots cannot be compared row by row

A part that both snapshots hold with the same SHA-256 below the same partition folders has the same rows: it is not opened.
Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from workers.records.shard import OutputFile
from workers.table.paths import folder_in_snapshot
from workers.table.schema import CHUNK, EMBEDDING, ID, TEXT_HASH, OutputSchema
from workers.table.vectors import VectorFormat

OP, OLD_TEXT_HASH = "op", "old_text_hash"  # columns of change sets that no snapshot has


@dataclass(frozen=True, slots=True)
class Side:
    """One snapshot. `parts` are those to read, in the order of its shards; a part is known by its number among them."""

    run_id: str
    schema: OutputSchema
    parts: tuple[OutputFile, ...]
    rows: int  # of the whole snapshot

    @property
    def columns(self) -> tuple[str, ...]:
        """All that a row has beside its key, its text's hash and its vector; partition columns too."""
        return tuple(name for name in self.schema.rows.names if name not in (ID, CHUNK, TEXT_HASH, *self.vectors))

    @property
    def vectors(self) -> tuple[str, ...]:
        """The columns that hold a row's vector: `embedding`, or the two of a sparse one. Others of vectors count as kept."""
        return self.schema.vectors if self.schema.sparse else (EMBEDDING,)

    @property
    def read_rows(self) -> int:
        """Rows of the parts to read."""
        return sum(part.rows for part in self.parts)


def sides_of(
    old: tuple[str, OutputSchema, Iterable[OutputFile]] | None,
    new: tuple[str, OutputSchema, Iterable[OutputFile]],
    whole: bool = False,
) -> tuple[Side | None, Side]:
    """(run id, columns, parts) of both. `old` None: there is no older snapshot, so every part of the newer one is read.

    `whole`: parts that both have are read as well, so that a key is found wherever it occurs twice.
    """
    files = list(new[2])
    rows = sum(file.rows for file in files)
    if old is None:
        return None, Side(new[0], new[1], tuple(files), rows)
    earlier = list(old[2])
    common = Counter() if whole else Counter(map(_content, earlier)) & Counter(map(_content, files))
    common.pop(None, None)
    before = Side(old[0], old[1], tuple(_without(earlier, common)), sum(file.rows for file in earlier))
    return before, Side(new[0], new[1], tuple(_without(files, common)), rows)


def _content(file: OutputFile) -> tuple[str, str] | None:
    return (file.sha256, folder_in_snapshot(file.path)) if file.sha256 else None


def _without(files: Iterable[OutputFile], common: Mapping[tuple[str, str] | None, int]) -> Iterable[OutputFile]:
    left = Counter(dict(common))
    for file in files:
        content = _content(file)
        if left[content] > 0:
            left[content] -= 1
        else:
            yield file


def why_not(old: OutputSchema | None, new: OutputSchema) -> str | None:
    """A reason, or None."""
    for name in (OP, OLD_TEXT_HASH):
        if name in new.rows.names:
            return f"its kept column {name!r} has the name of a column of change sets"
    if old is None:
        return None
    kinds = [schema.rows.field(ID).type for schema in (old, new)]
    if kinds[0] != kinds[1]:
        return f"its ids are {kinds[1]}, those of the other snapshot {kinds[0]}"
    return None


def comparable(old: OutputSchema, new: OutputSchema) -> bool:
    """Whether equal stored bytes are equal vectors: the same type, components and scale."""
    one: VectorFormat = old.vector_format
    same_shape = (old.stamp.dim, old.lists, one) == (new.stamp.dim, new.lists, new.vector_format)
    if old.sparse or new.sparse:
        return same_shape
    return same_shape and bool(old.vector_type.value_type == new.vector_type.value_type)
