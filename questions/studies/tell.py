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
    fixed,
    grouped,
    label,
    limits,
    listed,
    p_value,
    plus_minus,
    safe,
    signed,
    table,
    tabled,
    undressed,
)
from analysis.products import Folder
from analysis.question import Question
from analysis.results import Measured, exponentials, load_all_results, mean, median, std, study_order
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
    def marks(self) -> set:
        """What shows that another study's trials are not independent of these: the same weights, or the same seed on
        the same corpus; where weights are not recorded, the same curve, digit by digit."""
        trials = [(m.record("dataset").get("sha256"), t) for m in self.measured.values() for t in m.trials.values()]
        seeds = {("seed", corpus, t.seed) for corpus, t in trials if corpus and t.seed is not None}
        return seeds | {t.mark for _, t in trials if t.mark}

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
            if results := load_all_results(folder):
                studies[name] = Member(results, name)
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
    baselines = [study.question.baseline for study in studies.values()]
    return max(dict.fromkeys(baselines), key=baselines.count)


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
    return frame(_rows(studies))


def _rows(studies: Mapping[str, Member]) -> list[dict]:
    return [_row(study, m) for study in studies.values() for m in study.measured.values()]


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


COMPARISON = "Ratio Change_Pct CI_Low_Pct CI_High_Pct SE_Log p_Holm".split()


def _comparison(study: Member, name: str, quantity: str) -> dict:
    test, values = study.test(name, quantity), [None] * len(COMPARISON)
    if test is not None:
        p = study.against[name].p_holm[quantity] if test.p is not None else None
        values = [test.effect, *map(_percent, (test.effect, test.low, test.high)), test.se, p]
    if name == study.question.baseline and study.comparable:
        verdict = "reference"
    else:
        verdict = study.said(name, quantity) if name in study.against else "no baseline to compare with"
    return dict(zip([*COMPARISON, "Verdict"], [*values, verdict], strict=True))


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else 100 * (ratio - 1)


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

    @property
    def own_verdicts(self) -> list[str]:
        """How many studies are conclusive by themselves: '2 lower', '1 higher'."""
        return [f"{n} {kind}" for kind in ("lower", "higher", "equal") if (n := self.verdicts.count(kind))]

    def ratio(self, attribute: str = "mean") -> float | None:
        return exponentials([getattr(self.effects, attribute)])[0]

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
        return self.effects.predicted and exponentials(self.effects.predicted)

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
    every, families = {}, []
    for quantity in QUANTITIES:
        pooled = [pool_one(studies, name, quantity) for name in names]
        alike = contrasted(studies, quantity)
        if len(alike) == 1:
            pooled.append(pool_one({key: studies[key] for key in next(iter(alike.values()))}, SMOOTH, quantity))
        every[quantity] = [p for p in pooled if p.tests]
        families.append({p.activation: p for p in every[quantity] if p.p is not None})
    families = [family for family in families if family]
    adjusted = significance.gatekeep([{n: p.p for n, p in family.items()} for family in families])
    for family, p_values in zip(families, adjusted, strict=True):
        for name, p in family.items():
            p.p_holm = p_values[name]
    return every


def contrasted(studies: Mapping[str, Member], quantity: str) -> dict[tuple[str, ...], list[str]]:
    """{smooth activations, two or more: the studies whose contrast is over these}: each is an estimand of its own."""
    tested = {key: s.contrast.names for key, s in studies.items() if s.test(SMOOTH, quantity) is not None}
    return grouped((tuple(names), key) for key, names in tested.items() if len(names) > 1)


def pool_one(studies: Mapping[str, Member], name: str, quantity: str) -> Pooled:
    """One activation, or SMOOTH, over the studies that could test it; see `pool`.

    Raises:
        ValueError: SMOOTH, of studies with different smooth activations.
    """
    tests = {key: test for key, study in studies.items() if (test := study.own(name, quantity)) and test.p is not None}
    if name == SMOOTH and len({tuple(studies[key].joint.names) for key in tests}) > 1:
        raise ValueError(f"studies: {', '.join(tests)} contrast different activations, which can't be pooled")
    entering = list(tests)
    holders = pooling.separate_studies([studies[key].marks for key in entering])
    left_out = {entering[i]: entering[j] for i, j in holders.items() if j is not None}
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
    percent), and the p of one and the same effect everywhere; the limits of the ratio in another such study. `Studies`
    counts those that share trials, or seeds and corpus, once.
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
    by_verdict = grouped((p.verdict, p) for p in pooled["PD"])
    several = [p for p in pooled["PD"] if p.verdict != "not pooled"]
    equal = {p.activation: p for p in pooled["Matched_PD"]}
    text = rendered(
        "studies.md",
        studies=studies,
        models=list(dict.fromkeys(safe(s.model) for s in studies.values())),
        corpora=list(dict.fromkeys(safe(s.dataset) for s in studies.values() if s.dataset)),
        base=label(baseline(studies)),
        scope=grouped((_scope(study), safe(study.name)) for study in studies.values()),
        found={verdict: [_name(p) + _size(p) for p in alike] for verdict, alike in by_verdict.items()},
        several=[(p, equal.get(p.activation), _hangs_on(influence(studies, p))) for p in several],
        rows=_studies_table(studies),
        figure=figure,
        pooled={NAMES[q]: _pooled_table(every) for q, every in pooled.items() if any(p.p is not None for p in every)},
        name=_name,
        change=_change,
        range=_range,
        **_cautions(studies, pooled),
    )
    return re.sub("\n{3,}", "\n\n", text).strip() + "\n"  # one blank line at most


def _scope(study: Member) -> str:
    """How long a study trained, and what differed between its trainings."""
    varied = f", which differ in {listed(varies)}" if (varies := phrases.what_varies(study)) else ""
    return f"{phrases.trained(study)}{varied}."


def _studies_table(studies: Mapping[str, Member]) -> str:
    header = (
        "study|model|dataset|tokenizer|activation|validation loss|bits per byte|relative PD|change|verdict|"
        "at equal loss|trials|parameters|seconds a trial"
    )
    rows = []
    for row in _rows(studies):
        parameters = row["Parameters"]
        changes = [
            _with_limits(*(row[f"{quantity}_{key}_Pct"] for key in ("Change", "CI_Low", "CI_High")))
            for quantity in QUANTITIES
        ]
        rows.append([
            *(safe(row[column] or DASH) for column in ("Study", "Model", "Dataset", "Tokenizer")),
            label(row["Activation"]),
            plus_minus(row["Avg_Val_Loss"], row["Std_Val_Loss"]),
            fixed(row["Bits_Per_Byte"]),
            fixed(row["Avg_Relative_PD"]),
            changes[0],
            row["PD_Verdict"],
            changes[1],
            str(row["Trials"]),
            f"{parameters:,}" if parameters else DASH,
            fixed(row["Median_Training_Time_Sec"], 1),
        ])  # fmt: skip
    return "\n".join(table(header.split("|"), rows, left=5))


def _pooled_table(pooled: list[Pooled]) -> str:
    columns = {
        "activation": _name,
        "studies": lambda p: str(len(p.studies)),
        "change": lambda p: _change(p.effects),
        "p (Holm)": lambda p: p_value(p.p_holm),
        "verdict": lambda p: p.verdict,
        "τ": lambda p: fixed(p.tau, 3),
        "I²": lambda p: DASH if p.i2_percent is None else f"{p.i2_percent:.0f} %",
        "p of heterogeneity": lambda p: p_value(p.heterogeneity_p),
        "another study": lambda p: DASH if p.predicted is None else _range(p.predicted),
    }
    return tabled(columns, [[write(p) for write in columns.values()] for p in pooled])


def _name(p: Pooled) -> str:
    return SMOOTH if p.activation == SMOOTH else label(p.activation)


def _size(p: Pooled) -> str:
    """How large a difference that was shown is, and whether that is shown to be less than what matters."""
    if p.verdict not in ("lower", "higher"):
        return ""
    less = f", less than the {100 * significance.PD_MARGIN:g} % that matter" if p.small else ""
    return f" (by {fixed(abs(_percent(p.ratio())), 1)} %{less})"


def _with_limits(change: float | None, low: float | None, high: float | None) -> str:
    return DASH if change is None else f"{signed(change)} %{limits(low, high, 1, signed)}"


def _change(effects: pooling.RandomEffects) -> str:
    return _with_limits(*map(_percent, exponentials((effects.mean, effects.low, effects.high))))


def _range(ratios: tuple[float, float]) -> str:
    return " to ".join(signed(_percent(x)) for x in ratios) + " %"


def _hangs_on(influence: significance.Influence | None) -> dict[str, str]:
    """The trial on which a summary hangs, where it does: what it is without, and without which the test is another."""
    if influence is None or not influence.notable:
        return {}

    def named(key: tuple[str, int]) -> str:
        return f"trial {key[1]} of {safe(key[0])}"

    n = len(influence.decisive)
    decisive = listed(map(named, influence.decisive), "or") if n < 4 else f"any one of {n} trials"
    return {"trial": named(influence.trial), "without": influence.without, "decisive": decisive}


def _shared(a: Member, b: Member) -> str:
    """What two studies that are not independent have in common."""
    kinds = {mark[0] for mark in a.marks & b.marks}
    return "hold the same trained models" if kinds & {"weights", "curve"} else "have seeds in common on the same corpus"


def _cautions(studies: Mapping[str, Member], pooled: Mapping[str, list[Pooled]]) -> dict:
    """What is odd about these studies."""
    spread = {q: [p for p in every if p.spreads_p is not None] for q, every in pooled.items()}
    unlikest = {q: min(every, key=lambda p: p.spreads_p) for q, every in spread.items() if every}
    overlapping = {key: holder for every in pooled.values() for p in every for key, holder in p.left_out.items()}
    oddities = []
    for study in studies.values():
        counts = [m.results["parameters"] for m in study.measured.values() if m.results.get("parameters")]
        unfit = [name for name, m in study.measured.items() if m.unfit]
        oddities.append((safe(study.name), unfit, _percent(max(counts) / min(counts)) if counts else 0))
    presets = {safe(s.name): {m.record("config").get("preset") for m in s.measured.values()} for s in studies.values()}
    return {
        # where the pooled errors take for one spread what isn't
        "unlike": [(NAMES[q], p) for q, p in unlikest.items() if p.spreads_p < UNLIKE_SPREADS],
        "overlapping": [(safe(a), safe(b), _shared(studies[a], studies[b])) for a, b in overlapping.items()],
        "contrasts": {smooth: listed(map(safe, names)) for smooth, names in contrasted(studies, "PD").items()},
        "smoke": [name for name, used in presets.items() if "smoke" in used],
        "oddities": oddities,
    }


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
        where["baseline"] = study.question.baseline
        for name in study.against:
            if (test := study.test(name, "PD")) and test.effect is not None:
                rows.append({**where, "activation": name, "ratio": test.effect, "low": test.low, "high": test.high})
    order = study_order({row["activation"] for row in rows})
    return sorted(rows, key=lambda row: order.index(row["activation"]))
