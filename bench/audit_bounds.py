"""How often the audit's bounds are wrong: alarms on sound configurations, misses of planted defects.

    venv/bin/python bench/audit_bounds.py                # all tables, about four minutes of one core
    venv/bin/python bench/audit_bounds.py --only sound   # or planted, floor

Sound: models of every kind, untrained, of widths 3 to 2048, 1 to 24 layers, vocabularies 2 to 50,000, all activations,
both precisions; the checks that have a threshold. Planted: the same checks with one thing wrong, in several strengths,
models and places. Floor: sources whose entropy rate is known in closed form, beside the loss under which the audit
speaks of a leak: the entropy rate is the lowest loss that any model can have.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F

import activations
import audit
import metrics
import model as gpt
from analysis.checks import FLOOR_OF_COMPRESSED
from config import Config, UserError
from models import architectures
from training import experiment
from training import trial as trials
from training.machine import own_randomness, torch_settings

CHECKS = {"wired": audit._wired, "causal": audit._causal, "one function": audit._one_function}
CHECKS |= {"sane start": audit._sane_start, "parameters": audit._parameters}


def corpus_of(vocab: int, kind: str = "zipf", seed: int = 0, tokens: int = 6000) -> SimpleNamespace:
    """Tokens as in text: frequencies like 1 / rank, some tokens repeated at once (one in 30), or all alike."""
    rng = np.random.default_rng([seed, vocab])
    p = 1 / np.arange(1, vocab + 1) if kind == "zipf" else np.ones(vocab)
    drawn = rng.permutation(vocab)[rng.choice(vocab, tokens, p=p / p.sum())]
    again = np.flatnonzero(rng.random(tokens) < 1 / 30)
    drawn[again[again > 0]] = drawn[again[again > 0] - 1]
    kept = drawn.astype(np.uint16 if vocab <= 2**16 else np.uint32)
    parts = kept[: tokens // 2].copy(), kept[tokens // 2 :].copy()
    return SimpleNamespace(train=parts[0], val=parts[1], vocab_size=vocab)


def config_of(model: str, width: int, layers: int, precision: str = "float32", **changes) -> Config:
    heads = 1 if width < 8 else 2
    settings = {"block_size": 16, "batch_size": 2, "eval_tokens": 512, "probe_tokens": 512, **changes}
    return Config(
        preset="smoke", device="cpu", precision=precision, native=False, model=model, n_layer=layers, n_embd=width,
        n_head=heads, **settings,
    )  # fmt: skip


def verdicts(config: Config, activation: str, corpus, names=tuple(CHECKS)) -> dict[str, dict]:
    with torch_settings(config), own_randomness(config.device):
        return {name: CHECKS[name](config, activation, corpus) for name in names}


# -- sound ------------------------------------------------------------------------------------------------------------


def sound() -> list[tuple]:
    """(model, width, layers, vocabulary, activation, precision) of each configuration."""
    names = [info.name for info in activations.list_activations()]
    models, found = list(architectures.MODELS), []
    widths, layers, vocabularies = (3, 4, 6, 16, 64, 256), (1, 2, 6, 24), (2, 3, 10, 69, 1000, 50_000)
    cells = itertools.product(models, widths, vocabularies)
    for n, (kind, width, vocabulary) in enumerate(cells):
        depth = layers[n % 4] if width < 256 else layers[n % 2]
        if vocabulary == 50_000 and width > 64:
            vocabulary = 5000
        found.append((kind, width, depth, vocabulary, names[n % len(names)], ("float32", "bfloat16")[n // 2 % 2]))
    for n, kind in enumerate(models):  # every model wide, and one very deep
        found += [(kind, width, 1, 69, names[(n + width) % 5], "float32") for width in (512, 1024, 2048)]
        found += [(kind, 32, 64, 69, names[n], "bfloat16")]
    found += [("gpt", 128, 4, 69, name, "float32") for name in names]
    found += [("llama", 2, 2, 69, "gelu", "float32")]
    found = [
        (kind, width, 2 if kind == "hybrid" and depth < 2 else depth, *rest) for kind, width, depth, *rest in found
    ]
    return sorted(found, key=lambda cell: -cell[1])


def run_sound() -> None:
    alarms, tried, furthest, refused = Counter(), 0, {"variance": 0.0, "repeats": 0.0, "loss": 0.0}, []
    cautions: list[str] = []
    started = time.process_time()
    for n, (kind, width, depth, vocabulary, activation, precision) in enumerate(sound()):
        where = f"{kind} width {width}, {depth} layers, V {vocabulary}, {activation}, {precision}"
        try:
            config = config_of(kind, width, depth, precision, seed_base=n)
            corpus = corpus_of(vocabulary, ("zipf", "uniform")[n % 2], n)
            found = verdicts(config, activation, corpus, CHECKS if width < 1024 else ("causal", "sane start"))
        except UserError as error:
            refused.append(f"{where}: {error}")
            continue
        tried += 1
        for name, check in found.items():
            if check["status"] == "caution":
                cautions.append(where)
            elif check["status"] != "pass":
                alarms[name] += 1
                print(f"alarm: {name}: {where}: {check['measured']}; needed: {check['threshold']}", flush=True)
        model = architectures.build_model(config, activation, vocabulary).eval()
        new = audit._new_logits(model, corpus.val[:68].reshape(4, 17).astype(np.int64), "cpu")
        numbers = found["sane start"]["measured"].replace(";", " ").replace(",", " ").split()
        loss = float(numbers[2]) - math.log(vocabulary)
        for what, value in (
            ("variance", new["variance"] / (4e-4 * width)),
            ("repeats", new["repeats"]),
            ("loss", loss),
        ):
            furthest[what] = max(furthest[what], value)
    print(f"sound: {tried} configurations, {sum(alarms.values())} alarms {dict(alarms) or ''}; refused: {refused}")
    print(f"  said to lose too much of the gradient to bfloat16: {len(cautions)}: {'; '.join(cautions)}")
    print(
        f"  largest: variance {furthest['variance']:.2f} times 0.02² · width, the input's own logit "
        f"{furthest['repeats']:.2f} nats above the others, loss {furthest['loss']:.2f} nats above ln V"
    )
    print(f"  {time.process_time() - started:.0f} s of processor time")


# -- planted ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scaled_weights(times: float):
    """Initial weights of another size."""
    initialise = architectures.initialise

    def other(model, seed, n_layer):
        initialise(model, seed, n_layer)
        for p in model.parameters():
            if p.ndim >= 2:
                p.data.mul_(times)

    with patch.object(architectures, "initialise", other):
        yield


@contextlib.contextmanager
def scaled_head(times: float):
    """Logits multiplied, as by a forgotten or doubled scale."""
    logits = gpt.LanguageModel.logits
    with patch.object(gpt.LanguageModel, "logits", lambda self, idx: times * logits(self, idx)):
        yield


@contextlib.contextmanager
def targets_as_inputs(_):
    """The loss of saying the input again."""

    def wrong(model, tokens, starts, T, device):
        idx = torch.from_numpy(np.stack([tokens[s : s + T] for s in starts]).astype(np.int64))
        with torch.no_grad():
            return float(F.cross_entropy(model(idx).flatten(0, 1), idx.flatten())), 0.0

    with patch.object(metrics, "evaluate_loss", wrong):
        yield


@contextlib.contextmanager
def leak(size: float, ahead: int = 1, training_only: bool = False, layer: int | None = None):
    """Every layer's mixer (or one layer's) sees so much of the tokens so far ahead."""
    patches = []
    for cls in (gpt.Block, architectures.Block):
        forward = cls.forward

        def leaking(self, x, forward=forward):
            open_ = (layer is None or getattr(self, "place", layer) == layer) and (self.training or not training_only)
            return forward(self, x + size * F.pad(x[:, ahead:], (0, 0, 0, ahead))) if open_ else forward(self, x)

        patches.append(patch.object(cls, "forward", leaking))
    build = audit.build_model

    def numbered(*args, **options):
        made = build(*args, **options)
        for n, block in enumerate(made.h):
            block.place = n
        return made

    with contextlib.ExitStack() as stack:
        for each in [*patches, patch.object(audit, "build_model", numbered)]:
            stack.enter_context(each)
        yield


@contextlib.contextmanager
def mean_over_time(size: float, _=None):
    """A norm that counts the whole window: its mean over time is taken away."""
    with contextlib.ExitStack() as stack:
        for cls in (gpt.LayerNorm, architectures.RMSNorm):
            forward = cls.forward
            stack.enter_context(
                patch.object(
                    cls, "forward", lambda self, x, forward=forward: forward(self, x - size * x.mean(1, keepdim=True))
                )
            )
        yield


@contextlib.contextmanager
def other_activation(name: str, layer: int | None = None):
    """Another activation in every MLP, or in one layer's."""
    init, count = gpt.MLP.__init__, itertools.count()

    def wrong(self, config, activation):
        init(self, config, activation)
        if layer is None or next(count) % config.n_layer == layer:
            self.activation = activations.make_activation(name)

    with patch.object(gpt.MLP, "__init__", wrong):
        yield


@contextlib.contextmanager
def bent_activation(size: float, slope_only: bool = False):
    """The right module, whose function (or only its derivative) is off by so much."""
    activate = gpt.MLP.activate
    make = activations.make_activation

    def wrong(name, *rest):
        module = make(name, *rest)
        forward = type(module).forward

        class Bent(type(module)):
            def forward(self, x):
                y = forward(self, x)
                return y.detach() + (1 + size) * (y - y.detach()) if slope_only else (1 + size) * y

        Bent.__module__, Bent.__qualname__ = type(module).__module__, type(module).__qualname__
        module.__class__ = Bent
        return module

    proxy = SimpleNamespace(**{n: getattr(activations, n) for n in ("get_info", "hidden_width")}, make_activation=wrong)
    with patch.object(gpt, "activations", proxy), patch.object(gpt.MLP, "activate", activate):
        yield


@contextlib.contextmanager
def other_loss(change):
    """What is trained is not what is reported: `training_loss` of the kernels' copy alone."""
    init = trials.Training.__init__

    def wrong(self, *args, **options):
        init(self, *args, **options)
        loss = self.loss
        self.loss = lambda model, x, y: change(loss, model, x, y)

    with patch.object(trials.Training, "__init__", wrong):
        yield


def smoothed(share: float):
    return lambda loss, model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=share)


def shifted_targets(by: int):
    return lambda loss, model, x, y: loss(model, x, y.roll(by, 1))


def doubled(times: float):
    return lambda loss, model, x, y: times * loss(model, x, y)


@contextlib.contextmanager
def wider_mlp(times: float):
    """More hidden units for one activation alone."""
    width = activations.hidden_width
    init = gpt.MLP.__init__

    def wrong(self, config, activation):
        more = activation != "relu"
        proxy = SimpleNamespace(
            get_info=activations.get_info, make_activation=activations.make_activation,
            hidden_width=lambda n, gated: int(times * width(n, gated)) if more else width(n, gated),
        )  # fmt: skip
        with patch.object(gpt, "activations", proxy):
            init(self, config, activation)

    with patch.object(gpt.MLP, "__init__", wrong):
        yield


def planted() -> list[tuple]:
    """(check that must fail, what, context manager, model, width, vocabulary, activation)."""
    found = []

    def add(check, what, make, models=("gpt",), widths=(64,), vocabularies=(69,), activation="gelu"):
        found.extend((check, what, make, *cell, activation) for cell in itertools.product(models, widths, vocabularies))

    every, some = tuple(architectures.MODELS), ("gpt", "conv")
    for times in (2, 3, 20):
        add("sane start", f"weights {times} times as large", lambda t=times: scaled_weights(t), some, (16, 256))
    for times in (1.5, 2, 8):
        widths, vocabularies = (64, 1024) if times == 2 else (64,), (5000,) if times < 2 else (69, 5000)
        add("sane start", f"logits times {times}", lambda t=times: scaled_head(t), some, widths, vocabularies)
    add("sane start", "targets are the inputs", lambda: targets_as_inputs(0), every, (64, 256))
    for size, ahead in ((1.0, 1), (0.1, 1), (1e-3, 1), (1.0, 2), (1.0, 7)):
        add("causal", f"{size:g} of the token {ahead} ahead", lambda s=size, a=ahead: leak(s, a), every)
    add("causal", "a token ahead in training only", lambda: leak(0.1, training_only=True), every)
    for layer in (0, 2):
        add("causal", f"a token ahead in layer {layer} alone", lambda n=layer: leak(0.1, layer=n), some, (4, 64))
    for size in (1.0, 0.01):
        add("causal", f"{size:g} of the mean over time taken away", lambda s=size: mean_over_time(s), every)
    for right, wrong in (
        ("gelu", "relu"), ("gelu", "gelu_tanh"), ("relu", "gelu"), ("relu", "leaky_relu"), ("swish", "gelu"),
        ("smelu_05", "smelu_1"), ("smelu_1", "smelu_05"), ("smelu_1", "smelu_2"), ("swish", "mish"),
    ):  # fmt: skip
        add("wired", f"{wrong} for {right}", lambda w=wrong: other_activation(w), some, activation=right)
        if right in ("gelu", "smelu_05"):
            what = f"{wrong} for {right} in one layer"
            add("wired", what, lambda w=wrong: other_activation(w, 1), activation=right)
    for size in (1e-4, 0.01):
        add("wired", f"function off by {size:g}", lambda s=size: bent_activation(s))
        add("wired", f"derivative off by {size:g}", lambda s=size: bent_activation(s, True))
    for share in (0.05, 0.2):
        add("one function", f"label smoothing {share:g} in training", lambda s=share: other_loss(smoothed(s)), some)
    add("one function", "targets shifted in training", lambda: other_loss(shifted_targets(1)), every)
    for times in (0.9, 1.1, 2):
        add("one function", f"training loss times {times:g}", lambda t=times: other_loss(doubled(t)), some)
    for times in (1.05, 1.5):
        add("parameters", f"hidden layer {times:g} times as wide", lambda t=times: wider_mlp(t), some)
    return found


def run_planted() -> None:
    rows, missed, started = Counter(), [], time.process_time()
    for n, (check, what, make, kind, width, vocabulary, activation) in enumerate(planted()):
        config, corpus = config_of(kind, width, 3, seed_base=n), corpus_of(vocabulary, seed=n)
        clean = verdicts(config, activation, corpus, [check])[check]["status"]
        with make():
            caught = verdicts(config, activation, corpus, [check])[check]["status"]
        rows[check, "tried"] += 1
        rows[check, "caught"] += (clean, caught) == ("pass", "fail")
        if (clean, caught) != ("pass", "fail"):
            missed.append(f"{check}: {what}: {kind} width {width}, V {vocabulary}: {clean}, planted {caught}")
    print("| check | planted | caught |\n|---|---|---|")
    for check in CHECKS:
        print(f"| {check} | {rows[check, 'tried']} | {rows[check, 'caught']} |")
    tried, caught = (sum(n for (_, kind), n in rows.items() if kind == which) for which in ("tried", "caught"))
    print(f"planted: {tried}, caught {caught}; {time.process_time() - started:.0f} s of processor time")
    print(*missed, sep="\n")


# -- the floor under losses -------------------------------------------------------------------------------------------


def source(vocabulary: int, sharpness: float, rng) -> tuple[np.ndarray, float]:
    """Tokens of a Markov chain, each followed by each other with softmax(sharpness · N(0, 1)), and its entropy rate,
    the lowest loss possible (nats per token)."""
    logits = sharpness * rng.standard_normal((vocabulary, vocabulary))
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    stationary = np.full(vocabulary, 1 / vocabulary)
    for _ in range(2000):
        stationary = stationary @ (p + np.eye(vocabulary)) / 2
    entropy = -float(stationary @ (p * np.log(np.maximum(p, 1e-300))).sum(1))
    cumulative, state, tokens = p.cumsum(1), 0, []
    for u in rng.random(160_000):
        state = min(int(np.searchsorted(cumulative[state], u)), vocabulary - 1)
        tokens.append(state)
    return np.array(tokens), entropy


def run_floor() -> None:
    print("| vocabulary | entropy rate (nats/token) | LZMA / entropy | floor / entropy, below 1 |\n|---|---|---|---|")
    rng, alarms, tried, started = np.random.default_rng(0), 0, 0, time.process_time()
    for vocabulary, sharpness in itertools.product((2, 5, 30, 100, 250), (0.3, 2, 4, 8, 16)):
        tokens, entropy = source(vocabulary, sharpness, rng)
        corpus = SimpleNamespace(train=tokens[:120_000], val=tokens[120_000:], vocab_size=vocabulary)
        packed = experiment.compressed_nats_per_token(corpus)
        tried, alarm = tried + 1, FLOOR_OF_COMPRESSED * packed > entropy
        alarms += alarm
        ratios = f"{packed / entropy:.2f} | {FLOOR_OF_COMPRESSED * packed / entropy:.2f}"
        print(f"| {vocabulary} | {entropy:.4f} | {ratios}{' **alarm**' * alarm} |", flush=True)
    print(f"floor: {tried} sources, {alarms} alarms; {time.process_time() - started:.0f} s of processor time")


def main() -> None:
    parts = {"sound": run_sound, "planted": run_planted, "floor": run_floor}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    torch.set_num_threads(1)
    for name in parser.parse_args().only:
        parts[name]()


if __name__ == "__main__":
    main()
