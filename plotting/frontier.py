"""The figure of the frontiers: PD of annealed models against their loss, and how the loss falls with the steps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import significance
from analysis.records import Branch
from analysis.results import matrix
from measures.table import BY_KEY as METRIC
from plotting.style import activation_style, draw, headline, legend_below, legend_rows, named, panels, ticks

Frontiers = dict[str, list[Branch]]


def frontiers(data: Frontiers) -> Figure:
    names = {name: named(name, 20) for name in data}
    rows = legend_rows(names.values())
    figure, axes = panels(1, 2, 3.5 + 0.16 * rows, bottom=0.88 + 0.16 * rows)
    note = (
        "each point: the models of one branch of the trunk, their learning rate cooled to the end; mean loss, and mean "
        "PD over pairs of trials.\nbars: 95 % over trials (of PD by the jackknife); none with fewer than three trials"
    )
    headline(figure, "PD of annealed models against their loss", note)
    draw(axes.flat, data, (pd_by_loss, loss_by_steps))
    legend_below(figure, names, 0.42)
    return figure


def pd_by_loss(ax: Axes, data: Frontiers) -> None:
    for name, points in data.items():
        losses = [_loss(point) for point in points]
        pds = [significance.mean_pd_interval(matrix(point.pds, point.losses)) for point in points]
        _line(ax, name, [loss for loss, _, _ in losses], pds)
    ax.set(title="Frontier", ylabel=METRIC["relative_pd"].heading)
    ax.set_xlabel(f"validation loss ({METRIC['val_loss'].unit}), falling →")
    ax.invert_xaxis()  # training goes from left to right


def loss_by_steps(ax: Axes, data: Frontiers) -> None:
    for name, points in data.items():
        _line(ax, name, [point.ends for point in points], [_loss(point) for point in points])
    ax.set(title="Loss by length of training", xlabel="steps of the branch's models")
    ax.set_ylabel(f"validation loss ({METRIC['val_loss'].unit})")
    ticks(ax.xaxis, 5, integer=True)


def _loss(point: Branch) -> tuple[float, float | None, float | None]:
    return significance.mean_interval(list(point.losses.values()))


def _line(ax: Axes, name: str, x: list[float], values: list[tuple]) -> None:
    """Means and their intervals, where they have one."""
    colour, marker = activation_style(name)
    means = np.array([mean for mean, _, _ in values])
    ends = np.array([(mean, mean) if low is None else (low, high) for mean, low, high in values]).T
    ax.errorbar(x, means, abs(ends - means), fmt="none", ecolor=colour, elinewidth=0.7)
    ax.plot(x, means, color=colour, marker=marker, markersize=3.5, gid=name, label=named(name))
