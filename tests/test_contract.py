"""Each bullet of the documented report, tables and calls, held against what is made of a study."""

import re

import numpy as np
import pytest

import analyze_results
import plot_utils
from analyze_results import generate_final_report, rank_activations, save_results_summary
from config import UserError
from synthetic import STUDY, losses_of, pds_of, synthetic_results, synthetic_study, write_study

SUMMARY = (
    "Activation Avg_Val_Loss Std_Val_Loss Avg_Train_Loss Avg_Relative_PD Avg_Pred_Diff_Pct Avg_Training_Time_Sec "
    "Num_Trials"
).split()


@pytest.fixture(scope="module")
def study():
    return synthetic_study(n_trials=5)


@pytest.fixture(scope="module")
def sections(study):
    """{title: its text}, in the order of the report."""
    parts = re.split(r"^## \d\. (.*)$", generate_final_report(study, None), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def lowest(study, value):
    return min(study, key=lambda name: value(study[name]))


def test_the_sections_in_their_order(sections):
    assert list(sections) == [
        "Executive Summary",
        "Detailed Results Table",
        "Rankings by Use Case",
        "Statistical Significance",
        "Key Findings",
        "Conclusions",
        "Future Work",
    ]


def test_executive_summary(study, sections):
    text = sections["Executive Summary"]
    labels = dict(zip(STUDY, ("SmeLU β=0.5", "SmeLU β=1", "ReLU", "GELU", "Swish"), strict=True))
    best = rank_activations(study).Activation.iloc[0]
    accurate = lowest(study, lambda r: losses_of(r).mean())
    reproducible = lowest(study, lambda r: np.mean(list(pds_of(r).values())))
    for what, name in (
        ("Best overall activation", best),
        ("Most reproducible activation", reproducible),
        ("Most accurate activation", accurate),
    ):
        line = next(line for line in text.splitlines() if line.startswith(f"- **{what}**: {labels[name]}"))
        rest = line.partition(labels[name])[2]
        assert all(label in rest for label in labels.values() if label != labels[name])  # shown to differ, or not
        assert "not shown to differ from" in rest or "shown" in rest
    seconds = sum(t["training_time"] for r in study.values() for t in r["trials"])
    took = f"25 trainings of 5 activations, {seconds / 60:.0f} minutes of training in all."
    assert f"- **Total experiments and time**: {took}" in text


def test_what_a_best_one_is_shown_to_differ_from_is_told_apart():
    study = {name: synthetic_results(name, n_trials=8, pd=0.1) for name in ("relu", "gelu", "swish")}
    study["gelu"] = synthetic_results("gelu", n_trials=8, pd=0.05)
    study["swish"] = synthetic_results("swish", n_trials=8, pd=0.05)
    line = next(line for line in generate_final_report(study, None).splitlines() if "**Most reproducible" in line)
    other = "Swish" if line.startswith("- **Most reproducible activation**: GELU") else "GELU"
    assert line.endswith(f", not shown to differ from {other}; shown lower in PD than ReLU.")


def test_another_question_speaks_of_its_arms():
    study = synthetic_study(("relu", "gelu"))
    for results in study.values():
        results["comparison"] = {"block_size": 64}
        results.pop("config")
    text = generate_final_report(study, None)
    assert "**Best overall group**" in text and "6 models of 2 groups" in text
    assert not text.startswith("# Activation functions")


def test_detailed_results_are_mean_and_deviation(study, sections):
    text = sections["Detailed Results Table"]
    for results in study.values():
        losses = losses_of(results)
        assert f"{losses.mean():.4f} ± {losses.std(ddof=1):.4f}" in text
    for metric in (
        "Training loss",
        "Validation accuracy",
        "Relative PD",
        "Top-1 mismatch",
        "Training time",
        "Hellinger",
    ):
        assert metric in text


def test_rankings_by_use_case(study, sections):
    header = next(line for line in sections["Rankings by Use Case"].splitlines() if line.startswith("| Activation"))
    names = [name.strip() for name in header.strip("|").split("|")][1:]
    assert names == ["Research focus, 60/30/10", "Production balanced, 40/40/20", "Speed priority, 20/30/50"]
    default = rank_activations(study)
    named = rank_activations(study, {"reproducibility": 0.6, "accuracy": 0.3, "speed": 0.1})
    assert default.equals(named) and default.equals(
        rank_activations(study, {"reproducibility": 0.6, "accuracy": 0.3, "efficiency": 0.1})
    )
    with pytest.raises(UserError, match="one criterion"):
        rank_activations(study, {"speed": 1, "efficiency": 1})


def test_statistical_significance_has_pairs_p_values_flags_and_effect_sizes(sections):
    text = sections["Statistical Significance"]
    assert text.count(" against ") >= 6 and "| p " in re.sub(" +", " ", text)
    assert "Hedges' g" in text and re.search(r"g_z = −?\d", text)


def test_key_findings_and_conclusions(sections):
    for title in ("Smooth versus non-smooth", "Best and worst", "Hypothesis validation"):
        assert f"### {title}" in sections["Key Findings"]
    for title in ("By context", "Trade-offs, and when to use which"):
        assert f"### {title}" in sections["Conclusions"]
    assert sections["Future Work"].strip().startswith("- **")


def test_files_and_their_columns(study, tmp_path):
    results = write_study(tmp_path / "results", study)
    written = analyze_results.write_all(results, tmp_path / "plots")
    names = {path.name for path in written}
    assert {"summary.csv", "significance.csv", "FINAL_REPORT.md", "comprehensive_comparison.png"} <= names
    table = plot_utils.save_results_summary(results / "summary.csv")
    assert list(table)[:8] == SUMMARY
    assert table.equals(save_results_summary(save_path=results / "summary.csv"))
    assert all(name == name.upper() for name in table.Activation)
