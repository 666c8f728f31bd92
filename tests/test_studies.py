"""All studies in one table, and pooled: against SciPy on the trials themselves, and what the words may say."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.meta_analysis import combine_effects

import analyze_results
import significance
import storage
from analysis import markdown
from analysis.results import Measured
from config import UserError
from questions.studies import pooling
from questions.studies import tell as studies
from synthetic import add_frontier, minimal_results, synthetic_results, synthetic_study


def write(folder, study=0, names=("smelu_05", "relu", "gelu"), **kwargs):
    """A study of three activations, whose settings, corpus and trials differ from those of other numbers."""
    made = synthetic_study(names, **{"seed": study, **kwargs})
    for results in map(add_frontier, made.values()):
        results["fingerprint"] = f"{study:x}" * 64
        results["dataset"] |= {"name": f"/corpora/plays_{study}.txt", "sha256": f"{study:x}" * 64}
        for t in results["trials"]:
            t["weights_sha256"] = f"{study:x}" + t["weights_sha256"][1:]
        storage.write_results(results, folder)
    return made


def at(folder, study):
    """Where the results of a study are."""
    return folder / "studies" / study / "results"


@pytest.fixture
def three(tmp_path):
    """{name: results by activation} of the flat folders and two more studies, as they lie on disk."""
    made = {
        "main": write(tmp_path / "results", 1),
        "deep": write(at(tmp_path, "deep"), 2, spread=0.05),
        "wide": write(at(tmp_path, "wide"), 3),
    }
    at(tmp_path, "begun").mkdir(parents=True)  # nothing measured yet
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
    loaded = load(folder)
    assert list(loaded) == ["main", "deep", "wide"]
    table = studies.studies_frame(loaded)
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


def test_pooling_is_a_t_test_over_studies(three):
    """With equal numbers of trials, on the trials' ln PD differences."""
    folder, made = three
    for p in studies.pool(load(folder))["PD"]:
        if p.activation == studies.SMOOTH:
            continue
        groups = [log_differences(results, p.activation) for results in made.values()]
        means = [g.mean() for g in groups]
        classical = scipy.stats.ttest_1samp(means, 0)
        interval = classical.confidence_interval()
        assert p.ratio() == pytest.approx(math.exp(np.mean(means)))
        assert p.p == pytest.approx(classical.pvalue)
        assert (p.ratio("low"), p.ratio("high")) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
        within = np.mean([g.var(ddof=1) for g in groups])
        assert p.effects.tau2 == pytest.approx(max(0, np.var(means, ddof=1) - within / 3))
        half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(p.effects.tau2 + np.var(means, ddof=1) / 3)
        assert p.predicted == pytest.approx((math.exp(np.mean(means) - half), math.exp(np.mean(means) + half)))
        ses = [scipy.stats.sem(g) for g in groups]
        assert p.heterogeneity_p == pytest.approx(pooling.heterogeneity_p(means, ses, [2, 2, 2]))


def test_the_spread_over_trainings_is_compared_by_bartletts_test(tmp_path):
    """As SciPy's on the trials themselves; told only where the pooled errors are wrong about it."""
    folder = tmp_path / "alike"
    write(folder / "results", 1, n_trials=8)
    write(at(folder, "b"), 2, n_trials=8)
    assert "Bartlett" not in studies.studies_text(load(folder))
    made = [write(tmp_path / "results", 1, n_trials=8)]
    made.append(write(at(tmp_path, "b"), 2, n_trials=8, spread=0.3))
    pooled = {p.activation: p for p in studies.pool(load(tmp_path))["PD"]}
    for name in ("smelu_05", "gelu"):
        differences = [log_differences(m, name) for m in made]
        assert pooled[name].spreads == pytest.approx([np.std(d, ddof=1) for d in differences])
        assert pooled[name].spreads_p == pytest.approx(scipy.stats.bartlett(*differences).pvalue)
    assert "(p < 0.0001, Bartlett's test)" in studies.studies_text(load(tmp_path))
    unequal = [np.random.default_rng(0).normal(size=n) for n in (3, 5, 12)]
    variances, df = np.array([np.var(x, ddof=1) for x in unequal]), np.array([2, 4, 11])
    assert studies.same_spread(variances, df) == pytest.approx(scipy.stats.bartlett(*unequal).pvalue)
    assert studies.same_spread(variances[:1], df[:1]) is studies.same_spread(0 * variances, df) is None


def test_the_interval_covers_where_studies_have_three_trials():
    """A tenth of a thousand null syntheses would miss with weights from each study's own three trials."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        made = {f"s{k}": _Bare(rng.normal(0, 0.05, 3)) for k in range(6)}
        p = studies.pool_one(made, "gelu", "PD")
        covered += p.ratio("low") <= 1 <= p.ratio("high")
    assert scipy.stats.binomtest(covered, 400, 0.95).pvalue > 0.001


class _Bare:
    """A study of which only the ln PD differences to ReLU are known."""

    def __init__(self, differences):
        self.name, self.marks = "", {id(self)}
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


def test_all_p_values_are_adjusted_together(three):
    """Holm over the activations and the contrast, and the same at equal loss behind them."""
    every = studies.pool(load(three[0]))
    alone = {q: {p.activation: p for p in pooled} for q, pooled in every.items()}
    first = list(alone["PD"].values())
    assert [p.activation for p in first] == ["smelu_05", "gelu", studies.SMOOTH]
    assert [p.p_holm for p in first] == pytest.approx(significance.holm([p.p for p in first]))
    for name, p in alone["Matched_PD"].items():
        assert p.p_holm >= alone["PD"][name].p_holm


def test_the_words_follow_from_the_data(three):
    folder, _ = three
    text = studies.studies_text(load(folder))
    assert "3 studies; 1 model (gpt); 3 corpora" in text and "lower in 3 of 3" in text
    by_name = {p.activation: p for p in studies.pool(load(folder))["PD"]}
    size = f"SmeLU β=0.5 (by {100 * (1 - by_name['smelu_05'].ratio()):.1f} %)"
    assert by_name["smelu_05"].verdict == "lower" and size in text and "that matter" not in text
    assert "- main, deep and wide: 3 trainings of each (1,000 steps)." in text
    for results in three[1]["deep"].values():
        results["config"] |= {"vary": ["init", "order", "dropout"], "batch_size": 4, "block_size": 25, "dropout": 0.0}
        results["dataset"]["train_tokens"] = 400_000
        storage.write_results(results, at(folder, "deep"))
    training = "(1,000 steps, 0.25 of the text), which differ in initial weights and sample of text."
    assert f"\n- deep: 3 trainings of each {training}\n" in studies.studies_text(load(folder))
    write(at(folder, "odd"), 4, pd=0.2, names=("relu",))
    write(at(folder, "odd"), 4, pd=0.4, names=("smelu_05",))
    text = studies.studies_text(load(folder))
    assert "**Inconclusive over the studies**: SmeLU β=0.5" in text
    assert "The effect differs between studies" in text
    assert "nan" not in text.lower().replace("inconclusive", "")


def test_one_study_has_nothing_to_pool(tmp_path):
    write(tmp_path / "results")
    loaded = load(tmp_path)
    text = studies.studies_text(loaded)
    assert "one study only, so there is nothing to pool" in text
    assert {p.verdict for p in studies.pool(loaded)["PD"]} == {"not pooled"}
    assert studies.pooled_frame(loaded)["p"].isna().all()


def test_two_trials_or_no_relu_are_told_not_tested(tmp_path):
    write(tmp_path / "results", n_trials=2)
    write(at(tmp_path, "b"), 2, names=("gelu", "swish"))
    loaded = load(tmp_path)
    assert studies.pool(loaded)["PD"] == [] and "three finished trials of both" in studies.studies_text(loaded)
    table = studies.studies_frame(loaded).set_index(["Study", "Activation"])
    assert table.loc[("main", "gelu"), "PD_Verdict"] == "no test"
    assert table.loc[("b", "gelu"), "PD_Verdict"] == "no baseline to compare with"


def test_the_same_experiment_twice_counts_once(three):
    folder, _ = three
    before = studies.pool(load(folder))["PD"]
    write(at(folder, "copy"), 1)
    loaded = load(folder)
    for p, q in zip(before, studies.pool(loaded)["PD"], strict=True):
        assert (q.p, q.effects.k, q.studies) == (pytest.approx(p.p), 3, ["main", "deep", "wide"])
        assert q.left_out == {"copy": "main"}
    text = studies.studies_text(loaded)
    assert "copy and main hold the same trained models: they are not independent, and main alone counts" in text


# -- studies that are not independent ---------------------------------------------------------------------------------


def left_out(loaded):
    """What is left out of every pooling, each once."""
    pooled = [p.left_out for p in studies.pool(loaded)["PD"]]
    return [p for i, p in enumerate(pooled) if p not in pooled[:i]]


def again(folder, made, noise=0.0, **changes):
    """A study written once more: the same trials evaluated again, with a little noise, and with `changes`."""
    rng = np.random.default_rng(len(str(folder)))
    for results in copy.deepcopy(made).values():
        results.update(changes)
        for pair in results["reproducibility_metrics"]:
            pair["relative_pd"] *= math.exp(noise * rng.standard_normal())
        storage.write_results(results, folder)


def test_three_studies_that_differ_only_in_the_positions_evaluated_are_one(tmp_path):
    """The same trained weights at 1024, 1088 and 1152 positions: pooled as independent they would be conclusive."""
    made = write(tmp_path / "results", 1, names=("gelu", "relu"), pd=0.1, spread=0.3)
    for tokens in (1088, 1152):
        sha256 = f"{tokens:064x}"
        evaluation = {"positions": tokens, "sha256": sha256}
        again(at(tmp_path, f"at_{tokens}"), made, 0.002, evaluation=evaluation, fingerprint=sha256)
    loaded = load(tmp_path)
    (p,) = studies.pool(loaded)["PD"]
    means = [log_differences(m.all_results, p.activation).mean() for m in loaded.values()]
    assert scipy.stats.ttest_1samp(means, 0).pvalue < 0.05  # over studies, were they independent
    assert (p.studies, p.verdict, p.p) == (["main"], "not pooled", None)
    assert p.predicted is None and p.heterogeneity_p is None
    text = studies.studies_text(loaded)
    assert "at_1152 and main hold the same trained models" in text and "**Higher" not in text


def other_weights(trial):
    trial["weights_sha256"] = trial["weights_sha256"][::-1]


@pytest.mark.parametrize(
    ("change", "together"),
    [
        (lambda t: None, True),
        (other_weights, True),  # the same seeds on the same corpus
        (lambda t: t.update(seed=t["seed"] + 10_000), True),  # the same weights: a file that was moved
        (lambda t: t.update({"seed": 1} if t["trial_id"] == 3 else {"weights_sha256": ""}), True),
        (lambda t: other_weights(t) or t.update(seed=t["seed"] + 3), False),
        (lambda t: t.update(weights_sha256=None, seed=None), False),  # curves differ
    ],
)
def test_what_makes_studies_dependent(tmp_path, change, together):
    write(tmp_path / "results", 1)
    for results in write(at(tmp_path, "other"), 1, spread=0.03).values():
        results["fingerprint"] = "9" * 64
        for trial in results["trials"]:
            change(trial)
        storage.write_results(results, at(tmp_path, "other"))
    assert left_out(load(tmp_path)) == ([{"other": "main"}] if together else [{}])


def test_files_of_another_tool_are_known_by_their_curves(tmp_path):
    for name in ("relu", "gelu"):
        for folder in (tmp_path / "results", at(tmp_path, "copy")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}_results.json").write_text(json.dumps(minimal_results(name)), encoding="utf-8")
    assert left_out(load(tmp_path)) == [{"copy": "main"}]


def test_of_dependent_studies_the_one_with_more_trials_counts(three):
    folder, made = three
    before = studies.pool(load(folder))["PD"]
    again(at(folder, "evaluated_again"), made["deep"], fingerprint="8" * 64)
    for p, q in zip(before, studies.pool(load(folder))["PD"], strict=True):
        assert (q.p, q.studies, q.left_out) == (pytest.approx(p.p), p.studies, {"evaluated_again": "deep"})
    assert set(studies.pooled_frame(load(folder))["Studies"]) == {3}
    write(at(folder, "longer"), 3, n_trials=5)
    assert left_out(load(folder)) == [{"wide": "longer", "evaluated_again": "deep"}]


# -- contrasts, and single trials -------------------------------------------------------------------------------------


def test_contrasts_over_other_activations_are_not_pooled(tmp_path):
    write(tmp_path / "results", 1, names=("smelu_05", "gelu", "relu"))
    write(at(tmp_path, "b"), 2, names=("swish", "gelu", "relu"))
    loaded = load(tmp_path)
    assert {p.activation for p in studies.pool(loaded)["PD"]} == {"smelu_05", "gelu", "swish"}
    with pytest.raises(ValueError, match="main, b contrast different activations"):
        studies.pool_one(loaded, studies.SMOOTH, "PD")
    text = studies.studies_text(loaded)
    assert "are not pooled, being others in each study (main: SmeLU β=0.5 and GELU; b: GELU and Swish)" in text


def test_a_study_without_a_trial_is_that_of_the_other_trials(tmp_path):
    made = write(tmp_path / "results", 1, n_trials=5)
    left = load(tmp_path)["main"].without[2]
    for results in made.values():
        results["trials"] = [t for t in results["trials"] if t["trial_id"] != 2]
        pairs = results["reproducibility_metrics"]
        results["reproducibility_metrics"] = [p for p in pairs if "2" not in p["model_pair"].split("_vs_")]
    alone = studies.Member(made, "main")
    for quantity in studies.QUANTITIES:
        assert left.contrast.tests[quantity] == alone.contrast.tests[quantity]
        assert left.own("gelu", quantity) == alone.own("gelu", quantity)


def test_the_trial_that_a_summary_hangs_on_is_named(tmp_path):
    write(tmp_path / "results", 1, n_trials=6)
    made = write(at(tmp_path, "odd"), 2, n_trials=6)
    loaded = load(tmp_path)
    p = studies.pool_one(loaded, "gelu", "PD")
    for pair in made["gelu"]["reproducibility_metrics"]:
        pair["relative_pd"] *= 2.0 if "4" in pair["model_pair"].split("_vs_") else 1.0
    storage.write_results(made["gelu"], at(tmp_path, "odd"))
    loaded = load(tmp_path)
    p = studies.pool_one(loaded, "gelu", "PD")
    hangs = studies.influence(loaded, p)
    assert hangs.trial == ("odd", 4) and hangs.notable
    # by SciPy, from the differences that are left
    groups = [log_differences(loaded[name].all_results, "gelu") for name in ("main", "odd")]
    left = loaded["odd"].without[4].measured
    groups[1] = significance.log_pseudo_values(left["gelu"].pd()) - significance.log_pseudo_values(left["relu"].pd())
    n = [len(g) for g in groups]
    variance = sum((m - 1) * g.var(ddof=1) for m, g in zip(n, groups, strict=True)) / (sum(n) - 2)
    expected = pooling.random_effects([g.mean() for g in groups], [math.sqrt(variance / m) for m in n])
    assert hangs.without.mean == pytest.approx(expected.mean) and hangs.without.p == pytest.approx(expected.p)
    change = markdown.signed(100 * math.expm1(expected.mean))
    assert f"Without trial 4 of odd it is {change} %" in studies.studies_text(loaded)


def test_bits_per_byte_compare_tokenizers(tmp_path):
    """2.88 nats a character, 3.00 a byte and 4.81 a token of 3.4 bytes, each with its own tokenizer."""
    for name, loss, size in (("char", 2.88, 1.02), ("byte", 3.0, 1.0), ("bpe", 4.81, 3.4)):
        made = write(at(tmp_path, name), len(name), val_loss=loss)
        for results in made.values():
            results["dataset"]["tokenizer"] = name
            results["evaluation"]["bytes"] = round(size * results["evaluation"]["positions"])
            storage.write_results(results, at(tmp_path, name))
    loaded = load(tmp_path)
    table = studies.studies_frame(loaded).set_index("Study")
    for name, size in (("char", 1.02), ("byte", 1.0), ("bpe", 3.4)):
        rows = table.loc[name]
        assert set(rows["Tokenizer"]) == {name}
        expected = rows["Avg_Val_Loss"].astype(float) / math.log(2) / size
        assert rows["Bits_Per_Byte"].astype(float).to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4)
    text = studies.studies_text(loaded)
    assert all(words in text for words in ("tokenizer", "bits per byte", "compare bits per byte"))
    assert studies.bits_per_byte(Measured("relu", minimal_results("relu"))) is None


def test_a_failed_audit_a_hostile_name_and_unequal_sizes_are_told(three):
    folder, _ = three
    made = write(at(folder, "a|b<i>"), 5)
    storage.write_results({**made["gelu"], "parameters": 900_000}, at(folder, "a|b<i>"))
    bad = synthetic_results("swish", audit_passed=False) | {"fingerprint": "5" * 64, "dataset": made["gelu"]["dataset"]}
    storage.write_results(bad, at(folder, "a|b<i>"))
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
    assert "(../plots/all_studies.png)" in (folder / "results" / "ALL_STUDIES.md").read_text(encoding="utf-8")
    assert list(analyze_results.load_all_results("results")) == ["smelu_05", "relu", "gelu"]


def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert analyze_results.main(["--all-studies"]) == 2
    assert "train first" in capsys.readouterr().err
    write(at(tmp_path, "mixed"), 1, names=("relu",))
    write(at(tmp_path, "mixed"), 2, names=("gelu",))
    with pytest.raises(UserError, match="study mixed: .*can't be compared"):
        load(tmp_path)
    assert analyze_results.main(["--all-studies", "--study", "mixed"]) == 2


def test_a_sweep_over_beta_draws_its_figure_unasked(tmp_path):
    for name in ("smelu_0.1", "smelu_0.5", "smelu_2", "relu"):
        storage.write_results(synthetic_results(name), tmp_path / "results")
    written = analyze_results.write_all(tmp_path / "results", tmp_path / "plots")
    assert tmp_path / "plots" / "beta_sweep.png" in written and all(path.is_file() for path in written)


# -- the statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1, 7))
def test_random_effects_is_that_of_statsmodels(seed):
    rng = np.random.default_rng(seed)
    k = 3 + seed
    effects, ses = rng.normal(-0.05, 0.02 * seed, k), rng.uniform(0.01, 0.08, k)
    ours = pooling.random_effects(effects, ses)
    theirs = combine_effects(effects, ses**2, method_re="dl", use_t=False)
    assert (ours.tau2, ours.i2) == pytest.approx((max(0, theirs.tau2), max(0, theirs.i2)), rel=1e-9)
    assert (ours.tau2 > 0) == (seed > 1)  # the samples hold both cases
    if ours.tau2 > 0:
        mean, se = theirs.mean_effect_re, theirs.sd_eff_w_re_hksj
    else:  # statsmodels goes on with a negative variance between studies; at zero both are its fixed effect
        mean, se = theirs.mean_effect_fe, theirs.sd_eff_w_fe_hksj
    half = scipy.stats.t.ppf(0.975, k - 1) * se
    assert (ours.mean, ours.se, ours.low, ours.high) == pytest.approx((mean, se, mean - half, mean + half), rel=1e-9)
    half = scipy.stats.t.ppf(0.95, k - 1) * se
    assert (ours.low90, ours.high90) == pytest.approx((mean - half, mean + half), rel=1e-9)
    assert ours.p == pytest.approx(2 * scipy.stats.t.sf(abs(mean) / se, k - 1), rel=1e-9)
    reach = scipy.stats.t.ppf(0.975, k - 2) * math.sqrt(ours.tau2 + se**2)
    assert ours.predicted == pytest.approx((mean - reach, mean + reach), rel=1e-9)


def test_random_effects_edges():
    one = pooling.random_effects([-0.1], [0.02])
    assert (one.mean, one.low, one.k) == (-0.1, None, 1) and None not in (one.mean, one.k)
    same = pooling.random_effects([0.1, 0.1, 0.1], [0.01, 0.02, 0.03])
    assert same.mean == pytest.approx(0.1) and (same.low, same.tau2, same.i2) == (None, 0, 0) and same.p is None
    for effects, ses, message in (
        ([], [], "effects"), ([0.1], [0.0], "ses"), ([0.1, 0.2], [0.1], "ses"), ([0.1, np.nan], [0.1, 0.1], "effects"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            pooling.random_effects(effects, ses)


def test_common_errors_are_of_the_variance_of_all_residuals():
    samples = [np.random.default_rng(k).normal(k, 0.02 * (k + 1), n) for k, n in enumerate((3, 5, 16))]
    n = np.array([len(x) for x in samples])
    residuals = np.concatenate([x - x.mean() for x in samples])
    expected = np.sqrt(residuals @ residuals / (n - 1).sum() / n)
    ses = [scipy.stats.sem(x) for x in samples]
    assert pooling.common_errors(ses, n, n - 1) == pytest.approx(expected)
    with pytest.raises(ValueError, match="degrees of freedom"):
        pooling.common_errors([0.0], [2], [0])


def test_heterogeneity_is_welchs_and_with_many_trials_the_chi_squared():
    """Samples of 40: SciPy's analysis of variance for unequal variances; nearly infinite df: Cochran's test."""
    samples = [np.random.default_rng(k).normal(0.1 * k, 0.3 + 0.2 * k, 40) for k in range(4)]
    means, ses = [x.mean() for x in samples], [scipy.stats.sem(x) for x in samples]
    ours = pooling.heterogeneity_p(means, ses, [39] * 4, 100_000)
    assert ours == pytest.approx(scipy.stats.f_oneway(*samples, equal_var=False).pvalue, abs=0.006)
    q = combine_effects(np.array(means), np.square(ses), method_re="dl").test_homogeneity()
    assert pooling.heterogeneity_p(means, ses, [1e7] * 4, 100_000) == pytest.approx(q.pvalue, abs=0.006)
    assert pooling.heterogeneity_p(means, ses, [39] * 4) == pooling.heterogeneity_p(means, ses, [39] * 4)
    assert pooling.heterogeneity_p([0.0, 1.0], [0.01, 0.01], [20, 20]) < 0.001
    assert pooling.heterogeneity_p([0.1], [0.1], [2]) is None
    with pytest.raises(ValueError, match="positive"):
        pooling.heterogeneity_p([0.1, 0.2], [0.1, 0.1], [2, 0])


def test_heterogeneity_errs_in_one_of_twenty_at_the_sizes_and_spreads_of_the_published_studies():
    """Simulated trials, nothing to find: 3 to 7 %, where Cochran's test rejects in 21 %."""
    rng, rounds = np.random.default_rng(4), 1500
    sizes, spreads = (16, 5, 5, 5, 5, 8, 10, 8), (0.0145, 0.0195, 0.0134, 0.0189, 0.0154, 0.0422, 0.0167, 0.0544)
    ours = cochran = 0
    for _ in range(rounds):
        samples = [rng.normal(0, sd, n) for n, sd in zip(sizes, spreads, strict=True)]
        means, ses = [x.mean() for x in samples], [scipy.stats.sem(x) for x in samples]
        ours += pooling.heterogeneity_p(means, ses, [n - 1 for n in sizes], 1000) < 0.05
        weights = np.array([1 / se**2 for se in ses])
        q = weights @ (np.array(means) - np.average(means, weights=weights)) ** 2
        cochran += scipy.stats.chi2.sf(q, 7) < 0.05
    assert 0.03 < ours / rounds < 0.07 < 0.15 < cochran / rounds


def test_studies_that_share_trials_count_once():
    overlapping = [{"a", "b", "c"}, {"b", "c", "d"}, {"c", "d", "e"}, {"d", "e", "f"}]
    assert pooling.separate_studies(overlapping) == {0: None, 1: 0, 2: 0, 3: None}
    assert pooling.separate_studies([["a", "b"], ["a", "b"], ["a", "b", "c"]]) == {0: 2, 1: 2, 2: None}
    assert pooling.separate_studies([["a"], ["b"], ["c"]]) == {0: None, 1: None, 2: None}
    assert pooling.separate_studies([]) == {}
    with pytest.raises(ValueError, match="at least one"):
        pooling.separate_studies([["a"], []])
