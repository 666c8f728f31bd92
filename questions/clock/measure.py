"""The chaos clock of one trial: how fast do two trainings part that differ in one bit of one weight?

A trial is trained once more as it was (the same bits), and beside it, step by step, its twins. A twin leaves at one of
several steps with all of the trial's state, but for one weight that is moved by one unit in the last place; from there
on it sees the same batches and the same dropout. One further twin leaves with nothing moved: it must stay at exactly 0.

The bit is moved where `vary=bit` moves it, in the last matrix, at a place drawn from the trial's seed, the same for all
its twins and for all activations. The unit is that of the training precision: in bfloat16 the products read the float32
master weights rounded to bfloat16, where one unit of a float32 weight would be lost for a while; so the master weight
becomes the next bfloat16 number, and exactly one working weight differs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import metrics
import storage
from config import Config, UserError, option
from prepare_data import Corpus, load_corpus
from training.batches import move_one_bit
from training.machine import own_randomness, torch_settings
from training.trial import Busy, Interrupted, Training

SCHEMA = "clock/1"
FORKS = (0.0, 0.1, 0.3, 0.6)  # where twins leave, as parts of the steps
EVERY_STEP = 64  # weights are compared after each of so many steps, from then on after each 1/20 more
ALPHAS = tuple(i / 10 for i in range(1, 10))  # between the weights of a trial and its twin


def fork_steps(config: Config, parts: Sequence[float] = FORKS) -> list[int]:
    return sorted({round(part * config.max_iters) for part in parts})


def offsets(steps: int, every: int = EVERY_STEP, ratio: float = 1.05) -> list[int]:
    """After how many steps since the fork two trainings are compared: 0 to `every`, then by `ratio`, and `steps`."""
    after = list(range(min(every, steps) + 1))
    while after[-1] < steps:
        after.append(min(steps, max(after[-1] + 1, math.ceil(after[-1] * ratio))))
    return after


@dataclass
class Twin:
    """One that left at step `fork`; `moved` says which bit differs, {} for none."""

    fork: int
    training: Training
    moved: dict
    steps: list[int]  # since the fork, where weights are compared
    prediction_steps: list[int]
    weights: list[float] = field(default_factory=list)
    predictions: list[float] = field(default_factory=list)


MEASURED = ("fork", "moved", "steps", "weights", "prediction_steps", "predictions")  # what is recorded of a twin


def fork(base: Training, bit: bool) -> Twin:
    """A twin with the state of the trial as it is now."""
    twin = Training(base.config, base.activation, base.trial, base.corpus)
    twin.optimiser.load(base.optimiser.state())
    twin.step = base.step
    twin.model.train()
    left = base.steps - base.step
    moved = _move(twin) if bit else {}
    return Twin(base.step, twin, moved, offsets(left), offsets(left, every=4, ratio=2 ** (1 / 3)))


def _move(training: Training) -> dict:
    """Move one weight by one unit in the last place of the training precision; what was moved."""
    o = training.optimiser
    before, read = o.master.clone(), [w.clone() for w in o.working]
    o.use_master_weights()
    move_one_bit(training.model, training.trial, training.seeds["init"], training.dtype)
    o.use_working_weights()
    place = int((o.master != before).nonzero()[0])
    ends = np.cumsum([w.numel() for w in o.weights])
    which = int(np.searchsorted(ends, place, side="right"))
    return {
        "unit": str(training.dtype).removeprefix("torch."),
        "parameter": o.names[which],
        "place": place - int(ends[which] - o.weights[which].numel()),
        "from": float(before[place]),
        "to": float(o.master[place]),
        "working_weights_moved": sum(int((a != b).sum()) for a, b in zip(o.working, read, strict=True)),
    }


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two vectors of weights: ‖b − a‖ / ‖a‖."""
    dtype = torch.float32 if a.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(b - a, dtype=dtype) / torch.linalg.vector_norm(a, dtype=dtype))


class Race:
    """A trial and its twins, step by step: one leaves at each of `forks`, and at the last one, or after nine tenths
    where that is the start, another, unmoved. With a file for its `snapshot` it goes on from there, where that is
    intact and of this clock."""

    def __init__(self, base: Training, forks: list[int], snapshot: Path | None = None):
        self.base, self.forks, self.snapshot = base, forks, snapshot
        self.unmoved = forks[-1] or round(0.9 * base.steps)
        self.twins: list[Twin] = []
        self.of = {"fingerprint": base.config.fingerprint(), "corpus": base.corpus.sha256, "forks": forks}
        saved = {}
        with contextlib.suppress(storage.StorageError):
            saved = storage.load_checkpoint(snapshot) if snapshot and snapshot.exists() else {}
        if saved.get("of") == self.of:
            self._load(saved["state"])

    def save(self) -> None:
        """Everything of the trial and its twins after a step."""
        twins = {
            str(i): {name: getattr(twin, name) for name in ("fork", "moved", "weights", "predictions")}
            | {"optimiser": twin.training.optimiser.state()}
            for i, twin in enumerate(self.twins)
        }
        state = {"step": self.base.step, "optimiser": self.base.optimiser.state(), "twins": twins}
        if self.snapshot:
            storage.save_checkpoint(self.snapshot, {"of": self.of, "state": state})

    def _load(self, state: dict) -> None:
        self.base.optimiser.load(state["optimiser"])
        for saved in state["twins"].values():
            self.base.step = saved["fork"]
            twin = fork(self.base, bit=False)
            twin.training.optimiser.load(saved["optimiser"])
            twin.training.step = state["step"]
            twin.moved, twin.weights, twin.predictions = (saved[k] for k in ("moved", "weights", "predictions"))
            self.twins.append(twin)
        self.base.step = state["step"]

    def run(
        self, stop: Callable[[], bool] = lambda: False, report: Callable[[int, float], None] = lambda step, loss: None
    ) -> None:
        """To the last step. It is saved every `snapshot_seconds`, and before it stops as told."""
        base, saved_at = self.base, time.monotonic()
        base.model.train()
        going_on = bool(self.twins)  # what happened at this step is in the snapshot
        while True:
            if not going_on:
                if base.step in self.forks:
                    self.twins.append(fork(base, bit=True))
                if base.step == self.unmoved:
                    self.twins.append(fork(base, bit=False))
                self._measure()
            going_on = False
            if base.step == base.steps:
                return
            stopping = stop()
            if stopping or time.monotonic() - saved_at > base.config.snapshot_seconds:
                self.save()
                saved_at = time.monotonic()
            if stopping:
                raise Interrupted(f"the clock of {base.activation} trial {base.trial} after {base.step} steps")
            loss = base.advance()
            for twin in self.twins:
                twin.training.advance()
            if base.step % 10 == 0 or base.step == base.steps:
                report(base.step, float(loss))

    def _measure(self) -> None:
        for twin in self.twins:
            if self.base.step - twin.fork in twin.steps:
                twin.weights.append(distance(self.base.optimiser.master, twin.training.optimiser.master))
        if due := [twin for twin in self.twins if self.base.step - twin.fork in twin.prediction_steps]:
            for twin, value in zip(due, predicted_distances(self.base, [t.training for t in due]), strict=True):
                twin.predictions.append(value)


def predicted_distances(base: Training, twins: list[Training]) -> list[float]:
    """The mean total variation between the predictions of a trial and those of each twin, on the probe."""
    c, everyone = base.config, [base, *twins]
    for training in everyone:
        training.optimiser.use_master_weights()
    models = [training.model for training in everyone]
    try:
        measured = metrics.evaluate_models(models, base.corpus.val, base.probe_starts, c.block_size, c.device)
    except ValueError:  # one of them has diverged: its logits are not finite
        return [math.nan] * len(twins)
    finally:
        for training in everyone:
            training.optimiser.use_working_weights()
    return [pair["relative_pd"] for pair in measured.pairs[: len(twins)]]


def barrier(base: Training, twin: Training) -> tuple[float, float, float]:
    """How much the loss rises between two models on the line through their weights, above the straight line between
    their losses: the largest of `ALPHAS` (Frankle et al. 2020, arXiv 1912.05671); and the two losses. In nats per
    token, on the probe. The twin's weights are gone afterwards."""
    a, b = base.optimiser.master, twin.optimiser.master.clone()
    twin.optimiser.use_master_weights()
    losses = []
    for alpha in (0.0, *ALPHAS, 1.0):
        twin.optimiser.master.copy_(torch.lerp(a, b, alpha))
        c = base.config
        losses.append(metrics.evaluate_loss(twin.model, base.corpus.val, base.probe_starts, c.block_size, c.device)[0])
    first, *between, last = losses
    rises = [x - ((1 - alpha) * first + alpha * last) for alpha, x in zip(ALPHAS, between, strict=True)]
    return max(rises), first, last


# -- one trial ----------------------------------------------------------------------------------------------------


def run_clock(
    config: Config,
    activation: str,
    trial: int,
    corpus: Corpus | None = None,
    report: Callable[[dict], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict:
    """Train trial k and its twins, or find it done; returns its record, which is then in the activation's file.

    Raises:
        UserError: the file holds trials of other settings or of another text.
        Interrupted: `stop` said so; a snapshot is saved, and the next call goes on from it.
        Busy: another process is at it.
    """
    corpus = corpus or load_corpus(config)
    path = storage.clock_path(config.results_dir, activation)
    lock = storage.FileLock(path.with_name(f".{path.stem}_{trial}.lock"))
    if not lock.acquire(wait=False):
        raise Busy(f"{path}: another process is training trial {trial}")
    try:
        contents = read(path, config, corpus)
        if str(trial) in contents["trials"]:
            return contents["trials"][str(trial)]
        with torch_settings(config), own_randomness(config.device):
            record = _record(config, activation, trial, corpus, contents["forks"], report, stop)
        with storage.FileLock(path.with_name(".lock")):
            contents = read(path, config, corpus)
            contents["trials"][str(trial)] = record
            contents["trials"] = {k: contents["trials"][k] for k in sorted(contents["trials"], key=int)}
            storage.write_json(path, {**contents, "activation": activation})
        _snapshot(config, activation, trial).unlink(missing_ok=True)
        return record
    finally:
        lock.release()


def begin(config: Config, activation: str, corpus: Corpus, parts: Sequence[float] | None) -> dict:
    """The file of an activation, written when there is none, with twins that leave after these parts of the steps;
    None: at the start alone, or as the file has it.

    Raises: as `read`.
    """
    path = storage.clock_path(config.results_dir, activation)
    forks = None if parts is None and path.exists() else fork_steps(config, parts or (0.0,))
    with storage.FileLock(path.with_name(".lock")):
        contents = read(path, config, corpus, forks)
        if not path.exists():
            storage.write_json(path, {**contents, "activation": activation})
    return contents


def _snapshot(config: Config, activation: str, trial: int) -> Path:
    path = storage.clock_path(config.results_dir, activation)
    return path.with_name(f".{path.stem}_{trial}.snapshot")


def _record(config: Config, activation: str, trial: int, corpus: Corpus, forks: list[int], report, stop) -> dict:
    began = time.thread_time()
    base = Training(config, activation, trial, corpus)
    race = Race(base, forks, _snapshot(config, activation, trial))

    def tell(step: int, loss: float) -> None:
        if report:
            report({"event": "step", "activation": activation, "trial": trial, "step": step, "loss": loss})

    race.run(stop or (lambda: False), tell)
    sha256 = storage.contents_sha256(base.weights())
    twins = [_twin(base, twin) for twin in race.twins]
    finite = all(math.isfinite(x) for t in twins for x in (*t["weights"], *t["predictions"]))
    return {
        "status": "done" if finite else "diverged",
        "diverged_at_step": None,
        "seed": config.seed_base + trial - 1,
        "weights_sha256": sha256,
        "forks": [t for t in twins if t["moved"]] if finite else [],
        "unmoved": [t for t in twins if not t["moved"]] if finite else [],
        "processor_seconds": time.thread_time() - began,
    }


def _twin(base: Training, twin: Twin) -> dict:
    rise, *losses = barrier(base, twin.training)
    measured = {name: getattr(twin, name) for name in MEASURED}
    return {**measured, "barrier": rise, "losses": losses}


# -- the file of an activation ------------------------------------------------------------------------------------


def read(path, config: Config, corpus: Corpus, forks: list[int] | None = None) -> dict:
    """What the file of an activation holds; where there is none, the same without trials. `forks`: where twins must
    leave; None: as the file has it.

    Raises:
        UserError: it was made with other settings or of another text.
        StorageError: it is damaged.
    """
    if not path.exists():
        windows = metrics.evaluation_windows(len(corpus.val), config.block_size, config.probe_tokens)
        return {
            "schema": SCHEMA,
            "config": config.to_dict(),
            "fingerprint": config.fingerprint(),
            "corpus_sha256": corpus.sha256,
            "forks": forks or fork_steps(config),
            "positions": len(windows) * config.block_size,
            "trials": {},
        }
    contents = storage.read_json(path)
    if not isinstance(contents, dict) or contents.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a clock of this program; move it away")
    differing = config.describe_differences(contents["config"])
    differing = differing or ("another text" if contents["corpus_sha256"] != corpus.sha256 else "")
    if forks and contents["forks"] != forks:
        differing = differing or f"twins that leave at {contents['forks']}"
    if differing:
        elsewhere = f"use another folder ({option('study', 'NAME')})"
        raise UserError(f"{path}: made with other settings ({differing}); {elsewhere}")
    return contents
