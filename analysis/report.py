"""The report, FINAL_REPORT.md: templates/report.md with what is said of a study; and what a terminal shows of it.

The sentences that numbers choose are in summary.py and sections.py, the HTML form in page.py.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import activations
import storage
from analysis import markdown, phrases, products, sections, summary
from analysis.markdown import address, fixed, label, plus_minus, table, trials_planned, undressed
from analysis.page import to_html
from analysis.products import Folder
from analysis.results import mean, std
from analysis.sections import interval
from analysis.study import ALPHA, REDUCTIONS, Study
from analysis.template import rendered
from cli import duration
from measures.table import BY_KEY
from storage import number


def _ratios(study: Study) -> str:
    """The forest plot in words."""
    tests = [(label(t.a), t) for t in study.primary] + [(_together(study), study.contrast)]
    ratios = [
        f"{name} {fixed(test.effect, 3)} ({fixed(test.low, 3)} to {fixed(test.high, 3)})"
        for name, t in tests
        if (test := t.tests.get("PD")) and test.effect is not None
    ]
    return f"Mean PD as a ratio to that of {label(study.question.baseline)}, with 95 % intervals: {'; '.join(ratios)}"


def _together(study: Study) -> str:
    return "all smooth ones" if study.question.about_smoothness else "together"


def _six(study: Study) -> str:
    """The six panels in words."""
    means = (
        f"{label(n)} {fixed(study.loss[n])}, {fixed(study.pd[n])}, {fixed(study.time[n], 1)} s" for n in study.by_pd
    )
    return (
        f"All {study.question.arms_noun}: loss, PD, top-1 mismatch, time, ranks, and PD against loss. Mean loss, mean "
        f"PD and median time: {'; '.join(means)}"
    )


FIGURES = {  # of the study as a whole: file, and what it shows, for those who can't see it too
    "comparison": ("comprehensive_comparison.png", _six),
    "ratios": ("pd_ratios.png", _ratios),
    "frontiers": ("frontiers.png", lambda _: "PD of annealed models against their loss, and their loss by steps"),
    "divergence": ("divergence_comparison.png", lambda _: "PD along training, and against validation loss"),
}


def write_report(
    study: Study,
    save_path: str | os.PathLike | None = "results/FINAL_REPORT.md",
    plots_dir: str | os.PathLike | None = None,
    results_dir: str | os.PathLike | None = None,
) -> str:
    """See analyze_results.generate_final_report. `results_dir`: where it would lie when there is nothing to write, by
    default a folder beside the figures."""
    folder = Path(save_path).parent if save_path is not None else results_dir
    folder = Path(folder if folder is not None else Path(plots_dir or "plots").parent / "results")
    plots = Path(plots_dir) if plots_dir is not None else folder.parent / "plots"
    text, page = composed(Folder.holding(study, folder, plots))
    if save_path is not None:
        storage.write_text(save_path, text)
        storage.write_text(Path(save_path).with_suffix(".html"), page)
    return text


def composed(folder: Folder) -> tuple[str, str]:
    """The report as Markdown and as a page, as they read in the folder of results beside the figures."""
    links, images = {}, {}
    for key, (name, _) in FIGURES.items():
        path = folder.plots / name
        if path.is_file():
            links[key] = address(path, folder.results)
            images[links[key]] = path
    further = products.sections(folder)
    text = report_text(folder.study, links, {part: [s.lines for s in added] for part, added in further.items()})
    added = [section for part in further.values() for section in part]
    page = to_html(text, images | {link: path for section in added for link, path in section.images.items()})
    for section in added:
        for comment, html in section.inserts.items():
            page = page.replace(comment, html)
    return text, page


def report_text(
    study: Study, links: Mapping[str, str] | None = None, further: Mapping[str, Sequence[Sequence[str]]] | None = None
) -> str:
    """The report as Markdown; `links` are those figures of FIGURES that have been drawn, `further` the lines that
    further questions add at the end of a part, by its title."""
    q, first = study.question, next(iter(study.measured.values()))
    final, probe = (number(first.record(key).get("positions")) for key in ("evaluation", "divergence"))
    text = rendered(
        "report.md",
        s=study,
        q=q,
        say=phrases,
        md=markdown,
        base=phrases.base(study),
        alpha=ALPHA,
        margins={quantity: phrases.margin(study, quantity) for quantity in ("PD", "Loss")},
        figures={key: f"![{FIGURES[key][1](study)}]({link})" for key, link in (links or {}).items()},
        further=further or {},
        summary=summary.executive_summary(study),
        positions=f"{final:,.0f} fixed positions" if final else "fixed positions",
        probe=f" (along training at {probe:,.0f} of their own, the *probe*)" if probe else "",
        measured=summary.how_measured(study),
        results=sections.detailed_results(study),
        ranked=sections.rankings(study),
        tests=sections.statistical_significance(study),
        uncompared=sections.uncompared(study),
        findings=sections.key_findings(study),
        conclusions=sections.conclusions(study),
        future=sections.future_work(study),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


# -- for a terminal ---------------------------------------------------------------------------------------------------


def overview(study: Study) -> str:
    """The table in short and the key sentences."""
    rows = []
    for name in study.by_pd:
        m = study.measured[name]
        losses, accuracies = m.losses(), m.trial_values("val_accuracy")
        rows.append(
            [
                activations.label(name),
                f"{fixed(study.pd[name])} {interval(m)}",
                fixed(m.average(BY_KEY["top1_mismatch_pct"]), 2),
                plus_minus(mean(losses), std(losses)),
                plus_minus(mean(accuracies), std(accuracies), 2),
                fixed(study.time[name], 1),
                str(len(m.trials)),
                m.audit,
            ]
        )
    header = f"{study.question.arm}|relative PD [95 %]|mismatch %|validation loss|accuracy %|time s|trials|audit".split(
        "|"
    )
    question, answer, *lines = map(undressed, summary.executive_summary(study))
    return "\n".join([*table(header, rows), question, answer, *(f"- {line}" for line in lines), ""])


def plan_text(study: Study) -> str:
    """Trials needed to see a given reduction of PD, and what they cost."""
    plan = study.plan()
    if not any(row["Trials_Needed"] for row in plan):
        return "The spread between trials is not known: planning needs three or more trials of two activations."
    cells: dict[str, list[str]] = {}
    most = dict.fromkeys(REDUCTIONS, 0)  # trials needed for a reduction in every comparison
    for row in plan:
        name = f"{activations.label(row['Activation_A'])} against {activations.label(row['Activation_B'])}"
        numbers = row["Trials_Needed"], row["Low"], row["High"]
        cells.setdefault(name, []).append(trials_planned(*numbers))
        most[row["Reduction_Pct"]] = max(most[row["Reduction_Pct"]], numbers[0] or 0)
    costs = []
    for percent, needed in most.items():
        hours = study.extra_hours(study.fit, needed)
        cost = (
            "no time on record"
            if hours is None
            else f"{duration(3600 * hours)} more of training"
            if hours
            else "no more"
        )
        costs.append(f"{percent:g} % in every comparison: {needed} trials of each {study.question.arm}, {cost}.")
    return "\n".join(
        [
            f"Trials per {study.question.arm} that find a reduction of PD of that size with 80 % power (p < 0.05,",
            "before correction for their number), with the range over the 80 % limits of the measured spread:",
            *table(["comparison", *(f"{percent:g} %" for percent in most)], ([n, *row] for n, row in cells.items())),
            *costs,
            "Times are of one trial after another at the median measured here; side by side they take less.",
            *textwrap.wrap(undressed(sections.looks(study)), 110),
        ]
    )
