"""How long a run takes and how much of it is left: start-up, training, evaluation, measuring, figures and report.

Arithmetic alone: what a step and an evaluation cost on this machine is measured by experiment.measured_costs. Trials
share the machine's places (cores, or GPUs) as the pool's workers do, and an activation is measured and drawn in the
caller's process as soon as its last trial ends, beside the trials that are still under way.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from config import Config
from training.schedule import total_steps

Task = tuple[str, int]  # (activation, trial)

# CPU seconds on the machine of bench/RESULTS.md, as bench/estimates.py --parts measures them.
WORKER = 1.3  # a process that trains: importing torch, opening the corpus
TRIAL = 0.1  # building a model, saving its snapshots and its checkpoint
MEASURING = 0.1  # an activation's checkpoints and text, beside the evaluation of its models
FIGURES = 1.1  # the figures of one activation
FIRST_FIGURE = 0.35  # importing matplotlib
COMPARISON = 1.4  # importing pandas and SciPy, tests, figures and report of all activations
PER_ACTIVATION = 0.2  # of the comparison
SHARED = 1.08  # more processes than places: what they take from one another's caches
THREADS = 0.6  # what each further thread adds to the speed of an evaluation


@dataclass(frozen=True)
class Costs:
    """What the parts of the work take on this machine, in seconds."""

    step: float  # one step of training
    position: float  # evaluating a model at one position
    pair: float = 0.0  # comparing the predictions of two models at one position
    sample: float = 0.0  # what a finished model writes
    slowness: float = 1.0  # this machine's time for Python's own work, where the constants above are 1


def before_the_last(config: Config, workers: int, places: int) -> int:
    """How many of the workers of a pool.Crew train until the trials that are left fit on all of them."""
    return workers if config.workers else min(workers, places)


def trial_seconds(config: Config, costs: Costs) -> float:
    """A whole trial on a place of its own: steps, points of the curves, final losses, those of branches too."""
    points = 1 + math.ceil(config.max_iters / config.eval_interval)
    evaluated = 2 * config.probe_tokens * points + config.eval_tokens * len(config.branches)
    return total_steps(config) * costs.step + evaluated * costs.position + costs.sample + TRIAL * costs.slowness


def finish_seconds(config: Config, costs: Costs, trials: int, threads: int = 1) -> float:
    """Measuring and drawing an activation: every trial's models at all positions, every pair, the figures."""
    kinds = len(config.branches)
    work = trials * costs.position + math.comb(trials, 2) * costs.pair
    evaluation = kinds * config.eval_tokens * work / (1 + THREADS * (threads - 1))
    return evaluation + (MEASURING * (1 + trials * kinds / 4) + FIGURES) * costs.slowness


def comparison_seconds(costs: Costs, activations: int) -> float:
    """Tables, tests, figures and report over all activations; none of them over one."""
    return (COMPARISON + PER_ACTIVATION * activations) * costs.slowness if activations > 1 else 0.0


@dataclass(frozen=True)
class Forecast:
    """Wall-clock seconds from now on: `start` until the first step, `training` until the last trial's end (measuring
    beside it included), `total` until everything is written. `work`: of each trial, in seconds of one place."""

    work: dict[Task, float]
    start: float
    training: float
    total: float


def forecast(
    config: Config,
    costs: Costs,
    left: dict[Task, float],
    workers: int,
    places: int,
    *,
    fresh: bool = True,
    threads: int = 1,
    activations: int = 1,
    trials: dict[str, int] | None = None,
) -> Forecast:
    """How long the tasks take.

    Args:
        left: {(activation, trial): the share of it that is still to be trained}; what was done before a resume is in
            neither the work nor the speed.
        workers, places: processes that train, and how many of them don't share a core or a GPU.
        fresh: the workers are processes that are started for it.
        threads: free for measuring when no trial is trained beside it.
        activations: how many are compared in the end.
        trials: of each activation, those that were there before too (default: those in `left`).
    """
    whole = trial_seconds(config, costs)
    work = {task: share * whole for task, share in left.items()}
    trials = trials or Counter(name for name, _ in left)
    beside = {name: finish_seconds(config, costs, n) for name, n in trials.items()}
    alone = {name: finish_seconds(config, costs, n, threads) for name, n in trials.items()}
    workers = max(1, min(workers, len(work)))
    start = WORKER * costs.slowness * max(1, workers / places) if fresh else 0.0
    first = before_the_last(config, workers, places)
    training, end = _scheduled(work, beside, alone, workers, first, places)
    after = FIRST_FIGURE * costs.slowness + comparison_seconds(costs, activations)
    return Forecast(work, start, start + training, start + end + after)


def _scheduled(work: dict, beside: dict, alone: dict, workers: int, first: int, places: int) -> tuple[float, float]:
    """(when the last trial ends, when the last activation is measured): trials in their order on `workers` processes,
    no more than `first` at once until those that are left fit on all, the measuring of whole activations one after
    another in one more process, all of them on `places` that they share."""
    waiting, running, measuring, now, trained = list(work.items()), {}, [], 0.0, 0.0
    unfinished = Counter(name for name, _ in work)
    while waiting or running or measuring:
        while waiting and len(running) < (workers if len(waiting) + len(running) <= workers else first):
            task, seconds = waiting.pop(0)
            running[task] = seconds
        if not running:  # nothing is trained beside it any more
            share = measuring[0][1] / beside[measuring[0][0]] if beside[measuring[0][0]] else 0.0
            now += share * alone[measuring[0][0]] + sum(alone[name] for name, _ in measuring[1:])
            break
        jobs = len(running) + bool(measuring)
        speed = min(1.0, places / jobs) / (SHARED if len(running) > places else 1.0)
        step = min([*running.values(), *(seconds for _, seconds in measuring[:1])]) / speed
        now += step
        if measuring:
            measuring[0] = (measuring[0][0], measuring[0][1] - step * speed)
            if measuring[0][1] <= 1e-9:
                measuring.pop(0)
        running = {task: seconds - step * speed for task, seconds in running.items()}
        for name, k in [task for task, seconds in running.items() if seconds <= 1e-9]:
            del running[name, k]
            unfinished[name] -= 1
            trained = now
            if not unfinished[name]:
                measuring.append((name, beside[name]))
    return trained, now


PRIOR = 10.0  # seconds of the run by which the forecast is believed rather than the speed seen


class Outlook:
    """How much of a run is left: the forecast, corrected by how fast it goes. Times are those of one clock."""

    def __init__(self, expected: Forecast, now: float):
        self.expected, self.began, self.seen = expected, now, now
        self.done = dict.fromkeys(expected.work, 0.0)  # of what was left of each trial when this run began
        self._left = expected.total

    def progress(self, task: Task, share: float, now: float) -> None:
        """So much of what was left of a trial is done."""
        if task in self.done:
            self.done[task] = min(1.0, max(self.done[task], share))
        self.seen = now
        elapsed = now - self.began
        reached = self._reached(elapsed)
        self._left = (self.expected.total - reached) * (elapsed + PRIOR) / (reached + PRIOR)

    def left(self, now: float) -> float:
        """Seconds until the end."""
        return max(0.0, self._left - (now - self.seen))

    def share(self, now: float, before: float = 0.0) -> float:
        """How much of the whole time is gone, with the seconds `before` this run's forecast."""
        gone = before + now - self.began
        return gone / max(1e-9, gone + self.left(now))

    def _reached(self, elapsed: float) -> float:
        """When the forecast expected what has been done by now."""
        expected, total = self.expected, sum(self.expected.work.values())
        done = sum(self.done[task] * work for task, work in expected.work.items()) / total if total else 1.0
        if done <= 0:
            return min(elapsed, expected.start)
        return expected.start + done * (expected.training - expected.start)
