"""Integrity checks of what was trained: `after_training` reads the results of one activation, `across_activations`
those of several. They need nothing but the results; the checks before training are in audit.py."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np

from analysis.records import Trial
from analysis.results import Measured
from cli import counted
from config import Config
from storage import number
from training.check import TOO_SHORT, check, half_a_unit, listed

# -- after training -----------------------------------------------------------------------------------------------


def after_training(results: dict) -> list[dict]:
    """The checks of one activation's results. They need nothing but the dict; where another tool left out what a
    check needs, it is "not applicable"."""
    m = Measured(results["activation"], results)
    done = [trial for trial in _trials(results) if trial.status == "done"]
    checks = [
        _finite(m, done),
        _learning(m, done),
        _degenerate(m, done),
        _distinct(m, done),
        _consistent(m, done),
        _suspicious(m, done),
        _positions_compared(m, done),
        _learning_curve(m, done),
        _one_machine(results),
        _unseen(m),
    ]
    return _called_short(_trials(results), checks)


def _trials(results: dict) -> list[Trial]:
    return [Trial.of(record, place) for place, record in enumerate(results["trials"], 1)]


def _numbers_of(record: dict, *keys: str) -> list[float]:
    """Those of the values that are numbers."""
    return [x for key in keys if (x := number(record.get(key))) is not None]


def _not_finite(value, where="") -> list[str]:
    """Where in a nested value a float is NaN or infinite."""
    if isinstance(value, dict):
        return [p for key, v in value.items() for p in _not_finite(v, f"{where}.{key}" if where else str(key))]
    if isinstance(value, (list, tuple)):
        return [p for i, v in enumerate(value) for p in _not_finite(v, f"{where}[{i}]")]
    return [where] if isinstance(value, float) and not math.isfinite(value) else []


def _finite(m, done):
    problems = [f"{where} is not finite" for where in _not_finite(m.results)]
    keys = "train_loss", "val_loss", "train_accuracy", "val_accuracy"
    problems += [f"trial {t.number} is done but has no {key}" for t in done for key in keys if t.record[key] is None]
    pairs = m.results["reproducibility_metrics"]
    problems += [f"pair {pair['model_pair']} has no relative_pd" for pair in pairs if pair["relative_pd"] is None]
    failed = [t.record for t in _trials(m.results) if t.status != "done"]
    diverged = ", ".join(f"trial {t['trial_id']} at step {t.get('diverged_at_step')}" for t in failed)
    return check(
        "finite",
        not problems,
        listed(problems, "every number is finite")
        + (f"; diverged and left out of every mean: {diverged}" if diverged else ""),
    )


def _learning(m, done):
    references = _numbers_of(m.record("dataset"), "unigram_entropy", "val_unigram_cross_entropy")
    losses = {t.number: t.val_loss for t in done if t.val_loss is not None}
    applies = bool(references and losses)
    reference = min(references, default=math.nan)
    worse = [f"trial {k}: {loss:.4f}" for k, loss in losses.items() if not loss < reference]
    return check(
        "learning",
        not worse if applies else None,
        ("validation loss " + listed(worse, f"at most {max(losses.values()):.4f} nats/token"))
        if applies
        else "no loss or no unigram entropy recorded",
        f"below {reference:.4f}, the unigram entropy" if applies else "below the unigram entropy",
    )


UNLEARNT = {"learning", "degenerate"}  # checks that a training fails that has only begun
FALLING = 0.02  # of its value: a loss that fell by more over the second half of a training had not arrived


def _called_short(trials: list[Trial], checks: list[dict]) -> list[dict]:
    """The checks, and in those that say that nothing was learnt yet that the training is too short, where it is: where
    nothing else fails, and the validation loss still fell, in the mean of the trials, at the end."""
    failed, falls, steps = {c["name"] for c in checks if c["status"] == "fail"}, [], 0
    for t in trials:
        losses = [number(loss) for loss in t.val_loss_history]
        if len(t.steps) == len(losses) > 2 and None not in losses:
            steps = max(steps, t.steps[-1])
            falls.append(1 - losses[-1] / float(np.interp(t.steps[-1] / 2, t.steps, losses)))
    if not failed or not failed <= UNLEARNT or not falls or np.mean(falls) <= FALLING:
        return checks
    why = f"{TOO_SHORT}: over the second half of {steps} steps the loss still fell by {100 * np.mean(falls):.0f} %"
    return [c | {"measured": f"{c['measured']}; {why}"} if c["name"] in failed else c for c in checks]


def _degenerate(m, done):
    majority, entropy = (number(m.record("dataset").get(key)) for key in ("majority_accuracy", "unigram_entropy"))
    # a fifth of the tokens that the text uses, exp(entropy) of them: 5 of English letters, 3 of names, 2 of DNA
    fewest = min(5, max(2, int(math.exp(entropy)) // 5)) if entropy is not None and entropy < 10 else 5
    problems, seen = [], []
    for t in done:
        distinct = number(t.value("distinct_argmax"))
        who = t.value("member") or f"trial {t.number}"  # somebody's model has a name
        if distinct is not None:
            seen.append(f"{t.value('distinct_argmax')} tokens")
            if distinct < fewest:
                problems.append(f"{who} predicts only {counted(int(t.value('distinct_argmax')), 'different token')}")
        if majority is not None and t.val_accuracy is not None:
            seen.append(f"{t.val_accuracy:.1f} %")
            if t.val_accuracy <= majority:
                problems.append(f"{who} is right at {t.val_accuracy:.2f} %, no better than one token for all")
    share = "the commonest token's share" if majority is None else f"{majority:.2f} %, the share of the commonest token"
    return check(
        "degenerate",
        not problems if seen else None,
        listed(problems, "different tokens predicted and accuracy: " + ", ".join(seen) if seen else "not recorded"),
        f"at least {fewest} different predictions; accuracy above {share}",
    )


ALIKE = 1e-5  # relative PD of two models that differ by rounding; trained apart they differ by 1e-3 and more


def _distinct(m, done):
    vary = list(m.record("config").get("vary") or ())
    pds = {
        frozenset(re.findall("[0-9]+", str(p["model_pair"]))): number(p["relative_pd"])
        for p in m.results["reproducibility_metrics"]
    }
    same = []
    for a, b in itertools.combinations(done, 2):
        names = f"trials {a.number} and {b.number}"
        pd = pds.get(frozenset((str(a.number), str(b.number))))
        if a.weights_sha256 and a.weights_sha256 == b.weights_sha256:
            same.append(f"{names} have identical weights")
        elif a.digits == b.digits:
            same.append(f"{names} have identical results")
        elif pd is not None and pd < ALIKE and vary != ["bit"]:
            same.append(f"{names} predict the same (relative PD {pd:.2g})")
        elif m.results.get("fingerprint") and a.seed is not None and a.seed == b.seed:
            same.append(f"{names} have the same seed")
    applies = len(done) > 1 and vary != ["none"]
    return check(
        "distinct",
        not same if applies else None,
        listed(same, f"{len(done)} trials, no two alike" if len(done) > 1 else "fewer than two trials"),
        f"no two trials with identical weights, results or seeds, or a relative PD below {ALIKE:g}"
        + ("" if applies else " (vary = none aside)"),
    )


def _consistent(m, done):
    """Inequalities that hold for any predictions whatever. Where the arg-max is wrong, the true token has p ≤ 1/2 and
    costs ln 2 or more: loss ≥ (1 − accuracy) ln 2. Accuracies of two models differ by no more than the share of
    positions where their arg-max differs. With δ the total variation (relative PD) at a position, h the Hellinger
    distance and JS the Jensen–Shannon divergence: h² ≤ δ ≤ √2 h and JS ≤ δ ln 2 (Lin 1991)."""
    problems, margins, eps = [], [], 1e-6
    for t, split in itertools.product(done, ("train", "val")):
        loss, accuracy = getattr(t, f"{split}_loss"), getattr(t, f"{split}_accuracy")
        if loss is None or accuracy is None:
            continue
        if not 0 <= accuracy <= 100:
            problems.append(f"trial {t.number}: {split} accuracy {accuracy} %")
        least = (1 - accuracy / 100) * math.log(2)
        margins.append(loss - least)
        if loss < least - eps:
            problems.append(
                f"trial {t.number}: {split} loss {loss:.4f} at {accuracy:.1f} % accuracy, which costs {least:.4f} or "
                "more"
            )
    by_id = {t.number: t for t in done}
    for pair in m.results["reproducibility_metrics"]:
        problems += [f"pair {pair['model_pair']}: {text}" for text in _impossible_pair(pair, by_id, eps)]
    for key in ("avg_val_loss", "avg_train_loss", "avg_val_accuracy", "avg_train_accuracy"):
        values, recorded = [getattr(t, key.removeprefix("avg_")) for t in done], number(m.results[key])
        mean = sum(values) / len(values) if values and None not in values else None
        if mean is not None and not (recorded is not None and math.isclose(recorded, mean, rel_tol=eps)):
            problems.append(f"{key} = {m.results[key]} is not the mean of its trials, {mean:.6g}")
    sound = f"losses at least {min(margins):.3f} nats above what their accuracies cost" if margins else "—"
    return check(
        "consistent",
        not problems if margins else None,
        listed(problems, sound),
    )


def _impossible_pair(pair: dict, by_id: dict, eps: float) -> list[str]:
    problems, values = [], {key: x for key in pair if (x := number(pair[key])) is not None}
    pd, l1, h, js = map(values.get, ("relative_pd", "pd_l1", "hellinger", "jensen_shannon"))
    if pd is not None:
        if not 0 <= pd <= 1:
            problems.append(f"relative PD {pd} outside 0 to 1")
        if l1 is not None and not math.isclose(l1, 2 * pd, rel_tol=1e-4, abs_tol=1e-9):
            problems.append(f"pd_l1 {l1:.6g} is not twice relative_pd {pd:.6g}")
        # means over positions: mean(h)² ≤ mean(h²) ≤ mean(δ) ≤ √2 mean(h)
        if h is not None and not h * h - eps <= pd <= math.sqrt(2) * h + eps:
            problems.append(f"hellinger {h:.6g} is impossible at relative PD {pd:.6g}")
        if js is not None and js > pd * math.log(2) + eps:
            problems.append(f"jensen_shannon {js:.6g} is impossible at relative PD {pd:.6g}")
    differ, total = pair["prediction_differences"], pair["total_predictions"]
    counted_both = "prediction_differences" in values and values.get("total_predictions")
    share = 100 * differ / total if counted_both else None
    if share is not None:
        if not 0 <= differ <= total:
            problems.append(f"{differ} differences in {total} predictions")
        flips = [pair[key] for key in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong") if key in values]
        if len(flips) == 3 and (min(flips) < 0 or sum(flips) != differ):
            problems.append(f"{', '.join(map(str, flips))} flips are not the {differ} differences")
        mismatch = values.get("top1_mismatch_pct")
        if mismatch is not None and not math.isclose(mismatch, share, abs_tol=1e-6):
            problems.append(f"top1_mismatch_pct {mismatch} is not {differ} of {total}")
    ends = [by_id.get(int(k)) for k in str(pair["model_pair"]).split("_vs_") if k.isdigit()]
    if len(ends) == 2 and all(ends):
        (loss, other), (a, b) = ([getattr(t, key) for t in ends] for key in ("val_loss", "val_accuracy"))
        gap = values.get("val_loss_difference")
        if None not in (gap, loss, other) and abs(abs(loss - other) - gap) > eps:
            problems.append(f"val_loss_difference {gap:.6g} is not that of its trials")
        if None not in (share, a, b) and abs(a - b) > share + 1e-6:
            problems.append(f"accuracies {a:.2f} and {b:.2f} % with {share:.2f} % mismatches")
    return problems


# What English text costs. Human readers reach about 0.6 bits a character (Shannon 1951), the best compressors of a
# gigabyte of it 0.85 (Mahoney, Large Text Compression Benchmark): no small model gets near 0.43 bits = 0.3 nats.
FLOOR_PER_CHARACTER = 0.3
# The same compressors, large neural networks, need half of what LZMA needs there: a quarter is out of reach.
FLOOR_OF_COMPRESSED = 0.25


def _suspicious(m, done):
    compressed = number(m.record("evaluation").get("compressed_nats_per_token"))
    sizes = _numbers_of(m.record("dataset"), "characters", "train_tokens", "val_tokens")
    floor, reason = FLOOR_PER_CHARACTER, f"{FLOOR_PER_CHARACTER} a token"
    if compressed is not None:
        floor, reason = FLOOR_OF_COMPRESSED * compressed, f"a quarter of the {compressed:.3f} that LZMA needs"
    elif len(sizes) == 3 and sizes[1] + sizes[2] > 0:
        floor = FLOOR_PER_CHARACTER * sizes[0] / (sizes[1] + sizes[2])
        reason = f"{FLOOR_PER_CHARACTER} a character"
    problems, losses = [], [t.val_loss for t in done if t.val_loss is not None]
    for t in (t for t in done if t.val_loss is not None):
        said = f"trial {t.number}: validation loss {t.val_loss:.4f}"
        if t.val_loss < floor:
            problems.append(f"{said} nats/token")
        elif t.train_loss is not None and t.val_loss < 0.5 * t.train_loss:
            problems.append(f"{said} is less than half the training loss {t.train_loss:.4f}")
    lowest = f"lowest validation loss {min(losses):.4f} nats/token" if losses else "no finished trial"
    return check(
        "suspicious loss",
        not problems if losses else None,
        listed(problems, lowest),
        f"at least {floor:.3g} nats/token ({reason}), and at least half the training loss",
    )


def _positions_compared(m, done):
    pairs, evaluation = m.results["reproducibility_metrics"], m.record("evaluation")
    totals = sorted({pair["total_predictions"] for pair in pairs}, key=str)
    positions, sha = number(evaluation.get("positions")), evaluation.get("sha256")
    self_pd = m.results.get("self_prediction_difference")
    problems = []
    if len(totals) > 1:
        problems.append(f"pairs were compared at different numbers of positions: {', '.join(map(str, totals))}")
    if positions is not None and totals and totals != [positions]:
        problems.append(f"compared at {totals[0]} positions, evaluated at {evaluation['positions']}")
    if self_pd not in (None, 0):
        problems.append(f"a trial differs from itself: relative PD {self_pd:.3g}")
    expected = len(done) * (len(done) - 1) // 2
    if len({pair["model_pair"] for pair in pairs}) != len(pairs) or len(pairs) != expected:
        problems.append(f"{len(pairs)} pairs of {len(done)} finished trials, not {expected}")
    sound = f"{len(pairs)} pairs at the same {totals[0]} positions" if pairs else "no pair to compare"
    sound += (f" (sha256 {sha[:12]}…)" if sha else "") + ("; self-difference 0" if self_pd == 0 else "")
    return check(
        "same positions compared",
        not problems if pairs else None,
        listed(problems, sound),
    )


def _learning_curve(m, done):
    """How steeply each validation curve still falls: least squares over its last third. Reported, since no length of
    training is the right one; failed only by a model that ends no better than it began."""
    slopes, problems = [], []
    for t in done:
        curve = [x for x in t.val_loss_history if number(x) is not None]
        steps = t.steps or m.results.get("steps") or []
        if len(curve) < 3:
            continue
        if len(steps) != len(curve):
            steps = list(range(len(curve)))
        if not curve[-1] < curve[0]:
            problems.append(f"trial {t.number} ends at {curve[-1]:.4f}, having begun at {curve[0]:.4f}")
        last = max(2, math.ceil(len(curve) / 3))
        slope = np.polyfit(np.array(steps[-last:], float), curve[-last:], 1)[0]
        slopes.append(f"{slope * (steps[-1] - steps[0]) / 10:+.4f}")
    sound = f"at the end of training the validation loss changes by {', '.join(slopes)} nats in a tenth of training"
    return check(
        "learning curve",
        not problems if slopes else None,
        listed(problems, sound if slopes else "no curve"),
    )


# -- confounds ----------------------------------------------------------------------------------------------------


def _environments(results) -> dict:
    """{trial id: its environment, {item: value}}, of the trials that record one."""
    recorded = {t["trial_id"]: t.get("environment") for t in results["trials"]}
    return {k: {item: str(value) for item, value in e.items()} for k, e in recorded.items() if isinstance(e, dict)}


def _apart(environments: dict) -> list[str]:
    """In what environments, by whose they are, differ: "torch: 2.13.0 (1, 2), 2.12.0 (3)"."""
    facts = []
    for item in dict.fromkeys(item for environment in environments.values() for item in environment):
        values: dict[str, list[str]] = {}
        for whose, environment in environments.items():
            values.setdefault(environment.get(item, "not recorded"), []).append(str(whose))
        if len(values) > 1:
            facts.append(f"{item}: " + ", ".join(f"{value} ({', '.join(names)})" for value, names in values.items()))
    return facts


def _one_machine(results):
    environments = _environments(results)
    first = next(iter(environments.values()), {})
    versions = ", ".join(f"{item} {first[item]}" for item in ("torch", "device_name", "computed") if item in first)
    apart = _apart({f"trial {k}": environment for k, environment in environments.items()})
    return check(
        "one machine",
        ("caution" if apart else True) if environments else None,
        listed(apart, f"{len(environments)} trials with {versions}" if environments else "not recorded"),
    )


MOST_UNSEEN = 0.01


def _unseen(m):
    dataset = m.record("dataset")
    shares = {
        unit: dataset[f"unseen_val_{unit}"] / dataset[f"val_{unit}"]
        for unit in ("tokens", "characters")
        if number(dataset.get(f"unseen_val_{unit}")) is not None and dataset.get(f"val_{unit}")
    }
    worst = max(shares.values(), default=0.0)
    texts = (f"{100 * share:.2g} % of the validation {unit} never occur in training" for unit, share in shares.items())
    return check(
        "unseen characters",
        ("caution" if worst > MOST_UNSEEN else True) if shares else None,
        ", ".join(texts) or "not recorded",
        f"at most {100 * MOST_UNSEEN:g} %",
    )


# -- across activations -------------------------------------------------------------------------------------------


def across_activations(all_results: dict[str, dict]) -> list[dict]:
    """The checks that compare the results of different activations; {activation: results}."""
    return [
        _distinct_activations(all_results),
        _equal_everywhere(
            all_results,
            "same positions across activations",
            lambda r: (r.get("evaluation") or {}).get("sha256"),
        ),
        _same_settings(all_results),
        _parameters_across(all_results),
        _one_machine_across(all_results),
        _order_of_training(all_results),
    ]


def _distinct_activations(all_results):
    trials = {name: _trials(results) for name, results in all_results.items()}
    same = []
    for (a, first), (b, second) in itertools.combinations(trials.items(), 2):
        weights = [{t.weights_sha256 for t in some} - {""} for some in (first, second)]
        if weights[0] & weights[1]:
            same.append(f"{a} and {b} share trained weights")
            continue
        digits = [[t.digits for t in some if t.val_loss is not None] for some in (first, second)]
        if shared := sum(one in digits[1] for one in digits[0]):
            same.append(f"{a} and {b} have {counted(shared, 'trial')} with identical results")
    return check(
        "distinct activations",
        not same if len(all_results) > 1 else None,
        listed(same, f"{len(all_results)} activations, no two with a trial in common"),
    )


def _groups(all_results, value) -> tuple[dict, list[str]]:
    """{value: activations that have it}, and the activations that record none."""
    groups, without = {}, []
    for name, results in all_results.items():
        v = value(results)
        without.append(name) if v is None else groups.setdefault(v, []).append(name)
    return groups, without


def _equal_everywhere(all_results, name, value):
    groups, without = _groups(all_results, value)
    compared = sum(map(len, groups.values()))
    parts = [f"{', '.join(names)}: {str(v)[:12]}" for v, names in groups.items()]
    measured = "; ".join(parts + ([f"not recorded by {', '.join(without)}"] if without else []))
    return check(name, len(groups) <= 1 if compared > 1 else None, measured)


def _same_settings(all_results):
    settings = _equal_everywhere(
        all_results,
        "same settings",
        lambda r: r.get("fingerprint"),
    )
    texts, _ = _groups(all_results, lambda r: (r.get("dataset") or {}).get("sha256"))
    if settings["status"] == "fail":
        configs = [r["config"] for r in all_results.values() if isinstance(r.get("config"), dict)]
        covered = {f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"]}  # as the fingerprint
        changed = [k for k in (configs or [{}])[0] if k in covered and any(c.get(k) != configs[0][k] for c in configs)]
        settings["measured"] += f"; differing: {', '.join(changed) or 'unknown'}"
    if len(texts) > 1:
        settings["status"] = "fail"
        settings["measured"] += "; different texts: " + "; ".join(", ".join(names) for names in texts.values())
    return settings


def _parameters_across(all_results):
    counts = {name: r["parameters"] for name, r in all_results.items() if number(r.get("parameters")) is not None}
    unit = half_a_unit(next((r["config"] for r in all_results.values() if isinstance(r.get("config"), dict)), {}))
    apart = max(counts.values()) - min(counts.values()) if counts else 0
    return check(
        "parameters across activations",
        apart <= max(0.01 * min(counts.values()), unit) if len(counts) > 1 else None,
        ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "not recorded",
    )


def _one_machine_across(all_results):
    """Whether trial k of every activation was trained in the same environment: then machines that differ from trial to
    trial are the same for all, and what is compared are not machines."""
    environments = {name: of_trials for name, results in all_results.items() if (of_trials := _environments(results))}
    common = sorted(set.intersection(*map(set, environments.values())), key=str) if environments else []
    facts = (fact for k in common for fact in _apart({name: e[k] for name, e in environments.items()}))
    apart, measured = (
        list(dict.fromkeys(facts)),
        f"the same for trial {', '.join(map(str, common))} of every activation",
    )
    if apart:
        measured = f"a confound, since a difference between activations may be the machines': {listed(apart, '')}"
    applies = len(environments) > 1 and bool(common)
    return check(
        "same machines across activations",
        ("caution" if apart else True) if applies else None,
        measured if applies else "not recorded",
    )


def _order_of_training(all_results):
    """Reported: times drift with the machine's state, so activations that were trained one after another are compared
    with their hours."""
    spans = {}
    for name, results in all_results.items():
        ends = [_numbers_of(t, "ended", "total_time") for t in results["trials"]]
        if ends and all(len(both) == 2 for both in ends):
            spans[name] = min(end - total for end, total in ends), max(end for end, _ in ends)
    order = sorted(spans, key=spans.get)
    measured = "activations were trained side by side"
    if all(spans[a][1] <= spans[b][0] for a, b in itertools.pairwise(order)):
        measured = f"one activation after another: {', '.join(order)}"
    return check(
        "order of training",
        True if len(spans) > 1 else None,
        measured if len(spans) > 1 else "not recorded",
    )
