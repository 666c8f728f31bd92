"""Another baseline, another contrast: what is asked of the same results, from wherever it is asked."""

import json
import re

import numpy as np
import pytest
import scipy.stats

import analyze_results
import storage
from analysis import paper, question
from analysis.question import Question, ask
from analysis.report import plan_text, report_text
from analysis.study import Study
from analyze_results import (
    calculate_statistical_significance,
    generate_final_report,
    load_all_results,
    plan_trials,
)
from bench.claims import claims_of
from config import Config, UserError
from plotting import several
from questions.until_decided import looks
from synthetic import (
    STUDY,
    differences_from,
    log_jackknife,
    losses_of,
    moderated,
    pds_of,
    synthetic_results,
    synthetic_study,
    write_study,
)

# -- which question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arms, baseline, contrast",
    [
        (STUDY, "relu", ("smelu_05", "smelu_1", "gelu", "swish")),
        (("relu", "gelu"), "relu", ()),  # one arm beside it: nothing to take together
        (("relu", "gelu", "mine"), "relu", ()),  # one smooth one, and one of which nothing is known
        (("gelu", "swish", "mine"), "gelu", ()),
        (("mine", "yours"), "mine", ()),
        (("gelu",), "gelu", ()),
    ],
)
def test_the_default_question(arms, baseline, contrast):
    asked = Question.of(dict.fromkeys(arms, {}))
    assert (asked.baseline, asked.contrast) == (baseline, contrast)
    assert set(asked.others) == set(arms) - {baseline}
    assert asked.about_smoothness == bool(contrast)


def test_a_question_is_of_the_results_that_are_there():
    results = dict.fromkeys(STUDY, {})
    asked = Question.of(results, "gelu", ["swish", "relu"])
    assert asked.baseline == "gelu" and asked.contrast == ("relu", "swish")  # in the order of the study
    assert not asked.about_smoothness
    with pytest.raises(UserError, match="baseline='tanh': there are no results of it; must be of smelu_05"):
        Question.of(results, "tanh")
    with pytest.raises(UserError, match="contrast='tanh': there are no results"):
        Question.of(results, "gelu", ["tanh"])
    with pytest.raises(UserError, match="contrast='gelu': it is the baseline"):
        Question.of(results, "gelu", ["gelu", "relu"])


def test_results_record_what_was_asked():
    study = synthetic_study(("gelu", "swish", "mine"))
    study["mine"]["config"]["baseline"] = "mine"
    assert Question.of(study).baseline == "mine"
    study["relu"] = synthetic_results("relu")  # came later, and names none: the default
    study["relu"]["timestamp"] = "2027-01-01T00:00:00+00:00"
    assert Question.of(study).baseline == "relu"
    study["relu"]["config"]["baseline"] = "gone"  # to another folder
    assert Question.of(study).baseline == "relu"
    for odd in (5, ["relu"], {"a": 1}, [[]]):  # another tool's
        study["relu"]["config"]["baseline"] = study["relu"]["config"]["contrast"] = odd
        assert Question.of(study).arms == ("relu", "gelu", "swish", "mine")


def test_a_setting_that_changes_no_training():
    plain, asked = (Config(preset="smoke", device="cpu", **more) for more in ({}, {"baseline": "gelu"}))
    assert asked.fingerprint() == plain.fingerprint() and not asked.differences(plain)
    assert Config.from_dict(asked.to_dict()).baseline == "gelu"
    assert Config(preset="smoke", device="cpu", contrast="gelu").contrast == ("gelu",)
    with pytest.raises(UserError, match="contrast='gelu': it is the baseline"):
        Config(preset="smoke", device="cpu", baseline="gelu", contrast=["gelu"])
    with pytest.raises(UserError, match="contrast=5: must be one or more"):
        Config(preset="smoke", device="cpu", contrast=5)


# -- kept beside the results ------------------------------------------------------------------------------------------


def test_questions_are_kept_and_counted(tmp_path, capsys):
    results = write_study(tmp_path / "results", synthetic_study())
    folders = ["--results-dir", str(results), "--plots-dir", str(tmp_path / "plots")]
    assert analyze_results.main(folders) == 0
    assert not (results / question.FILE).exists()
    assert analyze_results.main([*folders, "--baseline", "gelu"]) == 0
    text = (results / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert "This is question 2 asked of these results (before it: against ReLU)" in text
    assert analyze_results.main(folders) == 0  # it stays the question
    assert (results / "FINAL_REPORT.md").read_text(encoding="utf-8") == text
    assert analyze_results.main([*folders, "--baseline", "swish", "--contrast", "relu", "gelu"]) == 0
    assert "This is question 3 asked" in (results / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert json.loads((results / question.FILE).read_text(encoding="utf-8"))[-1] == {
        "baseline": "swish",
        "contrast": ["relu", "gelu"],
    }
    capsys.readouterr()
    assert analyze_results.main([*folders, "--baseline", "tanh"]) == 2
    assert "--baseline tanh: there are no results of it" in capsys.readouterr().err
    (results / question.FILE).write_text("[5]", encoding="utf-8")
    with pytest.raises(storage.StorageError, match="not a list of questions"):
        load_all_results(results)


def test_the_first_question_asked_of_results_is_the_first(tmp_path):
    results = write_study(tmp_path / "results", synthetic_study())
    ask(results, load_all_results(results), "gelu")  # before any report
    assert not Study(load_all_results(results)).question.earlier


# -- what follows from it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_trials", [3, 6])
def test_the_tests_are_against_the_baseline(n_trials):
    study = synthetic_study(n_trials=n_trials)
    made = Study(study, question=Question.of(study, "gelu", ["smelu_05", "swish"]))
    assert [t.b for t in made.primary] == ["gelu"] * 4
    logs = {name: log_jackknife(pds_of(results)) for name, results in study.items()}
    losses = {name: losses_of(results) for name, results in study.items()}
    for quantity, values in (("PD", logs), ("Loss", losses)):
        family = differences_from(values, "gelu")
        for t in made.primary:
            _, _, p, _, _ = moderated(family[t.a], family.values())
            assert t.tests[quantity].p == pytest.approx(p, rel=1e-7)
    together = (logs["smelu_05"] + logs["swish"]) / 2 - logs["gelu"]
    _, _, p, _, half = moderated(together, differences_from(logs, "gelu").values())
    test = made.contrast.tests["PD"]
    assert test.p == pytest.approx(p, rel=1e-7)
    assert np.log([test.low, test.high]) == pytest.approx([together.mean() - half, together.mean() + half])
    table = calculate_statistical_significance(study, "gelu")
    assert set(table[table.Primary].Activation_B) == {"gelu"} and table.Primary.sum() == 4
    assert set(plan_trials(study, baseline="gelu").Activation_B) == {"gelu"}


def test_one_arm_beside_the_baseline_is_tested_by_its_own_spread():
    study = synthetic_study(("mine", "gelu"))
    study["mine"] = synthetic_results("mine", pd=0.08)
    made = Study(study)
    (test,) = made.tests
    expected = scipy.stats.ttest_rel(*(log_jackknife(pds_of(study[name])) for name in ("mine", "gelu")))
    assert test.tests["PD"].p == pytest.approx(expected.pvalue) and not test.tests["PD"].prior_df
    assert test.p_holm["PD"] == pytest.approx(expected.pvalue) and not made.contrast.tests
    assert made.headline is test and made.headline_kind("PD") == "lower"
    text = report_text(made)
    assert "Do models with mine differ less from one training to the next than models with GELU?" in text
    assert "**Answer: yes.** After 3 trainings of each (1,000 steps), models with mine differ less" in text


def test_arms_of_one_training_each_are_not_tested():
    study = synthetic_study(("gelu", "swish", "mine"), n_trials=1)
    made = Study(study)
    assert not any(t.tested(quantity) for t in made.tests for quantity in ("PD", "Loss"))
    assert "**Answer: not tested.**" in report_text(made)


@pytest.fixture(scope="module")
def against_gelu():
    study = {name: synthetic_results(name, pd=0.1, n_trials=8) for name in ("relu", "gelu")}
    study["mine"] = synthetic_results("mine", pd=0.07, n_trials=8)
    return Study(study, question=Question.of(study, "gelu"))


def test_everything_speaks_of_the_question(against_gelu):
    text = report_text(against_gelu)
    assert "Do models with ReLU or mine differ less from one training to the next than models with GELU?" in text
    assert "**Answer: yes, with mine.**" in text and "compared with GELU, models with mine differ less, by" in text
    assert "### Against GELU: the planned comparisons" in text and "planned contrast" not in text
    assert "**supported** for mine" in text
    for wrong in ("with ReLU?", "Against ReLU", "models with ReLU differ", "that of ReLU", "to ReLU", "keep ReLU"):
        assert wrong not in text, wrong
    assert {kind for kind, _ in claims_of(text)} >= {"PD"}
    assert "mine against GELU" in plan_text(against_gelu)
    texts = paper.texts(against_gelu)
    assert "Difference from GELU" in texts["significance.tex"] and "compared with GELU (Holm" in texts["methods.tex"]
    assert "smooth" not in texts["methods.tex"]
    title, _ = several.finding(several.ratio_rows(against_gelu))
    assert title.startswith("Mean PD against GELU")


def test_the_default_report_of_each_baseline_names_no_other(tmp_path):
    study = synthetic_study()
    for name, label in (("relu", "ReLU"), ("swish", "Swish")):
        text = generate_final_report(study, None, baseline=name)
        assert re.search(rf"than models with {label}\?", text)
        assert f"### Against {label}" in text


def test_looks_are_against_the_baseline():
    study = synthetic_study(("gelu", "swish", "mine"), n_trials=3)
    plan = {"activations": list(study), "baseline": "mine", "margin": 0.05, "looks": [3, 5, 8, 12, 20], "alpha": 0.05}
    family = looks.family(study, plan, 3)
    logs = {name: log_jackknife(pds_of(results)) for name, results in study.items()}
    assert {name: c.estimate for name, c in family.items()} == pytest.approx(
        {name: d.mean() for name, d in differences_from(logs, "mine").items()}
    )
    taken = looks.take(study, plan, (3,))[0]
    assert "PD against mine's: GELU" in looks.look_line(taken, plan)
