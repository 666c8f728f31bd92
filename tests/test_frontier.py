"""PD at equal loss between branches: against NumPy, by simulation, and from trained branches to the files."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.stats
import torch

import analyze_results
import metrics
import significance
import storage
import train
from analysis import report, tables
from analysis.frontier import equal_loss, frontier, where_it_falls_to
from analysis.products import Folder
from analysis.records import Branch
from analysis.results import Measured
from analysis.study import Study
from models.architectures import model_from
from prepare_data import load_corpus
from synthetic import (
    STUDY,
    add_frontier,
    log_jackknife,
    losses_of,
    moderated,
    pds_at_equal_loss,
    synthetic_results,
    synthetic_study,
)
from tools.verify import verify
from training import experiment

# -- reading off ------------------------------------------------------------------------------------------------------


def made(seed, n=4, branches=4, pd=0.14, loss=1.8, spread=0.01):
    """Branches whose losses fall and whose PDs differ a little."""
    rng = np.random.default_rng(seed)
    ids = range(1, n + 1)
    own = rng.normal(0, spread, n)
    points = []
    for b in range(branches):
        losses = loss + 0.08 * (branches - 1 - b) + own + rng.normal(0, 0.003, n)
        pds = {(i, j): pd * np.exp(0.02 * rng.normal() + 0.01 * b) for i, j in itertools.combinations(ids, 2)}
        points.append(Branch(100 * b, 125 * b, dict(zip(ids, losses, strict=True)), pds))
    return points


def test_against_numpy():
    """The largest final mean loss of a pair; ln PD by numpy.interp along each pair's line."""
    frontiers = {"a": made(1), "b": made(2, loss=1.84), "c": made(3, loss=1.95)}
    for names in (("a", "b"), ("b", "a"), ("a", "c"), ("a", "b", "c")):
        some = {name: frontiers[name] for name in names}
        ids = {name: [1, 2, 4] for name in names}
        target, found = equal_loss(some, ids)
        finals = [np.mean([points[-1].losses[i], points[-1].losses[j]]) for points in some.values() for i, j in
                  ((1, 2), (1, 4), (2, 4))]  # fmt: skip
        assert target == max(finals)
        for name, points in some.items():
            for (a, i), (b, j) in itertools.combinations(enumerate(ids[name]), 2):
                line = sorted(((p.losses[i] + p.losses[j]) / 2, np.log(p.pds[i, j])) for p in points)
                expected = np.exp(np.interp(target, *zip(*line, strict=True)))
                assert found[name][a, b] == found[name][b, a] == pytest.approx(expected, rel=1e-12)
        assert all((np.diag(m) == 0).all() for m in found.values())


def test_the_loss_is_of_the_compared_alone():
    """A third activation, a trial that is left out, and the order change nothing."""
    frontiers = {"a": made(1), "b": made(2, loss=1.84)}
    target, _ = equal_loss(frontiers, {"a": [1, 2, 3], "b": [1, 2, 3]})
    worse = [dataclasses.replace(p, losses={**p.losses, 4: 5.0}) for p in frontiers["b"]]
    assert equal_loss({"b": worse, "a": frontiers["a"]}, {"a": [1, 2, 3], "b": [1, 2, 3]})[0] == target


def test_nothing_is_read_beyond_the_branches():
    """Where one is better from its first branch on than the other in the end; and where two models are the same."""
    good, bad = made(1, loss=1.5), made(2, loss=1.9)
    ids = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}
    assert equal_loss({"a": good, "b": bad}, ids) is None
    same = [dataclasses.replace(p, pds={**p.pds, (1, 2): 0.0}) for p in made(3)]
    assert equal_loss({"a": made(1), "b": same}, ids) is None


def test_the_models_of_the_last_branch_are_the_final_ones():
    """With itself an activation is compared at its own final loss, where the worst pair has its final PD."""
    points = made(5)
    ids = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}
    target, found = equal_loss({"a": points, "b": points}, ids)
    final = points[-1]
    worst = max(final.pds, key=lambda pair: sum(final.losses[k] for k in pair))
    assert found["a"][worst[0] - 1, worst[1] - 1] == np.exp(np.log(final.pds[worst]))
    np.testing.assert_array_equal(found["a"], found["b"])


def test_what_is_not_recorded_completely_is_left_out():
    whole = add_frontier(synthetic_results("relu", n_trials=4, diverged=(2,)))
    points = frontier(Measured("relu", whole))
    assert [p.ends for p in points] == [400, 700, 1000]
    assert set(points[0].losses) == {1, 3, 4} and set(points[0].pds) == {(1, 3), (1, 4), (3, 4)}
    assert set(frontier(Measured("relu", whole, without=3))[0].losses) == {1, 4}
    for spoil in (
        lambda f: f[0]["trials"].pop(),
        lambda f: f[1]["pairs"].pop(),
        lambda f: f[2]["trials"][0].update(val_loss=None),
        lambda f: f[0]["pairs"][0].update(relative_pd=float("nan")),
    ):
        results = add_frontier(synthetic_results("relu", n_trials=4, diverged=(2,)))
        spoil(results["frontier"])
        assert frontier(Measured("relu", results)) == []
    assert frontier(Measured("relu", synthetic_results("relu"))) == []
    assert frontier(Measured("relu", add_frontier(synthetic_results("relu", n_trials=1)))) == []


# -- by simulation ----------------------------------------------------------------------------------------------------


def predicted(rng, n, sharpness, positions=60, tokens=8):
    """Points of n trials whose predicted distributions get sharper from branch to branch, as they do with learning: the
    same signal in all, and noise of its own in each trial that its branches largely share."""
    signal = np.random.default_rng(0).normal(size=(positions, tokens))
    target = signal.argmax(-1)
    lasting = rng.normal(size=(n, positions, tokens))
    points = []
    for b, sharp in enumerate(sharpness):
        noise = 0.8 * lasting + 0.6 * rng.normal(size=lasting.shape)
        logits = sharp * (signal + (0.25 + 0.05 * rng.normal(size=(n, 1, 1))) * noise)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        losses = -np.log(p[:, np.arange(positions), target]).mean(-1)
        pds = {(i + 1, j + 1): abs(p[i] - p[j]).sum(-1).mean() / 2 for i, j in itertools.combinations(range(n), 2)}
        points.append(Branch(b, b + 1, dict(enumerate(losses.tolist(), 1)), pds))
    return points


@pytest.mark.parametrize("paired", [True, False])
def test_the_same_activation_under_two_names(paired):
    """With other seeds: the 95 % interval of the ratio contains 1 in about 95 % of the cases, and never in fewer than
    the simulation's own error explains, although one of the two happens to have learnt more."""
    rng = np.random.default_rng(7)
    rounds, outside, compared = 400, 0, 0
    for _ in range(rounds):
        frontiers = {name: predicted(rng, 4, (1.0, 1.5, 2.0, 2.4)) for name in ("one", "other")}
        found = equal_loss(frontiers, dict.fromkeys(frontiers, [1, 2, 3, 4]))
        if found is None:
            continue
        compared += 1
        test = significance.compare_pd(*found[1].values(), paired=paired)
        outside += not test.low < 1 < test.high
    assert compared > 0.9 * rounds
    assert outside / compared < 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / compared)


def test_a_difference_at_equal_loss_is_found_whichever_learns_faster():
    """One activation's trials agree more at every loss; the other learns faster, so that its final models are sharper
    and differ more or less for that reason alone."""
    rng = np.random.default_rng(8)
    ratios = []
    for sharpness in ((1.0, 1.5, 2.0, 2.4), (1.2, 1.8, 2.3, 2.7)):
        for _ in range(40):
            slow, fast = predicted(rng, 4, (1.0, 1.5, 2.0, 2.4)), predicted(rng, 4, sharpness)
            lower = [dataclasses.replace(p, pds={k: 0.9 * x for k, x in p.pds.items()}) for p in fast]
            target, found = equal_loss({"a": lower, "b": slow}, dict.fromkeys("ab", [1, 2, 3, 4]))
            ratios.append(significance.compare_pd(found["a"], found["b"], paired=False).effect)
    ratios = np.log(ratios).reshape(2, -1)
    assert ratios.mean(1) == pytest.approx([np.log(0.9)] * 2, abs=4 * ratios.std() / np.sqrt(40))


def test_read_off_at_the_first_crossing():
    losses, values = [4.0, 3.0, 2.0, 1.0], [0.1, 0.15, 0.3, 0.2]
    assert where_it_falls_to(2.5, losses, values) == pytest.approx(0.225)
    assert where_it_falls_to(2.0, losses, values) == 0.3
    assert where_it_falls_to(0.5, losses, values) is None  # never reached
    assert where_it_falls_to(5.0, losses, values) is None  # below it from the start
    assert where_it_falls_to(1.5, [2, 1, 2], [0.1, 0.2, 0.9]) == pytest.approx(0.15)
    assert where_it_falls_to(2.5, [3, 2.6, 1], [0.1, None, 0.3]) is None  # no telling where it passed


# -- in a study -------------------------------------------------------------------------------------------------------


def study_with_branches(names=STUDY, n_trials=5):
    return {name: add_frontier(results) for name, results in synthetic_study(names, n_trials=n_trials).items()}


def final_loss(results):
    """The largest mean of two trials' final losses."""
    return sum(sorted(losses_of(results))[-2:]) / 2


def test_a_study_compares_at_the_loss_of_the_two():
    """Every pair, and the smooth ones together, against SciPy and the moderated test written out."""
    all_results = study_with_branches()
    study = Study(all_results)
    assert list(study.frontiers) == list(STUDY)
    own = {}
    for t in study.tests:
        target = max(final_loss(all_results[name]) for name in (t.a, t.b))
        assert t.loss == pytest.approx(target, rel=1e-12)
        pds = pds_at_equal_loss(all_results, t.a, t.b)
        d = log_jackknife(pds[t.a]) - log_jackknife(pds[t.b])
        own[t.a, t.b] = d
        assert t.own["Matched_PD"].p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=1e-6)
        assert np.log(t.tests["Matched_PD"].effect) == pytest.approx(d.mean(), abs=1e-9)
    family = [own[t.a, t.b] for t in study.primary]
    for t in study.tests:
        assert t.tests["Matched_PD"].p == pytest.approx(moderated(own[t.a, t.b], family)[2], rel=1e-6)
    target = max(map(final_loss, all_results.values()))
    assert study.contrast.loss == pytest.approx(target, rel=1e-12)
    logs = {name: log_jackknife(pds) for name, pds in pds_at_equal_loss(all_results, *all_results).items()}
    d = np.mean([logs[name] for name in STUDY if name != "relu"], axis=0) - logs["relu"]
    assert study.contrast.own["Matched_PD"].p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=1e-6)


def test_tables_and_report_say_where_it_was_read():
    all_results = study_with_branches()
    study = Study(all_results)
    table = tables.significance(study)
    assert list(table.Matched_Loss) == [t.loss for t in study.tests]
    text = report.report_text(study, {"frontiers": "f.png", "divergence": "d.png"})
    first, second = text.index("### At equal validation loss"), text.index("(f.png)")
    assert first < second < text.index("(d.png)") < text.index("## 6.")
    gelu = all_results["gelu"]["frontier"][0]
    assert f"{gelu['avg_val_loss']:.3f}: {gelu['avg_relative_pd']:.4f}" in text[first:second]
    every = tables.everything(study)
    branches = every[every.kind == "branch pair"]
    assert len(branches) == 5 * 3 * 10 and set(branches.ends) == {400, 700, 1000}
    # without branches, and where only one activation has them
    for without in (synthetic_study(), {**synthetic_study(), "relu": add_frontier(synthetic_results("relu"))}):
        assert not Study(without).frontiers
        assert tables.significance(Study(without)).Matched_Loss.isna().all()
        assert "Not compared: that takes annealed models" in report.report_text(Study(without))


def test_without_a_common_loss_there_is_no_test():
    all_results = study_with_branches(("relu", "gelu", "swish"))
    for branch in all_results["gelu"]["frontier"]:
        for t in branch["trials"]:
            t["val_loss"] += 3
    study = Study(all_results)
    kinds = {(t.a, t.b): "Matched_PD" in t.tests for t in study.tests}
    assert kinds == {("gelu", "swish"): False, ("gelu", "relu"): False, ("swish", "relu"): True}
    assert "Matched_PD" not in study.contrast.tests
    report.report_text(study)


# -- from checkpoints to files ----------------------------------------------------------------------------------------


@pytest.fixture
def trained(smoke_config):
    config = smoke_config.replace(schedule="trunk", trials_per_activation=3)
    return config, train.run_study(config, ["relu"], quiet=True)["relu"]


def test_measured_as_the_final_models_are(trained):
    """Against predictions taken from the weights in the checkpoints, compared two by two; verified from them again."""
    config, results = trained
    corpus = load_corpus(config)
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    windows = torch.from_numpy(corpus.val[starts[:, None] + np.arange(config.block_size + 1)].astype(np.int64))
    x, y = windows[:, :-1], windows[:, 1:].reshape(-1).numpy()
    branches = results["frontier"]
    assert [(b["leaves"], b["ends"]) for b in branches] == [(19, 24), (29, 36), (38, 48), (48, 60)]
    paths = [storage.checkpoint_path(config.checkpoint_dir, "relu", k) for k in (1, 2, 3)]
    checkpoints = [storage.load_checkpoint(path) for path in paths]
    for found in branches:
        p = []
        for saved, entry in zip(checkpoints, found["trials"], strict=True):
            branch = saved["branches"].get(str(found["leaves"]))
            with torch.no_grad():
                p.append(torch.softmax(model_from(saved, branch)(x).double(), -1).flatten(0, 1).numpy())
            loss = -np.log(p[-1][np.arange(len(y)), y]).mean()
            assert entry["val_loss"] == pytest.approx(loss, rel=1e-6)
            assert entry["weights_sha256"] == (branch or saved)["record"]["weights_sha256"]
        for (i, j), pair in zip(itertools.combinations(range(3), 2), found["pairs"], strict=True):
            assert pair["model_pair"] == f"{i + 1}_vs_{j + 1}"
            assert pair["relative_pd"] == pytest.approx(0.5 * abs(p[i] - p[j]).sum(-1).mean(), rel=1e-6)
            assert pair["prediction_differences"] == (p[i].argmax(-1) != p[j].argmax(-1)).sum()
    assert branches[-1]["avg_relative_pd"] == results["avg_relative_pd"]
    assert branches[-1]["avg_val_loss"] == results["avg_val_loss"]
    assert experiment.measure(config, "relu", corpus)["frontier"] == branches
    assert storage.read_results(storage.results_path(config.results_dir, "relu"))["frontier"] == branches


def test_verify_sees_a_changed_branch(trained):
    config, results = trained
    path = str(storage.results_path(config.results_dir, "relu"))

    def problems():
        return next(
            found.problems for found in verify(Folder.of(config), analyze_results.all_products()) if found.name == path
        )

    assert problems() == []
    results["frontier"][1]["pairs"][0]["relative_pd"] *= 1.01
    storage.write_results(results, config.results_dir)
    assert [line.split(":")[0] for line in problems()] == ["frontier[1].pairs[0].relative_pd"]


def some_of(results, ids, name):
    """The results of some trials, numbered from 1, as those of an activation by itself."""
    number = {k: n for n, k in enumerate(ids, 1)}

    def trials(entries):
        return [{**t, "trial_id": number[t["trial_id"]]} for t in entries if t["trial_id"] in number]

    def pairs(entries):
        found = [(list(map(int, p["model_pair"].split("_vs_"))), p) for p in entries]
        return [{**p, "model_pair": f"{number[i]}_vs_{number[j]}"} for (i, j), p in found if {i, j} <= set(number)]

    branches = [{**b, "trials": trials(b["trials"]), "pairs": pairs(b["pairs"])} for b in results["frontier"]]
    own = {"trials": trials(results["trials"]), "reproducibility_metrics": pairs(results["reproducibility_metrics"])}
    return {**results, **own, "activation": name, "frontier": branches}


def test_trained_models_of_one_activation_under_two_names(smoke_config):
    """Eight trials, four to each name: the interval of the ratio at equal loss contains 1."""
    config = smoke_config.replace(schedule="trunk", trials_per_activation=8)
    results = train.run_study(config, ["gelu"], quiet=True)["gelu"]
    one, other = (some_of(results, ids, name) for ids, name in (((1, 3, 5, 7), "gelu"), ((2, 4, 6, 8), "relu")))
    (test,) = Study({"gelu": one, "relu": other}).tests
    assert not test.paired
    found = test.tests["Matched_PD"]
    assert found.low < 1 < found.high and found.n == (4, 4)
