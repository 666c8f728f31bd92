"""The parts of a trial that are there for accelerators, as far as a CPU can run them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import questions.remedies
import train
from config import Config, UserError
from prepare_data import load_corpus
from training import arithmetic, machine, parts, trial

ROOT = Path(__file__).resolve().parent.parent


def test_batches_kept_on_the_device_are_the_same(smoke_config):
    """Gathered from the tokens on the device, or on the host and sent: the same bits and the same form."""
    corpus = load_corpus(smoke_config)
    sent = trial.Batches(corpus.train, smoke_config, seed=3, resident=False)
    kept = trial.Batches(corpus.train, smoke_config, seed=3, resident=True)
    assert sent.tokens is None and kept.tokens is not None
    for step in (0, 1, 59, 10**6):
        for ours, theirs in zip(kept(step), sent(step), strict=True):
            assert ours.shape == (smoke_config.batch_size, smoke_config.block_size)
            assert ours.dtype == theirs.dtype == torch.int64
            assert ours.stride() == theirs.stride()
            assert torch.equal(ours, theirs)


def test_batches_of_a_large_vocabulary_and_of_the_last_window(smoke_config):
    """Token ids above 32 767 and windows that end with the text."""
    T = smoke_config.block_size
    tokens = np.arange(50_000 - T - 1, 50_000, dtype=np.uint16)  # room for a single window
    x, y = trial.Batches(tokens, smoke_config, seed=0, resident=True)(0)
    assert (x[:, 0] == 50_000 - T - 1).all() and (y[:, -1] == 49_999).all()


class Shrinking(parts.Part):
    """A made-up part: a penalty on the weights' squares, and a count of the steps that it was there."""

    steps = 0

    @staticmethod
    def asked(config):
        return True

    def objective(self, loss):
        return lambda model, x, y: loss(model, x, y) + 1e-2 * sum(p.float().square().sum() for p in model.parameters())

    def after_step(self, leg):
        self.steps += 1

    def state(self):
        return {"shrunk": self.steps}

    def load(self, saved):
        self.steps = saved["shrunk"]

    def record(self):
        return {"shrunk": self.steps}


def test_a_made_up_part_is_a_class_and_a_row(smoke_config, monkeypatch):
    """Named to the core as further questions name theirs, it trains, is stopped, goes on with the same bits and is
    recorded."""
    config, corpus = smoke_config.replace(max_iters=8, warmup_iters=2), load_corpus(smoke_config)
    plain = trial.train_trial(config, "relu", 1, corpus)
    monkeypatch.setattr(questions.remedies, "PARTS", (f"{__name__}:Shrinking",))
    whole = trial.train_trial(config.replace(checkpoint_dir=config.checkpoint_dir + "2"), "relu", 1, corpus)
    config = config.replace(checkpoint_dir=config.checkpoint_dir + "3")
    asked = iter([False] * 4 + [True])
    with pytest.raises(trial.Interrupted):
        trial.train_trial(config, "relu", 1, corpus, stop=lambda: next(asked))
    stopped = trial.train_trial(config, "relu", 1, corpus)
    assert stopped["weights_sha256"] == whole["weights_sha256"] != plain["weights_sha256"]
    assert stopped["shrunk"] == whole["shrunk"] == 8 and "shrunk" not in plain


@pytest.mark.parametrize("device, tokens, kept", [("cpu", 10, False), ("meta", 10, True), ("meta", 11, False)])
def test_tokens_are_kept_where_they_fit(smoke_config, monkeypatch, device, tokens, kept):
    monkeypatch.setattr(trial.Batches, "RESIDENT_BYTES", 40)
    config = smoke_config.replace(block_size=4, eval_tokens=4, probe_tokens=4, device=device)
    assert (trial.Batches(np.zeros(tokens, np.uint16), config, seed=0).tokens is not None) == kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_working_weights_stay_where_they_are(smoke_config, precision):
    """Steps, evaluations and a loaded snapshot leave the model's weights at their addresses."""
    training = trial.Training(smoke_config.replace(precision=precision), "gelu", 1, load_corpus(smoke_config))
    training.model.train()
    places = [p.data_ptr() for p in training.optimiser.parameters]
    training.one_step(0)
    training.record_point()
    training.one_step(1)
    training.optimiser.load(training.optimiser.state())
    assert [p.data_ptr() for p in training.optimiser.parameters] == places
    for p, weight in zip(training.optimiser.parameters, training.optimiser.weights, strict=True):
        assert torch.equal(p, weight.to(p.dtype))
        assert p.data_ptr() != weight.data_ptr()


def test_dropout_draws_from_streams_of_its_own(smoke_config):
    """Seeding starts the CPU's stream as torch.manual_seed does; a trial leaves it where it was."""
    machine.draw_from(123, "cpu")
    drawn = torch.rand(3)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), drawn)
    before = torch.get_rng_state()
    train.train_trial(smoke_config.replace(dropout=0.1, max_iters=2, warmup_iters=1), "relu", 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("deterministic", [True, False])
def test_settings_of_kernels_are_put_back(deterministic):
    def settings():
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        return (
            torch.get_deterministic_debug_mode(),
            *(cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32),
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    torch.set_deterministic_debug_mode("warn")
    try:
        before = settings()
        with pytest.raises(KeyError), machine.kernels(deterministic):
            assert settings() == (2 * deterministic, False, deterministic, False, False, False)
            raise KeyError
        assert settings() == before
    finally:
        torch.set_deterministic_debug_mode("default")


def test_without_compile_the_compiler_is_not_imported(smoke_config):
    """Importing torch._dynamo takes seconds; many things in torch do it on the side."""
    settings = {**smoke_config.to_dict(), "max_iters": 2, "warmup_iters": 1, "dropout": 0.1}
    code = (
        "import sys\nimport train\nfrom training import experiment, machine\n"
        "from config import Config\nfrom prepare_data import load_corpus\n"
        f"config = Config.from_dict({settings!r})\n"
        "train.train_trial(config, 'smelu_1', 1)\n"
        "experiment.measured_costs(config, 'smelu_1', load_corpus(config))\n"
        "with machine.kernels(True): pass\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_compile_is_a_setting_of_the_results_on_a_gpu(smoke_config):
    recorded = {**smoke_config.to_dict(), "device": "cuda", "native": False}
    assert Config.from_dict({**recorded, "compile": True}).differences(recorded) == {"compile": (True, False)}
    for settings in ({"device": "cpu"}, {"device": "mps"}):
        with pytest.raises(UserError, match=f"compile=True: is for CUDA, not device={settings['device']}; leave it"):
            Config.from_dict({**recorded, **settings, "compile": True})


def test_a_loss_that_cannot_be_compiled_is_an_error_of_one_line(monkeypatch):
    def compile(function, **options):
        def fail(*_):
            raise torch._dynamo.exc.Unsupported("no kernels\nfor this")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    with pytest.raises(UserError, match=r"^compile=True: torch.compile fails here \(no kernels\); use compile=False$"):
        arithmetic.compiled_loss(True, "a model")(None, None, None)
