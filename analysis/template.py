"""Texts that are mostly words: the files of templates/, with blanks to fill in."""

from __future__ import annotations

import functools
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "templates"


def rendered(name: str, **values) -> str:
    """A template with its values. In HTML they are escaped, unless they are markupsafe.Markup; one that is missing is
    an error."""
    return _environment().get_template(name).render(values)


def plain(name: str) -> str:
    """A file of templates/ as it is."""
    return (FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
