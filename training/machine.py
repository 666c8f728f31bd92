"""The machine: torch's settings, its random streams and its clock, and what is recorded of it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import storage
from config import Config
from kernels import toolchain

# -- torch's settings ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def torch_settings(config: Config, threads: int | None = None) -> Iterator[None]:
    """The settings of torch under which a trial or an evaluation runs; the caller's are put back afterwards. `threads`
    instead of the config's: for an evaluation, which has the cores for itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or config.threads)
    try:
        if config.device.startswith("cuda"):  # plain CPU kernels are deterministic in any case
            with torch.cuda.device(config.device), kernels(config.deterministic):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def kernels(deterministic: bool) -> Iterator[None]:
    """float32 is float32, and kernels are those that give the same bits each time, if asked for."""
    # cuBLAS reads this when its handle is made: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, matmul, filling = torch.backends.cudnn, torch.backends.cuda.matmul, torch.utils.deterministic
    mode = torch.get_deterministic_debug_mode()
    settings = [
        (cudnn, "benchmark", False),  # it chooses kernels by their time
        (cudnn, "deterministic", deterministic),
        (cudnn, "allow_tf32", False),  # on unless turned off: LSTMs would be compared in 10 bits
        (matmul, "allow_tf32", False),
        # deterministic mode writes NaN into every new tensor: a pass over memory for each, to find reads of it
        (filling, "fill_uninitialized_memory", False),
    ]
    before = [getattr(module, name) for module, name, _ in settings]
    try:
        for module, name, value in settings:
            setattr(module, name, value)
        # not torch.use_deterministic_algorithms: it imports torch._dynamo, seconds, to set a flag of the compiler
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        for (module, name, _), value in zip(settings, before, strict=True):
            setattr(module, name, value)


# -- torch's random streams ----------------------------------------------------------------------------------------


def draw_from(seed: int, device: str) -> None:
    """Start torch's random streams, the CPU's and the device's, anew from a seed. torch.manual_seed would do it to all
    other GPUs too, whose streams are not ours to change. No device is waited for."""
    torch.default_generator.manual_seed(seed)
    kind, _, index = device.partition(":")
    if kind == "cuda":
        torch.cuda.default_generators[int(index or torch.cuda.current_device())].manual_seed(seed)
    elif kind == "mps":
        torch.mps.manual_seed(seed)


@contextlib.contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Puts torch's random streams, the CPU's and the device's, back afterwards as they were before."""
    kind = device.split(":")[0]
    devices = [] if kind == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if kind == "cpu" else kind):
        yield


# -- time, and the record ------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds of training alone. On the CPU with one thread it is the CPU time of that thread, which other load on
    the machine does not lengthen; otherwise wall-clock time with the device synchronised at both ends."""

    def __init__(self, config: Config):
        self.device = config.device
        alone = config.device == "cpu" and config.threads == 1
        self.clock = time.thread_time if alone else time.perf_counter
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._synchronise()
        start = self.clock()
        yield
        self._synchronise()
        self.seconds += self.clock() - start

    def _synchronise(self):
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        elif self.device == "mps":
            torch.mps.synchronize()


def environment(config: Config) -> dict:
    """Versions and machine: what a reader needs to know to repeat the numbers."""
    git = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    commit, device_name, libraries = "", toolchain.processor(), {}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        commit = subprocess.run(git, capture_output=True, encoding="ascii", errors="replace", timeout=5).stdout.strip()
    if config.device.startswith("cuda"):
        device_name = torch.cuda.get_device_name(config.device)
        libraries = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str that weights_only refuses
        "numpy": np.__version__,
        **libraries,
        "platform": platform.platform(),
        "device": config.device,
        "device_name": device_name,
        "cpu_cores": os.cpu_count(),
        "threads": config.threads,
        "precision": config.precision,
        "deterministic": config.deterministic,
        "computed": config.how_computed(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "compiler": toolchain.compiler_version() if config.native else None,
        "native_cpp_sha256": storage.sha256_file(toolchain.SOURCE) if config.native else None,
        "git_commit": commit or None,
    }
