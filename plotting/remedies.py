"""The figure of the remedies: PD against loss, and the time they take. A panel is a function of (ax, activations)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.remedies import NONE, compared, front, mean_loss, mean_pd
from plotting.style import GREY, SMALL, activation_style, headline, limits, named, panels, plain

AREA = 30  # points²: of a marker that stands for the time of one trial


def remedies(entries: Mapping[str, Mapping]) -> Figure:
    columns = min(2, len(entries))
    rows = math.ceil(len(entries) / columns)
    figure, axes = panels(rows, columns, 0.95 + 2.75 * rows, left=0.62, bottom=0.8)
    note = (
        "Each point: the mean PD and the mean validation loss of a remedy; lower left is better. Area: training time "
        "of a unit (a trial, or a whole ensemble).\nFilled: PD differs from none (adjusted p < 0.05). Line: "
        "those that no other beats in one without losing in the other."
    )
    headline(figure, "What brings trials together, and what it costs", note)
    for ax, name in zip(axes.flat, entries, strict=False):
        pareto(ax, entries, name)
    for ax in axes.flat[len(entries) :]:
        ax.set_axis_off()
    return figure


def pareto(ax: Axes, entries: Mapping[str, Mapping], name: str | None = None) -> None:
    """One activation, the first unless another is named."""
    name = name or next(iter(entries))
    arms, colour = entries[name]["arms"], activation_style(name)[0]
    tests = {c.name: c for c in compared(entries[name])}
    points = [(mean_loss(arm), mean_pd(arm)) for arm in arms]
    best = front(points)
    ax.plot(*zip(*(points[i] for i in best), strict=True), color=GREY, linewidth=0.7, zorder=1)
    own = arms[0]["time"]
    turns = {i: turn for turn, i in enumerate(sorted(range(len(points)), key=lambda i: points[i][1]))}
    for i, (arm, (loss, pd)) in enumerate(zip(arms, points, strict=True)):
        test = tests.get(arm["arm"])
        shown = arm["arm"] == NONE or (test.p_pd is not None and test.p_pd < 0.05)
        area = AREA * (arm["time"] / own if arm["time"] and own else 1)
        ax.scatter(
            loss, pd, s=area, marker="X" if arm["arm"] == NONE else "o", edgecolors=colour, zorder=2 + (not i),
            facecolors=colour if shown else "white", gid=f"{name} {arm['arm']}",
        )  # fmt: skip
        above = 4 if turns[i] % 2 else -9  # neighbours in PD are named on different sides
        ax.annotate(
            plain(arm["arm"], 24), (loss, pd), xytext=(4, above), textcoords="offset points", fontsize=SMALL, color=GREY
        )
    limits(ax, [loss for loss, _ in points], "x", 0.25)
    limits(ax, [pd for _, pd in points], "y", 0.15)
    ax.set(title=named(name), xlabel="validation loss (nats per token)", ylabel="relative PD")
