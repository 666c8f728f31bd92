"""The final table: every study (a model, a dataset, a recipe) side by side, and what they say together.

    python analyze_results.py --all-studies

reads `results/` (the study "main") and every `studies/NAME/results/`, and writes `results/all_studies.csv` (a row per
study and activation), `results/all_studies_pooled.csv` (a row per activation), `results/ALL_STUDIES.md` and
`plots/all_studies.png`. It only reads results files; nothing is trained or measured anew. No torch.
"""

from __future__ import annotations

import math
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy

import plot_utils
import significance
import storage
from analysis.markdown import DASH, counted, fixed, label, labels, listed, p_value, plus_minus, safe, signed, table
from analysis.metrics_table import BY_KEY
from analysis.results import Measured, load_all_results, mean, median, std, study_order
from analysis.study import ALPHA, REFERENCE, PairTests, Study
from analysis.tables import csv, frame
from config import UserError

__all__ = ["load_studies", "studies_frame", "pooled_frame", "studies_text", "write_studies"]

MAIN = "main"  # the study in the flat folders
SMOOTH = "all smooth"  # the planned contrast: the smooth activations together
QUANTITIES = ("PD", "Matched_PD")
NAMES = {"PD": "final models", "Matched_PD": "equal validation loss"}


# -- reading ----------------------------------------------------------------------------------------------------------


class Member(Study):
    """One study among several, by its name."""

    @cached_property
    def model(self) -> str:
        return str(next(iter(self.all_results.values()))["model_name"])

    @cached_property
    def dataset(self) -> str:
        """The corpus by its name; of a path only its end."""
        names = (str(m.record("dataset").get("name") or "") for m in self.measured.values())
        return os.path.basename(next(filter(None, names), "").rstrip("/"))

    @cached_property
    def recipe(self) -> tuple:
        """What makes two studies the same experiment; a study that recorded no settings is like no other."""
        first = next((m for m in self.measured.values() if m.results.get("fingerprint")), None)
        if first is None:
            return ("unrecorded", self.name)
        return first.results["fingerprint"], first.record("dataset").get("sha256")

    @cached_property
    def against(self) -> dict[str, PairTests]:
        """{activation: its tests against ReLU}."""
        return {t.a: t for t in self.tests if t.primary}

    def test(self, name: str, quantity: str) -> significance.Comparison | None:
        """Activation `name` (or SMOOTH) against ReLU; None where they were not compared."""
        if name == SMOOTH:
            return self.contrast.tests.get(quantity)
        return self.against[name].tests.get(quantity) if name in self.against else None

    def own(self, name: str, quantity: str) -> significance.Comparison | None:
        """The same by its own spread alone: what is moderated within a study counts its other comparisons too."""
        tested = self.contrast if name == SMOOTH else self.against.get(name)
        return tested.own.get(quantity) if tested else None

    def said(self, name: str, quantity: str) -> str:
        """The kind of its verdict; Holm over this study's comparisons with ReLU (the contrast is one by itself)."""
        if name == SMOOTH:
            return self.contrast_kind(quantity) or "no test"
        return self.verdict(self.against[name], quantity).kind


def load_studies(results_dir: str | os.PathLike = "results", studies_dir: str | os.PathLike = "studies"):
    """{name: Member} of the flat results folder ("main") and of every `studies_dir/NAME/results` that has results.

    Raises:
        UserError: there are none, or those of one study were made with different settings.
        storage.StorageError: a results file is damaged.
    """
    folders = {path.parent.name: path for path in sorted(Path(studies_dir).glob("*/results")) if path.is_dir()}
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
    return studies


# -- the table of all studies -----------------------------------------------------------------------------------------


def studies_frame(studies: Mapping[str, Member]):
    """One row per study and activation, as a DataFrame; missing where there is no number.

    `PD_Ratio` is the mean relative PD over that of ReLU in the same study, `PD_Change_Pct` the same as a change in
    percent, with the limits of its 95 % interval (not adjusted); `PD_p_Holm` and `PD_Verdict` are after Holm over the
    comparisons with ReLU of that study. `Matched_PD_…` are the same at equal validation loss. Losses in nats per token,
    times in seconds per trial.
    """
    return frame([_row(study, m) for study in studies.values() for m in study.measured.values()])


def _row(study: Member, m: Measured) -> dict:
    config = m.record("config")
    row = {
        "Study": study.name,
        "Model": study.model,
        "Dataset": study.dataset,
        "Activation": m.name,
        "Trials": len(m.trials),
        "Diverged_Trials": len(m.failed),
        "Avg_Val_Loss": mean(m.losses()),
        "Std_Val_Loss": std(m.losses()),
        "Avg_Relative_PD": m.pd_interval[0],
        "Avg_Pred_Diff_Pct": m.average(BY_KEY["top1_mismatch_pct"]),
    }
    for quantity in QUANTITIES:
        row |= {f"{quantity}_{key}": value for key, value in _comparison(study, m.name, quantity).items()}
    return row | {
        "Parameters": m.results.get("parameters"),
        "Median_Training_Time_Sec": median(m.trial_values("training_time")),
        "Tokenizer": m.record("dataset").get("tokenizer") or "",
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
    if name == REFERENCE:
        return columns | {"Verdict": "reference"}
    return columns | {"Verdict": study.said(name, quantity) if name in study.against else "no ReLU to compare with"}


# -- over all studies -------------------------------------------------------------------------------------------------


@dataclass
class Pooled:
    """An activation against ReLU over studies: the random-effects summary of ln PD ratios."""

    activation: str
    quantity: str
    studies: list[str]  # that enter it
    verdicts: list[str]  # theirs
    ratios: list[float]
    effects: significance.RandomEffects | None  # of ln ratios; None without any study
    p: float | None = None  # of no mean effect
    p_holm: float | None = None  # over the activations
    heterogeneity_p: float | None = None  # of one and the same effect in all studies
    low90: float | None = None
    high90: float | None = None
    predicted: tuple[float, float] | None = None  # 95 % limits of the ratio in another study of this kind

    def ratio(self, attribute: str = "mean") -> float | None:
        x = getattr(self.effects, attribute) if self.effects else None
        return None if x is None else math.exp(x)

    @property
    def verdict(self) -> str:
        """'lower', 'higher', 'equal', 'inconclusive', or 'not pooled' with fewer than two studies."""
        if self.p_holm is None:
            return "not pooled"
        if self.p_holm < ALPHA:
            return "lower" if self.effects.mean < 0 else "higher"
        margin = 1 - significance.PD_MARGIN
        return "equal" if margin <= self.low90 and self.high90 <= 1 / margin else "inconclusive"


def pool(studies: Mapping[str, Member], quantity: str = "PD") -> list[Pooled]:
    """Every activation that a study could test against ReLU, over all studies that could; last all smooth together.

    The mean effect, its Hartung-Knapp interval, tau², I² and Q are those of significance.random_effects, on ln PD
    ratios. With three trials a study's own standard error rests on two degrees of freedom; weights made of such errors
    are noise, and intervals then cover too little (88 % at ten studies, measured) and Q is too large. So the standard
    errors are made of the variance pooled over the studies, s² / n_i (Doncaster & Spake 2018, Methods in Ecology and
    Evolution 9:634-644). With equal numbers of trials the interval is that of a one-sample t over studies, and the test
    of heterogeneity is the F test of the analysis of variance, F = Q / (k - 1). The limits of another study are those
    of Higgins, Thompson & Spiegelhalter 2009. Studies that repeat the same experiment count once.
    """
    names = [name for name in study_order({n for s in studies.values() for n in s.against}) if name != REFERENCE]
    pooled = [_pool(studies, name, quantity) for name in names]
    smooth = {tuple(s.contrast.smooth) for s in studies.values() if quantity in s.contrast.tests}
    if len(smooth) == 1 and len(*smooth) > 1:  # else it means another thing in every study, or nothing new
        pooled.append(_pool(studies, SMOOTH, quantity))
    tested = [p for p in pooled if p.p is not None and p.activation != SMOOTH]
    for p, adjusted in zip(tested, significance.holm([p.p for p in tested]), strict=True):
        p.p_holm = float(adjusted)
    for p in pooled:
        if p.activation == SMOOTH:
            p.p_holm = p.p  # one planned contrast, as within a study
    return [p for p in pooled if p.studies]


def _pool(studies: Mapping[str, Member], name: str, quantity: str) -> Pooled:
    entering: dict[tuple, Member] = {}
    for study in studies.values():
        test = study.test(name, quantity)
        if test is None or test.p is None:
            continue
        known = entering.get(study.recipe)
        if known is None or min(test.n) > min(known.test(name, quantity).n):
            entering[study.recipe] = study
    found = list(entering.values())
    tests = [study.own(name, quantity) for study in found]
    result = Pooled(
        name,
        quantity,
        [study.name for study in found],
        [study.said(name, quantity) for study in found],
        [t.effect for t in tests],
        None,
    )
    if not tests:
        return result
    effects = np.log([t.effect for t in tests])
    sizes = np.array([scipy.stats.hmean(t.n) for t in tests])
    df = np.array([t.df for t in tests])
    variance = df @ [n * t.se**2 for n, t in zip(sizes, tests, strict=True)] / df.sum()
    result.effects = summary = significance.random_effects(effects, np.sqrt(variance / sizes))
    k = summary.k
    if k > 1 and summary.se:  # without any spread between studies there is no test
        result.p = float(2 * scipy.stats.t.sf(abs(summary.mean) / summary.se, k - 1))
        ninety = significance.random_effects(effects, np.sqrt(variance / sizes), confidence=0.9)
        result.low90, result.high90 = math.exp(ninety.low), math.exp(ninety.high)
        result.heterogeneity_p = float(scipy.stats.f.sf(summary.q / (k - 1), k - 1, df.sum()))
    if k > 2 and summary.se:
        half = scipy.stats.t.ppf(0.975, k - 2) * math.sqrt(summary.tau2 + summary.se**2)
        result.predicted = math.exp(summary.mean - half), math.exp(summary.mean + half)
    return result


def pooled_frame(studies: Mapping[str, Member]):
    """One row per activation and quantity (final models, equal validation loss) over all studies, as a DataFrame.

    `Ratio` with its 95 % limits, p of no effect (raw, and after Holm over the activations), verdict; heterogeneity as
    tau (standard deviation of the true ln ratios between studies), I2 (share of variation that is between studies, in
    percent), Q, and the p of one and the same effect everywhere; the limits of the ratio in another such study.
    """
    rows = []
    for p in (p for quantity in QUANTITIES for p in pool(studies, quantity)):
        e = p.effects
        low, high = p.predicted or (None, None)
        rows.append(
            {
                "Activation": p.activation,
                "Compared_At": NAMES[p.quantity],
                "Studies": e.k,
                "Ratio": p.ratio(),
                "CI_Low": p.ratio("low"),
                "CI_High": p.ratio("high"),
                "p": p.p,
                "p_Holm": p.p_holm,
                "Verdict": p.verdict,
                "Tau": None if e.tau2 is None else math.sqrt(e.tau2),
                "I2_Pct": None if e.i2 is None else 100 * e.i2,
                "Q": e.q,
                "Heterogeneity_p": p.heterogeneity_p,
                "Predicted_Low": low,
                "Predicted_High": high,
                "Names": ", ".join(p.studies),
            }
        )
    columns = (
        "Activation Compared_At Studies Ratio CI_Low CI_High p p_Holm Verdict Tau I2_Pct Q Heterogeneity_p "
        "Predicted_Low Predicted_High Names"
    ).split()
    return frame(rows, columns)


# -- in words ---------------------------------------------------------------------------------------------------------

READING = (
    "Random effects: each study may have an effect of its own; the mean is over such studies. DerSimonian–Laird "
    "with the Hartung–Knapp interval; standard errors from the variance pooled over the studies, since a study of "
    "three trials hardly knows its own. With equal numbers of trials all studies weigh the same.",
    "At equal validation loss an activation that learns more slowly is read off later in the learning-rate schedule, "
    "where PD is lower; a change that shows there and not on the final models may be no more than that.",
    "Studies that share a model, a corpus or seeds are not independent draws from all models and corpora; the "
    "summary speaks about studies like these.",
    "Loss and PD of different models or corpora are not comparable with each other; their changes relative to ReLU "
    "are.",
)


def studies_text(studies: Mapping[str, Member], figure: str | None = None) -> str:
    """The table of all studies, their summary and conclusions, as Markdown; `figure` is a link to all_studies.png."""
    pooled = {quantity: pool(studies, quantity) for quantity in QUANTITIES}
    models = list(dict.fromkeys(s.model for s in studies.values()))
    datasets = list(dict.fromkeys(s.dataset for s in studies.values() if s.dataset))
    lines = [
        "# All studies",
        "",
        f"{counted(len(studies), 'study', 'studies')}; {counted(len(models), 'model')} "
        f"({listed(map(safe, models))}); {counted(len(datasets), 'corpus', 'corpora')} "
        f"({listed(map(safe, datasets)) or 'not recorded'}).",
        "",
        "## Conclusions",
        "",
        *(f"- {point}" for point in conclusions(studies, pooled) + cautions(studies)),
        "",
        "## Every study and activation",
        "",
        "Mean ± standard deviation over trials; change of the mean PD relative to ReLU of the same study with its 95 % "
        "interval (not adjusted); verdict after Holm over that study's comparisons with ReLU.",
        *_studies_table(studies),
        *([f"![PD relative to ReLU in every study]({figure})", ""] if figure else []),
    ]
    for quantity, found in pooled.items():
        if any(p.p is not None for p in found):
            lines += [f"## Over all studies: {NAMES[quantity]}", "", *_pooled_table(found)]
    lines += ["## How to read this", "", *(f"- {point}" for point in READING)]
    return "\n".join(line for i, line in enumerate(lines) if line or lines[i - 1]).rstrip() + "\n"


def _studies_table(studies: Mapping[str, Member]) -> list[str]:
    header = "study|model|dataset|activation|validation loss|relative PD|change to ReLU|verdict|at equal loss|trials"
    rows = []
    for study in studies.values():
        for m in study.measured.values():
            cells = [safe(x) for x in (study.name, study.model, study.dataset or DASH)] + [label(m.name)]
            cells += [plus_minus(mean(m.losses()), std(m.losses())), fixed(m.pd_interval[0])]
            for quantity in QUANTITIES:
                c = _comparison(study, m.name, quantity)
                change = _percent(c["Change_Pct"], c["CI_Low_Pct"], c["CI_High_Pct"])
                cells += [change, c["Verdict"]] if quantity == "PD" else [change]
            time, parameters = median(m.trial_values("training_time")), m.results.get("parameters")
            cells += [str(len(m.trials)), DASH if not parameters else f"{parameters:,}", fixed(time, 1)]
            rows.append(cells)
    return table([*header.split("|"), "parameters", "seconds a trial"], rows, left=4)


def _pooled_table(pooled: list[Pooled]) -> list[str]:
    header = "activation|studies|change to ReLU|p (Holm)|verdict|τ|I²|Q|p of heterogeneity|another study".split("|")
    rows = []
    for p in pooled:
        e = p.effects
        tau = None if e.tau2 is None else math.sqrt(e.tau2)
        i2 = DASH if e.i2 is None else f"{100 * e.i2:.0f} %"
        rows.append(
            [_name(p), str(e.k), _change(p.ratio(), p.ratio("low"), p.ratio("high")), p_value(p.p_holm), p.verdict]
            + [fixed(tau, 3), i2, fixed(e.q, 2), p_value(p.heterogeneity_p), _range(p.predicted)]
        )
    return table(header, rows)


def _name(p: Pooled) -> str:
    return SMOOTH if p.activation == SMOOTH else label(p.activation)


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
    if not found:
        return [
            f"No study could test an activation against {label(REFERENCE)}: that takes three finished trials of both."
        ]
    several = [p for p in found if p.verdict != "not pooled"]
    if not several:
        if len(studies) == 1:
            return ["There is one study only, so there is nothing to pool; its own report has its conclusions."]
        return [
            "No activation was tested against ReLU in two different studies, so there is nothing to pool; "
            "each study's own report has its conclusions."
        ]
    points = []
    for verdict, words in (
        ("lower", f"**Lower PD than {label(REFERENCE)} over the studies**"),
        ("higher", f"**Higher PD than {label(REFERENCE)} over the studies**"),
        ("equal", f"**Practically equal to {label(REFERENCE)} (±5 %) over the studies**"),
        ("inconclusive", "**Inconclusive over the studies**"),
    ):
        named = [_name(p) for p in several if p.verdict == verdict]
        if named:
            points.append(f"{words}: {listed(named)}.")
    points += [_about(p, equal.get(p.activation)) for p in several]
    alone = [p for p in found if p.verdict == "not pooled"]
    if alone:
        points.append(f"Not pooled, being tested in one study only: {listed(map(_name, alone))}.")
    return points


def _about(p: Pooled, equal: Pooled | None) -> str:
    k, below = p.effects.k, sum(ratio < 1 for ratio in p.ratios)
    own = [f"{p.verdicts.count(kind)} {kind}" for kind in ("lower", "higher", "equal") if kind in p.verdicts]
    text = (
        f"{_name(p)}: PD {_change(p.ratio(), p.ratio('low'), p.ratio('high'))} relative to {label(REFERENCE)} over "
        f"{k} studies (p = {p_value(p.p_holm)}); lower in {below} of {k}"
        f"{', tested on their own: ' + listed(own) if own else ', none of them conclusive on its own'}."
    )
    i2 = f"I² = {100 * p.effects.i2:.0f} %, p = {p_value(p.heterogeneity_p)}"
    if p.heterogeneity_p < 0.1:
        text += f" The effect differs between studies ({i2}): it depends on model or corpus, and the mean hides that."
    else:
        text += f" No heterogeneity shown ({i2}); with {k} studies only a large one would show."
    if p.predicted:
        text += f" Expected in another study of this kind: {_range(p.predicted)}."
    if equal is not None and equal.p is not None:
        change = _change(equal.ratio(), equal.ratio("low"), equal.ratio("high"))
        text += f" At equal validation loss: {change}, {equal.verdict}."
    return text


def cautions(studies: Mapping[str, Member]) -> list[str]:
    """What is odd about these studies."""
    points = []
    recipes: dict[tuple, list[str]] = {}
    for study in studies.values():
        recipes.setdefault(study.recipe, []).append(study.name)
    for same in recipes.values():
        if len(same) > 1:
            points.append(f"{listed(map(safe, same))} are the same experiment; it counts once in the summary.")
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


def write_studies(
    results_dir: str | os.PathLike = "results",
    plots_dir: str | os.PathLike = "plots",
    studies_dir: str | os.PathLike = "studies",
) -> list[Path]:
    """Write the tables, the figure and the text over all studies; returns their paths.

    Raises: what `load_studies` raises, and storage.StorageError when the disk refuses.
    """
    studies = load_studies(results_dir, studies_dir)
    folder, paths = Path(results_dir), []
    for name, made in (("all_studies", studies_frame(studies)), ("all_studies_pooled", pooled_frame(studies))):
        paths.append(folder / f"{name}.csv")
        storage.write_text(paths[-1], csv(made))
    rows, figure = figure_rows(studies), None
    if rows:
        pooled = [
            {"activation": p.activation, "ratio": p.ratio(), "low": p.ratio("low"), "high": p.ratio("high")}
            for p in pool(studies)
            if p.p is not None and p.activation != SMOOTH
        ]
        paths.append(plot_utils.plot_studies(rows, plots_dir, pooled))
        figure = urllib.parse.quote(Path(os.path.relpath(paths[-1], folder)).as_posix())
    paths.append(folder / "ALL_STUDIES.md")
    storage.write_text(paths[-1], studies_text(studies, figure))
    return paths


def figure_rows(studies: Mapping[str, Member]) -> list[dict]:
    """The table of plot_utils.plot_studies: every ratio to ReLU that there is."""
    rows = []
    for study in studies.values():
        where = {"study": study.name, "model": study.model, "dataset": study.dataset}
        for name in study.against:
            test = study.test(name, "PD")
            if test is not None and test.effect is not None:
                values = {"ratio": test.effect, "low": test.low, "high": test.high}
                rows.append({**where, "activation": name, **values})
    order = study_order({row["activation"] for row in rows})
    return sorted(rows, key=lambda row: order.index(row["activation"]))
