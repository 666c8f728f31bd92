"""The words for what tests show, of templates/words.toml: from verdicts to words, and from verdicts to advice.

Page one, findings and conclusions speak by these. Words follow size and scope: a difference that is shown, and shown to
be below the margin, says so; advice asks for a difference that matters, and, where models were compared at equal loss,
that shows there too.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping

import significance
from analysis.markdown import fixed, label, labels, listed, percent_range, safe, span
from analysis.study import PairTests, Study, Tested
from analysis.template import plain
from storage import number
from training.batches import SAMPLE_AND_ORDER, order_varies

NAMES = {"PD": "PD", "Matched_PD": "PD at equal loss", "Loss": "validation loss"}


@functools.cache
def words(kind: str) -> dict:
    """A table of templates/words.toml."""
    return tomllib.loads(plain("words.toml"))[kind]


def base(s: Study) -> str:
    """The baseline by its name."""
    return label(s.question.baseline)


def together(s: Study) -> str:
    """The arms of the planned contrast."""
    return "the smooth ones together" if s.question.about_smoothness else f"{labels(s.question.contrast)} together"


def group_noun(s: Study) -> str:
    return "smooth activations" if s.question.about_smoothness else s.question.arms_noun


def margin(s: Study, quantity: str) -> str:
    """Within what "practically equal" is."""
    return f"{s.margin(quantity):g} nats per token" if quantity == "Loss" else f"{100 * s.margin(quantity):g} %"


def verdict_words(s: Study, quantity: str) -> dict[str, str]:
    """{kind of verdict: words}."""
    return {kind: text.format(margin=margin(s, quantity)) for kind, text in words("verdicts")[quantity].items()}


def verdict_cell(s: Study, t: PairTests, quantity: str) -> str:
    kind = s.verdict(t, quantity).kind
    if kind == "no test":
        return safe(f"no test: {t.tests[quantity].note if quantity in t.tests else t.why_not}")
    words = {"equal": "practically equal", "inconclusive": "inconclusive"}
    return words.get(kind, f"**{kind}**")


def size(s: Study, t: Tested, quantity: str) -> str:
    """How large a difference that was shown is: '2.5 % (1.7 to 3.3 %)'."""
    test = t.tests[quantity]
    change = f"{fixed(abs(100 * (test.effect - 1)), 1)} %" if quantity != "Loss" else fixed(abs(test.effect), 3)
    return f"{change} ({percent_range(test)})"


def less_or_more(ratio: float) -> str:
    """'3.0 % less'."""
    return f"{fixed(abs(100 * (ratio - 1)), 1)} % {'less' if ratio < 1 else 'more'}"


def less(s: Study, t: Tested, quantity: str) -> str:
    """Said behind the size of what doesn't matter."""
    return f", less than the {margin(s, quantity)} declared to matter" if small(s, t, quantity) else ""


def small(s: Study, t: Tested, quantity: str) -> bool:
    """Whether the 95 % interval lies within what counts as equal."""
    test, least = t.tests[quantity], s.margin(quantity)
    if None in (test.low, test.high):
        return False
    if quantity == "Loss":
        return max(abs(test.low), abs(test.high)) <= least
    return 1 - least <= test.low and test.high <= 1 / (1 - least)


def at_equal_loss(s: Study, t: Tested) -> str:
    """Whether a difference in PD that was shown also shows between models that have learnt equally much: 'shown', 'not
    shown', 'reversed', or 'not compared'."""
    if not t.tested("Matched_PD"):
        return "not compared"
    kinds = [s.verdict(t, quantity).kind for quantity in ("PD", "Matched_PD")]
    return "shown" if kinds[0] == kinds[1] else "reversed" if set(kinds) == {"lower", "higher"} else "not shown"


def standing(s: Study, t: Tested, quantity: str) -> str:
    """What a comparison speaks for: 'better' or 'worse' than the baseline; 'small': shown, but below the margin or, of
    PD, not at equal loss; 'equal'; or '' where nothing was shown."""
    kind = s.verdict(t, quantity).kind
    if kind not in ("lower", "higher"):
        return "equal" if kind == "equal" else ""
    if small(s, t, quantity) or (quantity == "PD" and at_equal_loss(s, t) in ("not shown", "reversed")):
        return "small"
    return "better" if kind == "lower" else "worse"


def advice(s: Study, t: Tested) -> str:
    """What to do about an arm, by its comparison with the baseline."""
    pd, loss = standing(s, t, "PD"), standing(s, t, "Loss")
    decided = [x if x in ("better", "worse") else "" for x in (pd, loss)]
    keys = [f"{pd}, {loss}", ", ".join(decided), f"{pd}, ", "better, " if "better" in decided else "worse, "]
    key = next(key for key in keys if key in words("advice") and (key != ", " or pd != "small"))
    return words("advice")[key].format(base=base(s), margin=margin(s, "PD"))


def choice(s: Study) -> tuple[str, list[Tested]]:
    """What the study speaks for in reproducibility, and the comparisons that show it: arms that are 'better' than the
    baseline, or 'better together', or 'worse'; 'small', 'equal', or '' where nothing was shown; 'untested'."""
    if not s.detectable:
        return "untested", []
    standings = {t: standing(s, t, "PD") for t in s.primary}
    together = standing(s, s.contrast, "PD") if s.question.contrast and s.headline_kind("PD") else ""
    better, worse = ([t for t, x in standings.items() if x == kind] for kind in ("better", "worse"))
    if better:
        return "better", better
    if together == "better":
        return "better together", [s.contrast]
    if worse or together == "worse":
        return "worse", worse or [s.contrast]
    if "small" in (*standings.values(), together):
        return "small", []
    equal = bool(standings) and set(standings.values()) == {"equal"}
    return "equal" if equal else "", []


def in_words(config: Mapping, *names: str) -> list[str]:
    """The settings that are recorded and say something, in words."""
    every = {name: form for group in words("settings").values() for name, form in group.items()}
    said = []
    for name in names:
        value, form = config.get(name), every.get(name, name.replace("_", " ") + " {}")
        if value is None or value == []:
            continue
        if isinstance(form, dict):
            form = form.get(str(value).lower(), form.get("other", "{}"))
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        said.append(form.format(f"{value:,}" if type(value) is int else text))
    return list(filter(None, said))


def untested(s: Study) -> str:
    """Why what answers the question could not be tested."""
    h = s.headline
    if h is None:
        return "fewer than three trials of each leave no spread to test with"
    reason = h.reason if h is s.contrast else h.why_not
    return h.tests["PD"].note if "PD" in h.tests else reason


def source(s: Study) -> str:
    """What is changed from trial to trial."""
    vary = next((vary for m in s.measured.values() if (vary := m.record("config").get("vary"))), ())
    alone = {"bit": "the last bit of one initial weight", "none": "the moment it is run"}
    if not vary or "".join(vary) in alone:
        return alone.get("".join(vary), "the random seed")
    return f"the random seed ({listed(what_varies(s))})"


def what_varies(s: Study) -> list[str]:
    """Each source of variation that the settings record and that changes something."""
    m = next((m for m in s.measured.values() if m.record("config").get("vary")), None)
    config, tokens = (m.record("config"), number(m.record("dataset").get("train_tokens"))) if m else ({}, None)
    order = "sample of text" if order_varies(config, tokens) == SAMPLE_AND_ORDER else "order of the text"
    words = {"init": "initial weights", "order": order, "dropout": "dropout masks"}
    named = [source for source in config.get("vary") or () if source != "dropout" or config.get("dropout")]
    return [words.get(source, str(source)) for source in named]


def trained(s: Study) -> str:
    """How many trainings, and how long: steps, and the share of the text that they saw."""
    counts = {len(m.trials) for m in s.fit.values()}
    if not counts:
        return "no training"
    m = next((m for m in s.fit.values() if m.record("config")), None)
    config, tokens = (m.record("config"), number(m.record("dataset").get("train_tokens"))) if m else ({}, None)
    steps, *window = (number(config.get(key)) for key in ("max_iters", "batch_size", "block_size"))
    length = [f"{steps:,.0f} steps"] if steps else []
    if steps and tokens and None not in window:
        length.append(f"{fixed(steps * window[0] * window[1] / tokens, 2)} of the text")
    return f"{span(counts, 0)} trainings of each" + (f" ({', '.join(length)})" if length else "")


def influence(s: Study, quantity: str = "PD") -> significance.Influence | None:
    """How far the answer to the question depends on one trial; None where it could not be tested."""
    if s.headline is None or not s.headline.tested(quantity):
        return None
    without = {k: left.headline.tests.get(quantity) for k, left in s.without.items()}
    return significance.influence(s.headline.tests[quantity], without)
