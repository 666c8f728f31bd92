"""Every command line and every cell of the guides runs, on the smoke preset and a small corpus.

One process runs them all, guide by guide, in the folder of one small study; the notebook has a kernel of its own.
"""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import activations
import programs
from conftest import TINY

ROOT = Path(__file__).resolve().parent.parent
GUIDES = sorted(p.name for p in ROOT.glob("*.md"))
ANSWERS = "WORKFLOW_GUIDE.md"  # run question by question, below
SCRIPTS = (
    "train.py",
    "analyze_results.py",
    "prepare_data.py",
    "plot_utils.py",
    "compare.py",
    "tools/export.py",
    "tools/doctor.py",
)
# Run by CI itself, or about the machine rather than the program.
NOT_RUN = ("setup.sh", "pytest", "ruff", "jupytext", "torchrun", "sbatch", "bench/")

# The settings that a line or a cell leaves open. How many trials run side by side changes no number, only how often
# torch is imported; the study that the others find there is trained as by default.
SMALL = {**TINY, "device": "cpu", "dataset": "my_book.txt"}
ALONE = {"workers": 1}


def command_lines(name: str) -> list[str]:
    """The indented command lines of a guide that call our scripts, without `venv/bin/` and comments."""
    lines = []
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S | re.M)
    for line in text.splitlines():
        line = line.strip() if line.startswith("    ") else ""
        line = line.removeprefix("venv/bin/").split("  #")[0].strip()
        if line.startswith("python ") and not any(word in line for word in NOT_RUN):
            lines.append(line)
    return lines


def python_cells(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.fixture(scope="module")
def study(tmp_path_factory, corpus_file, data_dir):
    """A folder in which a finished small study lies in the documented places; its environment."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "my_book.txt").write_text(corpus_file.read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments, **options):
        return programs.run(arguments, cwd=folder, env=environment, **options)

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = run(str(ROOT / "train.py"), *flags)
    assert done.returncode == 0, done.stderr
    return folder, run


def adapted(words: list[str]) -> list[str]:
    """A documented command line, made small: only what it leaves open is set."""
    script, given = words[1], words[2:]
    if script not in ("train.py", "prepare_data.py") or any(
        f in given for f in ("--help", "--list-activations", "--list-datasets", "--list-models")
    ):
        return [str(ROOT / script), *given]
    if "--budget" in given:  # the trials that are there are looked at, and no more fit
        given[given.index("--budget") + 1] = "1s"
    if "--max-iters" in given:
        given[given.index("--max-iters") + 1] = str(SMALL["max_iters"])
    flags = {f"--{name.replace('_', '-')}": value for name, value in {**SMALL, **ALONE}.items()}
    given += [f"{flag}={value}" for flag, value in flags.items() if flag not in given]
    return [str(ROOT / script), *given]


LINES = [(name, line) for name in GUIDES if name != ANSWERS for line in dict.fromkeys(command_lines(name))]


def test_the_guides_have_command_lines():
    assert len(LINES) > 10


@pytest.mark.parametrize(("guide", "line"), LINES, ids=[f"{g}: {line}" for g, line in LINES])
def test_command_line_names_a_script_that_exists(guide, line):
    assert (ROOT / shlex.split(line)[1]).is_file()


def small(cell: str) -> str:
    settings = ", ".join(f"{name}={value!r}" for name, value in {**SMALL, **ALONE}.items())
    return cell.replace("Config()", f"Config({settings})")


@pytest.mark.slow
def test_the_cells_open_and_run_as_a_notebook(study):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    folder, _ = study
    notebook = jupytext.read(ROOT / "RUN_EXPERIMENTS.md")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == len(python_cells("RUN_EXPERIMENTS.md"))
    for cell in cells:
        cell.source = small(cell.source)
    cells[0].source = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + cells[0].source
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()


# -- How do I …? --------------------------------------------------------------------------------------------------


def questions() -> dict[str, str]:
    """{question: what stands below it}"""
    text = (ROOT / ANSWERS).read_text(encoding="utf-8")
    return dict(re.findall(r"^### (How do I .*?\?)\n(.*?)(?=^##|\Z)", text, flags=re.S | re.M))


def answer(body: str) -> dict:
    """Of a question, its Python (made small) or its command."""
    if cells := re.findall(r"^```python\n(.*?)^```", body, flags=re.S | re.M):
        return {"python": small("".join(cells))}
    return command(next(line.strip() for line in body.splitlines() if line.startswith("    python ")))


def command(line: str) -> dict:
    """The module whose main is called, and its arguments."""
    words = shlex.split(line)
    return {"module": words[1].removesuffix(".py").replace("/", "."), "arguments": adapted(words)[1:]}


# One process runs all of them, one after another, and trains in itself: which process trains changes no number. Cells
# of one guide share their names.
RUNNING = """
import contextlib, importlib, io, json, sys, traceback
from training import pool

pool.run_trials, pool.Crew = pool.run_here, lambda *_: None
todo, outcomes, names = json.load(open(sys.argv[1])), {}, {}
for title, given in todo.items():
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if "python" in given:
                exec(compile(given["python"], title, "exec"), names.setdefault(given.get("guide"), {}))
                status = 0
            else:
                status = importlib.import_module(given["module"]).main(given["arguments"])
    except BaseException as error:
        status = error.code or 0 if isinstance(error, SystemExit) else traceback.format_exc()
    outcomes[title] = [status, said.getvalue()]
answers = names[None]
outcomes["columns"] = list(answers["results_frame"](answers["all_results"]).columns)
json.dump(outcomes, open(sys.argv[2], "w"))
"""
FIRST = "the lines that those of Python begin with"
DESIGN = "the documented calls"
CELLS = [g for g in GUIDES if python_cells(g) and g != ANSWERS]


def everything() -> dict[str, dict]:
    """{title: what is run}, in this order."""
    first = (ROOT / ANSWERS).read_text(encoding="utf-8").split("\n## ")[0]
    todo = {FIRST: answer(first)} | {q: answer(body) for q, body in questions().items()}
    for guide, line in LINES:
        if {"--verify", "--check"} & set(line.split()):  # the lines before trained more: all is made anew first
            for made in ("--all-studies", "--paper"):
                todo[f"{made} before {guide}: {line}"] = {"module": "analyze_results", "arguments": [made]}
        todo[f"{guide}: {line}"] = command(line)
    for guide in CELLS:
        todo[guide] = {"python": "\n".join(small(cell) for cell in python_cells(guide)), "guide": guide}
    return todo | {DESIGN: {"python": small(DESIGN_SNIPPET), "guide": DESIGN}}


@pytest.fixture(scope="module")
def outcomes(study, tmp_path_factory):
    """{title: (exit status or traceback, what was printed)}, in the folder of the finished study."""
    _, run = study
    files = [tmp_path_factory.mktemp("documented") / name for name in ("todo.json", "outcomes.json")]
    files[0].write_text(json.dumps(everything()), encoding="utf-8")
    done = run("-c", RUNNING, *map(str, files), timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(files[1].read_text(encoding="utf-8"))


def test_each_question_has_one_answer():
    assert len(questions()) >= 40
    for question, body in questions().items():
        lines = [line for line in body.splitlines() if line.startswith("    python ")]
        cells = re.findall(r"^```python$", body, flags=re.M)
        assert len(lines) + len(cells) == 1, question


@pytest.mark.slow
@pytest.mark.parametrize("title", [*questions(), *(f"{g}: {line}" for g, line in LINES), *CELLS, DESIGN])
def test_what_is_documented_runs(title, outcomes):
    assert outcomes[FIRST][0] == 0, outcomes[FIRST]
    status, printed = outcomes[title]
    assert status == 0, f"{status}\n{printed[-2000:]}"
    assert "Traceback" not in printed


@pytest.mark.slow
def test_every_column_of_the_frame_is_named(outcomes):
    text = (ROOT / ANSWERS).read_text(encoding="utf-8").split("## The columns of results_frame")[1]
    named = set(re.findall(r"`(\w+)`", text))
    assert set(outcomes["columns"]) <= named, set(outcomes["columns"]) - named


def test_the_forms_of_own_code_are_as_told():
    """Signatures that the page names are those of the code."""
    text = (ROOT / ANSWERS).read_text(encoding="utf-8")
    parameters = inspect.signature(activations.register_activation).parameters
    keywords = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert f"`register_activation(name, factory, *, {', '.join(keywords)})`" in text
    assert "`build(config: Config, activation: str, vocab_size: int) -> torch.nn.Module`" in text


DESIGN_SNIPPET = """
from config import Config
config = Config()
from train import run_experiment
activation = 'smelu_05'
results, models, tokenizer = run_experiment(config, activation)
from plot_utils import *
save_dir = config.plots_dir
plot_training_curves(results, activation, save_dir)
plot_reproducibility_metrics(results, activation, save_dir)
plot_summary_metrics(results, activation, save_dir)
plot_all_activation_results(save_dir='plots')
from analyze_results import *
all_results = load_all_results(results_dir='results')
table = save_results_summary(save_path='results/summary.csv')
tests = calculate_statistical_significance(all_results)
ranks = rank_activations(all_results, weights=None)
text = generate_final_report(all_results, save_path='results/FINAL_REPORT.md')
assert set(all_results) >= {'smelu_05', 'smelu_1', 'relu', 'gelu', 'swish'}, set(all_results)
assert list(table.columns[:8]) == [
    'Activation', 'Avg_Val_Loss', 'Std_Val_Loss', 'Avg_Train_Loss', 'Avg_Relative_PD', 'Avg_Pred_Diff_Pct',
    'Avg_Training_Time_Sec', 'Num_Trials']
assert len(tests) == len(all_results) * (len(all_results) - 1) // 2 and len(ranks) == len(all_results)
assert text.count('## ') >= 7
"""


@pytest.mark.parametrize("first", ["plot_utils", "analyze_results"])
def test_star_imports_in_either_order_shadow_nothing(first):
    second = {"plot_utils": "analyze_results", "analyze_results": "plot_utils"}[first]
    code = f"""
import builtins
before = set(dir(builtins))
from {first} import *
names = set(dir())
from {second} import *
import {first}, {second}
for module in ({first}, {second}):
    for name in module.__all__:
        assert globals()[name] is getattr(module, name), name
assert not before & (set({first}.__all__) | set({second}.__all__))
for name in ('plot_training_curves plot_reproducibility_metrics plot_summary_metrics plot_all_activation_results '
             'load_all_results save_results_summary calculate_statistical_significance rank_activations '
             'generate_final_report').split():
    assert callable(globals()[name]), name
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


def test_relative_links_of_the_guides_lead_somewhere():
    for name in GUIDES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert target.startswith("http") or (ROOT / target).exists(), f"{name}: {target}"


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_nothing_generated_is_tracked():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.split()
    generated = [t for t in tracked if t.startswith(("results/", "plots/", "checkpoints/", "data/", "venv"))]
    assert generated == ["checkpoints/.gitkeep", "plots/.gitkeep", "results/.gitkeep"]
