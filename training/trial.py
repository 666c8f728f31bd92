"""One trial: train one model with one seed and leave one checkpoint.

The trial is the unit of work. It reads its config, its activation, its number and the prepared corpus, and nothing
else; whatever it draws at random is a pure function of (seed of the source, step). So a trial gives the same bits
whether it runs alone or beside others, in one go or killed and resumed, evaluated often or seldom.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import storage
from config import Config, UserError, option
from measures import windows
from model import LanguageModel, generate
from models import own_code
from models.architectures import build_model, code_checksums
from training.arithmetic import Optimiser, compiled_loss, kernels_sha256, training_loss, use_kernels
from training.batches import Batches, move_one_bit, stream, trial_seeds
from training.machine import Stopwatch, draw_from, environment, own_randomness, torch_settings
from training.parts import kinds
from training.schedule import Leg, learning_rate, legs

SAMPLE_TOKENS = 200  # that a finished model writes
LOSS_CHECK_STEPS = 10  # how often a diverged loss is looked for: on a GPU every look waits for the device


class Interrupted(Exception):
    """The trial was asked to stop. Its snapshot is saved."""


class Busy(Exception):
    """Another process is training this very trial."""


# -- the trial ----------------------------------------------------------------------------------------------------

HISTORIES = ("train_loss_history", "val_loss_history", "learning_rate_history", "grad_norm_history", "steps")


class Training:
    """The state of a trial under way: everything that a snapshot holds. `corpus` is a prepare_data.Corpus: tokens
    `train` and `val`, the `tokenizer`, a checksum.

    The optimiser has the float32 "master" weights; the model computes with them in evaluations, and in training with
    the "working" weights, their copies in the training precision. Steps are counted twice: those of the trial in all,
    `step`, and those that made the model what it is, `model_step`; they differ where branches leave a trunk.
    """

    def __init__(self, config: Config, activation: str, trial: int, corpus):
        self.config, self.activation, self.trial, self.corpus = config, activation, trial, corpus
        self.seeds = trial_seeds(config, trial)
        self.dtype = getattr(torch, config.precision)
        model = build_model(config, activation, corpus.vocab_size, self.seeds["init"])
        self.parts = [kind(self) for kind in kinds() if kind.asked(config)]
        for part in self.parts:
            part.start(model)
        if self.seeds["bit"] is not None:
            move_one_bit(model, self.seeds["bit"], self.seeds["init"], self.dtype)
        self.own_code = code_checksums(config, activation)
        self.model: LanguageModel = model.to(config.device)
        # loss(model, x, y), computed as the settings say
        self.loss = training_loss
        if config.native:
            use_kernels(self.model)
        elif config.compile:
            self.loss = compiled_loss(config.deterministic, config.fingerprint(), activation, corpus.vocab_size)
        self.objective = self.loss  # what a step minimises
        for part in self.parts:
            self.objective = part.objective(self.objective)
        self.optimiser = Optimiser(self.model, config, self.dtype)
        self.batches = Batches(corpus.train, config, self.seeds["order"])
        # the probe: predictions at fixed positions, stored along training; rare tokens share one bucket of it
        self.buckets = windows.probe_buckets(corpus.train, corpus.vocab_size)
        self.probe_starts, self.train_starts = (
            windows.evaluation_windows(len(tokens), config.block_size, config.probe_tokens)
            for tokens in (corpus.val, corpus.train)
        )
        self.legs = legs(config)
        self.step = 0
        self.history: dict[str, list] = {name: [] for name in HISTORIES}
        self.probe: list[torch.Tensor] = []  # (P, buckets) float16 at each recorded step
        self.probe_argmax: list[torch.Tensor] = []  # (P,) int32
        self.last_norm = torch.zeros(())
        self.watch = Stopwatch(config)
        self.started = time.monotonic()
        self.elapsed_before = 0.0  # wall-clock seconds of earlier, interrupted runs
        self.diverged_at: int | None = None

    # training

    @property
    def steps(self) -> int:
        """How many the trial takes in all."""
        return self.legs[-1].ends

    def leg(self, step: int) -> Leg:
        """The leg of the step that is taken when the trial has done `step` steps."""
        return next(leg for leg in reversed(self.legs) if leg.begins <= step)

    @property
    def model_step(self) -> int:
        """How many steps have made the model what it is now."""
        leg = self.leg(self.step)
        return leg.start + self.step - leg.begins

    def advance(self) -> torch.Tensor:
        """The next step; its loss (a device scalar)."""
        leg = self.leg(self.step)
        if self.step == leg.begins:
            for part in self.parts:
                part.before_leg(leg)
        loss = self.one_step(self.step)
        self.step += 1
        for part in self.parts:
            part.after_step(leg)
        return loss

    def one_step(self, step: int) -> torch.Tensor:
        """Forward, backward and update when the trial has done `step` steps; returns the loss (a device scalar)."""
        leg = self.leg(step)
        step = leg.start + step - leg.begins
        if self.config.dropout:
            seed = int(stream(self.seeds["dropout"], "dropout", step).integers(2**63))
            draw_from(seed, self.config.device)
        loss = self.objective(self.model, *self.batches(step))
        loss.backward()
        # the memory of a CUDA graph's loss is that of the next step's
        loss = loss.detach().clone() if self.config.compile else loss.detach()
        self.last_norm = self.optimiser.step(learning_rate(self.config, step, leg.branch))
        return loss

    def warm_up(self) -> None:
        """Forward and backward passes whose results are thrown away: they allocate and compile, and are not timed.
        Compiled for a GPU, the first one runs, the second records a CUDA graph, and the third is as all others."""
        for _ in range(3 if self.config.compile else 1):
            self.objective(self.model, *self.batches(0)).backward()
            for p in self.model.parameters():
                p.grad = None

    # evaluation: on fixed windows, in float32 and eval mode; it draws nothing at random

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within, the model is evaluated; then it goes on training."""
        self.optimiser.use_master_weights()
        self.model.eval()
        yield
        self.model.train()
        self.optimiser.use_working_weights()

    def record_point(self) -> None:
        """A point of the training curves, and the predictions on the probe, at the current step."""
        c, corpus, model = self.config, self.corpus, self.model
        with self.evaluating():
            train_loss, _ = windows.evaluate_loss(model, corpus.train, self.train_starts, c.block_size, c.device)
            probe = windows.evaluate_probe(model, corpus.val, self.probe_starts, c.block_size, c.device, self.buckets)
        values = (
            train_loss,
            probe.loss,
            learning_rate(c, min(self.model_step, c.max_iters - 1)),
            float(self.last_norm),
            self.model_step,
        )
        if not all(math.isfinite(v) for v in values):
            self.diverged_at = self.diverged_at or self.model_step
            return
        for name, value in zip(HISTORIES, values, strict=True):
            self.history[name].append(value)
        self.probe.append(torch.from_numpy(probe.probabilities))
        self.probe_argmax.append(torch.from_numpy(probe.argmax))
        if train_loss > 3 * math.log(corpus.vocab_size) + 3:  # three times worse than knowing nothing
            self.diverged_at = self.model_step

    # snapshots

    def save_snapshot(self) -> None:
        """Save all that is needed to go on from the current step with the same bits, and keep the last two."""
        c = self.config
        contents = {
            "kind": "snapshot",
            **self._identity(),
            "step": self.step,
            "optimiser": self.optimiser.state(),
            "history": self.history,
            "probe": _stacked(self.probe),
            "probe_argmax": _stacked(self.probe_argmax),
            "last_norm": self.last_norm.detach().cpu().reshape(1),
            "training_time": self.watch.seconds,
            "elapsed": self.elapsed(),
            "kernels": kernels_sha256() if c.native else None,
        }
        for part in self.parts:
            contents |= part.state()
        storage.save_checkpoint(
            storage.snapshot_path(c.checkpoint_dir, self.activation, self.trial, self.step), contents
        )
        storage.remove_snapshots(c.checkpoint_dir, self.activation, self.trial, keep=2)

    def resume(self) -> str | None:
        """Go on from the newest intact snapshot, if there is one. Returns a note on damaged ones that were skipped, and
        where the kernels' code has changed."""
        notes = []
        paths = storage.snapshot_paths(self.config.checkpoint_dir, self.activation, self.trial)
        for path in paths:
            try:
                saved = storage.load_checkpoint(path)
                check_same_experiment(
                    self.config, self.activation, self.trial, saved, self.corpus, path, kind="snapshot"
                )
            except storage.StorageError as error:
                notes.append(str(error))
                continue
            self.step = saved["step"]
            self.optimiser.load(saved["optimiser"])
            for part in self.parts:
                part.load(saved)
            self.history = saved["history"]
            self.probe = list(saved["probe"])
            self.probe_argmax = list(saved["probe_argmax"])
            self.last_norm = saved["last_norm"].reshape(())
            self.watch.seconds = saved["training_time"]
            self.elapsed_before = saved["elapsed"]
            if self.config.native and saved.get("kernels") != kernels_sha256():
                notes.append("the kernels' code is another one since it began: it rounds otherwise from here")
            break
        return "; ".join(notes) + f" — going on from step {self.step}" if notes else None

    def elapsed(self) -> float:
        return self.elapsed_before + time.monotonic() - self.started

    def _identity(self) -> dict:
        identity = {
            "schema_version": storage.SCHEMA_VERSION,
            "activation": self.activation,
            "trial": self.trial,
            "config": self.config.to_dict(),
            "fingerprint": self.config.fingerprint(),
            "corpus_sha256": self.corpus.sha256,
            "own_code": self.own_code,
        }
        for part in self.parts:
            identity |= part.identity()
        return identity

    # the end

    def record(self) -> dict:
        """What is recorded of the trial as it is now, with the final losses; all but times follows from the settings,
        the seeds, the curves and the weights."""
        c, history = self.config, self.history
        record = {
            "trial_id": self.trial,
            "seed": c.seed_base + self.trial - 1,
            "seeds": self.seeds,
            "status": "done" if self.diverged_at is None else "diverged",
            "diverged_at_step": self.diverged_at,
            "train_loss": None,
            "train_accuracy": None,
            "training_time": self.watch.seconds,
            "total_time": None,
            "ended": None,
            "steps_trained": self.step,
            "tokens_per_second": self.step * c.batch_size * c.block_size / max(self.watch.seconds, 1e-9),
            **history,
            "initial_loss": history["val_loss_history"][0] if history["val_loss_history"] else None,
            "best_val_loss": min(history["val_loss_history"], default=None),
            "best_step": None,
            "overfit": False,
            "parameters": self.model.n_parameters(),
            "sample": "",
        }
        if history["val_loss_history"]:
            best = int(np.argmin(history["val_loss_history"]))
            record["best_step"] = history["steps"][best]
            # worse at the end than at its best by more than a percent: the reported model is past its best
            record["overfit"] = history["val_loss_history"][-1] > 1.01 * record["best_val_loss"]
        if self.diverged_at is None:
            self.optimiser.use_master_weights()
            self.model.eval()
            loss, accuracy = self.final_loss()
            record.update(train_loss=loss, train_accuracy=accuracy, sample=self._sample())
        for part in self.parts:
            record |= part.record()
        weights_sha256 = storage.contents_sha256(self.weights())
        return record | {"total_time": self.elapsed(), "ended": time.time(), "weights_sha256": weights_sha256}

    def contents(self, record: dict) -> dict:
        """Of a finished trial's checkpoint."""
        done = self.diverged_at is None
        contents = {
            "kind": "trial",
            **self._identity(),
            "vocab_size": self.corpus.vocab_size,
            "tokenizer": self.corpus.tokenizer.to_dict(),
            "record": record,
            "environment": environment(self.config),
            "weights": self.weights() if done else {},
            "probe": _stacked(self.probe),
            "probe_argmax": _stacked(self.probe_argmax),
        }
        for part in self.parts:
            contents |= part.contents(done)
        return contents

    def finish(self) -> dict:
        """Write the checkpoint; returns the trial's record."""
        c, record = self.config, self.record()
        path = storage.checkpoint_path(c.checkpoint_dir, self.activation, self.trial)
        storage.save_checkpoint(path, self.contents(record))
        storage.remove_snapshots(c.checkpoint_dir, self.activation, self.trial, keep=0)
        return record

    def weights(self, vector: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """{name: weights} of the model, or of another `vector` of all of them."""
        views = self.optimiser.views(self.optimiser.master if vector is None else vector)
        return {name: view.detach().cpu().clone() for name, view in zip(self.optimiser.names, views, strict=True)}

    def final_loss(self) -> tuple[float, float]:
        """Mean loss and accuracy on the windows of the training split that final models are evaluated on."""
        c, tokens = self.config, self.corpus.train
        starts = windows.evaluation_windows(len(tokens), c.block_size, c.eval_tokens)
        return windows.evaluate_loss(self.model, tokens, starts, c.block_size, c.device)

    def _sample(self) -> str:
        """What the model writes after the first token of the validation split."""
        prompt = torch.from_numpy(self.corpus.val[:1].astype(np.int64))[None].to(self.config.device)
        return self.corpus.tokenizer.decode(generate(self.model, prompt, SAMPLE_TOKENS)[0].cpu().numpy())


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tensors) if tensors else torch.empty(0)


def train_trial(
    config: Config,
    activation: str,
    trial: int,
    corpus,
    report: Callable[[dict], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict:
    """Train trial k (1-based) of an activation on a corpus (prepare_data.Corpus), or go on with it, or find it done;
    returns its record.

    Leaves `checkpoint_dir/activation/trial_k.pt`. `report` is called with dicts that say how far the trial is, each
    with an "event": step, point (of the curves) or note; `stop` is asked after every step.

    Raises:
        UserError: what lies in the checkpoint folder belongs to another config or corpus.
        Interrupted: `stop` said so; a snapshot is saved, and the next call goes on from it.
        Busy: another process is training this trial.
        StorageError: a damaged checkpoint is in the way, or the disk refuses.
    """
    path = storage.checkpoint_path(config.checkpoint_dir, activation, trial)
    lock = storage.FileLock(path.with_suffix(".lock"))
    if not lock.acquire(wait=False):
        raise Busy(f"{path}: another process is training this trial")
    try:
        if path.exists():
            saved = storage.load_checkpoint(path)
            check_same_experiment(config, activation, trial, saved, corpus, path)
            return saved["record"]
        storage.clean_temporaries(path.parent)
        with torch_settings(config), own_randomness(config.device):
            return _run(Training(config, activation, trial, corpus), report or (lambda event: None), stop)
    finally:
        lock.release()


def _run(training: Training, report: Callable[[dict], None], stop: Callable[[], bool] | None) -> dict:
    note = training.resume()
    progress = _Progress(training, report)
    if note:
        report({"event": "note", "text": note})
    training.model.train()
    training.warm_up()
    if training.step == 0 and not training.history["steps"]:
        training.record_point()
        progress.point()
    _train(training, progress, stop)
    # before the checkpoint: killed in between, the trial shows as interrupted, never as done when it diverged
    progress.write("done" if training.diverged_at is None else "diverged")
    return training.finish()


def _train(training: Training, progress: _Progress, stop: Callable[[], bool] | None) -> None:
    """From the current step to the last one, or to where the trial diverges."""
    config = training.config
    saved_at = time.monotonic()
    losses = torch.zeros(LOSS_CHECK_STEPS)
    while training.step < training.steps and training.diverged_at is None:
        # up to the next point of the curves, the next check of the loss or the end of the leg, whichever comes first;
        # all in steps of the trial, of which this leg's are `first - at` ahead of the model's
        first, leg, at = training.step, training.leg(training.step), training.model_step
        point = first - at + _next(at, config.eval_interval)
        last = min(leg.ends, point, _next(first, LOSS_CHECK_STEPS))
        stopped = False
        with training.watch.running():
            chunk = []
            while training.step < last and not stopped:
                chunk.append(training.advance())
                stopped = bool(stop and stop())
            losses = torch.stack(chunk).cpu()  # the one place where training waits for the device
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            training.diverged_at = at + int(bad[0])
            break
        progress.loss(float(losses[-1]))
        if training.step == leg.ends:
            for part in training.parts:
                part.after_leg(leg)
        if not leg.side and training.step in (point, training.steps):
            training.record_point()
            progress.point()
        if training.diverged_at is not None:
            break  # before any snapshot: one taken of diverged weights would hide when it happened
        if stopped and training.step < training.steps:
            training.save_snapshot()
            progress.write("interrupted")
            raise Interrupted(f"{training.activation} trial {training.trial} after {training.step} steps")
        if time.monotonic() - saved_at > config.snapshot_seconds and training.step < training.steps:
            training.save_snapshot()
            saved_at = time.monotonic()


def _next(step: int, interval: int) -> int:
    """The next multiple of the interval."""
    return (step // interval + 1) * interval


class _Progress:
    """Tells the caller how far the trial is, and leaves a small file that `--status` reads."""

    def __init__(self, training: Training, report: Callable[[dict], None]):
        self.t, self.report = training, report
        c = training.config
        self.path = storage.progress_path(c.checkpoint_dir, training.activation, training.trial)
        self.last_loss, self.written = None, 0.0
        self.first_step, self.first_time = training.step, time.monotonic()
        self.expected = None  # seconds that the whole trial takes, as they were announced before it began
        with contextlib.suppress(storage.StorageError, AttributeError):
            written = storage.read_json(self.path)
            self.expected = storage.number(written.get("seconds_left")) if written.get("state") == "waiting" else None
        self.write("running")

    def loss(self, value: float) -> None:
        begun = self.last_loss is not None
        self.last_loss = value
        self.report({"event": "step", **self._where(), "loss": value})
        if not begun or time.monotonic() - self.written > 5:
            self.write("running")

    def point(self) -> None:
        history = self.t.history
        if history["steps"] and history["steps"][-1] == self.t.model_step:
            point = {name.removesuffix("_history"): history[name][-1] for name in HISTORIES}
            self.report({"event": "point", **self._where(), **point, "step": self.t.model_step})

    def write(self, state: str) -> None:
        done = self.t.step - self.first_step
        per_step = (time.monotonic() - self.first_time) / done if done else None
        left = per_step * (self.t.steps - self.t.step) if per_step else self.expected
        losses, leg = self.t.history["val_loss_history"], self.t.leg(self.t.step)
        storage.write_json(
            self.path,
            {
                **self._where(),
                "state": state,
                "max_iters": self.t.steps,
                "branch": leg.branch.leaves if leg.side else None,
                "loss": self.last_loss if self.last_loss is not None and math.isfinite(self.last_loss) else None,
                "val_loss": losses[-1] if losses else None,
                "seconds_left": left if state == "running" else None,
                "pid": os.getpid(),
                "host": storage.host_name(),
                "time": time.time(),
                "fingerprint": self.t.config.fingerprint(),
            },
        )
        self.written = time.monotonic()

    def _where(self) -> dict:
        return {"activation": self.t.activation, "trial": self.t.trial, "step": self.t.step}


# -- checkpoints --------------------------------------------------------------------------------------------------


def check_same_experiment(
    config: Config, activation: str, trial: int, saved: dict, corpus, path: Path, kind: str = "trial"
) -> None:
    """Refuse what was trained with other settings, on another corpus, with other code of the user's own, or is not the
    trial or snapshot its name says.

    Raises:
        UserError: names the settings or the module that differ and the ways on.
        StorageError: the file holds another trial, or weights that are not finite or not those of its record.
    """
    if saved.get("kind") != kind:
        raise storage.StorageError(f"{path}: holds a {saved.get('kind')}, not a {kind}. {storage.REMEDY}")
    if (saved.get("activation"), saved.get("trial")) != (activation, trial):
        raise storage.StorageError(
            f"{path}: holds trial {saved.get('trial')} of {saved.get('activation')}, not trial {trial} of "
            f"{activation}; files were swapped. {storage.REMEDY}"
        )
    ways = f"use {option('overwrite')} to train anew, or another folder ({option('study', 'NAME')})"
    refuse_other_settings(config, saved, corpus, path, ways)
    for part in kinds():
        if other := part.other(config, activation, saved):
            raise UserError(f"{path}: trained with {other}; {ways}")
    for role, module, theirs, mine in own_code.differences(saved.get("own_code"), code_checksums(config, activation)):
        raise UserError(
            f"{path}: trained with other code of the {role}: {module} was changed since (sha256 {theirs[:12]}… there, "
            f"{mine[:12]}… now); undo the change, {ways}"
        )
    models = [saved] if saved.get("weights") else []  # a snapshot or a diverged trial has none
    for model in [*models, *(model for part in kinds() for model in part.models(saved).values())]:
        if storage.contents_sha256(model["weights"]) != model["record"]["weights_sha256"]:
            raise storage.StorageError(f"{path}: its weights are not those that its record names. {storage.REMEDY}")
        if not all(bool(torch.isfinite(w).all()) for w in model["weights"].values()):
            raise storage.StorageError(f"{path}: holds weights that are not finite. {storage.REMEDY}")


def refuse_other_settings(config: Config, saved: dict, corpus, path: Path, ways: str) -> None:
    """Refuse a checkpoint or snapshot that was trained with other settings or on another text; how many positions a
    finished trial is measured at may differ. Raises UserError: names the settings that differ and the `ways` on."""
    if fields := config.describe_differences(saved["config"], weights=True):
        raise UserError(f"{path}: trained with other settings ({fields}); {ways}")
    if corpus is not None and saved.get("corpus_sha256") != corpus.sha256:
        raise UserError(
            f"{path}: trained on another text (sha256 {str(saved.get('corpus_sha256'))[:12]}… there, "
            f"{corpus.sha256[:12]}… now); {ways}"
        )
