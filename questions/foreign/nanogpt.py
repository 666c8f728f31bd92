"""Checkpoints of nanoGPT (karpathy/nanoGPT, train.py): `ckpt.pt` holds the weights, and `model_args` all that the
network needs: GPT-2 with layer norm before each part, exact GELU, tied embeddings, biases or none."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import storage
from config import UserError
from questions.foreign.folders import tokenizer_at
from questions.foreign.member import Member, describe_weights

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


class NanoGPT(Member):
    kind = "nanoGPT"

    def __post_init__(self):
        saved = self._read()
        self.arguments = saved["model_args"]
        if not all(isinstance(self.arguments.get(name), int) and self.arguments[name] > 0 for name in SIZES):
            raise UserError(f"{self.path}: a checkpoint of nanoGPT whose model_args lack one of {', '.join(SIZES)}")
        self.context, self.vocab_size = self.arguments["block_size"], self.arguments["vocab_size"]
        self.iterations = saved.get("iter_num")
        self.dataset = (saved.get("config") or {}).get("dataset", "")

    def _read(self) -> dict:
        return torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)

    @property
    def steps(self) -> int | None:
        return self.iterations

    @property
    def settings(self) -> dict:
        return {name: self.arguments.get(name) for name in ("n_layer", "n_head", "n_embd", "bias")}

    # its text

    @cached_property
    def _characters(self) -> dict[str, int] | None:
        """The table of a character dataset's meta.pkl, beside the checkpoint or named; None for another tokenizer."""
        named = Path(self.opening.tokenizer or Path(self.path).parent / "meta.pkl")
        if named.suffix != ".pkl":
            return None
        if not named.is_file():
            raise UserError(
                f"{self.path}: nanoGPT keeps the tokenizer apart; name its data/{self.dataset or 'DATASET'}/meta.pkl, "
                f"or a tokenizer.json, with --tokenizer PATH"
            )
        try:
            table = _Plain(io.BytesIO(named.read_bytes())).load()["stoi"]
            return {character: int(number) for character, number in table.items()}
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{named}: not the meta.pkl of a character dataset of nanoGPT: {error}") from None

    @cached_property
    def _tokenizer(self):
        return tokenizer_at(self.opening.tokenizer)

    @cached_property
    def tokenizer_key(self) -> str:
        table = self._characters
        return storage.sha256_json(sorted(table.items()) if table else str(Path(self.opening.tokenizer).resolve()))

    def encode(self, text: str) -> np.ndarray:
        if self._characters is None:
            return np.asarray(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
        unknown = sorted(set(text) - self._characters.keys())
        if unknown:
            raise UserError(f"{self.path}: its tokenizer doesn't have {', '.join(map(repr, unknown[:5]))} of the text")
        return np.array([self._characters[character] for character in text], np.int64)

    def decode(self, tokens: np.ndarray) -> str:
        if self._characters is None:
            return self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        characters = {number: character for character, number in self._characters.items()}
        return "".join(characters[int(token)] for token in tokens)

    # its network

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Tokens (B, T) -> logits (B, T, V)."""
        weights = {name.removeprefix("_orig_mod."): w for name, w in self._read()["model"].items()}
        weights = {name: w for name, w in weights.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
        expected = _shapes(self.arguments)
        wrong = sorted(expected.keys() ^ weights.keys())
        wrong += sorted(n for n in expected.keys() & weights.keys() if tuple(weights[n].shape) != expected[n])
        if wrong:
            raise UserError(
                f"{self.path}: {len(wrong)} weights are not those of the model that its model_args describe: "
                f"{', '.join(wrong[:3])}"
            )
        if not torch.equal(weights["lm_head.weight"], weights["transformer.wte.weight"]):
            raise UserError(f"{self.path}: its lm_head and wte differ; nanoGPT has one weight for both")
        if self.weights is None:
            named = ((n, w) for n, w in weights.items() if n != "lm_head.weight")
            self.weights = describe_weights(named, self.path)
        dtype = getattr(torch, self.opening.dtype)
        weights = {name: w.to(self.opening.device, dtype) for name, w in weights.items()}
        return lambda idx: _logits(weights, self.arguments["n_layer"], self.arguments["n_head"], idx)


def _shapes(arguments: dict) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight."""
    V, T, C = (arguments[name] for name in ("vocab_size", "block_size", "n_embd"))
    layers = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    layers |= {"ln_1": (C,), "ln_2": (C,)}
    parts = {f"transformer.h.{k}.{name}": shape for k in range(arguments["n_layer"]) for name, shape in layers.items()}
    parts["transformer.ln_f"] = (C,)
    biases = {f"{name}.bias": shape[:1] for name, shape in parts.items()} if arguments.get("bias", True) else {}
    tables = {"transformer.wte.weight": (V, C), "transformer.wpe.weight": (T, C), "lm_head.weight": (V, C)}
    return {**{f"{name}.weight": shape for name, shape in parts.items()}, **biases, **tables}


def _logits(weights: dict[str, torch.Tensor], layers: int, heads: int, idx: torch.Tensor) -> torch.Tensor:
    """(B, T, V) for tokens (B, T)."""
    B, T = idx.shape

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights.get(f"{name}.bias"), 1e-5)

    x = weights["transformer.wte.weight"][idx] + weights["transformer.wpe.weight"][:T]
    for k in range(layers):
        block = f"transformer.h.{k}"
        q, key, v = linear(f"{block}.attn.c_attn", norm(f"{block}.ln_1", x)).chunk(3, -1)
        q, key, v = (part.view(B, T, heads, -1).transpose(1, 2) for part in (q, key, v))
        y = F.scaled_dot_product_attention(q, key, v, is_causal=True).transpose(1, 2).reshape(B, T, -1)
        x = x + linear(f"{block}.attn.c_proj", y)
        x = x + linear(f"{block}.mlp.c_proj", F.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))))
    return linear("lm_head", norm("transformer.ln_f", x))


class _Plain(pickle.Unpickler):
    """Numbers, texts and tables alone: a pickle that names anything else is refused, so nothing in it is run."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not run")
