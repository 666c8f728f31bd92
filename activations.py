"""The activation functions: one registry of names, with what is known about each function.

    make_activation("smelu_05")     a new module
    get_info("smelu_05")            formula, smoothness, source, …
    list_activations()              all that have a name of their own
    register_activation("mine", MyModule, smoothness="C1")

Besides these there are `smelu_<β>` for any β, and one's own function by its import path, `package.module:function`.

Importing this module does not import torch: charts, reports and `--help` need no more than the names.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from config import UserError, option
from models.own_code import import_function, is_path, kind, meant, one_line

STUDY = ("smelu_05", "smelu_1", "relu", "gelu", "swish")

SMOOTHNESS = ("C0", "C1", "C2", "C∞", "unknown")  # the derivatives up to this order are continuous


@dataclass(frozen=True)
class ActivationInfo:
    """What is known about an activation without building it."""

    name: str  # as asked for: results, checkpoints and plots go by it
    label: str  # for charts and tables
    formula: str
    smoothness: str  # one of SMOOTHNESS; that of the gate, for a gated activation
    smooth: bool | None  # differentiable everywhere? None: not known
    source: str
    gated: bool = False  # the model multiplies activation(one half of its hidden layer) by the other half
    beta: float | None = None  # β of SmeLU, 0 for ReLU, its limit; None for anything else
    same_as: str | None = None  # another name of this very function, the one to prefer


Factory = Callable[[], object]  # makes a new torch.nn.Module

_BUILT_IN: dict[str, tuple[ActivationInfo, Factory]] = {}
_REGISTERED: dict[str, tuple[ActivationInfo, Callable]] = {}

# -- the functions ------------------------------------------------------------------------------------------------
# The factories import torch when they are called.

SHAMIR = "Shamir, Lin & Coviello 2020 (arXiv 2010.09931); Shamir & Lin 2022 (arXiv 2202.06499)"
HENDRYCKS = "Hendrycks & Gimpel 2016 (arXiv 1606.08415)"
ELFWING = "Elfwing, Uchibe & Doya 2017 (arXiv 1702.03118)"
SHAZEER = "Shazeer 2020 (arXiv 2002.05202)"
RAMACHANDRAN = "Ramachandran, Zoph & Le 2017 (arXiv 1710.05941)"
CLEVERT = "Clevert, Unterthiner & Hochreiter 2015 (arXiv 1511.07289)"


def _nn(class_name: str, *args, **kwargs) -> Factory:
    return lambda: getattr(importlib.import_module("torch.nn"), class_name)(*args, **kwargs)


def _smelu(beta: float) -> Factory:
    return lambda: importlib.import_module("models.smelu").SmeLU(beta)


def relu_squared(x):
    return x.relu().square()


def _relu2():
    from models.smelu import Elementwise

    return Elementwise(relu_squared)


def _add(name, label, formula, smoothness, source, factory, **more) -> None:
    _BUILT_IN[name] = ActivationInfo(name, label, formula, smoothness, smoothness != "C0", source, **more), factory


def _decimal(number: float) -> str:
    """The shortest decimal spelling, without an exponent or a negative zero: it goes into names."""
    return f"{number + 0.0:.12f}".rstrip("0").rstrip(".")


def _smelu_entry(name: str, beta: float) -> tuple[ActivationInfo, Factory]:
    b = _decimal(beta)
    preferred = "smelu_05" if beta == 0.5 else f"smelu_{b}"
    info = ActivationInfo(
        name,
        f"SmeLU β={b}",
        f"0 for x ≤ −β, (x+β)²/4β between, x for x ≥ β; β = {b}",
        "C1",
        True,
        SHAMIR,
        beta=beta,
        same_as=preferred if preferred != name else None,
    )
    return info, _smelu(beta)


_BUILT_IN["smelu_05"] = _smelu_entry("smelu_05", 0.5)
_BUILT_IN["smelu_1"] = _smelu_entry("smelu_1", 1.0)
_add("relu", "ReLU", "max(0, x)", "C0", "Nair & Hinton 2010 (ICML)", _nn("ReLU"), beta=0.0)
_add("gelu", "GELU", "x Φ(x)", "C∞", HENDRYCKS, _nn("GELU"))
_add("swish", "Swish", "x σ(x)", "C∞", f"{RAMACHANDRAN}; {ELFWING}", _nn("SiLU"))
_BUILT_IN["smelu_0.25"] = _smelu_entry("smelu_0.25", 0.25)
_BUILT_IN["smelu_2"] = _smelu_entry("smelu_2", 2.0)
_add("silu", "SiLU", "x σ(x)", "C∞", ELFWING, _nn("SiLU"), same_as="swish")
GELU_TANH = "x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2"
_add("gelu_tanh", "GELU (tanh)", GELU_TANH, "C∞", HENDRYCKS, _nn("GELU", approximate="tanh"))
_add("mish", "Mish", "x tanh(ln(1 + eˣ))", "C∞", "Misra 2019 (arXiv 1908.08681)", _nn("Mish"))
_add("softplus", "Softplus", "ln(1 + eˣ)", "C∞", "Dugas et al. 2001 (NIPS 13)", _nn("Softplus"))
_add("elu", "ELU", "x for x > 0, eˣ − 1 for x ≤ 0", "C1", CLEVERT, _nn("ELU"))
LEAKY = "x for x > 0, 0.01 x for x ≤ 0"
_add("leaky_relu", "Leaky ReLU", LEAKY, "C0", "Maas, Hannun & Ng 2013 (ICML workshop)", _nn("LeakyReLU", 0.01))
_add("relu2", "ReLU²", "max(0, x)²", "C1", "So et al. 2021 (arXiv 2109.08668)", _relu2)
_add("tanh", "tanh", "tanh x", "C∞", "LeCun et al. 1998 (Efficient BackProp)", _nn("Tanh"))
_add("swiglu", "SwiGLU", "SiLU(xW) ⊙ xV", "C∞", SHAZEER, _nn("SiLU"), gated=True)
_add("geglu", "GEGLU", "GELU(xW) ⊙ xV", "C∞", SHAZEER, _nn("GELU"), gated=True)
_add("reglu", "ReGLU", "ReLU(xW) ⊙ xV", "C0", SHAZEER, _nn("ReLU"), gated=True)
SMEGLU = f"{SHAZEER}, with the gate of {SHAMIR}"
_add("smeglu", "SmeGLU β=0.5", "SmeLU(xW) ⊙ xV; β = 0.5", "C1", SMEGLU, _smelu(0.5), gated=True)

# -- names that are not in a list ---------------------------------------------------------------------------------

FAMILIES = {
    "smelu_<β>": "SmeLU of any β from 1e-6 to 1e6: smelu_0.25, smelu_2",
    "module:function": "your own, by its import path: a function of a tensor, or a class or maker of modules",
}

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d{1,12})?", re.ASCII)


def _smelu_by_number(name: str) -> tuple[ActivationInfo, Factory] | None:
    family, _, number = name.partition("_")
    if family != "smelu" or not any(character.isdigit() for character in number):
        return None
    if not _NUMBER.fullmatch(number):
        hint = f" ('smelu_0.{number[1:]}'?)" if re.fullmatch(r"0\d+", number) else ""
        raise UserError(f"activation {name!r}: {number!r} is not a plain decimal number such as 0.25{hint}")
    beta = float(number)
    if not 1e-6 <= beta <= 1e6:
        raise UserError(f"activation {name!r}: β must be from 1e-6 to 1e6, not {number} (the limit at 0 is relu)")
    return _smelu_entry(name, beta)


# -- one's own ----------------------------------------------------------------------------------------------------

_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*", re.ASCII)  # no "--": it stands for ":" in file names
_LONGEST_NAME = 80
_RESERVED = re.compile(r"all|(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # the last ones can't be files on Windows


def register_activation(
    name: str,
    factory: Callable,
    *,
    label: str | None = None,
    formula: str | None = None,
    smoothness: str = "unknown",
    source: str = "user",
    gated: bool = False,
    overwrite: bool = False,
) -> ActivationInfo:
    """Give an activation of one's own a name, for this process.

    Args:
        name: lower-case letters, digits, '_', '.' and single '-': it becomes part of file names.
        factory: a class of torch.nn.Module, or a function without arguments that makes a new module each time, or a
            plain function of one tensor.
        smoothness: one of SMOOTHNESS. From C1 on the function counts as smooth.
        gated: what the factory makes is the function of the gate.
        overwrite: replace an earlier registration of this name.

    Raises:
        UserError: the name can't be a file's or is taken, or another argument is not as above.
    """
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UserError(
            f"activation name {name!r} becomes part of file names: use lower-case letters, digits, '_', '.' and single "
            f"'-', begin with a letter or digit, and take at most {_LONGEST_NAME} characters"
        )
    if name in _BUILT_IN or name.startswith("smelu_") or _RESERVED.fullmatch(name):
        raise UserError(f"activation name {name!r} is taken or reserved; choose another, such as 'my_{name}'")
    if name in _REGISTERED and not overwrite:
        raise UserError(f"activation {name!r} is registered already; overwrite=True replaces it")
    if not callable(factory):
        raise UserError(f"activation {name!r}: the factory must be a function or a class, not {factory!r}")
    if smoothness not in SMOOTHNESS:
        raise UserError(f"activation {name!r}: smoothness must be one of {', '.join(SMOOTHNESS)}, not {smoothness!r}")
    info = ActivationInfo(name, label or name, formula or f"({name})", smoothness, _smooth(smoothness), source, gated)
    _REGISTERED[name] = info, factory
    return info


def _smooth(smoothness: str) -> bool | None:
    return None if smoothness == "unknown" else smoothness != "C0"


def _make_own(name: str, factory: Callable, precision: str):
    """A module from a class, a maker of modules or a plain function, tried out on a few numbers."""
    from torch import nn

    from models.smelu import Elementwise

    if isinstance(factory, nn.Module):
        raise UserError(
            f"activation {name!r} is a module already made; give its class, or a function that makes a new one each "
            "time: layers and trials must not share a module"
        )
    try:
        if inspect.isclass(factory) or not _takes_argument(factory):
            module = factory()
            if not isinstance(module, nn.Module):
                raise UserError(f"activation {name!r}: it makes {kind(module)}, not a torch.nn.Module")
            if factory() is module:
                raise UserError(f"activation {name!r} makes the same module each time; it must make a new one")
        else:
            module = Elementwise(factory)
        problem = _unfit(module, "float32")
        if not problem and precision != "float32":
            problem = _problem_in(module, precision)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"activation {name!r} does not work: {one_line(error)}; it must be a function of "
            "a tensor, or a class or function that makes a torch.nn.Module without being given arguments"
        ) from error
    if problem:
        raise UserError(f"activation {name!r} {problem}")
    return module


def _problem_in(module, precision: str) -> str | None:
    """Why nothing can be trained in this precision through a module that is fit in float32; or None."""
    import torch

    try:
        problem = _unfit(copy.deepcopy(module).to(getattr(torch, precision)), precision)
    except Exception as error:  # the user's code may raise anything
        problem = f"does not work: {one_line(error)}"
    return problem and f"{problem}; in {precision}: with {option('precision', 'float32')} it works"


def _unfit(module, precision: str) -> str | None:
    """Why nothing can be trained through a module, tried on a few numbers; or None. Raises what its code raises."""
    import torch

    numbers = torch.linspace(-3, 3, 24, dtype=getattr(torch, precision))
    leaf = numbers.view(2, 3, 4).requires_grad_()  # windows, tokens, channels
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        x = leaf * 1
        before = x.detach().clone()
        y = module(x)
        if not isinstance(y, torch.Tensor) or y.shape != before.shape or y.dtype != before.dtype:
            returned = f"{tuple(y.shape)} of {y.dtype}" if isinstance(y, torch.Tensor) else kind(y)
            return f"must return a tensor like its input, {tuple(before.shape)} of {before.dtype}, not {returned}"
        if not torch.equal(x, before):
            return "changes its input in place; it must return a new tensor (inplace=False)"
        if not y.isfinite().all():
            return f"is not finite at {float(before[~y.isfinite()][0]):.3g}; it must be finite everywhere"
        slope = torch.autograd.grad(y.sum(), leaf, allow_unused=True)[0] if y.requires_grad else None
        if slope is None:
            return "gives no gradient: it is constant, detached, or computed without torch"
        if not slope.isfinite().all():
            return f"has a derivative that is not finite at {float(before[~slope.isfinite()][0]):.3g}"
        learns = any(p.requires_grad for p in module.parameters())
        if not slope.any() and not learns and torch.equal(y, y[:1, :1].expand_as(y)):
            return "is constant from -3 to 3: nothing can be trained through it"
        changed = before.clone()
        changed[0, -1] += 1
        torch.default_generator.manual_seed(0)
        moved = (module(changed) - y).abs().amax(-1)
        moved[0, -1] = 0
        if moved.max() > 1e-5 * y.abs().max():
            return "mixes tokens: the value at one depends on others (softmax over time?); it must act on each alone"
    return None


def _takes_argument(function: Callable) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # built in, as torch.tanh is: nothing is known, and makers of modules are not built in
        return True
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


# -- for use ------------------------------------------------------------------------------------------------------


def get_info(name: str) -> ActivationInfo:
    """What is known about an activation. A `module:function` is not imported for it. Raises UserError: there is no such
    activation; the message lists what exists and suggests the nearest name."""
    return _find(name)[0]


def _find(name: str) -> tuple[ActivationInfo, Callable | None]:
    """The information on a name and what makes it; None for an import path."""
    if not isinstance(name, str):
        raise UserError(f"an activation is asked for by name, a string such as 'relu', not by {kind(name)}")
    entry = _BUILT_IN.get(name) or _REGISTERED.get(name) or _smelu_by_number(name)
    if entry:
        return entry
    if is_path(name):
        module, _, function = name.partition(":")
        return ActivationInfo(name, function, f"({name})", "unknown", None, module), None
    if ":" in name:
        raise UserError(f"activation {name!r}: an import path has the form package.module:function")
    names = [*_BUILT_IN, *_REGISTERED]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
    hint = meant(name).rstrip() or (f"did you mean {near[0]!r}?" if near else "")
    guess = f"; {hint}" if hint else "."
    raise UserError(f"unknown activation {name!r}{guess} There are {', '.join(names)}; and {', '.join(FAMILIES)}")


def list_activations() -> list[ActivationInfo]:
    """Every activation with a name of its own: the study's five, the other built-in ones, then those registered.
    FAMILIES describes the names with numbers in them."""
    return [info for info, _ in (*_BUILT_IN.values(), *_REGISTERED.values())]


def label(name: str) -> str:
    """The name for charts, such as 'SmeLU β=0.5'. An unknown name, from another tool's results, labels itself."""
    try:
        return get_info(name).label
    except UserError:
        return str(name)


def canonical_name(name: str) -> str:
    """The preferred name of this function: smelu_05 for smelu_0.5, swish for silu. Two names with one canonical name
    would train identical models. Raises UserError: there is no such activation."""
    return get_info(name).same_as or name


def importable(name: str) -> bool:
    """Can a fresh process make this activation from its name alone? Not if it was registered in this one. Raises
    UserError: there is no such activation."""
    get_info(name)
    return name not in _REGISTERED


def own_function(name: str) -> Callable | None:
    """The user's own function, class or maker of modules behind a name, imported if need be; None for a built-in one.
    Raises UserError: there is no such activation, or it can't be imported."""
    _, factory = _find(name)
    if name in _REGISTERED:
        return factory
    return import_function(name, "activation") if factory is None else None


def make_activation(name: str, precision: str = "float32"):
    """A new torch.nn.Module that computes the activation element by element; another one at each call. For a gated
    activation, the function of the gate. One's own is tried out in float32 and in `precision`. Raises UserError: there
    is no such activation, or one's own can't be imported, makes no module, makes the same one twice, or nothing can be
    trained through it: it does not return a tensor like its input, changes the input, is constant or not finite, or
    mixes tokens."""
    _, factory = _find(name)
    if factory is None or name in _REGISTERED:
        return _make_own(name, factory or import_function(name, "activation"), precision)
    return factory()


def hidden_width(n_embd: int, gated: bool, multiple: int = 8) -> int:
    """The width of the MLP's hidden layer.

    4 n_embd, as in GPT-2: 8 n_embd² weights. A gated MLP has three matrices instead of two, 3 n_embd × width weights,
    so the width that keeps their number is 8/3 n_embd (Shazeer 2020), rounded to a multiple of 8, which matrix products
    like. Where that would change the number of parameters, with biases or without, by more than 1 %, it is rounded to a
    multiple of 4, 2 or 1 instead; from n_embd = 32 on, one of them always does. Raises UserError: n_embd or multiple is
    not a positive integer.
    """
    for key, value in (("n_embd", n_embd), ("multiple", multiple)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{key} must be a positive whole number, not {value!r}")
    if not gated:
        return 4 * n_embd
    plain, plain_biases = 8 * n_embd**2, 5 * n_embd
    while True:
        width = max(multiple, round(8 / 3 * n_embd / multiple) * multiple)
        weights, biases = 3 * n_embd * width, 2 * width + n_embd
        within = all(
            abs(ours / theirs - 1) <= 0.01
            for ours, theirs in ((weights, plain), (weights + biases, plain + plain_biases))
        )
        if within or multiple == 1:
            return width
        multiple //= 2
