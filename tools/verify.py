"""Derive every published number again: results from the checkpoints, table and report from the results.

`python analyze_results.py --verify` is for whoever doubts a number, or received a folder from somebody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import storage
from analysis import report, tables
from analysis.results import load_all_results
from analysis.study import Study
from analysis.where import WHERE_FILE, load
from config import Config, UserError
from prepare_data import load_corpus
from tools.where import compute, recorded_config
from training import experiment

# what is about the occasion, not the experiment
NOT_COMPARED = {"timestamp", "content_sha256", "audit", "path", "study"}
TOLERANCE = 1e-6  # relative; on the machine that made the results the difference is 0


def verify(config: Config) -> Iterator[tuple[str, list[str]]]:
    """For each thing that is verified: (its name, what is wrong with it: nothing, or one line each).

    `config` names the folders; the settings are those that each results file records.
    """
    folder = Path(config.results_dir)
    for path in sorted(folder.glob("*_results.json")):
        yield str(path), _verify_results(path, config)
    try:
        study = Study(load_all_results(folder))
    except (UserError, storage.StorageError) as error:
        yield str(folder), [str(error)]
        return
    for name, expected in (
        ("summary.csv", tables.csv(tables.summary(study))),
        ("FINAL_REPORT.md", report.write_report(study, None, config.plots_dir, folder)),
    ):
        yield str(folder / name), _verify_text(folder / name, expected)
    if (folder / WHERE_FILE).exists():
        yield str(folder / WHERE_FILE), _verify_where(folder / WHERE_FILE, study, config)


def _verify_results(path: Path, folders: Config) -> list[str]:
    try:
        recorded = storage.read_results(path)
        config = recorded_config(recorded, folders)
        problems = []
        for trial in recorded["trials"]:
            file = storage.checkpoint_path(config.checkpoint_dir, recorded["activation"], trial["trial_id"])
            if storage.sha256_file(file) != trial["checkpoint"]["sha256"]:
                problems.append(f"{file}: not the checkpoint that was measured (checksum differs)")
        again = experiment.measure(config, recorded["activation"], load_corpus(config))
    except (UserError, storage.StorageError) as error:
        return [str(error)]
    return problems + list(differences(recorded, again))


def _verify_where(path: Path, study: Study, folders: Config) -> list[str]:
    try:
        return list(differences(load(path), compute(folders, study.all_results)[0]))
    except storage.StorageError as error:
        return [str(error)]


def differences(recorded, again, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each; numbers within TOLERANCE are equal."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in sorted(set(recorded) | set(again)):
            if key in NOT_COMPARED or (not where and key == "config"):
                continue
            place = f"{where}.{key}" if where else key
            if key not in recorded or key not in again:
                yield f"{place}: only in {'the file' if key in recorded else 'what was derived again'}"
            else:
                yield from differences(recorded[key], again[key], place)
    elif isinstance(recorded, list) and isinstance(again, list):
        if len(recorded) != len(again):
            yield f"{where}: {len(recorded)} entries in the file, {len(again)} derived again"
        for i, (a, b) in enumerate(zip(recorded, again, strict=False)):
            yield from differences(a, b, f"{where}[{i}]")
    elif isinstance(recorded, float) and isinstance(again, float):
        if not math.isclose(recorded, again, rel_tol=TOLERANCE, abs_tol=1e-12):
            yield f"{where}: {recorded!r} in the file, {again!r} derived again"
    elif recorded != again:
        yield f"{where}: {recorded!r} in the file, {again!r} derived again"


def _verify_text(path: Path, expected: str) -> list[str]:
    """The file says what the results say, line for line (dates apart)."""
    try:
        written = storage.read_bytes(path).decode("utf-8", errors="replace")
    except storage.StorageError as error:
        return [str(error)]
    ours, theirs = expected.splitlines(), written.splitlines()
    problems = [
        f"line {n}: {a.strip()[:80]!r} in the file, {b.strip()[:80]!r} derived again"
        for n, (a, b) in enumerate(zip(theirs, ours, strict=False), 1)
        if a != b
    ]
    if len(ours) != len(theirs):
        problems.append(f"{len(theirs)} lines in the file, {len(ours)} derived again")
    return problems


def print_verification(config: Config) -> int:
    """Print ✓ or ✗ for each thing, the differences below it; the number of things that are wrong."""
    wrong = 0
    for name, problems in verify(config):
        print(f"{'✗' if problems else '✓'} {name}", flush=True)
        for problem in problems[:10]:
            print(f"    {problem}")
        if len(problems) > 10:
            print(f"    … and {len(problems) - 10} more")
        wrong += bool(problems)
    return wrong
