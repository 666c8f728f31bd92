"""Train, measure and plot one activation after another: `run_experiment` and the command line.

    python train.py --activation smelu_05        # three trials, results, checkpoints, figures of one activation
    python train.py                              # all five activations, then table, comparison figure and report

Stop it at any moment; the same command goes on where it was. torch is imported only when there is something to train,
so that --help, --status and mistyped arguments are answered at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import activations
import storage
from config import Config, Parser, RunFailed, UserError, add_arguments, from_args
from training import ranks


def train_trial(config: Config, activation: str, trial: int, **options) -> dict:
    """Train one trial in this process and return its record; see trial.train_trial."""
    from training import trial as trials

    return trials.train_trial(config, activation, trial, **options)


def load_trial(path):
    """(model in eval mode, tokenizer, record) from a checkpoint; see trial.load_trial."""
    from training import trial as trials

    return trials.load_trial(path)


def run_experiment(config: Config, activation: str, **options):
    """Train the trials of one activation (those not done yet), measure, save and plot.

    Args:
        config: the settings; see Config.
        activation: a name of `activations.list_activations()`.
        options: of run_study (overwrite, quiet, strict_audit, tensorboard).

    Returns:
        (results, models, tokenizer): the dict that is also in `results_dir/{activation}_results.json`, the trained
        models in eval mode in the order of the trials (diverged ones left out), and the tokenizer.

    Raises:
        UserError: wrong input, or what lies in the folders belongs to other settings.
        RunFailed: a trial failed; the others are kept.
    """
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
) -> dict[str, dict]:
    """Train all missing trials of the named activations side by side; finish each activation as its last trial ends.

    Returns {activation: results}. Finished trials of the same settings are reused; with `overwrite` they are trained
    anew. `strict_audit=False` records a failed audit and goes on. `run` trains in the place of pool.run_trials.
    `tensorboard` is a folder in which the curves are logged for TensorBoard; see tensorboard_log.py.
    """
    _check_names(names)
    _refuse_other_names(config, names)
    from models import architectures
    from prepare_data import load_corpus
    from training import pool

    architectures.check_model_name(config.model)
    display, board = Display(quiet), None
    if tensorboard is not None:
        from tools.tensorboard_log import Board

        board = Board(tensorboard, config, lambda text: print(f"train.py: {text}", file=sys.stderr))
    corpus = load_corpus(config)
    if overwrite:
        for name in names:
            _remove(config, name)
    from training import experiment

    tasks = []
    for name in names:
        tasks += [(name, k) for k in experiment.missing_trials(config, name, corpus)]
    experiment.refuse_other_settings(config, names)
    if tasks and not run:
        ranks.check_ranks(config, 1)
    experiment.tidy(config, names)
    audits = experiment.audit_before(config, names, corpus, strict_audit, display) if tasks else {}
    # one process at a time measures, draws and compares: another one of the same study then finds it done
    results_lock = storage.FileLock(Path(config.results_dir) / ".lock")
    finished: dict[str, dict] = {}

    def finish(name):
        training = any(unfinished.values())
        with results_lock:
            threads = None if training else pool.usable_cores()
            finished[name] = experiment.finish(config, name, corpus, audits.get(name), display, threads)
            if board:
                board.finished(finished[name])

    def report(event):
        display.event(event)
        if board:
            board.event(event)

    if board:
        board.begin(tasks)
    unfinished = {name: {k for n, k in tasks if n == name} for name in names}
    if tasks:
        workers = pool.default_workers(config, len(tasks))
        display.announce(config, names, tasks, workers, corpus, experiment.seconds_per_step(config, names[0], corpus))
    for name in names:
        if not unfinished[name]:
            finish(name)
    failures = []
    if tasks:
        with display.progress(config, tasks):
            # a fresh process can't make an activation that was registered in this one
            here = not all(activations.importable(name) for name in names)
            outcomes = (run or (pool.run_here if here else pool.run_trials))(config, tasks, report, workers)
            # under torchrun an interrupt is a request that every step hears: raised, it would leave no snapshot
            for outcome in outcomes if run else _interruptible(outcomes):
                display.outcome(outcome)
                if outcome.status == "failed":
                    failures.append(outcome)
                elif outcome.status == "interrupted":
                    raise KeyboardInterrupt
                else:
                    unfinished[outcome.activation].discard(outcome.trial)
                    if not unfinished[outcome.activation]:
                        finish(outcome.activation)
    if failures:
        text = "; ".join(f"{f.activation} trial {f.trial}: {f.message}" for f in failures)
        raise (UserError if all(f.wrong_input for f in failures) else RunFailed)(text)
    with results_lock:
        experiment.update_comparison(config, display)
    if board and board.problem:  # all else is done; the same command writes the log alone
        raise board.problem
    return {name: finished[name] for name in names}


def _remove(config: Config, name: str) -> None:
    """Delete what an activation left: asked for by --overwrite. Refused while another process trains it."""
    folder = Path(config.checkpoint_dir) / storage.file_name(name)
    for number in storage.trial_numbers(config.checkpoint_dir, name, "lock"):
        lock = storage.FileLock(folder / f"trial_{number}.lock")
        if not lock.acquire(wait=False):
            raise UserError(
                f"--overwrite: another process is training trial {number} of {name}; wait for it or stop it"
            )
        lock.release()
    for path in [*folder.glob("trial_*"), storage.results_path(config.results_dir, name)]:
        if path.is_file() and path.suffix in (".pt", ".json", ".snapshot"):
            path.unlink()


# -- what the user sees -------------------------------------------------------------------------------------------


class Display:
    """Progress for a person: a bar with the time left on a terminal, one line per point of the curves otherwise."""

    def __init__(self, quiet: bool):
        self.quiet, self.bar, self.steps = quiet, None, {}

    def line(self, text: str) -> None:
        if self.quiet:
            return
        if self.bar is not None and not self.bar.disable:
            self.bar.write(text)
        else:
            print(text, flush=True)

    def announce(self, config, names, tasks, workers, corpus, seconds_per_step) -> None:
        """What will run and about how long it takes, before it starts."""
        from training import pool

        at_once = min(workers, pool.places(config))
        seconds = 1.15 * seconds_per_step * config.max_iters * len(tasks) / at_once + 5
        self.line(
            f"{corpus.name}: {corpus.info['characters']:,} characters, {len(corpus.train):,} + {len(corpus.val):,} "
            f"tokens, vocabulary {corpus.vocab_size}"
        )
        self.line(
            f"{config.model} {config.n_layer} layers × {config.n_embd} wide, context {config.block_size}; "
            f"{config.max_iters} steps of {config.batch_size} × {config.block_size} tokens; {config.device}, "
            f"{config.precision}"
        )
        at_a_time = f"{workers} at a time" if config.data_parallel == 1 else f"each on {config.data_parallel} ranks"
        self.line(
            f"{len(tasks)} {'trial' if len(tasks) == 1 else 'trials'} to train ({', '.join(names)}), {at_a_time}: "
            f"about {_duration(seconds)}"
        )

    def progress(self, config, tasks):
        from tqdm import tqdm

        self.bar = tqdm(
            total=len(tasks) * config.max_iters,
            unit="step",
            disable=self.quiet or not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )
        return self.bar

    def event(self, event: dict) -> None:
        if event["event"] == "note":
            self.line(event["text"])
            return
        task = (event["activation"], event["trial"])
        if self.bar is not None and event["event"] == "step":
            self.bar.update(event["step"] - self.steps.get(task, 0))
            self.steps[task] = event["step"]
            self.bar.set_description(f"{task[0]} trial {task[1]}: loss {event['loss']:.3f}", refresh=False)
        if event["event"] == "point" and (self.bar is None or self.bar.disable):
            self.line(
                f"{task[0]} trial {task[1]} step {event['step']:>6}  train {event['train_loss']:.4f}  "
                f"val {event['val_loss']:.4f}  lr {event['learning_rate']:.2e}  |g| {event['grad_norm']:.2f}"
            )

    def outcome(self, outcome) -> None:
        text = f"{outcome.activation} trial {outcome.trial}: {outcome.status}"
        if outcome.status in ("diverged", "failed"):
            text += f" ({outcome.message})"
        self.line(text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


# -- the command line ---------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(prog="train.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--activation", nargs="+", default=["all"], metavar="NAME", help="one or more activations, or all (default)"
    )
    parser.add_argument("--overwrite", action="store_true", help="train anew what is there already")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--tensorboard", metavar="DIR", help="log the curves for TensorBoard in DIR (needs the package tensorboard)"
    )
    parser.add_argument("--audit-only", action="store_true", help="check the experiment's integrity, train nothing")
    parser.add_argument(
        "--no-strict-audit", action="store_true", help="record a failed integrity check and go on nevertheless"
    )
    parser.add_argument("--status", action="store_true", help="how far every trial is; works while others train")
    parser.add_argument(
        "--decompose", action="store_true", help="how much each source of randomness alone makes differ"
    )
    parser.add_argument("--sample", metavar="NAME", help="what the trials of an activation write after --prompt")
    parser.add_argument("--prompt", default="\n", metavar="TEXT", help="where --sample begins (default: a new line)")
    parser.add_argument("--list-activations", action="store_true", help="names, formulas and sources, then exit")
    parser.add_argument("--list-models", action="store_true", help="models by name, then exit")
    parser.add_argument("--list-datasets", action="store_true", help="corpora by name, then exit")
    add_arguments(parser)
    return parser


def _names(given: list[str]) -> list[str]:
    """Activations from the command line: `all` is the five of the study; each name once."""
    names = []
    for name in given:
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


def _refuse_other_names(config: Config, names: list[str]) -> None:
    """Refuse to train a function whose results or models lie in the folders under another of its names: the report
    would list it twice, as two activations that happen to agree."""
    there: dict[str, Path] = {}
    for path in sorted(Path(config.results_dir).glob("*_results.json")):
        there.setdefault(storage.activation_name(path.name.removesuffix("_results.json")), path)
    for folder in sorted(Path(config.checkpoint_dir).glob("[!.]*")):
        if any(folder.glob("trial_*.pt")) or any(folder.glob("trial_*.snapshot")):
            there.setdefault(storage.activation_name(folder.name), folder)
    asked = {activations.canonical_name(name): name for name in names}
    for other, path in there.items():
        try:
            name = asked.get(activations.canonical_name(other), other)
        except UserError:  # not a name of ours: another tool's results
            continue
        if name != other:
            raise UserError(
                f"{path}: {other} and {name} are the same function; go on with --activation {other}, move it away, or "
                f"use another folder (--study NAME)"
            )


def _main(argv) -> int:
    args = _parser().parse_args(argv)
    if args.list_activations:
        for info in activations.list_activations():
            print(f"{info.name:12} {info.formula}   [{info.smoothness}; {info.source}]")
        return 0
    if args.list_models:
        from models.architectures import list_models

        for name, description in list_models():
            print(f"{name:8} {description}")
        return 0
    if args.list_datasets:
        from prepare_data import list_datasets

        for name, description in list_datasets():
            print(f"{name:18} {description}")
        return 0
    names = _names(args.activation)
    if args.data_parallel == "all":
        args.data_parallel = ranks.all_ranks()
    config = from_args(args)
    if args.status:
        from tools.status import print_status

        print_status(config, names if args.activation != ["all"] else None)
        return 0
    if args.sample is not None:
        from tools.sample import print_samples

        activations.get_info(args.sample)
        print_samples(config, args.sample, args.prompt)
        return 0
    if args.decompose:
        from tools.decompose import decompose, print_table

        def sources(run=None):
            options = {"quiet": args.quiet, "tensorboard": args.tensorboard}
            options["overwrite"] = args.overwrite and not ranks.restarted()
            for name in names:
                print_table(decompose(config, name, run=run, **options))

        if config.data_parallel > 1:
            ranks.share(config, sources)
        else:
            sources()
        return 0
    if args.audit_only:
        from prepare_data import load_corpus
        from training import experiment

        checks = experiment.audit_before(config, names, load_corpus(config), False, Display(args.quiet))
        return 0 if all(check["status"] != "fail" for listed in checks.values() for check in listed) else 1
    start = time.monotonic()
    rank, size = ranks.rank_and_size()
    options = {"quiet": args.quiet, "strict_audit": not args.no_strict_audit, "tensorboard": args.tensorboard}
    if size > 1:
        together = config.data_parallel > 1
        config = config.replace(workers=1 if together else size)  # how many trials are trained side by side
        options["overwrite"] = args.overwrite and not ranks.restarted()
        train = ranks.share if together else ranks.spread
        train(config, lambda run: run_study(config, names, run=run, **options))
    else:
        run_study(config, names, args.overwrite, **options)
    Display(args.quiet or rank > 0).line(f"done in {_duration(time.monotonic() - start)}")
    return 0


# -- interrupts ---------------------------------------------------------------------------------------------------

INTERRUPTED = "train.py: interrupted; everything is saved, and the same command goes on from here"
AT_ONCE = "train.py: stopped at once; what was saved before is kept, and the same command goes on from here"


@contextlib.contextmanager
def _on_interrupt(handler) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM call `handler`. Only a main thread can set that; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _leave(*_):
    """While no trial is under way all that is worth keeping is on the disk. An exception, on the other hand, may land
    in the middle of an import, which can swallow it and leave half a module behind."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def _raise(*_):
    raise KeyboardInterrupt


def _interruptible(outcomes: Iterator) -> Iterator:
    """The outcomes. While one is waited for, an interrupt is raised there, where the trials under way are saved."""
    while True:
        with _on_interrupt(_raise):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done, 1 a run failed, 2 wrong input, 130 interrupted with everything saved."""
    try:
        with _on_interrupt(_leave):
            return _main(argv)
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except (storage.StorageError, RunFailed) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(AT_ONCE if stopped.args else INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as in `| head`
        return 1


if __name__ == "__main__":
    sys.exit(main())
