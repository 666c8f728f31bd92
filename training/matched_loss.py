"""PD at equal validation loss, read off the curves that trials record along training. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from storage import number


def matched_loss_pd(losses_i, losses_j, pds, target: float) -> float | None:
    """PD of one pair where the mean of its two validation losses first falls to `target`.

    Args:
        losses_i, losses_j, pds: the two losses (nats per token) and the pair's PD at the same steps, each (steps,);
            whatever else is recorded at these steps can be read off in the place of PD.
        target: the loss at which to read PD off, linearly between the two evaluations around the crossing.

    Returns:
        The PD, or None when the mean loss starts below `target` or never falls to it.

    Raises:
        ValueError: the three differ in length.
    """
    previous = None
    for a, b, pd in zip(losses_i, losses_j, pds, strict=True):
        a, b, pd = number(a), number(b), number(pd)
        if a is None or b is None or pd is None:
            previous = None
            continue
        loss = (a + b) / 2
        if loss == target:
            return pd
        if loss < target:
            if previous is None:
                return None
            before, pd_before = previous
            return pd_before + (before - target) / (before - loss) * (pd - pd_before)
        previous = loss, pd
    return None


LOSSES_PER_NAT = 20  # PD is tabulated at the multiples of 0.05 nats


def pd_at_val_loss(divergence: Mapping) -> dict:
    """PD of one activation's pairs as a function of validation loss, read off as in `analysis.results.match_losses`.

    The losses are multiples of 0.05 nats per token, whatever other activations there are, so that any two results can
    be compared where their losses overlap. Those are listed that every trial's validation loss falls to, and every
    pair's mean of two; the first time counts.

    Args:
        divergence: of a results file: {"val_loss": {trial: [...]}, "pairs": {"1_vs_2": {"relative_pd": [...]}}}, lists
            along the recorded steps.

    Returns:
        {"val_loss": [...], "relative_pd": {"1_vs_2": [...]}, "mean": [...]}: the losses in the order of training,
        highest first, the PD of each pair at them, and the mean over pairs. All lists are empty when there is no pair,
        or no loss that all reach.
    """
    losses, pairs = divergence["val_loss"], divergence["pairs"]
    curves = {name: (*(losses[k] for k in name.split("_vs_")), curves["relative_pd"]) for name, curves in pairs.items()}
    found: dict[float, dict[str, float]] = {}
    histories = [[x for x in map(number, history) if x is not None] for history in losses.values()] if pairs else [[]]
    if all(histories):
        lowest, highest = max(map(min, histories)), min(map(max, histories))
        for k in range(math.ceil(highest * LOSSES_PER_NAT), math.floor(lowest * LOSSES_PER_NAT) - 1, -1):
            target = k / LOSSES_PER_NAT  # the nearest float to the decimal: the same one in every file
            if any(matched_loss_pd(history, history, history, target) is None for history in losses.values()):
                continue  # a pair's mean may get there while one of the two stays behind
            pds = {name: matched_loss_pd(*curve, target) for name, curve in curves.items()}
            if None not in pds.values():
                found[target] = pds
    return {
        "val_loss": list(found),
        "relative_pd": {name: [pds[name] for pds in found.values()] for name in curves},
        "mean": [float(np.mean(list(pds.values()))) for pds in found.values()],
    }
