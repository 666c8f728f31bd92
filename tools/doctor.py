"""What this machine has, what will be chosen for it and why, and what would make it faster.

    python tools/doctor.py
    python tools/doctor.py --threads 2 --device cpu       what follows for these settings

It takes any setting of train.py, trains nothing, and writes nothing but the kernels where they are not compiled yet.
torch is imported only where a GPU has to be asked about.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: the project's folder, not this one, is where its modules are
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cli as streams
from config import PACKAGES, Config, Parser, add_arguments, fast_bfloat16, from_args, option
from kernels import toolchain
from training import pool

OPTIONAL = {
    "datasets": "reads corpora of the Hugging Face Hub, and brings what reads parquet and zstd",
    "transformers": "is given trained models by tools/export.py",
    "tensorboard": "is needed for --tensorboard",
    "tokenizers": "trains the tokenizer bpe",
}


def machine() -> dict[str, str]:
    """{what: what there is}, in the order in which it is shown."""
    return {
        "system": platform.platform(),
        "processor": toolchain.processor(),
        "cores": f"{pool.usable_cores()} of {os.cpu_count()} may be used",
        "fast bfloat16": "yes" if fast_bfloat16("cpu") else "no",
        "memory": _memory(),
        "compiler": toolchain.problem() or f"{toolchain.compiler_version()}: native.cpp can be compiled and loaded",
        "Python": platform.python_version(),
        **{name: _version(name) or "not installed" for name in (*PACKAGES, *OPTIONAL)},
        "output": f"{sys.stdout.encoding}; names of files in {sys.getfilesystemencoding()}",
    }


def advice(config: Config) -> list[str]:
    """What would make training faster or is missing, most important first."""
    said = []
    if config.device == "cpu":
        said.append("a GPU that torch can use trains larger models many times faster; none is used here")
        if not fast_bfloat16("cpu"):
            said.append("a processor with AVX-512 bfloat16 or AMX would train in bfloat16, which is faster")
        elif toolchain.problem():
            said.append(f"a C++ compiler would bring the kernels of native.cpp: {toolchain.problem()}")
        elif not config.native and config.precision == "bfloat16":
            said.append(f"{option('native')} with one thread a trial would use the kernels of native.cpp")
    return said + [f"{name} {use}; it is not installed" for name, use in OPTIONAL.items() if not _version(name)]


def print_report(config: Config) -> None:
    at_once = pool.at_once(config, config.trials_per_activation)
    chosen = {
        "preset": config.preset,
        "device": config.device,
        "computed": config.how_computed(),
        "side by side": f"{at_once} of {config.trials_per_activation} trials, threads for each: {config.threads}",
    }
    for title, rows in (("This machine", machine()), ("What is chosen", chosen)):
        print(title, *(f"  {name:14} {value}" for name, value in rows.items()), "", sep="\n")
    print("What would help", *(f"  {line}" for line in advice(config) or ["nothing that is known of"]), sep="\n")


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE") / 2**30
        return f"{os.sysconf('SC_PHYS_PAGES') * page:.1f} GiB, {os.sysconf('SC_AVPHYS_PAGES') * page:.1f} GiB free"
    except (OSError, ValueError, AttributeError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "without a version" if importlib.util.find_spec(package) else None


@streams.answers("doctor.py")
def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done, 2 wrong input."""
    parser = Parser(prog="doctor.py", description="What this machine has, what will be chosen and why.")
    add_arguments(parser)
    print_report(from_args(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main))
