"""Which windows a trial sees: epochs, each window once, against NumPy; and what that makes of the source `order`."""

from pathlib import Path

import numpy as np
import pytest
import torch

import storage
import train
from config import SOURCES, Config
from prepare_data import load_corpus
from questions.sources import command as decompose
from questions.sources.draw import decomposed_pds
from training import batches as sampling
from training import pool, trial
from training.batches import ORDER, ORDER_AND_LAST, SAMPLE_AND_ORDER, Batches, stream


def config_of(**changes):
    return Config(preset="smoke", device="cpu", precision="float32", sampling="shuffle", **changes)


def by_numpy(tokens, block_size, batch_size, seed, steps):
    """The windows of the first batches, worked out window by window."""
    n, starts, epoch = max(1, tokens // block_size - 1), [], 0
    while len(starts) < steps * batch_size:
        key = np.array([seed, SOURCES.index("order")], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, epoch]))
        fraction = (epoch * ((5**0.5 - 1) / 2)) % 1.0
        begin = int(fraction * min(block_size, tokens - block_size))
        starts += [begin + block_size * int(w) for w in generator.permutation(np.arange(n))]
        epoch += 1
    return np.array(starts[: steps * batch_size]).reshape(steps, batch_size)


@pytest.mark.parametrize(
    ("tokens", "block_size", "batch_size"),
    [(1000, 32, 16), (1000, 32, 7), (997, 8, 12), (100, 32, 16), (33, 32, 4), (50, 32, 4), (70_000, 2, 64)],
)
def test_every_window_once_an_epoch_against_numpy(tokens, block_size, batch_size):
    config = config_of(block_size=block_size, batch_size=batch_size)
    text = np.arange(tokens, dtype=np.uint32)
    batches, n = Batches(text, config, seed=7), sampling.epoch_windows(tokens, block_size)
    steps = -(-3 * n // batch_size)
    places = np.array([batches.places(step) for step in range(steps)])
    assert (places == by_numpy(tokens, block_size, batch_size, 7, steps)).all()
    assert places.min() >= 0 and places.max() + block_size < tokens
    for epoch in range(3):
        seen = np.sort(places.ravel()[epoch * n : (epoch + 1) * n])
        assert len(seen) == n and (np.diff(seen) == block_size).all()  # side by side, none twice
        assert n == 1 or tokens - n * block_size < 2 * block_size  # left out at the ends
    # any step, in any order, by an object that saw no other: killed and resumed is the same
    for step in (steps - 1, 0, steps // 2):
        x, y = Batches(text, config, seed=7)(step)
        assert torch.equal(x, torch.from_numpy(text[places[step][:, None] + np.arange(block_size)].astype(np.int64)))
        assert torch.equal(y, x + 1)
    kept = Batches(text, config, seed=7, resident=True)(steps - 1)
    assert torch.equal(kept[0], Batches(text, config, seed=7, resident=False)(steps - 1)[0])


def test_windows_begin_everywhere_over_epochs_and_in_the_same_places_for_all_trials():
    tokens, T = 10_000, 64
    begins = [sampling.epoch_begins(epoch, tokens, T) for epoch in range(2 * T)]
    assert begins[0] == 0 and set(begins) == set(range(T))
    a, b = (Batches(np.arange(tokens), config_of(block_size=T), seed=seed) for seed in (1, 2))
    steps = sampling.epoch_windows(tokens, T)  # sixteen epochs
    first, second = (np.array([x.places(step) for step in range(steps)]).reshape(16, -1) for x in (a, b))
    assert (np.sort(first, 1) == np.sort(second, 1)).all()  # the same windows in every epoch
    assert (first != second).mean() > 0.95 and (first[0] != first[1]).any()  # in another order
    # a window's place in the order is any, and its neighbour's says nothing of it
    orders = np.array([np.argsort(stream(seed, "order", 3).permutation(np.arange(40))) for seed in range(4000)])
    expected = 4000 / 40
    chi2 = ((np.apply_along_axis(np.bincount, 0, orders, minlength=40) - expected) ** 2 / expected).sum()
    assert abs(chi2 - 39 * 39) < 6 * np.sqrt(2 * 39 * 39)
    assert abs(np.corrcoef(orders[:, 0], orders[:, 1])[0, 1] + 1 / 39) < 4 / np.sqrt(4000)


def test_no_more_than_the_epochs_of_a_batch_are_kept():
    batches = Batches(np.arange(2000), config_of(batch_size=16), seed=0)
    for step in range(40):
        batches.places(step)
        assert len(batches.orders) <= 2
    assert next(iter(batches.orders.values())).nbytes == sampling.epoch_windows(2000, 32)


def test_the_default_draws_what_it_always_drew():
    """And is not in the fingerprint, so that what was trained before there was a choice stays valid."""
    plain, chosen = Config(preset="smoke", device="cpu"), Config(preset="smoke", device="cpu", sampling="replacement")
    assert plain.fingerprint() == chosen.fingerprint() != config_of().fingerprint()
    assert "sampling" not in plain.differences(chosen)
    text, T = np.arange(1000), plain.block_size
    key = np.array([5, 1], dtype=np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, 9])).integers(0, 1000 - T, 16)
    assert (Batches(text, plain, seed=5).places(9) == expected).all()


def test_resumed_in_the_middle_of_an_epoch_is_the_same_bits(smoke_config, tmp_path):
    config = smoke_config.replace(sampling="shuffle", max_iters=30, eval_interval=10)
    whole = train.train_trial(config, "relu", 1)
    other = config.replace(checkpoint_dir=str(tmp_path / "resumed"))
    asked = iter([False] * 17 + [True] * 100)
    with pytest.raises(trial.Interrupted):
        train.train_trial(other, "relu", 1, stop=lambda: next(asked))
    assert train.train_trial(other, "relu", 1)["weights_sha256"] == whole["weights_sha256"]
    drawn = train.train_trial(config.replace(sampling="replacement", checkpoint_dir=str(tmp_path / "r")), "relu", 1)
    assert drawn["weights_sha256"] != whole["weights_sha256"]


def test_what_order_varies_is_called_what_it_is():
    settings = {"sampling": "shuffle", "block_size": 10, "batch_size": 9, "max_iters": 11}
    assert sampling.epoch_windows(1000, 10) == 99
    assert sampling.epochs(settings, 1000) == 1
    assert sampling.order_varies(settings, 1000) == ORDER
    assert sampling.order_varies(settings | {"max_iters": 22}, 1000) == ORDER
    assert sampling.order_varies(settings | {"max_iters": 12}, 1000) == ORDER_AND_LAST
    assert sampling.order_varies(settings | {"max_iters": 10}, 1000) == SAMPLE_AND_ORDER
    for steps, varies in ((97, SAMPLE_AND_ORDER), (99, ORDER), (100, ORDER), (102, ORDER_AND_LAST), (199, ORDER)):
        nearly = {"sampling": "shuffle", "block_size": 10, "batch_size": 10, "max_iters": steps}  # 999 windows
        assert sampling.order_varies(nearly, 10_000) == varies, steps
        assert ("the same 999 windows, in" in sampling.order_explained(nearly, 10_000)) is (varies == ORDER)
    for unknown in (settings | {"sampling": "replacement"}, {"sampling": "shuffle"}, {}):
        assert sampling.order_varies(unknown, 1000) == SAMPLE_AND_ORDER
    assert sampling.order_varies(settings, None) == SAMPLE_AND_ORDER
    # the quick preset on the default corpus, of 4.3 million tokens
    quick = Config(preset="quick", device="cpu", sampling="shuffle").to_dict()
    assert sampling.order_varies(quick, 4_300_000) == SAMPLE_AND_ORDER
    assert "sees 23.2 % of an epoch" in sampling.order_explained(quick, 4_300_000)
    assert "would take 5,599 steps" in sampling.order_explained(quick, 4_300_000)


@pytest.mark.slow
def test_decomposition_of_epochs(smoke_config, tmp_path, capsys):
    """Trials see the same windows in another order, and table, file and figure say so."""
    config = smoke_config.replace(sampling="shuffle", block_size=32, batch_size=20, trials_per_activation=2)
    n = sampling.epoch_windows(len(load_corpus(config).train), 32)
    for steps, expected in ((n // 20 - 3, SAMPLE_AND_ORDER), (round(n / 20), ORDER)):
        folders = {k: str(tmp_path / str(steps) / k) for k in ("results_dir", "plots_dir", "checkpoint_dir")}
        short = config.replace(max_iters=steps, eval_interval=steps, warmup_iters=1, **folders)
        table = decompose.decompose(short, "relu", train.run_study, quiet=True, run=pool.run_here)
        assert table["sources"]["order"]["varies"] == expected
        assert storage.read_json(Path(short.results_dir) / "relu_sources.json") == table
        capsys.readouterr()
        decompose.print_table(table)
        out = capsys.readouterr().out
        assert expected in out and table["sources"]["order"]["explained"] in out
        assert (expected if expected != SAMPLE_AND_ORDER else "order") in decomposed_pds(table)
