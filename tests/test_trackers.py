"""The sink for trackers of experiments, against a package that has their three calls and remembers them."""

import sys
import types

import pytest

import storage
from config import Config, UserError
from synthetic import synthetic_results
from tools.trackers import PACKAGES, Tracker


@pytest.fixture(params=PACKAGES)
def package(request, monkeypatch):
    """A stand-in: `runs` [{name, group, config, logged {step: values}, finished}]."""
    module = types.ModuleType(request.param)
    module.runs = []

    class Run:
        def log(self, values, step):
            module.runs[-1]["logged"].setdefault(step, {}).update(values)

        def finish(self):
            module.runs[-1]["finished"] = True

    def init(project, group, name, config):
        assert all(run["finished"] for run in module.runs)  # one at a time
        one = {"project": project, "group": group, "name": name, "config": config, "logged": {}, "finished": False}
        module.runs.append(one)
        return Run()

    module.init = init
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


@pytest.fixture
def config(tmp_path):
    return Config(preset="smoke", device="cpu", results_dir=str(tmp_path))


def tracker(package, config, said=None):
    return Tracker(package.__name__, config, (said if said is not None else []).append)


def test_every_point_of_every_trial_is_logged(package, config):
    results = synthetic_results("relu")
    tracker(package, config).finished(results)
    assert [run["name"] for run in package.runs] == ["relu/trial_1", "relu/trial_2", "relu/trial_3", "relu"]
    assert all(run["finished"] and run["group"] == "relu" for run in package.runs)
    for run, trial in zip(package.runs, results["trials"], strict=False):
        assert list(run["logged"]) == trial["steps"]
        losses = [values["loss/validation"] for values in run["logged"].values()]
        assert losses == trial["val_loss_history"]
        assert run["config"]["seed"] == trial["seed"] and run["config"]["n_layer"] == config.n_layer
    last = package.runs[-1]["logged"][results["divergence"]["steps"][-1]]
    assert last["final/avg_relative_pd"] == results["avg_relative_pd"]
    pds = [pair["relative_pd"][-1] for pair in results["divergence"]["pairs"].values()]
    assert last["relative_pd/mean_of_pairs"] == pytest.approx(sum(pds) / len(pds))


def test_the_same_results_are_logged_once(package, config):
    results = synthetic_results("relu")
    tracker(package, config).finished(results)
    tracker(package, config).finished(results)
    assert len(package.runs) == 4
    tracker(package, config).finished(synthetic_results("relu", n_trials=4))
    tracker(package, config).finished(synthetic_results("gelu"))
    assert len(package.runs) == 4 + 5 + 4


def test_a_tracker_that_fails_is_told_once_and_stops_nothing(package, config):
    said = []
    sink = tracker(package, config, said)

    def refuse(**options):
        raise ConnectionError("no route\nto host")

    package.init = refuse
    sink.finished(synthetic_results("relu"))
    sink.finished(synthetic_results("gelu"))
    assert said == [f"{package.__name__}: no route to host; going on without it"]
    assert not storage.Path(config.results_dir, f".{package.__name__}.json").exists()


def test_what_is_missing_or_unknown_is_a_user_error(config, monkeypatch):
    with pytest.raises(UserError, match="track='mlflow': must be one of wandb, trackio"):
        Tracker("mlflow", config, print)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install wandb"):
        Tracker("wandb", config, print)


def test_a_study_is_tracked_as_it_is_trained(package, smoke_config):
    from train import run_study

    config = smoke_config.replace(workers=1, trials_per_activation=2)
    run_study(config, ["relu"], quiet=True, track=package.__name__)
    assert [run["name"] for run in package.runs] == ["relu/trial_1", "relu/trial_2", "relu"]
    run_study(config, ["relu"], quiet=True, track=package.__name__)
    assert len(package.runs) == 3
    with pytest.raises(UserError, match="track='mlflow'"):
        run_study(config, ["relu"], quiet=True, track="mlflow")


def test_a_tracker_that_fails_fails_the_command_in_the_end(package, smoke_config):
    from train import run_study

    del package.init
    with pytest.raises(storage.StorageError, match=package.__name__):
        run_study(
            smoke_config.replace(workers=1, trials_per_activation=1), ["relu"], quiet=True, track=package.__name__
        )
    assert storage.results_path(smoke_config.results_dir, "relu").exists()
