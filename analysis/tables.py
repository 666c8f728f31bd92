"""The tables of a study as DataFrames: the one place that needs pandas, which is loaded when a table is made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import storage
from analysis.results import Measured, load_all_results, mean, std
from analysis.study import ALPHA, CRITERIA, QUANTITIES, PairTests, Study
from measures.table import BY_KEY


def frame(rows: Iterable[dict], columns: list[str] | None = None):
    """A DataFrame in which what is undefined is missing (pandas' NA, or '' in text), never NaN."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=columns, dtype=object)
    for name in table:
        kind = pd.api.types.infer_dtype(table[name], skipna=True)
        missing = table[name].isna().any()
        if kind == "string":
            table[name] = table[name].fillna("")
        elif kind == "boolean":
            table[name] = table[name].astype("boolean" if missing else bool)
        elif kind == "integer" and all(abs(x) < 2**63 for x in table[name].dropna()):  # larger ones are rounded
            table[name] = table[name].astype("Int64" if missing else int)
        elif all(isinstance(x, int | float) for x in table[name].dropna()):
            table[name] = table[name].astype("Float64" if missing else float)
        else:  # another tool's key, now text and now a number
            table[name] = table[name].map(lambda x: "" if x is None else str(x))
    return table


def csv(table) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def everything(study: Study):
    """A row per trial (kind 'trial') and a row per pair (kind 'pair'), with every number recorded of it; those of the
    branches of a trunk, 'branch trial' and 'branch pair', with the branch's `leaves` and `ends`."""
    rows = []
    for name, results in study.all_results.items():
        kinds = [("trial", results["trials"], {}), ("pair", results["reproducibility_metrics"], {})]
        for branch in results.get("frontier") or []:
            steps = {key: branch[key] for key in ("leaves", "ends")}
            kinds += [("branch trial", branch["trials"], steps), ("branch pair", branch["pairs"], steps)]
        for kind, entries, more in kinds:
            for entry in entries:
                scalars = {k: v for k, v in entry.items() if not isinstance(v, (list, dict))}
                rows.append({"activation": name, "kind": kind, **more, **scalars})
    return frame(rows)


def summary(study: Study):
    """summary.csv: a row per activation, the most reproducible first."""
    rows = [_summary_row(study, m) for m in study.measured.values()]

    def key(row):
        pd = row["Avg_Relative_PD"]
        return row["Audit"].startswith("failed"), pd is None, pd or 0.0

    return frame(sorted(rows, key=key))


def save_results_summary(
    save_path: str | os.PathLike = "results/summary.csv", results_dir: str | os.PathLike | None = None
):
    """Write one row per activation, the most reproducible first, and return the table.

    The documented columns come first; then the plain name, the 95 % interval of the mean PD, PD at equal loss of
    annealed models where branches were trained (all at one loss), diverged trials, which are left out of every average,
    and the audit. Activations that failed it, or that have no PD, come last. Losses in nats per token, times in
    seconds, `_Pct` in percent. Everything else is in `results_frame`.

    Raises: what `load_all_results` raises, and a UserError when there are no results.
    """
    save_path = Path(save_path)
    table = summary(Study(load_all_results(save_path.parent if results_dir is None else results_dir)))
    storage.write_text(save_path, csv(table))
    return table


def _summary_row(study: Study, m: Measured) -> dict:
    pd, low, high = m.pd_interval
    loss, at_equal_loss = study.at_equal_loss
    documented = {
        "Activation": m.name.upper(),
        "Avg_Val_Loss": mean(m.losses()),
        "Std_Val_Loss": std(m.losses()),
        "Avg_Train_Loss": m.average(BY_KEY["train_loss"]),
        "Avg_Relative_PD": pd,
        "Avg_Pred_Diff_Pct": m.average(BY_KEY["top1_mismatch_pct"]),
        "Avg_Training_Time_Sec": m.average(BY_KEY["training_time"]),
        "Num_Trials": len(m.trials),
    }
    return documented | {
        "Name": m.name,
        "Relative_PD_CI_Low": low,
        "Relative_PD_CI_High": high,
        "Equal_Loss_PD": at_equal_loss.get(m.name),
        "Equal_Loss": loss,
        "Diverged_Trials": len(m.failed),
        "Audit": m.audit,
    }


def significance(study: Study):
    """significance.csv: a row per pair of activations."""
    columns = list(_significance_row(study, PairTests("", "", False)))
    return frame((_significance_row(study, t) for t in study.tests), columns)


def _significance_row(study: Study, t: PairTests) -> dict:
    row = {
        "Activation_A": t.a,
        "Activation_B": t.b,
        "Primary": t.primary,
        "Seeds": "shared" if t.paired else "not shared",
    }
    for quantity in QUANTITIES:
        row |= {f"{quantity}_{key}": value for key, value in _test_columns(study, t, quantity).items()}
    return row | {
        "Naive_p_uncalibrated": t.naive_p,
        "Note": f"no test: {t.why_not}" if t.unfit else "",
        "Matched_Loss": t.loss,
    }


def _test_columns(study: Study, t: PairTests, quantity: str) -> dict:
    test, tested = t.tests.get(quantity), t.tested(quantity)

    def get(attribute):
        return getattr(test, attribute) if test else None

    columns = {"Difference" if quantity == "Loss" else "Ratio": get("effect")}
    if quantity != "Loss":
        columns["Change_Pct"] = None if get("effect") is None else 100 * (test.effect - 1)
    return columns | {
        "CI_Low": get("low"),
        "CI_High": get("high"),
        "t": get("t"),
        "df": get("df"),
        "p": get("p"),
        "p_Unmoderated": get("p_plain"),
        "p_Holm": t.p_holm[quantity] if tested else None,
        "Significant": tested and t.p_holm[quantity] < ALPHA,
        "g": get("g"),
        "g_Low": get("g_low"),
        "g_High": get("g_high"),
        "g_Kind": get("g_kind") or "",
        "Test": test.kind if tested else "no test",
        "N_A": test.n[0] if test else 0,
        "N_B": test.n[1] if test else 0,
        "Verdict": study.verdict(t, quantity).text,
    }


def ranking(study: Study, weights=None, without: int | None = None):
    """A row per ranked activation, best first; the others in `.attrs["excluded"]`, {activation: reason}."""
    ranked = study.rank(weights, without)
    scores = [f"{criterion.capitalize()}_Score" for criterion in CRITERIA]
    values = [column for column, _ in CRITERIA.values()]
    table = frame(ranked.rows, ["Rank", "Activation", "Score", *scores, *values])
    table.attrs["excluded"] = ranked.excluded
    return table


def plan(study: Study, reductions: Iterable[float]):
    """A row per comparison to plan for and reduction of PD."""
    columns = "Activation_A Activation_B Reduction_Pct Trials_Now Trials_Needed Low High Extra_Training_Hours"
    return frame(study.plan(reductions), columns.split())
