"""What the results of one study say when its activations are compared: tests, contrast, ranks, plan.

    study = Study(all_results)              # refuses results that can't be compared
    study = Study(all_results, question=Question.of(all_results, baseline="gelu"))
    study.tests, study.contrast, study.headline
    study.verdict(test, "PD")               # what a test allows to be said: one verdict per pair and quantity
    study.rank(weights), study.plan()

All claims share one order, in which the p-values are adjusted (significance.gatekeep). PD: each arm against the
baseline; the arms of the contrast together; the same two at equal loss, between the branches of a trunk; the pairs
without the baseline. Losses: each against the baseline; the other pairs. Everything is computed when first asked for,
and once. Numbers only: no files, no prose, no pandas, no torch. The statistics themselves are in significance.py; the
results of one arm are a `Measured` (analysis/results.py): its trials, those of them that have a PD (`pd_ids`), the
matrix of PD among some of them, and why it can't be compared (`unfit`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

import activations
import significance
import storage
from analysis import checks, sequential
from analysis.frontier import equal_loss, frontier
from analysis.question import Question
from analysis.records import Branch
from analysis.results import (
    Measured,
    matrix,
    mean,
    measure,
    median,
    seeds_shared,
)
from config import UserError
from storage import number

ALPHA = 0.05
# the quantities of two questions, each in the order of its tests; Matched_PD: PD at equal loss, between branches
QUESTIONS = (("PD", "Matched_PD"), ("Loss",))
QUANTITIES = tuple(quantity for question in QUESTIONS for quantity in question)
REDUCTIONS = (5, 10, 20)  # of PD, in percent: what trials are planned for
WEIGHTINGS = {
    "research focus": {"reproducibility": 0.6, "accuracy": 0.3, "efficiency": 0.1},
    "production balanced": {"reproducibility": 0.4, "accuracy": 0.4, "efficiency": 0.2},
    "speed priority": {"reproducibility": 0.2, "accuracy": 0.3, "efficiency": 0.5},
}
CRITERIA = {  # of a ranking: what it is measured by (lower is better in each), and how
    "reproducibility": ("Avg_Relative_PD", lambda m: m.pd_interval[0]),
    "accuracy": ("Avg_Val_Loss", lambda m: mean(m.losses())),
    "efficiency": ("Median_Training_Time_Sec", lambda m: median(m.trial_values("training_time"))),
}


@dataclass(eq=False)
class Tested:
    """What is compared, one comparison for each quantity that both sides have.

    `own` are the comparisons by their own spread alone; `tests` are moderated by the spread of the comparisons with the
    baseline. `p_holm`: their p, adjusted for the family and its place in the order; `p_equal`: p of a difference as
    large as the margin, adjusted for the family. `loss`: the validation loss at which PD at equal loss was read off.
    """

    loss: float | None = field(default=None, kw_only=True)
    own: dict[str, significance.Comparison] = field(default_factory=dict, kw_only=True)
    tests: dict[str, significance.Comparison] = field(default_factory=dict, kw_only=True)
    p_holm: dict[str, float] = field(default_factory=dict, kw_only=True)
    p_equal: dict[str, float] = field(default_factory=dict, kw_only=True)

    def tested(self, quantity: str) -> bool:
        return quantity in self.tests and self.tests[quantity].p is not None


@dataclass(eq=False)
class PairTests(Tested):
    """The tests of arm `a` against `b`; the baseline is always b. `primary`: it is a comparison with the baseline."""

    a: str
    b: str
    paired: bool
    primary: bool = False
    unfit: dict[str, str] = field(default_factory=dict)  # {activation: why it can't be tested}
    naive_p: float | None = None

    @property
    def names(self) -> list[str]:
        """The arms that are compared with b."""
        return [self.a]

    @property
    def why_not(self) -> str:
        """Why a quantity that was not compared was not."""
        reasons = [f"{activations.label(name)}: {reason}" for name, reason in self.unfit.items()]
        return "; ".join(reasons) or "too few trials, or not recorded"


@dataclass(eq=False)
class Contrast(Tested):
    """The planned contrast: some arms together against the baseline."""

    names: list[str]
    left_out: list[str] = field(default_factory=list)  # arms of it with too few trials
    paired: bool = True
    reason: str = ""  # why there is no test

    @property
    def why_not(self) -> str:
        return self.reason or "of PD alone"


@dataclass(frozen=True)
class Ranking:
    """Rows of Rank, Activation, Score, scaled criteria and their values, best first; and who could not be ranked."""

    rows: list[dict]
    excluded: dict[str, str]  # {activation: why}

    @property
    def ranks(self) -> dict[str, int]:
        return {row["Activation"]: row["Rank"] for row in self.rows}


def _once(method):
    """A method whose answers are remembered by its arguments, for as long as its study is there."""

    @functools.wraps(method)
    def remembered(self, *arguments):
        key = (method.__name__, *arguments)
        if key not in self._answers:
            self._answers[key] = method(self, *arguments)
        return self._answers[key]

    return remembered


class Study:
    """The results of one study, {arm: results}, and what follows from them. `name` tells several apart; `question`:
    what is asked of them, by default what they record.

    looks: the record of the looks that were taken while trials were added (looks.py), or None. The trials are
    those of the last look, then: p-values and intervals allow for all looks, and the decisions on record stand.

    Raises:
        UserError: there are no results, or they are of different settings, corpora or positions.
    """

    def __init__(
        self,
        all_results: Mapping[str, dict],
        name: str = "",
        looks: Mapping | None = None,
        question: Question | None = None,
        without: int | None = None,
    ):
        self.name, self.looks = name, looks
        self.measured: dict[str, Measured] = measure(all_results, without)
        self.all_results = {name: m.results for name, m in self.measured.items()}
        self.question = question or Question.of(self.all_results)
        self._answers: dict[tuple, object] = {}

    @classmethod
    def of(cls, results: Mapping[str, dict] | Study) -> Study:
        """The study of these results; a study is returned as it is."""
        return results if isinstance(results, Study) else cls(results)

    @property
    def folder(self) -> Path:
        """Where its results lie, by what they record; `results` where they record no one folder, or aren't there."""
        recorded = {str(m.record("config").get("results_dir") or "results") for m in self.measured.values()}
        folder = Path(recorded.pop())
        complete = not recorded and all((folder / f"{name}_results.json").is_file() for name in self.measured)
        return folder if complete else Path("results")

    def command(self, flags: str) -> str:
        """What trains more of this study, from where it was trained: a named one remembers its settings, another goes
        on with those that its results record. It follows from the record alone, so that a report is the same wherever
        its results lie."""
        name, first = next(iter(self.measured.items()))
        config = first.record("config")
        if config.get("study"):
            flags = f"--study {config['study']} {flags}"
        elif config:
            path = storage.results_path(config.get("results_dir", "results"), name)
            usual = {"results_dir": "results", "plots_dir": "plots", "checkpoint_dir": "checkpoints"}
            moved = [
                f"--{k.replace('_', '-')} {config[k]}" for k, place in usual.items() if config.get(k, place) != place
            ]
            arms = [] if "--activation" in flags else ["--activation", *self.measured]
            flags = " ".join([f"--like {path}", *moved, *arms, flags])
        return f"`python train.py {flags}`"

    # the activations

    @cached_property
    def fit(self) -> dict[str, Measured]:
        """Those that can enter rankings and tests."""
        return {name: m for name, m in self.measured.items() if not m.unfit}

    @cached_property
    def frontiers(self) -> dict[str, list[Branch]]:
        """The branches of each activation that has some; none where not two have: there is nothing to compare."""
        frontiers = {name: points for name, m in self.fit.items() if (points := frontier(m))}
        return frontiers if len(frontiers) > 1 else {}

    @cached_property
    def at_equal_loss(self) -> tuple[float | None, dict[str, float]]:
        """All arms with branches at one loss, the largest final one of any pair: that loss in nats per token, and the
        mean PD of each there. For tables; what is tested is read off at a loss of its own, `compared_pds`."""
        ids = {name: self.measured[name].pd_ids for name in self.frontiers}
        if not ids or (read_off := equal_loss(self.frontiers, ids)) is None:
            return None, {}
        loss, matrices = read_off
        return loss, {name: mean(pds[np.triu_indices(len(pds), 1)]) for name, pds in matrices.items()}

    @cached_property
    def pd(self) -> dict[str, float | None]:
        return {name: m.pd_interval[0] for name, m in self.measured.items()}

    @cached_property
    def loss(self) -> dict[str, float | None]:
        return {name: mean(m.losses()) for name, m in self.measured.items()}

    @cached_property
    def time(self) -> dict[str, float | None]:
        """Median training time of a trial, in seconds."""
        return {name: median(m.trial_values("training_time")) for name, m in self.measured.items()}

    @cached_property
    def by_pd(self) -> list[str]:
        """Lowest mean PD first; last those without one, and those that can't be compared."""
        return sorted(self.measured, key=lambda n: (n not in self.fit, self.pd[n] is None, self.pd[n] or 0))

    @cached_property
    def pareto(self) -> list[str]:
        """Activations that no other beats in mean loss or mean PD and equals in the other; lowest loss first."""
        points = {n: (self.loss[n], self.pd[n]) for n in self.fit if None not in (self.loss[n], self.pd[n])}

        front = [n for n, point in points.items() if not any(beats(other, point) for other in points.values())]
        return sorted(front, key=points.get)

    def lowest(self, values: Mapping[str, float | None]) -> tuple[list[str], list[str]]:
        """The fit activations with the lowest value (several when equal), and the others that have one."""
        candidates = {n: values[n] for n in self.fit if values[n] is not None}
        best = [n for n, x in candidates.items() if significance.same(x, min(candidates.values()))]
        return best, [n for n in candidates if n not in best]

    # tests

    @cached_property
    def without(self) -> dict[int, Study]:
        """{trial: this study without that trial of every arm}."""
        ids = sorted({k for m in self.measured.values() for k in m.trials})
        return {k: type(self)(self.all_results, self.name, question=self.question, without=k) for k in ids}

    @property
    def tests(self) -> list[PairTests]:
        """Every pair of activations, compared by the procedure of significance.py."""
        return self._compared[0]

    @property
    def contrast(self) -> Contrast:
        """Mean ln PD of the arms of the contrast minus the baseline's, seed by seed where all of them share their seeds
        with it.

        An arm with fewer than three trials that have a PD is left out: it must not take the test from the others.
        """
        return self._compared[1]

    @cached_property
    def _compared(self) -> tuple[list[PairTests], Contrast]:
        names = [*self.question.others, self.question.baseline]
        pairs = [self._compare(self.measured[a], self.measured[b]) for a, b in itertools.combinations(names, 2)]
        contrast = self._compare_together()
        planned = [t for t in pairs if t.primary and not t.unfit]
        others = [t for t in pairs if t not in planned]
        for question in QUESTIONS:
            for quantity in question:
                _moderate([*pairs, contrast], planned or pairs, quantity)
                if self.looks:
                    _allow_for_looks([*pairs, contrast], quantity, self.looks)
            in_order = [(group, quantity) for quantity in question for group in (planned, [contrast])]
            _adjust(in_order + [(others, quantity) for quantity in question], contrast, self.looks)
        return pairs, contrast

    def margin(self, quantity: str) -> float:
        """The smallest difference that matters: a fraction of PD, or nats per token."""
        if quantity == "Loss":
            return significance.LOSS_MARGIN
        return self.looks["plan"]["margin"] if self.looks else significance.PD_MARGIN

    def _compare_pds(self, result: Tested, names: list[str], compare: Callable) -> None:
        """Compare what is there of PD and of PD at equal loss by `compare`, of {activation: matrix of trials}."""
        for quantity in QUESTIONS[0]:
            if compared := self.compared_pds(names, quantity, result.paired):
                loss, _, pds = compared
                result.loss = result.loss if loss is None else loss
                result.own[quantity] = compare(pds)

    def compared_pds(
        self, names: Iterable[str], quantity: str, paired: bool
    ) -> tuple[float | None, dict[str, list[int]], dict[str, np.ndarray]] | None:
        """What a comparison of these activations is of, and of nothing else in the folder: the loss at which PD is read
        off (of final models None), {activation: its trials} and {activation: matrix of PD among them}. None where one
        has fewer than two such trials."""
        ids = {name: self._pd_ids[quantity][name] for name in names}
        rows = dict(zip(ids, _rows(*ids.values(), paired=paired), strict=True))
        if min(map(len, rows.values())) < 2:
            return None
        if quantity == "PD":
            return None, rows, {name: self.measured[name].pd(some) for name, some in rows.items()}
        read_off = equal_loss({name: self.frontiers[name] for name in rows}, rows)
        return read_off and (read_off[0], rows, read_off[1])

    @cached_property
    def _pd_ids(self) -> dict[str, dict[str, list[int]]]:
        """Of each quantity that is a PD, {activation: the trials that have one}."""
        final = {name: m.pd_ids for name, m in self.measured.items()}
        between = {name: ids if name in self.frontiers else [] for name, ids in final.items()}
        return {"PD": final, "Matched_PD": between}

    def _compare(self, a: Measured, b: Measured) -> PairTests:
        unfit = {m.name: m.unfit for m in (a, b) if m.unfit}
        primary = b.name == self.question.baseline
        result = PairTests(a.name, b.name, seeds_shared(a, b), primary, unfit)
        if unfit:
            return result
        paired = result.paired
        self._compare_pds(result, [a.name, b.name], lambda pds: significance.compare_pd(*pds.values(), paired=paired))
        ids = _rows(a.pd_ids, b.pd_ids, paired=paired)
        if "PD" in result.own:
            result.naive_p = significance.naive_pairs_test(a.pd(ids[0]), b.pd(ids[1])).p
        ids = _rows(a.trials, b.trials, paired=paired)
        if min(map(len, ids)) > 0:
            result.own["Loss"] = significance.compare_loss(a.losses(ids[0]), b.losses(ids[1]), paired=paired)
        return result

    def _compare_together(self) -> Contrast:
        baseline, planned = self.question.baseline, self.question.contrast
        contrast = Contrast([name for name in planned if name in self.fit])
        if not planned:
            return contrast
        if baseline not in self.fit or not contrast.names:
            missing = ", ".join(map(activations.label, planned if baseline in self.fit else [baseline]))
            contrast.reason = f"there are no usable results of {missing}"
            return contrast
        enough = [name for name in contrast.names if len(self.fit[name].pd_ids) >= 3]
        if enough:
            contrast.left_out = [name for name in contrast.names if name not in enough]
            contrast.names = enough
        names = contrast.names
        contrast.paired = all(seeds_shared(self.fit[name], self.fit[baseline]) for name in names)
        paired = contrast.paired
        self._compare_pds(
            contrast,
            [*names, baseline],
            lambda pds: significance.smooth_contrast(pds, names, baseline, paired=paired),
        )
        if "PD" not in contrast.own:
            contrast.reason = f"too few trials have a PD in all of these {self.question.arms_noun}"
        return contrast

    @cached_property
    def headline(self) -> Contrast | PairTests | None:
        """What answers the question alone: the planned contrast, or the comparison of two arms; None of several."""
        if self.question.contrast:
            return self.contrast
        return self.tests[0] if len(self.tests) == 1 else None

    @cached_property
    def primary(self) -> list[PairTests]:
        """The planned comparisons: every arm against the baseline."""
        return [t for t in self.tests if t.primary and not t.unfit]

    @cached_property
    def planned_for(self) -> list[PairTests]:
        """The comparisons that trials are planned for: those with the baseline, every pair where that can't be used."""
        return self.primary or self.tests

    @_once
    def verdict(self, test: Tested, quantity: str) -> significance.Verdict:
        """What a comparison, or the contrast, allows to be said, by its adjusted p."""
        comparison = test.tests.get(quantity)
        if comparison is None:
            return significance.Verdict("no test", f"no test ({test.why_not})")
        labels = " and ".join(map(activations.label, test.names)), activations.label(self.question.baseline)
        if isinstance(test, PairTests):
            labels = activations.label(test.a), activations.label(test.b)
        told_as = "PD at equal loss" if quantity == "Matched_PD" else None
        p, p_equal = test.p_holm[quantity], test.p_equal[quantity]
        margin = self.margin(quantity)
        return significance.verdict(
            comparison, p, *labels, quantity=told_as, margin=margin, alpha=ALPHA, p_equal=p_equal
        )

    def kind(self, a: str, b: str, quantity: str) -> str:
        """The kind of verdict on activation a against b, in whichever order they were tested."""
        test = next(t for t in self.tests if {t.a, t.b} == {a, b})
        kind = self.verdict(test, quantity).kind
        return kind if test.a == a else {"lower": "higher", "higher": "lower"}.get(kind, kind)

    def against_baseline(self, quantity: str, kind: str) -> list[str]:
        """Arms whose comparison with the baseline has this kind of verdict."""
        return [t.a for t in self.primary if self.verdict(t, quantity).kind == kind]

    def differ(self, quantity: str) -> tuple[int, int]:
        """For how many pairs the tests show a difference, and how many were tested."""
        tested = [t for t in self.tests if t.tested(quantity)]
        return sum(self.verdict(t, quantity).kind in ("lower", "higher") for t in tested), len(tested)

    @_once
    def headline_kind(self, quantity: str) -> str:
        """The kind of verdict on the headline; '' where it could not be tested."""
        tested = self.headline is not None and self.headline.tested(quantity)
        return self.verdict(self.headline, quantity).kind if tested else ""

    @_once
    def bootstrap(self, test: PairTests) -> significance.Bootstrap | None:
        """The two-way bootstrap of a comparison of PD; None without PD by block of positions for five trials."""
        ids = _rows(*(self.measured[name].pd_ids for name in (test.a, test.b)), paired=test.paired)
        stacks = []
        for name, rows in zip((test.a, test.b), ids, strict=True):
            records = self.measured[name].pairs
            pairs = {(i, j): records[i, j].value("relative_pd_by_block") for i in rows for j in rows if i < j}
            if len(rows) < 5 or not all(pairs.values()):
                return None
            by_block = zip(*pairs.values(), strict=True)
            stacks.append(np.stack([matrix(dict(zip(pairs, pds, strict=True)), rows) for pds in by_block], axis=-1))
        if stacks[0].shape[-1] != stacks[1].shape[-1] or stacks[0].shape[-1] < 2:
            return None  # other positions, or not windows enough
        return significance.multi_bootstrap(*stacks, paired=test.paired)

    @cached_property
    def checks(self) -> list[dict]:
        """Those that compare the results of different arms."""
        return checks.across_activations(self.all_results)

    # rankings

    def rank(self, weights: Mapping[str, float] | None = None, without: int | None = None) -> Ranking:
        """Activations by a weighted score, best first; `without` leaves a trial out of everything.

        Scores, weights and errors are those of analyze_results.rank_activations.
        """
        return self._rank(tuple(_shares(WEIGHTINGS["research focus"] if weights is None else weights).items()), without)

    @_once
    def _rank(self, shares: tuple[tuple[str, float], ...], without: int | None) -> Ranking:
        excluded, values = {}, {}
        for name, measures in self._criteria(without).items():
            lacking = [criterion for criterion, share in shares if share and measures.get(criterion) is None]
            if self.measured[name].unfit or lacking:
                excluded[name] = self.measured[name].unfit or f"no measurement of {' and '.join(lacking)}"
            else:
                values[name] = measures
        scaled = {c: dict(zip(values, _scaled([v[c] for v in values.values()]), strict=True)) for c in CRITERIA}
        scores = {name: sum(share * scaled[c][name] for c, share in shares if share) for name in values}
        rows = [
            {
                "Rank": 1 + sum(other > score + 1e-9 for other in scores.values()),
                "Activation": name,
                "Score": score,
                **{f"{c.capitalize()}_Score": scaled[c][name] for c in CRITERIA},
                **{column: values[name][c] for c, (column, _) in CRITERIA.items()},
            }
            for name, score in scores.items()
        ]
        return Ranking(sorted(rows, key=lambda row: row["Rank"]), excluded)

    @_once
    def _criteria(self, without: int | None) -> dict[str, dict[str, float | None]]:
        """{activation: {criterion: its value}}; of unfit activations nothing."""
        measured = self.measured
        if without is not None:
            measured = {name: dataclasses.replace(m, without=without) for name, m in measured.items()}
        return {
            name: {} if m.unfit else {criterion: get(m) for criterion, (_, get) in CRITERIA.items()}
            for name, m in measured.items()
        }

    def rank_ranges(self, weights: Mapping[str, float] | None = None) -> dict[str, tuple[int, int]]:
        """{activation: (best, worst)} rank when each trial in turn is left out of every activation."""
        ranks: dict[str, list[int]] = {}
        for k in sorted({k for m in self.measured.values() for k in m.trials}):
            for name, rank in self.rank(weights, k).ranks.items():
                ranks.setdefault(name, []).append(rank)
        return {name: (min(r), max(r)) for name, r in ranks.items()}

    # planning

    @cached_property
    def detectable(self) -> dict[PairTests, float]:
        """Smallest detectable reduction of PD in percent (80 % power), for each comparison that could be tested."""
        return {t: reduction(t.tests["PD"]) for t in self.planned_for if t.tested("PD")}

    @_once
    def trials_needed(self, test: PairTests, percent: float) -> tuple[int | None, int | None, int | None]:
        """Trials per activation that see a reduction of PD of so many percent with 80 % power, and their range over the
        80 % limits of the spread; None where the spread is not known."""
        comparison = test.tests.get("PD")
        return significance.plan_trials(comparison, -math.log1p(-percent / 100)) if comparison else (None, None, None)

    def plan(self, reductions: Iterable[float] = REDUCTIONS) -> list[dict]:
        """Trials that each planned comparison needs, and what they cost: see analyze_results.plan_trials.

        Raises:
            UserError: a reduction that is not between 0 and 100 %.
        """
        for percent in reductions:
            if number(percent) is None or not 0 < percent < 100:
                raise UserError(f"reductions: {percent!r} must be between 0 and 100 (percent)")
        rows = []
        for t, percent in itertools.product([t for t in self.tests if t.primary] or self.tests, reductions):
            needed, low, high = self.trials_needed(t, percent)
            rows.append(
                {
                    "Activation_A": t.a,
                    "Activation_B": t.b,
                    "Reduction_Pct": percent,
                    "Trials_Now": min(t.tests["PD"].n) if "PD" in t.tests else 0,
                    "Trials_Needed": needed,
                    "Low": low,
                    "High": high,
                    "Extra_Training_Hours": self.extra_hours((t.a, t.b), needed),
                }
            )
        return rows

    def extra_hours(self, names: Iterable[str], trials: int | None) -> float | None:
        """Hours of training, one trial after another, until each of these activations has so many trials."""
        done = {name: len(self.measured[name].trials) for name in names}
        if trials is None or any(self.time[name] is None for name in done):
            return None
        return sum(max(0, trials - n) * self.time[name] for name, n in done.items()) / 3600


def beats(a: tuple, b: tuple) -> bool:
    """Is a below b in one value at least, and not above it in any, beyond the noise of measuring?"""
    above = [x > y and not significance.same(x, y) for x, y in zip(a, b, strict=True)]
    below = [x < y and not significance.same(x, y) for x, y in zip(a, b, strict=True)]
    return any(below) and not any(above)


def reduction(test: significance.Comparison) -> float:
    """Smallest reduction of PD, in percent, that this comparison sees with 80 % power."""
    return -100 * math.expm1(-significance.smallest_detectable(test.se, test.df))


def _moderate(compared: list[Tested], lenders: list[PairTests], quantity: str) -> None:
    """Moderate every comparison by the spread that those with the baseline have on average."""
    variance = significance.family_variance([t.own.get(quantity) for t in lenders])
    for t in compared:
        if quantity in t.own:
            t.tests[quantity] = significance.moderate(t.own[quantity], variance)


def _allow_for_looks(compared: list[Tested], quantity: str, record: Mapping) -> None:
    """p and interval of the last look, such that all looks together have the level."""
    looks, n, alpha = tuple(record["plan"]["looks"]), record["looks"][-1]["trials"], record["plan"]["alpha"]
    for t in compared:
        test = t.tests.get(quantity)
        if test is not None and test.p is not None:
            low, high = sequential.repeated_interval(test, n, looks, alpha)
            p = sequential.repeated_p(test.p, n, looks)
            t.tests[quantity] = dataclasses.replace(test, p=p, low=low, high=high)


def _equal(test: significance.Comparison, quantity: str, record: Mapping | None) -> float | None:
    """p of a difference as large as the margin, of one comparison."""
    if record is None:
        return significance.equivalence_p(test)
    p = significance.equivalence_p(test, None if quantity == "Loss" else record["plan"]["margin"])
    looks, n = tuple(record["plan"]["looks"]), record["looks"][-1]["trials"]
    return p if p is None or p >= 0.5 else sequential.repeated_p(2 * p, n, looks) / 2  # one side is half of two


def _adjust(in_order: list[tuple[list[Tested], str]], planned: Contrast, record: Mapping | None) -> None:
    """Adjust the p-values of the families of one question, the most important first; each is (what is compared,
    quantity). A family without any test neither counts nor closes the gate."""
    families = []
    for compared, quantity in in_order:
        family = {t: t.tests[quantity].p for t in compared if quantity in t.tests}
        for t in family:
            t.p_holm[quantity] = t.p_equal[quantity] = 1.0
        if any(p is not None for p in family.values()):
            families.append((family, quantity))
            equal = significance.holm([_equal(t.tests[quantity], quantity, record) for t in family])
            for t, p in zip(family, equal, strict=True):
                t.p_equal[quantity] = p
    decided = _decisions(families[0], record) if record and families else {}
    for t, look in decided.items():  # a decision stands
        if look["decision"] in ("lower", "higher"):
            families[0][0][t] = 0.0
    adjusted = significance.gatekeep([family for family, _ in families], planned)
    for (_, quantity), values in zip(families, adjusted, strict=True):
        for t, p in values.items():
            t.p_holm[quantity] = p
    for t, look in decided.items():
        t.p_holm["PD"], t.p_equal["PD"] = look["p_adjusted"], look["p_equal"]


def _decisions(first: tuple[dict, str], record: Mapping) -> dict[PairTests, dict]:
    """Of the first family, where it is that of the looks: PD against the reference."""
    family, quantity = first
    decisions = record["looks"][-1]["comparisons"]
    return {t: decisions[t.a] for t in family if t.primary and t.a in decisions} if quantity == "PD" else {}


def _rows(*ids: Iterable[int], paired: bool) -> list[list[int]]:
    """The trials to compare: with shared seeds those that all have."""
    ids = [list(some) for some in ids]
    return [[k for k in ids[0] if all(k in some for some in ids)]] * len(ids) if paired else ids


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    if "speed" in weights:  # another word for efficiency
        if "efficiency" in weights:
            raise UserError("weights: speed and efficiency are one criterion; give one of them")
        weights = {"efficiency" if name == "speed" else name: value for name, value in weights.items()}
    for name, value in weights.items():
        if name not in CRITERIA:
            raise UserError(f"weights: unknown criterion {name!r}; must be any of {', '.join(CRITERIA)}")
        if number(value) is None or value < 0:
            raise UserError(f"weights: {name}={value!r} must be a finite number, at least 0")
    largest = max(weights.values(), default=0)
    if not largest:
        raise UserError("weights: at least one must be above 0")
    scaled = {name: weights.get(name, 0) / largest for name in CRITERIA}  # so that no sum overflows
    return {name: value / sum(scaled.values()) for name, value in scaled.items()}


def _scaled(values: list[float | None]) -> list[float | None]:
    """1 for the lowest value, 0 for the highest, linear between; values equal but for the noise of measuring count as
    the lowest of them. All 1 when they are equal; None stays None."""
    levels: dict[float, float] = {}
    level = None
    for x in sorted({x for x in values if x is not None}):
        level = levels[x] = level if level is not None and significance.same(x, level) else x
    low, high = (min(levels.values()), max(levels.values())) if levels else (0.0, 0.0)
    return [None if x is None else 1.0 if high == low else (high - levels[x]) / (high - low) for x in values]
