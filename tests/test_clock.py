"""The chaos clock: twins that differ in one bit, how fast they part, and from when on they stay together."""

import json
import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

import metrics
import plot_utils
import storage
import train
from analysis import products
from analysis.products import Folder
from config import Config, UserError
from conftest import as_flags, problems_of
from prepare_data import load_corpus
from questions.clock import CLOCK, RATES
from questions.clock import command as tool
from questions.clock import measure as clock
from questions.clock import rates as by_rates
from questions.clock import tell as analysis
from questions.clock.draw import plot_clock, plot_rates
from synthetic import differences_from, moderated, parting, synthetic_clock
from training import pool, trial


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(precision="float32", max_iters=40, eval_interval=20, probe_tokens=256)


# -- twins --------------------------------------------------------------------------------------------------------


def test_where_twins_are_compared():
    assert clock.offsets(3) == [0, 1, 2, 3] and clock.offsets(0) == [0]
    after = clock.offsets(1300)
    assert after[:65] == list(range(65)) and after[-1] == 1300 and len(after) < 140
    assert all(b - a <= max(1, math.ceil(0.05 * a)) for a, b in zip(after, after[1:], strict=False))
    assert clock.fork_steps(Config(preset="quick", device="cpu")) == [0, 130, 390, 780]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_working_weight_moves_by_one_unit(config, precision):
    config = config.replace(precision=precision, native=False)
    base = trial.Training(config, "relu", 2, load_corpus(config))
    base.model.train()
    for _ in range(3):
        base.advance()
    twin, same = clock.fork(base, bit=True), clock.fork(base, bit=False)
    assert twin.fork == 3 and twin.steps[-1] == config.max_iters - 3 and same.moved == {}
    pairs = list(zip(base.optimiser.working, twin.training.optimiser.working, strict=True))
    moved = [(a[a != b], b[a != b]) for a, b in pairs]
    ((a, b),) = [m for m in moved if len(m[0])]
    width = torch.int32 if precision == "float32" else torch.int16
    assert len(a) == 1 and abs(int(a.view(width)) - int(b.view(width))) == 1
    assert twin.moved["working_weights_moved"] == 1 and twin.moved["unit"] == precision
    place = dict(zip(base.optimiser.names, base.optimiser.weights, strict=True))[twin.moved["parameter"]]
    assert float(place.flatten()[twin.moved["place"]]) == twin.moved["from"]
    for name in ("mean", "square", "count"):
        assert torch.equal(getattr(base.optimiser, name), getattr(twin.training.optimiser, name))


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "dropout": 0.1, "vary": "order"}])
def test_the_trial_is_the_study_s_and_unmoved_twins_stay_at_0(config, changes):
    """Every twin sees what its trial sees: without the bit the distance is exactly 0, at every step; and the trial is,
    bit for bit, the one that the study trains."""
    config = config.replace(max_iters=20, **changes)
    base = trial.Training(config, "gelu", 1, load_corpus(config))
    race = clock.Race(base, [0, 9])
    with trial.torch_settings(config), trial.own_randomness(config.device):
        race.run()
    moved, unmoved = [t for t in race.twins if t.moved], [t for t in race.twins if not t.moved]
    assert [t.fork for t in moved] == [0, 9] and [t.fork for t in unmoved] == [9]
    assert set(unmoved[0].weights) == set(unmoved[0].predictions) == {0.0}
    for twin in moved:
        assert len(twin.weights) == len(twin.steps) and len(twin.predictions) == len(twin.prediction_steps)
        assert 0 < twin.weights[0] < 1e-4 and twin.weights[-1] > twin.weights[0]
    record = train.train_trial(config, "gelu", 1)
    assert storage.contents_sha256(base.weights()) == record["weights_sha256"]


def test_distances_are_those_of_weights_and_predictions(config):
    """At the last step, against NumPy in float64."""
    corpus = load_corpus(config)
    base = trial.Training(config, "relu", 1, corpus)
    race = clock.Race(base, [0])
    race.run()
    twin = race.twins[0]
    a, b = (t.optimiser.master.double().numpy() for t in (base, twin.training))
    assert twin.weights[-1] == pytest.approx(np.sqrt(((b - a) ** 2).sum() / (a**2).sum()), rel=1e-6)
    tokens = np.asarray(corpus.val[base.probe_starts[:, None] + np.arange(config.block_size + 1)]).astype(np.int64)
    p = []
    for training in (base, twin.training):
        training.optimiser.use_master_weights()
        training.model.eval()
        with torch.no_grad():
            p.append(torch.softmax(training.model(torch.from_numpy(tokens[:, :-1])).double(), -1).numpy())
    assert twin.predictions[-1] == pytest.approx(np.abs(p[0] - p[1]).sum(-1).mean() / 2, rel=1e-3, abs=1e-8)
    losses = []
    for alpha in (0.0, *clock.ALPHAS, 1.0):  # the path, by models made of mixed weights
        model = trial.build_model(config, "relu", corpus.vocab_size)
        mixed = {n: (1 - alpha) * w + alpha * v for (n, w), v in zip(
            base.weights().items(), twin.training.weights().values(), strict=True)}  # fmt: skip
        model.load_state_dict(mixed)
        losses.append(metrics.evaluate_loss(model, corpus.val, base.probe_starts, config.block_size)[0])
    straight = np.interp(range(11), [0, 10], [losses[0], losses[-1]])
    rise, first, last = clock.barrier(base, twin.training)
    assert rise == pytest.approx((np.array(losses) - straight)[1:-1].max(), abs=1e-6)
    assert (first, last) == (pytest.approx(losses[0]), pytest.approx(losses[-1]))


class Bigram(nn.Module):
    """Logits read from a table: the loss is convex in the weights."""

    def __init__(self, vocab):
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)

    def forward(self, idx):
        return self.table(idx)


def bigram(config, activation, vocab_size):
    return Bigram(vocab_size)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_convex_model_does_not_part(config, precision):
    """Where there is one minimum, twins keep together from the start, whatever the precision; a network's do not."""
    config = config.replace(precision=precision, native=False, max_iters=90, eval_interval=90, learning_rate=0.02)
    corpus, ends = load_corpus(config), {}
    for model in ("test_clock:bigram", "gpt"):
        base = trial.Training(config.replace(model=model), "relu", 1, corpus)
        race = clock.Race(base, [0])
        race.run()
        twin = race.twins[0]
        growing = analysis.growth(twin.steps, twin.weights)
        ends[model] = max(twin.predictions), growing.rate, clock.barrier(base, twin.training)[0]
    (convex, rate, rise), (network, network_rate, _) = ends.values()
    assert convex < (1e-6 if precision == "float32" else 1e-3) and rate is None and rise < 1e-4
    assert network > 30 * convex and network_rate > 0


# -- one trial and its file ---------------------------------------------------------------------------------------


def test_what_is_finished_stays(config, monkeypatch):
    config = config.replace(max_iters=10)
    path = storage.clock_path(config.results_dir, "relu")
    first = clock.run_clock(config, "relu", 2)
    steps = iter(range(1000))
    with pytest.raises(trial.Interrupted):
        clock.run_clock(config, "relu", 1, stop=lambda: next(steps) >= 7)
    assert list(storage.read_json(path)["trials"]) == ["2"]
    (snapshot,) = path.parent.glob(".relu_1.snapshot")
    monkeypatch.setattr(clock, "_record", lambda *_: pytest.fail("trained again"))
    assert clock.run_clock(config, "relu", 2) == first
    monkeypatch.undo()
    second = clock.run_clock(config, "relu", 1)  # goes on from the snapshot
    assert not snapshot.exists()
    contents = storage.read_json(path)
    assert list(contents["trials"]) == ["1", "2"] and contents["forks"] == [0, 1, 3, 6]
    path.unlink()
    again = clock.run_clock(config, "relu", 1)
    assert {**again, "processor_seconds": 0} == {**second, "processor_seconds": 0}  # the same bits
    with pytest.raises(UserError, match="made with other settings .learning_rate"):
        clock.run_clock(config.replace(learning_rate=0.005), "relu", 1)
    with storage.FileLock(path.with_name(".relu_3.lock")), pytest.raises(trial.Busy):
        clock.run_clock(config, "relu", 3)


def test_a_trunk_is_run_without_its_branches_and_without_means(config):
    trunk = config.replace(schedule="trunk", max_iters=40, averages=("ema_0.9",))
    plain = tool.settings(trunk)
    assert plain.branch_points == (1.0,) and plain.averages == ()
    assert trial.Training(plain, "relu", 1, load_corpus(config)).steps == 40


def test_float32_unless_another_precision_is_named():
    assert tool.settings(Config(preset="smoke", device="cpu")).precision == "float32"
    assert tool.settings(Config(preset="smoke", device="cpu", precision="bfloat16")).precision == "bfloat16"


def test_a_diverged_trial_has_no_clock(config, monkeypatch):
    def explode(self):
        with torch.no_grad():
            self.optimiser.master.fill_(math.inf)
            self.optimiser.use_working_weights()
        self.step += 1
        return torch.zeros(())

    monkeypatch.setattr(trial.Training, "advance", explode)
    record = clock.run_clock(config.replace(max_iters=6), "relu", 1)
    assert record["status"] == "diverged" and record["forks"] == []
    assert products.write(CLOCK, Folder.of(config)) == []
    assert by_rates.critical_rate({1e-3: ending([1e-7]), 1e-2: ending([], diverged=1)})[0] > 1e-3  # it counts as apart


def test_a_snapshot_of_another_clock_or_a_damaged_one_is_not_gone_on_from(config):
    config = config.replace(max_iters=8)
    whole = clock.run_clock(config, "relu", 1)
    path = storage.clock_path(config.results_dir, "relu")
    for spoil in (lambda file: file.write_bytes(b"no snapshot"), lambda file: path.unlink()):
        steps = iter(range(100))
        with pytest.raises(trial.Interrupted):
            clock.run_clock(config, "relu", 2, stop=lambda steps=steps: next(steps) >= 5)
        spoil(path.with_name(".relu_2.snapshot"))
    path.with_name(".relu_2.snapshot").rename(path.with_name(".relu_1.snapshot"))
    contents = clock.begin(config.replace(seed_base=7), "relu", load_corpus(config), (0, 0.5))
    assert contents["forks"] == [0, 4]
    path.unlink()
    assert clock.begin(config, "relu", load_corpus(config), None)["forks"] == [0]
    other = clock.run_clock(config, "relu", 1)  # the snapshot is of four forks, this clock has one
    assert [t["fork"] for t in other["forks"]] == [0] and [t["fork"] for t in other["unmoved"]] == [7]
    assert other["forks"][0] == whole["forks"][0] and other["weights_sha256"] == whole["weights_sha256"]
    with pytest.raises(UserError, match="made with other settings .twins that leave at"):
        clock.begin(config, "relu", load_corpus(config), (0, 0.5))


# -- is a recipe chaotic? -------------------------------------------------------------------------------------------


def ending(pds, rate=0.05, learning_rate=1e-3, diverged=0):
    """A clock whose twins end at these PD, and part at a rate."""
    contents = synthetic_clock("relu", [math.log(2) / rate] * (len(pds) + diverged), forks=(0,))
    contents["config"]["learning_rate"] = learning_rate
    for k, pd in enumerate(pds, 1):
        contents["trials"][str(k)]["forks"][0]["predictions"][-1] = pd
    for k in range(len(pds) + 1, len(pds) + diverged + 1):
        contents["trials"][str(k)] = {"status": "diverged", "forks": [], "unmoved": []}
    return analysis.Clock("relu", contents)


@pytest.mark.parametrize(
    ("pds", "rate", "said"),
    [
        ([2e-7, 4e-7, 8e-7], 0.05, ["stays at a PD of 4.0e-7 [", "other hardware gives this model again", "3 seeds"]),
        (
            [0.1, 0.11, 0.12],
            math.log(10) / 9,
            ["grows tenfold every 9 steps, to a PD of 0.11 [", "gives another model"],
        ),
        ([1e-6, 0.1, 0.1], 0.05, ["undecided"]),
    ],
)
def test_the_answer(pds, rate, said):
    (line,) = (x for x in analysis.page({"relu": ending(pds, rate)}).splitlines() if x.startswith("- **ReLU**"))
    assert all(words in line for words in said)


def test_the_interval_of_the_ends():
    ends = np.log([2e-7, 4e-7, 8e-7])
    low, high = scipy.stats.t.interval(0.95, 2, ends.mean(), scipy.stats.sem(ends))
    assert ending([2e-7, 4e-7, 8e-7]).end_interval[1:] == pytest.approx((np.exp(low), np.exp(high)))
    assert ending([0.1], diverged=1).ends == {1: math.log(0.1), 2: 0.0}  # left out of nothing


def test_growth_of_every_twin_counts():
    t = np.arange(200)
    assert analysis.rate(t, 1e-7 * np.exp(-0.01 * t)) == pytest.approx(-0.01)  # it shrinks: no growing phase
    assert analysis.rate(t, np.minimum(1e-7 * np.exp(0.2 * t), 0.5)) == pytest.approx(0.2)
    assert analysis.rate(t, np.zeros(200)) == 0


def test_the_critical_rate_of_planted_lines():
    grid = np.array([1e-4, 1e-3, 1e-2])
    pds = {rate: 1e-3 * (rate / 5e-4) ** np.array([2, 2.5, 3, 3.5, 4, 4.5]) for rate in grid}  # all pass at 5e-4
    clocks_ = {rate: ending(np.minimum(pd, 1).tolist(), learning_rate=rate) for rate, pd in pds.items()}
    point, low, high = by_rates.critical_rate(clocks_)
    assert point == pytest.approx(5e-4, rel=1e-6) and low == pytest.approx(5e-4) and high == pytest.approx(5e-4)
    logs = np.log([0.5e-3, 4e-3])  # by hand: a third of the way
    assert by_rates.crossing(np.array([1.0, 8.0]), logs) == pytest.approx(2.0)
    assert by_rates.crossing(grid, np.log([1e-2, 1e-2, 1e-2])) == 0
    assert by_rates.crossing(grid, np.log([1e-5, 1e-5, 1e-5])) == math.inf
    few = {rate: ending([pd, 10 * pd], learning_rate=rate) for rate, pd in ((1e-4, 1e-4), (1e-3, 1e-2))}
    point, low, high = by_rates.critical_rate(few)  # of two seeds the range of each by itself
    assert low == pytest.approx(1e-4) and high == pytest.approx(10**-3.5) and low < point < high


def test_clocks_of_several_learning_rates(tmp_path):
    for rate, pds in ((3e-4, [1e-7, 2e-7]), (3e-3, [0.1, 0.2])):
        contents = ending(pds, learning_rate=rate).contents
        storage.write_json(storage.clock_path(tmp_path / f"rates/{rate:g}", "relu"), contents)
    folder = Folder(tmp_path, tmp_path / "plots")
    paths = products.write(RATES, folder)
    assert [p.name for p in paths] == ["RATES.md", "rates.csv", "clock_rates.png"]
    text = paths[0].read_text(encoding="utf-8")
    assert "critical learning rate 0.001" in text and "clock_rates.png" in text
    assert "1.4e-7" in text and "0.14" in text  # geometric means
    assert "critical learning rate" in by_rates.overview(folder)
    (line,) = (x for x in plot_rates.figure(by_rates.load_rates(tmp_path)).axes[0].lines if x.get_gid() == "relu")
    np.testing.assert_allclose(line.get_xdata(), [3e-4, 3e-3])
    assert products.write(RATES, Folder(tmp_path / "none", tmp_path / "plots")) == []
    storage.write_json(storage.clock_path(tmp_path / "rates/0.1", "relu"), ending([], 0.05, 0.1, diverged=3).contents)
    clocks_ = by_rates.load_rates(tmp_path)["relu"]
    assert list(clocks_) == [3e-4, 3e-3, 0.1] and by_rates.loss(clocks_[0.1]) is None
    assert " 1 |" in by_rates.page({"relu": clocks_}, "f.png")
    del clocks_[0.1].contents["trials"]["1"], clocks_[0.1].contents["trials"]["2"]
    assert "no seed is done at every rate yet" in by_rates.page({"relu": clocks_}, "f.png")


def test_several_rates_are_for_the_clock(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--preset", "smoke", "--learning-rate", "1e-3", "3e-3"]) == 2
    assert "--learning-rate: several values are for --clock" in capsys.readouterr().err
    assert train.main(["--clock", "--preset", "smoke", "--forks", "1"]) == 2
    assert "--forks: must be parts of the training" in capsys.readouterr().err


# -- the growing phase --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doubling", [1.7, 8.0, 40.0])
def test_planted_doubling_times_are_found(doubling):
    rng, steps = np.random.default_rng(0), clock.offsets(1300)
    times = [analysis.growth(steps, parting(doubling, steps, 0.2, rng)).doubling for _ in range(50)]
    assert np.exp(np.mean(np.log(times))) == pytest.approx(doubling, rel=0.02)
    assert np.std(np.log(times)) < 0.06


def test_rate_is_the_least_squares_slope_over_every_step():
    """Against numpy.polyfit on the ln of distances measured at every step; a jump counts as growth."""
    steps = np.arange(60)
    d = np.where(steps < 20, 1e-7, 1e-3) * 1.1**steps
    d[45:] = d[45]
    growing = analysis.growth(steps, d)
    last = int(np.argmax(d >= 0.1 * d.max())) - 1
    assert (growing.first, growing.last) == (1, last)
    slope = np.polyfit(steps[1 : last + 1], np.log(d[1 : last + 1]), 1)[0]
    assert growing.rate == pytest.approx(slope, rel=1e-9)
    # steps left out between two measurements weigh as much as those that are there
    thin = [*range(8), *range(8, 60, 3)]
    expected = np.polyfit(steps[1:], np.log(1e-6 * 1.3 ** steps[1:]), 1)[0]
    assert analysis.growth(thin, 1e-6 * 1.3 ** np.array(thin)).rate == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "distances",
    [np.zeros(50), np.full(50, 1e-6), 1e-6 * 0.9 ** np.arange(50), 1e-6 * 1.01 ** np.arange(50), [1e-7, 1e-4, 1.0]],
    ids=["never", "flat", "contracting", "hardly", "at once"],
)
def test_what_does_not_grow_has_no_doubling_time(distances):
    assert analysis.growth(range(len(distances)), distances).doubling is None


def clocks(folder, **planted_times):
    for name, times in planted_times.items():
        storage.write_json(storage.clock_path(folder, name), synthetic_clock(name, times))
    return analysis.load_clocks(folder)


def test_intervals_hold_the_planted_time():
    """95 % of them, over sets of five seeds whose own doubling times spread by 20 %."""
    rng, inside, steps = np.random.default_rng(1), 0, clock.offsets(400)
    for _ in range(300):
        seeds = 10 * np.exp(0.2 * rng.standard_normal(5))
        times = [analysis.growth(steps, parting(t, steps, 0.2, rng)).doubling for t in seeds]
        twins = {str(k): {"status": "done", "forks": [{"fork": 0, "steps": [0], "weights": [0]}]} for k in range(1, 6)}
        one = analysis.Clock("relu", {"forks": [0], "trials": twins})
        one.__dict__["doubling"] = lambda fork, kind, times=times: dict(enumerate(times, 1))
        mean, low, high = one.doubling_interval(0)
        assert mean == pytest.approx(scipy.stats.gmean(times))
        inside += low <= 10 <= high
    assert 0.92 <= inside / 300 <= 0.98


def test_activations_are_compared_seed_by_seed(tmp_path):
    shared = np.array([0.9, 1.0, 1.2, 0.8, 1.1])
    times = {"relu": 10 * shared, "gelu": 20 * shared, "swish": 20 * shared, "smelu_1": 10 * shared[::-1]}
    of_each = clocks(tmp_path, **times)
    assert list(of_each) == ["smelu_1", "relu", "gelu", "swish"]
    against = analysis.against_reference(of_each)
    assert [a.fork for a in against["gelu"]] == [0, 100]
    assert against["gelu"][0].ratio[0] == pytest.approx(2, rel=0.05) and against["gelu"][0].p < 0.001
    assert against["smelu_1"][0].ratio[0] == pytest.approx(1, rel=0.05) and against["smelu_1"][0].p > 0.2
    logs = {name: np.log(list(c.doubling(0).values())) for name, c in of_each.items()}
    own = scipy.stats.ttest_rel(logs["gelu"], logs["relu"])
    test = analysis.compare([of_each["gelu"]], of_each["relu"], 0)
    assert test.p == pytest.approx(own.pvalue) and test.t == pytest.approx(own.statistic)
    smooth = np.mean([logs[name] for name in ("gelu", "swish", "smelu_1")], 0)
    contrast = analysis.compare([of_each[name] for name in ("gelu", "swish", "smelu_1")], of_each["relu"], 0)
    assert contrast.p == pytest.approx(scipy.stats.ttest_rel(smooth, logs["relu"]).pvalue)
    (together,) = against[analysis.TOGETHER]
    # in the family: its own spread of 4 degrees of freedom, and the mean of the three comparisons' for two
    _, _, p, *_ = moderated(smooth - logs["relu"], differences_from(logs).values())
    first = min(a[0].p for name, a in against.items() if name != analysis.TOGETHER)
    assert together.test.p == pytest.approx(p) and together.p == pytest.approx(min(2 * p, max(p, first)))
    del of_each["relu"]
    assert set(analysis.against_reference(of_each)) == set(of_each) - {"smelu_1"}  # the first, then, and no contrast
    assert analysis.against_reference({"gelu": of_each["gelu"]}) == {}


def test_no_twin_is_left_out_by_its_outcome(tmp_path):
    """A twin that does not grow: then nothing is tested, instead of the twins that do."""
    of_each = clocks(tmp_path, relu=[10, 11, 12, 10, 11], gelu=[30, 33, 36, 29, 31], swish=[30, 33, 36, 29, 31])
    assert set(analysis.against_reference(of_each)) == {"gelu", "swish", analysis.TOGETHER}
    twin = of_each["gelu"].contents["trials"]["2"]["forks"][0]
    twin["weights"] = [1e-7] * len(twin["weights"])
    against = analysis.against_reference(of_each)
    assert set(against) == {"gelu", "swish"} and [a.fork for a in against["gelu"]] == [100]
    text = analysis.page(of_each)
    assert re.search(r"GELU +\| +4 of 5 \|", text) and "planned contrast" not in text


def test_from_when_on_twins_stay_together():
    one = analysis.Clock("relu", synthetic_clock("relu", [10] * 3, forks=(0, 100, 300, 600), n_forks_together=2))
    assert one.together_from == 300 and one.unmoved == 0
    all_, none = (analysis.Clock("relu", synthetic_clock("relu", [10] * 3, n_forks_together=n)) for n in (2, 0))
    assert all_.together_from == 0 and none.together_from is None
    one.contents["trials"]["2"]["unmoved"][0]["weights"][-1] = 1e-9
    assert one.unmoved == 1e-9 and "measures nothing" in analysis.page({"relu": one})


def test_clocks_of_different_settings_are_not_compared(tmp_path):
    clocks(tmp_path, relu=[10, 11, 12])
    other = {**synthetic_clock("gelu", [10, 11, 12]), "fingerprint": "another"}
    storage.write_json(storage.clock_path(tmp_path, "gelu"), other)
    with pytest.raises(UserError, match="different settings"):
        analysis.load_clocks(tmp_path)
    storage.write_json(storage.clock_path(tmp_path, "gelu"), {"schema": "another"})
    with pytest.raises(UserError, match="gelu.json: not a clock"):
        analysis.load_clocks(tmp_path)


# -- page, table, figure ------------------------------------------------------------------------------------------


def test_page_table_and_figure(tmp_path, smoke_config):
    config = smoke_config.replace(results_dir=str(tmp_path / "r"), plots_dir=str(tmp_path / "p"))
    of_each = clocks(
        config.results_dir, relu=[10, 11, 12, 10, 11], gelu=[30, 33, 36, 29, 31], swish=[29, 33, 35, 30, 31]
    )
    paths = products.write(CLOCK, Folder.of(config))
    assert [p.name for p in paths] == ["CLOCK.md", "clock.csv", "clock.png"]
    text = paths[0].read_text(encoding="utf-8")
    assert "15 twins without the bit stayed at a distance of exactly 0" in text
    assert "twins part slower with these functions" in text and "kink" in text and "clock.png" in text
    assert "ReLU: twins of all trials stay together from step 100 on (not yet at 0)." in text
    rows = [line.split(",") for line in paths[1].read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7 and rows[0][:3] == ["Activation", "Fork_Step", "Trials"]
    figure = plot_clock.figure(of_each)
    lines = {line.get_gid(): line for line in figure.axes[2].lines if line.get_gid()}
    np.testing.assert_allclose(lines["gelu"].get_ydata()[0], of_each["gelu"].doubling_interval(0)[0])
    drawn = paths[2].read_bytes()
    paths[2].unlink()  # drawn again by the command that draws everything again, here without results of trials
    assert plot_utils.main([f"--results-dir={config.results_dir}", f"--plots-dir={config.plots_dir}"]) == 0
    assert paths[2].read_bytes() == drawn
    with pytest.raises(UserError):
        plot_clock({})


@pytest.mark.slow
def test_command_line(smoke_config, tmp_path, monkeypatch, capsys):
    """Workers, resumed, verified."""
    monkeypatch.chdir(tmp_path)
    names = "preset n_embd max_iters eval_interval warmup_iters dataset data_dir device".split()
    command = ["--clock", "--activation", "relu", "gelu", *as_flags(smoke_config, *names)]
    assert train.main([*command, "--trials", "1"]) == 0
    assert "CLOCK.md" in capsys.readouterr().out
    before = json.loads((tmp_path / "results/clock/relu.json").read_text(encoding="utf-8"))["trials"]["1"]
    assert train.main([*command, "--trials", "2"]) == 0
    after = json.loads((tmp_path / "results/clock/relu.json").read_text(encoding="utf-8"))["trials"]
    assert after["1"] == before and set(after) == {"1", "2"}
    capsys.readouterr()
    monkeypatch.setattr(pool, "run_trials", lambda *_, **__: pytest.fail("trained"))
    assert train.main([*command, "--trials", "2"]) == 0
    assert train.main([*command, "--overwrite"]) == 2
    problems = problems_of(Folder.of(Config(**{n: getattr(smoke_config, n) for n in names})))
    for name in ("results/clock/CLOCK.md", "results/clock/clock.csv", "plots/clock.png"):
        assert problems[name] == []
