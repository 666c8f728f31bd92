"""FINDINGS.md and its figures, made from the results files in findings/measured: every number of the text is here.

    python findings/write.py

What is computed was fixed in PLAN.md; the words around the numbers were written when they were known.
"""

from __future__ import annotations

import copy
import math
import sys
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import scipy
from run import MEASURED, PLAN

import activations
import significance
from analysis.frontier import equal_loss
from analysis.markdown import effect, fixed, label, listed, p_value, signed, table
from analysis.results import load_all_results
from analysis.study import REFERENCE, Study
from measures.table import BY_KEY
from plotting.several import forest
from plotting.style import GREY, WIDTH, headline, house_style, panels
from questions.studies.tell import SMOOTH, Member, Pooled, influence, pool_one

ALPHA = 0.05
OUTCOMES = {"PD": "final models", "Matched_PD": "at equal annealed loss"}
SMOOTH_ONES = ("smelu_05", "smelu_1", "gelu", "swish")
NAMES = {  # of the studies, in the figure
    "A": "A",
    "B": "B Tiny Shakespeare",
    "F_half": "F½ half the rate",
    "F_double": "F2 twice the rate",
    "D64": "D64 width 64",
    "E": "E byte pairs",
    "C": "C Llama",
    "D256": "D256 width 256",
}
DIFFERS = {  # in words
    "B": "another text",
    "F_half": "half the learning rate",
    "F_double": "twice the learning rate",
    "D64": "half the width",
    "E": "byte-pair tokens",
    "C": "another model",
    "D256": "twice the width",
}


# -- what is there ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """One study of the plan, as far as it was trained."""

    name: str
    results: dict

    @cached_property
    def study(self) -> Member:
        return Member(self.results, self.name)

    @property
    def trials(self) -> int:
        return min(len(m.pd_ids) for m in self.study.measured.values())

    @property
    def complete(self) -> bool:
        planned = PLAN[self.name]
        return set(self.results) == set(planned.activations) and self.trials >= planned.least

    @property
    def smooth(self) -> list[str]:
        return self.study.contrast.smooth

    def contrast(self, quantity: str) -> significance.Comparison:
        return self.study.contrast.tests[quantity]

    @property
    def share_of_text(self) -> float:
        """Tokens that a trial was trained on, over those of its training text."""
        m = self.study.measured[REFERENCE]
        config = m.record("config")
        return config["max_iters"] * config["batch_size"] * config["block_size"] / m.record("dataset")["train_tokens"]

    def influence(self, quantity: str) -> significance.Influence:
        """Of single trials on the contrast."""
        without = {k: left.contrast.tests[quantity] for k, left in self.study.without.items()}
        return significance.influence(self.contrast(quantity), without)


def published(folder: Path = MEASURED) -> dict[str, Published]:
    """{name: study} of those that have results, in the order of the plan."""
    there = {name: folder / name / "results" for name in PLAN}
    return {name: Published(name, load_all_results(path)) for name, path in there.items() if path.is_dir()}


# -- the primary outcomes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """One primary outcome: the contrast, its p after Holm over both, and p of a difference as large as 5 %."""

    test: significance.Comparison
    p: float
    p_equal: float

    @property
    def kind(self) -> str:
        if self.p < ALPHA:
            return "lower" if self.test.effect < 1 else "higher"
        return "equal" if self.p_equal < ALPHA else "not shown"

    @property
    def small(self) -> bool:
        """Shown to be smaller than 5 % of PD, whether or not it is a difference."""
        return self.p_equal < ALPHA


def outcomes(study: Study) -> dict[str, Outcome]:
    tests = {quantity: study.contrast.tests[quantity] for quantity in OUTCOMES}
    adjusted = significance.holm([test.p for test in tests.values()])
    return {
        quantity: Outcome(test, p, significance.equivalence_p(test))
        for (quantity, test), p in zip(tests.items(), adjusted, strict=True)
    }


def answer(final: str, equal: str) -> str:
    """The row of the plan's table, "What will be said"."""
    weak = ("equal", "not shown")
    rows = {
        ("lower", "lower"): "Yes: smooth activations make these models more reproducible",
        ("equal", "equal"): "No: practically no difference",
        ("higher", "higher"): "No, the opposite: models with a smooth activation are less reproducible",
    }
    if (final, equal) in rows:
        return rows[final, equal]
    explained = "but how far the models have come explains it, or may"
    if equal in weak and final in ("lower", "higher"):
        return f"{'More' if final == 'lower' else 'Less'} reproducible as trained, {explained}"
    if final in weak and equal in ("lower", "higher"):
        return f"Not as trained; at the same loss, {'yes' if equal == 'lower' else 'the opposite'}"
    if {final, equal} == {"lower", "higher"}:
        return "Open: the two answers contradict each other"
    return "Undecided"


def against_relu(study: Study, quantity: str) -> dict[str, Outcome]:
    """{activation: its comparison with ReLU}, Holm over those of the study."""
    tests = {t.a: t.tests[quantity] for t in study.primary}
    adjusted = significance.holm([test.p for test in tests.values()])
    return {
        name: Outcome(test, p, significance.equivalence_p(test))
        for (name, test), p in zip(tests.items(), adjusted, strict=True)
    }


# -- checks -----------------------------------------------------------------------------------------------------------


def only(results: dict, ids: set[int]) -> dict:
    """The results of one activation as if these trials alone had been trained; curves along training are left out."""
    kept = copy.deepcopy(results)
    for part in [kept, *(kept.get("frontier") or [])]:
        part["trials"] = [t for t in part["trials"] if t["trial_id"] in ids]
        key = "pairs" if "pairs" in part else "reproducibility_metrics"
        part[key] = [p for p in part[key] if set(map(int, p["model_pair"].split("_vs_"))) <= ids]
    return kept | {"divergence": None, "pd_at_val_loss": None}


def half(found: Published, second: bool) -> Study:
    """The study of the first or the second half of the trials."""
    middle = found.trials // 2
    ids = set(range(middle + 1, 2 * middle + 1) if second else range(1, middle + 1))
    return Study({name: only(results, ids) for name, results in found.results.items()})


def same_twice(found: Published, name: str = REFERENCE) -> dict[str, significance.Comparison]:
    """Trials with odd numbers of an activation against those with even ones, as if they were two activations."""
    ids = found.study.measured[name].pd_ids
    odd, even = ([k for k in ids if k % 2 == rest] for rest in (1, 0))
    tests = {
        "PD": significance.compare_pd(*(found.study.measured[name].pd(some) for some in (odd, even)), paired=False)
    }
    line = found.study.frontiers[name]
    read = equal_loss({"odd": line, "even": line}, {"odd": odd, "even": even})
    if read:
        tests["Matched_PD"] = significance.compare_pd(*read[1].values(), paired=False)
    return tests


def pooled_arms(studies: dict[str, Published]) -> dict[str, tuple[str, dict[str, Published]]]:
    """{what is pooled: (its name in a study, the studies that have it)}: one activation each, and the contrast of
    studies that have the same smooth activations. Contrasts over other activations estimate something else."""
    complete = {key: found for key, found in studies.items() if found.complete}
    arms = {label(name): (name, {k: s for k, s in complete.items() if name in s.smooth}) for name in SMOOTH_ONES}
    for smooth in dict.fromkeys(tuple(found.smooth) for found in complete.values()):
        if len(smooth) > 1:
            arms[together(smooth)] = (SMOOTH, {k: s for k, s in complete.items() if tuple(s.smooth) == smooth})
    return arms


def pool_contrast(studies: dict[str, Published], quantity: str, name: str = SMOOTH) -> Pooled:
    """The contrast, or one activation against ReLU, over these studies by random effects."""
    return pool_one({key: found.study for key, found in studies.items()}, name, quantity)


def together(smooth) -> str:
    return f"all {'four' if len(smooth) == 4 else 'these'}" if len(smooth) > 2 else listed(map(label, smooth))


# -- the figure -------------------------------------------------------------------------------------------------------

APART = (-0.16, 0.16)  # of the two outcomes in a row


def figure(studies: dict[str, Published]):
    """Left, study A: each activation's PD as a ratio to ReLU's; right: the smooth ones together, in every study."""
    from matplotlib.lines import Line2D

    main = studies["A"]
    rows = max(len(studies), len(main.study.primary)) + 1
    fig, ((left, right),) = panels(1, 2, 1.35 + 0.3 * rows, left=0.85, across=1.5, right=0.3, bottom=0.78, top=0.58)
    each = {t.a: {q: t.tests[q] for q in OUTCOMES} for t in main.study.primary}
    panel(left, {activations.label(n): (n, _ends(t)) for n, t in each.items()}, "all four", _ends(_contrasts(main)))
    left.set_title(f"Study A, {main.trials} trainings of each")
    by_study = {
        f"{NAMES[n]} ({found.trials}; {len(found.smooth)})": (None, _ends(_contrasts(found)))
        for n, found in studies.items()
    }
    name, alike = pooled_arms(studies)["all four"]
    over = {q: pool_contrast(alike, q, name) for q in OUTCOMES}
    pooled = {q: tuple(map(p.ratio, ("mean", "low", "high"))) for q, p in over.items()}
    panel(right, by_study, f"{listed(alike)} pooled", pooled)
    right.set_title("Smooth ones together, by study")
    style = {"color": "#444444", "marker": "D", "linestyle": "", "markersize": 5}
    handles = [
        Line2D([], [], **style, label=OUTCOMES["PD"]),
        Line2D([], [], **style, markerfacecolor="white", label=OUTCOMES["Matched_PD"]),
    ]
    place = (0.08 / WIDTH, 0.24 / fig.get_figheight())
    fig.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=2, borderpad=0)
    headline(
        fig,
        "Do models with smooth activations differ less from one training to the next than models with ReLU?",
        "in brackets: trainings; smooth activations. bars: 95 %, not adjusted; log scale; grey: within 5 %",
    )
    return fig


def panel(ax, rows: dict[str, tuple], last: str, together) -> None:
    """Rows of (activation, {outcome: (ratio, low, high)}), and below a line those of all together."""
    every = {**rows, last: (None, together)}
    lines = [
        (y + shift, name, *ends[quantity], quantity != "PD")
        for y, (name, ends) in enumerate(every.values())
        for quantity, shift in zip(OUTCOMES, APART, strict=True)
    ]
    forest(ax, lines)
    ax.axhline(len(rows) - 0.5, color=GREY, linewidth=0.5)
    ax.set_yticks(range(len(every)), every)
    ax.set_ylim(len(every) - 0.5, -0.5)
    ax.set_xlabel("← more reproducible     mean PD, ratio to ReLU's")


def _contrasts(found: Published) -> dict[str, significance.Comparison]:
    return {quantity: found.contrast(quantity) for quantity in OUTCOMES}


def _ends(tests: dict[str, significance.Comparison]) -> dict[str, tuple]:
    return {quantity: (test.effect, test.low, test.high) for quantity, test in tests.items()}


# -- the text ---------------------------------------------------------------------------------------------------------

FINDINGS = ROOT / "findings" / "FINDINGS.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- the answer, by findings/write.py -->", "<!-- end of the answer -->"
FIGURES = ROOT / "findings" / "figures"


def text(studies: dict[str, Published]) -> str:
    """FINDINGS.md."""
    main = studies["A"]
    parts = [
        ["# Findings", "", "<!-- written by `python findings/write.py`; change it there -->", ""],
        the_answer(studies),
        study_a(main),
        elsewhere(studies),
        single_seeds(studies),
        size_and_rate(studies),
        checks(main),
        shortfall(studies),
        corrected(studies),
        paragraphs(LIMITS),
        paragraphs(OTHERS),
        paragraphs(AGAIN),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def paragraphs(text: str) -> list[str]:
    return [*text.strip().splitlines(), ""]


def p_is(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def shown(outcome: Outcome) -> str:
    """A verdict in words."""
    if outcome.kind in ("lower", "higher"):
        return outcome.kind + (", by less than 5 %" if outcome.small else "")
    return {"equal": "practically equal", "not shown": "not shown"}[outcome.kind]


def sized(outcome: Outcome) -> str:
    """A difference with its size: 'higher by 2.5 %, less than the 5 % declared to matter'."""
    if outcome.kind not in ("lower", "higher"):
        return shown(outcome)
    size = f"{outcome.kind} by {fixed(abs(100 * (outcome.test.effect - 1)), 1)} %"
    return size + (", less than the 5 % declared to matter" if outcome.small else "")


def said_first(main: Published) -> str:
    """The answer in a sentence or two, with its size, what varied, and how long was trained."""
    final, equal = outcomes(main.study).values()
    return (
        f"**{answer(final.kind, equal.kind)}. Between trainings that differ in initial weights and sample of text, "
        f"{fixed(main.share_of_text, 2)} of one pass through it long and annealed, their prediction difference (PD) is "
        f"{sized(final)}.**"
    )


def the_answer(studies: dict[str, Published]) -> list[str]:
    main = studies["A"]
    found = outcomes(main.study)
    final, equal = found["PD"], found["Matched_PD"]
    relu = main.study.measured[REFERENCE]
    mismatch = relu.average(BY_KEY["top1_mismatch_pct"])
    return [
        "## The answer",
        "",
        said_first(main),
        "",
        f"- As trained, the four smooth activations together have a PD {effect(final.test)} against ReLU's (95 % "
        f"interval; {main.trials} trainings of each of five activations; {p_is(final.p)}): {shown(final)}.",
        f"- At the same loss, of annealed models, {effect(equal.test)} ({p_is(equal.p)}): {shown(equal)}.",
        f"- Not with every smooth function: {exception(studies)}",
        "- What differs between trainings: the initial weights and the sample of text that is seen, together. "
        + ONE_BIT,
        f"- How long: 1300 steps, {fixed(main.share_of_text, 2)} of one pass through the training text. The learning "
        "rate is annealed to 0; the models are not trained until the loss stands still.",
        f"- What any activation leaves is far larger: two ReLU models trained on the same text place "
        f"{fixed(100 * main.study.pd[REFERENCE], 1)} % of the probability elsewhere and disagree on the likeliest next "
        f"character at {fixed(mismatch, 1)} % of the positions.",
        "- " + ADVICE,
        "",
        "![Ratios of prediction differences to ReLU's](figures/ratios.png)",
        "",
    ]


def exception(studies: dict[str, Published]) -> str:
    """The smooth activation that hardly differs from ReLU, then the others, pooled."""
    arms = pooled_arms(studies)
    changes = {}
    for name, (key, some) in arms.items():
        if key != SMOOTH:
            changes[name] = f"{pooled_change(pool_contrast(some, 'PD', key))} over {len(some)} studies"
    own = against_relu(studies["A"].study, "PD")["smelu_05"].test
    first = changes.pop(label("smelu_05"))
    b = 100 * (studies["B"].study.test("smelu_05", "PD").effect - 1)
    rest = ", ".join(f"{name} {change}" for name, change in changes.items())
    differ = p_is(pool_contrast(arms[label("smelu_05")][1], "PD", "smelu_05").heterogeneity_p)
    return (
        f"with SmeLU β=0.5 {effect(own)} here and {first}, which differ ({differ}; on another text, B, {signed(b)} %). "
        f"{rest}."
    )


def in_short(studies: dict[str, Published]) -> str:
    """The answer as README has it, between its marks."""
    main = studies["A"]
    found = outcomes(main.study)
    final, equal = found["PD"], found["Matched_PD"]
    key, some = pooled_arms(studies)[label("smelu_05")]
    nearest = f"{pooled_change(pool_contrast(some, 'PD', key))} over the {len(some)} studies that have it"
    relu = f"{fixed(100 * main.study.pd[REFERENCE], 0)} % of the probability"
    said = [
        f"{said_first(main)} So it is in small language models, for four smooth activations together: "
        f"{effect(final.test)} against ReLU as trained, {effect(equal.test)} at the same loss (95 % intervals; "
        f"{main.trials} trainings of each of five activations, planned before the data).",
        f"It isn't so for every smooth function: SmeLU β=0.5 changes PD by {nearest}. Nor for every "
        "difference between trainings. " + ONE_BIT,
        f"All this is little beside what remains: two trainings with ReLU differ in {relu}. The {len(studies)} "
        "studies, and the commands that check and repeat them: [findings/FINDINGS.md](findings/FINDINGS.md).",
    ]
    lines = [line for text in said for line in [*textwrap.wrap(text, 118, break_on_hyphens=False), ""]]
    return "\n".join([*lines, "![Ratios of prediction differences to ReLU's](findings/figures/ratios.png)"])


def readme(studies: dict[str, Published], there: str) -> str:
    """README with the answer of these studies between its marks."""
    before, rest = there.split(BEGIN)
    return f"{before}{BEGIN}\n{in_short(studies)}\n{END}{rest.split(END)[1]}"


def pooled_change(p: Pooled | significance.RandomEffects) -> str:
    e = p.effects if isinstance(p, Pooled) else p
    first, low, high = (signed(100 * math.expm1(x)) for x in (e.mean, e.low, e.high))
    return f"{first} % [{low}, {high}]"


def study_a(main: Published) -> list[str]:
    s = main.study
    each = {q: against_relu(s, q) for q in OUTCOMES}
    both = outcomes(s)
    rows = []
    for name in s.measured:
        m = s.measured[name]
        loss, low, high = significance.mean_interval(m.losses())
        row = [label(name), f"{fixed(loss)} [{fixed(low)}, {fixed(high)}]", interval(m)]
        if name == REFERENCE:
            row += ["reference", "", "", ""]
        else:
            for q in OUTCOMES:
                o = each[q][name]
                row += [f"{effect(o.test)}, {p_is(o.p)}", shown(o)]
        rows.append(row)
    row = ["all four smooth", "", ""]
    for q in OUTCOMES:
        row += [f"{effect(both[q].test)}, {p_is(both[q].p)}", shown(both[q])]
    rows.append(row)
    header = ["", "loss, nats per character", "PD", "final models, against ReLU", "", "at equal annealed loss", ""]
    losses = ", ".join(f"{label(t.a)} {effect(t.tests['Loss'])}" for t in s.primary)
    return [
        f"## Study A: {main.trials} trainings of each activation",
        "",
        f"Default corpus, the decoder at preset `quick`, {main.study.measured[REFERENCE].results['parameters']:,} "
        "parameters, 1300 steps. Each cell: the change of mean PD against ReLU with "
        "its 95 % interval, and p after Holm's correction: over the two outcomes for all four together, the planned "
        "test; over the four activations within each outcome for one alone.",
        *table(header, rows),
        f"Validation loss against ReLU, in nats: {losses}. No test was planned for it.",
        "",
        "![PD of annealed models against their loss](figures/frontier.png)",
        "",
        FRONTIER,
        "",
    ]


def interval(m) -> str:
    mean, low, high = m.pd_interval
    return f"{fixed(mean)} [{fixed(low)}, {fixed(high)}]"


def elsewhere(studies: dict[str, Published]) -> list[str]:
    lines = [
        "## Elsewhere",
        "",
        "Each activation against ReLU, in every study that has it; 95 % intervals, not adjusted. Losses are nats per "
        "token of each study's own tokens; *passes*: how often the training text was gone through.",
    ]
    header = ["study", "trainings", "passes", "ReLU's loss", "ReLU's PD"]
    rows = []
    for name, found in studies.items():
        s = found.study
        title = f"{NAMES[name]}{'' if found.complete else ' (short)'}"
        share, loss, pd = fixed(found.share_of_text, 2), fixed(s.loss[REFERENCE], 3), fixed(s.pd[REFERENCE])
        rows.append([title, str(found.trials), share, loss, pd])
    lines += table(header, rows)
    for quantity, title in OUTCOMES.items():
        header = ["study", *map(label, SMOOTH_ONES), "its smooth ones together"]
        rows = []
        for name, found in studies.items():
            tests = [found.study.test(arm, quantity) for arm in SMOOTH_ONES]
            joint = found.contrast(quantity) if len(found.smooth) > 1 else None
            rows.append([NAMES[name], *map(effect, tests), effect(joint)])
        lines += [f"{title[0].upper()}{title[1:]}:", *table(header, rows)]
    rows = []
    for title, (key, some) in pooled_arms(studies).items():
        over = [pool_contrast(some, q, key) for q in OUTCOMES]
        cells = [cell for p in over for cell in (pooled_change(p), p_value(p.heterogeneity_p))]
        rows.append([title, str(len(some)), ", ".join(some), *cells])
    between = "between studies, p"
    return [
        *lines,
        "Pooled by random effects, like with like, over the complete studies that have the same (by each comparison's "
        "own spread, not moderated). *Between studies*: p of one and the same effect in all of them.",
        *table(["", "studies", "which", "final models", between, "at equal annealed loss", between], rows),
    ]


def single_seeds(studies: dict[str, Published]) -> list[str]:
    """How far the answers hang on one seed."""
    hanging = [
        [NAMES[name], title, effect(found.contrast(q)), found.influence(q), effect]
        for name, found in studies.items()
        for q, title in OUTCOMES.items()
    ]
    for what, (key, some) in pooled_arms(studies).items():
        for q, title in OUTCOMES.items():
            p = pool_contrast(some, q, key)
            found = influence({n: s.study for n, s in some.items()}, p)
            hanging.append([f"pooled: {what}", title, pooled_change(p), found, pooled_change])
    rows = []
    for what, title, whole, found, change in hanging:
        trial = f"{found.trial[0]}, {found.trial[1]}" if isinstance(found.trial, tuple) else str(found.trial)
        span = f"{signed(100 * math.expm1(found.low))} to {signed(100 * math.expm1(found.high))}"
        decisive = f"{len(found.decisive)}" if found.decisive else ""
        rows.append([what, title, whole, span, trial, change(found.without), fixed(found.shift, 1), decisive])
    header = ["", "", "all seeds", "one left out, %", "most by trial", "without it", "standard errors", "decisive"]
    per_seed = differences(studies["D256"].study, "gelu")
    below, median = int((per_seed < 0).sum()), 100 * math.expm1(np.median(per_seed))
    return [
        "## Single seeds",
        "",
        "The smooth activations of each study together, and what was pooled, without one seed: the range of the "
        "estimate, and the seed that moves it most, by how many standard errors of the whole. *Decisive*: how many "
        "seeds there are without each of which the test at 5 %, unadjusted, says otherwise.",
        *table(header, rows, left=2),
        f"Without one seed E shows hardly any difference. In D256 GELU's PD lies below ReLU's in {below} of "
        f"{len(per_seed)} seeds, by {fixed(abs(median), 1)} % in the median; two seeds pull the mean up to "
        f"{signed(100 * (studies['D256'].study.test('gelu', 'PD').effect - 1))} %.",
        "",
    ]


def differences(study: Study, name: str) -> np.ndarray:
    """ln PD of an activation minus ReLU's, a number for each trial."""
    a, b = (significance.log_pseudo_values(study.measured[n].pd()) for n in (name, REFERENCE))
    return a - b


def size_and_rate(studies: dict[str, Published]) -> list[str]:
    """GELU against ReLU by width and by learning rate: intervals, no test, as planned."""
    rows = []
    for what, names in (("width", ("D64", "A", "D256")), ("peak learning rate", ("F_half", "A", "F_double"))):
        for name in names:
            if name in studies:
                s = studies[name].study
                test = next(t for t in s.primary if t.a == "gelu")
                config = s.measured[REFERENCE].record("config")
                value = config["n_embd"] if what == "width" else f"{config['learning_rate']:g}"
                cells = [effect(test.own[q]) if q in test.own else "–" for q in OUTCOMES]
                rows.append([f"{what} {value}", str(studies[name].trials), fixed(s.pd[REFERENCE]), *cells])
    header = ["", "trainings", "ReLU's PD", "GELU, final models", "at equal annealed loss"]
    return [
        "## Does it depend on width or learning rate?",
        "",
        "GELU against ReLU, by its own spread alone; 95 % intervals, described and not tested, as planned.",
        *table(header, rows),
        DEPENDS,
        "",
    ]


def checks(main: Published) -> list[str]:
    whole = outcomes(main.study)
    rows = [["all", str(main.trials), *_verdicts(whole)]]
    halves = {title: outcomes(half(main, second)) for title, second in (("first half", False), ("second half", True))}
    rows += [[title, str(main.trials // 2), *_verdicts(found)] for title, found in halves.items()]
    differ = [
        f"{title}, {OUTCOMES[q]}: {shown(found[q])} (all: {shown(whole[q])})"
        for title, found in halves.items()
        for q in OUTCOMES
        if found[q].kind != whole[q].kind
    ]
    same = (
        "The halves differ from the whole here: " + "; ".join(differ)
        if differ
        else "The halves say what the whole says"
    )
    twice = same_twice(main)
    contains = {q: test.low <= 1 <= test.high for q, test in twice.items()}
    ratios = "; ".join(
        f"{OUTCOMES[q]} {fixed(t.effect, 3)} [{fixed(t.low, 3)}, {fixed(t.high, 3)}]" for q, t in twice.items()
    )
    holds = "as they should" if all(contains.values()) else "which they should, and do not in all cases"
    return [
        "## Checks",
        "",
        "All smooth activations together against ReLU, by the trainings used:",
        *table(["", "trainings", "final models", "", "at equal annealed loss", ""], rows, left=1),
        same + ".",
        "",
        f"ReLU against itself, trainings with odd numbers over those with even ones (ratio of PD): {ratios}. The "
        f"intervals contain 1, {holds}.",
        "",
    ]


def _verdicts(found: dict[str, Outcome]) -> list[str]:
    return [cell for o in found.values() for cell in (effect(o.test), shown(o))]


def shortfall(studies: dict[str, Published]) -> list[str]:
    lines = ["## Not as planned", ""]
    for name, planned in PLAN.items():
        title = NAMES[name]
        if name not in studies:
            lines.append(f"- {title}: not trained; at least {planned.least} trainings of each were planned.")
        elif not studies[name].complete:
            lines.append(f"- {title}: {studies[name].trials} trainings of each; at least {planned.least} were planned.")
    reached = ", ".join(f"{NAMES[n]} {s.trials} of at most {PLAN[n].most}" for n, s in studies.items())
    return [*lines, f"- Trainings of each, where the time ended: {reached}.", *paragraphs(DEPARTURES)]


def of_all_contrasts(studies: dict[str, Published], quantity: str) -> tuple[float, float]:
    """p that they have one mean, whatever they are over: by Cochran's test, as an earlier text said, and rightly."""
    own = [found.study.own(SMOOTH, quantity) for found in studies.values() if found.complete]
    estimates, ses, df = ([getattr(test, name) for test in own] for name in ("estimate", "se", "df"))
    weights = np.power(ses, -2.0)
    q = weights @ (estimates - np.average(estimates, weights=weights)) ** 2
    return float(scipy.stats.chi2.sf(q, len(own) - 1)), significance.heterogeneity_p(estimates, ses, df)


def corrected(studies: dict[str, Published]) -> list[str]:
    p = {q: of_all_contrasts(studies, q) for q in OUTCOMES}
    before = listed(f"{title} {p_is(p[q][0])}" for q, title in OUTCOMES.items())
    return [
        "## Corrected",
        "",
        "An earlier text pooled the contrasts of all studies, whatever activations they were over, and said that they "
        f"differ between studies: {before}. That was Cochran's Q with each study's own few trials, which rejects in "
        '22 % of simulated sets of eight such studies that do not differ (bench/RESULTS.md, "Several studies"). By '
        "the parametric bootstrap, which rejects in 5 %, those numbers are "
        f"{listed(p_is(p[q][1]) for q in OUTCOMES)}: not shown.",
        "",
    ]


ONE_BIT = (
    "Twins that differ in one bit of one weight and in nothing else point the other way: in the mean they end 0.108 of "
    "PD apart with ReLU, 0.092 to 0.105 with the four smooth ones (five seeds, half the steps, described and not "
    'tested: bench/RESULTS.md, "How fast twins part").'
)
ADVICE = (
    "What to do: choose an activation by its loss and its cost. None of the five is a way to more reproducible models, "
    "and by less than what was declared to matter none is a way to less reproducible ones."
)
FRONTIER = (
    "Each point is a set of annealed models: their learning rate was cooled to 0. ReLU's line is the lowest at every "
    "length of training, so neither the loss that was chosen to compare at nor the number of steps makes the "
    "difference. With longer training PD falls, after a rise at the beginning; the loss still falls at the end."
)
DEPENDS = (
    "The difference is largest at the lowest learning rate; at the highest it is not shown. At half the width it is as "
    "large as at the whole. At twice the width the ratio varies about four times as much from seed to seed, and eight "
    "seeds neither show a difference nor exclude one; the rate of 3e-3 may be high there, where ReLU's loss is above "
    "that at half the width."
)
DEPARTURES = """
- More trainings of A would have been trained after its results were looked at; so it stays at 16. The same holds for B,
  F½, F2 and D64, which stay at five.
- E, C and D256 were trained when the results of A, B, F½, F2 and D64 had been looked at and published, on a processor
  of another make (Intel Xeon; the first five on an AMD EPYC). Their settings, seeds and largest numbers of trainings
  are those of the plan, nothing of theirs was looked at before all had them, and no study was trained on two machines.
- While A was being trained, one number of it was seen, the validation loss of one trial of SmeLU β=1 at its end. No
  prediction difference was, and nothing was changed.
- The plan pools the contrast of every study's own smooth activations: over four of them (A, B, C), over two (D64, E,
  D256) and GELU alone (F½, F2). Those are three different things, so here each is pooled with its like.
- All trials were trained by the commit that holds the plan, f15f89e, which every results file records.
"""
LIMITS = """
## Limits

- The models are small (0.2 to 3.2 million parameters) and trained for 1300 steps, less than one pass through
  the text, on one kind of text, English of Shakespeare's time. Nothing here says what happens at a thousand times the
  size.
- Inference is over trainings, at fixed positions of one validation text: another text would give other PDs (study B:
  0.154 in the place of 0.141), and perhaps other ratios.
- Few recipes: AdamW, a norm before each block, no dropout, a constant learning rate and a linear cooldown. Text, model,
  tokens, rate and width were varied one at a time, never together.
- What varies between trainings is all that a seed decides, together: initial weights, and which windows are drawn, and
  when. Of one source of variation alone these studies say nothing, and one bit alone points the other way.
- PD counts probability wherever it moves. Two models can differ in PD and agree in every likeliest character, or the
  other way round; the results files hold both, and seven more measures.
- At equal loss two activations are compared where the slower one ends; how PD goes on below that loss is not known.
- On a processor of another kind, or with other versions, the same seeds give other models of the same population: the
  numbers move within their intervals, not to the last digit. Trial 3 of ReLU in A, trained again on an Intel Xeon, has
  other weights than on the AMD EPYC and a loss 0.0059 nats higher, where trials have a standard deviation of 0.0078;
  within five of those `check.py --retrain` calls it a repeat.
"""
OTHERS = """
## Beside what others found

- **Shamir, Lin & Coviello** (2020, arXiv 2010.09931; Shamir & Lin 2022, arXiv 2202.06499) found better
  accuracy–reproducibility trade-offs with smooth activations, SmeLU above all, than with ReLU, in recommendation
  systems that are trained in parallel on many machines and predict one probability. The networks here are residual,
  normalised by layer norm, trained deterministically, and predict a distribution over tokens.
- **Summers & Dinneen** (2021, arXiv 2103.04514) found that each source of randomness alone, down to one bit of one
  initial weight, makes models differ about as much as the others do. The same holds here (bench/RESULTS.md: a single
  bit gives 86 % of the whole PD).
- **Fehlauer, Mahowald & Pimentel** (2025, arXiv 2509.26643) follow the KL divergence between seeds along the training
  of language models: alike at first, converging sharply, parting sharply, and slowly converging again, larger models
  faster and small ones never. The models here are of the small kind, and activations are compared where training ends.
- **PolyPythias** (van der Wal et al. 2025, arXiv 2503.09543; 50 runs, 14 to 410 million parameters) and **MultiBERTs**
  (Sellam et al. 2021, arXiv 2106.16163; 25 BERTs) publish many seeds of one recipe, to study how stable training and
  benchmarks are. With one activation each they can't answer this question; `compare.py` measures such models.
"""
AGAIN = """
## Again

    python findings/check.py                       # every number above, from the results files
    python findings/check.py --retrain A relu 3    # one training again, and its weights compared
    mkdir -p studies && cp -r findings/measured/A studies/ && python analyze_results.py --study A   # its whole report
    python findings/run.py --hours 3               # all of it again, or more of it
"""


def main() -> None:
    from plotting.frontier import frontiers

    studies = published()
    FINDINGS.write_text(text(studies), encoding="utf-8")
    README.write_text(readme(studies, README.read_text(encoding="utf-8")), encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    with house_style():
        for name, fig in (("ratios", figure(studies)), ("frontier", frontiers(studies["A"].study.frontiers))):
            fig.savefig(FIGURES / f"{name}.png")
            print(f"{(FIGURES / f'{name}.png').relative_to(ROOT)}")
    print(FINDINGS.relative_to(ROOT))


if __name__ == "__main__":
    main()
