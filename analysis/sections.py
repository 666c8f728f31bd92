"""Sections 1 to 7 of the report, in its order: every sentence is here, chosen by the numbers of a study.

A sentence says no more than the tests allow; "inconclusive" is a result. Each function gives lines of Markdown. How
numbers and tables are written is in markdown.py, the numbers are those of study.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import activations
from analysis import checks
from analysis.markdown import (
    DASH,
    capital,
    counted,
    duration,
    effect,
    effect_size,
    fixed,
    flagged,
    label,
    labels,
    listed,
    p_value,
    plus_minus,
    safe,
    signed,
    span,
    table,
    trials_planned,
)
from analysis.metrics_table import BY_KEY, METRICS
from analysis.results import mean, std
from analysis.study import ALPHA, QUANTITIES, REDUCTIONS, REFERENCE, WEIGHTINGS, PairTests, Study, reduction
from config import Config
from storage import number

MARGINS = {"PD": "±5 %", "Matched_PD": "±5 %", "Loss": "±0.01 nats per token"}  # "practically equal"
VERDICTS = ("lower", "higher", "equal", "inconclusive", "no test")


# -- 1 Executive Summary -----------------------------------------------------------------------------------------------


def executive_summary(s: Study) -> list[str]:
    word, why = hypothesis(s)
    lines = [*question(s), "", f"**Result: {word}.** {why}"]
    if failed_checks(across(s)):
        lines[-1] += " **A check across activations failed (below): don't rely on this before that is explained.**"
    lines += ["", *(f"- {point}" for point in [*comparison_points(s), *headlines(s), *limits(s)]), ""]
    found = [f"- {caution}" for caution in cautions(s)]
    lines += ["**Read with care:**", "", *found] if found else ["No check failed and no trial diverged."]
    return [*lines, "", "### How this was measured", *how_measured(s)]


def question(s: Study) -> list[str]:
    """What was asked, and of what, before any number."""
    positions = {m.record("evaluation").get("positions") for m in s.measured.values()}
    at = f"{positions.pop():,} fixed positions" if len(positions) == 1 and None not in positions else "fixed positions"
    counts = {len(m.trials) for m in s.measured.values()}
    each = "" if len(s.measured) == 1 else " each" if len(counts) == 1 else ", depending on the activation"
    vary = next((vary for m in s.measured.values() if (vary := m.record("config").get("vary"))), ())
    changed = {"bit": "the last bit of one initial weight", "none": "the moment it is run"}
    source = changed.get("".join(vary), "the random seed")
    return [
        f"A language model that is trained again, with nothing changed but {source}, makes other predictions. By how "
        f"much, and does that depend on its activation function? Studied: {labels(s.measured)}; {span(counts, 0)} "
        f"finished trial{'' if counts == {1} else 's'}{each}. Two trials are compared by their *relative prediction "
        "difference* (PD): the mean total-variation distance between their predicted distributions, "
        f"at {at} of the validation text. 0: they predict the same; 1: they have nothing in common. Lower is more "
        "reproducible.",
        "",
        "**Hypothesis, stated before the numbers:** models with a smooth activation differ less from trial to "
        f"trial (have a lower mean PD) than models with {label(REFERENCE)}, whose slope jumps at 0.",
    ]


def hypothesis(s: Study) -> tuple[str, str]:
    """What became of the hypothesis, by the planned contrast: a word or two, and why."""
    test, equal = s.contrast.tests.get("PD"), s.contrast.tests.get("Matched_PD")
    if not s.contrast.tested("PD"):
        return "not tested", capital(s.contrast.reason or test.note) + "."
    kinds = s.contrast_kind("PD"), s.contrast_kind("Matched_PD")
    words = {"lower": "supported", "higher": "refuted", "equal": "refuted for differences of 5 % or more"}
    word = words.get(kinds[0], "inconclusive")
    change = f"{fixed(abs(100 * (test.effect - 1)), 1)} % {'lower' if test.effect < 1 else 'higher'}"
    why = (
        f"Averaged over {labels(s.contrast.smooth)}, mean PD is {change} than that of {label(REFERENCE)} (95 % "
        f"interval of the change: {signed(100 * (test.low - 1))} to {signed(100 * (test.high - 1))} %; "
        f"p = {p_value(test.p)}; one planned contrast, n = {min(test.n)})."
    )
    if s.contrast.left_out:
        why += f" Left out because they have too few trials: {labels(s.contrast.left_out)}."
    if kinds[0] == "equal":
        why += f" Its 90 % interval lies within {MARGINS['PD']}."
    if kinds[0] == "inconclusive":
        why += (
            " That neither shows a difference nor rules one out; the smallest reduction that this contrast would "
            f"have found with 80 % power is {reduction(test):.1f} %."
        )
    if kinds[1] == kinds[0]:
        why += f" At equal validation loss the verdict is the same ({effect(equal)}, p = {p_value(equal.p)})."
    elif kinds[1]:
        word += f" on the final models; at equal validation loss: {words.get(kinds[1], 'inconclusive')}"
        why += (
            f" At equal validation loss it is {effect(equal)} (p = {p_value(equal.p)}); that compares models which "
            "have learnt equally much, though at different points of the learning-rate schedule. As the two "
            "differ, the question stays open."
        )
    return word, why


def comparison_points(s: Study) -> list[str]:
    if not s.primary:
        return []
    one = len(s.primary) == 1
    family = "one planned comparison" if one else f"{len(s.primary)} planned comparisons, Holm-corrected"
    points = [f"**PD against {label(REFERENCE)}, one by one** ({family}): {verdicts(s, 'PD')}."]
    if any(t.tested("Matched_PD") for t in s.primary):
        points.append(
            f"**PD at equal validation loss** ({fixed(s.matched.target, 3)} nats per token): "
            f"{verdicts(s, 'Matched_PD')}. "
            + (
                f"That is another verdict than on the final models for {labels(t.a for t in s.disagreeing)}; where "
                "the two disagree, neither settles the question (section 5)."
                if s.disagreeing
                else "The verdicts are those on the final models."
            )
        )
    return [*points, f"**Validation loss against {label(REFERENCE)}**: {verdicts(s, 'Loss')}."]


def verdicts(s: Study, quantity: str) -> str:
    """'lower for A (−8 % [−12, −4]); inconclusive for B and C', over the comparisons with ReLU."""
    parts = []
    for kind in VERDICTS:
        found = [t for t in s.primary if s.verdict(t, quantity).kind == kind]
        shown = kind in ("lower", "higher", "equal")
        names = listed(label(t.a) + (f" ({effect(t.tests.get(quantity))})" if shown else "") for t in found)
        words = f"practically equal ({MARGINS[quantity]})" if kind == "equal" else kind
        parts += [f"{words} for {names}"] if found else []
    return "; ".join(parts)


def verdict_cell(s: Study, t: PairTests, quantity: str) -> str:
    kind = s.verdict(t, quantity).kind
    if kind == "no test":
        return safe(f"no test: {t.tests.get(quantity).note if t.tests.get(quantity) else t.why_not}")
    words = {"equal": f"practically equal ({MARGINS[quantity]})", "inconclusive": "inconclusive"}
    return words.get(kind, f"**{kind}**")


def headlines(s: Study) -> list[str]:
    """The lowest PD, loss and time, each from its own metric, with what the tests say about it."""
    points = []
    for what, quantity, values, write in (
        ("mean PD", "PD", s.pd, lambda n: pd_text(s, n)),
        ("mean validation loss", "Loss", s.loss, lambda n: f"{fixed(s.loss[n])} nats per token"),
    ):
        best, others = s.lowest(values)
        if len(best) > 1:
            points.append(f"**Lowest {what}**: {labels(best)} alike, {write(best[0])}.")
        elif best and not others:
            points.append(f"**{what[0].upper()}{what[1:]}**: {label(best[0])}, {write(best[0])}.")
        elif best:
            lower = [n for n in others if s.kind(best[0], n, quantity) == "lower"]
            rest = [n for n in others if n not in lower]
            supported = [f"lower than {labels(lower)}"] if lower else []
            supported += [f"not shown to differ from {labels(rest, 'or')}"] if rest else []
            points.append(
                f"**Lowest {what}**: {label(best[0])}, {write(best[0])}; by the tests {', '.join(supported)}."
            )
    return points + fastest(s)


def pd_text(s: Study, name: str) -> str:
    pd, low, high = s.measured[name].pd_interval
    return fixed(pd) + ("" if low is None else f" [{fixed(low)}, {fixed(high)}]")


def fastest(s: Study) -> list[str]:
    best, others = s.lowest(s.time)
    if len(best) != 1 or not others:
        return []
    times = {n: [t["training_time"] for t in m.trials.values() if t["training_time"]] for n, m in s.fit.items()}
    overlapping = [n for n in others if min(times[n]) <= max(times[best[0]])]
    text = (
        f"**Shortest median training time of a trial**: {label(best[0])}, {fixed(s.time[best[0]], 1)} s (the "
        f"others {span((s.time[n] for n in others), 1, ' s')}); not tested"
    )
    return [text + (f", and its trials overlap with those of {labels(overlapping)}." if overlapping else ".")]


def limits(s: Study) -> list[str]:
    """What this number of trials can't show."""
    if s.detectable:
        n = span({min(t.tests.get("PD").n) for t in s.detectable}, 0)
        return [
            f"**Limits**: with {n} trials, the smallest reduction of PD that a single comparison would have found "
            f"with 80 % power (before correction for their number) is {span(s.detectable.values(), 1, ' %')}. "
            "*Inconclusive* means that the data can't tell; it is not evidence that there is no difference."
        ]
    if len(s.fit) > 1 and any(len(m.pd_ids) < 3 for m in s.fit.values()):
        return [
            "**Limits**: fewer than three trials of an activation leave no spread to test with. Means are shown; "
            "differences between them are no evidence."
        ]
    return []


@functools.lru_cache(maxsize=1)
def across(s: Study) -> list[dict]:
    """The checks that compare the results of different activations."""
    return checks.across_activations(s.all_results)


def failed_checks(checks: list[dict]) -> list[str]:
    return [
        f"*{safe(c.get('name', ''))}*: {safe(c.get('measured', ''))}; needed: {safe(c.get('threshold', ''))}."
        for c in checks
        if c.get("status") == "fail"
    ]


def cautions(s: Study) -> list[str]:
    """What a reader must know before believing the numbers."""
    found: dict[str, list[str]] = {}  # what is the matter: with which activations

    def note(name, text):
        found.setdefault(text, []).append(name)

    for name, m in s.measured.items():
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
    lines += [f"Across activations: {check}" for check in failed_checks(across(s))]
    if len({len(m.trials) for m in s.fit.values()}) > 1:
        lines.append(
            "Activations have different numbers of finished trials; where seeds are shared, a comparison uses the "
            "trials that both have."
        )
    return lines


def plain(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def how_measured(s: Study) -> list[str]:
    """The facts of the study, from the first file that records them."""
    studied = list(s.measured.values())
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


# -- 2 Detailed Results Table ------------------------------------------------------------------------------------------


DETAILED = {  # the metrics of the first table and their decimals; PD is shown among them with its interval
    "val_loss": 4,
    "train_loss": 4,
    "val_accuracy": 2,
    "relative_pd": 4,
    "top1_mismatch_pct": 2,
    "training_time": 1,
}


def detailed_results(s: Study) -> list[str]:
    measured = [s.measured[n] for n in s.by_pd]
    columns = {"Activation": [label(m.name) for m in measured], "Trials": [str(len(m.trials)) for m in measured]}
    for key, digits in DETAILED.items():
        values = [m.values(BY_KEY[key]) for m in measured]
        columns[capital(BY_KEY[key].heading)] = [plus_minus(mean(x), std(x), digits) for x in values]
        if key == "relative_pd":
            columns["PD, 95 % interval"] = [pd_text(s, m.name).partition(" ")[2] or DASH for m in measured]
    columns["Audit"] = [m.audit.partition(" (")[0] for m in measured]
    return [
        "Mean ± sample standard deviation, over trials; for PD and mismatch over pairs of trials. Pairs share trials, "
        "so their spread is descriptive only; the 95 % interval of the mean PD is over trials (jackknife). Lowest PD "
        "first.",
        *table(columns, zip(*columns.values(), strict=True)),
        *further_measures(s),
        *noise_floor(s),
    ]


def further_measures(s: Study) -> list[str]:
    """Every other metric that summary.csv has."""
    columns = {
        "Activation": [label(n) for n in s.by_pd],
        "PD at equal loss": [fixed(s.matched.mean(n)) for n in s.by_pd],
    }
    for metric in METRICS:
        if metric.column and metric.key not in DETAILED:
            values = [s.measured[n].average(metric) for n in s.by_pd]
            columns[capital(metric.heading)] = [fixed(x, 2 if metric.unit == "%" else 4) for x in values]
    columns["Parameters"] = [fixed(number(s.measured[n].results.get("parameters"))) for n in s.by_pd]
    columns = {what: column for what, column in columns.items() if set(column) != {DASH}}
    if len(columns) == 1:
        return []
    return ["Further measures, means over pairs or trials:", *table(columns, zip(*columns.values(), strict=True))]


def noise_floor(s: Study) -> list[str]:
    parts = []
    floors = {n: m.results.get("self_prediction_difference") for n, m in s.measured.items()}
    wrong = [f"{label(n)} ({x:.2g})" for n, x in floors.items() if x]
    if wrong:
        parts.append(f"A trial compared with itself should have a PD of exactly 0 and has not: {listed(wrong)}.")
    elif any(x is not None for x in floors.values()):
        parts.append("A trial compared with itself, through the whole path, has a PD of exactly 0.")
    errors = {n: mean(m.pair_values("relative_pd_se")) for n, m in s.measured.items() if s.pd[n]}
    errors = {n: se for n, se in errors.items() if se is not None}
    if errors:
        shares = [100 * se / s.pd[n] for n, se in errors.items()]
        parts.append(
            f"The choice of positions leaves a PD uncertain by {span(errors.values(), 5)} (standard error over "
            f"windows), {span(shares, 1, ' %')} of its value."
        )
    return ["", f"**Noise floor.** {' '.join(parts)}"] if parts else []


# -- 3 Rankings by Use Case --------------------------------------------------------------------------------------------


def rankings(s: Study) -> list[str]:
    ranked = {use: s.rank(weights) for use, weights in WEIGHTINGS.items()}
    excluded = {name: reason for r in ranked.values() for name, reason in r.excluded.items()}
    not_ranked = [f"- {label(n)}: {safe(reason)}" for n, reason in excluded.items()]
    if not any(r.rows for r in ranked.values()):
        return ["Nothing can be ranked:", "", *not_ranked]
    cells: dict[str, dict[str, str]] = {}
    for use, weights in WEIGHTINGS.items():
        ranges, rows = s.rank_ranges(weights), ranked[use].rows
        for row in rows:
            name, rank = row["Activation"], row["Rank"]
            low, high = ranges.get(name, (rank, rank))
            moved = "" if low == high == rank else f", {low}{DASH}{high}"
            cells.setdefault(name, {})[use] = f"{rank} of {len(rows)} ({row['Score']:.2f}{moved})"
    header = [f"{u.capitalize()} ({' / '.join(f'{100 * w:.0f}' for w in ws.values())})" for u, ws in WEIGHTINGS.items()]
    of, pairs = s.differ("PD")
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


# -- 4 Statistical Significance ----------------------------------------------------------------------------------------


def statistical_significance(s: Study) -> list[str]:
    if len(s.measured) == 1:
        return ["There is one activation: nothing to compare it with."]
    if not any(t.tests.get(q) for t in s.tests for q in QUANTITIES):
        return [
            "Nothing could be compared:",
            "",
            *(f"- {label(t.a)} and {label(t.b)}: {verdict_cell(s, t, 'PD')}" for t in s.tests),
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
        lines += ["", f"### Against {label(REFERENCE)}: the planned comparisons", ""]
        lines += ["Relative PD of the final models:", *reference_table(s, "PD")]
        if any(t.tests.get("Matched_PD") for t in s.primary):
            lines += [
                f"Relative PD at equal validation loss ({fixed(s.matched.target)} nats per token; see section 5):",
                *reference_table(s, "Matched_PD"),
            ]
        lines += ["Validation loss, nats per token:", *reference_table(s, "Loss")]
    return lines + all_pairs(s) + reach(s) + second_opinion(s) + uncalibrated(s)


def reference_table(s: Study, quantity: str) -> list[str]:
    rows = []
    for t in s.primary:
        test = t.tests.get(quantity)
        known = t.tested(quantity)
        rows.append(
            [
                label(t.a),
                effect(test),
                f"{fixed(test.t, 2)} ({test.df:.3g})" if known else DASH,
                p_value(test.p) if known else DASH,
                flagged(t.p_holm[quantity]) if known else DASH,
                effect_size(test),
                listed(map(str, dict.fromkeys(test.n))) if test else "0",
                test.kind if known else DASH,
                verdict_cell(s, t, quantity),
            ]
        )
    what = "Difference [95 %]" if quantity == "Loss" else "Change of mean PD [95 %]"
    return table(["Activation", what, "t (df)", "p", "p, Holm", "Hedges g [95 %]", "n", "Test", "Verdict"], rows)


def all_pairs(s: Study) -> list[str]:
    rows = []
    for t in s.tests:
        row = [f"{label(t.a)} against {label(t.b)}"]
        for quantity in ("PD", "Loss"):
            row += [effect(t.tests.get(quantity)), flagged(t.p_holm[quantity]) if t.tested(quantity) else DASH]
            row.append(verdict_cell(s, t, quantity))
        rows.append(row)
    family = sum(not t.unfit for t in s.tests)
    note = f"For each quantity, p is adjusted over all {family} pairs"
    if s.primary:
        planned = counted(len(s.primary), "planned comparison")
        note += f", for those with {label(REFERENCE)} over the {planned}, as above"
    header = ["Pair", "Change of mean PD", "p, Holm", "PD", "Loss difference", "p, Holm", "Loss"]
    return ["", "### All pairs", "", f"{note}." if family > 1 else "", *table(header, rows)]


def reach(s: Study) -> list[str]:
    if not s.detectable:
        return []
    rows = [
        [
            f"{label(t.a)} against {label(t.b)}",
            f"{smallest:.1f} %",
            *(trials_planned(*s.trials_needed(t, percent)) for percent in REDUCTIONS),
        ]
        for t, smallest in s.detectable.items()
    ]
    fewest = min(min(t.tests.get("PD").n) for t in s.detectable)
    few = f" {fewest} trials tell little about the spread itself, hence the wide ranges." if fewest < 5 else ""
    sizes = [f"for {percent:g} %" for percent in REDUCTIONS]
    header = ["Comparison", "Smallest detectable reduction", f"Trials {sizes[0]}", *sizes[1:]]
    return [
        "",
        "### What these trials can and cannot show",
        "",
        "The smallest true reduction of PD that a comparison finds with 80 % probability, and the trials per "
        "activation that it takes to find one of 5, 10 or 20 % as surely, with the range over the 80 % limits of the "
        f"measured spread (p < {ALPHA} before Holm's correction).{few}",
        *table(header, rows),
    ]


def second_opinion(s: Study) -> list[str]:
    """A bootstrap over trials and positions, where there are enough trials for it."""
    if not s.detectable:
        return []
    fewest = min(min(t.tests.get("PD").n) for t in s.detectable)
    if fewest < 5:
        return [
            f"A bootstrap is not offered as a second opinion: with {fewest} trials it sees too little of the spread "
            "(at n = 3 it finds differences in 21 to 45 % of cases without any), and permutation and rank "
            "tests can't reach p < 0.05 there at all.",
            "",
        ]
    boots = {t: s.bootstrap(t) for t in s.detectable}
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


def uncalibrated(s: Study) -> list[str]:
    naive = [t.naive_p for t in s.tests if t.naive_p is not None]
    if not naive:
        return []
    return [
        "For comparison with older work only: a t-test that takes pairs of trials for independent would have called "
        f"{sum(p < ALPHA for p in naive)} of {counted(len(naive), 'difference')} in PD significant before correction. "
        "It is uncalibrated: where nothing differs it does so in 18 % of cases at n = 3, and in more with more trials. "
        "See the column `Naive_p_uncalibrated` of `significance.csv`."
    ]


# -- 5 Key Findings ----------------------------------------------------------------------------------------------------


def key_findings(s: Study) -> list[str]:
    word, why = hypothesis(s)
    found = {
        "Smooth versus non-smooth": smooth_finding(s),
        "Best and worst": [best_and_worst(s)],
        "Hypothesis validation": [
            f"That smooth activations have a lower mean PD than {label(REFERENCE)}: **{word}**. {why}"
        ],
        "At equal validation loss": equal_loss(s),
        "Accuracy against reproducibility": [trade_off(s)],
        "Integrity and training": [f"- {point}" for point in integrity(s)],
    }
    return [line for title, lines in found.items() for line in (f"### {title}", "", *lines, "")]


def smooth_finding(s: Study) -> list[str]:
    c = s.contrast
    smooth = c.smooth + c.left_out
    kinds = {"Smooth (differentiable everywhere)": smooth, "With a kink": c.kinked, "Not known": c.unknown}
    text = " ".join(f"{words}: {labels(names)}." for words, names in kinds.items() if names)
    means = [s.pd[n] for n in smooth if s.pd[n] is not None]
    if means and s.pd.get(REFERENCE) is not None and REFERENCE in s.fit:
        below = sum(pd < s.pd[REFERENCE] for pd in means)
        of = counted(len(means), "smooth activation")
        text += f" The mean PD of {below} of {of} lies below that of {label(REFERENCE)}."
    rows = []
    for what, quantity in (("final models", "PD"), ("at equal validation loss", "Matched_PD")):
        test = c.tests.get(quantity)
        if c.tested(quantity):
            kind = s.contrast_kind(quantity)
            rows.append([what, effect(test), p_value(test.p), effect_size(test), str(min(test.n)), kind])
    if not rows:
        return [text]
    how = "seed by seed" if c.paired else "not paired"
    return [
        f"{text} The planned contrast, mean ln PD of the smooth activations against {label(REFERENCE)}, {how}:",
        *table(["Contrast", "Change of PD [95 %]", "p", "Hedges g [95 %]", "n", "Verdict"], rows),
    ]


def best_and_worst(s: Study) -> str:
    parts = []
    for what, quantity, values, write in (
        ("mean PD", "PD", s.pd, lambda n: pd_text(s, n)),
        ("mean validation loss", "Loss", s.loss, lambda n: fixed(s.loss[n])),
    ):
        known = sorted((n for n in s.fit if values[n] is not None), key=lambda n: values[n])
        if len(known) < 2:
            continue
        best, worst = known[0], known[-1]
        said = {
            "lower": "the difference is supported by the test",
            "equal": f"the two are practically equal ({MARGINS[quantity]})",
            "inconclusive": "the test between them is inconclusive, the order may be chance",
        }.get(s.kind(best, worst, quantity), "there is no test between them")
        ends = f"Lowest {what}: {label(best)}, {write(best)}; highest: {label(worst)}, {write(worst)}"
        if math.isclose(values[best], values[worst], rel_tol=1e-12):
            parts.append(f"All have the same {what}, {write(best)}.")
        else:
            parts.append(f"{ends}; {said}.")
    return " ".join(parts) or "There are not two activations to compare."


def equal_loss(s: Study) -> list[str]:
    if s.matched.target is None:
        return [
            "Not available: it needs the PD along training of two activations. Where final losses differ, part of a "
            "difference in PD may come from how much the models have learnt."
        ]
    losses = [s.loss[n] for n in s.fit if s.loss[n] is not None]
    lines = [
        "A model that has learnt more is sharper, and sharpness alone moves PD. The activations' mean losses end "
        f"{fixed(max(losses) - min(losses), 3)} nats per token apart, so final PDs compare models that have learnt "
        "more with models that have learnt less. Here each pair's PD is read off where its mean validation loss first "
        f"falls to {fixed(s.matched.target)}, the highest final loss of any pair, which all reach. That compares "
        "models that have learnt equally much, but not at the same point of the learning-rate schedule: an activation "
        "that learns more slowly gets there later, at a lower rate, and PD falls as the rate does. So neither "
        "comparison isolates the activation; a difference that both show is explained neither by how much the models "
        "have learnt nor by the point of the schedule. PD at equal loss is also measured at fewer positions, and "
        "interpolated between evaluations.",
        *table(
            ["Activation", "Final PD", "PD at equal loss", "Reached at step (mean over pairs)"],
            [
                [label(n), fixed(s.pd[n]), fixed(s.matched.mean(n)), fixed(s.matched.steps.get(n), 0)]
                for n in s.by_pd
                if s.matched.mean(n) is not None
            ],
        ),
    ]
    for t in s.disagreeing:
        lines.append(
            f"- {label(t.a)} against {label(t.b)}: {verdict_cell(s, t, 'PD')} on the final models "
            f"({effect(t.tests['PD'])}), {verdict_cell(s, t, 'Matched_PD')} at equal loss "
            f"({effect(t.tests['Matched_PD'])})."
        )
    if s.disagreeing:
        lines += [
            "",
            "Where the two disagree, neither settles the question: what the final models show may come from how much "
            "they have learnt, and what shows at equal loss from the point of the schedule at which it was reached.",
        ]
    elif any(t.tested("Matched_PD") for t in s.primary):
        lines.append(f"Against {label(REFERENCE)} the verdicts are the same as on the final models.")
    return lines


def trade_off(s: Study) -> str:
    weighed = [n for n in s.fit if None not in (s.loss[n], s.pd[n])]
    if len(weighed) < 2:
        return "There are not two activations with a loss and a PD to weigh against each other."
    front = listed(f"{label(n)} (loss {fixed(s.loss[n])}, PD {fixed(s.pd[n])})" for n in s.pareto)
    text = f"On the Pareto front of mean validation loss and mean PD: {front}."
    for n in weighed:
        if n not in s.pareto:
            ahead = [o for o in s.pareto if s.loss[o] <= s.loss[n] and s.pd[o] <= s.pd[n]]
            text += f" {label(n)} is behind {labels(ahead)}."
    (pd, of), (loss, _) = s.differ("PD"), s.differ("Loss")
    if of:
        text += f" These are means; the tests show a difference in PD for {pd}, and in loss for {loss}, of {of} pairs."
    return text


def integrity(s: Study) -> list[str]:
    points = []
    checks = {n: m.record("audit").get("checks", []) for n, m in s.measured.items()}
    every = [c for listed_checks in checks.values() for c in listed_checks]
    if every:
        states = [
            f"{sum(c.get('status') == kind for c in every)} {kind}" for kind in ("pass", "fail", "not applicable")
        ]
        names = ", ".join(dict.fromkeys(str(c.get("name")) for c in every))
        points.append(
            f"Audit of {counted(sum(map(bool, checks.values())), 'activation')}: {', '.join(states)} ({safe(names)})."
        )
    states = ", ".join(f"{check['name']}: {check['status']}" for check in across(s))
    points.append(f"Across activations: {safe(states)}.")
    points += [
        f"Convergence of {label(n)}: {safe(c.get('measured', ''))}."
        for n, listed_checks in checks.items()
        for c in listed_checks
        if c.get("name") == "converged"
    ]
    failed = {n: m for n, m in s.measured.items() if m.failed}
    points += [
        f"{label(n)}: {len(m.failed)} of {counted(len(m.planned), 'trial')} diverged or without a finite loss."
        for n, m in failed.items()
    ] or ["No trial diverged."]
    trials = [(n, k, t) for n, m in s.measured.items() for k, t in m.trials.items()]
    points += [
        f"Overfitting: {label(n)} trial {k} was best at step {t.get('best_step')} ({fixed(t.get('best_val_loss'))}), "
        f"and ended at {fixed(t['val_loss'])}."
        for n, k, t in trials
        if t.get("overfit")
    ]
    if trials and all(t.get("overfit") is False for _, _, t in trials):
        points.append("No trial ended more than a percent above its best validation loss.")
    return points


# -- 6 Conclusions -----------------------------------------------------------------------------------------------------


def conclusions(s: Study) -> list[str]:
    return [
        "### By context",
        "",
        f"- **Research, reproducibility first.** {for_research(s)}",
        f"- **Production, accuracy and reproducibility alike.** {for_production(s)}",
        f"- **Speed first.** {for_speed(s)}",
        "",
        "### Trade-offs and when to use which",
        "",
        *when_to_use(s),
    ]


def for_research(s: Study) -> str:
    if not s.detectable:
        return "No recommendation: differences in reproducibility could not be tested."
    if not s.primary:
        shown, of = s.differ("PD")
        there = f"{label(REFERENCE)} is not among the activations"
        return f"{there}; a difference in PD was shown for {shown} of {counted(of, 'pair')} of them."
    lower, higher = s.against_reference("PD", "lower"), s.against_reference("PD", "higher")
    among = lower or (s.contrast.smooth if s.contrast_kind("PD") == "lower" else [])
    apart = [
        f"{label(t.a)} and {label(t.b)}"
        for t in s.tests
        if {t.a, t.b} <= set(among) and s.verdict(t, "PD").kind in ("lower", "higher")
    ]
    choice = f" Among them a difference was shown for {listed(apart)}." if apart else ""
    if len(among) > 1 and not apart:
        choice = " Among them no difference in reproducibility was shown: choose on accuracy and speed."
    if lower:
        text = f"{labels(lower)}: a lower mean PD than that of {label(REFERENCE)} was shown.{choice}"
        unmatched = [t.a for t in s.disagreeing if t.a in lower and s.verdict(t, "Matched_PD").kind != "lower"]
        if unmatched:
            text += (
                f" At equal loss it was not shown for {labels(unmatched)}: how much they have learnt may explain it."
            )
        costly = [n for n in lower if n in s.against_reference("Loss", "higher")]
        return text + (f" The price is a higher validation loss with {labels(costly)}." if costly else "")
    if among:
        text = (
            f"{labels(among)}, taken together: a lower mean PD than that of {label(REFERENCE)} was shown for these "
            f"smooth activations as a group, but not for any of them alone.{choice}"
        )
        if s.contrast_kind("Matched_PD") not in ("lower", ""):
            text += " At equal loss it was not shown: how much they have learnt may explain it."
        return text
    text = "Choose on accuracy and speed: "
    if higher:
        text += f"no lower PD than that of {label(REFERENCE)} was shown, and a higher one for {labels(higher)}."
    else:
        equal = s.against_reference("PD", "equal")
        text += "no difference in reproducibility was shown"
        text += f"; practically equal to {label(REFERENCE)} (±5 %): {labels(equal)}." if equal else "."
    undecided = s.against_reference("PD", "inconclusive")
    return text + (f" Undecided, with too few trials to tell: {labels(undecided)}." if undecided else "")


def for_production(s: Study) -> str:
    if not s.detectable or not s.primary:
        return f"Nothing beyond the means of section 2: comparisons with {label(REFERENCE)} could not be tested."
    better = {"PD": s.against_reference("PD", "lower"), "validation loss": s.against_reference("Loss", "lower")}
    worse = set(s.against_reference("PD", "higher") + s.against_reference("Loss", "higher"))
    names = dict.fromkeys(better["PD"] + better["validation loss"])
    gains = [
        f"{label(n)} (lower {listed(what for what, lower in better.items() if n in lower)})"
        for n in names
        if n not in worse
    ]
    mixed, losing = [n for n in names if n in worse], [n for n in s.measured if n in worse and n not in names]
    parts = []
    if gains:
        parts.append(f"Shown to improve on {label(REFERENCE)} without losing elsewhere: {listed(gains)}.")
    if mixed:
        parts.append(f"Better in one and worse in the other, so a matter of priorities: {labels(mixed)}.")
    if not parts:
        parts.append(f"No activation was shown to improve on {label(REFERENCE)} in PD or in validation loss.")
    if losing:
        parts.append(f"Shown to lose without a gain: {labels(losing)}.")
    return " ".join(parts)


def for_speed(s: Study) -> str:
    point = fastest(s)
    if not point:
        return "Training times single out no activation."
    return point[0].replace("**", "") + " Times hold for this machine and these implementations."


def when_to_use(s: Study) -> list[str]:
    if not s.primary:
        return [f"Without tests against {label(REFERENCE)} there is nothing to add to the means of section 2."]
    rows = []
    for t in s.primary:
        time, base = s.time[t.a], s.time[REFERENCE]
        rows.append(
            [
                label(t.a),
                *(verdict_cell(s, t, quantity) for quantity in QUANTITIES),
                f"{signed(100 * (time / base - 1))} %" if time and base else DASH,
                "yes" if t.a in s.pareto else "no",
            ]
        )
    header = [f"Against {label(REFERENCE)}", "PD", "PD at equal loss", "Validation loss", "Time (not tested)"]
    return [
        "What was shown for each activation; *inconclusive* speaks neither for nor against it.",
        *table([*header, "On the front of means"], rows),
        "All this holds for this model, text and length of training; whether it carries over to others is not known.",
    ]


# -- 7 Future Work -----------------------------------------------------------------------------------------------------


def future_work(s: Study) -> list[str]:
    points = []
    if any(m.audit.startswith("failed") for m in s.measured.values()) or failed_checks(across(s)):
        points.append("**Repair first**: find out why checks failed; until then those numbers are no evidence.")
    if any(m.failed for m in s.measured.values()):
        points.append("**Divergence**: train again with a lower learning rate, all activations alike.")
    points += more_trials(s)
    missing = [n for n in activations.STUDY if n not in s.measured]
    if missing:
        points.append(f"**Completeness**: of the study's five activations these are missing: {labels(missing)}.")
    if any(t.get("overfit") for m in s.measured.values() for t in m.trials.values()):
        points.append("**Overfitting**: train shorter or with more dropout, all activations alike.")
    config = next((m.record("config") for m in s.measured.values() if m.record("config")), {})
    vary = [source for source in config.get("vary") or () if source != "dropout" or config.get("dropout")]
    if len(vary) > 1:
        points.append(
            f"**Sources of variation**: trials differ in {safe(listed(map(str, vary)))} at once; "
            "`train.py --activation NAME --decompose` tells how much each of them causes."
        )
    points.append(
        "**Generality**: other texts, model sizes and lengths of training; one study can't tell whether an effect, or "
        "its absence, carries over."
    )
    return [f"- {point}" for point in points]


def more_trials(s: Study) -> list[str]:
    few = [n for n, m in s.fit.items() if len(m.pd_ids) < 3]
    if few:
        return [f"**More trials**: a test needs at least three of each activation; fewer have a PD of {labels(few)}."]
    undecided = [t for t in s.detectable if s.verdict(t, "PD").kind == "inconclusive"]
    plans = [s.trials_needed(t, 5) for t in undecided]
    if not plans or any(None in plan for plan in plans):
        return []
    needed, low, high = (f(plan[i] for plan in plans) for i, f in enumerate((max, min, max)))
    hours = s.extra_hours(s.fit, needed)
    cost = f", {duration(hours)} more of training one after another" if hours else ""
    return [
        f"**More trials**: the tests leave {counted(len(undecided), 'comparison')} of PD undecided. To see a "
        f"difference of 5 % there takes about {needed} trials per activation (range {low} to {high}){cost}; "
        "`train.py --trials N` adds them to those that are there."
    ]
