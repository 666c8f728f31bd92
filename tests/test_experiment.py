"""What lies in a study's folders, before anything is trained: compared, gone on with, measured anew, or refused."""

import hashlib
from pathlib import Path

import pytest

import config as config_module
import storage
import train
from config import Config, UserError
from kernels import toolchain
from test_config import OTHER
from training import experiment, pool, trial

# A value that differs from the smoke preset's for every setting that changes a trained trial.
CHANGED = {name: value for name, value in OTHER.items() if name not in ("eval_tokens", "preset")} | {
    "n_head": 1, "n_embd": 96, "block_size": 16, "batch_size": 4, "probe_tokens": 256,
    "precision": "bfloat16", "dataset": "other.txt", "tokenizer": "byte",
}  # fmt: skip
NOT_TRAINED_WITH = {f for f in CHANGED if not config_module._FIELDS[f].metadata["affects_weights"]}
# on the CPU in float32 without kernels, with characters, without a trunk and a remedy these change nothing
IDLE = {"native", "deterministic", "compile", "bpe_vocab_size", "branch_points", "cooldown", "strength", "teacher"}


def tree(*folders) -> dict:
    """{file: sha256} of everything below, but for locks."""
    files = [
        path for folder in folders for path in Path(folder).rglob("*") if path.is_file() and ".lock" not in path.name
    ]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def interrupted(config: Config, activation: str, number: int = 1) -> None:
    steps = iter(range(10_000))
    with pytest.raises(trial.Interrupted):
        train.train_trial(config, activation, number, stop=lambda: next(steps) >= 6)


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(precision="float32", threads=1, max_iters=20, eval_interval=10, trials_per_activation=1)


@pytest.fixture
def no_figures(monkeypatch):
    for step in ("_draw", "_compare"):
        monkeypatch.setattr(train, step, lambda *_: None)


@pytest.fixture
def no_training(monkeypatch):
    def fail(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(pool, "run_trials", fail)


def test_interrupted_runs_continued_with_each_setting_changed_in_turn(config, corpus_file, monkeypatch, no_figures):
    """Refused before anything is trained, whichever activation is asked for; and the first command still goes on."""
    interrupted(config, "relu")
    interrupted(config, "gelu")
    before = tree(config.checkpoint_dir)
    assert sum(path.endswith(".snapshot") for path in before) == 2
    other_text = Path(config.results_dir).parent / "other.txt"
    other_text.write_text(corpus_file.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(pool, "run_trials", lambda *_: pytest.fail("trained"))
        for name in CHANGED.keys() - NOT_TRAINED_WITH - IDLE:
            value = str(other_text) if name == "dataset" else CHANGED[name]
            changed = config.replace(**{name: value})
            for names in (["relu", "gelu"], ["swish"], ["gelu"]):
                with pytest.raises(UserError, match=rf"(relu|gelu).*trained with other settings \(.*{name}="):
                    train.run_study(changed, names, quiet=True)
            assert tree(config.checkpoint_dir) == before, name
            assert not tree(config.results_dir, config.plots_dir)
    results = train.run_study(config, ["relu", "gelu"], quiet=True)
    assert [results[name]["trials"][0]["status"] for name in ("relu", "gelu")] == ["done", "done"]


@pytest.mark.parametrize("idle", [{"bpe_vocab_size": 600}, {"deterministic": False}, {"vary": ("init", "order")}])
def test_settings_that_change_nothing_go_on(config, idle, no_training, no_figures):
    train.train_trial(config, "relu", 1)
    changed = config.replace(**idle)
    assert changed.fingerprint() == config.fingerprint()
    assert train.run_study(changed, ["relu"], quiet=True)["relu"]["trials"][0]["status"] == "done"


def test_another_text_is_refused_before_training(config, corpus_file, no_training):
    """The same path, other contents: with a snapshot, a checkpoint and results of another activation."""
    own = Path(config.results_dir).parent / "own.txt"
    own.write_text(corpus_file.read_text(encoding="utf-8"), encoding="utf-8")
    config = config.replace(dataset=str(own))
    interrupted(config, "relu")
    own.write_text(corpus_file.read_text(encoding="utf-8").replace("k", "g"), encoding="utf-8")
    with pytest.raises(UserError, match="relu.trial_1.step-.*trained on another text"):
        train.run_study(config, ["gelu"], quiet=True)


def test_more_positions_are_measured_without_training(config, tmp_path, capsys, monkeypatch, no_figures):
    """All numbers, the training losses too, as if the models had been trained with that setting."""
    here = config.replace(trials_per_activation=2, eval_tokens=1024)
    train.run_study(here, ["relu", "gelu"], quiet=True)
    folders = {name: str(tmp_path / "new" / name) for name in ("results_dir", "plots_dir", "checkpoint_dir")}
    more = here.replace(eval_tokens=2048)
    fresh = train.run_study(more.replace(**folders), ["relu"], quiet=True)["relu"]

    monkeypatch.setattr(pool, "run_trials", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"gelu_results.json: .*eval_tokens=1024 there, 2048 now.*name gelu too"):
        train.run_study(more, ["relu"], quiet=True)
    capsys.readouterr()
    again = train.run_study(more, ["relu", "gelu"])["relu"]
    said = "relu_results.json: measured with eval_tokens=1024 there, 2048 now; measured again from the checkpoints"
    assert said in capsys.readouterr().out
    for key in ("fingerprint", "reproducibility_metrics", "avg_val_loss", "avg_train_loss", "evaluation", "divergence"):
        assert again[key] == fresh[key], key
    for mine, theirs in zip(again["trials"], fresh["trials"], strict=True):
        for key in ("weights_sha256", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert mine[key] == theirs[key], key


# -- what was left to the machine ---------------------------------------------------------------------------------


def left_to_the_machine(config: Config, *names) -> Config:
    """The config of a user who named none of these settings, on a machine that would choose what `config` says."""
    config = config.replace()
    config._left |= set(names)
    return config


def a_snapshot_of(config: Config) -> experiment.Existing:
    says = {"config": config.to_dict(), "corpus_sha256": None}
    return experiment.Existing(Path("relu/trial_1.step-6.snapshot"), "relu", "snapshot", says)


@pytest.mark.parametrize("there", [{"threads": 2}, {"precision": "bfloat16"}, {"precision": "bfloat16", "threads": 2}])
def test_settings_left_to_the_machine_are_those_of_the_folder(config, there):
    mine = left_to_the_machine(config, *there)
    going_on, said = experiment.going_on_with(mine, [a_snapshot_of(config.replace(**there))])
    assert going_on == config.replace(**there)
    assert said.startswith("going on with ") and all(f"{name}={value!r}" in said for name, value in there.items())
    assert experiment.going_on_with(config, [a_snapshot_of(config.replace(**there))]) == (config, "")  # named ones stay


def test_a_study_goes_on_with_them_and_says_so(config, capsys, no_figures):
    interrupted(config.replace(precision="bfloat16", native=False), "relu")
    results = train.run_study(left_to_the_machine(config, "precision", "native"), ["relu"])["relu"]
    assert results["config"]["precision"] == "bfloat16"
    assert "going on with precision='bfloat16', as what is in" in capsys.readouterr().out


NO_COMPILER = "there is no C++ compiler here"


@pytest.mark.parametrize("problem", [None, NO_COMPILER])
def test_with_or_without_a_compiler_a_folder_goes_on(config, problem, monkeypatch):
    """What is there was trained with torch's kernels; now there is a compiler, or still none."""
    monkeypatch.setattr(toolchain, "problem", lambda: NO_COMPILER)
    first = Config(**{**config.to_dict(), "precision": "bfloat16", "native": None})
    assert not first.native
    interrupted(first, "relu")
    monkeypatch.setattr(toolchain, "problem", lambda: problem)
    second = Config(**{**config.to_dict(), "precision": "bfloat16", "native": None})
    assert second.native is (problem is None)
    going_on, said = experiment.going_on_with(second, experiment.existing_files(second))
    assert not going_on.native and going_on.fingerprint() == first.fingerprint()
    assert ("native=False" in said) == (problem is None)


def test_kernels_that_this_machine_can_not_make(config, monkeypatch, no_training):
    """A folder that was trained with them: what is left to train is refused, what is done is measured."""
    native = config.replace(precision="bfloat16", native=True)
    monkeypatch.setattr(toolchain, "problem", lambda: NO_COMPILER)
    mine = Config(**{**native.to_dict(), "native": None})
    assert not mine.native
    monkeypatch.setattr(experiment, "existing_files", lambda config: [a_snapshot_of(native)])
    monkeypatch.setattr(experiment, "refuse_other_settings", lambda *_: None)
    with pytest.raises(UserError, match=r"have native=True \(there is no C\+\+ compiler here\)"):
        train.run_study(mine, ["relu"], quiet=True)


def test_a_mixture_decides_nothing(config):
    """Two files that disagree: neither is gone on with, and the one that differs is named."""
    mine = left_to_the_machine(config, "threads")
    there = [a_snapshot_of(config.replace(threads=2)), a_snapshot_of(config)]
    assert experiment.going_on_with(mine, there) == (mine, "")
    with pytest.raises(UserError, match="relu.*threads=2 there, 1 now"):
        experiment.refuse_other_settings(mine, ["swish"], there)


def test_overwrite_leaves_what_is_there_until_all_is_agreed(config, no_training):
    train.train_trial(config, "relu", 1)
    train.train_trial(config, "gelu", 1)
    before = tree(config.checkpoint_dir)
    with pytest.raises(UserError, match="gelu.*bias=False there, True now"):
        train.run_study(config.replace(bias=True), ["relu"], overwrite=True, quiet=True)
    assert tree(config.checkpoint_dir) == before


def test_damaged_and_foreign_files_are_in_nobodys_way(config):
    interrupted(config, "relu")
    folder = Path(config.checkpoint_dir)
    (folder / "gelu").mkdir()
    (folder / "gelu" / "trial_1.pt").write_bytes(b"no checkpoint")
    (folder / "gelu" / "trial_1.step-5.snapshot").write_bytes(b"")
    Path(config.results_dir).mkdir()
    (Path(config.results_dir) / "gelu_results.json").write_text("{", encoding="utf-8")
    there = experiment.existing_files(config)
    assert len(there) == 4
    experiment.refuse_other_settings(config.replace(), ["relu"], there)
    with pytest.raises(storage.StorageError, match="gelu_results.json"):
        experiment.refuse_other_settings(config, ["gelu"], there)


def test_more_trials_there_than_asked_for_is_said(config, capsys, no_figures):
    config = config.replace(trials_per_activation=2)
    train.run_study(config, ["relu"], quiet=True)
    results = train.run_study(config.replace(trials_per_activation=1), ["relu"])["relu"]
    assert len(results["trials"]) == 2
    said = "relu: 2 trials are there, more than trials_per_activation=1: all count; for 1 alone give study='NAME'"
    assert said in capsys.readouterr().out
