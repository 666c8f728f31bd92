"""Do the tests err as often as they say, and see what they should? By simulation, through the public functions.

    python bench/calibration.py --replications 20000 --json calibration.json
    python bench/calibration.py --tables moderated sequential

Simulated studies follow PD_ij = mu + g_i + g_j + s_ij (Hoeffding 1948) with rho = var(g) / (2 var(g) + var(s)), the
correlation of two PDs that share a trial. All rates are in percent, at alpha = 0.05; `±` is two binomial standard
errors; a figure in brackets is the one published with the procedure.

plain: single paired tests. The sd of a PD is 2 % of mu; `pairing` is the correlation of the same trial (its g, and its
s with the other trials) across activations; `naive` is the usual t-test on pairwise PDs, shown for comparison. Ten
pairs and power are published without their rho; they agree with 0.30, which the planning formula assumes too
(k = 1/rho - 2 = 4/3). 0.40 is shown beside it.

All others: five activations, rho = 0.30, g alone paired (0.5), and an sd of ln PD's pseudo-values at three trials of
2 %, times the `spreads` of the five, reference first: with these the published figures agree. They are made for many
studies at once, by formulas of their own; the first studies of every simulation are computed by significance.py too,
and a difference stops the program.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from scipy.special import chdtrc, stdtr
from scipy.stats import f as f_dist
from scipy.stats import f_oneway, zscore
from tabulate import tabulate

import significance as sig
import storage
from analysis.sequential import LOOKS, decide, repeated_p
from bench.claims import claim_rates
from config import Parser
from questions.extrapolate.law import Cell, predict
from questions.studies import pooling as several
from significance import PRIOR_DF, compare_pd, holm, naive_pairs_test

ALPHA = 0.05
SPREAD = 0.02  # standard deviation of a PD over its mean
TRIALS = (3, 5, 8, 12, 20)
NAIVE = {3: 18, 5: 35, 8: 46, 12: 54, 20: 63}
NAIVE_FAMILY = {3: 60, 5: 82, 8: 91, 12: 96, 20: 99}
FALSE_POSITIVE = {
    (0.25, 0.0): {3: 2.4, 5: 3.3, 8: 3.6, 12: 3.9, 20: 4.7},
    (0.40, 0.0): {3: 3.8, 5: 4.4, 8: 4.8, 12: 4.4, 20: 5.2},
    (0.40, 0.5): {3: 3.7, 5: 4.4, 8: 4.7, 12: 4.8, 20: 4.9},
}
FAMILY = {3: 3.0, 5: 3.2, 8: 3.4, 12: 3.7, 20: 3.6}
POWER = {(3, 5): 52, (3, 10): 95, (3, 20): 100, (5, 5): 99, (5, 10): 100, (5, 20): 100}
FEW = (3, 5, 8)


def studies(rng, replications, activations, n, rho, pairing, ratio=1.0):
    """Yields the PD matrices (activations, n, n) of one study after another; the first has `ratio` times the PD."""
    sd_g, sd_s = SPREAD * math.sqrt(rho), SPREAD * math.sqrt(1 - 2 * rho)
    scale = np.ones((activations, 1, 1))
    scale[0] = ratio
    shared, own = math.sqrt(pairing), math.sqrt(1 - pairing)
    for _ in range(replications):
        g = shared * rng.standard_normal((1, n)) + own * rng.standard_normal((activations, n))
        s = np.triu(shared * rng.standard_normal((1, n, n)) + own * rng.standard_normal((activations, n, n)), 1)
        yield scale * (1 + sd_g * (g[:, :, None] + g[:, None, :]) + sd_s * (s + s.transpose(0, 2, 1)))


def row(table, setting, n, hits, replications, target, naive=None, naive_target=None):
    rate = hits / replications
    percent = [100 * rate, 200 * math.sqrt(rate * (1 - rate) / replications)]
    naive = None if naive is None else 100 * naive / replications
    keys = ("table", "setting", "n", "rate", "plus_minus", "target", "naive", "naive_target")
    return dict(zip(keys, (table, setting, n, *percent, target, naive, naive_target), strict=True))


def false_positives(rng, replications):
    """Rate of p < 0.05 of the paired PD test where nothing differs, and coverage of the ratio's 95 % interval."""
    rates, coverage = [], []
    for (rho, pairing), targets in FALSE_POSITIVE.items():
        setting = f"rho {rho:.2f}" + (f", pairing {pairing:g}" if pairing else "")
        for n in TRIALS:
            hits = covered = naive = 0
            for a, b in studies(rng, replications, 2, n, rho, pairing):
                c = compare_pd(a, b)
                hits += c.p < ALPHA
                covered += c.low <= 1 <= c.high
                naive += naive_pairs_test(a, b).p < ALPHA
            published = NAIVE[n] if (rho, pairing) == (0.40, 0.0) else None
            rates.append(row("false positives", setting, n, hits, replications, targets[n], naive, published))
            if n in FEW:
                coverage.append(row("coverage of 95 %", setting, n, covered, replications, "93-98"))
    return rates, coverage


def family_wise(rng, replications):
    """Rate of at least one finding over the ten pairs of five activations that do not differ, after Holm."""
    rows = []
    for rho, n in [(0.30, n) for n in TRIALS] + [(0.40, n) for n in FEW]:
        hits = naive = 0
        for pds in studies(rng, replications, 5, n, rho, 0.0):
            pairs = list(itertools.combinations(pds, 2))
            hits += min(holm([compare_pd(a, b).p for a, b in pairs])) < ALPHA
            naive += any(naive_pairs_test(a, b).p < ALPHA for a, b in pairs)
        targets = (FAMILY[n], NAIVE_FAMILY[n]) if rho == 0.30 else ("<= 5.5", None)
        rows.append(row("any of ten", f"rho {rho:.2f}, Holm", n, hits, replications, targets[0], naive, targets[1]))
    return rows


def power_and_coverage(rng, replications):
    """Rate of p < 0.05 where the PD is 5, 10 or 20 % lower, and coverage of the true ratio."""
    rates, coverage = [], []
    for rho, n, percent in itertools.product((0.30, 0.40), (3, 5), (5, 10, 20)):
        hits = covered = 0
        ratio = 1 - percent / 100
        for a, b in studies(rng, replications, 2, n, rho, 0.75, ratio):
            c = compare_pd(a, b)
            hits += c.p < ALPHA
            covered += c.low <= ratio <= c.high
        setting = f"{percent} % less PD, rho {rho:.2f}, pairing 0.75"
        target = POWER[n, percent] if rho == 0.30 else None
        rates.append(row("power", setting, n, hits, replications, target))
        coverage.append(row("coverage of 95 %", setting, n, covered, replications, "93-98"))
    return rates, coverage


# ---------------------------------------------------------------- many studies at once

TRUE_FIVE = math.log(0.95)  # 5 % less PD
SPREADS = {
    "equal": (1, 1, 1, 1, 1),
    "reference 2x": (2, 1, 1, 1, 1),
    "reference 3x": (3, 1, 1, 1, 1),
    "one other 3x": (1, 3, 1, 1, 1),
    "mixed": (1, 0.5, 0.5, 2, 2),
}
SD_PD = SPREAD / math.sqrt(4 * 0.3 + 4 * 0.4)  # of a PD, where that of three trials' pseudo-values is SPREAD


def pd_chunks(rng, replications, spreads, n, size=1.0, rho=0.30, pairing=0.5):
    """Yields arrays (studies, activations, n, n) of PDs with mean 1, zero on the diagonal."""
    spreads = np.array(spreads, dtype=float)
    sd_g, sd_s = size * SD_PD * math.sqrt(rho), size * SD_PD * math.sqrt(1 - 2 * rho)
    upper, diagonal = np.triu_indices(n, 1), np.arange(n)
    chunk = max(1, 2_000_000 // (len(spreads) * n * n))
    for start in range(0, replications, chunk):
        r = min(chunk, replications - start)
        g = math.sqrt(pairing) * rng.standard_normal((r, 1, n))
        g = g + math.sqrt(1 - pairing) * rng.standard_normal((r, len(spreads), n))
        pd = sd_g * (g[..., :, None] + g[..., None, :])
        s = np.zeros_like(pd)
        s[..., upper[0], upper[1]] = sd_s * rng.standard_normal((r, len(spreads), len(upper[0])))
        pd = 1 + spreads[:, None, None] * (pd + s + s.swapaxes(-1, -2))
        pd[..., diagonal, diagonal] = 0
        yield pd


def log_pseudo(row_sums):
    """What sig.log_pseudo_values says, for the row sums (..., n) of PD matrices with zero diagonal: (..., n)."""
    n = row_sums.shape[-1]
    rows = row_sums / (n - 1)
    mean = rows.mean(axis=-1, keepdims=True)
    return np.log(mean) + 2 * (n - 1) / (n - 2) * (rows - mean) / mean


def log_pds(rng, replications, spreads, looks, **model):
    """{n: (replications, activations, n)} log pseudo-values of the first n trials, for each n of `looks`."""
    found = {n: [] for n in looks}
    for pd in pd_chunks(rng, replications, spreads, max(looks), **model):
        sums = pd.cumsum(axis=-1)
        for n in looks:
            found[n].append(log_pseudo(sums[..., :n, n - 1]))
    agree(found[looks[0]][-1][-1, 0], sig.log_pseudo_values(pd[-1, 0, : looks[0], : looks[0]]))
    return {n: np.concatenate(parts) for n, parts in found.items()}


def agree(ours, public):
    if not np.allclose(ours, public, rtol=1e-6, atol=1e-12):
        raise SystemExit(f"the simulation and significance.py differ: {ours} and {public}")


def holm_rows(p):
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(steps, axis=-1)), -1)
    return adjusted


def two_sided(t, df):
    return 2 * stdtr(df, -np.abs(t))


class Family:
    """The comparisons d of one family, (studies, comparisons, n) paired differences, moderated by their own mean
    variance or by `variance`; `plain` are the p-values without. A family of fewer than three is not moderated."""

    def __init__(self, d, variance=None):
        n = d.shape[-1]
        self.mean, own, df = d.mean(axis=-1), d.var(axis=-1, ddof=1), n - 1
        self.variance = own.mean(axis=-1) if variance is None else variance
        self.plain_se, self.plain_df = np.sqrt(own / n), df
        self.df = df + PRIOR_DF
        self.se = np.sqrt((PRIOR_DF * self.variance[:, None] + df * own) / self.df / n)
        self.t = self.mean / self.se
        self.p = two_sided(self.t, self.df)
        self.plain = two_sided(self.mean / self.plain_se, df)
        if variance is None and d.shape[1] > 2:
            public = [sig.compare_loss(x, np.zeros(n)) for x in d[0]]
            public = [sig.moderate(c, sig.family_variance(public)) for c in public]
            agree(self.p[0], [c.p for c in public])
            agree(self.plain[0], [c.p_plain for c in public])
            agree(holm_rows(self.p[:1])[0], holm(self.p[0]))
            agree(self.equal()[0], [sig.equivalence_p(c, -TRUE_FIVE) for c in public])

    def equal(self, shift=0.0, plain=False):
        """p of the two one-sided tests at a margin of 5 %, the true differences moved by `shift`."""
        se, df = (self.plain_se, self.plain_df) if plain else (self.se, self.df)
        return stdtr(df, (np.abs(self.mean + shift) + TRUE_FIVE) / se)

    def moved(self, shift):
        """p-values if the true differences were `shift`: (plain, moderated)."""
        t = (self.mean + shift) / self.plain_se, (self.mean + shift) / self.se
        return two_sided(t[0], self.plain_df), two_sided(t[1], self.df)


def against_reference(logs):
    """(family, contrast) of paired comparisons with the first activation."""
    d = logs[:, 1:] - logs[:, :1]
    family = Family(d)
    return family, Family(d.mean(axis=1, keepdims=True), family.variance)


def percent(hits):
    return round(100 * float(np.mean(hits)), 1)


def any_of(p):
    return percent((p < ALPHA).any(axis=-1))


# ---------------------------------------------------------------- moderated tests

MODERATED = {
    "equal": ((0.4, 1.3, 2.3, 3.2), (99.1, 97.6, 96.8, 95.8), (0.6, 1.8, 2.4, 3.6)),
    "reference 2x": ((1.1, 2.2, 2.6, 2.6), (97.7, 96.5, 95.9, 95.6), (2.6, 3.5, 3.9, 4.2)),
    "reference 3x": ((2.1, 2.4, 2.2, 2.5), (96.2, 95.7, 95.7, 95.2), (4.1, 4.3, 4.4, 4.8)),
    "one other 3x": ((1.2, 1.8, 1.9, 2.8), (95.1, 94.2, 94.5, 94.9), (0.4, 0.9, 1.6, 3.2)),
}
FOUND = {  # a true 5 % less PD, plain and moderated
    ("equal", 3): (18, 55), ("reference 2x", 3): (8, 24), ("mixed", 3): (17, 31),
    ("equal", 5): (99, 100), ("reference 2x", 5): (62, 75), ("mixed", 5): (88, 96),
}  # fmt: skip
EQUAL = {"equal": (65, 87), "reference 2x": (27, 42), "mixed": (54, 68)}


def moderated_errors(rng, replications):
    """Four comparisons with the reference where nothing differs: any found after Holm, coverage, the contrast."""
    for spreads, targets in MODERATED.items():
        for index, n in enumerate((3, 5, 8, 20)):
            family, contrast = against_reference(log_pds(rng, replications, SPREADS[spreads], (n,))[n])
            covered = (family.p >= ALPHA).mean(axis=0)
            wide = 100 * (covered.min() if spreads == "one other 3x" else covered.mean())
            measured = any_of(holm_rows(family.p)), round(wide, 1), any_of(contrast.p)
            names = "any of four", "coverage", "contrast"
            published = {k: f"{m:.1f} ({t[index]})" for k, m, t in zip(names, measured, targets, strict=True)}
            yield {"spreads": spreads, "n": n} | published | {"plain: any": any_of(holm_rows(family.plain))}


def moderated_power(rng, replications):
    """All four have 5 % less PD: how many are found, after Holm; nothing differs: how many are practically equal.
    Holm: by the family's rule, which the published figures don't have."""
    for (spreads, n), (plain, moderated) in FOUND.items():
        family, _ = against_reference(log_pds(rng, replications, SPREADS[spreads], (n,))[n])
        found = [percent(holm_rows(p) < ALPHA) for p in family.moved(TRUE_FIVE)]
        equal = [percent(family.equal(plain=plain) < ALPHA) for plain in (True, False)]
        published = EQUAL[spreads] if n == 3 else ("-", "-")
        yield {
            "spreads": spreads,
            "n": n,
            "found: plain": f"{found[0]} ({plain})",
            "moderated": f"{found[1]} ({moderated})",
            "equal: plain": f"{equal[0]} ({published[0]})",
            "moderated ": f"{equal[1]} ({published[1]})",
            "Holm": percent(holm_rows(family.equal()) < ALPHA),
        }


def number_of_comparisons(rng, replications):
    """Why one or two comparisons are not moderated: the same formulas on 1 to 4; and all ten pairs, moderated by their
    own mean variance or by that of the four with the reference, which the procedure uses for every pair."""
    for spreads, n in itertools.product(("equal", "reference 3x", "one other 3x", "mixed"), (3, 5)):
        logs = log_pds(rng, replications, SPREADS[spreads], (n,))[n]
        d = logs[:, 1:] - logs[:, :1]
        few = {f"{k} moderated": any_of(holm_rows(Family(d[:, :k]).p)) for k in (1, 2, 3, 4)}
        pairs = np.stack([logs[:, j] - logs[:, i] for i, j in itertools.combinations(range(5), 2)], axis=1)
        ten = [any_of(holm_rows(Family(pairs, v).p)) for v in (None, Family(d).variance)]
        yield {"spreads": spreads, "n": n} | few | {"any of ten, own": ten[0], "ten, of the four": ten[1]}


def unpaired(rng, replications):
    """Not paired: Welch; each comparison moderated (the procedure); or the groups' variances moderated."""

    def welch(parts, dfs):
        return parts.sum(axis=-1), parts.sum(axis=-1) ** 2 / (parts**2 / dfs).sum(axis=-1)

    for spreads, n in itertools.product(SPREADS, (3, 5, 20)):
        logs = log_pds(rng, replications, SPREADS[spreads], (n,), pairing=0.0)[n]
        mean, own = logs.mean(axis=-1), logs.var(axis=-1, ddof=1)
        difference = mean[:, 1:] - mean[:, :1]
        weights = np.array([-1] + [0.25] * 4)
        groups = (PRIOR_DF * own.mean(axis=-1, keepdims=True) + (n - 1) * own) / (PRIOR_DF + n - 1)
        shown = {}
        prior = None
        for rule, v, df in (("Welch", own, n - 1), ("moderated", own, n - 1), ("groups", groups, PRIOR_DF + n - 1)):
            four = welch(np.stack([v[:, 1:], np.broadcast_to(v[:, :1], difference.shape)], axis=-1), df)
            one = welch(v * weights**2, df)
            if rule == "moderated":
                prior = four[0].mean(axis=-1)
                four = (PRIOR_DF * prior[:, None] + four[1] * four[0]) / (PRIOR_DF + four[1]), PRIOR_DF + four[1]
                one = (PRIOR_DF * prior + one[1] * one[0]) / (PRIOR_DF + one[1]), PRIOR_DF + one[1]
            p, p_contrast = (
                two_sided(m / np.sqrt(u / n), d) for m, (u, d) in ((difference, four), (mean @ weights, one))
            )
            found = two_sided((difference + TRUE_FIVE) / np.sqrt(four[0] / n), four[1])
            if rule == "moderated":
                public = [sig.compare_loss(x, logs[0, 0], paired=False) for x in logs[0, 1:]]
                agree(p[0], [sig.moderate(c, sig.family_variance(public)).p for c in public])
            shown[rule] = any_of(holm_rows(p)), percent(p_contrast < ALPHA), percent(holm_rows(found) < ALPHA)
        columns = ("any of four", "contrast", "found 5 %")
        yield {"spreads": spreads, "n": n} | {
            f"{column}: {rule}": shown[rule][i] for i, column in enumerate(columns) for rule in shown
        }


def equality(rng, replications):
    """All four truly differ by the margin, 5 %: any of them called practically equal, each at 5 % or after Holm."""
    for spreads, n in itertools.product(SPREADS, (3, 5, 8, 20)):
        family, _ = against_reference(log_pds(rng, replications, SPREADS[spreads], (n,))[n])
        plain, own = family.equal(TRUE_FIVE, plain=True), family.equal(TRUE_FIVE)
        rules = {"plain, each": plain, "moderated, each": own, "moderated, Holm": holm_rows(own)}
        yield {"spreads": spreads, "n": n} | {rule: any_of(p) for rule, p in rules.items()}


def planning(rng, replications):
    """Power of one moderated comparison by the planning formula, from the true spread, and by simulation."""
    for spreads, n, less in itertools.product(("equal", "reference 2x"), (3, 5, 8), (0.02, 0.05)):
        logs = log_pds(rng, replications, SPREADS[spreads], (n,))[n]
        deviations = rng.standard_normal(logs.shape) * np.array(SPREADS[spreads])[:, None] * SPREAD
        row = {"spreads": spreads, "n": n, "true difference": f"{100 * less:g} %"}
        for what, numbers in (("PD", logs), ("loss", deviations)):
            d = numbers[:, 1:] - numbers[:, :1]
            sd = math.sqrt(d.var(axis=-1, ddof=1).mean())
            formula = sig.power(math.log1p(-less), sd / math.sqrt(n), n - 1 + PRIOR_DF)
            plain = sig.power(math.log1p(-less), sd / math.sqrt(n), n - 1)
            p_plain, p = Family(d).moved(math.log1p(-less))
            row |= {
                f"{what}: formula": round(100 * formula, 1),
                f"{what}: simulated": percent(p < ALPHA),
                f"{what}, plain: formula": round(100 * plain, 1),
                f"{what}, plain: simulated": percent(p_plain < ALPHA),
            }
        yield row


# ---------------------------------------------------------------- looks


def look_at(families, shift, repeated=repeated_p):
    """(studies, comparisons): -1 lower, 1 higher, 2 equal, 0 open; and the trials of each study at the end."""
    some = next(iter(families.values()))
    state, ends = np.zeros(some.mean.shape, int), np.full(len(some.mean), max(families))
    going = np.ones(len(ends), bool)
    for n, family in families.items():
        p = np.minimum(1, repeated(family.moved(shift)[1], n))
        p_equal = np.minimum(1, repeated(np.minimum(1, 2 * family.equal(shift)), n) / 2)
        p = holm_rows(np.where(np.abs(state) == 1, 0, p))
        p_equal = holm_rows(np.where(state == 2, 0, p_equal))
        new = np.where(p < ALPHA, np.sign(family.mean + shift).astype(int), np.where(p_equal < ALPHA, 2, 0))
        state = np.where(going[:, None] & (state == 0), new, state)
        ends[going & (state != 0).all(axis=1)] = n
        going &= (state == 0).any(axis=1)
    return state, ends


def looks_agree(logs, state):
    """The first studies, by analysis.sequential."""
    for study in range(3):
        decided = None
        for n in LOOKS:
            own = [sig.compare_loss(x, logs[n][study, 0]) for x in logs[n][study, 1:]]
            own = {i: sig.moderate(c, sig.family_variance(own)) for i, c in enumerate(own)}
            decided = decide(own, n, decided, margin=-TRUE_FIVE)
            if all(d.kind != "open" for d in decided.values()):
                break
        kinds = {"lower": -1, "higher": 1, "equal": 2, "open": 0}
        agree([kinds[d.kind] for d in decided.values()], state[study])


def looks(rng, replications):
    """Looks at 3, 5, 8, 12, 20 trials until all four are decided. Errors: any claim of a difference where there is
    none, or in the wrong direction; any claim of equality where the true difference is the margin. Right: decided, and
    rightly. Fixed n: the smallest number of trials, planned from the start, with as many right (to 0.1 point)."""

    def fixed_shares(share, n):
        return np.minimum(1, share * len(LOOKS))

    sizes = [
        ("equal", 1),
        ("equal", 2),
        ("equal", 6),
        ("reference 2x", 1),
        ("one other 3x", 1),
        ("mixed", 1),
        ("reference 3x", 2),
    ]
    for spreads, size in sizes:
        logs = log_pds(rng, replications, SPREADS[spreads], range(3, 21), size=size)
        families = {n: Family(x[:, 1:] - x[:, :1]) for n, x in logs.items()}
        looked = {n: families[n] for n in LOOKS}
        for less in (0, 2, 5, 10):
            shift = math.log1p(-less / 100)
            state, ends = look_at(looked, shift)
            if less == 0:
                looks_agree(logs, state)
            right = np.isin(state, {0: (2,), 2: (-1, 2)}.get(less, (-1,)))
            enough = "over 20"
            for n, family in families.items():
                found = (holm_rows(family.moved(shift)[1]) < ALPHA) & (family.mean + shift < 0)
                equal = holm_rows(family.equal(shift)) < ALPHA
                if {0: equal, 2: found | equal}.get(less, found).mean() >= right.mean() - 0.001:
                    enough = n
                    break
            yield {
                "spreads": spreads,
                "sd %": 2 * size,
                "true %": less,
                "wrong direction": percent(((state == 1) | ((state == -1) & (less == 0))).any(axis=1)),
                "wrongly equal": percent((state == 2).any(axis=1)) if less >= 5 else "",
                "lower": percent(state == -1),
                "equal": percent(state == 2),
                "open": percent(state == 0),
                "mean trials": round(float(ends.mean()), 2),
                "5 %/looks each": round(float(look_at(looked, shift, fixed_shares)[1].mean()), 2),
                "fixed n": enough,
            }


# ---------------------------------------------------------------- several studies, whole reports


def pooling(rng, replications):
    """k studies of three trials each and nothing to find: how often the pooled interval excludes it. Same weights: as
    one study evaluated k times, with a tenth of the spread between evaluations. Overlapping: seeds [a b c], [b c d],
    ... Same seeds: other weights, effects correlated .3. Counted once: overlapping studies that separate_studies leaves
    in, alone if it is one. One study: all k + 2 distinct trials. Found: where the true PD is 5 % lower."""
    for k in (2, 3, 6):
        logs = pooled_logs(rng, replications, k)
        kept = [
            i for i, other in several.separate_studies([range(i, i + 3) for i in range(k)]).items() if other is None
        ]
        effects = {name: logs[name].mean(axis=-1) @ [-1, 1] for name in ("independent", "overlapping")}
        noise = 0.1 * effects["independent"].std() * rng.standard_normal(effects["independent"].shape)
        effects["same weights"] = effects["independent"][:, :1] + noise
        effects["same seeds"] = math.sqrt(0.3) * effects["overlapping"][:, :1] + math.sqrt(0.7) * effects["independent"]
        rates = {name: pooled(x) for name, x in effects.items()}
        once = effects["overlapping"][:, kept], logs["overlapping"][:, kept[0]]
        rates["counted once"], found_once = [
            single(once[1], shift) if len(kept) == 1 else pooled(once[0], shift) for shift in (0.0, TRUE_FIVE)
        ]
        rates["one study"], found_one = [single(logs["distinct"], shift) for shift in (0.0, TRUE_FIVE)]
        found = pooled(effects["independent"], TRUE_FIVE), found_once, found_one
        names = ("found: independent", "found: counted once", "found: one study")
        yield {"k": k} | rates | {"studies left": len(kept)} | dict(zip(names, found, strict=True))


PUBLISHED = {  # sizes, and standard deviations of the contrast of ln PD, of the eight studies of findings/
    "final": ((16, 5, 5, 5, 5, 8, 10, 8), (0.0145, 0.0195, 0.0134, 0.0189, 0.0154, 0.0422, 0.0167, 0.0544)),
    "equal loss": ((16, 5, 5, 5, 5, 8, 10, 8), (0.0142, 0.0290, 0.0112, 0.0260, 0.0195, 0.0392, 0.0120, 0.0595)),
}
DESIGNS = PUBLISHED | {
    f"{k} of {n}, {spread}": ((n,) * k, (1.0,) * (k - 1) + ({"equal": 1.0, "one 4x": 4.0}[spread],))
    for k, n, spread in itertools.product((2, 3, 8), (3, 5, 8), ("equal", "one 4x"))
}


def heterogeneity(rng, replications):
    """Studies with one and the same effect: how often a test at 5 % says that they differ (Cochran's Q with each
    study's own variance, with the pooled one, Welch's analysis of variance, several.heterogeneity_p on a tenth of the
    replications), and how often the interval of several.random_effects misses the effect, by own errors and by common
    ones."""
    for name, (sizes, spreads) in DESIGNS.items():
        n, df, k = np.array(sizes), np.array(sizes) - 1.0, len(sizes)
        true = np.array(spreads) / np.sqrt(n)
        effects = true * rng.standard_normal((replications, k))
        ses = true * np.sqrt(rng.chisquare(df, (replications, k)) / df)
        common = np.sqrt((df * n * ses**2).sum(axis=1, keepdims=True) / df.sum() / n)
        agree(common[0], several.common_errors(ses[0], n, df))
        few = max(20, replications // 10)
        p = {
            "Cochran": chdtrc(k - 1, cochran(effects, ses)),
            "pooled variance": f_dist.sf(cochran(effects, common) / (k - 1), k - 1, df.sum()),
            "Welch": welch(effects, ses, df),
            "bootstrap": np.array([several.heterogeneity_p(effects[i], ses[i], df, 2000) for i in range(few)]),
        }
        samples = [
            effects[0, i] + ses[0, i] * math.sqrt(m) * zscore(rng.standard_normal(m), ddof=1)
            for i, m in enumerate(sizes)
        ]
        agree(welch(effects[:1], ses[:1], df)[0], f_oneway(*samples, equal_var=False).pvalue)
        missed = {}
        for errors, se in (("own", ses), ("common", common)):
            found = [several.random_effects(effects[i], se[i]).p < ALPHA for i in range(few)]
            missed[f"interval, {errors} errors"] = percent(found)
        yield {"studies": name} | {test: percent(x < ALPHA) for test, x in p.items()} | missed


def cochran(effects, ses):
    weights = 1 / ses**2
    mean = (weights * effects).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    return (weights * (effects - mean) ** 2).sum(axis=1)


def welch(effects, ses, df):
    """p of Welch's analysis of variance (1951, Biometrika 38:330-336)."""
    k, weights = len(df), 1 / ses**2
    rest = ((1 - weights / weights.sum(axis=1, keepdims=True)) ** 2 / df).sum(axis=1)
    statistic = cochran(effects, ses) / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * rest)
    return f_dist.sf(statistic, k - 1, (k**2 - 1) / 3 / rest)


def pooled_logs(rng, replications, k):
    """Of two activations, k studies of three trials with separate and with overlapping seeds: (replications, k, 2, 3),
    and all distinct trials of the latter together: (replications, 2, k + 2)."""
    parts = {"independent": [], "overlapping": [], "distinct": []}
    for pd in pd_chunks(rng, replications, (1, 1), 4 * k + 2):
        starts = {"independent": range(0, 3 * k, 3), "overlapping": range(3 * k, 4 * k)}
        for name, every in starts.items():
            parts[name].append(
                np.stack([log_pseudo(pd[..., i : i + 3, i : i + 3].sum(axis=-1)) for i in every], axis=1)
            )
        parts["distinct"].append(log_pseudo(pd[..., 3 * k :, 3 * k :].sum(axis=-1)))
    return {name: np.concatenate(x) for name, x in parts.items()}


def pooled(effects, shift=0.0):
    """Rate of p < 0.05 of several.random_effects; with one standard error for all studies it is a t-test on effects."""
    k = effects.shape[1]
    se = effects.std(axis=1, ddof=1) / math.sqrt(k)
    agree(se[0], several.random_effects(effects[0], np.full(k, 0.01)).se)
    return any_of(two_sided((effects.mean(axis=1) + shift) / se, k - 1)[:, None])


def single(logs, shift=0.0):
    return any_of(Family(logs[:, 1:] - logs[:, :1], np.zeros(len(logs))).moved(shift)[0])


REPORTS = {name: (spreads, 0.5) for name, spreads in SPREADS.items()} | {  # spreads, pairing
    "real": ((0.9, 0.8, 1.3, 1.1, 1.0), 0.1),  # sd of 1.6 to 2.6 %, as on the default corpus
    "reference 0.2x": ((0.2, 1, 1, 1, 1), 0.0),  # the comparisons hardly correlate: the worst found
}


def whole_reports(rng, replications):
    """Any directional claim where nothing differs: PD and loss against the reference, the smooth contrast, both at
    equal loss (correlation .7 with the final PD), and all other pairs. Before: each family at 5 %, not moderated.
    Gated: by sig.gatekeep, PD and loss apart. Found: comparisons and contrast, where all four have 5 % less PD; one:
    the first comparison, where it alone has."""
    for (spreads, (factors, pairing)), n in itertools.product(REPORTS.items(), (3, 5, 8, 20)):
        final, other = (log_pds(rng, replications, factors, (n,), pairing=pairing)[n] for _ in range(2))
        matched = 1.3 * (0.7 * final + math.sqrt(1 - 0.7**2) * other)
        own = np.array(factors)[:, None] * SPREAD * rng.standard_normal(final.shape)
        loss = -0.3 * final + math.sqrt(1 - 0.3**2) * own
        (four, one, ten), (four_m, one_m, _), (four_l, _, ten_l) = map(report_families, (final, matched, loss))
        plain = [*(holm_rows(f.plain) for f in (four, four_m, ten)), one.plain, one_m.plain]
        gated, loss = gate(four.p, one.p, four_m.p, one_m.p, ten.p), gate(four_l.p, ten_l.p)
        moved = gate(four.moved(TRUE_FIVE)[1], one.moved(TRUE_FIVE)[1])
        alone = holm_rows(four.moved(np.array([TRUE_FIVE, 0, 0, 0]))[1])
        everything = [*plain, *(holm_rows(f.plain) for f in (four_l, ten_l))]
        yield {
            "spreads": spreads,
            "n": n,
            "before: any": any_of(np.concatenate(everything, axis=1)),
            "before: PD": any_of(np.concatenate(plain, axis=1)),
            "gated: any": any_of(np.concatenate([*gated, *loss], axis=1)),
            "gated: PD": any_of(np.concatenate(gated, axis=1)),
            "of these contrast": any_of(gated[1]),
            "found: comparisons": percent(moved[0] < ALPHA),
            "contrast": percent(moved[1] < ALPHA),
            "one": percent(alone[:, 0] < ALPHA),
            "before: comparisons": percent(holm_rows(four.moved(TRUE_FIVE)[0]) < ALPHA),
            "before: contrast": percent(one.moved(TRUE_FIVE)[0] < ALPHA),
        }


def report_families(logs):
    """Comparisons with the reference, their contrast, and the pairs without the reference, one shared variance."""
    four, one = against_reference(logs)
    pairs = [logs[:, j] - logs[:, i] for i, j in itertools.combinations(range(1, logs.shape[1]), 2)]
    return four, one, Family(np.stack(pairs, axis=1), four.variance)


def gate(first, *later):
    """sig.gatekeep for arrays (studies, hypotheses): families of the same size are of the same hypotheses, that of one
    is the planned contrast."""
    adjusted = [holm_rows(first)]
    known = {first.shape[1]: adjusted[0]}
    for family in later:
        size, found = family.shape[1], holm_rows(family)
        if size in known:
            found = np.maximum(found, known[size])
        else:
            gated = np.maximum(found, adjusted[0].min(axis=1, keepdims=True))
            found = np.minimum(gated, 2 * found) if size == 1 else gated
        known[size] = found
        adjusted.append(found)
    names = {size: range(10 * size, 11 * size) for size in known}
    public = sig.gatekeep([dict(zip(names[f.shape[1]], f[0], strict=True)) for f in (first, *later)], planned=10)
    for ours, theirs in zip(adjusted, public, strict=True):
        agree(ours[0], list(theirs.values()))
    return adjusted


def claims(rng, replications):
    """Reports of studies in which nothing differs, with the spreads of real trials, through generate_final_report, with
    remedies that do nothing, beside a clock, and over several studies: how many make a directional claim in any
    section, of any kind, about PD, and by kind. One in twenty of the replications."""
    yield from claim_rates(rng, max(3, replications // 20), pd_chunks)


# ---------------------------------------------------------------- a law of width and steps

LENGTHS = (650, 1300, 2600, 5200)
DESIGNS = {  # {study: (width, lengths)}, and the models asked for
    "3 widths × 4 lengths": ({f"w{w}": (w, LENGTHS) for w in (32, 64, 128)}, (256, 10400)),
    "3 widths": ({f"w{w}": (w, LENGTHS[:1]) for w in (32, 64, 128)}, (256, 650)),
    "4 widths": ({f"w{w}": (w, LENGTHS[:1]) for w in (32, 64, 128, 256)}, (512, 650)),
    "4 lengths": ({"w64": (64, LENGTHS)}, (64, 10400)),
}
LAWS = {  # the mean PD of models of width w after s steps
    "power": lambda w, s: 0.14 * (w / 64) ** -0.1 * (s / 1300) ** -0.05,
    "floor": lambda w, s: 0.1 + 0.04 * (64 / w) * (s / 1300) ** -0.2,
    "kink": lambda w, s: 0.14 * (w / 64) ** -0.1 * (max(w, 128) / 128) ** -0.3 * (max(s, 2600) / 2600) ** -0.15,
    "one diverged": lambda w, s: 0.14 * (2 if w == 128 else 1),
    "slight floor": lambda w, s: 0.12 + 0.02 * (64 / w) ** 0.5 * (s / 1300) ** -0.2,
    "slight kink": lambda w, s: 0.14 * (w / 64) ** -0.1 * (max(w, 64) / 64) ** -0.05 * (max(s, 1300) / 1300) ** -0.03,
}


def _cells(rng, studies, mean_pd, n):
    """A trial's branches go along with one another (ρ = .7); losses fall with the size."""
    cells = []
    for name, (width, lengths) in studies.items():
        trunk = rng.standard_normal(n)
        for steps in lengths:
            own = SD_PD * math.sqrt(0.3) * (0.7 * trunk + math.sqrt(0.51) * rng.standard_normal(n))
            noise = np.triu(SD_PD * math.sqrt(0.4) * rng.standard_normal((n, n)), 1)
            pd = mean_pd(width, steps) * (1 + own[:, None] + own + noise + noise.T)
            np.fill_diagonal(pd, 0)
            losses = 2 - 0.05 * math.log(width * steps) + 0.005 * rng.standard_normal(n)
            cells.append(Cell(name, width, steps, pd, losses))
    return cells


def extrapolation(rng, replications):
    """PD of a larger or longer training predicted from small studies: how often the 95 % interval holds the mean PD
    that is then measured, and how often nothing is predicted, where PD is a power law and where it isn't. One in twenty
    of the replications."""
    for (law, mean_pd), (design, (studies, target)), n in itertools.product(LAWS.items(), DESIGNS.items(), (3, 5, 8)):
        if law != "power" and design == "4 lengths":
            continue
        predicted, inside, widths = 0, 0, []
        for _ in range(max(3, replications // 20)):
            try:
                pd = predict(_cells(rng, studies, mean_pd, n), *target).pd
            except ValueError:
                continue
            (new,) = _cells(rng, {"new": (target[0], target[1:])}, mean_pd, n)
            predicted += 1
            inside += pd.low <= new.pd.sum() / (n * (n - 1)) <= pd.high
            widths.append(50 * math.log(pd.high / pd.low))
        yield {
            "law": law,
            "studies": design,
            "n": n,
            "not predicted %": f"{100 - 100 * predicted / max(3, replications // 20):.1f}",
            "inside %": f"{100 * inside / predicted:.1f}" if predicted else "",
            "± %": f"{np.median(widths):.1f}" if predicted else "",
        }


# ---------------------------------------------------------------- all tables


def plain(rng, replications):
    """Single paired tests, ten pairs, power: see above."""
    streams = rng.spawn(3)  # one a table: none depends on how another is made
    rates, coverage = false_positives(streams[0], replications)
    rows = rates + family_wise(streams[1], replications)
    power, more_coverage = power_and_coverage(streams[2], replications)
    names = {"rate": "rate %", "plus_minus": "±", "naive": "naive %", "naive_target": "naive target"}
    for r in rows + power + coverage + more_coverage:
        shown = {k: f"{v:.1f}" if isinstance(v, float) and k != "target" else v for k, v in r.items()}
        yield {names.get(key, key): value for key, value in shown.items()}


TABLES = {
    "plain": plain,
    "moderated": moderated_errors,
    "power": moderated_power,
    "comparisons": number_of_comparisons,
    "unpaired": unpaired,
    "equality": equality,
    "planning": planning,
    "looks": looks,
    "pooling": pooling,
    "heterogeneity": heterogeneity,
    "report": whole_reports,
    "claims": claims,
    "extrapolation": extrapolation,
}


def main(argv=None):
    parser = Parser(prog="calibration.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replications", type=int, default=20_000, help="simulated studies a figure (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default 0)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="which (default all)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    args = parser.parse_args(argv)
    if args.replications < 3 or args.seed < 0:
        parser.error("--replications must be at least 3 and --seed at least 0")

    record = {"replications": args.replications, "seed": args.seed, "tables": {}}
    for name in args.tables:
        started = time.perf_counter()
        rows = list(TABLES[name](np.random.default_rng(args.seed), args.replications))
        record["tables"][name] = rows
        print(f"{name}: {' '.join((TABLES[name].__doc__ or '').split())}\n")
        print(tabulate(rows, headers="keys", disable_numparse=True))
        print(f"\n{args.replications} replications, seed {args.seed}, {time.perf_counter() - started:.0f} s\n")
    if args.json:
        storage.write_json(args.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
