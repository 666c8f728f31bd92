"""How fast do two trainings part that differ in one bit?"""

from analysis.products import Product
from questions import Mode, later

PRODUCTS = (Product("the chaos clock", needs="clock/*.json", make=later("questions.clock.draw:make")),)
MODES = (
    Mode(
        "--clock",
        "how fast two trainings part that differ in one bit, and from when on they stay together",
        later("questions.clock.command:run"),
        overwrites="goes on with what is there; leave --overwrite out, or give --study NAME",
    ),
)
JOBS = (("clock", later("questions.clock.measure:run_clock")),)
