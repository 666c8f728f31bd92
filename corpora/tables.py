"""The text of one column of a table, row by row, in bounded memory: JSON lines, JSON, CSV and parquet.

JSON lines, an array of objects and objects one after the other are read alike. A row without the column, or with a
null there, is left out and counted.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from config import UserError
from corpora.source import PIECE, one_line

KINDS = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON", ".csv": "CSV", ".tsv": "CSV"}
KINDS[".parquet"] = "parquet"
LONGEST = 64 << 20  # characters of one value or line
_SPACE, _SPACE_OR_COMMA = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")


@dataclass
class Table:
    """A table that is being read: its name, the column wanted, and what has been found so far."""

    name: str
    column: str
    rows: int = 0
    left_out: int = 0
    columns: dict[str, None] = field(default_factory=dict)  # in the order of their appearance

    def line(self, value) -> Iterator[str]:
        """The text of one value of the column, its line ended."""
        if value is None:
            self.left_out += 1
        elif isinstance(value, str):
            self.rows += 1
            yield value if value.endswith("\n") else value + "\n"
        else:
            kind = "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
            raise UserError(
                f"{self.name}: row {self.number}: {self.column!r} is {kind}, not text; name a column of text with "
                f"--text-column NAME"
            )

    @property
    def number(self) -> int:
        """Of the row that is being read, from 1."""
        return self.rows + self.left_out + 1

    def end(self) -> None:
        """Raises UserError when there were rows but none with the column."""
        if self.left_out and not self.rows:
            raise self.without_column()

    def without_column(self) -> UserError:
        names = one_line(", ".join(map(repr, self.columns)), 300) if self.columns else "none"
        return UserError(
            f"{self.name}: no text in a column {self.column!r}; the columns are {names}: choose with --text-column NAME"
        )


def looks_like_json(text: str) -> bool:
    """Whether the beginning of a text is that of JSON lines (of which a few may be damaged), of objects one after the
    other or of an array of them."""
    start = re.match(r"\s*(\[\s*)?(?=\{)", text)
    if not start:
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text, start.end())
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.split("\n")[:100] if line.strip()]
        return 2 * sum(map(_is_object, lines)) > len(lines) or (len(text) > PIECE // 4 and _may_go_on(error, text, 0))
    follows = text[end:].lstrip()[:1]
    return follows in (("", ",", "]") if start.group(1) else ("", "{"))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def rows(kind: str, pieces: Iterator[str], table: Table) -> Iterator[str]:
    """The text of the column of a table of the `kind` that `KINDS` names, from its pieces; parquet is read by
    `parquet_rows`.

    Raises:
        UserError: not such a table, no such column, or something else than text in it.
    """
    yield from _csv_rows(pieces, table) if kind == "CSV" else _json_rows(pieces, table)
    table.end()


# -- JSON ---------------------------------------------------------------------------------------------------------


def _json_rows(pieces: Iterator[str], table: Table) -> Iterator[str]:
    for value in _json_values(pieces, table):
        if isinstance(value, str):  # a list of texts
            yield from table.line(value)
            continue
        if not isinstance(value, dict):
            raise UserError(
                f"{table.name}: row {table.number} is {one_line(value, 40)!r}, not an object with columns; expected "
                f"JSON lines or a list of objects"
            )
        if len(table.columns) < 100:
            table.columns.update(dict.fromkeys(value))
        value = value.get(table.column)
        for one in value if isinstance(value, list) and value and all(isinstance(v, str) for v in value) else [value]:
            yield from table.line(one)


def _json_values(pieces: Iterator[str], table: Table) -> Iterator:
    """The values of JSON lines or of any values one after the other, or the elements of an array."""
    scan, text, at, array, begun = json.JSONDecoder().raw_decode, "", 0, False, False
    for piece in _and_end(pieces):
        text, at = text[at:] + (piece or ""), 0
        while True:
            at = (_SPACE_OR_COMMA if array else _SPACE).match(text, at).end()
            if at == len(text):
                break
            if not begun and text[at] == "[" or array and text[at] == "]":
                array, begun, at = text[at] == "[", True, at + 1
                continue
            try:
                value, end = scan(text, at)
            except (ValueError, RecursionError) as error:
                if piece is not None and _may_go_on(error, text, at):
                    break
                raise _not_json(table, error) from None
            at, begun = end, True
            yield value
    if array:
        raise _not_json(table, "the end of the list is missing")


def _and_end(pieces: Iterator[str]) -> Iterator[str | None]:
    yield from pieces
    yield None


def _may_go_on(error: Exception, text: str, at: int) -> bool:
    """Whether the value that begins at `at` may only be cut off by the end of what has been read."""
    if not isinstance(error, json.JSONDecodeError) or len(text) - at > LONGEST:
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - 16


def _not_json(table: Table, why) -> UserError:
    why = getattr(why, "msg", None) or one_line(why)
    return UserError(
        f"{table.name}: not JSON ({why} in row {table.number}); mend it, or give --text-column '' to train on the file "
        f"as it is"
    )


# -- CSV ----------------------------------------------------------------------------------------------------------


def _csv_rows(pieces: Iterator[str], table: Table) -> Iterator[str]:
    lines = _lines(pieces, table.name)
    first = next(lines, "")
    try:
        delimiter, header = _header(first, table.column)
    except csv.Error as error:
        raise UserError(f"{table.name}: line 1: not CSV ({error})") from None
    table.columns.update(dict.fromkeys(header))
    if first.strip() and table.column not in header:
        raise table.without_column()
    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{table.name}: line {reader.line_num + 1}: {len(row)} fields where the header has {len(header)}; "
                    f"put quotation marks around a field that contains {delimiter!r}"
                )
            yield from table.line(row[header.index(table.column)])
    except csv.Error as error:
        raise UserError(f"{table.name}: line {reader.line_num + 1}: not CSV ({error})") from None


def _header(line: str, column: str) -> tuple[str, list[str]]:
    """(delimiter, names) of the first line: the delimiter that gives the column, else the one that gives most."""
    headers = [(d, [name.strip() for name in next(csv.reader([line.strip()], delimiter=d), [])]) for d in ",;\t|"]
    return max(headers, key=lambda header: (column in header[1], len(header[1])))


def _lines(pieces: Iterator[str], name: str) -> Iterator[str]:
    """The lines of a text, their ends kept: at \\n, or at \\r where the beginning has no \\n."""
    rest, end = "", None
    for piece in pieces:
        rest += piece
        end = end or ("\n" if "\n" in rest else "\r" if "\r" in rest else None)
        if end:
            *lines, rest = rest.split(end)
            for line in lines:
                yield line + end
        if len(rest) > LONGEST:
            raise UserError(f"{name}: a line of more than {LONGEST >> 20} million characters is no line of CSV")
    if rest:
        yield rest


# -- parquet ------------------------------------------------------------------------------------------------------


def parquet_rows(file: Path, table: Table) -> Iterator[str]:
    """As `rows`, of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{table.name}: parquet needs the package pyarrow, which comes with datasets: pip install datasets"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(
            file, buffer_size=PIECE, pre_buffer=False, page_checksum_verification=True
        ) as opened:
            schema = opened.schema_arrow
            table.columns.update(dict.fromkeys(schema.names))
            if table.column not in schema.names:
                raise table.without_column()
            for batch in opened.iter_batches(1000, columns=[table.column]):
                for value in batch.column(0).to_pylist():
                    yield from table.line(value)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table.name}: parquet, but damaged ({one_line(error)})") from None
    table.end()
