"""Give a trained `gpt` to Hugging Face transformers: a folder that GPT2LMHeadModel and AutoTokenizer load.

    python tools/export.py checkpoints/gelu/trial_1.pt my-model

    from transformers import AutoTokenizer, GPT2LMHeadModel
    model, tokenizer = GPT2LMHeadModel.from_pretrained("my-model"), AutoTokenizer.from_pretrained("my-model")

SmeLU, which transformers has not, is written as what it is made of: with r(x) = max(0, x)², which transformers calls
relu2, SmeLU(x) = (r(x + β) - r(x - β)) / 4β for every x. So a layer of SmeLU is one of relu2 twice as wide: both halves
have its weights, their biases are shifted by β and -β, and what they write is divided by 4β and -4β. Such a folder
loads as any other, without code of ours; keep it in float32, where the two squares that cancel leave enough digits.

Padding, beginning, end and unknown characters need a token. Vocabularies of bytes have one that no text has, 0, and
those with unknown characters their own; a vocabulary of characters gets one more, which the model gives a probability
below 1e-6 and leaves the others as they are, see `_with_one_more`.

The logits are compared with ours before anything is written. README.md in the folder is a model card, with loss and PD
where the study's results are found.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # run as a script: the project's folder, not this one, is where its modules are
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from cli import require_packages

    require_packages("tools/export.py")

import activations
import cli as streams
import storage
from analysis.template import rendered
from config import Config, Parser, UserError
from storage import number

# our name -> the name of the same function in transformers.activations
THEIR_NAMES = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "leaky_relu": "leaky_relu",
    "mish": "mish",
    "relu": "relu",
    "relu2": "relu2",
    "swish": "silu",
    "tanh": "tanh",
}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # GPT-2's linear layers store (inputs, outputs)
TOLERANCE = 1e-4  # of the log-probabilities; what differs is the order of sums
SHIFT = 16


def export_to_huggingface(
    checkpoint: str | os.PathLike, folder: str | os.PathLike, results_dir: str | os.PathLike | None = None
) -> Path:
    """Write the model (safetensors, float32), the tokenizer and a model card of a finished trial to `folder`, which
    must be new or empty; returns it. `results_dir` holds the results that the card quotes; None: where the trial's
    study put them.

    Raises:
        UserError: transformers is not installed; there is no such file, or something in the folder; the model isn't a
            `gpt`, or its activation has no counterpart in transformers.
        StorageError: the checkpoint can't be read or holds no model, the disk refuses, or transformers does not give
            the same logits; then nothing is written.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"the export needs the package transformers (pip install transformers): {error}") from error

    from training import experiment

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already, and is not overwritten; give a new folder")
    if not os.path.exists(checkpoint):
        raise UserError(f"{checkpoint}: no such file; trained models are in checkpoints/ACTIVATION/trial_K.pt")
    saved = storage.load_checkpoint(checkpoint)
    if saved.get("kind") == "trial":  # else load_trial says what it is
        config = Config.from_dict(saved["config"])
        if config.model != "gpt":
            raise UserError(f"{checkpoint}: its model is {config.model}; only gpt has a counterpart, GPT2LMHeadModel")
        their_activation(saved["activation"])
    model, tokenizer, _ = experiment.load_trial(checkpoint)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast_tokenizer(tokenizer),
        clean_up_tokenization_spaces=False,
        model_max_length=config.block_size,
        **dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), special_token(tokenizer)),
    )
    theirs = _gpt2(transformers, config, saved["activation"], model, max(len(fast), tokenizer.vocab_size))
    difference = _largest_difference(model, theirs, tokenizer.vocab_size)
    if not difference <= TOLERANCE:
        raise storage.StorageError(
            f"{checkpoint}: not exported: transformers {transformers.__version__} gives logits that differ by "
            f"{difference:.2g}"
        )
    theirs.config.bos_token_id = theirs.config.eos_token_id = theirs.config.pad_token_id = fast.pad_token_id
    # it was trained on text without an end: by default it writes to the end of its context
    theirs.generation_config = transformers.GenerationConfig(
        max_length=config.block_size, pad_token_id=fast.pad_token_id, bos_token_id=fast.pad_token_id
    )
    before = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()  # a folder of megabytes is written at once
    with tempfile.TemporaryDirectory() as temporary:
        try:
            theirs.save_pretrained(temporary)
            fast.save_pretrained(temporary)
        finally:
            if before:
                transformers.logging.enable_progress_bar()
        results = _results_of(checkpoint, saved, results_dir or config.results_dir)
        (Path(temporary) / "README.md").write_text(model_card(saved, results), encoding="utf-8")
        for path in sorted(Path(temporary).iterdir()):
            storage.write_bytes(folder / path.name, path.read_bytes())
    return folder


def their_activation(name: str) -> str:
    """The name in transformers of an activation, or of what it is made of. Raises UserError if there is none."""
    theirs = THEIR_NAMES.get(activations.canonical_name(name)) or ("relu2" if _smelu_beta(name) else None)
    if theirs is None:
        raise UserError(
            f"activation {name!r} has no counterpart in transformers' GPT-2, which has {', '.join(THEIR_NAMES)} and, "
            f"made of relu2, SmeLU"
        )
    return theirs


def _smelu_beta(name: str) -> float | None:
    """β where an activation is SmeLU, else None."""
    module, gated = activations.make_activation(name), activations.get_info(name).gated
    return module.beta if type(module).__name__ == "SmeLU" and not gated else None


def _gpt2(transformers, config: Config, activation: str, model, vocab_size: int):
    """A GPT2LMHeadModel with the weights of our model, whose vocabulary may be one smaller; biases that ours does
    without are zero."""
    import torch

    beta, more = _smelu_beta(activation), vocab_size - model.wte.num_embeddings
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=config.block_size,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=8 * config.n_embd if beta else None,
            activation_function=their_activation(activation),
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            layer_norm_epsilon=1e-5,
            tie_word_embeddings=not more,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in theirs.transformer.named_parameters():
            shape = p.t().shape if name.endswith(TRANSPOSED) else p.shape
            if beta and name.endswith("mlp.c_fc.bias"):
                shape = (shape[0] // 2,)  # in our layer, where that of relu2 is twice as wide
            value = ours[name] if name in ours else torch.zeros(1).expand(shape)
            value = _of_relu2(name, value, beta) if beta else value
            if more and name == "wte.weight":
                value = torch.cat((value, value[:1]))
            p.copy_(value.t() if name.endswith(TRANSPOSED) else value)
        if more:
            _with_one_more(theirs)
    return theirs.eval()


def _with_one_more(theirs) -> None:
    """The last token of the vocabulary gets the logit 0 everywhere, and all others what they had plus SHIFT.

    What LayerNorm gives has the mean 0 before its weight g and bias b. A row of the output matrix to which κ/g is added
    therefore gives κ Σ b/g more, the same at every position; b is moved along g such that this sum is the width, and κ
    makes up for what that alone changes.
    """
    import torch

    norm, rows = theirs.transformer.ln_f, theirs.transformer.wte.weight.double()
    g, b = norm.weight.double(), norm.bias.double()
    moved = g * (1 - (b / g).mean())
    shifted = rows + (SHIFT - rows @ moved)[:, None] / (len(g) * g)
    norm.bias.copy_(b + moved)
    theirs.lm_head.weight.copy_(torch.cat((shifted[:-1], torch.zeros_like(rows[:1]))))


def _of_relu2(name: str, value, beta: float):
    """A parameter of a layer of SmeLU as that of a layer of relu2, see above."""
    import torch

    if name.endswith("mlp.c_fc.weight"):
        return torch.cat((value, value))
    if name.endswith("mlp.c_fc.bias"):
        return torch.cat((value + beta, value - beta))
    if name.endswith("mlp.c_proj.weight"):
        return torch.cat((value, -value), 1) / (4 * beta)
    return value


def _largest_difference(ours, theirs, vocab_size: int) -> float:
    import torch

    idx = torch.randint(vocab_size, (4, ours.block_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = ours(idx).log_softmax(-1), theirs(idx).logits.log_softmax(-1)
        return float((a - b[..., :vocab_size]).abs().max())


# -- the model card -----------------------------------------------------------------------------------------------


def _results_of(checkpoint, saved: dict, results_dir) -> dict | None:
    """The results that were measured on this very checkpoint, if they are there."""
    path = storage.results_path(results_dir, saved["activation"])
    try:
        results = storage.read_results(path)
    except storage.StorageError:
        return None
    sha = storage.sha256_file(checkpoint)
    same = [t for t in results["trials"] if (t.get("checkpoint") or {}).get("sha256") == sha]
    return results if same else None


def model_card(saved: dict, results: dict | None) -> str:
    """README.md of an exported model, with what the results say of it."""
    return rendered(
        "model_card.txt",
        **{key: saved[key] for key in ("config", "trial", "vocab_size")},
        activation=activations.label(saved["activation"]),
        smelu=bool(_smelu_beta(saved["activation"])),
        seed=saved["record"].get("seed"),
        measured=_measured(saved["trial"], results),
    )


def _measured(trial: int, results: dict | None) -> dict[str, str]:
    if results is None:
        return {"loss, relative PD": "not measured"}
    mine = next(t for t in results["trials"] if t["trial_id"] == trial)
    pairs = [p for p in results["reproducibility_metrics"] if str(trial) in p["model_pair"].split("_vs_")]
    others = [p["relative_pd"] for p in pairs if number(p["relative_pd"]) is not None]
    rows = {"loss": f"{mine['val_loss']:.4f} nats/token" if number(mine["val_loss"]) is not None else "not known"}
    if others:
        rows[f"relative PD with the {len(others)} other trials, mean"] = f"{sum(others) / len(others):.4f}"
    if number(results["avg_relative_pd"]) is not None:
        rows[f"relative PD among all {len(results['trials'])} trials, mean"] = f"{results['avg_relative_pd']:.4f}"
    return rows


# -- the tokenizer ------------------------------------------------------------------------------------------------

NUL = "<|endoftext|>"  # how the byte 0, which no text has, is written in vocabularies of bytes
UNKNOWN = "[UNK]"  # more than one character: in no vocabulary of characters


def special_token(tokenizer) -> str | None:
    """What stands for padding, beginning, end and unknown characters; None where another's tokenizer has nothing."""
    record = tokenizer.to_dict()
    if record["name"] == "file":
        added = json.loads(record["tokenizer"]).get("added_tokens") or ()
        return next((token["content"] for token in added if token.get("special")), None)
    return UNKNOWN if record["name"] == "char" else NUL


def fast_tokenizer(tokenizer):
    """A tokenizer of this study as one of the `tokenizers` library, with the same ids."""
    import tokenizers as library
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    record = tokenizer.to_dict()
    if record["name"] == "file":
        return library.Tokenizer.from_str(record["tokenizer"])
    if record["name"] == "bpe":
        contents = json.loads(record["tokenizer"])
        vocabulary = contents["model"]["vocab"]
        vocabulary[NUL] = vocabulary.pop(bytes_to_unicode()[0])
        return library.Tokenizer.from_str(json.dumps(contents))
    if record["name"] == "byte":
        # the library writes bytes as printable characters; those that are printable stand for themselves
        vocabulary = {text: byte for byte, text in {**bytes_to_unicode(), 0: NUL}.items()}
        fast = library.Tokenizer(library.models.BPE(vocabulary, []))
        fast.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.decoder = library.decoders.ByteLevel()
        return fast
    vocabulary = {character: i for i, character in enumerate(record["characters"])}
    vocabulary[UNKNOWN] = len(vocabulary)
    fast = library.Tokenizer(library.models.WordLevel(vocabulary, unk_token=UNKNOWN))
    fast.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"[\s\S]"), "isolated")
    fast.decoder = library.decoders.Fuse()
    return fast


@streams.answers("export.py")
def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done, 1 it failed, 2 wrong input, 130 interrupted."""
    parser = Parser(prog="export.py", description="A trained GPT as a GPT-2 of the library transformers.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a finished trial: checkpoints/gelu/trial_1.pt")
    parser.add_argument("folder", metavar="FOLDER", help="where to write: a new folder")
    parser.add_argument("--results-dir", help="results for the model card (default: where the study put them)")
    args = parser.parse_args(argv)
    folder = export_to_huggingface(args.checkpoint, args.folder, args.results_dir)
    print(f'{folder}: load it with GPT2LMHeadModel.from_pretrained("{folder}")')
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main))
