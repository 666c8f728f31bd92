"""Texts that are mostly words: the files of templates/, filled in by jinja2.

<< value >> stands for a value, <% if … %> for a choice: neither occurs in HTML, CSS, JavaScript or LaTeX.
"""

from __future__ import annotations

import functools
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "templates"


def filled(name: str, **values) -> str:
    """The template with these values; one that it names and that is missing is an error."""
    return _environment().get_template(name).render(values)


def plain(name: str) -> str:
    """A file of templates/ as it is."""
    return (FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
