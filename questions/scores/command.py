"""python compare.py --scores …: the referee's command line. It needs numpy and scipy, writes no file unless asked."""

from __future__ import annotations

import json
import sys

from cli import answers, option
from config import Parser, UserError
from questions.scores.samples import decide_samples
from questions.scores.verdicts import GATES, decide

FOR_SCORES = ("gate", "against", "paired", "looks", "one_sided", "decimal", "pattern")


def _parser():
    parser = Parser(prog="compare.py", description="One number per seed in, a verdict out.")
    flag = parser.add_mutually_exclusive_group(required=True).add_argument
    scores = "a file, folder or glob, - for standard input, NAME=1.2,1.3,1.1, or NAME=PATH for one arm's runs"
    samples = "outcomes per example: NAME=FILE for each system (samples of lm-evaluation-harness, a CSV), or one table"
    flag("--scores", nargs="*", metavar="X", help=scores)
    flag("--samples", nargs="*", metavar="X", help=samples)
    flag = parser.add_argument
    flag("--baseline", metavar="NAME", help="the arm that others are compared with")
    flag("--against", metavar="X", help="compare with this number instead")
    pairing = parser.add_mutually_exclusive_group().add_argument
    pairing("--paired", action="store_true", default=None, help="seeds are shared, though unnamed")
    pairing("--unpaired", dest="paired", action="store_false", help="seeds are not shared")
    flag("--better", choices=("lower", "higher"), help="which is better")
    flag("--one-sided", action="store_true", default=None, help="test for better alone, as planned before the data")
    flag("--margin", metavar="X", help="the smallest difference that matters: 0.005, or 1%% of the baseline")
    flag("--alpha", default="0.05", metavar="X", help="chance of any false claim (default: 0.05)")
    flag("--looks", nargs="+", metavar="N", help="numbers of seeds at which one looks, as 3 5 8")
    flag("--arm", metavar="COLUMN", help="column of the arms")
    flag("--seed", metavar="COLUMN", help="column of the seeds")
    flag("--value", metavar="NAME", help="column of the value, metric, or arms of a wide table (A,B)")
    flag("--where", action="append", default=[], metavar="COLUMN=VALUE", help="rows that count")
    flag("--cluster", metavar="COLUMN", help="of --samples: examples that vary together")
    flag("--decimal", choices=(".", ","), help="the sign before decimals")
    flag("--pattern", metavar="REGEX", help="value in logs: 'val loss ([0-9.]+)'; its last match counts")
    flag("--gate", choices=GATES, help="exit status 1 unless this holds of every comparison")
    form = parser.add_mutually_exclusive_group().add_argument
    form("--json", action="store_true", help="print JSON")
    form("--markdown", action="store_true", help="print a block of Markdown")
    return parser


@answers("compare.py")
def main(argv):
    """Exit status: 0 answered (with --gate: it holds), 1 the gate does not hold, 2 wrong input."""
    options = vars(_parser().parse_args(argv))
    scores, samples, cluster, as_json, markdown = map(options.pop, ("scores", "samples", "cluster", "json", "markdown"))
    if not (scores or samples):
        raise UserError("--scores: needs a file, - for standard input, or NAME=1.2,1.3,1.1 (see --scores --help)")
    only = {name: options.pop(name) for name in FOR_SCORES}
    if samples:
        if other := next((name for name, value in only.items() if value is not None), None):
            flag = "--unpaired" if only[other] is False else option(other).split()[0]
            raise UserError(f"{flag}: is for --scores")
        answer = decide_samples(samples, cluster=cluster, **options | {"better": options["better"] or "higher"})
    gate = only.pop("gate")
    if scores:
        only |= {"looks": _looks(only["looks"]), "one_sided": bool(only["one_sided"])}
        answer = decide(scores, **options, **only)
    holds = gate is None or answer.holds(gate)
    if as_json:
        said = answer.as_dict() | ({} if gate is None else {"gate": gate, "holds": holds})
        print(json.dumps(said, indent=1, allow_nan=False))
    else:
        print(answer.markdown() if markdown else answer)
    if not holds:
        print(f"compare.py: gate {gate}: does not hold", file=sys.stderr)
    return 0 if holds else 1


def _looks(texts):
    if texts is None:
        return None
    words = [word for text in texts for word in text.split(",") if word]
    if not all(map(str.isdigit, words)):
        raise UserError(f"looks: {' '.join(texts)}: must be numbers of seeds, as 3 5 8")
    return tuple(map(int, words))
