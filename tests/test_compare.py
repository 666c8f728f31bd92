"""compare.py: models from elsewhere against an independent computation, and what it refuses."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import metrics
import storage
from compare import compare_models, exceeded, main
from config import UserError
from conftest import pseudo_english
from questions.foreign import dumps, measure, tell, windows
from questions.foreign.results import interval, loss_increase

transformers = pytest.importorskip("transformers")
from own_models import (  # noqa: E402
    CONTEXT,
    KINDS,
    byte_tokenizer,
    config_of,
    predictions,
    save,
    trained,
    trained_by_trainer,
)

ROOT = Path(__file__).resolve().parent.parent
POSITIONS = 512
TEXT = pseudo_english(64_000)[60_000:]  # goes on where the corpus ends


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield


@pytest.fixture(scope="module")
def models(corpus_file):
    """{kind: three models}, by seed."""
    text = corpus_file.read_text(encoding="utf-8")
    return {kind: [trained(kind, text, seed) for seed in (1, 2, 3)] for kind in KINDS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, models):
    """A folder: {kind}/seed_{k} of each model, and the text."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "my.txt").write_text(TEXT, encoding="utf-8")
    for kind, seeds in models.items():
        for k, model in enumerate(seeds, 1):
            save(model, folder / kind / f"seed_{k}")
    return folder


def members(runs, kind, seeds=(1, 2, 3)):
    return [runs / kind / f"seed_{k}" for k in seeds]


def compared(runs, out, groups=None, **options):
    groups = groups or {"gpt2": members(runs, "gpt2"), "llama": members(runs, "llama")}
    options = {"positions": POSITIONS, "report": False, **options}
    return compare_models(groups, runs / "my.txt", out=out, device="cpu", **options)


def same_numbers(entry, expected, rel, abs=1e-7):
    for key, value in expected.items():
        if isinstance(value, float | int):
            assert entry[key] == pytest.approx(value, rel=rel, abs=abs), key


@pytest.fixture(scope="module")
def all_kinds(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("all_kinds")
    return compared(runs, out, {kind: members(runs, kind) for kind in KINDS}, report=True), out


# -- the numbers --------------------------------------------------------------------------------------------------


def test_every_pair_is_what_its_predictions_say(all_kinds, models):
    """Against compare_predictions in float64 on predictions that were computed window by window."""
    comparison, _ = all_kinds
    every = [predictions(model, TEXT, POSITIONS) for kind in KINDS for model in models[kind]]
    names = [f"{kind}/seed_{k}" for kind in KINDS for k in (1, 2, 3)]
    assert [m["member"] for m in comparison.members] == names
    assert len(comparison.pairs) == 36
    for pair in comparison.pairs:
        (p, targets), (q, _) = every[names.index(pair["a"])], every[names.index(pair["b"])]
        same_numbers(pair, metrics.compare_predictions(p, q, targets), 2e-5)
    for member, (p, targets) in zip(comparison.members, every, strict=True):
        assert member["val_loss"] == pytest.approx(-np.log(p[np.arange(len(p)), targets]).mean(), rel=1e-5)
        assert member["val_accuracy"] == pytest.approx(100 * (p.argmax(1) == targets).mean())
    for k, kind in enumerate(KINDS):
        together = np.stack([p for p, _ in every[3 * k : 3 * k + 3]])
        exact = metrics.set_prediction_difference(together)
        assert comparison.results[kind]["set_prediction_difference"] == pytest.approx(exact, rel=1e-5)


def test_the_statistics_over_windows_are_those_of_the_study(runs, models):
    """Standard errors, blocks and halves as evaluate_models has them."""

    class Ours(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, idx):
            return self.model(input_ids=idx).logits

    tokens = np.frombuffer(TEXT.encode(), np.uint8)
    starts = metrics.evaluation_windows(len(tokens), CONTEXT, POSITIONS)
    exact = metrics.evaluate_models([Ours(m) for m in models["gpt2"]], tokens, starts, CONTEXT)
    mine = compared(runs, runs / "statistics", {"gpt2": members(runs, "gpt2")}).results["gpt2"]
    for entries, others in ((mine["reproducibility_metrics"], exact.pairs), (mine["trials"], exact.models)):
        for entry, other in zip(entries, others, strict=True):
            for key, value in other.items():
                if key != "finite":
                    np.testing.assert_allclose(entry[key], value, rtol=2e-5, atol=1e-8, err_msg=key)
    assert mine["evaluation"]["sha256"] == metrics.windows_checksum(tokens, starts, CONTEXT)


def test_the_files_are_read_by_everything_else(all_kinds):
    from analyze_results import calculate_statistical_significance, load_all_results, rank_activations

    comparison, out = all_kinds
    everything = load_all_results(out / "results")
    assert set(everything) == set(KINDS)
    assert all(results["audit"]["passed"] for results in everything.values()), everything
    tests = calculate_statistical_significance(everything)
    assert len(tests) == 3 and set(tests["Seeds"]) == {"not shared"}
    assert rank_activations(everything).empty  # nobody recorded how long training took
    report = (out / "results" / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert all(kind in report for kind in KINDS) and "nan" not in report.lower().split()
    for name in ("matrix.csv", "matrix.json", "summary.csv", "significance.csv", "results.parquet"):
        assert (out / "results" / name).is_file()
    assert (out / "plots" / "gpt2_reproducibility.png").is_file()
    page = (out / "plots" / "disagreement.html").read_text(encoding="utf-8")
    assert all(f'"{kind}/seed_{k}"' in page for kind in KINDS for k in (1, 2, 3))
    assert "](../plots/disagreement.html)" in report
    frame = pd.read_parquet(out / "results" / "results.parquet")
    assert len(frame) == 9 + 9
    matrix = pd.read_csv(out / "results" / "matrix.csv", index_col=0)
    assert list(matrix.index) == list(matrix.columns) == [m["member"] for m in comparison.members]
    assert np.allclose(matrix, matrix.T) and not np.diag(matrix).any()
    assert np.allclose(matrix.to_numpy(), comparison.matrix.to_numpy())
    stored = storage.read_json(out / "results" / "matrix.json")
    within = [p["relative_pd"] for p in comparison.pairs if p["a"][:4] == p["b"][:4] == "gpt2"]
    assert stored["mean_relative_pd"]["gpt2"]["gpt2"] == pytest.approx(np.mean(within))
    assert not (out / "spool").exists()


@pytest.mark.parametrize("model", KINDS)
def test_a_member_is_the_same_at_any_batch_size_and_nearly_in_bfloat16(runs, model, tmp_path):
    group = {"a": members(runs, model, (1, 2))}
    one = compared(runs, tmp_path / "1", group, batch_size=1).results["a"]
    many = compared(runs, tmp_path / "16", group, batch_size=16).results["a"]
    half = compared(runs, tmp_path / "half", group, dtype="bfloat16").results["a"]
    exact = one["avg_relative_pd"]
    assert many["avg_relative_pd"] == pytest.approx(exact, rel=1e-5)
    assert half["avg_relative_pd"] == pytest.approx(exact, rel=0.05)
    for trial in many["trials"]:
        assert trial["own_pd_batch"] < 1e-6 and trial["own_pd_dtype"] is None
    for trial in half["trials"]:
        assert 0 < trial["own_pd_dtype"] < 0.02


# -- at any size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bytes_", [100 * 3 * 1024, 3 * 1024 * CONTEXT * 5, 7 * 3 * 1024])
def test_small_chunks_change_no_number(runs, tmp_path, bytes_):
    """Windows in parts, five at a time, seven positions at a time; a position of three models takes 3 KiB."""
    group = {"gpt2": members(runs, "gpt2")}
    whole = compared(runs, tmp_path / "whole", group, positions=128).results["gpt2"]
    parts = compared(runs, tmp_path / "parts", group, positions=128, max_spool_gb=bytes_ / 2**30).results["gpt2"]
    for key in ("reproducibility_metrics", "trials"):
        for a, b in zip(whole[key], parts[key], strict=True):
            same_numbers(b, a, 1e-5)
    assert parts["set_prediction_difference"] == pytest.approx(whole["set_prediction_difference"], rel=1e-6)


def test_the_spool_keeps_to_its_limit(runs, tmp_path, monkeypatch):
    limit, largest = 3 * 1024 * CONTEXT * 2, []
    spool = measure._spool

    def watched(*arguments):
        spool(*arguments)
        largest.append(sum(p.stat().st_size for p in (tmp_path / "spool").glob("*.npy")))

    monkeypatch.setattr(measure, "_spool", watched)
    compared(runs, tmp_path, {"gpt2": members(runs, "gpt2")}, max_spool_gb=limit / 2**30)
    assert limit / 2 < max(largest) <= limit + 3 * 128  # the header of each file


def test_what_was_interrupted_goes_on_at_the_member_it_was_at(runs, tmp_path, monkeypatch):
    group, options = {"gpt2": members(runs, "gpt2")}, {"max_spool_gb": 3 * 1024 * CONTEXT * 4 / 2**30}
    whole = compared(runs, tmp_path / "whole", group, **options).results["gpt2"]
    spool, spooled = measure._spool, []

    def dying(member, *rest):
        if len(spooled) == 4:  # the second of the three members of the second chunk
            raise KeyboardInterrupt
        spool(member, *rest)
        spooled.append(member.name)

    monkeypatch.setattr(measure, "_spool", dying)
    with pytest.raises(KeyboardInterrupt):
        compared(runs, tmp_path / "cut", group, **options)
    monkeypatch.setattr(measure, "_spool", lambda member, *rest: (spooled.append(member.name), spool(member, *rest)))
    resumed = compared(runs, tmp_path / "cut", group, **options).results["gpt2"]
    assert spooled == ["gpt2/seed_1", "gpt2/seed_2", "gpt2/seed_3"] * 4  # 512 positions in chunks of 128
    assert resumed["reproducibility_metrics"] == whole["reproducibility_metrics"]
    assert [t["val_loss"] for t in resumed["trials"]] == [t["val_loss"] for t in whole["trials"]]


def test_sums_of_other_members_are_not_gone_on_from(runs, tmp_path):
    first = compared(runs, tmp_path, {"a": members(runs, "gpt2", (1, 2))}).results["a"]
    second = compared(runs, tmp_path, {"a": members(runs, "gpt2", (1, 3))}).results["a"]
    assert first["avg_relative_pd"] != second["avg_relative_pd"]


# -- as people have them ------------------------------------------------------------------------------------------


def as_the_first_two(runs, tmp_path, paths, **options):
    """The results of a group whose numbers are those of gpt2's first two members as they are."""
    results = compared(runs, tmp_path / "out", {"a": paths}, **options).results["a"]
    expected = compared(runs, tmp_path / "expected", {"a": members(runs, "gpt2", (1, 2))}).results["a"]
    assert results["avg_relative_pd"] == pytest.approx(expected["avg_relative_pd"], rel=1e-5)
    assert results["avg_val_loss"] == pytest.approx(expected["avg_val_loss"], rel=1e-6)
    return results


def checks(results):
    return {check["name"]: check for check in results["audit"]["checks"]}


def test_what_is_sound_is_said(all_kinds):
    """The checks of each member by itself, in the table that our own audit has."""
    assert not any(map(alarms, all_kinds[0].results.values()))
    rows = checks(all_kinds[0].results["llama"])
    assert rows["causal"]["status"] == "pass" and "9 members move by at most 0 of" in rows["causal"]["measured"]
    assert "every weight of 9 members' files" in rows["weights taken"]["measured"]
    assert "gives 100 % of the text" in rows["text given back"]["measured"]
    assert rows["same positions compared"]["status"] == "pass"


def test_a_decoder_is_causal_and_its_masked_kin_is_refused(runs, tmp_path):
    results = compared(runs, tmp_path / "out", {"a": [save(bert(True), tmp_path / "decoder")]}).results["a"]
    assert checks(results)["causal"]["status"] == "pass"


def nano_gpt(path, model=None, **arguments):
    """A checkpoint as nanoGPT's train.py leaves it, of a GPT-2 of transformers."""
    model = model or trained("gpt2", TEXT, 4, 0)
    c = model.config
    sizes = {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "block_size": c.n_positions}
    weights = {}
    for name, weight in model.state_dict().items():
        transposed = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))  # Conv1D there, Linear here
        weights["_orig_mod." + name] = (weight.T if transposed else weight).contiguous()
    torch.save(
        {
            "model": weights,
            "optimizer": {"state": {}, "param_groups": []},
            "model_args": {**sizes, "bias": True, "vocab_size": c.vocab_size, "dropout": 0.0, **arguments},
            "iter_num": 100,
            "best_val_loss": torch.tensor(2.0),
            "config": {"dataset": "dialogue"},
        },
        path,
    )
    return path


def with_characters(path):
    """The checkpoint, with its data set's table of characters beside it."""
    table = {"stoi": {character: k for k, character in enumerate(sorted(set(TEXT)))}}
    (path.parent / "meta.pkl").write_bytes(pickle.dumps(table))
    return path


def test_checkpoints_of_nanogpt(tmp_path):
    """Against transformers' own GPT-2 with the exact GELU, of characters."""
    characters = {character: k for k, character in enumerate(sorted(set(TEXT)))}
    config = config_of("gpt2", len(characters))
    config.activation_function = "gelu"
    tokens, paths, predicted = np.array([characters[c] for c in TEXT]), [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():  # large enough for attention and GELU to matter
            parameter.data.normal_(0, 0.3)
        (tmp_path / f"out-{seed}").mkdir()
        with_characters(nano_gpt(tmp_path / f"out-{seed}/ckpt.pt", model))
        paths.append(tmp_path / f"out-{seed}")
        starts = metrics.evaluation_windows(len(tokens), CONTEXT, 128)
        windows = torch.from_numpy(tokens[starts[:, None] + np.arange(CONTEXT + 1)])
        with torch.no_grad():
            predicted.append(model(windows[:, :-1]).logits.double().softmax(-1).flatten(0, 1).numpy())
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    comparison = compare_models(
        {"a": paths}, tmp_path / "my.txt", out=tmp_path / "c", positions=128, device="cpu", report=False
    )
    same_numbers(comparison.pairs[0], metrics.compare_predictions(*predicted, windows[:, 1:].flatten()), 1e-4)
    assert [m["training_steps"] for m in comparison.members] == [100, 100] and comparison.members[0][
        "kind"
    ] == "nanoGPT"
    assert comparison.members[0]["parameters"] == model.num_parameters()
    (tmp_path / "out-2/meta.pkl").write_bytes(pickle.dumps({"stoi": Path("x")}))
    with pytest.raises(UserError, match="names pathlib.*which is not run"):
        compare_models({"a": paths}, tmp_path / "my.txt", out=tmp_path / "c", device="cpu")


def test_an_adapter_is_applied_to_its_base(runs, models, tmp_path):
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(runs / "gpt2/seed_1")
    parts = {"target_modules": ["c_attn", "c_fc"], "init_lora_weights": False, "fan_in_fan_out": True}
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, **parts)).eval()
    adapted.save_pretrained(tmp_path / "lora")
    byte_tokenizer().save_pretrained(tmp_path / "lora")
    comparison = compared(runs, tmp_path / "out", {"base": members(runs, "gpt2", (1,)), "tuned": [tmp_path / "lora"]})
    (p, targets), (q, _) = predictions(models["gpt2"][0], TEXT, POSITIONS), predictions(adapted, TEXT, POSITIONS)
    exact = metrics.compare_predictions(p, q, targets)
    assert comparison.pairs[0]["relative_pd"] == pytest.approx(exact["relative_pd"], rel=1e-5)
    assert comparison.members[1]["notes"] == [f"an adapter, applied to {runs / 'gpt2/seed_1'}"]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_prefixes_of_training_are_taken_off(runs, tmp_path, prefix, name):
    from safetensors.torch import load_file, save_file

    shutil.copytree(runs / "gpt2/seed_1", tmp_path / "wrapped")
    weights = load_file(tmp_path / "wrapped/model.safetensors")
    (tmp_path / "wrapped/model.safetensors").unlink()
    write = torch.save if name.endswith("bin") else partial(save_file, metadata={"format": "pt"})
    write({prefix + key: weight for key, weight in weights.items()}, tmp_path / "wrapped" / name)
    results = as_the_first_two(runs, tmp_path, [tmp_path / "wrapped", *members(runs, "gpt2", (2,))])
    assert f"begin with {prefix!r}, which was taken off" in checks(results)["weights taken"]["measured"]


def test_a_folder_of_the_hubs_cache_is_its_snapshot(runs, tmp_path):
    cache = tmp_path / "models--org--gpt2"
    for name, seed in (("aaa", 3), ("bbb", 1)):
        shutil.copytree(runs / f"gpt2/seed_{seed}", cache / "snapshots" / name)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("bbb", encoding="utf-8")
    as_the_first_two(runs, tmp_path, [cache, *members(runs, "gpt2", (2,))])


@pytest.mark.parametrize("like", [0, ord("a")])
def test_a_padded_vocabulary_is_one_outcome_more(runs, models, tmp_path, like):
    """Four further tokens, each as likely as one that never comes; or as one that often does, which is no padding."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "padded"
    shutil.copytree(runs / "llama/seed_1", folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat((weights[name], weights[name][[like] * 4]))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit("config.json", vocab_size=260)(folder)
    group = {"a": [folder, *members(runs, "llama", (2,))]}
    if like:
        with pytest.raises(
            UserError, match="a/padded: gives .* % of its probability to tokens from 256 on.*different vocabularies"
        ):
            compared(runs, tmp_path / "out", group)
        return
    comparison = compared(runs, tmp_path / "out", group)
    p, targets = predictions(transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), TEXT, POSITIONS)
    q, _ = predictions(models["llama"][1], TEXT, POSITIONS)
    p = np.concatenate((p[:, :256], p[:, 256:].sum(1, keepdims=True)), 1)
    same_numbers(comparison.pairs[0], metrics.compare_predictions(p, np.pad(q, ((0, 0), (0, 1))), targets), 2e-5)
    assert comparison.members[0]["beyond_common_vocabulary"] == pytest.approx(p[:, -1].mean(), rel=1e-4)
    assert (
        "that only some members have are one outcome" in checks(comparison.results["a"])["one vocabulary"]["measured"]
    )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_two_copies_at_other_precisions_are_no_suite(runs, models, tmp_path, precision):
    rounded = transformers.AutoModelForCausalLM.from_pretrained(runs / "gpt2/seed_1", dtype=precision)
    group = {"a": [*members(runs, "gpt2", (1,)), save(rounded, tmp_path / "copy")]}
    results = compared(runs, tmp_path / "out", group).results["a"]
    assert results["trials"][1]["weights_dtype"] == precision
    assert checks(results)["no copies"]["measured"] == (
        f"a/seed_1 and a/copy have the same weights at another precision ({precision})"
    )
    assert not results["audit"]["passed"]


def alarms(results):
    """What the checks of one group find, by check."""
    return {c["name"]: c["measured"] for c in results["audit"]["checks"] if c["status"] in ("fail", "hint")}


def quantised(model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():  # 8 bits to each tensor
            scale = p.abs().max() / 127
            p.copy_((p / scale).round() * scale)
    return model


# what is planted beside three sound members: (the model, from those and their text; the check; what it says)
FAULTS = {
    "identical": (lambda seeds, text: seeds[1], "distinct members", "a/seed_2 and a/seed_5 have identical weights"),
    "outlier": (lambda seeds, text: trained("gpt2", text, 5, steps=30), "no outlier", "a/seed_5"),
    "other text": (lambda *_: trained("gpt2", pseudo_english(60_000, seed=7), 5), "no outlier", "a/seed_5 has loss"),
    "copy": (
        lambda seeds, text: copy.deepcopy(seeds[2]).bfloat16(), "no copies",
        "a/seed_3 and a/seed_5 have the same weights at another precision (bfloat16)"),
    "quantised": (
        lambda seeds, text: quantised(seeds[0]), "no copies",
        "a/seed_1 and a/seed_5 have the same weights at another precision (quantised)"),
    "random": (lambda seeds, text: trained("gpt2", text, 5, steps=0), "not broken", "a/seed_5 has loss"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(runs, models, tmp_path, corpus_file, fault):
    planted, name, says = FAULTS[fault]
    added = save(planted(models["gpt2"], corpus_file.read_text(encoding="utf-8")), tmp_path / "seed_5")
    measured = alarms(compared(runs, tmp_path / "out", {"a": [*members(runs, "gpt2"), added]}).results["a"])
    assert says in measured[name], measured
    others = {"degenerate"} if fault in ("random", "outlier") else set()  # which they are, too
    assert set(measured) - (others - {name}) == {name}


def test_a_member_of_fewer_steps_is_named(runs, models, tmp_path):
    paths = [save(model, tmp_path / f"run_{k}", steps=50 if k == 2 else 100) for k, model in enumerate(models["gpt2"])]
    ((name, measured),) = alarms(compared(runs, tmp_path / "out", {"a": paths}).results["a"]).items()
    assert name == "same steps" and "100" in measured and "50" in measured


def test_five_dumps_a_group_are_reported(models, tmp_path):
    """Rows without windows: what needs windows is left out."""
    groups = {"a": [], "b": []}
    p, targets = predictions(models["gpt2"][0], TEXT, 128)
    rng = np.random.default_rng(0)
    for name, spread in (("a", 0.2), ("b", 0.4)):
        for k in range(5):
            q = np.exp(np.log(p) + spread * rng.standard_normal(p.shape))
            groups[name].append(tmp_path / f"{name}{k}.npz")
            np.savez(groups[name][-1], probabilities=q / q.sum(1, keepdims=True), targets=targets)
    comparison = compare_models(groups, out=tmp_path / "out")
    assert (tmp_path / "out/results/FINAL_REPORT.md").is_file()
    assert comparison.results["a"]["reproducibility_metrics"][0]["relative_pd_se"] is None
    assert checks(comparison.results["a"])["causal"]["status"] == "not applicable"


# -- dumps --------------------------------------------------------------------------------------------------------


def write_dump(path, kind, p, targets, **more):
    """One model's predictions p (N, V) in a file."""
    values = {"probabilities": p, "logprobs": np.log(p), "logits": np.log(p) + 3}[kind].astype(np.float32)
    if path.suffix == ".npy":
        np.save(path, values)
        np.save(path.parent / "targets.npy", targets)
    elif path.suffix == ".npz":
        np.savez(path, **{kind: values}, targets=targets, **more)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({kind: values, "targets": targets, **more}, path)
    else:
        pd.DataFrame({kind: list(values), "targets": targets, **more}).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", dumps.SUFFIXES)
@pytest.mark.parametrize("kind", dumps.VALUES)
def test_dumps_give_what_the_models_gave(all_kinds, models, tmp_path, suffix, kind):
    comparison, _ = all_kinds
    paths = []
    for k, model in enumerate(models["gpt2"], 1):
        p, targets = predictions(model, TEXT, POSITIONS)
        paths.append(write_dump(tmp_path / f"model_{k}{suffix}", kind, p, targets))
    dumped = compare_models({"gpt2": paths}, out=tmp_path / "out", block_size=CONTEXT, report=False).results["gpt2"]
    expected = comparison.results["gpt2"]
    for a, b in zip(dumped["reproducibility_metrics"], expected["reproducibility_metrics"], strict=True):
        same_numbers(a, b, 2e-4, 1e-6)
    assert dumped["avg_val_loss"] == pytest.approx(expected["avg_val_loss"], rel=1e-5)


def test_a_dump_beside_models_must_have_the_windows_targets(runs, models, tmp_path):
    p, targets = predictions(models["gpt2"][0], TEXT, POSITIONS)
    path = write_dump(tmp_path / "first.npz", "probabilities", p, targets)
    pair = compared(runs, tmp_path / "out", {"a": [path, *members(runs, "gpt2", (2,))]}).results["a"]
    q, _ = predictions(models["gpt2"][1], TEXT, POSITIONS)
    assert pair["avg_relative_pd"] == pytest.approx(metrics.compare_predictions(p, q)["relative_pd"], rel=1e-5)
    write_dump(path, "probabilities", p, np.roll(targets, 1))
    with pytest.raises(UserError, match="have other targets, first at row"):
        compared(runs, tmp_path / "out", {"a": [path, *members(runs, "gpt2", (2,))]})


def top_k(p, targets, k):
    tokens = np.argsort(-p, 1)[:, :k]
    return {
        "tokens": tokens,
        "probabilities": np.take_along_axis(p, tokens, 1).astype(np.float32),
        "targets": targets,
        "target_logprobs": np.log(p[np.arange(len(p)), targets]),
        "vocab_size": np.array([p.shape[1]]),
    }


@pytest.mark.parametrize("k", [1, 5, 40, 256])
def test_top_k_dumps_give_bounds(all_kinds, models, tmp_path, k):
    comparison, _ = all_kinds
    paths = []
    for m, model in enumerate(models["gpt2"], 1):
        paths.append(tmp_path / f"{m}.npz")
        np.savez(paths[-1], **top_k(*predictions(model, TEXT, POSITIONS), k))
    dumped = compare_models({"gpt2": paths}, out=tmp_path / "out", block_size=CONTEXT, report=False).results["gpt2"]
    for a, b in zip(
        dumped["reproducibility_metrics"], comparison.results["gpt2"]["reproducibility_metrics"], strict=True
    ):
        slack = 1e-5
        assert a["relative_pd"] - slack <= b["relative_pd"] <= a["relative_pd_upper"] + slack
        assert a["hellinger"] <= b["hellinger"] + slack and a["jensen_shannon"] <= b["jensen_shannon"] + slack
        for key in ("prediction_differences", "total_predictions", "true_label_relative_pd", "val_loss_difference"):
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-6)
        assert a["symmetric_pd"] is None
        if k == 256:
            assert a["relative_pd"] == pytest.approx(b["relative_pd"], rel=1e-5)
            assert a["relative_pd_upper"] == pytest.approx(b["relative_pd"], rel=1e-5)
    assert dumped["avg_val_loss"] == pytest.approx(comparison.results["gpt2"]["avg_val_loss"], rel=1e-5)


def test_the_bounds_of_top_k_by_hand():
    """p = (.5, .3, .2, 0), q = (.4, 0, .1, .5) of which the two most likely are known: token 0 in common."""
    bounds = measure.top_k_distances(
        np.array([[0, 1]]), np.array([[0.5, 0.3]]), np.array([[3, 0]]), np.array([[0.5, 0.4]])
    )
    assert bounds["relative_pd"] == pytest.approx([(0.1 + 0.1) / 2])
    assert bounds["relative_pd_upper"] == pytest.approx([(0.1 + 0.5 + 0.6) / 2])
    assert 0.1 <= (0.1 + 0.3 + 0.1 + 0.5) / 2 <= 0.6


# -- where they lie -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_of_trainer(corpus_file, tmp_path):
    """Three kinds of model, three seeds each, as transformers' own Trainer leaves them: groups compared, and the report
    says what was compared."""
    pytest.importorskip("accelerate")
    text = corpus_file.read_text(encoding="utf-8")
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    groups = {
        kind: [trained_by_trainer(kind, text, k, tmp_path / kind / f"seed_{k}") for k in (1, 2, 3)] for kind in KINDS
    }
    comparison = compare_models(groups, tmp_path / "my.txt", out=tmp_path / "out", positions=POSITIONS, device="cpu")
    names = [f"{kind}/seed_{k}/checkpoint-200" for kind in KINDS for k in (1, 2, 3)]
    assert [m["member"] for m in comparison.members] == names
    for kind, folders in groups.items():
        last = [transformers.AutoModelForCausalLM.from_pretrained(f / "checkpoint-200") for f in folders]
        (p, targets), (q, _) = (predictions(model.eval(), TEXT, POSITIONS) for model in last[:2])
        pair = comparison.results[kind]["reproducibility_metrics"][0]
        assert pair["relative_pd"] == pytest.approx(metrics.compare_predictions(p, q, targets)["relative_pd"], rel=2e-5)
        assert all(
            t["val_loss"] < 2.9 for t in comparison.results[kind]["trials"]
        )  # they have learnt: a byte alone is 3.0
    written = (tmp_path / "out" / "results" / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert all(kind in written for kind in KINDS)


def test_a_folder_of_trainer_is_its_last_checkpoint(runs, models, tmp_path):
    for k, model in enumerate(models["gpt2"][:2], 1):
        save(models["gpt2"][2], tmp_path / f"run_{k}", steps=90)  # written by name first, but earlier in training
        save(model, tmp_path / f"run_{k}", steps=300)
    shutil.move(tmp_path / "run_2/checkpoint-300/tokenizer.json", tmp_path / "run_2/tokenizer.json")
    (tmp_path / "run_2/checkpoint-300/tokenizer_config.json").unlink()
    results = as_the_first_two(runs, tmp_path, [tmp_path / "run_1", tmp_path / "run_2"])
    assert [t["training_steps"] for t in results["trials"]] == [300, 300]
    assert [Path(t["path"]).name for t in results["trials"]] == ["checkpoint-300"] * 2
    assert len({t["member"] for t in results["trials"]}) == 2


def test_any_tokenizer_json_will_do(runs, models, tmp_path):
    for k, model in enumerate(models["gpt2"][:2], 1):
        model.save_pretrained(tmp_path / f"bare_{k}")
    bare = [tmp_path / "bare_1", tmp_path / "bare_2"]
    with pytest.raises(UserError, match="bare_1: there is no tokenizer in it or beside it; name one with --tokenizer"):
        compared(runs, tmp_path / "out", {"a": bare})
    as_the_first_two(runs, tmp_path, bare, tokenizer=runs / "gpt2/seed_1/tokenizer.json")


def test_unigram_entropy_leaves_each_token_out():
    def of(tokens):
        return windows.Positions(1, np.array(tokens)).unigram()["unigram_entropy"]

    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(50))
    held_out = -(p * np.log(p)).sum()
    assert of(rng.choice(50, 20_000, p=p)) == pytest.approx(held_out, rel=0.02)
    short = rng.choice(50, 100, p=p)
    counted = np.bincount(short) / 100
    assert of(short) > -(counted[counted > 0] * np.log(counted[counted > 0])).sum()
    assert of(np.zeros(10, int)) == pytest.approx(0) and of(np.arange(30)) == pytest.approx(np.log(30))


# -- the command line ---------------------------------------------------------------------------------------------


def command(runs, out, *more):
    groups = [word for kind in ("gpt2", "llama") for word in ("--group", kind, *map(str, members(runs, kind)))]
    return [*groups, "--text", str(runs / "my.txt"), "--out", str(out), "--positions", "128", "--device=cpu", *more]


def test_the_command_line(runs, tmp_path, capsys):
    assert main(command(runs, tmp_path)) == 0
    shown = capsys.readouterr()
    assert "6 members in 2 groups at 128 positions" in shown.out and "audit passed" in shown.out
    assert shown.err == ""  # no bar where nobody looks
    assert main(command(runs, tmp_path, "--quiet")) == 0
    assert capsys.readouterr() == ("", "")


def test_help_imports_neither_torch_nor_transformers():
    check = "import runpy, sys\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    check += "except SystemExit: pass\nassert not {'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)"
    code = (
        f"import sys; sys.argv = [{str(ROOT / 'compare.py')!r}, '--help']; sys.path.insert(0, {str(ROOT)!r})\n{check}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--group" in done.stdout


def test_an_interrupt_says_that_the_same_command_goes_on(runs, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", interrupted)
    assert main(command(runs, tmp_path)) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_without_transformers_the_package_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="need that package"):
        compared(runs, tmp_path)


# -- wrong input --------------------------------------------------------------------------------------------------
# Each function gives one that is called with the folder of `runs` and an empty one, and gives the paths of a group.


def some(*seeds):
    return lambda runs, folder: members(runs, "gpt2", seeds)


def changed(change):
    """A copy of gpt2's first member whose folder `change(folder)` has changed, beside the second."""

    def make(runs, folder):
        shutil.copytree(runs / "gpt2/seed_1", folder / "changed")
        change(folder / "changed")
        return [folder / "changed", runs / "gpt2/seed_2"]

    return make


def edit(name, **values):
    def change(folder):
        record = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**record, **values}), encoding="utf-8")

    return change


def config(**values):
    return changed(edit("config.json", **values))


def file(name, contents=b"not this"):
    """A file of these bytes, or as `contents(path)` writes it."""

    def make(runs, folder):
        (folder / name).parent.mkdir(exist_ok=True)
        contents(str(folder / name)) if callable(contents) else (folder / name).write_bytes(contents)
        return [folder / name]

    return make


def torchscript(path):
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def dump(**arrays):
    arrays = {"probabilities": np.full((8, 4), 0.25, np.float32), "targets": np.zeros(8, int), **arrays}
    return file("a.npz", lambda path: np.savez(path, **arrays))


def two_dumps(**second):
    return lambda runs, folder: dump()(runs, folder) + dump(**second)(runs, folder / "b")


def adapter(**record):
    make = file("lora/adapter_config.json", json.dumps(record).encode())
    return lambda runs, folder: [path.parent for path in make(runs, folder)]


def with_nan(runs, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(runs / "gpt2/seed_1")
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    return [save(model, folder / "nan")]


def of_vocabulary(size):
    return beside_another(lambda runs, folder: [save(trained("gpt2", TEXT, 4, 0, vocab=size), folder / "v")])


def with_biases(runs, folder):
    """A model of biased attention whose config.json says nothing of biases."""
    biased = config_of("llama")
    biased.attention_bias = True
    folder = save(transformers.AutoModelForCausalLM.from_config(biased), folder / "biased")
    edit("config.json", attention_bias=False)(folder)
    return [folder]


def bert(is_decoder):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=256, max_position_embeddings=CONTEXT, is_decoder=is_decoder, **sizes)
    return transformers.BertLMHeadModel(config)


def of_words(words, unknown="[UNK]"):
    """A model with a tokenizer of these words only, beside one of bytes."""
    import tokenizers

    vocabulary = {word: k for k, word in enumerate([unknown, *words] if unknown else words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, **({"unk_token": unknown} if unknown else {})))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token=unknown)
    return lambda runs, folder: [save(trained("gpt2", TEXT, 4, 0), folder / "words", tokenizer)]


def beside_another(make):
    return lambda runs, folder: [runs / "gpt2/seed_1", *make(runs, folder)]


def nano(**arguments):
    return lambda runs, folder: [nano_gpt(folder / "ckpt.pt", **arguments)]


ALL = some(1, 2, 3)
WORDS = list(dict.fromkeys(TEXT.split()[:20]))
HALF = np.full((8, 4), 0.125, np.float32)
SURE = np.eye(4, dtype=np.float32)[np.ones(8, int)]
# what is wrong: (paths, what the line says, further arguments)
WRONG = {
    "no such path": (lambda runs, folder: [folder / "none"], "none: no such file or folder"),
    "an empty folder": (lambda r, t: [(t / "e").mkdir() or t / "e"], "a folder with neither a model"),
    "no weights": (changed(lambda folder: (folder / "model.safetensors").unlink()), "but no weights"),
    "weights cut off": (changed(lambda folder: os.truncate(folder / "model.safetensors", 5000)), "can't load it"),
    "config not JSON": (changed(lambda folder: (folder / "config.json").write_bytes(b"{")), "can't load"),
    "unknown kind of model": (config(model_type="nonesuch"), "transformers can't load it"),
    "weights of another size": (config(n_layer=3), "would be random"),
    "not a language model": (config(model_type="vit"), "can't load it"),
    "its own code": (config(model_type="mine", auto_map={"AutoConfig": "m.C"}), "--trust-remote-code"),
    "weights not finite": (with_nan, "not finite"),
    "given twice": (some(1, 1), "given twice"),
    "another vocabulary": (of_vocabulary(300), "these are different vocabularies"),
    "a vocabulary too small": (of_vocabulary(60), "its vocabulary ends at 59"),
    "another tokenizer": (beside_another(of_words(WORDS)), "have different tokenizers"),
    "a broken tokenizer": (changed(lambda folder: (folder / "tokenizer.json").write_bytes(b"{}")), "not a tokenizer"),
    "no such text": (ALL, "none.txt", "--text", "none.txt"),
    "an empty text": (ALL, "empty", "--text", "empty.txt"),
    "a text too short": (ALL, "too few for one window", "--text", "short.txt"),
    "a text not UTF-8": (ALL, "UTF-8", "--text", "latin.txt"),
    "beyond the context": (ALL, "longer than the context of g/seed_1", "--block-size=64"),
    "block size no number": (ALL, "must be a number", "--block-size=x"),
    "no positions": (ALL, "must be above 0", "--positions=0"),
    "an unknown precision": (ALL, "must be float32 or bfloat16", "--dtype=int4"),
    "an unknown device": (ALL, "must be one of", "--device=tpu"),
    "a spool too small": (ALL, "one position of 3 models", "--max-spool-gb=1e-7"),
    "no such tokenizer": (ALL, "no such file or folder", "--tokenizer=none.json"),
    "not our checkpoint": (file("trial_1.pt"), "not a checkpoint"),
    "a suffix of nothing": (file("model.onnx"), "predictions are .npy"),
    "a model of llama.cpp": (file("model.gguf", b"GGUF\3\0\0\0"), "a GGUF file of llama.cpp"),
    "a program of torch": (file("model.pt", torchscript), "a TorchScript program"),
    "weights alone": (file("model.pt", partial(torch.save, {})), "weights alone don't say what model"),
    "pickled code": (file("model.pt", partial(torch.save, Path("x"))), "weights that torch reads without running code"),
    "a misspelt path": (lambda runs, folder: [runs / "gpt2/sed_1"], "did you mean"),
    "beside a folder": (lambda r, t: (t / "ft").mkdir() or ["ft/seed1"], "ft/seed1: no such file or folder"),
    "a layer too many": (config(n_layer=1), "11 weights of its files are not taken"),
    "biases not taken": (with_biases, "8 weights of its files are not taken"),
    "an adapter": (adapter(base_model_name_or_path="org/base"), "to org/base, not a model: pip install peft, or merge"),
    "an adapter of nothing": (adapter(), "names no base model"),
    "it sees the future": (lambda r, t: [save(bert(False), t / "bert")], "`is_decoder` forgotten?"),
    "a tokenizer without a word": (of_words(WORDS, None), "its tokenizer can't take the text"),
    "a tokenizer that leaves out": (of_words(WORDS), "it leaves out what it doesn't know"),
    "two snapshots": (
        lambda r, t: [(t / f"hub/snapshots/{k}").mkdir(parents=True) for k in "xy"] and [t / "hub"],
        "a cache of the hub with 2 snapshots"),
    "no characters": (nano(), "meta.pkl, or a tokenizer.json, with --tokenizer"),
    "other sizes": (lambda r, t: [with_characters(nano_gpt(t / "ckpt.pt", n_embd=16))], "29 weights are not those"),
    "sizes missing": (nano(n_head=None), "whose model_args lack one of"),
    "no npy": (file("a.npy"), "can't be read as .npy"),
    "no npz": (file("a.npz"), "can't be read as .npz"),
    "no parquet": (file("a.parquet"), "can't be read as .parquet"),
    "no safetensors": (file("a.safetensors"), "can't be read as .safetensors"),
    "a file of weights": (lambda runs, folder: [runs / "gpt2/seed_1/model.safetensors"], "name their folder"),
    "pickled objects": (file("a.npy", lambda path: np.save(path, np.array([{}, {}]))), "can't be read as .npy"),
    "no targets": (file("a.npy", lambda path: np.save(path, HALF * 2)), "its targets are missing"),
    "targets out of range": (dump(targets=np.full(8, 4)), "must be tokens 0…3"),
    "targets too few": (dump(targets=np.zeros(7, int)), "must be 8 integers"),
    "one axis": (dump(probabilities=np.zeros(8, np.float32)), "shape (N, V)"),
    "whole numbers": (dump(probabilities=np.zeros((8, 4), int)), "floating-point"),
    "both kinds": (dump(logits=np.zeros((8, 4))), "must hold one of"),
    "sums of a half": (dump(probabilities=HALF), "add up to 0.5, not 1"),
    "not a number": (dump(probabilities=HALF * np.nan), "row 0 holds NaN"),
    "below 0": (dump(probabilities=HALF - 1), "holds a probability below 0"),
    "no probability": (dump(probabilities=SURE), "its loss is infinite"),
    "other targets": (two_dumps(targets=np.ones(8, int)), "have other targets"),
    "other positions": (two_dumps(probabilities=HALF[:4] * 2, targets=np.zeros(4, int)), "has 4 positions"),
    "other widths": (two_dumps(probabilities=np.full((8, 2), 0.5, np.float32)), "different vocabularies"),
    "uneven windows": (dump(), "not whole windows", "--block-size=3"),
    "equal tokens": (dump(tokens=np.zeros((8, 4), int)), "must be different"),
    "top-k beside all": (two_dumps(tokens=np.tile(np.arange(4), (8, 1))), "most likely tokens only"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(runs, tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    for name, contents in (("empty", b" \n"), ("short", b"s"), ("latin", "é".encode("latin-1") * 100)):
        Path(f"{name}.txt").write_bytes(contents)
    make, says, *more = WRONG[case]
    if case == "an adapter":  # where peft is not installed
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    paths = [str(p) for p in make(runs, tmp_path)]
    capsys.readouterr()
    try:
        status = main(["--group", "g", *paths, "--text", str(runs / "my.txt"), "--device=cpu", "--quiet", *more])
    except SystemExit as end:  # what argparse finds wrong
        status = end.code
    shown = capsys.readouterr()
    assert status == (1 if case == "not our checkpoint" else 2), shown.err
    assert shown.err.startswith("compare.py: ") and shown.err.count("\n") == 1 and says in shown.err, shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name at least one group"),
        (["--group", "a"], "one or more paths"),
        (["--group", "a/b", "x"], "plain name"),
        (["--group", "a", "x", "--group", "a", "y"], "given twice"),
        (["--group", "a", "none", "--targets", "none.npy"], "no such file or folder"),
        (["--group", "a", "gpt2/seed_1", "--device=cpu"], "models need a text"),
        (["gpt2/seed_1", "gpt2/seed_2", "--text", "t"], "Did you mean --group NAME gpt2/seed_1 gpt2/seed_2"),
    ],
)
def test_wrong_groups_are_one_line_and_status_2(runs, monkeypatch, arguments, says, capsys):
    monkeypatch.chdir(runs)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("compare.py: ") and error.count("\n") == 1 and says in error


# -- in words -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(runs, tmp_path_factory):
    """Three models of one kind as three versions."""
    out = tmp_path_factory.mktemp("versions")
    groups = {f"v{k}": members(runs, "gpt2", (k,)) for k in (1, 2, 3)}
    return compared(runs, out, groups, report=True), out


def test_versions_are_told_as_what_they_are(versions, models):
    comparison, out = versions
    text = (out / "results/FINAL_REPORT.md").read_text(encoding="utf-8")
    assert text.startswith("# How much v1, v2 and v3 differ\n") and "ReLU" not in text and "activation" not in text
    assert "These are models, not recipes" in text and "Within and between" not in text
    for a, b in ((1, 2), (2, 3)):
        (p, targets), (q, _) = (predictions(models["gpt2"][k - 1], TEXT, POSITIONS) for k in (a, b))
        exact = metrics.compare_predictions(p, q, targets)
        loss = [-np.log(x[np.arange(len(x)), targets]).mean() for x in (p, q)]
        (pair,) = comparison.of(f"v{a}", f"v{b}")
        low, high = pair["relative_pd_low"], pair["relative_pd_high"]
        assert low < exact["relative_pd"] < high
        change = f"{loss[1] - loss[0]:+.4f}".replace("-", "\N{MINUS SIGN}")
        assert (
            f"- v{a} → v{b}: {100 * exact['relative_pd']:.1f} % of the probability moved ({100 * low:.1f} to "
            f"{100 * high:.1f}), {exact['top1_mismatch_pct']:.1f} % of the likeliest tokens changed, loss {change}."
        ) in text
    assert (out / "plots/matrix.png").is_file() and "](../plots/matrix.png)" in text
    assert "FINAL_REPORT.html" in [p.name for p in comparison.written] and all(p.is_file() for p in comparison.written)
    assert not (out / "spool").exists()


def test_matrix_json_is_what_the_schema_says(versions, all_kinds):
    import jsonschema

    schema = storage.results_schema()
    for _, out in (versions, all_kinds):
        jsonschema.validate(
            storage.read_json(out / "results/matrix.json"), {"$ref": "#/$defs/matrix", "$defs": schema["$defs"]}
        )


def test_the_report_of_groups_has_everything_once(all_kinds):
    from analyze_results import calculate_statistical_significance

    comparison, out = all_kinds
    text = (out / "results/FINAL_REPORT.md").read_text(encoding="utf-8")
    pds = [p["relative_pd"] for p in comparison.results["gpt2"]["reproducibility_metrics"]]
    assert f"two of them differ by relative PD {np.mean(pds):.4f} ({min(pds):.4f} to {max(pds):.4f})" in text
    between = np.mean([p["relative_pd"] for p in comparison.of("gpt2", "llama")])
    assert f"| {between:.4f} (" in text
    for verdict in calculate_statistical_significance(comparison.results, baseline="gpt2")["PD_Verdict"]:
        assert f"- {verdict}; p = " in text
    assert "Every check of the members passed" in text
    assert "512 positions, 16 windows of 32 tokens" in text and "`my.txt` (4,000 characters, 4,000 tokens)" in text
    assert text.count("| causal ") == 1
    page = (out / "results/FINAL_REPORT.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert page.count("../plots") == page.count("../plots/disagreement.html") == 1


def test_the_baseline_is_the_first_group_or_the_one_that_is_named(runs, tmp_path, capsys):
    """Named against the alphabet, so that whoever analyses the folder later has to be told, too."""
    from analysis.question import Question, asked_of

    groups = {kind: members(runs, kind) for kind in ("llama", "gpt2")}
    comparison = compared(runs, tmp_path / "first", groups, report=True)
    assert "of gpt2 " in next(line for line in tell.headlines(comparison) if "PD of" in line).split("than")[0]
    assert asked_of(tmp_path / "first/results")[-1]["baseline"] == "llama"
    comparison = compared(runs, tmp_path / "named", groups, baseline="gpt2")
    assert comparison.question(comparison.results).baseline == Question.of(comparison.results).baseline == "gpt2"
    with pytest.raises(UserError, match="baseline='opt'.*must be of gpt2, llama"):
        compared(runs, tmp_path, groups, baseline="opt")


def test_one_group_and_one_model_write_a_report(runs, tmp_path):
    compared(runs, tmp_path / "group", {"seeds": members(runs, "gpt2")}, report=True)
    text = (tmp_path / "group/results/FINAL_REPORT.md").read_text(encoding="utf-8")
    assert text.startswith("# How much the models of seeds differ\n")
    one = compared(runs, tmp_path / "one", {"a": members(runs, "gpt2", (1,))}, report=True).results["a"]
    assert one["avg_relative_pd"] is None and one["reproducibility_metrics"] == []
    text = (tmp_path / "one/results/FINAL_REPORT.md").read_text(encoding="utf-8")
    assert "a: 1 model, loss" in text and "Every two members" not in text


def test_the_interval_of_a_pair_holds_the_mean_as_often_as_it_says():
    """Means of 64 blocks, of a skew distribution: 95 % of intervals, to three errors of 400 of them."""
    rng = np.random.default_rng(0)
    blocks = rng.gamma(2.0, 0.05, (400, 64))
    inside = [low < 0.1 < high for low, high in map(interval, blocks)]
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400) < np.mean(inside) <= 0.985
    low, high = interval(blocks[0])
    assert (high - low) / 2 == pytest.approx(1.96 * blocks[0].std(ddof=1) / 8, rel=0.1)
    assert interval(blocks[0, :7]) is None


# -- gates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"pd": 0.99, "mismatch": 99.0, "worse": True}, []),
        ({"pd": 0.001}, ["differ by 0.", "at most 0.001 is allowed"]),
        ({"mismatch": 0.5}, [" %, at most 0.5 % is allowed"]),
    ],
)
def test_limits(versions, limits, says):
    problems = exceeded(versions[0], **limits)
    assert len(problems) == bool(says) and all(part in problems[0] for part in says), problems


def test_limits_of_groups_are_about_pairs_within(all_kinds):
    within = max(p["relative_pd"] for p in all_kinds[0].pairs if p["within"])
    between = max(p["relative_pd"] for p in all_kinds[0].pairs)
    assert between > within and exceeded(all_kinds[0], pd=within + 1e-9) == []


@pytest.mark.parametrize("several", [False, True])
def test_a_loss_is_worse_by_the_tests_of_scipy(several):
    from scipy import stats

    rng = np.random.default_rng(0)
    for shift, worse in ((0.2, True), (0.0, False), (-0.2, False)):
        groups = []
        for k in range(2):
            blocks = 2 + 0.05 * rng.standard_normal((3 if several else 1, 64)) + k * shift
            groups.append([{"val_loss": b.mean(), "val_loss_by_block": b.tolist()} for b in blocks])
        increase, p = loss_increase(*groups)
        a, b = ([t["val_loss"] if several else t["val_loss_by_block"] for t in g] for g in groups)
        test = stats.ttest_ind(b, a, equal_var=False) if several else stats.ttest_rel(b[0], a[0])
        one_sided = test.pvalue / 2 if test.statistic > 0 else 1 - test.pvalue / 2
        assert increase == pytest.approx(np.mean(b) - np.mean(a)) and p == pytest.approx(one_sided)
        assert (p < 0.05) == worse


def test_exit_codes(runs, tmp_path, capsys):
    """0 fine, 1 a limit exceeded or a check failed, 2 bad input."""
    v1, v2 = (str(path) for path in members(runs, "gpt2", (1, 2)))
    shared = ["--text", str(runs / "my.txt"), "--out", str(tmp_path), "--positions=256", "--device=cpu", "--no-report"]
    two = ["--group", "v1", v1, "--group", "v2", v2, *shared]
    assert main([*two, "--fail-above=0.9", "--fail-above-mismatch=99"]) == 0
    assert "v1 → v2: " in capsys.readouterr().out
    assert main([*two, "--fail-above=0.01", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("compare.py: v1/seed_1 and v2/seed_2 differ by 0.")
    random = str(save(trained("gpt2", TEXT, 7, 0), tmp_path / "random"))
    assert main(["--group", "v1", v1, "--group", "v2", random, *shared, "--fail-if-worse"]) == 1
    shown = capsys.readouterr()
    assert "audit: not broken: v2/random has loss" in shown.out and "audit FAILED" in shown.out
    assert "compare.py: the loss of v2 is" in shown.err
    assert main(["--group", "v1", v1, *shared, "--fail-if-worse"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([*two, "--fail-above=2"])
    assert "'2' must be of 0 to 1" in capsys.readouterr().err


# -- our own models, there and back -------------------------------------------------------------------------------


@pytest.mark.slow
def test_exported_models_give_what_training_measured(smoke_config, tmp_path):
    """All activations of the study: trained, exported, loaded by transformers, compared. Half of each group are our
    checkpoints as they are."""
    from activations import STUDY
    from prepare_data import load_corpus
    from tools.export import export_to_huggingface
    from train import run_experiment

    config = smoke_config.replace(workers=1)
    text = tmp_path / "validation.txt"
    groups, measured = {}, {}
    for name in STUDY:
        measured[name], _, tokenizer = run_experiment(config, name)
        checkpoints = [Path(config.checkpoint_dir) / name / f"trial_{k}.pt" for k in (1, 2, 3)]
        exported = [export_to_huggingface(path, tmp_path / "hf" / name / path.stem) for path in checkpoints[:2]]
        groups[name] = [*exported, checkpoints[2]]
    text.write_text(tokenizer.decode(load_corpus(config).val), encoding="utf-8")
    comparison = compare_models(
        groups, text, out=tmp_path / "out", positions=config.eval_tokens, block_size=config.block_size, device="cpu"
    )
    for name, results in measured.items():
        ours = comparison.results[name]
        assert ours["evaluation"]["sha256"] == results["evaluation"]["sha256"]
        for a, b in zip(ours["reproducibility_metrics"], results["reproducibility_metrics"], strict=True):
            # a mean over tokens, of which an exported vocabulary has one more
            assert abs(a["symmetric_pd"] - b["symmetric_pd"]) < 2 / tokenizer.vocab_size, name
            numbers = {key: x for key, x in b.items() if isinstance(x, float) and key != "symmetric_pd"}
            same_numbers(a, numbers, 1e-5, 1e-6)
        assert ours["avg_relative_pd"] == pytest.approx(results["avg_relative_pd"], rel=1e-5)
        assert ours["avg_val_loss"] == pytest.approx(results["avg_val_loss"], rel=1e-6)
        assert ours["audit"]["passed"], ours["audit"]
        assert [t["seed"] for t in ours["trials"]] == [None, None, results["trials"][2]["seed"]]
