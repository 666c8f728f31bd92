"""The analysis against numbers worked out independently, with NumPy, SciPy and statsmodels, from the same results."""

import copy
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

import analyze_results as ar
import storage
from analysis import tables
from analysis.results import Measured, matched_loss_pd, matrix, pd_at_val_loss, seeds_shared
from analysis.study import Study
from analyze_results import (
    calculate_statistical_significance,
    load_all_results,
    matched_loss,
    plan_trials,
    rank_activations,
    results_frame,
    save_results_summary,
)
from config import UserError
from synthetic import STUDY, minimal_results, synthetic_results, synthetic_study
from tools.checklist import check_study

ROOT = Path(__file__).resolve().parent.parent


def pds_of(results):
    """{(i, j): relative PD}, read without the code under test."""
    pairs = {}
    for pair in results["reproducibility_metrics"]:
        i, j = map(int, pair["model_pair"].split("_vs_"))
        pairs[i, j] = pair["relative_pd"]
    return pairs


def log_jackknife(pairs):
    """ln U + (ψ - U) / U with ψ_k = n U - (n - 1) U_(k), U_(k) the mean over pairs without trial k."""
    ids = sorted({k for pair in pairs for k in pair})
    n, everything = len(ids), np.mean(list(pairs.values()))
    without = np.array([np.mean([x for pair, x in pairs.items() if k not in pair]) for k in ids])
    return np.log(everything) + (n * everything - (n - 1) * without - everything) / everything


def losses_of(results):
    return np.array([t["val_loss"] for t in results["trials"]])


def row_of(table, a, b):
    found = table[(table.Activation_A == a) & (table.Activation_B == b)]
    assert len(found) == 1
    return found.iloc[0]


def write_study(folder, study):
    for results in study.values():
        storage.write_results(results, folder)
    return folder


def summary_of(study):
    return tables.summary(Study(study))


# -- reading ----------------------------------------------------------------------------------------------------------


def test_loads_in_the_order_of_the_study(tmp_path):
    study = synthetic_study((*STUDY[::-1], "tanh", "mish"))
    loaded = load_all_results(write_study(tmp_path, study))
    assert list(loaded) == [*STUDY, "mish", "tanh"]
    assert loaded["relu"]["trials"] == study["relu"]["trials"]


def test_loads_files_of_another_tool(tmp_path):
    path = tmp_path / "anything_results.json"  # a name of its own, and NaN tokens
    results = minimal_results("relu")
    results["trials"][0]["train_accuracy"] = float("nan")
    path.write_text(json.dumps(results))
    loaded = load_all_results(tmp_path)
    assert list(loaded) == ["relu"]
    assert loaded["relu"]["trials"][0]["train_accuracy"] is None


def test_no_folder_no_results(tmp_path):
    assert load_all_results(tmp_path) == {}
    with pytest.raises(UserError, match="no such folder"):
        load_all_results(tmp_path / "missing")
    with pytest.raises(UserError, match="no results"):
        summary_of({})


@pytest.mark.parametrize("content", ["", "{", '{"activation": "relu"}', "[]", "\x00\x01"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    write_study(tmp_path, synthetic_study(("relu",)))
    (tmp_path / "gelu_results.json").write_text(content)
    with pytest.raises(storage.StorageError, match="gelu_results.json") as caught:
        load_all_results(tmp_path)
    assert "\n" not in str(caught.value)


def changed(key, value, within=None):
    def change(results):
        (results[within] if within else results)[key] = value

    return change


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([changed("fingerprint", "0" * 64), changed("max_iters", 500, "config")], r"max_iters \(1000 and 500\)"),
        ([changed("fingerprint", "0" * 64)], "fingerprint"),
        ([changed("sha256", "0" * 64, "dataset")], "the corpus"),
        ([changed("sha256", "0" * 64, "evaluation")], "the positions evaluated"),
    ],
)
def test_mixed_folders_are_refused(tmp_path, changes, named):
    study = synthetic_study()
    for change in changes:
        change(study["gelu"])
    write_study(tmp_path, study)
    with pytest.raises(UserError, match=named) as caught:
        load_all_results(tmp_path)
    assert "gelu" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=named):  # nor when put together in memory
        calculate_statistical_significance(study)


def test_the_wrong_name_and_two_of_a_name_are_refused(tmp_path):
    write_study(tmp_path, synthetic_study(("relu", "gelu")))
    (tmp_path / "gelu_results.json").replace(tmp_path / "swish_results.json")
    with pytest.raises(UserError, match="swish_results.json: holds the results of gelu"):
        load_all_results(tmp_path)
    (tmp_path / "swish_results.json").unlink()
    (tmp_path / "z_results.json").write_text(json.dumps(minimal_results("relu")))
    with pytest.raises(UserError, match="holds results of relu too"):
        load_all_results(tmp_path)


def test_what_cannot_be_understood_is_an_error():
    results = synthetic_results("relu")
    results["reproducibility_metrics"][0]["model_pair"] = "first and second"
    with pytest.raises(UserError, match="model_pair='first and second'"):
        summary_of({"relu": results})


def test_only_finished_trials_and_complete_pairs_count():
    diverged = Measured("relu", synthetic_results("relu", n_trials=4, diverged=(2,)))
    assert list(diverged.trials) == [1, 3, 4] and list(diverged.failed) == [2]
    assert diverged.pd_ids == [1, 3, 4]
    nan = synthetic_results("relu", n_trials=4)
    nan["trials"][3]["val_loss"] = float("nan")
    assert list(Measured("relu", nan).trials) == [1, 2, 3]
    incomplete = synthetic_results("relu", n_trials=4)
    incomplete["reproducibility_metrics"] = [
        p for p in incomplete["reproducibility_metrics"] if p["model_pair"] not in ("1_vs_3", "1_vs_4")
    ]
    assert Measured("relu", incomplete).pd_ids == [2, 3, 4]
    assert Measured("relu", synthetic_results("relu", n_trials=1)).pd_ids == []


def test_the_design_decides_on_pairing():
    a, b = (Measured(name, synthetic_results(name)) for name in ("relu", "gelu"))
    assert seeds_shared(a, b)
    assert seeds_shared(a, Measured("gelu", synthetic_results("gelu", n_trials=5)))
    for t in b.results["trials"]:
        t["seed"] += 10
    assert not seeds_shared(a, b)
    for t in (*a.results["trials"], *b.results["trials"]):
        t["seed"] = None
    assert not seeds_shared(a, b)


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
        trials = {key: [t[key] for t in results["trials"]] for key in ("train_loss", "training_time", "val_accuracy")}
        assert row.Avg_Val_Loss == pytest.approx(losses_of(results).mean(), rel=1e-12)
        assert row.Std_Val_Loss == pytest.approx(scipy.stats.tstd(losses_of(results)), rel=1e-12)
        assert row.Avg_Train_Loss == pytest.approx(np.mean(trials["train_loss"]), rel=1e-12)
        assert row.Avg_Relative_PD == pytest.approx(np.mean(list(pds_of(results).values())), rel=1e-12)
        pairs = results["reproducibility_metrics"]
        share = [100 * p["prediction_differences"] / p["total_predictions"] for p in pairs]
        assert row.Avg_Pred_Diff_Pct == pytest.approx(np.mean(share), rel=1e-12)
        assert row.Avg_Training_Time_Sec == pytest.approx(np.mean(trials["training_time"]), rel=1e-12)
        assert row.Median_Training_Time_Sec == pytest.approx(sorted(trials["training_time"])[1], rel=1e-12)
        assert row.Std_Val_Accuracy == pytest.approx(scipy.stats.tstd(trials["val_accuracy"]), rel=1e-12)
        assert (row.Num_Trials, row.Num_Pairs, row.Diverged_Trials) == (3, 3, 0)
        logs = log_jackknife(pds_of(results))
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(logs), scipy.stats.sem(logs))
        assert np.log([row.Relative_PD_CI_Low, row.Relative_PD_CI_High]) == pytest.approx([low, high], rel=1e-9)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "summary.csv"), table, check_dtype=False)


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


# -- at equal loss ----------------------------------------------------------------------------------------------------


def test_matched_loss_pd_interpolates_at_the_first_crossing():
    # mean losses 4, 3, 2, 1: 2.5 lies halfway between steps 1 and 2
    losses_i, losses_j, pds = [4.2, 3.1, 2.0, 1.5], [3.8, 2.9, 2.0, 0.5], [0.0, 0.10, 0.30, 0.20]
    assert matched_loss_pd(losses_i, losses_j, pds, 2.5) == pytest.approx(0.20)
    assert matched_loss_pd(losses_i, losses_j, pds, 2.0) == 0.30
    assert matched_loss_pd(losses_i, losses_j, pds, 1.75) == pytest.approx(0.275)
    assert matched_loss_pd(losses_i, losses_j, pds, 0.5) is None  # never reached
    assert matched_loss_pd(losses_i, losses_j, pds, 5.0) is None  # below it from the start
    # overfitting: the loss passes 1.5 downwards, and upwards again later; the first time counts
    assert matched_loss_pd([2, 1, 2], [2, 1, 2], [0.1, 0.2, 0.9], 1.5) == pytest.approx(0.15)
    assert matched_loss_pd([3, None, 1], [3, 2, 1], [0.1, 0.2, 0.3], 2.5) is None  # no telling where it passed
    with pytest.raises(ValueError):
        matched_loss_pd([2, 1], [2, 1], [0.1], 0.5)


def test_matched_loss_is_at_a_loss_that_all_reach():
    study = synthetic_study()
    matched = matched_loss(study)
    finals, expected = [], {}
    for name, results in study.items():
        d = results["divergence"]
        for pair, curve in d["pairs"].items():
            i, j = pair.split("_vs_")
            loss = (np.array(d["val_loss"][i]) + np.array(d["val_loss"][j])) / 2
            finals.append(loss[-1])
            expected[name, pair] = (loss, np.array(curve["relative_pd"]))
    assert matched.target == pytest.approx(max(finals), rel=1e-12)
    for (name, pair), (loss, pd) in expected.items():
        i, j = map(int, pair.split("_vs_"))
        # the curves fall throughout, so np.interp on the reversed arrays is an independent interpolation
        assert matched.pairs[name][i, j] == pytest.approx(np.interp(max(finals), loss[::-1], pd[::-1]), rel=1e-9)
    for name, results in study.items():  # and when each of them got there
        steps = np.array(results["divergence"]["steps"], float)[::-1]
        when = [np.interp(max(finals), loss[::-1], steps) for (n, _), (loss, _) in expected.items() if n == name]
        assert matched.steps[name] == pytest.approx(np.mean(when), rel=1e-9)
    del study["gelu"]["divergence"]["steps"]  # another tool's file may not say
    assert set(matched_loss(study).steps) == set(study) - {"gelu"}


def test_matched_loss_leaves_out_what_is_unfit_or_not_recorded():
    study = synthetic_study()
    study["relu"] = minimal_results("relu")
    study["gelu"] = synthetic_results("gelu", val_loss=3.0, audit_passed=False)
    matched = matched_loss(study)
    assert set(matched.pairs) == {"smelu_05", "smelu_1", "swish"}
    assert matched.target < 2
    assert matched.mean("relu") is None
    assert matched_loss({"relu": synthetic_results("relu")}).target is None
    assert matched_loss({n: minimal_results(n) for n in STUDY}).target is None


def first_crossing(losses_i, losses_j, pds, target):
    """PD at a loss, by NumPy: between the first point at or below it and the one before."""
    loss = (np.array(losses_i) + np.array(losses_j)) / 2
    below = np.flatnonzero(loss <= target)
    if not len(below) or (below[0] == 0 and loss[0] < target):
        return None
    k = below[0]
    return pds[0] if k == 0 else float(np.interp(target, loss[[k, k - 1]], np.array(pds)[[k, k - 1]]))


def divergence_of(losses, pds):
    """The part of a results file that `pd_at_val_loss` reads, of curves by trial and by pair."""
    return {"val_loss": losses, "pairs": {name: {"relative_pd": curve} for name, curve in pds.items()}}


def check_pd_at_val_loss(divergence):
    """Every entry, and every loss that is or is not listed, against NumPy; returns the table."""
    table = pd_at_val_loss(divergence)
    assert table == json.loads(json.dumps(table, allow_nan=False))
    losses, curves = divergence["val_loss"], {n: c["relative_pd"] for n, c in divergence["pairs"].items()}
    expected = []
    for loss in [round(0.05 * k, 2) for k in range(200, 0, -1)]:
        pds = {n: first_crossing(*(losses[k] for k in n.split("_vs_")), c, loss) for n, c in curves.items()}
        reached = [first_crossing(c, c, c, loss) for c in losses.values()]
        if pds and None not in [*pds.values(), *reached]:
            expected.append((loss, pds))
    assert table["val_loss"] == [loss for loss, _ in expected]  # the very floats
    assert list(table["relative_pd"]) == list(curves)
    for name, values in table["relative_pd"].items():
        assert values == pytest.approx([pds[name] for _, pds in expected], rel=1e-12)
    assert table["mean"] == pytest.approx([np.mean(list(pds.values())) for _, pds in expected], rel=1e-12)
    return table


@pytest.mark.parametrize("n_trials, diverged", [(3, ()), (5, ()), (4, (2,)), (2, ())])
def test_pd_at_val_loss_of_a_study(n_trials, diverged):
    study = synthetic_study(n_trials=n_trials, diverged=diverged)
    tables = {name: check_pd_at_val_loss(results["divergence"]) for name, results in study.items()}
    for name, table in tables.items():
        assert len(table["val_loss"]) > 40 and table["val_loss"] == sorted(table["val_loss"], reverse=True)
        assert not any(f"{k}_vs" in pair or f"vs_{k}" in pair for k in diverged for pair in table["relative_pd"])
        assert study[name]["pd_at_val_loss"] == table
    # another activation can be compared with it wherever their losses overlap: the floats are the same
    common = set(tables["relu"]["val_loss"]) & set(tables["smelu_1"]["val_loss"])
    assert min(common) == max(min(tables[name]["val_loss"]) for name in ("relu", "smelu_1"))


@pytest.mark.parametrize("seed", range(20))
def test_pd_at_val_loss_of_curves_that_rise_and_fall(seed):
    rng = np.random.default_rng(seed)
    losses = {str(k): (4 - np.linspace(0, 2, 30) + rng.normal(0, 0.4, 30)).tolist() for k in (1, 2, 3)}
    pds = {f"{i}_vs_{j}": rng.random(30).tolist() for i, j in itertools.combinations((1, 2, 3), 2)}
    assert check_pd_at_val_loss(divergence_of(losses, pds))["val_loss"]


def test_pd_at_val_loss_by_hand():
    losses = {"1": [3.0, 2.0, 1.5], "2": [3.0, 2.2, 1.9]}
    table = check_pd_at_val_loss(divergence_of(losses, {"1_vs_2": [0.0, 0.2, 0.4]}))
    assert (table["val_loss"][0], table["val_loss"][-1]) == (3.0, 1.9)  # where both begin; what both reach
    assert table["relative_pd"]["1_vs_2"][0] == 0
    # the mean falls from 2.1 to 1.7: half of that at 1.9
    assert table["mean"][-1] == pytest.approx(0.3)


def test_pd_at_val_loss_where_there_is_none():
    one = synthetic_results(n_trials=1)["divergence"]
    assert pd_at_val_loss(one) == {"val_loss": [], "relative_pd": {}, "mean": []}
    nothing = synthetic_results(n_trials=2, diverged=(1, 2))["divergence"]
    assert pd_at_val_loss(nothing) == {"val_loss": [], "relative_pd": {}, "mean": []}
    apart = divergence_of({"1": [4.0, 3.5], "2": [3.0, 2.0]}, {"1_vs_2": [0.1, 0.2]})
    assert check_pd_at_val_loss(apart) == {"val_loss": [], "relative_pd": {"1_vs_2": []}, "mean": []}
    # each is at 2.0 once, but never their mean
    turns = divergence_of({"1": [3, 2, 3, 3], "2": [3, 3, 3, 2]}, {"1_vs_2": [0.1, 0.2, 0.3, 0.4]})
    assert check_pd_at_val_loss(turns)["val_loss"][-1] == 2.5
    assert pd_at_val_loss(divergence_of({"1": [], "2": []}, {"1_vs_2": []}))["val_loss"] == []
    # a trial that stays behind: the mean of the two says little about either
    behind = divergence_of({"1": [4.0, 1.8], "2": [4.0, 3.3]}, {"1_vs_2": [0.1, 0.2]})
    assert check_pd_at_val_loss(behind)["val_loss"][-1] == 3.3


# -- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_trials", [3, 5])
def test_significance_against_scipy_and_statsmodels(n_trials):
    study = synthetic_study(n_trials=n_trials)
    table = calculate_statistical_significance(study)
    assert len(table) == 10 and not table.isna().any().any()
    p_pd, p_loss = {}, {}
    for row in table.itertuples():
        a, b = study[row.Activation_A], study[row.Activation_B]
        test = scipy.stats.ttest_rel(log_jackknife(pds_of(a)), log_jackknife(pds_of(b)))
        interval = test.confidence_interval(0.95)
        assert (row.PD_t, row.PD_df, row.PD_p) == pytest.approx((test.statistic, n_trials - 1, test.pvalue), rel=1e-7)
        assert np.log([row.PD_CI_Low, row.PD_CI_High]) == pytest.approx([interval.low, interval.high], rel=1e-7)
        ratio = np.mean(list(pds_of(a).values())) / np.mean(list(pds_of(b).values()))
        assert row.PD_Ratio == pytest.approx(ratio, rel=1e-9)
        assert row.PD_Change_Pct == pytest.approx(100 * (ratio - 1), rel=1e-7)
        loss = scipy.stats.ttest_rel(losses_of(a), losses_of(b))
        interval = loss.confidence_interval(0.95)
        assert row.Loss_Difference == pytest.approx(np.mean(losses_of(a) - losses_of(b)), rel=1e-9)
        assert (row.Loss_t, row.Loss_p) == pytest.approx((loss.statistic, loss.pvalue), rel=1e-7)
        assert (row.Loss_CI_Low, row.Loss_CI_High) == pytest.approx((interval.low, interval.high), rel=1e-7)
        naive = scipy.stats.ttest_ind(list(pds_of(a).values()), list(pds_of(b).values()))
        assert row.Naive_p_uncalibrated == pytest.approx(naive.pvalue, rel=1e-7)
        assert (row.PD_N_A, row.PD_N_B, row.PD_Test, row.PD_g_Kind, row.Seeds) == (
            n_trials,
            n_trials,
            "paired t",
            "g_z",
            "shared",
        )
        d = losses_of(a) - losses_of(b)
        bias = scipy.stats.norm.mean() + 1 - 3 / (4 * (n_trials - 1) - 1)  # Hedges' approximation of J
        assert row.Loss_g == pytest.approx(bias * d.mean() / scipy.stats.tstd(d), rel=0.02)
        p_pd[row.Index], p_loss[row.Index] = test.pvalue, loss.pvalue
    for column, p in (("PD", p_pd), ("Loss", p_loss)):
        expected = multipletests(list(p.values()), method="holm")[1]
        primary = table.index[table.Primary]
        assert set(table.Activation_B[primary]) == {"relu"} and len(primary) == 4
        expected[primary] = multipletests([p[i] for i in primary], method="holm")[1]  # the family that counts for them
        assert list(table[f"{column}_p_Holm"]) == pytest.approx(list(expected))
        assert list(table[f"{column}_Significant"]) == list(table[f"{column}_p_Holm"] < 0.05)
        said = table[f"{column}_Verdict"].str.contains("is (?:lower|higher) than")
        assert list(said) == list(table[f"{column}_Significant"])


def test_matched_comparison_against_scipy():
    study = synthetic_study()
    matched, table = matched_loss(study), calculate_statistical_significance(study)
    for row in table.itertuples():
        logs = [log_jackknife(matched.pairs[name]) for name in (row.Activation_A, row.Activation_B)]
        test = scipy.stats.ttest_rel(*logs)
        assert (row.Matched_PD_t, row.Matched_PD_p) == pytest.approx((test.statistic, test.pvalue), rel=1e-7)


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
    table = calculate_statistical_significance(study)
    row = row_of(table, "smelu_1", "gelu")
    assert row.PD_Test == "no test" and "no variation between trials" in row.PD_Verdict
    assert not row.PD_Significant and row.PD_Ratio == pytest.approx(1)
    assert list(table.PD_p_Holm.dropna()) == pytest.approx(multipletests(table.PD_p.dropna(), method="holm")[1])
    study["swish"] = synthetic_results("swish")  # without ReLU all pairs are one family, in which that one counts as 1
    table = calculate_statistical_significance({name: study[name] for name in ("smelu_1", "gelu", "swish")})
    expected = multipletests([1.0, *table.PD_p.dropna()], method="holm")[1][1:]
    assert list(table.PD_p_Holm.dropna()) == pytest.approx(list(expected))
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


@pytest.mark.parametrize("n_trials", [3, 6])
def test_smooth_contrast_against_scipy(n_trials):
    study = synthetic_study(n_trials=n_trials)
    smooth = np.mean([log_jackknife(pds_of(study[name])) for name in STUDY if name != "relu"], axis=0)
    expected = scipy.stats.ttest_rel(smooth, log_jackknife(pds_of(study["relu"])))
    contrast = Study(study).contrast
    assert contrast.smooth == ["smelu_05", "smelu_1", "gelu", "swish"] and contrast.kinked == ["relu"]
    assert contrast.tests["PD"].p == pytest.approx(expected.pvalue, rel=1e-7)
    interval = expected.confidence_interval(0.95)
    assert np.log([contrast.tests["PD"].low, contrast.tests["PD"].high]) == pytest.approx(list(interval), rel=1e-7)


def test_smooth_contrast_of_what_is_there():
    study = synthetic_study()
    study["gelu"] = synthetic_results("gelu", diverged=(2,))
    contrast = Study(study).contrast  # GELU's two trials must not take the test from the others
    assert contrast.left_out == ["gelu"] and contrast.tests["PD"].n == (3, 3)
    assert Study(synthetic_study(("gelu", "swish"))).contrast.reason == "there are no usable results of ReLU"
    only = Study(synthetic_study(("relu",))).contrast
    assert not only.tests and "smooth activation" in only.reason
    unknown = Study({"relu": synthetic_results("relu"), "mine": synthetic_results("mine")}).contrast
    assert unknown.unknown == ["mine"] and not unknown.tests


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
        ({"speed": 1}, "unknown criterion 'speed'"),
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


def test_rank_ranges_leave_out_one_trial():
    study = synthetic_study(n_trials=4)
    ranges = Study(study).rank_ranges({"accuracy": 1})
    expected = {}
    for left_out in range(4):
        means = {name: np.delete(losses_of(results), left_out).mean() for name, results in study.items()}
        for rank, name in enumerate(sorted(means, key=means.get), 1):
            expected.setdefault(name, []).append(rank)
    assert ranges == {name: (min(ranks), max(ranks)) for name, ranks in expected.items()}


# -- planning ---------------------------------------------------------------------------------------------------------


def test_planned_trials_reach_their_power():
    study, rng = synthetic_study(), np.random.default_rng(0)
    plan = plan_trials(study)
    assert len(plan) == 4 * 3 and set(plan.Activation_B) == {"relu"}

    def power(trials, reduction, sd):
        sd *= np.sqrt((1 + 4 / 3 / (trials - 2)) / (1 + 4 / 3))  # the spread that is expected with more trials
        nc, critical = -np.log(1 - reduction / 100) / (sd / np.sqrt(trials)), scipy.stats.t.ppf(0.975, trials - 1)
        t = (rng.standard_normal(200_000) + nc) / np.sqrt(rng.chisquare(trials - 1, 200_000) / (trials - 1))
        return np.mean(abs(t) > critical)

    for row in plan.itertuples():
        d = log_jackknife(pds_of(study[row.Activation_A])) - log_jackknife(pds_of(study["relu"]))
        sd = np.std(d, ddof=1)
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


def no_variation():
    study = synthetic_study()
    for results in study.values():
        for t in results["trials"]:
            t["val_loss"] = 1.8
        for p in results["reproducibility_metrics"]:
            p["relative_pd"] = 0.1
    return study


def with_nan():
    study = synthetic_study()
    study["relu"]["trials"][1]["val_loss"] = float("nan")
    for p in study["relu"]["reproducibility_metrics"]:
        if "2" in p["model_pair"]:
            p["relative_pd"] = float("nan")
    return study


def without_a_trial():
    study = synthetic_study()
    study["relu"]["trials"].pop()
    return study


def without_a_pair():
    study = synthetic_study()
    study["relu"]["reproducibility_metrics"].pop()
    return study


def identical_activations():
    study = synthetic_study()
    study["gelu"] = {**copy.deepcopy(study["swish"]), "activation": "gelu"}
    return study


def identical_trials():
    study = synthetic_study()
    for p in study["relu"]["reproducibility_metrics"]:
        p["relative_pd"] = 0.0
    return study


def seeds_apart():
    study = synthetic_study()
    for t in study["relu"]["trials"]:
        t["seed"] += 100
    return study


DEGENERATE = {
    "one activation": lambda: synthetic_study(("relu",)),
    "one smooth activation": lambda: synthetic_study(("gelu",)),
    "no relu": lambda: synthetic_study(("gelu", "swish")),
    "one trial": lambda: synthetic_study(n_trials=1),
    "one trial of one activation": lambda: synthetic_study(("relu",), n_trials=1),
    "two trials": lambda: synthetic_study(n_trials=2),
    "five trials": lambda: synthetic_study(n_trials=5),
    "more trials of one": lambda: {**synthetic_study(), "relu": synthetic_results("relu", n_trials=5)},
    "a diverged trial": lambda: {**synthetic_study(), "gelu": synthetic_results("gelu", diverged=(2,))},
    "an activation diverged": lambda: {**synthetic_study(), "gelu": synthetic_results("gelu", diverged=(1, 2, 3))},
    "everything diverged": lambda: {n: synthetic_results(n, diverged=(1, 2, 3)) for n in STUDY},
    "a failed audit": lambda: {**synthetic_study(), "gelu": synthetic_results("gelu", audit_passed=False)},
    "relu failed its audit": lambda: {**synthetic_study(), "relu": synthetic_results("relu", audit_passed=False)},
    "all audits failed": lambda: {n: synthetic_results(n, audit_passed=False) for n in STUDY},
    "another tool's files": lambda: {n: minimal_results(n) for n in STUDY},
    "one file of another tool": lambda: {**synthetic_study(), "relu": minimal_results("relu")},
    "NaN": with_nan,
    "a missing trial": without_a_trial,
    "a missing pair": without_a_pair,
    "identical activations": identical_activations,
    "identical trials": identical_trials,
    "no variation": no_variation,
    "seeds not shared": seeds_apart,
    "unknown names": lambda: {**synthetic_study(("relu",)), "m<b>|*y": synthetic_results("m<b>|*y")},
}


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


# -- the checklist ----------------------------------------------------------------------------------------------------

FIGURES = [f"{name}_{kind}.png" for name in STUDY for kind in ("training_curves", "reproducibility", "summary")]


@pytest.fixture
def finished(tmp_path):
    """The folders of a finished study, with stand-ins for checkpoints and figures."""
    results_dir, plots, checkpoints = (tmp_path / name for name in ("results", "plots", "checkpoints"))
    study = synthetic_study()
    for name, results in study.items():
        for t in results["trials"]:
            path = storage.checkpoint_path(checkpoints, name, t["trial_id"])
            storage.write_bytes(path, f"{name} {t['trial_id']}".encode())
            t["checkpoint"]["sha256"] = storage.sha256_file(path)
    write_study(results_dir, study)
    for figure in (*FIGURES, "comprehensive_comparison.png"):
        storage.write_bytes(plots / figure, b"a figure")
    save_results_summary(results_dir / "summary.csv")
    storage.write_text(results_dir / "FINAL_REPORT.md", "the report")
    return tmp_path


def check(folder):
    return check_study(folder / "results", folder / "plots", folder / "checkpoints")


def rewritten(folder, name, change):
    """Results of one activation, changed and properly written again; the products stay newer."""
    path = storage.results_path(folder / "results", name)
    stamp = path.stat().st_mtime
    results = storage.read_results(path)
    change(results)
    storage.write_results(results, folder / "results")
    os.utime(path, (stamp, stamp))


def test_a_finished_study_passes(finished):
    lines = check(finished)
    assert len(lines) == 10
    assert [str(line) for line in lines if line.problem] == []


@pytest.mark.parametrize("file", [*FIGURES[:3], "comprehensive_comparison.png"])
def test_a_missing_figure_is_named(finished, file):
    (finished / "plots" / file).unlink()
    assert failing(finished) == [file]


def failing(folder):
    """The last word of what the first failing line names, for each failing line."""
    problems = [line.problem for line in check(folder) if line.problem]
    return [p.split(" ")[0].rsplit("/", 1)[-1].strip(";:") for p in problems]


@pytest.mark.parametrize("file", ["summary.csv", "FINAL_REPORT.md"])
def test_products_must_be_there_and_newer(finished, file):
    path = finished / "results" / file
    os.utime(path, (1, 1))
    (problem,) = [line.problem for line in check(finished) if line.problem]
    assert file in problem and "older" in problem
    path.unlink()
    (problem,) = [line.problem for line in check(finished) if line.problem]
    assert file in problem and "missing" in problem


def test_checkpoints_must_match(finished):
    path = storage.checkpoint_path(finished / "checkpoints", "gelu", 2)
    path.write_bytes(b"another model")
    (problem,) = [line.problem for line in check(finished) if line.problem]
    assert "gelu/trial_2.pt is not the file" in problem
    path.unlink()
    (problem,) = [line.problem for line in check(finished) if line.problem]
    assert "gelu/trial_2.pt is missing" in problem


def test_a_missing_or_damaged_results_file(finished):
    path = storage.results_path(finished / "results", "gelu")
    path.write_text(path.read_text()[:-50])
    problems = [line.problem for line in check(finished) if line.problem]
    assert "gelu_results.json" in problems[0] and any("gelu: not trained" in p for p in problems)
    path.unlink()
    problems = [line.problem for line in check(finished) if line.problem]
    assert "gelu_results.json: no such file" in problems[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r["trials"].pop(), "trial 3 of 3 is missing"),
        (lambda r: r["trials"][0].update(train_accuracy=None), "gelu trial 1: train_accuracy"),
        (lambda r: r["reproducibility_metrics"][0].update(relative_pd=None), "gelu pair 1_vs_2"),
        (lambda r: r.update(avg_relative_pd=None), "avg_relative_pd"),
        (lambda r: r["trials"][1].update(val_loss_history=[2.0, 1.5, 3.7]), "gelu trial 2 ends at 3.700"),
        (lambda r: r["trials"][1].update(val_loss_history=[2.0, 2.5]), "gelu trial 2 ends at 2.500"),
        (lambda r: r["trials"][1].update(val_loss_history=[]), "gelu trial 2 has no training curve"),
        (lambda r: r.update(fingerprint="0" * 64), "can't be compared"),
        (lambda r: r["audit"].update(passed=False), "gelu: failed"),
        (lambda r: r.pop("audit"), "gelu: not recorded"),
        (lambda r: r.update(evaluation={**r["evaluation"], "sha256": "0" * 64}), "positions evaluated"),
        (lambda r: r["reproducibility_metrics"].clear(), "no test for"),
    ],
)
def test_each_defect_of_the_results_is_found(finished, change, problem):
    rewritten(finished, "gelu", change)
    assert any(problem in line.problem for line in check(finished)), [str(line) for line in check(finished)]


def test_diverged_trials_do_not_converge(finished):
    diverged = synthetic_results("gelu", diverged=(2,))
    rewritten(finished, "gelu", lambda r: r.update(trials=diverged["trials"]))
    assert any("gelu trial 2 diverged at step 400" in line.problem for line in check(finished))


def test_activations_can_be_named(finished):
    storage.results_path(finished / "results", "gelu").unlink()
    names = [name for name in STUDY if name != "gelu"]
    lines = check_study(finished / "results", finished / "plots", finished / "checkpoints", names)
    assert not any(line.problem for line in lines)


# -- the command line -------------------------------------------------------------------------------------------------


def run(folder, *arguments):
    command = [sys.executable, str(ROOT / "analyze_results.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")


def test_check_on_the_command_line(finished):
    assert ar.main(["--check", "--study", "x", *folders(finished)]) == 0
    (finished / "plots" / FIGURES[0]).unlink()
    done = run(finished, "--check")
    assert done.returncode == 1 and "✗ figures of every activation" in done.stdout and "✓" in done.stdout


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
    (tmp_path / "damaged" / "relu_results.json").write_text("{")
    study = synthetic_study(("relu", "gelu"))
    study["gelu"]["fingerprint"] = "0" * 64
    write_study(tmp_path / "mixed", study)
    (tmp_path / "a file").write_text("")
    done = run(tmp_path, *arguments)
    assert done.returncode == status
    assert says in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_neither_torch_nor_pandas_is_imported_until_needed(tmp_path):
    code = "import sys, analyze_results; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    write_study(tmp_path / "results", synthetic_study())
    code = "import sys, analyze_results as a; a.main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--check", *folders(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout.splitlines()[-1] == "False"


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


def test_matrix_is_symmetric():
    values = {(i, j): float(10 * i + j) for i, j in itertools.combinations((2, 5, 7), 2)}
    assert matrix(values, [7, 2, 5]).tolist() == [[0, 27, 57], [27, 0, 25], [57, 25, 0]]
