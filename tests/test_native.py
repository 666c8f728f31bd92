"""The kernels of native.cpp, and models whose layers compute with them, against independent computations in float64."""

import copy
import math
import os

import numpy as np
import pytest
import torch

import activations
import config as config_module
import programs
from config import Config, UserError
from kernels import native, toolchain
from model import GPT
from models.architectures import RotaryAttention, build_model
from prepare_data import load_corpus
from training import arithmetic, machine, trial

pytestmark = pytest.mark.skipif(toolchain.problem() is not None, reason="needs a C++ compiler")

BF16 = torch.bfloat16
UNIT = 2.0**-8  # half of the distance between two bfloat16 numbers, relative


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
    qkv = qkv.detach().requires_grad_()
    y = native.attention(qkv, n_head)
    return y.detach(), torch.autograd.grad(y, qkv, dy)[0]


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
    assert float(native.cross_entropy(logits, torch.tensor([1, 0])).detach()) == pytest.approx(
        (400 + 19968) / 2, rel=1e-3
    )
    assert float(native.cross_entropy(logits, torch.tensor([0, 1])).detach()) == 0
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match="tokens 0…2"):
            native.cross_entropy(logits, torch.tensor([0, wrong]))


TABULATED = ["gelu", "swish", "gelu_tanh", "mish", "softplus", "elu", "tanh"]


@pytest.mark.parametrize("name", TABULATED)
def test_tables_hold_the_bits_that_torch_computes(name):
    """All 65 536 numbers, infinities and not-a-numbers too; the slopes against differences of the function."""
    module = activations.make_activation(name)
    assert type(module) in arithmetic.COSTLY
    table = native.Table(module)
    x = torch.arange(2**16).to(torch.uint16).view(BF16)
    assert torch.equal(table(x).view(torch.int16), module(x).view(torch.int16))
    grid = torch.linspace(-5, 5, 999).to(BF16)  # not a multiple of the width of a vector
    grid = grid[(grid != 0)].requires_grad_()  # the slope of ELU at 0 is a convention
    (slope,) = torch.autograd.grad(table(grid).float().sum(), grid)
    wide, h = grid.detach().double(), 1e-6
    difference = (module(wide + h) - module(wide - h)) / (2 * h)
    np.testing.assert_allclose(slope.double(), difference, rtol=1.01 * UNIT, atol=1e-6)


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
        measured = ours.step(gradients, t, 0.1 / t, beta1=0.8, beta2=0.95, epsilon=1e-8, clip=clip)
        assert float(measured) == pytest.approx(float(norm), rel=1e-6)
    expected = torch.cat([p.detach().flatten() for p in theirs])
    torch.testing.assert_close(flat.double(), expected, rtol=1e-5, atol=1e-6)
    for rounded, part in zip(working, flat.split([w.numel() for w in working]), strict=True):
        assert torch.equal(rounded.flatten(), part.to(BF16))


# -- the training loss ----------------------------------------------------------------------------------------------


def fitting(smoke_config, **changes):
    """A config whose layers the kernels can compute."""
    changes = {"precision": "bfloat16", "native": True, "block_size": 32, "n_embd": 64, "n_head": 2, **changes}
    config = smoke_config.replace(**changes)
    assert config.native
    return config


def learned(config, activation, vocab_size, dtype):
    """As a model that has learned something: small weights hide errors."""
    model = build_model(config, activation, vocab_size, seed=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5) if p.ndim > 1 else p.add_(0.1 * torch.randn(p.shape, generator=generator))
            p.copy_(p.bfloat16())
    return model.to(dtype).train()


def with_kernels(model):
    arithmetic.use_kernels(model)
    return model


def gradients(model, x, y):
    """{name: gradient} of a batch, and the loss."""
    value = trial.training_loss(model, x, y)
    value.backward()
    grads = {name: p.grad.double() for name, p in model.named_parameters()}
    model.zero_grad()
    return grads, float(value.detach())


def compared(config, activation):
    """Gradients and loss in float64, with the kernels in bfloat16, and with torch alone in bfloat16."""
    corpus = load_corpus(config)
    x, y = trial.Batches(corpus.train, config, seed=1)(0)
    exact, ours, theirs = (learned(config, activation, corpus.vocab_size, d) for d in (torch.float64, BF16, BF16))
    return tuple(gradients(model, x, y) for model in (exact, with_kernels(ours), theirs))


@pytest.mark.parametrize("activation", [*activations.STUDY, "swiglu", "relu2", "softplus", "torch.nn:PReLU"])
@pytest.mark.parametrize("model", ["gpt", "llama", "lstm"])
def test_training_is_as_exact_as_with_torch_alone(smoke_config, activation, model):
    """The gradients in bfloat16 are no farther from those in float64 than torch's own in bfloat16 are."""
    (exact, exact_loss), (ours, loss), (theirs, their_loss) = compared(fitting(smoke_config, model=model), activation)
    assert abs(loss - exact_loss) < abs(their_loss - exact_loss) + 0.01
    assert model == "llama" or any(not torch.equal(ours[name], theirs[name]) for name in exact)
    for name, gradient in exact.items():
        # how far a single number is off is luck: PReLU's, a sum of many that cancel
        limit = 1.2 * apart(theirs[name], gradient) + 0.005 if gradient.numel() > 1 else 0.1
        assert apart(ours[name], gradient) < limit, name


@pytest.mark.parametrize(
    "changes",
    [{"bias": True}, {"n_embd": 40}, {"block_size": 24}, {"n_layer": 1}, {"model": "test_native:mixed"}],
)
def test_what_some_kernels_do_not_take(smoke_config, changes):
    """Sizes and kinds; and layers of one's own in another precision and in place."""
    (exact, exact_loss), (ours, loss), (theirs, _) = compared(fitting(smoke_config, **changes), "gelu")
    assert loss == pytest.approx(exact_loss, rel=0.01)
    for name, gradient in exact.items():
        assert apart(ours[name], gradient) < 1.2 * apart(theirs[name], gradient) + 0.005, name


def test_what_the_kernels_compute(smoke_config, monkeypatch):
    """All that there is a kernel for; but not attention with dropout, or of another kind, nor what doesn't fit. In
    float32 the model computes the bits of one without kernels."""
    called = []
    for name in ("attention", "layer_norm", "cross_entropy"):
        function = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *args, n=name, f=function: called.append(n) or f(*args))

    def uses(activation="gelu", T=32, change=None, **changes):
        model = GPT(fitting(smoke_config, **changes), activation, 20)
        if change:
            change(model)
        idx = torch.arange(2 * T).view(2, T) % 20
        model.eval()
        before = model(idx, idx)
        arithmetic.use_kernels(model)
        called.clear()
        assert all(torch.equal(a, b) for a, b in zip(before, model(idx, idx), strict=True)) and not called
        model.to(BF16).train()(idx, idx)
        return sorted(set(called))

    every = ["attention", "cross_entropy", "layer_norm"]
    assert uses() == uses(T=16) == uses("swiglu") == uses("torch.nn:PReLU") == every
    assert uses(dropout=0.1) == uses(T=30) == ["cross_entropy", "layer_norm"]
    assert uses(bias=True) == ["attention", "cross_entropy"] and uses(n_embd=40) == ["cross_entropy"]

    def rotary(model):
        for block in model.h:
            block.attn = RotaryAttention(fitting(smoke_config))

    assert uses(change=rotary) == ["cross_entropy", "layer_norm"]


def mixed(config, activation, vocab_size):
    """A model of one's own that computes some layers in float32, and others in place."""

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.out = torch.nn.Embedding(vocab_size, 64), torch.nn.Linear(64, vocab_size)
            self.gelu, self.silu, self.softplus = torch.nn.GELU(), torch.nn.SiLU(inplace=True), torch.nn.Softplus()

        def forward(self, idx):
            x = self.wte(idx)
            return self.out(self.gelu(x) + self.softplus(x.float()).to(x.dtype) + self.silu(1 * x))

    return Mixed()


def test_a_copy_computes_with_weights_of_its_own(smoke_config):
    config = fitting(smoke_config)
    model = with_kernels(learned(config, "gelu", 65, BF16))
    other, plain = copy.deepcopy(model).double(), learned(config, "gelu", 65, torch.float64)
    with torch.no_grad():
        for p in (*other.parameters(), *plain.parameters()):
            p.mul_(0.5)
    x = torch.arange(32)[None]
    assert torch.equal(other(x), plain(x))


def test_another_code_of_the_kernels_is_said_where_a_trial_goes_on(smoke_config, monkeypatch):
    config, corpus = fitting(smoke_config), load_corpus(fitting(smoke_config))
    trial.Training(config, "gelu", 1, corpus).save_snapshot()
    assert trial.Training(config, "gelu", 1, corpus).resume() is None
    monkeypatch.setattr(trial, "kernels_sha256", lambda: "0" * 64)
    note = trial.Training(config, "gelu", 1, corpus).resume()
    assert (
        note == "the kernels' code is another one since it began: it rounds otherwise from here — going on from step 0"
    )


def test_two_passes_before_one_backward(smoke_config):
    """Each keeps what its own gradients need."""
    model = with_kernels(build_model(fitting(smoke_config), "gelu", 20).to(BF16))
    first, other = (torch.arange(64).view(2, 32) * k % 20 for k in (1, 3))
    alone, _ = gradients(model, first, first)
    loss = model(first, first)[1]
    model(other, other)
    loss.backward()
    assert all(torch.equal(p.grad.double(), alone[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("where", ["wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight", "ln_f.weight"])
def test_not_a_number_is_seen(smoke_config, where):
    """Kernels that clamp can swallow it, and a trial that diverged would go on."""
    model = build_model(fitting(smoke_config), "gelu", 20).to(BF16)
    with torch.no_grad():
        dict(model.named_parameters())[where].view(-1)[:64] = math.nan
    idx = torch.arange(64).view(2, 32) % 20
    assert math.isnan(trial.training_loss(with_kernels(model), idx, idx))


def test_trials_differ_from_torchs_by_rounding_alone(smoke_config):
    config = fitting(smoke_config)
    corpus = load_corpus(config)
    losses = {}
    for on in (True, False):
        chosen = config.replace(native=on)
        with machine.torch_settings(chosen), machine.own_randomness("cpu"):
            training = trial.Training(chosen, "gelu", 1, corpus)
            training.model.train()
            losses[on] = [float(training.one_step(step)) for step in range(4)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.005)
    assert losses[True] != losses[False]


# -- making the library ---------------------------------------------------------------------------------------------


@pytest.fixture
def unmade(monkeypatch, tmp_path):
    """As in a process on a machine where it was never compiled."""
    monkeypatch.setattr(toolchain, "_built", {})
    monkeypatch.setattr(native, "_library", None)
    monkeypatch.setattr(toolchain, "FOLDERS", (tmp_path / "first", tmp_path / "second"))
    return tmp_path


def defective(folder, right, wrong):
    """A copy of the source with a mistake."""
    source, path = toolchain.SOURCE.read_text(encoding="utf-8"), folder / "native.cpp"
    assert right in source
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    return path


def anew(monkeypatch):
    """As in another process."""
    monkeypatch.setattr(toolchain, "_built", {})


def test_made_once(unmade, monkeypatch):
    path = toolchain.build()
    assert path.parent == unmade / "first" and os.listdir(path.parent) == [path.name]
    anew(monkeypatch)
    commands = []
    output = toolchain._output
    monkeypatch.setattr(toolchain, "_output", lambda command: commands.append(command) or output(command))
    assert toolchain.build() == path
    assert [command[1] for command in commands] == ["--version"]
    anew(monkeypatch)
    monkeypatch.setattr(toolchain, "compiler_version", lambda: "another one")
    assert toolchain.build() != path


def test_made_where_it_can_be_written(unmade, monkeypatch):
    (unmade / "first").write_text("a file where the folder should be", encoding="utf-8")
    assert toolchain.build().parent == unmade / "second"
    anew(monkeypatch)
    assert toolchain.build().parent == unmade / "second"


def test_a_damaged_library_is_made_anew(unmade, monkeypatch):
    """Empty, or cut short where it would end the process when it is used."""
    path = toolchain.build()
    whole = path.read_bytes()
    for size in (0, 20_000):
        path.write_bytes(whole[:size])
        anew(monkeypatch)
        assert len(toolchain.build().read_bytes()) == len(whole)
        assert len(os.listdir(path.parent)) == 1
    assert native.compiled() is not None


def test_a_library_that_can_not_be_loaded(unmade, monkeypatch):
    """As on a file system mounted noexec: the next folder, and what was made there, is used."""
    load = toolchain.ctypes.CDLL

    def refuse(path, *args):
        if "first" in str(path):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path, *args)

    monkeypatch.setattr(toolchain.ctypes, "CDLL", refuse)
    assert toolchain.build().parent == unmade / "second"
    monkeypatch.setattr(toolchain, "FOLDERS", (unmade / "first",))
    anew(monkeypatch)
    with pytest.raises(toolchain.Unavailable, match="can't load a library from .*first .*failed to map segment"):
        toolchain.build()
    with pytest.raises(UserError, match="native=True: can't load .*; use native=False"):
        native.compiled()


def test_what_was_chosen_automatically_falls_back(unmade, monkeypatch):
    """With a line that says so; only what was asked for is an error."""
    for name in ("first", "second"):
        (unmade / name).write_text("", encoding="utf-8")
    chosen = {"preset": "smoke", "device": "cpu", "precision": "bfloat16"}
    config = Config(**chosen)
    assert not config.native
    line = config.how_computed()
    assert line.startswith("bfloat16 with torch's kernels: can't write into") and "\n" not in line
    assert Config(**chosen, native=True).native
    with pytest.raises(UserError, match=r"can't write into .*first .*second .*native=False"):
        native.compiled()


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
    """As a compiler's mistake would be, by every process that would use them."""
    monkeypatch.setattr(toolchain, "SOURCE", defective(unmade, right, wrong))
    for _ in range(2):
        with pytest.raises(UserError, match=f"{kernel} of native.cpp departs from torch's .* use native=False"):
            native.compiled()
    assert native._library is None


def test_a_compiler_that_fails(unmade, monkeypatch):
    broken = unmade / "c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit\necho "x: error: no such thing" >&2; exit 1\n',
        encoding="utf-8",
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "can't compile native.cpp: x: error: no such thing" in toolchain.problem()
    with pytest.raises(UserError, match=r"can't compile native.cpp: x: error: no such thing; use native=False"):
        native.compiled()


def test_a_compiler_that_is_missing(unmade, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert toolchain.problem() == "there is no C++ compiler here (CXX=no-such-compiler)"
    with pytest.raises(UserError, match=r"there is no C\+\+ compiler .*native=False"):
        native.compiled()
    assert not Config(preset="smoke", device="cpu").native


def test_the_compiler_that_CXX_names(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert toolchain.cpp_compiler() is None
    mine = tmp_path / "my-c++"
    mine.write_text("", encoding="utf-8")
    mine.chmod(0o755)
    monkeypatch.setenv("CXX", "my-c++")
    assert toolchain.cpp_compiler() == str(mine)


def test_without_the_processors_own_instructions(unmade, monkeypatch):
    """The same source for a processor that has neither wide vectors nor bfloat16, checked as always."""
    monkeypatch.setattr(toolchain, "FLAGS", tuple(flag for flag in toolchain.FLAGS if "native" not in flag))
    assert native.compiled() is not None


def sanitized(source=toolchain.SOURCE):
    program = toolchain.SOURCE.parent.parent / "bench" / "kernels.py"
    done = programs.fresh(program, "--sanitize", "--source", source, timeout=600)
    if "there is no AddressSanitizer" in done.stderr:
        pytest.skip("needs g++ with AddressSanitizer")
    return done


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kernels_stay_within_their_arrays():
    """At odd sizes, watched by AddressSanitizer and UndefinedBehaviorSanitizer, and no less exact than torch there."""
    done = sanitized()
    assert done.returncode == 0, done.stderr[-3000:]
    ratios = [float(line.split()[-1]) for line in done.stdout.splitlines()[2:]]
    assert len(ratios) == 14 and max(ratios) < 3  # as the audit allows; sixteen tokens are few


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "right, wrong",
    [
        ("if (i < size) function(i, size - i);", "if (i < size) function(i, LANES);"),
        ("alignas(64) thread_local uint32_t room[MAX_T * MAX_T", "alignas(64) thread_local uint32_t room[MAX_T"),
    ],
)
def test_an_access_outside_of_an_array_is_seen(tmp_path, right, wrong):
    done = sanitized(defective(tmp_path, right, wrong))
    assert done.returncode != 0 and "AddressSanitizer" in done.stderr


# -- what is said ---------------------------------------------------------------------------------------------------


def test_how_it_is_computed(monkeypatch):
    def line(fast=True, **settings):
        monkeypatch.setattr(config_module, "fast_bfloat16", lambda device: fast)
        return Config(preset="smoke", device="cpu", **settings).how_computed()

    bfloat16 = {"precision": "bfloat16", "native": False}
    assert line(precision="bfloat16") == (
        "bfloat16 with the kernels of native.cpp: a C++ compiler and fast bfloat16 are here"
    )
    assert line(**bfloat16) == "bfloat16 with torch's kernels: native=False"
    assert line(fast=False, precision="float32") == "float32 with torch's kernels: no fast bfloat16 on this processor"
    assert line(precision="float32") == "float32 with torch's kernels: precision=float32"
    assert line(fast=False, **bfloat16) == "bfloat16 with torch's kernels: precision=bfloat16"
    assert line(threads=2, precision="bfloat16").endswith("those of native.cpp are for one thread, not 2")
    on_cuda = {**Config(preset="smoke", device="cpu", precision="float32").to_dict(), "device": "cuda", "compile": True}
    assert (
        Config.from_dict(on_cuda).how_computed()
        == "float32 on cuda with kernels that torch.compile makes: compile=True"
    )
    monkeypatch.setattr(
        toolchain, "_built", {toolchain.SOURCE: toolchain.Unavailable("there is no C++ compiler here (…)")}
    )
    assert line(**bfloat16) == "bfloat16 with torch's kernels: there is no C++ compiler here (…)"
