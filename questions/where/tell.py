"""What was found about where the trials disagree: read from `results/where.json`, and told in the report's words.

`analyze_results.py --where` writes the file (questions/where/measure.py); the numbers are defined in positions.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis import products
from analysis.markdown import DASH, address, fixed, label, labels, safe, signed, span, table, undressed
from analysis.products import Folder, Section
from analysis.question import default_baseline
from questions.where import page as disagreement_page

SCHEMA = "where/2"
WHERE_FILE, PASSAGE_FILE = "where.json", "where_passage.json"  # in the folder of the results
FIGURE_FILE, PAGE_FILE = "where.png", "disagreement.html"  # in that of the figures
PASSAGE_TOKENS = 768  # of the validation text, from its beginning
SHOWN = 3  # most likely tokens told of each trial
SAME_PD = 1e-3  # relative: PD computed again differs by less, unless it was measured elsewhere


def entries(folder: Folder) -> dict[str, dict]:
    """{activation: what was measured of it}, or the reason why it wasn't."""
    return products.fitting(products.load(folder.results / WHERE_FILE, SCHEMA)["activations"], folder.study.all_results)


# -- the report -------------------------------------------------------------------------------------------------------


def lines(entries: Mapping[str, dict]) -> list[str]:
    """The report's lines; [] where nothing was measured."""
    told = {name: entry for name, entry in entries.items() if "reason" not in entry}
    if not told:
        return []
    return [
        "### Where the trials differ",
        "",
        *_where(told),
        "",
        "### Is a difference an error?",
        "",
        *_error(told),
        "",
        *(f"- {line}" for line in _lacking(entries)),
    ]


def _where(told: Mapping) -> list[str]:
    rows = []
    for name, entry in told.items():
        pd = entry["pd"]
        quantiles = [fixed(pd[q]) for q in ("mean", "q50", "q90", "q99")]
        rows.append([label(name), *quantiles, fixed(pd["kl"]), _percent(pd["largest_tenth_share"])])
    header = ["Activation", "Mean PD", "Median", "90 %", "99 %", "KL (nats)", "Share of all PD in the largest tenth"]
    text = (
        "PD over the positions: its mean, the quantiles over positions of the mean over pairs, and how much of all PD "
        "lies in the tenth of the positions where it is largest."
    )
    lines = [text, *table(header, rows)]
    lines += [f"{_tenths(told)}Each kind of token holds this share of all PD (in brackets its mean PD):"]
    kinds = dict.fromkeys(s["label"] for e in told.values() for s in e["where"]["kind"])
    rows = []
    for kind in kinds:
        slices = {n: s for n, e in told.items() for s in e["where"]["kind"] if s["label"] == kind}
        shares = [100 * s["share_of_positions"] for s in slices.values()]
        cells = [f"{_percent(s['share'])} ({fixed(s['pd'])})" if (s := slices.get(n)) else DASH for n in told]
        rows.append([kind, span(shares, 1, " %"), *cells])
    return [*lines, *table(["Kind", "Positions", *map(label, told)], rows)]


def _tenths(told: Mapping) -> str:
    shares = [[s["share"] for s in entry["where"]["entropy"]] for entry in told.values()]
    shares = np.array([row for row in shares if None not in row and len(row) == len(shares[0])])
    if not shares.size:
        return ""
    most = int(shares.mean(0).argmax())
    first, last, largest = (span(100 * shares[:, k], 1, " %") for k in (0, -1, most))
    return (
        f"Of {shares.shape[1]} tenths of the positions, sorted by the mean entropy of the trials' predictions, the one "
        f"at which they are surest holds {first} of all PD, the one at which they are least sure {last}; the most, "
        f"{largest}, lies in tenth {most + 1}. "
    )


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f} %"


def _error(told: Mapping) -> list[str]:
    rows = [[label(name), *_cells(entry["error"])] for name, entry in told.items()]
    header = (
        "Activation|Loss|Of the mean prediction|Diversity|ECE|Confidence − accuracy [95 %]|Top-1 error|"
        "Top-1 disagreement"
    ).split("|")
    return [
        "Loss in nats per token, of the trials and of the mean of their predictions, which is never higher. Diversity "
        "is the mean KL divergence from the trials' normalised geometric mean to each of them, exactly what that mean "
        "saves in loss (Wood et al. 2023, arXiv 2301.03962). ECE is the expected calibration error. Intervals are over "
        "windows of text.",
        *table(header, rows),
        *(f"- {point}" for point in (_bias(told), _equality(told)) if point),
    ]


def _cells(error: Mapping) -> list[str]:
    ensemble, calibration = error["ensemble"], error["calibration"]
    cells = [fixed(ensemble[k]) for k in ("loss", "mean_prediction", "diversity")] if ensemble else [DASH] * 3
    if calibration:
        gap = calibration["gap"]
        inside = f" [{signed(gap['low'], 4)}, {signed(gap['high'], 4)}]" if gap["low"] is not None else ""
        cells += [fixed(calibration["ece"]), signed(gap["mean"], 4) + inside]
    else:
        cells += [DASH] * 2
    both = error["disagreement"]
    return [*cells, _percent(both["error"]), _percent(both["disagreement"])]


def _bias(told: Mapping) -> str:
    verdicts: dict[str, list[str]] = {}
    for name, entry in told.items():
        if entry["error"]["calibration"]:
            verdicts.setdefault(entry["error"]["calibration"]["verdict"], []).append(name)
    parts = [f"{what} for {labels(names)}" for what, names in verdicts.items()]
    return f"**Calibration** (mean confidence against accuracy): {'; '.join(parts)}." if parts else ""


def _equality(told: Mapping) -> str:
    found = {name: entry["error"]["disagreement"] for name, entry in told.items()}
    fails = [name for name, d in found.items() if d["verdict"] == "fails"]
    open_ = [name for name in found if name not in fails]
    parts = []
    if fails:
        more = [d["difference"]["mean"] > 0 for n, d in found.items() if n in fails]
        how = "trials differ less often than they err" if all(more) else "the two are not alike"
        ratios = [d["disagreement"] / d["error"] for n, d in found.items() if n in fails and d["error"]]
        parts.append(f"fails for {labels(fails)}: {how}, {span(ratios, 2)} times as often")
    if open_:
        parts.append(f"is not shown to fail for {labels(open_)}")
    return (
        "**Disagreement as an estimate of error** (the generalisation-disagreement equality, Jiang et al. 2022, arXiv "
        f"2106.13799): it {'; it '.join(parts)}."
    )


def _lacking(entries: Mapping) -> list[str]:
    """What is said of less than all, or of nothing."""
    reasons: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if text := entry.get("reason") or entry.get("note"):
            reasons.setdefault(text, []).append(name)
        recorded = entry.get("recorded_pd")
        if recorded and entry["source"] == "weights" and abs(entry["pd"]["mean"] / recorded - 1) > SAME_PD:
            text = f"PD computed again is {fixed(entry['pd']['mean'])}, on record is {fixed(recorded)}"
            reasons.setdefault(text, []).append(name)
    return [f"{labels(names)}: {safe(text)}." for text, names in reasons.items()]


def overview(folder: Folder) -> str:
    """The section for a terminal."""
    return undressed("\n".join(lines(entries(folder)))).replace("### ", "")


MARK = "<!-- the passage -->"


def section(folder: Folder) -> Section | None:
    """What the report tells, with links to those of figure and page that are there."""
    measured, plots = entries(folder), folder.plots
    text, images, inserts = lines(measured), {}, {}
    if not text:
        return None
    if (plots / FIGURE_FILE).is_file():
        link = address(plots / FIGURE_FILE, folder.results)
        images = {link: plots / FIGURE_FILE}
        text += ["", f"![Where trials disagree, and whether that is an error]({link})"]
    passage = products.load(folder.results / PASSAGE_FILE, SCHEMA)
    shown = [name for name in passage["activations"] if "reason" not in measured.get(name, {"reason": ""})]
    if shown and (plots / PAGE_FILE).is_file():
        name = default_baseline(shown)
        inserts = {MARK: disagreement_page.fragment(passage, name)}
        text += [
            "",
            f"[A passage of the validation text]({address(plots / PAGE_FILE, folder.results)}), coloured by how much "
            f"the trials of {label(name)} differ at each place; the page shows every activation, and what each trial "
            "expected.",
            "",
            MARK,
        ]
    return Section(text, images, inserts)
