"""Section 1 of the report: lines that need no statistics, and how it was measured.

The lines say what was asked, the answer, how sure it is, which is best in what, what it would take to know more, and
what to do. Every number behind them is in the sections after it (sections.py); the words for verdicts are phrases.py's.
"""

from __future__ import annotations

import dataclasses

from analysis.markdown import capital, counted, duration, fixed, label, labels, listed, safe, span
from analysis.phrases import (
    MODELS,
    NAMES,
    at_equal_loss,
    base,
    choice,
    in_words,
    influence,
    less,
    margin,
    setting_words,
    size,
    source,
    standing,
    trained,
    untested,
    verdict_words,
)
from analysis.sections import FEW, cautions, failed_checks, undecided
from analysis.study import WEIGHTINGS, Study
from config import Config, without_effect
from storage import number

LINES = 14  # of the summary, at most


# -- what a reader takes away ------------------------------------------------------------------------------------------


def executive_summary(s: Study) -> list[str]:
    lines = [question(s), answer(s), *how_sure(s), *one_by_one(s), *accuracy(s), *best(s), *to_know_more(s)]
    lines.append(f"**What to do.** {advice(s)}")
    care = cautions(s)
    room = LINES - len(lines)
    if len(care) > room:
        care = [*care[: room - 1], f"{counted(len(care) - room + 1, 'more caution')}: see section 5."]
    lines += [f"**Read with care.** {caution}" for caution in care]
    return lines


def question(s: Study) -> str:
    q = s.question
    if len(q.arms) < 2:
        return f"**Question.** How far do models with {base(s)} differ from one training to the next?"
    asked = "a smooth activation" if q.about_smoothness else labels(q.contrast or q.others, "or")
    hypothesis = " (Hypothesis, stated before the numbers: they do.)" if q.about_smoothness else ""
    return (
        f"**Question.** A language model trained again, with nothing changed but {source(s)}, predicts differently. Do "
        f"models with {asked} differ less from one training to the next than models with {base(s)}?{hypothesis}"
    )


ANSWERS = {  # of the planned contrast, or of the comparison of two
    "lower": ("yes", "differ less from one another than models with {base}, by {size}"),
    "higher": ("no, the opposite", "differ more from one another than models with {base}, by {size}"),
    "equal": ("no", "differ as much from one another as models with {base}: the difference is smaller than {margin}"),
    "inconclusive": ("undecided", "can't be told from models with {base}: the truth lies between {low} and {high}"),
}


def answer(s: Study) -> str:
    """What answers the question: the planned contrast, the comparison of two arms, or each of several."""
    h = s.headline
    if h is None:
        text = answer_each(s)
    elif kind := s.headline_kind("PD"):
        word, said = ANSWERS[kind]
        models = f"models with {labels(h.names)}{', taken together,' if len(h.names) > 1 else ''}"
        low, high = (
            f"{fixed(abs(100 * (x - 1)), 1)} % {'less' if x < 1 else 'more'}"
            for x in (h.tests["PD"].low, h.tests["PD"].high)
        )
        by = size(s, h, "PD") + less(s, h, "PD") if kind in ("lower", "higher") else ""
        said = said.format(base=base(s), size=by, margin=margin(s, "PD"), low=low, high=high)
        text = f"**Answer: {word}.** After {trained(s)}, {models} {said}."
    else:
        text = f"**Answer: not tested.** {capital(untested(s))}."
    if failed_checks(s.checks):
        text += f" **A check across {s.question.arms_noun} failed: don't rely on this before that is explained.**"
    return text


def answer_each(s: Study) -> str:
    """The answer where several arms are compared with the baseline, each by itself."""
    kinds = {t: s.verdict(t, "PD").kind for t in s.primary}
    lower, higher = ([t for t, k in kinds.items() if k == kind] for kind in ("lower", "higher"))
    if not any(t.tested("PD") for t in s.primary):
        return f"**Answer: not tested.** {capital(untested(s)) if len(s.fit) > 1 else 'There is nothing to compare'}."
    if not lower and not higher:
        equal = all(kind == "equal" for kind in kinds.values())
        said = f"differs from it by as much as {margin(s, 'PD')}" if equal else "can be told from it"
        return (
            f"**Answer: {'no' if equal else 'undecided'}.** After {trained(s)}, compared with {base(s)}, none {said}."
        )
    word = "no, the opposite"
    if lower:
        word = "yes" if len(lower) == len(kinds) else f"yes, with {labels(t.a for t in lower)}"
    parts = [
        f"models with {label(t.a)} differ {'less' if t in lower else 'more'}, by {size(s, t, 'PD')}{less(s, t, 'PD')}"
        for t in [*lower, *higher]
    ]
    return f"**Answer: {word}.** After {trained(s)}, compared with {base(s)}, {listed(parts)}."


def how_sure(s: Study) -> list[str]:
    tested = [t for t in s.tests if t.tested("PD")]
    if not tested:
        return [
            f"**How sure.** Fewer than three trials of any {s.question.arm} leave no spread to test with: differences "
            "between their means are no evidence."
        ] * (len(s.fit) > 1)
    parts = [
        "Intervals are for 95 %. If nothing differed, at most 1 in 20 such reports would claim a difference in "
        "reproducibility, and 1 in 10 any."
    ]
    if min(min(t.tests["PD"].n) for t in tested) < FEW:
        parts.append("With so few trainings the intervals are themselves rough.")
    if s.headline_kind("PD") in ("lower", "higher"):
        words = {
            "shown": "At equal validation loss it shows too.",
            "not shown": "At equal validation loss it is not shown: how much was learnt may explain it.",
            "reversed": "At equal validation loss it is the other way round, so the question stays open.",
            "not compared": "It was not compared at equal validation loss.",
        }
        parts.append(words[at_equal_loss(s, s.headline)])
    most = influence(s)
    if most and most.decisive:
        parts.append(f"It hangs on trial {', '.join(map(str, most.decisive))}: without it the test says otherwise.")
    if before := s.question.earlier:
        asked = listed(f"against {label(q.baseline)}" for q in before)
        parts.append(
            f"This is question {len(before) + 1} asked of these results (before it: {asked}); each has such an error "
            "rate of its own."
        )
    return [f"**How sure.** {' '.join(parts)}"]


def one_by_one(s: Study) -> list[str]:
    if not s.primary or not s.question.contrast:  # then the answer names each
        return []
    return [f"**Each against {base(s)}.** {grouped(s, 'PD')}"]


def accuracy(s: Study) -> list[str]:
    if not any(t.tested("Loss") for t in s.primary):
        return []
    return [f"**Validation loss** (lower predicts better) against {base(s)}. {grouped(s, 'Loss')}"]


def grouped(s: Study, quantity: str) -> str:
    """'Lower: A, by 3 % (2 to 5 %). Undecided: B and C.' over the planned comparisons."""
    parts = []
    shown = [t for t in s.primary if s.verdict(t, quantity).kind in ("lower", "higher")]
    all_less = len(shown) > 1 and all(less(s, t, quantity) for t in shown)
    for kind, word in verdict_words(s, quantity).items():
        tests = [t for t in s.primary if s.verdict(t, quantity).kind == kind]
        if tests and kind in ("lower", "higher"):
            sizes = (size(s, t, quantity) + ("" if all_less else less(s, t, quantity)) for t in tests)
            names = "; ".join(f"{label(t.a)}, by {by}" for t, by in zip(tests, sizes, strict=True))
            parts.append(f"{capital(word)}: {names}.")
        elif tests:
            parts.append(f"{capital(word)}: {labels(t.a for t in tests)}.")
    if all_less:
        parts.append(f"Each is{less(s, shown[0], quantity).removeprefix(',')}.")
    return " ".join(parts)


def best(s: Study) -> list[str]:
    """Best overall, in PD and in loss, each with what it isn't shown to differ from; and the effort."""
    lines, noun = [], s.question.arm
    overall = [row["Activation"] for row in s.rank(WEIGHTINGS["research focus"]).rows if row["Rank"] == 1]
    for what, first, others, quantities in (
        (f"Best overall {noun}", overall, [n for n in s.fit if n not in overall], ("PD", "Loss")),
        (f"Most reproducible {noun}", *s.lowest(s.pd), ("PD",)),
        (f"Most accurate {noun}", *s.lowest(s.loss), ("Loss",)),
    ):
        if first:
            lines.append(f"**{what}**: {labels(first)}{beside(s, first[0], others, quantities)}.")
    time = sum(t.training_time or 0 for m in s.measured.values() for t in m.trials.values())
    count = sum(len(m.trials) for m in s.measured.values())
    took = f", {duration(time / 3600)} of training in all" if time else ""
    arms = counted(len(s.measured), noun)
    return [*lines, f"**Total experiments and time**: {counted(count, s.question.training)} of {arms}{took}."]


def beside(s: Study, first: str, others: list[str], quantities: tuple[str, ...]) -> str:
    """What the first isn't shown to differ from by these quantities, and what it is shown lower or higher than."""
    kinds = {n: [s.kind(first, n, quantity) for quantity in quantities] for n in others}
    alike = [n for n, verdicts in kinds.items() if not {"lower", "higher"} & set(verdicts)]
    parts = [f"not shown to differ from {labels(alike, 'or')}"] if alike else []
    for i, quantity in enumerate(quantities):
        for kind in ("lower", "higher"):
            names = [n for n, verdicts in kinds.items() if verdicts[i] == kind]
            parts += [f"shown {kind} in {NAMES[quantity]} than {labels(names)}"] if names else []
    return "".join(f"{', ' if i == 0 else '; '}{part}" for i, part in enumerate(parts))


def to_know_more(s: Study) -> list[str]:
    few = [n for n, m in s.fit.items() if len(m.pd_ids) < 3]
    if few:
        return [f"**To know more**, train at least three trials of each; fewer have a PD of {labels(few)}."]
    tests, needed, low, high = undecided(s)
    if not tests or needed is None:
        return []
    if needed <= min(min(t.tests["PD"].n) for t in tests):
        return [
            f"**To know more.** These trials would have found a difference of {margin(s, 'PD')}; to show that the rest "
            f"are equal takes more of them: {s.command('--until-decided')} adds trials until it is settled."
        ]
    hours = s.extra_hours(s.fit, needed)
    cost = f", {duration(hours)} more here" if hours else ""
    several = "each undecided comparison" if len(tests) > 1 else "the undecided comparison"
    ends = f" ({low} to {high})" if low != high else ""
    return [
        f"**To know more.** Seeing a difference of {margin(s, 'PD')} in {several} takes about {needed} trainings of "
        f"each {s.question.arm}{ends}{cost}; {s.command('--until-decided')} adds them until it is settled."
    ]


def advice(s: Study) -> str:
    """One sentence: by differences that matter, and show at equal loss where models were compared there."""
    if any(m.audit.startswith("failed") for m in s.measured.values()) or failed_checks(s.checks):
        return "First find out why checks failed; until then those numbers are no evidence."
    if len(s.question.arms) < 2:
        return f"Train another {s.question.arm} to compare it with."
    where, accuracy = "Where reproducible predictions matter", "Choose by accuracy and speed"
    kind, tests = choice(s)
    if kind == "better":
        costly = [t.a for t in tests if standing(s, t, "Loss") == "worse"]
        price = f"; {labels(costly)} at the price of a higher loss" if costly else ""
        return f"{where}, take {labels((t.a for t in tests), 'or')}{price}."
    which = "a smooth activation" if s.question.about_smoothness else f"one of {labels(s.contrast.names)}"
    return {
        "untested": f"Nothing yet: train three trials or more of {base(s)} and of another {s.question.arm}.",
        "better together": f"{where}, take {which}; which one is undecided.",
        "worse": f"{where}, keep {base(s)}.",
        "small": f"{accuracy}: what was shown in reproducibility is below what was declared to matter, or not there at "
        "equal loss.",
        "equal": f"{accuracy}: these {s.question.arms_noun} are alike in reproducibility.",
        "": f"{accuracy}: nothing here speaks for any {s.question.arm} on account of reproducibility.",
    }[kind]


# -- how it was measured -----------------------------------------------------------------------------------------------

SIZES = {  # of the corpus
    "characters": "{} characters",
    "train_tokens": "{} tokens to train on",
    "val_tokens": "{} to validate on",
    "vocab_size": "vocabulary of {}",
}
TOLD_APART = ("dataset", "model")  # in front of others
COMPUTED = ("device", "precision", "compile", "native")  # where it is recorded how it was computed, that says them
MACHINE = {
    "python": "Python {}",
    "torch": "torch {}",
    "numpy": "NumPy {}",
    "device_name": "{}",
    "cpu_cores": "{} cores",
}
MACHINE["git_commit"] = "code {:.12}"  # the rest is in the results


def how_measured(s: Study) -> dict[str, str]:
    """The facts of the study, from the first file that records them."""
    studied = list(s.measured.values())
    m = next((m for m in studied if m.results.get("fingerprint")), studied[0])
    corpus, evaluation, environment = (m.record(key) for key in ("dataset", "evaluation", "environment"))
    facts = _settings(m.record("config"), {*COMPUTED} if environment.get("computed") else set())
    parameters = sorted({x for m in studied if (x := number(m.results.get("parameters")))})
    size = f"{span(parameters, 0)} parameters" if parameters else ""
    facts["Model"] = [MODELS.get(m.results["model_name"], str(m.results["model_name"])), size, *facts["Model"]]
    if corpus:
        sizes = (words.format(f"{x:,.0f}") for key, words in SIZES.items() if (x := number(corpus.get(key))))
        facts["Text"] = list(dict.fromkeys([str(corpus.get("name", "")), *sizes, *facts["Text"]]))
    if number(evaluation.get("positions")):
        first = (
            f"{evaluation['positions']:,} positions, the same for all models (sha256 {evaluation.get('sha256'):.12})"
        )
        facts["Measuring"] = [first, *facts["Measuring"]]
    facts["How it was computed"] = [str(environment.get("computed") or "")]
    facts["Machine"] = _machine(s, environment)
    seeds = [[t.seed for t in m.planned.values()] for m in studied]
    if all(planned == seeds[0] for planned in seeds):
        facts["Seeds"] = [span_of(seeds[0]) + (" of each" if len(studied) > 1 else "")]
    days = sorted({str(m.results["timestamp"])[:10] for m in studied})
    facts["Results of"] = days
    facts["Fingerprint of the settings"] = [str(m.results.get("fingerprint") or "")[:16]]
    lines = {what: ", ".join(filter(None, words)) for what, words in facts.items()}
    return {what: safe(line) for what, line in lines.items() if line}


def span_of(seeds: list) -> str:
    """'5000 to 5015' where there are many in a row."""
    if len(seeds) > 3 and all(isinstance(k, int) for k in seeds) and seeds == [*range(seeds[0], seeds[0] + len(seeds))]:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _settings(config: dict, elsewhere: set[str]) -> dict[str, list[str]]:
    """The settings that change results, in groups that fit a line; those without words under "Further"."""
    silent = without_effect(config) | elsewhere
    worded = {name for names in setting_words().values() for name in names} | set(TOLD_APART)
    further = [f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"] and f.name not in worded]
    groups = {**setting_words(), "Further": further}
    return {group: in_words(config, *(name for name in names if name not in silent)) for group, names in groups.items()}


def _machine(s: Study, environment: dict) -> list[str]:
    facts = [words.format(str(x)[:30]) for k, words in MACHINE.items() if (x := environment.get(k)) not in (None, "")]
    every = [*s.checks, *(c for each in s.measured.values() for c in each.record("audit").get("checks", []))]
    if facts and any("machine" in str(c.get("name")) and c.get("status") == "caution" for c in every):
        facts[-1] += "; not the same for all trials: see above"
    return facts
