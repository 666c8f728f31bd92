"""Further questions, a folder each with all of its own: what measures, tells and draws, and the hooks to the core.

This table is all that the core sees of them. `questions/NAME/__init__.py` is light (rows whose functions import what
they need when they are called), and gives what it has of

    PRODUCTS    what is made of a study: analysis.products.Product
    MODES       what train.py does on a flag of its own: Mode
    PARTS       what a trial may have beside its plain steps: "module:class" of a training.parts.Part
    QUERIES     what analyze_results.py answers of several studies on a flag of its own: Query
    JOBS        {name: function} trained in the place of a trial, by the worker processes of training/pool.py
    STATUS      lines of train.py --status: functions (folder of results) -> lines
    AMENDED     what a folder records about the study in it: functions (study, folder of results) -> study
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NAMES = (
    "until_decided",
    "where",
    "remedies",
    "sources",
    "clock",
    "studies",
    "extrapolate",
    "foreign",
)  # in the order of the report


LOGGED = ("activation", "overwrite", "no_strict_audit", "tensorboard", "track")  # flags of modes that train a study


@dataclass(frozen=True, eq=False)
class Mode:
    """One way to run train.py. `run` gets a train.Session."""

    flag: str
    help: str
    run: Callable
    default: str = "all"  # activations where none is named
    takes: tuple[str, ...] = ("activation", "overwrite", "no_strict_audit")  # of the flags that not all modes have
    overwrites: str = ""  # what --overwrite is answered with; '': it does as told
    many: tuple[str, ...] = ()  # settings of which it takes several values: Session.many
    options: Mapping[str, dict] = field(
        default_factory=dict
    )  # {flag that is for this mode alone: its argparse keywords}


@dataclass(frozen=True, eq=False)
class Query:
    """A question of some studies, named behind `flag`. `run`(studies, folder, args): the text of the answer."""

    flag: str
    help: str
    run: Callable
    options: Mapping[str, dict] = field(default_factory=dict)  # {flag that is for it alone: its argparse keywords}


def later(address: str) -> Callable:
    """The function at 'module:name', imported when it is called."""
    module, name = address.split(":")
    return lambda *args, **options: getattr(importlib.import_module(module), name)(*args, **options)


def hooks(kind: str) -> list:
    """Everything of one kind that the questions have, in their order."""
    modules = [importlib.import_module(f"questions.{name}") for name in NAMES]
    return [row for module in modules for row in getattr(module, kind, ())]
