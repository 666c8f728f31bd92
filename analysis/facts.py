"""What a comparison of activations shows: the facts that the report's sentences choose from, computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import audit
import significance
from analysis.markdown import DASH, fixed, label, labels, p_value, safe, sentence, signed, span
from analysis.results import matched_loss, mean, measure, median
from analyze_results import ALPHA, REFERENCE, PairTests, compare_all, pd_interval, smooth_contrast, verdict

MARGINS = {"PD": "±5 %", "Matched_PD": "±5 %", "Loss": "±0.01 nats per token"}  # "practically equal"
VERDICTS = ("lower", "higher", "equal", "inconclusive", "no test")


class Facts:
    """The studied activations, their tests, and the answers that more than one section gives."""

    def __init__(self, all_results: Mapping[str, dict]):
        self.all_results = dict(all_results)
        self.studied = measure(all_results)
        self.fit = {name: m for name, m in self.studied.items() if not m.unfit}
        self.tests = compare_all(all_results)
        self.primary = [t for t in self.tests if t.primary and not t.unfit]
        self.matched = matched_loss(all_results)
        self.contrast = smooth_contrast(all_results)
        self.across = audit.across_activations(self.all_results)
        self.pd = {name: pd_interval(m)[0] for name, m in self.studied.items()}
        self.loss = {name: mean(m.losses()) for name, m in self.studied.items()}
        self.time = {name: median(m.trial_values("training_time")) for name, m in self.studied.items()}
        self.by_pd = sorted(
            self.studied, key=lambda n: (bool(self.studied[n].unfit), self.pd[n] is None, self.pd[n] or 0)
        )

    def said(self, t: PairTests, quantity: str) -> str:
        """The kind of a comparison's verdict: with ReLU as a planned one, else as one of all pairs."""
        return verdict(t, quantity, primary=t.primary).kind

    def said_of(self, a: str, b: str, quantity: str) -> str:
        """The same for activation a against b, in whichever order they were tested."""
        t = next(t for t in self.tests if {t.a, t.b} == {a, b})
        kind = self.said(t, quantity)
        return kind if t.a == a else {"lower": "higher", "higher": "lower"}.get(kind, kind)

    def planned(self, quantity: str, kind: str) -> list[str]:
        """Activations whose comparison with ReLU has this verdict."""
        return [t.a for t in self.primary if self.said(t, quantity) == kind]

    def shown(self, quantity: str) -> tuple[int, int]:
        """Of how many pairs the tests show a difference, and how many were tested."""
        of = [t for t in self.tests if tested(t.tests[quantity])]
        return sum(self.said(t, quantity) in ("lower", "higher") for t in of), len(of)

    @cached_property
    def detectable(self) -> list[float]:
        """Smallest detectable reduction of PD in percent, for each comparison that could be tested."""
        tests = [t.tests["PD"] for t in self.primary or self.tests]
        return [reduction(test) for test in tests if tested(test)]

    @cached_property
    def differing(self) -> list[PairTests]:
        """Comparisons with ReLU whose verdict at equal loss is another than that on the final models."""
        both = [t for t in self.primary if tested(t.tests["PD"]) and tested(t.tests["Matched_PD"])]
        return [t for t in both if self.said(t, "PD") != self.said(t, "Matched_PD")]

    @cached_property
    def pareto(self) -> list[str]:
        """Activations that no other equals or beats in both mean loss and mean PD; lowest loss first."""
        points = {n: (self.loss[n], self.pd[n]) for n in self.fit if None not in (self.loss[n], self.pd[n])}

        def behind(point):
            return any(loss <= point[0] and pd <= point[1] and (loss, pd) != point for loss, pd in points.values())

        return sorted((n for n, point in points.items() if not behind(point)), key=lambda n: points[n])

    def lowest(self, values: Mapping[str, float | None]) -> tuple[list[str], list[str]]:
        """The activations with the lowest value (several when equal), and the others that have one."""
        known = {n: values[n] for n in self.fit if values[n] is not None}
        best = [n for n, x in known.items() if math.isclose(x, min(known.values()), rel_tol=1e-12)]
        return best, [n for n in known if n not in best]

    def contrast_kind(self, quantity: str) -> str:
        """The verdict of the planned contrast of smooth activations against ReLU; '' where it could not be tested."""
        test = self.contrast.tests.get(quantity)
        return significance.verdict(test, test.p).kind if tested(test) else ""

    @cached_property
    def hypothesis(self) -> tuple[str, str]:
        """What became of the hypothesis, by the planned contrast: a word or two, and why."""
        test, equal = self.contrast.tests.get("PD"), self.contrast.tests.get("Matched_PD")
        if not tested(test):
            return "not tested", sentence(self.contrast.reason or test.note)
        kinds = self.contrast_kind("PD"), self.contrast_kind("Matched_PD")
        words = {"lower": "supported", "higher": "refuted", "equal": "refuted for differences of 5 % or more"}
        word = words.get(kinds[0], "inconclusive")
        change = f"{fixed(abs(100 * (test.effect - 1)), 1)} % {'lower' if test.effect < 1 else 'higher'}"
        why = (
            f"Averaged over {labels(self.contrast.smooth)}, mean PD is {change} than that of {label(REFERENCE)} (95 % "
            f"interval of the change: {signed(100 * (test.low - 1))} to {signed(100 * (test.high - 1))} %; "
            f"p = {p_value(test.p)}; one planned contrast, n = {min(test.n)})."
        )
        if self.contrast.left_out:
            why += f" Left out for want of trials: {labels(self.contrast.left_out)}."
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

    def pd_text(self, name: str) -> str:
        pd, low, high = pd_interval(self.studied[name])
        return fixed(pd) + ("" if low is None else f" [{fixed(low)}, {fixed(high)}]")

    def fastest(self) -> list[str]:
        best, others = self.lowest(self.time)
        if len(best) != 1 or not others:
            return []
        times = {n: [t["training_time"] for t in self.fit[n].trials.values() if t["training_time"]] for n in self.fit}
        overlapping = [n for n in others if min(times[n]) <= max(times[best[0]])]
        text = (
            f"**Shortest median training time of a trial**: {label(best[0])}, {fixed(self.time[best[0]], 1)} s (the "
            f"others {span((self.time[n] for n in others), 1, ' s')}); not tested"
        )
        return [text + (f", and its trials overlap with those of {labels(overlapping)}." if overlapping else ".")]


# -- what a test says, in cells of a table ----------------------------------------------------------------------------


def tested(test: significance.Comparison | None) -> bool:
    return test is not None and test.p is not None


def effect(test: significance.Comparison | None) -> str:
    """A ratio of PDs as a change in percent, a difference of losses in nats; with the 95 % interval."""
    if test is None or test.effect is None:
        return DASH
    ratio = test.metric == "pd"
    values = [test.effect] + ([] if test.low is None else [test.low, test.high])
    first, *limits = (signed(100 * (x - 1)) if ratio else signed(x, 4) for x in values)
    return first + (" %" if ratio else "") + (f" [{', '.join(limits)}]" if limits else "")


def effect_size(test: significance.Comparison | None) -> str:
    if test is None or test.g is None:
        return DASH
    return f"{test.g_kind} = {fixed(test.g, 2)} [{fixed(test.g_low, 2)}, {fixed(test.g_high, 2)}]"


def adjusted(p: float | None) -> str:
    return p_value(p) + (" \\*" if p is not None and p < ALPHA else "")


def reduction(test: significance.Comparison) -> float:
    """Smallest detectable reduction of PD in percent."""
    return -100 * math.expm1(-significance.smallest_detectable(test.se, test.df))


def trials_planned(needed: int | None, low: int | None, high: int | None) -> str:
    needed, low, high = ("many" if x is None else str(x) for x in (needed, low, high))
    return needed if low == high else f"{needed} ({low}{DASH}{high})"


def verdict_cell(t: PairTests, quantity: str, primary: bool = True) -> str:
    kind = verdict(t, quantity, primary).kind
    if kind == "no test":
        return safe(f"no test: {t.tests[quantity].note if t.tests[quantity] else t.why_not}")
    words = {"equal": f"practically equal ({MARGINS[quantity]})", "inconclusive": "inconclusive"}
    return words.get(kind, f"**{kind}**")


def failed_checks(checks: list[dict]) -> list[str]:
    return [
        f"*{safe(c.get('name', ''))}*: {safe(c.get('measured', ''))}; needed: {safe(c.get('threshold', ''))}."
        for c in checks
        if c.get("status") == "fail"
    ]
