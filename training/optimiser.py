"""AdamW with float32 master weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim.adamw import adamw

from config import Config

EPSILON = 1e-8  # of AdamW


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) with float32 master weights, for a model that computes in `dtype`.

    All parameters live in one flat float32 vector: matrices first (decayed), then the rest (not decayed). One fused
    update, one norm and two multi-tensor copies a step replace hundreds of small calls; the arithmetic is the same,
    element by element, as that of torch.optim.AdamW on the separate tensors. `kernel` (native.AdamW), made of the
    state, the working weights and their decays, takes the place of torch's where it is given.
    """

    def __init__(self, model: torch.nn.Module, config: Config, dtype: torch.dtype, kernel: Callable | None = None):
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
        if kernel:
            decays = [config.weight_decay if p.ndim >= 2 else 0.0 for p in self.parameters]
            self.kernel = kernel((self.master, self.mean, self.square), self.working, decays)

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
        kept = {"master": self.master, "mean": self.mean, "square": self.square, "count": self.count.reshape(1)}
        return {name: tensor.cpu().clone() for name, tensor in kept.items()}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        for name in ("master", "mean", "square"):
            getattr(self, name).copy_(state[name])
        self.count = state["count"].reshape(()).to(self.master.device, copy=True)
        self.use_working_weights()
