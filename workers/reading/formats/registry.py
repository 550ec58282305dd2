"""All source formats, and which one an object is of by its name. Opens nothing.

To add a format: a module beside this one that declares its FormatTraits, its name in SourceFormat, and a line here.
"""

from __future__ import annotations

from workers.config import SourceFormat
from workers.errors import UsageError
from workers.reading.formats import arrow, csv, json, jsonl, orc, parquet, text
from workers.reading.formats.traits import COMPRESSIONS, FormatTraits, strip_compression
from workers.storage.uris import redact

FORMATS: dict[SourceFormat, FormatTraits] = {
    traits.format: traits
    for traits in (parquet.TRAITS, arrow.TRAITS, orc.TRAITS, jsonl.TRAITS, json.TRAITS, csv.TRAITS, text.TRAITS)
}


def traits_of(source_format: SourceFormat) -> FormatTraits:
    """Raises: ValueError: not the format of an object: `auto`."""
    if source_format not in FORMATS:
        raise ValueError(f"{source_format} is not the format of an object")
    return FORMATS[source_format]


def format_of(uri: str, configured: SourceFormat) -> tuple[SourceFormat, str | None]:
    """Format and compression (gzip, zstd, bz2 or None) of a source object; letter case does not matter.

    A configured format wins over the suffix; the compression is always taken from the suffix.

    Raises:
        UsageError: `auto` and a suffix that says nothing, or a format that cannot be inside .gz, .zst, .bz2.
    """
    stem, compression = strip_compression(uri)
    traits = _by_suffix(stem, uri) if configured is SourceFormat.AUTO else traits_of(configured)
    if compression and traits.compresses:
        raise UsageError(
            f"{redact(uri)}: a {traits.title} object compressed as a whole cannot be read by {traits.group}; unpack it "
            f"({traits.title} compresses its own {traits.compresses}), or set corpus.format if it is something else"
        )
    return traits.format, compression


def _by_suffix(stem: str, uri: str) -> FormatTraits:
    for traits in FORMATS.values():
        if stem.endswith(traits.suffixes):
            return traits
    known = " ".join(suffix for traits in FORMATS.values() for suffix in traits.suffixes)
    raise UsageError(
        f"{redact(uri)}: the file name does not tell its format (known: {known}, "
        f"also with {' '.join(COMPRESSIONS)}); set corpus.format, or narrow corpus.uri to the files meant"
    )
