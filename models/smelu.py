"""SmeLU, the smooth ReLU of Shamir, Lin & Coviello (2020, arXiv 2010.09931) and Shamir & Lin (2022, arXiv 2202.06499).

    SmeLU(x) = 0                  for x <= -beta
               (x + beta)²/4beta  between
               x                  for x >= beta

Value and slope both follow from one clamped number, m = clamp(x + beta, 0, 2 beta):

    SmeLU(x)  = max(x, m²/4beta)    exactly x on the right and 0 on the left, infinities included
    SmeLU'(x) = m/2beta

so the backward pass needs nothing but x. Half precisions are computed in float32 and rounded once.

Why there is C in this file. No operator of torch computes either line in one pass over memory, and a chain of them
costs 1.7 to 4 times ReLU on a CPU however it is arranged. The loops below are compiled by the system's C compiler, in
a tenth of a second, when a process first needs them, and cost what ReLU costs (bench/activations.py measures it). They
do the same IEEE operations in the same order as the torch formula, which is checked bit for bit before they are used.
Without a compiler, on other devices, in other precisions and inside torch.compile, which fuses the formula by itself,
the formula is used; in eager mode the results are the same bits.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile

import torch
from torch import nn

# Beyond these, beta² or 1/beta comes near the ends of float32's range.
SMALLEST_BETA, LARGEST_BETA = 1e-6, 1e6

SOURCE = r"""
#include <stdint.h>

static inline float clamped(float x, float beta, float width) {
    float m = x + beta;
    m = m < 0 ? 0 : m;
    return m > width ? width : m;
}
static inline float value(float x, float beta, float width, float scale) {
    float m = clamped(x, beta, width), p = m * m * scale;
    return x > p ? x : p;
}
static inline float times_slope(float g, float x, float beta, float width, float scale) {
    return g * (clamped(x, beta, width) * scale);
}

/* bfloat16 is the upper half of a float32. Two share a 32-bit word: one is masked, the other shifted, and with nothing
   to shuffle the loops vectorise as they stand. */
typedef union { uint32_t word; float number; } bits;
static inline float high(uint32_t w) { bits b = {.word = w & 0xffff0000u}; return b.number; }
static inline float low(uint32_t w) { bits b = {.word = w << 16}; return b.number; }
static inline uint32_t rounded(float f) { bits b = {.number = f}; return b.word + 0x7fffu + ((b.word >> 16) & 1u); }
static inline uint32_t pair(float h, float l) { return (rounded(h) & 0xffff0000u) | (rounded(l) >> 16); }

/* threads from the size on at which torch shares element-wise work out too */
#define EACH(i, n) _Pragma("omp parallel for simd num_threads(threads) if (n > 32768)") \
    for (int64_t i = 0; i < (n); i++)
#define CONSTANTS int64_t n, int threads, float beta, float width, float scale

void value_float32(const float *restrict x, float *restrict y, CONSTANTS) {
    EACH(i, n) y[i] = value(x[i], beta, width, scale);
}
void times_slope_float32(const float *restrict g, const float *restrict x, float *restrict y, CONSTANTS) {
    EACH(i, n) y[i] = times_slope(g[i], x[i], beta, width, scale);
}
void value_bfloat16(const uint32_t *restrict x, uint32_t *restrict y, CONSTANTS) {
    EACH(i, n / 2) y[i] = pair(value(high(x[i]), beta, width, scale), value(low(x[i]), beta, width, scale));
}
void times_slope_bfloat16(const uint32_t *restrict g, const uint32_t *restrict x, uint32_t *restrict y, CONSTANTS) {
    EACH(i, n / 2) y[i] = pair(times_slope(high(g[i]), high(x[i]), beta, width, scale),
                               times_slope(low(g[i]), low(x[i]), beta, width, scale));
}
"""


# -- the formula --------------------------------------------------------------------------------------------------


def _formula_value(x: torch.Tensor, beta: float) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    m = (wide + beta).clamp_(0, 2 * beta)
    y = torch.maximum(wide, m.square_().mul_(0.25 / beta))
    # a conversion that changes nothing, at the end of a forward, makes the gradient zero in torch 2.11's compiler
    return y if y.dtype == x.dtype else y.to(x.dtype)


def _formula_times_slope(grad: torch.Tensor, x: torch.Tensor, beta: float) -> torch.Tensor:
    """grad · SmeLU'(x), itself differentiable."""
    wide = torch.promote_types(x.dtype, torch.float32)
    slope = (x.to(wide) + beta).clamp_(0, 2 * beta).mul_(0.5 / beta)
    return slope.mul_(grad).to(x.dtype)


# -- the same, compiled -------------------------------------------------------------------------------------------


class Kernel:
    """The loops of SOURCE, in a shared library. They run over memory as it lies: give them contiguous tensors that
    satisfy `takes`."""

    def __init__(self, path: str):
        library = ctypes.CDLL(path)
        for name, pointers in (("value", 2), ("times_slope", 3)):
            for dtype in ("float32", "bfloat16"):
                function = library[f"{name}_{dtype}"]
                function.restype = None
                function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64, ctypes.c_int]
                function.argtypes += [ctypes.c_float] * 3
                setattr(self, f"_{name}_{dtype}", function)

    @staticmethod
    def takes(x: torch.Tensor) -> bool:
        """A plain CPU tensor in a precision there is a loop for; bfloat16 in whole, aligned words."""
        if not x.is_cpu or type(x) not in (torch.Tensor, nn.Parameter):
            return False
        if x.dtype is torch.float32:
            return True
        return x.dtype is torch.bfloat16 and x.numel() % 2 == 0 and x.data_ptr() % 4 == 0

    def value(self, x: torch.Tensor, beta: float) -> torch.Tensor:
        loop = self._value_float32 if x.dtype is torch.float32 else self._value_bfloat16
        y, threads = torch.empty_like(x), torch.get_num_threads()
        loop(x.data_ptr(), y.data_ptr(), x.numel(), threads, beta, 2 * beta, 0.25 / beta)
        return y

    def times_slope(self, grad: torch.Tensor, x: torch.Tensor, beta: float) -> torch.Tensor:
        loop = self._times_slope_float32 if x.dtype is torch.float32 else self._times_slope_bfloat16
        y, threads = torch.empty_like(x), torch.get_num_threads()
        loop(grad.data_ptr(), x.data_ptr(), y.data_ptr(), x.numel(), threads, beta, 2 * beta, 0.5 / beta)
        return y


@functools.cache
def kernel() -> Kernel | None:
    """The compiled loops; None where there is no C compiler, or where it fails, or where what it makes does not agree
    with the formula to the last bit. Each process compiles for itself: nothing is left behind that could be stale, or
    made for another machine's processor."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return None
    # no contraction: a fused multiply-add would round once where torch rounds twice
    command = [*shlex.split(compiler), "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-x", "c", "-"]
    with tempfile.TemporaryDirectory(prefix="smelu-", ignore_cleanup_errors=True) as folder:
        library = os.path.join(folder, "smelu.so")
        for extra in (["-fopenmp"], []):  # some compilers have no OpenMP; one thread then
            try:
                subprocess.run(
                    [*command, *extra, "-o", library],
                    input=SOURCE.encode(),
                    capture_output=True,
                    timeout=60,
                    check=True,
                )
                made = Kernel(library)
            except (OSError, subprocess.SubprocessError):
                continue
            return made if _agrees(made) else None
    return None


def _agrees(made: Kernel) -> bool:
    steps = torch.arange(-4096, 4096, dtype=torch.float32)
    ends = torch.tensor([float("inf"), float("-inf"), 3e38, -3e38, 1e-30, -1e-30, 1e-45, -1e-45])
    for beta in (0.5, 1.0, 0.3):
        x = torch.cat([steps / 1021 * beta, steps / 7 * beta, ends])
        grad = torch.sin(torch.arange(len(x), dtype=torch.float32)) * 3
        for dtype in (torch.float32, torch.bfloat16):
            g, z = grad.to(dtype), x.to(dtype)
            if not torch.equal(made.value(z, beta), _formula_value(z, beta)):
                return False
            if not torch.equal(made.times_slope(g, z, beta), _formula_times_slope(g, z, beta)):
                return False
    return True


# -- for use ------------------------------------------------------------------------------------------------------


class _SmeLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)  # x itself, not a copy: a second derivative goes through it
        ctx.beta = beta
        if not torch.compiler.is_compiling() and (loops := kernel()) and loops.takes(x):
            return loops.value(x.contiguous(), beta)
        return _formula_value(x, beta)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        # grad mode is on only when the gradient itself will be differentiated, which takes torch's own operations
        if not torch.compiler.is_compiling() and not torch.is_grad_enabled():
            grad = grad.contiguous()
            if (loops := kernel()) and loops.takes(x) and loops.takes(grad):
                return loops.times_slope(grad, x.contiguous(), ctx.beta), None
        return _formula_times_slope(grad, x, ctx.beta), None


def smelu(x: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """SmeLU of a floating-point tensor of any shape, element by element; keeps x for the backward pass.

    beta: half the width of the quadratic part, from 1e-6 to 1e6 (`SmeLU` checks it). As beta -> 0, ReLU.
    """
    return _SmeLU.apply(x, beta)


class SmeLU(nn.Module):
    """`smelu` as a module.

    Raises:
        ValueError: beta is not between 1e-6 and 1e6.
    """

    def __init__(self, beta: float = 1.0):
        super().__init__()
        if not SMALLEST_BETA <= beta <= LARGEST_BETA:
            raise ValueError(f"beta must be between {SMALLEST_BETA:g} and {LARGEST_BETA:g}, not {beta}")
        self.beta = float(beta)

    def forward(self, x):
        return smelu(x, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"


class GeneralizedSmeLU(nn.Module):
    """The generalised SmeLU (arXiv 2010.09931, equation 11; arXiv 2202.06499, equation 9).

        t + g_minus (x + alpha)                                  for x <= -alpha
        a x² + b x + c                                           between
        t + g_plus (x - beta) + (g_minus + g_plus)(alpha + beta)/2    for x >= beta

    with a, b, c such that value and slope are continuous: the slope goes linearly from g_minus at -alpha to g_plus at
    beta, and t is the value at -alpha. It is SmeLU, shifted and scaled, on top of a straight line, and is computed so.

    t: None puts the left line through the origin, as in SmeLU and leaky ReLU (t = -alpha g_minus).

    Raises:
        ValueError: half of alpha + beta is not between 1e-6 and 1e6, or a number is not finite.
    """

    def __init__(self, alpha: float, beta: float, g_minus: float = 0.0, g_plus: float = 1.0, t: float | None = None):
        super().__init__()
        t = 0.0 - alpha * g_minus if t is None else t
        if not all(abs(number) < float("inf") for number in (alpha, beta, g_minus, g_plus, t)):
            raise ValueError("every parameter of the generalised SmeLU must be a finite number")
        if not SMALLEST_BETA <= (alpha + beta) / 2 <= LARGEST_BETA:
            raise ValueError(
                f"(alpha + beta)/2 must be between {SMALLEST_BETA:g} and {LARGEST_BETA:g}, not {(alpha + beta) / 2:g}"
            )
        self.alpha, self.beta, self.g_minus, self.g_plus, self.t = map(float, (alpha, beta, g_minus, g_plus, t))

    def forward(self, x):
        shift, rise = (self.alpha - self.beta) / 2, self.g_plus - self.g_minus
        y = smelu(x + shift if shift else x, (self.alpha + self.beta) / 2)
        if rise != 1:
            y = y * rise
        if self.g_minus:
            y = y + self.g_minus * x
        start = self.t + self.g_minus * self.alpha
        return y + start if start else y

    def extra_repr(self) -> str:
        names = ("alpha", "beta", "g_minus", "g_plus", "t")
        return ", ".join(f"{name}={getattr(self, name):g}" for name in names)


class Elementwise(nn.Module):
    """A plain function of one tensor as a module."""

    def __init__(self, function, name: str | None = None):
        super().__init__()
        self.function = function
        self.name = name or getattr(function, "__name__", repr(function))

    def forward(self, x):
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name
