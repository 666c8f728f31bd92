"""The report as one HTML page that opens offline: on a desk, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path

import storage

# The policy lets the file load nothing: what it shows is inside it, and a script in a hostile results file stays text.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ --ink: #1f2328; --soft: #57606a; --paper: #fff; --line: #d0d7de; --panel: #f6f8fa; --link: #0a53b0; }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 84rem;
 margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }}
a {{ color: var(--link); }}
h1, h2, h3 {{ line-height: 1.25; text-wrap: balance; }}
h1 {{ font-size: 1.3rem; margin: 0 0 .6rem; }}
h2 {{ font-size: 1.25rem; margin: 2.5rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }}
h3 {{ font-size: 1.05rem; margin: 1.6rem 0 .4rem; }}
p, ul, ol {{ margin: .5rem 0; }}
ul, ol {{ padding-left: 1.3rem; }}
code {{ background: var(--panel); padding: .05rem .25rem; overflow-wrap: anywhere; }}
nav {{ font-size: .85rem; }}
nav ol {{ list-style: none; display: flex; flex-wrap: wrap; gap: .1rem .9rem; padding: 0; margin: 0; }}
nav a {{ text-decoration: none; }}
section:first-of-type h2 {{ margin-top: .8rem; }}
.first {{ display: flex; flex-direction: column; }}
.first > figure {{ order: 1; }}
.first > ul {{ order: 2; }}
figure {{ margin: 1rem 0; }}
img {{ width: 100%; max-width: 62rem; height: auto; background: #fff; border-radius: .3rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums;
 margin: .8rem 0; }}
th, td {{ padding: .3rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }}
th {{ border-bottom: 2px solid var(--soft); vertical-align: bottom; }}
@media screen and (max-width: 47.9rem) {{ /* a row is a card, each value beside its column's name */
thead {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
table, tbody, tr, td {{ display: block; width: 100%; }}
tr {{ padding: .4rem 0; border-bottom: 2px solid var(--line); }}
td {{ display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .08rem 0; }}
td::before {{ content: attr(data-label); color: var(--soft); text-align: left; flex: 0 1 48%; }}
td:first-child {{ font-weight: 600; }}
td:first-child::before {{ content: none; }}
}}
@media screen and (min-width: 62rem) {{ /* contents at the side; the first figure beside the lines */
body {{ padding: 1.2rem 1.5rem; }}
h1 {{ font-size: 1.5rem; }}
.page {{ display: grid; grid-template-columns: 10.5rem minmax(0, 1fr); gap: 0 2rem; }}
nav {{ position: sticky; top: 1rem; align-self: start; padding-top: .8rem; }}
nav ol {{ display: block; }}
nav li {{ margin: .3rem 0; }}
.figured {{ display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 0 1.5rem; align-items: start; }}
.figured > p {{ grid-column: 1 / -1; }}
.figured > ul {{ font-size: .93rem; }}
.figured > figure {{ margin-top: .5rem; }}
}}
@media screen and (prefers-color-scheme: dark) {{
:root {{ --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117; --line: #363d46; --panel: #1b222b; --link: #79b8ff; }}
img {{ filter: brightness(.88); }}
}}
@media print {{
@page {{ size: A4; margin: 14mm 12mm; }}
body {{ font-size: 9.5pt; max-width: none; padding: 0; }}
nav {{ display: none; }}
h2, h3, thead {{ break-after: avoid; }}
.wide {{ overflow: visible; }}
tr, figure, li {{ break-inside: avoid; }}
thead {{ display: table-header-group; }}
table {{ font-size: 7.2pt; }}
th, td {{ padding: .8mm 1mm; white-space: normal; }}
img {{ max-height: 120mm; width: auto; max-width: 100%; display: block; }}
}}
</style>
</head>
<body>
<header>
{head}
</header>
<div class="page">
<nav aria-label="Contents">
<ol>
{contents}
</ol>
</nav>
<main>
{body}
</main>
</div>
</body>
</html>
"""


def to_html(text: str, images: Mapping[str, Path]) -> str:
    """Markdown as one HTML page that opens offline; `images` maps the links in the text to the files to put inside."""
    import markdown

    body = markdown.markdown(text, extensions=["tables", "sane_lists"])
    body = re.sub(r"<table>.*?</table>", lambda found: _labelled(found[0]), body, flags=re.DOTALL)
    body = re.sub(r"<p>(<img [^>]*>)</p>", r"<figure>\1</figure>", body)
    body = re.sub(r"(?<=\d) %", "&nbsp;%", body)
    head, *parts = re.split(r"(?=<h2>)", body)
    titles = [re.match(r"<h2>(.*?)</h2>", part)[1] for part in parts]
    sections = [f'<section id="s{i}">\n{part}</section>' for i, part in enumerate(parts, 1)]
    if sections:
        sections[0] = _first(sections[0])
    for link, path in images.items():  # last: what is inside is long
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        data = base64.b64encode(storage.read_bytes(path)).decode("ascii")
        sections = [part.replace(f'src="{link}"', f'src="data:{kind};base64,{data}"') for part in sections]
    return _PAGE.format(
        title=html.escape(next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Report")),
        head=head.strip(),
        contents="\n".join(f'<li><a href="#s{i}">{title}</a></li>' for i, title in enumerate(titles, 1)),
        body="\n".join(sections),
    )


def _labelled(table: str) -> str:
    """A table whose cells say what column they are of, for screens on which a row becomes a card."""
    names = [re.sub(r"<[^>]*>", "", name) for name in re.findall(r"<th[^>]*>(.*?)</th>", table)]

    def row(found):
        labels = iter(names)
        return re.sub(r"<td", lambda _: f'<td data-label="{next(labels, "").replace(chr(34), "&quot;")}"', found[0])

    return f'<div class="wide">{re.sub(r"<tr>.*?</tr>", row, table, flags=re.DOTALL)}</div>'


def _first(section: str) -> str:
    """The first section with its lines and figure, up to the first heading below it, in a box of their own."""
    title, rest = section.split("</h2>", 1)
    lines, heading, rest = rest.partition("<h3>")
    kind = "first figured" if "<figure>" in lines else "first"
    return f'{title}</h2>\n<div class="{kind}">{lines}</div>\n{heading}{rest}'
