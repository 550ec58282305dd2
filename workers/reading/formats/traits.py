"""What a source object is, by its name alone: format, compression, CSV delimiter. Opens nothing."""

from __future__ import annotations

from workers.config import SourceFormat
from workers.errors import UsageError
from workers.storage.objects import redact

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""File name suffix -> codec name as pyarrow spells it."""
FORMATS = {
    ".parquet": SourceFormat.PARQUET,
    ".pq": SourceFormat.PARQUET,
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSONL,
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.CSV,
    ".txt": SourceFormat.TEXT,
}


def format_of(uri: str, configured: SourceFormat) -> tuple[SourceFormat, str | None]:
    """Format and compression (gzip, zstd, bz2 or None) of a source object; letter case does not matter.

    A configured format wins over the suffix; the compression is always taken from the suffix.

    Raises:
        UsageError: `auto` and a suffix that says nothing, or Parquet inside .gz, .zst, .bz2.
    """
    stem, compression = _strip_compression(uri)
    found = configured
    if configured is SourceFormat.AUTO:
        known = next((kind for suffix, kind in FORMATS.items() if stem.endswith(suffix)), None)
        if known is None:
            raise UsageError(
                f"{redact(uri)}: the file name does not tell its format (known: {' '.join(FORMATS)}, "
                f"also with {' '.join(COMPRESSIONS)}); set corpus.format, or narrow corpus.uri to the files meant"
            )
        found = known
    if found is SourceFormat.PARQUET and compression:
        raise UsageError(
            f"{redact(uri)}: a Parquet object compressed as a whole cannot be read by row group; unpack it "
            "(Parquet compresses its own pages), or set corpus.format if it is something else"
        )
    return found, compression


def delimiter_of(uri: str) -> str:
    """Field delimiter of a CSV object: a tab for .tsv, else a comma."""
    return "\t" if _strip_compression(uri)[0].endswith(".tsv") else ","


def _strip_compression(uri: str) -> tuple[str, str | None]:
    name = redact(uri).rpartition("/")[2].lower()
    for suffix, codec in COMPRESSIONS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), codec
    return name, None
