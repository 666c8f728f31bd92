"""Planted defects: each is put in, seen to be caught, and the same check is seen to pass without it.

Every row of the list of ways in which experiments of this kind went wrong that concerns the program has a test, in
test_audit.py (before training) or test_checks.py (of what was trained).
"""


def planted(defect: str, caught_by: str):
    """Mark a test as planting a defect."""

    def mark(test):
        test.planted = defect, caught_by
        return test

    return mark


def assert_counted(tests: dict, least: int) -> None:
    """At the end of a file: so many planted defects at least, none twice, each one marked."""
    marked = {name: test.planted[0] for name, test in tests.items() if hasattr(test, "planted")}
    assert len(marked) >= least
    assert len(marked) == len(set(marked.values()))
    assert set(marked) == {name for name in tests if name.startswith("test_planted_")}


def status(checks: list[dict]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in checks}


def measured(checks: list[dict], name: str) -> str:
    return next(check["measured"] for check in checks if check["name"] == name)
