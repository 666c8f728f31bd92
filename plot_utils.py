"""Every figure, drawn from results alone.

    plot_training_curves(results, activation, save_dir)           one activation: losses along training
    plot_reproducibility_metrics(results, activation, save_dir)   how much its trials differ
    plot_summary_metrics(results, activation, save_dir)           loss, accuracy, PD, time
    plot_divergence(results, activation, save_dir)                how its trials part along training
    plot_all_activation_results(save_dir, results_dir)            all activations, six panels
    plot_comparisons(all_results, save_dir)                       every figure over several activations

Each `plot_X` writes a PNG (200 dpi, other formats on request) and returns its path; the `X_figure` behind it returns
the matplotlib Figure, for those who want to change it. An activation has one colour and one marker in all figures.
Figures are made without pyplot: no backend is chosen, no state is left behind, and the same results give the same
bytes. Only trials that finished enter an average; diverged ones are shown as such. No torch (but for
plot_activation_functions).
"""

from __future__ import annotations

import math
import os
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

import storage
from activations import STUDY, get_info, label
from analysis.results import Measured, load_all_results, mean, std
from analysis.study import WEIGHTINGS, Study
from config import Config, Parser, UserError
from metrics_table import metrics_of
from storage import number

__all__ = [
    "plot_training_curves",
    "plot_reproducibility_metrics",
    "plot_summary_metrics",
    "plot_divergence",
    "plot_sources",
    "plot_all_activation_results",
    "plot_divergence_comparison",
    "plot_pd_ratios",
    "plot_beta_sweep",
    "plot_activation_functions",
    "plot_studies",
    "plot_comparisons",
]

DPI = 200
WIDTH = 7.2  # inches: two columns of a paper, so that text is printed at the size it has here
SMALL, TINY = 7, 6.5  # points
GREY, ALARM = "#777777", "#D55E00"

# Okabe & Ito's colours for the study, then Tol's "muted" ones: told apart with any colour vision.
_STYLES = {
    "smelu_05": ("#0072B2", "o"),
    "smelu_1": ("#56B4E9", "s"),
    "relu": ("#000000", "X"),
    "gelu": ("#E69F00", "^"),
    "swish": ("#009E73", "D"),
    "smelu_0.1": ("#332288", "v"),
    "smelu_0.25": ("#6A51A3", "<"),
    "smelu_2": ("#88CCEE", ">"),
    "gelu_tanh": ("#999933", "<"),
    "mish": ("#CC79A7", "v"),
    "softplus": ("#882255", "p"),
    "elu": ("#D55E00", "h"),
    "leaky_relu": ("#777777", "P"),
    "relu2": ("#663333", "*"),
    "tanh": ("#CC6677", "d"),
    "swiglu": ("#117733", "8"),
    "geglu": ("#DDCC77", ">"),
    "reglu": ("#BBBBBB", "P"),
    "smeglu": ("#44AA99", "p"),
}
_MARKERS = "osD^vP<>phd8"

_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # looking for a free place above the axes would take a sixth of the time
    "axes.titlepad": 5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": SMALL,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
}
# What a user's own settings can't change: the same results give the same figure everywhere.
_DEFAULTS = {
    key: value
    for key, value in matplotlib.rcParamsDefault.items()
    if not key.startswith(("backend", "interactive", "toolbar", "webagg", "savefig.directory", "figure.max_open"))
}


# -- one look for all figures -------------------------------------------------------------------------------------


def activation_style(name: str) -> tuple[str, str]:
    """(colour, marker) of an activation: a function of its name alone, so it is the same in every figure."""
    if name in _STYLES:
        return _STYLES[name]
    digest = zlib.crc32(name.encode())
    hue, tone, shape = digest % 997 / 997, digest // 997 % 3, digest // 2991
    colour = hsv_to_rgb((hue, (0.85, 0.55, 0.95)[tone], (0.80, 0.65, 0.50)[tone]))
    return to_hex(colour), _MARKERS[shape % len(_MARKERS)]


def _shades(colour: str, n: int) -> list[np.ndarray]:
    """n shades of a colour from light to dark, for the trials or the pairs of one activation."""
    base = np.array(to_rgb(colour))
    brightness = base @ (0.2126, 0.7152, 0.0722)
    lightest, darkest = (0.75, 0.25) if brightness < 0.05 else (0.1, -0.6) if brightness > 0.6 else (0.5, -0.5)
    amounts = np.linspace(lightest, darkest, n) if n > 1 else [0.0]
    return [base + abs(a) * ((a > 0) - base) for a in amounts]


def _text(text: str, width: int = 60) -> str:
    """Text for a figure: at most `width` characters, its middle left out when longer, and a $ that is no formula."""
    text = " ".join(str(text).split())
    if len(text) > width:
        text = f"{text[: width // 2]}…{text[-((width - 1) // 2) :]}"
    return text.replace("$", r"\$")


def _name(activation: str, width: int = 28) -> str:
    return _text(label(activation), width)


def _text_width(texts: Iterable[str], size: float = SMALL) -> float:
    """Inches that the widest of some lines takes."""
    font = FontProperties(family="DejaVu Sans", size=size)
    widths = [text_to_path.get_text_width_height_descent(t.replace(r"\$", "$"), font, False)[0] for t in texts if t]
    return max(widths, default=0) / 72


def _panels(rows, columns, height, left=0.66, right=0.18, bottom=0.42, top=0.55, across=0.75, down=0.62, heights=None):
    """A figure of `rows` × `columns` axes, all margins and gaps in inches, and the axes as an array.

    Laid out by hand: matplotlib's layout engines draw everything once more, which doubles the time.
    """
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    wide, high = (WIDTH - left - right - across * (columns - 1)) / columns, height - bottom - top - down * (rows - 1)
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - right / WIDTH,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=across / wide,
        hspace=down / (high / rows),
    )
    return figure, axes


def _headline(figure: Figure, text: str, note: str = "") -> None:
    height = figure.get_figheight()
    figure.text(0.08 / WIDTH, 1 - 0.08 / height, text, va="top", fontsize=9, fontweight="bold")
    if note:
        figure.text(0.08 / WIDTH, 0.06 / height, note, va="bottom", fontsize=TINY, color=GREY)


def _subject(m: Measured) -> str:
    """What a figure of one activation is about."""
    n, parts = len(m.planned), [_name(m.name, 40)]
    dataset = m.record("dataset").get("name")
    parts.append(_text(m.results.get("model_name") or "model", 20) + (f" on {_text(dataset, 30)}" if dataset else ""))
    parts.append(f"{n} trial{'s' * (n != 1)}" + (f", {len(m.failed)} failed" if m.failed else ""))
    if m.audit.startswith("failed"):
        parts.append("AUDIT FAILED")
    return "  ·  ".join(parts)


def _message_figure(headline: str, message: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = Figure(figsize=(WIDTH, 1.6))
    _headline(figure, headline)
    figure.text(0.5, 0.45, message, ha="center", va="center", fontsize=9, color=GREY)
    return figure


def _say(axes, message: str) -> None:
    """An empty panel that says why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL, color=GREY)


def _numbers(values: Iterable) -> np.ndarray:
    return np.array([x for x in map(number, values) if x is not None], dtype=float)


def _gaps(values: Iterable) -> np.ndarray:
    """An array in which what is missing or not finite is NaN: a gap in a line."""
    return np.array([math.nan if number(x) is None else float(x) for x in values], dtype=float)


def _limits(axes, values: Iterable, axis: str = "y", margin: float = 0.08) -> None:
    """Limits around some values only (a diverging trial must not squeeze the others flat)."""
    values = _numbers(values)
    if len(values):
        low, high = values.min(), values.max()
        pad = margin * (high - low) or 0.01 * abs(high) or 1
        getattr(axes, f"set_{axis}lim")(low - pad, high + pad)


def _ticks(axis, most: int, **options) -> None:
    """At most so many round numbers, as they are: never with an offset beside the axis."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], **options))
    axis.get_major_formatter().set_useOffset(False)


_NO_DATES = {  # metadata left out, so that the same results give the same bytes
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}


def _save(build: Callable[..., Figure], arguments: tuple, save_dir, stem: str, formats: Iterable[str]) -> Path:
    """Build a figure and write it in each format; the path of the first."""
    formats = [formats] if isinstance(formats, str) else list(formats)
    if not formats or not set(formats) <= set(_NO_DATES):
        raise UserError(f"formats={formats!r}: must be one or more of {', '.join(_NO_DATES)}")
    with matplotlib.rc_context(_DEFAULTS | _RC | {"svg.hashsalt": stem}):
        figure = build(*arguments)
        for kind in formats:
            # level 3: files a little larger, written in half the time
            options = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
            with storage.atomic_path(Path(save_dir) / f"{stem}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, metadata=_NO_DATES[kind], **options)
    return Path(save_dir) / f"{stem}.{formats[0]}"


def _measured(results: Mapping, activation: str) -> Measured:
    if not isinstance(results, Mapping) or not {"trials", "reproducibility_metrics"} <= set(results):
        raise UserError(
            f"results: the results of one activation are needed, with 'trials' and 'reproducibility_metrics' "
            f"(of all results, all_results[{activation!r}])"
        )
    return Measured(activation, dict(results))


# -- one activation -----------------------------------------------------------------------------------------------


def plot_training_curves(
    results: Mapping, activation: str, save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """Training and validation loss of every trial (nats per token) against the recorded steps; learning rate and
    gradient norm where they were recorded. Writes `{activation}_training_curves.png` and returns its path.

    Results without steps are drawn against the number of the evaluation.

    Raises:
        UserError: `results` is not the results of one activation.
        storage.StorageError: the disk refuses.
    """
    m = _measured(results, activation)
    return _save(training_curves_figure, (m,), save_dir, f"{storage.file_name(activation)}_training_curves", formats)


def training_curves_figure(m: Measured) -> Figure:
    losses = ("train_loss_history", "val_loss_history")
    label_x, curves = _training_curves(m)
    if not any(np.isfinite(y).any() for (_, key), (_, y) in curves.items() if key in losses):
        return _message_figure(_subject(m), "no loss along training was recorded")
    extra = [key for key in ("learning_rate_history", "grad_norm_history") if any(key == found for _, found in curves)]
    rows = 2 if extra else 1
    figure, axes = _panels(rows, 2, 4.7 if extra else 3.0, heights=[1.6, 1][:rows], down=0.6)
    _headline(figure, _subject(m))
    whole, late = axes[0]
    shades = dict(zip(m.planned, _shades(activation_style(m.name)[0], len(m.planned)), strict=True))
    styles = {"train_loss_history": {"linestyle": (0, (3, 2)), "linewidth": 0.8, "markerfacecolor": "none"}}
    panels = {key: [panel] for panel, key in zip(axes[-1], extra, strict=False)} | {
        key: [whole, late] for key in losses
    }
    for (k, key), (x, y) in curves.items():
        dots = {"marker": "o", "markersize": 2} if len(y) < 40 else {}
        for panel in panels[key]:
            panel.plot(x, y, color=shades[k], gid=f"{key} {k}", **dots, **styles.get(key, {}))
            finite = np.flatnonzero(np.isfinite(y))
            if key == "val_loss_history" and k in m.failed and len(finite):
                panel.plot(x[finite[-1]], y[finite[-1]], "x", color=ALARM, markersize=6, markeredgewidth=1.5, zorder=5)
            elif key == "val_loss_history" and m.planned[k].get("overfit") and len(finite):
                best = np.nanargmin(y)
                panel.plot(x[best], y[best], "o", color=shades[k], markersize=6, markerfacecolor="none", zorder=5)

    unigram = number(m.record("dataset").get("val_unigram_cross_entropy"))
    if unigram is not None:
        whole.axhline(unigram, color=GREY, linestyle=":", linewidth=0.9)
    whole.legend(handles=_curve_legend(m, shades, unigram), loc="upper right")
    # limits by the trials that finished: one that diverges must not squeeze the others flat
    shown = {key: [curves[k, key] for k in m.trials or m.planned if (k, key) in curves] for key in panels}
    both = shown["train_loss_history"] + shown["val_loss_history"]
    last = max(_numbers(x for x, _ in both for x in x), default=0)
    _limits(whole, [*(y for _, y in both for y in y), unigram])
    _limits(late, [value for x, y in both for value in y[x >= last / 2]])
    _limits(late, [last / 2, last], "x", 0.03)
    whole.set(title="Loss", ylabel="loss (nats per token)")
    late.set(title="Loss, second half of training", ylabel="loss (nats per token)")
    for key in extra:
        (panel,) = panels[key]
        _limits(panel, [y for _, y in shown[key] for y in y])
        what = {"learning_rate_history": "Learning rate", "grad_norm_history": "Gradient norm"}[key]
        panel.set(title=what, ylabel=what.lower())
    if len(extra) == 1:
        axes[1, 1].set_axis_off()
    for panel in axes.flat:
        panel.set_xlabel(label_x)
        _ticks(panel.xaxis, 6, integer=True)
    return figure


def _training_curves(m: Measured) -> tuple[str, dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]]:
    """The label of the x axis along training, and {(trial, history): (x, y)} of what was recorded.

    x is the recorded step; where there is none, the number of the evaluation; where training and validation loss were
    not even recorded equally often, all that is known is how far through training each value was taken.
    """
    found = {}
    for k, trial in m.planned.items():
        for key in ("train_loss_history", "val_loss_history", "learning_rate_history", "grad_norm_history"):
            y = _gaps(trial.get(key) or [])
            if len(y):
                found[k, key] = y
    steps = {k: _gaps(trial.get("steps") or m.results.get("steps") or []) for k, trial in m.planned.items()}
    lengths = {k: {len(y) for (i, key), y in found.items() if i == k and "loss" in key} for k in m.planned}
    if any(len(n) > 1 for n in lengths.values()):
        return "share of training (%)", {key: (100 * np.arange(1, len(y) + 1) / len(y), y) for key, y in found.items()}
    # what was recorded at other times than the losses can't be placed
    found = {(k, key): y for (k, key), y in found.items() if {len(y)} == lengths[k]}
    if all(len(y) <= len(steps[k]) for (k, _), y in found.items()):
        return "training step", {(k, key): (steps[k][: len(y)], y) for (k, key), y in found.items()}
    return "evaluation", {key: (np.arange(1.0, len(y) + 1), y) for key, y in found.items()}


def _curve_legend(m: Measured, shades: dict, unigram: float | None) -> list[Line2D]:
    handles = [
        Line2D([], [], color=GREY, label="validation"),
        Line2D([], [], color=GREY, linestyle=(0, (3, 2)), linewidth=0.8, label="training"),
    ]
    if unigram is not None:
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="unigram model"))
    shown = list(shades) if len(shades) <= 6 else [min(shades), max(shades)]
    handles += [Line2D([], [], color=shades[k], linewidth=2.5, label=f"trial {k}") for k in shown]
    if len(shades) > 6:
        handles[-2].set_label(f"trial {shown[0]} …")
        handles[-1].set_label(f"… trial {shown[1]}")
    if m.failed:
        diverged = all(t.get("status") == "diverged" for t in m.failed.values())
        what = f"trial{'s' * (len(m.failed) != 1)} {_text(', '.join(map(str, m.failed)), 14)} "
        what += "diverged" if diverged else "failed"
        handles.append(Line2D([], [], color=ALARM, marker="x", linestyle="", markeredgewidth=1.5, label=what))
    if any(t.get("overfit") for t in m.trials.values()):
        handles.append(
            Line2D([], [], color=GREY, marker="o", linestyle="", markerfacecolor="none", label="lowest (overfit after)")
        )
    return handles


# what summary.csv shows of a pair; top-1 mismatch has a panel of its own
_PAIR_METRICS = {m.key: m.heading for m in metrics_of("pair") if m.column and m.key != "top1_mismatch_pct"}


def plot_reproducibility_metrics(
    results: Mapping, activation: str, save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """How much each pair of trials differs: relative PD (error bars: 95 % over positions), top-1 mismatch, and every
    further metric recorded. Writes `{activation}_reproducibility.png` and returns its path.

    Raises:
        UserError: `results` is not the results of one activation.
        storage.StorageError: the disk refuses.
    """
    m = _measured(results, activation)
    return _save(reproducibility_figure, (m,), save_dir, f"{storage.file_name(activation)}_reproducibility", formats)


def reproducibility_figure(m: Measured) -> Figure:
    pairs = m.pairs
    if not pairs:
        return _message_figure(_subject(m), _why_no_pairs(m))
    colour, marker = activation_style(m.name)
    figure, ((heatmap, differences), (mismatches, metrics)) = _panels(2, 2, 5.4, right=0.15, across=1.5, bottom=0.66)
    errors = [1.96 * (number(p.get("relative_pd_se")) or 0) for p in pairs.values()]
    note = "dashed: mean over pairs"
    _headline(figure, _subject(m), f"{note}; bars: 95 % over positions, given the trials" if any(errors) else note)
    _pd_heatmap(figure, heatmap, m)

    x = np.arange(len(pairs))
    names = [f"{i}–{j}" for i, j in pairs]
    every = math.ceil(len(pairs) * (_text_width(names) + 0.08) / 2.4)  # labels that fit side by side
    small = {"markersize": 4 if len(pairs) <= 30 else 2.5}
    pds = [p["relative_pd"] for p in pairs.values()]
    churn = _gaps(_mismatch(p) for p in pairs.values())
    bars = {"yerr": errors, "elinewidth": 0.9 if len(pairs) <= 30 else 0.4, "capsize": 0} if any(errors) else {}
    differences.errorbar(x, pds, fmt=marker, color=colour, gid="pairs", **bars, **small)
    mismatches.plot(x, churn, marker, color=colour, gid="mismatch", **small)
    for panel, values, title, unit, form in (
        (differences, pds, "Relative PD", "relative PD", "{:.4f}"),
        (mismatches, churn, "Top-1 mismatch", "positions (%)", "{:.3g} %"),
    ):
        average = mean(values)
        if average is None:
            _say(panel, "not recorded")
        else:
            panel.axhline(average, color=colour, linewidth=0.8, linestyle="--")
            title += ", mean " + form.format(average)
            panel.set_xlim(-0.6, len(pairs) - 0.4)
            panel.set_xticks(x[::every], names[::every])
            _ticks(panel.yaxis, 7)
        panel.set(title=title, ylabel=unit, xlabel="pair of trials")
        panel.grid(False, axis="x")
    _pair_metrics(metrics, m, colour, marker)
    return figure


def _why_no_pairs(m: Measured) -> str:
    if len(m.planned) == 1:
        return "one trial: no pairs"
    finished = f"{len(m.trials) or 'no'} trial{'s' * (len(m.trials) != 1)} finished"
    return f"{finished}: no pairs" if len(m.trials) < 2 else "no prediction differences were recorded"


def _mismatch(pair: Mapping) -> float | None:
    """Top-1 mismatch of a pair in percent, from the counts where the percentage is not recorded."""
    if number(pair.get("top1_mismatch_pct")) is not None:
        return pair["top1_mismatch_pct"]
    differences, total = number(pair.get("prediction_differences")), number(pair.get("total_predictions"))
    return 100 * differences / total if differences is not None and total else None


def _pd_heatmap(figure: Figure, axes, m: Measured) -> None:
    ids = sorted({k for pair in m.pairs for k in pair})
    values = np.full((len(ids), len(ids)), math.nan)
    for (i, j), pair in m.pairs.items():
        values[ids.index(i), ids.index(j)] = values[ids.index(j), ids.index(i)] = pair["relative_pd"]
    image = axes.imshow(values, cmap="cividis", aspect="equal")
    axes.set(title="Relative PD between trials", xlabel="trial", ylabel="trial")
    step = math.ceil(len(ids) / 12)
    axes.set_xticks(range(len(ids))[::step], ids[::step])
    axes.set_yticks(range(len(ids))[::step], ids[::step])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(ids) > 5:
        bar = figure.colorbar(image, cax=axes.inset_axes([1.05, 0, 0.05, 1]))
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=TINY, length=2)
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "black" if image.norm(value) > 0.6 else "white"
            axes.text(
                column,
                row,
                f"{value:.4f}",
                ha="center",
                va="center",
                fontsize=6 if len(ids) > 3 else SMALL,
                color=shade,
            )


def _pair_metrics(axes, m: Measured, colour: str, marker: str) -> None:
    """One row per metric recorded, a point per pair; they differ by orders of magnitude, so on a log axis."""
    rows = {key: found for key in _PAIR_METRICS if len(found := _numbers(p.get(key) for p in m.pairs.values()))}
    axes.set(title="All metrics, a point per pair", xlabel="value")
    if len(rows) == 1:
        _say(axes, "no further metrics were recorded")
        return
    for y, found in enumerate(rows.values()):
        axes.plot(
            found, np.full(len(found), y), marker, color=colour, alpha=0.7, markersize=4 if len(found) <= 30 else 2.5
        )
    everything = np.concatenate(list(rows.values()))
    if (everything > 0).all():
        axes.set_xscale("log")
        first, last = math.floor(math.log10(everything.min())), math.ceil(math.log10(everything.max()))
        axes.set_xlim(10**first, 10 ** max(last, first + 1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(rows)), [_PAIR_METRICS[key] for key in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False, axis="y")


def plot_summary_metrics(
    results: Mapping, activation: str, save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """Final loss, accuracy, relative PD and training time: each trial (pair, for PD) as a point, with mean ± sd.
    Writes `{activation}_summary.png` and returns its path.

    Raises:
        UserError: `results` is not the results of one activation.
        storage.StorageError: the disk refuses.
    """
    m = _measured(results, activation)
    return _save(summary_figure, (m,), save_dir, f"{storage.file_name(activation)}_summary", formats)


def summary_figure(m: Measured) -> Figure:
    colour, marker = activation_style(m.name)
    figure, axes = _panels(1, 4, 2.8, bottom=0.55, across=0.68)
    _headline(
        figure,
        _subject(m),
        "points, from left to right: the trials in order (of PD: the pairs); beside them mean ± standard deviation",
    )
    of_trial = m.trial_values
    groups = (
        ("Loss", "loss (nats per token)", {"training": of_trial("train_loss"), "validation": of_trial("val_loss")}),
        ("Accuracy", "accuracy (%)", {"training": of_trial("train_accuracy"), "validation": of_trial("val_accuracy")}),
        ("Relative PD", "relative PD", {"pairs": [p["relative_pd"] for p in m.pairs.values()]}),
        ("Training time", "time (s)", {"trials": of_trial("training_time")}),
    )
    for panel, (title, unit, columns) in zip(axes[0], groups, strict=True):
        panel.set(title=title, ylabel=unit)
        empty = True
        for x, (name, values) in enumerate(columns.items()):
            ys = _numbers(values)
            if not len(ys):
                continue
            empty = False
            xs = x - 0.08 + np.linspace(-0.22, 0.14, len(ys)) * (len(ys) > 1)
            panel.scatter(xs, ys, s=16, color=colour, marker=marker, alpha=0.8, linewidths=0, gid=f"{title} {name}")
            if len(ys) > 1:
                panel.errorbar(x + 0.26, ys.mean(), std(ys), fmt="_", color="black", markersize=9, elinewidth=0.9)
        if empty:
            _say(panel, (_why_no_pairs(m) if title == "Relative PD" else "no trial finished").replace(": ", ":\n"))
            continue
        panel.set_xticks(range(len(columns)), columns)
        panel.set_xlim(-0.55, len(columns) - 0.45)
        panel.margins(y=0.12)
        panel.grid(False, axis="x")
        _ticks(panel.yaxis, 6)
    return figure


def plot_divergence(
    results: Mapping, activation: str, save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """Relative PD, top-1 mismatch and difference of validation loss of every pair of trials, along training.
    Writes `{activation}_divergence.png` and returns its path.

    Raises:
        UserError: `results` is not the results of one activation.
        storage.StorageError: the disk refuses.
    """
    m = _measured(results, activation)
    return _save(divergence_figure, (m,), save_dir, f"{storage.file_name(activation)}_divergence", formats)


def divergence_figure(m: Measured) -> Figure:
    steps, pairs = _divergence(m)
    if not pairs:
        return _message_figure(_subject(m), "no predictions along training recorded" if m.pairs else _why_no_pairs(m))
    positions = number(m.results["divergence"].get("positions"))
    note = f"on {positions:,.0f} fixed positions" if positions is not None else ""
    figure, axes = _panels(1, 3, 2.95, bottom=0.6)
    _headline(figure, _subject(m), f"a line per pair of trials {note}; black: mean over pairs".replace("  ", " "))
    panels = (
        ("relative_pd", "Relative PD", "relative PD"),
        ("top1_mismatch_pct", "Top-1 mismatch", "positions (%)"),
        ("val_loss_difference", "Loss difference", "|Δ validation loss| (nats per token)"),
    )
    shades = _shades(activation_style(m.name)[0], len(pairs))
    for panel, (key, title, unit) in zip(axes[0], panels, strict=True):
        curves = [_gaps(curves.get(key) or []) for curves in pairs.values()]
        for (name, _), shade, curve in zip(pairs.items(), shades, curves, strict=True):
            panel.plot(
                steps[: len(curve)],
                curve[: len(steps)],
                color=shade,
                linewidth=0.9 if len(pairs) <= 10 else 0.5,
                marker="o" if len(pairs) <= 10 else "",
                markersize=2,
                label=name.replace("_vs_", "–"),
                gid=f"{key} {name}",
            )
        whole = [curve for curve in curves if len(curve) == len(steps)]
        if len(whole) > 1:
            panel.plot(steps, np.mean(whole, axis=0), color="black", linewidth=1.2, linestyle=(0, (4, 1.5)))
        panel.set(title=title, ylabel=unit, xlabel="training step")
        panel.set_ylim(bottom=0)
        _ticks(panel.xaxis, 5, integer=True)
    if len(pairs) <= 10:
        axes[0, 0].legend(loc="lower right", title="trials", title_fontsize=SMALL, ncols=1 + (len(pairs) > 5))
    return figure


def _divergence(m: Measured) -> tuple[np.ndarray, dict[str, dict]]:
    """The steps at which predictions were stored, and {pair: its curves}; no pairs where nothing was."""
    divergence = m.results.get("divergence")
    if not isinstance(divergence, dict):
        return np.array([]), {}
    pairs = {
        f"{i}_vs_{j}": divergence["pairs"][f"{i}_vs_{j}"]
        for i, j in m.pairs
        if len(_numbers(((divergence.get("pairs") or {}).get(f"{i}_vs_{j}") or {}).get("relative_pd") or []))
    }
    return _gaps(divergence.get("steps") or []), pairs


SOURCE_LABELS = {
    "init": "initial weights",
    "order": "data order",
    "dropout": "dropout",
    "bit": "one bit of one weight",
    "all": "all together",
    "none": "nothing (hardware only)",
}


def plot_sources(
    sources: Mapping[str, Iterable[float]],
    activation: str,
    save_dir: str | os.PathLike = "plots",
    formats: Iterable[str] = ("png",),
) -> Path:
    """How much prediction difference each source of randomness causes alone, and all together.

    Args:
        sources: {'init' | 'order' | 'dropout' | 'bit' | 'all' | 'none' | …: relative PD of each pair of trials}.

    Writes `{activation}_sources.png` and returns its path.

    Raises:
        UserError: `sources` is empty.
        storage.StorageError: the disk refuses.
    """
    if not isinstance(sources, Mapping) or not sources:
        raise UserError("sources: a dict of source to relative PDs is needed, such as {'init': [0.08], 'all': [0.09]}")
    return _save(
        sources_figure, (dict(sources), activation), save_dir, f"{storage.file_name(activation)}_sources", formats
    )


def sources_figure(sources: Mapping[str, Iterable[float]], activation: str) -> Figure:
    order = [key for key in SOURCE_LABELS if key in sources] + sorted(
        key for key in sources if key not in SOURCE_LABELS
    )
    names = [SOURCE_LABELS.get(key) or _text(key, 28) for key in order]
    values = [_numbers(sources[key] or []) for key in order]
    figure, ((axes,),) = _panels(
        1, 1, 1.35 + 0.3 * len(order), left=_text_width(names) + 0.25, right=1.75, bottom=0.6, top=0.5
    )
    _headline(
        figure,
        f"{_name(activation, 40)}: PD that each source of variation causes alone",
        "points: pairs of trials; below them mean ± standard deviation",
    )
    together = mean(values[order.index("all")]) if "all" in order else None
    for y, (key, found) in enumerate(zip(order, values, strict=True)):
        _dots(axes, y, found, *activation_style(activation), missing="no pairs")
        if len(found):
            share = f"  ({100 * found.mean() / together:.0f} % of all)" if together and key != "all" else ""
            _beside(axes, y, f"{found.mean():.4f}{share}")
    axes.set_yticks(range(len(order)), names)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(left=min(0, *axes.get_xlim()))
    axes.set_xlabel("relative PD")
    axes.grid(False, axis="y")
    return figure


def _dots(axes, y: float, values: np.ndarray, colour: str, marker: str, missing: str = "") -> None:
    """One row of a dot plot: the values, and below them their mean ± standard deviation."""
    if not len(values):
        axes.text(0.02, y, missing, transform=axes.get_yaxis_transform(), va="center", fontsize=TINY, color=GREY)
        return
    where = np.full(len(values), y - 0.14)
    axes.scatter(values, where, s=15, color=colour, marker=marker, alpha=0.75, linewidths=0, gid=f"row {y:g}")
    if len(values) > 1:
        style = {"fmt": "|", "color": "black", "markersize": 6, "markeredgewidth": 1.2, "elinewidth": 0.9}
        axes.errorbar(values.mean(), y + 0.2, xerr=std(values), **style)


def _beside(axes, y: float, text: str, inches: float = 0.1) -> None:
    """A line of text so far to the right of a row."""
    place = {"xycoords": axes.get_yaxis_transform(), "xytext": (72 * inches, 0), "textcoords": "offset points"}
    axes.annotate(text, (1, y), va="center", fontsize=SMALL, **place)


# -- several activations ------------------------------------------------------------------------------------------


def plot_all_activation_results(
    save_dir: str | os.PathLike = "plots",
    results_dir: str | os.PathLike = "results",
    formats: Iterable[str] = ("png",),
) -> Path:
    """All activations of a folder of results in six panels: validation loss, relative PD, training time, spread between
    trials, ranks, and PD against loss. Writes `comprehensive_comparison.png` and returns its path.

    Raises:
        UserError: there are no results, or they are of different settings.
        storage.StorageError: a results file is damaged, or the disk refuses.
    """
    all_results = load_all_results(results_dir)
    if not all_results:
        raise UserError(f"results_dir={str(results_dir)!r}: no *_results.json in it; train first (python train.py)")
    return _save(comparison_figure, (all_results,), save_dir, "comprehensive_comparison", formats)


def comparison_figure(all_results: Mapping[str, dict]) -> Figure:
    study = Study.of(all_results)
    studied = study.measured
    n = len(studied)
    names = list(_labels(studied).values())
    panel = 0.4 + 0.23 * max(n, 5)
    left, down, top, bottom = _text_width(names) + 0.2, 0.8, 0.55, 0.92
    figure, axes = _panels(
        2, 3, 2 * panel + down + top + bottom, left=left, bottom=bottom, top=top, across=0.28, down=down
    )
    (losses, pds, times), (spread, ranks, trade) = axes
    first = next(iter(study.all_results.values()))
    dataset = (first.get("dataset") or {}).get("name")
    note = (
        "Points: trials (of PD: pairs of trials; in the last panel a trial's mean PD with the others). Bars: mean ± sd "
        "of them.\nPairs share trials, so their sd is no standard error: see pd_ratios.png for intervals."
    )
    if any(name.endswith("†") for name in names):
        note += "  † failed its audit: not ranked."
    _headline(
        figure,
        f"{n} activation{'s' * (n != 1)}  ·  {_text(first.get('model_name') or 'model', 20)}"
        + (f" on {_text(dataset, 30)}" if dataset else ""),
        note,
    )
    for y, (name, m) in enumerate(studied.items()):
        style = activation_style(name)
        why = "not recorded" if m.trials else "no trial finished"
        _dots(losses, y, m.losses(), *style, missing=why)
        _dots(pds, y, _numbers(m.pair_values("relative_pd")), *style, missing="no pairs")
        _dots(times, y, _numbers(m.trial_values("training_time")), *style, missing=why)
    losses.set(title="Validation loss", xlabel="nats per token")
    pds.set(title="Prediction difference", xlabel="relative PD")
    times.set(title="Training time", xlabel="s per trial")
    _spread_panel(spread, studied)
    _rank_panel(ranks, study)
    for panel in (losses, pds, times, spread, ranks):
        panel.set_yticks(range(n), names if panel in (losses, spread) else [])
        room = max(0, 5 - n) / 2  # a single row stays a row
        panel.set_ylim(n - 0.5 + room, -0.5 - room)
        panel.tick_params(axis="y", length=0)
        panel.grid(False, axis="y")
    for panel in (losses, pds, times):
        panel.margins(x=0.1)
        if panel.collections:
            _ticks(panel.xaxis, 5)
        else:
            panel.set_xticks([])
    _trade_off_panel(trade, studied)
    box = trade.get_position()  # its own y axis needs room for numbers
    trade.set_position([box.x0 + 0.35 / WIDTH, box.y0, box.width - 0.35 / WIDTH, box.height])
    return figure


def _labels(studied: Mapping[str, Measured]) -> dict[str, str]:
    """Labels of activations; a dagger marks one whose audit failed."""
    return {name: _name(name, 26) + " †" * m.audit.startswith("failed") for name, m in studied.items()}


def _spread_panel(axes, studied: Mapping[str, Measured]) -> None:
    """Standard deviation as a share of the mean, of loss over trials (filled) and of PD over pairs (hollow)."""
    empty = True
    for y, (name, m) in enumerate(studied.items()):
        colour, marker = activation_style(name)
        for values, face, offset in (
            (m.losses(), colour, -0.13),
            (_numbers(m.pair_values("relative_pd")), "none", 0.13),
        ):
            if len(values) > 1 and values.mean() > 0:
                empty = False
                share = 100 * values.std(ddof=1) / values.mean()
                axes.plot(share, y + offset, marker, color=colour, markerfacecolor=face, markersize=4.5)
    axes.set(title="Spread between trials", xlabel="sd / mean (%):  ●  loss   ○  PD")
    if empty:
        _say(axes, "needs two trials")
        return
    axes.margins(x=0.08)
    axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # room for a marker at 0
    _ticks(axes.xaxis, 4)


def _rank_panel(axes, study: Study) -> None:
    """Rank by each criterion alone, and by the weightings of the report; 1 is best, ties share a rank."""
    columns = {"low PD": {"reproducibility": 1}, "low loss": {"accuracy": 1}, "fast": {"efficiency": 1}, **WEIGHTINGS}
    table = np.full((len(study.measured), len(columns)), math.nan)
    for column, weights in enumerate(columns.values()):
        for name, rank in study.rank(weights).ranks.items():
            table[list(study.measured).index(name), column] = rank
    axes.imshow(table, cmap="Blues_r", vmin=1 - 0.6 * len(study.measured), vmax=len(study.measured) + 1, aspect="auto")
    for (row, column), rank in np.ndenumerate(table):
        text, weight = ("–", "normal") if np.isnan(rank) else (f"{rank:.0f}", "bold" if rank == 1 else "normal")
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, fontweight=weight)
    axes.set_xticks(
        range(len(columns)),
        [name.removesuffix(" priority") for name in columns],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    axes.axvline(2.5, color="white", linewidth=3)
    axes.set_title("Ranks")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _trade_off_panel(axes, studied: Mapping[str, Measured]) -> None:
    empty = True
    for name, m in studied.items():
        colour, marker = activation_style(name)
        ids = m.pd_ids
        if not ids:
            continue
        empty = False
        losses, pds = m.losses(ids), m.pd(ids)
        own = pds.sum(axis=1) / (len(ids) - 1)  # each trial's mean PD with the others
        pairs = pds[np.triu_indices(len(ids), 1)]
        axes.scatter(
            losses,
            own,
            s=9,
            color=colour,
            marker=marker,
            edgecolors="white",
            linewidths=0.3,
            zorder=4,
            gid=f"trials {name}",
        )
        axes.errorbar(
            losses.mean(), pairs.mean(), std(pairs), std(losses), fmt=marker, color=colour, markersize=5, elinewidth=0.8
        )
    axes.set(title="PD against loss", xlabel="loss (nats per token)", ylabel="relative PD")
    if empty:
        _say(axes, "no pairs")
        return
    axes.margins(0.1)
    for axis in (axes.xaxis, axes.yaxis):
        _ticks(axis, 4)


def plot_divergence_comparison(
    all_results: Mapping[str, dict], save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """Relative PD along training for all activations: against the step and against validation loss, with PD at equal
    loss marked. Writes `divergence_comparison.png` and returns its path.

    Raises:
        UserError: no results, results of different settings, or none that hold predictions along training.
        storage.StorageError: the disk refuses.
    """
    studied = Study.of(all_results).measured
    if not any(_divergence(m)[1] for m in studied.values()):
        raise UserError("no results hold predictions along training of two trials: there is no divergence to draw")
    return _save(divergence_comparison_figure, (all_results,), save_dir, "divergence_comparison", formats)


def divergence_comparison_figure(all_results: Mapping[str, dict]) -> Figure:
    study = Study.of(all_results)
    studied, matched = {name: m for name, m in study.measured.items() if _divergence(m)[1]}, study.matched
    names = _labels(studied)
    widest = _text_width(names.values()) + 0.35
    columns = max(1, min(len(names), int((WIDTH - 0.2) / widest)))
    legend_height = 0.16 * math.ceil(len(names) / columns)
    figure, axes = _panels(1, 3, 3.2 + legend_height, bottom=0.72 + legend_height)
    by_step, by_loss, near = axes[0]
    note = "thin: pairs of trials; thick: mean over pairs"
    if matched.target is not None:
        note += f"; dashed: the loss that every pair reaches ({matched.target:.4g}), where PDs compare at equal loss"
    if any(name.endswith("†") for name in names.values()):
        note += "; † failed its audit"
    _headline(figure, "How trials part along training", note)
    handles, ends, points = [], [], []
    for name, m in studied.items():
        colour, marker = activation_style(name)
        steps, pairs = _divergence(m)
        losses = m.results["divergence"].get("val_loss") or {}
        both = []
        for pair, curves in pairs.items():
            pd = _gaps(curves["relative_pd"])
            by_step.plot(steps[: len(pd)], pd[: len(steps)], color=colour, linewidth=0.4, alpha=0.6)
            i, j = (_gaps(losses.get(k) or []) for k in pair.split("_vs_"))
            if len(i) == len(j) == len(pd) == len(steps):
                loss = (i + j) / 2
                both.append((loss, pd))
                for panel in (by_loss, near):
                    panel.plot(loss, pd, color=colour, linewidth=0.4, alpha=0.6)
        whole = [_gaps(c["relative_pd"]) for c in pairs.values() if len(c["relative_pd"]) == len(steps)]
        if whole:
            by_step.plot(steps, np.mean(whole, axis=0), color=colour, marker=marker, markersize=3, gid=f"mean {name}")
        if both:
            loss, pd = np.mean(both, axis=0)
            for panel in (by_loss, near):
                panel.plot(loss, pd, color=colour, marker=marker, markersize=3, gid=f"mean {name}")
            ends.append(loss[-1])
            points.append((loss, pd))
        at_target = matched.mean(name) if matched.target is not None and name in matched.pairs else None
        if at_target is not None:
            near.plot(matched.target, at_target, marker, color=colour, markersize=7, markeredgecolor="white", zorder=5)
        handles.append(Line2D([], [], color=colour, marker=marker, label=names[name]))
    by_step.set(title="PD against training step", xlabel="training step", ylabel="relative PD")
    by_loss.set(title="PD against validation loss", xlabel="validation loss (nats per token)", ylabel="relative PD")
    near.set(title="… near the end", xlabel="validation loss (nats per token)", ylabel="relative PD")
    if matched.target is not None:
        for panel in (by_loss, near):
            panel.axvline(matched.target, color=GREY, linestyle="--", linewidth=0.8, zorder=0)
    _ticks(by_step.xaxis, 5, integer=True)
    _zoom(near, points, ends, matched.target)
    for panel in (by_loss, near):
        if points:
            panel.invert_xaxis()  # training goes from left to right, as in the first panel
        else:
            _say(panel, "no loss along training")
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        bbox_to_anchor=(0.5, 0.2 / figure.get_figheight()),
        fontsize=SMALL,
    )
    return figure


def _zoom(axes, points: list, ends: list[float], target: float | None) -> None:
    """Limits around the last part of the curves of PD against loss."""
    ends = _numbers(ends)
    if not len(ends):
        return
    low, high = ends.min(), max(ends.max(), target or 0)
    width = max(high - low, 0.02 * high)
    low, high = low - 0.2 * width, high + 0.8 * width
    seen = [y for loss, pd in points for y in np.interp([low, high, *loss], loss[::-1], pd[::-1])[:2]]
    seen += [y for loss, pd in points for x, y in zip(loss, pd, strict=True) if low <= x <= high]
    axes.set_xlim(low, high)
    _limits(axes, seen)
    _ticks(axes.xaxis, 4)
    _ticks(axes.yaxis, 5)


VERDICTS = {
    "lower": "lower",
    "higher": "higher",
    "equal": "equal (±5 %)",
    "inconclusive": "inconclusive",
    "no test": "no test",
}


def plot_pd_ratios(
    table: Iterable[Mapping], save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """Each activation's mean PD as a ratio to ReLU's, with 95 % intervals: a forest plot.

    Args:
        table: one mapping per activation: `activation`, `ratio`, `low`, `high` (None: no interval), `verdict`; where
            it has them, `matched_ratio`, `matched_low`, `matched_high`, `matched_verdict` (PD at equal loss) get a row
            of their own.

    Writes `pd_ratios.png` and returns its path.

    Raises:
        UserError: `table` is empty.
        storage.StorageError: the disk refuses.
    """
    return _save(pd_ratios_figure, (_rows(table),), save_dir, "pd_ratios", formats)


def _rows(table: Iterable[Mapping]) -> list[Mapping]:
    rows = list(table)
    if not rows:
        raise UserError("table: there is no comparison to draw; results of relu and of another activation are needed")
    return rows


def pd_ratios_figure(table: list[Mapping]) -> Figure:
    with_matched = any("matched_ratio" in row for row in table)
    names = [_name(row["activation"]) for row in table]
    height = 0.42 if with_matched else 0.28
    figure, ((axes,),) = _panels(
        1, 1, 1.5 + height * len(table), left=_text_width(names) + 0.25, right=2.4, top=0.5, bottom=0.75
    )
    note = (
        "lines: 95 % intervals over trials, not adjusted; verdicts after Holm's correction; shaded: within 5 % of ReLU"
    )
    if with_matched:
        note = f"filled: at the end of training; hollow: at equal validation loss\n{note}"
    _headline(figure, "Prediction difference relative to ReLU", note)
    lines = []
    for y, row in enumerate(table):
        for prefix, offset in (("", -0.18), ("matched_", 0.18)) if with_matched else (("", 0.0),):
            ratio, low, high = (number(row.get(f"{prefix}{key}")) for key in ("ratio", "low", "high"))
            lines.append((y + offset, row["activation"], ratio, low, high, bool(prefix)))
            _beside(axes, y + offset, _ratio_text(ratio, low, high))
            verdict = str(row.get(f"{prefix}verdict") or "")
            _beside(axes, y + offset, textwrap.shorten(VERDICTS.get(verdict, verdict), 18, placeholder="…"), 1.4)
    _forest(axes, lines)
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("ratio of mean relative PD to ReLU's (log scale)")
    return figure


def _ratio_text(ratio: float | None, low: float | None, high: float | None) -> str:
    if ratio is None:
        return "not measured"
    if low is None or high is None:
        return f"{ratio:.3f}"
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]" if high < 10 else f"{ratio:.3f} [{low:.2g}, {high:.2g}]"


def _forest(axes, lines: list[tuple]) -> None:
    """Ratios with intervals on a log axis around 1; lines of (y, activation, ratio, low, high, hollow)."""
    ratios = [r for _, _, r, _, _, _ in lines if r is not None and r > 0]
    # a three-trial interval can span decades: it is cut, with an arrow, where it would squeeze all others
    floor, ceiling = min([0.9, *ratios]) / 2.5, max([1.1, *ratios]) * 2.5
    ends = [x for line in lines for x in line[3:5] if x is not None and x > 0]
    low, high = (max(floor, min([0.93, *ratios, *ends])), min(ceiling, max([1.07, *ratios, *ends])))
    low, high = low / 1.02, high * 1.02
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvspan(0.95, 1 / 0.95, color="#EEEEEE", linewidth=0, zorder=0)
    axes.axvline(1, color="black", linewidth=0.8, zorder=1)
    for y, activation, ratio, lower, upper, hollow in lines:
        colour, marker = activation_style(activation)
        if ratio is None or ratio <= 0:
            continue
        if lower is not None and upper is not None:
            axes.plot([max(lower, low), min(upper, high)], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
            inside = (high / low) ** 0.012  # keeps arrowheads off the labels
            for end, limit, arrow in ((lower, low * inside, "<"), (upper, high / inside, ">")):
                cut = end < low if arrow == "<" else end > high
                axes.plot(limit if cut else end, y, arrow if cut else "|", color=colour, markersize=4)
        axes.plot(
            ratio, y, marker, color=colour, markerfacecolor="white" if hollow else colour, markersize=5.5, zorder=4
        )
    _ratio_ticks(axes, low, high)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _ratio_ticks(axes, low: float, high: float, most: int = 7) -> None:
    """Round numbers around 1 on a log axis that may span a few percent or a few decades."""
    fine = [np.arange(step, 2, step) for step in (0.01, 0.02, 0.05, 0.1)]
    coarse = [
        (0.4, 0.6, 0.8, 1, 1.2, 1.5, 2),
        (0.5, 0.7, 1, 1.5, 2, 3),
        2.0 ** np.arange(-6, 7),
        10.0 ** np.arange(-9, 10),
    ]
    for candidates in (*fine, *coarse):
        ticks = [x for x in candidates if low <= x <= high]
        if len(ticks) <= most and high <= max(candidates) * 2 and low >= min(candidates) / 2:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def plot_beta_sweep(
    all_results: Mapping[str, dict], save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> Path:
    """Relative PD and validation loss of SmeLU against β, with ReLU as its limit β → 0.
    Writes `beta_sweep.png` and returns its path.

    Raises:
        UserError: no results of SmeLU, or results of different settings.
        storage.StorageError: the disk refuses.
    """
    studied = Study.of(all_results).measured
    if not any(_beta(name) for name in studied):
        raise UserError(
            "no results of SmeLU; train some β first (python train.py --activation smelu_0.1 smelu_05 smelu_2)"
        )
    return _save(beta_sweep_figure, (all_results,), save_dir, "beta_sweep", formats)


def _beta(name: str) -> float | None:
    """β of SmeLU, 0 for ReLU, None for anything else."""
    try:
        return get_info(name).beta
    except UserError:
        return None


def beta_sweep_figure(all_results: Mapping[str, dict]) -> Figure:
    studied = {name: m for name, m in Study.of(all_results).measured.items() if _beta(name) is not None}
    betas = sorted({beta for name in studied if (beta := _beta(name))})
    zero = betas[0] / 2.5  # where ReLU stands on the log axis
    figure, ((pds, losses),) = _panels(1, 2, 3.0, bottom=0.78)
    _headline(figure, "SmeLU: the width β of its quadratic part", "points: trials (of PD: pairs); line: their mean")
    for panel, values in (
        (pds, lambda m: _numbers(p["relative_pd"] for p in m.pairs.values())),
        (losses, lambda m: m.losses()),
    ):
        means = []
        for name, m in studied.items():
            found, beta = values(m), _beta(name)
            if not len(found):
                continue
            colour, marker = activation_style(name)
            x = beta or zero
            panel.scatter(np.full(len(found), x), found, s=14, color=colour, marker=marker, alpha=0.7, linewidths=0)
            if beta:
                means.append((x, found.mean()))
            else:
                panel.axhline(found.mean(), color=colour, linestyle=":", linewidth=0.9)
                panel.plot(x, found.mean(), "_", color=colour, markersize=11, markeredgewidth=1.5)
        if means:
            panel.plot(*zip(*sorted(means), strict=True), color=GREY, marker="_", markersize=11, zorder=1)
        panel.set_xscale("log")
        ticks = {zero: "ReLU\n(β → 0)"} if "relu" in studied else {}
        ticks |= {beta: f"{beta:g}" for beta in betas}
        panel.xaxis.set_major_locator(FixedLocator(list(ticks)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _, ticks=ticks: ticks.get(x, "")))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlim((zero if "relu" in studied else betas[0]) / 1.4, betas[-1] * 1.4)
        panel.set_xlabel("β")
        panel.margins(y=0.1)
        _ticks(panel.yaxis, 6)
    pds.set(title="Prediction difference", ylabel="relative PD")
    losses.set(title="Validation loss", ylabel="loss (nats per token)")
    return figure


def plot_activation_functions(
    save_dir: str | os.PathLike = "plots", names: Iterable[str] | None = None, formats: Iterable[str] = ("png",)
) -> Path:
    """Activation functions and their derivatives (for a gated one, those of its gate). Needs torch.
    Writes `activation_functions.png` and returns its path.

    Args:
        names: the activations, by default those of the study.

    Raises:
        UserError: an unknown name, or none.
        storage.StorageError: the disk refuses.
    """
    names = list(STUDY if names is None else [names] if isinstance(names, str) else names)
    if not names:
        raise UserError("names: at least one activation is needed")
    return _save(activation_functions_figure, (names,), save_dir, "activation_functions", formats)


def activation_functions_figure(names: list[str]) -> Figure:
    labels = {name: _name(name, 26) for name in names}
    columns = max(1, min(len(names), int((WIDTH - 0.2) / (_text_width(labels.values()) + 0.35))))
    legend_height = 0.16 * math.ceil(len(names) / columns)
    figure, ((functions, slopes),) = _panels(1, 2, 3.1 + legend_height, bottom=0.55 + legend_height)
    _headline(figure, "Activation functions")
    handles = []
    for index, name in enumerate(names):
        colour, marker = activation_style(name)
        x, y, slope = _evaluate(name)
        mark = {"marker": marker, "markersize": 3.5, "markevery": (7 + 11 * index % 60, 60)}
        for panel, values in ((functions, y), (slopes, slope)):
            panel.plot(x, values, color=colour, gid=name, **mark)
        handles.append(Line2D([], [], color=colour, marker=marker, label=labels[name]))
    functions.set(title="Function", xlabel="x", ylabel="f(x)", ylim=(-1.3, 3.1))
    slopes.set(title="Derivative", xlabel="x", ylabel="f′(x)", ylim=(-0.3, 1.4))
    for panel in (functions, slopes):
        panel.set_xlim(-3, 3)
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        bbox_to_anchor=(0.5, 0.04 / figure.get_figheight()),
        fontsize=SMALL,
    )
    return figure


def _evaluate(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, f(x) and f′(x), float64, each (601,)."""
    import torch

    from activations import make_activation

    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    y = make_activation(name).double()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return x.detach().numpy(), y.detach().numpy(), slope.numpy()


def plot_studies(
    table: Iterable[Mapping],
    save_dir: str | os.PathLike = "plots",
    pooled: Iterable[Mapping] = (),
    formats: Iterable[str] = ("png",),
) -> Path:
    """PD ratios to ReLU in several studies, with 95 % intervals: a forest plot per activation.

    Args:
        table: one mapping per study and activation: `study`, `model`, `dataset`, `activation`, `ratio`, `low`, `high`
            (None: no interval).
        pooled: one mapping per activation: `activation`, `ratio`, `low`, `high` over all studies (the exponential of
            what significance.random_effects gives): drawn as a diamond.

    Writes `all_studies.png` and returns its path.

    Raises:
        UserError: `table` is empty.
        storage.StorageError: the disk refuses.
    """
    return _save(studies_figure, (_rows(table), list(pooled)), save_dir, "all_studies", formats)


def studies_figure(table: list[Mapping], pooled: list[Mapping] = ()) -> Figure:
    studies = list(dict.fromkeys((row["study"], row.get("model"), row.get("dataset")) for row in table))
    names = list(dict.fromkeys(row["activation"] for row in table))
    over_all = {row["activation"]: row for row in pooled}
    row_names = [_text(study or f"{model} · {dataset}", 24) for study, model, dataset in studies]
    row_names += ["pooled"] if over_all else []
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    panel = 0.24 * len(row_names) + 0.1
    top, bottom, down = 0.6, 0.78, 0.62
    figure, axes = _panels(
        rows,
        columns,
        rows * panel + (rows - 1) * down + top + bottom,
        left=_text_width(row_names) + 0.2,
        top=top,
        bottom=bottom,
        across=0.2,
        down=down,
    )
    note = (
        "ratio of mean relative PD to ReLU's of the same study; lines: 95 % intervals, not adjusted; shaded: within 5 %"
    )
    if over_all:
        note += "\ndiamond: all studies together (random effects)"
    _headline(figure, f"{len(studies)} stud{'ies' if len(studies) != 1 else 'y'}: PD relative to ReLU", note)
    lines = {name: [] for name in names}
    for row in table:
        y = studies.index((row["study"], row.get("model"), row.get("dataset")))
        numbers = (number(row.get(key)) for key in ("ratio", "low", "high"))
        lines[row["activation"]].append((y, row["activation"], *numbers, False))
    for index, panel in enumerate(axes.flat):
        if index >= len(names):
            panel.set_axis_off()
            continue
        name = names[index]
        _forest(panel, lines[name])
        if name in over_all:
            _diamond(panel, len(studies), name, *(number(over_all[name].get(key)) for key in ("ratio", "low", "high")))
            panel.axhline(len(studies) - 0.5, color=GREY, linewidth=0.5)
        panel.set_title(_name(name, 20))
        panel.set_yticks(range(len(row_names)), row_names if index % columns == 0 else [])
        panel.set_ylim(len(row_names) - 0.5, -0.5)
        if index + columns >= len(names):
            panel.set_xlabel("PD ratio to ReLU")
    shown = list(axes.flat[: len(names)])
    diamonds = _numbers(row.get(key) for row in over_all.values() for key in ("ratio", "low", "high"))
    low, high = min([*diamonds, *(p.get_xlim()[0] for p in shown)]), max([*diamonds, *(p.get_xlim()[1] for p in shown)])
    for panel in shown:  # one scale for all
        panel.set_xlim(low, high)
        _ratio_ticks(panel, low, high, most=4)
    return figure


def _diamond(axes, y: float, activation: str, ratio, low, high) -> None:
    colour, _ = activation_style(activation)
    if ratio is None or ratio <= 0:
        return
    if low is None or high is None:
        axes.plot(ratio, y, "D", color=colour, markersize=5)
    else:
        axes.fill([low, ratio, high, ratio], [y, y - 0.3, y, y + 0.3], color=colour, linewidth=0, gid="pooled")


# -- all at once --------------------------------------------------------------------------------------------------


def plot_comparisons(
    all_results: Mapping[str, dict], save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> list[Path]:
    """Every figure over several activations that the results allow; their paths.

    The six panels always; divergence where predictions along training were stored; PD ratios where there is ReLU and
    another activation; the β sweep from three β of SmeLU on.

    Raises:
        UserError: there are no results, or they are of different settings.
        storage.StorageError: the disk refuses.
    """
    study = Study.of(all_results)
    paths = [_save(comparison_figure, (study,), save_dir, "comprehensive_comparison", formats)]
    if any(_divergence(m)[1] for m in study.measured.values()):
        paths.append(plot_divergence_comparison(study, save_dir, formats))
    ratios = _ratio_table(study)
    if ratios:
        paths.append(plot_pd_ratios(ratios, save_dir, formats))
    if sum(bool(_beta(name)) for name in study.measured) >= 3:
        paths.append(plot_beta_sweep(study, save_dir, formats))
    return paths


def _ratio_table(all_results: Mapping[str, dict]) -> list[dict]:
    """The table of plot_pd_ratios; empty without ReLU or without pairs of trials."""
    study, table = Study.of(all_results), []
    for tests in study.tests:
        if not tests.primary:
            continue
        row = {"activation": tests.a, "verdict": "no test"}
        for quantity, prefix in (("PD", ""), ("Matched_PD", "matched_")):
            test = tests.tests[quantity]
            if test is not None:
                verdict = study.verdict(tests, quantity).kind
                values = {"ratio": test.effect, "low": test.low, "high": test.high, "verdict": verdict}
                row |= {prefix + key: value for key, value in values.items()}
        table.append(row)
    return table if any("ratio" in row for row in table) else []


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done; 1 a file is damaged or the disk refuses; 2 wrong input."""
    parser = Parser(prog="plot_utils.py", description="Draw every figure of the results on disk once more.")
    parser.add_argument("--results-dir", help="folder of the results (default: results)")
    parser.add_argument("--plots-dir", help="folder of the figures (default: plots)")
    parser.add_argument("--study", help="the study whose folders are meant (default: the folders above)")
    parser.add_argument("--pdf", action="store_true", help="write PDF files too")
    parser.add_argument(
        "--functions",
        nargs="*",
        metavar="NAME",
        help="draw these activation functions and their derivatives instead (default: those of the study)",
    )
    args = parser.parse_args(argv)
    formats = ("png", "pdf") if args.pdf else ("png",)
    try:
        given = {k: v for k in ("results_dir", "plots_dir", "study") if (v := getattr(args, k))}
        # only the folders are asked of it; a device named outright spares a look for a GPU
        folders = Config(preset="smoke", device="cpu", precision="float32", **given)
        if args.functions is not None:
            written = [plot_activation_functions(folders.plots_dir, args.functions or None, formats)]
        else:
            written = _redraw(folders.results_dir, folders.plots_dir, formats)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except storage.StorageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    for path in written:
        for kind in formats:
            print(f"written: {path.with_suffix('.' + kind)}")
    return 0


def _redraw(results_dir: str, plots_dir: str, formats: Iterable[str]) -> list[Path]:
    all_results = load_all_results(results_dir)
    if not all_results:
        raise UserError(f"--results-dir {results_dir}: no *_results.json in it; train first (python train.py)")
    written = []
    for activation, results in all_results.items():
        for plot in (plot_training_curves, plot_reproducibility_metrics, plot_summary_metrics, plot_divergence):
            written.append(plot(results, activation, plots_dir, formats))
        decomposition = Path(results_dir) / f"{storage.file_name(activation)}_sources.json"
        if decomposition.exists():
            table = storage.read_json(decomposition)["sources"]
            sources = {name: row["relative_pd"] for name, row in table.items()}
            written.append(plot_sources(sources, activation, plots_dir, formats))
    return written + plot_comparisons(all_results, plots_dir, formats)


if __name__ == "__main__":
    sys.exit(main())
