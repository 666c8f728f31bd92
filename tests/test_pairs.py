"""The compiled pair sums against float64: NumPy's own formulas, SciPy's distance, and the same sums in torch."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import torch

from kernels import pairs

pytestmark = pytest.mark.skipif(not pairs.available(), reason="no C++ compiler")


def distributions(n, R, V, noise, seed=0, size=2.0):
    """n models' predictions that share a base and depart from it by `noise` in their logits: (n, R, V) float32."""
    generator = torch.Generator().manual_seed(seed)
    base = size * torch.randn(R, V, generator=generator)
    return torch.stack([torch.softmax(base + noise * torch.randn(R, V, generator=generator), -1) for _ in range(n)])


def plain(p, q):
    """The five sums of two (R, V) arrays, from their definitions in float64."""
    p, q = p.double().numpy(), q.double().numpy()
    with np.errstate(invalid="ignore"):
        ratio = np.nan_to_num(abs(p - q) / (p + q))
    m = (p + q) / 2
    shannon = scipy.special.rel_entr(p, m).sum(-1) + scipy.special.rel_entr(q, m).sum(-1)
    return [abs(p - q).sum(-1), ((p - q) ** 2).sum(-1), ratio.sum(-1), ((p**0.5 - q**0.5) ** 2).sum(-1), 2 * shannon]


@pytest.mark.parametrize("V", [1, 2, 15, 16, 17, 65, 511, 512, 513, 2000])
@pytest.mark.parametrize("noise", [0.03, 0.5, 10.0])
def test_the_sums_are_those_of_the_definitions(V, noise):
    p = distributions(3, 5, V, noise)
    sums, mass, spread = pairs.Compiled(3, V)(p)
    for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        for found, exact in zip(sums[:, k], plain(p[i], p[j]), strict=True):
            np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-13)
    exact = p.double().numpy()
    np.testing.assert_allclose(mass, exact.sum(-1), rtol=1e-6)
    np.testing.assert_allclose(spread, abs(exact - exact.mean(0)).sum((0, -1)), rtol=2e-6, atol=1e-12)


def test_jensen_shannon_is_scipys():
    p = distributions(2, 9, 300, 2.0)
    found = pairs.Compiled(2, 300)(p)[0][4, 0] / 4
    a, b = p.double().numpy()
    expected = [scipy.spatial.distance.jensenshannon(x, y) ** 2 for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_models_that_hardly_differ_keep_their_digits():
    """The terms cancel in the first two orders; torch's float32 sums and these have the digits that p - q has."""
    p = distributions(1, 8, 4096, 0.0)[0]
    q = p * (1 + 1e-3 * torch.sin(torch.arange(4096.0)))
    sums = pairs.Compiled(2, 4096)(torch.stack((p, q)))[0][:, 0]
    for found, exact in zip(sums, plain(p, q), strict=True):
        np.testing.assert_allclose(found, exact, rtol=3e-6)


def test_equal_models_differ_by_exactly_nothing():
    p = distributions(1, 4, 1000, 0.0).expand(4, -1, -1)
    sums, _, spread = pairs.Compiled(4, 1000)(p)
    assert not sums.any() and not spread.any()


def test_the_ends_of_the_range():
    """Disjoint, certain, zero and the smallest probabilities."""
    tiny = float(np.finfo(np.float32).tiny)
    p = torch.tensor([[1, 0, 0, 0.0], [0.5, 0.5, 0, 0], [1 - 1e-7, tiny, 1e-45, 0]])
    q = torch.tensor([[0, 1, 0, 0.0], [0, 0, 0.5, 0.5], [1, 0, 1e-30, 3e-38]])
    sums = pairs.Compiled(2, 4)(torch.stack((p, q)))[0][:, 0]
    for found, exact in zip(sums, plain(p, q), strict=True):
        np.testing.assert_allclose(found[:2], exact[:2], rtol=1e-6)
        assert np.isfinite(found).all()
    assert sums[4, 0] / 4 == pytest.approx(np.log(2), rel=1e-7)
    assert sums[0].tolist()[:2] == [2, 2]


def test_the_term_of_jensen_shannon_over_the_whole_range():
    """Of two tokens p = (1+x)/2, q = (1-x)/2, and the other way round: f(x) = (1+x) ln(1+x) + (1-x) ln(1-x)."""
    x = np.concatenate((np.geomspace(1e-6, 1, 4001), np.linspace(0, 1, 4001)[1:])).astype(np.float32)
    p = torch.from_numpy(np.stack(((1 + x) / 2, (1 - x) / 2), -1))
    found = pairs.Compiled(2, 2)(torch.stack((p, p.flip(-1))))[0][4, 0]
    wide = p.double().numpy()
    # what float32 makes of p and q is what is compared: (p - q) / (p + q) once more
    y = abs(wide[:, 0] - wide[:, 1]) / wide.sum(-1)
    exact = 2 * wide.sum(-1) * (scipy.special.xlog1py(1 + y, y) + scipy.special.xlog1py(1 - y, -y))
    keeps = y > 1e-5  # below, the oracle itself cancels
    np.testing.assert_allclose(found[keeps], exact[keeps], rtol=1e-6)  # a few roundings
    apart = (found / np.where(keeps, exact, np.inf) - 1)[keeps]
    assert abs(apart[: len(apart) // 64 * 64].reshape(-1, 64).mean(1)).max() < 1e-7  # what the polynomials leave
    np.testing.assert_allclose(found[~keeps], 2 * wide.sum(-1)[~keeps] * y[~keeps] ** 2, rtol=1e-6)


def test_threads_and_strides_change_no_bit():
    buffer = distributions(4, 40, 130, 1.0)
    part = buffer[:, :31]  # a slice: models are further apart than its rows are long
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(pairs.Compiled(4, 130)(part))
    finally:
        torch.set_num_threads(threads)
    copy = pairs.Compiled(4, 130)(part.clone())
    for a, b, c in zip(*found, copy, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)


def test_without_a_compiler_torchs_own_sums_are_used(monkeypatch):
    monkeypatch.setattr(pairs, "available", lambda: False)
    assert type(pairs.pair_sums(2, 10, torch.float32)) is pairs.PairSums
    monkeypatch.undo()
    assert type(pairs.pair_sums(2, 10, torch.float32)) is pairs.Compiled
    assert type(pairs.pair_sums(2, 10, torch.float64)) is pairs.PairSums


def test_a_miscompiled_kernel_is_refused(monkeypatch, tmp_path):
    source = tmp_path / "pairs.cpp"
    source.write_text(
        pairs.SOURCE.read_text(encoding="utf-8").replace("squares += d * d", "squares += d"), encoding="utf-8"
    )
    with pytest.raises(pairs.toolchain.Unavailable, match=r"departs from torch's"):
        pairs._library(source)
