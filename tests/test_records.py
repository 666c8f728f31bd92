"""Trials, pairs and branches as records: made once, from what a results file says."""

import dataclasses
import math

import pytest

from analysis.records import Branch, Pair, Trial
from analysis.results import Measured
from config import UserError
from synthetic import add_frontier, minimal_results, synthetic_results


def test_every_number_of_a_trial_is_that_of_the_file():
    recorded = synthetic_results("gelu")["trials"][1]
    trial = Trial.of(recorded, 9)
    assert trial.number == 2 and trial.finished
    for f in dataclasses.fields(Trial):
        if f.name in recorded:
            assert getattr(trial, f.name) == recorded[f.name], f.name
    assert trial.last_on_curve == recorded["val_loss_history"][-1]
    assert trial.value("distinct_argmax") == 50 and trial.value("of another tool") is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.seed = 5


def test_a_trial_of_another_tool_has_the_documented_keys():
    (recorded, *_) = minimal_results("gelu")["trials"]
    trial = Trial.of({**recorded, "trial_id": None}, 3)
    assert (trial.number, trial.status, trial.overfit, trial.steps, trial.best_val_loss) == (3, "done", None, [], None)
    assert trial.finished and trial.mark[0] == "curve"
    assert Trial.of({**recorded, "seed": 2**127 + 1}, 1).seed == 2**127 + 1  # no digit lost


@pytest.mark.parametrize("change", [{"status": "diverged"}, {"val_loss": None}, {"val_loss": math.nan}])
def test_only_finished_trials_with_a_finite_loss_count(change):
    results = synthetic_results("gelu")
    results["trials"][0].update(change)
    m = Measured("gelu", results)
    assert list(m.trials) == [2, 3] and list(m.failed) == [1] and list(m.pairs) == [(2, 3)]


def test_a_pair_is_sorted_and_its_mismatch_derived():
    recorded = {"model_pair": "3_vs_1", "relative_pd": 0.1, "prediction_differences": 5, "total_predictions": 40}
    pair = Pair.of({**recorded, "top1_mismatch_pct": 99.0, "hellinger": 0.2}, "gelu")
    assert (pair.i, pair.j, pair.relative_pd, pair.top1_mismatch_pct) == (1, 3, 0.1, 12.5)
    assert pair.value("top1_mismatch_pct") == 12.5 and pair.value("hellinger") == 0.2
    assert Pair.of({**recorded, "total_predictions": None}, "gelu").top1_mismatch_pct is None
    for wrong in ("1_vs_1", "1", "1_2_3"):
        with pytest.raises(UserError, match="gelu: model_pair=.* must name two trials"):
            Pair.of({**recorded, "model_pair": wrong}, "gelu")


def test_branches_are_those_of_the_trunk():
    results = add_frontier(synthetic_results("gelu"))
    for branch, recorded in zip(Measured("gelu", results).branches, results["frontier"], strict=True):
        assert isinstance(branch, Branch) and (branch.leaves, branch.ends) == (recorded["leaves"], recorded["ends"])
        assert branch.losses == {t["trial_id"]: t["val_loss"] for t in recorded["trials"]}
        assert branch.pds[1, 2] == recorded["pairs"][0]["relative_pd"]
    assert Measured("gelu", synthetic_results("gelu")).branches == []
