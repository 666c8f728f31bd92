"""The form in which the integrity checks are recorded: dicts of strings, for the results and the report."""

from collections.abc import Mapping

from storage import number

TOO_SHORT = "too short a training"  # what a check says that fails since a training has only begun


def check(name: str, passed: bool | None | str, measured: str, threshold: str, why: str) -> dict:
    """`passed` is None where the check does not apply, and "caution" where the numbers stand but must be read with
    what was measured in mind; `why` it matters."""
    status = {True: "pass", False: "fail", None: "not applicable", "caution": "caution"}[passed]
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
