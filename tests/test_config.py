"""Config: validation, presets, fingerprint, and flags generated from the fields."""

import dataclasses
import hashlib
import json
import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config as config_module
from config import PRESETS, Config, Parser, UserError, add_arguments, from_args
from models import toolchain

# (settings, what the message must name: the field and what would be right)
WRONG = [
    ({"n_layer": 0}, ["n_layer=0", "at least 1"]),
    ({"n_layer": -3}, ["n_layer=-3", "at least 1"]),
    ({"n_layer": 2.5}, ["n_layer=2.5", "whole number"]),
    ({"n_layer": "four"}, ["n_layer='four'", "whole number"]),
    ({"n_layer": True}, ["n_layer=True", "whole number"]),
    ({"n_embd": 130}, ["n_embd=130", "multiple of n_head=4"]),
    ({"n_head": 3}, ["n_embd=128", "multiple of n_head=3"]),
    ({"block_size": 1}, ["block_size=1", "at least 2"]),
    ({"dropout": 1.0}, ["dropout=1.0", "at most 0.95"]),
    ({"dropout": math.nan}, ["dropout=nan", "number"]),
    ({"learning_rate": 0}, ["learning_rate=0", "above 0"]),
    ({"learning_rate": math.inf}, ["learning_rate=inf"]),
    ({"min_lr": 1.0}, ["min_lr=1.0", "at most learning_rate"]),
    ({"warmup_iters": 5000}, ["warmup_iters=5000", "at most max_iters"]),
    ({"train_split": 1.0}, ["train_split=1.0"]),
    ({"train_split": 0}, ["train_split=0"]),
    ({"tokenizer": "chars"}, ["tokenizer='chars'", "did you mean char?"]),
    ({"preset": "quik"}, ["preset='quik'", "did you mean quick?"]),
    ({"precision": "float16"}, ["precision='float16'", "bfloat16"]),
    ({"device": "gpu"}, ["device='gpu'", "cuda"]),
    ({"device": "cpu:1"}, ["device='cpu:1'"]),
    ({"vary": "inti"}, ["vary='inti'", "did you mean init?"]),
    ({"vary": ()}, ["vary=()", "none"]),
    ({"vary": ("bit", "order")}, ["bit and none stand alone"]),
    ({"trials_per_activation": 0}, ["trials_per_activation=0", "at least 1"]),
    ({"seed_base": -1}, ["seed_base=-1", "at least 0"]),
    ({"seed_base": 2**40}, ["seed_base"]),
    ({"workers": 0}, ["workers=0", "at least 1"]),
    ({"data_parallel": 0}, ["data_parallel=0", "at least 1"]),
    ({"data_parallel": 5}, ["batch_size=12", "data_parallel=5", "for example 10"]),
    ({"data_parallel": "all"}, ["data_parallel='all'", "whole number"]),
    ({"eval_tokens": 10}, ["eval_tokens=10", "block_size=64"]),
    ({"probe_tokens": 10**6}, ["probe_tokens", "eval_tokens"]),
    ({"dataset": "  "}, ["dataset", "shakespeare"]),
    ({"dataset": 7}, ["dataset=7", "text"]),
    ({"study": "../up"}, ["study='../up'", "plain name"]),
    ({"study": "-x"}, ["study='-x'"]),
    ({"results_dir": ""}, ["results_dir=''", "folder"]),
    ({"results_dir": "a\0b"}, ["results_dir", "folder"]),
    ({"deterministic": "yes"}, ["deterministic='yes'", "true or false"]),
]


@pytest.mark.parametrize(("settings", "named"), WRONG, ids=[str(list(w[0].items())[0]) for w in WRONG])
def test_wrong_values_name_the_field_and_what_would_be_right(settings, named):
    with pytest.raises(UserError) as caught:
        Config(**{"device": "cpu", "preset": "quick", **settings})
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message


def test_misspelt_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean n_layer?"):
        Config.from_dict({"n_layr": 3})


def test_folder_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="there is a file of that name"):
        Config(results_dir=file)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_round_trip(preset):
    config = Config(preset=preset, device="cpu")
    assert all(v is not None for k, v in config.to_dict().items() if k not in ("study", "encoding", "workers"))
    again = Config.from_dict(config.to_dict())
    assert again == config
    assert again.fingerprint() == config.fingerprint()


def test_device_and_precision_are_resolved():
    config = Config(preset="smoke")
    assert config.device in ("cpu", "cuda", "mps")
    assert config.precision in ("float32", "bfloat16")


def test_a_config_of_another_machine_loads():
    recorded = {**Config(preset="smoke", device="cpu").to_dict(), "device": "cuda", "precision": "bfloat16"}
    assert Config.from_dict(recorded).device == "cuda"


# a valid other value for every field
OTHER = {
    "preset": "full", "dataset": "tiny_shakespeare", "train_split": 0.8, "tokenizer": "byte", "bpe_vocab_size": 512,
    "data_dir": "d", "model": "llama", "n_layer": 3, "n_head": 2, "n_embd": 64, "block_size": 32, "dropout": 0.1,
    "bias": True, "batch_size": 5, "max_iters": 777, "learning_rate": 1e-3, "min_lr": 1e-5, "warmup_iters": 7,
    "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.9, "grad_clip": 0.5, "eval_interval": 11, "eval_tokens": 8192,
    "probe_tokens": 1024, "trials_per_activation": 4, "seed_base": 1, "vary": ("bit",), "device": "cuda",
    "precision": "float32", "threads": 2, "data_parallel": 6, "deterministic": False, "compile": True, "native": False,
    "workers": 2, "snapshot_seconds": 1.0, "study": "s", "results_dir": "r", "plots_dir": "p", "checkpoint_dir": "c",
    "encoding": "cp1251", "text_column": "story",
}  # fmt: skip

NO_EFFECT_ON_RESULTS = {
    "preset", "data_dir", "trials_per_activation", "workers", "snapshot_seconds", "study", "results_dir", "plots_dir",
    "checkpoint_dir", "encoding", "text_column",
}  # fmt: skip


def test_fingerprint_covers_what_changes_results_and_nothing_else():
    base = {**Config(preset="quick", device="cpu").to_dict(), "precision": "bfloat16", "native": True}
    assert set(OTHER) == {f.name for f in dataclasses.fields(Config)}
    beside = {"bpe_vocab_size": {"tokenizer": "bpe"}, "deterministic": {"device": "cuda"}}  # there they count
    for name, value in OTHER.items():
        first = {**base, **beside.get(name, {})}
        changed = Config.from_dict({**first, name: value})
        same = changed.fingerprint() == Config.from_dict(first).fingerprint()
        assert same == (name in NO_EFFECT_ON_RESULTS), name


LATER = {f.name for f in dataclasses.fields(Config) if f.metadata["before"] is not dataclasses.MISSING}


def test_settings_that_came_later_leave_older_fingerprints_valid():
    assert {"data_parallel", "compile", "native"} <= LATER
    config = Config(preset="smoke", device="cpu", precision="float32")
    settings = {k: v for k, v in config.result_settings().items() if k not in LATER}
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    assert config.fingerprint() == hashlib.sha256(text.encode()).hexdigest()
    older = {k: v for k, v in config.to_dict().items() if k not in LATER}
    assert config.differences(older) == {}
    assert config.differences(config.replace(data_parallel=2)) == {"data_parallel": (1, 2)}


@pytest.mark.parametrize("problem", [None, "there is no C++ compiler here"])
def test_native_is_resolved_to_what_can_be(monkeypatch, problem):
    """By default the kernels are used where they can be; asked for or recorded, they stay where they can't be made."""
    monkeypatch.setattr(toolchain, "problem", lambda: problem)
    fits = {"preset": "smoke", "device": "cpu", "precision": "bfloat16"}
    assert Config(**fits).native is (problem is None)
    assert Config(**fits, native=True).native and not Config(**fits, native=False).native
    for other in ({"precision": "float32"}, {"threads": 2}, {"compile": True}):
        assert not Config(**{**fits, **other, "native": True}).native
        assert not Config(**fits, native=True).replace(**other).native
    recorded = Config(**fits, native=True).to_dict()
    assert Config.from_dict(recorded).native
    del recorded["native"]  # before there was a choice
    assert not Config.from_dict(recorded).native


def test_differences_name_the_fields():
    a, b = Config(preset="smoke", device="cpu"), Config(preset="smoke", device="cpu", n_layer=3, workers=2)
    assert a.differences(b) == {"n_layer": (2, 3)}


def _parse(*words):
    parser = Parser(prog="train.py")
    add_arguments(parser)
    return from_args(parser.parse_args(list(words)))


def test_every_field_is_a_flag():
    for name, value in OTHER.items():
        if name in ("device", "study", "preset"):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words = [flag if value else flag.replace("--", "--no-", 1)]
        elif isinstance(value, tuple):
            words = [flag, *value]
        else:
            words = [flag, str(value)]
        assert getattr(_parse("--preset", "quick", "--device", "cpu", *words), name) == value, name


def test_trials_is_short_for_trials_per_activation():
    assert _parse("--trials", "8").trials_per_activation == 8


def test_whole_numbers_may_be_written_with_an_exponent():
    assert _parse("--max-iters", "1e3").max_iters == 1000
    with pytest.raises(UserError, match="max_iters='1.5e0'"):
        _parse("--max-iters", "1.5e0")


def test_unknown_flag_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        _parse("--n-layr", "3")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "did you mean --n-layer?" in error


def test_study_puts_everything_under_its_name():
    config = Config(preset="smoke", device="cpu", study="wide")
    assert (config.results_dir, config.plots_dir, config.checkpoint_dir) == (
        "studies/wide/results",
        "studies/wide/plots",
        "studies/wide/checkpoints",
    )


@given(
    n_layer=st.integers(1, 512),
    n_head=st.integers(1, 16),
    width=st.integers(1, 64),
    block_size=st.integers(2, 512),
    learning_rate=st.floats(1e-6, 1.0),
    dropout=st.floats(0, 0.9),
    seed_base=st.integers(0, 2**31 - 1),
    vary=st.sets(st.sampled_from(["init", "order", "dropout"]), min_size=1),
)
def test_any_valid_config_round_trips(n_layer, n_head, width, block_size, learning_rate, dropout, seed_base, vary):
    config = Config(
        preset="quick", device="cpu", n_layer=n_layer, n_head=n_head, n_embd=4 * n_head * width, block_size=block_size,
        probe_tokens=block_size, learning_rate=learning_rate, dropout=dropout, seed_base=seed_base, vary=tuple(vary),
    )  # fmt: skip
    assert Config.from_dict(config.to_dict()) == config


@given(
    name=st.sampled_from([f.name for f in dataclasses.fields(Config)]),
    value=st.one_of(
        st.none(), st.integers(), st.floats(), st.text(string.printable), st.lists(st.integers()), st.booleans()
    ),
)
def test_any_value_is_accepted_or_a_user_error(name, value):
    try:
        config = Config(**{"preset": "smoke", "device": "cpu", name: value})
    except UserError as error:
        assert "\n" not in str(error).replace("\\n", "")
    else:
        assert len(config.fingerprint()) == 64
