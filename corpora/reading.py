"""Local files to one text in pieces, with bounded memory, and an account of what was read as what."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import storage
from cli import counted
from config import UserError
from corpora import tables
from corpora.encodings import NotText, Plausible, advice
from corpora.files import Part, local_files, parts_of
from corpora.source import Account, Source, joined, one_line


def file_source(dataset: str, encoding: str | None, text_column: str) -> Source:
    """The text of a file, a folder or a glob. The files are read once here, for their checksum. Raises UserError: none
    there, unreadable, or known to be no text."""
    files, left_out = local_files(dataset)
    parts = [part for file in files for part in parts_of(file, encoding, text_column)]
    account, checksum = Account(), identity(parts, text_column)
    return Source(
        name=Path(dataset).name or Path(dataset).resolve().name,
        identity=checksum,
        pieces=lambda: read(parts, text_column, account, left_out),
        # the checksum of a text is compared while it is read
        unchanged=lambda: checksum.startswith("text:") or identity(parts, text_column) == checksum,
        account=account,
    )


def identity(parts: list[Part], text_column: str) -> str:
    """What a cache of the text is keyed by: the text's own checksum where its bytes show it, else that of the files'
    bytes with all that decides how they are read."""
    if all(part.plain for part in parts):
        digest = hashlib.sha256()
        for i, part in enumerate(parts):
            digest.update(b"\n" if i else b"")
            for data in part.chunks():
                digest.update(data)
        return f"text:{digest.hexdigest()}"
    try:
        sums = {file: storage.sha256_file(file) for file in dict.fromkeys(part.file for part in parts)}
    except storage.StorageError as error:
        raise UserError(str(error)) from None
    recipes = []
    for part in parts:
        table = [part.table, part.table and text_column, *filter(None, [tables.READING.get(part.table)])]
        recipes.append([sums[part.file], part.member, part.packing, part.encoding, *table])
    return f"files:{storage.sha256_json(recipes)}"


def read(
    parts: list[Part], text_column: str = "text", account: Account | None = None, left_out: int = 0
) -> Iterator[str]:
    """The text of files joined by newlines, in pieces. Line ends stay as they are. Raises UserError: unreadable,
    damaged, no text, or not what it is read as; names the file and the place."""
    account = Account() if account is None else account
    forms, of_tables, notes = Counter(), [], []
    for i, part in enumerate(parts):
        if i:
            yield "\n"
        check = Plausible(part.name, part.encoding if part.table != "parquet" else None)
        table = tables.Table(part.name, text_column) if part.table else None
        try:
            pieces = joined(tables.rows(part.table, part.file, part.text, table)) if table else part.text()
            yield from pieces if account.read_as else check.passed(pieces)  # looked at once, in the first pass
        except NotText as problem:
            marked = part.known_by == "by its mark"
            marks = "its mark says so: mend it there" if marked else ""
            raise UserError(f"{problem}; {problem.remedy or marks or advice(part.chunks, part.encoding)}") from None
        forms[part.form()] += 1
        notes += check.notes()
        if table:
            of_tables.append(table)
    if account.read_as:
        return
    account.notes = notes[:5] + [f"and {len(notes) - 5} more such notes"] * (len(notes) > 5)
    account.worth_saying = left_out > 0 or not all(part.plain for part in parts)
    account.read_as = _in_words(forms, parts, of_tables, left_out)


def _in_words(forms: Counter, parts: list[Part], of_tables: list[tables.Table], left_out: int) -> str:
    """What was read as what."""
    rows, without = (sum(getattr(table, name) for table in of_tables) for name in ("rows", "left_out"))
    if len(parts) == 1:
        words = next(iter(forms))
    else:
        words = f"{len(parts)} files: " + ", ".join(f"{count} {form}" for form, count in forms.most_common())
    members = [part.member for part in parts if part.member is not None]
    if members:
        words += f" ({one_line(', '.join(members), 200)}, in this order)" if members[1:] else f" ({members[0]})"
    if rows:
        words += f", column {of_tables[0].column!r} of {counted(rows, 'row')}"
        words += "".join(f", {remark}" for remark in dict.fromkeys(t.remark for t in of_tables) if remark)
        words += f" ({without:,} without it left out)" if without else ""
    if left_out:
        words += f"; {left_out:,} hidden or temporary {'files' if left_out > 1 else 'file'} left out"
    return words
