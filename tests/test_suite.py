"""The audit of foreign suites by itself; test_compare.py plants faults among real models."""

import itertools

import numpy as np
import pytest
import torch

from bench import suites as bench
from conftest import cases
from questions.foreign import suite
from questions.foreign.member import Member, Weights, copied_at, describe_weights

SHARED = Weights(1, "same", "float32", {}, [])


def examined(n=8, groups=("a", "b"), **changes):
    """n members in equal groups with unremarkable numbers; `changes` {field: {number: value}}."""
    rng = np.random.default_rng(0)
    members = []
    for k in range(n):
        group = groups[k * len(groups) // n]
        sample = [rng.standard_normal((64, 64)).astype(np.float32)]
        fields = {"measured": {"val_loss": 2.0 + 0.01 * rng.standard_normal()}, "noise": {"own_pd_batch": 1e-8}}
        fields |= {"weights": Weights(4096, f"w{k}", "float32", {}, sample), "steps": 100, "context": 64}
        fields |= {name: values[k] for name, values in changes.items() if k in values}
        members.append(Member(group=group, name=f"{group}/{k}", **fields))
    return members


def distances(members, within=0.1, between=0.12, jitter=0.05, seed=0):
    rng = np.random.default_rng(seed)
    pd = np.zeros((len(members), len(members)))
    for i, j in itertools.combinations(range(len(members)), 2):
        typical = within if members[i].group == members[j].group else between
        pd[i, j] = pd[j, i] = typical * (1 + jitter * rng.standard_normal())
    return pd


def check(members, pd, unigram=3.0):
    return suite.check(members, pd, unigram, 64, 256)


def failed(checks):
    return {
        (group, c["name"]): c["measured"] for group, cs in checks.items() for c in cs if c["status"] in ("fail", "hint")
    }


def test_honest_members_are_not_accused_and_faults_are_found():
    """Honest suites of 2 to 20 members with 0, 1 and 2 broken ones, and planted faults: bench/suites.py in small."""
    assert bench.measured() == (0, 0, 28)
    for case, (found, accused, suites) in bench.simulated(cases(200, 2)).items():
        assert accused == 0, case
        assert case.startswith("honest") or found >= 0.99 * suites, case


def test_two_groups_are_no_copies_of_one_another():
    """Over sizes, spreads and ratios between and within groups: no false alarm in 50 suites."""
    rng = np.random.default_rng(1)
    for trial in range(50):
        members = examined(int(rng.integers(2, 9)) * 2)
        pd = distances(members, 0.1, rng.uniform(0.05, 0.5), rng.uniform(0.01, 0.08), trial)
        assert failed(check(members, pd)) == {}


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "quantised"])
def test_copies_at_any_precision_are_known_by_their_weights(precision):
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{k}": 0.02 * torch.randn(96, 64, generator=generator) for k in range(3)}
    if precision == "quantised":
        copy = {n: (w / (w.abs().max() / 127)).round() * (w.abs().max() / 127) for n, w in weights.items()}
    else:
        copy = {n: w.to(getattr(torch, precision)).float() for n, w in weights.items()}
    tuned = {n: w + 1e-4 * torch.randn(96, 64, generator=generator) for n, w in weights.items()}
    a, b, c = (describe_weights(named.items(), "here") for named in (weights, copy, tuned))
    assert copied_at(a, b) == precision and copied_at(b, a) is None
    assert copied_at(a, c) is None and copied_at(c, b) is None and copied_at(b, c) is None


@pytest.mark.parametrize("n", [3, 4, 8])
def test_an_outlier_is_named_and_its_group_alone_fails(n):
    members = examined(2 * n)
    pd = distances(members)
    pd[n - 1, : n - 1] = pd[: n - 1, n - 1] = 0.3
    failures = failed(check(members, pd))
    assert set(failures) == {("a", "no outlier")} and f"a/{n - 1} differs from its group" in failures["a", "no outlier"]


def test_what_two_groups_share_fails_in_both():
    members = examined(weights={1: SHARED, 6: SHARED})
    failures = failed(check(members, distances(members)))
    assert set(failures) == {("a", "distinct members"), ("b", "distinct members")}
    assert failures["b", "distinct members"] == "a/1 and b/6 have identical weights"


def test_different_steps_are_a_hint_that_fails_nothing():
    members = examined(steps={2: 200})
    checks = check(members, distances(members))
    hints = [c for cs in checks.values() for c in cs if c["status"] == "hint"]
    assert len(hints) == 1 and "a/1 100, a/2 200" in hints[0]["measured"]
    assert not any(c["status"] == "fail" for cs in checks.values() for c in cs)


def test_what_is_not_known_is_not_applicable():
    bare = [Member(group="a", name=f"a/{k}") for k in range(2)]
    checks = suite.check(bare, distances(bare), 3.0, 64, None)["a"]
    assert {c["name"] for c in checks if c["status"] == "not applicable"} == {
        "causal", "weights taken", "text given back", "one vocabulary", "within context", "own noise", "not broken",
        "no outlier", "one architecture", "nothing in common", "same steps",
    }  # fmt: skip
