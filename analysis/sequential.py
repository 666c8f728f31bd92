"""Look while training: stop when every comparison is decided, without erring more often for having looked.

    sequential_levels   the level of each look, such that all looks together have the level wanted
    repeated_p          a p-value that allows for the looks; Holm over these, as over any others, is for the family
    repeated_interval   an interval that holds the truth at all looks together
    decide              lower, higher, equal or open, for each comparison of a family at one look

Looks are at numbers of trials planned before the data. Each spends an equal share of the error (Lan & DeMets 1983),
beyond what the looks before it have spent: with t = n / n_last, estimates at growing n are those of a Brownian motion
at times t, exactly for means and nearly for mean PDs, and p-values of t-tests stand in for those of the normal
(Jennison & Turnbull 2000, section 3.8). bench/calibration.py measures the errors of the whole procedure, and the
trials that it takes. Pure functions, in the terms of significance.py.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

from significance import equivalence_p, holm

LOOKS = (3, 5, 8, 12, 20)
_GAMMAS = np.geomspace(1e-10, 0.999, 121)  # levels of the whole procedure, between which repeated_p interpolates


@lru_cache(maxsize=256)
def sequential_levels(looks=LOOKS, alpha=0.05):
    """Two-sided level of the test at each look, such that where nothing differs any look errs with probability alpha.

    looks: growing numbers of trials, a tuple, at least 3; the last is the largest that the plan allows. Of the error
    alpha each look spends alpha / len(looks): level k is the z test that crosses there, and at no look before, with
    that probability. ValueError: looks not growing from at least 3, alpha not between 0 and 1.
    Source: Lan & DeMets 1983; the recursion over looks is that of Armitage, McPherson & Rowe 1969.
    """
    if not looks or looks[0] < 3 or any(a >= b for a, b in zip(looks, looks[1:], strict=False)):
        raise ValueError(f"looks: {looks} must be growing numbers of trials, the first at least 3")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha} must lie between 0 and 1")
    share = alpha / len(looks)
    nodes, weights = _legendre()
    levels, density, x, before = [share], None, None, 0.0
    for n, now in zip(looks, [n / looks[-1] for n in looks], strict=True):
        if n == looks[0]:
            bound = -math.sqrt(now) * scipy.special.ndtri(share / 2)
            x = bound * nodes
            density = np.exp(-(x**2) / (2 * now)) / math.sqrt(2 * math.pi * now)
        else:  # the motion goes on from x, where it has not crossed
            step, mass = math.sqrt(now - before), density * weights * x[-1] / nodes[-1]

            def crossing(b, x=x, step=step, mass=mass):
                return float(mass @ (scipy.special.ndtr((-b - x) / step) + scipy.special.ndtr((x - b) / step)))

            bound = scipy.optimize.brentq(lambda b, p=crossing: p(b) - share, 0, 10 * math.sqrt(now))
            levels.append(2 * float(scipy.special.ndtr(-bound / math.sqrt(now))))
            y = bound * nodes
            kernel = np.exp(-(((y[:, None] - x) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
            x, density = y, kernel @ mass
        before = now
    return tuple(levels)


def repeated_p(p, look, looks=LOOKS):
    """The level of the whole procedure at which a test with this p, at this look, would just be significant.

    p: a number or an array, two-sided; look: the planned number of trials, one of `looks`. Where nothing differs, the
    chance that at any look the repeated p is below alpha is alpha; so it may be looked at each time, and Holm's
    procedure may be used on it. ValueError: a p outside [0, 1], a look that was not planned.
    Source: repeated p-values, Jennison & Turnbull 2000, section 9.2; the inverse of `sequential_levels`.
    """
    p = np.asarray(p, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p: {p} must lie between 0 and 1")
    at_look = _level_table(tuple(looks))[:, _position(look, looks)]
    with np.errstate(divide="ignore"):
        result = np.exp(np.interp(np.log(p), np.log(at_look), np.log(_GAMMAS)))
    result = np.where(p < at_look[0], p * _GAMMAS[0] / at_look[0], np.where(p > at_look[-1], 1.0, result))
    return result if result.ndim else float(result)


def repeated_interval(comparison, look, looks=LOOKS, alpha=0.05):
    """Limits (low, high) of the effect that hold it at all looks together with probability 1 - alpha, for this
    comparison alone; (None, None) where there is no test. The label is "95 %, at any of the looks".

    ValueError: a look that was not planned. Source: repeated confidence intervals, Jennison & Turnbull 1989.
    """
    if comparison.p is None:
        return None, None
    level = sequential_levels(tuple(looks), alpha)[_position(look, looks)]
    half = float(scipy.special.stdtrit(comparison.df, 1 - level / 2)) * comparison.se
    limits = comparison.estimate - half, comparison.estimate + half
    return tuple(map(math.exp, limits)) if comparison.metric == "pd" else limits


@dataclass(frozen=True)
class Decision:
    """`kind`: 'lower', 'higher', 'equal' or 'open'; `look`: the number of trials at which it was decided, or None.

    `p` (some difference) and `p_equal` (a difference of the margin or more) are adjusted for the looks and for the
    family; `low`, `high` as in `repeated_interval`. All are as they were when it was decided, or, open, as of now.
    """

    kind: str
    look: int | None
    p: float
    p_equal: float
    low: float | None
    high: float | None


def decide(family, look, earlier=None, looks=LOOKS, margin=None, alpha=0.05):
    """What is known about each comparison of a family at one look, given the decisions of the looks before.

    family: {name: Comparison}, moderated, with the trials of this look; look: the planned number of trials, one of
    `looks`, also where a trial failed; earlier: what this function returned at the look before, or None; margin as in
    `significance.equivalence_p`. A decision stands. Lower or higher: Holm over the repeated p-values of the whole
    family is below alpha; else equal: the same for those of the two one-sided tests at the margin; else open, as is a
    comparison without a test. Over all looks and the family together, any directional claim errs in at most alpha,
    and so does any claim of equality where the true difference is the margin. Returns {name: Decision}.
    ValueError: a look that was not planned, a name whose earlier decision is missing.
    Source: Maurer & Bretz 2013, group-sequential Holm.
    """
    earlier = earlier or dict.fromkeys(family)
    if set(earlier) != set(family):
        raise ValueError(f"earlier: decisions on {', '.join(earlier)}, but the family is {', '.join(family)}")

    def adjusted(p_values, decided):
        """Holm over the family; what was decided so before is no longer a hypothesis to test."""
        values = {n: 0.0 if earlier[n] and earlier[n].kind in decided else p for n, p in p_values.items()}
        return dict(zip(values, holm(values.values()), strict=True))

    def repeated(p, sides):  # a one-sided p is half of a two-sided one
        return 1.0 if p is None or p * sides >= 1 else repeated_p(p * sides, look, looks) / sides

    p = adjusted({n: repeated(c.p, 1) for n, c in family.items()}, ("lower", "higher"))
    p_equal = adjusted({n: repeated(equivalence_p(c, margin), 2) for n, c in family.items()}, ("equal",))
    decisions = {}
    for name, c in family.items():
        if earlier[name] and earlier[name].kind != "open":
            decisions[name] = earlier[name]
            continue
        kind = "open"
        if c.p is not None and p[name] < alpha:
            kind = "lower" if c.estimate < 0 else "higher"
        elif c.p is not None and p_equal[name] < alpha:
            kind = "equal"
        limits = repeated_interval(c, look, looks, alpha)
        decisions[name] = Decision(kind, None if kind == "open" else look, p[name], p_equal[name], *limits)
    return decisions


def _position(look, looks):
    if look not in looks:
        raise ValueError(f"look: {look} trials; planned are looks at {', '.join(map(str, looks))}")
    return list(looks).index(look)


@lru_cache(maxsize=1)
def _legendre():
    return scipy.special.roots_legendre(96)


@lru_cache(maxsize=8)
def _level_table(looks):
    return np.array([sequential_levels.__wrapped__(looks, float(gamma)) for gamma in _GAMMAS])
