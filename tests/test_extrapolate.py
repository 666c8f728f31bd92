"""PD as a power of width and steps: against SciPy's tests, on laws that hold and that don't, from the command line."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy

import analyze_results
import storage
from analysis.products import Folder
from config import UserError
from questions.extrapolate import command, law
from questions.extrapolate.law import Cell, predict, problem
from significance import log_pseudo_values

MEASURED = Path(__file__).parent.parent / "findings" / "measured"
LENGTHS = (650, 1300, 2600, 5200)


def cells(widths=(32, 64, 128), lengths=LENGTHS, n=5, law=lambda w, s: 0.14, seed=0, losses=lambda w: 2.0, rest=0.01):
    """`rest`: what is of a pair alone, beside the parts of its two trials; without it the intervals are SciPy's."""
    rng = np.random.default_rng(seed)
    made = []
    for width in widths:
        trials = rng.standard_normal(n)
        for steps in lengths:
            own = 0.008 * (trials + 0.5 * rng.standard_normal(n))
            noise = np.triu(rest * rng.standard_normal((n, n)), 1)
            pd = law(width, steps) * (1 + own[:, None] + own + noise + noise.T)
            np.fill_diagonal(pd, 0)
            made.append(Cell(f"w{width}", width, steps, pd, losses(width) + 0.001 * rng.standard_normal(n)))
    return made


def power(w, s):
    return 0.14 * (w / 64) ** -0.2 * (s / 1300) ** 0.05


def test_the_exponent_of_steps_is_the_mean_slope_of_the_trials():
    own = cells(widths=(64,), law=power, rest=0)
    logs = np.log(LENGTHS)
    slopes = np.polyfit(logs, np.array([log_pseudo_values(cell.pd) for cell in own]), 1)[0]  # one a trial
    test = scipy.stats.ttest_1samp(slopes, 0)
    found = predict(own, 64, 10400).exponents["steps"]
    assert found.value == pytest.approx(slopes.mean(), rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), rel=1e-9)


def test_the_exponent_of_width_is_welchs_difference_of_two_studies():
    small, large = cells(widths=(64, 256), lengths=LENGTHS[:2], law=power, rest=0), None
    per_trial = {w: np.mean([log_pseudo_values(c.pd) for c in small if c.width == w], axis=0) for w in (64, 256)}
    test = scipy.stats.ttest_ind(per_trial[256], per_trial[64], equal_var=False)
    found = predict(small, 100, 700).exponents["width"]
    large = test.confidence_interval()
    assert (found.low, found.high) == pytest.approx((large.low / math.log(4), large.high / math.log(4)), rel=1e-9)


def test_a_law_is_recovered():
    p = predict(cells(law=power, n=8), 256, 10400)
    assert p.pd.low < power(256, 10400) < p.pd.high < 1.1 * p.pd.low
    assert p.exponents["width"].low < -0.2 < p.exponents["width"].high
    assert p.exponents["steps"].low < 0.05 < p.exponents["steps"].high


def test_more_trainings_ahead_or_nearer_are_known_better():
    own = cells(law=power)
    size = [math.log(p.high / p.low) for p in (predict(own, w, 5200, n).pd for w, n in ((64, 99), (64, 3), (256, 3)))]
    assert size[0] < size[1] < size[2]


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_hold_what_is_measured_then(n):
    held = 0
    for seed in range(150):
        own = cells(law=power, n=n, seed=seed)
        if problem(own, 256, 5200):
            continue
        (new,) = cells((256,), (5200,), n, power, 1000 + seed)
        pd = predict(own, 256, 5200).pd
        held += pd.low <= new.pd.sum() / (n * (n - 1)) <= pd.high
    assert held >= 132


@pytest.mark.parametrize(
    ("own", "target", "why"),
    [
        (cells(), (600, 1300), "farther out"),
        (cells(), (64, 50_000), "farther out"),
        (cells(widths=(32, 64)), (128, 1300), "3 values, 4 times apart"),
        (cells(widths=(32, 40, 48)), (64, 1300), "3 values, 4 times apart"),
        (cells(widths=(64, 128), lengths=(650,)), (100, 650), "a law is always found"),
        (cells(law=lambda w, s: 0.14 * (2 if w == 128 else 1)), (256, 5200), "not a power of"),
        (cells(law=lambda w, s: 0.1 + 0.04 * 64 / w), (256, 5200), "not a power of width"),
        (cells(law=lambda w, s: 0.14 * (max(s, 2600) / 2600) ** -0.3), (64, 10400), "not a power of steps"),
        (cells(losses=lambda w: 2.1 if w == 128 else 2.0), (256, 5200), "w128 has a higher loss"),
    ],
)
def test_what_speaks_against_it(own, target, why):
    assert why in problem(own, *target)
    with pytest.raises(ValueError, match=why):
        predict(own, *target)


def asked(*studies, width=None, steps=None):
    return command.run(
        studies, Folder(Path(), Path(), studies=MEASURED), SimpleNamespace(to_width=width, to_steps=steps)
    )


def test_published_studies():
    """The widest of them had too high a rate, which its loss shows."""
    text = asked("D64", "A", "D256", width=512)
    assert "ReLU: not extrapolated. D256 has a higher loss" in text
    assert "SmeLU β=1 " in text
    with pytest.raises(UserError, match="nothing|outside of what there is"):
        asked("A", steps=2000)
    with pytest.raises(UserError, match="A and B differ in more than width and length: dataset"):
        asked("A", "B")


def test_few_trials_and_strangers(tmp_path):
    results = storage.read_results(MEASURED / "A" / "results" / "relu_results.json")
    results["trials"] = results["trials"][:2]
    with pytest.raises(UserError, match="A has 2 trials of relu; 3 are needed"):
        command.cells_of("A", command.measure({"relu": results})["relu"])


def test_the_command_line(capsys):
    flags = ["--studies-dir", str(MEASURED), "--extrapolate"]
    assert analyze_results.main([*flags, "D64", "A", "D256", "--to-width", "512"]) == 0
    assert "width 512 after 1300 steps" in capsys.readouterr().out
    assert analyze_results.main([*flags, "A", "nowhere"]) == 2
    assert analyze_results.main([*flags, "A", "--to-width", "1000"]) == 2
    assert "3 values" in capsys.readouterr().err


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_variance_of_a_mean_over_pairs(n):
    """Of pairs that are a mean, the parts of their two trials, and a rest: 4 g²/n + 2 r²/(n (n − 1)); with three trials
    the jackknife's, which has 4 r²/(n (n − 2)) in the place of the second."""
    rng, g, r, estimates = np.random.default_rng(n), 0.05, 0.06, []
    for _ in range(3000):
        parts, rest = g * rng.standard_normal(n), np.triu(r * rng.standard_normal((n, n)), 1)
        pd = 1 + parts[:, None] + parts + rest + rest.T
        np.fill_diagonal(pd, 0)
        psi = np.array([2 * pd[k].sum() / (n - 2) for k in range(n)])  # pseudo-values of the mean, but for a constant
        estimates.append(law._variance(psi, pd))
    of_rest = 4 / (n * (n - 2)) if n == 3 else 2 / (n * (n - 1))
    assert np.mean(estimates) == pytest.approx(4 * g**2 / n + of_rest * r**2, rel=0.06)
