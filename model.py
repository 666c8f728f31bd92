"""The transformer: GPT-2's decoder as nanoGPT computes it, with the activation function as a parameter; and the
registry of models, of which it is the default (`architectures.py` has the others).

Pre-LayerNorm blocks, learned positions, tied embeddings, GPT-2's parameter names and scaled residual initialisation
(Radford et al. 2019; github.com/karpathy/nanoGPT, model.py). Shapes in comments: B windows, T tokens of context,
C = n_embd, H = n_head, D = C / H, V vocabulary.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import activations
from config import Config, UserError
from training import fused, native


class CausalAttentionCPU(torch.autograd.Function):
    """softmax(q kᵀ / √D + causal mask) v for qkv of shape (3, B, H, T, D), as plain batched matrix products: (B, T, C).

    On CPUs with bfloat16 this is several times faster than the fused kernel, whose bfloat16 backward is slow there
    (bench/RESULTS.md); in float32 the two are alike. The backward is written out because autograd would scale and
    copy the (B·H, T, T) scores once more each way, and because the three gradients can then be written where the
    gradient of `qkv` wants them.
    """

    @staticmethod
    def forward(ctx, qkv):
        _, B, H, T, D = qkv.shape
        qkv = qkv.reshape(3, B * H, T, D)
        q, k, v = qkv
        mask = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu_(1)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=D**-0.5)  # (B·H, T, T)
        p = torch.softmax(scores, -1)
        ctx.save_for_backward(qkv, p)
        return torch.bmm(p, v).view(B, H, T, D).transpose(1, 2).reshape(B, T, H * D)

    @staticmethod
    def backward(ctx, grad):
        qkv, p = ctx.saved_tensors
        (q, k, v), (BH, T, D) = qkv, qkv.shape[1:]
        B = grad.shape[0]
        grad = grad.reshape(B, T, BH // B, D).transpose(1, 2).reshape(BH, T, D)
        grad_qkv = torch.empty_like(qkv)
        torch.bmm(p.transpose(1, 2), grad, out=grad_qkv[2])
        grad_p = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(D**-0.5)
        torch.bmm(grad_scores, k, out=grad_qkv[0])
        torch.bmm(grad_scores.transpose(1, 2), q, out=grad_qkv[1])
        return grad_qkv.view(3, B, BH // B, T, D)


class Attention(nn.Module):
    """Multi-head causal self-attention: position t sees positions 0…t."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def heads(self, x):
        """x (B, T, C) -> queries, keys and values, (3, B, H, T, D)."""
        B, T, C = x.shape
        return self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)

    def forward(self, x):
        dropout = self.dropout if self.training else 0.0
        if x.device.type == "cpu" and not dropout:
            y = CausalAttentionCPU.apply(self.heads(x))
        else:
            y = F.scaled_dot_product_attention(*self.heads(x), is_causal=True, dropout_p=dropout)
            y = y.transpose(1, 2).reshape(x.shape)
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    """c_proj(activation(c_fc(x))); a gated activation multiplies one half of c_fc by the activation of the other
    (Shazeer 2020, arXiv 2002.05202), at the width that keeps the number of parameters."""

    def __init__(self, config: Config, activation: str):
        super().__init__()
        self.gated = activations.get_info(activation).gated
        hidden = activations.hidden_width(config.n_embd, self.gated)
        self.c_fc = nn.Linear(config.n_embd, (2 if self.gated else 1) * hidden, bias=config.bias)
        self.activation = activations.make_activation(activation)
        self.c_proj = nn.Linear(hidden, config.n_embd, bias=config.bias)
        self.dropout = config.dropout

    def activate(self, x):
        """From c_fc to c_proj."""
        if not self.gated:
            return self.activation(x)
        gate, value = x.chunk(2, -1)
        return self.activation(gate) * value

    def forward(self, x):
        return F.dropout(self.c_proj(self.activate(self.c_fc(x))), self.dropout, self.training)


class LayerNorm(nn.Module):
    """LayerNorm with an optional bias, epsilon as in GPT-2."""

    def __init__(self, config: Config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x):
        if native.usable(x) and self.bias is None and native.layer_norm_fits(x.shape[-1]):
            return native.layer_norm(x, self.weight)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Block(nn.Module):
    def __init__(self, config: Config, activation: str):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(config), Attention(config)
        self.ln_2, self.mlp = LayerNorm(config), MLP(config, activation)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class LanguageModel(nn.Module):
    """What every model of the study has in common: `model(idx)` gives the logits of all positions.

    Subclasses define `hidden(idx)`: (B, T) token ids -> (B, T, C) features, whose position t depends on tokens 0…t
    alone, and a weight `head` of shape (V, C); or `logits` itself.
    """

    block_size: int

    def logits(self, idx):
        """(B, T) token ids -> (B, T, V)."""
        return F.linear(self.hidden(idx), self.head)

    def forward(self, idx, targets=None):
        """idx (B, T) int64 -> logits (B, T, V); with targets (B, T) -> (logits, mean cross-entropy in nats)."""
        if idx.shape[1] > self.block_size:
            raise ValueError(f"{idx.shape[1]} tokens of context, but block_size is {self.block_size}")
        logits = self.logits(idx)
        if targets is None:
            return logits
        if native.usable(logits) and logits.shape[-1] <= native.MAX_V:
            return logits, native.cross_entropy(logits.flatten(0, 1), targets.flatten())
        # float32: in bfloat16 the loss and its gradient would be rounded to two or three digits
        return logits, F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def n_parameters(self) -> int:
        """Trained numbers, a tied matrix counted once."""
        return sum(p.numel() for p in self.parameters())

    def residual_projections(self) -> list[str]:
        """Names of the matrices that write into the residual stream: initialised smaller, by depth (GPT-2)."""
        return []

    def adjust_initial_weights(self) -> None:
        """Called with GPT-2's initial weights in place, for layers that need others. It draws nothing at random."""


class GPT(LanguageModel):
    """GPT-2's decoder. The output matrix is the token embedding (tied), as in GPT-2."""

    def __init__(self, config: Config, activation: str, vocab_size: int):
        super().__init__()
        self.block_size, self.dropout = config.block_size, config.dropout
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, activation) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config)
        self.buffers_of_training = None  # kept by fused.py

    @property
    def head(self):
        return self.wte.weight

    def logits(self, idx):
        if native.usable(self.wte.weight) and self._is_plain() and fused.fits(self, idx):
            return fused.logits(self, idx)
        return super().logits(idx)

    def _is_plain(self) -> bool:
        """Whether this is what `fused` computes: this very class and its layers, nothing else put in the place of one,
        without dropout, biases, or an activation that has weights of its own."""
        kinds = {(type(b), type(b.ln_1), type(b.attn), type(b.ln_2), type(b.mlp)) for b in self.h if type(b) is Block}
        return (
            type(self) is GPT
            and all(type(block) is Block for block in self.h)
            and kinds == {(Block, LayerNorm, Attention, LayerNorm, MLP)}
            and not self.dropout
            and self.ln_f.bias is None
            and not any(True for block in self.h for _ in block.mlp.activation.parameters())
        )

    def hidden(self, idx):
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]  # (B, T, C)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def residual_projections(self):
        return [name for name, _ in self.named_parameters() if name.endswith("c_proj.weight")]


@torch.no_grad()
def initialise(model: LanguageModel, seed: int, n_layer: int) -> None:
    """GPT-2's initialisation: N(0, 0.02²), the projections into the residual stream N(0, 0.02² / 2·n_layer), biases 0.

    Drawn in the order of the parameters from a generator of its own, on the CPU in float32, so that neither the
    device nor any other use of randomness changes the initial weights, and all activations start from the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    scaled = set(model.residual_projections())
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            std = 0.02 / math.sqrt(2 * n_layer) if name in scaled else 0.02
            p.copy_(torch.empty(p.shape).normal_(0.0, std, generator=generator))
        elif name.endswith("bias"):
            p.zero_()
    model.adjust_initial_weights()


# -- the registry -------------------------------------------------------------------------------------------------

# name -> (path of a function(config, activation, vocab_size) -> LanguageModel, imported when asked for; what it is)
MODELS = {
    "gpt": ("model:GPT", "GPT-2's decoder: attention, learned positions (Radford et al. 2019)"),
    "llama": (
        "models.architectures:llama",
        "RMSNorm, rotary positions, no biases (Touvron et al. 2023)",
    ),
    "lstm": ("models.architectures:lstm", "LSTM layers (Hochreiter & Schmidhuber 1997) in the place of attention"),
    "conv": ("models.architectures:conv", "gated causal convolutions (Poli et al. 2023) in the place of attention"),
    "hybrid": ("models.architectures:hybrid", "LSTM and attention in turn"),
}


def list_models() -> list[tuple[str, str]]:
    """(name, description) of every model, the default first. A model of one's own goes by `module:function`."""
    return [(name, description) for name, (_, description) in MODELS.items()]


def check_model_name(name: str) -> None:
    """Raises UserError unless `name` is a model's name, or the path of a function that can be imported."""
    _model_function(name)


def _model_function(name: str) -> Callable:
    if name in MODELS:
        return import_function(MODELS[name][0], "model")
    if ":" in name:
        return import_function(name, "model")
    near = difflib.get_close_matches(name, MODELS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"model={name!r}: {hint}must be one of {', '.join(MODELS)}, or module:function")


def import_function(path: str, what: str) -> Callable:
    """The function at `module:function`; modules in the current folder are found too. `what` names the setting.

    Raises:
        UserError: the module can't be imported, or has no function of that name.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise UserError(f"{what}={path!r}: must have the form module:function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: importing it can raise anything
        raise UserError(f"{what}={path!r}: can't import {module_name}: {one_line(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            raise UserError(f"{what}={path!r}: no {part} in it" + (f"; did you mean {near[0]}?" if near else ""))
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{what}={path!r}: must be a function, not a value of type {type(found).__name__}")
    return found


def one_line(error: Exception) -> str:
    """An exception as part of a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def build_model(config: Config, activation: str, vocab_size: int, seed: int | None = None) -> LanguageModel:
    """A new float32 model on the CPU, initialised from `seed` (default: config.seed_base).

    A model of the user's own (`module:function`) is called with (config, activation, vocab_size) and gives a module
    that maps token ids (B, T) to logits (B, T, V). It keeps its own initial weights; they depend on `seed` alone as
    long as torch's random numbers are the only ones it uses.

    Raises:
        UserError: there is no such model, or the user's own is not of that form.
    """
    function = _model_function(config.model)
    seed = config.seed_base if seed is None else seed
    with torch.random.fork_rng(devices=[]):  # the caller's random stream is left alone
        torch.default_generator.manual_seed(seed)  # for what constructors draw and `initialise` does not replace
        if config.model not in MODELS:
            from models.architectures import own_model

            return own_model(function, config, activation, vocab_size)
        model = function(config, activation, vocab_size)
    initialise(model, seed, config.n_layer)
    return model


@torch.no_grad()
def generate(model: LanguageModel, idx, max_new_tokens: int, temperature: float = 1.0, seed: int = 0):
    """Continue idx (B, T) by sampling. The randomness is a generator of its own: two models asked with the same seed
    differ only by their predictions. temperature 0 takes the most likely token."""
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    for _ in range(max_new_tokens):
        logits = model(idx[:, -model.block_size :])[:, -1].float().cpu()
        if temperature == 0:
            new = logits.argmax(-1, keepdim=True)
        else:
            new = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
        idx = torch.cat((idx, new.to(idx.device)), 1)
    model.train(was_training)
    return idx
