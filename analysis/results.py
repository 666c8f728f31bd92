"""One activation's results as the analysis reads them: which trials count, and the pairs among them.

Results come from `{activation}_results.json`, ours or another tool's; beyond the documented keys everything may be
missing. Trials that diverged never enter a number here. No torch, no pandas.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import activations
import significance
import storage
from analysis.question import asked_of, study_order
from analysis.records import Branch, Pair, Trial
from config import Config, UserError
from measures.table import Metric
from models import own_code
from storage import number

# -- reading ----------------------------------------------------------------------------------------------------------


def load_all_results(results_dir: str | os.PathLike = "results") -> dict[str, dict]:
    """{activation: results} of every `*_results.json` in a folder, in the order of the study; {} when there is none.

    Hidden files are ignored. Files that are no results, copies beside the original, and optional keys that
    results.schema.json doesn't allow are left out, with a line on standard error for each.

    Raises:
        UserError: no such folder; two files for one activation; files of different settings, corpora or evaluation
            positions, whose numbers can't be compared (the message names what differs).
        storage.StorageError: a file is damaged, or a documented key is missing or of another type.
    """
    folder = Path(results_dir)
    if not storage.listed(folder) and not folder.is_dir():
        raise UserError(f"results_dir={str(folder)!r}: no such folder; train first (python train.py) or name another")
    loaded, origin = {}, {}
    for path in results_files(folder):
        results = storage.read_results(path)
        name = results["activation"]
        for entry in results.get("left_out", ()):
            _say(f"{path}: left out: {entry}")
        if results.get("fingerprint") and path != storage.results_path(folder, name):
            raise UserError(f"{path}: holds the results of {name}; rename it to {name}_results.json or move it away")
        if name in loaded:
            raise UserError(f"{path}: {origin[name]} holds results of {name} too; move one of them away")
        loaded[name], origin[name] = results, path
    questions = {"questions": asked} if (asked := asked_of(folder)) else {}
    loaded = {name: {**loaded[name], **questions} for name in study_order(loaded)}
    refuse_mixture(loaded)
    return loaded


DOCUMENTED = {"activation", "trials", "reproducibility_metrics"}  # keys by which a results file is known


def results_files(results_dir: str | os.PathLike) -> list[Path]:
    """The results files of a folder, by name. A file that is none is left out, with a line on standard error: valid
    JSON without any documented key and not in an activation's place, or a copy (`Copy of relu_results.json`) beside
    the original. What is damaged is not left out."""
    paths = []
    for path in storage.listed(results_dir, "*_results.json"):
        contents = None
        with contextlib.suppress(storage.StorageError):
            contents = storage.read_json(path)
        named = storage.activation_name(path.name.removesuffix("_results.json"))
        if contents is None or _is_activation(named):
            paths.append(path)
            continue
        documented = isinstance(contents, dict) and DOCUMENTED & set(contents)
        original = (
            documented and isinstance(contents.get("activation"), str) and contents["activation"] + "_results.json"
        )
        if not documented:
            _say(f"{path}: left out: it is no results file")
        elif original and original in path.name and original != path.name and path.with_name(original).exists():
            _say(f"{path}: left out: a copy of {original}, by its name")
        else:
            paths.append(path)
    return paths


def _is_activation(name: str) -> bool:
    if ":" in name:  # one's own, by its import path; nothing is imported
        return True
    try:
        return bool(activations.get_info(name))
    except UserError:
        return False


@functools.cache
def _say(text: str) -> None:
    """Tell the user, once."""
    print(text, file=sys.stderr)


def refuse_mixture(all_results: Mapping[str, dict]) -> None:
    """Raise a UserError unless all files that record their settings record the same ones.

    A file of another tool records none; it is let through, and the report says so.
    """
    recorded = {name: results for name, results in all_results.items() if results.get("fingerprint")}
    if not recorded:
        return
    first, mine = next(iter(recorded.items()))
    for name, theirs in recorded.items():
        facts = _differences(mine, theirs)
        if facts:
            raise UserError(
                f"{first} and {name} can't be compared: they differ in {'; '.join(facts)}. Move one of them to another "
                "folder, or train it again with the settings of the other"
            )


def _differences(a: dict, b: dict) -> list[str]:
    facts = []
    if a["fingerprint"] != b["fingerprint"]:
        theirs, mine = b.get("config") or {}, a.get("config") or {}
        covered = [f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"]]
        changed = [f"{k} ({mine.get(k)} and {theirs.get(k)})" for k in covered if mine.get(k) != theirs.get(k)]
        facts.append(", ".join(changed) or "the fingerprint of their settings")
    # the model's only: to a module of activations one more is added as the study goes on
    one, other = ({"model": (results.get("own_code") or {}).get("model") or {}} for results in (a, b))
    facts += [f"the code of the model, {module}" for _, module, _, _ in own_code.differences(one, other)]
    for key, words in (("dataset", "the corpus"), ("evaluation", "the positions evaluated")):
        one, other = ((results.get(key) or {}).get("sha256") for results in (a, b))
        if one and other and one != other:
            facts.append(words)
    return facts


def _numbers(values: Iterable) -> list[float]:
    return [x for x in map(number, values) if x is not None]


def mean(values: Iterable) -> float | None:
    """The mean of those values that are numbers; None when none is."""
    numbers = _numbers(values)
    return float(np.mean(numbers)) if numbers else None


def std(values: Iterable) -> float | None:
    """The sample standard deviation (n - 1); None for fewer than two values."""
    numbers = _numbers(values)
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None


def median(values: Iterable) -> float | None:
    numbers = _numbers(values)
    return float(np.median(numbers)) if numbers else None


def exponentials(logs: Iterable[float | None]) -> tuple[float | None, ...]:
    """What logarithms stand for; None stays None."""
    return tuple(None if x is None else math.exp(x) for x in logs)


@dataclass(frozen=True)
class Measured:
    """One activation's results as the analysis reads them: the trials that finished, and the pairs among them."""

    name: str
    results: dict
    without: int | None = None  # a trial to leave out, for leave-one-out
    shares: tuple[str, ...] = ()  # other activations that have a training in common with it

    @cached_property
    def planned(self) -> dict[int, Trial]:
        """{number: trial} of every trial, diverged ones too."""
        trials = (Trial.of(record, place) for place, record in enumerate(self.results["trials"], 1))
        return {trial.number: trial for trial in trials if trial.number != self.without}

    @cached_property
    def trials(self) -> dict[int, Trial]:
        """The trials that finished with a finite validation loss: only these enter an average."""
        return {k: trial for k, trial in self.planned.items() if trial.finished}

    @property
    def failed(self) -> dict[int, Trial]:
        return {k: trial for k, trial in self.planned.items() if not trial.finished}

    @cached_property
    def pairs(self) -> dict[tuple[int, int], Pair]:
        """{(i, j): pair} with i < j, both finished and the PD a number."""
        pairs = (Pair.of(record, self.name) for record in self.results["reproducibility_metrics"])
        return {(p.i, p.j): p for p in pairs if {p.i, p.j} <= set(self.trials) and p.relative_pd is not None}

    @cached_property
    def branches(self) -> list[Branch]:
        """Those of a trunk, the shortest first."""
        return [Branch.of(record, self.name) for record in self.results.get("frontier") or []]

    @cached_property
    def pd_ids(self) -> list[int]:
        """The trials that have a PD with every other one here: the rows of the PD matrix. Fewer than two: none."""
        return complete(self.trials, self.pairs)

    def losses(self, ids: Iterable[int] | None = None) -> np.ndarray:
        return np.array([self.trials[k].val_loss for k in (self.trials if ids is None else ids)], dtype=float)

    def pd(self, ids: Iterable[int] | None = None) -> np.ndarray:
        """The symmetric matrix of relative PD among `ids` (default: all that have one); its diagonal is 0."""
        values = {ids: pair.relative_pd for ids, pair in self.pairs.items()}
        return matrix(values, self.pd_ids if ids is None else ids)

    @cached_property
    def pd_interval(self) -> tuple[float | None, float | None, float | None]:
        """Mean relative PD and its 95 % interval over trials; None for what too few trials leave undefined."""
        if len(self.pd_ids) < 2:
            return None, None, None
        return significance.mean_pd_interval(self.pd())

    def trial_values(self, key: str) -> list:
        return [trial.value(key) for trial in self.trials.values()]

    def pair_values(self, key: str) -> list:
        return [self.pairs[i, j].value(key) for i, j in self.pairs if {i, j} <= set(self.pd_ids)]

    def values(self, metric: Metric) -> list:
        """A metric of every trial or every pair; of the activation as a whole, one value."""
        if metric.of == "activation":
            return [self.results.get(metric.key)]
        return self.trial_values(metric.key) if metric.of == "trial" else self.pair_values(metric.key)

    def average(self, metric: Metric) -> float | None:
        """What summary.csv shows of a metric: its mean, or its median where the column says so."""
        return (median if metric.column.startswith("Median") else mean)(self.values(metric))

    def record(self, key: str) -> dict:
        """A further part of the results, such as "evaluation" or "config"; {} where it was not recorded."""
        value = self.results.get(key)
        return value if isinstance(value, dict) else {}

    @cached_property
    def not_distinct(self) -> dict[str, str]:
        """{check: what it finds} where two trials are one and the same training, whatever the audit on record says: two
        of this activation, unless nothing was to vary between them, or one of this and one of another activation."""
        copies, marks = {}, {}
        for k, trial in self.planned.items():
            if trial.mark:
                marks.setdefault(trial.mark, []).append(str(k))
        same = [f"trials {' and '.join(ids)} are one training" for ids in marks.values() if len(ids) > 1]
        if same and self.record("config").get("vary") != ["none"]:
            copies["distinct"] = "; ".join(same)
        if self.shares:
            copies["distinct activations"] = f"it has a training in common with {', '.join(self.shares)}"
        return copies

    @property
    def audit(self) -> str:
        """'passed', 'failed (its failed checks)' or 'not recorded'."""
        audit = self.record("audit")
        failed = [str(c["name"]) for c in audit.get("checks", []) if c.get("status") == "fail"]
        failed += [name for name in self.not_distinct if name not in failed]
        if self.not_distinct or not audit.get("passed", True):
            return f"failed ({', '.join(failed)})"
        return "passed" if "passed" in audit else "not recorded"

    @property
    def unfit(self) -> str:
        """Why the results can't enter rankings and tests; '' when they can."""
        if self.audit.startswith("failed"):
            return f"its audit {self.audit}"
        if not self.trials:
            return "no trial finished" if self.failed else "it has no trials"
        return ""


def complete(ids: Iterable[int], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The most of `ids` among which every pair is present, found by dropping the id that lacks the most."""
    complete_ids, pairs = sorted(ids), set(pairs)

    def lacking(i):
        return sum((min(i, j), max(i, j)) not in pairs for j in complete_ids if j != i)

    while complete_ids and max(map(lacking, complete_ids)) > 0:
        complete_ids.remove(max(complete_ids, key=lambda i: (lacking(i), i)))
    return complete_ids if len(complete_ids) > 1 else []


def matrix(values: Mapping[tuple[int, int], float], ids: Iterable[int]) -> np.ndarray:
    """{(i, j): value} with i < j as a symmetric matrix whose rows are `ids`; the diagonal is 0."""
    ids = list(ids)
    result = np.zeros((len(ids), len(ids)))
    for a, i in enumerate(ids):
        for b, j in enumerate(ids):
            if i != j:
                result[a, b] = values[min(i, j), max(i, j)]
    return result


def measure(all_results: Mapping[str, dict], without: int | None = None) -> dict[str, Measured]:
    """Every activation as `Measured`, in the order of the study; `without`: a trial to leave out of all.

    Raises:
        UserError: it is something else, there are no results, or they are of different settings.
    """
    shape = "{activation: results}, as load_all_results gives"
    if not isinstance(all_results, Mapping):
        raise UserError(f"all_results is a {type(all_results).__name__}; it must be {shape}")
    if "trials" in all_results:
        raise UserError(f"all_results has the results of {all_results.get('activation')} alone; it must be {shape}")
    if not all_results:
        raise UserError("no results to analyse; train first (python train.py) or name another folder (--results-dir)")
    refuse_mixture(all_results)
    measured = {name: Measured(name, all_results[name], without) for name in study_order(all_results)}
    marks = {name: {trial.mark for trial in m.planned.values()} - {None} for name, m in measured.items()}
    shares = {a: tuple(b for b in marks if b != a and marks[a] & marks[b]) for a in marks}
    return {name: dataclasses.replace(m, shares=shares[name]) if shares[name] else m for name, m in measured.items()}


def seeds_shared(a: Measured, b: Measured) -> bool:
    """Whether trial k of both was planned with the same seed: the design, not the data, decides on pairing."""
    common = set(a.planned) & set(b.planned)
    return bool(common) and all(
        a.planned[k].seed is not None and a.planned[k].seed == b.planned[k].seed for k in common
    )
