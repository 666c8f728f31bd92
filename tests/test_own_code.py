"""Code of the user's own that was edited between two runs is noticed before old and new trials are mixed."""

import importlib
import os
import random
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import activations
import programs
import storage
import train
from analysis import results as analysed
from config import UserError, lacking
from conftest import cases
from kernels import toolchain
from models import own_code
from models.architectures import code_checksums
from prepare_data import load_corpus
from synthetic import synthetic_study
from training import experiment
from training import trial as trials

PRECISIONS = ("float32", "bfloat16")
PROJECT = Path(__file__).resolve().parent.parent
CODE = {
    "my_models": "from model import GPT\ndef build(config, activation, vocab_size):\n"
    "    return GPT(config, activation, vocab_size)\n",
    "my_activations": "def cube(x):\n    return x**3 / 10\n",
    "my_facade": "from my_activations import cube\n",
}
EDITED = {
    "my_models": "\n_build = build\ndef build(*args):\n    return _build(*args)\n",
    "my_activations": "\ndef cube(x):\n    return x**5 / 10\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Modules of a user's own on the path. Called with names it edits those, and begins a new process, as it were."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, text in CODE.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)

    def begin_anew(*edited):
        for name in edited:
            with open(folder / f"{name}.py", "a", encoding="utf-8") as f:
                f.write(EDITED[name])
        for name in CODE:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    begin_anew()
    yield begin_anew
    begin_anew()


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(trials_per_activation=2, max_iters=20)


KINDS = [
    ("my_models:build", "gelu", "model", "my_models:build"),
    ("gpt", "my_activations:cube", "activation", "my_activations:cube"),
    ("gpt", "my_facade:cube", "activation", "my_activations:cube"),  # defined elsewhere than the path says
]


@pytest.mark.parametrize("model, activation, what, name", KINDS)
def test_edited_code_is_refused_and_the_same_code_reused(model, activation, what, name, own, config):
    config = config.replace(model=model)
    corpus = load_corpus(config)
    train.train_trial(config, activation, 1, corpus)
    own()
    assert experiment.missing_trials(config, activation, corpus) == [2]
    saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, activation, 1))
    assert len(saved["own_code"][what][name]) == 64

    own(name.partition(":")[0])
    for refused in (
        lambda: experiment.missing_trials(config, activation, corpus),
        lambda: train.train_trial(config, activation, 1, corpus),
        lambda: experiment.measure(config, activation, corpus),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        message = str(caught.value)
        assert f"trained with other code of the {what}: {name} was changed since" in message
        assert "overwrite=True" in message and "study='NAME'" in message and "\n" not in message
    train.train_trial(config.replace(checkpoint_dir=config.checkpoint_dir + "_new"), activation, 1, corpus)


def test_a_snapshot_of_other_code_is_not_gone_on_from(own, config):
    steps = iter(range(100))
    with pytest.raises(trials.Interrupted):
        train.train_trial(config, "my_activations:cube", 1, stop=lambda: next(steps) >= 7)
    own("my_activations")
    with pytest.raises(UserError, match=r"step-8\.snapshot: trained with other code .*my_activations:cube was changed"):
        train.train_trial(config, "my_activations:cube", 1)


def test_what_was_loaded_counts_not_what_became_of_its_file(own, config, tmp_path):
    """The user edits while trials train: they are all of the code that was loaded."""
    before = code_checksums(config, "my_activations:cube")
    file = tmp_path / "own" / "my_activations.py"
    file.write_text(file.read_text(encoding="utf-8") + EDITED["my_activations"], encoding="utf-8")
    assert code_checksums(config, "my_activations:cube") == before
    importlib.reload(sys.modules["my_activations"])
    after = code_checksums(config, "my_activations:cube")
    name = "my_activations:cube"
    expected = [("activation", name, before["activation"][name], after["activation"][name])]
    assert list(own_code.differences(before, after)) == expected


def softly(x):
    return x / (1 + x.abs())


def hardly(x):
    return x.clamp(-1, 1)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(activations, "_REGISTERED", {})
    return activations.register_activation


def typed(text):
    """A function as it comes from a REPL: without a file."""
    names = {}
    exec(text, names)
    return names["f"]


def test_registered_activations(registry, config):
    corpus = load_corpus(config)
    registry("mine", softly)
    train.train_trial(config, "mine", 1, corpus)
    assert experiment.missing_trials(config, "mine", corpus) == [2]
    registry("mine", hardly, overwrite=True)
    with pytest.raises(UserError, match="other code of the activation: mine was changed"):
        experiment.missing_trials(config, "mine", corpus)
    # what has no source can't be compared, neither with what has one nor with its like
    registry("mine", typed("def f(x):\n    return x / 2"), overwrite=True)
    assert code_checksums(config, "mine") == {"activation": {"mine": None}}
    assert experiment.missing_trials(config, "mine", corpus) == [2]
    registry("class", nn.Softsign)
    assert code_checksums(config, "class")["activation"]["class"]


def test_what_is_built_in_has_none(config):
    for activation in ("relu", "smelu_0.3", "swiglu"):
        assert code_checksums(config, activation) == {}
    assert code_checksums(config.replace(model="lstm"), "relu") == {}
    compiled = code_checksums(config, "torch:tanh")["activation"]  # known by the module that the path names
    assert compiled["torch:tanh"]


def test_checkpoints_of_before_are_accepted(own, config):
    corpus = load_corpus(config)
    train.train_trial(config, "my_activations:cube", 1, corpus)
    path = storage.checkpoint_path(config.checkpoint_dir, "my_activations:cube", 1)
    saved = storage.load_checkpoint(path)
    del saved["own_code"]
    own("my_activations")
    trials.check_same_experiment(config, "my_activations:cube", 1, saved, corpus, path)


def test_results_of_other_code_of_the_model_are_not_compared():
    study = synthetic_study(("relu", "gelu"))
    for results, sha256 in zip(study.values(), "ab", strict=True):
        results["own_code"] = {"model": {"my_models": "c" * 64}, "activation": {"my_activations": sha256 * 64}}
    analysed.refuse_mixture(study)  # one more activation in the same module is no reason
    study["gelu"]["own_code"]["model"]["my_models"] = "d" * 64
    with pytest.raises(UserError, match="differ in the code of the model, my_models"):
        analysed.refuse_mixture(study)
    del study["relu"]["own_code"]  # by an earlier version, or another tool
    analysed.refuse_mixture(study)


@pytest.mark.slow
def test_on_the_command_line(smoke_config, tmp_path):
    """A model in the current folder, edited between two commands."""
    config = smoke_config.replace(trials_per_activation=2, max_iters=20, model="my_models:build")
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in config.to_dict().items() if isinstance(v, (str, int, float))]
    flags = [flag for flag in flags if not flag.endswith(("=True", "=False"))]
    file = tmp_path / "my_models.py"
    file.write_text(CODE["my_models"], encoding="utf-8")

    def run(*more):
        command = [PROJECT / "train.py", "--activation", "relu", "--no-strict-audit", *flags, *more]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = programs.fresh(*command, cwd=tmp_path, env=environment)
        return done.returncode, done.stdout, done.stderr

    status, out, err = run()
    assert status == 0 and "2 trials to train" in out, err
    recorded = storage.read_results(storage.results_path(config.results_dir, "relu"))["own_code"]
    assert list(recorded["model"]) == ["my_models:build"]
    file.write_text("# a comment\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    status, out, err = run()
    assert status == 0 and "to train" not in out, err
    file.write_text(file.read_text(encoding="utf-8") + EDITED["my_models"], encoding="utf-8")
    status, out, err = run()
    assert status == 2 and err.count("\n") == 1 and "my_models:build was changed since" in err and "to train" not in out
    status, out, err = run("--overwrite")
    assert status == 0 and "2 trials to train" in out, err


# -- whose module it is, and what of it counts ------------------------------------------------------------------------

MINE = """
import torch
from torch import nn

SHIFT = {"by": 1}
OTHER = 7


def helper(x):
    return deeper(x) * 2


def deeper(x):
    return x - SHIFT["by"]


def unused(x):
    return x


class Mine(nn.Module):
    def forward(self, x):
        return helper(x)


def __getattr__(name):
    raise AttributeError(name)


if __name__ == "__main__":
    print(Mine())
"""
SAME = [
    ("return deeper(x) * 2", "return deeper(x) * 2  # twice"),
    ("def helper(x):", 'def helper(x):\n    """Twice."""'),
    ("return deeper(x) * 2", "return (deeper(x)\n            * 2)"),
    ("OTHER = 7", "OTHER = 8\nNEW = 9"),
    ("def unused(x):\n    return x", "def unused(x, y):\n    return y"),
    ("print(Mine())", "print(Mine(), 2)"),
    ("class Mine", "# mine\nclass Mine"),
]
CHANGED = [
    ("return deeper(x) * 2", "return deeper(x) * 3"),
    ("return x - SHIFT", "return x + SHIFT"),
    ('"by": 1', '"by": 2'),
    ("OTHER = 7", 'SHIFT["by"] = 7'),
    ("OTHER = 7", "SHIFT.update(by=7)"),
    ("return helper(x)", "return helper(x).relu()"),
    ("from torch import nn", "from my_layers import nn"),
    ("def __getattr__", "Mine.forward = unused\n\n\ndef __getattr__"),
    ("def unused(x):", "def helper(x):"),
]


@pytest.mark.parametrize("old, new", [*SAME, *CHANGED])
def test_what_counts_is_the_function_and_what_it_uses_in_its_file(old, new):
    assert old in MINE
    same = own_code.code_of(MINE, "Mine") == own_code.code_of(MINE.replace(old, new), "Mine")
    assert same == ((old, new) in SAME)


def test_code_that_has_no_such_name_counts_whole():
    assert own_code.code_of(MINE, "Nowhere") != own_code.code_of(MINE.replace("OTHER = 7", ""), "Nowhere")
    assert own_code.code_of("not python (", "f") == "not python (" and own_code.code_of(None, "f") is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's own, which is the current one; called with names and texts it writes modules there."""
    own = tmp_path / "work"
    own.mkdir()
    monkeypatch.chdir(own)
    before = set(sys.modules)

    def write(**texts):
        for name, text in texts.items():
            (own / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if str(own) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_names_of_our_modules_are_all_refused(folder):
    files = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, encoding="utf-8", check=False).stdout
    names = {path.removesuffix(".py").removesuffix("/__init__") for path in files.split() if path.endswith(".py")}
    ours = {name for name in names if "/" not in name and (PROJECT / f"{name}.py").exists()}
    ours |= {name for name in names if (PROJECT / name / "__init__.py").exists() and "/" not in name}
    assert not files or sorted(ours) == own_code.OURS
    for name in own_code.OURS:
        with pytest.raises(UserError, match=f"model='{name}:GPT': {name} is a module of this project, not yours"):
            own_code.import_function(f"{name}:GPT", "model")
        folder(**{name: MINE})
        with pytest.raises(UserError, match=rf"work/{name}.py is named as a module of this project; rename yours, for"):
            own_code.import_function(f"{name}:GPT", "model")


def test_a_module_of_the_current_folder_is_loaded_from_there(folder, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "same_name.py").write_text("def f(x):\n    return 'theirs'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(elsewhere)
    folder(same_name="from beside import g\ndef f(x):\n    return g(x)\n", beside="def g(x):\n    return 'mine'\n")
    assert own_code.import_function("same_name:f", "model")(1) == "mine"
    assert own_code.import_function("same_name:f", "model") is sys.modules["same_name"].f
    folder(random=MINE, takes="from config import x\ndef f(x):\n    return x\n", broken="def f(:\n")
    with pytest.raises(UserError, match=r"random.py is named as Python's; rename yours, for example my_random.py"):
        own_code.import_function("random:Mine", "activation")
    with pytest.raises(UserError, match="can't import takes"):  # from ours, as it says
        own_code.import_function("takes:f", "model")
    folder(config="x = 1")
    with pytest.raises(UserError, match=r"takes.py imports config, and .*config.py is named as a module of this"):
        own_code.import_function("takes:f", "model")
    with pytest.raises(UserError, match="can't import broken"):
        own_code.import_function("broken:f", "model")


@pytest.mark.parametrize("name", ["mine", "mine.py", "mine.Mine", "mine.py:Mine", "mine.mine"])
def test_other_ways_to_name_it_are_put_right(name, folder, config):
    folder(mine=MINE)
    for message in (
        lambda: activations.make_activation(name),
        lambda: train.train_trial(config.replace(model=name), "relu", 1),
    ):
        with pytest.raises(UserError, match=r"did you mean mine:Mine\?") as caught:
            message()
        assert "\n" not in str(caught.value)
    folder(several="def one(x): ...\ndef two(x): ...\ndef _three(x): ...\n")
    assert own_code.meant("several.three") == "did you mean several:one or several:two? "
    assert own_code.meant("nowhere") == own_code.meant("mine:Mine") == ""


# -- code as people write it ----------------------------------------------------------------------------------------


def softmax_over_time(x):
    return x.softmax(-2)


def batch_mean(x):
    return x - x.mean((0, 1))


REFUSED = [
    (lambda x: x.relu_(), "changes its input in place"),
    (lambda x: x.mul_(2), "changes its input in place"),
    (partial(nn.ReLU, inplace=True), "changes its input in place"),
    (lambda x: torch.ones_like(x), "gives no gradient"),
    (lambda x: x.detach().relu(), "gives no gradient"),
    (lambda x: torch.from_numpy(x.detach().numpy()), "gives no gradient"),
    (lambda x: x * 0, "is constant"),
    (torch.log, "is not finite at -3"),
    (torch.sqrt, "is not finite at -3"),
    (lambda x: x / 0, "is not finite"),
    (lambda x: x[..., :2], "must return a tensor like its input"),
    (lambda x: x.sum(), "must return a tensor like its input"),
    (lambda x: x.double(), "must return a tensor like its input"),
    (lambda x: (x, x), "must return a tensor like its input"),
    (lambda x: None, "must return a tensor like its input"),
    (lambda x: x.relu() if x.mean() > "0" else x, "does not work: TypeError"),
    (softmax_over_time, "mixes tokens"),
    (batch_mean, "mixes tokens"),
    (lambda x: x.cumsum(0), "mixes tokens"),
    (lambda x: x.flip(1), "mixes tokens"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_an_activation_that_cannot_be_trained_is_refused_in_one_line(number, registry):
    function, said = REFUSED[number]
    registry("mine", function if isinstance(function, partial) else lambda x: function(x))
    with pytest.raises(UserError, match=said) as caught:
        activations.make_activation("mine")
    assert "\n" not in str(caught.value) and "'mine'" in str(caught.value)


TAKEN = [nn.PReLU, nn.RReLU, nn.Hardswish, nn.Softsign, torch.sin]
TAKEN += [lambda x: x.sign() * x.square(), lambda x: x.softmax(-1)]


@pytest.mark.parametrize("function", TAKEN)
def test_an_activation_that_can_be_trained_is_taken(function, registry, config):
    registry("mine", function)
    activations.make_activation("mine")


@pytest.mark.parametrize("model", ["gpt", "llama", "lstm", "conv", "hybrid"])
@pytest.mark.parametrize("native", [True, False])
def test_prelu_in_bfloat16(model, native, config):
    """What it learns is in the precision of the rest, on every path."""
    kernels = toolchain.problem() is None and not lacking(config.replace(precision="bfloat16"))
    native = native and model == "gpt" and kernels
    config = config.replace(model=model, precision="bfloat16", native=native, max_iters=4, warmup_iters=1)
    assert train.train_trial(config, "torch.nn:PReLU", 1)["status"] == "done"


def test_an_activation_that_leaves_the_precision_is_refused_there(registry, config):
    """float16 and bfloat16 make float32, which no matrix product takes beside bfloat16."""
    registry("mine", lambda x: x + x.to(torch.float16))
    activations.make_activation("mine")
    with pytest.raises(UserError, match=r"of torch.bfloat16, not .* in bfloat16: with precision='float32' it works"):
        train.train_trial(config.replace(precision="bfloat16", native=False), "mine", 1)


MADE = """
import torch
from torch import nn
from torch.nn import functional as F
from types import SimpleNamespace

class Net(nn.Module):
    def __init__(self, vocab_size, form):
        super().__init__()
        self.wte, self.form = nn.Embedding(vocab_size, 16), form
        self.head = nn.Linear(16, vocab_size)

    def forward(self, idx, targets=None):
        x = self.wte(idx)
        if self.form == "tuple" or targets is not None and self.form == "nanogpt":
            logits = self.head(x)
            loss = None if targets is None else F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
            return logits, loss
        if self.form == "attribute":
            return SimpleNamespace(logits=self.head(x))
        return self.head(x[:, [-1], :]), None

class Last(Net):
    def forward(self, idx):
        return self.head(self.wte(idx)[:, [-1], :])

def build(config, activation, vocab_size):
    return Net(vocab_size, FORM) if FORM != "last" else Last(vocab_size, FORM)
"""


@pytest.mark.parametrize("form", ["tuple", "nanogpt", "attribute", "last"])
def test_a_model_as_people_write_them(form, config, tmp_path, monkeypatch):
    (tmp_path / f"net_{form}.py").write_text(f"FORM = {form!r}\n{MADE}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = config.replace(model=f"net_{form}:build", max_iters=4, warmup_iters=1)
    corpus = load_corpus(config)
    if form == "last":
        with pytest.raises(UserError, match=r"gave \(1, 1, \d+\) where logits of shape \(1, 4, \d+\) \(B, T, V\)"):
            train.train_trial(config, "relu", 1, corpus)
        return
    assert train.train_trial(config, "relu", 1, corpus)["status"] == "done"
    model, _, _ = experiment.load_trial(storage.checkpoint_path(config.checkpoint_dir, "relu", 1))
    idx = torch.arange(6)[None]
    logits = model(idx)
    expected = model.module.head(model.module.wte(idx))
    assert logits.shape == (1, 6, corpus.vocab_size) and torch.equal(logits, expected)
    loss = torch.nn.functional.cross_entropy(expected[0], idx[0])
    assert float(model(idx, idx)[1].detach()) == pytest.approx(float(loss.detach()), rel=1e-6)


PARTS = (
    "x; x.abs(); x.tanh(); x.relu(); x.exp(); x.log(); x.sqrt(); 1 / x; x * x; x.sigmoid(); 3.0; x.detach(); x.t(); "
    "x.sum(1, keepdim=True); x.softmax(-1); x.sign(); x.round(); x.to(torch.float16); x.add_(1); x[0]; 'words'; "
    "x.view(-1); x.nan_to_num(); (x > 0); x.item(); undefined"
).split("; ")


@pytest.mark.slow
def test_two_hundred_random_activations(registry, config):
    """Trained, or refused in one line before any step."""
    rng, corpus, outcomes = random.Random(0), load_corpus(config), Counter()
    config = config.replace(max_iters=2, warmup_iters=1, eval_interval=2)
    for number in range(cases(200)):
        first, second = rng.choices(PARTS, k=2)
        text = f"import torch\ndef f(x):\n    return ({first}) {rng.choice('+-*')} ({second})"
        registry("mine", typed(text), overwrite=True)
        folder = config.replace(checkpoint_dir=f"{config.checkpoint_dir}/{number}", precision=rng.choice(PRECISIONS))
        try:
            outcomes[train.train_trial(folder, "mine", 1, corpus)["status"]] += 1
        except UserError as error:
            assert "\n" not in str(error) and "'mine'" in str(error), text
            assert not list(Path(folder.checkpoint_dir).glob("**/*.pt")), text
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == cases(200), outcomes
    assert min(outcomes["done"], outcomes["refused"]) > cases(20), outcomes
