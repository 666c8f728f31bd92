"""Sums over the vocabulary from which every distance between two of n distributions follows: `PairSums` in torch, and
`Compiled`, from pairs.cpp on the machine that compares: the same sums at four times the speed (bench/RESULTS.md), to a
few roundings of float32.

`pair_sums` gives whichever of the two there is: without a C++ compiler, on a GPU or in float64, torch's. What is
measured agrees to 1e-6 of its size, so results don't depend on which it was in any digit that is shown.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from kernels import toolchain

SOURCE = Path(__file__).with_suffix(".cpp")


def pair_sums(n: int, vocab: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
    """The fastest sums there are for n models on this device."""
    if torch.device(device).type == "cpu" and dtype is torch.float32 and available():
        return Compiled(n, vocab)
    return PairSums(n, vocab, dtype, device)


@functools.cache
def available() -> bool:
    """Whether the kernel can be compiled here and computes what torch's sums are."""
    with contextlib.suppress(toolchain.Unavailable):
        return bool(_library())
    return False


class PairSums:
    """Sums over the vocabulary from which every distance between two of n distributions follows.

    The work is element-wise, 19 simple operations and two logarithms for each value, and bound by memory unless its
    operands stay in cache: so the rows are taken in blocks, all pairs of a block before the next block. torch rather
    than NumPy: its float32 logarithm is vectorised, it uses all threads it is given, and the same lines run on a GPU.
    `torch.where` and `xlogy` are avoided because they cost as much as five logarithms on a CPU.
    """

    def __init__(self, n: int, vocab: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
        self.pairs = list(itertools.combinations(range(n), 2))
        self.rows = max(1, (2**17 if torch.device(device).type == "cpu" else 2**21) // vocab)
        self.tiny = torch.finfo(dtype).tiny
        self.below_one = 1 - torch.finfo(dtype).eps / 2
        self.zero = torch.zeros((), dtype=dtype, device=device)

    def __call__(self, p: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For p of shape (n, R, V): sums of each pair (5, pairs, R), Σ_v p (n, R), and Σ_v|p_m - p̄| summed over the
        models (R,). float64 arrays on the CPU."""
        blocks = [self._block(block) for block in p.split(self.rows, 1)]
        # sums of one row in float32 (torch adds pairwise: 1e-7), everything beyond a row in float64
        sums, mass, spread = (torch.cat(parts, -1).cpu().double() for parts in zip(*blocks, strict=True))
        return sums.numpy(), mass.numpy(), spread.sum(0).numpy()

    def _block(self, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # p_m - p̄ by way of p_m - p_0, which is exactly 0 for equal models where p̄ would be rounded
        difference = p - p[0]
        spread = difference.sub_(difference.mean(0)).abs_().sum(-1)
        root = p.sqrt().clamp_min_(self.tiny)
        sums = p.new_empty(5, len(self.pairs), p.shape[1])
        for k, (i, j) in enumerate(self.pairs):
            torch.stack(self._pair(p[i], p[j], root[i] + root[j]), out=sums[:, k])
        return sums, p.sum(-1), spread

    def _pair(self, p: torch.Tensor, q: torch.Tensor, roots: torch.Tensor) -> list[torch.Tensor]:
        """Σ|p-q|, Σ(p-q)², Σ|p-q|/(p+q), Σ(√p-√q)² and 2·Σ[p ln(2p/(p+q)) + q ln(2q/(p+q))], each (R,)."""
        a = (p - q).abs_()
        # √p - √q = (p-q)/(√p+√q), which keeps its digits when p ≈ q. Here and below 0/0 is the 0 it should be because
        # the denominator is kept at the smallest normal number at least; that changes no other denominator.
        hellinger = a / roots
        s = (p + q).clamp_min_(self.tiny)
        x = a / s  # |p-q|/(p+q), in [0, 1]
        # With x the two terms of Jensen–Shannon are (p+q)/2 · [(1+x)ln(1+x) + (1-x)ln(1-x)]. For p ≈ q that bracket is
        # x² left over from two terms of size x. The same thing as 2x·ln(1+x) + (1-x)·ln(1-x²) is accurate from
        # x = 0, where it is exactly 0, to x = 1, where the factor 1-x stops the logarithm.
        shannon = torch.addcmul(self.zero, x, x, value=-self.below_one).log1p_()  # a rounding less than x²: never ln 0
        shannon = shannon.mul_(1 - x).addcmul_(x, torch.log1p(x), value=2).mul_(s)
        return [terms.sum(-1) for terms in (a, a * a, x, hellinger.mul_(hellinger), shannon)]


class Compiled:
    """As PairSums, for float32 on the CPU. Rows are shared out among torch's threads; no sum depends on how many there
    are."""

    def __init__(self, n: int, vocab: int, library: ctypes.CDLL | None = None):
        self.pairs = list(itertools.combinations(range(n), 2))
        self.rows = max(1, 2**17 // vocab)
        self.library = library or _library()

    def __call__(self, p: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For p of shape (n, R, V): sums of each pair (5, pairs, R), Σ_v p (n, R), and Σ_v|p_m - p̄| summed over the
        models (R,). float64."""
        threads = min(torch.get_num_threads(), p.shape[1])
        if threads == 1:
            return self._sums(p)
        cuts = np.linspace(0, p.shape[1], threads + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:  # the call leaves Python's lock alone
            parts = list(pool.map(lambda k: self._sums(p[:, cuts[k] : cuts[k + 1]]), range(threads)))
        return tuple(np.concatenate(part, -1) for part in zip(*parts, strict=True))

    def _sums(self, p):
        n, R, V = p.shape
        if p.dtype is not torch.float32 or p.stride()[1:] != (V, 1):
            p = p.float().contiguous()
        scratch = np.empty(self.library.pair_sums_scratch(n), np.float32)
        sums, mass, spread = np.empty((5, len(self.pairs), R)), np.empty((n, R)), np.empty(R)
        results = (array.ctypes.data for array in (scratch, sums, mass, spread))
        self.library.pair_sums(p.data_ptr(), p.stride(0), n, R, V, bool(self.pairs), *results)
        return sums, mass, spread


@functools.cache
def _library(source: Path = SOURCE) -> ctypes.CDLL:
    """The compiled kernel, declared and tried. Raises toolchain.Unavailable: it can't be compiled here, or computes
    something else than torch's sums."""
    library = toolchain.library(source)
    p, n = ctypes.c_void_p, ctypes.c_int64
    library.pair_sums.restype, library.pair_sums.argtypes = None, [p, *[n] * 5, *[p] * 4]
    library.pair_sums_scratch.restype, library.pair_sums_scratch.argtypes = n, [n]
    _check(library)
    return library


def _check(library: ctypes.CDLL) -> None:
    """Compare a library with PairSums in float64: a compiler can be wrong."""
    size = torch.tensor([0.01, 1.0, 4.0])[:, None, None]
    p = torch.softmax(size * torch.randn(3, 4, 77, generator=torch.Generator().manual_seed(0)), -1)
    exact = PairSums(3, 77, torch.float64)(p.double())
    for a, b in zip(Compiled(3, 77, library)(p), exact, strict=True):
        if not np.allclose(a, b, rtol=3e-6, atol=1e-12):
            raise toolchain.Unavailable(
                f"compiled here, pairs.cpp departs from torch's sums by {np.abs(a / b - 1).max():.2g}"
            )
