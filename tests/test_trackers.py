"""What TensorBoard, Weights & Biases and Trackio show is what the results say: read back by TensorBoard's own reader,
and from a package that has the trackers' calls and remembers them."""

import itertools
import os
import socket
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import audit
import questions
import significance
import storage
import train
from config import Config, UserError
from questions.sources import command as decompose
from questions.sources import draw as drawing
from synthetic import synthetic_results
from test_train import comparable
from tools import trackers
from tools.trackers import CURVES, MEANS, PACKAGES, Sink, Tracker
from training import experiment, pool
from training import trial as trials

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def shown(reader):
    """{tag: [(step, value)]}, having read on."""
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def reader(*run):
    return accumulators.EventAccumulator(str(Path(*map(str, run))))


def read(*run):
    """The curves that a TensorBoard that is started now shows of a run."""
    return {tag: points for tag, points in shown(reader(*run)).items() if not tag.startswith("final/")}


def curves(record):
    """{tag: [(step, value)]} of a trial in the results, in TensorBoard's float32, from where each was measured."""
    points = {
        tag: [(step, float(np.float32(x))) for step, x in zip(record["steps"], record[key], strict=True)]
        for key, tag, _ in CURVES.values()
    }
    return {**points, "gradient_norm": points["gradient_norm"][1:]}


def files(log):
    return sorted(path for path in Path(log).rglob("events.*") if path.is_file())


def check_study(log, *all_results):
    for results in all_results:
        for record in results["trials"]:
            found = read(log, storage.file_name(results["activation"]), f"trial_{record['trial_id']}")
            assert found == curves(record)
            for curve in found.values():
                assert all(a < b for (a, _), (b, _) in itertools.pairwise(curve))


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(trials_per_activation=2, snapshot_seconds=0.0, workers=1)


@pytest.fixture
def quick(monkeypatch):
    """run_study in this process, without figures and the audit before training."""
    monkeypatch.setattr(train, "_draw", lambda *_: None)
    monkeypatch.setattr(train, "_compare", lambda *_: None)
    monkeypatch.setattr(drawing, "plot_sources", lambda *_, **__: None)
    monkeypatch.setattr(audit, "before_study", lambda config, names, *_: {name: [] for name in names})
    monkeypatch.setattr(pool, "run_trials", pool.run_here)
    monkeypatch.setattr(pool, "Crew", lambda *_: None)


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


# -- TensorBoard ------------------------------------------------------------------------------------------------------


def test_curves_are_those_of_the_results_and_training_is_untouched(quick, config, tmp_path):
    log, names = tmp_path / "log", ["relu", "smelu_05"]
    found = train.run_study(config, names, quiet=True, tensorboard=log)
    check_study(log, *found.values())
    for name, results in found.items():
        of_all = shown(reader(log, name))
        pds = [pair["relative_pd"] for pair in results["divergence"]["pairs"].values()]
        steps, values = zip(*of_all["relative_pd/mean_of_pairs"], strict=True)
        assert list(steps) == results["divergence"]["steps"]
        assert values == pytest.approx(np.mean(pds, 0), rel=1e-6)
        for key in MEANS:
            assert of_all[f"final/{key}"] == [(60, float(np.float32(results[key])))]
        of_one = shown(reader(log, name, "trial_2"))
        assert of_one["final/relative_pd"] == [(60, pytest.approx(results["avg_relative_pd"]))]
        assert of_one["final/val_loss"] == [(60, pytest.approx(results["trials"][1]["val_loss"]))]
    folders = {f"{kind}_dir": str(tmp_path / "without" / kind) for kind in ("results", "plots", "checkpoint")}
    without = train.run_study(config.replace(**folders), names, quiet=True)
    assert comparable(without) == comparable(found)


def test_a_run_says_its_settings_its_seed_and_its_units(quick, config, tmp_path):
    train.run_study(config, ["relu"], quiet=True, tensorboard=tmp_path / "log")
    found = reader(tmp_path / "log", "relu", "trial_2")
    found.Reload()
    assert "nats per token" in found.SummaryMetadata("loss/validation").summary_description
    hparams = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for words in (b"activation", b"relu", b"seed", b"fingerprint", config.fingerprint().encode()):
        assert words in hparams


def test_done_trials_are_logged_once(quick, config, tmp_path):
    log = tmp_path / "log"
    train.run_study(config, ["relu"], quiet=True)
    results, _, _ = train.run_experiment(config, "relu", quiet=True, tensorboard=str(log))
    check_study(log, results)
    before = {path: path.stat().st_mtime_ns for path in files(log)}
    train.run_study(config, ["relu"], quiet=True, tensorboard=log)
    assert {path: path.stat().st_mtime_ns for path in files(log)} == before
    more = config.replace(trials_per_activation=3)
    check_study(log, train.run_study(more, ["relu"], quiet=True, tensorboard=log)["relu"])
    old = [path for path in before if "trial_" in str(path)]
    assert {path: path.stat().st_mtime_ns for path in files(log) if path in old} == {path: before[path] for path in old}


@pytest.mark.parametrize("lost", [0, 1])
def test_resumed_trials_show_one_curve(lost, quick, config, tmp_path):
    """Stopped twice; with `lost`, the snapshot is older than what was logged, as after a power cut."""
    log = tmp_path / "log"
    onlooker = accumulators.EventAccumulator(str(log / "relu" / "trial_1"))
    seen = []
    for at in (40, 50):
        interrupted(config, ["relu"], at, tensorboard=log)
        time.sleep(1.1)  # files of one second are in no order
        seen.append(read(log, "relu", "trial_1"))
        assert shown(onlooker) == seen[-1]
        for path in storage.snapshot_paths(config.checkpoint_dir, "relu", 1)[:lost]:
            path.unlink()
    found = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    for points in seen:
        assert points == {tag: [p for p in curve if p[0] <= 40] for tag, curve in curves(found["trials"][0]).items()}
    check_study(log, found)


def test_trained_anew_with_other_settings_nothing_old_is_left(quick, config, tmp_path):
    log = tmp_path / "log"
    old = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    check_study(log, old)
    changed = config.replace(learning_rate=0.005)
    interrupted(changed, ["relu"], 30, overwrite=True, tensorboard=log)
    partly = read(log, "relu", "trial_1")
    new = train.run_study(changed, ["relu"], quiet=True, tensorboard=log)["relu"]
    assert partly == {tag: [p for p in curve if p[0] <= 20] for tag, curve in curves(new["trials"][0]).items()}
    assert curves(new["trials"][0]) != curves(old["trials"][0])
    check_study(log, new)


def test_another_experiment_in_the_same_log_is_not_mixed_in(quick, config, tmp_path):
    """Two studies that were given one folder, one of them going on from a snapshot."""
    folders = {"checkpoint_dir": str(tmp_path / "c"), "results_dir": str(tmp_path / "r")}
    log, other = tmp_path / "log", config.replace(seed_base=7, **folders)
    interrupted(config, ["relu"], 30)
    train.run_study(other, ["relu"], quiet=True, tensorboard=log)
    interrupted(config, ["relu"], 50, tensorboard=log)
    partly = read(log, "relu", "trial_1")
    results = train.run_study(config, ["relu"], quiet=True, tensorboard=log)["relu"]
    assert partly == {tag: [p for p in curve if p[0] == 40] for tag, curve in curves(results["trials"][0]).items()}
    check_study(log, results)


def test_studies_and_sources_have_runs_of_their_own(config, tmp_path):
    """`relu` is that of the study for the source `all`, and below sources/ for each other one."""
    said = {}

    def run_study(config, names, below, **options):
        said["/".join(config.vary)] = Sink(trackers.TensorBoard(tmp_path), config, below, print)._name(names[0])
        return {names[0]: synthetic_results(names[0])}

    decompose.decompose(config.replace(study="small", plots_dir=str(tmp_path)), "relu", run_study)
    below = {"init": "sources/init/", "order": "sources/order/", "bit": "sources/bit/", "init/order/dropout": ""}
    assert said == {vary: f"small/{folder}relu" for vary, folder in below.items()}


def test_names_of_import_paths_and_diverged_trials(quick, config, tmp_path, monkeypatch):
    log, one_step = tmp_path / "log", trials.Training.one_step

    def spoiled(self, step):
        loss = one_step(self, step)
        return loss * torch.nan if self.trial == 2 and step == 44 else loss

    monkeypatch.setattr(trials.Training, "one_step", spoiled)
    results = train.run_study(config, ["torch.nn:Softsign"], quiet=True, tensorboard=log)["torch.nn:Softsign"]
    assert results["trials"][1]["steps"] == [0, 20, 40]
    check_study(log, results)
    assert {path.name for path in log.iterdir()} == {"torch.nn--Softsign", ".logged.json"}
    assert "relative_pd/mean_of_pairs" not in read(log, "torch.nn--Softsign")


# -- when it can't be written -----------------------------------------------------------------------------------------


def flags(config, *more):
    values = {k: v for k, v in config.to_dict().items() if v is not None and not isinstance(v, (list, bool))}
    return ["--activation", "relu", *more, *(f"--{k.replace('_', '-')}={v}" for k, v in values.items())]


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
    assert train.main(flags(config, "--tensorboard", str(log))) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith(f"train.py: tensorboard={str(log)!r}: ") and not out
    assert "pip install tensorboard" in err or why != "no package"
    assert not Path(config.checkpoint_dir).exists()


def test_no_package_is_asked_for_without_the_option(quick, config, monkeypatch):
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    assert train.run_study(config, ["relu"], quiet=True)["relu"]["trials"]


def test_a_full_disk_stops_the_log_and_not_the_command(quick, config, tmp_path, capsys, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self, data):
        raise OSError("the disk is full")

    log = tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        assert train.main(flags(config, "--tensorboard", str(log), "--quiet")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "tensorboard: " in line and "going on without it: the same command logs what is missing" in line
    results = storage.read_results(storage.results_path(config.results_dir, "relu"))
    assert len(results["trials"]) == 2
    assert train.main(flags(config, "--tensorboard", str(log), "--quiet")) == 0  # now that there is room
    check_study(log, results)


# -- Weights & Biases, Trackio ----------------------------------------------------------------------------------------


@pytest.fixture(params=PACKAGES)
def package(request, monkeypatch):
    """A stand-in: `runs` [{name, id, group, config, project, logged {step: values}, finished}], in which a run that is
    opened again is the same one, and steps only go up."""
    module = types.ModuleType(request.param)
    module.runs, module.logins = [], []

    class Run:
        def __init__(self, record):
            self.record = record

        def log(self, values, step):
            if step >= max(self.record["logged"], default=0):
                self.record["logged"].setdefault(step, {}).update(values)

        def finish(self):
            self.record["finished"] = True

    def init(project, group, name, config, id=None, **options):
        assert options["resume"] == "allow"
        known = [run for run in module.runs if (run["id"], run["name"]) == (id, name)]
        record = {"project": project, "group": group, "name": name, "id": id, "config": config, "options": options}
        if not known:
            module.runs.append({**record, "logged": {}, "finished": False})
        return Run((known or module.runs[-1:])[0])

    module.init, module.login = init, lambda **options: module.logins.append(options)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: types.SimpleNamespace(close=lambda: None))
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return module


@pytest.fixture
def plain(tmp_path):
    return Config(preset="smoke", device="cpu", results_dir=str(tmp_path))


def sink(package, config, said=None):
    say = (said if said is not None else []).append
    return Sink(Tracker(package.__name__, say), config, None, say)


def names(package):
    """Of the runs, without the marks by which Trackio knows them."""
    return [run["name"].rpartition(" ")[0] if run["id"] is None else run["name"] for run in package.runs]


def test_every_point_of_every_trial_is_logged(package, plain):
    results = synthetic_results("relu")
    sink(package, plain).finished(results)
    assert names(package) == ["relu/trial_1", "relu/trial_2", "relu/trial_3", "relu, 3 trials"]
    assert all(run["finished"] and run["group"] == "relu" for run in package.runs)
    for run, trial in zip(package.runs, results["trials"], strict=False):
        assert list(run["logged"]) == trial["steps"]
        losses = [values["loss/validation"] for values in run["logged"].values()]
        assert losses == trial["val_loss_history"]
        assert "gradient_norm" not in run["logged"][0] and "gradient_norm" in run["logged"][trial["steps"][1]]
        expected = {"activation": "relu", "seed": trial["seed"], "trial": trial["trial_id"], "n_layer": plain.n_layer}
        assert expected.items() <= run["config"].items()
        own = [
            p["relative_pd"] for p in results["reproducibility_metrics"] if f"{trial['trial_id']}" in p["model_pair"]
        ]
        assert run["logged"][trial["steps"][-1]]["final/relative_pd"] == pytest.approx(np.mean(own))
    last = package.runs[-1]["logged"][results["divergence"]["steps"][-1]]
    assert last["final/avg_relative_pd"] == results["avg_relative_pd"]
    pds = [pair["relative_pd"][-1] for pair in results["divergence"]["pairs"].values()]
    assert last["relative_pd/mean_of_pairs"] == pytest.approx(sum(pds) / len(pds))
    values = [p["relative_pd"] for p in results["reproducibility_metrics"]]
    matrix = np.zeros((3, 3))
    matrix[np.triu_indices(3, 1)] = values
    _, low, high = significance.mean_pd_interval(matrix + matrix.T)
    assert (last["final/pd_low"], last["final/pd_high"]) == (low, high)


def test_each_trial_is_logged_once(package, plain):
    sink(package, plain).finished(synthetic_results("relu"))
    sink(package, plain).finished(synthetic_results("relu"))
    assert len(package.runs) == 4
    sink(package, plain).finished(synthetic_results("relu", n_trials=4))
    assert names(package)[4:] == ["relu/trial_4", "relu, 4 trials"]
    sink(package, plain).finished(synthetic_results("gelu"))
    assert len(package.runs) == 4 + 2 + 4
    changed = synthetic_results("relu")
    changed["trials"][1]["weights_sha256"] = "trained anew"
    sink(package, plain).finished(changed)
    assert names(package)[10:] == ["relu/trial_2", "relu, 3 trials"]
    assert len({(run["id"], run["name"]) for run in package.runs}) == len(package.runs)


def test_a_tracker_that_fails_is_told_once_and_stops_nothing(package, plain):
    said = []
    one = sink(package, plain, said)

    def refuse(**options):
        raise ConnectionError("no route\nto host")

    package.init = refuse
    one.finished(synthetic_results("relu"))
    one.finished(synthetic_results("gelu"))
    (line,) = said
    assert line.startswith(f"{package.__name__}: no route to host; going on without it")


def test_what_is_missing_or_unknown_is_a_user_error(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="track='mlflow': must be one of wandb, trackio"):
        Tracker("mlflow", print)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install wandb"):
        Tracker("wandb", print)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # a folder that runs left
    with pytest.raises(UserError, match=r"pip install wandb"):
        Tracker("wandb", print)


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_login_project_and_a_server_out_of_reach(package, plain, monkeypatch):
    said = []
    assert Tracker("wandb", said.append).more.get("mode") is None and package.logins == [{"verify": True}]

    def no_key(**_):
        raise RuntimeError("No API key configured.\nUse `wandb login`")

    package.login = no_key
    with pytest.raises(UserError, match=r"No API key configured. Use `wandb login`; or keep .* WANDB_MODE=offline"):
        Tracker("wandb", said.append)
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        Tracker("wandb", said.append)
    assert not said

    def refuse(*_, **__):
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    Sink(Tracker("wandb", said.append), plain, "a/b", said.append).finished(synthetic_results("relu"))
    assert said == [
        "wandb: api.wandb.ai can't be reached (unreachable); runs are kept offline, `wandb sync` sends them"
    ]
    assert {run["project"] for run in package.runs} == {"mine"} and package.runs[0]["name"] == "a/b/relu/trial_1"
    assert package.runs[0]["options"]["mode"] == "offline"
    assert package.runs[0]["options"]["settings"]["finish_timeout"] == trackers.SECONDS


def test_a_study_is_tracked_as_it_is_trained(package, quick, config, monkeypatch):
    live = []
    finish = experiment.finish

    def seen(*given, **options):
        live.append({name: sorted(run["logged"]) for name, run in zip(names(package), package.runs, strict=True)})
        return finish(*given, **options)

    monkeypatch.setattr(experiment, "finish", seen)
    found = train.run_study(config, ["relu"], quiet=True, track=package.__name__)["relu"]
    assert live == [{f"relu/trial_{k}": found["trials"][0]["steps"] for k in (1, 2)}]
    assert names(package) == ["relu/trial_1", "relu/trial_2", "relu, 2 trials"]
    assert all(run["finished"] for run in package.runs)
    train.run_study(config, ["relu"], quiet=True, track=package.__name__)
    assert len(package.runs) == 3


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_an_interrupted_trial_is_one_run(package, quick, config):
    interrupted(config, ["relu"], 40, track="wandb")
    assert package.runs[0]["finished"] and list(package.runs[0]["logged"]) == [0, 20, 40]
    found = train.run_study(config, ["relu"], quiet=True, track="wandb")["relu"]
    assert names(package) == ["relu/trial_1", "relu/trial_2", "relu, 2 trials"]
    losses = [values["loss/validation"] for values in package.runs[0]["logged"].values()]
    assert losses == found["trials"][0]["val_loss_history"]


# -- options and modes ------------------------------------------------------------------------------------------------

MODE_FLAGS = {
    train._train: [],
    **{mode: [mode.flag] for mode in questions.hooks("MODES")},
    train._audit: ["--audit-only"],
    train._status: ["--status"],
    train._sample: ["--sample", "relu"],
    train._list_activations: ["--list-activations"],
    train._list_models: ["--list-models"],
    train._list_datasets: ["--list-datasets"],
}
VALUES = {"prompt": ["To"], "budget": ["30m"], "margin": ["5"], "tensorboard": ["log"], "track": ["trackio"]}
VALUES |= {"activation": ["relu"], "forks": ["0"]}


@pytest.mark.parametrize("option", train.acts_in())
@pytest.mark.parametrize("mode", MODE_FLAGS)
def test_an_option_that_is_accepted_acts_and_any_other_is_refused(option, mode, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = {}
    monkeypatch.setattr(train, "run_study", lambda config, names, **options: given.update(options) or {})
    monkeypatch.setattr(train, "run_until_decided", lambda *args, **options: given.update(options, args=args))
    monkeypatch.setattr(decompose, "decompose", lambda *args, **options: given.update(options))
    monkeypatch.setattr(decompose, "print_table", lambda *_: None)
    arguments = [*MODE_FLAGS[mode], f"--{option.replace('_', '-')}", *VALUES.get(option, [])]
    if mode not in train.acts_in()[option]:
        assert train.main(arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and f"--{option.replace('_', '-')}: is for " in err
    elif option in ("tensorboard", "track"):
        assert train.main([*arguments, "--dataset", str(tmp_path)]) == 0
        assert given[option] == VALUES[option][0]


def test_every_mode_and_option_is_in_the_table():
    """An option that changes no setting says where it acts."""
    parser = train._parser()
    modes = {action.const for action in parser._actions if action.dest == "mode"} | {train._sample, train._train}
    assert modes == set(MODE_FLAGS)
    of_config = set(Config().to_dict())
    options = {action.dest for action in parser._actions} - of_config - {"help", "mode", "sample"}
    assert options - {"quiet", "like", "config", "replicate"} - {o for o in options if o in of_config} >= set(
        train.acts_in()
    )
