"""Section 1 of the report: lines that need no statistics, and how it was measured.

The lines say what was asked, the answer, how sure it is, which is best in what, what it would take to know more, and
what to do. Every number behind them is in the sections after it (sections.py); the words for verdicts are phrases.py's.
"""

from __future__ import annotations

import dataclasses

from analysis import markdown, phrases
from analysis.markdown import capital, counted, label, labels, safe, span
from analysis.phrases import (
    NAMES,
    base,
    choice,
    in_words,
    influence,
    less,
    margin,
    size,
    standing,
    verdict_words,
    words,
)
from analysis.sections import FEW, cautions, failed_checks, undecided
from analysis.study import WEIGHTINGS, Study
from analysis.template import rendered
from config import Config, without_effect
from storage import number

LINES = 14  # of the summary, at most


# -- what a reader takes away ------------------------------------------------------------------------------------------


def executive_summary(s: Study) -> list[str]:
    """The lines of templates/summary.md, and what must be read with care."""
    lines = [line for line in rendered("summary.md", s=s, say=phrases, md=markdown, **_facts(s)).splitlines() if line]
    care = cautions(s)
    room = LINES - len(lines)
    if len(care) > room:
        care = [*care[: room - 1], f"{counted(len(care) - room + 1, 'more caution')}: see section 5."]
    return [*lines, *(f"**Read with care.** {caution}" for caution in care)]


def _facts(s: Study) -> dict:
    kinds = {t: s.verdict(t, "PD").kind for t in s.primary}
    tested = [t for t in s.tests if t.tested("PD")]
    kind, chosen = choice(s)
    most, alarmed = influence(s), bool(failed_checks(s.checks))
    losses = any(t.tested("Loss") for t in s.primary)
    trials = [t for m in s.measured.values() for t in m.trials.values()]
    undecided_ones, needed, low, high = undecided(s)
    more = needed is not None and {
        "needed": needed,
        "low": low,
        "high": high,
        "several": len(undecided_ones) > 1,
        "enough": needed <= min(min(t.tests["PD"].n) for t in undecided_ones),
        "hours": s.extra_hours(s.fit, needed),
    }
    return {
        "base": base(s),
        "margin": margin(s, "PD"),
        "alarmed": alarmed,
        "failed": alarmed or any(m.audit.startswith("failed") for m in s.measured.values()),
        "tested": any(t.tested("PD") for t in s.primary),
        "any_tested": bool(tested),
        "few": any(min(t.tests["PD"].n) < FEW for t in tested),
        "lower": [t for t, word in kinds.items() if word == "lower"],
        "higher": [t for t, word in kinds.items() if word == "higher"],
        "all_equal": set(kinds.values()) == {"equal"},
        "decisive": most.decisive if most else (),
        "grouped": {"PD": grouped(s, "PD"), "Loss": grouped(s, "Loss") if losses else ""},
        "best": best(s),
        "trainings": len(trials),
        "hours": sum(t.training_time or 0 for t in trials) / 3600,
        "untrained": [n for n, m in s.fit.items() if len(m.pd_ids) < 3],
        "more": more,
        "choice": kind,
        "chosen": chosen,
        "costly": [t.a for t in s.primary if t in chosen and standing(s, t, "Loss") == "worse"],
    }


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


def best(s: Study) -> dict[str, str]:
    """Best overall, in PD and in loss, each with what it isn't shown to differ from."""
    noun = s.question.arm
    overall = [row["Activation"] for row in s.rank(WEIGHTINGS["research focus"]).rows if row["Rank"] == 1]
    rows = {
        f"Best overall {noun}": (overall, [n for n in s.fit if n not in overall], ("PD", "Loss")),
        f"Most reproducible {noun}": (*s.lowest(s.pd), ("PD",)),
        f"Most accurate {noun}": (*s.lowest(s.loss), ("Loss",)),
    }
    return {title: f"{labels(row[0])}{beside(s, row[0][0], *row[1:])}" for title, row in rows.items() if row[0]}


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


# -- how it was measured -----------------------------------------------------------------------------------------------

TOLD_APART = ("dataset", "model")  # in front of others
COMPUTED = ("device", "precision", "compile", "native")  # where it is recorded how it was computed, that says them


def how_measured(s: Study) -> dict[str, str]:
    """The facts of the study, from the first file that records them."""
    studied = list(s.measured.values())
    m = next((m for m in studied if m.results.get("fingerprint")), studied[0])
    corpus, evaluation, environment = (m.record(key) for key in ("dataset", "evaluation", "environment"))
    facts = _settings(m.record("config"), {*COMPUTED} if environment.get("computed") else set())
    parameters = sorted({x for m in studied if (x := number(m.results.get("parameters")))})
    size = f"{span(parameters, 0)} parameters" if parameters else ""
    facts["Model"] = [words("models").get(m.results["model_name"], str(m.results["model_name"])), size, *facts["Model"]]
    if corpus:
        sizes = (form.format(f"{x:,.0f}") for key, form in words("corpus").items() if (x := number(corpus.get(key))))
        facts["Text"] = list(dict.fromkeys([str(corpus.get("name", "")), *sizes, *facts["Text"]]))
    if number(evaluation.get("positions")):
        sha256 = f" (sha256 {evaluation['sha256']:.12})" if evaluation.get("sha256") else ""
        first = f"{evaluation['positions']:,} positions, the same for all models{sha256}"
        facts["Measuring"] = [first, *facts["Measuring"]]
    facts["How it was computed"] = [str(environment.get("computed") or "")]
    facts["Machine"] = _machine(s, environment)
    seeds = [[t.seed for t in m.planned.values()] for m in studied]
    if all(planned == seeds[0] for planned in seeds):
        facts["Seeds"] = [span_of(seeds[0]) + (" of each" if len(studied) > 1 else "")]
    days = sorted({str(m.results["timestamp"])[:10] for m in studied})
    facts["Results of"] = days
    facts["Fingerprint of the settings"] = [str(m.results.get("fingerprint") or "")[:16]]
    lines = {title: ", ".join(filter(None, parts)) for title, parts in facts.items()}
    return {title: safe(line) for title, line in lines.items() if line}


def span_of(seeds: list) -> str:
    """'5000 to 5015' where there are many in a row."""
    if len(seeds) > 3 and all(isinstance(k, int) for k in seeds) and seeds == [*range(seeds[0], seeds[0] + len(seeds))]:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _settings(config: dict, elsewhere: set[str]) -> dict[str, list[str]]:
    """The settings that change results, in groups that fit a line; those without words under "Further"."""
    silent = without_effect(config) | elsewhere
    worded = {name for names in words("settings").values() for name in names} | set(TOLD_APART)
    further = [f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"] and f.name not in worded]
    groups = {**words("settings"), "Further": further}
    return {group: in_words(config, *(name for name in names if name not in silent)) for group, names in groups.items()}


def _machine(s: Study, environment: dict) -> list[str]:
    facts = [
        form.format(str(x)[:30]) for k, form in words("machine").items() if (x := environment.get(k)) not in (None, "")
    ]
    every = [*s.checks, *(c for each in s.measured.values() for c in each.record("audit").get("checks", []))]
    if facts and any("machine" in str(c.get("name")) and c.get("status") == "caution" for c in every):
        facts[-1] += "; not the same for all trials: see above"
    return facts
