"""How far every trial is, from another terminal and without torch: `python train.py --status`."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import questions
import storage
from analysis.products import refuse_unknown_study
from config import Config


def trial_states(config: Config, names: list[str] | None = None) -> list[dict]:
    """One dict per trial: activation, trial, state (done, running, interrupted, diverged, not begun, missing,
    unreadable), step and max_iters (done and in all, those of branches too), branch (where the one under way left the
    trunk), loss, val_loss, seconds_left, last_sign (seconds ago); what is not known is left out or None.

    A trial is running as long as somebody holds its lock; what a killed process left is `interrupted`; one that was
    asked for and has not been trained at all is `not begun`, and its seconds_left are those that it will take.
    """
    root = Path(config.checkpoint_dir)
    # `sources` holds the studies of --decompose, each with folders like these
    trained = [path.name for path in storage.listed(root) if path.is_dir() and path.name != "sources"]
    states = []
    for name in names or trained:
        numbers = set(range(1, config.trials_per_activation + 1))
        for suffix in ("pt", "json", "lock"):
            numbers |= set(storage.trial_numbers(root, name, suffix))
        states += [_state(root, name, number) for number in sorted(numbers)]
    return states


def _state(root: Path, activation: str, trial: int) -> dict:
    checkpoint = storage.checkpoint_path(root, activation, trial)
    path = storage.progress_path(root, activation, trial)
    progress, state, readable = {}, {"activation": activation, "trial": trial}, True
    if path.exists():
        try:
            progress = _progress(path)
            state.update({key: progress[key] for key in ("step", "max_iters", "branch", "loss", "val_loss")})
            state["last_sign"] = max(0.0, time.time() - progress["time"])
        except storage.StorageError:
            readable = False
    elsewhere = progress.get("state") == "running" and progress.get("host") != storage.host_name()
    if checkpoint.exists():
        state["state"] = "diverged" if progress.get("state") == "diverged" else "done"
    elif _locked(checkpoint.with_suffix(".lock")) or (elsewhere and state["last_sign"] < 120):
        state["state"] = "running"
        left = progress.get("seconds_left")
        state["seconds_left"] = None if left is None else max(0.0, left - state["last_sign"])
    elif not readable:
        state["state"] = "unreadable"
    elif progress.get("state") == "waiting":
        state["state"], state["seconds_left"] = "not begun", progress["seconds_left"]
        del state["last_sign"]
    elif progress.get("state") in ("running", "interrupted") or storage.snapshot_paths(root, activation, trial):
        state["state"] = "interrupted"
    else:
        state["state"] = "missing"  # never begun, or its checkpoint was removed
    return state


def _progress(path: Path) -> dict:
    """What a trial last wrote about itself. Raises StorageError for anything else that lies in its place."""
    progress = storage.read_json(path)
    if not isinstance(progress, dict) or not isinstance(progress.get("state"), str):
        raise storage.StorageError(f"{path}: not the progress of a trial")
    for key in ("step", "max_iters", "time", "branch", "loss", "val_loss", "seconds_left"):
        value = progress.setdefault(key, None)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12
        if not number and (value is not None or key in ("step", "max_iters", "time")):
            raise storage.StorageError(f"{path}: {key} is not a number")
    return progress


def _locked(path: Path) -> bool:
    if not path.exists() or not os.access(path, os.W_OK):
        return False
    lock = storage.FileLock(path)
    if lock.acquire(wait=False):
        lock.release()
        return False
    return True


def print_status(config: Config, names: list[str] | None = None) -> None:
    """A table on standard output, and whether results are there."""
    from tabulate import tabulate

    refuse_unknown_study(config)
    states = trial_states(config, names)
    if not states:
        print(f"{config.checkpoint_dir}: no trial has begun")
        return
    rows = []
    for s in states:
        step = "" if s.get("step") is None else f"{s['step']}/{s['max_iters']}"
        step += f", branch at {s['branch']}" if s.get("branch") else ""
        left = "" if s.get("seconds_left") is None else str(datetime.timedelta(seconds=round(s["seconds_left"])))
        sign = "" if s.get("last_sign") is None else f"{datetime.timedelta(seconds=round(s['last_sign']))} ago"
        rows.append((s["activation"], s["trial"], s["state"], step, s.get("loss"), s.get("val_loss"), left, sign))
    headers = ("activation", "trial", "state", "step", "loss", "val loss", "time left", "last sign of life")
    print(tabulate(rows, headers=headers, floatfmt=".4f", missingval=""))
    for name in dict.fromkeys(s["activation"] for s in states):
        path = storage.results_path(config.results_dir, name)
        print(f"{name}: {'results in ' + str(path) if path.exists() else 'no results yet'}")
    for status_of in questions.hooks("STATUS"):
        for line in status_of(config.results_dir):
            print(line)
