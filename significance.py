"""The statistics: is one activation more reproducible than another, or better in loss? Pure functions on arrays.

Two prediction differences (PDs) that have a trial in common are correlated, PD_ij = mu + g_i + g_j + s_ij
(Hoeffding 1948), so a t-test on the n(n-1)/2 pairs takes them for more evidence than they are. Here the trial is the
unit: jackknife pseudo-values turn the matrix of PDs into one number per trial, and ordinary t procedures follow.

    log_pseudo_values   (n, n) PDs -> (n,) one number per trial, on the log scale
    compare_pd          ratio of two mean PDs, with interval and test        compare_loss   the same for losses
    smooth_contrast     smooth activations together against ReLU             equivalence_p  practically equal?
    family_variance, moderate   comparisons of one study share their spread   holm, gatekeep many comparisons
    power, smallest_detectable, trials_needed                                 verdict        a plain-language answer
    multi_bootstrap     second opinion, over trials and positions             influence      of one trial
    naive_pairs_test    what the usual, uncalibrated test would have said

A study's tests are made in this order: compare every pair; `family_variance` of the comparisons with the reference;
`moderate` every comparison and the contrast with it; `gatekeep` the p-values, and Holm those of `equivalence_p`, in
their families; `verdict`. With looks at a growing number of trials, analysis.sequential stands before `gatekeep`.

Throughout, a PD matrix is a symmetric (n, n) array of n trials whose diagonal is never read, losses are (n,) in nats
per token, and a difference is always a minus b. A number that is undefined is None, never NaN; NaN or infinite input
is a ValueError. The inference is over trials, given the fixed evaluation positions. bench/calibration.py measures the
error rates.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np
import scipy  # its parts load on first use, which keeps this import light

NO_VARIATION = 1e-12  # a sd this small, relative to the mean, is rounding
PD_SHRINKAGE = 4 / 3  # k in trials_needed: how the sd of PD pseudo-values shrinks with more trials
PD_MARGIN = 0.05  # the PD difference that matters: 5 %
LOSS_MARGIN = 0.01  # the loss difference that matters: 0.01 nats per token, 1 % of perplexity
MAX_TRIALS = 1_000_000
PRIOR_DF = 2  # d0: a comparison's own spread weighs as its degrees of freedom, that of its family as these
# Evaluated in float32 and in float64, the same weights gave mean PDs 3e-8 of them apart (2 to 8 layers); a difference
# that anyone could care about is ten thousand times this.
NOISE_FLOOR = 1e-6


# ---------------------------------------------------------------- one activation


def pseudo_values(pd):
    """Mean PD of n trials and its jackknife pseudo-values.

    pd: (n, n). Returns (mean, psi): the mean over pairs (None when n = 1), in the unit of pd, and psi of shape (n,)
    (None when n < 3), whose mean is that mean and whose sd / sqrt(n) is the delete-one jackknife standard error.
    psi_k = U + 2 (n-1)/(n-2) (r_k - U) with U the mean and r_k the mean PD of trial k.
    ValueError: not square, not symmetric, empty, negative or not finite off the diagonal.
    Source: Tukey 1958; Arvesen 1969; conservative on average, Efron & Stein 1981.
    """
    pd = _pd_matrix(pd)
    n = len(pd)
    if n == 1:
        return None, None
    r = pd.sum(axis=1) / (n - 1)
    mean = float(r.sum() / n)
    if n == 2:
        return mean, None
    return mean, mean + 2 * (n - 1) / (n - 2) * (r - mean)


def log_pseudo_values(pd):
    """Pseudo-values on the log scale: l_k = ln U + (psi_k - U) / U, shape (n,); their mean is ln U exactly.

    pd: (n, n). None when undefined: n < 3, or a mean PD of 0. ValueError as in `pseudo_values`.
    Linearised, because a pseudo-value itself may be negative; source as in `pseudo_values`.
    """
    return _mean_and_log(pd)[1]


def mean_pd_interval(pd, confidence=0.95):
    """Mean PD of one activation with its interval, exp(ln U +- t sd(l) / sqrt(n)) on n - 1 degrees of freedom.

    pd: (n, n). Returns (mean, low, high) in the unit of pd; low and high are None where the spread between trials is
    unknown (n < 3) or zero, mean is None when n = 1. ValueError as in `pseudo_values`.
    Source: jackknife t interval, Tukey 1958, on the log scale.
    """
    mean, logs = _mean_and_log(pd)
    if logs is None:
        return mean, None, None
    sd = _sd(logs)
    if sd <= NO_VARIATION:
        return mean, None, None
    half = _t_quantile(len(logs) - 1, 0.5 + confidence / 2) * sd / math.sqrt(len(logs))
    return mean, mean * math.exp(-half), mean * math.exp(half)


def mean_interval(x, confidence=0.95):
    """Mean of one number per trial, such as its validation loss, with its interval: mean +- t sd / sqrt(n) on n - 1
    degrees of freedom.

    x: (n,). Returns (mean, low, high) in the unit of x; low and high are None where the spread between trials is
    unknown (n < 3) or zero. ValueError: not one-dimensional, empty or not finite. Source: Student 1908.
    """
    x = _vector(x, "x")
    mean, n = float(x.mean()), len(x)
    if n < 3 or (sd := _sd(x)) <= NO_VARIATION * abs(mean):
        return mean, None, None
    half = _t_quantile(n - 1, 0.5 + confidence / 2) * sd / math.sqrt(n)
    return mean, mean - half, mean + half


def same(a, b):
    """Are two measured PDs, or losses, equal up to the noise of measuring (NOISE_FLOOR, relative)? They tie, then."""
    return math.isclose(a, b, rel_tol=NOISE_FLOOR)


# ---------------------------------------------------------------- two activations


@dataclass(frozen=True)
class Comparison:
    """One comparison, a against b. A number that is undefined is None.

    `effect` is the ratio of mean PDs (metric 'pd') or the difference of mean losses in nats per token ('loss');
    `low`, `high` are its 95 % and `low90`, `high90` its 90 % limits, not adjusted for other comparisons. `sd` and `se`
    are on the scale of the test, ln PD or nats: sd of the paired differences, or, unpaired, the root mean square of
    the groups' sds; se is the standard error of the difference. `g` is Hedges' g on that scale, of kind `g_kind`:
    'g_z' (paired) or 'g_s' (unpaired); `g_low`, `g_high` are the 95 % limits of the effect size that g estimates.
    After `moderate`, limits, t, df, p, sd and se are the moderated ones; `p_plain` is by this comparison's own spread
    alone, as is g, which describes it.
    """

    metric: str
    kind: str  # 'paired t' or 'Welch t', either 'moderated ', or 'none'
    n: tuple
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    low90: float | None = None
    high90: float | None = None
    t: float | None = None
    df: float | None = None
    p: float | None = None
    p_plain: float | None = None
    g: float | None = None
    g_kind: str | None = None
    sd: float | None = None
    se: float | None = None
    mean_a: float | None = None
    mean_b: float | None = None
    note: str = ""
    g_df: int | None = None  # degrees of freedom of g's sd
    g_root: float | None = None  # standard error of the difference, in units of g's sd
    prior_df: float = 0.0  # degrees of freedom, of df, that are the family's

    @property
    def estimate(self):
        """The difference on the scale of the test: ln of the ratio of mean PDs, or nats per token."""
        if self.metric != "pd":
            return self.effect
        return math.log(self.effect) if self.effect else None

    @cached_property
    def _g_limits(self):  # root finding, so only for those who ask
        if self.g is None:
            return None, None
        delta = self.g / hedges_correction(self.g_df)
        limits = noncentrality_interval(delta / self.g_root, self.g_df)
        return tuple(limit * self.g_root for limit in limits)

    @property
    def g_low(self):
        return self._g_limits[0]

    @property
    def g_high(self):
        return self._g_limits[1]

    def as_dict(self):
        """Every number of the comparison, `g_low` and `g_high` too; ready for JSON or a row of a table."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("g_df", "g_root")}
        return values | {"n": list(self.n), "g_low": self.g_low, "g_high": self.g_high}


def compare_pd(pd_a, pd_b, paired=True):
    """Mean PD of a against b: the ratio of means, with interval and t-test on the log pseudo-values.

    pd_a: (n_a, n_a), pd_b: (n_b, n_b). `paired` says that trial k of both shares its seed: a fact of the design,
    never a choice made from the data. Paired is Student's paired t, else Welch's t. Fewer than three trials: means
    only. No variation between trials: no test. ValueError as in `pseudo_values`, or for unequal n when paired.
    Source: jackknife t of a U-statistic, Arvesen 1969; Welch 1947; Delacre et al. 2017.
    """
    (mean_a, log_a), (mean_b, log_b) = _mean_and_log(pd_a), _mean_and_log(pd_b)
    n = len(pd_a), len(pd_b)
    _check_paired(n, paired)
    means = {"mean_a": mean_a, "mean_b": mean_b}
    effect = mean_a / mean_b if mean_a is not None and mean_b else None
    if min(n) < 3:
        return Comparison("pd", "none", n, effect, note=_few_trials(min(n)), **means)
    if log_a is None or log_b is None:
        return Comparison("pd", "none", n, effect, note="a mean PD is 0: its trials predict the same", **means)
    return _t_comparison("pd", [log_a, log_b], [1.0, -1.0], paired, scale=1.0, means=means)


def compare_loss(x, y, paired=True):
    """Validation loss of a (x) against b (y): the difference of means, with interval and t-test.

    x: (n_a,), y: (n_b,), nats per token. `paired`, few trials and no variation as in `compare_pd`.
    ValueError: not one-dimensional, empty, not finite, or unequal n when paired.
    Source: Student's paired t; Welch 1947; Delacre et al. 2017.
    """
    x, y = _vector(x, "losses"), _vector(y, "losses")
    n = len(x), len(y)
    _check_paired(n, paired)
    means = {"mean_a": float(x.mean()), "mean_b": float(y.mean())}
    if min(n) < 3:
        effect = means["mean_a"] - means["mean_b"]
        return Comparison("loss", "none", n, effect, note=_few_trials(min(n)), **means)
    scale = max(abs(means["mean_a"]), abs(means["mean_b"]))
    return _t_comparison("loss", [x, y], [1.0, -1.0], paired, scale=scale, means=means)


def smooth_contrast(pds, smooth, reference="relu", paired=True):
    """Planned contrast: the mean log-PD of the smooth activations minus that of the reference, per seed.

    pds: {name: (n, n) PD matrix}; smooth: the names of the m smooth activations. Returns a Comparison whose effect is
    the geometric mean of the smooth activations' mean PDs over the reference's mean PD (below 1: smooth is more
    reproducible). `paired` as in `compare_pd`; unpaired, the degrees of freedom are Satterthwaite's.
    ValueError: an unknown name, no smooth activation, the reference among them, unequal n when paired.
    Source: one planned linear contrast on the numbers of `log_pseudo_values`; Satterthwaite 1946 when unpaired.
    """
    smooth = list(smooth)
    if not smooth:
        raise ValueError("smooth: no activation named, at least one is needed")
    if reference in smooth or len(set(smooth)) < len(smooth):
        raise ValueError(f"smooth: {smooth} must be distinct and without the reference {reference!r}")
    missing = [name for name in [*smooth, reference] if name not in pds]
    if missing:
        raise ValueError(f"pds: no matrix for {', '.join(missing)}; there are {', '.join(pds) or 'none'}")
    means, logs = zip(*(_mean_and_log(pds[name]) for name in [*smooth, reference]), strict=True)
    sizes = [len(pds[name]) for name in [*smooth, reference]]
    _check_paired(sizes, paired)
    n = min(sizes[:-1]), sizes[-1]
    summary = {"mean_a": None, "mean_b": means[-1]}
    if all(means):  # the geometric mean exists
        summary["mean_a"] = math.exp(math.fsum(math.log(mean) for mean in means[:-1]) / len(smooth))
    if min(sizes) < 3 or not all(means):
        note = _few_trials(min(sizes)) if min(sizes) < 3 else "a mean PD is 0: its trials predict the same"
        effect = summary["mean_a"] / means[-1] if summary["mean_a"] else None
        return Comparison("pd", "none", n, effect, note=note, **summary)
    weights = [1 / len(smooth)] * len(smooth) + [-1.0]
    return _t_comparison("pd", logs, weights, paired, scale=1.0, means=summary, n=n)


@dataclass(frozen=True)
class NaiveTest:
    """Result of `naive_pairs_test`; None where undefined."""

    t: float | None
    df: float | None
    p: float | None
    note: str = "uncalibrated: takes pairs that share trials for independent"


def naive_pairs_test(pd_a, pd_b):
    """What the usual t-test on the pairwise PDs says. Uncalibrated: only for comparison with older work.

    pd_a, pd_b: (n, n). Student's t with pooled variance on the n(n-1)/2 PDs of each, which wrongly takes them for
    independent: where nothing differs it is "significant" at 0.05 in 18 % of cases at n = 3, and more as n grows.
    Undefined (None) for fewer than three trials or no variation. ValueError as in `pseudo_values`.
    """
    x, y = (matrix[_upper_triangle(len(matrix))] for matrix in (_pd_matrix(pd_a), _pd_matrix(pd_b)))
    df = len(x) + len(y) - 2
    if min(len(x), len(y)) < 3:
        return NaiveTest(None, None, None)
    mean_x, mean_y = x.sum() / len(x), y.sum() / len(y)
    pooled = math.sqrt((((x - mean_x) ** 2).sum() + ((y - mean_y) ** 2).sum()) / df)
    if pooled <= NO_VARIATION * max(mean_x, mean_y):
        return NaiveTest(None, None, None)
    t = float((mean_x - mean_y) / (pooled * math.sqrt(1 / len(x) + 1 / len(y))))
    return NaiveTest(t, float(df), _two_sided(t, df))


# ---------------------------------------------------------------- spread shared by the comparisons of a study


def family_variance(comparisons):
    """What the comparisons of one family vary by, on average: s0^2 for `moderate`, or None with fewer than three.

    comparisons: those with the reference (without one: all pairs) for one quantity, not moderated; None among them,
    and those without a test, are left out. s0^2 is the mean of v = n se^2, with n the harmonic mean of both sides'
    trials: paired, the variance of the differences; unpaired, with equal n, the sum of both groups' variances.
    One or two comparisons have too little to lend: at three trials a single one would err in 6 % of cases.
    Source: Smyth 2004 (limma), with a prior of fixed weight instead of an estimated one.
    """
    variances = [_variance(c) for c in comparisons if c is not None and c.p is not None]
    return math.fsum(variances) / len(variances) if len(variances) > 2 else None


def moderate(comparison, variance):
    """The comparison with its own spread moderated by that of its family: more power and fewer errors from few trials.

    variance: s0^2 of `family_variance`; with None, or where there is no test, the comparison as it is. From v = n se^2
    on df degrees of freedom: (d0 s0^2 + df v) / (d0 + df) on d0 + df, d0 = PRIOR_DF = 2; interval, t and p follow.
    The planned contrast borrows the same s0^2, not scaled down: scaled, it would err where the reference varies more.
    ValueError: moderated already, or a variance that is not positive.
    Source: moderated t, Lönnstedt & Speed 2002; Smyth 2004; unpaired, Welch's df takes the place of n - 1
    (bench/calibration.py: moderating the groups' variances instead errs in up to 7 % where the reference varies more).
    """
    if comparison.prior_df:
        raise ValueError("comparison: it is moderated already")
    if variance is None or comparison.p is None:
        return comparison
    if not (variance > 0 and math.isfinite(variance)):
        raise ValueError(f"variance: {variance} must be positive and finite")
    df = PRIOR_DF + comparison.df
    inflation = math.sqrt((PRIOR_DF * variance / _variance(comparison) + comparison.df) / df)
    return replace(
        comparison,
        kind=f"moderated {comparison.kind}",
        sd=comparison.sd * inflation,
        prior_df=PRIOR_DF,
        **_inference(comparison.metric, comparison.estimate, comparison.se * inflation, df),
    )


def _variance(comparison):
    return 2 / sum(1 / n for n in comparison.n) * comparison.se**2


# ---------------------------------------------------------------- many comparisons


def equivalence_p(comparison, margin=None):
    """p of two one-sided tests that the difference is smaller than the margin; None where there is no test.

    margin: for PD a fraction, 0.05 for a ratio within 0.95 to 1/0.95, for loss in nats per token; by default PD_MARGIN
    or LOSS_MARGIN. Below 0.05 exactly where the 90 % interval lies within the margin. At the margin each comparison
    errs in at most 5 %, but any of four in 9 (3 trials) to 14 % (20): in a family, adjust by `holm`, which errs in 4.
    ValueError: a margin that is not positive, or for PD not below 1. Source: Schuirmann 1987.
    """
    margin = _margin(comparison, margin)
    if comparison.p is None:
        return None
    limit = -math.log1p(-margin) if comparison.metric == "pd" else margin
    distance = (limit - abs(comparison.estimate)) / comparison.se
    return max(float(scipy.special.stdtr(comparison.df, -distance)), np.finfo(float).tiny)


def gatekeep(families, planned=None):
    """Adjusted p-values of several families of one quantity, which together err hardly more than the first alone.

    families: mappings {hypothesis: p or None}, the most important first; in a report: PD against the reference, PD of
    the smooth contrast, the same two at equal loss, all other pairs. Losses are a question of their own, with an order
    of their own. Within a family: Holm. A hypothesis of a later family counts as far as its gate is open: the same
    hypothesis in the families before, or, where none has it, any of the first. So its adjusted p is the largest of
    Holm's and those of its gates. `planned` names one hypothesis, the contrast, that needs no gate at half the level:
    alone it counts by 2 p. Where nothing differs, all claims without it err in no more studies than the first family,
    and with it in at most 4.9 % of five activations' with 3 to 20 trials (bench/calibration.py; the bound is 7.5 %).
    Where some of the first family differ, a later family can err in its own right, at its own level.
    Returns a list of {hypothesis: adjusted p}. ValueError: as in `holm`.
    Source: serial gatekeeping, Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001.
    """
    adjusted = []
    for family in families:
        values = dict(zip(family, holm(family.values()), strict=True))
        for name, p in values.items() if adjusted else ():
            gates = [before[name] for before in adjusted if name in before]
            values[name] = max([p, *gates] if gates else [p, min(adjusted[0].values(), default=1.0)])
            if name == planned and not gates:
                values[name] = min(values[name], 2 * p)
        adjusted.append(values)
    return adjusted


def holm(p_values):
    """Holm's step-down adjusted p-values, as a list in the order given; None (no test) counts as 1.

    ValueError: a p-value outside [0, 1] or NaN. Source: Holm 1979.
    """
    p = np.array([1.0 if value is None else value for value in p_values], dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values: {list(p_values)} must be None or between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


# ---------------------------------------------------------------- effect size


def hedges_correction(v):
    """J(v) = Gamma(v/2) / (Gamma((v-1)/2) sqrt(v/2)): removes the bias of a standardised mean difference whose sd has
    v degrees of freedom. ValueError unless v > 1. Source: Hedges 1981.
    """
    if not v > 1:
        raise ValueError(f"v: {v} degrees of freedom, Hedges' correction needs more than 1")
    return math.exp(math.lgamma(v / 2) - math.lgamma((v - 1) / 2)) / math.sqrt(v / 2)


def noncentral_t_cdf(t, df, nc):
    """P(T' <= t) for the noncentral t of `df` degrees of freedom and noncentrality `nc`; scalars.

    E[Phi(t sqrt(W/df) - nc)] with W ~ chi-squared(df), by 400-node Gauss-Legendre quadrature over the quantiles of W:
    a weighted mean of normal probabilities, so it stays within [0, 1] where scipy.stats.nct.cdf has returned NaN.
    ValueError: df not positive, or an argument not finite.
    Source: the definition of T' = (Z + nc) / sqrt(W/df).
    """
    if not (df > 0 and math.isfinite(df) and math.isfinite(t) and math.isfinite(nc)):
        raise ValueError(f"noncentral t: t={t}, df={df}, nc={nc} must be finite and df positive")
    root, weight = _chi_nodes(float(df))
    return min(1.0, float(weight @ scipy.special.ndtr(t * root - nc)))  # the weights sum to 1 up to rounding


def noncentrality_interval(t, df, confidence=0.95):
    """Limits (low, high) of the noncentrality of an observed t: F(t; df, low) = .975 and F(t; df, high) = .025.

    Times sqrt(1/n), or sqrt(1/n_x + 1/n_y), they are limits of the standardised difference itself, without Hedges'
    correction. ValueError as in `noncentral_t_cdf`. Source: the pivot of Steiger & Fouladi 1997; Cumming & Finch 2001.
    """
    tail = (1 - confidence) / 2
    noncentral_t_cdf(t, df, 0.0)  # checks the arguments
    reach = t * _chi_nodes(float(df))[0]
    low, high = reach.min() - 9, reach.max() + 9  # every normal probability is 1 at low and 0 at high
    return tuple(
        scipy.optimize.brentq(lambda nc, q=q: noncentral_t_cdf(t, df, nc) - q, low, high) for q in (1 - tail, tail)
    )


# ---------------------------------------------------------------- planning


def power(delta, se, df, alpha=0.05):
    """Probability that the two-sided t-test at level `alpha` sees a true difference `delta`.

    delta and se (the standard error of the difference) in one unit: ln PD, or nats; df: degrees of freedom.
    Returns P(|T'(df, delta/se)| > t_{1-alpha/2, df}). ValueError: se or df not positive, an argument not finite.
    For a declared `delta`: power at the observed effect says nothing that p does not (Hoenig & Heisey 2001).
    Source: the noncentral t distribution of the t statistic; Cohen 1988.
    """
    if not (se > 0 and math.isfinite(se)):
        raise ValueError(f"se: {se} must be positive and finite")
    critical = _t_quantile(df, 1 - alpha / 2)
    nc = abs(delta) / se  # and its mirror image have one power
    return 1 - noncentral_t_cdf(critical, df, nc) + noncentral_t_cdf(-critical, df, nc)


def smallest_detectable(se, df, power=0.8, alpha=0.05):
    """Smallest true difference that the test sees with probability `power`, in the unit of `se`.

    For PD it is on the log scale: as a reduction 100 (1 - exp(-result)) %. ValueError: as in `power`, or power not
    between alpha and 1. Source: `power`, inverted.
    """
    if not alpha < power < 1:
        raise ValueError(f"power: {power} must lie between alpha = {alpha} and 1")
    if not (se > 0 and math.isfinite(se)):
        raise ValueError(f"se: {se} must be positive and finite")
    return se * _detectable_nc(float(df), power, alpha)


def trials_needed(delta, sd, n, k=0.0, paired=True, power=0.8, alpha=0.05, prior_df=0.0):
    """Smallest number of trials per activation M >= 3 that sees `delta` with probability `power`.

    delta: true difference, in ln PD (a 5 % reduction is -ln 0.95) or nats; sd: measured with n trials, of the paired
    differences, or unpaired the root mean square of the two groups' sds. The sd expected with M trials is
    sd sqrt((1 + k/(M-2)) / (1 + k/(n-2))): k = 4/3 for PD, whose pseudo-values vary less as trials are added; k = 0
    for loss. Standard error sd_M / sqrt(M) on M - 1 degrees of freedom, or unpaired sd_M sqrt(2/M) on 2 (M-1); and
    `prior_df` more for a moderated test (sd: the moderated one).
    None when sd is 0 (nothing to plan from) or more than a million trials would be needed.
    ValueError: delta 0 or not finite, sd negative or not finite, n < 3, power not between alpha and 1.
    Source: `power`; under PD_ij = mu + g_i + g_j + s_ij the variance of the pseudo-values is
    4 var(g) (1 + k/(M-2)) with k = var(s)/var(g) = 1/rho - 2, rho the correlation of two PDs that share a trial:
    4/3 stands for rho = 0.30.
    """
    if not (math.isfinite(delta) and delta != 0):
        raise ValueError(f"delta: {delta} must be finite and not 0")
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd: {sd} must be finite and not negative")
    if n < 3:
        raise ValueError(f"n: {n} trials, planning needs the spread of at least 3")
    if not alpha < power < 1:
        raise ValueError(f"power: {power} must lie between alpha = {alpha} and 1")
    if sd == 0:
        return None

    def enough(m):
        sd_m = sd * math.sqrt((1 + k / (m - 2)) / (1 + k / (n - 2)))
        se, df = (sd_m / math.sqrt(m), m - 1) if paired else (sd_m * math.sqrt(2 / m), 2 * (m - 1))
        return _power_of_nc(abs(delta) / se, df + prior_df, alpha) >= power

    # Power rises with M: find the first M that is enough by doubling, then halving the gap.
    low, high = 2, 3
    while not enough(high):
        low, high = high, 2 * high
        if low >= MAX_TRIALS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def plan_trials(comparison, delta, power=0.8, alpha=0.05):
    """Trials needed to see `delta` (ln PD or nats), from the spread that a Comparison measured: (M, low, high), the
    limits over the 80 % chi-squared limits of the true sd.

    Each None where it cannot be told. ValueError: delta 0 or not finite. Source: `trials_needed`; df s^2 / sigma^2 ~
    chi-squared(df) for normal differences.
    """
    if comparison.se is None:
        return None, None, None
    n, df = min(comparison.n), comparison.df
    k = PD_SHRINKAGE if comparison.metric == "pd" else 0.0
    sds = [comparison.sd * math.sqrt(df / scipy.special.chdtri(df, upper)) for upper in (0.1, 0.9)]
    settings = n, k, comparison.g_kind == "g_z", power, alpha, comparison.prior_df
    return tuple(trials_needed(delta, sd, *settings) for sd in (comparison.sd, *sds))


# ---------------------------------------------------------------- the answer


@dataclass(frozen=True)
class Verdict:
    """`kind`: 'lower', 'higher' (a than b), 'equal', 'inconclusive' or 'no test'; `text`: one plain sentence."""

    kind: str
    text: str


def verdict(comparison, p_holm, name_a="A", name_b="B", quantity=None, margin=None, alpha=0.05, p_equal=None):
    """What one comparison allows to be said.

    p_holm: the p adjusted for its family. Below alpha: a is lower or higher than b, and that this is less than the
    margin is said where the following shows it. Else, if p_equal, the adjusted
    p of `equivalence_p`, is below alpha: practically equal; without it, that of this comparison alone, which is one:
    if the 90 % interval lies within the margin. Else inconclusive, with what could have been seen and what it would
    take. `margin` is the smallest difference that matters: for PD a fraction (0.05: the ratio within 0.95 to 1/0.95),
    for loss in nats per token (0.01, 1 % of perplexity). `quantity` names what is compared, by default 'mean PD' or
    'validation loss'. ValueError: p_holm missing or outside [0, 1] although there is a test, margin not positive.
    Source: Holm 1979; Schuirmann 1987; power as in `power`, for this comparison alone.
    """
    is_pd = comparison.metric == "pd"
    quantity = quantity or ("mean PD" if is_pd else "validation loss")
    margin = _margin(comparison, margin)
    if comparison.p is None:
        return Verdict("no test", f"{quantity} of {name_a} and {name_b}: no test ({comparison.note})")
    if p_holm is None or not 0 <= p_holm <= 1:
        raise ValueError(f"p_holm: {p_holm} must be the Holm-adjusted p, between 0 and 1")
    subject = f"{quantity} of {name_a}"
    size = f"{100 * margin:g} %" if is_pd else f"{margin:g} nats per token"
    small = (equivalence_p(comparison, margin) if p_equal is None else p_equal) < alpha

    if p_holm < alpha:
        limits = comparison.effect, comparison.low, comparison.high
        change, low, high = (100 * (x - 1) for x in limits) if is_pd else limits
        unit, digits = (" %", ".1f") if is_pd else (" nats per token", ".4f")
        kind = "lower" if change < 0 else "higher"
        if change < 0:
            change, low, high = -change, -high, -low
        text = (
            f"{subject} is {kind} than that of {name_b} by {change:{digits}}{unit} "
            f"[{low:{digits}} to {high:{digits}}; 95 %, not adjusted]{f', less than {size}' if small else ''}"
        )
        return Verdict(kind, text)

    if small:
        interval = f"90 % interval {'of the ratio ' if is_pd else ''}{comparison.low90:.4f} to {comparison.high90:.4f}"
        return Verdict("equal", f"{subject} is practically equal to that of {name_b} (±{size}): {interval}")

    mde = smallest_detectable(comparison.se, comparison.df, alpha=alpha)
    seen = f"reduction detectable with 80 % power is {-100 * math.expm1(-mde):.3g} %"
    if not is_pd:
        seen = f"difference detectable with 80 % power is {mde:.2g} nats per token"
    m, low, high = plan_trials(comparison, -math.log1p(-margin) if is_pd else margin, alpha=alpha)
    span = f"({low or f'over {MAX_TRIALS}'}–{high or f'over {MAX_TRIALS}'})"
    if m is not None and m <= min(comparison.n):  # so the true difference is probably smaller than that
        needed = f"about {m} trials {span} are enough to see {size}"
    else:
        needed = f"about {m or f'over {MAX_TRIALS}'} trials {span} would be needed to see {size}"
    trials = " and ".join(str(x) for x in sorted(set(comparison.n)))
    text = f"inconclusive for {subject} against {name_b}: with {trials} trials the smallest {seen}; {needed}"
    return Verdict("inconclusive", text)


# ---------------------------------------------------------------- second opinion, single trials


@dataclass(frozen=True)
class Bootstrap:
    """Result of `multi_bootstrap`: `ratio` of mean PDs with its limits, and the standard deviation of the resampled
    ln ratio: `se` over both, `se_trials` over trials alone, `se_positions` over blocks of positions alone."""

    ratio: float
    low: float
    high: float
    se: float
    se_trials: float
    se_positions: float
    n: tuple
    blocks: int
    replications: int


def multi_bootstrap(blocks_a, blocks_b, paired=True, replications=10_000, confidence=0.95, seed=0):
    """Uncertainty of the PD ratio over trials and over evaluation positions: a two-way bootstrap, as second opinion.

    blocks_a: (n_a, n_a, blocks), blocks_b: (n_b, n_b, blocks): the PD of each pair of trials on each block of
    evaluation windows, the same blocks for both. Every replication draws trials and blocks with replacement, one and
    the same draw for a and b (for blocks always; for trials when `paired`). A pair of copies of one trial is left out:
    its PD is 0 by construction, not by reproducibility. Replications in which one trial alone is drawn are redrawn.
    The limits are expanded percentiles: plain ones held the true ratio in 85 to 90 % of simulated studies of 5 to 12
    trials at a nominal 95 %, these in 93 to 99 %. The same `seed` gives the same limits.
    ValueError: fewer than 5 trials, fewer than 2 blocks, unequal blocks (or n when paired), symmetry and range as in
    `pseudo_values`, a mean PD of 0.
    Source: the Multi-Bootstrap of the MultiBERTs (Sellam et al. 2021, arXiv 2106.16163), on the mean over pairs of
    trials; expanded percentiles, Hesterberg 2015 (arXiv 1411.5279).
    """
    a, b = (_pd_matrix(x, name, "(n, n, blocks)") for x, name in ((blocks_a, "blocks_a"), (blocks_b, "blocks_b")))
    n = len(a), len(b)
    _check_paired(n, paired)
    if min(n) < 5:
        raise ValueError(
            f"{min(n)} trials: the bootstrap over trials needs at least 5; with fewer it sees too little of "
            "the spread and its intervals are far too narrow, use compare_pd"
        )
    blocks = a.shape[-1]
    if b.shape[-1] != blocks or blocks < 2:
        raise ValueError(f"blocks: {blocks} and {b.shape[-1]} blocks, both need the same ones, at least 2")
    observed = [float(x.sum() / (m * (m - 1) * blocks)) for x, m in zip((a, b), n, strict=True)]
    if min(observed) == 0:
        raise ValueError("a mean PD is 0, so the ratio of mean PDs is undefined")

    trials_a, trials_b, windows = _draws(n, paired, blocks, replications, seed)

    def log_ratio(draw_a, draw_b, draw_blocks):
        with np.errstate(divide="ignore", invalid="ignore"):  # a resampled mean PD may be 0
            return np.log(_resampled_mean(a, draw_a, draw_blocks) / _resampled_mean(b, draw_b, draw_blocks))

    both = log_ratio(trials_a, trials_b, windows)
    over_trials = log_ratio(trials_a, trials_b, None)
    over_positions = log_ratio(None, None, windows)
    if not (np.isfinite(both).all() and np.isfinite(over_trials).all() and np.isfinite(over_positions).all()):
        raise ValueError("too many PDs are 0: in some resamples the ratio of mean PDs is undefined")
    # n draws from n trials vary too little, by sqrt((n-1)/n), and know nothing of the t distribution: look further out.
    fewest = min(n)
    reach = math.sqrt(fewest / (fewest - 1)) * _t_quantile(fewest - 1, 0.5 + confidence / 2)
    low, high = np.quantile(both, scipy.special.ndtr([-reach, reach]))
    return Bootstrap(
        ratio=observed[0] / observed[1],
        low=math.exp(low),
        high=math.exp(high),
        se=float(both.std(ddof=1)),
        se_trials=float(over_trials.std(ddof=1)),
        se_positions=float(over_positions.std(ddof=1)),
        n=n,
        blocks=blocks,
        replications=replications,
    )


@dataclass(frozen=True)
class Influence:
    """Result of `influence`. `trial` moves the estimate most, by `shift` standard errors of the whole, to that of
    `without`; `low` and `high` are the smallest and largest estimate without any one trial; without each of `decisive`
    the verdict at 5 %, before any adjustment, is another."""

    trial: object
    without: object
    shift: float
    low: float
    high: float
    decisive: tuple

    @property
    def notable(self):
        """Worth saying: one trial decides, or moves the estimate by more than half its standard error."""
        return bool(self.decisive) or self.shift > 0.5


def influence(whole, without, alpha=0.05):
    """How far a comparison hangs on one trial; None where it was not tested, or without an estimate.

    whole: a Comparison, or what has estimate, se and p like one; without: {trial: the same, made once more without this
    trial (one seed, of all activations)}. Made once more: everything that depends on the trials, also the spread of the
    family and the loss at which PD is compared. Source: leave-one-out, Cook 1977; here in standard errors of the whole.
    """
    left = {k: test for k, test in without.items() if test is not None and test.estimate is not None}
    if whole.p is None or not left:
        return None
    estimates = [test.estimate for test in left.values()]
    trial = max(left, key=lambda k: abs(left[k].estimate - whole.estimate))

    def shown(test):
        return math.copysign(1, test.estimate) if test.p < alpha else 0

    decisive = tuple(k for k, test in left.items() if test.p is not None and shown(test) != shown(whole))
    shift = abs(left[trial].estimate - whole.estimate) / whole.se
    return Influence(trial, left[trial], shift, min(estimates), max(estimates), decisive)


# ---------------------------------------------------------------- inside


def _margin(comparison, margin):
    is_pd = comparison.metric == "pd"
    margin = margin if margin is not None else (PD_MARGIN if is_pd else LOSS_MARGIN)
    if not 0 < margin < (1 if is_pd else math.inf):
        raise ValueError(f"margin: {margin} must be positive{' and below 1' if is_pd else ''}")
    return margin


def _inference(metric, estimate, se, df):
    """Limits, t and p of an estimate on the scale of the test, as fields of a Comparison."""
    transform = math.exp if metric == "pd" else float
    quantiles = {"low": 0.025, "high": 0.975, "low90": 0.05, "high90": 0.95}
    limits = {name: transform(estimate + _t_quantile(df, q) * se) for name, q in quantiles.items()}
    return limits | {"t": estimate / se, "df": float(df), "p": _two_sided(estimate / se, df), "se": se}


def _pd_matrix(pd, name="pd", shape="(n, n)"):
    """A checked copy of shape (n, n), or (n, n, blocks), with a zero diagonal."""
    pd = np.array(pd, dtype=float)
    if pd.ndim != shape.count(",") + 1 or pd.shape[0] != pd.shape[1] or not pd.size:
        raise ValueError(f"{name}: shape {pd.shape}, PDs are {shape} with n >= 1")
    pd[np.arange(len(pd)), np.arange(len(pd))] = 0
    largest = pd.max()
    if not (math.isfinite(largest) and pd.min() >= 0):  # a NaN anywhere is the maximum
        raise ValueError(f"{name}: PDs must be finite and not negative")
    if np.abs(pd - pd.swapaxes(0, 1)).max() > 1e-9 * largest:
        raise ValueError(f"{name}: not symmetric, PD_ij and PD_ji are one number")
    return pd


@lru_cache(maxsize=64)
def _upper_triangle(n):
    return np.triu(np.ones((n, n), dtype=bool), 1)


def _vector(x, name):
    x = np.asarray(x, dtype=float)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"{name}: shape {x.shape}, a one-dimensional array with at least one number is needed")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: {x.tolist()} must be finite (drop a failed trial from both sides first)")
    return x


def _check_paired(n, paired):
    if paired and len(set(n)) > 1:
        raise ValueError(f"{' and '.join(map(str, n))} trials: a paired comparison needs the same trials on all sides")


def _few_trials(n):
    return {1: "one trial: no spread to test with", 2: "two trials: means only, no test"}[n]


def _mean_and_log(pd):
    mean, psi = pseudo_values(pd)
    if psi is None or mean == 0:
        return mean, None
    return mean, math.log(mean) + (psi - mean) / mean


def _sd(x):
    deviation = x - x.sum() / len(x)
    return math.sqrt(deviation @ deviation / (len(x) - 1))


@lru_cache(maxsize=1024)
def _t_quantile(df, q):
    return float(scipy.special.stdtrit(df, q))


def _two_sided(t, df):
    # Far in the tail the probability underflows to 0, which no test can mean.
    return max(2 * float(scipy.special.stdtr(df, -abs(t))), np.finfo(float).tiny)


def _t_comparison(metric, samples, weights, paired, scale, means, n=None):
    """t-test of the contrast sum_i weights_i mean(samples_i), each sample (n_i,); `scale` is the size of the numbers.

    The same formulas as scipy.stats.ttest_rel and ttest_ind(equal_var=False), for any number of groups; those two
    take ten times as long a call, and warn where the data hardly vary.
    """
    sizes = [len(x) for x in samples]
    n = n or tuple(sizes)
    if paired:
        d = sum(w * x for w, x in zip(weights, samples, strict=True))
        estimate, sd, df = float(d.sum() / len(d)), _sd(d), len(d) - 1
        se, g_sd, g_df, g_root = sd / math.sqrt(len(d)), sd, df, math.sqrt(1 / len(d))
    else:
        estimate = math.fsum(w * x.sum() / len(x) for w, x in zip(weights, samples, strict=True))
        sds = [_sd(x) for x in samples]
        sd = math.sqrt(math.fsum(s**2 for s in sds) / len(sds))
        parts = [(w * s) ** 2 / m for w, s, m in zip(weights, sds, sizes, strict=True)]
        se = math.sqrt(math.fsum(parts))
        g_df = sum(sizes) - len(sizes)
        g_sd = math.sqrt(math.fsum((m - 1) * s**2 for s, m in zip(sds, sizes, strict=True)) / g_df)
        g_root = math.sqrt(math.fsum(w**2 / m for w, m in zip(weights, sizes, strict=True)))
    transform = math.exp if metric == "pd" else float
    if sd <= NO_VARIATION * scale:
        return Comparison(metric, "none", n, transform(estimate), note="no variation between trials", **means)
    if not paired:  # Welch-Satterthwaite
        df = 1 / math.fsum((part / se**2) ** 2 / (m - 1) for part, m in zip(parts, sizes, strict=True))
    inference = _inference(metric, estimate, se, df)
    return Comparison(
        metric=metric,
        kind="paired t" if paired else "Welch t",
        n=n,
        effect=transform(estimate),
        **inference,
        p_plain=inference["p"],
        g=hedges_correction(g_df) * estimate / g_sd,
        g_kind="g_z" if paired else "g_s",
        sd=sd,
        **means,
        g_df=g_df,
        g_root=g_root,
    )


@lru_cache(maxsize=1)
def _legendre():
    x, weight = scipy.special.roots_legendre(400)  # numpy's takes twenty times as long
    return (x + 1) / 2, weight / 2


@lru_cache(maxsize=256)
def _chi_nodes(df):
    """sqrt(W/df) at the 400 quadrature nodes of the quantiles of W ~ chi-squared(df), and their weights."""
    u, weight = _legendre()
    return np.sqrt(scipy.special.gammaincinv(df / 2, u) / (df / 2)), weight


def _power_of_nc(nc, df, alpha):
    return power(nc, 1.0, df, alpha)


@lru_cache(maxsize=256)
def _detectable_nc(df, target, alpha):
    high = 1.0
    while _power_of_nc(high, df, alpha) < target:
        high *= 2
    return scipy.optimize.brentq(lambda nc: _power_of_nc(nc, df, alpha) - target, 0, high)


def _resample(rng, size, replications, distinct=1):
    """Multiplicities (replications, size) of draws with replacement, redrawn until `distinct` different ones occur."""
    counts = rng.multinomial(size, np.full(size, 1 / size), size=replications)
    while (poor := (counts > 0).sum(axis=1) < distinct).any():
        counts[poor] = rng.multinomial(size, np.full(size, 1 / size), size=int(poor.sum()))
    return counts.astype(float)


@lru_cache(maxsize=2)  # the comparisons of a study have their draws in common
def _draws(n, paired, blocks, replications, seed):
    """Multiplicities of trials of a and of b, and of blocks: each (replications, their number)."""
    rng = np.random.default_rng(seed)
    trials_a = _resample(rng, n[0], replications, distinct=2)
    trials_b = trials_a if paired else _resample(rng, n[1], replications, distinct=2)
    return trials_a, trials_b, _resample(rng, blocks, replications)


def _resampled_mean(pd, trials, windows):
    """Mean PD (replications,) over pairs of different trials; pd (n, n, blocks), counts as drawn; None: each once."""
    i, j = np.triu_indices(len(pd), 1)
    pds = pd[i, j]  # (pairs, blocks)
    per_draw = pds.sum(axis=1, keepdims=True) if windows is None else pds @ windows.T  # (pairs, replications or 1)
    of = pd.shape[-1] if windows is None else windows.sum(axis=1)
    if trials is None:
        return per_draw.sum(axis=0) / (len(i) * of)
    weights = (trials[:, i] * trials[:, j]).T
    return (weights * per_draw).sum(axis=0) / (weights.sum(axis=0) * of)
