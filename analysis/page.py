"""The report as one HTML page that opens offline: on a desk, on a phone, in the dark and on paper.

The page is templates/report.html. Its policy lets it load nothing: what it shows is inside it, and a script in a
hostile results file stays text.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path

import storage
from analysis.template import rendered


def to_html(text: str, images: Mapping[str, Path]) -> str:
    """Markdown as one HTML page that opens offline; `images` maps the links in the text to the files to put inside."""
    import markdown
    from markupsafe import Markup

    body = markdown.markdown(text, extensions=["tables", "sane_lists"])
    body = re.sub(r"<table>.*?</table>", lambda match: _labelled(match[0]), body, flags=re.DOTALL)
    body = re.sub(r"<p>(<img [^>]*>)</p>", r"<figure>\1</figure>", body)
    body = re.sub(r"(?<=\d) (?=[%*])", "&nbsp;", body)
    head, *parts = re.split(r"(?=<h2>)", body)
    titles = [re.match(r"<h2>(.*?)</h2>", part)[1] for part in parts]
    sections = [f'<section id="s{i}">\n{part}</section>' for i, part in enumerate(parts, 1)]
    for link, path in images.items():  # last: what is inside is long
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        data = base64.b64encode(storage.read_bytes(path)).decode("ascii")
        sections = [part.replace(f'src="{link}"', f'src="data:{kind};base64,{data}"') for part in sections]
    return rendered(
        "report.html",
        title=next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Report"),
        head=Markup(head.strip()),
        titles=map(Markup, titles),
        body=Markup("\n".join(sections)),
    )


def _labelled(table: str) -> str:
    """A table whose cells say what column they are of, for screens on which a row becomes a card."""
    names = [re.sub(r"<[^>]*>", "", name) for name in re.findall(r"<th[^>]*>(.*?)</th>", table)]

    def row(match):
        labels = iter(names)
        return re.sub(r"<td", lambda _: f'<td data-label="{next(labels, "").replace(chr(34), "&quot;")}"', match[0])

    return f'<div class="wide">{re.sub(r"<tr>.*?</tr>", row, table, flags=re.DOTALL)}</div>'
