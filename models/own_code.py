"""Code of the user's own: models and activations by import path `module:function`, and what they were by checksum.

A module of the current folder is loaded from there; one that is named as a module of this project or of Python is
refused, since either could be meant. The fingerprint covers the path, not what the code says. Trials therefore record
a sha256 of it, and are not mixed with trials of other code: of the function's own source, comments and docstrings
left out, and of what it uses in its file. What that file imports is not looked at.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import storage
from config import UserError

OURS = (
    "activations analysis analyze_results audit cli compare config corpora kernels measures metrics model models "
    "plot_utils plotting prepare_data questions significance storage tokenizer tools train training"
).split()
ROOT = Path(__file__).resolve().parent.parent

# -- imported -----------------------------------------------------------------------------------------------------


def is_path(name: str) -> bool:
    """Whether the name has the form `module:function`."""
    module, _, function = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *function.split(".")))


def import_function(path: str, setting: str) -> Callable:
    """The function or class at `module:function`, of a module of the current folder or an installed one. `setting` is
    named in the message of an error. Raises UserError: the module's name is taken, it can't be imported, or has no
    function of that name."""
    if not is_path(path):
        raise UserError(f"{setting}={path!r}: {meant(path)}an import path has the form package.module:function")
    module, _, names = path.partition(":")
    if hint := meant(path):
        raise UserError(f"{setting}={path!r}: a module is named without .py; {hint.rstrip()}")
    _refuse_taken(module.partition(".")[0], f"{setting}={path!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for what the user's module imports beside it
    try:
        _load_from_current_folder(module.partition(".")[0])
        thing = importlib.import_module(module)
    except Exception as error:  # the module is the user's: importing it can raise anything
        raise UserError(f"{setting}={path!r}: can't import {module} ({one_line(error)})") from error
    _source(thing)  # as it is loaded, whatever becomes of the file
    for name in names.split("."):
        if not hasattr(thing, name):
            near = difflib.get_close_matches(name, dir(thing), n=1)
            raise UserError(f"{setting}={path!r}: no {name} in it" + (f"; did you mean {near[0]}?" if near else ""))
        thing = getattr(thing, name)
    if not callable(thing):
        raise UserError(f"{setting}={path!r}: must be a function or class, not {kind(thing)}")
    return thing


def meant(name: str) -> str:
    """'did you mean mine:Mine? ' for `mine`, `mine.py`, `mine.Mine` and `mine.py:Mine` beside a mine.py; else ''."""
    parts = re.fullmatch(r"(\w+)(\.py)?(?:([.:])(\w+))?", name)
    if not parts or (parts[3] == ":" and not parts[2]):
        return ""
    try:
        tree = ast.parse(Path(f"{parts[1]}.py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    names = [name for name in names if not name.startswith("_")]
    near = [parts[4]] if parts[4] in names else difflib.get_close_matches(parts[4] or parts[1], names, 1, 0.3)
    guess = " or ".join(f"{parts[1]}:{name}" for name in near or names[:3])
    return f"did you mean {guess}? " if guess else ""


def _own_file(module: str) -> Path | None:
    """The file of a module, or of a package's beginning, in the current folder, where that isn't the project's."""
    folder = Path.cwd()
    files = (folder / f"{module}.py", folder / module / "__init__.py")
    return next((file for file in files if file.is_file() and folder != ROOT), None)


def _refuse_taken(module: str, setting: str) -> None:
    file = _own_file(module)
    taken = "a module of this project" if module in OURS else file and module in sys.stdlib_module_names and "Python's"
    if taken:
        where = f"{file} is named as {taken}" if file else f"{module} is {taken}, not yours"
        raise UserError(f"{setting}: {where}; rename yours, for example my_{module}.py")
    if not file:
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it will say so
    for name in sorted(set(_imported(tree)) & set(OURS)):
        if also := _own_file(name):
            raise UserError(
                f"{setting}: {file.name} imports {name}, and {also} is named as a module of this project; rename "
                f"yours, for example my_{name}.py"
            )


def _imported(tree: ast.AST) -> Iterator[str]:
    """The names before the first dot of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _load_from_current_folder(name: str) -> None:
    file = _own_file(name)
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if file is None or (loaded and os.path.realpath(loaded) == os.path.realpath(file)):
        return
    spec = importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def one_line(error: Exception) -> str:
    """An exception as part of a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def kind(thing) -> str:
    return f"a value of type {type(thing).__name__}"


# -- its checksums ------------------------------------------------------------------------------------------------

Checksums = dict[str, dict[str, str | None]]  # {"model" or "activation": {name: sha256, None where it has no source}}

# What was read stays: the code that runs is what was loaded, whatever becomes of its file while trials train.
_sources: dict[str, tuple[object, str | None]] = {}  # name -> (what it was read of, its source)


def checksums(own: Mapping[str, tuple[str, Callable]]) -> Checksums:
    """From {"model" or "activation": (name, function)}, {"model" or "activation": {name: sha256 of its code}}.

    The names are `module:function`, of where the path points and of where the function is defined; or that of an
    activation that was registered in this process. None stands where there is no source to be had, as for a function
    typed into a REPL.
    """
    return {part: (_of_path if ":" in name else _of_source)(name, code) for part, (name, code) in own.items()}


def differences(recorded: Mapping | None, now: Mapping | None) -> Iterator[tuple[str, str, str, str]]:
    """(model or activation, name, sha256 there, sha256 now) of what both know, and know differently."""
    for role, names in (recorded or {}).items():
        for name, theirs in names.items():
            mine = (now or {}).get(role, {}).get(name)
            if theirs and mine and theirs != mine:
                yield role, name, theirs, mine


def _of_path(path: str, function: Callable) -> dict[str, str | None]:
    places = [path]
    if inspect.isroutine(function) or inspect.isclass(function):  # an object is what its module says it is
        places.append(f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', '')}")
    sums = {}
    for place in dict.fromkeys(places):
        module, _, name = place.partition(":")
        if module in sys.modules:
            code = code_of(_source(sys.modules[module]), name.partition(".")[0])
            sums[place] = None if code is None else storage.sha256_bytes(code.encode())
    return sums


def _of_source(name: str, function: Callable) -> dict[str, str | None]:
    code = _remembered(f"registered {name}", function, lambda: inspect.getsource(function))
    home, at = sys.modules.get(getattr(function, "__module__", None)), getattr(function, "__qualname__", "")
    if code is not None:
        here = home and getattr(home, at, None) is function
        code = code_of(_source(home), at) if here and _source(home) else code_of(code, None)
    return {name: None if code is None else storage.sha256_bytes(code.encode())}


def code_of(source: str | None, name: str | None) -> str | None:
    """The code behind a name at the top of a module: the statements that define it, those that define what they use,
    and so on, without comments and docstrings. The whole source where it has no such name; None without a source.
    """
    try:
        tree = ast.parse(textwrap.dedent(source or ""))
    except (SyntaxError, ValueError):
        return source
    if source is None:
        return None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            docstring = isinstance(body[0], ast.Expr) and isinstance(getattr(body[0].value, "value", None), str)
            node.body = (body[1:] or [ast.Pass()]) if docstring else body
    statements = [n for n in tree.body if not (isinstance(n, ast.If) and "__name__" in _names(n.test, ast.Load))]
    bound, used = ([set(_names(node, context)) for node in statements] for context in (ast.Store, ast.Load))
    chosen = {i for i, names in enumerate(bound) if name in names}
    if not chosen:
        return ast.unparse(tree)
    before = None
    while before != chosen:
        before, wanted = set(chosen), set().union(*(bound[i] | used[i] for i in chosen))
        defined = set().union(*bound) & wanted
        # also what changes such a thing: TABLE["mine"] = 1, Mine.forward = other, TABLE.update(…)
        chosen |= {i for i in range(len(statements)) if bound[i] & wanted or not bound[i] and used[i] & defined}
    return "\n".join(ast.unparse(statements[i]) for i in sorted(chosen))


def _names(statement: ast.AST, context: type) -> Iterator[str]:
    """The names that a statement at the top of a module binds (Store) or uses (Load)."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if context is ast.Store and isinstance(statement, inner):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            yield node.id
        elif context is ast.Store and isinstance(node, inner):
            yield node.name
        elif context is ast.Store and isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


def _source(module: ModuleType) -> str | None:
    def read():
        file = getattr(module, "__file__", None)
        is_source = file and file.endswith(".py") and os.path.isfile(file)
        return Path(file).read_text(encoding="utf-8") if is_source else inspect.getsource(module)

    return _remembered(f"module {module.__name__}", getattr(module, "__spec__", None), read)


def _remembered(name: str, witness: object, read: Callable[[], str]) -> str | None:
    """What `read` gave when `witness` was first seen: a reloaded module has a new specification."""
    if name not in _sources or _sources[name][0] is not witness:
        try:
            _sources[name] = witness, read()
        except (OSError, TypeError, UnicodeDecodeError):  # as inspect says that there is no source
            _sources[name] = witness, None
    return _sources[name][1]
