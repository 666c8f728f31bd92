"""The kernels of native.cpp as functions of torch, for training small models on the CPU in bfloat16.

Beside its matrix products, which stay torch's, a step of a small model spends two fifths of its time in attention,
layer norms, the activation, the loss and the update, where many short operations each wait for memory and evict one
another's code. Here each is one function; training/arithmetic.py puts them in the place of a model's own. They take
part in training only: every evaluation uses torch's. Whether they do is a setting of the study, `Config.native`; it is
off on accelerators, in float32, and with several threads a trial. What it brings is in bench/RESULTS.md.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

from cli import UserError, option
from kernels import toolchain

LANES, MAX_T, MAX_D, MAX_C, MAX_V = 16, 256, 128, 2048, 4096  # as in native.cpp

# -- the library --------------------------------------------------------------------------------------------------


_library: ctypes.CDLL | None = None  # of this process


def compiled() -> ctypes.CDLL:
    """The kernels, checked against torch's when a process first needs them. Raises UserError: they can't be compiled
    here, or compute something else than torch does."""
    global _library
    if _library is None:
        try:
            _library = toolchain.library()
        except toolchain.Unavailable as error:
            raise UserError(f"native=True: {error}; use {option('native', False)}") from error
        _declare(_library)
        try:
            check()
        except UserError:
            _library = None
            raise
    return _library


def _declare(library: ctypes.CDLL) -> None:
    p, n, f, none = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, None
    signatures = {
        "attention": (none, [p] * 3 + [n] * 4),
        "attention_backward": (none, [p] * 4 + [n] * 4),
        "layer_norm": (none, [p] * 4 + [n] * 2),
        "layer_norm_backward": (none, [p] * 6 + [n] * 2),
        "look_up": (none, [p] * 3 + [n]),
        "look_up_backward": (none, [p] * 4 + [n]),
        "cross_entropy": (ctypes.c_double, [p] * 3 + [n] * 2),
        "sum_of_squares": (ctypes.c_double, [p] * 2 + [n]),
        "adamw": (none, [p] * 7 + [n] + [f] * 6),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def check() -> None:
    """Compare the kernels with torch's on random numbers: a compiler can be wrong, and a processor can be another one
    than it takes it for. Raises UserError: a value or a gradient departs from torch's in float32 by more than
    bfloat16's rounding explains."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, size=1.0):
        return (size * torch.randn(*shape, generator=generator)).bfloat16().requires_grad_()

    def plain_norm(x, weight):
        return F.layer_norm(x, weight.shape, weight, None, 1e-5)

    def plain_attention(qkv):  # two windows of 32 tokens, two heads of width 16
        q, k, v = qkv.view(2, 32, 3, 2, 16).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 32, 32)

    targets = torch.arange(8)
    functions = {
        "layer_norm": (layer_norm, plain_norm, [draw(8, 64), draw(64)]),
        "look_up": (Table(F.gelu), F.gelu, [draw(5, 7)]),
        "attention": (lambda qkv: attention(qkv, 2), plain_attention, [draw(2, 32, 96)]),
        "cross_entropy": (lambda x: cross_entropy(x, targets), lambda x: F.cross_entropy(x, targets), [draw(8, 21)]),
    }
    departures = {}
    with torch.enable_grad():
        for name, (ours, theirs, inputs) in functions.items():
            exact_inputs = [x.detach().float().requires_grad_() for x in inputs]
            y, exact = ours(*inputs), theirs(*exact_inputs)
            # a sum: torch imports sympy, a third of a second, where backward() is given a gradient
            gradient = torch.ones_like(y) if y.ndim == 0 else draw(*y.shape).detach()
            (y * gradient).sum().backward()
            (exact * gradient.float()).sum().backward()
            pairs = [(y, exact), *((x.grad, e.grad) for x, e in zip(inputs, exact_inputs, strict=True))]
            departures[name] = max(_departure(a, b) for a, b in pairs)
    with torch.no_grad():
        departures["adamw"] = _departure_of_adamw(draw(5, 7), draw(5, 7))
    for name, departure in departures.items():
        if not departure < 0.02:
            raise UserError(
                f"native=True: {name} of native.cpp departs from torch's by {departure:.2g} of its size when compiled "
                f"here; use {option('native', False)}"
            )


def _departure(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The difference relative to the exact size."""
    return float((ours.detach().float() - exact.detach()).norm() / exact.detach().norm())


def _departure_of_adamw(weight: torch.Tensor, gradient: torch.Tensor) -> float:
    """The difference between two updates and torch's own, relative to these."""
    start = weight.float().flatten()
    ours, theirs = ([start.clone(), torch.zeros_like(start), torch.zeros_like(start)] for _ in range(2))
    update = AdamW(tuple(ours), [weight.clone()], [0.1])
    clipped = gradient.float().flatten() / gradient.float().norm()
    for t in (1, 2):
        update.step([gradient], t, 1e-2, beta1=0.9, beta2=0.99, epsilon=1e-8, clip=1.0)
        weights, means, squares = ([vector] for vector in theirs)
        adamw(
            weights, [clipped], means, squares, [], [torch.tensor(t - 1.0)], foreach=False, lr=1e-2, weight_decay=0.1,
            beta1=0.9, beta2=0.99, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip
    return _departure(ours[0] - start, theirs[0] - start)


# -- the kernels as functions of torch ----------------------------------------------------------------------------


def layer_norm_fits(width: int) -> bool:
    """Whether the kernel takes rows of this width."""
    return width % LANES == 0 and width <= MAX_C


def attention_fits(block_size: int, width: int, n_head: int) -> bool:
    """Whether the kernel takes so many tokens and heads of that width."""
    head_width = width // n_head
    return block_size % LANES == head_width % LANES == 0 and block_size <= MAX_T and head_width <= MAX_D


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, n_head):
        qkv = qkv.contiguous()
        B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        ctx.sizes = B, T, n_head, C // n_head
        y, p = qkv.new_empty(B, T, C), qkv.new_empty(B * n_head, T, T)
        compiled().attention(qkv.data_ptr(), y.data_ptr(), p.data_ptr(), *ctx.sizes)
        ctx.save_for_backward(qkv, p)
        return y

    @staticmethod
    def backward(ctx, dy):
        (qkv, p), dy = ctx.saved_tensors, dy.contiguous()
        dqkv = torch.empty_like(qkv)
        compiled().attention_backward(dy.data_ptr(), qkv.data_ptr(), p.data_ptr(), dqkv.data_ptr(), *ctx.sizes)
        return dqkv, None


def attention(qkv: torch.Tensor, n_head: int) -> torch.Tensor:
    """Causal attention of queries, keys and values (B, T, 3 C): (B, T, C), where `attention_fits`."""
    return _Attention.apply(qkv, n_head)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous()
        C = weight.shape[0]
        M = x.numel() // C
        y, statistics = torch.empty_like(x), torch.empty(M, 2)
        compiled().layer_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), statistics.data_ptr(), M, C)
        ctx.save_for_backward(x, weight, statistics)
        return y

    @staticmethod
    def backward(ctx, dy):
        (x, weight, statistics), dy = ctx.saved_tensors, dy.contiguous()
        dx, dweight, C = torch.empty_like(x), torch.empty_like(weight), weight.shape[0]
        before = (tensor.data_ptr() for tensor in (dy, x, weight, statistics))
        compiled().layer_norm_backward(*before, dx.data_ptr(), dweight.data_ptr(), x.numel() // C, C)
        return dx, dweight


def layer_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Layer norm over the last dimension, without bias, epsilon 1e-5."""
    return _LayerNorm.apply(x, weight)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        logits, targets = logits.contiguous(), targets.contiguous()
        gradient = torch.empty_like(logits)
        loss = compiled().cross_entropy(logits.data_ptr(), targets.data_ptr(), gradient.data_ptr(), *logits.shape)
        if loss == math.inf:
            raise IndexError(f"targets must be tokens 0…{logits.shape[1] - 1}")
        ctx.save_for_backward(gradient)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx, dloss):
        (gradient,) = ctx.saved_tensors
        return gradient if dloss == 1 else gradient * dloss.to(gradient.dtype), None


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats, float32, of logits (N, V) and targets (N,) int64. V is at most MAX_V. Raises
    IndexError: a target is not one of the V."""
    return _CrossEntropy.apply(logits, targets)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, values, slopes):
        x = x.contiguous()
        y = torch.empty_like(x)
        compiled().look_up(x.data_ptr(), values.data_ptr(), y.data_ptr(), x.numel())
        ctx.save_for_backward(x)
        ctx.slopes = slopes
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,), dy = ctx.saved_tensors, dy.contiguous()
        dx = torch.empty_like(x)
        compiled().look_up_backward(dy.data_ptr(), x.data_ptr(), ctx.slopes.data_ptr(), dx.data_ptr(), x.numel())
        return dx, None, None


class Table:
    """An elementwise function that is costly to compute. In bfloat16 it has no more than 65 536 arguments: its values
    (65536,) bfloat16 and slopes (65536,) float32 are read from tables by the bits of the argument. The forward and
    backward pass of `function` in torch fill them, and the values are the same bits. In another precision it is
    called."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        self.function = function
        x = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
        wide = x.float().requires_grad_()
        with torch.enable_grad():
            (self.slopes,) = torch.autograd.grad(function(wide).sum(), wide)
        with torch.no_grad():
            self.values = function(x)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.bfloat16:
            return self.function(x)
        return _LookUp.apply(x, self.values, self.slopes)


# -- the update ---------------------------------------------------------------------------------------------------


class AdamW:
    """AdamW with clipping, in two passes over the gradients as backward left them.

    Args:
        state: weights, means and squares, each one flat float32 vector: the parameters one after another.
        working: the parameters in bfloat16, which are kept in step.
        decays: the weight decay of each parameter.
    """

    def __init__(self, state: tuple[torch.Tensor, ...], working: list[torch.Tensor], decays: list[float]):
        self.state, self.working, self.decays, self.count = state, working, decays, len(working)
        self.sizes = (ctypes.c_int64 * self.count)(*(w.numel() for w in working))
        self.pointers = (ctypes.c_void_p * self.count)(*(w.data_ptr() for w in working))

    def step(
        self,
        gradients: list[torch.Tensor],
        t: int,
        rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        clip: float,
    ) -> torch.Tensor:
        """The t-th update (from 1), with gradients of a norm above `clip` (0: any) made as long as that. Returns their
        norm before."""
        gradients = [g.contiguous() for g in gradients]
        pointers = (ctypes.c_void_p * self.count)(*(g.data_ptr() for g in gradients))
        norm = math.sqrt(compiled().sum_of_squares(pointers, self.sizes, self.count))
        shrink = (ctypes.c_float * self.count)(*(1 - rate * decay for decay in self.decays))
        compiled().adamw(
            *(vector.data_ptr() for vector in self.state), pointers, self.pointers, self.sizes, shrink, self.count,
            min(1.0, clip / (norm + 1e-6)) if clip else 1.0, beta1, beta2,
            rate / (1 - beta1**t), math.sqrt(1 - beta2**t), epsilon,
        )  # fmt: skip
        return torch.tensor(norm)
