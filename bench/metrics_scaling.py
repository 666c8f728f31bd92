"""Time and memory of the pairwise metrics: for n = 3…32 trials, V = 65…50 257 tokens, N up to 10⁶ positions.

    python bench/metrics_scaling.py [--quick] [--large] [--native] [--json FILE] [--threads K]

Each case runs `metrics.evaluate_models` in a process of its own, so that its peak memory can be told. The models are
stand-ins, one row of a table and an offset per position, so that the metrics are what is timed. Shown are

    per model   seconds (with one thread: CPU time, which other load on the machine hardly lengthens) for the
                logits and what is taken from them alone (softmax, arg-max, loss), for each model
    pairwise    seconds for everything else, which is the comparison of all n(n-1)/2 pairs
    ns/value    the same, for each pair, position and token
    peak        resident memory of the whole process, Python and torch included

`--large` adds n = 16, V = 50 257, N = 65 536 (3.9e11 values to compare: some 40 minutes of one core).
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
T = 64  # tokens in a window

# (trials, vocabulary, positions)
QUICK = [(3, 65, 16384), (8, 65, 16384), (16, 65, 16384), (3, 50257, 128)]
CASES = [
    *((n, 65, 65536) for n in (3, 5, 8, 16, 32)),
    *((3, 65, N) for N in (2**14, 2**18, 10**6)),
    *((3, V, 4096) for V in (256, 1024, 8192, 50257)),
    (16, 50257, 512),
    (32, 50257, 128),
]
LARGE = (16, 50257, 65536)


def measure(n: int, V: int, N: int, threads: int, native: bool) -> dict:
    """Run one case in this process."""
    import numpy as np
    import torch

    sys.path.insert(0, str(ROOT))
    import metrics
    from kernels import pairs

    class Table(torch.nn.Module):
        rows = torch.randn(16, V, generator=torch.Generator().manual_seed(0))

        def __init__(self, seed):
            super().__init__()
            self.offset = 0.1 * torch.randn(V, generator=torch.Generator().manual_seed(seed))

        def forward(self, idx):
            return self.rows[idx % 16].add_(self.offset)

    clock = time.process_time if threads == 1 else time.perf_counter
    per_model = 0.0
    inside = False  # block_of asks for further logits

    def timed(function):
        def call(*args, **kwargs):
            nonlocal per_model, inside
            if inside:
                return function(*args, **kwargs)
            start, inside = clock(), True
            result = function(*args, **kwargs)
            per_model, inside = per_model + clock() - start, False
            return result

        return call

    for name in ("_logits", "block_of"):
        setattr(metrics, name, timed(getattr(metrics, name)))
    torch.set_num_threads(threads)
    tokens = np.random.default_rng(0).integers(V, size=N + 1).astype(np.uint32)
    starts = metrics.evaluation_windows(len(tokens), T, N)
    models = [Table(seed) for seed in range(1, n + 1)]
    if not native:
        pairs.available = lambda: False
    start = clock()
    found = metrics.evaluate_models(models, tokens, starts, T)
    total = clock() - start
    count = n * (n - 1) // 2
    return {
        "trials": n,
        "vocabulary": V,
        "positions": found.positions,
        "total_s": total,
        "per_model_s": per_model / n,
        "pairwise_s": total - per_model,
        "ns_per_value": 1e9 * (total - per_model) / (count * found.positions * V),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux counts in KiB
        "relative_pd": found.pairs[0]["relative_pd"],
        "torch": torch.__version__,
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four small cases")
    parser.add_argument("--large", action="store_true", help="also n = 16, V = 50 257, N = 65 536")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case; the median is shown (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--native", action="store_true", help="with the compiled pair sums (kernels/pairs.cpp)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--case", type=int, nargs=3, metavar=("n", "V", "N"), help="this one case only")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(measure(*args.case, args.threads, args.native)))
        return 0
    cases = [(*case, args.repeats) for case in ([args.case] if args.case else QUICK if args.quick else CASES)]
    cases += [(*LARGE, 1)] if args.large else []
    print(f"{'trials':>6} {'V':>6} {'N':>8} {'per model':>11} {'pairwise':>11} {'ns/value':>9} {'peak':>9}")
    figures = []
    for n, V, N, repeats in cases:
        command = [sys.executable, __file__, "--here", "--threads", str(args.threads), "--case", *map(str, (n, V, N))]
        command += ["--native"] if args.native else []
        runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(repeats)]
        case = sorted(runs, key=lambda run: run["total_s"])[len(runs) // 2]
        figures.append(case)
        print(
            f"{n:6} {V:6} {case['positions']:8} {case['per_model_s']:9.3f} s {case['pairwise_s']:9.3f} s "
            f"{case['ns_per_value']:9.2f} {case['peak_mb']:6.0f} MB",
            flush=True,
        )
    by_n = {c["trials"]: c["per_model_s"] for c in figures if (c["vocabulary"], c["trials"] in (3, 16)) == (65, True)}
    if {3, 16} <= set(by_n):
        print(f"time per model, n = 16 against n = 3: {by_n[16] / by_n[3]:.2f}")
    if args.json:
        machine = {"machine": platform.processor() or platform.machine(), "threads": args.threads}
        args.json.write_text(json.dumps({**machine, "cases": figures}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
