"""The audit of foreign suites: planted faults are named with their members, and a sound suite raises no alarm."""

import itertools

import numpy as np
import pytest
import torch

from bench import suites as bench
from compare import compare_models
from conftest import cases, pseudo_english
from questions.foreign import suite
from questions.foreign.member import Member, Weights, copied_at, describe_weights

transformers = pytest.importorskip("transformers")
from own_models import save, trained  # noqa: E402

TEXT = pseudo_english(64_000)[60_000:]
SEEDS = range(1, 5)
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
    found = failed(check(members, pd))
    assert set(found) == {("a", "no outlier")} and f"a/{n - 1} differs from its group" in found["a", "no outlier"]


def test_what_two_groups_share_fails_in_both():
    members = examined(weights={1: SHARED, 6: SHARED})
    found = failed(check(members, distances(members)))
    assert set(found) == {("a", "distinct members"), ("b", "distinct members")}
    assert found["b", "distinct members"] == "a/1 and b/6 have identical weights"


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


# -- real models --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(corpus_file):
    return {k: trained("gpt2", corpus_file.read_text(encoding="utf-8"), k) for k in SEEDS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, seeds):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "my.txt").write_text(TEXT, encoding="utf-8")
    for k, model in seeds.items():
        save(model, folder / f"seed_{k}")
    return folder


def alarms(runs, out, paths, **options):
    """What the comparison of one group says, by check."""
    results = compare_models(
        {"g": paths}, runs / "my.txt", out=out, positions=512, device="cpu", report=False, **options
    ).results["g"]
    return {c["name"]: c["measured"] for c in results["audit"]["checks"] if c["status"] in ("fail", "hint")}


def sound(runs):
    return [runs / f"seed_{k}" for k in SEEDS]


def half(model):
    copy = transformers.AutoModelForCausalLM.from_config(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.bfloat16()


def test_a_sound_suite_of_models_raises_no_alarm(runs, tmp_path):
    assert alarms(runs, tmp_path, sound(runs)) == {}


def quantised(model):
    copy = transformers.AutoModelForCausalLM.from_config(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in copy.parameters():  # 8 bits to each tensor
            scale = p.abs().max() / 127
            p.copy_((p / scale).round() * scale)
    return copy


# what is planted beside the sound members: (the model, from those by seed and the text; the check; what it says)
FAULTS = {
    "identical": (
        lambda seeds, text: seeds[2], "distinct members", ["g/seed_2 and g/seed_5", "identical weights"]),
    "outlier": (lambda seeds, text: trained("gpt2", text, 5, steps=30), "no outlier", ["g/seed_5"]),
    "other text": (
        lambda seeds, text: trained("gpt2", pseudo_english(60_000, seed=7), 5), "no outlier", ["g/seed_5 has loss"]),
    "copy": (
        lambda seeds, text: half(seeds[3]), "no copies", ["g/seed_3 and g/seed_5", "another precision (bfloat16)"]),
    "quantised": (
        lambda seeds, text: quantised(seeds[1]), "no copies",
        ["g/seed_1 and g/seed_5", "another precision (quantised)"]),
    "random": (lambda seeds, text: trained("gpt2", text, 5, steps=0), "not broken", ["g/seed_5 has loss"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(runs, seeds, tmp_path, corpus_file, fault):
    planted, name, says = FAULTS[fault]
    added = save(planted(seeds, corpus_file.read_text(encoding="utf-8")), tmp_path / "seed_5")
    measured = alarms(runs, tmp_path / "out", [*sound(runs), added])
    assert name in measured and all(part in measured[name] for part in says), measured
    others = {"degenerate"} if fault in ("random", "outlier") else set()  # which they are, too
    assert set(measured) - (others - {name}) == {name}


def test_a_member_of_fewer_steps_is_named(runs, seeds, tmp_path):
    paths = [save(model, tmp_path / f"run_{k}", steps=50 if k == 4 else 100) for k, model in seeds.items()]
    ((name, measured),) = alarms(runs, tmp_path / "out", paths).items()
    assert name == "same steps" and "100" in measured and "50" in measured
