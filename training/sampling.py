"""Which windows of the training text a trial sees, by the rule that `sampling` names. No torch.

`replacement`: each window of each batch begins at a place drawn anew from all places. Trials whose `order` differs see
other data, in another order.

`shuffle`: epochs. The training tokens are cut into n windows of `block_size` tokens that lie side by side, so that no
token is in two of them (the targets are one token further on); a permutation drawn for the epoch says in what order
they come, each once. The next epoch's windows begin elsewhere, so that over epochs a token is seen behind contexts of
all lengths; where they begin is no trial's own. So of whole epochs trials differ in the order alone. n is the same for
every epoch, and fewer than two windows' worth of tokens are left out at the ends of the text. Batches are filled window
after window; one may end an epoch and begin the next.
"""

from __future__ import annotations

from collections.abc import Mapping

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: multiples of it spread evenly over 2^64 (Knuth 6.4)


def epoch_windows(tokens: int, block_size: int) -> int:
    """The windows of an epoch: as many as fit wherever in the first `block_size` tokens they begin, at least one."""
    return max(1, tokens // block_size - 1)


def epoch_begins(epoch: int, tokens: int, block_size: int) -> int:
    """The token at which the first window of an epoch begins; 0 for epoch 0."""
    places = min(block_size, tokens - block_size)  # so that the last target is a token of the text
    return (epoch * GOLDEN % 2**64) * places >> 64


def epochs(config: Mapping, tokens: int) -> float:
    """How many epochs of `shuffle` a trial takes: {name: value} of its settings, tokens of the training split."""
    windows = config["max_iters"] * config["batch_size"]
    return windows / epoch_windows(tokens, config["block_size"])


SAMPLE_AND_ORDER, ORDER, ORDER_AND_LAST = (
    "data sample and order",
    "order alone",
    "order, and the sample of the last epoch",
)


WITH_REPLACEMENT = "order: windows are drawn with replacement, so trials see other data, in another order"


def _whole(taken: float) -> int:
    """So many whole epochs, within one window in a hundred; 0 where it is no whole number of them."""
    return round(taken) if abs(taken - round(taken)) <= 0.01 * round(taken) else 0


def order_varies(config: Mapping, tokens: int | None) -> str:
    """What the source `order` varies between trials. Of an epoch that isn't finished trials see other windows; one in a
    hundred is let pass, since steps seldom fill an epoch exactly."""
    known = {"max_iters", "batch_size", "block_size"} <= config.keys() and bool(tokens)
    if config.get("sampling") != "shuffle" or not known:
        return SAMPLE_AND_ORDER
    taken = epochs(config, tokens)
    return ORDER if _whole(taken) else ORDER_AND_LAST if taken > 1 else SAMPLE_AND_ORDER


def order_explained(config: Mapping, tokens: int) -> str:
    """A sentence that says why."""
    if config.get("sampling") != "shuffle":
        return WITH_REPLACEMENT
    taken, n = epochs(config, tokens), epoch_windows(tokens, config["block_size"])
    if times := _whole(taken):
        often = "once" if times == 1 else f"{times} times"
        return f"order: trials see the same {n:,} windows, in another order, {often} ({taken:.4g} epochs)"
    if taken > 1:
        return f"order: {taken:.4g} epochs, the same {n:,} windows in another order; of the last one, other windows"
    return (
        f"order: a trial sees {100 * taken:.3g} % of an epoch, each another part of the text, in another order; the "
        f"order alone would take {-(-n // config['batch_size']):,} steps"
    )
