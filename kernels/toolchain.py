"""The project's C++, `kernels/native.cpp` and `kernels/pairs.cpp`, compiled on the machine that runs it and loaded.

SmeLU's loops, the kernels of training and the pair sums come from here. Nothing is required: `Unavailable` says why
it can't be, and whoever asked goes on with torch's own operations. This module imports no torch.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
)
_CACHE = os.path.expanduser("~/.cache/activation-reproducibility")  # stays as it is for a user without a home
FOLDERS = (SOURCE.parent / "__pycache__", *(() if _CACHE.startswith("~") else (Path(_CACHE),)))

_built: dict[Path, Path | Unavailable] = {}  # in this process


class Unavailable(Exception):
    """A source can't be compiled or loaded here. One line says why."""


def library(source: Path | None = None) -> ctypes.CDLL:
    """The compiled library of a source (None: SOURCE), loaded. Raises as `build`."""
    return ctypes.CDLL(str(build(source)))


def build(source: Path | None = None) -> Path:
    """A compiled library that can be loaded. It is compiled when there is none yet for this source, compiler and
    processor, which takes two seconds, and kept beside the compiled Python code or, where that can't be, among the
    user's files. A damaged one is made anew. Raises Unavailable: there is no compiler, it fails, or no folder takes a
    library that can be loaded."""
    source = source or SOURCE
    if source not in _built:
        try:
            _built[source] = _find(source) or _make(source)
        except Unavailable as error:
            _built[source] = error
    if isinstance(_built[source], Unavailable):
        raise _built[source]
    return _built[source]


def problem() -> str | None:
    """Why `build` fails here, or None."""
    try:
        build()
    except Unavailable as error:
        return str(error)
    return None


def cpp_compiler() -> str | None:
    """The C++ compiler of this machine: the one that CXX names, or the first that is found."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, names) if path), None)


def compiler_version() -> str:
    """What the C++ compiler calls itself. Raises Unavailable."""
    compiler = cpp_compiler()
    if compiler is None:
        named = f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else "c++, g++ or clang++"
        raise Unavailable(f"there is no C++ compiler here ({named})")
    return _output([compiler, "--version"]).partition("\n")[0]


# The name holds what the library was made of, and its own checksum: one that was cut short would end the process.


def _stem(source: Path) -> str:
    made_of = "\0".join([source.read_text(encoding="utf-8"), compiler_version(), *FLAGS, _native()])
    return f"{source.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _try(path: Path) -> Path:
    """Loads the library and lets go of it: to stay it waits for torch, whose threads it then shares. Raises OSError."""
    _ctypes.dlclose(ctypes.CDLL(str(path))._handle)
    return path


def _find(source: Path) -> Path | None:
    stem = _stem(source)
    for folder in FOLDERS:
        for path in sorted(folder.glob(f"{stem}-*.so")):
            with contextlib.suppress(OSError):
                if path.name == f"{stem}-{_digest(path)}.so":
                    return _try(path)
                path.unlink()
    return None


def _make(source: Path) -> Path:
    stem, problems = _stem(source), []
    for folder in FOLDERS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
        except OSError as error:
            problems.append(f"can't write into {folder} ({error.strerror})")
            continue
        os.close(handle)
        made = Path(temporary)
        try:
            _compile(source, temporary)
            made.chmod(0o755)
            # at once: workers that begin together never see half of it
            return made.replace(folder / f"{stem}-{_digest(_try(made))}.so")
        except OSError as error:  # as on a file system without the right to execute
            problems.append(f"can't load a library from {folder} ({str(error).rpartition(': ')[2]})")
        finally:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
    raise Unavailable("; ".join(problems))


def _compile(source: Path, target: str) -> None:
    command = [cpp_compiler(), *FLAGS, "-o", target, str(source)]
    try:
        _output([*command, "-fopenmp"])
    except Unavailable:  # some compilers have no OpenMP; one thread then
        _output(command)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        words = next((line for line in said if "error" in line), said[0] if said else "no message")
        name = next((Path(word).name for word in command if word.endswith(".cpp")), SOURCE.name)
        raise Unavailable(f"{command[0]} can't compile {name}: {words}") from error


def cpuinfo(*keys: str) -> list[str]:
    """The lines of /proc/cpuinfo that begin with one of the keys; none elsewhere than on Linux."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return [line for line in file if line.startswith(keys)]
    return []


def processor() -> str:
    """What this machine's processor calls itself."""
    names = [line.partition(":")[2].strip() for line in cpuinfo("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _native() -> str:
    """What `native` in FLAGS stands for."""
    lines = cpuinfo("model name", "flags", "Features", "CPU part")
    return "".join(sorted(set(lines))) if lines else platform.processor() or platform.machine()
