"""How a step is computed: its loss, with layers on the kernels of native.py or with torch.compile, and the update.

The network stands in model.py alone. What is faster there in bfloat16 takes the place of a layer's own function:
attention, layer norm, the activation where it is costly, the loss. In another precision, as in every evaluation, and at
sizes that a kernel doesn't take, the layer computes as ever. The audit compares the two ("one function"): loss and
gradients of every activation and model, before it is trained.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import MethodType

import torch
from torch import nn
from torch.optim.adamw import adamw

from config import Config, UserError, option
from kernels import native, toolchain
from model import Attention, LanguageModel, LayerNorm

EPSILON = 1e-8  # of AdamW

# What costs more to compute than to look up.
COSTLY = (nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.ELU, nn.Tanh)


def training_loss(model: LanguageModel, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of a batch, in nats."""
    return model(x, y)[1]


# -- layers with the kernels of native.py -------------------------------------------------------------------------


def use_kernels(model: LanguageModel) -> None:
    """Let a model compute with the kernels wherever its numbers are in bfloat16. Raises UserError: the kernels can't be
    compiled here, or compute something else than torch does."""
    native.compiled()  # whatever is wrong with it is said before anything is trained
    tables: dict[str, native.Table] = {}
    for module in model.modules():
        if type(module) is LayerNorm and module.bias is None and native.layer_norm_fits(len(module.weight)):
            module.forward = MethodType(_layer_norm, module)  # methods: a copy of the model has its own
        elif type(module) is Attention and not module.dropout:
            module.attend = MethodType(_attend, module)
        elif type(module) in COSTLY and not getattr(module, "inplace", False):
            function = repr(module)  # with its parameters
            if function not in tables:
                tables[function] = native.Table(module.forward)
            module.forward = tables[function]
    model.cross_entropy = MethodType(_cross_entropy, model)


@functools.cache
def kernels_sha256() -> str:
    """Of the code that says how a step with kernels is rounded."""
    sources = (toolchain.SOURCE, Path(native.__file__), Path(__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _layer_norm(self: LayerNorm, x: torch.Tensor) -> torch.Tensor:
    return native.layer_norm(x, self.weight) if x.dtype is torch.bfloat16 else LayerNorm.forward(self, x)


def _attend(self: Attention, qkv: torch.Tensor) -> torch.Tensor:
    if qkv.dtype is torch.bfloat16 and native.attention_fits(qkv.shape[1], qkv.shape[2] // 3, self.n_head):
        return native.attention(qkv, self.n_head)
    return Attention.attend(self, qkv)


def _cross_entropy(self: LanguageModel, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if logits.dtype is not torch.bfloat16 or logits.shape[-1] > native.MAX_V:
        return type(self).cross_entropy(self, logits, targets)
    return native.cross_entropy(logits.flatten(0, 1), targets.flatten())


# -- torch.compile ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def compiled_loss(deterministic: bool, *what_is_compiled) -> Callable:
    """`training_loss` for CUDA, compiled. One at a time: what was compiled for another model or activation is
    forgotten first, since the compiler makes a number that it has seen change, such as SmeLU's β, a variable of its
    kernels; so their bits would depend on what was trained before.

    Raises (the loss):
        UserError: torch.compile makes no kernels here.
    """
    torch.compiler.reset()
    options = {
        "triton.cudagraphs": True,  # a step of a small model is hundreds of short kernels: one launch instead
        "deterministic": deterministic,  # no choice of kernels by their time
    }
    function = torch.compile(training_loss, dynamic=False, options=options)

    def loss(model, x, y):
        torch.compiler.cudagraph_mark_step_begin()
        try:
            return function(model, x, y)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            why = str(error).strip().splitlines()[0]
            raise UserError(
                f"compile=True: torch.compile fails here ({why}); use {option('compile', False)}"
            ) from error

    return loss


# -- the update ---------------------------------------------------------------------------------------------------


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) with float32 master weights, for a model that computes in `dtype`.

    All parameters live in one flat float32 vector: matrices first (decayed), then the rest (not decayed). One fused
    update, one norm and two multi-tensor copies a step replace hundreds of small calls; the arithmetic is the same,
    element by element, as that of torch.optim.AdamW on the separate tensors. With `config.native` the kernel of
    native.py takes torch's place.
    """

    def __init__(self, model: torch.nn.Module, config: Config, dtype: torch.dtype):
        self.config, self.dtype = config, dtype
        named = sorted(model.named_parameters(), key=lambda item: item[1].ndim < 2)  # stable: matrices first
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        device = self.parameters[0].device
        sizes = [p.numel() for p in self.parameters]
        n_decayed = sum(p.numel() for p in self.parameters if p.ndim >= 2)
        self.master = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        self.gradient = torch.zeros_like(self.master)
        self.weights = self.views(self.master)
        self.gradients = self.views(self.gradient)
        with torch.no_grad():
            torch._foreach_copy_(self.weights, [p.data for p in self.parameters])
        self.mean, self.square = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.count = torch.zeros((), device=device)  # updates so far
        self.parts = [(slice(0, n_decayed), config.weight_decay)]
        if n_decayed < len(self.master):
            self.parts.append((slice(n_decayed, None), 0.0))
        # always the same tensors: a CUDA graph knows the weights by their addresses
        self.working = [torch.empty_like(weight, dtype=dtype) for weight in self.weights]
        self.use_working_weights()
        self.kernel = None
        if config.native:
            decays = [config.weight_decay if p.ndim >= 2 else 0.0 for p in self.parameters]
            self.kernel = native.AdamW((self.master, self.mean, self.square), self.working, decays)

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The parameters in a vector that is laid out as `master` is, in the order of `names`."""
        views, offset = [], 0
        for p in self.parameters:
            views.append(flat[offset : offset + p.numel()].view(p.shape))
            offset += p.numel()
        return views

    def use_master_weights(self) -> None:
        """Let the model compute with the float32 weights: for evaluation."""
        for p, weight in zip(self.parameters, self.weights, strict=True):
            p.data = weight

    def use_working_weights(self) -> None:
        """Let the model compute in the training precision."""
        torch._foreach_copy_(self.working, self.weights)
        for p, weight in zip(self.parameters, self.working, strict=True):
            p.data = weight

    @torch.no_grad()
    def step(self, rate: float) -> torch.Tensor:
        """One update from the gradients of the model; returns their norm before clipping (a device scalar)."""
        c = self.config
        if self.kernel:
            self.count += 1
            gradients = [p.grad for p in self.parameters]
            norm = self.kernel.step(gradients, int(self.count), rate, c.beta1, c.beta2, EPSILON, c.grad_clip)
            for p in self.parameters:
                p.grad = None
            return norm
        torch._foreach_copy_(self.gradients, [p.grad for p in self.parameters])
        norm = torch.linalg.vector_norm(self.gradient)
        if c.grad_clip:
            self.gradient.mul_((c.grad_clip / (norm + 1e-6)).clamp_(max=1.0))
        vectors = (self.master, self.gradient, self.mean, self.square)
        counts = [self.count.clone() for _ in self.parts]  # each call advances its own
        for (part, decay), count in zip(self.parts, counts, strict=True):
            weights, gradients, means, squares = ([vector[part]] for vector in vectors)
            # the function behind torch.optim.AdamW: making the class would import torch._dynamo, 1.7 s per process
            adamw(
                weights, gradients, means, squares, [], [count], fused=True, lr=rate, weight_decay=decay,
                beta1=c.beta1, beta2=c.beta2, eps=EPSILON, amsgrad=False, maximize=False,
            )  # fmt: skip
        self.count = counts[0]
        torch._foreach_copy_([p.data for p in self.parameters], self.weights)
        for p in self.parameters:
            p.grad = None
        return norm

    def state(self) -> dict:
        """What a snapshot needs: weights and both moments, by copy."""
        state = {"master": self.master, "mean": self.mean, "square": self.square, "count": self.count.reshape(1)}
        return {name: tensor.cpu().clone() for name, tensor in state.items()}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        for name in ("master", "mean", "square"):
            getattr(self, name).copy_(state[name])
        self.count = state["count"].reshape(()).to(self.master.device, copy=True)
        self.use_working_weights()
