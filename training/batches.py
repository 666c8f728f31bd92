"""What a trial draws at random: the seeds of its sources, their streams, its batches, its one moved bit."""

from __future__ import annotations

import numpy as np
import torch

from config import SOURCES, Config
from training.sampling import epoch_begins, epoch_windows


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
    A pure function of (seed, t): what the steps before had is not known here.

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
        tensor = torch.from_numpy(array)
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


@torch.no_grad()
def move_one_bit(model: torch.nn.Module, trial: int, seed: int, dtype: torch.dtype) -> None:
    """Move one weight, another one for every trial, by one unit in the last place of the training precision.

    In bfloat16 training the products read the weights rounded to bfloat16, so that is where the bit is moved.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    p = matrices[-1].view(-1)
    place = int(stream(seed, "init", trial).integers(p.numel()))
    value = p[place].to(dtype)
    bits = value.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    p[place] = (bits + 1).view(dtype)[()].to(p.dtype)
