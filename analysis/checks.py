"""Integrity checks of what was trained: `after_training` reads the results of one activation, `across_activations`
those of several. They need nothing but the results; the checks before training are in audit.py."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np

from config import Config
from storage import number
from training.check import check, half_a_unit, listed

# -- after training -----------------------------------------------------------------------------------------------


def after_training(results: dict) -> list[dict]:
    """The checks of one activation's results. They need nothing but the dict; where another tool left out what a
    check needs, it is "not applicable"."""
    done = [t for t in results["trials"] if t.get("status", "done") == "done"]
    return [
        _finite(results, done),
        _learning(results, done),
        _degenerate(results, done),
        _distinct(results, done),
        _consistent(results, done),
        _suspicious(results, done),
        _positions_compared(results, done),
        _learning_curve(results, done),
        _one_machine(results),
        _unseen(results),
    ]


def _number(x) -> bool:
    return number(x) is not None


def _not_finite(value, where="") -> list[str]:
    """Where in a nested value a float is NaN or infinite."""
    if isinstance(value, dict):
        return [p for key, v in value.items() for p in _not_finite(v, f"{where}.{key}" if where else str(key))]
    if isinstance(value, (list, tuple)):
        return [p for i, v in enumerate(value) for p in _not_finite(v, f"{where}[{i}]")]
    return [where] if isinstance(value, float) and not math.isfinite(value) else []


def _finite(results, done):
    problems = [f"{where} is not finite" for where in _not_finite(results)]
    for t in done:
        for key in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
            if t[key] is None:
                problems.append(f"trial {t['trial_id']} is done but has no {key}")
    for pair in results["reproducibility_metrics"]:
        if pair["relative_pd"] is None:
            problems.append(f"pair {pair['model_pair']} has no relative_pd")
    diverged = [t for t in results["trials"] if t not in done]
    diverged = ", ".join(f"trial {t['trial_id']} at step {t.get('diverged_at_step')}" for t in diverged)
    return check(
        "finite",
        not problems,
        listed(problems, "every number is finite")
        + (f"; diverged and left out of every mean: {diverged}" if diverged else ""),
        "no NaN or infinity; diverged trials named",
        "a NaN spreads through every mean it enters",
    )


def _learning(results, done):
    dataset = results.get("dataset") or {}
    references = [dataset.get(key) for key in ("unigram_entropy", "val_unigram_cross_entropy")]
    references = [r for r in references if _number(r)]
    losses = {t["trial_id"]: t["val_loss"] for t in done if _number(t["val_loss"])}
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
        "token frequencies alone give that loss: a model that isn't better has learned nothing from context",
    )


def _degenerate(results, done):
    dataset = results.get("dataset") or {}
    majority, entropy = dataset.get("majority_accuracy"), dataset.get("unigram_entropy")
    # a fifth of the tokens that the text uses, exp(entropy) of them: 5 of English letters, 3 of names, 2 of DNA
    fewest = min(5, max(2, int(math.exp(entropy)) // 5)) if _number(entropy) and entropy < 10 else 5
    problems, seen = [], []
    for t in done:
        distinct, accuracy = t.get("distinct_argmax"), t["val_accuracy"]
        who = t.get("member") or f"trial {t['trial_id']}"  # somebody's model has a name
        if _number(distinct):
            seen.append(f"{distinct} tokens")
            if distinct < fewest:
                problems.append(f"{who} predicts only {distinct} different tokens")
        if _number(majority) and _number(accuracy):
            seen.append(f"{accuracy:.1f} %")
            if accuracy <= majority:
                problems.append(f"{who} is right at {accuracy:.2f} %, no better than one token for all")
    return check(
        "degenerate",
        not problems if seen else None,
        listed(problems, "different tokens predicted and accuracy: " + ", ".join(seen) if seen else "not recorded"),
        f"at least {fewest} different predictions; accuracy above "
        + (
            f"{majority:.2f} %, the share of the commonest token"
            if _number(majority)
            else "the commonest token's share"
        ),
        "models that always say the same agree perfectly, and are no evidence of reproducibility",
    )


ALIKE = 1e-5  # relative PD of two models that differ by rounding; trained apart they differ by 1e-3 and more


def _distinct(results, done):
    vary = list((results.get("config") or {}).get("vary") or ())
    pds = {
        frozenset(re.findall("[0-9]+", str(p["model_pair"]))): p["relative_pd"]
        for p in results["reproducibility_metrics"]
    }
    same = []
    for a, b in itertools.combinations(done, 2):
        names = f"trials {a['trial_id']} and {b['trial_id']}"
        pd = pds.get(frozenset((str(a["trial_id"]), str(b["trial_id"]))))
        if a.get("weights_sha256") and a.get("weights_sha256") == b.get("weights_sha256"):
            same.append(f"{names} have identical weights")
        elif _fingerprint([a]) == _fingerprint([b]):
            same.append(f"{names} have identical results")
        elif _number(pd) and pd < ALIKE and vary != ["bit"]:
            same.append(f"{names} predict the same (relative PD {pd:.2g})")
        elif results.get("fingerprint") and a["seed"] is not None and a["seed"] == b["seed"]:
            same.append(f"{names} have the same seed")
    applies = len(done) > 1 and vary != ["none"]
    return check(
        "distinct",
        not same if applies else None,
        listed(same, f"{len(done)} trials, no two alike" if len(done) > 1 else "fewer than two trials"),
        f"no two trials with identical weights, results or seeds, or a relative PD below {ALIKE:g}"
        + ("" if applies else " (vary = none aside)"),
        "a checkpoint counted twice makes training look perfectly reproducible",
    )


def _fingerprint(trials: list[dict]) -> list:
    """What two separate trainings can't have in common by chance: all digits of the losses and curves."""
    return [(t["val_loss"], t["train_loss"], t["val_loss_history"], t["train_loss_history"]) for t in trials]


def _consistent(results, done):
    """Inequalities that hold for any predictions whatever. Where the arg-max is wrong, the true token has p ≤ 1/2 and
    costs ln 2 or more: loss ≥ (1 − accuracy) ln 2. Accuracies of two models differ by no more than the share of
    positions where their arg-max differs. With δ the total variation (relative PD) at a position, h the Hellinger
    distance and JS the Jensen–Shannon divergence: h² ≤ δ ≤ √2 h and JS ≤ δ ln 2 (Lin 1991)."""
    problems, eps = [], 1e-6
    margins = []
    for t in done:
        for split in ("train", "val"):
            loss, accuracy = t[f"{split}_loss"], t[f"{split}_accuracy"]
            if not (_number(loss) and _number(accuracy)):
                continue
            if not 0 <= accuracy <= 100:
                problems.append(f"trial {t['trial_id']}: {split} accuracy {accuracy} %")
            least = (1 - accuracy / 100) * math.log(2)
            margins.append(loss - least)
            if loss < least - eps:
                problems.append(
                    f"trial {t['trial_id']}: {split} loss {loss:.4f} at {accuracy:.1f} % accuracy, which costs "
                    f"{least:.4f} or more"
                )
    by_id = {t["trial_id"]: t for t in done}
    for pair in results["reproducibility_metrics"]:
        problems += [f"pair {pair['model_pair']}: {text}" for text in _impossible_pair(pair, by_id, eps)]
    for key in ("avg_val_loss", "avg_train_loss", "avg_val_accuracy", "avg_train_accuracy"):
        values = [t[key.removeprefix("avg_")] for t in done]
        mean = sum(values) / len(values) if values and all(map(_number, values)) else None
        if mean is not None and not (_number(results[key]) and math.isclose(results[key], mean, rel_tol=eps)):
            problems.append(f"{key} = {results[key]} is not the mean of its trials, {mean:.6g}")
    return check(
        "consistent",
        not problems if margins else None,
        listed(
            problems, f"losses at least {min(margins):.3f} nats above what their accuracies cost" if margins else "—"
        ),
        "loss ≥ (1 − accuracy) ln 2; each pair's measures within their mathematical bounds; means re-derived",
        "numbers that no model can produce were mixed up, edited or computed on different positions",
    )


def _impossible_pair(pair: dict, by_id: dict, eps: float) -> list[str]:
    get = pair.get
    problems = []
    pd = pair["relative_pd"]
    if _number(pd):
        if not 0 <= pd <= 1:
            problems.append(f"relative PD {pd} outside 0 to 1")
        if _number(get("pd_l1")) and not math.isclose(get("pd_l1"), 2 * pd, rel_tol=1e-4, abs_tol=1e-9):
            problems.append(f"pd_l1 {get('pd_l1'):.6g} is not twice relative_pd {pd:.6g}")
        h, js = get("hellinger"), get("jensen_shannon")
        # means over positions: mean(h)² ≤ mean(h²) ≤ mean(δ) ≤ √2 mean(h)
        if _number(h) and not h * h - eps <= pd <= math.sqrt(2) * h + eps:
            problems.append(f"hellinger {h:.6g} is impossible at relative PD {pd:.6g}")
        if _number(js) and js > pd * math.log(2) + eps:
            problems.append(f"jensen_shannon {js:.6g} is impossible at relative PD {pd:.6g}")
    differ, total = pair["prediction_differences"], pair["total_predictions"]
    share = 100 * differ / total if _number(differ) and _number(total) and total else None
    if share is not None:
        if not 0 <= differ <= total:
            problems.append(f"{differ} differences in {total} predictions")
        flips = [get(key) for key in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")]
        if all(map(_number, flips)) and (min(flips) < 0 or sum(flips) != differ):
            problems.append(f"{', '.join(map(str, flips))} flips are not the {differ} differences")
        if _number(get("top1_mismatch_pct")) and not math.isclose(get("top1_mismatch_pct"), share, abs_tol=1e-6):
            problems.append(f"top1_mismatch_pct {get('top1_mismatch_pct')} is not {differ} of {total}")
    ends = [by_id.get(int(k)) for k in str(pair["model_pair"]).split("_vs_") if k.isdigit()]
    if len(ends) == 2 and all(ends):
        losses, accuracies = ([t[key] for t in ends] for key in ("val_loss", "val_accuracy"))
        gap = get("val_loss_difference")
        if _number(gap) and all(map(_number, losses)) and abs(abs(losses[0] - losses[1]) - gap) > eps:
            problems.append(f"val_loss_difference {gap:.6g} is not that of its trials")
        if share is not None and all(map(_number, accuracies)) and abs(accuracies[0] - accuracies[1]) > share + 1e-6:
            problems.append(f"accuracies {accuracies[0]:.2f} and {accuracies[1]:.2f} % with {share:.2f} % mismatches")
    return problems


# What English text costs. Human readers reach about 0.6 bits a character (Shannon 1951), the best compressors of a
# gigabyte of it 0.85 (Mahoney, Large Text Compression Benchmark): no small model gets near 0.43 bits = 0.3 nats.
FLOOR_PER_CHARACTER = 0.3
# The same compressors, large neural networks, need half of what LZMA needs there: a quarter is out of reach.
FLOOR_OF_COMPRESSED = 0.25


def _suspicious(results, done):
    dataset, evaluation = results.get("dataset") or {}, results.get("evaluation") or {}
    compressed = evaluation.get("compressed_nats_per_token")
    tokens = [dataset.get(key) for key in ("characters", "train_tokens", "val_tokens")]
    if _number(compressed):
        floor = FLOOR_OF_COMPRESSED * compressed
        reason = f"a quarter of the {compressed:.3f} that LZMA needs"
    elif all(map(_number, tokens)) and tokens[1] + tokens[2] > 0:
        floor = FLOOR_PER_CHARACTER * tokens[0] / (tokens[1] + tokens[2])
        reason = f"{FLOOR_PER_CHARACTER} a character"
    else:
        floor, reason = FLOOR_PER_CHARACTER, f"{FLOOR_PER_CHARACTER} a token"
    problems, losses = [], []
    for t in done:
        train, val = t["train_loss"], t["val_loss"]
        if not _number(val):
            continue
        losses.append(val)
        if val < floor:
            problems.append(f"trial {t['trial_id']}: validation loss {val:.4f} nats/token")
        elif _number(train) and val < 0.5 * train:
            problems.append(
                f"trial {t['trial_id']}: validation loss {val:.4f} is less than half the training loss {train:.4f}"
            )
    return check(
        "suspicious loss",
        not problems if losses else None,
        listed(problems, f"lowest validation loss {min(losses):.4f} nats/token" if losses else "no finished trial"),
        f"at least {floor:.3g} nats/token ({reason}), and at least half the training loss",
        "what no text allows is a leak of the answer, not a good model",
    )


def _positions_compared(results, done):
    pairs = results["reproducibility_metrics"]
    totals = sorted({pair["total_predictions"] for pair in pairs}, key=str)
    positions = (results.get("evaluation") or {}).get("positions")
    self_pd = results.get("self_prediction_difference")
    problems = []
    if len(totals) > 1:
        problems.append(f"pairs were compared at different numbers of positions: {', '.join(map(str, totals))}")
    if _number(positions) and totals and totals != [positions]:
        problems.append(f"compared at {totals[0]} positions, evaluated at {positions}")
    if self_pd not in (None, 0):
        problems.append(f"a trial differs from itself: relative PD {self_pd:.3g}")
    expected = len(done) * (len(done) - 1) // 2
    if len({pair["model_pair"] for pair in pairs}) != len(pairs) or len(pairs) != expected:
        problems.append(f"{len(pairs)} pairs of {len(done)} finished trials, not {expected}")
    sha = (results.get("evaluation") or {}).get("sha256")
    return check(
        "same positions compared",
        not problems if pairs else None,
        listed(
            problems,
            (f"{len(pairs)} pairs at the same {totals[0]} positions" if pairs else "no pair to compare")
            + (f" (sha256 {sha[:12]}…)" if sha else "")
            + ("; self-difference 0" if self_pd == 0 else ""),
        ),
        "one number of positions for all pairs, all pairs there, self-difference exactly 0",
        "a difference between predictions on different inputs is not a difference between models",
    )


def _learning_curve(results, done):
    """How steeply each validation curve still falls: least squares over its last third. Reported, since no length of
    training is the right one; failed only by a model that ends no better than it began."""
    slopes, problems = [], []
    for t in done:
        curve = [x for x in t["val_loss_history"] if _number(x)]
        steps = t.get("steps") or results.get("steps") or []
        if len(curve) < 3:
            continue
        if len(steps) != len(curve):
            steps = list(range(len(curve)))
        if not curve[-1] < curve[0]:
            problems.append(f"trial {t['trial_id']} ends at {curve[-1]:.4f}, having begun at {curve[0]:.4f}")
        last = max(2, math.ceil(len(curve) / 3))
        slope = np.polyfit(np.array(steps[-last:], float), curve[-last:], 1)[0]
        slopes.append(f"{slope * (steps[-1] - steps[0]) / 10:+.4f}")
    return check(
        "learning curve",
        not problems if slopes else None,
        listed(
            problems,
            f"at the end of training the validation loss changes by {', '.join(slopes)} nats in a tenth of training"
            if slopes
            else "no curve",
        ),
        "reported, not judged; the last point must be below the first",
        "trials compared while they still improve differ by how far they have come, too",
    )


# -- confounds ----------------------------------------------------------------------------------------------------


def _environments(results) -> dict:
    """{trial id: its environment, {what: value}}, of the trials that record one."""
    found = {t["trial_id"]: t.get("environment") for t in results["trials"]}
    return {k: {what: str(value) for what, value in e.items()} for k, e in found.items() if isinstance(e, dict)}


def _apart(environments: dict) -> list[str]:
    """In what environments, by whose they are, differ: "torch: 2.13.0 (1, 2), 2.12.0 (3)"."""
    facts = []
    for what in dict.fromkeys(what for environment in environments.values() for what in environment):
        values: dict[str, list[str]] = {}
        for whose, environment in environments.items():
            values.setdefault(environment.get(what, "not recorded"), []).append(str(whose))
        if len(values) > 1:
            facts.append(f"{what}: " + ", ".join(f"{value} ({', '.join(names)})" for value, names in values.items()))
    return facts


def _one_machine(results):
    environments = _environments(results)
    first = next(iter(environments.values()), {})
    versions = ", ".join(f"{what} {first[what]}" for what in ("torch", "device_name", "computed") if what in first)
    apart = _apart({f"trial {k}": environment for k, environment in environments.items()})
    return check(
        "one machine",
        ("caution" if apart else True) if environments else None,
        listed(apart, f"{len(environments)} trials with {versions}" if environments else "not recorded"),
        "the same versions, processor, precision and kernels for every trial",
        "where they differ, part of the difference between trials is the machine's",
    )


MOST_UNSEEN = 0.01


def _unseen(results):
    dataset = results.get("dataset") or {}
    pairs = [("unseen_val_tokens", "val_tokens", "tokens"), ("unseen_val_characters", "val_characters", "characters")]
    shares = {what: dataset[n] / dataset[of] for n, of, what in pairs if _number(dataset.get(n)) and dataset.get(of)}
    worst = max(shares.values(), default=0.0)
    return check(
        "unseen characters",
        ("caution" if worst > MOST_UNSEEN else True) if shares else None,
        ", ".join(
            f"{100 * share:.2g} % of the validation {what} never occur in training" for what, share in shares.items()
        )
        or "not recorded",
        f"at most {100 * MOST_UNSEEN:g} %",
        "what was never seen can't be learnt and costs about 7 nats each time, with every activation: part of the loss "
        "and of the differences is not the models'",
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
            "one checksum of the evaluation windows",
            "losses and PDs on different positions can't be compared",
        ),
        _same_settings(all_results),
        _parameters_across(all_results),
        _one_machine_across(all_results),
        _order_of_training(all_results),
    ]


def _distinct_activations(all_results):
    same = []
    for (a, first), (b, second) in itertools.combinations(all_results.items(), 2):
        weights = [{t.get("weights_sha256") for t in r["trials"]} - {None, ""} for r in (first, second)]
        if weights[0] & weights[1]:
            same.append(f"{a} and {b} share trained weights")
            continue
        prints = [_fingerprint([t for t in r["trials"] if _number(t["val_loss"])]) for r in (first, second)]
        shared = sum(p in prints[1] for p in prints[0])
        if shared:
            same.append(f"{a} and {b} have {shared} {'trial' if shared == 1 else 'trials'} with identical results")
    return check(
        "distinct activations",
        not same if len(all_results) > 1 else None,
        listed(same, f"{len(all_results)} activations, no two with a trial in common"),
        "no two activations with identical weights or results",
        "identical results for different activations mean that the activation never reached the model",
    )


def _groups(all_results, value) -> tuple[dict, list[str]]:
    """{value: activations that have it}, and the activations that record none."""
    groups, without = {}, []
    for name, results in all_results.items():
        v = value(results)
        without.append(name) if v is None else groups.setdefault(v, []).append(name)
    return groups, without


def _equal_everywhere(all_results, name, value, threshold, why):
    groups, without = _groups(all_results, value)
    compared = sum(map(len, groups.values()))
    parts = [f"{', '.join(names)}: {str(v)[:12]}" for v, names in groups.items()]
    measured = "; ".join(parts + ([f"not recorded by {', '.join(without)}"] if without else []))
    return check(name, len(groups) <= 1 if compared > 1 else None, measured, threshold, why)


def _same_settings(all_results):
    settings = _equal_everywhere(
        all_results,
        "same settings",
        lambda r: r.get("fingerprint"),
        "one fingerprint of the settings and one text",
        "a difference between activations may be one of learning rates, sizes or texts",
    )
    texts, _ = _groups(all_results, lambda r: (r.get("dataset") or {}).get("sha256"))
    configs = [r["config"] for r in all_results.values() if isinstance(r.get("config"), dict)]
    if settings["status"] == "fail":
        # folders, workers and the like may differ; Config.fingerprint leaves them out
        covered = {f for f, meta in _settings_of_results() if meta}
        differing = (
            [key for key in configs[0] if key in covered and any(c.get(key) != configs[0][key] for c in configs)]
            if configs
            else []
        )
        settings["measured"] += f"; differing: {', '.join(differing) or 'unknown'}"
    if len(texts) > 1:
        settings["status"] = "fail"
        settings["measured"] += "; different texts: " + "; ".join(", ".join(names) for names in texts.values())
    return settings


def _settings_of_results():
    return [(f.name, f.metadata["affects_results"]) for f in dataclasses.fields(Config)]


def _parameters_across(all_results):
    counts = {name: r["parameters"] for name, r in all_results.items() if _number(r.get("parameters"))}
    unit = half_a_unit(next((r["config"] for r in all_results.values() if isinstance(r.get("config"), dict)), {}))
    apart = max(counts.values()) - min(counts.values()) if counts else 0
    unequal = len(counts) > 1 and apart > max(0.01 * min(counts.values()), unit)
    return check(
        "parameters across activations",
        not unequal if len(counts) > 1 else None,
        ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "not recorded",
        "equal within 1 %, or half a unit of each hidden layer",
        "a larger model is better for its size, not for its activation",
    )


def _one_machine_across(all_results):
    """Whether trial k of every activation was trained in the same environment: then machines that differ from trial to
    trial are the same for all, and what is compared are not machines."""
    environments = {name: found for name, results in all_results.items() if (found := _environments(results))}
    apart, common = [], set.intersection(*map(set, environments.values())) if environments else set()
    for k in sorted(common, key=str):
        apart += [
            fact for fact in _apart({name: found[k] for name, found in environments.items()}) if fact not in apart
        ]
    measured = f"the same for trial {', '.join(map(str, sorted(common, key=str)))} of every activation"
    if apart:
        measured = f"a confound, since a difference between activations may be the machines': {listed(apart, '')}"
    return check(
        "same machines across activations",
        ("caution" if apart else True) if len(environments) > 1 and common else None,
        measured if len(environments) > 1 and common else "not recorded",
        "trial k of every activation with the same versions, processor, precision and kernels",
        "activations trained on different machines are compared with their machines",
    )


def _order_of_training(all_results):
    """Reported: times drift with the machine's state, so activations that were trained one after another are compared
    with their hours."""
    spans = {}
    for name, results in all_results.items():
        ends = [(t.get("ended"), t.get("total_time")) for t in results["trials"]]
        if ends and all(_number(x) for both in ends for x in both):
            spans[name] = min(end - total for end, total in ends), max(end for end, _ in ends)
    order = sorted(spans, key=spans.get)
    apart = all(spans[a][1] <= spans[b][0] for a, b in itertools.pairwise(order))
    return check(
        "order of training",
        True if len(spans) > 1 else None,
        (f"one activation after another: {', '.join(order)}" if apart else "activations were trained side by side")
        if len(spans) > 1
        else "not recorded",
        "reported, not judged; it touches times alone",
        "a machine that grows warm or busy slows whatever is trained last",
    )
