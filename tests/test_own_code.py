"""Code of the user's own that was edited between two runs is noticed before old and new trials are mixed."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import activations
import storage
from analysis import results as analysed
from config import UserError
from models import own_code
from models.architectures import code_checksums
from prepare_data import load_corpus
from synthetic import synthetic_study
from training import experiment
from training import trial as trials

PROJECT = Path(__file__).resolve().parent.parent
CODE = {
    "my_models": "from model import GPT\ndef build(config, activation, vocab_size):\n"
    "    return GPT(config, activation, vocab_size)\n",
    "my_activations": "def cube(x):\n    return x**3 / 10\n",
    "my_facade": "from my_activations import cube\n",
}
EDITED = {"my_models": "\n# a comment\n", "my_activations": "\ndef cube(x):\n    return x**5 / 10\n"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Modules of a user's own on the path. Called with names it edits those, and begins a new process, as it were."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, text in CODE.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)

    def begin_anew(*edited):
        for name in edited:
            with open(folder / f"{name}.py", "a") as f:
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
    ("my_models:build", "gelu", "model", "my_models"),
    ("gpt", "my_activations:cube", "activation", "my_activations"),
    ("gpt", "my_facade:cube", "activation", "my_activations"),  # defined elsewhere than the path says
]


@pytest.mark.parametrize("model, activation, what, module", KINDS)
def test_edited_code_is_refused_and_the_same_code_reused(model, activation, what, module, own, config):
    config = config.replace(model=model)
    corpus = load_corpus(config)
    trials.train_trial(config, activation, 1, corpus)
    own()
    assert experiment.missing_trials(config, activation, corpus) == [2]
    saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, activation, 1))
    file = sys.modules[module].__file__
    assert saved["own_code"][what][module] == storage.sha256_file(file)

    own(module)
    for refused in (
        lambda: experiment.missing_trials(config, activation, corpus),
        lambda: trials.train_trial(config, activation, 1, corpus),
        lambda: experiment.measure(config, activation, corpus),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        message = str(caught.value)
        assert f"trained with other code of the {what}: {module} was changed since" in message
        assert "overwrite=True" in message and "study='NAME'" in message and "\n" not in message
    trials.train_trial(config.replace(checkpoint_dir=config.checkpoint_dir + "_new"), activation, 1, corpus)


def test_a_snapshot_of_other_code_is_not_gone_on_from(own, config):
    steps = iter(range(100))
    with pytest.raises(trials.Interrupted):
        trials.train_trial(config, "my_activations:cube", 1, stop=lambda: next(steps) >= 7)
    own("my_activations")
    with pytest.raises(UserError, match=r"step-8\.snapshot: trained with other code .*my_activations was changed"):
        trials.train_trial(config, "my_activations:cube", 1)


def test_what_was_loaded_counts_not_what_became_of_its_file(own, config, tmp_path):
    """The user edits while trials train: they are all of the code that was loaded."""
    before = code_checksums(config, "my_activations:cube")
    file = tmp_path / "own" / "my_activations.py"
    file.write_text(file.read_text() + EDITED["my_activations"])
    assert code_checksums(config, "my_activations:cube") == before
    importlib.reload(sys.modules["my_activations"])
    after = code_checksums(config, "my_activations:cube")
    assert list(own_code.differences(before, after)) == [
        ("activation", "my_activations", before["activation"]["my_activations"], storage.sha256_file(file))
    ]


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
    trials.train_trial(config, "mine", 1, corpus)
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
    assert compiled["torch"]


def test_checkpoints_of_before_are_accepted(own, config):
    corpus = load_corpus(config)
    trials.train_trial(config, "my_activations:cube", 1, corpus)
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
    file.write_text(CODE["my_models"])

    def run(*more):
        command = [sys.executable, str(PROJECT / "train.py"), "--activation", "relu", "--no-strict-audit"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [*command, *flags, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        return done.returncode, done.stdout, done.stderr

    status, out, err = run()
    assert status == 0 and "2 trials to train" in out, err
    recorded = storage.read_results(storage.results_path(config.results_dir, "relu"))["own_code"]
    assert recorded == {"model": {"my_models": storage.sha256_file(file)}}
    status, out, err = run()
    assert status == 0 and "to train" not in out, err
    file.write_text(file.read_text() + EDITED["my_models"])
    status, out, err = run()
    assert status == 2 and err.count("\n") == 1 and "my_models was changed since" in err and "to train" not in out
    status, out, err = run("--overwrite")
    assert status == 0 and "2 trials to train" in out, err
