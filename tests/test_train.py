"""The experiment as its users run it: from Python, the REPL, a notebook, a script without a guard, and the shell."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import analyze_results
import metrics
import programs
import storage
import train
from analysis.products import Folder
from config import Config, UserError
from conftest import TINY
from prepare_data import load_corpus
from synthetic import synthetic_results
from tools import verify
from tools.sample import print_samples
from training import experiment
from training import trial as trials
from training.check import TOO_SHORT

ROOT = Path(__file__).resolve().parent.parent
# Times and places: what may differ between two runs of one experiment.
NOT_COMPARED = {
    "training_time", "total_time", "ended", "tokens_per_second", "timestamp", "path", "sha256", "content_sha256",
    "avg_training_time", "results_dir", "plots_dir", "checkpoint_dir", "workers", "audit",
}  # fmt: skip


def comparable(value):
    """A results dict without times and places."""
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items() if k not in NOT_COMPARED}
    return [comparable(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus_file, data_dir):
    """One finished experiment, shared: (config, results, models, tokenizer)."""
    folder = tmp_path_factory.mktemp("finished")
    config = Config(
        **TINY, device="cpu", dataset=str(corpus_file), data_dir=str(data_dir),
        results_dir=str(folder / "r"), plots_dir=str(folder / "p"), checkpoint_dir=str(folder / "c"),
    )  # fmt: skip
    return config, *train.run_experiment(config, "smelu_05", quiet=True)


def test_run_experiment_returns_results_models_and_tokenizer(finished):
    config, results, models, tokenizer = finished
    assert results["activation"] == "smelu_05"
    assert len(models) == 3 and not any(model.training for model in models)
    assert tokenizer.decode(tokenizer.encode("kalo")) == "kalo"
    assert [t["seed"] for t in results["trials"]] == [1337, 1338, 1339]
    assert [p["model_pair"] for p in results["reproducibility_metrics"]] == ["1_vs_2", "1_vs_3", "2_vs_3"]


def test_a_setting_among_the_options_blames_the_function_called(smoke_config):
    with pytest.raises(TypeError, match=r"^run_experiment\(\) has no option 'trials'"):
        train.run_experiment(smoke_config, "relu", trials=2)


def test_files_are_where_the_contract_says(finished):
    config = finished[0]
    assert (Path(config.results_dir) / "smelu_05_results.json").is_file()
    for figure in ("training_curves", "reproducibility", "summary"):
        assert (Path(config.plots_dir) / f"smelu_05_{figure}.png").stat().st_size > 10_000
    for k in (1, 2, 3):
        assert (Path(config.checkpoint_dir) / "smelu_05" / f"trial_{k}.pt").is_file()
    assert not list(Path(config.checkpoint_dir).rglob("*.snapshot"))
    assert not list(Path(config.checkpoint_dir).rglob("*.tmp*"))


def test_the_json_is_what_was_returned_and_has_the_documented_keys(finished):
    config, results, _, _ = finished
    written = storage.read_results(storage.results_path(config.results_dir, "smelu_05"))
    assert {k: v for k, v in written.items() if k != "content_sha256"} == json.loads(json.dumps(results)) | {
        k: v for k, v in written.items() if k not in results and k != "content_sha256"
    }
    for key in storage.results_schema()["required"] + [
        "schema_version", "config", "fingerprint", "dataset", "steps", "seeds", "environment", "audit", "divergence",
    ]:  # fmt: skip
        assert key in written
    assert written["audit"]["passed"], [c for c in written["audit"]["checks"] if c["status"] == "fail"]


def predictions(model, corpus, config):
    """(N, V) float64 probabilities and (N,) targets at the evaluation positions, without metrics.py's streaming."""
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    windows = np.stack([corpus.val[s : s + config.block_size + 1] for s in starts]).astype(np.int64)
    with torch.no_grad():
        logits = model.double()(torch.from_numpy(windows[:, :-1]))
    model.float()
    logits = logits.numpy().reshape(-1, logits.shape[-1])
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), windows[:, 1:].ravel()


def test_every_number_of_the_json_agrees_with_an_independent_computation(finished):
    """From the checkpoints, in float64 NumPy, by the definitions."""
    config, results, _, _ = finished
    corpus = load_corpus(config)
    loaded = [
        experiment.load_trial(storage.checkpoint_path(config.checkpoint_dir, "smelu_05", k))[0] for k in (1, 2, 3)
    ]
    P = []
    for model, record in zip(loaded, results["trials"], strict=True):
        p, y = predictions(model, corpus, config)
        P.append(p)
        loss = -np.log(p[np.arange(len(y)), y]).mean()
        assert record["val_loss"] == pytest.approx(loss, rel=1e-5)
        assert record["val_accuracy"] == pytest.approx(100 * (p.argmax(1) == y).mean(), abs=0.3)
    losses = [t["val_loss"] for t in results["trials"]]
    assert results["avg_val_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert results["std_val_loss"] == pytest.approx(np.std(losses, ddof=1), rel=1e-9)
    pairs = {p["model_pair"]: p for p in results["reproducibility_metrics"]}
    for i, j in ((1, 2), (1, 3), (2, 3)):
        p, q = P[i - 1], P[j - 1]
        pair = pairs[f"{i}_vs_{j}"]
        assert pair["relative_pd"] == pytest.approx(0.5 * np.abs(p - q).sum(1).mean(), rel=1e-4)
        assert pair["symmetric_pd"] == pytest.approx((2 * np.abs(p - q) / (p + q)).mean(), rel=1e-4)
        assert pair["total_predictions"] == len(p) == config.eval_tokens
    mean = np.mean(P, 0)
    expected = np.mean([np.abs(p - mean).sum(1).mean() for p in P])
    assert results["set_prediction_difference"] == pytest.approx(expected, rel=1e-4)
    assert results["self_prediction_difference"] == 0
    assert results["avg_relative_pd"] == pytest.approx(np.mean([p["relative_pd"] for p in pairs.values()]), rel=1e-12)


def test_histories_are_taken_at_the_recorded_steps(finished):
    config, results, _, _ = finished
    assert results["steps"] == [0, 20, 40, 60]
    for t in results["trials"]:
        for key in ("train_loss_history", "val_loss_history", "learning_rate_history", "grad_norm_history", "steps"):
            assert len(t[key]) == 4
        assert t["learning_rate_history"] == [trials.learning_rate(config, min(s, 59)) for s in t["steps"]]
        assert t["val_loss_history"][-1] < t["val_loss_history"][0] - 0.5
    for curves in results["divergence"]["pairs"].values():
        assert len(curves["relative_pd"]) == 4


def test_results_of_a_version_that_tabulated_pd_by_loss_are_verified(finished, tmp_path):
    config, results, _, _ = finished
    storage.write_results({**results, "pd_at_val_loss": {"val_loss": [2.5], "mean": [0.1]}}, tmp_path)
    path = str(tmp_path / "smelu_05_results.json")
    folder = Folder.of(config.replace(results_dir=str(tmp_path)))
    (found,) = (v for v in verify.verify(folder, analyze_results.all_products()) if v.name == path)
    assert found == verify.Verified(path)


def without_the_last_metric(results):
    return {**results, "metrics": results["metrics"][:-1]}


def test_results_with_fewer_metrics_are_said_to_be_measured_again(finished, tmp_path):
    config, results, _, _ = finished
    storage.write_results(without_the_last_metric(results), tmp_path)
    folder = Folder.of(config.replace(results_dir=str(tmp_path)))
    (found,) = (v for v in verify.verify(folder, analyze_results.all_products()) if v.name.endswith("_results.json"))
    assert found.problems == ["tokens_per_second not measured yet; train.py measures it again"]


@pytest.mark.parametrize(
    ("older", "reason"),
    [
        (lambda r: {**r, "schema_version": 1}, "written with schema 1, this program's is 3"),
        (lambda r: {k: v for k, v in r.items() if k != "metrics"}, "relative_pd, .* not measured yet"),
        (without_the_last_metric, "tokens_per_second not measured yet"),
    ],
)
def test_results_of_an_earlier_program_are_measured_again(finished, tmp_path, monkeypatch, capsys, older, reason):
    config, results, _, _ = finished
    monkeypatch.setattr(trials, "_run", lambda *_: pytest.fail("trained again"))
    elsewhere = config.replace(results_dir=str(tmp_path / "r"), plots_dir=str(tmp_path / "p"))
    path = storage.write_results(older(results), elsewhere.results_dir)
    again, _, _ = train.run_experiment(elsewhere, "smelu_05")
    assert re.search(re.escape(str(path)) + f": {reason}; measured again from the checkpoints", capsys.readouterr().out)
    assert comparable(again) == comparable(results) == comparable(storage.read_results(path))
    monkeypatch.setattr(experiment, "measure", lambda *_: pytest.fail("measured again"))
    train.run_experiment(elsewhere, "smelu_05", quiet=True)


def test_like_repeats_a_study_to_the_bit(finished, tmp_path, capsys, monkeypatch):
    """From its results file, and from the same settings in TOML: the same weights; a flag beside it is said."""
    config, results, _, _ = finished
    for step in ("_draw", "_compare"):
        monkeypatch.setattr(train, step, lambda *_: None)
    path = storage.results_path(config.results_dir, "smelu_05")
    places = ["--data-dir", config.data_dir, "--activation", "smelu_05", "--trials", "1"]

    def weights(folder, *flags):
        folders = [f"--{kind}-dir={tmp_path / folder / kind}" for kind in ("results", "plots", "checkpoint")]
        assert train.main([*flags, *places, *folders]) == 0
        record = storage.read_results(tmp_path / folder / "results" / "smelu_05_results.json")["trials"][0]
        return record["weights_sha256"]

    expected = results["trials"][0]["weights_sha256"]
    assert weights("like", "--like", str(path)) == expected
    assert "like " not in capsys.readouterr().out
    toml = tmp_path / "study.toml"
    kept = {k: v for k, v in config.to_dict().items() if v is not None and not k.endswith("_dir")}
    toml.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in kept.items()), encoding="utf-8")
    assert weights("toml", "--config", str(toml)) == expected
    assert weights("other", "--like", str(path), "--learning-rate", "0.003") != expected
    assert f"like {path}, but for learning_rate=0.01 there, 0.003 now" in capsys.readouterr().out


def test_how_it_is_computed_is_said_before_training(smoke_config, capsys, monkeypatch):
    for step in ("_draw", "_compare"):
        monkeypatch.setattr(train, step, lambda *_: None)
    config = smoke_config.replace(trials_per_activation=1, max_iters=20)
    train.run_study(config, ["relu"])
    lines = capsys.readouterr().out.splitlines()
    said = lines.index(config.how_computed())
    assert said < next(i for i, line in enumerate(lines) if line.startswith("relu trial 1"))


@pytest.mark.parametrize(
    "m, called", [("nan", "audit FAILED: finite"), (TOO_SHORT, "too short a training: 200 steps; fails finite")]
)
def test_a_failed_audit_names_the_check_and_where_to_read_on(capsys, m, called):
    results = synthetic_results("relu") | {
        "audit": {
            "passed": False,
            "checks": [
                {"name": n, "status": s, "measured": m} for n, s, m in (("a", "pass", ""), ("finite", "fail", m))
            ],
        }
    }
    config = Config(preset="smoke", device="cpu")
    train.Display(quiet=False).finished(results, Path("results/relu_results.json"), config)
    out = capsys.readouterr().out
    assert f'{called} (measured and needed: "audit" in results/relu_results.json)' in out
    where = "results in results/relu_results.json, figures plots/relu_*.png, models in checkpoints/relu\n"
    assert where in out


def other_settings(config):
    trained = synthetic_results("relu")
    trained.update(config=config.to_dict(), fingerprint=config.fingerprint())
    storage.write_results(trained, config.results_dir)
    return train.run_experiment(config.replace(n_layer=3), "relu")


def other_name(config):
    storage.write_results(synthetic_results("smelu_05"), config.results_dir)
    return train.run_experiment(config, "smelu_0.5")


def overwritten_meanwhile(config):
    path = storage.checkpoint_path(config.checkpoint_dir, "relu", 1)
    with storage.FileLock(path.with_suffix(".lock")):
        train._remove(config, "relu")


IN_PYTHON = {  # what is wrong: the call, and what its line names
    "no such activation": (lambda c: train.run_experiment(c, "gleu"), "'gelu'"),
    "several at once": (lambda c: train.run_experiment(c, ["relu", "gelu"]), "by name"),
    "other settings": (other_settings, "(n_layer=2 there, 3 now); go on with its settings (Config.like("),
    "the same function": (other_name, "go on with activation='smelu_05', move it away, or use another folder (study="),
    "being trained": (overwritten_meanwhile, "overwrite=True: another process is training trial 1 of relu"),
    "a preset too late": (lambda c: c.replace(preset="quick"), "preset='quick'"),
    "a field that is none": (lambda c: setattr(c, "max_itres", 5), "did you mean max_iters?"),
    "no model to sample": (lambda c: print_samples(c, "relu", "a"), "train it first (activation='relu')"),
    "nothing to decide against": (lambda c: train.run_until_decided(c, ["gelu"]), "at least one other"),
}


@pytest.mark.parametrize("what", IN_PYTHON)
def test_in_python_messages_speak_of_arguments(what, smoke_config):
    call, named = IN_PYTHON[what]
    with pytest.raises(UserError) as wrong:
        call(smoke_config)
    message = str(wrong.value)
    assert named in message and "--" not in message and "\n" not in message
    assert len(message) < 700


def test_a_damaged_results_file_says_that_what_was_trained_is_kept(tmp_path, capsys):
    config = Config(preset="smoke", device="cpu", results_dir=str(tmp_path / "results"))
    storage.write_results(synthetic_results("relu"), config.results_dir)
    (tmp_path / "results" / "gelu_results.json").write_text("{", encoding="utf-8")
    with pytest.raises(storage.StorageError) as damaged:
        train._compare(config, train.Display(quiet=False))
    said = str(damaged.value)
    assert "gelu_results.json" in said and "\n" not in said
    assert said.endswith("everything trained and measured before is kept, the comparison alone is not made")


def test_a_second_run_reuses_what_is_done(finished, monkeypatch):
    config, results, _, _ = finished
    monkeypatch.setattr(trials, "_run", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(experiment, "measure", lambda *_: pytest.fail("measured again"))
    again, models, _ = train.run_experiment(config, "smelu_05", quiet=True)
    assert comparable(again) == comparable(results)
    assert len(models) == 3


def test_other_settings_in_the_same_place_are_refused_with_the_fields_that_differ(finished):
    config = finished[0]
    with pytest.raises(UserError, match=r"learning_rate=0.01 there, 0.005 now.*overwrite=True"):
        train.run_experiment(config.replace(learning_rate=0.005), "smelu_05", quiet=True)


@pytest.mark.parametrize("left", ["results", "checkpoint", "snapshot"])
def test_one_function_by_two_names_in_one_place_is_refused_before_training(left, smoke_config, capsys, monkeypatch):
    monkeypatch.setattr(trials, "train_trial", lambda *_: pytest.fail("trained"))
    config = smoke_config
    if left == "results":
        path = storage.write_results(synthetic_results("smelu_05"), config.results_dir)
    else:
        path = Path(config.checkpoint_dir) / "smelu_05"
        path.mkdir(parents=True)
        (path / {"checkpoint": "trial_2.pt", "snapshot": "trial_1.step-10.snapshot"}[left]).touch()
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in config.to_dict().items() if isinstance(value, str)]
    for more in ([], ["--overwrite"]):  # which replaces what goes by the name that is asked for, and no other
        assert train.main([*flags, *more, "--baseline", "gelu", "--activation", "gelu", "smelu_0.5"]) == 2
        out, err = capsys.readouterr()
        assert err.count("\n") == 1
        assert err.startswith(f"train.py: {path}: smelu_05 and smelu_0.5 are the same function")
        assert "--activation smelu_05" in err and "--study" in err and not out


def test_other_names_that_are_in_nobodys_way(smoke_config):
    """The name itself, other functions, what another tool calls its own, and folders without a model."""
    for name in ("smelu_0.5", "smelu_1", "their_own"):
        storage.write_results(synthetic_results(name), smoke_config.results_dir)
    (Path(smoke_config.checkpoint_dir) / "smelu_05").mkdir(parents=True)
    (Path(smoke_config.checkpoint_dir) / "my_module--cube").mkdir()
    (Path(smoke_config.checkpoint_dir) / "my_module--cube" / "trial_1.pt").touch()
    train._refuse_other_names(experiment.existing_files(smoke_config), ["smelu_0.5", "swish"])
    with pytest.raises(UserError, match="smelu_0.5 and smelu_05 are the same"):
        train._refuse_other_names(experiment.existing_files(smoke_config), ["smelu_05"])


def test_another_text_in_the_same_place_is_refused(finished, tmp_path):
    config = finished[0]
    other = tmp_path / Path(config.dataset).name
    other.write_text(Path(config.dataset).read_text(encoding="utf-8").replace("k", "g"), encoding="utf-8")
    corpus = load_corpus(config.replace(dataset=str(other)))
    path = storage.checkpoint_path(config.checkpoint_dir, "smelu_05", 1)
    with pytest.raises(UserError, match="another text"):
        trials.check_same_experiment(config, "smelu_05", 1, storage.load_checkpoint(path), corpus, path)


def test_more_trials_are_added_without_retraining(finished, tmp_path):
    config, results, _, _ = finished
    import shutil

    for key in ("results_dir", "checkpoint_dir"):
        shutil.copytree(getattr(config, key), tmp_path / key)
    more = config.replace(
        trials_per_activation=4,
        results_dir=str(tmp_path / "results_dir"),
        checkpoint_dir=str(tmp_path / "checkpoint_dir"),
        plots_dir=str(tmp_path / "plots"),
    )
    again, models, _ = train.run_experiment(more, "smelu_05", quiet=True)
    assert len(models) == 4 and len(again["reproducibility_metrics"]) == 6
    assert [t["weights_sha256"] for t in again["trials"][:3]] == [t["weights_sha256"] for t in results["trials"]]


def test_batches_of_different_steps_are_independent(smoke_config):
    """Streams of neighbouring steps share no window: overlapping counters once repeated half of every batch."""
    corpus = load_corpus(smoke_config)
    batches = trials.Batches(corpus.train, smoke_config, seed=7)
    starts = [set(trials.stream(7, "order", t).integers(0, 10**9, 16).tolist()) for t in range(50)]
    assert sum(len(a & b) for i, a in enumerate(starts) for b in starts[:i]) == 0
    x, y = batches(3)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x, trials.Batches(corpus.train, smoke_config, seed=7)(3)[0])
    assert not torch.equal(x, batches(4)[0])


@pytest.mark.parametrize("vary", [("init",), ("order",), ("bit",), ("none",), ("init", "order", "dropout")])
def test_seeds_say_what_varies(vary):
    config = Config(preset="smoke", device="cpu", vary=vary)
    first, third = trials.trial_seeds(config, 1), trials.trial_seeds(config, 3)
    assert first == {"init": 1337, "order": 1337, "dropout": 1337, "bit": None}
    for source in ("init", "order", "dropout"):
        assert third[source] == (1339 if source in vary else 1337)
    assert third["bit"] == (3 if "bit" in vary else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_moves_one_weight_by_one_unit_in_the_last_place(smoke_config, dtype):
    from models.architectures import build_model

    plain, moved = (build_model(smoke_config, "relu", 30, seed=1) for _ in range(2))
    trials.move_one_bit(moved, 2, 1, dtype)
    changed = 0
    for a, b in zip(plain.parameters(), moved.parameters(), strict=True):
        different = (a.to(dtype) != b.to(dtype)).nonzero()
        changed += len(different)
        for place in different:
            x, y = a[tuple(place)].to(dtype), b[tuple(place)].to(dtype)
            step = torch.tensor(torch.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(abs(x.item())))
            assert abs(x.double() - y.double()).item() == pytest.approx(step.item(), rel=1e-6)
    assert changed == 1


# -- what the models write ----------------------------------------------------------------------------------------


def test_samples_of_the_healthy_trials_by_their_numbers(finished, tmp_path, capsys):
    """Trial 2 was removed and trial 4 diverged: 1 and 3 are shown as 1 and 3."""
    config = finished[0].replace(checkpoint_dir=str(tmp_path))
    for k in (1, 3):
        saved = storage.load_checkpoint(storage.checkpoint_path(finished[0].checkpoint_dir, "smelu_05", k))
        storage.save_checkpoint(storage.checkpoint_path(tmp_path, "smelu_05", k), saved)
    storage.save_checkpoint(storage.checkpoint_path(tmp_path, "smelu_05", 4), {**saved, "trial": 4, "weights": {}})
    print_samples(config, "smelu_05", "ka", characters=20)
    out = capsys.readouterr().out
    assert re.match(r"trial 1 +│ trial 3", out)
    assert "trial 4 diverged" in out and "trial 2" not in out


# -- the ways of starting it --------------------------------------------------------------------------------------


def snippet(config: Config) -> str:
    """Python that runs one experiment; no `__main__` guard anywhere."""
    return (
        "from config import Config\nfrom train import run_experiment\n"
        f"config = Config.from_dict({config.to_dict()!r})\n"
        "results, models, tokenizer = run_experiment(config, 'relu', quiet=True)\n"
        "print('PD', results['avg_relative_pd'], len(models))\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "stdin", "repl", "thread"])
def test_it_runs_from(way, smoke_config, tmp_path):
    config = smoke_config.replace(trials_per_activation=2, workers=1)
    code = snippet(config)
    (tmp_path / "unguarded.py").write_text(code, encoding="utf-8")
    body = "".join(f"    {line}\n" for line in code.splitlines())
    threaded = f"import threading\ndef work():\n{body}\nt = threading.Thread(target=work); t.start(); t.join()"
    ways = {"script": ["unguarded.py"], "stdin": ["-"], "repl": ["-i"], "thread": ["-c", threaded]}
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "check": True}
    done = programs.fresh(*ways[way], input=code if way in ("stdin", "repl") else None, **options)
    assert "PD 0." in done.stdout and done.stdout.rstrip().endswith("2"), done.stderr


@pytest.mark.slow
def test_it_runs_from_a_notebook(smoke_config, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    config = smoke_config.replace(trials_per_activation=2, workers=1)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + snippet(config))]
    )
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert "PD 0." in str(notebook.cells[0].outputs)


@pytest.mark.slow
def test_a_whole_study_on_the_command_line(smoke_config, capsys):
    """All five activations end with every file of the contract, and the checklist passes."""
    import analyze_results

    folders = [
        f"--{key.replace('_', '-')}={getattr(smoke_config, key)}"
        for key in ("dataset", "data_dir", "results_dir", "plots_dir", "checkpoint_dir")
    ]
    assert train.main(["--preset", "smoke", "--device", "cpu", "--max-iters", "120", "--n-embd", "32", *folders]) == 0
    out = capsys.readouterr().out
    assert "15 trials to train" in out
    results, plots = Path(smoke_config.results_dir), Path(smoke_config.plots_dir)
    assert len(list(results.glob("*_results.json"))) == 5
    assert len(list(Path(smoke_config.checkpoint_dir).glob("*/trial_?.pt"))) == 15
    assert (results / "summary.csv").exists() and (results / "FINAL_REPORT.md").exists()
    assert (plots / "comprehensive_comparison.png").exists() and (plots / "pd_ratios.png").exists()
    assert analyze_results.main(["--check", *folders[2:]]) == 0, capsys.readouterr().out
    assert analyze_results.main(["--verify", *folders[1:]]) == 0, capsys.readouterr().out
