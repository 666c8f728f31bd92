"""What a report or a message advises to do works as it is printed: it is taken from the text, and done."""

import re
import shutil

import pytest

import programs
from conftest import TINY, speaking_utf8

OWN = """import torch

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return x * torch.sigmoid(self.slope * x)
"""
SHORT = {**TINY, "max_iters": 20, "eval_interval": 10}
FLAGS = [part for name, value in SHORT.items() for part in (f"--{name.replace('_', '-')}", str(value))]
REPORT = "results/FINAL_REPORT.md"


def commands(text):
    """`python script.py …` wherever it stands in a text, placeholders left out."""
    found = re.findall(r"python (\w+\.py(?: [^`;,)\n]+)?)", text)
    return [line.strip() for line in dict.fromkeys(found) if not re.search(r"\b[A-Z]+\b", line)]


def flags(text):
    """Flags that a message offers in brackets, in its order."""
    return re.findall(r"\((--[a-z][^)]*)\)", text)


@pytest.fixture
def folder(tmp_path, corpus_file):
    """A folder with a text and an activation of one's own; `run` there gives (exit status, all that is said)."""
    shutil.copy(corpus_file, tmp_path / "text.txt")
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")

    def run(line, status=0):
        script, *words = line.split()
        done = programs.run([programs.ROOT / script, *words], cwd=tmp_path, env=speaking_utf8())
        assert done.returncode == status, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return tmp_path, run


@pytest.mark.slow
def test_what_is_advised_works(folder):
    root, run = folder
    first = f"train.py {' '.join(FLAGS)} --dataset text.txt --activation mine:Mine gelu --baseline gelu"
    done = []

    def follow(line, status=0):
        done.append(line)
        return run(line, status)

    # nothing there yet
    assert commands(run("analyze_results.py", 2)) == ["train.py"]
    (meant,) = re.findall(r"did you mean (\S+?)\?", run(first.replace("mine:Mine", "mine"), 2))
    follow(first.replace("mine:Mine", meant) + " --study paper --trials 3")

    # a named study: its report's, and a contradiction's
    for line in commands((root / "studies/paper" / REPORT).read_text(encoding="utf-8")):
        follow(line + (" --budget 1s" if "--until-decided" in line else ""))
    assert {line.rpartition(" --")[2].split()[0] for line in done[1:]} == {"budget", "decompose"}
    (ask,) = commands(run("train.py --study paper --baseline mine:Mine", 2))
    assert "than models with Mine?" in follow(ask)
    (again, *_) = commands((root / "studies/paper" / REPORT).read_text(encoding="utf-8"))
    follow(again + " --budget 1s")
    assert "than models with Mine?" in (root / "studies/paper" / REPORT).read_text(encoding="utf-8")

    # the default folder
    follow(f"{first} --trials 3")
    for line in commands((root / REPORT).read_text(encoding="utf-8")):
        assert " --like results/" in line
        follow(line + (" --budget 1s" if "--until-decided" in line else ""))
    other = first.replace("--max-iters 20", "--max-iters 15") + " --trials 1"
    like, study, overwrite = flags(run(other, 2))
    assert overwrite == "--overwrite" and study == "--study NAME"
    follow(f"train.py {like} --activation gelu --trials 3")
    follow(f"{other} {study.replace('NAME', 'short')}")
    follow(f"{other} {overwrite}")

    # what was mistyped
    mistyped = "analyze_results.py --study pap"
    follow(mistyped.replace("pap", re.search(r"did you mean (\S+?)\?", run(mistyped, 2))[1]))
    mistyped = "train.py --stduy paper"
    follow(mistyped.replace("--stduy", re.search(r"did you mean (\S+?)\?", run(mistyped, 2))[1]))

    # a figure that the results don't give
    studies = root / "studies/paper/plots"
    shutil.copy(studies / "gelu_summary.png", studies / "gelu_training_curves.png")
    (redraw,) = commands(run("analyze_results.py --study paper --verify", 1))
    assert redraw == "plot_utils.py --study paper"
    follow(redraw)
    run("analyze_results.py --study paper --verify")
    assert len(done) >= 12, done
