"""The published study: its text says what its results say, by a second computation too; and a wrong text is noticed."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT / "findings"))

import check  # noqa: E402
import run  # noqa: E402
import write  # noqa: E402

from config import UserError  # noqa: E402
from synthetic import add_frontier, synthetic_study  # noqa: E402

published = pytest.mark.skipif(not write.FINDINGS.exists(), reason="nothing is published yet")


@published
def test_the_text_follows_from_the_results():
    assert check.compare_text() == []


@published
def test_the_outcomes_are_those_of_a_second_computation():
    assert check.compare_outcomes() == []


@published
def test_what_is_published_is_small_and_intact():
    """Every file is read with its checksum; together they are small enough for a repository."""
    studies = write.published()
    files = list(run.MEASURED.rglob("*.json"))
    assert sum(len(found.results) for found in studies.values()) == len(files) > 4
    assert sum(path.stat().st_size for path in files) < 10e6
    for name, found in studies.items():
        seeds = [t["seed"] for results in found.results.values() for t in results["trials"]]
        assert min(seeds) == run.PLAN[name].seeds_from
        assert len({len(results["trials"]) for results in found.results.values()}) == 1


@published
def test_a_changed_number_is_noticed(tmp_path, monkeypatch):
    text = write.FINDINGS.read_text(encoding="utf-8")
    place = text.index("% [") - 4
    digit = next(k for k in range(place, 0, -1) if text[k].isdigit())
    changed = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    (tmp_path / "FINDINGS.md").write_text(changed, encoding="utf-8")
    monkeypatch.setattr(write, "FINDINGS", tmp_path / "FINDINGS.md")
    assert len(check.compare_text()) == 1


@published
def test_contrasts_over_other_activations_are_not_pooled():
    studies = write.published()
    with pytest.raises(ValueError, match="contrast different activations"):
        write.pool_contrast(studies, "PD")
    alike = {name: list(some) for name, (_, some) in write.pooled_arms(studies).items()}
    assert alike["all four"] == ["A", "B", "C"] and alike["SmeLU β=1 and GELU"] == ["D64", "E", "D256"]
    assert len(alike["GELU"]) == 8 and alike["SmeLU β=0.5"] == ["A", "B", "C"]


@published
def test_a_trial_is_trained_again_by_the_code_that_trained_it(tmp_path):
    recorded = write.published()["A"].results["relu"]["trials"][2]["environment"]["git_commit"]
    if subprocess.run(["git", "cat-file", "-e", recorded], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("the repository is here without its history")
    code = check.code_of(recorded, tmp_path / "code")
    assert (code / "training" / "trial.py").is_file() and (code / "findings" / "PLAN.md").is_file()
    assert not (code / "findings" / "measured").exists()  # the plan was there before the data
    with pytest.raises(UserError, match="is not here: clone the repository with its history"):
        check.code_of("0" * 40, tmp_path / "other")


def test_holm_written_out_is_that_of_the_project():
    p = np.random.default_rng(0).uniform(size=7).tolist() + [0.5, 0.5]
    assert check.holm(p) == pytest.approx(write.significance.holm(p))


def planted(n=12, seed=0, **ratios):
    """Results of five activations, with their PD at those ratios of ReLU's."""
    study = synthetic_study(n_trials=n, pd=0.14, val_loss=1.8, spread=0.02, seed=seed)
    for name, results in study.items():
        for pair in results["reproducibility_metrics"]:
            pair["relative_pd"] *= ratios.get(name, 1.0)
        add_frontier(results)
    return study


def test_planted_answers_are_found():
    """One tenth lower, equal, and one tenth higher, on the final models and at equal loss."""
    smooth = ("smelu_05", "smelu_1", "gelu", "swish")
    for ratio, kind, said in (
        (0.9, "lower", "Yes"),
        (1.0, "equal", "No: practically"),
        (1.1, "higher", "No, the opposite"),
    ):
        found = write.Published("A", planted(**dict.fromkeys(smooth, ratio)))
        outcomes = write.outcomes(found.study)
        assert [o.kind for o in outcomes.values()] == [kind, kind]
        assert write.answer(*(o.kind for o in outcomes.values())).startswith(said)
        assert np.isclose(outcomes["PD"].test.effect, ratio, rtol=0.03)
        for quantity, outcome in outcomes.items():
            mine = check.contrast(json.loads(json.dumps(found.results)), quantity)
            test = outcome.test
            np.testing.assert_allclose(mine, (test.effect, test.low, test.high, test.p), rtol=1e-9, atol=1e-300)


def test_every_answer_of_the_plan_is_there():
    """The plan's table, read from its text."""
    plan = (ROOT / "findings" / "PLAN.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in plan[plan.index("| final |") :].splitlines() if line.startswith("|")]
    short = {"equal or not shown": ("equal", "not shown"), "anything else": ("not shown",)}
    for final, equal, answer in rows[2:]:
        for f in short.get(final.strip(), (final.strip(),)):
            for e in short.get(equal.strip(), (equal.strip() or "not shown",)):
                assert write.answer(f, e)[:9] == answer.strip()[:9]


def test_halves_and_odd_against_even():
    found = write.Published("A", planted())
    first, second = write.half(found, False), write.half(found, True)
    assert first.measured["relu"].pd_ids == [1, 2, 3, 4, 5, 6] and second.measured["relu"].pd_ids == [
        7,
        8,
        9,
        10,
        11,
        12,
    ]
    whole = found.study.measured["relu"].pd()
    np.testing.assert_array_equal(second.measured["relu"].pd(), whole[6:, 6:])
    twice = write.same_twice(found)
    assert twice["PD"].n == (6, 6) and twice["PD"].low < 1 < twice["PD"].high
    odd, even = whole[::2, ::2], whole[1::2, 1::2]
    off = ~np.eye(6, dtype=bool)
    assert np.isclose(twice["PD"].effect, odd[off].mean() / even[off].mean())


def test_short_studies_are_named():
    short = write.Published("A", planted(n=4))
    assert not short.complete and write.Published("A", planted(n=12)).complete
    lacking = copy.deepcopy(planted(n=12))
    del lacking["swish"]
    assert not write.Published("A", lacking).complete
