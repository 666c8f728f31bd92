"""Where does the time of the whole study go?

    python bench/study.py --json figures.json              # the default study: minutes
    python bench/study.py --flags --preset smoke           # anything else that train.py understands

Runs `train.py` as a process of its own into a temporary folder, then takes the parts one by one: training (the trials'
own seconds, shared by the cores), measuring (all checkpoints once more), analysis and figures (as processes of their
own), start-up and audit. The parts overlap in the real run, so they need not add up to its wall-clock time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tabulate import tabulate

import storage
from training import pool


def timed(*command) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measuring(results: Path, folder: Path) -> float:
    """Seconds of deriving every results file again from its checkpoints, in a process with torch loaded."""
    from config import Config
    from prepare_data import load_corpus
    from training import experiment

    seconds = 0.0
    for path in sorted(results.glob("*_results.json")):
        recorded = storage.read_results(path)
        config = Config.from_dict(recorded["config"])
        corpus = load_corpus(config)
        start = time.perf_counter()
        experiment.measure(config, recorded["activation"], corpus)
        seconds += time.perf_counter() - start
    return seconds


def evaluating(recorded: dict) -> float:
    """CPU seconds that one trial spends on the points of its curves and on its final training loss."""
    import metrics
    from config import Config
    from prepare_data import load_corpus
    from training import trial as trials

    config = Config.from_dict(recorded["config"])
    corpus = load_corpus(config)
    with trials.torch_settings(config):
        training = trials.Training(config, recorded["activation"], 1, corpus)
        start = time.thread_time()
        training.record_point()
        point = time.thread_time() - start
        starts = metrics.evaluation_windows(len(corpus.train), config.block_size, config.eval_tokens)
        metrics.evaluate_loss(training.model.eval(), corpus.train, starts, config.block_size, config.device)
        return point * len(recorded["steps"]) + time.thread_time() - start - point


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--folder", help="keep the study there (default: a temporary folder, removed)")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="the rest goes to train.py")
    args = parser.parse_args()
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        flags = [f"--results-dir={folder}/results", f"--plots-dir={folder}/plots"]
        train = [*flags, f"--checkpoint-dir={folder}/checkpoints", *args.flags]
        timed("prepare_data.py", *[f for f in args.flags if f])  # downloading is not the study's time
        start_up = timed("train.py", "--audit-only", *train)
        total = timed("train.py", *train)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        results = [storage.read_results(p) for p in sorted((folder / "results").glob("*_results.json"))]
        trials = [t for r in results for t in r["trials"]]
        cores = min(pool.usable_cores(), len(trials))
        parts = {
            "whole study, wall clock": total,
            f"training, {len(trials)} trials on {cores} cores": sum(t["training_time"] for t in trials) / cores,
            "evaluation along training and at its end": evaluating(results[0]) * len(trials) / cores,
            "measuring all pairs": measuring(folder / "results", folder),
            "analysis and report": timed("analyze_results.py", *flags),
            "every figure": timed("plot_utils.py", *flags),
            "start-up and audit of every activation": start_up,
        }
        rows = [(name, seconds, f"{100 * seconds / total:.0f} %") for name, seconds in parts.items()]
        print(f"{os.cpu_count()} cores, {platform.machine()}; largest process {peak:.2f} GiB")
        print(tabulate(rows, headers=("part", "seconds", "of the whole"), floatfmt=".1f"))
        losses = [(r["activation"], r["avg_val_loss"], r["avg_relative_pd"]) for r in results]
        print(tabulate(losses, headers=("activation", "validation loss", "relative PD"), floatfmt=".4f"))
        if args.json:
            storage.write_json(args.json, {"parts": parts, "peak_gib": peak, "results": losses})


if __name__ == "__main__":
    main()
