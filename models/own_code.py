"""Code of the user's own: models and activations by import path `module:function`, and what they were by checksum.

The fingerprint covers the path, not what the module says. Trials therefore record a sha256 of it, and are not mixed
with trials of other code. A module counts as a whole: the one that the path names, and the one in which the function is
defined where that is another. What they import in turn is not looked at.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import storage
from config import UserError

# -- imported -----------------------------------------------------------------------------------------------------


def is_path(name: str) -> bool:
    """Whether the name has the form `module:function`."""
    module, _, function = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *function.split(".")))


def import_function(path: str, what: str) -> Callable:
    """The function or class at `module:function`; modules in the current folder are found too. `what` is the setting in
    the message of an error.

    Raises:
        UserError: the module can't be imported, or has no function of that name.
    """
    if not is_path(path):
        raise UserError(f"{what}={path!r}: an import path has the form package.module:function")
    module, _, names = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the module is the user's: importing it can raise anything
        raise UserError(f"{what}={path!r}: can't import {module} ({one_line(error)})") from error
    for name in names.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            raise UserError(f"{what}={path!r}: no {name} in it" + (f"; did you mean {near[0]}?" if near else ""))
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{what}={path!r}: must be a function or class, not {kind(found)}")
    return found


def one_line(error: Exception) -> str:
    """An exception as part of a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def kind(thing) -> str:
    return f"a value of type {type(thing).__name__}"


# -- its checksums ------------------------------------------------------------------------------------------------

Checksums = dict[str, dict[str, str | None]]  # {"model" or "activation": {module: sha256, None where it has no source}}

# What was read stays: the code that runs is what was loaded, whatever becomes of its file while trials train.
_known: dict[str, tuple[object, str | None]] = {}  # name -> (what it was read of, sha256)


def checksums(own: Mapping[str, tuple[str, Callable]]) -> Checksums:
    """From {"model" or "activation": (name, function)}, {"model" or "activation": {module: sha256}}.

    Where the name is no import path, as of an activation that was registered in this process, it is {name: sha256 of
    the function's or class's source}. None stands where there is no source to be had, as for a function typed into a
    REPL.
    """
    return {what: _of_path(*found) if ":" in found[0] else _of_source(*found) for what, found in own.items()}


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


def _of_source(name: str, function: Callable) -> dict[str, str | None]:
    return {name: _remembered(f"registered {name}", function, lambda: inspect.getsource(function).encode())}


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
