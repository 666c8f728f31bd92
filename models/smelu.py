"""SmeLU, the smooth ReLU of Shamir, Lin & Coviello (2020, arXiv 2010.09931) and Shamir & Lin (2022, arXiv 2202.06499).

    SmeLU(x) = 0                  for x <= -beta
               (x + beta)²/4beta  between
               x                  for x >= beta

Value and slope both follow from one clamped number, m = clamp(x + beta, 0, 2 beta):

    SmeLU(x)  = max(x, m²/4beta)    exactly x on the right and 0 on the left, infinities included
    SmeLU'(x) = m/2beta

so the backward pass needs nothing but x. Half precisions are computed in float32 and rounded once.

No operation of torch computes either line in one pass over memory, and a chain of them costs 1.7 to 4 times ReLU on a
CPU however it is arranged. On the CPU in float32 and bfloat16 the loops of `kernels/native.cpp` are used where it can
be compiled; they cost what ReLU costs (bench/activations.py measures it). They do the same IEEE operations in the same
order as the torch formula, which is checked bit for bit before they are used: which of the two it is makes no
difference to any result. On other devices, in other precisions and inside torch.compile, which fuses the formula by
itself, the formula is used.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import nn

from kernels import toolchain

# Beyond these, beta² or 1/beta comes near the ends of float32's range.
SMALLEST_BETA, LARGEST_BETA = 1e-6, 1e6


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
    """SmeLU's loops in the compiled library. They run over memory as it lies: give them contiguous tensors that satisfy
    `takes`."""

    def __init__(self, library: ctypes.CDLL):
        self.loops = {}
        for name, pointers in (("smelu", 2), ("smelu_backward", 3)):
            for dtype in (torch.float32, torch.bfloat16):
                loop = library[f"{name}_{str(dtype).removeprefix('torch.')}"]
                loop.restype = None
                loop.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64, ctypes.c_int] + [ctypes.c_float] * 3
                self.loops[name, dtype] = loop

    @staticmethod
    def takes(x: torch.Tensor) -> bool:
        """A plain CPU tensor in a precision there is a loop for; bfloat16 in whole, aligned words."""
        if not x.is_cpu or type(x) not in (torch.Tensor, nn.Parameter):
            return False
        if x.dtype is torch.float32:
            return True
        return x.dtype is torch.bfloat16 and x.numel() % 2 == 0 and x.data_ptr() % 4 == 0

    def value(self, x: torch.Tensor, beta: float) -> torch.Tensor:
        y = torch.empty_like(x)
        sizes = (x.numel(), torch.get_num_threads(), beta, 2 * beta, 0.25 / beta)
        self.loops["smelu", x.dtype](x.data_ptr(), y.data_ptr(), *sizes)
        return y

    def times_slope(self, grad: torch.Tensor, x: torch.Tensor, beta: float) -> torch.Tensor:
        y = torch.empty_like(x)
        sizes = (x.numel(), torch.get_num_threads(), beta, 2 * beta, 0.5 / beta)
        self.loops["smelu_backward", x.dtype](grad.data_ptr(), x.data_ptr(), y.data_ptr(), *sizes)
        return y


@functools.cache
def kernel() -> Kernel | None:
    """The compiled loops; None where they can't be had, or don't agree with the formula to the last bit."""
    try:
        made = Kernel(toolchain.library())
    except toolchain.Unavailable:
        return None
    return made if _agrees(made) else None


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
    """`smelu` as a module. Raises ValueError: beta is not between 1e-6 and 1e6."""

    def __init__(self, beta: float = 1.0):
        super().__init__()
        if not SMALLEST_BETA <= beta <= LARGEST_BETA:
            raise ValueError(f"beta must be between {SMALLEST_BETA:g} and {LARGEST_BETA:g}, not {beta}")
        self.beta = float(beta)

    def forward(self, x):
        return smelu(x, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"


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
