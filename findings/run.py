"""Train the studies of PLAN.md, in its order, for as long as there is time; run it again to go on.

    python findings/run.py --hours 2            # stops by itself, with everything saved
    python findings/run.py A B                  # these alone
    python findings/run.py --publish            # copy what is finished to findings/measured

Each study is an ordinary study of train.py in studies/NAME. Nothing about its outcome is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import storage

MEASURED = ROOT / "findings" / "measured"
ALL = ("smelu_05", "smelu_1", "relu", "gelu", "swish")
THREE = ("relu", "gelu", "smelu_1")
TWO = ("relu", "gelu")


@dataclass(frozen=True)
class Planned:
    activations: tuple[str, ...]
    seeds_from: int
    least: int
    first: int  # trials before the next study begins
    most: int
    flags: tuple[str, ...] = ()


PLAN = {
    "A": Planned(ALL, 5000, 12, 16, 30),
    "B": Planned(ALL, 6000, 5, 5, 10, ("--dataset", "{tiny}")),
    "F_half": Planned(TWO, 9500, 5, 5, 8, ("--learning-rate", "1.5e-3")),
    "F_double": Planned(TWO, 9800, 5, 5, 8, ("--learning-rate", "6e-3")),
    "D64": Planned(THREE, 8000, 5, 5, 8, ("--n-embd", "64")),
    "E": Planned(THREE, 9000, 5, 5, 8, ("--tokenizer", "bpe")),
    "C": Planned(ALL, 7000, 4, 4, 10, ("--model", "llama")),
    "D256": Planned(THREE, 8500, 3, 3, 8, ("--n-embd", "256")),
}


def command(name: str, planned: Planned, trials: int, tiny: str = "") -> list[str]:
    flags = [flag.format(tiny=tiny) for flag in planned.flags]
    return [
        *(sys.executable, str(ROOT / "train.py"), "--quiet", "--preset", "quick", "--schedule", "trunk"),
        *("--seed-base", str(planned.seeds_from), "--trials-per-activation", str(trials), "--study", name),
        *("--activation", *planned.activations, *flags),
    ]


def trained(name: str, planned: Planned) -> int:
    """Trials that every activation of a study has a checkpoint of."""
    folder = ROOT / "studies" / name / "checkpoints"
    return min(len(storage.trial_numbers(folder, activation)) for activation in planned.activations)


def train(name: str, planned: Planned, trials: int, ends: float, tiny: str = "") -> bool:
    """Whether the study got that far before the time was over."""
    left = ends - time.time()
    if left < 60:
        return False
    begun = time.time()
    process = subprocess.Popen(command(name, planned, trials, tiny), cwd=ROOT)
    try:
        code = process.wait(left)
    except subprocess.TimeoutExpired:
        process.terminate()  # it saves what it has
        process.wait()
        print(f"{name}: stopped, {trained(name, planned)} trials of each", flush=True)
        return False
    if code:
        raise SystemExit(f"{name}: train.py ended with {code}; see above")
    print(f"{name}: {trials} trials of each ({time.time() - begun:.0f} s)", flush=True)
    return True


BRANCH_PAIR = ("model_pair", "relative_pd", "prediction_differences", "total_predictions")


def compact(results: dict) -> dict:
    """What the findings, the tests and the report's tables are made of, sealed anew: no curves of PD along training, no
    numbers by block of positions, and of the pairs of branches their PD alone. Every number kept is as it was."""
    kept = {key: value for key, value in results.items() if key not in ("divergence", "pd_at_val_loss")}
    for part, by_block in (("trials", "val_loss_by_block"), ("reproducibility_metrics", "relative_pd_by_block")):
        kept[part] = [{key: value for key, value in entry.items() if key != by_block} for entry in kept[part]]
    kept["frontier"] = [
        {**branch, "pairs": [{key: pair[key] for key in BRANCH_PAIR} for pair in branch["pairs"]]}
        for branch in kept["frontier"]
    ]
    del kept["content_sha256"]
    return kept | {"content_sha256": storage.sha256_json(kept)}


def publish(names: Iterable[str], measured: Path) -> None:
    """Copy the finished results to a folder, as `compact` has them."""
    for name in names:
        for path in sorted((ROOT / "studies" / name / "results").glob("*_results.json")):
            target = measured / name / "results" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            results = compact(storage.read_results(path))
            target.write_text(json.dumps(results, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="*", help=f"of {', '.join(PLAN)} (default: all)")
    parser.add_argument("--hours", type=float, default=24.0, help="stop after so many")
    parser.add_argument("--tiny-shakespeare", default="tiny_shakespeare.txt", help="the corpus of study B")
    parser.add_argument("--publish", action="store_true", help="copy what is finished to findings/measured")
    args = parser.parse_args()
    if args.publish:
        publish(PLAN, MEASURED)
        return
    tiny, ends = args.tiny_shakespeare, time.time() + 3600 * args.hours
    names = args.studies or list(PLAN)
    for amount in ("first", "most"):
        for name in names:
            if not train(name, PLAN[name], getattr(PLAN[name], amount), ends, tiny):
                return


if __name__ == "__main__":
    main()
