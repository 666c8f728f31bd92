"""Integrity checks of an experiment before it is trained: in seconds, with the very code that will train.

Each check is a dict of strings, written into the results and shown in the report; see training/check.py. The checks of
what was trained are in analysis/checks.py.
"""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

import activations
import metrics
import storage
from cli import counted
from config import Config, UserError, option
from corpora import overlap
from models.architectures import build_model
from training import trial as trials
from training.check import check, half_a_unit, listed
from training.machine import draw_from, own_randomness, torch_settings
from training.parts import kinds

STEPS = 5  # training steps that are run twice
AUDIT_TOKENS = 2048  # positions on which a new model is evaluated


def before_training(config: Config, activation: str, corpus) -> list[dict]:
    """The checks that need no trained model. Writes nothing, and leaves torch's random stream as it was.

    Raises:
        UserError: an activation that doesn't exist.
    """
    activations.get_info(activation)
    config = config.replace(probe_tokens=max(config.block_size, min(config.probe_tokens, AUDIT_TOKENS)))
    with torch_settings(config), own_randomness(config.device):
        return [
            _wired(config, activation, corpus),
            _causal(config, activation, corpus),
            _same_positions(config, activation, corpus),
            check("new text", *overlap.verdict(corpus)),
            *_repeatable(config, activation, corpus),
            _one_function(config, activation, corpus),
            _sane_start(config, activation, corpus),
            _parameters(config, activation, corpus),
            _seeds(config, activation, corpus),
        ]


def before_study(config: Config, names: list[str], corpus, strict: bool, display) -> dict[str, list[dict]]:
    """The checks that need no training, for each activation; a failed one stops the run unless not `strict`."""
    checks = {}
    for name in names:
        display.phase(f"auditing {name}")
        checks[name] = before_training(config, name, corpus)
        failed = [one for one in checks[name] if one["status"] == "fail"]
        for one in failed:
            display.line(f"audit of {name} FAILED: {one['name']}: {one['measured']}; needed: {one['threshold']}")
        if failed and strict:
            raise UserError(
                f"audit of {name} failed: {failed[0]['name']}: {failed[0]['measured']} (needed: "
                f"{failed[0]['threshold']}); {option('strict_audit', False)} records it and goes on"
            )
        if not failed:
            passed = sum(one["status"] == "pass" for one in checks[name])
            display.line(f"audit of {name}: {counted(passed, 'check')} passed")
    return checks


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
    module = copy.deepcopy(module).to(device, dtype)  # what it learns is in the precision of the model, too
    x = torch.tensor(GRID).to(dtype).to(device).requires_grad_()  # in this order: MPS has no float64
    with torch.enable_grad():
        y = module(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return torch.stack((y.detach(), slope)).cpu().double().numpy()


def _reference(activation: str, dtype, device) -> np.ndarray:
    """What `_function` should give: from the formula, or for activations outside the study from a new module."""
    activation = activations.canonical_name(activation)  # smelu_0.5 is smelu_05
    if activation not in FORMULAS:
        return _function(activations.make_activation(activation), dtype, device)
    f, h = FORMULAS[activation], 1e-6
    x = torch.tensor(GRID).to(dtype).double().numpy()
    return np.stack((f(x), (f(x + h) - f(x - h)) / (2 * h)))


def _class(module) -> str:
    """A class by name: a maker of modules may make a class, too, each time."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _calls(model, idx) -> Counter:
    """How often each module of the model is called in a forward pass."""
    calls: Counter = Counter()
    hooks = [m.register_forward_hook(lambda m, args, output: calls.update([m])) for m in model.modules()]
    with torch.no_grad():
        model(idx)
    for hook in hooks:
        hook.remove()
    return calls


def _wired(config, activation, corpus):
    model = build_model(config, activation, corpus.vocab_size).to(config.device).eval()
    idx = _validation_windows(config, corpus)
    asked = activations.make_activation(activation)
    kind, names = type(asked).__name__, {module: name for name, module in model.named_modules()}
    calls = _calls(model, idx)
    called = [m for m in calls if _class(m) == _class(asked)]
    problems = []
    own_model = ":" in config.model  # may have its layers as it likes
    expected = max(1, len(called)) if own_model else config.n_layer
    if len(called) != expected:
        others = {type(m).__name__ for m in calls if not list(m.children()) and not list(m.parameters())} - {kind}
        problems.append(
            f"{len(called)} separate {kind} modules were called in {expected} layers"
            + (f" (others called: {', '.join(sorted(others))})" if others else "")
        )
    problems += [
        f"{names[m]} is called {calls[m]} times a forward pass" for m in called if calls[m] > 1 and not own_model
    ]
    departure = 0.0
    for dtype in {torch.float32, getattr(torch, config.precision)}:
        exact, unit = _reference(activation, dtype, config.device), torch.finfo(dtype).eps * np.maximum(1, abs(GRID))
        for module in called:
            values = _function(module, dtype, config.device)
            same = (values == exact) | (np.isnan(values) & np.isnan(exact))
            roundings = np.nan_to_num(np.where(same, 0, abs(values - exact)) / unit, nan=math.inf)
            departure = max(departure, float(roundings.max()))
    if departure > 16:
        problems.append(f"the function called departs from {activation}'s formula by {departure:.0f} roundings")
    changes = _changes(config, activation, corpus, model, called, idx)
    problems += [f"logits are the same bits with {other}" for other, change in changes.items() if change == 0]
    return check(
        "wired",
        not problems,
        listed(
            problems,
            f"{len(called)} separate {kind} modules, each called once; function and derivative within {departure:.1f} "
            f"roundings of the formula; another activation on the same weights moves a logit by "
            f"{min(changes.values()):.2g} or more",
        ),
    )


def _changes(config, activation, corpus, model, called, idx) -> dict[str, float]:
    """{another activation of the study: how much it moves a logit on the same weights}. What an activation learns is
    moved first: it may begin as one of them."""
    own = _reference(activation, torch.float32, config.device)
    with torch.no_grad():
        for p in (p for module in called for p in module.parameters()):
            p.add_(0.1)
            own = _function(called[0], torch.float32, config.device)
        logits, changes = model(idx), {}
        for other in activations.STUDY:
            if other == activation or np.array_equal(_reference(other, torch.float32, config.device), own):
                continue
            twin = build_model(config, other, corpus.vocab_size).to(config.device).eval()
            changes[other] = float((twin(idx) - logits).abs().max())
    return changes


def _validation_windows(config, corpus, n=2):
    """(n, T) input tokens of the first evaluation windows, on the device."""
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)[:n]
    rows = np.stack([corpus.val[s : s + config.block_size] for s in starts]).astype(np.int64)
    return torch.from_numpy(rows).to(config.device)


def _causal(config, activation, corpus):
    V, T = corpus.vocab_size, config.block_size
    model = build_model(config, activation, V).to(config.device)
    _open_every_path(model)
    idx = _validation_windows(config, corpus)
    places = sorted({1, T // 4, T // 2, 3 * T // 4, T - 1} - {0})
    leak, effect = 0.0, math.inf
    # in training, too: its attention may take another path; the same seed gives the same dropout
    for training, dtype in ((False, torch.float32), (True, getattr(torch, config.precision))):
        model.train(training)
        for p in model.parameters():  # as in training, which leaves buffers as they are
            p.data = p.data.to(dtype)

        def logits(idx):
            draw_from(0, config.device)
            with torch.no_grad():
                return model(idx).cpu().double()

        before = logits(idx)
        for t in places:
            changed = idx.clone()
            changed[:, t] = (changed[:, t] + 1 + t % max(1, V - 1)) % V
            moved = (logits(changed) - before).abs()
            moved = torch.nan_to_num(moved, nan=math.inf)
            leak = max(leak, float(moved[:, :t].max()))
            effect = min(effect, float(moved[:, t].max()))
    where = ", ".join(map(str, places))
    return check(
        "causal",
        leak <= 1e-6 * effect and effect > 0,
        f"changing token t (t = {where}) moves logits before t by {leak:.2g} at most, those at t by {effect:.2g}",
    )


@torch.no_grad()
def _open_every_path(model, gain: float = 1.0) -> None:
    """Weights of unit gain, or of another: a path closed by a small or zero initial weight would hide what is wrong
    with it."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        noise = torch.empty(p.shape).normal_(generator=generator).to(p.device)
        p.copy_(gain * noise * p.shape[-1] ** -0.5) if p.ndim >= 2 else p.add_(0.1 * gain * noise)


def _same_positions(config, activation, corpus):
    T = config.block_size

    def windows():
        starts = metrics.evaluation_windows(len(corpus.val), T, config.eval_tokens)
        return starts, metrics.windows_checksum(corpus.val, starts, T)

    starts, first = windows()
    draw_from(1, config.device)  # whoever draws windows from a global stream draws others now
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
    return check(
        "same positions",
        not problems,
        listed(
            problems,
            f"{len(starts)} windows of {T} tokens in the validation split, sha256 {first[:12]}… twice; relative PD of "
            f"a model with itself 0",
        ),
    )


def _repeatable(config, activation, corpus):
    """*deterministic* and *evaluation draws nothing*: the first steps twice, the second time with an evaluation among
    them. Only when the two disagree is a third run needed, to tell which of the two it was."""

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
        check(
            "deterministic",
            again == 0 if promised or again == 0 else None,
            f"the first {STEPS} steps, run twice in {config.precision}: "
            + ("the same bits" if again == 0 else f"weights differ by up to {again:.2g}"),
            "the same bits" if promised else "none: this device or deterministic=False promises nothing",
        ),
        check(
            "evaluation draws nothing",
            not problems,
            listed(problems, f"an evaluation among {STEPS} steps leaves weights and random streams as they were"),
        ),
    ]


def _weights(training) -> dict:
    return dict(zip(training.optimiser.names, training.optimiser.weights, strict=True))


# What of the departure from float32 the precision explains: three times what the plain model departs in the same
# precision, which rounds elsewhere, taken to be half a percent at least. Sound kernels reach 1.3 times, with batches of
# sixteen tokens 1.9 (of 700). Of the whole gradient a quarter at most, which points 14° elsewhere, or twice what
# rounding explains: narrow and deep models lose more than that to bfloat16 alone. Then a defect would be lost in it, so
# smaller weights are tried in place of those of unit gain; of the initial ones it is said that training is coarse.
FACTOR, LEAST, MOST, GAINS = 3, 0.005, 0.25, (1.0, 0.5, 0.25, 0.125)


def _one_function(config, activation, corpus):
    """Loss and gradients of a batch as training computes them, with its kernels and in its precision, against those of
    the plain model in float32: with the initial weights, and with others that leave no path closed. The weights are
    the same, rounded as training rounds them.

    Dropout can't be the same in both where they draw in another order, so it is left out; that training draws it is
    seen from its losses."""
    training = trials.Training(config, activation, 1, corpus)
    batch, beyond, measured, coarse = training.batches(0), {}, [], ""
    training.model.train(not config.dropout)
    for weights, gains in (("initial weights", (None,)), ("weights of unit gain", GAINS)):
        for gain in gains:
            ours, exact, rounded = _three_ways(training, batch, gain)
            apart, explained = _departures(ours, exact), _departures(rounded, exact)
            if explained["the gradient"] <= (MOST if gain is None else MOST / FACTOR):
                break
        if not explained["the gradient"] <= MOST:
            lost = _percent(explained["the gradient"])
            coarse = coarse or f"rounding to {config.precision} changes {lost} of the gradient: train in float32"
        for name, departure in apart.items():
            allowed = FACTOR * max(explained[name], LEAST)
            if name == "the gradient":
                allowed = min(allowed, max(MOST, 2 * explained[name]))
            if not departure <= allowed:
                said = f"{name} departs by {_percent(departure)} with {weights}"
                beyond[f"{said}; rounding explains {_percent(explained[name])}"] = departure / allowed
        measured.append(f"{_percent(apart['the gradient'])} (rounding: {_percent(explained['the gradient'])})")
    problems = sorted(beyond, key=beyond.get, reverse=True)
    if config.dropout and not _draws_dropout(training, batch):
        problems.append(f"dropout = {config.dropout:g}, but training has the same loss whatever is drawn")
    said = f"gradient of a batch in training against the plain model's in float32: {measured[0]} of its length with "
    said += f"initial weights, {measured[1]} with weights of unit gain"
    return check(
        "one function",
        False if problems else "caution" if coarse else True,
        listed(problems, "; ".join(filter(None, [coarse, said]))),
        f"loss and each gradient within {FACTOR} times what rounding explains ({_percent(LEAST)} at least); the whole "
        f"gradient within {_percent(MOST)}, or twice that",
    )


def _three_ways(training, batch, gain: float | None) -> list[dict]:
    """Loss and gradients as training computes them, by the plain model in float32, and in the training's precision;
    with the initial weights, or with others of this gain."""
    if gain is not None:
        training.optimiser.use_master_weights()
        _open_every_path(training.model, gain)
        training.optimiser.use_working_weights()
    plain = [(trials.training_loss, _plain(training, dtype)) for dtype in (torch.float32, training.dtype)]
    device = training.config.device
    return [_loss_and_gradients(*way, batch, device) for way in ((training.loss, training.model), *plain)]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _plain(training, dtype):
    """The model without kernels, with the working weights of the training in `dtype`."""
    config, model = training.config, training.model
    plain = build_model(config, training.activation, training.corpus.vocab_size).to(config.device)
    for p, weight in zip(plain.parameters(), model.parameters(), strict=True):
        p.data = weight.detach().to(dtype, copy=True)
    return plain.train(model.training)


def _loss_and_gradients(loss, model, batch, device: str) -> dict[str, torch.Tensor | None]:
    """{"the loss": …, "the gradient of NAME": …} in float32 on the CPU; None where there is no gradient."""
    draw_from(0, device)  # a model that draws where it should not draws the same each time
    value = loss(model, *batch)
    value.backward()
    parts = {"the loss": value.detach().float().cpu()}
    for name, p in model.named_parameters():
        parts[f"the gradient of {name}"] = None if p.grad is None else p.grad.float().cpu().clone()
        p.grad = None
    return parts


def _departures(measured: dict, exact: dict) -> dict[str, float]:
    """How far each lies from the exact one, relative to its length, or to a thousandth of the whole gradient: some
    gradients are zero in theory. "the gradient" is all of them as one vector."""
    sizes = {name: float(tensor.norm()) for name, tensor in exact.items()}
    distances = {
        name: math.inf if measured[name] is None else float((measured[name] - tensor).norm())
        for name, tensor in exact.items()
    }
    sizes_of_gradients, apart = ([d[name] for name in exact if name != "the loss"] for d in (sizes, distances))
    whole = math.hypot(*sizes_of_gradients)
    departures = {
        name: distances[name] / (sizes[name] if name == "the loss" else max(sizes[name], 1e-3 * whole))
        for name in exact
    }
    return {**departures, "the gradient": math.hypot(*apart) / whole}


def _draws_dropout(training, batch) -> bool:
    training.model.train()
    losses = []
    for seed in (1, 2):
        draw_from(seed, training.config.device)
        losses.append(float(training.loss(training.model, *batch).detach()))
    return losses[0] != losses[1]


# A new model knows nothing. Its logits z = features · embeddings have, over the tokens, the variance that its weights
# were drawn with: features behind a norm have length √width, embeddings N(0, 0.02²), so 0.02² · width. Over V - 1
# tokens a sample's variance is that times χ²/df, whose upper limit (one in 100,000) Wilson & Hilferty (1931) give;
# a quarter is added since the features know the tokens in the context. A model of one's own may have any initial
# weights with which the spread costs no more than half a nat.
INITIAL_STD, SLACK, LIMIT, OWN_VARIANCE = 0.02, 1.25, 4.265, 1.0
# The embedding of the input itself is in the features, so its logit stands out: by 0.02² · width / (size of the
# residual stream), where an MLP that passes half of what is small adds 0.02² · width / √2; so √2 nats at most, in the
# limit of large widths. Activations that pass less come to more. 2.2 nats are nine times the probability.
REPEATED = 2.2
CHANCE = 4  # standard errors of the mean of the targets' logits, at most σ √Σp² with p the targets' frequencies
SAME_LOSS = 1e-4  # relative: two ways to sum one loss


def _sane_start(config, activation, corpus):
    V, T, own = corpus.vocab_size, config.block_size, ":" in config.model
    model = build_model(config, activation, V).to(config.device).eval()
    starts = metrics.evaluation_windows(len(corpus.val), T, config.probe_tokens)
    loss, first = (metrics.evaluate_loss(model, corpus.val, some, T, config.device)[0] for some in (starts, starts[:2]))
    # read from the text itself, not through what is audited
    tokens = np.stack([corpus.val[s : s + T + 1] for s in starts]).astype(np.int64)
    new = _new_logits(model, tokens[:2], config.device)
    df = max(1, V - 2)
    quantile = (1 - 2 / (9 * df) + LIMIT * math.sqrt(2 / (9 * df))) ** 3
    most = OWN_VARIANCE if own else SLACK * quantile * INITIAL_STD**2 * config.n_embd
    shares = np.unique(tokens[:, 1:], return_counts=True)[1] / tokens[:, 1:].size
    chance = CHANCE * math.sqrt(new["variance"] * float(shares @ shares))
    uniform, repeats = math.log(V), float((tokens[:, 1:] == tokens[:, :-1]).mean())
    low = uniform - chance - REPEATED * repeats
    high = uniform + chance + new["spread"] + math.log1p((math.exp(REPEATED) - 1) / V)
    problems = []
    if not abs(first - new["loss"]) <= SAME_LOSS * new["loss"]:
        problems.append(f"the loss of some windows is {first:.4f}, of their next tokens {new['loss']:.4f}")
    if not new["variance"] <= most:
        problems.append(f"the variance of the logits over the tokens is {new['variance']:.3g}")
    if not low <= loss <= high:
        problems.append(f"the initial loss is {loss:.4f} nats")
    said = f"initial loss {loss:.4f} nats, ln {V} = {uniform:.4f}; variance of the logits over the tokens "
    drawn = "of any model" if own else "as drawn at this width"
    return check(
        "sane start",
        not problems,
        listed(problems, f"{said}{new['variance']:.3g}"),
        f"the loss of the next tokens; variance at most {most:.3g}, {drawn}; loss between {low:.4g} and {high:.4g} "
        f"nats: ln V, what that spread and the expectation of repeats cost, and {CHANCE} standard errors",
    )


@torch.no_grad()
def _new_logits(model, tokens: np.ndarray, device: str) -> dict[str, float]:
    """Of windows (n, T + 1): the `loss` of each next token (nats). Of the tokens that aren't the input at a position,
    means over positions: the `variance` of their logits, and the `spread`, how much more than their mean their
    log-mean-exp is (nats). `repeats`: by how much the input's own logit stands out."""
    z = model(torch.from_numpy(tokens[:, :-1]).to(device)).cpu().double()  # MPS has no float64
    given, targets, V = torch.from_numpy(tokens[:, :-1, None]), torch.from_numpy(tokens[:, 1:, None]), z.shape[-1]
    z = z - z.mean(-1, keepdim=True)
    loss = float((z.logsumexp(-1) - z.gather(-1, targets)[..., 0]).mean())
    if V == 1:
        return {"loss": loss, "variance": 0.0, "spread": 0.0, "repeats": 0.0}
    mine = z.gather(-1, given)[..., 0]
    average = -mine / (V - 1)
    variance = (z.square().sum(-1) - mine.square()) / (V - 1) - average.square()
    spread = z.scatter(-1, given, -math.inf).logsumexp(-1) - math.log(V - 1) - average
    by_position = {"variance": variance.clamp(min=0), "spread": spread, "repeats": mine - average}
    return {"loss": loss} | {name: float(values.mean()) for name, values in by_position.items()}


def _parameters(config, activation, corpus):
    own, relu = (
        sum(p.numel() for p in build_model(config, name, corpus.vocab_size).parameters())
        for name in (activation, "relu")
    )
    unit = half_a_unit(config.to_dict())
    return check(
        "parameters",
        abs(own - relu) <= max(0.01 * relu, unit),
        f"{own:,} parameters, {relu:,} with relu ({100 * (own / relu - 1):+.2f} %)",
        f"within 1 % of relu's, or {unit:,.0f}, half a unit of each hidden layer",
    )


def _seeds(config, activation, corpus):
    a, b = (trials.Training(config, activation, k, corpus) for k in (1, 2))
    differs = {"init": False, "order": False, "dropout": False}
    different = sum(int((x != y).sum()) for x, y in zip(_weights(a).values(), _weights(b).values(), strict=True))
    differs["init"] = different > 1
    differs["bit"] = different == 1
    differs["order"] = any(not torch.equal(a.batches(step)[0], b.batches(step)[0]) for step in range(3))
    if config.dropout:
        # the same weights and the same batch: what is left to differ is the dropout
        b.optimiser.load(a.optimiser.state())
        b.batches = a.batches
        a.model.train()
        b.model.train()
        differs["dropout"] = float(a.one_step(0)) != float(b.one_step(0))
    wanted = {source: source in config.vary for source in differs}
    wanted["dropout"] &= config.dropout > 0  # without dropout there is nothing to vary
    wanted["init"] &= not any(part.same_start(config) for part in kinds())
    wrong = [source for source in differs if differs[source] != wanted[source]]
    differing = ", ".join(source for source in differs if differs[source]) or "nothing"
    same = not any(wanted.values()) and config.vary != ("none",)
    return check(
        "seeds",
        not wrong and not same,
        f"two trials differ in {differing}; vary = {', '.join(config.vary)}; dropout = {config.dropout:g}",
        "exactly the sources that vary names" + (" (dropout = 0: nothing would differ)" if same else ""),
    )
