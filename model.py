"""The transformer: GPT-2's decoder as nanoGPT computes it, with the activation function as a parameter.

Pre-LayerNorm blocks, learned positions, tied embeddings, GPT-2's parameter names (Radford et al. 2019;
github.com/karpathy/nanoGPT, model.py). `models/architectures.py` builds it, with its initial weights, and has the other
models. Shapes in comments: B windows, T tokens of context, C = n_embd, H = n_head, D = C / H, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

import activations
from config import Config


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

    def heads(self, qkv):
        """(B, T, 3 C) -> queries, keys and values, (3, B, H, T, D)."""
        B, T, C = qkv.shape
        return qkv.view(B, T, 3, self.n_head, C // 3 // self.n_head).permute(2, 0, 3, 1, 4)

    def attend(self, qkv):
        """(B, T, 3 C) -> (B, T, C)."""
        dropout = self.dropout if self.training else 0.0
        if qkv.device.type == "cpu" and not dropout:
            return CausalAttentionCPU.apply(self.heads(qkv))
        y = F.scaled_dot_product_attention(*self.heads(qkv), is_causal=True, dropout_p=dropout)
        return y.transpose(1, 2).flatten(2)

    def forward(self, x):
        return F.dropout(self.c_proj(self.attend(self.c_attn(x))), self.dropout, self.training)


class MLP(nn.Module):
    """c_proj(activation(c_fc(x))); a gated activation multiplies one half of c_fc by the activation of the other
    (Shazeer 2020, arXiv 2002.05202), at the width that keeps the number of parameters. The precision is that in which
    an activation of the user's own is tried out."""

    def __init__(self, config: Config, activation: str):
        super().__init__()
        self.gated = activations.get_info(activation).gated
        hidden = activations.hidden_width(config.n_embd, self.gated)  # 4 C, or about 8/3 C where gated
        self.c_fc = nn.Linear(config.n_embd, (2 if self.gated else 1) * hidden, bias=config.bias)
        self.activation = activations.make_activation(activation, config.precision)
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
        return logits, self.cross_entropy(logits, targets)

    def cross_entropy(self, logits, targets):
        """The mean over the tokens, in nats. In float32: in bfloat16 the loss and its gradient would be rounded to two
        or three digits."""
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

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

    @property
    def head(self):
        return self.wte.weight

    def hidden(self, idx):
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]  # (B, T, C)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def residual_projections(self):
        return [name for name, _ in self.named_parameters() if name.endswith("c_proj.weight")]


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
