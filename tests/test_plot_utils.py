"""The figures say what the results say: checked on the Figure objects, and on the files as written."""

import dataclasses
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

import activations
import analyze_results
import plot_utils
import storage
from analysis.study import Study
from config import Config, UserError
from measures.table import METRICS
from plotting import one, several, style
from questions.clock.draw import plot_clock
from questions.clock.tell import Clock
from questions.remedies.draw import plot_remedies
from questions.sources.draw import plot_sources
from questions.studies.draw import plot_studies
from questions.where.draw import plot_where
from synthetic import (
    STUDY,
    add_frontier,
    minimal_results,
    synthetic_clock,
    synthetic_remedies,
    synthetic_results,
    synthetic_study,
    synthetic_where,
)

ROOT = Path(__file__).resolve().parent.parent
TWELVE = (*STUDY, "smelu_0.1", "smelu_0.25", "smelu_2", "mish", "tanh", "swiglu", "leaky_relu")
LONG = (
    "relu",
    "my_experiments.activations:a_very_long_activation_function_name_number_one",
    "my_experiments.activations:a_very_long_activation_function_name_number_two",
    "gsmelu_0.25_1.125_0.01_1.05",
    "an_extremely_long_registered_name_for_an_activation_that_fills_up_eighty_characters",
    "price$of_$x$",
)


def a_study(names, **kwargs):
    """Results of any activations, at levels that differ by a few percent."""
    levels = range(len(names))
    return {
        name: synthetic_results(
            name, **{"pd": 0.09 + 0.001 * (7 * i % 12), "val_loss": 1.75 + 0.012 * (5 * i % 12), **kwargs}
        )
        for i, name in zip(levels, names, strict=True)
    }


def zero_pd(name):
    """Trials that are copies of one another: every difference is exactly 0."""
    results = synthetic_results(name)
    for pair in results["reproducibility_metrics"]:
        pair.update({key: 0 for key in pair if key not in ("model_pair", "total_predictions")})
        pair["relative_pd_by_block"] = [0.0] * 64
    return results


SITUATIONS = {
    "five": lambda: synthetic_study(),
    "one": lambda: synthetic_study(["gelu"]),
    "twelve": lambda: a_study(TWELVE, n_trials=5),
    "long names": lambda: a_study(LONG),
    "one trial": lambda: synthetic_study(n_trials=1),
    "two trials": lambda: synthetic_study(["relu", "swish"], n_trials=2),
    "twenty trials": lambda: synthetic_study(["relu", "swish"], n_trials=20),
    "diverged": lambda: {
        "smelu_05": synthetic_results("smelu_05", n_trials=5, diverged=(2, 4)),
        "relu": synthetic_results("relu", diverged=(2,)),
        "gelu": synthetic_results("gelu", diverged=(1, 2, 3)),
        "swish": synthetic_results("swish", audit_passed=False),
    },
    "minimal": lambda: {name: minimal_results(name, val_loss=1.8 + 0.01 * i) for i, name in enumerate(STUDY)},
    "minimal, one trial": lambda: {"relu": minimal_results("relu", n_trials=1)},
    "identical": lambda: {name: zero_pd(name) for name in ("relu", "gelu")},
    "branches": lambda: {name: add_frontier(results) for name, results in a_study(LONG).items()},
    "branches, two trials": lambda: {"relu": add_frontier(synthetic_results("relu", n_trials=2))},
    "nothing trained": lambda: {"relu": synthetic_results("relu", n_trials=0)},
}
OF_ONE = {
    "training_curves": plot_utils.plot_training_curves,
    "reproducibility": plot_utils.plot_reproducibility_metrics,
    "summary": plot_utils.plot_summary_metrics,
    "divergence": plot_utils.plot_divergence,
}
OF_RELU = synthetic_results("relu")
ALL = {"relu": OF_RELU, "gelu": synthetic_results("gelu")}
TITLES = {metric.key: metric.heading for metric in METRICS}


def of_one(figure, results):
    return OF_ONE[figure].figure(results, results["activation"])


def comparison(all_results):
    with style.house_style():
        return several.comparison(Study(all_results))


def t_interval(values):
    """Student's interval of a mean, by SciPy; (nan, nan) for fewer than three."""
    if len(values) < 3:
        return np.nan, np.nan
    return scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))


def jackknife_interval(values):
    """Mean of {(i, j): value} and its interval from leaving out one trial at a time, on the log scale."""
    ids = sorted({k for pair in values for k in pair})
    n, mean = len(ids), np.mean(list(values.values()))
    without = np.array([np.mean([x for pair, x in values.items() if k not in pair]) for k in ids])
    logs = np.log(mean) + (n * mean - (n - 1) * without - mean) / mean
    half = scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.sem(logs)
    return mean, mean * np.exp(-half), mean * np.exp(half)


def pair_values(results, key):
    return {tuple(map(int, p["model_pair"].split("_vs_"))): p[key] for p in results["reproducibility_metrics"]}


def bars(axes, direction):
    """[(low, high)] of the error bars of a panel along 'x' or 'y'."""
    index = "xy".index(direction)
    segments = [s for c in axes.containers for lines in c[2] for s in lines.get_segments()]
    return [tuple(s[:, index]) for s in segments if s[0, 1 - index] == s[1, 1 - index]]


def lines(axes, gid):
    return [line for line in axes.get_lines() if re.fullmatch(gid, str(line.get_gid()))]


def points(axes, gid):
    found = [c for c in axes.collections if c.get_gid() == gid]
    return np.vstack([np.asarray(c.get_offsets()) for c in found]) if found else np.empty((0, 2))


def drawn_texts(figure, monkeypatch):
    """[(text, its box in pixels, whether it is slanted, points)] of everything written when the figure is drawn."""
    found, draw_text = [], RendererAgg.draw_text

    def record(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        found.append(mtext)
        return draw_text(self, gc, x, y, s, prop, angle, ismath=ismath, mtext=mtext)

    with style.house_style(), monkeypatch.context() as patch:
        patch.setattr(RendererAgg, "draw_text", record)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    unique = {id(t): t for t in found if t is not None and t.get_text().strip()}
    box = {key: text.get_window_extent(canvas.get_renderer()) for key, text in unique.items()}
    return [(t.get_text(), box[key], t.get_rotation() % 90, t.get_fontsize()) for key, t in unique.items()]


def assert_readable(figure, monkeypatch):
    """Every text lies on the page, and no two lie on one another."""
    figure.set_dpi(100)
    texts = drawn_texts(figure, monkeypatch)
    page = figure.bbox
    for text, box, *_ in texts:
        on_page = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        assert on_page, f"{text!r} leaves the page"
    for (a, box_a, slant_a, _), (b, box_b, slant_b, _) in itertools.combinations(texts, 2):
        wide = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        high = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        # boxes contain room for descenders: a pixel and a half of overlap shows nothing
        apart = wide <= 1 or high <= 1.5 or (slant_a and slant_b)
        assert apart, f"{a!r} and {b!r} overlap by {wide:.0f} x {high:.0f} pixels"


# -- every situation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_can_be_read(situation, monkeypatch):
    all_results = SITUATIONS[situation]()
    drawn = {"diverged": slice(0, 4, 2), "long names": slice(1, 2), "branches": slice(0)}.get(situation, slice(1))
    for name, results in list(all_results.items())[drawn]:
        for plot in OF_ONE.values():
            assert_readable(plot.figure(results, name), monkeypatch)
    study = Study(all_results)
    assert_readable(comparison(all_results), monkeypatch)
    if any(one.recorded_divergence(m)[1] for m in study.measured.values()):
        assert_readable(plot_utils.plot_divergence_comparison.figure(study), monkeypatch)
    if any(results.get("frontier") for results in all_results.values()):
        assert_readable(plot_utils.plot_frontiers.figure(study), monkeypatch)
    if several.ratio_rows(study):
        assert_readable(plot_utils.plot_pd_ratios.figure(study), monkeypatch)
    if any(several.beta(name) for name in all_results):
        assert_readable(plot_utils.plot_beta_sweep.figure(study), monkeypatch)


def test_null_and_nan_everywhere_else(monkeypatch):
    results = synthetic_results("relu")
    for trial in results["trials"]:
        trial["train_loss"] = trial["train_accuracy"] = trial["training_time"] = None
        trial["train_loss_history"][3] = None
        trial["val_loss_history"][4] = float("nan")
        trial["learning_rate_history"] = [None] * 11
    for pair in results["reproducibility_metrics"]:
        pair["top1_mismatch_pct"] = pair["prediction_differences"] = pair["hellinger"] = None
        pair["relative_pd_se"] = None
    results["divergence"]["pairs"]["1_vs_2"]["relative_pd"][0] = None
    results["dataset"] = None
    for figure in OF_ONE:
        assert_readable(of_one(figure, results), monkeypatch)
    assert_readable(comparison({"relu": results}), monkeypatch)


def figures() -> dict:
    """{name: (figure's function, its arguments)} of every figure, of 16 trials where there are any."""
    many = {name: synthetic_results(name, n_trials=16) for name in ("relu", "gelu")}
    found = {f"{name} of 16": (plot, (many["relu"], "relu")) for name, plot in OF_ONE.items()}
    found["six panels"] = plot_utils._plot_six_panels, (many,)
    return found | {plot.__name__: (plot, arguments) for plot, arguments in ON_AXES.items()}


@pytest.mark.parametrize("width", [5.5, 3.3])
def test_at_the_width_of_a_paper(width, monkeypatch):
    """Nothing is smaller than 7 points, nothing is cut off, and no two texts lie on one another."""
    for name, (plot, arguments) in figures().items():
        for captions in (True, False):
            with style.page(width=width, captions=captions):
                figure = plot.figure(*arguments)
                assert figure.get_figwidth() == width
                sizes = [size for *_, size in drawn_texts(figure, monkeypatch)]
                assert min(sizes) >= 7, name
                assert_readable(figure, monkeypatch)
                assert captions or not any(text.get_fontsize() == 9 for text in figure.texts if figure.axes), name


# -- files --------------------------------------------------------------------------------------------------------


def test_files_of_a_study(tmp_path, capsys):
    """Every figure in every format, also of what a further question measured."""
    storage.write_results(OF_RELU, tmp_path)
    sources = {name: {"relative_pd": [0.08, 0.09, 0.1], "mean": 0.09} for name in ("init", "bit", "all")}
    storage.write_json(tmp_path / "relu_sources.json", {"activation": "relu", "sources": sources})
    plots = tmp_path / "plots"
    flags = ["--results-dir", str(tmp_path), "--plots-dir", str(plots), "--pdf", "--svg"]
    assert plot_utils.main([*flags, "--width", "icml"]) == 0
    stems = {f"relu_{figure}" for figure in (*OF_ONE, "sources")} | {
        "comprehensive_comparison",
        "divergence_comparison",
    }
    assert {p.name for p in plots.iterdir()} == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf", "svg")}
    assert set(capsys.readouterr().out.split("\n")) - {""} == {f"written: {p}" for p in plots.iterdir()}
    assert all(p.read_bytes().startswith(b"%PDF") for p in plots.glob("*.pdf"))
    for path in plots.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.width == 650  # 3.25 inches
            assert [round(x) for x in image.info["dpi"]] == [200, 200]
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    svg = (plots / "relu_summary.svg").read_text(encoding="utf-8")
    assert "<!-- accuracy (%) -->" in svg
    assert "gpt" not in svg and "points: the trials" not in svg  # they are the caption's


@pytest.mark.parametrize("width", ["2.9", "7.3", "wide", "nan"])
def test_a_width_that_no_page_has(width, capsys):
    for main in (plot_utils.main, analyze_results.main):
        with pytest.raises(SystemExit, match="2"):
            main(["--width", width])
        assert "inches from 3.0 to 7.2, or one of neurips, iclr" in capsys.readouterr().err
    with pytest.raises(UserError, match="inches from 3.0 to 7.2"):
        plot_utils.plot_summary_metrics(OF_RELU, "relu", width=width)


def test_names_with_a_colon_make_file_names(tmp_path):
    name = "my.module:function"
    path = plot_utils.plot_summary_metrics(synthetic_results(name), name, tmp_path)
    assert path == tmp_path / "my.module--function_summary.png"
    assert path.exists()


def test_same_results_same_bytes(tmp_path):
    for folder in ("a", "b"):
        before = dict(matplotlib.rcParams)
        plot_utils.plot_reproducibility_metrics(OF_RELU, "relu", tmp_path / folder, formats=("png", "pdf", "svg"))
        assert dict(matplotlib.rcParams) == before
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_the_user_set_is_kept_but_for_sizes_of_text(tmp_path):
    results = synthetic_results("gelu")
    chosen = {
        "figure.facecolor": "#123456",
        "grid.color": "#FF0000",
        "axes.spines.left": False,
        "axes.linewidth": 3,
        "savefig.dpi": 50,
        "font.family": "DejaVu Serif",
        "font.size": 30,
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(chosen):
        path = plot_utils.plot_summary_metrics(results, "gelu", tmp_path)
        figure = plot_utils.plot_summary_metrics.figure(results, "gelu")
    panel = figure.axes[0]
    assert to_hex(figure.get_facecolor()) == "#123456"
    assert not panel.spines["left"].get_visible()
    assert panel.spines["bottom"].get_linewidth() == 3
    assert {line.get_color() for line in panel.get_ygridlines()} == {"#FF0000"}
    assert panel.title.get_fontfamily() == ["DejaVu Serif"]
    assert panel.get_title(loc="left") == "Loss"
    assert panel._left_title.get_fontsize() == 8
    with Image.open(path) as image:
        assert image.width == 360
        assert image.getpixel((1, 1))[:3] == (0x12, 0x34, 0x56)


@pytest.mark.parametrize("kind", ["two", "one"])
def test_vector_figures_on_request(tmp_path, kind):
    formats = ("svg", "pdf") if kind == "two" else "svg"
    path = plot_utils.plot_pd_ratios(synthetic_study(), tmp_path, formats)
    assert path == tmp_path / "pd_ratios.svg"
    assert path.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert (tmp_path / "pd_ratios.pdf").exists() == (kind == "two")


def test_no_torch_and_no_pyplot(tmp_path):
    code = (
        "import sys, plot_utils; from synthetic import synthetic_results as r;"
        f"plot_utils.plot_summary_metrics(r('relu'), 'relu', {str(tmp_path)!r});"
        "print(sorted({'torch', 'matplotlib.pyplot', 'pandas', 'scipy.stats'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT / "tests",
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "MPLCONFIGDIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.stdout.strip().splitlines()[-1] == "[]", run.stderr


@pytest.mark.parametrize("order", [("plot_utils", "analyze_results"), ("analyze_results", "plot_utils")])
def test_star_imports_in_either_order(order):
    namespace = {}
    for module in order:
        exec(f"from {module} import *", namespace)
    for module in (plot_utils, analyze_results):
        assert all(namespace[name] is getattr(module, name) for name in module.__all__)
    assert set(plot_utils.__all__) & set(analyze_results.__all__) == {"save_results_summary"}  # one and the same
    assert set(namespace) - {"__builtins__"} == {*plot_utils.__all__, *analyze_results.__all__}


REFUSED = {  # what is wrong: the call, and what its one line names
    "another activation's results": (lambda d: plot_utils.plot_training_curves(OF_RELU, "gelu", d), "those of 'relu'"),
    "swapped": (lambda d: plot_utils.plot_summary_metrics("relu", OF_RELU, d), "in this order"),
    "results of all": (lambda d: plot_utils.plot_divergence(ALL, "relu", d), "all_results['relu']"),
    "a list of results": (lambda d: plot_utils.plot_divergence([OF_RELU], "relu", d), "not a list"),
    "no results": (lambda d: plot_utils.plot_divergence(None, "relu", d), "not nothing"),
    "empty results": (lambda d: plot_utils.plot_divergence({}, "relu", d), "'trials'"),
    "no name": (lambda d: plot_utils.plot_reproducibility_metrics(OF_RELU, None, d), "such as 'relu'"),
    "results as a folder": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", OF_RELU), "save_dir: a folder"),
    "results for a folder": (lambda d: plot_utils.plot_all_activation_results(ALL), "save_dir: a folder"),
    "results as results_dir": (lambda d: plot_utils.plot_all_activation_results(d, ALL), "results_dir: a folder"),
    "an empty folder": (lambda d: plot_utils.plot_all_activation_results(d, d), "train first"),
    "no such folder": (lambda d: plot_utils.plot_all_activation_results(d, d / "none"), "no such folder"),
    "results of one": (lambda d: plot_utils.plot_comparisons(OF_RELU, d), "of one activation"),
    "a folder's name": (lambda d: plot_utils.plot_comparisons("results", d), "load_all_results"),
    "no branches": (lambda d: plot_utils.plot_frontiers(ALL, d), "--schedule trunk"),
    "results in a list": (lambda d: plot_utils.plot_beta_sweep([OF_RELU], d), "not a list"),
    "no results at all": (lambda d: plot_utils.plot_comparisons({}, d), "no results"),
    "nothing along training": (
        lambda d: plot_utils.plot_divergence_comparison({"relu": minimal_results("relu")}, d),
        "no divergence",
    ),
    "no SmeLU": (lambda d: plot_utils.plot_beta_sweep(ALL, d), "train some β"),
    "no ReLU": (lambda d: plot_utils.plot_pd_ratios({"gelu": ALL["gelu"]}, d), "results of two activations"),
    "results of one for ratios": (lambda d: plot_utils.plot_pd_ratios(OF_RELU, d), "of one activation"),
    "no ratios": (lambda d: plot_utils.plot_pd_ratios([], d), "no comparison"),
    "no rows": (lambda d: plot_utils.plot_pd_ratios([1.0], d), "one mapping per row"),
    "no studies": (lambda d: plot_studies([], d), "no comparison"),
    "studies by name": (lambda d: plot_studies("all", d), "one mapping per row"),
    "no sources": (lambda d: plot_sources({}, "relu", d), "such as {'init'"),
    "no remedies": (lambda d: plot_remedies({"relu": {}}, d), "results/remedies.json"),
    "no arm": (lambda d: plot_remedies({"activations": {"relu": {}}}, d), "--averages or --remedy"),
    "a clock's contents": (lambda d: plot_clock(synthetic_clock("relu", [5]), d), "load_clocks"),
    "no positions": (lambda d: plot_where({"relu": {}}, d), "results/where.json"),
    "sources swapped": (lambda d: plot_sources("relu", {"init": [0.1]}, d), "such as {'init'"),
    "unknown function": (lambda d: plot_utils.plot_activation_functions(d, names=["relux"]), "relux"),
    "no functions": (lambda d: plot_utils.plot_activation_functions(d, names=[]), "at least one"),
    "a format": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", d, formats=("jpg",)), "png, pdf, svg"),
    "no format": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", d, formats=()), "png, pdf, svg"),
    "formats of a kind": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", d, formats=3), "png, pdf, svg"),
    "a panel": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", ax=axes(), panel="x"), "loss, accuracy"),
    "a panel but no axes": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", d, panel="pd"), "axes"),
    "no axes": (lambda d: plot_utils.plot_summary_metrics(OF_RELU, "relu", d, ax=Figure()), "not a Figure"),
}


def axes():
    return Figure().subplots()


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_short_line(what, tmp_path):
    call, named = REFUSED[what]
    with pytest.raises(UserError) as error:
        call(tmp_path)
    message = str(error.value)
    assert named in message
    assert "\n" not in message
    assert len(message) < (350 if "unknown" in what else 220)  # that one lists the activations
    assert not list(tmp_path.iterdir())


def test_refused_on_the_command_line(tmp_path, capsys):
    with pytest.raises(ValueError, match="can't be part of a file name"):
        plot_utils.plot_summary_metrics(synthetic_results("../relu"), "../relu", tmp_path)
    assert plot_utils.main(["--results-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "train first" in message
    assert not list(tmp_path.iterdir())


def test_the_same_activation_by_another_name_is_accepted(tmp_path):
    path = plot_utils.plot_summary_metrics(synthetic_results("swish"), "silu", tmp_path)
    assert path.name == "silu_summary.png"


# -- axes of one's own --------------------------------------------------------------------------------------------

STUDY_OF_TWELVE = a_study(TWELVE)
ONE_ROW = [
    {"study": None, "model": "gpt", "dataset": "text", "activation": "gelu", "ratio": 0.9, "low": 0.8, "high": 1}
]
ON_AXES = {
    plot_utils.plot_training_curves: (OF_RELU, "relu"),
    plot_utils.plot_reproducibility_metrics: (OF_RELU, "relu"),
    plot_utils.plot_summary_metrics: (OF_RELU, "relu"),
    plot_utils.plot_divergence: (OF_RELU, "relu"),
    plot_sources: ({"init": [0.1, 0.2], "all": [0.2]}, "relu"),
    plot_utils.plot_divergence_comparison: (STUDY_OF_TWELVE,),
    plot_utils.plot_pd_ratios: (STUDY_OF_TWELVE,),
    plot_utils.plot_frontiers: ({"relu": add_frontier(synthetic_results("relu"))},),
    plot_utils.plot_beta_sweep: (STUDY_OF_TWELVE,),
    plot_utils.plot_activation_functions: (),
    plot_studies: (ONE_ROW,),
    plot_where: (synthetic_where(),),
    plot_remedies: ({"activations": {"relu": synthetic_remedies()}},),
    plot_clock: ({"relu": Clock("relu", synthetic_clock("relu", [5, 6, 7]))},),
}


def test_every_figure_can_be_drawn_on_axes_of_ones_own(tmp_path, monkeypatch):
    storage.write_results(OF_RELU, tmp_path / "results")
    monkeypatch.chdir(tmp_path)  # a figure written by mistake would lie in plots/
    functions = {getattr(plot_utils, name) for name in plot_utils.__all__ if name.startswith("plot_")}
    assert functions - set(ON_AXES) == {plot_utils.plot_all_activation_results, plot_utils.plot_comparisons}
    for plot, arguments in {**ON_AXES, plot_utils.plot_all_activation_results: ()}.items():
        assert plot.panels
        for panel in (None, *plot.panels):
            ax = axes()
            before = dict(matplotlib.rcParams)
            assert plot(*arguments, ax=ax, panel=panel) is ax
            assert dict(matplotlib.rcParams) == before
            assert ax.has_data() or ax.texts or ax.images, (plot, panel)
            assert ax.title.get_fontsize() == matplotlib.rcParams["font.size"] * 1.2  # the caller's look
    assert [p.name for p in tmp_path.iterdir()] == ["results"]


def test_a_panel_shows_what_the_figure_shows():
    (own,) = lines(plot_utils.plot_training_curves(OF_RELU, "relu", ax=axes()), "val_loss_history 2")
    (whole,) = lines(of_one("training_curves", OF_RELU).axes[0], "val_loss_history 2")
    assert own.get_xydata().tolist() == whole.get_xydata().tolist()


def test_parameters_are_shown_by_help():
    parameters = list(inspect.signature(plot_utils.plot_training_curves).parameters)
    assert parameters == ["results", "activation", "save_dir", "formats", "ax", "panel", "width"]
    parameters = list(inspect.signature(plot_utils.plot_all_activation_results).parameters)
    assert parameters == ["save_dir", "results_dir", "formats", "ax", "panel", "width"]


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "plots").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(storage.StorageError, match="plots"):
        plot_utils.plot_summary_metrics(synthetic_results("relu"), "relu", tmp_path / "plots")
    assert [p.name for p in tmp_path.iterdir()] == ["plots"]


# -- colours ------------------------------------------------------------------------------------------------------


def test_one_style_for_each_activation():
    listed = [info.name for info in activations.list_activations()] + [f"smelu_{b}" for b in ("0.1", "0.25", "2")]
    names = sorted({activations.canonical_name(name) for name in listed})
    colours = {to_hex(plot_utils.activation_style(name)[0]) for name in names}
    assert len(colours) == len(names)
    many = [f"registered_{i}" for i in range(200)]
    assert len({plot_utils.activation_style(name) for name in many}) == 200


def _lab(rgb):
    """CIELAB (D65) of linear sRGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = np.cbrt(np.maximum(xyz / (0.9505, 1.0, 1.089), 0))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira & Fernandes 2009, severity 1
SIGHT = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_the_study_can_be_told_apart_by_any_eyes(sight):
    def seen(name):
        rgb = np.array(to_rgb(plot_utils.activation_style(name)[0]))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return _lab(np.clip(np.array(SIGHT[sight]) @ linear, 0, 1))

    distances = [np.linalg.norm(seen(a) - seen(b)) for a, b in itertools.combinations(STUDY, 2)]
    assert min(distances) > 15  # a just noticeable difference is about 2.3
    assert len({plot_utils.activation_style(name)[1] for name in STUDY}) == 5  # and by shape


def test_an_activation_has_its_colour_in_every_figure():
    study = synthetic_study()
    divergence = plot_utils.plot_divergence_comparison.figure(study)
    six = comparison(study)
    for y, name in enumerate(STUDY):
        colour = to_hex(plot_utils.activation_style(name)[0])
        (line,) = lines(divergence.axes[0], f"mean {name}")
        assert to_hex(line.get_color()) == colour
        (row,) = [c for c in six.axes[0].collections if c.get_gid() == f"row {y}"]
        assert to_hex(row.get_facecolor()[0]) == colour
        summary = of_one("summary", study[name])
        assert {to_hex(c.get_facecolor()[0]) for axes in summary.axes for c in axes.collections if c.get_gid()} == {
            colour
        }


# -- one activation -----------------------------------------------------------------------------------------------


def test_training_curves_are_the_recorded_ones():
    results = synthetic_results("relu", n_trials=4)
    for trial in results["trials"]:
        trial["steps"] = [0, 7, 50, 130, 200, 310, 400, 555, 600, 800, 1234]
    figure = of_one("training_curves", results)
    whole, late, rate, norm = figure.axes
    for trial in results["trials"]:
        for panels, key in (
            ((whole, late), "train_loss_history"),
            ((whole, late), "val_loss_history"),
            ((rate,), "learning_rate_history"),
            ((norm,), "grad_norm_history"),
        ):
            for axes in panels:
                (line,) = lines(axes, f"{key} {trial['trial_id']}")
                assert line.get_xdata().tolist() == trial["steps"]
                assert line.get_ydata().tolist() == trial[key]
    assert len(lines(whole, "val_loss_history .*")) == 4
    assert {axes.get_xlabel() for axes in figure.axes} == {"training step"}
    assert whole.get_ylabel() == late.get_ylabel() == "loss (nats/token)"
    assert "each loss: on 2,048 fixed positions of its split (in tables: on 65,536)" in texts_of(figure)
    assert late.get_xlim()[0] < 617 < late.get_xlim()[1]
    assert late.get_xlim()[0] > 555


def test_a_notebook_shows_the_figures_of_its_cells(monkeypatch, tmp_path):
    """Those that a cell calls for itself: what a study draws under way is in its files."""
    shell, shown = SimpleNamespace(config={"IPKernelApp": {}}), []
    display = SimpleNamespace(Image=lambda path: path, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, version_info=(9, 0)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    call = "path = plot(results, 'relu', folder)"
    for name, expected in (("__main__", 1), ("train", 0)):
        cell = {"__name__": name, "plot": plot_utils.plot_summary_metrics}
        exec(call, cell | {"results": synthetic_results("relu"), "folder": tmp_path / name})
        assert len(shown) == expected
        shown.clear()


def test_a_gradient_norm_begins_where_it_was_measured():
    results = synthetic_results("relu")
    for trial in results["trials"]:
        trial["grad_norm_history"][0] = 0.0
        trial["grad_norm_history"][5] = 0.0  # a true one
    (line,) = lines(of_one("training_curves", results).axes[3], "grad_norm_history 2")
    assert np.isnan(line.get_ydata()[0]) and line.get_ydata()[5] == 0


def test_the_learning_rate_is_drawn_as_it_was():
    """Between the recorded steps too; rates that are not the recorded schedule's are joined by lines."""
    results = synthetic_results("relu")
    config = results["config"] = Config(preset="smoke", device="cpu", precision="float32", max_iters=1000).to_dict()
    assert not lines(of_one("training_curves", results).axes[2], "schedule")
    peak, floor, warm = (config[key] for key in ("learning_rate", "min_lr", "warmup_iters"))
    steps = np.minimum(np.arange(1001), 999)
    cosine = floor + (peak - floor) * (1 + np.cos(np.pi * (steps - warm) / (1000 - warm))) / 2
    rates = np.where(steps < warm, peak * (steps + 1) / warm, cosine)
    for trial in results["trials"]:
        trial["learning_rate_history"] = rates[trial["steps"]].tolist()
    axes = of_one("training_curves", results).axes[2]
    (line,) = lines(axes, "schedule")
    np.testing.assert_allclose(line.get_xydata(), np.column_stack([np.arange(1001), rates]), atol=1e-12)
    (dots,) = lines(axes, "learning_rate_history 1")
    assert dots.get_linestyle() == "None" and dots.get_ydata().tolist() == rates[::100].tolist()
    assert axes.get_ylim()[1] > rates.max() > rates[::100].max()  # the peak is between two records, and is seen


def test_the_start_does_not_flatten_the_rest():
    results = synthetic_results("relu")
    results["config"]["warmup_iters"] = 150
    whole = of_one("training_curves", results).axes[0]
    losses = [t[key] for t in results["trials"] for key in ("train_loss_history", "val_loss_history")]
    kept = np.array(losses)[:, 2:]  # steps 200 and later
    low, high = whole.get_ylim()
    assert low < kept.min()
    assert kept.max() < high < kept.max() + 0.1 * np.ptp(kept)
    start = np.mean([t["val_loss_history"][0] for t in results["trials"]])
    (note,) = [text.get_text() for text in whole.texts]
    assert note == f"↑ start: {start:.2f}\n↑ unigram model: 3.36"


def test_a_unigram_model_within_the_curves_is_drawn():
    results = synthetic_results("relu")
    results["dataset"]["val_unigram_cross_entropy"] = 2.0
    whole = of_one("training_curves", results).axes[0]
    assert any(set(line.get_ydata()) == {2.0} for line in whole.get_lines())
    assert "unigram" not in whole.texts[0].get_text()


def test_steps_of_the_whole_study_serve_trials_without_their_own():
    results = synthetic_results("relu", diverged=(3,))
    for trial in results["trials"]:
        del trial["steps"]
    figure = of_one("training_curves", results)
    assert lines(figure.axes[0], "val_loss_history 1")[0].get_xdata().tolist() == results["steps"]
    assert lines(figure.axes[0], "val_loss_history 3")[0].get_xdata().tolist() == results["steps"][:4]


def test_without_steps_the_evaluations_are_counted():
    figure = of_one("training_curves", minimal_results("relu"))
    assert len(figure.axes) == 2  # neither learning rate nor gradient norm
    assert {axes.get_xlabel() for axes in figure.axes} == {"evaluation"}
    assert lines(figure.axes[0], "val_loss_history 2")[0].get_xdata().tolist() == list(range(1, 12))


def test_histories_of_unequal_length_are_never_given_steps():
    results = synthetic_results("relu")
    for trial in results["trials"]:
        trial["val_loss_history"] = trial["val_loss_history"][::5]
    figure = of_one("training_curves", results)
    assert figure.axes[0].get_xlabel() == "share of training (%)"
    (line,) = lines(figure.axes[0], "val_loss_history 1")
    assert line.get_xdata() == pytest.approx([100 / 3, 200 / 3, 100])


def test_what_was_recorded_at_other_times_is_left_out():
    results = synthetic_results("relu")
    for trial in results["trials"]:
        trial["grad_norm_history"] = [1.0] * 1000
    figure = of_one("training_curves", results)
    assert not [line for axes in figure.axes for line in lines(axes, "grad_norm.*")]
    assert figure.axes[0].get_xlabel() == "training step"


def test_a_diverged_trial_is_marked_and_does_not_set_the_scale():
    results = synthetic_results("relu", diverged=(2,))
    results["trials"][1]["val_loss_history"][-1] = 1e9
    whole = of_one("training_curves", results).axes[0]
    assert whole.get_ylim()[1] < 5
    crosses = [line for line in whole.get_lines() if line.get_marker() == "x"]
    assert [line.get_xydata().tolist() for line in crosses] == [[[300, 1e9]]]
    assert "trial 2 diverged" in [text.get_text() for text in whole.get_legend().get_texts()]


def texts_of(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_each_pair_once_on_a_scale_from_zero():
    results = synthetic_results("swish", n_trials=4)
    pairs = pair_values(results, "relative_pd")
    matrix = of_one("reproducibility", results).axes[0]
    image = matrix.get_images()[0]
    shown = image.get_array().filled(np.nan)
    assert np.isfinite(shown).sum() == len(pairs) == 6
    for (i, j), pd in pairs.items():
        assert shown[j - 2, i - 1] == pd  # rows 2…4, columns 1…3
    assert image.norm.vmin == 0
    assert image.norm.vmax >= max(pairs.values())
    errors = pair_values(results, "relative_pd_se")
    expected = {f"{pds:.4f}\n±{1.96 * errors[pair]:.4f}" for pair, pds in pairs.items()}
    assert {text.get_text() for text in matrix.texts} == expected


def test_trials_and_mismatches_with_intervals_over_trials():
    results = synthetic_results("swish", n_trials=4)
    _, trials, mismatches, metrics = of_one("reproducibility", results).axes[:4]
    pds, churn = pair_values(results, "relative_pd"), pair_values(results, "top1_mismatch_pct")
    own = [np.mean([x for pair, x in pds.items() if k in pair]) for k in (1, 2, 3, 4)]
    assert lines(trials, "trials")[0].get_ydata() == pytest.approx(own)
    assert lines(mismatches, "mismatch")[0].get_ydata().tolist() == list(churn.values())
    for panel, values in ((trials, pds), (mismatches, churn)):
        mean, low, high = jackknife_interval(values)
        (band,) = panel.patches
        assert [band.get_y(), band.get_y() + band.get_height()] == pytest.approx([low, high])
        assert any(np.allclose(line.get_ydata(), mean, rtol=1e-12) for line in panel.get_lines())
    assert mismatches.get_ylabel() == "positions (%)"
    assert [t.get_text() for t in mismatches.get_xticklabels()] == [f"{i}–{j}" for i, j in churn]
    shown = [TITLES[key] for key in "pd_l2 symmetric_pd true_label_relative_pd hellinger jensen_shannon".split()]
    assert [t.get_text() for t in metrics.get_yticklabels()] == [*shown, TITLES["val_loss_difference"]]
    assert all(len(line.get_xdata()) == 6 for line in metrics.get_lines())


def test_an_interval_ends_where_the_metric_does():
    """Three trials of which one is far away: on the log scale the interval goes beyond 100 %."""
    results = synthetic_results("relu", n_trials=3)
    for pair, percent in zip(results["reproducibility_metrics"], (9, 40, 44), strict=True):
        pair.update(total_predictions=1000, prediction_differences=10 * percent, top1_mismatch_pct=percent)
    _, low, high = jackknife_interval(pair_values(results, "top1_mismatch_pct"))
    assert high > 150
    (band,) = of_one("reproducibility", results).axes[2].patches
    assert [band.get_y(), band.get_y() + band.get_height()] == pytest.approx([low, 100])


def test_a_new_metric_of_a_pair_has_its_row(monkeypatch):
    new = dataclasses.replace(METRICS[0], key="made_up", label="made-up distance", unit="furlongs")
    monkeypatch.setattr("measures.table.METRICS", (*METRICS, new))
    results = synthetic_results("relu")
    for number, pair in enumerate(results["reproducibility_metrics"]):
        pair["made_up"] = 0.5 + number
    metrics = of_one("reproducibility", results).axes[3]
    assert metrics.get_yticklabels()[-1].get_text() == "made-up distance (furlongs)"
    assert metrics.get_lines()[-1].get_xdata().tolist() == [0.5, 1.5, 2.5]


def test_mismatch_from_the_counts_alone():
    results = minimal_results("relu")
    mismatches = of_one("reproducibility", results).axes[2]
    pairs = results["reproducibility_metrics"]
    expected = [100 * p["prediction_differences"] / p["total_predictions"] for p in pairs]
    assert lines(mismatches, "mismatch")[0].get_ydata() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (synthetic_results("relu", n_trials=1), "one trial: no pairs"),
        (synthetic_results("relu", diverged=(1, 3)), "1 trial finished: no pairs"),
        (synthetic_results("relu", diverged=(1, 2, 3)), "no trials finished: no pairs"),
    ],
)
def test_no_pairs_is_said(results, message):
    for figure in ("reproducibility", "divergence"):
        assert message in [text.get_text() for text in of_one(figure, results).texts]


def test_summary_shows_every_trial_with_its_interval():
    results = synthetic_results("relu", n_trials=5, diverged=(2,))
    done = [t for t in results["trials"] if t["status"] == "done"]
    losses, accuracies, differences, times = of_one("summary", results).axes
    pds = [p["relative_pd"] for p in results["reproducibility_metrics"]]
    for axes, gid, values in (
        (losses, "Loss training", [t["train_loss"] for t in done]),
        (losses, "Loss validation", [t["val_loss"] for t in done]),
        (accuracies, "Accuracy training", [t["train_accuracy"] for t in done]),
        (accuracies, "Accuracy validation", [t["val_accuracy"] for t in done]),
        (differences, "Relative PD pairs", pds),
        (times, "Training time trials", [t["training_time"] for t in done]),
    ):
        assert points(axes, gid)[:, 1].tolist() == values
        interval = jackknife_interval(pair_values(results, "relative_pd"))[1:] if values is pds else t_interval(values)
        assert any(found == pytest.approx(interval) for found in bars(axes, "y"))
    assert [axes.get_ylabel() for axes in (losses, accuracies, differences, times)] == [
        "loss (nats/token)",
        "accuracy (%)",
        "relative PD",
        "training time (s)",
    ]
    assert [t.get_text() for t in differences.get_xticklabels()] == [f"pairs\n{np.mean(pds):.4g}"]


def test_no_interval_where_too_few_trials_give_none():
    for axes in of_one("summary", synthetic_results("relu", n_trials=2)).axes:
        assert bars(axes, "y") == []
        assert axes.containers or axes.get_ylabel() == "relative PD"  # the means are there; of one pair it is the pair


def test_divergence_along_the_recorded_steps():
    results = synthetic_results("gelu")
    results["divergence"]["steps"] = [3 * s + 1 for s in results["steps"]]
    figure = of_one("divergence", results)
    for axes, key in zip(figure.axes, ("relative_pd", "top1_mismatch_pct", "val_loss_difference"), strict=True):
        for pair, curves in results["divergence"]["pairs"].items():
            (line,) = lines(axes, f"{key} {pair}")
            assert line.get_xdata().tolist() == results["divergence"]["steps"]
            assert line.get_ydata().tolist() == curves[key]
        assert axes.get_xlabel() == "training step"
        assert axes.get_ylabel().replace("\n", " ") == TITLES[key]
    assert "on 2,048 fixed positions" in texts_of(figure)
    average = np.mean([c["relative_pd"] for c in results["divergence"]["pairs"].values()], axis=0)
    assert any(np.allclose(line.get_ydata(), average) for line in figure.axes[0].get_lines())


def near_uniform(n_trials=3, embedding=128, vocab=65, seed=0):
    """Predictions (trials, N, V) of untrained models: the same logit for all, and noise of the initial weights."""
    logits = 0.02 * np.sqrt(embedding) * np.random.default_rng(seed).standard_normal((n_trials, 4000, vocab))
    p = np.exp(logits)
    return p / p.sum(-1, keepdims=True)


def test_why_untrained_models_differ_is_said_where_they_do():
    p = near_uniform()
    pd = np.abs(p[0] - p[1]).sum(-1).mean() / 2
    assert pd == pytest.approx(0.02 * np.sqrt(128 / np.pi), rel=0.02)  # σ/√π: the reason given
    results = synthetic_results("gelu")
    results["dataset"]["vocab_size"] = 65
    for trial in results["trials"]:
        trial["val_loss_history"][0] = 4.2
    assert "step 0" not in texts_of(of_one("divergence", results))  # they start alike
    for curves in results["divergence"]["pairs"].values():
        curves["relative_pd"][0] = pd
    for figure in (of_one("divergence", results), plot_utils.plot_divergence_comparison.figure({"gelu": results})):
        said = texts_of(figure)
        assert "close to uniform (loss 4.20; uniform: 4.17)" in said
        assert f"a PD of {pd:.3f}" in said
    for trial in results["trials"]:
        trial["val_loss_history"][0] = 3.0
    assert "step 0" not in texts_of(of_one("divergence", results))  # they are not uniform


def test_sources_in_order_with_their_share(monkeypatch):
    sources = {
        "all": [0.1, 0.11, 0.09],
        "bit": [0.08, 0.081, 0.079],
        "none": [0.0, 0.0, 0.0],
        "dropout": [],
        "init": [None],
    }
    figure = plot_sources.figure(sources, "smelu_1")
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [one.SOURCE_LABELS[key] for key in ("init", "dropout", "bit", "all", "none")]
    assert points(axes, "row 2")[:, 0].tolist() == sources["bit"]
    written = " ".join(text.get_text() for text in axes.texts)
    assert "0.0800  (80 % of all)" in written
    assert written.count("no pairs") == 2
    assert axes.get_xlim()[0] <= 0
    assert_readable(figure, monkeypatch)


# -- several activations ------------------------------------------------------------------------------------------


def test_six_panels_show_every_trial_and_intervals_over_trials():
    study = synthetic_study(n_trials=4)
    losses, pds, mismatches, times, ranks, trade = comparison(study).axes
    for y, (name, results) in enumerate(study.items()):
        trials, colour = results["trials"], style.activation_style(name)[0]
        pd, churn = pair_values(results, "relative_pd"), pair_values(results, "top1_mismatch_pct")
        loss, seconds = ([t[key] for t in trials] for key in ("val_loss", "training_time"))
        for axes, values, interval in (
            (losses, loss, t_interval(loss)),
            (pds, list(pd.values()), jackknife_interval(pd)[1:]),
            (mismatches, list(churn.values()), jackknife_interval(churn)[1:]),
        ):
            assert points(axes, f"row {y}")[:, 0].tolist() == values
            assert bars(axes, "x")[y] == pytest.approx(interval)
        assert points(times, f"row {y}")[:, 0].tolist() == seconds
        assert times.get_lines()[y].get_xdata() == [np.median(seconds)]
        (center, _, _) = trade.containers[y]
        assert to_hex(center.get_color()) == colour.lower()
        assert center.get_xydata()[0] == pytest.approx([np.mean(loss), np.mean(list(pd.values()))])
        assert bars(trade, "x")[y] == pytest.approx(t_interval(loss))
        assert bars(trade, "y")[y] == pytest.approx(jackknife_interval(pd)[1:])
    labels = [axes.get_xlabel() for axes in (losses, pds, mismatches, times)]
    assert labels == ["nats/token", "relative PD", "positions (%)", "s per trial"]
    shown = ranks.get_images()[0].get_array()
    for column, values in enumerate(
        (
            [np.mean(list(pair_values(r, "relative_pd").values())) for r in study.values()],
            [np.mean([t["val_loss"] for t in r["trials"]]) for r in study.values()],
            [np.median([t["training_time"] for t in r["trials"]]) for r in study.values()],
        )
    ):
        assert shown[:, column].tolist() == scipy.stats.rankdata(values, "min").tolist()


def test_many_pairs_are_no_solid_bar():
    """Of 120 pairs, the markers together cover less than half of the area that they lie in."""
    axes = comparison({name: synthetic_results(name, n_trials=16) for name in ("relu", "gelu")}).axes[1]
    for y in (0, 1):
        (cloud,) = [c for c in axes.collections if c.get_gid() == f"row {y}"]
        assert len(cloud.get_offsets()) == 120
        wide, high = np.ptp(axes.transData.transform(cloud.get_offsets()), axis=0) * 72 / axes.figure.dpi
        assert 120 * cloud.get_sizes()[0] < 0.5 * wide * high
        assert abs(cloud.get_offsets()[:, 1] - y).max() < 0.5  # within its row


def test_failed_audit_is_marked_and_not_ranked():
    figure = comparison(SITUATIONS["diverged"]())
    losses, ranks = figure.axes[0], figure.axes[4]
    assert [t.get_text() for t in losses.get_yticklabels()] == ["SmeLU β=0.5", "ReLU", "GELU", "Swish †"]
    assert np.ma.getmaskarray(ranks.get_images()[0].get_array()).all(axis=1).tolist() == [False, False, True, True]
    assert "no trial finished" in [text.get_text() for text in losses.texts]


def test_pd_along_training_is_drawn_by_step_and_by_loss():
    study = synthetic_study()
    by_step, by_loss = plot_utils.plot_divergence_comparison.figure(study).axes
    for name, results in study.items():
        divergence = results["divergence"]
        mean = np.mean([c["relative_pd"] for c in divergence["pairs"].values()], axis=0)
        (line,) = lines(by_step, f"mean {name}")
        assert line.get_xydata() == pytest.approx(np.column_stack([divergence["steps"], mean]))
    assert by_loss.get_xlim()[0] > by_loss.get_xlim()[1]  # training goes to the right
    assert by_loss.get_xlim()[0] < 2  # the end, not the way down from 4.3
    assert by_loss.get_xlabel() == "validation loss (nats/token, on 2,048 positions), falling →"


def test_a_figure_of_branches_names_what_it_is_drawn_from(tmp_path):
    study = {name: add_frontier(synthetic_results(name)) for name in ("relu", "gelu")}
    before = plot_utils.plot_frontiers.data_of(study)
    assert plot_utils.plot_frontiers(study, tmp_path).is_file()
    study["gelu"]["frontier"][0]["pairs"][0]["relative_pd"] *= 1.1
    assert plot_utils.plot_frontiers.data_of(study) != before


def test_frontiers_are_the_branches(monkeypatch):
    """A line for each activation that has them, a point for each branch, and intervals over trials."""
    study = synthetic_study(n_trials=5)
    del study["swish"]
    for name in ("relu", "gelu"):
        add_frontier(study[name])
    figure = plot_utils.plot_frontiers.figure(study)
    assert_readable(figure, monkeypatch)
    pd, loss = figure.axes
    for name in ("relu", "gelu"):
        branches = study[name]["frontier"]
        losses = [[t["val_loss"] for t in b["trials"]] for b in branches]
        pds = [{tuple(map(int, p["model_pair"].split("_vs_"))): p["relative_pd"] for p in b["pairs"]} for b in branches]
        means, lows, highs = zip(*map(jackknife_interval, pds), strict=True)
        (line,) = lines(pd, name)
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([np.mean(losses, 1), means]))
        assert np.allclose(bars(pd, "y")[:3] if name == "relu" else bars(pd, "y")[3:], np.column_stack([lows, highs]))
        (line,) = lines(loss, name)
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([[400, 700, 1000], np.mean(losses, 1)]))
        found = bars(loss, "y")[:3] if name == "relu" else bars(loss, "y")[3:]
        np.testing.assert_allclose(found, [t_interval(x) for x in losses])
    assert pd.xaxis_inverted() and len(bars(pd, "y")) == 6


def test_forest_of_ratios(monkeypatch):
    table = [
        {"activation": "smelu_05", "ratio": 0.9, "low": 0.85, "high": 0.95, "verdict": "lower"},
        {"activation": "gelu", "ratio": 1.01, "low": 0.01, "high": 90.0, "verdict": "inconclusive"},
        {"activation": "swish", "ratio": 0.97, "low": None, "high": None, "verdict": "no test"},
        {"activation": "mish", "ratio": None, "low": None, "high": None, "verdict": "no test"},
    ]
    figure = plot_utils.plot_pd_ratios.figure(table)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert 0.3 < low < 0.85
    assert 1.05 < high < 3
    marks = {tuple(line.get_xydata()[0]) for line in axes.get_lines() if len(line.get_xdata()) == 1}
    assert {(0.9, 0), (0.85, 0), (0.95, 0), (1.01, 1), (0.97, 2)} <= marks
    arrows = [line.get_marker() for line in axes.get_lines() if line.get_marker() in ("<", ">")]
    assert sorted(arrows) == ["<", ">"]  # the interval that is cut
    assert any(list(line.get_xdata()) == [1, 1] for line in axes.get_lines())
    (band,) = axes.patches
    assert [band.get_x(), band.get_x() + band.get_width()] == pytest.approx([0.95, 1 / 0.95])
    texts = [text.get_text() for text in axes.texts]
    assert "0.900 [0.850, 0.950]" in texts
    assert "not measured" in texts
    assert_readable(figure, monkeypatch)


def test_an_interval_shorter_than_its_marker_is_seen_over_it():
    table = [{"activation": "gelu", "ratio": 1.001, "low": 1.0, "high": 1.002, "verdict": "equal"}]
    (axes,) = plot_utils.plot_pd_ratios.figure(table).axes
    (marker,) = [line for line in axes.get_lines() if line.get_marker() == "^"]
    ends = [line for line in axes.get_lines() if line.get_marker() == "|"]
    assert [line.get_xdata()[0] for line in ends] == [1.0, 1.002]
    for line in ends:
        assert line.get_zorder() > marker.get_zorder()
        assert line.get_markersize() > marker.get_markersize()


def test_ratios_and_contrast_of_a_study_are_those_of_the_analysis():
    study = {name: add_frontier(results) for name, results in synthetic_study(n_trials=4).items()}
    *rows, contrast = several.ratio_rows(Study(study))
    frame = analyze_results.calculate_statistical_significance(study).set_index(["Activation_A", "Activation_B"])
    assert [row["activation"] for row in rows] == [name for name in STUDY if name != "relu"]
    for row in rows:
        expected = frame.loc[row["activation"], "relu"]
        assert [row["ratio"], row["matched_ratio"]] == pytest.approx(
            [expected["PD_Ratio"], expected["Matched_PD_Ratio"]]
        )
    means = {name: np.mean(list(pair_values(r, "relative_pd").values())) for name, r in study.items()}
    smooth = [name for name in STUDY if name != "relu"]
    assert contrast["together"] == smooth
    expected = scipy.stats.gmean([means[name] for name in smooth]) / means["relu"]
    assert contrast["ratio"] == pytest.approx(expected)
    (row,) = several.ratio_rows(Study(synthetic_study(["gelu", "swish"])))
    assert (row["activation"], row["baseline"]) == ("swish", "gelu")
    assert several.ratio_rows(Study(synthetic_study(n_trials=1))) == []


def ratio_row(name, verdict, ratio=0.9, **more):
    return {"activation": name, "ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1, "verdict": verdict, **more}


def contrast_row(verdict, ratio=0.9, **more):
    row = ratio_row("", verdict, ratio, **more)
    return {"together": ["gelu", "swish"], **{key: value for key, value in row.items() if key != "activation"}}


@pytest.mark.parametrize(
    ("rows", "title", "below"),
    [
        (
            [ratio_row("gelu", "lower"), ratio_row("swish", "inconclusive"), contrast_row("lower")],
            "Smooth activations together: mean PD 10.0 % lower than ReLU’s",
            "Each alone — lower: GELU; inconclusive: Swish",
        ),
        (
            [ratio_row("gelu", "higher", 1.1), contrast_row("higher", 1.1, matched_verdict="inconclusive")],
            "Smooth activations together: mean PD 10.0 % higher than ReLU’s; at equal loss: inconclusive",
            "Each alone — higher: GELU",
        ),
        (
            [ratio_row("gelu", "inconclusive", 0.5), contrast_row("inconclusive", 0.5, matched_verdict="inconclusive")],
            "Smooth activations together: mean PD inconclusive against ReLU’s, at equal loss too",
            "Each alone — inconclusive: GELU",
        ),
        (
            [ratio_row("gelu", "equal"), contrast_row("equal", matched_verdict="lower")],
            "Smooth activations together: mean PD practically equal to ReLU’s (±5 %); at equal loss: lower",
            "Each alone — practically equal (±5 %): GELU",
        ),
        ([ratio_row("gelu", "no test")], "Mean PD against ReLU’s — not tested: GELU", ""),
        (
            [ratio_row(name, "lower" if name == "gelu" else "inconclusive") for name in TWELVE if name != "relu"],
            "Mean PD against ReLU’s — lower: 1 of 11; inconclusive: 10 of 11",
            "",
        ),
    ],
)
def test_the_title_says_what_the_verdicts_say(rows, title, below):
    figure = plot_utils.plot_pd_ratios.figure(rows)
    shown = [text.get_text() for text in figure.texts]
    assert title in shown
    assert not below or below in shown
    axes = figure.axes[0]
    assert "← more reproducible than ReLU" in [text.get_text() for text in axes.texts]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert ("smooth ones together" in names) == any("together" in row for row in rows)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-2:] == ["95 % interval over trials", "within 5 %"]


def test_beta_sweep_against_beta():
    study = a_study(["smelu_0.1", "smelu_05", "smelu_2", "relu", "gelu"])
    pds, losses = plot_utils.plot_beta_sweep.figure(study).axes
    labels = [pds.xaxis.get_major_formatter()(x, None) for x in pds.xaxis.get_major_locator()()]
    assert labels == ["ReLU\n(β → 0)", "0.1", "0.5", "2"]
    found = [c for c in losses.collections if c.get_gid() == "values"]
    betas = sorted(round(float(c.get_offsets()[0, 0]), 6) for c in found)
    assert betas == [0.04, 0.1, 0.5, 2.0]  # ReLU stands left of the smallest β; GELU has none
    names = [name for name in Study(study).measured if name != "gelu"]
    expected = [jackknife_interval(pair_values(study[name], "relative_pd"))[1:] for name in names]
    assert [pytest.approx(interval) for interval in expected] == bars(pds, "y")
    expected = [t_interval([t["val_loss"] for t in study[name]["trials"]]) for name in names]
    assert [pytest.approx(interval) for interval in expected] == bars(losses, "y")
    for panel, values in (
        (pds, lambda r: [p["relative_pd"] for p in r["reproducibility_metrics"]]),
        (losses, lambda r: [t["val_loss"] for t in r["trials"]]),
    ):
        means = [np.mean(values(study[name])) for name in ("smelu_0.1", "smelu_05", "smelu_2")]
        assert any(len(line.get_xdata()) == 3 and np.allclose(line.get_ydata(), means) for line in panel.get_lines())


def test_functions_and_derivatives(monkeypatch):
    names = ["relu", "swish", "smelu_1", "swiglu"]
    figure = plot_utils.plot_activation_functions.figure(names=names)
    functions, slopes = figure.axes
    x = lines(functions, "relu")[0].get_xdata()
    sigmoid = 1 / (1 + np.exp(-x))
    for name, f, slope in (
        ("relu", np.maximum(x, 0), (x > 0) * 1.0),
        ("swish", x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))),
        ("swiglu", x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))),
        ("smelu_1", np.where(abs(x) <= 1, (x + 1) ** 2 / 4, np.maximum(x, 0)), np.clip((x + 1) / 2, 0, 1)),
    ):
        assert lines(functions, name)[0].get_ydata() == pytest.approx(f, abs=1e-12)
        assert lines(slopes, name)[0].get_ydata() == pytest.approx(slope, abs=1e-12)
    assert_readable(figure, monkeypatch)


def test_studies_in_rows_and_pooled_below(monkeypatch):
    table = [
        {
            "study": study,
            "model": model,
            "dataset": "text",
            "activation": name,
            "ratio": r,
            "low": r - 0.1,
            "high": r + 0.1,
        }
        for study, model, r in (("first", "gpt", 0.9), ("second", "lstm", 0.95), (None, "conv", 1.0))
        for name in ("smelu_05", "gelu")
    ]
    table[0].update(low=None, high=None)
    pooled = [{"activation": "gelu", "ratio": 0.95, "low": 0.92, "high": 0.98}]
    figure = plot_studies.figure(table, pooled=pooled)
    smelu, gelu = figure.axes
    assert [t.get_text() for t in smelu.get_yticklabels()] == ["first", "second", "conv · text", "pooled"]
    marker = plot_utils.activation_style("gelu")[1]
    marks = [line.get_xydata()[0].tolist() for line in gelu.get_lines() if line.get_marker() == marker]
    assert marks == [[0.9, 0], [0.95, 1], [1.0, 2]]
    (diamond,) = [patch for patch in gelu.patches if patch.get_gid() == "pooled"]
    assert diamond.get_xy()[:4, 0].tolist() == [0.92, 0.95, 0.98, 0.95]
    assert smelu.get_xlim() == gelu.get_xlim()
    assert_readable(figure, monkeypatch)
    many = [{**row, "activation": name} for row in table[::2] for name in TWELVE if name != "relu"]
    assert_readable(plot_studies.figure(many, pooled=pooled), monkeypatch)


def test_comparisons_that_the_results_allow(tmp_path):
    def drawn(all_results):
        return [path.name for path in plot_utils.plot_comparisons(all_results, tmp_path)]

    assert drawn({"relu": minimal_results("relu")}) == ["comprehensive_comparison.png"]
    branches = {"relu": add_frontier(synthetic_results("relu"))}
    assert drawn(branches) == ["comprehensive_comparison.png", "divergence_comparison.png", "frontiers.png"]
    assert drawn(a_study(["smelu_0.1", "smelu_05", "smelu_2", "relu"])) == [
        "comprehensive_comparison.png",
        "divergence_comparison.png",
        "pd_ratios.png",
        "beta_sweep.png",
    ]
