"""Give a trained `gpt` to Hugging Face transformers: a folder that GPT2LMHeadModel and AutoTokenizer load.

    python tools/huggingface.py checkpoints/gelu/trial_1.pt my-model

    from transformers import AutoTokenizer, GPT2LMHeadModel
    model, tokenizer = GPT2LMHeadModel.from_pretrained("my-model"), AutoTokenizer.from_pretrained("my-model")

The logits are compared with ours before anything is written.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # run as a script: the project's folder, not this one, is where its modules are
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import activations
import storage
from config import Config, Parser, UserError
from tools import streams

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
TOLERANCE = 1e-4  # of the logits; what differs is the order of sums


def export_to_huggingface(checkpoint: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Write the model and the tokenizer of a finished trial to `folder`, in float32; returns the folder.

    Raises:
        UserError: transformers is not installed; there is no such file; the model isn't a `gpt`, or its activation has
            no counterpart in transformers.
        StorageError: the checkpoint can't be read or holds no model, the disk refuses, or transformers does not give
            the same logits; then nothing is written.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"the export needs the package transformers (pip install transformers): {error}") from error
    from training import trial

    if not os.path.exists(checkpoint):
        raise UserError(f"{checkpoint}: no such file; trained models are in checkpoints/ACTIVATION/trial_K.pt")
    saved = storage.load_checkpoint(checkpoint)
    if saved.get("kind") == "trial":  # else load_trial says what it is
        config = Config.from_dict(saved["config"])
        if config.model != "gpt":
            raise UserError(f"{checkpoint}: its model is {config.model}; only gpt has a counterpart, GPT2LMHeadModel")
        their_activation(saved["activation"])
    model, tokenizer, _ = trial.load_trial(checkpoint)
    theirs = _gpt2(transformers, config, their_activation(saved["activation"]), model)
    difference = _largest_difference(model, theirs, tokenizer.vocab_size)
    if not difference <= TOLERANCE:
        raise storage.StorageError(
            f"{checkpoint}: not exported: transformers {transformers.__version__} gives logits that differ by "
            f"{difference:.2g}"
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast_tokenizer(tokenizer), clean_up_tokenization_spaces=False
    )
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as temporary:
        theirs.save_pretrained(temporary)
        fast.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            storage.write_bytes(folder / path.name, path.read_bytes())
    return folder


def their_activation(name: str) -> str:
    """The name in transformers of an activation. Raises UserError if there is none."""
    found = THEIR_NAMES.get(activations.canonical_name(name))
    if found is None:
        raise UserError(
            f"activation {name!r} has no counterpart in transformers' GPT-2, which has {', '.join(THEIR_NAMES)}"
        )
    return found


def _gpt2(transformers, config: Config, activation: str, model):
    """A GPT2LMHeadModel with the weights of our model; biases that ours does without are zero."""
    import torch

    V = model.wte.num_embeddings
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V,
            n_positions=config.block_size,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            activation_function=activation,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            layer_norm_epsilon=1e-5,
            tie_word_embeddings=True,
            bos_token_id=None,  # the study's vocabularies have no special tokens
            eos_token_id=None,
        )
    )
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in theirs.transformer.named_parameters():
            value = ours[name] if name in ours else torch.zeros_like(p)
            p.copy_(value.t() if name.endswith(TRANSPOSED) else value)
    return theirs.eval()


def _largest_difference(ours, theirs, vocab_size: int) -> float:
    import torch

    idx = torch.randint(vocab_size, (4, ours.block_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((ours(idx) - theirs(idx).logits).abs().max())


def fast_tokenizer(tokenizer):
    """A tokenizer of this study as one of the `tokenizers` library, with the same ids."""
    import tokenizers as library

    record = tokenizer.to_dict()
    if record["name"] == "bpe":
        return library.Tokenizer.from_str(record["tokenizer"])
    if record["name"] == "byte":
        # the library writes bytes as printable characters; those that are printable stand for themselves
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        fast = library.Tokenizer(library.models.BPE({text: byte for byte, text in bytes_to_unicode().items()}, []))
        fast.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.decoder = library.decoders.ByteLevel()
        return fast
    vocabulary = {character: i for i, character in enumerate(record["characters"])}
    unknown = "[UNK]" if record["unknown"] else None  # more than one character: never in the vocabulary
    if unknown:
        vocabulary[unknown] = len(vocabulary)
    fast = library.Tokenizer(library.models.WordLevel(vocabulary, **({"unk_token": unknown} if unknown else {})))
    fast.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"[\s\S]"), "isolated")
    fast.decoder = library.decoders.Fuse()
    return fast


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 done, 1 it failed, 2 wrong input, 130 interrupted."""
    parser = Parser(prog="huggingface.py", description="A trained GPT as a GPT-2 of the library transformers.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a finished trial: checkpoints/gelu/trial_1.pt")
    parser.add_argument("folder", metavar="FOLDER", help="where to write; files of the same names are replaced")
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a folder of megabytes is written at once
    try:
        folder = export_to_huggingface(args.checkpoint, args.folder)
    except UserError as error:
        print(f"huggingface.py: {error}", file=sys.stderr)
        return 2
    except storage.StorageError as error:
        print(f"huggingface.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("huggingface.py: interrupted", file=sys.stderr)
        return 130
    print(f'{folder}: load it with GPT2LMHeadModel.from_pretrained("{folder}")')
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main))
