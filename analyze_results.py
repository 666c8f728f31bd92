"""From results files to one table, calibrated tests, rankings and the report.

    all_results = load_all_results("results")
    save_results_summary("results/summary.csv")
    calculate_statistical_significance(all_results)
    rank_activations(all_results)
    generate_final_report(all_results, "results/FINAL_REPORT.md")

Everything is computed anew from the trials and the pairs of trials in the files; stored averages are never used. What
a file does not say (one of another tool may carry the documented keys only) is missing in the tables, never NaN.
The statistics themselves are in significance.py, the report's words in report.py. No torch is needed here.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import activations
import significance
import storage
from analysis.results import (
    MatchedLoss,
    Measured,
    load_all_results,
    matched_loss,
    matrix,
    mean,
    measure,
    median,
    number,
    seeds_shared,
    std,
    study_order,
)
from config import Config, Parser, UserError

__all__ = [
    "load_all_results",
    "save_results_summary",
    "calculate_statistical_significance",
    "rank_activations",
    "generate_final_report",
    "results_frame",
    "matched_loss",
    "plan_trials",
]

REFERENCE = "relu"  # the activation the others are compared with
ALPHA = 0.05
QUANTITIES = ("PD", "Matched_PD", "Loss")  # each its own family of tests
WEIGHTINGS = {
    "research": {"reproducibility": 0.6, "accuracy": 0.3, "efficiency": 0.1},
    "production": {"reproducibility": 0.4, "accuracy": 0.4, "efficiency": 0.2},
    "speed priority": {"reproducibility": 0.2, "accuracy": 0.3, "efficiency": 0.5},
}


# -- tables -----------------------------------------------------------------------------------------------------------


def _table(rows: list[dict], columns: list[str] | None = None):
    """A DataFrame in which what is undefined is missing (pandas' NA, or '' in text), never NaN."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    for name in frame:
        kind = pd.api.types.infer_dtype(frame[name], skipna=True)
        missing = frame[name].isna().any()
        if kind == "string":
            frame[name] = frame[name].fillna("")
        elif kind == "boolean":
            frame[name] = frame[name].astype("boolean" if missing else bool)
        elif kind == "integer":
            frame[name] = frame[name].astype("Int64" if missing else int)
        else:
            frame[name] = frame[name].astype("Float64" if missing else float)
    return frame


def results_frame(all_results: Mapping[str, dict]):
    """Everything measured as one tidy DataFrame: a row per trial (kind 'trial') and a row per pair (kind 'pair').

    Lists, such as the training curves, are left in the results files.
    """
    rows = []
    for name in study_order(all_results):
        for kind, entries in (("trial", "trials"), ("pair", "reproducibility_metrics")):
            for entry in all_results[name][entries]:
                scalars = {k: v for k, v in entry.items() if not isinstance(v, (list, dict))}
                rows.append({"activation": name, "kind": kind, **scalars})
    return _table(rows)


def save_results_summary(
    save_path: str | os.PathLike = "results/summary.csv", results_dir: str | os.PathLike | None = None
):
    """Write one row per activation, the most reproducible first, and return the table.

    Trials that diverged are counted in their own column and left out of every average. Activations that failed their
    audit, or that have no PD, come last. Losses in nats per token, times in seconds, `_Pct` in percent.

    Raises: what `load_all_results` raises, and a UserError when there are no results.
    """
    save_path = Path(save_path)
    table = summarise(load_all_results(save_path.parent if results_dir is None else results_dir))
    storage.write_text(save_path, table.to_csv(index=False, lineterminator="\n"))
    return table


def summarise(all_results: Mapping[str, dict]):
    """The table of `save_results_summary`, from results in memory."""
    studied = measure(all_results)
    matched = matched_loss(all_results)
    rows = [_summary_row(m, matched) for m in studied.values()]

    def key(row):
        pd = row["Avg_Relative_PD"]
        return row["Audit"].startswith("failed"), pd is None, pd or 0.0

    return _table(sorted(rows, key=key))


def _summary_row(m: Measured, matched: MatchedLoss) -> dict:
    results = m.results
    pd, low, high = pd_interval(m)
    return {
        "Activation": m.name.upper(),
        "Avg_Val_Loss": mean(m.losses()),
        "Std_Val_Loss": std(m.losses()),
        "Avg_Train_Loss": mean(m.trial_values("train_loss")),
        "Avg_Relative_PD": pd,
        "Avg_Pred_Diff_Pct": m.mismatch_pct,
        "Avg_Training_Time_Sec": mean(m.trial_values("training_time")),
        "Num_Trials": len(m.trials),
        "Diverged_Trials": len(m.failed),
        "Num_Pairs": len(m.pair_values("relative_pd")),
        "Std_Relative_PD": std(m.pair_values("relative_pd")),
        "Relative_PD_CI_Low": low,
        "Relative_PD_CI_High": high,
        "Relative_PD_Position_SE": mean(m.pair_values("relative_pd_se")),
        "Matched_Loss_PD": matched.mean(m.name),
        "Matched_Loss": matched.target,
        "Set_PD": number(results.get("set_prediction_difference")),
        "Avg_Symmetric_PD": mean(m.pair_values("symmetric_pd")),
        "Avg_True_Label_PD": mean(m.pair_values("true_label_relative_pd")),
        "Avg_Hellinger": mean(m.pair_values("hellinger")),
        "Avg_Jensen_Shannon": mean(m.pair_values("jensen_shannon")),
        "Avg_Val_Accuracy": mean(m.trial_values("val_accuracy")),
        "Std_Val_Accuracy": std(m.trial_values("val_accuracy")),
        "Avg_Train_Accuracy": mean(m.trial_values("train_accuracy")),
        "Avg_Best_Val_Loss": mean(m.trial_values("best_val_loss")),
        "Overfit_Trials": sum(bool(x) for x in m.trial_values("overfit")),
        "Median_Training_Time_Sec": median(m.trial_values("training_time")),
        "Median_Tokens_Per_Sec": median(m.trial_values("tokens_per_second")),
        "Parameters": results.get("parameters"),
        "Audit": m.audit,
        "Model": results["model_name"],
        "Dataset": (results.get("dataset") or {}).get("name", ""),
        "Fingerprint": results.get("fingerprint") or "",
        "Timestamp": results["timestamp"],
    }


def pd_interval(m: Measured) -> tuple[float | None, float | None, float | None]:
    """Mean relative PD and its 95 % interval over trials; None for what too few trials leave undefined."""
    n = len(m.pd_ids)
    if n < 2:
        return None, None, None
    if n == 2:
        return float(m.pd()[0, 1]), None, None
    return significance.mean_pd_interval(m.pd())


# -- tests ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class PairTests:
    """The tests of activation `a` against `b`, one per quantity, and each one's p after Holm in its two families."""

    a: str
    b: str
    paired: bool
    unfit: dict[str, str]  # {activation: why it can't be tested}
    tests: dict[str, significance.Comparison | None]
    naive_p: float | None = None
    holm: dict[str, float | None] = field(default_factory=dict)  # over all pairs of activations
    holm_primary: dict[str, float | None] = field(default_factory=dict)  # over the comparisons with ReLU

    @property
    def primary(self) -> bool:
        return REFERENCE in (self.a, self.b)

    @property
    def why_not(self) -> str:
        """Why a quantity that was not compared was not."""
        reasons = [f"{activations.label(name)}: {reason}" for name, reason in self.unfit.items()]
        return "; ".join(reasons) or "too few trials, or not recorded"


def compare_all(all_results: Mapping[str, dict]) -> list[PairTests]:
    """Every pair of activations, compared by the procedure of significance.py; ReLU is always the second of a pair."""
    studied, matched = measure(all_results), matched_loss(all_results)
    names = sorted(studied, key=lambda name: name == REFERENCE)  # stable, so otherwise in the study's order
    compared = [_compare(studied[a], studied[b], matched) for index, a in enumerate(names) for b in names[index + 1 :]]
    for quantity in QUANTITIES:
        _adjust([t for t in compared if t.tests[quantity]], quantity, "holm")
        _adjust([t for t in compared if t.tests[quantity] and t.primary], quantity, "holm_primary")
    return compared


def _adjust(family: list[PairTests], quantity: str, attribute: str) -> None:
    adjusted = significance.holm([t.tests[quantity].p for t in family])
    for t, p in zip(family, adjusted, strict=True):
        getattr(t, attribute)[quantity] = float(p)


def _compare(a: Measured, b: Measured, matched: MatchedLoss) -> PairTests:
    paired = seeds_shared(a, b)
    unfit = {m.name: m.unfit for m in (a, b) if m.unfit}
    result = PairTests(a.name, b.name, paired, unfit, dict.fromkeys(QUANTITIES))
    if unfit:
        return result

    def rows(ids_a, ids_b):
        """Trials to compare: with shared seeds, those that both have."""
        if not paired:
            return list(ids_a), list(ids_b)
        common = [k for k in ids_a if k in set(ids_b)]
        return common, common

    ids_a, ids_b = rows(a.trials, b.trials)
    if min(len(ids_a), len(ids_b)) > 0:
        result.tests["Loss"] = significance.compare_loss(a.losses(ids_a), b.losses(ids_b), paired=paired)
    ids_a, ids_b = rows(a.pd_ids, b.pd_ids)
    if min(len(ids_a), len(ids_b)) > 1:
        result.tests["PD"] = significance.compare_pd(a.pd(ids_a), b.pd(ids_b), paired=paired)
        result.naive_p = significance.naive_pairs_test(a.pd(ids_a), b.pd(ids_b)).p
    ids_a, ids_b = rows(matched.ids(a.name), matched.ids(b.name))
    if min(len(ids_a), len(ids_b)) > 1:
        both = matrix(matched.pairs[a.name], ids_a), matrix(matched.pairs[b.name], ids_b)
        result.tests["Matched_PD"] = significance.compare_pd(*both, paired=paired)
    return result


def verdict(t: PairTests, quantity: str, primary: bool = False) -> significance.Verdict:
    """What one comparison allows to be said, by its p over all pairs or (`primary`) over those with ReLU."""
    test = t.tests[quantity]
    if test is None:
        return significance.Verdict("no test", f"no test ({t.why_not})")
    p = (t.holm_primary if primary else t.holm).get(quantity)
    what = "PD at equal loss" if quantity == "Matched_PD" else None
    return significance.verdict(test, p, activations.label(t.a), activations.label(t.b), quantity=what, alpha=ALPHA)


def calculate_statistical_significance(all_results: Mapping[str, dict]):
    """One row per pair of activations: relative PD, PD at equal loss (`Matched_PD_…`) and validation loss.

    `PD_Ratio` is A's mean PD over B's, `PD_Change_Pct` the same as a change in percent, `Loss_Difference` A's mean loss
    minus B's; their 95 % intervals are not adjusted for the number of comparisons. `…_p_Holm` is adjusted over all
    pairs, `…_p_Holm_Primary` over the comparisons with ReLU only (missing elsewhere); `…_Significant` and
    `…_Significant_Primary` say whether they are below 0.05. Pairs are tested seed by seed (paired t) when the design
    shares seeds, else by Welch's test. `Naive_p_uncalibrated` is the t-test on pairwise PDs that older work used; it
    calls differences significant in 18 to 63 % of the cases where there are none, and is here for comparison only.
    """
    columns = list(_significance_row(PairTests("", "", False, {}, dict.fromkeys(QUANTITIES))))
    return _table([_significance_row(t) for t in compare_all(all_results)], columns)


def _significance_row(t: PairTests) -> dict:
    row = {
        "Activation_A": t.a,
        "Activation_B": t.b,
        "Primary": t.primary,
        "Seeds": "shared" if t.paired else "not shared",
    }
    for quantity in QUANTITIES:
        row |= {f"{quantity}_{key}": value for key, value in _test_columns(t, quantity).items()}
    return row | {"Naive_p_uncalibrated": t.naive_p, "Note": f"no test: {t.why_not}" if t.unfit else ""}


def _test_columns(t: PairTests, quantity: str) -> dict:
    test = t.tests[quantity]
    tested = test is not None and test.p is not None
    holm, primary = (p.get(quantity) if tested else None for p in (t.holm, t.holm_primary))

    def get(attribute):
        return getattr(test, attribute) if test else None

    ratio = quantity != "Loss"
    columns = {"Ratio" if ratio else "Difference": get("effect")}
    if ratio:
        columns["Change_Pct"] = None if get("effect") is None else 100 * (test.effect - 1)
    return columns | {
        "CI_Low": get("low"),
        "CI_High": get("high"),
        "t": get("t"),
        "df": get("df"),
        "p": get("p"),
        "p_Holm": holm,
        "Significant": holm is not None and holm < ALPHA,
        "p_Holm_Primary": primary,
        "Significant_Primary": primary is not None and primary < ALPHA,
        "g": get("g"),
        "g_Low": get("g_low"),
        "g_High": get("g_high"),
        "g_Kind": get("g_kind") or "",
        "Test": test.kind if tested else "no test",
        "N_A": test.n[0] if test else 0,
        "N_B": test.n[1] if test else 0,
        "Verdict": verdict(t, quantity).text,
    }


@dataclass
class SmoothContrast:
    """The planned contrast: all smooth activations together against ReLU."""

    smooth: list[str]
    kinked: list[str]
    unknown: list[str]  # the registry doesn't say whether they are smooth
    left_out: list[str] = field(default_factory=list)  # smooth ones with too few trials
    paired: bool = True
    tests: dict[str, significance.Comparison] = field(default_factory=dict)  # by quantity: PD, Matched_PD
    reason: str = ""  # why there is no test


def smooth_contrast(all_results: Mapping[str, dict]) -> SmoothContrast:
    """Mean ln PD of the smooth activations minus ReLU's, seed by seed where all of them share their seeds with it."""
    studied = {name: m for name, m in measure(all_results).items() if not m.unfit}
    smoothness = {name: _smooth(name) for name in studied}
    contrast = SmoothContrast(*([n for n, s in smoothness.items() if s is kind] for kind in (True, False, None)))
    if REFERENCE not in studied or not contrast.smooth:
        missing = "a smooth activation" if REFERENCE in studied else activations.label(REFERENCE)
        contrast.reason = f"there are no usable results of {missing}"
        return contrast
    enough = [name for name in contrast.smooth if len(studied[name].pd_ids) >= 3]
    if enough:  # one activation without spread must not take the test from all others
        contrast.left_out = [name for name in contrast.smooth if name not in enough]
        contrast.smooth = enough
    names = [*contrast.smooth, REFERENCE]
    contrast.paired = all(seeds_shared(studied[name], studied[REFERENCE]) for name in contrast.smooth)
    matched = matched_loss(all_results)
    sources = {
        "PD": {name: (studied[name].pd_ids, studied[name].pd) for name in names},
        "Matched_PD": {name: (matched.ids(name), lambda ids, n=name: matrix(matched.pairs[n], ids)) for name in names},
    }
    for quantity, source in sources.items():
        common = [k for k in source[REFERENCE][0] if all(k in ids for ids, _ in source.values())]
        rows = {name: common if contrast.paired else ids for name, (ids, _) in source.items()}
        if all(len(ids) > 1 for ids in rows.values()):
            pds = {name: build(rows[name]) for name, (_, build) in source.items()}
            contrast.tests[quantity] = significance.smooth_contrast(
                pds, contrast.smooth, REFERENCE, paired=contrast.paired
            )
    if "PD" not in contrast.tests:
        contrast.reason = "too few trials have a PD in all of these activations"
    return contrast


def _smooth(name: str) -> bool | None:
    try:
        return activations.get_info(name).smooth
    except UserError:
        return None


# -- rankings ---------------------------------------------------------------------------------------------------------

_CRITERIA = {  # weight: (column, how it is measured; lower is better in each)
    "reproducibility": ("Avg_Relative_PD", lambda m: pd_interval(m)[0]),
    "accuracy": ("Avg_Val_Loss", lambda m: mean(m.losses())),
    "efficiency": ("Median_Training_Time_Sec", lambda m: median(m.trial_values("training_time"))),
}


def rank_activations(all_results: Mapping[str, dict], weights: Mapping[str, float] | None = None, *, without=None):
    """Activations by a weighted score, best first.

    Each criterion is scaled over the activations compared, 1 for the best and 0 for the worst (1 for all when they are
    equal): reproducibility is the mean relative PD, accuracy the mean validation loss, efficiency the median training
    time of a trial. Equal scores share a rank.

    Args:
        weights: any of reproducibility, accuracy and efficiency, at least one above zero; they are scaled to sum to 1,
            and one left out is 0. Default: 60/30/10, the weighting for research.
        without: the id of a trial to leave out of everything, to see how much the ranks hang on it.

    Returns:
        A DataFrame with Rank, Activation, Score, the scaled criteria and what they were computed from. Activations that
        can't be ranked (failed audit, all trials diverged, a criterion not measured) are left out of it and stand in
        `.attrs["excluded"]` as {activation: reason}.

    Raises:
        UserError: an unknown weight, or one that is negative or not finite, or all are zero.
    """
    shares = _shares(WEIGHTINGS["research"] if weights is None else weights)
    excluded, rows = {}, []
    for m in measure(all_results).values():
        m = dataclasses.replace(m, without=without)
        values = {criterion: get(m) for criterion, (_, get) in _CRITERIA.items()} if not m.unfit else {}
        lacking = [criterion for criterion, share in shares.items() if share and values.get(criterion) is None]
        if m.unfit or lacking:
            excluded[m.name] = m.unfit or f"no measurement of {' and '.join(lacking)}"
        else:
            rows.append({"Activation": m.name, "values": values})
    scores = {criterion: _scaled([row["values"][criterion] for row in rows]) for criterion in _CRITERIA}
    for index, row in enumerate(rows):
        row["Score"] = sum(share * scores[criterion][index] for criterion, share in shares.items() if share)
    table = [
        {
            "Rank": 1 + sum(other["Score"] > row["Score"] + 1e-9 for other in rows),
            "Activation": row["Activation"],
            "Score": row["Score"],
            **{f"{criterion.capitalize()}_Score": scores[criterion][index] for criterion in _CRITERIA},
            **{column: row["values"][criterion] for criterion, (column, _) in _CRITERIA.items()},
        }
        for index, row in enumerate(rows)
    ]
    columns = ["Rank", "Activation", "Score", *(f"{c.capitalize()}_Score" for c in _CRITERIA)]
    ranked = _table(sorted(table, key=lambda row: row["Rank"]), columns + [column for column, _ in _CRITERIA.values()])
    ranked.attrs["excluded"] = excluded
    return ranked


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    for name, value in weights.items():
        if name not in _CRITERIA:
            raise UserError(f"weights: unknown criterion {name!r}; must be any of {', '.join(_CRITERIA)}")
        if number(value) is None or value < 0:
            raise UserError(f"weights: {name}={value!r} must be a finite number, at least 0")
    largest = max(weights.values(), default=0)
    if not largest:
        raise UserError("weights: at least one must be above 0")
    scaled = {name: weights.get(name, 0) / largest for name in _CRITERIA}  # so that no sum overflows
    return {name: value / sum(scaled.values()) for name, value in scaled.items()}


def _scaled(values: list[float | None]) -> list[float | None]:
    """1 for the lowest value, 0 for the highest, linear between; all 1 when they are equal. None stays None."""
    known = [x for x in values if x is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return [None if x is None else 1.0 for x in values]
    return [None if x is None else (high - x) / (high - low) for x in values]


def rank_ranges(all_results: Mapping[str, dict], weights: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """{activation: (best, worst)} rank when each trial in turn is left out of every activation."""
    studied = measure(all_results).values()
    ids = sorted({k for m in studied for k in m.trials})
    ranks: dict[str, list[int]] = {}
    for k in ids:
        table = rank_activations(all_results, weights, without=k)
        for name, rank in zip(table["Activation"], table["Rank"], strict=True):
            ranks.setdefault(name, []).append(int(rank))
    return {name: (min(r), max(r)) for name, r in ranks.items()}


# -- planning ---------------------------------------------------------------------------------------------------------


def plan_trials(all_results: Mapping[str, dict], reductions: tuple[float, ...] = (5, 10, 20)):
    """Trials per activation needed to see a given reduction of PD with 80 % power, from the spread measured so far.

    One row per comparison with ReLU (every pair where there is no ReLU) and reduction in percent: `Trials_Needed` with
    the range `Low` to `High` over the 80 % limits of the spread, and the hours of training that the trials missing of
    both activations would take at their median time, one after another. Missing where the spread is not known (fewer
    than three trials, no variation).

    Raises:
        UserError: a reduction that is not between 0 and 100 %.
    """
    for reduction in reductions:
        if number(reduction) is None or not 0 < reduction < 100:
            raise UserError(f"reductions: {reduction!r} must be between 0 and 100 (percent)")
    studied, tests = measure(all_results), compare_all(all_results)
    rows = []
    for t in [t for t in tests if t.primary] or tests:
        for reduction in reductions:
            test = t.tests["PD"]
            needed = significance.plan_trials(test, -math.log1p(-reduction / 100)) if test else (None, None, None)
            rows.append(
                {
                    "Activation_A": t.a,
                    "Activation_B": t.b,
                    "Reduction_Pct": reduction,
                    "Trials_Now": min(test.n) if test else 0,
                    "Trials_Needed": needed[0],
                    "Low": needed[1],
                    "High": needed[2],
                    "Extra_Training_Hours": extra_hours([studied[t.a], studied[t.b]], needed[0]),
                }
            )
    return _table(
        rows,
        "Activation_A Activation_B Reduction_Pct Trials_Now Trials_Needed Low High Extra_Training_Hours".split(),
    )


def extra_hours(studied: list[Measured], trials: int | None) -> float | None:
    """Hours of training, one trial after another, until each of `studied` has `trials` trials."""
    seconds = [median(m.trial_values("training_time")) for m in studied]
    if trials is None or None in seconds:
        return None
    return sum(max(0, trials - len(m.trials)) * s for m, s in zip(studied, seconds, strict=True)) / 3600


# -- the report and the command line ----------------------------------------------------------------------------------


def generate_final_report(
    all_results: Mapping[str, dict],
    save_path: str | os.PathLike | None = "results/FINAL_REPORT.md",
    plots_dir: str | os.PathLike | None = None,
) -> str:
    """Write the report as Markdown, and beside it as one HTML file with its figures inside; return the Markdown.

    Args:
        save_path: where; the HTML has the same name with .html. None writes nothing.
        plots_dir: where the figures are, by default `plots` beside the folder of `save_path`. Those that are missing
            are left out.

    Raises:
        UserError: there are no results, or they are of different settings.
        storage.StorageError: the disk refuses.
    """
    from analysis import report

    return report.write_report(all_results, save_path, plots_dir)


def write_all(results_dir: str | os.PathLike = "results", plots_dir: str | os.PathLike = "plots") -> list[Path]:
    """Bring everything that compares activations up to date: summary.csv, significance.csv, the comparison figures and
    the report. Returns the paths written."""
    import plot_utils

    results_dir = Path(results_dir)
    all_results = load_all_results(results_dir)
    save_results_summary(results_dir / "summary.csv")
    tests = calculate_statistical_significance(all_results)
    storage.write_text(results_dir / "significance.csv", tests.to_csv(index=False, lineterminator="\n"))
    figures = plot_utils.plot_comparisons(all_results, plots_dir)
    generate_final_report(all_results, results_dir / "FINAL_REPORT.md", plots_dir)
    names = "summary.csv", "significance.csv", "FINAL_REPORT.md", "FINAL_REPORT.html"
    return [results_dir / name for name in names] + figures


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done; 1 a file is damaged, or --check found something; 2 wrong input."""
    parser = Parser(prog="analyze_results.py", description="Table, tests, rankings and report of the results on disk.")
    parser.add_argument("--results-dir", help="folder of the results (default: results)")
    parser.add_argument("--plots-dir", help="folder of the figures (default: plots)")
    parser.add_argument("--checkpoint-dir", help="folder of the trained models, for --check (default: checkpoints)")
    parser.add_argument("--data-dir", help="folder of prepared corpora, for --verify (default: data)")
    parser.add_argument("--study", help="the study whose folders are meant (default: the folders above)")
    parser.add_argument("--studies-dir", default="studies", help="where --all-studies looks (default: studies)")
    parser.add_argument("--activation", nargs="+", metavar="NAME", help="activations that --check expects")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="go through the validation checklist; exit 0 if all holds")
    action.add_argument("--verify", action="store_true", help="derive every number again, from the checkpoints on")
    action.add_argument("--all-studies", action="store_true", help="the final table over the studies, and conclusions")
    action.add_argument("--plan", action="store_true", help="how many trials a 5, 10 or 20 %% difference in PD needs")
    args = parser.parse_args(argv)
    try:
        given = {
            k: v for k in ("results_dir", "plots_dir", "checkpoint_dir", "data_dir", "study") if (v := getattr(args, k))
        }
        # only the folders are asked of it; a device named outright spares a look for a GPU
        folders = Config(preset="smoke", device="cpu", precision="float32", **given)
        if args.all_studies:
            return _all_studies(folders, args.studies_dir)
        if args.check:
            return _check(folders, args.activation)
        if args.verify:
            from tools.verify import print_verification

            return 1 if print_verification(folders) else 0
        return _plan(folders) if args.plan else _analyse(folders)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except storage.StorageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


def _analyse(folders: Config) -> int:
    from analysis import report

    all_results = load_all_results(folders.results_dir)
    print(report.overview(all_results))
    for path in write_all(folders.results_dir, folders.plots_dir):
        print(f"written: {path}")
    return 0


def _check(folders: Config, names: list[str] | None) -> int:
    from tools.checklist import check_study

    lines = check_study(folders.results_dir, folders.plots_dir, folders.checkpoint_dir, names)
    print(*lines, sep="\n")
    return 1 if any(line.problem for line in lines) else 0


def _all_studies(folders: Config, studies_dir: str) -> int:
    from analysis import studies
    from analysis.markdown import undressed

    if folders.study is not None:
        raise UserError("--all-studies reads every study; leave --study out")
    paths = studies.write_studies(folders.results_dir, folders.plots_dir, studies_dir)
    print(undressed(storage.read_bytes(paths[-1]).decode()))
    for path in paths:
        print(f"written: {path}")
    return 0


def _plan(folders: Config) -> int:
    from analysis import report

    print(report.plan_text(load_all_results(folders.results_dir)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
