"""All studies in one table, and pooled: against SciPy on the trials themselves, and what the words may say."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import analyze_results
import significance
import storage
from analysis import studies
from analysis.results import Measured
from config import UserError
from synthetic import synthetic_results, synthetic_study


def write(folder, study=0, names=("smelu_05", "relu", "gelu"), **kwargs):
    """A study of three activations, whose settings differ from those of other numbers."""
    made = synthetic_study(names, **{"seed": study, **kwargs})
    for results in made.values():
        results["fingerprint"] = f"{study:x}" * 64
        results["dataset"]["name"] = f"/corpora/plays_{study}.txt"
        storage.write_results(results, folder)
    return made


@pytest.fixture
def three(tmp_path):
    """{name: results by activation} of the flat folders and two more studies, as they lie on disk."""
    made = {
        "main": write(tmp_path / "results", 1),
        "deep": write(tmp_path / "studies" / "deep" / "results", 2, spread=0.05),
        "wide": write(tmp_path / "studies" / "wide" / "results", 3),
    }
    (tmp_path / "studies" / "begun" / "results").mkdir(parents=True)  # nothing measured yet
    return tmp_path, made


def load(folder):
    return studies.load_studies(folder / "results", folder / "studies")


def log_differences(made, name):
    """Per-trial ln PD differences to ReLU, (n,)."""
    pds = (Measured(n, made[n]).pd() for n in (name, "relu"))
    a, b = map(significance.log_pseudo_values, pds)
    return a - b


def test_studies_are_found_and_every_row_is_that_of_the_study_alone(three):
    folder, made = three
    found = load(folder)
    assert list(found) == ["main", "deep", "wide"]
    table = studies.studies_frame(found)
    assert len(table) == 9
    for name, results in made.items():
        alone = analyze_results.calculate_statistical_significance(results).set_index(["Activation_A", "Activation_B"])
        for row in table[table["Study"] == name].itertuples():
            trials = [t["val_loss"] for t in results[row.Activation]["trials"]]
            pairs = [p["relative_pd"] for p in results[row.Activation]["reproducibility_metrics"]]
            assert row.Avg_Val_Loss == pytest.approx(np.mean(trials)) and row.Parameters == 804096
            assert row.Avg_Relative_PD == pytest.approx(np.mean(pairs))
            if row.Activation == "relu":
                assert row.PD_Verdict == "reference" and row.PD_Ratio is pd.NA
                continue
            test = alone.loc[(row.Activation, "relu")]
            assert row.PD_Ratio == test["PD_Ratio"] and row.PD_p_Holm == test["PD_p_Holm"]
            assert row.PD_CI_Low_Pct == pytest.approx(100 * (test["PD_CI_Low"] - 1))
            assert (row.PD_Verdict in ("lower", "higher")) == test["PD_Significant"]
    assert set(table["Dataset"]) == {"plays_1.txt", "plays_2.txt", "plays_3.txt"}


def test_pooling_is_a_t_test_over_studies_and_heterogeneity_an_analysis_of_variance(three):
    """With equal numbers of trials both are classical tests on the trials' ln PD differences."""
    folder, made = three
    for p in studies.pool(load(folder)):
        if p.activation == studies.SMOOTH:
            continue
        groups = [log_differences(results, p.activation) for results in made.values()]
        means = [g.mean() for g in groups]
        classical = scipy.stats.ttest_1samp(means, 0)
        interval = classical.confidence_interval()
        assert p.ratio() == pytest.approx(math.exp(np.mean(means)))
        assert p.p == pytest.approx(classical.pvalue)
        assert (p.ratio("low"), p.ratio("high")) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
        f = scipy.stats.f_oneway(*groups)
        assert p.effects.q == pytest.approx(2 * f.statistic) and p.heterogeneity_p == pytest.approx(f.pvalue)
        within = np.mean([g.var(ddof=1) for g in groups])
        assert p.effects.tau2 == pytest.approx(max(0, np.var(means, ddof=1) - within / 3))
        half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(p.effects.tau2 + np.var(means, ddof=1) / 3)
        assert p.predicted == pytest.approx((math.exp(np.mean(means) - half), math.exp(np.mean(means) + half)))


def test_the_interval_covers_where_studies_have_three_trials():
    """A tenth of a thousand null syntheses would miss with weights from each study's own three trials."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        made = {f"s{k}": _Bare(rng.normal(0, 0.05, 3)) for k in range(6)}
        p = studies._pool(made, "gelu", "PD")
        covered += p.ratio("low") <= 1 <= p.ratio("high")
    assert scipy.stats.binomtest(covered, 400, 0.95).pvalue > 0.001


class _Bare:
    """A study of which only the ln PD differences to ReLU are known."""

    def __init__(self, differences):
        self.name, self.recipe = "", id(self)
        positive = np.exp(differences)
        n, se = len(differences), differences.std(ddof=1) / math.sqrt(len(differences))
        self.comparison = significance.Comparison(
            "pd", "paired t", (n, n), float(np.exp(np.log(positive).mean())), p=0.5, se=float(se), df=n - 1.0
        )

    def test(self, name, quantity):
        return self.comparison

    own = test

    def said(self, name, quantity):
        return "inconclusive"


def test_holm_is_over_the_activations(three):
    found = [p for p in studies.pool(load(three[0])) if p.activation != studies.SMOOTH]
    assert [p.p_holm for p in found] == pytest.approx(significance.holm([p.p for p in found]))


def test_the_words_follow_from_the_data(three):
    folder, _ = three
    text = studies.studies_text(load(folder))
    assert "3 studies; 1 model (gpt); 3 corpora" in text and "lower in 3 of 3" in text
    write(folder / "studies" / "odd" / "results", 4, pd=0.2, names=("relu",))
    write(folder / "studies" / "odd" / "results", 4, pd=0.4, names=("smelu_05",))
    text = studies.studies_text(load(folder))
    assert "**Inconclusive over the studies**: SmeLU β=0.5" in text
    assert "The effect differs between studies" in text
    assert "nan" not in text.lower().replace("inconclusive", "")


def test_one_study_has_nothing_to_pool(tmp_path):
    write(tmp_path / "results")
    found = load(tmp_path)
    text = studies.studies_text(found)
    assert "one study only, so there is nothing to pool" in text
    assert {p.verdict for p in studies.pool(found)} == {"not pooled"}
    assert studies.pooled_frame(found)["p"].isna().all()


def test_two_trials_or_no_relu_are_told_not_tested(tmp_path):
    write(tmp_path / "results", n_trials=2)
    write(tmp_path / "studies" / "b" / "results", 2, names=("gelu", "swish"))
    found = load(tmp_path)
    assert studies.pool(found) == [] and "three finished trials of both" in studies.studies_text(found)
    table = studies.studies_frame(found).set_index(["Study", "Activation"])
    assert table.loc[("main", "gelu"), "PD_Verdict"] == "no test"
    assert table.loc[("b", "gelu"), "PD_Verdict"] == "no ReLU to compare with"


def test_the_same_experiment_twice_counts_once(three):
    folder, _ = three
    before = studies.pool(load(folder))
    write(folder / "studies" / "copy" / "results", 1)
    found = load(folder)
    assert [(p.p, p.effects.k) for p in studies.pool(found)] == [(p.p, 3) for p in before]
    assert "copy are the same experiment" in studies.studies_text(found)


def test_a_failed_audit_a_hostile_name_and_unequal_sizes_are_told(three):
    folder, _ = three
    made = write(folder / "studies" / "a|b<i>" / "results", 5)
    storage.write_results({**made["gelu"], "parameters": 900_000}, folder / "studies" / "a|b<i>" / "results")
    bad = synthetic_results("swish", audit_passed=False) | {"fingerprint": "5" * 64}
    storage.write_results(bad, folder / "studies" / "a|b<i>" / "results")
    text = studies.studies_text(load(folder))
    assert "<i>" not in text and r"a\|b&lt;i&gt;" in text
    assert "parameters of the activations differ by 11.9 %" in text
    assert "audit failed or no trial done: Swish" in text


def test_the_command_writes_everything(three, monkeypatch, capsys):
    folder, _ = three
    monkeypatch.chdir(folder)
    assert analyze_results.main(["--all-studies"]) == 0
    out = capsys.readouterr().out
    for name in ("results/all_studies.csv", "results/all_studies_pooled.csv", "results/ALL_STUDIES.md"):
        assert f"written: {name}" in out and (folder / name).stat().st_size > 200
    assert (folder / "plots" / "all_studies.png").stat().st_size > 10_000
    assert "(../plots/all_studies.png)" in (folder / "results" / "ALL_STUDIES.md").read_text()
    assert list(analyze_results.load_all_results("results")) == ["smelu_05", "relu", "gelu"]


def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert analyze_results.main(["--all-studies"]) == 2
    assert "train first" in capsys.readouterr().err
    write(tmp_path / "studies" / "mixed" / "results", 1, names=("relu",))
    write(tmp_path / "studies" / "mixed" / "results", 2, names=("gelu",))
    with pytest.raises(UserError, match="study mixed: .*can't be compared"):
        load(tmp_path)
    assert analyze_results.main(["--all-studies", "--study", "mixed"]) == 2


def test_a_sweep_over_beta_draws_its_figure_unasked(tmp_path):
    for name in ("smelu_0.1", "smelu_0.5", "smelu_2", "relu"):
        storage.write_results(synthetic_results(name), tmp_path / "results")
    written = analyze_results.write_all(tmp_path / "results", tmp_path / "plots")
    assert tmp_path / "plots" / "beta_sweep.png" in written and all(path.is_file() for path in written)
