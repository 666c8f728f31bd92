"""The validation checklist of a finished study: `python analyze_results.py --check`. Reads, writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import storage
from analysis import checks
from analysis.products import Folder, Product, is_of
from analysis.results import Measured, results_files, study_order
from analysis.study import Study
from cli import counted
from config import UserError
from storage import number

AT_BEST = 1.05  # a curve that ends further above its lowest point has turned round


@dataclass(frozen=True)
class Line:
    """One line of the checklist: what must hold, and what is wrong with it ('' when it holds). `note`: why it can't be
    said."""

    what: str
    problem: str = ""
    note: str = ""

    def __str__(self):
        if self.problem:
            return f"✗ {self.what}: {self.problem}"
        return f"– {self.what}: {self.note}" if self.note else f"✓ {self.what}"


def check_study(folder: Folder, products: Iterable[Product], activations: Iterable[str] | None = None) -> list[Line]:
    """Every line of the checklist for `activations`, by default those of which there are results or trained models.

    Raises:
        StorageError: a folder can't be read.
    """
    names = study_order(_in(folder) if activations is None else activations)
    if not names:
        return [Line(str(folder.results), note="nothing to check")]
    studied, unreadable = {}, []
    for name in names:
        try:
            studied[name] = Measured(name, storage.read_results(storage.results_path(folder.results, name)))
            studied[name].pairs  # noqa: B018 — names the file whose pairs can't be understood
        except (storage.StorageError, UserError) as error:
            studied.pop(name, None)
            unreadable.append(str(error))
    study, mixture = None, ""
    try:
        study = Study({name: m.results for name, m in studied.items()}) if studied else None
    except UserError as error:
        mixture = str(error)
    lines = [
        ("results of every activation present and readable", unreadable),
        ("every activation trained with all its trials", _missing_trials(names, studied)),
        ("all results of one config, corpus and set of positions", [mixture] if mixture else []),
        ("tables, figures and report present, and made of these results", _products(folder, products)),
        ("every metric a finite number", _undefined(studied)),
        ("training curves fall, and end near their lowest point", _odd_curves(studied)),
        ("statistical tests performed for every pair of activations", _untested(study)),
        ("audits passed", _failed_audits(studied)),
    ]
    made = [Line(title, _listed(problems)) for title, problems in lines]
    return [*made[:4], _checkpoints(studied, folder.checkpoints), *made[4:]]


def _in(folder: Folder) -> set[str]:
    """Activations of which there are results or trained models."""
    trained = {path.name for path in storage.listed(folder.checkpoints) if storage.listed(path, "trial_*.pt")}
    measured = {path.name.removesuffix("_results.json") for path in results_files(folder.results)}
    return set(map(storage.activation_name, trained | measured))


def _listed(problems: Iterable[str], most: int = 4) -> str:
    problems = list(problems)
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _missing_trials(names: list[str], studied: dict[str, Measured]) -> list[str]:
    most = max((len(m.planned) for m in studied.values()), default=0)
    missing = [f"{name}: not trained, or its results are not readable" for name in names if name not in studied]
    for name, m in studied.items():
        # its own number: more trials of one activation don't make another incomplete; where none is recorded, the most
        trials = int(number(m.record("config").get("trials_per_activation")) or most)
        if absent := [str(k) for k in range(1, trials + 1) if k not in m.planned]:
            missing.append(f"{name}: trial {', '.join(absent)} of {trials} is missing")
    return missing


def _checkpoints(studied: dict[str, Measured], folder: Path) -> Line:
    title, trials, missing, problems = "checkpoints present and matching their checksums", 0, [], []
    for name, m in studied.items():
        trials += len(m.planned)
        for trial, record in m.planned.items():
            path = storage.checkpoint_path(folder, name, trial)
            expected = (record.value("checkpoint") or {}).get("sha256")
            if not path.is_file():
                missing.append(f"{path} is missing")
            elif not expected:
                problems.append(f"{path}: its checksum was not recorded")
            elif storage.sha256_file(path) != expected:
                problems.append(f"{path} is not the file that the results were measured on")
    if trials and len(missing) == trials:
        return Line(title, note=f"not shipped: {counted(trials, 'checkpoint')}")
    return Line(title, _listed(missing + problems))


def _products(folder: Folder, products: Iterable[Product]) -> Iterator[str]:
    """What is missing, or was made of something else. The times of files don't count: texts are made again, and a
    figure names what it was drawn from."""
    for product in products:
        if not product.there(folder):
            continue
        try:
            made = product.make(folder)
        except (UserError, storage.StorageError) as error:
            yield str(error)
            return  # the others would say the same
        for path, expected in made.items():
            if not path.is_file():
                yield f"{path} missing"
            elif not is_of(path, expected):
                yield f"{path} not made of these results"


def _undefined(studied: dict[str, Measured]) -> Iterable[str]:
    averages = "avg_train_loss avg_val_loss avg_train_accuracy avg_val_accuracy avg_relative_pd avg_training_time"
    of_trial = "train_loss val_loss train_accuracy val_accuracy training_time".split()
    of_pair = "relative_pd prediction_differences total_predictions".split()
    for name, m in studied.items():
        for trial, record in m.failed.items():
            yield f"{name} trial {trial} has no finite validation loss ({record.status})"
        for trial, record in m.trials.items():
            lacking = [key for key in of_trial if record.value(key) is None]
            lacking += [k for k in of_trial if None in map(number, record.value(f"{k}_history") or ())]
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
            curve = [x for x in map(number, record.val_loss_history) if x is not None]
            if trial not in m.trials:
                at = record.diverged_at_step
                yield f"{name} trial {trial} diverged" + (f" at step {at:g}" if at is not None else "")
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


def _untested(study: Study | None) -> list[str]:
    if study is None or not study.tests:
        return ["there are no two activations to compare"]
    pairs = [f"{t.a} and {t.b}" for t in study.tests if not (t.tested("PD") and t.tested("Loss"))]
    return [f"no test for {_listed(pairs)}"] if pairs else []
