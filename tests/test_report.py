"""The report: its sections, its numbers, and that it claims no more than the tests allow."""

import copy
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import plot_utils
import storage
from analysis import markdown, phrases
from analysis.report import overview, plan_text
from analysis.study import Study
from analyze_results import generate_final_report
from bench.calibration import pd_chunks
from bench.claims import NAMES, PRODUCTS, READ, claims_of, null_clocks, null_remedies, null_studies
from browser import CHROMIUM, Browser
from config import Config, UserError
from questions.clock import tell as clock
from synthetic import (
    DEGENERATE,
    STUDY,
    add_frontier,
    differences_from,
    log_jackknife,
    losses_of,
    moderated,
    pds_of,
    synthetic_results,
    synthetic_study,
)

SECTIONS = [
    "Executive Summary",
    "Detailed Results Table",
    "Rankings by Use Case",
    "Statistical Significance",
    "Key Findings",
    "Conclusions",
    "Future Work",
]


def text_of(study):
    return generate_final_report(study, None)


def section(text, title):
    number = SECTIONS.index(title) + 1
    return text.split(f"## {number}. {title}\n")[1].split("\n## ")[0]


def cells(text, name, header):
    """The row of an activation in the table whose header line holds `header`, as {column: cell}."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|") and header in line)
    names = [c.strip() for c in lines[start].strip("|").split("|")]
    for line in lines[start + 2 :]:
        values = [c.strip() for c in line.strip("|").split("|")]
        if values[0] == name:
            return dict(zip(names, values, strict=True))
    raise AssertionError(f"no row {name} under {header}")


# -- every study gives a report -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEGENERATE)
def test_any_study_gives_seven_sections_no_nan_and_a_few_lines_first(name):
    study = DEGENERATE[name]()
    text = text_of(study)
    assert re.findall(r"^## \d\. (.*)$", text, re.M) == SECTIONS
    assert [text.index(title) for title in SECTIONS] == sorted(text.index(title) for title in SECTIONS)
    for shown in (text, overview(Study(study)), plan_text(Study(study))):
        assert not re.search(r"\b([Nn]a[Nn]|[Nn]one|inf|NA|null|False|True(?!-label))\b", shown), shown
        assert not re.search(r"\btrend|marginally|approach(es|ing) significance", shown, re.I)
    assert all(section(text, title).strip() for title in SECTIONS)
    for line in text.splitlines():  # every row of a table has the cells of its header
        assert not line.startswith("|") or line.endswith("|")
    assert "\n\n\n" not in text
    lines = summary_lines(text)
    assert len(lines) <= 14 and len(" ".join(lines)) < 3200
    assert lines[0].startswith("**Question.**") and lines[1].startswith("**Answer: ")
    assert any("**What to do.**" in line for line in lines)


def test_no_results_is_an_error():
    with pytest.raises(UserError, match="no results"):
        text_of({})


def test_the_report_is_a_function_of_the_results():
    assert text_of(synthetic_study()) == text_of(dict(reversed(synthetic_study().items())))


# -- what it says -------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_detailed_table():
    study = synthetic_study()
    text = section(text_of(study), "Detailed Results Table")
    for name, label in zip(STUDY, ("SmeLU β=0.5", "SmeLU β=1", "ReLU", "GELU", "Swish"), strict=True):
        row = cells(text, label, "Training time")
        losses, pds = losses_of(study[name]), np.array(list(pds_of(study[name]).values()))
        assert row["Validation loss (nats/token)"] == f"{losses.mean():.4f} ± {scipy.stats.tstd(losses):.4f}"
        assert row["Relative PD"] == f"{pds.mean():.4f} ± {scipy.stats.tstd(pds):.4f}"
        logs = log_jackknife(pds_of(study[name]))
        low, high = np.exp(scipy.stats.t.interval(0.95, 2, logs.mean(), scipy.stats.sem(logs)))
        assert row["PD, 95 % interval"] == f"[{low:.4f}, {high:.4f}]"
        times = [t["training_time"] for t in study[name]["trials"]]
        assert row["Training time (s)"] == f"{np.mean(times):.1f} ± {scipy.stats.tstd(times):.1f}"


def summary_lines(text):
    """The lines of section 1 that come before the terms."""
    return [line for line in section(text, "Executive Summary").split("### ")[0].splitlines() if line.strip()]


@pytest.mark.parametrize(
    "factor, advice, small",
    [(1.03, "Choose by", True), (1.2, "keep ReLU", False), (0.97, "Choose by", True), (0.8, "take SmeLU", False)],
)
def test_the_advice_says_when_a_difference_is_small(factor, advice, small):
    study = {
        name: synthetic_results(name, n_trials=12, pd=0.2 * (1 if name == "relu" else factor), spread=0.01)
        for name in STUDY
    }
    lines = summary_lines(text_of(study))
    line = next(line for line in lines if "**What to do.**" in line)
    assert advice in line and ("below what was declared to matter" in line) == small
    size = re.search(r"by ([\d.]+) % \(([\d.]+) to ([\d.]+) %\)(, less than the 5 % declared to matter)?", lines[1])
    assert float(size[1]) == pytest.approx(abs(100 * (factor - 1)), abs=1) and bool(size[4]) == small
    assert float(size[2]) < float(size[1]) < float(size[3])


def test_the_hypothesis_is_stated_before_the_numbers():
    before = section(text_of(synthetic_study()), "Executive Summary").partition("**Answer")[0]
    assert "Hypothesis, stated before the numbers" in before
    assert not re.search(r"\d\.\d|\d %", before)


def test_an_undecided_study_makes_no_claims():
    study = synthetic_study(spread=0.25)
    text = text_of(study)
    summary = section(text, "Executive Summary")
    assert "**Answer: undecided.**" in summary
    assert "**Each against ReLU.** Undecided: SmeLU β=0.5, SmeLU β=1, GELU and Swish." in summary
    assert "no evidence that there is no difference" in summary
    assert "not shown to differ from" in summary and " shown lower" not in summary
    assert "Choose on accuracy and speed: no difference in reproducibility was shown" in section(text, "Conclusions")
    assert "More trials" in section(text, "Future Work")
    for claim in ("**lower**", "**higher**", "**supported**", "**refuted**", "lower than", "is supported by"):
        assert claim not in text, claim
    tables = section(text, "Statistical Significance").partition("### Against")[2]
    assert "| inconclusive" in tables.replace("  ", "") and r"\*" not in tables  # no flag in any table
    assert claims_of(text) == []


def test_a_decided_study_says_so_with_its_numbers():
    study = synthetic_study(n_trials=8)
    text = text_of(study)
    logs = {name: log_jackknife(pds_of(results)) for name, results in study.items()}
    d = np.mean([logs[name] for name in STUDY if name != "relu"], axis=0) - logs["relu"]
    _, _, _, _, half = moderated(d, differences_from(logs).values())
    low, high = sorted(-100 * np.expm1([d.mean() - half, d.mean() + half]))
    summary = section(text, "Executive Summary")
    # the share of the text is not known here: the settings lack the batch
    assert "**Answer: yes.** After 8 trainings of each (1,000 steps), models with SmeLU β=0.5" in summary
    size = f"{-100 * np.expm1(d.mean()):.1f} % ({low:.1f} to {high:.1f} %)"
    assert f"differ less from one another than models with ReLU, by {size}" in summary
    row = cells(section(text, "Statistical Significance"), "GELU", "Change of PD")
    assert row["PD"] == "**lower**" and row["p"].endswith(r"\*")
    change, low, high = (100 * np.expm1(x) for x in (np.mean(logs["gelu"] - logs["relu"]), *gelu_limits(logs)))
    assert row["Change of PD [95 %]"] == f"{change:+.1f} % [{low:+.1f}, {high:+.1f}]".replace("-", "−")
    assert "a lower mean PD than that of ReLU was shown" in section(text, "Conclusions")
    assert {kind for kind, _ in claims_of(text)} >= {"PD", "contrast"}


def gelu_limits(logs):
    d = logs["gelu"] - logs["relu"]
    half = moderated(d, differences_from(logs).values())[4]
    return d.mean() - half, d.mean() + half


def test_smooth_activations_may_lose():
    study = synthetic_study(n_trials=8)
    study["relu"] = synthetic_results("relu", n_trials=8, pd=0.07)
    text = text_of(study)
    assert "**Answer: no, the opposite.**" in text and "differ more from one another than models with ReLU" in text
    assert "**refuted**" in section(text, "Key Findings")
    assert "ReLU: a higher mean PD was shown for" in section(text, "Conclusions")
    assert "keep ReLU" in section(text, "Executive Summary")
    assert {"PD", "contrast"} <= {kind for kind, _ in claims_of(text)}


def test_practically_equal_is_a_result():
    study = {name: synthetic_results(name, n_trials=8, pd=0.1, spread=0.02) for name in STUDY}
    for name, results in study.items():  # a thousandth apart at most, independently
        rng = np.random.default_rng(sum(name.encode()))
        for pair in results["reproducibility_metrics"]:
            pair["relative_pd"] = 0.1 * (1 + 0.001 * rng.standard_normal())
    text = text_of(study)
    summary = section(text, "Executive Summary")
    assert "**Answer: no.**" in summary and "differ as much from one another as models with ReLU" in summary
    assert "Practically equal (±5 %): SmeLU β=0.5, SmeLU β=1, GELU and Swish." in summary
    assert "refuted for differences of 5 % or more" in section(text, "Key Findings")
    assert "as reproducible as ReLU" in section(text, "Conclusions") or "either will do" in section(text, "Conclusions")
    assert not {kind for kind, _ in claims_of(text)} & {"PD", "contrast", "PD at equal loss"}


def test_what_does_not_show_at_equal_loss_is_said_plainly():
    study = {name: add_frontier(results) for name, results in synthetic_study(n_trials=8).items()}
    for results in study.values():  # there, all activations differ as much as ReLU's trials
        rng = np.random.default_rng(sum(results["activation"].encode()))
        results["frontier"] = copy.deepcopy(study["relu"]["frontier"])
        for branch in results["frontier"]:
            for pair in branch["pairs"]:
                pair["relative_pd"] *= 1 + 0.02 * rng.standard_normal()
    text = text_of(study)
    summary = section(text, "Executive Summary")
    assert "At equal validation loss it is not shown" in summary
    assert "or not there at equal loss" in summary and "take " not in summary.partition("**What to do.**")[2]
    findings = section(text, "Key Findings")
    assert "Shown on the final models, not at equal loss:" in findings
    assert "sharpness alone moves PD" in findings
    assert "or not there at equal loss" in section(text, "Conclusions")
    assert "Not compared: that takes annealed models" in section(text_of(synthetic_study()), "Key Findings")


def test_the_convergence_of_all_is_one_sentence():
    study = synthetic_study()
    for i, results in enumerate(study.values()):
        words = f"at the end of training the validation loss changes by -0.0{i}1, -0.02 nats in a tenth of training"
        results["audit"]["checks"] = [{"name": "learning curve", "status": "pass", "measured": words}]
    text = text_of(study)
    assert text.count("in a tenth of training") == 1
    assert "ReLU −0.0210 to −0.0200; GELU −0.0310 to −0.0200" in text


def test_no_sentence_stands_twice():
    text = text_of({name: add_frontier(results) for name, results in synthetic_study(n_trials=8).items()})
    sentences = re.split(r"(?<=[.:;])\s+", " ".join(line for line in text.splitlines() if not line.startswith("|")))
    long = [sentence for sentence in sentences if len(sentence.split()) > 7]
    assert len(set(long)) == len(long)


def test_one_trial_that_decides_is_named():
    study = synthetic_study(n_trials=5)
    for results in study.values():
        for pair in results["reproducibility_metrics"]:
            odd = "5" in pair["model_pair"] and results["activation"] != "relu"
            pair["relative_pd"] = 0.1 * (1.6 if odd else 1) * (1 + 0.01 * (pair["relative_pd"] - 0.1))
    text = text_of(study)
    assert re.search(r"\*\*Influence\.\*\*.* goes from .*; trial 5 moves it most", text)


def test_which_claims_share_an_error_rate_and_what_another_look_costs():
    text = section(text_of(synthetic_study()), "Statistical Significance")
    order = re.search(r"in this order: (.*?)\. Each step", text)[1].split("; ")
    assert [step[:3] for step in order] == ["(1)", "(2)", "(3)"]
    assert "(4 comparisons, Holm's correction)" in order[0] and "the other 6 pairs" in order[2]
    branches = {name: add_frontier(results) for name, results in synthetic_study().items()}
    assert "(3) the same at equal validation loss" in section(text_of(branches), "Statistical Significance")
    assert "is not paid for" in text and "--until-decided" in text
    without = section(text_of(synthetic_study(("gelu", "swish", "smelu_1"))), "Statistical Significance")
    assert "each activation against SmeLU β=1 (2 comparisons" in without and "planned contrast" not in without
    assert "(2) the other 1 pair" in without
    assert "is not paid for" in plan_text(Study(synthetic_study()))


def test_every_setting_that_changes_results_is_told_in_lines_that_fit():
    study = synthetic_study()
    settings = Config(preset="smoke", device="cpu").to_dict()
    for results in study.values():
        results["config"] = settings
        results["environment"]["computed"] = "bfloat16 with torch's kernels: no C++ compiler"
    lines = section(text_of(study), "Executive Summary").partition("### How this was measured")[2].splitlines()
    told = {name for names in phrases.words("settings").values() for name in names}
    assert told | {"dataset", "model"} == {f.name for f in dataclasses.fields(Config) if f.metadata["affects_results"]}
    assert max(map(len, lines)) < 260
    training = next(line for line in lines if "**Training**" in line)
    assert "200 steps, 16 windows a step" in training and "n_layer" not in "".join(lines)
    for without_effect in ("branches", "cooled", "strength", "vocabulary of 1,024", "teacher"):
        assert without_effect not in "".join(lines)
    settings.update(schedule="trunk", tokenizer="bpe", remedy="distil", teacher=["t.pt"])
    said = " ".join(section(text_of(study), "Executive Summary").splitlines())
    for effective in ("branches at 0.4, 0.6, 0.8, 1.0", "cooled over 0.25", "strength 1.0", "vocabulary of 1,024"):
        assert effective in said
    assert "- **How it was computed**: bfloat16 with torch's kernels: no C++ compiler" in lines


def test_the_pareto_front():
    study = synthetic_study()
    points = {n: (losses_of(r).mean(), np.mean(list(pds_of(r).values()))) for n, r in study.items()}
    front = {
        name
        for name, point in points.items()
        if not any(all(np.less_equal(other, point)) for other in points.values() if other != point)
    }
    on, *behind = re.findall(
        r"(?:mean PD|Behind .*?): (.*?)\. ", section(text_of(study), "Key Findings").split("On the")[1]
    )
    assert set(re.split(", | and ", on)) == {markdown.label(name) for name in front}
    assert set(re.split(", | and ", " and ".join(behind))) == {markdown.label(name) for name in set(study) - front}


def test_the_fastest_is_that_of_the_median_time():
    study = synthetic_study()
    fastest = min(STUDY, key=lambda n: np.median([t["training_time"] for t in study[n]["trials"]]))
    assert f"**Shortest median training time of a trial**: {markdown.label(fastest)}," in text_of(study)


def test_failed_audits_are_seen_and_not_ranked():
    study = {**synthetic_study(), "gelu": synthetic_results("gelu", pd=1e-6, val_loss=0.008, audit_passed=False)}
    text = text_of(study)
    assert "GELU: failed the audit; kept out of rankings and tests. *causal*" in section(text, "Executive Summary")
    rankings = section(text, "Rankings by Use Case")
    assert "- GELU: its audit failed (causal)" in rankings and "| GELU" not in rankings
    assert "Most reproducible activation**: Swish" in text
    assert "**Repair first**" in section(text, "Future Work")


def test_identical_activations_are_called_out():
    text = text_of(DEGENERATE["identical activations"]())
    summary = section(text, "Executive Summary")
    assert "A check across activations failed" in summary and "distinct activations" in summary
    tests = section(text, "Statistical Significance").splitlines()
    row = next(line for line in tests if line.startswith("| GELU against Swish"))
    assert "no test: GELU: its audit failed" in row and "equal" not in row  # they are one: nothing is compared
    assert "- GELU: its audit failed (distinct activations)" in section(text, "Rankings by Use Case")


def test_diverged_and_overfitted_trials_are_reported():
    study = {**synthetic_study(), "gelu": synthetic_results("gelu", diverged=(2,))}
    worst = study["relu"]["trials"][2]
    worst.update(overfit=True, best_step=400, best_val_loss=1.567, val_loss=3.703)
    worst["val_loss_history"][-1] = 3.71  # at the probe, as the best one
    text = text_of(study)
    assert "GELU: trial 2 diverged at step 400; it is in no average and no test." in text
    assert "ReLU: trial 3 ended above its best validation loss (overfitting)." in text
    assert "Overfitting: ReLU trial 3 was best at step 400 (1.5670), and ended at 3.7100, both at the probe." in text


def test_the_second_opinion_needs_five_trials():
    assert "bootstrap" not in text_of(synthetic_study(n_trials=4))
    text = text_of(synthetic_study(n_trials=5))
    row = cells(text, "GELU against ReLU", "Standard error over trials")
    assert "[" in row["Change of mean PD [95 %]"]


def test_one_seed_or_one_bit_is_told_apart():
    study = synthetic_study()
    assert "nothing changed but the random seed" in text_of(study)
    for results in study.values():
        results["config"]["vary"] = ["bit"]
    assert "nothing changed but the last bit of one initial weight" in text_of(study)
    for results in study.values():
        results["config"]["vary"] = ["init", "order"]
    assert "trials differ in initial weights and sample of text at once" in text_of(study)


# -- files --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would load, and whether the tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.images, self.tags = [], [], 0, set()
        self.alts, self.places = [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if (name in ("src", "href", "srcset", "data") or name.startswith("on")) and not value.startswith("#"):
                self.loads.append(value)
            if name == "alt":
                self.alts.append(value)
            if name in ("id", "href"):
                self.places.setdefault(name, []).append(value.lstrip("#"))
        self.images += tag == "img"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


PNG = bytes.fromhex("89504e470d0a1a0a")


def test_html_is_one_file_that_opens_offline(tmp_path):
    for name in ("comprehensive_comparison.png", "pd_ratios.png"):
        storage.write_bytes(tmp_path / "my plots" / name, PNG + name.encode())
    text = generate_final_report(synthetic_study(), tmp_path / "results" / "R.md", tmp_path / "my plots")
    assert (tmp_path / "results" / "R.md").read_text(encoding="utf-8") == text
    assert "](../my%20plots/pd_ratios.png)" in text and "divergence_comparison" not in text
    page = Page((tmp_path / "results" / "R.html").read_text(encoding="utf-8"))
    assert page.images == 2 and all(load.startswith("data:image/png;base64,iVBORw0KGg") for load in page.loads)
    assert {"table", "h2", "style", "nav"} <= page.tags and "script" not in page.tags
    assert page.places["href"] == page.places["id"] == [f"s{i}" for i in range(1, 8)]
    study = Study(synthetic_study())
    ratio = next(t for t in study.tests if (t.a, t.b) == ("gelu", "relu")).tests["PD"].effect
    assert any(f"GELU {ratio:.3f} (" in alt for alt in page.alts) and all(len(alt) > 20 for alt in page.alts)


@pytest.fixture(scope="module")
def page_with_figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    study = Study(synthetic_study())
    plot_utils.plot_comparisons(study, folder / "plots")
    generate_final_report(study, folder / "results" / "FINAL_REPORT.md")
    return folder / "results" / "FINAL_REPORT.html"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_the_answer_is_on_the_first_screen_and_nothing_is_cut(page_with_figures):
    backgrounds = []
    with Browser() as page:
        for width, height, dark in ((1280, 800, False), (390, 844, False), (1280, 800, True)):
            page.open(page_with_figures, width, height, dark=dark, touch=width < 500)
            for selector in ("nav a[href='#s7']", "#s1 > p:nth-of-type(2)", "#s1 > figure"):
                bottom = page.run(f'document.querySelector("{selector}").getBoundingClientRect().bottom')
                assert 0 < bottom < height, (width, selector)
            shown = "[...document.querySelectorAll('td, p, li, img, h2, .wide')]"
            cut = f"{shown}.filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.textContent)"
            assert page.run(cut) == []
            assert page.run("document.documentElement.scrollWidth") <= width
            if width < 500:  # a row is a card: every cell says what it is
                label = "getComputedStyle(document.querySelector('td:nth-child(2)'), '::before').content"
                assert page.run(label) == '"Validation loss (nats/token)"'
            backgrounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
        assert backgrounds[0] == backgrounds[1] == "rgb(255, 255, 255)" != backgrounds[2]
        page.call("Emulation.setEmulatedMedia", media="print")
        assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert page.run("getComputedStyle(document.querySelector('thead')).display") == "table-header-group"
        assert page.complaints() == []


def test_figures_are_found_beside_the_results(tmp_path):
    storage.write_bytes(tmp_path / "plots" / "pd_ratios.png", PNG)
    text = generate_final_report(synthetic_study(), tmp_path / "results" / "FINAL_REPORT.md")
    assert "](../plots/pd_ratios.png)" in text
    assert generate_final_report(synthetic_study(), None, tmp_path / "plots") == text


def test_hostile_text_stays_text(tmp_path):
    study = synthetic_study()
    evil = "<script>alert(1)</script> | ![x](http://x/y.png) [a](javascript:b) `**\n## 8. Evil"
    for results in study.values():
        results["dataset"]["name"] = results["model_name"] = results["environment"]["host"] = evil
        results["audit"] = {"passed": False, "checks": [{"name": evil, "status": "fail", "measured": evil}]}
        results["timestamp"] = evil
    study["<img src=x onerror=alert(1)>|"] = synthetic_results("<img src=x onerror=alert(1)>|")
    for key in ("dataset", "evaluation"):
        study["<img src=x onerror=alert(1)>|"][key] = study["relu"][key]
    text = generate_final_report(study, tmp_path / "r" / "FINAL_REPORT.md")
    assert re.findall(r"^## \d\. (.*)$", text, re.M) == SECTIONS
    page = Page((tmp_path / "r" / "FINAL_REPORT.html").read_text(encoding="utf-8"))
    assert page.loads == [] and page.images == 0 and "script" not in page.tags


# -- wording ------------------------------------------------------------------------------------------------------


def test_numbers_are_written_without_lying():
    assert markdown.fixed(None) == "–"
    assert markdown.fixed(-0.12345, 3) == "−0.123"
    assert markdown.fixed(0.00001, 3) == "1e-05".replace("-", "−")  # not 0, so it does not show as 0
    assert markdown.fixed(0.0, 1) == "0.0"
    assert markdown.signed(0.25) == "+0.2" and markdown.signed(-0.04) == "−0.04"
    assert [markdown.p_value(p) for p in (None, 1e-9, 0.0498, 0.05, 0.2, 1.0)] == [
        "–",
        "< 0.0001",
        "0.0498",
        "0.0500",
        "0.200",
        "1",
    ]
    assert markdown.span([3.14, 2.71], 1, " %") == "2.7 to 3.1 %" and markdown.span([2.0, 2.01], 1) == "2.0"
    assert markdown.listed(["a"]) == "a" and markdown.listed("abc") == "a, b and c" and markdown.listed([]) == ""
    assert markdown.plus_minus(1.5, None, 1) == "1.5"


# -- what a report claims ----------------------------------------------------------------------------------------------


def test_a_sentence_with_a_direction_is_a_claim_unless_it_is_known_not_to_be():
    def claims(*lines, conclusions=()):
        body = [
            "## 1. Executive Summary",
            "",
            *lines,
            "",
            "### Terms",
            "- lower is better",
            "## 2. Detailed Results Table",
        ]
        return claims_of("\n".join([*body, "## 6. Conclusions", "", *conclusions, "## 7. Future Work", "take more"]))

    assert claims("Swish was found to be better.") == [("other", "Swish was found to be better.")]
    assert claims("- Nothing here.", "It is 3 % higher in PD. It stays.") == [("PD", "It is 3 % higher in PD.")]
    assert [kind for kind, _ in claims(conclusions=["- A: lower PD and loss than B."])] == ["PD", "loss"]
    assert claims("**Answer: yes.**")[0][0] == "contrast"
    assert claims("- **Validation loss** (lower predicts better) against ReLU. No difference shown: GELU.") == []
    assert claims("the truth lies between 2.1 % less and 7.9 % more.") == []
    assert claims("the truth lies between 2.1 % less and 7.9 % more, so take GELU.") != []


def test_simulated_studies_are_like_real_ones_and_differ_by_chance_alone():
    made = list(null_studies(np.random.default_rng(0), 300, 4, pd_chunks))
    assert len(made) == 300 and list(made[0]) == list(NAMES)
    means = {name: [np.mean(list(pds_of(study[name]).values())) for study in made] for name in NAMES}
    spread = {name: np.mean([np.std(log_jackknife(pds_of(s[name])), ddof=1) for s in made]) for name in NAMES}
    for name, factor in zip(NAMES, (0.9, 0.8, 1.3, 1.1, 1.0), strict=True):
        assert abs(np.mean(means[name]) - 0.133) < 4 * np.std(means[name]) / np.sqrt(300)
        assert spread[name] == pytest.approx(0.02 * factor * 0.85, rel=0.15)  # at four trials, below that at three
        values = [losses_of(study[name]) for study in made]
        assert np.mean(values) == pytest.approx(1.84, abs=0.001)
        # trials are independent of one another: their mean varies by one over the root of their number
        ratio = np.std([v.mean() for v in values]) / np.mean([v.std(ddof=1) for v in values])
        assert ratio == pytest.approx(0.5, rel=0.2)
    assert not claims_of(generate_final_report(made[0], None))


def test_no_section_and_no_product_is_left_out_of_the_simulation():
    """Whoever adds one must enter it where claims are counted."""
    with pytest.raises(ValueError, match="What else was found: a section that bench/claims.py does not know"):
        claims_of("## 5. Key Findings\n\n### What else was found\n\nGELU is better.")
    root = Path(__file__).resolve().parent.parent
    assert {path.parent.name for path in root.glob("questions/*/__init__.py")} == set(PRODUCTS)
    tell = [*root.glob("analysis/*.py"), *(root / "questions" / name / "tell.py" for name in PRODUCTS)]
    sources = "".join(path.read_text(encoding="utf-8") for path in tell if path.is_file())
    headings = re.findall(r'"#{2,3} ([^"{}]+)"', sources)
    apart = {root / "templates" / "comparison.md"}  # of anyone's models, without a baseline
    for path in {*root.glob("templates/*.md")} - apart:
        headings += re.findall(r"^#{2,3} (?:\d\. )?([^{}\n]+)$", path.read_text(encoding="utf-8"), re.M)
    assert len(headings) > 15 and set(headings) <= READ


def test_what_stands_for_a_verdict_is_read_in_every_section():
    table = ["| Activation | Change of mean PD | p, adjusted | Verdict |", "|:--|--:|--:|--:|"]

    def claims(heading, *lines):
        return [kind for kind, _ in claims_of("\n".join([f"## {heading}", "", *lines]))]

    row = ["| GELU | −3.0 % [−5.0, −1.0] | 0.0120 \\* | **lower** |"]
    assert claims("4. Statistical Significance", "PD, final models:", "", *table, *row) == ["PD", "PD"]
    assert claims("4. Statistical Significance", "Validation loss, nats per token:", "", *table, *row) == ["loss"] * 2
    plain = ["| GELU | −3.0 % [−5.0, −1.0] | 0.0720 | inconclusive |"]
    assert claims("4. Statistical Significance", "PD, final models:", "", *table, *plain) == []
    assert claims("5. Key Findings", "That PD is lower: **supported**, by the planned contrast.") == ["PD"]
    assert claims("How fast they part", "The planned contrast, adjusted p 0.01: twins part slower with these.") != []


def test_products_in_which_nothing_differs_are_simulated(tmp_path):
    """Remedies describe, whatever they do; a clock with planted doubling times is noticed, and one without is not."""
    rng = np.random.default_rng(1)
    study = next(null_studies(rng, 1, 5, pd_chunks))
    found = null_remedies(rng, study, pd_chunks)
    for entry in found["activations"].values():  # with an effect
        entry["arms"][1]["pd"] = (0.5 * np.array(entry["arms"][1]["pd"])).tolist()
    storage.write_json(tmp_path / "results" / "remedies.json", found)
    text = generate_final_report(study, None, tmp_path / "plots")
    told = text.partition("### What buys how much")[2].partition("## 6.")[0]
    assert "| distil" in told and "−5" in told and not claims_of(f"### What buys how much{told}")
    clocks = null_clocks(rng, NAMES, 5)
    assert clock.page(clocks) and not claims_of(clock.page(clocks))
    for trial in clocks["relu"].contents["trials"].values():
        trial["forks"][0]["weights"] = (1e-6 * 2 ** (np.array(trial["forks"][0]["steps"]) / 1.5)).clip(0, 0.3).tolist()
    assert len(claims_of(clock.page(null_clocks(rng, NAMES, 5) | {"relu": clocks["relu"]}))) == 5
