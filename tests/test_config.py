"""Config: validation, presets, fingerprint, and flags generated from the fields."""

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import pickle
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config as config_module
import storage
from config import GONE, PRESETS, Config, Parser, UserError, add_arguments, command_line, from_args
from kernels import toolchain
from synthetic import synthetic_results

# (settings, what the message must name: the field and what would be right)
WRONG = [
    ({"n_layer": 0}, ["n_layer=0", "at least 1"]),
    ({"n_layer": -3}, ["n_layer=-3", "at least 1"]),
    ({"n_layer": 2.5}, ["n_layer=2.5", "whole number"]),
    ({"n_layer": "four"}, ["n_layer='four'", "whole number"]),
    ({"n_layer": True}, ["n_layer=True", "whole number"]),
    ({"n_embd": 130}, ["n_embd=130", "multiple of n_head=4"]),
    ({"n_embd": 2, "n_head": 1}, ["n_embd=2", "at least 3", "layer norm"]),
    ({"n_embd": 2, "n_head": 2, "model": "conv"}, ["n_embd=2", "at least 4"]),
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
    ({"device": "gpu"}, ["device='gpu'", "did you mean cuda?"]),
    ({"device": "cpu:1"}, ["device='cpu:1'"]),
    ({"vary": "inti"}, ["vary='inti'", "did you mean init?"]),
    ({"vary": ()}, ["vary=()", "none"]),
    ({"vary": ("bit", "order")}, ["bit and none stand alone"]),
    ({"sampling": "shuffel"}, ["sampling='shuffel'", "did you mean shuffle?"]),
    ({"remedy": "distill"}, ["remedy='distill'", "did you mean distil?"]),
    ({"strength": 1.5}, ["strength=1.5", "at most 1"]),
    ({"teacher": 3}, ["teacher=3", "trial_1.pt"]),
    ({"teacher": ("",)}, ["teacher=", "one or more"]),
    ({"averages": ("lawa",)}, ["averages='lawa'", "lawa_P"]),
    ({"averages": ("lawa_2.5",)}, ["averages='lawa_2.5'", "whole number"]),
    ({"averages": "ema_1"}, ["averages='ema_1'", "between 0 and 1"]),
    ({"averages": ("ema_nan",)}, ["averages='ema_nan'"]),
    ({"trials_per_activation": 0}, ["trials_per_activation=0", "at least 1"]),
    ({"seed_base": -1}, ["seed_base=-1", "at least 0"]),
    ({"seed_base": 2**40}, ["seed_base"]),
    ({"workers": 0}, ["workers=0", "at least 1"]),
    ({"data_parallel": 2}, ["data_parallel: no longer a setting", "torchrun and Slurm"]),
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


@pytest.mark.parametrize(
    "give",
    [lambda **x: Config.from_dict(x), Config, Config(preset="smoke").replace],
    ids=["from_dict", "Config", "replace"],
)
def test_misspelt_name_suggests_the_nearest(give):
    with pytest.raises(UserError, match="unknown setting 'n_layr': did you mean n_layer?"):
        give(n_layr=3)
    with pytest.raises(UserError, match="did you mean trials_per_activation?"):
        give(trials=3)


def test_narrow_models_that_the_causal_check_can_pass():
    for model, width in (("gpt", 3), ("lstm", 3), ("llama", 2)):
        assert Config(preset="smoke", device="cpu", model=model, n_embd=width, n_head=1).n_embd == width


# -- assigned later -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("max_itres", 5, "unknown setting 'max_itres': did you mean max_iters?"),
        ("anything", 5, "unknown setting 'anything': must be one of"),
        ("n_layer", 0, "n_layer=0: must be a whole number at least 1"),
        ("n_embd", 65, "n_embd=65: must be a multiple of n_head=2"),
        ("device", "gpu", "device='gpu': did you mean cuda?"),
        ("device", 3, "device=3: must be text"),
        ("vary", "inti", "vary='inti': did you mean init?"),
        ("preset", "quick", "preset='quick': a preset gives values to settings left out"),
    ],
)
def test_a_wrong_assignment_is_one_line_and_changes_nothing(name, value, named):
    config = Config(preset="smoke", device="cpu")
    before = config.to_dict()
    with pytest.raises(UserError) as caught:
        setattr(config, name, value)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert config.to_dict() == before


def test_an_assignment_is_as_good_as_an_argument():
    config = Config(preset="smoke", device="cpu", precision="bfloat16", native=True)
    config.max_iters, config.vary, config.study, config.threads = 50, "init", "wide", 2
    named = Config(
        preset="smoke", device="cpu", precision="bfloat16", native=True, max_iters=50, vary="init", study="wide",
        threads=2, warmup_iters=10,
    )  # fmt: skip
    assert config == named and config.results_dir == "studies/wide/results" and not config.native
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


# -- from files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def results_of(tmp_path):
    """Results that record a config: a function from it to their path."""

    def write(settings, **changes):
        results = {**synthetic_results("gelu"), "config": settings.to_dict(), "fingerprint": settings.fingerprint()}
        return storage.write_results({**results, **changes}, tmp_path)

    return write


def test_like_has_every_recorded_setting_but_the_places(results_of):
    values = {k: v for k, v in OTHER.items() if k not in ("device", "preset", "compile", "native")}
    recorded = Config(preset="smoke", device="cpu", **{**values, "n_head": 4, "batch_size": 12})
    path = results_of(recorded)
    again = Config.like(path)
    assert again.fingerprint() == recorded.fingerprint() and not again.automatic
    places = {name for name, value in again.to_dict().items() if value != recorded.to_dict()[name]}
    assert places == set(config_module.PLACES)
    assert (again.results_dir, again.study) == ("results", None)
    assert Config.like(path, n_layer=5, study="again").differences(recorded) == {"n_layer": (5, 3)}
    with pytest.raises(UserError, match="did you mean n_layer"):
        Config.like(path, n_layr=5)


def test_like_names_what_this_machine_can_not_have(results_of, monkeypatch):
    config = Config(preset="smoke", device="cpu", precision="bfloat16", native=True)
    monkeypatch.setattr(toolchain, "problem", lambda: "there is no C++ compiler here (c++)")
    monkeypatch.setattr(config_module, "_nvidia_present", lambda: False)
    path = results_of(config)
    with pytest.raises(
        UserError, match=r"can't have native=True \(there is no C\+\+ compiler here \(c\+\+\)\).*\(native=False\)"
    ):
        Config.like(path)
    assert not Config.like(path, native=False).native
    path = results_of(Config.from_dict({**config.to_dict(), "device": "cuda:1"}))
    with command_line(), pytest.raises(UserError, match=r"device='cuda:1' \(torch finds no CUDA GPU.*\(--device cpu\)"):
        Config.like(path)
    assert Config.like(path, device="cpu").device == "cpu"
    with pytest.raises(UserError, match="device='gpu': did you mean cuda"):
        Config.like(path, device="gpu")


def test_like_needs_results_that_record_settings(results_of, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Config.like(tmp_path / "none.json")
    config = Config(preset="smoke", device="cpu")
    with pytest.raises(UserError, match="records no settings"):
        Config.like(results_of(config, config=None))


def test_settings_in_a_toml_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        'preset = "smoke"\nn_layer = 3\nlearning_rate = 1e-3\nvary = ["init"]\nbias = true\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    config = Config.from_toml(path)
    expected = Config(preset="smoke", device="cpu", n_layer=3, learning_rate=1e-3, vary=("init",), bias=True)
    assert config == expected
    assert Config.from_toml(path, n_layer=5) == expected.replace(n_layer=5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("n_layr = 3", "unknown setting 'n_layr': did you mean n_layer?"),
        ("n_layer = 0", "n_layer=0: must be"),
        ("n_layer = '3'", "n_layer='3': must be"),
        ("n_layer = ", "not TOML"),
        ("[model]\nn_layer = 3", "[model]: tables are not used"),
        (b"\xff", "not TOML"),
        (None, "no such file"),
    ],
)
def test_a_wrong_toml_file_is_one_line(text, named, tmp_path):
    path = tmp_path / "study.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        Config.from_toml(path)
    assert str(caught.value).startswith(f"{path}: ") and named in str(caught.value) and "\n" not in str(caught.value)


# -- replications -------------------------------------------------------------------------------------------------


def test_replications_share_no_seed_however_many_trials_they_have():
    most = max(f.metadata["high"] for f in dataclasses.fields(Config) if f.name == "trials_per_activation")
    config = Config(preset="smoke", device="cpu", trials_per_activation=most)
    bases = [config.replication(n).seed_base for n in range(20)]
    assert bases[0] == config.seed_base and min(b - a for a, b in itertools.pairwise(bases)) >= most
    second = config.replace(study="wide").replication(2)
    assert (second.study, second.checkpoint_dir) == ("wide_replication_2", "studies/wide_replication_2/checkpoints")
    assert second.differences(config) == {"seed_base": (21337, 1337)}
    for wrong in (-1, 1.5, True):
        with pytest.raises(UserError, match="replicate="):
            config.replication(wrong)


# -- fingerprint --------------------------------------------------------------------------------------------------


def test_folder_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="there is a file of that name"):
        Config(results_dir=file)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_round_trip(preset):
    config = Config(preset=preset, device="cpu")
    unset = ("study", "encoding", "workers", "baseline")
    assert all(v is not None for k, v in config.to_dict().items() if k not in unset)
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
    "precision": "float32", "threads": 2, "deterministic": False, "compile": True, "native": False,
    "workers": 2, "snapshot_seconds": 1.0, "study": "s", "results_dir": "r", "plots_dir": "p", "checkpoint_dir": "c",
    "encoding": "cp1251", "text_column": "story", "schedule": "trunk", "branch_points": (0.5, 1.0), "cooldown": 0.5,
    "sampling": "shuffle",
    "remedy": "warm", "strength": 0.5, "teacher": ("a teacher.pt",), "averages": ("lawa_10", "ema_0.99"),
    "baseline": "gelu", "contrast": ("relu", "swish"),
}  # fmt: skip

NO_EFFECT_ON_RESULTS = {
    "preset", "data_dir", "trials_per_activation", "workers", "snapshot_seconds", "study", "results_dir", "plots_dir",
    "checkpoint_dir", "encoding", "text_column", "baseline", "contrast",
}  # fmt: skip


def test_fingerprint_covers_what_changes_results_and_nothing_else():
    base = {**Config(preset="quick", device="cpu").to_dict(), "precision": "bfloat16", "native": True}
    assert set(OTHER) == {f.name for f in dataclasses.fields(Config)}
    trunk = dict.fromkeys(("branch_points", "cooldown"), {"schedule": "trunk"})
    remedy = dict.fromkeys(("strength", "teacher"), {"remedy": "distil"})
    gpu = dict.fromkeys(("deterministic", "compile"), {"device": "cuda"})
    beside = {"bpe_vocab_size": {"tokenizer": "bpe"}} | gpu | trunk | remedy  # they count
    for name, value in OTHER.items():
        first = {**base, **beside.get(name, {})}
        changed = Config.from_dict({**first, name: value})
        same = changed.fingerprint() == Config.from_dict(first).fingerprint()
        assert same == (name in NO_EFFECT_ON_RESULTS), name


LATER = {f.name for f in dataclasses.fields(Config) if f.metadata["before"] is not dataclasses.MISSING}


@pytest.mark.parametrize(
    ("beside", "name", "values", "same"),
    [
        ({"tokenizer": "char"}, "bpe_vocab_size", (1024, 600), True),
        ({"tokenizer": "bpe"}, "bpe_vocab_size", (1024, 600), False),
        ({"device": "cpu"}, "deterministic", (True, False), True),
        ({"device": "cuda:1"}, "deterministic", (True, False), False),
        ({"model": "lstm"}, "n_head", (2, 4), True),
        ({"model": "conv"}, "n_head", (2, 4), True),
        ({"model": "hybrid"}, "n_head", (2, 4), False),
        ({"teacher": ["t.pt"], "strength": 0.0}, "remedy", ("none", "distil"), True),
        ({"remedy": "warm", "strength": 0.0}, "teacher", (["t.pt"], ["u.pt"]), True),
        ({"remedy": "warm"}, "teacher", (["t.pt"], ["u.pt"]), False),
        ({"remedy": "distil"}, "strength", (0.5, 1.0), False),
        ({"remedy": "none"}, "strength", (0.5, 1.0), True),
        ({"dropout": 0.0}, "vary", (("init", "order", "dropout"), ("init", "order")), True),
        ({"dropout": 0.0}, "vary", (("init", "dropout"), ("init",)), True),
        ({"dropout": 0.0}, "vary", (("dropout",), ("none",)), True),
        ({"dropout": 0.0}, "vary", (("init", "order"), ("init",)), False),
        ({"dropout": 0.0}, "vary", (("bit",), ("none",)), False),
        ({"dropout": 0.1}, "vary", (("init", "order", "dropout"), ("init", "order")), False),
    ],
)
def test_settings_that_change_nothing_are_not_in_the_fingerprint(beside, name, values, same):
    first, second = (
        Config.from_dict({**Config(preset="smoke", device="cpu").to_dict(), **beside, name: value}) for value in values
    )
    assert (first.fingerprint() == second.fingerprint()) is same
    assert (name in first.differences(second)) is not same


def test_how_it_is_measured_is_not_how_it_was_trained():
    a = Config(preset="smoke", device="cpu")
    b = a.replace(eval_tokens=2048)
    assert a.fingerprint() != b.fingerprint()
    assert a.differences(b) == {"eval_tokens": (1024, 2048)} and not a.differences(b, weights=True)
    for name, value in {"eval_interval": 40, "probe_tokens": 256, "learning_rate": 1e-3}.items():
        assert a.differences(a.replace(**{name: value}), weights=True), name


def test_another_preset_is_named_first():
    smoke, quick = (Config(preset=preset, device="cpu") for preset in ("smoke", "quick"))
    assert quick.describe_differences(smoke).startswith("smoke there, quick now: preset='smoke' goes on with it; n_la")
    with command_line():
        assert quick.describe_differences(smoke).startswith("smoke there, quick now: --preset smoke goes on with it; ")
    named = Config(preset="quick", device="cpu", n_layer=7)  # which the other preset would leave as it is
    assert named.describe_differences(smoke).startswith("smoke there, quick now; n_layer=2 there, 7 now")
    assert "preset" not in smoke.replace(n_layer=7).describe_differences(smoke)


def test_settings_that_came_later_leave_older_fingerprints_valid():
    assert {"compile", "native"} <= LATER
    config = Config(preset="smoke", device="cpu", precision="float32")
    settings = {k: v for k, v in config.result_settings().items() if k not in LATER}
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    assert config.fingerprint() == hashlib.sha256(text.encode()).hexdigest()
    older = {k: v for k, v in config.to_dict().items() if k not in LATER}
    assert config.differences(older) == {}


def test_settings_that_are_gone_are_read_where_they_did_nothing():
    config = Config(preset="smoke", device="cpu", precision="float32")
    recorded = config.to_dict()
    for name, (idle, instead) in GONE.items():
        assert Config.from_dict({**recorded, name: idle}).fingerprint() == config.fingerprint()
        with pytest.raises(UserError, match=f"{name}=7: is recorded, but no longer a setting: {re.escape(instead)}"):
            Config.from_dict({**recorded, name: 7})


def test_a_flag_that_is_gone_says_what_to_do_instead(capsys):
    parser = Parser(prog="train.py")
    add_arguments(parser)
    for flag, words in (("--data-parallel", []), ("--data-parallel", ["4"]), ("--data-parallel=4", [])):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(["--n-layer", "2", flag, *words])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.count("\n") == 1
        assert said.startswith("train.py: --data-parallel: no longer a setting: ") and "torchrun" in said


@pytest.mark.parametrize("problem", [None, "there is no C++ compiler here"])
def test_native_is_resolved_to_what_can_be(monkeypatch, problem):
    """By default the kernels are used where they can be; asked for or recorded, they stay where they can't be made."""
    monkeypatch.setattr(toolchain, "problem", lambda: problem)
    fits = {"preset": "smoke", "device": "cpu", "precision": "bfloat16"}
    assert Config(**fits).native is (problem is None)
    assert Config(**fits, native=True).native and not Config(**fits, native=False).native
    for other in ({"precision": "float32"}, {"threads": 2}):
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
        if name == "compile":
            with pytest.raises(UserError, match="compile=True: is for CUDA"):
                _parse("--preset", "quick", "--device", "cpu", flag)
            continue
        if isinstance(value, bool):
            words = [flag if value else flag.replace("--", "--no-", 1)]
        elif isinstance(value, tuple):
            words = [flag, *map(str, value)]
        else:
            words = [flag, str(value)]
        assert getattr(_parse("--preset", "quick", "--device", "cpu", *words), name) == value, name


def test_trials_is_short_for_trials_per_activation():
    assert _parse("--trials", "8").trials_per_activation == 8


def test_whole_numbers_may_be_written_with_an_exponent():
    assert _parse("--max-iters", "1e3").max_iters == 1000
    with pytest.raises(UserError, match="max_iters='1.5e0'"):
        _parse("--max-iters", "1.5e0")


def test_study_puts_everything_under_its_name():
    config = Config(preset="smoke", device="cpu", study="wide")
    folders = (config.results_dir, config.plots_dir, config.checkpoint_dir)
    assert folders == tuple(f"studies/wide/{name}" for name in ("results", "plots", "checkpoints"))


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
