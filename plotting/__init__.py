"""The figures panel by panel: style.py is their common look, one.py draws an activation, several.py compares them."""

import argparse

# inches, as the templates of these places have it: NeurIPS and ICLR 5.5 in of text, ICML columns of 3.25 in, ACL
# columns of 7.7 cm in 16 cm, IEEE columns of 3.5 in in 7.16 in
WIDTHS = {
    "neurips": 5.5,
    "iclr": 5.5,
    "icml": 3.25,
    "icml-wide": 6.75,
    "acl": 3.03,
    "acl-wide": 6.3,
    "ieee": 3.5,
    "ieee-wide": 7.16,
}
NARROWEST, WIDEST = 3.0, 7.2
WIDTH_HELP = f"inches across the figures, {NARROWEST} to {WIDEST}, or the name of a column: {', '.join(WIDTHS)}"


def width(text: str) -> float:
    """Inches of a figure, from a number or the name of a column: the type of --width."""
    try:
        inches = WIDTHS[text] if text in WIDTHS else float(text)
    except ValueError:
        inches = 0.0
    if not NARROWEST <= inches <= WIDEST:
        raise argparse.ArgumentTypeError(f"inches from {NARROWEST} to {WIDEST}, or one of {', '.join(WIDTHS)}")
    return inches
