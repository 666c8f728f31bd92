"""The checklist of a finished study: each thing that may be missing or wrong, put there and found."""

import os

import pytest

import analyze_results
import storage
from analysis.products import Folder
from analyze_results import save_results_summary
from synthetic import STUDY, synthetic_results, synthetic_study, write_study
from tools.checklist import check_study

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
    return check_study(folders(folder))


def folders(folder):
    return Folder(folder / "results", folder / "plots", folder / "checkpoints")


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


def test_figures_of_an_activation_by_its_import_path(finished):
    """Its files are named without the colon."""
    results = synthetic_results("my_activations:cube")
    storage.write_results(results, finished / "results")
    for kind in ("training_curves", "reproducibility"):
        storage.write_bytes(finished / "plots" / f"my_activations--cube_{kind}.png", b"a figure")
    (problem,) = [line.problem for line in check(finished) if str(line).startswith("✗ figures of every")]
    assert problem.startswith(f"{finished}/plots/my_activations--cube_summary.png missing")


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
    path.write_text(path.read_text(encoding="utf-8")[:-50], encoding="utf-8")
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
    lines = check_study(folders(finished), names)
    assert not any(line.problem for line in lines)


def test_on_the_command_line(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert analyze_results.main(["--check"]) == 0
    (finished / "plots" / FIGURES[0]).unlink()
    capsys.readouterr()
    assert analyze_results.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert "✗ figures of every activation" in printed and "✓" in printed
