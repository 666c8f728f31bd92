"""A comparison in words: a line a group or version for the screen, and FINAL_REPORT.md."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from analysis import tables
from analysis.markdown import DASH, MINUS, counted, fixed, listed, safe, signed, table
from analysis.results import mean
from analysis.study import Study
from analysis.template import rendered
from questions.foreign.results import Comparison

LARGEST_TABLE = 12  # members: more are in matrix.csv and the figure


def headlines(comparison: Comparison) -> list[str]:
    """What was asked, a sentence each: how much models of a group differ, or what changed from version to version."""
    if comparison.versions:
        groups = list(comparison.results)
        return [f"{safe(a)} → {safe(b)}: {change(comparison.of(a, b)[0])}" for a, b in itertools.pairwise(groups)]
    lines = [_group(group, results) for group, results in comparison.results.items()]
    return [*lines, *_verdicts(comparison)]


def change(pair: Mapping) -> str:
    """What changed from one model to another."""
    parts = [
        f"{percent(pair['relative_pd'])} of the probability moved{_limits(pair)}",
        f"{fixed(pair['top1_mismatch_pct'], 1)} % of the likeliest tokens changed",
    ]
    if pair["val_loss_change"] is not None:
        parts.append(f"loss {signed(pair['val_loss_change'], 4)}")
    return ", ".join(parts)


def percent(share: float) -> str:
    return f"{fixed(100 * share, 1)} %"


def _limits(pair: Mapping) -> str:
    low, high = pair["relative_pd_low"], pair["relative_pd_high"]
    return "" if low is None else f" ({fixed(100 * low, 1)} to {fixed(100 * high, 1)})"


def _group(group: str, results: Mapping) -> str:
    loss, pairs = results["avg_val_loss"], results["reproducibility_metrics"]
    said = f"{safe(group)}: {counted(len(results['trials']), 'model')}, "
    said += "loss not known" if loss is None else f"loss {fixed(loss)} nats/token"
    if not pairs:
        return said
    pds = [p["relative_pd"] for p in pairs]
    between = "" if len(pds) < 2 else f" ({fixed(min(pds))} to {fixed(max(pds))})"
    mismatch = mean(p["top1_mismatch_pct"] for p in pairs)
    return (
        f"{said}; two of them differ by relative PD {fixed(mean(pds))}{between}: {percent(mean(pds))} of the "
        f"probability moved, {fixed(mismatch, 1)} % of the likeliest tokens differ"
    )


def _verdicts(comparison: Comparison) -> Iterator[str]:
    """What the tests of the study say of each two groups of several models."""
    import pandas as pd

    several = {g: r for g, r in comparison.results.items() if len(r["trials"]) > 1}
    if len(several) < 2:
        return
    for row in tables.significance(Study(several, question=comparison.question(several))).to_dict("records"):
        for quantity in ("PD", "Loss"):
            p = row.get(f"{quantity}_p_Holm")
            if not pd.isna(p):
                yield f"{row[f'{quantity}_Verdict']}; p = {p:.2g}"


# -- the report ---------------------------------------------------------------------------------------------------


def report(comparison: Comparison, figures: Mapping[str, str], page: str = "") -> str:
    """FINAL_REPORT.md; `figures`: {group, or 'matrix': the figure's address}; `page`: that of disagreement.html."""
    groups, members = list(comparison.results), comparison.members
    title = f"How much {listed(map(safe, groups))} differ" if comparison.versions else "How much these models differ"
    if len(groups) == 1:
        title = f"How much the models of {safe(groups[0])} differ"
    data, evaluation, settings = (comparison.shared[key] for key in ("dataset", "evaluation", "comparison"))
    size = f" ({data['characters']:,} characters, {data['val_tokens']:,} tokens)" if data["characters"] else ""
    shown = len(members) if 1 < len(members) <= LARGEST_TABLE else 0
    text = rendered(
        "comparison.md",
        safe=safe,
        title=title,
        headlines=headlines(comparison),
        versions=comparison.versions,
        failed=[check for check in comparison.checks if check["status"] == "fail"],
        members=_members(members),
        over_windows=members[0]["val_loss_se"],
        matrix=figures.get("matrix"),
        distances=_distances(comparison) if shown else "",
        pairs=_pairs(comparison.pairs) if shown else "",
        intervals=comparison.pairs and comparison.pairs[0]["relative_pd_low"] is not None,
        page=page,
        between=_between(comparison) if len(groups) > 1 and not comparison.versions else "",
        figures={group: figures[group] for group in groups if group in figures},
        checks=_checks(comparison.checks),
        dumps=any(m["kind"] == "predictions" for m in members),
        text=f"`{os.path.basename(data['name'])}`{size}" if data["characters"] else data["name"],
        evaluation=evaluation,
        windows=counted(evaluation["windows"], "window"),
        vocabulary=f" over {data['vocab_size']:,} tokens of vocabulary" if data["vocab_size"] else "",
        **{key: settings[key] for key in ("dtype", "device")},
    )
    return text.rstrip() + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    return "\n".join(table(header, rows, left))


def _members(members: Sequence[Mapping]) -> str:
    def number(m, key, digits):
        error = m[f"{key}_se"]
        return fixed(m[key], digits) + (f" ± {fixed(1.96 * error, digits)}" if error else "")

    rows = [
        [safe(m["member"]), m["kind"], fixed(m["training_steps"], 0), fixed(m["parameters"], 0)]
        + [number(m, "val_loss", 4), number(m, "val_accuracy", 1)]
        for m in members
    ]
    return _table(["Member", "What it is", "Steps", "Parameters", "Loss (nats/token)", "Accuracy (%)"], rows, left=2)


def _distances(comparison: Comparison) -> str:
    values = comparison.matrix.to_numpy()
    rows = [
        [f"{k + 1} {safe(m['member'])}", *("" if j == k else fixed(x, 3) for j, x in enumerate(values[k]))]
        for k, m in enumerate(comparison.members)
    ]
    return _table(["", *(str(k + 1) for k in range(len(rows)))], rows)


def _pairs(pairs: Sequence[Mapping]) -> str:
    rows = [
        [
            f"{safe(p['a'])} → {safe(p['b'])}",
            f"{percent(p['relative_pd'])}{_limits(p)}",
            f"{fixed(p['top1_mismatch_pct'], 1)} %",
            DASH if p["val_loss_change"] is None else signed(p["val_loss_change"], 4),
        ]
        for p in pairs
    ]
    return _table(["Pair", "Probability that moved", "Likeliest tokens that differ", "Loss"], rows)


def _between(comparison: Comparison) -> str:
    def cell(a, b):
        pairs = comparison.of(a, b)
        pd, mismatch = (mean(p[key] for p in pairs) for key in ("relative_pd", "top1_mismatch_pct"))
        return f"{fixed(pd)} ({fixed(mismatch, 1)} %)" if pairs else DASH

    groups = list(comparison.results)
    rows = [[safe(a), *(cell(a, b) for b in groups)] for a in groups]
    return _table(["", *map(safe, groups)], rows)


def _checks(checks: Sequence[Mapping]) -> str:
    marks = {"pass": "✓", "fail": "✗ failed", "hint": "! look", "caution": "! look", "not applicable": MINUS}
    rows = [[safe(c["name"]), marks[c["status"]], safe(c["measured"]), safe(c["threshold"])] for c in checks]
    return _table(["Check", "", "Found", "Needed"], rows, left=4)
