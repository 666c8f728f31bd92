"""The form in which the integrity checks are recorded: dicts of strings, for the results and the report."""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path

from storage import number

TOO_SHORT = "too short a training"  # what a check says that fails since a training has only begun


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    path = Path(__file__).resolve().parent.parent / "templates" / "checks.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def check(name: str, passed: bool | None | str, measured: str, threshold: str = "", why: str = "") -> dict:
    """`passed` is None where the check does not apply, and "caution" where the numbers stand but must be read with
    what was measured in mind; `why` it matters. What isn't given is in templates/checks.toml."""
    status = {True: "pass", False: "fail", None: "not applicable", "caution": "caution"}[passed]
    threshold, why = threshold or _texts()[name]["needed"], why or _texts()[name]["why"]
    return {"name": name, "status": status, "measured": measured, "threshold": threshold, "why": why}


def listed(problems: list[str], otherwise: str) -> str:
    """The first few problems in words, or what there is to say when there are none."""
    if not problems:
        return otherwise
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def half_a_unit(config: Mapping) -> float:
    """By how many parameters models of one size may differ since a gated layer's width is a whole number: half a unit
    of each layer, of three weights for each number of the stream; with biases those of the gate too. 0 where the size
    is not known."""
    width, layers = number(config.get("n_embd")) or 0, number(config.get("n_layer")) or 0
    return layers * (1.5 * width + bool(config.get("bias")) * (4 / 3 * width + 1))
