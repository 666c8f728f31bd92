"""Results as the analysis reads them, and PD at equal loss, against NumPy on the same files."""

import itertools
import json

import numpy as np
import pytest

import storage
from analysis.results import (
    Measured,
    load_all_results,
    match_losses,
    matrix,
    measure,
    seeds_shared,
)
from config import UserError
from synthetic import STUDY, minimal_results, synthetic_results, synthetic_study, write_study
from training.matched_loss import matched_loss_pd, pd_at_val_loss


def matched_loss(study):
    return match_losses(measure(study))


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
        measure({})


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
        measure(study)


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
        Measured("relu", results).pairs  # noqa: B018


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


def test_matrix_is_symmetric():
    values = {(i, j): float(10 * i + j) for i, j in itertools.combinations((2, 5, 7), 2)}
    assert matrix(values, [7, 2, 5]).tolist() == [[0, 27, 57], [27, 0, 25], [57, 25, 0]]
