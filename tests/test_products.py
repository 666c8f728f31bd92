"""A product that nobody knows by name: one folder and one row, and it is written, verified, drawn again, checked and
reported."""

import json
import sys

import pytest

import analyze_results
import plot_utils
import questions
import storage
import train
from analysis import products
from analysis.products import Folder
from synthetic import synthetic_study, write_study
from tools import verify

MADE_UP = """
from analysis.products import Product
from questions import later

PRODUCTS = (
    Product("hours", needs="hours.json", measure=later("questions.madeup.all:measure"), flag="--hours",
            make=later("questions.madeup.all:make"), section=later("questions.madeup.all:section"), help="how long"),
)
"""
ALL = """
from functools import partial

from matplotlib.figure import Figure

import storage
from analysis.products import Section
from plot_utils import figure


def measure(folder):
    hours = {n: sum(t["training_time"] for t in r["trials"]) / 3600 for n, r in folder.study.all_results.items()}
    return {folder.results / "hours.json": {"hours": hours}}


def bars(hours):
    drawn = Figure()
    drawn.add_subplot().bar(list(hours), list(hours.values()))
    return drawn


@figure("hours", bars)
def plot_hours(hours):
    return hours


def make(folder):
    hours = storage.read_json(folder.results / "hours.json")["hours"]
    page = "".join(f"<p>{name}: {h:.5f} h</p>" for name, h in hours.items())
    return {folder.results / "hours.html": page, folder.plots / "hours.png": partial(plot_hours, hours)}


def section(folder):
    hours = storage.read_json(folder.results / "hours.json")["hours"]
    return Section(["### Hours", "", f"In all {sum(hours.values()):.4f}."])
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Results of two activations without models, and a question `madeup`."""
    own = tmp_path / "more" / "madeup"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text(MADE_UP, encoding="utf-8")
    (own / "all.py").write_text(ALL, encoding="utf-8")
    monkeypatch.setattr(questions, "__path__", [*questions.__path__, str(own.parent)])
    monkeypatch.setattr(questions, "NAMES", (*questions.NAMES, "madeup"))
    monkeypatch.chdir(tmp_path)
    write_study("results", {name: synthetic_study()[name] for name in ("relu", "gelu")})
    yield tmp_path
    for name in ("questions.madeup", "questions.madeup.all"):
        sys.modules.pop(name, None)


FILES = ("results/hours.json", "results/hours.html", "plots/hours.png")


def verified(folder):
    found = {v.name: v for v in verify.verify(Folder.of(train.Config(preset="smoke")), analyze_results.all_products())}
    return {name: found[name].problems for name in FILES}


def test_a_made_up_product(study, capsys):
    assert analyze_results.main(["--hours"]) == 0
    assert [f"written: {name}" for name in FILES] == capsys.readouterr().out.splitlines()[:3]
    report = (study / "results/FINAL_REPORT.md").read_text(encoding="utf-8")
    assert "### Hours" in report.partition("## 5. Key Findings")[2].partition("## 6.")[0]
    assert verified(study) == dict.fromkeys(FILES, [])
    products.write(plot_utils.EACH, Folder(study / "results", study / "plots"))
    analyze_results.main([])
    drawn = (study / "plots/hours.png").read_bytes()
    (study / "plots/hours.png").unlink()
    assert analyze_results.main(["--check"]) == 1 and "plots/hours.png missing" in capsys.readouterr().out
    assert plot_utils.main([]) == 0
    assert (study / "plots/hours.png").read_bytes() == drawn
    page = study / "results/hours.html"
    page.write_text(page.read_text(encoding="utf-8").replace("relu", "gelu"), encoding="utf-8")
    assert verified(study)["results/hours.html"] and not verified(study)["plots/hours.png"]
    analyze_results.main(["--check"])
    assert "results/hours.html not made of these results" in capsys.readouterr().out
    contents = json.loads((study / "results/hours.json").read_text(encoding="utf-8"))
    contents["hours"]["relu"] *= 2
    storage.write_json(study / "results/hours.json", contents)
    assert "hours.relu" in verified(study)["results/hours.json"][0]


def test_no_clock_is_asked_what_a_figure_was_drawn_from(study):
    """Results of other trials copied in with older times: the figures are those of the former ones."""
    folder = Folder(study / "results", study / "plots")
    products.write(plot_utils.EACH, folder)
    made = plot_utils.EACH.make(folder)
    assert all(products.is_of(path, drawing) for path, drawing in made.items())
    write_study("results", {"gelu": synthetic_study(n_trials=2)["gelu"]})
    stale = [path.name for path, draw in plot_utils.EACH.make(Folder(folder.results, folder.plots)).items()
             if not products.is_of(path, draw)]  # fmt: skip
    assert sorted(stale) == sorted(f"gelu_{kind}.png" for kind in plot_utils.OF_ONE)


def test_a_figure_in_any_format_says_what_it_was_drawn_from(tmp_path):
    results = synthetic_study(n_trials=2)["gelu"]
    expected = plot_utils.plot_divergence.data_of(results, "gelu")
    for kind in ("png", "pdf", "svg"):
        assert products.drawn_from(plot_utils.plot_divergence(results, "gelu", tmp_path, (kind,))) == expected
    (tmp_path / "other.svg").write_text("<svg/>", encoding="utf-8")
    assert products.drawn_from(tmp_path / "other.svg") == ""


def test_a_folder_that_can_not_be_read_is_not_an_empty_one(study, monkeypatch, capsys):
    def refuse(folder=".", listdir=storage.os.listdir):
        if str(folder).endswith(("results", "checkpoints", "secret")):
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    (study / "studies/secret/results").mkdir(parents=True)
    monkeypatch.setattr(storage.os, "listdir", refuse)
    for command, folder in (([], "results"), (["--check"], "checkpoints"), (["--verify"], "results")):
        assert analyze_results.main(command) == 1
        assert f"{folder}: can't be read: Permission denied" in "".join(capsys.readouterr())
    assert train.main(["--status"]) == 1
    assert capsys.readouterr().err == "train.py: checkpoints: can't be read: Permission denied\n"
    assert analyze_results.main(["--all-studies", "--results-dir", "none"]) == 1
    assert "studies/secret: can't be read" in capsys.readouterr().err


def test_a_study_by_a_name_that_is_nearly_right(study, capsys):
    (study / "studies/paper/results").mkdir(parents=True)
    for main, command in ((train.main, "--status"), (analyze_results.main, "--check")):
        assert main([command, "--study", "pap"]) == 2
        assert "no such study in studies; did you mean paper?" in capsys.readouterr().err
