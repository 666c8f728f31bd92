"""The critical learning rate, as PLAN2.md defines it: from numbers to numbers."""

from __future__ import annotations

import numpy as np

FLOOR = 1e-10  # smaller PD counts as this
LEVEL = 0.01  # of the PD of other seeds: below it, a difference counts as forgotten
REPLICATIONS = 10_000


def log_ratios(cells: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Of an activation's cells: the rates in rising order (R,), and for each seed that all of them have
    ln(PD one bit / mean PD of other seeds), (seeds, R)."""
    cells = sorted(cells, key=lambda cell: cell["rate"])
    seeds = sorted(set.intersection(*(set(cell["seeds"]) for cell in cells)))
    columns = []
    for cell in cells:
        bit = dict(zip(cell["seeds"], cell["twins"]["bit"]["pd"], strict=True))
        own = np.log(np.maximum([bit[seed] for seed in seeds], FLOOR))
        columns.append(own - np.log(np.mean(others(cell, seeds))))
    return np.array([cell["rate"] for cell in cells]), np.array(columns).T


def others(cell: dict, seeds: list[int]) -> list[float]:
    """PD between the bases of these seeds; `pairs` has them as (1, 0), (2, 0), (2, 1), … of the cell's seeds."""
    index = [cell["seeds"].index(seed) for seed in seeds]
    chosen = [(max(i, j), min(i, j)) for a, i in enumerate(index) for j in index[:a]]
    return [cell["pairs"][i * (i - 1) // 2 + j] for i, j in chosen]


def crossing(rates: np.ndarray, means: np.ndarray) -> float:
    """Where the mean ln ratio first passes ln LEVEL from below; 0 where it is above at the lowest rate, infinity where
    it nowhere passes."""
    above = means - np.log(LEVEL) > 0
    if above[0]:
        return 0.0
    if not above.any():
        return np.inf
    k = int(np.argmax(above))
    share = (np.log(LEVEL) - means[k - 1]) / (means[k] - means[k - 1])
    return float(np.exp(np.log(rates[k - 1]) + share * np.log(rates[k] / rates[k - 1])))


def critical_rate(cells: list[dict], seed: int = 0) -> dict:
    """`rate` (None outside the grid), `where` it is, its `low` and `high`, the number of seeds `n`, and whether the
    ratio `falls` below the level again at a higher rate.

    With five seeds or more low and high are 95 % percentiles over resamples of seeds, else the range over single seeds.
    """
    rates, logs = log_ratios(cells)
    n = len(logs)
    point = crossing(rates, logs.mean(0))
    if n >= 5:
        draws = np.random.default_rng(seed).integers(n, size=(REPLICATIONS, n))
        spread = np.array([crossing(rates, logs[draw].mean(0)) for draw in draws])
        low, high = np.quantile(spread, (0.025, 0.975), method="nearest")
    else:
        single = [crossing(rates, row) for row in logs]
        low, high = min(single), max(single)
    above = logs.mean(0) > np.log(LEVEL)
    where = "below the grid" if point == 0 else "above the grid" if np.isinf(point) else "within the grid"
    inside = where == "within the grid"
    return {
        "rate": point if inside else None,
        "where": where,
        "low": float(low),
        "high": float(high),
        "n": n,
        "falls": bool((np.diff(above.astype(int)) < 0).any()),
    }
