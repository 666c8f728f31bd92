"""Section 1 of the report: at most ten lines that need no statistics, the terms, and how it was measured.

The lines say what was asked, the answer, how sure it is, what it would take to know more, and what to do. Every number
behind them is in the sections after it (sections.py).
"""

from __future__ import annotations

import dataclasses

from analysis.markdown import (
    capital,
    counted,
    duration,
    fixed,
    label,
    labels,
    listed,
    percent_range,
    safe,
    span,
)
from analysis.sections import FEW, across, base, cautions, failed_checks, margin, undecided, untested
from analysis.study import Study
from config import Config
from significance import Comparison
from storage import number

LINES = 10  # of the summary, at most


# -- what a reader takes away ------------------------------------------------------------------------------------------


def executive_summary(s: Study) -> list[str]:
    lines = [question(s), answer(s), *how_sure(s), *one_by_one(s), *accuracy(s), *to_know_more(s), what_to_do(s)]
    care = cautions(s)
    room = LINES - len(lines)
    if len(care) > room:
        care = [*care[: room - 1], f"{counted(len(care) - room + 1, 'more caution')}: see section 5."]
    lines += [f"**Read with care.** {caution}" for caution in care]
    return [lines[0], "", lines[1], "", *(f"- {line}" for line in lines[2:])]


def source(s: Study) -> str:
    """What is changed from trial to trial."""
    vary = next((vary for m in s.measured.values() if (vary := m.record("config").get("vary"))), ())
    changed = {"bit": "the last bit of one initial weight", "none": "the moment it is run"}
    return changed.get("".join(vary), "the random seed")


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


def trained(s: Study) -> str:
    counts = {len(m.trials) for m in s.fit.values()}
    return f"{span(counts, 0)} trainings of each" if counts else "no training"


def answer(s: Study) -> str:
    """What answers the question: the planned contrast, the comparison of two arms, or each of several."""
    if s.headline is None:
        text = answer_each(s)
    elif kind := s.headline_kind("PD"):
        words = {"lower": "yes", "higher": "no, the opposite", "equal": "no", "inconclusive": "undecided"}
        names = s.headline.names
        models = f"models with {labels(names)}{', taken together,' if len(names) > 1 else ''}"
        said = {
            "lower": f"{models} differ less from one another than models with {base(s)}",
            "higher": f"{models} differ more from one another than models with {base(s)}",
            "equal": f"{models} differ as much from one another as models with {base(s)}",
            "inconclusive": f"{models} can't be told from models with {base(s)}",
        }
        text = (
            f"**Answer: {words[kind]}.** After {trained(s)}, {said[kind]}: {change(s, s.headline.tests['PD'], kind)}."
        )
    else:
        text = f"**Answer: not tested.** {capital(untested(s))}."
    if failed_checks(across(s)):
        text += " **A check across activations failed: don't rely on this before that is explained.**"
    return text


def answer_each(s: Study) -> str:
    """The answer where several arms are compared with the baseline, each by itself."""
    kinds = {t: s.verdict(t, "PD").kind for t in s.primary}
    lower, higher = ([t for t, k in kinds.items() if k == kind] for kind in ("lower", "higher"))
    if not any(t.tested("PD") for t in s.primary):
        return f"**Answer: not tested.** {capital(untested(s)) if len(s.fit) > 1 else 'There is nothing to compare'}."
    if not lower and not higher:
        equal = all(kind == "equal" for kind in kinds.values())
        said = f"differ as much as models with {base(s)}" if equal else f"can't be told from models with {base(s)}"
        return f"**Answer: {'no' if equal else 'undecided'}.** After {trained(s)}, none of the others {said}."
    told = [
        f"models with {label(t.a)} differ {'less' if t in lower else 'more'} by {percent_range(t.tests['PD'])}"
        for t in [*lower, *higher]
    ]
    word = (
        "yes"
        if len(lower) == len(kinds)
        else f"yes, with {labels(t.a for t in lower)}"
        if lower
        else "no, the opposite"
    )
    return f"**Answer: {word}.** After {trained(s)}, compared with {base(s)} {listed(told)} (95 % interval)."


def change(s: Study, test: Comparison, kind: str) -> str:
    if kind == "equal":
        return f"the difference is smaller than {margin(s, 'PD')}"
    if kind == "inconclusive":
        low, high = (f"{fixed(abs(100 * (x - 1)), 1)} % {'less' if x < 1 else 'more'}" for x in (test.low, test.high))
        return f"the truth lies between {low} and {high} (95 % interval)"
    return f"by {percent_range(test)} (95 % interval)"


def how_sure(s: Study) -> list[str]:
    kind = s.headline_kind("PD")
    tested = [t for t in s.tests if t.tested("PD")]
    if not tested:
        return [
            "**How sure.** Fewer than three trials of an activation leave no spread to test with: differences between "
            "their means are no evidence."
        ] * (len(s.fit) > 1)
    parts = [
        "If nothing differed, at most 1 in 20 such reports would claim a difference in reproducibility, and 1 in 10 "
        "any."
    ]
    if min(min(t.tests["PD"].n) for t in tested) < FEW:
        parts.append("With so few trainings the intervals are themselves rough.")
    if kind in ("lower", "higher"):
        parts.append(at_equal_loss(s, kind))
    if before := s.question.earlier:
        asked = listed(f"against {label(q.baseline)}" for q in before)
        parts.append(
            f"This is question {len(before) + 1} asked of these results (before it: {asked}); each has such an error "
            "rate of its own."
        )
    return [f"**How sure.** {' '.join(parts)}"]


def at_equal_loss(s: Study, kind: str) -> str:
    """Whether a difference of the final models also shows between models that have learnt equally much."""
    matched = s.headline_kind("Matched_PD")
    if matched == kind:
        return "At equal validation loss it shows too."
    if matched in ("lower", "higher"):
        return "At equal validation loss it is the other way round, so the question stays open."
    if matched:
        return "At equal validation loss it does not show: how much the models have learnt may explain it."
    return "It could not be compared at equal validation loss."


def one_by_one(s: Study) -> list[str]:
    if not s.primary or (s.headline is not s.contrast and s.headline_kind("PD")):  # then the answer is that comparison
        return []
    words = {
        "lower": "more reproducible (lower PD)",
        "higher": "less reproducible (higher PD)",
        "equal": f"practically equal (±{margin(s, 'PD')})",
        "inconclusive": "undecided",
        "no test": "not tested",
    }
    return [f"**Each against {base(s)}.** {grouped(s, 'PD', words)}"]


def accuracy(s: Study) -> list[str]:
    if not any(t.tested("Loss") for t in s.primary):
        return []
    words = {
        "lower": "lower",
        "higher": "higher",
        "equal": f"practically equal (±{margin(s, 'Loss')})",
        "inconclusive": "no difference shown",
        "no test": "not tested",
    }
    return [f"**Validation loss** (lower predicts better) against {base(s)}. {grouped(s, 'Loss', words)}"]


def grouped(s: Study, quantity: str, words: dict[str, str]) -> str:
    """'Lower: A (by 2 to 5 %). Undecided: B and C.' over the comparisons with ReLU."""
    parts = []
    for kind, word in words.items():
        found = [t for t in s.primary if s.verdict(t, quantity).kind == kind]
        shown = kind in ("lower", "higher")
        names = (label(t.a) + (f" (by {percent_range(t.tests[quantity])})" if shown else "") for t in found)
        parts += [f"{capital(word)}: {listed(names)}."] if found else []
    return " ".join(parts)


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
            "are equal takes more of them: `python train.py --until-decided` adds trials until it is settled."
        ]
    hours = s.extra_hours(s.fit, needed)
    cost = f", {duration(hours)} more here" if hours else ""
    several = "each undecided comparison" if len(tests) > 1 else "the undecided comparison"
    ends = f" ({low} to {high})" if low != high else ""
    return [
        f"**To know more.** Seeing a difference of {margin(s, 'PD')} in {several} takes about {needed} trainings of "
        f"each activation{ends}{cost}; `python train.py --until-decided` adds them until it is settled."
    ]


def what_to_do(s: Study) -> str:
    return f"**What to do.** {advice(s)}"


def advice(s: Study) -> str:
    if any(m.audit.startswith("failed") for m in s.measured.values()) or failed_checks(across(s)):
        return "First find out why checks failed; until then those numbers are no evidence."
    if not s.detectable:
        return f"Nothing yet: train three trials or more of {base(s)} and of another {s.question.arm}."
    lower, higher = s.against_reference("PD", "lower"), s.against_reference("PD", "higher")
    if lower:
        costly = [n for n in lower if n in s.against_reference("Loss", "higher")]
        price = f"; {labels(costly)} at the price of a higher loss" if costly else ""
        return f"Where reproducible predictions matter, take {labels(lower, 'or')}{price}{though_small(s, lower)}."
    kind = s.headline_kind("PD")
    if kind == "lower":
        which = "a smooth activation" if s.question.about_smoothness else f"one of {labels(s.headline.names)}"
        which = f"take {which}; which one is undecided"
        return f"Where reproducible predictions matter, {which}{though_small(s, [])}."
    if higher or kind == "higher":
        return f"Where reproducible predictions matter, keep {base(s)}{though_small(s, higher)}."
    if s.primary and len(s.against_reference("PD", "equal")) == len(s.primary):
        return "Choose by accuracy and speed: these activations are alike in reproducibility."
    return "Choose by accuracy and speed: nothing here speaks for an activation on account of reproducibility."


def though_small(s: Study, names: list[str]) -> str:
    """Said of differences whose 95 % intervals lie within what counts as equal: of these activations, or without any
    of the planned contrast."""
    shown = [t.tests["PD"] for t in s.primary if t.a in names] or [s.headline.tests["PD"]]
    least = 1 - s.margin("PD")
    if all(least <= test.low and test.high <= 1 / least for test in shown):
        what = "all differences" if len(shown) > 1 else "the difference"
        return f"; but {what} shown may be too small to matter: below {margin(s, 'PD')}"
    return ""


# -- the terms ---------------------------------------------------------------------------------------------------------


def terms(s: Study) -> list[str]:
    first = next(iter(s.measured.values()))
    final, probe = (number(first.record(key).get("positions")) for key in ("evaluation", "divergence"))
    at = f"{final:,.0f} fixed positions" if final else "fixed positions"
    along = f"; along training at {probe:,.0f} positions of their own (the *probe*)" if probe else ""
    lines = {
        "Trial": f"one training of a model. Those of an activation differ in {source(s)} alone.",
        "PD": "relative prediction difference of two trials: the mean total-variation distance between their predicted "
        f"distributions, at {at} of the validation text. 0: the same predictions; 1: nothing in common. An "
        "activation's is the mean over pairs of its trials; lower is more reproducible.",
        "Top-1 mismatch": "share of these positions where the most likely tokens of two trials differ.",
        "Validation loss": "mean of −ln of the probability given to the true next token, in nats per token, at all "
        f"evaluated positions of text not trained on{along}. 0.01 more is 1 % more perplexity.",
        "PD at equal loss": f"read off {'between branches' if s.frontiers else 'along training'} where a pair's loss "
        "first falls to a level that every pair compared reaches (section 5).",
        **contrast_terms(s),
        "95 % interval": "made so that it holds the true value in 95 of 100 studies; each for its comparison alone.",
        "Adjusted p": "the chance of a result this extreme where nothing differs, adjusted for the number of "
        "comparisons (Holm) and for their order (section 4).",
        "Moderated": "few trials tell little about a comparison's spread, so it borrows from the mean spread of the "
        "planned comparisons, worth two degrees of freedom.",
        "Lower, higher": "the adjusted p is below 0.05.",
        "Practically equal": f"{margin(s, 'PD')} of PD, or {margin(s, 'Loss')}, more or less is ruled out.",
        "Inconclusive": "neither was shown. That is no evidence that there is no difference.",
        "Hedges' g": "a difference in units of the spread between trials; g_z of paired differences, g_s of groups.",
        "Pareto front": "those that no other beats in one of loss and PD without losing in the other.",
    }
    return ["### Terms", "", *(f"- **{term}**: {text}" for term, text in lines.items())]


def contrast_terms(s: Study) -> dict[str, str]:
    if s.question.about_smoothness:
        return {
            "Smooth": f"differentiable everywhere. {base(s)} has a kink at 0. The *planned contrast* compares the "
            f"smooth ones together, by mean ln PD, with {base(s)}."
        }
    if not s.question.contrast:
        return {}
    return {"Planned contrast": f"{labels(s.question.contrast)} together, by mean ln PD, against {base(s)}."}


# -- how it was measured -----------------------------------------------------------------------------------------------

GROUPS = {  # the settings, by what they are about
    "Layers": "n_layer n_head n_embd block_size dropout bias",
    "Training": "batch_size sampling max_iters learning_rate min_lr warmup_iters weight_decay beta1 beta2 grad_clip",
    "Schedule": "schedule branch_points cooldown",
    "Remedies": "remedy strength teacher averages",
    "Text": "tokenizer bpe_vocab_size train_split",
    "Measuring": "eval_interval eval_tokens probe_tokens",
    "Trials": "seed_base vary",
    "Computing": "device precision threads deterministic compile native",
}


def plain(value) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def how_measured(s: Study) -> list[str]:
    """The facts of the study, from the first file that records them."""
    studied = list(s.measured.values())
    m = next((m for m in studied if m.results.get("fingerprint")), studied[0])
    facts = {
        "Results of": ", ".join(sorted({str(m.results["timestamp"])[:10] for m in studied})),
        **_subjects(m, studied),
        **_settings(m.record("config")),
        **_computing(s, m),
        "Units": "losses in nats per token; times in seconds, of training alone",
        "Fingerprint of the settings": str(m.results.get("fingerprint") or "")[:16],
    }
    lines = [f"- **{what}**: {safe(value)}" for what, value in facts.items() if value]
    return ["### How this was measured", "", *lines]


def _subjects(m, studied) -> dict[str, str]:
    """Corpus, model, positions and seeds."""
    facts, corpus, evaluation = {}, m.record("dataset"), m.record("evaluation")
    if corpus:
        told = {"characters": "characters", "train_tokens": "tokens to train on", "val_tokens": "to validate on"}
        sizes = [f"{x:,.0f} {words}" for key, words in told.items() if (x := number(corpus.get(key)))]
        tokens = f"{corpus.get('tokenizer', '')} tokens, {corpus.get('vocab_size', '')} different ones"
        facts["Corpus"] = f"{corpus.get('name', '')}: {', '.join(sizes)}; {tokens}"
    parameters = sorted({x for m in studied if (x := number(m.results.get("parameters")))})
    counts = " to ".join(f"{x:,.0f}" for x in dict.fromkeys(parameters[:1] + parameters[-1:]))
    facts["Model"] = str(m.results["model_name"]) + (f", {counts} parameters" if counts else "")
    if number(evaluation.get("positions")):
        checksum = str(evaluation.get("sha256"))[:12]
        facts["Evaluated at"] = f"{evaluation['positions']:,} positions, the same for all models (sha256 {checksum})"
    seeds = [[t["seed"] for t in m.planned.values()] for m in studied]
    if all(planned == seeds[0] for planned in seeds):
        facts["Seeds"] = ", ".join(map(str, seeds[0])) + (" for every activation" if len(studied) > 1 else "")
    return facts


def _settings(config: dict) -> dict[str, str]:
    """The settings that change results, in groups that fit a line; those without one under "Further"."""
    groups = {what: names.split() for what, names in GROUPS.items()}
    grouped_ones = {"dataset", "model", *(name for names in groups.values() for name in names)}
    groups["Further"] = [f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"]]
    groups["Further"] = [name for name in groups["Further"] if name not in grouped_ones]
    return {
        what: ", ".join(f"{name} {plain(config[name])}" for name in names if name in config)
        for what, names in groups.items()
    }


def _computing(s: Study, m) -> dict[str, str]:
    environment = {k: v for k, v in m.record("environment").items() if v not in (None, "")}
    computed = environment.pop("computed", None)
    told = [name for name in GROUPS["Computing"].split() if name in m.record("config")]  # once is enough
    machine = ", ".join(f"{k} {plain(v)}" for k, v in environment.items() if k not in told)
    every = [*across(s), *(c for each in s.measured.values() for c in each.record("audit").get("checks", []))]
    if any("machine" in str(c.get("name")) and c.get("status") == "caution" for c in every):
        machine += "; not the same for all trials: see above"
    return {"How it was computed": plain(computed) if computed else "", "Machine": machine}
