"""Every setting of an experiment, in one dataclass.

`Config()` is complete and validated when made: settings left out come from the preset, `device` and `precision` are
resolved to what they really are on this machine. The command-line flags are generated from the same fields, so the
two can't drift apart. This module imports no torch unless an accelerator has to be asked about.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field

from models import toolchain


class UserError(ValueError):
    """The input is wrong. The message is one line: what is wrong, where, and what would be right."""


class RunFailed(Exception):
    """Some trials failed; what was finished is kept. One line."""


SOURCES = ("init", "order", "dropout")  # what may differ between trials
VARY_ALONE = ("bit", "none")  # choices of `vary` that stand by themselves

# `quick`: nanoGPT's CPU recipe (4 layers, 4 heads, width 128, context 64, batch 12, no dropout), with a higher
#   learning rate, less momentum and fewer steps that reach the same loss sooner (see bench/RESULTS.md).
# `full`: nanoGPT's config/train_shakespeare_char.py.
# `smoke`: seconds; for tests and for a first look at the tool, never for conclusions.
PRESETS: dict[str, dict] = {
    "quick": {
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 128,
        "block_size": 64,
        "dropout": 0.0,
        "batch_size": 12,
        "max_iters": 1300,
        "learning_rate": 5e-3,
        "min_lr": 0.0,
        "warmup_iters": 130,
        "weight_decay": 0.1,
        "beta1": 0.7,
        "beta2": 0.99,
        "eval_interval": 130,
        "eval_tokens": 32768,
        "probe_tokens": 4096,
    },
    "full": {
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 384,
        "block_size": 256,
        "dropout": 0.2,
        "batch_size": 64,
        "max_iters": 5000,
        "learning_rate": 1e-3,
        "min_lr": 1e-4,
        "warmup_iters": 100,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
        "eval_interval": 250,
        "eval_tokens": 98304,
        "probe_tokens": 16384,
    },
    "smoke": {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 64,
        "block_size": 32,
        "dropout": 0.0,
        "batch_size": 16,
        "max_iters": 200,
        "learning_rate": 1e-2,
        "min_lr": 0.0,
        "warmup_iters": 10,
        "weight_decay": 0.1,
        "beta1": 0.7,
        "beta2": 0.99,
        "eval_interval": 50,
        "eval_tokens": 1024,
        "probe_tokens": 512,
    },
}

# Settings that came later, and what was done before there was a choice: left out of the fingerprint at that value, so
# that what was trained then stays valid.
LATER = {"data_parallel": 1, "compile": False, "native": False}


def setting(default, help, *, kind, low=None, high=None, choices=None, above=None, affects_results=True, bare=None):
    """A field of Config: its default (None: from the preset), its type and range, whether it changes results, and
    what its flag stands for when it is given without a value (None: it needs one)."""
    return field(
        default=default,
        metadata={
            "help": help,
            "kind": kind,
            "low": low,
            "high": high,
            "above": above,
            "choices": choices,
            "affects_results": affects_results,
            "bare": bare,
        },
    )


@dataclass
class Config:
    """All settings. Construct with keywords; `Config(preset="quick", n_layer=6)` overrides single values of a preset.

    Raises:
        UserError: a value is of the wrong type or out of range, values contradict one another, a name is unknown, or
            the device asked for does not exist here. The message names the field, the value and what would be right.
    """

    # corpus
    preset: str | None = setting(
        None,
        "quick (default without a GPU), full (default with one) or smoke",
        kind=str,
        affects_results=False,
    )
    dataset: str = setting("shakespeare", "a corpus by name, hf:NAME[/CONFIG], or a file, folder or glob", kind=str)
    # what these two change is in the corpus' own checksum
    encoding: str | None = setting(
        None,
        "encoding of text files that have no byte-order mark (default: UTF-8, anything else is refused)",
        kind=str,
        affects_results=False,
    )
    text_column: str = setting(
        "text",
        "column of text in tables: jsonl, json, csv, parquet, hf:NAME; '' takes files as they are",
        kind=str,
        affects_results=False,
    )
    train_split: float = setting(
        0.9, "fraction of the text that is trained on; the rest validates", kind=float, above=0.0, high=0.999
    )
    tokenizer: str = setting("char", "char, byte or bpe", kind=str, choices=("char", "byte", "bpe"))
    bpe_vocab_size: int = setting(
        1024, "vocabulary of the bpe tokenizer, trained on the training split", kind=int, low=257, high=2**17
    )
    data_dir: str = setting("data", "where prepared corpora are kept", kind=str, affects_results=False)
    # model
    model: str = setting("gpt", "gpt, llama, lstm, conv, hybrid, or module:function", kind=str)
    n_layer: int | None = setting(None, "layers", kind=int, low=1, high=512)
    n_head: int | None = setting(None, "attention heads", kind=int, low=1, high=512)
    n_embd: int | None = setting(None, "width of the residual stream", kind=int, low=2, high=2**16)
    block_size: int | None = setting(None, "context length in tokens", kind=int, low=2, high=2**20)
    dropout: float | None = setting(None, "dropout probability", kind=float, low=0.0, high=0.95)
    bias: bool = setting(False, "biases in linear layers and layer norms", kind=bool)
    # training
    batch_size: int | None = setting(None, "windows per step", kind=int, low=1, high=2**20)
    max_iters: int | None = setting(None, "training steps", kind=int, low=1, high=10**9)
    learning_rate: float | None = setting(None, "peak learning rate of AdamW", kind=float, above=0.0, high=10.0)
    min_lr: float | None = setting(None, "learning rate at the end of the cosine", kind=float, low=0.0, high=10.0)
    warmup_iters: int | None = setting(None, "steps of linear warm-up (at most max_iters)", kind=int, low=0, high=10**9)
    weight_decay: float | None = setting(
        None, "decoupled weight decay, on matrices only", kind=float, low=0.0, high=10.0
    )
    beta1: float | None = setting(None, "AdamW's first-moment decay", kind=float, low=0.0, high=0.9999)
    beta2: float | None = setting(None, "AdamW's second-moment decay", kind=float, low=0.0, high=0.99999)
    grad_clip: float = setting(1.0, "largest gradient norm; 0 turns clipping off", kind=float, low=0.0, high=1e6)
    # evaluation
    eval_interval: int | None = setting(
        None, "steps between two points of the training curves", kind=int, low=1, high=10**9
    )
    eval_tokens: int | None = setting(
        None, "positions at which final losses and predictions are compared", kind=int, low=2, high=10**9
    )
    probe_tokens: int | None = setting(
        None, "positions of each point of the curves, whose predictions are stored too", kind=int, low=2, high=10**7
    )
    # trials
    trials_per_activation: int = setting(
        3, "models trained per activation", kind=int, low=1, high=10_000, affects_results=False
    )
    seed_base: int = setting(1337, "trial k uses seed_base + k - 1", kind=int, low=0, high=2**31 - 1)
    vary: tuple[str, ...] = setting(
        SOURCES, "what differs between trials: any of init order dropout; or bit; or none", kind=tuple
    )
    # how it is run
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", kind=str)
    precision: str = setting("auto", "auto, float32 or bfloat16", kind=str, choices=("auto", "float32", "bfloat16"))
    threads: int = setting(1, "CPU threads per trial (part of the result: sums are split by it)", kind=int, low=1)
    data_parallel: int = setting(
        1,
        "ranks of torchrun that train each trial together, each its share of every batch; without N: all of them "
        "(part of the result, as threads)",
        kind=int,
        low=1,
        high=2**20,
        bare="all",
    )
    deterministic: bool = setting(True, "the same seed gives the same bits", kind=bool)
    compile: bool = setting(
        False,
        "train with kernels that torch.compile makes (they round differently); evaluation stays as it is",
        kind=bool,
    )
    native: bool | None = setting(
        None,
        "train in bfloat16 on one CPU thread with the kernels of native.cpp (they round differently); evaluation stays "
        "as it is; default: where there is a C++ compiler",
        kind=bool,
    )
    workers: int | None = setting(
        None,
        "trials trained side by side; default: as many as keep the cores busy, or one on each GPU",
        kind=int,
        low=1,
        high=1024,
        affects_results=False,
    )
    snapshot_seconds: float = setting(
        30.0, "seconds between snapshots of a running trial", kind=float, low=0.0, affects_results=False
    )
    # where it is written
    study: str | None = setting(None, "keep this study's files under studies/NAME", kind=str, affects_results=False)
    results_dir: str = setting("results", "folder of results and report", kind=str, affects_results=False)
    plots_dir: str = setting("plots", "folder of figures", kind=str, affects_results=False)
    checkpoint_dir: str = setting("checkpoints", "folder of trained models", kind=str, affects_results=False)

    def __post_init__(self):
        self._complete()
        self._validate()
        self.device = _resolve_device(self.device)
        if self.precision == "auto":
            self.precision = "bfloat16" if fast_bfloat16(self.device) else "float32"
        chosen = self.native is None
        self.native = chosen or self.native
        self._settle()
        if chosen and self.native:
            self.native = toolchain.problem() is None

    # -- making ---------------------------------------------------------------------------------------------------

    def _settle(self):
        """Turn off what can't be with the other settings."""
        on_one_thread = self.device == "cpu" and self.threads == 1 and self.precision == "bfloat16"
        self.native = bool(self.native) and on_one_thread and not self.compile

    def _complete(self):
        if self.preset is None:
            self.preset = "full" if _cuda_available() else "quick"
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise UserError(f"preset={self.preset!r}: {_choices(self.preset, PRESETS)}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        # a run shortened by one flag shrinks the preset's dependent values too, instead of failing on them
        for small, large in (("warmup_iters", "max_iters"), ("probe_tokens", "eval_tokens")):
            preset_value, limit = PRESETS[self.preset][small], getattr(self, large)
            if getattr(self, small) == preset_value and _is_number(limit):
                setattr(self, small, min(preset_value, limit))
        if isinstance(self.vary, str):
            self.vary = tuple(self.vary.replace(",", " ").split())
        elif isinstance(self.vary, Iterable):
            self.vary = tuple(self.vary)
        if self.study is not None:
            _check_name("study", self.study)
            base = os.path.join("studies", self.study)
            for name in ("results", "plots", "checkpoints"):
                attribute = {"checkpoints": "checkpoint_dir"}.get(name, f"{name}_dir")
                if getattr(self, attribute) == name:
                    setattr(self, attribute, os.path.join(base, name))

    def _validate(self):
        for f in dataclasses.fields(self):
            if (
                f.name not in ("preset", "study", "encoding", "vary", "workers", "native")
                or getattr(self, f.name) is not None
            ):
                setattr(self, f.name, _checked(f, getattr(self, f.name)))
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd={self.n_embd}: must be a multiple of n_head={self.n_head}, for example "
                f"{self.n_head * max(1, round(self.n_embd / self.n_head))}"
            )
        if self.batch_size % self.data_parallel:
            raise UserError(
                f"batch_size={self.batch_size}: must be a multiple of data_parallel={self.data_parallel}, for example "
                f"{self.data_parallel * max(1, round(self.batch_size / self.data_parallel))}"
            )
        if self.warmup_iters > self.max_iters:
            raise UserError(f"warmup_iters={self.warmup_iters}: must be at most max_iters={self.max_iters}")
        if self.min_lr > self.learning_rate:
            raise UserError(f"min_lr={self.min_lr}: must be at most learning_rate={self.learning_rate}")
        if self.eval_tokens < self.block_size:
            raise UserError(f"eval_tokens={self.eval_tokens}: must be at least block_size={self.block_size}")
        if not self.block_size <= self.probe_tokens <= self.eval_tokens:
            raise UserError(
                f"probe_tokens={self.probe_tokens}: must lie between block_size={self.block_size} and "
                f"eval_tokens={self.eval_tokens}"
            )
        self._validate_vary()
        if not self.dataset.strip():
            raise UserError("dataset='': name a corpus (shakespeare), hf:NAME, or a file, folder or glob")
        for name in ("data_dir", "results_dir", "plots_dir", "checkpoint_dir"):
            path = getattr(self, name)
            if not path or "\0" in path:
                raise UserError(f"{name}={path!r}: must be the path of a folder")
            if os.path.exists(path) and not os.path.isdir(path):
                raise UserError(f"{name}={path!r}: there is a file of that name; give a folder")

    def _validate_vary(self):
        allowed = SOURCES + VARY_ALONE
        if not isinstance(self.vary, tuple) or not self.vary:
            raise UserError(f"vary={self.vary!r}: give any of init, order, dropout; or bit; or none")
        for name in self.vary:
            if name not in allowed:
                raise UserError(f"vary={name!r}: {_choices(name, allowed)}")
        if len(self.vary) > 1 and set(self.vary) & set(VARY_ALONE):
            raise UserError(f"vary={' '.join(self.vary)}: bit and none stand alone")
        self.vary = tuple(name for name in allowed if name in self.vary)  # one order, so one fingerprint

    def replace(self, **changes) -> Config:
        """A copy with some settings changed, validated anew."""
        return Config.from_dict({**self.to_dict(), **changes})

    # -- to and from other forms ----------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        """All settings as plain JSON types."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["vary"] = list(self.vary)
        return values

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """The inverse of `to_dict`. A config recorded on another machine loads here too: its device need not exist.

        Raises:
            UserError: an unknown name (the nearest one is suggested) or an invalid value.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in names:
                raise UserError(f"unknown setting {name!r}: {_choices(name, names)}")
        config = cls.__new__(cls)
        for f in dataclasses.fields(cls):
            setattr(config, f.name, values.get(f.name, f.default))
        device, precision = config.device, config.precision
        if device == "auto" or precision == "auto":
            config.__post_init__()
        else:
            config._complete()
            config._validate()
            config._settle()  # recorded as it was, also where this machine has no compiler; not at all: before it was
        return config

    def fingerprint(self) -> str:
        """sha256 over every setting that changes the numbers of a trial, and over nothing that doesn't.

        The number of trials, the workers and the folders are left out: a trial is the same whichever of them it has.
        """
        values = self.result_settings()
        for name, before in LATER.items():
            if values[name] == before:
                del values[name]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def result_settings(self) -> dict:
        """The settings that the fingerprint covers."""
        values = self.to_dict()
        kept = {f.name: values[f.name] for f in dataclasses.fields(self) if f.metadata["affects_results"]}
        kept["device"] = kept["device"].split(":")[0]
        return kept

    def differences(self, other: Config | dict) -> dict[str, tuple]:
        """{field: (mine, theirs)} for the settings of the fingerprint that differ."""
        mine = self.result_settings()
        theirs = (other if isinstance(other, Config) else Config.from_dict(other)).result_settings()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def describe_differences(self, other: Config | dict) -> str:
        """`differences` for a message about what lies in a folder: 'n_layer=4 there, 6 now, …'; '' without any."""
        changed = self.differences(other)
        return ", ".join(f"{name}={theirs!r} there, {mine!r} now" for name, (mine, theirs) in changed.items())


# -- the command line ---------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line on stderr with exit status 2, without the page of usage."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        known = [option for action in self._actions for option in action.option_strings]
        if message.startswith("unrecognized arguments:"):
            first = message.split(":", 1)[1].split()[0]
            near = difflib.get_close_matches(first.split("=")[0], known, n=1)
            message += f" (did you mean {near[0]}?)" if near else ""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n".replace("\n", " ").strip() + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of Config. Values are checked by Config itself, so the messages are the same."""
    group = parser.add_argument_group("settings (defaults come from the preset)")
    for f in dataclasses.fields(Config):
        meta = f.metadata
        flags = ["--" + f.name.replace("_", "-")]
        if f.name == "trials_per_activation":
            flags.append("--trials")
        default = "" if f.default is None or f.name == "vary" else f" (default: {f.default})"
        help_text = (meta["help"] + default).replace("%", "%%")
        if meta["kind"] is bool:
            group.add_argument(*flags, action=argparse.BooleanOptionalAction, default=None, dest=f.name, help=help_text)
        elif meta["kind"] is tuple:
            group.add_argument(*flags, nargs="+", default=None, dest=f.name, metavar="X", help=help_text)
        else:
            metavar = {int: "N", float: "X", str: "NAME"}[meta["kind"]]
            optional = {"nargs": "?", "const": meta["bare"]} if meta["bare"] else {}
            group.add_argument(*flags, default=None, dest=f.name, metavar=metavar, help=help_text, **optional)


def from_args(args: argparse.Namespace) -> Config:
    """The Config that the parsed flags describe; flags that were not given keep their defaults."""
    values = {}
    for f in dataclasses.fields(Config):
        given = getattr(args, f.name, None)
        if given is not None:
            values[f.name] = _parsed(f, given)
    return Config(**values)


def _parsed(f: dataclasses.Field, text):
    kind = f.metadata["kind"]
    if kind is tuple:
        return tuple(word for part in text for word in part.replace(",", " ").split())
    if kind in (int, float) and isinstance(text, str):
        try:
            # int("1e3") is an error although 1e3 is a whole number that people do write
            return kind(text) if kind is float or "e" not in text.lower() else _whole(float(text))
        except (ValueError, OverflowError):
            raise UserError(f"{f.name}={text!r}: {_expected(f)}") from None
    return text


def _whole(x: float) -> int:
    if x != int(x):
        raise ValueError(x)
    return int(x)


# -- validation ---------------------------------------------------------------------------------------------------


def _is_number(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _expected(f: dataclasses.Field) -> str:
    meta = f.metadata
    noun = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[meta["kind"]]
    if meta["choices"]:
        return "must be one of " + ", ".join(meta["choices"])
    bounds = []
    if meta["above"] is not None:
        bounds.append(f"above {meta['above']:g}")
    if meta["low"] is not None:
        bounds.append(f"at least {meta['low']}")
    if meta["high"] is not None:
        bounds.append(f"at most {meta['high']}")
    return f"must be {noun}" + (" " + " and ".join(bounds) if bounds else "")


def _checked(f: dataclasses.Field, value):
    """The value in its field's type, or a UserError."""
    meta, kind = f.metadata, f.metadata["kind"]
    wrong = UserError(f"{f.name}={value!r}: {_expected(f)}" if kind is not tuple else "")
    if kind is tuple:
        return value
    if isinstance(value, os.PathLike) and kind is str:
        value = os.fspath(value)
    if kind in (int, float) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a NumPy scalar
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong
    if kind is str and meta["choices"] and value not in meta["choices"]:
        raise UserError(f"{f.name}={value!r}: {_choices(value, meta['choices'])}")
    if kind in (int, float):
        outside = (
            (kind is float and not math.isfinite(value))
            or (meta["low"] is not None and value < meta["low"])
            or (meta["high"] is not None and value > meta["high"])
            or (meta["above"] is not None and value <= meta["above"])
        )
        if outside:
            raise wrong
    return value


def _choices(given, known: Iterable[str]) -> str:
    """'must be one of …', with the nearest known name first when one is near."""
    known = list(known)
    near = difflib.get_close_matches(str(given), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}must be one of {', '.join(sorted(known))}"


def _check_name(what: str, name) -> None:
    """A name that becomes a folder: one plain path component."""
    if not isinstance(name, str) or not name or name in (".", "..") or any(c in name for c in "/\\\0:\n"):
        raise UserError(f"{what}={name!r}: must be a plain name without slashes or colons")
    if name.startswith(("-", ".")) or len(name) > 100:
        raise UserError(f"{what}={name!r}: must not begin with a dash or dot, nor be longer than 100 characters")


# -- what this machine has ----------------------------------------------------------------------------------------


def _nvidia_present() -> bool:
    """A cheap look that avoids a second of importing torch on machines without a GPU."""
    return (
        os.path.exists("/proc/driver/nvidia/version")
        or os.path.exists("/dev/nvidia0")
        or bool(shutil.which("nvidia-smi"))
    )


def _cuda_available() -> bool:
    if not _nvidia_present():
        return False
    import torch

    return torch.cuda.is_available()


def _resolve_device(device: str) -> str:
    if device == "auto":
        if _cuda_available():
            return "cuda"
        return "mps" if _mps_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise UserError(f"device={device!r}: must be one of auto, cpu, cuda, cuda:N, mps")
    if kind == "cuda":
        if not _cuda_available():
            raise UserError(f"device={device!r}: torch finds no CUDA GPU here; use device=cpu or auto")
        import torch

        if index and int(index) >= torch.cuda.device_count():
            raise UserError(f"device={device!r}: there are {torch.cuda.device_count()} GPUs here, from cuda:0")
    if kind == "mps" and not _mps_available():
        raise UserError("device='mps': torch finds no Apple GPU here; use device=cpu or auto")
    return device


def _mps_available() -> bool:
    if platform.system() != "Darwin":
        return False
    import torch

    return torch.backends.mps.is_available()


def fast_bfloat16(device: str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_capability(device)[0] >= 8
    if device == "cpu":
        try:
            with open("/proc/cpuinfo") as f:
                flags = next((line for line in f if line.startswith("flags")), "").split()
        except OSError:
            return False
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False
