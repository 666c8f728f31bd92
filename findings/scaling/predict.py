"""The prediction of PLAN3.md, made of W32, W64 and W128 alone, before the held-out models are trained.

python findings/scaling/predict.py      # prints the choice, and writes prediction.json unless it is there
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import scipy

import storage
from analysis.results import load_all_results, measure
from questions.extrapolate.command import cells_of
from questions.extrapolate.law import Cell, extended, problem
from significance import log_pseudo_values

FITTED = ("W32", "W64", "W128")
FORMS = {"plain": (), "crossed": ("width with steps",), "bent": ("steps",)}
HELD_OUT = [(w, 10400) for w in (32, 64, 128)] + [(256, s) for s in (650, 1300, 2600, 5200, 10400)]
SEEDS = 5


def cells(activation: str) -> list[Cell]:
    found = []
    for study in FITTED:
        m = measure(load_all_results(HERE / "measured" / study / "results"))[activation]
        found += cells_of(study, m)
    return found


def log_pd(cell: Cell) -> float:
    return float(log_pseudo_values(cell.pd).mean())


def asked(fitted: Sequence[Cell], form: str, targets: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """ln PD at each (width, steps) by a form fitted to cells; None: the floor's fit doesn't converge."""
    y = np.array([log_pd(cell) for cell in fitted])
    at, to = (np.log(np.array(places, dtype=float)) for places in ([c.at for c in fitted], targets))
    if form != "floor":
        further = {"plain": [], "crossed": [lambda x: x[:, 0] * x[:, 1]], "bent": [lambda x: x[:, 1] ** 2]}[form]
        design, new = (np.column_stack([np.ones(len(x)), x, *(f(x) for f in further)]) for x in (at, to))
        return new @ np.linalg.lstsq(design, y, rcond=None)[0]

    def floor(x, f, a, b, c):
        return np.log(f + np.exp(a + x @ np.array([b, c])))

    start = np.linalg.lstsq(np.column_stack([np.ones(len(at)), at]), y, rcond=None)[0]
    try:
        bounds = ([0, -50, -5, -5], [1, 50, 5, 5])
        numbers, _ = scipy.optimize.curve_fit(floor, at, y, p0=[0.01, *start], bounds=bounds, maxfev=20_000)
    except RuntimeError:
        return None
    return floor(to, *numbers)


def error(own: Sequence[Cell], form: str) -> float | None:
    """The sum of squared errors of ln PD without the widest, asked for it, and without the longest, asked for it."""
    total = 0.0
    for axis in (0, 1):
        largest = max(cell.at[axis] for cell in own)
        out = [cell for cell in own if cell.at[axis] == largest]
        said = asked([cell for cell in own if cell.at[axis] < largest], form, [cell.at for cell in out])
        if said is None:
            return None
        total += float(((said - [log_pd(cell) for cell in out]) ** 2).sum())
    return total


def chosen(errors: dict[str, float | None]) -> str:
    better = {form: e for form, e in errors.items() if e is not None and e < errors["plain"] / 2}
    return min(better, key=better.get) if better else "plain"


def main() -> None:
    said = {}
    for activation in ("relu", "gelu"):
        own = cells(activation)
        errors = {form: error(own, form) for form in (*FORMS, "floor")}
        form = chosen(errors)
        of = {"form": form, "errors": errors, "cells": [], "against": problem(own, 256, 10400)}
        for width, steps in HELD_OUT:
            if form == "floor":  # the tool has no interval for it: the power law's, moved
                p = extended(own, width, steps, SEEDS)
                value = float(np.exp(asked(own, form, [(width, steps)])[0]))
                low, high = value * p.pd.low / p.pd.value, value * p.pd.high / p.pd.value
            else:
                p = extended(own, width, steps, SEEDS, FORMS[form])
                value, low, high = p.pd.value, p.pd.low, p.pd.high
            of["cells"].append({"width": width, "steps": steps, "pd": value, "low": low, "high": high})
        of["exponents"] = {axis: [e.value, e.low, e.high] for axis, e in extended(own, 128, 5200).exponents.items()}
        said[activation] = of
        print(activation, form, errors, of["against"], of["exponents"])
        for cell in of["cells"]:
            print(cell)
    path = HERE / "prediction.json"
    if not path.exists():
        storage.write_json(path, said)


if __name__ == "__main__":
    main()
