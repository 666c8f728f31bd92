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
from analysis import products
from analysis.markdown import DASH, address, effect, fixed, label, labels, listed, safe, table, undressed
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
    found = products.fitting(products.load(path, SCHEMA)["activations"], folder.study.all_results)
    try:
        records(found)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise storage.StorageError(f"{path}: damaged ({error}); run analyze_results.py --remedies again") from None
    return found


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
    found = np.zeros((len(units), len(units)))
    for g, one in enumerate(units):
        for h, other in enumerate(units):
            if g != h:
                found[g, h] = pd[np.ix_([at[k] for k in one], [at[k] for k in other])].mean()
    return found


def compare(none: Mapping, arm: Mapping) -> tuple[significance.Comparison, significance.Comparison]:
    """PD and loss of an arm against the study as it is, unit by unit where the seeds are shared: the jackknife is over
    units on both sides, so that an ensemble is weighed against the very trials that it is made of."""
    rows = [k for unit in none["units"] for k in unit]
    units = [unit for unit in arm["units"] if set(unit) <= set(rows)] if arm["paired"] else arm["units"]
    kept = [i for i, unit in enumerate(arm["units"]) if unit in units]
    pd, losses = np.asarray(arm["pd"], float)[np.ix_(kept, kept)], np.asarray(arm["losses"], float)[kept]
    if not arm["paired"] or len(units) < 2:
        return (
            significance.compare_pd(arm["pd"], none["pd"], paired=False),
            significance.compare_loss(arm["losses"], none["losses"], paired=False),
        )
    by_trial = dict(zip(rows, none["losses"], strict=True))
    own = [float(np.mean([by_trial[k] for k in unit])) for unit in units]
    return (
        significance.compare_pd(pd, grouped_pd(none["pd"], rows, units)),
        significance.compare_loss(losses, own),
    )


def compared(entry: Mapping) -> list[Compared]:
    """Every arm of an activation against none."""
    none, *arms = entry["arms"]
    return [Compared(arm["arm"], arm, *compare(none, arm)) for arm in arms]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Those of some (loss, PD) that no other beats in one without losing in the other, by rising loss."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    kept, best = [], math.inf
    for i in order:
        if points[i][1] < best:
            kept.append(i)
            best = points[i][1]
    return kept


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


# -- in words -----------------------------------------------------------------------------------------------------

HEADER = "Remedy|Units|PD|Change [95 %]|Loss|Change [95 %]|Training time|Parameters".split("|")


def rows(entry: Mapping) -> list[list[str]]:
    """The table of an activation."""
    none = entry["arms"][0]
    found = [[NONE, str(len(none["units"])), fixed(mean_pd(none)), DASH, fixed(mean_loss(none)), DASH]]
    found[0] += [f"{fixed(none['time'], 1)} s", f"{none['parameters']:,}"]
    for c in compared(entry):
        cells = [safe(c.name), str(len(c.arm["units"])), fixed(mean_pd(c.arm)), effect(c.pd)]
        cells += [fixed(mean_loss(c.arm)), effect(c.loss)]
        cells += [_times(whole_time(c.arm, none), none["time"]), _times(c.arm["parameters"], none["parameters"])]
        found.append(cells)
    return found


def _times(ours: float | None, theirs: float | None) -> str:
    return f"× {ours / theirs:.2f}" if ours and theirs else DASH


def lines(entries: Mapping[str, dict]) -> list[str]:
    """The report's lines; [] where no activation has an arm beside none."""
    told = {name: e for name, e in entries.items() if len(e.get("arms", [])) > 1}
    if not told:
        return []
    text = [
        "### What buys how much",
        "",
        "What brings the trials of an activation together, against the study as it is (none). Units are the models "
        "compared: trials, or disjoint ensembles of them, whose mean predictions are taken; of the same seed with one "
        "another where seeds are shared. Changes of PD in percent, of loss in nats per token. This is a description, "
        "and no tests of the report: each interval is by itself, and of twenty remedies that do nothing one is "
        "expected to seem to do something. Training time is that of a unit: of all its trials, and of the earlier "
        "models that it learns from or starts from.",
    ]
    for name, entry in told.items():
        text += ["", f"**{label(name)}**", *table(HEADER, rows(entry))]
    return [*text, *(f"- {line}" for line in (*_ensembles(told), *_costs(told), *lacking(entries)))]


def _ensembles(told: Mapping) -> list[str]:
    """Against what independence would give."""
    lines = []
    for k in SIZES:
        parts = []
        for name, entry in told.items():
            for c in compared(entry):
                if c.name == f"ensemble of {k}" and c.pd.effect is not None:
                    limits = f" [{fixed(c.pd.low, 3)}, {fixed(c.pd.high, 3)}]" if c.pd.low is not None else ""
                    parts.append(f"{label(name)} {fixed(c.pd.effect, 3)}{limits}")
        if parts:
            lines.append(
                f"**Ensembles of {k}**: PD as a part of that of single trials: {'; '.join(parts)}; "
                f"1/√{k} = {fixed(k**-0.5, 3)} would be that of independent, equally spread deviations."
            )
    return lines


def _costs(told: Mapping) -> list[str]:
    arms = [arm for entry in told.values() for arm in entry["arms"]]
    lines = []
    if seconds := [arm["seconds"] for arm in arms if arm.get("seconds")]:
        most = fixed(max(seconds), 2)
        lines.append(f"**Means of weights** took up to {most} s of a trial's training, all of them together.")
    if teachers := max(arm.get("teachers", 0) for arm in arms):
        lines.append(
            f"**Earlier models**, up to {teachers}, from which a remedy learns or starts, count as a trial of the "
            "study each; trained once, they serve all trials."
        )
    return lines


def lacking(entries: Mapping[str, dict]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, entry in entries.items():
        for text in [entry["reason"]] if "reason" in entry else entry.get("notes", []):
            reasons.setdefault(text, []).append(name)
    return [f"{labels(names)}: {safe(text)}." for text, names in reasons.items()]


def overview(folder: Folder) -> str:
    """The section for a terminal."""
    return undressed("\n".join(lines(entries(folder)))).replace("### ", "")


def records(entries: Mapping[str, dict]) -> list[dict]:
    """One row per activation and arm, for the CSV."""
    found = []
    for name, entry in entries.items():
        if "arms" not in entry:
            continue
        tests = {c.name: c for c in compared(entry)}
        for arm in entry["arms"]:
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
            found.append(row | {"Independent": arm["size"] ** -0.5 if arm["size"] > 1 else None})
    return found


def section(folder: Folder) -> Section | None:
    """What the report tells."""
    measured = entries(folder)
    text, images = lines(measured), {}
    if not text:
        return None
    if (folder.plots / FIGURE_FILE).is_file():
        link = address(folder.plots / FIGURE_FILE, folder.results)
        images = {link: folder.plots / FIGURE_FILE}
        text += ["", f"![{_in_words(measured)}]({link})"]
    return Section(text, images)


def _in_words(entries: Mapping) -> str:
    parts = []
    for name, entry in entries.items():
        if len(entry.get("arms", [])) > 1:
            arms = [(mean_loss(a), mean_pd(a)) for a in entry["arms"]]
            best = [entry["arms"][i]["arm"] for i in front(arms)]
            parts.append(f"{label(name)}: {listed(map(safe, best))}")
    return f"PD against loss of each remedy; on the front: {'; '.join(parts)}"
