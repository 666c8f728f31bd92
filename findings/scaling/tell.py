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
from questions.extrapolate.law import Cell
from significance import log_pseudo_values, mean_pd_interval

PLANNED = ("W32", "W64", "W128", "X32", "X64", "X128", "L1", "L4", "W256")
TEXT = HERE / "TEXT.md"
FINDINGS = HERE.parent / "FINDINGS3.md"


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
        inside=sum(row[-1] == "inside" for row in predicted),
        measured=sum(row[-1] != "not trained yet" for row in predicted),
        predicted=len(predicted),
        published=", ".join(found),
        against=prediction["relu"]["against"],
        **powers,
    )


if __name__ == "__main__":
    FINDINGS.write_text(told(), encoding="utf-8")
