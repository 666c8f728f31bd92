"""Slices, ensembles, calibration and disagreement on synthetic predictions whose answers are known or computed anew."""

import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pytest
import scipy.stats

from questions.where import positions

ULP = math.ulp(1.0)


log_softmax = partial(scipy.special.log_softmax, axis=-1)


def trials(M=3, R=640, V=20, spread=0.5, seed=0, scale=2.0):
    """(log_p, targets): M trials around a common distribution, targets drawn from it."""
    rng = np.random.default_rng(seed)
    common = scale * rng.standard_normal((R, V))
    log_p = log_softmax(common + spread * rng.standard_normal((M, R, V)))
    return log_p, drawn(log_softmax(common), rng)


def drawn(log_p, rng):
    """A token from each row."""
    return (np.exp(log_p).cumsum(-1) > rng.random(log_p.shape[:-1] + (1,))).argmax(-1)


# -- one number per position --------------------------------------------------------------------------------------


def test_measured_against_scipy_position_by_position():
    log_p, y = trials(M=3, R=40, V=7)
    p, m = np.exp(log_p), positions.measure(log_p, y)
    for r in range(40):
        g = scipy.stats.gmean(p[:, r], axis=0)
        g /= g.sum()
        mean = p[:, r].mean(0)
        assert m.mean_loss[r] == pytest.approx(-math.log(mean[y[r]]), rel=1e-12)
        assert m.centroid_loss[r] == pytest.approx(-math.log(g[y[r]]), rel=1e-12)
        assert m.diversity[r] == pytest.approx(np.mean([scipy.stats.entropy(g, q) for q in p[:, r]]), rel=1e-10)
        for k in range(3):
            q = p[k, r]
            assert m.loss[k, r] == pytest.approx(-math.log(q[y[r]]), rel=1e-12)
            assert m.entropy[k, r] == pytest.approx(scipy.stats.entropy(q), rel=1e-12)
            assert (m.top[k, r], m.confidence[k, r]) == (q.argmax(), pytest.approx(q.max(), rel=1e-12))
        for k, (i, j) in enumerate(itertools.combinations(range(3), 2)):
            a, b = p[i, r], p[j, r]
            assert m.pd[k, r] == pytest.approx(abs(a - b).sum() / (a + b).sum(), rel=1e-12)
            both_ways = (scipy.stats.entropy(a, b) + scipy.stats.entropy(b, a)) / 2
            assert m.kl[k, r] == pytest.approx(both_ways, rel=1e-10)


def test_parts_joined_are_the_whole():
    log_p, y = trials(R=100)
    whole = positions.measure(log_p, y)
    parts = positions.Positions.joined(positions.measure(log_p[:, a:b], y[a:b]) for a, b in ((0, 37), (37, 100)))
    for name in positions.Positions.__dataclass_fields__:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-14)


def test_refuses_what_is_no_set_of_predictions():
    log_p, y = trials(R=10)
    for wrong in (log_p[:1], log_p[0], log_p[:, :9], np.full_like(log_p, -np.inf)):
        with pytest.raises(ValueError, match="log_p must be"):
            positions.measure(wrong, y)


# -- where --------------------------------------------------------------------------------------------------------


def planted(R=600, V=6, seed=1):
    """Trials that differ only where the target is token 4."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, V, R)
    logits = np.repeat(rng.standard_normal((1, R, V)), 3, 0)
    logits[:, y == 4] += rng.standard_normal((3, int((y == 4).sum()), V))
    return positions.measure(log_softmax(logits), y)


def test_slices_find_the_planted_token():
    m = planted()
    by_token = {s["label"]: s for s in positions.slices(m, m.targets, list("abcdef"))}
    assert by_token["e"]["share"] == 1.0
    assert by_token["e"]["pd"] == pytest.approx(m.pd.mean(0)[m.targets == 4].mean())
    assert [by_token[x]["pd"] for x in "abcdf"] == [0.0] * 5
    assert by_token["e"]["mismatch_pct"] > 0 == by_token["a"]["mismatch_pct"]


def test_kinds_find_the_planted_kind():
    m = planted()
    texts = ["a", "b", " ", "\n", ",", "7"]
    by_kind = positions.where(m, 60, np.roll(m.targets, 1), texts, np.bincount(m.targets) / len(m))["kind"]
    assert {s["label"]: s["share"] for s in by_kind if s["share"]} == {"punctuation": 1.0}


@pytest.mark.parametrize("seed", range(20))
def test_shares_sum_to_one_and_parts_to_the_whole(seed):
    log_p, y = trials(R=960, V=6, seed=seed, spread=10.0 ** (seed % 5 - 3))
    m = positions.measure(log_p, y)
    frequency = np.array([0.5, 0.2, 0.2, 0.09, 0.01, 0.0])
    sliced = positions.where(m, 64, np.roll(y, 1), ["a", " ", "\n", "7", "!", "\ufffd"], frequency)
    assert list(sliced) == ["entropy", "frequency", "place", "kind"]
    for parts in sliced.values():
        assert len(parts) > 1
        assert sum(s["positions"] for s in parts) == len(m)
        assert abs(math.fsum(s["share"] for s in parts) - 1) <= ULP
        whole = math.fsum(s["positions"] * s["pd"] for s in parts) / len(m)
        assert whole == pytest.approx(float(m.pd.mean()), rel=1e-14)
        assert whole == pytest.approx(positions.concentration(m)["mean"], rel=4 * ULP)


def test_trials_that_agree_everywhere_have_no_shares():
    log_p, y = trials(R=100)
    m = positions.measure(np.repeat(log_p[:1], 3, 0), y)
    assert {s["share"] for s in positions.slices(m, *positions.by_entropy(m))} == {None}
    assert positions.concentration(m)["largest_tenth_share"] is None
    assert positions.ensemble(m)["gain"] == pytest.approx(0, abs=1e-15)


def test_tenths_are_equal_in_size_and_in_order():
    log_p, y = trials(R=1007)
    m = positions.measure(log_p, y)
    groups, labels = positions.by_entropy(m)
    assert sorted(np.bincount(groups)) == [100] * 3 + [101] * 7
    entropy = m.entropy.mean(0)
    for g in range(9):
        assert entropy[groups == g].max() <= entropy[groups == g + 1].min()
    assert labels[0].startswith(f"{entropy.min():.2f}–")
    ties = positions.by_rank(np.zeros(20))
    assert ties.tolist() == sorted(ties.tolist())


def test_classes_of_frequency():
    frequency = np.array([0.4, 0.1, 0.099, 0.03, 0.0005, 1e-6, 9e-7, 0.0])
    groups, labels = positions.by_frequency(frequency)
    assert [labels[g] for g in groups] == [
        "≥ 10 %", "≥ 10 %", "3–10 %", "3–10 %", "0.03–0.1 %", "0.0001–0.0003 %", "< 0.0001 %", "never",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("block_size", "expected"),
    [(8, ["1", "2", "3–4", "5–8"]), (6, ["1", "2", "3–4", "5–6"]), (5, ["1", "2", "3–4", "5"]), (2, ["1", "2"])],
)
def test_classes_of_place(block_size, expected):
    groups, labels = positions.by_place(3 * block_size, block_size)
    assert labels == expected
    by_hand = ["1", "2", "3–4", "3–4"] + [expected[-1]] * 4
    assert [labels[g] for g in groups] == by_hand[:block_size] * 3


def test_kinds_of_characters_and_of_longer_tokens():
    def kinds(pieces):
        texts = sorted(set(pieces))
        ids = np.array([texts.index(x) for x in pieces])
        return [positions.KINDS[k] for k in positions.by_kind(ids[:-1], ids[1:], texts)]

    start, inside, space, line, punctuation, digit, other = positions.KINDS
    assert kinds(list("\nIt's 4,\n é\u0301")) == [
        start, inside, punctuation, inside, space, digit, punctuation, line, space, start, inside,
    ]  # fmt: skip
    assert kinds(["x", " the", "n", " ", "ce", ".", "\n\n", " 12", " (", "A", "+", "\ufffd", "e"]) == [
        start, inside, space, start, punctuation, line, digit, punctuation, start, punctuation, other, start,
    ]  # fmt: skip


def test_concentration():
    log_p, y = trials(R=1000)
    m = positions.measure(log_p, y)
    pd, c = m.pd.mean(0), positions.concentration(m)
    below = [float((pd <= c[f"q{q}"]).mean()) for q in (50, 90, 99)]
    assert below == pytest.approx([0.5, 0.9, 0.99], abs=0.002)
    assert c["largest_tenth_share"] == pytest.approx(np.sort(pd)[-100:].sum() / pd.sum(), rel=1e-12)
    assert c["kl"] == pytest.approx(float(m.kl.mean()), rel=1e-12)


# -- is it an error? ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "scale", "M"), [(0.01, 1, 2), (0.5, 2, 3), (3, 5, 7), (40, 100, 3)])
def test_identity_of_the_geometric_mean(spread, scale, M):
    log_p, y = trials(M=M, spread=spread, scale=scale)
    e = positions.ensemble(positions.measure(log_p, y))
    assert e["loss"] - e["geometric_mean"] == pytest.approx(e["diversity"], abs=1e-12, rel=1e-12)
    assert e["identity_error"] < 1e-12 * max(1, scale)
    assert e["gain"] >= 0
    assert e["diversity"] > 0
    # the diversity in closed form: KL(g ‖ p_m) averaged is -ln Σ_v Π p_m^(1/M)
    closed = -np.log(np.exp(log_p.mean(0)).sum(-1)).mean()
    assert e["diversity"] == pytest.approx(closed, rel=1e-10)


@pytest.mark.parametrize("part", ["diversity", "centroid_loss", "loss"])
def test_an_identity_that_does_not_hold_is_refused(part):
    m = positions.measure(*trials())
    values = getattr(m, part).copy()
    values[..., 7] += 1e-11
    with pytest.raises(ValueError, match="is off by"):
        positions.ensemble(dataclasses.replace(m, **{part: values}))


def sharpened(log_p, power):
    return log_softmax(power * log_p)


@pytest.mark.parametrize(
    ("power", "verdict"), [(1.0, "no bias shown"), (1.6, "overconfident"), (0.6, "underconfident")]
)
def test_calibrated_and_overconfident_sets_are_recognised(power, verdict):
    log_p, y = trials(M=3, R=6400, spread=0.0)
    m = positions.measure(sharpened(log_p, power), y)
    c = positions.calibration(m, np.arange(6400) // 64)
    assert c["verdict"] == verdict
    if power == 1:
        assert c["ece"] < 0.03  # of 19,200 predictions in 15 bins: chance alone
    else:
        assert c["ece"] > 0.06
        assert c["ece"] == pytest.approx(abs(c["gap"]["mean"]), rel=0.2)


def test_verdict_on_calibration_keeps_its_level():
    rng = np.random.default_rng(5)
    wrong = 0
    for seed in range(200):
        log_p, _ = trials(M=2, R=300, V=5, spread=0.0, seed=seed)
        m = positions.measure(log_p, drawn(log_p[0], rng))
        wrong += positions.calibration(m, np.arange(300) // 10)["verdict"] != "no bias shown"
    assert wrong <= 20  # of 200 at 5 %: more than 20 has a probability below 0.001


def test_expected_calibration_error_by_hand():
    confidence = np.array([0.05, 0.95, 0.95, 0.55])
    right = np.array([False, True, False, True])
    curve = positions.reliability(confidence, right, bins=10)
    assert [(b["low"], b["predictions"], b["accuracy"]) for b in curve] == [(0, 1, 0), (0.5, 1, 1), (0.9, 2, 0.5)]
    assert positions.expected_calibration_error(curve) == pytest.approx((0.05 + 0.45 + 2 * 0.45) / 4)


def test_disagreement_equals_error_where_it_should():
    """Top-1 predictions and targets drawn independently from the same distribution: the equality holds exactly."""
    rng = np.random.default_rng(3)
    R, V = 6400, 8
    common = log_softmax(1.5 * rng.standard_normal((R, V)))
    top, y = [drawn(common, rng) for _ in range(3)], drawn(common, rng)
    log_p = np.log(np.stack([0.9 * np.eye(V)[t] + 0.1 / V for t in top]))
    windows = np.arange(R) // 64
    d = positions.disagreement(positions.measure(log_p, y), windows)
    assert d["verdict"] == "not shown to fail"
    assert d["error"] == pytest.approx(d["disagreement"], abs=0.02)
    # trials that share their mistakes: error without disagreement
    d = positions.disagreement(positions.measure(log_p[[0, 0, 0]], y), windows)
    assert (d["verdict"], d["disagreement"]) == ("fails", 0.0)
    assert d["difference"]["low"] > 0


def test_disagreement_by_hand():
    top = np.array([[0, 1, 2, 3], [0, 1, 2, 2], [0, 2, 2, 1]])
    y = np.array([0, 1, 1, 1])
    m = positions.measure(np.log(0.9 * np.eye(4)[top] + 0.025), y)
    d = positions.disagreement(m, np.array([0, 0, 1, 1]))
    assert d["error"] == pytest.approx((0 + 1 / 3 + 1 + 2 / 3) / 4)
    assert d["disagreement"] == pytest.approx((0 + 2 / 3 + 0 + 1) / 4)


def test_interval_is_students_where_each_window_has_one_value():
    x = np.random.default_rng(0).standard_normal(12)
    interval = positions.interval(x, np.arange(12))
    low, high = scipy.stats.t.interval(0.95, 11, x.mean(), scipy.stats.sem(x))
    assert [interval[k] for k in ("mean", "low", "high")] == pytest.approx([x.mean(), low, high])
    repeated = positions.interval(np.repeat(x, 5), np.repeat(np.arange(12), 5))  # no new information
    assert repeated["low"] == pytest.approx(low)
    assert positions.interval(x, np.zeros(12))["low"] is None


def test_buckets_leave_out_what_they_do_not_tell():
    log_p, y = trials(R=128, V=8)
    top = log_p.argmax(-1)
    buckets = np.minimum(np.arange(8), 3)
    p = np.stack([np.exp(log_p)[..., buckets == b].sum(-1) for b in range(4)], -1)
    m = positions.measure(np.log(p), y, columns=buckets[y], top=top)
    whole = positions.measure(log_p, y)
    assert (m.pd <= whole.pd + 1e-12).all()
    bucketed = positions.error(m, 64, whole=False)
    assert [bucketed[k] for k in ("ensemble", "calibration")] == [None] * 2
    assert bucketed["disagreement"]["error"] == positions.error(whole, 64)["disagreement"]["error"]
