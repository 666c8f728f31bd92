"""What only an accelerator can show; skipped where there is none: `pytest tests/test_gpu.py` on a machine that has one.

The tests run on `cuda` where there is an NVIDIA GPU, else on `mps`. What MPS does not promise is skipped there.
"""

import contextlib
from dataclasses import asdict

import numpy as np
import pytest
import torch

import audit
import metrics
import storage
import train
from models.architectures import list_models
from prepare_data import load_corpus
from test_determinism import contents
from training import experiment, machine, pool, trial

CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
DEVICE = "cuda" if CUDA else "mps"
pytestmark = pytest.mark.skipif(not (CUDA or MPS), reason="there is no accelerator here")
cuda_only = pytest.mark.skipif(not CUDA, reason="there is no NVIDIA GPU here")
PRECISIONS = ["float32", "bfloat16"] if CUDA else ["float32"]
MODELS = [name for name, _ in list_models()]


@pytest.fixture
def at(smoke_config, tmp_path):
    """The small settings on the accelerator, in a folder of their own."""

    def place(name, **changes):
        folders = {f"{kind}_dir": str(tmp_path / name / kind) for kind in ("results", "plots", "checkpoint")}
        # attention's kernels want heads of a multiple of 8
        settings = {"n_embd": 64, "precision": "auto", "device": DEVICE, "dropout": 0.1, **folders, **changes}
        return smoke_config.replace(**settings)

    return place


@contextlib.contextmanager
def training(config, activation="smelu_1"):
    """A trial under way, in training mode, warmed up, with its settings and streams in force."""
    with machine.torch_settings(config), machine.own_randomness(config.device):
        under_way = trial.Training(config, activation, 1, load_corpus(config))
        under_way.model.train()
        under_way.warm_up()
        yield under_way


def test_study(at):
    """Audit, training in a worker, evaluation, results: the whole of one activation."""
    results = train.run_study(at("study", trials_per_activation=2), ["smelu_05"], quiet=True)["smelu_05"]
    assert results["audit"]["passed"], [c for c in results["audit"]["checks"] if c["status"] == "fail"]
    assert results["environment"]["device"] == DEVICE
    assert [t["status"] for t in results["trials"]] == ["done", "done"]
    assert results["self_prediction_difference"] == 0
    for record in results["trials"]:
        assert record["val_loss_history"][-1] < record["val_loss_history"][0] - 0.5


@pytest.mark.parametrize("activation", ["smelu_05", "relu", "gelu", "swish", "swiglu"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_audit(at, activation, precision):
    config = at("audit", precision=precision)
    failed = [c for c in audit.before_training(config, activation, load_corpus(config)) if c["status"] == "fail"]
    assert not failed


@pytest.mark.parametrize("name", MODELS)
def test_models(at, name):
    """Every model trains, deterministic kernels asked for: an operation that has none would raise."""
    config = at("models", model=name, max_iters=20)
    assert train.train_trial(config, "gelu", 1)["status"] == "done"


@cuda_only
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_rerun_has_the_same_bits(at, name, precision, dropout):
    settings = {"model": name, "precision": precision, "dropout": dropout, "max_iters": 20}
    once, again = at("once", **settings), at("again", **settings)
    train.train_trial(once, "smelu_1", 2)
    torch.rand(7, device=DEVICE)  # the state of the process does not matter
    train.train_trial(again, "smelu_1", 2)
    assert contents(again, "smelu_1", 2) == contents(once, "smelu_1", 2)


@cuda_only
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_resumed_has_the_same_bits(at, compile):
    whole, parts = at("whole", compile=compile), at("parts", compile=compile)
    train.train_trial(whole, "gelu", 1)
    for limit in (7, 16):  # steps of each sitting
        steps = iter(range(10_000))
        with pytest.raises(trial.Interrupted):
            train.train_trial(parts, "gelu", 1, stop=lambda steps=steps, limit=limit: next(steps) + 1 >= limit)
    train.train_trial(parts, "gelu", 1)
    assert contents(parts, "gelu", 1) == contents(whole, "gelu", 1)


@cuda_only
def test_workers_have_the_same_bits(at):
    """Three on one GPU (or spread over several of one kind), and one after another in this process."""
    one, three = at("one"), at("three", workers=3)
    corpus = load_corpus(one)
    for k in (1, 2, 3):
        train.train_trial(one, "relu", k, corpus)
    outcomes = list(pool.run_trials(three, [("relu", k) for k in (1, 2, 3)], lambda event: None, 3))
    assert [o.status for o in outcomes] == ["done"] * 3
    for k in (1, 2, 3):
        assert contents(three, "relu", k) == contents(one, "relu", k)


def test_metrics_are_those_of_the_cpu(at, tmp_path):
    """The same trained models, evaluated here and on the CPU."""
    config = at("metrics")
    corpus = load_corpus(config)
    models = []
    for k in (1, 2):
        train.train_trial(config, "gelu", k, corpus)
        models.append(experiment.load_trial(storage.checkpoint_path(config.checkpoint_dir, "gelu", k))[0])
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    measured = {}
    for device in ("cpu", DEVICE):
        with machine.torch_settings(config):
            moved = [m.to(device) for m in models]
            measured[device] = asdict(metrics.evaluate_models(moved, corpus.val, starts, config.block_size, device))
    ours, theirs = measured[DEVICE], measured["cpu"]
    counts = ("prediction_differences", "top1_mismatch_pct", "distinct_argmax", "val_accuracy")  # ties may fall anew
    for kind in ("models", "pairs"):
        for a, b in zip(ours[kind], theirs[kind], strict=True):
            for key in b:
                if not key.startswith(counts):
                    np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-5, err_msg=key)
            for key in counts[:1]:
                assert abs(a.get(key, 0) - b.get(key, 0)) <= 2
    np.testing.assert_allclose(ours["set_prediction_difference"], theirs["set_prediction_difference"], atol=1e-5)
    p, q = (torch.rand(9, 31, device=DEVICE).softmax(-1) for _ in range(2))
    assert metrics.compare_predictions(p, q) == metrics.compare_predictions(p.cpu(), q.cpu())


@cuda_only
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("resident", [True, False])
def test_a_step_waits_for_nothing(at, compile, resident, monkeypatch):
    """torch raises an error wherever the host would wait for the GPU."""
    if not resident:
        monkeypatch.setattr(trial.Batches, "RESIDENT_BYTES", 0)
    with training(at("steps", compile=compile)) as under_way:
        assert (under_way.batches.tokens is not None) == resident
        under_way.one_step(0)  # what is made once, on first use, may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = [under_way.one_step(step) for step in range(1, 6)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len({float(loss) for loss in losses}) == 5  # none was overwritten by the next one


@cuda_only
def test_batches_are_those_of_the_cpu(at):
    config = at("batches")
    corpus = load_corpus(config)
    expected = trial.Batches(corpus.train, config.replace(device="cpu"), seed=5)
    for resident in (True, False):
        batches = trial.Batches(corpus.train, config, seed=5, resident=resident)
        for step in (0, 41):
            for ours, theirs in zip(batches(step), expected(step), strict=True):
                assert ours.is_cuda and torch.equal(ours.cpu(), theirs)


@cuda_only
def test_random_streams_are_left_alone(at):
    """A trial puts the streams of the CPU and the GPU back, and the settings of torch as well."""
    torch.rand(1, device=DEVICE)
    before = torch.get_rng_state(), torch.cuda.get_rng_state(), torch.get_deterministic_debug_mode()
    train.train_trial(at("streams", max_iters=10), "relu", 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
    assert torch.get_deterministic_debug_mode() == before[2]


@cuda_only
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("activation", ["smelu_05", "gelu"])
def test_compiled(at, activation):
    """With CUDA graphs: close to eager training, the same bits each time, another dropout mask in each step."""
    # a low learning rate: at a high one the loss jumps at first, and any rounding grows
    settings = {"precision": "float32", "dropout": 0.0, "max_iters": 20, "eval_interval": 5, "learning_rate": 1e-3}
    eager, once, again = (
        train.train_trial(at(name, compile=name != "eager", **settings), activation, 1)
        for name in ("eager", "once", "again")
    )
    np.testing.assert_allclose(once["train_loss_history"], eager["train_loss_history"], rtol=1e-3)
    assert once["training_time"] < 0.5 * once["total_time"]
    assert once["weights_sha256"] == again["weights_sha256"]
    with training(at("masks", compile=True, dropout=0.5, learning_rate=1e-10, min_lr=0.0), activation) as under_way:
        batch = under_way.batches(0)
        under_way.batches = lambda step: batch
        losses = [float(under_way.one_step(step)) for step in (0, 1, 2, 1)]
        # the seed of each step reaches the graph; weights that hardly move, and now and then round the other way
        assert losses[3] == pytest.approx(losses[1], abs=1e-4)
        assert min(abs(losses[1] - losses[0]), abs(losses[2] - losses[1])) > 1e-3
