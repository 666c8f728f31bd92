"""The validation checklist of a finished study: `python analyze_results.py --check`. Reads, writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import storage
from activations import STUDY
from analysis import checks
from analysis.products import Folder
from analysis.results import Measured, results_files, study_order
from analysis.study import Study
from config import UserError
from storage import number

FIGURES = ("training_curves", "reproducibility", "summary")  # of each activation
COMPARISON = "comprehensive_comparison.png"
PRODUCTS = ("summary.csv", "FINAL_REPORT.md")
AT_BEST = 1.05  # a curve that ends further above its lowest point has turned round


@dataclass(frozen=True)
class Line:
    """One line of the checklist: what must hold, and what is wrong with it ('' when it holds)."""

    what: str
    problem: str

    def __str__(self):
        return f"✗ {self.what}: {self.problem}" if self.problem else f"✓ {self.what}"


def _figures_of(name: str) -> list[str]:
    return [f"{storage.file_name(name)}_{figure}.png" for figure in FIGURES]


def check_study(folder: Folder, activations: Iterable[str] | None = None) -> list[Line]:
    """Every line of the checklist for `activations` (default: the five of the study and any other found there)."""
    results_dir, plots_dir, checkpoint_dir = folder.results, folder.plots, folder.checkpoints
    files = results_files(results_dir)
    found = {storage.activation_name(path.name.removesuffix("_results.json")) for path in files}
    names = study_order(set(STUDY) | found if activations is None else activations)
    studied, unreadable = {}, []
    for name in names:
        try:
            studied[name] = Measured(name, storage.read_results(storage.results_path(results_dir, name)))
            studied[name].pairs  # noqa: B018 — names the file whose pairs can't be understood
        except (storage.StorageError, UserError) as error:
            studied.pop(name, None)
            unreadable.append(str(error))
    study, mixture = None, ""
    try:
        study = Study({name: m.results for name, m in studied.items()}) if studied else None
    except UserError as error:
        mixture = str(error)
    return [
        Line("results of every activation present and readable", _listed(unreadable)),
        Line("every activation trained with all its trials", _listed(_missing_trials(names, studied))),
        Line("all results of one config, corpus and set of positions", mixture),
        Line("figures of every activation", _absent(plots_dir / file for n in names for file in _figures_of(n))),
        Line("checkpoints present and matching their checksums", _listed(_bad_checkpoints(studied, checkpoint_dir))),
        Line(
            "summary, report and comparison figure present and newer than the results",
            _outdated([results_dir / product for product in PRODUCTS] + [plots_dir / COMPARISON], files),
        ),
        Line("every metric a finite number", _listed(_undefined(studied))),
        Line("training curves fall, and end near their lowest point", _listed(_odd_curves(studied))),
        Line("statistical tests performed for every pair of activations", _untested(study)),
        Line("audits passed", _listed(_failed_audits(studied))),
    ]


def _listed(problems: Iterable[str], most: int = 4) -> str:
    problems = list(problems)
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _missing_trials(names: list[str], studied: dict[str, Measured]) -> list[str]:
    def wanted(m):
        # its own number: more trials of one activation don't make another incomplete; where none is recorded, the most
        return number((m.results.get("config") or {}).get("trials_per_activation")) or most

    most = max((len(m.planned) for m in studied.values()), default=0)
    missing = [f"{name}: not trained, or its results are not readable" for name in names if name not in studied]
    for name, m in studied.items():
        trials = int(wanted(m))
        absent = [str(k) for k in range(1, trials + 1) if k not in m.planned]
        if absent:
            missing.append(f"{name}: trial {', '.join(absent)} of {trials} is missing")
    return missing


def _absent(paths: Iterable[Path]) -> str:
    absent = [str(path) for path in paths if not path.is_file()]
    return absent and f"{_listed(absent)} missing" or ""


def _bad_checkpoints(studied: dict[str, Measured], checkpoint_dir) -> Iterable[str]:
    for name, m in studied.items():
        for trial, record in m.planned.items():
            path = storage.checkpoint_path(checkpoint_dir, name, trial)
            expected = (record.get("checkpoint") or {}).get("sha256")
            if not path.is_file():
                yield f"{path} is missing"
            elif not expected:
                yield f"{path}: its checksum was not recorded"
            elif storage.sha256_file(path) != expected:
                yield f"{path} is not the file that the results were measured on"


def _outdated(products: list[Path], results: list[Path]) -> str:
    newest = max((path.stat().st_mtime for path in results), default=0.0)
    stale = [str(path) for path in products if path.is_file() and path.stat().st_mtime < newest]
    problems = [_absent(products)] + ([f"{_listed(stale)} older than the results"] if stale else [])
    return _listed(filter(None, problems))


def _undefined(studied: dict[str, Measured]) -> Iterable[str]:
    averages = "avg_train_loss avg_val_loss avg_train_accuracy avg_val_accuracy avg_relative_pd avg_training_time"
    of_trial = "train_loss val_loss train_accuracy val_accuracy training_time".split()
    of_pair = "relative_pd prediction_differences total_predictions".split()
    for name, m in studied.items():
        for trial, record in m.failed.items():
            yield f"{name} trial {trial} has no finite validation loss ({record.get('status', 'done')})"
        for trial, record in m.trials.items():
            lacking = [key for key in of_trial if number(record[key]) is None]
            lacking += [k for k in of_trial if f"{k}_history" in record and None in map(number, record[f"{k}_history"])]
            if lacking:
                yield f"{name} trial {trial}: {', '.join(lacking)}"
        for pair in m.results["reproducibility_metrics"]:
            if any(number(pair[key]) is None for key in of_pair):
                yield f"{name} pair {pair['model_pair']}"
        lacking = [key for key in averages.split() if number(m.results[key]) is None]
        if lacking:
            yield f"{name}: {', '.join(lacking)}"


def _odd_curves(studied: dict[str, Measured]) -> Iterable[str]:
    for name, m in studied.items():
        for trial, record in m.planned.items():
            curve = [x for x in map(number, record["val_loss_history"]) if x is not None]
            if trial not in m.trials:
                at = record.get("diverged_at_step")
                yield f"{name} trial {trial} diverged" + (f" at step {at}" if at is not None else "")
            elif len(curve) < 2:
                yield f"{name} trial {trial} has no training curve"
            elif curve[-1] >= curve[0] or curve[-1] > AT_BEST * min(curve):
                yield (
                    f"{name} trial {trial} ends at {curve[-1]:.3f}, from {curve[0]:.3f} at its start and "
                    f"{min(curve):.3f} at its best"
                )


def _failed_audits(studied: dict[str, Measured]) -> Iterable[str]:
    for name, m in studied.items():
        if m.audit != "passed":
            yield f"{name}: {m.audit}"
    for check in checks.across_activations({name: m.results for name, m in studied.items()}):
        if check["status"] == "fail":
            yield f"across activations: {check['name']}: {check['measured']}"


def _untested(study: Study | None) -> str:
    if study is None or not study.tests:
        return "there are no two activations to compare"
    pairs = [f"{t.a} and {t.b}" for t in study.tests if not (t.tested("PD") and t.tested("Loss"))]
    return pairs and f"no test for {_listed(pairs)}" or ""
