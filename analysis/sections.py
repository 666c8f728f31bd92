"""Sections 2 to 7 of the report, in its order: every sentence is here, chosen by the numbers of a study. The first
section is in summary.py.

A sentence says no more than the tests allow; "inconclusive" is a result. Each function gives lines of Markdown. How
numbers and tables are written is in markdown.py, the numbers are those of study.py. What only a statistician looks for
stands in the appendix of its section.
"""

from __future__ import annotations

import functools

import activations
from analysis import checks
from analysis.markdown import (
    DASH,
    capital,
    counted,
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
from analysis.question import smooth
from analysis.results import Measured, mean, std
from analysis.study import (
    ALPHA,
    QUANTITIES,
    REDUCTIONS,
    WEIGHTINGS,
    PairTests,
    Study,
    beats,
    last_on_curve,
    overshoot,
    reduction,
)
from measures.table import BY_KEY, METRICS
from significance import same
from storage import number

NAMES = {"PD": "PD", "Matched_PD": "PD at equal loss", "Loss": "validation loss"}
FEW = 5  # trials, below which intervals are themselves rough


# -- said in several sections ------------------------------------------------------------------------------------------


def base(s: Study) -> str:
    """The baseline by its name."""
    return label(s.question.baseline)


def together(s: Study) -> str:
    """The arms of the planned contrast."""
    return "the smooth ones together" if s.question.about_smoothness else f"{labels(s.question.contrast)} together"


def margin(s: Study, quantity: str) -> str:
    """Within what "practically equal" is."""
    return f"{s.margin(quantity):g} nats per token" if quantity == "Loss" else f"{100 * s.margin(quantity):g} %"


def verdict_cell(s: Study, t: PairTests, quantity: str) -> str:
    kind = s.verdict(t, quantity).kind
    if kind == "no test":
        return safe(f"no test: {t.tests[quantity].note if quantity in t.tests else t.why_not}")
    words = {"equal": f"practically equal (±{margin(s, quantity)})", "inconclusive": "inconclusive"}
    return words.get(kind, f"**{kind}**")


def undecided(s: Study) -> tuple[list[PairTests], int | None, int | None, int | None]:
    """The planned comparisons of PD that are inconclusive, and the trials of each activation that would see a
    difference of the margin in all of them, with their range; None where that can't be told."""
    tests = [t for t in s.detectable if s.verdict(t, "PD").kind == "inconclusive"]
    plans = [s.trials_needed(t, 100 * s.margin("PD")) for t in tests]
    if not plans or any(None in plan for plan in plans):
        return tests, None, None, None
    return tests, *(f(plan[i] for plan in plans) for i, f in enumerate((max, min, max)))


def looks(s: Study) -> str:
    """What it costs to look again, or which look this is."""
    if s.looks:
        planned = listed(map(str, s.looks["plan"]["looks"]))
        return (
            f"This is look {len(s.looks['looks'])} of those planned, at {planned} trials: p-values and intervals allow "
            "for all of them."
        )
    return (
        "Adding trials until a test is significant is not paid for: every further look is one more chance to err. "
        "`train.py --until-decided` adds trials and pays for its looks; `--trials N` is sound where N was chosen "
        "beforehand."
    )


@functools.lru_cache(maxsize=1)
def across(s: Study) -> list[dict]:
    """The checks that compare the results of different activations."""
    return checks.across_activations(s.all_results)


def failed_checks(checks: list[dict], status: str = "fail") -> list[str]:
    return [
        f"*{safe(c.get('name', ''))}*: {safe(c.get('measured', ''))}; needed: {safe(c.get('threshold', ''))}."
        for c in checks
        if c.get("status") == status
    ]


def cautions(s: Study) -> list[str]:
    """What a reader must know before believing the numbers."""
    found: dict[str, list[str]] = {}  # what is the matter: with which activations

    def note(name, text):
        found.setdefault(text, []).append(name)

    for name, m in s.measured.items():
        for check in failed_checks(m.record("audit").get("checks", [])):
            note(name, f"failed the audit; kept out of rankings and tests. {check}")
        on_record = [c.get("name") for c in m.record("audit").get("checks", []) if c.get("status") == "fail"]
        for check, what in m.not_distinct.items():
            if check not in on_record:
                note(name, f"kept out of rankings and tests, whatever the audit on record says: {safe(what)}")
        for check in failed_checks(m.record("audit").get("checks", []), "caution"):
            note(name, check)
        if m.audit == "not recorded":
            note(name, "no audit is on record")
        if left_out := m.results.get("left_out"):
            note(name, f"left out of its results file, as results.schema.json says: {safe('; '.join(left_out))}")
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
    for status in ("fail", "caution"):
        lines += [f"Across activations: {check}" for check in failed_checks(across(s), status)]
    if len({len(m.trials) for m in s.fit.values()}) > 1:
        lines.append(
            "Activations have different numbers of finished trials; where seeds are shared, a comparison uses the "
            "trials that both have."
        )
    return lines


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
            columns["PD, 95 % interval"] = [interval(m) for m in measured]
    columns["Audit"] = [m.audit.partition(" (")[0] for m in measured]
    few = any(3 <= len(m.pd_ids) < FEW for m in measured)
    rough = " From fewer than five trials its width is a guess: it rests on their own spread alone." if few else ""
    return [
        "Mean ± sample standard deviation, over trials; for PD and mismatch over pairs of trials. Pairs share trials, "
        "so their spread is descriptive only; the 95 % interval of the mean PD is over trials (jackknife)."
        f"{rough} Lowest PD first.",
        *table(columns, zip(*columns.values(), strict=True)),
        *noise_floor(s),
        *further_measures(s),
    ]


def interval(m: Measured) -> str:
    _, low, high = m.pd_interval
    return DASH if low is None else f"[{fixed(low)}, {fixed(high)}]"


def further_measures(s: Study) -> list[str]:
    """Every other metric that summary.csv has: a row each."""
    rows = {f"PD at equal loss{' along training' if s.frontiers else ''}": [fixed(s.matched.mean(n)) for n in s.by_pd]}
    for metric in METRICS:
        if metric.column and metric.key not in (*DETAILED, "best_val_loss"):
            values = [s.measured[n].average(metric) for n in s.by_pd]
            rows[capital(metric.heading)] = [fixed(x, {"%": 2, "positions": 1}.get(metric.unit, 4)) for x in values]
    # both at the probe: the last one in the table above is at other positions
    rows["Best minus last validation loss, at the probe"] = [
        fixed(mean(map(overshoot, s.measured[n].trials.values()))) for n in s.by_pd
    ]
    rows["Parameters"] = [fixed(number(s.measured[n].results.get("parameters"))) for n in s.by_pd]
    rows = {what: row for what, row in rows.items() if set(row) != {DASH}}
    if not rows:
        return []
    header = ["Mean over pairs or trials", *map(label, s.by_pd)]
    return ["", "### Appendix: further measures", *table(header, ([what, *row] for what, row in rows.items()))]


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


def headlines(s: Study) -> list[str]:
    """The lowest PD, loss and time, each from its own metric, with what the tests say about it."""
    points = []
    for what, quantity, values, unit in (
        ("mean PD", "PD", s.pd, ""),
        ("mean validation loss", "Loss", s.loss, " nats per token"),
    ):
        best, others = s.lowest(values)
        if not best:
            continue
        value = fixed(values[best[0]]) + unit
        if len(best) > 1:
            points.append(f"**Lowest {what}**: {labels(best)} alike, {value}.")
        elif not others:
            points.append(f"**{capital(what)}**: {label(best[0])}, {value}.")
        else:
            lower = [n for n in others if s.kind(best[0], n, quantity) == "lower"]
            rest = [n for n in others if n not in lower]
            supported = [f"lower than {labels(lower)}"] if lower else []
            supported += [f"not shown to differ from {labels(rest, 'or')}"] if rest else []
            points.append(f"**Lowest {what}**: {label(best[0])}, {value}; by the tests {', '.join(supported)}.")
    return points + fastest(s)


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


# -- 4 Statistical Significance ----------------------------------------------------------------------------------------


def statistical_significance(s: Study) -> list[str]:
    if len(s.measured) == 1:
        return ["There is one activation: nothing to compare it with."]
    if not any(t.tests for t in s.tests):
        return [
            "Nothing could be compared:",
            "",
            *(f"- {label(t.a)} and {label(t.b)}: {verdict_cell(s, t, 'PD')}" for t in s.tests),
        ]
    lines = [how_tested(s), "", *the_order(s)]
    if s.primary:
        lines += ["", f"### Against {base(s)}: the planned comparisons", ""]
        read_at = [t.loss for t in s.primary if t.loss is not None]
        at = "of annealed models" if s.frontiers else f"at {span(read_at, 4)} nats per token" if read_at else DASH
        where = {"PD": "final models", "Matched_PD": f"{at}; see section 5"}
        where["Loss"] = "nats per token"
        for quantity in QUANTITIES:
            if any(quantity in t.tests for t in s.primary):
                lines += [f"{capital(NAMES[quantity])}, {where[quantity]}:", *reference_table(s, quantity)]
    return lines + other_pairs(s) + reach(s)


def how_tested(s: Study) -> str:
    designs = {t.paired for t in s.tests if not t.unfit}
    design = "those of the same seed with one another (paired t)"
    if designs == {False}:
        design = "without pairing, since activations share no seeds (Welch's t)"
    elif len(designs) == 2:
        design = "those of the same seed with one another where activations share seeds (paired t), else Welch's t"
    moderated = any(c.prior_df for t in s.tests for c in t.tests.values())
    spread = (
        "A comparison's spread is moderated by the mean spread of the planned comparisons"
        if moderated
        else "With fewer than three comparisons there is no spread to borrow: each rests on its own trials, and with "
        "few of these its interval is too wide or too narrow by chance"
    )
    if s.looks:
        spread += ". p-values and intervals allow for all looks (repeated ones, Jennison & Turnbull 1989)"
    return (
        "Pairs of trials that share a trial are not independent. So each trial is given one number, its jackknife "
        f"pseudo-value of ln PD, and trials are compared: {design}. Losses are compared likewise. {spread}. Intervals "
        "are 95 % for one comparison alone, while p is adjusted for all, so an interval may exclude 0 where the "
        f"adjusted p does not fall below {ALPHA} (marked \\*). The inference is over trials, given the fixed positions."
    )


def the_order(s: Study) -> list[str]:
    """Which claims share an error rate."""
    if len(s.tests) < 2:
        return []
    others = [t for t in s.tests if t not in s.primary and not t.unfit]
    if not s.primary:
        steps = [f"PD of all {counted(len(others), 'pair')} (Holm's correction).", "The same at equal validation loss."]
    else:
        size = "one comparison" if len(s.primary) == 1 else f"{len(s.primary)} comparisons, Holm's correction"
        steps = [
            f"PD of each activation against {base(s)} ({size}).",
            f"PD of {together(s)} against {base(s)}, the planned contrast: if any of step 1 is "
            f"shown, or by itself at half the level, p < {ALPHA / 2}.",
            f"{'Both' if s.question.contrast else 'The same'} at equal validation loss: each only where it is shown on "
            "the final models.",
        ]
        if not s.question.contrast:
            del steps[1]
        steps += [f"The other {counted(len(others), 'pair')}: if any of step 1 is shown."] if others else []
    return [
        "### Which claims share an error rate",
        "",
        "Claims about PD are tested in this order, and each step counts only as far as those before it found something "
        "(serial gatekeeping, Maurer, Hothorn & Lehmacher 1995):",
        "",
        *(f"{i}. {step}" for i, step in enumerate(steps, 1)),
        "",
        "Losses have an order of their own: first against the reference, then the other pairs. So where nothing "
        "differs, at most 5 % of such reports claim anything about PD, and at most 10 % anything at all "
        "(simulated: `bench/calibration.py --tables claims`). *Practically equal* is shown by two one-sided tests, "
        "Holm-corrected in each family.",
    ]


def reference_table(s: Study, quantity: str) -> list[str]:
    rows = []
    for t in s.primary:
        test = t.tests.get(quantity)
        adjusted = flagged(t.p_holm[quantity]) if t.tested(quantity) else DASH
        rows.append([label(t.a), effect(test), adjusted, effect_size(test), verdict_cell(s, t, quantity)])
    what = "Difference [95 %]" if quantity == "Loss" else "Change of mean PD [95 %]"
    return table(["Activation", what, "p, adjusted", "Hedges' g [95 %]", "Verdict"], rows)


def other_pairs(s: Study) -> list[str]:
    rows = []
    for t in (t for t in s.tests if t not in s.primary):
        row = [f"{label(t.a)} against {label(t.b)}"]
        for quantity in ("PD", "Loss"):
            row += [effect(t.tests.get(quantity)), flagged(t.p_holm[quantity]) if t.tested(quantity) else DASH]
            row.append(verdict_cell(s, t, quantity))
        rows.append(row)
    if not rows:
        return []
    header = ["Pair", "Change of mean PD", "p, adjusted", "PD", "Loss difference", "p, adjusted", "Loss"]
    return ["", "### The other pairs" if s.primary else "### All pairs", *table(header, rows)]


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
    sizes = [f"for {percent:g} %" for percent in REDUCTIONS]
    header = ["Comparison", "Smallest detectable reduction", f"Trials {sizes[0]}", *sizes[1:]]
    return [
        "",
        "### What these trials can and cannot show",
        "",
        "The smallest true reduction of PD that a comparison finds with 80 % probability, and the trials per "
        "activation that it takes to find one of 5, 10 or 20 % as surely, with the range over the 80 % limits of the "
        f"measured spread (p < {ALPHA} before adjustment).",
        *table(header, rows),
        looks(s),
    ]


def tests_appendix(s: Study) -> list[str]:
    compared = {label(t.a): t for t in s.primary}
    compared |= {capital(together(s)).removeprefix("The ").capitalize(): s.contrast} if s.question.contrast else {}
    compared = {name: t for name, t in compared.items() if any(map(t.tested, QUANTITIES))}
    quantities = [q for q in QUANTITIES if any(t.tested(q) for t in compared.values())]
    tests = [t.tests[q] for t in compared.values() for q in quantities if t.tested(q)]
    lines = []
    if tests:
        kinds = listed(dict.fromkeys(test.kind for test in tests))
        numbers = span({n for test in tests for n in test.n}, 0)
        lines = [
            f"t (df); p; p unmoderated, by this comparison's own spread alone. n = {numbers}; {kinds}.",
            *table(
                [f"Against {base(s)}", *(capital(NAMES[q]) for q in quantities)],
                ([name, *(test_cell(t, q) for q in quantities)] for name, t in compared.items()),
            ),
        ]
    lines += second_opinion(s) + uncalibrated(s)
    return ["", "### Appendix: the tests", "", *lines] if lines else []


def test_cell(t, quantity: str) -> str:
    if not t.tested(quantity):
        return DASH
    test = t.tests[quantity]
    return f"{fixed(test.t, 2)} ({test.df:.3g}); {p_value(test.p)}; {p_value(test.p_plain)}"


def second_opinion(s: Study) -> list[str]:
    """A bootstrap over trials and positions, where there are enough trials for it."""
    if not s.detectable:
        return []
    fewest = min(min(t.tests.get("PD").n) for t in s.detectable)
    if fewest < 5:
        return [
            f"A bootstrap is not offered as a second opinion: with {fewest} trials it sees too little of the spread "
            "(at n = 3 it finds differences in 21 to 45 % of cases without any).",
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
        "Where nothing differs it does so in 18 % of cases at n = 3, and in more with more trials."
    ]


# -- 5 Key Findings ----------------------------------------------------------------------------------------------------


def key_findings(s: Study) -> list[str]:
    found = {
        finding_title(s): smooth_finding(s),
        "Best and worst": [best_and_worst(s)],
        "Hypothesis validation": [hypothesis(s)],
        "At equal validation loss": frontier(s) if s.frontiers else [*along_training(s), *confirmed(s)],
        "Accuracy against reproducibility": [trade_off(s)],
        "Integrity and training": [f"- {point}" for point in integrity(s)],
    }
    return [line for title, told in found.items() if told for line in (f"### {title}", "", *told, "")]


def finding_title(s: Study) -> str:
    default = s.question.about_smoothness or not s.question.contrast
    return "Smooth versus non-smooth" if default else f"{labels(s.question.contrast)} against {base(s)}"


def footnote(s: Study) -> list[str]:
    """PD at equal loss along training, where annealed models have it too."""
    return ["### Footnote: equal loss along training", "", *along_training(s)] if s.frontiers else []


def smooth_finding(s: Study) -> list[str]:
    c = s.contrast
    kinds = {True: "Smooth (differentiable everywhere)", False: "With a kink", None: "Not known"}
    groups = {words: [n for n in s.fit if smooth(n) is kind] for kind, words in kinds.items()}
    text = " ".join(f"{words}: {labels(names)}." for words, names in groups.items() if names)
    if not any(groups[words] for kind, words in kinds.items() if kind is not None):
        text = ""
    means = [s.pd[n] for n in s.question.contrast if n in s.fit and s.pd[n] is not None]
    if means and s.pd.get(s.question.baseline) is not None and s.question.baseline in s.fit:
        below = sum(pd < s.pd[s.question.baseline] for pd in means)
        noun = "smooth activation" if s.question.about_smoothness else s.question.arm
        text += (
            f" The mean PD of {below} of {counted(len(means), noun)} lies below that of {base(s)}; means, not a test."
        )
    if c.left_out:
        text += f" Left out of the contrast because they have too few trials: {labels(c.left_out)}."
    rows = []
    for what, quantity in (("final models", "PD"), ("at equal validation loss", "Matched_PD")):
        test = c.tests.get(quantity)
        if c.tested(quantity):
            kind = s.headline_kind(quantity)
            rows.append([what, effect(test), flagged(c.p_holm[quantity]), effect_size(test), str(min(test.n)), kind])
    if not rows:
        return [text] if text else []
    how = "seed by seed" if c.paired else "not paired"
    who = "the smooth activations" if s.question.about_smoothness else labels(c.names)
    return [
        f"{text} The planned contrast, mean ln PD of {who} against {base(s)}, {how}:",
        *table(["Contrast", "Change of PD [95 %]", "p, adjusted", "Hedges' g [95 %]", "n", "Verdict"], rows),
    ]


def hypothesis(s: Study) -> str:
    """What became of the hypothesis, by what answers the question."""
    who = (
        "smooth activations have"
        if s.question.about_smoothness
        else f"{labels(s.question.contrast or s.question.others)} have"
    )
    said = f"That {who} a lower mean PD than {base(s)}: "
    h = s.headline
    if h is None:
        lower, higher = (s.against_reference("PD", kind) for kind in ("lower", "higher"))
        parts = [
            f"**{word}** for {labels(names)}" for word, names in (("supported", lower), ("refuted", higher)) if names
        ]
        return f"{said}{listed(parts) or '**inconclusive**'}, by the comparisons of section 4."
    if not h.tested("PD"):
        return f"{said}**not tested** ({untested(s)})."
    kind, matched = s.headline_kind("PD"), s.headline_kind("Matched_PD")
    large = f"refuted for differences of {margin(s, 'PD')} or more"
    words = {"lower": "supported", "higher": "refuted", "equal": large}
    by = "the planned contrast above" if s.question.contrast else "the comparison of section 4"
    text = f"{said}**{words.get(kind, 'inconclusive')}**, by {by}."
    if kind == "inconclusive":
        smallest = f"{reduction(h.tests['PD']):.1f} %"
        text += f" It would have found a reduction of {smallest} with 80 % power: a smaller one it can't rule out."
    if kind in ("lower", "higher"):
        if matched == kind:
            text += " The same is shown at equal validation loss."
        elif matched:
            text += " At equal validation loss it is not: how much the models have learnt may explain it."
    return text


def untested(s: Study) -> str:
    """Why what answers the question could not be tested."""
    h = s.headline
    if h is None:
        return "fewer than three trials of an arm leave no spread to test with"
    reason = h.reason if h is s.contrast else h.why_not
    return h.tests["PD"].note if "PD" in h.tests else reason


def best_and_worst(s: Study) -> str:
    parts = []
    for what, quantity, values in (("mean PD", "PD", s.pd), ("mean validation loss", "Loss", s.loss)):
        known = sorted((n for n in s.fit if values[n] is not None), key=lambda n: values[n])
        if len(known) < 2:
            continue
        best, worst = known[0], known[-1]
        said = {
            "lower": "the difference is supported by the test",
            "equal": f"the two are practically equal (±{margin(s, quantity)})",
            "inconclusive": "the test between them is inconclusive, the order may be chance",
        }.get(s.kind(best, worst, quantity), "there is no test between them")
        if same(values[best], values[worst]):
            parts.append(f"All have the same {what}, {fixed(values[best])}.")
            continue
        low, high = (f"{label(n)}, {fixed(values[n])}" for n in (best, worst))
        parts.append(f"Lowest {what}: {low}; highest: {high}; {said}.")
    return " ".join(parts) or "There are not two activations to compare."


def frontier(s: Study) -> list[str]:
    """PD at equal loss of annealed models: the branches, and what the comparisons between them show."""
    ends = [point.ends for point in next(iter(s.frontiers.values()))]
    rows = [
        [label(n)] + [f"{fixed(mean(p.losses.values()), 3)}: {fixed(mean(p.pds.values()))}" for p in points]
        for n in s.by_pd
        if (points := s.frontiers.get(n))
    ]
    losses = [t.loss for t in s.primary if t.loss is not None]
    at = f" (here {span(losses, 4)} nats per token)" if losses else ""
    return [
        "A model that has learnt more is sharper, and sharpness alone moves PD. Here models are compared that have "
        "learnt equally much, each of them trained to the end of the schedule: the branches of the trunk. Mean loss "
        "and mean PD of each branch, by the steps of its models:",
        *table(["Activation", *(f"{n:,} steps" for n in ends)], rows),
        "Each pair of trials has its own line through its branches, along which ln PD is read off linearly in the "
        f"pair's mean loss. Activations are compared at the largest final loss of any of their pairs{at}: nothing is "
        "read beyond the last branch. No schedule stands between them: a difference that shows here is not "
        "owed to how much they have learnt.",
        *confirmed(s),
    ]


def along_training(s: Study) -> list[str]:
    if s.matched.target is None:
        return [
            "Not available: it needs the PD along training of two activations. Where final losses differ, part of a "
            "difference in PD may come from how much the models have learnt."
        ]
    losses = [s.loss[n] for n in s.fit if s.loss[n] is not None]
    own = [] if s.frontiers else [t.loss for t in s.tests if t.loss is not None]
    tested = "; each test reads at that of the activations that it compares, whatever others there are ("
    tested = f"{tested}{span(own, 4)})" if own else ""
    return [
        "A model that has learnt more is sharper, and sharpness alone moves PD. The activations' mean losses end "
        f"{fixed(max(losses) - min(losses), 3)} nats per token apart. Here each pair's PD is read off where its mean "
        f"validation loss, at the probe, first falls to {fixed(s.matched.target)}, the highest final one of any pair "
        f"of these activations{tested}. An activation that learns more slowly gets there later, at a lower learning "
        "rate, and PD falls as the rate does: so neither comparison isolates the activation"
        f"{'.' if s.frontiers else ', and a difference counts as confirmed where both show it.'}",
        *table(
            ["Activation", "Final PD", "PD at equal loss", "Reached at step (mean over pairs)"],
            [
                [label(n), fixed(s.pd[n]), fixed(s.matched.mean(n)), fixed(s.matched.steps.get(n), 0)]
                for n in s.by_pd
                if s.matched.mean(n) is not None
            ],
        ),
    ]


def confirmed(s: Study) -> list[str]:
    """What became, at equal loss, of the differences between the final models."""
    lines = []
    shown = [t for t in s.primary if s.verdict(t, "PD").kind in ("lower", "higher") and t.tested("Matched_PD")]
    same_ones = [t.a for t in shown if t not in s.disagreeing]
    if same_ones:
        lines.append(f"Confirmed at equal loss: {labels(same_ones)}.")
    reversed_ones = [t.a for t in shown if {s.verdict(t, q).kind for q in ("PD", "Matched_PD")} == {"lower", "higher"}]
    if reversed_ones:
        lines.append(
            f"The other way round at equal loss, so that neither settles the question: {labels(reversed_ones)}."
        )
    open_ones = [t.a for t in shown if t.a not in same_ones + reversed_ones]
    if open_ones:
        lines.append(f"Shown on the final models, not at equal loss: {labels(open_ones)}.")
    return lines


def trade_off(s: Study) -> str:
    weighed = [n for n in s.fit if None not in (s.loss[n], s.pd[n])]
    if len(weighed) < 2:
        return "There are not two activations with a loss and a PD to weigh against each other."
    front = listed(f"{label(n)} (loss {fixed(s.loss[n])}, PD {fixed(s.pd[n])})" for n in s.pareto)
    text = f"On the Pareto front of mean validation loss and mean PD: {front}."
    for n in weighed:
        if n not in s.pareto:
            ahead = [o for o in s.pareto if beats((s.loss[o], s.pd[o]), (s.loss[n], s.pd[n]))]
            text += f" {label(n)} is behind {labels(ahead)}."
    (pd, of), (loss, _) = s.differ("PD"), s.differ("Loss")
    if of:
        text += f" These are means; the tests show a difference in PD for {pd}, and in loss for {loss}, of {of} pairs."
    return text


def integrity(s: Study) -> list[str]:
    points = []
    recorded = {n: m.record("audit").get("checks", []) for n, m in s.measured.items()}
    every = [c for listed_checks in recorded.values() for c in listed_checks]
    if every:
        states = [
            f"{sum(c.get('status') == kind for c in every)} {kind}"
            for kind in ("pass", "fail", "caution", "not applicable")
        ]
        names = ", ".join(dict.fromkeys(str(c.get("name")) for c in every))
        points.append(
            f"Audit of {counted(sum(map(bool, recorded.values())), 'activation')}: {', '.join(states)} ({safe(names)})."
        )
    states = ", ".join(f"{check['name']}: {check['status']}" for check in across(s))
    points.append(f"Across activations: {safe(states)}.")
    points += convergence(recorded)
    if not any(m.failed for m in s.measured.values()):
        points.append("No trial diverged.")
    trials = [(n, k, t) for n, m in s.measured.items() for k, t in m.trials.items()]
    points += [
        f"Overfitting: {label(n)} trial {k} was best at step {t.get('best_step')} ({fixed(t.get('best_val_loss'))}), "
        f"and ended at {fixed(last_on_curve(t))}, both at the probe."
        for n, k, t in trials
        if t.get("overfit")
    ]
    if trials and all(t.get("overfit") is False for _, _, t in trials):
        points.append("No trial ended more than a percent above its best validation loss.")
    return points + cautions(s)


def convergence(recorded: dict[str, list[dict]]) -> list[str]:
    """What the audit says about the last part of the curves, in one line where it says it in the same words."""
    told = {}  # the words before the numbers: the numbers of each activation
    for name, listed_checks in recorded.items():
        for check in listed_checks:
            if check.get("name") in ("learning curve", "converged"):
                words, _, numbers = str(check.get("measured", "")).rpartition(": ")
                told.setdefault(words, []).append(f"{label(name)} {safe(numbers)}")
    return [f"Convergence{', ' * bool(words)}{safe(words)}: {'; '.join(of)}." for words, of in told.items()]


# -- 6 Conclusions -----------------------------------------------------------------------------------------------------


def conclusions(s: Study) -> list[str]:
    return [
        "### By context",
        "",
        f"- **Research, reproducibility first.** {for_research(s)}",
        f"- **Production, accuracy and reproducibility alike.** {for_production(s)}",
        f"- **Speed first.** {for_speed(s)}",
        "",
        "### Trade-offs, and when to use which",
        "",
        *when_to_use(s),
    ]


def for_research(s: Study) -> str:
    if not s.detectable:
        return "No recommendation: differences in reproducibility could not be tested."
    if not s.primary:
        shown, of = s.differ("PD")
        there = f"{base(s)} is not among the activations"
        return f"{there}; a difference in PD was shown for {shown} of {counted(of, 'pair')} of them."
    lower, higher = s.against_reference("PD", "lower"), s.against_reference("PD", "higher")
    among = lower or (s.contrast.names if s.question.contrast and s.headline_kind("PD") == "lower" else [])
    apart = [
        f"{label(t.a)} and {label(t.b)}"
        for t in s.tests
        if {t.a, t.b} <= set(among) and s.verdict(t, "PD").kind in ("lower", "higher")
    ]
    choice = f" Among them a difference was shown for {listed(apart)}." if apart else ""
    if len(among) > 1 and not apart:
        choice = " Among them no difference in reproducibility was shown: choose on accuracy and speed."
    if lower:
        text = f"{labels(lower)}: a lower mean PD than that of {base(s)} was shown.{choice}"
        unmatched = [t.a for t in s.disagreeing if t.a in lower and s.verdict(t, "Matched_PD").kind != "lower"]
        if unmatched:
            text += (
                f" At equal loss it was not shown for {labels(unmatched)}: how much they have learnt may explain it."
            )
        costly = [n for n in lower if n in s.against_reference("Loss", "higher")]
        return text + (f" The price is a higher validation loss with {labels(costly)}." if costly else "")
    if among:
        text = (
            f"{labels(among)}, taken together: a lower mean PD than that of {base(s)} was shown for these "
            f"{grouped_noun(s)} as a group, but not for any of them alone.{choice}"
        )
        if s.headline_kind("Matched_PD") not in ("lower", ""):
            text += " At equal loss it was not shown: how much they have learnt may explain it."
        return text
    if higher:
        return (
            f"Choose on accuracy and speed: no lower PD than that of {base(s)} was shown, and a higher PD "
            f"for {labels(higher)}."
        )
    if s.question.contrast and s.headline_kind("PD") == "higher":
        return (
            f"{labels(s.contrast.names)}, taken together: a higher mean PD than that of {base(s)} was shown "
            f"for these {grouped_noun(s)} as a group, but not for any of them alone."
        )
    return "Choose on accuracy and speed: no difference in reproducibility was shown."


def grouped_noun(s: Study) -> str:
    return "smooth activations" if s.question.about_smoothness else s.question.arms_noun


def for_production(s: Study) -> str:
    if not s.detectable or not s.primary:
        return f"Nothing beyond the means of section 2: comparisons with {base(s)} could not be tested."
    told = {"PD": "PD", "Loss": "validation loss"}

    def shown(kind):
        """{activation: the quantities in which it is so}."""
        found = {}
        for quantity, what in told.items():
            for name in s.against_reference(quantity, kind):
                found.setdefault(name, []).append(what)
        return found

    better, worse = shown("lower"), shown("higher")
    gains = [f"{label(n)} (lower {listed(what)})" for n, what in better.items() if n not in worse]
    mixed = [n for n in better if n in worse]
    losing = [f"{label(n)} (higher {listed(what)})" for n, what in worse.items() if n not in better]
    parts = []
    if gains:
        parts.append(f"Shown to improve on {base(s)} without losing elsewhere: {listed(gains)}.")
    if mixed:
        parts.append(f"Better in one of PD and loss and worse in the other: {labels(mixed)}.")
    if not parts:
        parts.append(f"No activation was shown to improve on {base(s)} in PD or in validation loss.")
    if losing:
        parts.append(f"Shown to lose without a gain: {listed(losing)}.")
    return " ".join(parts)


def for_speed(s: Study) -> str:
    point = fastest(s)
    if not point:
        return "Training times single out no activation."
    return point[0].replace("**", "") + " Times hold for this machine and these implementations."


def when_to_use(s: Study) -> list[str]:
    """Each activation in one group, by what was shown against ReLU."""
    if not any(t.tested(q) for t in s.primary for q in QUANTITIES):
        return [f"Without tests against {base(s)} there is nothing to add to the means of section 2."]
    groups: dict[str, list[str]] = {}
    for t in s.primary:
        pd, loss = s.verdict(t, "PD").kind, s.verdict(t, "Loss").kind
        gains = [what for what, kind in (("PD", pd), ("loss", loss)) if kind == "lower"]
        losses = [what for what, kind in (("PD", pd), ("loss", loss)) if kind == "higher"]
        if gains and losses:
            advice = f"lower {gains[0]} for higher {losses[0]}: a matter of priorities"
        elif gains:
            advice = f"lower {listed(gains)} than {base(s)} and nothing shown against it: the choice for that"
        elif losses:
            advice = f"higher {listed(losses)} than {base(s)} and nothing gained: use another"
        elif pd == loss == "equal":
            advice = f"practically equal to {base(s)} in PD and loss: either will do"
        elif pd == "equal":
            advice = f"as reproducible as {base(s)} (±{margin(s, 'PD')}), undecided in loss"
        else:
            advice = "nothing shown for or against: these trials don't decide"
        groups.setdefault(advice, []).append(timed(s, t.a))
    return [
        *(f"- {listed(names)}: {advice}." for advice, names in groups.items()),
        "",
        f"In brackets: median training time against {base(s)}, not tested. All this holds for this model, "
        "text and length of training; whether it carries over to others is not known.",
    ]


def timed(s: Study, name: str) -> str:
    time, base = s.time[name], s.time[s.question.baseline]
    return label(name) + (f" ({signed(100 * (time / base - 1))} %)" if time and base else "")


# -- 7 Future Work -----------------------------------------------------------------------------------------------------


def future_work(s: Study) -> list[str]:
    points = []
    if any(m.audit.startswith("failed") for m in s.measured.values()) or failed_checks(across(s)):
        points.append("**Repair first**: find out why checks failed; until then those numbers are no evidence.")
    if any(m.failed for m in s.measured.values()):
        points.append("**Divergence**: train again with a lower learning rate, all activations alike.")
    few = [n for n, m in s.fit.items() if len(m.pd_ids) < 3]
    tests, needed, _, _ = undecided(s)
    if few:
        points.append(f"**More trials**: a test needs at least three of each; fewer have a PD of {labels(few)}.")
    elif tests:
        about = f" (about {needed} of each, see section 4)" if needed else ""
        points.append(
            f"**More trials**{about} for {counted(len(tests), 'undecided comparison')} of PD: "
            f"{labels(t.a for t in tests)}. Add them by `train.py --until-decided`, not by testing again and again."
        )
    missing = [n for n in activations.STUDY if n not in s.measured]
    if missing and s.question.about_smoothness:
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
