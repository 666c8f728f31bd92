"""What a comparison leaves on disk."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import storage
from analysis import page, tables
from analysis.question import ask
from analysis.results import mean
from analysis.study import Study
from questions.foreign import draw, tell
from questions.foreign.results import Comparison
from questions.where.tell import PAGE_FILE


def write(found: Comparison, out: Path, report: bool, page_of_text: str = "") -> None:
    """Everything of a comparison below `out`, in results and plots; `found.written` names it."""
    folder, plots = out / "results", out / "plots"
    for group, results in found.results.items():
        found.written.append(storage.write_results(results, folder))
        found.results[group] = storage.read_results(found.written[-1])

    study = Study(found.results, question=found.question(found.results))
    if len(found.results) > 1:
        ask(folder, found.results, *found.asked)  # for whoever analyses the folder later

    def text(name: str, contents: str) -> None:
        storage.write_text(folder / name, contents)
        found.written.append(folder / name)

    record = {**found.shared, "members": found.members, "pairs": found.pairs, "mean_relative_pd": _between(found)}
    storage.write_json(folder / "matrix.json", {**record, "content_sha256": storage.sha256_json(record)})
    found.written.append(folder / "matrix.json")
    text("matrix.csv", found.matrix.to_csv(index_label="Member", lineterminator="\n"))
    with storage.atomic_path(folder / "results.parquet") as temporary:
        tables.everything(study).to_parquet(temporary, index=False)
    found.written.append(folder / "results.parquet")
    if not report:
        return
    if len(found.results) > 1:
        text("summary.csv", tables.csv(tables.summary(study)))
        text("significance.csv", tables.csv(tables.significance(study)))
    figures = draw.drawn(found, plots)
    found.written += figures.values()
    if page_of_text:
        found.written.append(plots / PAGE_FILE)
        storage.write_text(plots / PAGE_FILE, page_of_text)
    address = os.path.relpath(plots / PAGE_FILE, folder) if page_of_text else ""
    lines = tell.report(found, {key: os.path.relpath(path, folder) for key, path in figures.items()}, address)
    text("FINAL_REPORT.md", lines)
    images = {os.path.relpath(path, folder): path for path in figures.values()}
    text("FINAL_REPORT.html", page.to_html(lines, images))


def _between(found: Comparison) -> dict[str, dict[str, float]]:
    """The mean relative PD of pairs within each group and between each two."""
    groups, means = list(found.results), {}
    for a, b in itertools.combinations_with_replacement(groups, 2):
        if pairs := found.of(a, b):
            means.setdefault(a, {})[b] = mean(p["relative_pd"] for p in pairs)
    return means
