"""Recognition of file formats by their first bytes, and conversion of UTF-16 to UTF-8."""

import codecs
import io
from typing import BinaryIO

from interaction_svc.domain.units import KIB

_CHUNK_BYTES = 64 * KIB
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"\x1f\x8b",), "compressed by gzip; pipe it: gunzip -c FILE | interaction-svc import -"),
    ((b"BZh",), "compressed by bzip2; pipe it: bunzip2 -c FILE | interaction-svc import -"),
    ((b"\xfd7zXZ\0",), "compressed by xz; pipe it: xz -dc FILE | interaction-svc import -"),
    (
        (b"\x28\xb5\x2f\xfd",),
        "compressed by zstd; pipe it: zstd -dc FILE | interaction-svc import -",
    ),
    ((b"PK\x03\x04",), "a ZIP archive; pipe it: unzip -p FILE | interaction-svc import -"),
    ((b"SQLite format 3\0",), "a SQLite database; a store is copied by interaction-svc copy"),
    (_UTF32_MARKS, "UTF-32; write it as UTF-8"),
    ((b"{\0", b"[\0", b"\0{", b"\0["), "UTF-16 without a byte order mark; write it as UTF-8"),
)


def name_of_kind(head: bytes) -> str:
    """Return the name of a format that import can't read, with advice for users; else ""."""
    for beginnings, name in _KINDS:
        if head.startswith(beginnings):
            return name
    return ""


def is_utf16(head: bytes) -> bool:
    """Return whether a file is UTF-16 with a byte order mark, as PowerShell's `>` writes it."""
    return head.startswith(_UTF16_MARKS) and not head.startswith(_UTF32_MARKS)


def as_utf8(utf16: BinaryIO) -> io.BufferedReader:
    """Return a stream of the same text in UTF-8.

    Invalid UTF-16 becomes invalid UTF-8, so that the reader reports the error with its place.
    """
    return io.BufferedReader(_Utf8(utf16))


class _Utf8(io.RawIOBase):
    """A stream of UTF-16, read as UTF-8."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
        self._ready = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        while not (count := self._ready.readinto(buffer)):
            chunk = self._stream.read(_CHUNK_BYTES)
            try:
                text = self._decoder.decode(chunk, final=not chunk)
                self._ready = io.BytesIO(text.encode("utf-8", "surrogatepass"))
            except UnicodeDecodeError:  # half a character at the end
                self._decoder.reset()
                self._ready = io.BytesIO(b"\xff")
            if not (chunk or self._ready.getbuffer()):
                return 0
        return count
