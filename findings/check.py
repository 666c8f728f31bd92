"""Does FINDINGS.md say what the published results say?

    python findings/check.py                      # every number of the text, seconds
    python findings/check.py --retrain A relu 3   # train one trial again and compare its weights, a minute

Writes the text once more from findings/measured and compares it, line by line; and computes the outcomes of the plan a
second time from the raw pairs in the results files, with NumPy and SciPy alone, sharing no code with the
project's statistics.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import scipy.stats

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import write

from config import UserError

# -- the outcomes once more, from the files' numbers alone ------------------------------------------------------------


def log_jackknife(pds: dict[tuple[int, int], float]) -> np.ndarray:
    """One number per trial, whose mean is ln of the mean PD: ln U + (ψ - U) / U, ψ the jackknife's pseudo-values."""
    ids = sorted({k for pair in pds for k in pair})
    n, mean = len(ids), np.mean(list(pds.values()))
    without = np.array([np.mean([x for pair, x in pds.items() if k not in pair]) for k in ids])
    return np.log(mean) + (n * mean - (n - 1) * without - mean) / mean


def final_pds(results: dict) -> dict[tuple[int, int], float]:
    return {
        tuple(map(int, p["model_pair"].split("_vs_"))): p["relative_pd"] for p in results["reproducibility_metrics"]
    }


def branch_lines(results: dict) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """{pair: (mean loss of its two models, ln PD) at each branch}."""
    lines = {}
    for branch in results["frontier"]:
        loss = {t["trial_id"]: t["val_loss"] for t in branch["trials"]}
        for p in branch["pairs"]:
            i, j = map(int, p["model_pair"].split("_vs_"))
            lines.setdefault((i, j), []).append(((loss[i] + loss[j]) / 2, np.log(p["relative_pd"])))
    return {pair: tuple(np.array(values).T) for pair, values in lines.items()}


def equal_loss_pds(study: dict[str, dict]) -> dict[str, dict]:
    """{activation: {pair: PD}} at the highest final loss of any pair, linear in ln PD between branches."""
    lines = {name: branch_lines(results) for name, results in study.items()}
    target = max(loss[-1] for pairs in lines.values() for loss, _ in pairs.values())
    return {name: {pair: _read(*line, target) for pair, line in pairs.items()} for name, pairs in lines.items()}


def _read(loss: np.ndarray, logs: np.ndarray, target: float) -> float:
    first = int(np.argmax(loss <= target))
    if not first:
        raise ValueError("a pair begins below the loss to compare at")
    share = (loss[first - 1] - target) / (loss[first - 1] - loss[first])
    return float(np.exp(logs[first - 1] + share * (logs[first] - logs[first - 1])))


def moderated(d: np.ndarray, family: list[np.ndarray]) -> tuple[float, float, float, float]:
    """Ratio, its 95 % limits, and p of paired differences, with two degrees of freedom of their family's spread."""
    n, prior = len(d), 2 if len(family) > 2 else 0
    lent = np.mean([np.var(x, ddof=1) for x in family])
    df = prior + n - 1
    se = np.sqrt((prior * lent + (n - 1) * np.var(d, ddof=1)) / df / n)
    half = scipy.stats.t.ppf(0.975, df) * se
    return (*np.exp([d.mean(), d.mean() - half, d.mean() + half]), 2 * scipy.stats.t.sf(abs(d.mean()) / se, df))


def contrast(study: dict[str, dict], quantity: str) -> tuple[float, float, float, float]:
    """The smooth activations together against ReLU."""
    smooth = [name for name in study if name != "relu"]
    family = [differences(study, [name], quantity) for name in smooth]  # each lends its spread, as it is on its own
    return moderated(differences(study, smooth, quantity), family)


def read_study(name: str, without: int | None = None) -> dict[str, dict]:
    """{activation: its results file}, without one trial of every activation where one is named."""
    files = sorted((write.MEASURED / name / "results").glob("*_results.json"))
    study = {r["activation"]: r for r in (json.loads(path.read_text(encoding="utf-8")) for path in files)}
    for results in study.values() if without is not None else ():
        for holder, key in [(results, "reproducibility_metrics"), *((b, "pairs") for b in results["frontier"])]:
            holder[key] = [p for p in holder[key] if str(without) not in p["model_pair"].split("_vs_")]
    return study


def differences(study: dict[str, dict], smooth: list[str], quantity: str) -> np.ndarray:
    """Mean ln PD of these activations minus ReLU's, a number for each trial."""
    chosen = {name: study[name] for name in [*smooth, "relu"]}
    pds = equal_loss_pds(chosen) if quantity == "Matched_PD" else {n: final_pds(r) for n, r in chosen.items()}
    logs = {name: log_jackknife(values) for name, values in pds.items()}
    return np.mean([logs[name] for name in smooth], axis=0) - logs["relu"]


PARTS = ("mean", "low", "high")


def pooled(samples: Iterable[np.ndarray]) -> tuple[float, float, float, float]:
    """Ratio, its 95 % limits and p over studies: DerSimonian and Laird's variance between them, Hartung and Knapp's
    interval, and one variance within all studies."""
    samples = list(samples)
    means, n = np.array([d.mean() for d in samples]), np.array([len(d) for d in samples])
    within = sum(((d - d.mean()) ** 2).sum() for d in samples) / (n - 1).sum() / n
    k, w = len(samples), 1 / within
    q = (w * (means - np.average(means, weights=w)) ** 2).sum()
    w = 1 / (within + max(0, (q - k + 1) / (w.sum() - (w**2).sum() / w.sum())))
    mean = np.average(means, weights=w)
    se = np.sqrt(np.average((means - mean) ** 2, weights=w) / (k - 1))
    half = scipy.stats.t.ppf(0.975, k - 1) * se
    return (*np.exp([mean, mean - half, mean + half]), 2 * scipy.stats.t.sf(abs(mean) / se, k - 1))


def differing(samples: Iterable[np.ndarray], simulated: int = 20_000) -> float:
    """p that studies have one mean, whatever their spreads: simulated trials of as many studies that do."""
    samples, rng = list(samples), np.random.default_rng(1)

    def statistic(parts: list[np.ndarray]) -> np.ndarray:
        w = np.stack([d.shape[-1] / d.var(axis=-1, ddof=1) for d in parts])
        means = np.stack([d.mean(axis=-1) for d in parts])
        return (w * means**2).sum(axis=0) - (w * means).sum(axis=0) ** 2 / w.sum(axis=0)

    drawn = statistic([d.std(ddof=1) * rng.standard_normal((simulated, len(d))) for d in samples])
    return float((drawn >= statistic(samples)).mean())


def trials(study: dict[str, dict]) -> list[int]:
    return sorted({k for pair in final_pds(study["relu"]) for k in pair})


def hanging(whole: tuple[float, ...], left: dict) -> list:
    """By how much a ratio hangs on one trial: which moves it most and to what, the range without one, and without how
    many the test says otherwise."""
    most = max(left, key=lambda k: abs(math.log(left[k][0] / whole[0])))
    shown = {k: x[3] < 0.05 and math.copysign(1, x[0] - 1) for k, x in left.items()}
    decisive = [k for k in left if shown[k] != (whole[3] < 0.05 and math.copysign(1, whole[0] - 1))]
    ratios = [x[0] for x in left.values()]
    return [*numbered(most), *left[most], min(ratios), max(ratios), len(decisive)]


def told(found) -> list:
    """The same of an Influence."""
    test = found.without
    values = four(test) if hasattr(test, "effect") else [*(math.exp(getattr(test, x)) for x in PARTS), test.p]
    return [*numbered(found.trial), *values, math.exp(found.low), math.exp(found.high), len(found.decisive)]


def numbered(trial) -> tuple[int, int]:
    """A trial, or (study, trial), as two numbers."""
    return (list(write.PLAN).index(trial[0]), trial[1]) if isinstance(trial, tuple) else (0, trial)


def compare_outcomes() -> list[str]:
    """Where the second computation departs from the first."""
    problems = []

    def compare(what: str, mine, theirs) -> None:
        if not np.allclose(mine, theirs, rtol=1e-9, atol=1e-12):
            problems.append(f"{what}: {mine} here, {theirs} in the text")

    def compare_simulated(what: str, mine: float, theirs: float) -> None:
        if abs(mine - theirs) > 0.01:  # four standard errors of 20,000 simulations
            problems.append(f"{what}: {mine} here, {theirs} in the text")

    found = write.published()
    studies = {name: read_study(name) for name in found}
    for (name, study), quantity in itertools.product(studies.items(), write.OUTCOMES):
        what = f"{name}, {write.OUTCOMES[quantity]}"
        compare(what, contrast(study, quantity), four(found[name].contrast(quantity)))
        alone = {a: differences(study, [a], quantity) for a in study if a != "relu"}
        for activation, d in alone.items():
            test = found[name].study.test(activation, quantity)
            compare(f"{what}, {activation}", moderated(d, list(alone.values())), four(test))
            own = found[name].study.own(activation, quantity)
            compare(f"{what}, {activation}, own spread", student(d, np.exp), four(own)[:3])
        left = {k: contrast(read_study(name, k), quantity) for k in trials(study)}
        compare(
            f"{what}, without one trial",
            hanging(contrast(study, quantity), left),
            told(found[name].influence(quantity)),
        )
    for quantity, (title, (key, some)) in itertools.product(write.OUTCOMES, write.pooled_arms(found).items()):
        what = f"{title} pooled, {write.OUTCOMES[quantity]}"
        arms = {n: [a for a in studies[n] if a != "relu"] if key == write.SMOOTH else [key] for n in some}
        samples = {n: differences(studies[n], arms[n], quantity) for n in some}
        theirs = write.pool_contrast(some, quantity, key)
        compare(what, pooled(samples.values()), [math.exp(getattr(theirs.effects, x)) for x in PARTS] + [theirs.p])
        compare_simulated(f"{what}, between studies", differing(samples.values()), theirs.heterogeneity_p)
        left = {
            (n, k): pooled((samples | {n: differences(read_study(n, k), arms[n], quantity)}).values())
            for n in some
            for k in trials(studies[n])
        }
        hangs = write.influence({n: s.study for n, s in some.items()}, theirs)
        compare(f"{what}, without one trial", hanging(pooled(samples.values()), left), told(hangs))
    for quantity in write.OUTCOMES:
        samples = [differences(study, [a for a in study if a != "relu"], quantity) for study in studies.values()]
        means, w = np.array([d.mean() for d in samples]), np.array([len(d) / d.var(ddof=1) for d in samples])
        q = (w * (means - np.average(means, weights=w)) ** 2).sum()
        cochran, right = write.of_all_contrasts(found, quantity)
        compare("Cochran's p of all contrasts", scipy.stats.chi2.sf(q, len(w) - 1), cochran)
        compare_simulated("p of all contrasts", differing(samples), right)
    compare_study_a(studies["A"], found["A"], compare)
    compare_small_numbers(studies, found, compare)
    return problems


def compare_study_a(study: dict[str, dict], found, compare: Callable) -> None:
    """The table of A, Holm's p-values, the tests of equality, the halves, and ReLU against itself."""
    losses = {name: np.array([t["val_loss"] for t in results["trials"]]) for name, results in study.items()}
    away = {name: x - losses["relu"] for name, x in losses.items() if name != "relu"}
    for name, results in study.items():
        m, logs = found.study.measured[name], log_jackknife(final_pds(results))
        n = len(logs)
        compare(f"A, {name}, PD", student(logs, np.exp), m.pd_interval)
        compare(f"A, {name}, loss", student(losses[name]), write.significance.mean_interval(m.losses()))
        if name in away:
            ratio, low, high, _ = moderated(away[name], list(away.values()))
            test = next(t.tests["Loss"] for t in found.study.primary if t.a == name)
            compare(f"A, {name}, loss against ReLU", np.log([ratio, low, high]), (test.effect, test.low, test.high))
    whole = {q: contrast(study, q) for q in write.OUTCOMES}
    theirs = write.outcomes(found.study)
    compare("A, both outcomes, Holm", holm([x[3] for x in whole.values()]), [o.p for o in theirs.values()])
    for q, (ratio, _, high, _) in whole.items():
        df = n - 1 + 2
        se = math.log(high / ratio) / scipy.stats.t.ppf(0.975, df)
        p = scipy.stats.t.sf((-math.log(0.95) - abs(math.log(ratio))) / se, df)
        compare(f"A, {write.OUTCOMES[q]}, equality", p, theirs[q].p_equal)
        alone = {name: differences(study, [name], q) for name in away}
        p = holm([moderated(d, list(alone.values()))[3] for d in alone.values()])
        compare(f"A, each, {write.OUTCOMES[q]}, Holm", p, [write.against_relu(found.study, q)[a].p for a in alone])
        for second in (False, True):
            part = [k for k in trials(study) if (k > n // 2) == second]
            mine = contrast(only(study, part), q)
            compare(f"A, half, {write.OUTCOMES[q]}", mine, four(write.outcomes(write.half(found, second))[q].test))
        odd, even = ({"relu": only(study, [k for k in trials(study) if k % 2 == rest])["relu"]} for rest in (1, 0))
        compare(f"ReLU twice, {write.OUTCOMES[q]}", welch(odd, even, q), four(write.same_twice(found)[q]))
    mismatch = [
        100 * p["prediction_differences"] / p["total_predictions"] for p in study["relu"]["reproducibility_metrics"]
    ]
    compare("A, mismatch", np.mean(mismatch), found.study.measured["relu"].average(write.BY_KEY["top1_mismatch_pct"]))


def student(x: np.ndarray, transform: Callable = np.asarray) -> np.ndarray:
    """Mean and 95 % limits."""
    interval = scipy.stats.ttest_1samp(x, 0).confidence_interval()
    return transform(np.array([x.mean(), interval.low, interval.high]))


def holm(p_values: list[float]) -> list[float]:
    """Each p times the number of those that are not smaller, and at least that of every smaller one."""

    def times(p: float) -> float:
        return min(1.0, p * sum(other >= p for other in p_values))

    return [max(times(other) for other in p_values if other <= p) for p in p_values]


def only(study: dict[str, dict], ids: list[int]) -> dict[str, dict]:
    """The study with these trials alone."""

    def kept(pairs: list[dict]) -> list[dict]:
        return [p for p in pairs if set(map(int, p["model_pair"].split("_vs_"))) <= set(ids)]

    return {
        name: results
        | {"reproducibility_metrics": kept(results["reproducibility_metrics"])}
        | {"frontier": [branch | {"pairs": kept(branch["pairs"])} for branch in results["frontier"]]}
        for name, results in study.items()
    }


def welch(odd: dict, even: dict, quantity: str) -> tuple[float, float, float, float]:
    """Ratio, 95 % limits and p of two groups of trials, not paired."""
    two = {"odd": odd["relu"], "even": even["relu"]}
    pds = equal_loss_pds(two) if quantity == "Matched_PD" else {name: final_pds(r) for name, r in two.items()}
    test = scipy.stats.ttest_ind(*map(log_jackknife, pds.values()), equal_var=False)
    interval = test.confidence_interval()
    ratio = np.mean(list(pds["odd"].values())) / np.mean(list(pds["even"].values()))
    return ratio, np.exp(interval.low), np.exp(interval.high), test.pvalue


def compare_small_numbers(studies: dict[str, dict], found: dict, compare: Callable) -> None:
    """Parameters, passes through the text, single seeds of D256, and what is quoted from bench/RESULTS.md."""
    text = write.text(found)
    for name, study in studies.items():
        results = study["relu"]
        config, tokens = results["config"], results["dataset"]["train_tokens"]
        passes = config["max_iters"] * config["batch_size"] * config["block_size"] / tokens
        compare(f"{name}, passes through the text", passes, found[name].share_of_text)
    a = studies["A"]["relu"]
    width, layers = a["config"]["n_embd"], a["config"]["n_layer"]
    norms, weights = 2 * layers + 1, 12 * layers * width**2  # attention 4, the block's two layers 8 widths squared
    count = (a["dataset"]["vocab_size"] + a["config"]["block_size"] + norms) * width + weights
    d = differences(studies["D256"], ["gelu"], "PD")
    quoted = {
        f"{count:,} parameters": 1,
        f"in {(d < 0).sum()} of {len(d)} seeds, by {-100 * np.expm1(np.median(d)):.1f} % in the median": 1,
        "0.108 of PD apart with ReLU, 0.092 to 0.105 with": 1,
    }
    for words, times in quoted.items():
        compare(f"how often the text says {words!r}", times, text.count(words))
    bench = " ".join((HERE.parent / "bench" / "RESULTS.md").read_text(encoding="utf-8").split())
    compare("the twins in bench/RESULTS.md", 1, bench.count("a mean PD of 0.108 with ReLU and 0.092 to 0.105 with"))


def four(test) -> tuple[float, float, float, float]:
    return test.effect, test.low, test.high, test.p


# -- the text, and a trial --------------------------------------------------------------------------------------------


def compare_text() -> list[str]:
    """Where FINDINGS.md and the answer in README depart from what the results give."""
    studies = write.published()
    readme = write.README.read_text(encoding="utf-8")
    texts = {
        "FINDINGS.md": (write.FINDINGS.read_text(encoding="utf-8"), write.text(studies)),
        "README.md": (readme, write.readme(studies, readme)),
    }
    return [
        f"{name}, line {k}: {a!r}, by the results {b!r}"
        for name, (there, now) in texts.items()
        for k, (a, b) in enumerate(itertools.zip_longest(there.splitlines(), now.splitlines(), fillvalue="none"), 1)
        if a != b
    ]


ELSEWHERE = 5.0  # standard deviations of the loss over trials: further from a recorded trial than that, it is no repeat


TRAIN = """
import json, sys
from config import Config
from train import train_trial
path, activation, trial, folder = sys.argv[1:]
again = train_trial(Config.like(path).replace(checkpoint_dir=folder), activation, int(trial))
print(json.dumps([again["weights_sha256"], again["val_loss_history"][-1]]))
"""


def retrain(name: str, activation: str, trial: int) -> tuple[str, bool]:
    """Train one trial from the settings of its results file, by the code that trained it then: what it is beside the
    recorded one, and whether that is as it should be: the same weights, or (a processor of another make rounds
    otherwise, and the last bit of a weight decides which model of the population comes out) a final loss within
    `ELSEWHERE` standard deviations.

    Raises:
        UserError: the commit that the results file records is not to be had.
    """
    path = write.MEASURED / name / "results" / f"{activation}_results.json"
    trials = write.published()[name].results[activation]["trials"]
    recorded = trials[trial - 1]
    with tempfile.TemporaryDirectory() as folder:
        code = code_of(recorded["environment"]["git_commit"], Path(folder) / "code")
        command = [sys.executable, "-c", TRAIN, str(path), activation, str(trial), str(Path(folder) / "checkpoints")]
        output = subprocess.run(
            command, cwd=code, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ).stdout
    weights, loss = json.loads(output.splitlines()[-1])
    if weights == recorded["weights_sha256"]:
        return "the same weights, bit for bit", True
    away = loss - recorded["val_loss_history"][-1]
    spread = np.std([t["val_loss_history"][-1] for t in trials], ddof=1)
    text = (
        f"other weights; validation loss {away:+.4f} nats from it, where the trials' standard deviation is {spread:.4f}"
    )
    return text, bool(abs(away) <= ELSEWHERE * spread)


def code_of(commit: str, folder: Path) -> Path:
    """The repository as it was at a commit, in a folder of its own."""
    try:
        archive = subprocess.run(["git", "archive", commit], cwd=HERE.parent, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise UserError(f"commit {commit} is not here: clone the repository with its history (git)") from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--retrain", nargs=3, metavar=("STUDY", "ACTIVATION", "TRIAL"))
    args = parser.parse_args()
    if args.retrain:
        name, activation, trial = args.retrain
        try:
            text, fine = retrain(name, activation, int(trial))
        except UserError as error:
            sys.exit(f"check.py: {error}")
        print(f"{name}, {activation}, trial {trial}: {text}")
        return 0 if fine else 1
    problems = [*compare_text(), *compare_outcomes()]
    for problem in problems:
        print(problem)
    print(
        "FINDINGS.md and the results disagree" if problems else "every number of FINDINGS.md follows from the results"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
