"""What a comparison came to: the results of each group in the form of a study's, and the matrix over all members."""

from __future__ import annotations

import datetime
import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.stats
import torch

import storage
from analysis import checks as study_checks
from analysis.question import Question
from analysis.results import mean, std
from config import UserError
from questions.foreign import measure, suite
from questions.foreign.member import Member
from questions.foreign.windows import Positions

# of analysis.checks.after_training: what is left of the study's own checks where nobody recorded the training
MEASURED = ("degenerate", "consistent", "suspicious loss", "same positions compared")
REPLICATIONS = 10_000
LEAST_BLOCKS = 8  # of windows, for an interval


@dataclass(eq=False)
class Comparison:
    """What `compare_models` found."""

    results: dict[str, dict]  # {group: results}, as they are written
    members: list[dict]  # one record each: name, group, path, steps, loss, …
    pairs: list[dict]  # every pair of members, within and between groups, with all measures
    shared: dict = field(default_factory=dict, repr=False)  # what all groups have in common: text, positions, machine
    asked: tuple[str, list[str]] = ("", [])  # the group that others are compared with, and those that are together
    written: list[Path] = field(default_factory=list)

    def question(self, groups: Mapping[str, dict]) -> Question:
        """What is asked of these groups: as of all of them, where the baseline is among them."""
        baseline, contrast = self.asked
        together = [name for name in contrast if name in groups]
        return Question.of(groups, *((baseline, together) if baseline in groups else (next(iter(groups)), [])))

    @property
    def matrix(self):
        """Relative PD between all members, a DataFrame with their names on both sides."""
        import pandas as pd

        names = [m["member"] for m in self.members]
        table = pd.DataFrame(0.0, index=names, columns=names)
        for pair in self.pairs:
            table.loc[pair["a"], pair["b"]] = table.loc[pair["b"], pair["a"]] = pair["relative_pd"]
        return table

    @property
    def passed(self) -> bool:
        """Whether every check of every group passed."""
        return all(results["audit"]["passed"] for results in self.results.values())

    @property
    def checks(self) -> list[dict]:
        """Each check once, with what it found in all groups; the worst status counts."""
        merged = {}
        for check in (check for results in self.results.values() for check in results["audit"]["checks"]):
            merged.setdefault(check["name"], []).append(check)
        worst = ("fail", "hint", "caution", "pass", "not applicable")
        rows = []
        for entries in merged.values():
            status = min((check["status"] for check in entries), key=worst.index)
            measured = dict.fromkeys(check["measured"] for check in entries if check["status"] == status)
            rows.append({**entries[0], "status": status, "measured": "; ".join(measured)})
        return rows

    @property
    def versions(self) -> bool:
        """Whether each group is one model, so that pairs of models are all there is to tell."""
        return len(self.results) > 1 and all(len(r["trials"]) == 1 for r in self.results.values())

    def of(self, a: str, b: str) -> list[dict]:
        """The pairs of a member of group a and another of group b."""
        groups = {m["member"]: m["group"] for m in self.members}
        return [p for p in self.pairs if {groups[p["a"]], groups[p["b"]]} == {a, b}]


def interval(by_block: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean over windows from the means of contiguous blocks of them: the percentiles of a bootstrap
    over blocks (Efron 1979; blocks, so that neighbouring windows may be alike: Künsch 1989). None for fewer than 8."""
    blocks = np.asarray(by_block, np.float64)
    if len(blocks) < LEAST_BLOCKS:
        return None
    drawn = np.random.default_rng(0).integers(len(blocks), size=(REPLICATIONS, len(blocks)))
    low, high = np.quantile(blocks[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)


def loss_increase(first: Sequence[Mapping], last: Sequence[Mapping]) -> tuple[float, float]:
    """How far the mean loss of the last models is above that of the first, and the one-sided p-value of that.

    Two groups of several models: Welch's t test of their losses. A single model in either: a paired t test over blocks
    of windows, which is about these models and this text; p is 0 or 1 where there are fewer than two blocks.
    """
    losses = [[t["val_loss"] for t in trials] for trials in (first, last)]
    if None in losses[0] + losses[1]:
        raise UserError("fail_if_worse: the loss of a member is not known")
    increase = float(np.mean(losses[1]) - np.mean(losses[0]))
    if min(map(len, losses)) > 1:
        test = scipy.stats.ttest_ind(losses[1], losses[0], equal_var=False, alternative="greater")
        return increase, float(test.pvalue)
    a, b = (np.mean([t["val_loss_by_block"] for t in trials], 0) for trials in (first, last))
    if len(a) < 2 or np.ptp(b - a) == 0:
        return increase, float(increase <= 0)
    return increase, float(scipy.stats.ttest_rel(b, a, alternative="greater").pvalue)


def collected(members: Sequence[Member], positions: Positions, evaluator, text) -> Comparison:
    """The results of all groups, checked. `members`: looked at and measured, by `evaluator`, at the `positions`."""
    pairs, sets = evaluator.pair_entries(), evaluator.set_differences()
    pd = np.zeros((len(members), len(members)))
    for (i, j), entry in zip(itertools.combinations(range(len(members)), 2), pairs, strict=True):
        a, b = members[i], members[j]
        pd[i, j] = pd[j, i] = entry["relative_pd"]
        low, high = interval(entry["relative_pd_by_block"]) or (None, None)
        change = None if None in (a.val_loss, b.val_loss) else b.val_loss - a.val_loss
        entry.update(a=a.name, b=b.name, within=a.group == b.group)
        entry.update(relative_pd_low=low, relative_pd_high=high, val_loss_change=change)
    shared = _shared(members, positions, text)
    entropy, vocab_size = shared["dataset"]["unigram_entropy"], shared["dataset"]["vocab_size"]
    checks = suite.check(members, pd, entropy, positions.block_size, vocab_size)
    groups = {}
    for (group, numbers), set_pd in zip(measure.grouped(members).items(), sets, strict=True):
        results = {**_group([members[k] for k in numbers], pairs, set_pd), **shared}
        measured = [c for c in study_checks.after_training(results) if c["name"] in MEASURED]
        passed = all(c["status"] != "fail" for c in measured + checks[group])
        groups[group] = {**results, "audit": {"passed": passed, "checks": measured + checks[group]}}
    return Comparison(groups, [{"group": m.group, **m.record()} for m in members], pairs, shared)


def _shared(members: Sequence[Member], positions: Positions, text) -> dict:
    """What all groups have in common: where and how they were measured."""
    how, tokens = members[0].how, positions.tokens
    vocab_size = measure.outcomes(members)[0]
    batch = None if members[0].is_dump else measure.batch_of(how, positions.block_size, vocab_size)
    settings = {"block_size": positions.block_size, "positions": len(positions.targets), "dtype": how.dtype}
    dataset = {
        "name": "targets of the dumps" if tokens is None else os.fspath(text),
        "sha256": positions.sha256 if tokens is None else storage.sha256_bytes(tokens.astype("<i8").tobytes()),
        "vocab_size": vocab_size,
        "train_tokens": 0,
        "val_tokens": len(positions.targets if tokens is None else tokens),
        "characters": positions.characters,
        **positions.unigram(),
    }
    return {
        "fingerprint": storage.sha256_json({**settings, "text": dataset["sha256"], "positions": positions.sha256}),
        "comparison": {**settings, "device": how.device, "batch_size": batch},
        "dataset": dataset,
        "evaluation": {
            "positions": len(positions.targets),
            "windows": positions.windows,
            "block_size": positions.block_size,
            "sha256": positions.sha256,
        },
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
            "device": how.device,
            "threads": torch.get_num_threads(),
            "precision": how.dtype,
        },
    }


RECORDED = ("seed", "train_loss", "train_accuracy", "training_time")  # of a trial of ours; else None
CURVES = ("train_loss_history", "val_loss_history", "steps")


def _group(members: Sequence[Member], pairs: Sequence[Mapping], set_pd: float | None) -> dict:
    """The members of one group as trials of a study."""
    trials = []
    for number, member in enumerate(members, 1):
        trial = getattr(member, "trial", {})
        recorded = {key: trial.get(key) for key in RECORDED} | {key: trial.get(key) or [] for key in CURVES}
        trials.append({"trial_id": number, "status": "done", **recorded, **member.record()})
    numbers = {trial["member"]: trial["trial_id"] for trial in trials}
    mine = [
        {"model_pair": f"{numbers[p['a']]}_vs_{numbers[p['b']]}", **p} for p in pairs if {p["a"], p["b"]} <= {*numbers}
    ]
    for pair in mine:
        del pair["a"], pair["b"], pair["within"]
    averages = {f"avg_{key}": mean(t[key] for t in trials) for key in (*RECORDED[1:], "val_loss", "val_accuracy")}
    return {
        "activation": members[0].group,
        "model_name": ", ".join(dict.fromkeys(m.kind for m in members)),
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seeds": [t["seed"] for t in trials],
        "parameters": trials[0]["parameters"],
        "trials": trials,
        "reproducibility_metrics": mine,
        "set_prediction_difference": set_pd,
        **averages,
        **{f"std_{key}": std(t[key] for t in trials) for key in ("val_loss", "val_accuracy")},
        "avg_relative_pd": mean(p["relative_pd"] for p in mine),
    }
