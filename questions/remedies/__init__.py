"""What brings trials together, and what does it cost?"""

from analysis.products import Product
from questions import later

PRODUCTS = (
    Product(
        "remedies",
        needs="remedies.json",
        measure=later("questions.remedies.measure:measure"),
        weights=True,
        make=later("questions.remedies.draw:make"),
        section=later("questions.remedies.tell:section"),
        flag="--remedies",
        help="what brings trials together, and what it costs",
        overview=later("questions.remedies.tell:overview"),
    ),
)
PARTS = ("questions.remedies.parts:Teachers", "questions.remedies.parts:Averages")
