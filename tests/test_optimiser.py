"""The flat, fused update against torch's class in float64, on gradients that are given.

Gradients that are computed won't do: that of the keys' bias is zero in theory, and Adam makes a whole step of whatever
rounding leaves of it.
"""

import math

import pytest
import torch

from models.architectures import build_model
from training.arithmetic import Optimiser


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
def test_it_is_adamw_on_separate_tensors(smoke_config, clip):
    """With decay on matrices only, and the norm clipped."""
    config = smoke_config.replace(precision="float32", bias=True, weight_decay=0.3, grad_clip=clip)
    ours = build_model(config, "gelu", 20, seed=2)
    theirs = [(name, p.detach().double().requires_grad_()) for name, p in ours.named_parameters()]
    optimiser = Optimiser(ours, config, torch.float32)
    groups = [{"params": [p], "weight_decay": 0.3 if p.ndim >= 2 else 0.0} for _, p in theirs]
    adam = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2))
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        for p, (_, q) in zip(ours.parameters(), theirs, strict=True):
            p.grad = 0.02 * torch.randn(p.shape, generator=generator)
            q.grad = p.grad.double()
        for group in adam.param_groups:
            group["lr"] = 0.01 / step
        norm = torch.nn.utils.clip_grad_norm_([q for _, q in theirs], clip or math.inf)
        adam.step()
        assert optimiser.step(0.01 / step).item() == pytest.approx(norm.item(), rel=1e-6)
        assert all(p.grad is None for p in ours.parameters())
    for p, (name, q) in zip(ours.parameters(), theirs, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=1e-5, atol=1e-6, msg=name)
