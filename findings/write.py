"""FINDINGS.md and its figures, made from the results files in findings/measured: every number of the text is here.

    python findings/write.py

What is computed was fixed in PLAN.md; the words around the numbers, TEXT.md, were written when they were known.
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
from edge import tell as edge  # it brings its own folder
from run import MEASURED, PLAN

import activations
import significance
from analysis.frontier import equal_loss
from analysis.markdown import effect, fixed, label, listed, p_value, signed, table
from analysis.question import REFERENCE
from analysis.results import load_all_results
from analysis.study import Study
from measures.table import BY_KEY
from plotting import WIDEST
from plotting.several import forest
from plotting.style import GREY, headline, house_style, panels
from questions.studies import pooling
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
        return self.study.headline.names

    def contrast(self, quantity: str) -> significance.Comparison:
        return self.study.headline.tests[quantity]

    @property
    def share_of_text(self) -> float:
        """Tokens that a trial was trained on, over those of its training text."""
        m = self.study.measured[REFERENCE]
        config = m.record("config")
        return config["max_iters"] * config["batch_size"] * config["block_size"] / m.record("dataset")["train_tokens"]

    def influence(self, quantity: str) -> significance.Influence:
        """Of single trials on the contrast."""
        without = {k: left.headline.tests[quantity] for k, left in self.study.without.items()}
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
    tests = {quantity: study.headline.tests[quantity] for quantity in OUTCOMES}
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
    place = (0.08 / WIDEST, 0.24 / fig.get_figheight())
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
TEXT = ROOT / "findings" / "TEXT.md"  # FINDINGS.md, with names in the place of numbers
README = ROOT / "README.md"
BEGIN, END = "<!-- the answer, by findings/write.py -->", "<!-- end of the answer -->"
FIGURES = ROOT / "findings" / "figures"
ONE_BIT = (
    "Twins that differ in one bit of one weight and in nothing else point the other way: in the mean they end 0.108 of "
    "PD apart with ReLU, 0.092 to 0.105 with the four smooth ones (five seeds, half the steps, described and not "
    'tested: bench/RESULTS.md, "How fast twins part").'
)


def the_edge() -> str:
    """What the second study adds, in one paragraph, of findings/edge/measured."""
    tables = edge.published()
    cells = {name: contents["cells"] for name, contents in tables.items()}
    contradiction = edge.held_out_words(tables["H"])
    small = edge.series(cells["S1"])
    n = len(small["relu"][0]["seeds"])
    smooth = {name: edge.critical_rate(own) for name, own in small.items() if name not in edge.KINKED}
    smooth |= (finer := edge.around(cells["S1"], n))
    rates = [critical["rate"] for critical in smooth.values()]
    seeds = f"{n} seeds" + (f", {min(c['n'] for c in finer.values())} around them" if len(finer) == len(smooth) else "")
    paid = [edge.cost(small, name)["own"] for name in smooth]
    low = {cell["activation"]: cell for cell in cells["M"] if cell["rate"] == 1e-3}
    elsewhere = ("two threads", "AVX2")
    there = {name: [edge.geometric(cell, change) for change in elsewhere] for name, cell in low.items()}
    rounded = edge.geometric(low["gelu"], "bfloat16")
    hardware = f"at most {max(there['gelu']):.1e} of PD apart with GELU and {max(there['relu']):.3f} with ReLU"
    return (
        "**Where the activation does decide** (a second planned study, [FINDINGS2](findings/FINDINGS2.md)): "
        f"{contradiction}in a decoder of two layers every smooth activation forgets a difference of one bit below a "
        f"critical learning rate, {min(rates):.4f} to {max(rates):.4f} ({seeds}); ReLU does at no rate from 0.0003 on. "
        "So below it the same seed gives the same model on other hardware: at 0.001, between one "
        f"thread and two, or AVX-512 and AVX2, models end {hardware} ({len(low['relu']['seeds'])} seeds). Staying "
        f"below costs {min(paid):.2f} to {max(paid):.2f} nats, and bfloat16's rounding undoes most of it "
        f"({rounded:.4f}). Between other seeds, or above that rate, no such gain was found. "
        f"{'' if contradiction else 'A held-out width and text came out as predicted. '}In a click model ReLU forgets "
        "too at the lowest rates, so there the supposition was refuted as worded."
    )


def text(studies: dict[str, Published]) -> str:
    """FINDINGS.md."""
    main = studies["A"]
    values = the_answer(studies) | study_a(main) | elsewhere(studies) | single_seeds(studies) | checks(main)
    values |= {"edge": the_edge().replace("(findings/", "(")}
    values |= {"size_and_rate": size_and_rate(studies), "sentences": sentences(studies)}
    return TEXT.read_text(encoding="utf-8").format_map(values | departures(studies))


def in_short(studies: dict[str, Published]) -> str:
    """The answer as README has it, between its marks."""
    v = the_answer(studies)
    said = [
        f"{v['headline']} So it is in small language models, for four smooth activations together: {v['final']} "
        f"against ReLU as trained, {v['equal']} at the same loss (95 % intervals; {v['trials']} trainings of each of "
        "five activations, planned before the data).",
        f"It isn't so for every smooth function: SmeLU β=0.5 changes PD by {v['pooled_smelu_05']}. Nor for every "
        f"difference between trainings. {ONE_BIT}",
        the_edge(),
        f"All this is little beside what remains: two trainings with ReLU differ in {float(v['elsewhere_pct']):.0f} % "
        f"of the probability. The {len(studies)} studies, and the commands that check and repeat them: "
        "[findings/FINDINGS.md](findings/FINDINGS.md).",
    ]
    lines = [line for text in said for line in [*textwrap.wrap(text, 118, break_on_hyphens=False), ""]]
    return "\n".join([*lines, "![Ratios of prediction differences to ReLU's](findings/figures/ratios.png)"])


def readme(studies: dict[str, Published], there: str) -> str:
    """README with the answer of these studies between its marks."""
    before, rest = there.split(BEGIN)
    return f"{before}{BEGIN}\n{in_short(studies)}\n{END}{rest.split(END)[1]}"


# how numbers are written


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


def pooled_change(p: Pooled | pooling.RandomEffects) -> str:
    e = p.effects if isinstance(p, Pooled) else p
    first, low, high = (signed(100 * math.expm1(x)) for x in (e.mean, e.low, e.high))
    return f"{first} % [{low}, {high}]"


def rows_of(header, rows, left: int = 1) -> str:
    return "\n".join(table(header, rows, left)).strip()


# what the names of TEXT.md stand for


def the_answer(studies: dict[str, Published]) -> dict[str, str]:
    main = studies["A"]
    final, equal = outcomes(main.study).values()
    passes = fixed(main.share_of_text, 2)
    headline = (
        f"**{answer(final.kind, equal.kind)}. Their prediction difference (PD) is {sized(final)}, between trainings "
        f"that differ in initial weights and in the sample of text, are {passes} of one pass through the text long, "
        "and are annealed.**"
    )
    over = {key: pool_contrast(some, "PD", key) for key, some in pooled_arms(studies).values() if key != SMOOTH}
    told = {key: f"{pooled_change(p)} over {len(p.studies)} studies" for key, p in over.items()}
    return {
        "headline": headline,
        "trials": str(main.trials),
        "final": effect(final.test),
        "final_p": p_is(final.p),
        "final_shown": shown(final),
        "equal": effect(equal.test),
        "equal_p": p_is(equal.p),
        "equal_shown": shown(equal),
        "smelu_05": effect(against_relu(main.study, "PD")["smelu_05"].test),
        "smelu_05_in_b": signed(100 * (studies["B"].study.test("smelu_05", "PD").effect - 1)),
        "pooled_smelu_05": told["smelu_05"],
        "differ_smelu_05": p_is(over["smelu_05"].heterogeneity_p),
        "pooled_others": ", ".join(f"{label(key)} {change}" for key, change in told.items() if key != "smelu_05"),
        "one_bit": ONE_BIT,
        "passes": passes,
        "elsewhere_pct": fixed(100 * main.study.pd[REFERENCE], 1),
        "mismatch": fixed(main.study.measured[REFERENCE].average(BY_KEY["top1_mismatch_pct"]), 1),
    }


def sentences(studies: dict[str, Published]) -> str:
    """Each sentence of the answer, beside the number that carries it and where that is from."""
    main = studies["A"]
    final, equal = outcomes(main.study).values()
    v, config = the_answer(studies), main.study.measured[REFERENCE].record("config")
    steps = f"{config['max_iters']} × {config['batch_size']} × {config['block_size']}"
    tokens = f"{main.study.measured[REFERENCE].record('dataset')['train_tokens']:,}"
    schedule = f"`schedule` {config['schedule']}, `min_lr` {config['min_lr']:g}, `cooldown` {config['cooldown']:g}"
    rows = [
        ("less reproducible, PD higher", f"{v['final']}, {v['final_p']}", "contrast of ln PD in A, Holm over two"),
        ("by less than 5 %", p_is(final.p_equal), "two one-sided tests at ±5 %"),
        ("at the same loss too", f"{v['equal']}, {v['equal_p']}; below 5 %: {p_is(equal.p_equal)}", "the same, A"),
        ("initial weights and sample of text", f"`vary` {', '.join(config['vary'])}; no dropout", "settings of A"),
        (f"{v['passes']} of one pass", f"{steps} / {tokens} tokens", "settings and corpus of A"),
        ("annealed", schedule, "settings of A"),
        ("not every smooth function", v["pooled_smelu_05"], "pooled, A, B and C"),
        ("not every difference", "0.108 against 0.092 to 0.105", 'bench/RESULTS.md, "How fast twins part"'),
        ("far larger is what remains", fixed(main.study.pd[REFERENCE]), "mean PD of ReLU in A"),
    ]
    return rows_of(["sentence", "number", "from"], rows, left=3)


def study_a(main: Published) -> dict[str, str]:
    s = main.study
    each = {q: against_relu(s, q) for q in OUTCOMES}
    rows = []
    for name, m in s.measured.items():
        loss, low, high = significance.mean_interval(m.losses())
        row = [label(name), f"{fixed(loss)} [{fixed(low)}, {fixed(high)}]", interval(m)]
        row += ["reference", "", "", ""] if name == REFERENCE else _tested(each[q][name] for q in OUTCOMES)
        rows.append(row)
    rows.append(["all four smooth", "", "", *_tested(outcomes(s).values())])
    header = ["", "loss, nats per character", "PD", "final models, against ReLU", "", "at equal annealed loss", ""]
    return {
        "parameters": f"{s.measured[REFERENCE].results['parameters']:,}",
        "study_a": rows_of(header, rows),
        "losses": ", ".join(f"{label(t.a)} {effect(t.tests['Loss'])}" for t in s.primary),
    }


def _tested(found) -> list[str]:
    return [cell for o in found for cell in (f"{effect(o.test)}, {p_is(o.p)}", shown(o))]


def interval(m) -> str:
    mean, low, high = m.pd_interval
    return f"{fixed(mean)} [{fixed(low)}, {fixed(high)}]"


def elsewhere(studies: dict[str, Published]) -> dict[str, str]:
    rows = []
    for name, found in studies.items():
        s = found.study
        title = f"{NAMES[name]}{'' if found.complete else ' (short)'}"
        share, loss, pd = fixed(found.share_of_text, 2), fixed(s.loss[REFERENCE], 3), fixed(s.pd[REFERENCE])
        rows.append([title, str(found.trials), share, loss, pd])
    values = {"studies": rows_of(["study", "trainings", "passes", "ReLU's loss", "ReLU's PD"], rows)}
    for quantity, name in (("PD", "by_study_final"), ("Matched_PD", "by_study_equal")):
        rows = []
        for study, found in studies.items():
            tests = [found.study.test(arm, quantity) for arm in SMOOTH_ONES]
            joint = found.contrast(quantity) if len(found.smooth) > 1 else None
            rows.append([NAMES[study], *map(effect, tests), effect(joint)])
        values[name] = rows_of(["study", *map(label, SMOOTH_ONES), "its smooth ones together"], rows)
    rows = []
    for title, (key, some) in pooled_arms(studies).items():
        over = [pool_contrast(some, q, key) for q in OUTCOMES]
        cells = [cell for p in over for cell in (pooled_change(p), p_value(p.heterogeneity_p))]
        rows.append([title, str(len(some)), ", ".join(some), *cells])
    between = "between studies, p"
    header = ["", "studies", "which", "final models", between, "at equal annealed loss", between]
    return values | {"pooled": rows_of(header, rows)}


def single_seeds(studies: dict[str, Published]) -> dict[str, str]:
    """How far the answers hang on one seed."""
    hanging = [
        (NAMES[name], title, effect(found.contrast(q)), found.influence(q), effect)
        for name, found in studies.items()
        for q, title in OUTCOMES.items()
    ]
    for what, (key, some) in pooled_arms(studies).items():
        for q, title in OUTCOMES.items():
            p = pool_contrast(some, q, key)
            found = influence({n: s.study for n, s in some.items()}, p)
            hanging.append((f"pooled: {what}", title, pooled_change(p), found, pooled_change))
    rows = []
    for what, title, whole, found, change in hanging:
        trial = f"{found.trial[0]}, {found.trial[1]}" if isinstance(found.trial, tuple) else str(found.trial)
        span = f"{signed(100 * math.expm1(found.low))} to {signed(100 * math.expm1(found.high))}"
        decisive = f"{len(found.decisive)}" if found.decisive else ""
        rows.append([what, title, whole, span, trial, change(found.without), fixed(found.shift, 1), decisive])
    header = ["", "", "all seeds", "one left out, %", "most by trial", "without it", "standard errors", "decisive"]
    d256 = studies["D256"].study
    gelu, relu = (significance.log_pseudo_values(d256.measured[name].pd()) for name in ("gelu", REFERENCE))
    return {
        "single_seeds": rows_of(header, rows, left=2),
        "d256_below": str(int((gelu < relu).sum())),
        "d256_seeds": str(len(gelu)),
        "d256_median": fixed(abs(100 * math.expm1(np.median(gelu - relu))), 1),
        "d256_mean": signed(100 * (d256.test("gelu", "PD").effect - 1)),
    }


def size_and_rate(studies: dict[str, Published]) -> str:
    """GELU against ReLU by width and by learning rate: intervals, no test, as planned."""
    rows = []
    for what, names in (("width", ("D64", "A", "D256")), ("peak learning rate", ("F_half", "A", "F_double"))):
        for name in (name for name in names if name in studies):
            s = studies[name].study
            config = s.measured[REFERENCE].record("config")
            value = config["n_embd"] if what == "width" else f"{config['learning_rate']:g}"
            cells = [effect(s.own("gelu", q)) for q in OUTCOMES]
            rows.append([f"{what} {value}", str(studies[name].trials), fixed(s.pd[REFERENCE]), *cells])
    return rows_of(["", "trainings", "ReLU's PD", "GELU, final models", "at equal annealed loss"], rows)


def checks(main: Published) -> dict[str, str]:
    whole = outcomes(main.study)
    halves = {title: outcomes(half(main, second)) for title, second in (("first half", False), ("second half", True))}
    rows = [
        [title, str(n), *(cell for o in found.values() for cell in (effect(o.test), shown(o)))]
        for title, n, found in [
            ("all", main.trials, whole),
            *((title, main.trials // 2, found) for title, found in halves.items()),
        ]
    ]
    differ = [
        f"{title}, {OUTCOMES[q]}: {shown(found[q])} (all: {shown(whole[q])})"
        for title, found in halves.items()
        for q in OUTCOMES
        if found[q].kind != whole[q].kind
    ]
    same = (
        f"The halves differ from the whole here: {'; '.join(differ)}"
        if differ
        else "The halves say what the whole says"
    )
    twice = same_twice(main)
    ratios = (f"{OUTCOMES[q]} {fixed(t.effect, 3)} [{fixed(t.low, 3)}, {fixed(t.high, 3)}]" for q, t in twice.items())
    contain = all(test.low <= 1 <= test.high for test in twice.values())
    return {
        "halves": rows_of(["", "trainings", "final models", "", "at equal annealed loss", ""], rows),
        "halves_said": same,
        "odd_even": "; ".join(ratios),
        "odd_even_said": "as they should" if contain else "which they should, and do not in all cases",
    }


def departures(studies: dict[str, Published]) -> dict[str, str]:
    """What is not as planned, and what an earlier text said."""
    short = [
        f"- {NAMES[name]}: {studies[name].trials if name in studies else 0} trainings of each; at least "
        f"{planned.least} were planned.\n"
        for name, planned in PLAN.items()
        if name not in studies or not studies[name].complete
    ]
    p = {q: of_all_contrasts(studies, q) for q in OUTCOMES}
    return {
        "short": "".join(short),
        "reached": ", ".join(f"{NAMES[n]} {s.trials} of at most {PLAN[n].most}" for n, s in studies.items()),
        "said_before": listed(f"{title} {p_is(p[q][0])}" for q, title in OUTCOMES.items()),
        "said_now": listed(p_is(p[q][1]) for q in OUTCOMES),
    }


def of_all_contrasts(studies: dict[str, Published], quantity: str) -> tuple[float, float]:
    """p that they have one mean, whatever they are over: by Cochran's test, as an earlier text said, and rightly."""
    own = [found.study.own(SMOOTH, quantity) for found in studies.values() if found.complete]
    estimates, ses, df = ([getattr(test, name) for test in own] for name in ("estimate", "se", "df"))
    weights = np.power(ses, -2.0)
    q = weights @ (estimates - np.average(estimates, weights=weights)) ** 2
    return float(scipy.stats.chi2.sf(q, len(own) - 1)), pooling.heterogeneity_p(estimates, ses, df)


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
