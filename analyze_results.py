"""From results files to one table, calibrated tests, rankings and the report.

    all_results = load_all_results("results")
    save_results_summary("results/summary.csv")
    calculate_statistical_significance(all_results)
    rank_activations(all_results)
    generate_final_report(all_results, "results/FINAL_REPORT.md")

Everything is computed anew from the trials and the pairs of trials in the files; stored averages are never used. What
a file does not say (one of another tool may carry the documented keys only) is missing in the tables, never NaN.
Wherever `all_results` is asked for, an analysis.study.Study of them does too, and is then computed once for all. No
torch is needed here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import EllipsisType

if sys.flags.safe_path:  # python -I and -P leave the program's own folder out
    sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":  # before anything that may be missing is imported
    from cli import require_packages

    require_packages("analyze_results.py")

import cli as streams
import questions
from analysis import products, report, tables
from analysis.products import Folder, Product
from analysis.question import Question, ask
from analysis.results import load_all_results
from analysis.study import REDUCTIONS, Study
from analysis.tables import save_results_summary
from config import Config, Parser
from plotting import WIDTH_HELP
from plotting import width as inches

__all__ = [
    "load_all_results",
    "save_results_summary",
    "calculate_statistical_significance",
    "rank_activations",
    "generate_final_report",
    "results_frame",
    "plan_trials",
]


def _study(all_results: Mapping[str, dict] | Study, baseline: str | None, contrast: Iterable[str] | None) -> Study:
    """The study of these results, asked this question where one is named."""
    if baseline is None and contrast is None:
        return Study.of(all_results)
    contrast = [contrast] if isinstance(contrast, str) else contrast
    all_results = Study.of(all_results).all_results
    return Study(all_results, question=Question.of(all_results, baseline, contrast))


def results_frame(all_results: Mapping[str, dict]):
    """Everything measured as one tidy DataFrame: a row per trial (kind 'trial') and a row per pair (kind 'pair').

    Lists, such as the training curves, are left in the results files.
    """
    return tables.everything(Study.of(all_results))


def calculate_statistical_significance(
    all_results: Mapping[str, dict], baseline: str | None = None, contrast: Iterable[str] | None = None
):
    """One row per pair of activations: relative PD, PD at equal loss (`Matched_PD_…`) and validation loss.

    `PD_Ratio` is A's mean PD over B's, `PD_Change_Pct` the same as a change in percent, `Loss_Difference` A's mean loss
    minus B's; their 95 % intervals are not adjusted for the number of comparisons. `…_p_Holm` is adjusted for it in the
    family that counts: where the pair is `Primary`, a comparison with the baseline, over these planned comparisons; for
    any other pair over all pairs. `…_Significant` says whether it is below 0.05, and `…_Verdict` is made of it, here as
    in the report and the figures. Pairs are tested seed by seed (paired t) when the design shares seeds, else by
    Welch's test. `Naive_p_uncalibrated` is the t-test on pairwise PDs that older work used; it calls differences
    significant in 18 to 63 % of the cases where there are none, and is here for comparison only. `baseline` and
    `contrast` ask another question of the same results; see analysis/question.py.
    """
    return tables.significance(_study(all_results, baseline, contrast))


def rank_activations(all_results: Mapping[str, dict], weights: Mapping[str, float] | None = None, *, without=None):
    """Activations by a weighted score, best first.

    Each criterion is scaled over the activations compared, 1 for the best and 0 for the worst (1 for all when they are
    equal): reproducibility is the mean relative PD, accuracy the mean validation loss, efficiency the median training
    time of a trial. Equal scores share a rank.

    Args:
        weights: any of reproducibility, accuracy and efficiency, at least one above zero; they are scaled to sum to 1,
            and one left out is 0. Default: 60/30/10, the weighting for research.
        without: the id of a trial to leave out of everything, to see how much the ranks depend on it.

    Returns:
        A DataFrame with Rank, Activation, Score, the scaled criteria and what they were computed from. Activations that
        can't be ranked (failed audit, all trials diverged, a criterion not measured) are left out of it and stand in
        `.attrs["excluded"]` as {activation: reason}.

    Raises:
        UserError: an unknown weight, or one that is negative or not finite, or all are zero.
    """
    return tables.ranking(Study.of(all_results), weights, without)


def plan_trials(all_results: Mapping[str, dict], reductions: Iterable[float] = REDUCTIONS, baseline: str | None = None):
    """Trials per activation needed to see a given reduction of PD with 80 % power, from the spread measured so far.

    One row per comparison with the baseline and reduction in percent: `Trials_Needed` with
    the range `Low` to `High` over the 80 % limits of the spread, and the hours of training that the trials missing of
    both activations would take at their median time, one after another. Missing where the spread is not known (fewer
    than three trials, no variation).

    Raises:
        UserError: a reduction that is not between 0 and 100 %.
    """
    return tables.plan(_study(all_results, baseline, None), reductions)


def generate_final_report(
    all_results: Mapping[str, dict],
    save_path: str | os.PathLike | EllipsisType | None = ...,
    plots_dir: str | os.PathLike | None = None,
    baseline: str | None = None,
    contrast: Iterable[str] | None = None,
) -> str:
    """Write the report as Markdown, and beside it as one HTML file with its figures inside; return the Markdown.

    Args:
        save_path: where; the HTML has the same name with .html. None writes nothing. Default: FINAL_REPORT.md beside
            the results, in `results` where they are of no one folder.
        plots_dir: where the figures are, by default `plots` beside the folder of `save_path`. Those that are missing
            are left out.
        baseline: what the others are compared with; contrast: those that are compared with it together. Default: what
            the results record, else relu and the smooth ones.

    Raises:
        UserError: there are no results, or they are of different settings, or none of what the question names.
        storage.StorageError: the disk refuses.
    """
    study = _study(all_results, baseline, contrast)
    if save_path is ...:
        save_path = study.folder / "FINAL_REPORT.md"
    return report.write_report(study, save_path, plots_dir)


def write_all(results_dir: str | os.PathLike = "results", plots_dir: str | os.PathLike = "plots") -> list[Path]:
    """Bring everything that compares activations up to date: summary.csv, significance.csv, the comparison figures and
    the report. Returns the paths written."""
    return _written(Folder(Path(results_dir), Path(plots_dir)))


def _written(folder: Folder) -> list[Path]:
    return [path for product in _comparing() for path in products.write(product, folder)]


# -- what is made of every study ------------------------------------------------------------------------------------


def _tables(folder: Folder) -> dict[Path, str]:
    made = {"summary.csv": tables.summary(folder.study), "significance.csv": tables.significance(folder.study)}
    return {folder.results / name: tables.csv(table) for name, table in made.items()}


def _report(folder: Folder) -> dict[Path, str]:
    text, page = report.composed(folder)
    return {folder.results / "FINAL_REPORT.md": text, folder.results / "FINAL_REPORT.html": page}


def _paper(folder: Folder) -> dict[Path, object]:
    import plot_utils
    from analysis import paper

    own = folder.results / "paper"
    figures = plot_utils.comparisons(folder.study, own)
    drawn = {path.with_suffix(kind): draw for path, draw in figures.items() for kind in (".pdf", ".svg")}
    return {own / name: text for name, text in paper.texts(folder.study).items()} | drawn


TABLES = Product("tables", _tables)
REPORT = Product("report", _report)
PAPER = Product(
    "paper", _paper, needs="paper/*", flag="--paper", help="tables, methods and references in LaTeX, figures as PDF"
)


def _comparing() -> tuple[Product, ...]:
    """What is written anew whenever results change; the report last, for it shows the figures."""
    import plot_utils  # brings matplotlib

    return TABLES, plot_utils.SEVERAL, REPORT


def all_products() -> tuple[Product, ...]:
    """Every row, the core's first."""
    import plot_utils

    return plot_utils.EACH, *_comparing(), PAPER, *questions.hooks("PRODUCTS")


# -- the command line -------------------------------------------------------------------------------------------------


@streams.answers("analyze_results.py")
def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done; 1 a file is damaged, --check found something, or there was nothing to
    measure; 2 wrong input."""
    further = [product for product in (PAPER, *questions.hooks("PRODUCTS")) if product.flag]
    parser = Parser(prog="analyze_results.py", description="Table, tests, rankings and report of the results on disk.")
    parser.add_argument("--results-dir", help="folder of the results (default: results)")
    parser.add_argument("--plots-dir", help="folder of the figures (default: plots)")
    parser.add_argument("--checkpoint-dir", help="folder of the trained models, for --check (default: checkpoints)")
    parser.add_argument("--data-dir", help="folder of prepared corpora, for --verify (default: data)")
    parser.add_argument("--study", help="the study whose folders are meant (default: the folders above)")
    parser.add_argument("--studies-dir", default="studies", help="where --all-studies looks (default: studies)")
    parser.add_argument("--activation", nargs="+", metavar="NAME", help="activations that --check expects")
    parser.add_argument("--baseline", metavar="NAME", help="ask another question: what the others are compared with")
    parser.add_argument("--contrast", nargs="+", metavar="NAME", help="those that are compared with it together")
    parser.add_argument("--width", type=inches, help=WIDTH_HELP)
    action = parser.add_mutually_exclusive_group()
    for flag, mode, text in (
        ("--check", _check, "go through the validation checklist; exit 0 if all holds"),
        ("--verify", _verify, "derive every number again, from the checkpoints on"),
        ("--plan", _plan, "how many trials a 5, 10 or 20 %% difference in PD needs"),
        *((product.flag, functools.partial(_make, product), product.help) for product in further),
    ):
        action.add_argument(flag, dest="mode", action="store_const", const=mode, default=_analyse, help=text)
    queries = questions.hooks("QUERIES")
    for query in queries:
        action.add_argument(query.flag, nargs="+", metavar="STUDY", help=query.help)
        for name, options in query.options.items():
            parser.add_argument(f"--{name.replace('_', '-')}", **options)
    args = parser.parse_args(argv)
    given = {
        k: v for k in ("results_dir", "plots_dir", "checkpoint_dir", "data_dir", "study") if (v := getattr(args, k))
    }
    # only the folders are asked of it; a device named outright spares a look for a GPU
    config = Config(preset="smoke", device="cpu", precision="float32", **given)
    products.refuse_unknown_study(config)
    if args.baseline or args.contrast:
        ask(config.results_dir, load_all_results(config.results_dir), args.baseline, args.contrast)
    for query in queries:
        if studies := getattr(args, query.flag.strip("-").replace("-", "_")):
            print(query.run(studies, Folder.of(config, args.studies_dir), args))
            return 0
    with _page(args.width):
        return args.mode(Folder.of(config, args.studies_dir), args)


def _page(width: float | None) -> contextlib.AbstractContextManager:
    if width is None:
        return contextlib.nullcontext()
    from plotting.style import page  # brings matplotlib

    return page(width=width)


def _analyse(folder: Folder, args) -> int:
    print(report.overview(folder.study))
    return _say_written(_written(folder))


def _make(product: Product, folder: Folder, args) -> int:
    """A product of its own, and the report, which may tell it too."""
    paths = products.update(product, folder)
    if text := product.overview(folder):
        print(text)
    return _say_written(paths + (products.write(REPORT, folder) if product.section else []))


def _say_written(paths: list[Path]) -> int:
    for path in paths:
        print(f"written: {path}")
    return 0


def _check(folder: Folder, args) -> int:
    from tools.checklist import check_study

    lines = check_study(folder, all_products(), args.activation)
    print(*lines, sep="\n")
    return 1 if any(line.problem for line in lines) or len(lines) == 1 else 0  # of nothing, nothing holds


def _verify(folder: Folder, args) -> int:
    from tools.verify import print_verification  # brings torch

    return 1 if print_verification(folder, all_products()) else 0


def _plan(folder: Folder, args) -> int:
    print(report.plan_text(folder.study))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main))
