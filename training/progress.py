"""What a person sees of a study under way: what will run, how far it is, what came out."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import storage
from cli import duration, in_notebook
from config import Config
from training import pool
from training.check import TOO_SHORT
from training.forecast import Forecast, Outlook, Task
from training.schedule import total_steps

TICK = 0.5  # seconds between two drawings of the line


class Display:
    """Progress for a person: on a terminal and in a notebook a line at the bottom that says what is done now, how much
    of everything is done and how long the rest takes; elsewhere one line per point of the curves. Used as a context,
    also within itself; its time counts from when it is made."""

    def __init__(self, quiet: bool):
        self.quiet, self.started, self.depth, self.bar = quiet, time.monotonic(), 0, None
        self.doing, self.since = "starting", self.started
        self.share: float | None = None  # of work without trials
        self.outlook: Outlook | None = None
        self.first: dict[Task, float] = {}  # of each trial the steps that were done before this run, in their order
        self.steps = 0  # that a trial takes in all
        self.losses: dict[Task, float] = {}  # of the trials under way
        self.ended: set[Task] = set()
        self.elsewhere: Callable[..., float] | None = None  # how many steps of a trial others have done
        self.asked = 0.0  # when that was asked last
        self.shown = 0.0

    def __enter__(self) -> Display:
        if not self.depth and not self.quiet and (in_notebook() or sys.stderr.isatty()):
            self.bar = _Line(self._now)
        self.depth += 1
        return self

    def __exit__(self, *exception) -> None:
        self.depth -= 1
        if not self.depth and self.bar is not None:
            self.bar.close()
            self.bar = None

    # what is said

    def line(self, text: str) -> None:
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)

    def phase(self, doing: str) -> None:
        """What is being done from now on."""
        self.doing, self.since = doing, time.monotonic()

    def step(self, doing: str, done: int, total: int) -> None:
        """What is being done now, and how much of all work without trials is done."""
        self.doing, self.share = doing, done / total

    def expect(self, expected: Forecast, left: dict[Task, float], steps: int) -> None:
        """The rest takes so long from now on; a trial has so many steps, of which the share `left` is to be taken."""
        self.outlook, self.steps = Outlook(expected, time.monotonic()), steps
        self.first = {task: (1 - share) * steps for task, share in left.items()}

    def announce(self, config: Config, left: dict[Task, float], workers: int, corpus, expected: Forecast) -> None:
        """What will run and about how long it takes, before it starts. `left`: of each trial the share to be trained.
        The time is that of everything, from the beginning on."""
        self.expect(expected, left, total_steps(config))
        self.line(
            f"{corpus.name}: {corpus.info['characters']:,} characters, {len(corpus.train):,} + {len(corpus.val):,} "
            f"tokens, vocabulary {corpus.vocab_size}"
        )
        branches = f" ({self.steps} with all branches)" if self.steps > config.max_iters else ""
        self.line(
            f"{config.model} {config.n_layer} layers × {config.n_embd} wide, context {config.block_size}; "
            f"{config.max_iters} steps{branches} of {config.batch_size} × {config.block_size} tokens"
        )
        names = ", ".join(dict.fromkeys(name for name, _ in left))
        before = round(sum(self.first.values()))
        already = f" ({before} of {len(left) * self.steps} steps are done already)" if before else ""
        seconds = time.monotonic() - self.started + expected.total
        self.line(
            f"{len(left)} {'trial' if len(left) == 1 else 'trials'} to train ({names}), {workers} at a time{already}: "
            f"about {duration(seconds)} in all, measuring and figures included"
        )

    # what happens

    def event(self, event: dict) -> None:
        if event["event"] == "note":
            self.line(event["text"])
            return
        task = (event["activation"], event["trial"])
        if event["event"] == "step":
            self.losses[task] = event["loss"]
            self._progress(task, event["step"])
        elif event["event"] == "point" and event["step"] and self.bar is None:
            self.line(
                f"{task[0]} trial {task[1]} step {event['step']:>6}  train {event['train_loss']:.4f}  "
                f"val {event['val_loss']:.4f}  lr {event['learning_rate']:.2e}  |g| {event['grad_norm']:.2f}"
            )

    def outcome(self, outcome: pool.Outcome) -> None:
        task = (outcome.activation, outcome.trial)
        self.ended.add(task)
        self.losses.pop(task, None)
        self._progress(task, self.steps)
        text = f"{outcome.activation} trial {outcome.trial}: {outcome.status}"
        if outcome.status in ("diverged", "failed"):
            text += f" ({outcome.message})"
        self.line(text)

    def finished(self, results: dict, path: Path, config: Config) -> None:
        """What came out of an activation, and where it is."""
        loss, pd, name = results["avg_val_loss"], results["avg_relative_pd"], results["activation"]
        checks = [check for check in results["audit"]["checks"] if check["status"] == "fail"]
        short = any(TOO_SHORT in check["measured"] for check in checks)
        failed = f"too short a training: {config.max_iters} steps; fails" if short else "audit FAILED:"
        said = [
            "all trials diverged" if loss is None else f"validation loss {loss:.4f} nats/token",
            "no pair to compare" if pd is None else f"relative PD {pd:.4f}",
            f'{failed} {", ".join(c["name"] for c in checks)} (measured and needed: "audit" in {path})'
            if checks
            else "audit passed",
        ]
        figures = Path(config.plots_dir) / f"{storage.file_name(name)}_*.png"
        models = Path(config.checkpoint_dir) / storage.file_name(name)
        self.line(f"{name}: {', '.join(said)}")
        self.line(f"{name}: results in {path}, figures {figures}, models in {models}")

    # the line at the bottom

    def _progress(self, task: Task, steps: float) -> None:
        if self.outlook is not None and task in self.first:
            first = self.first[task]
            share = 1.0 if steps >= self.steps else (steps - first) / max(1, self.steps - first)
            self.outlook.progress(task, share, time.monotonic())

    def _now(self) -> tuple[float | None, str, str]:
        """What the line shows: the share that is done (None: not known yet), what is being done, and the rest."""
        now = time.monotonic()
        if self.outlook is None:
            seconds = f" … {now - self.since:.0f} s" if self.share is None else ""
            return self.share, f"{self.doing}{seconds}", ""
        if self.elsewhere is not None and now - self.asked > 4:
            self.asked = now
            for task in self.first.keys() - self.ended - self.losses.keys():
                if (steps := self.elsewhere(*task)) > self.first[task]:
                    self._progress(task, steps)
        # never back, also where the rest turns out to take longer
        self.shown = max(self.shown, min(0.99, self.outlook.share(now, self.outlook.began - self.started)))
        left = round(self.outlook.left(now))
        hours = f"{left // 3600}:{left // 60 % 60:02}" if left >= 3600 else f"{left // 60}"
        rest = f"{hours}:{left % 60:02} left" if left else "takes longer than expected"
        return self.shown, self.doing, f"{rest}  {self._trials()}"

    def _trials(self) -> str:
        """The training losses, in the order of the trials: `loss relu #1 1.98 #2 2.01`."""
        texts, last = [], None
        for name, trial in self.first:
            loss = self.losses.get((name, trial))
            if loss is not None:
                texts += [*([name] if name != last else []), f"#{trial} {loss:.2f}"]
                last = name
        return f"loss {' '.join(texts)}" if texts else ""


class _Line:
    """A line of tqdm's, drawn twice a second by a thread of its own, so that it moves whatever else is being done."""

    def __init__(self, now: Callable[[], tuple[float | None, str, str]]):
        with warnings.catch_warnings():  # a notebook without ipywidgets has a line of text
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
        self.now, self.ending = now, threading.Event()
        self.bar = tqdm(total=100, bar_format="{desc}", leave=False, dynamic_ncols=True, file=sys.stderr, desc=" ")
        self.thread = threading.Thread(target=self._draw_on, daemon=True)
        self._draw()
        self.thread.start()

    def _draw_on(self) -> None:
        while not self.ending.wait(TICK):
            with contextlib.suppress(RuntimeError):  # a dict that changed meanwhile
                self._draw()

    def _draw(self) -> None:
        share, doing, rest = self.now()
        if share is None:
            self.bar.set_description_str(doing, refresh=False)
        else:
            self.bar.n = int(100 * share)
            self.bar.bar_format = "{desc:<10}{percentage:3.0f}%|{bar:20}| {unit}"
            self.bar.set_description_str(doing, refresh=False)
            self.bar.unit = rest  # the one text that tqdm shows as it is
        self.bar.refresh()

    def write(self, text: str) -> None:
        self.bar.write(text)
        sys.stdout.flush()

    def close(self) -> None:
        self.ending.set()
        self.thread.join(timeout=2)  # it waits for ever where an interrupt left tqdm's lock taken
        self.bar.close()
