"""On which text do trials disagree, and is it an error?"""

from analysis.products import Product
from questions import later

PRODUCTS = (
    Product(
        "where the trials differ",
        needs="where*.json",
        measure=later("questions.where.measure:measure"),
        weights=True,
        make=later("questions.where.draw:make"),
        section=later("questions.where.tell:section"),
        flag="--where",
        help="on which text trials differ, and whether it is an error",
        overview=later("questions.where.tell:overview"),
    ),
)
