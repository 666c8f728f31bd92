"""The kernels of native.cpp, and the pass that fused.py makes of them, against independent computations in float64."""

import math
import os

import numpy as np
import pytest
import torch

import activations
import metrics
from config import Config, UserError, cpp_compiler
from model import GPT, build_model
from models.architectures import RotaryAttention
from prepare_data import load_corpus
from training import fused, native, trial

pytestmark = pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")

BF16 = torch.bfloat16
UNIT = 2.0**-8  # half of the distance between two bfloat16 numbers, relative


@pytest.fixture(autouse=True)
def active():
    with native.kernels(True):
        yield


def draw(*shape, size=1.0, seed=0):
    """bfloat16 numbers with gradients, and the same ones in float64."""
    x = (size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(BF16)
    return x.clone().requires_grad_(), x.double().requires_grad_()


def apart(ours, exact) -> float:
    """The distance between two tensors relative to the size of the second."""
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm())


def compare(ours, exact, inputs, tolerance):
    """Values and every gradient of two functions of the same numbers, each within `tolerance` of the exact size."""
    y, z = ours(*(x for x, _ in inputs)), exact(*(x for _, x in inputs))
    gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(9)).to(BF16)
    y.backward(gradient)
    z.backward(gradient.double())
    assert y.shape == z.shape
    assert apart(y, z) < tolerance
    for x, x64 in inputs:
        assert x.grad.shape == x64.grad.shape
        assert apart(x.grad, x64.grad) < tolerance


# -- each kernel ----------------------------------------------------------------------------------------------------


def exact_norm(x, weight):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def exact_attention(qkv, n_head):
    """From the formula, head by head: (B, T, 3C) -> (B, T, C)."""
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = (part.reshape(B, T, n_head, C // n_head) for part in qkv.split(C, -1))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(C // n_head)
    future = torch.arange(T)[None, :] > torch.arange(T)[:, None]
    p = scores.masked_fill(future, -math.inf).exp()
    return torch.einsum("bhij,bjhd->bihd", p / p.sum(-1, keepdim=True), v).reshape(B, T, C)


def attention(qkv, dy, n_head):
    """y and the gradient of qkv."""
    B, T, C = dy.shape
    y, dqkv, p = torch.empty_like(dy), torch.empty_like(qkv), torch.empty(B * n_head, T, T, dtype=BF16)
    sizes, kernels = (B, T, n_head, C // n_head), native.compiled()
    kernels.attention(qkv.data_ptr(), y.data_ptr(), p.data_ptr(), *sizes)
    kernels.attention_backward(dy.data_ptr(), qkv.data_ptr(), p.data_ptr(), dqkv.data_ptr(), *sizes)
    return y, dqkv


@pytest.mark.parametrize(
    "B, T, n_head, D", [(1, 16, 1, 16), (3, 64, 4, 32), (2, 48, 3, 48), (1, 256, 2, 128), (2, 32, 1, 80)]
)
def test_attention(B, T, n_head, D):
    (qkv, exact_qkv), (dy, exact_dy) = draw(B, T, 3 * n_head * D), draw(B, T, n_head * D, seed=1)
    y, dqkv = attention(qkv, dy, n_head)
    exact = exact_attention(exact_qkv, n_head)
    exact.backward(exact_dy.detach())
    assert apart(y, exact) < 2 * UNIT
    assert apart(dqkv, exact_qkv.grad) < 3 * UNIT


def test_attention_sees_no_future():
    """Bit by bit: changed tokens change nothing before them, and a gradient reaches nothing after it."""
    C, T, n_head = 64, 48, 2
    qkv, dy = (draw(2, T, size, seed=size)[0].detach() for size in (3 * C, C))
    before, _ = attention(qkv, dy, n_head)
    for t in (0, 1, 15, 16, 17, 31, 40, 47):
        changed = qkv.clone()
        changed[:, t:] = torch.randn(2, T - t, 3 * C).to(BF16)
        after, _ = attention(changed, dy, n_head)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])
        _, gradient = attention(qkv, torch.where(torch.arange(T)[:, None] == t, dy, 0), n_head)
        assert not gradient[:, t + 1 :].any() and gradient[:, : t + 1].any(-1).all()


@pytest.mark.parametrize("shape", [(1, 16), (7, 128), (3, 5, 48), (2, 2048)])
def test_layer_norm(shape):
    compare(native.layer_norm, exact_norm, [draw(*shape, size=3.0), draw(shape[-1], seed=1)], tolerance=1.5 * UNIT)


def test_layer_norm_of_numbers_far_from_zero():
    """A variance from the mean square would lose them."""
    x = (1000 + torch.randn(4, 64)).to(BF16)
    assert apart(native.layer_norm(x, torch.ones(64, dtype=BF16)), exact_norm(x.double(), torch.ones(64))) < UNIT


@pytest.mark.parametrize("N, V", [(5, 65), (1, 2), (12, 16), (3, 4096), (4, 257)])
def test_cross_entropy(N, V):
    logits, exact = draw(N, V, size=4.0)
    targets = torch.arange(N) * 7 % V
    loss = native.cross_entropy(logits, targets)
    assert loss.dtype is torch.float32
    expected = -exact.log_softmax(-1)[torch.arange(N), targets].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    (2 * loss).backward()
    (2 * expected).backward()
    assert apart(logits.grad, exact.grad) < UNIT


def test_cross_entropy_at_the_extremes():
    logits = torch.tensor([[200.0, -200.0, 0.0], [-1e4, 1e4, 0.0]], dtype=BF16, requires_grad=True)
    assert float(native.cross_entropy(logits, torch.tensor([1, 0]))) == pytest.approx((400 + 19968) / 2, rel=1e-3)
    assert float(native.cross_entropy(logits, torch.tensor([0, 1]))) == 0
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match="tokens 0…2"):
            native.cross_entropy(logits, torch.tensor([0, wrong]))


TABULATED = ["gelu", "swish", "gelu_tanh", "mish", "softplus", "elu", "tanh"]


@pytest.mark.parametrize("name", TABULATED)
def test_tables_hold_the_bits_that_torch_computes(name):
    """All 65 536 numbers, infinities and not-a-numbers too; the slopes against differences of the function."""
    module = activations.make_activation(name)
    assert isinstance(module, native.Tabulated)
    x = torch.arange(2**16).to(torch.uint16).view(BF16)
    ours = module(x.clone().requires_grad_())
    with native.kernels(False):
        theirs = module(x)
    assert torch.equal(ours.detach().view(torch.int16), theirs.view(torch.int16))
    grid = torch.linspace(-5, 5, 999).to(BF16)  # not a multiple of the width of a vector
    grid = grid[(grid != 0)].requires_grad_()  # the slope of ELU at 0 is a convention
    (slope,) = torch.autograd.grad(module(grid).float().sum(), grid)
    wide, h = grid.detach().double(), 1e-6
    with native.kernels(False), torch.no_grad():
        difference = (module(wide + h) - module(wide - h)) / (2 * h)
    np.testing.assert_allclose(slope.double(), difference, rtol=1.01 * UNIT, atol=1e-6)


def test_functions_with_other_parameters_have_other_tables():
    x = torch.linspace(-2, 2, 20).to(BF16).requires_grad_()
    exact, approximate = (activations.make_activation(name)(x) for name in ("gelu", "gelu_tanh"))
    assert not torch.equal(exact, approximate)


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
def test_adamw(clip):
    """Against torch's class in float64, on parameters whose sizes are and are not multiples of a vector."""
    generator = torch.Generator().manual_seed(0)
    shapes, decays = [(3, 5), (32,), (16, 3), (1,)], [0.3, 0.0, 0.3, 0.0]
    theirs = [torch.randn(s, generator=generator).double().requires_grad_() for s in shapes]
    flat = torch.cat([p.detach().flatten() for p in theirs]).float()
    working = [p.detach().to(BF16) for p in theirs]
    ours = native.AdamW((flat, torch.zeros_like(flat), torch.zeros_like(flat)), working, decays)
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(theirs, decays, strict=True)]
    adam = torch.optim.AdamW(groups, betas=(0.8, 0.95))
    for t in range(1, 8):
        gradients = [torch.randn(s, generator=generator).to(BF16) for s in shapes]
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.double()
        for group in adam.param_groups:
            group["lr"] = 0.1 / t
        norm = torch.nn.utils.clip_grad_norm_(theirs, clip or math.inf)
        adam.step()
        found = ours.step(gradients, t, 0.1 / t, beta1=0.8, beta2=0.95, epsilon=1e-8, clip=clip)
        assert float(found) == pytest.approx(float(norm), rel=1e-6)
    expected = torch.cat([p.detach().flatten() for p in theirs])
    torch.testing.assert_close(flat.double(), expected, rtol=1e-5, atol=1e-6)
    for rounded, part in zip(working, flat.split([w.numel() for w in working]), strict=True):
        assert torch.equal(rounded.flatten(), part.to(BF16))


# -- in a model -----------------------------------------------------------------------------------------------------


def fitting(smoke_config, **changes):
    """A config whose layers the kernels can compute."""
    changes = {"precision": "bfloat16", "native": True, "block_size": 32, "n_embd": 64, "n_head": 2, **changes}
    config = smoke_config.replace(**changes)
    assert config.native
    return config


def gradients(config, activation, dtype, on):
    """{name: gradient} of the first batch."""
    corpus = load_corpus(config)
    model = build_model(config, activation, corpus.vocab_size, seed=4)
    with torch.no_grad():
        for p in model.parameters():  # of a model that has learned something: small weights hide errors
            p.mul_(5) if p.ndim > 1 else p.add_(0.1 * torch.randn(p.shape))
    model.to(dtype).train()
    with native.kernels(on):
        _, loss = model(*trial.Batches(corpus.train, config, seed=1)(0))
        loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters()}, float(loss)


@pytest.mark.parametrize("activation", [*activations.STUDY, "swiglu", "relu2", "softplus"])
@pytest.mark.parametrize("model", ["gpt", "llama", "lstm"])
def test_training_is_as_exact_as_with_torch_alone(smoke_config, activation, model):
    """The gradients in bfloat16 are no farther from those in float64 than torch's own in bfloat16 are."""
    config = fitting(smoke_config, model=model)
    torch.manual_seed(0)
    exact, exact_loss = gradients(config, activation, torch.float64, False)
    torch.manual_seed(0)
    ours, loss = gradients(config, activation, BF16, True)
    torch.manual_seed(0)
    theirs, their_loss = gradients(config, activation, BF16, False)
    assert abs(loss - exact_loss) < abs(their_loss - exact_loss) + 0.01
    assert model == "llama" or any(not torch.equal(ours[name], theirs[name]) for name in exact)
    for name, gradient in exact.items():
        assert apart(ours[name], gradient) < 1.2 * apart(theirs[name], gradient) + 0.005, name


def test_what_uses_them(smoke_config, monkeypatch):
    """GPT's whole pass and the loss; but not while no gradients are taken, in float32, or with biases, dropout, heads
    or windows that don't fit, an activation that learns, or another layer in the place of GPT's own."""
    called = []

    def count(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: called.append(name) or function(*args))

    count(fused, "logits")
    count(native, "cross_entropy")

    def uses(activation="gelu", dtype=BF16, T=32, gradient=True, change=None, **changes):
        model = GPT(fitting(smoke_config, **changes), activation, 20)
        if change:
            change(model)
        model.to(dtype)
        idx = torch.arange(2 * T).view(2, T) % 20
        called.clear()
        with torch.set_grad_enabled(gradient):
            model(idx, idx)
        return sorted(called)

    assert uses() == uses(T=16) == uses("swiglu") == uses("relu") == ["cross_entropy", "logits"]
    assert uses(bias=True) == uses(dropout=0.1) == uses(n_embd=40) == uses(T=30) == ["cross_entropy"]
    assert uses("torch.nn:PReLU") == ["cross_entropy"]
    for change in (
        lambda model: setattr(model.h[1], "attn", RotaryAttention(fitting(smoke_config))),
        lambda model: setattr(model, "h", torch.nn.ModuleList([torch.nn.Identity()])),
        lambda model: setattr(model, "__class__", type("Other", (GPT,), {})),
    ):
        assert uses(change=change) == ["cross_entropy"]
    assert uses(dtype=torch.float32) == uses(gradient=False) == []
    with native.kernels(False):
        assert uses() == []


@pytest.mark.parametrize("activation", ["gelu", "smelu_1", "swiglu"])
def test_the_whole_pass_is_what_autograd_does(smoke_config, monkeypatch, activation):
    """Two batches one after the other, so that the memory is used again, and a shorter one: every gradient, and the
    logits, against those of the layers one by one."""
    config = fitting(smoke_config)
    corpus = load_corpus(config)
    batches = trial.Batches(corpus.train, config, seed=1)
    model = build_model(config, activation, corpus.vocab_size, seed=4).to(BF16)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5) if p.ndim > 1 else p.add_(0.1)
    exact = build_model(config, activation, corpus.vocab_size, seed=4).double()
    exact.load_state_dict(model.state_dict())
    for step, T in enumerate((32, 32, 16)):
        idx, targets = (part[:, :T] for part in batches(step))
        logits, loss = model(idx, targets)
        loss.backward()
        with native.kernels(False):
            exact_logits, exact_loss = exact(idx, targets)
            exact_loss.backward()
        assert apart(logits, exact_logits) < 3 * UNIT
        for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
            assert apart(p.grad, q.grad) < 0.05, name
            p.grad = q.grad = None


def test_gradients_through_the_logits_alone(smoke_config):
    """The pass is a function like any other: its gradient is that of whatever is made of the logits."""
    config = fitting(smoke_config)
    model = build_model(config, "gelu", 20).to(BF16)
    idx = torch.arange(64).view(2, 32) % 20
    grads = []
    for on in (True, False):
        with native.kernels(on):
            (model(idx).float() ** 2)[:, 5].sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
        for p in model.parameters():
            p.grad = None
    assert all(apart(a, b.double()) < 0.05 for a, b in zip(*grads, strict=True) if b.any())


def test_two_passes_before_one_backward_are_refused(smoke_config):
    model = build_model(fitting(smoke_config), "gelu", 20).to(BF16)
    idx = torch.arange(64).view(2, 32) % 20
    first, second = model(idx).sum(), model(idx).sum()
    second.backward()
    with pytest.raises(RuntimeError, match="another forward pass"):
        first.backward()


def test_evaluation_is_torchs_own(smoke_config):
    config = fitting(smoke_config)
    corpus = load_corpus(config)
    model = build_model(config, "gelu", corpus.vocab_size)
    starts = metrics.evaluation_windows(len(corpus.val), 32, 512)
    found = []
    for on in (True, False):
        with native.kernels(on):
            found.append(metrics.evaluate_loss(model, corpus.val, starts, 32))
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight", "ln_f.weight"])
def test_not_a_number_is_seen(smoke_config, where):
    """Kernels that clamp can swallow it, and a trial that diverged would go on."""
    model = build_model(fitting(smoke_config), "gelu", 20).to(BF16)
    with torch.no_grad():
        dict(model.named_parameters())[where].view(-1)[:64] = math.nan
    idx = torch.arange(64).view(2, 32) % 20
    assert math.isnan(model(idx, idx)[1])


def test_trials_differ_from_torchs_by_rounding_alone(smoke_config):
    config = fitting(smoke_config)
    corpus = load_corpus(config)
    losses = {}
    for on in (True, False):
        chosen = config.replace(native=on)
        with trial.torch_settings(chosen), trial.own_randomness("cpu"):
            training = trial.Training(chosen, "gelu", 1, corpus)
            training.model.train()
            losses[on] = [float(training.one_step(step)) for step in range(4)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.005)
    assert losses[True] != losses[False]


# -- making the library ---------------------------------------------------------------------------------------------


@pytest.fixture
def unmade(monkeypatch, tmp_path):
    """As in a process on a machine where it was never compiled."""
    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.setattr(native, "FOLDERS", (tmp_path / "first", tmp_path / "second"))
    return tmp_path


def test_made_once(unmade, monkeypatch):
    path = native.build()
    assert path.parent == unmade / "first" and os.listdir(path.parent) == [path.name]
    commands = []
    output = native._output
    monkeypatch.setattr(native, "_output", lambda command: commands.append(command) or output(command))
    assert native.build() == path
    assert [command[1] for command in commands] == ["--version"]
    monkeypatch.setattr(native, "compiler_version", lambda: "another one")
    assert native.build() != path


def test_made_where_it_can_be_written(unmade):
    (unmade / "first").write_text("a file where the folder should be")
    assert native.build().parent == unmade / "second"
    (unmade / "second" / "more").mkdir()
    assert native.build().parent == unmade / "second"


def test_no_folder_to_write(unmade):
    for name in ("first", "second"):
        (unmade / name).write_text("")
    with pytest.raises(UserError, match=r"can't write into .*first or .*second .*--no-native"):
        native.build()


@pytest.mark.parametrize(
    "right, wrong, kernel",
    [
        ("1.0f / std::sqrt((float)D)", "1.0f", "attention"),
        ("lane >= j - i ? power", "lane >= j - i - 1 ? power", "attention"),
        ("+ 1e-5f", "+ 1e-1f", "layer_norm"),
        ("powers[target] -= all_powers", "powers[target] -= 0.9f * all_powers", "cross_entropy"),
        ("slopes[x[i + lane]]", "slopes[x[i]]", "look_up"),
        ("(1 - beta2) * g * g", "(1 - beta2) * g", "adamw"),
    ],
)
def test_wrong_kernels_are_refused(unmade, monkeypatch, right, wrong, kernel):
    """As a compiler's mistake would be. Nothing is left that would be used next time."""
    source = native.SOURCE.read_text()
    assert right in source
    defective = unmade / "native.cpp"
    defective.write_text(source.replace(right, wrong))
    monkeypatch.setattr(native, "SOURCE", defective)
    with pytest.raises(UserError, match=f"{kernel} of native.cpp departs from torch's .* use --no-native"):
        native.compiled()
    assert native._loaded is None and os.listdir(unmade / "first") == []


def test_a_compiler_that_fails(unmade, monkeypatch):
    broken = unmade / "c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit\necho "x: error: no such thing" >&2; exit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UserError, match=r"can't compile native.cpp: x: error: no such thing; use --no-native"):
        native.build()


def test_a_compiler_that_is_missing(unmade, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler .*--no-native"):
        native.build()
    assert not Config(preset="smoke", device="cpu").native


def test_without_the_processors_own_instructions(unmade, monkeypatch):
    """The same source for a processor that has neither wide vectors nor bfloat16, checked as always."""
    monkeypatch.setattr(native, "FLAGS", tuple(flag for flag in native.FLAGS if "native" not in flag))
    assert native.compiled() is not None
