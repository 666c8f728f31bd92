"""`analyze_results.py --extrapolate STUDY…`: PD of a wider or longer training than those studies have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from analysis.markdown import counted, label, listed, table
from analysis.products import Folder
from analysis.results import Measured, load_all_results, matrix, measure
from config import Config, UserError
from questions.extrapolate.law import Cell, Estimate, predict, problem

# what may differ between the studies: their size and length, the rate that fits it, who is trained when
FREE = {"n_embd", "n_head", "max_iters", "branch_points", "learning_rate", "warmup_iters", "eval_interval", "seed_base"}
LEAST = 3  # trials: fewer have no spread of their own
ASSUMED = (
    "It is assumed that PD goes on as a power of width and of steps, on the same text and positions, with a learning",
    "rate that fits each size as well as here. The interval holds the chance of the trainings, here and there, and as",
    "much of a bend as these sizes show; not one that begins beyond them.",
)


def run(studies: Iterable[str], folder: Folder, args) -> str:
    """The answer for every activation that all the studies have.

    Raises:
        UserError: a study isn't there, differs in more than its size and length, or has too few trials; of no
            activation anything can be said.
    """
    read = {name: measure(load_all_results(folder.studies / Path(name) / "results")) for name in dict.fromkeys(studies)}
    _refuse_others({name: next(iter(study.values())) for name, study in read.items()})
    common = [name for name in next(iter(read.values())) if all(name in study for study in read.values())]
    if not common:
        raise UserError(f"--extrapolate: {listed(read)} have no activation in common")
    cells = {
        name: [cell for study, all_of in read.items() for cell in cells_of(study, all_of[name])] for name in common
    }
    every = [cell for own in cells.values() for cell in own]
    width = args.to_width or max(cell.width for cell in every)
    steps = args.to_steps or max(cell.steps for cell in every)
    return "\n".join(_told(cells, width, steps))


def _refuse_others(studies: Mapping[str, Measured]) -> None:
    (first, one), *others = studies.items()
    names = [f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"] and f.name not in FREE]
    for second, other in others:
        differ = [name for name in names if one.record("config").get(name) != other.record("config").get(name)]
        parts = (("dataset", "the corpus"), ("evaluation", "the positions evaluated"))
        differ += [said for key, said in parts if one.record(key).get("sha256") != other.record(key).get("sha256")]
        if differ:
            raise UserError(
                f"--extrapolate: {first} and {second} differ in more than width and length: {listed(differ)}"
            )


def cells_of(study: str, m: Measured) -> list[Cell]:
    """The final models of a study, or those of each branch of its trunk.

    Raises:
        UserError: fewer than three trials, or no record of the settings.
    """
    config, ids = m.record("config"), m.pd_ids
    if len(ids) < LEAST:
        raise UserError(f"--extrapolate: {study} has {counted(len(ids), 'trial')} of {m.name}; {LEAST} are needed")
    if not {"n_embd", "max_iters"} <= config.keys():
        raise UserError(f"--extrapolate: the results of {study} record no width and steps")
    by_steps = {config["max_iters"]: (m.pd(), m.losses(ids))}
    for branch in m.branches:
        losses = np.array([branch.losses[k] for k in ids], dtype=float)
        by_steps[branch.ends] = matrix(branch.pds, ids), losses
    return [Cell(study, config["n_embd"], steps, *values) for steps, values in sorted(by_steps.items())]


def _told(cells: Mapping[str, list[Cell]], width: int, steps: int) -> list[str]:
    rows, said = [], []
    for name, own in cells.items():
        if why := problem(own, width, steps):
            said.append(f"{label(name)}: not extrapolated. {why[0].upper()}{why[1:]}.")
            continue
        p = predict(own, width, steps)
        powers = [f"{axis}^{_shown(power, '+.3f')}" for axis, power in p.exponents.items()]
        rows.append([label(name), _shown(p.pd, ".4f"), listed(powers), str(p.trials)])
    lines = [f"Relative PD of models of width {width} after {steps} steps, from {listed(_places(cells))}:"]
    if rows:
        lines += table(["activation", "PD [95 %]", "PD falls or rises as", "trainings"], rows)
        return [*lines, *ASSUMED, *said]
    raise UserError(" ".join(["--extrapolate:", *said]))


def _shown(e: Estimate, form: str) -> str:
    return f"{e.value:{form}} [{e.low:{form}}, {e.high:{form}}]"


def _places(cells: Mapping[str, list[Cell]]) -> list[str]:
    own = next(iter(cells.values()))
    axes = {"widths": sorted({c.width for c in own}), "steps": sorted({c.steps for c in own})}
    return [f"{axis} {', '.join(map(str, values))}" for axis, values in axes.items()]
