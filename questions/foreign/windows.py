"""The positions at which all members are compared: windows of tokens in a text, or the rows of dumps."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

import metrics
from config import UserError
from questions.foreign.member import Member

MAX_BLOCK_SIZE = 2048  # by default: beyond it attention costs more than it tells


@dataclass(eq=False)
class Positions:
    """W windows of T positions each: N = W T predictions, each of the token that follows."""

    block_size: int
    targets: np.ndarray  # (N,) int64
    starts: np.ndarray | None = None  # (W,) where the windows begin; None where dumps alone are compared
    tokens: np.ndarray | None = field(default=None, repr=False)  # of the whole text
    characters: int | None = None  # of the text

    @property
    def windows(self) -> int:
        return len(self.targets) // self.block_size

    @property
    def described(self) -> str:
        windows = f"{self.windows} windows of {self.block_size}"
        return f"{len(self.targets):,} positions: {windows}, sha256 {self.sha256[:12]}…"

    @cached_property
    def sha256(self) -> str:
        if self.tokens is None:
            return hashlib.sha256(self.targets.astype("<i8").tobytes()).hexdigest()
        return metrics.windows_checksum(self.tokens, self.starts, self.block_size)

    def inputs(self, first: int, last: int) -> np.ndarray:
        """(last - first, T) int64: what windows first…last - 1 are predicted from."""
        return self.tokens[self.starts[first:last, None] + np.arange(self.block_size)]

    def unigram(self) -> dict:
        """What is known of the text's token frequencies, under the names that results use.

        `unigram_entropy` is what a token costs by the frequencies of all the others: each token is left out when it
        is predicted, and those seen once share what an unseen one would get. An estimate without a training text that
        short texts don't flatter, nats per token.
        """
        seen = self.targets if self.tokens is None else self.tokens
        counts = np.unique(seen, return_counts=True)[1]
        n, once = counts.sum(), int((counts == 1).sum())
        often = counts[counts > 1]
        entropy = -(often * np.log((often - 1) * (n - once) / np.maximum((often - 1).sum(), 1) / n)).sum() / n
        if once:
            entropy -= once / n * np.log(once / n / max(once, len(counts)))
        return {"unigram_entropy": float(entropy), "majority_accuracy": float(100 * counts.max() / n)}


def of_dumps(members: Sequence[Member], block_size: int | None) -> Positions:
    """The rows of dumps, as windows of `block_size` (None: one window, so without standard errors).

    Raises:
        UserError: they hold other numbers of rows or other targets.
    """
    first = members[0]
    for member in members[1:]:
        refuse_other_targets(member, first.targets, first.name)
    N = first.positions
    T = N if block_size is None else block_size
    if T < 1 or N % T:
        raise UserError(f"block_size={T}: {first.path} has {N} positions, which are not whole windows of that length")
    return Positions(T, first.targets)


def refuse_other_targets(member, targets: np.ndarray, of: str) -> None:
    """Raises UserError unless a dump's targets are these."""
    if member.positions != len(targets):
        raise UserError(f"{member.name} has {member.positions} positions, {of} has {len(targets)}: not the same ones")
    differ = np.flatnonzero(member.targets != targets)
    if len(differ):
        raise UserError(
            f"{member.name} and {of} have other targets, first at row {differ[0]} ({member.targets[differ[0]]} and "
            f"{targets[differ[0]]}): not the same positions, or another tokenizer"
        )


def of_text(members: Sequence[Member], text: str, block_size: int | None, positions: int) -> Positions:
    """Evenly spaced windows in a text, the same for all members: as many as `positions` are in.

    Args:
        members: models and dumps; dumps must have the windows' targets.
        block_size: tokens of context, T; None: the shortest context among the members, at most 2048.

    Raises:
        UserError: the text is too short; the members' tokenizers take it for different tokens; windows are longer
            than a member's context. The message names the members.
    """
    models = [m for m in members if not m.is_dump]
    if not text.strip():
        raise UserError("text: it is empty")
    tokens = shared_tokens(models, text)
    contexts = {m.name: m.context for m in models if m.context}
    T = block_size or min([*contexts.values(), MAX_BLOCK_SIZE, max(1, len(tokens) - 1)])
    short = [f"{name} ({context})" for name, context in contexts.items() if context < T]
    if short:
        raise UserError(f"block_size={T}: longer than the context of {', '.join(short[:5])}; give a smaller one")
    if len(tokens) <= T:
        raise UserError(f"text: its {len(tokens)} tokens are too few for one window of block_size={T} and its target")
    starts = metrics.evaluation_windows(len(tokens), T, max(positions, T))
    targets = tokens[starts[:, None] + np.arange(1, T + 1)].reshape(-1)
    for member in members:
        if member.is_dump:
            refuse_other_targets(member, targets, "the text")
    return Positions(T, targets, starts, tokens, len(text))


def shared_tokens(models: Sequence[Member], text: str) -> np.ndarray:
    """The text's tokens, the same for all models.

    Next-token distributions over different tokens have no outcome in common, so nothing can be summed over: a
    difference per token is not defined then. What would still be is the probability of a stretch of text, which is no
    more than a loss per character; it is for whoever wants it to compare that.

    Raises:
        UserError: names two models that take the text for different tokens.
    """
    taken: dict[str, tuple[str, np.ndarray]] = {}
    shares: dict[str, float] = {}
    for model in models:
        if model.tokenizer_key in taken:
            continue
        try:
            tokens = model.encode(text)
        except UserError as error:
            raise UserError(f"{model.name}: {error}") from None
        for name, others in taken.values():
            if not np.array_equal(others, tokens):
                same = np.flatnonzero(others[: len(tokens)] != tokens[: len(others)])
                place = int(same[0]) if len(same) else min(len(tokens), len(others))
                raise UserError(
                    f"{name} and {model.name} have different tokenizers ({len(others)} and {len(tokens)} tokens, the "
                    f"first that differs is number {place}): their next-token predictions have no outcomes in common "
                    f"that could be compared; compare each tokenizer's models among themselves"
                )
        taken[model.tokenizer_key] = model.name, tokens
        shares[model.tokenizer_key] = given_back(model, text)
    for model in models:
        model.text_given_back = shares[model.tokenizer_key]
    return next(iter(taken.values()))[1]


GIVEN_BACK, COMPARED_TEXT = 0.95, 2**18  # a share; characters


def given_back(model: Member, text: str) -> float:
    """The share of the text's characters, spaces and case apart, that decoding its tokens gives.

    Raises:
        UserError: less than 95 %: the tokenizer leaves out what it doesn't know.
    """
    text = text[:COMPARED_TEXT]

    def characters(text):
        return Counter("".join(unicodedata.normalize("NFKC", text).casefold().split()))

    expected, decoded = characters(text), characters(model.decode(model.encode(text)))
    share = (expected & decoded).total() / max(1, expected.total())
    if share < GIVEN_BACK:
        lost = ", ".join(repr(character) for character, _ in (expected - decoded).most_common(5))
        raise UserError(
            f"{model.name}: its tokenizer gives back {100 * share:.3g} % of the text, at least 95 % is needed: "
            f"it leaves out what it doesn't know, such as {lost}"
        )
    return share
