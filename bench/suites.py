"""Do the checks of a suite accuse honest members, and do they find planted faults? Simulated over thousands of suites.

    python bench/suites.py [--suites 2000]

An honest suite has 2 to 20 members. Their PDs are a common level times 1 + (a_i + a_j) + e_ij: members and pairs depart
by up to 4 and 8 % (standard deviations drawn for each suite; in the studies of findings/measured they are at most 3 and
5 %). Losses vary by up to 1.5 % (there: 1.1 %). Up to two broken members are in it, which predict no better than token
frequencies and are up to three times as far from all others. An alarm about anyone else is false.

Planted, one at a time: a member of another kind (twice the PD or more; 2.5 times in a group of three), two such members
of one kind (in groups of seven or more), a loss 15 % off, a copy at a PD of at most 0.2 of what is typical (in groups
of four or more), identical predictions. It is found where its check names it; whoever else is named is falsely accused,
but for the one that a copy is of.
"""

import argparse
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from questions.foreign import suite  # noqa: E402
from questions.foreign.member import Member  # noqa: E402

ENTROPY = 3.0
# what is planted: (smallest group of honest members, the check that finds it)
FAULTS = {
    "another kind": (2, "no outlier"),
    "two of another kind": (5, "no outlier"),
    "another loss": (2, "no outlier"),
    "a copy": (3, "no copies"),
    "the same predictions": (2, "distinct members"),
}


def honest(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """PDs (n, n) and losses (n,) of n seeds of one recipe."""
    level, member, pair = 10 ** rng.uniform(-2, -0.3), rng.uniform(0, 0.04), rng.uniform(0, 0.08)
    own = member * rng.standard_normal(n)
    noise = np.triu(pair * rng.standard_normal((n, n)), 1)
    pd = level * np.clip(1 + own[:, None] + own + noise + noise.T, 0.5, None)
    np.fill_diagonal(pd, 0)
    return pd, 2 * (1 + rng.uniform(0, 0.015) * rng.standard_normal(n))


def added(pd, losses, distances, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """With one member more, at these distances from the others."""
    n = len(pd)
    wider = np.zeros((n + 1, n + 1))
    wider[:n, :n], wider[n, :n], wider[:n, n] = pd, distances, distances
    return wider, np.append(losses, loss)


def typical(pd: np.ndarray) -> float:
    return float(np.median(pd[np.triu_indices(len(pd), 1)]))


def with_broken(rng, pd, losses, broken: int) -> tuple[np.ndarray, np.ndarray]:
    for _ in range(broken):
        far = min(0.95, typical(pd) * rng.uniform(1, 3)) * (1 + 0.05 * rng.standard_normal(len(pd)))
        pd, losses = added(pd, losses, far, ENTROPY * rng.uniform(1.01, 2))
    return pd, losses


def planted(rng, pd, losses, fault: str) -> tuple[np.ndarray, np.ndarray]:
    n, level = len(pd), typical(pd)
    around = 1 + 0.05 * rng.standard_normal(n)
    if fault in ("another kind", "two of another kind"):
        ratio = rng.uniform(2.5 if n == 2 else 2, 3)
        pd, losses = added(pd, losses, ratio * level * around, losses.mean())
        if fault == "two of another kind":
            near = np.append(ratio * level * (1 + 0.05 * rng.standard_normal(n)), level)
            pd, losses = added(pd, losses, near, losses.mean())
        return pd, losses
    if fault == "another loss":
        return added(pd, losses, level * around, losses.mean() * (1 + rng.choice((-1, 1)) * rng.uniform(0.15, 0.3)))
    distances = pd[0].copy()
    distances[0] = rng.uniform(0.002, 0.2) * level if fault == "a copy" else 1e-8
    return added(pd, losses, distances, losses[0])


def alarms(pd: np.ndarray, losses: np.ndarray, broken: int = 0, entropy: float = ENTROPY) -> dict[str, str]:
    """{check: what it says} of one group, but for what is said about its broken members alone."""
    members = [Member(group="g", name=f"m{k}", measured={"val_loss": float(loss)}) for k, loss in enumerate(losses)]
    checks = suite.check(members, pd, entropy, 64, 256)["g"]
    said = {c["name"]: c["measured"] for c in checks if c["status"] == "fail"}
    assert ("not broken" in said) == (broken > 0)
    said.pop("not broken", None)
    return said


def simulated(suites: int, seed: int = 0) -> dict[str, tuple[int, int, int]]:
    """{case: (found, falsely accused, suites)}."""
    rng, counts = np.random.default_rng(seed), {}
    for broken in (0, 1, 2):
        false = 0
        for _ in range(suites):
            pd, losses = honest(rng, int(rng.integers(2, 21 - broken)))
            false += bool(alarms(*with_broken(rng, pd, losses, broken), broken))
        counts[f"honest, {broken} broken"] = 0, false, suites
    for (fault, (least, check)), broken in itertools.product(FAULTS.items(), (0, 1)):
        hits, false = 0, 0
        for _ in range(suites):
            n = int(rng.integers(least, 19))
            pd, losses = planted(rng, *honest(rng, n), fault)
            said = alarms(*with_broken(rng, pd, losses, broken), broken)
            named = {name: {int(k) for k in re.findall(r"\bm(\d+) ", text)} for name, text in said.items()}
            hits += len(pd) - 1 in named.get(check, ())
            guilty = set(range(n, len(pd))) | ({0} if check != "no outlier" else set())
            false += bool(set().union(*named.values()) - guilty)
        counts[f"{fault}, {broken} broken"] = hits, false, suites
    return counts


def measured() -> tuple[int, int, int]:
    """False alarms among the suites of findings/measured, each activation of each study a group."""
    files = sorted((ROOT / "findings" / "measured").glob("*/results/*_results.json"))
    false = 0
    for path in files:
        results = json.loads(path.read_text(encoding="utf-8"))
        ids = [t["trial_id"] for t in results["trials"]]
        pd = np.zeros((len(ids), len(ids)))
        for pair in results["reproducibility_metrics"]:
            i, j = (ids.index(int(k)) for k in pair["model_pair"].split("_vs_"))
            pd[i, j] = pd[j, i] = pair["relative_pd"]
        losses = np.array([t["val_loss"] for t in results["trials"]])
        false += bool(alarms(pd, losses, entropy=losses.max() + 1))
    return 0, false, len(files)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=2000, help="of each case (default: 2000)")
    suites = parser.parse_args(argv).suites
    rows = {"honest, as measured in findings": measured(), **simulated(suites)}
    print(
        tabulate(
            [[case, *counts] for case, counts in rows.items()], ["suites", "found", "falsely accused", "of"], "pipe"
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
