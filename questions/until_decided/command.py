"""Train until the answer is decided: `python train.py --until-decided [--budget 30m] [--margin 5]`.

Trials are added to all activations alike, up to 3, 5, 8, 12 and 20 each. After each step a look: is each activation's
mean PD lower than the baseline's, higher, or practically equal? The run ends when all are decided, at the last look, or
when the time is spent. What a look may conclude is in analysis.sequential, what it reads in
questions.until_decided.looks.

`results_dir/looks.json` keeps the plan, the looks taken and the time spent. Stopped at any moment, the same command
goes on: a look that was taken is not taken again, but compared with the results.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import storage
from analysis.question import asked_of, default_baseline
from analysis.results import load_all_results, study_order
from analysis.sequential import LOOKS
from analysis.study import ALPHA
from cli import duration
from config import Config, UserError, option
from questions.until_decided import looks
from training import experiment, pool
from training.forecast import forecast

MARGIN = 5  # percent of PD
HEARTBEAT = 5  # seconds between two writes of the time spent: so much is lost when the process is killed
_UNITS = {"s": 1, "m": 60, "h": 3600}


def run(session) -> None:
    """What train.py does on --until-decided."""
    session.until_decided(session.args.budget, session.args.margin)


def until_decided(
    config: Config,
    names: Sequence[str],
    run_study: Callable[..., dict],
    line: Callable[[str], None],
    budget: str | float | None = None,
    margin: float | None = None,
) -> dict:
    """Train and look until every comparison with the baseline is decided.

    `run_study(config, names)` trains what is missing and returns {activation: results}; `line` shows a line to the
    user. `budget`: the time that all runs of this procedure may take together, as `seconds_of` reads it; None: no
    limit. A look is begun only when its trials fit, by the time that trials took so far; begun, it is finished.
    `margin`: percent of PD that is practically nothing (default 5), the same at all looks.

    Returns the record, as in `results_dir/looks.json`: see questions.until_decided.looks.

    Raises:
        UserError: wrong input; another margin or other activations than at the first look.
        StorageError: the record is damaged, or the results contradict it.
        As run_study.
    """
    names, limit = study_order(dict.fromkeys(names)), None if budget is None else seconds_of(budget)
    baseline = config.baseline or default_baseline(names)
    if baseline not in names or len(names) < 2:
        raise UserError(f"each PD is compared with that of {baseline}: name {baseline} and at least one other")
    lock = storage.FileLock(Path(config.results_dir) / ".looks.lock")
    if not lock.acquire(wait=False):
        raise UserError(f"{config.results_dir}: another process trains this study until it is decided; wait or stop it")
    try:
        with _Record(config, names, baseline, margin) as record:
            _go_on(record, run_study, line, limit)
        return record.contents
    finally:
        lock.release()


def seconds_of(budget: str | float) -> float:
    """Seconds from a time such as 90s, 30m, 1.5h, or from a number of seconds.

    Raises:
        UserError: anything else, or nothing left.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", budget.strip()) if isinstance(budget, str) else None
    seconds = float(match[1]) * _UNITS[match[2]] if match else storage.number(budget)
    if seconds is None or seconds <= 0:
        raise UserError(f"budget={budget!r}: must be a time above 0 such as 90s, 30m or 2h")
    return seconds


class _Record:
    """looks.json while trials are under way: within, the time spent is written every few seconds."""

    def __init__(self, config: Config, names: list[str], baseline: str, margin: float | None):
        self.config, self.path = config, storage.looks_path(config.results_dir)
        self.contents = _agreed(looks.load(config.results_dir), names, baseline, margin, self.path)
        self.before, self.start = self.contents["seconds_spent"], time.monotonic()
        self._writing, self._done = threading.Lock(), threading.Event()
        self._beat = threading.Thread(target=self._keep, daemon=True)

    @property
    def plan(self) -> dict:
        return self.contents["plan"]

    @property
    def taken(self) -> list[dict]:
        return self.contents["looks"]

    @property
    def spent(self) -> float:
        return self.before + time.monotonic() - self.start

    def write(self) -> None:
        with self._writing:
            self.contents["seconds_spent"] = round(self.spent, 1)
            storage.write_json(self.path, self.contents)

    def _keep(self) -> None:
        while not self._done.wait(HEARTBEAT):
            try:
                self.write()
            except storage.StorageError:  # the next look's write says so
                return

    def __enter__(self) -> _Record:
        self._beat.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._done.set()
        self._beat.join()
        if kind is None or not issubclass(kind, (UserError, storage.StorageError)):  # those refuse, and leave no trace
            self.write()


def _agreed(recorded: dict | None, names: list[str], baseline: str, margin: float | None, path: Path) -> dict:
    """The record to go on with. The plan is fixed at the first look: chosen later it could follow the data."""
    share = storage.number(MARGIN if margin is None else margin)
    if share is None or not 0 < share < 100:
        raise UserError(f"margin={margin!r}: must be a number of percent above 0 and below 100")
    plan = {"activations": names, "baseline": baseline, "margin": share / 100, "looks": list(LOOKS), "alpha": ALPHA}
    begun = {"schema_version": looks.SCHEMA_VERSION, "looks": [], "trained": 0, "seconds_spent": 0.0}
    if recorded is None or not recorded["looks"]:
        return {**begun, **(recorded or {}), "plan": plan, "ended": None}
    fixed = recorded["plan"]
    other = looks.baseline_of(fixed)
    asked = baseline != other and [question["baseline"] for question in asked_of(path.parent)[-1:]] == [baseline]
    margin_fixed = f"the margin was fixed at {looks.percent(fixed['margin'])} by the first look; leave it out"
    names_fixed = f"the activations were fixed by the first look; give --activation {' '.join(fixed['activations'])}"
    baseline_fixed = f"the baseline was fixed by the first look; give {option('baseline', other)}"
    for differs, refusal in (
        (margin is not None and plan["margin"] != fixed["margin"], margin_fixed),
        (names != fixed["activations"], names_fixed),
        (baseline != other and not asked, baseline_fixed),
    ):
        if differs:
            raise UserError(f"{path}: {refusal}, or use another folder ({option('study', 'NAME')})")
    if asked:  # another question was asked of these results, and the report counts it: its looks begin with the first
        path.replace(path.with_name(f"looks_against_{storage.file_name(other)}.json"))
        return {**begun, "plan": plan, "ended": None}
    return {**recorded, "ended": None}


# -- the procedure ----------------------------------------------------------------------------------------------------


def _go_on(record: _Record, run_study: Callable, line: Callable, limit: float | None) -> None:
    plan = record.plan
    if record.taken:
        _refuse_contradictions(record, _results_there(record, run_study))
        line(f"going on after the look at {record.taken[-1]['trials']} trials")
    while not (ended := _ended(record)):
        look = plan["looks"][len(record.taken)]
        missing = _missing(record, look)
        if limit is not None and missing:
            needed, left = _seconds_needed(record, missing), limit - record.spent
            if needed > left:
                line(
                    f"the look at {look} trials is not begun: it takes about {duration(needed)}, and "
                    f"{duration(max(0, left))} of {duration(limit)} are left; a larger budget goes on from here"
                )
                ended = "budget"
                break
        record.contents["trained"] = max(record.contents["trained"], len(missing))  # a stopped run began with more
        results = run_study(record.config.replace(trials_per_activation=look), plan["activations"])
        _refuse_contradictions(record, results)
        _take(record, look, results)
        for text in _said(record, results):
            line(text)
    record.contents["ended"] = ended
    if ended != "budget":
        line(f"until decided: {looks.ENDED[ended]}, after {duration(record.spent)}")


def _ended(record: _Record) -> str | None:
    if record.taken and not looks.undecided(record.taken[-1]):
        return "decided"
    return "last look" if len(record.taken) == len(record.plan["looks"]) else None


def _results_there(record: _Record, run_study: Callable) -> dict[str, dict]:
    """The results on the disk, measured again from the checkpoints where they are missing."""
    results, names = load_all_results(record.config.results_dir), record.plan["activations"]
    if set(names) <= results.keys():
        return results
    return run_study(record.config.replace(trials_per_activation=record.taken[-1]["trials"]), names)


def _refuse_contradictions(record: _Record, results: dict[str, dict]) -> None:
    if problems := looks.derive_looks(results, record.contents):
        raise storage.StorageError(
            f"{record.path}: {problems[0]}; restore the results, or, if they are of new trials, move "
            f"{record.path.name} away to begin the looks again"
        )


def _take(record: _Record, look: int, results: dict[str, dict]) -> None:
    trials = [taken["trials"] for taken in record.taken]
    new = looks.take(results, record.plan, [*trials, look])[-1]
    before = sum(taken["seconds"] for taken in record.taken)
    new |= {"trained": record.contents["trained"], "seconds": round(record.spent - before, 1)}
    record.contents["looks"] = [*record.taken, new]
    record.contents["trained"] = 0
    record.write()


def _missing(record: _Record, look: int) -> dict[tuple[str, int], float]:
    """{(activation, trial): the share of it that is still to be trained} of the trials that a look needs."""
    config = record.config
    done = {name: storage.trial_numbers(config.checkpoint_dir, name) for name in record.plan["activations"]}
    wanted = [(name, k) for name in done for k in range(1, look + 1) if k not in done[name]]
    return {task: experiment.share_left(config, *task) for task in wanted}


def _seconds_needed(record: _Record, missing: dict) -> float:
    """How long the missing trials take: by the time of those trained so far, all included; before any, by the time of a
    step."""
    trials = sum(missing.values())
    if per_trial := _seconds_per_trial(record):
        return trials * per_trial
    from prepare_data import load_corpus

    config = record.config
    costs = experiment.measured_costs(config, record.plan["activations"][0], load_corpus(config))
    workers, activations = pool.default_workers(config, len(missing)), len(record.plan["activations"])
    return forecast(config, costs, missing, workers, pool.places(config), activations=activations).total


def _seconds_per_trial(record: _Record) -> float | None:
    measured = [look for look in record.taken if look["trained"]]
    trials = sum(look["trained"] for look in measured)
    return sum(look["seconds"] for look in measured) / trials if trials else None


# -- in words ---------------------------------------------------------------------------------------------------------


def _said(record: _Record, results: dict[str, dict]) -> list[str]:
    """What a look found, and what it takes to decide the rest."""
    look, plan, last = record.taken[-1], record.plan, record.plan["looks"][-1]
    rest, line = looks.undecided(look), looks.look_line(look, plan)
    if not rest or look["trials"] >= last:
        return [line]
    needed = looks.look_that_decides(results, plan, look)
    trials, per_trial = len(_missing(record, needed or last)), _seconds_per_trial(record)
    cost = f"{trials} more in all" + (f", about {duration(trials * per_trial)}" if per_trial else "")
    at = f"{needed} trials ({cost})" if needed else f"more than the {last} trials of the last look, if at all"
    return [
        line,
        f"to decide {looks.names_of(rest)}: a difference of {looks.percent(plan['margin'])} would be seen with 80 % "
        f"power at {at}{'' if needed else f'; all looks: {cost}'}",
    ]
