"""Do the tests err as often as they say, and see what they should? By simulation, through the public functions.

    python bench/calibration.py --replications 20000 --json calibration.json

Simulated studies follow PD_ij = mu + g_i + g_j + s_ij (Hoeffding 1948) with a standard deviation of 2 % of mu and
rho = var(g) / (2 var(g) + var(s)), the correlation of two PDs that share a trial. `pairing` is the correlation of the
same trial (its g, and its s with the other trials) across activations. All rates are in percent, at alpha = 0.05;
`±` is two binomial standard errors; `naive` is the usual t-test on pairwise PDs, shown for comparison.
The target of a figure is the one published with the procedure. Those of ten pairs and of power come without their
rho; they agree with 0.30, which the planning formula assumes too (k = 1/rho - 2 = 4/3). 0.40 is shown beside it.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from tabulate import tabulate

import storage
from config import Parser
from significance import compare_pd, holm, naive_pairs_test

ALPHA = 0.05
SPREAD = 0.02  # standard deviation of a PD over its mean
TRIALS = (3, 5, 8, 12, 20)
NAIVE = {3: 18, 5: 35, 8: 46, 12: 54, 20: 63}
NAIVE_FAMILY = {3: 60, 5: 82, 8: 91, 12: 96, 20: 99}
FALSE_POSITIVE = {
    (0.25, 0.0): {3: 2.4, 5: 3.3, 8: 3.6, 12: 3.9, 20: 4.7},
    (0.40, 0.0): {3: 3.8, 5: 4.4, 8: 4.8, 12: 4.4, 20: 5.2},
    (0.40, 0.5): {3: 3.7, 5: 4.4, 8: 4.7, 12: 4.8, 20: 4.9},
}
FAMILY = {3: 3.0, 5: 3.2, 8: 3.4, 12: 3.7, 20: 3.6}
POWER = {(3, 5): 52, (3, 10): 95, (3, 20): 100, (5, 5): 99, (5, 10): 100, (5, 20): 100}
FEW = (3, 5, 8)


def studies(rng, replications, activations, n, rho, pairing, ratio=1.0):
    """Yields the PD matrices (activations, n, n) of one study after another; the first has `ratio` times the PD."""
    sd_g, sd_s = SPREAD * math.sqrt(rho), SPREAD * math.sqrt(1 - 2 * rho)
    scale = np.ones((activations, 1, 1))
    scale[0] = ratio
    shared, own = math.sqrt(pairing), math.sqrt(1 - pairing)
    for _ in range(replications):
        g = shared * rng.standard_normal((1, n)) + own * rng.standard_normal((activations, n))
        s = np.triu(shared * rng.standard_normal((1, n, n)) + own * rng.standard_normal((activations, n, n)), 1)
        yield scale * (1 + sd_g * (g[:, :, None] + g[:, None, :]) + sd_s * (s + s.transpose(0, 2, 1)))


def row(table, setting, n, hits, replications, target, naive=None, naive_target=None):
    rate = hits / replications
    percent = [100 * rate, 200 * math.sqrt(rate * (1 - rate) / replications)]
    naive = None if naive is None else 100 * naive / replications
    keys = ("table", "setting", "n", "rate", "plus_minus", "target", "naive", "naive_target")
    return dict(zip(keys, (table, setting, n, *percent, target, naive, naive_target), strict=True))


def false_positives(rng, replications):
    """Rate of p < 0.05 of the paired PD test where nothing differs, and coverage of the ratio's 95 % interval."""
    rates, coverage = [], []
    for (rho, pairing), targets in FALSE_POSITIVE.items():
        setting = f"rho {rho:.2f}" + (f", pairing {pairing:g}" if pairing else "")
        for n in TRIALS:
            hits = covered = naive = 0
            for a, b in studies(rng, replications, 2, n, rho, pairing):
                c = compare_pd(a, b)
                hits += c.p < ALPHA
                covered += c.low <= 1 <= c.high
                naive += naive_pairs_test(a, b).p < ALPHA
            published = NAIVE[n] if (rho, pairing) == (0.40, 0.0) else None
            rates.append(row("false positives", setting, n, hits, replications, targets[n], naive, published))
            if n in FEW:
                coverage.append(row("coverage of 95 %", setting, n, covered, replications, "93-98"))
    return rates, coverage


def family_wise(rng, replications):
    """Rate of at least one finding over the ten pairs of five activations that do not differ, after Holm."""
    rows = []
    for rho, n in [(0.30, n) for n in TRIALS] + [(0.40, n) for n in FEW]:
        hits = naive = 0
        for pds in studies(rng, replications, 5, n, rho, 0.0):
            pairs = list(itertools.combinations(pds, 2))
            hits += min(holm([compare_pd(a, b).p for a, b in pairs])) < ALPHA
            naive += any(naive_pairs_test(a, b).p < ALPHA for a, b in pairs)
        targets = (FAMILY[n], NAIVE_FAMILY[n]) if rho == 0.30 else ("<= 5.5", None)
        rows.append(row("any of ten", f"rho {rho:.2f}, Holm", n, hits, replications, targets[0], naive, targets[1]))
    return rows


def power_and_coverage(rng, replications):
    """Rate of p < 0.05 where the PD is 5, 10 or 20 % lower, and coverage of the true ratio."""
    rates, coverage = [], []
    for rho, n, percent in itertools.product((0.30, 0.40), (3, 5), (5, 10, 20)):
        hits = covered = 0
        ratio = 1 - percent / 100
        for a, b in studies(rng, replications, 2, n, rho, 0.75, ratio):
            c = compare_pd(a, b)
            hits += c.p < ALPHA
            covered += c.low <= ratio <= c.high
        setting = f"{percent} % less PD, rho {rho:.2f}, pairing 0.75"
        target = POWER[n, percent] if rho == 0.30 else None
        rates.append(row("power", setting, n, hits, replications, target))
        coverage.append(row("coverage of 95 %", setting, n, covered, replications, "93-98"))
    return rates, coverage


def main(argv=None):
    parser = Parser(prog="calibration.py", description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=20_000, help="simulated studies a figure (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default 0)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    args = parser.parse_args(argv)
    if args.replications < 1 or args.seed < 0:
        parser.error("--replications must be at least 1 and --seed at least 0")

    started = time.perf_counter()
    streams = np.random.default_rng(args.seed).spawn(3)  # one a table: none depends on how another is made
    rates, coverage = false_positives(streams[0], args.replications)
    rows = rates + family_wise(streams[1], args.replications)
    power, more_coverage = power_and_coverage(streams[2], args.replications)
    rows += power + coverage + more_coverage
    seconds = time.perf_counter() - started

    show = [
        {k: "" if v is None else f"{v:.1f}" if isinstance(v, float) and k != "target" else v for k, v in r.items()}
        for r in rows
    ]
    names = {"rate": "rate %", "plus_minus": "±", "naive": "naive %", "naive_target": "naive target"}
    headers = {key: names.get(key, key) for key in rows[0]}
    print(tabulate(show, headers=headers, disable_numparse=True))
    print(f"\n{args.replications} replications, seed {args.seed}, {seconds:.0f} s")
    if args.json:
        record = {"replications": args.replications, "seed": args.seed, "seconds": seconds, "rows": rows}
        storage.write_json(args.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
