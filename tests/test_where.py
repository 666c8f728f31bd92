"""From checkpoints to results/where.json, the figure and the report's section."""

import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import analyze_results
import storage
from analysis import products
from analysis.products import Folder
from analysis.results import load_all_results
from config import Config
from conftest import TINY, as_flags, problems_of
from prepare_data import load_corpus
from questions.where import PRODUCTS, positions
from questions.where import tell as where
from questions.where.draw import plot_where
from synthetic import minimal_results, synthetic_results, synthetic_where
from training import experiment
from training.predictions import Predictions
from training.trial import train_trial

NAMES = ["relu", "gelu"]
FOLDERS = ("results_dir", "plots_dir", "checkpoint_dir", "data_dir")
NOT_OURS = "it records no settings: another tool's file, nothing to derive it from"


def study(folder, corpus_file, data_dir, **changes):
    folders = {key: str(folder / key) for key in ("results_dir", "plots_dir", "checkpoint_dir")}
    return Config(**TINY, dataset=str(corpus_file), data_dir=str(data_dir), device="cpu", **folders, **changes)


def train(config, names):
    """As train.run_study, without processes, audits and figures."""
    corpus = load_corpus(config)
    for name in names:
        for k in range(1, config.trials_per_activation + 1):
            train_trial(config, name, k, corpus)
        storage.write_results(experiment.measure(config, name, corpus), config.results_dir)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_file, data_dir):
    """A finished study of two activations, three trials each, and what --where wrote of it."""
    config = study(tmp_path_factory.mktemp("where"), corpus_file, data_dir)
    train(config, NAMES)
    update(config)
    return config


@pytest.fixture
def copied(trained, tmp_path):
    """The study in folders that a test may damage."""
    folders = {key: str(tmp_path / key) for key in ("results_dir", "plots_dir", "checkpoint_dir")}
    for key, folder in folders.items():
        shutil.copytree(getattr(trained, key), folder)
    return trained.replace(**folders)


def update(config):
    return products.update(PRODUCTS[0], Folder.of(config))


def measured(config, **others):
    """{activation: its entry} and the passage, measured anew."""
    folder = Folder.of(config)
    folder.study = SimpleNamespace(all_results={**load_all_results(config.results_dir), **others})
    made = PRODUCTS[0].measure(folder)
    return [made[Path(config.results_dir, name)]["activations"] for name in (where.WHERE_FILE, where.PASSAGE_FILE)]


def load(config, name):
    return products.load(Path(config.results_dir, name), where.SCHEMA)


def entries(config):
    return load(config, where.WHERE_FILE)["activations"]


def changed(config, activation, number, change):
    """Change a checkpoint, and let the results name the changed one."""
    path = storage.checkpoint_path(config.checkpoint_dir, activation, number)
    contents = storage.load_checkpoint(path)
    change(contents)
    sha256 = storage.save_checkpoint(path, contents)
    results = storage.read_results(storage.results_path(config.results_dir, activation))
    results["trials"][number - 1]["checkpoint"]["sha256"] = sha256
    storage.write_results(results, config.results_dir)


# -- from the weights ---------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_results(trained):
    """PD, loss, accuracy and mismatch were measured by other code, in float32: metrics.evaluate_models."""
    measured_of = entries(trained)
    assert list(measured_of) == NAMES
    for name, results in load_all_results(trained.results_dir).items():
        entry, pairs = measured_of[name], results["reproducibility_metrics"]
        assert (entry["source"], entry["note"], entry["trials"]) == ("weights", "", [1, 2, 3])
        assert entry["positions"] == results["evaluation"]["positions"]
        assert entry["pd"]["mean"] == pytest.approx(results["avg_relative_pd"], rel=1e-5)
        error = entry["error"]
        assert error["ensemble"]["loss"] == pytest.approx(results["avg_val_loss"], rel=1e-5)
        assert 100 * (1 - error["disagreement"]["error"]) == pytest.approx(results["avg_val_accuracy"], rel=1e-9)
        mismatch = np.mean([p["top1_mismatch_pct"] for p in pairs])
        assert 100 * error["disagreement"]["disagreement"] == pytest.approx(mismatch, rel=1e-9)
        assert error["ensemble"]["identity_error"] < 1e-12
        assert 0 < error["ensemble"]["gain"] < error["ensemble"]["loss"]
        for parts in entry["where"].values():
            assert abs(math.fsum(s["share"] for s in parts) - 1) <= math.ulp(1.0)
            whole = math.fsum(s["positions"] * s["pd"] for s in parts) / entry["positions"]
            assert whole == pytest.approx(entry["pd"]["mean"], rel=1e-15)


def test_passage_is_what_the_models_predict(trained):
    """The last token that a full window before it decides, asked of the models one by one."""
    passage = load(trained, where.PASSAGE_FILE)
    corpus, entry = load_corpus(trained), passage["activations"]["gelu"]
    assert passage["tokens"] == corpus.val[: where.PASSAGE_TOKENS + 1].tolist()
    assert len(entry["pd"]) == len(entry["expected"]) == where.PASSAGE_TOKENS
    from training.experiment import load_trial

    T, at = trained.block_size, where.PASSAGE_TOKENS - 1
    idx = torch.tensor(corpus.val[at + 1 - T : at + 1].astype(np.int64))[None]
    p = []
    for k in (1, 2, 3):
        model, _, _ = load_trial(storage.checkpoint_path(trained.checkpoint_dir, "gelu", k))
        with torch.no_grad():
            p.append(torch.softmax(model(idx)[0, -1].double(), -1).numpy())
        expected = entry["expected"][at][k - 1]
        assert expected[0] == p[-1].argmax()
        assert expected[1] == pytest.approx(p[-1].max(), abs=6e-5)
        assert expected[-1] == pytest.approx(p[-1][corpus.val[at + 1]], abs=6e-5)
    pd = np.mean([abs(a - b).sum() / 2 for a, b in itertools.combinations(p, 2)])
    assert entry["pd"][at] == pytest.approx(pd, abs=6e-5)
    assert {str(t) for place in entry["expected"] for one in place for t in one[:-1:2]} <= set(passage["texts"])


def test_trials_side_by_side_give_the_same_numbers(trained):
    corpus = load_corpus(trained)
    one, two = (list(Predictions(trained, "relu", corpus, [1, 2, 3], cores).chunks()) for cores in (1, 3))
    assert all((a.log_p == b.log_p).all() for a, b in zip(one, two, strict=True))


def test_nothing_is_written_where_nothing_can_be_measured(copied, capsys):
    before = {path: path.read_bytes() for path in Path(copied.results_dir).iterdir()}
    shutil.rmtree(copied.checkpoint_dir)
    assert analyze_results.main(["--where", *as_flags(copied, *FOLDERS)]) == 1
    assert "trial_1.pt: no such file" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path(copied.results_dir).iterdir()} == before


# -- less than that -----------------------------------------------------------------------------------------------


def without_weights(contents):
    contents["weights"] = {}


def test_the_probe_stands_in_for_weights_that_are_gone(copied):
    changed(copied, "relu", 2, without_weights)
    update(copied)
    text = PRODUCTS[0].overview(Folder.of(copied))
    assert "ReLU: from the predictions stored on the probe at the last step, in float16, since trial 2 has no" in text
    entry, whole = entries(copied)["relu"], entries(copied)["gelu"]
    assert (entry["source"], whole["source"]) == ("probe", "weights")
    assert entry["positions"] == copied.probe_tokens
    results = load_all_results(copied.results_dir)["relu"]
    pairs = results["divergence"]["pairs"].values()
    assert entry["pd"]["mean"] == pytest.approx(np.mean([p["relative_pd"][-1] for p in pairs]), abs=1e-4)
    mismatch = np.mean([p["top1_mismatch_pct"][-1] for p in pairs])
    assert 100 * entry["error"]["disagreement"]["disagreement"] == pytest.approx(mismatch, rel=1e-12)
    losses = [history[-1] for history in results["divergence"]["val_loss"].values()]
    assert entry["error"]["ensemble"]["loss"] == pytest.approx(np.mean(losses), abs=1e-3)
    assert entry["error"]["ensemble"]["identity_error"] < 1e-12
    assert "relu" not in load(copied, where.PASSAGE_FILE)["activations"]


def test_weights_of_another_model_are_not_loaded(copied):
    def renamed(contents):
        weights = contents["weights"]
        weights["another"] = weights.pop(next(iter(weights)))
        contents["record"]["weights_sha256"] = storage.contents_sha256(weights)

    changed(copied, "gelu", 1, renamed)
    update(copied)
    assert entries(copied)["gelu"]["source"] == "probe"


def test_neither_weights_nor_probe(copied):
    def empty(contents):
        contents |= {"weights": {}, "probe": torch.empty(0)}

    changed(copied, "relu", 1, empty)
    update(copied)
    reason = entries(copied)["relu"]["reason"]
    assert "no predictions of the last step are stored with trial 1" in reason
    assert "\n" not in reason


def test_buckets_of_a_large_vocabulary(tmp_path, corpus_file, data_dir):
    config = study(tmp_path, corpus_file, data_dir, tokenizer="bpe", bpe_vocab_size=300, trials_per_activation=2)
    train(config, ["relu"])
    whole = measured(config)[0]["relu"]
    for k in (1, 2):
        changed(config, "relu", k, without_weights)
    bucketed = measured(config)[0]["relu"]
    assert (whole["source"], bucketed["source"]) == ("weights", "probe")
    assert "buckets" in bucketed["note"]
    assert [bucketed["error"][k] for k in ("ensemble", "calibration")] == [None] * 2
    assert bucketed["error"]["disagreement"]["error"] > 0
    kinds = {s["label"] for s in whole["where"]["kind"]}
    assert {"start of a word", "inside a word", "punctuation"} <= kinds <= set(positions.KINDS)
    text = "\n".join(where.lines({"relu": bucketed}))
    assert "Is a difference an error?" in text
    plot_where.figure({"activations": {"relu": bucketed}})


def test_a_checkpoint_that_was_not_measured_is_refused(copied):
    shutil.copy(
        storage.checkpoint_path(copied.checkpoint_dir, "relu", 1),
        storage.checkpoint_path(copied.checkpoint_dir, "gelu", 1),
    )
    by_name = measured(copied)[0]
    assert "not the checkpoint that was measured" in by_name["gelu"]["reason"]
    assert "reason" not in by_name["relu"]


def test_other_results_say_what_they_lack(copied, tmp_path):
    shutil.rmtree(storage.checkpoint_path(copied.checkpoint_dir, "gelu", 1).parent)
    by_name, passage = measured(copied, swish=minimal_results("swish"))
    reasons = {name: entry.get("reason") for name, entry in by_name.items()}
    assert reasons["relu"] is None
    assert "trial_1.pt: no such file; --checkpoint-dir says where" in reasons["gelu"]
    assert reasons["swish"] == NOT_OURS
    assert list(passage) == ["relu"]
    text = "\n".join(where.lines(by_name))
    assert f"Swish: {NOT_OURS}." in text
    json.dumps(by_name, allow_nan=False)


# -- the section --------------------------------------------------------------------------------------------------


def test_entries_of_other_checkpoints_are_not_told(trained):
    all_results = load_all_results(trained.results_dir)
    assert where.entries(Folder.of(trained)) == entries(trained)
    all_results["gelu"]["trials"][1]["checkpoint"]["sha256"] = "0" * 64
    all_results["swish"] = synthetic_results("swish")
    fitting = products.fitting(entries(trained), all_results)
    assert [n for n, e in fitting.items() if "reason" in e] == ["gelu", "swish"]
    text = "\n".join(where.lines(fitting))
    assert "GELU and Swish: not measured on these checkpoints." in text
    assert "| GELU" not in text


def test_section_says_what_the_numbers_allow():
    text = "\n".join(where.lines(synthetic_where()["activations"]))
    assert "underconfident for ReLU" in text
    other = "\n".join(where.lines(synthetic_where(recorded_pd=0.5)["activations"]))
    assert "on record is 0.5000" in other


def test_figure_shows_every_activation_in_every_panel(trained, tmp_path):
    figure = plot_where.figure({"activations": entries(trained)})
    titles = [axes.get_title("left") for axes in figure.axes]
    assert len(titles) == 6
    for title, axes in zip(titles, figure.axes, strict=True):
        if title and "kind" not in title:
            assert [line.get_gid() for line in axes.lines if line.get_gid() in NAMES] == NAMES, title
    tenths = next(line for line in figure.axes[0].lines if line.get_gid() == "relu")
    assert list(tenths.get_ydata()) == [s["pd"] for s in entries(trained)["relu"]["where"]["entropy"]]
    path = plot_where({"activations": entries(trained)}, tmp_path)
    assert path.read_bytes() == plot_where({"activations": entries(trained)}, tmp_path).read_bytes()


# -- command line, report, verification ---------------------------------------------------------------------------


def test_the_command_and_the_report(copied, capsys):
    assert analyze_results.main(["--where", *as_flags(copied, *FOLDERS)]) == 0
    out = capsys.readouterr().out
    assert "Is a difference an error?" in out
    assert "disagreement.html" in out
    text = storage.read_bytes(f"{copied.results_dir}/FINAL_REPORT.md").decode()
    findings = text.partition("## 5. Key Findings")[2].partition("## 6.")[0]
    assert "### Where the trials differ" in findings
    assert f"![Where trials disagree, and whether that is an error](../{'plots_dir'}/where.png)" in findings
    page = storage.read_bytes(f"{copied.results_dir}/FINAL_REPORT.html").decode()
    assert page.count("title=&quot;difference") == 0 < page.count('title="difference')
    assert page.count('src="data:image/png') >= 1
    assert "<script" not in page
    # without --where nothing is told, and with results of later trials only that it is to be run again
    all_results = load_all_results(copied.results_dir)
    for results in all_results.values():
        results["trials"][0]["checkpoint"]["sha256"] = "0" * 64
    later = analyze_results.generate_final_report(
        all_results, f"{copied.results_dir}/FINAL_REPORT.md", copied.plots_dir
    )
    assert "Where the trials differ" not in later


def test_verification_covers_the_file(copied):
    analyze_results.write_all(copied.results_dir, copied.plots_dir)
    problems = problems_of(Folder.of(copied))
    name = f"{copied.results_dir}/{where.WHERE_FILE}"
    assert problems[name] == problems[f"{copied.results_dir}/FINAL_REPORT.md"] == []
    recorded = load(copied, where.WHERE_FILE)
    recorded["activations"]["gelu"]["where"]["kind"][0]["pd"] *= 1.01
    storage.write_json(name, recorded)
    (problem,) = problems_of(Folder.of(copied))[name]
    assert problem.startswith("activations.gelu.where.kind[0].pd")
