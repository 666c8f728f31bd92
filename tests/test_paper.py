"""What --paper writes: LaTeX that is well formed, numbers of the study, references that are there."""

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

import analyze_results
from analysis import paper, template
from analysis.markdown import fixed
from analysis.study import Study
from config import UserError
from synthetic import (
    DEGENERATE,
    STUDY,
    add_frontier,
    differences_from,
    log_jackknife,
    losses_of,
    moderated,
    pds_of,
    synthetic_results,
    synthetic_study,
    write_study,
)

TEXTS = {
    "summary": paper.summary_table,
    "significance": paper.significance_table,
    "pairs": paper.pairs_table,
    "effects": paper.effects_table,
    "methods": paper.methods_text,
}


def assert_well_formed(text):
    """Balanced braces, dollars and environments; no special character left bare; cells as many as columns."""
    text = re.sub("^%.*\n", "", text, flags=re.M)  # comments
    bare = re.sub(r"\\[\\%$&#_{}]", "", text)
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0
    assert all(line.count("$") % 2 == 0 for line in bare.splitlines())
    outside = re.sub(r"\$[^$]*\$", "", bare)
    assert not re.search(r"[%#^_<>|]", re.sub(r"\\(label|citep|ref)\{[^}]*\}", "", outside)), outside
    assert all(ord(c) < 256 for c in text)
    assert re.findall(r"\\begin\{([\w*]+)\}", text) == re.findall(r"\\end\{([\w*]+)\}", text)[::-1]
    for columns, rows in re.findall(r"\\begin\{tabular\}\{([lrc]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        assert rows.count(r"\toprule") == rows.count(r"\bottomrule") == 1 and r"\midrule" in rows
        for row in re.split(r"\\\\\n", re.sub(r"\\(top|mid|bottom)rule\n", "", rows).strip("\n") + "\n"):
            if row.strip():
                spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
                assert len(re.split(r"(?<!\\)&", row)) + spanned == len(columns), row


@pytest.mark.parametrize("name", DEGENERATE)
def test_any_study_gives_well_formed_latex(name):
    study = Study(DEGENERATE[name]())
    for write in TEXTS.values():
        text = write(study)
        assert_well_formed(text)
        assert not re.search(r"\b(nan|None|NA|True|False)\b", text)


def test_the_numbers_are_those_of_the_study():
    study = synthetic_study(n_trials=4)
    summary = paper.summary_table(Study(study))
    losses = losses_of(study["gelu"])
    row = next(line for line in summary.splitlines() if line.startswith("GELU &"))
    assert f"& {losses.mean():.4f} $\\pm$ {scipy.stats.tstd(losses):.4f} &" in row and "over 4 trials" in summary
    text = paper.significance_table(Study(study))
    logs = {name: log_jackknife(pds_of(results)) for name, results in study.items()}
    d = logs["gelu"] - logs["relu"]
    half = moderated(d, differences_from(logs).values())[4]
    change = [100 * np.expm1(x) for x in (d.mean(), d.mean() - half, d.mean() + half)]
    told = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*change).replace("-", "$-$")
    assert f"GELU & {told} &" in text and "Difference from ReLU" in text
    assert len(re.findall(r"^\S.*? & ", text, re.M)) == 1 + 5 and "smooth & " in text
    losses = losses_of(study["swish"]) - losses_of(study["relu"])
    assert f"& {1000 * losses.mean():+.1f} [".replace("-", "$-$") in text
    pairs = paper.pairs_table(Study(study))
    assert len(re.findall(r"^\S.*? -- \S.*? & ", pairs, re.M)) == 6 and "ReLU" not in pairs
    branches = Study({name: add_frontier(results) for name, results in study.items()})
    test = next(t for t in branches.primary if t.a == "gelu")
    equal = f"{100 * (test.tests['Matched_PD'].effect - 1):+.1f} [".replace("-", "$-$")
    assert re.search(
        rf"GELU & {re.escape(equal)}.*& {fixed(test.tests['PD'].g, 2).replace('−', '.-.')} \[",
        paper.effects_table(branches),
    )


def test_methods_say_what_was_recorded_and_done_and_cite_what_is_there():
    study = synthetic_study()
    for results in study.values():
        results["config"].update(batch_size=12, learning_rate=0.005, vary=["init", "order"], precision="bfloat16")
    text = paper.methods_text(Study(study))
    for told in ("4 layers", "width 128", "1,000 steps of 12 windows in bfloat16", "65,536 fixed positions"):
        assert told in text
    assert "their initial weights and the windows of text they see" in text and "3 trials of each" in text
    assert "paired $t$ tests" in text and "two prior degrees of freedom" in text
    cited = {key for keys in re.findall(r"\\citep\{([^}]*)\}", text) for key in keys.split(",")}
    entries = re.findall(r"^@\w+\{(\w+),$", paper.references(text), re.M)
    assert set(entries) == cited and len(entries) == len(set(entries)) > 10
    assert "welch1947" not in entries
    apart = DEGENERATE["seeds not shared"]()
    assert "Welch" in paper.methods_text(Study(apart))
    two = paper.methods_text(Study(synthetic_study(("gelu", "relu"))))
    assert "moderated" not in two  # one comparison has nothing to borrow from
    for names in ("gpt language", "char tokens", "shakespeare tokens"):  # of code, not words
        assert names not in text
    assert "decoder-only transformers" in text and "characters of shakespeare" in text
    assert "\\paragraph{Measurement.}" in paper.methods_text(Study(DEGENERATE["another tool's files"]()))


FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"  # the letters of an article


@pytest.mark.parametrize("n_trials", [3, 8])
def test_tables_fit_the_page_of_an_article(n_trials):
    """Column by column in the letters that pdflatex sets, against 345 pt: so 5.5 inches too, and two columns."""
    study = {name: add_frontier(results) for name, results in synthetic_study(n_trials=n_trials).items()}
    texts = paper.texts(Study(study))
    for name in ("summary.tex", "significance.tex", "pairs.tex", "effects.tex"):
        text = texts[name]
        assert r"\begin{table*}" in text and text.startswith("% needs \\usepackage{booktabs}")
        size = 7 if "scriptsize" in text else 8
        rows = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if " & " in line]
        shown = [
            [re.sub(r"\\(textbf|pm|beta|,)|[{}$\\]", "", cell) + "00" * (r"\pm" in cell) for cell in row]
            for row in rows
        ]
        widths = [max(width(cell, size) for cell in column) for column in zip(*shown, strict=True)]
        assert sum(widths) + 2 * 3 * len(widths) < 345, name


def width(text, size):
    """Of a text in points."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties(fname=FONT))
    return path.get_extents().width if text.strip() else 0.0


def test_every_reference_is_complete():
    keys = re.findall(r"^@\w+\{(\w+),$", template.plain("references.bib"), re.M)
    everything = "".join(f"\\citep{{{key}}}" for key in keys)
    text = paper.references(everything)
    for entry in text.split("\n\n"):
        for field in ("author", "title", "year"):
            assert re.search(rf"^  {field} = \{{.+\}},$", entry, re.M), entry
        assert entry.count("{") == entry.count("}")
        assert re.search(r"^  (journal|booktitle|eprint) = ", entry, re.M)


def test_a_hostile_name_stays_text():
    evil = r"a\input{/etc/passwd}_b & 50% $x^2$ #1 ~ ∮"
    study = synthetic_study(("relu", "gelu"))
    study[evil] = synthetic_results(evil)
    for results in study.values():
        results["model_name"] = results["dataset"]["name"] = evil
    for write in TEXTS.values():
        text = write(Study(study))
        assert_well_formed(text)
        assert r"\input" not in text.replace(r"\textbackslash{}input", "")


def test_the_command_writes_tables_methods_and_figures(tmp_path, capsys):
    write_study(tmp_path / "results", synthetic_study())
    assert analyze_results.main(["--paper", "--results-dir", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out.splitlines()
    written = {line.removeprefix("written: ") for line in printed}
    files = {str(path) for path in (tmp_path / "results" / "paper").iterdir()}
    assert written == files
    names = {path.rpartition("/")[2] for path in files}
    assert {"summary.tex", "significance.tex", "pairs.tex", "effects.tex", "methods.tex", "references.bib"} <= names
    assert {"pd_ratios.pdf", "pd_ratios.svg", "comprehensive_comparison.pdf"} <= names
    assert analyze_results.main(["--paper", "--results-dir", str(tmp_path / "none")]) == 2
    with pytest.raises(UserError, match="no results"):
        Study({})


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_it_compiles(tmp_path):
    study = Study(synthetic_study(STUDY))
    for name, write in TEXTS.items():
        (tmp_path / f"{name}.tex").write_text(write(study), encoding="utf-8")
    inputs = "".join(f"\\input{{{name}}}\n" for name in TEXTS)
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{inputs}\\end{{document}}\n"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
