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


def write(comparison: Comparison, out: Path, report: bool, page_of_text: str = "") -> None:
    """Everything of a comparison below `out`, in results and plots; `comparison.written` names it."""
    folder, plots, written = out / "results", out / "plots", comparison.written
    for group, results in comparison.results.items():
        written.append(storage.write_results(results, folder))
        comparison.results[group] = storage.read_results(written[-1])
    study = Study(comparison.results, question=comparison.question(comparison.results))
    several = len(comparison.results) > 1
    if several:
        ask(folder, comparison.results, *comparison.asked)  # for whoever analyses the folder later

    def text(path: Path, contents: str) -> None:
        storage.write_text(path, contents)
        written.append(path)

    record = {"members": comparison.members, "pairs": comparison.pairs, "mean_relative_pd": _between(comparison)}
    record = {**comparison.shared, **record}
    storage.write_json(folder / "matrix.json", {**record, "content_sha256": storage.sha256_json(record)})
    written.append(folder / "matrix.json")
    text(folder / "matrix.csv", comparison.matrix.to_csv(index_label="Member", lineterminator="\n"))
    with storage.atomic_path(folder / "results.parquet") as temporary:
        tables.everything(study).to_parquet(temporary, index=False)
    written.append(folder / "results.parquet")
    if not report:
        return
    if several:
        text(folder / "summary.csv", tables.csv(tables.summary(study)))
        text(folder / "significance.csv", tables.csv(tables.significance(study)))
    figures = draw.drawn(comparison, plots)
    written += figures.values()
    if page_of_text:
        text(plots / PAGE_FILE, page_of_text)
    address = os.path.relpath(plots / PAGE_FILE, folder) if page_of_text else ""
    lines = tell.report(comparison, {key: os.path.relpath(path, folder) for key, path in figures.items()}, address)
    text(folder / "FINAL_REPORT.md", lines)
    images = {os.path.relpath(path, folder): path for path in figures.values()}
    text(folder / "FINAL_REPORT.html", page.to_html(lines, images))


def _between(comparison: Comparison) -> dict[str, dict[str, float]]:
    """The mean relative PD of pairs within each group and between each two."""
    groups, means = list(comparison.results), {}
    for a, b in itertools.combinations_with_replacement(groups, 2):
        if pairs := comparison.of(a, b):
            means.setdefault(a, {})[b] = mean(p["relative_pd"] for p in pairs)
    return means
