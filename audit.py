"""Integrity checks of an experiment: what makes its numbers worth reading.

`before_training` takes seconds and exercises the very code that will train; `after_training` reads the results of one
activation, `across_activations` those of several. Each check is a dict of strings, written into the results and shown
in the report: `name`, `status` ("pass", "fail" or "not applicable"), what was `measured`, the `threshold` and `why` it
matters. torch is imported by `before_training` alone.
"""

from __future__ import annotations

import itertools
import lzma
import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np

import activations
import storage
from config import Config
from corpora import overlap

STEPS = 5  # training steps that are run twice
AUDIT_TOKENS = 2048  # positions on which a new model is evaluated


def _check(name: str, passed: bool | None, measured: str, threshold: str, why: str) -> dict:
    """`passed` is None where the check does not apply."""
    status = {True: "pass", False: "fail", None: "not applicable"}[passed]
    return {"name": name, "status": status, "measured": measured, "threshold": threshold, "why": why}


def _list(problems: list[str], otherwise: str) -> str:
    """The first few problems in words, or what there is to say when there are none."""
    if not problems:
        return otherwise
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


# -- before training ----------------------------------------------------------------------------------------------


def before_training(config: Config, activation: str, corpus) -> list[dict]:
    """The checks that need no trained model. Writes nothing, and leaves torch's random stream as it was.

    Raises:
        UserError: an activation that doesn't exist.
    """
    from training import trial as trials

    activations.get_info(activation)
    config = config.replace(probe_tokens=max(config.block_size, min(config.probe_tokens, AUDIT_TOKENS)))
    with trials.torch_settings(config), trials.own_randomness(config.device):
        return [
            _wired(config, activation, corpus),
            _causal(config, activation, corpus),
            _same_positions(config, activation, corpus),
            _check("new text", *overlap.verdict(corpus)),
            *_repeatable(config, activation, corpus),
            _sane_start(config, activation, corpus),
            _parameters(config, activation, corpus),
            _seeds(config, activation, corpus),
        ]


# The activations of the study in float64, written down here a second time, independently of the modules that train.
FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2,
    "swish": lambda x: x / (1 + np.exp(-x)),
    "smelu_05": lambda x: np.where(abs(x) < 0.5, (x + 0.5) ** 2 / 2, np.maximum(x, 0)),
    "smelu_1": lambda x: np.where(abs(x) < 1, (x + 1) ** 2 / 4, np.maximum(x, 0)),
}
GRID = np.linspace(-6, 6, 1200)  # 0 is not on it: the derivative of ReLU there is a convention


def _function(module, dtype, device) -> np.ndarray:
    """A module's values and derivatives on the grid, computed in `dtype`: (2, points) float64."""
    import torch

    x = torch.tensor(GRID).to(dtype).to(device).requires_grad_()  # in this order: MPS has no float64
    with torch.enable_grad():
        y = module(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return torch.stack((y.detach(), slope)).cpu().double().numpy()


def _reference(activation: str, dtype, device) -> np.ndarray:
    """What `_function` should give: from the formula, or for activations outside the study from a new module."""
    import torch

    activation = activations.canonical_name(activation)  # smelu_0.5 is smelu_05
    if activation not in FORMULAS:
        return _function(activations.make_activation(activation).to(device), dtype, device)
    f, h = FORMULAS[activation], 1e-6
    x = torch.tensor(GRID).to(dtype).double().numpy()
    return np.stack((f(x), (f(x + h) - f(x - h)) / (2 * h)))


def _wired(config, activation, corpus):
    import torch

    from model import build_model

    model = build_model(config, activation, corpus.vocab_size).to(config.device).eval()
    idx = _validation_windows(config, corpus)
    asked = type(activations.make_activation(activation))
    names = {module: name for name, module in model.named_modules()}
    calls: Counter = Counter()
    hooks = [m.register_forward_hook(lambda m, args, output: calls.update([m])) for m in names]
    with torch.no_grad():
        logits = model(idx)
    for hook in hooks:
        hook.remove()
    called = [m for m in calls if type(m) is asked]
    problems = []
    own_model = ":" in config.model  # may have its layers as it likes
    expected = max(1, len(called)) if own_model else config.n_layer
    if len(called) != expected:
        others = {type(m).__name__ for m in calls if not list(m.children()) and not list(m.parameters())} - {
            asked.__name__
        }
        problems.append(
            f"{len(called)} separate {asked.__name__} modules were called in {expected} layers"
            + (f" (others called: {', '.join(sorted(others))})" if others else "")
        )
    problems += [
        f"{names[m]} is called {calls[m]} times a forward pass" for m in called if calls[m] > 1 and not own_model
    ]
    precision = getattr(torch, config.precision)
    departure = 0.0
    for dtype in {torch.float32, precision}:
        exact, unit = _reference(activation, dtype, config.device), torch.finfo(dtype).eps * np.maximum(1, abs(GRID))
        for module in called:
            values = _function(module, dtype, config.device)
            same = (values == exact) | (np.isnan(values) & np.isnan(exact))
            roundings = np.nan_to_num(np.where(same, 0, abs(values - exact)) / unit, nan=math.inf)
            departure = max(departure, float(roundings.max()))
    if departure > 16:
        problems.append(f"the function called departs from {activation}'s formula by {departure:.0f} roundings")
    changes = {}
    own = _reference(activation, torch.float32, config.device)
    for other in activations.STUDY:
        if np.array_equal(_reference(other, torch.float32, config.device), own) or other == activation:
            continue
        twin = build_model(config, other, corpus.vocab_size).to(config.device).eval()
        with torch.no_grad():
            changes[other] = float((twin(idx) - logits).abs().max())
    problems += [f"logits are the same bits with {other}" for other, change in changes.items() if change == 0]
    return _check(
        "wired",
        not problems,
        _list(
            problems,
            f"{len(called)} separate {asked.__name__} modules, each called once; function and derivative within "
            f"{departure:.1f} roundings of the formula; another activation on the same weights moves a logit by "
            f"{min(changes.values()):.2g} or more",
        ),
        "one module of the type asked for in each layer; 16 roundings; logits move",
        "an activation that never reaches the model gives identical results for every activation",
    )


def _validation_windows(config, corpus, n=2):
    """(n, T) input tokens of the first evaluation windows, on the device."""
    import torch

    import metrics

    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)[:n]
    rows = np.stack([corpus.val[s : s + config.block_size] for s in starts]).astype(np.int64)
    return torch.from_numpy(rows).to(config.device)


def _causal(config, activation, corpus):
    import torch

    from model import build_model
    from training import trial as trials

    V, T = corpus.vocab_size, config.block_size
    model = build_model(config, activation, V).to(config.device)
    # Weights of unit gain: a path that is closed by a small or zero initial weight would hide a leak.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.empty(p.shape).normal_(generator=generator).to(p.device)
            p.copy_(noise * p.shape[-1] ** -0.5) if p.ndim >= 2 else p.add_(0.1 * noise)
    idx = _validation_windows(config, corpus)
    places = sorted({1, T // 4, T // 2, 3 * T // 4, T - 1} - {0})
    leak, effect = 0.0, math.inf
    # in training, too: its attention may take another path; the same seed gives the same dropout
    for training, dtype in ((False, torch.float32), (True, getattr(torch, config.precision))):
        model.train(training)
        for p in model.parameters():  # as in training, which leaves buffers as they are
            p.data = p.data.to(dtype)

        def logits(idx):
            trials.draw_from(0, config.device)
            with torch.set_grad_enabled(model.training):  # the kernels of training are not used without gradients
                return model(idx).detach().cpu().double()

        before = logits(idx)
        for t in places:
            changed = idx.clone()
            changed[:, t] = (changed[:, t] + 1 + t % max(1, V - 1)) % V
            moved = (logits(changed) - before).abs()
            moved = torch.nan_to_num(moved, nan=math.inf)
            leak = max(leak, float(moved[:, :t].max()))
            effect = min(effect, float(moved[:, t].max()))
    where = ", ".join(map(str, places))
    return _check(
        "causal",
        leak <= 1e-6 * effect and effect > 0,
        f"changing token t (t = {where}) moves logits before t by {leak:.2g} at most, those at t by {effect:.2g}",
        "before t: 0 (rounding: a millionth of the change at t); at t: more than 0",
        "a model that sees the token it should predict has a loss that means nothing",
    )


def _same_positions(config, activation, corpus):
    import metrics
    from model import build_model
    from training import trial as trials

    T = config.block_size

    def windows():
        starts = metrics.evaluation_windows(len(corpus.val), T, config.eval_tokens)
        return starts, metrics.windows_checksum(corpus.val, starts, T)

    starts, first = windows()
    trials.draw_from(1, config.device)  # whoever draws windows from a global stream draws others now
    second = windows()[1]
    model = build_model(config, activation, corpus.vocab_size).to(config.device).eval()
    few = starts[:8]
    pair = metrics.evaluate_models([model, model], corpus.val, few, T, config.device).pairs[0]
    problems = []
    if first != second:
        problems.append("two calls chose different windows")
    if len(starts) == 0 or min(starts) < 0 or max(starts) + T + 1 > len(corpus.val):
        problems.append("windows reach beyond the validation split")
    if np.shares_memory(corpus.train, corpus.val):
        problems.append("training and validation split overlap")
    if pair["relative_pd"] != 0 or pair["prediction_differences"] != 0:
        problems.append(f"a model differs from itself: relative PD {pair['relative_pd']:.3g}")
    if pair["total_predictions"] != len(few) * T:
        problems.append(f"{pair['total_predictions']} predictions compared at {len(few) * T} positions")
    return _check(
        "same positions",
        not problems,
        _list(
            problems,
            f"{len(starts)} windows of {T} tokens in the validation split, sha256 {first[:12]}… twice; relative PD of "
            f"a model with itself 0",
        ),
        "equal checksums; inside the validation split; self-difference exactly 0",
        "predictions on different inputs differ even for one model (0.4 to 0.6), the more the sharper it is",
    )


def _repeatable(config, activation, corpus):
    """*deterministic* and *evaluation draws nothing*: the first steps twice, the second time with an evaluation among
    them. Only when the two disagree is a third run needed, to tell which of the two it was."""
    import torch

    from training import trial as trials

    def generators():
        _, key, *rest = np.random.get_state()  # noqa: NPY002 — the very state that must not move
        states = [torch.get_rng_state().numpy().tobytes(), key.tobytes(), rest, random.getstate()]
        if config.device.startswith("cuda"):
            states.append(torch.cuda.get_rng_state(config.device).numpy().tobytes())
        elif config.device == "mps":
            states.append(torch.mps.get_rng_state().numpy().tobytes())
        return states

    problems = []

    def run(evaluate):
        training = trials.Training(config, activation, 1, corpus)
        training.model.train()
        for step in range(STEPS):
            training.one_step(step)
            training.step = step + 1
            if evaluate and training.step == STEPS // 2:
                before = generators(), storage.contents_sha256(_weights(training))
                training.record_point()
                after = generators(), storage.contents_sha256(_weights(training))
                problems.extend(["it draws from a global random stream"] * (before[0] != after[0]))
                problems.extend(["it changes weights"] * (before[1] != after[1]))
                problems.extend(["it leaves the model in evaluation mode"] * (not training.model.training))
        return {name: w.detach().cpu().clone() for name, w in _weights(training).items()}

    def difference(a, b):
        if storage.contents_sha256(a) == storage.contents_sha256(b):
            return 0.0
        return max(float((a[name] - b[name]).abs().max()) for name in a)

    first, evaluated = run(False), run(True)
    apart = difference(first, evaluated)
    again = difference(first, run(False)) if apart else 0.0
    if apart and not again:
        problems.append(f"an evaluation among {STEPS} steps changes the weights by {apart:.2g}")
    promised = config.deterministic and config.device.split(":")[0] in ("cpu", "cuda")
    return [
        _check(
            "deterministic",
            again == 0 if promised or again == 0 else None,
            f"the first {STEPS} steps, run twice in {config.precision}: "
            + ("the same bits" if again == 0 else f"weights differ by up to {again:.2g}"),
            "the same bits" if promised else "none: this device or deterministic=False promises nothing",
            "otherwise the hardware's own noise is part of every difference between trials",
        ),
        _check(
            "evaluation draws nothing",
            not problems,
            _list(problems, f"an evaluation among {STEPS} steps leaves weights and random streams as they were"),
            "the same bits with and without it",
            "otherwise how often one looks decides what is trained",
        ),
    ]


def _weights(training) -> dict:
    return dict(zip(training.optimiser.names, training.optimiser.weights, strict=True))


def _sane_start(config, activation, corpus):
    import metrics
    from model import build_model

    model = build_model(config, activation, corpus.vocab_size).to(config.device).eval()
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.probe_tokens)
    loss, _ = metrics.evaluate_loss(model, corpus.val, starts, config.block_size, config.device)
    uniform = math.log(corpus.vocab_size)
    # With tied embeddings a new model expects each token to be repeated, up to 9 times as much as any other token.
    # That costs ln(1 + 8/V) at most, which for V < 40 is more than 5 %.
    tolerance = max(0.05 * uniform, math.log1p(8 / corpus.vocab_size))
    return _check(
        "sane start",
        math.isfinite(loss) and abs(loss - uniform) <= tolerance,
        f"initial loss {loss:.4f} nats, ln {corpus.vocab_size} = {uniform:.4f}",
        f"within {tolerance:.3g} nats of ln V: 5 % of it or ln(1 + 8/V)",
        "a new model knows nothing: further off, the initialisation or the targets are wrong",
    )


def _parameters(config, activation, corpus):
    from model import build_model

    own, relu = (
        sum(p.numel() for p in build_model(config, name, corpus.vocab_size).parameters())
        for name in (activation, "relu")
    )
    return _check(
        "parameters",
        abs(own - relu) <= 0.01 * relu,
        f"{own:,} parameters, {relu:,} with relu ({100 * (own / relu - 1):+.2f} %)",
        "within 1 % of relu's",
        "a larger model is better for its size, not for its activation",
    )


def _seeds(config, activation, corpus):
    import torch

    from training import trial as trials

    a, b = (trials.Training(config, activation, k, corpus) for k in (1, 2))
    found = {"init": False, "order": False, "dropout": False}
    different = sum(int((x != y).sum()) for x, y in zip(_weights(a).values(), _weights(b).values(), strict=True))
    found["init"] = different > 1
    found["bit"] = different == 1
    found["order"] = any(not torch.equal(a.batches(step)[0], b.batches(step)[0]) for step in range(3))
    if config.dropout:
        # the same weights and the same batch: what is left to differ is the dropout
        b.optimiser.load(a.optimiser.state())
        b.batches = a.batches
        a.model.train()
        b.model.train()
        found["dropout"] = float(a.one_step(0)) != float(b.one_step(0))
    wanted = {source: source in config.vary for source in found}
    wanted["dropout"] &= config.dropout > 0  # without dropout there is nothing to vary
    wrong = [source for source in found if found[source] != wanted[source]]
    differing = ", ".join(source for source in found if found[source]) or "nothing"
    same = not any(wanted.values()) and config.vary != ("none",)
    return _check(
        "seeds",
        not wrong and not same,
        f"two trials differ in {differing}; vary = {', '.join(config.vary)}; dropout = {config.dropout:g}",
        "exactly the sources that vary names" + (" (dropout = 0: nothing would differ)" if same else ""),
        "a PD can be put down to a source of randomness only if that source alone differs",
    )


def compressed_nats_per_token(corpus) -> float:
    """Nats per token that LZMA needs for the beginning of the validation split when it has seen the end of the
    training split: an upper bound on the information in the text, whatever the text is. For the floor under losses."""
    kind = np.uint8 if corpus.vocab_size <= 256 else np.uint32
    seen, new = (np.asarray(part).astype(kind).tobytes() for part in (corpus.train[-400_000:], corpus.val[:100_000]))
    sizes = [len(lzma.compress(data, lzma.FORMAT_ALONE, preset=1)) for data in (seen, seen + new)]
    added = max(0, sizes[1] - sizes[0] - 16)  # to within the few bytes in which its range coder ends
    return added * 8 * math.log(2) / min(len(corpus.val), 100_000)


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
        _converged(results, done),
    ]


def _number(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


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
    return _check(
        "finite",
        not problems,
        _list(problems, "every number is finite")
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
    return _check(
        "learning",
        not worse if applies else None,
        ("validation loss " + _list(worse, f"at most {max(losses.values()):.4f} nats/token"))
        if applies
        else "no loss or no unigram entropy recorded",
        f"below {reference:.4f}, the unigram entropy" if applies else "below the unigram entropy",
        "token frequencies alone give that loss: a model that isn't better has learned nothing from context",
    )


def _degenerate(results, done):
    dataset = results.get("dataset") or {}
    majority, vocab = dataset.get("majority_accuracy"), dataset.get("vocab_size")
    fewest = min(6, max(2, vocab // 4)) if _number(vocab) else 6
    problems, seen = [], []
    for t in done:
        distinct, accuracy = t.get("distinct_argmax"), t["val_accuracy"]
        if _number(distinct):
            seen.append(f"{distinct} tokens")
            if distinct < fewest:
                problems.append(f"trial {t['trial_id']} predicts only {distinct} different tokens")
        if _number(majority) and _number(accuracy):
            seen.append(f"{accuracy:.1f} %")
            if accuracy <= majority:
                problems.append(f"trial {t['trial_id']} is right at {accuracy:.2f} %, no better than one token for all")
    return _check(
        "degenerate",
        not problems if seen else None,
        _list(problems, "different tokens predicted and accuracy: " + ", ".join(seen) if seen else "not recorded"),
        f"at least {fewest} different predictions; accuracy above "
        + (
            f"{majority:.2f} %, the share of the commonest token"
            if _number(majority)
            else "the commonest token's share"
        ),
        "models that always say the same agree perfectly, and are no evidence of reproducibility",
    )


def _distinct(results, done):
    vary = (results.get("config") or {}).get("vary")
    same = []
    for a, b in itertools.combinations(done, 2):
        names = f"trials {a['trial_id']} and {b['trial_id']}"
        if a.get("weights_sha256") and a.get("weights_sha256") == b.get("weights_sha256"):
            same.append(f"{names} have identical weights")
        elif _fingerprint([a]) == _fingerprint([b]):
            same.append(f"{names} have identical results")
    applies = len(done) > 1 and list(vary or ()) != ["none"]
    return _check(
        "distinct",
        not same if applies else None,
        _list(same, f"{len(done)} trials, no two alike" if len(done) > 1 else "fewer than two trials"),
        "no two trials with identical weights or results" + ("" if applies else " (vary = none aside)"),
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
    return _check(
        "consistent",
        not problems if margins else None,
        _list(
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
    return _check(
        "suspicious loss",
        not problems if losses else None,
        _list(problems, f"lowest validation loss {min(losses):.4f} nats/token" if losses else "no finished trial"),
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
    return _check(
        "same positions compared",
        not problems if pairs else None,
        _list(
            problems,
            (f"{len(pairs)} pairs at the same {totals[0]} positions" if pairs else "no pair to compare")
            + (f" (sha256 {sha[:12]}…)" if sha else "")
            + ("; self-difference 0" if self_pd == 0 else ""),
        ),
        "one number of positions for all pairs, all pairs there, self-difference exactly 0",
        "a difference between predictions on different inputs is not a difference between models",
    )


def _converged(results, done):
    """Least-squares slope of the last third of each validation curve, reported; failed only by a model that ends no
    better than it began."""
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
    return _check(
        "converged",
        not problems if slopes else None,
        _list(
            problems, f"over the last third, nats per tenth of training: {', '.join(slopes)}" if slopes else "no curve"
        ),
        "reported; the last point must be below the first",
        "trials compared while they still improve differ by how far they have come, too",
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
    return _check(
        "distinct activations",
        not same if len(all_results) > 1 else None,
        _list(same, f"{len(all_results)} activations, no two with a trial in common"),
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
    return _check(name, len(groups) <= 1 if compared > 1 else None, measured, threshold, why)


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
    import dataclasses

    return [(f.name, f.metadata["affects_results"]) for f in dataclasses.fields(Config)]


def _parameters_across(all_results):
    counts = {name: r["parameters"] for name, r in all_results.items() if _number(r.get("parameters"))}
    unequal = len(counts) > 1 and max(counts.values()) > 1.01 * min(counts.values())
    return _check(
        "parameters across activations",
        not unequal if len(counts) > 1 else None,
        ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "not recorded",
        "equal within 1 %",
        "a larger model is better for its size, not for its activation",
    )
