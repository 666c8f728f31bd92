"""What a named study remembers: written at its first run, gone on with by its name alone, contradicted by no flag."""

import pytest

import train
from config import Config, UserError, read_toml
from tools import study_file
from training import pool

SMALL = ["--preset", "smoke", "--device", "cpu", "--precision", "float32", "--max-iters", "4", "--warmup-iters", "1"]
SMALL += ["--learning-rate", "0.005"]


@pytest.fixture
def command(tmp_path, monkeypatch, corpus_file, data_dir):
    """train.main in a folder of its own, without audits and figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("audit.before_study", lambda config, names, *_: {name: [] for name in names})
    monkeypatch.setattr(pool, "run_trials", pool.run_here)
    monkeypatch.setattr(pool, "Crew", lambda *_: None)
    for name in ("_draw", "_compare"):
        monkeypatch.setattr(train, name, lambda *_: None)

    def run(*words):
        return train.main(["--data-dir", str(data_dir), *map(str, words)])

    run.first = [*SMALL, "--dataset", corpus_file, "--activation", "relu", "--trials", 1, "--study", "paper"]
    return run


def test_a_study_is_gone_on_with_by_its_name(command, tmp_path, capsys):
    assert command(*command.first, "--branch-points", "0.5", "1", "--vary", "init", "order") == 0
    path = tmp_path / "studies/paper/study.toml"
    remembered = read_toml(path)
    assert (
        remembered["max_iters"] == 4 and remembered["branch_points"] == [0.5, 1.0] and remembered["preset"] == "smoke"
    )
    assert remembered["activation"] == ["relu"] and remembered["trials_per_activation"] == 1
    assert "n_layer" not in remembered and "results_dir" not in remembered
    capsys.readouterr()
    assert command("--study", "paper") == 0
    out, err = capsys.readouterr()
    assert "studies/paper/study.toml: going on with preset=smoke, " in out and "max_iters=4" in out and not err
    assert read_toml(path) == remembered
    assert command("--study", "paper", "--trials", 2, "--activation", "gelu") == 0  # more of it
    assert read_toml(path)["activation"] == ["relu", "gelu"] and read_toml(path)["trials_per_activation"] == 2
    assert Config.from_toml(path).max_iters == 4


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--max-iters", "5"], ["max_iters=4 there, 5 now", "leave --max-iters 5 out", "--study NAME"]),
        (["--preset", "quick"], ["preset='smoke' there, 'quick' now"]),
        (["--dropout", "0.25"], ["dropout=0.0 there, 0.25 now"]),
        (["--baseline", "gelu"], ["baseline=", "python analyze_results.py --study paper --baseline gelu"]),
        (["--learning-rate", "0.25"], ["learning_rate=0.005 there, 0.25 now"]),
    ],
)
def test_a_flag_that_contradicts_is_refused(command, capsys, flags, said):
    assert command(*command.first) == 0
    capsys.readouterr()
    assert command("--study", "paper", *flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("train.py: studies/paper/study.toml: ") and err.count("\n") == 1
    assert all(part in err for part in said), err
    assert command("--study", "paper", "--max-iters", "4", "--learning-rate", "5e-3") == 0  # the same again


def test_what_is_refused_is_not_remembered(command, tmp_path):
    assert command(*command.first, "--model", "nowhere") == 2
    assert not (tmp_path / "studies/paper/study.toml").exists()


def test_the_config_flag_takes_every_name_of_the_command_line(command, tmp_path):
    text = 'preset = "smoke"\ndevice = "cpu"\ntrials = 1\nactivation = "relu gelu"\nstudy = "other"\nmax_iters = 4\n'
    (tmp_path / "mine.toml").write_text(f"{text}warmup_iters = 1\nbaseline = 'gelu'\n", encoding="utf-8")
    assert command("--config", "mine.toml", *command.first[len(SMALL) :][:4]) == 0  # the flags beside it win
    remembered = read_toml(study_file.path_of("other"))
    assert remembered["activation"] == ["relu"] and remembered["max_iters"] == 4 and remembered["baseline"] == "gelu"
    with pytest.raises(UserError, match=r"mine.toml: unknown setting 'activations'"):
        (tmp_path / "mine.toml").write_text("activations = 'relu'\n", encoding="utf-8")
        read_toml("mine.toml")
