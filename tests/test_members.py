"""Folders of transformers whose files don't belong together: refused, told, or numerically the same; never silence.

A trained tiny model of each of five architectures; one key of its config.json or one tensor of its weights is changed,
and the changed folder is opened beside the one it was made from. By default a tenth of the 200 and 100 changes."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

from config import UserError
from conftest import cases, pseudo_english
from questions.foreign import measure, suite
from questions.foreign.loaders import find_members
from questions.foreign.member import How
from questions.foreign.windows import Positions

transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from own_models import CONTEXT, save, trained  # noqa: E402

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "opt", "qwen2")
TEXT = pseudo_english(20_000)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        for kind in ARCHITECTURES:
            save(trained(kind, TEXT, 1, steps=30), folder / kind)
        yield folder


def opened(folder):
    """What compare.py does with a member before it measures: the member for the suite, and its logits (4, T, V)."""
    tokens = np.frombuffer(TEXT.encode(), np.uint8)[: 4 * CONTEXT + 1].astype(np.int64)
    positions = Positions(CONTEXT, tokens[1:], np.arange(4) * CONTEXT, tokens)
    (member,) = find_members([folder], How())
    member.name, member.group = folder.name, "g"
    with torch.inference_mode():
        measure.look_at(member, positions)
        if member.context and member.context < CONTEXT:
            raise UserError("windows are longer than its context")  # as windows.of_text says
        with measure.loaded(member) as model:
            logits = measure.predict(member, model, positions.inputs(0, 4))
    member.measured = {"val_loss": 2.0}
    return member, torch.softmax(logits.double(), -1)


def outcome(folder, original) -> str:
    try:
        changed, p = opened(folder)
    except UserError as error:
        assert "\n" not in str(error)
        return "refused"
    beside, q = original
    if p.shape == q.shape and float((p - q).abs().sum(-1).mean()) / 2 < 1e-6:
        return "the same"
    pd = np.array([[0, 0.1], [0.1, 0]])
    checks = suite.check([beside, changed], pd, 3.0, CONTEXT, 256)["g"]
    return "told" if any(c["status"] in ("fail", "hint") for c in checks) else "silent"


# -- config.json --------------------------------------------------------------------------------------------------


WORDS = ("gelu", "gelu_new", "relu", "silu", "tanh", "float16", "bfloat16", "float32", "eager", "linear", "default")


def edits(config: dict, rng: random.Random, n: int):
    """n changes (path of keys, value) of what predictions may depend on: every number, switch and word."""
    leaves = [((key,), value) for key, value in config.items() if not isinstance(value, dict | list)]
    nested = [(key, inner) for key, inner in config.items() if isinstance(inner, dict)]
    leaves += [((key, name), value) for key, inner in nested for name, value in inner.items()]
    leaves = [leaf for leaf in leaves if leaf[1] is not None and leaf[0][0] not in ("architectures", "model_type")]
    for _ in range(n):
        path, value = rng.choice(leaves)
        if isinstance(value, bool):
            yield path, not value
        elif isinstance(value, int):
            yield path, rng.choice([v for v in (0, -1, 1, value + 1, value - 1, 2 * value, value // 2) if v != value])
        elif isinstance(value, float):
            yield path, rng.choice([value * 10, value / 3, 0.0, -1.0])
        else:
            yield path, rng.choice([word for word in WORDS if word != value])


def edited_configs(folder, changed, rng):
    """Write one changed config.json after another, and say what is changed."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for path, value in edits(config, rng, cases(40, 10)):
        edited = json.loads(json.dumps(config))
        inner = edited
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (changed / "config.json").write_text(json.dumps(edited), encoding="utf-8")
        yield path, value


# -- weights ------------------------------------------------------------------------------------------------------


def spoil(w, name, rng):
    w[name].view(-1)[rng.randrange(w[name].numel())] = float("nan")


def transposed(weight):
    return weight.T.contiguous() if weight.ndim == 2 else weight.flip(0)


CHANGES = {
    "drop": lambda w, name, rng: w.pop(name),
    "rename": lambda w, name, rng: w.update({name + "s": w.pop(name)}),
    "add": lambda w, name, rng: w.update(
        {name.replace(".0.", ".7.") if ".0." in name else "further." + name: w[name].clone()}
    ),
    "transpose": lambda w, name, rng: w.update({name: transposed(w[name])}),
    "halve": lambda w, name, rng: w.update({name: w[name].half()}),
    "halve all": lambda w, name, rng: w.update({name: weight.half() for name, weight in w.items()}),
    "spoil": spoil,
}


def changed_weights(folder, changed, rng):
    for k in range(cases(21, 3)):
        weights = load_file(folder / "model.safetensors")
        change, name = list(CHANGES)[k % len(CHANGES)], rng.choice(sorted(weights))
        CHANGES[change](weights, name, rng)
        save_file(weights, changed / "model.safetensors", {"format": "pt"})
        yield change, name


@pytest.mark.parametrize("changes", [edited_configs, changed_weights])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_changed_folder_is_never_silent(runs, tmp_path, kind, changes):
    original, outcomes = opened(runs / kind), {}
    shutil.copytree(runs / kind, tmp_path / "changed")
    for change in changes(runs / kind, tmp_path / "changed", random.Random(kind)):
        result = outcome(tmp_path / "changed", original)
        outcomes.setdefault(result, []).append(change)
        assert result == "refused" or change[0] != "spoil"
    print(kind, {name: len(which) for name, which in outcomes.items()})
    assert "silent" not in outcomes, outcomes["silent"]
