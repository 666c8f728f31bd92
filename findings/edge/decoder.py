"""Decoders of the second study: a base, and what becomes of it after a small difference or on other arithmetic."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import storage
from config import Config
from prepare_data import Corpus, load_corpus
from training.machine import own_randomness, torch_settings
from training.trial import Training

NETWORKS = {
    "small": {"n_layer": 2, "n_head": 2, "n_embd": 64},
    "quick": {},
    "wide": {"n_layer": 2, "n_head": 2, "n_embd": 128},
}
WARMUP = 130
LIBRARY = "the source of Python's standard library"


def config_of(cell: dict, seed: int, folder: str, **changes) -> Config:
    """The settings of a cell. `changes`: what its twin has otherwise."""
    settings = {
        "learning_rate": cell["rate"],
        "max_iters": cell.get("steps", 650),
        "precision": cell.get("precision", "float32"),
        "native": cell.get("native", False),
        "vary": ("bit",),
        **NETWORKS[cell["model"]],
        **({"dataset": _place(cell["dataset"])} if "dataset" in cell else {}),
        **changes,
    }
    return Config(preset="quick", seed_base=seed, device="cpu", data_dir=folder, **settings)


def _place(dataset: str) -> str:
    """Where a corpus lies here; a record names it alone, since it lies elsewhere on another machine."""
    return f"{sysconfig.get_paths()['stdlib']}/*.py" if dataset == LIBRARY else dataset


def measured_steps(steps: int, warmup: int) -> list[int]:
    """After which steps weights are compared: the first few, the end of warm-up and from there on by √2, the half."""
    later = [round(warmup * 2 ** (k / 2)) for k in range(40)]
    return sorted({0, 1, 8, 32, steps // 2, steps, *(step for step in later if step < steps)})


# -- differences to begin with ------------------------------------------------------------------------------------


def _noise(power: int) -> Callable[[Training], None]:
    """Normal noise on every weight matrix, of 2^power of its standard deviation."""

    def change(training: Training) -> None:
        rng = np.random.Generator(np.random.Philox(key=np.array([training.config.seed_base, -power], np.uint64)))
        for weights in training.optimiser.weights:
            if weights.ndim >= 2:
                noise = torch.from_numpy(rng.standard_normal(weights.shape, np.float32))
                weights += noise * (float(weights.std()) * 2.0**power)
        training.optimiser.use_working_weights()

    return change


def _example(training: Training) -> None:
    """One window of the first batch is another one, from a batch after the last."""
    batches = training.batches

    def changed(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = (part.clone() for part in batches(step))
        if step == 0:
            other_x, other_y = batches(training.steps)
            x[0], y[0] = other_x[0], other_y[0]
        return x, y

    training.batches = changed


def _reversed(training: Training) -> None:
    batches = training.batches
    training.batches = lambda step: tuple(part.flip(0) for part in batches(step))


def _halves(training: Training) -> None:
    whole = training.loss
    training.objective = lambda model, x, y: (
        sum(whole(model, a, b) for a, b in zip(x.chunk(2), y.chunk(2), strict=True)) / 2
    )


# of each: the settings that differ, the number of the trial, what is done to the training before its first step
Change = tuple[dict, int, Callable[[Training], None] | None]
BIT: Change = ({}, 2, None)
RUNGS: dict[str, Change] = {
    "bit": BIT,
    "noise 2^-20": ({}, 1, _noise(-20)),
    "noise 2^-10": ({}, 1, _noise(-10)),
    "example": ({}, 1, _example),
    "order": ({"vary": ("order",)}, 2, None),
    "weights": ({"vary": ("init",)}, 2, None),
    "all": ({"vary": ("init", "order")}, 2, None),
}
MACHINES: dict[str, Change] = {
    "two threads": ({"threads": 2}, 1, None),
    "AVX2 in ATen": ({}, 1, None),
    "AVX2": ({}, 1, None),
    "order of sums": ({}, 1, _reversed),
    "kernels": ({"native": True}, 1, None),
    "bfloat16": ({"precision": "bfloat16"}, 1, None),
    "bfloat16 kernels": ({"precision": "bfloat16", "native": True}, 1, None),
    "halves": ({}, 1, _halves),
}
ENVIRONMENTS = {  # those that a process must begin with
    "AVX2 in ATen": {"ATEN_CPU_CAPABILITY": "avx2"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
KINDS = {"twins": {"bit": BIT}, "ladder": RUNGS, "machines": MACHINES, "base": {}}
SETTINGS = ("model", "activation", "rate", "steps", "precision", "native", "dataset")  # of a cell


# -- training -----------------------------------------------------------------------------------------------------


def trained(cell: dict, seed: int, folder: str, change: Change, look: Callable[[int, torch.Tensor], None]) -> Training:
    """Train one model; `look` sees its weights at `measured_steps`."""
    settings, trial, prepare = change
    config = config_of(cell, seed, folder, **settings)
    corpus = load_corpus(config)
    with torch_settings(config), own_randomness(config.device):
        training = Training(config, cell["activation"], trial, corpus)
        if prepare:
            with torch.no_grad():
                prepare(training)
        training.model.train()
        due = measured_steps(training.steps, WARMUP)
        look(0, training.optimiser.master)
        while training.step < training.steps:
            training.advance()
            if training.step in due:
                look(training.step, training.optimiser.master)
    return training


def predictions(training: Training) -> tuple[np.ndarray, float]:
    """Of the model as it is now, on the probe: the distributions (positions, V) float64, computed in float64 from the
    float32 weights, and the mean loss in nats."""
    corpus: Corpus = training.corpus
    training.optimiser.use_master_weights()
    model = copy.deepcopy(training.model).double().eval()
    training.optimiser.use_working_weights()
    length = training.config.block_size
    windows = np.stack([corpus.val[a : a + length + 1] for a in training.probe_starts]).astype(np.int64)
    x, y = torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:])
    with torch.no_grad():
        logs = torch.log_softmax(model(x), -1)
    loss = -logs.gather(-1, y[..., None]).mean()
    return logs.exp().flatten(0, 1).numpy(), float(loss)


def pd(p: np.ndarray, q: np.ndarray) -> float:
    """The mean total variation between (N, V) distributions."""
    return float(np.abs(p - q).sum(1).mean() / 2)


def record(cell: dict, seed: int, folder: str) -> tuple[dict, np.ndarray]:
    """Train a base and all that is set against it; the record, and the base's predictions."""
    began = time.thread_time()
    path: list[tuple[int, torch.Tensor]] = []
    base = trained(cell, seed, folder, ({}, 1, None), lambda step, w: path.append((step, w.clone())))
    p, loss = predictions(base)
    twins = {}
    for name, change in KINDS[cell["kind"]].items():
        if name in ENVIRONMENTS:
            twins[name] = _elsewhere(cell, seed, folder, name, p)
            continue
        distances = []
        weights = dict(path)

        def compare(step: int, w: torch.Tensor, weights=weights, distances=distances) -> None:
            distances.append(float(torch.linalg.vector_norm((w - weights[step]).double())))

        twin = trained(cell, seed, folder, change, compare)
        twins[name] = _result(twin, p)
        if name == "bit":
            norms = [float(torch.linalg.vector_norm(w.double())) for _, w in path]
            twins[name] |= {"steps": [step for step, _ in path], "distances": distances, "norms": norms}
    return {
        **cell,
        "seed": seed,
        "loss": loss,
        "weights_sha256": storage.contents_sha256(base.weights()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "twins": twins,
        "seconds": time.thread_time() - began,
    }, p


def _result(training: Training, base: np.ndarray) -> dict:
    q, loss = predictions(training)
    value = pd(base, q) if math.isfinite(loss) else math.inf
    return {"pd": value, "loss": loss, "weights_sha256": storage.contents_sha256(training.weights())}


def _elsewhere(cell: dict, seed: int, folder: str, name: str, base: np.ndarray) -> dict:
    """The same training in a process that begins with other instructions of the processor."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        np.save(Path(place) / "base.npy", base)
        job = {"cell": cell, "seed": seed, "folder": folder, "name": name, "place": place}
        environment = {**os.environ, **ENVIRONMENTS[name]}
        runner = Path(__file__).with_name("compute.py")
        subprocess.run([sys.executable, runner, "--alone", json.dumps(job)], env=environment, check=True)
        return json.loads((Path(place) / "result.json").read_text(encoding="utf-8"))


def alone(job: dict) -> None:
    """What `_elsewhere` starts."""
    place = Path(job["place"])
    training = trained(job["cell"], job["seed"], job["folder"], MACHINES[job["name"]], lambda step, w: None)
    result = _result(training, np.load(place / "base.npy"))
    result["capability"] = torch.backends.cpu.get_cpu_capability()
    (place / "result.json").write_text(json.dumps(result), encoding="utf-8")
