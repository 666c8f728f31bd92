"""At which learning rate does a recipe begin to grow a difference of one bit? Read from the clocks of several rates,
`results/rates/RATE/clock/{activation}.json`, as `train.py --clock --learning-rate 3e-4 1e-3 3e-3` leaves them.

The *critical rate* of an activation is where the geometric mean over seeds of the PD at the end of training, of twins
that differ in one bit from the start, first passes 0.001 from below; between two rates ln PD is taken as linear in ln
rate. Its interval: with five seeds or more the 95 % percentiles over 2000 resamples of seeds, else the range over
single seeds. A seed that diverged counts as one whose predictions have nothing in common. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import storage
from analysis.markdown import DASH, fixed, grouped, label, tabled, undressed
from analysis.products import Folder
from analysis.template import rendered
from questions.clock.tell import FORGOTTEN, Clock, load_clocks, short_interval

FOLDER = "rates"  # below that of the results
PAGE_FILE, TABLE_FILE = "RATES.md", "rates.csv"  # in that folder
FIGURE_FILE = "clock_rates.png"  # in that of the figures
RESAMPLES = 2000

Rates = Mapping[str, Mapping[float, Clock]]


def load_rates(results: Path) -> dict[str, dict[float, Clock]]:
    """{activation: {learning rate: its clock}}, rising, of the folders below the results."""
    clocks = (clock for path in storage.listed(results / FOLDER) for clock in load_clocks(path, True).items())
    rates = grouped((name, (clock.contents["config"]["learning_rate"], clock)) for name, clock in clocks)
    return {name: dict(sorted(of_one)) for name, of_one in rates.items()}


def crossing(rates: np.ndarray, logs: np.ndarray) -> float:
    """Where ln PD (R,) first passes ln FORGOTTEN; 0 where it is above at the lowest rate, infinity where nowhere."""
    above = np.flatnonzero(logs > math.log(FORGOTTEN))
    if not len(above):
        return math.inf
    k = int(above[0])
    if k == 0:
        return 0.0
    share = (math.log(FORGOTTEN) - logs[k - 1]) / (logs[k] - logs[k - 1])
    return float(np.exp(np.log(rates[k - 1]) + share * np.log(rates[k] / rates[k - 1])))


def critical_rate(clocks: Mapping[float, Clock]) -> tuple[float, float, float]:
    """The critical rate and its interval: 0 stands for below the lowest rate, infinity for above the highest, NaN for
    what isn't known, no seed being done at every rate."""
    seeds = sorted(set.intersection(*(set(clock.ends) for clock in clocks.values())))
    if not seeds:
        return math.nan, math.nan, math.nan
    rates, logs = np.array(list(clocks)), np.array([[c.ends[k] for k in seeds] for c in clocks.values()])
    point = crossing(rates, logs.mean(1))
    if len(seeds) < 5:
        single = [crossing(rates, column) for column in logs.T]
        return point, min(single), max(single)
    draws = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
    spread = [crossing(rates, logs[:, draw].mean(1)) for draw in draws]
    low, high = np.quantile(spread, (0.025, 0.975), method="nearest")
    return point, float(low), float(high)


# -- in words -----------------------------------------------------------------------------------------------------


def page(rates: Rates, figure: str = "") -> str:
    """RATES.md."""
    any_clock = next(iter(next(iter(rates.values())).values()))
    return rendered(
        PAGE_FILE,
        config=any_clock.contents["config"],
        ends=_ends(rates),
        critical={
            name: (clocks, min(len(clock.ends) for clock in clocks.values()), *critical_rate(clocks))
            for name, clocks in rates.items()
        },
        infinity=math.inf,
        forgotten=FORGOTTEN,
        figure=figure,
    )


def _ends(rates: Rates) -> str:
    """The table: PD at the end, and below it the loss, of each rate."""
    grid, rows = sorted({rate for clocks in rates.values() for rate in clocks}), []
    for name, clocks in rates.items():
        row = [clocks.get(rate) for rate in grid]
        rows.append([label(name), *(short_interval(clock.end_interval) if clock else DASH for clock in row)])
        rows.append(["loss", *(fixed(loss(clock) if clock else None) for clock in row)])
    return tabled(["Activation", *(f"{rate:g}" for rate in grid)], rows)


def loss(clock: Clock) -> float | None:
    """The mean validation loss of the trials, on the probe."""
    losses = [twin["losses"][0] for twin in clock.twins(clock.forks[0]).values()]
    return float(np.mean(losses)) if losses else None


def overview(folder: Folder) -> str:
    """The page for a terminal."""
    return undressed(page(load_rates(folder.results)))


COLUMNS = (
    "Activation Learning_Rate Trials Val_Loss Final_PD Final_PD_Low Final_PD_High Critical_Rate Critical_Low "
    "Critical_High"
).split()


def records(rates: Rates) -> list[dict]:
    """One row per activation and rate, for the CSV."""
    rows = []
    for name, clocks in rates.items():
        critical = [x if 0 < x < math.inf else None for x in critical_rate(clocks)]
        for rate, clock in clocks.items():
            values = [name, rate, len(clock.ends), loss(clock), *clock.end_interval, *critical]
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
