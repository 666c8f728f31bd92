"""One number per seed for each arm: which differences are shown, which are smaller than matters, which are open?

The tests are those of significance.py on one number per trial: paired where seeds are shared, else Welch's; from three
comparisons on each borrows spread from the others; Holm over all; two one-sided tests at the margin. Looks at growing
numbers of seeds share alpha equally, which holds whatever the tests have in common (for one paired comparison the
levels of analysis.sequential, made for normal statistics, err in 5.4 to 5.7 % where these err in 5 at most). A
difference is always arm minus baseline, or minus the constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import scipy

from config import UserError
from questions.scores.reading import Table, read
from significance import (
    Comparison,
    compare_loss,
    equivalence_p,
    family_variance,
    holm,
    mean_interval,
    moderate,
    plan_trials,
    smallest_detectable,
)

BASELINES = {"baseline", "base", "control", "reference", "ref", "vanilla", "default", "main"}
GATES = ("better", "not-worse", "equal", "different")
SUSPICIOUS = 0.05  # chance at which agreement, or equal numbers, are called too good to be believed


@dataclass(frozen=True)
class Ruling:
    """What is said of one arm against another, or a constant. A number that is undefined is None.

    `kind`: 'lower', 'higher', 'equal' (within the margin), 'open' or 'no test'. `p`, `p_equal` and `p_not_worse` are
    adjusted for all comparisons and looks. `low`, `high`: interval of the difference at 1 - alpha, not adjusted for
    other comparisons, at all looks together where looks are planned; one-sided, one of them is None. `detectable`: the
    difference seen with 80 % power; `seeds_needed`: (seeds, fewest, most) for the margin, or without one, roughly,
    for the difference seen.
    """

    arm: str
    against: str
    comparison: Comparison
    kind: str = "no test"
    p: float | None = None
    p_equal: float | None = None
    p_not_worse: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    seeds_needed: tuple = (None, None, None)
    text: str = ""


@dataclass(frozen=True)
class Answer:
    """`rulings`: one for each comparison; `arms`: {name: {n, mean, sd, low, high, values}}; `settings`: what was asked
    for; `warnings`: why the answer may be worth less; `notes`: how the table was read. str() is one line for each."""

    rulings: list
    arms: dict
    settings: dict
    warnings: list
    notes: list

    def __str__(self):
        said = [f"warning: {line}" for line in self.warnings] + [f"note: {line}" for line in self.notes]
        return "\n".join([ruling.text for ruling in self.rulings] + said)

    def markdown(self):
        """A block to paste."""
        rows = ["| arm | seeds | mean | sd |", "|---|---:|---:|---:|"]
        for name, arm in self.arms.items():
            sd = "" if arm["sd"] is None else f"{arm['sd']:.2g}"
            rows.append(f"| {name.replace('|', '/')} | {arm['n']} | {_number(arm['mean'], arm['sd'])} | {sd} |")
        return "\n".join([*rows, "", *(f"- {line}" for line in str(self).split("\n"))])

    def as_dict(self):
        """Ready for JSON."""
        rulings = [vars(ruling) | {"comparison": ruling.comparison.as_dict()} for ruling in self.rulings]
        return {**self.settings, "arms": self.arms, "rulings": rulings, "warnings": self.warnings, "notes": self.notes}

    def holds(self, gate):
        """Is it so of every comparison: 'better', 'not-worse' (than by the margin), 'equal' (within it), 'different'?

        UserError: no such gate, or it needs a margin or to be told which is better."""
        better, margin, alpha = (self.settings[name] for name in ("better", "margin", "alpha"))
        if gate not in GATES:
            raise UserError(f"gate={gate!r}: must be one of {', '.join(GATES)}")
        if gate in ("better", "not-worse") and better is None:
            raise UserError(f"gate={gate!r}: say which is better (--better lower, or higher)")
        if gate in ("equal", "not-worse") and margin is None:
            raise UserError(f"gate={gate!r}: needs the smallest difference that matters (--margin 0.005, or 1%)")
        of = {"equal": "p_equal", "not-worse": "p_not_worse"}.get(gate)
        if of:
            return all((getattr(r, of) or 1) < alpha for r in self.rulings)
        return all(r.kind in ((better,) if gate == "better" else ("lower", "higher")) for r in self.rulings)


def decide(
    table, *, baseline=None, against=None, paired=None, better=None, one_sided=False, margin=None, alpha=0.05,
    looks=None, **reading,
):  # fmt: skip
    """Verdicts on a table of one number per seed.

    Args:
        table: {arm: values} or {arm: {seed: value}}, a DataFrame, a path, text, or what `reading.read` takes else.
        baseline: the arm that the others are compared with; None: one called baseline or the like, of two the second,
            else every pair is compared.
        against: a constant that every arm is compared with instead.
        paired: are seeds shared? None: where the table says so; False: no, whatever it says.
        better: 'lower' or 'higher', or None.
        one_sided: test only whether an arm is better, as planned before the data; needs `better`.
        margin: the smallest difference that matters, in the unit of the numbers, or '1%' of the baseline's mean.
        alpha: chance of any false claim of a difference, over all comparisons and looks.
        looks: numbers of seeds at which the results were, or will be, looked at, such as (3, 5, 8).
        reading: arm, seed, value, where, decimal, pattern: see `reading.read`.

    Returns an Answer. UserError: no table, nothing to compare, or options that do not fit.
    """
    alpha = check_alpha(alpha)
    if better not in (None, "lower", "higher") or (one_sided and not better):
        raise UserError(f"better={better!r}: must be 'lower' or 'higher'{' for a one-sided test' * one_sided}")
    if against is not None and baseline is not None:
        raise UserError("against and baseline: compare with a constant or with an arm, not both")
    table = table if isinstance(table, Table) else read(table, **reading)
    values = {name: _values(seeds) for name, seeds in table.arms.items()}
    notes, warnings = list(table.notes), []
    if against is not None:
        against = _finite(against, "against")
        pairs = [(name, f"{against:g}") for name in values]
        tests = [compare_loss(x, np.full(len(x), against)) for x in values.values()]
    else:
        baseline = find_baseline(list(values), baseline)
        pairs = list(combinations(values, 2)) if baseline is None else [(n, baseline) for n in values if n != baseline]
        tests = [_compare(table, a, b, paired, notes) for a, b in pairs]
        if table.seeds == "places" and paired is None:
            _on_places(table.arms, pairs, tests, notes, warnings)
        tests = [moderate(c, variance) for variance in [family_variance(tests)] for c in tests]
    if margin is not None:
        margin = _margin(str(margin), against if against is not None else values[pairs[0][1]].mean())
    looks = None if looks is None else _check_looks(tuple(looks), values)
    if len(tests) > 1:
        lent = ", spreads shared (moderated t)" if any(c.prior_df for c in tests) else ""
        notes.append(f"{len(tests)} comparisons: p adjusted for all (Holm){lent}; intervals not adjusted")
    settings = {"baseline": baseline, "against": against, "better": better, "one_sided": one_sided}
    settings |= {"margin": margin, "alpha": alpha, "looks": looks}
    rulings = [
        _ruling(Ruling(*pair, c, p=p, p_equal=p_equal, p_not_worse=p_not_worse), settings)
        for pair, c, p, p_equal, p_not_worse in zip(pairs, tests, *_adjusted(tests, settings), strict=True)
    ]
    warnings += (_unequal(values) if against is None else []) + _too_good(values) + _repeats(table.arms)
    arms = {name: _summary(seeds) for name, seeds in table.arms.items()}
    return Answer(rulings, arms, settings, warnings, notes)


def find_baseline(names, baseline=None):
    """The arm named, or the one that its name gives away, or of two the second; None: every pair is compared."""
    if baseline is not None and baseline not in names:
        raise UserError(f"baseline={baseline!r}: no such arm; there are {', '.join(names)}")
    if len(names) < 2:
        raise UserError(f"one arm alone ({', '.join(names)}): add a second one, or a constant (--against 3.28)")
    called = [name for name in names if name.strip().lower() in BASELINES]
    return baseline or (called[0] if len(called) == 1 else names[1] if len(names) == 2 else None)


def check_alpha(alpha):
    alpha = _finite(alpha, "alpha")
    if not 0 < alpha < 0.5:
        raise UserError(f"alpha={alpha:g}: must lie between 0 and 0.5, such as 0.05")
    return alpha


def _finite(value, name):
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}={value!r}: must be a number") from None
    if not math.isfinite(value):
        raise UserError(f"{name}={value!r}: must be finite")
    return value


def _margin(text, reference):
    share = _finite(text.rstrip("% "), "margin")
    if not share > 0:
        raise UserError(f"margin={text}: must be above 0, as 0.005 or 1%")
    return float(share / 100 * abs(reference)) if text.endswith("%") else share


def _check_looks(looks, values):
    sizes = {len(x) for x in values.values()}
    if len(sizes) > 1:
        counts = ", ".join(f"{name} {len(x)}" for name, x in values.items())
        raise UserError(f"looks: arms have different numbers of seeds ({counts}); all must be looked at equally often")
    if looks[:1] < (3,) or any(a >= b for a, b in pairwise(looks)):
        raise UserError(f"looks: {', '.join(map(str, looks))}: must be growing numbers of seeds, at least 3")
    if not sizes <= set(looks):
        raise UserError(f"looks: there are {min(sizes)} seeds, and looks are planned at {', '.join(map(str, looks))}")
    return looks


def _values(seeds):
    return np.array([*seeds.values()])


def _summary(seeds):
    x = _values(seeds)
    mean, low, high = mean_interval(x)
    sd = float(x.std(ddof=1)) if len(x) > 1 else None
    return {"n": len(x), "mean": mean, "sd": sd, "low": low, "high": high, "values": seeds}


# -- tests --------------------------------------------------------------------------------------------------------


def _compare(table, a, b, paired, notes):
    """One comparison by the design of the table, with a note on seeds that could not be used."""
    x, y = table.arms[a], table.arms[b]
    shared = [seed for seed in x if seed in y]
    if paired and len(shared) < 2:
        raise UserError(f"paired: {a} and {b} share {len(shared)} seeds; leave --paired out, or name the seeds")
    unknown = table.seeds == "none" or (table.seeds == "places" and (len(x) != len(y) or _sorted_apart(x, y)))
    few = len(shared) < min(3, len(x), len(y))
    if paired is False or (paired is None and unknown) or few:
        if few and paired is None and not unknown:
            notes.append(f"{a}, {b}: {len(shared)} seeds are shared, too few to pair: not paired")
        return compare_loss(_values(x), _values(y), paired=False)
    if alone := [f"{s} of {name}" for name, seeds in ((a, x), (b, y)) for s in seeds if s not in shared]:
        notes.append(f"{a}, {b}: seed {', '.join(alone)} is in one alone: left out of the pairs")
    return compare_loss(np.array([x[s] for s in shared]), np.array([y[s] for s in shared]))


def _sorted(seeds):
    steps = np.diff(_values(seeds))
    return len(steps) > 1 and bool((steps >= 0).all() or (steps <= 0).all())


def _sorted_apart(x, y):
    """Are lists of four or more both in order? By chance once in 144 cases at most; their places are no seeds, then."""
    return len(x) > 3 and _sorted(x) and _sorted(y)


def _on_places(arms, pairs, tests, notes, warnings):
    """What is said where the places in lists stand for seeds: that they do, or why they don't."""
    if any("paired" in c.kind for c in tests):
        said = "paired by place, as if the first of each list shared a seed and so on; if not: --unpaired"
        if len(tests) == 1:
            welch = compare_loss(*(_values(arms[name]) for name in pairs[0]), paired=False)
            said += f" (p = {said_p(welch.p)} instead of {said_p(tests[0].p)})"
        notes.append(said)
    ordered = [name for name, seeds in arms.items() if _sorted(seeds)]
    lists = f"sorted lists ({', '.join(ordered)})"
    if any(_sorted_apart(arms[a], arms[b]) for a, b in pairs):
        notes.append(f"{lists}: their places are no seeds, so not paired (--paired if they are)")
    elif len(ordered) > 1:
        warnings.append(f"{lists}: sorted apart, such pairs err in 18 % of cases")


def _adjusted(tests, settings):
    """Lists of p for a difference, for equality and for not being worse: over all looks, and Holm over the family."""
    looks, margin, better = settings["looks"], settings["margin"], settings["better"]
    sign = {"higher": 1, "lower": -1, None: 0}[better]

    def beyond(c, distance):
        return max(float(scipy.special.stdtr(c.df, -distance / c.se)), np.finfo(float).tiny)

    def family(p_of, asked=True):
        own = [p_of(c) if asked and c.p is not None else None for c in tests]
        at_any_look = [p and min(1.0, p * len(looks or [1])) for p in own]
        return [p if p is None else q for p, q in zip(own, holm(at_any_look), strict=True)]

    differs = family(lambda c: beyond(c, sign * c.estimate) if settings["one_sided"] else c.p)
    equal = family(lambda c: equivalence_p(c, margin), margin is not None)
    return differs, equal, family(lambda c: beyond(c, sign * c.estimate + margin), margin is not None and sign != 0)


def _ruling(ruling, settings):
    c, alpha, margin, looks = ruling.comparison, settings["alpha"], settings["margin"], settings["looks"]
    if c.p is not None:
        kind = "open"
        if ruling.p < alpha:
            kind = "lower" if c.estimate < 0 else "higher"
        elif ruling.p_equal is not None and ruling.p_equal < alpha:
            kind = "equal"
        level = alpha / len(looks or [1]) / (1 if settings["one_sided"] else 2)
        reach = float(scipy.special.stdtrit(c.df, 1 - level)) * c.se
        low, high = c.estimate - reach, c.estimate + reach
        if settings["one_sided"]:
            low, high = (None, high) if settings["better"] == "lower" else (low, None)
        delta = margin or abs(c.estimate)
        needed = plan_trials(c, delta, alpha=alpha) if delta else (None, None, None)
        detectable = smallest_detectable(c.se, c.df, alpha=alpha)
        ruling = replace(ruling, kind=kind, low=low, high=high, detectable=detectable, seeds_needed=needed)
    return replace(ruling, text=_text(ruling, settings))


# -- suspicion ----------------------------------------------------------------------------------------------------


def _unequal(values):
    if len({len(x) for x in values.values()}) == 1:
        return []
    sizes = ", ".join(f"{name} {len(x)}" for name, x in values.items())
    return [f"unequal numbers of seeds ({sizes}): if one stopped, or went on, for what it showed, p is too small"]


def _too_good(values):
    """Arms whose seeds agree better than the spread of the other arms lets one expect: F test, Bonferroni over arms."""
    spread = {name: x for name, x in values.items() if len(x) > 1}
    warnings = []
    for name, x in spread.items():
        others = [y for other, y in spread.items() if other != name]
        df = sum(len(y) - 1 for y in others)
        variance = sum(y.var(ddof=1) * (len(y) - 1) for y in others) / df if df else 0
        chance = float(scipy.special.fdtr(len(x) - 1, df, x.var(ddof=1) / variance)) if variance else 1
        if chance * len(spread) < SUSPICIOUS:
            widest = max(np.ptp(y) for y in others)
            warnings.append(
                f"{name}: {len(x)} seeds lie within {np.ptp(x):.2g} where others spread {widest:.2g} (chance "
                f"{said_p(chance)}): too good to be believed, unless it does vary less; one seed again, or chosen ones?"
            )
    return warnings


def _repeats(arms):
    """Equal numbers where rounding makes none likely, and rounding too coarse for the spread."""
    x = list(map(_values, arms.values()))
    total = sum(map(len, x))
    spread = math.sqrt(sum(((y - y.mean()) ** 2).sum() for y in x) / max(1, total - len(x)))
    decimals = [np.format_float_positional(v, trim="-").partition(".")[2] for y in x for v in y]
    step = 10.0 ** -max(map(len, decimals))
    if not spread:
        return []
    if step > spread / 2:
        return [f"values are rounded to {step:g}, coarse beside their spread of {spread:.2g}: give more digits"]
    owners = {}
    for name, seeds in arms.items():
        for seed, value in seeds.items():
            owners.setdefault(value, []).append(f"{name} {seed}")
    expected = total * (total - 1) / 2 * step / (2 * math.sqrt(math.pi) * spread)  # pairs of one normal, rounded
    repeated = [(value, names) for value, names in owners.items() if len(names) > 1]
    if not repeated or expected > SUSPICIOUS:
        return []
    value, names = repeated[0]
    more = f" and {len(repeated) - 1} other values do" if len(repeated) > 1 else ""
    return [f"{value!r} stands {len(names)} times ({', '.join(names)}){more}: the same training counted again?"]


# -- words --------------------------------------------------------------------------------------------------------


def _text(ruling, settings):
    """One line: by how much, how sure, from what, and what follows."""
    c, alpha, margin, better = ruling.comparison, settings["alpha"], settings["margin"], settings["better"]
    word = "lower" if c.effect < 0 else "higher"
    a, b = c.n
    seeds = f"{a} seed{'s' if a > 1 else ''}" if a == b else f"{a} and {b} seeds"
    if c.p is None:
        distance = f"{word} by {abs(c.effect):.4g}" if c.effect else "the same mean"
        return f"{ruling.arm} against {ruling.against}: {distance}, {seeds}: no verdict ({c.note})"
    if settings["against"] is None:
        seeds += ", paired" if "paired" in c.kind else ", not paired"
    half = float(scipy.special.stdtrit(c.df, 1 - alpha / 2)) * c.se
    ends = (ruling.low, ruling.high) if c.effect >= 0 else [x if x is None else -x for x in (ruling.high, ruling.low)]
    interval = ", ".join(_number(end, half) for end in ends if end is not None)
    if settings["one_sided"]:
        interval = f"at {'least' if ends[1] is None else 'most'} {interval}"
    sure = f"p = {said_p(ruling.p)}" + (" one-sided" if settings["one_sided"] else "")
    sure += "" if alpha == 0.05 else f" at level {alpha:g}"
    sure = f"[{interval}], {sure}, {seeds}" + (", at any of the looks" if settings["looks"] else "")
    said = f"{ruling.arm} is {word} than {ruling.against} by {_number(abs(c.effect), half)} {sure}: "
    size = None if margin is None else f"{margin:.4g}"
    if ruling.kind == "equal":
        return said + f"practically equal (within {size})"
    if ruling.kind != "open":
        said += "shown" + ("" if better is None else " (better)" if word == better else " (worse)")
        if margin is None:
            return said
        nearest = min(abs(end) for end in ends if end is not None)
        beyond = "more than" if nearest > margin else "perhaps less than"
        return said + f"; {'less than' if ruling.p_equal < alpha else beyond} the margin of {size}"
    said += "not shown"
    if ruling.p_not_worse is not None and ruling.p_not_worse < alpha:
        said += f", but not worse by {size} or more"
    said += f"; a difference of {ruling.detectable:.2g} would be seen 4 times in 5"
    n, *span = ruling.seeds_needed
    goal = f"to see {size}" if size else "if it is as large as it looks"
    each = "" if settings["against"] is not None else " an arm"
    return said + (f"; about {n} seeds{each} ({' to '.join(str(m or 'many') for m in span)}) {goal}" if n else "")


def said_p(p):
    """p in words of two digits."""
    return "none" if p is None else f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def _number(value, scale):
    """With two significant digits of `scale`, a half-width or sd."""
    digits = 6 if not scale else min(12, max(0, 1 - math.floor(math.log10(scale))))
    return f"{value:.{digits}f}"
