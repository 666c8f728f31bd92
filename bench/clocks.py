"""Does the clock's answer hold? Five recipes: `train.py --clock` of three seeds, against twenty twins trained in full.

    python bench/clocks.py            # about twenty minutes of one core; stopped, it goes on

The twins are trials 2 to 21 of `--vary bit`: trainings of their own that begin with one bit moved, with a seed that
none of the clock's trials has. Studies in studies/, as of train.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import storage

SMALL = "--n-layer 2 --n-head 2 --n-embd 64 --max-iters 650 --warmup-iters 130 --precision float32 --no-native"
RECIPES = {
    "ReLU, 1e-3": "--activation relu --learning-rate 1e-3",
    "GELU, 1e-3": "--activation gelu --learning-rate 1e-3",
    "GELU, 1.2e-2": "--activation gelu --learning-rate 1.2e-2",
    "Swish, 3e-3": "--activation swish --learning-rate 3e-3",
    "Llama with SwiGLU, 1e-3": "--model llama --activation swiglu --learning-rate 1e-3",
}


def run(flags: str) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--preset", "quick", "--quiet", *SMALL.split(), *flags.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    rows = []
    for number, (name, flags) in enumerate(RECIPES.items(), 1):
        run(f"{flags} --clock --study clock{number}")
        activation = flags.split("--activation ")[1].split()[0]
        clock = storage.read_json(storage.clock_path(ROOT / f"studies/clock{number}/results", activation))
        ends = [trial["forks"][0]["predictions"][-1] for trial in clock["trials"].values()]
        seconds = sum(trial["processor_seconds"] for trial in clock["trials"].values())
        run(f"{flags} --vary bit --trials 21 --seed-base 77000 --study twins{number}")
        results = storage.read_results(ROOT / f"studies/twins{number}/results/{activation}_results.json")
        pairs = results["reproducibility_metrics"]
        twins = [pair["relative_pd"] for pair in pairs if pair["model_pair"].startswith("1_vs_")]
        rows.append([name, *(f"{geometric(pd):.1e} ({min(pd):.0e} to {max(pd):.0e})" for pd in (ends, twins)), seconds])
    heads = ["recipe", "the clock: PD at the end, 3 seeds", "20 twins", "the clock's CPU seconds"]
    print(tabulate(rows, heads, tablefmt="pipe", floatfmt=".0f"))


def geometric(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-10)))))


if __name__ == "__main__":
    main()
