"""The path of an accelerator without one: on torch's `meta` device, whose tensors have shapes and a device but no
values, in the place of the GPU. What is computed there can't be seen; that every tensor is where it must be can, since
operations refuse to mix devices. Only a GPU can show

- numbers: that its kernels compute what the CPU's do, in both precisions, and that the same seed gives the same bits;
- that every operation has a deterministic kernel there, since `meta` computes none;
- `--compile` with its CUDA graph, pinned memory and copies that nothing waits for;
- cuDNN's LSTM, which wants its weights in one piece; the fused attention and the fused update;
- random streams of its own: dropout from a seed, and their state put back after an evaluation;
- time, memory, several GPUs, and what happens where the memory does not suffice.
"""

import pytest
import torch
from torch import nn

import activations
import config as config_module
import metrics
from model import GPT, generate
from models import architectures
from prepare_data import load_corpus
from training import trial
from training.batches import Batches

MODELS = [name for name, _ in architectures.list_models()]
# of each model: every activation, and both precisions with and without dropout
CELLS = list(zip(activations.STUDY, ["float32", "bfloat16"] * 2 + ["bfloat16"], [0.0, 0.1, 0.1, 0.0, 0.1], strict=True))
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 4, "batch_size": 2, "max_iters": 4, "warmup_iters": 1}
EVALUATION = {"eval_interval": 2, "eval_tokens": 16, "probe_tokens": 8, "snapshot_seconds": 1e9}


@pytest.fixture
def meta(monkeypatch):
    """The meta device passes for one that this machine has, and what the host reads from it is ones."""
    resolve, cpu, to = config_module._resolve_device, torch.Tensor.cpu, torch.Tensor.to
    monkeypatch.setattr(config_module, "_resolve_device", lambda d: d if d == "meta" else resolve(d))

    def read(tensor):
        return torch.ones(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else cpu(tensor)

    def move(tensor, *args, **kwargs):
        target = str(args[0] if args else kwargs.get("device", ""))
        return read(tensor) if tensor.is_meta and target == "cpu" else to(tensor, *args, **kwargs)

    monkeypatch.setattr(trial, "generate", lambda model, idx, tokens: generate(model, idx, min(tokens, 2)))
    monkeypatch.setattr(torch.Tensor, "cpu", read)
    monkeypatch.setattr(torch.Tensor, "to", move)
    for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
        host = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, host=host: host(read(tensor)))
    return read


@pytest.fixture
def at(meta, smoke_config):
    return lambda **settings: smoke_config.replace(
        device="meta", native=False, **{**SHAPE, **EVALUATION, "precision": "float32", **settings}
    )


def everything(config, activation):
    """What is done on the device: steps, points of the curves, snapshot, the end of a trial, the comparison, text."""
    corpus = load_corpus(config)
    training = trial.Training(config, activation, 1, corpus)
    assert {p.device.type for p in training.model.parameters()} == {"meta"}
    training.model.train()
    training.warm_up()
    training.record_point()
    for step in range(2):
        assert training.one_step(step).device.type == "meta"
        training.step = step + 1
    training.record_point()
    assert training.history["steps"] == [0, 2] and training.diverged_at is None
    training.save_snapshot()
    resumed = trial.Training(config, activation, 1, corpus)
    resumed.resume()
    assert resumed.step == 2
    resumed.model.train()
    resumed.one_step(2)
    resumed.finish()
    models = [training.model.eval(), resumed.model.eval()]
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    measured = metrics.evaluate_models(models, corpus.val, starts, config.block_size, config.device)
    assert measured.pairs[0]["total_predictions"] == len(starts) * config.block_size
    idx = torch.zeros(1, 1, dtype=torch.long, device=config.device)
    for temperature in (0, 1.0):
        assert generate(models[0], idx, 3, temperature).shape == (1, 4)


@pytest.mark.parametrize("activation, precision, dropout", CELLS)
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_on_the_wrong_device(at, model, activation, precision, dropout):
    everything(at(model=model, precision=precision, dropout=dropout), activation)


def test_a_gated_activation(at):
    everything(at(precision="bfloat16", dropout=0.1), "swiglu")


# -- planted ------------------------------------------------------------------------------------------------------


class Planted(nn.Module):
    """Adds a tensor that stayed on the CPU."""

    def forward(self, x):
        return x.relu() + torch.zeros(x.shape[-1])


def test_an_activation_with_a_tensor_on_the_cpu(at, monkeypatch):
    monkeypatch.setattr(activations, "_REGISTERED", {})
    activations.register_activation("planted", Planted)
    with pytest.raises(RuntimeError, match="device"):
        everything(at(), "planted")


def host_positions(self, idx):
    x = self.wte(idx) + self.wpe.weight.new_zeros(self.wpe.weight.shape, device="cpu")[: idx.shape[1]]
    return self.ln_f(x)


def host_batch(self, step):
    idx = torch.zeros(2, 4, dtype=torch.long)
    return idx, idx


@pytest.mark.parametrize(
    "place, name, planted",
    [(GPT, "hidden", host_positions), (Batches, "__call__", host_batch)],
    ids=["a model's table", "the batch"],
)
def test_a_tensor_on_the_cpu_is_caught(at, monkeypatch, place, name, planted):
    monkeypatch.setattr(place, name, planted)
    with pytest.raises((RuntimeError, NotImplementedError), match="device|meta"):
        everything(at(), "relu")
