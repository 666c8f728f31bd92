"""Machines as people have them: terminals, disks and streams that take not everything, optimised Python, odd paths."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli as streams
import config as config_module
import programs
import storage
from config import Config
from kernels import toolchain
from plotting.style import plain
from test_layers import LEVEL
from tools import doctor

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "prepare_data", "analyze_results", "plot_utils", "compare", "tools/export", "tools/doctor")
NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TRAIN = "--preset smoke --n-embd 32 --max-iters 10 --eval-interval 10 --warmup-iters 2 --eval-tokens 256 --trials 2 "
TRAIN += "--probe-tokens 64 --activation gelu --no-strict-audit --workers 1"


def shell(command, folder, **environment):
    """A command as a shell runs it; $PY is Python, $ROOT the project's folder."""
    given = {**os.environ, "PY": sys.executable, "ROOT": str(ROOT), **environment}
    return subprocess.run(
        command, shell=True, cwd=folder, env=given, capture_output=True, encoding="utf-8", errors="replace", timeout=300
    )


# -- streams ------------------------------------------------------------------------------------------------------


class Full(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.fixture
def caught(monkeypatch):
    """run(main, out, err) with these streams in the place of the process's."""

    def run(main, out, err):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setattr(sys, "argv", ["/some/where/tool.py"])
        return streams.run(main)

    return run


def says(status, text="words"):
    def main():
        print(text, flush=True)
        print(text, flush=True)
        return status

    return main


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "Input/output error"), None])
def test_lost_output_is_said_at_the_end(caught, error):
    err = io.StringIO()
    assert caught(says(0), Full(error) if error else None, err) == 1
    why = error.strerror if error else "it is closed"
    assert err.getvalue() == (
        f"tool.py: standard output can't be written ({why}): what was said there is lost, nothing else\n"
    )
    assert caught(says(2), Full(error) if error else None, io.StringIO()) == 2  # what it says goes first
    assert caught(says(0), Full(error) if error else None, None) == 1  # nowhere to say it


def test_lost_errors_are_said_where_they_can_be(caught):
    out = io.StringIO()

    def main():
        print("a problem", file=sys.stderr)
        return 0

    assert caught(main, out, None) == 1
    assert "standard error can't be written (it is closed)" in out.getvalue()


def test_streams_that_nobody_needed_are_no_fault(caught):
    assert caught(lambda: 0, None, None) == 0
    out = io.StringIO()
    assert caught(says(0), out, None) == 0 and out.getvalue() == "words\n" * 2


def test_a_reader_that_left_ends_it(caught):
    err = io.StringIO()
    assert caught(says(0), Full(BrokenPipeError()), err) == 1 and err.getvalue() == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "shift_jis", "utf-8"])
def test_characters_that_a_terminal_lacks_are_replaced(caught, encoding):
    raw = io.BytesIO()
    text = "β ⊙ é \udce4 日"
    assert caught(says(0, text), io.TextIOWrapper(raw, encoding=encoding), io.StringIO()) == 0
    assert raw.getvalue().decode(encoding).splitlines() == [text.encode(encoding, "replace").decode(encoding)] * 2


def test_real_streams(tmp_path):
    """Quick answers of every kind on streams that fail."""
    for command, status, said in (
        ("$PY $ROOT/train.py --list-activations > /dev/full", 1, "No space left"),
        ("$PY $ROOT/train.py --list-activations >&-", 1, "it is closed"),
        ("$PY $ROOT/train.py --help > /dev/full", 1, "No space left"),
        ("$PY $ROOT/train.py --activation nope 2>&-", 2, "standard error"),
        ("$PY $ROOT/train.py --activation nope 2>/dev/full", 2, "standard error"),
        ("$PY $ROOT/train.py --activation nope >&- 2>&-", 2, ""),
        ("$PY $ROOT/train.py --list-activations <&-", 0, "SmeLU"),
        ("PYTHONIOENCODING=ascii $PY $ROOT/train.py --list-activations", 0, "SmeLU(xW) ? xV"),
        ("PYTHONIOENCODING=latin-1 $PY $ROOT/train.py --list-activations", 0, "? xV"),
    ):
        done = shell(command, tmp_path)
        assert done.returncode == status, (command, done.stderr)
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr, command


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection, status",
    [("> /dev/full", 1), ("2>&-", 0), ("<&- >&- 2>&-", 1)],
)
def test_training_goes_on(tmp_path, corpus_file, data_dir, redirection, status):
    command = f"$PY $ROOT/train.py {TRAIN} --dataset '{corpus_file}' --data-dir '{data_dir}' {redirection}"
    done = shell(command, tmp_path)
    assert done.returncode == status and "Traceback" not in done.stderr
    results = storage.read_results(storage.results_path(tmp_path / "results", "gelu"))
    assert [t["status"] for t in results["trials"]] == ["done", "done"]
    assert len(list((tmp_path / "plots").glob("*.png"))) == 4
    if "2>" not in redirection:
        assert done.stderr.count("\n") == 1 and "standard output can't be written" in done.stderr


# -- encodings and names ------------------------------------------------------------------------------------------


def unnamed_encodings(source: str) -> list[int]:
    """Lines that open text in the encoding of the machine."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).startswith("storage."):
            continue
        name, given = ast.unparse(node.func).rpartition(".")[2], {keyword.arg for keyword in node.keywords}
        modes = [a.value for a in node.args[1:] if isinstance(a, ast.Constant)]
        opens = ast.unparse(node.func) in ("open", "os.fdopen") and not any("b" in mode for mode in modes)
        reads = name in ("read_text", "write_text") and len(node.args) == (name == "write_text")
        if (opens or reads or "text" in given and name in ("run", "Popen")) and "encoding" not in given:
            lines.append(node.lineno)
    return lines


def test_every_file_is_opened_with_its_encoding_named():
    folders = [ROOT / name for name in (*LEVEL, "tests", "bench", "findings")]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    assert len(files) > 150
    found = {path.name: lines for path in files if (lines := unnamed_encodings(path.read_text(encoding="utf-8")))}
    assert not found
    for line in ("open(p)", "open(p, 'w')", "p.read_text()", "subprocess.run(c, text=True)", "os.fdopen(1, 'w')"):
        assert unnamed_encodings(line), line
    for line in ("open(p, 'rb')", "open(p, encoding='utf-8')", "subprocess.run(c, text=True, encoding='utf-8')"):
        assert not unnamed_encodings(line), line


def test_names_that_are_no_text(tmp_path):
    """A name in Latin-1, as Python shows it: recorded as it is, shown as it can be."""
    value = {"dataset": "lat\udce4 ж.txt"}
    storage.write_json(tmp_path / "x.json", value)
    assert storage.read_json(tmp_path / "x.json") == value
    storage.write_text(tmp_path / "x.md", value["dataset"])
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == "lat? ж.txt" == plain(value["dataset"])


ODD = ["""-sp ace quo'te "s 日本語 ж é $HOME;x&""", b"lat\xe4".decode("utf-8", "surrogateescape")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_paths_with_anything_in_them(tmp_path, corpus_file, name):
    folder = tmp_path / name
    folder.mkdir()
    text = folder / f"{name}.txt"
    text.write_bytes(corpus_file.read_bytes())
    done = programs.run([ROOT / "train.py", *TRAIN.split(), "--dataset", text], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert storage.read_results(folder / "results" / "gelu_results.json")["trials"]
    again = programs.run([ROOT / "train.py", *TRAIN.split(), "--dataset", text], cwd=folder)
    assert again.returncode == 0 and "to train" not in again.stdout


# -- the interpreter and its machine ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_help_without_docstrings(script, flag, tmp_path):
    done = shell(f"$PY {flag} $ROOT/{script}.py --help", tmp_path, **NOT_UTF8)
    assert done.returncode == 0 and "--help" in done.stdout and not done.stderr


def test_nothing_hangs_on_assertions_or_docstrings():
    """-O leaves the first out, -OO both."""
    for folder in (".", "models", "corpora", "training", "analysis", "plotting", "tools"):
        for path in (ROOT / folder).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            bad = [
                node.lineno
                for node in ast.walk(tree)
                if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__doc__")
            ]
            assert not bad, (path, bad)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix, environment",
    [
        ("", NOT_UTF8),
        ("", {"PYTHONOPTIMIZE": "2"}),
        ("taskset -c 0", {}),
        ("", {"CXX": "/nonexistent"}),
        ("", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
        ("", {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "MPLCONFIGDIR": "/nonexistent"}),
    ],
    ids=["C locale", "-OO", "one core", "no compiler", "generic processor", "no home"],
)
def test_a_study_on_a_machine_that_lacks_something(tmp_path, corpus_file, prefix, environment):
    command = f"{prefix} $PY $ROOT/train.py {TRAIN} --dataset '{corpus_file}'"
    done = shell(command, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert storage.read_results(tmp_path / "results" / "gelu_results.json")["trials"][0]["status"] == "done"
    lacks = "CXX" in environment or toolchain.problem() is not None
    assert ("no C++ compiler here" in done.stdout) == lacks, done.stdout


# -- Python's own modes -------------------------------------------------------------------------------------------


def test_isolated_and_strict_python(tmp_path):
    """-I leaves the program's folder out of the path; -X dev shows what is left open, and a warning is an error."""
    run = shell(
        f"$PY -I -X dev -W error $ROOT/train.py --dataset $ROOT/README.md {TRAIN} --workers 2 --quiet", tmp_path
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    for script in SCRIPTS:
        done = shell(f"$PY -I -X dev -W error $ROOT/{script}.py --help", tmp_path)
        assert done.returncode == 0 and "--help" in done.stdout and not done.stderr, script


# -- tools/doctor.py ----------------------------------------------------------------------------------------------


def test_doctor_as_a_command(tmp_path):
    done = shell("$PY $ROOT/tools/doctor.py --device cpu", tmp_path)
    assert done.returncode == 0 and not done.stderr
    for part in (
        "This machine",
        "What is chosen",
        "What would help",
        "processor",
        "memory",
        "compiler",
        "fast bfloat16",
    ):
        assert part in done.stdout
    assert not list(tmp_path.iterdir())
    wrong = shell("$PY $ROOT/tools/doctor.py --threads 0", tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("doctor.py: threads=0") and wrong.stderr.count("\n") == 1
    without = shell("""$PY -c 'import sys; sys.argv = ["doctor.py", "--device", "cpu"]
sys.path.insert(0, "'$ROOT'")
from tools import doctor
doctor.main(["--device", "cpu"])
print("torch" in sys.modules)'""", tmp_path)  # fmt: skip
    assert without.stdout.splitlines()[-1] == "False", without.stderr


@pytest.mark.parametrize("settings", [{}, {"threads": 2}, {"native": False}, {"precision": "float32"}])
def test_doctor_says_what_training_would(settings, capsys):
    """The line that train.py begins with is among its lines."""
    config = Config(preset="smoke", device="cpu", **settings)
    doctor.print_report(config)
    assert config.how_computed() in capsys.readouterr().out


def test_doctor_without_a_compiler(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setattr(toolchain, "_built", {})
    config = Config(preset="smoke", device="cpu")
    doctor.print_report(config)
    shown = capsys.readouterr().out
    assert "compiler       there is no C++ compiler here (CXX=/nonexistent)" in shown
    assert f"computed       {config.precision} with torch's kernels: " in shown


def test_doctor_on_a_processor_without_fast_bfloat16(monkeypatch, capsys):
    for module in (config_module, doctor):
        monkeypatch.setattr(module, "fast_bfloat16", lambda device: False)
    doctor.print_report(Config(preset="smoke", device="cpu"))
    shown = capsys.readouterr().out
    assert "fast bfloat16  no" in shown and "float32 with torch's kernels: no fast bfloat16" in shown
    assert "would train in bfloat16" in shown
