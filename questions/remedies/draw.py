"""The figure of the remedies: PD against loss, and the time they take. A panel is a function of (ax, activations)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

import significance
from analysis import products
from analysis.products import Folder
from analysis.tables import csv, frame
from config import UserError
from plot_utils import figure
from plotting.style import GREY, SMALL, activation_style, headline, limits, named, panels, plain
from questions.remedies.tell import (
    FIGURE_FILE,
    NONE,
    TABLE_FILE,
    entries,
    front,
    mean_loss,
    mean_pd,
    records,
    whole_time,
    with_remedies,
)

# beside a point: to the right or left, and how many points (1/72 inch) above it; the first is the best
PLACES = [(side, above) for above in (4, -9, 12, -17, 20, -25) for side in (1, -1)]
AREA = 30  # points²: of a marker that stands for the time of one trial


def whole(entries: Mapping[str, Mapping]) -> Figure:
    columns = min(2, len(entries))
    rows = math.ceil(len(entries) / columns)
    drawn, axes = panels(rows, columns, 0.95 + 2.75 * rows, left=0.62, bottom=0.8)
    note = (
        "Each point: the mean PD and the mean validation loss of a remedy, with 95 % intervals over units, each by "
        "itself; lower left is better.\nArea: training time of a unit (a trial, or a whole ensemble) and of the models "
        "it learns from. Cross: none. Line: those that no\nother beats in one without losing in the other."
    )
    headline(drawn, "What brings trials together, and what it costs", note)
    for ax, name in zip(axes.flat, entries, strict=False):
        pareto(ax, entries, name)
    for ax in axes.flat[len(entries) :]:
        ax.set_axis_off()
    return drawn


def pareto(ax: Axes, entries: Mapping[str, Mapping], name: str | None = None) -> None:
    """One activation, the first unless another is named."""
    name = name or next(iter(entries))
    arms, colour = entries[name]["arms"], activation_style(name)[0]
    points = [(mean_loss(arm), mean_pd(arm)) for arm in arms]
    best = front(points)
    ax.plot(*zip(*(points[i] for i in best), strict=True), color=GREY, linewidth=0.7, zorder=1)
    own = arms[0]["time"]
    for i, (arm, (loss, pd)) in enumerate(zip(arms, points, strict=True)):
        spent = whole_time(arm, arms[0])
        area = AREA * (spent / own if spent and own else 1)
        ax.scatter(
            loss, pd, s=area, marker="X" if arm["arm"] == NONE else "o", edgecolors=colour, zorder=2 + (not i),
            facecolors=colour, gid=f"{name} {arm['arm']}",
        )  # fmt: skip
    lines = [line for arm, point in zip(arms, points, strict=True) for line in _limits(arm, *point)]
    for x, y in lines:
        ax.plot(x, y, color=colour, linewidth=0.5, alpha=0.5, zorder=1, gid="interval")
    losses, pds = zip(*points, *(end for line in lines for end in zip(*line, strict=True)), strict=True)
    limits(ax, losses, "x", 0.25)
    limits(ax, pds, "y", 0.15)
    name_points(ax, points, [plain(arm["arm"], 24) for arm in arms])
    ax.set(title=named(name), xlabel="validation loss (nats per token)", ylabel="relative PD")


def _limits(arm: Mapping, loss: float, pd: float) -> Iterator[tuple]:
    """(x, y) of the line of an interval, of PD and of loss, where there is one."""
    _, low, high = significance.mean_pd_interval(arm["pd"])
    if low is not None:
        yield (loss, loss), (low, high)
    _, low, high = significance.mean_interval(arm["losses"])
    if low is not None:
        yield (low, high), (pd, pd)


def name_points(ax: Axes, points: list[tuple[float, float]], names: list[str]) -> None:
    """Each name beside its point, where it covers neither another name nor another point, if there is such a place.
    The axes must have their limits."""
    scale = 72 / ax.figure.dpi  # pixels in points
    at = ax.transData.transform(points) * scale
    left, right = (ax.transAxes.transform([(0, 0), (1, 0)]) * scale)[:, 0]
    size = FontProperties(size=SMALL).get_size_in_points()
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in at]
    for i in sorted(range(len(points)), key=lambda i: at[i][1]):
        width = 0.55 * size * len(names[i])

        def box(side, above, i=i, width=width):
            x = at[i][0] + 4 * side - (width if side < 0 else 0)
            return x, at[i][1] + above, x + width, at[i][1] + above + size

        def crossed(place, i=i):
            a = box(*place)
            others = [b for k, b in enumerate(taken) if k != i]
            over = sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in others)
            return over + 2 * (a[0] < left or a[2] > right)

        side, above = place = min(PLACES, key=crossed)
        taken.append(box(*place))
        ax.annotate(
            names[i], points[i], xytext=(4 * side, above), textcoords="offset points", fontsize=SMALL, color=GREY,
            ha="left" if side > 0 else "right", va="baseline",
        )  # fmt: skip


@figure("remedies", whole, pareto=pareto)
def plot_remedies(remedies: Mapping):
    """What brings the trials of each activation together: PD against validation loss, the area of a point the training
    time. Writes `remedies.png`. Panel: pareto, of the first activation.

    Args:
        remedies: what `analyze_results.py --remedies` wrote, the contents of results/remedies.json.

    Raises:
        UserError: it is something else, or no activation has a remedy.
        storage.StorageError: the disk refuses.
    """
    remedied = with_remedies(products.entries_of(remedies, "remedies"))
    if not remedied:
        raise UserError("remedies: no activation has one (train.py --averages or --remedy, or four trials)")
    return remedied


def make(folder: Folder) -> dict[Path, object]:
    """Table and figure."""
    measured = entries(folder)
    made = {folder.results / TABLE_FILE: csv(frame(records(measured)))}
    if with_remedies(measured):
        made[folder.plots / FIGURE_FILE] = partial(plot_remedies, {"activations": measured})
    return made
