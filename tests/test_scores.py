"""The referee: published tables beside SciPy, tables that are wrong, trackers' files, samples, looks, the command."""

import contextlib
import io
import json
import math
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from string import Template

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from config import UserError
from questions.scores import decide, decide_samples
from questions.scores.command import main
from questions.scores.reading import Table, read
from questions.scores.samples import adjusted_wald, clopper_pearson, cluster_mean, mcnemar
from questions.scores.sources import arm_and_seed

ROOT = Path(__file__).parent.parent
PUBLIC = tomllib.loads((ROOT / "tests/public_scores.toml").read_text(encoding="utf-8"))["table"]
OURS, BASE = [1.05906444, 1.06059202, 1.06129561], [1.05989454, 1.06124613, 1.06208695]


# -- verdicts beside SciPy ----------------------------------------------------------------------------------------


def by_scipy(arms, options, paired):
    """[(difference, low, high, p)] of each comparison, p before adjusting, by SciPy and NumPy alone."""
    x = {name: np.array(values) for name, values in arms.items()}
    alternative = {None: "two-sided", "lower": "less", "higher": "greater"}[
        options.get("better") if options.get("one_sided") else None
    ]
    level = 1 - options.get("alpha", 0.05)
    if "against" in options:
        results = [scipy.stats.ttest_1samp(v, options["against"], alternative=alternative) for v in x.values()]
        means = [v.mean() - options["against"] for v in x.values()]
        intervals = [np.array(r.confidence_interval(level)) - options["against"] for r in results]
        return [(m, *i, r.pvalue) for m, i, r in zip(means, intervals, results, strict=True)]
    baseline = options.get("baseline", list(x)[-1])
    others = [name for name in x if name != baseline]
    if len(others) > 2:  # moderated: Smyth 2004 with two degrees of freedom of the family's
        d = np.array([x[name] - x[baseline] for name in others])
        n, variances = d.shape[1], d.var(axis=1, ddof=1)
        se = np.sqrt((2 * variances.mean() + (n - 1) * variances) / (n + 1) / n)
        half = scipy.stats.t.ppf(0.975, n + 1) * se
        means = d.mean(axis=1)
        p = 2 * scipy.stats.t.sf(np.abs(means / se), n + 1)
        return list(zip(means, means - half, means + half, p, strict=True))
    if paired:
        results = [scipy.stats.ttest_rel(x[name], x[baseline]) for name in others]
    else:
        results = [scipy.stats.ttest_ind(x[name], x[baseline], equal_var=False) for name in others]
    means = [x[name].mean() - x[baseline].mean() for name in others]
    return [(m, *r.confidence_interval(level), r.pvalue) for m, r in zip(means, results, strict=True)]


@pytest.mark.parametrize("table", PUBLIC, ids=[t["source"][-22:] for t in PUBLIC])
def test_published_tables_are_decided_as_scipy_decides_them(table):
    answer = decide(table["text"], **table["options"])
    expected = by_scipy(table["arms"], table["options"], table.get("paired", False))
    adjusted = multipletests([p for *_, p in expected], method="holm")[1]
    assert {name: list(arm["values"].values()) for name, arm in answer.arms.items()} == table["arms"]
    assert len(answer.rulings) == len(expected)
    for ruling, (difference, low, high, _), p in zip(answer.rulings, expected, adjusted, strict=True):
        assert ruling.comparison.effect == pytest.approx(difference, abs=1e-12)
        assert ruling.p == pytest.approx(p, rel=1e-9)
        for ours, theirs in ((ruling.low, low), (ruling.high, high)):
            assert (math.inf if ours is None else abs(ours)) == pytest.approx(abs(theirs), rel=1e-9)
        assert (ruling.kind in ("lower", "higher")) == (p < table["options"].get("alpha", 0.05))


@pytest.mark.parametrize(
    ("source", "p", "options"),
    [
        ("pull/235", 0.006, {}), ("CautiousWD", 0.0018, {}), ("pull/1902", 0.00492, {}),
        ("pull/1902", 0.455, {"paired": False}),
    ],
)  # fmt: skip
def test_p_is_the_one_that_was_published(source, p, options):
    table = next(t for t in PUBLIC if source in t["source"])
    assert decide(table["text"], **table["options"] | options).rulings[0].p == pytest.approx(p, rel=0.02)


def test_the_worked_example_of_the_method():
    answer = decide({"ours": OURS, "baseline": BASE}, margin=0.005, better="lower")
    c = answer.rulings[0].comparison
    assert (c.effect, c.sd, c.t, c.p) == pytest.approx((-0.00075852, 0.00009247, -14.207, 0.00492), rel=5e-4)
    rel = scipy.stats.ttest_rel(OURS, BASE)
    assert (c.t, c.p, c.low, c.high) == pytest.approx((rel.statistic, rel.pvalue, *rel.confidence_interval()), rel=1e-9)
    assert str(answer).split("\n")[0] == (
        "ours is lower than baseline by 0.00076 [0.00053, 0.00099], p = 0.0049, 3 seeds, paired: shown (better); "
        "less than the margin of 0.005"
    )
    assert answer.holds("better") and answer.holds("not-worse") and answer.holds("equal") and answer.holds("different")
    assert not decide({"ours": OURS, "baseline": BASE}, better="lower", paired=False).holds("different")


def test_equal_open_and_worse_are_told_apart():
    rng = np.random.default_rng(0)
    base, noise = rng.normal(3, 0.01, 8), rng.normal(0, 0.001, 8)
    table = {"same": base + noise, "worse": base + 0.1 + noise, "wild": base + rng.normal(0, 0.1, 8), "base": base}
    answer = decide(table, margin="1%", better="lower")
    assert [r.kind for r in answer.rulings] == ["equal", "higher", "open"]
    assert answer.settings["margin"] == pytest.approx(0.01 * base.mean())
    assert "practically equal" in answer.rulings[0].text and "(worse)" in answer.rulings[1].text
    assert "would be seen 4 times in 5; about" in answer.rulings[2].text
    assert [r.p_not_worse < 0.05 for r in answer.rulings] == [True, False, False]


def test_not_worse_is_one_one_sided_test_at_the_margin():
    x, y = np.array([3.1, 3.3, 3.2, 3.4]), np.array([3.0, 3.25, 3.2, 3.3])
    ruling = decide({"x": x, "y": y}, margin=0.2, better="lower").rulings[0]
    assert ruling.p_not_worse == pytest.approx(scipy.stats.ttest_rel(x - 0.2, y, alternative="less").pvalue, rel=1e-9)


def test_fewer_than_three_seeds_get_numbers_and_no_verdict():
    for n in (1, 2):
        answer = decide({"ours": OURS[:n], "baseline": BASE[:n]})
        assert answer.rulings[0].kind == "no test" and "no verdict" in str(answer)
        assert not answer.holds("different")


def test_looks_raise_the_bar_and_must_be_planned():
    table = {"ours": OURS, "baseline": BASE}
    once, looked = decide(table), decide(table, looks=(3, 5, 8))
    assert looked.rulings[0].p > 2 * once.rulings[0].p
    assert looked.rulings[0].low < once.rulings[0].low and "at any of the looks" in str(looked)
    with pytest.raises(UserError, match="there are 3 seeds"):
        decide(table, looks=(5, 8))
    with pytest.raises(UserError, match="different numbers of seeds"):
        decide({"a": OURS, "b": [*BASE, 1.06]}, looks=(3, 5))


def test_suspicions():
    close = decide({"close": [3.281, 3.2885, 3.296], "other": [3.20, 3.35, 3.29, 3.24, 3.31, 3.22]}, paired=False)
    assert any("close: 3 seeds lie within 0.015 where others spread 0.15" in w for w in close.warnings)
    copied = decide({"a": [3.27161, 3.28392, 3.29123], "b": [3.29971, 3.28392, 3.24817]}, paired=False)
    assert any("stands 2 times (a 2, b 2)" in w for w in copied.warnings)
    assert any("coarse" in w for w in decide({"a": [91.2, 91.2, 91.3], "b": [91.1, 91.2, 91.2]}).warnings)
    assert any("sorted lists" in w for w in decide({"a": OURS, "b": BASE}).warnings)
    by_chance = decide({"a": sorted(OURS) + [1.07], "b": sorted(BASE) + [1.08]})
    assert "their places are no seeds" in str(by_chance) and "not paired" in by_chance.rulings[0].text


# -- tables: read rightly and said, or refused in one line ---------------------------------------------------------

LONG = "arm,seed,value\na,1,3.1\na,2,3.2\na,3,3.3\nb,1,3.0\nb,2,3.15\nb,3,3.1\n"
A3, B3 = [3.1, 3.2, 3.3], [3.0, 3.15, 3.1]
TABLES = tomllib.loads((ROOT / "tests/score_tables.toml").read_text(encoding="utf-8"))
RIGHT, WRONG = ({table["case"]: table for table in TABLES[kind]} for kind in ("right", "wrong"))


@pytest.mark.parametrize("case", RIGHT)
def test_a_table_is_read_in_every_form(case):
    text, options = RIGHT[case]["text"], RIGHT[case].get("options", {})
    table = read(text, **options)
    arms = {name: [v for s, v in seeds.items() if s != "4"] for name, seeds in table.arms.items()}
    expected = {"first": A3, "second": B3} if case == "seeds on lines" else {"a": A3, "b": B3}
    assert arms == expected and RIGHT[case].get("note", "") in " ".join(table.notes)
    decide(text, **options)


@pytest.mark.parametrize("case", WRONG)
def test_a_table_that_cannot_be_decided_is_refused_in_one_line(case, tmp_path, capsys):
    (tmp_path / "table.csv").write_text(WRONG[case]["text"], encoding="utf-8")
    assert main(["--scores", str(tmp_path / "table.csv")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and len(said.err) < 400
    assert re.search(WRONG[case]["says"], said.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "c"}, "no such arm; there are a, b"),
        ({"margin": 0}, "above 0"),
        ({"margin": "-1%"}, "above 0"),
        ({"margin": "much"}, "must be a number"),
        ({"alpha": 1}, "between 0 and 0.5"),
        ({"better": "up"}, "'lower' or 'higher'"),
        ({"one_sided": True}, "for a one-sided test"),
        ({"against": 3, "baseline": "b"}, "not both"),
        ({"against": "x"}, "must be a number"),
        ({"value": "c"}, "must be one of"),
        ({"looks": (2, 3)}, "at least 3"),
        ({"where": ("seed",)}, "no row of numbers"),
        ({"arm": "nobody"}, "must be one of"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        decide(LONG, **options)


def test_seeds_decide_how_is_compared():
    assert "paired" in decide(LONG).rulings[0].text and "not paired" in decide(LONG, paired=False).rulings[0].text
    other = decide(LONG.replace("b,1", "b,7").replace("b,2", "b,8").replace("b,3", "b,9"))
    assert "not paired" in other.rulings[0].text and "0 seeds are shared" in str(other)
    partly = decide(LONG + "a,4,3.2\nb,5,3.1\n")
    assert "4 of a, 5 of b is in one alone" in str(partly) and partly.rulings[0].comparison.n == (3, 3)
    with pytest.raises(UserError, match="share 0 seeds"):
        decide(LONG.replace("b,1", "b,7").replace("b,2", "b,8").replace("b,3", "b,9"), paired=True)


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"arm": ["a"] * 3 + ["b"] * 3, "seed": [1, 2, 3] * 2, "value": A3 + B3})
    assert read(frame).arms == read(frame.pivot(index="seed", columns="arm", values="value")).arms == read(LONG).arms


# -- trackers, harnesses, logs ------------------------------------------------------------------------------------

RUNS = {f"{arm}-seed{seed}": value for arm, x in (("a", A3), ("b", B3)) for seed, value in enumerate(x, 1)}


TRACKERS = tomllib.loads((ROOT / "tests/tracker_files.toml").read_text(encoding="utf-8"))


def leave(tracker, folder):
    """Files of all runs, as the tracker leaves them."""
    parts = TRACKERS[tracker]
    with contextlib.closing(sqlite3.connect(folder / "all.db" if "rows" in parts else ":memory:")) as database:
        for statement in parts.get("tables", ()):
            database.execute(statement)
        for number, (run, value) in enumerate(RUNS.items()):
            blanks = {"run": run, "arm": run[0], "seed": run[-1], "value": value, "id": f"{number:032x}"}
            for name, text in parts.get("files", {}).items():
                path = folder / Template(name).substitute(blanks)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(Template(text).substitute(blanks), encoding="utf-8")
            for statement in parts.get("rows", ()):
                database.execute(Template(statement).substitute(blanks))
        database.commit()


def check_read(folder, options):
    arms = read(folder, **options).arms
    assert arms == {n: {s: pytest.approx(v, rel=1e-6) for s, v in x.items()} for n, x in read(LONG).arms.items()}
    assert decide(folder, **options).rulings[0].p == pytest.approx(decide(LONG).rulings[0].p, rel=1e-4)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_runs_are_read_from_where_they_are(tracker, tmp_path):
    leave(tracker, tmp_path)
    check_read(tmp_path, TRACKERS[tracker].get("options", {}))


def test_runs_are_read_from_events_of_tensorboard(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for run, value in RUNS.items():
        writer = EventFileWriter(str(tmp_path / run))
        for step, loss in ((1, 9.0), (2, value)):
            summary = Summary(value=[Summary.Value(tag="val_loss", simple_value=loss)])
            writer.add_event(Event(wall_time=step, step=step, summary=summary))
        writer.close()
    check_read(tmp_path, {})


def test_results_of_this_project_are_decided_as_scipy_decides_them():
    folder = ROOT / "findings/measured/A/results"
    loss = {}
    for file in folder.glob("*_results.json"):
        results = json.loads(file.read_text(encoding="utf-8"))
        loss[results["activation"]] = [t["val_loss"] for t in sorted(results["trials"], key=lambda t: t["seed"])]
    answer = decide(folder, baseline="relu")
    order = [ruling.arm for ruling in answer.rulings]
    expected = by_scipy({name: loss[name] for name in [*order, "relu"]}, {}, True)
    adjusted = multipletests([p for *_, p in expected], method="holm")[1]
    assert [r.p for r in answer.rulings] == pytest.approx(adjusted, rel=1e-9) and len(loss) == 5
    assert all(r.comparison.n == (16, 16) for r in answer.rulings)


def test_runs_of_named_arms_and_what_is_refused(tmp_path):
    leave("logs", tmp_path)
    table = read([f"x={tmp_path}/a-*.log", f"y={tmp_path}/b-*.log"], pattern=r"val loss ([0-9.]+)")
    assert table.arms == {"x": dict(zip("123", A3, strict=True)), "y": dict(zip("123", B3, strict=True))}
    for options, message in (
        ({}, "logs need --pattern"),
        ({"pattern": "("}, "pattern"),
        ({"pattern": "loss"}, "one group"),
        ({"pattern": "zz(.)"}, "no match"),
    ):
        with pytest.raises(UserError, match=message):
            read(tmp_path, **options)
    folder = tmp_path / "eval"
    folder.mkdir()
    leave("harness", folder)
    with pytest.raises(UserError, match="which metric.*arc/acc, gsm8k/exact_match,strict-match"):
        read(folder)
    with pytest.raises(UserError, match="no such file or folder"):
        read("nowhere.csv")
    again = folder / "a-seed1" / "results_2026-01-02T00-00-00.0.json"
    again.write_text(json.dumps({"results": {"arc": {"acc,none": 0.5}}}), encoding="utf-8")
    with pytest.raises(UserError, match="there are two runs a-seed1"):
        read(folder, value="acc")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu-seed1337", ("gelu", "1337")), ("relu_s3", ("relu", "3")), ("gelu/seed_2", ("gelu", "2")),
        ("seed42_gelu", ("gelu", "42")), ("relu-3", ("relu", "3")), ("gpt2-run7", ("gpt2", "7")),
        ("lr3", ("lr3", None)), ("baseline", ("baseline", None)),
    ],
)  # fmt: skip
def test_arm_and_seed_of_a_name(name, expected):
    assert arm_and_seed(name) == expected


# -- samples ------------------------------------------------------------------------------------------------------


def sample_files(folder, seed):
    """Two systems' samples as lm-evaluation-harness writes them; the outcomes as arrays."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 400))
    ours = rng.random(n) < 0.6
    theirs = np.where(rng.random(n) < 0.15, ~ours, ours)
    for name, outcomes in (("ours", ours), ("base", theirs)):
        lines = [
            {"doc_id": i, "doc": {"q": "?"}, "target": "A", "prompt_hash": str(i), "filter": "none", "acc": float(x)}
            for i, x in enumerate(outcomes)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return ours, theirs


@pytest.mark.parametrize("seed", range(15))
def test_mcnemar_is_that_of_statsmodels(seed, tmp_path):
    ours, theirs = sample_files(tmp_path, seed)
    flips = decide_samples([f"ours={tmp_path}/ours.jsonl", f"base={tmp_path}/base.jsonl"]).flips[0]
    table = [[(ours & theirs).sum(), (ours & ~theirs).sum()], [(~ours & theirs).sum(), (~ours & ~theirs).sum()]]
    assert flips.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, abs=1e-12)
    assert (flips.won, flips.lost, flips.examples) == (table[0][1], table[1][0], len(ours))
    assert flips.difference == pytest.approx(ours.mean() - theirs.mean(), abs=1e-12)
    assert flips.lost_limits == pytest.approx(
        tuple(scipy.stats.binomtest(int(flips.lost), len(ours)).proportion_ci()), abs=1e-9
    )


def test_flips_by_hand(tmp_path):
    """Ten questions: both right on 1 to 4, ours alone on 5 to 7, the baseline alone on 8, neither on 9 and 10."""
    rows = ["question,ours,baseline"] + [f"{i},{int(i < 8)},{int(i < 5 or i == 8)}" for i in range(1, 11)]
    (tmp_path / "both.csv").write_text("\n".join(rows), encoding="utf-8")
    flips = decide_samples(tmp_path / "both.csv").flips[0]
    assert (flips.won, flips.lost, flips.examples, flips.difference) == (3, 1, 10, pytest.approx(0.2))
    assert flips.p == pytest.approx(2 * (1 + 4) / 16)  # one or none of four, twice
    a, b = 4 / 12, 2 / 12  # Bonett and Price: one more flip of each kind
    half = scipy.stats.norm.ppf(0.975) * math.sqrt((a + b - (a - b) ** 2) / 12)
    assert (flips.low, flips.high) == pytest.approx((a - b - half, a - b + half))
    assert "3 wrong→right" in flips.text and "not shown" in flips.text
    assert mcnemar(0, 0) == 1 and clopper_pearson(0, 5)[0] == 0 and clopper_pearson(5, 5)[1] == 1


def test_interval_of_paired_proportions_holds_the_truth():
    rng = np.random.default_rng(1)
    for lost, won, n in ((0.02, 0.05, 200), (0.1, 0.1, 100), (0.01, 0.01, 500)):
        held = 0
        for a, b, _ in rng.multinomial(n, [lost, won, 1 - lost - won], size=4000):
            estimate, se, _ = adjusted_wald(a, b, n)
            held += abs(estimate - (won - lost)) <= 1.96 * se
        assert 0.94 < held / 4000 < 0.99


def test_equality_and_clusters(tmp_path):
    rng = np.random.default_rng(5)
    x = rng.random(3000) < 0.5
    y = np.where(rng.random(3000) < 0.01, ~x, x)
    systems = {"x": dict(enumerate(x.astype(float))), "y": dict(enumerate(y.astype(float)))}
    assert "practically equal (within 0.02)" in str(decide_samples(systems, margin=0.02))
    document = rng.integers(0, 60, 3000)
    shift = rng.normal(0, 0.3, 60)[document]  # outcomes of one document move together
    graded = {"x": dict(enumerate(rng.normal(shift, 1))), "y": dict(enumerate(rng.normal(0, 1, 3000)))}
    clustered = decide_samples(graded, cluster=dict(enumerate(document))).flips[0]
    plain = decide_samples(graded).flips[0]
    assert "60 clusters" in clustered.test and clustered.lost is None
    assert clustered.high - clustered.low > 1.3 * (plain.high - plain.low)
    difference = np.array(list(graded["x"].values())) - np.array(list(graded["y"].values()))
    totals = np.array([[difference[document == g].sum(), (document == g).sum()] for g in range(60)])
    draws = totals[rng.integers(0, 60, (4000, 60))].sum(axis=1)
    low, high = np.quantile(draws[:, 0] / draws[:, 1], (0.025, 0.975))
    assert clustered.high - clustered.low == pytest.approx(high - low, rel=0.1)
    with pytest.raises(UserError, match="at least 3"):
        cluster_mean(difference, [0] * 3000)


def test_seeds_are_the_units_where_systems_have_several(tmp_path):
    rng = np.random.default_rng(3)
    means = {}
    for name, rate in (("ours", 0.8), ("base", 0.5)):
        for seed in (1, 2, 3):
            outcomes = (rng.random(300) < rate).astype(int)
            means.setdefault(name, []).append(outcomes.mean())
            (tmp_path / f"{name}_{seed}.csv").write_text(
                "id,acc\n" + "\n".join(f"{i},{x}" for i, x in enumerate(outcomes)), encoding="utf-8"
            )
    answer = decide_samples([f"ours={tmp_path}/ours_*.csv", f"base={tmp_path}/base_*.csv"])
    assert answer.answer.rulings[0].p == pytest.approx(
        scipy.stats.ttest_rel(means["ours"], means["base"]).pvalue, rel=1e-9
    )
    (tmp_path / "ours_2.csv").unlink()  # seed 3 still pairs with seed 3
    assert decide_samples([f"ours={tmp_path}/ours_*.csv", f"base={tmp_path}/base_*.csv"]).flips[0].examples == 600
    assert answer.flips[0].examples == 900 and "the verdict is over seeds" in answer.flips[0].text
    assert json.loads(json.dumps(answer.as_dict()))["seeds"]["rulings"][0]["kind"] == answer.answer.rulings[0].kind


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["id,acc\n1,1\n2,0\n", "id,acc\n3,1\n4,0\n"], "0 examples of 2 and 2 are the same"),
        (["id,acc\n1,1\n1,0\n", "id,acc\n1,1\n2,0\n"], "given twice"),
        (["id,acc\n1,maybe\n2,0\n", "id,acc\n1,1\n2,0\n"], "is no number"),
        (["id,acc,prompt_hash\n1,1,x\n2,0,y\n", "id,acc,prompt_hash\n1,1,x\n2,0,z\n"], "not the same question"),
        (["id,a,b\n1,1,1\n2,0,1\n", "id,a,b\n1,1,1\n2,0,1\n"], "--value NAME"),
    ],
)
def test_samples_that_cannot_be_compared(texts, message, tmp_path, capsys):
    for name, text in zip("xy", texts, strict=True):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    assert main(["--samples", f"x={tmp_path}/x.csv", f"y={tmp_path}/y.csv"]) == 2
    assert message in capsys.readouterr().err


# -- the command --------------------------------------------------------------------------------------------------


def test_forms_and_exit_status(capsys, monkeypatch, tmp_path):
    inline = ["--scores", "ours=" + ",".join(map(str, OURS)), "baseline=" + ",".join(map(str, BASE))]
    assert main([*inline, "--json", "--gate", "better", "--better", "lower"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["holds"] and loaded["rulings"][0]["comparison"]["p"] == pytest.approx(0.00492, rel=1e-3)
    assert main([*inline, "--gate", "better", "--better", "higher"]) == 1
    assert main([*inline, "--gate", "equal"]) == 2 and main([*inline, "--looks", "three"]) == 2
    capsys.readouterr()
    markdown = RIGHT["Markdown"]["text"]
    assert main([*inline, "--markdown"]) == 0
    assert "| ours | 3 | 1.0603 | 0.0011 |" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(markdown))
    assert main(["--scores", "-", "--baseline", "a", "--looks", "3", "5"]) == 0
    assert capsys.readouterr().out.startswith("b is lower than a by 0.12")
    for flags in (["--unpaired"], ["--looks", "3"], ["--gate", "better"]):
        assert main(["--samples", "x=y", *flags]) == 2
        assert capsys.readouterr().err == f"compare.py: {flags[0]}: is for --scores\n"
    for name in "ab":
        (tmp_path / f"{name}.md").write_text(markdown, encoding="utf-8")
    assert main(["--scores", f"x={tmp_path}/a.md", f"y={tmp_path}/b.md", "--value", "b"]) == 0
    assert "no variation" in capsys.readouterr().out


def test_the_guide_says_what_the_command_says(capsys):
    guide = (ROOT / "questions/scores/GUIDE.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ python compare.py (.*)\n((?:(?!\$|```).*\n)+)", guide, re.M)
    assert len(shown) == 2
    for command, lines in shown:
        assert main(shlex.split(command)) == 0
        assert capsys.readouterr().out.startswith(lines)


def test_the_command_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['compare.py', '--scores', 'a=1,2,3.5', 'b=2,4,3']\n"
        "import runpy\ntry: runpy.run_path('compare.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, [m for m in ('torch', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


# -- false claims, by drawing from published losses -----------------------------------------------------------------

LOSSES = [
    float(x) for x in (ROOT / "tests/public_losses.txt").read_text(encoding="utf-8").split("\n") if x[:1].isdigit()
]


def claims(x, seeds, looks=None):
    """Does any ruling on arms (arms, n) of one recipe, the first the baseline, claim a difference?"""
    names = ["baseline", *(f"arm{i}" for i in range(1, len(x)))]
    arms = {name: {str(s): float(v) for s, v in enumerate(row)} for name, row in zip(names, x, strict=True)}
    return any(r.kind in ("lower", "higher") for r in decide(Table(arms, seeds), looks=looks).rulings)


def test_the_published_losses_are_those_that_were_described():
    answer = decide({"losses": LOSSES}, against=2.92, better="lower", one_sided=True)
    assert (answer.arms["losses"]["mean"], answer.arms["losses"]["sd"]) == pytest.approx((2.919750, 0.000768), abs=6e-7)
    assert answer.rulings[0].p == pytest.approx(0.000032, abs=5e-7)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["named", "none"])
@pytest.mark.parametrize("arms", [2, 3, 5])
@pytest.mark.parametrize(("n", "looks"), [(3, None), (5, None), (8, None), (8, (3, 5, 8))])
def test_where_nothing_differs_one_table_in_twenty_claims_it_does(seeds, arms, n, looks):
    rng = np.random.default_rng(n + arms)
    wrong = 0
    for _ in range(200):
        x = rng.choice(LOSSES, (arms, n), replace=False)
        wrong += any(claims(x[:, :k], seeds, looks) for k in looks or [n])
    assert wrong <= 19  # 10 are expected at 5 %; more than 19 happen once in 375
