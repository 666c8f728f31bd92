"""Train the studies of PLAN3.md, in its order, for as long as there is time; run it again to go on.

    python findings/scaling/compute.py --hours 1    # stops by itself, with everything saved
    python findings/scaling/compute.py --publish    # copy what is finished to findings/scaling/measured

Each study is an ordinary study of train.py in studies/NAME. Nothing about its outcome is printed; the held-out ones
wait for the prediction.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE.parent)]

import run

import storage

MEASURED = HERE / "measured"
PREDICTION = HERE / "prediction.json"
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)
FITTED = {"W32": (2, 32, 40000), "W64": (2, 64, 40100), "W128": (2, 128, 40200)}  # layers, width, seeds from
DEEP = {"L1": (1, 64, 40300), "L4": (4, 64, 40400)}
LONGEST = {"X32": (2, 32, 40500), "X64": (2, 64, 40600), "X128": (2, 128, 40700)}
WIDEST = {"W256": (2, 256, 40800)}
SEEDS, AT_MOST = 5, 8


def flags(layers: int, width: int, rate: float, steps: int, shares: tuple[float, ...] = (1,)) -> tuple[str, ...]:
    """Of train.py, beside those that all planned studies have."""
    network = ("--n-layer", layers, "--n-head", width // 32, "--n-embd", width, "--precision", "bfloat16", "--native")
    schedule = ("--learning-rate", f"{rate:g}", "--max-iters", steps, "--branch-points", *shares)
    return tuple(str(flag) for flag in (*network, *schedule, "--workers", 1))


def rates_study(width: int, rate: float) -> tuple[str, run.Planned]:
    return f"R{width}_{rate:g}", run.Planned(("relu",), 49000, 2, 2, 2, flags(2, width, rate, 1300))


def chosen(losses: dict[float, float]) -> float:
    """The rate of the lowest loss; of those within .002 nats of it the lowest."""
    best = min(losses.values())
    return min(rate for rate, loss in losses.items() if loss <= best + 0.002)


def loss_at(width: int, rate: float, ends: float) -> float | None:
    """ReLU's mean final loss, trained where it isn't; None: the time is over."""
    name, planned = rates_study(width, rate)
    path = ROOT / "studies" / name / "results" / "relu_results.json"
    if not path.exists() and not run.train(name, planned, 2, ends):
        return None
    return storage.read_results(path)["avg_val_loss"]


def rate_of(width: int, ends: float) -> float | None:
    """The rate of a width by the plan's rule, recorded once or published; None: the time is over."""
    path = ROOT / "studies" / f"rate_{width}.json"
    if (MEASURED / path.name).exists():
        path = MEASURED / path.name
    if not path.exists():
        losses: dict[float, float] = {}
        for more in (lambda: RATES, lambda: _beyond(chosen(losses))):
            for rate in more():
                loss = loss_at(width, rate, ends)
                if loss is None:
                    return None
                losses[rate] = loss
        storage.write_json(path, {"losses": {f"{k:g}": v for k, v in losses.items()}, "rate": chosen(losses)})
    return storage.read_json(path)["rate"]


def _beyond(rate: float) -> tuple[float, ...]:
    return (rate / 2,) if rate == min(RATES) else (2 * rate,) if rate == max(RATES) else ()


def planned(name: str, ends: float) -> run.Planned | None:
    """A study of the plan, at its width's rate; None: the time is over before that is known."""
    layers, width, seeds = (FITTED | DEEP | LONGEST | WIDEST)[name]
    if (rate := rate_of(width, ends)) is None:
        return None
    longest = name in LONGEST or name in WIDEST
    shares = (1,) if name in LONGEST else (*((0.0625,) if name in WIDEST else ()), 0.125, 0.25, 0.5, 1)
    settings = flags(layers, width, rate, 10400 if longest else 5200, shares)
    return run.Planned(("relu", "gelu"), seeds, SEEDS, SEEDS, AT_MOST, settings)


def published(name: str, trials: int) -> bool:
    """Whether as many trials of both activations are published: they aren't trained again on another machine."""
    paths = list((MEASURED / name / "results").glob("*_results.json"))
    return len(paths) == 2 and all(len(storage.read_results(path)["trials"]) >= trials for path in paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=24.0, help="stop after so many")
    parser.add_argument("--publish", nargs="+", metavar="STUDY", help="copy these to findings/scaling/measured")
    args = parser.parse_args()
    if args.publish:
        run.publish(args.publish, MEASURED)
        for path in (ROOT / "studies").glob("rate_*.json"):
            storage.write_json(MEASURED / path.name, storage.read_json(path))
        return
    ends = time.time() + 3600 * args.hours
    for _, width, _ in FITTED.values():
        rate_of(width, ends)
    for trials in (SEEDS, AT_MOST):
        for name in (*FITTED, *LONGEST, *DEEP, *WIDEST):
            if published(name, trials):
                continue
            if name not in FITTED and not PREDICTION.exists():
                raise SystemExit(f"{PREDICTION.name} comes before {name}, and is not there")
            study = planned(name, ends)
            if study is None or not run.train(name, study, trials, ends):
                return


if __name__ == "__main__":
    main()
