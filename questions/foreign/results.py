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
        for group, results in self.results.items():
            for check in results["audit"]["checks"]:
                merged.setdefault(check["name"], []).append((group, check))
        worst = ("fail", "hint", "caution", "pass", "not applicable")
        rows = []
        for entries in merged.values():
            status = min((check["status"] for _, check in entries), key=worst.index)
            found = dict.fromkeys(check["measured"] for _, check in entries if check["status"] == status)
            rows.append({**entries[0][1], "status": status, "measured": "; ".join(found)})
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


def collected(
    members, numbers: Mapping[str, list[int]], where, how, evaluator, noise: Sequence[dict], text
) -> Comparison:
    """The results of all groups, checked.

    Args:
        members, noise: the members and what `measure.look_at` said of each.
        numbers: the members of each group, by number.
        where, how: the positions, and how members were run.
        evaluator: what was measured there.
    """
    models, pairs, sets = evaluator.models(), evaluator.pair_entries(), evaluator.set_differences()
    group_of = {k: group for group, ks in numbers.items() for k in ks}
    pd = np.zeros((len(members), len(members)))
    for (i, j), entry in zip(itertools.combinations(range(len(members)), 2), pairs, strict=True):
        pd[i, j] = pd[j, i] = entry["relative_pd"]
        low, high = interval(entry["relative_pd_by_block"]) or (None, None)
        losses = [models[k]["val_loss"] for k in (i, j)]
        change = None if None in losses else losses[1] - losses[0]
        entry.update(a=members[i].name, b=members[j].name, within=group_of[i] == group_of[j])
        entry.update(relative_pd_low=low, relative_pd_high=high, val_loss_change=change)
    unigram = where.unigram()
    vocab_size = measure.outcomes(members)[0]
    examined = [_examined(m, group_of[k], models[k], noise[k]) for k, m in enumerate(members)]
    checks = suite.check(examined, pd, unigram["unigram_entropy"], where.block_size, vocab_size)
    shared = _shared(members, where, how, text, unigram)
    all_results = {}
    for (group, ks), set_pd in zip(numbers.items(), sets, strict=True):
        own = [_trial(number, members[k], models[k], noise[k]) for number, k in enumerate(ks, 1)]
        place = {members[k].name: number for number, k in enumerate(ks, 1)}
        mine = [_pair(p, place) for p in pairs if p["a"] in place and p["b"] in place]
        results = {**_group(group, own, mine, set_pd), **shared}
        every = [c for c in study_checks.after_training(results) if c["name"] in MEASURED] + checks[group]
        results["audit"] = {"passed": all(c["status"] != "fail" for c in every), "checks": every}
        all_results[group] = results
    records = [{"group": group_of[k], **m.summary(), **noise[k], **models[k]} for k, m in enumerate(members)]
    return Comparison(all_results, records, pairs, shared)


def _examined(member, group, model, noise):
    own = [noise[key] for key in ("own_pd_batch", "own_pd_dtype") if noise.get(key) is not None]
    return suite.Examined(
        name=member.name,
        group=group,
        val_loss=model["val_loss"],
        weights=member.weights,
        steps=member.steps,
        context=member.context,
        own_pd=max(own) if own else None,
        sees_later_tokens=noise.get("sees_later_tokens"),
        text_given_back=member.text_given_back,
        beyond=member.beyond,
        settings=member.settings,
        notes=member.notes,
    )


def _shared(members, where, how, text, unigram) -> dict:
    """What all groups have in common: where and how they were measured."""
    vocab_size = measure.outcomes(members)[0]
    batch = None if members[0].is_dump else measure.batch_of(how, where.block_size, vocab_size)
    settings = {"block_size": where.block_size, "positions": len(where.targets), "dtype": how.dtype}
    dataset = {
        "name": "targets of the dumps" if where.tokens is None else os.fspath(text),
        "sha256": where.sha256 if where.tokens is None else storage.sha256_bytes(where.tokens.astype("<i8").tobytes()),
        "vocab_size": vocab_size,
        "train_tokens": 0,
        "val_tokens": len(where.targets if where.tokens is None else where.tokens),
        "characters": where.characters,
        **unigram,
    }
    return {
        "fingerprint": storage.sha256_json({**settings, "text": dataset["sha256"], "positions": where.sha256}),
        "comparison": {**settings, "device": how.device, "batch_size": batch},
        "dataset": dataset,
        "evaluation": {
            "positions": len(where.targets),
            "windows": where.windows,
            "block_size": where.block_size,
            "sha256": where.sha256,
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


def _trial(number: int, member, model: dict, noise: dict) -> dict:
    """A member as a trial of its group; what nobody recorded is None."""
    record = getattr(member, "record", {})
    recorded = ("seed", "train_loss", "train_accuracy", "training_time")
    return {
        "trial_id": number,
        "status": "done",
        **{key: record.get(key) for key in recorded},
        "train_loss_history": record.get("train_loss_history") or [],
        "val_loss_history": record.get("val_loss_history") or [],
        "steps": record.get("steps") or [],
        **member.summary(),
        **noise,
        **model,
    }


def _pair(pair: dict, place: dict[str, int]) -> dict:
    rest = {k: v for k, v in pair.items() if k not in ("a", "b", "within")}
    return {"model_pair": f"{place[pair['a']]}_vs_{place[pair['b']]}", **rest}


def _group(group: str, trials: list[dict], pairs: list[dict], set_pd: float | None) -> dict:
    def values(key):
        return [t[key] for t in trials]

    return {
        "activation": group,
        "model_name": ", ".join(dict.fromkeys(t["kind"] for t in trials)),
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seeds": values("seed"),
        "parameters": trials[0]["parameters"],
        "trials": trials,
        "reproducibility_metrics": pairs,
        "set_prediction_difference": set_pd,
        "avg_train_loss": mean(values("train_loss")),
        "avg_val_loss": mean(values("val_loss")),
        "std_val_loss": std(values("val_loss")),
        "avg_train_accuracy": mean(values("train_accuracy")),
        "avg_val_accuracy": mean(values("val_accuracy")),
        "std_val_accuracy": std(values("val_accuracy")),
        "avg_relative_pd": mean(p["relative_pd"] for p in pairs),
        "avg_training_time": mean(values("training_time")),
    }
