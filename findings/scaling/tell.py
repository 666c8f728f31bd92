"""FINDINGS3.md from findings/scaling/measured and prediction.json: python findings/scaling/tell.py"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import numpy as np
import scipy

import storage
from analysis.markdown import table
from analysis.results import load_all_results, measure
from questions.extrapolate.command import cells_of
from questions.extrapolate.law import Cell, extended, problem
from significance import log_pseudo_values, mean_pd_interval

PLANNED = ("W32", "W64", "W128", "X32", "X64", "X128", "L1", "L4", "W256")
TEXT = HERE / "TEXT.md"
FINDINGS = HERE.parent / "FINDINGS3.md"
FIGURE = HERE.parent / "figures" / "scaling.png"
DEPTHS = {1: "L1", 2: "W64", 4: "L4"}  # of width 64
TEN_TIMES = (1280, 13000)  # a model of width 128 trained for 1300 steps, ten times as wide and as long


def cells() -> dict[str, dict[str, list[Cell]]]:
    """{study: {activation: its cells}} of what is published, in the plan's order."""
    found = {}
    for name in PLANNED:
        if (folder := HERE / "measured" / name / "results").exists():
            studied = measure(load_all_results(folder))
            found[name] = {activation: cells_of(name, studied[activation]) for activation in ("relu", "gelu")}
    return found


def compared(relu: Cell, gelu: Cell) -> tuple[float, float, float]:
    """GELU's mean PD against ReLU's in percent, with its 95 % interval: paired by seed, on the logarithm."""
    d = log_pseudo_values(gelu.pd) - log_pseudo_values(relu.pd)
    interval = scipy.stats.ttest_1samp(d, 0).confidence_interval()
    return tuple(100 * float(np.expm1(v)) for v in (d.mean(), interval.low, interval.high))


def rows(found: dict[str, dict[str, list[Cell]]]) -> list[list[str]]:
    made = []
    for name, of in found.items():
        for relu, gelu in zip(of["relu"], of["gelu"], strict=True):
            pds = ["{:.4f} [{:.4f}, {:.4f}]".format(*mean_pd_interval(cell.pd)) for cell in (relu, gelu)]
            losses = f"{relu.losses.mean():.3f}, {gelu.losses.mean():.3f}"
            ratio = "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*compared(relu, gelu))
            made.append([name, str(relu.width), str(relu.steps), *pds, losses, ratio, str(len(relu.pd))])
    return made


def held_out(found: dict[str, dict[str, list[Cell]]], prediction: dict) -> list[list[str]]:
    """One row for each predicted cell: what was predicted, and what is published."""
    made = []
    there = {(c.at, a): c for name, of in found.items() if name[0] == "X" or name == "W256" for a in of for c in of[a]}
    for activation, of in prediction.items():
        for p in of["cells"]:
            cell = there.get(((p["width"], p["steps"]), activation))
            pd = None if cell is None else mean_pd_interval(cell.pd)[0]
            inside = "not trained yet" if pd is None else "inside" if p["low"] <= pd <= p["high"] else "**outside**"
            said = f"{p['pd']:.4f} [{p['low']:.4f}, {p['high']:.4f}]"
            name = {"relu": "ReLU", "gelu": "GELU"}[activation]
            places = [name, str(p["width"]), str(p["steps"])]
            made.append([*places, said, "–" if pd is None else f"{pd:.4f}", inside])
    return made


def of_two_layers(found: dict[str, dict[str, list[Cell]]], activation: str) -> list[Cell]:
    """Every cell of the law's axes, width and length: those of other depths are left out."""
    return [cell for name, of in found.items() if name[0] != "L" for cell in of[activation]]


def slopes_of_the_ratio(found: dict[str, dict[str, list[Cell]]]) -> list[tuple[float, float, float]]:
    """Of ln PD(GELU) − ln PD(ReLU) along ln width and along ln steps, by least squares over all cells of two layers,
    each with its 95 % interval: the two activations of a study share seeds, so each seed has its difference in every
    cell of its study; studies are independent (Welch & Satterthwaite)."""
    pairs = list(zip(of_two_layers(found, "relu"), of_two_layers(found, "gelu"), strict=True))
    logs = np.log([relu.at for relu, _ in pairs])
    weights = np.linalg.pinv(np.column_stack([np.ones(len(logs)), logs]))
    differences = [log_pseudo_values(gelu.pd) - log_pseudo_values(relu.pd) for relu, gelu in pairs]
    slopes = []
    for row in weights[1:]:
        studies: dict[str, np.ndarray] = {}
        for weight, (relu, _), d in zip(row, pairs, differences, strict=True):
            studies[relu.study] = studies.get(relu.study, 0) + weight * d
        parts = [(d.var(ddof=1) / len(d), len(d) - 1) for d in studies.values()]
        variance = sum(v for v, _ in parts)
        freedom = variance**2 / sum(v * v / df for v, df in parts)
        value, reach = sum(d.mean() for d in studies.values()), scipy.stats.t.ppf(0.975, freedom) * variance**0.5
        slopes.append((value, value - reach, value + reach))
    return slopes


def depths(found: dict[str, dict[str, list[Cell]]]) -> str:
    """PD at each depth of width 64 after the longest training."""
    said = []
    for activation, name in (("relu", "ReLU"), ("gelu", "GELU")):
        ends = [(layers, found[study][activation][-1]) for layers, study in DEPTHS.items() if study in found]
        said.append(f"{name} " + ", ".join("{:.4f} [{:.4f}, {:.4f}]".format(*mean_pd_interval(c.pd)) for _, c in ends))
    return "; ".join(said)


def ten_times(found: dict[str, dict[str, list[Cell]]]) -> str:
    """What `analyze_results.py --extrapolate` says, asked of all cells of two layers."""
    said = []
    for activation, name in (("relu", "ReLU"), ("gelu", "GELU")):
        own = of_two_layers(found, activation)
        if why := problem(own, *TEN_TIMES):
            said.append(f'{name}, "{why}"')
        else:
            pd = extended(own, *TEN_TIMES).pd
            said.append(f"{name}: {100 * pd.low:.1f} to {100 * pd.high:.1f} % of the probability")
    return "; ".join(said)


def figure(found: dict[str, dict[str, list[Cell]]]) -> None:
    """PD against validation loss over all sizes and lengths: a panel for each activation, a line for each size."""
    from matplotlib.figure import Figure

    from plotting import WIDEST
    from plotting.style import house_style

    sizes: dict[tuple[int, str], list[str]] = {}
    for name, of in found.items():
        layers = {"L1": "1 layer, ", "L4": "4 layers, "}.get(name, "")
        sizes.setdefault((of["relu"][0].width, layers), []).append(name)
    colours = {32: "#0072B2", 64: "#D55E00", 128: "#009E73", 256: "#000000"}
    with house_style():
        page = Figure((WIDEST, 3.2))
        panels = page.subplots(1, 2, sharex=True, sharey=True)
        for panel, (activation, title) in zip(panels, (("relu", "ReLU"), ("gelu", "GELU")), strict=True):
            for (width, layers), studies in sorted(sizes.items()):
                own = sorted((c for name in studies for c in found[name][activation]), key=lambda c: c.steps)
                values = np.array([mean_pd_interval(c.pd) for c in own])
                bars = np.abs(values[:, 1:] - values[:, :1]).T
                style = {"linestyle": {"1 layer, ": ":", "4 layers, ": "--"}.get(layers, "-"), "color": colours[width]}
                losses = [c.losses.mean() for c in own]
                marker = {"1 layer, ": "v", "4 layers, ": "^"}.get(layers, "o")
                label = f"{layers}width {width}"
                panel.errorbar(losses, values[:, 0], bars, marker=marker, label=label, elinewidth=0.7, **style)
            panel.set(
                title=f"{title}: along each line from {own[0].steps} steps on",
                xlabel="validation loss (nats/token), falling →",
            )
        panels[0].set(ylabel="mean relative PD of two trainings")
        panels[0].invert_xaxis()
        panels[1].legend(fontsize=7, ncols=2)
        page.subplots_adjust(0.09, 0.15, 0.985, 0.91, wspace=0.06)
        FIGURE.parent.mkdir(exist_ok=True)
        page.savefig(FIGURE)


def largest(prediction: dict, predicted: list[list[str]], column: int) -> str:
    """Of the widest and longest held-out cell, in percent of the probability: what stands in a column of its rows."""
    ends = [row for row in predicted if row[1:3] == ["256", "10400"]]
    if column == 4:
        return " and ".join("–" if row[4] == "–" else f"{100 * float(row[4]):.1f} % ({row[0]})" for row in ends)
    cells = [of["cells"][-1] for of in prediction.values()]
    words = [f"{100 * p['low']:.1f} to {100 * p['high']:.1f} %" for p in cells]
    return " and ".join(f"{text} ({row[0]})" for text, row in zip(words, ends, strict=True))


def verdict(predicted: list[list[str]]) -> str:
    """The plan's first sentence: the law predicts where 14 or more of the 16 held-out cells are inside."""
    measured = [row for row in predicted if row[-1] != "not trained yet"]
    outside = [row for row in measured if row[-1] != "inside"]
    errors = {float(row[4]) / float(row[3].split()[0]) - 1: row for row in measured}
    worst = max(errors, key=abs)
    largest = f"{errors[worst][0]} of width {errors[worst][1]} after {errors[worst][2]} steps, {100 * worst:+.1f} %"
    counted = f"{len(measured) - len(outside)} of {len(predicted)} held-out cells are inside their intervals"
    if len(measured) < len(predicted):
        return f"Under way: {len(measured)} of {len(predicted)} held-out cells are measured, {len(outside)} outside"
    if len(predicted) - len(outside) >= 14:
        return f"**The power law of twelve cells predicts**: {counted}; the largest error is that of {largest}"
    where = ", ".join(f"{row[0]} {row[1]}/{row[2]}" for row in outside)
    return f"**The law failed beyond its data**: {counted}, and not {where}; the largest error is that of {largest}"


def told() -> str:
    found, prediction = cells(), storage.read_json(HERE / "prediction.json")
    heads = ["study", "width", "steps", "ReLU: PD [95 %]", "GELU: PD [95 %]", "losses", "GELU against ReLU", "seeds"]
    predicted = held_out(found, prediction)
    powers = {}
    for activation, of in prediction.items():
        for axis, values in of["exponents"].items():
            powers[f"{activation}_{axis}"] = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)
            doubled = (100 * float(np.expm1(value * np.log(2))) for value in values[1:])
            powers[f"{activation}_{axis}_doubled"] = "{:+.1f} and {:+.1f} %".format(*doubled)
    return TEXT.read_text(encoding="utf-8").format(
        cells="\n".join(table(heads, rows(found))).strip(),
        held_out="\n".join(table(["activation", "width", "steps", "predicted", "measured", ""], predicted)).strip(),
        verdict=verdict(predicted),
        published=", ".join(found),
        against=prediction["relu"]["against"],
        depths=depths(found),
        ten_times=ten_times(found),
        twice=largest(prediction, predicted, 3),
        twice_measured=largest(prediction, predicted, 4),
        ratio_width="{:+.3f} [{:+.3f}, {:+.3f}]".format(*slopes_of_the_ratio(found)[0]),
        ratio_steps="{:+.3f} [{:+.3f}, {:+.3f}]".format(*slopes_of_the_ratio(found)[1]),
        **powers,
    )


if __name__ == "__main__":
    figure(cells())
    FINDINGS.write_text(told(), encoding="utf-8")
