"""A study's tests, contrast and ranks against SciPy, and that there is one of each."""

import re

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from statsmodels.stats.multitest import multipletests

import analysis.study
import analyze_results
import significance
import storage
from analysis import products, report, sequential, tables
from analysis.study import Study
from config import UserError
from plotting import several
from questions.until_decided import looks
from synthetic import (
    STUDY,
    add_frontier,
    differences_from,
    log_jackknife,
    losses_of,
    moderated,
    pds_of,
    synthetic_results,
    synthetic_study,
    write_study,
)

# -- one of each ------------------------------------------------------------------------------------------------------


def test_a_study_is_made_once():
    study = Study(synthetic_study())
    assert Study.of(study) is study and list(Study.of(study.all_results).measured) == list(STUDY)
    assert study.tests is study.tests and study.contrast is study.contrast and study.without is study.without
    assert study.rank({"accuracy": 1}) is study.rank({"accuracy": 2, "efficiency": 0})


def test_nothing_is_computed_twice_for_the_files_of_a_study(tmp_path, monkeypatch):
    calls = {}

    def counted(module, name):
        original = getattr(module, name)

        def call(*arguments, **options):
            calls[name] = calls.get(name, 0) + 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(analysis.study, "measure")
    for name in (
        "compare_pd",
        "compare_loss",
        "smooth_contrast",
        "moderate",
        "gatekeep",
        "mean_pd_interval",
        "verdict",
    ):
        counted(significance, name)
    write_study(tmp_path / "results", synthetic_study())
    analyze_results.write_all(tmp_path / "results", tmp_path / "plots")
    pairs = 10
    times = 1 + 3  # the study, and without each of its trials
    assert calls == {
        "measure": times,
        "compare_pd": times * pairs,
        "compare_loss": times * pairs,
        "smooth_contrast": times,
        "moderate": times * (2 * pairs + 1),
        "gatekeep": times * 2,
        # of each activation, and with each trial left out in turn; and in figures, of PD (twice) and mismatch
        "mean_pd_interval": 5 + 3 * 5 + 3 * 5,
        "verdict": 2 * pairs + 1,
    }


def test_a_comparison_at_equal_loss_depends_on_the_compared_ones_alone():
    """A slow learner comes into the folder: losses, ratios and spreads of the others' comparisons stay as they were."""
    study = {n: add_frontier(r) for n, r in synthetic_study(("relu", "gelu", "smelu_05"), n_trials=4).items()}
    slow = add_frontier(synthetic_results("swish", n_trials=4, val_loss=2.4), above=(1.2, 0.8, 0.0))
    alone, beside = Study(study), Study(study | {"swish": slow})
    found = {(t.a, t.b): t for t in beside.tests}
    for t in alone.tests:
        same = found[t.a, t.b]
        assert same.own["Matched_PD"] == t.own["Matched_PD"] and same.loss == t.loss
    assert len({t.loss for t in alone.tests}) > 1 and alone.contrast.loss == alone.at_equal_loss[0]
    # the smooth ones together: a new smooth one belongs to them, one with a kink doesn't
    kinked = add_frontier(synthetic_results("leaky_relu", n_trials=4, val_loss=2.4), above=(1.2, 0.8, 0.0))
    other = Study(study | {"leaky_relu": kinked})
    assert other.contrast.own == alone.contrast.own and other.contrast.loss == alone.contrast.loss


def test_speed_is_another_word_for_efficiency():
    study = Study(synthetic_study())
    assert study.rank({"speed": 2, "accuracy": 1}) is study.rank({"efficiency": 2, "accuracy": 1})
    with pytest.raises(UserError, match="speed and efficiency are one criterion"):
        study.rank({"speed": 1, "efficiency": 1})


def with_verdicts_that_depend_on_the_family():
    """The PDs of GELU's trials are below ReLU's with p = .009: below .05 / 4, and not below .05 / 10."""
    study = synthetic_study(n_trials=4)
    relu, noise = pds_of(study["relu"]), scipy.stats.zscore([1.0, -0.4, 0.2, -0.9])

    def differing(scale, change):
        """ReLU's PDs, changed by a factor, and by another one for each trial."""
        return {(i, j): x * change * (1 + scale * (noise[i - 1] + noise[j - 1])) for (i, j), x in relu.items()}

    pds = {"smelu_05": differing(0.01, 1.001), "smelu_1": differing(0.02, 0.998), "swish": differing(-0.01, 1.002)}

    def p_values(change):
        logs = {name: log_jackknife(x) for name, x in (pds | {"relu": relu, "gelu": differing(0.06, change)}).items()}
        family = differences_from(logs)
        return {name: moderated(d, family.values())[2] for name, d in family.items()}

    change = scipy.optimize.brentq(lambda change: p_values(change)["gelu"] - 0.009, 0.5, 0.999)
    pds["gelu"] = differing(0.06, change)
    for name, wanted in pds.items():
        for pair in study[name]["reproducibility_metrics"]:
            pair["relative_pd"] = wanted[tuple(map(int, pair["model_pair"].split("_vs_")))]
    return study, p_values(change)


def test_one_verdict_per_pair_and_quantity():
    study, p = with_verdicts_that_depend_on_the_family()
    assert dict(zip(p, multipletests(list(p.values()), method="holm")[0], strict=True)) == {
        name: name == "gelu" for name in p
    }
    made = Study(study)
    every = [t.tests["PD"].p for t in made.tests]
    gelu = next(t for t in made.tests if (t.a, t.b) == ("gelu", "relu"))
    assert not multipletests(every, method="holm")[0][made.tests.index(gelu)]  # over all pairs: not significant
    assert made.verdict(gelu, "PD").kind == "lower"
    # the CSV
    table = analyze_results.calculate_statistical_significance(made).set_index(["Activation_A", "Activation_B"])
    row = table.loc["gelu", "relu"]
    assert row.PD_Significant and row.PD_Verdict.startswith("mean PD of GELU is lower") and row.Primary
    assert row.PD_p_Holm == pytest.approx(4 * p["gelu"])
    # the report: summary, planned comparisons, all pairs, conclusions
    text = report.report_text(made)
    assert "More reproducible (lower PD): GELU, by " in text
    assert "GELU: a lower mean PD than that of ReLU was shown" in text
    assert [line for line in text.splitlines() if line.startswith("| GELU ") and "**lower**" in line]
    assert not re.search(r"GELU against ReLU.*inconclusive", text)
    # console and figure
    assert "More reproducible (lower PD): GELU, by " in report.overview(made)
    drawn = {row["activation"]: row["verdict"] for row in several.ratio_rows(made) if "together" not in row}
    assert [name for name, verdict in drawn.items() if verdict == "lower"] == ["gelu"]


# -- the contrast -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_trials", [3, 6])
def test_smooth_contrast_against_scipy(n_trials):
    study = synthetic_study(n_trials=n_trials)
    smooth = np.mean([log_jackknife(pds_of(study[name])) for name in STUDY if name != "relu"], axis=0)
    expected = scipy.stats.ttest_rel(smooth, log_jackknife(pds_of(study["relu"])))
    contrast = Study(study).contrast
    assert contrast.names == ["smelu_05", "smelu_1", "gelu", "swish"]
    assert contrast.tests["PD"].p_plain == pytest.approx(expected.pvalue, rel=1e-7)
    logs = {name: log_jackknife(pds_of(results)) for name, results in study.items()}
    _, _, p, _, half = moderated(smooth - logs["relu"], differences_from(logs).values())
    assert contrast.tests["PD"].p == pytest.approx(p, rel=1e-7)
    centre = np.mean(smooth - logs["relu"])
    found = np.log([contrast.tests["PD"].low, contrast.tests["PD"].high])
    assert found == pytest.approx([centre - half, centre + half], rel=1e-7)


def test_smooth_contrast_of_what_is_there():
    study = synthetic_study()
    study["gelu"] = synthetic_results("gelu", diverged=(2,))
    contrast = Study(study).contrast  # GELU's two trials must not take the test from the others
    assert contrast.left_out == ["gelu"] and contrast.tests["PD"].n == (3, 3)
    study["relu"] = synthetic_results("relu", audit_passed=False)
    assert Study(study).contrast.reason == "there are no usable results of ReLU"
    for names in (("relu",), ("gelu", "swish"), ("relu", "mine", "gelu")):  # less than two smooth ones, or no ReLU
        assert not Study({name: synthetic_results(name) for name in names}).contrast.tests


# -- looks ------------------------------------------------------------------------------------------------------------


def looked_at(n_trials=5, looks_at=(3, 5), margin=0.05, **kwargs):
    """A study that was looked at while trials were added, and the record of it."""
    results = synthetic_study(n_trials=n_trials, **kwargs)
    plan = {"activations": list(results), "margin": margin, "looks": [3, 5, 8, 12, 20], "alpha": 0.05}
    taken = [{**look, "seconds": 1.0, "trained": 1} for look in looks.take(results, plan, looks_at)]
    record = {"schema_version": 1, "plan": plan, "looks": taken, "seconds_spent": 1.0, "trained": 1, "ended": None}
    return results, record


@pytest.mark.parametrize("kwargs", [{"spread": 0.02}, {"spread": 0.08}, {"spread": 0.2, "margin": 0.2}])
def test_where_looks_were_taken_all_p_values_and_intervals_allow_for_them(kwargs):
    results, record = looked_at(**kwargs)
    plain, made = Study(results), Study(results, looks=record)
    level = sequential.sequential_levels(sequential.LOOKS)[1]
    last = record["looks"][-1]["comparisons"]
    for before, t in zip(plain.tests, made.tests, strict=True):
        for quantity, test in t.tests.items():
            was = before.tests[quantity]
            assert test.p == pytest.approx(sequential.repeated_p(was.p, 5)) and test.p >= was.p
            half = scipy.stats.t.ppf(1 - level / 2, was.df) * was.se
            limits = [test.low, test.high] if quantity == "Loss" else np.log([test.low, test.high])
            assert limits == pytest.approx([was.estimate - half, was.estimate + half])
    for t in made.primary:
        recorded = last[t.a]
        assert [t.tests["PD"].low, t.tests["PD"].high] == pytest.approx([recorded["low"], recorded["high"]])
        kind = {"open": "inconclusive"}.get(recorded["decision"], recorded["decision"])
        assert made.verdict(t, "PD").kind == kind
    contrast = made.contrast.tests["PD"]
    assert contrast.p == pytest.approx(sequential.repeated_p(plain.contrast.tests["PD"].p, 5))


def test_a_decision_stands():
    results, record = looked_at(spread=0.2)
    for look in record["looks"]:  # as if it had been decided at three trials
        look["comparisons"]["gelu"].update(decision="lower", decided_at=3, p_adjusted=0.04)
        look["comparisons"]["swish"].update(decision="equal", decided_at=3, p_equal=0.03)
    made = Study(results, looks=record)
    said = {t.a: made.verdict(t, "PD").kind for t in made.primary}
    lower = "lower" if next(t for t in made.primary if t.a == "gelu").tests["PD"].effect < 1 else "higher"
    assert said["gelu"] == lower and said["swish"] == "equal"
    assert Study(results).against_baseline("PD", "equal") == []


def test_looks_are_read_with_the_results_they_are_of(tmp_path):
    results, record = looked_at()
    write_study(tmp_path / "results", results)
    assert products.read_study(tmp_path / "results").looks is None
    storage.write_json(storage.looks_path(tmp_path / "results"), record)
    made = products.read_study(tmp_path / "results")
    assert made.looks == record
    text = analyze_results.generate_final_report(results, tmp_path / "results" / "FINAL_REPORT.md")
    assert "This is look 2 of those planned, at 3, 5, 8, 12 and 20 trials" in text and "is not paid for" not in text
    assert "All p-values and intervals of this report allow for the looks." in text
    assert text == analyze_results.generate_final_report(made, tmp_path / "results" / "FINAL_REPORT.md")
    analyze_results.write_all(tmp_path / "results", tmp_path / "plots")
    written = (tmp_path / "results" / "significance.csv").read_text(encoding="utf-8")
    assert written == tables.csv(tables.significance(made)) != tables.csv(tables.significance(Study(results)))
    more = synthetic_study(n_trials=6)  # trials added since: no look was planned at six
    write_study(tmp_path / "more", more)
    storage.write_json(storage.looks_path(tmp_path / "more"), record)
    assert products.read_study(tmp_path / "more").looks is None


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_rank_ranges_leave_out_one_trial():
    study = synthetic_study(n_trials=4)
    ranges = Study(study).rank_ranges({"accuracy": 1})
    expected = {}
    for left_out in range(4):
        means = {name: np.delete(losses_of(results), left_out).mean() for name, results in study.items()}
        for rank, name in enumerate(sorted(means, key=means.get), 1):
            expected.setdefault(name, []).append(rank)
    assert ranges == {name: (min(ranks), max(ranks)) for name, ranks in expected.items()}
