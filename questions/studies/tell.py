"""The final table: every study (a model, a dataset, a recipe) side by side, and what they say together.

    python analyze_results.py --all-studies

reads `results/` (the study "main") and every `studies/NAME/results/`, and writes `results/all_studies.csv` (a row per
study and activation), `results/all_studies_pooled.csv` (a row per activation), `results/ALL_STUDIES.md` and
`plots/all_studies.png`. It only reads results files; nothing is trained or measured anew. No torch.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import scipy

import significance
import storage
from analysis import phrases
from analysis.markdown import (
    DASH,
    address,
    counted,
    fixed,
    label,
    labels,
    listed,
    p_value,
    plus_minus,
    safe,
    signed,
    table,
    undressed,
)
from analysis.products import Folder
from analysis.question import Question
from analysis.results import Measured, load_all_results, mean, median, std, study_order
from analysis.study import ALPHA, PairTests, Study, Tested
from analysis.tables import csv, frame
from analysis.template import rendered
from config import UserError
from measures.table import BY_KEY
from questions.studies import pooling
from storage import number

MAIN = "main"  # the study in the flat folders
SMOOTH = "all smooth"  # the planned contrast: the smooth activations together
QUANTITIES = ("PD", "Matched_PD")
UNLIKE_SPREADS = 0.01  # the p below which studies are said to differ in spread
NAMES = {"PD": "final models", "Matched_PD": "equal validation loss"}


# -- reading ----------------------------------------------------------------------------------------------------------


class Member(Study):
    """One study among several, by its name; `common`: the baseline of most of them, None: its own."""

    common: str | None = None

    @property
    def comparable(self) -> bool:
        return self.common in (None, self.question.baseline)

    @cached_property
    def model(self) -> str:
        return str(next(iter(self.all_results.values()))["model_name"])

    @cached_property
    def dataset(self) -> str:
        """The corpus by its name; of a path only its end."""
        names = (str(m.record("dataset").get("name") or "") for m in self.measured.values())
        return os.path.basename(next(filter(None, names), "").rstrip("/"))

    @cached_property
    def marks(self) -> dict[int, set]:
        """{trial: what shows that another study's trial is not independent of it}: the same weights, or the same seed
        on the same corpus; where weights are not recorded, the same curve, digit by digit."""
        found: dict[int, set] = {}
        for m in self.measured.values():
            corpus = m.record("dataset").get("sha256")
            for k, trial in m.trials.items():
                marks = found.setdefault(k, set())
                if trial.mark:
                    marks.add(trial.mark)
                if corpus and trial.seed is not None:
                    marks.add(("seed", corpus, trial.seed))
        return found

    @cached_property
    def against(self) -> dict[str, PairTests]:
        """{activation: its tests against the baseline}."""
        return {t.a: t for t in self.tests if t.primary and self.comparable}

    @property
    def joint(self) -> Tested | None:
        """The contrast, or the comparison of two; None where the studies' common baseline is another."""
        return self.headline if self.comparable else None

    def test(self, name: str, quantity: str) -> significance.Comparison | None:
        """Activation `name` (or SMOOTH) against the baseline; None where they were not compared."""
        if name == SMOOTH:
            return self.joint.tests.get(quantity) if self.joint else None
        return self.against[name].tests.get(quantity) if name in self.against else None

    def own(self, name: str, quantity: str) -> significance.Comparison | None:
        """The same by its own spread alone: what is moderated within a study counts its other comparisons too."""
        tested = self.joint if name == SMOOTH else self.against.get(name)
        return tested.own.get(quantity) if tested else None

    def said(self, name: str, quantity: str) -> str:
        """The kind of its verdict; Holm over this study's planned comparisons (the contrast is one by itself)."""
        if name == SMOOTH:
            return self.headline_kind(quantity) or "no test"
        return self.verdict(self.against[name], quantity).kind


def load_studies(results_dir: str | os.PathLike = "results", studies_dir: str | os.PathLike = "studies"):
    """{name: Member} of the flat results folder ("main") and of every `studies_dir/NAME/results` that has results.

    Raises:
        UserError: there are none, or those of one study were made with different settings.
        storage.StorageError: a results file is damaged, or a folder can't be read.
    """
    folders = {path.name: path / "results" for path in storage.listed(studies_dir) if storage.listed(path, "results")}
    if Path(results_dir).is_dir():
        name = MAIN if MAIN not in folders else str(results_dir)
        folders = {name: Path(results_dir), **folders}
    studies = {}
    for name, folder in folders.items():
        try:
            found = load_all_results(folder)
            if found:
                studies[name] = Member(found, name)
        except UserError as error:
            raise UserError(f"study {name}: {error}") from None
    if not studies:
        raise UserError(
            f"no results in {results_dir} nor in {studies_dir}/*/results; train first (python train.py --study NAME) "
            f"or name other folders (--results-dir, --studies-dir)"
        )
    common = baseline(studies)
    return {name: _asked_alike(study, common) for name, study in studies.items()}


def baseline(studies: Mapping[str, Member]) -> str:
    """What most studies compare with; of equally many the first."""
    found = [study.question.baseline for study in studies.values()]
    return max(dict.fromkeys(found), key=found.count)


def _asked_alike(study: Member, name: str) -> Member:
    """The study asked with the others' baseline, where it has that."""
    if name != study.question.baseline and name in study.measured:
        study = Member(study.all_results, study.name, question=Question.of(study.all_results, name))
    study.common = name
    return study


# -- the table of all studies -----------------------------------------------------------------------------------------


def studies_frame(studies: Mapping[str, Member]):
    """One row per study and activation, as a DataFrame; missing where there is no number.

    `PD_Ratio` is the mean relative PD over that of the baseline in the same study, `PD_Change_Pct` the same as a change
    in percent, with the limits of its 95 % interval (not adjusted); `PD_p_Holm` and `PD_Verdict` are after Holm over
    the comparisons with the baseline of that study. `Matched_PD_…` are the same at equal validation loss. Losses in
    nats per token, times in seconds per trial.
    """
    return frame([_row(study, m) for study in studies.values() for m in study.measured.values()])


def bits_per_byte(m: Measured) -> float | None:
    """Mean validation loss in bits for each byte of the text, comparable across tokenizers; None where not recorded."""
    loss, (positions, size) = mean(m.losses()), (number(m.record("evaluation").get(k)) for k in ("positions", "bytes"))
    return loss * positions / (size * math.log(2)) if loss is not None and positions and size else None


def _row(study: Member, m: Measured) -> dict:
    config = m.record("config")
    row = {
        "Study": study.name,
        "Model": study.model,
        "Dataset": study.dataset,
        "Tokenizer": m.record("dataset").get("tokenizer") or "",
        "Activation": m.name,
        "Trials": len(m.trials),
        "Diverged_Trials": len(m.failed),
        "Avg_Val_Loss": mean(m.losses()),
        "Std_Val_Loss": std(m.losses()),
        "Bits_Per_Byte": bits_per_byte(m),
        "Avg_Relative_PD": m.pd_interval[0],
        "Avg_Pred_Diff_Pct": m.average(BY_KEY["top1_mismatch_pct"]),
    }
    for quantity in QUANTITIES:
        row |= {f"{quantity}_{key}": value for key, value in _comparison(study, m.name, quantity).items()}
    return row | {
        "Parameters": m.results.get("parameters"),
        "Median_Training_Time_Sec": median(m.trial_values("training_time")),
        "Preset": config.get("preset") or "",
        "Steps": config.get("max_iters"),
        "Audit": m.audit,
        "Fingerprint": m.results.get("fingerprint") or "",
    }


def _comparison(study: Member, name: str, quantity: str) -> dict:
    test = study.test(name, quantity)

    def percent(x):
        return None if x is None else 100 * (x - 1)

    columns = dict.fromkeys("Ratio Change_Pct CI_Low_Pct CI_High_Pct SE_Log p_Holm".split())
    if test is not None:
        p = study.against[name].p_holm[quantity] if test.p is not None else None
        values = test.effect, percent(test.effect), percent(test.low), percent(test.high), test.se, p
        columns = dict(zip(columns, values, strict=True))
    if name == study.question.baseline and study.comparable:
        return columns | {"Verdict": "reference"}
    return columns | {"Verdict": study.said(name, quantity) if name in study.against else "no baseline to compare with"}


# -- over all studies -------------------------------------------------------------------------------------------------


@dataclass
class Pooled:
    """An activation against the baseline over studies: the random-effects summary of ln PD ratios."""

    activation: str
    quantity: str
    tests: dict[str, significance.Comparison]  # of the studies that enter it, each by its own spread alone
    verdicts: list[str]  # of these studies
    left_out: dict[str, str]  # {study: the one that has some of its trials already}
    p_holm: float | None = None  # over the activations

    @property
    def studies(self) -> list[str]:
        return list(self.tests)

    @property
    def ratios(self) -> list[float]:
        return [test.effect for test in self.tests.values()]

    @property
    def spreads(self) -> list[float]:
        """Standard deviations of ln ratios over trials, by study."""
        return [test.se * math.sqrt(scipy.stats.hmean(test.n)) for test in self.tests.values()]

    @cached_property
    def effects(self) -> pooling.RandomEffects:
        """Of ln ratios."""
        return summarised(self.tests.values())

    @cached_property
    def heterogeneity_p(self) -> float | None:
        """Of one and the same effect in all studies."""
        tests = self.tests.values()
        return pooling.heterogeneity_p(*zip(*((t.estimate, t.se, t.df) for t in tests), strict=True))

    @cached_property
    def spreads_p(self) -> float | None:
        """Of one and the same spread in all studies, as the pooled errors take it."""
        return same_spread(np.square(self.spreads), np.array([test.df for test in self.tests.values()]))

    @property
    def p(self) -> float | None:
        return self.effects.p

    def ratio(self, attribute: str = "mean") -> float | None:
        x = getattr(self.effects, attribute)
        return None if x is None else math.exp(x)

    @property
    def tau(self) -> float | None:
        """Standard deviation of the true ln ratios between studies."""
        return None if self.effects.tau2 is None else math.sqrt(self.effects.tau2)

    @property
    def i2_percent(self) -> float | None:
        return None if self.effects.i2 is None else 100 * self.effects.i2

    @property
    def predicted(self) -> tuple[float, float] | None:
        """95 % limits of the ratio in another study of this kind."""
        limits = self.effects.predicted
        return limits and (math.exp(limits[0]), math.exp(limits[1]))

    @property
    def verdict(self) -> str:
        """'lower', 'higher', 'equal', 'inconclusive', or 'not pooled' with fewer than two studies."""
        if self.p_holm is None:
            return "not pooled"
        if self.p_holm < ALPHA:
            return "lower" if self.effects.mean < 0 else "higher"
        return "equal" if self.small else "inconclusive"

    @property
    def small(self) -> bool:
        """Shown to be less than what matters."""
        margin = 1 - significance.PD_MARGIN
        return margin <= self.ratio("low90") and self.ratio("high90") <= 1 / margin


def summarised(tests: Iterable[significance.Comparison]) -> pooling.RandomEffects:
    """Studies together; one of two trials has an effect and no spread of its own."""
    parts = [(t.estimate, t.se or 0.0, scipy.stats.hmean(t.n), t.df or 0.0) for t in tests]
    estimates, ses, n, df = zip(*parts, strict=True)
    return pooling.random_effects(estimates, pooling.common_errors(ses, n, df))


def pool(studies: Mapping[str, Member]) -> dict[str, list[Pooled]]:
    """{quantity: every activation that a study could test against the baseline, over all studies that could; last all
    smooth together, where these are the same everywhere}.

    The mean effect, its Hartung-Knapp interval, tau² and I² are those of pooling.random_effects, on ln PD ratios.
    With three trials a study's own standard error rests on two degrees of freedom; weights made of such errors are
    noise, and intervals then cover too little (88 % at ten studies, measured). So the standard errors are made of the
    variance pooled over the studies. With equal numbers of trials the interval is that of a one-sample t over studies.
    Whether the effect differs between studies is tested with each study's own spread. All p-values are adjusted
    together: Holm over the activations and the contrast, and the same at equal loss behind them.

    Studies that share trials, or seeds and corpus, are not independent: of these the one with the most trials enters.
    """
    names = study_order({n for s in studies.values() for n in s.against})
    found, families = {}, []
    for quantity in QUANTITIES:
        pooled = [pool_one(studies, name, quantity) for name in names]
        alike = contrasted(studies, quantity)
        if len(alike) == 1:
            pooled.append(pool_one({key: studies[key] for key in next(iter(alike.values()))}, SMOOTH, quantity))
        found[quantity] = [p for p in pooled if p.tests]
        tested = {p.activation: p for p in found[quantity] if p.p is not None}
        families += [tested] if tested else []
    adjusted = significance.gatekeep([{n: p.p for n, p in family.items()} for family in families])
    for family, p_values in zip(families, adjusted, strict=True):
        for name, p in family.items():
            p.p_holm = p_values[name]
    return found


def contrasted(studies: Mapping[str, Member], quantity: str) -> dict[tuple[str, ...], list[str]]:
    """{smooth activations, two or more: the studies whose contrast is over these}: each is an estimand of its own."""
    found: dict[tuple[str, ...], list[str]] = {}
    for key, study in studies.items():
        if study.test(SMOOTH, quantity) is not None and len(study.contrast.names) > 1:
            found.setdefault(tuple(study.contrast.names), []).append(key)
    return found


def pool_one(studies: Mapping[str, Member], name: str, quantity: str) -> Pooled:
    """One activation, or SMOOTH, over the studies that could test it; see `pool`.

    Raises:
        ValueError: SMOOTH, of studies with different smooth activations.
    """
    tests = {key: test for key, study in studies.items() if (test := study.own(name, quantity)) and test.p is not None}
    if name == SMOOTH and len({tuple(studies[key].joint.names) for key in tests}) > 1:
        raise ValueError(f"studies: {', '.join(tests)} contrast different activations, which can't be pooled")
    entering = list(tests)
    marks = [set().union(*studies[key].marks.values()) for key in entering]
    holders = {entering[i]: j for i, j in pooling.separate_studies(marks).items()}
    left_out = {key: entering[j] for key, j in holders.items() if j is not None}
    tests = {key: test for key, test in tests.items() if key not in left_out}
    return Pooled(name, quantity, tests, [studies[key].said(name, quantity) for key in tests], left_out)


def influence(studies: Mapping[str, Member], p: Pooled) -> significance.Influence | None:
    """How far a summary hangs on one trial of one study: its `trial` is (study, trial)."""
    without = {}
    for key in p.tests if len(p.tests) > 1 else ():
        for trial, left in studies[key].without.items():
            test = left.own(p.activation, p.quantity)
            if test is not None and test.estimate is not None:
                without[key, trial] = summarised((p.tests | {key: test}).values())
    return significance.influence(p.effects, without)


def same_spread(variances: np.ndarray, df: np.ndarray) -> float | None:
    """The p of Bartlett's test (1937, Proc. R. Soc. A 160:268-282) that samples with these variances and degrees of
    freedom, each of shape (k,), are from distributions of one variance; None for fewer than two, or without any."""
    if len(df) < 2 or not (variances > 0).all():
        return None
    pooled = df @ variances / df.sum()
    statistic = df.sum() * math.log(pooled) - df @ np.log(variances)
    correction = 1 + (np.sum(1 / df) - 1 / df.sum()) / (3 * (len(df) - 1))
    return float(scipy.stats.chi2.sf(statistic / correction, len(df) - 1))


def pooled_frame(studies: Mapping[str, Member]):
    """One row per activation and quantity (final models, equal validation loss) over all studies, as a DataFrame.

    `Ratio` with its 95 % limits, p of no effect (raw, and after Holm over the activations), verdict; heterogeneity as
    tau (standard deviation of the true ln ratios between studies), I2 (share of variation that is between studies, in
    percent), Q, and the p of one and the same effect everywhere; the limits of the ratio in another such study.
    `Independent` counts studies that share trials, or seeds and corpus, once.
    """
    summaries = (p for of_quantity in pool(studies).values() for p in of_quantity)
    return frame(({column: value(p) for column, value in POOLED.items()} for p in summaries), list(POOLED))


POOLED = {  # the columns of all_studies_pooled.csv, each with its value in a Pooled
    "Activation": lambda p: p.activation,
    "Compared_At": lambda p: NAMES[p.quantity],
    "Studies": lambda p: len(p.studies),
    "Ratio": lambda p: p.ratio(),
    "CI_Low": lambda p: p.ratio("low"),
    "CI_High": lambda p: p.ratio("high"),
    "p": lambda p: p.p,
    "p_Holm": lambda p: p.p_holm,
    "Verdict": lambda p: p.verdict,
    "Tau": lambda p: p.tau,
    "I2_Pct": lambda p: p.i2_percent,
    "Heterogeneity_p": lambda p: p.heterogeneity_p,
    "Predicted_Low": lambda p: p.predicted and p.predicted[0],
    "Predicted_High": lambda p: p.predicted and p.predicted[1],
    "Names": lambda p: ", ".join(p.studies),
}


# -- in words ---------------------------------------------------------------------------------------------------------


def studies_text(studies: Mapping[str, Member], figure: str | None = None) -> str:
    """The table of all studies, their summary and conclusions, as Markdown; `figure` is a link to all_studies.png."""
    pooled = pool(studies)
    models = list(dict.fromkeys(s.model for s in studies.values()))
    datasets = list(dict.fromkeys(s.dataset for s in studies.values() if s.dataset))
    text = rendered(
        "studies.md",
        counts=f"{counted(len(studies), 'study', 'studies')}; {counted(len(models), 'model')} "
        f"({listed(map(safe, models))}); {counted(len(datasets), 'corpus', 'corpora')} "
        f"({listed(map(safe, datasets)) or 'not recorded'}).",
        scope=scope(studies),
        conclusions=conclusions(studies, pooled) + cautions(studies, pooled),
        baseline=label(baseline(studies)),
        table=_studies_table(studies),
        figure=figure,
        pooled={
            NAMES[q]: _pooled_table(summaries)
            for q, summaries in pooled.items()
            if any(p.p is not None for p in summaries)
        },
    )
    return re.sub("\n{3,}", "\n\n", text).rstrip() + "\n"  # one blank line at most


def scope(studies: Mapping[str, Member]) -> list[str]:
    """How long each study trained, and what differed between its trainings; one line for those that are alike."""
    told: dict[str, list[str]] = {}
    for study in studies.values():
        varied = f", which differ in {listed(varies)}" if (varies := phrases.what_varies(study)) else ""
        told.setdefault(f"{phrases.trained(study)}{varied}.", []).append(safe(study.name))
    return [f"{listed(names)}: {text}" for text, names in told.items()]


def _studies_table(studies: Mapping[str, Member]) -> list[str]:
    header = (
        "study|model|dataset|tokenizer|activation|validation loss|bits per byte|relative PD|change|verdict|"
        "at equal loss|trials"
    )
    rows = []
    for study in studies.values():
        for m in study.measured.values():
            tokenizer = m.record("dataset").get("tokenizer") or DASH
            cells = [safe(x) for x in (study.name, study.model, study.dataset or DASH, tokenizer)] + [label(m.name)]
            cells += [plus_minus(mean(m.losses()), std(m.losses())), fixed(bits_per_byte(m)), fixed(m.pd_interval[0])]
            for quantity in QUANTITIES:
                c = _comparison(study, m.name, quantity)
                change = _percent(c["Change_Pct"], c["CI_Low_Pct"], c["CI_High_Pct"])
                cells += [change, c["Verdict"]] if quantity == "PD" else [change]
            time, parameters = median(m.trial_values("training_time")), m.results.get("parameters")
            cells += [str(len(m.trials)), DASH if not parameters else f"{parameters:,}", fixed(time, 1)]
            rows.append(cells)
    return table([*header.split("|"), "parameters", "seconds a trial"], rows, left=5)


def _pooled_table(pooled: list[Pooled]) -> list[str]:
    header = "activation|studies|change|p (Holm)|verdict|τ|I²|p of heterogeneity|another study".split("|")
    rows = [
        [
            _name(p),
            str(len(p.studies)),
            _change(p.ratio(), p.ratio("low"), p.ratio("high")),
            p_value(p.p_holm),
            p.verdict,
            fixed(p.tau, 3),
            DASH if p.i2_percent is None else f"{p.i2_percent:.0f} %",
            p_value(p.heterogeneity_p),
            _range(p.predicted),
        ]
        for p in pooled
    ]
    return table(header, rows)


def _name(p: Pooled) -> str:
    return SMOOTH if p.activation == SMOOTH else label(p.activation)


def _size(p: Pooled) -> str:
    """How large a difference that was shown is, and whether that is shown to be less than what matters."""
    less = f", less than the {100 * significance.PD_MARGIN:g} % that matter" if p.small else ""
    return f" (by {fixed(abs(100 * (p.ratio() - 1)), 1)} %{less})"


def _percent(change, low, high) -> str:
    if change is None:
        return DASH
    return f"{signed(change)} %" + ("" if low is None else f" [{signed(low)}, {signed(high)}]")


def _change(ratio, low, high) -> str:
    return _percent(*(None if x is None else 100 * (x - 1) for x in (ratio, low, high)))


def _range(limits: tuple[float, float] | None) -> str:
    return DASH if limits is None else " to ".join(signed(100 * (x - 1)) for x in limits) + " %"


def conclusions(studies: Mapping[str, Member], pooled: Mapping[str, list[Pooled]]) -> list[str]:
    """What the studies together allow to be said about PD, sentence by sentence."""
    found, equal = pooled["PD"], {p.activation: p for p in pooled["Matched_PD"]}
    base = label(baseline(studies))
    if not found:
        return [f"No study could test an activation against {base}: that takes three finished trials of both."]
    several = [p for p in found if p.verdict != "not pooled"]
    if not several:
        if len(studies) == 1:
            return ["There is one study only, so there is nothing to pool; its own report has its conclusions."]
        return [
            f"No activation was tested against {base} in two different studies, so there is nothing to pool; "
            "each study's own report has its conclusions."
        ]
    points = []
    for verdict, words in (
        ("lower", f"**Lower PD than {base} over the studies**"),
        ("higher", f"**Higher PD than {base} over the studies**"),
        ("equal", f"**Practically equal to {base} (±5 %) over the studies**"),
        ("inconclusive", "**Inconclusive over the studies**"),
    ):
        sized = verdict in ("lower", "higher")
        named = [_name(p) + (_size(p) if sized else "") for p in several if p.verdict == verdict]
        if named:
            points.append(f"{words}: {listed(named)}.")
    points += [_about(studies, p, equal.get(p.activation)) for p in several]
    alone = [p for p in found if p.verdict == "not pooled"]
    if alone:
        points.append(f"Not pooled, being tested in one study only: {listed(map(_name, alone))}.")
    return points


def _about(studies: Mapping[str, Member], p: Pooled, equal: Pooled | None) -> str:
    k, below, base = len(p.studies), sum(ratio < 1 for ratio in p.ratios), label(baseline(studies))
    own = [f"{p.verdicts.count(kind)} {kind}" for kind in ("lower", "higher", "equal") if kind in p.verdicts]
    text = (
        f"{_name(p)}: PD {_change(p.ratio(), p.ratio('low'), p.ratio('high'))} relative to {base} over "
        f"{k} studies (p = {p_value(p.p_holm)}); lower in {below} of {k}"
        f"{', tested on their own: ' + listed(own) if own else ', none of them conclusive on its own'}."
    )
    if p.i2_percent is not None:
        i2 = f"I² = {p.i2_percent:.0f} %, p = {p_value(p.heterogeneity_p)}"
        if p.heterogeneity_p < 0.1:
            text += f" The effect differs between studies ({i2}): it depends on model or corpus, and the mean hides it."
        else:
            text += f" No heterogeneity shown ({i2}); with {k} studies only a large one would show."
    if p.predicted:
        text += f" Expected in another study of this kind: {_range(p.predicted)}."
    if equal is not None and equal.p is not None:
        change = _change(equal.ratio(), equal.ratio("low"), equal.ratio("high"))
        text += f" At equal validation loss: {change}, {equal.verdict}."
    return text + hangs_on(influence(studies, p))


def hangs_on(found: significance.Influence | None) -> str:
    """The trial on which a summary hangs, where it does."""
    if found is None or not found.notable:
        return ""

    def named(key: tuple[str, int]) -> str:
        return f"trial {key[1]} of {safe(key[0])}"

    change = _change(
        *(None if x is None else math.exp(x) for x in (found.without.mean, found.without.low, found.without.high))
    )
    text = f" Without {named(found.trial)} it is {change}."
    decisive = found.decisive
    which = listed(map(named, decisive), "or") if len(decisive) < 4 else f"any one of {len(decisive)} trials"
    return text + (f" Without {which} the test, unadjusted, would say otherwise." if decisive else "")


def _shared(a: Member, b: Member) -> str:
    """What two studies that are not independent have in common."""
    kinds = {mark[0] for mark in set().union(*a.marks.values()) & set().union(*b.marks.values())}
    return "hold the same trained models" if kinds & {"weights", "curve"} else "have seeds in common on the same corpus"


def unlike_spreads(pooled: Mapping[str, list[Pooled]]) -> list[str]:
    """Where the pooled errors take for one spread what isn't."""
    points = []
    for quantity, found in pooled.items():
        unlike = [p for p in found if p.spreads_p is not None and p.spreads_p < UNLIKE_SPREADS]
        if unlike:
            p = min(unlike, key=lambda p: p.spreads_p)
            low, high = fixed(min(p.spreads), 3), fixed(max(p.spreads), 3)
            points.append(
                f"The pooled errors ({NAMES[quantity]}) take the spread over trainings as one in all studies; it is "
                f"not: for {_name(p)} the standard deviations of the ln ratio go from {low} to {high} (p "
                f"{p_value(p.spreads_p)}, Bartlett's test). The least steady study then counts for more than it should."
            )
    return points


def cautions(studies: Mapping[str, Member], pooled: Mapping[str, list[Pooled]]) -> list[str]:
    """What is odd about these studies."""
    points = unlike_spreads(pooled)
    overlapping = {key: holder for found in pooled.values() for p in found for key, holder in p.left_out.items()}
    for name, holder in overlapping.items():
        points.append(
            f"{safe(name)} and {safe(holder)} {_shared(studies[name], studies[holder])}: they are not independent, and "
            f"{safe(holder)} alone counts. `train.py --replicate N` repeats a study with seeds that no other one has."
        )
    different = contrasted(studies, "PD")
    if len(different) > 1:
        which = "; ".join(f"{listed(map(safe, names))}: {labels(smooth)}" for smooth, names in different.items())
        points.append(f"The smooth activations together are not pooled, being others in each study ({which}).")
    presets = {s.name: {m.record("config").get("preset") for m in s.measured.values()} for s in studies.values()}
    smoke = [safe(name) for name, found in presets.items() if "smoke" in found]
    if smoke:
        points.append(f"Trained for seconds only (preset smoke), too short for conclusions: {listed(smoke)}.")
    for study in studies.values():
        unfit = [name for name, m in study.measured.items() if m.unfit]
        if unfit:
            points.append(f"Left out of tests in {safe(study.name)}, audit failed or no trial done: {labels(unfit)}.")
        counts = [m.results["parameters"] for m in study.measured.values() if m.results.get("parameters")]
        if counts and max(counts) > 1.01 * min(counts):
            percent = 100 * (max(counts) / min(counts) - 1)
            points.append(f"In {safe(study.name)} the parameters of the activations differ by {percent:.1f} %.")
    return points


# -- writing ----------------------------------------------------------------------------------------------------------


def make(folder: Folder) -> dict[Path, object]:
    """Tables, figure (where any study has a ratio to ReLU) and text."""
    from questions.studies.draw import plot_studies

    studies, figure = load_studies(folder.results, folder.studies), folder.plots / "all_studies.png"
    rows = figure_rows(studies)
    pooled = [
        {"activation": p.activation, "ratio": p.ratio(), "low": p.ratio("low"), "high": p.ratio("high")}
        for p in pool(studies)["PD"]
        if p.p is not None and p.activation != SMOOTH
    ]
    link = address(figure, folder.results) if rows else None
    texts = {
        "all_studies.csv": csv(studies_frame(studies)),
        "all_studies_pooled.csv": csv(pooled_frame(studies)),
        "ALL_STUDIES.md": studies_text(studies, link),
    }
    drawn = {figure: partial(plot_studies, rows, pooled=pooled)} if rows else {}
    return {folder.results / name: text for name, text in texts.items()} | drawn


def overview(folder: Folder) -> str:
    """The text for a terminal."""
    return undressed(storage.read_bytes(folder.results / "ALL_STUDIES.md").decode())


def figure_rows(studies: Mapping[str, Member]) -> list[dict]:
    """The table of plot_studies: every ratio to the baseline that there is."""
    rows = []
    for study in studies.values():
        where = {"study": study.name, "model": study.model, "dataset": study.dataset}
        for name in study.against:
            test = study.test(name, "PD")
            if test is not None and test.effect is not None:
                values = {"ratio": test.effect, "low": test.low, "high": test.high}
                rows.append({**where, "activation": name, "baseline": study.question.baseline, **values})
    order = study_order({row["activation"] for row in rows})
    return sorted(rows, key=lambda row: order.index(row["activation"]))
