"""How a step is computed where not by torch's own kernels: layers with the kernels of native.py, or torch.compile.

The network stands in model.py alone. What is faster there in bfloat16 takes the place of a layer's own function:
attention, layer norm, the activation where it is costly, the loss. In another precision, as in every evaluation, and at
sizes that a kernel doesn't take, the layer computes as ever. The audit compares the two ("one function"): loss and
gradients of every activation and model, before it is trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from config import UserError, option
from kernels import native
from model import Attention, LanguageModel, LayerNorm

# What costs more to compute than to look up.
COSTLY = (nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.ELU, nn.Tanh)


def use_kernels(model: LanguageModel) -> None:
    """Let a model compute with the kernels wherever its numbers are in bfloat16.

    Raises:
        UserError: the kernels can't be compiled here, or compute something else than torch does.
    """
    native.compiled()  # whatever is wrong with it is said before anything is trained
    tables: dict[str, native.Table] = {}
    for module in model.modules():
        if type(module) is LayerNorm and module.bias is None and native.layer_norm_fits(len(module.weight)):
            module.forward = _layer_norm(module, module.forward)
        elif type(module) is Attention and not module.dropout:
            module.attend = _attention(module, module.attend)
        elif type(module) in COSTLY and not getattr(module, "inplace", False):
            function = repr(module)  # with its parameters
            if function not in tables:
                tables[function] = native.Table(module.forward)
            module.forward = tables[function]
    model.cross_entropy = _cross_entropy(model.cross_entropy)


def _layer_norm(module: LayerNorm, plain: Callable) -> Callable:
    def forward(x):
        return native.layer_norm(x, module.weight) if x.dtype is torch.bfloat16 else plain(x)

    return forward


def _attention(module: Attention, plain: Callable) -> Callable:
    def attend(qkv):
        fits = native.attention_fits(qkv.shape[1], qkv.shape[2] // 3, module.n_head)
        return native.attention(qkv, module.n_head) if fits and qkv.dtype is torch.bfloat16 else plain(qkv)

    return attend


def _cross_entropy(plain: Callable) -> Callable:
    def cross_entropy(logits, targets):
        if logits.dtype is not torch.bfloat16 or logits.shape[-1] > native.MAX_V:
            return plain(logits, targets)
        return native.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return cross_entropy


# -- torch.compile ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def compiled(loss: Callable, deterministic: bool, *what_is_compiled) -> Callable:
    """`loss(model, x, y)` for CUDA, compiled. One at a time: what was compiled for another model or activation is
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
    function = torch.compile(loss, dynamic=False, options=options)

    def compiled_loss(model, x, y):
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

    return compiled_loss
