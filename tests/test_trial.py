"""The parts of a trial that are there for accelerators, as far as a CPU can run them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY
from kernels import toolchain
from prepare_data import load_corpus
from training import experiment, machine, trial

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
    trial.train_trial(smoke_config.replace(dropout=0.1, max_iters=2, warmup_iters=1), "relu", 1)
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
        "import sys\nfrom training import experiment, machine, trial\n"
        "from config import Config\nfrom prepare_data import load_corpus\n"
        f"config = Config.from_dict({settings!r})\n"
        "trial.train_trial(config, 'smelu_1', 1)\n"
        "experiment.measured_costs(config, 'smelu_1', load_corpus(config))\n"
        "with machine.kernels(True): pass\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_compile_is_a_setting_of_the_results(smoke_config):
    assert not smoke_config.compile
    plain = smoke_config.replace(native=False)
    assert smoke_config.replace(compile=True).differences(plain) == {"compile": (True, False)}


def test_estimate_does_not_wait_for_the_compiler(smoke_config, monkeypatch):
    monkeypatch.setattr(trial, "_compiled_loss", lambda *_: pytest.fail("compiled"))
    config = smoke_config.replace(compile=True)
    assert experiment.measured_costs(config, "relu", load_corpus(config)).step > 0


COMPILED = """
import sys
import torch
from config import Config
from prepare_data import load_corpus
from training import trial
from training.machine import torch_settings

paths = dict(zip(("dataset", "data_dir"), sys.argv[1:]))
config = Config(preset="smoke", device="cpu", compile=True, precision="float32", **paths)
corpus = load_corpus(config)
with torch_settings(config):
    training = trial.Training(config, "smelu_05", 1, corpus)
    x, y = training.batches(0)
    print(torch.backends.cpu.get_cpu_capability(), float(training.loss(training.model, x, y)),
          float(trial.training_loss(training.model, x, y)))
"""


@pytest.mark.slow
@pytest.mark.skipif(toolchain.problem() is not None, reason="torch.compile needs a C++ compiler")
def test_code_compiled_for_another_processor_is_not_taken(corpus_file, data_dir, tmp_path):
    """Two kinds of processor that share torch's cache, as on a cluster."""
    for kind in (None, "avx2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        environment |= {"ATEN_CPU_CAPABILITY": kind} if kind else {}
        command = [sys.executable, "-c", COMPILED, corpus_file, data_dir]
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, done.stderr
        _, compiled, plain = done.stdout.split()
        assert float(compiled) == pytest.approx(float(plain), rel=1e-5), done.stdout


@pytest.mark.slow
def test_kernels_that_cannot_be_compiled_are_an_error_of_one_line(smoke_config, corpus_file, tmp_path):
    """Before anything is trained, also where torch itself finds out only when it compiles."""
    command = [sys.executable, ROOT / "train.py", "--preset", "smoke", "--activation", "gelu", "--compile"]
    command += ["--device", "cpu", "--precision", "float32", "--dataset", corpus_file]
    environment = {**os.environ, "CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("train.py: compile=True: torch.compile fails here (") and done.stderr.count("\n") == 1
    assert done.stderr.endswith("; use --no-compile\n") and not list(tmp_path.rglob("trial_*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(toolchain.problem() is not None, reason="torch.compile needs a C++ compiler")
def test_compiled(smoke_config, tmp_path):
    """Compiled training follows eager training, gives the same bits each time, and compiles outside of its time."""

    def train(name, compile, activation="smelu_1"):
        settings = {
            **TINY,
            "n_layer": 1,
            "max_iters": 12,
            "eval_interval": 4,
            "learning_rate": 1e-3,
            "precision": "float32",
        }
        folder = str(tmp_path / name)
        return trial.train_trial(
            smoke_config.replace(**settings, compile=compile, checkpoint_dir=folder), activation, 1
        )

    eager, once = train("eager", False), train("once", True)
    for key in ("train_loss_history", "val_loss_history", "grad_norm_history"):
        np.testing.assert_allclose(once[key], eager[key], rtol=1e-3)
    assert once["train_loss"] == pytest.approx(eager["train_loss"], rel=1e-3)
    assert once["training_time"] < 0.2 * once["total_time"]
    other = train("other", True, "smelu_05")  # in between, so that nothing is left of the first compilation
    assert other["weights_sha256"] != once["weights_sha256"]
    again = train("again", True)
    assert again["weights_sha256"] == once["weights_sha256"]
    assert again["val_loss_history"] == once["val_loss_history"]
