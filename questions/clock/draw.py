"""The figure of the chaos clock. A panel is a function of (ax, clocks), {activation: questions.clock.tell.Clock}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis.markdown import address
from analysis.products import Folder
from analysis.tables import csv, frame
from config import UserError
from plot_utils import figure
from plotting.style import GREY, activation_style, draw, headline, legend_below, legend_rows, named, panels, say
from questions.clock import rates as by_rates
from questions.clock import tell as one_rate
from questions.clock.rates import Rates, critical_rate
from questions.clock.tell import FORGOTTEN, Clock

Clocks = Mapping[str, Clock]


def whole(clocks: Clocks) -> Figure:
    names = {name: named(name, 20) for name in clocks}
    bottom = 1.05 + 0.16 * legend_rows(names.values())
    rows = 1 + any(len(one.forks) > 1 for one in clocks.values())
    drawn, axes = panels(rows, 2, 0.3 + 2.3 * rows + bottom, bottom=bottom, across=0.8, down=0.7)
    note = "Twins that differ from their trial in one bit since step 0; thin lines: seeds, thick: their geometric mean."
    if rows > 1:
        note += (
            " Below: by the step\nat which the twin left, doubling time while it grows (geometric mean, 95 % interval; "
            "no point: it does not grow so), and PD\nat the end of training (median, lowest to highest seed)."
        )
    one = next(iter(clocks.values()))
    seeds = max(len(c.trials) for c in clocks.values())
    at = f"{one.contents['config']['precision']}, {seeds} seed{'s' * (seeds > 1)}"
    headline(drawn, f"How fast two trainings part that differ in one bit  ·  {at}", note)
    draw(axes.flat, clocks, PANELS.values())
    legend_below(drawn, names, 0.6)
    return drawn


def _distances(ax: Axes, clocks: Clocks, kind: str, steps: str, title: str, ylabel: str) -> None:
    drawn = False
    for name, one in clocks.items():
        colour, _ = activation_style(name)
        twins = list(one.twins(one.forks[0]).values())
        curves = [(np.array(t[steps])[1:], np.array(t[kind], float)[1:]) for t in twins]  # 0: the bit itself
        curves = [(x, np.where(y > 0, y, np.nan)) for x, y in curves]
        for x, y in curves:
            ax.plot(x, y, color=colour, linewidth=0.4, alpha=0.5)
        if together := [y for x, y in curves if len(x) == len(curves[0][0])]:
            drawn = drawn or bool(np.isfinite(together).any())
            ax.plot(curves[0][0], np.exp(np.mean(np.log(together), 0)), color=colour, linewidth=1.6, gid=name)
    if not drawn:
        say(ax, "no distance")
        return
    ax.set(title=title, xlabel="steps since the fork", ylabel=ylabel, xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        numbered(axis)


def weights(ax: Axes, clocks: Clocks) -> None:
    _distances(ax, clocks, "weights", "steps", "Weights", "‖w′ − w‖ / ‖w‖")


def predictions(ax: Axes, clocks: Clocks) -> None:
    _distances(ax, clocks, "predictions", "prediction_steps", "Predictions", "relative PD")


def _by_fork(ax: Axes, clocks: Clocks, interval: Callable) -> None:
    width = max(max(c.forks) for c in clocks.values()) or 1
    for i, (name, one) in enumerate(clocks.items()):
        colour, marker = activation_style(name)
        points = [(fork + (i - len(clocks) / 2) * width / 120, *interval(one, fork)) for fork in one.forks]
        points = [(x, y, y, y) if low is None else (x, y, low, high) for x, y, low, high in points if y is not None]
        if not points:
            continue
        x, y, *limits = np.array(points).T
        ax.errorbar(x, y, abs(limits - y), fmt="none", ecolor=colour, elinewidth=0.7)
        ax.plot(x, y, color=colour, marker=marker, linewidth=0.8, gid=name)
    ax.set(xlabel="step at which the twin left", yscale="log")
    numbered(ax.yaxis)


def doubling(ax: Axes, clocks: Clocks) -> None:
    _by_fork(ax, clocks, lambda c, fork: c.doubling_interval(fork))
    ax.set(title="Doubling time of the weights' distance", ylabel="steps")


def ends(ax: Axes, clocks: Clocks) -> None:
    def span(c: Clock, fork: int) -> tuple:
        values = list(c.final(fork, "predictions").values())
        middle = float(np.median(values))
        return (middle, min(values), max(values)) if middle > 0 else (None, None, None)  # 0 has no place on a log axis

    _by_fork(ax, clocks, span)
    ax.set(title="PD at the end of training", ylabel="relative PD")


PANELS = {"weights": weights, "predictions": predictions, "doubling": doubling, "ends": ends}


@figure("clock", whole, **PANELS)
def plot_clock(clocks: Mapping):
    """How fast two trainings part that differ in one bit: distance of weights and predictions against steps, doubling
    time, and PD at the end by the step of the fork. Writes `clock.png`. Panels: weights, predictions, doubling, ends.

    Args:
        clocks: {activation: Clock}, what questions.clock.tell.load_clocks reads from the files of `train.py --clock`.

    Raises:
        UserError: it is something else, or empty.
        storage.StorageError: the disk refuses.
    """
    if not isinstance(clocks, Mapping) or not clocks or not all(isinstance(c, Clock) for c in clocks.values()):
        raise UserError("clocks: {activation: Clock} is needed, as clock.tell.load_clocks('results') gives it")
    return clocks


def _made(tell, folder: Folder, clocks: Mapping, plot: Callable) -> dict[Path, object]:
    """Page, table and figure, where there is a clock that has not diverged."""
    own, figure = folder.results / tell.FOLDER, folder.plots / tell.FIGURE_FILE
    if not clocks:
        return {}
    return {
        own / tell.PAGE_FILE: tell.page(clocks, address(figure, own)),
        own / tell.TABLE_FILE: csv(frame(tell.records(clocks))),
        figure: partial(plot, clocks),
    }


def make(folder: Folder) -> dict[Path, object]:
    """Of the clocks in a folder of results."""
    return _made(one_rate, folder, one_rate.load_clocks(folder.results), plot_clock)


def by_rate(ax: Axes, rates: Rates) -> None:
    ax.axhline(FORGOTTEN, color=GREY, linestyle=":", linewidth=0.9)
    for name, clocks in rates.items():
        colour, marker = activation_style(name)
        for rate, one in clocks.items():
            ends = np.exp(list(one.ends.values()))
            ax.plot(np.full(len(ends), rate), ends, marker, color=colour, markersize=2.5, alpha=0.5, linestyle="none")
        means = [one.end_interval[0] for one in clocks.values()]
        ax.plot(list(clocks), means, color=colour, marker=marker, linewidth=1.4, gid=name)
        point, _, _ = critical_rate(clocks)
        if 0 < point < np.inf:
            ax.plot([point, point], [FORGOTTEN, ax.get_ylim()[0]], color=colour, linestyle=":", linewidth=0.9)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="relative PD at the end")
    numbered(ax.xaxis, sorted({rate for clocks in rates.values() for rate in clocks}))
    numbered(ax.yaxis)


def numbered(axis, places: Sequence[float] = ()) -> None:
    """Ticks of a log axis that are numbers, not powers: at these places, or where they are."""
    if places:
        axis.set_major_locator(FixedLocator(places))

    def text(x: float, _=None) -> str:
        return f"{x:g}" if 1e-4 < x < 1e5 else f"{x:.0e}"

    def between(x: float, _=None) -> str:  # where there would be hardly a number else
        low, high = axis.get_view_interval()
        return text(x) if not len(places) and high < 10 * low else ""

    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_formatter(FuncFormatter(between))


def whole_rates(rates: Rates) -> Figure:
    names = {name: named(name, 20) for name in rates}
    bottom = 0.95 + 0.16 * legend_rows(names.values())
    drawn, axes = panels(1, 1, 3.1 + bottom, bottom=bottom + 0.1)
    note = (
        "Points: seeds; lines: their geometric mean. Dotted: where it passes "
        f"{FORGOTTEN:g}, below which other hardware gives the same model again."
    )
    headline(drawn, "What becomes of a difference of one bit, by learning rate", note)
    by_rate(axes[0, 0], rates)
    legend_below(drawn, names, 0.6)
    return drawn


@figure("clock_rates", whole_rates, rates=by_rate)
def plot_rates(rates: Mapping):
    """PD at the end, of twins that differ in one bit from the start, against learning rate. Writes `clock_rates.png`.
    Panel: rates.

    Args:
        rates: {activation: {learning rate: Clock}}, as questions.clock.rates.load_rates gives it.

    Raises:
        UserError: it is empty.
        storage.StorageError: the disk refuses.
    """
    if not rates:
        raise UserError("rates: there is no clock of any learning rate (train.py --clock --learning-rate 3e-4 1e-3)")
    return rates


def make_rates(folder: Folder) -> dict[Path, object]:
    """Of the clocks of several learning rates."""
    return _made(by_rates, folder, by_rates.load_rates(folder.results), plot_rates)
