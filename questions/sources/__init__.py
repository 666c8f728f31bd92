"""How much does each source of randomness alone make differ?"""

from analysis.products import Product
from questions import LOGGED, Mode, later

PRODUCTS = (
    Product(
        "sources of randomness",
        needs="[!.]*_sources.json",
        measure=later("questions.sources.command:measure"),
        make=later("questions.sources.command:make"),
    ),
)
MODES = (
    Mode(
        "--decompose",
        "how much each source of randomness alone makes differ",
        later("questions.sources.command:run"),
        default="relu",
        takes=LOGGED,
    ),
)
