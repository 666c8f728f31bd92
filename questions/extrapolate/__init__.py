"""What will a larger or longer training's churn be?"""

from questions import Query, later

QUERIES = (
    Query(
        "--extrapolate",
        "from these studies' widths and lengths the PD of another one",
        later("questions.extrapolate.command:run"),
        options={
            "to_width": {"type": int, "metavar": "WIDTH", "help": "of --extrapolate (default: the largest there is)"},
            "to_steps": {"type": int, "metavar": "STEPS", "help": "of --extrapolate (default: the longest there is)"},
        },
    ),
)
