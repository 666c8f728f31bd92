"""Texts that are mostly words: the files of templates/, with blanks to fill in. Numbers and names are written in them
by the functions of analysis.markdown."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "templates"


def rendered(name: str, /, **values) -> str:
    """A template with its values. In HTML they are escaped, unless they are markupsafe.Markup; one that is missing is
    an error."""
    return _environment().get_template(name).render(values)


def lines(name: str, /, **values) -> list[str]:
    """The lines of a template, a blank one at most at a time."""
    return re.sub("\n{3,}", "\n\n", rendered(name, **values)).strip().splitlines()


def plain(name: str) -> str:
    """A file of templates/ as it is."""
    return (FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _environment():
    import jinja2

    from analysis import markdown

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: word for name, word in vars(markdown).items() if inspect.isfunction(word)}
    return environment
