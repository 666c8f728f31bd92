"""A comparison in words: a line a group or version for the screen, and FINAL_REPORT.md."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

from analysis import tables
from analysis.markdown import MINUS, counted, fixed, listed, safe, signed, table
from analysis.results import mean
from analysis.study import Study
from questions.foreign.results import Comparison

LARGEST_TABLE = 12  # members: more are in matrix.csv and the figure
TWO_MODELS = (
    "These are models, not recipes: two trainings of one recipe differ too, and how much of a change is more than that "
    "only several trainings of each can tell (a group of each)."
)


def headlines(found: Comparison) -> list[str]:
    """What was asked, a sentence each: how much models of a group differ, or what changed from version to version."""
    if found.versions:
        groups = list(found.results)
        return [f"{safe(a)} → {safe(b)}: {change(found.of(a, b)[0])}" for a, b in itertools.pairwise(groups)]
    lines = [_group(group, results) for group, results in found.results.items()]
    return [*lines, *_verdicts(found)]


def change(pair: Mapping) -> str:
    """What changed from one model to another."""
    parts = [
        f"{percent(pair['relative_pd'])} of the probability moved{_limits(pair)}",
        f"{fixed(pair['top1_mismatch_pct'], 1)} % of the likeliest tokens changed",
    ]
    if pair["val_loss_change"] is not None:
        parts.append(f"loss {signed(pair['val_loss_change'], 4)}")
    return ", ".join(parts)


def percent(share: float, digits: int = 1) -> str:
    return f"{fixed(100 * share, digits)} %"


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


def _verdicts(found: Comparison) -> Iterator[str]:
    """What the tests of the study say of each two groups of several models."""
    import pandas as pd

    several = {g: r for g, r in found.results.items() if len(r["trials"]) > 1}
    if len(several) < 2:
        return
    for row in tables.significance(Study(several, question=found.question(several))).to_dict("records"):
        for quantity in ("PD", "Loss"):
            p = row.get(f"{quantity}_p_Holm")
            if not pd.isna(p):
                yield f"{row[f'{quantity}_Verdict']}; p = {p:.2g}"


# -- the report ---------------------------------------------------------------------------------------------------


def report(found: Comparison, figures: Mapping[str, str], page: str = "") -> str:
    """FINAL_REPORT.md; `figures`: {what: its address}, the matrix as 'matrix'; `page`: that of disagreement.html."""
    groups, members = list(found.results), found.members
    title = f"How much {listed(map(safe, groups))} differ" if found.versions else "How much these models differ"
    if len(groups) == 1:
        title = f"How much the models of {safe(groups[0])} differ"
    sections = [
        ("In short", _in_short(found)),
        ("Every member", _members(found)),
        ("Every two members", _matrix(found, figures) if len(members) > 1 else []),
        (
            "On which text",
            [f"[The text's beginning, coloured by how much the models disagree]({page})"] if page else [],
        ),
        ("Within and between groups", _between(found) if len(groups) > 1 and not found.versions else []),
        (
            "Each group",
            [line for g in groups if g in figures for line in (f"![{safe(g)}: its pairs]({figures[g]})", "")],
        ),
        ("Is it sound?", _checks(found)),
        ("What was compared", _compared(found)),
    ]
    lines = [f"# {title}"]
    for name, text in sections:
        lines += ["", f"## {name}", "", *text] if text else []
    single = [line for i, line in enumerate(lines) if line or lines[i - 1]]  # one blank line at most
    return "\n".join(single).rstrip() + "\n"


def _in_short(found: Comparison) -> list[str]:
    lines = [f"- {line}." for line in headlines(found)]
    if found.versions:
        lines += ["", TWO_MODELS]
    failed = [c for c in found.checks if c["status"] == "fail"]
    for check in failed:
        lines += ["", f"**{safe(check['name'])} FAILED:** {safe(check['measured'])}."]
    if not failed:
        lines += ["", "Every check of the members passed: see *Is it sound?*"]
    return lines


def _members(found: Comparison) -> list[str]:
    def number(value, digits=4, error=None):
        limits = f" ± {fixed(1.96 * error, digits)}" if error else ""
        return fixed(value, digits) + limits

    rows = [
        [
            safe(m["member"]),
            m["kind"],
            fixed(m["training_steps"], 0),
            fixed(m["parameters"], 0),
            number(m["val_loss"], 4, m["val_loss_se"]),
            number(m["val_accuracy"], 1, m["val_accuracy_se"]),
        ]
        for m in found.members
    ]
    head = ["Member", "What it is", "Steps", "Parameters", "Loss (nats/token)", "Accuracy (%)"]
    said = [
        "Loss and accuracy over the positions compared; ±: 95 % over windows."
        if found.members[0]["val_loss_se"]
        else ""
    ]
    return [*table(head, rows, left=2), *said]


def _matrix(found: Comparison, figures: Mapping[str, str]) -> list[str]:
    names = [m["member"] for m in found.members]
    lines = [f"![Relative PD of each two members, from 0 (white)]({figures['matrix']})"] if "matrix" in figures else []
    if len(names) <= LARGEST_TABLE:
        values = found.matrix.to_numpy()
        rows = [
            [f"{k + 1} {safe(name)}", *(fixed(values[k, j], 3) if j != k else "" for j in range(len(names)))]
            for k, name in enumerate(names)
        ]
        lines += ["", "Relative PD:", *table(["", *(str(k + 1) for k in range(len(names)))], rows)]
        rows = [
            [
                f"{safe(p['a'])} → {safe(p['b'])}",
                f"{percent(p['relative_pd'])}{_limits(p)}",
                f"{fixed(p['top1_mismatch_pct'], 1)} %",
                "–" if p["val_loss_change"] is None else signed(p["val_loss_change"], 4),
            ]
            for p in found.pairs
        ]
        lines += table(["Pair", "Probability that moved", "Likeliest tokens that differ", "Loss"], rows)
        if found.pairs[0]["relative_pd_low"] is not None:
            lines.append(
                "In brackets: 95 % over windows of the text, of these models; another training is another model."
            )
    return [*lines, "", "All pairs with all measures: matrix.json and matrix.csv."]


def _between(found: Comparison) -> list[str]:
    groups = list(found.results)

    def cell(a, b):
        pairs = found.of(a, b)
        if not pairs:
            return "–"
        pd, mismatch = (mean(p[key] for p in pairs) for key in ("relative_pd", "top1_mismatch_pct"))
        return f"{fixed(pd)} ({fixed(mismatch, 1)} %)"

    rows = [[safe(a), *(cell(a, b) for b in groups)] for a in groups]
    return [
        "Mean relative PD of two members, and in brackets how many of the likeliest tokens differ:",
        *table(["", *map(safe, groups)], rows),
        "Two groups differ as recipes where pairs between them differ by more than pairs within each.",
    ]


def _checks(found: Comparison) -> list[str]:
    marks = {"pass": "✓", "fail": "✗ failed", "hint": "! look", "caution": "! look", "not applicable": MINUS}
    rows = [[safe(c["name"]), marks[c["status"]], safe(c["measured"]), safe(c["threshold"])] for c in found.checks]
    said = []
    if any(m["kind"] == "predictions" for m in found.members):
        said = ["Dumps of predictions can't be asked whether their model saw later tokens or lacked weights."]
    return [*table(["Check", "", "Found", "Needed"], rows, left=4), *said]


def _compared(found: Comparison) -> list[str]:
    data, evaluation, how = (found.shared[key] for key in ("dataset", "evaluation", "comparison"))
    windows = f"{counted(evaluation['windows'], 'window')} of {evaluation['block_size']} tokens"
    text = f"`{os.path.basename(data['name'])}`" if data["characters"] else data["name"]
    size = f" ({data['characters']:,} characters, {data['val_tokens']:,} tokens)" if data["characters"] else ""
    vocabulary = f" over {data['vocab_size']:,} tokens of vocabulary" if data["vocab_size"] else ""
    return [
        f"Text: {text}{size}. Every member predicted the same {evaluation['positions']:,} positions, {windows} "
        f"(sha256 {evaluation['sha256'][:12]}…),{vocabulary}, in {how['dtype']} on {how['device']}.",
        "",
        "Relative PD is the mean over positions of half the absolute difference of two predicted distributions: the "
        "share of probability that lies on other tokens (total variation; the normalised L1 prediction difference of "
        "Shamir & Coviello 2020). 0: the same predictions; 1: no token in common.",
    ]
