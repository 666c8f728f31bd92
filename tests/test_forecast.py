"""How long a run takes: against counting by hand, a simulation in small steps of time, and runs of known speed."""

import math
import random

import pytest

from config import Config
from training.forecast import (
    COMPARISON,
    FIGURES,
    FIRST_FIGURE,
    MEASURING,
    PER_ACTIVATION,
    SHARED,
    TRIAL,
    WORKER,
    Costs,
    Forecast,
    Outlook,
    _scheduled,
    comparison_seconds,
    finish_seconds,
    forecast,
    trial_seconds,
)
from training.schedule import legs

COSTS = Costs(step=0.02, position=1e-4, pair=1e-5, sample=0.3)
SMOKE = {"preset": "smoke", "device": "cpu", "precision": "float32"}


@pytest.mark.parametrize("schedule", ["cosine", "trunk"])
@pytest.mark.parametrize("interval", [50, 60, 200, 300])
def test_a_trial_by_counting(schedule, interval):
    """Every step that is taken, of branches too, and every point at which the curves are recorded, one by one."""
    config = Config(**SMOKE, schedule=schedule, eval_interval=interval)
    steps, points = 0, [0]
    for leg in legs(config):
        for step in range(leg.start + 1, leg.stop + 1):
            steps += 1
            if not leg.side and (step % interval == 0 or step == config.max_iters):
                points.append(step)
    ends = 1 if schedule == "cosine" else 4
    expected = 0.02 * steps + 1e-4 * (len(points) * 2 * 512 + ends * 1024) + 0.3 + TRIAL
    assert trial_seconds(config, COSTS) == pytest.approx(expected)


def test_an_activation_and_the_comparison_by_hand():
    config = Config(**SMOKE)
    expected = 1024 * (4 * 1e-4 + 6 * 1e-5) + MEASURING * 2 + FIGURES
    assert finish_seconds(config, COSTS, 4) == pytest.approx(expected)
    assert finish_seconds(config, COSTS, 4, threads=2) < expected
    assert comparison_seconds(COSTS, 1) == 0
    assert comparison_seconds(COSTS, 5) == COMPARISON + 5 * PER_ACTIVATION


def in_small_steps(work, beside, alone, workers, first, places, dt=0.002):
    """The same by walking through time."""
    waiting, running, queue, trained, now = list(work.items()), {}, [], 0.0, 0.0
    left = {name: sum(n == name for n, _ in work) for name, _ in work}
    while waiting or running or queue:
        while waiting and len(running) < workers and (len(running) < first or len(waiting) + len(running) <= workers):
            task, seconds = waiting.pop(0)
            running[task] = seconds
        jobs = len(running) + bool(queue)
        speed = min(1, places / jobs) / (SHARED if len(running) > places else 1)
        if not running:  # all threads are its own
            speed = beside[queue[0][0]] / alone[queue[0][0]]
        now += dt
        if queue:
            queue[0][1] -= dt * speed
            if queue[0][1] <= 0:
                queue.pop(0)
        for task in list(running):
            running[task] -= dt * speed
            if running[task] <= 0:
                del running[task]
                trained = now
                left[task[0]] -= 1
                if not left[task[0]]:
                    queue.append([task[0], beside[task[0]]])
    return trained, now


@pytest.mark.parametrize("seed", range(12))
def test_trials_that_share_places(seed):
    rng = random.Random(seed)
    names = ["a", "b", "c"][: rng.randint(1, 3)]
    work = {(name, k): rng.uniform(0.2, 4) for name in names for k in range(1, rng.randint(2, 4))}
    beside = {name: rng.uniform(0.2, 2) for name in names}
    alone = {name: seconds / rng.uniform(1, 2) for name, seconds in beside.items()}
    workers, places = rng.randint(1, 4), rng.randint(1, 3)
    first = rng.randint(1, workers)
    expected = in_small_steps(work, beside, alone, workers, first, places)
    assert _scheduled(work, beside, alone, workers, first, places) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("trials", "workers", "places", "rounds"),
    [(3, 1, 1, 3), (3, 1, 4, 3), (3, 3, 3, 1), (4, 2, 2, 2), (3, 2, 2, 2), (3, 3, 2, 1.5 * SHARED), (8, 8, 8, 1)]
    + [(15, 3, 2, 6 + 1.5 * SHARED)],  # two at once, the last three together
)
def test_equal_trials_in_closed_form(trials, workers, places, rounds):
    config = Config(**SMOKE)
    expected = forecast(config, COSTS, {("relu", k): 1.0 for k in range(1, trials + 1)}, workers, places)
    start = WORKER * max(1, workers / places)
    assert expected.start == pytest.approx(start)
    assert expected.training == pytest.approx(start + rounds * trial_seconds(config, COSTS))
    end = expected.training + finish_seconds(config, COSTS, trials) + FIRST_FIGURE
    assert expected.total == pytest.approx(end)


def test_what_was_done_before_a_resume_is_no_work():
    config = Config(**SMOKE)
    half = forecast(config, COSTS, {("relu", 1): 0.5, ("relu", 2): 0.25}, 1, 1, fresh=False)
    assert half.start == 0
    assert half.training == pytest.approx(0.75 * trial_seconds(config, COSTS))


EXPECTED = Forecast({("relu", 1): 50.0, ("relu", 2): 50.0}, start=4.0, training=104.0, total=114.0)


@pytest.mark.parametrize("slower", [0.5, 1.0, 2.0, 4.0])
def test_the_rest_follows_the_speed_that_is_seen(slower):
    """A machine that takes `slower` times as long as was forecast, throughout: the rest is announced better and better,
    and never jumps."""
    outlook, now = Outlook(EXPECTED, 1000.0), 1000.0
    assert outlook.left(1000.0) == 114 and outlook.left(1002.0) == 112
    errors, before = [], None
    for done in range(1, 101):
        now = 1000 + slower * (4 + done)
        task = ("relu", 1) if done <= 50 else ("relu", 2)
        outlook.progress(task, (done if done <= 50 else done - 50) / 50, now)
        left = outlook.left(now)
        assert before is None or abs(left - before) <= 10 * slower
        errors.append(abs(left - slower * (110 - done)) / (slower * (110 - done)))
        before = left
    assert errors[-1] <= 0.1 and errors[50] <= 0.16
    assert outlook.left(now + 3) == pytest.approx(before - 3)
    assert outlook.left(now + 1e6) == 0


def test_shares_never_pass_one_and_strangers_are_ignored():
    outlook = Outlook(EXPECTED, 0.0)
    outlook.progress(("relu", 1), 7.0, 10.0)
    outlook.progress(("relu", 1), 0.1, 11.0)  # a report that came late
    outlook.progress(("gelu", 1), 1.0, 12.0)
    assert outlook.done == {("relu", 1): 1.0, ("relu", 2): 0.0}
    assert 0 < outlook.share(12.0) < outlook.share(12.0, before=5.0) < 1
    assert math.isfinite(Outlook(Forecast({}, 0.0, 0.0, 0.0), 0.0).share(0.0))
