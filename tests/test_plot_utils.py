"""The figures say what the results say: checked on the Figure objects, and on the files as written."""

import contextlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

import activations
import plot_utils
import storage
from analysis.results import Measured
from config import UserError
from synthetic import STUDY, minimal_results, synthetic_results, synthetic_study

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
    "nothing trained": lambda: {"relu": synthetic_results("relu", n_trials=0)},
}
OF_ONE = {
    "training_curves": plot_utils.training_curves_figure,
    "reproducibility": plot_utils.reproducibility_figure,
    "summary": plot_utils.summary_figure,
    "divergence": plot_utils.divergence_figure,
}


@contextlib.contextmanager
def house_style():
    with matplotlib.rc_context(plot_utils._DEFAULTS | plot_utils._RC):
        yield


def figure_of(build, *arguments):
    with house_style():
        return build(*arguments)


def one(build, results):
    return figure_of(build, Measured(results["activation"], results))


def lines(axes, gid):
    return [line for line in axes.get_lines() if re.fullmatch(gid, str(line.get_gid()))]


def points(axes, gid):
    found = [c for c in axes.collections if c.get_gid() == gid]
    return np.vstack([np.asarray(c.get_offsets()) for c in found]) if found else np.empty((0, 2))


def drawn_texts(figure, monkeypatch):
    """[(text, its box in pixels, whether it is slanted)] of everything written when the figure is drawn."""
    found, draw_text = [], RendererAgg.draw_text

    def record(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        found.append(mtext)
        return draw_text(self, gc, x, y, s, prop, angle, ismath=ismath, mtext=mtext)

    with house_style(), monkeypatch.context() as patch:
        patch.setattr(RendererAgg, "draw_text", record)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    unique = {id(t): t for t in found if t is not None and t.get_text().strip()}
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer()), t.get_rotation() % 90) for t in unique.values()]


def assert_readable(figure, monkeypatch):
    """Every text lies on the page, and no two lie on one another."""
    figure.set_dpi(100)
    texts = drawn_texts(figure, monkeypatch)
    page = figure.bbox
    for text, box, _ in texts:
        on_page = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        assert on_page, f"{text!r} leaves the page"
    for (a, box_a, slant_a), (b, box_b, slant_b) in itertools.combinations(texts, 2):
        wide = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        high = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        # boxes contain room for descenders: a pixel and a half of overlap shows nothing
        apart = wide <= 1 or high <= 1.5 or (slant_a and slant_b)
        assert apart, f"{a!r} and {b!r} overlap by {wide:.0f} x {high:.0f} pixels"


# -- every situation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_can_be_read(situation, monkeypatch):
    all_results = SITUATIONS[situation]()
    drawn = {"diverged": slice(None), "long names": slice(1, 3)}.get(situation, slice(1))
    for name, results in list(all_results.items())[drawn]:
        for build in OF_ONE.values():
            assert_readable(figure_of(build, Measured(name, results)), monkeypatch)
    assert_readable(figure_of(plot_utils.comparison_figure, all_results), monkeypatch)
    if any(plot_utils._divergence(Measured(n, r))[1] for n, r in all_results.items()):
        assert_readable(figure_of(plot_utils.divergence_comparison_figure, all_results), monkeypatch)
    table = plot_utils._ratio_table(all_results)
    if table:
        assert_readable(figure_of(plot_utils.pd_ratios_figure, table), monkeypatch)
    if any(plot_utils._beta(name) for name in all_results):
        assert_readable(figure_of(plot_utils.beta_sweep_figure, all_results), monkeypatch)


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
    for build in OF_ONE.values():
        assert_readable(one(build, results), monkeypatch)
    assert_readable(figure_of(plot_utils.comparison_figure, {"relu": results}), monkeypatch)


# -- files --------------------------------------------------------------------------------------------------------


def test_files_of_a_study(tmp_path, capsys):
    folder = tmp_path / "results"
    for results in synthetic_study(["relu", "smelu_05"]).values():
        storage.write_results(results, folder)
    plots = tmp_path / "plots"
    assert plot_utils.main(["--results-dir", str(folder), "--plots-dir", str(plots)]) == 0
    expected = {f"{name}_{figure}" for name in ("relu", "smelu_05") for figure in OF_ONE}
    expected |= {"comprehensive_comparison", "divergence_comparison", "pd_ratios"}
    assert {p.name for p in plots.iterdir()} == {f"{stem}.png" for stem in expected}
    assert set(capsys.readouterr().out.split("\n")) - {""} == {f"written: {p}" for p in plots.iterdir()}
    for path in plots.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.width == 1440  # 7.2 inches
            assert [round(x) for x in image.info["dpi"]] == [200, 200]
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_pdf_on_request(tmp_path, capsys):
    storage.write_results(minimal_results("relu", n_trials=1), tmp_path)
    plots = tmp_path / "plots"
    assert plot_utils.main(["--results-dir", str(tmp_path), "--plots-dir", str(plots), "--pdf"]) == 0
    names = {p.name for p in plots.iterdir()}
    assert names == {f"{p.stem}.{kind}" for p in plots.glob("*.png") for kind in ("png", "pdf")}
    assert all(p.read_bytes().startswith(b"%PDF") for p in plots.glob("*.pdf"))
    assert capsys.readouterr().out.count("written: ") == len(names) == 10


def test_decomposition_is_drawn_again(tmp_path):
    storage.write_results(synthetic_results("relu"), tmp_path)
    sources = {name: {"relative_pd": [0.08, 0.09, 0.1], "mean": 0.09} for name in ("init", "bit", "all")}
    storage.write_json(tmp_path / "relu_sources.json", {"activation": "relu", "sources": sources})
    assert plot_utils.main(["--results-dir", str(tmp_path), "--plots-dir", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots" / "relu_sources.png").exists()


def test_names_with_a_colon_make_file_names(tmp_path):
    name = "my.module:function"
    path = plot_utils.plot_summary_metrics(synthetic_results(name), name, tmp_path)
    assert path == tmp_path / "my.module--function_summary.png"
    assert path.exists()


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_same_results_same_bytes_whatever_the_user_set(tmp_path, kind):
    results = synthetic_results("gelu")
    plot_utils.plot_reproducibility_metrics(results, "gelu", tmp_path / "a", formats=(kind,))
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30, "savefig.dpi": 50, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        plot_utils.plot_reproducibility_metrics(results, "gelu", tmp_path / "b", formats=kind)
        assert dict(matplotlib.rcParams) == before
    name = f"gelu_reproducibility.{kind}"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


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
        text=True,
        timeout=300,
    )
    assert run.stdout.strip().splitlines()[-1] == "[]", run.stderr


@pytest.mark.parametrize("order", [("plot_utils", "analyze_results"), ("analyze_results", "plot_utils")])
def test_star_imports_in_either_order(order):
    import analyze_results

    namespace = {}
    for module in order:
        exec(f"from {module} import *", namespace)
    for module in (plot_utils, analyze_results):
        assert all(namespace[name] is getattr(module, name) for name in module.__all__)
    assert not set(plot_utils.__all__) & set(analyze_results.__all__)
    assert set(namespace) - {"__builtins__"} == {*plot_utils.__all__, *analyze_results.__all__}


def test_wrong_input(tmp_path, capsys):
    results = synthetic_results("relu")
    with pytest.raises(UserError, match=r"all_results\['relu'\]"):
        plot_utils.plot_training_curves(synthetic_study(), "relu", tmp_path)
    with pytest.raises(UserError, match="must be one or more of png, pdf, svg"):
        plot_utils.plot_summary_metrics(results, "relu", tmp_path, formats=("jpg",))
    with pytest.raises(UserError, match="must be one or more of png, pdf, svg"):
        plot_utils.plot_summary_metrics(results, "relu", tmp_path, formats=())
    with pytest.raises(ValueError, match="can't be part of a file name"):
        plot_utils.plot_summary_metrics(results, "../relu", tmp_path)
    for call in (
        lambda: plot_utils.plot_all_activation_results(tmp_path, results_dir=tmp_path),
        lambda: plot_utils.plot_all_activation_results(tmp_path, results_dir=tmp_path / "none"),
        lambda: plot_utils.plot_divergence_comparison({"relu": minimal_results("relu")}, tmp_path),
        lambda: plot_utils.plot_beta_sweep({"relu": results}, tmp_path),
        lambda: plot_utils.plot_pd_ratios([], tmp_path),
        lambda: plot_utils.plot_studies([], tmp_path),
        lambda: plot_utils.plot_sources({}, "relu", tmp_path),
        lambda: plot_utils.plot_activation_functions(tmp_path, names=["relux"]),
        lambda: plot_utils.plot_activation_functions(tmp_path, names=[]),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert "\n" not in str(error.value)
    assert plot_utils.main(["--results-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "train first" in message
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "plots").write_text("a file where the folder should be")
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
    divergence = figure_of(plot_utils.divergence_comparison_figure, study)
    comparison = figure_of(plot_utils.comparison_figure, study)
    for y, name in enumerate(STUDY):
        colour = to_hex(plot_utils.activation_style(name)[0])
        (line,) = lines(divergence.axes[0], f"mean {name}")
        assert to_hex(line.get_color()) == colour
        (row,) = [c for c in comparison.axes[0].collections if c.get_gid() == f"row {y}"]
        assert to_hex(row.get_facecolor()[0]) == colour
        summary = one(plot_utils.summary_figure, study[name])
        assert {to_hex(c.get_facecolor()[0]) for axes in summary.axes for c in axes.collections if c.get_gid()} == {
            colour
        }


# -- one activation -----------------------------------------------------------------------------------------------


def test_training_curves_are_the_recorded_ones():
    results = synthetic_results("relu", n_trials=4)
    for trial in results["trials"]:
        trial["steps"] = [0, 7, 50, 130, 200, 310, 400, 555, 600, 800, 1234]
    figure = one(plot_utils.training_curves_figure, results)
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
    assert whole.get_ylabel() == late.get_ylabel() == "loss (nats per token)"
    assert late.get_xlim()[0] < 617 < late.get_xlim()[1]
    assert late.get_xlim()[0] > 555


def test_steps_of_the_whole_study_serve_trials_without_their_own():
    results = synthetic_results("relu", diverged=(3,))
    for trial in results["trials"]:
        del trial["steps"]
    figure = one(plot_utils.training_curves_figure, results)
    assert lines(figure.axes[0], "val_loss_history 1")[0].get_xdata().tolist() == results["steps"]
    assert lines(figure.axes[0], "val_loss_history 3")[0].get_xdata().tolist() == results["steps"][:4]


def test_without_steps_the_evaluations_are_counted():
    figure = one(plot_utils.training_curves_figure, minimal_results("relu"))
    assert len(figure.axes) == 2  # neither learning rate nor gradient norm
    assert {axes.get_xlabel() for axes in figure.axes} == {"evaluation"}
    assert lines(figure.axes[0], "val_loss_history 2")[0].get_xdata().tolist() == list(range(1, 12))


def test_histories_of_unequal_length_are_never_given_steps():
    results = synthetic_results("relu")
    for trial in results["trials"]:
        trial["val_loss_history"] = trial["val_loss_history"][::5]
    figure = one(plot_utils.training_curves_figure, results)
    assert figure.axes[0].get_xlabel() == "share of training (%)"
    (line,) = lines(figure.axes[0], "val_loss_history 1")
    assert line.get_xdata() == pytest.approx([100 / 3, 200 / 3, 100])


def test_what_was_recorded_at_other_times_is_left_out():
    results = synthetic_results("relu")
    for trial in results["trials"]:
        trial["grad_norm_history"] = [1.0] * 1000
    figure = one(plot_utils.training_curves_figure, results)
    assert not [line for axes in figure.axes for line in lines(axes, "grad_norm.*")]
    assert figure.axes[0].get_xlabel() == "training step"


def test_a_diverged_trial_is_marked_and_does_not_set_the_scale():
    results = synthetic_results("relu", diverged=(2,))
    results["trials"][1]["val_loss_history"][-1] = 1e9
    whole = one(plot_utils.training_curves_figure, results).axes[0]
    assert whole.get_ylim()[1] < 5
    crosses = [line for line in whole.get_lines() if line.get_marker() == "x"]
    assert [line.get_xydata().tolist() for line in crosses] == [[[300, 1e9]]]
    assert "trial 2 diverged" in [text.get_text() for text in whole.get_legend().get_texts()]


def test_pairs_with_their_errors():
    results = synthetic_results("swish", n_trials=4)
    pairs = results["reproducibility_metrics"]
    heatmap, differences, mismatches, metrics = one(plot_utils.reproducibility_figure, results).axes[:4]
    image = heatmap.get_images()[0].get_array().filled(np.nan)
    for pair in pairs:
        i, j = (int(k) - 1 for k in pair["model_pair"].split("_vs_"))
        assert image[i, j] == image[j, i] == pair["relative_pd"]
    assert np.isnan(np.diag(image)).all()
    (container,) = differences.containers
    data, _, (bars,) = container
    assert data.get_ydata().tolist() == [p["relative_pd"] for p in pairs]
    for pair, segment in zip(pairs, bars.get_segments(), strict=True):
        assert np.ptp(segment[:, 1]) / 2 == pytest.approx(1.96 * pair["relative_pd_se"])
    assert lines(mismatches, "mismatch")[0].get_ydata().tolist() == [p["top1_mismatch_pct"] for p in pairs]
    assert mismatches.get_ylabel() == "positions (%)"
    assert [t.get_text() for t in differences.get_xticklabels()] == [
        p["model_pair"].replace("_vs_", "–") for p in pairs
    ]
    assert len(metrics.get_lines()) == 7
    assert all(len(line.get_xdata()) == 6 for line in metrics.get_lines())


def test_mismatch_from_the_counts_alone():
    results = minimal_results("relu")
    mismatches = one(plot_utils.reproducibility_figure, results).axes[2]
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
    for build in (plot_utils.reproducibility_figure, plot_utils.divergence_figure):
        assert message in [text.get_text() for text in one(build, results).texts]


def test_summary_shows_every_trial_with_mean_and_sd():
    results = synthetic_results("relu", n_trials=5, diverged=(2,))
    done = [t for t in results["trials"] if t["status"] == "done"]
    losses, accuracies, differences, times = one(plot_utils.summary_figure, results).axes
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
        segments = [c[2][0].get_segments()[0][:, 1] for c in axes.containers]
        half = np.std(values, ddof=1)
        assert any(s == pytest.approx([np.mean(values) - half, np.mean(values) + half]) for s in segments)
    assert [axes.get_ylabel() for axes in (losses, accuracies, differences, times)] == [
        "loss (nats per token)",
        "accuracy (%)",
        "relative PD",
        "time (s)",
    ]


def test_divergence_along_the_recorded_steps():
    results = synthetic_results("gelu")
    results["divergence"]["steps"] = [3 * s + 1 for s in results["steps"]]
    figure = one(plot_utils.divergence_figure, results)
    for axes, key in zip(figure.axes, ("relative_pd", "top1_mismatch_pct", "val_loss_difference"), strict=True):
        for pair, curves in results["divergence"]["pairs"].items():
            (line,) = lines(axes, f"{key} {pair}")
            assert line.get_xdata().tolist() == results["divergence"]["steps"]
            assert line.get_ydata().tolist() == curves[key]
        assert axes.get_xlabel() == "training step"
    average = np.mean([c["relative_pd"] for c in results["divergence"]["pairs"].values()], axis=0)
    assert any(np.allclose(line.get_ydata(), average) for line in figure.axes[0].get_lines())


def test_sources_in_order_with_their_share(monkeypatch):
    sources = {
        "all": [0.1, 0.11, 0.09],
        "bit": [0.08, 0.081, 0.079],
        "none": [0.0, 0.0, 0.0],
        "dropout": [],
        "init": [None],
    }
    figure = figure_of(plot_utils.sources_figure, sources, "smelu_1")
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [plot_utils.SOURCE_LABELS[key] for key in ("init", "dropout", "bit", "all", "none")]
    assert points(axes, "row 2")[:, 0].tolist() == sources["bit"]
    written = " ".join(text.get_text() for text in axes.texts)
    assert "0.0800  (80 % of all)" in written
    assert written.count("no pairs") == 2
    assert axes.get_xlim()[0] <= 0
    assert_readable(figure, monkeypatch)


# -- several activations ------------------------------------------------------------------------------------------


def test_six_panels_show_every_trial():
    study = synthetic_study(n_trials=4)
    losses, pds, times, spread, ranks, trade = figure_of(plot_utils.comparison_figure, study).axes
    for y, (name, results) in enumerate(study.items()):
        trials, pairs = results["trials"], results["reproducibility_metrics"]
        assert points(losses, f"row {y}")[:, 0].tolist() == [t["val_loss"] for t in trials]
        assert points(pds, f"row {y}")[:, 0].tolist() == [p["relative_pd"] for p in pairs]
        assert points(times, f"row {y}")[:, 0].tolist() == [t["training_time"] for t in trials]
        loss, pd = np.array([t["val_loss"] for t in trials]), [p["relative_pd"] for p in pairs]
        own = [
            np.mean([p["relative_pd"] for p in pairs if str(k) in p["model_pair"].split("_vs_")]) for k in (1, 2, 3, 4)
        ]
        assert points(trade, f"trials {name}") == pytest.approx(np.column_stack([loss, own]))
        center, _, (across, up) = trade.containers[y]
        assert center.get_xydata()[0] == pytest.approx([loss.mean(), np.mean(pd)])
        assert np.ptp(across.get_segments()[0][:, 0]) == pytest.approx(2 * loss.std(ddof=1))
        assert np.ptp(up.get_segments()[0][:, 1]) == pytest.approx(2 * np.std(pd, ddof=1))
        shares = [line.get_xdata()[0] for line in spread.get_lines()[2 * y : 2 * y + 2]]
        expected = [100 * np.std(x, ddof=1) / np.mean(x) for x in (loss, pd)]
        assert shares == pytest.approx(expected)
    assert (losses.get_xlabel(), pds.get_xlabel(), times.get_xlabel()) == (
        "nats per token",
        "relative PD",
        "s per trial",
    )
    shown = ranks.get_images()[0].get_array()
    for column, values in enumerate(
        (
            [np.mean([p["relative_pd"] for p in r["reproducibility_metrics"]]) for r in study.values()],
            [np.mean([t["val_loss"] for t in r["trials"]]) for r in study.values()],
            [np.median([t["training_time"] for t in r["trials"]]) for r in study.values()],
        )
    ):
        assert shown[:, column].tolist() == scipy.stats.rankdata(values, "min").tolist()


def test_failed_audit_is_marked_and_not_ranked():
    figure = figure_of(plot_utils.comparison_figure, SITUATIONS["diverged"]())
    losses, ranks = figure.axes[0], figure.axes[4]
    assert [t.get_text() for t in losses.get_yticklabels()] == ["SmeLU β=0.5", "ReLU", "GELU", "Swish †"]
    assert np.ma.getmaskarray(ranks.get_images()[0].get_array()).all(axis=1).tolist() == [False, False, True, True]
    assert "no trial finished" in [text.get_text() for text in losses.texts]


def test_pd_at_equal_loss_is_marked_where_the_curves_cross_it():
    study = synthetic_study()
    by_step, by_loss, near = figure_of(plot_utils.divergence_comparison_figure, study).axes
    finals = [
        np.mean([r["divergence"]["val_loss"][k][-1] for k in pair.split("_vs_")])
        for r in study.values()
        for pair in r["divergence"]["pairs"]
    ]
    target = max(finals)
    for name, results in study.items():
        divergence = results["divergence"]
        at_target = []
        for pair, curves in divergence["pairs"].items():
            loss = np.mean([divergence["val_loss"][k] for k in pair.split("_vs_")], axis=0)
            at_target.append(np.interp(-target, -loss, curves["relative_pd"]))
        marker = plot_utils.activation_style(name)[1]
        marks = [
            line.get_xydata()[0]
            for line in near.get_lines()
            if line.get_marker() == marker and len(line.get_xdata()) == 1
        ]
        assert marks[0] == pytest.approx([target, np.mean(at_target)])
        mean = np.mean([c["relative_pd"] for c in divergence["pairs"].values()], axis=0)
        (line,) = lines(by_step, f"mean {name}")
        assert line.get_xydata() == pytest.approx(np.column_stack([divergence["steps"], mean]))
    assert by_loss.get_xlim()[0] > by_loss.get_xlim()[1]  # training goes to the right
    assert near.get_xlim()[1] < target < near.get_xlim()[0]


def test_forest_of_ratios(monkeypatch):
    table = [
        {"activation": "smelu_05", "ratio": 0.9, "low": 0.85, "high": 0.95, "verdict": "lower"},
        {"activation": "gelu", "ratio": 1.01, "low": 0.01, "high": 90.0, "verdict": "inconclusive"},
        {"activation": "swish", "ratio": 0.97, "low": None, "high": None, "verdict": "no test"},
        {"activation": "mish", "ratio": None, "low": None, "high": None, "verdict": "no test"},
    ]
    figure = figure_of(plot_utils.pd_ratios_figure, table)
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


def test_ratios_of_a_study_are_those_of_the_analysis():
    import analyze_results

    study = synthetic_study(n_trials=4)
    table = plot_utils._ratio_table(study)
    frame = analyze_results.calculate_statistical_significance(study).set_index(["Activation_A", "Activation_B"])
    assert [row["activation"] for row in table] == [name for name in STUDY if name != "relu"]
    for row in table:
        expected = frame.loc[row["activation"], "relu"]
        assert [row["ratio"], row["matched_ratio"]] == pytest.approx(
            [expected["PD_Ratio"], expected["Matched_PD_Ratio"]]
        )
    assert plot_utils._ratio_table(synthetic_study(["gelu", "swish"])) == []
    assert plot_utils._ratio_table(synthetic_study(n_trials=1)) == []


def test_beta_sweep_against_beta():
    study = a_study(["smelu_0.1", "smelu_05", "smelu_2", "relu", "gelu"])
    pds, losses = figure_of(plot_utils.beta_sweep_figure, study).axes
    labels = [pds.xaxis.get_major_formatter()(x, None) for x in pds.xaxis.get_major_locator()()]
    assert labels == ["ReLU\n(β → 0)", "0.1", "0.5", "2"]
    betas = sorted({round(float(c.get_offsets()[0, 0]), 6) for c in losses.collections})
    assert betas == [0.04, 0.1, 0.5, 2.0]  # ReLU stands left of the smallest β; GELU has none
    for panel, values in (
        (pds, lambda r: [p["relative_pd"] for p in r["reproducibility_metrics"]]),
        (losses, lambda r: [t["val_loss"] for t in r["trials"]]),
    ):
        means = [np.mean(values(study[name])) for name in ("smelu_0.1", "smelu_05", "smelu_2")]
        assert any(len(line.get_xdata()) == 3 and np.allclose(line.get_ydata(), means) for line in panel.get_lines())


def test_functions_and_derivatives(monkeypatch):
    names = ["relu", "swish", "smelu_1", "swiglu"]
    figure = figure_of(plot_utils.activation_functions_figure, names)
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
    figure = figure_of(plot_utils.studies_figure, table, pooled)
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
    assert_readable(figure_of(plot_utils.studies_figure, many, pooled), monkeypatch)


def test_comparisons_that_the_results_allow(tmp_path):
    def drawn(all_results):
        return [path.name for path in plot_utils.plot_comparisons(all_results, tmp_path)]

    assert drawn({"relu": minimal_results("relu")}) == ["comprehensive_comparison.png"]
    assert drawn(a_study(["smelu_0.1", "smelu_05", "smelu_2", "relu"])) == [
        "comprehensive_comparison.png",
        "divergence_comparison.png",
        "pd_ratios.png",
        "beta_sweep.png",
    ]
