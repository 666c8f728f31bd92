"""The report: its sections, its numbers, and that it claims no more than the tests allow."""

import copy
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats

import storage
from analysis import markdown
from analysis.report import overview, plan_text
from analysis.study import Study
from analyze_results import generate_final_report
from config import UserError
from synthetic import DEGENERATE, STUDY, log_jackknife, losses_of, pds_of, synthetic_results, synthetic_study

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
def test_any_study_gives_seven_sections_and_no_nan(name):
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


def test_the_hypothesis_is_stated_before_the_numbers():
    summary = section(text_of(synthetic_study()), "Executive Summary")
    before = summary[: summary.index("**Result")]
    assert "**Hypothesis, stated before the numbers:**" in before
    assert not re.search(r"\d\.\d{3}|\d %", before)


def test_an_undecided_study_makes_no_claims():
    study = synthetic_study(spread=0.25)
    text = text_of(study)
    summary = section(text, "Executive Summary")
    assert "**Result: inconclusive.**" in summary
    assert "inconclusive for SmeLU β=0.5, SmeLU β=1, GELU and Swish" in summary
    assert "not evidence that there is no difference" in summary
    assert "Choose on accuracy and speed: no difference in reproducibility was shown" in section(text, "Conclusions")
    assert "More trials" in section(text, "Future Work")
    for claim in ("**lower**", "**higher**", "**supported**", "**refuted**", "lower than", "is supported by"):
        assert claim not in text.replace("% lower than that of ReLU (95 %", ""), claim  # that one has its interval
    assert r"\*" not in section(text, "Statistical Significance").partition("###")[2]  # no flag in any table


def test_a_decided_study_says_so_with_its_numbers():
    study = synthetic_study(n_trials=8)
    text = text_of(study)
    smooth = np.mean([log_jackknife(pds_of(study[name])) for name in STUDY if name != "relu"], axis=0)
    test = scipy.stats.ttest_rel(smooth, log_jackknife(pds_of(study["relu"])))
    interval = 100 * np.expm1(np.array(test.confidence_interval(0.95)))
    change = 100 * -np.expm1(np.mean(smooth - log_jackknife(pds_of(study["relu"]))))
    summary = section(text, "Executive Summary")
    assert "**Result: supported.**" in summary
    assert f"mean PD is {change:.1f} % lower than that of ReLU" in summary
    assert f"{interval[0]:.1f} to {interval[1]:.1f} %".replace("-", "−") in summary
    row = cells(section(text, "Statistical Significance"), "GELU", "Change of mean PD")
    assert row["Verdict"] == "**lower**" and row["p, Holm"].endswith(r"\*") and row["n"] == "8"
    assert "a lower mean PD than that of ReLU was shown" in section(text, "Conclusions")


def test_smooth_activations_may_lose():
    study = synthetic_study(n_trials=8)
    study["relu"] = synthetic_results("relu", n_trials=8, pd=0.07)
    text = text_of(study)
    assert "**Result: refuted.**" in text and "higher than that of ReLU" in text
    assert "Choose on accuracy and speed: no lower PD than that of ReLU was shown, and a higher one" in text


def test_practically_equal_is_a_result():
    study = {name: synthetic_results(name, n_trials=8, pd=0.1, spread=0.02) for name in STUDY}
    for name, results in study.items():  # a thousandth apart at most, independently
        rng = np.random.default_rng(sum(name.encode()))
        for pair in results["reproducibility_metrics"]:
            pair["relative_pd"] = 0.1 * (1 + 0.001 * rng.standard_normal())
    text = text_of(study)
    assert "refuted for differences of 5 % or more" in text
    assert "practically equal to ReLU (±5 %): SmeLU β=0.5, SmeLU β=1, GELU and Swish" in section(text, "Conclusions")


def test_disagreement_at_equal_loss_is_said_plainly():
    study = synthetic_study(n_trials=8)
    for results in study.values():  # along training all activations differ as much as ReLU's trials
        rng = np.random.default_rng(sum(results["activation"].encode()))
        results["divergence"]["pairs"] = copy.deepcopy(study["relu"]["divergence"]["pairs"])
        for curve in results["divergence"]["pairs"].values():
            curve["relative_pd"] = [pd * (1 + 0.02 * rng.standard_normal()) for pd in curve["relative_pd"]]
        results["divergence"]["val_loss"] = copy.deepcopy(study["relu"]["divergence"]["val_loss"])
    text = text_of(study)
    summary = section(text, "Executive Summary")
    assert "That is another verdict than on the final models for" in summary
    assert "supported on the final models; at equal validation loss:" in summary
    findings = section(text, "Key Findings")
    assert "Where the two disagree, neither settles the question" in findings
    assert "As the two differ, the question stays open." in summary
    assert "sharpness alone moves PD" in findings
    assert "how much they have learnt may explain it" in section(text, "Conclusions")


def test_the_pareto_front():
    study = synthetic_study()
    points = {n: (losses_of(r).mean(), np.mean(list(pds_of(r).values()))) for n, r in study.items()}
    front = {
        name
        for name, point in points.items()
        if not any(all(np.less_equal(other, point)) for other in points.values() if other != point)
    }
    table = section(text_of(study), "Conclusions")
    for name, label in (("smelu_05", "SmeLU β=0.5"), ("smelu_1", "SmeLU β=1"), ("gelu", "GELU"), ("swish", "Swish")):
        assert cells(table, label, "On the front of means")["On the front of means"] == (
            "yes" if name in front else "no"
        )


def test_each_headline_is_of_its_own_metric():
    study = synthetic_study()
    text = section(text_of(study), "Rankings by Use Case")
    lowest = {
        "mean PD": min(STUDY, key=lambda n: np.mean(list(pds_of(study[n]).values()))),
        "mean validation loss": min(STUDY, key=lambda n: losses_of(study[n]).mean()),
    }
    for what, name in lowest.items():
        assert f"**Lowest {what}**: {markdown.label(name)}," in text
    fastest = min(STUDY, key=lambda n: np.median([t["training_time"] for t in study[n]["trials"]]))
    assert f"**Shortest median training time of a trial**: {markdown.label(fastest)}," in text


def test_failed_audits_are_seen_and_not_ranked():
    study = {**synthetic_study(), "gelu": synthetic_results("gelu", pd=1e-6, val_loss=0.008, audit_passed=False)}
    text = text_of(study)
    assert "GELU: failed the audit; kept out of rankings and tests. *causal*" in section(text, "Executive Summary")
    rankings = section(text, "Rankings by Use Case")
    assert "- GELU: its audit failed (causal)" in rankings and "| GELU" not in rankings
    assert "Lowest mean PD**: Swish" in text
    assert "**Repair first**" in section(text, "Future Work")


def test_identical_activations_are_called_out():
    text = text_of(DEGENERATE["identical activations"]())
    summary = section(text, "Executive Summary")
    assert "A check across activations failed" in summary and "distinct activations" in summary
    assert "no variation between trials" in section(text, "Statistical Significance")


def test_diverged_and_overfitted_trials_are_reported():
    study = {**synthetic_study(), "gelu": synthetic_results("gelu", diverged=(2,))}
    study["relu"]["trials"][2].update(overfit=True, best_step=400, best_val_loss=1.567, val_loss=3.703)
    text = text_of(study)
    assert "GELU: trial 2 diverged at step 400; it is in no average and no test." in text
    assert "ReLU: trial 3 ended above its best validation loss (overfitting)." in text
    assert "Overfitting: ReLU trial 3 was best at step 400 (1.5670), and ended at 3.7030." in text


def test_the_second_opinion_needs_five_trials():
    assert "A bootstrap is not offered" in text_of(synthetic_study(n_trials=4))
    text = text_of(synthetic_study(n_trials=5))
    assert "A bootstrap is not offered" not in text
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
    assert "trials differ in init and order at once" in text_of(study)


# -- files --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would load, and whether the tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.images, self.tags = [], [], 0, set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data") or name.startswith("on"):
                self.loads.append(value)
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
    assert {"table", "h2", "style"} <= page.tags and "script" not in page.tags


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
