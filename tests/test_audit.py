"""Planted defects: each is put in, seen to be caught, and the same check is seen to pass without it.

Every row of the list of ways in which experiments of this kind went wrong that concerns the program has a test here.
"""

import dataclasses
import itertools
import math
import re
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import activations
import analyze_results
import audit
import metrics
import model
import storage
from config import Config, UserError, cpp_compiler
from conftest import TINY, pseudo_english
from prepare_data import load_corpus
from synthetic import STUDY, minimal_results, synthetic_results, synthetic_study
from training import experiment, fused, trial

PLANTED: list[tuple[str, str]] = []  # (defect, what catches it), one row per planted defect


def planted(defect: str, caught_by: str):
    """Mark a test as planting a defect, and count it."""

    def mark(test):
        PLANTED.append((defect, caught_by))
        return test

    return mark


def status(checks: list[dict]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in checks}


def measured(checks: list[dict], name: str) -> str:
    return next(check["measured"] for check in checks if check["name"] == name)


# -- before training ----------------------------------------------------------------------------------------------


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


def make_through(monkeypatch, factory):
    """Let the models, and only they, get their activation modules from `factory(name)`."""
    proxy = types.SimpleNamespace(
        get_info=activations.get_info, hidden_width=activations.hidden_width, make_activation=factory
    )
    monkeypatch.setattr(model, "activations", proxy)


@planted("activation passed as a module where a name is expected: every model falls through to ReLU", "wired")
def test_planted_miswired_activation(before, monkeypatch):
    def fall_through(name):
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
    make_through(monkeypatch, lambda name: shared if name == "gelu" else activations.make_activation(name))
    checks = before()
    assert status(checks)["wired"] == "fail"
    assert "1 separate" in measured(checks, "wired")


@planted("β of SmeLU mixed up: the right class, another function", "wired")
def test_planted_wrong_parameter_of_the_activation(before, monkeypatch):
    swapped = {"smelu_05": "smelu_1", "smelu_1": "smelu_05"}
    assert status(before("smelu_05"))["wired"] == "pass"
    make_through(monkeypatch, lambda name: activations.make_activation(swapped.get(name, name)))
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
        lambda name, make=activations.make_activation: WrongSlope() if name == "gelu" else make(name),
    )
    assert status(before())["wired"] == "fail"


@planted("an activation that overflows to NaN on part of its range", "wired")
def test_planted_activation_with_nan(before, monkeypatch):
    class Overflowing(nn.SiLU):
        def forward(self, x):
            return x * torch.where(x > 5, torch.inf, torch.exp(x)) / torch.where(x > 5, torch.inf, 1 + torch.exp(x))

    assert status(before("swish"))["wired"] == "pass"
    make = activations.make_activation
    monkeypatch.setattr(activations, "make_activation", lambda name: Overflowing() if name == "swish" else make(name))
    assert status(before("swish"))["wired"] == "fail"


def attention_with(mask):
    """An attention whose position t sees the positions that `mask` (T, T) allows."""

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask(T, self.training))
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    return forward


@planted("attention without a mask: every position sees the whole window", "causal")
def test_planted_attention_without_mask(before, monkeypatch):
    # the same attention with the right mask passes: it is the mask that is caught
    monkeypatch.setattr(model.Attention, "forward", attention_with(lambda T, _: torch.ones(T, T).tril() > 0))
    assert status(before())["causal"] == "pass"
    monkeypatch.setattr(model.Attention, "forward", attention_with(lambda T, _: torch.ones(T, T) > 0))
    assert status(before())["causal"] == "fail"


@planted("attention mask off by one: each position sees the token it should predict", "causal")
def test_planted_attention_mask_off_by_one(before, monkeypatch):
    monkeypatch.setattr(model.Attention, "forward", attention_with(lambda T, _: torch.ones(T, T).tril(1) > 0))
    assert status(before())["causal"] == "fail"


@planted("attention masked in evaluation but not in training", "causal")
def test_planted_leak_in_training_only(before, monkeypatch):
    def mask(T, training):
        return torch.ones(T, T).tril(T if training else 0) > 0

    monkeypatch.setattr(model.Attention, "forward", attention_with(mask))
    assert status(before(native=False))["causal"] == "fail"


@pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")
@planted("attention of the kernels that only training uses, without a mask", "causal")
def test_planted_leak_in_the_kernels(before, config, monkeypatch):
    def logits(model, idx):
        x = model.wte(idx) + model.wpe.weight[: idx.shape[1]]
        every_weight = sum(p.sum() for p in model.parameters())  # has a gradient, as in training
        return F.linear(model.ln_f(x + x.mean(1, keepdim=True)), model.head) + 0 * every_weight

    changes = {"precision": "bfloat16", "native": True, "n_embd": 64, "n_head": 2, "block_size": 32}
    assert status(before(**changes))["causal"] == "pass"
    monkeypatch.setattr(fused, "logits", logits)
    assert status(before(**changes))["causal"] == "fail"


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
    monkeypatch.setattr(model, "GPT", conv_model(4, 0))
    assert status(before())["causal"] == "pass"
    monkeypatch.setattr(model, "GPT", conv_model(2, 2))
    assert status(before())["causal"] == "fail"


@planted("a leak behind a zero initial weight, invisible in the first logits", "causal")
def test_planted_leak_behind_zero_weight(before, monkeypatch):
    initialise = model.initialise

    def closed(model_, seed, n_layer):
        initialise(model_, seed, n_layer)
        for name, p in model_.named_parameters():
            if name.endswith("attn.c_proj.weight"):
                p.data.zero_()

    monkeypatch.setattr(model, "initialise", closed)
    assert status(before())["causal"] == "pass"
    monkeypatch.setattr(model.Attention, "forward", attention_with(lambda T, _: torch.ones(T, T) > 0))
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
    path.write_text(pseudo_english(40_000) * 10)
    checks = audit.before_training(config, "gelu", load_corpus(config.replace(dataset=str(path))))
    assert status(checks)["new text"] == "fail"
    share = re.search(r"([\d.]+) % of training's occur there before", measured(checks, "new text"))
    assert float(share.group(1)) == pytest.approx(100 * 8 / 9, abs=0.3)  # eight of the nine copies in training


@planted("one random stream for batches and evaluation", "evaluation draws nothing")
def test_planted_shared_generator(before, monkeypatch):
    make, probe = trial.Training.__init__, metrics.evaluate_probe

    def seeded(self, *args):
        make(self, *args)
        np.random.seed(self.seeds["order"])  # noqa: NPY002

    def batches(self, step):
        starts = np.random.randint(0, len(self.windows), self.batch_size)  # noqa: NPY002
        batch = torch.from_numpy(self.windows[starts].astype(np.int64))
        return batch[:, :-1], batch[:, 1:]

    monkeypatch.setattr(trial.Training, "__init__", seeded)
    monkeypatch.setattr(trial.Batches, "__call__", batches)
    assert status(before())["evaluation draws nothing"] == "pass"  # not yet: only the batches draw

    def drawing(*args):
        np.random.rand()  # noqa: NPY002
        return probe(*args)

    monkeypatch.setattr(metrics, "evaluate_probe", drawing)
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
    monkeypatch.setattr(trial, "stream", lambda seed, source, step=0: np.random.default_rng())
    assert status(before())["deterministic"] == "fail"


@planted("initial weights of the wrong size", "sane start")
def test_planted_wrong_initialisation(before, monkeypatch):
    initialise = model.initialise

    def large(model_, seed, n_layer):
        initialise(model_, seed, n_layer)
        for p in model_.parameters():
            p.data.mul_(20)

    monkeypatch.setattr(model, "initialise", large)
    assert status(before())["sane start"] == "fail"


@planted("targets that are the inputs themselves", "sane start")
def test_planted_shifted_initial_loss(before, monkeypatch):
    evaluate = metrics.evaluate_loss
    monkeypatch.setattr(metrics, "evaluate_loss", lambda *args: (evaluate(*args)[0] - 0.5, 0.0))
    assert status(before())["sane start"] == "fail"


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
        model.build_model(config, "ReLu()", corpus.vocab_size)
    assert audit.before_training(config, "gelu", corpus)


@planted("a setting that doesn't exist is ignored", "UserError and exit status 2")
def test_planted_unknown_setting(smoke_config):
    assert Config.from_dict(smoke_config.to_dict())
    with pytest.raises(UserError, match="n_layer"):
        Config.from_dict({**smoke_config.to_dict(), "n_layers": 6})
    with pytest.raises(TypeError, match="n_layers"):
        Config(preset="smoke", n_layers=6)
    command = [sys.executable, "train.py", "--activation", "relu", "--modle", "gpt", "--audit-only"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "--model" in answer.stderr


@planted("a failed audit is only a line in the log", "UserError before training")
def test_planted_failed_audit_stops_the_run(config, corpus, monkeypatch):
    display = types.SimpleNamespace(line=lambda text: None)
    assert experiment.audit_before(config, ["gelu"], corpus, True, display)
    monkeypatch.setattr(model.Attention, "forward", attention_with(lambda T, _: torch.ones(T, T) > 0))
    with pytest.raises(UserError, match="causal"):
        experiment.audit_before(config, ["gelu"], corpus, True, display)
    checks = experiment.audit_before(config, ["gelu"], corpus, False, display)
    assert status(checks["gelu"])["causal"] == "fail"  # --no-strict-audit records it and goes on


def test_audit_leaves_random_streams_alone(config, corpus):
    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    first = state()
    audit.before_training(config.replace(dropout=0.1), "gelu", corpus)
    assert state() == first


def test_audit_takes_seconds(corpus_file, data_dir):
    """Ten are promised for the quick preset on two cores; it takes about one, and the first time torch's import too."""
    config = Config(preset="quick", device="cpu", dataset=str(corpus_file), data_dir=str(data_dir))
    corpus = load_corpus(config)
    start = time.process_time()
    audit.before_training(config, "gelu", corpus)
    assert time.process_time() - start < 10


# -- after training -----------------------------------------------------------------------------------------------


def caught(mutate, check, make=synthetic_results):
    """Whether `check` fails on results that `mutate` changed, and passes on the same results without it."""
    assert status(audit.after_training(make()))[check] == "pass"
    results = make()
    mutate(results)
    return status(audit.after_training(results))[check] == "fail"


def test_sound_results_pass_every_check():
    checks = audit.after_training(synthetic_results())
    assert set(status(checks).values()) == {"pass"}, [c for c in checks if c["status"] != "pass"]
    assert all(isinstance(text, str) and text for check in checks for text in check.values())


@pytest.mark.parametrize("trials", [0, 1, 2, 3])
def test_results_of_other_tools_are_not_blamed_for_what_they_lack(trials):
    results = minimal_results(n_trials=trials) if trials else minimal_results(n_trials=1, diverged=(1,))
    if not trials:
        results["trials"] = []
    checks = audit.after_training(results)
    assert "fail" not in status(checks).values(), checks
    across = audit.across_activations({"relu": minimal_results("relu"), "gelu": minimal_results("gelu")})
    assert status(across)["distinct activations"] == "pass"
    assert "fail" not in status(across).values()


def set_trial(results, k, **values):
    results["trials"][k - 1].update(values)


@planted("a model that always predicts a space, perfectly reproducible", "degenerate")
def test_planted_constant_model():
    def constant(results):
        for k in (1, 2, 3):
            set_trial(results, k, val_loss=3.325, val_accuracy=14.5, distinct_argmax=1)

    assert caught(constant, "degenerate")


@planted("a model that learned only how frequent each token is", "learning")
def test_planted_model_that_learned_nothing():
    assert caught(lambda results: set_trial(results, 2, val_loss=3.352), "learning")


@planted("accuracy no better than one token for all", "degenerate")
def test_planted_accuracy_of_the_majority():
    assert caught(lambda results: set_trial(results, 2, val_accuracy=15.2), "degenerate")


@planted("validation loss 0.0077 at 41 % accuracy", "consistent")
def test_planted_impossible_loss_for_the_accuracy():
    assert caught(lambda results: set_trial(results, 1, val_loss=0.0077, val_accuracy=41.0), "consistent")
    assert caught(lambda results: set_trial(results, 1, train_loss=0.0077, train_accuracy=41.0), "consistent")


@planted("validation loss 0.008 at 99.9 % accuracy: consistent, but no text allows it", "suspicious loss")
def test_planted_loss_under_the_floor():
    leak = {"val_loss": 0.008, "val_accuracy": 99.9, "train_loss": 0.008, "train_accuracy": 99.9}
    assert caught(lambda results: set_trial(results, 1, **leak), "suspicious loss")


@planted("validation loss far below training loss", "suspicious loss")
def test_planted_validation_much_easier_than_training():
    assert caught(lambda results: set_trial(results, 1, val_loss=0.8, train_loss=1.7), "suspicious loss")


def test_loss_bound_is_rigorous():
    """Random predictions never fall below (1 − accuracy) ln 2, and predictions of ½ and ½ reach it."""
    rng = np.random.default_rng(0)
    for sharpness, _ in itertools.product((0.1, 1.0, 10.0, 50.0), range(20)):
        z = sharpness * rng.standard_normal((50, rng.integers(2, 8)))
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        y = rng.integers(0, p.shape[1], 50)
        loss, accuracy = -np.log(p[np.arange(50), y]).mean(), (p.argmax(1) == y).mean()
        assert loss >= (1 - accuracy) * math.log(2)
    p = np.array([[0.5 + 1e-12, 0.5 - 1e-12]])  # wrong at the price of ln 2: no bound can be higher
    assert -math.log(p[0, 1]) == pytest.approx((1 - 0) * math.log(2), abs=1e-9)


def test_pair_bounds_hold_for_any_predictions():
    """Measured pairs of random predictions are never called impossible."""
    rng = np.random.default_rng(1)
    for sharpness in (0.01, 1.0, 30.0):
        p, q = (torch.softmax(torch.tensor(sharpness * rng.standard_normal((200, 5))), 1).numpy() for _ in range(2))
        pair = {"model_pair": "1_vs_2", **metrics.compare_predictions(p, q, rng.integers(0, 5, 200))}
        assert audit._impossible_pair(pair, {}, 1e-6) == []


@planted("a pair's measures that no two models can produce", "consistent")
def test_planted_impossible_pair():
    def edit(**values):
        return lambda results: results["reproducibility_metrics"][0].update(values)

    assert caught(edit(relative_pd=1.2), "consistent")
    assert caught(edit(relative_pd=0.05), "consistent")  # no longer half of pd_l1
    assert caught(edit(hellinger=0.9), "consistent")
    assert caught(edit(jensen_shannon=0.3), "consistent")
    assert caught(edit(top1_mismatch_pct=1.0), "consistent")
    assert caught(edit(val_loss_difference=0.5), "consistent")
    assert caught(edit(prediction_differences=0, top1_mismatch_pct=0.0), "consistent")  # accuracies differ by more


@planted("a mean that is not the mean of its trials: a diverged one averaged in, or a number edited", "consistent")
def test_planted_mean_that_is_not_the_mean():
    assert caught(lambda results: results.update(avg_val_loss=results["avg_val_loss"] - 0.1), "consistent")


@planted("NaN in a metric", "finite")
def test_planted_nan_in_results():
    assert caught(lambda results: results["reproducibility_metrics"][1].update(relative_pd=math.nan), "finite")
    assert caught(lambda results: set_trial(results, 3, val_loss=None), "finite")
    assert caught(lambda results: results["divergence"].update(positions=math.inf), "finite")


def test_a_diverged_trial_is_named_not_blamed():
    checks = audit.after_training(synthetic_results(diverged=(2,)))
    assert "fail" not in status(checks).values()
    assert "trial 2 at step 400" in measured(checks, "finite")
    everything = audit.after_training(synthetic_results(diverged=(1, 2, 3)))
    assert "fail" not in status(everything).values()


@planted("one checkpoint counted as two trials", "distinct")
def test_planted_duplicated_trial():
    def duplicate(results):
        first = results["trials"][0]
        results["trials"][1] = {**first, "trial_id": 2, "seed": first["seed"] + 1}

    assert caught(duplicate, "distinct")

    def same_results(results):  # what a tool sees that records no checksums
        duplicate(results)
        for t in results["trials"]:
            t.pop("weights_sha256")

    assert caught(same_results, "distinct")
    deliberate = synthetic_results()
    duplicate(deliberate)
    deliberate["config"]["vary"] = ["none"]
    assert status(audit.after_training(deliberate))["distinct"] == "not applicable"


@planted("pairs compared at different numbers of positions", "same positions compared")
def test_planted_unequal_positions():
    assert caught(
        lambda results: results["reproducibility_metrics"][2].update(total_predictions=1000), "same positions compared"
    )


@planted("a model against itself: PD 0.37", "same positions compared")
def test_planted_self_difference():
    assert caught(lambda results: results.update(self_prediction_difference=0.37), "same positions compared")


@planted("pairs missing from the mean", "same positions compared")
def test_planted_missing_pair():
    assert caught(lambda results: results["reproducibility_metrics"].pop(), "same positions compared")


@planted("a loss that only rises", "converged")
def test_planted_training_that_only_gets_worse():
    def rising(results):
        curve = results["trials"][1]["val_loss_history"]
        results["trials"][1]["val_loss_history"] = curve[::-1]

    assert caught(rising, "converged")


def test_slope_of_the_last_third_is_reported():
    results = synthetic_results(n_trials=1)
    results["trials"][0].update(val_loss_history=[4.0, 3.0, 2.0, 1.9, 1.8, 1.7], steps=[0, 20, 40, 60, 80, 100])
    # 0.1 nats per 20 steps; a tenth of training is 10 steps
    assert "-0.0500" in measured(audit.after_training(results), "converged")


# -- across activations -------------------------------------------------------------------------------------------


def caught_across(mutate, check):
    assert status(audit.across_activations(synthetic_study()))[check] == "pass"
    study = synthetic_study()
    mutate(study)
    return status(audit.across_activations(study))[check] == "fail"


@planted("identical results for two activations, written up as a discovery", "distinct activations")
def test_planted_identical_results_for_two_activations():
    def identical(study):
        study["swish"] = {**study["gelu"], "activation": "swish"}

    assert caught_across(identical, "distinct activations")

    def one_shared_trial(study):
        study["swish"]["trials"][2] = study["gelu"]["trials"][1]

    assert caught_across(one_shared_trial, "distinct activations")

    def without_checksums(study):
        identical(study)
        for results in study.values():
            results["trials"] = [{k: v for k, v in t.items() if k != "weights_sha256"} for t in results["trials"]]

    assert caught_across(without_checksums, "distinct activations")


@planted("activations evaluated on different windows", "same positions across activations")
def test_planted_different_windows_per_activation():
    assert caught_across(
        lambda study: study["gelu"]["evaluation"].update(sha256="0" * 64), "same positions across activations"
    )


@planted("runs of different settings in one folder, averaged", "same settings")
def test_planted_mixed_settings(tmp_path):
    def other(study):
        study["gelu"]["fingerprint"] = "0" * 64
        study["gelu"]["config"]["max_iters"] = 500

    assert caught_across(other, "same settings")
    study = synthetic_study()
    other(study)
    assert "max_iters" in measured(audit.across_activations(study), "same settings")
    assert caught_across(lambda study: study["relu"]["dataset"].update(sha256="0" * 64), "same settings")
    for results in study.values():
        storage.write_results(results, tmp_path)
    with pytest.raises(UserError, match="max_iters"):
        analyze_results.load_all_results(tmp_path)


@planted("31 % more parameters for one activation", "parameters across activations")
def test_planted_unequal_parameters():
    assert caught_across(lambda study: study["gelu"].update(parameters=1_053_000), "parameters across activations")


# -- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_file, data_dir):
    """Three short trials of relu and one of gelu, trained once. (config, corpus)"""
    folder = tmp_path_factory.mktemp("trained")
    config = Config(
        **TINY,
        dataset=str(corpus_file),
        data_dir=str(data_dir),
        checkpoint_dir=str(folder / "checkpoints"),
        results_dir=str(folder / "results"),
        device="cpu",
    )
    corpus = load_corpus(config)
    for name, k in (("relu", 1), ("relu", 2), ("relu", 3), ("gelu", 1)):
        trial.train_trial(config, name, k, corpus)
    return config, corpus


@pytest.fixture
def files(trained, tmp_path):
    """(config, corpus, path of trial k of an activation) on a copy that a test may damage."""
    config, corpus = trained
    shutil.copytree(config.checkpoint_dir, tmp_path / "checkpoints")
    config = config.replace(checkpoint_dir=str(tmp_path / "checkpoints"), results_dir=str(tmp_path / "results"))
    assert status(audit.after_training(experiment.measure(config, "relu", corpus)))["finite"] == "pass"
    return config, corpus, lambda name, k: storage.checkpoint_path(config.checkpoint_dir, name, k)


def test_a_trained_experiment_passes(trained):
    checks = audit.after_training(experiment.measure(trained[0], "relu", trained[1]))
    assert set(status(checks).values()) == {"pass"}, [c for c in checks if c["status"] != "pass"]


@planted("trial_1.pt copied to trial_2.pt", "StorageError: swapped")
def test_planted_copied_checkpoint(files):
    config, corpus, path = files
    shutil.copyfile(path("relu", 1), path("relu", 2))
    with pytest.raises(storage.StorageError, match="trial_2.*swapped"):
        experiment.measure(config, "relu", corpus)


@planted("the checkpoint of another activation", "StorageError: swapped")
def test_planted_checkpoint_of_another_activation(files):
    config, corpus, path = files
    shutil.copyfile(path("gelu", 1), path("relu", 1))
    with pytest.raises(storage.StorageError, match="swapped"):
        experiment.measure(config, "relu", corpus)


@planted("a copied checkpoint, relabelled and sealed anew", "distinct")
def test_planted_relabelled_copy(files):
    config, corpus, path = files
    contents = storage.load_checkpoint(path("relu", 1))
    contents["trial"] = contents["record"]["trial_id"] = 2
    storage.save_checkpoint(path("relu", 2), contents)
    assert status(audit.after_training(experiment.measure(config, "relu", corpus)))["distinct"] == "fail"


@planted("a truncated checkpoint", "StorageError")
def test_planted_truncated_checkpoint(files):
    config, corpus, path = files
    data = path("relu", 2).read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 1):
        path("relu", 2).write_bytes(data[:size])
        with pytest.raises(storage.StorageError, match="trial_2"):
            experiment.measure(config, "relu", corpus)


@planted("one bit of a checkpoint flipped", "StorageError")
def test_planted_flipped_bit(files):
    config, corpus, path = files
    data = bytearray(path("relu", 2).read_bytes())
    data[len(data) // 2] ^= 1
    path("relu", 2).write_bytes(data)
    with pytest.raises(storage.StorageError, match="trial_2"):
        experiment.measure(config, "relu", corpus)


def with_weights(path, change):
    """A checkpoint whose weights were changed by `change(name, tensor)`, its record brought along, sealed anew."""
    contents = storage.load_checkpoint(path)
    contents["weights"] = {name: change(name, w.clone()) for name, w in contents["weights"].items()}
    contents["record"]["weights_sha256"] = storage.contents_sha256(contents["weights"])
    storage.save_checkpoint(path, contents)


@planted("NaN weights", "StorageError")
def test_planted_nan_weights(files):
    config, corpus, path = files
    with_weights(path("relu", 2), lambda name, w: w.fill_(math.nan) if name == "ln_f.weight" else w)
    with pytest.raises(storage.StorageError, match="trial_2.*not finite"):
        experiment.measure(config, "relu", corpus)


@planted("weights exchanged under the record of another training", "StorageError")
def test_planted_exchanged_weights(files):
    config, corpus, path = files
    contents, other = (storage.load_checkpoint(path("relu", k)) for k in (2, 3))
    storage.save_checkpoint(path("relu", 2), {**contents, "weights": other["weights"]})
    with pytest.raises(storage.StorageError, match="trial_2.*not those"):
        experiment.measure(config, "relu", corpus)


@planted("a constant model in place of a trained one", "degenerate and learning")
def test_planted_constant_model_in_a_checkpoint(files):
    config, corpus, path = files
    with_weights(path("relu", 2), lambda name, w: w.zero_())
    checks = audit.after_training(experiment.measure(config, "relu", corpus))
    assert status(checks)["degenerate"] == status(checks)["learning"] == "fail"


@planted("a checkpoint trained with other settings", "UserError")
def test_planted_checkpoint_of_other_settings(files):
    config, corpus, _ = files
    other = config.replace(learning_rate=config.learning_rate / 2)
    with pytest.raises(UserError, match="learning_rate"):
        experiment.measure(other, "relu", corpus)
    with pytest.raises(UserError, match="learning_rate"):
        trial.train_trial(other, "relu", 1, corpus)


@planted("a results file edited by hand", "StorageError: checksum")
def test_planted_edited_results(tmp_path):
    path = storage.write_results(synthetic_results("relu"), tmp_path)
    assert storage.read_results(path)["activation"] == "relu"
    text = path.read_text()
    number = repr(synthetic_results("relu")["avg_val_loss"])
    assert number in text
    path.write_text(text.replace(number, "1.5"))
    with pytest.raises(storage.StorageError, match="changed after it was written"):
        storage.read_results(path)


@planted("the results of one activation filed under another's name", "UserError")
def test_planted_results_under_another_name(tmp_path):
    shutil.move(storage.write_results(synthetic_results("relu"), tmp_path), storage.results_path(tmp_path, "gelu"))
    with pytest.raises(UserError, match="relu"):
        analyze_results.load_all_results(tmp_path)


@planted("a snapshot that keeps live tensors: every snapshot is the last model", "its checksum doesn't move")
def test_planted_snapshot_without_clone(config, corpus, monkeypatch):
    def is_frozen():
        with trial.torch_settings(config):
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


def test_planted_defects_are_counted():
    """At least the fifteen that were promised, no defect twice."""
    assert len(PLANTED) == len({defect for defect, _ in PLANTED})
    assert len(PLANTED) >= 15
    tests = [name for name in globals() if name.startswith("test_planted_") and "counted" not in name]
    assert len(tests) == len(PLANTED)
