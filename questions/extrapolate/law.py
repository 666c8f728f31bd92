"""PD as a power of width and steps: the fit, a prediction with its interval, what speaks against it. Pure functions.

ln PD = a + b ln(width) + c ln(steps), by least squares over cells: one (study, width, steps) each, whose value is the
mean of its trials' log pseudo-values (significance.log_pseudo_values), ln of its mean PD. A study's trials are its
independent units: its cells, the branches of one trunk, share them. So any weighted sum of the cells is, of each study,
a mean over its trials, and has that mean's variance; those of several studies add up (Welch & Satterthwaite).

bench/calibration.py, table `extrapolation`, measures how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy

from significance import log_pseudo_values

AXES = ("width", "steps")
POINTS = 3  # different values of an axis that is left: two lie on every line
SPAN = 4  # from the least to the greatest of them, at least
BENT = 0.05  # the p below which the cells are said not to lie on a power law


BENDS = {
    "width": lambda logs: logs[:, 0] ** 2,
    "steps": lambda logs: logs[:, 1] ** 2,
    "width with steps": lambda logs: logs[:, 0] * logs[:, 1],
}


@dataclass(frozen=True)
class Cell:
    """One study's models of one width and length: their PD (n, n), and their losses (n,) in nats per token."""

    study: str
    width: int
    steps: int
    pd: np.ndarray
    losses: np.ndarray

    @property
    def at(self) -> tuple[int, int]:
        return self.width, self.steps


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """`pd`: of the mean over the pairs of `trials` trainings; `exponents`: of each axis that varies."""

    pd: Estimate
    trials: int
    exponents: dict[str, Estimate] = field(default_factory=dict)


def _logs(cells: Sequence[Cell]) -> np.ndarray:
    return np.log(np.array([cell.at for cell in cells], dtype=float))


def _varying(cells: Sequence[Cell]) -> list[int]:
    return [k for k in range(len(AXES)) if len({cell.at[k] for cell in cells}) > 1]


def _design(logs: np.ndarray, axes: Sequence[int], bends: Iterable[str] = ()) -> np.ndarray:
    """The law's columns: 1, ln of each axis, and further ones by their names in `BENDS`."""
    return np.column_stack([np.ones(len(logs)), *(logs[:, k] for k in axes), *(BENDS[name](logs) for name in bends)])


def _to_be_seen(cells: Sequence[Cell]) -> list[str]:
    """What a law that isn't a power law has beside, as far as these cells show it: a bend along an axis of three points
    or more, and a slope that changes along the other axis."""
    axes = _varying(cells)
    bends = [AXES[k] for k in axes if len({cell.at[k] for cell in cells}) >= POINTS]
    return bends + ["width with steps"] * (len(axes) == len(AXES))


def _weighted(cells: Sequence[Cell], weights: np.ndarray) -> tuple[float, float, float]:
    """(value, variance, degrees of freedom) of a weighted sum of the cells' ln PD."""
    value, parts = 0.0, []
    for study in dict.fromkeys(cell.study for cell in cells):
        own = [(w, c.pd) for w, c in zip(weights, cells, strict=True) if c.study == study]
        per_trial = sum(w * log_pseudo_values(pd) for w, pd in own)
        value += per_trial.mean()
        parts.append((_variance(per_trial, sum(w * pd / _mean(pd) for w, pd in own)), len(per_trial) - 1))
    variance = sum(v for v, _ in parts)
    return float(value), float(variance), float(variance**2 / max(sum(v * v / df for v, df in parts), 1e-300))


def _mean(pd: np.ndarray) -> float:
    return float(pd.sum() / (len(pd) * (len(pd) - 1)))


def _variance(per_trial: np.ndarray, pairs: np.ndarray) -> float:
    """Of the mean over trials: the jackknife's, less what it counts too often.

    A pair's value is a mean, a part of each of its two trials, and a rest of its own. Of the rest's variance r the
    jackknife has 4 r / n (n − 2) and the mean over pairs 2 r / n (n − 1); the difference is 2 r / (n − 1) (n − 2)
    (Efron & Stein 1981). With three trials r can't be told from the trials' parts, and nothing is taken off.
    """
    n = len(per_trial)
    jackknife = float(per_trial.var(ddof=1) / n)
    if n < 4:
        return jackknife
    of_pairs = pairs[np.triu_indices(n, 1)]
    parts = (pairs.sum(1) - (n - 1) * of_pairs.mean()) / (n - 2)  # least squares of the two trials' parts
    rest = of_pairs - of_pairs.mean() - np.add.outer(parts, parts)[np.triu_indices(n, 1)]
    r = float((rest**2).sum()) / (n * (n - 3) / 2)
    return max(jackknife - 2 * r / ((n - 1) * (n - 2)), jackknife / 4)


def problem(cells: Sequence[Cell], width: int, steps: int) -> str:
    """Why nothing can be said about that width and length; '' where something can."""
    axes = _varying(cells)
    for k, (axis, target) in enumerate(zip(AXES, (width, steps), strict=True)):
        values = sorted({cell.at[k] for cell in cells})
        low, high = values[0], values[-1]
        if low <= target <= high:
            continue
        if len(values) < POINTS or high < SPAN * low:
            shown = ", ".join(map(str, values))
            needed = f"{POINTS} values, {SPAN} times apart, are needed"
            return f"{axis} {target} lies outside of what there is ({shown}): {needed}"
        if not low * low / high <= target <= high * high / low:
            return f"{axis} {target} is farther out than {low} to {high} is wide"
    if len(cells) <= len(axes) + 1:
        return f"{len(cells)} cells for {len(axes) + 1} numbers of the law: a law is always found"
    if worse := _worse(cells):
        return worse
    design, bends = _design(_logs(cells), axes), _to_be_seen(cells)
    for name in bends:
        size, variance, df = _weighted(cells, _beyond(design, BENDS[name](_logs(cells)))[0])
        p = 2 * scipy.stats.t.sf(abs(size) / math.sqrt(variance), df) if variance > 0 else 1.0
        if p < BENT / len(bends):
            return f"PD is not a power of {name} here (p = {p:.2g}): it bends, or a study differs in more than its size"
    return ""


def _worse(cells: Sequence[Cell]) -> str:
    """A study that has learnt less than a smaller one as long, by more than chance: its recipe doesn't fit its size."""
    for large in cells:
        for small in cells:
            gap = large.losses.mean() - small.losses.mean()
            noise = math.sqrt(sum(c.losses.var(ddof=1) / len(c.losses) for c in (large, small)))
            if large.steps == small.steps and large.width > small.width and gap > 4 * noise + 0.01:
                return (
                    f"{large.study} has a higher loss ({large.losses.mean():.3f}) than {small.study} of width "
                    f"{small.width} ({small.losses.mean():.3f}): another learning rate first"
                )
    return ""


def _beyond(design: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the law doesn't have of one more column: the weights of the cells in its coefficient, and the column as the
    law would have it."""
    onto = np.linalg.pinv(design) @ column
    rest = column - design @ onto
    return rest / (rest @ rest), onto


def predict(cells: Sequence[Cell], width: int, steps: int, trials: int | None = None) -> Prediction:
    """PD of models of that width and length by the power law, with a 95 % interval.

    Args:
        cells: of three trials or more each.
        trials: how many trainings of them there will be; their own chance is in the interval. Default: as here.

    Raises:
        ValueError: `problem` says why not.
    """
    if why := problem(cells, width, steps):
        raise ValueError(why)
    return extended(cells, width, steps, trials)


def extended(
    cells: Sequence[Cell], width: int, steps: int, trials: int | None = None, bends: Sequence[str] = ()
) -> Prediction:
    """As `predict`, of a law that may have some of `BENDS`, whether or not something speaks against it.

    The variance has three parts: that of the fit, that of the new trainings' mean, and what the worst of the bends that
    the cells may have would move the prediction by, as far as it is larger than chance makes it.
    """
    axes, logs = _varying(cells), _logs(cells)
    target = _logs([Cell("", width, steps, np.empty(0), np.empty(0))])
    design, x = _design(logs, axes, bends), _design(target, axes, bends)[0]
    inverse = np.linalg.pinv(design)  # (numbers of the law, cells)
    value, variance, df = _weighted(cells, x @ inverse)

    trials = trials or round(float(np.median([len(cell.pd) for cell in cells])))
    spreads = [len(c.pd) * _variance(log_pseudo_values(c.pd), c.pd / _mean(c.pd)) for c in cells]
    new = sum(spreads) / len(spreads) / trials
    trainings = sum({cell.study: len(cell.pd) - 1 for cell in cells}.values())
    total, moved = variance + new, [0.0]
    df = total**2 / max(variance**2 / df + new**2 / trainings, 1e-300)
    for name in set(_to_be_seen(cells)) - set(bends):
        weights, onto = _beyond(design, BENDS[name](logs))
        size, own, _ = _weighted(cells, weights)
        moved.append(max(0.0, size**2 - own) * float(BENDS[name](target)[0] - x @ onto) ** 2)
    exponents = {AXES[k]: _estimate(*_weighted(cells, inverse[1 + i])) for i, k in enumerate(axes)}
    ln = _estimate(value, total + max(moved), df)
    return Prediction(Estimate(*(math.exp(v) for v in (ln.value, ln.low, ln.high))), trials, exponents)


def _estimate(value: float, variance: float, df: float) -> Estimate:
    reach = float(scipy.stats.t.ppf(0.975, max(df, 1))) * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach)
