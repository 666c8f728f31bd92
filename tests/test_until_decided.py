"""Training until each comparison with ReLU is decided: looks, budget, stopping and going on, what is refused."""

import copy
import json
import math
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

import programs
import storage
import train
from analysis import question, sequential
from analyze_results import generate_final_report
from config import UserError
from conftest import FULL, TINY
from questions.until_decided import command as until_decided
from questions.until_decided import looks
from synthetic import STUDY, differences_from, log_jackknife, moderated, pds_of, synthetic_results
from tools import status
from training import experiment
from training.forecast import Costs

ROOT = Path(train.__file__).parent
SECONDS = 10  # that the pretended training of a trial takes
FAR = {"smelu_05": 0.080, "smelu_1": 0.085, "relu": 0.100, "gelu": 0.125, "swish": 0.09}  # mean PDs


def _small(results):
    """Without what no look reads: by far the most of the numbers."""
    for entry in (*results["trials"], *results["reproducibility_metrics"]):
        for key in ("relative_pd_by_block", "val_loss_by_block", "learning_rate_history", "grad_norm_history"):
            entry.pop(key, None)
    return {key: value for key, value in results.items() if key not in ("divergence", "pd_at_val_loss")}


class Pretended:
    """In the place of train.run_study: the trials are drawn from a known truth, the first n the same for every n."""

    def __init__(self, pds, spread, clock):
        self.whole = {
            name: _small(synthetic_results(name, n_trials=20, pd=pd, spread=spread)) for name, pd in pds.items()
        }
        self.clock, self.asked, self.stop_after = clock, [], math.inf
        self.written = {}  # (folder, activation) -> trials in its results

    def __call__(self, config, names, **_):
        n = config.trials_per_activation
        self.asked.append(n)
        for name in names:
            for k in range(1, n + 1):
                path = storage.checkpoint_path(config.checkpoint_dir, name, k)
                if not path.exists():
                    if self.stop_after <= 0:
                        raise train.Interrupted("stopped")
                    self.stop_after -= 1
                    self.clock.now += SECONDS
                    storage.write_bytes(path, b"weights")
            there = storage.results_path(config.results_dir, name).exists()
            if not there or self.written.get((config.results_dir, name)) != n:
                storage.write_results(self.first(name, n), config.results_dir)
                self.written[config.results_dir, name] = n
        return {name: self.first(name, n) for name in names}

    def first(self, name, n):
        results = copy.deepcopy(self.whole[name])
        results["trials"] = results["trials"][:n]
        pairs = results["reproducibility_metrics"]
        results["reproducibility_metrics"] = [p for p in pairs if max(map(int, p["model_pair"].split("_vs_"))) <= n]
        return results


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(until_decided, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def study(monkeypatch, clock):
    """(pds, spread) -> the pretended run_study, in its place."""

    def make(pds=FAR, spread=0.01):
        pretended = Pretended(pds, spread, clock)
        monkeypatch.setattr(train, "run_study", pretended)
        monkeypatch.setattr(train, "_compare", lambda config, display: None)
        monkeypatch.setattr(experiment, "measured_costs", lambda *_: Costs(step=0.01, position=1e-6))
        return pretended

    return make


def kinds(record):
    return {name: comparison["decision"] for name, comparison in record["looks"][-1]["comparisons"].items()}


def untimed(record):
    """What must not depend on when a run was stopped."""
    return [{k: v for k, v in look.items() if k not in ("seconds", "trained")} for look in record["looks"]]


def test_what_differs_much_is_decided_at_the_first_look(smoke_config, study, capsys):
    pretended = study()
    record = train.run_until_decided(smoke_config, list(STUDY))
    assert pretended.asked == [3] and record["ended"] == "decided"
    assert kinds(record) == {"smelu_05": "lower", "smelu_1": "lower", "gelu": "higher", "swish": "lower"}
    assert record == looks.load(smoke_config.results_dir)
    assert record["looks"][0]["trained"] == 15 and record["seconds_spent"] == record["looks"][0]["seconds"] == 150
    said = capsys.readouterr().out
    assert "look at 3 trials: 4 of 4 decided; PD against ReLU's: " in said
    assert "until decided: every comparison is decided, after 2 min 30 s" in said


def test_what_is_equal_is_decided_later(smoke_config, study, capsys):
    pretended = study(dict.fromkeys(STUDY, 0.1), spread=0.06)
    record = train.run_until_decided(smoke_config, list(STUDY))
    assert set(kinds(record).values()) == {"equal"} and len(pretended.asked) > 1
    assert pretended.asked == list(sequential.LOOKS[: len(pretended.asked)])
    assert all(
        look["trained"] == 5 * n for look, n in zip(record["looks"], np.diff([0, *pretended.asked]), strict=True)
    )
    said = capsys.readouterr().out
    planned = re.search(
        r"a difference of 5 % would be seen with 80 % power at (\d+) trials \((\d+) more in all, ", said
    )
    assert int(planned[1]) in sequential.LOOKS[1:] and int(planned[2]) == 5 * (int(planned[1]) - 3)


def test_the_last_look_ends_it(smoke_config, study, capsys):
    pretended = study(dict.fromkeys(STUDY, 0.1), spread=0.6)
    record = train.run_until_decided(smoke_config, list(STUDY), margin=1)
    assert pretended.asked == [3, 5, 8, 12, 20] and record["ended"] == "last look"
    assert "open" in kinds(record).values()
    said = capsys.readouterr().out
    assert "more than the 20 trials of the last look, if at all; all looks: 85 more in all, about 14 minutes" in said
    assert "the last look is taken" in said
    train.run_until_decided(smoke_config, list(STUDY))
    assert pretended.asked == [3, 5, 8, 12, 20]


def test_a_look_that_does_not_fit_is_not_begun_and_time_counts_over_runs(smoke_config, study, capsys):
    pretended = study(dict.fromkeys(STUDY, 0.1), spread=0.6)

    def run(budget):
        return train.run_until_decided(smoke_config, list(STUDY), budget=budget, margin=1)

    assert run("4s")["looks"] == [] and pretended.asked == []  # by the time of a step
    assert "the look at 3 trials is not begun" in capsys.readouterr().out
    record = run("240s")  # 150 for the first look, 100 for the next
    assert pretended.asked == [3] and (record["ended"], record["seconds_spent"]) == ("budget", 150)
    said = capsys.readouterr().out
    assert "the look at 5 trials is not begun: it takes about 1 min 40 s, and 1 min 30 s of 4 minutes are left" in said
    assert run("4m")["seconds_spent"] == 150 and pretended.asked == [3]
    assert run(250)["seconds_spent"] == 250 and pretended.asked == [3, 5]
    assert "going on after the look at 3 trials" in capsys.readouterr().out


def test_what_is_half_trained_needs_half_the_time(smoke_config, study):
    record = SimpleNamespace(config=smoke_config, plan={"activations": ["relu"]}, taken=[])
    storage.write_bytes(storage.snapshot_path(smoke_config.checkpoint_dir, "relu", 1, 15), b"")
    storage.write_bytes(storage.checkpoint_path(smoke_config.checkpoint_dir, "relu", 2), b"")
    assert until_decided._missing(record, 3) == {("relu", 1): 1 - 15 / smoke_config.max_iters, ("relu", 3): 1.0}


@pytest.mark.parametrize("trials", [0, 7, 15, 18, 25, 31] if FULL else [0, 18, 31])
def test_stopped_anywhere_the_same_looks_and_decisions(trials, smoke_config, tmp_path, study):
    pds, spread = {**FAR, "swish": 0.1, "gelu": 0.0955}, 0.05
    study(pds, spread)
    elsewhere = smoke_config.replace(results_dir=str(tmp_path / "r"), checkpoint_dir=str(tmp_path / "c"))
    whole = train.run_until_decided(elsewhere, list(STUDY))
    assert len(whole["looks"]) > 2
    pretended = study(pds, spread)
    pretended.stop_after = trials
    with pytest.raises(train.Interrupted):
        train.run_until_decided(smoke_config, list(STUDY))
    assert looks.load(smoke_config.results_dir)["seconds_spent"] == SECONDS * trials
    pretended.stop_after = math.inf
    again = train.run_until_decided(smoke_config, list(STUDY))
    assert untimed(again) == untimed(whole) and again["seconds_spent"] == whole["seconds_spent"]
    # no look is taken twice; one that was under way is begun again
    assert sorted(set(pretended.asked)) == [look["trials"] for look in whole["looks"]]
    assert len(pretended.asked) == len(whole["looks"]) + 1


def test_trials_that_are_there_already_are_looked_at_step_by_step(smoke_config, study):
    pretended = study(dict.fromkeys(STUDY, 0.1), spread=0.06)
    pretended(smoke_config.replace(trials_per_activation=8), list(STUDY))
    record = train.run_until_decided(smoke_config, list(STUDY))
    assert [look["trials"] for look in record["looks"]][:2] == [3, 5] and record["looks"][0]["trained"] == 0


def test_the_time_spent_is_written_while_trials_are_under_way(smoke_config, study, monkeypatch, clock):
    monkeypatch.setattr(until_decided, "HEARTBEAT", 0.01)
    pretended, seen = study(), []

    def slow(config, names, **options):
        clock.now += 7
        end = time.monotonic() + 20
        while not seen and time.monotonic() < end:
            record = looks.load(config.results_dir)
            seen.extend([record] if record and record["seconds_spent"] == 7 else [])
            time.sleep(0.01)
        return pretended(config, names)

    monkeypatch.setattr(train, "run_study", slow)
    train.run_until_decided(smoke_config, list(STUDY))
    assert seen[0]["looks"] == [] and seen[0]["ended"] is None


# -- a look, by SciPy -------------------------------------------------------------------------------------------------


def test_the_first_look_by_scipy(smoke_config, study):
    """At the first of five looks a p-value counts five times: level 1 %, and Holm over the four."""
    pretended = study({**FAR, "gelu": 0.1001, "swish": 0.098}, spread=0.013)
    comparisons = train.run_until_decided(smoke_config, list(STUDY))["looks"][0]["comparisons"]
    logs = {name: log_jackknife(pds_of(pretended.first(name, 3))) for name in STUDY}
    differences = differences_from(logs)
    tests = {name: moderated(d, differences.values()) for name, d in differences.items()}
    by = {name: (differences[name].mean(), se, df) for name, (_, df, _, se, _) in tests.items()}

    def holm(p):
        return dict(zip(p, multipletests(list(p.values()), method="holm")[1], strict=True))

    p = {name: 2 * stats.t.sf(abs(mean) / se, df) for name, (mean, se, df) in by.items()}
    apart = {name: stats.t.sf((-math.log(0.95) - abs(mean)) / se, df) for name, (mean, se, df) in by.items()}
    differ, equal = (holm({name: min(1, 5 * x) for name, x in ps.items()}) for ps in (p, apart))
    for name, (mean, se, df) in by.items():
        half = stats.t.ppf(1 - 0.01 / 2, df) * se
        assert comparisons[name]["ratio"] == pytest.approx(math.exp(mean), rel=1e-9)
        limits = math.exp(mean - half), math.exp(mean + half)
        assert (comparisons[name]["low"], comparisons[name]["high"]) == pytest.approx(limits, rel=1e-6)
        assert comparisons[name]["p"] == pytest.approx(p[name], rel=1e-6)
        assert comparisons[name]["p_adjusted"] == pytest.approx(differ[name], rel=1e-3)
        kind = "lower" if mean < 0 else "higher"
        expected = kind if differ[name] < 0.05 else "equal" if equal[name] < 0.05 else "open"
        assert comparisons[name]["decision"] == expected
    assert {f["decision"] for f in comparisons.values()} == {"lower", "equal", "open"}


def test_the_second_level_by_scipy(smoke_config, study):
    """It is crossed there, and not at the look before, in 1 % of studies without a difference."""
    study(dict.fromkeys(STUDY, 0.1), spread=0.6)
    record = train.run_until_decided(smoke_config, list(STUDY))
    first, second = (stats.norm.isf(look["comparisons"]["gelu"]["level"] / 2) for look in record["looks"][:2])
    both = stats.multivariate_normal([0, 0], [[1, math.sqrt(3 / 5)], [math.sqrt(3 / 5), 1]])
    inside = both.cdf([first, second], lower_limit=[-first, -second])
    assert (1 - 2 * stats.norm.sf(first)) - inside == pytest.approx(0.01, abs=1e-5)


def test_a_trial_that_diverged_is_left_out_of_both(smoke_config, study):
    pretended = study()
    pretended.whole["gelu"]["trials"][0].update(status="diverged", val_loss=None)
    all_results = {name: pretended.first(name, 5) for name in STUDY}
    tests = looks.family(all_results, {"activations": STUDY}, 5)
    assert tests["gelu"].n == (4, 4) and tests["swish"].n == (5, 5)
    assert looks.family(all_results, {"activations": STUDY}, 3)["gelu"].p is None  # two are left
    pretended.whole["swish"]["audit"]["passed"] = False
    assert looks.family({n: pretended.first(n, 3) for n in STUDY}, {"activations": STUDY}, 3)["swish"].p is None


# -- what contradicts, what is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_taken(tmp_path_factory):
    """Where the first test leaves its study for the others."""
    return tmp_path_factory.mktemp("taken"), {}


@pytest.fixture
def taken(smoke_config, study, first_taken):
    """(config, the pretended study, the record of its two looks or more)."""
    folder, first = first_taken
    folders = [Path(smoke_config.results_dir), Path(smoke_config.checkpoint_dir)]
    if not first:
        pretended = study({**FAR, "swish": 0.1, "gelu": 0.0955}, spread=0.05)
        first["record"] = train.run_until_decided(smoke_config, list(STUDY))
        first["whole"], first["asked"] = copy.deepcopy(pretended.whole), pretended.asked.copy()
        for path in folders:
            shutil.copytree(path, folder / path.name)
    else:
        pretended = study({}, 0)
        pretended.whole, pretended.asked = copy.deepcopy(first["whole"]), first["asked"].copy()
        for path in folders:
            shutil.copytree(folder / path.name, path)
    return smoke_config, pretended, copy.deepcopy(first["record"])


def test_looks_derive_again(taken):
    _, pretended, record = taken
    all_results = {name: pretended.first(name, 20) for name in STUDY}  # more trials than were looked at change nothing
    assert looks.derive_looks(all_results, record) == []
    record["looks"][0]["comparisons"]["gelu"]["ratio"] *= 1.001
    (problem,) = looks.derive_looks(all_results, record)
    assert problem.startswith("look at 3 trials, gelu: ratio=")
    short = {**all_results, "relu": pretended.first("relu", 4)}
    assert looks.derive_looks(short, record) == ["the results of relu lack some of its first 5 trials"]
    del all_results["swish"]
    assert looks.derive_looks(all_results, record) == ["there are no results of swish"]


def test_results_that_contradict_a_look_are_an_error_that_names_it(taken):
    config, pretended, record = taken
    path = storage.results_path(config.results_dir, "gelu")
    results = storage.read_results(path)
    results["reproducibility_metrics"][0]["relative_pd"] *= 1.01
    storage.write_results(results, config.results_dir)
    before = list(pretended.asked)
    with pytest.raises(storage.StorageError, match=r"looks\.json: look at 3 trials, (smelu_05|gelu): .*move looks"):
        train.run_until_decided(config, list(STUDY))
    assert pretended.asked == before and looks.load(config.results_dir) == record


def test_results_that_are_gone_are_measured_again(taken):
    config, pretended, record = taken
    storage.results_path(config.results_dir, "gelu").unlink()
    assert untimed(train.run_until_decided(config, list(STUDY))) == untimed(record)
    assert pretended.asked[-1] == record["looks"][-1]["trials"]


def test_the_plan_is_fixed_by_the_first_look(taken):
    config, _, record = taken
    for names, margin, said in (
        (STUDY, 10, "the margin was fixed at 5 % by the first look; leave it out, or use another folder"),
        (
            STUDY[:3],
            None,
            "fixed by the first look; give --activation smelu_05 smelu_1 relu gelu swish, or use another",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            train.run_until_decided(config, list(names), margin=margin)
        assert "\n" not in str(refused.value)
    assert looks.load(config.results_dir) == record
    train.run_until_decided(config, list(reversed(STUDY)), margin=5)  # the same, in another order


def test_another_baseline_is_another_question(taken):
    """Refused, until it is asked of the results: then its looks begin anew, and the others are kept."""
    config, pretended, record = taken
    other = config.replace(baseline="gelu")
    with pytest.raises(UserError, match="the baseline was fixed by the first look; give baseline='relu', or"):
        train.run_until_decided(other, list(STUDY))
    assert looks.load(config.results_dir) == record
    question.ask(config.results_dir, {name: pretended.whole[name] for name in STUDY}, "gelu")
    again = train.run_until_decided(other, list(STUDY))
    assert set(again["looks"][0]["comparisons"]) == set(STUDY) - {"gelu"} and again["looks"][0]["trials"] == 3
    ratios = [r["looks"][0]["comparisons"] for r in (again, record)]
    assert ratios[0]["relu"]["ratio"] == pytest.approx(1 / ratios[1]["gelu"]["ratio"])
    aside = storage.looks_path(config.results_dir).with_name("looks_against_relu.json")
    assert storage.read_json(aside)["looks"] == record["looks"]


@pytest.mark.parametrize(
    "budget", ["", "30", "m", "-5m", "0s", "1d", "30 m", "1e3s", "nan", 0, -1, math.nan, True, "٣m"]
)
def test_a_budget_that_is_none(budget):
    with pytest.raises(UserError, match="must be a time above 0 such as 90s, 30m or 2h"):
        until_decided.seconds_of(budget)


def test_budgets():
    assert [until_decided.seconds_of(b) for b in ("90s", "30m", "2h", "1.5h", 7)] == [90, 1800, 7200, 5400, 7]


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["relu"], {}, "name relu and at least one other"),
        (["relu", "nope"], {}, "nope"),
        (["relu", "gelu"], {"margin": 0}, "margin=0"),
        (["relu", "gelu"], {"margin": 100}, "below 100"),
        (["relu", "gelu"], {"margin": math.nan}, "margin=nan"),
        (["relu", "gelu"], {"budget": "soon"}, "budget='soon'"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(names, options, said, smoke_config, study):
    pretended = study()
    with pytest.raises(UserError, match=re.escape(said)):
        train.run_until_decided(smoke_config, names, **options)
    assert pretended.asked == [] and not storage.looks_path(smoke_config.results_dir).exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budget", "30m"], "--budget: is for --until-decided"),
        (["--margin", "5"], "--margin: is for --until-decided"),
        (["--status", "--margin", "5"], "--margin: is for --until-decided"),
        (["--until-decided", "--overwrite"], "leave --overwrite out"),
        (["--until-decided", "--budget", "30"], "budget='30': must be a time above 0 such as 90s, 30m or 2h"),
        (["--until-decided", "--margin", "five"], "--margin"),
        (["--until-decided", "--activation", "gelu"], "name gelu and at least one other"),
    ],
)
def test_wrong_flags_are_one_line(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = train.main(flags)
    except SystemExit as stopped:
        code = stopped.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and said in lines[0]


def test_one_process_at_a_time(smoke_config, study):
    pretended = study()
    with (
        storage.FileLock(Path(smoke_config.results_dir) / ".looks.lock"),
        pytest.raises(UserError, match="another process"),
    ):
        train.run_until_decided(smoke_config, list(STUDY))
    assert pretended.asked == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.pop("plan"),
        lambda r: r.update(schema_version=0),
        lambda r: r["plan"].update(looks=[5, 3]),
        lambda r: r["plan"].update(margin=None),
        lambda r: r["looks"].pop(0),
        lambda r: r["looks"][0]["comparisons"].pop("gelu"),
        lambda r: r["looks"][0]["comparisons"]["gelu"].update(decision="maybe"),
        lambda r: r["looks"][0]["comparisons"]["gelu"].update(low="0.9"),
        lambda r: r.update(seconds_spent="long"),
        lambda r: r.update(ended=["?"]),
    ],
)
def test_a_damaged_record_is_refused(damage, taken):
    config, _, record = taken
    damage(record)
    storage.write_json(storage.looks_path(config.results_dir), record)
    with pytest.raises(storage.StorageError, match=r"looks\.json: not a record of looks"):
        looks.load(config.results_dir)


# -- where they are shown ---------------------------------------------------------------------------------------------


def test_the_section_of_the_report(taken):
    _, _, record = taken
    text = "\n".join(looks.looks_section(record))
    assert "repeated confidence intervals (Jennison & Turnbull 1989)" in text
    comparison = record["looks"][1]["comparisons"]["smelu_05"]
    assert f"{comparison['ratio']:.3f} [{comparison['low']:.3f}, {comparison['high']:.3f}] lower" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 and all(row.count("|") == len(record["looks"]) + 2 for row in rows)
    assert looks.looks_section(None) == looks.looks_section({**record, "looks": []}) == []
    assert "Still open after the look at 3 trials: " in "\n".join(
        looks.looks_section({**record, "looks": record["looks"][:1]})
    )


def test_the_report_has_the_section_of_its_own_results_only(taken, tmp_path):
    config, pretended, record = taken
    all_results = {name: pretended.first(name, 20) for name in STUDY}
    folder = Path(config.results_dir)
    text = generate_final_report(all_results, save_path=folder / "FINAL_REPORT.md")
    assert "\n".join(looks.looks_section(record)[:3]) in text
    assert "Looks while training" not in generate_final_report(all_results, save_path=tmp_path / "r.md")
    all_results["gelu"]["reproducibility_metrics"][0]["relative_pd"] *= 1.01
    text = generate_final_report(all_results, save_path=folder / "FINAL_REPORT.md")
    assert "The looks in looks.json are not of these results (look at 3 trials, " in text


def test_status_shows_the_looks(taken, capsys):
    config, _, record = taken
    status.print_status(config)
    said = capsys.readouterr().out
    for look in record["looks"]:
        assert f"look at {look['trials']} trials: " in said
    assert "until decided: every comparison is decided; time spent: " in said


# -- real training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_twice_the_same_decisions_and_bits(tmp_path, corpus_file, data_dir):
    settings = {**TINY, "device": "cpu", "dataset": corpus_file, "data_dir": data_dir, "max_iters": 30}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]

    def begin(folder):
        folder.mkdir(exist_ok=True)
        command = [ROOT / "train.py", "--until-decided", "--margin=40", *flags]
        return programs.start([*command, "--activation", "relu", "gelu", "--no-native"], cwd=folder)

    def finish(folder):
        process = begin(folder)
        error = process.communicate(timeout=500)[1]
        assert process.returncode == 0, error
        record = json.loads((folder / "results" / "looks.json").read_text(encoding="utf-8"))
        results = [storage.read_results(folder / "results" / f"{n}_results.json") for n in ("relu", "gelu")]
        return untimed(record), [[t["weights_sha256"] for t in r["trials"]] for r in results]

    def kill_when(folder, pattern):
        process, end = begin(folder), time.monotonic() + 300
        while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    killed = tmp_path / "killed"
    kill_when(killed, "checkpoints/relu/trial_1.pt")
    kill_when(killed, "results/gelu_results.json")
    whole = finish(tmp_path / "whole")
    assert finish(killed) == whole
    report = (killed / "results" / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert set(whole[0][-1]["comparisons"]) == {"gelu"} and "Executive Summary" in report
