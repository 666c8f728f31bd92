"""Sections 5 to 7 of the report: findings, conclusions by context, and what to do next."""

from __future__ import annotations

import math

import activations
import significance
from analysis.facts import MARGINS, Facts, effect, effect_size, failed_checks, tested, verdict_cell
from analysis.markdown import DASH, counted, duration, fixed, label, labels, listed, p_value, safe, signed, table
from analyze_results import QUANTITIES, REFERENCE, extra_hours


def key_findings(s: Facts) -> list[str]:
    word, why = s.hypothesis
    return [
        "### Smooth versus non-smooth",
        "",
        *smooth_finding(s),
        "",
        "### Best and worst",
        "",
        best_and_worst(s),
        "",
        "### Hypothesis validation",
        "",
        f"That smooth activations have a lower mean PD than {label(REFERENCE)}: **{word}**. {why}",
        "",
        "### At equal validation loss",
        "",
        *equal_loss(s),
        "",
        "### Accuracy against reproducibility",
        "",
        trade_off(s),
        "",
        "### Integrity and training",
        "",
        *(f"- {point}" for point in integrity(s)),
    ]


def smooth_finding(s: Facts) -> list[str]:
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
        if tested(test):
            kind = significance.verdict(test, test.p).kind
            rows.append([what, effect(test), p_value(test.p), effect_size(test), str(min(test.n)), kind])
    if not rows:
        return [text]
    how = "seed by seed" if c.paired else "not paired"
    return [
        f"{text} The planned contrast, mean ln PD of the smooth activations against {label(REFERENCE)}, {how}:",
        *table(["Contrast", "Change of PD [95 %]", "p", "Hedges g [95 %]", "n", "Verdict"], rows),
    ]


def best_and_worst(s: Facts) -> str:
    parts = []
    for what, quantity, values, write in (
        ("mean PD", "PD", s.pd, s.pd_text),
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
        }.get(s.said_of(best, worst, quantity), "there is no test between them")
        ends = f"Lowest {what}: {label(best)}, {write(best)}; highest: {label(worst)}, {write(worst)}"
        if math.isclose(values[best], values[worst], rel_tol=1e-12):
            parts.append(f"All have the same {what}, {write(best)}.")
        else:
            parts.append(f"{ends}; {said}.")
    return " ".join(parts) or "There are not two activations to compare."


def equal_loss(s: Facts) -> list[str]:
    if s.matched.target is None:
        return [
            "Not available: it needs the PD along training of two activations. Where final losses differ, part of a "
            "difference in PD may come from how far the models have learnt."
        ]
    losses = [s.loss[n] for n in s.fit if s.loss[n] is not None]
    lines = [
        "A model that has learnt more is sharper, and sharpness alone moves PD. The activations' mean losses end "
        f"{fixed(max(losses) - min(losses), 3)} nats per token apart, so final PDs compare models that have come "
        f"differently far. Here each pair's PD is read off where its mean validation loss first falls to "
        f"{fixed(s.matched.target)}, the highest final loss of any pair, which all reach. That compares models that "
        "have learnt equally much, but not at the same point of the learning-rate schedule: an activation that learns "
        "more slowly gets there later, at a lower rate, and PD falls as the rate does. So neither comparison isolates "
        "the activation; a difference that both show is owed neither to how far the models are nor to when they got "
        "there. Fewer positions, and interpolation between evaluations, are a further price.",
        *table(
            ["Activation", "Final PD", "PD at equal loss", "Reached at step (mean over pairs)"],
            [
                [label(n), fixed(s.pd[n]), fixed(s.matched.mean(n)), fixed(s.matched.steps.get(n), 0)]
                for n in s.by_pd
                if s.matched.mean(n) is not None
            ],
        ),
    ]
    for t in s.differing:
        lines.append(
            f"- {label(t.a)} against {label(t.b)}: {verdict_cell(t, 'PD')} on the final models "
            f"({effect(t.tests['PD'])}), {verdict_cell(t, 'Matched_PD')} at equal loss "
            f"({effect(t.tests['Matched_PD'])})."
        )
    if s.differing:
        lines += [
            "",
            "Where the two disagree, neither settles the question: what the final models show may come from how far "
            "they have learnt, and what shows at equal loss from the point of the schedule at which it was reached.",
        ]
    elif any(tested(t.tests["Matched_PD"]) for t in s.primary):
        lines.append(f"Against {label(REFERENCE)} the verdicts are the same as on the final models.")
    return lines


def trade_off(s: Facts) -> str:
    weighed = [n for n in s.fit if None not in (s.loss[n], s.pd[n])]
    if len(weighed) < 2:
        return "There are not two activations with a loss and a PD to weigh against each other."
    front = listed(f"{label(n)} (loss {fixed(s.loss[n])}, PD {fixed(s.pd[n])})" for n in s.pareto)
    text = f"On the Pareto front of mean validation loss and mean PD: {front}."
    for n in weighed:
        if n not in s.pareto:
            ahead = [o for o in s.pareto if s.loss[o] <= s.loss[n] and s.pd[o] <= s.pd[n]]
            text += f" {label(n)} is behind {labels(ahead)}."
    (pd, of), (loss, _) = s.shown("PD"), s.shown("Loss")
    if of:
        text += f" These are means; the tests show a difference in PD for {pd}, and in loss for {loss}, of {of} pairs."
    return text


def integrity(s: Facts) -> list[str]:
    points = []
    checks = {n: m.record("audit").get("checks", []) for n, m in s.studied.items()}
    every = [c for listed_checks in checks.values() for c in listed_checks]
    if every:
        states = [
            f"{sum(c.get('status') == kind for c in every)} {kind}" for kind in ("pass", "fail", "not applicable")
        ]
        names = ", ".join(dict.fromkeys(str(c.get("name")) for c in every))
        points.append(
            f"Audit of {counted(sum(map(bool, checks.values())), 'activation')}: {', '.join(states)} ({safe(names)})."
        )
    across = ", ".join(f"{check['name']}: {check['status']}" for check in s.across)
    points.append(f"Across activations: {safe(across)}.")
    points += [
        f"Convergence of {label(n)}: {safe(c.get('measured', ''))}."
        for n, listed_checks in checks.items()
        for c in listed_checks
        if c.get("name") == "converged"
    ]
    failed = {n: m for n, m in s.studied.items() if m.failed}
    points += [
        f"{label(n)}: {len(m.failed)} of {counted(len(m.planned), 'trial')} diverged or without a finite loss."
        for n, m in failed.items()
    ] or ["No trial diverged."]
    trials = [(n, k, t) for n, m in s.studied.items() for k, t in m.trials.items()]
    points += [
        f"Overfitting: {label(n)} trial {k} was best at step {t.get('best_step')} ({fixed(t.get('best_val_loss'))}), "
        f"and ended at {fixed(t['val_loss'])}."
        for n, k, t in trials
        if t.get("overfit")
    ]
    if trials and all(t.get("overfit") is False for _, _, t in trials):
        points.append("No trial ended more than a percent above its best validation loss.")
    return points


def conclusions(s: Facts) -> list[str]:
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


def for_research(s: Facts) -> str:
    if not s.detectable:
        return "No recommendation: differences in reproducibility could not be tested."
    if not s.primary:
        shown, of = s.shown("PD")
        there = f"{label(REFERENCE)} is not among the activations"
        return f"{there}; a difference in PD was shown for {shown} of {counted(of, 'pair')} of them."
    lower, higher = s.planned("PD", "lower"), s.planned("PD", "higher")
    among = lower or (s.contrast.smooth if s.contrast_kind("PD") == "lower" else [])
    apart = [
        f"{label(t.a)} and {label(t.b)}"
        for t in s.tests
        if {t.a, t.b} <= set(among) and s.said(t, "PD") in ("lower", "higher")
    ]
    choice = f" Among them a difference was shown for {listed(apart)}." if apart else ""
    if len(among) > 1 and not apart:
        choice = " Among them no difference in reproducibility was shown: choose on accuracy and speed."
    if lower:
        text = f"{labels(lower)}: a lower mean PD than that of {label(REFERENCE)} was shown.{choice}"
        unmatched = [t.a for t in s.differing if t.a in lower and s.said(t, "Matched_PD") != "lower"]
        if unmatched:
            text += (
                f" At equal loss it was not shown for {labels(unmatched)}: it may come from how far they have learnt."
            )
        costly = [n for n in lower if n in s.planned("Loss", "higher")]
        return text + (f" The price is a higher validation loss with {labels(costly)}." if costly else "")
    if among:
        text = (
            f"{labels(among)}, taken together: a lower mean PD than that of {label(REFERENCE)} was shown for these "
            f"smooth activations as a group, but not for any of them alone.{choice}"
        )
        unmatched = s.contrast_kind("Matched_PD") not in ("lower", "")
        return text + (
            " At equal loss it was not shown: it may come from how far they have learnt." if unmatched else ""
        )
    text = "Choose on accuracy and speed: "
    if higher:
        text += f"no lower PD than that of {label(REFERENCE)} was shown, and a higher one for {labels(higher)}."
    else:
        equal = s.planned("PD", "equal")
        text += "no difference in reproducibility was shown"
        text += f"; practically equal to {label(REFERENCE)} (±5 %): {labels(equal)}." if equal else "."
    undecided = s.planned("PD", "inconclusive")
    return text + (f" Undecided, for want of trials: {labels(undecided)}." if undecided else "")


def for_production(s: Facts) -> str:
    if not s.detectable or not s.primary:
        return f"Nothing beyond the means of section 2: comparisons with {label(REFERENCE)} could not be tested."
    better = {"PD": s.planned("PD", "lower"), "validation loss": s.planned("Loss", "lower")}
    worse = set(s.planned("PD", "higher") + s.planned("Loss", "higher"))
    names = dict.fromkeys(better["PD"] + better["validation loss"])
    gains = [
        f"{label(n)} (lower {listed(what for what, lower in better.items() if n in lower)})"
        for n in names
        if n not in worse
    ]
    mixed, losing = [n for n in names if n in worse], [n for n in s.studied if n in worse and n not in names]
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


def for_speed(s: Facts) -> str:
    point = s.fastest()
    if not point:
        return "Training times single out no activation."
    return point[0].replace("**", "") + " Times hold for this machine and these implementations."


def when_to_use(s: Facts) -> list[str]:
    if not s.primary:
        return [f"Without tests against {label(REFERENCE)} there is nothing to add to the means of section 2."]
    rows = []
    for t in s.primary:
        time, base = s.time[t.a], s.time[REFERENCE]
        rows.append(
            [
                label(t.a),
                *(verdict_cell(t, quantity) for quantity in QUANTITIES),
                f"{signed(100 * (time / base - 1))} %" if time and base else DASH,
                "yes" if t.a in s.pareto else "no",
            ]
        )
    header = [f"Against {label(REFERENCE)}", "PD", "PD at equal loss", "Validation loss", "Time (not tested)"]
    return [
        "What was shown for each activation; *inconclusive* is no reason for it, nor one against it.",
        *table([*header, "On the front of means"], rows),
        "All this holds for this model, text and length of training. Nothing here says that it carries over to others.",
    ]


def future_work(s: Facts) -> list[str]:
    points = []
    if any(m.audit.startswith("failed") for m in s.studied.values()) or failed_checks(s.across):
        points.append("**Repair first**: find out why checks failed; until then those numbers are no evidence.")
    if any(m.failed for m in s.studied.values()):
        points.append("**Divergence**: train again with a lower learning rate, all activations alike.")
    points += more_trials(s)
    missing = [n for n in activations.STUDY if n not in s.studied]
    if missing:
        points.append(f"**Completeness**: of the study's five activations these are missing: {labels(missing)}.")
    if any(t.get("overfit") for m in s.studied.values() for t in m.trials.values()):
        points.append("**Overfitting**: train shorter or with more dropout, all activations alike.")
    config = next((m.record("config") for m in s.studied.values() if m.record("config")), {})
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


def more_trials(s: Facts) -> list[str]:
    few = [n for n, m in s.fit.items() if len(m.pd_ids) < 3]
    if few:
        return [f"**More trials**: a test needs at least three of each activation; fewer have a PD of {labels(few)}."]
    compared = [t for t in s.primary or s.tests if tested(t.tests["PD"])]
    undecided = [t for t in compared if s.said(t, "PD") == "inconclusive"]
    plans = [significance.plan_trials(t.tests["PD"], -math.log(0.95)) for t in undecided]
    if not plans or any(None in plan for plan in plans):
        return []
    needed, low, high = (f(plan[i] for plan in plans) for i, f in enumerate((max, min, max)))
    hours = extra_hours(list(s.fit.values()), needed)
    cost = f", {duration(hours)} more of training one after another" if hours else ""
    return [
        f"**More trials**: the tests leave {counted(len(undecided), 'comparison')} of PD undecided. To see a "
        f"difference of 5 % there takes about {needed} trials per activation (range {low} to {high}){cost}; "
        "`train.py --trials N` adds them to those that are there."
    ]
