"""What TensorBoard shows is what the results say: read back by TensorBoard's own reader."""

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import plot_utils
import storage
import train
from config import UserError
from questions.sources import command as decompose
from test_train import comparable
from training import experiment, pool
from training import trial as trials

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
HISTORIES = {
    "loss/train": "train_loss_history",
    "loss/validation": "val_loss_history",
    "learning_rate": "learning_rate_history",
    "gradient_norm": "grad_norm_history",
}


def shown(reader):
    """{tag: [(step, value)]}, having read on."""
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def read(*run):
    """What a TensorBoard that is started now shows of a run."""
    return shown(accumulators.EventAccumulator(str(Path(*map(str, run)))))


def curves(record, skip_first=False):
    """{tag: [(step, value)]} of a trial in the results, in TensorBoard's float32."""
    points = {
        tag: [(step, float(np.float32(x))) for step, x in zip(record["steps"], record[key], strict=True)]
        for tag, key in HISTORIES.items()
    }
    return {tag: curve[skip_first:] for tag, curve in points.items()}


def files(log):
    return sorted(path for path in Path(log).rglob("*") if path.is_file())


def check_study(log, *all_results):
    for results in all_results:
        for record in results["trials"]:
            found = read(log, storage.file_name(results["activation"]), f"trial_{record['trial_id']}")
            assert found == curves(record)
            for curve in found.values():
                assert all(a < b for (a, _), (b, _) in itertools.pairwise(curve))


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(trials_per_activation=2, snapshot_seconds=0.0)


@pytest.fixture
def quick(monkeypatch):
    """run_study in this process, without figures and the audit before training."""
    for name in ("training_curves", "reproducibility_metrics", "summary_metrics", "divergence"):
        monkeypatch.setattr(plot_utils, f"plot_{name}", lambda *_, **__: None)
    monkeypatch.setattr(plot_utils, "plot_comparisons", lambda *_, **__: [])
    monkeypatch.setattr(experiment, "audit_before", lambda config, names, *_: {name: [] for name in names})
    monkeypatch.setattr(pool, "run_trials", pool.run_here)


def interrupted(config, names, at, **options):
    """Begin a study and stop its first trial at the step `at`, as Ctrl-C does."""
    steps = []

    def run(config, tasks, report, workers):
        def note(event):
            steps.append(event.get("step", 0))
            report(event)

        return pool.run_here(config, tasks, note, stop=lambda: bool(steps) and steps[-1] >= at)

    with pytest.raises(KeyboardInterrupt):
        train.run_study(config, names, quiet=True, run=run, **options)


def test_curves_are_those_of_the_results_and_training_is_untouched(config, tmp_path):
    log, names = tmp_path / "log", ["relu", "smelu_05"]
    found = train.run_study(config, names, quiet=True, tensorboard=log)
    check_study(log, *found.values())
    for name, results in found.items():
        shown = read(log, name)
        pds = [pair["relative_pd"] for pair in results["divergence"]["pairs"].values()]
        steps, values = zip(*shown["relative_pd/mean_of_pairs"], strict=True)
        assert list(steps) == results["divergence"]["steps"]
        assert values == pytest.approx(np.mean(pds, 0), rel=1e-6)
        for key in ("avg_relative_pd", "avg_val_loss", "avg_train_loss", "avg_training_time"):
            assert shown[f"final/{key}"] == [(60, float(np.float32(results[key])))]
    folders = {f"{kind}_dir": str(tmp_path / "without" / kind) for kind in ("results", "plots", "checkpoint")}
    without = train.run_study(config.replace(**folders), names, quiet=True)
    assert comparable(without) == comparable(found)


def test_done_trials_are_logged_once(quick, config, tmp_path):
    log = tmp_path / "log"
    train.run_study(config, ["relu"], quiet=True)
    results, _, _ = train.run_experiment(config, "relu", quiet=True, tensorboard=str(log))
    check_study(log, results)
    before = {path: path.stat().st_mtime_ns for path in files(log)}
    train.run_study(config, ["relu"], quiet=True, tensorboard=log)
    assert {path: path.stat().st_mtime_ns for path in files(log)} == before
    for trials_wanted in (3, 4, 5):
        more = config.replace(trials_per_activation=trials_wanted)
        check_study(log, train.run_study(more, ["relu"], quiet=True, tensorboard=log)["relu"])
        for folder in [path for path in (log / "relu").rglob("*") if path.is_dir()]:
            assert len([path for path in folder.iterdir() if path.is_file()]) <= 2


@pytest.mark.parametrize("lost", [0, 1])
def test_resumed_trials_show_one_curve(lost, quick, config, tmp_path):
    """Stopped twice; with `lost`, the snapshot is older than what was logged, as after a power cut."""
    log = tmp_path / "log"
    onlooker = accumulators.EventAccumulator(str(log / "relu" / "trial_1"))
    seen = []
    for at in (40, 50):
        interrupted(config, ["relu"], at, tensorboard=log)
        seen.append(read(log, "relu", "trial_1"))
        assert shown(onlooker) == seen[-1]
        for path in storage.snapshot_paths(config.checkpoint_dir, "relu", 1)[:lost]:
            path.unlink()
    found = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    for points in seen:  # while it trains all is there but the point before the first step
        assert points == {
            tag: [p for p in curve if 0 < p[0] <= 40] for tag, curve in curves(found["trials"][0]).items()
        }
    check_study(log, found)
    assert shown(onlooker) == curves(found["trials"][0])
    for folder in (log / "relu" / "trial_1", log / "relu" / "trial_2", log / "relu"):
        assert len([path for path in folder.iterdir() if path.is_file()]) <= 3


def test_a_log_that_ends_in_half_a_record(quick, config, tmp_path):
    log = tmp_path / "log"
    interrupted(config, ["relu"], 40, tensorboard=log)
    (file,) = files(log)
    with open(file, "rb+") as f:
        f.truncate(file.stat().st_size - 7)
    check_study(log, train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"])


def test_trained_anew_with_other_settings_nothing_old_is_left(quick, config, tmp_path):
    log = tmp_path / "log"
    old = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    check_study(log, old)
    changed = config.replace(learning_rate=0.005)
    interrupted(changed, ["relu"], 30, overwrite=True, tensorboard=log)
    partly = read(log, "relu", "trial_1")
    new = train.run_study(changed, ["relu"], quiet=True, tensorboard=log)["relu"]
    assert partly == {tag: curve[1:2] for tag, curve in curves(new["trials"][0]).items()}
    assert curves(new["trials"][0]) != curves(old["trials"][0])
    check_study(log, new)


def test_another_experiment_in_the_same_log_is_not_mixed_in(quick, config, tmp_path):
    """Two studies that were given one folder, one of them going on from a snapshot."""
    log, other = (
        tmp_path / "log",
        config.replace(seed_base=7, checkpoint_dir=str(tmp_path / "c"), results_dir=str(tmp_path / "r")),
    )
    interrupted(config, ["relu"], 30)
    train.run_study(other, ["relu"], quiet=True, tensorboard=log)
    interrupted(config, ["relu"], 50, tensorboard=log)
    partly = read(log, "relu", "trial_1")
    results = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    assert partly == {tag: curve[2:3] for tag, curve in curves(results["trials"][0]).items()}
    check_study(log, results)


def test_studies_and_sources_have_runs_of_their_own(quick, config, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setattr(plot_utils, "plot_sources", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    train.run_study(config.replace(study="small"), ["relu"], quiet=True, tensorboard="log")
    decompose.decompose(config.replace(study="small"), "relu", train.run_study, quiet=True, tensorboard="log")
    below = ["", "/sources/init", "/sources/order", "/sources/bit"]
    folders = {str(path.parent.relative_to(log)) for path in files(log)}
    assert folders == {f"small{part}/relu{run}" for part in below for run in ("", "/trial_1", "/trial_2")}


def test_names_of_import_paths(quick, config, tmp_path):
    log = tmp_path / "log"
    results = train.run_study(config, ["torch.nn:Softsign"], quiet=True, tensorboard=log)["torch.nn:Softsign"]
    check_study(log, results)
    assert {path.name for path in log.iterdir()} == {"torch.nn--Softsign"}


def test_diverged_trials_end_where_they_did(quick, config, tmp_path, monkeypatch):
    log, one_step = tmp_path / "log", trials.Training.one_step

    def spoiled(self, step):
        loss = one_step(self, step)
        return loss * torch.nan if self.trial == 2 and step == 44 else loss

    monkeypatch.setattr(trials.Training, "one_step", spoiled)
    results = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    assert results["trials"][1]["steps"] == [0, 20, 40]
    check_study(log, results)
    assert "relative_pd/mean_of_pairs" not in read(log, "relu")


# -- when it can't be written ---------------------------------------------------------------------------------------


def flags(config, log):
    values = {k: v for k, v in config.to_dict().items() if v is not None and not isinstance(v, (list, bool))}
    return [
        "--activation",
        "relu",
        "--tensorboard",
        str(log),
        *(f"--{k.replace('_', '-')}={v}" for k, v in values.items()),
    ]


@pytest.mark.parametrize("why", ["no package", "no name", "a file", "below a file", "read-only"])
def test_what_can_not_be_logged_is_said_before_anything_is_trained(why, config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pool, "run_trials", lambda *_: pytest.fail("trained"))
    log = tmp_path / "log"
    if why == "no package":
        monkeypatch.setitem(sys.modules, "tensorboard", None)
    elif why == "no name":
        log = ""
    elif why == "read-only":
        monkeypatch.setattr(os, "access", lambda *_: False)
    else:
        log.touch()
        log = log / "below" if why == "below a file" else log
    assert train.main(flags(config, log)) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith(f"train.py: tensorboard={str(log)!r}: ") and not out
    assert "pip install tensorboard" in err or why != "no package"
    assert not Path(config.checkpoint_dir).exists()
    with pytest.raises(UserError):
        train.run_experiment(config, "relu", tensorboard=log)


def test_the_package_is_not_asked_for_without_the_option(quick, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert train.run_study(config, ["relu"], quiet=True)["relu"]["trials"]


def test_a_full_disk_stops_the_log_and_not_the_training(quick, config, tmp_path, capsys, monkeypatch):
    def full(path, data):
        raise storage.StorageError(f"{path}: the disk is full")

    log = tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "append_bytes", full)
        assert train.main([*flags(config, log), "--quiet"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("the disk is full" in line for line in lines)
    assert "going on without the log" in lines[0]
    results = storage.read_results(storage.results_path(config.results_dir, "relu"))
    assert len(results["trials"]) == 2 and not files(log)
    assert train.main([*flags(config, log), "--quiet"]) == 0  # the same command, now that there is room
    check_study(log, results)
