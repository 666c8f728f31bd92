"""Add trials until the answer is decided."""

from analysis.products import Product
from questions import LOGGED, Mode, later

PRODUCTS = (
    Product(
        "looks while training",
        needs="looks.json",
        measure=later("questions.until_decided.looks:measure"),
        section=later("questions.until_decided.looks:section"),
        part="Statistical Significance",
        note="when each look was taken, and what it cost, is recorded only",
    ),
)
MODES = (
    Mode(
        "--until-decided",
        "add trials until each PD is known to be lower or higher than the baseline's, or equal",
        later("questions.until_decided.command:run"),
        takes=LOGGED,
        overwrites="goes on from the trials that are there; leave --overwrite out",
        options={
            "budget": {"metavar": "TIME", "help": "how long all runs of --until-decided may take: 90s, 30m, 2h"},
            "margin": {
                "type": float,
                "metavar": "PERCENT",
                "help": "of PD, practically nothing to --until-decided (default: 5)",
            },
        },
    ),
)
AMENDED = (later("questions.until_decided.looks:with_looks"),)
STATUS = (later("questions.until_decided.looks:status"),)
