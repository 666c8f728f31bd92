"""Every setting of an experiment, in one dataclass.

    Config(preset="quick", n_layer=6)             the preset's values but for those that are named
    Config.like("results/gelu_results.json")      the settings that a study recorded
    Config.from_toml("study.toml")                the settings in a file

A Config is complete and validated when made: settings left out come from the preset, `device` and `precision` are
resolved to what they really are on this machine. A value assigned later is validated the same way. The command-line
flags are generated from the same fields (cli.py), so the two can't drift apart. This module imports no torch unless an
accelerator has to be asked about.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import operator
import os
import platform
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field

import cli
import storage
from cli import GONE, PACKAGES, Parser, RunFailed, UserError, command_line, option  # noqa: F401 — for all modules
from kernels import toolchain

SOURCES = ("init", "order", "dropout")  # what may differ between trials
TOKENIZERS = ("char", "byte", "bpe")
VARY_ALONE = ("bit", "none")  # choices of `vary` that stand by themselves

# `quick`: nanoGPT's CPU recipe (4 layers, 4 heads, width 128, context 64, batch 12, no dropout), with a higher
#   learning rate, less momentum and fewer steps that reach the same loss sooner (see bench/RESULTS.md).
# `full`: nanoGPT's config/train_shakespeare_char.py.
# `smoke`: seconds; for tests and for a first look at the tool, never for conclusions.
_PRESETS = {
    # setting: (quick, full, smoke)
    "n_layer": (4, 6, 2),
    "n_head": (4, 6, 2),
    "n_embd": (128, 384, 64),
    "block_size": (64, 256, 32),
    "dropout": (0.0, 0.2, 0.0),
    "batch_size": (12, 64, 16),
    "max_iters": (1300, 5000, 200),
    "learning_rate": (5e-3, 1e-3, 1e-2),
    "min_lr": (0.0, 1e-4, 0.0),
    "warmup_iters": (130, 100, 10),
    "weight_decay": (0.1, 0.1, 0.1),
    "beta1": (0.7, 0.9, 0.7),
    "beta2": (0.99, 0.99, 0.99),
    "eval_interval": (130, 250, 50),
    "eval_tokens": (32768, 98304, 1024),
    "probe_tokens": (4096, 16384, 512),
}
PRESETS: dict[str, dict] = {
    name: {setting: values[i] for setting, values in _PRESETS.items()}
    for i, name in enumerate(("quick", "full", "smoke"))
}

REPLICATION_STEP = 10_000  # between the seeds of two replications: as many as a study can have trials
MACHINE = ("device", "precision", "native", "threads")  # chosen for the machine where the user names nothing
PLACES = ("study", "results_dir", "plots_dir", "checkpoint_dir", "data_dir", "workers")  # of one run, not of a study

# What a preset has instead where the rate is constant (see bench/RESULTS.md); `full` has not been measured with it.
TRUNK: dict[str, dict] = {"quick": {"learning_rate": 3e-3}, "full": {"min_lr": 0.0}}

BRANCH_POINTS = (0.4, 0.6, 0.8, 1.0)  # where the branches of a trunk end, as parts of max_iters
COOLDOWN = 0.25  # the steps in which a branch cools, as a part of those before it

LISTS = ("vary", "branch_points", "teacher", "averages", "contrast")  # settings of several values


@dataclass(frozen=True)
class Branch:
    """A way from the first step to a model: it `leaves` the trunk after so many steps and `ends` after so many, counted
    from the first step of the training. What a trunk is stands in training/schedule.py."""

    leaves: int
    ends: int


def setting(default=None, *, affects_results=True, affects_weights=None, before=MISSING, **limits):
    """A field of Config. What it means stands in templates/settings.toml.

    default: None where the preset, or the machine, has the value. limits: its range (low, high, above) or its choices.
    affects_results: whether numbers of a trial depend on it; affects_weights: whether those of the training do, not of
    its evaluation alone (by default the same). before: what was done before the setting existed; at that value it is
    left out of the fingerprint, so that what was trained then stays valid."""
    affects_weights = affects_results if affects_weights is None else affects_weights
    effects = {"affects_results": affects_results, "affects_weights": affects_weights, "before": before}
    return field(default=default, metadata={**dict.fromkeys(("low", "high", "above", "choices")), **limits, **effects})


@dataclass
class Config:
    """All settings. Construct with keywords; `Config(preset="quick", n_layer=6)` overrides single values of a preset.
    Raises UserError: a value is of the wrong type or out of range, values contradict one another, a name is unknown, or
    the device asked for does not exist here. The message names the field, the value and what would be right."""

    # corpus
    preset: str | None = setting(affects_results=False)
    dataset: str = setting("shakespeare")
    # these two change the corpus, which is compared by its own checksum
    encoding: str | None = setting(affects_results=False)
    text_column: str = setting("text", affects_results=False)
    train_split: float = setting(0.9, above=0.0, high=0.999)
    tokenizer: str = setting("char")
    bpe_vocab_size: int = setting(1024, low=257, high=2**17)
    data_dir: str = setting("data", affects_results=False)
    # model
    model: str = setting("gpt")
    n_layer: int | None = setting(low=1, high=512)
    n_head: int | None = setting(low=1, high=512)
    n_embd: int | None = setting(low=2, high=2**16)
    block_size: int | None = setting(low=2, high=2**20)
    dropout: float | None = setting(low=0.0, high=0.95)
    bias: bool = setting(False)
    # training
    batch_size: int | None = setting(low=1, high=2**20)
    sampling: str = setting("replacement", choices=("replacement", "shuffle"), before="replacement")
    max_iters: int | None = setting(low=1, high=10**9)
    learning_rate: float | None = setting(above=0.0, high=10.0)
    schedule: str = setting("cosine", choices=("cosine", "trunk"), before="cosine")
    branch_points: tuple[float, ...] = setting(BRANCH_POINTS, before=list(BRANCH_POINTS))
    cooldown: float = setting(COOLDOWN, above=0.0, high=9.0, before=COOLDOWN)
    min_lr: float | None = setting(low=0.0, high=10.0)
    warmup_iters: int | None = setting(low=0, high=10**9)
    weight_decay: float | None = setting(low=0.0, high=10.0)
    beta1: float | None = setting(low=0.0, high=0.9999)
    beta2: float | None = setting(low=0.0, high=0.99999)
    grad_clip: float = setting(1.0, low=0.0, high=1e6)
    # remedies: what may bring trials together
    remedy: str = setting("none", choices=("none", "distil", "warm"), before="none")
    strength: float = setting(1.0, low=0.0, high=1.0, before=1.0)
    teacher: tuple[str, ...] = setting((), before=[])
    averages: tuple[str, ...] = setting((), before=[])
    # evaluation
    eval_interval: int | None = setting(low=1, high=10**9)
    eval_tokens: int | None = setting(low=2, high=10**9, affects_weights=False)
    probe_tokens: int | None = setting(low=2, high=10**7)
    # trials
    trials_per_activation: int = setting(3, low=1, high=10_000, affects_results=False)
    seed_base: int = setting(1337, low=0, high=2**31 - 1)
    vary: tuple[str, ...] = setting(SOURCES)
    # what is asked
    baseline: str | None = setting(affects_results=False)
    contrast: tuple[str, ...] = setting((), affects_results=False)
    # how it is run
    device: str = setting("auto")
    precision: str = setting("auto", choices=("auto", "float32", "bfloat16"))
    threads: int | None = setting(low=1)
    deterministic: bool = setting(True)
    compile: bool = setting(False, before=False)
    native: bool | None = setting(before=False)
    workers: int | None = setting(low=1, high=1024, affects_results=False)
    snapshot_seconds: float = setting(30.0, low=0.0, affects_results=False)
    # where it is written
    study: str | None = setting(affects_results=False)
    results_dir: str = setting("results", affects_results=False)
    plots_dir: str = setting("plots", affects_results=False)
    checkpoint_dir: str = setting("checkpoints", affects_results=False)

    def __new__(cls, *_, **settings):
        _refuse_unknown(settings)  # before the dataclass's own TypeError
        return super().__new__(cls)

    def __post_init__(self):
        self._left = self._left_open()
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
        self._made = True

    def __setattr__(self, name: str, value) -> None:
        if name.startswith("_") or not getattr(self, "_made", False):
            object.__setattr__(self, name, value)
            return
        # a setting that is changed later: all of them are validated once more, in a new Config
        _refuse_unknown([name])
        if name == "device":
            value = _resolve_device(value) if isinstance(value, str) else value
        vars(self).update(vars(self.replace(**{name: value})))

    # -- making ---------------------------------------------------------------------------------------------------

    def _left_open(self) -> frozenset[str]:
        """The settings that were left to the preset or the machine."""
        return frozenset(f.name for f in dataclasses.fields(self) if getattr(self, f.name) in (None, "auto"))

    @property
    def automatic(self) -> frozenset[str]:
        """The settings that were chosen for this machine, because the user named none."""
        return self._left & set(MACHINE)

    def _settle(self):
        """Turn off what can't be with the other settings, or refuse it."""
        if self.compile and not self.device.startswith("cuda"):
            raise UserError(f"compile=True: is for CUDA, not device={self.device}; leave it out")
        on_one_thread = self.device == "cpu" and self.threads == 1 and self.precision == "bfloat16"
        self.native = bool(self.native) and on_one_thread

    def _complete(self):
        if self.preset is None:
            self.preset = "full" if _cuda_available() else "quick"
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise UserError(f"preset={self.preset!r}: {cli.choices(self.preset, PRESETS)}")
        instead = TRUNK.get(self.preset, {}) if self.schedule == "trunk" else {}
        for name, value in {**PRESETS[self.preset], **instead}.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        # a run shortened by one flag shrinks the preset's dependent values too, instead of failing on them
        for small, large in (("warmup_iters", "max_iters"), ("probe_tokens", "eval_tokens")):
            preset_value, limit = PRESETS[self.preset][small], getattr(self, large)
            if getattr(self, small) == preset_value and _is_number(limit):
                setattr(self, small, min(preset_value, limit))
        if self.threads is None:
            self.threads = 1
        if self.study is not None:
            _check_name("study", self.study)
            base = os.path.join("studies", self.study)
            for name in ("results", "plots", "checkpoints"):
                attribute = {"checkpoints": "checkpoint_dir"}.get(name, f"{name}_dir")
                if getattr(self, attribute) == name:
                    setattr(self, attribute, os.path.join(base, name))

    def _validate(self):
        for name, f in _FIELDS.items():
            if name not in LISTS and not (getattr(self, name) is None and f.type.endswith("None")):
                setattr(self, name, _checked(f, getattr(self, name)))
        if self.n_embd < 3 and self.model in ("gpt", "lstm", "conv", "hybrid"):
            raise UserError(
                f"n_embd={self.n_embd}: must be at least {-(-3 // self.n_head) * self.n_head}; layer norm makes 1 and "
                f"-1 of any two numbers, so that tokens can't be told apart"
            )
        if self.n_embd % self.n_head:
            near = self.n_head * max(1, round(self.n_embd / self.n_head))
            raise UserError(f"n_embd={self.n_embd}: must be a multiple of n_head={self.n_head}, for example {near}")
        for small, large in (("warmup_iters", "max_iters"), ("min_lr", "learning_rate")):
            if getattr(self, small) > getattr(self, large):
                raise UserError(f"{small}={getattr(self, small)}: must be at most {large}={getattr(self, large)}")
        if self.eval_tokens < self.block_size:
            raise UserError(f"eval_tokens={self.eval_tokens}: must be at least block_size={self.block_size}")
        if not self.block_size <= self.probe_tokens <= self.eval_tokens:
            raise UserError(
                f"probe_tokens={self.probe_tokens}: must lie between block_size={self.block_size} and "
                f"eval_tokens={self.eval_tokens}"
            )
        self._validate_vary()
        self._validate_branches()
        for name, example in (
            ("teacher", "checkpoints, such as checkpoints/relu/trial_1.pt"),
            ("averages", "means, such as lawa_10 ema_0.99"),
            ("contrast", "names, such as gelu swish"),
        ):
            given = getattr(self, name)
            given = (os.fspath(given),) if isinstance(given, str | os.PathLike) else given
            if not isinstance(given, Iterable) or not all(isinstance(x, str) and x for x in given):
                raise UserError(f"{name}={given!r}: must be one or more {example}")
            setattr(self, name, tuple(dict.fromkeys(given)))
        for name in self.averages:
            average(name)
        if self.baseline in self.contrast:
            raise UserError(f"contrast={self.baseline!r}: it is the baseline; name those that are compared with it")
        if self.tokenizer not in TOKENIZERS and not self.tokenizer.endswith(".json"):
            choices = cli.choices(self.tokenizer, TOKENIZERS)
            raise UserError(f"tokenizer={self.tokenizer!r}: {choices}, or the path of a tokenizer.json")
        if not self.dataset.strip():
            raise UserError("dataset='': name a corpus (shakespeare), hf:NAME, or a file, folder or glob")
        for name in ("data_dir", "results_dir", "plots_dir", "checkpoint_dir"):
            path = getattr(self, name)
            if not path or "\0" in path:
                raise UserError(f"{name}={path!r}: must be the path of a folder")
            if os.path.exists(path) and not os.path.isdir(path):
                raise UserError(f"{name}={path!r}: there is a file of that name; give a folder")

    def _validate_branches(self):
        try:
            self.branch_points = tuple(float(x) for x in self.branch_points)
        except (TypeError, ValueError):
            raise UserError(f"branch_points={self.branch_points!r}: must be numbers, such as 0.4 0.6 0.8 1") from None
        points = self.branch_points
        if not points or points[-1] != 1 or not all(0 < a < b for a, b in itertools.pairwise((*points, 2))):
            shown = " ".join(f"{x:g}" for x in points)
            raise UserError(f"branch_points={shown}: must be parts of max_iters, above 0, ascending, the last one 1")
        if self.schedule == "cosine":
            return
        branches = self.branches
        leaves = [0, *(branch.leaves for branch in branches)]
        if not all(a < b for a, b in itertools.pairwise(leaves)) or any(b.leaves == b.ends for b in branches):
            raise UserError(
                f"max_iters={self.max_iters}: too few for branches at {' '.join(f'{x:g}' for x in points)} of it, each "
                f"cooled over {self.cooldown:g} of the steps before"
            )
        if self.warmup_iters > leaves[1]:
            raise UserError(
                f"warmup_iters={self.warmup_iters}: must be at most {leaves[1]}, where the first branch begins"
            )

    def _validate_vary(self):
        allowed, given = SOURCES + VARY_ALONE, self.vary
        given = given.replace(",", " ").split() if isinstance(given, str) else given
        if not isinstance(given, Iterable) or not (given := list(given)):
            raise UserError(f"vary={self.vary!r}: give any of init, order, dropout; or bit; or none")
        for name in given:
            if name not in allowed:
                raise UserError(f"vary={name!r}: {cli.choices(name, allowed)}")
        if len(given) > 1 and set(given) & set(VARY_ALONE):
            raise UserError(f"vary={' '.join(given)}: bit and none stand alone")
        self.vary = tuple(name for name in allowed if name in given)  # one order, so one fingerprint

    @property
    def branches(self) -> list[Branch]:
        """The branches of the trunk, shortest first. The last, or the only one of the cosine, is the final model's."""
        if self.schedule == "cosine":
            return [Branch(self.max_iters, self.max_iters)]
        lengths = [round(share * self.max_iters) for share in self.branch_points]
        return [Branch(round(length / (1 + self.cooldown)), length) for length in lengths]

    def replace(self, **changes) -> Config:
        """A copy with some settings changed, validated anew. Raises UserError: as the constructor; or another preset,
        which has nothing left to choose."""
        _refuse_unknown(changes)
        if changes.get("preset", self.preset) != self.preset:
            raise UserError(
                f"preset={changes['preset']!r}: a preset gives values to settings left out, and here none is left out; "
                f"leave it out"
            )
        copy = Config.from_dict({**self.to_dict(), **changes})
        copy._left |= self._left - changes.keys()
        return copy

    def replication(self, number: int) -> Config:
        """The same study with seeds that no other replication shares, in folders of its own: `seed_base` moves by
        REPLICATION_STEP for each, and `study` gets the number behind it. Replication 0 is the study itself."""
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UserError(f"replicate={number!r}: must be a whole number at least 0")
        if number == 0:
            return self
        folders = {name: _FIELDS[name].default for name in PLACES if name.endswith("_dir") and name != "data_dir"}
        name = f"{self.study}_replication_{number}" if self.study else f"replication_{number}"
        return self.replace(seed_base=self.seed_base + REPLICATION_STEP * number, study=name, **folders)

    # -- to and from other forms ----------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        """All settings as plain JSON types."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {name: list(values[name]) for name in LISTS}

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """The inverse of `to_dict`. A config recorded on another machine loads here too: its device need not exist.
        Raises UserError: an unknown name (the nearest one is suggested) or an invalid value."""
        values = _without_gone(values)
        _refuse_unknown(values)
        config = cls.__new__(cls)
        for f in dataclasses.fields(cls):
            before = f.metadata["before"]
            setattr(config, f.name, values.get(f.name, f.default if before is MISSING else before))
        if "auto" in (config.device, config.precision):
            if "native" not in values:
                config.native = None
            config.__post_init__()
        else:
            config._left = config._left_open()
            config._complete()
            config._validate()
            config._settle()  # recorded as it was, also where this machine has no compiler
            config._made = True
        return config

    @classmethod
    def recorded(cls, path: str | os.PathLike) -> Config:
        """The settings that a results file records, folders and study excepted, whether this machine can have them or
        not. Raises UserError: the file can't be read, or records no settings."""
        try:
            values = storage.read_results(path).get("config")
        except storage.StorageError as error:
            raise UserError(str(error)) from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: records no settings; give the results of a study of this program")
        return cls.from_dict({name: value for name, value in values.items() if name not in PLACES})

    @classmethod
    def like(cls, path: str | os.PathLike, **changes) -> Config:
        """The settings that a results file records, folders and study excepted, but for those that are named. Raises
        UserError: as `recorded`; an invalid value; or this machine can't have some of them, which are named."""
        config = cls.recorded(path).replace(**{name: value for name, value in changes.items() if name != "device"})
        if "device" in changes:
            config.device = changes["device"]
        if lacks := lacking(config):
            rest = " and ".join(f"{name} ({why})" for name, why in lacks.items())
            ways = [option(*way) for name, way in INSTEAD.items() if any(lack.startswith(name) for lack in lacks)]
            raise UserError(f"{path}: this machine can't have {rest}; add what it can have ({', '.join(ways)})")
        return config

    @classmethod
    def from_toml(cls, path: str | os.PathLike, **changes) -> Config:
        """The settings in a TOML file (`name = value`, one a line), but for those that are named. The activations that
        a study's own file names are no settings. Raises UserError: the file can't be read, a name that is no setting,
        or an invalid value."""
        values = read_toml(path)
        values.pop("activation", None)
        try:
            return cls(**{**values, **changes})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def how_computed(self) -> str:
        """One line: the precision and the kernels of training, and what they follow from.

        The rule: bfloat16 where it is fast, else float32. On the CPU, with one thread a trial and in bfloat16, the
        kernels of native.cpp where they can be compiled, else torch's. Every evaluation is in float32 with torch's.
        """
        where = "" if self.device == "cpu" else f" on {self.device}"
        by = "kernels that torch.compile makes" if self.compile else "torch's kernels"
        by = "the kernels of native.cpp" if self.native else by
        return f"{self.precision}{where} with {by}: {self._computed_so_because()}"

    def _computed_so_because(self) -> str:
        fast = fast_bfloat16(self.device)
        reasons = (
            (self.native, "a C++ compiler and fast bfloat16 are here"),
            (self.compile, "compile=True"),
            (self.precision == "float32", "precision=float32" if fast else "no fast bfloat16 on this processor"),
            (not fast, "precision=bfloat16"),
            (self.device != "cpu", "bfloat16 is fast there"),
            (self.threads > 1, f"those of native.cpp are for one thread, not {self.threads}"),
        )
        return next((why for so, why in reasons if so), None) or toolchain.problem() or "native=False"

    # -- comparing ------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 over every setting that changes the numbers of a trial, and over nothing that doesn't.

        The number of trials, the workers and the folders are left out: a trial is the same whichever of them it has.
        """
        values = self.result_settings()
        for name, f in _FIELDS.items():
            if name in values and values[name] == f.metadata["before"]:
                del values[name]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def result_settings(self) -> dict:
        """The settings that the fingerprint covers. One that changes nothing beside the others has its default, or 1
        where that is the preset's."""
        values = self.to_dict()
        settings = {name: values[name] for name, f in _FIELDS.items() if f.metadata["affects_results"]}
        settings["device"] = settings["device"].split(":")[0]
        for name in without_effect(settings):
            default = _FIELDS[name].default
            settings[name] = 1 if default is None else list(default) if isinstance(default, tuple) else default
        if not self.dropout and set(self.vary) <= set(SOURCES):
            rest = [source for source in self.vary if source != "dropout"]
            settings["vary"] = list(SOURCES) if rest == ["init", "order"] else rest or ["none"]
        return settings

    def differences(self, other: Config | dict, weights: bool = False) -> dict[str, tuple]:
        """{field: (mine, theirs)} for the settings of the fingerprint that differ; `weights`: of those alone that
        change a trained trial, not only how it is measured."""
        mine = self.result_settings()
        theirs = (other if isinstance(other, Config) else Config.from_dict(other)).result_settings()
        names = [name for name in mine if not weights or _FIELDS[name].metadata["affects_weights"]]
        return {name: (mine[name], theirs[name]) for name in names if mine[name] != theirs[name]}

    def describe_differences(self, other: Config | dict, weights: bool = False) -> str:
        """`differences` for a message about what lies in a folder: 'n_layer=4 there, 6 now, …'; '' without any. Where
        the presets differ they come first, and whether the other preset is all that is needed."""
        theirs = other if isinstance(other, Config) else Config.from_dict(other)
        changed = self.differences(theirs, weights)
        text = ", ".join(f"{name}={recorded!r} there, {mine!r} now" for name, (mine, recorded) in changed.items())
        if not changed or theirs.preset == self.preset:
            return text
        values = {name: None if name in self._left else value for name, value in self.to_dict().items()}
        resolved = {name: getattr(self, name) for name in MACHINE}
        with_theirs = Config.from_dict({**values, **resolved, "preset": theirs.preset})
        way = "" if with_theirs.differences(theirs, weights) else f": {option('preset', theirs.preset)} goes on with it"
        return f"{theirs.preset} there, {self.preset} now{way}; {text}"


_FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def _without_gone(recorded: dict) -> dict:
    """Recorded settings without those that are gone, where they made no difference. Raises UserError: what was trained
    can't be trained any more."""
    for name, (idle, instead) in GONE.items():
        if recorded.get(name, idle) != idle:
            raise UserError(f"{name}={recorded[name]!r}: is recorded, but no longer a setting: {instead}")
    return {name: value for name, value in recorded.items() if name not in GONE}


def without_effect(settings: Mapping) -> set[str]:
    """The settings that change nothing beside the others; {name: value}, also as another version recorded them."""
    get = settings.get
    idle = {
        "bpe_vocab_size": get("tokenizer") != "bpe",
        "deterministic": not str(get("device")).startswith("cuda"),  # kernels of the CPU are
        "n_head": get("model") in ("lstm", "conv"),
        **dict.fromkeys(("branch_points", "cooldown"), get("schedule", "cosine") == "cosine"),
        **dict.fromkeys(("remedy", "strength", "teacher"), get("remedy", "none") == "none" or get("strength") == 0),
    }
    return {name for name, changes_nothing in idle.items() if changes_nothing}


def read_toml(path: str | os.PathLike) -> dict:
    """{setting: value} in a TOML file, and "activation" where it names some. `trials` is another name, as for flags.
    Raises UserError: the file can't be read, or a name that is no setting."""
    try:
        values = tomllib.loads(storage.read_bytes(path).decode("utf-8"))
    except (storage.StorageError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise UserError(text if text.startswith(f"{path}:") else f"{path}: not TOML ({text})") from None
    values = {"trials_per_activation" if name == "trials" else name: value for name, value in values.items()}
    if isinstance(values.get("activation"), str):
        values["activation"] = values["activation"].split()
    try:
        _refuse_unknown(values.keys() - {"activation"})
        if table := next((name for name, value in values.items() if isinstance(value, dict)), None):
            raise UserError(f"[{table}]: tables are not used; write {table} = VALUE")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values


def _refuse_unknown(names: Iterable[str]) -> None:
    for name in names:
        if name in GONE:
            raise UserError(f"{name}: no longer a setting: {GONE[name][1]}")
        if name not in _FIELDS:
            near = [k for k in _FIELDS if k.startswith(f"{name}_")] or difflib.get_close_matches(
                str(name), _FIELDS, n=1
            )
            hint = f"did you mean {near[0]}?" if near else f"must be one of {', '.join(sorted(_FIELDS))}"
            raise UserError(f"unknown setting {name!r}: {hint}")


# -- the command line ---------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of Config. Values are checked by Config itself, so the messages are the same."""
    cli.add_arguments(parser, _FIELDS, cli.words("settings"))


def from_args(args: argparse.Namespace) -> Config:
    """The Config that the parsed flags describe; what was not given comes from the file that `like` or `config` names,
    where there is one, or has its default."""
    values = cli.given(args, dataclasses.fields(Config))
    if getattr(args, "like", None):
        return Config.like(args.like, **values)
    if getattr(args, "config", None):
        return Config.from_toml(args.config, **values)
    return Config(**values)


# -- validation ---------------------------------------------------------------------------------------------------


def average(name: str) -> tuple[str, float]:
    """What the name of a mean of weights says: ("lawa", percent of the steps) or ("ema", decay per step)."""
    kind, _, value = name.partition("_")
    number = math.nan
    with contextlib.suppress(ValueError):
        number = float(value)
    if not ((kind == "lawa" and 1 <= number <= 100 and number == int(number)) or (kind == "ema" and 0 < number < 1)):
        raise UserError(
            f"averages={name!r}: must be lawa_P, P a whole number of percent from 1 to 100 (lawa_10), or ema_D, D "
            f"between 0 and 1 (ema_0.99)"
        )
    return kind, number


def _is_number(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _checked(f: dataclasses.Field, value):
    """The value in its field's type, or a UserError."""
    meta, kind = f.metadata, cli.kind(f)
    wrong = UserError(f"{f.name}={value!r}: {cli.expected(f)}")
    if isinstance(value, os.PathLike) and kind is str:
        value = os.fspath(value)
    if kind in (int, float) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a NumPy scalar
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong
    if kind is str and meta["choices"] and value not in meta["choices"]:
        raise UserError(f"{f.name}={value!r}: {cli.choices(value, meta['choices'])}")
    beyond = {"low": operator.lt, "high": operator.gt, "above": operator.le}
    if kind in (int, float) and (
        not math.isfinite(value)
        or any(meta[limit] is not None and outside(value, meta[limit]) for limit, outside in beyond.items())
    ):
        raise wrong
    return value


def _check_name(setting: str, name) -> None:
    """A name that becomes a folder: one plain path component."""
    if not isinstance(name, str) or not name or name in (".", "..") or any(c in name for c in "/\\\0:\n"):
        raise UserError(f"{setting}={name!r}: must be a plain name without slashes or colons")
    if name.startswith(("-", ".")) or len(name) > 100:
        raise UserError(f"{setting}={name!r}: must not begin with a dash or dot, nor be longer than 100 characters")


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
        hint = "did you mean cuda? " if kind in ("gpu", "nvidia") else ""
        raise UserError(f"device={device!r}: {hint}must be one of auto, cpu, cuda, cuda:N, mps")
    if kind == "cuda":
        if not _cuda_available():
            raise UserError(f"device={device!r}: torch finds no CUDA GPU here; use device=cpu or auto")
        import torch

        if index and int(index) >= torch.cuda.device_count():
            raise UserError(f"device={device!r}: the GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if kind == "mps" and not _mps_available():
        raise UserError("device='mps': torch finds no Apple GPU here; use device=cpu or auto")
    return device


INSTEAD = {"device": ("device", "cpu"), "native": ("native", False)}  # of what this machine lacks


def lacking(config: Config) -> dict[str, str]:
    """{"device='cuda'": why} for the settings that this machine can't have."""
    lacks = {}
    try:
        _resolve_device(config.device)
    except UserError as error:
        lacks[f"device={config.device!r}"] = str(error).split(": ", 1)[1].split(";")[0]
    if config.native and (problem := toolchain.problem()):
        lacks["native=True"] = problem
    return lacks


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
    flags = " ".join(toolchain.cpuinfo("flags")[:1]).split() if device == "cpu" else []
    return "avx512_bf16" in flags or "amx_bf16" in flags
