"""Figures over several activations, from a Study. A panel is a function of (ax, study) unless it says otherwise."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

import activations
from analysis.question import REFERENCE, smooth
from analysis.results import Measured
from analysis.study import WEIGHTINGS, Study
from config import UserError
from measures.table import BY_KEY as METRIC
from plotting.one import LOSS, at_the_start, beside, dots, interval, measured_values, recorded_divergence
from plotting.style import (
    GREY,
    PAGE,
    SMALL,
    activation_style,
    bars,
    draw,
    fitting,
    gaps,
    headline,
    legend_below,
    legend_rows,
    limits,
    model_and_corpus,
    named,
    numbers,
    panels,
    plain,
    positions,
    row_labels,
    say,
    text_width,
    ticks,
)
from storage import number

# -- six panels ---------------------------------------------------------------------------------------------------


def comparison(study: Study) -> Figure:
    n, names = len(study.measured), list(_labels(study).values())
    height = 0.4 + 0.23 * max(n, 5)
    left, down, top, bottom = text_width(names) + 0.2, 0.66, 0.55, 0.89
    figure, axes = panels(
        2, 3, 2 * height + down + top + bottom, left=left, bottom=bottom, top=top, across=0.28, down=down
    )
    first = next(iter(study.measured.values()))
    final = positions(first, "evaluation")
    note = (
        "points: trials (of PD and mismatch: pairs of trials); below them the mean with its 95 % interval over trials, "
        "from three trials on (of pairs: jackknife over trials; of time: the median)"
        + (f"; all but time on {final:,} fixed positions" if final else "")
    )
    if any(name.endswith("†") for name in names):
        note += "; † failed its audit: not ranked"
    title = f"{n} activation{'s' * (n != 1)}  ·  {model_and_corpus(first.results)}"
    headline(figure, title, note)
    draw(axes.flat, study, SIX.values())
    for ax in axes.flat[:-1]:
        if not ax.get_subplotspec().is_first_col():
            ax.set_yticklabels([])
    box, width = axes[1, 2].get_position(), PAGE.get().width  # its own y axis needs room for numbers
    more = max(0, 0.63 - (left if axes[1, 2].get_subplotspec().is_first_col() else 0.28)) / width
    axes[1, 2].set_position([box.x0 + more, box.y0, box.width - more, box.height])
    return figure


def _labels(study: Study) -> dict[str, str]:
    """Labels of activations; a dagger marks one whose audit failed."""
    return {name: named(name, 26) + " †" * m.audit.startswith("failed") for name, m in study.measured.items()}


def _rows(ax: Axes, study: Study) -> None:
    """An activation per row, by name."""
    row_labels(ax, _labels(study).values(), max(0, 5 - len(study.measured)) / 2)  # a single row stays a row
    ax.tick_params(axis="y", length=0)


def _dot_plot(ax: Axes, study: Study, key: str, title: str, unit: str = "") -> None:
    for y, (name, m) in enumerate(study.measured.items()):
        of_pairs = METRIC[key].of == "pair"
        values = numbers(m.pair_values(key)) if of_pairs else measured_values(m, key)
        missing = "no pairs" if of_pairs and len(m.pd_ids) < 2 else "not recorded"
        if not m.trials:
            missing = "no trial finished"
        centre = (study.time[name],) if key == "training_time" else interval(m, key)
        dots(ax, y, values, *activation_style(name), *(centre if len(values) else ()), missing=missing)
    ax.set(title=title, xlabel=unit or METRIC[key].unit or METRIC[key].label)
    _rows(ax, study)
    ax.margins(x=0.1)
    if ax.collections:
        ticks(ax.xaxis, 5)
    else:
        ax.set_xticks([])


def ranks(ax: Axes, study: Study) -> None:
    """Rank by each criterion alone, and by the weightings of the report; 1 is best, ties share a rank."""
    columns = {"low PD": {"reproducibility": 1}, "low loss": {"accuracy": 1}, "fast": {"efficiency": 1}}
    columns |= {use.partition(" ")[0]: weights for use, weights in WEIGHTINGS.items()}
    names = list(study.measured)
    table = np.full((len(names), len(columns)), math.nan)
    for column, weights in enumerate(columns.values()):
        for name, rank in study.rank(weights).ranks.items():
            table[names.index(name), column] = rank
    ax.imshow(table, cmap="Blues_r", vmin=1 - 0.6 * len(names), vmax=len(names) + 1, aspect="auto")
    for (row, column), rank in np.ndenumerate(table):
        text, weight = ("–", "normal") if np.isnan(rank) else (f"{rank:.0f}", "bold" if rank == 1 else "normal")
        ax.text(column, row, text, ha="center", va="center", fontsize=SMALL, fontweight=weight)
    _rows(ax, study)
    tilted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(columns)), [name.removesuffix(" priority") for name in columns], **tilted)
    ax.axvline(2.5, color="white", linewidth=3)
    ax.set_title("Ranks")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def trade_off(ax: Axes, study: Study) -> None:
    """Mean PD against mean loss of the trials that have a PD, each with its interval."""
    for name, m in study.measured.items():
        pd, low, high = interval(m, "relative_pd")
        if pd is None:
            continue
        loss, left, right = interval(m, "val_loss")
        colour, marker = activation_style(name)
        up, across = bars(pd, low, high), bars(loss, left, right)
        style = {"elinewidth": 0.9, "capsize": 3, "zorder": 3, "ecolor": colour}
        ax.errorbar(loss, pd, up, across, fmt=marker, color=colour, markersize=3.5, label=named(name), **style)
    ax.set(title="PD against loss", xlabel=LOSS, ylabel=METRIC["relative_pd"].heading)
    if not ax.containers:
        say(ax, "no pairs")
        return
    ax.margins(0.1)
    ticks(ax.xaxis, 4)
    ticks(ax.yaxis, 4)


SIX = {
    "loss": functools.partial(_dot_plot, key="val_loss", title="Validation loss"),
    "pd": functools.partial(_dot_plot, key="relative_pd", title="Relative PD"),
    "mismatch": functools.partial(_dot_plot, key="top1_mismatch_pct", title="Top-1 mismatch", unit="positions (%)"),
    "time": functools.partial(_dot_plot, key="training_time", title="Training time", unit="s per trial"),
    "ranks": ranks,
    "trade_off": trade_off,
}


# -- along training -----------------------------------------------------------------------------------------------


def divergence_comparison(study: Study) -> Figure:
    names = {name: text for name, text in _labels(study).items() if recorded_divergence(study.measured[name])[1]}
    rows, start = legend_rows(names.values()), at_the_start(study.measured.values())
    foot = 0.3 + (0.11 if start else 0)
    figure, axes = panels(1, 2, 3.1 + 0.16 * rows + foot, bottom=0.5 + 0.16 * rows + foot)
    note = "thick: mean over pairs of trials" + ("; thin: the pairs" if len(names) <= _FEW else "")
    note += "; † failed its audit" if any(name.endswith("†") for name in names.values()) else ""
    headline(figure, "How trials part along training", note + f"\n{start}" * bool(start))
    draw(axes.flat, study, (pd_by_step, pd_by_loss))
    legend_below(figure, names, foot - 0.08)
    return figure


_FEW = 5  # activations whose pairs can be told apart


def _diverging(study: Study) -> dict[str, Measured]:
    return {name: m for name, m in study.measured.items() if recorded_divergence(m)[1]}


def pd_by_step(ax: Axes, study: Study) -> None:
    studied = _diverging(study)
    for name, m in studied.items():
        colour, marker = activation_style(name)
        steps, pairs = recorded_divergence(m)
        curves = [gaps(curves["relative_pd"]) for curves in pairs.values()]
        for pd in curves if len(studied) <= _FEW else ():
            ax.plot(steps[: len(pd)], pd[: len(steps)], color=colour, linewidth=0.4, alpha=0.6)
        whole = [pd for pd in curves if len(pd) == len(steps)]
        if whole:
            style = {"marker": marker, "markersize": 3, "gid": f"mean {name}", "label": named(name)}
            ax.plot(steps, np.mean(whole, axis=0), color=colour, **style)
    ax.set(title="PD against training step", xlabel="training step", ylabel=METRIC["relative_pd"].heading)
    if not studied:
        say(ax, "no predictions along training recorded")
        return
    ticks(ax.xaxis, 5, integer=True)


def pd_by_loss(ax: Axes, study: Study) -> None:
    """The last part of training, PD against the mean validation loss of a pair."""
    studied, points = _diverging(study), []
    for name, m in studied.items():
        colour, marker = activation_style(name)
        both = _pd_and_loss(m)
        for loss, pd in both if len(studied) <= _FEW else ():
            ax.plot(loss, pd, color=colour, linewidth=0.4, alpha=0.6)
        if both:
            points.append(np.mean(both, axis=0))
            ax.plot(*points[-1], color=colour, marker=marker, markersize=3, gid=f"mean {name}", label=named(name))
    counts = {n for m in studied.values() if (n := positions(m, "divergence"))}
    on = f", on {max(counts):,} positions" if len(counts) == 1 else ""
    ax.set(title="PD against validation loss, near the end", ylabel=METRIC["relative_pd"].heading)
    ax.set_xlabel(f"validation loss ({METRIC['val_loss'].unit}{on}), falling →")
    if not points:
        say(ax, "no loss along training")
        return
    _zoom(ax, points)
    ax.invert_xaxis()  # training goes from left to right, as by step


def _pd_and_loss(m: Measured) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mean validation loss, PD) along training of each pair whose losses were recorded at the same steps."""
    steps, pairs = recorded_divergence(m)
    recorded, points = m.record("divergence").get("val_loss") or {}, []
    for name, curves in pairs.items():
        pd, (i, j) = gaps(curves["relative_pd"]), (gaps(recorded.get(k) or []) for k in name.split("_vs_"))
        if len(i) == len(j) == len(pd) == len(steps):
            points.append(((i + j) / 2, pd))
    return points


def _zoom(ax: Axes, points: list) -> None:
    """Limits around the last part of curves of PD against loss."""
    ends = numbers(loss[-1] for loss, _ in points)
    if not len(ends):
        return
    low, high = ends.min(), ends.max()
    width = max(high - low, 0.02 * high)
    low, high = low - 0.2 * width, high + 0.8 * width
    seen = [y for loss, pd in points for y in np.interp([low, high], loss[::-1], pd[::-1])]
    seen += [y for loss, pd in points for x, y in zip(loss, pd, strict=True) if low <= x <= high]
    ax.set_xlim(low, high)
    limits(ax, seen)
    ticks(ax.xaxis, 5)
    ticks(ax.yaxis, 5)


# -- ratios to the baseline ---------------------------------------------------------------------------------------

VERDICTS = {
    "lower": "lower",
    "higher": "higher",
    "equal": "equal (±5 %)",
    "inconclusive": "inconclusive",
    "no test": "no test",
}


def ratio_rows(study: Study) -> list[dict]:
    """The rows of `pd_ratios`: each arm against the baseline, last the planned contrast; [] where there is no ratio."""
    rows, baseline = [], study.question.baseline
    for pair in (t for t in study.tests if t.primary):
        row = {"activation": pair.a, "baseline": baseline, "verdict": "no test"}
        for quantity, prefix in (("PD", ""), ("Matched_PD", "matched_")):
            if (test := pair.tests.get(quantity)) is not None:
                row |= _ratio(test, prefix, study.verdict(pair, quantity).kind)
        rows.append(row)
    if not any("ratio" in row for row in rows):
        return []
    contrast = {"together": study.contrast.names, "baseline": baseline}
    for quantity, prefix in (("PD", ""), ("Matched_PD", "matched_")):
        if study.contrast.tested(quantity):
            contrast |= _ratio(study.contrast.tests[quantity], prefix, study.headline_kind(quantity))
    return rows + [contrast] * ("ratio" in contrast)


def _ratio(test, prefix: str, verdict: str) -> dict:
    values = {"ratio": test.effect, "low": test.low, "high": test.high, "verdict": verdict}
    return {prefix + key: value for key, value in values.items()}


def pd_ratios(rows: list[Mapping]) -> Figure:
    with_matched = any("matched_ratio" in row for row in rows)
    title, below = finding(rows)
    handles, narrow = _ratio_legend(with_matched), PAGE.get().narrow
    high, right, columns = (0.42, 0.18, 2) if narrow else (0.28, 2.4, 4 if PAGE.get().width > 6 else 2)
    legend = 0.15 * (math.ceil(len(handles) / columns) - 1)
    figure, ((ax,),) = panels(
        1, 1, 1.77 + legend + high * (1.5 + 0.5 * narrow if with_matched else 1) * len(rows),
        left=text_width(map(_row_name, rows)) + 0.25, right=right, top=0.67, bottom=0.92 + legend,
    )  # fmt: skip
    note = "verdicts: adjusted for the number of comparisons; intervals: not adjusted"
    if contrast := next((row for row in rows if "together" in row), None):
        listed = textwrap.shorten(", ".join(map(named, contrast["together"])), 90, placeholder=" …")
        note += f"\n{_row_name(contrast)}, the planned contrast: {listed}"
    headline(figure, title, note, below)
    ratios(ax, rows)
    ax.get_legend().remove()
    corner = 0.08 / PAGE.get().width, (0.34 + figure.foot) / figure.get_figheight()
    figure.legend(handles=handles, ncols=columns, borderpad=0, loc="lower left", bbox_to_anchor=corner)
    return figure


def _row_name(row: Mapping) -> str:
    return _together(row) if "together" in row else named(row["activation"])


def _together(row: Mapping) -> str:
    return "smooth ones together" if all(map(smooth, row["together"])) else f"{len(row['together'])} together"


def _baseline(rows: list[Mapping]) -> str:
    return named(rows[0].get("baseline") or REFERENCE)


def ratios(ax: Axes, rows: list[Mapping]) -> None:
    """A forest plot of ratios; a panel of rows."""
    with_matched = any("matched_ratio" in row for row in rows)
    lines, narrow = [], PAGE.get().narrow
    first = (-0.3 if with_matched else -0.18) if narrow else (-0.18 if with_matched else 0.0)
    for y, row in enumerate(rows):
        for prefix, offset in (("", first), ("matched_", first + (0.5 if narrow else 0.36)))[: 1 + with_matched]:
            ratio, low, high = (number(row.get(f"{prefix}{key}")) for key in ("ratio", "low", "high"))
            lines.append((y + offset, row.get("activation"), ratio, low, high, bool(prefix)))
            verdict = str(row.get(f"{prefix}verdict") or "")
            verdict = textwrap.shorten(VERDICTS.get(verdict, verdict), 18, placeholder="…")
            texts = [_ratio_text(ratio, low, high), verdict]
            if narrow:
                beside(ax, y + offset, " · ".join(filter(None, texts)))
                continue
            for text, inches in zip(texts, (0.1, 1.4), strict=True):
                beside(ax, y + offset, text, inches)
        if "together" in row:
            ax.axhline(y - 0.5, color=GREY, linewidth=0.5)
    forest(ax, lines)
    row_labels(ax, map(_row_name, rows))
    ax.set_xlabel(f"mean relative PD as a ratio to {_baseline(rows)}'s (log scale)")
    above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "bottom", "fontsize": SMALL}
    ax.annotate(f"← more reproducible than {_baseline(rows)}", (1, 1), xytext=(-4, 2), ha="right", **above)
    ax.legend(handles=_ratio_legend(with_matched), loc="best")


def _ratio_legend(with_matched: bool) -> list:
    circle = {"color": GREY, "marker": "o", "linestyle": ""}
    handles = [Line2D([], [], label="at the end of training" if with_matched else "mean over pairs", **circle)]
    if with_matched:
        handles.append(Line2D([], [], label="at equal validation loss", markerfacecolor="white", **circle))
    handles.append(Line2D([], [], color=GREY, linewidth=1.2, label="95 % interval over trials"))
    return [*handles, Patch(color=_BAND, label="within 5 %")]


def finding(rows: list[Mapping]) -> tuple[str, str]:
    """What the tests allow to be said, the planned contrast first: two lines, in the words of their verdicts."""
    single, baseline = [row for row in rows if "together" not in row], f"{_baseline(rows)}’s"
    groups: dict[str, list[str]] = {}
    for row in single:
        groups.setdefault(row.get("verdict") or "no test", []).append(named(row["activation"]))
    words = {"equal": "practically equal (±5 %)", "no test": "not tested"}
    order = sorted(groups, key=lambda kind: list(VERDICTS).index(kind) if kind in VERDICTS else len(VERDICTS))
    each = ["; ".join(f"{words.get(kind, kind)}: {', '.join(groups[kind])}" for kind in order)]
    each.append("; ".join(f"{words.get(kind, kind)}: {len(groups[kind])} of {len(single)}" for kind in order))
    contrast = next((row for row in rows if "together" in row), None)
    if contrast is None:
        return fitting([f"Mean PD against {baseline} — {text}" for text in each], 9, "bold"), ""
    kind, equal = contrast["verdict"], contrast.get("matched_verdict")
    said = {"equal": f"practically equal to {baseline} (±5 %)", "inconclusive": f"inconclusive against {baseline}"}
    size = f"{abs(100 * (contrast['ratio'] - 1)):.1f} % {kind} than {baseline}"
    who = (
        "Smooth activations" if all(map(smooth, contrast["together"])) else ", ".join(map(named, contrast["together"]))
    )
    title = f"{who} together: mean PD {said.get(kind, size)}"
    if equal:
        words = {"equal": "practically equal"}.get(equal, equal)
        title += ", at equal loss too" if equal == kind else f"; at equal loss: {words}"
    return title, fitting([f"Each alone — {text}" for text in each], 8)


def _ratio_text(ratio: float | None, low: float | None, high: float | None) -> str:
    if ratio is None:
        return "not measured"
    if low is None or high is None:
        return f"{ratio:.3f}"
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]" if high < 10 else f"{ratio:.3f} [{low:.2g}, {high:.2g}]"


_BAND = "#EEEEEE"


def forest(ax: Axes, lines: list[tuple]) -> None:
    """Ratios with intervals on a log axis around 1; lines of (y, activation, ratio, low, high, hollow)."""
    ratios = [r for _, _, r, _, _, _ in lines if r is not None and r > 0]
    # a three-trial interval can span decades: it is cut, with an arrow, where it would squeeze all others
    floor, ceiling = min([0.9, *ratios]) / 2.5, max([1.1, *ratios]) * 2.5
    ends = [x for line in lines for x in line[3:5] if x is not None and x > 0]
    low, high = (max(floor, min([0.93, *ratios, *ends])), min(ceiling, max([1.07, *ratios, *ends])))
    low, high = low / 1.02, high * 1.02
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.axvspan(0.95, 1 / 0.95, color=_BAND, linewidth=0, zorder=0)
    ax.axvline(1, color="black", linewidth=0.8, zorder=1)
    for y, activation, ratio, lower, upper, hollow in lines:
        colour, marker = ("#444444", "D") if activation is None else activation_style(activation)
        if ratio is None or ratio <= 0:
            continue
        ax.plot(ratio, y, marker, color=colour, markerfacecolor="white" if hollow else colour, markersize=5, zorder=3)
        if lower is None or upper is None:
            continue
        # over the marker, with ends that reach beyond it: no interval is so short that it can't be seen
        style = {"color": colour, "zorder": 4, "clip_on": False}
        ax.plot([max(lower, low), min(upper, high)], [y, y], linewidth=1.2, solid_capstyle="butt", **style)
        inside = (high / low) ** 0.012  # keeps arrowheads off the labels
        for end, limit, arrow in ((lower, low * inside, "<"), (upper, high / inside, ">")):
            cut = end < low if arrow == "<" else end > high
            ax.plot(limit if cut else end, y, arrow if cut else "|", markersize=4 if cut else 8, **style)
    _ratio_ticks(ax, low, high)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)


def _ratio_ticks(ax: Axes, low: float, high: float, most: int = 7) -> None:
    """Round numbers around 1 on a log axis that may span a few percent or a few decades."""
    fine = [np.arange(step, 2, step) for step in (0.01, 0.02, 0.05, 0.1)]
    coarse = [
        (0.4, 0.6, 0.8, 1, 1.2, 1.5, 2),
        (0.5, 0.7, 1, 1.5, 2, 3),
        2.0 ** np.arange(-6, 7),
        10.0 ** np.arange(-9, 10),
    ]
    for candidates in (*fine, *coarse):
        shown = [x for x in candidates if low <= x <= high]
        if len(shown) <= most and high <= max(candidates) * 2 and low >= min(candidates) / 2:
            break
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    ax.xaxis.set_minor_locator(NullLocator())


# -- several studies ----------------------------------------------------------------------------------------------


def studies(data: tuple[list[Mapping], list[Mapping]]) -> Figure:
    table, pooled = data
    names, row_names = list(dict.fromkeys(row["activation"] for row in table)), _study_names(data)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    top, bottom, down = 0.6, 0.78, 0.62
    height = rows * (0.24 * len(row_names) + 0.1) + (rows - 1) * down + top + bottom
    left = text_width(row_names) + 0.2
    figure, axes = panels(rows, columns, height, left=left, top=top, bottom=bottom, across=0.2, down=down)
    n = len(_study_names((table, [])))
    note = (
        f"ratio of mean relative PD to {_baseline(table)}'s of the same study: left of 1, more reproducible; lines: "
        "95 % intervals, not adjusted; shaded: within 5 %"
    )
    note = note.replace("; lines", ";\nlines") + ("; diamond: all studies together (random effects)" if pooled else "")
    headline(figure, f"{n} stud{'ies' if n != 1 else 'y'}: PD relative to {_baseline(table)}", note)
    shown, unused = list(axes.flat[: len(names)]), axes.flat[len(names) :]
    columns = axes[0, 0].get_gridspec().ncols
    for index, (name, ax) in enumerate(zip(names, shown, strict=True)):
        one_of_studies(ax, data, name)
        if index % columns:
            ax.set_yticklabels([])
        if index + columns < len(names):
            ax.set_xlabel("")
    for ax in unused:
        ax.set_axis_off()
    low, high = min(ax.get_xlim()[0] for ax in shown), max(ax.get_xlim()[1] for ax in shown)
    for ax in shown:  # one scale for all
        ax.set_xlim(low, high)
        _ratio_ticks(ax, low, high, most=4)
    return figure


def _study_names(data: tuple[list[Mapping], list[Mapping]]) -> dict:
    """{study, or 'pooled': its name in a figure}"""
    table, pooled = data
    labels = {_identity(row): plain(row["study"] or f"{row.get('model')} · {row.get('dataset')}", 24) for row in table}
    return list(labels.values()) + ["pooled"] * bool(pooled)


def _identity(row: Mapping) -> tuple:
    return row["study"], row.get("model"), row.get("dataset")


def one_of_studies(ax: Axes, data: tuple[list[Mapping], list[Mapping]], name: str | None = None) -> None:
    """One activation in all studies, and pooled; it needs a name where the table has several."""
    table, pooled = data
    names = {row["activation"] for row in table}
    if name is None and len(names) > 1:
        raise UserError(f"table: a panel is of one activation, and there are {', '.join(sorted(names))}")
    name = name or names.pop()
    order, names = list(dict.fromkeys(map(_identity, table))), _study_names(data)
    mine = [row for row in table if row["activation"] == name]
    by_study = {_identity(row): [number(row.get(key)) for key in ("ratio", "low", "high")] for row in mine}
    forest(ax, [(order.index(study), name, *values, False) for study, values in by_study.items()])
    for row in pooled:
        if row["activation"] == name:
            _diamond(ax, len(order), name, *(number(row.get(key)) for key in ("ratio", "low", "high")))
            ax.axhline(len(order) - 0.5, color=GREY, linewidth=0.5)
    ax.set(title=named(name, 20), xlabel=f"PD ratio to {_baseline(table)}")
    row_labels(ax, names)


def _diamond(ax: Axes, y: float, activation: str, ratio, low, high) -> None:
    colour, _ = activation_style(activation)
    if ratio is None or ratio <= 0:
        return
    if low is None or high is None:
        ax.plot(ratio, y, "D", color=colour, markersize=5)
    else:
        ax.fill([low, ratio, high, ratio], [y, y - 0.3, y, y + 0.3], color=colour, linewidth=0, gid="pooled")
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, low or ratio), max(right, high or ratio))


# -- SmeLU's β, and the functions themselves ----------------------------------------------------------------------


def beta(name: str) -> float | None:
    """β of SmeLU, 0 for ReLU, None for anything else."""
    try:
        return activations.get_info(name).beta
    except UserError:
        return None


def beta_sweep(study: Study) -> Figure:
    figure, axes = panels(1, 2, 3.0, bottom=0.78)
    note = "points: trials (of PD: pairs of trials); bars: their mean with its 95 % interval over trials"
    headline(figure, "SmeLU: the width β of its quadratic part", note)
    draw(axes.flat, study, BETA.values())
    return figure


def _by_beta(ax: Axes, study: Study, key: str, title: str, unit: str) -> None:
    studied = {name: b for name in study.measured if (b := beta(name)) is not None}
    betas = sorted(set(filter(None, studied.values())))
    zero = betas[0] / 2.5  # where ReLU stands on the log axis
    means = {}
    for name, b in studied.items():
        m, (colour, marker), x = study.measured[name], activation_style(name), b or zero
        values = measured_values(m, key)
        if not len(values):
            continue
        style = {"s": 14, "color": colour, "marker": marker, "alpha": 0.7, "linewidths": 0, "gid": "values"}
        ax.scatter(np.full(len(values), x), values, **style)
        average, low, high = interval(m, key)
        style = {"fmt": "_", "color": colour, "markersize": 7, "elinewidth": 0.9, "gid": f"mean {name}"}
        ax.errorbar(x * 1.12, average, bars(average, low, high), **style)
        if b:
            means[x] = average
        else:
            ax.axhline(average, color=colour, linestyle=":", linewidth=0.9)
    ax.plot(*zip(*sorted(means.items()), strict=True), color=GREY, zorder=1, gid="means") if means else None
    ax.set_xscale("log")
    shown = ({zero: "ReLU\n(β → 0)"} if REFERENCE in studied else {}) | {b: f"{b:g}" for b in betas}
    ax.xaxis.set_major_locator(FixedLocator(list(shown)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown.get(x, "")))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(shown) / 1.4, betas[-1] * 1.4)
    ax.margins(y=0.1)
    ticks(ax.yaxis, 6)
    ax.set(title=title, xlabel="β", ylabel=unit)


BETA = {
    "pd": functools.partial(_by_beta, key="relative_pd", title="Relative PD", unit=METRIC["relative_pd"].heading),
    "loss": functools.partial(_by_beta, key="val_loss", title="Validation loss", unit=LOSS),
}


def activation_functions(names: list[str]) -> Figure:
    labels = {name: named(name, 26) for name in names}
    foot = 0.16 * legend_rows(labels.values())
    figure, axes = panels(1, 2, 3.1 + foot, bottom=0.55 + foot)
    headline(figure, "Activation functions")
    draw(axes.flat, names, FUNCTIONS.values())
    legend_below(figure, labels, 0.04, axes[0, 0].get_lines())
    return figure


@functools.lru_cache(maxsize=64)
def _curve(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, the function (of the gate, for a gated one) and its derivative there, in float64."""
    import torch  # only for this figure

    points = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    y = activations.make_activation(name).to(points)(points)
    (slope,) = torch.autograd.grad(y.sum(), points)
    return points.detach().numpy(), y.detach().numpy(), slope.numpy()


def _draw_functions(ax: Axes, names: Iterable[str], which: int, **texts) -> None:
    for index, name in enumerate(names):
        colour, marker = activation_style(name)
        curves = _curve(name)
        mark = {"marker": marker, "markersize": 3.5, "markevery": (7 + 11 * index % 60, 60)}
        ax.plot(curves[0], curves[which], color=colour, gid=name, label=named(name, 26), **mark)
    ax.set(xlabel="x", xlim=(-3, 3), **texts)


FUNCTIONS = {
    "function": functools.partial(_draw_functions, which=1, title="Function", ylabel="f(x)", ylim=(-1.3, 3.1)),
    "derivative": functools.partial(_draw_functions, which=2, title="Derivative", ylabel="f′(x)", ylim=(-0.3, 1.4)),
}
