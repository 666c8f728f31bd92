"""Faster kernels for training small models on the CPU in bfloat16, compiled from native.cpp on the machine that trains.

Beside its matrix products, which stay torch's, a step of a small model spends two fifths of its time in attention,
layer norms, the activation, the loss and the update, where many short operations each wait for memory and evict one
another's code. Here each is one function. They take part in training only: every evaluation uses torch's. Whether they
do is a setting of the study, `Config.native`; it is off on accelerators, in float32, with several threads a trial, and
with `compile`. What it brings is in bench/RESULTS.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.adamw import adamw

from config import UserError, cpp_compiler

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
)
_CACHE = os.path.expanduser("~/.cache/activation-reproducibility")  # stays as it is for a user without a home
FOLDERS = (Path(__file__).parent / "__pycache__", *(() if _CACHE.startswith("~") else (Path(_CACHE),)))
LANES, MAX_T, MAX_D, MAX_C, MAX_V = 16, 256, 128, 2048, 4096  # as in native.cpp

_loaded: ctypes.CDLL | None = None
_active = False  # while a trial that uses them is under way


# -- making the library -------------------------------------------------------------------------------------------


def compiled() -> ctypes.CDLL:
    """The kernels, loaded when a process first needs them: made when they are not there yet for this source, compiler
    and processor, which takes two seconds, and kept beside this module's own compiled code or, where that can't be
    written, among the user's files.

    Raises:
        UserError: they can't be compiled here, or compute something else than torch does.
    """
    global _loaded
    if _loaded is None:
        _loaded = _load(build())
    return _loaded


def build() -> Path:
    """The compiled library. Raises as `compiled`."""
    global _loaded
    made_of = "\0".join([SOURCE.read_text(), compiler_version(), *FLAGS, _processor()])
    name = f"native-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    for folder in FOLDERS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
        except OSError:
            continue
        os.close(handle)
        try:
            _output([cpp_compiler(), *FLAGS, "-o", temporary, str(SOURCE)])
            os.chmod(temporary, 0o755)
            _loaded = _load(Path(temporary))
            try:
                check()
            finally:
                _loaded = None
            os.replace(temporary, folder / name)  # at once: workers that begin together never see half of it
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return folder / name
    raise UserError(f"native=True: can't write into {' or '.join(map(str, FOLDERS))} to compile there; use --no-native")


def compiler_version() -> str:
    """What the C++ compiler calls itself."""
    compiler = cpp_compiler()
    if compiler is None:
        raise UserError(
            "native=True: needs a C++ compiler (c++, g++ or clang++, or the one that CXX names); use --no-native"
        )
    return _output([compiler, "--version"]).splitlines()[0]


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        words = next((line for line in said if "error" in line), said[0] if said else "no message")
        raise UserError(f"native=True: {command[0]} can't compile native.cpp: {words}; use --no-native") from error


def _processor() -> str:
    """What `native` in FLAGS stands for."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        wanted = ("model name", "flags", "Features", "CPU part")
        return "".join(sorted({line for line in file if line.startswith(wanted)}))
    return platform.processor() or platform.machine()


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    p, n, f, none = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, None
    signatures = {
        "attention": (none, [p] * 3 + [n] * 4),
        "attention_backward": (none, [p] * 4 + [n] * 4),
        "layer_norm": (none, [p] * 4 + [n] * 2),
        "layer_norm_backward": (none, [p] * 7 + [n] * 2),
        "look_up": (none, [p] * 3 + [n]),
        "look_up_backward": (none, [p] * 4 + [n]),
        "cross_entropy": (ctypes.c_double, [p] * 3 + [n] * 2),
        "sum_of_squares": (ctypes.c_double, [p] * 2 + [n]),
        "adamw": (none, [p] * 7 + [n] + [f] * 6),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def check() -> None:
    """Compare the kernels with torch's on random numbers: a compiler can be wrong, and a processor can be another one
    than it takes it for.

    Raises:
        UserError: a value or a gradient departs from torch's in float32 by more than bfloat16's rounding explains.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, size=1.0):
        return (size * torch.randn(*shape, generator=generator)).bfloat16().requires_grad_()

    def plain_norm(x, weight):
        return F.layer_norm(x, weight.shape, weight, None, 1e-5)

    targets = torch.arange(8)
    functions = {
        "layer_norm": (layer_norm, plain_norm, [draw(8, 64), draw(64)]),
        "look_up": (GELU(), F.gelu, [draw(5, 7)]),
        "cross_entropy": (lambda x: cross_entropy(x, targets), lambda x: F.cross_entropy(x, targets), [draw(8, 21)]),
    }
    departures = {}
    with torch.enable_grad(), kernels(True):
        for name, (ours, theirs, inputs) in functions.items():
            exact_inputs = [x.detach().float().requires_grad_() for x in inputs]
            y, exact = ours(*inputs), theirs(*exact_inputs)
            gradient = torch.ones_like(y) if y.ndim == 0 else draw(*y.shape).detach()
            y.backward(gradient)
            exact.backward(gradient.float())
            pairs = [(y, exact), *((x.grad, e.grad) for x, e in zip(inputs, exact_inputs, strict=True))]
            departures[name] = max(_departure(a, b) for a, b in pairs)
        departures["attention"] = _departure_of_attention(draw(2, 32, 96), draw(2, 32, 32))
    with torch.no_grad():
        departures["adamw"] = _departure_of_adamw(draw(5, 7), draw(5, 7))
    for name, departure in departures.items():
        if not departure < 0.02:
            raise UserError(
                f"native=True: {name} of native.cpp departs from torch's by {departure:.2g} of its size when compiled "
                f"here; use --no-native"
            )


def _departure(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The difference relative to the exact size."""
    return float((ours.detach().float() - exact.detach()).norm() / exact.detach().norm())


def _departure_of_attention(qkv: torch.Tensor, dy: torch.Tensor) -> float:
    """For two windows of 32 tokens and two heads of width 16."""
    y, dqkv, p, sizes = torch.empty_like(dy), torch.empty_like(qkv), qkv.new_empty(4, 32, 32), (2, 32, 2, 16)
    compiled().attention(qkv.data_ptr(), y.data_ptr(), p.data_ptr(), *sizes)
    compiled().attention_backward(dy.data_ptr(), qkv.data_ptr(), p.data_ptr(), dqkv.data_ptr(), *sizes)
    exact_qkv = qkv.detach().float().requires_grad_()
    q, k, v = exact_qkv.view(2, 32, 3, 2, 16).permute(2, 0, 3, 1, 4)
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(dy.shape)
    exact.backward(dy.detach().float())
    return max(_departure(y, exact), _departure(dqkv, exact_qkv.grad))


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


# -- when it is used ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def kernels(wanted: bool) -> Iterator[None]:
    """Within, models train with the kernels of native.cpp, if they are wanted. They are compiled when first needed."""
    global _active
    before, _active = _active, wanted
    try:
        yield
    finally:
        _active = before


def usable(x: torch.Tensor) -> bool:
    """Whether a layer should compute with x through this module: only while gradients are taken."""
    return _active and x.dtype is torch.bfloat16 and torch.is_grad_enabled()


def layer_norm_fits(width: int) -> bool:
    """Whether the kernel takes rows of this width."""
    return width % LANES == 0 and width <= MAX_C


def attention_fits(block_size: int, width: int, n_head: int) -> bool:
    """Whether the kernel takes so many tokens and heads of that width."""
    head_width = width // n_head
    return block_size % LANES == head_width % LANES == 0 and block_size <= MAX_T and head_width <= MAX_D


# -- the kernels as functions of torch ----------------------------------------------------------------------------


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
        compiled().layer_norm_backward(*before, None, dx.data_ptr(), dweight.data_ptr(), x.numel() // C, C)
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
    """Mean cross-entropy in nats, float32, of logits (N, V) and targets (N,) int64. V is at most MAX_V.

    Raises:
        IndexError: a target is not one of the V.
    """
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


_tables: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}


class Tabulated(nn.Module):
    """Mixed into the module of an elementwise function that is costly to compute. In bfloat16 such a function has no
    more than 65 536 arguments: training reads values and slopes from two tables, which the module's own forward and
    backward pass in torch fill. The values are the same bits as torch's."""

    def forward(self, x):
        return _LookUp.apply(x, *self.tables()) if usable(x) else super().forward(x)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The function of every bfloat16, by its bits: values (65536,) bfloat16 and slopes (65536,) float32."""
        function = repr(self)  # with its parameters
        if function not in _tables:
            x = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
            wide = x.float().requires_grad_()
            with torch.enable_grad():
                (slopes,) = torch.autograd.grad(super().forward(wide).sum(), wide)
            with torch.no_grad():
                _tables[function] = super().forward(x), slopes
        return _tables[function]


class GELU(Tabulated, nn.GELU):
    pass


class SiLU(Tabulated, nn.SiLU):
    pass


class Mish(Tabulated, nn.Mish):
    pass


class Softplus(Tabulated, nn.Softplus):
    pass


class ELU(Tabulated, nn.ELU):
    pass


class Tanh(Tabulated, nn.Tanh):
    pass


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
