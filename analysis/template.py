"""Texts with blanks to fill in: the files in templates/."""

from __future__ import annotations

from pathlib import Path

import jinja2

FOLDER = Path(__file__).resolve().parent.parent / "templates"


def rendered(name: str, **values) -> str:
    """A template with its values. In HTML they are escaped, unless they are markupsafe.Markup; one that is missing is
    an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return found.get_template(name).render(values)
