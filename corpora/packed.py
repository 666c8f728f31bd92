"""Packed files as streams of the bytes inside them, in pieces: gzip, zip, zstd, xz and bzip2, told by their first
bytes.

Memory stays bounded whatever a file claims: xz may not ask for more than XZ_MEMORY, zstd's own limit is 128 MB, and
what unpacks to more than TIMES its size is refused. (Text packs to a third or a tenth; what packs 200-fold repeats
one line.)
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from config import UserError
from corpora.source import PIECE, one_line

MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "zip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2"),
)
SUFFIXES = (".gz", ".zip", ".zst", ".xz", ".bz2")
TIMES, ALWAYS_ALLOWED = 200, 64 << 20  # a bomb unpacks to more than so many times its size and so many bytes
XZ_MEMORY = 256 << 20
BROKEN = (OSError, EOFError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def packing(head: bytes) -> str | None:
    """What a file that begins with these bytes is packed with."""
    return next((name for pattern, name in MAGIC if pattern.match(head)), None)


def zip_members(file: Path) -> list[str]:
    """The names of the files in a zip archive, in their order there. Raises UserError when it is damaged."""
    with _named(file, "zip"), zipfile.ZipFile(file) as archive:
        return [member.filename for member in archive.infolist() if not member.is_dir()]


def unpacked(file: Path, kind: str | None, member: str | None = None) -> Iterator[bytes]:
    """The bytes of a file, or of a member of a zip archive, in pieces; `kind` as `packing` says (None: not packed).
    Raises UserError: unreadable, damaged, encrypted, cut off, or expanding like nothing that is text."""
    name = shown(file, member)
    with _named(name, kind), open(file, "rb") as f:
        size, allowed = 0, max(ALWAYS_ALLOWED, TIMES * file.stat().st_size) if kind else math.inf
        for data in UNPACK[kind](f, member):
            size += len(data)
            if size > allowed:
                raise UserError(
                    f"{name}: unpacks to more than {TIMES} times its size, which no text does: a {kind} bomb, or one "
                    f"line repeated; unpack it yourself if it is meant"
                )
            if data:
                yield data


@contextlib.contextmanager
def _named(name, kind: str | None) -> Iterator[None]:
    """Within, what is wrong with a file is said by its name."""
    try:
        yield
    except UserError:
        raise
    except BROKEN as error:
        if kind is None:
            raise UserError(f"{name}: can't be read: {getattr(error, 'strerror', None) or error}") from None
        why = "is encrypted" if "password" in str(error) else "damaged or cut off"
        raise UserError(
            f"{name}: {kind}, but {why} ({one_line(error)}); pack it anew or give the text itself"
        ) from None


def shown(file: Path, member: str | None = None) -> str:
    """A file or a member of an archive, for messages."""
    return one_line(f"{file}" if member is None else f"{file}:{member}", 400)


def _read(stream) -> Iterator[bytes]:
    with stream:
        while data := stream.read(PIECE):
            yield data


def _zip(f, member: str) -> Iterator[bytes]:
    with zipfile.ZipFile(f) as archive:
        yield from _read(archive.open(member))


def _xz(f, _) -> Iterator[bytes]:
    """One stream or several, one after the other. (`lzma.open` has no limit of memory.)"""
    data, decompressor = b"", None
    while True:
        if not data and (decompressor is None or decompressor.needs_input):
            data = f.read(PIECE)
        if decompressor is None:
            data = data.lstrip(b"\0")  # padding between streams
            if not data:
                return
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        elif not data and decompressor.needs_input:
            raise EOFError("the end is missing")
        yield decompressor.decompress(data, PIECE)
        data = b""
        if decompressor.eof:
            data, decompressor = decompressor.unused_data, None


def _zstd(f, _) -> Iterator[bytes]:
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            f"{f.name}: zstd needs the package pyarrow, which comes with datasets: pip install datasets, or unpack it"
        ) from None
    yield from _read(pyarrow.CompressedInputStream(pyarrow.PythonFile(f, "r"), "zstd"))


UNPACK = {
    None: lambda f, _: _read(f),
    "gzip": lambda f, _: _read(gzip.GzipFile(fileobj=f)),
    "bzip2": lambda f, _: _read(bz2.BZ2File(f)),
    "zip": _zip,
    "xz": _xz,
    "zstd": _zstd,
}
