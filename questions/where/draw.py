"""The figure of where trials disagree, and whether a disagreement is an error. A panel is a function of (ax, entries),
the activations of results/where.json that have numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import products
from analysis.products import Folder
from config import UserError
from plot_utils import figure
from plotting.style import GREY, SMALL, activation_style, arm_handles, draw, headline, named, panels, row_labels, say
from questions.where import page as disagreement_page
from questions.where.tell import FIGURE_FILE, PAGE_FILE, PASSAGE_FILE, SCHEMA, entries

SEEN = 0.002  # a class or bin with a smaller share of the positions is noise, and not drawn


def whole(entries: Mapping[str, Mapping]) -> Figure:
    drawn, axes = panels(3, 2, 8.0, left=0.6, top=0.5, bottom=0.85, across=0.72, down=0.72)
    counts = {entry["positions"] for entry in entries.values()}
    at = f"{counts.pop():,} positions" if len(counts) == 1 else "fixed positions"
    note = (
        "PD: mean over positions and pairs of trials. Tenths: positions sorted by the trials' mean predictive entropy. "
        "Kinds: ● share of all PD, ┃ share of the positions.\nCalibration pools the trials; on the diagonal they are "
        f"right as often as they say. Classes with less than {100 * SEEN:g} % of the positions are left out."
    )
    headline(drawn, f"Where trials disagree, and whether that is an error  ·  {at}", note)
    draw(axes.flat, entries, PANELS.values())
    box = axes[1, 1].get_position()  # its labels are words
    axes[1, 1].set_position([box.x0 + 0.05, box.y0, box.width - 0.05, box.height])
    handles = arm_handles({name: named(name, 20) for name in entries})
    axes[2, 1].set_axis_off()
    axes[2, 1].legend(handles=handles, loc="center", frameon=False, ncols=1 + (len(handles) > 12))
    return drawn


def _line(ax: Axes, name: str, x, y) -> None:
    colour, marker = activation_style(name)
    ax.plot(x, y, color=colour, marker=marker, markersize=3, gid=name)


def by_entropy(ax: Axes, entries: Mapping) -> None:
    for name, entry in entries.items():
        values = [s["pd"] for s in entry["where"]["entropy"]]
        _line(ax, name, range(1, len(values) + 1), values)
    ax.set(title="By how predictable the position is", xlabel="tenth by entropy, most predictable first")
    ax.set(ylabel="relative PD", ylim=(0, None), xticks=range(1, 11))


def _labels(entries: Mapping, by: str) -> list[str]:
    """The labels of all activations, in the order of the first that has them."""
    slices = (s for entry in entries.values() for s in entry["where"][by])
    return list(dict.fromkeys(s["label"] for s in slices if s["share_of_positions"] >= SEEN))


def by_frequency(ax: Axes, entries: Mapping) -> None:
    _classes(ax, entries, "frequency", "By the target's share of the training text")
    ax.tick_params(axis="x", rotation=30)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")


def by_place(ax: Axes, entries: Mapping) -> None:
    _classes(ax, entries, "place", "By place in the window")
    ax.set_xlabel("token of the window")


def _classes(ax: Axes, entries: Mapping, by: str, title: str) -> None:
    labels = _labels(entries, by)
    for name, entry in entries.items():
        slices = [s for s in entry["where"][by] if s["share_of_positions"] >= SEEN]
        _line(ax, name, [labels.index(s["label"]) for s in slices], [s["pd"] for s in slices])
    ax.set(title=title, ylabel="relative PD", ylim=(0, None))
    ax.set_xticks(range(len(labels)), [x.replace(" ", "\N{NO-BREAK SPACE}") for x in labels], fontsize=SMALL)


def by_kind(ax: Axes, entries: Mapping) -> None:
    labels = _labels(entries, "kind")
    for k, (name, entry) in enumerate(entries.items()):
        colour, marker = activation_style(name)
        offset = 0.7 * ((k + 0.5) / len(entries) - 0.5)
        for s in entry["where"]["kind"]:
            if s["label"] not in labels:
                continue
            y = labels.index(s["label"])
            ax.plot(100 * s["share_of_positions"], y, "|", color=GREY, markersize=13, zorder=1)
            if s["share"] is not None:
                ax.plot(100 * s["share"], y + offset, marker, color=colour, markersize=3.2)
    ax.set(title="By kind of what came", xlabel="percent", xlim=(-1, None))
    row_labels(ax, labels)
    ax.tick_params(axis="y", length=0)


def calibration(ax: Axes, entries: Mapping) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.9)
    curves = {name: e["error"]["calibration"]["curve"] for name, e in entries.items() if e["error"]["calibration"]}
    for name, curve in curves.items():
        total = sum(b["predictions"] for b in curve)
        bins = [b for b in curve if b["predictions"] >= SEEN * total]
        _line(ax, name, [b["confidence"] for b in bins], [b["accuracy"] for b in bins])
    if not curves:
        say(ax, "needs each token's own probability")
    ax.set(title="Calibration", xlabel="confidence: probability of the most likely token", ylabel="accuracy")


PANELS = {
    "entropy": by_entropy, "frequency": by_frequency, "place": by_place, "kind": by_kind, "calibration": calibration,
}  # fmt: skip


@figure("where", whole, **PANELS)
def plot_where(where: Mapping):
    """On which text trials differ, and whether that is an error: PD by how predictable the position is, by the target's
    frequency, place in the window and kind; calibration; disagreement against error. Writes `where.png`.
    Panels: entropy, frequency, place, kind, calibration.

    Args:
        where: what `analyze_results.py --where` wrote, the contents of results/where.json.

    Raises:
        UserError: it is something else, or holds no activation with predictions of two trials.
        storage.StorageError: the disk refuses.
    """
    entries = products.entries_of(where, "where")
    measured = {name: entry for name, entry in entries.items() if "reason" not in entry}
    if not measured:
        raise UserError("where: no activation has predictions of two trials (each entry says why)")
    return measured


def make(folder: Folder) -> dict[Path, object]:
    """The figure and the page."""
    where = {"activations": entries(folder)}
    passage = products.load(folder.results / PASSAGE_FILE, SCHEMA)
    made = {}
    if any("reason" not in entry for entry in where["activations"].values()):
        made[folder.plots / FIGURE_FILE] = partial(plot_where, where)
    if passage["activations"]:
        made[folder.plots / PAGE_FILE] = disagreement_page.page(passage, where)
    return made
