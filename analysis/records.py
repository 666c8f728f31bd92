"""What a results file holds, as records made once: a trial, a pair of trials, a branch. What is not recorded is None.

The file was validated when it was read (results.schema.json): documented keys are there and of their type. Behind these
records nobody asks again. `record` is the entry as it stands in the file, for what only other programs write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from config import UserError
from storage import number


@dataclass(frozen=True)
class Trial:
    """One training: losses in nats per token, accuracies in percent, times in seconds, histories at `steps`."""

    number: int
    status: str  # 'done', 'diverged', or what another program says
    overfit: bool | None
    weights_sha256: str
    seed: int | float | None  # as it is: one of 128 bits is no float
    steps: list
    train_loss_history: list
    val_loss_history: list
    train_loss: float | None = None
    val_loss: float | None = None
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    training_time: float | None = None
    diverged_at_step: float | None = None
    best_val_loss: float | None = None
    best_step: float | None = None
    record: Mapping = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, record: Mapping, place: int) -> Trial:
        """`place` is its number where the record gives none."""
        numbers = {f.name: number(record.get(f.name)) for f in fields(cls) if f.default is None}
        return cls(
            number=int(record["trial_id"] if number(record["trial_id"]) else place),
            status=record.get("status") or "done",
            overfit=record.get("overfit"),
            weights_sha256=record.get("weights_sha256") or "",
            seed=record["seed"],
            steps=record.get("steps") or [],
            train_loss_history=record["train_loss_history"],
            val_loss_history=record["val_loss_history"],
            record=record,
            **numbers,
        )

    @property
    def finished(self) -> bool:
        """With a finite validation loss: only these enter an average."""
        return self.status == "done" and self.val_loss is not None

    @property
    def last_on_curve(self) -> float | None:
        """Validation loss at the end of training at the positions of the curve, the probe: the ones where
        `best_val_loss` was taken. The final `val_loss` is at all positions of the evaluation."""
        return number(self.val_loss_history[-1]) if self.val_loss_history else None

    @property
    def mark(self) -> tuple | None:
        """What two trainings can't have in common by chance: the checksum of the weights; where none is recorded, all
        digits of the losses and curves. None where those are too few to tell, and of a trial that diverged."""
        if self.status != "done":
            return None
        if self.weights_sha256:
            return "weights", self.weights_sha256
        if len(self.val_loss_history) > 2:
            return "curve", self.val_loss, self.train_loss, *self.val_loss_history
        return None

    @property
    def digits(self) -> tuple:
        """All digits of the losses and curves."""
        return self.val_loss, self.train_loss, *self.val_loss_history, *self.train_loss_history

    def value(self, key: str):
        """A metric, or whatever else was recorded."""
        return self.record.get(key)


@dataclass(frozen=True)
class Pair:
    """Two trials compared: i < j, the mean total-variation distance between their predictions."""

    i: int
    j: int
    relative_pd: float | None
    top1_mismatch_pct: float | None  # derived from the counts; None where they were not recorded
    record: Mapping = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, record: Mapping, name: str) -> Pair:
        """`name`: of the activation, for the error.

        Raises:
            UserError: `model_pair` names no two trials.
        """
        ids = [int(k) for k in re.findall("[0-9]+", str(record["model_pair"]))]
        if len(ids) != 2 or ids[0] == ids[1]:
            raise UserError(f"{name}: model_pair={record['model_pair']!r} must name two trials, like '1_vs_2'")
        differ, total = number(record["prediction_differences"]), number(record["total_predictions"])
        share = 100 * differ / total if differ is not None and total else None  # not every tool records it
        return cls(min(ids), max(ids), number(record["relative_pd"]), share, record)

    def value(self, key: str):
        """A metric, or whatever else was recorded."""
        return self.top1_mismatch_pct if key == "top1_mismatch_pct" else self.record.get(key)


@dataclass(frozen=True)
class Branch:
    """What one branch of a trunk came to: it left after `leaves` steps, its models have `ends`."""

    leaves: int
    ends: int
    losses: Mapping[int, float | None]  # validation loss of each trial's model, nats per token
    pds: Mapping[tuple[int, int], float | None]  # relative PD of each two of them

    @classmethod
    def of(cls, record: Mapping, name: str) -> Branch:
        losses = {t["trial_id"]: number(t["val_loss"]) for t in record["trials"]}
        pairs = [Pair.of(pair, name) for pair in record["pairs"]]
        return cls(record["leaves"], record["ends"], losses, {(p.i, p.j): p.relative_pd for p in pairs})
