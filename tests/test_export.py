"""A trained gpt, exported, loaded by transformers without a network, against the model it came from."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import storage
from config import Config, UserError
from tokenizer import make_tokenizer
from tools.export import THEIR_NAMES, export_to_huggingface, fast_tokenizer, main, their_activation

transformers = pytest.importorskip("transformers")

TEXT = "First Citizen:\nBefore we proceed — hear  me,\tspeak.\n\nAll:\nSpeak, speak! Ça ira; 你好 😀\n"


def checkpoint(folder, activation="gelu", tokenizer="char", **changes):
    """A checkpoint as a trial leaves it, of a model with weights far from their initial values."""
    from models.architectures import build_model

    settings = {"preset": "smoke", "device": "cpu", "n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": 48}
    config = Config(**{**settings, **changes})
    tokenizer = make_tokenizer(tokenizer, TEXT, vocab_size=280)
    model = build_model(config, activation, tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: p.detach() + 0.3 * torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()
    }
    path = Path(folder) / "trial_1.pt"
    storage.save_checkpoint(
        path,
        {
            "kind": "trial",
            "activation": activation,
            "trial": 1,
            "config": config.to_dict(),
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": tokenizer.to_dict(),
            "record": {"status": "done", "diverged_at_step": None},
            "weights": weights,
        },
    )
    return path


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu", "swish", "smelu_05", "smelu_1", "smelu_0.3"])
def test_the_exported_model_gives_the_same_logits(tmp_path, monkeypatch, activation, bias):
    from training.experiment import load_trial

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = checkpoint(tmp_path, activation, bias=bias)
    folder = export_to_huggingface(path, tmp_path / "exported")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    ours, tokenizer, _ = load_trial(path)
    idx = torch.randint(tokenizer.vocab_size, (3, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        a, b = ours(idx).log_softmax(-1), theirs(idx).logits.log_softmax(-1)
    assert a.std() > 1
    assert (a - b[..., :-1]).abs().max() < 1e-4 and b[..., -1].max() < math.log(1e-6)
    assert (folder / "model.safetensors").is_file()
    zero = [name for name, p in theirs.named_parameters() if not p.any()]
    shifted = 3 if activation.startswith("smelu") else 0  # biases of c_fc that stand for β
    assert len(zero) == (0 if bias else 3 * 6 - shifted)  # not that of the last LayerNorm
    assert all(name.endswith("bias") for name in zero)
    # generation: greedy continuations agree token by token
    from model import generate

    prompt = idx[:1, :5]
    their_text = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
    assert their_text.tolist() == generate(ours, prompt, 20, temperature=0).tolist()


@pytest.mark.parametrize("name", sorted(THEIR_NAMES))
def test_every_name_is_the_same_function_there(name):
    from transformers.activations import ACT2FN

    from activations import make_activation

    x = torch.linspace(-5, 5, 1001)
    torch.testing.assert_close(ACT2FN[their_activation(name)](x), make_activation(name)(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_tokenizer_goes_with_the_model(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = export_to_huggingface(checkpoint(tmp_path, tokenizer=tokenizer), tmp_path / "exported")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), make_tokenizer(tokenizer, TEXT, vocab_size=280)
    ids = theirs(TEXT)["input_ids"]
    assert ids == ours.encode(TEXT).tolist()
    assert theirs.decode(ids) == TEXT
    assert len(theirs) == ours.vocab_size + (tokenizer == "char")


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_library_has_all_it_asks_for(tmp_path, monkeypatch, tokenizer):
    """A pipeline, a batch, an unknown character, beginning and end as harnesses want them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = export_to_huggingface(checkpoint(tmp_path, tokenizer=tokenizer), tmp_path / "exported")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert theirs.model_max_length == model.config.n_positions == model.generation_config.max_length == 48
    assert model.config.vocab_size == len(theirs)
    for name in ("unk", "pad", "bos", "eos"):
        assert 0 <= getattr(theirs, f"{name}_token_id") < model.config.vocab_size, name
    assert theirs.decode(theirs("All:\nSpeak\n").input_ids, skip_special_tokens=True) == "All:\nSpeak\n"
    batch = theirs(["All", "First Citizen"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
        assert batch.input_ids.shape == logits.shape[:2]
        alone = model(theirs("All", return_tensors="pt").input_ids).logits
    torch.testing.assert_close(logits[0, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)
    ids = theirs("A\u0100\u4e01")["input_ids"]  # Ā is how the byte 0 is written in vocabularies of bytes
    assert max(ids) < model.config.vocab_size and (tokenizer == "char" or theirs.decode(ids) == "A\u0100\u4e01")
    generate = transformers.pipeline("text-generation", model=model, tokenizer=theirs)
    (text,) = generate("All:", max_new_tokens=20, do_sample=False)
    assert len(theirs(text["generated_text"])["input_ids"]) >= 24 - 20 * (tokenizer != "char")
    with pytest.raises(ValueError, match="exceeds the models max length"):
        generate("All:", max_new_tokens=60, handle_long_generation="hole")


def test_the_card_s_code_runs_and_slides_beyond_the_context(tmp_path, monkeypatch, capsys):
    from model import generate
    from training.experiment import load_trial

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = checkpoint(tmp_path)
    folder = export_to_huggingface(path, tmp_path / "exported")
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", repr(str(folder))).replace("The ", "All")
    exec(code, {})
    ours, tokenizer, _ = load_trial(path)
    expected = generate(ours, torch.from_numpy(tokenizer.encode("All").astype("int64"))[None], 200, temperature=0)
    assert capsys.readouterr().out == tokenizer.decode(expected[0].numpy()) + "\n"


def test_an_existing_folder_is_not_overwritten(tmp_path):
    path = checkpoint(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own", encoding="utf-8")
    for folder in (tmp_path / "mine", path):
        with pytest.raises(UserError, match="is there already, and is not overwritten; give a new folder"):
            export_to_huggingface(path, folder)
    assert (tmp_path / "mine" / "README.md").read_text(encoding="utf-8") == "my own"


def test_characters_outside_the_vocabulary_are_one_token():
    ours = make_tokenizer("char", "abc", unknown=True)
    theirs = fast_tokenizer(ours)
    assert theirs.get_vocab_size() == ours.vocab_size == 4
    assert theirs.encode("axb\n").ids == ours.encode("axb\n").tolist() == [0, 3, 1, 3]


@pytest.mark.parametrize("activation", ["smeglu", "swiglu", "softplus"])
def test_an_activation_that_transformers_lacks_is_refused(tmp_path, activation):
    with pytest.raises(UserError, match=f"'{activation}' has no counterpart .* which has gelu, gelu_tanh, .* SmeLU"):
        export_to_huggingface(checkpoint(tmp_path, activation), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("beta", [0.3, 0.5, 1.0])
def test_smelu_is_made_of_two_squares(beta):
    """In float64, where it can be seen to be an identity, against SmeLU's definition."""
    x = np.linspace(-4, 4, 8001)
    smelu = np.where(x <= -beta, 0, np.where(x >= beta, x, (x + beta) ** 2 / (4 * beta)))
    squares = (np.maximum(x + beta, 0) ** 2 - np.maximum(x - beta, 0) ** 2) / (4 * beta)
    np.testing.assert_allclose(squares, smelu, atol=1e-14)


def test_the_card_says_what_was_measured_on_this_checkpoint_and_nothing_else(tmp_path):
    from synthetic import synthetic_results

    path = checkpoint(tmp_path, "smelu_1")
    bare = (export_to_huggingface(path, tmp_path / "bare", tmp_path / "results") / "README.md").read_text(
        encoding="utf-8"
    )
    assert "| loss, relative PD | not measured |" in bare and "relu2" in bare
    results = synthetic_results("smelu_1")
    results["trials"][0]["checkpoint"] = {"path": str(path), "sha256": storage.sha256_file(path)}
    storage.write_results(results, tmp_path / "results")
    card = (export_to_huggingface(path, tmp_path / "card", tmp_path / "results") / "README.md").read_text(
        encoding="utf-8"
    )
    first = results["trials"][0]["val_loss"]
    assert f"| loss | {first:.4f} nats/token |" in card
    own = [p["relative_pd"] for p in results["reproducibility_metrics"] if "1" in p["model_pair"].split("_vs_")]
    assert f"| relative PD with the {len(own)} other trials, mean | {np.mean(own):.4f} |" in card
    results["trials"][0]["checkpoint"]["sha256"] = "another"
    storage.write_results(results, tmp_path / "results")
    assert "not measured" in (
        export_to_huggingface(path, tmp_path / "o", tmp_path / "results") / "README.md"
    ).read_text(encoding="utf-8")


def test_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="its model is llama; only gpt"):
        export_to_huggingface(checkpoint(tmp_path, model="llama"), tmp_path / "exported")


def test_without_transformers_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="needs the package transformers"):
        export_to_huggingface(checkpoint(tmp_path), tmp_path / "exported")


def test_logits_that_differ_are_not_exported(tmp_path, monkeypatch):
    monkeypatch.setitem(THEIR_NAMES, "gelu", "relu")
    with pytest.raises(storage.StorageError, match="not exported: .* logits that differ by"):
        export_to_huggingface(checkpoint(tmp_path), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_the_command_line_answers_with_its_exit_status(tmp_path, capsys):
    path = checkpoint(tmp_path)
    assert main([str(path), str(tmp_path / "exported")]) == 0
    assert "GPT2LMHeadModel.from_pretrained" in capsys.readouterr().out
    assert main([str(tmp_path / "none.pt"), str(tmp_path / "b")]) == 2
    assert main([str(checkpoint(tmp_path / "softplus", "softplus")), str(tmp_path / "b")]) == 2
    path.write_bytes(path.read_bytes()[:1000])
    assert main([str(path), str(tmp_path / "b")]) == 1
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("export.py: ")
    with pytest.raises(SystemExit) as caught:
        main(["one_argument_only"])
    assert caught.value.code == 2


def test_help_imports_neither_torch_nor_transformers():
    script = Path(__file__).resolve().parent.parent / "tools" / "export.py"
    check = "import runpy, sys\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    check += "except SystemExit: pass\nassert not {'torch', 'transformers'} & set(sys.modules)"
    code = f"import sys; sys.argv = [{str(script)!r}, '--help']; sys.path.insert(0, {str(script.parent)!r})\n{check}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "CHECKPOINT" in done.stdout
