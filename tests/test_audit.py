"""Planted defects in an experiment that is about to be trained, and the checks that catch them."""

import dataclasses
import math
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import activations
import audit
import metrics
import model
import storage
from analysis import checks as results_checks
from config import Config, UserError
from conftest import FULL, pseudo_english
from kernels import native, toolchain
from models import architectures
from planted import assert_counted, measured, planted, status
from prepare_data import load_corpus
from synthetic import STUDY
from training import batches, machine, trial
from untouched import ROOT

needs_compiler = pytest.mark.skipif(toolchain.problem() is not None, reason="needs a C++ compiler")


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(n_layer=3)


@pytest.fixture
def corpus(config):
    return load_corpus(config)


CLEAN: dict[str, dict] = {}  # settings -> the statuses without any defect, found once


@pytest.fixture
def before(config, corpus):
    """Sees that every check passes without a defect, then gives a function that runs the audit again."""
    key = config.fingerprint()
    if key not in CLEAN:
        CLEAN[key] = status(audit.before_training(config, "gelu", corpus))
    assert set(CLEAN[key].values()) == {"pass"}, CLEAN
    return lambda activation="gelu", **changes: audit.before_training(config.replace(**changes), activation, corpus)


@pytest.mark.parametrize("activation", STUDY)
def test_every_check_passes_for_a_sound_experiment(config, corpus, activation):
    checks = audit.before_training(config, activation, corpus)
    assert set(status(checks).values()) == {"pass"}, [c for c in checks if c["status"] != "pass"]
    for check in checks:
        assert set(check) == {"name", "status", "measured", "threshold", "why"}
        assert all(isinstance(text, str) and text for text in check.values())


def learnable():
    """A class of its own each time; it begins as ReLU."""

    class Rippled(nn.Module):
        def __init__(self):
            super().__init__()
            self.size = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x.relu() + self.size * torch.sin(x)

    return Rippled()


@pytest.mark.parametrize("activation", ["torch.nn:PReLU", "test_audit:learnable"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_activation_that_learns_passes(config, corpus, activation, precision):
    checks = audit.before_training(config.replace(precision=precision, n_embd=64), activation, corpus)
    assert set(status(checks).values()) == {"pass"}, [c for c in checks if c["status"] != "pass"]


def own_gpt(config, activation, vocab_size):
    own = model.GPT(config, activation, vocab_size)
    architectures.initialise(own, torch.initial_seed(), config.n_layer)
    return own


@pytest.mark.parametrize("changes", [{"precision": "float32"}, {"precision": "bfloat16"}])
def test_a_model_of_ones_own_passes(config, corpus, changes):
    checks = audit.before_training(config.replace(model="test_audit:own_gpt", n_embd=64, **changes), "gelu", corpus)
    assert set(status(checks).values()) == {"pass"}, [c for c in checks if c["status"] != "pass"]


def make_through(monkeypatch, factory):
    """Let the models, and only they, get their activation modules from `factory(name)`."""
    proxy = types.SimpleNamespace(
        get_info=activations.get_info, hidden_width=activations.hidden_width, make_activation=factory
    )
    monkeypatch.setattr(model, "activations", proxy)


@planted("activation passed as a module where a name is expected: every model falls through to ReLU", "wired")
def test_planted_miswired_activation(before, monkeypatch):
    def fall_through(name, precision):
        name = activations.make_activation(name)  # the module instead of its name
        if name == "gelu":
            return nn.GELU()
        return nn.ReLU()

    make_through(monkeypatch, fall_through)
    checks = before("gelu")
    assert status(checks)["wired"] == "fail"
    assert "ReLU" in measured(checks, "wired")
    assert status(before("relu"))["wired"] == "fail"  # relu itself is there, but no other activation moves a logit


@planted("the activation module exists but the forward pass calls F.relu", "wired")
def test_planted_activation_never_called(before, monkeypatch):
    monkeypatch.setattr(model.MLP, "forward", lambda self, x: self.c_proj(F.relu(self.c_fc(x))))
    assert status(before())["wired"] == "fail"


@planted("one activation module shared by all layers", "wired")
def test_planted_shared_activation_module(before, monkeypatch):
    shared = activations.make_activation("gelu")
    make_through(monkeypatch, lambda name, precision: shared if name == "gelu" else activations.make_activation(name))
    checks = before()
    assert status(checks)["wired"] == "fail"
    assert "1 separate" in measured(checks, "wired")


@planted("β of SmeLU mixed up: the right class, another function", "wired")
def test_planted_wrong_parameter_of_the_activation(before, monkeypatch):
    swapped = {"smelu_05": "smelu_1", "smelu_1": "smelu_05"}
    assert status(before("smelu_05"))["wired"] == "pass"
    make_through(monkeypatch, lambda name, precision: activations.make_activation(swapped.get(name, name)))
    assert status(before("smelu_05"))["wired"] == "fail"


@planted("a wrong derivative behind the right function", "wired")
def test_planted_wrong_derivative(before, monkeypatch):
    class WrongSlope(nn.GELU):
        def forward(self, x):
            y = super().forward(x)
            return y + 0.1 * (x - x.detach())  # adds 0 to the value and 0.1 to the slope

    monkeypatch.setattr(
        activations,
        "make_activation",
        lambda name, *_, make=activations.make_activation: WrongSlope() if name == "gelu" else make(name),
    )
    assert status(before())["wired"] == "fail"


@planted("an activation that overflows to NaN on part of its range", "wired")
def test_planted_activation_with_nan(before, monkeypatch):
    class Overflowing(nn.SiLU):
        def forward(self, x):
            return x * torch.where(x > 5, torch.inf, torch.exp(x)) / torch.where(x > 5, torch.inf, 1 + torch.exp(x))

    assert status(before("swish"))["wired"] == "pass"
    make = activations.make_activation
    monkeypatch.setattr(
        activations, "make_activation", lambda name, *_: Overflowing() if name == "swish" else make(name)
    )
    assert status(before("swish"))["wired"] == "fail"


def attention_with(mask):
    """An attention whose position t sees the positions that `mask` (T, T) allows."""

    def attend(self, qkv):
        y = F.scaled_dot_product_attention(*self.heads(qkv), attn_mask=mask(qkv.shape[1], self.training))
        return y.transpose(1, 2).flatten(2)

    return attend


@planted("attention without a mask: every position sees the whole window", "causal")
def test_planted_attention_without_mask(before, monkeypatch):
    # the same attention with the right mask passes: it is the mask that is caught
    monkeypatch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T).tril() > 0))
    assert status(before())["causal"] == "pass"
    monkeypatch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T) > 0))
    assert status(before())["causal"] == "fail"


@planted("attention mask off by one: each position sees the token it should predict", "causal")
def test_planted_attention_mask_off_by_one(before, monkeypatch):
    monkeypatch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T).tril(1) > 0))
    assert status(before())["causal"] == "fail"


@planted("attention masked in evaluation but not in training", "causal")
def test_planted_leak_in_training_only(before, monkeypatch):
    def mask(T, training):
        return torch.ones(T, T).tril(T if training else 0) > 0

    monkeypatch.setattr(model.Attention, "attend", attention_with(mask))
    assert status(before(native=False))["causal"] == "fail"


class ConvBlock(nn.Module):
    """A residual convolution over time, of width 5, with the given padding, then the MLP."""

    def __init__(self, config, activation, left, right):
        super().__init__()
        self.padding = (left, right)
        self.conv = nn.Conv1d(config.n_embd, config.n_embd, 5, bias=False)
        self.mlp = model.MLP(config, activation)

    def forward(self, x):
        x = x + self.conv(F.pad(x.transpose(1, 2), self.padding)).transpose(1, 2)
        return x + self.mlp(x)


def conv_model(left, right, GPT=model.GPT):
    class Conv(GPT):
        def __init__(self, config, activation, vocab_size):
            super().__init__(config, activation, vocab_size)
            self.h = nn.ModuleList(ConvBlock(config, activation, left, right) for _ in range(config.n_layer))

    return Conv


@planted("symmetric convolution padding: the network sees tokens ahead", "causal")
def test_planted_symmetric_convolution(before, monkeypatch):
    monkeypatch.setitem(architectures.MODELS, "gpt", (conv_model(4, 0), ""))
    assert status(before())["causal"] == "pass"
    monkeypatch.setitem(architectures.MODELS, "gpt", (conv_model(2, 2), ""))
    assert status(before())["causal"] == "fail"


@planted("a leak behind a zero initial weight, invisible in the first logits", "causal")
def test_planted_leak_behind_zero_weight(before, monkeypatch):
    initialise = architectures.initialise

    def closed(model_, seed, n_layer):
        initialise(model_, seed, n_layer)
        for name, p in model_.named_parameters():
            if name.endswith("attn.c_proj.weight"):
                p.data.zero_()

    monkeypatch.setattr(architectures, "initialise", closed)
    assert status(before())["causal"] == "pass"
    monkeypatch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T) > 0))
    assert status(before())["causal"] == "fail"


@planted("a model whose output doesn't depend on its input", "causal")
def test_planted_model_that_ignores_its_input(before, monkeypatch):
    hidden = model.GPT.hidden
    monkeypatch.setattr(model.GPT, "hidden", lambda self, idx: hidden(self, torch.zeros_like(idx)))
    assert status(before())["causal"] == "fail"


@planted("evaluation windows drawn at random: different ones for each model", "same positions")
def test_planted_random_windows(before, monkeypatch):
    def random_windows(n_tokens, block_size, eval_tokens):
        return torch.randint(n_tokens - block_size, (eval_tokens // block_size,)).numpy()

    monkeypatch.setattr(metrics, "evaluation_windows", random_windows)
    assert status(before())["same positions"] == "fail"


@planted("predictions of two models taken on different contexts, then compared", "same positions")
def test_planted_different_contexts_per_model(before, monkeypatch):
    evaluate = metrics.evaluate_models

    def shifted(models, tokens, starts, block_size, device, **options):
        class Elsewhere(nn.Module):
            def __init__(self, inner, shift):
                super().__init__()
                self.inner, self.shift = inner, shift

            def forward(self, idx):
                return self.inner(idx.roll(self.shift, 0))  # the windows in another order for each model

        models = [Elsewhere(m, i).eval() for i, m in enumerate(models)]
        return evaluate(models, tokens, starts, block_size, device, **options)

    monkeypatch.setattr(metrics, "evaluate_models", shifted)
    checks = before()
    assert status(checks)["same positions"] == "fail"
    assert "differs from itself" in measured(checks, "same positions")


@planted("a validation split that is part of the training split", "new text")
def test_planted_validation_inside_training(config, corpus):
    for val in (corpus.train[-5000:], np.array(corpus.train[-5000:])):
        wrong = dataclasses.replace(corpus, val=val)
        assert status(audit.before_training(config, "gelu", wrong))["new text"] == "fail"
    same = np.tile(np.array(corpus.train[:50]), 200)
    repeating = dataclasses.replace(corpus, train=same, val=same[:2000].copy())
    statuses = status(audit.before_training(config, "gelu", repeating))
    assert statuses["new text"] == "fail" and statuses["same positions"] == "pass"  # that is another mistake


@planted("validation text copied into the middle of a long training text", "new text")
def test_planted_copy_in_the_middle(config, corpus):
    rng = np.random.default_rng(0)
    train = rng.integers(0, corpus.vocab_size, 5_000_000).astype(np.uint16)
    sound = dataclasses.replace(corpus, train=train, val=np.array(corpus.val))
    assert status(audit.before_training(config, "gelu", sound))["new text"] == "pass"
    train[2_400_000 : 2_400_000 + len(corpus.val)] = corpus.val
    checks = audit.before_training(config, "gelu", dataclasses.replace(corpus, train=train, val=np.array(corpus.val)))
    assert status(checks)["new text"] == "fail" and "100.00 % of the validation" in measured(checks, "new text")


@planted("a text of 40,000 characters ten times over", "new text")
def test_planted_repetition(config, tmp_path):
    path = tmp_path / "ten.txt"
    path.write_text(pseudo_english(40_000) * 10, encoding="utf-8")
    checks = audit.before_training(config, "gelu", load_corpus(config.replace(dataset=str(path))))
    assert status(checks)["new text"] == "fail"
    share = re.search(r"([\d.]+) % of training's occur there before", measured(checks, "new text"))
    assert float(share.group(1)) == pytest.approx(100 * 8 / 9, abs=0.3)  # eight of the nine copies in training


@planted("one random stream for batches and evaluation", "evaluation draws nothing")
def test_planted_shared_generator(before, monkeypatch):
    make, probe = trial.Training.__init__, trial.windows.evaluate_probe

    def seeded(self, *args):
        make(self, *args)
        np.random.seed(self.seeds["order"])  # noqa: NPY002

    def drawn(self, step):
        starts = np.random.randint(0, len(self.windows), self.batch_size)  # noqa: NPY002
        batch = torch.from_numpy(self.windows[starts].astype(np.int64))
        return batch[:, :-1], batch[:, 1:]

    monkeypatch.setattr(trial.Training, "__init__", seeded)
    monkeypatch.setattr(trial.Batches, "__call__", drawn)
    assert status(before())["evaluation draws nothing"] == "pass"  # not yet: only the batches draw

    def drawing(*args):
        np.random.rand()  # noqa: NPY002
        return probe(*args)

    monkeypatch.setattr(trial.windows, "evaluate_probe", drawing)
    checks = before()
    assert status(checks)["evaluation draws nothing"] == "fail"
    assert "changes the weights" in measured(checks, "evaluation draws nothing")
    assert status(checks)["deterministic"] == "pass"  # each run alone repeats: only the evaluation is to blame


@planted("evaluation leaves the model in evaluation mode: no dropout from then on", "evaluation draws nothing")
def test_planted_evaluation_mode_left_on(before, monkeypatch):
    record = trial.Training.record_point

    def leave_on(self):
        record(self)
        self.model.eval()

    assert status(before(dropout=0.1))["evaluation draws nothing"] == "pass"
    monkeypatch.setattr(trial.Training, "record_point", leave_on)
    assert status(before(dropout=0.1))["evaluation draws nothing"] == "fail"


@planted("evaluation changes the weights", "evaluation draws nothing")
def test_planted_evaluation_changes_weights(before, monkeypatch):
    record = trial.Training.record_point

    def touch(self):
        record(self)
        self.optimiser.master[0] += 1e-3

    monkeypatch.setattr(trial.Training, "record_point", touch)
    assert status(before())["evaluation draws nothing"] == "fail"


@planted("batches from an unseeded generator", "deterministic")
def test_planted_unseeded_batches(before, monkeypatch):
    monkeypatch.setattr(batches, "stream", lambda seed, source, step=0: np.random.default_rng())
    assert status(before())["deterministic"] == "fail"


@planted("initial weights of the wrong size", "sane start")
def test_planted_wrong_initialisation(before, monkeypatch):
    initialise = architectures.initialise

    def large(model_, seed, n_layer):
        initialise(model_, seed, n_layer)
        for p in model_.parameters():
            p.data.mul_(20)

    monkeypatch.setattr(architectures, "initialise", large)
    assert status(before())["sane start"] == "fail"


@planted("targets that are the inputs themselves", "sane start")
def test_planted_shifted_initial_loss(before, monkeypatch):
    evaluate = metrics.evaluate_loss
    monkeypatch.setattr(metrics, "evaluate_loss", lambda *args: (evaluate(*args)[0] - 0.5, 0.0))
    assert status(before())["sane start"] == "fail"


@pytest.mark.parametrize("times", [2, 3])
def test_initial_weights_a_few_times_too_large(before, monkeypatch, times):
    """Also where the loss hardly shows it: the logits' variance over the tokens does."""
    initialise = architectures.initialise

    def large(model_, seed, n_layer):
        initialise(model_, seed, n_layer)
        model_.wte.weight.data.mul_(times)

    monkeypatch.setattr(architectures, "initialise", large)
    check = next(c for c in before() if c["name"] == "sane start")
    assert check["status"] == "fail" and "variance" in check["measured"]


@pytest.mark.parametrize("kind", ["gpt", "conv", "lstm"])
def test_a_wide_model_of_one_layer_starts_sane(config, corpus, kind):
    """The logits' variance grows with the width, and the initial loss with it: by half of it, in nats."""
    wide = config.replace(model=kind, n_layer=1, n_embd=1024, precision="float32")
    with machine.torch_settings(wide):
        check = audit._sane_start(wide, "gelu", corpus)
    assert check["status"] == "pass", check
    loss, variance = (float(x) for x in re.findall(r"loss ([\d.]+) nats.*tokens ([\d.]+)", check["measured"])[0])
    assert variance == pytest.approx(0.02**2 * 1024, rel=0.7)
    assert loss - math.log(corpus.vocab_size) > 0.1  # beyond it: 5 % of ln V would be 0.17


def test_what_sane_start_reads_off_the_logits():
    """Against NumPy in float64, token by token."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((7, 7))
    tokens = rng.integers(0, 7, (3, 9))
    found = audit._new_logits(lambda idx: torch.tensor(table)[idx], tokens, "cpu")
    losses, variances, spreads, repeats = [], [], [], []
    for row in tokens:
        for i, y in zip(row[:-1], row[1:], strict=True):
            z, others = table[i], np.delete(table[i], i)
            losses.append(np.log(np.exp(z).sum()) - z[y])
            variances.append(others.var())
            spreads.append(np.log(np.exp(others).mean()) - others.mean())
            repeats.append(z[i] - others.mean())
    expected = {"loss": losses, "variance": variances, "spread": spreads, "repeats": repeats}
    assert found == pytest.approx({name: np.mean(values) for name, values in expected.items()})


def test_where_rounding_changes_too_much_it_is_coarse_not_wrong(config, corpus, monkeypatch):
    """Narrow and deep models lose more than a quarter of their gradient to bfloat16; nothing is wrong with them."""
    narrow = config.replace(model="conv", n_embd=6, n_head=1, n_layer=12, precision="bfloat16", native=False)
    assert one_function(narrow, "mish", corpus)["status"] in ("pass", "caution")
    monkeypatch.setattr(audit, "MOST", 1e-4)
    check = one_function(narrow, "mish", corpus)
    assert check["status"] == "caution" and "rounding to bfloat16 changes" in check["measured"], check
    assert one_function(narrow.replace(precision="float32"), "mish", corpus)["status"] == "pass"
    loss = trial.training_loss
    make = trial.Training.__init__

    def other(self, *args):
        make(self, *args)
        self.loss = lambda *batch: 1.2 * loss(*batch)

    monkeypatch.setattr(trial.Training, "__init__", other)
    assert one_function(narrow, "mish", corpus)["status"] == "fail"


@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_layer_of_a_narrow_model_may_be_half_a_unit_off(config, corpus, bias):
    narrow = config.replace(n_embd=4, n_head=1, bias=bias)
    assert audit._parameters(narrow, "swiglu", corpus)["status"] == "pass"
    counts = {
        name: {
            "parameters": architectures.build_model(narrow, name, corpus.vocab_size).n_parameters(),
            "config": narrow.to_dict(),
        }
        for name in ("relu", "swiglu")
    }
    assert counts["relu"]["parameters"] != counts["swiglu"]["parameters"]
    assert results_checks._parameters_across(counts)["status"] == "pass"
    counts["swiglu"]["parameters"] += 60
    assert results_checks._parameters_across(counts)["status"] == "fail"


def a_gated_activation() -> str:
    return next(info.name for info in activations.list_activations() if info.gated)


@planted("a gated activation at full width: more parameters than the others", "parameters")
def test_planted_gated_activation_with_more_parameters(before, monkeypatch):
    gated = a_gated_activation()
    assert status(before(gated))["parameters"] == "pass"
    full = activations.hidden_width
    monkeypatch.setattr(activations, "hidden_width", lambda n_embd, gated: full(n_embd, False))
    assert status(before(gated))["parameters"] == "fail"


@pytest.mark.parametrize("vary", ["init", "order", "dropout", "init order", "init order dropout", "bit", "none"])
def test_seeds_vary_what_they_should(config, corpus, vary):
    config = config.replace(vary=vary, dropout=0.1)
    assert audit._seeds(config, "gelu", corpus)["status"] == "pass"


@planted("one seed drives every source of randomness", "seeds")
def test_planted_one_seed_for_everything(before, monkeypatch):
    assert status(before(vary="init"))["seeds"] == "pass"

    def one(config, k):
        return {**dict.fromkeys(("init", "order", "dropout"), config.seed_base + k - 1), "bit": None}

    monkeypatch.setattr(trial, "trial_seeds", one)
    checks = before(vary="init")
    assert status(checks)["seeds"] == "fail"
    assert "init, order" in measured(checks, "seeds")


@planted("the seed is the same for every trial", "seeds")
def test_planted_seeds_not_varied(before, monkeypatch):
    seeds = trial.trial_seeds
    monkeypatch.setattr(trial, "trial_seeds", lambda config, k: seeds(config, 1))
    assert status(before())["seeds"] == "fail"


@planted("only dropout varies, and there is no dropout", "seeds")
def test_planted_nothing_left_to_vary(before):
    assert status(before(vary="dropout", dropout=0.1))["seeds"] == "pass"
    assert status(before(vary="dropout", dropout=0.0))["seeds"] == "fail"


@planted("a misspelt activation falls back to a default", "UserError")
def test_planted_misspelt_activation(config, corpus):
    with pytest.raises(UserError, match="gelu"):
        audit.before_training(config, "gelus", corpus)
    with pytest.raises(UserError, match="relu"):
        architectures.build_model(config, "ReLu()", corpus.vocab_size)
    assert audit.before_training(config, "gelu", corpus)


@planted("a setting that doesn't exist is ignored", "UserError and exit status 2")
def test_planted_unknown_setting(smoke_config):
    assert Config.from_dict(smoke_config.to_dict())
    with pytest.raises(UserError, match="n_layer"):
        Config.from_dict({**smoke_config.to_dict(), "n_layers": 6})
    with pytest.raises(UserError, match="n_layers"):
        Config(preset="smoke", n_layers=6)
    command = [sys.executable, "train.py", "--activation", "relu", "--modle", "gpt", "--audit-only"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert answer.returncode == 2
    assert "--model" in answer.stderr


@planted("a failed audit is only a line in the log", "UserError before training")
def test_planted_failed_audit_stops_the_run(config, corpus, monkeypatch):
    display = types.SimpleNamespace(line=lambda text: None, phase=lambda doing: None)
    assert audit.before_study(config, ["gelu"], corpus, True, display)
    monkeypatch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T) > 0))
    with pytest.raises(UserError, match="causal"):
        audit.before_study(config, ["gelu"], corpus, True, display)
    checks = audit.before_study(config, ["gelu"], corpus, False, display)
    assert status(checks["gelu"])["causal"] == "fail"  # --no-strict-audit records it and goes on


def test_audit_leaves_random_streams_alone(config, corpus):
    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    first = state()
    audit.before_training(config.replace(dropout=0.1), "gelu", corpus)
    assert state() == first


@planted("a snapshot that keeps live tensors: every snapshot is the last model", "its checksum doesn't move")
def test_planted_snapshot_without_clone(config, corpus, monkeypatch):
    def is_frozen():
        with machine.torch_settings(config):
            training = trial.Training(config, "relu", 1, corpus)
            training.model.train()
            training.one_step(0)
            state = training.optimiser.state()
            before = storage.contents_sha256(state)
            training.one_step(1)
        return storage.contents_sha256(state) == before

    assert is_frozen()
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **options: self)
    assert not is_frozen()


# -- one function -------------------------------------------------------------------------------------------------


PRECISIONS = [
    {"precision": "float32"},
    {"precision": "bfloat16", "native": False},
    pytest.param({"precision": "bfloat16", "native": True}, marks=needs_compiler),
]
ALL = [info.name for info in activations.list_activations()]


def one_function(config, activation, corpus) -> dict:
    with machine.torch_settings(config), machine.own_randomness("cpu"):
        return audit._one_function(config, activation, corpus)


def sizes(config, **changes):
    """Sizes that the kernels take."""
    return config.replace(**{"n_layer": 2, "n_embd": 64, "n_head": 2, "block_size": 32, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("changes", PRECISIONS)
@pytest.mark.parametrize("name", architectures.MODELS)
def test_a_sound_model_is_one_function(config, corpus, name, changes):
    """Every activation, one that learns too; without biases and dropout, and for some with them. By default a third of
    the activations for each model and precision, others for each, so that all are seen."""
    turn = list(architectures.MODELS).index(name) + len(changes) + changes.get("native", 0)
    some = ALL if FULL else ALL[turn % 3 :: 3]
    cases = [(activation, {}) for activation in (*some, "torch.nn:PReLU")]
    cases += [(a, more) for a in ("relu", "reglu") for more in ({"bias": name != "llama"}, {"dropout": 0.1})]
    for activation, more in cases:
        found = one_function(sizes(config, model=name, **changes, **more), activation, corpus)
        assert found["status"] == "pass", (activation, more, found["measured"])


@pytest.mark.parametrize("changes", PRECISIONS)
def test_what_is_measured_of_one_function(config, corpus, changes):
    found = one_function(sizes(config, **changes), "gelu", corpus)
    assert found["status"] == "pass"
    if changes["precision"] == "float32":  # the very same operations
        assert "0 % (rounding: 0 %)" in found["measured"]


@pytest.fixture
def departs(config, corpus):
    """Sees that a model with kernels is one function, then gives a function that says how it no longer is."""

    def look(activation="gelu", **changes):
        changes = {"precision": "bfloat16", "native": True, **changes}
        return one_function(sizes(config, **changes), activation, corpus)

    assert look()["status"] == "pass"

    def depart(activation="gelu", **changes):
        found = look(activation, **changes)
        assert found["status"] == "fail"
        return found["measured"]

    return depart


@needs_compiler
@planted("another scale, mask or norm in the model than in the kernels", "one function")
def test_planted_changed_attention_and_norm(departs, monkeypatch):
    heads, norm = model.Attention.heads, F.layer_norm
    with monkeypatch.context() as patch:
        patch.setattr(
            model.Attention,
            "heads",
            lambda self, x: heads(self, x) * torch.tensor([1.1, 1, 1]).view(3, 1, 1, 1, 1).to(x),
        )
        assert "c_attn" in departs()
    with monkeypatch.context() as patch:
        patch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T).tril(1) > 0))
        assert "departs" in departs()
    with monkeypatch.context() as patch:
        patch.setattr(F, "layer_norm", lambda x, shape, weight, bias, epsilon: norm(x, shape, weight, bias, 1e-3))
        assert "initial weights" in departs()


@needs_compiler
@planted("a loss in training that is not the one reported", "one function")
def test_planted_other_loss(departs, monkeypatch):
    cross_entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda x, y: cross_entropy(x, y, label_smoothing=0.1))
    assert "the loss departs" in departs() or "the gradient" in departs()


@needs_compiler
@pytest.mark.parametrize(
    "right, wrong",
    [
        ("const float scale = 1.0f / std::sqrt((float)D);", "const float scale = 0.95f / std::sqrt((float)D);"),
        ("lane >= j - i ? power", "lane >= j - i - 1 ? power"),
        ("store(sums + c, load(sums + c) + g * normal);", "store(sums + c, load(sums + c) + g);"),
        ("- mean_h - load(n + c) * mean_hn", "- mean_h"),
        ("dx + i, load_some(dy + i, n) * load(slope), n", "dx + i, load_some(dy + i, n), n"),
        ("store(row + v, load(powers + v) * scale)", "store(row + v, load(powers + v) * (0.97f * scale))"),
    ],
)
@planted("a kernel that computes something else", "one function")
def test_planted_changed_kernel(departs, monkeypatch, tmp_path, right, wrong):
    """Past the check that each kernel has to pass when it is loaded."""
    source = toolchain.SOURCE.read_text(encoding="utf-8")
    assert right in source
    defective = tmp_path / "native.cpp"
    defective.write_text(source.replace(right, wrong), encoding="utf-8")
    for owner, name, value in (
        (toolchain, "SOURCE", defective),
        (toolchain, "FOLDERS", (tmp_path,)),
        (toolchain, "_built", {}),
        (native, "_library", None),
        (native, "check", lambda: None),
    ):
        monkeypatch.setattr(owner, name, value)
    assert "departs" in departs()


@needs_compiler
@pytest.mark.parametrize("name", ["gpt", "lstm", "llama"])
@planted("the table of another activation", "one function")
def test_planted_swapped_table(departs, monkeypatch, name):
    class Swapped(native.Table):
        def __init__(self, function):
            super().__init__(F.silu)

    monkeypatch.setattr(native, "Table", Swapped)
    assert "departs" in departs("gelu", model=name)
    with pytest.raises(AssertionError):  # it is Swish's own
        departs("swish", model=name)


@planted("training that leaves dropout out", "one function")
def test_planted_dropout_that_is_never_drawn(config, corpus, monkeypatch):
    config = config.replace(dropout=0.1, precision="float32")
    assert one_function(config, "gelu", corpus)["status"] == "pass"
    monkeypatch.setattr(F, "dropout", lambda x, *_: x)
    monkeypatch.setattr(model.Attention, "attend", attention_with(lambda T, _: torch.ones(T, T).tril() > 0))
    found = one_function(config, "gelu", corpus)
    assert found["status"] == "fail" and "whatever is drawn" in found["measured"]


def test_the_planted_defects_are_counted():
    assert_counted(globals(), least=30)
