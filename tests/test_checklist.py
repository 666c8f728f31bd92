"""The checklist of a finished study: each thing that may be missing or wrong, put there and found."""

import shutil

import pytest

import analyze_results
import plot_utils
import storage
from analysis import products
from analysis.products import Folder
from synthetic import synthetic_results, synthetic_study, write_study
from tools.checklist import check_study

NAMES = ("smelu_05", "relu", "gelu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders of a finished study, with stand-ins for checkpoints."""
    folder = tmp_path_factory.mktemp("study")
    study = {name: results for name, results in synthetic_study().items() if name in NAMES}
    for name, results in study.items():
        for t in results["trials"]:
            path = storage.checkpoint_path(folder / "checkpoints", name, t["trial_id"])
            storage.write_bytes(path, f"{name} {t['trial_id']}".encode())
            t["checkpoint"]["sha256"] = storage.sha256_file(path)
    write_study(folder / "results", study)
    products.write(plot_utils.EACH, folders(folder))
    analyze_results.write_all(folder / "results", folder / "plots")
    return folder


@pytest.fixture
def finished(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "study")


def check(folder, names=None):
    return check_study(folders(folder), analyze_results.all_products(), names)


def folders(folder):
    return Folder(folder / "results", folder / "plots", folder / "checkpoints")


def problems(folder, names=None):
    return [line.problem for line in check(folder, names) if line.problem]


def rewritten(folder, name, change):
    """Results of one activation, changed and properly written again."""
    results = storage.read_results(storage.results_path(folder / "results", name))
    change(results)
    storage.write_results(results, folder / "results")


def test_a_finished_study_passes(finished):
    assert len(check(finished)) == 9 and problems(finished) == []


@pytest.mark.parametrize("file", ["plots/relu_summary.png", "plots/gelu_divergence.png", "results/summary.csv"])
def test_what_is_missing_is_named_and_what_is_of_other_results(finished, file):
    (finished / file).unlink()
    assert problems(finished) == [f"{finished / file} missing"]
    storage.write_bytes(finished / file, b"of another study")
    assert problems(finished) == [f"{finished / file} not made of these results"]


def test_figures_of_an_activation_by_its_import_path(finished):
    """Its files are named without the colon."""
    storage.write_results(synthetic_results("my_activations:cube"), finished / "results")
    assert any("plots/my_activations--cube_training_curves.png missing" in p for p in problems(finished))


def test_checkpoints_must_match_where_they_are_shipped(finished):
    path = storage.checkpoint_path(finished / "checkpoints", "gelu", 2)
    path.write_bytes(b"another model")
    (problem,) = problems(finished)
    assert "gelu/trial_2.pt is not the file" in problem
    path.unlink()
    (problem,) = problems(finished)
    assert "gelu/trial_2.pt is missing" in problem
    shutil.rmtree(finished / "checkpoints")
    assert problems(finished) == []
    assert any(str(line).endswith("not shipped: 9 checkpoints") for line in check(finished))


def test_a_missing_or_damaged_results_file(finished):
    path = storage.results_path(finished / "results", "gelu")
    path.write_text(path.read_text(encoding="utf-8")[:-50], encoding="utf-8")
    found = problems(finished)
    assert "gelu_results.json" in found[0] and any("gelu: not trained" in p for p in found)
    path.unlink()
    assert "gelu_results.json: no such file" in problems(finished)[0]  # its models are there


def test_nothing_to_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert analyze_results.main(["--check"]) == 1
    assert capsys.readouterr().out == "– results: nothing to check\n"


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
    assert any(problem in found for found in problems(finished)), problems(finished)


def test_diverged_trials_do_not_converge(finished):
    diverged = synthetic_results("gelu", diverged=(2,))
    rewritten(finished, "gelu", lambda r: r.update(trials=diverged["trials"]))
    assert any("gelu trial 2 diverged at step 400" in found for found in problems(finished))


def test_activations_can_be_named(finished):
    assert problems(finished, ["relu", "gelu"]) == []
    assert "swish_results.json: no such file" in problems(finished, ["relu", "swish"])[0]


def test_on_the_command_line(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert analyze_results.main(["--check"]) == 0
    (finished / "plots/relu_summary.png").unlink()
    capsys.readouterr()
    assert analyze_results.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert "✗ tables, figures and report" in printed and "✓" in printed
