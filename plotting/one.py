"""Figures of one activation. A panel is a function of (ax, m) that draws on the axes it is given."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

import significance
from analysis.results import Measured, matrix, mean
from config import Config, UserError
from measures.table import BY_KEY as METRIC
from measures.table import Metric, metrics_of
from plotting import WIDEST
from plotting.style import (
    ALARM,
    GREY,
    PAGE,
    SMALL,
    activation_style,
    bars,
    draw,
    gaps,
    headline,
    limits,
    message_figure,
    named,
    numbered,
    numbers,
    panels,
    plain,
    positions,
    row_labels,
    say,
    shades,
    subject,
    text_width,
    ticks,
)
from storage import number
from training import schedule
from training.batches import ORDER, ORDER_AND_LAST, SAMPLE_AND_ORDER

LOSS = f"loss ({METRIC['val_loss'].unit})"

# -- along training -----------------------------------------------------------------------------------------------


def training_curves(m: Measured) -> Figure:
    _, curves = _histories(m)
    if not any(np.isfinite(y).any() for (_, key), (_, y) in curves.items() if "loss" in key):
        return message_figure(subject(m), "no loss along training was recorded")
    recorded = {key for _, key in curves}
    extra = [panel for key, panel in _BESIDES.items() if key in recorded]
    rows = 2 if extra else 1
    figure, axes = panels(rows, 2, 4.8 if extra else 3.1, heights=[1.6, 1][:rows], down=0.6, bottom=0.58)
    probe, final = positions(m, "divergence"), positions(m, "evaluation")
    note = f"each loss: on {probe:,} fixed positions of its split" if probe else ""
    headline(figure, subject(m), note + (f" (in tables: on {final:,})" if probe and final else ""))
    draw(axes.flat, m, (loss, late_loss, *extra))
    if len(extra) == 1:
        axes[1, 1].set_axis_off()
    return figure


def loss(ax: Axes, m: Measured) -> None:
    """Losses from the end of the warm-up on: the way down from a model that knows nothing would flatten the rest."""
    label_x, curves = _draw_losses(ax, m)
    unigram = number(m.record("dataset").get("val_unigram_cross_entropy"))
    begin = max(number(m.record("config").get("warmup_iters")) or 0, 0) if label_x == "training step" else 0
    finished = [curves[k, key] for k, key in curves if "loss" in key and k in (m.trials or m.planned)]
    later = [y[(x >= begin) & (x > x[0])] for x, y in finished if len(x)]
    kept = numbers(value for y in later for value in y)
    limits(ax, kept if len(kept) else (value for _, y in finished for value in y))
    top = ax.get_ylim()[1]
    above = []
    start = mean(y[0] for (_, key), (_, y) in curves.items() if key == "val_loss_history" and len(y))
    if start is not None and start > top:
        above.append(f"start: {start:.2f}")
    if unigram is not None and unigram < top:
        ax.axhline(unigram, color=GREY, linestyle=":", linewidth=0.9)
    elif unigram is not None:
        above.append(f"unigram model: {unigram:.2f}")
    higher = "↑ " + "\n↑ ".join(above) if above else ""
    beside_it = PAGE.get().width == WIDEST  # between the curves' way down and the legend; else on the legend
    if beside_it:
        ax.text(0.27, 0.985, higher, transform=ax.transAxes, va="top", fontsize=SMALL, color=GREY)
    handles = _curve_legend(m, unigram is not None and unigram < top)
    ax.legend(handles=handles, loc="upper right", title=None if beside_it else higher, title_fontsize=SMALL)
    ax.set(title="Loss", xlabel=label_x, ylabel=LOSS)


def late_loss(ax: Axes, m: Measured) -> None:
    label_x, curves = _draw_losses(ax, m)
    shown = [curves[k, key] for k, key in curves if "loss" in key and k in (m.trials or m.planned)]
    last = max(numbers(x for x, _ in shown for x in x), default=0)
    limits(ax, [value for x, y in shown for value in y[x >= last / 2]])
    limits(ax, [last / 2, last], "x", 0.03)
    ax.set(title="Loss, second half of training", xlabel=label_x, ylabel=LOSS)


def learning_rate(ax: Axes, m: Measured) -> None:
    """The recorded rates; between them the schedule of the recorded settings, where it has these rates."""
    _draw_history(ax, m, "learning_rate_history", "Learning rate")
    label_x, curves = _histories(m)
    recorded = [curve for (_, key), curve in curves.items() if key == "learning_rate_history"]
    try:
        config = Config.from_dict({**m.record("config"), "device": "cpu", "precision": "float32", "study": None})
    except (UserError, TypeError):
        return
    steps, last = range(config.max_iters + 1), config.max_iters - 1
    rates = gaps(schedule.learning_rate(config, min(step, last)) for step in steps)
    fits = [
        x.max() <= config.max_iters and np.allclose(rates[x.astype(int)], y, rtol=1e-6, equal_nan=True)
        for x, y in recorded
        if len(x) and np.isfinite(x).all()
    ]
    if label_x == "training step" and fits and all(fits):
        for line in ax.get_lines():
            line.set_linestyle("")
            line.set_marker("o")
        ax.plot(steps, rates, color=activation_style(m.name)[0], zorder=1, gid="schedule")
        limits(ax, rates)  # the highest may lie between two that were recorded


def _measured_from(x: np.ndarray, y: np.ndarray, key: str) -> np.ndarray:
    """A gradient norm of 0 before the first step stands for none: nothing was measured there."""
    unmeasured = (key == "grad_norm_history") & (x == 0) & (y == 0)
    return np.where(unmeasured, math.nan, y)


def _draw_history(ax: Axes, m: Measured, key: str, title: str) -> None:
    label_x, curves = _histories(m)
    shown = [_line(ax, m, k, key, *curve) for (k, other), curve in curves.items() if other == key]
    if not shown:
        return say(ax, "not recorded")
    limits(ax, [y for (k, other), (_, y) in curves.items() if other == key and k in (m.trials or m.planned) for y in y])
    ticks(ax.xaxis, 6, integer=True)
    return ax.set(title=title, xlabel=label_x, ylabel=title.lower())


gradient_norm = functools.partial(_draw_history, key="grad_norm_history", title="Gradient norm")
_BESIDES = {"learning_rate_history": learning_rate, "grad_norm_history": gradient_norm}
CURVES = {"loss": loss, "late": late_loss, "learning_rate": learning_rate, "gradient_norm": gradient_norm}


def _draw_losses(ax: Axes, m: Measured):
    label_x, curves = _histories(m)
    for (k, key), (x, y) in curves.items():
        if "loss" not in key:
            continue
        training = {"linestyle": (0, (3, 2)), "linewidth": 0.8, "markerfacecolor": "none"}
        line = _line(ax, m, k, key, x, y, **training if key == "train_loss_history" else {})
        finite = np.flatnonzero(np.isfinite(y))
        if key == "train_loss_history" or not len(finite):
            continue
        if k in m.failed:
            ax.plot(x[finite[-1]], y[finite[-1]], "x", color=ALARM, markersize=6, markeredgewidth=1.5, zorder=5)
        elif m.planned[k].overfit:
            best = np.nanargmin(y)
            ax.plot(x[best], y[best], "o", color=line.get_color(), markersize=6, markerfacecolor="none", zorder=5)
    ticks(ax.xaxis, 6, integer=True)
    return label_x, curves


def _line(ax: Axes, m: Measured, k: int, key: str, x, y, **style) -> Line2D:
    dots = {"marker": "o", "markersize": 2} if len(y) < 40 else {}
    return ax.plot(x, y, color=_trial_shades(m)[k], gid=f"{key} {k}", **dots, **style)[0]


def _trial_shades(m: Measured) -> dict[int, np.ndarray]:
    return dict(zip(m.planned, shades(activation_style(m.name)[0], len(m.planned)), strict=True))


def _histories(m: Measured) -> tuple[str, dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]]:
    """The label of the x axis along training, and {(trial, history): (x, y)} of what was recorded.

    x is the recorded step; where there is none, the number of the evaluation; where training and validation loss were
    not even recorded equally often, all that is known is how far through training each value was taken.
    """
    by_key = {}
    for k, trial in m.planned.items():
        for key in ("train_loss_history", "val_loss_history", *_BESIDES):
            y = gaps(trial.value(key) or [])
            if len(y):
                by_key[k, key] = y
    steps = {k: gaps(trial.steps or m.results.get("steps") or []) for k, trial in m.planned.items()}
    lengths = {k: {len(y) for (i, key), y in by_key.items() if i == k and "loss" in key} for k in m.planned}
    if any(len(n) > 1 for n in lengths.values()):
        return "share of training (%)", {key: (100 * np.arange(1, len(y) + 1) / len(y), y) for key, y in by_key.items()}
    # what was recorded at other times than the losses can't be placed
    by_key = {(k, key): y for (k, key), y in by_key.items() if {len(y)} == lengths[k]}
    if all(len(y) <= len(steps[k]) for (k, _), y in by_key.items()):
        curves = {(k, key): (steps[k][: len(y)], y) for (k, key), y in by_key.items()}
        return "training step", {(k, key): (x, _measured_from(x, y, key)) for (k, key), (x, y) in curves.items()}
    return "evaluation", {key: (np.arange(1.0, len(y) + 1), y) for key, y in by_key.items()}


def _curve_legend(m: Measured, unigram: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=GREY, label="validation"),
        Line2D([], [], color=GREY, linestyle=(0, (3, 2)), linewidth=0.8, label="training"),
    ]
    if unigram:
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="unigram model"))
    colours = _trial_shades(m)
    shown = list(colours) if len(colours) <= 6 else [min(colours), max(colours)]
    handles += [Line2D([], [], color=colours[k], linewidth=2.5, label=f"trial {k}") for k in shown]
    if len(colours) > 6:
        handles[-2].set_label(f"trial {shown[0]} …")
        handles[-1].set_label(f"… trial {shown[1]}")
    if m.failed:
        diverged = all(t.status == "diverged" for t in m.failed.values())
        text = f"trial{'s' * (len(m.failed) != 1)} {plain(', '.join(map(str, m.failed)), 14)} "
        text += "diverged" if diverged else "failed"
        handles.append(Line2D([], [], color=ALARM, marker="x", linestyle="", markeredgewidth=1.5, label=text))
    if any(t.overfit for t in m.trials.values()):
        handles.append(
            Line2D([], [], color=GREY, marker="o", linestyle="", markerfacecolor="none", label="lowest (overfit after)")
        )
    return handles


def divergence(m: Measured) -> Figure:
    if not recorded_divergence(m)[1]:
        return message_figure(subject(m), _why_no_divergence(m))
    notes = ["a line per pair of trials" + (f" on {n:,} fixed positions" if (n := positions(m, "divergence")) else "")]
    notes[0] += "; black: mean over pairs"
    notes += [note] if (note := at_the_start([m])) else []
    figure, axes = panels(1, 3, 3.0, bottom=0.6 + 0.1 * len(notes))
    headline(figure, subject(m), "\n".join(notes))
    draw(axes[0], m, DIVERGENCE.values())
    return figure


def pd_along(ax: Axes, m: Measured) -> None:
    _pairs_along(ax, m, "relative_pd", "Relative PD")
    pairs = recorded_divergence(m)[1]
    if 1 <= len(pairs) <= 10:
        ax.legend(loc="lower right", title="trials", title_fontsize=SMALL, ncols=1 + (len(pairs) > 5))


def _pairs_along(ax: Axes, m: Measured, key: str, title: str) -> None:
    """A difference between the trials of each pair, against the training step."""
    steps, pairs = recorded_divergence(m)
    if not pairs:
        return say(ax, _why_no_divergence(m))
    curves = {name: gaps(pair.get(key) or []) for name, pair in pairs.items()}
    few = len(pairs) <= 10
    style = {"linewidth": 0.9, "marker": "o", "markersize": 2} if few else {"linewidth": 0.5}
    for (name, curve), shade in zip(curves.items(), shades(activation_style(m.name)[0], len(pairs)), strict=True):
        x, y = steps[: len(curve)], curve[: len(steps)]
        ax.plot(x, y, color=shade, label=name.replace("_vs_", "–"), gid=f"{key} {name}", **style)
    whole = [curve for curve in curves.values() if len(curve) == len(steps)]
    if len(whole) > 1:
        ax.plot(steps, np.mean(whole, axis=0), color="black", linewidth=1.2, linestyle=(0, (4, 1.5)))
    ax.set_ylim(bottom=0)
    ticks(ax.xaxis, 5, integer=True)
    heading = METRIC[key].heading
    unit = heading.replace(" (", "\n(") if len(heading) > 25 else heading
    return ax.set(title=title, xlabel="training step", ylabel=unit)


DIVERGENCE = {
    "pd": pd_along,
    "mismatch": functools.partial(_pairs_along, key="top1_mismatch_pct", title="Top-1 mismatch"),
    "loss": functools.partial(_pairs_along, key="val_loss_difference", title="Loss difference"),
}


def recorded_divergence(m: Measured) -> tuple[np.ndarray, dict[str, dict]]:
    """The steps at which predictions were stored, and {pair: its curves}; no pairs where nothing was."""
    recorded = m.record("divergence")
    by_pair = {f"{i}_vs_{j}": (recorded.get("pairs") or {}).get(f"{i}_vs_{j}") or {} for i, j in m.pairs}
    kept = {name: curves for name, curves in by_pair.items() if len(numbers(curves.get("relative_pd") or []))}
    return gaps(recorded.get("steps") or []), kept


def _why_no_divergence(m: Measured) -> str:
    return "no predictions along training recorded" if m.pairs else why_no_pairs(m)


def at_the_start(measured: Iterable[Measured]) -> str:
    """Why models that have learnt nothing differ, where they do and are close to uniform; else ''.

    They are so in ways of their own: with logits that scatter by σ around one value, independently in each model,
    p_i ∝ exp(z_i) gives PD ≈ E|z_i - z_j| / 2 = σ/√π. For GPT with n_embd = 128, σ = 0.02 √128 and σ/√π = 0.128.
    """
    pds, losses, uniform = [], [], set()
    for m in measured:
        steps, pairs = recorded_divergence(m)
        if not len(steps) or steps[0] != 0:
            continue
        pds += [curves["relative_pd"][0] for curves in pairs.values()]
        losses += [t.val_loss_history[0] for t in m.trials.values() if t.val_loss_history]
        uniform.add(math.log(number(m.record("dataset").get("vocab_size")) or 1))
    pd, start, flat = mean(pds), mean(losses), max(uniform, default=0)
    if not pd or start is None or not flat or abs(start - flat) > 0.05 * flat or pd < 0.01:
        return ""
    return (
        f"at step 0 nothing is learnt: predictions are close to uniform (loss {start:.2f}; uniform: {flat:.2f}), but "
        f"scattered at random by "
        f"each model's own initial weights, which alone gives a PD of {pd:.3f}"
    )


# -- after training -----------------------------------------------------------------------------------------------


def reproducibility(m: Measured) -> Figure:
    if not m.pairs:
        return message_figure(subject(m), why_no_pairs(m))
    left_of = text_width(metric.heading for metric in _further(m)) + 0.25
    figure, axes = panels(2, 2, 5.4, right=0.15, across=max(1.2, left_of), bottom=0.8)
    notes = ["colour: from 0; dashed: mean; shaded: its 95 % interval over trials (jackknife)"]
    if any(number(p.value("relative_pd_se")) for p in m.pairs.values()) and len(m.trials) <= 4:
        notes.append("±: 95 % interval of a pair's PD over positions, given the two trials")
    final = positions(m, "evaluation")
    headline(figure, subject(m), "; ".join(notes) + (f"\non {final:,} fixed positions" if final else ""))
    draw(axes.flat, m, REPRODUCIBILITY.values())
    return figure


def why_no_pairs(m: Measured) -> str:
    if len(m.planned) == 1:
        return "one trial: no pairs"
    finished = f"{len(m.trials) or 'no'} trial{'s' * (len(m.trials) != 1)} finished"
    return f"{finished}: no pairs" if len(m.trials) < 2 else "no prediction differences were recorded"


LARGEST = {"relative_pd": 1.0, "top1_mismatch_pct": 100.0}


def measured_values(m: Measured, key: str) -> np.ndarray:
    """Those of a metric: one per pair, or per trial."""
    of_pairs = METRIC[key].of == "pair"
    return numbers([p.value(key) for p in m.pairs.values()] if of_pairs else m.trial_values(key))


def interval(m: Measured, key: str) -> tuple[float | None, float | None, float | None]:
    """Mean of a metric with its 95 % interval over trials: by Student's t of one number per trial, by the jackknife of
    a non-negative metric of pairs; the limits are None where there are fewer than three trials, or pairs without the
    metric. The jackknife's is made on a log scale, where that of three trials can go beyond what the metric can be: it
    ends there."""
    if METRIC[key].of == "trial":
        values = measured_values(m, key)
        return significance.mean_interval(values) if len(values) else (None, None, None)
    values = {pair: number(record.value(key)) for pair, record in m.pairs.items() if set(pair) <= set(m.pd_ids)}
    if not values or None in values.values():
        return mean(values.values()), None, None
    middle, low, high = significance.mean_pd_interval(matrix(values, m.pd_ids))
    return middle, low, high if high is None else min(high, LARGEST.get(key, math.inf))


def pd_matrix(ax: Axes, m: Measured) -> None:
    """Relative PD of each pair, once, on a colour scale that begins at 0: small differences look small."""
    ids = sorted({k for pair in m.pairs for k in pair})
    if not ids:
        return say(ax, why_no_pairs(m))
    rows, columns = ids[1:], ids[:-1]
    values = np.full((len(rows), len(columns)), math.nan)
    for (i, j), pair in m.pairs.items():
        values[rows.index(j), columns.index(i)] = pair.relative_pd
    image = ax.imshow(values, cmap="Blues", aspect="equal", vmin=0, vmax=np.nanmax(values) * 1.25 or 1)
    ax.set(title="Relative PD of each pair", xlabel="trial", ylabel="trial")
    numbered(ax.xaxis, columns)
    numbered(ax.yaxis, rows)
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if len(rows) > 5:
        corner = ax.inset_axes([0.72, 0.5, 0.05, 0.48])  # where no pair is
        bar = ax.figure.colorbar(image, cax=corner, ticks=MaxNLocator(4))
        bar.outline.set_visible(False)
        return None
    for (i, j), pair in m.pairs.items():
        value, error = pair.relative_pd, number(pair.value("relative_pd_se"))
        text = f"{value:.4f}" + (f"\n±{1.96 * error:.4f}" if error and len(rows) <= 3 else "")
        colour = "white" if image.norm(value) > 0.6 else "black"
        place = {"ha": "center", "va": "center", "fontsize": SMALL, "color": colour}
        ax.text(columns.index(i), rows.index(j), text, **place)
    return None


def trial_means(ax: Axes, m: Measured) -> None:
    """Each trial's mean PD with the others, whose spread is what the interval of the mean comes from."""
    ids = m.pd_ids
    if not ids:
        return say(ax, why_no_pairs(m))
    colour, marker = activation_style(m.name)
    own = m.pd().sum(axis=1) / (len(ids) - 1)
    ax.plot(range(len(ids)), own, marker, color=colour, gid="trials", zorder=3)
    _mean_line(ax, colour, *m.pd_interval)
    numbered(ax.xaxis, list(ids))
    ax.set_xlim(-0.6, len(ids) - 0.4)
    ticks(ax.yaxis, 6)
    ax.grid(False, axis="x")
    title = f"PD of each trial, mean {m.pd_interval[0]:.4f}"
    return ax.set(title=title, xlabel="trial", ylabel="mean relative PD with the others")


def _mean_line(ax: Axes, colour: str, average: float, low: float | None, high: float | None) -> None:
    ax.axhline(average, color=colour, linewidth=0.8, linestyle="--")
    if low is not None:
        ax.axhspan(low, high, color=colour, alpha=0.12, linewidth=0, zorder=0)


def mismatch(ax: Axes, m: Measured) -> None:
    """Positions at which the two most likely tokens of a pair differ."""
    churn = gaps(p.top1_mismatch_pct for p in m.pairs.values())
    if mean(churn) is None:
        return say(ax, "not recorded" if m.pairs else why_no_pairs(m))
    colour, marker = activation_style(m.name)
    x, names = np.arange(len(m.pairs)), [f"{i}–{j}" for i, j in m.pairs]
    ax.plot(x, churn, marker, color=colour, gid="mismatch", markersize=4 if len(x) <= 30 else 2.5, zorder=3)
    average, low, high = interval(m, "top1_mismatch_pct")
    _mean_line(ax, colour, average, low, high)
    room = ax.get_window_extent().width / ax.figure.dpi
    every = math.ceil((len(x) + 0.2) * (text_width(names) + 0.08) / room)  # labels that fit side by side
    ax.set_xticks(x[::every], names[::every])
    ax.set_xlim(-0.6, len(x) - 0.4)
    ticks(ax.yaxis, 7)
    ax.grid(False, axis="x")
    return ax.set(title=f"Top-1 mismatch, mean {average:.3g} %", xlabel="pair of trials", ylabel="positions (%)")


def _further(m: Measured) -> dict[Metric, np.ndarray]:
    """{metric of a pair: its values} of those that summary.csv shows and that have no panel of their own."""
    by_metric = {metric: numbers(p.value(metric.key) for p in m.pairs.values()) for metric in metrics_of("pair")}
    elsewhere = ("relative_pd", "top1_mismatch_pct")
    shown = {metric: x for metric, x in by_metric.items() if metric.column and metric.unit != "positions"}  # no counts
    return {metric: x for metric, x in shown.items() if len(x) and metric.key not in elsewhere}


def other_metrics(ax: Axes, m: Measured) -> None:
    """One row per further metric, a point per pair; they differ by orders of magnitude, so on a log axis."""
    rows = _further(m)
    ax.set(title="Further metrics, a point per pair", xlabel="value")
    if not rows:
        return say(ax, "no further metrics were recorded")
    colour, marker = activation_style(m.name)
    for y, values in enumerate(rows.values()):
        size = 4 if len(values) <= 30 else 2.5
        ax.plot(values, np.full(len(values), y), marker, color=colour, alpha=0.7, markersize=size)
    everything = np.concatenate(list(rows.values()))
    if (everything > 0).all():
        ax.set_xscale("log")
        first, last = math.floor(math.log10(everything.min())), math.ceil(math.log10(everything.max()))
        ax.set_xlim(10**first, 10 ** max(last, first + 1))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    return row_labels(ax, [metric.heading for metric in rows])


REPRODUCIBILITY = {"matrix": pd_matrix, "trials": trial_means, "mismatch": mismatch, "metrics": other_metrics}


def summary(m: Measured) -> Figure:
    figure, axes = panels(1, 4, 2.95, bottom=0.78, across=0.68)
    final = positions(m, "evaluation")
    note = "points: the trials in order (of PD: the pairs); beside them their mean with its 95 % interval over trials"
    headline(figure, subject(m), note + (f"\nlosses and accuracies: on {final:,} fixed positions" if final else ""))
    draw(axes[0], m, SUMMARY.values())
    return figure


def _columns(ax: Axes, m: Measured, title: str, unit: str, columns: Mapping[str, str]) -> None:
    """A column of points for each key, and beside it their mean and its interval."""
    colour, marker = activation_style(m.name)
    names = {}
    for x, (name, key) in enumerate(columns.items()):
        ys = measured_values(m, key)
        if not len(ys):
            continue
        xs = x - 0.08 + np.linspace(-0.22, 0.14, len(ys)) * (len(ys) > 1)
        ax.scatter(xs, ys, gid=f"{title} {name}", **_dot(ys, colour, marker))
        average, low, high = interval(m, key)
        names[x] = f"{name}\n{average:#.4g}"
        if len(ys) > 1:
            style = {"fmt": "_", "color": "black", "markersize": 9, "elinewidth": 0.9}
            ax.errorbar(x + 0.26, average, bars(average, low, high), **style)
    ax.set(title=title, ylabel=unit)
    if not names:
        why = why_no_pairs(m) if METRIC[key].of == "pair" else "no trial finished" if not m.trials else "not recorded"
        return say(ax, why.replace(": ", ":\n"))
    ax.set_xticks(list(names), list(names.values()))
    ax.set_xlim(-0.55, len(columns) - 0.45)
    ax.margins(y=0.12)
    ax.grid(False, axis="x")
    return ticks(ax.yaxis, 6)


def _summarised(title: str, unit: str, **columns: str) -> Callable:
    return functools.partial(_columns, title=title, unit=unit, columns=columns)


SUMMARY = {
    "loss": _summarised("Loss", LOSS, training="train_loss", validation="val_loss"),
    "accuracy": _summarised("Accuracy", "accuracy (%)", training="train_accuracy", validation="val_accuracy"),
    "pd": _summarised("Relative PD", METRIC["relative_pd"].heading, pairs="relative_pd"),
    "time": _summarised("Training time", METRIC["training_time"].heading, trials="training_time"),
}


SOURCE_LABELS = {
    "init": "initial weights",
    "order": SAMPLE_AND_ORDER,
    ORDER: ORDER,
    ORDER_AND_LAST: ORDER_AND_LAST,
    "dropout": "dropout",
    "bit": "one bit of one weight",
    "all": "all together",
    "none": "nothing (hardware only)",
}


def source_key(name: str, varies: str | None) -> str:
    """The key in SOURCE_LABELS of a source, by its name and what it varied."""
    return varies if varies in SOURCE_LABELS else name


def sources(data: tuple[Mapping[str, Iterable[float]], str]) -> Figure:
    shares, activation = data
    names = [SOURCE_LABELS.get(key) or plain(key, 28) for key in shares]
    high, right = (0.45, 0.18) if PAGE.get().narrow else (0.3, 1.75)
    figure, ((ax,),) = panels(
        1, 1, 1.35 + high * len(names), left=text_width(names) + 0.25, right=right, bottom=0.6, top=0.5
    )
    title = f"{named(activation, 40)}: PD that each source of variation causes alone"
    headline(figure, title, "points: pairs of trials; below them their mean")
    source_rows(ax, data)
    return figure


def source_rows(ax: Axes, data: tuple[Mapping[str, Iterable[float]], str]) -> None:
    shares, activation = data
    order = [key for key in SOURCE_LABELS if key in shares] + sorted(key for key in shares if key not in SOURCE_LABELS)
    values = {key: numbers(shares[key] or []) for key in order}
    together = mean(values.get("all", ()))
    for y, (key, pds) in enumerate(values.items()):
        dots(ax, y, pds, *activation_style(activation), center=mean(pds), missing="no pairs")
        if len(pds):
            share = f"  ({100 * pds.mean() / together:.0f} % of all)" if together and key != "all" else ""
            beside(ax, y, f"{pds.mean():.4f}{share}")
    row_labels(ax, [SOURCE_LABELS.get(key) or plain(key, 28) for key in order])
    ax.set_xlim(left=min(0, *ax.get_xlim()))
    ax.set_xlabel(METRIC["relative_pd"].heading)


def dots(ax: Axes, y: float, values, colour: str, marker: str, center=None, low=None, high=None, missing="") -> None:
    """One row of a dot plot: the values, and below them their centre and its interval."""
    if not len(values):
        ax.text(0.02, y, missing, transform=ax.get_yaxis_transform(), va="center", fontsize=SMALL, color=GREY)
        return
    ax.scatter(values, y - 0.14 + _spread(values, 0.34), gid=f"row {y:g}", **_dot(values, colour, marker))
    if len(values) > 1:
        style = {"fmt": "|", "color": "black", "markersize": 6, "markeredgewidth": 1.2, "elinewidth": 0.9}
        ax.errorbar(center, y + 0.2, xerr=bars(center, low, high), **style)


def _dot(values, colour: str, marker: str) -> dict:
    """The look of a cloud of points: many are smaller and paler, so that they don't become a solid bar."""
    few = min(1, (12 / len(values)) ** 0.65)
    return {"s": max(15 * few, 3), "color": colour, "marker": marker, "alpha": max(0.75 * few, 0.4), "linewidths": 0}


def _spread(values, height: float) -> np.ndarray:
    """Where each of many values lies across its row: by the golden ratio, so that neighbours lie apart."""
    if len(values) <= 12:
        return np.zeros(len(values))
    return height * (np.argsort(np.argsort(values)) * (math.sqrt(5) - 1) / 2 % 1 - 0.5)


def beside(ax: Axes, y: float, text: str, inches: float = 0.1) -> None:
    """A line of text so far to the right of a row; on a narrow page, in the row, below what is drawn there."""
    if PAGE.get().narrow:
        place = {"xycoords": ax.get_yaxis_transform(), "xytext": (0, -10), "textcoords": "offset points"}
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
        ax.annotate(text, (0.02, y), va="center", fontsize=SMALL, bbox=box, **place)
        return
    place = {"xycoords": ax.get_yaxis_transform(), "xytext": (72 * inches, 0), "textcoords": "offset points"}
    ax.annotate(text, (1, y), va="center", fontsize=SMALL, **place)
