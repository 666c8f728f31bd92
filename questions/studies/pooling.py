"""Several studies together: one effect of all, whether they differ in it, and which of them count. Pure functions on
arrays; a number that is undefined is None, never NaN. bench/calibration.py measures the error rates.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy

from significance import NO_VARIATION


@dataclass(frozen=True)
class RandomEffects:
    """Result of `random_effects`, in the unit of the effects; `i2` is a fraction (0 to 1); None where undefined."""

    mean: float
    k: int
    low: float | None = None  # 95 % limits of the mean
    high: float | None = None
    low90: float | None = None
    high90: float | None = None
    p: float | None = None  # of a mean of 0
    se: float | None = None
    tau2: float | None = None
    i2: float | None = None
    predicted: tuple | None = None  # 95 % limits of the effect in another study of this kind

    @property
    def estimate(self):
        return self.mean


def random_effects(effects, ses):
    """One effect from k studies (corpora, sizes) that may truly differ: DerSimonian-Laird with the
    Hartung-Knapp-Sidik-Jonkman interval and test on k - 1 degrees of freedom.

    effects, ses: (k,), for example ln PD ratios and their standard errors, of one variance (`common_errors`): weights
    made of each study's own few trials are noise. Returns the mean, its intervals, p and standard error, the variance
    between studies tau2, and I2 = the share of variation that is between studies, a fraction. One study: its effect
    alone. Effects without any spread: no interval, since this one is made from their spread.
    ValueError: unequal lengths, empty, not finite, se not positive.
    Source: DerSimonian & Laird 1986; Hartung & Knapp 2001; Sidik & Jonkman 2002; Higgins & Thompson 2002; limits of
    another study, Higgins, Thompson & Spiegelhalter 2009.
    """
    effects, ses = _numbers(effects=effects, ses=ses)
    k = len(effects)
    if not (ses > 0).all():
        raise ValueError(f"ses: {ses.tolist()} must be positive")
    if k == 1:
        return RandomEffects(float(effects[0]), 1)
    q, weights = _cochran(effects, ses), 1 / ses**2
    tau2 = max(0.0, (q - (k - 1)) / float(weights.sum() - (weights**2).sum() / weights.sum()))
    i2 = max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0
    weights = 1 / (ses**2 + tau2)
    mean = float(weights @ effects / weights.sum())
    se = math.sqrt(weights @ (effects - mean) ** 2 / ((k - 1) * weights.sum()))
    if se <= NO_VARIATION * max(abs(mean), float(ses.min())):
        return RandomEffects(mean, k, tau2=tau2, i2=i2)
    wide, narrow = (scipy.stats.t.ppf(q, k - 1) * se for q in (0.975, 0.95))
    reach = scipy.stats.t.ppf(0.975, k - 2) * math.sqrt(tau2 + se**2) if k > 2 else None
    return RandomEffects(
        mean=mean,
        k=k,
        low=mean - wide,
        high=mean + wide,
        low90=mean - narrow,
        high90=mean + narrow,
        p=float(2 * scipy.stats.t.sf(abs(mean) / se, k - 1)),
        se=se,
        tau2=tau2,
        i2=i2,
        predicted=reach and (mean - reach, mean + reach),
    )


def common_errors(ses, n, df):
    """Standard errors (k,) of k studies by the variance that they have on average: sqrt(s^2 / n_i).

    ses, n, df: (k,) each study's own standard error, number of trials, degrees of freedom; s^2 is the mean of n se^2,
    weighted by df. With own variances the interval of `random_effects` errs in 7 % of cases at studies of 5 to 16
    trials and 12 at eight studies of three, with this one in 3 and 5 (bench/calibration.py).
    ValueError: no degrees of freedom at all.
    Source: Doncaster & Spake 2018, Methods in Ecology and Evolution 9:634-644.
    """
    ses, n, df = _numbers(ses=ses, n=n, df=df)
    if not df.sum() > 0:
        raise ValueError("df: no study has any degrees of freedom, so no variance is known")
    return np.sqrt(df @ (n * ses**2) / df.sum() / n)


def heterogeneity_p(effects, ses, df, replications=20_000, seed=0):
    """p that k studies have one and the same effect, whatever the spread of each; None for fewer than two.

    effects, ses, df: (k,) of each study by itself. Q = sum (effect - weighted mean)^2 / se^2 is compared with its own
    distribution where nothing differs: effects drawn from Normal(0, se), variances from se^2 chi^2(df) / df. Against
    chi^2(k - 1), Cochran's test, Q rejects in 22 % of cases at eight studies of 5 to 16 trials, and more with fewer;
    Welch's analysis of variance in 7, in 10 at eight studies of three; this in 3 to 6 (bench/calibration.py).
    The same `seed` gives the same p. ValueError: unequal lengths, not finite, se or df not positive.
    Source: parametric bootstrap, Krishnamoorthy, Lu & Mathew 2007, Comput. Stat. Data Anal. 51:5731-5742.
    """
    effects, ses, df = _numbers(effects=effects, ses=ses, df=df)
    if not ((ses > 0) & (df > 0)).all():
        raise ValueError(f"ses, df: {ses.tolist()} and {df.tolist()} must be positive")
    if len(effects) < 2:
        return None
    rng = np.random.default_rng(seed)
    shape = replications, len(effects)
    drawn = ses * rng.standard_normal(shape), ses * np.sqrt(rng.chisquare(df, shape) / df)
    larger = (_cochran(*drawn) >= _cochran(effects, ses)).sum()
    return float((1 + larger) / (1 + replications))


def _cochran(effects, ses):
    """Cochran's Q over the last axis."""
    weights = 1 / ses**2
    mean = (weights * effects).sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True)
    return (weights * (effects - mean) ** 2).sum(axis=-1)


def separate_studies(trials):
    """Which of several studies may be pooled as independent: each trial counts once.

    trials: for every study the identities of its trials, for instance the sha256 of their weights, and of corpus and
    seed. A study that has a trial in common with one already taken is left out; those with more trials go first, then
    in the order given, which no result influences. Returns {study: None where it enters, else the study that holds a
    trial of it already}, by position. Left in, replications of three trials whose seeds overlap ([a b c], [b c d], ...)
    err in 9 to 22 % of cases, and the same weights evaluated again in nearly all (bench/calibration.py). Trials of the
    same settings say more as one study: compare all distinct ones there, instead of pooling.
    ValueError: a study without trials.
    """
    sets = [frozenset(study) for study in trials]
    if not all(sets):
        raise ValueError("trials: every study needs at least one")
    taken, result = [], dict.fromkeys(range(len(sets)))
    for study in sorted(result, key=lambda i: -len(sets[i])):
        result[study] = next((other for other in taken if sets[other] & sets[study]), None)
        if result[study] is None:
            taken.append(study)
    return result


def _numbers(**vectors):
    """Checked arrays of one length."""
    arrays = [np.asarray(x, dtype=float) for x in vectors.values()]
    if any(x.ndim != 1 or not x.size or not np.isfinite(x).all() for x in arrays) or len(set(map(len, arrays))) > 1:
        raise ValueError(f"{', '.join(vectors)}: one finite number of each for each study is needed")
    return arrays
