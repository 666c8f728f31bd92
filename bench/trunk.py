"""How long a trunk, and at which rate, for the loss of the cosine?

    python bench/trunk.py --folder runs                    # keeps what is trained: stop and go on at any moment
    python bench/trunk.py --rates 2e-3 3e-3 --json figures.json

Trains the quick preset once with its cosine and once with a trunk of each rate, some activations and seeds of each. A
branch is the final model of a shorter trunk, so one trunk answers for all lengths. For each length: the mean loss and
its distance from the cosine's, and the training time, branches included, that a trunk of this length with the usual
branch points takes, in that of the cosine: CPU seconds a step as measured, times the steps.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from tabulate import tabulate

import storage
from config import Config
from train import run_study
from training.schedule import total_steps

LENGTHS = (0.7, 0.8, 0.9, 1.0)  # of the cosine's steps


def per_step(results: dict) -> float:
    """CPU seconds, the median over trials."""
    return float(np.median([t["training_time"] / t["steps_trained"] for t in results["trials"]]))


def rows(study: dict[str, dict], cosine: dict[str, dict], config: Config) -> list[dict]:
    """One row for each activation and length of a trunk."""
    found = []
    for name, results in study.items():
        speed = per_step(results) / per_step(cosine[name])
        for length, branch in zip(config.branches, results["frontier"], strict=True):
            steps = total_steps(Config(preset="quick", schedule="trunk", max_iters=length.ends))
            loss, reference = branch["avg_val_loss"], cosine[name]["avg_val_loss"]
            found.append(
                {
                    "rate": config.learning_rate,
                    "activation": name,
                    "steps of the final model": length.ends,
                    "in all": steps,
                    "loss": loss,
                    "cosine's": reference,
                    "difference": loss - reference,
                    "time ratio": speed * steps / len_cosine(cosine[name]),
                    "PD": branch["avg_relative_pd"],
                    "cosine's PD": cosine[name]["avg_relative_pd"],
                }
            )
    return found


def len_cosine(results: dict) -> int:
    return results["trials"][0]["steps_trained"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--activations", nargs="+", default=["relu", "swish"])
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 5e-3])
    parser.add_argument("--folder", help="keep what is trained there (default: a temporary folder, removed)")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as name:

        def train(kind, **settings):
            folders = {f"{what}_dir": str(Path(name, kind, what)) for what in ("results", "plots", "checkpoint")}
            config = Config(preset="quick", trials_per_activation=args.trials, **settings, **folders)
            return config, run_study(config, args.activations)

        _, cosine = train("cosine")
        table = []
        for rate in args.rates:
            config, study = train(f"trunk_{rate:g}", schedule="trunk", learning_rate=rate, branch_points=LENGTHS)
            table += rows(study, cosine, config)
    print(tabulate(table, headers="keys", floatfmt=("g", "", "d", "d", ".4f", ".4f", "+.4f", ".2f", ".4f", ".4f")))
    if args.json:
        storage.write_json(args.json, {"rows": table})


if __name__ == "__main__":
    main()
