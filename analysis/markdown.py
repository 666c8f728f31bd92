"""How the report writes numbers, names and tables, and how its Markdown becomes one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import mimetypes
from collections.abc import Iterable, Mapping
from pathlib import Path

import activations
import storage

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"  # stands where there is no number


# -- numbers ----------------------------------------------------------------------------------------------------------


def fixed(x: float | None, digits: int = 4, sign: str = "") -> str:
    """A number with so many decimals; what isn't 0 never shows as 0."""
    if x is None:
        return DASH
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


def p_value(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.3f}" if p < 0.9995 else "1"


def duration(hours: float) -> str:
    minutes = 60 * hours
    return f"{hours:.1f} hours" if hours >= 1.5 else f"{minutes:.0f} minutes" if minutes >= 1.5 else "about a minute"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


# -- texts ------------------------------------------------------------------------------------------------------------


def one_line(text) -> str:
    return " ".join(str(text).split())


def safe(text) -> str:
    """A text from a file, so that it shows as it is: no markup, no cell of a table, one line."""
    text = html.escape(one_line(text), quote=False)
    return "".join("\\" + c if c in "\\`*[]|" else c for c in text)


def code(text) -> str:
    """A name from a file in the typewriter face."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '¦')}`"


def label(name: str) -> str:
    return safe(activations.label(name))


def labels(names: Iterable[str], last: str = "and") -> str:
    return listed(map(label, names), last)


def listed(items: Iterable[str], last: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    items = list(items)
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def undressed(text: str) -> str:
    """Markdown as plain text, for a terminal."""
    for mark in ("**", "*", "`", "\\"):
        text = text.replace(mark, "")
    return html.unescape(text)


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table between blank lines; the first `left` columns are aligned left, others right."""
    from tabulate import tabulate

    header = list(header)
    align = ["left" if i < left else "right" for i in range(len(header))]
    text = tabulate([list(row) for row in rows], header, "pipe", colalign=align, disable_numparse=True)
    return ["", *text.splitlines(), ""]


# -- HTML -------------------------------------------------------------------------------------------------------------

# The policy lets the file load nothing: what it shows is inside it, and a script in a hostile results file stays text.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }}
p, li {{ max-width: 50rem; }}
h1, h2, h3 {{ line-height: 1.25; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; margin: 1rem 0; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
td[style*="right"] {{ white-space: nowrap; }}
th {{ border-bottom: 2px solid #888; }}
img {{ max-width: 70rem; width: 100%; height: auto; }}
p:has(img) {{ max-width: none; }}
code {{ background: #f3f3f3; padding: .05rem .25rem; overflow-wrap: anywhere; }}
@media print {{ body {{ max-width: none; margin: 0; font-size: 11px; }} h2 {{ break-after: avoid; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def to_html(text: str, images: Mapping[str, Path]) -> str:
    """Markdown as one HTML page that opens offline; `images` maps the links in the text to the files to put inside."""
    import markdown

    body = markdown.markdown(text, extensions=["tables", "sane_lists"])
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    for link, path in images.items():
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        data = base64.b64encode(storage.read_bytes(path)).decode("ascii")
        body = body.replace(f'src="{link}"', f'src="data:{kind};base64,{data}"')
    title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Report")
    return _PAGE.format(title=html.escape(title), body=body)
