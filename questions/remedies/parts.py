"""What may bring trials together, as parts of a training: a teacher, and means of the weights.

`distil`: the targets are a mixture of the true next token and of what a fixed earlier model, or the mean of several,
predicts (Hinton et al. 2015, arXiv 1503.02531; against churn: Anil et al. 2018, arXiv 1804.03235; Jiang et al. 2021,
arXiv 2106.02654). `warm`: training starts from a mixture of the trial's own initial weights and those of an earlier
model (Ash & Adams 2020, arXiv 1910.08475). At strength 0 no teacher is read, and the bits are those without a remedy.

Means of the weights change nothing in training. `lawa_P`: the mean of the weights after each of the last P hundredths
of the steps (Kaddour 2022, arXiv 2209.14981). `ema_D`: Σ D^(t−s) w_s / Σ D^(t−s), over all steps s (Morales-Brotons
et al. 2024, arXiv 2411.18704). Each of them costs one vector of weights in memory, snapshot and checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

import storage
from config import Config, UserError, average, option
from model import LanguageModel
from models.architectures import model_from
from training import arithmetic
from training.parts import Part
from training.schedule import Leg


def remedy_of(config: Config) -> str:
    """The remedy that has an effect: none, distil or warm."""
    return config.remedy if config.strength else "none"


# -- teachers -----------------------------------------------------------------------------------------------------


def teacher_paths(config: Config, activation: str) -> list[str]:
    """The checkpoints of the teachers for an activation."""
    if remedy_of(config) == "none":
        return []
    return [path.replace("{activation}", storage.file_name(activation)) for path in config.teacher]


def _read(path: str, whole: bool = True) -> dict:
    """The contents of a teacher's checkpoint.

    Raises:
        UserError: it can't be read, or holds no finished model.
    """
    try:
        saved = storage.load_checkpoint(path, whole=whole)
    except storage.StorageError as error:
        raise UserError(f"teacher: {error}") from None
    if saved.get("kind") != "trial" or saved["record"]["status"] != "done":
        raise UserError(f"teacher: {path}: not the checkpoint of a finished trial")
    return saved


class Teachers(Part):
    """The earlier models that a trial learns or starts from.

    Raises:
        UserError: one can't be read, predicts other tokens, sees less context, or, to start from, has other weights.
    """

    def __init__(self, training):
        super().__init__(training)
        config, corpus = training.config, training.corpus
        self.check(config)
        self.saved = {path: _read(path) for path in teacher_paths(config, training.activation)}
        for path, saved in self.saved.items():
            context = saved["config"]["block_size"]
            if saved["tokenizer"] != corpus.tokenizer.to_dict():
                raise UserError(f"teacher: {path}: it predicts other tokens than those of {corpus.name}")
            if context < config.block_size:
                raise UserError(f"teacher: {path}: it sees {context} tokens of context, fewer than {config.block_size}")

    @staticmethod
    def check(config: Config) -> None:
        """Refuse a remedy that lacks its teacher, or can't be with the other settings."""
        remedy, teachers = remedy_of(config), len(config.teacher)
        if remedy == "none":
            if teachers and config.remedy == "none":
                raise UserError(f"teacher: is for {option('remedy', 'distil')} or warm; give that too, or leave it out")
            return
        if not teachers:
            raise UserError(
                f"remedy={remedy!r}: needs an earlier trial, {option('teacher', 'checkpoints/{activation}/trial_6.pt')}"
            )
        if remedy == "warm" and teachers > 1:
            raise UserError(f"teacher: {teachers} are named, but remedy='warm' starts from one")
        if remedy == "distil" and config.compile:
            raise UserError(f"remedy='distil': its loss is not compiled; give {option('compile', False)} too")

    @staticmethod
    def asked(config: Config) -> bool:
        return remedy_of(config) != "none" or bool(config.teacher)

    @staticmethod
    def same_start(config: Config) -> bool:
        return remedy_of(config) == "warm" and config.strength == 1

    @staticmethod
    def other(config: Config, activation: str, saved: Mapping) -> str:
        """A teacher that is no longer there is taken to be the same."""
        recorded = saved.get("teachers") or {}
        for path in teacher_paths(config, activation):
            if path in recorded and Path(path).exists():
                now = _read(path, whole=False)["record"]["weights_sha256"]
                if now != recorded[path]:
                    return f"another teacher: {path} (weights {recorded[path][:12]}… there, {now[:12]}… now)"
        return ""

    @torch.no_grad()
    def start(self, model: LanguageModel) -> None:
        """Mix the weights of the teacher into the initial ones, where that is the remedy."""
        config = self.training.config
        if remedy_of(config) != "warm":
            return
        (path, saved), share = next(iter(self.saved.items())), config.strength
        theirs = saved["weights"]
        ours = dict(model.named_parameters())
        if {n: tuple(p.shape) for n, p in ours.items()} != {n: tuple(w.shape) for n, w in theirs.items()}:
            raise UserError(f"teacher: {path}: a model of another form; its weights don't fit the one to be trained")
        for name, p in ours.items():
            p.copy_(theirs[name] if share == 1 else (1 - share) * p + share * theirs[name])

    def objective(self, loss: Callable) -> Callable:
        config = self.training.config
        return Distilled(list(self.saved.values()), config) if remedy_of(config) == "distil" else loss

    def identity(self) -> dict:
        checksums = {path: saved["record"]["weights_sha256"] for path, saved in self.saved.items()}
        return {"teachers": checksums} if checksums else {}


class Distilled:
    """objective(model, x, y): the mean cross-entropy to (1 − s) · the true token + s · the teachers' mean prediction,
    in nats. Student and teachers compute in the training precision, the teachers without dropout; the mixture and the
    cross-entropy are in float32."""

    def __init__(self, saved: list[dict], config: Config):
        dtype = getattr(torch, config.precision)
        self.strength = config.strength
        self.teachers = [model_from(one).to(config.device, dtype).requires_grad_(False) for one in saved]
        if config.native:
            for teacher in self.teachers:
                arithmetic.use_kernels(teacher)

    def __call__(self, model: LanguageModel, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            p = sum(torch.softmax(teacher.logits(x).flatten(0, 1).float(), -1) for teacher in self.teachers)
            p /= len(self.teachers)
        log_q = torch.log_softmax(model.logits(x).flatten(0, 1).float(), -1)
        soft = -(p * log_q).sum(-1).mean()
        if self.strength == 1:
            return soft
        return self.strength * soft + (1 - self.strength) * F.nll_loss(log_q, y.flatten())


# -- means of the weights -----------------------------------------------------------------------------------------


class Averages(Part):
    """The means of the weights that are asked for.

    Attributes:
        seconds: of processor time that they took.
    """

    def __init__(self, training):
        super().__init__(training)
        names, steps = training.config.averages, training.config.max_iters
        self.seconds = 0.0
        self.means: dict[str, torch.Tensor] = {}
        self.counts = dict.fromkeys(names, 0)  # weights that entered
        self.points = {}
        for name in names:
            kind, value = average(name)
            if kind == "lawa":
                self.points[name] = {round(steps * (100 - i) / 100) for i in range(int(value))} - {0}

    @staticmethod
    def asked(config: Config) -> bool:
        return bool(config.averages)

    @staticmethod
    def models(saved: Mapping) -> Mapping[str, dict]:
        return saved.get("averages", {})

    def start(self, model: LanguageModel) -> None:
        size, device = sum(p.numel() for p in model.parameters()), self.training.config.device
        self.means = {name: torch.zeros(size, device=device) for name in self.counts}

    def after_step(self, leg: Leg) -> None:
        """Take in the weights of the final model, every step of it once."""
        if leg.side:
            return
        began, step, weights = time.thread_time(), self.training.model_step, self.training.optimiser.master
        for name, mean in self.means.items():
            kind, value = average(name)
            if kind == "ema":
                self.counts[name] += 1
                mean.lerp_(weights, 1 - value)
            elif step in self.points[name]:
                self.counts[name] += 1
                mean.lerp_(weights, 1 / self.counts[name])
        self.seconds += time.thread_time() - began

    def vectors(self) -> dict[str, torch.Tensor]:
        """{name: the mean so far}, laid out as the weights; without those that no weights entered yet."""
        vectors = {}
        for name, mean in self.means.items():
            kind, value = average(name)
            if n := self.counts[name]:
                vectors[name] = mean / (1 - value**n) if kind == "ema" else mean  # the ema began with zeros
        return vectors

    def state(self) -> dict:
        means = {name: {"mean": m.cpu().clone(), "entered": self.counts[name]} for name, m in self.means.items()}
        return {"averaged": {"means": means, "seconds": self.seconds}}

    def load(self, saved: Mapping) -> None:
        state = saved.get("averaged", {})
        for name, entry in state.get("means", {}).items():
            self.means[name].copy_(entry["mean"])
            self.counts[name] = entry["entered"]
        self.seconds = state.get("seconds", 0.0)

    def record(self) -> dict:
        return {"averages_time": self.seconds}

    def contents(self, done: bool) -> dict:
        """{name: its weights, and in its record their checksum and how many entered}."""
        models = {}
        for name, vector in self.vectors().items() if done else ():
            weights = self.training.weights(vector)
            record = {"weights_sha256": storage.contents_sha256(weights), "entered": self.counts[name]}
            models[name] = {"weights": weights, "record": record}
        return {"averages": models}
