"""Results as the analysis reads them, and PD at equal loss, against NumPy on the same files."""

import itertools
import json

import pytest

import analyze_results
import storage
from analysis.results import (
    Measured,
    load_all_results,
    matrix,
    measure,
    seeds_shared,
)
from analysis.study import Study
from config import UserError
from synthetic import STUDY, minimal_results, synthetic_results, synthetic_study, write_study

# -- reading ----------------------------------------------------------------------------------------------------------


def test_loads_in_the_order_of_the_study(tmp_path):
    study = synthetic_study((*STUDY[::-1], "tanh", "mish"))
    loaded = load_all_results(write_study(tmp_path, study))
    assert list(loaded) == [*STUDY, "mish", "tanh"]
    assert loaded["relu"]["trials"] == study["relu"]["trials"]


def test_loads_files_of_another_tool(tmp_path):
    path = tmp_path / "anything_results.json"  # a name of its own, and NaN tokens
    results = minimal_results("relu")
    results["trials"][0]["train_accuracy"] = float("nan")
    path.write_text(json.dumps(results), encoding="utf-8")
    loaded = load_all_results(tmp_path)
    assert list(loaded) == ["relu"]
    assert loaded["relu"]["trials"][0]["train_accuracy"] is None


def test_no_folder_no_results(tmp_path):
    assert load_all_results(tmp_path) == {}
    with pytest.raises(UserError, match="no such folder"):
        load_all_results(tmp_path / "missing")
    with pytest.raises(UserError, match="no results"):
        measure({})


@pytest.mark.parametrize("content", ["", "{", '{"activation": "relu"}', "[]", "\x00\x01"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    write_study(tmp_path, synthetic_study(("relu",)))
    (tmp_path / "gelu_results.json").write_text(content, encoding="utf-8")
    with pytest.raises(storage.StorageError, match="gelu_results.json") as caught:
        load_all_results(tmp_path)
    assert "\n" not in str(caught.value)


def changed(key, value, within=None):
    def change(results):
        (results[within] if within else results)[key] = value

    return change


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([changed("fingerprint", "0" * 64), changed("max_iters", 500, "config")], r"max_iters \(1000 and 500\)"),
        ([changed("fingerprint", "0" * 64)], "fingerprint"),
        ([changed("sha256", "0" * 64, "dataset")], "the corpus"),
        ([changed("sha256", "0" * 64, "evaluation")], "the positions evaluated"),
    ],
)
def test_mixed_folders_are_refused(tmp_path, changes, named):
    study = synthetic_study()
    for change in changes:
        change(study["gelu"])
    write_study(tmp_path, study)
    with pytest.raises(UserError, match=named) as caught:
        load_all_results(tmp_path)
    assert "gelu" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=named):  # nor when put together in memory
        measure(study)


def test_the_wrong_name_and_two_of_a_name_are_refused(tmp_path):
    write_study(tmp_path, synthetic_study(("relu", "gelu")))
    (tmp_path / "gelu_results.json").replace(tmp_path / "swish_results.json")
    with pytest.raises(UserError, match="swish_results.json: holds the results of gelu"):
        load_all_results(tmp_path)
    (tmp_path / "swish_results.json").unlink()
    (tmp_path / "z_results.json").write_text(json.dumps(minimal_results("relu")), encoding="utf-8")
    with pytest.raises(UserError, match="holds results of relu too"):
        load_all_results(tmp_path)


def written(folder, results, name="relu"):
    path = folder / f"{name}_results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "shakespeare"),
        ("evaluation", 5),
        ("audit", {"passed": "yes", "checks": None}),
        ("audit", [True]),
        ("parameters", "804k"),
        ("divergence", {"val_loss": None, "pairs": None}),
        ("divergence", {"val_loss": {"1": [1.0, 2.0]}, "pairs": {"1_vs_2": {"relative_pd": [0.1]}}}),
        ("fingerprint", {"sha": 1}),
        ("config", ["lr", 0.1]),
        ("environment", {"gpus": ["A", "B"]}),
        ("own_code", {"model": 5}),
        ("steps", "0, 100"),
        ("note", 10**400),
    ],
)
def test_an_optional_key_of_another_type_is_named_and_left_out(tmp_path, capsys, key, value):
    whole, odd = minimal_results("relu"), {**minimal_results("relu"), key: value}
    path = written(tmp_path, odd)
    (results,) = load_all_results(tmp_path).values()
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: left out: {key}") and said.count("\n") == 1
    assert [text.split("=")[0].split(".")[0].split(",")[0] for text in results["left_out"]] == [key]
    report = analyze_results.generate_final_report({"relu": results}, None)
    assert "left out of its results file" in report and key in report
    kept = {k: v for k, v in results.items() if k not in (key, "left_out")}
    assert kept == whole and results.get(key) in (None, {})  # {}: a part of it was wrong


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["trials"][1].update(seed=10**400), "trials[1].seed=an integer of 401 digits is more than 1e+100"),
        (lambda r: r.update(avg_val_loss=-(10**400)), "avg_val_loss=an integer of 401 digits is less than -1e+100"),
        (lambda r: r["reproducibility_metrics"][0].update(relative_pd=-0.1), "[0].relative_pd=-0.1 is less than 0"),
        (lambda r: r.update(model_name={"name": "x"}), "model_name={'name': 'x'} is not a string"),
        (lambda r: r.update(trials={}), "trials={} is not an array"),
        (lambda r: r["trials"][1].update(trial_id=1), "trial_id=1 is there twice"),
        (lambda r: r["trials"][1].update(trial_id=1.5), "trials[1].trial_id=1.5 is not an integer"),
        (lambda r: r["reproducibility_metrics"][0].update(model_pair="1 vs 3"), "model_pair=1_vs_3 is there twice"),
        (
            lambda r: r["reproducibility_metrics"][0].update(model_pair="2_vs_2"),
            "model_pair=2_vs_2 is not of two trials",
        ),
        (lambda r: r["reproducibility_metrics"][0].update(model_pair="first, last"), "model_pair='first, last'"),
        (lambda r: r.update(activation="a\nb"), "is not a name"),
    ],
)
def test_a_documented_key_of_another_type_refuses_the_file_in_one_line(tmp_path, change, named):
    results = minimal_results("relu")
    change(results)
    path = written(tmp_path, results)
    with pytest.raises(storage.StorageError) as caught:
        load_all_results(tmp_path)
    assert str(caught.value).startswith(f"{path}: not a results file: ") and "\n" not in str(caught.value)
    assert named in str(caught.value)


def test_a_seed_of_128_bits_is_a_seed(tmp_path):
    """As numpy.random.SeedSequence().entropy gives."""
    results = minimal_results("relu")
    results["trials"][0]["seed"] = 2**127 + 1
    written(tmp_path, results)
    table = analyze_results.results_frame(load_all_results(tmp_path))
    assert float(table["seed"].iloc[0]) == 2.0**127


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("results", [synthetic_results("relu"), minimal_results("relu")])
def test_byte_order_marks_and_line_ends_of_editors(tmp_path, encoding, results):
    path = storage.write_results(results, tmp_path)
    before = load_all_results(tmp_path)
    path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    assert load_all_results(tmp_path) == before


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path):
    path = written(tmp_path, {**minimal_results("relu"), "model_name": "tiny \ud800 model"})
    (results,) = load_all_results(tmp_path).values()
    assert results["model_name"] == "tiny \ufffd model"
    analyze_results.generate_final_report({"relu": results}, tmp_path / "FINAL_REPORT.md")
    assert path.exists()


FOREIGN = {
    "eval_results.json": json.dumps({"epoch": 3.0, "eval_loss": 1.2}),
    "all_results.json": json.dumps({"epoch": 3.0, "train_loss": 1.1}),
    "list_results.json": "[1, 2]",
    "test_results.json": '"text"',
}


def test_hidden_files_are_ignored_and_files_that_are_no_results_named(tmp_path, capsys):
    study = synthetic_study(("relu", "gelu"))
    write_study(tmp_path, study)
    (tmp_path / "._relu_results.json").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (tmp_path / ".relu_results.json").write_text("{", encoding="utf-8")
    for name, text in FOREIGN.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("Copy of relu_results.json", "relu-laptop-relu_results.json", "relu_results (1).json"):
        (tmp_path / name).write_bytes((tmp_path / "relu_results.json").read_bytes())
    assert list(load_all_results(tmp_path)) == ["relu", "gelu"]
    said = capsys.readouterr().err
    for name in FOREIGN:
        assert f"{name}: left out: it is no results file" in said
    assert "Copy of relu_results.json: left out: a copy of relu_results.json" in said and "._" not in said
    load_all_results(tmp_path)
    assert not capsys.readouterr().err  # once is enough


def test_what_is_damaged_is_not_left_out(tmp_path):
    """A results file of ours, by its place or its contents, stops the analysis however little of it is left."""
    study = synthetic_study(("relu", "gelu"))
    for name, text in {
        "gelu_results.json": "[]",
        "smelu_0.7_results.json": '{"epoch": 1}',
        "package.module--mine_results.json": "{}",
        "eval_results.json": '{"epoch": 1',  # no JSON: it may have been ours
        "other_results.json": '{"trials": []}',
    }.items():
        folder = write_study(tmp_path / name, {"relu": study["relu"]})
        (folder / name).write_text(text, encoding="utf-8")
        with pytest.raises(storage.StorageError, match=name) as caught:
            load_all_results(folder)
        assert "\n" not in str(caught.value)
    edited = write_study(tmp_path / "edited", study) / "relu_results.json"
    edited.write_text(
        edited.read_text(encoding="utf-8").replace('"avg_val_loss": 1', '"avg_val_loss": 2'), encoding="utf-8"
    )
    with pytest.raises(storage.StorageError, match="changed after it was written"):
        load_all_results(tmp_path / "edited")


def test_what_cannot_be_understood_is_an_error():
    results = synthetic_results("relu")
    results["reproducibility_metrics"][0]["model_pair"] = "first and second"
    with pytest.raises(UserError, match="model_pair='first and second'"):
        Measured("relu", results).pairs  # noqa: B018


def test_only_finished_trials_and_complete_pairs_count():
    diverged = Measured("relu", synthetic_results("relu", n_trials=4, diverged=(2,)))
    assert list(diverged.trials) == [1, 3, 4] and list(diverged.failed) == [2]
    assert diverged.pd_ids == [1, 3, 4]
    nan = synthetic_results("relu", n_trials=4)
    nan["trials"][3]["val_loss"] = float("nan")
    assert list(Measured("relu", nan).trials) == [1, 2, 3]
    incomplete = synthetic_results("relu", n_trials=4)
    incomplete["reproducibility_metrics"] = [
        p for p in incomplete["reproducibility_metrics"] if p["model_pair"] not in ("1_vs_3", "1_vs_4")
    ]
    assert Measured("relu", incomplete).pd_ids == [2, 3, 4]
    assert Measured("relu", synthetic_results("relu", n_trials=1)).pd_ids == []


def test_the_design_decides_on_pairing():
    a, b = (Measured(name, synthetic_results(name)) for name in ("relu", "gelu"))
    assert seeds_shared(a, b)
    assert seeds_shared(a, Measured("gelu", synthetic_results("gelu", n_trials=5)))
    for t in b.results["trials"]:
        t["seed"] += 10
    b = Measured("gelu", b.results)
    assert not seeds_shared(a, b)
    for t in (*a.results["trials"], *b.results["trials"]):
        t["seed"] = None
    assert not seeds_shared(*(Measured(m.name, m.results) for m in (a, b)))


# -- one training counted twice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("audit", ["passed", "forged", "none"])
def test_two_trials_that_are_one_training_are_unfit_whatever_the_audit_says(tmp_path, recorded, audit):
    study = synthetic_study(n_trials=4)
    relu = study["relu"]
    twice = {**relu["trials"][1], "trial_id": 4, "seed": relu["trials"][3]["seed"]}
    relu["trials"][3] = twice
    if not recorded:  # by another tool: all digits of the losses and curves are the same
        for trial in relu["trials"]:
            del trial["weights_sha256"]
    if audit == "forged":
        relu["audit"] = {"passed": True, "checks": [{"name": "distinct", "status": "pass"}]}
    elif audit == "none":
        del relu["audit"]
    found = measure(study)
    assert found["relu"].unfit == "its audit failed (distinct)" and not found["gelu"].unfit
    assert "trials 2 and 4 are one training" in found["relu"].not_distinct["distinct"]
    made = Study(study)
    assert "relu" not in made.fit and not any(t.tests for t in made.tests if t.primary)
    assert all(reason == found["relu"].unfit for reason in made.rank().excluded.values())
    assert "relu" not in made.rank(without=4).ranks  # also where the copy is the trial left out
    text = analyze_results.generate_final_report(study, tmp_path / "FINAL_REPORT.md")
    assert "trials 2 and 4 are one training" in text
    relu["config"]["vary"] = ["none"]  # nothing differs between them, and none is claimed to
    assert not measure(study)["relu"].unfit


def test_a_training_under_two_names_is_unfit_under_both():
    study = synthetic_study()
    study["gelu"]["trials"][0]["weights_sha256"] = study["swish"]["trials"][2]["weights_sha256"]
    found = measure(study)
    unfit = {name: m.unfit for name, m in found.items() if m.unfit}
    assert unfit == dict.fromkeys(("gelu", "swish"), "its audit failed (distinct activations)")
    assert "SWISH" in str(found["gelu"].not_distinct).upper()


def test_trials_that_diverged_alike_are_no_copies():
    study = synthetic_study(diverged=(1, 2))
    for results in study.values():
        for trial in results["trials"][:2]:
            trial["weights_sha256"] = "00" * 32
    assert not any(m.not_distinct for m in measure(study).values())


def test_matrix_is_symmetric():
    values = {(i, j): float(10 * i + j) for i, j in itertools.combinations((2, 5, 7), 2)}
    assert matrix(values, [7, 2, 5]).tolist() == [[0, 27, 57], [27, 0, 25], [57, 25, 0]]
