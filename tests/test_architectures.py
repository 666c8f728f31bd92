"""Every model of the registry: causal, wired, repeatable, of one size; each layer against an independent formula."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import activations
from config import Config, UserError
from model import GPT, generate
from models import architectures
from models.architectures import (
    Convolution,
    Recurrence,
    RMSNorm,
    RotaryAttention,
    build_model,
    check_model_name,
    list_models,
)
from training.trial import Optimiser

MODELS = ("gpt", "llama", "lstm", "conv", "hybrid")
V = 30


@pytest.fixture(autouse=True)
def one_thread():
    """As trials run; and small models are no faster with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(model, **changes):
    small = {"preset": "smoke", "n_embd": 32, "device": "cpu", "precision": "float32", "model": model}
    return Config(**{**small, **changes})


def shaken(model, seed=0):
    """The model with weights of unit gain, so that no path is closed by a small initial weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.empty(p.shape).normal_(generator=generator)
            p.copy_(noise * p.shape[-1] ** -0.5) if p.ndim >= 2 else p.add_(0.1 * noise)
    return model


def tokens(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


# -- the registry -------------------------------------------------------------------------------------------------


def test_the_registry_lists_every_model_with_the_default_first():
    assert tuple(name for name, _ in list_models()) == MODELS
    assert Config().model == MODELS[0]
    for name, description in list_models():
        check_model_name(name)
        assert description


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lama", "did you mean llama"),
        ("transformer", "must be one of gpt, llama, lstm, conv, hybrid, or module:function"),
        ("no_such_module_anywhere:f", "can't import no_such_module_anywhere \\(ModuleNotFoundError"),
        ("models.architectures:lstn", "models is a module of this project"),
        ("math:pi", "must be a function or class, not a value of type float"),
        ("math:", "has the form package.module:function"),
        ("./math.py:sin", "has the form package.module:function"),
    ],
)
def test_a_wrong_model_name_is_one_clear_line(name, says):
    with pytest.raises(UserError, match=says) as caught:
        check_model_name(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        build_model(tiny(name), "gelu", V)


# -- what every model has to keep ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", MODELS)
def test_a_later_token_changes_no_earlier_logit(model, dtype):
    config = tiny(model, n_layer=4)
    net = shaken(build_model(config, "relu", V))
    idx = tokens(3, config.block_size)
    for training in (False, True):
        net.train(training)
        for p in net.parameters():
            p.data = p.data.to(dtype)
        with torch.no_grad():
            before = net(idx)
            for t in (0, 1, 2, 11, 30, 31):
                changed = idx.clone()
                changed[:, t] = (changed[:, t] + 1 + t) % V
                after = net(changed)
                assert torch.equal(before[:, :t], after[:, :t])
                assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("model", MODELS)
def test_the_first_token_reaches_the_last_logits(model):
    config = tiny(model, n_layer=3)
    net = shaken(build_model(config, "gelu", V)).eval()
    idx = tokens(1, config.block_size)
    changed = idx.clone()
    changed[0, 0] = (changed[0, 0] + 1) % V
    with torch.no_grad():
        assert not torch.equal(net(idx)[0, -1], net(changed)[0, -1])


@pytest.mark.parametrize("model", MODELS)
def test_order_matters(model):
    """A model without positions would give the last token the same logits for any order of those before it."""
    net = shaken(build_model(tiny(model), "gelu", V)).eval()
    with torch.no_grad():
        a, b = net(torch.tensor([[1, 2, 3, 4]]))[0, -1], net(torch.tensor([[2, 1, 3, 4]]))[0, -1]
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("activation", [*activations.STUDY, "swiglu", "reglu"])
@pytest.mark.parametrize("model", MODELS)
def test_the_activation_asked_for_is_called_once_in_every_block(model, activation):
    config = tiny(model, n_layer=3)
    net = build_model(config, activation, V).eval()
    kind, calls = type(activations.make_activation(activation)), []
    for module in net.modules():
        if type(module) is kind:
            module.register_forward_hook(lambda m, args, output: calls.append(m))
    net(tokens(2, 8))
    assert len(calls) == len(set(calls)) == config.n_layer


@pytest.mark.parametrize("model", MODELS)
def test_changing_only_the_activation_changes_the_logits(model):
    nets = [build_model(tiny(model), name, V).eval() for name in activations.STUDY]
    for net in nets[1:]:
        for a, b in zip(nets[0].parameters(), net.parameters(), strict=True):
            assert torch.equal(a, b)
    with torch.no_grad():
        logits = [net(tokens(2, 16)) for net in nets]
    for i, a in enumerate(logits):
        assert all(not torch.equal(a, b) for b in logits[:i])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_the_gradient_reaches_every_parameter(model, bias):
    if model == "llama" and bias:
        with pytest.raises(UserError, match="llama has no biases"):
            build_model(tiny(model, bias=True), "gelu", V)
        return
    net = build_model(tiny(model, bias=bias), "gelu", V)
    net(tokens(4, 16), tokens(4, 16, seed=1))[1].backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("model", MODELS)
def test_the_seed_alone_decides_the_initial_weights(model):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_model(tiny(model), "gelu", V, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    again, other = (build_model(tiny(model), "gelu", V, seed=seed) for seed in (5, 6))
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        if a.ndim >= 2:
            assert not torch.equal(a, c), name


@pytest.mark.parametrize("model", MODELS)
def test_a_new_model_knows_nothing(model):
    net = build_model(tiny(model, n_layer=4), "gelu", 500).eval()
    idx = torch.randint(500, (4, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert net(idx[:, :-1], idx[:, 1:])[1].item() == pytest.approx(math.log(500), rel=0.02)


@pytest.mark.parametrize("preset", ["smoke", "quick", "full"])
@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_equal_across_activations_and_near_gpts(model, preset):
    def count(model, activation):
        with torch.device("meta"):  # no memory: the full preset has ten million of them
            config = Config(preset=preset, device="cpu", model=model)
            function = GPT if model == "gpt" else getattr(architectures, model)
            return function(config, activation, 65).n_parameters()

    own = count(model, "relu")
    for activation in ("smelu_05", "gelu", "swiglu", "geglu", "smeglu"):
        assert abs(count(model, activation) / own - 1) < 0.01
    assert abs(own / count("gpt", "relu") - 1) < 0.05


def test_parameter_counts_are_the_closed_forms():
    C, L = 128, 4
    mlp_and_norms = 8 * C * C + 2 * C
    attention, convolution = 4 * C * C, 4 * C * C + 4 * C
    # of all widths of the state, the one that comes nearest to attention
    recurrence = min((4 * H * (C + H) + 8 * H + H * C for H in range(1, C)), key=lambda n: abs(n - attention))
    layers = {
        "llama": L * attention,
        "lstm": L * recurrence,
        "conv": L * convolution,
        "hybrid": L // 2 * (attention + recurrence),
    }
    for model, mixers in layers.items():
        net = build_model(Config(preset="quick", device="cpu", model=model), "gelu", 65)
        assert net.n_parameters() == 65 * C + mixers + L * mlp_and_norms + C, model


@pytest.mark.parametrize("model", MODELS)
def test_generation_and_too_long_a_context(model):
    net = build_model(tiny(model), "gelu", V).eval()
    prompt = torch.zeros(1, 1, dtype=torch.long)
    assert torch.equal(generate(net, prompt, 40, seed=4), generate(net, prompt, 40, seed=4))
    with pytest.raises(ValueError, match="block_size is 32"):
        net(torch.zeros(1, 33, dtype=torch.long))


# -- training -----------------------------------------------------------------------------------------------------


def train_on_counting(config, steps=30):
    """Learn that token x + 1 follows token x, as a trial trains; returns the losses, the weights and a float32 loss."""
    net = build_model(config, "smelu_05", V, seed=3)
    optimiser = Optimiser(net, config, getattr(torch, config.precision))
    losses = []
    for step in range(steps):
        sequences = (tokens(8, 1, seed=step) + torch.arange(17)) % V
        loss = net(sequences[:, :-1], sequences[:, 1:])[1]
        loss.backward()
        losses.append(loss.item())
        optimiser.step(1e-2)
        if step % 10 == 0:  # an evaluation in between, as trials do
            optimiser.use_master_weights()
            with torch.no_grad():
                float32_loss = net.eval()(sequences[:, :-1], sequences[:, 1:])[1].item()
            net.train()
            optimiser.use_working_weights()
    return losses, optimiser.master.clone(), float32_loss


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_training_learns_and_repeats_bit_for_bit(model, precision):
    config = tiny(model, precision=precision)
    losses, weights, float32_loss = train_on_counting(config)
    again = train_on_counting(config)
    assert losses[0] == pytest.approx(math.log(V), abs=0.3)
    assert losses[-1] < 0.5 * losses[0]
    assert torch.isfinite(weights).all()
    assert losses == again[0]
    assert float32_loss == again[2]
    assert torch.equal(weights, again[1])


@pytest.mark.parametrize("model", MODELS)
def test_every_model_passes_the_audit(model, smoke_config):
    import audit
    from prepare_data import load_corpus

    config = smoke_config.replace(model=model)
    checks = audit.before_training(config, "swish", load_corpus(config))
    assert {check["name"]: check["measured"] for check in checks if check["status"] == "fail"} == {}


# -- the layers against formulas ----------------------------------------------------------------------------------


def test_rms_norm_is_its_formula():
    norm = RMSNorm(tiny("llama"))
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 32))
    x = 3 * torch.randn(4, 5, 32, generator=torch.Generator().manual_seed(0)) + 1
    z = x.double().numpy()
    expected = z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5) * np.linspace(-1, 2, 32)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def rotated(x):
    """(T, D) -> (T, D) by complex numbers: the pair (i, i + D/2) turned by position · 10000^(−2i/D)."""
    T, D = x.shape
    z = x[:, : D // 2] + 1j * x[:, D // 2 :]
    z = z * np.exp(1j * np.arange(T)[:, None] * 10000.0 ** (-2 * np.arange(D // 2) / D))
    return np.concatenate((z.real, z.imag), -1)


def test_rotary_positions_are_a_rotation_that_depends_on_distance_alone():
    attention = RotaryAttention(tiny("llama", n_embd=32, n_head=2, block_size=32))
    x = torch.randn(3, 2, 32, 16, generator=torch.Generator().manual_seed(0))
    y = attention.rotate(x)
    np.testing.assert_allclose(y[1, 1].numpy(), rotated(x[1, 1].double().numpy()), atol=2e-6)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    # one query and one key at all pairs of positions: the product is constant along the diagonals
    q, k = (attention.rotate(x[0, i, :1].expand(1, 1, 32, 16))[0, 0] for i in (0, 1))
    products = q @ k.t()
    for distance in range(-31, 32):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert products[0].std() > 0.1


def test_rotary_positions_need_an_even_head():
    with pytest.raises(UserError, match="n_embd / n_head = 3 to be even"):
        build_model(tiny("llama", n_embd=12, n_head=4), "gelu", V)


def test_llama_with_swiglu_is_hugging_faces():
    transformers = pytest.importorskip("transformers")
    config = tiny("llama", n_layer=3, n_head=4, n_embd=64, block_size=48)
    net = shaken(build_model(config, "swiglu", V)).eval()
    sizes = {"vocab_size": V, "hidden_size": 64, "intermediate_size": activations.hidden_width(64, gated=True)}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 48}
    form = {"hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    none = {"attention_bias": False, "mlp_bias": False, "bos_token_id": None, "eos_token_id": None}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **form, **none)).eval()
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(net.wte.weight)
        theirs.model.norm.weight.copy_(net.ln_f.weight)
        for a, b in zip(theirs.model.layers, net.h, strict=True):
            a.input_layernorm.weight.copy_(b.ln_1.weight)
            a.post_attention_layernorm.weight.copy_(b.ln_2.weight)
            q, k, v = b.mixer.c_attn.weight.chunk(3)
            gate, up = b.mlp.c_fc.weight.chunk(2)
            for linear, weight in (
                (a.self_attn.q_proj, q),
                (a.self_attn.k_proj, k),
                (a.self_attn.v_proj, v),
                (a.self_attn.o_proj, b.mixer.c_proj.weight),
                (a.mlp.gate_proj, gate),
                (a.mlp.up_proj, up),
                (a.mlp.down_proj, b.mlp.c_proj.weight),
            ):
                linear.weight.copy_(weight)
        idx = tokens(4, 48)
        ours, reference = net(idx), theirs(idx).logits
    assert sum(p.numel() for p in theirs.parameters()) == net.n_parameters()
    assert reference.abs().max() > 1
    assert (ours - reference).abs().max() < 1e-4


def test_recurrence_is_the_lstm_of_the_textbook():
    layer = Recurrence(tiny("lstm"))
    H, sigmoid = layer.lstm.hidden_size, lambda z: 1 / (1 + np.exp(-z))
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    W, U, b, b2 = (p.detach().double().numpy() for p in layer.lstm.parameters())
    h = c = np.zeros((2, H))
    expected = []
    for t in range(9):
        i, f, g, o = np.split(x[:, t].double().numpy() @ W.T + h @ U.T + b + b2, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        expected.append(h @ layer.c_proj.weight.detach().double().numpy().T)
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected, 1), atol=1e-6)


def test_the_lstm_starts_with_gates_of_unit_gain_and_an_open_forget_gate():
    net = build_model(tiny("lstm", n_embd=128), "gelu", V, seed=1)
    cell = net.h[0].mixer.lstm
    H = cell.hidden_size
    for p in (cell.weight_ih_l0, cell.weight_hh_l0):
        expected = p.shape[1] ** -0.5
        assert abs(p.std().item() - expected) < 4 * expected / math.sqrt(2 * p.numel())
    bias = (cell.bias_ih_l0 + cell.bias_hh_l0).detach().view(4, H)
    assert torch.equal(bias, torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None].expand(4, H))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_convolution_is_torchs_with_padding_on_the_left(layer):
    config = tiny("conv")
    conv = Convolution(config, layer)
    assert conv.dilation == (1, 4, 16)[layer]
    with torch.no_grad():
        conv.kernel.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(3))
    # torch's convolution is a correlation: its last tap is the present
    weight = conv.kernel.flip(0).t()[:, None]  # (C, 1, K)
    padded = F.pad(x.transpose(1, 2), (3 * conv.dilation, 0))
    expected = F.conv1d(padded, weight, dilation=conv.dilation, groups=32).transpose(1, 2)
    torch.testing.assert_close(conv.convolve(x), expected)
    # the first token is seen at its own place and after, at multiples of the dilation
    impulse = torch.zeros(1, 32, 32)
    impulse[:, 0] = 1.0
    seen = conv.convolve(impulse).abs().sum(-1)[0].nonzero()[:, 0]
    assert seen.tolist() == [j * conv.dilation for j in range(4) if j * conv.dilation < 32]
    y, z, w = conv.c_in(x).chunk(3, -1)
    torch.testing.assert_close(conv(x), conv.c_proj(w * conv.convolve(y * z)))


def test_a_hybrid_alternates():
    net = build_model(tiny("hybrid", n_layer=5), "gelu", V)
    assert [type(block.mixer).__name__ for block in net.h] == ["Recurrence", "Attention"] * 2 + ["Recurrence"]
    with pytest.raises(UserError, match="n_layer=1: a hybrid needs at least 2 layers"):
        build_model(tiny("hybrid", n_layer=1), "gelu", V)


# -- a user's own -------------------------------------------------------------------------------------------------

OWN = '''
import torch
from torch import nn
from activations import make_activation

class Bag(nn.Module):
    """The mean of the embeddings so far, with a mask in a buffer and tied embeddings."""
    def __init__(self, config, activation, vocab_size):
        super().__init__()
        T = config.block_size
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.fc = nn.Linear(config.n_embd, config.n_embd)
        self.activation = make_activation(activation)
        self.out = nn.Linear(config.n_embd, vocab_size, bias=False)
        self.out.weight = self.wte.weight
        mask = torch.ones(T, T).tril()
        self.register_buffer("mean", mask / mask.sum(-1, keepdim=True))
    def forward(self, idx):
        T = idx.shape[1]
        x = self.wte(idx) + self.mean[:T, :T] @ self.wte(idx)
        return self.out(self.activation(self.fc(x)))

def bag(config, activation, vocab_size):
    return Bag(config, activation, vocab_size)

def wrong_arguments(config): ...
def no_module(config, activation, vocab_size): return 3
def fails(config, activation, vocab_size): return 1 / 0
def no_parameters(config, activation, vocab_size): return nn.Identity()
def wrong_shape(config, activation, vocab_size): return nn.Embedding(vocab_size, vocab_size + 1)

class Odd(nn.Module):
    def __init__(self, config, vocab_size, kind):
        super().__init__()
        self.kind, self.wte = kind, nn.Embedding(vocab_size, vocab_size)
        if kind == "unused":
            self.spare = nn.Parameter(torch.zeros(3))
        if kind == "frozen":
            self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        if kind == "random":
            self.register_buffer("features", torch.randn(3))
        if kind == "running":
            self.norm = nn.BatchNorm1d(config.block_size)
    def forward(self, idx):
        x = self.wte(idx)
        if self.kind == "running":
            self.norm.running_mean += 1
            x = x * self.norm.weight[0] + self.norm.bias[0]
        if self.kind == "precision":
            x = x @ torch.eye(x.shape[-1])
        return x * self.scale if self.kind == "frozen" else x

unused, frozen, random, running, precision = (
    lambda config, activation, vocab_size, kind=kind: Odd(config, vocab_size, kind)
    for kind in ("unused", "frozen", "random", "running", "precision"))
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own, in the current folder."""
    (tmp_path / "models_in_a_folder.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "broken_models.py").write_text("import torch\nimport no_such_package\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "models_in_a_folder", raising=False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_of_ones_own_is_a_model_like_the_others(own, precision):
    config = tiny("models_in_a_folder:bag", precision=precision)
    torch.manual_seed(0)
    first = build_model(config, "gelu", V, seed=5)
    torch.manual_seed(1)
    again, other = (build_model(config, "gelu", V, seed=seed) for seed in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.module.wte.weight, other.module.wte.weight)
    assert first.n_parameters() == V * 32 + 32 * 32 + 32  # the tied matrix once
    # the wrapper computes what the module computes, and a checkpoint of the parameters brings it back
    idx = tokens(2, 32)
    with torch.no_grad():
        assert torch.equal(first(idx), first.module(idx))
        weights = {name: p.clone() for name, p in first.named_parameters()}
        other.load_state_dict(weights)
        assert torch.equal(first(idx), other(idx))
        with pytest.raises(RuntimeError, match="fc.weight"):
            other.load_state_dict({name: p for name, p in weights.items() if "fc.weight" not in name})
    losses, trained, _ = train_on_counting(config)
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(trained, train_on_counting(config)[1])
    assert generate(first, idx[:, :1], 40).shape == (2, 41)
    with pytest.raises(ValueError, match="block_size is 32"):
        first(tokens(1, 33))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong_arguments", r"called with \(config, activation, vocab_size\), it failed with TypeError"),
        ("no_module", "must return a torch.nn.Module, not a value of type int"),
        ("fails", r"ZeroDivisionError: division by zero \(.*models_in_a_folder.py, line 28\)"),
        ("no_parameters", "no parameters to train"),
        ("wrong_shape", r"gave \(1, 4, 31\) where logits of shape \(1, 4, 30\)"),
        ("unused", "spare gets no gradient"),
        ("frozen", "scale gets no gradient"),
        ("random", "the buffer features is random"),
        ("running", "the buffer norm.running_mean changes in training"),
        (
            "precision",
            r"does not train in bfloat16: .*models_in_a_folder.py, line \d+\); with --precision float32 it does",
        ),
    ],
)
def test_what_is_wrong_with_ones_own_model_is_one_clear_line(own, name, says):
    with pytest.raises(UserError, match=says) as caught:
        build_model(tiny(f"models_in_a_folder:{name}", precision="bfloat16"), "gelu", V)
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_imported_is_named(own):
    with pytest.raises(UserError, match="can't import broken_models \\(ModuleNotFoundError: No module named 'no_"):
        build_model(tiny("broken_models:bag"), "gelu", V)


def test_own_activations_reach_a_model_of_ones_own(own):
    net = build_model(tiny("models_in_a_folder:bag"), "relu", V)
    assert isinstance(net.module.activation, nn.ReLU)
