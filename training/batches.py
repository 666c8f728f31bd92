"""What a trial draws at random: the seeds of its sources, their streams, its batches, its one moved bit; and, in words,
what of it varies between trials.

Which windows of the training text a trial sees follows the rule that `sampling` names.

`replacement`: each window of each batch begins at a place drawn anew from all places. Trials whose `order` differs see
other data, in another order.

`shuffle`: epochs. The training tokens are cut into n windows of `block_size` tokens that lie side by side, so that no
token is in two of them (the targets are one token further on); a permutation drawn for the epoch says in what order
they come, each once. The next epoch's windows begin elsewhere, so that over epochs a token is seen behind contexts of
all lengths; where they begin is no trial's own. So of whole epochs trials differ in the order alone. n is the same for
every epoch, and fewer than two windows' worth of tokens are left out at the ends of the text. Batches are filled window
after window; one may end an epoch and begin the next.

torch is imported where a batch is made: reports ask in words alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from config import SOURCES, Config

if TYPE_CHECKING:
    import torch


def trial_seeds(config: Config, trial: int) -> dict[str, int | None]:
    """The seed of each source of randomness in trial k (1-based): seed_base + k - 1 for the sources that `vary`,
    seed_base for the others. `bit` is k when the initial weights differ by one unit in the last place, else None."""
    varied, fixed = config.seed_base + trial - 1, config.seed_base
    seeds = {source: varied if source in config.vary else fixed for source in SOURCES}
    return {**seeds, "bit": trial if "bit" in config.vary and trial > 1 else None}


def stream(seed: int, source: str, step: int = 0) -> np.random.Generator:
    """The random stream of a source at a step. Philox is counter-based (Salmon et al. 2011): the stream of step t
    costs the same for every t, and streams of different sources or steps don't overlap."""
    key = np.array([seed, SOURCES.index(source)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))


class Batches:
    """The training batch of step t: `batch_size` windows of the training split, chosen as `config.sampling` says.
    A pure function of (seed, t): it doesn't depend on the steps before.

    An accelerator keeps the training tokens, so that a step sends it no more than the places; unless they are more
    than RESIDENT_BYTES, or `resident` says otherwise. The batches are the same either way.
    """

    RESIDENT_BYTES = 2**30

    def __init__(self, tokens: np.ndarray, config: Config, seed: int, resident: bool | None = None):
        # (places, T + 1) view of the token array: gathering from it is one vectorised copy
        self.windows = np.lib.stride_tricks.sliding_window_view(tokens, config.block_size + 1)
        self.batch_size, self.seed, self.device = config.batch_size, seed, config.device
        self.block_size, self.shuffle = config.block_size, config.sampling == "shuffle"
        self.orders: dict[int, np.ndarray] = {}  # of the epochs of the last batch: places of their windows in turn
        self.tokens = None
        if resident is None:
            resident = self.device != "cpu" and 4 * len(tokens) <= self.RESIDENT_BYTES
        if resident:  # int32: half of int64, and unlike uint16 known to every operation
            import torch

            self.tokens = torch.from_numpy(tokens.astype(np.int32)).to(self.device)
            self.offsets = torch.arange(config.block_size + 1, device=self.device)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, each (batch_size, T) int64; the targets are the inputs one position later."""
        starts = self.places(step)
        if self.tokens is None:
            batch = self._sent(self.windows[starts].astype(np.int64))
        else:
            batch = self.tokens[self._sent(starts)[:, None] + self.offsets].long()
        return batch[:, :-1], batch[:, 1:]

    def places(self, step: int) -> np.ndarray:
        """Where the windows of the whole batch begin: (batch_size,) int64."""
        if not self.shuffle:
            return stream(self.seed, "order", step).integers(0, len(self.windows), self.batch_size)
        tokens = len(self.windows) + self.block_size
        n = epoch_windows(tokens, self.block_size)
        drawn = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        first, last = int(drawn[0]) // n, int(drawn[-1]) // n
        self.orders = {e: self.orders[e] if e in self.orders else self._order(e, n) for e in range(first, last + 1)}
        begins = [epoch_begins(e, tokens, self.block_size) for e in self.orders]
        windows = np.concatenate([order[drawn[drawn // n == e] % n] for e, order in self.orders.items()])
        return np.array(begins)[drawn // n - first] + self.block_size * windows.astype(np.int64)

    def _order(self, epoch: int, n: int) -> np.ndarray:
        """The windows of an epoch in the order in which they come: four bytes each, or fewer (62 MB for a billion
        tokens in windows of 64)."""
        return stream(self.seed, "order", epoch).permutation(np.arange(n, dtype=np.min_scalar_type(n - 1)))

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """The array on the device. From pinned memory the copy waits for nothing; the allocator of pinned memory
        keeps it until the copy is done."""
        import torch

        tensor = torch.from_numpy(array)
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def move_one_bit(model: torch.nn.Module, trial: int, seed: int, dtype: torch.dtype) -> None:
    """Move one weight of the last matrix, another one for every trial, by one unit in the last place of the training
    precision.

    In bfloat16 training the products read the weights rounded to bfloat16, so that is where the bit is moved.
    """
    import torch

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    p = matrices[-1].detach().view(-1)
    place = int(stream(seed, "init", trial).integers(p.numel()))
    value = p[place].to(dtype)
    bits = value.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    p[place] = (bits + 1).view(dtype)[()].to(p.dtype)


# -- epochs, and what varies ----------------------------------------------------------------------------------------

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


SAMPLE_AND_ORDER, ORDER = "data sample and order", "order alone"
ORDER_AND_LAST = "order, and the sample of the last epoch"
WITH_REPLACEMENT = "order: windows are drawn with replacement, so trials see other data, in another order"


def _whole(taken: float) -> int:
    """So many whole epochs, within one window in a hundred; 0 where it is no whole number of them."""
    return round(taken) if abs(taken - round(taken)) <= 0.01 * round(taken) else 0


def order_varies(config: Mapping, tokens: int | None) -> str:
    """What the source `order` varies between trials. Of an epoch that isn't finished trials see other windows; one in a
    hundred is let pass, since steps seldom fill an epoch exactly."""
    countable = {"max_iters", "batch_size", "block_size"} <= config.keys() and bool(tokens)
    if config.get("sampling") != "shuffle" or not countable:
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
