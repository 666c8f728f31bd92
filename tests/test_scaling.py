"""The third study: its numbers counted again from the published results with NumPy alone; its text; its rule."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

FINDINGS = Path(__file__).parent.parent / "findings"


def loaded(name):
    """By its place: findings/edge has modules of the same names."""
    spec = importlib.util.spec_from_file_location(f"scaling_{name}", FINDINGS / "scaling" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compute, predict, tell = map(loaded, ("compute", "predict", "tell"))


def counted_again(study, activation):
    """{steps: mean PD over the pairs of the branch}, of the JSON alone."""
    path = FINDINGS / "scaling" / "measured" / study / "results" / f"{activation}_results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    found = {results["config"]["max_iters"]: results["reproducibility_metrics"]}
    found |= {branch["ends"]: branch["pairs"] for branch in results["frontier"]}
    return {steps: np.mean([pair["relative_pd"] for pair in pairs]) for steps, pairs in found.items()}


@pytest.fixture(scope="module")
def published():
    return tell.cells()


def test_every_pd_is_that_of_the_results(published):
    for study, of in published.items():
        for activation, cells in of.items():
            again = counted_again(study, activation)
            assert sorted(again) == [cell.steps for cell in cells]
            for cell in cells:
                n = len(cell.pd)
                assert cell.pd.sum() / (n * (n - 1)) == pytest.approx(again[cell.steps], rel=1e-12)


def test_the_prediction_is_that_of_the_rule(published):
    """Least squares over twelve cells, read at the held-out ones, whose width and length are in none of them."""
    prediction = json.loads((FINDINGS / "scaling" / "prediction.json").read_text(encoding="utf-8"))
    for activation, of in prediction.items():
        cells = [cell for study in predict.FITTED for cell in published[study][activation]]
        design = np.array([[1, math.log(c.width), math.log(c.steps)] for c in cells])
        y = np.log([c.pd.sum() / (len(c.pd) * (len(c.pd) - 1)) for c in cells])
        law = np.linalg.lstsq(design, y, rcond=None)[0]
        assert of["exponents"]["width"][0] == pytest.approx(law[1], rel=1e-9)
        for p in of["cells"]:
            pd = math.exp(law @ [1, math.log(p["width"]), math.log(p["steps"])])
            assert p["pd"] == pytest.approx(pd, rel=1e-9)
            assert p["width"] > 128 or p["steps"] > 5200


def test_what_is_said_first_follows_the_plans_rule():
    """14 of 16 inside: it predicts; 13: it failed, and where; fewer measured: under way."""
    row = ["ReLU", "64", "10400", "0.1000 [0.0900, 0.1100]", "0.1020", "inside"]
    off = ["GELU", "256", "650", "0.1000 [0.0900, 0.1100]", "0.1300", "**outside**"]
    said = tell.verdict([row] * 14 + [off] * 2)
    assert said.startswith("**The power law of twelve cells predicts**: 14 of 16 ") and "GELU of width 256" in said
    assert said.endswith("after 650 steps, +30.0 %")
    said = tell.verdict([row] * 13 + [off] * 3)
    assert said.startswith("**The law failed beyond its data**: 13 of 16 ") and "not GELU 256/650" in said
    assert tell.verdict([row] * 14 + [[*off[:4], "–", "not trained yet"]] * 2).startswith("Under way: 14 of 16 ")


def test_the_slopes_of_the_ratio(published):
    """Of pseudo-values by their definition, each cell's weight by what least squares make of a 1 in its place."""
    rows = []  # study, width, steps, each seed's difference
    for study in (name for name in published if name[0] != "L"):
        logs = {}
        for activation in ("relu", "gelu"):
            path = FINDINGS / "scaling" / "measured" / study / "results" / f"{activation}_results.json"
            results = json.loads(path.read_text(encoding="utf-8"))
            branches = {results["config"]["max_iters"]: results["reproducibility_metrics"]}
            branches |= {branch["ends"]: branch["pairs"] for branch in results["frontier"]}
            for steps, pairs in branches.items():
                pd = {frozenset(map(int, p["model_pair"].split("_vs_"))): p["relative_pd"] for p in pairs}
                seeds, mean = sorted(set().union(*pd)), np.mean(list(pd.values()))
                without = np.array([np.mean([v for pair, v in pd.items() if k not in pair]) for k in seeds])
                logs[activation, steps] = np.log(mean) + (len(seeds) - 1) * (1 - without / mean)
        width = results["config"]["n_embd"]
        rows += [(study, width, steps, logs["gelu", steps] - logs["relu", steps]) for steps in branches]
    design = np.array([[1, math.log(width), math.log(steps)] for _, width, steps, _ in rows])
    for k, (value, low, high) in enumerate(tell.slopes_of_the_ratio(published), 1):
        weights = [np.linalg.lstsq(design, unit, rcond=None)[0][k] for unit in np.eye(len(rows))]
        by_study = {}
        for w, (study, *_, d) in zip(weights, rows, strict=True):
            by_study[study] = by_study.get(study, 0) + w * d
        assert value == pytest.approx(sum(d.mean() for d in by_study.values()), rel=1e-9)
        errors = np.array([np.var(d, ddof=1) / len(d) for d in by_study.values()])
        freedom = errors.sum() ** 2 / (errors**2 / 4).sum()  # five seeds of each
        half = stats.t.ppf(0.975, freedom) * math.sqrt(errors.sum())
        assert (low, high) == pytest.approx((value - half, value + half), rel=1e-9)


def test_the_text_is_up_to_date():
    assert (FINDINGS / "FINDINGS3.md").read_text(encoding="utf-8") == tell.told()


def test_rates_are_the_lowest_within_two_thousandths():
    for width in (32, 64, 128, 256):
        chosen = json.loads((FINDINGS / "scaling" / "measured" / f"rate_{width}.json").read_text(encoding="utf-8"))
        assert compute.chosen({float(k): v for k, v in chosen["losses"].items()}) == chosen["rate"]
        assert compute.rate_of(width, 0) == chosen["rate"]
    assert compute.chosen({1e-3: 2.0015, 2e-3: 2.0}) == 1e-3


def test_what_is_published_is_not_trained_again():
    assert compute.published("W64", 5)
    assert not compute.published("W64", 8)
    assert not compute.published("nowhere", 5)
