"""What a trial may have beside its plain steps, each a `Part`: the branches of a trunk here; further questions bring
others (questions, PARTS), such as teachers and means of the weights. A trial asks its parts at fixed points and knows
none of them by name.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Mapping

import questions
import storage
from config import Branch, Config
from training.schedule import Leg


class Part:
    """One part of a trial under way; `training` is the trial's state (trial.Training). A kind of part overrides what
    concerns it."""

    def __init__(self, training):
        self.training = training

    # of the settings alone

    @staticmethod
    def check(config: Config) -> None:
        """Raises UserError: settings of this part that can't be had, or not together."""

    @staticmethod
    def asked(config: Config) -> bool:
        """Whether trials of these settings have this part."""
        return False

    @staticmethod
    def same_start(config: Config) -> bool:
        """Whether with it all trials start from the same weights, whatever `vary` says."""
        return False

    @staticmethod
    def other(config: Config, activation: str, saved: Mapping) -> str:
        """What a snapshot or checkpoint was trained with that is another thing now; '' where there is nothing."""
        return ""

    @staticmethod
    def models(saved: Mapping) -> Mapping[str, dict]:
        """The models that it left in a checkpoint or snapshot: {name: {"weights", "record": their checksum, …}}."""
        return {}

    # of a trial under way

    def start(self, model) -> None:
        """Called once with the initial weights, in float32 on the CPU, which it may change."""

    def objective(self, loss: Callable) -> Callable:
        """What a step minimises, of (model, x, y), in the place of `loss`."""
        return loss

    def before_leg(self, leg: Leg) -> None:
        """Called before the first step of each leg."""

    def after_step(self, leg: Leg) -> None:
        """Called after each step, with the weights that it led to."""

    def after_leg(self, leg: Leg) -> None:
        """Called when the last step of a leg is done and did not diverge."""

    # what is kept

    def state(self) -> dict:
        """What it adds to a snapshot, by copy."""
        return {}

    def load(self, saved: Mapping) -> None:
        """Go on from a snapshot, which may be older than this part."""

    def identity(self) -> dict:
        """What snapshot and checkpoint say of it, for `other`."""
        return {}

    def record(self) -> dict:
        """What it adds to the record of the trial."""
        return {}

    def contents(self, done: bool) -> dict:
        """What it adds to the checkpoint; a trial that isn't `done` diverged, and leaves no models."""
        return {}


class Branches(Part):
    """The branches of a trunk: each leaves it at one of its steps, ends as a model that is kept, and the trunk goes on
    from where it left. The final model's own branch is the trial itself."""

    def __init__(self, training):
        super().__init__(training)
        self.trunk: dict = {}  # within a branch: the optimiser's state from which the trunk goes on
        self.branches: dict[str, dict] = {}  # {step at which it left the trunk: its record and weights}

    @staticmethod
    def asked(config: Config) -> bool:
        return True

    @staticmethod
    def models(saved: Mapping) -> Mapping[str, dict]:
        return saved.get("branches", {})

    def before_leg(self, leg: Leg) -> None:
        if leg.side:
            self.trunk = self.training.optimiser.state()

    def after_leg(self, leg: Leg) -> None:
        if leg.side:
            self.keep(leg.branch)
            self.training.optimiser.load(self.trunk)
            self.trunk = {}

    def keep(self, branch: Branch) -> None:
        """Keep the model as it is, at the end of a branch: its weights, and the loss on what it was trained on."""
        training = self.training
        with training.evaluating():
            loss, accuracy = training.final_loss()
            weights = training.weights()
        if not math.isfinite(loss):
            training.diverged_at = branch.ends
            return
        checksum = storage.contents_sha256(weights)
        record = {"leaves": branch.leaves, "ends": branch.ends, "train_loss": loss, "train_accuracy": accuracy}
        self.branches[str(branch.leaves)] = {"record": {**record, "weights_sha256": checksum}, "weights": weights}

    def state(self) -> dict:
        return {"trunk": self.trunk, "branches": self.branches}

    def load(self, saved: Mapping) -> None:
        self.trunk, self.branches = saved.get("trunk", {}), saved.get("branches", {})

    def contents(self, done: bool) -> dict:
        return {"branches": self.branches if done else {}}


def kinds() -> list[type[Part]]:
    """Every kind of part, in the order in which a trial asks them: the branches, and the classes that further questions
    name by their addresses ("questions.remedies.parts:Teachers")."""
    return [Branches, *map(pkgutil.resolve_name, questions.hooks("PARTS"))]


def check(config: Config) -> None:
    """Raises UserError: settings of a part that can't be had, or not together."""
    for kind in kinds():
        kind.check(config)
