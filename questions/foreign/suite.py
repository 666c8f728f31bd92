"""Is this a sound suite? Checks of a comparison's members, of each by itself and against one another, each naming the
members that fail it. What each says and why it matters is in templates/suite.toml.

Published suites of seeds have had members that were copies of one another, or of another training than their name
said. The checks have the form of the audit's. Beside "pass", "fail" and "not applicable" one has the status "hint": it
goes by names, and may be as intended. Broken members leave before anything is said about distances, so that no honest
one is measured by them; bench/suites.py has the rates of false and missed alarms.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.sparse import csgraph

from analysis.template import plain
from questions.foreign.member import Member, copied_at
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
LIMITS = {"NEAR": NEAR, "COPY": COPY, "COPY_ACROSS": COPY_ACROSS, "APART": APART, "APART_OF_THREE": APART_OF_THREE}
LIMITS |= {"OUTLIER_DEVIATIONS": OUTLIER_DEVIATIONS, "outlier_percent": 100 * OUTLIER_LOSS, "NOISE": NOISE}

Problems = Iterator[tuple[tuple[Member, ...], str]]  # the members that have one, and what it is


def check(
    members: Sequence[Member], pd: np.ndarray, unigram_entropy: float, block_size: int, vocab_size: int | None
) -> dict[str, list[dict]]:
    """{group: checks}: those of the whole suite, each failed in the groups of the members that it names.

    Args:
        members: looked at and measured.
        pd: (n, n) relative PD between members.
        unigram_entropy: nats per token that token frequencies alone give.
        vocab_size: the members' common one; None if it is not known.
    """
    suite = Suite(members, pd, unigram_entropy, block_size, vocab_size)
    checks: dict[str, list[dict]] = {group: [] for group in suite.groups}
    for name, words in tomllib.loads(plain("suite.toml")).items():
        values, problems = CHECKS[name](suite)
        problems, values = list(problems), None if values is None else {**suite.values, **values}
        otherwise = "not known" if values is None else words["passes"].format_map(values)
        for group, entries in checks.items():
            own = [text for concerned, text in problems if any(m.group == group for m in concerned)]
            passed = None if values is None and not own else not own
            needed = words["needed"].format_map(suite.values)
            entries.append(_check(name, passed, _list(own, otherwise), needed, words["why"]))
            if own and words.get("hint"):
                entries[-1]["status"] = "hint"
    return checks


def named(checks: Mapping[str, list[dict]]) -> list[str]:
    """Every problem once, in words: for the screen."""
    every = (c for group in checks.values() for c in group if c["status"] in ("fail", "hint"))
    return list(dict.fromkeys(f"{c['name']}: {c['measured']}" for c in every))


class Suite:
    """The members, what is typical of the distances within each group, and who stands apart from it.

    Members that have not learned, and all but one of identical ones, are left out. The others are joined by the
    shortest distances that connect them all (a minimum spanning tree): its edges within a recipe are alike; one far
    longer leads to a member of another kind or to several, one far shorter to a copy. Typical is the median edge.
    """

    def __init__(self, members, pd, unigram_entropy, block_size, vocab_size):
        self.members, self.pd = members, pd
        self.pairs = [(i, j, members[i], members[j]) for i, j in combinations(range(len(members)), 2)]
        self.values = {"unigram_entropy": unigram_entropy, "block_size": block_size, "vocab_size": vocab_size}
        self.values |= {**LIMITS, "all": len(members)}
        self.groups = list(dict.fromkeys(m.group for m in members))
        self.typical: dict[str, float] = {}
        self.apart: dict[int, float] = {}  # member: its distance from the group's larger part
        self.near: list[tuple[int, int, float]] = []  # pairs, and what is typical of their group
        self.odd_loss: dict[int, float] = {}  # member: the others' typical loss
        self.undecided: list[tuple[int, ...]] = []  # three of which two are one training, or one is of another
        self.healthy = [k for k, m in enumerate(members) if m.val_loss is None or m.val_loss < unigram_entropy]
        for group in self.groups:
            healthy = [k for k in self.healthy if members[k].group == group]
            self._examine_losses(healthy)
            sound = [k for k in healthy if k not in self.odd_loss]
            self._examine_distances(group, [k for k in sound if not any(self.alike(i, k) for i in sound if i < k)])

    def alike(self, i: int, j: int) -> str | None:
        """What two members have in common to the last bit."""
        a, b = self.members[i].weights, self.members[j].weights
        if a and b and a.sha256 == b.sha256:
            return "weights"
        return "predictions" if self.pd[i, j] < SAME else None

    def _examine_losses(self, numbers: list[int]) -> None:
        losses = {k: self.members[k].val_loss for k in numbers if self.members[k].val_loss is not None}
        for k, loss in losses.items():
            others = np.array([losses[i] for i in losses if i != k])
            if len(others) > 1:
                typical = float(np.median(others))
                spread = float(np.median(np.abs(others - typical))) * 1.4826  # as a standard deviation, where normal
                if abs(loss - typical) > max(OUTLIER_LOSS * typical, OUTLIER_DEVIATIONS * spread):
                    self.odd_loss[k] = typical

    def _examine_distances(self, group: str, numbers: list[int]) -> None:
        n = len(numbers)
        if n < 2:
            return
        distances = self.pd[np.ix_(numbers, numbers)]
        tree = csgraph.minimum_spanning_tree(distances).tocoo()
        edges = sorted(zip(tree.row, tree.col, tree.data.tolist(), strict=True), key=lambda edge: edge[2])
        lengths = [length for *_, length in edges]
        if n == 3 and lengths[0] < COPY * lengths[1]:
            self.undecided.append(tuple(numbers))
            return
        typical = self.typical[group] = lengths[0] if n <= 3 else float(np.median(lengths))
        limit = max(COPY * typical, NEAR)
        pairs = [(*sorted((numbers[i], numbers[j])), length) for i, j, length in edges if length < limit]
        self.near += [(i, j, NEAR if n == 2 else typical) for i, j, _ in pairs]
        tree.data[tree.data > (APART_OF_THREE if n == 3 else APART) * typical] = 0
        tree.eliminate_zeros()
        parts = csgraph.connected_components(tree, directed=False)[1]
        larger = np.bincount(parts).argmax()
        for k in np.flatnonzero(parts != larger):
            self.apart[numbers[k]] = float(np.median(distances[k, parts == larger]))


# -- each: (values for the words that say that it passes, or None where it isn't known; problems) ----------------------


def _asked(suite: Suite, asked: Sequence, **values) -> dict | None:
    """The words' values of a check that passes; None where no member could be asked."""
    rest = suite.values["all"] - len(asked)
    others = f"; {rest} dumps of predictions can't be asked" if rest else ""
    return {"asked": len(asked), "others": others, **values} if asked else None


def _causal(suite: Suite):
    moved = [m.sees_later_tokens for m in suite.members if m.sees_later_tokens is not None]
    return _asked(suite, moved, largest=max(moved, default=0)), ()


def _taken(suite: Suite):
    loaded = [m for m in suite.members if m.weights]
    notes = dict.fromkeys(f"; {m.name}: {note}" for m in loaded for note in m.notes)
    return _asked(suite, loaded, notes="".join(notes)), ()


def _given_back(suite: Suite):
    shares = [m.text_given_back for m in suite.members if m.text_given_back is not None]
    return _asked(suite, shares, least=100 * min(shares, default=0)), ()


def _vocabulary(suite: Suite):
    beyond = [m.beyond for m in suite.members if m.beyond is not None]
    padded = "; those that only some members have are one outcome, of probability {:.2g} at most"
    return {"padded": padded.format(max(beyond)) if beyond else ""} if suite.values["vocab_size"] else None, ()


def _context(suite: Suite):
    limited = [m for m in suite.members if m.context]
    short = [m for m in limited if m.context < suite.values["block_size"]]
    values = {"least": min(m.context for m in limited)} if limited else None
    return values, (((m,), f"{m.name} has a context of {m.context}") for m in short)


def _own_noise(suite: Suite):
    least = min((suite.pd[i, j] for i, j, *_ in suite.pairs if not suite.alike(i, j)), default=0.0)
    tried = [m for m in suite.members if m.own_pd is not None]
    noisy = [m for m in tried if m.own_pd > max(NOISE * least, 1e-5)]
    text = "{0.name} differs from itself by {0.own_pd:.2g} at another batch size or precision"
    return {"largest": max(m.own_pd for m in tried)} if tried else None, (((m,), text.format(m)) for m in noisy)


def _learned(suite: Suite):
    entropy, losses = suite.values["unigram_entropy"], [m.val_loss for m in suite.members if m.val_loss is not None]
    broken = [m for k, m in enumerate(suite.members) if k not in suite.healthy]
    text = "{0.name} has loss {0.val_loss:.4f}, token frequencies alone give {1:.4f}"
    return {"largest": max(losses)} if losses else None, (((m,), text.format(m, entropy)) for m in broken)


def _distinct(suite: Suite):
    alike = ((a, b, suite.alike(i, j)) for i, j, a, b in suite.pairs)
    return {"asked": len(suite.members)}, (
        ((a, b), f"{a.name} and {b.name} have identical {common}") for a, b, common in alike if common
    )


def _copies(suite: Suite):
    return {}, _each_copy(suite)


def _each_copy(suite: Suite) -> Problems:
    pd, named = suite.pd, set()
    for i, j, a, b in suite.pairs:
        if not (a.weights and b.weights) or suite.alike(i, j):
            continue
        if precision := copied_at(a.weights, b.weights) or copied_at(b.weights, a.weights):
            named.add((i, j))
            yield (a, b), f"{a.name} and {b.name} have the same weights at another precision ({precision})"
    nearer = "less than two trainings do"
    close = [(i, j, nearer if x == NEAR else f"others of their group by {x:.2g}") for i, j, x in suite.near]
    for i, j, a, b in suite.pairs:
        typical = [suite.typical.get(m.group, 0) for m in (a, b)]
        if a.group != b.group and SAME <= pd[i, j] < COPY_ACROSS * min(typical):
            close.append((i, j, f"others of their groups by {min(typical):.2g}"))
    for i, j, others in close:
        if (i, j) not in named:
            a, b = suite.members[i], suite.members[j]
            text = f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, {others}"
            yield (a, b), f"{text}: a copy at another precision, or one training at two points?"
    for three in suite.undecided:
        i, j = min(combinations(three, 2), key=lambda pair: pd[pair])
        a, b, c = (suite.members[k] for k in (i, j, *({*three} - {i, j})))
        text = f"{a.name} and {b.name} differ by {pd[i, j]:.2g}, {c.name} from both by far more"
        yield (a, b, c), f"{text}: two of one training, or one of another kind? Three members can't tell"


def _outliers(suite: Suite):
    groups = [suite.members[k].group for k in suite.healthy]
    return {} if any(groups.count(group) > 2 for group in groups) else None, _each_outlier(suite)


def _each_outlier(suite: Suite) -> Problems:
    """A member is an outlier when its group's larger part is far from it, as its members are not from one another, or
    its loss is far from theirs: by more than their own spread explains and by more than a few percent."""
    for k, typical in suite.odd_loss.items():
        m = suite.members[k]
        yield (m,), f"{m.name} has loss {m.val_loss:.4f}, the others of its group {typical:.4f}"
    for k, distance in suite.apart.items():
        m = suite.members[k]
        typical = suite.typical[m.group]
        yield (m,), f"{m.name} differs from its group by {distance:.3g}, the others among themselves by {typical:.3g}"


def _settings(suite: Suite):
    described = [m for m in suite.members if m.settings]
    return {"asked": len(described)} if described else None, _each_setting(suite, described)


def _each_setting(suite: Suite, described: Sequence[Member]) -> Problems:
    for group in suite.groups:
        own = [m for m in described if m.group == group]
        kinds = {m.settings.get("model_type") for m in own}
        for key in sorted({key for m in own for key in m.settings}) if len(kinds) < 2 else ["model_type"]:
            values = [repr(m.settings.get(key)) for m in own]
            if len(set(values)) > 1:
                usual = max(set(values), key=values.count)
                other = [f"{m.name} {value}" for m, value in zip(own, values, strict=True) if value != usual]
                yield tuple(own), f"{key}: {', '.join(other[:3])}, the others {usual}"


def _parts(suite: Suite):
    """Two trainings share no tensor to the last bit, but for those that were not trained."""
    loaded = [m for m in suite.members if m.weights and m.weights.tensors]
    return {"asked": len(loaded)} if loaded else None, _each_shared_part(loaded)


def _each_shared_part(loaded: Sequence[Member]) -> Problems:
    for a, b in combinations(loaded, 2):
        tensors = a.weights.tensors
        common = sum(b.weights.tensors.get(name) == checksum for name, checksum in tensors.items())
        if a.weights.sha256 != b.weights.sha256 and 2 * common >= len(tensors):
            yield (a, b), f"{a.name} and {b.name} have {common} of {len(tensors)} tensors in common to the last bit"


def _steps(suite: Suite):
    dated = [m for m in suite.members if m.steps is not None]
    problems = []
    for group in suite.groups:
        own = [m for m in dated if m.group == group]
        if len({m.steps for m in own}) > 1:
            each = ", ".join(f"{m.name} {m.steps}" for m in own)
            problems.append((tuple(own), f"trained to different steps, by their names or records: {each}"))
    return {"asked": len(dated)} if dated else None, problems


CHECKS: dict[str, Callable[[Suite], tuple]] = {
    "causal": _causal,
    "weights taken": _taken,
    "text given back": _given_back,
    "one vocabulary": _vocabulary,
    "within context": _context,
    "own noise": _own_noise,
    "not broken": _learned,
    "distinct members": _distinct,
    "no copies": _copies,
    "no outlier": _outliers,
    "one architecture": _settings,
    "nothing in common": _parts,
    "same steps": _steps,
}
