"""Synthetic results: the schema of `{activation}_results.json` by example, for tests of the readers.

The numbers are drawn from a seeded generator, never trained; they follow the model of a prediction difference that
shares trials, PD_ij = mean + g_i + g_j + s_ij.
"""

import copy
import itertools

import numpy as np

import storage
from config import Config
from measures.table import METRICS
from questions.where import positions

STUDY = ("smelu_05", "smelu_1", "relu", "gelu", "swish")


def synthetic_results(
    activation="relu",
    n_trials=3,
    pd=0.10,
    val_loss=1.80,
    spread=0.02,
    seconds=30.0,
    seed=0,
    diverged=(),
    audit_passed=True,
):
    """One complete results dict of `n_trials` trials. `spread` is the relative spread between trials; `diverged` the
    1-based ids of trials that diverged (their losses are None, and no pair contains them)."""
    rng = np.random.default_rng([seed, sum(activation.encode())])
    shared = np.random.default_rng(seed)  # the seeds are shared by all activations, so part of the variation is
    g = pd * spread * (0.8 * shared.standard_normal(n_trials) + 0.6 * rng.standard_normal(n_trials)) / 2
    steps = list(range(0, 1001, 100))
    start_loss = 4.3
    environment = {"python": "3.11.7", "torch": "2.13.0", "device": "cpu", "threads": 1, "precision": "bfloat16"}
    trials = []
    for k in range(1, n_trials + 1):
        final = val_loss * (1 + spread * 0.2 * shared.standard_normal() + spread * 0.1 * rng.standard_normal())
        curve = final + (start_loss - final) * np.exp(-np.array(steps) / 180.0)
        bad = k in diverged
        trials.append(
            {
                "trial_id": k,
                "seed": 1336 + k,
                "seeds": {"init": 1336 + k, "order": 1336 + k, "dropout": 1336 + k},
                "status": "diverged" if bad else "done",
                "diverged_at_step": 400 if bad else None,
                "train_loss": None if bad else float(curve[-1] - 0.08),
                "val_loss": None if bad else float(curve[-1]),
                "train_accuracy": None if bad else float(48 + rng.normal(0, 0.2)),
                "val_accuracy": None if bad else float(46 + rng.normal(0, 0.2)),
                "training_time": float(seconds * (1 + 0.02 * rng.standard_normal())),
                "train_loss_history": [float(x) for x in curve - 0.08][: 4 if bad else None],
                "val_loss_history": [float(x) for x in curve][: 4 if bad else None],
                "learning_rate_history": [float(3e-3 * min(1, s / 100)) for s in steps][: 4 if bad else None],
                "grad_norm_history": [float(1 + np.exp(-s / 100)) for s in steps][: 4 if bad else None],
                "steps": steps[: 4 if bad else None],
                "initial_loss": start_loss,
                "best_val_loss": None if bad else float(curve.min()),
                "best_step": None if bad else steps[int(curve.argmin())],
                "overfit": False,
                "tokens_per_second": float(1000 * 768 / seconds),
                "val_loss_by_block": None if bad else [float(x) for x in curve[-1] + rng.normal(0, 0.03, 64)],
                "distinct_argmax": 50,
                "sample": "ROMEO:\nO, she doth teach the torches to burn bright!",
                "checkpoint": {"path": f"checkpoints/{activation}/trial_{k}.pt", "sha256": f"{seed:02x}{k:02x}" * 16},
                "environment": dict(environment),
                "weights_sha256": f"{sum(activation.encode()):04x}{k:04x}" * 8,
            }
        )
    pairs, curves = [], {}
    good = [k for k in range(1, n_trials + 1) if k not in diverged]
    for i, j in itertools.combinations(good, 2):
        d = pd + g[i - 1] + g[j - 1] + pd * spread * 0.3 * rng.standard_normal()
        d = float(abs(d))
        n = 65536
        mismatch = int(n * d * 0.9)
        pairs.append(
            {
                "model_pair": f"{i}_vs_{j}",
                "relative_pd": d,
                "relative_pd_se": d * 0.004,
                "relative_pd_by_block": [float(abs(x)) for x in d * (1 + 0.03 * rng.standard_normal(64))],
                "pd_l1": 2 * d,
                "pd_l2": d * 0.9,
                "symmetric_pd": d * 4,
                "true_label_relative_pd": d * 1.5,
                "hellinger": d * 0.8,
                "jensen_shannon": d * 0.1,
                "prediction_differences": mismatch,
                "right_to_wrong": mismatch // 4,
                "wrong_to_right": mismatch // 5,
                "wrong_to_wrong": mismatch - mismatch // 4 - mismatch // 5,
                "total_predictions": n,
                "top1_mismatch_pct": 100 * mismatch / n,
                "val_loss_difference": abs(trials[i - 1]["val_loss"] - trials[j - 1]["val_loss"]),
            }
        )
        rise = 1 - np.exp(-np.array(steps) / 150.0)
        curves[f"{i}_vs_{j}"] = {
            "relative_pd": [float(x) for x in d * rise],
            "top1_mismatch_pct": [float(x) for x in 90 * d * rise],
            "val_loss_difference": [float(x) for x in 0.01 * rise],
        }

    def stat(key, f):
        values = [t[key] for t in trials if t["status"] == "done"]
        if not values or (f == "std" and len(values) < 2):
            return None
        return float(np.mean(values)) if f == "mean" else float(np.std(values, ddof=1))

    divergence = {
        "positions": 2048,
        "steps": steps,
        "val_loss": {str(t["trial_id"]): t["val_loss_history"] for t in trials if t["status"] == "done"},
        "pairs": curves,
    }
    return {
        "schema_version": storage.SCHEMA_VERSION,
        "metrics": [metric.key for metric in METRICS],
        "activation": activation,
        "model_name": "gpt",
        "study": None,
        "timestamp": "2026-01-02T03:04:05+00:00",
        "config": {
            "preset": "quick",
            "n_layer": 4,
            "n_embd": 128,
            "block_size": 64,
            "max_iters": 1000,
            "seed_base": 1337,
        },
        "fingerprint": "f" * 64,
        "dataset": {
            "name": "shakespeare",
            "sha256": "d" * 64,
            "characters": 4800000,
            "train_tokens": 4320000,
            "val_tokens": 480000,
            "vocab_size": 80,
            "tokenizer": "char",
            "unseen_val_tokens": 0,
            "unigram_entropy": 3.35,
            "val_unigram_cross_entropy": 3.36,
            "majority_accuracy": 15.2,
        },
        "evaluation": {"positions": 65536, "windows": 1024, "block_size": 64, "blocks": 64, "sha256": "e" * 64},
        "steps": steps,
        "seeds": [t["seed"] for t in trials],
        "environment": environment,
        "parameters": 804096,
        "trials": trials,
        "reproducibility_metrics": pairs,
        "set_prediction_difference": float(1.1 * pd) if pairs else None,
        "self_prediction_difference": 0.0,
        "divergence": divergence,
        "avg_train_loss": stat("train_loss", "mean"),
        "avg_val_loss": stat("val_loss", "mean"),
        "std_val_loss": stat("val_loss", "std"),
        "avg_train_accuracy": stat("train_accuracy", "mean"),
        "avg_val_accuracy": stat("val_accuracy", "mean"),
        "std_val_accuracy": stat("val_accuracy", "std"),
        "avg_relative_pd": float(np.mean([p["relative_pd"] for p in pairs])) if pairs else None,
        "avg_training_time": stat("training_time", "mean"),
        "audit": {
            "passed": audit_passed,
            "checks": [
                {
                    "name": "causal",
                    "status": "pass" if audit_passed else "fail",
                    "measured": "largest change of a logit before the changed token: 0",
                    "threshold": "exactly 0",
                    "why": "a model that sees the token it predicts has no meaningful loss",
                }
            ],
        },
    }


def add_frontier(results, above=(0.25, 0.1, 0.0), pd_factors=(1.02, 1.01, 1.0)):
    """Branches whose trials' losses lie that far `above` the final ones, and whose PDs are the final ones times
    `pd_factors`, a little different for every trial and pair; the last branch is the final models."""
    rng = np.random.default_rng(sum(results["activation"].encode()))
    done = [t for t in results["trials"] if t["status"] == "done"]
    results["frontier"] = []
    for b, (more, factor) in enumerate(zip(above, pd_factors, strict=True)):
        last = b == len(above) - 1
        noise = 0.0 if last else 1.0
        trials = [
            {"trial_id": t["trial_id"], "val_loss": t["val_loss"] + more + noise * rng.normal(0, 0.003)} for t in done
        ]
        pairs = [
            {
                **{key: p[key] for key in ("model_pair", "prediction_differences", "total_predictions")},
                "relative_pd": p["relative_pd"] * factor * float(np.exp(noise * rng.normal(0, 0.003))),
            }
            for p in results["reproducibility_metrics"]
        ]
        branch = {"leaves": 320 + 240 * b, "ends": 400 + 300 * b, "trials": trials, "pairs": pairs}
        averages = {f"avg_{key}": _mean(x, key) for key, x in (("val_loss", trials), ("relative_pd", pairs))}
        results["frontier"].append(branch | averages)
    return results


def _mean(entries, key):
    return float(np.mean([entry[key] for entry in entries])) if entries else None


def minimal_results(activation="relu", **kwargs):
    """Only the keys that older tools of this kind write."""
    full = synthetic_results(activation, **kwargs)
    trial_keys = (
        "trial_id seed train_loss val_loss train_accuracy val_accuracy training_time train_loss_history "
        "val_loss_history"
    ).split()
    pair_keys = "model_pair relative_pd prediction_differences total_predictions".split()
    keys = (
        "activation model_name timestamp avg_train_loss avg_val_loss std_val_loss avg_train_accuracy avg_val_accuracy "
        "std_val_accuracy avg_relative_pd avg_training_time"
    ).split()
    return {
        **{k: full[k] for k in keys},
        "trials": [{k: t[k] for k in trial_keys} for t in full["trials"]],
        "reproducibility_metrics": [{k: p[k] for k in pair_keys} for p in full["reproducibility_metrics"]],
    }


def synthetic_study(names=STUDY, **kwargs):
    """{activation: results} with slightly different levels per activation."""
    levels = {"smelu_05": 0.095, "smelu_1": 0.093, "relu": 0.100, "gelu": 0.094, "swish": 0.092}
    losses = {"smelu_05": 1.81, "smelu_1": 1.83, "relu": 1.80, "gelu": 1.78, "swish": 1.80}
    return {
        name: synthetic_results(
            name, **{"pd": levels.get(name, 0.1), "val_loss": losses.get(name, 1.8), "seconds": 30.0 + i, **kwargs}
        )
        for i, name in enumerate(names)
    }


def write_study(folder, study):
    for results in study.values():
        storage.write_results(results, folder)
    return folder


# -- read without the code under test ---------------------------------------------------------------------------------


def pds_of(results):
    """{(i, j): relative PD}, read without the code under test."""
    pairs = {}
    for pair in results["reproducibility_metrics"]:
        i, j = map(int, pair["model_pair"].split("_vs_"))
        pairs[i, j] = pair["relative_pd"]
    return pairs


def pds_at_equal_loss(study, *names):
    """{activation: {pair: its PD where its mean loss falls to the largest final one of any pair of `names`}}, along its
    branches, by NumPy."""
    curves = {}
    for name in names:
        branches = study[name]["frontier"]
        for k, pair in enumerate(p["model_pair"] for p in branches[0]["pairs"]):
            ids = tuple(map(int, pair.split("_vs_")))
            losses = [np.mean([t["val_loss"] for t in b["trials"] if t["trial_id"] in ids]) for b in branches]
            logs = np.log([b["pairs"][k]["relative_pd"] for b in branches])
            curves.setdefault(name, {})[ids] = losses[::-1], logs[::-1]
    target = max(losses[0] for pairs in curves.values() for losses, _ in pairs.values())
    return {n: {pair: np.exp(np.interp(target, *c)) for pair, c in pairs.items()} for n, pairs in curves.items()}


def log_jackknife(pairs):
    """ln U + (ψ - U) / U with ψ_k = n U - (n - 1) U_(k), U_(k) the mean over pairs without trial k."""
    ids = sorted({k for pair in pairs for k in pair})
    n, everything = len(ids), np.mean(list(pairs.values()))
    without = np.array([np.mean([x for pair, x in pairs.items() if k not in pair]) for k in ids])
    return np.log(everything) + (n * everything - (n - 1) * without - everything) / everything


def losses_of(results):
    return np.array([t["val_loss"] for t in results["trials"]])


def differences_from(values, reference="relu"):
    """{name: paired differences} of {name: one number per trial} from the reference's."""
    return {name: x - values[reference] for name, x in values.items() if name != reference}


def moderated(d, family):
    """Moderated t-test of paired differences d (n,); `family`: those of the comparisons that lend their spread.
    Returns t, df, p, standard error and half the 95 % interval: the definition, written out with SciPy."""
    import scipy.stats  # here: a test sees that figures load none of it

    n, prior = len(d), 2
    lent = np.mean([np.var(x, ddof=1) for x in family])
    df = prior + n - 1
    se = np.sqrt((prior * lent + (n - 1) * np.var(d, ddof=1)) / df / n)
    t = np.mean(d) / se
    return t, df, 2 * scipy.stats.t.sf(abs(t), df), se, scipy.stats.t.ppf(0.975, df) * se


# -- studies that lack something --------------------------------------------------------------------------------------


def no_variation():
    study = synthetic_study()
    for results in study.values():
        for t in results["trials"]:
            t["val_loss"] = 1.8
        for p in results["reproducibility_metrics"]:
            p["relative_pd"] = 0.1
    return study


def with_nan():
    study = synthetic_study()
    study["relu"]["trials"][1]["val_loss"] = float("nan")
    for p in study["relu"]["reproducibility_metrics"]:
        if "2" in p["model_pair"]:
            p["relative_pd"] = float("nan")
    return study


def without_a_trial():
    study = synthetic_study()
    study["relu"]["trials"].pop()
    return study


def without_a_pair():
    study = synthetic_study()
    study["relu"]["reproducibility_metrics"].pop()
    return study


def identical_activations():
    study = synthetic_study()
    study["gelu"] = {**copy.deepcopy(study["swish"]), "activation": "gelu"}
    return study


def identical_trials():
    study = synthetic_study()
    for p in study["relu"]["reproducibility_metrics"]:
        p["relative_pd"] = 0.0
    return study


def seeds_apart():
    study = synthetic_study()
    for t in study["relu"]["trials"]:
        t["seed"] += 100
    return study


DEGENERATE = {
    "one activation": lambda: synthetic_study(("relu",)),
    "one smooth activation": lambda: synthetic_study(("gelu",)),
    "no relu": lambda: synthetic_study(("gelu", "swish")),
    "one trial": lambda: synthetic_study(n_trials=1),
    "one trial of one activation": lambda: synthetic_study(("relu",), n_trials=1),
    "two trials": lambda: synthetic_study(n_trials=2),
    "five trials": lambda: synthetic_study(n_trials=5),
    "more trials of one": lambda: {**synthetic_study(), "relu": synthetic_results("relu", n_trials=5)},
    "a diverged trial": lambda: {**synthetic_study(), "gelu": synthetic_results("gelu", diverged=(2,))},
    "an activation diverged": lambda: {**synthetic_study(), "gelu": synthetic_results("gelu", diverged=(1, 2, 3))},
    "everything diverged": lambda: {n: synthetic_results(n, diverged=(1, 2, 3)) for n in STUDY},
    "a failed audit": lambda: {**synthetic_study(), "gelu": synthetic_results("gelu", audit_passed=False)},
    "relu failed its audit": lambda: {**synthetic_study(), "relu": synthetic_results("relu", audit_passed=False)},
    "all audits failed": lambda: {n: synthetic_results(n, audit_passed=False) for n in STUDY},
    "another tool's files": lambda: {n: minimal_results(n) for n in STUDY},
    "one file of another tool": lambda: {**synthetic_study(), "relu": minimal_results("relu")},
    "NaN": with_nan,
    "a missing trial": without_a_trial,
    "a missing pair": without_a_pair,
    "identical activations": identical_activations,
    "identical trials": identical_trials,
    "no variation": no_variation,
    "seeds not shared": seeds_apart,
    "branches": lambda: {n: add_frontier(r) for n, r in synthetic_study().items()},
    "branches of one": lambda: {**synthetic_study(), "relu": add_frontier(synthetic_results("relu"))},
    "branches and a diverged trial": lambda: {
        n: add_frontier(synthetic_results(n, n_trials=4, diverged=(2,) if n == "gelu" else ())) for n in STUDY
    },
    "unknown names": lambda: {**synthetic_study(("relu",)), "m<b>|*y": synthetic_results("m<b>|*y")},
}


def synthetic_where(**changes):
    """What where.json holds, of five trials of relu that are always right and little sure of it; `changes` of its
    entry."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 640, 6)) * 0.3 + 2 * rng.standard_normal((640, 6))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = log_p[0].argmax(-1)
    p = positions.measure(log_p, targets)
    frequency = np.bincount(targets, minlength=6) / 640
    entry = {
        "source": "weights",
        "note": "",
        "trials": [1, 2, 3, 4, 5],
        "positions": 640,
        "pd": positions.concentration(p),
        "recorded_pd": None,
        "where": positions.where(p, 64, np.roll(targets, 1), list("abc .7"), frequency),
        "error": positions.error(p, 64),
    }
    return {"activations": {"relu": {**entry, **changes}}}


def synthetic_remedies(ratio=0.8, n=5, seed=0):
    """What remedies.json holds of an activation: none, an arm whose PD is `ratio` of none's and whose loss is
    0.02 higher, both trial by trial with noise, and one that is as none."""
    rng = np.random.default_rng(seed)
    g = rng.normal(0, 0.002, n)
    pd = 0.1 + g[:, None] + g[None, :]
    h = rng.normal(0, 0.0005, n)
    arm = ratio * pd * (1 + h[:, None] + h[None, :])
    np.fill_diagonal(pd, 0)
    np.fill_diagonal(arm, 0)
    losses = 1.8 + rng.normal(0, 0.01, n)
    like = {"study": "", "size": 1, "paired": True, "units": [[k] for k in range(1, n + 1)], "teachers": 0}
    like |= {"time": 30.0, "parameters": 1000, "seconds": None}
    return {
        "identity": None,
        "notes": [],
        "arms": [
            {**like, "arm": "none", "pd": pd.tolist(), "losses": losses.tolist()},
            {**like, "arm": "distil", "pd": arm.tolist(), "losses": (losses + 0.02 + rng.normal(0, 1e-3, n)).tolist(),
             "time": 45.0},
            {**like, "arm": "ema_0.99", "pd": pd.tolist(), "losses": losses.tolist(), "seconds": 0.1},
        ],
    }  # fmt: skip


def parting(doubling, steps, noise, rng, start=1e-7, top=0.3):
    """A distance that doubles in so many steps, times noise, until it levels off."""
    grown = start * 2 ** (np.asarray(steps, float) / doubling)
    return grown / (1 + grown / top) * np.exp(noise * rng.standard_normal(len(steps)))


def synthetic_clock(name, doublings, forks=(0, 100), n_forks_together=1, seed=0):
    """A file of the clock with planted doubling times, one a trial in steps, the same for every fork."""
    from questions.clock.measure import offsets  # brings torch

    rng, trials = np.random.default_rng([seed, sum(name.encode())]), {}
    moved = {"unit": "float32", "parameter": "h.0.mlp.c_proj.weight", "place": 3, "from": 0.1, "to": 0.1000001}
    for k, doubling in enumerate(doublings, 1):
        twins = []
        for i, fork in enumerate(forks):
            steps, few = offsets(1000 - fork), offsets(1000 - fork, every=4, ratio=2 ** (1 / 3))
            twins.append({
                "fork": fork, "moved": {**moved, "working_weights_moved": 1}, "steps": steps, "prediction_steps": few,
                "weights": parting(doubling, steps, 0.1, rng).tolist(),
                "predictions": parting(doubling, few, 0.1, rng, top=0.1).tolist(),
                "barrier": 0.2 if i < len(forks) - n_forks_together else 0.001, "losses": [1.8, 1.8],
            })  # fmt: skip
        still = {**twins[-1], "moved": {}, "barrier": 0.0}
        still |= {kind: [0.0] * len(still[kind]) for kind in ("weights", "predictions")}
        trials[str(k)] = {"status": "done", "seed": 1336 + k, "forks": twins, "unmoved": [still]}
    config = Config(preset="smoke", device="cpu", precision="float32", max_iters=1000, warmup_iters=10)
    return {
        "schema": "clock/1", "activation": name, "config": config.to_dict(), "fingerprint": config.fingerprint(),
        "corpus_sha256": "c", "forks": list(forks), "positions": 512, "trials": trials,
    }  # fmt: skip
