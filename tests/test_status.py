"""`--status`: every state a trial can be in, from another process, without torch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import storage
import train
from config import Config
from tools import status
from training import experiment

PROJECT = Path(train.__file__).parent


@pytest.fixture
def config(tmp_path):
    return Config(preset="smoke", device="cpu", precision="float32", checkpoint_dir=str(tmp_path / "c"))


def progress(config, trial, **changes):
    """What a trial writes about itself while it runs."""
    value = {
        "activation": "relu",
        "trial": trial,
        "step": 40,
        "state": "running",
        "max_iters": 60,
        "loss": 2.5,
        "val_loss": 2.75,
        "seconds_left": 90.0,
        "pid": 1,
        "host": storage.host_name(),
        "time": time.time() - 3,
        "fingerprint": "",
    }
    storage.write_json(storage.progress_path(config.checkpoint_dir, "relu", trial), {**value, **changes})


def lock(config, trial):
    return storage.FileLock(storage.checkpoint_path(config.checkpoint_dir, "relu", trial).with_suffix(".lock"))


def only(config, trial=1):
    states = [s for s in status.trial_states(config, ["relu"]) if s["trial"] == trial]
    assert len(states) == 1
    return states[0]


def test_nothing_yet(config, capsys):
    assert status.trial_states(config) == []
    assert [s["state"] for s in status.trial_states(config, ["relu"])] == ["missing"] * 3
    status.print_status(config)
    assert "no trial has begun" in capsys.readouterr().out


def test_running_is_who_holds_the_lock(config):
    progress(config, 1)
    assert only(config)["state"] == "interrupted"  # the process is gone: killed
    with lock(config, 1):
        state = only(config)
    assert state["state"] == "running"
    assert (state["step"], state["max_iters"], state["loss"], state["val_loss"]) == (40, 60, 2.5, 2.75)
    assert 3 <= state["last_sign"] < 20
    assert 70 < state["seconds_left"] <= 87


def test_running_before_its_first_sign_of_life(config):
    with lock(config, 2):
        assert only(config, 2)["state"] == "running"
    assert only(config, 2)["state"] == "missing"


def test_running_on_another_machine(config):
    """The folder is shared, the lock is not: a sign of life of the last two minutes counts."""
    progress(config, 1, host="elsewhere")
    assert only(config)["state"] == "running"
    progress(config, 1, host="elsewhere", time=time.time() - 300)
    assert only(config)["state"] == "interrupted"


def test_interrupted(config):
    progress(config, 1, state="interrupted", seconds_left=None)
    assert only(config)["state"] == "interrupted"
    storage.write_bytes(storage.snapshot_path(config.checkpoint_dir, "relu", 2, 20), b"x")
    assert only(config, 2)["state"] == "interrupted"


@pytest.mark.parametrize("ended", ["done", "diverged"])
def test_ended(config, ended):
    progress(config, 1, state=ended)
    assert only(config)["state"] == "missing"  # its checkpoint was removed
    storage.write_bytes(storage.snapshot_path(config.checkpoint_dir, "relu", 1, 40), b"x")
    assert only(config)["state"] == "interrupted"  # killed between the two
    with lock(config, 1):
        assert only(config)["state"] == "running"  # the final evaluation
    storage.write_bytes(storage.checkpoint_path(config.checkpoint_dir, "relu", 1), b"x")
    assert only(config)["state"] == ended


GARBAGE = [
    "", "{", "[]", "7", "null", "{}", '{"state": "running"}', '{"state": 3, "step": 1, "max_iters": 2, "time": 5}',
    '{"state": "running", "step": "x", "max_iters": 2, "time": 5}',
    '{"state": "running", "step": 1, "max_iters": 2, "time": 1e300}',
    '{"state": "running", "step": 1, "max_iters": 2, "time": 5, "seconds_left": Infinity, "val_loss": "low"}',
    '{"state": "running", "step": 1, "max_iters": 2, "time": 5, "seconds_left": 1e999}',
    '{"state": "running", "step": [1], "max_iters": {}, "time": 5}', "\x00\x01\x02", "9" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("text", GARBAGE, ids=[t[:40] for t in GARBAGE])
def test_garbage(config, text, capsys):
    path = storage.progress_path(config.checkpoint_dir, "relu", 1)
    storage.write_text(path, text)
    assert only(config)["state"] == "unreadable"
    status.print_status(config)
    assert "unreadable" in capsys.readouterr().out
    storage.write_bytes(storage.checkpoint_path(config.checkpoint_dir, "relu", 1), b"x")
    assert only(config)["state"] == "done"


def test_trials_that_were_asked_for_are_listed_before_they_begin(config, capsys):
    """All trials of a run, also of activations whose turn has not come, more of them than the status would expect."""
    asked = {(name, k): 12.5 for name in ("relu", "gelu") for k in range(1, 6)}
    progress(config, 1)
    experiment.announce_trials(config, asked)
    states = {(s["activation"], s["trial"]): s for s in status.trial_states(config)}
    assert states.keys() == asked.keys()
    assert states["relu", 1]["state"] == "interrupted"  # as it was
    rest = [s for key, s in states.items() if key != ("relu", 1)]
    assert {(s["state"], s["seconds_left"], s["step"], s["max_iters"]) for s in rest} == {("not begun", 12.5, 0, 200)}
    status.print_status(config)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("gelu") and " 5 " in line)
    assert "not begun" in row and "0:00:12" in row and "ago" not in row


def test_time_left_from_the_start(smoke_config):
    """Before its first step a trial shows what was announced, from then on what it takes."""
    seen = []

    def report(event):
        seen.extend(s for s in status.trial_states(smoke_config, ["relu"]) if s["trial"] == 1)

    experiment.announce_trials(smoke_config, {("relu", 1): 123.0})
    train.train_trial(smoke_config, "relu", 1, report=report)
    first, second = seen[0], next(state for state in seen if state["step"])
    assert (first["state"], first["step"]) == ("running", 0) and 100 < first["seconds_left"] <= 123
    assert second["step"] == 10 and second["seconds_left"] < 60


def test_other_things_in_the_folder(config):
    folder = Path(config.checkpoint_dir) / "relu"
    folder.mkdir(parents=True)
    for name in ("trial_x.pt", "trial_².pt", "trial_01.pt", "notes.txt", "trial_.json", "trial_1.step-2.snapshot.bak"):
        (folder / os.fsdecode(name.encode())).write_text("x", encoding="utf-8")
    (folder / "trial_2.json").mkdir()
    (Path(config.checkpoint_dir) / "stray.pt").write_text("x", encoding="utf-8")
    (Path(config.checkpoint_dir) / ".ipynb_checkpoints").mkdir()
    (Path(config.checkpoint_dir) / "sources" / "init" / "relu").mkdir(parents=True)  # of --decompose
    assert [s["state"] for s in status.trial_states(config)] == ["missing", "unreadable", "missing"]


def test_table(config, capsys, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # a busy machine may take a second to come to the table
    progress(config, 1)
    progress(config, 2, state="diverged")
    storage.write_bytes(storage.checkpoint_path(config.checkpoint_dir, "relu", 2), b"x")
    progress(config, 5, state="interrupted")
    with lock(config, 1):
        status.print_status(config)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[1]: line for line in lines if line.startswith("relu ")}
    for trial, words in {
        "1": ["running", "40/60", "2.5000", "2.7500", "0:01:2", "0:00:03 ago"],
        "2": ["diverged"],
    }.items():
        for word in words:
            assert word in rows[trial]
    assert "missing" in rows["3"] and "interrupted" in rows["5"]
    assert "no results yet" in lines[-1]


def test_of_a_real_run_from_another_process(smoke_config):
    """While a trial trains here, the command line sees it; no torch, and it doesn't disturb the trial."""
    flags = [f"--{kind.replace('_', '-')}={getattr(smoke_config, kind)}" for kind in ("checkpoint_dir", "results_dir")]
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import train\n"
        f"code = train.main({['--status', '--device', 'cpu', '--trials', '1', *flags]!r})\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    seen = []

    def look():
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=300, check=True
        )
        seen.append(next(line for line in done.stdout.splitlines() if line.startswith("relu ")))

    def report(event):
        if event["event"] == "point" and not seen:
            look()

    train.train_trial(smoke_config, "relu", 1, report=report)
    look()
    assert "running" in seen[0]
    assert "done" in seen[1] and f"{smoke_config.max_iters}/{smoke_config.max_iters}" in seen[1]
    assert json.loads(storage.progress_path(smoke_config.checkpoint_dir, "relu", 1).read_text())["state"] == "done"
