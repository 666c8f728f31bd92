"""Figures of a comparison: each group's, as a study has them, and the matrix over all members."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import plot_utils
import storage
from plotting.style import SMALL, house_style
from questions.foreign.results import Comparison

NUMBERED = 12  # members: with more, numbers in cells can't be read


def drawn(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Draw all figures; {what: its file}, the matrix as 'matrix'."""
    figures = {}
    if len(comparison.members) > 1:
        figures["matrix"] = folder / "matrix.png"
        with house_style(), storage.atomic_path(figures["matrix"]) as temporary:
            matrix(comparison).savefig(temporary, format="png", metadata={})
    for group, results in comparison.results.items():
        if len(results["trials"]) > 1:
            figures[group] = plot_utils.plot_reproducibility_metrics(results, group, folder)
    return figures


def matrix(comparison: Comparison) -> Figure:
    """Relative PD of each two members as a heat map that begins at 0, lines between the groups."""
    table = comparison.matrix
    values, names, n = table.to_numpy(), list(table.index), len(table)
    short = [name if len(name) <= 32 else f"…{name[-31:]}" for name in names]
    left, cell = 0.07 * max(map(len, short)) + 0.15, min(0.62, max(0.22, 4.6 / n))
    figure = Figure(figsize=(left + cell * n + 0.95, left + cell * n + 0.35))
    width, height = figure.get_size_inches()
    ax = figure.add_axes((left / width, left / height, cell * n / width, cell * n / height))
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1.25 * values.max() or 1)
    ax.set_title("Relative PD of each two members", loc="left")
    ax.set_xticks(range(n), short, rotation=90)
    ax.set_yticks(range(n), short)
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    groups = [m["group"] for m in comparison.members]
    for k in range(1, n):
        if groups[k] != groups[k - 1]:
            ax.axhline(k - 0.5, color="black", lw=0.8)
            ax.axvline(k - 0.5, color="black", lw=0.8)
    if n <= NUMBERED:
        digits = 2 if cell < 0.5 else 3
        for i in range(n):
            for j in range(n):
                if i != j:
                    colour = "white" if image.norm(values[i, j]) > 0.6 else "black"
                    place = {"ha": "center", "va": "center", "fontsize": SMALL, "color": colour}
                    ax.text(j, i, f"{values[i, j]:.{digits}f}", **place)
    bar = figure.colorbar(
        image, cax=figure.add_axes((1 - 0.75 / width, left / height, 0.12 / width, cell * n / height))
    )
    bar.outline.set_visible(False)
    return figure
