"""Is this a sound suite? Checks of a comparison's members against one another, each naming the members it found.

Published suites of seeds have had members that were copies of one another, or of another training than their name
said. The checks have the form of the audit's. Beside "pass", "fail" and "not applicable" one has the status "hint": it
goes by names, and may be as intended. No torch here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.check import check as _check
from training.check import listed as _list

COPY = 0.3  # of the group's typical PD: seeds of one recipe are within a few percent of one another
COPY_ACROSS = 0.1  # the same between two groups, whose members may have one seed in common
OUTLIER_RATIOS = {3: 2.0, 4: 1.5}  # of a member's PD to that among the others, in groups of three, of four and more
OUTLIER_DEVIATIONS = 6
OUTLIER_LOSS = 0.1
NOISE = 0.1  # of the smallest PD between two members


@dataclass(frozen=True)
class Examined:
    """What the checks need to know of one member."""

    name: str
    group: str
    val_loss: float | None
    weights_sha256: str | None = None
    coarse_sha256: str | None = None
    steps: int | None = None
    context: int | None = None
    own_pd: float | None = None  # with another batch size or precision


def check(
    members: Sequence[Examined], pd: np.ndarray, unigram_entropy: float, block_size: int, vocab_size: int | None
) -> dict[str, list[dict]]:
    """{group: checks}: those of the whole suite, each failed in the groups of the members that it names.

    Args:
        pd: (n, n) relative PD between members.
        unigram_entropy: nats per token that token frequencies alone give.
        vocab_size: the members' common one; None if it is not known.
    """
    found = [
        _distinct(members, pd),
        _copies(members, pd),
        _outliers(members, pd),
        _learned(members, unigram_entropy),
        _steps(members),
        _context(members, block_size),
        _vocabulary(members, vocab_size),
        _own_noise(members, pd),
    ]
    checks = {}
    for group in dict.fromkeys(m.group for m in members):
        checks[group] = []
        for name, problems, otherwise, threshold, why, kind in found:
            mine = [text for who, text in problems if any(m.group == group for m in who)]
            passed = None if otherwise is None and not mine else not mine
            entry = _check(name, passed, _list(mine, otherwise or "not known"), threshold, why)
            if mine and kind == "hint":
                entry["status"] = "hint"
            checks[group].append(entry)
    return checks


def named(checks: Mapping[str, list[dict]]) -> list[str]:
    """Every problem once, in words: for the screen."""
    lines = [
        f"{c['name']}: {c['measured']}" for group in checks.values() for c in group if c["status"] in ("fail", "hint")
    ]
    return list(dict.fromkeys(lines))


def _pairs(members):
    return itertools.combinations(range(len(members)), 2)


def _alike(members, pd, i, j) -> str | None:
    """What two members have in common to the last bit."""
    a, b = members[i], members[j]
    if a.weights_sha256 and a.weights_sha256 == b.weights_sha256:
        return "weights"
    return "predictions" if pd[i, j] < 1e-6 else None


def _distinct(members, pd):
    problems = [
        ((members[i], members[j]), f"{members[i].name} and {members[j].name} have identical {what}")
        for i, j in _pairs(members)
        if (what := _alike(members, pd, i, j))
    ]
    return (
        "distinct members",
        problems,
        f"{len(members)} members, no two alike",
        "no two members with identical weights or predictions",
        "a model counted twice makes a suite look reproducible",
        "fail",
    )


def _typical(members, pd, group: str, but: tuple = ()) -> float | None:
    """The median PD within a group, one pair left out."""
    values = [pd[i, j] for i, j in _pairs(members) if members[i].group == members[j].group == group and (i, j) != but]
    return float(np.median(values)) if values else None


def _copies(members, pd):
    problems = []
    for i, j in _pairs(members):
        a, b = members[i], members[j]
        if _alike(members, pd, i, j):
            continue
        typical = [t for t in (_typical(members, pd, m.group, (i, j)) for m in (a, b)) if t]
        if a.coarse_sha256 and a.coarse_sha256 == b.coarse_sha256:
            problems.append(((a, b), f"{a.name} and {b.name} have the same weights at different precision"))
        elif typical and pd[i, j] < (COPY if a.group == b.group else COPY_ACROSS) * min(typical):
            text = f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, others of their groups by {min(typical):.2g}"
            problems.append(((a, b), f"{text}: a copy at another precision, or one training at two points?"))
    return (
        "no copies",
        problems,
        "no two members are closer than others of their groups",
        f"relative PD of two members at least {COPY:g} of what is typical of their group, {COPY_ACROSS:g} between "
        f"groups",
        "a copy is no second training: PD among copies says nothing about seeds",
        "fail",
    )


def _outliers(members, pd):
    """A member is an outlier when its PDs with the others of its group are far above those among the others, or its
    loss is far from theirs: by more than their own spread explains and by more than a few percent."""
    problems, tested = [], 0
    for k, m in enumerate(members):
        others = [i for i, o in enumerate(members) if o.group == m.group and i != k]
        if len(others) < 2:
            continue
        tested += 1
        among = np.array([pd[i, j] for i, j in itertools.combinations(others, 2)])
        mine = float(np.mean([pd[k, i] for i in others]))
        ratio = OUTLIER_RATIOS[min(4, len(others) + 1)]
        if mine > max(ratio * among.mean(), among.mean() + OUTLIER_DEVIATIONS * among.std()):
            text = f"{m.name} differs from its group by {mine:.3g} on average, the others among themselves by"
            problems.append(((m,), f"{text} {among.mean():.3g}"))
            continue
        losses = np.array([members[i].val_loss for i in others if members[i].val_loss is not None])
        if m.val_loss is not None and len(losses) > 1:
            typical, spread = float(losses.mean()), float(losses.std(ddof=1))
            if abs(m.val_loss - typical) > max(OUTLIER_LOSS * typical, OUTLIER_DEVIATIONS * spread):
                problems.append(((m,), f"{m.name} has loss {m.val_loss:.4f}, the others of its group {typical:.4f}"))
    return (
        "no outlier",
        problems,
        "no member stands apart from its group" if tested else None,
        f"PD with the others at most twice theirs (1.5 times in a group of four or more), loss within "
        f"{100 * OUTLIER_LOSS:g} % of theirs, or either within {OUTLIER_DEVIATIONS} of their standard deviations",
        "one model of another kind, size or text raises the PD of a whole group",
        "fail",
    )


def _learned(members, unigram_entropy):
    losses = [(m, m.val_loss) for m in members if m.val_loss is not None]
    problems = [
        ((m,), f"{m.name} has loss {loss:.4f}, token frequencies alone give {unigram_entropy:.4f}")
        for m, loss in losses
        if loss >= unigram_entropy
    ]
    return (
        "not broken",
        problems,
        f"losses at most {max(loss for _, loss in losses):.4f} nats/token" if losses else None,
        f"below {unigram_entropy:.4f} nats/token, what this text's token frequencies alone give",
        "a random or damaged model, or one on a text it was not made for, has nothing to reproduce",
        "fail",
    )


def _steps(members):
    problems = []
    for group in dict.fromkeys(m.group for m in members):
        mine = [m for m in members if m.group == group and m.steps is not None]
        if len({m.steps for m in mine}) > 1:
            each = ", ".join(f"{m.name} {m.steps}" for m in mine)
            problems.append((tuple(mine), f"trained to different steps, by their names or records: {each}"))
    known = [m for m in members if m.steps is not None]
    return (
        "same steps",
        problems,
        f"{len(known)} of {len(members)} members name their steps; within each group all the same" if known else None,
        "one number of training steps within a group (a hint: it goes by names and records)",
        "models at different points of training differ by how far they have come, too",
        "hint",
    )


def _context(members, block_size):
    problems = [
        ((m,), f"{m.name} has a context of {m.context}") for m in members if m.context and m.context < block_size
    ]
    known = [m.context for m in members if m.context]
    otherwise = f"windows of {block_size} tokens, contexts of {min(known)} or more" if known else None
    return (
        "within context",
        problems,
        otherwise,
        f"contexts of at least {block_size} tokens",
        "beyond the context it was trained with a model says anything",
        "fail",
    )


def _vocabulary(members, vocab_size):
    return (
        "one vocabulary",
        [],
        f"all members take the text for the same tokens and predict {vocab_size:,}" if vocab_size else None,
        "one tokenizer, one number of tokens predicted (anything else is refused)",
        "distributions over different outcomes have no difference",
        "fail",
    )


def _own_noise(members, pd):
    pairs = [pd[i, j] for i, j in _pairs(members) if not _alike(members, pd, i, j)]
    least = min(pairs, default=0.0)
    known = [(m, m.own_pd) for m in members if m.own_pd is not None]
    problems = [
        ((m,), f"{m.name} differs from itself by {own:.2g} at another batch size or precision")
        for m, own in known
        if own > max(NOISE * least, 1e-5)
    ]
    return (
        "own noise",
        problems,
        f"a member differs from itself by {max(own for _, own in known):.2g} at most" if known else None,
        f"relative PD with itself at another batch size, or in float32, at most {NOISE:g} of the smallest between "
        f"two members",
        "a difference that the machine makes is none between models",
        "fail",
    )
