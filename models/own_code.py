"""The code behind a model or activation of the user's own, by checksum.

The fingerprint covers the path `module:function`, not what the module says. Trials therefore record a sha256 of it, and
are not mixed with trials of other code. A module counts as a whole: the one that the path names, and the one in which
the function is defined where that is another. What they import in turn is not looked at.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import activations
import storage
from config import Config

Checksums = dict[str, dict[str, str | None]]  # {"model" or "activation": {module: sha256, None where it has no source}}

# What was read stays: the code that runs is what was loaded, whatever becomes of its file while trials train.
_known: dict[str, tuple[object, str | None]] = {}  # name -> (what it was read of, sha256)


def checksums(config: Config, activation: str) -> Checksums:
    """{"model": {module: sha256}, "activation": {module: sha256}}, each left out where it is one of the project's own.

    For an activation that was registered in this process it is {name: sha256 of the function's or class's source}. None
    stands where there is no source to be had, as for a function typed into a REPL.

    Raises:
        UserError: the module can't be imported, or there is no such function in it.
    """
    import model

    found: Checksums = {}
    if config.model not in model.MODELS:
        found["model"] = _of_path(config.model, model.import_function(config.model, "model"))
    function = activations.own_function(activation)
    if function is not None:
        if activations.importable(activation):
            found["activation"] = _of_path(activation, function)
        else:
            key = f"registered {activation}"
            found["activation"] = {activation: _remembered(key, function, lambda: inspect.getsource(function).encode())}
    return found


def differences(there: Mapping | None, now: Mapping | None) -> Iterator[tuple[str, str, str, str]]:
    """(model or activation, module, sha256 there, sha256 now) of what both know, and know differently."""
    for what, modules in (there or {}).items():
        for module, theirs in modules.items():
            mine = (now or {}).get(what, {}).get(module)
            if theirs and mine and theirs != mine:
                yield what, module, theirs, mine


def _of_path(path: str, function: Callable) -> dict[str, str | None]:
    name = path.partition(":")[0]
    modules = {name: sys.modules[name]}
    if inspect.isroutine(function) or inspect.isclass(function):  # of an object it is the module of its class
        home = getattr(function, "__module__", None)
        if home in sys.modules:
            modules[home] = sys.modules[home]
    return {
        name: _remembered(f"module {name}", getattr(module, "__spec__", None), lambda m=module: _source(m))
        for name, module in modules.items()
    }


def _source(module: ModuleType) -> bytes:
    file = getattr(module, "__file__", None)
    return Path(file).read_bytes() if file and os.path.isfile(file) else inspect.getsource(module).encode()


def _remembered(name: str, witness: object, read: Callable[[], bytes]) -> str | None:
    """The sha256 of what `read` gave when `witness` was first seen: a reloaded module has a new specification."""
    if name not in _known or _known[name][0] is not witness:
        try:
            _known[name] = witness, storage.sha256_bytes(read())
        except (OSError, TypeError):  # as inspect says that there is no source
            _known[name] = witness, None
    return _known[name][1]
