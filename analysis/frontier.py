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
from dataclasses import replace

import numpy as np

from analysis.records import Branch
from analysis.results import Measured, matrix


def frontier(m: Measured) -> list[Branch]:
    """The branches of an activation, the shortest first, with the trials that have a final PD; none where they were
    not recorded, or not completely."""
    pairs = list(itertools.combinations(m.pd_ids, 2))
    branches = []
    for branch in m.branches:
        losses = {k: branch.losses.get(k) for k in m.pd_ids}
        pds = {pair: branch.pds.get(pair) for pair in pairs}
        if None in losses.values() or None in pds.values():
            return []
        branches.append(replace(branch, losses=losses, pds=pds))
    return branches if pairs else []


def equal_loss(
    frontiers: Mapping[str, Sequence[Branch]], ids: Mapping[str, Sequence[int]]
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
    matrices = {}
    for name, points in frontiers.items():
        pds = {(i, j): _read_off(points, i, j, target) for i, j in pairs[name]}
        if None in pds.values():
            return None
        matrices[name] = matrix(pds, ids[name])
    return target, matrices


def _read_off(points: Sequence[Branch], i: int, j: int, target: float) -> float | None:
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
