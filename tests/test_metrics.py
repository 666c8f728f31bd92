"""Metrics against independent computations: plain float64 NumPy, SciPy, closed forms."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.spatial import distance

import metrics
from config import UserError
from kernels import pairs
from measures.table import METRICS, metrics_of
from tools import metrics_guide


@pytest.fixture(autouse=True)
def one_thread():
    """Arrays here are small: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KEYS = {metric.key for metric in metrics_of("pair")}
T = 8


def softmax(logits):
    return special.softmax(np.asarray(logits, np.float64), axis=-1)


def close_pair(rng, N, V, scale, sharpness=3.0):
    """Two float32 predictions whose logits differ by about `scale`."""
    logits = sharpness * rng.standard_normal((N, V))
    moved = logits + scale * rng.standard_normal((N, V))
    return softmax(logits).astype(np.float32), softmax(moved).astype(np.float32)


def by_hand(p, q, y):
    """The definitions, position by position, in float64; Jensen–Shannon and Hellinger in forms that don't cancel."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    d, s = np.abs(p - q), p + q
    safe = np.where(s > 0, s, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = np.sqrt(p) + np.sqrt(q)
        js = 0.0
        for a, b in ((p, q), (q, p)):
            # Σ a ln(a/m) = -Σ a log1p((b-a)/2a); Σ(a-m) + Σ(b-m) = 0 is added so that nothing of first order is left
            u = (b - a) / (2 * a)
            small = a * np.where(np.abs(u) < 1e-4, u**2 / 2 - u**3 / 3 + u**4 / 4, u - np.log1p(u))
            js = js + np.where(a > 0, small, (b - a) / 2).sum(1) / 2
    p_y, q_y = p[np.arange(len(p)), y], q[np.arange(len(p)), y]
    return {
        "relative_pd": (d.sum(1) / s.sum(1)).mean(),
        "pd_l1": d.sum(1).mean(),
        "pd_l2": np.sqrt((d**2).sum(1)).mean(),
        "symmetric_pd": (2 * d / safe).mean(),
        "true_label_relative_pd": (2 * np.abs(p_y - q_y) / (p_y + q_y)).mean(),
        "hellinger": np.sqrt((np.where(roots > 0, d / np.where(roots > 0, roots, 1), 0) ** 2).sum(1) / 2).mean(),
        "jensen_shannon": js.mean(),
        "prediction_differences": int((p.argmax(1) != q.argmax(1)).sum()),
        "right_to_wrong": sum(a == c != b for a, b, c in zip(p.argmax(1), q.argmax(1), y, strict=True)),
        "wrong_to_right": sum(b == c != a for a, b, c in zip(p.argmax(1), q.argmax(1), y, strict=True)),
        "wrong_to_wrong": sum(a != b != c != a for a, b, c in zip(p.argmax(1), q.argmax(1), y, strict=True)),
        "total_predictions": len(p),
        "top1_mismatch_pct": 100 * np.mean(p.argmax(1) != q.argmax(1)),
        "val_loss_difference": abs(-np.log(p_y).mean() + np.log(q_y).mean()),
    }


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_is_complete():
    for field in ("key", "column", "label"):
        named = [getattr(metric, field) for metric in METRICS if getattr(metric, field)]
        assert len(set(named)) == len(named), field
    for metric in METRICS:
        assert metric.key and metric.label and metric.definition and metric.of in ("pair", "trial", "activation")
        assert metric.better in (("",) if metric.key == "total_predictions" else ("lower", "higher"))
    assert METRICS is metrics.METRICS


def test_the_guide_has_the_table():
    text = metrics_guide.GUIDE.read_text(encoding="utf-8")
    assert metrics_guide.with_tables(text) == text, "python -m tools.metrics_guide"
    assert all(f"| `{metric.key}` |" in text for metric in METRICS)


# -- two arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("V", [2, 65, 3001])
@pytest.mark.parametrize("scale", [3.0, 0.3, 1e-3, 1e-5])
def test_agrees_with_the_definitions(V, scale):
    rng = np.random.default_rng(V)
    p, q = close_pair(rng, 50, V, scale)
    y = rng.integers(V, size=50)
    found, expected = metrics.compare_predictions(p, q, y), by_hand(p, q, y)
    assert set(found) == KEYS == set(expected)
    for key, value in expected.items():
        rounding = 1e-14 if key == "val_loss_difference" else 0  # a difference of two means of about 5
        assert found[key] == pytest.approx(value, rel=1e-9, abs=rounding), key


def test_agrees_with_scipy():
    rng = np.random.default_rng(1)
    p, q = close_pair(rng, 40, 30, 0.7)
    p, q = (x.astype(np.float64) / x.astype(np.float64).sum(1, keepdims=True) for x in (p, q))
    found = metrics.compare_predictions(p, q)
    assert found["jensen_shannon"] == pytest.approx(np.mean(distance.jensenshannon(p, q, axis=1) ** 2), rel=1e-10)
    rows = list(zip(p, q, strict=True))
    assert found["pd_l1"] == pytest.approx(np.mean([distance.cityblock(a, b) for a, b in rows]), rel=1e-12)
    assert found["pd_l2"] == pytest.approx(np.mean([distance.euclidean(a, b) for a, b in rows]), rel=1e-12)
    # Bray–Curtis is Σ|p-q| / Σ(p+q); Canberra is Σ |p-q|/(p+q)
    assert found["relative_pd"] == pytest.approx(np.mean([distance.braycurtis(a, b) for a, b in rows]), rel=1e-12)
    assert found["symmetric_pd"] == pytest.approx(2 / 30 * np.mean([distance.canberra(a, b) for a, b in rows]))
    roots = [distance.euclidean(np.sqrt(a), np.sqrt(b)) / math.sqrt(2) for a, b in rows]
    assert found["hellinger"] == pytest.approx(np.mean(roots), rel=1e-12)


def test_closed_forms():
    # all probability on one token against all on another: every distance at its upper bound
    p, q = np.eye(4)[[0, 0, 1]], np.eye(4)[[1, 2, 3]]
    found = metrics.compare_predictions(p, q, [0, 0, 1])
    assert found["relative_pd"] == 1 and found["pd_l1"] == 2
    assert found["pd_l2"] == pytest.approx(math.sqrt(2), rel=1e-15)
    assert found["symmetric_pd"] == 1  # two of four tokens have 2, two have 0/0 = 0
    assert found["hellinger"] == pytest.approx(1, rel=1e-15)
    assert found["jensen_shannon"] == pytest.approx(math.log(2), rel=1e-15)
    assert found["true_label_relative_pd"] == 2 and found["val_loss_difference"] == math.inf
    assert (found["prediction_differences"], found["top1_mismatch_pct"]) == (3, 100.0)
    # two coins: (a, 1-a) and (1-a, a)
    a = 0.9
    found = metrics.compare_predictions([[a, 1 - a]], [[1 - a, a]], [0])
    entropy = -a * math.log(a) - (1 - a) * math.log(1 - a)
    expected = {
        "relative_pd": 2 * a - 1,
        "pd_l2": math.sqrt(2) * (2 * a - 1),
        "symmetric_pd": 2 * (2 * a - 1),
        "hellinger": math.sqrt(1 - 2 * math.sqrt(a * (1 - a))),
        "jensen_shannon": math.log(2) - entropy,
        "val_loss_difference": math.log(a / (1 - a)),
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-14), key


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_model_against_itself_is_exactly_zero(dtype):
    rng = np.random.default_rng(0)
    p = np.concatenate([close_pair(rng, 200, 85, 1.0, s)[0] for s in (0.1, 3.0, 40.0)]).astype(dtype)
    p[0, :80] = 0
    y = rng.integers(85, size=len(p))
    found = metrics.compare_predictions(p, p.copy(), y)
    assert [found.pop("total_predictions")] == [600]
    assert all(value == 0 for value in found.values()), found
    assert metrics.set_prediction_difference(np.stack([p] * 3)) == 0


def test_without_targets_and_from_tensors():
    rng = np.random.default_rng(2)
    p, q = close_pair(rng, 20, 11, 0.5)
    y = rng.integers(11, size=20)
    found = metrics.compare_predictions(p, q)
    assert set(found) == KEYS
    assert found["true_label_relative_pd"] is None and found["val_loss_difference"] is None
    frozen = p.copy()
    frozen.flags.writeable = False
    with_y = metrics.compare_predictions(p, q, y)
    assert metrics.compare_predictions(torch.from_numpy(p), torch.from_numpy(q), torch.from_numpy(y)) == with_y
    assert metrics.compare_predictions(frozen, q.tolist(), y.tolist()) == with_y
    half = torch.from_numpy(p).bfloat16()
    assert metrics.compare_predictions(half, half)["jensen_shannon"] == 0
    json.dumps(with_y, allow_nan=False)


def test_many_blocks_equal_one(monkeypatch):
    rng = np.random.default_rng(3)
    p, q = close_pair(rng, 300, 40, 0.5)
    y = rng.integers(40, size=300)
    whole, of_set = metrics.compare_predictions(p, q, y), metrics.set_prediction_difference([p, q, p])
    monkeypatch.setattr(metrics, "row_blocks", lambda n, size: (slice(i, min(i + 7, n)) for i in range(0, n, 7)))
    parts = metrics.compare_predictions(p, q, y)
    for key in KEYS:
        assert parts[key] == pytest.approx(whole[key], rel=1e-13), key
    assert metrics.set_prediction_difference([p, q, p]) == pytest.approx(of_set, rel=1e-13)


def test_zeros_and_underflow():
    p = np.array([[1, 0, 0, 1e-40], [0.5, 0.5, 0, 0]], np.float32)
    q = np.array([[1, 0, 1e-30, 0], [0.5, 0, 0.5, 0]], np.float32)
    found = metrics.compare_predictions(p, q, [1, 1])
    expected = by_hand(p, q, np.array([0, 0]))
    for key in ("relative_pd", "pd_l2", "symmetric_pd", "hellinger", "jensen_shannon"):
        assert found[key] == pytest.approx(expected[key], rel=1e-9), key
    assert found["true_label_relative_pd"] == 1  # 0/0 counts as 0, 0.5 against 0 as 2
    nothing = metrics.compare_predictions(np.zeros((1, 3)), np.zeros((1, 3)), [0])
    assert all(nothing[k] == 0 for k in KEYS - {"total_predictions"})


def test_streaming_arithmetic_in_float32():
    """The sums that models are measured with keep 1e-6 of the float64 values, also for nearly equal models."""
    for V, scale in itertools.product((2, 85, 50257), (2.0, 0.05, 2e-3, 1e-4)):
        rng = np.random.default_rng(V)
        p, q = close_pair(rng, 10 if V > 1000 else 1000, V, scale)
        sums, mass, _ = pairs.PairSums(2, V, torch.float32)(torch.from_numpy(np.stack([p, q])))
        expected = by_hand(p, q, np.zeros(len(p), int))
        for key, values in metrics._distances(sums[:, 0], mass.sum(0), V).items():
            assert values.mean() == pytest.approx(expected[key], rel=1e-6), (V, scale, key)
    # from sharp to one-hot: the ends of the range of |p-q|/(p+q)
    rng = np.random.default_rng(0)
    for sharpness in (10, 30, 100, 1000):
        p, q = close_pair(rng, 2000, 85, sharpness, sharpness)
        p[p < 1e-36] = q[q < 1e-36] = 0  # float32 has no full digits there
        sums, mass, _ = pairs.PairSums(2, 85, torch.float32)(torch.from_numpy(np.stack([p, q])))
        found = metrics.compare_predictions(p, q)
        for key, values in metrics._distances(sums[:, 0], mass.sum(0), 85).items():
            assert values.mean() == pytest.approx(found[key], rel=1e-6), (sharpness, key)


distributions = st.integers(1, 9).flatmap(
    lambda V: st.lists(
        st.lists(st.one_of(st.just(0.0), st.floats(0, 1), st.floats(1e-12, 1e-3)), min_size=V, max_size=V).filter(
            lambda row: sum(row) > 1e-9
        ),
        min_size=3,
        max_size=3,
    )
)


@settings(deadline=None, max_examples=150)
@given(distributions)
def test_bounds_symmetry_and_triangle_inequality(rows):
    a, b, c = (np.array([row]) / np.sum(row) for row in rows)
    V = a.shape[1]
    ab, ba = metrics.compare_predictions(a, b, [0]), metrics.compare_predictions(b, a, [0])
    assert ab == ba | {"right_to_wrong": ba["wrong_to_right"], "wrong_to_right": ba["right_to_wrong"]}
    ac, cb = metrics.compare_predictions(a, c), metrics.compare_predictions(c, b)
    bounds = {"relative_pd": 1, "pd_l1": 2, "pd_l2": math.sqrt(2), "symmetric_pd": 2, "hellinger": 1}
    for key, bound in {**bounds, "jensen_shannon": math.log(2), "true_label_relative_pd": 2}.items():
        assert 0 <= ab[key] <= bound * (1 + 1e-14), key
    for key in ("relative_pd", "pd_l1", "pd_l2", "hellinger"):
        assert ab[key] <= ac[key] + cb[key] + 1e-14, key
    # the root of the Jensen–Shannon divergence is a metric too (Endres & Schindelin 2003)
    root = {k: math.sqrt(x["jensen_shannon"]) for k, x in (("ab", ab), ("ac", ac), ("cb", cb))}
    assert root["ab"] <= root["ac"] + root["cb"] + 1e-9
    # H² ≤ TV ≤ √2·H (Le Cam)
    assert ab["hellinger"] ** 2 <= ab["relative_pd"] + 1e-14 <= math.sqrt(2) * ab["hellinger"] + 1e-13
    assert ab["pd_l1"] == pytest.approx(2 * ab["relative_pd"], rel=1e-12)
    assert ab["pd_l2"] <= ab["pd_l1"] * (1 + 1e-14) <= math.sqrt(V) * ab["pd_l2"] * (1 + 1e-13) + 1e-150


def test_set_prediction_difference():
    rng = np.random.default_rng(4)
    p = softmax(rng.standard_normal((5, 30, 17)))
    expected = np.abs(p - p.mean(0)).sum(-1).mean()
    assert metrics.set_prediction_difference(p) == pytest.approx(expected, rel=1e-13)
    assert metrics.set_prediction_difference(torch.from_numpy(p)) == pytest.approx(expected, rel=1e-13)
    # of two models each is half their L1 difference away from the mean
    pair = metrics.compare_predictions(p[0], p[1])
    assert metrics.set_prediction_difference(p[:2]) == pytest.approx(pair["pd_l1"] / 2, rel=1e-13)
    assert metrics.set_prediction_difference(p[:1]) == 0


GOOD = np.full((3, 4), 0.25)
NAN, INFINITE, NEGATIVE = GOOD.copy(), GOOD.copy(), GOOD.copy()
NAN[1, 2], INFINITE[2, 0], NEGATIVE[1, 1] = np.nan, np.inf, -0.1


@pytest.mark.parametrize(
    ("p", "q", "targets", "says"),
    [
        (GOOD, GOOD[:2], None, "same shape"),
        (GOOD, np.full((3, 5), 0.2), None, "same shape"),
        (GOOD[0], GOOD[0], None, "shape (N, V)"),
        (GOOD[None], GOOD[None], None, "shape (N, V)"),
        (0.5, 0.5, None, "shape (N, V)"),
        (GOOD[:0], GOOD[:0], None, "empty"),
        (GOOD[:, :0], GOOD[:, :0], None, "empty"),
        (NAN, GOOD, None, "p must be finite: row 1"),
        (GOOD, INFINITE, None, "q must be finite: row 2"),
        (GOOD, NEGATIVE, None, "q must hold probabilities: row 1"),
        (torch.from_numpy(NAN), GOOD, None, "finite"),
        (GOOD, GOOD + 0j, None, "real"),
        (GOOD.astype(str), GOOD, None, "real"),
        (GOOD, GOOD, [0, 1], "targets"),
        (GOOD, GOOD, [[0], [1], [2]], "targets"),
        (GOOD, GOOD, [0.0, 1.0, 2.0], "integers"),
        (GOOD, GOOD, [0, 1, 4], "tokens 0…3"),
        (GOOD, GOOD, [0, 1, -1], "tokens 0…3"),
    ],
)
def test_wrong_arrays(p, q, targets, says):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        metrics.compare_predictions(p, q, targets)
    assert says in str(error.value)


@pytest.mark.parametrize("p", [GOOD, np.empty((0, 3, 4)), np.empty((2, 0, 4)), np.stack([GOOD, NAN]), -GOOD[None]])
def test_wrong_sets(p):
    with pytest.raises(ValueError):
        metrics.set_prediction_difference(p)


# -- windows ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5000), st.integers(1, 64), st.integers(1, 6000))
def test_windows_lie_inside_and_apart(n, block_size, eval_tokens):
    if n <= block_size or eval_tokens < block_size:
        with pytest.raises(UserError, match=str(block_size)):
            metrics.evaluation_windows(n, block_size, eval_tokens)
        return
    starts = metrics.evaluation_windows(n, block_size, eval_tokens)
    assert starts.dtype == np.int64
    assert len(starts) == min(eval_tokens // block_size, (n - 1) // block_size)
    assert starts[0] == 0 and starts[-1] + block_size + 1 <= n
    if len(starts) > 1:
        gaps = np.diff(starts)
        assert starts[-1] == n - block_size - 1 and gaps.min() >= block_size and np.ptp(gaps) <= 1


def test_checksum_depends_on_what_is_evaluated_and_on_nothing_else():
    tokens = np.arange(1000, dtype=np.uint16) % 50
    starts = metrics.evaluation_windows(1000, T, 160)
    first = metrics.windows_checksum(tokens, starts, T)
    assert len(first) == 64 and first == metrics.windows_checksum(tokens.astype(np.int64), list(starts), T)
    assert metrics.windows_checksum(tokens, starts[:-1], T) != first
    assert metrics.windows_checksum(tokens, starts, T - 1) != first
    shifted = starts.copy()
    shifted[3] += 50  # the same tokens at another place
    assert metrics.windows_checksum(tokens, shifted, T) != first
    changed = tokens.copy()
    changed[starts[2] + T] += 1  # a target that is no input
    assert metrics.windows_checksum(changed, starts, T) != first
    between = set(range(1000)) - {s + i for s in starts for i in range(T + 1)}
    changed = tokens.copy()
    changed[min(between)] += 1
    assert metrics.windows_checksum(changed, starts, T) == first


# -- models -------------------------------------------------------------------------------------------------------


class Lookup(torch.nn.Module):
    """Logits from a table, by token and place: their bits don't depend on how windows are batched."""

    def __init__(self, V, seed, scale=1.0, base=None):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        noise = scale * torch.randn(T, V, V, generator=generator)
        self.table = torch.nn.Parameter(noise if base is None else base.table.detach() + noise)
        self.dropout = torch.nn.Dropout(0.5)
        self.frozen = torch.nn.Dropout(0.5).eval()
        self.seen = []

    def forward(self, idx):
        self.seen.append(idx.clone())
        assert not self.training and not torch.is_grad_enabled()
        return self.dropout(self.table[torch.arange(idx.shape[1]), idx])


@pytest.fixture
def study():
    V = 23
    base = Lookup(V, 0, 2.0)
    models = [base, Lookup(V, 1, 0.3, base), Lookup(V, 2, 1e-3, base), Lookup(V, 3, 2.0)]
    for model in models:
        model.train()
        model.frozen.eval()
    tokens = np.random.default_rng(0).integers(V, size=3000).astype(np.uint16)
    starts = metrics.evaluation_windows(len(tokens), T, 100 * T)
    return models, tokens, starts


def predictions(models, tokens, starts):
    """(n, N, V) float64 probabilities and (N,) targets, at once."""
    windows = np.stack([tokens[s : s + T + 1] for s in starts]).astype(int)
    places = np.broadcast_to(np.arange(T), (len(starts), T))
    logits = np.stack([m.table.detach().numpy()[places, windows[:, :-1]] for m in models])
    return softmax(logits).reshape(len(models), -1, logits.shape[-1]), windows[:, 1:].ravel()


@pytest.mark.parametrize("compiled", [True, False])
def test_streaming_equals_one_shot(study, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(pairs, "available", lambda: False)
    models, tokens, starts = study
    W = len(starts)
    found = metrics.evaluate_models(models, tokens, starts, T)
    p, y = predictions(models, tokens, starts)
    assert (found.positions, found.windows, found.block_size, found.vocab_size) == (W * T, W, T, 23)
    for model, entry in zip(p, found.models, strict=True):
        nll = -np.log(model[np.arange(len(y)), y])
        right = model.argmax(1) == y
        assert entry["val_loss"] == pytest.approx(nll.mean(), rel=1e-6)
        assert entry["val_loss_se"] == pytest.approx(stats.sem(nll.reshape(W, T).mean(1)), rel=1e-5)
        assert entry["val_accuracy"] == pytest.approx(100 * right.mean(), rel=1e-12)
        assert entry["val_accuracy_se"] == pytest.approx(100 * stats.sem(right.reshape(W, T).mean(1)), rel=1e-9)
        assert entry["distinct_argmax"] == len(np.unique(model.argmax(1)))
        blocks = [
            b.mean() for b in np.split(nll.reshape(W, T), [w for w in range(1, W) if w * 64 // W > (w - 1) * 64 // W])
        ]
        assert entry["val_loss_by_block"] == pytest.approx(blocks, rel=1e-6) and len(blocks) == 64
    for (i, j), entry in zip(itertools.combinations(range(4), 2), found.pairs, strict=True):
        expected = by_hand(p[i], p[j], y)
        # the softmax itself is float32: for models 1e-3 apart its rounding is all that is seen in the fourth digit
        rel = 1e-6 if max(expected["relative_pd"], 0.01) > 0.01 else 1e-4
        for key, value in expected.items():
            assert entry[key] == pytest.approx(value, rel=10 * rel if key == "val_loss_difference" else rel), key
        pd = (np.abs(p[i] - p[j]).sum(1) / 2).reshape(W, T).mean(1)
        assert entry["relative_pd_se"] == pytest.approx(stats.sem(pd), rel=1e-4)
        assert entry["relative_pd_halves_difference"] == pytest.approx(abs(pd[::2].mean() - pd[1::2].mean()), abs=1e-6)
        assert len(entry["relative_pd_by_block"]) == 64
        groups = [pd[np.arange(W) * 64 // W == b].mean() for b in range(64)]
        assert entry["relative_pd_by_block"] == pytest.approx(groups, rel=1e-4)
    assert found.set_prediction_difference == pytest.approx(np.abs(p - p.mean(0)).sum(-1).mean(), rel=1e-6)
    json.dumps(asdict(found), allow_nan=False)


def numbers(evaluation):
    entries = [*evaluation.models, *evaluation.pairs, {"set": evaluation.set_prediction_difference}]
    return np.concatenate([np.ravel(value) for entry in entries for value in entry.values()]).astype(float)


# 23 tokens × 6 × 4 bytes + 6 pairs × 200 bytes = 1752 bytes a position: all; 9 windows; 1 window; 3 positions
@pytest.mark.parametrize("max_bytes", [10**9, 1752 * 8 * 9, 1752 * 8, 1752 * 3])
def test_chunks_do_not_matter(study, max_bytes):
    reference = numbers(metrics.evaluate_models(*study, T))
    found = numbers(metrics.evaluate_models(*study, T, max_block_bytes=max_bytes))
    np.testing.assert_allclose(found, reference, rtol=1e-12, atol=1e-14)  # atol: differences of losses of about 5


def test_a_model_with_itself_through_the_whole_path(study):
    models, tokens, starts = study
    entry = metrics.evaluate_models([models[0], models[0]], tokens, starts, T)
    (pair,) = entry.pairs
    assert pair.pop("total_predictions") == len(starts) * T
    assert pair.pop("relative_pd_by_block") == [0] * 64
    assert all(value == 0 for value in pair.values()), pair
    assert entry.set_prediction_difference == 0
    # three equal models among others: p̄ - p must not be rounded
    assert metrics.evaluate_models([models[0]] * 3, tokens, starts, T).set_prediction_difference == 0


def test_each_model_sees_each_window_once(study):
    models, tokens, starts = study
    metrics.evaluate_models(models, tokens, starts, T, max_block_bytes=1752 * 8 * 9)
    expected = np.stack([tokens[s : s + T] for s in starts])
    for model in models:
        assert np.array_equal(torch.cat(model.seen).numpy(), expected)
    assert len({len(model.seen) for model in models}) == 1


def test_modes_and_random_streams_are_left_alone(study):
    models, tokens, starts = study
    models[1].eval()
    buckets = metrics.probe_buckets(tokens, 23)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 — the global stream is what must not move
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    modes = [module.training for model in models for module in model.modules()]
    metrics.evaluate_models(models, tokens, starts, T)
    metrics.evaluate_loss(models[0], tokens, starts, T)
    metrics.evaluate_probe(models[0], tokens, starts, T, "cpu", buckets)
    with pytest.raises(ValueError):
        metrics.evaluate_models([*models, Lookup(24, 0)], tokens, starts, T)
    assert modes == [module.training for model in models for module in model.modules()]
    assert modes.count(False) == 3 + 3  # model 1 with its two, and the frozen one of each other
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_one_model_and_one_window(study):
    models, tokens, _ = study
    found = metrics.evaluate_models(models[:1], tokens, [5], T)
    assert found.pairs == [] and found.set_prediction_difference is None
    assert found.blocks == 1 and found.models[0]["val_loss_se"] is None
    (pair,) = metrics.evaluate_models(models[:2], tokens, [5], T).pairs
    assert pair["relative_pd_se"] is None and pair["relative_pd_halves_difference"] is None
    assert pair["relative_pd_by_block"] == [pytest.approx(pair["relative_pd"])]
    json.dumps(asdict(found), allow_nan=False)


def test_loss_where_the_probability_underflows():
    """-ln p(y) is taken from logits: a probability of e^-300 is 0 in float32, its loss is 300."""
    model = Lookup(3, 0).eval()
    with torch.no_grad():
        model.table.copy_(torch.tensor([0.0, 300.0, 0.0]))
    loss, accuracy = metrics.evaluate_loss(model, np.zeros(20, np.uint8), [0, 9], T)
    assert (loss, accuracy) == (300.0, 0.0)
    found = metrics.evaluate_models([model, model], np.zeros(20, np.uint8), [0, 9], T)
    assert found.models[0]["val_loss"] == 300 and found.models[0]["distinct_argmax"] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(study, bad):
    models, tokens, starts = study
    with torch.no_grad():
        models[2].table[3, tokens[starts[-1] + 3], 7] = bad
    with pytest.raises(ValueError, match=r"models\[2\].*not finite"):
        metrics.evaluate_models(models, tokens, starts, T)
    loss, _ = metrics.evaluate_loss(models[2], tokens, starts, T)
    assert not math.isfinite(loss) or bad == -math.inf


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"models": []}, "empty"),
        ({"starts": []}, "starts"),
        ({"starts": [[0]]}, "starts"),
        ({"starts": [0.5]}, "starts"),
        ({"starts": [-1]}, "inside"),
        ({"starts": [2992]}, "inside"),  # the last target would be token 3000 of 3000
        ({"blocks": 0}, "blocks"),
        ({"tokens": np.full(3000, 22), "models": [Lookup(23, 0), Lookup(24, 0)]}, r"models\[1\]"),
        ({"tokens": np.append(np.zeros(8, int), 23), "starts": [0]}, "vocabulary"),
    ],
)
def test_wrong_evaluations(study, change, says):
    models, tokens, starts = study
    with pytest.raises(ValueError, match=says):
        metrics.evaluate_models(**{"models": models, "tokens": tokens, "starts": starts, "block_size": T, **change})


def test_a_model_that_gives_no_logits(study):
    _, tokens, starts = study
    with pytest.raises(ValueError, match="logits of shape"):
        metrics.evaluate_models([torch.nn.Identity()], tokens, starts, T)


def test_evaluate_loss(study):
    models, tokens, starts = study
    p, y = predictions(models, tokens, starts)
    for model, expected in zip(models, p, strict=True):
        loss, accuracy = metrics.evaluate_loss(model, tokens, starts, T)
        assert loss == pytest.approx(-np.log(expected[np.arange(len(y)), y]).mean(), rel=1e-6)
        assert accuracy == pytest.approx(100 * (expected.argmax(1) == y).mean(), rel=1e-12)


# -- the probe ----------------------------------------------------------------------------------------------------


def test_buckets():
    assert np.array_equal(metrics.probe_buckets(np.zeros(9, np.uint16), 256), np.arange(256))
    tokens = np.repeat(np.arange(10), [1, 9, 3, 3, 0, 7, 2, 2, 1, 4]).astype(np.uint16)
    # by frequency 1, 5, 9, 2 (before 3, as often), then all others together
    assert metrics.probe_buckets(tokens, 10, 5).tolist() == [4, 0, 3, 4, 4, 1, 4, 4, 4, 2]


@pytest.mark.parametrize("max_buckets", [256, 23, 6])
def test_probe(study, max_buckets):
    models, tokens, starts = study
    buckets = metrics.probe_buckets(tokens, 23, max_buckets)
    p, y = predictions(models, tokens, starts)
    B = buckets.max() + 1
    coarse = p @ np.eye(B)[buckets]
    probes = []
    for model, expected in zip(models, coarse, strict=True):
        probe = metrics.evaluate_probe(model, tokens, starts, T, "cpu", buckets, max_block_bytes=23 * 8 * 8 * 5)
        assert probe.probabilities.dtype == np.float16 and probe.argmax.dtype == np.int32
        np.testing.assert_allclose(probe.probabilities, expected, rtol=6e-4, atol=1e-6)
        loss, accuracy = metrics.evaluate_loss(model, tokens, starts, T)
        assert (probe.loss, probe.accuracy) == pytest.approx((loss, accuracy), rel=1e-12)
        probes.append((probe.probabilities, probe.argmax))
    assert np.array_equal(probes[0][1], p[0].argmax(1))
    assert metrics.probe_difference(probes[0], probes[0]) == {"relative_pd": 0, "top1_mismatch_pct": 0}
    for i, j in itertools.combinations(range(4), 2):
        exact = metrics.compare_predictions(p[i], p[j])
        found = metrics.probe_difference(probes[i], probes[j])
        assert found["top1_mismatch_pct"] == exact["top1_mismatch_pct"]
        assert found["relative_pd"] == pytest.approx(np.abs(coarse[i] - coarse[j]).sum(1).mean() / 2, abs=3e-4)
        assert found["relative_pd"] <= exact["relative_pd"] + 3e-4  # a coarser partition: a lower bound


def test_wrong_probes(study):
    models, tokens, starts = study
    with pytest.raises(ValueError, match="buckets are for 30 tokens"):
        metrics.evaluate_probe(models[0], tokens, starts, T, "cpu", np.arange(30))
    with pytest.raises(ValueError, match="single token"):
        metrics.evaluate_probe(models[0], tokens, starts, T, "cpu", np.arange(23) // 2)
    probe = np.full((4, 2), 0.5, np.float16), np.zeros(4, np.int32)
    with pytest.raises(ValueError, match="different positions"):
        metrics.probe_difference(probe, (probe[0][:3], probe[1][:3]))
    with pytest.raises(ValueError, match="finite"):
        metrics.probe_difference(probe, (probe[0] * np.nan, probe[1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu(study):
    models, tokens, starts = study
    cpu = numbers(metrics.evaluate_models(models[:2], tokens, starts, T))
    for model in models:
        model.table.data = model.table.data.cuda()
    gpu = numbers(metrics.evaluate_models([models[0].cuda(), models[1].cuda()], tokens, starts, T, "cuda"))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-5, atol=1e-7)
    same = metrics.evaluate_models([models[0], models[0]], tokens, starts, T, "cuda").pairs[0]
    assert same["jensen_shannon"] == same["hellinger"] == same["relative_pd"] == 0
