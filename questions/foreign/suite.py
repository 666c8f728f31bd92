"""Is this a sound suite? Checks of a comparison's members, of each by itself and against one another, each naming the
members that fail it.

Published suites of seeds have had members that were copies of one another, or of another training than their name
said. The checks have the form of the audit's. Beside "pass", "fail" and "not applicable" one has the status "hint": it
goes by names, and may be as intended. Broken members leave before anything is said about distances, so that no honest
one is measured by them; bench/suites.py has the rates of false and missed alarms.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from questions.foreign.member import Weights, copied_at
from training.check import check as _check
from training.check import listed as _list

SAME = 1e-6  # relative PD: no more than rounding
NEAR = 1e-3  # closer than two trainings come
COPY = 0.3  # of the group's typical PD: seeds of one recipe are within a few percent of one another
COPY_ACROSS = 0.1  # the same between two groups, whose members may have one seed in common
APART = 1.5  # of the group's typical PD
APART_OF_THREE = 2.0  # where one distance is all there is to compare with
OUTLIER_DEVIATIONS = 6
OUTLIER_LOSS = 0.1
NOISE = 0.1  # of the smallest PD between two members


@dataclass(frozen=True)
class Examined:
    """What the checks need to know of one member."""

    name: str
    group: str
    val_loss: float | None
    weights: Weights | None = None
    steps: int | None = None
    context: int | None = None
    own_pd: float | None = None  # with another batch size or precision
    sees_later_tokens: float | None = None
    text_given_back: float | None = None
    beyond: float | None = None
    settings: Mapping = field(default_factory=dict)
    notes: Sequence[str] = ()


def check(
    members: Sequence[Examined], pd: np.ndarray, unigram_entropy: float, block_size: int, vocab_size: int | None
) -> dict[str, list[dict]]:
    """{group: checks}: those of the whole suite, each failed in the groups of the members that it names.

    Args:
        pd: (n, n) relative PD between members.
        unigram_entropy: nats per token that token frequencies alone give.
        vocab_size: the members' common one; None if it is not known.
    """
    distances = _Distances(members, pd, unigram_entropy)
    rows = [
        _causal(members),
        _taken(members),
        _given_back(members),
        _vocabulary(members, vocab_size),
        _context(members, block_size),
        _own_noise(members, pd),
        _learned(members, unigram_entropy),
        _distinct(members, pd),
        _copies(members, distances),
        _outliers(members, distances),
        _settings(members),
        _parts(members),
        _steps(members),
    ]
    checks = {}
    for group in dict.fromkeys(m.group for m in members):
        checks[group] = []
        for name, problems, otherwise, threshold, why, kind in rows:
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
    if a.weights and b.weights and a.weights.sha256 == b.weights.sha256:
        return "weights"
    return "predictions" if pd[i, j] < SAME else None


# -- each by itself: what fails these is refused before anything is measured, and so is here for the record -----------


def _said_of(values: Sequence, all_of_them: int) -> str:
    """How many members a statement is about, where not all."""
    rest = all_of_them - len(values)
    return f"; {rest} dumps of predictions can't be asked" if rest else ""


def _causal(members):
    asked = [m.sees_later_tokens for m in members if m.sees_later_tokens is not None]
    return (
        "causal",
        [],
        f"with later tokens changed, earlier predictions of {len(asked)} members move by at most {max(asked):.2g} of "
        f"what later ones do{_said_of(asked, len(members))}"
        if asked
        else None,
        "no more than rounding (anything else is refused)",
        "a model that sees the token it predicts has nothing to predict",
        "fail",
    )


def _taken(members):
    loaded = [m for m in members if m.weights]
    notes = list(dict.fromkeys(f"{m.name}: {note}" for m in loaded for note in m.notes))
    return (
        "weights taken",
        [],
        "; ".join([f"every weight of {len(loaded)} members' files, none missing, all finite", *notes])
        + _said_of(loaded, len(members))
        if loaded
        else None,
        "every weight on disk is the model's, and the other way round (anything else is refused)",
        "a model with random or without some of its weights is another model",
        "fail",
    )


def _given_back(members):
    shares = [m.text_given_back for m in members if m.text_given_back is not None]
    return (
        "text given back",
        [],
        f"decoding the tokens gives {100 * min(shares):.4g} % of the text's characters{_said_of(shares, len(members))}"
        if shares
        else None,
        "at least 95 % (anything less is refused)",
        "a tokenizer that leaves out what it doesn't know leaves an easier text",
        "fail",
    )


# -- distances ----------------------------------------------------------------------------------------------------


class _Distances:
    """What is typical within each group, and who stands apart from it.

    Members that have not learned, and all but one of identical ones, are left out. The others are joined by the
    shortest distances that connect them all (a minimum spanning tree): its edges within a recipe are alike; one far
    longer leads to a member of another kind or to several, one far shorter to a copy. Typical is the median edge.
    """

    def __init__(self, members, pd, unigram_entropy):
        self.members, self.pd = members, pd
        self.typical: dict[str, float] = {}
        self.apart: dict[int, float] = {}  # member: its distance from the group's larger part
        self.near: list[tuple[int, int, float]] = []  # pairs, and what is typical of their group
        self.healthy: set[int] = set()
        self.odd_loss: dict[int, float] = {}  # member: the others' typical loss
        self.undecided: list[tuple[int, ...]] = []  # three of which two are one training, or one is of another
        for group in dict.fromkeys(m.group for m in members):
            mine = [k for k, m in enumerate(members) if m.group == group]
            healthy = [k for k in mine if members[k].val_loss is None or members[k].val_loss < unigram_entropy]
            self.healthy |= set(healthy)
            self._examine_losses(healthy)
            sound = [k for k in healthy if k not in self.odd_loss]
            distinct = [k for k in sound if not any(_alike(members, pd, i, k) for i in sound if i < k)]
            self._examine(group, distinct)

    def _examine_losses(self, ks: list[int]) -> None:
        losses = {k: self.members[k].val_loss for k in ks if self.members[k].val_loss is not None}
        for k, loss in losses.items():
            others = np.array([losses[i] for i in losses if i != k])
            if len(others) > 1:
                typical = float(np.median(others))
                spread = float(np.median(np.abs(others - typical))) * 1.4826  # as a standard deviation, where normal
                if abs(loss - typical) > max(OUTLIER_LOSS * typical, OUTLIER_DEVIATIONS * spread):
                    self.odd_loss[k] = typical

    def _examine(self, group: str, ks: list[int]) -> None:
        if len(ks) == 2:
            i, j = ks
            self.typical[group] = self.pd[i, j]
            if self.pd[i, j] < NEAR:
                self.near.append((i, j, NEAR))
        if len(ks) < 3:
            return
        edges = _tree(self.pd, ks)
        lengths = sorted(length for *_, length in edges)
        if len(ks) == 3 and lengths[0] < COPY * lengths[1]:
            self.undecided.append(tuple(ks))
            return
        typical = lengths[0] if len(ks) == 3 else float(np.median(lengths))
        self.typical[group] = typical
        parts = [{k} for k in ks]
        for i, j, length in edges:
            if length <= (APART_OF_THREE if len(ks) == 3 else APART) * typical:
                one, other = (next(p for p in parts if k in p) for k in (i, j))
                parts = [p for p in parts if p not in (one, other)] + [one | other]
            if length < max(COPY * typical, NEAR):
                self.near.append((i, j, typical))
        core = max(parts, key=len)
        for k in ks:
            if k not in core:
                self.apart[k] = float(np.median([self.pd[k, i] for i in core]))


def _tree(pd, ks: list[int]) -> list[tuple[int, int, float]]:
    """The edges (i, j, length) of the minimum spanning tree (Prim 1957)."""
    inside, edges = [ks[0]], []
    while len(inside) < len(ks):
        i, j = min(((i, j) for i in inside for j in ks if j not in inside), key=lambda pair: pd[pair])
        edges.append((i, j, float(pd[i, j])))
        inside.append(j)
    return edges


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


def _copies(members, distances):
    pd, problems, named = distances.pd, [], set()
    for i, j in _pairs(members):
        a, b = members[i], members[j]
        if not (a.weights and b.weights) or _alike(members, pd, i, j):
            continue
        if precision := copied_at(a.weights, b.weights) or copied_at(b.weights, a.weights):
            text = f"{a.name} and {b.name} have the same weights at another precision ({precision})"
            problems.append(((a, b), text))
            named.add((i, j))
    for i, j, typical in distances.near:
        if (min(i, j), max(i, j)) not in named:
            a, b = members[i], members[j]
            text = f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, others of their group by {typical:.2g}"
            if typical == NEAR:
                text = f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, less than two trainings do"
            problems.append(((a, b), f"{text}: a copy at another precision, or one training at two points?"))
    for i, j in _pairs(members):
        a, b = members[i], members[j]
        typical = [distances.typical.get(m.group) for m in (a, b)]
        if (
            a.group != b.group
            and all(typical)
            and (i, j) not in named
            and SAME <= pd[i, j] < COPY_ACROSS * min(typical)
        ):
            text = f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, others of their groups by {min(typical):.2g}"
            problems.append(((a, b), f"{text}: a copy at another precision, or one training at two points?"))
    for ks in distances.undecided:
        (i, j), third = min(
            ((pair, set(ks) - set(pair)) for pair in itertools.combinations(ks, 2)), key=lambda x: pd[x[0]]
        )
        a, b, c = members[i], members[j], members[third.pop()]
        text = (
            f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, {c.name} from both by far more: two of one training, or "
        )
        problems.append(((a, b, c), f"{text}one of another kind? Three members can't tell"))
    return (
        "no copies",
        problems,
        "no two members are closer than others of their groups",
        f"relative PD of two members at least {COPY:g} of what is typical of their group, {COPY_ACROSS:g} between "
        f"groups, {NEAR:g} in any; no weights that are another's, rounded",
        "a copy is no second training: PD among copies says nothing about seeds",
        "fail",
    )


def _outliers(members, distances):
    """A member is an outlier when its group's larger part is far from it, as its members are not from one another, or
    its loss is far from theirs: by more than their own spread explains and by more than a few percent."""
    problems = []
    for k, typical in distances.odd_loss.items():
        m = members[k]
        text = f"{m.name} has loss {m.val_loss:.4f}, the others of its group {typical:.4f}"
        problems.append(((m,), text))
    for k, distance in distances.apart.items():
        m = members[k]
        text = f"{m.name} differs from its group by {distance:.3g}, the others among themselves by"
        problems.append(((m,), f"{text} {distances.typical[m.group]:.3g}"))
    groups = [members[k].group for k in distances.healthy]
    tested = any(groups.count(group) > 2 for group in groups)
    return (
        "no outlier",
        problems,
        "no member stands apart from its group" if tested else None,
        f"PD with the nearest other at most {APART:g} times what is typical ({APART_OF_THREE:g} in a group of three), "
        f"loss within {100 * OUTLIER_LOSS:g} % of the group's median or {OUTLIER_DEVIATIONS} of its deviations",
        "one model of another kind, size or text raises the PD of a whole group",
        "fail",
    )


def _settings(members):
    problems = []
    described = [m for m in members if m.settings]
    for group in dict.fromkeys(m.group for m in described):
        mine = [m for m in described if m.group == group]
        keys = sorted({key for m in mine for key in m.settings})
        for key in keys if len({m.settings.get("model_type") for m in mine}) < 2 else ["model_type"]:
            values = [repr(m.settings.get(key)) for m in mine]
            if len(set(values)) > 1:
                usual = max(set(values), key=values.count)
                other = [m for m, value in zip(mine, values, strict=True) if value != usual]
                each = ", ".join(f"{m.name} {m.settings.get(key)!r}" for m in other[:3])
                problems.append((tuple(mine), f"{key}: {each}, the others {usual}"))
    return (
        "one architecture",
        problems,
        f"the settings of {len(described)} members are the same within each group" if described else None,
        "no setting of config.json that changes predictions differs within a group",
        "models of two kinds, or one whose settings were edited after training, are no seeds of one recipe",
        "fail",
    )


def _parts(members):
    """Two trainings share no tensor to the last bit, but for those that were not trained."""
    problems = []
    loaded = [m for m in members if m.weights and m.weights.tensors]
    for a, b in itertools.combinations(loaded, 2):
        common = sum(b.weights.tensors.get(name) == checksum for name, checksum in a.weights.tensors.items())
        if a.weights.sha256 != b.weights.sha256 and 2 * common >= len(a.weights.tensors):
            of = f"{common} of {len(a.weights.tensors)} tensors"
            problems.append(((a, b), f"{a.name} and {b.name} have {of} in common to the last bit"))
    return (
        "nothing in common",
        problems,
        f"the tensors of {len(loaded)} members differ" if loaded else None,
        "less than half of two members' tensors the same to the last bit (a hint: parts may have been frozen)",
        "a file that was changed after training is not another training",
        "hint",
    )


# -- and the rest -------------------------------------------------------------------------------------------------


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
    dated = [m for m in members if m.steps is not None]
    return (
        "same steps",
        problems,
        f"{len(dated)} of {len(members)} members name their steps; within each group all the same" if dated else None,
        "one number of training steps within a group (a hint: it goes by names and records)",
        "models at different points of training differ by how far they have come, too",
        "hint",
    )


def _context(members, block_size):
    problems = [
        ((m,), f"{m.name} has a context of {m.context}") for m in members if m.context and m.context < block_size
    ]
    contexts = [m.context for m in members if m.context]
    otherwise = f"windows of {block_size} tokens, contexts of {min(contexts)} or more" if contexts else None
    return (
        "within context",
        problems,
        otherwise,
        f"contexts of at least {block_size} tokens",
        "beyond the context it was trained with a model says anything",
        "fail",
    )


def _vocabulary(members, vocab_size):
    beyond = [m.beyond for m in members if m.beyond is not None]
    padded = (
        f"; those that only some members have are one outcome, of probability {max(beyond):.2g} at most"
        if beyond
        else ""
    )
    return (
        "one vocabulary",
        [],
        f"all members take the text for the same tokens and predict {vocab_size:,}{padded}" if vocab_size else None,
        "one tokenizer, one number of tokens predicted, padding apart (anything else is refused)",
        "distributions over different outcomes have no difference",
        "fail",
    )


def _own_noise(members, pd):
    pairs = [pd[i, j] for i, j in _pairs(members) if not _alike(members, pd, i, j)]
    least = min(pairs, default=0.0)
    measured = [(m, m.own_pd) for m in members if m.own_pd is not None]
    problems = [
        ((m,), f"{m.name} differs from itself by {own:.2g} at another batch size or precision")
        for m, own in measured
        if own > max(NOISE * least, 1e-5)
    ]
    return (
        "own noise",
        problems,
        f"a member differs from itself by {max(own for _, own in measured):.2g} at most" if measured else None,
        f"relative PD with itself at another batch size, or in float32, at most {NOISE:g} of the smallest between "
        f"two members",
        "a difference that the machine makes is none between models",
        "fail",
    )
