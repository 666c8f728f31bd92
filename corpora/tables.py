"""The text of one column of a table, row by row, in bounded memory: JSON lines, JSON, CSV and parquet.

JSON lines, an array of objects and objects one after the other are read alike. A row without the column, or with a
null there, is left out and counted. Readers that infer types, as pandas and pyarrow do, would make 1.50 the text
"1.5" and 2020-01-01 a date; here a text is what its file says, character by character.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from config import UserError
from corpora.source import PIECE, one_line

KINDS = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON", ".csv": "CSV", ".tsv": "CSV"}
KINDS[".parquet"] = "parquet"
READING = {"CSV": 2}  # raised where the same file gives another text than before, so that no old cache of it is used
LONGEST = 64 << 20  # characters of one value or line
FEW = 3  # lines that one value of a CSV may well have
_SPACE, _SPACE_OR_COMMA = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")


@dataclass
class Table:
    """A table that is being read: its name, the column wanted, and what has been found so far."""

    name: str
    column: str
    rows: int = 0
    left_out: int = 0
    remark: str = ""  # about how it is written
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

    def without_column(self, more: str = "") -> UserError:
        names = one_line(", ".join(map(repr, self.columns)), 300) if self.columns else "none"
        return UserError(
            f"{self.name}: no text in a column {self.column!r}; the columns are {names}: choose with --text-column "
            f"NAME{more}"
        )


def looks_like_json(text: str) -> bool:
    """Whether the beginning of a text is that of JSON lines (of which a few may be damaged), of objects one after the
    other or of an array of them."""
    start = re.match(r"\s*(\[\s*)?(?=\{)", text)
    if not start:
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text, start.end())
        return text[end:].lstrip()[:1] in (("", ",", "]") if start[1] else ("", "{"))
    except (ValueError, RecursionError) as error:
        lines = [line.strip() for line in text.split("\n")[:100] if line.strip()]
        objects = sum(line.startswith('{"') and line.endswith("}") for line in lines)
        cut = len(text) > PIECE // 4 and str(error).startswith("Unterminated string")
        return cut or 2 * objects > len(lines)


def rows(kind: str, file: Path, pieces: Callable[[], Iterator[str]], table: Table) -> Iterator[str]:
    """The text of the column of a table of the `kind` that `KINDS` names.

    Args:
        pieces: called anew for each pass over the file; gives its text. Of parquet, the file itself is read.

    Raises:
        UserError: not such a table, no such column, or something else than text in it.
    """
    if kind == "parquet":
        yield from _parquet_rows(file, table)
    else:
        yield from _csv_rows(pieces, table) if kind == "CSV" else _json_rows(pieces(), table)
    if table.left_out and not table.rows:  # there were rows, but none with the column
        raise table.without_column()


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
    for piece in itertools.chain(pieces, [None]):
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
                # is it only cut off by the end of what has been read?
                cut = str(error).startswith("Unterminated string") or getattr(error, "pos", 0) >= len(text) - 16
                if piece is not None and cut and len(text) - at <= LONGEST:
                    break
                raise _not_json(table, error) from None
            at, begun = end, True
            yield value
    if array:
        raise _not_json(table, "the end of the list is missing")


def _not_json(table: Table, why) -> UserError:
    why = getattr(why, "msg", None) or one_line(why)
    return UserError(
        f"{table.name}: not JSON ({why} in row {table.number}); mend it, or give --text-column '' to train on the file "
        f"as it is"
    )


# -- CSV ----------------------------------------------------------------------------------------------------------


def _csv_rows(pieces: Callable[[], Iterator[str]], table: Table) -> Iterator[str]:
    form, columns = _csv_form(pieces(), table)
    table.columns.update(dict.fromkeys(columns))
    header = table.column in columns
    if header:
        index = columns.index(table.column)
    elif table.column.isdigit() and 0 < int(table.column) <= len(columns):
        index = int(table.column) - 1
    elif columns:
        raise table.without_column("; no header? --text-column 1, or another number")
    reader = csv.reader(_lines(pieces(), table.name), **form)
    for row in filter(None, itertools.islice(reader, int(header), None)):
        yield from table.line(row[index])


def _csv_form(pieces: Iterator[str], table: Table) -> tuple[dict, list[str]]:
    """How the whole of a CSV is written, by a first pass over it, and its first row, which names the columns.

    Quotation marks enclose fields, unless they can't and each line has the header's fields without that: then they are
    part of the text, as TSV is often written. Raises UserError: rows differ in their number of fields, or a quotation
    mark is not closed.
    """
    csv.field_size_limit(LONGEST)
    lines = _lines(pieces, table.name)
    head = list(itertools.islice(lines, 100))
    first = {d: _first_row(head, d) for d in ",;\t|"}
    # the delimiter that gives the column, else the one that gives most
    delimiter = max(first, key=lambda d: (table.column in first[d], len(first[d])))
    columns, even = first[delimiter], True

    def watched() -> Iterator[str]:
        nonlocal even
        for line in itertools.chain(head, lines):
            even = even and (not line.strip() or line.count(delimiter) == len(columns) - 1)
            yield line

    stream, problem, before, longest = watched(), None, 0, 0
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            longest, before = max(longest, reader.line_num - before), reader.line_num
            if row and len(row) != len(columns):
                problem = (
                    f"line {reader.line_num}: {len(row)} fields where the header has {len(columns)}; put quotation "
                    f"marks around a field that contains {delimiter!r}"
                )
                break
    except csv.Error as error:
        problem = f"line {reader.line_num}: not CSV ({error})"
    for _ in stream:  # are they even to the end?
        pass
    form = {"delimiter": delimiter, "strict": True}
    if (problem or longest > FEW) and even and len(columns) > 1:
        table.remark = "quotation marks are part of the text"
        return {**form, "quoting": csv.QUOTE_NONE}, columns
    if problem:
        raise UserError(f"{table.name}: {problem}")
    if longest > FEW:
        table.remark = f"the longest of {longest:,} lines"
    return form, columns


def _first_row(lines: list[str], delimiter: str) -> list[str]:
    try:
        return [" ".join(name.split()) for name in next(csv.reader(lines, delimiter=delimiter), [])]
    except csv.Error:
        return []


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


def _parquet_rows(file: Path, table: Table) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{table.name}: parquet needs the package pyarrow, which comes with datasets: pip install datasets"
        ) from None
    try:
        careful = {"buffer_size": PIECE, "pre_buffer": False, "page_checksum_verification": True}
        with pyarrow.parquet.ParquetFile(file, **careful) as opened:
            table.columns.update(dict.fromkeys(opened.schema_arrow.names))
            if table.column not in table.columns:
                raise table.without_column()
            for batch in opened.iter_batches(1000, columns=[table.column]):
                for value in batch.column(0).to_pylist():
                    yield from table.line(value)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table.name}: parquet, but damaged ({one_line(error)})") from None
