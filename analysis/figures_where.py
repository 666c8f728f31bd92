"""The figure of where trials disagree, and whether a disagreement is an error: `where.png`, from where.json alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import plot_utils
from plot_utils import GREY, TINY, activation_style

SEEN = 0.002  # a class or bin with a smaller share of the positions is noise, and not drawn


def plot_where(where: Mapping, save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)) -> Path:
    """PD by how predictable the position is, by the target's frequency, place in the window and kind; calibration; and
    disagreement against error. Writes `where.png` and returns its path.

    Args:
        where: the contents of results/where.json.
    """
    return plot_utils._save(where_figure, (where,), save_dir, "where", formats)


def where_figure(where: Mapping) -> Figure:
    shown = {name: entry for name, entry in where["activations"].items() if "reason" not in entry}
    if not shown:
        return plot_utils._message_figure("Where trials disagree", "no activation has predictions of two trials")
    figure, axes = plot_utils._panels(3, 2, 8.1, left=0.6, top=0.5, bottom=0.95, across=0.72, down=0.72)
    positions = {entry["positions"] for entry in shown.values()}
    at = f"{positions.pop():,} positions" if len(positions) == 1 else "fixed positions"
    note = (
        "PD: mean over positions and pairs of trials. Tenths: positions sorted by the trials' mean predictive entropy. "
        "Kinds: ● share of all PD, ┃ share of the positions.\nCalibration pools the trials; on the diagonal they are "
        "right as often as they say. Last panel: one point for each tenth; on the diagonal two trials differ as\noften "
        f"as one errs, below it they agree on mistakes. Classes with less than {100 * SEEN:g} % of the positions are "
        "left out."
    )
    plot_utils._headline(figure, f"Where trials disagree, and whether that is an error  ·  {at}", note)
    (entropy, frequency), (place, kind), (calibration, error) = axes
    _tenths(entropy, shown)
    _classes(frequency, shown, "frequency", "By the target's share of the training text")
    _classes(place, shown, "place", "By place in the window")
    _kinds(kind, shown)
    _calibration(calibration, shown)
    _errors(error, shown)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=plot_utils._name(name, 20))
        for name in shown
        for colour, marker in [activation_style(name)]
    ]
    entropy.legend(handles=handles, loc="best", ncols=1 + len(handles) // 7)
    return figure


def _line(axes, name: str, x, y) -> None:
    colour, marker = activation_style(name)
    axes.plot(x, y, color=colour, marker=marker, markersize=3, gid=name)


def _tenths(axes, shown: Mapping) -> None:
    for name, entry in shown.items():
        values = [s["pd"] for s in entry["where"]["entropy"]]
        _line(axes, name, range(1, len(values) + 1), values)
    axes.set(title="By how predictable the position is", xlabel="tenth by entropy, most predictable first")
    axes.set(ylabel="relative PD", ylim=(0, None), xticks=range(1, 11))


def _labels(shown: Mapping, by: str) -> list[str]:
    """The labels of all activations, in the order of the first that has them."""
    slices = (s for entry in shown.values() for s in entry["where"][by])
    return list(dict.fromkeys(s["label"] for s in slices if s["share_of_positions"] >= SEEN))


def _classes(axes, shown: Mapping, by: str, title: str) -> None:
    labels = _labels(shown, by)
    for name, entry in shown.items():
        slices = [s for s in entry["where"][by] if s["share_of_positions"] >= SEEN]
        _line(axes, name, [labels.index(s["label"]) for s in slices], [s["pd"] for s in slices])
    axes.set(title=title, ylabel="relative PD", ylim=(0, None))
    axes.set_xticks(range(len(labels)), [x.replace(" ", "\N{NO-BREAK SPACE}") for x in labels], fontsize=TINY)
    if max(map(len, labels)) > 5:
        axes.tick_params(axis="x", rotation=30)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel("token of the window")


def _kinds(axes, shown: Mapping) -> None:
    labels = _labels(shown, "kind")
    for k, (name, entry) in enumerate(shown.items()):
        colour, marker = activation_style(name)
        offset = 0.7 * ((k + 0.5) / len(shown) - 0.5)
        for s in entry["where"]["kind"]:
            if s["label"] not in labels:
                continue
            y = labels.index(s["label"])
            axes.plot(100 * s["share_of_positions"], y, "|", color=GREY, markersize=13, zorder=1)
            if s["share"] is not None:
                axes.plot(100 * s["share"], y + offset, marker, color=colour, markersize=3.2)
    axes.set(title="By kind of what came", xlabel="percent", ylim=(len(labels) - 0.5, -0.5), xlim=(-1, None))
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    box = axes.get_position()  # its labels are words
    axes.set_position([box.x0 + 0.05, box.y0, box.width - 0.05, box.height])


def _calibration(axes, shown: Mapping) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.9)
    found = {name: e["error"]["calibration"]["curve"] for name, e in shown.items() if e["error"]["calibration"]}
    for name, curve in found.items():
        total = sum(b["predictions"] for b in curve)
        kept = [b for b in curve if b["predictions"] >= SEEN * total]
        _line(axes, name, [b["confidence"] for b in kept], [b["accuracy"] for b in kept])
    if not found:
        plot_utils._say(axes, "needs each token's own probability")
    axes.set(title="Calibration", xlabel="confidence: probability of the most likely token", ylabel="accuracy")


def _errors(axes, shown: Mapping) -> None:
    most = 0.0
    for name, entry in shown.items():
        tenths = entry["error"]["disagreement"]["by_entropy"]
        x, y = (np.array([t[key] for t in tenths]) for key in ("error", "disagreement"))
        most = max(most, x.max(), y.max())
        colour, marker = activation_style(name)
        axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(x, y, marker, color=colour, markersize=3.2, gid=name)
    axes.plot([0, most], [0, most], color=GREY, linestyle=":", linewidth=0.9)
    axes.set(title="Disagreement against error", xlabel="top-1 error", ylabel="top-1 disagreement")
