"""What do all studies say together?"""

from analysis.products import Product
from questions import later

PRODUCTS = (
    Product(
        "all studies",
        needs="ALL_STUDIES.md",
        make=later("questions.studies.tell:make"),
        flag="--all-studies",
        help="the final table over the studies, and conclusions",
        overview=later("questions.studies.tell:overview"),
    ),
)
