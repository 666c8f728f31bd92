"""What a person sees of a study under way: what will run, how far it is, what came out."""

from __future__ import annotations

import sys
from pathlib import Path

from config import Config
from training import pool
from training.schedule import total_steps


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

    def announce(self, config: Config, tasks, workers, corpus, seconds_per_step) -> None:
        """What will run and about how long it takes, before it starts."""
        steps = total_steps(config)
        seconds = seconds_to_train(config, len(tasks), workers, seconds_per_step)
        self.line(
            f"{corpus.name}: {corpus.info['characters']:,} characters, {len(corpus.train):,} + {len(corpus.val):,} "
            f"tokens, vocabulary {corpus.vocab_size}"
        )
        self.line(
            f"{config.model} {config.n_layer} layers × {config.n_embd} wide, context {config.block_size}; "
            f"{config.max_iters} steps{f' ({steps} with all branches)' if steps > config.max_iters else ''} of "
            f"{config.batch_size} × {config.block_size} tokens"
        )
        names = ", ".join(dict.fromkeys(name for name, _ in tasks))
        at_a_time = f"{workers} at a time" if config.data_parallel == 1 else f"each on {config.data_parallel} ranks"
        self.line(
            f"{len(tasks)} {'trial' if len(tasks) == 1 else 'trials'} to train ({names}), {at_a_time}: "
            f"about {duration(seconds)}"
        )

    def progress(self, config: Config, tasks):
        from tqdm import tqdm  # only where there is something to show

        self.bar = tqdm(
            total=len(tasks) * total_steps(config),
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

    def outcome(self, outcome: pool.Outcome) -> None:
        text = f"{outcome.activation} trial {outcome.trial}: {outcome.status}"
        if outcome.status in ("diverged", "failed"):
            text += f" ({outcome.message})"
        self.line(text)

    def finished(self, results: dict, path: Path, plots_dir: str) -> None:
        """What came out of an activation, and where it is."""
        loss, pd = results["avg_val_loss"], results["avg_relative_pd"]
        failed = [check["name"] for check in results["audit"]["checks"] if check["status"] == "fail"]
        said = [
            "all trials diverged" if loss is None else f"validation loss {loss:.4f} nats/token",
            "no pair to compare" if pd is None else f"relative PD {pd:.4f}",
            f'audit FAILED: {", ".join(failed)} (measured and needed: "audit" in {path})' if failed else "audit passed",
        ]
        self.line(f"{results['activation']}: {', '.join(said)}")
        self.line(f"{results['activation']}: results in {path}, figures in {plots_dir}")


def seconds_to_train(config: Config, trials: float, workers: int, seconds_per_step: float) -> float:
    """About how long so many trials take, training, measuring and drawing, `workers` at a time."""
    return 1.15 * seconds_per_step * total_steps(config) * trials / min(workers, pool.places(config)) + 5


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
