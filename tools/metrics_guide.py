"""Write the tables of the metrics guide anew from the table of metrics: python -m tools.metrics_guide."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: the project's folder, not this one, is where its modules are
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import storage
from measures.table import metrics_of

GUIDE = Path(__file__).resolve().parent.parent / "REPRODUCIBILITY_METRICS_GUIDE.md"
TABLES = {
    "pair": "Of a pair of trials, i and j",
    "activation": "Of all trials of an activation",
    "trial": "Of a trial",
}


def tables() -> str:
    """The metrics in Markdown, a table for each kind; with a column of sources where there are any."""
    lines = []
    for kind, title in TABLES.items():
        columns = 4 if any(m.source for m in metrics_of(kind)) else 3
        header = ("key in the JSON", "definition", "range", "source")
        rows = [(f"`{m.key}`", m.definition, f"{m.range} {m.unit}".strip(), m.source) for m in metrics_of(kind)]
        head, *body = ["| " + " | ".join(c.replace("|", "\\|") for c in r[:columns]) + " |" for r in [header, *rows]]
        lines += [f"**{title}**", "", head, "|---" * columns + "|", *body, ""]
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """The guide's text with its tables as they are now."""
    return re.sub(r"(?<=<!-- metrics_table -->\n).*(?=<!-- end -->)", lambda _: tables(), text, flags=re.DOTALL)


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write the tables of the metrics guide anew").parse_args()
    storage.write_text(GUIDE, with_tables(GUIDE.read_text(encoding="utf-8")))
