"""Does FINDINGS2.md say what findings/edge/measured says? And do its numbers come out of NumPy alone?

    python findings/edge/recount.py                     # every number, seconds
    python findings/edge/recount.py --retrain S1 3      # train the first seed of a decoder table's third cell again

The second computation shares no code with the first: it reads the JSON, and takes PD, ratios, critical rates, gains and
the control's intervals from it with loops and NumPy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent / "control"), str(HERE)]

import numpy as np
import scipy.stats
import tell

# -- once more, from the files' numbers alone ---------------------------------------------------------------------


def other_seeds(cell: dict, seeds: list[int]) -> float:
    """The mean PD between the bases of these seeds."""
    values = iter(cell["pairs"])
    by_pair = {(a, b): next(values) for i, a in enumerate(cell["seeds"]) for b in cell["seeds"][:i]}
    return float(np.mean([by_pair[a, b] for a, b in by_pair if a in seeds and b in seeds]))


def log_pd(cell: dict, seed: int, twin: str = "bit") -> float:
    return math.log(max(cell["twins"][twin]["pd"][cell["seeds"].index(seed)], 1e-10))


def told(cells: list[dict]) -> dict[str, dict[float, dict]]:
    """{activation: {rate: cell}} of the activations that have all rates."""
    rates = {cell["rate"] for cell in cells}
    found: dict[str, dict[float, dict]] = {}
    for cell in cells:
        found.setdefault(cell["activation"], {})[cell["rate"]] = cell
    return {name: own for name, own in found.items() if set(own) == rates}


def crossing(rates: list[float], logs: list[float]) -> float:
    """Where a line through (ln rate, ln ratio) first passes ln .01 from below."""
    level = math.log(0.01)
    if logs[0] > level:
        return 0.0
    for (r, x), (s, y) in itertools.pairwise(zip(rates, logs, strict=True)):
        if y > level:
            return float(np.exp(np.interp(level, [x, y], [math.log(r), math.log(s)])))
    return math.inf


def diagram(cells: list[dict]) -> dict[str, dict]:
    """{activation: rates, geometric means, PD of other seeds, critical rate and its limits}."""
    own = told(cells)
    if not own:
        return {}
    seeds = sorted(set.intersection(*(set(c["seeds"]) for by_rate in own.values() for c in by_rate.values())))
    found = {}
    for name, by_rate in own.items():
        rates = sorted(by_rate)
        logs = np.array([[log_pd(by_rate[rate], seed) for rate in rates] for seed in seeds])
        there = [other_seeds(by_rate[rate], seeds) if len(seeds) > 1 else math.nan for rate in rates]
        found[name] = {"rates": rates, "bit": np.exp(logs.mean(0)), "others": there}
        if len(seeds) < 2:
            continue
        ratios = logs - np.log(there)
        found[name]["critical"] = crossing(rates, list(ratios.mean(0)))
        if len(seeds) >= 5:
            draws = np.random.default_rng(0).integers(len(seeds), size=(10_000, len(seeds)))
            spread = sorted(crossing(rates, list(ratios[draw].mean(0))) for draw in draws)
            # the nearest of the sorted values to each place
            limits = [spread[int(np.rint(q * (len(spread) - 1)))] for q in (0.025, 0.975)]
        else:
            single = [crossing(rates, list(row)) for row in ratios]
            limits = [min(single), max(single)]
        found[name]["limits"] = limits
    return found


def jackknife(cell: dict) -> np.ndarray:
    """One number per seed whose mean is ln of the mean PD."""
    seeds = cell["seeds"]
    mean = other_seeds(cell, seeds)
    without = np.array([other_seeds(cell, [s for s in seeds if s != seed]) for seed in seeds])
    return math.log(mean) + (len(seeds) * mean - (len(seeds) - 1) * without - mean) / mean


def control(cells: list[dict]) -> dict[tuple, tuple[float, float, float]]:
    place = {(c["vary"], c.get("times", 1), c["activation"]): c for c in cells}
    found = {}
    for (vary, times, name), cell in place.items():
        base = place.get((vary, times, "relu"))
        if name != "relu" and base:
            d = jackknife(cell) - jackknife(base)
            half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
            found[vary, times, name] = tuple(np.exp([d.mean(), d.mean() - half, d.mean() + half]))
    return found


def equal_loss(cells: list[dict]) -> dict[tuple, tuple[float, float, float]]:
    found = {}
    place = {(c["vary"], c.get("times", 1), c["activation"]): c for c in cells}
    lengths = sorted({times for _, times, _ in place})
    for vary, name in {(vary, name) for vary, _, name in place if name != "relu"}:
        lines = []
        for arm in (name, "relu"):
            own = [place[vary, times, arm] for times in lengths if (vary, times, arm) in place]
            lines.append(([np.mean(c["loss"]) for c in own], [jackknife(c) for c in own]))
        if not lines[1][0]:
            continue
        target = max(losses[-1] for losses, _ in lines)
        read = []
        for losses, logs in lines:
            after = next((k for k in range(1, len(losses)) if losses[k - 1] >= target >= losses[k]), None)
            if after is not None:
                share = (losses[after - 1] - target) / (losses[after - 1] - losses[after])
                read.append((1 - share) * logs[after - 1] + share * logs[after])
        if len(read) == 2:
            d = read[0] - read[1]
            half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
            found[vary, name] = tuple(np.exp([d.mean(), d.mean() - half, d.mean() + half]))
    return found


def gain(cell: dict, base: dict, rung: str) -> float:
    seeds = [seed for seed in cell["seeds"] if seed in base["seeds"]]
    return float(np.mean([log_pd(cell, seed, rung) - log_pd(base, seed, rung) for seed in seeds]))


# -- compared -----------------------------------------------------------------------------------------------------


def compare_numbers(tables: dict[str, dict]) -> list[str]:
    """Where the second computation departs from the first."""
    problems: list[str] = []

    def same(what: str, mine, theirs) -> None:
        if not np.allclose(mine, theirs, rtol=1e-9, equal_nan=True):
            problems.append(f"{what}: {mine} here, {theirs} in the text")

    for name in {"K1", "S1", "N"} & set(tables):
        mine, theirs = diagram(tables[name]["cells"]), tell.series(tables[name]["cells"])
        if set(mine) != set(theirs):
            problems.append(f"{name}: tells of {sorted(mine)} here, of {sorted(theirs)} in the text")
            continue
        for activation, own in theirs.items():
            what = f"{name}, {activation}"
            same(f"{what}, one bit", mine[activation]["bit"], [tell.geometric(c) for c in own])
            same(f"{what}, other seeds", mine[activation]["others"], [tell.mean_others(c) for c in own])
            if "critical" in mine[activation]:
                found = tell.critical_rate(own)
                at = {"below the grid": 0.0, "above the grid": math.inf}.get(found["where"], found["rate"])
                same(f"{what}, critical rate", mine[activation]["critical"], at)
                same(f"{what}, its limits", mine[activation]["limits"], [found["low"], found["high"]])
        n = len(next(iter(theirs.values()))[0]["seeds"])
        for activation, found in tell.around(tables[name]["cells"], n).items():
            cells = [c for c in tables[name]["cells"] if c["activation"] == activation and len(c["seeds"]) > n]
            finer = diagram(cells)[activation]
            values = [finer["critical"], *finer["limits"]]
            same(f"{name}, {activation}, around its edge", values, [found[k] for k in ("rate", "low", "high")])
    for name in {"C1", "C2"} & set(tables):
        theirs = tell.control(tables[name]["cells"])
        for key, values in control(tables[name]["cells"]).items():
            same(f"{name}, {key}", values, [theirs[key][k] for k in ("ratio", "low", "high")])
        theirs, mine = tell.at_equal_loss(tables[name]["cells"]), equal_loss(tables[name]["cells"])
        if set(mine) != set(theirs):
            problems.append(f"{name}, at equal loss: {sorted(mine)} here, {sorted(theirs)} in the text")
        for key in set(mine) & set(theirs):
            same(f"{name}, {key}, at equal loss", mine[key], [theirs[key][k] for k in ("ratio", "low", "high")])
    ladder = tables.get("L", {"cells": []})["cells"]
    place = {(c["model"], c["rate"], c["activation"]): c for c in ladder}
    for (model, rate, name, rung), (value, *_) in tell.gains(ladder).items():
        mine = gain(place[model, rate, name], place[model, rate, "relu"], rung)
        same(f"L, {model}, {rate}, {name}, {rung}", mine, value)
    return problems


def compare_text(tables: dict[str, dict]) -> list[str]:
    """Where FINDINGS2.md departs from what the results give."""
    there, now = tell.FINDINGS.read_text(encoding="utf-8").splitlines(), tell.text(tables).splitlines()
    lines = enumerate(itertools.zip_longest(there, now, fillvalue="none"), 1)
    return [f"FINDINGS2.md, line {k}: {a!r}, by the results {b!r}" for k, (a, b) in lines if a != b]


def retrain(table: str, number: int) -> tuple[str, bool]:
    """Train the first seed of a decoder's cell again: are its weights the recorded ones?"""
    import decoder
    import torch

    torch.set_num_threads(1)
    cell = tell.published()[table]["cells"][number - 1]
    settings = {key: cell[key] for key in decoder.SETTINGS if key in cell}
    with tempfile.TemporaryDirectory() as folder:
        again, _ = decoder.record({**settings, "kind": "base"}, cell["seeds"][0], folder)
    same = again["weights_sha256"].startswith(cell["weights_sha256"][0])
    words = "the same weights, bit for bit" if same else "other weights"
    return f"{words}; loss {again['loss']:.5f}, recorded {cell['loss'][0]:.5f}", same


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--retrain", nargs=2, metavar=("TABLE", "CELL"))
    args = parser.parse_args()
    if args.retrain:
        words, same = retrain(args.retrain[0], int(args.retrain[1]))
        print(f"{args.retrain[0]}, cell {args.retrain[1]}: {words}")
        return 0 if same else 1
    tables = json.loads(json.dumps(tell.published()))
    problems = [*compare_text(tables), *compare_numbers(tables)]
    print("\n".join(problems) or "every number of FINDINGS2.md follows from the results")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
