"""What sections 2 to 7 of the report (templates/report.md) say of a study, in its order: tables, and the sentences that
are chosen by its numbers. The first section is in summary.py, the words for verdicts in phrases.py.

A sentence says no more than the tests allow; "inconclusive" is a result. How numbers and tables are written is in
markdown.py, the numbers are those of study.py.
"""

from __future__ import annotations

import math
import re

import activations
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
    tabled,
    trials_planned,
)
from analysis.phrases import (
    NAMES,
    advice,
    at_equal_loss,
    base,
    choice,
    influence,
    margin,
    standing,
    together,
    verdict_cell,
    what_varies,
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
    Tested,
    beats,
    reduction,
)
from measures.table import BY_KEY, METRICS
from significance import same
from storage import number

SLOPES = re.compile(r"[+-]?\d+\.\d+(, [+-]?\d+\.\d+)*")  # the numbers of a check of the learning curve
FEW = 5  # trials, below which intervals are themselves rough


# -- said in several sections ------------------------------------------------------------------------------------------


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
        "Adding trials until a test is significant is not paid for: each further look is one more chance to err. "
        f"{s.command('--until-decided')} pays for its looks; `--trials N` is sound where N was chosen beforehand."
    )


def failed_checks(checks: list[dict], status: str = "fail") -> list[str]:
    return [
        f"*{safe(c.get('name', ''))}*: {safe(c.get('measured', ''))}; needed: {safe(c.get('threshold', ''))}."
        for c in checks
        if c.get("status") == status
    ]


def cautions(s: Study) -> list[str]:
    """What a reader must know before believing the numbers."""
    concerned: dict[str, list[str]] = {}  # what is the matter: with which activations

    def note(name, text):
        concerned.setdefault(text, []).append(name)

    for name, m in s.measured.items():
        for check in failed_checks(m.record("audit").get("checks", [])):
            note(name, f"failed the audit; kept out of rankings and tests. {check}")
        on_record = [c.get("name") for c in m.record("audit").get("checks", []) if c.get("status") == "fail"]
        for check, copies in m.not_distinct.items():
            if check not in on_record:
                note(name, f"kept out of rankings and tests, whatever the audit on record says: {safe(copies)}")
        for check in failed_checks(m.record("audit").get("checks", []), "caution"):
            note(name, check)
        if m.audit == "not recorded":
            note(name, "no audit is on record")
        if left_out := m.results.get("left_out"):
            note(name, f"left out of its results file, as results.schema.json says: {safe('; '.join(left_out))}")
        if not m.results.get("fingerprint"):
            note(name, "no settings are on record, so whether this is comparable can't be checked")
        for trial, record in m.failed.items():
            step = record.diverged_at_step
            end = "has no finite validation loss" if step is None else f"diverged at step {step:g}"
            note(name, f"trial {trial} {end}; it is in no average and no test")
        over = listed(str(k) for k, t in m.trials.items() if t.overfit)
        if over:
            note(name, f"trial {over} ended above its best validation loss (overfitting)")
        if not m.trials:
            note(name, "no trial finished")
        elif len(m.trials) == 1:
            note(name, "one trial finished, so there is no PD and no spread")
        elif len(m.pd_ids) < len(m.trials):
            used = listed(map(str, m.pd_ids)) or DASH
            note(name, f"some pairs of trials have no PD on record; the mean is over trials {used}")
    lines = [f"{labels(names)}: {text.rstrip('.')}." for text, names in concerned.items()]
    for status in ("fail", "caution"):
        lines += [f"Across {s.question.arms_noun}: {check}" for check in failed_checks(s.checks, status)]
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


def detailed_results(s: Study) -> dict:
    measured = [s.measured[n] for n in s.by_pd]
    columns, trials = {capital(s.question.arm): [label(m.name) for m in measured]}, ""
    counts = {len(m.trials) for m in measured}
    if len(counts) > 1:
        columns["Trials"] = [str(len(m.trials)) for m in measured]
    else:
        trials = f" of {counted(counts.pop(), 'trial')}"
    for key, digits in DETAILED.items():
        values = [m.values(BY_KEY[key]) for m in measured]
        columns[capital(BY_KEY[key].heading)] = [plus_minus(mean(x), std(x), digits) for x in values]
        if key == "relative_pd":
            columns["PD, 95 % interval"] = [interval(m) for m in measured]
    if {m.audit for m in measured} != {"passed"}:
        columns["Audit"] = [m.audit.partition(" (")[0] for m in measured]
    return {
        "trials": trials,
        "few": any(3 <= len(m.pd_ids) < FEW for m in measured),
        "table": tabled(columns, zip(*columns.values(), strict=True)),
        "noise": noise_floor(s),
        "further": further_measures(s),
    }


def interval(m: Measured) -> str:
    _, low, high = m.pd_interval
    return DASH if low is None else f"[{fixed(low)}, {fixed(high)}]"


def further_measures(s: Study) -> str:
    """Every other metric: a row each."""
    rows = {}
    for metric in METRICS:
        if metric.column and metric.key not in (*DETAILED, "best_val_loss"):
            values = [s.measured[n].average(metric) for n in s.by_pd]
            rows[capital(metric.heading)] = [fixed(x, {"%": 2, "positions": 1}.get(metric.unit, 4)) for x in values]
    parameters = [fixed(number(s.measured[n].results.get("parameters"))) for n in s.by_pd]
    rows |= {"Parameters": parameters} if len(set(parameters)) > 1 else {}
    header = ["Mean over pairs or trials", *map(label, s.by_pd)]
    return tabled(header, ([metric, *row] for metric, row in rows.items() if set(row) != {DASH}))


def noise_floor(s: Study) -> dict:
    """What a trial differs from itself, and how much the choice of positions moves a PD."""
    floors = {n: m.results.get("self_prediction_difference") for n, m in s.measured.items()}
    errors = {n: mean(m.pair_values("relative_pd_se")) for n, m in s.measured.items() if s.pd[n]}
    errors = {n: se for n, se in errors.items() if se is not None}
    return {
        "wrong": listed(f"{label(n)} ({x:.2g})" for n, x in floors.items() if x),
        "zero": any(x is not None for x in floors.values()),
        "errors": span(errors.values(), 5) if errors else "",
        "shares": span((100 * se / s.pd[n] for n, se in errors.items()), 1, " %") if errors else "",
    }


# -- 3 Rankings by Use Case --------------------------------------------------------------------------------------------


def rankings(s: Study) -> dict:
    ranked = {use: s.rank(weights) for use, weights in WEIGHTINGS.items()}
    excluded = {name: reason for r in ranked.values() for name, reason in r.excluded.items()}
    cells: dict[str, dict[str, str]] = {}
    for use, weights in WEIGHTINGS.items():
        ranges = s.rank_ranges(weights) if ranked[use].rows else {}
        for row in ranked[use].rows:
            name, rank = row["Activation"], row["Rank"]
            low, high = ranges.get(name, (rank, rank))
            moved = "" if low == high == rank else f", {low}{DASH}{high}"
            cells.setdefault(name, {})[use] = f"{rank} ({row['Score']:.2f}{moved})"
    header = [f"{capital(u)}, {'/'.join(f'{100 * w:.0f}' for w in ws.values())}" for u, ws in WEIGHTINGS.items()]
    rows = ([label(n), *(c.get(u, DASH) for u in WEIGHTINGS)] for n, c in cells.items())
    return {
        "table": tabled([capital(s.question.arm), *header], rows),
        "fastest": fastest(s),
        "excluded": [f"{label(n)}: {safe(reason)}" for n, reason in excluded.items()],
    }


def fastest(s: Study) -> dict:
    best, others = s.lowest(s.time)
    if len(best) != 1 or not others:
        return {}
    times = {n: [t.training_time for t in m.trials.values() if t.training_time] for n, m in s.fit.items()}
    return {
        "name": label(best[0]),
        "time": fixed(s.time[best[0]], 1),
        "others": span((s.time[n] for n in others), 1, " s"),
        "overlapping": labels(n for n in others if min(times[n]) <= max(times[best[0]])),
    }


# -- 4 Statistical Significance ----------------------------------------------------------------------------------------


def statistical_significance(s: Study) -> dict | None:
    """None where nothing could be compared."""
    if not any(t.tests for t in s.tests):
        return None
    losses = [t.loss for t in s.primary if t.loss is not None]
    return {
        "designs": {t.paired for t in s.tests if not t.unfit},
        "moderated": any(c.prior_df for t in s.tests for c in t.tests.values()),
        "order": the_order(s),
        "planned": planned_table(s),
        "equal_loss": span(losses, 4) if losses else "",
        "influence": hanging(s),
        "others": other_pairs(s),
        "reach": reach(s),
        "looks": looks(s),
        **tests_appendix(s),
        "bootstrap": second_opinion(s),
        "naive": uncalibrated(s),
    }


def uncompared(s: Study) -> list[str]:
    return [f"{label(t.a)} and {label(t.b)}: {verdict_cell(s, t, 'PD')}" for t in s.tests]


def the_order(s: Study) -> str:
    """Which claims share an error rate; '' of a single comparison."""
    if len(s.tests) < 2:
        return ""
    others = [t for t in s.tests if t not in s.primary and not t.unfit]
    if not s.primary:
        steps = [f"all {counted(len(others), 'pair')} (Holm's correction)", "the same at equal validation loss"]
    else:
        comparisons = f"{len(s.primary)} comparisons, Holm's correction" if len(s.primary) > 1 else "one comparison"
        steps = [f"each {s.question.arm} against {base(s)} ({comparisons})"]
        if s.question.contrast:
            steps.append(
                f"{together(s)}, the planned contrast (if any of step 1 is shown, or alone at half the level, p < "
                f"{ALPHA / 2})"
            )
        steps += ["the same at equal validation loss, each where it is shown on the final models"] * bool(s.frontiers)
        steps += [f"the other {counted(len(others), 'pair')}, if any of step 1 is shown"] * bool(others)
    return "; ".join(f"({i}) {step}" for i, step in enumerate(steps, 1))


COLUMNS = {"PD": ("Change of PD [95 %]", "p", "PD"), "Matched_PD": ("At equal loss [95 %]", "p, equal", "PD, equal")}
COLUMNS["Loss"] = ("Loss [95 %]", "p, loss", "Loss verdict")


def compared(s: Study) -> dict[str, Tested]:
    """Every planned comparison and the contrast, by what stands before its row."""
    rows: dict[str, Tested] = {label(t.a): t for t in s.primary}
    if s.primary and s.question.contrast and s.contrast.tests:
        rows[f"*{capital(together(s))}*"] = s.contrast
    return rows


def planned_table(s: Study) -> str:
    rows = compared(s)
    quantities = [q for q in QUANTITIES if any(q in t.tests for t in rows.values())]
    header = [capital(s.question.arm), *(column for q in quantities for column in COLUMNS[q])]
    return tabled(header, ([name, *(cell for q in quantities for cell in cells(s, t, q))] for name, t in rows.items()))


def cells(s: Study, t: Tested, quantity: str) -> list[str]:
    """Difference, adjusted p and verdict."""
    if quantity not in t.tests:
        return [DASH, DASH, verdict_cell(s, t, quantity) if isinstance(t, PairTests) else DASH]
    adjusted = flagged(t.p_holm[quantity]) if t.tested(quantity) else DASH
    return [effect(t.tests[quantity]), adjusted, verdict_cell(s, t, quantity)]


def hanging(s: Study) -> dict:
    """How far the answer hangs on one trial, where it does."""
    most = influence(s)
    if most is None or not most.notable:
        return {}
    change, low, high = (signed(100 * (x - 1)) for x in (most.without.effect, *map(math.exp, (most.low, most.high))))
    return {"change": change, "low": low, "high": high, "trial": most.trial, "decisive": most.decisive}


def other_pairs(s: Study) -> str:
    rows = (
        [f"{label(t.a)} against {label(t.b)}", *cells(s, t, "PD"), *cells(s, t, "Loss")]
        for t in s.tests
        if t not in s.primary
    )
    return tabled(["Pair", *COLUMNS["PD"], *COLUMNS["Loss"]], rows)


def reach(s: Study) -> str:
    rows = (
        [
            f"{label(t.a)} against {label(t.b)}",
            f"{smallest:.1f} %",
            *(trials_planned(*s.trials_needed(t, percent)) for percent in REDUCTIONS),
        ]
        for t, smallest in s.detectable.items()
    )
    sizes = [f"for {percent:g} %" for percent in REDUCTIONS]
    return tabled(["Comparison", "Smallest detectable reduction", f"Trials {sizes[0]}", *sizes[1:]], rows)


def tests_appendix(s: Study) -> dict[str, str]:
    tested = {name: t for name, t in compared(s).items() if any(map(t.tested, QUANTITIES))}
    quantities = [q for q in QUANTITIES if any(t.tested(q) for t in tested.values())]
    tests = [t.tests[q] for t in tested.values() for q in quantities if t.tested(q)]
    if not tests:
        return {"effects": ""}
    header = [f"Against {base(s)}", *(capital(NAMES[q]) for q in quantities)]
    return {
        "effects": tabled(header, ([name, *(test_cell(t, q) for q in quantities)] for name, t in tested.items())),
        "n": span({n for test in tests for n in test.n}, 0),
        "kinds": listed(dict.fromkeys(test.kind for test in tests)),
    }


def test_cell(t, quantity: str) -> str:
    if not t.tested(quantity):
        return DASH
    test = t.tests[quantity]
    numbers = f"{fixed(test.t, 2)} ({test.df:.3g}); {p_value(test.p)}; {p_value(test.p_plain)}"
    return f"{numbers}; {effect_size(test)}"


def second_opinion(s: Study) -> str:
    """A bootstrap over trials and positions, where there are enough trials for it."""
    # with fewer than five it finds differences in 21 to 45 % of cases without any
    if not s.detectable or min(min(t.tests["PD"].n) for t in s.detectable) < FEW:
        return ""
    rows = (
        [
            f"{label(t.a)} against {label(t.b)}",
            f"{signed(100 * (b.ratio - 1))} % [{signed(100 * (b.low - 1))}, {signed(100 * (b.high - 1))}]",
            f"{100 * b.se_trials:.2f} %",
            f"{100 * b.se_positions:.2f} %",
        ]
        for t in s.detectable
        if (b := s.bootstrap(t)) is not None
    )
    return tabled(["Comparison", "Change of mean PD [95 %]", "Standard error over trials", "over positions"], rows)


def uncalibrated(s: Study) -> str:
    naive = [t.naive_p for t in s.tests if t.naive_p is not None]
    return f"{sum(p < ALPHA for p in naive)} of {counted(len(naive), 'difference')}" if naive else ""


# -- 5 Key Findings ----------------------------------------------------------------------------------------------------


def key_findings(s: Study) -> dict:
    return {
        "title": finding_title(s),
        "groups": smooth_finding(s),
        "best": best_and_worst(s),
        "supported": labels(s.against_baseline("PD", "lower")),
        "refuted": labels(s.against_baseline("PD", "higher")),
        "found": f"{reduction(s.headline.tests['PD']):.1f} %" if s.headline_kind("PD") == "inconclusive" else "",
        "frontier": frontier(s),
        "confirmed": confirmed(s),
        "pareto": trade_off(s),
        "integrity": integrity(s),
    }


def finding_title(s: Study) -> str:
    default = s.question.about_smoothness or not s.question.contrast
    return "Smooth versus non-smooth" if default else f"{capital(together(s))} against {base(s)}"


def smooth_finding(s: Study) -> list[str]:
    baseline = s.question.baseline
    kinds = {True: "Smooth (differentiable everywhere)", False: "With a kink", None: "Not known"}
    groups = {kind: [n for n in s.fit if smooth(n) is kind] for kind in kinds}
    lines = [f"{words}: {labels(groups[kind])}." for kind, words in kinds.items() if groups[kind]]
    lines = lines if groups[True] or groups[False] else []
    means = [s.pd[n] for n in s.question.contrast if n in s.fit and s.pd[n] is not None]
    if means and baseline in s.fit and s.pd[baseline] is not None:
        below = sum(pd < s.pd[baseline] for pd in means)
        noun = "smooth activation" if s.question.about_smoothness else s.question.arm
        lines.append(f"The mean PD of {below} of {counted(len(means), noun)} lies below that of {base(s)}.")
    if s.contrast.left_out:
        lines.append(f"Left out of the contrast because they have too few trials: {labels(s.contrast.left_out)}.")
    return lines


def best_and_worst(s: Study) -> str:
    parts = []
    for title, quantity, values in (("mean PD", "PD", s.pd), ("mean validation loss", "Loss", s.loss)):
        in_order = sorted((n for n in s.fit if values[n] is not None), key=lambda n: values[n])
        if len(in_order) < 2:
            continue
        best, worst = in_order[0], in_order[-1]
        said = {
            "lower": "the difference is supported by the test",
            "equal": f"the two are practically equal (±{margin(s, quantity)})",
            "inconclusive": "the test between them is inconclusive, the order may be chance",
        }.get(s.kind(best, worst, quantity), "there is no test between them")
        if same(values[best], values[worst]):
            parts.append(f"All have the same {title}, {fixed(values[best])}.")
            continue
        low, high = (f"{label(n)}, {fixed(values[n])}" for n in (best, worst))
        parts.append(f"Lowest {title}: {low}; highest: {high}; {said}.")
    return " ".join(parts) or f"There are not two {s.question.arms_noun} to compare."


def frontier(s: Study) -> str:
    """Mean loss and mean PD of each branch."""
    if not s.frontiers:
        return ""
    ends = [point.ends for point in next(iter(s.frontiers.values()))]
    rows = (
        [label(n)] + [f"{fixed(mean(p.losses.values()), 3)}: {fixed(mean(p.pds.values()))}" for p in points]
        for n in s.by_pd
        if (points := s.frontiers.get(n))
    )
    return tabled([capital(s.question.arm), *(f"{n:,} steps" for n in ends)], rows)


def confirmed(s: Study) -> dict[str, str]:
    """What became, at equal loss, of the differences between the final models: {kind: arms}."""
    kinds = {t.a: at_equal_loss(s, t) for t in s.primary if s.verdict(t, "PD").kind in ("lower", "higher")}
    return {kind: labels(n for n, of in kinds.items() if of == kind) for kind in ("shown", "reversed", "not shown")}


def trade_off(s: Study) -> str:
    weighed = [n for n in s.fit if None not in (s.loss[n], s.pd[n])]
    if len(weighed) < 2:
        return f"There are not two {s.question.arms_noun} with a loss and a PD to weigh against each other."
    text = f"On the Pareto front of mean validation loss and mean PD: {labels(s.pareto)}."
    behind: dict[str, list[str]] = {}
    for n in weighed:
        if n not in s.pareto:
            ahead = [o for o in s.pareto if beats((s.loss[o], s.pd[o]), (s.loss[n], s.pd[n]))]
            behind.setdefault(labels(ahead), []).append(n)
    text += "".join(f" Behind {ahead}: {labels(names)}." for ahead, names in behind.items())
    (pd, of), (loss, _) = s.differ("PD"), s.differ("Loss")
    if of:
        text += f" These are means; the tests show a difference in PD for {pd}, and in loss for {loss}, of {of} pairs."
    return text


def integrity(s: Study) -> list[str]:
    points = []
    recorded = {n: m.record("audit").get("checks", []) for n, m in s.measured.items()}
    every = [c for listed_checks in recorded.values() for c in listed_checks]
    if every:
        kinds = ("pass", "fail", "caution", "not applicable")
        states = {kind: sum(c.get("status") == kind for c in every) for kind in kinds}
        counts = ", ".join(f"{n} {kind}" for kind, n in states.items() if n)
        audited = counted(sum(map(bool, recorded.values())), s.question.arm)
        points.append(f"Audit of {audited}, {counted(len(every), 'check')}: {counts}.")
    odd = [f"{check['name']}: {check['status']}" for check in s.checks if check["status"] != "pass"]
    points.append(f"Checks across {s.question.arms_noun}: {safe(', '.join(odd)) or 'all pass'}.")
    points += convergence(recorded)
    if not any(m.failed for m in s.measured.values()):
        points.append("No trial diverged.")
    trials = [(n, k, t) for n, m in s.measured.items() for k, t in m.trials.items()]
    points += [
        f"Overfitting: {label(n)} trial {k} was best at step {fixed(t.best_step, 0)} ({fixed(t.best_val_loss)}), "
        f"and ended at {fixed(t.last_on_curve)}, both at the probe."
        for n, k, t in trials
        if t.overfit
    ]
    if trials and all(t.overfit is False for _, _, t in trials):
        points.append("No trial ended more than a percent above its best validation loss.")
    return points + cautions(s)


def convergence(recorded: dict[str, list[dict]]) -> list[str]:
    """What the audit says about the last part of the curves: the same words once, with the range of each."""
    ranges: dict[str, dict[str, str]] = {}
    for name, listed_checks in recorded.items():
        for check in listed_checks:
            if check.get("name") in ("learning curve", "converged"):
                measured = str(check.get("measured", ""))
                slopes = SLOPES.search(measured)
                words = SLOPES.sub("…", measured, count=1)
                ranges.setdefault(words, {})[name] = span(map(float, slopes[0].split(", ")), 4) if slopes else ""
    return [
        f"Convergence: {safe(words)}: {'; '.join(f'{label(n)} {x}'.rstrip() for n, x in of.items())}."
        for words, of in ranges.items()
    ]


# -- 6 Conclusions -----------------------------------------------------------------------------------------------------


def conclusions(s: Study) -> dict:
    choice_of, tests = choice(s)
    names = {name for t in tests for name in t.names}
    improved = {}
    for t in s.primary if s.detectable else ():
        standings = {noun: standing(s, t, q) for q, noun in (("PD", "PD"), ("Loss", "validation loss"))}
        gains = [noun for noun, x in standings.items() if x == "better"]
        if gains and "worse" not in standings.values():
            improved[t.a] = f"{label(t.a)} (lower {listed(gains)})"
    fastest_ones, others = s.lowest(s.time)
    return {
        "choice": choice_of,
        "chosen": labels(name for name in s.measured if name in names),
        "several": len(names) > 1,
        "together": tests == [s.contrast],
        "apart": listed(
            f"{label(t.a)} and {label(t.b)}"
            for t in s.tests
            if {t.a, t.b} <= names and s.verdict(t, "PD").kind in ("lower", "higher")
        ),
        "compared": bool(s.detectable and s.primary),
        "improved": listed(improved.values()),
        "fastest": label(fastest_ones[0]) if len(fastest_ones) == 1 and others else "",
        "uses": when_to_use(s),
    }


def when_to_use(s: Study) -> list[str]:
    """Each arm in one group, by what was shown against the baseline; none without tests."""
    if not any(t.tested(q) for t in s.primary for q in QUANTITIES):
        return []
    groups: dict[str, list[str]] = {}
    for t in s.primary:
        groups.setdefault(advice(s, t), []).append(timed(s, t.a))
    return [f"{listed(names)}: {said}." for said, names in groups.items()]


def timed(s: Study, name: str) -> str:
    time, base = s.time[name], s.time[s.question.baseline]
    return label(name) + (f" ({signed(100 * (time / base - 1))} %)" if time and base else "")


# -- 7 Future Work -----------------------------------------------------------------------------------------------------


def future_work(s: Study) -> dict:
    tests, needed, _, _ = undecided(s)
    trials = [t for m in s.measured.values() for t in m.trials.values()]
    missing = [n for n in activations.STUDY if n not in s.measured]
    return {
        "failed": any(m.audit.startswith("failed") for m in s.measured.values()) or bool(failed_checks(s.checks)),
        "diverged": any(m.failed for m in s.measured.values()),
        "few": labels(n for n, m in s.fit.items() if len(m.pd_ids) < 3),
        "undecided": [t.a for t in tests],
        "needed": needed,
        "missing": labels(missing) if s.question.about_smoothness else "",
        "overfit": any(t.overfit for t in trials),
        "vary": safe(listed(vary)) if len(vary := what_varies(s)) > 1 else "",
    }
