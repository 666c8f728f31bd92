"""The report, FINAL_REPORT.md: its assembly and sections 1 to 4; sections 5 to 7 are in conclusions.py.

Every sentence is chosen by the data at hand, and says no more than the tests allow; "inconclusive" is a result. How
numbers and tables are written, and the HTML form, is in wording.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import activations
import significance
import storage
from analysis.conclusions import conclusions, future_work, key_findings
from analysis.facts import (
    MARGINS,
    VERDICTS,
    Facts,
    adjusted,
    effect,
    effect_size,
    failed_checks,
    reduction,
    tested,
    trials_planned,
    verdict_cell,
)
from analysis.markdown import (
    DASH,
    counted,
    duration,
    fixed,
    label,
    labels,
    listed,
    p_value,
    plus_minus,
    safe,
    signed,
    span,
    table,
    to_html,
    undressed,
)
from analysis.results import Measured, matrix, mean, measure, median, number, std
from analyze_results import (
    ALPHA,
    QUANTITIES,
    REFERENCE,
    WEIGHTINGS,
    extra_hours,
    plan_trials,
    rank_activations,
    rank_ranges,
)
from config import Config

FIGURES = {  # of the study as a whole: file, caption
    "comparison": (
        "comprehensive_comparison.png",
        "All activations: loss, PD, time, their trade-off, spread and ranks",
    ),
    "ratios": ("pd_ratios.png", "Mean PD of each activation as a ratio to that of ReLU, with its 95 % interval"),
    "divergence": ("divergence_comparison.png", "PD along training, and PD against validation loss"),
}


def write_report(
    all_results: Mapping[str, dict],
    save_path: str | os.PathLike | None = "results/FINAL_REPORT.md",
    plots_dir: str | os.PathLike | None = None,
) -> str:
    """See analyze_results.generate_final_report."""
    # with nothing to write, as it would read in a folder beside the figures
    folder = Path(save_path).parent if save_path is not None else Path(plots_dir or "plots").parent / "results"
    plots = Path(plots_dir) if plots_dir is not None else folder.parent / "plots"
    links, images = {}, {}
    for key, (name, _) in FIGURES.items():
        if (plots / name).is_file():
            links[key] = urllib.parse.quote(Path(os.path.relpath(plots / name, folder)).as_posix())
            images[links[key]] = plots / name
    text = report_text(Facts(all_results), links)
    if save_path is not None:
        storage.write_text(save_path, text)
        storage.write_text(Path(save_path).with_suffix(".html"), to_html(text, images))
    return text


def report_text(facts: Facts, links: Mapping[str, str] | None = None) -> str:
    """The report as Markdown; `links` are those figures of FIGURES that have been drawn."""
    sections = (
        ("Executive Summary", executive_summary, None),
        ("Detailed Results Table", detailed_results, "comparison"),
        ("Rankings by Use Case", rankings, None),
        ("Statistical Significance", statistical_significance, "ratios"),
        ("Key Findings", key_findings, "divergence"),
        ("Conclusions", conclusions, None),
        ("Future Work", future_work, None),
    )
    lines = ["# Activation functions and the reproducibility of trained language models"]
    for index, (title, section, figure) in enumerate(sections, 1):
        lines += ["", f"## {index}. {title}", "", *section(facts)]
        if figure in (links or {}):
            lines += ["", f"![{FIGURES[figure][1]}]({links[figure]})"]
    single = [line for i, line in enumerate(lines) if line or lines[i - 1]]  # one blank line at most
    return "\n".join(single).rstrip() + "\n"


def executive_summary(s: Facts) -> list[str]:
    positions = {m.record("evaluation").get("positions") for m in s.studied.values()}
    at = f"{positions.pop():,} fixed positions" if len(positions) == 1 and None not in positions else "fixed positions"
    counts = {len(m.trials) for m in s.studied.values()}
    each = "" if len(s.studied) == 1 else " each" if len(counts) == 1 else ", depending on the activation"
    vary = next((vary for m in s.studied.values() if (vary := m.record("config").get("vary"))), ())
    changed = {"bit": "the last bit of one initial weight", "none": "the moment it is run"}
    source = changed.get("".join(vary), "the random seed")
    word, why = s.hypothesis
    lines = [
        f"A language model that is trained again, with nothing changed but {source}, makes other predictions. By how "
        f"much, and does that depend on its activation function? Studied: {labels(s.studied)}; {span(counts, 0)} "
        f"finished trial{'' if counts == {1} else 's'}{each}. Two trials are compared by their *relative prediction "
        "difference* (PD): the mean total-variation distance between their predicted distributions, "
        f"at {at} of the validation text. 0: they predict the same; 1: they have nothing in common. Lower is more "
        "reproducible.",
        "",
        "**Hypothesis, stated before the numbers:** models with a smooth activation differ less from trial to "
        f"trial (have a lower mean PD) than models with {label(REFERENCE)}, whose slope jumps at 0.",
        "",
        f"**Result: {word}.** {why}",
    ]
    if failed_checks(s.across):
        lines[-1] += " **A check across activations failed (below): don't rely on this before that is explained.**"
    lines += ["", *(f"- {point}" for point in [*comparison_points(s), *headlines(s), *limits(s)]), ""]
    found = [f"- {caution}" for caution in cautions(s)]
    lines += ["**Read with care:**", "", *found] if found else ["No check failed and no trial diverged."]
    return [*lines, "", "### How this was measured", *how_measured(s)]


def comparison_points(s: Facts) -> list[str]:
    if not s.primary:
        return []
    one = len(s.primary) == 1
    family = "one planned comparison" if one else f"{len(s.primary)} planned comparisons, Holm-corrected"
    points = [f"**PD against {label(REFERENCE)}, one by one** ({family}): {verdicts(s, 'PD')}."]
    if any(tested(t.tests["Matched_PD"]) for t in s.primary):
        points.append(
            f"**PD at equal validation loss** ({fixed(s.matched.target, 3)} nats per token): "
            f"{verdicts(s, 'Matched_PD')}. "
            + (
                f"That is another verdict than on the final models for {labels(t.a for t in s.differing)}; where "
                "the two disagree, neither settles the question (section 5)."
                if s.differing
                else "The verdicts are those on the final models."
            )
        )
    return [*points, f"**Validation loss against {label(REFERENCE)}**: {verdicts(s, 'Loss')}."]


def verdicts(s: Facts, quantity: str) -> str:
    """'lower for A (−8 % [−12, −4]); inconclusive for B and C', over the comparisons with ReLU."""
    parts = []
    for kind in VERDICTS:
        found = [t for t in s.primary if s.said(t, quantity) == kind]
        shown = kind in ("lower", "higher", "equal")
        names = listed(label(t.a) + (f" ({effect(t.tests[quantity])})" if shown else "") for t in found)
        words = f"practically equal ({MARGINS[quantity]})" if kind == "equal" else kind
        parts += [f"{words} for {names}"] if found else []
    return "; ".join(parts)


def headlines(s: Facts) -> list[str]:
    """The lowest PD, loss and time, each from its own metric, with what the tests say about it."""
    points = []
    for what, quantity, values, write in (
        ("mean PD", "PD", s.pd, s.pd_text),
        ("mean validation loss", "Loss", s.loss, lambda n: f"{fixed(s.loss[n])} nats per token"),
    ):
        best, others = s.lowest(values)
        if len(best) > 1:
            points.append(f"**Lowest {what}**: {labels(best)} alike, {write(best[0])}.")
        elif best and not others:
            points.append(f"**{what[0].upper()}{what[1:]}**: {label(best[0])}, {write(best[0])}.")
        elif best:
            lower = [n for n in others if s.said_of(best[0], n, quantity) == "lower"]
            rest = [n for n in others if n not in lower]
            supported = [f"lower than {labels(lower)}"] if lower else []
            supported += [f"not shown to differ from {labels(rest, 'or')}"] if rest else []
            points.append(
                f"**Lowest {what}**: {label(best[0])}, {write(best[0])}; by the tests {', '.join(supported)}."
            )
    return points + s.fastest()


def limits(s: Facts) -> list[str]:
    """What this number of trials can't show."""
    if s.detectable:
        n = span({min(t.tests["PD"].n) for t in s.primary or s.tests if tested(t.tests["PD"])}, 0)
        return [
            f"**Limits**: with {n} trials, the smallest reduction of PD that a single comparison would have found "
            f"with 80 % power (before correction for their number) is {span(s.detectable, 1, ' %')}. "
            "*Inconclusive* means that the data can't tell; it is not evidence that there is no difference."
        ]
    if len(s.fit) > 1 and any(len(m.pd_ids) < 3 for m in s.fit.values()):
        return [
            "**Limits**: fewer than three trials of an activation leave no spread to test with. Means are shown; "
            "differences between them are no evidence."
        ]
    return []


def cautions(s: Facts) -> list[str]:
    """What a reader must know before believing the numbers."""
    found: dict[str, list[str]] = {}  # what is the matter: with which activations

    def note(name, text):
        found.setdefault(text, []).append(name)

    for name, m in s.studied.items():
        for check in failed_checks(m.record("audit").get("checks", [])):
            note(name, f"failed the audit; kept out of rankings and tests. {check}")
        if m.audit == "not recorded":
            note(name, "no audit is on record")
        if not m.results.get("fingerprint"):
            note(name, "no settings are on record, so whether this is comparable can't be checked")
        for trial, record in m.failed.items():
            step = record.get("diverged_at_step")
            what = "has no finite validation loss" if step is None else f"diverged at step {step}"
            note(name, f"trial {trial} {what}; it is in no average and no test")
        over = listed(str(k) for k, t in m.trials.items() if t.get("overfit"))
        if over:
            note(name, f"trial {over} ended above its best validation loss (overfitting)")
        if not m.trials:
            note(name, "no trial finished")
        elif len(m.trials) == 1:
            note(name, "one trial finished, so there is no PD and no spread")
        elif len(m.pd_ids) < len(m.trials):
            used = listed(map(str, m.pd_ids)) or DASH
            note(name, f"some pairs of trials have no PD on record; the mean is over trials {used}")
    lines = [f"{labels(names)}: {text.rstrip('.')}." for text, names in found.items()]
    lines += [f"Across activations: {check}" for check in failed_checks(s.across)]
    if len({len(m.trials) for m in s.fit.values()}) > 1:
        lines.append(
            "Activations have different numbers of finished trials; where seeds are shared, a comparison uses the "
            "trials that both have."
        )
    return lines


def how_measured(s: Facts) -> list[str]:
    """The facts of the study, from the first file that records them."""
    studied = list(s.studied.values())
    m = next((m for m in studied if m.results.get("fingerprint")), studied[0])
    corpus, evaluation, config = m.record("dataset"), m.record("evaluation"), m.record("config")
    rows = {"Results of": ", ".join(sorted({str(m.results["timestamp"])[:10] for m in studied}))}
    if corpus:
        told = {"characters": "characters", "train_tokens": "tokens to train on", "val_tokens": "to validate on"}
        sizes = [f"{x:,.0f} {words}" for key, words in told.items() if (x := number(corpus.get(key)))]
        tokens = f"{corpus.get('tokenizer', '')} tokens, {corpus.get('vocab_size', '')} different ones"
        rows["Corpus"] = f"{corpus.get('name', '')}: {', '.join(sizes)}; {tokens}"
    parameters = sorted({x for m in studied if (x := number(m.results.get("parameters")))})
    counts = " to ".join(f"{x:,.0f}" for x in dict.fromkeys(parameters[:1] + parameters[-1:]))
    rows["Model"] = str(m.results["model_name"]) + (f", {counts} parameters" if counts else "")
    told = ("dataset", "model")
    fields = [f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"] and f.name not in told]
    rows["Settings"] = ", ".join(f"{name} = {plain(config[name])}" for name in fields if name in config)
    seeds = [[t["seed"] for t in m.planned.values()] for m in studied]
    if all(planned == seeds[0] for planned in seeds):
        rows["Seeds"] = ", ".join(map(str, seeds[0])) + (" for every activation" if len(studied) > 1 else "")
    if number(evaluation.get("positions")):
        checksum = str(evaluation.get("sha256"))[:12]
        rows["Evaluated at"] = f"{evaluation['positions']:,} positions, the same for all models (sha256 {checksum})"
    rows["Machine"] = ", ".join(f"{k} {plain(v)}" for k, v in m.record("environment").items() if v not in (None, ""))
    rows["Units"] = "losses in nats per token; times in seconds, of training alone"
    rows["Fingerprint of the settings"] = str(m.results.get("fingerprint") or "")[:16]
    return table(["What", "Value"], ([what, safe(value)] for what, value in rows.items() if value), left=2)


def detailed_results(s: Facts) -> list[str]:
    header = (
        "Activation|Trials|Validation loss|Training loss|Validation accuracy (%)|Relative PD|PD, 95 % interval|"
        "Top-1 mismatch (%)|Training time (s)|Audit"
    ).split("|")
    rows = []
    for name in s.by_pd:
        m = s.studied[name]

        def over_trials(key, digits=4, m=m):
            return plus_minus(mean(m.trial_values(key)), std(m.trial_values(key)), digits)

        rows.append(
            [
                label(name),
                str(len(m.trials)),
                over_trials("val_loss"),
                over_trials("train_loss"),
                over_trials("val_accuracy", 2),
                plus_minus(s.pd[name], std(m.pair_values("relative_pd"))),
                s.pd_text(name).partition(" ")[2] or DASH,
                fixed(m.mismatch_pct, 2),
                over_trials("training_time", 1),
                m.audit.partition(" (")[0],
            ]
        )
    return [
        "Mean ± sample standard deviation, over trials; for PD over pairs of trials. Pairs share trials, so their "
        "spread is descriptive only; the 95 % interval of the mean PD is over trials (jackknife). Lowest PD first.",
        *table(header, rows),
        *further_measures(s),
        *noise_floor(s),
    ]


def further_measures(s: Facts) -> list[str]:
    measures = {
        "PD at equal loss": lambda m: s.matched.mean(m.name),
        "Set PD": lambda m: m.results.get("set_prediction_difference"),
        "Symmetric PD": lambda m: mean(m.pair_values("symmetric_pd")),
        "True-label PD": lambda m: mean(m.pair_values("true_label_relative_pd")),
        "Hellinger": lambda m: mean(m.pair_values("hellinger")),
        "Jensen–Shannon (nats)": lambda m: mean(m.pair_values("jensen_shannon")),
        "Loss difference": lambda m: mean(m.pair_values("val_loss_difference")),
        "Best validation loss": lambda m: mean(m.trial_values("best_val_loss")),
        "Tokens per second": lambda m: median(m.trial_values("tokens_per_second")),
        "Parameters": lambda m: m.results.get("parameters"),
    }
    columns = {what: [get(s.studied[n]) for n in s.by_pd] for what, get in measures.items()}
    columns = {what: column for what, column in columns.items() if any(x is not None for x in column)}
    if not columns:
        return []
    cells = [
        [DASH if x is None else f"{x:,.0f}" if x > 100 else fixed(x) for x in column] for column in columns.values()
    ]
    rows = [[label(name), *row] for name, *row in zip(s.by_pd, *cells, strict=True)]
    return ["Further measures, means over pairs or trials:", *table(["Activation", *columns], rows)]


def noise_floor(s: Facts) -> list[str]:
    parts = []
    floors = {n: m.results.get("self_prediction_difference") for n, m in s.studied.items()}
    wrong = [f"{label(n)} ({x:.2g})" for n, x in floors.items() if x]
    if wrong:
        parts.append(f"A trial compared with itself should have a PD of exactly 0 and has not: {listed(wrong)}.")
    elif any(x is not None for x in floors.values()):
        parts.append("A trial compared with itself, through the whole path, has a PD of exactly 0.")
    errors = {n: mean(m.pair_values("relative_pd_se")) for n, m in s.studied.items() if s.pd[n]}
    errors = {n: se for n, se in errors.items() if se is not None}
    if errors:
        shares = [100 * se / s.pd[n] for n, se in errors.items()]
        parts.append(
            f"The choice of positions leaves a PD uncertain by {span(errors.values(), 5)} (standard error over "
            f"windows), {span(shares, 1, ' %')} of its value."
        )
    return ["", f"**Noise floor.** {' '.join(parts)}"] if parts else []


def rankings(s: Facts) -> list[str]:
    ranked = {use: rank_activations(s.all_results, weights) for use, weights in WEIGHTINGS.items()}
    excluded = {name: reason for r in ranked.values() for name, reason in r.attrs["excluded"].items()}
    not_ranked = [f"- {label(n)}: {safe(reason)}" for n, reason in excluded.items()]
    if all(r.empty for r in ranked.values()):
        return ["Nothing can be ranked:", "", *not_ranked]
    cells: dict[str, dict[str, str]] = {}
    for use, weights in WEIGHTINGS.items():
        ranges = rank_ranges(s.all_results, weights)
        for row in ranked[use].itertuples():
            low, high = ranges.get(row.Activation, (row.Rank, row.Rank))
            moved = "" if low == high == row.Rank else f", {low}{DASH}{high}"
            cells.setdefault(row.Activation, {})[use] = f"{row.Rank} of {len(ranked[use])} ({row.Score:.2f}{moved})"
    header = [f"{u.capitalize()} ({' / '.join(f'{100 * w:.0f}' for w in ws.values())})" for u, ws in WEIGHTINGS.items()]
    of, pairs = s.shown("PD")
    supported = f" The tests show a difference in PD for {of} of {counted(pairs, 'pair')}." if pairs else ""
    lines = [
        "A score weighs reproducibility (mean PD), accuracy (mean validation loss) and efficiency (median training "
        "time) in the proportions at the head of its column, each scaled from 0, the worst here, to 1, the best. "
        "Cells: rank (score; and the ranks taken when any one trial is left out, if they vary).",
        *table(["Activation", *header], [[label(n), *(c.get(u, DASH) for u in WEIGHTINGS)] for n, c in cells.items()]),
        "The scaling stretches every difference to the full range, those that are chance included: a rank is a "
        f"summary of means, not a test.{supported}",
        "",
        *(f"- {point}" for point in headlines(s)),
    ]
    return lines + (["", "Not ranked:", "", *not_ranked] if not_ranked else [])


def statistical_significance(s: Facts) -> list[str]:
    if len(s.studied) == 1:
        return ["There is one activation: nothing to compare it with."]
    if not any(t.tests[q] for t in s.tests for q in QUANTITIES):
        return [
            "Nothing could be compared:",
            "",
            *(f"- {label(t.a)} and {label(t.b)}: {verdict_cell(t, 'PD', False)}" for t in s.tests),
        ]
    designs = {t.paired for t in s.tests if not t.unfit}
    design = "those of the same seed with one another (paired t)"
    if designs == {False}:
        design = "without pairing, since activations share no seeds (Welch's t)"
    elif len(designs) == 2:
        design = "those of the same seed with one another where activations share seeds (paired t), else Welch's t"
    lines = [
        "Pairs of trials that share a trial are not independent. So each trial is given one number, its jackknife "
        f"pseudo-value of ln PD, and trials are compared: {design}. Losses are compared likewise. Intervals are 95 %, "
        "not adjusted; p is adjusted by Holm's method within its family, so an interval may exclude 0 where the "
        f"adjusted p does not fall below {ALPHA} (marked \\*). The inference is over trials, given the fixed positions."
    ]
    if s.primary:
        lines += [
            "",
            f"### Against {label(REFERENCE)}: the planned comparisons",
            "",
        ]
        lines += ["Relative PD of the final models:", *reference_table(s, "PD")]
        if any(t.tests["Matched_PD"] for t in s.primary):
            lines += [
                f"Relative PD at equal validation loss ({fixed(s.matched.target)} nats per token; see section 5):",
                *reference_table(s, "Matched_PD"),
            ]
        lines += ["Validation loss, nats per token:", *reference_table(s, "Loss")]
    return lines + all_pairs(s) + reach(s) + second_opinion(s) + uncalibrated(s)


def reference_table(s: Facts, quantity: str) -> list[str]:
    rows = []
    for t in s.primary:
        test = t.tests[quantity]
        known = tested(test)
        rows.append(
            [
                label(t.a),
                effect(test),
                f"{fixed(test.t, 2)} ({test.df:.3g})" if known else DASH,
                p_value(test.p) if known else DASH,
                adjusted(t.holm_primary[quantity]) if known else DASH,
                effect_size(test),
                listed(map(str, dict.fromkeys(test.n))) if test else "0",
                test.kind if known else DASH,
                verdict_cell(t, quantity),
            ]
        )
    what = "Difference [95 %]" if quantity == "Loss" else "Change of mean PD [95 %]"
    return table(["Activation", what, "t (df)", "p", "p, Holm", "Hedges g [95 %]", "n", "Test", "Verdict"], rows)


def all_pairs(s: Facts) -> list[str]:
    rows = []
    for t in s.tests:
        row = [f"{label(t.a)} against {label(t.b)}"]
        for quantity in ("PD", "Loss"):
            test = t.tests[quantity]
            row += [effect(test), adjusted(t.holm[quantity]) if tested(test) else DASH]
            row.append(verdict_cell(t, quantity, primary=False))
        rows.append(row)
    family = sum(not t.unfit for t in s.tests)
    planned = f"; for those with {label(REFERENCE)} the planned comparisons above count" if s.primary else ""
    header = ["Pair", "Change of mean PD", "p, Holm", "PD", "Loss difference", "p, Holm", "Loss"]
    note = f"All {family} in one Holm family for each quantity{planned}." if family > 1 else ""
    return ["", "### All pairs", "", note, *table(header, rows)]


def reach(s: Facts) -> list[str]:
    tests = {t: t.tests["PD"] for t in s.primary or s.tests if tested(t.tests["PD"])}
    if not tests:
        return []
    rows = [
        [
            f"{label(t.a)} against {label(t.b)}",
            f"{reduction(test):.1f} %",
            *(trials_planned(*significance.plan_trials(test, -math.log1p(-r))) for r in (0.05, 0.10, 0.20)),
        ]
        for t, test in tests.items()
    ]
    fewest = min(min(test.n) for test in tests.values())
    few = f" {fewest} trials tell little about the spread itself, hence the wide ranges." if fewest < 5 else ""
    header = ["Comparison", "Smallest detectable reduction", "Trials for 5 %", "for 10 %", "for 20 %"]
    return [
        "",
        "### What these trials can and cannot show",
        "",
        "The smallest true reduction of PD that a comparison finds with 80 % probability, and the trials per "
        "activation that it takes to find one of 5, 10 or 20 % as surely, with the range over the 80 % limits of the "
        f"measured spread (p < {ALPHA} before Holm's correction).{few}",
        *table(header, rows),
    ]


def second_opinion(s: Facts) -> list[str]:
    """A bootstrap over trials and positions, where there are enough trials for it."""
    compared = [t for t in s.primary or s.tests if tested(t.tests["PD"])]
    if not compared:
        return []
    fewest = min(min(t.tests["PD"].n) for t in compared)
    if fewest < 5:
        return [
            f"A bootstrap is not offered as a second opinion: with {fewest} trials it sees too little of the spread "
            "(at n = 3 it finds differences in 21 to 45 % of cases without any), and permutation and rank "
            "tests can't reach p < 0.05 there at all.",
            "",
        ]
    boots = {t: bootstrap(s.studied[t.a], s.studied[t.b], t.paired) for t in compared}
    rows = [
        [
            f"{label(t.a)} against {label(t.b)}",
            f"{signed(100 * (b.ratio - 1))} % [{signed(100 * (b.low - 1))}, {signed(100 * (b.high - 1))}]",
            f"{100 * b.se_trials:.2f} %",
            f"{100 * b.se_positions:.2f} %",
        ]
        for t, b in boots.items()
        if b is not None
    ]
    if not rows:
        return []
    header = ["Comparison", "Change of mean PD [95 %]", "Standard error over trials", "over positions"]
    return [
        "Second opinion: a two-way bootstrap over trials and blocks of positions (the Multi-Bootstrap of Sellam et al. "
        "2021, arXiv 2106.16163), not adjusted.",
        *table(header, rows),
    ]


def uncalibrated(s: Facts) -> list[str]:
    naive = [t.naive_p for t in s.tests if t.naive_p is not None]
    if not naive:
        return []
    return [
        "For comparison with older work only: a t-test that takes pairs of trials for independent would have called "
        f"{sum(p < ALPHA for p in naive)} of {counted(len(naive), 'difference')} in PD significant before correction. "
        "It is uncalibrated: where nothing differs it does so in 18 % of cases at n = 3, and in more with more trials. "
        "See the column `Naive_p_uncalibrated` of `significance.csv`."
    ]


def plain(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def bootstrap(a: Measured, b: Measured, paired: bool) -> significance.Bootstrap | None:
    """The two-way bootstrap of two activations; None where PD by block of positions is not recorded for five trials."""
    ids = [m.pd_ids for m in (a, b)]
    if paired:
        ids = [[k for k in ids[0] if k in ids[1]]] * 2
    stacks = []
    for m, rows in zip((a, b), ids, strict=True):
        pairs = {(i, j): m.pairs[i, j].get("relative_pd_by_block") for i in rows for j in rows if i < j}
        if len(rows) < 5 or not all(pairs.values()):
            return None
        by_block = zip(*pairs.values(), strict=True)
        stacks.append(np.stack([matrix(dict(zip(pairs, pds, strict=True)), rows) for pds in by_block], axis=-1))
    if stacks[0].shape[-1] != stacks[1].shape[-1]:
        return None
    return significance.multi_bootstrap(*stacks, paired=paired)


# -- for the command line ---------------------------------------------------------------------------------------------


def overview(all_results: Mapping[str, dict]) -> str:
    """The table in short and the key sentences, for a terminal."""
    s = Facts(all_results)
    rows = []
    for name in s.by_pd:
        m = s.studied[name]
        losses, accuracies = m.losses(), m.trial_values("val_accuracy")
        rows.append(
            [
                activations.label(name),
                s.pd_text(name),
                fixed(m.mismatch_pct, 2),
                plus_minus(mean(losses), std(losses)),
                plus_minus(mean(accuracies), std(accuracies), 2),
                fixed(s.time[name], 1),
                str(len(m.trials)),
                m.audit,
            ]
        )
    header = "activation|relative PD [95 %]|mismatch %|validation loss|accuracy %|time s|trials|audit".split("|")
    word, why = s.hypothesis
    points = [f"Hypothesis, a lower PD with smooth activations than with {label(REFERENCE)}: {word}. {why}"]
    points += [*comparison_points(s), *headlines(s), *limits(s), *cautions(s)]
    return "\n".join([*table(header, rows), *(f"- {undressed(point)}" for point in points), ""])


def plan_text(all_results: Mapping[str, dict]) -> str:
    """Trials needed to see a given reduction of PD, and what they cost, for a terminal."""
    plan = plan_trials(all_results)
    if plan["Trials_Needed"].isna().all():
        return "The spread between trials is not known: planning needs three or more trials of two activations."
    studied = [m for m in measure(all_results).values() if not m.unfit]
    rows: dict[str, list[str]] = {}
    most: dict[float, int] = {}  # trials needed for a reduction in every comparison
    for row in plan.itertuples():
        name = f"{activations.label(row.Activation_A)} against {activations.label(row.Activation_B)}"
        numbers = [None if number(x) is None else int(x) for x in (row.Trials_Needed, row.Low, row.High)]
        rows.setdefault(name, []).append(trials_planned(*numbers))
        most[row.Reduction_Pct] = max(most.get(row.Reduction_Pct, 0), numbers[0] or 0)
    costs = []
    for percent, needed in most.items():
        hours = extra_hours(studied, needed)
        cost = "no time on record" if hours is None else f"{duration(hours)} more of training" if hours else "no more"
        costs.append(f"{percent:g} % in every comparison: {needed} trials of each activation, {cost}.")
    return "\n".join(
        [
            "Trials per activation that find a reduction of PD of that size with 80 % power (p < 0.05, before",
            "correction for the number of comparisons), with the range over the 80 % limits of the measured spread:",
            *table(
                ["comparison", *(f"{percent:g} %" for percent in most)],
                ([name, *cells] for name, cells in rows.items()),
            ),
            *costs,
            "Times are of one trial after another at the median measured here; side by side they take less.",
            "train.py --trials N adds trials to those that are there.",
        ]
    )
