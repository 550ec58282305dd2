"""An object's first bytes and its footer, compared with what its name and the settings say of it: by the driver before
anything is started, and by every reader, so that both say the same.

    HEAD_BYTES as stored -> compressed as named? -> decompressed -> text at all? -> the format's own `examine`
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from workers.config import CorpusConfig, SourceFormat
from workers.host.isolated_process import IsolatedProcess, ProcessEnded
from workers.reading.footers.facts import FooterBytes, FooterFacts, FooterReader
from workers.reading.formats.registry import traits_of
from workers.reading.formats.traits import FormatTraits
from workers.reading.signatures import SIGNATURE_BYTES, compression_error, content_error, empty_error

HEAD_BYTES = 16 << 10
log = logging.getLogger("reembed")


class Head(NamedTuple):
    """The beginning of an object, decompressed. `complete`: it is all of it."""

    data: bytes
    complete: bool


def first_look(
    stored: bytes, size: int, codec: str | None, traits: FormatTraits, uri: str, corpus: CorpusConfig
) -> Head | str:
    """Why the object is refused, and the mend; or what it begins with.

    Args:
        stored: its first HEAD_BYTES, or all of its `size` bytes. traits: of a format without a footer.
    """
    if not size:
        return empty_error(codec) if codec else Head(b"", True)
    problem = compression_error(stored[:SIGNATURE_BYTES], codec) if codec else None
    if problem is not None:
        return problem
    data = decompressed_head(stored, codec, HEAD_BYTES) if codec else stored
    head = Head(data, size == len(stored) and (codec is None or len(data) < HEAD_BYTES))
    problem = content_error(data[:SIGNATURE_BYTES])
    if problem is None and traits.resolve is not None and corpus.format is SourceFormat.AUTO:
        by_content = traits.resolve(*head)
        if by_content is None:
            return head
        traits = traits_of(by_content)
    if problem is None and traits.examine is not None:
        problem = traits.examine(*head, uri, corpus)
    return head if problem is None else problem


def footer_problem(stored: bytes, traits: FormatTraits) -> str | None:
    """What an object whose footer cannot be read is, if not of its format; None: damaged, or not known."""
    return None if traits.signature and stored.startswith(traits.signature) else content_error(stored[:SIGNATURE_BYTES])


def parse_footers(
    reader: FooterReader,
    footers: Sequence[tuple[FooterBytes, int]],
    text: Sequence[str],
    others: Sequence[str],
    isolated: IsolatedProcess,
) -> list[FooterFacts | str]:
    """What each footer says, or the problem with it. `footers`: with the size of their object.

    One by one when the isolated process does not survive them together: so the one that ends it is found.
    """
    try:
        return isolated.call(reader.parse, footers, text, others) if footers else []
    except ProcessEnded as error:
        if len(footers) == 1:
            return [f"its footer is corrupt: parsing it {error}"]
        return [facts for footer in footers for facts in parse_footers(reader, [footer], text, others, isolated)]


def decompressed_head(data: bytes, codec: str, limit: int) -> bytes:
    """At most `limit` bytes of what a compressed stream's beginning holds; the stream may be cut, or break, anywhere."""
    head = bytearray()
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        while len(head) < limit:
            try:
                piece = stream.read(min(limit - len(head), 16 << 10))
            except OSError as error:  # the cut: what came before it is good
                log.debug("sample ends after %d bytes: %s", len(head), error)
                break
            if not piece:
                break
            head += piece
    return bytes(head)
