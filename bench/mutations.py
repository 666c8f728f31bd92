"""Do the tests see a defect of one line? Forty of them, planted one after another in a copy of the project.

    python bench/mutations.py                 # each against the fast tests of what it touches, about ten minutes
    python bench/mutations.py --slow          # what those miss, against the long tests too
    python bench/mutations.py --only metrics  # those whose file's name has this in it

A sign, an off-by-one, a ddof, a swapped axis, a missing mask, a dropped check. A defect that nothing catches is a hole.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent

# file, what stands there (once), what is planted, tests
MUTATIONS = (
    ("metrics.py", "np.sqrt(hellinger / 2)", "np.sqrt(hellinger)", "metrics"),
    ("metrics.py", '"relative_pd": _ratio(l1, mass)', '"relative_pd": l1 / 2 + 0 * mass', "metrics"),
    ("metrics.py", '"jensen_shannon": shannon / 4', '"jensen_shannon": shannon / 2', "metrics"),
    ("metrics.py", "relative * (2 / vocab)", "relative * 2", "metrics"),
    ("metrics.py", "return total / (M * N)", "return total / N", "metrics"),
    ("metrics.py", "100 * int(mismatches) / int(positions)", "int(mismatches) / int(positions)", "metrics"),
    ("significance.py", "2 * (n - 1) / (n - 2) * (r - mean)", "2 * (n - 1) / n * (r - mean)", "significance"),
    ("significance.py", "r = pd.sum(axis=1) / (n - 1)", "r = pd.sum(axis=1) / n", "significance"),
    ("significance.py", "np.arange(len(p), 0, -1)", "np.arange(1, len(p) + 1)", "significance"),
    ("significance.py", "PRIOR_DF = 2  #", "PRIOR_DF = 4  #", "significance"),
    (
        "significance.py",
        "distance = (limit - abs(comparison.estimate))",
        "distance = (limit - comparison.estimate)",
        "significance",
    ),
    ("significance.py", "found[name] = min(found[name], 2 * p)", "found[name] = min(found[name], p)", "significance"),
    ("model.py", "is_causal=True", "is_causal=False", "model audit"),
    ("model.py", "x = x + self.attn(self.ln_1(x))", "x = self.attn(self.ln_1(x))", "model architectures export"),
    ("model.py", "self.wpe.weight[: idx.shape[1]]", "self.wpe.weight[0]", "model export audit"),
    ("activations.py", "return x", "return -x", "activations"),
    ("models/smelu.py", "/ (4 * beta)", "/ (2 * beta)", "activations"),
    ("training/batches.py", "batch[:, :-1], batch[:, 1:]", "batch[:, :-1], batch[:, :-1]", "trial sampling"),
    ("training/batches.py", "counter=[0, 0, 0, step]", "counter=[0, 0, 0, 0]", "trial sampling"),
    ("training/batches.py", "config.block_size + 1)", "config.block_size + 2)", "trial sampling"),
    ("training/batches.py", "(bits + 1).view(dtype)", "(bits + 2).view(dtype)", "trial determinism sampling"),
    ("training/schedule.py", "(step + 1) / config.warmup_iters", "step / config.warmup_iters", "schedule"),
    ("training/schedule.py", "1 + math.cos(math.pi * progress)", "1 - math.cos(math.pi * progress)", "schedule"),
    ("training/schedule.py", "branch.ends - step) / (", "branch.ends - step - 1) / (", "schedule"),
    ("training/arithmetic.py", "if p.ndim >= 2)", "if p.ndim >= 1)", "optimiser"),
    ("training/arithmetic.py", "c.grad_clip / (norm + 1e-6)", "c.grad_clip * (norm + 1e-6)", "optimiser"),
    (
        "training/arithmetic.py",
        'for name in ("master", "mean", "square"):',
        'for name in ("master", "mean"):',
        "optimiser trial determinism",
    ),
    (
        "training/trial.py",
        "self.model.eval()\n        train_loss",
        "self.model.train()\n        train_loss",
        "trial determinism",
    ),
    ("storage.py", "os.fsync(", "(lambda _: None)(", "storage"),
    ("storage.py", "os.replace(", "shutil.copyfile(", "storage"),
    ("tokenizer.py", "sorted(set(", "list(set(", "tokenizer prepare_data"),
    ("audit.py", "16 *", "1e9 *", "audit"),
    ("audit.py", "1e-6", "1e6", "audit"),
    ("kernels/native.cpp", "if (j > i)", "if (j > i + 1)", "native"),
    ("config.py", 'metadata["affects_results"]', 'metadata["affects_weights"]', "config"),
    ("analysis/study.py", "_once", "", "study"),
)


def copied(folder: Path) -> Path:
    """The project's tracked files, as they are now."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    for name in files.split("\n"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def caught(folder: Path, tests: str, marked: str) -> bool:
    files = [f"tests/test_{name}.py" for name in tests.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", marked, *files],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slow", action="store_true", help="what the fast tests miss goes to the long ones too")
    parser.add_argument("--only", default="", help="part of a file's name")
    args = parser.parse_args()
    rows, holes = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        for name, before, after, tests in MUTATIONS:
            if args.only not in name:
                continue
            text = (folder / name).read_text(encoding="utf-8")
            if text.count(before) < 1:
                rows.append([name, before, after, "not there"])
                continue
            (folder / name).write_text(text.replace(before, after, 1), encoding="utf-8")
            verdict = "caught" if caught(folder, tests, "not slow") else "missed"
            if verdict == "missed" and args.slow and caught(folder, tests, "slow"):
                verdict = "by the long tests"
            holes += verdict == "missed"
            (folder / name).write_text(text, encoding="utf-8")
            rows.append([name, before, after, verdict])
            print(f"{verdict}: {name}: {before!r} -> {after!r}", flush=True)
    print(tabulate(rows, headers=["file", "instead of", "planted", "verdict"]))
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
