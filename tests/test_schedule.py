"""The learning rate, the order of a trial's steps, and branches that are the models of shorter trainings."""

import math

import pytest
import torch

import storage
import train
from config import Branch, Config, UserError
from models.architectures import model_from
from test_determinism import at, contents  # noqa: F401 — a fixture
from tools.status import trial_states
from training import schedule, trial

TRUNK = {"schedule": "trunk", "branch_points": (0.5, 0.75, 1.0), "cooldown": 0.5}


def quick(**settings) -> Config:
    return Config(preset="quick", device="cpu", **settings)


def test_rate_of_the_cosine_in_closed_form():
    config = quick(learning_rate=0.1, min_lr=0.01, warmup_iters=10, max_iters=110)
    rates = [schedule.learning_rate(config, t) for t in range(110)]
    assert rates[:10] == pytest.approx([0.01 * (t + 1) for t in range(10)])
    assert rates[10:] == pytest.approx([0.055 + 0.045 * math.cos(math.pi * t / 100) for t in range(100)])
    assert [(leg.start, leg.stop, leg.begins) for leg in schedule.legs(config)] == [(0, 110, 0)]


def test_rates_of_the_trunk_and_its_branches():
    """Warm-up, constant, and from where it leaves the trunk linearly towards 0, which is reached where it ends."""
    config = quick(schedule="trunk", learning_rate=0.1, warmup_iters=10, max_iters=100)
    first, *_, last = config.branches
    assert (first, last) == (Branch(32, 40), Branch(80, 100))
    rates = [schedule.learning_rate(config, t) for t in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (t + 1) for t in range(10)])
    assert rates[10:80] == [0.1] * 70
    assert rates[80:] == pytest.approx([0.1 * (1 - t / 20) for t in range(20)])
    rates = [schedule.learning_rate(config, t, first) for t in range(40)]
    assert rates[10:32] == [0.1] * 22 and rates[32:] == pytest.approx([0.1 * (1 - t / 8) for t in range(8)])


def test_every_point_of_the_curves_is_reported(smoke_config):
    """Those after a branch too: the steps of branches count in the trial's, not in the model's."""
    events = []
    record = train.train_trial(smoke_config.replace(**TRUNK), "relu", 1, report=events.append)
    points = [event for event in events if event["event"] == "point"]
    assert [point["step"] for point in points] == record["steps"] and len(points) > 3
    assert [point["val_loss"] for point in points] == record["val_loss_history"]


def test_every_branch_takes_all_its_steps():
    """Followed through the legs, each branch's model gets the steps 0, 1, 2, … of its length; nothing is done twice
    but the steps that the trunk and a branch both take."""
    config = quick(schedule="trunk")
    legs = schedule.legs(config)
    trunk, found, done = [], [], 0
    for leg in legs:
        assert leg.begins == done
        steps = list(range(leg.start, leg.stop))
        done += len(steps)
        if leg.side:
            found.append(trunk + steps)
        else:
            trunk += steps
    found.append(trunk)
    assert found == [list(range(branch.ends)) for branch in config.branches]
    assert [len(steps) for steps in found] == [520, 780, 1040, 1300]
    assert schedule.total_steps(config) == done == 1040 + (520 + 780 + 1040 + 1300) // 5 == 1768


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"branch_points": (0.5, 0.9)}, "branch_points=0.5 0.9: must be parts of max_iters.*the last one 1"),
        ({"branch_points": (0.9, 0.5, 1)}, "ascending"),
        ({"branch_points": ()}, "branch_points=: must be parts"),
        ({"branch_points": (0, 1)}, "above 0"),
        ({"branch_points": ("half", 1)}, "branch_points=.*must be numbers"),
        ({"branch_points": 1}, "must be numbers"),
        ({"cooldown": 0}, "cooldown=0.*above 0"),
        ({"max_iters": 5, "warmup_iters": 0, "branch_points": (0.2, 0.3, 1)}, "max_iters=5: too few"),
        ({"warmup_iters": 500}, "warmup_iters=500: must be at most 416, where the first branch begins"),
        ({"schedule": "trunc"}, "did you mean trunk"),
    ],
)
def test_wrong_settings_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        quick(**{"schedule": "trunk", **settings})


def test_settings_of_the_trunk_and_the_fingerprint():
    """They change it where there is a trunk, and not where there is none."""
    assert quick(branch_points=(0.5, 1), cooldown=1.0).fingerprint() == quick().fingerprint()
    different = [quick(schedule="trunk", **s) for s in ({}, {"branch_points": (0.5, 1)}, {"cooldown": 1.0})]
    assert len({config.fingerprint() for config in [quick(), *different]}) == 4
    for config in different:
        assert Config.from_dict(config.to_dict()) == config
    assert quick(schedule="trunk").learning_rate != quick().learning_rate
    assert quick(schedule="trunk", learning_rate=0.004).learning_rate == 0.004


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_branch_is_the_model_of_a_shorter_training(at, dropout):  # noqa: F811
    """Each branch has the bits of a trial of its length that has no other branch, and so does the final model."""
    config = at("all", **TRUNK, dropout=dropout)
    record = train.train_trial(config, "gelu", 2)
    saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, "gelu", 2))
    branches = [branch["record"] for branch in saved["branches"].values()]
    assert [(b["leaves"], b["ends"]) for b in branches] == [(20, 30), (30, 45)]
    assert record["steps_trained"] == 40 + 10 + 15 + 20 and record["steps"] == [0, 20, 40, 60]
    tokens = record["tokens_per_second"] * record["training_time"]
    assert tokens == pytest.approx(85 * config.batch_size * config.block_size)
    for branch in [*branches, {**record, "ends": 60}]:
        alone = at(str(branch["ends"]), **{**TRUNK, "branch_points": (1.0,)}, max_iters=branch["ends"], dropout=dropout)
        expected = train.train_trial(alone, "gelu", 2)
        for key in ("weights_sha256", "train_loss", "train_accuracy"):
            assert branch[key] == expected[key]
    for branch in saved["branches"].values():
        assert storage.contents_sha256(branch["weights"]) == branch["record"]["weights_sha256"]
        model = model_from(saved, branch)
        assert all(torch.equal(model.state_dict()[name], w) for name, w in branch["weights"].items())


def test_stopped_at_any_step_and_resumed(at):  # noqa: F811
    """After every third step, on the trunk, within branches and where they begin and end: the same bits, and no step
    taken twice."""
    whole, parts = (at(name, **TRUNK, dropout=0.1) for name in ("whole", "parts"))
    train.train_trial(whole, "gelu", 1)
    steps, states = [], []

    def stop():
        steps.append(1)
        return len(steps) % 3 == 0

    for _ in range(100):
        try:
            train.train_trial(parts, "gelu", 1, stop=stop)
            break
        except trial.Interrupted:
            states += trial_states(parts, ["gelu"])[:1]
    assert contents(parts, "gelu", 1) == contents(whole, "gelu", 1)
    assert len(steps) == schedule.total_steps(parts) == 85
    assert {(s["step"], s["max_iters"]) for s in states} == {(step, 85) for step in range(3, 85, 3)}
    under_way = {s["step"]: s["branch"] for s in states}
    # a branch of 10 steps begins after 20, one of 15 after 20 + 10 + 10
    assert [under_way[step] for step in (18, 21, 27, 30, 39, 42, 54, 57, 84)] == [
        None, 20, 20, None, None, 30, 30, None, None,
    ]  # fmt: skip
    assert all(s["state"] == "interrupted" for s in states)


def test_a_branch_that_diverges_is_no_finished_trial(at, monkeypatch):  # noqa: F811
    config = at("diverges", **TRUNK)
    rate = schedule.learning_rate
    monkeypatch.setattr(
        trial,
        "learning_rate",
        lambda c, step, branch=None: math.nan if branch and branch.ends == 45 else rate(c, step, branch),
    )
    record = train.train_trial(config, "relu", 1)
    assert record["status"] == "diverged" and record["diverged_at_step"] in range(30, 46)
    saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, "relu", 1))
    assert not saved["weights"] and not saved["branches"]


def test_swapped_branches_are_noticed(at):  # noqa: F811
    config = at("swapped", **TRUNK)
    train.train_trial(config, "relu", 1)
    path = storage.checkpoint_path(config.checkpoint_dir, "relu", 1)
    saved = storage.load_checkpoint(path)
    first, second = saved["branches"].values()
    first["weights"], second["weights"] = second["weights"], first["weights"]
    storage.save_checkpoint(path, saved)
    with pytest.raises(storage.StorageError, match="not those that its record names"):
        train.train_trial(config, "relu", 1)
