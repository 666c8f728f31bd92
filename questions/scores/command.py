"""python compare.py --scores …: the referee's command line. It needs numpy and scipy, writes no file unless asked."""

from __future__ import annotations

import json
import sys

from config import Parser, UserError, command_line
from questions.scores.samples import decide_samples
from questions.scores.verdicts import GATES, decide


def main(argv):
    """Exit status: 0 answered (with --gate: it holds), 1 the gate does not hold, 2 wrong input."""
    parser = Parser(prog="compare.py", description="One number per seed in, a verdict out.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--scores", nargs="*", metavar="X",
        help="a file, folder or glob, - for standard input, NAME=1.2,1.3,1.1, or NAME=PATH for one arm's runs",
    )  # fmt: skip
    what.add_argument(
        "--samples", nargs="*", metavar="X",
        help="outcomes per example: NAME=FILE for each system (samples of lm-evaluation-harness, a CSV), or one table",
    )  # fmt: skip
    parser.add_argument("--baseline", metavar="NAME", help="the arm that others are compared with")
    parser.add_argument("--against", metavar="X", help="compare with this number instead")
    pairing = parser.add_mutually_exclusive_group()
    pairing.add_argument("--paired", action="store_true", default=None, help="seeds are shared, though unnamed")
    pairing.add_argument("--unpaired", dest="paired", action="store_false", help="seeds are not shared")
    parser.add_argument("--better", choices=("lower", "higher"), help="which is better")
    parser.add_argument("--one-sided", action="store_true", help="test for better alone, as planned before the data")
    parser.add_argument(
        "--margin", metavar="X", help="the smallest difference that matters: 0.005, or 1%% of the baseline"
    )
    parser.add_argument("--alpha", default="0.05", metavar="X", help="chance of any false claim (default: 0.05)")
    parser.add_argument("--looks", nargs="+", metavar="N", help="numbers of seeds at which one looks, as 3 5 8")
    parser.add_argument("--arm", metavar="COLUMN", help="column of the arms")
    parser.add_argument("--seed", metavar="COLUMN", help="column of the seeds")
    parser.add_argument("--value", metavar="NAME", help="column of the value, metric, or arms of a wide table (A,B)")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="rows that count")
    parser.add_argument("--cluster", metavar="COLUMN", help="of --samples: examples that vary together")
    parser.add_argument("--decimal", choices=(".", ","), help="the sign before decimals")
    parser.add_argument("--pattern", metavar="REGEX", help="value in logs: 'val loss ([0-9.]+)'; its last match counts")
    parser.add_argument("--gate", choices=GATES, help="exit status 1 unless this holds of every comparison")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print a block of Markdown")
    args = parser.parse_args(argv)
    try:
        with command_line():
            return _answer(args)
    except UserError as error:
        print(f"compare.py: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _answer(args):
    columns = {"arm": args.arm, "seed": args.seed, "value": args.value, "where": args.where}
    common = {"baseline": args.baseline, "margin": args.margin, "alpha": args.alpha}
    if not (args.scores or args.samples):
        raise UserError("--scores: needs a file, - for standard input, or NAME=1.2,1.3,1.1 (see --scores --help)")
    if args.samples:
        answer = decide_samples(args.samples, **common, better=args.better or "higher", cluster=args.cluster, **columns)
        if args.gate:
            raise UserError("--gate: is for --scores")
    else:
        answer = decide(
            args.scores, **common, against=args.against, paired=args.paired, better=args.better,
            looks=_looks(args.looks), one_sided=args.one_sided, decimal=args.decimal, pattern=args.pattern, **columns,
        )  # fmt: skip
    holds = args.gate is None or answer.holds(args.gate)
    if args.json:
        gate = {} if args.gate is None else {"gate": args.gate, "holds": holds}
        print(json.dumps(answer.as_dict() | gate, indent=1, allow_nan=False))
    else:
        print(answer.markdown() if args.markdown else answer)
    if not holds:
        print(f"compare.py: gate {args.gate}: does not hold", file=sys.stderr)
    return 0 if holds else 1


def _looks(given):
    if given is None:
        return None
    if not all(word.isdigit() for text in given for word in text.split(",") if word):
        raise UserError(f"looks: {' '.join(given)}: must be numbers of seeds, as 3 5 8")
    return tuple(int(word) for text in given for word in text.split(",") if word)
