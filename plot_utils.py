"""Every figure, drawn from results alone.

    plot_training_curves(results, activation, save_dir)           one activation: losses along training
    plot_reproducibility_metrics(results, activation, save_dir)   how much its trials differ
    plot_summary_metrics(results, activation, save_dir)           loss, accuracy, PD, time
    plot_divergence(results, activation, save_dir)                how its trials part along training
    plot_all_activation_results(save_dir, results_dir)            all activations, six panels
    plot_comparisons(all_results, save_dir)                       every figure over several activations

The figure of a further question is beside it: questions/where/draw.py.

Each `plot_X` writes a PNG and returns its path. All of them take these too:

    formats=("png", "pdf", "svg")    to write other formats, or several; the path returned is the first's
    width=5.5                        inches across, so that text is printed at the size it has: 7 pt or more
    ax=ax, panel="loss"              to draw one panel on matplotlib axes of your own: nothing is written, the axes are
                                     returned, and their look is yours; the first panel unless another is named

`plot_X.figure(results, …)`, without folder and formats, gives the matplotlib Figure itself, to be changed and saved.

An activation has one colour and one marker in all figures, told apart with any colour vision. What you set in
matplotlib's rcParams is kept, but for the sizes of text. Figures are made without pyplot: no backend is chosen, no
state is left behind, and the same results give the same bytes. PDF and SVG are for papers: they have no title and no
note, which are the caption's. Only trials that finished enter an average; diverged
ones are shown as such. Intervals are over trials, of PD by the jackknife (significance.py). The panels themselves are
in plotting/. No torch (but for plot_activation_functions).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

if sys.flags.safe_path:  # python -I and -P leave the program's own folder out
    sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":  # before anything that may be missing is imported
    from cli import require_packages

    require_packages("plot_utils.py")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import activations
import cli as streams
import questions
import storage
from analysis import products
from analysis.frontier import frontier
from analysis.products import Folder, Product
from analysis.results import Measured, load_all_results
from analysis.study import Study
from analysis.tables import save_results_summary
from config import Config, Parser, UserError
from plotting import NARROWEST, WIDEST, WIDTH_HELP, one, several
from plotting import frontier as annealed
from plotting import width as inches
from plotting.style import PAGE, activation_style, fit, house_style, page

__all__ = [
    "plot_training_curves",
    "plot_reproducibility_metrics",
    "plot_summary_metrics",
    "plot_divergence",
    "plot_all_activation_results",
    "plot_divergence_comparison",
    "plot_pd_ratios",
    "plot_frontiers",
    "plot_beta_sweep",
    "plot_activation_functions",
    "plot_comparisons",
    "activation_style",
    "save_results_summary",  # the table beside the figures: asked for together with them
]

_NO_DATES = {  # metadata left out, so that the same results give the same bytes
    "png": {},  # it names the version of matplotlib: another one may draw other bytes
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}


# -- what all figures have in common ------------------------------------------------------------------------------


def _common(save_dir="plots", formats=("png",), ax=None, panel=None, width=None):
    """The parameters that every figure has beside its own."""


def figure(stem: str, build: Callable[..., Figure], **panels: Callable) -> Callable:
    """Make a figure's function out of one that checks its arguments and returns the data to draw.

    `build(data)` gives the whole figure, which is written as `save_dir/{stem}.{format}`; `panels[name](ax, data)` draws
    one panel. The parameters of `_common` that the function doesn't have are added to it.
    """

    def decorate(check: Callable) -> Callable:
        own = inspect.signature(check).parameters
        added = [p for name, p in inspect.signature(_common).parameters.items() if name not in own]
        signature = inspect.Signature([*own.values(), *added], return_annotation="Path | Axes")

        @functools.wraps(check)
        def plot(*args, **kwargs) -> Path | Axes:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            save_dir, formats, ax, panel, width = (
                given.arguments[name] for name in inspect.signature(_common).parameters
            )
            folder, formats = _folder("save_dir", save_dir), _formats(formats)
            data = check(**{name: given.arguments[name] for name in own})
            if ax is None and panel is None:
                name = storage.file_name(given.arguments["activation"]) if "activation" in own else ""
                with page(width=_width(width)):
                    path = _save(build, data, folder, stem.format(activation=name), formats)
                if (
                    streams.in_notebook() and sys._getframe(1).f_globals.get("__name__") == "__main__"
                ):  # a cell's own call
                    from IPython.display import Image, display

                    display(Image(str(path)) if path.suffix == ".png" else path)
                return path
            draw = panels.get(panel or next(iter(panels)))
            if draw is None:
                raise UserError(f"panel={panel!r}: must be one of {', '.join(panels)}")
            if not isinstance(ax, Axes):
                raise UserError(f"ax: matplotlib axes to draw a panel on are needed, not {_kind(ax)}")
            draw(ax, data)
            return ax

        @functools.wraps(check)
        def drawn(*args, **kwargs) -> Figure:
            with house_style():
                return fit(build(check(*args, **kwargs)))

        @functools.wraps(check)
        def data_of(*args, **kwargs) -> str:
            return _sha256(check(*args, **kwargs))

        plot.__signature__, plot.figure, plot.panels, plot.data_of = signature, drawn, tuple(panels), data_of
        return plot

    return decorate


def _sha256(data) -> str:
    """The checksum of what a figure is drawn from, which it carries."""
    if isinstance(data, Study):
        data = [[*data.measured.values()], data.question.baseline, data.question.contrast]
    plain = json.loads(json.dumps(data, default=_plain))
    return storage.sha256_json(plain)


def _plain(x):
    """What JSON has no form for: records, arrays, numbers of NumPy."""
    if isinstance(x, Measured):
        own = {k: v for k, v in x.results.items() if k not in ("questions", "left_out")}  # what is in their file
        return own.get("content_sha256") or storage.sha256_json(own)
    if dataclasses.is_dataclass(x):
        values = (getattr(x, field.name) for field in dataclasses.fields(x))
        return [[*v.items()] if isinstance(v, Mapping) else v for v in values]  # of pairs, the keys are two numbers
    return x.tolist() if hasattr(x, "tolist") else str(x)


def _save(build: Callable[..., Figure], data, folder: Path, stem: str, formats: list[str]) -> Path:
    pages: dict[bool, Figure] = {}
    with house_style(**{"svg.hashsalt": stem}):
        for kind in formats:
            if (captions := kind == "png") not in pages:
                with page(captions=captions):
                    pages[captions] = fit(build(data))
            drawn = pages[captions]
            # level 3: files a little larger, written in half the time
            options = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
            made_of = (
                {products.DATA: _sha256(data)} if kind == "png" else {"Keywords": f"{products.DATA} {_sha256(data)}"}
            )
            metadata = {**_NO_DATES[kind], **made_of}
            with storage.atomic_path(folder / f"{stem}.{kind}") as temporary:
                drawn.savefig(temporary, format=kind, metadata=metadata, **options)
    return folder / f"{stem}.{formats[0]}"


# -- what the arguments must be -----------------------------------------------------------------------------------


def _kind(value) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _folder(name: str, value) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name}: a folder is needed, such as 'plots', not {_kind(value)}")
    return Path(value)


def _formats(formats: Iterable[str]) -> list[str]:
    kinds = [formats] if isinstance(formats, str) else list(formats) if isinstance(formats, Iterable) else []
    if not kinds or not all(isinstance(kind, str) and kind in _NO_DATES for kind in kinds):
        raise UserError(f"formats: must be one or more of {', '.join(_NO_DATES)}")
    return kinds


def _width(value: float | None) -> float:
    if value is None:
        return PAGE.get().width
    if not isinstance(value, int | float) or not NARROWEST <= value <= WIDEST:
        raise UserError(f"width={value!r}: must be inches from {NARROWEST} to {WIDEST}")
    return value


def _is_results(value) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(key), list) for key in ("trials", "reproducibility_metrics")
    )


def _one(results: Mapping, activation: str) -> Measured:
    """The results of one activation, which they must be of."""
    if isinstance(results, str) and not isinstance(activation, str):
        raise UserError(f"results, activation: in this order, please: results of {results!r} first, then its name")
    if not isinstance(activation, str):
        raise UserError(f"activation: a name is needed, such as 'relu', not {_kind(activation)}")
    if isinstance(results, Mapping) and results and all(map(_is_results, results.values())):
        raise UserError(f"results: these are of several activations; of one are needed, all_results[{activation!r}]")
    if not _is_results(results):
        raise UserError(
            "results: the results of one activation are needed, with its 'trials' and 'reproducibility_metrics' "
            f"(of all results, all_results[{activation!r}]), not {_kind(results)}"
        )
    of = results.get("activation", activation)
    if of != activation and _canonical(of) != _canonical(activation):
        raise UserError(f"activation={activation!r}: but the results are those of {of!r}")
    return Measured(activation, dict(results))


def _canonical(name: str) -> str:
    try:
        return activations.canonical_name(name)
    except UserError:
        return name


def _study(all_results: Mapping[str, dict] | Study) -> Study:
    """The results of all activations, which can be compared."""
    if isinstance(all_results, Study):
        return all_results
    if _is_results(all_results):
        raise UserError("all_results: these are of one activation; {activation: results} of all are needed")
    if not isinstance(all_results, Mapping) or not all(map(_is_results, all_results.values())):
        but = "" if isinstance(all_results, Mapping) else f", not {_kind(all_results)}"
        raise UserError(f"all_results: {{activation: results}} is needed, as load_all_results('results') gives{but}")
    return Study(all_results)


def _rows(table: Iterable[Mapping]) -> list[Mapping]:
    rows = list(table) if isinstance(table, Iterable) and not isinstance(table, Mapping | str) else [None]
    if not all(isinstance(row, Mapping) and {"activation", "together"} & set(row) for row in rows):
        raise UserError("table: one mapping per row is needed, with its activation, ratio, low and high")
    if not rows:
        raise UserError("table: there is no comparison to draw; results of two activations are needed")
    return rows


# -- one activation -----------------------------------------------------------------------------------------------


@figure("{activation}_training_curves", one.training_curves, **one.CURVES)
def plot_training_curves(results: Mapping, activation: str):
    """Training and validation loss of every trial (nats per token) against the recorded steps, from the end of the
    warm-up on; learning rate and gradient norm where they were recorded. These losses are over fewer positions
    (`probe_tokens`) than the final ones in the tables (`eval_tokens`). Writes `{activation}_training_curves.png`.
    Panels: loss, late, learning_rate, gradient_norm.

    Results without steps are drawn against the number of the evaluation.

    Raises:
        UserError: `results` is not the results of this activation.
        storage.StorageError: the disk refuses.
    """
    return _one(results, activation)


@figure("{activation}_reproducibility", one.reproducibility, **one.REPRODUCIBILITY)
def plot_reproducibility_metrics(results: Mapping, activation: str):
    """How much each pair of trials differs: relative PD (±: 95 % over positions), each trial's mean PD with the others,
    top-1 mismatch, and every further metric of a pair. Writes `{activation}_reproducibility.png`.
    Panels: matrix, trials, mismatch, metrics.

    Raises: as plot_training_curves.
    """
    return _one(results, activation)


@figure("{activation}_summary", one.summary, **one.SUMMARY)
def plot_summary_metrics(results: Mapping, activation: str):
    """Final loss, accuracy, relative PD and training time: each trial (pair, for PD) as a point, and their mean with
    its 95 % interval over trials. Writes `{activation}_summary.png`. Panels: loss, accuracy, pd, time.

    Raises: as plot_training_curves.
    """
    return _one(results, activation)


@figure("{activation}_divergence", one.divergence, **one.DIVERGENCE)
def plot_divergence(results: Mapping, activation: str):
    """Relative PD, top-1 mismatch and difference of validation loss of every pair of trials, along training.
    Writes `{activation}_divergence.png`. Panels: pd, mismatch, loss.

    Raises: as plot_training_curves.
    """
    return _one(results, activation)


# -- several activations ------------------------------------------------------------------------------------------


@figure("comprehensive_comparison", several.comparison, **several.SIX)
def plot_all_activation_results(save_dir: str | os.PathLike = "plots", results_dir: str | os.PathLike = "results"):
    """All activations of a folder of results in six panels: validation loss, relative PD, top-1 mismatch, training
    time, ranks, and PD against loss. Writes `comprehensive_comparison.png`.
    Panels: loss, pd, mismatch, time, ranks, trade_off.

    Raises:
        UserError: there are no results, or they are of different settings.
        storage.StorageError: a results file is damaged, or the disk refuses.
    """
    folder = _folder("results_dir", results_dir)
    all_results = load_all_results(folder)
    if not all_results:
        raise UserError(f"results_dir={str(folder)!r}: no *_results.json in it; train first (python train.py)")
    return Study(all_results)


@figure("comprehensive_comparison", several.comparison, **several.SIX)
def _plot_six_panels(all_results: Mapping[str, dict] | Study):
    """plot_all_activation_results of results in memory."""
    return _study(all_results)


@figure("divergence_comparison", several.divergence_comparison, step=several.pd_by_step, loss=several.pd_by_loss)
def plot_divergence_comparison(all_results: Mapping[str, dict] | Study):
    """Relative PD along training for all activations: against the step, and against validation loss near the end.
    Writes `divergence_comparison.png`. Panels: step, loss.

    Raises:
        UserError: no results, results of different settings, or none that hold predictions along training.
        storage.StorageError: the disk refuses.
    """
    study = _study(all_results)
    if not any(one.recorded_divergence(m)[1] for m in study.measured.values()):
        raise UserError("no results hold predictions along training of two trials: there is no divergence to draw")
    return study


@figure("pd_ratios", several.pd_ratios, ratios=several.ratios)
def plot_pd_ratios(table: Mapping[str, dict] | Study | Iterable[Mapping]):
    """Each activation's mean PD as a ratio to the baseline's, with 95 % intervals and verdicts: a forest plot, headed
    by what the tests allow to be said. Writes `pd_ratios.png`. Panel: ratios.

    Args:
        table: all results, or one mapping per activation: `activation`, `ratio`, `low`, `high` (None: no interval),
            `verdict`; where it has them, `matched_ratio`, `matched_low`, `matched_high`, `matched_verdict` (PD at equal
            loss) get a line of their own; `baseline` is what it is compared with (default: relu). With `together`, a
            list of names, in the place of `activation` it is the planned contrast of these.

    Raises:
        UserError: there is nothing to compare with the baseline.
        storage.StorageError: the disk refuses.
    """
    if isinstance(table, Mapping | Study):
        return several.ratio_rows(_study(table)) or _rows([])
    return _rows(table)


@figure("frontiers", annealed.frontiers, pd=annealed.pd_by_loss, loss=annealed.loss_by_steps)
def plot_frontiers(all_results: Mapping[str, dict] | Study):
    """Relative PD of annealed models against their validation loss, a point for each branch of the trunk, and that
    loss against their steps, with 95 % intervals over trials. Writes `frontiers.png`. Panels: pd, loss.

    Raises:
        UserError: no results of trials with branches (--schedule trunk), or results of different settings.
        storage.StorageError: the disk refuses.
    """
    frontiers = {name: points for name, m in _study(all_results).measured.items() if (points := frontier(m))}
    if not frontiers:
        raise UserError("no results hold branches of two trials; train some first (python train.py --schedule trunk)")
    return frontiers


@figure("beta_sweep", several.beta_sweep, **several.BETA)
def plot_beta_sweep(all_results: Mapping[str, dict] | Study):
    """Relative PD and validation loss of SmeLU against β, with ReLU as its limit β → 0.
    Writes `beta_sweep.png`. Panels: pd, loss.

    Raises:
        UserError: no results of SmeLU, or results of different settings.
        storage.StorageError: the disk refuses.
    """
    study = _study(all_results)
    if not any(several.beta(name) for name in study.measured):
        raise UserError(
            "no results of SmeLU; train some β first (python train.py --activation smelu_0.1 smelu_05 smelu_2)"
        )
    return study


@figure("activation_functions", several.activation_functions, **several.FUNCTIONS)
def plot_activation_functions(save_dir: str | os.PathLike = "plots", names: Iterable[str] | None = None):
    """Activation functions and their derivatives (for a gated one, those of its gate). Needs torch.
    Writes `activation_functions.png`. Panels: function, derivative.

    Args:
        names: the activations, by default those of the study.

    Raises:
        UserError: an unknown name, or none.
        storage.StorageError: the disk refuses.
    """
    names = list(activations.STUDY if names is None else [names] if isinstance(names, str) else names)
    if not names:
        raise UserError("names: at least one activation is needed")
    return names


# -- all at once --------------------------------------------------------------------------------------------------


OF_ONE = {  # the figures of each activation, by the end of their names
    "training_curves": plot_training_curves,
    "reproducibility": plot_reproducibility_metrics,
    "summary": plot_summary_metrics,
    "divergence": plot_divergence,
}


def plot_comparisons(
    all_results: Mapping[str, dict] | Study, save_dir: str | os.PathLike = "plots", formats: Iterable[str] = ("png",)
) -> list[Path]:
    """Every figure over several activations that the results allow; their paths.

    The six panels always; divergence where predictions along training were stored; frontiers where the trials have
    branches; PD ratios where there is ReLU and another activation; the β sweep from three β of SmeLU on.

    Raises:
        UserError: there are no results, or they are of different settings.
        storage.StorageError: the disk refuses.
    """
    study = _study(all_results)
    return [plot(study, save_dir, formats) for plot in _comparisons(study).values()]


def _comparisons(study: Study) -> dict[str, Callable]:
    """{the end of its name: figure over several activations} of those that the results allow."""
    plots = {"comprehensive_comparison": _plot_six_panels}
    if any(one.recorded_divergence(m)[1] for m in study.measured.values()):
        plots["divergence_comparison"] = plot_divergence_comparison
    if any(map(frontier, study.measured.values())):
        plots["frontiers"] = plot_frontiers
    if several.ratio_rows(study):
        plots["pd_ratios"] = plot_pd_ratios
    if sum(bool(several.beta(name)) for name in study.measured) >= 3:
        plots["beta_sweep"] = plot_beta_sweep
    return plots


def _each(folder: Folder) -> dict[Path, Callable]:
    return {
        folder.plots / f"{storage.file_name(name)}_{kind}.png": functools.partial(plot, results, name)
        for name, results in folder.study.all_results.items()
        for kind, plot in OF_ONE.items()
    }


def comparisons(study: Study, folder: Path) -> dict[Path, Callable]:
    """{path in a folder: the drawing of a figure over several activations}."""
    plots = _comparisons(study)
    return {folder / f"{stem}.png": functools.partial(plot, study) for stem, plot in plots.items()}


EACH = Product("figures of each activation", _each)
SEVERAL = Product("comparison figures", lambda folder: comparisons(folder.study, folder.plots))


@streams.answers("plot_utils.py")
def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done; 1 a file is damaged or the disk refuses; 2 wrong input."""
    parser = Parser(prog="plot_utils.py", description="Draw every figure of the results on disk once more.")
    parser.add_argument("--results-dir", help="folder of the results (default: results)")
    parser.add_argument("--plots-dir", help="folder of the figures (default: plots)")
    parser.add_argument("--study", help="the study whose folders are meant (default: the folders above)")
    parser.add_argument("--width", type=inches, default=WIDEST, help=WIDTH_HELP)
    parser.add_argument("--pdf", action="store_true", help="write PDF files too")
    parser.add_argument("--svg", action="store_true", help="write SVG files too")
    parser.add_argument(
        "--functions",
        nargs="*",
        metavar="NAME",
        help="draw these activation functions and their derivatives instead (default: those of the study)",
    )
    args = parser.parse_args(argv)
    formats = ["png", *(kind for kind in ("pdf", "svg") if getattr(args, kind))]
    given = {k: v for k in ("results_dir", "plots_dir", "study") if (v := getattr(args, k))}
    # only the folders are asked of it; a device named outright spares a look for a GPU
    folders = Config(preset="smoke", device="cpu", precision="float32", **given)
    with page(width=args.width):
        if args.functions is not None:
            written = [plot_activation_functions(folders.plots_dir, args.functions or None, formats)]
        else:
            written = _redraw(Folder.of(folders), formats)
    for path in written:
        for kind in formats:
            print(f"written: {path.with_suffix('.' + kind)}")
    return 0


def _redraw(folder: Folder, formats: Iterable[str]) -> list[Path]:
    core = (EACH, SEVERAL) if load_all_results(folder.results) else ()
    written = products.draw((*core, *questions.hooks("PRODUCTS")), folder, folder.plots, formats)
    if not written:
        raise UserError(f"--results-dir {folder.results}: no *_results.json in it; train first (python train.py)")
    return written


if __name__ == "__main__":
    sys.exit(streams.run(main))
