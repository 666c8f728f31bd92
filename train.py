"""Train, measure and plot one activation after another: `run_experiment` and the command line.

    python train.py --activation smelu_05        # three trials, results, checkpoints, figures of one activation
    python train.py                              # all five activations, then table, comparison figure and report

Stop it at any moment; the same command goes on where it was. Imports inside of functions keep torch, pandas and
matplotlib out of what is answered without them, at once: --help, --status and mistyped arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.flags.safe_path:  # python -I and -P leave the program's own folder out
    sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":  # before anything that may be missing is imported
    from cli import require_packages

    require_packages("train.py")

import activations
import cli as streams
import questions
import storage
from config import (
    Config,
    Parser,
    RunFailed,
    UserError,
    add_arguments,
    from_args,
    lacking,
    option,
)
from tools import study_file
from training import ranks
from training.progress import Display


def train_trial(config: Config, activation: str, trial: int, corpus=None, **options) -> dict:
    """Train one trial in this process and return its record; see trial.train_trial. `corpus`: default, the config's."""
    from prepare_data import load_corpus
    from training import trial as trials

    return trials.train_trial(config, activation, trial, corpus or load_corpus(config), **options)


def load_trial(path):
    """(model in eval mode, tokenizer, record) from a checkpoint; see experiment.load_trial."""
    from training import experiment

    return experiment.load_trial(path)


class Interrupted(KeyboardInterrupt):
    """Asked to stop. Its text is the line for the user, which an interactive session shows without a traceback."""

    def _render_traceback_(self):  # asked for by IPython and notebooks
        return [str(self)]


def run_experiment(config: Config, activation: str, **options):
    """Train the trials of one activation (those not done yet), measure, save and plot.

    Args:
        config: the settings; see Config.
        activation: a name of `activations.list_activations()`.
        options: of run_study (overwrite, quiet, strict_audit, tensorboard, track, display).

    Returns:
        (results, models, tokenizer): the dict that is also in `results_dir/{activation}_results.json`, the trained
        models in eval mode in the order of the trials (diverged ones left out), and the tokenizer.

    Raises:
        UserError: wrong input, or what lies in the folders belongs to other settings.
        RunFailed: a trial failed; the others are kept.
        Interrupted: a KeyboardInterrupt, with everything saved.
    """
    _check_names([activation])
    if unknown := options.keys() - inspect.signature(run_study).parameters.keys():
        raise TypeError(f"run_experiment() has no option {min(unknown)!r}: settings are the config's")
    results = run_study(config, [activation], **options)[activation]
    models, tokenizer = [], None
    for record in results["trials"]:
        if record["status"] == "done":
            path = storage.checkpoint_path(config.checkpoint_dir, activation, record["trial_id"])
            model, tokenizer, _ = load_trial(path)
            models.append(model)
    if tokenizer is None:  # every trial diverged: a result too
        from prepare_data import load_corpus

        tokenizer = load_corpus(config).tokenizer
    return results, models, tokenizer


def run_study(
    config: Config,
    names: list[str],
    overwrite: bool = False,
    quiet: bool = False,
    strict_audit: bool = True,
    run: Callable | None = None,
    tensorboard: str | os.PathLike | None = None,
    track: str | None = None,
    below: str | None = None,
    display: Display | None = None,
) -> dict[str, dict]:
    """Train all missing trials of the named activations side by side; finish each activation as its last trial ends.

    Returns {activation: results}. Finished trials of the same settings are reused; with `overwrite` they are trained
    anew. Settings that were left to the machine (device, precision, native, threads) are those of what lies in the
    folders already. `strict_audit=False` records a failed audit and goes on. `run` trains in the place of
    pool.run_trials (under torchrun: the ranks). `tensorboard` is a folder in which the curves are logged for
    TensorBoard, `track` ("wandb" or "trackio") the tracker that they are logged with, and `below` what the names of
    those runs begin with (default: the study's name); see tools/trackers.py. `display` shows how far it is, in the
    place of a new one.

    Raises as run_experiment.
    """
    try:
        with display or Display(quiet) as display:
            sinks = _sinks(tensorboard, track, below)
            study = _begun(config, names, overwrite, run, strict_audit, sinks, display)
            with contextlib.closing(study):
                study_file.remember(study.config, names)
                study.train()
            _compare(study.config, display)
    except KeyboardInterrupt as stopped:
        text = AT_ONCE if stopped.args == ("at once",) else INTERRUPTED
        raise _shown_in_one_line(Interrupted(text)) from None
    return {name: study.finished[name] for name in names}


def run_until_decided(
    config: Config,
    names: list[str],
    budget: str | float | None = None,
    margin: float | None = None,
    quiet: bool = False,
    strict_audit: bool = True,
    tensorboard: str | os.PathLike | None = None,
    track: str | None = None,
) -> dict:
    """Add trials to all named activations until each one's mean PD is known to be lower than the baseline's (ReLU's,
    where it is among them and `config` names no other), higher, or practically equal: at looks at 3, 5, 8, 12 and 20
    trials, whose errors are those of one test.

    `budget`: the time that all runs together may take, '90s', '30m', '2h' or seconds. `margin`: percent of PD that is
    practically nothing (default 5). The number of trials in `config` doesn't count. Returns what is also in
    `results_dir/looks.json`; see questions/until_decided/command.py.

    Raises as run_experiment; StorageError when results contradict a look that was recorded.
    """
    from questions.until_decided.command import until_decided

    _check_names(names)
    display = Display(quiet)
    config = _with_baseline(config, names, display)
    study = functools.partial(run_study, quiet=quiet, strict_audit=strict_audit, tensorboard=tensorboard, track=track)
    record = until_decided(config, names, study, display.line, budget, margin)
    _compare(config, display)  # the report shows the last look too
    return record


# -- the steps of a study -----------------------------------------------------------------------------------------


def _begun(config, names, overwrite, run, strict_audit, sinks, display) -> _Study:
    """The study, planned and audited. `sinks` makes those who listen to its training, of the config it goes on with."""
    display.phase("loading torch")
    import audit
    from prepare_data import load_corpus
    from training import pool

    config, files = _agreed(_with_baseline(config, names, display), names, overwrite, display)
    sinks = sinks(config)
    _make_folders(config)
    display.phase("reading the text")
    corpus = load_corpus(config)
    tasks = _planned(config, names, files, corpus, overwrite, display)
    study = _Study(config, names, corpus, tasks, display, sinks, run)
    if tasks and not run and not study.here:
        study.crew = pool.Crew(config, study.workers)  # it loads torch beside the audit
    try:
        if tasks:
            study.audits = audit.before_study(config, names, corpus, strict_audit, display)
        if overwrite:
            for name in names:
                _remove(config, name)
    except BaseException:
        study.close()
        raise
    return study


def _agreed(config: Config, names: list[str], overwrite: bool, display: Display) -> tuple[Config, list]:
    """The config with which the study goes on, and what lies in its folders and stays. Nothing is written. Raises
    UserError: a wrong name, or what is there was trained with other settings."""
    from models import architectures
    from training import experiment, parts

    _check_names(names)
    files = experiment.existing_files(config)
    _refuse_other_names(files, names)
    architectures.check_model_name(config.model)
    files = [file for file in files if not (overwrite and file.activation in names)]
    config, said = experiment.going_on_with(config, files)
    experiment.refuse_other_settings(config, names, files)
    parts.check(config)
    if said:
        display.line(said)
    return config, files


def _with_baseline(config: Config, names: list[str], display: Display) -> Config:
    """The config with its baseline named where it isn't ReLU: as in the results that are there, else the first one
    named, which is said. Raises UserError: what the question names is no activation."""
    from analysis.question import REFERENCE

    _check_names([*([] if config.baseline is None else [config.baseline]), *config.contrast])
    measured = storage.results_path(config.results_dir, REFERENCE).exists()
    if config.baseline is not None or REFERENCE in names or measured:
        return config
    for path in sorted(Path(config.results_dir).glob("[!.]*_results.json")):
        with contextlib.suppress(storage.StorageError, AttributeError, TypeError):
            if isinstance(recorded := storage.read_json(path)["config"].get("baseline"), str):
                return config.replace(baseline=recorded)
    if len(names) > 1:
        display.line(
            f"baseline: {names[0]}, the first one named, since relu is not among them ({option('baseline', 'NAME')})"
        )
    return config.replace(baseline=names[0])


def _make_folders(config: Config) -> None:
    """Refuse before anything runs what could not be saved in the end."""
    for name in ("results_dir", "plots_dir", "checkpoint_dir", "data_dir"):
        folder = getattr(config, name)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(f"{name}={folder!r}: can't be made a folder ({error.strerror}); give another") from None
        # a prepared corpus may lie where nothing can be written
        if name != "data_dir" and not os.access(folder, os.W_OK | os.X_OK):
            why = "a read-only disk" if os.statvfs(folder).f_flag & os.ST_RDONLY else "permission denied"
            raise UserError(f"{name}={folder!r}: {why}; make it writable or give another folder")


def _sinks(tensorboard: str | os.PathLike | None, track: str | None, below: str | None) -> Callable[[Config], list]:
    """A function of the config that makes those who listen to the training; each has event, finished and close.

    Raises:
        UserError: a tracker that is not there, or a folder that can't be written.
    """
    if tensorboard is None and track is None:
        return lambda config: []
    from tools.trackers import Sink, TensorBoard, Tracker

    def tell(text: str) -> None:
        print(f"train.py: {text}", file=sys.stderr)

    trackers = [] if tensorboard is None else [TensorBoard(tensorboard)]
    trackers += [] if track is None else [Tracker(track, tell)]
    return lambda config: [Sink(tracker, config, below, tell) for tracker in trackers]


def _planned(config, names, files, corpus, overwrite, display) -> list[tuple[str, int]]:
    """The trials to train. Raises UserError: what is there was trained on another text, or this machine can't train
    such trials."""
    from training import experiment

    experiment.refuse_other_settings(config, names, files, corpus)
    tasks = []
    for name in names:
        wanted = range(1, config.trials_per_activation + 1)
        numbers = wanted if overwrite else experiment.missing_trials(config, name, corpus)
        tasks += [(name, k) for k in numbers]
        more = 0 if overwrite else len(experiment.existing_trials(config, name)) - len(wanted)
        if more > 0:
            asked, elsewhere = option("trials_per_activation", len(wanted)), option("study", "NAME")
            display.line(
                f"{name}: {len(wanted) + more} trials are there, more than {asked}: all count; for {len(wanted)} alone "
                f"give {elsewhere}"
            )
    if not tasks:
        return []
    if lacks := lacking(config):
        rest = " and ".join(f"{name} ({why})" for name, why in lacks.items())
        raise UserError(f"{config.checkpoint_dir}: its trials have {rest}; go on with them on a machine that has it")
    display.line(config.how_computed())
    return tasks


class _Study:
    """A study whose trials are under way: each activation is measured and drawn as its last trial ends."""

    def __init__(self, config: Config, names: list[str], corpus, tasks: list, display: Display, sinks, run):
        self.config, self.names, self.corpus, self.tasks = config, names, corpus, tasks
        self.display, self.sinks = display, sinks
        self.run: Callable | None = run  # what trains in the place of pool.run_trials
        self.audits: dict[str, list[dict]] = {}  # of each activation the checks before training
        self.crew = None  # pool.Crew: who trains, where that is other processes of this machine
        self.unfinished = {name: {k for n, k in tasks if n == name} for name in names}
        self.finished: dict[str, dict] = {}

    def train(self) -> None:
        """Train the tasks and finish their activations.

        Raises:
            KeyboardInterrupt: everything is saved.
            UserError, RunFailed: trials failed; the others are kept.
        """
        from training import experiment

        experiment.tidy(self.config, self.names)
        if self.tasks:
            self._announce()
        for name in self.names:
            if not self.unfinished[name]:
                self.finish(name)
        failures = self._outcomes() if self.tasks else []
        if failures:
            text = "; ".join(f"{f.activation} trial {f.trial}: {f.message}" for f in failures)
            raise (UserError if all(f.wrong_input for f in failures) else RunFailed)(text)

    @property
    def here(self) -> bool:
        """Whether the trials are trained in this process: a fresh one can't make an activation that was registered in
        this one."""
        return not all(activations.importable(name) for name in self.names)

    @property
    def workers(self) -> int:
        """How many processes train."""
        from training import pool

        return 1 if self.here and not self.run else pool.default_workers(self.config, len(self.tasks))

    def _announce(self) -> None:
        """Say what will run and how long it takes, from costs that are measured here."""
        from training import experiment, pool
        from training.forecast import forecast

        config, tasks = self.config, self.tasks
        self.display.phase("timing a step")
        costs = experiment.measured_costs(config, tasks[0][0], self.corpus)
        left = {task: experiment.share_left(config, *task) for task in tasks}
        places = pool.places(config) * ranks.machines()
        results = {storage.results_path(config.results_dir, name) for name in self.names}
        expected = forecast(
            config,
            costs,
            left,
            self.workers,
            places,
            fresh=not (self.run or self.here),
            threads=pool.usable_cores() if config.device == "cpu" else 1,
            trials={n: len(experiment.existing_trials(config, n)) + len(k) for n, k in self.unfinished.items() if k},
            activations=len(results.union(Path(config.results_dir).glob("*_results.json"))),
        )
        at_once = min(self.workers, pool.at_once(config, len(tasks)))
        self.display.announce(config, left, at_once, self.corpus, expected)
        sharing = max(1.0, at_once / places)
        experiment.announce_trials(config, {task: seconds * sharing for task, seconds in expected.work.items()})
        if self.run:  # other ranks train too
            self.display.elsewhere = functools.partial(experiment.steps_done, config)
        self.display.phase("training")

    def _outcomes(self) -> list:
        """Wait for the trials; returns those that failed."""
        from training import pool

        failures = []
        train = self.run or (pool.run_here if self.here else functools.partial(pool.run_trials, crew=self.crew))
        outcomes = train(self.config, self.tasks, self.report, self.workers)
        # under torchrun an interrupt is a request that every step hears: raised, it would leave no snapshot
        for outcome in outcomes if self.run else _interruptible(outcomes):
            self.display.outcome(outcome)
            if outcome.status == "failed":
                failures.append(outcome)
            elif outcome.status == "interrupted":
                raise KeyboardInterrupt
            else:
                self.unfinished[outcome.activation].discard(outcome.trial)
                if not self.unfinished[outcome.activation]:
                    self.finish(outcome.activation)
        return failures

    def report(self, event: dict) -> None:
        self.display.event(event)
        for sink in self.sinks:
            sink.event(event)

    def close(self) -> None:
        if self.crew:
            self.crew.dismiss(graceful=True)
        for sink in self.sinks:
            sink.close()

    def finish(self, name: str) -> None:
        """Measure and draw an activation all of whose trials are done."""
        import analyze_results  # noqa: F401 — now, while others train: the comparison in the end needs it
        import audit
        from analysis.checks import after_training
        from training import experiment, pool

        def before() -> list[dict]:
            made = self.audits.get(name)
            return audit.before_training(self.config, name, self.corpus) if made is None else made

        threads = None if any(self.unfinished.values()) else pool.usable_cores()
        self.display.phase("measuring")
        with _results_lock(self.config):
            results = experiment.finish(self.config, name, self.corpus, before, after_training, self.display, threads)
            self.display.phase("drawing")
            _draw(self.config, results)
        self.display.finished(results, storage.results_path(self.config.results_dir, name), self.config)
        self.display.phase("training" if any(self.unfinished.values()) else "comparing")
        self.finished[name] = results
        for sink in self.sinks:
            sink.finished(results)


def _results_lock(config: Config) -> storage.FileLock:
    """One process at a time measures, draws and compares: another one of the same study then finds it done."""
    return storage.FileLock(Path(config.results_dir) / ".lock")


def _draw(config: Config, results: dict) -> None:
    """The figures of one activation that were not drawn from these results."""
    import plot_utils
    from analysis.products import drawn_from

    name = results["activation"]
    for figure, draw in plot_utils.OF_ONE.items():
        path = Path(config.plots_dir) / f"{storage.file_name(name)}_{figure}.png"
        if drawn_from(path) != draw.data_of(results, name):
            draw(results, name, config.plots_dir)


def _compare(config: Config, display: Display) -> None:
    """Bring table, comparison figures and report up to date once results of two or more activations exist."""
    import analyze_results
    from analysis.question import REFERENCE, ask

    display.phase("comparing")
    with _results_lock(config):
        try:
            measured = analyze_results.load_all_results(config.results_dir)
        except storage.StorageError as error:
            raise storage.StorageError(
                f"{error}; everything trained and measured before is kept, the comparison alone is not made"
            ) from None
        if len(measured) < 2:
            return
        asked = {config.baseline or REFERENCE, *config.contrast}
        if (config.contrast or REFERENCE in measured) and config.baseline and asked <= set(measured):
            ask(config.results_dir, measured, config.baseline, config.contrast or None)
        written = analyze_results.write_all(config.results_dir, config.plots_dir)
    display.line("written: " + ", ".join(str(path) for path in written))


def _remove(config: Config, name: str) -> None:
    """Delete what an activation left: asked for by --overwrite. Refused while another process trains it."""
    folder = Path(config.checkpoint_dir) / storage.file_name(name)
    for number in storage.trial_numbers(config.checkpoint_dir, name, "lock"):
        lock = storage.FileLock(folder / f"trial_{number}.lock")
        if not lock.acquire(wait=False):
            raise UserError(
                f"{option('overwrite')}: another process is training trial {number} of {name}; wait for it or stop it"
            )
        lock.release()
    for path in [*folder.glob("trial_*"), storage.results_path(config.results_dir, name)]:
        if path.is_file() and path.suffix in (".pt", ".json", ".snapshot"):
            path.unlink()


# -- the command line ---------------------------------------------------------------------------------------------


def _parser() -> Parser:
    words = streams.words("train")
    parser = Parser(
        prog="train.py",
        description="Train, measure and plot one activation after another.",
        examples=words["examples"],
        first=words["first"],
    )
    for name, options in words["options"].items():
        number = {"type": int} if isinstance(options.get("default"), int) else {}
        parser.add_argument(f"--{name}", **options, **number)
    settings = parser.add_mutually_exclusive_group()
    for name, options in words["settings"].items():
        settings.add_argument(f"--{name}", **options)
    modes, further = parser.add_mutually_exclusive_group(), questions.hooks("MODES")
    for name, options in (pair for mode in further for pair in mode.options.items()):
        parser.add_argument(f"--{name}", **options)
    listing = {"activations": _list_activations, "models": _list_models, "datasets": _list_datasets}
    own = {"audit-only": _audit, "status": _status, **{f"list-{name}": mode for name, mode in listing.items()}}
    flags = [(f"--{name}", mode, words["modes"][name]) for name, mode in own.items()]
    for flag, mode, text in [*flags, *((mode.flag, mode, mode.help) for mode in further)]:
        modes.add_argument(flag, dest="mode", action="store_const", const=mode, default=_train, help=text)
    modes.add_argument("--sample", metavar="NAME", help=words["modes"]["sample"])
    add_arguments(parser)
    for action in parser._actions:
        if any(action.dest in mode.many for mode in further):
            action.nargs = "+"
    return parser


def _names(given: list[str] | None, default: str = "all") -> list[str]:
    """Activations from the command line: `all` is the five of the study; each name once."""
    names = []
    for name in [default] if given is None else given:
        if "," in name.strip(","):
            raise UserError(f"activation {name!r}: put spaces between names: --activation {' '.join(name.split(','))}")
        names += activations.STUDY if name == "all" else [name]
    names = list(dict.fromkeys(names))
    _check_names(names)
    return names


def _check_names(names: list[str]) -> None:
    """Every name is an activation, and no two are the same function by two names (`smelu_05`, `smelu_0.5`)."""
    seen = {}
    for name in names:
        function = activations.canonical_name(name)
        if seen.setdefault(function, name) != name:
            raise UserError(f"activations {seen[function]} and {name} are the same function; give one of them")


def _refuse_other_names(files: list, names: list[str]) -> None:
    """Refuse to train a function whose results or models lie in the folders under another of its names: the report
    would list it twice, as two activations that happen to agree."""
    asked = {activations.canonical_name(name): name for name in names}
    for file in files:
        other = file.activation
        try:
            name = asked.get(activations.canonical_name(other), other)
        except UserError:  # not a name of ours: another tool's results
            continue
        if name != other:
            place = file.path if file.kind == "results" else file.path.parent
            raise UserError(
                f"{place}: {other} and {name} are the same function; go on with {option('activation', other)}, "
                f"move it away, or use another folder ({option('study', 'NAME')})"
            )


def acts_in() -> dict[str, list]:
    """{flag: the modes in which it acts}."""
    further = questions.hooks("MODES")
    flags = [*ACTS_IN, *(name for mode in further for name in mode.options)]
    return {name: [*ACTS_IN.get(name, ()), *(m for m in further if name in (*m.takes, *m.options))] for name in flags}


def _main(argv) -> int:
    args = _parser().parse_args(argv)
    listed = {name for mode in questions.hooks("MODES") for name in mode.many}
    args.remembered = study_file.fill_in(args, listed) if args.study or args.config else ""
    mode = args.mode if args.sample is None else _sample
    for name, acting in acts_in().items():
        if getattr(args, name) not in (None, False) and mode not in acting:
            one = " or ".join(MODES.get(m) or m.flag for m in acting)
            raise UserError(f"--{name.replace('_', '-')}: is for {one}; give that, or leave it out")
    many = {name: getattr(args, name) for m in questions.hooks("MODES") for name in m.many if getattr(args, name)}
    for name, values in many.items():
        if len(values) > 1 and name not in getattr(mode, "many", ()):
            one = next(m.flag for m in questions.hooks("MODES") if name in m.many)
            raise UserError(f"--{name.replace('_', '-')}: several values are for {one}; give one, or that flag")
        setattr(args, name, values[0])
    return _further(mode, args, many) if isinstance(mode, questions.Mode) else mode(args)


def _settings(args) -> Config:
    """The Config that the flags describe."""
    return from_args(args).replication(args.replicate)


def _options(args) -> dict:
    """Of run_study. A job that torchrun starts again must not undo what its first start did."""
    overwrite = args.overwrite and not ranks.restarted()
    options = {"overwrite": overwrite, "quiet": args.quiet, "strict_audit": not args.no_strict_audit}
    return {**options, "tensorboard": args.tensorboard, "track": args.track}


def _list_activations(args) -> int:
    for info in activations.list_activations():
        print(f"{info.name:12} {info.formula}   [{info.smoothness}; {info.source}]")
    return 0


def _list_models(args) -> int:
    from models.architectures import list_models

    return _listed(list_models(), 8)


def _list_datasets(args) -> int:
    from prepare_data import list_datasets

    return _listed(list_datasets(), 18)


def _listed(rows: list[tuple[str, str]], width: int) -> int:
    print(*(f"{name:{width}} {description}" for name, description in rows), sep="\n")
    return 0


def _status(args) -> int:
    from tools.status import print_status

    print_status(_settings(args), args.activation and _names(args.activation))
    return 0


def _sample(args) -> int:
    from tools.sample import print_samples

    activations.get_info(args.sample)
    print_samples(_settings(args), args.sample, "\n" if args.prompt is None else args.prompt)
    return 0


@dataclass(frozen=True)
class Session:
    """What a mode of a further question (questions.Mode) works with."""

    args: argparse.Namespace
    config: Config
    names: list[str]
    display: Display
    run_study: Callable  # run_study(config, names, **options) -> {activation: results}
    options: dict  # of run_study
    interruptible: Callable  # outcomes of trials -> the same, with interrupts raised while one is waited for
    many: dict[str, list[str]]  # {setting: all values that were given}, of Mode.many

    @property
    def named(self) -> list[str] | None:
        return self.args.activation

    def say(self, text: str) -> None:
        self.display.line(text)

    def until_decided(self, budget: str | None, margin: float | None) -> None:
        options = {name: value for name, value in self.options.items() if name != "overwrite"}
        run_until_decided(self.config, self.names, budget, margin, **options)


def _further(mode: questions.Mode, args, many: dict[str, list]) -> int:
    if args.overwrite and mode.overwrites:
        raise UserError(f"{mode.flag}: {mode.overwrites}")
    if ranks.rank_and_size()[1] > 1:
        raise UserError(f"{mode.flag}: runs in one process; start it without torchrun")
    config, names, display = _settings(args), _names(args.activation, mode.default), Display(args.quiet)
    if args.remembered:
        display.line(args.remembered)
    _make_folders(config)
    mode.run(Session(args, config, names, display, run_study, _options(args), _interruptible, many))
    return 0


def _audit(args) -> int:
    import audit
    from prepare_data import load_corpus

    config, names = _settings(args), _names(args.activation)
    with Display(args.quiet) as display:
        checks = audit.before_study(config, names, load_corpus(config), False, display)
    return 0 if all(check["status"] != "fail" for listed in checks.values() for check in listed) else 1


def _train(args) -> int:
    names = _names(args.activation)
    rank, size = ranks.rank_and_size()
    with Display(args.quiet or rank > 0) as display:
        config = _settings(args)
        if args.remembered:
            display.line(args.remembered)
        if args.like and (changed := config.describe_differences(Config.recorded(args.like))):
            display.line(f"like {args.like}, but for {changed}")
        options = {**_options(args), "display": display}
        if size > 1:
            display.phase("loading torch")
            from training import experiment

            if not args.overwrite:  # all ranks go on with the same device
                config, said = experiment.going_on_with(config, experiment.existing_files(config))
                if said:
                    display.line(said)
            config = config.replace(workers=size)  # how many trials are trained side by side
            ranks.spread(config, lambda run: run_study(config, names, run=run, **options))
        else:
            run_study(config, names, **options)
    display.line(f"done in {streams.duration(time.monotonic() - display.started)}")
    return 0


# -- interrupts ---------------------------------------------------------------------------------------------------

INTERRUPTED = "interrupted; everything is saved, and the same command goes on from here"
AT_ONCE = "stopped at once; what was saved before is kept, and the same command goes on from here"


def _leave(*_):
    """End the process at once: while no trial is under way, all that is worth keeping is on the disk. An exception
    might be raised in the middle of an import, which can swallow it and leave half a module behind."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # the line that says how far it is
    with contextlib.suppress(OSError):
        os.write(2, f"{clear}train.py: {INTERRUPTED}\n".encode())
    os._exit(130)


def _interruptible(outcomes: Iterator) -> Iterator:
    """The outcomes. An interrupt is raised only while one is waited for, since the trials under way are saved there. A
    SIGTERM after that is the same request: job systems send it more than once."""
    asked = []

    def ask(number, frame):
        if not asked or number != signal.SIGTERM:
            asked.append(number)
            raise KeyboardInterrupt

    while True:
        with ranks.on_interrupt(ask):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def _shown_in_one_line(stopped: Interrupted) -> Interrupted:
    """Let the REPL show its text alone, this one time."""
    before = sys.excepthook

    def show(kind, error, traceback):
        sys.excepthook = before
        if error is stopped:
            print(error, file=sys.stderr)
        else:
            before(kind, error, traceback)

    if hasattr(sys, "ps1"):  # an interactive session
        sys.excepthook = show
    return stopped


@streams.answers("train.py")
def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done, 1 a run failed, 2 wrong input, 130 interrupted with everything saved."""
    try:
        with ranks.on_interrupt(_leave):
            return _main(argv)
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(AT_ONCE if stopped.args[:1] in (("at once",), (AT_ONCE,)) else INTERRUPTED) from None
    except BrokenPipeError:  # the reader of our output left, as in `| head`
        return 1


# What an option that changes no setting acts in; elsewhere it is refused.
# the modes by name, and what each flag acts in, beside the modes of further questions
MODES = {_train: "training", _audit: "--audit-only", _sample: "--sample NAME", _status: "--status"}
ACTS_IN = {
    "prompt": (_sample,),
    "tensorboard": (_train,),
    "track": (_train,),
    "overwrite": (_train,),
    "no_strict_audit": (_train,),
    "activation": (_train, _audit, _status),
}


if __name__ == "__main__":
    sys.exit(streams.run(main))
