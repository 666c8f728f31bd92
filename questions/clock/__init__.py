"""How fast do two trainings part that differ in one bit?"""

from analysis.products import Product
from questions import Mode, later

CLOCK = Product("the chaos clock", needs="clock/*.json", make=later("questions.clock.draw:make"))
RATES = Product(
    "learning rates of the clock", needs="rates/*/clock/*.json", make=later("questions.clock.draw:make_rates")
)
PRODUCTS = (CLOCK, RATES)
MODES = (
    Mode(
        "--clock",
        "is the recipe chaotic? how fast two trainings part that differ in one bit; by learning rate where several are "
        "given",
        later("questions.clock.command:run"),
        overwrites="goes on with what is there; leave --overwrite out, or give --study NAME",
        many=("learning_rate",),
        options={
            "forks": {
                "nargs": "+",
                "type": float,
                "metavar": "PART",
                "help": "after which parts of the training twins leave, for --clock (default: 0, the start alone; from "
                "when on they stay together: 0 0.1 0.3 0.6)",
            }
        },
    ),
)
JOBS = (("clock", later("questions.clock.measure:run_clock")),)
