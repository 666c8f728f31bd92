"""The chaos clock: `python train.py --clock [--activation relu gelu] [--trials 5]`.

For every activation and seed a trial is trained beside its twins (measure.py), side by side on the cores there
are; what is finished stays, in `results/clock/{activation}.json`. Then the page `results/clock/CLOCK.md`, the table
`clock.csv` beside it, and the figure `plots/clock.png` are made of all files there.

Where no precision is asked for it is float32: in bfloat16 the first step already rounds one bit up to a difference of
1e-4 in the weights, and what the activation does to smaller ones is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import activations
import audit
import storage
from analysis import products
from cli import duration
from config import Config, RunFailed, UserError
from prepare_data import load_corpus
from questions.clock import CLOCK, RATES
from questions.clock import measure as clock
from questions.clock import rates as by_rates
from questions.clock import tell as analysis
from training import experiment, pool
from training.forecast import Forecast
from training.parts import check
from training.progress import Display


def settings(config: Config) -> Config:
    """The config of the trials that are trained: in float32 unless another precision is named, with no branches on the
    way to the final model, and no means of weights."""
    check(config)
    changes = {"precision": "float32"} if "precision" in config.automatic else {}
    changes |= {"branch_points": (1.0,)} if config.schedule == "trunk" else {}
    return config.replace(averages=(), **changes)


def run(session) -> None:
    """Train what is missing, and write page, table and figure: what train.py does on --clock.

    Raises:
        UserError: wrong input, or what lies there was made with other settings.
        RunFailed: a trial failed; the others are kept.
        KeyboardInterrupt: what is finished is kept.
    """
    config, display = settings(session.config), session.display
    parts, rates = session.args.forks, session.many.get("learning_rate", ())
    if parts is not None and not all(0 <= part < 1 for part in parts):
        raise UserError("--forks: must be parts of the training, from 0 to below 1, such as 0 0.1 0.3 0.6")
    corpus = load_corpus(config)
    configs = [_at_rate(config, rate) for rate in rates] if len(rates) > 1 else [config]
    left = [(one, tasks) for one in configs if (tasks := _missing(one, session.names, corpus, parts))]
    if left:
        audit.before_study(config, session.names, corpus, session.options["strict_audit"], display)
    for one, tasks in left:
        _train(one, tasks, corpus, display, session.interruptible)
    folder = products.Folder.of(config)
    which, text = (RATES, by_rates.overview) if len(rates) > 1 else (CLOCK, analysis.overview)
    paths = products.write(which, folder)
    if not paths:
        raise RunFailed("no clock finished: all trials diverged")
    display.line(text(folder))
    for path in paths:
        display.line(f"written: {path}")


def _at_rate(config: Config, rate: str) -> Config:
    """The config of one learning rate of several, whose clocks have a folder of their own."""
    lowest = config.min_lr * float(rate) / config.learning_rate  # the schedule as it was, higher or lower
    at = config.replace(learning_rate=float(rate), min_lr=lowest)
    return at.replace(results_dir=str(Path(config.results_dir, by_rates.FOLDER, f"{at.learning_rate:g}")))


def _missing(config: Config, names: list[str], corpus, parts) -> list[tuple[str, int]]:
    """The clocks to run, after their files have been begun."""
    done = {name: clock.begin(config, name, corpus, parts)["trials"] for name in names}
    numbers = range(1, config.trials_per_activation + 1)
    return [(name, k) for name in names for k in numbers if str(k) not in done[name]]


def _train(config: Config, tasks: list, corpus, display: Display, interruptible: Callable) -> None:
    workers, at_once = pool.default_workers(config, len(tasks)), pool.at_once(config, len(tasks))
    path, steps = storage.clock_path(config.results_dir, tasks[0][0]), config.max_iters
    forks = clock.read(path, config, corpus)["forks"]
    trainings = 1 + sum(1 - fork / steps for fork in [*forks, forks[-1] or 0.9 * steps])  # the last: without the bit
    step = experiment.measured_costs(config, tasks[0][0], corpus).step
    seconds = step * steps * trainings * 1.25  # with comparisons
    together = seconds * len(tasks) / min(workers, pool.places(config)) + 5
    display.line(
        f"{len(tasks)} {'clock' if len(tasks) == 1 else 'clocks'} to run in {config.precision}, each a trial and its "
        f"twins ({trainings:.1f} trainings of {steps} steps), {at_once} at a time: about {duration(together)}"
    )
    here = not all(activations.importable(name) for name, _ in tasks)  # as in train.py
    train = pool.run_here if here else pool.run_trials
    failures = []
    with display:
        display.phase("clocks")
        forecast = Forecast(dict.fromkeys(tasks, seconds), 0.0, together, together)
        display.expect(forecast, dict.fromkeys(tasks, 1.0), steps)
        for outcome in interruptible(train(config, tasks, display.event, workers, job="clock")):
            display.outcome(outcome)
            if outcome.status == "interrupted":
                raise KeyboardInterrupt
            if outcome.status == "failed":
                failures.append(outcome)
    if failures:
        text = "; ".join(f"{f.activation} trial {f.trial}: {f.message}" for f in failures)
        raise (UserError if all(f.wrong_input for f in failures) else RunFailed)(text)
