"""How numbers, names, tests and tables are written: in the report's Markdown and, undressed, on a terminal."""

from __future__ import annotations

import html
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path

import activations
from analysis.study import ALPHA
from cli import counted, duration  # noqa: F401 — words that reports are made of
from significance import Comparison

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"  # stands where there is no number


# -- numbers ----------------------------------------------------------------------------------------------------------


def fixed(x: float | None, digits: int = 4, sign: str = "") -> str:
    """A number with so many decimals, from a thousand on with none; what isn't 0 never shows as 0."""
    if x is None:
        return DASH
    if abs(x) >= 1000:
        return f"{x:{sign},.0f}".replace("-", MINUS)
    vanishes = x != 0 and abs(x) < 0.5 * 10**-digits
    return (f"{x:{sign}.1g}" if vanishes else f"{x:{sign}.{digits}f}").replace("-", MINUS)


def signed(x: float, digits: int = 1) -> str:
    return fixed(x, digits, "+")


def plus_minus(average: float | None, deviation: float | None, digits: int = 4) -> str:
    return fixed(average, digits) + ("" if deviation is None else f" ± {fixed(deviation, digits)}")


def span(values: Iterable[float], digits: int, unit: str = "") -> str:
    """'3.1 to 4.2 %', or the one value when all round to the same."""
    values = list(values)
    low, high = fixed(min(values), digits), fixed(max(values), digits)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def limits(low: float | None, high: float | None, digits: int = 4, write: Callable = fixed) -> str:
    """' [0.1, 0.2]', behind a number; '' where there is no interval."""
    return "" if low is None else f" [{write(low, digits)}, {write(high, digits)}]"


def p_value(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.3f}" if p < 0.9995 else "1"


def effect(test: Comparison | None) -> str:
    """A ratio of PDs as a change in percent, a difference of losses in nats; with the 95 % interval."""
    if test is None or test.effect is None:
        return DASH
    ratio = test.metric == "pd"
    values = [test.effect] + ([] if test.low is None else [test.low, test.high])
    first, *limits = (signed(100 * (x - 1)) if ratio else signed(x, 4) for x in values)
    return first + (" %" if ratio else "") + (f" [{', '.join(limits)}]" if limits else "")


def percent_range(test: Comparison) -> str:
    """How large a difference that was shown is, without its sign, by the 95 % interval: '4 to 12 %'; losses in nats."""
    pd = test.metric == "pd"
    low, high = sorted(abs(100 * (x - 1)) if pd else abs(x) for x in (test.low, test.high))
    digits = 1 if pd else 3
    return f"{fixed(low, digits)} to {fixed(high, digits)} {'%' if pd else 'nats per token'}"


def effect_size(test: Comparison | None) -> str:
    if test is None or test.g is None:
        return DASH
    return f"{test.g_kind} = {fixed(test.g, 2)} [{fixed(test.g_low, 2)}, {fixed(test.g_high, 2)}]"


def flagged(p: float | None, level: float = ALPHA) -> str:
    """An adjusted p-value, marked where it is below the level."""
    return p_value(p) + (" \\*" if p is not None and p < level else "")


def trials_planned(needed: int | None, low: int | None, high: int | None) -> str:
    needed, low, high = ("many" if x is None else str(x) for x in (needed, low, high))
    return needed if low == high else f"{needed} ({low}{DASH}{high})"


# -- texts ------------------------------------------------------------------------------------------------------------


def safe(text) -> str:
    """A text from a file, so that it shows as it is: no markup, no cell of a table, one line."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return "".join("\\" + c if c in "\\`*[]|" else c for c in text)


def label(name: str) -> str:
    return safe(activations.label(name))


def address(target: Path, folder: Path) -> str:
    """The address of a file in a text that lies in `folder`."""
    return urllib.parse.quote(Path(os.path.relpath(target, folder)).as_posix())


def labels(names: Iterable[str], last: str = "and") -> str:
    return listed(map(label, names), last)


def listed(items: Iterable[str], last: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    items = list(items)
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def grouped(pairs: Iterable[tuple]) -> dict:
    """{key: its items} of (key, item), in their order."""
    groups: dict = {}
    for key, item in pairs:
        groups.setdefault(key, []).append(item)
    return groups


def undressed(text: str) -> str:
    """Markdown as plain text, for a terminal."""
    text = re.sub("^#+ ", "", text, flags=re.MULTILINE)
    for mark in ("**", "*", "`", "\\"):
        text = text.replace(mark, "")
    return html.unescape(text)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table between blank lines; the first `left` columns are aligned left, others right."""
    from tabulate import tabulate

    header = list(header)
    align = ["left" if i < left else "right" for i in range(len(header))]
    text = tabulate([list(row) for row in rows], header, "pipe", colalign=align, disable_numparse=True)
    return ["", *text.splitlines(), ""]


def tabled(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The same as one text; '' without rows."""
    rows = list(rows)
    return "\n".join(table(header, rows)) if rows else ""
