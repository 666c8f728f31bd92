"""The chaos clock: `python train.py --clock [--activation relu gelu] [--trials 5]`.

For every activation and seed a trial is trained beside its twins (measure.py), side by side on the cores there
are; what is finished stays, in `results/clock/{activation}.json`. Then the page `results/clock/CLOCK.md`, the table
`clock.csv` beside it, and the figure `plots/clock.png` are made of all files there.

Where no precision is asked for it is float32: in bfloat16 the first step already rounds one bit up to a difference of
1e-4 in the weights, and what the activation does to smaller ones is not seen.
"""

from __future__ import annotations

from collections.abc import Callable

import activations
import audit
import storage
from analysis import products
from config import Config, RunFailed, UserError
from prepare_data import load_corpus
from questions.clock import PRODUCTS
from questions.clock import measure as clock
from questions.clock import tell as analysis
from training import experiment, pool
from training.forecast import Forecast
from training.parts import check
from training.progress import Display, duration


def settings(config: Config) -> Config:
    """The config that the clock runs with."""
    check(config)
    if "precision" in config.automatic:
        config = config.replace(precision="float32")
    return clock.settings(config)


def run(session) -> None:
    """Train what is missing, and write page, table and figure: what train.py does on --clock.

    Raises:
        UserError: wrong input, or what lies there was made with other settings.
        RunFailed: a trial failed; the others are kept.
        KeyboardInterrupt: what is finished is kept.
    """
    config, display = settings(session.config), session.display
    corpus = load_corpus(config)
    tasks = []
    for name in session.names:
        done = clock.read(storage.clock_path(config.results_dir, name), config, corpus)["trials"]
        tasks += [(name, k) for k in range(1, config.trials_per_activation + 1) if str(k) not in done]
    if tasks:
        activations_ = list(dict.fromkeys(n for n, _ in tasks))
        audit.before_study(config, activations_, corpus, session.options["strict_audit"], display)
        _train(config, tasks, corpus, display, session.interruptible)
    folder = products.Folder.of(config)
    display.line(analysis.overview(folder))
    for path in [path for product in PRODUCTS for path in products.write(product, folder)]:
        display.line(f"written: {path}")


def _train(config: Config, tasks: list, corpus, display: Display, interruptible: Callable) -> None:
    workers = pool.default_workers(config, len(tasks))
    forks, steps = clock.fork_steps(config), config.max_iters
    trainings = 1 + sum(1 - fork / steps for fork in [*forks, forks[-1]])  # the last one twice: without the bit
    step = experiment.measured_costs(config, tasks[0][0], corpus).step
    seconds = step * steps * trainings * 1.25  # with comparisons
    together = seconds * len(tasks) / min(workers, pool.places(config)) + 5
    display.line(
        f"{len(tasks)} {'clock' if len(tasks) == 1 else 'clocks'} to run in {config.precision}, each a trial and its "
        f"twins ({trainings:.1f} trainings of {steps} steps), {workers} at a time: about {duration(together)}"
    )
    here = not all(activations.importable(name) for name, _ in tasks)  # as in train.py
    train = pool.run_here if here else pool.run_trials
    failures = []
    with display:
        display.phase("clocks")
        display.expect(
            Forecast(dict.fromkeys(tasks, seconds), 0.0, together, together), dict.fromkeys(tasks, 1.0), steps
        )
        for outcome in interruptible(train(config, tasks, display.event, workers, job="clock")):
            display.outcome(outcome)
            if outcome.status == "interrupted":
                raise KeyboardInterrupt
            if outcome.status == "failed":
                failures.append(outcome)
    if failures:
        text = "; ".join(f"{f.activation} trial {f.trial}: {f.message}" for f in failures)
        raise (UserError if all(f.wrong_input for f in failures) else RunFailed)(text)
