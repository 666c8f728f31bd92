"""The learning rate at each step, and the order in which the steps of a trial are taken.

`cosine`: linear warm-up, then half a cosine down to `min_lr` at the last step.

`trunk`: linear warm-up, then a constant rate, and branches: at several steps the trunk's state is kept, and the rate
cooled linearly to `min_lr` from there (Hägele et al. 2024, arXiv 2405.18392). Every branch ends as a model trained to
its end, with a loss of its own; the last one, to which the trunk leads, is the final model and has `max_iters` steps,
as with the cosine. A branch goes on with the batches and the dropout of its own steps: those that the trunk's next
steps see too. So each branch is, bit for bit, the model that training to this length alone gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from config import Branch, Config


@dataclass(frozen=True)
class Leg:
    """A stretch of steps without a turn: a model on its way along `branch` takes its steps `start` to `stop`. A trial
    takes one leg after another, and counts the steps of all: this one begins when it has done `begins`."""

    branch: Branch
    start: int
    stop: int
    begins: int
    side: bool = False  # off the trunk, which goes on after it from where it began

    @property
    def ends(self) -> int:
        """The steps that the trial has done in all when it is over."""
        return self.begins + self.stop - self.start


def legs(config: Config) -> list[Leg]:
    """All steps of a trial in their order: the trunk up to a branch, the branch, the trunk up to the next one, …"""
    *sides, final = config.branches
    taken, trunk, begins = [], 0, 0
    for branch in sides:
        for start, side in ((trunk, False), (branch.leaves, True)):
            stop = branch.ends if side else branch.leaves
            taken.append(Leg(branch if side else final, start, stop, begins, side))
            begins = taken[-1].ends
        trunk = branch.leaves
    return [*taken, Leg(final, trunk, final.ends, begins)]


def total_steps(config: Config) -> int:
    """How many steps a trial takes, those of all its branches together."""
    return legs(config)[-1].ends


def learning_rate(config: Config, step: int, branch: Branch | None = None) -> float:
    """The rate at a step of the final model, or of the model of another branch."""
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / config.warmup_iters
    above = config.learning_rate - config.min_lr
    if config.schedule == "cosine":
        progress = (step - config.warmup_iters) / max(1, config.max_iters - config.warmup_iters)
        return config.min_lr + 0.5 * above * (1 + math.cos(math.pi * progress))
    branch = branch or config.branches[-1]
    if step < branch.leaves:
        return config.learning_rate
    return config.min_lr + above * (branch.ends - step) / (branch.ends - branch.leaves)
