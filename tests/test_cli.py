"""The command lines: wrong input of any kind is one line on stderr and status 2; questions are answered without torch.

The rows of WRONG run in this process, through `main(argv)`; some of them again as real commands.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import analyze_results
import cli
import plot_utils
import prepare_data
import programs
import storage
import train
from conftest import speaking_utf8
from synthetic import synthetic_results

PROJECT = Path(train.__file__).parent
MAIN = {"train": train.main, "prepare_data": prepare_data.main, "analyze_results": analyze_results.main}
MAIN["plot_utils"] = plot_utils.main
SMOKE = ["--preset", "smoke", "--device", "cpu"]

# (program, arguments, what the line must name). `{name}` is one of the files made by `files` below.
WRONG = [
    # names
    ("train", ["--activation", "smelu"], ["smelu", "smelu_1"]),
    ("train", ["--activation", "relu", "gleu"], ["gleu", "gelu"]),
    ("train", ["--activation", "../relu"], ["../relu"]),
    ("train", ["--activation", ""], ["activation"]),
    ("train", ["--activation"], ["--activation", "expected"]),
    ("train", ["--n-layr", "3"], ["--n-layr", "did you mean --n-layer"]),
    ("train", ["relu"], ["relu", "unrecognized", "did you mean --activation relu?"]),
    ("train", ["relu", "gelu", "--quiet"], ["did you mean --activation relu gelu?"]),
    ("train", ["--activation", "relu,gelu"], ["'relu,gelu'", "--activation relu gelu"]),
    ("train", ["--prompt", "To be"], ["--prompt", "--sample NAME"]),
    ("train", ["--sample", "relu"], ["no trained trial of relu", "--activation relu"]),
    ("train", ["--status", "--decompose"], ["--decompose", "--status"]),
    ("train", ["--like", "{otherresults}/relu_results.json", "--config", "x.toml"], ["--config", "--like"]),
    ("train", ["--like", "{nowhere}"], ["{nowhere}", "no such file"]),
    ("train", ["--like", "{text}"], ["{text}", "not valid JSON"]),
    ("train", ["--like", "{otherresults}/relu_results.json", "--n-layer", "0"], ["n_layer=0"]),
    ("train", ["--like", "{otherresults}/relu_results.json", "--preset", "quick"], ["preset='quick'", "leave it out"]),
    ("train", ["--config", "{toml}"], ["{toml}", "unknown setting 'n_layr'", "did you mean n_layer?"]),
    ("train", ["--config", "{nowhere}"], ["{nowhere}", "no such file"]),
    ("train", ["--replicate", "-1"], ["replicate=-1", "at least 0"]),
    ("train", ["--replicate", "two"], ["--replicate", "two"]),
    ("train", ["--preset", "quik"], ["quik", "did you mean quick"]),
    ("train", ["--tokenizer", "word"], ["tokenizer='word'", "char"]),
    ("train", ["--model", "gpt5"], ["gpt5", "gpt"]),
    ("train", ["--model", "nowhere:build"], ["nowhere"]),
    ("train", ["--vary", "inti"], ["vary='inti'", "init"]),
    ("train", ["--vary", "bit", "order"], ["stand alone"]),
    ("train", ["--vary", ","], ["vary"]),
    ("train", ["--precision", "float16"], ["float16", "bfloat16"]),
    ("train", ["--device", "gpu"], ["device='gpu'", "did you mean cuda?"]),
    ("train", ["--device", "cpu:0"], ["device='cpu:0'"]),
    ("train", ["--device", "mps"], ["device='mps'"]),
    ("train", ["--study", "../up"], ["study='../up'", "plain name"]),
    ("train", ["--study", "-x"], ["--study"]),
    ("train", ["--study", ".."], ["study='..'"]),
    ("train", ["--study", "a" * 200], ["study=", "longer than 100"]),
    ("train", ["--deterministic", "maybe"], ["maybe"]),
    # numbers: of the wrong type, negative, zero, huge, not a number
    ("train", ["--n-layer", "two"], ["n_layer='two'", "whole number"]),
    ("train", ["--n-layer", "2.5"], ["n_layer='2.5'", "whole number"]),
    ("train", ["--n-layer", "0"], ["n_layer=0", "at least 1"]),
    ("train", ["--n-layer", "-1"], ["n_layer=-1", "at least 1"]),
    ("train", ["--n-layer", "1e9"], ["n_layer=1000000000", "at most"]),
    ("train", ["--n-layer", ""], ["n_layer=''"]),
    ("train", ["--n-layer"], ["--n-layer", "expected"]),
    ("train", ["--n-layer", "9" * 5000], ["n_layer"]),
    ("train", ["--n-embd", "32", "--n-head", "3"], ["n_embd=32", "multiple of n_head=3"]),
    ("train", ["--n-head", "nan"], ["n_head='nan'"]),
    ("train", ["--n-embd", "0"], ["n_embd=0"]),
    ("train", ["--block-size", "1"], ["block_size=1", "at least 2"]),
    ("train", ["--eval-tokens", "1024", "--block-size", "2048"], ["eval_tokens=1024", "block_size=2048"]),
    ("train", ["--batch-size", "-4"], ["batch_size=-4"]),
    ("train", ["--batch-size", "inf"], ["batch_size='inf'"]),
    ("train", ["--max-iters", "0"], ["max_iters=0"]),
    ("train", ["--max-iters", "1e99"], ["max_iters"]),
    ("train", ["--warmup-iters", "12345"], ["warmup_iters=12345", "at most max_iters"]),
    ("train", ["--dropout", "1"], ["dropout=1.0", "at most 0.95"]),
    ("train", ["--dropout", "-0.1"], ["dropout=-0.1"]),
    ("train", ["--dropout", "nan"], ["dropout=nan"]),
    ("train", ["--learning-rate", "0"], ["learning_rate=0.0", "above 0"]),
    ("train", ["--learning-rate", "inf"], ["learning_rate=inf"]),
    ("train", ["--learning-rate", "1e-2x"], ["learning_rate='1e-2x'"]),
    ("train", ["--min-lr", "9"], ["min_lr=9.0", "at most learning_rate"]),
    ("train", ["--weight-decay", "-1"], ["weight_decay=-1.0"]),
    ("train", ["--beta1", "1"], ["beta1=1.0"]),
    ("train", ["--beta2", "nan"], ["beta2=nan"]),
    ("train", ["--grad-clip=-inf"], ["grad_clip=-inf"]),
    ("train", ["--eval-interval", "0"], ["eval_interval=0"]),
    ("train", ["--eval-tokens", "8"], ["eval_tokens=8", "at least block_size"]),
    ("train", ["--probe-tokens", "1000000"], ["probe_tokens", "eval_tokens"]),
    ("train", ["--trials", "0"], ["trials_per_activation=0"]),
    ("train", ["--trials", "three"], ["trials_per_activation='three'"]),
    ("train", ["--seed-base", "-1"], ["seed_base=-1"]),
    ("train", ["--seed-base", "1e12"], ["seed_base"]),
    ("train", ["--threads", "0"], ["threads=0"]),
    ("train", ["--workers", "0"], ["workers=0"]),
    ("train", ["--snapshot-seconds", "-1"], ["snapshot_seconds=-1.0"]),
    ("train", ["--snapshot-seconds", "nan"], ["snapshot_seconds=nan"]),
    ("train", ["--train-split", "1"], ["train_split=1.0"]),
    ("train", ["--train-split", "0"], ["train_split=0.0"]),
    ("train", ["--bpe-vocab-size", "10"], ["bpe_vocab_size=10", "at least 257"]),
    # folders and corpora
    ("train", ["--results-dir", "/proc/nope"], ["results_dir='/proc/nope'", "can't be made a folder", "give another"]),
    ("train", ["--checkpoint-dir", "/proc/nope/c"], ["checkpoint_dir='/proc/nope/c'", "can't be made a folder"]),
    ("train", ["--data-dir", "/proc/nope"], ["data_dir='/proc/nope'", "can't be made a folder"]),
    ("train", ["--results-dir", "{text}"], ["results_dir", "{text}", "file of that name"]),
    ("train", ["--plots-dir", "{text}"], ["plots_dir", "{text}"]),
    ("train", ["--checkpoint-dir", "{text}"], ["checkpoint_dir", "{text}"]),
    ("train", ["--data-dir", "{text}"], ["data_dir", "{text}"]),
    ("train", ["--results-dir", ""], ["results_dir=''"]),
    ("train", ["--dataset", "{nowhere}"], ["{nowhere}", "no such file"]),
    ("train", ["--dataset", "shakespear"], ["did you mean shakespeare"]),
    ("train", ["--dataset", ""], ["dataset"]),
    ("train", ["--dataset", "{nowhere}/*.txt"], ["no file matches"]),
    ("train", ["--dataset", "{emptyfolder}"], ["{emptyfolder}", "no *.txt"]),
    ("train", ["--dataset", "{empty}"], ["empty"]),
    ("train", ["--dataset", "{binary}"], ["{binary}", "binary"]),
    ("train", ["--dataset", "{latin1}"], ["{latin1}", "not UTF-8", "offset 3"]),
    ("train", ["--dataset", "{short}"], ["short.txt", "too small", "block_size"]),
    ("train", ["--dataset", "{same}"], ["same.txt", "single character"]),
    ("train", ["--dataset", "{fifo}"], ["{fifo}", "not a regular file"]),
    ("train", ["--dataset", "hf:a/b/c/d"], ["hf:a/b/c/d", "hf:NAME"]),
    ("train", ["--dataset", "{text}", "--train-split", "0.9999"], ["train_split=0.9999", "at most 0.999"]),
    ("train", ["--dataset", "{text}", "--train-split", "0.0001"], ["too small", "train split"]),
    ("train", ["--checkpoint-dir", "{othercheckpoints}"], ["trial_1.pt", "other settings", "bias=True there"]),
    ("train", ["--results-dir", "{otherresults}"], ["relu_results.json", "other settings", "bias=True there"]),
    (
        "train",
        ["--preset", "quick", "--results-dir", "{smokeresults}"],
        ["smoke there, quick now: --preset smoke goes on with it; n_layer=2 there, 4 now", "--study NAME"],
    ),
    # of an activation that is not trained now: it could not be compared in the end
    (
        "train",
        ["--activation", "gelu", "--results-dir", "{otherresults}"],
        ["relu_results.json", "other settings", "bias=True there", "another folder (--study NAME)"],
    ),
    ("train", ["--status", "--n-layer", "0"], ["n_layer=0"]),
    ("prepare_data", ["--dataset", "{nowhere}"], ["no such file"]),
    ("prepare_data", ["--dataset", "{binary}"], ["binary"]),
    ("prepare_data", ["--dataset", "{latin1}"], ["not UTF-8"]),
    ("prepare_data", ["--dataset", "{empty}"], ["empty"]),
    ("prepare_data", ["--tokenizer", "bpa"], ["tokenizer='bpa'", "did you mean bpe"]),
    ("prepare_data", ["--data-dir", "{text}"], ["data_dir"]),
    ("prepare_data", ["--datset", "x"], ["--datset", "did you mean --dataset"]),
    ("analyze_results", ["--results-dir", "{nowhere}"], ["{nowhere}", "no such folder"]),
    ("analyze_results", ["--results-dir", "{emptyfolder}"], ["no results", "train first"]),
    ("analyze_results", ["--results-dir", "{text}"], ["{text}", "file of that name"]),
    ("analyze_results", ["--results-dir", "{mixed}"], ["relu", "gelu", "differ", "seed_base"]),
    ("analyze_results", ["--results-dir", "{twice}"], ["relu", "rename"]),
    ("analyze_results", ["--plan", "--check"], ["--check", "--plan"]),
    ("analyze_results", ["--study", "a/b"], ["study='a/b'"]),
    ("analyze_results", ["--chek"], ["--chek", "did you mean --check"]),
    ("plot_utils", ["--results-dir", "{nowhere}"], ["{nowhere}", "no such folder"]),
    ("plot_utils", ["--results-dir", "{emptyfolder}"], ["train first"]),
    ("plot_utils", ["--results-dir", "{mixed}"], ["can't be compared"]),
    ("plot_utils", ["--plots-dir", "{text}"], ["plots_dir", "file of that name"]),
    ("plot_utils", ["--format", "svg"], ["--format"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory, corpus_file, data_dir):
    """Everything that the rows name: {name: path}."""
    from config import Config

    root = tmp_path_factory.mktemp("wrong")
    made = {name: root / name for name in ("nowhere", "emptyfolder", "mixed", "twice", "otherresults", "smokeresults")}
    contents = {
        "empty": b"",
        "binary": bytes(range(256)) * 40,
        "latin1": "Caf\u00e9 ".encode("latin-1") * 2000,
        "short": b"too short",
        "same": b"a" * 20_000,
    }
    for name, data in contents.items():
        made[name] = root / f"{name}.txt"
        made[name].write_bytes(data)
    made["toml"] = root / "study.toml"
    made["toml"].write_text("n_layr = 3", encoding="utf-8")
    made["emptyfolder"].mkdir()
    made["fifo"] = root / "fifo"
    os.mkfifo(made["fifo"])
    made["text"] = corpus_file
    config = Config(preset="smoke", device="cpu", dataset=str(corpus_file), data_dir=str(data_dir))
    for name, settings, folder in (
        ("relu", config, "mixed"),
        ("gelu", config.replace(seed_base=7), "mixed"),
        ("relu", config.replace(bias=True), "otherresults"),
        ("relu", config, "smokeresults"),
    ):
        results = synthetic_results(name)
        results.update(config=settings.to_dict(), fingerprint=settings.fingerprint())
        storage.write_results(results, made[folder])
    storage.write_json(made["twice"] / "gelu_results.json", storage.read_json(made["mixed"] / "relu_results.json"))
    made["othercheckpoints"] = root / "othercheckpoints"
    there = config.replace(checkpoint_dir=str(made["othercheckpoints"]), bias=True, max_iters=1)
    train.train_trial(there, "relu", 1)
    return made


def run(program, arguments, files, root):
    """(program, full command line) with the files' paths filled in and every folder under `root`."""
    filled = [a.format(**files) if "{" in a else a for a in arguments]
    given = [a.split("=")[0] for a in filled if a.startswith("--")]
    if program in ("train", "prepare_data") and not {"--like", "--config"} & set(given):
        if "--dataset" not in given:
            filled += ["--dataset", str(files["text"])]
        if "--preset" not in given:
            filled += ["--preset", "smoke"]
        if "--device" not in given:
            filled += ["--device", "cpu"]
        if "--data-dir" not in given:
            filled += ["--data-dir", str(root / "data")]
    if program == "train" and not {"--activation", "--sample"} & set(given):
        filled += ["--activation", "relu"]
    if "--study" not in given:
        folders = ["results", "plots"] + (["checkpoint"] if program in ("train", "prepare_data") else [])
        for kind in folders:
            if f"--{kind}-dir" not in given:
                filled += [f"--{kind}-dir", str(root / kind)]
    return filled


def check_line(code, out, err, program, named, files):
    assert code == 2
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert err.startswith(f"{program}.py: ")
    assert "Traceback" not in err + out
    for part in named:
        assert part.format(**files) in err


def test_the_table_is_long_enough():
    assert len({(program, *arguments) for program, arguments, _ in WRONG}) == len(WRONG) >= 60


@pytest.mark.parametrize(("program", "arguments", "named"), WRONG, ids=[f"{p} {' '.join(a)[:40]}" for p, a, _ in WRONG])
def test_wrong_input_is_one_line_and_status_2(program, arguments, named, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = MAIN[program](run(program, arguments, files, tmp_path))
    except SystemExit as stopped:  # argparse's own way
        code = stopped.code
    check_line(code, *capsys.readouterr(), program, named, files)
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".lock",) and "data" not in p.parts]
    assert not left  # nothing was trained or written


def command(program, *arguments, cwd):
    """A real process: (status, stdout, stderr)."""
    done = programs.fresh(PROJECT / f"{program}.py", *arguments, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("program", "arguments", "named"), WRONG[::12], ids=str)
def test_as_real_commands(program, arguments, named, files, tmp_path):
    check_line(*command(program, *run(program, arguments, files, tmp_path), cwd=tmp_path), program, named, files)


QUESTIONS = [
    ("train", ["--help"], ["python train.py --preset smoke", "--activation", "--status", "--help [{all}]"]),
    ("train", ["--help", "all"], ["--activation", "--n-layer", "--snapshot-seconds"]),
    ("train", ["--list-activations"], ["smelu_05", "swish"]),
    ("train", ["--list-datasets"], ["shakespeare", "PATH"]),
    ("train", ["--status", "--device", "cpu"], ["no trial has begun"]),
    ("train", ["--n-layer", "0"], []),
    ("prepare_data", ["--help"], ["--dataset"]),
    ("prepare_data", ["--list-datasets"], ["shakespeare"]),
    ("analyze_results", ["--help"], ["--check"]),
    ("plot_utils", ["--help"], ["--pdf"]),
]


@pytest.mark.parametrize(
    ("imported", "light"),
    [
        ("import tokenizer", "torch tokenizers pandas"),
        ("import prepare_data", "torch tokenizers datasets pandas tqdm"),
        ("import activations as a; a.list_activations(); a.label('smelu_3')", "torch"),
    ],
)
def test_importing_is_light(imported, light):
    done = programs.fresh("-c", f"{imported}; import sys; print({set(light.split())} & set(sys.modules))", cwd=PROJECT)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize(("program", "arguments", "shown"), QUESTIONS, ids=[" ".join([p, *a]) for p, a, _ in QUESTIONS])
def test_questions_are_answered_without_torch(program, arguments, shown, tmp_path):
    code = f"""
import json, sys
sys.path.insert(0, {str(PROJECT)!r})
import {program}
try:
    status = {program}.main({arguments!r})
except SystemExit as stopped:
    status = stopped.code or 0
slow = {{"torch", "pandas", "datasets"}} | ({{"scipy", "matplotlib"}} if {program!r} == "train" else set())
heavy = sorted(slow & set(sys.modules))
print(json.dumps([status, heavy]))
"""
    done = programs.fresh("-c", code, cwd=tmp_path, env=speaking_utf8(), check=True)
    *text, last = done.stdout.splitlines()
    status, heavy = json.loads(last)
    assert status == (0 if shown else 2)
    assert heavy == []
    for part in shown:
        assert part in "\n".join(text)


def test_a_reader_that_leaves_is_no_error(tmp_path):
    """`train.py --list-activations | head -1`"""
    command = f"{sys.executable} {PROJECT / 'train.py'} --list-activations | head -1"
    options = {"capture_output": True, "encoding": "utf-8", "timeout": 300, "check": True}
    done = subprocess.run(command, shell=True, cwd=tmp_path, **options)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


def test_help_begins_with_examples_and_the_flags_that_most_need(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = capsys.readouterr().out
    assert shown.count("    python train.py ") == 3 and set(re.findall(r"^--[a-z-]+", shown, re.M)) == {
        flag.replace("--trials", "--trials-per-activation") for flag in cli.words("train")["first"]
    }


@pytest.mark.parametrize("arguments", [["--activatoin", "relu"], ["--activation", "relu", "--activatoin", "gelu"]])
def test_a_misspelt_flag_does_not_swallow_its_value(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert "did you mean --activation?" in line and line.count("\n") == 1


@pytest.mark.parametrize(("n", "text"), [(0, "0 trials"), (1, "1 trial"), (1200, "1,200 trials")])
def test_one_is_not_a_plural(n, text):
    assert cli.counted(n, "trial") == text


SCRIPTS = ("train", "prepare_data", "analyze_results", "plot_utils", "compare", "tools/export")


@pytest.mark.parametrize("program", [*SCRIPTS, "tools/doctor", "tools/metrics_guide"])
def test_every_script_answers_help(program, tmp_path):
    done = programs.fresh(PROJECT / f"{program}.py", "--help", cwd=tmp_path, check=True)
    script = program.removeprefix("tools/")
    begins = "Train, measure and plot" if program == "train" else f"usage: {script}.py "
    assert done.stdout.startswith(begins) and not done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", SCRIPTS)
def test_without_the_packages(program, tmp_path):
    """A Python that has none of them (-S: it looks into no site-packages)."""
    done = programs.fresh("-S", PROJECT / f"{program}.py", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert done.stderr.startswith(f"{program}.py: torch, numpy, ")
    assert f"not installed for this Python: ./setup.sh, then venv/bin/python {program}.py" in done.stderr


def test_one_package_that_is_missing(monkeypatch, capsys):
    import cli

    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(SystemExit) as stopped:
        cli.require_packages("train.py")
    expected = "train.py: torch is not installed for this Python: ./setup.sh, then venv/bin/python train.py\n"
    assert (stopped.value.code, capsys.readouterr().err) == (2, expected)


REPL = f"""
import os, sys, threading, signal
sys.path.insert(0, {str(PROJECT)!r})
import train
from config import Config
from training import experiment
def asked(*_):
    raise KeyboardInterrupt

experiment.existing_files = asked
train.run_experiment(Config(preset="smoke", device="cpu"), "relu")
print("goes on")
1 / 0
"""


def test_an_interrupt_in_the_repl_is_one_line(tmp_path):
    """And what comes after it has tracebacks as ever."""
    done = programs.fresh("-i", "-q", input=REPL, cwd=tmp_path)
    lines = [line.lstrip(">. ") for line in done.stderr.splitlines() if line.strip(">. ")]
    assert lines[0] == train.INTERRUPTED
    assert lines[1].startswith("Traceback") and lines[-1] == "ZeroDivisionError: division by zero"
    assert "goes on" in done.stdout


def test_an_interrupt_in_a_notebook_is_one_line():
    stopped = train.Interrupted(train.INTERRUPTED)
    assert isinstance(stopped, KeyboardInterrupt) and stopped._render_traceback_() == [train.INTERRUPTED]
