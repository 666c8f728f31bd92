"""The training loss with the kernels of native.py, for any model of the study.

A GPT's whole pass and its gradients are written out: what autograd would do, with the kernels between the matrix
products, and in memory that is taken once and used again in every step. A step of the quick model is 150 operations of
a tenth of a millisecond each; to ask for memory and to keep autograd's graph for every one of them takes a tenth of its
time. Of any other model, or a GPT of another kind, single layers are computed with the kernels.

The models know nothing of this. Their formulas stand here a second time, and the audit compares the two ("one
function"): loss and gradients of every activation and model, before it is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from kernels import native
from model import GPT, MLP, Attention, Block, LanguageModel, LayerNorm

# What costs more to compute than to look up.
COSTLY = (nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.ELU, nn.Tanh)


class Loss:
    """loss(model, x, y): the mean cross-entropy of a batch in nats, with gradients, of a model in bfloat16."""

    def __init__(self, model: LanguageModel):
        native.compiled()  # whatever is wrong with it is said before anything is trained
        self.tables: dict[str, native.Table] = {}
        self.layers = {module: forward for module in model.modules() if (forward := self._faster(module))}
        self.is_gpt = is_plain_gpt(model)
        self.buffers: _Buffers | None = None

    def _faster(self, module: nn.Module) -> Callable | None:
        """The forward pass of a layer with the kernels, where there is one; in another precision it is the layer's."""
        plain = module.forward
        if type(module) is LayerNorm and module.bias is None and native.layer_norm_fits(len(module.weight)):
            return lambda x: native.layer_norm(x, module.weight) if x.dtype is torch.bfloat16 else plain(x)
        if type(module) in COSTLY and not getattr(module, "inplace", False):
            function = repr(module)  # with its parameters
            if function not in self.tables:
                self.tables[function] = native.Table(plain)
            return self.tables[function]
        return None

    def logits(self, model: LanguageModel, x: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids -> logits (B, T, V), with gradients."""
        try:
            for module, forward in self.layers.items():
                vars(module)["forward"] = forward  # past nn.Module.__setattr__, which is slow
            return self._gpt(model, x) if self.is_gpt and _fits(model, x) else model.logits(x)
        finally:
            for module in self.layers:
                vars(module).pop("forward", None)

    def __call__(self, model: LanguageModel, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits, y = self.logits(model, x).flatten(0, 1), y.flatten()
        if logits.shape[-1] <= native.MAX_V:
            return native.cross_entropy(logits, y)
        return F.cross_entropy(logits.float(), y)

    def _gpt(self, model: GPT, idx: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids -> logits (B, T, V).

        Raises:
            RuntimeError: (in the backward pass) another forward pass of the model came between; the first one's memory
                was used again.
        """
        if self.buffers is None or self.buffers.shape != idx.shape:
            self.buffers = _Buffers(model, idx.shape)
        return _Logits.apply(model, self.buffers, idx.contiguous(), *_parameters(model))


# -- a GPT --------------------------------------------------------------------------------------------------------


def is_plain_gpt(model: LanguageModel) -> bool:
    """Whether its layers and weights are those that `_Logits` computes with: no dropout, no biases, none that learn in
    the activation."""
    if type(model) is not GPT or model.dropout or {type(block) for block in model.h} != {Block}:
        return False
    kinds = {(type(b.ln_1), type(b.attn), type(b.ln_2), type(b.mlp)) for b in model.h}
    known = {id(p) for p in _parameters(model)}
    return kinds == {(LayerNorm, Attention, LayerNorm, MLP)} and {id(p) for p in model.parameters()} == known


def _fits(model: GPT, idx: torch.Tensor) -> bool:
    """Whether the kernels take windows and heads of these sizes."""
    T, C = idx.shape[1], model.wte.weight.shape[1]
    return native.layer_norm_fits(C) and native.attention_fits(T, C, model.h[0].attn.n_head)


def _parameters(model: GPT) -> list[torch.Tensor]:
    """In the order in which `_Logits` gives their gradients."""
    found = [model.wte.weight, model.wpe.weight, model.ln_f.weight]
    for block in model.h:
        found += [block.ln_1.weight, block.attn.c_attn.weight, block.attn.c_proj.weight]
        found += [block.ln_2.weight, block.mlp.c_fc.weight, block.mlp.c_proj.weight]
    return found


class _Buffers:
    """The memory of one pass through a model: M = B T rows."""

    def __init__(self, model, shape: torch.Size):
        (B, T), like = shape, model.wte.weight
        C, n_head, M = like.shape[1], model.h[0].attn.n_head, B * T
        K, hidden = model.h[0].mlp.c_fc.weight.shape[0], model.h[0].mlp.c_proj.weight.shape[1]  # K: both of a gated one

        def rows(width):
            return torch.empty(M, width, dtype=like.dtype)

        def statistics():
            return torch.empty(M, 2)

        self.shape, self.passes = shape, 0
        self.x, self.normal, self.statistics = rows(C), rows(C), statistics()
        self.layers = [
            SimpleNamespace(
                normal_1=rows(C), statistics_1=statistics(), qkv=rows(3 * C), y=rows(C),
                p=torch.empty(B * n_head, T, T, dtype=like.dtype),
                middle=rows(C), normal_2=rows(C), statistics_2=statistics(), a=rows(K), h=rows(hidden), out=rows(C),
                graph=None,  # the activation's input and output, with autograd's graph between them; or its table
            )
            for _ in model.h
        ]  # fmt: skip
        # of the backward pass, the same for every layer
        self.dx, self.dmiddle, self.dnormal, self.dy, self.dqkv = rows(C), rows(C), rows(C), rows(C), rows(3 * C)
        self.dh, self.da = rows(hidden), rows(K)


def _call(kernel, tensors, *sizes) -> None:
    kernel(*(None if tensor is None else tensor.data_ptr() for tensor in tensors), *sizes)


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, model, buffers, idx, *parameters):
        kernels, s = native.compiled(), buffers
        (B, T), (V, C), n_head = idx.shape, model.wte.weight.shape, model.h[0].attn.n_head
        M, heads = B * T, (B, T, n_head, C // n_head)
        wte, wpe, ln_f = parameters[:3]
        torch.index_select(wte, 0, idx.view(-1), out=s.x)
        s.x.view(B, T, C).add_(wpe[:T])
        x = s.x
        for block, layer, weights in zip(model.h, s.layers, _by_layer(parameters), strict=True):
            ln_1, c_attn, c_proj, ln_2, c_fc, c_out = weights
            _call(kernels.layer_norm, (x, ln_1, layer.normal_1, layer.statistics_1), M, C)
            torch.mm(layer.normal_1, c_attn.t(), out=layer.qkv)
            _call(kernels.attention, (layer.qkv, layer.y, layer.p), *heads)
            torch.mm(layer.y, c_proj.t(), out=layer.middle).add_(x)
            _call(kernels.layer_norm, (layer.middle, ln_2, layer.normal_2, layer.statistics_2), M, C)
            torch.mm(layer.normal_2, c_fc.t(), out=layer.a)
            _activate(block.mlp, layer, idx.shape)
            torch.mm(layer.h, c_out.t(), out=layer.out).add_(layer.middle)
            x = layer.out
        _call(kernels.layer_norm, (x, ln_f, s.normal, s.statistics), M, C)
        s.passes += 1
        ctx.buffers, ctx.number, ctx.heads = s, s.passes, heads
        ctx.save_for_backward(idx, *parameters)
        return torch.mm(s.normal, wte.t()).view(B, T, V)

    @staticmethod
    def backward(ctx, dlogits):
        s, (idx, *parameters) = ctx.buffers, ctx.saved_tensors
        if s.passes != ctx.number:
            raise RuntimeError("another forward pass of this model came between; train with native=False for that")
        kernels, (wte, wpe, ln_f) = native.compiled(), parameters[:3]
        (B, T), (V, C) = idx.shape, wte.shape
        M, dlogits = B * T, dlogits.reshape(-1, V)
        gradients = []
        dwte, dwpe, dln_f = torch.mm(dlogits.t(), s.normal), torch.zeros_like(wpe), torch.empty_like(ln_f)
        torch.mm(dlogits, wte, out=s.dnormal)
        x = s.layers[-1].out
        _call(kernels.layer_norm_backward, (s.dnormal, x, ln_f, s.statistics, None, s.dx, dln_f), M, C)
        for k in reversed(range(len(s.layers))):
            layer, (ln_1, c_attn, c_proj, ln_2, c_fc, c_out) = s.layers[k], _by_layer(parameters)[k]
            x = s.layers[k - 1].out if k else s.x
            dc_out = torch.mm(s.dx.t(), layer.h)
            torch.mm(s.dx, c_out, out=s.dh)
            da = _activate_backward(layer, s)
            dc_fc = torch.mm(da.t(), layer.normal_2)
            torch.mm(da, c_fc, out=s.dnormal)
            dln_2 = torch.empty_like(ln_2)
            tensors = (s.dnormal, layer.middle, ln_2, layer.statistics_2, s.dx, s.dmiddle, dln_2)
            _call(kernels.layer_norm_backward, tensors, M, C)
            dc_proj = torch.mm(s.dmiddle.t(), layer.y)
            torch.mm(s.dmiddle, c_proj, out=s.dy)
            _call(kernels.attention_backward, (s.dy, layer.qkv, layer.p, s.dqkv), *ctx.heads)
            dc_attn = torch.mm(s.dqkv.t(), layer.normal_1)
            torch.mm(s.dqkv, c_attn, out=s.dnormal)
            dln_1 = torch.empty_like(ln_1)
            _call(
                kernels.layer_norm_backward,
                (s.dnormal, x, ln_1, layer.statistics_1, s.dmiddle, s.dx, dln_1), M, C,
            )  # fmt: skip
            gradients = [dln_1, dc_attn, dc_proj, dln_2, dc_fc, dc_out, *gradients]
        dwte.add_(torch.ops.aten.embedding_dense_backward(s.dx, idx.view(-1), V, -1, False))
        torch.sum(s.dx.view(B, T, C), 0, out=dwpe[:T])
        return None, None, None, dwte, dwpe, dln_f, *gradients


def _table(mlp: MLP) -> native.Table | None:
    """The table of an activation that is nothing but a look into it."""
    forward = mlp.activation.forward
    return forward if isinstance(forward, native.Table) and not mlp.gated else None


def _activate(mlp: MLP, layer, shape) -> None:
    """From layer.a to layer.h."""
    layer.table = _table(mlp)
    if layer.table:
        _call(native.compiled().look_up, (layer.a, layer.table.values, layer.h), layer.a.numel())
        return
    with torch.enable_grad():  # whatever the activation is, its own backward pass will be used
        a = layer.a.view(*shape, -1).detach().requires_grad_()
        h = mlp.activate(a)
    layer.graph = a, h
    layer.h = h.detach().reshape(layer.h.shape)


def _activate_backward(layer, s) -> torch.Tensor:
    """From s.dh to the gradient of layer.a."""
    if layer.table:
        _call(native.compiled().look_up_backward, (s.dh, layer.a, layer.table.slopes, s.da), s.da.numel())
        return s.da
    (a, h), layer.graph = layer.graph, None
    (da,) = torch.autograd.grad(h, a, s.dh.view(h.shape))
    return da.reshape(layer.a.shape)


def _by_layer(parameters) -> list:
    return [parameters[k : k + 6] for k in range(3, len(parameters), 6)]
