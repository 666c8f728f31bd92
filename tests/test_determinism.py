"""The same seed gives the same bits, whichever way a trial comes about."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import programs
import storage
import train
from prepare_data import load_corpus
from training import trial

# times; files that hold them
NOT_THE_SAME = {"training_time", "total_time", "ended", "tokens_per_second", "path", "sha256"}


def numbers(record: dict) -> dict:
    """A record without its times."""
    return {
        key: numbers(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in NOT_THE_SAME
    }


def contents(config, activation, k) -> dict:
    """Everything in a checkpoint that must be the same bits: weights, branches, probe and record."""
    saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, activation, k))
    return {
        "weights": storage.contents_sha256(saved["weights"]),
        "branches": storage.contents_sha256(saved["branches"]),
        "probe": storage.contents_sha256({"p": saved["probe"], "top": saved["probe_argmax"]}),
        "record": numbers(saved["record"]),
    }


@pytest.fixture
def at(smoke_config, tmp_path):
    """The same settings in another folder."""

    def place(name, **changes):
        folders = {f"{kind}_dir": str(tmp_path / name / kind) for kind in ("results", "plots", "checkpoint")}
        return smoke_config.replace(**{**folders, **changes})

    return place


@pytest.fixture
def once(at):
    """A trial trained in one go: (config, what its checkpoint holds)."""
    config = at("once")
    train.train_trial(config, "smelu_1", 2)
    return config, contents(config, "smelu_1", 2)


def test_rerun(at, once):
    again = at("again")
    train.train_trial(again, "smelu_1", 2)
    assert contents(again, "smelu_1", 2) == once[1]


def test_another_seed_differs(at, once):
    """The comparison isn't blind."""
    other = at("other")
    train.train_trial(other, "smelu_1", 1)
    assert contents(other, "smelu_1", 1)["weights"] != once[1]["weights"]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_stopped_and_resumed(at, dropout):
    """Stopped three times at awkward steps, among them right after one that was recorded."""
    whole, parts = at("whole", dropout=dropout), at("parts", dropout=dropout)
    train.train_trial(whole, "gelu", 1)
    for limit in (7, 20, 41):
        steps = iter(range(10_000))
        start = max(storage.snapshot_paths(parts.checkpoint_dir, "gelu", 1), key=str, default=None)
        done = int(start.stem.rsplit("-", 1)[1]) if start else 0
        with pytest.raises(trial.Interrupted):
            train.train_trial(parts, "gelu", 1, stop=lambda steps=steps, end=limit - done: next(steps) + 1 >= end)
    train.train_trial(parts, "gelu", 1)
    assert contents(parts, "gelu", 1) == contents(whole, "gelu", 1)


def test_evaluated_often_or_seldom(at):
    often, seldom = at("often", eval_interval=10, dropout=0.2), at("seldom", eval_interval=50, dropout=0.2)
    records = [train.train_trial(config, "relu", 1) for config in (often, seldom)]
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]
    assert records[0]["train_loss"] == records[1]["train_loss"]
    assert (records[0]["steps"], records[1]["steps"]) == ([0, 10, 20, 30, 40, 50, 60], [0, 50, 60])
    for key in ("train_loss_history", "val_loss_history", "learning_rate_history", "grad_norm_history"):
        often_at, seldom_at = (dict(zip(r["steps"], r[key], strict=True)) for r in records)
        assert [often_at[step] for step in (0, 50, 60)] == [seldom_at[step] for step in (0, 50, 60)]


def test_state_of_the_process_does_not_matter(at, once):
    """Other random draws, threads and default types before a trial change nothing, and it puts back what it sets."""
    import numpy as np
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    torch.manual_seed(12345)
    np.random.seed(54321)  # noqa: NPY002
    torch.rand(7)
    try:
        config = at("elsewhere")
        train.train_trial(config, "smelu_1", 2)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert contents(config, "smelu_1", 2) == once[1]


@pytest.mark.slow
def test_sequential_or_side_by_side(at):
    """In this process one after another, and in three workers: the same bits, the same results."""
    one, three = at("one"), at("three", workers=3)
    corpus = load_corpus(one)
    for k in (1, 2, 3):
        train.train_trial(one, "gelu", k, corpus)
    results = train.run_study(three, ["gelu"], quiet=True)["gelu"]
    for k in (1, 2, 3):
        assert contents(three, "gelu", k) == contents(one, "gelu", k)
    measured = train.run_study(one, ["gelu"], quiet=True)["gelu"]
    for key in ("reproducibility_metrics", "divergence", "evaluation", "avg_val_loss", "set_prediction_difference"):
        assert measured[key] == results[key]
    assert [numbers(t) for t in measured["trials"]] == [numbers(t) for t in results["trials"]]


def command(config, *extra) -> list[str]:
    """The command line of `config`."""
    flags = []
    for name, value in config.to_dict().items():
        flag = "--" + name.replace("_", "-")
        if value is None or name == "study":
            continue
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, *map(str, value if isinstance(value, list) else [value])]
    return [os.path.join(os.path.dirname(train.__file__), "train.py"), *flags, "--activation", "relu", *extra]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "schedule"),
    [(signal.SIGTERM, "cosine"), (signal.SIGKILL, "cosine"), (signal.SIGKILL, "trunk")],
    ids=["SIGTERM", "SIGKILL", "SIGKILL, trunk"],
)
def test_killed_and_resumed(at, sent, schedule):
    """The whole program is killed in the middle of training and started again."""
    longer = {"max_iters": 400, "eval_interval": 50, "trials_per_activation": 1, "snapshot_seconds": 0.0}
    longer["schedule"] = schedule
    whole, killed = at("whole", **longer), at("killed", **longer)
    train.train_trial(whole, "relu", 1)
    process = programs.start(command(killed, "--quiet"))
    progress = storage.progress_path(killed.checkpoint_dir, "relu", 1)
    deadline = time.monotonic() + 240
    while not storage.snapshot_paths(killed.checkpoint_dir, "relu", 1):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker = json.loads(progress.read_text(encoding="utf-8"))["pid"]
    process.send_signal(sent)
    if sent == signal.SIGKILL:
        os.kill(worker, sent)  # or it would save its snapshot when it sees that the caller is gone
    status = process.wait(timeout=300)
    assert status == (130 if sent == signal.SIGTERM else -sent)
    final = storage.checkpoint_path(killed.checkpoint_dir, "relu", 1)
    assert not final.exists(), "it was killed too late for this test to mean anything"
    programs.run(command(killed, "--quiet"), check=True)
    assert contents(killed, "relu", 1) == contents(whole, "relu", 1)


@pytest.mark.slow
def test_with_and_without_progress_bar(at):
    """A terminal with its bar, plain lines, and nothing at all."""
    import pty
    import termios

    short = {"trials_per_activation": 2, "max_iters": 40, "workers": 1}
    bar, lines, quiet = (at(name, **short) for name in ("bar", "lines", "quiet"))
    programs.run(command(quiet, "--quiet"), check=True)
    assert "step" in programs.run(command(lines), check=True).stdout
    outside, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 100))  # it is 0 × 0 at first, where no bar fits
    process = subprocess.Popen([sys.executable, *command(bar)], stdout=inside, stderr=inside)
    os.close(inside)
    shown = b""
    while True:
        try:
            piece = os.read(outside, 65536)
        except OSError:  # the other end is closed: it has ended
            break
        if not piece:
            break
        shown += piece
    os.close(outside)
    assert process.wait(timeout=300) == 0
    assert b"step/s" in shown or b"%|" in shown
    for k in (1, 2):
        assert contents(bar, "relu", k) == contents(lines, "relu", k) == contents(quiet, "relu", k)
