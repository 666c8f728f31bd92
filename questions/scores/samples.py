"""Outcomes per example of two systems: who answers more of the same questions rightly, and what flips?

With one run a system: McNemar's exact test on the examples where the two differ. With several seeds a system the seeds
are the units, for another training may flip as much as another method does: `verdicts.decide` on each seed's mean.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import scipy

from config import UserError
from questions.scores import reading
from questions.scores.sources import arm_and_seed
from questions.scores.verdicts import check_alpha, decide, find_baseline, said_p
from significance import holm

EXAMPLES = ("doc_id", "example", "example_id", "id", "question_id", "question", "item", "sample")


@dataclass(frozen=True)
class Flips:
    """One system against the baseline on the same examples, or a number of them for each seed that both have.

    `lost`: right in the baseline, wrong here; `won`: the other way round; with their 95 % Clopper-Pearson limits as
    shares of all examples. All None where outcomes are not just right or wrong. `difference` of the means, with `low`
    and `high` at 1 - alpha; `p` of `test`, adjusted for all systems; `p_equal` of two one-sided tests at the margin.
    """

    system: str
    against: str
    examples: int
    test: str
    difference: float
    low: float
    high: float
    p: float
    p_equal: float | None
    lost: int | None = None
    won: int | None = None
    lost_limits: tuple | None = None
    won_limits: tuple | None = None
    text: str = ""


@dataclass(frozen=True)
class SampleAnswer:
    """`flips`: one for each system but the baseline; `answer`: of `decide` over seeds, where systems have several."""

    flips: list
    answer: object
    notes: list

    def __str__(self):
        seeds = [str(self.answer)] if self.answer else []
        return "\n".join([*seeds, *(f.text for f in self.flips), *(f"note: {note}" for note in self.notes)])

    def markdown(self):
        """A block to paste."""
        return "\n".join(f"- {line}" for line in str(self).split("\n"))

    def as_dict(self):
        """Ready for JSON."""
        seeds = self.answer and self.answer.as_dict()
        return {"flips": [vars(f) for f in self.flips], "seeds": seeds, "notes": self.notes}


def decide_samples(systems, *, baseline=None, margin=None, alpha=0.05, cluster=None, better="higher", **columns):
    """Verdicts on outcomes per example.

    Args:
        systems: {name: {example: outcome}}, {name: {seed: {example: outcome}}}, or what `read_samples` takes.
        baseline, alpha, better: as in `decide`; of two systems the second is the baseline.
        margin: the smallest difference of the mean outcomes that matters: 0.01 is one point of accuracy.
        cluster: {example: cluster}, or the name of a column: examples of one cluster (a document, a subject) vary
            together, so the clusters are the units.

    Returns a SampleAnswer. UserError: not the same examples, no outcomes, one system.
    """
    alpha = check_alpha(alpha)
    if not isinstance(systems, Mapping):
        systems, cluster = read_samples(systems, cluster=cluster, **columns)
    runs = {n: v if isinstance(next(iter(v.values())), Mapping) else {"1": v} for n, v in systems.items()}
    try:
        margin = None if margin is None else float(margin)
    except ValueError:
        margin = -1.0
    if margin is not None and not 0 < margin < 1:
        raise UserError("margin: must be a share of the examples, as 0.01 for one point of accuracy")
    baseline = find_baseline(list(runs), baseline)
    if baseline is None:
        raise UserError(f"baseline: which of {', '.join(runs)}? (--baseline NAME)")
    notes, answer = [], None
    if any(len(by_seed) > 1 for by_seed in runs.values()):
        means = {n: {s: float(np.mean([*run.values()])) for s, run in by_seed.items()} for n, by_seed in runs.items()}
        answer = decide(means, baseline=baseline, margin=margin, alpha=alpha, better=better)
        notes.append("several seeds a system: seeds are the units; flips are of all seeds that both have, together")
    flips = [_flips(n, baseline, runs, cluster, margin, alpha, notes) for n in runs if n != baseline]
    adjusted = holm([f.p for f in flips])
    flips = [_worded(replace(f, p=p), margin, alpha, answer) for f, p in zip(flips, adjusted, strict=True)]
    return SampleAnswer(flips, answer, notes)


def _flips(name, baseline, runs, cluster, margin, alpha, notes):
    seeds = [s for s in runs[name] if s in runs[baseline]]
    if not seeds:
        raise UserError(f"{name}, {baseline}: no seed is shared; name the files by seed, as ours_seed1, base_seed1")
    x, y, units = [], [], []
    for run, other in ((runs[name][s], runs[baseline][s]) for s in seeds):
        shared = [example for example in run if example in other]
        alone = max(len(run), len(other)) - len(shared)
        if alone > 0.1 * max(len(run), len(other)):
            raise UserError(f"{name}, {baseline}: {len(shared)} examples of {len(run)} and {len(other)} are the same")
        if alone:
            notes.append(f"{name}, {baseline}: {alone} examples are in one alone: left out")
        x += [run[example] for example in shared]
        y += [other[example] for example in shared]
        units += [cluster.get(example, example) if cluster else example for example in shared]
    x, y = np.array(x, float), np.array(y, float)
    counts = {}
    if np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all():
        lost, won = int((x < y).sum()), int((x > y).sum())
        counts = {"lost": lost, "won": won}
        counts |= {f"{key}_limits": clopper_pearson(count, len(x)) for key, count in counts.items()}
    if counts and not cluster and len(seeds) == 1:
        test, p = "exact McNemar", mcnemar(lost, won)
        estimate, se, df = adjusted_wald(lost, won, len(x))
    else:
        estimate, se, df = cluster_mean(x - y, units)
        test = f"t over {df + 1} {'clusters' if cluster else 'examples'}"
        p = 2 * float(scipy.special.stdtr(df, -abs(estimate) / se)) if se else 1.0
    reach = float(scipy.special.stdtrit(df, 1 - alpha / 2)) * se
    p_equal = float(scipy.special.stdtr(df, (abs(estimate) - margin) / se)) if margin and se else None
    limits = estimate - reach, estimate + reach
    return Flips(name, baseline, len(x), test, float((x - y).mean()), *limits, p, p_equal, **counts)


def mcnemar(lost, won):
    """Two-sided p of the exact test: of the examples that differ, is one half won? Source: McNemar 1947, binomial."""
    return min(1.0, 2 * float(scipy.special.bdtr(min(lost, won), lost + won, 0.5))) if lost + won else 1.0


def adjusted_wald(lost, won, n):
    """Difference of two paired proportions, its standard error and degrees of freedom (normal), with one flip of each
    kind added: the interval holds the truth where a plain one is too short. Source: Bonett & Price 2012."""
    a, b = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    return a - b, math.sqrt((a + b - (a - b) ** 2) / (n + 2)), math.inf


def cluster_mean(difference, units):
    """Mean difference, its standard error over units and degrees of freedom. Source: linearised ratio of totals per
    cluster (Liang & Zeger 1986), which a bootstrap of whole clusters tends to. UserError: fewer than three units."""
    labels, index = np.unique(np.array(units, dtype=str), return_inverse=True)
    g, mean = len(labels), float(difference.mean())
    if g < 3:
        raise UserError(f"{g} clusters: their spread needs at least 3")
    totals = np.bincount(index, weights=difference - mean)
    return mean, math.sqrt(g / (g - 1) * float(totals @ totals)) / len(difference), g - 1


def clopper_pearson(count, n, confidence=0.95):
    """Limits of a share. Source: Clopper & Pearson 1934, by quantiles of the beta distribution."""
    tail = (1 - confidence) / 2
    low = float(scipy.special.betaincinv(count, n - count + 1, tail)) if count else 0.0
    return low, float(scipy.special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0


def _worded(f, margin, alpha, over_seeds):
    said = f"{f.system} is {'higher' if f.difference > 0 else 'lower'} than {f.against} by {abs(f.difference):.4f}"
    said = said if f.difference else f"{f.system} and {f.against} have the same mean"
    said += f" [{f.low:+.4f}, {f.high:+.4f}], p = {said_p(f.p)} ({f.test}), {f.examples} examples"
    if f.lost is not None:
        lost, won = ("[{:.2f}, {:.2f}] %".format(*(100 * x for x in ends)) for ends in (f.lost_limits, f.won_limits))
        said += f", {f.lost} right→wrong {lost}, {f.won} wrong→right {won}"
    equal = f.p_equal is not None and f.p_equal < alpha
    if over_seeds:
        return replace(f, text=f"{said}: of these runs alone; the verdict is over seeds")
    if f.p < alpha:
        return replace(f, text=f"{said}: shown" + (f"; less than the margin of {margin:g}" if equal else ""))
    return replace(f, text=f"{said}: " + (f"practically equal (within {margin:g})" if equal else "not shown"))


def read_samples(source, *, arm=None, seed=None, value=None, where=(), cluster=None):
    """({system: {seed: {example: outcome}}}, {example: cluster} or None) from 'name=FILE' (a glob: a file a seed), or
    one table with a column for each system or with rows of system, example and outcome (and seed).

    A file is what lm-evaluation-harness writes with --log_samples, or any table; `seed`: the column of examples.
    UserError: no outcomes, an example twice, prompts that differ between files."""
    systems, clusters, prompts = {}, {}, {}
    for part in map(os.fspath, [source] if isinstance(source, (str, os.PathLike)) else source):
        name, paths = reading.find(part)
        for path in paths:
            header, rows = reading.grid(reading.text_of(path), path)
            example = seed or next((h for e in EXAMPLES for h in header if h.lower() == e), None)
            by_seed = {}
            for number, row in rows:
                cells = dict(zip(header, row, strict=True))
                by_seed.setdefault(cells.get("seed"), []).append((number, cells))
            columns = [h for h in header if h not in ("seed", cluster, "target")]
            asked = reading.Asked(arm=arm, seed=example, value=value or _usual(columns, name), where=tuple(where))
            same = [(reading.column(header, cluster, "cluster"), clusters)] if cluster else []
            same += [("prompt_hash", prompts)] if "prompt_hash" in header else []
            for label, group in by_seed.items():
                for (extra, seen), (place, (_, cells)) in product(same, enumerate(group, 1)):
                    key = cells[example] if example else str(place)
                    if seen.setdefault(key, cells[extra]) != cells[extra]:
                        raise UserError(f"{path}: example {key} has another {extra} than before: not the same question")
                grid = columns, [(number, [cells[h] for h in columns]) for number, cells in group]
                arms = reading.table([reading.of_grid(*grid, asked, path)]).arms
                if name and len(arms) > 1:
                    raise UserError(f"{path}: which column holds the outcome? --value NAME, of {', '.join(arms)}")
                for system, outcomes in arms.items():
                    runs, label = systems.setdefault(name or system, {}), label or _seed_of(path)
                    if label in runs:
                        raise UserError(f"{path}: seed {label} of {name or system} is given twice; name files by seed")
                    runs[label] = outcomes
    if all(len(runs) == 1 for runs in systems.values()):
        systems = {name: {"1": outcomes} for name, runs in systems.items() for outcomes in runs.values()}
    return systems, clusters if cluster else None


def _seed_of(path):
    """The seed that the name of a file or its folder holds, or all of it: seeds of two systems pair by name alone."""
    parts = re.sub(r"_\d{4}-\d\d-\d\dT.*", "", Path(path).stem), Path(path).parent.name
    return next((seed for part in parts if (seed := arm_and_seed(part)[1])), str(path))


def _usual(columns, name):
    """The column of outcomes in a file of one system, where its name tells."""
    return next((h for h in ("acc", "exact_match", "correct", "score") if h in columns), None) if name else None
