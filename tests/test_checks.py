"""Planted defects in results and files, and the checks of what was trained that catch them."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch

import analyze_results
import metrics
import storage
import train
from analysis import checks
from config import Config, UserError
from conftest import TINY
from planted import assert_counted, measured, planted, status
from prepare_data import load_corpus
from synthetic import minimal_results, synthetic_results, synthetic_study
from training import experiment

# -- after training -----------------------------------------------------------------------------------------------


def caught(mutate, check, make=synthetic_results):
    """Whether `check` fails on results that `mutate` changed, and passes on the same results without it."""
    assert status(checks.after_training(make()))[check] == "pass"
    results = make()
    mutate(results)
    return status(checks.after_training(results))[check] == "fail"


def test_sound_results_pass_every_check():
    found = checks.after_training(synthetic_results())
    assert set(status(found).values()) == {"pass"}, [c for c in found if c["status"] != "pass"]
    assert all(isinstance(text, str) and text for check in found for text in check.values())


@pytest.mark.parametrize("trials", [0, 1, 2, 3])
def test_results_of_other_tools_are_not_blamed_for_what_they_lack(trials):
    results = minimal_results(n_trials=trials) if trials else minimal_results(n_trials=1, diverged=(1,))
    if not trials:
        results["trials"] = []
    found = checks.after_training(results)
    assert "fail" not in status(found).values(), found
    across = checks.across_activations({"relu": minimal_results("relu"), "gelu": minimal_results("gelu")})
    assert status(across)["distinct activations"] == "pass"
    assert "fail" not in status(across).values()


def set_trial(results, k, **values):
    results["trials"][k - 1].update(values)


def trial(**values):
    return lambda results: set_trial(results, 2, **values)


def every_trial(**values):
    return lambda results: [set_trial(results, k, **values) for k in (1, 2, 3)]


def pair(**values):
    return lambda results: results["reproducibility_metrics"][2].update(values)


def whole(**values):
    return lambda results: results.update(values)


SOLD_SHORT = {"val_loss": 0.008, "val_accuracy": 99.9, "train_loss": 0.008, "train_accuracy": 99.9}
DEFECTS = {  # what was planted: the check that must fail, and how it is planted
    "a model that always predicts a space, perfectly reproducible": (
        "degenerate",
        every_trial(val_loss=3.325, val_accuracy=14.5, distinct_argmax=1),
    ),
    "a model that learned only how frequent each token is": ("learning", trial(val_loss=3.352)),
    "accuracy no better than one token for all": ("degenerate", trial(val_accuracy=15.2)),
    "validation loss 0.0077 at 41 % accuracy": ("consistent", trial(val_loss=0.0077, val_accuracy=41.0)),
    "training loss 0.0077 at 41 % accuracy": ("consistent", trial(train_loss=0.0077, train_accuracy=41.0)),
    "loss 0.008 at 99.9 % accuracy: consistent, but no text allows it": ("suspicious loss", trial(**SOLD_SHORT)),
    "validation loss far below training loss": ("suspicious loss", trial(val_loss=0.8, train_loss=1.7)),
    "a PD above 1": ("consistent", pair(relative_pd=1.2)),
    "a PD that is not half of pd_l1": ("consistent", pair(relative_pd=0.05)),
    "a Hellinger distance that no two models have": ("consistent", pair(hellinger=0.9)),
    "a divergence that no two models have": ("consistent", pair(jensen_shannon=0.3)),
    "a share of mismatches that is not that of the counts": ("consistent", pair(top1_mismatch_pct=1.0)),
    "a difference in loss that is not that of the trials": ("consistent", pair(val_loss_difference=0.5)),
    "accuracies that differ by more than predictions": (
        "consistent",
        pair(prediction_differences=0, top1_mismatch_pct=0.0),
    ),
    "a mean that is not the mean of its trials: a diverged one averaged in, or a number edited": (
        "consistent",
        lambda results: results.update(avg_val_loss=results["avg_val_loss"] - 0.1),
    ),
    "NaN in a metric": ("finite", pair(relative_pd=math.nan)),
    "no loss of a finished trial": ("finite", trial(val_loss=None)),
    "infinity somewhere else": ("finite", lambda results: results["divergence"].update(positions=math.inf)),
    "pairs compared at different numbers of positions": ("same positions compared", pair(total_predictions=1000)),
    "a model against itself: PD 0.37": ("same positions compared", whole(self_prediction_difference=0.37)),
    "pairs missing from the mean": (
        "same positions compared",
        lambda results: results["reproducibility_metrics"].pop(),
    ),
    "a loss that only rises": (
        "learning curve",
        lambda results: results["trials"][1]["val_loss_history"].reverse(),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_of_results_is_caught(defect):
    check, mutate = DEFECTS[defect]
    assert caught(mutate, check)


@pytest.mark.parametrize("later, short", [(0.5, True), (0.01, False)])
def test_a_training_that_has_only_begun_is_called_short(later, short):
    """Not one that had arrived, nor one that another check fails: the loss falls by `later` over the second half."""

    results = synthetic_results(val_loss=3.4, spread=0.001)
    for trial in results["trials"]:
        trial |= {"steps": [0, 100, 200], "val_loss_history": [4.4, 3.35 + later, 3.35], "distinct_argmax": 1}
    found = {c["name"]: c for c in checks.after_training(results)}
    assert found["degenerate"]["status"] == found["learning"]["status"] == "fail"
    words = "too short a training: over the second half of 200 steps the loss still fell by 13 %"  # 0.5 of 3.85
    assert all((words in found[name]["measured"]) == short for name in ("degenerate", "learning"))
    set_trial(results, 1, val_loss=math.nan)
    assert not any("too short" in c["measured"] for c in checks.after_training(results))


def test_the_fewest_predictions_scale_with_the_text():
    """27 characters of names at 21 % accuracy: four tokens are no constant model; of English they would be."""

    def names(results):
        results["dataset"] |= {"unigram_entropy": 2.81, "val_unigram_cross_entropy": 2.92, "majority_accuracy": 12.0}
        for k in (1, 2, 3):
            set_trial(results, k, val_loss=2.6, val_accuracy=21.0, distinct_argmax=4)

    assert not caught(names, "degenerate")
    assert caught(lambda results: set_trial(results, 2, distinct_argmax=4), "degenerate")


def test_loss_bound_is_rigorous():
    """Random predictions never fall below (1 − accuracy) ln 2, and predictions of ½ and ½ reach it."""
    rng = np.random.default_rng(0)
    for sharpness, _ in itertools.product((0.1, 1.0, 10.0, 50.0), range(20)):
        z = sharpness * rng.standard_normal((50, rng.integers(2, 8)))
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        y = rng.integers(0, p.shape[1], 50)
        loss, accuracy = -np.log(p[np.arange(50), y]).mean(), (p.argmax(1) == y).mean()
        assert loss >= (1 - accuracy) * math.log(2)
    p = np.array([[0.5 + 1e-12, 0.5 - 1e-12]])  # wrong at the price of ln 2: no bound can be higher
    assert -math.log(p[0, 1]) == pytest.approx((1 - 0) * math.log(2), abs=1e-9)


def test_pair_bounds_hold_for_any_predictions():
    """Measured pairs of random predictions are never called impossible."""
    rng = np.random.default_rng(1)
    for sharpness in (0.01, 1.0, 30.0):
        p, q = (torch.softmax(torch.tensor(sharpness * rng.standard_normal((200, 5))), 1).numpy() for _ in range(2))
        pair = {"model_pair": "1_vs_2", **metrics.compare_predictions(p, q, rng.integers(0, 5, 200))}
        assert checks._impossible_pair(pair, {}, 1e-6) == []


def test_a_diverged_trial_is_named_not_blamed():
    found = checks.after_training(synthetic_results(diverged=(2,)))
    assert "fail" not in status(found).values()
    assert "trial 2 at step 400" in measured(found, "finite")
    everything = checks.after_training(synthetic_results(diverged=(1, 2, 3)))
    assert "fail" not in status(everything).values()


@planted("one checkpoint counted as two trials", "distinct")
def test_planted_duplicated_trial():
    def duplicate(results):
        first = results["trials"][0]
        results["trials"][1] = {**first, "trial_id": 2, "seed": first["seed"] + 1}

    assert caught(duplicate, "distinct")

    def same_results(results):  # what a tool sees that records no checksums
        duplicate(results)
        for t in results["trials"]:
            t.pop("weights_sha256")

    assert caught(same_results, "distinct")
    deliberate = synthetic_results()
    duplicate(deliberate)
    deliberate["config"]["vary"] = ["none"]
    assert status(checks.after_training(deliberate))["distinct"] == "not applicable"


@planted("a trial that is a copy but for rounding", "distinct")
def test_planted_near_copy():
    """One weight moved by a unit in the last place: another checksum, the same model."""

    def near_copy(results):
        results["reproducibility_metrics"][1]["relative_pd"] = 3e-8

    assert caught(near_copy, "distinct")

    def one_bit(results):
        near_copy(results)
        results["config"]["vary"] = ["bit"]  # where it may still be so after a short training

    assert not caught(one_bit, "distinct")


@planted("two trials of one seed", "distinct")
def test_planted_seed_twice():
    def same_seed(results):
        results["trials"][2]["seed"] = results["trials"][0]["seed"]

    assert caught(same_seed, "distinct")
    assert "trials 1 and 3 have the same seed" in measured(checks.after_training(changed(same_seed)), "distinct")


def changed(mutate):
    results = synthetic_results()
    mutate(results)
    return results


def cautioned(mutate, name):
    """What a check says that is a caution on results that `mutate` changed, and passes without it."""
    assert status(checks.after_training(synthetic_results()))[name] == "pass"
    found = checks.after_training(changed(mutate))
    assert status(found)[name] == "caution" and "fail" not in status(found).values()
    return measured(found, name)


@planted("trials of different machines", "one machine")
@pytest.mark.parametrize(
    ("what", "value"),
    [("torch", "1.13"), ("device_name", "another processor"), ("precision", "float32"), ("compiler", "g++ 13")],
)
def test_planted_machines_that_differ(what, value):
    def mixed(results):
        for t in results["trials"][1:]:
            t["environment"][what] = value

    assert f"{value} (trial 2, trial 3)" in cautioned(mixed, "one machine")
    study = synthetic_study()
    mixed(study["gelu"])
    study["gelu"]["audit"]["checks"] += checks.after_training(study["gelu"])
    text = analyze_results.generate_final_report(study, None)
    assert "not the same for all trials" in text and f"{value} (trial 2, trial 3)" in text
    assert "a confound" in text and f"{value} (gelu)" in text


def test_machines_that_differ_from_trial_to_trial_are_no_confound_where_they_are_the_same_for_all():
    study = synthetic_study()
    for results in study.values():
        results["trials"][1]["environment"]["device_name"] = "another processor"
    assert status(checks.across_activations(study))["same machines across activations"] == "pass"
    assert status(checks.after_training(study["relu"]))["one machine"] == "caution"
    study["relu"]["trials"][0]["environment"], study["relu"]["trials"][1]["environment"] = (
        study["relu"]["trials"][1]["environment"],
        study["relu"]["trials"][0]["environment"],
    )
    found = checks.across_activations(study)
    assert status(found)["same machines across activations"] == "caution"
    assert "device_name" in measured(found, "same machines across activations")


@planted("3 % of the validation text unseen in training", "unseen characters")
def test_planted_unseen_characters():
    def unseen(results):
        results["dataset"]["unseen_val_tokens"] = 14_400

    assert "3 % of the validation tokens" in cautioned(unseen, "unseen characters")
    study = synthetic_study()
    unseen(study["relu"])
    study["relu"]["audit"]["checks"] += checks.after_training(study["relu"])
    assert "3 % of the validation tokens never occur" in analyze_results.generate_final_report(study, None)

    def characters(results):  # of a byte tokenizer, to which no token is unseen
        results["dataset"] |= {"unseen_val_characters": 3000, "val_characters": 100_000}

    assert "3 % of the validation characters" in cautioned(characters, "unseen characters")


def test_the_order_of_training_is_reported():
    study = synthetic_study(("relu", "gelu", "swish"))
    assert status(checks.across_activations(study))["order of training"] == "not applicable"
    for place, name in enumerate(("gelu", "relu", "swish")):
        for k, t in enumerate(study[name]["trials"]):
            t.update(ended=1000.0 + 100 * place + 30 * k, total_time=29.0)
    found = checks.across_activations(study)
    assert "one activation after another: gelu, relu, swish" in measured(found, "order of training")
    study["relu"]["trials"][1]["ended"] += 500
    assert "side by side" in measured(checks.across_activations(study), "order of training")


def test_a_loss_that_still_falls_is_not_called_converged():
    results = synthetic_results()
    for t in results["trials"]:
        t["val_loss_history"] = [4.3 - 0.024 * k for k in range(11)]
    found = checks.after_training(results)
    assert "changes by -0.0240, -0.0240, -0.0240 nats in a tenth of training" in measured(found, "learning curve")
    assert not any("converge" in text for check in found for text in check.values())


def test_slope_of_the_last_third_is_reported():
    results = synthetic_results(n_trials=1)
    results["trials"][0].update(val_loss_history=[4.0, 3.0, 2.0, 1.9, 1.8, 1.7], steps=[0, 20, 40, 60, 80, 100])
    # 0.1 nats per 20 steps; a tenth of training is 10 steps
    assert "-0.0500" in measured(checks.after_training(results), "learning curve")


# -- across activations -------------------------------------------------------------------------------------------


def caught_across(mutate, check):
    assert status(checks.across_activations(synthetic_study()))[check] == "pass"
    study = synthetic_study()
    mutate(study)
    return status(checks.across_activations(study))[check] == "fail"


@planted("identical results for two activations, written up as a discovery", "distinct activations")
def test_planted_identical_results_for_two_activations():
    def identical(study):
        study["swish"] = {**study["gelu"], "activation": "swish"}

    assert caught_across(identical, "distinct activations")

    def one_shared_trial(study):
        study["swish"]["trials"][2] = study["gelu"]["trials"][1]

    assert caught_across(one_shared_trial, "distinct activations")

    def without_checksums(study):
        identical(study)
        for results in study.values():
            results["trials"] = [{k: v for k, v in t.items() if k != "weights_sha256"} for t in results["trials"]]

    assert caught_across(without_checksums, "distinct activations")


@planted("activations evaluated on different windows", "same positions across activations")
def test_planted_different_windows_per_activation():
    assert caught_across(
        lambda study: study["gelu"]["evaluation"].update(sha256="0" * 64), "same positions across activations"
    )


@planted("runs of different settings in one folder, averaged", "same settings")
def test_planted_mixed_settings(tmp_path):
    def other(study):
        study["gelu"]["fingerprint"] = "0" * 64
        study["gelu"]["config"]["max_iters"] = 500

    assert caught_across(other, "same settings")
    study = synthetic_study()
    other(study)
    assert "max_iters" in measured(checks.across_activations(study), "same settings")
    assert caught_across(lambda study: study["relu"]["dataset"].update(sha256="0" * 64), "same settings")
    for results in study.values():
        storage.write_results(results, tmp_path)
    with pytest.raises(UserError, match="max_iters"):
        analyze_results.load_all_results(tmp_path)


@planted("31 % more parameters for one activation", "parameters across activations")
def test_planted_unequal_parameters():
    assert caught_across(lambda study: study["gelu"].update(parameters=1_053_000), "parameters across activations")


# -- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_file, data_dir):
    """Three short trials of relu and one of gelu, trained once. (config, corpus)"""
    folder = tmp_path_factory.mktemp("trained")
    config = Config(
        **TINY,
        dataset=str(corpus_file),
        data_dir=str(data_dir),
        checkpoint_dir=str(folder / "checkpoints"),
        results_dir=str(folder / "results"),
        device="cpu",
    )
    corpus = load_corpus(config)
    for name, k in (("relu", 1), ("relu", 2), ("relu", 3), ("gelu", 1)):
        train.train_trial(config, name, k, corpus)
    return config, corpus


@pytest.fixture
def files(trained, tmp_path):
    """(config, corpus, path of trial k of an activation) on a copy that a test may damage."""
    config, corpus = trained
    shutil.copytree(config.checkpoint_dir, tmp_path / "checkpoints")
    config = config.replace(checkpoint_dir=str(tmp_path / "checkpoints"), results_dir=str(tmp_path / "results"))
    assert status(checks.after_training(experiment.measure(config, "relu", corpus)))["finite"] == "pass"
    return config, corpus, lambda name, k: storage.checkpoint_path(config.checkpoint_dir, name, k)


def test_a_trained_experiment_passes(trained):
    found = checks.after_training(experiment.measure(trained[0], "relu", trained[1]))
    assert set(status(found).values()) == {"pass"}, [c for c in found if c["status"] != "pass"]


def copied(source, target):
    return lambda path: shutil.copyfile(path(*source), path(*target))


def cut_at(share):
    def cut(path):
        data = path("relu", 2).read_bytes()
        path("relu", 2).write_bytes(data[: int(share * len(data))])

    return cut


def one_bit_flipped(path):
    data = bytearray(path("relu", 2).read_bytes())
    data[len(data) // 2] ^= 1
    path("relu", 2).write_bytes(data)


def with_weights(change):
    """Changes the weights of a checkpoint by `change(name, tensor)`, brings its record along, and seals it anew."""

    def changed(path):
        contents = storage.load_checkpoint(path("relu", 2))
        contents["weights"] = {name: change(name, w.clone()) for name, w in contents["weights"].items()}
        contents["record"]["weights_sha256"] = storage.contents_sha256(contents["weights"])
        storage.save_checkpoint(path("relu", 2), contents)

    return changed


def exchanged_weights(path):
    contents, other = (storage.load_checkpoint(path("relu", k)) for k in (2, 3))
    storage.save_checkpoint(path("relu", 2), {**contents, "weights": other["weights"]})


DAMAGE = {  # what happened to a checkpoint: how it comes about, and what its reading says
    "trial_1.pt copied to trial_2.pt": (copied(("relu", 1), ("relu", 2)), "trial_2.*swapped"),
    "the checkpoint of another activation": (copied(("gelu", 1), ("relu", 1)), "swapped"),
    **{f"cut at {share:.4g} of its length": (cut_at(share), "trial_2") for share in (0, 0.001, 0.5, 0.99999)},
    "one bit flipped": (one_bit_flipped, "trial_2"),
    "NaN weights": (
        with_weights(lambda name, w: w.fill_(math.nan) if name == "ln_f.weight" else w),
        "trial_2.*not finite",
    ),
    "weights exchanged under the record of another training": (exchanged_weights, "trial_2.*not those"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(files, damage):
    config, corpus, path = files
    happen, message = DAMAGE[damage]
    happen(path)
    with pytest.raises(storage.StorageError, match=message):
        experiment.measure(config, "relu", corpus)


@planted("a copied checkpoint, relabelled and sealed anew", "distinct")
def test_planted_relabelled_copy(files):
    config, corpus, path = files
    contents = storage.load_checkpoint(path("relu", 1))
    contents["trial"] = contents["record"]["trial_id"] = 2
    storage.save_checkpoint(path("relu", 2), contents)
    assert status(checks.after_training(experiment.measure(config, "relu", corpus)))["distinct"] == "fail"


@planted("a constant model in place of a trained one", "degenerate and learning")
def test_planted_constant_model_in_a_checkpoint(files):
    config, corpus, path = files
    with_weights(lambda name, w: w.zero_())(path)
    found = checks.after_training(experiment.measure(config, "relu", corpus))
    assert status(found)["degenerate"] == status(found)["learning"] == "fail"


@planted("a checkpoint trained with other settings", "UserError")
def test_planted_checkpoint_of_other_settings(files):
    config, corpus, _ = files
    other = config.replace(learning_rate=config.learning_rate / 2)
    with pytest.raises(UserError, match="learning_rate"):
        experiment.measure(other, "relu", corpus)
    with pytest.raises(UserError, match="learning_rate"):
        train.train_trial(other, "relu", 1, corpus)


@planted("a results file edited by hand", "StorageError: checksum")
def test_planted_edited_results(tmp_path):
    path = storage.write_results(synthetic_results("relu"), tmp_path)
    assert storage.read_results(path)["activation"] == "relu"
    text = path.read_text(encoding="utf-8")
    number = repr(synthetic_results("relu")["avg_val_loss"])
    assert number in text
    path.write_text(text.replace(number, "1.5"), encoding="utf-8")
    with pytest.raises(storage.StorageError, match="changed after it was written"):
        storage.read_results(path)


@planted("the results of one activation filed under another's name", "UserError")
def test_planted_results_under_another_name(tmp_path):
    shutil.move(storage.write_results(synthetic_results("relu"), tmp_path), storage.results_path(tmp_path, "gelu"))
    with pytest.raises(UserError, match="relu"):
        analyze_results.load_all_results(tmp_path)


def test_the_planted_defects_are_counted():
    assert_counted(globals(), least=10)
    assert len(DEFECTS) + len(DAMAGE) > 25
