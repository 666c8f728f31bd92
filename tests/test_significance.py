"""The statistics against the worked examples, SciPy, statsmodels, brute force, and small simulations."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower

import significance as sig
from analysis import sequential


def matrix(upper):
    """(n, n) from the upper triangle, row by row; NaN on the diagonal, since nothing may read it."""
    n = round((1 + math.sqrt(1 + 8 * len(upper))) / 2)
    pd = np.full((n, n), np.nan)
    pd[np.triu_indices(n, 1)] = upper
    pd.T[np.triu_indices(n, 1)] = upper
    return pd


A3 = matrix([0.20, 0.22, 0.18])
B3 = matrix([0.25, 0.24, 0.26])
A5 = matrix([0.210, 0.205, 0.215, 0.220, 0.200, 0.212, 0.208, 0.216, 0.202, 0.219])
B5 = matrix([0.232, 0.221, 0.236, 0.240, 0.215, 0.238, 0.226, 0.231, 0.219, 0.243])
X = [1.50, 1.52, 1.47]
Y = [1.53, 1.56, 1.49]
PDS = {"relu": A3, "gelu": B3, "swish": A5, "same": np.zeros((3, 3))}


def random_pd(rng, n, mean=0.1, spread=0.1):
    g = spread * rng.standard_normal(n)
    s = np.triu(spread * rng.standard_normal((n, n)), 1)
    return mean * np.abs(1 + g[:, None] + g + s + s.T)


def statsmodels_power(solver, effect, n):
    """Both tails apart: statsmodels' own two-sided power is NaN where the far tail of scipy's nct is."""
    tails = [solver.power(effect, n, 0.025, alternative=side) for side in ("larger", "smaller")]
    return float(np.nansum(tails))


def no_nan(result):
    values = result.as_dict() if isinstance(result, sig.Comparison) else vars(result)
    json.dumps(values, allow_nan=False)
    return True


# ---------------------------------------------------------------- worked examples


EXAMPLES = {  # worked by hand: the call, and all digits of what it must give, the last one rounded
    "one activation": (
        lambda: {"se": np.std(sig.pseudo_values(A3)[1], ddof=1) / math.sqrt(3), "mean_b5": sig.mean_pd_interval(B5)[0]},
        {"se": ".0230940108", "mean_b5": ".2301"},
    ),
    "its log pseudo-values": (
        lambda: dict(zip("123", sig.log_pseudo_values(A3), strict=True)),
        {"1": "-1.40943791", "2": "-1.80943791", "3": "-1.60943791"},
    ),
    **{
        f"interval of {mean}": (
            lambda pd=pd: dict(zip(("mean", "low", "high"), sig.mean_pd_interval(pd), strict=True)),
            {"mean": mean, "low": low, "high": high},
        )
        for pd, mean, low, high in (
            (A3, ".2", ".12169158", ".32869981"),
            (B3, ".25", ".20494259", ".30496345"),
            (A5, ".2107", ".19791927", ".22430605"),
        )
    },
    "three trials": (
        lambda: sig.compare_pd(A3, B3).as_dict(),
        {"t": "-1.3803427", "p": ".30151486", "effect": ".8", "low": ".39903661", "high": "1.6038629"},
    ),
    "three trials, unpaired": (
        lambda: sig.compare_pd(A3, B3, paired=False).as_dict(),
        {"t": "-1.7942625", "df": "2.624025", "p": ".18366433"},
    ),
    "pairs taken for independent": (lambda: vars(sig.naive_pairs_test(A3, B3)), {"p": ".01794791"}),
    "five trials": (
        lambda: sig.compare_pd(A5, B5).as_dict(),
        {"t": "-8.975711", "p": ".00085264", "effect": ".91568883", "low": ".89107744", "high": ".94097998"},
    ),
    "losses": (
        lambda: sig.compare_loss(X, Y).as_dict(),
        {"t": "-5.1961524", "p": ".03509872", "g": "-1.69256875", "g_low": "-5.94254", "g_high": "-.135935"},
    ),
    "losses, unpaired": (
        lambda: sig.compare_loss(X, Y, paired=False).as_dict(),
        {"g": "-.78350708", "g_low": "-2.662199", "g_high": ".797455"},
    ),
    "power": (lambda: {"power": sig.power(0.05, 0.05 / math.sqrt(5), 4)}, {"power": ".40138991"}),
    "detectable": (
        lambda: {n: sig.smallest_detectable(1 / math.sqrt(n), n - 1) for n in (3, 5, 10)},
        {3: "3.264044", 5: "1.681997", 10: ".996001"},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_example(name):
    call, expected = EXAMPLES[name]
    values = call()
    for key, text in expected.items():
        assert abs(values[key] - float(text)) <= 0.51 * 10 ** -len(text.split(".")[1]), (key, values[key], text)


def test_worked_examples_in_words_and_whole_numbers():
    assert sig.pseudo_values(A3)[0] == pytest.approx(0.2)
    assert sig.pseudo_values(A3)[1] == pytest.approx([0.24, 0.16, 0.20])
    assert sig.pseudo_values(B3)[1] == pytest.approx([0.23, 0.27, 0.25])
    paired = sig.compare_pd(A3, B3)
    assert (paired.metric, paired.kind, paired.n, paired.df, paired.note) == ("pd", "paired t", (3, 3), 2, "")
    assert sig.compare_pd(A3, B3, paired=False).kind == "Welch t"
    assert [sig.compare_loss(X, Y, paired).g_kind for paired in (True, False)] == ["g_z", "g_s"]
    assert sig.holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert sig.trials_needed(0.05, 0.06, 3) == 14 and sig.trials_needed(0.05, 0.06, 3, k=4 / 3) == 9


# ---------------------------------------------------------------- against other computations


@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_pseudo_values_are_the_delete_one_jackknife(n):
    pd = random_pd(np.random.default_rng(n), n)
    pairs = np.triu_indices(n, 1)
    mean, psi = sig.pseudo_values(pd)
    assert mean == pytest.approx(pd[pairs].mean(), rel=1e-14)
    for k in range(n):
        rest = np.delete(np.delete(pd, k, 0), k, 1)
        left_out = rest[np.triu_indices(n - 1, 1)].mean()
        assert psi[k] == pytest.approx(n * mean - (n - 1) * left_out, rel=1e-12)
    assert psi.mean() == pytest.approx(mean, rel=1e-14)
    assert sig.log_pseudo_values(pd).mean() == pytest.approx(math.log(mean), rel=1e-13)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_of_one_mean_is_the_t_interval_of_scipy(confidence):
    pd = random_pd(np.random.default_rng(3), 6)
    expected = stats.ttest_1samp(sig.log_pseudo_values(pd), 0).confidence_interval(confidence)
    assert sig.mean_pd_interval(pd, confidence)[1:] == pytest.approx(np.exp(expected), rel=1e-12)
    losses = np.random.default_rng(4).normal(1.8, 0.01, 6)
    expected = stats.ttest_1samp(losses, 0).confidence_interval(confidence)
    mean, *limits = sig.mean_interval(losses, confidence)
    assert mean == pytest.approx(losses.mean(), rel=1e-15)
    assert limits == pytest.approx(list(expected), rel=1e-12)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_comparisons_are_scipys(seed, paired):
    rng = np.random.default_rng(seed)
    n_a = int(rng.integers(3, 12))
    n_b = n_a if paired else int(rng.integers(3, 12))
    pd_a, pd_b = random_pd(rng, n_a), random_pd(rng, n_b, mean=0.12)
    x, y = rng.normal(1.8, 0.02, n_a), rng.normal(1.81, 0.05, n_b)
    for ours, a, b, back in (
        (sig.compare_pd(pd_a, pd_b, paired), sig.log_pseudo_values(pd_a), sig.log_pseudo_values(pd_b), np.exp),
        (sig.compare_loss(x, y, paired), x, y, np.array),
    ):
        theirs = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
        assert (ours.t, ours.p, ours.df) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df), rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx(back(theirs.confidence_interval(0.95)), rel=1e-9)
        assert (ours.low90, ours.high90) == pytest.approx(back(theirs.confidence_interval(0.90)), rel=1e-9)
        assert ours.se == pytest.approx(abs((a.mean() - b.mean()) / theirs.statistic), rel=1e-9)
        assert ours.n == (n_a, n_b) and no_nan(ours)
    pairs = sig.compare_pd(pd_a, pd_b, paired)
    assert pairs.effect == pytest.approx(pairs.mean_a / pairs.mean_b, rel=1e-12)


def test_comparison_turned_round():
    for paired in (True, False):
        there, back = sig.compare_pd(A5, B5, paired), sig.compare_pd(B5, A5, paired)
        assert (back.t, back.p, back.effect) == pytest.approx((-there.t, there.p, 1 / there.effect), rel=1e-9)
        assert (back.low, back.g_low) == pytest.approx((1 / there.high, -there.g_high), rel=1e-6)


def test_trial_labels_and_unit_do_not_matter():
    order = [3, 0, 4, 1, 2]
    plain, shuffled = sig.compare_pd(A5, B5), sig.compare_pd(A5[np.ix_(order, order)], B5[np.ix_(order, order)])
    doubled = sig.compare_pd(2 * A5, 2 * B5)
    for other in (shuffled, doubled):
        assert (other.effect, other.p) == pytest.approx((plain.effect, plain.p), rel=1e-9)


def test_naive_test_is_the_pooled_t_of_scipy():
    ours, upper = sig.naive_pairs_test(A5, B5), np.triu_indices(5, 1)
    theirs = stats.ttest_ind(A5[upper], B5[upper])
    assert (ours.t, ours.p, ours.df) == pytest.approx((theirs.statistic, theirs.pvalue, 18), rel=1e-9)
    assert "uncalibrated" in ours.note


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed):
    p = np.random.default_rng(seed).beta(0.3, 1, size=10)
    p[3] = p[7]  # a tie
    assert sig.holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


def test_a_small_difference_is_said_to_be_small():
    base = random_pd(np.random.default_rng(3), 8, 0.1, 0.002)
    for ratio, small in ((1.03, True), (1.2, False)):
        told = sig.verdict(sig.compare_pd(ratio * random_pd(np.random.default_rng(4), 8, 0.1, 0.002), base), 0.001)
        assert told.kind == "higher" and told.text.endswith("not adjusted], less than 5 %") == small


def test_holm_counts_a_missing_test_as_one():
    assert sig.holm([0.02, None, 0.01]) == pytest.approx([0.04, 1.0, 0.03])
    assert sig.holm([]) == []


def test_hedges_correction_makes_the_effect_size_unbiased():
    # E[t] of the noncentral t is nc / J: scipy's mean is an independent road to J
    for v in (2, 3, 4.5, 10, 200):
        assert sig.hedges_correction(v) == pytest.approx(1 / stats.nct.mean(v, 1.0), rel=1e-9)


@pytest.mark.parametrize("df", [1, 2, 3, 4.5, 10, 60])
def test_noncentral_t_is_scipys_where_that_works(df):
    for t in (-2.0, 0.0, 0.7, 2.0, 4.3, 12.7):
        for nc in (0.0, 0.5, 2.0, 5.0):
            assert sig.noncentral_t_cdf(t, df, nc) == pytest.approx(stats.nct.cdf(t, df, nc), abs=2e-6)


def test_noncentral_t_at_large_noncentrality():
    # integral over s = sqrt(W/df) on a fine grid, where the distribution in scipy has returned NaN
    for df in (2, 4, 9):
        s = np.linspace(0, 8, 400_001)
        density = stats.chi.pdf(s, df, scale=1 / math.sqrt(df))
        for t, nc in ((60.0, 85.0), (120.0, 85.0), (85.0, 85.0), (-100.0, -85.0), (3.0, 85.0)):
            expected = np.trapezoid(density * stats.norm.cdf(t * s - nc), s)
            assert sig.noncentral_t_cdf(t, df, nc) == pytest.approx(expected, abs=2e-5)
    assert sig.noncentral_t_cdf(5.0, 4, 1e9) == 0.0
    assert sig.noncentral_t_cdf(5.0, 4, -1e9) == pytest.approx(1.0) and sig.noncentral_t_cdf(5.0, 4, -1e9) <= 1


def test_effect_size_interval_is_the_pivot():
    c = sig.compare_pd(A5, B5, paired=False)
    root = math.sqrt(2 / 5)
    t_pooled = c.g / sig.hedges_correction(8) / root
    a, b = sig.log_pseudo_values(A5), sig.log_pseudo_values(B5)
    assert t_pooled == pytest.approx(stats.ttest_ind(a, b).statistic, rel=1e-9)
    assert stats.nct.cdf(t_pooled, 8, c.g_low / root) == pytest.approx(0.975, abs=1e-6)
    assert stats.nct.cdf(t_pooled, 8, c.g_high / root) == pytest.approx(0.025, abs=1e-6)


def test_power_is_that_of_statsmodels():
    for n in (3, 5, 8, 30):
        for effect in (0.2, 0.8, 2.0, 5.0):
            one = statsmodels_power(TTestPower(), effect, n)
            assert sig.power(effect, 1 / math.sqrt(n), n - 1) == pytest.approx(one, abs=1e-6)
            two = statsmodels_power(TTestIndPower(), effect, n)
            assert sig.power(-effect, math.sqrt(2 / n), 2 * n - 2) == pytest.approx(two, abs=1e-6)
    assert sig.power(0.0, 1.0, 2) == pytest.approx(0.05, abs=1e-7)
    assert sig.power(1e6, 1.0, 2) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [3, 4, 6, 20])
def test_smallest_detectable_is_that_of_statsmodels(n):
    def gap(effect):
        return statsmodels_power(TTestPower(), effect, n) - 0.8

    expected = optimize.brentq(gap, 0.1, 20)
    assert sig.smallest_detectable(1 / math.sqrt(n), n - 1) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ratio", [0.3, 0.8, 1.5, 4.0])
def test_trials_needed_is_the_first_that_is_enough(ratio):
    paired = next(m for m in range(3, 500) if statsmodels_power(TTestPower(), ratio, m) >= 0.8)
    assert sig.trials_needed(-ratio * 0.02, 0.02, 5) == paired
    unpaired = next(m for m in range(3, 900) if statsmodels_power(TTestIndPower(), ratio, m) >= 0.8)
    assert sig.trials_needed(ratio * 0.02, 0.02, 5, paired=False) == unpaired


def test_limits_of_trials_needed():
    assert sig.trials_needed(5.0, 0.01, 3) == 3
    assert sig.trials_needed(1e-6, 1.0, 3) is None and sig.trials_needed(0.05, 0.0, 3) is None


def test_spread_of_pseudo_values_shrinks_as_planning_says():
    # PD_ij = 1 + g_i + g_j + s_ij with var(s) / var(g) = k = 4/3: E[sd^2] = 4 var(g) (1 + k / (n - 2))
    rng = np.random.default_rng(0)
    for n in (3, 5, 10):
        squares = []
        for _ in range(4000):
            g = 0.01 * rng.standard_normal(n)
            s = np.triu(0.01 * math.sqrt(4 / 3) * rng.standard_normal((n, n)), 1)
            squares.append(sig.pseudo_values(1 + g[:, None] + g + s + s.T)[1].var(ddof=1))
        expected = 4 * 0.01**2 * (1 + 4 / 3 / (n - 2))
        assert np.mean(squares) == pytest.approx(expected, abs=4 * np.std(squares) / math.sqrt(4000))


def test_plan_uses_what_the_comparison_measured():
    delta = -math.log(0.95)
    c = sig.compare_pd(A3, B3)
    limits = c.sd * np.sqrt(2 / stats.chi2.ppf([0.9, 0.1], 2))
    plan = sig.plan_trials(c, delta)
    assert plan == tuple(sig.trials_needed(delta, sd, 3, 4 / 3) for sd in (c.sd, *limits))
    assert plan[1] < plan[0] < plan[2]
    loss = sig.compare_loss(X, Y, paired=False)
    assert loss.sd == pytest.approx(math.sqrt((np.var(X, ddof=1) + np.var(Y, ddof=1)) / 2))
    assert sig.plan_trials(loss, 0.01)[0] == sig.trials_needed(0.01, loss.sd, 3, paired=False)
    assert sig.plan_trials(sig.compare_loss([1, 2], [1, 3]), 0.01) == (None, None, None)


# ---------------------------------------------------------------- smooth against non-smooth


def test_smooth_contrast_is_one_t_test_on_the_mean_of_the_logs():
    rng = np.random.default_rng(1)
    pds = {name: random_pd(rng, 4, spread=0.02) for name in ("relu", "gelu", "swish", "smelu_1", "other")}
    smooth = ["gelu", "swish", "smelu_1"]
    c = sig.smooth_contrast(pds, smooth)
    logs = {name: sig.log_pseudo_values(pd) for name, pd in pds.items()}
    theirs = stats.ttest_1samp(np.mean([logs[name] for name in smooth], axis=0) - logs["relu"], 0)
    assert (c.t, c.p, c.df) == pytest.approx((theirs.statistic, theirs.pvalue, 3), rel=1e-9)
    assert (c.low, c.high) == pytest.approx(np.exp(theirs.confidence_interval(0.95)), rel=1e-9)
    geometric = stats.gmean([sig.pseudo_values(pds[name])[0] for name in smooth])
    assert c.effect == pytest.approx(geometric / sig.pseudo_values(pds["relu"])[0], rel=1e-12)
    assert c.mean_a == pytest.approx(geometric) and c.metric == "pd" and c.n == (4, 4)


@pytest.mark.parametrize("paired", [True, False])
def test_contrast_of_one_smooth_activation_is_the_comparison(paired):
    ours, pair = sig.smooth_contrast({"relu": B5, "gelu": A5}, ["gelu"], paired=paired), sig.compare_pd(A5, B5, paired)
    ours, pair = ours.as_dict(), pair.as_dict()
    for key, value in pair.items():
        assert ours[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_unpaired_contrast_has_satterthwaites_degrees_of_freedom():
    rng = np.random.default_rng(2)
    pds = {"relu": random_pd(rng, 5), "gelu": random_pd(rng, 4), "swish": random_pd(rng, 7)}
    c = sig.smooth_contrast(pds, ["gelu", "swish"], paired=False)
    logs = {name: sig.log_pseudo_values(pd) for name, pd in pds.items()}
    parts = {name: w**2 * logs[name].var(ddof=1) / len(logs[name]) for name, w in
             (("relu", 1), ("gelu", 0.5), ("swish", 0.5))}  # fmt: skip
    variance = sum(parts.values())
    df = variance**2 / sum(part**2 / (len(logs[name]) - 1) for name, part in parts.items())
    t = (logs["gelu"].mean() / 2 + logs["swish"].mean() / 2 - logs["relu"].mean()) / math.sqrt(variance)
    assert (c.t, c.df, c.p) == pytest.approx((t, df, 2 * stats.t.sf(abs(t), df)), rel=1e-9)
    assert c.n == (4, 5)


def test_smooth_contrast_degrades():
    assert sig.smooth_contrast(PDS, ["gelu", "same"]).kind == "none"
    two = sig.smooth_contrast({"relu": A3[:2, :2], "gelu": B3[:2, :2]}, ["gelu"])
    assert two.note == "two trials: means only, no test" and two.effect == pytest.approx(1.25) and no_nan(two)


# ---------------------------------------------------------------- edges


def test_one_and_two_trials_give_means_and_no_test():
    assert sig.pseudo_values([[0.0]]) == (None, None)
    assert sig.mean_pd_interval([[np.nan]]) == (None, None, None)
    assert sig.mean_pd_interval([[0, 0.2], [0.2, 0]]) == (0.2, None, None)
    assert (
        sig.mean_interval([1.5]) == sig.mean_interval([1.0, 2.0]) == sig.mean_interval([1.5] * 5) == (1.5, None, None)
    )
    assert sig.log_pseudo_values([[0, 0.2], [0.2, 0]]) is None
    two = sig.compare_pd(A3[:2, :2], B3[:2, :2])
    assert (two.kind, two.p, two.note) == ("none", None, "two trials: means only, no test")
    assert two.effect == pytest.approx(0.8)
    one = sig.compare_pd([[0.0]], [[0.0]])
    assert one.effect is None and one.note.startswith("one trial")
    loss = sig.compare_loss([1.5, 1.6], [1.4, 1.6])
    assert loss.effect == pytest.approx(0.05) and loss.p is None
    single = sig.compare_loss([1.5], [1.4])
    assert single.effect == pytest.approx(0.1) and single.g_low is None
    mixed = sig.compare_pd(A5, A3[:2, :2], paired=False)
    assert mixed.n == (5, 2) and mixed.p is None and mixed.mean_a == pytest.approx(0.2107)
    assert sig.naive_pairs_test(A3[:2, :2], B3[:2, :2]).p is None
    for result in (two, one, loss, single, mixed):
        assert no_nan(result) and sig.verdict(result, 1.0).kind == "no test"


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [
        (matrix([0.1] * 3), matrix([0.2] * 3), 0.5),  # ties everywhere
        (matrix([0.1] * 10), matrix([0.3] * 10), 1 / 3),
        (matrix([0.1 * (1 + 1e-15), 0.1, 0.1]), matrix([0.2] * 3), 0.5),  # rounding is no variation
    ],
)
def test_no_variation_is_no_test(a, b, ratio, paired):
    c = sig.compare_pd(a, b, paired)
    assert (c.kind, c.p, c.t, c.g, c.low, c.note) == ("none", None, None, None, None, "no variation between trials")
    assert c.effect == pytest.approx(ratio) and no_nan(c)
    assert sig.holm([c.p, 0.01]) == [1.0, 0.02]
    assert sig.naive_pairs_test(a, b).p is None
    assert sig.mean_pd_interval(a)[1:] == (None, None)
    assert "no variation between trials" in sig.verdict(c, 1.0).text


def test_identical_activations():
    paired = sig.compare_pd(A3, A3)
    assert (paired.kind, paired.effect, paired.note) == ("none", 1.0, "no variation between trials")
    unpaired = sig.compare_pd(A3, A3, paired=False)
    assert (unpaired.t, unpaired.p, unpaired.effect) == (0, 1, 1)
    assert sig.compare_loss(X, X).note == "no variation between trials"
    shifted = sig.compare_loss(X, np.array(X) + 0.1)  # the same apart from a constant, up to rounding
    assert shifted.p is None and shifted.effect == pytest.approx(-0.1)
    scaled = sig.compare_pd(A3, 3 * A3)
    assert scaled.p is None and scaled.effect == pytest.approx(1 / 3)


def test_trials_that_predict_the_same():
    zero = np.zeros((3, 3))
    assert sig.pseudo_values(zero)[0] == 0 and sig.log_pseudo_values(zero) is None
    assert sig.mean_pd_interval(zero) == (0, None, None)
    for a, b, effect in ((zero, A3, 0), (A3, zero, None), (zero, zero, None)):
        c = sig.compare_pd(a, b)
        assert (c.p, c.effect) == (None, effect) and "mean PD is 0" in c.note and no_nan(c)


def test_a_huge_t_is_never_p_zero():
    x = np.full(60, 1e9) + np.arange(60) * 1e-2
    c = sig.compare_loss(x, np.arange(60) * 1e-2 * (-1) ** np.arange(60))
    assert c.p > 0 and no_nan(c)


@pytest.mark.parametrize(
    ("pd", "message"),
    [
        (np.array([[0, np.nan, 1], [np.nan, 0, 1], [1, 1, 0]]), "finite"),
        (np.array([[0, np.inf, 1], [np.inf, 0, 1], [1, 1, 0]]), "finite"),
        (-A3, "negative"),
        (np.arange(9.0).reshape(3, 3), "symmetric"),
        (np.ones((2, 3)), "shape"),
        (np.ones(3), "shape"),
        (np.ones((0, 0)), "shape"),
    ],
)
def test_bad_matrices_are_refused(pd, message):
    for call in (
        lambda: sig.pseudo_values(pd),
        lambda: sig.compare_pd(pd, A3),
        lambda: sig.compare_pd(A3, pd),
        lambda: sig.naive_pairs_test(pd, A3),
        lambda: sig.mean_pd_interval(pd),
        lambda: sig.smooth_contrast({"relu": A3, "gelu": pd}, ["gelu"]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_inputs_are_left_alone():
    a, b, x = A3.copy(), B3.copy(), np.array(X)
    sig.compare_pd(a, b), sig.naive_pairs_test(a, b), sig.compare_loss(x, x[::-1])
    assert np.array_equal(a, A3, equal_nan=True) and np.array_equal(b, B3, equal_nan=True)
    assert np.array_equal(x, X)


# ---------------------------------------------------------------- verdicts


def test_verdict_lower_and_higher():
    c = sig.compare_pd(A5, B5)
    lower = sig.verdict(c, 0.003, "gelu", "relu")
    assert lower.kind == "lower"
    assert lower.text == "mean PD of gelu is lower than that of relu by 8.4 % [5.9 to 10.9; 95 %, not adjusted]"
    higher = sig.verdict(sig.compare_pd(B5, A5), 0.003, "relu", "gelu", quantity="PD at equal loss")
    assert higher.kind == "higher"
    assert higher.text.startswith("PD at equal loss of relu is higher than that of gelu by 9.2 % [6.3 to 12.2;")
    loss = sig.verdict(sig.compare_loss(X, Y), 0.04)
    assert loss.text.startswith(
        "validation loss of A is lower than that of B by 0.0300 nats per token [0.0052 to 0.0548;"
    )


def test_verdict_equal_needs_the_whole_interval_inside():
    near = B5 * (1 + 0.002 * matrix(np.sin(range(10))))
    c = sig.compare_pd(near, B5)
    assert sig.verdict(c, 0.5).kind == "equal" and "±5 %" in sig.verdict(c, 0.5).text
    assert sig.verdict(c, 0.5, margin=1e-4).kind == "inconclusive"
    x = np.array(Y) + [1e-3, -1e-3, 5e-4]
    loss = sig.verdict(sig.compare_loss(x, Y), 0.7)
    assert loss.kind == "equal" and "±0.01 nats per token" in loss.text


def test_verdict_inconclusive_says_what_it_would_take():
    c = sig.compare_pd(A3, B3)
    v = sig.verdict(c, 0.6)
    reduction = 100 * (1 - math.exp(-3.264044 * c.sd))
    m, low, high = sig.plan_trials(c, -math.log(0.95))
    assert v.kind == "inconclusive"
    assert f"with 3 trials the smallest reduction detectable with 80 % power is {reduction:.3g} %" in v.text
    assert f"about {m} trials ({low}–{high}) would be needed to see 5 %" in v.text
    loss = sig.verdict(sig.compare_loss(X, Y), 0.14)
    assert loss.kind == "inconclusive" and "nats per token" in loss.text and "reduction" not in loss.text
    assert "over 1000000" in sig.verdict(c, 0.6, margin=1e-6).text


def test_verdict_with_enough_trials_does_not_ask_for_more():
    d = 0.045 + 0.01 * np.array([-1, 0, 1.0])  # a true difference just below the margin
    c = sig.compare_loss(1.5 + d, np.full(3, 1.5))
    v = sig.verdict(c, 0.2, margin=0.05)
    assert v.kind == "inconclusive" and "about 3 trials" in v.text and "are enough" in v.text


# ---------------------------------------------------------------- bootstrap and synthesis


def block_pds(rng, n, blocks, mean=0.1, spread=0.05, noise=0.02):
    pd = random_pd(rng, n, mean, spread)
    e = np.triu(rng.standard_normal((blocks, n, n)), 1)
    return pd[..., None] * (1 + noise * (e + e.swapaxes(1, 2)).transpose(1, 2, 0))


def test_bootstrap_is_paired_and_repeatable():
    rng = np.random.default_rng(4)
    a, b = block_pds(rng, 6, 8), block_pds(rng, 6, 8)
    b[np.arange(6), np.arange(6)] = np.nan  # never read
    scaled = sig.multi_bootstrap(0.9 * a, a, replications=200)
    assert (scaled.ratio, scaled.low, scaled.high) == pytest.approx((0.9, 0.9, 0.9)) and scaled.se < 1e-12
    assert sig.multi_bootstrap(0.9 * a, a, paired=False, replications=200).se > 0.001
    one, same, other = (sig.multi_bootstrap(a, b, replications=500, seed=s) for s in (0, 0, 1))
    assert one == same and one != other
    assert one.low < one.ratio < one.high and no_nan(one)
    upper = np.triu_indices(6, 1)
    assert one.ratio == pytest.approx(a[upper].mean() / b[upper].mean())


def test_bootstrap_resamples_as_written_out():
    rng = np.random.default_rng(5)
    pd, trials, windows = block_pds(rng, 5, 4), [0, 2, 2, 4, 0], [1, 1, 3, 0]
    pd[np.arange(5), np.arange(5)] = 0
    values = [pd[i, j, w] for a, i in enumerate(trials) for j in trials[a + 1 :] if i != j for w in windows]
    counts = np.bincount(trials, minlength=5).astype(float)[None], np.bincount(windows, minlength=4).astype(float)[None]
    assert sig._resampled_mean(pd, *counts) == pytest.approx([np.mean(values)])
    draws = sig._resample(rng, 5, 5000, distinct=2)
    assert (draws.sum(axis=1) == 5).all() and ((draws > 0).sum(axis=1) >= 2).all()


def test_bootstrap_separates_trials_from_positions():
    rng = np.random.default_rng(6)
    n, blocks = 8, 40
    a, b = block_pds(rng, n, blocks, noise=0.01), block_pds(rng, n, blocks, noise=0.01)
    result = sig.multi_bootstrap(a, b, replications=4000)
    jackknife = sig.compare_pd(a.mean(axis=2), b.mean(axis=2)).se
    assert result.se_trials == pytest.approx(jackknife, rel=0.35)
    upper = np.triu_indices(n, 1)
    x, y = a[upper].mean(axis=0), b[upper].mean(axis=0)
    linear = np.std(x / x.mean() - y / y.mean()) / math.sqrt(blocks)
    assert result.se_positions == pytest.approx(linear, rel=0.1)


# ---------------------------------------------------------------- influence of one trial


def without_each(pds, names):
    """The contrast of `names` with ReLU, and without each trial, numbered from 1."""
    n = len(pds["relu"])
    left = {
        k + 1: sig.smooth_contrast({a: np.delete(np.delete(pd, k, 0), k, 1) for a, pd in pds.items()}, names)
        for k in range(n)
    }
    return sig.smooth_contrast(pds, names), left


def test_a_planted_odd_seed_is_named():
    rng, n, odd = np.random.default_rng(2), 8, 5
    pds = {name: random_pd(rng, n, 0.14, 0.01) for name in ("relu", "gelu", "swish")}
    whole, left = without_each(pds, ["gelu", "swish"])
    assert sig.influence(whole, left).shift < 1 and whole.p > 0.05
    for name in ("gelu", "swish"):
        pds[name] *= 1.03
        pds[name][odd - 1], pds[name][:, odd - 1] = 0.8 * pds[name][odd - 1], 0.8 * pds[name][:, odd - 1]
    whole, left = without_each(pds, ["gelu", "swish"])
    found = sig.influence(whole, left)
    assert found.trial == odd and found.without == left[odd] and found.decisive == (odd,) and found.notable
    # by hand: the differences of the trials' numbers
    expected = abs(left[odd].estimate - whole.estimate) / whole.se
    assert found.shift == pytest.approx(expected) and expected > 0.5
    assert (found.low, found.high) == (min(c.estimate for c in left.values()), left[odd].estimate)


def test_influence_of_a_mean_is_cooks():
    """Leaving x_k out of a mean moves it by (x_k - mean) / (n - 1)."""
    x = np.array([1.2, -0.3, 0.5, 2.4, 0.9])
    zero = np.zeros(5)
    whole = sig.compare_loss(x, zero)
    found = sig.influence(whole, {k: sig.compare_loss(np.delete(x, k), zero[1:]) for k in range(5)})
    assert found.trial == 3
    assert found.shift == pytest.approx(math.sqrt(5) * (x[3] - x.mean()) / 4 / x.std(ddof=1))
    assert found.decisive == () == sig.influence(whole, {0: sig.compare_loss(x[:2], zero[:2])}).decisive  # no test


def test_influence_needs_a_test():
    pd = np.full((2, 2), 0.1)
    assert sig.influence(sig.compare_pd(pd, pd), {1: sig.compare_pd(pd, pd)}) is None
    whole = sig.compare_loss(np.arange(3.0), np.zeros(3))
    assert sig.influence(whole, {}) is None and sig.influence(whole, {1: None}) is None


# ---------------------------------------------------------------- moderated tests


def moderated_by_hand(logs, reference, contrast=()):
    """The procedure written out on (n,) numbers per activation, in floats: {name: (t, df, p, low, high)}."""
    n, d0 = len(logs[reference]), 2
    d = {a: [x - y for x, y in zip(logs[a], logs[reference], strict=True)] for a in logs if a != reference}
    s0 = sum(np.var(x, ddof=1) for x in d.values()) / len(d)
    if contrast:
        d = {"contrast": np.mean([d[a] for a in contrast], axis=0)}
    found = {}
    for name, x in d.items():
        variance = (d0 * s0 + (n - 1) * np.var(x, ddof=1)) / (d0 + n - 1)
        test = stats.t(d0 + n - 1, loc=np.mean(x), scale=math.sqrt(variance / n))  # of the mean, were the truth here
        t = np.mean(x) / math.sqrt(variance / n)
        found[name] = t, d0 + n - 1, 2 * stats.t.sf(abs(t), d0 + n - 1), *test.interval(0.95), *test.interval(0.9)
    return found


def five_activations(seed=0, n=4):
    rng = np.random.default_rng(seed)
    return {name: random_pd(rng, n, spread=0.02) for name in ("gelu", "swish", "smelu_1", "smelu_05", "relu")}


def moderated_family(pds, paired=True):
    plain = {name: sig.compare_pd(pd, pds["relu"], paired) for name, pd in pds.items() if name != "relu"}
    variance = sig.family_variance(plain.values())
    return plain, variance, {name: sig.moderate(c, variance) for name, c in plain.items()}


def test_moderated_worked_example():
    # losses of three trials, by hand: variances of the differences 1, 4 and 7 (1e-4), so s0² = 4e-4
    reference = np.array([1.50, 1.50, 1.50])
    unit = np.array([-1.0, 0.0, 1.0])
    shift, root = 0.06, np.sqrt([1, 4, 7])
    family = [sig.compare_loss(reference + 0.01 * r * unit - shift, reference) for r in root]
    variance = sig.family_variance(family)
    assert variance == pytest.approx(4e-4)
    for c, own in zip(family, (1e-4, 4e-4, 7e-4), strict=True):
        m = sig.moderate(c, variance)
        se = math.sqrt((2 * 4e-4 + 2 * own) / 4 / 3)
        assert (m.df, m.prior_df, m.kind) == (4, 2, "moderated paired t")
        assert (m.se, m.t) == pytest.approx((se, -0.06 / se))
        # Student's t on 4 degrees of freedom in closed form: F(t) = 1/2 + 3/8 x (1 - x²/12), x = t / √(1 + t²/4)
        x = abs(m.t) / math.sqrt(1 + m.t**2 / 4)
        assert m.p == pytest.approx(1 - 2 * (3 / 8) * x * (1 - x**2 / 12), rel=1e-9)
        assert m.high - m.low == pytest.approx(2 * 2.7764451052 * se) and m.p_plain == c.p


@pytest.mark.parametrize("seed", range(4))
def test_moderated_tests_are_the_procedure_written_out(seed):
    pds = five_activations(seed, n=3 + seed)
    logs = {name: sig.log_pseudo_values(pd) for name, pd in pds.items()}
    plain, variance, moderated = moderated_family(pds)
    for name, (t, df, p, low, high, low90, high90) in moderated_by_hand(logs, "relu").items():
        ours = moderated[name]
        assert (ours.t, ours.df, ours.p) == pytest.approx((t, df, p), rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)
        assert (ours.low90, ours.high90) == pytest.approx((math.exp(low90), math.exp(high90)), rel=1e-9)
        assert (ours.effect, ours.p_plain) == (plain[name].effect, plain[name].p) and no_nan(ours)
        assert (ours.g, ours.g_low) == (plain[name].g, plain[name].g_low)
    smooth = ["gelu", "swish", "smelu_1"]
    contrast = sig.moderate(sig.smooth_contrast(pds, smooth), variance)
    t, df, p, low, high, *_ = moderated_by_hand(logs, "relu", smooth)["contrast"]
    assert (contrast.t, contrast.df, contrast.p) == pytest.approx((t, df, p), rel=1e-9)
    assert (contrast.low, contrast.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)


def test_moderated_variance_is_the_posterior_mean_of_smyth():
    # v | σ² ~ σ² χ²_d / d and 1/σ² ~ χ²_d0 / (d0 s0²): the moderated variance is 1 / E[1/σ² | v], by quadrature
    v, d, s0, d0 = 3.1e-4, 3, 5e-4, sig.PRIOR_DF
    tau = np.linspace(1e-6, 4e4, 200_001)
    density = stats.chi2.pdf(tau * d0 * s0, d0) * tau * stats.chi2.pdf(tau * d * v, d)
    expected = np.trapezoid(density, tau) / np.trapezoid(density * tau, tau)
    x = np.array([-1, 1, -1, 1]) * math.sqrt(v * 3 / 4)  # whose variance is v
    ours = sig.moderate(sig.compare_loss(x, np.zeros(4)), s0)
    assert ours.sd**2 == pytest.approx(expected, rel=1e-6) and ours.se == pytest.approx(ours.sd / 2)


def test_unpaired_moderation_works_on_welchs_terms():
    rng = np.random.default_rng(5)
    groups = [rng.normal(1.5, 0.02 * (i + 1), n) for i, n in enumerate((4, 6, 3, 5))]
    plain = [sig.compare_loss(x, groups[0], paired=False) for x in groups[1:]]
    welch = [stats.ttest_ind(x, groups[0], equal_var=False) for x in groups[1:]]
    n = [stats.hmean([len(x), len(groups[0])]) for x in groups[1:]]
    own = [m * (x.var(ddof=1) / len(x) + groups[0].var(ddof=1) / 4) for m, x in zip(n, groups[1:], strict=True)]
    assert sig.family_variance(plain) == pytest.approx(np.mean(own))
    for c, m, v, theirs, x in zip(plain, n, own, welch, groups[1:], strict=True):
        ours = sig.moderate(c, np.mean(own))
        df = theirs.df + 2
        t = (x.mean() - groups[0].mean()) / math.sqrt((2 * np.mean(own) + theirs.df * v) / df / m)
        assert (ours.t, ours.df, ours.p) == pytest.approx((t, df, 2 * stats.t.sf(abs(t), df)), rel=1e-9)
        assert ours.kind == "moderated Welch t" and ours.prior_df == 2


def test_what_is_not_moderated():
    pds = five_activations()
    plain, variance, _ = moderated_family(pds)
    two = list(plain.values())[:2]
    assert sig.family_variance(two) is None and sig.family_variance([]) is None
    still = sig.compare_pd(pds["gelu"], 2 * pds["gelu"])  # no variation: no test, and nothing to lend
    assert sig.family_variance([*two, still, None]) is None
    assert sig.moderate(plain["gelu"], None) is plain["gelu"] and sig.moderate(still, variance) is still


def test_planning_with_a_moderated_test():
    delta = -math.log(0.95)
    _, _, moderated = moderated_family(five_activations(2, n=3))
    c = moderated["gelu"]
    plan = sig.plan_trials(c, delta)
    critical = {m: stats.t.ppf(0.975, m + 1) for m in range(3, 300)}

    def power(m, sd):
        nc = delta / (sd * math.sqrt((1 + 4 / 3 / (m - 2)) / (1 + 4 / 3)) / math.sqrt(m))
        return stats.nct.sf(critical[m], m + 1, nc) + stats.nct.cdf(-critical[m], m + 1, nc)

    limits = [c.sd * math.sqrt(4 / stats.chi2.ppf(q, 4)) for q in (0.9, 0.1)]
    expected = [next(m for m in critical if power(m, sd) >= 0.8) for sd in (c.sd, *limits)]
    assert list(plan) == expected
    assert sig.power(delta, c.se, c.df) == pytest.approx(power(3, c.sd), abs=1e-6)
    detectable = sig.smallest_detectable(c.se, c.df)
    assert sig.power(detectable, c.se, c.df) == pytest.approx(0.8)


# ---------------------------------------------------------------- families, ties, studies that share trials


@pytest.mark.parametrize("paired", [True, False])
def test_equivalence_is_two_one_sided_t_tests(paired):
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.004, 0.02):
        x, y = rng.normal(1.5, 0.004, 5) + shift, rng.normal(1.5, 0.004, 5)
        c = sig.compare_loss(x, y, paired)

        def one_sided(limit, side, x=x, y=y):
            test = stats.ttest_rel if paired else lambda *a, **k: stats.ttest_ind(*a, equal_var=False, **k)
            return test(x - limit, y, alternative=side).pvalue

        expected = max(one_sided(-0.01, "greater"), one_sided(0.01, "less"))
        assert sig.equivalence_p(c) == pytest.approx(expected, rel=1e-9)
    c = sig.compare_pd(B5 * (1 + 0.002 * matrix(np.sin(range(10)))), B5)
    for margin in (0.001, 0.002, 0.004, 0.05):
        inside = 1 - margin < c.low90 and c.high90 < 1 / (1 - margin)
        assert (sig.equivalence_p(c, margin) < 0.05) == inside
    assert sig.equivalence_p(sig.compare_pd(A3, A3)) is None


def test_verdict_of_a_family_uses_its_adjusted_p_of_equality():
    c = sig.compare_pd(B5 * (1 + 0.002 * matrix(np.sin(range(10)))), B5)
    assert sig.verdict(c, 0.5).kind == "equal" == sig.verdict(c, 0.5, p_equal=0.04).kind
    assert sig.verdict(c, 0.5, p_equal=0.06).kind == "inconclusive"


def test_gatekeeping():
    first = {"gelu": 0.01, "swish": 0.2, "silu": None}
    contrast = {"smooth": 0.04}
    equal = {"gelu": 0.001, "swish": 0.001, "silu": 0.5}
    both = {"smooth": 0.9}
    pairs = {"gelu-swish": 0.02, "swish-silu": 0.012}
    a, b, c, d, e = sig.gatekeep([first, contrast, equal, both, pairs])
    assert a == pytest.approx({"gelu": 0.03, "swish": 0.4, "silu": 1.0})  # Holm
    assert b == pytest.approx({"smooth": 0.04})  # open, as one of the first family is found
    assert c == pytest.approx({"gelu": 0.03, "swish": 0.4, "silu": 1.0})  # never surer than the gate
    assert d == {"smooth": 0.9} and e == pytest.approx({"gelu-swish": 0.03, "swish-silu": 0.03})
    shut = {"gelu": 0.03, "swish": 0.2, "silu": None}
    assert sig.gatekeep([shut, {"smooth": 0.001}])[1] == pytest.approx({"smooth": 0.09})
    planned = sig.gatekeep([shut, {"smooth": 0.001}, {"smooth": 0.0001}], planned="smooth")
    assert planned[1:] == [{"smooth": 0.002}, {"smooth": 0.002}]  # at half the level without a gate; then the gate
    assert sig.gatekeep([first, contrast], planned="smooth")[1] == pytest.approx({"smooth": 0.04})
    assert sig.gatekeep([]) == [] and sig.gatekeep([{}, {"smooth": 0.01}])[1] == {"smooth": 1.0}


def test_gatekeeping_errs_no_more_than_its_first_family():
    # independent p-values, nothing to find: 5 % for Holm over three; a second family of the same three adds nothing
    p = np.random.default_rng(0).uniform(size=(4000, 2, 3))
    found = [sig.gatekeep([dict(enumerate(a)), dict(enumerate(b)), {"new": b[0]}]) for a, b in p]
    any_first = np.array([min(a.values()) < 0.05 for a, _, _ in found])
    any_later = np.array([min(*b.values(), *c.values()) < 0.05 for _, b, c in found])
    assert abs(any_first.mean() - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4000) and not (any_later & ~any_first).any()


def test_noise_ties_and_nothing_more():
    assert sig.same(0.2, 0.2 + 1e-9) and sig.same(0.2, 0.2) and sig.same(0, 0)
    assert not sig.same(0.2, 0.2001) and not sig.same(0, 1e-9)
    single, double = np.float32(0.2), 0.2
    assert sig.same(float(single), double)


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("alpha", [0.05, 0.0125, 0.3])
@pytest.mark.parametrize("looks", [(3, 5, 8, 12, 20), (3, 6, 10), (5,)])
def test_levels_of_the_looks_spend_the_error_in_equal_shares(looks, alpha):
    # z statistics at n and m trials correlate with √(n/m): staying inside all bounds up to look k, by SciPy's integral
    levels = sequential.sequential_levels(looks, alpha)
    z = stats.norm.isf(np.array(levels) / 2)
    n = np.array(looks)
    correlation = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    for k in range(1, len(looks) + 1):
        stays = stats.multivariate_normal(cov=correlation[:k, :k], seed=0, abseps=1e-5, maxpts=10**5).cdf(
            z[:k], lower_limit=-z[:k]
        )
        assert 1 - stays == pytest.approx(alpha * k / len(looks), abs=1e-4)
    assert levels[0] == pytest.approx(alpha / len(looks)) and len(levels) == len(looks)


def test_repeated_p_is_the_inverse_of_the_levels():
    for alpha in (1e-6, 0.0125, 0.05, 0.4):
        for look, level in zip(sequential.LOOKS, sequential.sequential_levels(sequential.LOOKS, alpha), strict=True):
            assert sequential.repeated_p(level, look) == pytest.approx(alpha, rel=1e-3)
    assert sequential.repeated_p(1.0, 3) == 1.0 and 0 < sequential.repeated_p(1e-200, 20) < 1e-198
    p = np.geomspace(1e-14, 1, 400)
    for look in sequential.LOOKS:
        assert (np.diff(sequential.repeated_p(p, look)) >= 0).all() and (sequential.repeated_p(p, look) >= p).all()


def test_repeated_interval_and_p_are_one():
    pds = five_activations(1, n=5)
    _, _, moderated = moderated_family(pds | {"gelu": 0.9 * pds["gelu"]})
    c = moderated["gelu"]
    alpha = sequential.repeated_p(c.p, 5)
    low, high = sequential.repeated_interval(c, 5, alpha=alpha)
    assert min(abs(math.log(low)), abs(math.log(high))) == pytest.approx(0, abs=1e-4 * c.se)
    level = sequential.sequential_levels()[1]
    half = stats.t.ppf(1 - level / 2, c.df) * c.se
    assert sequential.repeated_interval(c, 5) == pytest.approx((c.effect * math.exp(-half), c.effect * math.exp(half)))
    assert sequential.repeated_interval(sig.compare_pd(A3, A3), 3) == (None, None)


def losses_of(rng, n, shifts, sd=0.005):
    reference = rng.normal(1.5, sd, n)
    plain = {name: sig.compare_loss(rng.normal(1.5 + shift, sd, n), reference) for name, shift in shifts.items()}
    variance = sig.family_variance(plain.values())
    return {name: sig.moderate(c, variance) for name, c in plain.items()}


def test_decisions_stand_and_follow_holm_over_repeated_p():
    rng = np.random.default_rng(1)
    shifts = {"low": -0.1, "high": 0.1, "same": 0.0, "unclear": 0.008}
    decided, history = None, []
    for look in sequential.LOOKS:
        family = losses_of(rng, look, shifts)
        decided = sequential.decide(family, look, decided)
        history.append((family, decided))
    assert [d.kind for d in history[0][1].values()] == ["lower", "higher", "open", "open"]
    assert decided["same"].kind == "equal" and decided["low"] is history[0][1]["low"]
    family, first = history[0]
    adjusted = sig.holm([sequential.repeated_p(c.p, 3) for c in family.values()])
    assert [d.p for d in first.values()] == pytest.approx(adjusted)
    one_sided = [sig.equivalence_p(c) for c in family.values()]
    one_sided = [sequential.repeated_p(2 * p, 3) / 2 if p < 0.5 else 1 for p in one_sided]
    assert [d.p_equal for d in first.values()] == pytest.approx(sig.holm(one_sided))
    # at the second look the two that are decided are no longer in the way of the others
    family, second = history[1]
    rest = [sequential.repeated_p(family[n].p, 5) for n in ("same", "unclear")]
    assert [second[n].p for n in ("same", "unclear")] == pytest.approx(sig.holm(rest))
    assert all((d.look is None) == (d.kind == "open") for d in decided.values())
    untested = sequential.decide({"a": sig.compare_pd(A3, A3)}, 3)["a"]
    assert (untested.kind, untested.p, untested.low) == ("open", 1.0, None)
    with pytest.raises(ValueError, match="earlier"):
        sequential.decide(family, 5, {"low": decided["low"]})


def test_looks_err_as_often_as_they_say():
    """Differences of three comparisons with one reference, nothing to find, no margin that could stop a study: any
    claim over five looks and the family, against 5 %; without paying for the looks it is more."""
    rng, replications = np.random.default_rng(7), 400
    hits = unpaid = 0
    for _ in range(replications):
        x = rng.standard_normal((4, 20))
        decided, plain = None, False
        for look in sequential.LOOKS:
            family = {i: sig.compare_loss(1.5 + x[i, :look], 1.5 + x[0, :look]) for i in (1, 2, 3)}
            decided = sequential.decide(family, look, decided, margin=1e-6)
            plain |= min(sig.holm([c.p for c in family.values()])) < 0.05
        hits += any(d.kind != "open" for d in decided.values())
        unpaid += plain
    assert hits / replications < 0.05 + 3 * math.sqrt(0.05 * 0.95 / replications)
    assert hits / replications > 0.02 and unpaid > 2 * hits


# ---------------------------------------------------------------- calibration


def test_error_rates_by_simulation():
    """PD_ij = 1 + g_i + g_j + s_ij with nothing to find: the published rates, within 4 binomial standard errors."""
    rng, replications = np.random.default_rng(2024), 3000
    for n, rho, paired_rate, naive_rate in ((3, 0.40, 0.038, 0.18), (5, 0.25, 0.033, None), (5, 0.40, 0.044, 0.35)):
        ours = naive = covered = 0
        for _ in range(replications):
            pair = []
            for _ in "ab":
                g = 0.02 * math.sqrt(rho) * rng.standard_normal(n)
                s = np.triu(0.02 * math.sqrt(1 - 2 * rho) * rng.standard_normal((n, n)), 1)
                pair.append(1 + g[:, None] + g + s + s.T)
            c = sig.compare_pd(*pair)
            ours += c.p < 0.05
            covered += c.low <= 1 <= c.high
            naive += sig.naive_pairs_test(*pair).p < 0.05

        def tolerance(rate):
            return 4 * math.sqrt(rate * (1 - rate) / replications)

        assert abs(ours / replications - paired_rate) < tolerance(paired_rate)
        assert ours + covered == replications  # the interval and the test are one
        if naive_rate:
            assert abs(naive / replications - naive_rate) < tolerance(naive_rate)


def test_the_bootstraps_error_is_a_sample_deviation():
    """Two resamples a and b have the sample deviation |a - b| / √2, their quantiles are on the line between them."""
    rng = np.random.default_rng(5)
    stacks = []
    for _ in range(2):
        pd = rng.uniform(0.1, 0.2, (5, 5, 8))
        stacks.append((pd + pd.transpose(1, 0, 2)) / 2)
    found = sig.multi_bootstrap(*stacks, replications=2)
    share = stats.norm.cdf(-np.sqrt(5 / 4) * stats.t.ppf(0.975, 4))
    apart = np.log(found.high / found.low) / (1 - 2 * share)
    assert found.se == pytest.approx(apart / np.sqrt(2), rel=1e-9)


# ---------------------------------------------------------------- what is refused

NAN, INF = math.nan, math.inf
PLAIN = sig.compare_pd(A3, B3)
SHAPES = (5, 6), (4, 6), (6, 6), (5, 7)  # trials and blocks
GOOD, FOUR, SIX, MORE_BLOCKS = (block_pds(np.random.default_rng(0), *shape) for shape in SHAPES)
REFUSED = [  # function, what it is given, what it says
    *((sig.holm, [p], "between 0 and 1") for p in ([0.1, NAN], [1.2], [-0.1])),
    (sig.hedges_correction, [1], "more than 1"),
    *((sig.noncentral_t_cdf, wrong, "noncentral t") for wrong in ((NAN, 2, 0), (1, 0, 0), (1, 2, INF))),
    *((sig.power, [1.0, se, 2], "se") for se in (0.0, NAN, -1.0)),
    (sig.smallest_detectable, [1.0, 2, 1.0], "power"),
    *((sig.trials_needed, wrong, "delta") for wrong in ([0.0, 0.06, 3], [INF, 0.06, 3])),
    *((sig.trials_needed, [0.05, sd, 3], "sd") for sd in (-1.0, NAN)),
    (sig.trials_needed, [0.05, 0.06, 2], "n: 2 trials"),
    (sig.trials_needed, [0.05, 0.06, 3, 0.0, True, 0.01], "power"),
    (sig.smooth_contrast, [PDS, []], "at least one"),
    (sig.smooth_contrast, [PDS, ["relu"]], "without the reference"),
    (sig.smooth_contrast, [PDS, ["gelu", "gelu"]], "distinct"),
    (sig.smooth_contrast, [PDS, ["gellu"]], "no matrix for gellu"),
    (sig.smooth_contrast, [PDS, ["gelu"], "elu"], "no matrix for elu"),
    (sig.smooth_contrast, [PDS, ["swish"]], "same trials"),
    *((sig.compare_loss, [x, X], "losses") for x in ([1.0, NAN, 2.0], [1.0, INF, 2.0], [], [[1.0, 2.0, 3.0]])),
    (sig.compare_loss, [[1.0, 2.0, 3.0, 4.0], X], "same trials"),
    (sig.compare_pd, [A3, A5], "same trials"),
    *((sig.verdict, [PLAIN, p], "p_holm") for p in (None, NAN)),
    *((sig.verdict, [PLAIN, 0.5, "A", "B", None, margin], "margin") for margin in (0, 1.0)),
    (sig.moderate, [dataclasses.replace(PLAIN, prior_df=2), 0.1], "already"),
    *((sig.moderate, [PLAIN, variance], "variance") for variance in (0.0, -1.0, NAN, INF)),
    (sig.equivalence_p, [PLAIN, 1.5], "margin"),
    (sequential.repeated_p, [0.1, 4], "planned are looks at 3, 5"),
    (sequential.repeated_p, [1.2, 3], "between 0 and 1"),
    *((sequential.sequential_levels, [looks], "looks") for looks in ((2, 5), (3, 3), ())),
    (sequential.sequential_levels, [(3, 5), 1.0], "alpha"),
    (sig.multi_bootstrap, [GOOD[:3, :3], GOOD[:3, :3]], "at least 5; with fewer"),
    (sig.multi_bootstrap, [GOOD, FOUR, False], "at least 5"),
    (sig.multi_bootstrap, [GOOD, SIX], "same trials"),
    (sig.multi_bootstrap, [GOOD, MORE_BLOCKS], "blocks"),
    (sig.multi_bootstrap, [GOOD[..., :1], GOOD[..., :1]], "blocks"),
    (sig.multi_bootstrap, [GOOD, np.zeros((5, 5, 6))], "mean PD is 0"),
    (sig.multi_bootstrap, [GOOD[..., 0], GOOD[..., 0]], "shape"),
    (sig.multi_bootstrap, [GOOD, np.where(GOOD > 0.1, NAN, GOOD)], "finite"),
]


@pytest.mark.parametrize(("call", "given", "message"), REFUSED)
def test_what_is_refused(call, given, message):
    with pytest.raises(ValueError, match=message):
        call(*given)
