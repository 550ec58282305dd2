"""What an object is by its first bytes, where its name says something else. Pure.

    what_is            bytes -> the kind of file they begin, and the mend; None: nothing that is known by its beginning
    compression_error  why an object whose name says that it is compressed cannot be read as that
    content_error      why bytes (decompressed, if the object is compressed) are nothing that a format of lines can hold

A compressed object under a plain name, a page of UTF-16 or a Parquet file named .txt would otherwise be thousands of rows
that are not UTF-8, or, worse, some that are.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
SIGNATURE_BYTES = 512  # more than enough for each of them
ZSTD_WINDOW_LIMIT = 128 << 20  # of zstd decoders that are not told otherwise, pyarrow's among them


class Known(NamedTuple):
    """`name`: with its article. `suffix`: by which it is read; None: it is not read at all. `mend`: what to do then."""

    name: str
    mend: str
    suffix: str | None = None


_UNPACK = "unpack it"
_EXPORT = "export it to Parquet or JSON lines"
_COMPRESSED: tuple[tuple[bytes, Known], ...] = (
    (b"\x1f\x8b", Known("gzip", "name it .gz", ".gz")),
    (b"\x28\xb5\x2f\xfd", Known("zstd", "name it .zst", ".zst")),
    (b"BZh", Known("bzip2", "name it .bz2", ".bz2")),
    (b"\xfd7zXZ\x00", Known("xz", "which is not read: compress it by gzip or zstd")),
    (b"\x04\x22\x4d\x18", Known("lz4", "which is not read: compress it by gzip or zstd")),
    (b"\xff\x06\x00\x00sNaPpY", Known("snappy", "which is not read: compress it by gzip or zstd")),
)
_FILES: tuple[tuple[bytes, Known], ...] = (
    (b"PK\x03\x04", Known("a zip archive", _UNPACK)),
    (b"PK\x05\x06", Known("an empty zip archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Known("a 7-Zip archive", _UNPACK)),
    (b"PAR1", Known("Parquet", "name it .parquet, or set corpus.format: parquet", ".parquet")),
    (b"PARE", Known("encrypted Parquet", "decrypt it: encrypted Parquet is not read")),
    (b"ARROW1\x00\x00", Known("Arrow", "name it .arrow, or set corpus.format: arrow", ".arrow")),
    (b"ORC", Known("ORC", "name it .orc, or set corpus.format: orc", ".orc")),
    (b"FEA1", Known("Feather version 1", _EXPORT)),
    (b"Obj\x01", Known("Avro", _EXPORT)),
    (b"SQLite format 3\x00", Known("an SQLite database", _EXPORT)),
    (b"\x89HDF\r\n\x1a\n", Known("HDF5", _EXPORT)),
    (b"%PDF-", Known("a PDF document", "extract its text first")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Known("an old Office document", _EXPORT)),
)
_LFS = b"version https://git-lfs.github.com/spec/"
_ENCODINGS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"),
              (codecs.BOM_UTF16_BE, "UTF-16"))  # fmt: skip
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 2 to 4 of a frame without data; the first is 0x50 to 0x5f
_LONGEST_MAGIC = 4  # bytes, of the codecs that are read
_SUFFIX_OF = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2"}


def what_is(head: bytes) -> Known | None:
    """By signatures; also text in UTF-16 or UTF-32, and a Git LFS pointer. Text that only begins like one is not taken for
    it."""
    if head.startswith(_LFS):
        return Known("a Git LFS pointer, not the file itself", "fetch it: git lfs pull")
    for signature, known in _COMPRESSED:
        if head.startswith(signature):
            return Known(f"{known.name}-compressed", known.mend, known.suffix) if _is_binary(head) else None
    for signature, known in _FILES:
        if head.startswith(signature):
            return known if _is_binary(head) else None
    if head[257:262] == b"ustar" and _is_binary(head):
        return Known("a tar archive", _UNPACK)
    encoding = next((name for mark, name in _ENCODINGS if head.startswith(mark)), None) or _wide_encoding(head)
    return Known(f"text in {encoding}", f"convert it: iconv -f {encoding} -t UTF-8") if encoding else None


def compression_error(head: bytes, codec: str) -> str | None:
    """`head`: the object's first bytes as stored, of an object that is not empty."""
    is_zstd = head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F)
    suffix = _SUFFIX_OF[codec]
    if codec == "zstd" and is_zstd:
        return zstd_window_error(zstd_window(head))
    known = what_is(head)
    if known is not None and known.suffix == suffix:
        return None
    if known is not None:
        return f"is {known.name}, although its name ends with {suffix}; {known.mend}"
    if len(head) < _LONGEST_MAGIC or _is_binary(head):
        return None  # cut off, damaged, or a variant: the decoder will tell
    return f"is not compressed, although its name ends with {suffix}; take {suffix} off its name"


def content_error(head: bytes) -> str | None:
    """`head`: first bytes of the text."""
    known = what_is(head)
    return None if known is None else f"is {known.name}, although its name says otherwise; {known.mend}"


def empty_error(codec: str) -> str:
    """No compressor writes zero bytes."""
    return f"empty where {codec} was expected; upload it again"


def zstd_window(head: bytes) -> int | None:
    """Bytes of memory that the first frame needs to be decoded (RFC 8878, 3.1.1.1.2); None: the header does not say."""
    if len(head) < 6 or not head.startswith(b"\x28\xb5\x2f\xfd") or head[4] & 0x20:  # a single segment: as large as its text
        return None
    exponent, mantissa = head[5] >> 3, head[5] & 7
    base = 1 << (10 + exponent)
    return base + base // 8 * mantissa


def zstd_window_error(window: int | None) -> str | None:
    return zstd_frame_error(window) if window is not None and window > ZSTD_WINDOW_LIMIT else None


def zstd_frame_error(window: int = 1 << 31) -> str:
    """`window`: bytes; the default is the largest that the zstd command makes."""
    log = (window - 1).bit_length()
    return (
        f"a zstd frame needs a window of up to {window >> 20} MiB (written by zstd --long={log}), more than the "
        f"{ZSTD_WINDOW_LIMIT >> 20} MiB that are read; compress it again: zstd -d --long={log} -c OLD | zstd -o NEW"
    )


def _is_binary(head: bytes) -> bool:
    """No text: a NUL, or bytes that are not UTF-8 (an incomplete character at the end is)."""
    if b"\0" in head:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return False


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, told by the zero bytes of ASCII characters in it."""
    head = head.removeprefix(BOM)[:SIGNATURE_BYTES]
    head = head[: len(head) // 4 * 4]
    quarter = len(head) // 4
    zeros = [head[at::4].count(0) for at in range(4)]
    mostly, hardly = quarter - quarter // 8, quarter // 8
    if quarter < 2:
        return None
    for order, encoding in (((1, 2, 3), "UTF-32LE"), ((0, 1, 2), "UTF-32BE"), ((1, 3), "UTF-16LE"), ((0, 2), "UTF-16BE")):
        others = [at for at in range(4) if at not in order]
        if all(zeros[at] >= mostly for at in order) and all(zeros[at] <= hardly for at in others):
            return encoding
    return None
