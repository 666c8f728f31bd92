"""Which kernels a trial is computed with, and why. No torch: `tools/doctor.py` asks too."""

from __future__ import annotations

from config import Config, fast_bfloat16
from kernels import toolchain


def how_computed(config: Config) -> str:
    """One line: the precision and the kernels of training, and what they follow from.

    The rule: bfloat16 where it is fast, else float32. On the CPU, with one thread a trial and in bfloat16, the kernels
    of native.cpp where they can be compiled, else torch's. Every evaluation is in float32 with torch's.
    """
    where = "" if config.device == "cpu" else f" on {config.device}"
    return f"{config.precision}{where} with {_kernels(config)}: {_reason(config)}"


def _kernels(config: Config) -> str:
    if config.native:
        return "the kernels of native.cpp"
    return "kernels that torch.compile makes" if config.compile else "torch's kernels"


def _reason(config: Config) -> str:
    if config.native:
        return "a C++ compiler and fast bfloat16 are here"
    if config.compile:
        return "compile=True"
    fast = fast_bfloat16(config.device)
    if config.precision == "float32":
        return "precision=float32" if fast else "no fast bfloat16 on this processor"
    if not fast:
        return "precision=bfloat16"
    if config.device != "cpu":
        return "bfloat16 is fast there"
    if config.threads > 1:
        return f"those of native.cpp are for one thread, not {config.threads}"
    return toolchain.problem() or "native=False"
