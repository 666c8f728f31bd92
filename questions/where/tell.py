"""What was found about where the trials disagree: read from `results/where.json`, and told in the report's words.

`analyze_results.py --where` writes the file (questions/where/measure.py); the numbers are defined in positions.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from analysis import products, template
from analysis.markdown import DASH, fixed, grouped, label, limits, signed, span, tabled, undressed
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

MARK = "<!-- the passage -->"


def lines(entries: Mapping[str, dict], **links: str) -> list[str]:
    """The report's lines; [] where nothing was measured. `links`: to `figure` and `page`; `shown`: the activation of
    the passage."""
    measured = {name: entry for name, entry in entries.items() if "reason" not in entry}
    if not measured:
        return []
    errors = {name: entry["error"] for name, entry in measured.items()}
    equality = {name: error["disagreement"] for name, error in errors.items()}
    failing = {name: d for name, d in equality.items() if d["verdict"] == "fails"}
    return template.lines(
        "where.md",
        positions=_positions(measured),
        tenths=_tenths(measured),
        kinds=_kinds(measured),
        errors=_errors(errors),
        biases=grouped((e["calibration"]["verdict"], name) for name, e in errors.items() if e["calibration"]),
        failing=failing,
        holding=[name for name in equality if name not in failing],
        fewer=all(d["difference"]["mean"] > 0 for d in failing.values()),
        ratios=failing and span([d["disagreement"] / d["error"] for d in failing.values() if d["error"]], 2),
        lacking=grouped((reason, name) for name, entry in entries.items() for reason in _lacking(entry)),
        mark=MARK,
        **{"figure": "", "page": "", **links},
    )


def _positions(measured: Mapping) -> str:
    header = "Activation|Mean PD|Median|90 %|99 %|KL (nats)|Share of all PD in the largest tenth"
    rows = [
        [label(name), *(fixed(pd[q]) for q in ("mean", "q50", "q90", "q99", "kl")), _percent(pd["largest_tenth_share"])]
        for name, pd in ((name, entry["pd"]) for name, entry in measured.items())
    ]
    return tabled(header.split("|"), rows)


def _kinds(measured: Mapping) -> str:
    by_kind = grouped((s["label"], (name, s)) for name, e in measured.items() for s in e["where"]["kind"])
    rows = []
    for kind, slices in by_kind.items():
        shares = span([100 * s["share_of_positions"] for _, s in slices], 1, " %")
        cells = {name: f"{_percent(s['share'])} ({fixed(s['pd'])})" for name, s in slices}
        rows.append([kind, shares, *(cells.get(name, DASH) for name in measured)])
    return tabled(["Kind", "Positions", *map(label, measured)], rows)


def _tenths(measured: Mapping) -> dict:
    """What the first, the last and the largest tenth hold; {} where shares are not known."""
    shares = [[s["share"] for s in entry["where"]["entropy"]] for entry in measured.values()]
    shares = np.array([row for row in shares if None not in row and len(row) == len(shares[0])])
    if not shares.size:
        return {}
    most = int(shares.mean(0).argmax())
    held = {key: span(100 * shares[:, k], 1, " %") for key, k in (("first", 0), ("last", -1), ("largest", most))}
    return {**held, "number": shares.shape[1], "most": most + 1}


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f} %"


def _errors(errors: Mapping) -> str:
    header = (
        "Activation|Loss|Of the mean prediction|Diversity|ECE|Confidence − accuracy [95 %]|Top-1 error|"
        "Top-1 disagreement"
    )
    rows = []
    for name, error in errors.items():
        ensemble, calibration, both = error["ensemble"], error["calibration"], error["disagreement"]
        cells = [fixed(ensemble[k]) for k in ("loss", "mean_prediction", "diversity")] if ensemble else [DASH] * 3
        if calibration:
            gap = calibration["gap"]
            inside = limits(gap["low"], gap["high"], 4, signed)
            cells += [fixed(calibration["ece"]), signed(gap["mean"], 4) + inside]
        else:
            cells += [DASH] * 2
        rows.append([label(name), *cells, _percent(both["error"]), _percent(both["disagreement"])])
    return tabled(header.split("|"), rows)


def _lacking(entry: Mapping) -> Iterator[str]:
    """What is said of less than all, or of nothing."""
    if text := entry.get("reason") or entry.get("note"):
        yield text
    recorded = entry.get("recorded_pd")
    if recorded and entry["source"] == "weights" and abs(entry["pd"]["mean"] / recorded - 1) > SAME_PD:
        yield f"PD computed again is {fixed(entry['pd']['mean'])}, on record is {fixed(recorded)}"


def overview(folder: Folder) -> str:
    """The section for a terminal."""
    return undressed("\n".join(lines(entries(folder))))


def section(folder: Folder) -> Section | None:
    """What the report tells, with links to those of figure and page that are there."""
    measured, images = entries(folder), folder.drawn(FIGURE_FILE)
    links, inserts = {"figure": next(iter(images), "")}, {}
    passage = products.load(folder.results / PASSAGE_FILE, SCHEMA)
    shown = [name for name in passage["activations"] if "reason" not in measured.get(name, {"reason": ""})]
    if shown and (page := folder.drawn(PAGE_FILE)):
        links |= {"page": next(iter(page)), "shown": default_baseline(shown)}
        inserts = {MARK: disagreement_page.fragment(passage, links["shown"])}
    text = lines(measured, **links)
    return Section(text, images, inserts) if text else None
