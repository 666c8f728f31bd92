"""The report, FINAL_REPORT.md: how its sections are put together, its HTML form, and what a terminal shows of it.

The sentences are in sections.py.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import activations
import storage
from analysis import looks, sections, summary, where
from analysis.markdown import address, duration, fixed, plus_minus, table, trials_planned, undressed
from analysis.metrics_table import BY_KEY
from analysis.results import mean, std
from analysis.sections import interval
from analysis.study import REDUCTIONS, Study

SECTIONS = (  # title, its parts, each with the figure that follows
    (
        "Executive Summary",
        ((summary.executive_summary, "ratios"), (summary.terms, None), (summary.how_measured, None)),
    ),
    ("Detailed Results Table", ((sections.detailed_results, "comparison"),)),
    ("Rankings by Use Case", ((sections.rankings, None),)),
    ("Statistical Significance", ((sections.statistical_significance, None),)),
    ("Key Findings", ((sections.key_findings, "divergence"),)),
    ("Conclusions", ((sections.conclusions, None),)),
    ("Future Work", ((sections.future_work, None),)),
)
FIGURES = {  # of the study as a whole: file, caption
    "comparison": (
        "comprehensive_comparison.png",
        "All activations: loss, PD, top-1 mismatch, time, ranks, and PD against loss",
    ),
    "ratios": (
        "pd_ratios.png",
        "Mean PD of each activation, and of the smooth ones together, as a ratio to ReLU's, with its 95 % interval",
    ),
    "divergence": ("divergence_comparison.png", "PD along training, and against validation loss near the end"),
}
FURTHER = "Key Findings"  # what was found beyond the results files stands at the end of this section


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
    links, images = {}, {}
    for key, (name, _) in FIGURES.items():
        if (plots / name).is_file():
            links[key] = address(plots / name, folder)
            images[links[key]] = plots / name
    found = where.Told(study.all_results, folder, plots)
    text = report_text(study, links, [*looks.told(study.all_results, folder), *found.lines])
    if save_path is not None:
        storage.write_text(save_path, text)
        page = found.in_html(to_html(text, images | found.images))
        storage.write_text(Path(save_path).with_suffix(".html"), page)
    return text


def report_text(study: Study, links: Mapping[str, str] | None = None, further: Sequence[str] = ()) -> str:
    """The report as Markdown; `links` are those figures of FIGURES that have been drawn."""
    lines = ["# Activation functions and the reproducibility of trained language models"]
    for index, (title, parts) in enumerate(SECTIONS, 1):
        lines += ["", f"## {index}. {title}"]
        for part, figure in parts:
            lines += ["", *part(study)]
            if figure in (links or {}):
                lines += ["", f"![{FIGURES[figure][1]}]({links[figure]})"]
        lines += ["", *further] if title == FURTHER else []
    single = [line for i, line in enumerate(lines) if line or lines[i - 1]]  # one blank line at most
    return "\n".join(single).rstrip() + "\n"


# -- HTML -------------------------------------------------------------------------------------------------------------

# The policy lets the file load nothing: what it shows is inside it, and a script in a hostile results file stays text.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }}
p, li {{ max-width: 50rem; }}
h1, h2, h3 {{ line-height: 1.25; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; margin: 1rem 0; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
td[style*="right"] {{ white-space: nowrap; }}
th {{ border-bottom: 2px solid #888; }}
img {{ max-width: 70rem; width: 100%; height: auto; }}
p:has(img) {{ max-width: none; }}
code {{ background: #f3f3f3; padding: .05rem .25rem; overflow-wrap: anywhere; }}
@media print {{ body {{ max-width: none; margin: 0; font-size: 11px; }} h2 {{ break-after: avoid; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def to_html(text: str, images: Mapping[str, Path]) -> str:
    """Markdown as one HTML page that opens offline; `images` maps the links in the text to the files to put inside."""
    import markdown

    body = markdown.markdown(text, extensions=["tables", "sane_lists"])
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    for link, path in images.items():
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        data = base64.b64encode(storage.read_bytes(path)).decode("ascii")
        body = body.replace(f'src="{link}"', f'src="data:{kind};base64,{data}"')
    title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Report")
    return _PAGE.format(title=html.escape(title), body=body)


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
    header = "activation|relative PD [95 %]|mismatch %|validation loss|accuracy %|time s|trials|audit".split("|")
    said = [line for line in summary.executive_summary(study) if line]
    return "\n".join([*table(header, rows), *map(undressed, said), ""])


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
        cost = "no time on record" if hours is None else f"{duration(hours)} more of training" if hours else "no more"
        costs.append(f"{percent:g} % in every comparison: {needed} trials of each activation, {cost}.")
    return "\n".join(
        [
            "Trials per activation that find a reduction of PD of that size with 80 % power (p < 0.05, before",
            "correction for the number of comparisons), with the range over the 80 % limits of the measured spread:",
            *table(["comparison", *(f"{percent:g} %" for percent in most)], ([n, *row] for n, row in cells.items())),
            *costs,
            "Times are of one trial after another at the median measured here; side by side they take less.",
            *textwrap.wrap(undressed(sections.looks(study)), 110),
        ]
    )
