"""The checkout's own results are nobody's fixture: a test or a program that it starts fails where it reads or writes
them. What a person trained there must not decide whether the tests pass, nor be changed by them."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = tuple(str(ROOT / name) for name in ("results", "plots", "checkpoints", "studies", "data"))
# of Python's audit events those that name a path first
EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


class Touched(AssertionError):
    """A folder of the checkout that a run fills was read or written."""


def _watch(event: str, arguments: tuple) -> None:
    if event in EVENTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
        name = os.fsdecode(arguments[0])
        path = os.path.abspath(name)
        if os.sep not in name and event not in ("os.listdir", "os.scandir", "os.mkdir"):
            return  # as rmtree names what lies in the folder whose descriptor it holds
        if path.startswith(FOLDERS) and any(path == f or path.startswith(f + os.sep) for f in FOLDERS):
            raise Touched(f"{event} of {path}: a test must not see what was trained in the checkout")


def watch() -> None:
    """From now on, in this process and those that are forked from it."""
    sys.addaudithook(_watch)
