"""The form in which the integrity checks are recorded: dicts of strings, for the results and the report."""


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
