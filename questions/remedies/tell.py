"""What brings trials together, and what it costs: the arms of a study compared, from `results/remedies.json`.

An arm is the study's own trials treated in another way (means of several trials' predictions, means of weights along
training), or another study that differs in nothing but a remedy. Its units are trials, or groups of them. Each arm is
compared with the study as it is: the same units, seed by seed, with intervals and without verdicts. No torch.

`analyze_results.py --remedies` writes the file (questions/remedies/measure.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import significance
import storage
from analysis import products, template
from analysis.markdown import DASH, effect, fixed, grouped, labels, safe, undressed
from analysis.products import Folder, Section
from config import Config, UserError

SCHEMA = "remedies/1"
REMEDIES_FILE, TABLE_FILE = "remedies.json", "remedies.csv"  # in the folder of the results
FIGURE_FILE = "remedies.png"  # in that of the figures
NONE = "none"  # the arm the others are compared with: the study as it is
SIZES = (2, 3)  # trials in an ensemble
# settings in which a study may differ from another one to be an arm of it
ARM_SETTINGS = ("remedy", "strength", "teacher", "averages", "min_lr", "cooldown")


def entries(folder: Folder) -> dict[str, dict]:
    """{activation: its arms}, or the reason why there are none.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder.results / REMEDIES_FILE
    entries = products.fitting(products.load(path, SCHEMA)["activations"], folder.study.all_results)
    try:
        records(entries)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise storage.StorageError(f"{path}: damaged ({error}); run analyze_results.py --remedies again") from None
    return entries


# -- which arms there are -----------------------------------------------------------------------------------------


def groups(trials: Sequence[int], k: int) -> list[list[int]]:
    """Disjoint groups of k trials, in their order; those left over are in none."""
    return [list(trials[i : i + k]) for i in range(0, len(trials) - k + 1, k)]


def arm_of(base: Mapping, other: Mapping) -> str:
    """What the results `other` are, compared with those of the same activation in the base study: the name of an arm,
    or '' where they differ in anything else, or in nothing."""
    places = [(results.get("evaluation") or {}).get("sha256") for results in (base, other)]
    if None in places or places[0] != places[1] or not (base.get("config") and other.get("config")):
        return ""
    try:
        ours, theirs = (Config.from_dict(results["config"]) for results in (base, other))
    except UserError:
        return ""
    changed = {name: new for name, (new, _) in theirs.differences(ours).items()}
    if set(changed) - set(ARM_SETTINGS) or not set(changed) - {"averages"}:
        return ""
    parts = []
    if set(changed) & {"remedy", "strength", "teacher"}:
        parts.append(theirs.remedy + (f" {theirs.strength:g}" if theirs.strength < 1 else ""))
        if len(theirs.teacher) > 1:
            parts[-1] += f" from {len(theirs.teacher)}"
    parts += [f"{name} {changed[name]:g}" for name in ("min_lr", "cooldown") if name in changed]
    return ", ".join(parts)


# -- the tests ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """An arm against the study as it is."""

    name: str
    arm: Mapping
    pd: significance.Comparison
    loss: significance.Comparison


def grouped_pd(pd, rows: Sequence[int], units: Sequence[Sequence[int]]) -> np.ndarray:
    """The mean PD between the trials of each two units: (U, U), of the matrix `pd` whose rows are the trials `rows`."""
    pd, at = np.asarray(pd, float), {k: i for i, k in enumerate(rows)}
    places = [[at[k] for k in unit] for unit in units]
    means = np.array([[pd[np.ix_(one, other)].mean() for other in places] for one in places])
    np.fill_diagonal(means, 0)
    return means


def compare(none: Mapping, arm: Mapping) -> tuple[significance.Comparison, significance.Comparison]:
    """PD and loss of an arm against the study as it is, unit by unit where the seeds are shared: the jackknife is over
    units on both sides, so that an ensemble is weighed against the very trials that it is made of."""
    rows = [k for unit in none["units"] for k in unit]
    pd, losses, places = np.asarray(arm["pd"], float), np.asarray(arm["losses"], float), range(len(arm["units"]))
    theirs, own, shared = none["pd"], none["losses"], [i for i in places if set(arm["units"][i]) <= set(rows)]
    paired = arm["paired"] and len(shared) > 1
    if paired:
        pd, losses, units = pd[np.ix_(shared, shared)], losses[shared], [arm["units"][i] for i in shared]
        by_trial = dict(zip(rows, own, strict=True))
        theirs, own = grouped_pd(theirs, rows, units), [float(np.mean([by_trial[k] for k in unit])) for unit in units]
    return significance.compare_pd(pd, theirs, paired=paired), significance.compare_loss(losses, own, paired=paired)


def compared(entry: Mapping) -> list[Compared]:
    """Every arm of an activation against none."""
    none, *arms = entry["arms"]
    return [Compared(arm["arm"], arm, *compare(none, arm)) for arm in arms]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Those of some (loss, PD) that no other beats in one without losing in the other, by rising loss."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    lowest = np.minimum.accumulate([math.inf, *(points[i][1] for i in order)])
    return [i for i, below in zip(order, lowest[:-1], strict=True) if points[i][1] < below]


def mean_pd(arm: Mapping) -> float | None:
    pd = np.asarray(arm["pd"], float)
    return float(pd[np.triu_indices(len(pd), 1)].mean()) if len(pd) > 1 else None


def mean_loss(arm: Mapping) -> float:
    return float(np.mean(arm["losses"]))


def whole_time(arm: Mapping, none: Mapping) -> float | None:
    """Seconds of training that a unit takes, those of the earlier models that it learns from or starts from among them,
    each counted as a trial of the study."""
    if arm["time"] is None or none["time"] is None:
        return None
    return arm["time"] + arm.get("teachers", 0) * none["time"]


def with_remedies(entries: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The activations that have an arm beside none."""
    return {name: entry for name, entry in entries.items() if len(entry.get("arms", ())) > 1}


# -- in words -----------------------------------------------------------------------------------------------------

HEADER = "Remedy|Units|PD|Change [95 %]|Loss|Change [95 %]|Training time|Parameters".split("|")


def rows(entry: Mapping) -> list[list[str]]:
    """The table of an activation."""
    none, changes = entry["arms"][0], [None, *compared(entry)]
    cells = []
    for arm, change in zip(entry["arms"], changes, strict=True):
        values = [safe(arm["arm"]), str(len(arm["units"])), fixed(mean_pd(arm)), effect(change and change.pd)]
        values += [fixed(mean_loss(arm)), effect(change and change.loss)]
        if arm is none:
            values += [f"{fixed(none['time'], 1)} s", f"{none['parameters']:,}"]
        else:
            ours = whole_time(arm, none), arm["parameters"]
            values += [_times(x, none[of]) for x, of in zip(ours, ("time", "parameters"), strict=True)]
        cells.append(values)
    return cells


def _times(ours: float | None, theirs: float | None) -> str:
    return f"× {ours / theirs:.2f}" if ours and theirs else DASH


def lines(entries: Mapping[str, dict], figure: str = "") -> list[str]:
    """The report's lines; [] where no activation has an arm beside none. `figure`: a link to it."""
    remedied = with_remedies(entries)
    if not remedied:
        return []
    arms = [arm for entry in remedied.values() for arm in entry["arms"]]
    tests = [(c.name, (name, c.pd)) for name, entry in remedied.items() for c in compared(entry)]
    by_arm = grouped(test for test in tests if test[1][1].effect is not None)
    return template.lines(
        "remedies.md",
        header=HEADER,
        tables={name: rows(entry) for name, entry in remedied.items()},
        # against what independence would give
        ensembles={k: by_arm[f"ensemble of {k}"] for k in SIZES if f"ensemble of {k}" in by_arm},
        seconds=max(arm.get("seconds") or 0 for arm in arms),
        teachers=max(arm.get("teachers", 0) for arm in arms),
        lacking=lacking(entries),
        figure=figure,
        fronts={name: _front_arms(entry["arms"]) for name, entry in remedied.items()},
    )


def _front_arms(arms: Sequence[Mapping]) -> list[str]:
    return [safe(arms[i]["arm"]) for i in front([(mean_loss(arm), mean_pd(arm)) for arm in arms])]


def lacking(entries: Mapping[str, dict]) -> list[str]:
    notes = {name: [e["reason"]] if "reason" in e else e.get("notes", []) for name, e in entries.items()}
    reasons = grouped((text, name) for name, texts in notes.items() for text in texts)
    return [f"{labels(names)}: {safe(text)}." for text, names in reasons.items()]


def overview(folder: Folder) -> str:
    """The section for a terminal."""
    return undressed("\n".join(lines(entries(folder))))


def records(entries: Mapping[str, dict]) -> list[dict]:
    """One row per activation and arm, for the CSV."""
    rows = []
    for name, entry in entries.items():
        tests = {c.name: c for c in compared(entry)} if "arms" in entry else {}
        for arm in entry.get("arms", ()):
            c = tests.get(arm["arm"])
            row = {
                "Activation": name,
                "Remedy": arm["arm"],
                "Study": arm["study"],
                "Units": len(arm["units"]),
                "Avg_Relative_PD": mean_pd(arm),
                "Avg_Val_Loss": mean_loss(arm),
                "Training_Time_Sec": arm["time"],
                "Parameters": arm["parameters"],
                "Teachers": arm.get("teachers", 0),
            }
            for q, test in (("PD_Ratio", c and c.pd), ("Loss_Difference", c and c.loss)):
                row |= {q: test and test.effect, f"{q}_Low": test and test.low, f"{q}_High": test and test.high}
            rows.append(row | {"Independent": arm["size"] ** -0.5 if arm["size"] > 1 else None})
    return rows


def section(folder: Folder) -> Section | None:
    """What the report tells."""
    images = folder.drawn(FIGURE_FILE)
    text = lines(entries(folder), next(iter(images), ""))
    return Section(text, images) if text else None
