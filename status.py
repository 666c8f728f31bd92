"""How far every trial is, from another terminal and without torch: `python train.py --status`."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import storage
from config import Config


def trial_states(config: Config, names: list[str] | None = None) -> list[dict]:
    """One dict per trial: activation, trial, state (done, running, interrupted, diverged, missing, unreadable), step,
    max_iters, val_loss, seconds_left, last_sign (seconds ago).

    A trial is running as long as somebody holds its lock; what a killed process left is `interrupted`.
    """
    root = Path(config.checkpoint_dir)
    found = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    states = []
    for name in names or found:
        existing = {p.stem for p in (root / name).glob("trial_*") if p.suffix in (".pt", ".json")}
        numbers = {int(s.removeprefix("trial_")) for s in existing if s.removeprefix("trial_").isdigit()}
        numbers |= set(range(1, config.trials_per_activation + 1))
        states += [_state(config, name, number) for number in sorted(numbers)]
    return states


def _state(config: Config, activation: str, trial: int) -> dict:
    checkpoint = storage.checkpoint_path(config.checkpoint_dir, activation, trial)
    path = storage.progress_path(config.checkpoint_dir, activation, trial)
    state = {"activation": activation, "trial": trial, "state": "missing"}
    if path.exists():
        try:
            progress = storage.read_json(path)
            state.update({key: progress.get(key) for key in ("state", "step", "max_iters", "loss", "val_loss")})
            state["last_sign"] = max(0.0, time.time() - progress["time"])
            if progress["state"] == "running":
                elsewhere = progress.get("host") != storage.host_name()
                if _locked(checkpoint.with_suffix(".lock")) or (elsewhere and state["last_sign"] < 120):
                    left = progress.get("seconds_left")
                    state["seconds_left"] = None if left is None else max(0.0, left - state["last_sign"])
                else:
                    state["state"] = "interrupted"
        except (storage.StorageError, AttributeError, KeyError, TypeError):
            state["state"] = "unreadable"
    if checkpoint.exists() and state["state"] != "diverged":
        state["state"] = "done"
    elif state["state"] in ("done", "diverged") and not checkpoint.exists():
        state["state"] = "missing"  # its checkpoint was removed
    return state


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

    states = trial_states(config, names)
    if not states:
        print(f"{config.checkpoint_dir}: no trial has begun")
        return
    rows = []
    for s in states:
        step = "" if s.get("step") is None else f"{s['step']}/{s['max_iters']}"
        left = "" if s.get("seconds_left") is None else str(datetime.timedelta(seconds=round(s["seconds_left"])))
        sign = "" if s.get("last_sign") is None else f"{datetime.timedelta(seconds=round(s['last_sign']))} ago"
        rows.append((s["activation"], s["trial"], s["state"], step, s.get("loss"), s.get("val_loss"), left, sign))
    headers = ("activation", "trial", "state", "step", "loss", "val loss", "time left", "last sign of life")
    print(tabulate(rows, headers=headers, floatfmt=".4f", missingval=""))
    for name in dict.fromkeys(s["activation"] for s in states):
        path = storage.results_path(config.results_dir, name)
        print(f"{name}: {'results in ' + str(path) if path.exists() else 'no results yet'}")
