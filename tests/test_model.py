"""The transformer against GPT-2 itself (Hugging Face), its gradients, its initialisation and its causality."""

import math

import pytest
import torch
from torch import nn

from config import Config
from model import Attention, CausalAttentionCPU, generate
from models.architectures import build_model

TINY = {"preset": "smoke", "device": "cpu", "precision": "float32"}


def copy_into_gpt2(model, hf):
    """Copy the weights of our model into a GPT2LMHeadModel, whose linear layers store their matrices transposed."""
    ours = dict(model.named_parameters())
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    with torch.no_grad():
        for name, p in hf.transformer.named_parameters():
            value = ours[name] if name in ours else torch.zeros_like(p)
            p.copy_(value.t() if name.endswith(transposed) else value)


@pytest.mark.parametrize(("activation", "theirs"), [("gelu", "gelu"), ("relu", "relu"), ("swish", "silu")])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_agree_with_hugging_face_gpt2(activation, theirs, bias):
    transformers = pytest.importorskip("transformers")
    config = Config(**TINY, n_layer=3, n_head=4, n_embd=64, block_size=48, bias=bias)
    model = build_model(config, activation, vocab_size=71, seed=3).eval()
    with torch.no_grad():  # well away from the initial values, where every difference of a formula would show
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    hf = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=71,
            n_positions=48,
            n_embd=64,
            n_layer=3,
            n_head=4,
            activation_function=theirs,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            layer_norm_epsilon=1e-5,
        )  # fmt: skip
    ).eval()
    copy_into_gpt2(model, hf)
    idx = torch.randint(71, (5, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, reference = model(idx), hf(idx).logits
    assert reference.abs().max() > 1
    assert (ours - reference).abs().max() < 1e-4


def test_loss_is_the_mean_cross_entropy():
    model = build_model(Config(**TINY), "gelu", 20)
    idx, targets = torch.randint(20, (2, 3, 9))
    logits, loss = model(idx, targets)
    p = torch.softmax(logits.double(), -1)
    expected = -torch.log(p.gather(-1, targets[..., None])).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_attention_written_out_agrees_with_the_formula_and_its_gradients():
    B, H, T, D = 2, 3, 7, 4
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(3, B, H, T, D, dtype=torch.float64, generator=generator, requires_grad=True)
    q, k, v = qkv
    mask = torch.ones(T, T).tril().bool()
    scores = (q @ k.transpose(-1, -2) / 2.0).masked_fill(~mask, -math.inf)
    expected = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(B, T, H * D)
    torch.testing.assert_close(CausalAttentionCPU.apply(qkv), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(CausalAttentionCPU.apply, (qkv,))
    # as the layer gives it: a view that is not contiguous
    packed = qkv.detach().permute(1, 3, 0, 2, 4).contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: CausalAttentionCPU.apply(x.permute(2, 0, 3, 1, 4)), (packed,))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_later_token_changes_no_earlier_logit(dropout):
    config = Config(**TINY, dropout=dropout)
    model = build_model(config, "relu", 30, seed=5).eval()
    idx = torch.randint(30, (4, config.block_size))
    for t in (1, 7, config.block_size - 1):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 30
        before, after = model(idx), model(changed)
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.equal(before[:, t:], after[:, t:])


def test_initialisation_has_gpt2s_spread_and_depends_on_the_seed_alone():
    config = Config(**TINY, n_layer=4, n_embd=128, n_head=4, bias=True)
    model = build_model(config, "gelu", 200, seed=11)
    for name, p in model.named_parameters():
        if name.endswith("c_proj.weight"):
            expected = 0.02 / math.sqrt(8)
        elif p.ndim == 2:
            expected = 0.02
        else:
            assert torch.equal(p, torch.ones_like(p) if name.endswith("weight") else torch.zeros_like(p)), name
            continue
        # the sample sd of n normal numbers lies within 4 sd/√(2n) of the truth but once in 16 000
        assert abs(p.std().item() - expected) < 4 * expected / math.sqrt(2 * p.numel()), name
    torch.manual_seed(99)
    again = build_model(config, "swish", 200, seed=11)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    other = build_model(config, "gelu", 200, seed=12)
    assert not torch.equal(model.wte.weight, other.wte.weight)


def test_building_a_model_leaves_the_callers_random_stream_alone():
    state = torch.random.get_rng_state()
    build_model(Config(**TINY), "gelu", 20)
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_layer_has_an_activation_of_its_own():
    model = build_model(Config(**TINY, n_layer=3), "gelu", 20)
    modules = [m for m in model.modules() if isinstance(m, nn.GELU)]
    assert len({id(m) for m in modules}) == 3


def test_parameter_count_is_the_closed_form():
    V, T, C, L = 65, 64, 128, 4
    model = build_model(Config(preset="quick", device="cpu"), "gelu", V)
    assert model.n_parameters() == V * C + T * C + L * (12 * C * C + 2 * C) + C


def test_too_long_a_context_is_refused():
    model = build_model(Config(**TINY), "gelu", 20)
    with pytest.raises(ValueError, match="block_size is 32"):
        model(torch.zeros(1, 33, dtype=torch.long))


def test_generation_is_repeatable_and_leaves_the_model_as_it_was():
    model = build_model(Config(**TINY), "gelu", 20).train()
    prompt = torch.zeros(1, 1, dtype=torch.long)
    a, b = (generate(model, prompt, 50, seed=4) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (1, 51)
    assert model.training
    greedy = generate(model, prompt, 5, temperature=0)
    assert greedy[0, 1] == model.eval()(prompt)[0, -1].argmax()


def test_attention_under_dropout_sees_no_future():
    """Trained with dropout another function computes attention than without; so unlikely a dropout drops nothing."""
    torch.manual_seed(0)
    attention = Attention(Config(preset="smoke", n_embd=32, n_head=2, dropout=1e-12, device="cpu")).train()
    x = torch.randn(2, 12, 32)
    later = torch.cat((x[:, :7], torch.randn(2, 5, 32)), 1)
    a, b = attention(x), attention(later)
    assert torch.allclose(a[:, :7], b[:, :7], atol=1e-6) and not torch.allclose(a[:, 7:], b[:, 7:], atol=1e-3)
    torch.testing.assert_close(a, attention.eval()(x), atol=1e-5, rtol=1e-4)
