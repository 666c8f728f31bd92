"""Which files a path, folder or glob stands for, and what each of them is: packed, marked, a table, or no text."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from config import UserError
from corpora import encodings, packed, tables
from corpora.hub import HUB
from corpora.source import PIECE, beginning, one_line

# -- which files --------------------------------------------------------------------------------------------------

_TEMPORARY = re.compile(r"~\$.*|.*~|#.*#|.*\.(tmp|swp|swo|part|crdownload)|Thumbs\.db|desktop\.ini", re.IGNORECASE)


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a folder is a hidden or temporary file, or lies in a hidden folder."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return hidden or _TEMPORARY.fullmatch(path.name) is not None


def local_files(dataset: str) -> tuple[list[Path], int]:
    """The files that a path, folder or glob stands for, sorted by path, and how many hidden ones were left out.

    A folder stands for its *.txt, all levels down; where it has none, for its files of the one other kind it has.
    Raises UserError: none, or not readable as files; the nearest corpus name is suggested for what looks like one.
    """
    path = Path(os.path.expanduser(dataset))
    try:
        if path.is_dir():
            return _files_of_folder(dataset, path)
        if path.exists():
            if not path.is_file():
                raise UserError(f"dataset={dataset!r}: not a regular file; give a file, folder or glob of text")
            return [path], 0
        files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    except OSError as error:
        raise UserError(f"dataset={dataset!r}: {error.strerror or error}") from None
    shown = [p for p in files if not is_hidden(PurePath(p.name))]
    if not shown:
        names = ["shakespeare", *HUB]
        near = difflib.get_close_matches(dataset, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        problem = "no file matches this glob" if glob.has_magic(dataset) else "no such file, folder or corpus"
        raise UserError(
            f"dataset={dataset!r}: {problem}; {hint}corpora are {', '.join(names)}, hf:NAME[/CONFIG], or give a path"
        )
    return shown, len(files) - len(shown)


def _files_of_folder(dataset: str, folder: Path) -> tuple[list[Path], int]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    shown = [p for p in files if not is_hidden(p.relative_to(folder))]
    left_out = len(files) - len(shown)
    texts = [p for p in shown if p.name.endswith(".txt")]
    if texts:
        return texts, left_out
    kinds: dict[str, list[Path]] = {}
    for p in shown:
        suffixes = p.suffixes[-2:] if p.suffix.lower() in packed.SUFFIXES else p.suffixes[-1:]
        kinds.setdefault("".join(suffixes).lower(), []).append(p)
    readable = [kind for kind in kinds if kind in tables.KINDS or kind.endswith(packed.SUFFIXES)]
    if len(readable) == 1:
        return kinds[readable[0]], left_out
    kinds = dict(sorted(kinds.items(), key=lambda item: -len(item[1])))
    has = ", ".join(f"{len(files)} {'*' + kind if kind else 'without a suffix'}" for kind, files in kinds.items())
    texts = readable or [
        kind for kind, files in kinds.items() if kind and b"\0" not in beginning(packed.unpacked(files[0], None), PIECE)
    ]
    hint = f"name a glob, for example --dataset '{folder}/**/*{texts[0]}'" if texts else "name a file"
    has = f"it has {one_line(has, 200)}" if kinds else "it has no files"
    raise UserError(f"dataset={dataset!r}: no *.txt file in this folder; {has}; {hint}")


# -- what each of them is -----------------------------------------------------------------------------------------

# By its first bytes, what isn't text and is sometimes taken for it. Everything else is found by its NUL bytes.
NO_TEXT = (
    (b"%PDF-", "a PDF"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x04\x22\x4d\x18", "packed with lz4"),
    (b"\x1f\x9d", "packed with compress"),
    (b"\x5d\x00\x00", "packed with lzma"),
    (b"ARROW1", "an Arrow file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x00\x05\x16\x07", "what a Mac keeps beside a file (AppleDouble)"),
)
NO_TEXT_MEMBERS = {"word/document.xml": "a Word document", "xl/workbook.xml": "an Excel workbook"}
NO_TEXT_MEMBERS |= {"META-INF/container.xml": "an EPUB book", "META-INF/manifest.xml": "an OpenDocument file"}
UNPACK = "unpack it and give the text, or save it as text"


@dataclass(frozen=True)
class Part:
    """A file or a member of a zip archive, and how it is read.

    Attributes:
        packing: as in `packed.packing`, or None.
        encoding: Python's name.
        known_by: where the encoding is from, for messages: 'by its mark', 'as told' or ''.
        mark: bytes at its beginning that are no text.
        table: as in `tables.KINDS`, or None.
    """

    file: Path
    member: str | None = None
    packing: str | None = None
    encoding: str = "utf-8"
    known_by: str = ""
    mark: int = 0
    table: str | None = None

    @property
    def name(self) -> str:
        return packed.shown(self.file, self.member)

    @property
    def plain(self) -> bool:
        """Whether it is UTF-8 text as it lies there, with or without a mark."""
        return self.packing is None and self.table is None and self.encoding == "utf-8"

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, unpacked, without the mark."""
        skip = self.mark
        for data in packed.unpacked(self.file, self.packing, self.member):
            yield data[skip:] if skip else data
            skip = max(0, skip - len(data))

    def text(self) -> Iterator[str]:
        """Its text, in pieces."""
        return encodings.decoded(self.chunks(), self.encoding, self.name, self.mark)

    def form(self) -> str:
        """What it is read as, in words."""
        encoding = encodings.display(self.encoding) + (f" ({self.known_by})" if self.known_by else "")
        form = self.table if self.table == "parquet" else f"{self.table} in {encoding}" if self.table else encoding
        return f"{self.packing} of {form}" if self.packing else form


def parts_of(file: Path, encoding: str | None, text_column: str) -> list[Part]:
    """What a file is: one part, or those members of a zip archive that are text, in the order of their names.

    Args:
        encoding: of what has no mark; None for UTF-8.
        text_column: '' takes tables for text.

    Raises:
        UserError: unreadable, damaged, an unknown encoding, or known to be no text.
    """
    packing = packed.packing(beginning(packed.unpacked(file, None), PIECE))
    if packing != "zip":
        return [_part(file, None, packing, encoding, text_column)]
    members = packed.zip_members(file)
    if document := next((NO_TEXT_MEMBERS[member] for member in NO_TEXT_MEMBERS if member in members), None):
        raise UserError(f"{file}: {document}, not text; {UNPACK}")
    members = sorted(m for m in members if not is_hidden(PurePath(m)))
    texts = [m for m in members if m.lower().endswith(".txt")]
    chosen = texts or [m for m in members if PurePath(m).suffix.lower() in tables.KINDS] or members
    if not chosen:
        raise UserError(f"{file}: a zip archive without files; expected text")
    return [_part(file, member, packing, encoding, text_column) for member in chosen]


def _part(file: Path, member: str | None, packing: str | None, encoding: str | None, text_column: str) -> Part:
    head, name = beginning(packed.unpacked(file, packing, member), PIECE), packed.shown(file, member)
    form = next((form for magic, form in NO_TEXT if head.startswith(magic)), None)
    if packing and packed.packing(head):
        form = f"{packed.packing(head)} inside {packing}"
    if form or head[257:262] == b"ustar":
        raise UserError(f"{name}: {form or 'a tar archive'}, not text; {UNPACK}")
    if head.startswith(b"PAR1") and b"\0" in head:
        if packing or not text_column:
            raise UserError(f"{name}: a parquet table; unpack it and name its column of text with --text-column NAME")
        return Part(file, table="parquet")
    marked, given = encodings.by_mark(head), None if encoding is None else encodings.python_name(encoding)
    encoding, mark = marked or (given or "utf-8", 0)
    known_by = "by its mark" if marked and encoding != "utf-8" else "as told" if given and not marked else ""
    if encoding in ("utf-16", "utf-32"):
        raise UserError(
            f"{name}: {given} needs a byte-order mark, and there is none: --encoding {given}-le or {given}-be; "
            + encodings.advice(lambda: packed.unpacked(file, packing, member), given)
        )
    table = None
    if text_column:
        inside = PurePath(member or file.name)
        inside = inside.with_suffix("") if inside.suffix.lower() in packed.SUFFIXES else inside
        table = tables.KINDS.get(inside.suffix.lower())
        if table is None and tables.looks_like_json(head[mark:].decode(encoding, "ignore")):
            table = "JSON"
    if table == "parquet":
        raise UserError(f"{name}: not a parquet file, though its name says so")
    return Part(file, member, packing, encoding, known_by, mark, table)
