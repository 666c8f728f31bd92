"""PD of annealed models against their loss: the branches of a trunk, and PD at equal loss read between them.

At each branch every pair of trials has the mean of its two models' validation losses, and its PD; from branch to branch
that is a line along which the loss falls, of models whose learning rate was cooled all the way: no schedule stands
between activations that learn at different speeds. Between two branches ln PD is read off linearly in the loss, where
the line first falls to it.

Activations are compared at one loss: the largest final one of all their pairs. It is of the compared activations and
trials alone, every pair falls to it, and nothing is read beyond the last branch. What follows is a matrix of PDs like
that of the final models, and is tested by the same functions. No torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.results import Measured, matrix
from storage import number


@dataclass(frozen=True)
class Point:
    """What one branch of an activation came to: it left the trunk after `leaves` steps, its models have `ends`."""

    leaves: int
    ends: int
    losses: dict[int, float]  # validation loss of each trial's model, nats per token
    pds: dict[tuple[int, int], float]  # relative PD of each two of them


def frontier(m: Measured) -> list[Point]:
    """The branches of an activation, the shortest first, of the trials that its final PD is of; none where they were
    not recorded, or not completely."""
    pairs = list(itertools.combinations(m.pd_ids, 2))
    points = []
    for branch in m.results.get("frontier") or []:
        losses = {t["trial_id"]: number(t["val_loss"]) for t in branch["trials"]}
        pds = {pair["model_pair"]: number(pair["relative_pd"]) for pair in branch["pairs"]}
        losses = {k: losses.get(k) for k in m.pd_ids}
        pds = {(i, j): pds.get(f"{i}_vs_{j}") for i, j in pairs}
        if None in losses.values() or None in pds.values():
            return []
        points.append(Point(branch["leaves"], branch["ends"], losses, pds))
    return points if pairs else []


def equal_loss(
    frontiers: Mapping[str, Sequence[Point]], ids: Mapping[str, Sequence[int]]
) -> tuple[float, dict[str, np.ndarray]] | None:
    """The loss at which activations are compared, and the PD of their models there.

    Args:
        frontiers: {activation: its branches}.
        ids: {activation: the trials to compare}.

    Returns:
        (loss in nats per token, {activation: symmetric (n, n) matrix of PD among its `ids`}); None where some pair is
        below that loss from its first branch on, or has no difference at all.
    """
    pairs = {name: list(itertools.combinations(rows, 2)) for name, rows in ids.items()}
    target = max(
        (points[-1].losses[i] + points[-1].losses[j]) / 2 for name, points in frontiers.items() for i, j in pairs[name]
    )
    found = {}
    for name, points in frontiers.items():
        pds = {(i, j): _read_off(points, i, j, target) for i, j in pairs[name]}
        if None in pds.values():
            return None
        found[name] = matrix(pds, ids[name])
    return target, found


def _read_off(points: Sequence[Point], i: int, j: int, target: float) -> float | None:
    losses = [(p.losses[i] + p.losses[j]) / 2 for p in points]
    value = where_it_falls_to(target, losses, [math.log(pd) if (pd := p.pds[i, j]) > 0 else None for p in points])
    return None if value is None else math.exp(value)


def where_it_falls_to(target: float, losses: Sequence[float], values: Sequence[float | None]) -> float | None:
    """The value where the loss first falls to `target`, linearly between the two points around the crossing; None where
    the loss starts below, never falls to it, or a value there is missing."""
    previous = None
    for loss, value in zip(losses, values, strict=True):
        if value is not None and loss == target:
            return value
        if value is not None and loss < target:
            if previous is None:
                return None
            before, value_before = previous
            return value_before + (before - target) / (before - loss) * (value - value_before)
        previous = None if value is None else (loss, value)
    return None
