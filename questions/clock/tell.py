"""How fast do two trainings part that differ in one bit, and from when on do they stay together? Read from the files
of `train.py --clock`, `results/clock/{activation}.json` (questions/clock/measure.py), and told in words.

The distance of a twin grows until it levels off. Its *growing phase* begins with the first step after the bit was moved
(that step itself makes of one weight a difference in all of them) and ends before the distance first reaches a tenth of
its largest value. The *growth rate* is the least-squares slope of the ln of the distance against the steps in that
phase, every step weighted alike (where steps were left out, ln distance is interpolated linearly); the *doubling time*
is ln 2 over it. There is none where the phase has fewer than 5 measurements or the distance grows less than eightfold.

A twin *stays together* with its trial when the loss between their weights, on the straight line, rises less than 0.01
nats per token above the straight line of their losses: linear mode connectivity (Frankle et al. 2020, arXiv 1912.05671;
for such twins Kwok et al. 2025, arXiv 2506.13234). No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import significance
import storage
from analysis.markdown import DASH, fixed, flagged, grouped, label, limits, tabled, undressed
from analysis.products import Folder
from analysis.question import REFERENCE, default_baseline, smooth
from analysis.results import exponentials, study_order
from analysis.template import rendered
from config import UserError

FOLDER = "clock"  # below that of the results
PAGE_FILE, TABLE_FILE = "CLOCK.md", "clock.csv"  # in that folder
FIGURE_FILE = "clock.png"  # in that of the figures
LEVELLED = 0.1  # of the largest distance: from there on it levels off
LEAST_POINTS, LEAST_GROWTH = 5, 8.0
KINDS = ("weights", "predictions")
FORGOTTEN = 1e-3  # a PD below it: about a hundredth of what other seeds give
FLOOR = 1e-10  # of a PD: float64's rounding of the sums
TOGETHER = "all smooth"  # the planned contrast
LEVEL = 0.0025  # of all tests of the page together: so a report and its clock, too, claim anything in at most 1 of 10


Interval = tuple[float | None, float | None, float | None]  # a mean, and its 95 % limits where there are any

# -- one twin -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """The growing phase of one twin, steps `first` to `last` since it left; `rate` is None where there is none."""

    rate: float | None = None  # of ln distance, per step
    first: int | None = None
    last: int | None = None

    @property
    def doubling(self) -> float | None:
        """Steps in which the distance doubles."""
        return math.log(2) / self.rate if self.rate else None


def growth(steps: Sequence[int], distances: Sequence[float]) -> Growth:
    """The growing phase of a distance measured after so many steps, see the definition above.

    Args:
        steps: since the twin left, ascending. distances: as many, at least 0; one of 0 has no ln and is left out.
    """
    t, d = np.asarray(steps, float), np.asarray(distances, float)
    if not len(d) or not d.max() > 0:
        return Growth()
    levelled = int(np.argmax(d >= LEVELLED * d.max()))
    phase = np.flatnonzero((t >= 1) & (d > 0) & (np.arange(len(d)) < levelled))
    if len(phase) < LEAST_POINTS or d[phase].max() < LEAST_GROWTH * d[phase[0]]:
        return Growth()
    rate = _slope(t[phase], d[phase])
    return Growth(rate, int(t[phase[0]]), int(t[phase[-1]])) if rate > 0 else Growth()


def _slope(steps: np.ndarray, distances: np.ndarray) -> float:
    """Of the ln of the distance, per step, every step weighted alike."""
    every = np.arange(steps[0], steps[-1] + 1)
    logs = np.interp(every, steps, np.log(distances))
    centred = every - every.mean()
    return float(centred @ logs / (centred @ centred))


def rate(steps: Sequence[int], distances: Sequence[float]) -> float:
    """The growth rate of any twin, per step: that of its growing phase, and where it has none, the slope over all
    measurements from the first step on; 0 where it is never apart at two of them."""
    growing = growth(steps, distances).rate
    if growing is not None:
        return growing
    t, d = np.asarray(steps, float), np.asarray(distances, float)
    apart = np.flatnonzero((t >= 1) & (d > 0))
    return _slope(t[apart], d[apart]) if len(apart) > 1 else 0.0


# -- one activation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """What was measured of one activation."""

    name: str
    contents: Mapping

    @property
    def forks(self) -> list[int]:
        return list(self.contents["forks"])

    @cached_property
    def trials(self) -> dict[int, Mapping]:
        return {int(k): t for k, t in self.contents["trials"].items() if t["status"] == "done"}

    def twins(self, fork: int) -> dict[int, Mapping]:
        """{trial: its twin that left there}."""
        return {k: twin for k, t in self.trials.items() for twin in t["forks"] if twin["fork"] == fork}

    def doubling(self, fork: int, kind: str = "weights") -> dict[int, float]:
        """{trial: its doubling time in steps}, of those that have one."""
        steps = "steps" if kind == "weights" else "prediction_steps"
        times = {k: growth(twin[steps], twin[kind]).doubling for k, twin in self.twins(fork).items()}
        return {k: x for k, x in times.items() if x is not None}

    def doubling_interval(self, fork: int, kind: str = "weights") -> Interval:
        """The geometric mean over trials with its 95 % interval (t, of the logs)."""
        times = list(self.doubling(fork, kind).values())
        return exponentials(significance.mean_interval(np.log(times))) if times else (None,) * 3

    def rate_interval(self, fork: int) -> Interval:
        """The mean growth rate of the weights' distance over all trials, with its 95 % interval (t)."""
        rates = [rate(twin["steps"], twin["weights"]) for twin in self.twins(fork).values()]
        return significance.mean_interval(rates) if rates else (None,) * 3

    @property
    def ends(self) -> dict[int, float]:
        """{trial: ln of the PD at the end, of the twin that left at the start}; where one of both diverged, that of
        predictions that have nothing in common."""
        diverged = {int(k): 0.0 for k, t in self.contents["trials"].items() if t["status"] != "done"}
        final = self.final(self.forks[0], "predictions")
        return diverged | {k: math.log(max(pd, FLOOR)) for k, pd in final.items()}

    @property
    def end_interval(self) -> Interval:
        """The geometric mean over all trials of the PD at the end, with its 95 % interval (t, of the logs)."""
        logs = significance.mean_interval(list(self.ends.values()))
        return exponentials(None if x is None else min(x, 0.0) for x in logs)

    def final(self, fork: int, distance: str) -> dict[int, float]:
        """{trial: the distance of its twin at the end}, of `weights` or `predictions`; or its `barrier`."""
        ends = {k: twin[distance] for k, twin in self.twins(fork).items()}
        return ends if distance == "barrier" else {k: along[-1] for k, along in ends.items()}

    def mean_final(self, fork: int, distance: str) -> float:
        return float(np.mean(list(self.final(fork, distance).values())))

    def together(self, fork: int) -> dict[int, bool]:
        return {k: rise <= significance.LOSS_MARGIN for k, rise in self.final(fork, "barrier").items()}

    @property
    def apart(self) -> list[int]:
        """Forks whose twins do not stay together in all trials."""
        return [fork for fork in self.forks if not all(self.together(fork).values())]

    @property
    def together_from(self) -> int | None:
        """The first fork from which on the twins of all trials stay together; None where even the last do not."""
        return next((fork for fork in self.forks if fork > max(self.apart, default=-1)), None)

    @property
    def unmoved(self) -> float:
        """The largest distance of a twin without the bit, in weights or predictions: 0."""
        twins = [twin for t in self.trials.values() for twin in t["unmoved"]]
        return max((x for twin in twins for kind in KINDS for x in twin[kind]), default=0.0)


# -- several ------------------------------------------------------------------------------------------------------


def load_clocks(results_dir: str | Path, diverged: bool = False) -> dict[str, Clock]:
    """{activation: Clock} of the files below the folder of results, in the order of the study; those all of whose
    trials `diverged` too, if asked for.

    Raises:
        UserError: they are of different settings or texts.
        StorageError: one is damaged.
    """
    clocks = {}
    for path in storage.listed(Path(results_dir, FOLDER), "*.json"):
        contents = storage.read_json(path)
        if not isinstance(contents, dict) or not str(contents.get("schema", "")).startswith("clock/"):
            raise UserError(f"{path}: not a clock of this program; move it away")
        clocks[contents["activation"]] = Clock(contents["activation"], contents)
    if len({(c.contents["fingerprint"], c.contents["corpus_sha256"]) for c in clocks.values()}) > 1:
        raise UserError(f"{Path(results_dir) / FOLDER}: clocks of different settings or texts can't be compared")
    finished = {name: c.trials or (diverged and c.contents["trials"]) for name, c in clocks.items()}
    return {name: clocks[name] for name in study_order(clocks) if finished[name]}


@dataclass(frozen=True)
class Against:
    """The doubling time of an activation against ReLU's, as a ratio."""

    fork: int
    test: significance.Comparison  # of ln doubling time
    p: float | None  # adjusted

    @property
    def ratio(self) -> Interval:
        return exponentials((self.test.effect, self.test.low, self.test.high))


def baseline_of(clocks: Mapping[str, Clock]) -> str:
    """What the others are compared with: as the settings record it, else the default."""
    asked = [c.contents["config"].get("baseline") for c in clocks.values()]
    return next((name for name in asked if name in clocks), default_baseline(clocks))


def against_reference(clocks: Mapping[str, Clock]) -> dict[str, list[Against]]:
    """{activation: its tests against the baseline, one a fork}, paired by seed, and under TOGETHER the planned
    contrast: the mean ln doubling time of the smooth activations minus ReLU's, of twins that leave at step 0, where
    ReLU is the baseline and there are two or more. Moderated by the spread of the comparisons of a fork, and adjusted
    as one family (significance.gatekeep): step 0 first, then the contrast, then later forks as far as their gates are
    open."""
    if not clocks:
        return {}
    baseline = baseline_of(clocks)
    reference, names = clocks[baseline], [name for name in clocks if name != baseline]
    together = [name for name in names if smooth(name)] if baseline == REFERENCE else []
    families: list[tuple[int, dict]] = []
    for fork in reference.forks:
        tests = {name: test for name in names if (test := compare([clocks[name]], reference, fork))}
        spread = significance.family_variance(tests.values())
        families.append((fork, {name: significance.moderate(test, spread) for name, test in tests.items()}))
        if fork == reference.forks[0] and len(together) > 1:
            test = compare([clocks[n] for n in together], reference, fork)
            families.append((fork, {TOGETHER: significance.moderate(test, spread)} if test else {}))
    families = [(fork, tests) for fork, tests in families if tests]
    adjusted = significance.gatekeep([{n: t.p for n, t in tests.items()} for _, tests in families], planned=TOGETHER)
    return grouped(
        (name, Against(fork, test, p[name] if test.p is not None else None))
        for (fork, tests), p in zip(families, adjusted, strict=True)
        for name, test in tests.items()
    )


def compare(several: Sequence[Clock], reference: Clock, fork: int) -> significance.Comparison | None:
    """ln doubling times, a mean over `several`, minus the reference's, of the trials that all have, seed by seed. None
    where one of their twins has no doubling time: without it the rest would be chosen by the outcome."""
    every = [*several, reference]
    trials = sorted(set.intersection(*(set(c.twins(fork)) for c in every)))
    times = [c.doubling(fork) for c in every]
    if not trials or not all(k in doubling for doubling in times for k in trials):
        return None
    *ours, theirs = (np.log([doubling[k] for k in trials]) for doubling in times)
    return significance.compare_loss(np.mean(ours, axis=0), theirs)


# -- in words -----------------------------------------------------------------------------------------------------


def page(clocks: Mapping[str, Clock], figure: str = "") -> str:
    """CLOCK.md."""
    one = next(iter(clocks.values()))
    against = against_reference(clocks)
    return rendered(
        PAGE_FILE,
        moved=next(twin["moved"] for c in clocks.values() for t in c.trials.values() for twin in t["forks"]),
        config=one.contents["config"],
        forks=one.forks,
        positions=one.contents["positions"],
        astray=[c.name for c in clocks.values() if c.unmoved],
        still=sum(len(t["unmoved"]) for c in clocks.values() for t in c.trials.values()),
        clocks=clocks,
        short_interval=short_interval,
        forgotten=FORGOTTEN,
        tenfold=math.log(10),
        baseline=baseline_of(clocks),
        level=LEVEL,
        speeds=_speeds(clocks, against),
        contrast=next((tested for tested in against.get(TOGETHER, []) if tested.p is not None), None),
        reference=REFERENCE,
        interval=_interval,
        margin=significance.LOSS_MARGIN,
        later=_later(clocks) if len(one.forks) > 1 else "",
        figure=figure,
    )


def short_interval(pds: Interval) -> str:
    """PDs that may be tiny."""

    def short(pd: float, _=None) -> str:
        return f"{pd:.1e}".replace("e-0", "e-") if pd < FORGOTTEN else f"{pd:.2g}"

    return short(pds[0]) + limits(*pds[1:], write=short)


def _interval(values: Interval, digits: int) -> str:
    mean, low, high = values
    return fixed(mean, digits) + limits(low, high, digits)


def _speeds(clocks: Mapping[str, Clock], against: Mapping[str, list[Against]]) -> str:
    rows = []
    for name, clock in clocks.items():
        fork, n = clock.forks[0], len(clock.trials)
        growing = len(clock.doubling(fork))
        first = next((a for a in against.get(name, []) if a.fork == fork), None)
        ratio = [_interval(first.ratio, 2), flagged(first.p, LEVEL)] if first else [DASH, DASH]
        times = [_interval(clock.doubling_interval(fork, kind), 1) for kind in KINDS]
        rows.append([label(name), str(n) if growing == n else f"{growing} of {n}", *times, *ratio])
    header = "Activation|Seeds|Doubling time (weights)|(predictions)|Ratio|Adjusted p"
    return tabled(header.split("|"), rows)


def _later(clocks: Mapping[str, Clock]) -> str:
    rows = []
    for name, clock in clocks.items():
        for fork in clock.forks:
            ends = [fixed(clock.mean_final(fork, distance)) for distance in ("predictions", "weights", "barrier")]
            together = clock.together(fork)
            share = f"{sum(together.values())} of {len(together)}"
            rows.append([label(name), str(fork), _interval(clock.doubling_interval(fork), 1), *ends, share])
    header = "Activation|Leaves at|Doubling time|PD at the end|Weights apart|Barrier|Together"
    return tabled(header.split("|"), rows)


def overview(folder: Folder) -> str:
    """The page for a terminal."""
    return undressed(page(load_clocks(folder.results)))


COLUMNS = (
    "Activation Fork_Step Trials Doubling_Steps_Weights Doubling_Steps_Weights_Low Doubling_Steps_Weights_High "
    "Doubling_Steps_Predictions Doubling_Steps_Predictions_Low Doubling_Steps_Predictions_High Trials_Growing "
    "Ratio_To_ReLU Ratio_Low Ratio_High Ratio_p_Adjusted Growth_Per_Step Growth_Low Growth_High Final_PD Final_Weights "
    "Final_Barrier Trials_Together"
).split()


def records(clocks: Mapping[str, Clock]) -> list[dict]:
    """One row per activation and fork, for the CSV."""
    against, rows = against_reference(clocks), []
    for name, clock in clocks.items():
        tests = {a.fork: a for a in against.get(name, [])}
        for fork in clock.forks:
            values = [name, fork, len(clock.trials)]
            values += [x for kind in KINDS for x in clock.doubling_interval(fork, kind)]
            values += [len(clock.doubling(fork)), *(tests[fork].ratio if fork in tests else (None,) * 3)]
            values += [tests[fork].p if fork in tests else None, *clock.rate_interval(fork)]
            values += [clock.mean_final(fork, distance) for distance in ("predictions", "weights", "barrier")]
            rows.append(dict(zip(COLUMNS, [*values, sum(clock.together(fork).values())], strict=True)))
    return rows
