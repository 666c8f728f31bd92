"""The analysis against numbers worked out independently, with NumPy, SciPy and statsmodels, from the same results."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

import analyze_results as ar
from analysis import tables
from analysis.study import Study
from analyze_results import (
    calculate_statistical_significance,
    generate_final_report,
    plan_trials,
    rank_activations,
    results_frame,
    save_results_summary,
)
from config import UserError
from conftest import speaking_utf8
from synthetic import (
    DEGENERATE,
    add_frontier,
    differences_from,
    log_jackknife,
    losses_of,
    moderated,
    pds_at_equal_loss,
    pds_of,
    synthetic_results,
    synthetic_study,
    write_study,
)

ROOT = Path(__file__).resolve().parent.parent


def row_of(table, a, b):
    found = table[(table.Activation_A == a) & (table.Activation_B == b)]
    assert len(found) == 1
    return found.iloc[0]


def summary_of(study):
    return tables.summary(Study(study))


# -- the table --------------------------------------------------------------------------------------------------------

CONTRACT = (
    "Activation Avg_Val_Loss Std_Val_Loss Avg_Train_Loss Avg_Relative_PD Avg_Pred_Diff_Pct Avg_Training_Time_Sec "
    "Num_Trials"
).split()


def test_summary_holds_the_numbers_of_the_results(tmp_path):
    import pandas as pd

    study = synthetic_study()
    write_study(tmp_path, study)
    table = save_results_summary(tmp_path / "summary.csv")
    assert list(table)[: len(CONTRACT)] == CONTRACT
    assert list(table.Avg_Relative_PD) == sorted(table.Avg_Relative_PD)
    for row in table.itertuples():
        results = study[row.Activation.lower()]
        assert row.Activation == row.Activation.upper()
        trials = {key: [t[key] for t in results["trials"]] for key in ("train_loss", "training_time")}
        assert row.Avg_Val_Loss == pytest.approx(losses_of(results).mean(), rel=1e-12)
        assert row.Std_Val_Loss == pytest.approx(scipy.stats.tstd(losses_of(results)), rel=1e-12)
        assert row.Avg_Train_Loss == pytest.approx(np.mean(trials["train_loss"]), rel=1e-12)
        assert row.Avg_Relative_PD == pytest.approx(np.mean(list(pds_of(results).values())), rel=1e-12)
        pairs = results["reproducibility_metrics"]
        share = [100 * p["prediction_differences"] / p["total_predictions"] for p in pairs]
        assert row.Avg_Pred_Diff_Pct == pytest.approx(np.mean(share), rel=1e-12)
        assert row.Avg_Training_Time_Sec == pytest.approx(np.mean(trials["training_time"]), rel=1e-12)
        assert (row.Num_Trials, row.Diverged_Trials, row.Name) == (3, 0, results["activation"])
        logs = log_jackknife(pds_of(results))
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(logs), scipy.stats.sem(logs))
        assert np.log([row.Relative_PD_CI_Low, row.Relative_PD_CI_High]) == pytest.approx([low, high], rel=1e-9)
    read, missing = pd.read_csv(tmp_path / "summary.csv"), ["Equal_Loss", "Equal_Loss_PD"]
    pd.testing.assert_frame_equal(read.drop(columns=missing), table.drop(columns=missing), check_dtype=False)
    assert table[missing].isna().all(axis=None) and len(read.columns) == 15
    assert (tmp_path / "summary.csv").read_bytes().isascii()
    tests = calculate_statistical_significance(study)
    assert set(read.merge(tests, left_on="Name", right_on="Activation_B").Name) == set(tests.Activation_B)


def test_the_summary_has_pd_at_equal_loss_where_branches_were_trained():
    study = {name: add_frontier(results) for name, results in synthetic_study().items()}
    table = summary_of(study).set_index("Name")
    expected = {name: np.mean(list(pds.values())) for name, pds in pds_at_equal_loss(study, *study).items()}
    assert table.Equal_Loss_PD.to_dict() == pytest.approx(expected)
    assert set(table.Equal_Loss) == {max(sum(sorted(losses_of(r))[-2:]) / 2 for r in study.values())}


def test_summary_reads_the_folder_it_is_told(tmp_path):
    write_study(tmp_path / "in", synthetic_study(("relu", "gelu")))
    table = save_results_summary(tmp_path / "out" / "table.csv", results_dir=tmp_path / "in")
    assert len(table) == 2 and (tmp_path / "out" / "table.csv").is_file()


def test_failed_audits_come_last_in_the_summary():
    study = synthetic_study()
    study["gelu"] = synthetic_results("gelu", pd=0.001, audit_passed=False)  # "perfectly reproducible"
    table = summary_of(study)
    assert list(table.Activation)[-1] == "GELU"
    assert table.Audit.iloc[-1] == "failed (causal)"


def test_stored_averages_are_never_used():
    study = synthetic_study(("relu", "gelu"))
    edited = copy.deepcopy(study)
    for results in edited.values():
        for key in results:
            if key.startswith(("avg_", "std_")):
                results[key] = 123.0
    assert summary_of(edited).equals(summary_of(study))


def test_results_frame_is_tidy():
    study = synthetic_study(n_trials=4)
    frame = results_frame(study)
    assert len(frame) == 5 * (4 + 6)
    trials = frame[(frame.kind == "trial") & (frame.activation == "swish")]
    assert list(trials.trial_id) == [1, 2, 3, 4]
    assert list(trials.val_loss) == [t["val_loss"] for t in study["swish"]["trials"]]
    pairs = frame[(frame.kind == "pair") & (frame.activation == "swish")]
    assert dict(zip(pairs.model_pair, pairs.relative_pd, strict=True)) == {
        f"{i}_vs_{j}": pd for (i, j), pd in pds_of(study["swish"]).items()
    }
    assert "nan" not in frame.to_string().lower()


# -- tests ------------------------------------------------------------------------------------------------------------


def per_trial(study):
    """{quantity: {activation: one number per trial}}: ln PD's pseudo-values, and losses."""
    return {
        "PD": {name: log_jackknife(pds_of(results)) for name, results in study.items()},
        "Loss": {name: losses_of(results) for name, results in study.items()},
    }


def at_equal_loss(study, *names):
    """{activation: ln PD's pseudo-values at the loss that these activations reach}."""
    return {name: log_jackknife(pds) for name, pds in pds_at_equal_loss(study, *names).items()}


@pytest.mark.parametrize("n_trials", [3, 5])
def test_moderated_tests_against_scipy(n_trials):
    study = {name: add_frontier(results) for name, results in synthetic_study(n_trials=n_trials).items()}
    table = calculate_statistical_significance(study)
    assert len(table) == 10 and not table.isna().any().any()
    for quantity, values in per_trial(study).items():
        family = list(differences_from(values).values())
        for row in table.to_dict("records"):
            a, b = (values[row[f"Activation_{side}"]] for side in "AB")
            t, df, p, _, half = moderated(a - b, family)
            found = [row[f"{quantity}_{key}"] for key in ("t", "df", "p", "p_Unmoderated")]
            assert found == pytest.approx([t, df, p, scipy.stats.ttest_rel(a, b).pvalue], rel=1e-7)
            limits = np.array([row[f"{quantity}_CI_Low"], row[f"{quantity}_CI_High"]])
            centre = np.mean(a - b)
            assert (np.log(limits) if quantity == "PD" else limits) == pytest.approx([centre - half, centre + half])
            assert (row[f"{quantity}_Test"], row[f"{quantity}_g_Kind"]) == ("moderated paired t", "g_z")
            assert row[f"{quantity}_N_A"] == row[f"{quantity}_N_B"] == n_trials and row["Seeds"] == "shared"


def test_effects_and_effect_sizes_against_scipy():
    study = synthetic_study(n_trials=5)
    for row in calculate_statistical_significance(study).itertuples():
        a, b = study[row.Activation_A], study[row.Activation_B]
        ratio = np.mean(list(pds_of(a).values())) / np.mean(list(pds_of(b).values()))
        assert row.PD_Ratio == pytest.approx(ratio, rel=1e-9)
        assert row.PD_Change_Pct == pytest.approx(100 * (ratio - 1), rel=1e-7)
        d = losses_of(a) - losses_of(b)
        assert row.Loss_Difference == pytest.approx(d.mean(), rel=1e-9)
        naive = scipy.stats.ttest_ind(list(pds_of(a).values()), list(pds_of(b).values()))
        assert row.Naive_p_uncalibrated == pytest.approx(naive.pvalue, rel=1e-7)
        bias = 1 - 3 / (4 * (5 - 1) - 1)  # Hedges' approximation of J
        assert row.Loss_g == pytest.approx(bias * d.mean() / scipy.stats.tstd(d), rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_tests_by_hand(seed):
    """PD against ReLU, the contrast, both at equal loss, other pairs; losses against ReLU, other pairs."""
    study = {n: add_frontier(r) for n, r in synthetic_study(n_trials=4, seed=seed, spread=0.05).items()}
    made, values = Study(study), per_trial(study)
    table = calculate_statistical_significance(made).set_index(["Activation_A", "Activation_B"])

    def difference(quantity, a, b):
        logs = at_equal_loss(study, a, b) if quantity == "Matched_PD" else values[quantity]
        return logs[a] - logs[b]

    def family_of(quantity):
        return [difference(quantity, name, "relu") for name in study if name != "relu"]

    def p_of(quantity, pairs):
        return [moderated(difference(quantity, a, b), family_of(quantity))[2] for a, b in pairs]

    def holm(p):
        return multipletests(p, method="holm")[1]

    planned = [pair for pair in table.index if "relu" in pair]
    others = [pair for pair in table.index if "relu" not in pair]
    first = holm(p_of("PD", planned))
    equal_loss = np.maximum(holm(p_of("Matched_PD", planned)), first)
    assert list(table.PD_p_Holm[planned]) == pytest.approx(first)
    assert list(table.Matched_PD_p_Holm[planned]) == pytest.approx(equal_loss)
    rest = np.maximum(holm(p_of("PD", others)), first.min())
    assert list(table.PD_p_Holm[others]) == pytest.approx(rest)
    assert list(table.Matched_PD_p_Holm[others]) == pytest.approx(np.maximum(holm(p_of("Matched_PD", others)), rest))
    losses = holm(p_of("Loss", planned))
    assert list(table.Loss_p_Holm[planned]) == pytest.approx(losses)
    assert list(table.Loss_p_Holm[others]) == pytest.approx(np.maximum(holm(p_of("Loss", others)), losses.min()))
    gate = 1.0
    for quantity in ("PD", "Matched_PD"):
        logs = at_equal_loss(study, *study) if quantity == "Matched_PD" else values[quantity]
        smooth = np.mean([x for name, x in logs.items() if name != "relu"], axis=0)
        p = moderated(smooth - logs["relu"], family_of(quantity))[2]
        assert made.contrast.tests[quantity].p == pytest.approx(p)
        expected = max(p, gate) if quantity == "Matched_PD" else min(max(p, first.min()), 2 * p)
        assert made.contrast.p_holm[quantity] == pytest.approx(expected)
        gate = expected
    for quantity in ("PD", "Loss", "Matched_PD"):
        flags, said = table[f"{quantity}_Significant"], table[f"{quantity}_Verdict"]
        assert list(flags) == list(table[f"{quantity}_p_Holm"] < 0.05)
        assert list(flags) == list(said.str.contains("is (?:lower|higher) than"))


def test_practically_equal_is_one_claim_of_a_family():
    """Each of four within the margin by its own 90 % interval; after Holm not all of them."""
    study, made = synthetic_study(n_trials=5), None
    for spread in np.linspace(0.01, 0.12, 30):  # until the family's rule says less than each alone
        for results in study.values():
            rng = np.random.default_rng(sum(results["activation"].encode()))
            for pair in results["reproducibility_metrics"]:
                pair["relative_pd"] = 0.1 * (1 + spread * rng.standard_normal())
        made = Study(study)
        alone = [t for t in made.primary if t.tests["PD"].low90 > 0.95 and t.tests["PD"].high90 < 1 / 0.95]
        said = [t for t in made.primary if made.verdict(t, "PD").kind == "equal"]
        if len(said) < len(alone):
            break
    else:
        raise AssertionError("the rule of the family never mattered")
    values = per_trial(study)["PD"]
    differences = differences_from(values)
    p = []
    for t in made.primary:
        d = differences[t.a]
        _, df, _, se, _ = moderated(d, differences.values())
        p.append(max(scipy.stats.t.sf((-np.log(0.95) - side * d.mean()) / se, df) for side in (-1, 1)))
    adjusted = multipletests(p, method="holm")[1]
    assert [made.verdict(t, "PD").kind == "equal" for t in made.primary] == list(adjusted < 0.05)
    assert set(said) <= set(alone)


def test_matched_comparison_against_scipy():
    study = {name: add_frontier(results) for name, results in synthetic_study().items()}
    table = calculate_statistical_significance(study)
    against_relu = [at_equal_loss(study, name, "relu") for name in study if name != "relu"]
    family = [logs[name] - logs["relu"] for logs in against_relu for name in logs if name != "relu"]
    for row in table.itertuples():
        logs = at_equal_loss(study, row.Activation_A, row.Activation_B)
        t, _, p, _, _ = moderated(logs[row.Activation_A] - logs[row.Activation_B], family)
        assert (row.Matched_PD_t, row.Matched_PD_p) == pytest.approx((t, p), rel=1e-7)


def test_without_shared_seeds_welch():
    study = synthetic_study(("gelu", "relu"), n_trials=4)
    for t in study["relu"]["trials"]:
        t["seed"] += 1000
    study["relu"]["trials"].pop()  # unequal numbers are no obstacle
    row = row_of(calculate_statistical_significance(study), "gelu", "relu")
    kept = {pair: pd for pair, pd in pds_of(study["relu"]).items() if 4 not in pair}
    test = scipy.stats.ttest_ind(log_jackknife(pds_of(study["gelu"])), log_jackknife(kept), equal_var=False)
    assert (row.PD_Test, row.PD_N_A, row.PD_N_B, row.Seeds) == ("Welch t", 4, 3, "not shared")
    assert (row.PD_t, row.PD_df, row.PD_p) == pytest.approx((test.statistic, test.df, test.pvalue), rel=1e-7)
    loss = scipy.stats.ttest_ind(losses_of(study["gelu"]), losses_of(study["relu"]), equal_var=False)
    assert row.Loss_p == pytest.approx(loss.pvalue, rel=1e-7)


def test_a_trial_that_failed_for_one_is_dropped_from_both():
    study = synthetic_study(("gelu", "relu"), n_trials=5)
    study["gelu"] = synthetic_results("gelu", n_trials=5, diverged=(2,))
    row = row_of(calculate_statistical_significance(study), "gelu", "relu")
    logs = [
        log_jackknife({pair: pd for pair, pd in pds_of(study[name]).items() if 2 not in pair})
        for name in ("gelu", "relu")
    ]
    assert row.PD_N_A == row.PD_N_B == row.Loss_N_A == 4
    assert row.PD_p == pytest.approx(scipy.stats.ttest_rel(*logs).pvalue, rel=1e-7)
    kept = [t["val_loss"] for t in study["relu"]["trials"] if t["trial_id"] != 2]
    loss = scipy.stats.ttest_rel([t["val_loss"] for t in study["gelu"]["trials"] if t["val_loss"]], kept)
    assert row.Loss_p == pytest.approx(loss.pvalue, rel=1e-7)


def test_no_variation_is_no_test_and_counts_as_one():
    study = synthetic_study(("smelu_1", "gelu", "relu"))
    study["gelu"] = {**copy.deepcopy(study["smelu_1"]), "activation": "gelu"}
    for trial in study["gelu"]["trials"]:  # other trainings, of the same numbers
        trial["weights_sha256"] = trial["weights_sha256"][::-1]
    table = calculate_statistical_significance(study)
    row = row_of(table, "smelu_1", "gelu")
    assert row.PD_Test == "no test" and "no variation between trials" in row.PD_Verdict
    assert not row.PD_Significant and row.PD_Ratio == pytest.approx(1)
    assert list(table.PD_p_Holm.dropna()) == pytest.approx(multipletests(table.PD_p.dropna(), method="holm")[1])
    study["swish"] = synthetic_results("swish")  # a family in which the untested one counts as 1
    table = calculate_statistical_significance({name: study[name] for name in ("smelu_1", "gelu", "swish")})
    planned = table[table.Primary]
    assert set(planned.Activation_B) == {"smelu_1"} and planned.PD_p.isna().sum() == 1
    expected = multipletests([1.0, *planned.PD_p.dropna()], method="holm")[1][1:]
    assert list(planned.PD_p_Holm.dropna()) == pytest.approx(list(expected))
    assert "nan" not in table.to_csv().lower()


def test_two_trials_means_only():
    table = calculate_statistical_significance(synthetic_study(n_trials=2))
    assert (table.PD_Test == "no test").all() and table.PD_p.isna().all() and not table.PD_Significant.any()
    assert table.PD_Ratio.notna().all()


def test_failed_audits_are_kept_out_of_tests_visibly():
    study = synthetic_study()
    study["swish"] = synthetic_results("swish", audit_passed=False)
    table = calculate_statistical_significance(study)
    assert len(table) == 10
    out = table[(table.Activation_A == "swish") | (table.Activation_B == "swish")]
    assert out.PD_p.isna().all() and out.Note.str.contains("audit failed").all()
    without = calculate_statistical_significance({n: r for n, r in study.items() if n != "swish"})
    assert list(table.drop(out.index).PD_p_Holm) == pytest.approx(list(without.PD_p_Holm))


def test_one_activation_gives_an_empty_table_with_its_columns():
    table = calculate_statistical_significance(synthetic_study(("relu",)))
    assert table.empty and "PD_p_Holm" in table


# -- rankings ---------------------------------------------------------------------------------------------------------


def three(pds=(0.1, 0.2, 0.3), losses=(1.9, 1.8, 1.7), times=(10.0, 30.0, 20.0)):
    """Results of three activations with exactly these means."""
    study = {}
    for name, pd, loss, time in zip(("relu", "gelu", "swish"), pds, losses, times, strict=True):
        study[name] = synthetic_results(name)
        for t in study[name]["trials"]:
            t.update(val_loss=loss, training_time=time)
        for p in study[name]["reproducibility_metrics"]:
            p["relative_pd"] = pd
    return study


def test_ranking_by_hand():
    # scaled: reproducibility 1, 0.5, 0; accuracy 0, 0.5, 1; efficiency 1, 0, 0.5
    ranked = rank_activations(three())
    scores = dict(zip(ranked.Activation, ranked.Score, strict=True))
    assert scores == pytest.approx({"relu": 0.6 + 0.1, "gelu": 0.3 + 0.15, "swish": 0.3 + 0.05})
    assert list(zip(ranked.Rank, ranked.Activation, strict=True)) == [(1, "relu"), (2, "gelu"), (3, "swish")]
    ranked = rank_activations(three(), {"accuracy": 3, "efficiency": 1})
    scores = dict(zip(ranked.Activation, ranked.Score, strict=True))
    assert scores == pytest.approx({"relu": 0.25, "gelu": 0.375, "swish": 0.875})
    assert list(ranked.Activation) == ["swish", "gelu", "relu"]
    doubled = rank_activations(three(), {"accuracy": 6e307, "efficiency": 2e307})
    assert list(doubled.Score) == pytest.approx(list(ranked.Score))


def test_ties_share_a_rank_and_one_activation_is_first():
    ranked = rank_activations(three(pds=(0.2, 0.1, 0.1)), {"reproducibility": 1})
    assert list(zip(ranked.Rank, ranked.Activation, strict=True)) == [(1, "gelu"), (1, "swish"), (3, "relu")]
    ranked = rank_activations(three(pds=(0.1,) * 3, losses=(1.8,) * 3, times=(9.0,) * 3))
    assert list(ranked.Rank) == [1, 1, 1] and list(ranked.Score) == pytest.approx([1, 1, 1])
    ranked = rank_activations({"relu": synthetic_results("relu")})
    assert (list(ranked.Rank), list(ranked.Score)) == ([1], pytest.approx([1]))


def test_pds_that_differ_by_less_than_can_be_measured_tie():
    for pds, ranks, scores in (
        ((0.1, 0.1 + 1e-9, 0.1 - 1e-9), [1, 1, 1], [1, 1, 1]),
        ((0.1 + 1e-9, 0.1, 0.101), [1, 1, 3], [1, 1, 0]),
        ((0.1, 0.1001, 0.101), [1, 2, 3], [1, 0.9, 0]),
    ):
        ranked = rank_activations(three(pds=pds), {"reproducibility": 1})
        assert list(ranked.Rank) == ranks and list(ranked.Score) == pytest.approx(scores, abs=1e-4)
    study = Study(three(pds=(0.1 + 1e-9, 0.1, 0.101), losses=(1.8, 1.8 - 1e-9, 1.8)))
    assert study.lowest(study.pd) == (["relu", "gelu"], ["swish"])
    assert sorted(study.pareto) == ["gelu", "relu"]  # neither beats the other; both beat the third


def test_what_cannot_be_ranked_is_listed():
    study = synthetic_study()
    study["gelu"] = synthetic_results("gelu", pd=1e-6, audit_passed=False)
    study["swish"] = synthetic_results("swish", diverged=(1, 2, 3))
    study["smelu_1"] = synthetic_results("smelu_1", n_trials=1)
    ranked = rank_activations(study)
    assert set(ranked.Activation) == {"relu", "smelu_05"}
    assert set(ranked.attrs["excluded"]) == {"gelu", "swish", "smelu_1"}
    assert "causal" in ranked.attrs["excluded"]["gelu"]
    assert "reproducibility" in ranked.attrs["excluded"]["smelu_1"]
    assert "smelu_1" in set(rank_activations(study, {"accuracy": 1}).Activation)
    nan = three()
    for p in nan["gelu"]["reproducibility_metrics"]:
        p["relative_pd"] = float("nan")
    ranked = rank_activations(nan)
    assert list(ranked.Rank) == [1, 2] and "gelu" in ranked.attrs["excluded"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"sped": 1}, "unknown criterion 'sped'"),
        ({"accuracy": -0.1, "efficiency": 1}, "accuracy=-0.1"),
        ({"accuracy": float("nan")}, "accuracy=nan"),
        ({"accuracy": float("inf")}, "accuracy=inf"),
        ({"accuracy": "1"}, "accuracy='1'"),
        ({"accuracy": True}, "accuracy=True"),
        ({"accuracy": 0, "efficiency": 0}, "at least one"),
        ({}, "at least one"),
    ],
)
def test_weights_are_validated(weights, message):
    with pytest.raises(UserError, match=message):
        rank_activations(synthetic_study(("relu", "gelu")), weights)


# -- planning ---------------------------------------------------------------------------------------------------------


def test_planned_trials_reach_their_power():
    study, rng = synthetic_study(), np.random.default_rng(0)
    plan = plan_trials(study)
    assert len(plan) == 4 * 3 and set(plan.Activation_B) == {"relu"}

    def power(trials, reduction, sd):
        sd *= np.sqrt((1 + 4 / 3 / (trials - 2)) / (1 + 4 / 3))  # the spread that is expected with more trials
        df = trials - 1 + 2  # two of the family's
        nc, critical = -np.log(1 - reduction / 100) / (sd / np.sqrt(trials)), scipy.stats.t.ppf(0.975, df)
        t = (rng.standard_normal(200_000) + nc) / np.sqrt(rng.chisquare(df, 200_000) / df)
        return np.mean(abs(t) > critical)

    differences = differences_from(per_trial(study)["PD"])
    for row in plan.itertuples():
        sd = moderated(differences[row.Activation_A], differences.values())[3] * np.sqrt(3)
        assert power(row.Trials_Needed, row.Reduction_Pct, sd) > 0.795
        assert row.Trials_Needed == 3 or power(row.Trials_Needed - 1, row.Reduction_Pct, sd) < 0.805
        assert row.Low <= row.Trials_Needed <= row.High
        seconds = [np.median([t["training_time"] for t in study[n]["trials"]]) for n in (row.Activation_A, "relu")]
        assert row.Extra_Training_Hours == pytest.approx((row.Trials_Needed - 3) * sum(seconds) / 3600)


def test_planning_needs_a_spread():
    assert plan_trials(synthetic_study(n_trials=2)).Trials_Needed.isna().all()
    assert plan_trials(synthetic_study(("relu",))).empty
    for wrong in (0, 100, -5, float("nan"), "5"):
        with pytest.raises(UserError, match="reductions"):
            plan_trials(synthetic_study(), (wrong,))


# -- degenerate studies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEGENERATE)
def test_tables_of_degenerate_studies(name):
    study = DEGENERATE[name]()
    k = len(study)
    summary, tests = summary_of(study), calculate_statistical_significance(study)
    assert len(summary) == k and len(tests) == k * (k - 1) // 2
    ranked = rank_activations(study)
    assert len(ranked) + len(ranked.attrs["excluded"]) == k
    for frame in (summary, tests, ranked, plan_trials(study), results_frame(study)):
        for column in frame:  # undefined is missing, in a type that has missing values: never NaN
            values = frame[column]
            assert not (str(values.dtype).startswith("float") and values.isna().any()), column
            assert not any(isinstance(x, float) and not np.isfinite(x) for x in values.dropna()), column
    for column in ("PD_p", "PD_p_Holm", "Loss_p", "Matched_PD_p"):
        p = tests[column].dropna()
        assert ((p > 0) & (p <= 1)).all()


# -- the command line -------------------------------------------------------------------------------------------------


def run(folder, *arguments):
    command = [sys.executable, str(ROOT / "analyze_results.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")


def folders(root):
    return [
        word
        for flag, name in (("--results-dir", "results"), ("--plots-dir", "plots"), ("--checkpoint-dir", "checkpoints"))
        for word in (flag, str(root / name))
    ]


def test_the_command_writes_everything(tmp_path, capsys):
    pytest.importorskip("plot_utils")
    write_study(tmp_path / "results", synthetic_study())
    assert ar.main(folders(tmp_path)) == 0
    printed = capsys.readouterr().out
    for name in ("summary.csv", "significance.csv", "FINAL_REPORT.md", "FINAL_REPORT.html"):
        assert (tmp_path / "results" / name).is_file() and name in printed
    assert (tmp_path / "plots" / "comprehensive_comparison.png").is_file()
    text = (tmp_path / "results" / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert "](../plots/comprehensive_comparison.png)" in text
    assert "data:image/png;base64," in (tmp_path / "results" / "FINAL_REPORT.html").read_text(encoding="utf-8")
    assert "Hypothesis" in printed and "nan" not in printed.lower()


def test_plan_on_the_command_line(tmp_path, capsys):
    write_study(tmp_path / "results", synthetic_study())
    assert ar.main(["--plan", *folders(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "GELU against ReLU" in printed and "5 % in every comparison" in printed
    write_study(tmp_path / "results", synthetic_study(n_trials=2))
    assert ar.main(["--plan", *folders(tmp_path)]) == 0
    assert "three or more trials" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--results-dir", "missing"], 2, "no such folder"),
        (["--results-dir", "empty"], 2, "no results"),
        (["--results-dir", "damaged"], 1, "relu_results.json"),
        (["--results-dir", "mixed"], 2, "can't be compared"),
        (["--results-dir", "a file"], 2, "a file"),
        (["--chek"], 2, "--check"),
        (["--check", "--plan"], 2, "not allowed with"),
        (["extra"], 2, "unrecognized"),
        (["--study", "../x"], 2, "study"),
    ],
)
def test_wrong_input_is_one_clear_line(tmp_path, arguments, status, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "relu_results.json").write_text("{", encoding="utf-8")
    study = synthetic_study(("relu", "gelu"))
    study["gelu"]["fingerprint"] = "0" * 64
    write_study(tmp_path / "mixed", study)
    (tmp_path / "a file").write_text("", encoding="utf-8")
    done = run(tmp_path, *arguments)
    assert done.returncode == status
    assert says in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_neither_torch_nor_pandas_is_imported_until_needed(tmp_path):
    code = "import sys, analyze_results; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
    write_study(tmp_path / "results", synthetic_study())
    code = "import sys, analyze_results as a; a.main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--check", *folders(tmp_path)]
    utf8 = speaking_utf8()
    done = subprocess.run(command, cwd=ROOT, env=utf8, capture_output=True, check=True, encoding="utf-8")
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("shape", ["results", ("relu", "gelu"), {"activation": "relu", "trials": []}])
def test_another_shape_is_one_clear_line(shape):
    for function in (calculate_statistical_significance, rank_activations, results_frame, generate_final_report):
        with pytest.raises(UserError, match=r"it must be \{activation: results\}, as load_all_results gives"):
            function(shape)


def test_the_report_lies_beside_its_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = synthetic_study(("relu", "gelu"))
    generate_final_report(study)  # which lie nowhere
    assert Path("results/FINAL_REPORT.md").exists()
    for results in study.values():
        results["config"] = {**results["config"], "results_dir": "studies/own/results"}
    write_study(tmp_path / "studies/own/results", study)
    generate_final_report(study)
    assert Path("studies/own/results/FINAL_REPORT.html").exists()


def test_star_imports_give_the_documented_names():
    names = {}
    exec("from analyze_results import *", names)  # noqa: S102
    public = {name for name in names if not name.startswith("__")}
    documented = {
        "load_all_results",
        "save_results_summary",
        "calculate_statistical_significance",
        "rank_activations",
        "generate_final_report",
    }
    assert documented <= public == set(ar.__all__)
