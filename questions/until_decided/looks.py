"""The looks of a study that is trained until it is decided: each activation's mean PD against the baseline's.

    record = load(results_dir)                   what looks.json holds, or None
    take(all_results, plan, (3, 5))              the looks at 3 and 5 trials, from results of at least 5
    derive_looks(all_results, record)            what in the record the results contradict
    looks_section(record)                        the report's lines

A look at n trials reads the first n trials of each activation and no others, so that it can be taken again from the
results of any larger number. Nothing here trains or writes; the procedure is analysis.sequential's.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import activations
import significance
import storage
from analysis import sequential, template
from analysis.markdown import fixed, label, limits, listed, safe, tabled
from analysis.products import Folder, Section
from analysis.question import REFERENCE
from analysis.results import Measured, seeds_shared
from analysis.study import Study
from cli import duration
from config import UserError

SCHEMA_VERSION = 1
TOLERANCE = 1e-6  # relative; where the results were made the difference is 0
KINDS = ("lower", "higher", "equal", "open")
NUMBERS = ("ratio", "low", "high", "p", "level", "p_adjusted", "p_equal")  # of a comparison at a look; or None

ENDED = {
    "decided": "every comparison is decided",
    "last look": "the last look is taken",
    "budget": "the time ended before all was decided",
}


# -- the looks --------------------------------------------------------------------------------------------------------


def family(all_results: Mapping[str, dict], plan: Mapping, trials: int) -> dict[str, significance.Comparison]:
    """{activation: its mean PD against the baseline's} from the first `trials` trials of each, moderated as in a
    report.

    Raises:
        ValueError: the results of an activation lack one of these trials.
    """
    measured = {name: _first(name, all_results[name], trials) for name in plan["activations"]}
    baseline = baseline_of(plan)
    own = {name: _compare(m, measured[baseline]) for name, m in measured.items() if name != baseline}
    variance = significance.family_variance(own.values())
    return {name: significance.moderate(comparison, variance) for name, comparison in own.items()}


def baseline_of(plan: Mapping) -> str:
    """Plans that name none are of ReLU."""
    return plan.get("baseline", REFERENCE)


def _first(name: str, results: dict, trials: int) -> Measured:
    planned = Measured(name, results).planned
    if not set(range(1, trials + 1)) <= planned.keys():
        raise ValueError(f"the results of {name} lack some of its first {trials} trials")
    return Measured(name, {**results, "trials": [planned[k].record for k in range(1, trials + 1)]})


def _compare(a: Measured, b: Measured) -> significance.Comparison:
    paired = seeds_shared(a, b)
    ids = [[k for k in m.pd_ids if not paired or k in other.pd_ids] for m, other in ((a, b), (b, a))]
    if a.unfit or b.unfit or min(map(len, ids)) < 2:
        note = a.unfit or b.unfit or "too few trials have a PD"
        return significance.Comparison("pd", "none", tuple(map(len, ids)), note=note)
    return significance.compare_pd(a.pd(ids[0]), b.pd(ids[1]), paired=paired)


def take(all_results: Mapping[str, dict], plan: Mapping, trials: Sequence[int]) -> list[dict]:
    """The looks at these numbers of trials, the plan's first ones in order: what each finds of every comparison.

    plan: {"activations", "baseline", "margin" (a fraction of PD), "looks", "alpha"}. Returns for each look {"trials",
    "comparisons": {activation: {"ratio", "low", "high", "p", "level", "p_adjusted", "p_equal", "decision",
    "decided_at"}}}: the ratio to the baseline's mean PD with its repeated confidence interval, p and the look's level
    for a single comparison, and, as of when it was decided, p of a difference and of one as large as the margin, both
    adjusted for the looks and the family. What is undefined is None.

    Raises:
        ValueError: results lack a trial, or these are not the plan's looks.
    """
    looks, decided, taken = tuple(plan["looks"]), None, []
    if tuple(trials) != looks[: len(trials)]:
        raise ValueError(f"looks at {list(trials)} trials; planned are {list(looks)}")
    levels = sequential.sequential_levels(looks, plan["alpha"])
    for n, level in zip(trials, levels, strict=False):
        tests = family(all_results, plan, n)
        decided = sequential.decide(tests, n, decided, looks, plan["margin"], plan["alpha"])
        comparisons = {}
        for name, comparison in tests.items():
            low, high = sequential.repeated_interval(comparison, n, looks, plan["alpha"])
            decision = decided[name]
            numbers = comparison.effect, low, high, comparison.p, level, decision.p, decision.p_equal
            comparisons[name] = dict(zip(NUMBERS, numbers, strict=True))
            comparisons[name] |= {"decision": decision.kind, "decided_at": decision.look}
        taken.append({"trials": n, "comparisons": comparisons})
    return taken


def _again(all_results: Mapping[str, dict], record: Mapping) -> list[dict]:
    """The looks on record, taken again.

    Raises:
        UserError: the results lack a trial or an activation of them.
    """
    plan = record["plan"]
    if missing := [name for name in plan["activations"] if name not in all_results]:
        raise UserError(f"there are no results of {', '.join(missing)}")
    try:
        return take(all_results, plan, [look["trials"] for look in record["looks"]])
    except ValueError as error:
        raise UserError(str(error)) from None


def undecided(look: Mapping) -> list[str]:
    return [name for name, comparison in look["comparisons"].items() if comparison["decision"] == "open"]


def look_that_decides(all_results: Mapping[str, dict], plan: Mapping, look: Mapping) -> int | None:
    """The planned look at which every comparison still open would be seen to differ by the margin with 80 % power, by
    the spread measured so far and at its level, shared by those that are open; None: not by the last, or unknown.

    Source: significance.plan_trials; the levels of analysis.sequential.
    """
    rest, needed = undecided(look), []
    tests = family(all_results, plan, look["trials"])
    levels = sequential.sequential_levels(tuple(plan["looks"]), plan["alpha"])
    later = [(n, level / len(rest)) for n, level in zip(plan["looks"], levels, strict=True) if n > look["trials"]]
    for name in rest:
        trials = ((n, significance.plan_trials(tests[name], math.log1p(-plan["margin"]), alpha=a)[0]) for n, a in later)
        needed.append(next((n for n, m in trials if m is not None and m <= n), None))
    return None if None in needed else max(needed)


# -- the record -------------------------------------------------------------------------------------------------------


def load(results_dir: str | os.PathLike) -> dict | None:
    """What `looks.json` in this folder holds; None where there is none.

    Raises:
        storage.StorageError: it can't be read, or is no record of looks.
    """
    path = storage.looks_path(results_dir)
    if not path.exists():
        return None
    record = storage.read_json(path)
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        if _sound(record):
            return record
    raise storage.StorageError(f"{path}: not a record of looks; restore it, or move it away to begin them again")


def _sound(record: dict) -> bool:
    plan, taken = record["plan"], record["looks"]
    sequential.sequential_levels(tuple(plan["looks"]), plan["alpha"])
    names, number = set(plan["activations"]) - {baseline_of(plan)}, storage.number
    return (
        record["schema_version"] == SCHEMA_VERSION
        and 0 < number(plan["margin"]) < 1
        and baseline_of(plan) in plan["activations"]
        and number(record["seconds_spent"]) >= 0
        and number(record["trained"]) >= 0
        and record["ended"] in (None, *ENDED)
        and [look["trials"] for look in taken] == plan["looks"][: len(taken)]
        and all(number(look[key]) >= 0 for look in taken for key in ("seconds", "trained"))
        and all(set(look["comparisons"]) == names for look in taken)
        and all(_sound_comparison(c, plan) for look in taken for c in look["comparisons"].values())
    )


def _sound_comparison(c: dict, plan: dict) -> bool:
    at = [None] if c["decision"] == "open" else plan["looks"]
    numbers = all(c[key] is None or storage.number(c[key]) is not None for key in NUMBERS)
    return c["decision"] in KINDS and c["decided_at"] in at and numbers


def derive_looks(all_results: Mapping[str, dict], recorded: Mapping) -> list[str]:
    """Take every recorded look again from the results; one line for each thing that they contradict."""
    try:
        again = _again(all_results, recorded)
    except UserError as error:
        return [str(error)]
    return [
        f"look at {look['trials']} trials, {name}: {key}={old[key]!r} in the file, {expected[key]!r} by the results"
        for look, derived in zip(recorded["looks"], again, strict=True)
        for name, expected in derived["comparisons"].items()
        for old in [look["comparisons"][name]]
        for key in expected
        if not _same(old[key], expected[key])
    ]


def _same(a, b) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE)
    return a == b


def with_looks(study: Study, folder: str | os.PathLike) -> Study:
    """The study with the looks on record in its folder, where they are of these results and no trials were added since.

    Raises:
        storage.StorageError: the record can't be read.
    """
    record = None if study.looks else load(folder)
    if not record or not record["looks"] or derive_looks(study.all_results, record):
        return study
    last = record["looks"][-1]["trials"]
    if any(len(study.measured[name].planned) != last for name in record["plan"]["activations"]):
        return study
    if study.question.baseline != baseline_of(record["plan"]):  # another question was asked since
        return study
    return Study(study.all_results, study.name, record, study.question)


def measure(folder: Folder) -> dict[Path, object]:
    """{looks.json: the record with every look taken again}.

    Raises:
        UserError: the results lack a trial or an activation of them.
    """
    record = load(folder.results)
    again = _again(folder.study.all_results, record)
    looks = [{**old, **new} for old, new in zip(record["looks"], again, strict=True)]
    return {storage.looks_path(folder.results): {**record, "looks": looks}}


def status(results_dir: str | os.PathLike) -> list[str]:
    """The looks of a study for --status."""
    if not (record := load(results_dir)):
        return []
    ended = ENDED.get(record["ended"], "under way, or interrupted")
    return [
        *(look_line(look, record["plan"]) for look in record["looks"]),
        f"until decided: {ended}; time spent: {duration(record['seconds_spent'])}",
    ]


# -- in words ---------------------------------------------------------------------------------------------------------


def percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def finding(comparison: Mapping, margin: float) -> str:
    """One comparison at a look: the ratio of mean PDs, its repeated interval, the decision."""
    decision = comparison["decision"]
    words = f"practically equal (±{percent(margin)})" if decision == "equal" else decision
    return f"{fixed(comparison['ratio'], 3)}{limits(comparison['low'], comparison['high'], 3)} {words}"


def names_of(names: Sequence[str]) -> str:
    return listed(map(activations.label, names))


def look_line(look: Mapping, plan: Mapping) -> str:
    """A look, for a terminal."""
    comparisons, reference = look["comparisons"], activations.label(baseline_of(plan))
    findings = (f"{activations.label(name)} {finding(c, plan['margin'])}" for name, c in comparisons.items())
    decided = f"{len(comparisons) - len(undecided(look))} of {len(comparisons)} decided"
    return f"look at {look['trials']} trials: {decided}; PD against {reference}'s: {', '.join(findings)}"


def looks_section(looks: Mapping | None, paid: bool = False) -> list[str]:
    """The looks as lines of Markdown for the report, from what `load` returns; [] where none was taken. `paid`: the
    other p-values and intervals of the report allow for the looks too."""
    if not looks or not looks["looks"]:
        return []
    plan, taken = looks["plan"], looks["looks"]
    baseline = label(baseline_of(plan))
    header = ["PD against " + baseline, *(f"{look['trials']} trials" for look in taken)]
    rows = [
        [label(name), *(finding(look["comparisons"][name], plan["margin"]) for look in taken)]
        for name in taken[0]["comparisons"]
    ]
    return template.lines(
        "looks.md",
        baseline=baseline,
        plan=plan,
        open=[label(name) for name in undecided(taken[-1])],
        last=taken[-1]["trials"],
        findings=tabled(header, rows),
        paid=paid,
        percent=percent,
    )


def section(folder: Folder) -> Section:
    """`looks_section` of the record in a folder, where it is of these results; else one line, that it isn't."""
    study = folder.study
    record = study.looks or load(folder.results)
    if record and not study.looks and (problems := derive_looks(study.all_results, record)):
        path = storage.looks_path(folder.results)
        return Section([f"The looks in {path.name} are not of these results ({safe(problems[0])})."])
    return Section(looks_section(record, paid=study.looks is not None))
