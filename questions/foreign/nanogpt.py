"""Checkpoints of nanoGPT (karpathy/nanoGPT, train.py): `ckpt.pt` holds the weights, and `model_args` all that the
network needs. It is our own GPT (model.py) with GELU and, by default, biases, under the same names."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

import storage
from config import Config, UserError
from model import GPT
from questions.foreign.folders import Words, tokenizer_at
from questions.foreign.member import Member

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


class NanoGPT(Member):
    kind = "nanoGPT"

    def __post_init__(self):
        saved = self._read()
        self.arguments = saved["model_args"]
        if not all(isinstance(self.arguments.get(name), int) and self.arguments[name] > 0 for name in SIZES):
            raise UserError(f"{self.path}: a checkpoint of nanoGPT whose model_args lack one of {', '.join(SIZES)}")
        self.context, self.vocab_size = self.arguments["block_size"], self.arguments["vocab_size"]
        self.steps = saved.get("iter_num")
        self.settings = {name: self.arguments.get(name) for name in ("n_layer", "n_head", "n_embd", "bias")}
        self.dataset = (saved.get("config") or {}).get("dataset", "")

    def _read(self) -> dict:
        return torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)

    @cached_property
    def tokenizer(self):
        """That of a character dataset's meta.pkl, beside the checkpoint or named, or the one that is named."""
        path = Path(self.how.tokenizer or Path(self.path).parent / "meta.pkl")
        if path.suffix != ".pkl":
            return Words(tokenizer_at(path), self.path)
        if not path.is_file():
            raise UserError(
                f"{self.path}: nanoGPT keeps the tokenizer apart; name its data/{self.dataset or 'DATASET'}/meta.pkl, "
                f"or a tokenizer.json, with --tokenizer PATH"
            )
        return Characters(path, self.path)

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        weights = {name.removeprefix("_orig_mod."): w for name, w in self._read()["model"].items()}
        weights = {name: w for name, w in weights.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
        sizes = {name: self.arguments[name] for name in SIZES[:-1]}
        biased = bool(self.arguments.get("bias", True))
        config = Config(preset="smoke", device="cpu", precision="float32", dropout=0.0, bias=biased, **sizes)
        with torch.device("meta"):
            model = GPT(config, "gelu", self.vocab_size)
        expected = {f"transformer.{name}": weight.shape for name, weight in model.state_dict().items()}
        expected["lm_head.weight"] = expected["transformer.wte.weight"]
        wrong = sorted(expected.keys() ^ weights.keys())
        wrong += sorted(name for name in expected.keys() & weights.keys() if weights[name].shape != expected[name])
        if wrong:
            raise UserError(
                f"{self.path}: {len(wrong)} weights are not those of the model that its model_args describe: "
                f"{', '.join(wrong[:3])}"
            )
        if not torch.equal(weights.pop("lm_head.weight"), weights["transformer.wte.weight"]):
            raise UserError(f"{self.path}: its lm_head and wte differ; nanoGPT has one weight for both")
        model.load_state_dict({name.removeprefix("transformer."): w for name, w in weights.items()}, assign=True)
        return self.placed(model)


class Characters:
    """The table of a character dataset, from its meta.pkl; `of`: whose tokenizer it is, for messages."""

    def __init__(self, path: Path, of):
        self.of = of
        try:
            table = _Plain(io.BytesIO(path.read_bytes())).load()["stoi"]
            self.numbers = {character: int(number) for character, number in table.items()}
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{path}: not the meta.pkl of a character dataset of nanoGPT: {error}") from None
        self.characters = {number: character for character, number in self.numbers.items()}
        self.key = storage.sha256_json(sorted(self.numbers.items()))

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - self.numbers.keys())
        if unknown:
            raise UserError(f"{self.of}: its tokenizer doesn't have {', '.join(map(repr, unknown[:5]))} of the text")
        return [self.numbers[character] for character in text]

    def decode(self, tokens) -> str:
        return "".join(self.characters.get(int(token), "") for token in tokens)  # a vocabulary may be padded


class _Plain(pickle.Unpickler):
    """Numbers, texts and tables alone: a pickle that names anything else is refused, so nothing in it is run."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not run")
