"""metrics.PairSums on the CPU, compiled from pairs.cpp on the machine that compares: the same sums at four times the
speed (bench/RESULTS.md), to a few roundings of float32.

`pair_sums` gives whichever of the two there is: without a C++ compiler, or on a GPU, metrics' own. What is measured
agrees to 1e-6 of its size, so results don't depend on which it was in any digit that is shown.
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

import metrics
from kernels import toolchain

SOURCE = Path(__file__).with_suffix(".cpp")


def pair_sums(n: int, vocab: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
    """The fastest `metrics.PairSums` there is for n models on this device."""
    if torch.device(device).type == "cpu" and dtype is torch.float32 and available():
        return PairSums(n, vocab)
    return metrics.PairSums(n, vocab, dtype, device)


@functools.cache
def available() -> bool:
    """Whether the kernel can be compiled here and computes what metrics' own sums are."""
    with contextlib.suppress(toolchain.Unavailable):
        return bool(_library())
    return False


class PairSums:
    """As metrics.PairSums, for float32 on the CPU. Rows are shared out among torch's threads; no sum depends on how
    many there are."""

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
    """The compiled kernel, declared and tried.

    Raises:
        toolchain.Unavailable: it can't be compiled here, or computes something else than metrics' sums.
    """
    library = toolchain.library(source)
    p, n = ctypes.c_void_p, ctypes.c_int64
    library.pair_sums.restype, library.pair_sums.argtypes = None, [p, *[n] * 5, *[p] * 4]
    library.pair_sums_scratch.restype, library.pair_sums_scratch.argtypes = n, [n]
    _check(library)
    return library


def _check(library: ctypes.CDLL) -> None:
    """Compare a library with metrics' sums in float64: a compiler can be wrong."""
    size = torch.tensor([0.01, 1.0, 4.0])[:, None, None]
    p = torch.softmax(size * torch.randn(3, 4, 77, generator=torch.Generator().manual_seed(0)), -1)
    exact = metrics.PairSums(3, 77, torch.float64)(p.double())
    for a, b in zip(PairSums(3, 77, library)(p), exact, strict=True):
        if not np.allclose(a, b, rtol=3e-6, atol=1e-12):
            raise toolchain.Unavailable(
                f"compiled here, pairs.cpp departs from metrics' by {np.abs(a / b - 1).max():.2g}"
            )
