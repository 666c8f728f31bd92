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
    ("metrics.py", '"relative_pd": _ratio(l1, mass)', '"relative_pd": l1', "metrics"),
    ("metrics.py", '"jensen_shannon": shannon / 4', '"jensen_shannon": shannon / 2', "metrics"),
    ("metrics.py", "relative * (2 / vocab)", "relative * 2", "metrics"),
    ("metrics.py", "return total / (M * N)", "return total / N", "metrics"),
    ("metrics.py", "100 * differ / int(positions)", "differ / int(positions)", "metrics"),
    ("metrics.py", "(right_i & differ, right_j & differ,", "(right_j & differ, right_i & differ,", "metrics"),
    ("metrics.py", "(self.windows - 1) / self.windows)", "self.windows / self.windows)", "metrics"),
    ("metrics.py", "number % 2 == half", "number % 2 != 1 - half or half", "metrics"),
    (
        "measures/windows.py",
        "min(eval_tokens // block_size, (n_tokens - 1) // block_size)",
        "min(eval_tokens // block_size, n_tokens // block_size)",
        "metrics",
    ),
    ("measures/windows.py", "            model.eval()", "            model.train()", "metrics trial"),
    ("significance.py", "2 * (n - 1) / (n - 2) * (r - mean)", "2 * (n - 1) / n * (r - mean)", "significance"),
    ("significance.py", "r = pd.sum(axis=1) / (n - 1)", "r = pd.sum(axis=1) / n", "significance"),
    ("significance.py", "np.arange(len(p), 0, -1)", "np.arange(1, len(p) + 1)", "significance"),
    ("significance.py", "PRIOR_DF = 2  #", "PRIOR_DF = 4  #", "significance"),
    ("significance.py", "(limit - abs(comparison.estimate))", "(limit - comparison.estimate)", "significance"),
    ("significance.py", "min(values[name], 2 * p)", "min(values[name], p)", "significance"),
    ("significance.py", "both.std(ddof=1)", "both.std(ddof=0)", "significance"),
    ("analysis/results.py", "np.std(numbers, ddof=1)", "np.std(numbers, ddof=0)", "results analyze_results report"),
    ("analysis/results.py", "if one and other and one != other:", "if False:", "results analyze_results"),
    ("model.py", "is_causal=True", "is_causal=False", "model architectures"),
    ("model.py", "x = x + self.attn(self.ln_1(x))", "x = self.attn(self.ln_1(x))", "model export"),
    ("model.py", "self.wpe.weight[: idx.shape[1]]", "self.wpe.weight[:1]", "model export"),
    ("models/smelu.py", "mul_(0.25 / beta)", "mul_(0.5 / beta)", "activations"),
    ("models/smelu.py", "mul_(0.5 / beta)", "mul_(0.25 / beta)", "activations"),
    ("training/batches.py", "batch[:, :-1], batch[:, 1:]", "batch[:, :-1], batch[:, :-1]", "trial sampling"),
    ("training/batches.py", "counter=[0, 0, 0, step]", "counter=[0, 0, 0, 0]", "trial sampling"),
    ("training/batches.py", "(bits + 1).view(dtype)", "(bits + 2).view(dtype)", "train"),
    ("training/schedule.py", "(step + 1) / config.warmup_iters", "step / config.warmup_iters", "schedule"),
    ("training/schedule.py", "1 + math.cos(math.pi * progress)", "1 - math.cos(math.pi * progress)", "schedule"),
    ("training/schedule.py", "branch.ends - step) / (", "branch.ends - step - 1) / (", "schedule"),
    ("training/arithmetic.py", "c.grad_clip / (norm + 1e-6)", "c.grad_clip * (norm + 1e-6)", "optimiser"),
    (
        "training/arithmetic.py",
        'for name in ("master", "mean", "square"):',
        'for name in ("master", "mean"):',
        "optimiser trial determinism",
    ),
    (
        "training/trial.py",
        "        self.optimiser.use_master_weights()\n        self.model.eval()",
        "        self.model.eval()",
        "verify",
    ),
    ("training/experiment.py", "np.std(values, ddof=1)", "np.std(values)", "experiment train"),
    ("audit.py", "leak <= 1e-6 * effect", "leak <= 1e6 * effect", "audit"),
    ("storage.py", "os.replace(temporary, path)", "pass", "storage"),
    (
        "tokenizer.py",
        '"".join(sorted(set().union(*pieces)))',
        '"".join(set().union(*pieces))',
        "tokenizer prepare_data",
    ),
    ("kernels/native.cpp", "if (j > i) power =", "if (j > i + 8) power =", "native"),
    (
        "config.py",
        'settings = {name: values[name] for name, f in _FIELDS.items() if f.metadata["affects_results"]}',
        "settings = dict(values)",
        "config",
    ),
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
